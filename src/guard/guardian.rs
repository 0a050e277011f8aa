//! [`Guardian`]: the guard of one process. All wards of the process share it: one budget (the strictest asked for), one
//! level, one waiting line, one watching thread.
//!
//! [`Guardian::tick`] is one reading and what follows from it at once (interrupts, admission, the ceiling); it never
//! runs SQL. What needs SQL is left for [`Guardian::respond`]. Threads call both (see [`watch`](super::watch)); a
//! simulation calls them by hand.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::Level;
use super::admission::{Admission, Demand, Permit};
use super::bell::Bell;
use super::budget::{Budget, Limits};
use super::ceiling::{self, Armed, BURST_ROOM, Ceiling, HEADROOM};
use super::elastic::{self, Elastic, NewLimit, Room};
use super::governor::{
    Action, Governor, Input, Policy, RunningQuery, Step, Trend, choose_victim, next_interval,
};
use super::pressure::{Pressure, Thresholds, is_burst, is_unheeded};
use super::reading::{DuckdbMemory, ProcessMemory, Reading, Sample, Sampler, Scope, Usage, tightest};
use super::respond::Instance;
use super::wake::{LONGEST_WAIT, Wake};
use crate::clock::{Moment, SharedClock, SystemClock};
use crate::engine::Engine;
use crate::engine::host::{Connection, Stop};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Bus, What};
use crate::settings::Settings;
use crate::units::Bytes;

/// How often the slow parts of a reading are read: while nothing runs, calm, and from caution on.
const SLOW_IDLE: Duration = Duration::from_secs(1);
const SLOW_CALM: Duration = Duration::from_millis(500);
const SLOW_PRESSED: Duration = Duration::from_millis(50);
/// How often DuckDB is asked for its memory while queries run, besides when memory moved: while most of the limit is
/// free, else, and from warning on.
const ASK_SELDOM: Duration = Duration::from_secs(2);
const ASK_CALM: Duration = Duration::from_millis(250);
const ASK_PRESSED: Duration = Duration::from_millis(100);
/// How soon an interrupt that has not worked yet is sent again.
const RESEND: Duration = Duration::from_millis(25);
/// How often a query that waits for the level to follow looks again.
const LEVEL_POLL: Duration = Duration::from_millis(10);
const MOSTLY_FREE: f64 = 0.5;
/// How long a reading of the process serves.
const LATELY: Duration = Duration::from_millis(1);
/// A change of memory that is worth asking DuckDB for its share.
const WORTH_ASKING: Bytes = Bytes::mib(16);
/// Memory that grows by so much in so short a time does because something runs.
const RISE: Bytes = Bytes::mib(4);
const RISE_WITHIN: Duration = Duration::from_millis(20);
/// Over how long growth is looked at for a burst.
const BURST_WITHIN: Duration = Duration::from_millis(2);
/// How long after it was last seen a burst is taken to last.
const BURST_LASTS: Duration = Duration::from_millis(250);
/// Room in which a burst must be seen as soon as it begins.
const NEAR: Bytes = Bytes::mib(2048);
/// How long an interrupt of the host's own query is given before the next.
const HOST_PAUSE: Duration = Duration::from_millis(250);
/// How soon the allocator of an instance is flushed again to learn what memory is really in use.
const FLUSH_AGAIN: Duration = Duration::from_millis(500);
/// `checkpoint_threshold` in an emergency.
const EARLY_CHECKPOINT: &str = "1MiB";

/// A ward, as the guardian knows it.
#[derive(Clone, Debug)]
pub struct Member {
    /// The ward's number.
    pub id: u64,
    /// Its settings.
    pub settings: Arc<Settings>,
    /// Its budget.
    pub budget: Budget,
    /// The instance its connection belongs to.
    pub instance: Arc<Instance>,
}

/// What needs SQL.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Task {
    CleanUp {
        deep: bool,
    },
    SpillEarly {
        on: bool,
    },
    LowerCheckpoint {
        on: bool,
    },
    /// Ask DuckDB for its memory and move its limit.
    Balance,
}

/// What the last readings add up to.
struct State {
    settings: Arc<Settings>,
    budget: Budget,
    policy: Policy,
    thresholds: Thresholds,
    reading: Reading,
    usage: Usage,
    pressure: Pressure,
    governor: Governor,
    last: Option<(Moment, Bytes)>,
    growth: f64,
    slow_at: Option<Moment>,
    asked_at: Option<Moment>,
    /// Memory that counted when DuckDB was last asked.
    asked_used: Bytes,
    elastic: Elastic,
    /// A limit is lower than it should be, and is raised when that has lasted.
    unsettled: bool,
    flushed_at: Option<Moment>,
    /// The instances that spill early by running on one thread.
    on_one_thread: BTreeSet<u64>,
    capacity: Bytes,
    /// Where the present rise is counted from, and whether the last one was a rise.
    risen_from: Option<(Moment, Bytes)>,
    rising: bool,
    /// The same, over a time that is short enough for a burst.
    burst_from: Option<(Moment, Bytes)>,
    /// When a running query's memory last grew faster than what DuckDB tracks ever does, or although it was interrupted, and
    /// the least the ceiling may be for it.
    burst: Option<(Moment, Bytes)>,
    /// When the host's own queries were last interrupted.
    host_interrupted: Option<Moment>,
}

impl State {
    /// From now on everything mapped counts, for a while.
    fn bursts(&mut self, now: Moment) {
        let begun = self.reading.process.data.plus(BURST_ROOM);
        self.burst = Some((now, self.burst.map_or(begun, |(_, least)| least)));
    }
}

/// Where the system's limits come from.
pub type ReadLimits = Box<dyn Fn() -> Limits + Send + Sync>;

/// The guard of one process.
pub struct Guardian {
    clock: SharedClock,
    bus: Arc<Bus>,
    admission: Arc<Admission>,
    wake: Wake,
    sampler: Mutex<Box<dyn Sample>>,
    recent: Mutex<Option<(Moment, ProcessMemory)>>,
    limits: ReadLimits,
    members: Mutex<Vec<Member>>,
    connections: Mutex<Vec<Weak<Connection>>>,
    state: Mutex<State>,
    tasks: Mutex<VecDeque<Task>>,
    task_ready: Bell,
    ceiling: Ceiling,
    stopped: AtomicBool,
    numbers: AtomicU64,
}

impl std::fmt::Debug for Guardian {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guardian")
            .field("members", &self.members())
            .field("level", &self.level())
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl Guardian {
    /// A guardian without threads.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the system has no descriptors left.
    pub fn new(clock: SharedClock, sampler: Box<dyn Sample>, limits: ReadLimits) -> Result<Arc<Self>> {
        let settings = Arc::new(Settings::default());
        let budget = Budget::resolve(settings.memory, settings.reserve, &limits(), Bytes(0))?;
        let process = sampler.fast().unwrap_or_default();
        let wake = Wake::new().map_err(|error| {
            Error::new(
                ErrorKind::Internal,
                format!("no pipe for the watching thread: {error}; close unused files"),
            )
        })?;
        let capacity = budget.bytes;
        let usage = Usage {
            used: process.anonymous,
            limit: budget.bytes,
            bound: Scope::Process,
        };
        let state = State {
            policy: Policy::from(&*settings),
            thresholds: Thresholds::from(&*settings),
            reading: Reading {
                process,
                ..Reading::default()
            },
            usage,
            settings: Arc::clone(&settings),
            budget,
            pressure: Pressure::default(),
            governor: Governor::default(),
            last: None,
            growth: 0.0,
            slow_at: None,
            asked_at: None,
            asked_used: Bytes(0),
            elastic: Elastic::default(),
            unsettled: false,
            flushed_at: None,
            on_one_thread: BTreeSet::new(),
            capacity,
            risen_from: None,
            rising: false,
            burst_from: None,
            burst: None,
            host_interrupted: None,
        };
        Ok(Arc::new(Guardian {
            bus: Arc::new(Bus::new(Arc::clone(&clock))),
            admission: Admission::new(Arc::clone(&clock), settings.max_concurrent, capacity),
            clock,
            wake,
            sampler: Mutex::new(sampler),
            recent: Mutex::new(None),
            limits,
            members: Mutex::new(Vec::new()),
            connections: Mutex::new(Vec::new()),
            state: Mutex::new(state),
            tasks: Mutex::new(VecDeque::new()),
            task_ready: Bell::default(),
            ceiling: Ceiling,
            stopped: AtomicBool::new(false),
            numbers: AtomicU64::new(0),
        }))
    }

    /// A guardian of this very process, without threads.
    ///
    /// # Errors
    /// As [`Guardian::new`].
    pub fn of_system() -> Result<Arc<Self>> {
        let root = Path::new("/");
        Guardian::new(
            SystemClock::shared(),
            Box::new(Sampler::open(root, None)),
            Box::new(|| Limits::read(root)),
        )
    }

    /// A number for a ward or a query that no other has.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Where time comes from.
    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Where events go.
    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// The waiting line.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// The level now.
    pub fn level(&self) -> Level {
        self.state.lock().pressure.level
    }

    /// The tightest limit, and how much of it is used.
    pub fn usage(&self) -> Usage {
        self.state.lock().usage
    }

    /// The last reading.
    pub fn reading(&self) -> Reading {
        self.state.lock().reading
    }

    /// The budget in force.
    pub fn budget(&self) -> Bytes {
        self.state.lock().budget.bytes
    }

    /// What DuckDB said of its memory when it was last asked.
    pub fn duckdb(&self) -> Option<DuckdbMemory> {
        self.state.lock().reading.duckdb
    }

    /// Memory that queries may use together.
    pub fn capacity(&self) -> Bytes {
        self.state.lock().capacity
    }

    /// At how many rows answers are cut now, if they are.
    pub fn row_cap(&self) -> Option<u64> {
        self.state.lock().governor.row_cap()
    }

    /// The actions in force, by name.
    pub fn actions(&self) -> Vec<String> {
        self.state
            .lock()
            .governor
            .in_force()
            .map(|action| action.name().to_owned())
            .collect()
    }

    /// How many wards are open.
    pub fn members(&self) -> usize {
        self.members.lock().len()
    }

    /// The descriptor into which signal numbers are written; -1 where there is none.
    pub fn signal_descriptor(&self) -> i32 {
        self.wake.descriptor()
    }

    /// The process's anonymous memory, read now.
    pub fn used_now(&self) -> Bytes {
        self.process_now().anonymous
    }

    fn process_now(&self) -> ProcessMemory {
        let now = self.clock.now();
        let sampled = self.sampler.lock().fast();
        let process = sampled.unwrap_or_else(|_| self.state.lock().reading.process);
        *self.recent.lock() = Some((now, process));
        process
    }

    /// As [`Guardian::used_now`], read within the last millisecond.
    pub fn used_lately(&self) -> Bytes {
        self.process_lately().anonymous
    }

    /// As [`Guardian::process_now`], but for small queries one after the other what the last of them read will do.
    fn process_lately(&self) -> ProcessMemory {
        let recent = *self.recent.lock();
        match recent {
            Some((at, process)) if self.clock.now().since(at) < LATELY => process,
            _ => self.process_now(),
        }
    }

    /// The budget that `settings` ask for.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it does not fit the system or the process.
    pub fn resolve(&self, settings: &Settings) -> Result<Budget> {
        Budget::resolve(
            settings.memory,
            settings.reserve,
            &(self.limits)(),
            self.used_now(),
        )
    }

    /// The instance that `engine` belongs to: one that is guarded already, or a new one.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`] when it is closed or does not answer.
    pub fn instance(&self, engine: &Arc<dyn Engine>) -> Result<Arc<Instance>> {
        let known = self.instances();
        if let Some(same) = known.iter().find(|instance| instance.is_same(&**engine)) {
            same.add_engine(engine);
            return Ok(Arc::clone(same));
        }
        Instance::new(engine).map(Arc::new)
    }

    /// The guarded instances, each once.
    fn instances(&self) -> Vec<Arc<Instance>> {
        let mut instances: Vec<Arc<Instance>> = Vec::new();
        for member in &*self.members.lock() {
            if !instances
                .iter()
                .any(|instance| Arc::ptr_eq(instance, &member.instance))
            {
                instances.push(Arc::clone(&member.instance));
            }
        }
        instances
    }

    /// A ward comes under the guard. Its instance gets its limit before this returns.
    ///
    /// # Errors
    /// [`ErrorKind::Disk`] when the instance has nowhere to spill; nothing is changed then.
    pub fn join(&self, member: Member) -> Result<()> {
        let (instance, directory) = (
            Arc::clone(&member.instance),
            member.settings.temp_directory.clone(),
        );
        // It may be on its way out with another ward.
        instance.revive();
        if directory.is_some() || instance.temp_directory().is_none() {
            instance.ensure_temp_directory(directory.as_deref())?;
        }
        {
            let mut members = self.members.lock();
            instance.revive();
            members.push(member);
        }
        self.take_strictest();
        self.tick();
        self.balance();
        self.wake.wake();
        self.task_ready.ring();
        Ok(())
    }

    /// A ward goes; with the last of an instance everything changed there is put back. What could not be.
    pub fn leave(&self, id: u64) -> Vec<String> {
        let gone = {
            let mut members = self.members.lock();
            let Some(at) = members.iter().position(|member| member.id == id) else {
                return Vec::new();
            };
            let gone = members.remove(at);
            if !members
                .iter()
                .any(|other| Arc::ptr_eq(&other.instance, &gone.instance))
            {
                gone.instance.retire();
            }
            gone
        };
        if self.members() == 0 {
            let steps = std::mem::take(&mut self.state.lock().governor).undo_all();
            self.carry_out(&steps);
            self.state.lock().pressure = Pressure::default();
            self.respond();
        } else {
            self.take_strictest();
        }
        gone.instance.restore()
    }

    /// The settings of the ward with the smallest budget hold for the process.
    fn take_strictest(&self) {
        let strictest = self
            .members
            .lock()
            .iter()
            .min_by_key(|member| (member.budget.bytes, member.id))
            .cloned();
        let Some(member) = strictest else { return };
        let mut state = self.state.lock();
        state.policy = Policy::from(&*member.settings);
        state.thresholds = Thresholds::from(&*member.settings);
        state.settings = member.settings;
        state.budget = member.budget;
        state.capacity = state.budget.bytes;
        let limit = concurrency(&state);
        drop(state);
        self.admission.set_limit(limit);
    }

    /// Watches a connection for as long as somebody holds it.
    pub fn watch(&self, connection: &Arc<Connection>) {
        let mut connections = self.connections.lock();
        connections.retain(|known| known.strong_count() > 0);
        // Twice watched, its query would count as two.
        if !connections
            .iter()
            .any(|known| known.as_ptr() == Arc::as_ptr(connection))
        {
            connections.push(Arc::downgrade(connection));
        }
    }

    fn watched(&self) -> Vec<Arc<Connection>> {
        self.connections.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Lets a query in, now or after its turn came.
    ///
    /// # Errors
    /// As [`Admission::enter`].
    pub fn enter(&self, query: u64, demand: Demand, gave_up: &dyn Fn() -> bool) -> Result<Permit> {
        let mut queued = |ahead| self.bus.publish(What::QueryQueued { query, ahead });
        let start = self.clock.now();
        loop {
            let refused = match self.admission.enter(demand, gave_up, &mut queued) {
                Err(error) if error.kind() == ErrorKind::Memory => error,
                entered => return entered,
            };
            // Memory fell already, and the level follows after its dwell: whoever comes now waits for that.
            let waits = !self.is_over() && self.clock.now().since(start) < demand.wait;
            if !waits || gave_up() {
                return Err(refused);
            }
            self.clock.sleep(LEVEL_POLL);
        }
    }

    /// Whether memory is where new queries are refused.
    fn is_over(&self) -> bool {
        let state = self.state.lock();
        let [.., emergency] = state.settings.levels;
        state.usage.share() >= emergency
    }

    /// Holds the process to the limit in force until what this returns is dropped. Only for the time of a call into the
    /// engine: under the ceiling an allocation of anybody's in this process may fail, when there is no room for it.
    /// Also the process's anonymous memory, read within the last millisecond.
    pub fn arm_ceiling(&self, wanted: bool) -> (Option<Armed>, Bytes) {
        let process = self.process_lately();
        let armed = wanted.then(|| {
            let state = self.state.lock();
            let reach = reach(state.usage, state.reading.process);
            drop(state);
            if reach.minus(process.anonymous) < NEAR {
                // The watcher may sleep for longer than a burst needs.
                self.wake.wake();
            }
            self.ceiling.arm(process, reach)
        });
        (armed, process.anonymous)
    }

    /// Whether memory that grows faster than any interrupt could be held to the limit in force.
    pub fn holds(&self) -> bool {
        let process = self.process_now();
        let state = self.state.lock();
        let reach = reach(state.usage, state.reading.process);
        drop(state);
        ceiling::holds(process, reach)
    }

    /// Ends the watcher's wait.
    pub fn wake(&self) {
        self.wake.wake();
    }

    /// The watcher's wait; the signals that arrived.
    pub(super) fn wait(&self, time: Duration) -> Vec<u8> {
        self.wake.wait(time)
    }

    /// One reading and what follows from it at once; how long until the next.
    pub fn tick(&self) -> Duration {
        if self.members() == 0 {
            return LONGEST_WAIT;
        }
        let now = self.clock.now();
        let connections = self.watched();
        let mut state = self.state.lock();
        let before = state.pressure.level;
        self.read(&mut state, now);
        let (usage, process) = (state.usage, state.reading.process);
        state.pressure = state.pressure.next(usage.share(), now, &state.thresholds);
        let level = state.pressure.level;
        let queries: Vec<RunningQuery> = connections
            .iter()
            .filter_map(|connection| running(connection, process))
            .collect();
        // A connection on which no query of ours runs may run one of the host's; then memory grows.
        let host = if state.rising {
            connections.len() - queries.len()
        } else {
            0
        };
        let input = Input {
            level,
            share: usage.share(),
            used: usage.used,
            now,
            interruptible: host + queries.iter().filter(|query| query.may_be_chosen()).count(),
            // Whether the host's query has ended nobody knows; it is given the same time.
            interrupted: usize::from(
                state
                    .host_interrupted
                    .is_some_and(|at| now.since(at) < HOST_PAUSE),
            ) + queries
                .iter()
                .filter(|query| query.already_interrupted.is_some())
                .count(),
        };
        if is_unheeded(level, input.interrupted, state.growth) {
            state.bursts(now);
        }
        let (governor, steps) = state.governor.decide(&input, &state.policy);
        state.governor = governor;
        let victim = choose_victim(&queries, state.settings.victim, now);
        if victim.is_none() && steps.contains(&Step::Take(Action::Interrupt)) {
            state.host_interrupted = Some(now);
        }
        let trend = Trend {
            used: usage.used,
            limit: usage.limit,
            growth: state.growth,
            running: !queries.is_empty(),
        };
        let mut next = next_interval(&trend, &state.settings);
        // Also between two attempts of one query: the second begins where the first has shown that it bursts.
        state.burst = state.burst.filter(|(seen, _)| now.since(*seen) < BURST_LASTS);
        self.ceiling.strict(state.burst.map(|(_, least)| least));
        let ask = usage.used.get().abs_diff(state.asked_used.get())
            > WORTH_ASKING.get().max(state.budget.bytes.get() / 20);
        drop(state);

        self.admission.note_share(usage.share());
        self.ceiling.adjust(process, reach(usage, process));
        if steps.contains(&Step::Take(Action::Interrupt)) {
            self.interrupt(&connections, victim, now);
        }
        for connection in &connections {
            let (late, due) = hasten(connection, now);
            if let Some(query) = late {
                let reason = Stop::Timeout.reason().to_owned();
                self.bus.publish(What::QueryInterrupted {
                    query: Some(query),
                    reason,
                });
            }
            next = next.min(due.unwrap_or(next));
        }
        if level != before {
            self.bus.publish(What::LevelChanged {
                from: before,
                to: level,
                used: usage.used,
                limit: usage.limit,
            });
        }
        if !steps.is_empty() {
            self.carry_out(&steps);
        }
        if ask {
            self.push(Task::Balance);
        }
        next
    }

    fn read(&self, state: &mut State, now: Moment) {
        let pressed = state.pressure.level >= Level::Caution;
        let every = match (pressed, self.admission.running()) {
            (true, _) => SLOW_PRESSED,
            (false, 0) => SLOW_IDLE,
            (false, _) => SLOW_CALM,
        };
        let mut sampler = self.sampler.lock();
        // A reading that fails leaves the last one: the guard goes on with what it knows.
        if let Ok(process) = sampler.fast() {
            state.reading.advance(process);
        }
        if state.slow_at.is_none_or(|at| now.since(at) >= every) {
            state.reading.update(sampler.slow());
            state.slow_at = Some(now);
        }
        drop(sampler);
        state.usage = tightest(&state.reading, &state.budget);
        let used = state.reading.process.anonymous;
        if let Some((at, before)) = state.last {
            let seconds = now.since(at).as_secs_f64();
            if seconds > 0.0 {
                #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
                let grown = used.get() as f64 - before.get() as f64;
                state.growth = grown / seconds;
            }
        }
        let (since, before) = *state.risen_from.get_or_insert((now, used));
        if now.since(since) >= RISE_WITHIN {
            state.rising = used.minus(before) >= RISE;
            state.risen_from = Some((now, used));
        }
        let (since, before) = *state.burst_from.get_or_insert((now, used));
        let took = now.since(since);
        if took >= BURST_WITHIN {
            let fill = elastic::fill_share(&state.settings);
            if is_burst(used.minus(before), took, state.usage.share(), fill) {
                state.bursts(now);
            }
            state.burst_from = Some((now, used));
        }
        state.last = Some((now, used));
    }

    /// Interrupts the victim, or, when no query of ours runs, whatever the host runs on the watched connections.
    fn interrupt(&self, connections: &[Arc<Connection>], victim: Option<u64>, now: Moment) {
        let reason = Stop::Memory.reason().to_owned();
        match victim {
            // It may have ended since it was chosen; nobody else is stopped in its place.
            Some(query)
                if !connections
                    .iter()
                    .any(|connection| connection.stop(query, Stop::Memory, now)) =>
            {
                return;
            }
            Some(_) => {}
            None => connections
                .iter()
                .for_each(|connection| connection.interrupt_host()),
        }
        self.bus.publish(What::QueryInterrupted {
            query: victim,
            reason,
        });
    }

    /// Ctrl-C: stops the query that runs on the thread it is meant for.
    pub fn signal(&self) {
        let now = self.clock.now();
        for connection in self.watched() {
            if let Some(active) = connection.active().filter(|active| active.heeds_signals)
                && connection.stop(active.query, Stop::Signal, now)
            {
                let reason = Stop::Signal.reason().to_owned();
                self.bus.publish(What::QueryInterrupted {
                    query: Some(active.query),
                    reason,
                });
            }
        }
    }

    fn carry_out(&self, steps: &[Step]) {
        let (limit, queue, refuse) = {
            let state = self.state.lock();
            (
                concurrency(&state),
                state.governor.queues_new(),
                state.governor.refuses_new(),
            )
        };
        self.admission.set_limit(limit);
        self.admission.queue_new(queue);
        self.admission.refuse_new(refuse);
        for step in steps {
            let (action, on) = match step {
                Step::Take(action) => (*action, true),
                Step::Undo(action) => (*action, false),
            };
            match action {
                Action::CleanUp { deep } => self.push(Task::CleanUp { deep }),
                Action::LimitMemory { .. } => self.push(Task::Balance),
                Action::SpillEarly => self.push(Task::SpillEarly { on }),
                Action::LowerCheckpoint => self.push(Task::LowerCheckpoint { on }),
                Action::VerifyRelief {
                    fell,
                    before,
                    after,
                    took,
                } => {
                    let after_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                    self.bus.publish(What::ReliefVerified {
                        fell,
                        before,
                        after,
                        after_ms,
                    });
                    continue;
                }
                // Published where it was sent.
                Action::Interrupt => continue,
                Action::LimitConcurrency { .. }
                | Action::CapRows { .. }
                | Action::QueueNew
                | Action::RefuseNew => {}
            }
            self.announce(action, on);
        }
    }

    fn announce(&self, action: Action, on: bool) {
        let name = action.name().to_owned();
        let detail = match action {
            // Its outcome is published when it is done.
            Action::CleanUp { .. } => return,
            Action::LimitConcurrency { to } => format!("at most {to} queries at once"),
            Action::CapRows { rows } => format!("answers end at {rows} rows, marked as truncated"),
            Action::QueueNew => "new queries wait".to_owned(),
            Action::RefuseNew => "new queries are refused".to_owned(),
            Action::LimitMemory { factor } => {
                format!("memory_limit at {:.0} % of what it would be", factor * 100.0)
            }
            Action::SpillEarly => "operators spill early".to_owned(),
            Action::LowerCheckpoint => format!("checkpoint_threshold at {EARLY_CHECKPOINT}"),
            Action::Interrupt | Action::VerifyRelief { .. } => String::new(),
        };
        self.bus.publish(if on {
            What::ActionTaken { action: name, detail }
        } else {
            What::ActionUndone { action: name, detail }
        });
    }

    fn push(&self, task: Task) {
        let mut tasks = self.tasks.lock();
        // On after off is not the on before: what turns the same thing is replaced by the last word on it.
        let kind = std::mem::discriminant(&task);
        if matches!(task, Task::SpillEarly { .. } | Task::LowerCheckpoint { .. }) {
            tasks.retain(|other| std::mem::discriminant(other) != kind);
        }
        if !tasks.contains(&task) {
            tasks.push_back(task);
        }
        drop(tasks);
        self.task_ready.ring();
    }

    /// Waits for something that needs SQL, at most until DuckDB should be asked again.
    pub(super) fn wait_for_task(&self) {
        let heard = self.task_ready.rings();
        if self.tasks.lock().is_empty() && !self.is_stopped() {
            let follows = self.admission.running() > 0 || self.state.lock().unsettled;
            self.task_ready
                .wait(heard, if follows { ASK_PRESSED } else { LONGEST_WAIT });
        }
    }

    /// Does what needs SQL, and follows DuckDB's memory while queries run.
    pub fn respond(&self) {
        loop {
            let Some(task) = self.tasks.lock().pop_front() else {
                break;
            };
            match task {
                Task::CleanUp { deep } => self.clean_up(deep),
                Task::SpillEarly { on } => self.spill_early(on),
                Task::LowerCheckpoint { on } => self.lower_checkpoint(on),
                Task::Balance => self.balance(),
            }
        }
        let (usage, level, asked_at, unsettled) = {
            let state = self.state.lock();
            (state.usage, state.pressure.level, state.asked_at, state.unsettled)
        };
        let every = if level >= Level::Warning {
            ASK_PRESSED
        } else if usage.share() < MOSTLY_FREE && !unsettled {
            ASK_SELDOM
        } else {
            ASK_CALM
        };
        let due = asked_at.is_none_or(|at| self.clock.now().since(at) >= every);
        if due && (unsettled || self.admission.running() > 0) {
            self.balance();
        }
    }

    fn report(&self, action: &str, outcome: std::result::Result<String, String>) {
        let action = action.to_owned();
        self.bus.publish(match outcome {
            Ok(detail) => What::ActionTaken { action, detail },
            Err(reason) => What::ActionFailed { action, reason },
        });
    }

    fn clean_up(&self, deep: bool) {
        let before = self.used_now();
        let quiet = self.admission.running() == 0;
        for instance in self.instances() {
            let mut failed = Vec::new();
            if let Err(error) = instance.flush() {
                failed.push(error.message);
            }
            if deep && let Err(error) = instance.drop_file_cache() {
                failed.push(error.message);
            }
            // Not under load: nothing can interrupt a checkpoint, and others wait for it.
            if deep && quiet {
                // A read-only database, or an open transaction, has no checkpoint to write.
                let _ = instance.checkpoint();
            }
            let freed = before.minus(self.used_now());
            let outcome = if failed.is_empty() {
                Ok(format!("{freed} returned to the system"))
            } else {
                Err(failed.join("; "))
            };
            self.report("clean_up", outcome);
        }
    }

    fn spill_early(&self, on: bool) {
        for instance in self.instances() {
            if !on {
                // Only what was set below: the degraded rung may hold it, too.
                if self.state.lock().on_one_thread.remove(&instance.id()) {
                    let _ = instance.undo("threads");
                }
                continue;
            }
            if let Err(error) = instance.ensure_temp_directory(None) {
                self.report("spill_early", Err(error.message().to_owned()));
            }
            // Under load DuckDB would take the new number of threads only after the running pipeline, and block.
            if self.admission.running() > 0 || self.state.lock().on_one_thread.contains(&instance.id()) {
                continue;
            }
            match instance.hold("threads", "1") {
                Ok(()) => drop(self.state.lock().on_one_thread.insert(instance.id())),
                Err(error) => self.report("spill_early", Err(error.message)),
            }
        }
    }

    fn lower_checkpoint(&self, on: bool) {
        for instance in self.instances() {
            let outcome = if on {
                instance.set("checkpoint_threshold", EARLY_CHECKPOINT)
            } else {
                instance.undo("checkpoint_threshold").map(drop)
            };
            if let Err(error) = outcome {
                self.report("lower_checkpoint", Err(error.message));
            }
        }
    }

    /// Asks every instance for its memory, and moves its `memory_limit` to the room that the rest leaves.
    fn balance(&self) {
        let instances = self.instances();
        let (known, sum) = ask(&instances);
        let mut process = self.process_now();
        let (mut elastic, mut limits) = self.decide_limits(&known, sum, process);
        // Pages that an allocator keeps after a query look like memory of the rest; a limit is lowered for real use only.
        let lowered = |limits: &[NewLimit]| {
            limits.iter().any(|new| {
                known
                    .iter()
                    .any(|instance| instance.id == new.id && new.limit < instance.limit)
            })
        };
        if lowered(&limits) && self.may_flush() {
            for instance in &instances {
                // An instance that does not answer keeps its pages.
                let _ = instance.flush();
            }
            process = self.process_now();
            (elastic, limits) = self.decide_limits(&known, sum, process);
        }
        let (is_elastic, capacity) = {
            let mut state = self.state.lock();
            state.elastic = elastic;
            let room = room_for(&state, &known, process, self.clock.now());
            state.capacity = room.pool();
            state.unsettled = room
                .targets()
                .iter()
                .zip(&known)
                .any(|(target, instance)| *target > instance.limit.times(1.05));
            (state.settings.elastic, state.capacity)
        };
        self.admission.set_capacity(capacity);
        for connection in self.watched() {
            connection.observe(process.anonymous, sum.spilled);
        }
        if is_elastic {
            for new in limits {
                if let Some(instance) = instances.iter().find(|instance| instance.id() == new.id) {
                    set_limit(instance, new.limit);
                }
            }
        } else {
            self.apply_factor(&instances);
        }
    }

    fn may_flush(&self) -> bool {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let may = state.flushed_at.is_none_or(|at| now.since(at) >= FLUSH_AGAIN);
        if may {
            state.flushed_at = Some(now);
        }
        may
    }

    /// The limits to set now, and what is to be remembered of asking for them.
    fn decide_limits(
        &self,
        known: &[elastic::Instance],
        sum: DuckdbMemory,
        process: ProcessMemory,
    ) -> (Elastic, Vec<NewLimit>) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.reading.advance(process);
        state.usage = tightest(&state.reading, &state.budget);
        state.reading.duckdb = Some(sum);
        state.asked_at = Some(now);
        state.asked_used = state.usage.used;
        state.elastic.decide(&room_for(&state, known, process, now))
    }

    /// Without the elastic limit, the governor's factor still holds, on what the user had.
    fn apply_factor(&self, instances: &[Arc<Instance>]) {
        let factor = self.state.lock().governor.memory_factor();
        for instance in instances {
            if factor < 1.0 {
                let original = instance.original_limit();
                let limit = original.times(factor).max(elastic::FLOOR).min(original);
                if limit != instance.limit() {
                    set_limit(instance, limit);
                }
            } else if instance.limit() != instance.original_limit()
                && let Err(error) = instance.undo_limit()
            {
                self.report("limit_memory", Err(error.message));
            }
        }
    }

    /// Ends the threads that [`start`](super::watch::start) gave.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake.wake();
        self.task_ready.ring();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// The anonymous memory that the process may reach before the limit in force, less what the ceiling leaves to others.
/// `usage` and `process` are of one reading: with another's it would move along as memory grows.
fn reach(usage: Usage, process: ProcessMemory) -> Bytes {
    let limit = match usage.bound {
        Scope::Process => usage.limit,
        Scope::Cgroup | Scope::Machine => process.anonymous.plus(usage.limit).minus(usage.used),
    };
    limit.minus(HEADROOM)
}

/// How many queries may run at once now.
fn concurrency(state: &State) -> usize {
    let most = state.policy.concurrency;
    state.governor.concurrency().map_or(most, |limit| limit.min(most))
}

/// What every instance says of its memory, and the sum.
fn ask(instances: &[Arc<Instance>]) -> (Vec<elastic::Instance>, DuckdbMemory) {
    let mut sum = DuckdbMemory::default();
    let known = instances
        .iter()
        .map(|instance| {
            // A closed connection has no memory to speak of.
            let memory = instance.memory().unwrap_or_default();
            let limit = instance.limit();
            sum.tracked = sum.tracked.plus(memory.tracked);
            sum.spilled = sum.spilled.plus(memory.spilled);
            sum.limit = sum.limit.plus(limit);
            elastic::Instance {
                id: instance.id(),
                tracked: memory.tracked,
                limit,
                original: instance.original_limit(),
            }
        })
        .collect();
    (known, sum)
}

fn room_for<'a>(
    state: &State,
    instances: &'a [elastic::Instance],
    process: ProcessMemory,
    now: Moment,
) -> Room<'a> {
    Room {
        budget: state.budget.bytes,
        // Whichever limit is the tightest, its room is the room there is.
        used: process
            .anonymous
            .max(state.budget.bytes.minus(room(state.usage, process))),
        fill: elastic::fill_share(&state.settings),
        factor: state.governor.memory_factor(),
        level: state.pressure.level,
        now,
        instances,
    }
}

fn set_limit(instance: &Instance, limit: Bytes) {
    if let Err(error) = instance.set_limit(limit) {
        // Pinned memory is in the way; it is asked again.
        tracing::debug!(target: "duckward", "memory_limit {limit} refused: {}", error.message);
    }
}

/// How far the process may grow before the limit in force.
fn room(usage: Usage, process: ProcessMemory) -> Bytes {
    // The usage is of the last reading; what the process grew since is taken off.
    let since = match usage.bound {
        Scope::Process => process.anonymous.minus(usage.used),
        Scope::Cgroup | Scope::Machine => Bytes(0),
    };
    usage.limit.minus(usage.used).minus(since)
}

/// What runs on a connection, as the choice of a victim sees it; takes note of the memory.
fn running(connection: &Connection, process: ProcessMemory) -> Option<RunningQuery> {
    connection.observe(process.anonymous, Bytes(0));
    let active = connection.active()?;
    Some(RunningQuery {
        id: active.query,
        started: active.started,
        growth: process.anonymous.minus(active.base),
        interruptible: active.interruptible,
        already_interrupted: active.stop.map(|(_, sent)| sent),
    })
}

/// Sends a due interrupt again, stops a query past its deadline; which that was, and when to look again.
fn hasten(connection: &Connection, now: Moment) -> (Option<u64>, Option<Duration>) {
    let Some(active) = connection.active() else {
        return (None, None);
    };
    if active.stop.is_some() {
        connection.resend(now);
        return (None, Some(RESEND));
    }
    match active.deadline {
        Some(deadline) if now < deadline => (None, Some(deadline.since(now))),
        Some(_) if connection.stop(active.query, Stop::Timeout, now) => (Some(active.query), Some(RESEND)),
        _ => (None, None),
    }
}
