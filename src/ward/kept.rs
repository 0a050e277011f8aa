//! The file in which what a ward learnt outlives it: where it is, how it is read and replaced, and what becomes of a broken one.
//!
//! The file is read, added to and replaced in one go, so that several wards and processes may share it. All of it happens on
//! the thread of whoever ended a query or closed the ward, and without the lock of the history.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use super::SHAPES;
use crate::clock::{Clock, Moment};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::event::What;
use crate::fallback::history::{Fingerprint, History, Need, Place, Unreadable};
use crate::files::{directory, draft, replace};
use crate::guard::Guardian;
use crate::settings::Keep;
use crate::units::Bytes;

/// What the name of the file beside a database adds to the database's.
const BESIDE: &str = ".duckward.json";
/// What the name of a file that was moved aside adds to its own.
const BROKEN: &str = ".broken";
/// So many of them may lie there: they are not ours to delete.
const MOST_BROKEN: usize = 9;
/// The largest file that is read; one that is full takes a tenth of it.
const LARGEST: Bytes = Bytes::mib(1);
/// How often the file is written while queries end.
const EVERY: Duration = Duration::from_secs(30);
/// How long another that writes is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);
/// The paths of all databases, the one that the connection was opened with first; none for one in memory.
const DATABASES: &str =
    "SELECT path FROM duckdb_databases() ORDER BY database_name <> current_database(), database_name";

/// The file of a ward's history.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    /// Held while the file is read and written.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What was learnt before is in the file.
    place: Place,
    /// When the file was last written, or that was tried.
    at: Moment,
}

impl Kept {
    /// The file that is wanted, if one is; nothing is written yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the database has no place for it or is that file, [`ErrorKind::Disk`] when it cannot be
    /// read and written, [`ErrorKind::Connection`] when DuckDB does not say where its databases are.
    pub(super) fn find(wanted: &Keep, engine: &dyn Engine, clock: &dyn Clock) -> Result<Option<Self>> {
        if *wanted == Keep::Nowhere {
            return Ok(None);
        }
        let databases = databases(engine)?;
        let path = place(wanted, databases.first().and_then(Option::as_deref))?;
        let path = check(&path).map_err(|error| {
            let message = format!(
                "history={} cannot be kept in {}: {error}; give the path of a file in a directory that this process \
                 may write, or \"none\"",
                named(wanted),
                path.display()
            );
            Error::new(ErrorKind::Disk, message).with_source(error)
        })?;
        let is_same = |database: &PathBuf| database.canonicalize().is_ok_and(|database| database == path);
        if databases.iter().flatten().any(is_same) {
            return Err(Error::invalid(
                "history",
                named(wanted),
                "give the path of a file that is not a database which this connection has open",
            ));
        }
        let state = State {
            place: Place::default(),
            at: clock.now(),
        };
        Ok(Some(Kept {
            path,
            state: Mutex::new(state),
        }))
    }

    /// What was kept; nothing where that cannot be read.
    pub(super) fn load(&self, guardian: &Guardian) -> History {
        let mut told = Vec::new();
        let mut state = self.state.lock();
        let history = self
            .update(Vec::new(), &**guardian.clock(), &mut told)
            .unwrap_or_else(|| History::new(SHAPES));
        state.place = history.place();
        drop(state);
        publish(guardian, told);
        history
    }

    /// Keeps what `history` has learnt, unless that was done lately or another thread is at it.
    pub(super) fn keep_if_due(&self, history: &Mutex<History>, guardian: &Guardian) {
        let Some(mut state) = self.state.try_lock() else {
            return;
        };
        if guardian.clock().now().since(state.at) < EVERY {
            return;
        }
        let told = self.exchange(&mut state, history, guardian);
        drop(state);
        publish(guardian, told);
    }

    /// Keeps what `history` has learnt.
    pub(super) fn keep(&self, history: &Mutex<History>, guardian: &Guardian) {
        let told = self.exchange(&mut self.state.lock(), history, guardian);
        publish(guardian, told);
    }

    /// Adds to the file what was learnt since, and to `history` what others have kept. What there is to tell.
    fn exchange(&self, state: &mut State, history: &Mutex<History>, guardian: &Guardian) -> Vec<What> {
        let mut told = Vec::new();
        state.at = guardian.clock().now();
        let (learnt, place) = {
            let history = history.lock();
            (history.since(state.place), history.place())
        };
        if learnt.is_empty() {
            return told;
        }
        if let Some(mut kept) = self.update(learnt, &**guardian.clock(), &mut told) {
            let mut history = history.lock();
            state.place = kept.place();
            kept.merge(history.since(place));
            *history = kept;
        }
        told
    }

    /// Reads the file, adds what was learnt, and replaces it. What it holds then; none, and the reason in `told`, where that
    /// did not work.
    fn update(
        &self,
        learnt: Vec<(Fingerprint, Need)>,
        clock: &dyn Clock,
        told: &mut Vec<What>,
    ) -> Option<History> {
        update(&self.path, learnt, clock, told)
            .map_err(|error| {
                told.push(What::HistoryNotKept {
                    path: self.path.display().to_string(),
                    reason: error.to_string(),
                });
            })
            .ok()
    }
}

/// Without a lock: a subscriber may close the ward.
fn publish(guardian: &Guardian, told: Vec<What>) {
    for what in told {
        guardian.bus().publish(what);
    }
}

/// A value of the setting, as errors show it.
fn named(wanted: &Keep) -> String {
    match wanted {
        Keep::Nowhere => "\"none\"".to_owned(),
        Keep::Beside => "\"beside\"".to_owned(),
        Keep::In(path) => format!("{path:?}"),
    }
}

fn databases(engine: &dyn Engine) -> Result<Vec<Option<PathBuf>>> {
    let asked = engine.session().and_then(|session| session.rows(DATABASES));
    let rows = asked.map_err(|error| {
        let message = format!(
            "where the database is, beside which the history is kept, cannot be found out: {}; use an open connection",
            error.message
        );
        Error::new(ErrorKind::Connection, message).with_source(error)
    })?;
    let path = |row: Vec<Option<String>>| row.into_iter().next().flatten().map(PathBuf::from);
    Ok(rows.into_iter().map(path).collect())
}

/// `path` with something added to its name.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// Where the file is to be.
fn place(wanted: &Keep, database: Option<&Path>) -> Result<PathBuf> {
    let refuse = |why: &str| {
        Error::invalid(
            "history",
            named(wanted),
            &format!("{why}; give the path of a file whose name ends in .json, or \"none\""),
        )
    };
    match (wanted, database) {
        (Keep::In(path), _) => Ok(path.clone()),
        (_, None) => Err(refuse(
            "this database is in memory, so there is no file to be beside",
        )),
        // It may be read over the network.
        (_, Some(database)) if !database.is_file() => Err(refuse(&format!(
            "this database, {}, is not a file on this machine",
            database.display()
        ))),
        (_, Some(database)) => Ok(with_ending(database, BESIDE)),
    }
}

/// Whether a file there can be read, if there is one, and replaced; where it really is.
fn check(path: &Path) -> io::Result<PathBuf> {
    let path = match path.symlink_metadata() {
        Ok(_) => {
            let path = path.canonicalize()?;
            // Before it is opened: a pipe would wait for its other end.
            if !path.is_file() {
                return Err(io::Error::other("it is not a file"));
            }
            open(&path)?;
            path
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = std::path::absolute(path)?;
            let name = path.file_name().unwrap_or_default();
            directory(&path).canonicalize()?.join(name)
        }
        Err(error) => return Err(error),
    };
    draft(&path)?;
    Ok(path)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the history and its directory; `Kept::find` refuses a database"
)]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

fn update(
    path: &Path,
    learnt: Vec<(Fingerprint, Need)>,
    clock: &dyn Clock,
    told: &mut Vec<What>,
) -> io::Result<History> {
    let _alone = Alone::in_directory(directory(path), clock);
    let mut kept = read(path, told)?;
    if !learnt.is_empty() {
        kept.merge(learnt);
        replace(path, kept.write()?.as_bytes())?;
    }
    Ok(kept)
}

/// What the file holds; nothing where there is none. One that is not a history is moved aside.
fn read(path: &Path, told: &mut Vec<What>) -> io::Result<History> {
    let mut text = Vec::new();
    match open(path) {
        Ok(file) => file.take(LARGEST.get() + 1).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(History::new(SHAPES)),
        Err(error) => return Err(error),
    };
    let history = if Bytes(text.len() as u64) > LARGEST {
        Err(Unreadable::Broken(format!("it is larger than {LARGEST}")))
    } else {
        History::read(&text, SHAPES)
    };
    match history {
        Ok(history) => Ok(history),
        Err(reason) => {
            let to = move_aside(path)?;
            told.push(What::HistoryMovedAside {
                path: path.display().to_string(),
                to: to.display().to_string(),
                reason: reason.to_string(),
            });
            Ok(History::new(SHAPES))
        }
    }
}

/// Gives the file a name that is free.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let names = (1..=MOST_BROKEN).map(|number| match number {
        1 => with_ending(path, BROKEN),
        _ => with_ending(path, &format!("{BROKEN}-{number}")),
    });
    let is_free = |name: &PathBuf| {
        name.symlink_metadata()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let to = names.into_iter().find(is_free).ok_or_else(|| {
        io::Error::other(format!(
            "it is broken, and so are {MOST_BROKEN} others beside it; look at those, and remove them"
        ))
    })?;
    std::fs::rename(path, &to)?;
    Ok(to)
}

/// Nobody else replaces a history in this directory. Where that cannot be had (another who is slow, a file system without
/// locks), what one of two has learnt may be lost, and is learnt again.
struct Alone(Option<File>);

impl Alone {
    fn in_directory(directory: &Path, clock: &dyn Clock) -> Self {
        let Ok(file) = open(directory) else {
            return Alone(None);
        };
        let start = clock.now();
        loop {
            match file.try_lock() {
                Ok(()) => return Alone(Some(file)),
                Err(TryLockError::WouldBlock) if clock.now().since(start) < PATIENCE => clock.sleep(POLL),
                Err(_) => return Alone(None),
            }
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some(file) = &self.0 {
            // Closing alone would leave it to a child that was forked meanwhile.
            let _ = file.unlock();
        }
    }
}

#[cfg(test)]
mod tests;
