//! Shares of a source that are written one after another, what of them is done, and what is tried when one fails. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::manifest::hexadecimal;
use crate::error::ErrorKind;
use crate::partition::plan::Plan;

/// The form in which a journal is kept.
const VERSION: u32 = 1;
/// Rows of a share unless told otherwise: less is soon written again.
const ROWS: u64 = 10_000_000;
/// Rows of a piece in a share, on the average, at least: each share makes a file of each piece.
const ROWS_OF_PIECE: u64 = 250_000;
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
}

impl Share {
    /// The rows of `relation` that are in it.
    pub(super) fn relation(self, relation: &str) -> String {
        match self {
            Share::All => relation.to_owned(),
            Share::Rows { from, open: true, .. } => {
                format!("(SELECT * FROM {relation} WHERE rowid >= {from})")
            }
            Share::Rows { from, to, .. } => {
                format!("(SELECT * FROM {relation} WHERE rowid >= {from} AND rowid < {to})")
            }
        }
    }

    /// Its two halves, if it can be parted.
    fn halves(self) -> Option<[Share; 2]> {
        let Share::Rows { from, to, open } = self else {
            return None;
        };
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
}

/// The shares of a table whose rows have the numbers below `end`, for `plan`; `rows` of them in each if that is given. All at
/// once where the numbers say nothing of where rows are: those of an open transaction are far above the others.
pub(super) fn shares(plan: &Plan, end: u64, rows: Option<u64>) -> Vec<Share> {
    let fit = rows
        .unwrap_or(ROWS.max(plan.pieces.len() as u64 * ROWS_OF_PIECE))
        .max(1);
    let count = end / fit;
    if count < 2 || end / 4 > plan.rows {
        return vec![Share::All];
    }
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

/// What of a partitioning is written, for one who goes on after this process was killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    version: u32,
    /// SHA-256 of the plan.
    plan: String,
    /// The shares.
    pub shares: Vec<Share>,
    /// How many of them are written, from the first.
    pub done: usize,
}

impl Journal {
    pub(super) fn new(plan: &Plan, shares: Vec<Share>) -> Self {
        Journal {
            version: VERSION,
            plan: hexadecimal(&Sha256::digest(plan.to_json().as_bytes())),
            shares,
            done: 0,
        }
    }

    /// What `text` says, if it is of the plan and of the same way to share its source.
    pub(super) fn read(text: &str, begun: &Journal) -> Option<Self> {
        let found: Journal = serde_json::from_str(text).ok()?;
        let same = found.version == VERSION
            && found.plan == begun.plan
            && found.done <= found.shares.len()
            // Shares that failed were parted; the ends stay. More rows may have come, and are in the last one.
            && matches!(found.shares.last(), Some(Share::All)) == matches!(begun.shares.last(), Some(Share::All));
        same.then_some(found)
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The next share, if it can be parted, is parted.
    pub(super) fn part(&mut self) -> bool {
        let halves = self.shares.get(self.done).and_then(|share| share.halves());
        if let Some(halves) = halves {
            self.shares.splice(self.done..=self.done, halves);
        }
        halves.is_some()
    }
}

/// What is tried after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Response {
    /// Half the rows, half the pieces at once, and 0.7 of the memory.
    Smaller,
    /// Half the pieces at once.
    Fewer,
    /// The same again.
    Again,
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
    use crate::partition::plan::{Cut, Rule};

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
            let shares = shares(&plan(end), end, Some(rows));
            prop_assert!(cover(&shares, end), "{shares:?}");
            let mut journal = Journal::new(&plan(end), shares);
            for done in parts {
                journal.done = done % journal.shares.len();
                journal.part();
                prop_assert!(cover(&journal.shares, end), "{:?}", journal.shares);
            }
        }
    }

    #[test]
    fn a_small_table_is_one_share_and_so_is_one_whose_numbers_are_far_apart() {
        assert_eq!(shares(&plan(19_999_999), 19_999_999, None), [Share::All]);
        assert_eq!(shares(&plan(20_000_000), 20_000_000, None).len(), 2);
        assert_eq!(shares(&plan(20_000_000), 1 << 60, None), [Share::All]);
    }

    #[test]
    fn a_journal_is_read_again_only_for_its_plan() {
        let mut journal = Journal::new(&plan(90), shares(&plan(90), 90, Some(30)));
        journal.done = 2;
        let begun = Journal::new(&plan(90), shares(&plan(90), 95, Some(30)));
        assert_eq!(Journal::read(&journal.text(), &begun), Some(journal.clone()));
        let other = Journal::new(&plan(91), begun.shares.clone());
        assert_eq!(Journal::read(&journal.text(), &other), None);
        let all = Journal::new(&plan(90), vec![Share::All]);
        assert_eq!(Journal::read(&journal.text(), &all), None);
        assert_eq!(Journal::read("{}", &begun), None);
        journal.done = 9;
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
