//! Shares of a source that are written one after another, what of them is done, and what is tried when one fails. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::manifest::hexadecimal;
use crate::error::ErrorKind;
use crate::partition::plan::Plan;
use crate::units::Bytes;
use crate::validate::{Layout, PIECE};

/// The form in which a journal is kept.
const VERSION: u32 = 1;
/// Rows of a share at most, unless told otherwise: less is soon written again.
const ROWS: u64 = 10_000_000;
/// What a share may take of the memory, as rows in memory: more is spilled before it is written, at nearly twice the cost.
const PART: f64 = 0.4;
/// Rows of a piece in a share, on the average, at least: each share makes a file of each piece.
const ROWS_OF_PIECE: u64 = 200_000;
/// Attempts at one share.
pub(super) const ATTEMPTS: u32 = 3;

/// Rows of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Share {
    /// All of them.
    All,
    /// Those of a table by their numbers.
    Rows {
        /// The first.
        from: u64,
        /// The first that is not in it.
        to: u64,
        /// Whether all that follow are in it, too: rows that came since.
        open: bool,
    },
    /// Those of some pieces.
    Pieces {
        /// The first piece.
        from: usize,
        /// The first that is not in it.
        to: usize,
    },
}

impl Share {
    /// The rows of `relation` that are in it, with the numbers of their pieces.
    pub(super) fn numbered(self, plan: &Plan, relation: &str) -> String {
        match self {
            Share::All => plan.numbered(relation),
            Share::Rows { from, open: true, .. } => {
                plan.numbered(&format!("(SELECT * FROM {relation} WHERE rowid >= {from})"))
            }
            Share::Rows { from, to, .. } => plan.numbered(&format!(
                "(SELECT * FROM {relation} WHERE rowid >= {from} AND rowid < {to})"
            )),
            Share::Pieces { from, to } => {
                let rows = match plan.stretch(from, to) {
                    Some(condition) => format!("(SELECT * FROM {relation} WHERE {condition})"),
                    None => relation.to_owned(),
                };
                let numbered = plan.numbered(&rows);
                format!("(SELECT * FROM {numbered} WHERE {PIECE} >= {from} AND {PIECE} < {to})")
            }
        }
    }

    /// Pieces that it has rows of.
    pub(super) fn pieces(self, plan: &Plan) -> usize {
        match self {
            Share::Pieces { from, to } => to - from,
            Share::All | Share::Rows { .. } => plan.pieces.len(),
        }
    }

    /// Its two halves, if it can be parted.
    fn halves(self) -> Option<[Share; 2]> {
        match self {
            Share::All => None,
            Share::Rows { from, to, open } => {
                let middle = from.midpoint(to);
                (from < middle && middle < to).then_some([
                    Share::Rows {
                        from,
                        to: middle,
                        open: false,
                    },
                    Share::Rows {
                        from: middle,
                        to,
                        open,
                    },
                ])
            }
            Share::Pieces { from, to } => {
                let middle = from.midpoint(to);
                (from < middle && middle < to).then_some([
                    Share::Pieces { from, to: middle },
                    Share::Pieces { from: middle, to },
                ])
            }
        }
    }
}

/// The rows of a share that is written in so much memory.
pub(super) fn rows_of_share(plan: &Plan, memory: Bytes) -> u64 {
    let width = (plan.bytes().get() / plan.rows.max(1)).max(1);
    let in_memory = memory.times(PART).get() / width;
    in_memory.min(ROWS).max(plan.pieces.len() as u64 * ROWS_OF_PIECE)
}

/// The shares of a table whose rows have the numbers below `end`, for `plan`, with so many rows in each. All at once where
/// the numbers say nothing of where rows are: those of an open transaction are far above the others.
pub(super) fn shares(plan: &Plan, end: u64, rows: u64) -> Vec<Share> {
    let fit = rows.max(1);
    if end / 4 > plan.rows {
        return vec![Share::All];
    }
    // One is by numbers, too: it can be halved, and another time there may be more memory, or less.
    let count = (end / fit).max(1);
    let bound =
        |share: u64| u64::try_from(u128::from(end) * u128::from(share) / u128::from(count)).unwrap_or(end);
    (0..count)
        .map(|share| Share::Rows {
            from: bound(share),
            to: bound(share + 1),
            open: share + 1 == count,
        })
        .collect()
}

/// Pieces in shares of about as many rows each, for so many workers at once: more shares than workers, so that none waits long
/// for the last; none with more than `most` pieces.
pub(super) fn shares_of_pieces(plan: &Plan, workers: usize, most: usize) -> Vec<Share> {
    let count = plan.pieces.len();
    let wanted = (2 * workers).clamp(1, count.max(1)) as u128;
    let total: u128 = plan.pieces.iter().map(|piece| u128::from(piece.rows)).sum();
    let mut shares = Vec::new();
    let (mut from, mut before) = (0, 0);
    for (number, piece) in plan.pieces.iter().enumerate() {
        before += u128::from(piece.rows);
        // The last has all the rest.
        let next = shares.len() as u128 + 1;
        let full = next < wanted && before * wanted >= total * next;
        if full || number + 1 - from >= most.max(1) || number + 1 == count {
            shares.push(Share::Pieces { from, to: number + 1 });
            from = number + 1;
        }
    }
    shares
}

/// What of a partitioning is written, for one who goes on after this process was killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    version: u32,
    /// SHA-256 of the plan.
    plan: String,
    /// The shares.
    pub shares: Vec<Share>,
    /// Which of them are written.
    pub done: Vec<bool>,
}

impl Journal {
    pub(super) fn new(plan: &Plan, shares: Vec<Share>) -> Self {
        Journal {
            version: VERSION,
            plan: hexadecimal(&Sha256::digest(plan.to_json().as_bytes())),
            done: vec![false; shares.len()],
            shares,
        }
    }

    /// What `text` says, if it is of the plan and of the same way to share its source.
    pub(super) fn read(text: &str, begun: &Journal) -> Option<Self> {
        let found: Journal = serde_json::from_str(text).ok()?;
        let same = found.version == VERSION
            && found.plan == begun.plan
            && found.done.len() == found.shares.len()
            // Shares that failed were parted; the kind stays. More rows may have come, and are in the last one.
            && found.shares.last().map(std::mem::discriminant) == begun.shares.last().map(std::mem::discriminant);
        same.then_some(found)
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// How many are written.
    pub(super) fn written(&self) -> usize {
        self.done.iter().filter(|done| **done).count()
    }

    /// The next share that is not written.
    pub(super) fn next(&self) -> Option<usize> {
        self.done.iter().position(|done| !done)
    }

    /// Parts a share, if it can be parted; its halves take its place. Of pieces the second half is the last share then: those
    /// that follow may be written, and what is written is found by the share's number.
    pub(super) fn part(&mut self, share: usize) {
        let Some([first, second]) = self.shares.get(share).and_then(|share| share.halves()) else {
            return;
        };
        let place = match first {
            Share::Pieces { .. } => self.shares.len(),
            Share::All | Share::Rows { .. } => share + 1,
        };
        self.shares[share] = first;
        self.shares.insert(place, second);
        self.done.insert(place, false);
    }

    /// Parts the shares that are not written and have more than `most` pieces, until none has, if that is possible.
    pub(super) fn part_larger(&mut self, plan: &Plan, most: usize) {
        let mut share = 0;
        while share < self.shares.len() {
            while !self.done[share] && self.shares[share].pieces(plan) > most.max(1) {
                self.part(share);
            }
            share += 1;
        }
    }
}

/// What is tried after a failure, the smaller the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Response {
    /// The same again.
    Again,
    /// Half the pieces at once.
    Fewer,
    /// Half the rows, half the pieces at once, and 0.7 of the memory.
    Smaller,
}

impl Response {
    /// What is tried after an error of this kind; nothing where it would fail again, or where the data is in doubt.
    pub(super) fn to(kind: ErrorKind) -> Option<Self> {
        match kind {
            ErrorKind::Memory => Some(Response::Smaller),
            ErrorKind::Timeout => Some(Response::Fewer),
            ErrorKind::Transaction => Some(Response::Again),
            ErrorKind::Invalid
            | ErrorKind::Disk
            | ErrorKind::Cancelled
            | ErrorKind::Query
            | ErrorKind::Connection
            | ErrorKind::Corruption
            | ErrorKind::State
            | ErrorKind::Internal => None,
        }
    }

    /// In a few words, for reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Response::Smaller => "half the rows and pieces at once, 0.7 of the memory",
            Response::Fewer => "half the pieces at once",
            Response::Again => "the same again",
        }
    }
}

/// How long to wait after an attempt, counted from 1: 2, 4, 8 ... seconds.
pub(super) fn wait(attempt: u32) -> Duration {
    Duration::from_secs(1 << attempt.min(6))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::source::Source;
    use crate::partition::plan::{Cut, Piece, Rule};

    fn plan(rows: u64) -> Plan {
        let cut = Cut {
            column: "a".to_owned(),
            type_name: "INTEGER".to_owned(),
            rule: Rule::Hash { pieces: 3 },
        };
        let source = Source::parse("t").unwrap();
        let mut plan = Plan::new(&source, vec![("a".to_owned(), "INTEGER".to_owned())], vec![cut]);
        plan.rows = rows;
        plan
    }

    /// Each number is in exactly one share.
    fn cover(shares: &[Share], end: u64) -> bool {
        let mut next = 0;
        for (index, share) in shares.iter().enumerate() {
            let Share::Rows { from, to, open } = *share else {
                return shares.len() == 1;
            };
            if from != next || to <= from || open != (index + 1 == shares.len()) {
                return false;
            }
            next = to;
        }
        next == end
    }

    proptest! {
        #[test]
        fn shares_cover_every_row_once_and_so_do_their_halves(
            end in 1u64..1_000_000, rows in 1u64..100_000, parts in proptest::collection::vec(0usize..40, 0..20)
        ) {
            let shares = shares(&plan(end), end, rows);
            prop_assert!(cover(&shares, end), "{shares:?}");
            let mut journal = Journal::new(&plan(end), shares);
            for share in parts {
                journal.part(share % journal.shares.len());
                prop_assert_eq!(journal.done.len(), journal.shares.len());
                prop_assert!(cover(&journal.shares, end), "{:?}", journal.shares);
            }
        }
    }

    proptest! {
        #[test]
        fn shares_of_pieces_cover_every_piece_once(
            rows in proptest::collection::vec(0u64..1000, 1..60), workers in 1usize..9, most in 1usize..70,
            smaller in 1usize..20
        ) {
            let mut plan = plan(1);
            let piece = plan.pieces[0].clone();
            plan.pieces = rows.iter().map(|rows| crate::partition::plan::Piece { rows: *rows, ..piece.clone() }).collect();
            let shares = shares_of_pieces(&plan, workers, most);
            let mut next = 0;
            for share in &shares {
                let Share::Pieces { from, to } = *share else { panic!("{share:?}") };
                prop_assert!(from == next && to > from && to - from <= most);
                next = to;
            }
            prop_assert_eq!(next, rows.len());
            prop_assert!(shares.len() <= 2 * workers + rows.len().div_ceil(most));
            // Parted, what is written is where it was, and each piece is still in one share.
            let mut journal = Journal::new(&plan, shares.clone());
            journal.done[0] = true;
            journal.part_larger(&plan, smaller);
            prop_assert_eq!(journal.shares[0], shares[0]);
            prop_assert!(journal.shares[1..].iter().all(|share| share.pieces(&plan) <= smaller));
            let mut all: Vec<usize> = journal.shares.iter().flat_map(|share| match *share {
                Share::Pieces { from, to } => from..to,
                other => panic!("{other:?}"),
            }).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..rows.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_small_table_is_one_share_and_so_is_one_whose_numbers_are_far_apart() {
        let of = |end| shares(&plan(20_000_000), end, 10_000_000);
        let whole = Share::Rows {
            from: 0,
            to: 19_999_999,
            open: true,
        };
        assert_eq!(of(19_999_999), [whole]);
        assert_eq!(of(20_000_000).len(), 2);
        assert_eq!(of(1 << 60), [Share::All]);
    }

    #[test]
    fn a_share_fits_the_memory_but_makes_no_small_files() {
        let mut plan = plan(1_000_000);
        plan.pieces = vec![
            Piece {
                name: "a".to_owned(),
                condition: "true".to_owned(),
                rows: 500_000,
                bytes: Bytes(50_000_000),
            };
            2
        ];
        assert_eq!(rows_of_share(&plan, Bytes(1_000_000_000)), 4_000_000);
        assert_eq!(rows_of_share(&plan, Bytes(100_000_000_000)), ROWS);
        assert_eq!(rows_of_share(&plan, Bytes(1_000_000)), 2 * ROWS_OF_PIECE);
    }

    #[test]
    fn a_journal_is_read_again_only_for_its_plan() {
        let mut journal = Journal::new(&plan(90), shares(&plan(90), 90, 30));
        journal.done[1] = true;
        assert_eq!((journal.written(), journal.next()), (1, Some(0)));
        let begun = Journal::new(&plan(90), shares(&plan(90), 95, 30));
        assert_eq!(Journal::read(&journal.text(), &begun), Some(journal.clone()));
        let other = Journal::new(&plan(91), begun.shares.clone());
        assert_eq!(Journal::read(&journal.text(), &other), None);
        let all = Journal::new(&plan(90), vec![Share::All]);
        assert_eq!(Journal::read(&journal.text(), &all), None);
        assert_eq!(Journal::read("{}", &begun), None);
        journal.done.push(true);
        assert_eq!(Journal::read(&journal.text(), &begun), None);
    }

    #[test]
    fn what_would_fail_again_is_not_tried_again() {
        for kind in ErrorKind::ALL {
            let tried = matches!(
                kind,
                ErrorKind::Memory | ErrorKind::Timeout | ErrorKind::Transaction
            );
            assert_eq!(Response::to(kind).is_some(), tried, "{kind}");
        }
        assert_eq!([1, 2, 3].map(|attempt| wait(attempt).as_secs()), [2, 4, 8]);
    }
}
