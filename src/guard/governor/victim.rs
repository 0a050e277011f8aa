//! Whom an interrupt hits. Pure.

use std::cmp::Reverse;
use std::time::Duration;

use crate::clock::Moment;
use crate::settings::Victim;
use crate::units::Bytes;

/// How long a query must have run before [`Victim::Longest`] prefers it.
const LONG: Duration = Duration::from_secs(30);

/// A query that runs, as the choice of a victim sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningQuery {
    /// The query's number in this process.
    pub id: u64,
    /// When it started.
    pub started: Moment,
    /// How much memory grew since.
    pub growth: Bytes,
    /// False for COMMIT and CHECKPOINT: DuckDB may raise "interrupted" although their work is done and durable.
    pub interruptible: bool,
    /// When it was interrupted, if it was and has not ended.
    pub already_interrupted: Option<Moment>,
}

impl RunningQuery {
    /// Whether an interrupt may hit it: not for the first time again, and never while it must not be cut short.
    pub fn may_be_chosen(&self) -> bool {
        self.interruptible && self.already_interrupted.is_none()
    }
}

/// The query to interrupt, if there is one that may be. Between equals the youngest goes: it loses the least work.
pub fn choose_victim(queries: &[RunningQuery], policy: Victim, now: Moment) -> Option<u64> {
    let may = || queries.iter().filter(|query| query.may_be_chosen());
    let largest = || may().max_by_key(|query| (query.growth, query.started, query.id));
    let chosen = match policy {
        Victim::Largest => largest(),
        Victim::Longest => may()
            .filter(|query| now.since(query.started) > LONG)
            .max_by_key(|query| (Reverse(query.started), query.growth, query.id))
            .or_else(largest),
    };
    chosen.map(|query| query.id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(s: u64) -> Moment {
        Moment::at(Duration::from_secs(s))
    }

    fn query(id: u64, started: u64, mib: u64) -> RunningQuery {
        RunningQuery {
            id,
            started: second(started),
            growth: Bytes::mib(mib),
            interruptible: true,
            already_interrupted: None,
        }
    }

    #[test]
    fn the_largest_goes_first_and_of_equals_the_youngest() {
        let queries = [
            query(1, 0, 10),
            query(2, 5, 300),
            query(3, 9, 20),
            query(4, 7, 300),
        ];
        assert_eq!(choose_victim(&queries, Victim::Largest, second(10)), Some(4));
    }

    #[test]
    fn the_longest_goes_first_only_after_thirty_seconds() {
        let queries = [query(1, 0, 10), query(2, 5, 300)];
        assert_eq!(choose_victim(&queries, Victim::Longest, second(30)), Some(2));
        assert_eq!(choose_victim(&queries, Victim::Longest, second(31)), Some(1));
    }

    #[test]
    fn nobody_is_chosen_when_nobody_may_be() {
        assert_eq!(choose_victim(&[], Victim::Largest, second(0)), None);
        let commit = RunningQuery {
            interruptible: false,
            ..query(1, 0, 900)
        };
        let hit = RunningQuery {
            already_interrupted: Some(second(1)),
            ..query(2, 0, 900)
        };
        assert_eq!(choose_victim(&[commit, hit], Victim::Largest, second(99)), None);
    }

    prop_compose! {
        fn any_query()(id in 0u64..50, started in 0u64..90, mib in 0u64..9, may in any::<bool>(), hit in any::<bool>())
            -> RunningQuery {
            RunningQuery {
                interruptible: may,
                already_interrupted: hit.then_some(Moment::default()),
                ..query(id, started, mib)
            }
        }
    }

    proptest! {
        #[test]
        fn whoever_is_chosen_may_be_interrupted_and_no_larger_one_may(
            queries in proptest::collection::vec(any_query(), 0..8),
        ) {
            let may: Vec<_> = queries.iter().filter(|query| query.may_be_chosen()).collect();
            for policy in [Victim::Largest, Victim::Longest] {
                let chosen = choose_victim(&queries, policy, second(90));
                prop_assert_eq!(chosen.is_some(), !may.is_empty());
                prop_assert!(chosen.is_none_or(|id| may.iter().any(|query| query.id == id)));
            }
            if let Some(id) = choose_victim(&queries, Victim::Largest, second(90)) {
                let largest = may.iter().map(|query| query.growth).max();
                prop_assert!(may.iter().any(|query| query.id == id && Some(query.growth) == largest));
            }
        }
    }
}
