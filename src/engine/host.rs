//! A connection that the host program already has: what runs on it through a ward, and how exactly that is stopped.
//!
//! An interrupt has no address: DuckDB stops whatever the connection runs when it arrives, and forgets an interrupt
//! that arrives between two statements. So a stop is recorded here first, sent again until the query has ended, and
//! the query does not end while one is being sent; it never reaches the next query.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Interrupt;
use crate::clock::Moment;
use crate::units::Bytes;

/// Why a running query is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Memory reached the emergency level.
    Memory,
    /// It ran longer than `query_timeout`.
    Timeout,
    /// `cancel()` was called.
    Cancel,
    /// The user pressed Ctrl-C.
    Signal,
}

impl Stop {
    /// For events and messages.
    pub fn reason(self) -> &'static str {
        match self {
            Stop::Memory => "memory reached the emergency level",
            Stop::Timeout => "query_timeout passed",
            Stop::Cancel => "cancel() was called",
            Stop::Signal => "Ctrl-C",
        }
    }
}

/// A query that runs on a connection now.
#[derive(Clone, Copy, Debug)]
pub struct Active {
    /// Its number in this process.
    pub query: u64,
    /// False for COMMIT, CHECKPOINT and the like, whose outcome an interrupt would leave unknown.
    pub interruptible: bool,
    /// Whether it runs on the thread that a Ctrl-C is meant for.
    pub heeds_signals: bool,
    /// When this attempt began.
    pub started: Moment,
    /// When it is stopped at the latest.
    pub deadline: Option<Moment>,
    /// Memory that counted when it began.
    pub base: Bytes,
    /// Largest memory that counted since.
    pub peak: Bytes,
    /// Largest temporary storage seen since.
    pub spilled: Bytes,
    /// How far it is, from 0 to 1, while it runs in pieces: only then does anybody here know.
    pub share: Option<f64>,
    /// Why it is being stopped, and when that was last sent.
    pub stop: Option<(Stop, Moment)>,
}

/// A part of a longer work, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    /// Where it begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
}

impl Stretch {
    /// Where in the work a share of this is.
    pub fn at(self, share: f64) -> f64 {
        self.from + (self.to - self.from) * share.clamp(0.0, 1.0)
    }

    /// Part `done` of `all` like parts of it, from 0.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
    pub fn part(self, done: usize, all: usize) -> Self {
        let all = all.max(1);
        let at = |parts: usize| self.at(parts as f64 / all as f64);
        Stretch {
            from: at(done),
            to: at(done + 1),
        }
    }
}

/// A work of several statements.
#[derive(Clone, Copy, Debug)]
struct Work {
    /// What its next statements are of it.
    now: Stretch,
    /// The furthest that was told: what is tried again does not go back.
    furthest: f64,
}

#[derive(Debug, Default)]
struct State {
    active: Option<Active>,
    sending: bool,
    work: Option<Work>,
}

/// How long after one interrupt the next is sent, if the query has not ended.
const RESEND: Duration = Duration::from_millis(25);

/// One connection under guard. Used by one query at a time.
pub struct Connection {
    interrupt: Arc<dyn Interrupt>,
    state: Mutex<State>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("active", &self.active())
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection that `interrupt` stops.
    pub fn new(interrupt: Arc<dyn Interrupt>) -> Arc<Self> {
        Arc::new(Connection {
            interrupt,
            state: Mutex::new(State::default()),
        })
    }

    /// What runs now.
    pub fn active(&self) -> Option<Active> {
        self.state.lock().active
    }

    /// Why what runs now is being stopped, if it is.
    pub fn stopping(&self) -> Option<Stop> {
        self.active()?.stop.map(|(stop, _)| stop)
    }

    /// From now on `active` runs here. False, and nothing changed, when another query still does. Waits while an
    /// interrupt is being sent: it is for what the host ran itself, and must not reach this query.
    ///
    /// As for [`Connection::end`], a lock which the interrupt needs must be released first.
    pub fn begin(&self, active: Active) -> bool {
        let mut state = self.unsent();
        if state.active.is_some() {
            return false;
        }
        state.active = Some(active);
        true
    }

    /// The state, at a moment when no interrupt is under way.
    fn unsent(&self) -> parking_lot::MutexGuard<'_, State> {
        loop {
            let state = self.state.lock();
            if !state.sending {
                return state;
            }
            drop(state);
            std::thread::yield_now();
        }
    }

    /// The query has ended; what was seen of it. Waits while an interrupt is being sent, so that none can arrive later.
    ///
    /// A caller that holds a lock which the interrupt needs (the Python GIL) must release it first.
    pub fn end(&self, query: u64) -> Option<Active> {
        let mut state = self.unsent();
        if state.active.is_none_or(|active| active.query != query) {
            return None;
        }
        state.active.take()
    }

    /// Stops `query` if it still runs here and may be interrupted; whether a stop is now under way.
    /// The first reason stays.
    pub fn stop(&self, query: u64, why: Stop, now: Moment) -> bool {
        let mut state = self.state.lock();
        match &mut state.active {
            Some(active) if active.query == query && active.interruptible => {
                active.stop = Some((active.stop.map_or(why, |(first, _)| first), now));
            }
            _ => return false,
        }
        self.send(state);
        true
    }

    /// What stopped `query` has been answered by another plan: it goes on. Waits while an interrupt is being sent.
    ///
    /// As for [`Connection::end`], a lock which the interrupt needs must be released first.
    pub fn forget_stop(&self, query: u64) {
        let mut state = self.unsent();
        if let Some(active) = state.active.as_mut().filter(|active| active.query == query) {
            active.stop = None;
        }
    }

    /// From now on `query` is not interrupted any more, because what is left of it is a COMMIT. A stop that was asked for before
    /// comes too late. Waits while an interrupt is being sent.
    ///
    /// As for [`Connection::end`], a lock which the interrupt needs must be released first.
    pub fn finishes(&self, query: u64) {
        let mut state = self.unsent();
        if let Some(active) = state.active.as_mut().filter(|active| active.query == query) {
            active.interruptible = false;
            active.stop = None;
        }
    }

    /// Sends the interrupt again if a stop is under way and the last one is some milliseconds old.
    pub fn resend(&self, now: Moment) {
        let mut state = self.state.lock();
        if let Some(Active {
            stop: Some((_, sent)),
            ..
        }) = &mut state.active
            && now.since(*sent) >= RESEND
        {
            *sent = now;
            self.send(state);
        }
    }

    /// Interrupts whatever the host itself runs here; only while no query of ours does.
    pub fn interrupt_host(&self) {
        let state = self.state.lock();
        if state.active.is_none() {
            self.send(state);
        }
    }

    fn send(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        if state.sending {
            return;
        }
        state.sending = true;
        // Unlocked: the interrupt may need a lock (the GIL) whose holder waits for ours in `end`.
        drop(state);
        self.interrupt.interrupt();
        self.state.lock().sending = false;
    }

    /// Takes note of how far `query` is, from 0 to 1.
    pub fn reached(&self, query: u64, share: f64) {
        let mut state = self.state.lock();
        if let Some(active) = state.active.as_mut().filter(|active| active.query == query) {
            active.share = Some(share);
        }
    }

    /// From now on the statements that run here are this part of a longer work; none when it is over.
    pub fn works(&self, now: Option<Stretch>) {
        let mut state = self.state.lock();
        let before = state.work;
        state.work = now.map(|now| Work {
            now,
            furthest: before.map_or(0.0, |work| work.furthest),
        });
    }

    /// How far the work is, from 0 to 1, where its statement has done this share; none where there is no work.
    pub fn share_of_work(&self, of_statement: Option<f64>) -> Option<f64> {
        let mut state = self.state.lock();
        let work = state.work.as_mut()?;
        work.furthest = work.furthest.max(work.now.at(of_statement.unwrap_or(0.0)));
        Some(work.furthest)
    }

    /// Takes note of the memory that counts now.
    pub fn observe(&self, used: Bytes, spilled: Bytes) {
        if let Some(active) = &mut self.state.lock().active {
            active.peak = active.peak.max(used);
            active.spilled = active.spilled.max(spilled);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Interrupt for Count {
        fn interrupt(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn active(query: u64) -> Active {
        Active {
            query,
            interruptible: true,
            heeds_signals: false,
            started: Moment::default(),
            deadline: None,
            base: Bytes(0),
            peak: Bytes(0),
            spilled: Bytes(0),
            share: None,
            stop: None,
        }
    }

    fn connection() -> (Arc<Connection>, Arc<Count>) {
        let count = Arc::new(Count::default());
        (Connection::new(Arc::clone(&count) as Arc<dyn Interrupt>), count)
    }

    #[test]
    fn a_stop_reaches_only_the_query_it_names() {
        let (connection, count) = connection();
        assert!(!connection.stop(1, Stop::Cancel, Moment::default()));
        assert!(connection.begin(active(1)));
        assert!(!connection.begin(active(2)), "one query at a time");
        assert!(connection.stop(1, Stop::Memory, Moment::default()));
        assert!(connection.stop(1, Stop::Cancel, Moment::default()));
        let ended = connection.end(1).unwrap();
        assert_eq!(ended.stop.unwrap().0, Stop::Memory, "the first reason stays");
        assert!(connection.begin(active(2)));
        assert!(!connection.stop(1, Stop::Cancel, Moment::default()));
        connection.resend(Moment::at(Duration::from_secs(9)));
        assert_eq!(count.0.load(Ordering::SeqCst), 2, "the next query hears nothing");
    }

    #[test]
    fn how_far_a_query_is_ends_with_it() {
        let (connection, _) = connection();
        connection.begin(active(1));
        connection.reached(2, 0.9);
        assert_eq!(connection.active().unwrap().share, None, "of another query");
        connection.reached(1, 0.25);
        assert_eq!(connection.active().unwrap().share, Some(0.25));
        connection.end(1);
        connection.begin(active(2));
        assert_eq!(connection.active().unwrap().share, None);
    }

    #[test]
    fn a_commit_is_never_interrupted() {
        let (connection, count) = connection();
        connection.begin(Active {
            interruptible: false,
            ..active(1)
        });
        assert!(!connection.stop(1, Stop::Memory, Moment::default()));
        connection.interrupt_host();
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_query_that_finishes_is_left_alone() {
        let (connection, count) = connection();
        connection.begin(active(1));
        assert!(connection.stop(1, Stop::Cancel, Moment::default()));
        connection.finishes(1);
        connection.resend(Moment::at(Duration::from_secs(1)));
        assert!(!connection.stop(1, Stop::Memory, Moment::default()));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(connection.end(1).unwrap().stop, None);
    }

    #[test]
    fn a_stop_that_was_answered_is_forgotten_and_the_next_one_counts() {
        let (connection, count) = connection();
        connection.begin(active(1));
        connection.stop(1, Stop::Memory, Moment::default());
        connection.forget_stop(1);
        connection.resend(Moment::at(Duration::from_secs(1)));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(connection.stop(1, Stop::Cancel, Moment::default()));
        assert_eq!(connection.end(1).unwrap().stop.unwrap().0, Stop::Cancel);
    }

    #[test]
    fn a_lost_interrupt_is_sent_again_until_the_query_ends() {
        let (connection, count) = connection();
        connection.begin(active(1));
        connection.stop(1, Stop::Cancel, Moment::default());
        for milliseconds in [1, 26, 27, 52] {
            connection.resend(Moment::at(Duration::from_millis(milliseconds)));
        }
        assert_eq!(count.0.load(Ordering::SeqCst), 3);
        connection.end(1);
        connection.resend(Moment::at(Duration::from_secs(1)));
        assert_eq!(count.0.load(Ordering::SeqCst), 3);
    }

    /// An interrupt that takes as long as its lock is held.
    struct Slow(Mutex<()>, AtomicU32);

    impl Interrupt for Slow {
        fn interrupt(&self) {
            self.1.store(1, Ordering::SeqCst);
            drop(self.0.lock());
            self.1.store(2, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_query_begins_only_after_an_interrupt_of_the_hosts_own_is_out() {
        let slow = Arc::new(Slow(Mutex::new(()), AtomicU32::new(0)));
        let connection = Connection::new(Arc::clone(&slow) as Arc<dyn Interrupt>);
        let held = slow.0.lock();
        let sender = {
            let connection = Arc::clone(&connection);
            std::thread::spawn(move || connection.interrupt_host())
        };
        while slow.1.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let beginner = {
            let (connection, slow) = (Arc::clone(&connection), Arc::clone(&slow));
            std::thread::spawn(move || (connection.begin(active(1)), slow.1.load(Ordering::SeqCst)))
        };
        std::thread::sleep(Duration::from_millis(5));
        drop(held);
        assert_eq!(beginner.join().unwrap(), (true, 2));
        sender.join().unwrap();
    }

    #[test]
    fn ending_waits_for_an_interrupt_under_way() {
        let slow = Arc::new(Slow(Mutex::new(()), AtomicU32::new(0)));
        let connection = Connection::new(Arc::clone(&slow) as Arc<dyn Interrupt>);
        connection.begin(active(1));
        let held = slow.0.lock();
        let stopper = {
            let connection = Arc::clone(&connection);
            std::thread::spawn(move || connection.stop(1, Stop::Cancel, Moment::default()))
        };
        while slow.1.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        let ender = {
            let (connection, slow) = (Arc::clone(&connection), Arc::clone(&slow));
            std::thread::spawn(move || {
                connection.end(1);
                slow.1.load(Ordering::SeqCst)
            })
        };
        drop(held);
        assert_eq!(
            ender.join().unwrap(),
            2,
            "the query ended only after the interrupt was out"
        );
        assert!(stopper.join().unwrap());
    }

    #[test]
    fn the_share_of_a_work_is_over_all_its_statements_and_never_falls() {
        let connection = Connection::new(Arc::new(Count::default()));
        assert_eq!(connection.share_of_work(Some(0.5)), None);
        let half = Stretch { from: 0.0, to: 0.5 };
        connection.works(Some(half));
        assert_eq!(connection.share_of_work(None), Some(0.0));
        assert_eq!(connection.share_of_work(Some(0.5)), Some(0.25));
        // Tried again.
        assert_eq!(connection.share_of_work(Some(0.1)), Some(0.25));
        connection.works(Some(Stretch { from: 0.5, to: 1.0 }.part(1, 2)));
        assert_eq!(connection.share_of_work(None), Some(0.75));
        assert_eq!(connection.share_of_work(Some(7.0)), Some(1.0));
        connection.works(None);
        assert_eq!(connection.share_of_work(None), None);
        connection.works(Some(half));
        assert_eq!(connection.share_of_work(None), Some(0.0));
    }
}
