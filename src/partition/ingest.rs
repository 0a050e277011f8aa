//! Loading records into a table, batch by batch. A transaction has one batch or several, and moves the load's position in the
//! journal; so what is committed is whole, and a load that ended anywhere goes on after the last record that was committed.
//!
//! Deciding is pure and below: how large a batch is, and how many are committed at once (`pace`), what the journal says
//! (`journal`), how records become rows (`sql`), which column goes where (`target`). Here is the order in which it happens.
//! Whoever has records hands in a [`Load`].

mod journal;
mod pace;
pub mod sql;
mod target;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::engine::Ask;
use crate::engine::text::quoted_name;
use crate::error::{Error, ErrorKind, Result};
use journal::{Journal, State};
use pace::{Next, Pace};
use sql::{BATCH, Kind, Layout, Method, Statements};
use target::{Found, Name, Table};

pub use journal::TABLE as JOURNAL;
pub use pace::{Limit, default_bytes};
pub use target::{Column, Session, matched};

/// What is to be loaded, and how.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The table, as the user names it.
    pub table: String,
    /// Rows of a batch, at most, and bytes of what is committed at once.
    pub limit: Limit,
    /// What the load is known by; none: a new one.
    pub token: Option<String>,
    /// The table of rejected records; none: the first bad record ends the load.
    pub rejects: Option<String>,
    /// Whether the table is made if it is not there.
    pub create: bool,
    /// How often a conflict is retried, and the pause before the first retry.
    pub retries: u32,
    /// See there.
    pub backoff: Duration,
}

/// What became of a load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ingested {
    /// The table, quoted, with its database and schema.
    pub table: String,
    /// Rows inserted by this call.
    pub rows: u64,
    /// Records rejected by this call.
    pub rejected: u64,
    /// Batches committed by this call.
    pub batches: u64,
    /// What the load is known by.
    pub token: String,
    /// Records of the source that were committed by earlier calls, and skipped; none where this call began the load.
    pub resumed_from: Option<u64>,
    /// Rows inserted by all calls with this token.
    pub total_rows: u64,
    /// Records rejected by all of them.
    pub total_rejected: u64,
    /// The table of rejected records, quoted.
    pub rejects: Option<String>,
    /// Wall time of this call, in seconds.
    pub seconds: f64,
}

/// A batch that was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its number in this call, from 1.
    pub batch: u64,
    /// Rows inserted.
    pub rows: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Records of the source that are behind the load now.
    pub position: u64,
}

/// What a transaction failed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Values: a cast, a constraint.
    Data,
    /// Memory.
    Memory,
    /// Somebody else changed the same.
    Conflict,
    /// Anything else.
    Other,
}

/// What came into the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Records.
    pub rows: u64,
    /// Their bytes, as Arrow has them in memory.
    pub bytes: u64,
    /// How long the source took.
    pub time: Duration,
    /// Whether the source has no more.
    pub ended: bool,
}

/// What a transaction runs next: given the rows that each statement so far has changed, the next one, or none to commit. An
/// error rolls back.
pub type Steps<'a> = &'a (dyn Fn(&[u64]) -> Result<Option<String>> + Sync);

/// The columns of records: their names, and the kinds of values that came.
pub type Shape = Vec<(String, Vec<Kind>)>;

/// Who has records, and a connection of the load's own to the database, which [`Ask::ask`] asks.
pub trait Load<E>: Ask<E> {
    /// What names mean to the user's connection; none where it must not be asked.
    fn session(&self) -> Option<&Session>;

    /// What the table would be made of: names and kinds, of records; none where an empty [`BATCH`] was put in place that says it.
    ///
    /// # Errors
    /// The source's.
    fn shape(&mut self) -> Result<Option<Shape>, E>;

    /// From now on records are for these columns of `table`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where the source has others.
    fn bind(&mut self, columns: &[Column], table: &str) -> Result<(), E>;

    /// Passes over so many records; how many there were.
    ///
    /// # Errors
    /// The source's.
    fn skip(&mut self, records: u64) -> Result<u64, E>;

    /// Puts a batch into the buffer: behind what is in it, or after emptying it. None of a batch where its values have other types
    /// than those in the buffer.
    ///
    /// # Errors
    /// The source's. What was in the buffer is there still.
    fn fill(&mut self, limit: Limit, behind: bool) -> Result<Filled, E>;

    /// Makes records of the buffer the [`BATCH`]; with their numbers, counted from `first`, where that is given.
    ///
    /// # Errors
    /// The engine's.
    fn offer(&mut self, records: Range<u64>, first: Option<u64>) -> Result<Layout, E>;

    /// Runs one transaction on the load's connection, and commits it or rolls it back. With `persist` it is tried in every way
    /// that a query is tried.
    ///
    /// # Errors
    /// The engine's, or that of `steps`; it was rolled back then, unless COMMIT itself failed.
    fn transact(&mut self, steps: Steps<'_>, commit: bool, persist: bool) -> Result<(), E>;

    /// What an error of [`Load::transact`] means.
    fn fault(&self, error: &E) -> Fault;

    /// Whether an error of [`Load::fill`] is the source's own, and not a cancel or one of ours.
    fn is_the_sources(&self, error: &E) -> bool;

    /// The text of an error, in a line.
    fn text(&self, error: &E) -> String;

    /// An error of ours with another one behind it.
    fn because(&self, error: Error, cause: E) -> E;

    /// Whether memory is short.
    fn is_pressed(&self) -> bool;

    /// Waits.
    ///
    /// # Errors
    /// When the user gave up.
    fn rest(&mut self, time: Duration) -> Result<(), E>;

    /// What the load is known by is settled.
    fn started(&mut self, token: &str);

    /// A batch was committed.
    fn committed(&mut self, batch: Committed);
}

/// Loads the records of `load` into a table.
///
/// # Errors
/// [`ErrorKind::Invalid`] for what cannot be loaded so, [`ErrorKind::State`] for a token that is finished or in use,
/// [`ErrorKind::Query`] for a bad record, [`ErrorKind::Transaction`] for a source that failed or is another one; those of the
/// engine. Batches that were committed stay, and the token goes on after them; of the batch that failed nothing remains.
pub fn ingest<E: From<Error>>(load: &mut dyn Load<E>, wish: &Wish) -> Result<Ingested, E> {
    check(wish)?;
    let (name, is_there) = match find(load, "table", &wish.table)? {
        Found::There(name) => (name, true),
        Found::Missing(name) => (name, false),
    };
    if !is_there && !wish.create {
        let message = format!(
            "there is no table {} in the database {}: make it, or give create=True to make it of what the source has",
            name.local(),
            quoted_name(&name.database)
        );
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    target::writable(load, &name)?;
    let (rejects, makes_rejects) = rejects(load, wish, &name)?;
    let token = match &wish.token {
        Some(token) => token.clone(),
        None => load
            .ask("SELECT uuid()::VARCHAR")?
            .into_iter()
            .flatten()
            .flatten()
            .next()
            .unwrap_or_default(),
    };
    load.started(&token);
    let journal = Journal::new(&name.database, &token);
    let known = journal.read(load, &name.database)?;
    if let Some(state) = &known {
        state.check(&token, &name.local())?;
        if !is_there && state.inserted > 0 {
            let message = format!(
                "{} is gone, and {} rows were loaded into it with token={token:?}: give another token to load them again",
                name.local(),
                state.inserted
            );
            return Err(Error::new(ErrorKind::State, message).into());
        }
    }
    let mut statements = Statements {
        target: name.sql(),
        table: if is_there {
            target::describe(load, &name)?
        } else {
            shape(load, &name)?
        },
        rejects,
        token,
    };
    load.bind(&statements.table.columns, &name.local())?;
    let mut run = Run {
        pace: Pace::new(wish.limit, wish.backoff, wish.retries),
        state: known.clone().unwrap_or_default(),
        method: Method::Plain,
        statements: &statements,
        journal: &journal,
        name: &name,
        batches: 0,
        failed: None,
        load,
    };
    if known.is_some() {
        run.skip()?;
    }
    // Before anything is made: a source that fails at once leaves no trace.
    let first = run.fill()?;
    if known.is_none() {
        run.begin(!is_there, makes_rejects)?;
    } else if !is_there || makes_rejects {
        run.make(!is_there, makes_rejects)?;
    }
    run.all(first)?;
    let (state, batches) = (run.state, run.batches);
    let before = known.clone().unwrap_or_default();
    Ok(Ingested {
        table: std::mem::take(&mut statements.target),
        rows: state.inserted - before.inserted,
        rejected: state.rejected - before.rejected,
        batches,
        token: std::mem::take(&mut statements.token),
        resumed_from: known.map(|known| known.position),
        total_rows: state.inserted,
        total_rejected: state.rejected,
        rejects: statements.rejects.take(),
        seconds: 0.0,
    })
}

fn find<E: From<Error>>(load: &mut dyn Load<E>, argument: &str, text: &str) -> Result<Found, E> {
    let session = load.session().cloned();
    target::find(load, session.as_ref(), argument, text)
}

fn check(wish: &Wish) -> Result<()> {
    if wish.limit.rows == 0 {
        return Err(Error::invalid("batch_rows", 0, "give a number of rows from 1"));
    }
    if wish.limit.bytes == 0 {
        return Err(Error::invalid("batch_bytes", 0, "give a size such as \"64MB\""));
    }
    match &wish.token {
        Some(token) if token.trim().is_empty() || token.contains('\0') => Err(Error::invalid(
            "token",
            format_args!("{token:?}"),
            "give a text that names this load, or none",
        )),
        _ => Ok(()),
    }
}

/// The table of rejected records, quoted, and whether it is to be made.
fn rejects<E: From<Error>>(
    load: &mut dyn Load<E>,
    wish: &Wish,
    target: &Name,
) -> Result<(Option<String>, bool), E> {
    let Some(text) = &wish.rejects else {
        return Ok((None, false));
    };
    let refused = |accepted: &str| Err(Error::invalid("rejects", format_args!("{text:?}"), accepted).into());
    let (name, missing) = match find(load, "rejects", text)? {
        Found::There(name) => (name, false),
        Found::Missing(name) => (name, true),
    };
    if name == *target {
        return refused("it is the table that is loaded into; give another one");
    }
    if name.database != target.database {
        return refused(
            "it is in another database than the table, and a transaction writes to one; give one there",
        );
    }
    if !missing {
        let columns = target::describe(load, &name)?.columns;
        let has = |wanted: &str| {
            columns
                .iter()
                .any(|column| column.name.eq_ignore_ascii_case(wanted))
        };
        if !["token", "source_row", "reason", "record"].into_iter().all(has) {
            return refused(
                "it lacks some of the columns token, source_row, reason, record; give the name of a table that is not there yet, \
                 and it is made",
            );
        }
    }
    Ok((Some(name.sql()), missing))
}

/// What a table is to be like that is made for a source.
fn shape<E: From<Error>>(load: &mut dyn Load<E>, name: &Name) -> Result<Table, E> {
    let found: Vec<(String, String)> = match load.shape()? {
        Some(kinds) => kinds
            .into_iter()
            .map(|(name, kinds)| (name, sql::type_of(&kinds).to_owned()))
            .collect(),
        None => load
            .ask(&format!("DESCRIBE SELECT * FROM {BATCH}"))?
            .into_iter()
            .filter_map(|row| {
                let mut cells = row.into_iter();
                Some((cells.next()??, cells.next()??))
            })
            .collect(),
    };
    if found.is_empty() {
        let message = format!(
            "the source has no record, so nothing says which columns {} should have: make the table, or give a source that has \
             records",
            name.local()
        );
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    let columns = found.into_iter().map(|(name, type_name)| Column {
        name,
        // Of a column that is all NULL.
        type_name: if type_name == "\"NULL\"" {
            "INTEGER".to_owned()
        } else {
            type_name
        },
        default: None,
    });
    Ok(Table {
        columns: columns.collect(),
        ..Table::default()
    })
}

/// One load, while it goes on.
struct Run<'a, E> {
    load: &'a mut dyn Load<E>,
    statements: &'a Statements,
    journal: &'a Journal,
    name: &'a Name,
    pace: Pace,
    state: State,
    /// How the last batch went in.
    method: Method,
    batches: u64,
    /// What the source failed of, behind the records that are in the buffer.
    failed: Option<E>,
}

impl<E: From<Error>> Run<'_, E> {
    /// Passes over what is committed.
    fn skip(&mut self) -> Result<(), E> {
        let committed = self.state.position;
        let passed = self
            .load
            .skip(committed)
            .map_err(|error| self.failed_source(error))?;
        if passed == committed {
            return Ok(());
        }
        let message = format!(
            "the source ended after {passed} records, but {committed} were committed with token={:?}: it is not the source that \
             the load began with. Give that one, or another token",
            self.journal.token()
        );
        Err(Error::new(ErrorKind::Transaction, message).into())
    }

    /// The next batches, as many as are to be committed at once.
    fn fill(&mut self) -> Result<Filled, E> {
        if let Some(error) = self.failed.take() {
            return Err(self.failed_source(error));
        }
        self.pace.before(self.load.is_pressed());
        let limit = self.pace.limit();
        let mut last = self
            .load
            .fill(limit, false)
            .map_err(|error| self.failed_source(error))?;
        let mut held = last;
        while self.pace.joins(held, last) {
            let bytes = limit.bytes - held.bytes;
            last = match self.load.fill(Limit { bytes, ..limit }, true) {
                Ok(more) => more,
                // Batches that are whole are committed first.
                Err(error) if self.load.is_the_sources(&error) => {
                    self.failed = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            };
            held = Filled {
                rows: held.rows + last.rows,
                bytes: held.bytes + last.bytes,
                time: held.time + last.time,
                ended: last.ended,
            };
        }
        self.pace.filled(held);
        Ok(held)
    }

    /// The error of a source.
    fn failed_source(&self, error: E) -> E {
        if !self.load.is_the_sources(&error) {
            return error;
        }
        let message = format!(
            "the source failed: {}. {}. Mend the source, and go on with it from its beginning",
            self.load.text(&error),
            self.how_far()
        );
        self.load
            .because(Error::new(ErrorKind::Transaction, message), error)
    }

    /// What is committed, and how to go on.
    fn how_far(&self) -> String {
        if self.state.position == 0 {
            return "Nothing was committed".to_owned();
        }
        format!(
            "{} records of it are committed, and token={:?} goes on after them",
            self.state.position,
            self.journal.token()
        )
    }

    /// Makes the tables that are wanted, and the row of the journal.
    fn begin(&mut self, makes_target: bool, makes_rejects: bool) -> Result<(), E> {
        let mut list = vec![self.journal.create(), self.journal.begin(&self.name.local())];
        list.extend(self.made(makes_target, makes_rejects));
        self.run_all(&list)?;
        self.state.target = self.name.local();
        Ok(())
    }

    /// Makes the tables that are wanted.
    fn make(&mut self, makes_target: bool, makes_rejects: bool) -> Result<(), E> {
        let list = self.made(makes_target, makes_rejects);
        self.run_all(&list)
    }

    fn made(&self, makes_target: bool, makes_rejects: bool) -> Vec<String> {
        let target = makes_target.then(|| self.statements.create_target());
        let rejects = self.statements.create_rejects().filter(|_| makes_rejects);
        target.into_iter().chain(rejects).collect()
    }

    fn run_all(&mut self, list: &[String]) -> Result<(), E> {
        self.load
            .transact(&|done| Ok(list.get(done.len()).cloned()), true, true)
    }

    /// Commits everything, beginning with what is in the buffer.
    fn all(&mut self, first: Filled) -> Result<(), E> {
        let mut filled = first;
        loop {
            let mut at = self.together(filled)?;
            while at < filled.rows {
                let end = filled.rows.min(at + self.pace.limit().rows);
                at += self.batch(at..end, filled)?;
            }
            if filled.ended {
                break;
            }
            filled = self.fill()?;
        }
        if !self.state.finished {
            let position = self.state.position;
            self.transact(position, true, &|done, advance| match done {
                [] => Ok(Some(advance(0))),
                [moved, ..] => self.journal.check(*moved).map(|()| None),
            })?;
        }
        Ok(())
    }

    /// Commits all batches of the buffer in one transaction, if there are several and no record is in the way. How many records were
    /// committed: all or none.
    fn together(&mut self, filled: Filled) -> Result<u64, E> {
        let size = self.pace.limit().rows;
        if filled.rows <= size || self.method != Method::Plain {
            return Ok(0);
        }
        let layout = self.load.offer(0..filled.rows, None)?;
        let (statements, journal) = (self.statements, self.journal);
        let begin = self.state.position;
        if layout.reasons {
            self.pace.alone();
            return Ok(0);
        }
        let done = self.transact(begin + filled.rows, filled.ended, &|done, advance| match done {
            [] => Ok(Some(statements.plain(&layout))),
            [inserted] => Ok(Some(advance(*inserted))),
            [_, moved, ..] => journal.check(*moved).map(|()| None),
        });
        match done {
            Ok(_) => {}
            Err(error) if self.load.fault(&error) == Fault::Other => return Err(error),
            // One batch after the other needs less memory, and what is in the way is in one of them.
            Err(_) => {
                self.pace.alone();
                return Ok(0);
            }
        }
        let mut at = 0;
        while at < filled.rows {
            let rows = size.min(filled.rows - at);
            at += rows;
            self.told(rows, 0, begin + at);
        }
        Ok(filled.rows)
    }

    /// Commits records of the buffer, in one transaction or, where some of them are in the way, in several. How many; fewer than
    /// asked for where the rest is to be tried again.
    fn batch(&mut self, records: Range<u64>, filled: Filled) -> Result<u64, E> {
        let count = records.end - records.start;
        let mut method = self.method;
        loop {
            let error = match self.attempt(&records, filled, &mut method) {
                Ok(()) => return Ok(count),
                Err(error) => error,
            };
            match self.load.fault(&error) {
                Fault::Data if self.statements.rejects.is_none() => {
                    return Err(self.first_bad(&records, error));
                }
                Fault::Data => match method.next() {
                    Some(next) => method = next,
                    None if count == 1 => return self.reject(records, filled, &error).map(|()| 1),
                    None => return self.halves(records, filled),
                },
                Fault::Memory => return self.again(Fault::Memory, count, error),
                Fault::Conflict => return self.again(Fault::Conflict, count, error),
                Fault::Other => return Err(error),
            }
        }
    }

    /// A pause after which nothing is done yet, or the end.
    fn again(&mut self, fault: Fault, count: u64, error: E) -> Result<u64, E> {
        let (next, kind, what) = if fault == Fault::Memory {
            let next = self.pace.short_of_memory(count);
            let fix = "raise memory=, let less run at once, or give a smaller batch_bytes=";
            let what = format!("memory does not suffice for a batch of {count} records; {fix}");
            (next, ErrorKind::Memory, what)
        } else {
            let what = "others write to the same tables, and a batch was in conflict with them each time; load when they have \
                        ended";
            (self.pace.conflict(), ErrorKind::Transaction, what.to_owned())
        };
        match next {
            Next::Again(pause) => {
                self.load.rest(pause)?;
                Ok(0)
            }
            Next::GiveUp => {
                let message = format!(
                    "{what}. {}. DuckDB said: {}",
                    self.how_far(),
                    self.load.text(&error)
                );
                Err(self.load.because(Error::new(kind, message), error))
            }
        }
    }

    /// One half after the other, so that what is in the way is with fewer and fewer others.
    fn halves(&mut self, records: Range<u64>, filled: Filled) -> Result<u64, E> {
        let middle = records.start + (records.end - records.start) / 2;
        let first = self.batch(records.start..middle, filled)?;
        if first < middle - records.start {
            return Ok(first);
        }
        Ok(first + self.batch(middle..records.end, filled)?)
    }

    /// Records of the buffer in one transaction.
    fn attempt(&mut self, records: &Range<u64>, filled: Filled, method: &mut Method) -> Result<(), E> {
        let first = self.state.position + 1;
        let mut layout = self
            .load
            .offer(records.clone(), (*method != Method::Plain).then_some(first))?;
        if layout.reasons && *method == Method::Plain {
            layout = self.load.offer(records.clone(), Some(first))?;
            if self.statements.rejects.is_none() {
                return Err(self.no_row()?.into());
            }
            *method = Method::Judged;
        }
        let (from, to) = (
            self.state.position,
            self.state.position + records.end - records.start,
        );
        let finished = filled.ended && records.end == filled.rows;
        self.method = *method;
        let (method, statements, journal) = (*method, self.statements, self.journal);
        let (rows, rejected) = self.transact(to, finished, &|done, advance| {
            let (inserted, moved) = match (method, done) {
                (Method::Plain, []) => return Ok(Some(statements.plain(&layout))),
                (_, []) => return Ok(statements.bad(&layout, method)),
                (Method::Plain, [inserted, moved @ ..]) => (*inserted, moved),
                (_, [_]) => return Ok(Some(statements.good(&layout, method))),
                (_, [rejected, inserted, moved @ ..]) => {
                    if rejected + inserted != to - from {
                        let message = format!(
                            "of {} records {inserted} were inserted and {rejected} rejected; the batch was rolled back",
                            to - from
                        );
                        return Err(Error::new(ErrorKind::Internal, message));
                    }
                    (*inserted, moved)
                }
            };
            match moved {
                [] => Ok(Some(advance(inserted))),
                [moved, ..] => journal.check(*moved).map(|()| None),
            }
        })?;
        self.told(rows, rejected, to);
        Ok(())
    }

    /// Puts the one record aside that is left of a batch.
    fn reject(&mut self, record: Range<u64>, filled: Filled, error: &E) -> Result<(), E> {
        let reason = self.load.text(error);
        let layout = self.load.offer(record.clone(), Some(self.state.position + 1))?;
        let finished = filled.ended && record.end == filled.rows;
        let (to, statements, journal) = (self.state.position + 1, self.statements, self.journal);
        let (rows, rejected) = self.transact(to, finished, &|done, advance| match done {
            [] => Ok(statements.reject(&layout, &reason)),
            [_] => Ok(Some(advance(0))),
            [_, moved, ..] => journal.check(*moved).map(|()| None),
        })?;
        self.told(rows, rejected, to);
        Ok(())
    }

    /// One transaction of the load's, that moves it to a position; the rows that were inserted and the records that were rejected. An
    /// error does not mean that nothing happened: the journal says.
    fn transact(&mut self, to: u64, finished: bool, steps: BatchSteps<'_>) -> Result<(u64, u64), E> {
        let (from, journal) = (self.state.position, self.journal);
        let size = self.pace.limit().rows;
        let batches = (to - from).div_ceil(size);
        let inserted = AtomicU64::new(0);
        let advance = |rows: u64| {
            inserted.store(rows, Ordering::Relaxed);
            journal.advance(from, to, rows, batches, finished)
        };
        let persist = self.pace.last_resort() && batches <= 1;
        let done = self.load.transact(&|done| steps(done, &advance), true, persist);
        if let Err(error) = done {
            // Of values it is known that they failed before the COMMIT.
            let known = self.load.fault(&error) == Fault::Data || to == from;
            match (!known).then(|| journal.read(self.load, &self.name.database)) {
                Some(Ok(Some(state))) if state.position == to => {}
                _ => return Err(error),
            }
        }
        let rows = inserted.into_inner();
        let rejected = to - from - rows;
        self.state = State {
            target: std::mem::take(&mut self.state.target),
            position: to,
            inserted: self.state.inserted + rows,
            rejected: self.state.rejected + rejected,
            finished,
        };
        if to > from {
            self.pace.committed();
        }
        if rejected == 0 {
            self.method = Method::Plain;
        } else {
            self.pace.alone();
        }
        Ok((rows, rejected))
    }

    /// A batch is committed, and that is told.
    fn told(&mut self, rows: u64, rejected: u64, position: u64) {
        self.batches += 1;
        self.load.committed(Committed {
            batch: self.batches,
            rows,
            rejected,
            position,
        });
    }

    /// The error of the first record that cannot be a row, which is looked for in transactions that are rolled back.
    fn first_bad(&mut self, records: &Range<u64>, error: E) -> E {
        let (mut good, mut bad, mut cause) = (0, records.end - records.start, error);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            let tried = self
                .load
                .offer(records.start..records.start + middle, None)
                .and_then(|layout| {
                    let sql = self.statements.plain(&layout);
                    self.load
                        .transact(&|done| Ok(done.is_empty().then(|| sql.clone())), false, false)
                });
            match tried {
                Ok(()) => good = middle,
                Err(error) if self.load.fault(&error) == Fault::Data => (bad, cause) = (middle, error),
                Err(error) => return error,
            }
        }
        let error = self.bad_record(self.state.position + bad, &self.load.text(&cause));
        self.load.because(error, cause)
    }

    /// The error of the first record that came with a reason.
    fn no_row(&mut self) -> Result<Error, E> {
        let rows = self.load.ask(&Statements::first_reason())?;
        let mut cells = rows.into_iter().flatten();
        let row = cells
            .next()
            .flatten()
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        Ok(self.bad_record(row, &cells.next().flatten().unwrap_or_default()))
    }

    fn bad_record(&self, row: u64, reason: &str) -> Error {
        let message = format!(
            "record {row} of the source cannot go into {}: {reason}. {}. Mend the record, or name a table for such records with \
             rejects=",
            self.name.local(),
            self.how_far()
        );
        Error::new(ErrorKind::Query, message)
    }
}

/// As [`Steps`], given also the statement that moves the journal by so many rows.
type BatchSteps<'a> = &'a (dyn Fn(&[u64], &(dyn Fn(u64) -> String + Sync)) -> Result<Option<String>> + Sync);

#[cfg(test)]
mod tests;
