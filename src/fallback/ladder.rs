//! The ladder: which rung a query runs on next. Pure: (state, failure) in, decision out.
//!
//! Rules it keeps: a query is run again only if nothing of its answer was handed out and it changed nothing (a
//! statement in a transaction of the user's changed its state); a cancel and an error of the statement itself never
//! start a retry; a rung that is not available is passed over, so later rungs plug in by being listed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::classify::Failure;
use crate::error::ErrorKind;

/// A way to run a query, mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// As it is.
    #[serde(rename = "as is")]
    AsIs,
    /// Alone, on one thread, with small write buffers.
    Degraded,
    /// Alone, in pieces that fit.
    #[serde(rename = "in pieces")]
    Pieces,
}

impl Rung {
    /// Every rung, in the order they are tried.
    pub const ALL: [Rung; 3] = [Rung::AsIs, Rung::Degraded, Rung::Pieces];

    /// The rung in words, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Rung::AsIs => "as is",
            Rung::Degraded => "degraded",
            Rung::Pieces => "in pieces",
        }
    }
}

/// What may be done to a query after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Some of its answer has reached the caller.
    pub handed_out: bool,
    /// It runs inside a transaction that the user began.
    pub in_transaction: bool,
    /// Its memory grew faster than it can be interrupted, and nothing would hold it the next time. Pieces grow less.
    pub unheld: bool,
}

/// How often and after what wait a failure that time can mend is tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patience {
    /// Most such retries of one query.
    pub retries: u32,
    /// The wait before the first; doubles each time.
    pub backoff: Duration,
}

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// Run again on this rung after this wait (before jitter).
    Run {
        /// The rung.
        rung: Rung,
        /// The wait.
        after: Duration,
    },
    /// Give up with an error of this kind.
    Refuse(ErrorKind),
}

/// Where a query stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ladder {
    rung: Rung,
    retried: u32,
}

impl Ladder {
    /// A query that starts on `rung`.
    pub const fn starting_on(rung: Rung) -> Self {
        Ladder { rung, retried: 0 }
    }

    /// The rung it runs on now.
    pub const fn rung(self) -> Rung {
        self.rung
    }

    /// After `failure`: where it stands then, and what is next.
    pub fn next(
        self,
        failure: Failure,
        facts: Facts,
        available: &[Rung],
        patience: Patience,
    ) -> (Self, Decision) {
        if facts.handed_out || facts.in_transaction {
            return (self, Decision::Refuse(kind_of(failure)));
        }
        match failure {
            Failure::Memory | Failure::InterruptedByGuard => {
                let rungs = available.iter().copied();
                self.climb(
                    failure,
                    rungs.filter(|rung| !facts.unheld || *rung != Rung::Degraded),
                )
            }
            Failure::Conflict if self.retried < patience.retries => {
                let after = patience
                    .backoff
                    .saturating_mul(1u32.checked_shl(self.retried).unwrap_or(u32::MAX));
                let ladder = Ladder {
                    retried: self.retried + 1,
                    ..self
                };
                (
                    ladder,
                    Decision::Run {
                        rung: self.rung,
                        after,
                    },
                )
            }
            _ => (self, Decision::Refuse(kind_of(failure))),
        }
    }

    fn climb(self, failure: Failure, available: impl Iterator<Item = Rung>) -> (Self, Decision) {
        match available.filter(|rung| *rung > self.rung).min() {
            Some(rung) => (
                Ladder { rung, ..self },
                Decision::Run {
                    rung,
                    after: Duration::ZERO,
                },
            ),
            None => (self, Decision::Refuse(kind_of(failure))),
        }
    }
}

/// The kind of the error that a failure ends in.
pub fn kind_of(failure: Failure) -> ErrorKind {
    match failure {
        Failure::Memory | Failure::InterruptedByGuard => ErrorKind::Memory,
        Failure::DiskFull => ErrorKind::Disk,
        Failure::Timeout => ErrorKind::Timeout,
        Failure::Cancelled => ErrorKind::Cancelled,
        Failure::Aborted | Failure::Conflict => ErrorKind::Transaction,
        Failure::Connection | Failure::Crash => ErrorKind::Connection,
        Failure::Corruption => ErrorKind::Corruption,
        Failure::Constraint | Failure::Io | Failure::Statement | Failure::Host => ErrorKind::Query,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PATIENCE: Patience = Patience {
        retries: 3,
        backoff: Duration::from_secs(1),
    };
    const FREE: Facts = Facts {
        handed_out: false,
        in_transaction: false,
        unheld: false,
    };

    /// Every ladder that any sequence of failures reaches, with what led there.
    fn reachable() -> BTreeSet<(Rung, u32)> {
        let mut seen = BTreeSet::new();
        let mut todo = Rung::ALL.map(Ladder::starting_on).to_vec();
        while let Some(ladder) = todo.pop() {
            if !seen.insert((ladder.rung, ladder.retried)) {
                continue;
            }
            for failure in Failure::ALL {
                for bits in 0..8u8 {
                    let facts = Facts {
                        handed_out: bits & 1 > 0,
                        in_transaction: bits & 2 > 0,
                        unheld: bits & 4 > 0,
                    };
                    todo.push(ladder.next(failure, facts, &Rung::ALL, PATIENCE).0);
                }
            }
        }
        seen
    }

    fn every_state() -> impl Iterator<Item = Ladder> {
        reachable()
            .into_iter()
            .map(|(rung, retried)| Ladder { rung, retried })
    }

    #[test]
    fn the_state_space_is_small_and_every_path_ends() {
        assert_eq!(
            reachable().len(),
            Rung::ALL.len() * (PATIENCE.retries as usize + 1)
        );
        for mut ladder in every_state() {
            // The longest path alternates conflicts and climbs; each step uses one of them up.
            for step in 0.. {
                assert!(
                    step <= PATIENCE.retries as usize + Rung::ALL.len(),
                    "a path does not end"
                );
                let failure = if step % 2 == 0 {
                    Failure::Conflict
                } else {
                    Failure::Memory
                };
                match ladder.next(failure, FREE, &Rung::ALL, PATIENCE) {
                    (next, Decision::Run { .. }) => ladder = next,
                    (_, Decision::Refuse(_))
                        if failure == Failure::Conflict && ladder.rung < Rung::Pieces =>
                    {
                        ladder = ladder.next(Failure::Memory, FREE, &Rung::ALL, PATIENCE).0;
                    }
                    (_, Decision::Refuse(_)) => break,
                }
            }
        }
    }

    #[test]
    fn nothing_runs_again_after_rows_were_handed_out_or_inside_a_transaction() {
        for ladder in every_state() {
            for failure in Failure::ALL {
                for facts in [
                    Facts {
                        handed_out: true,
                        ..FREE
                    },
                    Facts {
                        in_transaction: true,
                        ..FREE
                    },
                ] {
                    let (_, decision) = ladder.next(failure, facts, &Rung::ALL, PATIENCE);
                    assert!(matches!(decision, Decision::Refuse(_)), "{failure:?} {facts:?}");
                }
            }
        }
    }

    #[test]
    fn a_cancel_and_an_error_of_the_statement_are_final() {
        for ladder in every_state() {
            for failure in [
                Failure::Cancelled,
                Failure::Statement,
                Failure::Constraint,
                Failure::Host,
                Failure::Timeout,
                Failure::DiskFull,
                Failure::Corruption,
                Failure::Aborted,
                Failure::Crash,
            ] {
                let decision = ladder.next(failure, FREE, &Rung::ALL, PATIENCE).1;
                assert_eq!(decision, Decision::Refuse(kind_of(failure)));
            }
        }
    }

    #[test]
    fn a_rung_is_never_below_the_one_before_and_memory_always_climbs() {
        for ladder in every_state() {
            for failure in Failure::ALL {
                let (next, decision) = ladder.next(failure, FREE, &Rung::ALL, PATIENCE);
                assert!(next.rung >= ladder.rung);
                if let (Failure::Memory | Failure::InterruptedByGuard, Decision::Run { rung, after }) =
                    (failure, decision)
                {
                    assert!(rung > ladder.rung && after.is_zero());
                }
            }
        }
        let only_as_is = Ladder::starting_on(Rung::AsIs)
            .next(Failure::Memory, FREE, &[Rung::AsIs], PATIENCE)
            .1;
        assert_eq!(
            only_as_is,
            Decision::Refuse(ErrorKind::Memory),
            "a rung that is not available is not taken"
        );
    }

    #[test]
    fn what_nothing_holds_goes_into_pieces_or_is_refused() {
        let unheld = Facts { unheld: true, ..FREE };
        for ladder in every_state() {
            for failure in [Failure::Memory, Failure::InterruptedByGuard] {
                let decision = ladder.next(failure, unheld, &Rung::ALL, PATIENCE).1;
                let expected = if ladder.rung < Rung::Pieces {
                    Decision::Run {
                        rung: Rung::Pieces,
                        after: Duration::ZERO,
                    }
                } else {
                    Decision::Refuse(ErrorKind::Memory)
                };
                assert_eq!(decision, expected);
                let whole = [Rung::AsIs, Rung::Degraded];
                let decision = ladder.next(failure, unheld, &whole, PATIENCE).1;
                assert_eq!(decision, Decision::Refuse(ErrorKind::Memory));
            }
        }
    }

    #[test]
    fn waits_double_and_retries_end() {
        let mut ladder = Ladder::starting_on(Rung::AsIs);
        for seconds in [1, 2, 4] {
            let (next, decision) = ladder.next(Failure::Conflict, FREE, &Rung::ALL, PATIENCE);
            assert_eq!(
                decision,
                Decision::Run {
                    rung: Rung::AsIs,
                    after: Duration::from_secs(seconds)
                }
            );
            ladder = next;
        }
        let decision = ladder.next(Failure::Conflict, FREE, &Rung::ALL, PATIENCE).1;
        assert_eq!(decision, Decision::Refuse(ErrorKind::Transaction));
    }
}
