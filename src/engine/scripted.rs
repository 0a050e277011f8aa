//! The test double: a process with scripted memory, and databases in it whose answers, errors, latencies and memory
//! follow a script. Public, because whoever embeds duckward tests with it, too.
//!
//! ```
//! use duckward::clock::ManualClock;
//! use duckward::engine::Engine;
//! use duckward::engine::scripted::{Answer, Process};
//!
//! let process = Process::new(ManualClock::new());
//! let database = process.database();
//! database.answer("select 1", Answer::rows(1));
//! let session = database.session()?;
//! assert_eq!(session.query("select 1")?.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 1);
//! # Ok::<(), duckward::engine::EngineError>(())
//! ```
//!
//! It knows the statements that the guard itself sends (settings, `duckdb_memory()`, ATTACH, CHECKPOINT) and behaves
//! as DuckDB does where that matters: an interrupt of an idle session is lost, the memory limit holds for what the
//! buffer manager tracks and the rest spills, a lowered limit flushes the allocator, a RESET changes what
//! `memory_limit` says but not what holds (DuckDB 1.4 and 1.5).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchReader};
use parking_lot::Mutex;

use super::{Class, Engine, EngineError, Interrupt, Session, Stream};
use crate::clock::{Moment, SharedClock};
use crate::guard::reading::{CgroupMemory, ProcessMemory, Sample, Slow};
use crate::units::Bytes;

/// How long a query that runs looks away from its interrupt.
const SLICE: Duration = Duration::from_millis(5);
/// Rows of a batch.
const BATCH: u64 = 1024;

/// How one statement goes.
#[derive(Clone, Debug)]
pub struct Answer {
    rows: u64,
    error: Option<EngineError>,
    takes: Duration,
    curve: Vec<(Duration, Bytes)>,
    untracked: f64,
    spills: bool,
    deaf: u32,
}

impl Answer {
    /// `rows` rows with one column `n` that counts from 0, at once and without memory.
    pub fn rows(rows: u64) -> Self {
        Answer {
            rows,
            error: None,
            takes: Duration::ZERO,
            curve: Vec::new(),
            untracked: 0.0,
            spills: true,
            deaf: 0,
        }
    }

    /// No answer but an error.
    pub fn error(class: Class, message: &str) -> Self {
        Answer::rows(0).then_error(class, message)
    }

    /// After its rows it fails; without rows it fails before the stream is there.
    #[must_use]
    pub fn then_error(mut self, class: Class, message: &str) -> Self {
        self.error = Some(EngineError {
            class,
            message: message.to_owned(),
        });
        self
    }

    /// It runs this long before its stream, or its error, is there.
    #[must_use]
    pub fn taking(mut self, time: Duration) -> Self {
        self.takes = time;
        self
    }

    /// Its memory grows to `peak` while it runs, and stays until its stream is dropped.
    #[must_use]
    pub fn growing_to(self, peak: Bytes) -> Self {
        let end = self.takes;
        self.along(vec![(end, peak)])
    }

    /// Its memory at some times after its start, straight lines in between, the last value from then on.
    #[must_use]
    pub fn along(mut self, curve: Vec<(Duration, Bytes)>) -> Self {
        self.curve = curve;
        self
    }

    /// This share of its memory passes the buffer manager by: neither tracked, nor limited, nor spilled.
    #[must_use]
    pub fn untracked(mut self, share: f64) -> Self {
        self.untracked = share;
        self
    }

    /// It cannot spill: over the memory limit it fails with an out-of-memory error.
    #[must_use]
    pub fn unspillable(mut self) -> Self {
        self.spills = false;
        self
    }

    /// The first `interrupts` that reach it are lost.
    #[must_use]
    pub fn deaf_to(mut self, interrupts: u32) -> Self {
        self.deaf = interrupts;
        self
    }

    /// Its memory `after` its start.
    fn memory(&self, after: Duration) -> Bytes {
        let mut from = (Duration::ZERO, Bytes(0));
        for to in &self.curve {
            if after < to.0 {
                let share = (after - from.0).as_secs_f64() / (to.0 - from.0).as_secs_f64();
                let (low, high) = (from.1.times(1.0 - share), to.1.times(share));
                return low.plus(high);
            }
            from = *to;
        }
        from.1
    }
}

/// What reached a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A statement.
    Statement(String),
    /// An interrupt, and the statement that ran; none: it was lost.
    Interrupt(Option<String>),
}

/// A process whose memory is a base, what its host has, and what its databases' queries have.
#[derive(Clone)]
pub struct Process(Arc<ProcessState>);

struct ProcessState {
    clock: SharedClock,
    base: Bytes,
    host: Mutex<Bytes>,
    /// Freed by queries, kept by the allocator until it is flushed.
    kept: Mutex<Bytes>,
    keeps: AtomicBool,
    /// Mapped by the allocator and in nobody's use.
    mapped: Mutex<Bytes>,
    cgroup: Mutex<Option<CgroupMemory>>,
    databases: Mutex<Vec<Arc<DatabaseState>>>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("anonymous", &self.anonymous())
            .finish_non_exhaustive()
    }
}

impl Process {
    /// A process that has 50 MiB itself.
    pub fn new(clock: SharedClock) -> Self {
        Process(Arc::new(ProcessState {
            clock,
            base: Bytes::mib(50),
            host: Mutex::new(Bytes(0)),
            kept: Mutex::new(Bytes(0)),
            keeps: AtomicBool::new(false),
            mapped: Mutex::new(Bytes(0)),
            cgroup: Mutex::new(None),
            databases: Mutex::new(Vec::new()),
        }))
    }

    /// A new database in this process.
    pub fn database(&self) -> Database {
        let state = Arc::new(DatabaseState::new(Arc::clone(&self.0.clock)));
        self.0.databases.lock().push(Arc::clone(&state));
        Database {
            state,
            process: self.clone(),
        }
    }

    /// From now on `bytes` are mapped that nobody uses: they come into use without asking the system.
    pub fn maps(&self, bytes: Bytes) {
        *self.0.mapped.lock() = bytes;
    }

    /// From now on the host's own data takes `bytes`.
    pub fn host_holds(&self, bytes: Bytes) {
        *self.0.host.lock() = bytes;
    }

    /// From now on the process is in a cgroup like this.
    pub fn in_cgroup(&self, cgroup: Option<CgroupMemory>) {
        *self.0.cgroup.lock() = cgroup;
    }

    /// Whether the allocator keeps what queries free until it is flushed.
    pub fn keeps_freed(&self, keeps: bool) {
        self.0.keeps.store(keeps, Ordering::Relaxed);
    }

    /// Its anonymous memory now.
    pub fn anonymous(&self) -> Bytes {
        let databases = self.0.databases.lock().clone();
        let queries = databases.iter().fold(Bytes(0), |sum, database| {
            let memory = database.memory();
            sum.plus(memory.tracked).plus(memory.untracked)
        });
        // What is kept is used again before more is asked of the system.
        let kept = *self.0.kept.lock();
        self.0.base.plus(*self.0.host.lock()).plus(queries.max(kept))
    }

    /// Its memory as the guard samples it.
    pub fn sampler(&self) -> Box<dyn Sample> {
        Box::new(Sampler(self.clone()))
    }

    fn freed(&self, before: Bytes) {
        if self.0.keeps.load(Ordering::Relaxed) {
            let outside = self.0.base.plus(*self.0.host.lock());
            let mut kept = self.0.kept.lock();
            *kept = before.minus(outside).max(*kept);
        }
    }
}

struct Sampler(Process);

impl Sample for Sampler {
    fn fast(&self) -> io::Result<ProcessMemory> {
        let anonymous = self.0.anonymous();
        Ok(ProcessMemory {
            anonymous,
            resident: anonymous,
            data: anonymous.plus(*self.0.0.mapped.lock()),
        })
    }

    fn slow(&mut self) -> Slow {
        Slow {
            cgroup: *self.0.0.cgroup.lock(),
            ..Slow::default()
        }
    }
}

/// A database instance: an [`Engine`] whose sessions follow the script.
#[derive(Clone)]
pub struct Database {
    state: Arc<DatabaseState>,
    process: Process,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("settings", &self.settings())
            .finish_non_exhaustive()
    }
}

impl Database {
    /// The next answer to `sql`. The last one of a text is given for ever.
    pub fn answer(&self, sql: &str, answer: Answer) {
        let mut script = self.state.script.lock();
        script.entry(sql.to_owned()).or_default().push_back(answer);
    }

    /// A global setting now, as it is printed; none: this version does not have it.
    pub fn setting(&self, name: &str) -> Option<String> {
        self.state.settings.lock().now.get(name).cloned()
    }

    /// Every global setting now.
    pub fn settings(&self) -> BTreeMap<String, String> {
        self.state.settings.lock().now.clone()
    }

    /// The memory limit that holds, whatever the setting says.
    pub fn memory_limit(&self) -> Bytes {
        Bytes(self.state.limit.load(Ordering::Relaxed))
    }

    /// What the user sets, and what a RESET does not go back to.
    pub fn user_sets(&self, name: &str, value: &str) {
        // The user's own business is not recorded, and is not refused.
        self.state.set(name, value);
    }

    /// This version does not have the setting `name`.
    pub fn lacks(&self, name: &str) {
        let mut settings = self.state.settings.lock();
        settings.now.remove(name);
        settings.default.remove(name);
    }

    /// Whether setting `name` fails from now on.
    pub fn refuses(&self, name: &str, refuses: bool) {
        let mut refused = self.state.refused.lock();
        if refuses {
            refused.insert(name.to_owned());
        } else {
            refused.remove(name);
        }
    }

    /// From now on a statement of the guard's own waits this long, as a SET does for a pipeline that runs.
    pub fn own_statements_take(&self, time: Duration) {
        *self.state.slow.lock() = time;
    }

    /// Closes the instance: nothing is answered any more.
    pub fn close(&self) {
        self.state.closed.store(true, Ordering::Relaxed);
    }

    /// Everything that reached it, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().clone()
    }

    /// How many queries run, or have streams that are not dropped.
    pub fn running(&self) -> usize {
        self.state.running.lock().len()
    }

    fn open(&self) -> ScriptedSession {
        ScriptedSession {
            database: self.clone(),
            current: Arc::new(Mutex::new(None)),
        }
    }
}

impl Engine for Database {
    fn session(&self) -> Result<Box<dyn Session>, EngineError> {
        self.state.check_open()?;
        Ok(Box::new(self.open()))
    }
}

struct Settings {
    now: BTreeMap<String, String>,
    default: BTreeMap<String, String>,
}

struct Running {
    answer: Answer,
    began: Moment,
}

struct DatabaseState {
    clock: SharedClock,
    closed: AtomicBool,
    limit: AtomicU64,
    settings: Mutex<Settings>,
    refused: Mutex<BTreeSet<String>>,
    attached: Mutex<BTreeSet<String>>,
    script: Mutex<BTreeMap<String, VecDeque<Answer>>>,
    running: Mutex<BTreeMap<u64, Running>>,
    next: AtomicU64,
    asked: Mutex<Vec<Asked>>,
    slow: Mutex<Duration>,
}

#[derive(Clone, Copy, Default)]
struct Memory {
    tracked: Bytes,
    spilled: Bytes,
    untracked: Bytes,
}

impl DatabaseState {
    fn new(clock: SharedClock) -> Self {
        let limit = Bytes::mib(16 << 10);
        let default: BTreeMap<String, String> = [
            ("memory_limit", limit.to_string()),
            ("threads", "8".to_owned()),
            // There already, so that whoever asks whether it can be written leaves it alone.
            (
                "temp_directory",
                std::env::temp_dir().to_string_lossy().into_owned(),
            ),
            ("checkpoint_threshold", "16.0 MiB".to_owned()),
            ("preserve_insertion_order", "true".to_owned()),
            ("enable_external_file_cache", "true".to_owned()),
            ("write_buffer_row_group_count", "5".to_owned()),
            ("partitioned_write_max_open_files", "100".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        DatabaseState {
            clock,
            closed: AtomicBool::new(false),
            limit: AtomicU64::new(limit.get()),
            settings: Mutex::new(Settings {
                now: default.clone(),
                default,
            }),
            refused: Mutex::default(),
            attached: Mutex::default(),
            script: Mutex::default(),
            running: Mutex::default(),
            next: AtomicU64::new(0),
            asked: Mutex::default(),
            slow: Mutex::default(),
        }
    }

    fn check_open(&self) -> Result<(), EngineError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(EngineError {
                class: Class::Connection,
                message: "Connection Error: Connection already closed!".to_owned(),
            });
        }
        Ok(())
    }

    fn set(&self, name: &str, value: &str) -> bool {
        let mut settings = self.settings.lock();
        let Some(now) = settings.now.get_mut(name) else {
            return false;
        };
        *now = value.to_owned();
        if name == "memory_limit"
            && let Ok(bytes) = value.parse::<Bytes>()
        {
            *now = bytes.to_string();
            self.limit.store(bytes.get(), Ordering::Relaxed);
        }
        true
    }

    fn memory(&self) -> Memory {
        let now = self.clock.now();
        let (mut tracked, mut untracked) = (Bytes(0), Bytes(0));
        for query in self.running.lock().values() {
            let memory = query.answer.memory(now.since(query.began));
            let beside = memory.times(query.answer.untracked);
            untracked = untracked.plus(beside);
            tracked = tracked.plus(memory.minus(beside));
        }
        let limit = Bytes(self.limit.load(Ordering::Relaxed));
        Memory {
            tracked: tracked.min(limit),
            spilled: tracked.minus(limit),
            untracked,
        }
    }
}

/// What a session runs.
struct Current {
    sql: String,
    deaf: u32,
    interrupted: bool,
}

type Slot = Arc<Mutex<Option<Current>>>;

struct ScriptedSession {
    database: Database,
    current: Slot,
}

struct ScriptedInterrupt {
    state: Arc<DatabaseState>,
    current: Slot,
}

impl Interrupt for ScriptedInterrupt {
    fn interrupt(&self) {
        let mut current = self.current.lock();
        let hit = current.as_mut().map(|current| {
            if current.deaf > 0 {
                current.deaf -= 1;
            } else {
                current.interrupted = true;
            }
            current.sql.clone()
        });
        self.state.asked.lock().push(Asked::Interrupt(hit));
    }
}

fn interrupted() -> EngineError {
    EngineError {
        class: Class::Interrupt,
        message: "INTERRUPT Error: Interrupted!".to_owned(),
    }
}

fn refused(message: String) -> EngineError {
    EngineError {
        class: Class::Statement,
        message,
    }
}

impl ScriptedSession {
    fn scripted(&self, sql: &str) -> Option<Answer> {
        let mut script = self.database.state.script.lock();
        let answers = script.get_mut(sql)?;
        if answers.len() > 1 {
            answers.pop_front()
        } else {
            answers.front().cloned()
        }
    }

    /// What becomes of a query that runs: an error, or time passes.
    fn trouble(&self, answer: &Answer) -> Result<(), EngineError> {
        self.database.state.check_open()?;
        if self
            .current
            .lock()
            .as_ref()
            .is_some_and(|current| current.interrupted)
        {
            return Err(interrupted());
        }
        if !answer.spills && self.database.state.memory().spilled > Bytes(0) {
            return Err(EngineError {
                class: Class::OutOfMemory,
                message: "Out of Memory Error: could not allocate block of size 256.0 KiB".to_owned(),
            });
        }
        Ok(())
    }

    /// A statement of the guard's own, if it is one.
    fn own(&self, sql: &str) -> Option<Result<Vec<Vec<Option<String>>>, EngineError>> {
        let state = &self.database.state;
        let row = |values: Vec<String>| Ok(vec![values.into_iter().map(Some).collect()]);
        if let Some(name) = between(sql, "database_name = '", "'") {
            let known = state.attached.lock().contains(name);
            return Some(if known {
                row(vec!["1".to_owned()])
            } else {
                Ok(vec![])
            });
        }
        if sql.contains("FROM duckdb_databases()") {
            // In memory.
            return Some(Ok(vec![vec![None]]));
        }
        if sql.contains("FROM duckdb_memory()") {
            let memory = state.memory();
            let limit = state.settings.lock().now.get("memory_limit").cloned();
            return Some(row(vec![
                memory.tracked.get().to_string(),
                memory.spilled.get().to_string(),
                limit.unwrap_or_default(),
            ]));
        }
        if sql.starts_with("SELECT current_setting(") {
            let names = sql
                .split("current_setting('")
                .skip(1)
                .filter_map(|rest| rest.split('\'').next());
            let settings = state.settings.lock();
            let values: Option<Vec<String>> = names.map(|name| settings.now.get(name).cloned()).collect();
            return Some(match values {
                Some(values) => row(values),
                None => Err(refused(format!(
                    "Catalog Error: unrecognized configuration parameter: {sql}"
                ))),
            });
        }
        let done = match sql.split_once(' ') {
            Some(("SET" | "RESET", rest)) => self.change(rest.strip_prefix("GLOBAL ")?),
            Some(("ATTACH", rest)) => {
                state
                    .attached
                    .lock()
                    .extend(between(rest, "\"", "\"").map(str::to_owned));
                Ok(())
            }
            Some(("DETACH", rest)) => {
                state.attached.lock().remove(rest.trim_matches('"'));
                Ok(())
            }
            None if sql == "CHECKPOINT" => Ok(()),
            _ => return None,
        };
        Some(done.map(|()| vec![]))
    }

    /// `name = 'value'`, or a `name` to be reset.
    fn change(&self, text: &str) -> Result<(), EngineError> {
        let state = &self.database.state;
        let (name, value) = match text.split_once(" = ") {
            Some((name, value)) => (name, Some(value.trim_matches('\'').replace("''", "'"))),
            None => (text, None),
        };
        if state.refused.lock().contains(name) {
            return Err(EngineError {
                class: if name == "memory_limit" {
                    Class::OutOfMemory
                } else {
                    Class::Statement
                },
                message: format!("Out of Memory Error: failed to change {name}"),
            });
        }
        let known = match value {
            Some(value) => {
                if name == "memory_limit" {
                    *self.database.process.0.kept.lock() = Bytes(0);
                }
                state.set(name, &value)
            }
            None => {
                let mut settings = state.settings.lock();
                let default = settings.default.get(name).cloned();
                default.is_some_and(|default| settings.now.insert(name.to_owned(), default).is_some())
            }
        };
        if known {
            Ok(())
        } else {
            Err(refused(format!(
                "Catalog Error: unrecognized configuration parameter \"{name}\""
            )))
        }
    }
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    text.split_once(start)?.1.split_once(end).map(|(inner, _)| inner)
}

impl Session for ScriptedSession {
    fn query(&self, sql: &str) -> Result<Stream, EngineError> {
        let state = &self.database.state;
        state.asked.lock().push(Asked::Statement(sql.to_owned()));
        state.check_open()?;
        let Some(answer) = self.scripted(sql) else {
            return Err(refused(format!(
                "Parser Error: nothing is scripted for \"{sql}\""
            )));
        };
        if self.current.lock().is_some() {
            return Err(EngineError {
                class: Class::Busy,
                message: "Resource In Use Error: the connection has an unfinished result".to_owned(),
            });
        }
        *self.current.lock() = Some(Current {
            sql: sql.to_owned(),
            deaf: answer.deaf,
            interrupted: false,
        });
        let began = state.clock.now();
        let number = state.next.fetch_add(1, Ordering::Relaxed);
        let running = Running {
            answer: answer.clone(),
            began,
        };
        state.running.lock().insert(number, running);
        let lease = Lease {
            database: self.database.clone(),
            current: Arc::clone(&self.current),
            number,
        };
        loop {
            self.trouble(&answer)?;
            let left = answer.takes.saturating_sub(state.clock.now().since(began));
            if left.is_zero() {
                break;
            }
            state.clock.sleep(left.min(SLICE));
        }
        if answer.rows == 0
            && let Some(error) = answer.error
        {
            return Err(error);
        }
        Ok(Box::new(Rows {
            schema: Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)])),
            next: 0,
            rows: answer.rows,
            error: answer.error,
            lease,
        }))
    }

    fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, EngineError> {
        let state = &self.database.state;
        if state.script.lock().contains_key(sql) {
            let mut rows = Vec::new();
            for batch in self.query(sql)? {
                let batch = batch.map_err(|error| refused(error.to_string()))?;
                let column = batch.column(0).as_any().downcast_ref::<Int64Array>();
                rows.extend(
                    column
                        .into_iter()
                        .flatten()
                        .map(|n| vec![n.map(|n| n.to_string())]),
                );
            }
            return Ok(rows);
        }
        state.asked.lock().push(Asked::Statement(sql.to_owned()));
        state.check_open()?;
        let slow = *state.slow.lock();
        if !slow.is_zero() {
            state.clock.sleep(slow);
        }
        self.own(sql).unwrap_or_else(|| {
            Err(refused(format!(
                "Parser Error: nothing is scripted for \"{sql}\""
            )))
        })
    }

    fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::new(ScriptedInterrupt {
            state: Arc::clone(&self.database.state),
            current: Arc::clone(&self.current),
        })
    }
}

/// A query's place among those that run; dropping ends it.
struct Lease {
    database: Database,
    current: Slot,
    number: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let before = self.database.process.anonymous();
        *self.current.lock() = None;
        self.database.state.running.lock().remove(&self.number);
        self.database.process.freed(before);
    }
}

struct Rows {
    schema: SchemaRef,
    next: u64,
    rows: u64,
    error: Option<EngineError>,
    lease: Lease,
}

impl Rows {
    fn batch(&mut self) -> Result<RecordBatch, ArrowError> {
        let end = self.rows.min(self.next + BATCH);
        let numbers = (self.next..end).map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers));
        self.next = end;
        RecordBatch::try_new(Arc::clone(&self.schema), vec![column])
    }
}

impl Iterator for Rows {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let stopped = match &*self.lease.current.lock() {
            Some(current) if current.interrupted => Some(interrupted()),
            _ => None,
        };
        let error = match stopped {
            Some(error) => {
                // It ends with this.
                (self.rows, self.error) = (self.next, None);
                if let Some(current) = self.lease.current.lock().as_mut() {
                    current.interrupted = false;
                }
                Some(error)
            }
            None if self.next < self.rows => return Some(self.batch()),
            None => self.error.take(),
        };
        error.map(|error| Err(ArrowError::ExternalError(Box::new(error))))
    }
}

impl RecordBatchReader for Rows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn database() -> (Arc<ManualClock>, Process, Database) {
        let clock = ManualClock::new();
        let process = Process::new(Arc::clone(&clock) as SharedClock);
        let database = process.database();
        (clock, process, database)
    }

    #[test]
    fn answers_come_in_order_and_the_last_for_ever() {
        let (_, _, database) = database();
        database.answer("q", Answer::error(Class::Transaction, "conflict"));
        database.answer("q", Answer::rows(3000));
        let session = database.session().unwrap();
        assert_eq!(session.query("q").err().unwrap().class, Class::Transaction);
        for _ in 0..2 {
            let rows: usize = session
                .query("q")
                .unwrap()
                .map(|batch| batch.unwrap().num_rows())
                .sum();
            assert_eq!(rows, 3000);
        }
    }

    #[test]
    fn memory_follows_the_curve_spills_over_the_limit_and_goes_with_the_stream() {
        let (clock, process, database) = database();
        let curve = vec![
            (Duration::ZERO, Bytes(0)),
            (Duration::from_secs(10), Bytes::mib(1000)),
        ];
        database.answer("q", Answer::rows(1).along(curve).untracked(0.5));
        let session = database.session().unwrap();
        let stream = session.query("q").unwrap();
        clock.advance(Duration::from_secs(5));
        assert_eq!(process.anonymous(), Bytes::mib(550));
        database.user_sets("memory_limit", "100MiB");
        assert_eq!(process.anonymous(), Bytes::mib(50 + 250 + 100));
        let memory = super::super::instance_memory(&*session).unwrap();
        assert_eq!(
            (memory.tracked, memory.spilled),
            (Bytes::mib(100), Bytes::mib(150))
        );
        process.keeps_freed(true);
        drop(stream);
        assert_eq!(process.anonymous(), Bytes::mib(400));
        session.rows("SET GLOBAL memory_limit = '100MiB'").unwrap();
        assert_eq!(process.anonymous(), Bytes::mib(50));
    }

    #[test]
    fn an_interrupt_reaches_what_runs_and_nothing_else() {
        let (_, _, database) = database();
        database.answer("q", Answer::rows(5000));
        let session = database.session().unwrap();
        session.interrupt().interrupt();
        let mut stream = session.query("q").unwrap();
        assert!(stream.next().unwrap().is_ok());
        session.interrupt().interrupt();
        assert!(stream.next().unwrap().is_err());
        assert!(stream.next().is_none());
        assert!(matches!(&database.asked()[0], Asked::Interrupt(None)));
    }
}
