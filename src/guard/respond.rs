//! Carries out what the governor decides on a DuckDB instance, and takes it back.
//!
//! Every change of a setting goes through [`Instance::set`], which remembers what was there before; nothing is changed
//! that `Instance::restore` does not put back. All of it runs on connections of our own.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};

use crate::engine::{Class, Engine, EngineError, InstanceMemory, Session, instance_memory};
use crate::error::{Error, ErrorKind, Result};
use crate::units::Bytes;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A setting that was changed: what it was, and how it is put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its name.
    pub name: &'static str,
    /// The value before, as DuckDB prints it.
    pub before: String,
    /// The value now, as it was set.
    pub now: String,
    /// How many ask for it; the last to let go puts it back.
    holders: usize,
}

/// One DuckDB instance under guard: every connection to one database, in one process.
pub struct Instance {
    /// Its number in this process.
    id: u64,
    /// Ways to a connection of our own: one for each ward, so that any of them may be closed first.
    engines: Mutex<Vec<Weak<dyn Engine>>>,
    session: Mutex<Box<dyn Session>>,
    changed: Mutex<Vec<Changed>>,
    retired: AtomicBool,
    /// `temp_directory` before the guard came.
    original_temp_directory: String,
    threads: usize,
    limits: Mutex<Limits>,
}

/// `memory_limit`: the user's, and the one in force.
#[derive(Clone, Copy, Debug)]
struct Limits {
    original: Bytes,
    now: Bytes,
    /// The user's is DuckDB's default, known in full precision; none: not asked yet.
    is_default: Option<bool>,
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instance")
            .field("limits", &*self.limits.lock())
            .field("changed", &*self.changed.lock())
            .finish_non_exhaustive()
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn connection_error(error: EngineError) -> Error {
    let kind = match error.class {
        Class::OutOfMemory => ErrorKind::Memory,
        _ => ErrorKind::Connection,
    };
    let message = format!("the connection cannot be guarded: {}", error.message);
    Error::new(kind, message).with_source(error)
}

impl Instance {
    /// Takes an instance under guard; changes nothing yet.
    ///
    /// # Errors
    /// [`ErrorKind::Connection`] when it is closed or does not answer.
    pub fn new(engine: &Arc<dyn Engine>) -> Result<Self> {
        let session = engine.session().map_err(connection_error)?;
        let rows = session
            .rows("SELECT current_setting('memory_limit'), current_setting('temp_directory'), current_setting('threads')::VARCHAR")
            .map_err(connection_error)?;
        let mut row = rows.into_iter().next().unwrap_or_default().into_iter();
        let mut next = || row.next().flatten().unwrap_or_default();
        let (limit, temp_directory, threads) = (next(), next(), next());
        // DuckDB prints no limit at all for a limit that was lifted.
        let original_limit = Bytes::from_printed(&limit).unwrap_or(Bytes(u64::MAX));
        Ok(Instance {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            engines: Mutex::new(vec![Arc::downgrade(engine)]),
            session: Mutex::new(session),
            changed: Mutex::new(Vec::new()),
            retired: AtomicBool::new(false),
            original_temp_directory: temp_directory,
            threads: threads.parse().unwrap_or(1),
            limits: Mutex::new(Limits {
                original: original_limit,
                now: original_limit,
                is_default: None,
            }),
        })
    }

    /// Its number in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// `memory_limit` before the guard came.
    pub fn original_limit(&self) -> Bytes {
        self.limits.lock().original
    }

    /// `memory_limit` now.
    pub fn limit(&self) -> Bytes {
        self.limits.lock().now
    }

    /// Threads before the guard came.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// What is changed now.
    pub fn changed(&self) -> Vec<Changed> {
        let mut changed = self.changed.lock().clone();
        let limits = *self.limits.lock();
        if limits.now != limits.original {
            let (before, now) = (limits.original.to_string(), limits.now.to_string());
            changed.insert(
                0,
                Changed {
                    name: "memory_limit",
                    before,
                    now,
                    holders: 1,
                },
            );
        }
        changed
    }

    /// Where the instance spills; none when it may not.
    pub fn temp_directory(&self) -> Option<PathBuf> {
        let changed = self.changed.lock();
        let text = changed
            .iter()
            .find(|change| change.name == "temp_directory")
            .map_or(self.original_temp_directory.as_str(), |change| {
                change.now.as_str()
            });
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    /// Whether `other` belongs to the same instance: a database attached on the one is seen on the other.
    pub fn is_same(&self, other: &dyn Engine) -> bool {
        let Ok(theirs) = other.session() else { return false };
        let ours = self.open_session();
        let name = format!("duckward_probe_{}_{:p}", std::process::id(), self);
        if ours.rows(&format!("ATTACH ':memory:' AS \"{name}\"")).is_err() {
            return false;
        }
        let seen = theirs
            .rows(&format!(
                "SELECT 1::VARCHAR FROM duckdb_databases() WHERE database_name = {}",
                quoted(&name)
            ))
            .is_ok_and(|rows| !rows.is_empty());
        let _ = ours.rows(&format!("DETACH \"{name}\""));
        seen
    }

    /// What its buffer manager says. A `memory_limit` that the user set meanwhile is theirs from now on: it is respected,
    /// and it is what is put back.
    ///
    /// # Errors
    /// The engine's.
    pub fn memory(&self) -> Result<InstanceMemory, EngineError> {
        // Asked many times a second: whether the connection still stands is only asked where it does not answer.
        let mut session = self.session.lock();
        self.check_guarded()?;
        let memory = match instance_memory(&**session) {
            Err(error) if error.class == Class::Connection => {
                session = self.reopened(session);
                instance_memory(&**session)?
            }
            answered => answered?,
        };
        let mut limits = self.limits.lock();
        if memory.limit != limits.now.to_string()
            && let Some(theirs) = Bytes::from_printed(&memory.limit)
        {
            *limits = Limits {
                original: theirs,
                now: theirs,
                is_default: Some(false),
            };
        }
        Ok(memory)
    }

    /// Another way to a connection of our own.
    pub fn add_engine(&self, engine: &Arc<dyn Engine>) {
        let mut engines = self.engines.lock();
        engines.retain(|known| known.strong_count() > 0);
        engines.push(Arc::downgrade(engine));
    }

    /// Our connection, while a ward guards the instance. After the last one has gone nothing of ours runs there any more:
    /// the user may close the connection that ours was made from, and DuckDB refuses that while ours is busy.
    fn guarded_session(&self) -> Result<MutexGuard<'_, Box<dyn Session>>, EngineError> {
        let session = self.session.lock();
        self.check_guarded()?;
        Ok(self.reopened(session))
    }

    fn open_session(&self) -> MutexGuard<'_, Box<dyn Session>> {
        self.reopened(self.session.lock())
    }

    /// Opened anew if it went with the connection that it was made from.
    fn reopened<'a>(
        &self,
        mut session: MutexGuard<'a, Box<dyn Session>>,
    ) -> MutexGuard<'a, Box<dyn Session>> {
        if session
            .rows("SELECT 1::VARCHAR")
            .is_err_and(|error| error.class == Class::Connection)
            && let Ok(another) = self.session()
        {
            *session = another;
        }
        session
    }

    /// A connection of our own to this instance.
    ///
    /// # Errors
    /// The engine's.
    pub fn session(&self) -> Result<Box<dyn Session>, EngineError> {
        let engines: Vec<Arc<dyn Engine>> = self.engines.lock().iter().filter_map(Weak::upgrade).collect();
        let mut failed = EngineError {
            class: Class::Connection,
            message: "every connection to the instance is closed".to_owned(),
        };
        for engine in engines {
            match engine.session() {
                Ok(session) => return Ok(session),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Sets a global setting, and remembers what was there before.
    ///
    /// # Errors
    /// The engine's; nothing is changed then.
    pub fn set(&self, name: &'static str, value: &str) -> Result<(), EngineError> {
        let session = self.guarded_session()?;
        self.set_on(&**session, name, value)
    }

    fn set_on(&self, session: &dyn Session, name: &'static str, value: &str) -> Result<(), EngineError> {
        let mut changed = self.changed.lock();
        let known = changed.iter().position(|change| change.name == name);
        let before = match known {
            Some(_) => None,
            None => Some(current(session, name)?),
        };
        session.rows(&format!("SET GLOBAL {name} = {}", quoted(value)))?;
        match (known, before) {
            (Some(at), _) => value.clone_into(&mut changed[at].now),
            (None, before) => {
                let before = before.unwrap_or_default();
                changed.push(Changed {
                    name,
                    before,
                    now: value.to_owned(),
                    holders: 1,
                });
            }
        }
        Ok(())
    }

    /// As [`Instance::set`], but beside others who asked for the same: it is put back when each has called
    /// [`Instance::undo`]. What is changed already stays as it is.
    ///
    /// # Errors
    /// The engine's; nothing is changed then.
    pub fn hold(&self, name: &'static str, value: &str) -> Result<(), EngineError> {
        let session = self.guarded_session()?;
        if let Some(change) = self.changed.lock().iter_mut().find(|change| change.name == name) {
            change.holders += 1;
            return Ok(());
        }
        self.set_on(&**session, name, value)
    }

    /// From now on nothing can be changed until [`Instance::revive`]: the last ward goes, and whoever still holds this
    /// instance must not change what [`Instance::restore`] has put back.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// A ward has come.
    pub(super) fn revive(&self) {
        self.retired.store(false, Ordering::Release);
    }

    /// Asked with the session locked, as [`Instance::restore`] locks it.
    fn check_guarded(&self) -> Result<(), EngineError> {
        if self.retired.load(Ordering::Acquire) {
            return Err(EngineError {
                class: Class::Connection,
                message: "no ward guards this instance any more".to_owned(),
            });
        }
        Ok(())
    }

    /// Puts one setting back, if it was changed; what it was.
    ///
    /// # Errors
    /// The engine's; the change stays noted then.
    pub fn undo(&self, name: &str) -> Result<Option<String>, EngineError> {
        let session = self.open_session();
        let mut changed = self.changed.lock();
        let Some(at) = changed.iter().position(|change| change.name == name) else {
            return Ok(None);
        };
        if changed[at].holders > 1 {
            changed[at].holders -= 1;
            return Ok(None);
        }
        put_back(&**session, &changed[at])?;
        Ok(Some(changed.remove(at).before))
    }

    /// Sets `memory_limit`. DuckDB refuses a limit under what it cannot evict.
    ///
    /// # Errors
    /// The engine's; the old limit stays.
    pub fn set_limit(&self, limit: Bytes) -> Result<(), EngineError> {
        let session = self.guarded_session()?;
        let mut limits = self.limits.lock();
        know_default(&**session, &mut limits)?;
        session.rows(&format!("SET GLOBAL memory_limit = '{}B'", limit.get()))?;
        limits.now = limit;
        Ok(())
    }

    /// Puts `memory_limit` back.
    ///
    /// # Errors
    /// The engine's; the limit stays then.
    pub fn undo_limit(&self) -> Result<(), EngineError> {
        let session = self.open_session();
        let mut limits = self.limits.lock();
        if limits.now != limits.original {
            put_limit_back(&**session, &mut limits)?;
        }
        Ok(())
    }

    /// Returns freed pages to the system: setting the limit to its own value flushes the allocator, under load too.
    ///
    /// # Errors
    /// The engine's.
    pub fn flush(&self) -> Result<(), EngineError> {
        let session = self.guarded_session()?;
        let mut limits = self.limits.lock();
        if limits.now == limits.original {
            know_default(&**session, &mut limits)?;
            return put_limit_back(&**session, &mut limits);
        }
        session
            .rows(&format!("SET GLOBAL memory_limit = '{}B'", limits.now.get()))
            .map(drop)
    }

    /// Drops the cache of external files, where this version has one and it is on.
    ///
    /// # Errors
    /// The engine's.
    pub fn drop_file_cache(&self) -> Result<bool, EngineError> {
        let session = self.guarded_session()?;
        match current(&**session, "enable_external_file_cache") {
            Ok(on) if on == "true" => {
                session.rows("SET GLOBAL enable_external_file_cache = false")?;
                session.rows("SET GLOBAL enable_external_file_cache = true")?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            // Not in this version.
            Err(_) => Ok(false),
        }
    }

    /// Writes a checkpoint, so that the memory of the write-ahead log is freed.
    ///
    /// # Errors
    /// The engine's, a read-only database or an open transaction among them.
    pub fn checkpoint(&self) -> Result<(), EngineError> {
        self.guarded_session()?.rows("CHECKPOINT").map(drop)
    }

    /// Makes sure that the instance can spill: into `wanted` if given, else where it does, else the system's directory.
    ///
    /// # Errors
    /// [`ErrorKind::Disk`] when the directory cannot be written.
    pub fn ensure_temp_directory(&self, wanted: Option<&Path>) -> Result<()> {
        let present = self.temp_directory();
        let directory = match (wanted, &present) {
            (Some(wanted), _) => wanted.to_owned(),
            (None, Some(present)) => present.clone(),
            (None, None) => std::env::temp_dir().join("duckward"),
        };
        ensure_writable(&directory)?;
        if present.as_deref() == Some(&directory) {
            return Ok(());
        }
        let text = directory.to_string_lossy().into_owned();
        self.set("temp_directory", &text).map_err(|error| {
            let message = format!(
                "temp_directory={} cannot be set: {}",
                directory.display(),
                error.message
            );
            Error::new(ErrorKind::Disk, message).with_source(error)
        })
    }

    /// Puts everything back, last change first; what could not be, with the reason. Nothing while a ward guards it.
    pub(super) fn restore(&self) -> Vec<String> {
        let mut left = Vec::new();
        if self.check_guarded().is_ok() {
            return left;
        }
        if let Err(error) = self.undo_limit() {
            left.push(format!("memory_limit stays {}: {}", self.limit(), error.message));
        }
        let session = self.open_session();
        let changes: Vec<Changed> = self.changed.lock().drain(..).rev().collect();
        for change in changes {
            // DuckDB keeps its temporary directory once it has spilled there; it holds nothing then.
            if let Err(error) = put_back(&**session, &change) {
                left.push(format!("{} stays {}: {}", change.name, change.now, error.message));
            }
        }
        left
    }
}

fn current(session: &dyn Session, name: &str) -> Result<String, EngineError> {
    let rows = session.rows(&format!("SELECT current_setting({})::VARCHAR", quoted(name)))?;
    Ok(rows
        .into_iter()
        .next()
        .and_then(|row| row.into_iter().next().flatten())
        .unwrap_or_default())
}

fn put_back(session: &dyn Session, change: &Changed) -> Result<(), EngineError> {
    session
        .rows(&format!(
            "SET GLOBAL {} = {}",
            change.name,
            quoted(&change.before)
        ))
        .map(drop)
}

/// DuckDB prints its limit rounded down to one decimal, so a default is recognised, and put back by RESET; another one
/// is put back as the smallest size that prints the same.
fn know_default(session: &dyn Session, limits: &mut Limits) -> Result<(), EngineError> {
    if limits.is_default.is_none() {
        let before = current(session, "memory_limit")?;
        session.rows("RESET GLOBAL memory_limit")?;
        let is_default = current(session, "memory_limit")? == before;
        limits.is_default = Some(is_default);
        if !is_default {
            put_limit_back(session, limits)?;
        }
    }
    Ok(())
}

fn put_limit_back(session: &dyn Session, limits: &mut Limits) -> Result<(), EngineError> {
    // Also before a RESET: DuckDB 1.4 and 1.5 reset what the setting says, and leave the limit that holds as it is.
    session.rows(&format!("SET GLOBAL memory_limit = '{}B'", limits.original.get()))?;
    if limits.is_default == Some(true) {
        session.rows("RESET GLOBAL memory_limit")?;
    }
    limits.now = limits.original;
    Ok(())
}

/// Makes sure that `directory` can be made, if it is not there, and takes a file.
///
/// # Errors
/// [`ErrorKind::Disk`], naming the directory and the reason.
pub fn ensure_writable(directory: &Path) -> Result<()> {
    let refuse = |error: std::io::Error| {
        let message = format!(
            "temp_directory={} cannot be written: {error}; name a directory that this process may write",
            directory.display()
        );
        Error::new(ErrorKind::Disk, message).with_source(error)
    };
    let was_there = directory.is_dir();
    std::fs::create_dir_all(directory).map_err(refuse)?;
    let written = tempfile::Builder::new()
        .prefix("duckward_probe_")
        .tempfile_in(directory)
        .map(drop)
        .map_err(refuse);
    if !was_there {
        // Whoever spills makes it again; until then there is no trace of the question. Not empty: somebody was faster.
        let _ = std::fs::remove_dir(directory);
    }
    written
}

/// Settings of an instance, in force until this is dropped.
#[derive(Debug)]
pub struct HeldSettings {
    instance: Arc<Instance>,
    names: Vec<&'static str>,
}

impl HeldSettings {
    /// The settings of the degraded rung: one thread, small write buffers, no insertion order if `keep_order` is false.
    pub fn degraded(instance: &Arc<Instance>, keep_order: bool) -> Self {
        let mut wanted = vec![
            ("partitioned_write_max_open_files", "10"),
            ("threads", "1"),
            ("write_buffer_row_group_count", "1"),
        ];
        if !keep_order {
            wanted.push(("preserve_insertion_order", "false"));
        }
        HeldSettings::new(instance, &wanted)
    }

    /// What this version does not have, or refuses, is left out; the names of what was set are in [`HeldSettings::names`].
    pub fn new(instance: &Arc<Instance>, wanted: &[(&'static str, &str)]) -> Self {
        let names = wanted
            .iter()
            .filter(|(name, value)| instance.hold(name, value).is_ok())
            .map(|(name, _)| *name)
            .collect();
        HeldSettings {
            instance: Arc::clone(instance),
            names,
        }
    }

    /// What was set.
    pub fn names(&self) -> &[&'static str] {
        &self.names
    }
}

impl Drop for HeldSettings {
    fn drop(&mut self) {
        for name in self.names.iter().rev() {
            // A closed connection has nothing left to put back.
            let _ = self.instance.undo(name);
        }
    }
}
