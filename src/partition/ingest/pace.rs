//! How many rows a batch has: fewer while memory is short or after it did not suffice, more again when all is quiet. And how many
//! batches one commit covers. Pure.

use std::time::Duration;

use super::Filled;
use crate::units::Bytes;

/// A batch is not made smaller than that: each commit is a write to the disk.
const FEWEST: u64 = 1000;
/// One commit covers so many rows at most, but for a batch that has more. Below a row group (122,880 rows) DuckDB writes them twice.
const TOGETHER: u64 = 1_000_000;
/// What the source has given is not kept longer from its commit, if it goes on giving.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many commits without trouble let a batch grow again.
const QUIET: u32 = 8;
/// So often a batch that cannot be made smaller is tried.
const TRIES: u32 = 3;
/// The longest pause, in units of the first one.
const LONGEST: u32 = 8;

/// Rows and bytes that a batch has at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Rows.
    pub rows: u64,
    /// Bytes, as Arrow has them in memory.
    pub bytes: u64,
}

impl Limit {
    /// How many rows of a chunk still go into a buffer that holds `held`, rows and bytes. The first row always does, so that one
    /// that is larger than the buffer has a way through.
    pub fn room(self, held: (u64, u64), chunk: (u64, u64)) -> u64 {
        let (rows, bytes) = chunk;
        let by_rows = rows.min(self.rows.saturating_sub(held.0));
        let left = self.bytes.saturating_sub(held.1);
        let fits = if bytes <= left {
            rows
        } else {
            u64::try_from(u128::from(rows) * u128::from(left) / u128::from(bytes)).unwrap_or(rows)
        };
        let least = u64::from(held.0 == 0 && rows > 0);
        by_rows.min(fits).max(least)
    }
}

/// What comes after a batch that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The same rows again, in batches of the present size, after a pause.
    Again(Duration),
    /// The load ends.
    GiveUp,
}

/// The size of batches, as it changes.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    most: Limit,
    rows: u64,
    /// Batches of a commit, at most.
    together: u64,
    quiet: u32,
    failures: u32,
    conflicts: u32,
    tries: u32,
    backoff: Duration,
    retries: u32,
}

impl Pace {
    /// Batches of at most `most`; pauses begin with `backoff`, and a conflict is retried `retries` times.
    pub(super) fn new(most: Limit, backoff: Duration, retries: u32) -> Self {
        Pace {
            most,
            rows: most.rows,
            together: 1,
            quiet: 0,
            failures: 0,
            conflicts: 0,
            tries: 0,
            backoff,
            retries,
        }
    }

    fn fewest(&self) -> u64 {
        FEWEST.min(self.most.rows)
    }

    /// Rows and bytes of the next batch.
    pub(super) fn limit(&self) -> Limit {
        let share = u128::from(self.most.bytes) * u128::from(self.rows) / u128::from(self.most.rows.max(1));
        Limit {
            rows: self.rows,
            bytes: u64::try_from(share).unwrap_or(u64::MAX).max(1),
        }
    }

    /// Whether nothing is left but to try as everything else is tried: the batch cannot be smaller.
    pub(super) fn last_resort(&self) -> bool {
        self.rows <= self.fewest()
    }

    /// Before a batch is filled: `pressed` says that memory is short.
    pub(super) fn before(&mut self, pressed: bool) {
        if pressed {
            self.halve(self.rows);
        } else if self.quiet >= QUIET && self.rows < self.most.rows {
            self.rows = (self.rows * 2).min(self.most.rows);
            self.quiet = 0;
        }
    }

    /// Whether one more batch is to be committed with those that are in the buffer, `held`, of which `last` came last.
    pub(super) fn joins(&self, held: Filled, last: Filled) -> bool {
        let rows = held.rows.saturating_add(self.rows);
        !last.ended
            // A batch that is cut short, for its bytes or its types, is the last one.
            && last.rows == self.rows
            && self.rows == self.most.rows
            && rows <= self.rows.saturating_mul(self.together).min(TOGETHER)
            && held.bytes.saturating_add(last.bytes) <= self.most.bytes
            && held.time + last.time <= PATIENCE
    }

    /// Of a buffer that was filled: while the source makes us wait, each batch is committed at once.
    pub(super) fn filled(&mut self, held: Filled) {
        if held.time > PATIENCE {
            self.alone();
        }
    }

    /// From now on each batch has a commit of its own, until some have gone well.
    pub(super) fn alone(&mut self) {
        self.together = 1;
    }

    fn halve(&mut self, from: u64) {
        self.alone();
        self.rows = (from / 2).max(self.fewest());
        self.quiet = 0;
    }

    /// What was in a transaction was committed.
    pub(super) fn committed(&mut self) {
        self.together = self.together.saturating_mul(2);
        self.quiet = self.quiet.saturating_add(1);
        (self.failures, self.conflicts, self.tries) = (0, 0, 0);
    }

    /// Memory did not suffice for a batch of `rows`.
    pub(super) fn short_of_memory(&mut self, rows: u64) -> Next {
        let smallest = rows <= self.fewest();
        self.halve(rows.min(self.rows));
        self.tries += u32::from(smallest);
        if self.tries >= TRIES {
            return Next::GiveUp;
        }
        self.failures += 1;
        // The first time it was the batch; after that it may be somebody else, who takes time.
        Next::Again(self.pause(self.failures - 1))
    }

    /// Somebody else changed what the batch was to change.
    pub(super) fn conflict(&mut self) -> Next {
        self.alone();
        self.conflicts += 1;
        if self.conflicts > self.retries {
            return Next::GiveUp;
        }
        Next::Again(self.pause(self.conflicts))
    }

    fn pause(&self, failures: u32) -> Duration {
        match failures {
            0 => Duration::ZERO,
            more => self.backoff * 2_u32.saturating_pow(more - 1).min(LONGEST),
        }
    }
}

/// Rows and bytes where the user names none: `budget` is what may be taken of memory.
pub fn default_bytes(budget: Bytes) -> Bytes {
    Bytes((budget.get() / 16).clamp(Bytes::mib(1).get(), Bytes::mib(128).get()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(rows: u64) -> Pace {
        Pace::new(Limit { rows, bytes: 1 << 20 }, Duration::from_secs(1), 3)
    }

    proptest! {
        #[test]
        fn a_buffer_is_never_overfilled_and_always_moves(
            rows in 1_u64..1000, bytes in 1_u64..10_000, chunks in proptest::collection::vec((0_u64..500, 0_u64..5000), 1..20)
        ) {
            let limit = Limit { rows, bytes };
            let mut held = (0, 0);
            for (n, b) in chunks {
                let taken = limit.room(held, (n, b));
                prop_assert!(taken <= n);
                prop_assert!(held.0 > 0 || n == 0 || taken > 0, "an empty buffer takes something");
                let used = if n == 0 { 0 } else { u64::try_from(u128::from(b) * u128::from(taken) / u128::from(n)).unwrap() };
                let before = held;
                held = (held.0 + taken, held.1 + used);
                prop_assert!(held.0 <= rows);
                prop_assert!(taken == 0 || held.1 <= bytes || before.0 == 0);
            }
        }

        #[test]
        fn a_batch_stays_between_its_bounds(most in 1_u64..5_000_000, steps in proptest::collection::vec(0_u8..4, 0..200)) {
            let mut pace = pace(most);
            for step in steps {
                match step {
                    0 => pace.before(true),
                    1 => pace.before(false),
                    2 => pace.committed(),
                    _ => { pace.short_of_memory(pace.limit().rows); }
                }
                let rows = pace.limit().rows;
                prop_assert!((FEWEST.min(most)..=most).contains(&rows));
            }
        }
    }

    #[test]
    fn pressure_halves_and_quiet_doubles() {
        let mut pace = pace(100_000);
        pace.before(true);
        assert_eq!((pace.limit().rows, pace.limit().bytes), (50_000, 1 << 19));
        for _ in 0..QUIET {
            pace.before(false);
            assert_eq!(pace.limit().rows, 50_000);
            pace.committed();
        }
        pace.before(false);
        assert_eq!(pace.limit().rows, 100_000);
    }

    #[test]
    fn a_commit_covers_more_and_more_batches_of_a_source_that_does_not_make_wait() {
        let came = |rows, millis| Filled {
            rows,
            bytes: rows,
            time: Duration::from_millis(millis),
            ended: false,
        };
        let mut pace = pace(100_000);
        let most = |pace: &Pace| {
            (1_u64..)
                .find(|batches| !pace.joins(came(batches * 100_000, 1), came(100_000, 1)))
                .unwrap()
        };
        let mut found = Vec::new();
        for _ in 0..5 {
            found.push(most(&pace));
            pace.committed();
        }
        assert_eq!(found, [1, 2, 4, 8, 10], "up to a million rows");
        assert!(
            !pace.joins(came(200_000, 1), came(50_000, 1)),
            "one was cut short"
        );
        assert!(!pace.joins(came(200_000, 1990), came(100_000, 20)), "too slow");
        let large = Filled {
            bytes: 600_000,
            ..came(100_000, 1)
        };
        assert!(!pace.joins(large, large), "too large");
        let last = Filled {
            ended: true,
            ..came(100_000, 1)
        };
        assert!(!pace.joins(last, last), "there is no more");
        pace.filled(came(100_000, 2001));
        assert_eq!(most(&pace), 1);
        pace.committed();
        assert_eq!(most(&pace), 2);
        pace.before(true);
        assert!(!pace.joins(came(50_000, 1), came(50_000, 1)), "memory is short");
    }

    #[test]
    fn too_little_memory_halves_down_to_the_smallest_and_then_gives_up() {
        let mut pace = pace(4000);
        assert_eq!(pace.short_of_memory(4000), Next::Again(Duration::ZERO));
        assert_eq!(pace.short_of_memory(2000), Next::Again(Duration::from_secs(1)));
        assert!(pace.last_resort());
        assert!(matches!(pace.short_of_memory(1000), Next::Again(_)));
        assert!(matches!(pace.short_of_memory(1000), Next::Again(_)));
        assert_eq!(pace.short_of_memory(1000), Next::GiveUp);
    }

    #[test]
    fn conflicts_are_retried_a_few_times() {
        let mut pace = pace(10);
        let seconds = Duration::from_secs;
        let found: Vec<_> = (0..4).map(|_| pace.conflict()).collect();
        assert_eq!(
            found,
            [
                Next::Again(seconds(1)),
                Next::Again(seconds(2)),
                Next::Again(seconds(4)),
                Next::GiveUp
            ]
        );
        pace.committed();
        assert_eq!(pace.conflict(), Next::Again(seconds(1)));
    }
}
