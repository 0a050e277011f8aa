//! A table in pieces against the table: of each piece its rows and digests, on both sides, in one statement.

use super::compare::{Options, compare, totals_of};
use super::sql::{self, Shared};
use super::{Column, Finding, FindingKind, Validation};
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::error::{Error, Result};

/// A source and the expression that says in which piece a row is.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// The rows.
    pub source: &'a Source,
    /// Its columns: name and type. Both sides have the same ones, in one order.
    pub columns: &'a [(String, String)],
    /// The number of a row's piece, as SQL.
    pub number: &'a str,
}

/// A piece on both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceDigest {
    /// Its rows on the left.
    pub left_rows: u64,
    /// Its rows on the right.
    pub right_rows: u64,
    /// 128 bits over its rows on the left, as hexadecimal digits.
    pub left_digest: String,
    /// The same on the right.
    pub right_digest: String,
}

/// Compares `right` with `left`, piece by piece; `name` says what a piece is called. The pieces that have rows, in order, and
/// everything that was found.
///
/// # Errors
/// Those of whoever is asked.
pub fn pieces<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    left: Cut<'_>,
    right: Cut<'_>,
    name: &dyn Fn(usize) -> String,
) -> Result<(Vec<(usize, PieceDigest)>, Validation), E> {
    let shared: Vec<Shared> = left
        .columns
        .iter()
        .zip(right.columns)
        .map(|((left, left_type), (right, right_type))| Shared {
            left: left.clone(),
            right: right.clone(),
            left_type: left_type.clone(),
            right_type: right_type.clone(),
        })
        .collect();
    let count = shared.len();
    let both = sql::both_by_piece((left.source, left.number), (right.source, right.number), &shared);
    let rows = ask.ask(&sql::totals_by_piece(&both, count))?;
    let found = totals_of(&rows, count)?;
    let mut findings = Vec::new();
    let mut all = Vec::new();
    for (piece, [of_left, of_right]) in &found.pieces {
        if of_left != of_right {
            let piece = name(*piece);
            let message = if of_left.rows == of_right.rows {
                format!("piece {piece} has other rows than it should")
            } else {
                format!(
                    "piece {piece} has {} rows and should have {}",
                    of_right.rows, of_left.rows
                )
            };
            findings.push(Finding {
                kind: FindingKind::PieceRows,
                column: None,
                piece: Some(piece),
                rows: Some(of_left.rows.abs_diff(of_right.rows)).filter(|rows| *rows > 0),
                message,
                examples: Vec::new(),
            });
        }
        let digest = PieceDigest {
            left_rows: of_left.rows,
            right_rows: of_right.rows,
            left_digest: of_left.digest(),
            right_digest: of_right.digest(),
        };
        all.push((*piece, digest));
    }
    if !findings.is_empty() {
        // Which rows: without the pieces, over the whole.
        let names: Vec<String> = right
            .columns
            .iter()
            .map(|(name, _)| crate::engine::text::quoted_name(name))
            .collect();
        let written = Source {
            name: right.source.name.clone(),
            relation: format!("(SELECT {} FROM {})", names.join(", "), right.source.relation),
        };
        findings.extend(compare(ask, left.source, &written, &Options::default())?.findings);
    }
    let [of_left, of_right] = &found.all;
    let validation = Validation {
        ok: findings.is_empty(),
        left: left.source.name.clone(),
        right: right.source.name.clone(),
        left_rows: of_left.rows,
        right_rows: of_right.rows,
        on: Vec::new(),
        columns: shared
            .iter()
            .enumerate()
            .map(|(index, column)| Column {
                name: column.left.clone(),
                left_type: column.left_type.clone(),
                right_type: column.right_type.clone(),
                left_nulls: of_left.nulls(index),
                right_nulls: of_right.nulls(index),
                same: of_left.columns.get(index) == of_right.columns.get(index),
            })
            .collect(),
        left_digest: of_left.digest(),
        right_digest: of_right.digest(),
        findings,
    };
    Ok((all, validation))
}
