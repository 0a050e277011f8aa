//! Is a key one, over all pieces at once? Rows are grouped by the key a single time; only where a key has several rows are these
//! grouped by piece, and keys of two pieces joined: never one query for each pair of pieces.
//!
//! As in a UNIQUE constraint, a row whose key has a NULL is like no other; such rows are a finding of their own.

use serde::Serialize;

use super::compare::unread;
use super::piece_set::Described;
use super::{Example, Finding, FindingKind, counted, shown};
use crate::engine::{Ask, Rows};
use crate::error::{Error, Result};

/// Two pieces that have keys in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// The earlier piece.
    pub piece: String,
    /// The later one.
    pub other: String,
    /// How many keys both have.
    pub keys: u64,
    /// Rows of the earlier piece with these keys.
    pub rows: u64,
    /// Rows of the later one.
    pub other_rows: u64,
}

/// Rows without a key, keys that several rows of a piece have, and keys that several pieces have.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a key that is no column of all pieces; those of whoever is asked.
pub(super) fn check<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    described: &Described<'_>,
    on: &[String],
    most: usize,
) -> Result<(Vec<Finding>, Vec<Overlap>), E> {
    let picked = described.pick("on", on)?;
    let names: Vec<String> = picked.iter().map(|column| column.name.clone()).collect();
    let rows = described.read(&picked, &[]);
    let looked = numbers(&ask.ask(&suspicious(&rows, names.len()))?)?;
    let (is_doubled, is_null) = (looked.first() != Some(&0), looked.get(1) != Some(&0));
    let mut findings = Vec::new();
    let mut overlaps = Vec::new();
    if is_null {
        let found = ask.ask(&without_key(&rows, names.len()))?;
        findings.extend(nulls_read(described, &names, &found)?);
    }
    if is_doubled {
        let found = ask.ask(&duplicates(&rows, names.len(), most))?;
        findings.extend(duplicates_read(described, &names, &found, most)?);
        if described.set.pieces().len() > 1 {
            let found = ask.ask(&common(&rows, names.len(), most))?;
            let (more, pairs) = common_read(described, &names, &found, most)?;
            findings.extend(more);
            overlaps = pairs;
        }
    }
    Ok((findings, overlaps))
}

fn list(count: usize, each: impl Fn(usize) -> String, between: &str) -> String {
    let all: Vec<String> = (0..count).map(each).collect();
    all.join(between)
}

fn keys(count: usize) -> String {
    list(count, |index| format!("k{index}"), ", ")
}

/// The condition of rows that have a key.
pub(super) fn has_key(count: usize) -> String {
    list(count, |index| format!("k{index} IS NOT NULL"), " AND ")
}

/// How many keys several rows have, and how many rows have no key.
fn suspicious(rows: &str, count: usize) -> String {
    let (keys, has_key) = (keys(count), has_key(count));
    format!(
        "SELECT count(*) FILTER (WHERE n > 1 AND {has_key})::VARCHAR, \
         coalesce(sum(n) FILTER (WHERE NOT ({has_key})), 0)::VARCHAR \
         FROM (SELECT {keys}, count(*) AS n FROM ({rows}) GROUP BY {keys})"
    )
}

/// Of each piece that has any how many rows have no key.
fn without_key(rows: &str, count: usize) -> String {
    format!(
        "SELECT p::VARCHAR, count(*)::VARCHAR FROM ({rows}) WHERE NOT ({}) GROUP BY p ORDER BY p",
        has_key(count)
    )
}

/// The keys that several rows have, with their rows in each piece, as a table that no table of the user's is called like.
fn several(rows: &str, count: usize) -> String {
    let (keys, has_key) = (keys(count), has_key(count));
    format!(
        "WITH duckward_keys AS MATERIALIZED (SELECT p, {keys}, count(*) AS n FROM ({rows}) AS a \
         SEMI JOIN (SELECT {keys} FROM ({rows}) WHERE {has_key} GROUP BY {keys} HAVING count(*) > 1) AS b USING ({keys}) \
         GROUP BY p, {keys})"
    )
}

/// Of each piece the keys that several of its rows have: how many, their rows, and for each of the least ones a row.
fn duplicates(rows: &str, count: usize, most: usize) -> String {
    let fields = list(count, |index| format!("'k{index}': k{index}"), ", ");
    let shown = list(count, |index| format!("u.k{index}::VARCHAR"), ", ");
    format!(
        "{} SELECT p::VARCHAR, m::VARCHAR, r::VARCHAR, {shown}, u.n::VARCHAR FROM (SELECT p, m, r, unnest(e) AS u FROM \
         (SELECT p, count(*) AS m, sum(n) AS r, min({{{fields}, 'n': n}}, {}) AS e FROM duckward_keys WHERE n > 1 GROUP BY p)) \
         ORDER BY p, u",
        several(rows, count),
        most.max(1)
    )
}

/// The same of each two pieces that have keys in common, with the rows of either.
fn common(rows: &str, count: usize, most: usize) -> String {
    let fields = list(count, |index| format!("'k{index}': k{index}"), ", ");
    let shown = list(count, |index| format!("u.k{index}::VARCHAR"), ", ");
    format!(
        "{} SELECT p::VARCHAR, q::VARCHAR, m::VARCHAR, r::VARCHAR, o::VARCHAR, {shown}, u.o::VARCHAR, u.n::VARCHAR FROM \
         (SELECT p, q, m, r, o, unnest(e) AS u FROM (SELECT a.p, b.p AS q, count(*) AS m, sum(a.n) AS r, sum(b.n) AS o, \
         min({{{fields}, 'n': a.n, 'o': b.n}}, {}) AS e FROM duckward_keys AS a JOIN duckward_keys AS b USING ({}) WHERE a.p < b.p \
         GROUP BY a.p, b.p)) ORDER BY p, q, u",
        several(rows, count),
        most.max(1),
        keys(count)
    )
}

/// The numbers that begin a row.
pub(super) fn leading<const N: usize>(row: &[Option<String>]) -> Result<[u64; N]> {
    let mut numbers = [0; N];
    for (index, number) in numbers.iter_mut().enumerate() {
        let cell = row.get(index).and_then(Option::as_deref);
        *number = cell.and_then(|text| text.parse().ok()).ok_or_else(unread)?;
    }
    Ok(numbers)
}

/// Numbers, and rows that begin with them.
type Group<'a, const N: usize> = ([u64; N], Vec<&'a [Option<String>]>);

/// Rows of which several in sequence begin with the same numbers, under these; the rest of each row is an example.
pub(super) fn grouped<const N: usize>(rows: &Rows) -> Result<Vec<Group<'_, N>>> {
    let mut groups: Vec<Group<'_, N>> = Vec::new();
    for row in rows {
        let numbers = leading::<N>(row)?;
        match groups.last_mut() {
            Some((before, examples)) if *before == numbers => examples.push(&row[N..]),
            _ => groups.push((numbers, vec![&row[N..]])),
        }
    }
    Ok(groups)
}

pub(super) fn example(names: &[String], others: &[&str], cells: &[Option<String>]) -> Example {
    let others = others.iter().map(|name| (*name).to_owned());
    Example(
        names
            .iter()
            .cloned()
            .chain(others)
            .zip(cells.iter().cloned())
            .collect(),
    )
}

/// What the cells of examples are called: the columns, then what follows them; and how many there are at most.
#[derive(Clone, Copy)]
pub(super) struct Examples<'a> {
    pub names: &'a [String],
    pub others: &'a [&'a str],
    pub most: usize,
}

/// A finding for each group of rows that begin with the same numbers; the rest of each row is an example. `say` makes of the
/// numbers the piece, how many rows it is about, and the message.
pub(super) fn findings<const N: usize>(
    described: &Described<'_>,
    kind: FindingKind,
    rows: &Rows,
    shown: Examples<'_>,
    say: impl Fn([u64; N]) -> (usize, u64, String),
) -> Result<Vec<Finding>> {
    let example = |cells| example(shown.names, shown.others, cells);
    let found = grouped(rows)?.into_iter().map(|(numbers, examples)| {
        let (piece, rows, message) = say(numbers);
        Finding {
            kind,
            column: None,
            piece: described.set.label(piece),
            rows: Some(rows),
            message,
            examples: examples.into_iter().take(shown.most).map(example).collect(),
        }
    });
    Ok(found.collect())
}

fn numbers(rows: &Rows) -> Result<Vec<u64>> {
    super::compare::numbers(rows)
}

/// " in piece x", or nothing for what is not in pieces.
pub(super) fn within(described: &Described<'_>, piece: usize) -> String {
    match described.set.label(piece) {
        Some(name) => format!(" in piece {}", shown(&name)),
        None => String::new(),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "pieces are numbered from 0")]
pub(super) fn index(piece: u64) -> usize {
    piece as usize
}

fn nulls_read(described: &Described<'_>, names: &[String], rows: &Rows) -> Result<Vec<Finding>> {
    rows.iter()
        .map(|row| {
            let [piece, many] = leading(row)?;
            Ok(Finding {
                kind: FindingKind::NullKeys,
                column: (names.len() == 1).then(|| names[0].clone()),
                piece: described.set.label(index(piece)),
                rows: Some(many),
                message: format!(
                    "{} without a key{}: {} is NULL",
                    counted(many, "row"),
                    within(described, index(piece)),
                    names.join(" or ")
                ),
                examples: Vec::new(),
            })
        })
        .collect()
}

fn duplicates_read(
    described: &Described<'_>,
    names: &[String],
    rows: &Rows,
    most: usize,
) -> Result<Vec<Finding>> {
    let shown = Examples {
        names,
        others: &["rows"],
        most,
    };
    findings(
        described,
        FindingKind::DuplicateKeys,
        rows,
        shown,
        |[piece, keys, of]| {
            let message = format!(
                "{} not unique{}, with {}",
                counted(keys, "key"),
                within(described, index(piece)),
                counted(of, "row")
            );
            (index(piece), of, message)
        },
    )
}

fn common_read(
    described: &Described<'_>,
    names: &[String],
    rows: &Rows,
    most: usize,
) -> Result<(Vec<Finding>, Vec<Overlap>)> {
    let name = |piece: u64| described.set.label(index(piece)).unwrap_or_default();
    let overlaps: Vec<Overlap> = grouped(rows)?
        .into_iter()
        .map(|([one, other, keys, rows, other_rows], _)| Overlap {
            piece: name(one),
            other: name(other),
            keys,
            rows,
            other_rows,
        })
        .collect();
    let examples = Examples {
        names,
        others: &["rows", "rows in the other"],
        most,
    };
    let say = |[one, other, keys, of_one, of_other]: [u64; 5]| {
        let message = format!(
            "{} of piece {} also in piece {}, with {} there and {of_one} in the earlier one",
            counted(keys, "key"),
            shown(&name(other)),
            shown(&name(one)),
            counted(of_other, "row")
        );
        (index(other), of_other, message)
    };
    let mut found = findings(described, FindingKind::Overlap, rows, examples, say)?;
    for (finding, overlap) in found.iter_mut().zip(&overlaps) {
        for example in &mut finding.examples {
            let other = ("other piece".to_owned(), Some(overlap.piece.clone()));
            example.0.push(other);
        }
    }
    Ok((found, overlaps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::source::Source;
    use crate::validate::PieceSet;

    fn cells(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    #[test]
    fn rows_that_begin_alike_are_one_group() {
        let rows = vec![
            cells(&["1", "2", "a"]),
            cells(&["1", "2", "b"]),
            cells(&["1", "3", "c"]),
        ];
        let groups = grouped::<2>(&rows).unwrap();
        assert_eq!(groups.len(), 2);
        assert_eq!((groups[0].0, groups[0].1.len()), ([1, 2], 2));
        assert!(grouped::<4>(&rows).is_err());
        assert!(grouped::<1>(&vec![vec![None]]).is_err());
    }

    #[test]
    fn an_overlap_is_told_with_both_pieces() {
        let piece = |name: &str| (name.to_owned(), Source::parse(name).unwrap());
        let set = PieceSet::named(vec![piece("a"), piece("b")]).unwrap();
        let described = Described {
            set: &set,
            columns: vec![vec![("id".to_owned(), "INTEGER".to_owned())]; 2],
        };
        let rows = vec![
            cells(&["0", "1", "2", "3", "2", "7", "1", "1"]),
            cells(&["0", "1", "2", "3", "2", "9", "1", "2"]),
        ];
        let (findings, overlaps) = common_read(&described, &["id".to_owned()], &rows, 1).unwrap();
        assert_eq!(
            (overlaps[0].keys, overlaps[0].rows, overlaps[0].other_rows),
            (2, 3, 2)
        );
        assert_eq!(
            (findings[0].piece.as_deref(), findings[0].examples.len()),
            (Some("b"), 1)
        );
        assert_eq!(
            findings[0].message,
            "2 keys of piece b also in piece a, with 2 rows there and 3 in the earlier one"
        );
    }

    #[test]
    fn no_statement_names_two_pieces_at_once() {
        for sql in [
            suspicious("R", 2),
            duplicates("R", 2, 5),
            common("R", 2, 5),
            without_key("R", 2),
        ] {
            assert!(sql.matches("(R)").count() <= 2, "{sql}");
        }
        assert!(
            common("R", 1, 0).contains(", 1) AS e"),
            "no examples are asked for as one, and none is told"
        );
    }
}
