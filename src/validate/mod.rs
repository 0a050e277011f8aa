//! Is it the same data? [`compare`] takes two sources and lists every difference: rows, values, columns, keys.
//!
//! Both sides are read in one statement, so they are of one moment. What is the same is known after one pass over each, by counts
//! and by digests that do not depend on order; only a difference is looked for in others.

mod compare;
mod digest;
mod pieces;
mod sql;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::units::shortened;

pub use compare::{Options, compare};
pub use digest::digest;
pub use pieces::{Cut, PieceDigest, pieces};

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

/// What a comparison of two sources found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Validation {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// The left source, as it was named.
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
            findings,
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
        let verdict = if self.ok {
            "the same".to_owned()
        } else {
            counted(self.findings.len() as u64, "finding")
        };
        let mut lines = vec![
            ("verdict", verdict),
            (
                "left",
                format!("{}: {}", self.left, counted(self.left_rows, "row")),
            ),
            (
                "right",
                format!("{}: {}", self.right, counted(self.right_rows, "row")),
            ),
            ("compared", counted(self.columns.len() as u64, "column")),
        ];
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
        for (index, (name, value)) in self.lines().into_iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{name:<14} {value}")?;
        }
        Ok(())
    }
}
