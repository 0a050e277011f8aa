//! A cut once DuckDB has described it: its columns, the text of a piece, and the keys to cut by, which its plan decides.

use super::asking::{NO_TYPE, node_of};
use super::ranges::{Range, SIXTEENTH};
use super::{Fault, Run, numbered, why_not};
use crate::fallback::decompose::{Cut, KEY, filtered};
use crate::fallback::risk::Reach;

/// What is known of a cut once DuckDB has described it.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) text: String,
    pub(super) names: Vec<String>,
    pub(super) types: Vec<String>,
    /// All columns of a piece, visible and hidden.
    pub(super) columns: Vec<String>,
    pub(super) keys: Vec<String>,
    /// The query with the cut in its WHERE, between [`LOW`] and [`HIGH`], where DuckDB does not move it down to all of it.
    pub(super) inside: Option<String>,
}

impl Described {
    /// The piece of that range.
    pub(super) fn select(&self, items: &str, list: &str, range: Range) -> String {
        match &self.inside {
            Some(text) => format!(
                "SELECT {items} FROM ({}) AS duckward_q({list})",
                put_range(text, range)
            ),
            None => format!(
                "SELECT {items} FROM ({}) AS duckward_q({list}) WHERE hash({}) BETWEEN {}::UBIGINT AND {}::UBIGINT",
                self.text,
                self.keys.join(", "),
                range.low,
                range.high
            ),
        }
    }
}

/// Stand for the ends of a range.
const LOW: &str = "'duckward_low'";
const HIGH: &str = "'duckward_high'";

fn put_range(text: &str, range: Range) -> String {
    text.replace(LOW, &format!("'{}'", range.low))
        .replace(HIGH, &format!("'{}'", range.high))
}

impl Run<'_> {
    pub(super) fn described(&mut self, cut: &Cut) -> Result<Described, Fault> {
        let text = self.text(&cut.body)?;
        let mut names = self.describe(&text)?;
        let Some(visible) = names.len().checked_sub(cut.hidden) else {
            return why_not("DuckDB describes it with fewer columns than it has");
        };
        names.truncate(visible);
        let mut types = self.storable(&text)?;
        for index in &cut.nulls {
            if let Some(kind) = types.get_mut(*index) {
                NO_TYPE.clone_into(kind);
            }
        }
        let mut columns = numbered("duckward_c", visible);
        columns.extend(numbered("duckward_h", cut.hidden));
        let keys = if cut.keys.is_empty() {
            numbered("duckward_c", visible)
        } else {
            cut.keys.iter().map(|key| key.name()).collect()
        };
        Ok(Described {
            text,
            names,
            types,
            columns,
            keys,
            inside: None,
        })
    }

    /// The keys to cut by: all of them, or the one that cuts deepest. Which, as numbers of columns of the source.
    pub(super) fn choose(&mut self, cut: &Cut, described: &mut Described) -> Result<Vec<usize>, Fault> {
        let all: Vec<usize> = (0..described.keys.len()).collect();
        let mut candidates = vec![all.clone()];
        if cut.keys.len() > 1 {
            candidates.extend(all.iter().map(|key| vec![*key]));
        }
        let list = described.columns.join(", ");
        let every = described.keys.clone();
        let mut best: Option<(f64, Vec<usize>, Option<String>)> = None;
        for candidate in candidates {
            if best.is_some() && cut.is_of_rows() {
                break;
            }
            described.keys = candidate.iter().map(|key| every[*key].clone()).collect();
            described.inside = None;
            let Some(mut plan) = self.explain(&described.select(&list, &list, SIXTEENTH))? else {
                continue;
            };
            let reach = plan.reach("hash(");
            if reach == Reach::Above {
                continue;
            }
            if reach == Reach::Some
                && let Some(text) = self.inside(cut, &candidate)?
            {
                described.inside = Some(text);
                match self.explain(&described.select(&list, &list, SIXTEENTH))? {
                    Some(found) if found.reach("hash(") == Reach::All => plan = found,
                    // The others are of a query beside it, whose rows are not those that are cut.
                    _ => described.inside = None,
                }
            }
            let cost = plan.cost();
            // Fewer keys make fewer, larger groups of them, so it must be worth it.
            if best.as_ref().is_none_or(|(least, ..)| cost < least * 0.8) {
                best = Some((cost, candidate, described.inside.take()));
            }
        }
        let Some((_, chosen, inside)) = best else {
            return why_not("DuckDB's plan does the cut only after the aggregate");
        };
        described.keys = chosen.iter().map(|key| every[*key].clone()).collect();
        described.inside = inside;
        Ok(chosen)
    }

    /// The query with the cut in its WHERE. Only where DuckDB moved it below some aggregate: then nothing in it can fail that
    /// would not have failed, and the keys are compared as they are.
    fn inside(&mut self, cut: &Cut, chosen: &[usize]) -> Result<Option<String>, Fault> {
        if cut.rows.is_none() {
            return Ok(None);
        }
        let keys: Vec<String> = chosen.iter().map(|key| format!("{KEY}{key}")).collect();
        let sql = format!(
            "SELECT hash({}) BETWEEN {LOW}::UBIGINT AND {HIGH}::UBIGINT",
            keys.join(", ")
        );
        let condition = node_of(self.asks, &sql)?["select_list"][0].take();
        match filtered(cut, &condition) {
            Some(statement) => self.text(&statement).map(Some),
            None => Ok(None),
        }
    }
}
