//! [`Event`]: the one record of everything that happens. Callbacks, logs, reports and pages are its subscribers.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::clock::SharedClock;
use crate::error::ErrorKind;
use crate::guard::Level;
use crate::units::Bytes;

/// One thing that happened, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// Everything that can happen. In JSON the variant is the field `event`, in snake case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum What {
    /// A connection came under guard.
    GuardStarted {
        /// The ward's number in this process.
        ward: u64,
        /// The budget in force.
        budget: Bytes,
        /// Where the budget comes from, for people.
        source: String,
    },
    /// A ward was closed and everything it changed was put back, but for what is named.
    GuardStopped {
        /// The ward's number.
        ward: u64,
        /// What could not be put back, with the reason; empty when all was.
        left: Vec<String>,
    },
    /// Memory moved into another level.
    LevelChanged {
        /// The level before.
        from: Level,
        /// The level now.
        to: Level,
        /// Memory that counts.
        used: Bytes,
        /// The limit it counts against.
        limit: Bytes,
    },
    /// The guard acted.
    ActionTaken {
        /// The action, as in the settings (`clean_up`, `limit_memory`, ...).
        action: String,
        /// What it did, for people.
        detail: String,
    },
    /// An action was tried and did not work; the others go on.
    ActionFailed {
        /// The action.
        action: String,
        /// Why not.
        reason: String,
    },
    /// An action was taken back.
    ActionUndone {
        /// The action.
        action: String,
        /// What was put back, for people.
        detail: String,
    },
    /// After an emergency: whether memory fell.
    ReliefVerified {
        /// Whether it fell below the emergency threshold in time.
        fell: bool,
        /// Memory that counts, before.
        before: Bytes,
        /// Memory that counts, now.
        after: Bytes,
        /// Milliseconds in between.
        after_ms: u64,
    },
    /// A query waits for room.
    QueryQueued {
        /// The query's number in this process.
        query: u64,
        /// How many wait before it.
        ahead: usize,
    },
    /// An attempt at a query begins.
    AttemptStarted {
        /// The query's number.
        query: u64,
        /// The attempt, from 1.
        attempt: u32,
        /// The rung it runs on.
        rung: String,
    },
    /// The guard or the user asked DuckDB to stop a query.
    QueryInterrupted {
        /// The query's number; none for a query that the user runs on the connection directly.
        query: Option<u64>,
        /// Why.
        reason: String,
    },
    /// An attempt failed.
    AttemptFailed {
        /// The query's number.
        query: u64,
        /// The attempt, from 1.
        attempt: u32,
        /// The rung it ran on.
        rung: String,
        /// What failed.
        failure: String,
        /// The engine's message.
        message: String,
    },
    /// A query ended.
    QueryEnded {
        /// The query's number.
        query: u64,
        /// None when it was answered.
        error: Option<ErrorKind>,
        /// How many attempts it took.
        attempts: u32,
        /// Rows handed out, where they are counted.
        rows: Option<u64>,
        /// Wall time from the call, waiting included.
        milliseconds: u64,
        /// Largest memory that counts while it ran.
        peak: Bytes,
    },
    /// An answer was moved to disk because memory had no room for it.
    AnswerSpooled {
        /// The query's number.
        query: u64,
        /// Bytes written.
        bytes: Bytes,
    },
    /// A piece of a query that runs in pieces is done.
    PieceDone {
        /// The query's number.
        query: u64,
        /// How many are done.
        piece: u32,
        /// Rows that went into it, where they are counted.
        rows: Option<u64>,
        /// How far all of it is, from 0 to 1.
        share: f64,
    },
    /// A share of a source is in pieces, on the disk; not yet proved.
    ShareWritten {
        /// The directory that it is for.
        path: String,
        /// Shares that are written.
        written: usize,
        /// Shares.
        shares: usize,
    },
    /// A partitioning was proved, and is where it should be.
    PartitionPublished {
        /// The directory.
        path: String,
        /// Pieces that have rows.
        pieces: usize,
        /// Rows of all pieces.
        rows: u64,
    },
    /// A batch of a load was committed.
    BatchCommitted {
        /// What the load is known by.
        token: String,
        /// The batch, from 1 in each call.
        batch: u64,
        /// Rows inserted.
        rows: u64,
        /// Records rejected.
        rejected: u64,
        /// Records of the source that are behind the load now.
        position: u64,
    },
    /// A file that should hold a history could not be read as one and was moved aside; it begins anew.
    HistoryMovedAside {
        /// Its name.
        path: String,
        /// Its name now.
        to: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What was learnt of queries could not be kept; it is tried again later, while the ward is open.
    HistoryNotKept {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// A callback raised; the query went on.
    CallbackFailed {
        /// What it raised.
        message: String,
    },
}

impl What {
    /// The name of the variant, as in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            What::GuardStarted { .. } => "guard_started",
            What::GuardStopped { .. } => "guard_stopped",
            What::LevelChanged { .. } => "level_changed",
            What::ActionTaken { .. } => "action_taken",
            What::ActionFailed { .. } => "action_failed",
            What::ActionUndone { .. } => "action_undone",
            What::ReliefVerified { .. } => "relief_verified",
            What::QueryQueued { .. } => "query_queued",
            What::AttemptStarted { .. } => "attempt_started",
            What::QueryInterrupted { .. } => "query_interrupted",
            What::AttemptFailed { .. } => "attempt_failed",
            What::QueryEnded { .. } => "query_ended",
            What::AnswerSpooled { .. } => "answer_spooled",
            What::PieceDone { .. } => "piece_done",
            What::ShareWritten { .. } => "share_written",
            What::PartitionPublished { .. } => "partition_published",
            What::BatchCommitted { .. } => "batch_committed",
            What::HistoryMovedAside { .. } => "history_moved_aside",
            What::HistoryNotKept { .. } => "history_not_kept",
            What::CallbackFailed { .. } => "callback_failed",
        }
    }
}

/// Receives events. May be called from any thread and should return soon; an error is published, never raised.
pub type Subscriber = Arc<dyn Fn(&Event) -> Result<(), String> + Send + Sync>;

/// A subscription; see [`Bus::unsubscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionId(u64);

/// Hands every event to every subscriber, and to `tracing`.
pub struct Bus {
    clock: SharedClock,
    subscribers: Mutex<(u64, Vec<(SubscriptionId, Subscriber)>)>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("subscribers", &self.subscribers.lock().1.len())
            .finish()
    }
}

impl Bus {
    /// A bus without subscribers that stamps events by `clock`.
    pub fn new(clock: SharedClock) -> Self {
        Bus {
            clock,
            subscribers: Mutex::new((0, Vec::new())),
        }
    }

    /// From now on `subscriber` receives every event.
    pub fn subscribe(&self, subscriber: Subscriber) -> SubscriptionId {
        let mut subscribers = self.subscribers.lock();
        subscribers.0 += 1;
        let id = SubscriptionId(subscribers.0);
        subscribers.1.push((id, subscriber));
        id
    }

    /// Ends a subscription; whether there was one.
    pub fn unsubscribe(&self, id: SubscriptionId) -> bool {
        let mut subscribers = self.subscribers.lock();
        let before = subscribers.1.len();
        subscribers.1.retain(|(other, _)| *other != id);
        subscribers.1.len() < before
    }

    /// Publishes `what`. A subscriber that fails or panics is reported to the others and to the log.
    pub fn publish(&self, what: What) {
        let event = Event {
            unix_ms: self.clock.unix_ms(),
            what,
        };
        let failed = self.deliver(&event, None);
        for (id, message) in failed {
            // Told once, and to the others: the one that failed would fail again, for ever.
            self.deliver(
                &Event {
                    unix_ms: event.unix_ms,
                    what: What::CallbackFailed { message },
                },
                Some(id),
            );
        }
    }

    /// Hands `event` to every subscriber but one; who failed, and how.
    fn deliver(&self, event: &Event, but: Option<SubscriptionId>) -> Vec<(SubscriptionId, String)> {
        log(event);
        // Copied: a subscriber may subscribe or unsubscribe.
        let subscribers: Vec<(SubscriptionId, Subscriber)> = self
            .subscribers
            .lock()
            .1
            .iter()
            .filter(|(id, _)| Some(*id) != but)
            .cloned()
            .collect();
        subscribers
            .iter()
            .filter_map(
                |(id, subscriber)| match catch_unwind(AssertUnwindSafe(|| subscriber(event))) {
                    Ok(outcome) => outcome.err().map(|message| (*id, message)),
                    Err(_) => Some((*id, "the callback panicked".to_owned())),
                },
            )
            .collect()
    }
}

/// Writes the log to standard error from now on, for what `filter` lets through ("info", "duckward=debug"). The first
/// call of a process holds; a host that has a subscriber of its own keeps it.
pub fn log_to_stderr(filter: &str) {
    let Ok(filter) = filter.parse::<tracing_subscriber::EnvFilter>() else {
        return;
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // Somebody else's subscriber is there already.
    let _ = subscriber.try_init();
}

fn log(event: &Event) {
    let name = event.what.name();
    let json = || serde_json::to_string(&event.what).unwrap_or_default();
    match &event.what {
        What::ActionFailed { .. }
        | What::HistoryMovedAside { .. }
        | What::HistoryNotKept { .. }
        | What::CallbackFailed { .. } => {
            tracing::warn!(target: "duckward", event = name, "{}", json());
        }
        What::LevelChanged { to, .. } if *to >= Level::Critical => {
            tracing::warn!(target: "duckward", event = name, "{}", json());
        }
        _ if tracing::enabled!(target: "duckward", tracing::Level::INFO) => {
            tracing::info!(target: "duckward", event = name, "{}", json());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn bus_with_record() -> (Bus, Arc<Mutex<Vec<Event>>>) {
        let bus = Bus::new(ManualClock::new());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        bus.subscribe(Arc::new(move |event| {
            record.lock().push(event.clone());
            Ok(())
        }));
        (bus, seen)
    }

    #[test]
    fn json_keeps_an_event_and_names_it_as_name_does() {
        let event = Event {
            unix_ms: 7,
            what: What::LevelChanged {
                from: Level::Normal,
                to: Level::Warning,
                used: Bytes(8),
                limit: Bytes(10),
            },
        };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["event"], event.what.name());
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }

    #[test]
    fn a_failing_and_a_panicking_subscriber_are_reported_to_the_others_and_stop_nobody() {
        let (bus, seen) = bus_with_record();
        bus.subscribe(Arc::new(|_| Err("no disk".to_owned())));
        bus.subscribe(Arc::new(|_| panic!("oops")));
        bus.publish(What::QueryQueued { query: 1, ahead: 0 });
        let names: Vec<_> = seen.lock().iter().map(|event| event.what.name()).collect();
        assert_eq!(names, ["query_queued", "callback_failed", "callback_failed"]);
    }

    #[test]
    fn an_ended_subscription_hears_nothing() {
        let (bus, seen) = bus_with_record();
        let id = bus.subscribe(Arc::new(|_| Err("still here".to_owned())));
        assert!(bus.unsubscribe(id));
        assert!(!bus.unsubscribe(id));
        bus.publish(What::QueryQueued { query: 1, ahead: 0 });
        assert_eq!(seen.lock().len(), 1);
    }
}
