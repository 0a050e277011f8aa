//! What must hold whatever happens. Each is one function, called after every step or at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use duckward::Level;
use duckward::clock::Moment;
use duckward::engine::scripted::{Asked, Database};
use duckward::event::{Event, What};
use duckward::fallback::ladder::Rung;
use duckward::guard::Guardian;
use duckward::guard::elastic::FLOOR;
use duckward::guard::pressure::Thresholds;
use duckward::settings::Settings;
use duckward::units::Bytes;

use super::Caller;

/// A permit is out for every query that runs or is being read, and for no other.
///
/// Why: a lost permit blocks a place for ever, a doubled one lets more run than fit. Edge: whoever waits in line may
/// have been called and not have looked yet; it counts as running.
pub(crate) fn no_permit_is_lost(guardian: &Guardian, callers: &[Caller]) {
    let holding = callers.iter().filter(|caller| caller.runs.is_some()).count();
    let queued = callers
        .iter()
        .filter(|caller| caller.called && caller.runs.is_none())
        .count();
    let running = guardian.admission().running();
    assert!(
        holding <= running && running <= holding + queued,
        "{running} permits are out; {holding} queries run and {queued} may have been called"
    );
}

/// While a query runs degraded, no other runs.
///
/// Why: its settings hold for the whole instance, and it was given the memory of all. Edge: a query that has been
/// called meanwhile does not run yet, but it may not have been called either.
pub(crate) fn the_degraded_rung_is_alone(callers: &[Caller]) {
    let rungs: Vec<Rung> = callers.iter().filter_map(|caller| caller.runs).collect();
    assert!(!rungs.contains(&Rung::Degraded) || rungs.len() == 1, "{rungs:?}");
}

/// After a reading the level is at least what its share demands, and is kept no longer than hysteresis and dwell allow.
///
/// Why: lower, the guard would be late; higher, it would hold queries back for nothing. Edge: a share exactly at a
/// threshold belongs to the level above it; a level is left at the reading at which the dwell has passed, not after.
pub(crate) struct LevelFollows {
    below_since: Option<(Level, Moment)>,
}

impl LevelFollows {
    pub(crate) fn new() -> Self {
        LevelFollows { below_since: None }
    }

    pub(crate) fn check(&mut self, guardian: &Guardian, now: Moment, settings: &Settings) {
        let thresholds = Thresholds::from(settings);
        let (share, level) = (guardian.usage().share(), guardian.level());
        let demanded = thresholds.level_of(share);
        assert!(level >= demanded, "{level} at {share}, which demands {demanded}");
        if thresholds.level_held_by(share) >= level {
            self.below_since = None;
            return;
        }
        let since = match self.below_since {
            Some((kept, since)) if kept == level => since,
            _ => now,
        };
        self.below_since = Some((level, since));
        let kept = now.since(since);
        assert!(kept < settings.dwell, "{level} is kept for {kept:?} at {share}");
    }
}

/// After a reading exactly the actions of the level and of those below it are in force, oldest first.
///
/// Why: an action more is a restriction that nobody takes back; one less is a promise of the settings not kept.
/// Edge: caution has none that last. Two forms of one action lie on each other.
pub(crate) fn the_actions_match_the_level(guardian: &Guardian) {
    let mut expected: Vec<&str> = Vec::new();
    let level = guardian.level();
    if level >= Level::Warning {
        expected.extend(["limit_concurrency"]);
    }
    if level >= Level::Critical {
        expected.extend(["limit_concurrency", "queue_new", "limit_memory"]);
    }
    if level >= Level::Emergency {
        expected.extend(["refuse_new", "limit_memory", "spill_early", "lower_checkpoint"]);
    }
    assert_eq!(guardian.actions(), expected, "at {level}");
}

/// `memory_limit` is at least the floor and at most what it was before the guard.
///
/// Why: below, DuckDB does no useful work; above, the guard would give away what the user had not. Edge: the limit is
/// printed with one decimal, so what it was is known to a tenth of the printed unit only.
pub(crate) fn the_limit_is_within_its_bounds(database: &Database, original: Bytes) {
    let limit = database.memory_limit();
    assert!(
        limit >= FLOOR.min(original) && limit <= original.plus(Bytes::mib(1)),
        "{limit} is not between {FLOOR} and {original}"
    );
}

/// An interrupt reaches only a query that was to be stopped, and never one that must not be.
///
/// Why: interrupted, a COMMIT's outcome is unknown; the next query is somebody's who asked for nothing. Edge: an
/// interrupt that comes when nothing runs is lost, which is allowed.
pub(crate) fn interrupts_reach_only_whom_they_are_for(
    databases: &[Database],
    events: &[Event],
    numbers: &BTreeMap<String, u64>,
) {
    let stopped: BTreeSet<u64> = events
        .iter()
        .filter_map(|event| match event.what {
            What::QueryInterrupted { query, .. } => query,
            _ => None,
        })
        .collect();
    for asked in databases.iter().flat_map(Database::asked) {
        if let Asked::Interrupt(Some(sql)) = asked {
            assert!(!sql.starts_with("commit"), "interrupted: {sql}");
            let number = numbers.get(&sql);
            assert!(
                number.is_some_and(|number| stopped.contains(number)),
                "interrupted for another: {sql}"
            );
        }
    }
}

/// Every query that was called has ended once, after its last attempt; and its attempts are numbered without a gap.
///
/// Why: whoever follows the events must be able to tell what runs. Edge: one that never started (refused, or waited
/// too long) ends without an attempt.
pub(crate) fn every_query_ends_once(events: &[Event], called: usize) {
    let mut attempts: BTreeMap<u64, u32> = BTreeMap::new();
    let mut ended = BTreeSet::new();
    for event in events {
        match &event.what {
            What::AttemptStarted { query, attempt, .. } => {
                assert!(!ended.contains(query), "an attempt after the end of {query}");
                let before = attempts.insert(*query, *attempt).unwrap_or(0);
                assert_eq!(*attempt, before + 1, "attempts of {query}");
            }
            What::AttemptFailed { query, attempt, .. } => {
                assert_eq!(
                    attempts.get(query),
                    Some(attempt),
                    "{query} failed before it started"
                );
            }
            What::QueryEnded {
                query,
                attempts: told,
                ..
            } => {
                assert!(ended.insert(*query), "{query} ended twice");
                assert_eq!(
                    *told,
                    attempts.get(query).copied().unwrap_or(0),
                    "attempts of {query}"
                );
            }
            _ => {}
        }
    }
    assert_eq!(
        ended.len(),
        called,
        "queries that ended, of those that were called"
    );
}

/// Whoever is answered gets every row once, in order; whoever is not, gets no rows before another attempt.
///
/// Why: a wrong or doubled answer is worse than none. Edge: an answer that breaks off has handed out its first rows,
/// and there is no further attempt then.
pub(crate) fn never_two_answers(events: &[Event], answered: &BTreeMap<u64, u32>) {
    for (query, attempt) in answered {
        for event in events {
            if let What::AttemptStarted {
                query: other,
                attempt: later,
                ..
            } = &event.what
            {
                assert!(
                    other != query || later <= attempt,
                    "{query} ran again after its answer was handed out"
                );
            }
        }
    }
}

/// When the last ward is gone, every setting of every database is as it was.
///
/// Why: it is the user's connection. Edge: `memory_limit` too, not only in what it says but in what holds.
pub(crate) fn every_setting_is_restored(database: &Database, before: &BTreeMap<String, String>, held: Bytes) {
    assert_eq!(&database.settings(), before);
    let holds = database.memory_limit();
    assert!(
        holds.get().abs_diff(held.get()) <= Bytes::mib(1).get(),
        "{holds} holds, not {held}"
    );
}

/// Longest time that a simulated query may take, all told.
pub(crate) const LONGEST: Duration = Duration::from_secs(900);
