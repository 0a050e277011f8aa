//! A guarded process without threads.

use std::sync::Arc;
use std::time::Duration;

use duckward::clock::{Clock, ManualClock, Moment, SharedClock};
use duckward::engine::host::Connection;
use duckward::engine::scripted::{Answer, Asked, Database, Process};
use duckward::engine::{Class, Engine, EngineError, Session, Stream};
use duckward::event::{Event, What};
use duckward::fallback::ladder::Rung;
use duckward::guard::budget::Limits;
use duckward::guard::{Guardian, Priority};
use duckward::settings::{Layers, Loaded, Settings};
use duckward::units::{Bytes, Memory};
use duckward::ward::{AttemptError, Cutting, Failed, Host, Job, Report, Ticket, Verify, Ward};
use parking_lot::Mutex;

pub(crate) fn mib(n: u64) -> Bytes {
    Bytes::mib(n)
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What happens at a moment.
type Happening = (Moment, Box<dyn FnOnce() + Send>);

/// A clock that whoever waits moves on: readings that fall due meanwhile are taken, and what was planned happens.
#[derive(Default)]
pub(crate) struct Stepped {
    manual: ManualClock,
    guardian: Mutex<Option<Arc<Guardian>>>,
    due: Mutex<Moment>,
    planned: Mutex<Vec<Happening>>,
}

impl std::fmt::Debug for Stepped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stepped")
    }
}

impl Stepped {
    fn step_to(&self, until: Moment) {
        let next = self.planned.lock().iter().map(|(at, _)| *at).min();
        let due = *self.due.lock();
        let to = until.min(due).min(next.unwrap_or(until)).max(self.now());
        self.manual.advance(to.since(self.now()));
        let ripe: Vec<Happening> = {
            let mut planned = self.planned.lock();
            let (ripe, rest) = planned.drain(..).partition(|(at, _)| *at <= to);
            *planned = rest;
            ripe
        };
        for (_, happen) in ripe {
            happen();
        }
        if due <= to {
            self.read();
        }
    }

    /// Takes a reading now.
    pub(crate) fn read(&self) {
        let guardian = self.guardian.lock().clone();
        if let Some(guardian) = guardian {
            let next = guardian.tick();
            *self.due.lock() = self.now() + next;
            guardian.respond();
        }
    }

    /// Time passes and nobody takes a reading.
    pub(crate) fn pass(&self, time: Duration) {
        self.manual.advance(time);
    }

    /// Does `happen` when `time` has passed.
    pub(crate) fn after(&self, time: Duration, happen: impl FnOnce() + Send + 'static) {
        self.planned.lock().push((self.now() + time, Box::new(happen)));
    }
}

impl Clock for Stepped {
    fn now(&self) -> Moment {
        self.manual.now()
    }

    fn unix_ms(&self) -> u64 {
        self.manual.unix_ms()
    }

    fn sleep(&self, time: Duration) {
        let until = self.now() + time;
        while self.now() < until {
            self.step_to(until);
        }
    }

    fn real(&self, _time: Duration) -> Duration {
        Duration::ZERO
    }
}

/// Everything that was published.
#[derive(Clone, Default)]
pub(crate) struct Story(Arc<Mutex<Vec<Event>>>);

impl Story {
    pub(crate) fn of(guardian: &Guardian) -> Self {
        let story = Story::default();
        let events = Arc::clone(&story.0);
        guardian.bus().subscribe(Arc::new(move |event| {
            events.lock().push(event.clone());
            Ok(())
        }));
        story
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().clone()
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.events().iter().map(|event| event.what.name()).collect()
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    pub(crate) fn any(&self, of: impl Fn(&What) -> bool) -> bool {
        self.events().iter().any(|event| of(&event.what))
    }
}

/// Limits of a machine with 16 GiB.
pub(crate) fn limits() -> Box<dyn Fn() -> Limits + Send + Sync> {
    Box::new(|| Limits {
        machine: Some(mib(16 << 10)),
        ..Limits::default()
    })
}

/// A budget of 1000 MiB. No ceiling: it would be the limit of the test's own process.
pub(crate) fn settings() -> Settings {
    Settings {
        memory: Memory::Size(mib(1000)),
        ceiling: false,
        ..Settings::default()
    }
}

pub(crate) fn loaded(settings: Settings) -> Loaded {
    let nothing = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    Loaded {
        settings,
        ..Layers::new().load(nothing).unwrap()
    }
}

pub(crate) struct Rig {
    pub(crate) clock: Arc<Stepped>,
    pub(crate) process: Process,
    pub(crate) database: Database,
    pub(crate) guardian: Arc<Guardian>,
    pub(crate) story: Story,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(Stepped::default());
        let process = Process::new(Arc::clone(&clock) as SharedClock);
        let shared = Arc::clone(&clock) as SharedClock;
        let guardian = Guardian::new(shared, process.sampler(), limits()).unwrap();
        *clock.guardian.lock() = Some(Arc::clone(&guardian));
        Rig {
            story: Story::of(&guardian),
            database: process.database(),
            clock,
            process,
            guardian,
        }
    }

    pub(crate) fn seat(&self) -> Seat {
        Seat::of(&self.database)
    }

    pub(crate) fn guard(&self, seat: &Seat, settings: Settings) -> Arc<Ward> {
        let engine: Arc<dyn Engine> = Arc::new(seat.database.clone());
        Ward::guard(
            &self.guardian,
            engine,
            Arc::clone(&seat.connection),
            loaded(settings),
        )
        .unwrap()
    }

    /// A ward with the usual settings, and its seat.
    pub(crate) fn ward(&self) -> (Arc<Ward>, Seat) {
        let seat = self.seat();
        (self.guard(&seat, settings()), seat)
    }

    /// Scripts `answer` for `sql`, and runs it to the end of its answer.
    pub(crate) fn run(&self, ward: &Arc<Ward>, seat: &Seat, sql: &str) -> Result<Report, Box<Failed>> {
        let (stream, ticket) = self.open(ward, seat, sql)?;
        read(stream, ticket)
    }

    pub(crate) fn open(
        &self,
        ward: &Arc<Ward>,
        seat: &Seat,
        sql: &str,
    ) -> Result<(Stream, Ticket), Box<Failed>> {
        ward.run(&seat.connection, &job(sql), &mut self.caller(seat, sql))
    }

    pub(crate) fn caller<'a>(&'a self, seat: &'a Seat, sql: &'a str) -> Caller<'a> {
        Caller {
            rig: self,
            seat,
            sql,
            in_transaction: false,
            quits: None,
            plan: None,
            attempts: Vec::new(),
        }
    }

    pub(crate) fn answers(&self, sql: &str, answers: impl IntoIterator<Item = Answer>) {
        for answer in answers {
            self.database.answer(sql, answer);
        }
    }

    /// How often `sql` was run.
    pub(crate) fn asked(&self, sql: &str) -> usize {
        asked(&self.database, sql)
    }

    pub(crate) fn nothing_is_held(&self) {
        assert_eq!(self.guardian.admission().running(), 0, "a permit is out");
        assert_eq!(self.guardian.admission().waiting(), 0, "somebody waits");
    }

    pub(crate) fn interrupts(&self) -> Vec<Option<String>> {
        let asked = self.database.asked();
        asked
            .into_iter()
            .filter_map(|asked| match asked {
                Asked::Interrupt(hit) => Some(hit),
                Asked::Statement(_) => None,
            })
            .collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The guardian holds the clock and the clock holds the guardian.
        *self.clock.guardian.lock() = None;
    }
}

pub(crate) fn asked(database: &Database, sql: &str) -> usize {
    let sql = Asked::Statement(sql.to_owned());
    database.asked().iter().filter(|asked| **asked == sql).count()
}

pub(crate) fn job(sql: &str) -> Job<'_> {
    Job {
        sql,
        interruptible: !matches!(sql, "COMMIT" | "CHECKPOINT"),
        priority: Priority::Normal,
        heeds_signals: true,
        cutting: Cutting::Auto,
        verify: Verify::Counts,
        by_piece: false,
    }
}

/// Reads an answer to its end, as a face does.
pub(crate) fn read(stream: Stream, ticket: Ticket) -> Result<Report, Box<Failed>> {
    let mut rows = 0;
    for batch in stream {
        match batch {
            Ok(batch) => rows += batch.num_rows() as u64,
            Err(error) => return Err(ticket.fail(&engine_error(error), rows)),
        }
    }
    Ok(ticket.finish(Some(rows)))
}

pub(crate) fn engine_error(error: arrow::error::ArrowError) -> EngineError {
    match error {
        arrow::error::ArrowError::ExternalError(error) => *error.downcast::<EngineError>().unwrap(),
        other => panic!("{other}"),
    }
}

/// A connection of the user's.
pub(crate) struct Seat {
    pub(crate) database: Database,
    pub(crate) connection: Arc<Connection>,
    pub(crate) session: Box<dyn Session>,
}

impl Seat {
    pub(crate) fn of(database: &Database) -> Self {
        let session = database.session().unwrap();
        Seat {
            database: database.clone(),
            connection: Connection::new(session.interrupt()),
            session,
        }
    }
}

/// A host that runs one statement on its seat.
pub(crate) struct Caller<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) seat: &'a Seat,
    pub(crate) sql: &'a str,
    pub(crate) in_transaction: bool,
    /// When the user gives up waiting.
    pub(crate) quits: Option<Moment>,
    pub(crate) plan: Option<String>,
    /// Rung and `threads` of each attempt.
    pub(crate) attempts: Vec<(Rung, String)>,
}

impl Host<Stream> for Caller<'_> {
    fn attempt(&mut self, rung: Rung, _prepared: Option<&str>) -> Result<Stream, AttemptError> {
        let threads = self.seat.database.setting("threads").unwrap_or_default();
        self.attempts.push((rung, threads));
        assert_ne!(self.sql, "panic", "as asked");
        Ok(self.seat.session.query(self.sql)?)
    }

    fn ask(&mut self, _sql: &str) -> Result<Vec<Vec<Option<String>>>, EngineError> {
        // This engine does not give its parse, so nothing runs in pieces here.
        Err(EngineError {
            class: Class::Statement,
            message: "no parse is scripted".to_owned(),
        })
    }

    fn in_transaction(&mut self) -> bool {
        self.in_transaction
    }

    fn gave_up(&self) -> bool {
        // Polled while it waits: so time passes here.
        self.rig.clock.sleep(ms(5));
        self.quits.is_some_and(|at| self.rig.clock.now() >= at)
    }

    fn plan(&mut self) -> Option<String> {
        self.plan.clone()
    }
}
