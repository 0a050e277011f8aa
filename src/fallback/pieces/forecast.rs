//! What would be computed in pieces, and what it would keep if it ran as it is. DuckDB plans and looks at statistics, no
//! more: whoever asks has not decided yet.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::asking::{node_of, plan_of};
use super::described::Described;
use super::parse::{Parsed, refuse_objects};
use super::proof::Verify;
use super::sizes::{kept_bytes, pairs, rounded};
use super::{Asks, Fault, Options, Run, why_not};
use crate::engine::text::{query_of, quoted_name};
use crate::fallback::decompose::functions::State;
use crate::fallback::decompose::{Cut, Kept, Target, Want, Way, WhyNot, cut, targets, whole};
use crate::fallback::risk::{is_too_much, pieces, state_bytes};
use crate::settings::Feed;
use crate::units::Bytes;

/// What of it would be cut.
///
/// # Errors
/// Why nothing.
pub fn look(parsed: &Parsed, want: Want) -> Result<Vec<Target>, WhyNot> {
    targets(&parsed.tree, &parsed.functions, want)
}

/// Whether DuckDB's plan of `sql` says at once that it fits, whatever its aggregates keep. Anything unclear says no.
pub fn surely_fits(asks: &mut dyn Asks, sql: &str, limit: Bytes) -> bool {
    let Some(query) = query_of(sql).map(|range| &sql[range]) else {
        return false;
    };
    // A plan wants the values of parameters.
    if query.contains(['?', '$']) {
        return false;
    }
    let plan = plan_of(asks, query).ok().flatten();
    plan.and_then(|plan| plan.at_most())
        .is_some_and(|bytes| !is_too_much(bytes, limit))
}

/// The memory that the aggregates of `parsed` would keep if it ran as it is, when that is more than `limit`.
///
/// # Errors
/// Why it cannot be told, or the engine's.
pub fn foresee(asks: &mut dyn Asks, parsed: &Arc<Parsed>, limit: Bytes) -> Result<Option<Bytes>, Fault> {
    let nobody = Options {
        want: Want::Kept,
        pieces: None,
        limit,
        in_transaction: true,
        number: 0,
        feed: Feed::Auto,
        disk: None,
        verify: Verify::Counts,
        by_piece: false,
    };
    let mut run = Run::new(asks, parsed, &nobody);
    run.foresee()
}

/// A query of a statement that would be computed beforehand, as DuckDB's plan estimates it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Its text, as DuckDB prints it, with the queries of views and the values of parameters in their places.
    pub sql: String,
    /// What it is cut by, as text; nothing when it is computed at once.
    pub keys: Vec<String>,
    /// Rows that go into it; that it gives, when it is computed at once.
    pub rows: Option<u64>,
    /// Groups it makes of them.
    pub groups: Option<u64>,
    /// Memory that it would keep, if it ran as it is.
    pub bytes: Option<Bytes>,
    /// Into how many pieces it would be cut at first; none when it is computed at once.
    pub pieces: Option<usize>,
}

/// What of `parsed` would be computed beforehand. Nothing of it is run: DuckDB only plans.
///
/// # Errors
/// Why it cannot be cut, or the engine's.
pub fn explain(asks: &mut dyn Asks, parsed: &Arc<Parsed>, options: &Options) -> Result<Vec<Forecast>, Fault> {
    refuse_objects(asks, parsed)?;
    let mut run = Run::new(asks, parsed, options);
    targets(&parsed.tree, &parsed.functions, options.want)?
        .iter()
        .map(|target| run.forecast(target))
        .collect()
}

impl Run<'_> {
    fn foresee(&mut self) -> Result<Option<Bytes>, Fault> {
        let mut most = Bytes(0);
        for target in targets(&self.parsed.tree, &self.parsed.functions, Want::Kept)? {
            if target.way != Way::Pieces {
                continue;
            }
            let columns = self.columns_below(&self.parsed.tree, &target.pointer)?;
            let cut = cut(
                &self.parsed.tree,
                &target.pointer,
                &self.parsed.functions,
                columns.as_ref(),
            )?;
            let known: Vec<&Kept> = cut
                .kept
                .iter()
                .filter(|kept| matches!(kept.state, State::Values | State::Text | State::Best))
                .collect();
            let named: Vec<String> = cut.kept.iter().map(|kept| kept.name.clone()).collect();
            let body = self.text(&cut.body)?;
            let Some((rows, groups)) = self.explain(&body)?.and_then(|plan| plan.into_aggregate(&named))
            else {
                continue;
            };
            let keeps = self.keeps(&known)?;
            let mut bytes = state_bytes(&keeps, rows, groups);
            for kept in cut.kept.iter().filter(|kept| kept.state == State::Distinct) {
                if let Some(values) = self.different(kept)? {
                    let keeps = self.keeps(&[kept])?;
                    bytes = bytes.plus(state_bytes(&keeps, pairs(values * groups, rows), groups));
                }
            }
            most = most.max(bytes);
        }
        Ok((most > self.options.limit).then_some(most))
    }

    /// What would be done for `target`. The queries below it stay where they are: their tables are not there yet.
    fn forecast(&mut self, target: &Target) -> Result<Forecast, Fault> {
        let tree = &self.parsed.tree;
        let Some(statement) = whole(tree, &target.pointer) else {
            return why_not("the query is not where it was");
        };
        let sql = self.text(&statement)?;
        if target.way == Way::Once {
            let rows = self.explain(&sql)?.and_then(|plan| plan.rows());
            return Ok(Forecast {
                sql,
                rows: rows.map(rounded),
                ..Forecast::default()
            });
        }
        let columns = self.columns_below(tree, &target.pointer)?;
        let written = cut(tree, &target.pointer, &self.parsed.functions, columns.as_ref())?;
        let cut = self.with_counts(tree, &target.pointer, columns.as_ref(), written.clone())?;
        let mut described = self.described(&cut)?;
        let chosen = self.choose(&cut, &mut described)?;
        let keys = self.key_texts(&written, &described, &chosen)?;
        let plan = self.explain(&described.text)?;
        let kept: Vec<&Kept> = cut.kept.iter().collect();
        let named: Vec<String> = kept.iter().map(|kept| kept.name.clone()).collect();
        let keeps = self.keeps(&kept)?;
        let estimated = plan.and_then(|plan| {
            let (rows, groups) = plan.into_aggregate(&named).or_else(|| plan.into_topmost())?;
            // Not every operator that groups has an estimate of its own.
            let groups = Some(groups)
                .filter(|groups| *groups > 0.0)
                .or_else(|| plan.rows())
                .map(|groups| groups.min(rows));
            Some((rows, groups))
        });
        let (rows, groups) = estimated.unzip();
        let bytes = rows.map(|rows| kept_bytes(&keeps, rows, groups.flatten().unwrap_or(rows)));
        Ok(Forecast {
            sql,
            keys,
            rows: rows.map(rounded),
            groups: groups.flatten().filter(|_| cut.rows.is_some()).map(rounded),
            bytes,
            pieces: Some(
                self.options
                    .pieces
                    .unwrap_or_else(|| bytes.map_or(1, |bytes| pieces(bytes, self.options.limit)).max(2)),
            ),
        })
    }

    /// The keys that were chosen, as they would be written.
    fn key_texts(
        &mut self,
        cut: &Cut,
        described: &Described,
        chosen: &[usize],
    ) -> Result<Vec<String>, Fault> {
        let Some(source) = &cut.source else {
            let names = chosen.iter().filter_map(|key| described.names.get(*key));
            return Ok(names.map(|name| quoted_name(name)).collect());
        };
        let bare = node_of(self.asks, "SELECT 1")?;
        let mut texts = Vec::new();
        for key in chosen {
            let mut statement = source.clone();
            let Some(key) = source.pointer(&format!("/statements/0/node/select_list/{key}")) else {
                continue;
            };
            statement["statements"][0]["node"] = bare.clone();
            statement["statements"][0]["node"]["select_list"] = Value::Array(vec![key.clone()]);
            let text = self.text(&statement)?;
            texts.push(text.strip_prefix("SELECT ").unwrap_or(&text).to_owned());
        }
        Ok(texts)
    }
}
