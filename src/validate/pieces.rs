//! A table in pieces against the table: of each piece its rows and digests, on both sides, in one statement.

use super::compare::{Options, compare, totals_of, verdict};
use super::sql::{self, Shared};
use super::{Finding, FindingKind, Validation};
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::engine::text::quoted_name;
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

/// A piece as it is on the right side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PieceDigest {
    /// Its rows.
    pub rows: u64,
    /// 128 bits over its rows, as hexadecimal digits.
    pub digest: String,
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
            rows: of_right.rows,
            digest: of_right.digest(),
        };
        all.push((*piece, digest));
    }
    if !findings.is_empty() {
        // Which rows: without the pieces, over the whole.
        let names: Vec<String> = right.columns.iter().map(|(name, _)| quoted_name(name)).collect();
        let written = Source {
            name: right.source.name.clone(),
            relation: format!("(SELECT {} FROM {})", names.join(", "), right.source.relation),
        };
        findings.extend(compare(ask, left.source, &written, &Options::default())?.findings);
    }
    let validation = verdict(
        [left.source, right.source],
        Vec::new(),
        &shared,
        &found.all,
        findings,
    );
    Ok((all, validation))
}
