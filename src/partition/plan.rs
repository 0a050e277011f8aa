//! How a table is cut: pieces in order, of which every row is in exactly one. A plan is data; it can be kept and read again.
//!
//! A [`Cut`] sorts the rows by one column into numbered slots. A piece is one slot of each cut; where there are two cuts, the
//! first one's slots are the longer stretches. What a piece is goes by the conditions of its slots, which are written from
//! the plan and never read back: a plan that somebody has edited is refused.

mod balanced;
mod kept;
mod literal;
mod planner;
mod replan;
mod rule;

use serde::{Deserialize, Serialize};

pub use kept::kept_plan;
pub use planner::{Wish, plan};
pub use replan::{Next, replan};
pub use rule::{Cut, Rule};

use crate::engine::source::Source;
use crate::error::{Error, ErrorKind, Result};
use crate::units::Bytes;
use crate::validate::{Layout, PIECE};

/// The form in which plans are kept.
const VERSION: u32 = 1;
/// What DuckDB calls the number of a table's row.
const ROW_NUMBER: &str = "rowid";
/// The most pieces of a cut. So many files are written, proved and read in little memory; of more, what is done for each piece
/// takes longer than what is done with rows.
pub const MOST: usize = 10_000;

/// How a table is cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    version: u32,
    /// The table, files or query, as the user named it.
    pub source: String,
    /// Its columns when the plan was made: name and type.
    pub columns: Vec<(String, String)>,
    /// Its rows when the plan was made.
    pub rows: u64,
    /// By what it is cut, one after the other.
    pub cuts: Vec<Cut>,
    /// The pieces, in order. Together they have every row, and none is in two.
    pub pieces: Vec<Piece>,
    /// Values that are too frequent for pieces of like size, which no cut by value or range splits.
    pub heavy: Vec<Heavy>,
    /// What was asked for when it was made; none of one that was made of another plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wish: Option<Wish>,
}

/// A piece of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Its name: short, and another for each piece.
    pub name: String,
    /// What its rows fulfil, as SQL that means the same in every session.
    pub condition: String,
    /// Rows, counted when the plan was made.
    pub rows: u64,
    /// Bytes in memory, by the width of the first rows.
    pub bytes: Bytes,
}

/// A value that more rows have than a piece should.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heavy {
    /// The column.
    pub column: String,
    /// The value, as DuckDB prints it.
    pub value: String,
    /// Its share of the rows, from 0 to 1, by a sample.
    pub share: f64,
}

/// How alike in size pieces are; those without rows do not count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Balance {
    /// Pieces with rows.
    pub pieces: usize,
    /// Rows of the smallest.
    pub least: u64,
    /// Rows of the largest.
    pub most: u64,
    /// Rows of one, on the average.
    pub mean: f64,
    /// The standard deviation of that.
    pub deviation: f64,
    /// Deviation by mean: below 0.3 is good, above 0.5 is not.
    pub variation: f64,
}

impl Balance {
    /// Of pieces with so many rows.
    pub fn of(rows: impl Iterator<Item = u64>) -> Self {
        let rows: Vec<u64> = rows.filter(|rows| *rows > 0).collect();
        let count = rows.len().max(1) as f64;
        let mean = rows.iter().map(|rows| *rows as f64).sum::<f64>() / count;
        let square = rows.iter().map(|rows| (*rows as f64 - mean).powi(2)).sum::<f64>() / count;
        let deviation = square.sqrt();
        Balance {
            pieces: rows.len(),
            least: rows.iter().copied().min().unwrap_or(0),
            most: rows.iter().copied().max().unwrap_or(0),
            mean,
            deviation,
            variation: if mean > 0.0 { deviation / mean } else { 0.0 },
        }
    }

    /// That, in a word.
    pub fn verdict(&self) -> &'static str {
        if self.variation < 0.3 {
            "good"
        } else if self.variation <= 0.5 {
            "fair"
        } else {
            "poor"
        }
    }
}

impl Plan {
    /// A plan of these cuts, before anything is counted.
    pub(super) fn new(source: &Source, columns: Vec<(String, String)>, cuts: Vec<Cut>) -> Self {
        let mut plan = Plan {
            version: VERSION,
            source: source.name.clone(),
            columns,
            rows: 0,
            cuts,
            pieces: Vec::new(),
            heavy: Vec::new(),
            wish: None,
        };
        plan.pieces = plan.written();
        plan
    }

    /// How alike in size the pieces are.
    pub fn balance(&self) -> Balance {
        Balance::of(self.pieces.iter().map(|piece| piece.rows))
    }

    /// Bytes in memory, of all pieces.
    pub fn bytes(&self) -> Bytes {
        self.pieces
            .iter()
            .fold(Bytes(0), |sum, piece| sum.plus(piece.bytes))
    }

    /// What all rows of the pieces from one to another fulfil, and perhaps others; nothing where little is said by it.
    pub(super) fn stretch(&self, from: usize, to: usize) -> Option<String> {
        if self.is_by_row_number() {
            return None;
        }
        let (first, rest) = self.cuts.split_first()?;
        let each: usize = rest.iter().map(Cut::slots).product();
        first.stretch(from / each, (to - 1) / each)
    }

    /// The number of the piece that a row of the source is in, from 0, as an SQL expression over its columns. The same as
    /// asking each piece's condition, but decided by halves; of thousands of pieces it is long, and slow for rows in any order.
    pub fn number(&self) -> String {
        let mut number = String::new();
        for cut in &self.cuts {
            let slot = cut.number();
            number = if number.is_empty() {
                slot
            } else {
                format!("({number}) * {} + ({slot})", cut.slots())
            };
        }
        number
    }

    /// Whether it goes by the numbers that DuckDB gives to the rows of a table, which are no column.
    pub(in crate::partition) fn is_by_row_number(&self) -> bool {
        self.cuts.iter().any(|cut| cut.column == ROW_NUMBER)
            && !self
                .columns
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(ROW_NUMBER))
    }

    /// The plan as JSON, to be kept.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Reads what [`Plan::to_json`] gave.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is no plan, one of another version, or one that was edited.
    pub fn from_json(json: &str) -> Result<Self> {
        let no = |why: String| Error::new(ErrorKind::Invalid, format!("this is no plan: {why}"));
        let plan: Plan = serde_json::from_str(json).map_err(|error| no(error.to_string()))?;
        if plan.version != VERSION {
            return Err(no(format!(
                "it has version {}, and this duckward reads version {VERSION}; make it anew",
                plan.version
            )));
        }
        for cut in &plan.cuts {
            cut.check().map_err(no)?;
        }
        let count = plan.cuts.iter().map(Cut::slots).fold(1, usize::saturating_mul);
        if plan.cuts.is_empty() || count != plan.pieces.len() {
            return Err(no(format!(
                "its cuts make {count} pieces, and it names {}; make it anew",
                plan.pieces.len()
            )));
        }
        let edited = plan
            .written()
            .iter()
            .zip(&plan.pieces)
            .find(|(written, piece)| written.name != piece.name || written.condition != piece.condition)
            .map(|(written, _)| written.name.clone());
        match edited {
            None => Ok(plan),
            Some(name) => Err(no(format!(
                "piece {name} is not what its cuts say; make it anew instead of editing it"
            ))),
        }
    }

    /// Refuses a source whose columns are not those that the plan was made for.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with the first column that differs.
    pub fn check_columns(&self, columns: &[(String, String)]) -> Result<()> {
        let difference = self
            .columns
            .iter()
            .zip(columns)
            .find(|(planned, found)| planned != found)
            .map(|((name, kind), (found, found_kind))| {
                format!("it has {found} {found_kind} where the plan has {name} {kind}")
            })
            .or_else(|| {
                (self.columns.len() != columns.len()).then(|| {
                    format!(
                        "it has {} columns, the plan {}",
                        columns.len(),
                        self.columns.len()
                    )
                })
            });
        match difference {
            None => Ok(()),
            Some(what) => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the plan was made for another form of {}: {what}; make it anew",
                    self.source
                ),
            )),
        }
    }

    /// The pieces that the cuts make, without counts.
    fn written(&self) -> Vec<Piece> {
        let mut pieces: Vec<(String, String)> = Vec::new();
        for (index, cut) in self.cuts.iter().enumerate() {
            let slots: Vec<(String, String)> = (0..cut.slots())
                .map(|slot| (cut.name(slot), cut.condition(slot)))
                .collect();
            if index == 0 {
                pieces = slots;
                continue;
            }
            pieces = pieces
                .iter()
                .flat_map(|(name, condition)| {
                    slots.iter().map(move |(slot, also)| {
                        (format!("{name}/{slot}"), format!("{condition} AND {also}"))
                    })
                })
                .collect();
        }
        pieces
            .into_iter()
            .map(|(name, condition)| Piece {
                name,
                condition,
                rows: 0,
                bytes: Bytes(0),
            })
            .collect()
    }
}

impl Layout for Plan {
    fn is_said_by_rows(&self) -> bool {
        !self.is_by_row_number()
    }

    /// `relation`, which has the columns of the source, with the number of each row's piece, from 0, as the column [`PIECE`].
    fn numbered(&self, relation: &str) -> String {
        if !self.is_by_row_number() {
            return numbered(&self.cuts, relation);
        }
        // What is above a table sees its rows' numbers only as a column.
        let mut cuts = self.cuts.clone();
        for cut in cuts.iter_mut().filter(|cut| cut.column == ROW_NUMBER) {
            cut.column = "duckward_row".to_owned();
        }
        let with = format!("(SELECT *, {ROW_NUMBER} AS duckward_row FROM {relation})");
        format!(
            "(SELECT * EXCLUDE (duckward_row) FROM {})",
            numbered(&cuts, &with)
        )
    }

    fn name(&self, piece: usize) -> String {
        let planned = self.pieces.get(piece);
        planned.map_or_else(|| piece.to_string(), |planned| planned.name.clone())
    }
}

/// `relation` with the number of each row's piece, by these cuts.
fn numbered(cuts: &[Cut], relation: &str) -> String {
    if let [cut] = cuts {
        return cut.numbered(relation, PIECE);
    }
    let mut slots = relation.to_owned();
    let mut number = String::new();
    let mut names = Vec::new();
    for (index, cut) in cuts.iter().enumerate() {
        let name = format!("duckward_slot_{index}");
        slots = cut.numbered(&slots, &name);
        number = if number.is_empty() {
            name.clone()
        } else {
            format!("({number}) * {} + {name}", cut.slots())
        };
        names.push(name);
    }
    format!(
        "(SELECT * EXCLUDE ({}), {number} AS {PIECE} FROM {slots})",
        names.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan() -> Plan {
        let cut = |column: &str, rule| Cut {
            column: column.to_owned(),
            type_name: "INTEGER".to_owned(),
            rule,
        };
        let range = Rule::Range {
            bounds: vec!["3".to_owned(), "7".to_owned()],
        };
        let columns = vec![
            ("a".to_owned(), "INTEGER".to_owned()),
            ("b".to_owned(), "INTEGER".to_owned()),
        ];
        let cuts = vec![cut("a", range), cut("b", Rule::Hash { pieces: 2 })];
        Plan::new(&Source::parse("t").unwrap(), columns, cuts)
    }

    #[test]
    fn a_piece_is_one_slot_of_each_cut() {
        let plan = plan();
        assert_eq!(plan.pieces.len(), 4 * 3);
        assert_eq!(plan.pieces[0].name, "0/0");
        assert!(plan.pieces[0].condition.starts_with("\"a\" < '3'::INTEGER AND "));
        assert_eq!(plan.pieces[11].condition, "\"a\" IS NULL AND \"b\" IS NULL");
        let names: std::collections::BTreeSet<&str> =
            plan.pieces.iter().map(|piece| piece.name.as_str()).collect();
        assert_eq!(names.len(), plan.pieces.len());
    }

    #[test]
    fn a_value_without_a_name_is_a_condition_too() {
        let mut plan = plan();
        plan.cuts[0].rule = Rule::Value {
            values: vec![String::new()],
            slots: Vec::new(),
        };
        plan.cuts[0].type_name = "VARCHAR".to_owned();
        let first = &plan.written()[0];
        assert_eq!(first.name, "/0");
        assert!(
            first.condition.starts_with("\"a\" = '' AND "),
            "{}",
            first.condition
        );
    }

    #[test]
    fn a_plan_is_kept_and_an_edited_one_is_refused() {
        let plan = plan();
        assert_eq!(Plan::from_json(&plan.to_json()).unwrap(), plan);
        for (what, with, expected) in [
            ("< '3'", "< '4'", "piece 0/0 is not what its cuts say"),
            ("\"version\": 1", "\"version\": 9", "it has version 9"),
            (
                "\"pieces\": 2",
                "\"pieces\": 3",
                "its cuts make 16 pieces, and it names 12",
            ),
            (
                "\"pieces\": 2",
                "\"pieces\": 0",
                "a cut by hash makes 1 to 10000 pieces",
            ),
            ("{", "", "this is no plan"),
        ] {
            let edited = plan.to_json().replacen(what, with, 1);
            let error = Plan::from_json(&edited).unwrap_err();
            assert!(error.message().contains(expected), "{}", error.message());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_a_plan_as_it_was_written_or_an_error(
            place in 0usize..2000, remove in 0usize..3, insert in "[0-9a-z\"{}\\[\\],:.'= -]{0,3}"
        ) {
            let mut text: Vec<char> = plan().to_json().chars().collect();
            let place = place.min(text.len());
            let end = (place + remove).min(text.len());
            text.splice(place..end, insert.chars());
            if let Ok(read) = Plan::from_json(&text.into_iter().collect::<String>()) {
                let names = |plan: &Plan| -> Vec<(String, String)> {
                    plan.pieces.iter().map(|piece| (piece.name.clone(), piece.condition.clone())).collect()
                };
                prop_assert_eq!(names(&read), read.written().into_iter().map(|piece| (piece.name, piece.condition)).collect::<Vec<_>>());
                prop_assert_eq!(Plan::from_json(&read.to_json()).unwrap(), read);
            }
        }
    }

    #[test]
    fn a_source_of_another_form_is_refused() {
        let plan = plan();
        let mut columns = plan.columns.clone();
        assert!(plan.check_columns(&columns).is_ok());
        columns[1].1 = "BIGINT".to_owned();
        let error = plan.check_columns(&columns).unwrap_err();
        assert!(
            error
                .message()
                .contains("it has b BIGINT where the plan has b INTEGER")
        );
        let error = plan.check_columns(&columns[..1]).unwrap_err();
        assert!(error.message().contains("it has 1 columns, the plan 2"));
    }

    #[test]
    fn balance_is_of_the_pieces_with_rows() {
        let balance = Balance::of([10, 0, 10, 10].into_iter());
        assert_eq!((balance.pieces, balance.least, balance.most), (3, 10, 10));
        assert_eq!(balance.verdict(), "good");
        assert_eq!(Balance::of([1, 9].into_iter()).verdict(), "poor");
        let none = Balance::of(std::iter::empty());
        assert_eq!((none.pieces, none.variation.to_bits()), (0, 0f64.to_bits()));
    }
}
