//! Who may run: permits, and the line of those who wait for one. The order is decided by [`Line`], which is pure;
//! [`Admission`] is the thin part that waits.

mod line;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

pub use line::{Arrival, Line, Obstacle, Ticket};

use super::bell::Bell;
use crate::clock::SharedClock;
use crate::error::{Error, ErrorKind, Result};
use crate::units::Bytes;

/// Longest wait before a waiting query looks whether it was cancelled.
const SLICE: Duration = Duration::from_millis(50);

/// Who goes first. Within one priority, whoever came first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before all others.
    High,
    /// Unless something else is asked for.
    #[default]
    Normal,
    /// After all others.
    Low,
}

/// What a query asks for that runs while no other does, whatever that asks for.
pub const ALONE: Bytes = Bytes(u64::MAX);

/// What a query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Its place in line.
    pub priority: Priority,
    /// The memory that it is taken to need; [`ALONE`]: all there is.
    pub memory: Bytes,
    /// How long it waits at most.
    pub wait: Duration,
}

/// The door that every query goes through.
pub struct Admission {
    clock: SharedClock,
    state: Mutex<State>,
    turn: Bell,
    /// The bits of the share of the budget in use, for messages: written at every reading, so not under the lock.
    share: AtomicU64,
}

struct State {
    line: Line,
    /// Counted as running, but their threads have not woken yet.
    called: BTreeSet<Ticket>,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("line", &self.state.lock().line)
            .finish_non_exhaustive()
    }
}

impl Admission {
    /// A door that lets `limit` queries in at once, as long as their demands fit into `capacity`.
    pub fn new(clock: SharedClock, limit: usize, capacity: Bytes) -> Arc<Self> {
        Arc::new(Admission {
            clock,
            state: Mutex::new(State {
                line: Line::new(limit, capacity),
                called: BTreeSet::new(),
            }),
            turn: Bell::default(),
            share: AtomicU64::new(f64::NAN.to_bits()),
        })
    }

    /// Lets a query in, now or after it waited its turn. `on_queued` hears once how many are before it. `cancelled` is
    /// asked while it waits, at least every 50 ms; neither is called under the lock.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when `demand.wait` passed, [`ErrorKind::Memory`] while new queries are refused,
    /// [`ErrorKind::Cancelled`] when `cancelled` said so.
    pub fn enter(
        self: &Arc<Self>,
        demand: Demand,
        cancelled: &dyn Fn() -> bool,
        on_queued: &mut dyn FnMut(usize),
    ) -> Result<Permit> {
        let arrival = self.state.lock().line.arrive(demand.priority, demand.memory);
        match arrival {
            Arrival::Admitted => Ok(self.permit(demand.memory)),
            Arrival::Refused => Err(self.refusal()),
            Arrival::Queued { ticket, ahead } => {
                let place = Place {
                    admission: self,
                    ticket,
                    memory: demand.memory,
                };
                on_queued(ahead);
                place.wait(demand, cancelled)
            }
        }
    }

    /// How many permits are out.
    pub fn running(&self) -> usize {
        self.state.lock().line.running()
    }

    /// How many wait in line.
    pub fn waiting(&self) -> usize {
        self.state.lock().line.waiting()
    }

    /// From now on `limit` run at once (at least one). Whoever runs goes on.
    pub fn set_limit(&self, limit: usize) {
        self.change(|line| line.set_limit(limit));
    }

    /// From now on the demands of those who run together must fit into `capacity`.
    pub fn set_capacity(&self, capacity: Bytes) {
        self.change(|line| line.set_capacity(capacity));
    }

    /// Whether new queries are held in line; one still runs at a time.
    pub fn queue_new(&self, on: bool) {
        self.change(|line| line.queue_new(on));
    }

    /// Whether new queries are refused at once, and those in line stay there.
    pub fn refuse_new(&self, on: bool) {
        self.change(|line| line.refuse_new(on));
    }

    /// Notes the share of the budget in use, for the messages of those who do not get in. Takes no lock.
    pub fn note_share(&self, share: f64) {
        self.share.store(share.to_bits(), Ordering::Relaxed);
    }

    fn change(&self, change: impl FnOnce(&mut Line) -> Vec<Ticket>) {
        let mut state = self.state.lock();
        let admitted = change(&mut state.line);
        self.call(&mut state, admitted);
    }

    fn call(&self, state: &mut State, admitted: Vec<Ticket>) {
        if !admitted.is_empty() {
            state.called.extend(admitted);
            // All of them: each thread finds its own ticket, and a wakeup cannot go to the wrong one.
            self.turn.ring();
        }
    }

    fn permit(self: &Arc<Self>, memory: Bytes) -> Permit {
        Permit {
            admission: Arc::clone(self),
            memory,
        }
    }

    fn how_full(&self) -> String {
        let share = f64::from_bits(self.share.load(Ordering::Relaxed));
        if share.is_finite() {
            format!("memory is at {:.0} % of the budget", share * 100.0)
        } else {
            "memory is almost used up".to_owned()
        }
    }

    #[cold]
    fn refusal(&self) -> Error {
        let message = format!(
            "the query was refused before it started: {}, and nothing new starts until it falls; \
             run it again then, or raise `memory`",
            self.how_full()
        );
        Error::new(ErrorKind::Memory, message)
    }

    #[cold]
    fn timeout(&self, line: &Line, ticket: Ticket, demand: Demand, waited: Duration) -> Error {
        let Demand { priority, memory, .. } = demand;
        let (why, advice) = match line.obstacle_before(memory) {
            None | Some(Obstacle::Number) => (
                format!(
                    "at most {} may run at once (fewer than usual while memory is tight)",
                    line.limit()
                ),
                "`max_concurrent`",
            ),
            Some(Obstacle::Memory) if memory == ALONE || line.held() == ALONE => (
                "a query that did not fit into memory runs alone when it is tried again".to_owned(),
                "`memory`",
            ),
            Some(Obstacle::Memory) => (
                format!("{memory} more do not fit into {}", line.capacity()),
                "`memory`",
            ),
            Some(Obstacle::Queueing | Obstacle::Refusing) => (
                format!("{}, which holds new queries back", self.how_full()),
                "`memory`",
            ),
        };
        let message = format!(
            "the query waited {:.1} s for its turn and was not started: {} running{}, {} waiting \
             before it, and {why}; run it again when less is running, or raise {advice} or `wait`",
            waited.as_secs_f64(),
            line.running(),
            match line.held() {
                ALONE => String::new(),
                held => format!(" ({held} claimed)"),
            },
            line.ahead(priority, ticket),
        );
        Error::new(ErrorKind::Timeout, message)
    }
}

/// A place in line. Dropped, it is given up, whichever way that came about.
struct Place<'a> {
    admission: &'a Arc<Admission>,
    ticket: Ticket,
    memory: Bytes,
}

impl Place<'_> {
    fn wait(&self, demand: Demand, cancelled: &dyn Fn() -> bool) -> Result<Permit> {
        let began = self.admission.clock.now();
        loop {
            if cancelled() {
                let message = "the query was cancelled while it waited for its turn; nothing was run";
                return Err(Error::new(ErrorKind::Cancelled, message));
            }
            let heard = self.admission.turn.rings();
            let waited = self.admission.clock.now().since(began);
            {
                let mut state = self.admission.state.lock();
                if state.called.remove(&self.ticket) {
                    return Ok(self.admission.permit(self.memory));
                }
                if waited >= demand.wait {
                    return Err(self.admission.timeout(&state.line, self.ticket, demand, waited));
                }
            }
            let slice = self.admission.clock.real(SLICE.min(demand.wait - waited));
            self.admission.turn.wait(heard, slice);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.admission.state.lock();
        let admitted = if state.called.remove(&self.ticket) {
            // Called, but nobody came: cancelled at the same moment, or a callback panicked.
            state.line.leave(self.memory)
        } else {
            state.line.expire(self.ticket)
        };
        self.admission.call(&mut state, admitted);
    }
}

/// The right to run one query. Dropped, it is given back.
#[must_use = "a permit that is dropped is given back"]
pub struct Permit {
    admission: Arc<Admission>,
    memory: Bytes,
}

impl Permit {
    /// The memory that was asked for.
    pub fn memory(&self) -> Bytes {
        self.memory
    }

    /// The door that it is for.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.change(|line| line.leave(self.memory));
    }
}
