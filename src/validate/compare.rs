//! The one flow: columns, totals, and where those differ the rows.

use std::collections::BTreeMap;

use super::sql::{self, Key, Shared};
use super::{Column, Digests, Example, Finding, FindingKind, PieceDigest, Validation, counted, shown};
use crate::engine::source::Source;
use crate::engine::{Ask, Rows, described};
use crate::error::{Error, Result};

/// How two sources are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The columns that identify a row; without them rows are compared as wholes.
    pub on: Vec<String>,
    /// The most examples of a finding.
    pub examples: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            on: Vec::new(),
            examples: 5,
        }
    }
}

/// Compares `right` with `left`, and lists every difference.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a key that is no column of both; those of whoever is asked.
pub fn compare<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    left: &Source,
    right: &Source,
    options: &Options,
) -> Result<Validation, E> {
    let (of_left, of_right) = (described(ask, &left.relation)?, described(ask, &right.relation)?);
    let (shared, findings) = matched(&of_left, &of_right);
    let keys = keys(&options.on, &shared, left, right)?;
    let mut look = Look {
        ask,
        both: sql::both(left, right, &shared),
        shared,
        keys,
        most: options.examples,
        findings,
    };
    let totals = if look.shared.is_empty() {
        look.bare_totals(left, right)?
    } else {
        look.totals()?
    };
    look.differences(&totals)?;
    let Look {
        shared,
        keys,
        findings,
        ..
    } = look;
    let on = keys.iter().map(|index| shared[*index].left.clone()).collect();
    Ok(verdict([left, right], on, &shared, &totals, findings))
}

/// What was found of two sources, by the totals of each.
pub(super) fn verdict(
    [left, right]: [&Source; 2],
    on: Vec<String>,
    shared: &[Shared],
    [of_left, of_right]: &[Totals; 2],
    findings: Vec<Finding>,
) -> Validation {
    Validation {
        ok: findings.is_empty(),
        left: left.name.clone(),
        right: right.name.clone(),
        left_rows: of_left.rows,
        right_rows: of_right.rows,
        on,
        columns: shared
            .iter()
            .enumerate()
            .map(|(index, column)| Column {
                name: column.left.clone(),
                left_type: column.left_type.clone(),
                right_type: column.right_type.clone(),
                left_nulls: of_left.nulls(index),
                right_nulls: of_right.nulls(index),
                same: of_left.columns[index] == of_right.columns[index],
            })
            .collect(),
        left_digest: of_left.digest(),
        right_digest: of_right.digest(),
        pieces: Vec::new(),
        overlaps: Vec::new(),
        findings,
    }
}

pub(super) fn same_name(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

/// The columns that both have, and what is wrong with the others.
fn matched(left: &[(String, String)], right: &[(String, String)]) -> (Vec<Shared>, Vec<Finding>) {
    let mut shared = Vec::new();
    let mut findings = Vec::new();
    for (name, kind) in left {
        let Some((right_name, right_kind)) = right.iter().find(|(other, _)| same_name(name, other)) else {
            let message = format!("the right side has no column {name} ({kind})");
            findings.push(of_column(FindingKind::MissingColumn, name, message));
            continue;
        };
        if kind != right_kind {
            let message = format!("column {name} is {kind} on the left and {right_kind} on the right");
            findings.push(of_column(FindingKind::ColumnType, name, message));
        }
        shared.push(Shared {
            left: name.clone(),
            right: right_name.clone(),
            left_type: kind.clone(),
            right_type: right_kind.clone(),
        });
    }
    for (name, kind) in right {
        if !left.iter().any(|(other, _)| same_name(name, other)) {
            let message = format!("the left side has no column {name} ({kind})");
            findings.push(of_column(FindingKind::ExtraColumn, name, message));
        }
    }
    (shared, findings)
}

fn keys(on: &[String], shared: &[Shared], left: &Source, right: &Source) -> Result<Vec<usize>, Error> {
    on.iter()
        .map(|key| {
            let place = shared.iter().position(|column| same_name(&column.left, key));
            place.ok_or_else(|| {
                let columns: Vec<&str> = shared.iter().map(|column| column.left.as_str()).collect();
                Error::invalid(
                    "on",
                    format_args!("{key:?}"),
                    &format!(
                        "it is not a column of both {} and {}; both have {}",
                        left.name,
                        right.name,
                        if columns.is_empty() {
                            "none in common".to_owned()
                        } else {
                            columns.join(", ")
                        }
                    ),
                )
            })
        })
        .collect()
}

pub(super) fn of_column(kind: FindingKind, column: &str, message: String) -> Finding {
    Finding {
        kind,
        column: Some(column.to_owned()),
        piece: None,
        rows: None,
        message,
        examples: Vec::new(),
    }
}

/// What one pass says of a side, or of a piece of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub rows: u64,
    sums: [u64; 2],
    /// Of each column the values that are not NULL, and the sum of their hashes.
    columns: Vec<(u64, u64)>,
}

/// The totals of both sides, of each piece and of all.
#[derive(Debug)]
pub(super) struct ByPiece {
    pub pieces: BTreeMap<usize, [Totals; 2]>,
    pub all: [Totals; 2],
}

/// What [`sql::totals_placed`] says: the totals of both sides, of each piece those of the rows that lie in it, and whether some
/// lie where they do not belong.
#[derive(Debug)]
pub(super) struct Placed {
    pub all: [Totals; 2],
    pub pieces: BTreeMap<usize, Totals>,
    strayed: bool,
}

impl Placed {
    pub(super) fn read(rows: &Rows, count: usize) -> Result<Self> {
        let mut found = Placed {
            all: [Totals::none(count), Totals::none(count)],
            pieces: BTreeMap::new(),
            strayed: false,
        };
        for row in rows {
            let (piece, row) = row.split_first().ok_or_else(unread)?;
            let (totals, astray) = Totals::placed(row, count).ok_or_else(unread)?;
            let Some(piece) = piece else {
                found.all[0] = totals;
                continue;
            };
            found.all[1].add(&totals);
            found.strayed |= astray > 0;
            found.pieces.insert(piece.parse().map_err(|_| unread())?, totals);
        }
        Ok(found)
    }

    /// The right side as it was kept, where each row was found to lie where it belongs; the left side as
    /// [`sql::totals_placed`] says it. None where something of a piece was not kept.
    pub(super) fn kept(rows: &Rows, count: usize, pieces: &Digests) -> Result<Option<Self>> {
        let mut found = Placed::read(rows, count)?;
        for (number, piece) in pieces {
            let Some(totals) = Totals::kept(piece, count) else {
                return Ok(None);
            };
            found.all[1].add(&totals);
            found.pieces.insert(*number, totals);
        }
        Ok(Some(found))
    }

    /// Whether the pieces have the rows of the source, and each of them its own.
    pub(super) fn is_whole(&self) -> bool {
        !self.strayed && self.all[0] == self.all[1]
    }

    /// As [`totals_of`] gives it, where each piece has what it should.
    pub(super) fn by_piece(self) -> ByPiece {
        let both = |totals: Totals| [totals.clone(), totals];
        let pieces = self.pieces.into_iter();
        ByPiece {
            pieces: pieces.map(|(piece, totals)| (piece, both(totals))).collect(),
            all: self.all,
        }
    }
}

/// Reads what [`sql::totals_by_piece`] asks for.
pub(super) fn totals_of(rows: &Rows, count: usize) -> Result<ByPiece> {
    let none = || [Totals::none(count), Totals::none(count)];
    let mut found = ByPiece {
        pieces: BTreeMap::new(),
        all: none(),
    };
    for row in rows {
        let (piece, row) = row.split_first().ok_or_else(unread)?;
        let piece = piece
            .as_ref()
            .and_then(|text| text.parse().ok())
            .ok_or_else(unread)?;
        let totals = Totals::read(row, count).ok_or_else(unread)?;
        let side = usize::from(row.first() != Some(&Some("0".to_owned())));
        found.all[side].add(&totals);
        found.pieces.entry(piece).or_insert_with(none)[side] = totals;
    }
    Ok(found)
}

/// Sums of 64-bit hashes have up to 127 bits; what is compared are the lower 64. Of no rows there is none.
#[expect(clippy::cast_possible_truncation, reason = "the lower bits are meant")]
fn lower(sum: Option<&str>) -> Option<u64> {
    sum.map_or(Some(0), |text| text.parse::<u128>().ok().map(|sum| sum as u64))
}

impl Totals {
    /// Those of no rows.
    pub(super) fn none(count: usize) -> Self {
        Totals {
            columns: vec![(0, 0); count],
            ..Totals::default()
        }
    }

    fn read(row: &[Option<String>], count: usize) -> Option<Self> {
        let cell = |index: usize| row.get(index).and_then(Option::as_deref);
        let number = |index: usize| cell(index).map_or(Some(0), |text| text.parse().ok());
        let sum = |index: usize| lower(cell(index));
        Some(Totals {
            rows: number(1)?,
            sums: [sum(2)?, sum(3)?],
            columns: (0..count)
                .map(|index| Some((number(4 + 2 * index)?, sum(5 + 2 * index)?)))
                .collect::<Option<_>>()?,
        })
    }

    /// Those of rows that lie in a piece, as [`sql::totals_placed`] asks for them, and how many belong elsewhere. The sums of
    /// columns are left out.
    pub(super) fn placed(row: &[Option<String>], count: usize) -> Option<(Self, u64)> {
        let cell = |index: usize| row.get(index).and_then(Option::as_deref);
        let number = |index: usize| cell(index).and_then(|text| text.parse().ok());
        let totals = Totals {
            rows: number(0)?,
            sums: [lower(cell(1))?, lower(cell(2))?],
            columns: (0..count)
                .map(|index| Some((number(4 + index)?, 0)))
                .collect::<Option<_>>()?,
        };
        Some((totals, number(3)?))
    }

    /// Those of two parts together.
    pub(super) fn add(&mut self, other: &Totals) {
        self.rows += other.rows;
        for (sum, more) in self.sums.iter_mut().zip(other.sums) {
            *sum = sum.wrapping_add(more);
        }
        for ((values, sum), (more, hashes)) in self.columns.iter_mut().zip(&other.columns) {
            *values += more;
            *sum = sum.wrapping_add(*hashes);
        }
    }

    /// As it is kept of a piece.
    pub(super) fn of_piece(&self) -> PieceDigest {
        PieceDigest {
            rows: self.rows,
            digest: self.digest(),
            nulls: (0..self.columns.len()).map(|column| self.nulls(column)).collect(),
        }
    }

    /// What was kept of a piece with so many columns, but for the sums of columns; none where that is not all of it.
    pub(super) fn kept(piece: &PieceDigest, count: usize) -> Option<Self> {
        let sum = |place| u64::from_str_radix(piece.digest.get(place)?, 16).ok();
        let is_whole = piece.digest.len() == 32 && piece.nulls.len() == count;
        let values = |nulls: &u64| Some((piece.rows.checked_sub(*nulls)?, 0));
        Some(Totals {
            rows: piece.rows,
            sums: [sum(0..16)?, sum(16..32)?],
            columns: piece.nulls.iter().map(values).collect::<Option<_>>()?,
        })
        .filter(|_| is_whole)
    }

    pub(super) fn digest(&self) -> String {
        format!("{:016x}{:016x}", self.sums[0], self.sums[1])
    }

    pub(super) fn nulls(&self, column: usize) -> u64 {
        self.columns
            .get(column)
            .map_or(0, |(values, _)| self.rows.saturating_sub(*values))
    }
}

struct Look<'a, E> {
    ask: &'a mut dyn Ask<E>,
    both: String,
    shared: Vec<Shared>,
    keys: Vec<usize>,
    most: usize,
    findings: Vec<Finding>,
}

impl<E: From<Error>> Look<'_, E> {
    fn totals(&mut self) -> Result<[Totals; 2], E> {
        let count = self.shared.len();
        let rows = self.ask.ask(&sql::totals(&self.both, count))?;
        let mut totals = [(); 2].map(|()| Totals {
            columns: vec![(0, 0); count],
            ..Totals::default()
        });
        for row in &rows {
            let side = if row.first() == Some(&Some("0".to_owned())) {
                0
            } else {
                1
            };
            totals[side] = Totals::read(row, count).ok_or_else(unread)?;
        }
        Ok(totals)
    }

    /// Where there is nothing to compare but how many rows there are.
    fn bare_totals(&mut self, left: &Source, right: &Source) -> Result<[Totals; 2], E> {
        let rows = self.ask.ask(&format!(
            "SELECT (SELECT count(*) FROM {})::VARCHAR, (SELECT count(*) FROM {})::VARCHAR",
            left.relation, right.relation
        ))?;
        let mut found = numbers(&rows)?.into_iter();
        Ok([(); 2].map(|()| Totals {
            rows: found.next().unwrap_or(0),
            ..Totals::default()
        }))
    }

    fn find(&mut self, kind: FindingKind, rows: u64, message: String, examples: Vec<Example>) {
        self.findings.push(Finding {
            kind,
            column: None,
            piece: None,
            rows: Some(rows),
            message,
            examples,
        });
    }

    fn differences(&mut self, totals: &[Totals; 2]) -> Result<(), E> {
        let [left, right] = totals;
        if left.rows != right.rows {
            let (many, side) = if left.rows > right.rows {
                (left.rows - right.rows, "fewer")
            } else {
                (right.rows - left.rows, "more")
            };
            let message = format!(
                "{} on the left and {} on the right: {many} {side}",
                counted(left.rows, "row"),
                right.rows
            );
            self.find(FindingKind::RowCount, many, message, Vec::new());
        }
        if self.shared.is_empty() {
            return Ok(());
        }
        let before = self.findings.len();
        let unlike = if left == right {
            self.both.clone()
        } else {
            self.unlike()?
        };
        if !self.keys.is_empty() {
            self.by_key(&unlike)?;
        } else if left != right {
            self.by_row(&unlike)?;
        }
        if left == right {
            return Ok(());
        }
        if self.findings.len() == before && left.rows == right.rows {
            let message = "the digests of both sides differ, and a second look found the same rows: what was read \
                           changed meanwhile; compare again when nobody writes";
            self.find(FindingKind::ChangedValues, 0, message.to_owned(), Vec::new());
        }
        self.columns(totals)
    }

    /// Both sides without what is the same there, found by halving as often as one pass can.
    fn unlike(&mut self) -> Result<String, E> {
        let count = self.shared.len();
        let rows = self.ask.ask(&sql::unlike_shares(&self.both, count, &self.keys))?;
        let shares: Vec<String> = rows.into_iter().flatten().flatten().collect();
        if shares.is_empty() || shares.len() > sql::FEW {
            return Ok(self.both.clone());
        }
        Ok(sql::of_shares(&self.both, count, &self.keys, &shares))
    }

    /// Every row as a whole, of those that may be other ones.
    fn by_row(&mut self, unlike: &str) -> Result<(), E> {
        let count = self.shared.len();
        let many = numbers(&self.ask.ask(&sql::counted(unlike, count))?)?;
        let kinds = [
            (
                FindingKind::MissingRows,
                sql::MISSING,
                "of the left side missing on the right",
            ),
            (
                FindingKind::ExtraRows,
                sql::EXTRA,
                "of the right side missing on the left",
            ),
            (
                FindingKind::DoubledRows,
                sql::DOUBLED,
                "there more often on the right than on the left",
            ),
        ];
        for ((kind, which, what), rows) in kinds.into_iter().zip(many) {
            if rows == 0 {
                continue;
            }
            let all: Vec<usize> = (0..count).collect();
            let found = self.ask.ask(&sql::examples(unlike, count, which, self.most))?;
            let examples = found
                .into_iter()
                .map(|row| self.example(&all, row, &[]))
                .collect();
            self.find(kind, rows, format!("{} {what}", counted(rows, "row")), examples);
        }
        Ok(())
    }

    /// Every key; which of them are not unique is asked of all.
    fn by_key(&mut self, unlike: &str) -> Result<(), E> {
        let count = self.shared.len();
        let sql = sql::keys_counted(&self.both, count, &self.keys);
        let numbers = numbers(&self.ask.ask(&sql)?)?;
        let mut changed = 0;
        for (key, pair) in Key::COUNTED.into_iter().zip(numbers.chunks_exact(2)) {
            let (many, rows) = (pair[0], pair[1]);
            let (keys, of) = (counted(many, "key"), counted(rows, "row"));
            let (kind, message) = match key {
                _ if many == 0 => continue,
                Key::Missing => (
                    FindingKind::MissingRows,
                    format!("{keys} of the left side missing on the right, with {of}"),
                ),
                Key::Extra => (
                    FindingKind::ExtraRows,
                    format!("{keys} of the right side missing on the left, with {of}"),
                ),
                Key::TwiceLeft => (
                    FindingKind::DuplicateKeys,
                    format!("{keys} not unique on the left, with {of}"),
                ),
                Key::TwiceRight => (
                    FindingKind::DuplicateKeys,
                    format!("{keys} not unique on the right, with {of}"),
                ),
                Key::Changed | Key::ChangedSeveral => {
                    changed = many;
                    continue;
                }
            };
            let within = match key {
                Key::TwiceLeft | Key::TwiceRight => self.both.clone(),
                _ => unlike.to_owned(),
            };
            let examples = self.keys_shown(&within, key)?;
            self.find(kind, rows, message, examples);
        }
        if changed > 0 {
            self.changed(unlike, changed)?;
        }
        Ok(())
    }

    fn keys_shown(&mut self, within: &str, key: Key) -> Result<Vec<Example>, E> {
        let sql = sql::keys_shown(within, self.shared.len(), &self.keys, key, self.most);
        let found = self.ask.ask(&sql)?;
        Ok(found
            .into_iter()
            .map(|row| self.example(&self.keys, row, &["rows left", "rows right"]))
            .collect())
    }

    /// Which columns of the keys that are on both sides differ.
    fn changed(&mut self, unlike: &str, keys: u64) -> Result<(), E> {
        let others: Vec<usize> = (0..self.shared.len())
            .filter(|index| !self.keys.contains(index))
            .collect();
        let mut in_pairs = 0;
        if !others.is_empty() {
            let sql = sql::changed(unlike, &self.keys, &others);
            let numbers = numbers(&self.ask.ask(&sql)?)?;
            in_pairs = numbers.first().copied().unwrap_or(0);
            for (index, rows) in others.iter().zip(numbers.into_iter().skip(1)) {
                if rows == 0 {
                    continue;
                }
                let name = self.shared[*index].left.clone();
                let sql = sql::changed_shown(unlike, &self.keys, *index, self.most);
                let found = self.ask.ask(&sql)?;
                let examples = found
                    .into_iter()
                    .map(|row| self.example(&self.keys, row, &["left", "right"]))
                    .collect();
                self.findings.push(Finding {
                    kind: FindingKind::ChangedValues,
                    column: Some(name.clone()),
                    piece: None,
                    rows: Some(rows),
                    message: format!(
                        "{} of column {name} not the same on the right",
                        counted(rows, "value")
                    ),
                    examples,
                });
            }
        }
        if keys > in_pairs {
            let many = keys - in_pairs;
            let examples = self.keys_shown(unlike, Key::ChangedSeveral)?;
            let message = format!(
                "{} with several rows, which are not the same on the right",
                counted(many, "key")
            );
            self.find(FindingKind::ChangedValues, many, message, examples);
        }
        Ok(())
    }

    /// What may be said of columns by themselves.
    fn columns(&mut self, totals: &[Totals; 2]) -> Result<(), E> {
        let [left, right] = totals;
        let unlike: Vec<usize> = (0..self.shared.len())
            .filter(|index| left.columns[*index] != right.columns[*index])
            .collect();
        for index in &unlike {
            let name = self.shared[*index].left.clone();
            // Of more or fewer rows every column has other values.
            if self.keys.is_empty() && left.rows == right.rows {
                let message = format!("column {name} has other values on the right");
                self.findings
                    .push(of_column(FindingKind::ChangedValues, &name, message));
            }
            let (before, after) = (left.nulls(*index), right.nulls(*index));
            if before != after {
                let message = format!(
                    "column {name} has {} on the left and {after} on the right",
                    counted(before, "NULL")
                );
                self.findings.push(Finding {
                    rows: Some(before.abs_diff(after)),
                    ..of_column(FindingKind::Nulls, &name, message)
                });
            }
        }
        let ordered: Vec<usize> = unlike
            .into_iter()
            .filter(|index| has_order(&self.shared[*index].left_type))
            .collect();
        if ordered.is_empty() {
            return Ok(());
        }
        let rows = self.ask.ask(&sql::extremes(&self.both, &ordered))?;
        let side = |number: &str| {
            rows.iter()
                .find(|row| row.first().and_then(Option::as_deref) == Some(number))
                .map(|row| row[1..].to_vec())
        };
        // A side without rows has neither.
        let (Some(left), Some(right)) = (side("0"), side("1")) else {
            return Ok(());
        };
        let shown = |value: &Option<String>| shown(value.as_deref().unwrap_or("NULL"));
        for ((index, before), after) in ordered.iter().zip(left.chunks(2)).zip(right.chunks(2)) {
            if before == after {
                continue;
            }
            let name = self.shared[*index].left.clone();
            let message = format!(
                "column {name} goes from {} to {} on the left and from {} to {} on the right",
                shown(&before[0]),
                shown(&before[1]),
                shown(&after[0]),
                shown(&after[1])
            );
            self.findings
                .push(of_column(FindingKind::Distribution, &name, message));
        }
        Ok(())
    }

    /// A row as an example: columns of ours, then others by these names.
    fn example(&self, columns: &[usize], row: Vec<Option<String>>, others: &[&str]) -> Example {
        let names = columns.iter().map(|index| self.shared[*index].left.clone());
        let others = others.iter().map(|name| (*name).to_owned());
        Example(names.chain(others).zip(row).collect())
    }
}

/// Whether values of a type have a smallest and a largest one that say something.
pub(super) fn has_order(kind: &str) -> bool {
    let nested = kind.contains('[') || (kind.contains('(') && !kind.starts_with("DECIMAL"));
    !nested && !["BIT", "BLOB", "JSON", "VARIANT", "GEOMETRY"].contains(&kind)
}

/// The numbers of the one row of an answer.
pub(super) fn numbers(rows: &Rows) -> Result<Vec<u64>, Error> {
    let row = rows.first().ok_or_else(unread)?;
    row.iter()
        .map(|cell| {
            cell.as_deref()
                .and_then(|text| text.parse().ok())
                .ok_or_else(unread)
        })
        .collect()
}

pub(super) fn unread() -> Error {
    Error::new(
        crate::error::ErrorKind::Internal,
        "an answer of DuckDB has another shape than was asked for; please report it with the two sources",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_piece_is_read_again_or_not_at_all() {
        let totals = Totals {
            rows: 9,
            sums: [u64::MAX, 7],
            columns: vec![(9, 0), (2, 0)],
        };
        let piece = totals.of_piece();
        assert_eq!(piece.nulls, [0, 7]);
        assert_eq!(Totals::kept(&piece, 2), Some(totals));
        let broken = |change: &dyn Fn(&mut PieceDigest)| {
            let mut piece = piece.clone();
            change(&mut piece);
            Totals::kept(&piece, 2)
        };
        assert_eq!(Totals::kept(&piece, 3), None);
        assert_eq!(broken(&|piece| piece.rows = 6), None);
        assert_eq!(broken(&|piece| piece.nulls.clear()), None);
        assert_eq!(broken(&|piece| piece.digest.push('0')), None);
        assert_eq!(broken(&|piece| piece.digest.replace_range(..1, "x")), None);
        assert_eq!(broken(&|piece| piece.digest.replace_range(..2, "\u{e9}")), None);
    }
}
