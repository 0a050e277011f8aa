//! Joins the folders below: a [`Ward`] guards one connection, runs its queries up the ladder, and reports.

mod cutting;
pub mod explain;
mod ingest;
mod kept;
mod plan;
mod profile;
mod refusal;
pub mod report;
mod rest;
pub mod ticket;
pub mod writing;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;

use crate::clock::Moment;
use crate::engine::host::{Active, Connection, Stop};
use crate::engine::{Engine, EngineError};
use crate::error::{Error, ErrorKind, Result};
use crate::event::What;
use crate::fallback::classify::{Failure, classify};
use crate::fallback::decompose::functions::Functions;
use crate::fallback::history::{Fingerprint, History, Need};
use crate::fallback::ladder::{Decision, Facts, Ladder, Patience, Rung, kind_of};
use crate::fallback::pieces::REFUSED_BY_THE_SYSTEM;
use crate::guard::admission::{ALONE, Demand, Permit, Priority};
use crate::guard::ceiling::Armed;
use crate::guard::guardian::{Guardian, Member};
use crate::guard::reading::Usage;
use crate::guard::respond::{HeldSettings, Instance, ensure_writable};
use crate::guard::{Budget, Level};
use crate::settings::Settings;
use crate::settings::layers::Loaded;
use crate::units::Bytes;

pub use crate::fallback::pieces::Verify;
pub use explain::Explanation;
pub use report::{Attempt, Outcome, Report};
pub use ticket::Ticket;

use kept::Kept;

/// How many shapes of queries a ward remembers.
const SHAPES: usize = 512;
/// How many statements that cannot be stopped are remembered.
const WILD: usize = 64;
/// How long a query that the guard interrupted waits for memory to fall before it is tried again.
const RELIEF: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// One statement as the ward needs to know it.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Its text.
    pub sql: &'a str,
    /// False for COMMIT, CHECKPOINT and the like: never interrupted, never run again.
    pub interruptible: bool,
    /// Its place in the waiting line.
    pub priority: Priority,
    /// Whether it runs on the thread that a Ctrl-C is meant for.
    pub heeds_signals: bool,
    /// Whether it may run in pieces.
    pub cutting: Cutting,
    /// What is proved of its pieces.
    pub verify: Verify,
    /// Whether its pieces may be handed out one by one, each by [`Ward::go_on`].
    pub by_piece: bool,
}

/// Whether a statement may run in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cutting {
    /// When it must.
    #[default]
    Auto,
    /// Not at all.
    Never,
    /// Always, in so many at first.
    Into(usize),
}

/// Why an attempt failed.
#[derive(Debug)]
pub enum AttemptError {
    /// The engine failed; the ladder decides.
    Engine(EngineError),
    /// duckward itself cannot go on (no room for the spool); final.
    Own(Error),
}

impl From<EngineError> for AttemptError {
    fn from(error: EngineError) -> Self {
        AttemptError::Engine(error)
    }
}

impl From<Error> for AttemptError {
    fn from(error: Error) -> Self {
        AttemptError::Own(error)
    }
}

/// What the face that owns the connection does for a query. Called on the thread that called [`Ward::run`].
pub trait Host<T> {
    /// Runs the statement once, or what was prepared in its place. Nothing of the answer may reach the caller before this
    /// returns, and of what was prepared nothing is left to be read.
    ///
    /// # Errors
    /// The engine's, typed.
    fn attempt(&mut self, rung: Rung, prepared: Option<&str>) -> Result<T, AttemptError>;

    /// Runs a statement of ours on the connection, to its end; its rows as text.
    ///
    /// # Errors
    /// The engine's, typed.
    fn ask(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, EngineError>;

    /// Whether what the statement reads is there once more. A stream that was consumed is not, and before 2.0 DuckDB reads it
    /// as empty, without an error.
    fn reads_again(&mut self) -> bool {
        true
    }

    /// The values of the statement's parameters as expressions of SQL, by name ("1", "2" where they have none); none where
    /// one of them cannot be written so.
    ///
    /// # Errors
    /// The engine's, typed.
    fn parameters(&mut self) -> Result<Option<Vec<(String, String)>>, EngineError> {
        Ok(None)
    }

    /// Whether the connection is inside a transaction that the user began; asked after a failure only.
    fn in_transaction(&mut self) -> bool;

    /// Polled while the query waits: whether the user gave up.
    fn gave_up(&self) -> bool;

    /// The statement's physical plan as DuckDB's JSON, for the estimate in a refusal.
    fn plan(&mut self) -> Option<String>;
}

/// A query that was not answered: the error, and what happened.
#[derive(Debug)]
pub struct Failed {
    /// The error; its kind says what the caller does next.
    pub error: Error,
    /// The last failure of the engine, if it was one.
    pub failure: Option<Failure>,
    /// Why it was stopped, if it was.
    pub stop: Option<Stop>,
    /// The report.
    pub report: Report,
}

/// A guarded connection.
pub struct Ward {
    id: u64,
    guardian: Arc<Guardian>,
    /// The instance keeps it weakly: it is this ward's way to it.
    #[expect(dead_code, reason = "held for the instance")]
    engine: Arc<dyn Engine>,
    instance: Arc<Instance>,
    connection: Arc<Connection>,
    cursors: Mutex<Vec<Weak<Connection>>>,
    loaded: Loaded,
    budget: Budget,
    history: Mutex<History>,
    /// Statements that were given up because their memory grew in a way that no interrupt stops.
    wild: Mutex<BTreeSet<String>>,
    /// Where it is kept, if it is.
    kept: Option<Kept>,
    /// What is known of DuckDB's own functions.
    functions: Mutex<Functions>,
    /// How often `cancel` was called: it also ends queries that wait, for which there is nothing to interrupt.
    cancels: AtomicU64,
    /// How many of those there are.
    pausing: AtomicUsize,
    closed: AtomicBool,
    process: u32,
}

/// What a ward says of itself: `status()` in Python, `duckward status` on the command line.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The ward's number in this process.
    pub ward: u64,
    /// The level now.
    pub level: Level,
    /// The budget in bytes, the strictest of all wards in this process.
    pub budget: Bytes,
    /// Where this ward's budget comes from.
    pub budget_source: String,
    /// Memory that counts, in bytes.
    pub used: Bytes,
    /// What it counts against, in bytes.
    pub limit: Bytes,
    /// `used / limit`.
    pub share: f64,
    /// Which limit that is.
    pub bound: String,
    /// DuckDB's `memory_limit` now, in bytes.
    pub memory_limit: Bytes,
    /// Memory DuckDB tracks, in bytes, when it was last asked.
    pub tracked: Option<Bytes>,
    /// DuckDB's temporary storage, in bytes, when it was last asked.
    pub spilled: Option<Bytes>,
    /// Queries that run now, in this process.
    pub running: usize,
    /// Queries that wait.
    pub waiting: usize,
    /// Open wards in this process.
    pub wards: usize,
    /// Settings of DuckDB that are changed now: name, before, now.
    pub changed: Vec<(String, String, String)>,
    /// Actions of the guard in force.
    pub actions: Vec<String>,
    /// Every setting in force, as text.
    pub settings: std::collections::BTreeMap<String, String>,
    /// Where each setting comes from.
    pub sources: std::collections::BTreeMap<String, String>,
}

impl std::fmt::Debug for Ward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ward")
            .field("id", &self.id)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

impl Ward {
    /// Takes a connection under guard: `engine` makes connections of our own to its instance, `connection` stops it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a budget that does not fit the system or the process and for a history that has no place,
    /// [`ErrorKind::Disk`] for a temporary directory or a history that cannot be written, [`ErrorKind::Connection`] when the
    /// instance does not answer.
    /// Nothing is changed then.
    pub fn guard(
        guardian: &Arc<Guardian>,
        engine: Arc<dyn Engine>,
        connection: Arc<Connection>,
        loaded: Loaded,
    ) -> Result<Arc<Self>> {
        let settings = &loaded.settings;
        if let Some(filter) = &settings.log {
            crate::event::log_to_stderr(filter);
        }
        let budget = guardian.resolve(settings)?;
        if let Some(directory) = &settings.temp_directory {
            ensure_writable(directory)?;
        }
        let instance = guardian.instance(&engine)?;
        let kept = Kept::find(&settings.history, &*engine, &**guardian.clock())?;
        let id = guardian.next_number();
        let member = Member {
            id,
            settings: Arc::new(settings.clone()),
            budget: budget.clone(),
            instance: Arc::clone(&instance),
        };
        guardian.join(member)?;
        guardian.watch(&connection);
        let history = kept
            .as_ref()
            .map_or_else(|| History::new(SHAPES), |kept| kept.load(guardian));
        let ward = Arc::new(Ward {
            id,
            guardian: Arc::clone(guardian),
            engine,
            instance,
            connection,
            cursors: Mutex::new(Vec::new()),
            loaded,
            budget: budget.clone(),
            wild: Mutex::new(BTreeSet::new()),
            history: Mutex::new(history),
            kept,
            functions: Mutex::new(Functions::default()),
            cancels: AtomicU64::new(0),
            pausing: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            process: std::process::id(),
        });
        guardian.bus().publish(What::GuardStarted {
            ward: id,
            budget: budget.bytes,
            source: budget.source,
        });
        Ok(ward)
    }

    /// The ward's number in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.loaded.settings
    }

    /// The guardian of this process.
    pub fn guardian(&self) -> &Arc<Guardian> {
        &self.guardian
    }

    /// The connection it guards.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The instance the connection belongs to.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    /// Watches another connection to the same instance for as long as somebody holds it; it counts as the ward's.
    pub fn add(&self, cursor: &Arc<Connection>) {
        self.guardian.watch(cursor);
        let mut cursors = self.cursors.lock();
        cursors.retain(|known| known.strong_count() > 0 && known.as_ptr() != Arc::as_ptr(cursor));
        cursors.push(Arc::downgrade(cursor));
    }

    /// The level now.
    pub fn level(&self) -> Level {
        self.guardian.level()
    }

    /// Whether the ward may be used.
    ///
    /// # Errors
    /// [`ErrorKind::State`] after `close`, and in a child process that was forked from the ward's.
    pub fn usable(&self) -> Result<()> {
        self.not_forked()?;
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::State,
                "this ward is closed; guard the connection again",
            ));
        }
        Ok(())
    }

    /// Whether this is the process that made the ward.
    ///
    /// # Errors
    /// [`ErrorKind::State`] in a child process that was forked from it.
    pub fn not_forked(&self) -> Result<()> {
        if std::process::id() != self.process {
            return Err(Error::new(
                ErrorKind::State,
                "this ward was inherited through a fork, and its watching thread was not; \
                 open a connection of the child's own and guard that, or start the child with \"spawn\"",
            ));
        }
        Ok(())
    }

    /// The largest part of an answer held in memory.
    pub fn answer_memory(&self) -> Bytes {
        let eighth = Bytes(self.guardian.budget().get() / 8);
        self.settings()
            .answer_memory
            .unwrap_or(eighth.min(Bytes::mib(1024)))
    }

    /// Where answers spill.
    pub fn spool_directory(&self) -> std::path::PathBuf {
        self.settings()
            .temp_directory
            .clone()
            .or_else(|| self.instance.temp_directory())
            .unwrap_or_else(|| std::env::temp_dir().join("duckward"))
    }

    /// Runs a statement up the ladder: waits for room, attempts it, and after a failure does what the ladder says.
    ///
    /// Blocks. The ticket keeps the query's place until its answer has been read.
    ///
    /// # Errors
    /// The last failure, with the report of all attempts.
    pub fn run<T>(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        job: &Job<'_>,
        host: &mut dyn Host<T>,
    ) -> Result<(T, Ticket), Box<Failed>> {
        if let Err(error) = self.usable() {
            // Nothing is published: in a forked child the locks of the other threads may be held for ever.
            return Err(Box::new(Failed {
                error,
                failure: None,
                stop: None,
                report: Report::default(),
            }));
        }
        let query = self.guardian.next_number();
        let settings = self.settings();
        let fingerprint = Fingerprint::of(job.sql);
        let budget = self.guardian.budget();
        let (start, learned) = {
            let history = self.history.lock();
            (history.start(fingerprint, budget), history.need(fingerprint))
        };
        let mut plans = cutting::Plans::new(job, start, &self.functions);
        let mut ladder = Ladder::starting_on(plans.start());
        let mut last: Option<EngineError> = None;
        let mut run = Run {
            ward: self,
            query,
            report: Report {
                query,
                budget,
                ..Report::default()
            },
            failure: None,
            stop: None,
            forgotten: None,
        };
        if start != Rung::AsIs && start == ladder.rung() {
            run.report.why = was_answered(start);
        }
        let began = self.guardian.clock().now();
        if self.wild.lock().contains(job.sql) && !self.guardian.holds() {
            return Err(run.fail(wild(), began));
        }
        let cancels = self.cancels.load(Ordering::Acquire);
        let cancelled = || self.cancels.load(Ordering::Acquire) != cancels;
        loop {
            let rung = ladder.rung();
            let memory = match (rung, learned) {
                // It waits for the others and they wait for it: its settings hold for the whole instance.
                (Rung::Degraded | Rung::Pieces, _) => ALONE,
                (Rung::AsIs, Some(need)) => need.growth,
                (Rung::AsIs, None) => Bytes(0),
            };
            // Before the line: the other query may be the caller's own, unread, and would be waited for in vain.
            if connection.active().is_some() {
                return Err(run.fail(busy(), began));
            }
            let gave_up = || cancelled() || host.gave_up();
            let admitted = self.admit(query, job.priority, memory, &mut run.report.waited, &gave_up);
            let permit = match admitted {
                Ok(permit) => permit,
                Err(error) => {
                    // Memory did not fall for another attempt: what counts is why the last one failed.
                    let error = match (last, run.failure) {
                        (Some(before), Some(failure)) if error.kind() == ErrorKind::Memory => {
                            self.refusal(&run.report, (ErrorKind::Memory, failure), false, None, before)
                        }
                        _ => error,
                    };
                    return Err(run.fail(error, began));
                }
            };
            let degraded =
                (rung == Rung::Degraded).then(|| HeldSettings::degraded(&self.instance, settings.keep_order));
            let Some((begun, ceiling, started)) =
                self.begin(connection, query, job.interruptible, job.heeds_signals)
            else {
                return Err(run.fail(busy(), began));
            };
            let number = u32::try_from(run.report.attempts.len() + 1).unwrap_or(u32::MAX);
            self.guardian.bus().publish(What::AttemptStarted {
                query,
                attempt: number,
                rung: rung.name().to_owned(),
            });
            let error = match self.attempt(host, &mut plans, &mut run, connection, rung) {
                Ok(cutting::Attempted::Instead(next)) => {
                    drop((begun, degraded, ceiling, permit));
                    ladder = Ladder::starting_on(next);
                    continue;
                }
                Ok(cutting::Attempted::Answered(value, rest)) => {
                    run.report.outcome = Outcome::Running;
                    drop(ceiling);
                    std::mem::forget(begun);
                    // A query may be done before the watcher has looked once.
                    connection.observe(self.guardian.used_lately(), Bytes(0));
                    let held = ticket::Held { degraded, permit };
                    let mut ticket = Ticket::new(
                        self,
                        connection,
                        held,
                        run.report,
                        fingerprint,
                        rung,
                        began,
                        started,
                    );
                    if let Some(rest) = rest {
                        ticket.pause(rest);
                    }
                    return Ok((value, ticket));
                }
                Err(error) => error,
            };
            let ended = begun.end();
            run.stop = ended
                .and_then(|active| active.stop)
                .map(|(stop, _)| stop)
                .or(run.forgotten.take());
            drop((degraded, ceiling));
            let error = match error {
                AttemptError::Engine(error) => error,
                AttemptError::Own(error) => {
                    run.note(rung, started, ended, None, error.message());
                    return Err(run.fail(error, began));
                }
            };
            let failure = classify(&error, run.stop);
            run.failure = Some(failure);
            run.note(rung, started, ended, Some(failure), &error.message);
            // After a cancel it does not matter, and an engine that has not stopped yet would be waited for.
            let in_transaction = failure != Failure::Cancelled && host.in_transaction();
            let grew_wild =
                kind_of(failure) == ErrorKind::Memory && error.message.contains(REFUSED_BY_THE_SYSTEM);
            let facts = Facts {
                // A second attempt would be wrong as if some rows were gone already.
                handed_out: failure != Failure::Cancelled && !in_transaction && !host.reads_again(),
                in_transaction: in_transaction || !job.interruptible,
                unheld: grew_wild && !self.guardian.holds(),
            };
            let patience = Patience {
                retries: settings.retries,
                backoff: settings.backoff,
            };
            let (next, decision) = ladder.next(failure, facts, &plans.available(), patience);
            ladder = next;
            let gave_up = matches!(run.stop, Some(Stop::Cancel | Stop::Signal));
            match decision {
                // Its own failure came first, but nobody waits for an answer any more.
                Decision::Run { .. } if gave_up => {
                    let error = Error::new(ErrorKind::Cancelled, "cancelled; the connection can be used");
                    return Err(run.fail(error, began));
                }
                Decision::Run { rung: next, after } => {
                    if next != rung {
                        run.report.why = format!("{} on the rung \"{}\"", failure.name(), rung.name());
                    }
                    drop(permit);
                    last = Some(error);
                    self.pausing.fetch_add(1, Ordering::AcqRel);
                    let paused = self.pause(failure, after, query, &|| cancelled() || host.gave_up());
                    self.pausing.fetch_sub(1, Ordering::AcqRel);
                    if let Err(error) = paused {
                        return Err(run.fail(error, began));
                    }
                }
                Decision::Refuse(kind) => {
                    if grew_wild {
                        self.remember_wild(job.sql);
                    }
                    let plan = if kind == ErrorKind::Memory {
                        self.plan(host)
                    } else {
                        None
                    };
                    let error = self.refusal(&run.report, (kind, failure), in_transaction, plan, error);
                    return Err(run.fail(error, began));
                }
            }
        }
    }

    /// Waits in line for room for `memory`; `waited` grows by the seconds that took.
    fn admit(
        &self,
        query: u64,
        priority: Priority,
        memory: Bytes,
        waited: &mut f64,
        gave_up: &dyn Fn() -> bool,
    ) -> Result<Permit> {
        let demand = Demand {
            priority,
            memory,
            wait: self.settings().wait,
        };
        let since = self.guardian.clock().now();
        self.pausing.fetch_add(1, Ordering::AcqRel);
        let admitted = self.guardian.enter(query, demand, gave_up);
        self.pausing.fetch_sub(1, Ordering::AcqRel);
        *waited += report::seconds(self.guardian.clock().now().since(since));
        admitted
    }

    /// From now on `query` runs on `connection`, under the ceiling; none when another still runs there.
    fn begin<'a>(
        &self,
        connection: &'a Connection,
        query: u64,
        interruptible: bool,
        heeds_signals: bool,
    ) -> Option<(Begun<'a>, Option<Armed>, Moment)> {
        let settings = self.settings();
        let (ceiling, base) = self.guardian.arm_ceiling(settings.ceiling);
        let started = self.guardian.clock().now();
        let active = Active {
            query,
            interruptible,
            heeds_signals,
            started,
            deadline: settings.query_timeout.map(|limit| started + limit),
            base,
            peak: base,
            spilled: Bytes(0),
            share: None,
            stop: None,
        };
        if !connection.begin(active) {
            return None;
        }
        if settings.query_timeout.is_some() {
            // The watcher may sleep for longer than that.
            self.guardian.wake();
        }
        Some((Begun { connection, query }, ceiling, started))
    }

    fn remember_wild(&self, sql: &str) {
        let mut wild = self.wild.lock();
        if wild.len() < WILD {
            wild.insert(sql.to_owned());
        }
    }

    /// The error of a query that is given up.
    fn refusal(
        &self,
        report: &Report,
        (kind, failure): (ErrorKind, Failure),
        in_transaction: bool,
        plan: Option<String>,
        error: EngineError,
    ) -> Error {
        let budget_source = &self.budget.source;
        let refusal = refusal::Refusal {
            kind,
            failure,
            in_transaction,
            report,
            budget_source,
            plan,
        };
        Error::new(kind, refusal.message(&error)).with_source(error)
    }

    /// The plan, for a refusal. Planning evaluates constants, so it may need as much as the attempt did.
    fn plan<T>(&self, host: &mut dyn Host<T>) -> Option<String> {
        let (_ceiling, _) = self.guardian.arm_ceiling(self.settings().ceiling);
        host.plan()
    }

    /// Waits before the next attempt: the backoff with jitter, and after an interrupt by the guard until memory fell.
    fn pause(&self, failure: Failure, after: Duration, query: u64, gave_up: &dyn Fn() -> bool) -> Result<()> {
        let clock = self.guardian.clock();
        let start = clock.now();
        let wait = after.mul_f64(1.0 + 0.25 * jitter(query, start.elapsed()));
        loop {
            if gave_up() {
                return Err(Error::new(
                    ErrorKind::Cancelled,
                    "cancelled while waiting for the next attempt",
                ));
            }
            let waited = clock.now().since(start);
            let relieved = self.level() < Level::Emergency || waited >= RELIEF;
            if waited >= wait && (failure != Failure::InterruptedByGuard || relieved) {
                return Ok(());
            }
            clock.sleep(POLL);
        }
    }

    /// Cancels every query that runs or waits through this ward; how many.
    pub fn cancel(&self) -> usize {
        self.cancels.fetch_add(1, Ordering::AcqRel);
        let waiting = self.pausing.load(Ordering::Acquire);
        let now = self.guardian.clock().now();
        let mut connections: Vec<_> = self.cursors.lock().iter().filter_map(Weak::upgrade).collect();
        connections.push(Arc::clone(&self.connection));
        connections
            .iter()
            .filter(|connection| {
                connection.active().is_some_and(|active| {
                    let stopped = connection.stop(active.query, Stop::Cancel, now);
                    if stopped {
                        let reason = Stop::Cancel.reason().to_owned();
                        self.guardian.bus().publish(What::QueryInterrupted {
                            query: Some(active.query),
                            reason,
                        });
                        self.guardian.wake();
                    }
                    stopped
                })
            })
            .count()
            + waiting
    }

    /// What the ward sees and does now.
    pub fn status(&self) -> Status {
        let Usage { used, limit, bound } = self.guardian.usage();
        let duckdb = self.guardian.duckdb();
        Status {
            ward: self.id,
            level: self.level(),
            budget: self.guardian.budget(),
            budget_source: self.budget.source.clone(),
            used,
            limit,
            share: used.share_of(limit),
            bound: bound.name().to_owned(),
            memory_limit: self.instance.limit(),
            tracked: duckdb.map(|duckdb| duckdb.tracked),
            spilled: duckdb.map(|duckdb| duckdb.spilled),
            running: self.guardian.admission().running(),
            waiting: self.guardian.admission().waiting(),
            wards: self.guardian.members(),
            changed: self
                .instance
                .changed()
                .into_iter()
                .map(|change| (change.name.to_owned(), change.before, change.now))
                .collect(),
            actions: self.guardian.actions(),
            settings: self.loaded.print(),
            sources: self
                .loaded
                .sources
                .iter()
                .map(|(name, source)| ((*name).to_owned(), source.to_string()))
                .collect(),
        }
    }

    /// Ends the guard: cancels nothing, keeps what it learnt, puts back everything it changed. A second call does nothing.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) || std::process::id() != self.process {
            return;
        }
        if let Some(kept) = &self.kept {
            kept.keep(&self.history, &self.guardian);
        }
        let left = self.guardian.leave(self.id);
        self.guardian
            .bus()
            .publish(What::GuardStopped { ward: self.id, left });
    }

    fn learn(&self, fingerprint: Fingerprint, need: Need) {
        self.history.lock().learn(fingerprint, need);
        // An answer may be read to its end in a forked child, or after the ward was closed.
        match &self.kept {
            Some(kept) if self.usable().is_ok() => kept.keep_if_due(&self.history, &self.guardian),
            Some(kept) if self.not_forked().is_ok() => kept.keep(&self.history, &self.guardian),
            _ => {}
        }
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        self.close();
    }
}

/// A number in [0, 1) that differs from query to query and from moment to moment.
#[expect(clippy::cast_precision_loss, reason = "jitter needs no more than 53 bits")]
fn jitter(query: u64, now: Duration) -> f64 {
    let mut x = query ^ u64::from(now.subsec_nanos()).rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Why a query does not start on the first rung.
fn was_answered(rung: Rung) -> String {
    format!(
        "this shape of query was answered on the rung \"{}\" the last time",
        rung.name()
    )
}

fn wild() -> Error {
    let message = "the last time the memory of this query grew faster than an interrupt stops it, and what \
                   DuckDB has kept mapped since could not be held to the budget: run it in a new process, on fewer rows \
                   or shorter values at a time, or raise memory=";
    Error::new(ErrorKind::Memory, message)
}

fn busy() -> Error {
    let message = "the connection runs another query through this ward; wait for it, or use ward.cursor()";
    Error::new(ErrorKind::Connection, message)
}

/// A query that a connection runs. Dropping ends it there, so that one whose host panicked leaves no trace.
struct Begun<'a> {
    connection: &'a Connection,
    query: u64,
}

impl Begun<'_> {
    /// Ends it; what was seen of it.
    fn end(self) -> Option<Active> {
        self.connection.end(self.query)
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.connection.end(self.query);
    }
}

/// One call of [`Ward::run`], while it lasts.
struct Run<'a> {
    ward: &'a Ward,
    query: u64,
    report: Report,
    failure: Option<Failure>,
    stop: Option<Stop>,
    /// What stopped it before it was looked at, or began anew.
    forgotten: Option<Stop>,
}

impl Run<'_> {
    fn note(
        &mut self,
        rung: Rung,
        started: Moment,
        ended: Option<Active>,
        failure: Option<Failure>,
        message: &str,
    ) {
        let took = self.ward.guardian.clock().now().since(started);
        let peak = ended
            .map_or(Bytes(0), |active| active.peak)
            .max(self.ward.guardian.used_now());
        self.report.peak = self.report.peak.max(peak);
        self.report.spill = self
            .report
            .spill
            .max(ended.map_or(Bytes(0), |active| active.spilled));
        let attempt = u32::try_from(self.report.attempts.len() + 1).unwrap_or(u32::MAX);
        self.ward.guardian.bus().publish(What::AttemptFailed {
            query: self.query,
            attempt,
            rung: rung.name().to_owned(),
            failure: failure.map_or("refused by duckward", Failure::name).to_owned(),
            message: message.to_owned(),
        });
        self.report.attempts.push(Attempt {
            rung,
            seconds: report::seconds(took),
            peak,
            failure,
            message: Some(message.to_owned()),
        });
    }

    fn fail(mut self, error: Error, began: Moment) -> Box<Failed> {
        self.report.outcome = Outcome::Failed(error.kind());
        report::first_clause(error.message()).clone_into(&mut self.report.why);
        self.report.seconds = report::seconds(self.ward.guardian.clock().now().since(began));
        ticket::publish_end(&self.ward.guardian, &self.report, Some(error.kind()));
        Box::new(Failed {
            error,
            failure: self.failure,
            stop: self.stop,
            report: self.report,
        })
    }
}
