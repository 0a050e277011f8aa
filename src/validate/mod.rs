//! Is it the same data? [`compare`] takes two sources and lists every difference: rows, values, columns, keys. [`check()`] asks
//! more, of one source or of pieces: keys, gaps, references.
//!
//! Both sides are read in one statement, so they are of one moment. What is the same is known after one pass over each, by counts
//! and by digests that do not depend on order; only a difference is looked for in others.

mod check;
mod compare;
mod deduplicate;
mod digest;
mod gaps;
mod keys;
mod located;
mod piece_set;
mod pieces;
mod references;
mod sql;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::units::shortened;

pub use check::{Checks, check};
pub use compare::{Options, compare};
pub use deduplicate::{
    DROP_NOTED, Deduplicated, Deduplication, Doubled, deduplicate, forget, places, put_back, restore,
    transaction,
};
pub use digest::digest;
pub use gaps::Gaps;
pub use keys::Overlap;
pub use piece_set::{Kept, PIECE, Piece, PieceSet, Planned};
pub use pieces::{Digests, Layout, PieceDigest, Pieces, Whole, pieces};
pub use references::Reference;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// The right side lacks a column.
    MissingColumn,
    /// The right side has one more.
    ExtraColumn,
    /// A column has another type.
    ColumnType,
    /// There are more rows, or fewer.
    RowCount,
    /// Rows of the left side are not on the right; with a key, no row of that key is.
    MissingRows,
    /// Rows of the right side are not on the left.
    ExtraRows,
    /// Rows that are on both sides are there more often on the right.
    DoubledRows,
    /// Values of a column are others.
    ChangedValues,
    /// A column has more NULLs, or fewer.
    Nulls,
    /// Smallest or largest value of a column are others.
    Distribution,
    /// The key is not a key: several rows have it.
    DuplicateKeys,
    /// Rows have no key: a NULL is in it.
    NullKeys,
    /// Two pieces have keys in common.
    Overlap,
    /// A sequence lacks steps.
    Gap,
    /// Rows refer to a key that is not there.
    MissingParents,
    /// A piece has other rows than it should.
    PieceRows,
    /// A file of a piece is not there.
    MissingFile,
    /// A file is there that belongs to no piece.
    ExtraFile,
    /// A file of a piece has another size, or other bytes.
    ChangedFile,
    /// A table of a piece is not there.
    MissingTable,
    /// A table is there that could be one of a piece, and is none.
    ExtraTable,
    /// A table of a piece has other columns, or other rows.
    ChangedTable,
}

/// A row as an example: the values of its columns as text, NULL as none, in the order of the columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example(pub Vec<(String, Option<String>)>);

impl Serialize for Example {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// The column it is about, if it is about one.
    pub column: Option<String>,
    /// The piece it is about, if it is about one.
    pub piece: Option<String>,
    /// How many rows it is about, where that is known.
    pub rows: Option<u64>,
    /// What was found, for people.
    pub message: String,
    /// Some of the rows. Of changed values the key, `left` and `right`.
    pub examples: Vec<Example>,
}

/// One column of both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its name on the left.
    pub name: String,
    /// Its type on the left, as DuckDB prints it.
    pub left_type: String,
    /// Its type on the right.
    pub right_type: String,
    /// NULLs on the left.
    pub left_nulls: u64,
    /// NULLs on the right.
    pub right_nulls: u64,
    /// Whether both sides have the same values equally often, by digest.
    pub same: bool,
}

/// A piece as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PieceRows {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Of each column the NULLs in it.
    pub nulls: BTreeMap<String, u64>,
}

/// What a comparison of two sources found, or a look at one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Validation {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// The left source, as it was named; the same as the right one where that was looked at by itself.
    pub left: String,
    /// The right source.
    pub right: String,
    /// Rows on the left.
    pub left_rows: u64,
    /// Rows on the right.
    pub right_rows: u64,
    /// What identifies a row, if that was given.
    pub on: Vec<String>,
    /// The columns that both have.
    pub columns: Vec<Column>,
    /// 128 bits over all rows of the left side in these columns, as hexadecimal digits; independent of the order of rows. It is
    /// made of DuckDB's own hash, which another version of DuckDB may compute otherwise.
    pub left_digest: String,
    /// The same of the right side.
    pub right_digest: String,
    /// The pieces of the right side, if it is in pieces.
    pub pieces: Vec<PieceRows>,
    /// Pieces that have keys in common.
    pub overlaps: Vec<Overlap>,
    /// Everything that was found.
    pub findings: Vec<Finding>,
}

impl Validation {
    /// Of sources whose rows were not compared, because of what was found before.
    pub fn not_compared(left: &str, right: &str, findings: Vec<Finding>) -> Self {
        Validation {
            ok: findings.is_empty(),
            left: left.to_owned(),
            right: right.to_owned(),
            left_rows: 0,
            right_rows: 0,
            on: Vec::new(),
            columns: Vec::new(),
            left_digest: String::new(),
            right_digest: String::new(),
            pieces: Vec::new(),
            overlaps: Vec::new(),
            findings,
        }
    }

    /// Of what was looked at by itself.
    fn alone(set: &PieceSet, on: Vec<String>, pieces: Vec<PieceRows>, findings: Vec<Finding>) -> Self {
        let rows = pieces.iter().map(|piece| piece.rows).sum();
        Validation {
            left_rows: rows,
            right_rows: rows,
            on,
            pieces: if set.is_whole() { Vec::new() } else { pieces },
            ..Self::not_compared(set.name(), set.name(), findings)
        }
    }

    /// Whether one source was looked at by itself.
    fn is_alone(&self) -> bool {
        self.left == self.right && self.columns.is_empty()
    }

    /// What was found, in two words.
    pub fn verdict(&self) -> String {
        match self.findings.len() {
            0 if self.is_alone() => "nothing found".to_owned(),
            0 => "the same".to_owned(),
            many => counted(many as u64, "finding"),
        }
    }

    /// The first findings in one line.
    pub fn in_short(&self) -> String {
        let found: Vec<&str> = self
            .findings
            .iter()
            .map(|finding| finding.message.as_str())
            .collect();
        let more = found.len().saturating_sub(TOLD);
        let first = found[..found.len() - more].join("; ");
        if more > 0 {
            format!("{first}; and {more} more")
        } else {
            first
        }
    }

    /// Name and value of every line that people read.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let is_alone = self.is_alone();
        let side = |name: &String, rows| format!("{name}: {}", counted(rows, "row"));
        let mut lines = vec![("verdict", self.verdict())];
        if is_alone {
            lines.push(("checked", side(&self.left, self.left_rows)));
        } else {
            lines.push(("left", side(&self.left, self.left_rows)));
            lines.push(("right", side(&self.right, self.right_rows)));
            lines.push(("compared", counted(self.columns.len() as u64, "column")));
        }
        if !self.pieces.is_empty() {
            lines.push(("pieces", self.pieces.len().to_string()));
        }
        if !self.on.is_empty() {
            lines.push(("key", self.on.join(", ")));
        }
        for finding in &self.findings {
            lines.push(("finding", finding.message.clone()));
            lines.extend(
                finding
                    .examples
                    .iter()
                    .take(SHOWN)
                    .map(|row| ("", example_text(row))),
            );
        }
        lines
    }
}

/// A number and what it counts.
fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Findings that one line tells.
const TOLD: usize = 6;
/// Examples that the text shows; the data has all of them.
const SHOWN: usize = 3;
/// Characters of a value that the text shows.
const WIDTH: usize = 40;

fn example_text(row: &Example) -> String {
    let cells: Vec<String> = row
        .0
        .iter()
        .map(|(name, value)| format!("{}={}", shown(name), shown(value.as_deref().unwrap_or("NULL"))))
        .collect();
    format!("  e.g. {}", cells.join("  "))
}

/// A value as a line shows it.
fn shown(value: &str) -> String {
    shortened(value, WIDTH)
}

impl fmt::Display for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lines(f, self.lines())
    }
}

/// A report for people: a line for each name and value.
fn write_lines(f: &mut fmt::Formatter<'_>, lines: Vec<(&'static str, String)>) -> fmt::Result {
    for (index, (name, value)) in lines.into_iter().enumerate() {
        if index > 0 {
            f.write_str("\n")?;
        }
        write!(f, "{name:<14} {value}")?;
    }
    Ok(())
}
