//! A table in pieces against the table: the same rows, and each in its piece, in one statement.
//!
//! Which piece a row of the source belongs to is not asked. Where the pieces together have its rows, and each row lies where it
//! belongs, every piece has what it should; and rows that lie in pieces are told apart at less cost than rows in any order.

use std::fmt;

use super::compare::{Options, Placed, Totals, compare, totals_of, verdict};
use super::sql::{self, Shared};
use super::{Finding, FindingKind, Validation};
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::engine::text::quoted_name;
use crate::error::{Error, Result};

/// The rows of a source, before they are in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// The rows.
    pub source: &'a Source,
    /// Its columns: name and type.
    pub columns: &'a [(String, String)],
}

/// Which rows belong into which piece.
pub trait Layout: fmt::Debug {
    /// Whether the columns of a row say which piece it belongs to; otherwise that is known of the whole only.
    fn is_said_by_rows(&self) -> bool;

    /// A relation with one column more, [`PIECE`](super::PIECE): the number of the piece that each row belongs to.
    fn numbered(&self, relation: &str) -> String;

    /// What a piece is called.
    fn name(&self, piece: usize) -> String;
}

impl<L: Layout + ?Sized> Layout for &L {
    fn is_said_by_rows(&self) -> bool {
        (**self).is_said_by_rows()
    }

    fn numbered(&self, relation: &str) -> String {
        (**self).numbered(relation)
    }

    fn name(&self, piece: usize) -> String {
        (**self).name(piece)
    }
}

/// Rows that lie in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Pieces<'a> {
    /// The rows, and the number of the piece that each lies in.
    pub source: &'a Source,
    /// Its columns without that number, in the order of the whole.
    pub columns: &'a [(String, String)],
    /// The column that has the number.
    pub at: &'a str,
    /// Where they belong.
    pub layout: &'a dyn Layout,
    /// The column that the layout adds.
    pub piece: &'a str,
}

/// A piece as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceDigest {
    /// Its rows.
    pub rows: u64,
    /// 128 bits over its rows, as hexadecimal digits.
    pub digest: String,
    /// The NULLs in each column, in order.
    pub nulls: Vec<u64>,
}

/// The pieces that have rows, in order.
pub type Digests = Vec<(usize, PieceDigest)>;

/// Compares `pieces` with `whole`. The pieces that have rows, in order, and everything that was found.
///
/// # Errors
/// Those of whoever is asked.
pub fn pieces<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    whole: Whole<'_>,
    pieces: &Pieces<'_>,
) -> Result<(Digests, Validation), E> {
    let shared: Vec<Shared> = whole
        .columns
        .iter()
        .zip(pieces.columns)
        .map(|((left, left_type), (right, right_type))| Shared {
            left: left.clone(),
            right: right.clone(),
            left_type: left_type.clone(),
            right_type: right_type.clone(),
        })
        .collect();
    let count = shared.len();
    if !pieces.layout.is_said_by_rows() {
        let (all, totals, findings) = by_piece(ask, whole, pieces, &shared)?;
        if findings.is_empty() && totals[0] == totals[1] {
            let sources = [whole.source, pieces.source];
            return Ok((all, verdict(sources, Vec::new(), &shared, &totals, findings)));
        }
        return Ok((all, located(ask, whole, pieces, findings)?));
    }
    let lying = Source {
        name: pieces.source.name.clone(),
        relation: pieces.layout.numbered(&pieces.source.relation),
    };
    let both = sql::both_placed(whole.source, &lying, pieces.at, pieces.piece, &shared);
    let placed = Placed::read(&ask.ask(&sql::totals_placed(&both, count))?, count)?;
    let all = placed
        .pieces
        .iter()
        .map(|(piece, totals)| (*piece, totals.of_piece()))
        .collect();
    if placed.is_whole() {
        let sources = [whole.source, pieces.source];
        return Ok((
            all,
            verdict(sources, Vec::new(), &shared, &placed.all, Vec::new()),
        ));
    }
    let (_, _, findings) = by_piece(ask, whole, pieces, &shared)?;
    Ok((all, located(ask, whole, pieces, findings)?))
}

/// What differs, without regard to pieces, after what was found of those.
fn located<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    whole: Whole<'_>,
    pieces: &Pieces<'_>,
    mut findings: Vec<Finding>,
) -> Result<Validation, E> {
    let written = Source {
        name: pieces.source.name.clone(),
        relation: format!(
            "(SELECT {} FROM {})",
            names(pieces.columns),
            pieces.source.relation
        ),
    };
    let mut validation = compare(ask, whole.source, &written, &Options::default())?;
    findings.append(&mut validation.findings);
    if findings.is_empty() {
        // They differed a moment ago.
        let message = format!("{} changes while it is read", whole.source.name);
        findings.push(finding(None, None, message));
    }
    validation.ok = false;
    validation.findings = findings;
    Ok(validation)
}

/// The pieces that have rows, the rows of both sides, and the pieces that have other rows than they should.
fn by_piece<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    whole: Whole<'_>,
    pieces: &Pieces<'_>,
    shared: &[Shared],
) -> Result<(Digests, [Totals; 2], Vec<Finding>), E> {
    let belonging = Source {
        name: whole.source.name.clone(),
        relation: pieces.layout.numbered(&whole.source.relation),
    };
    let lying = Source {
        name: pieces.source.name.clone(),
        relation: format!(
            "(SELECT {}, {} AS {} FROM {})",
            names(pieces.columns),
            pieces.at,
            pieces.piece,
            pieces.source.relation
        ),
    };
    let both = sql::both_by_piece(&belonging, &lying, pieces.piece, shared);
    let rows = ask.ask(&sql::totals_by_piece(&both, shared.len()))?;
    let found = totals_of(&rows, shared.len())?;
    let mut findings = Vec::new();
    let mut all = Vec::new();
    for (piece, [should, is]) in found.pieces {
        if is.rows > 0 {
            all.push((piece, is.of_piece()));
        }
        if should == is {
            continue;
        }
        let piece = pieces.layout.name(piece);
        let message = if should.rows == is.rows {
            format!("piece {piece} has other rows than it should")
        } else {
            format!(
                "piece {piece} has {} rows and should have {}",
                is.rows, should.rows
            )
        };
        let rows = should.rows.abs_diff(is.rows);
        findings.push(finding(Some(piece), Some(rows).filter(|rows| *rows > 0), message));
    }
    Ok((all, found.all, findings))
}

fn finding(piece: Option<String>, rows: Option<u64>, message: String) -> Finding {
    Finding {
        kind: FindingKind::PieceRows,
        column: None,
        piece,
        rows,
        message,
        examples: Vec::new(),
    }
}

fn names(columns: &[(String, String)]) -> String {
    let names: Vec<String> = columns.iter().map(|(name, _)| quoted_name(name)).collect();
    names.join(", ")
}
