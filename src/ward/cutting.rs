//! When a query runs in pieces: because it was asked for, because its plan says that it cannot run otherwise, or because
//! it failed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::explain::{Explanation, Learned};
use super::{AttemptError, Cutting, Failed, Host, Job, Report, Run, Ward, busy, was_answered};
use crate::clock::Moment;
use crate::engine::host::{Connection, Stop};
use crate::engine::text::words;
use crate::engine::{Class, EngineError, Rows};
use crate::error::{Error, ErrorKind};
use crate::event::What;
use crate::fallback::classify::{Failure, classify};
use crate::fallback::decompose::functions::{Functions, may_keep};
use crate::fallback::decompose::{Want, WhyNot};
use crate::fallback::history::Fingerprint;
use crate::fallback::ladder::{Rung, kind_of};
use crate::fallback::pieces::{self, Asks, Fault, Forecast, Options, Parsed, Piece, Rest, Verify};
use crate::fallback::spool::free_space;
use crate::settings::Feed;
use crate::units::Bytes;

/// How often a statement that takes something back is tried.
const CLEANING: usize = 20;

/// What is known of a job's pieces.
#[derive(Debug)]
pub(super) struct Plans<'a> {
    sql: &'a str,
    cutting: Cutting,
    verify: Verify,
    start: Rung,
    interruptible: bool,
    /// Looked at, and what came of it.
    looked: bool,
    parsed: Option<(Arc<Parsed>, Want)>,
    /// Whether its pieces may be handed out one by one.
    by_piece: bool,
    known: &'a Mutex<Functions>,
}

/// What came of an attempt that did not fail.
pub(super) enum Attempted<T> {
    /// The answer, or its first piece and the rest.
    Answered(T, Option<Box<Rest>>),
    /// Nothing was run: it begins on this rung instead.
    Instead(Rung),
}

impl<'a> Plans<'a> {
    pub(super) fn new(job: &Job<'a>, learned: Rung, known: &'a Mutex<Functions>) -> Self {
        let start = match (job.cutting, learned) {
            (Cutting::Into(_), _) => Rung::Pieces,
            (Cutting::Never, Rung::Pieces) => Rung::AsIs,
            (_, learned) => learned,
        };
        Plans {
            sql: job.sql,
            cutting: job.cutting,
            verify: job.verify,
            start,
            interruptible: job.interruptible,
            looked: false,
            parsed: None,
            by_piece: job.by_piece,
            known,
        }
    }

    pub(super) fn start(&self) -> Rung {
        self.start
    }

    /// The rungs there are for it. One that runs in pieces gains nothing from running with less.
    pub(super) fn available(&self) -> Vec<Rung> {
        if self.parsed.is_some() {
            vec![Rung::AsIs, Rung::Pieces]
        } else {
            vec![Rung::AsIs, Rung::Degraded]
        }
    }

    /// It does not run in pieces after all, and why; the rung to begin on instead.
    fn not_in_pieces<T>(&mut self, run: &mut Run<'_>, why: String) -> Attempted<T> {
        run.report.why_not = Some(why);
        run.report.pieces.clear();
        self.parsed = None;
        self.looked = true;
        self.cutting = Cutting::Never;
        Attempted::Instead(if run.report.attempts.is_empty() {
            Rung::AsIs
        } else {
            Rung::Degraded
        })
    }

    /// Whether it is worth looking at the plan before the first attempt.
    fn is_suspect(&self) -> bool {
        self.cutting == Cutting::Auto && self.interruptible && !self.looked && may_keep(words(self.sql))
    }

    /// What is looked for, in order. What is asked for explicitly is cut wherever it can be.
    fn wants(&self) -> &'static [Want] {
        match self.cutting {
            Cutting::Into(_) => &[Want::All],
            _ => &[Want::Kept, Want::All],
        }
    }

    /// Into how many pieces, if that is given.
    fn pieces(&self) -> Option<usize> {
        match self.cutting {
            Cutting::Into(pieces) => Some(pieces),
            _ => None,
        }
    }

    /// Parses it and finds what can be cut, once.
    fn look(&mut self, asks: &mut dyn Asks, want: &[Want]) -> Result<(), Fault> {
        self.looked = true;
        let parsed = pieces::parse(asks, self.sql, self.known)?;
        let mut why = WhyNot(String::new());
        for want in want {
            match pieces::look(&parsed, *want) {
                Ok(_) => {
                    self.parsed = Some((Arc::new(parsed), *want));
                    return Ok(());
                }
                Err(not) => why = not,
            }
        }
        Err(Fault::WhyNot(why))
    }
}

impl Plans<'_> {
    /// Says what [`Ward::run`] would do, by asking what it would ask.
    fn explain(&mut self, asks: &mut dyn Asks, told: &mut Explanation) -> Result<(), Fault> {
        let suspect = self.start == Rung::AsIs && self.is_suspect();
        told.why = match (self.cutting, self.start) {
            (Cutting::Into(pieces), _) => format!("pieces={pieces} asks for it"),
            (_, start @ (Rung::Pieces | Rung::Degraded)) => was_answered(start),
            (Cutting::Never, Rung::AsIs) => "pieces=False asks for it".to_owned(),
            (Cutting::Auto, Rung::AsIs) if suspect => NOTHING_AGAINST.to_owned(),
            (Cutting::Auto, Rung::AsIs) => {
                "it calls no function that is known to keep what it takes in memory".to_owned()
            }
        };
        if self.cutting == Cutting::Never {
            told.why_not = Some("pieces=False forbids it".to_owned());
            return Ok(());
        }
        let found = self.forecasts(asks, suspect, told);
        match found {
            Ok(queries) => {
                told.can_be_cut = true;
                told.queries = queries;
                Ok(())
            }
            Err(Fault::WhyNot(WhyNot(why))) => {
                match (self.cutting, told.rung) {
                    (Cutting::Into(pieces), _) => {
                        told.why = format!("pieces={pieces} asks for it, and it would be refused");
                    }
                    (_, Rung::Pieces) => {
                        told.rung = Rung::AsIs;
                        told.why = format!("it cannot be cut, though {}", told.why);
                    }
                    _ => {}
                }
                told.why_not = Some(why);
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    fn forecasts(
        &mut self,
        asks: &mut dyn Asks,
        suspect: bool,
        told: &mut Explanation,
    ) -> Result<Vec<Forecast>, Fault> {
        let limit = told.memory_limit;
        self.look(asks, self.wants())?;
        let Some((parsed, want)) = &self.parsed else {
            return Err(Fault::WhyNot(WhyNot("nothing of it can be cut".to_owned())));
        };
        if suspect && *want == Want::Kept {
            // Where the plan says nothing the statement is tried.
            if let Ok(Some(bytes)) = pieces::foresee(asks, parsed, limit) {
                told.rung = Rung::Pieces;
                told.why = too_much(bytes, limit);
            }
        }
        let options = Options {
            want: *want,
            pieces: self.pieces(),
            limit,
            in_transaction: false,
            number: 0,
            feed: Feed::Auto,
            disk: None,
            verify: self.verify,
            by_piece: false,
        };
        pieces::explain(asks, parsed, &options)
    }
}

/// Why a statement is tried as it is, though it calls what keeps memory.
const NOTHING_AGAINST: &str = "nothing that DuckDB plans says that it does not fit";

/// Free space where `directory` is, or will be.
pub(super) fn room_on_disk(directory: &Path) -> Option<Bytes> {
    directory.ancestors().find_map(free_space)
}

/// The user's connection, as the pieces ask it.
pub(super) struct Asking<'a, 'b, T> {
    host: &'a mut dyn Host<T>,
    ward: &'a Ward,
    connection: &'a Connection,
    run: &'a mut Run<'b>,
    began: Moment,
}

impl<T> Asks for Asking<'_, '_, T> {
    fn rows(&mut self, sql: &str) -> Result<Rows, EngineError> {
        // Between two statements there is nothing that an interrupt would reach.
        if let Some(stop) = self.connection.stopping() {
            return Err(EngineError {
                class: Class::Interrupt,
                message: format!("interrupted: {}", stop.reason()),
            });
        }
        self.host.ask(sql)
    }

    fn clean(&mut self, sql: &str) {
        clean(self.host, sql);
    }

    fn parameters(&mut self) -> Result<Option<Vec<(String, String)>>, EngineError> {
        self.host.parameters()
    }

    fn failure(&mut self, error: &EngineError) -> Failure {
        let stop = self.connection.stopping();
        let failure = classify(error, stop);
        if stop == Some(Stop::Memory) {
            self.connection.forget_stop(self.run.query);
            self.run.forgotten = stop;
        }
        failure
    }

    fn progress(&mut self, piece: &Piece, share: f64) {
        self.connection.reached(self.run.query, share);
        self.run.report.pieces.push(piece.clone());
        self.ward.guardian.bus().publish(What::PieceDone {
            query: self.run.query,
            piece: u32::try_from(self.run.report.pieces.len()).unwrap_or(u32::MAX),
            rows: piece.rows,
            share,
        });
    }

    fn pause(&mut self, time: Duration) {
        self.ward.guardian.clock().sleep(time);
    }

    fn anew(&mut self) {
        self.run.report.pieces.clear();
        self.connection.reached(self.run.query, 0.0);
    }

    fn elapsed(&self) -> Duration {
        self.ward.guardian.clock().now().since(self.began)
    }
}

/// Whether DuckDB could not do with what was made of a statement: it is wrong, or meets a defect of its planner, which DuckDB
/// reports as it does a fatal error. An instance that really is invalid says so again when the statement runs as it is.
fn is_not_taken(error: &EngineError) -> bool {
    matches!(error.class, Class::Statement | Class::Fatal)
}

/// DuckDB refused what was made of a statement. Whether the statement itself is wrong shows when it runs as it is.
fn not_taken(error: &EngineError) -> String {
    let said = error.message.lines().next().unwrap_or("");
    format!("DuckDB refused what was made of it: {said}")
}

/// Runs a statement that takes something back. An interrupt that is sent again and again may hit it, too.
pub(super) fn clean<T>(host: &mut dyn Host<T>, sql: &str) {
    for _ in 0..CLEANING {
        match host.ask(sql) {
            Err(error) if error.class == Class::Interrupt => {}
            // What failed before is what counts; a table that stays goes with the session.
            _ => return,
        }
    }
}

/// Takes back what was prepared.
fn abandon<T>(host: &mut dyn Host<T>, prepared: &pieces::Prepared) {
    prepared
        .abandon
        .iter()
        .for_each(|statement| clean(host, statement));
}

pub(super) fn own(error: Fault) -> AttemptError {
    match error {
        Fault::Engine(error) => AttemptError::Engine(error),
        Fault::Own(error) => AttemptError::Own(error),
        Fault::WhyNot(WhyNot(why)) => AttemptError::Own(Error::new(
            ErrorKind::Invalid,
            format!("the statement cannot run in pieces: {why}; leave out pieces="),
        )),
    }
}

/// Why a statement is not even tried as it is.
fn too_much(bytes: Bytes, room: Bytes) -> String {
    format!(
        "its aggregates would keep about {bytes} in memory, which cannot spill, and there is room for {room}"
    )
}

impl Ward {
    /// What would happen to a statement now, and why. DuckDB plans parts of it; nothing of it is run, so it does not wait
    /// for its turn.
    ///
    /// # Errors
    /// [`ErrorKind::State`] and [`ErrorKind::Connection`] as for [`Ward::run`], and what stopped the planning.
    pub fn explain<T>(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        job: &Job<'_>,
        host: &mut dyn Host<T>,
    ) -> Result<Explanation, Box<Failed>> {
        let failed = |error, failure, stop| {
            Box::new(Failed {
                error,
                failure,
                stop,
                report: Report::default(),
            })
        };
        self.usable().map_err(|error| failed(error, None, None))?;
        let query = self.guardian.next_number();
        let fingerprint = Fingerprint::of(job.sql);
        let budget = self.guardian.budget();
        let (start, learned) = {
            let history = self.history.lock();
            (history.start(fingerprint, budget), history.need(fingerprint))
        };
        // The planning can be interrupted, whatever the statement is.
        let Some((begun, _ceiling, _)) = self.begin(connection, query, true, job.heeds_signals) else {
            return Err(failed(busy(), None, None));
        };
        let mut plans = Plans::new(job, start, &self.functions);
        let mut explanation = Explanation {
            rung: plans.start,
            why: String::new(),
            learned: learned.map(Learned::from),
            can_be_cut: false,
            why_not: None,
            queries: Vec::new(),
            memory_limit: self.room(),
            budget,
        };
        let mut run = Run {
            ward: self,
            query,
            report: Report::default(),
            failure: None,
            stop: None,
            forgotten: None,
        };
        let mut asking = self.asking(host, connection, &mut run);
        let planned = plans.explain(&mut asking, &mut explanation);
        let stop = begun.end().and_then(|active| active.stop).map(|(stop, _)| stop);
        match planned {
            Err(Fault::Own(error)) => Err(failed(error, None, stop)),
            // An interrupt is an error of the engine's, and it is the whole that was stopped.
            Err(Fault::Engine(error)) if stop.is_some() => {
                let failure = classify(&error, stop);
                let message = format!("the statement was not explained: {error}; nothing of it was run");
                let told = Error::new(kind_of(failure), message).with_source(error);
                Err(failed(told, Some(failure), stop))
            }
            Err(Fault::Engine(error)) => {
                explanation.why_not = Some(format!("DuckDB does not plan a part of it: {error}"));
                Ok(explanation)
            }
            Err(Fault::WhyNot(_)) | Ok(()) => Ok(explanation),
        }
    }

    /// One attempt, in pieces where that is the rung.
    pub(super) fn attempt<T>(
        &self,
        host: &mut dyn Host<T>,
        plans: &mut Plans<'_>,
        run: &mut Run<'_>,
        connection: &Connection,
        rung: Rung,
    ) -> Result<Attempted<T>, AttemptError> {
        run.forgotten = None;
        // Within a transaction of the user's a question that fails would end it.
        if rung == Rung::AsIs
            && plans.is_suspect()
            && !host.in_transaction()
            && self.is_too_much(host, plans, run, connection)
        {
            return Ok(Attempted::Instead(Rung::Pieces));
        }
        if rung != Rung::Pieces {
            let result = host.attempt(rung, None);
            if let Err(AttemptError::Engine(error)) = &result
                && plans.cutting == Cutting::Auto
                && plans.interruptible
                && plans.parsed.is_none()
                // What grew past DuckDB's own limit is not its aggregates, and the next attempt must not wait.
                && (may_keep(words(plans.sql))
                    || words(plans.sql).any(|word| word.eq_ignore_ascii_case("distinct"))
                    || !error.message.contains(pieces::REFUSED_BY_THE_SYSTEM))
                && matches!(
                    classify(error, connection.stopping()),
                    Failure::Memory | Failure::InterruptedByGuard
                )
            {
                self.look_after_failure(host, plans, run, connection);
            }
            return result.map(|value| Attempted::Answered(value, None));
        }
        let in_transaction = host.in_transaction();
        run.report.pieces.clear();
        let query = run.query;
        connection.reached(query, 0.0);
        let mut asking = self.asking(host, connection, run);
        let prepared = self.prepare(&mut asking, plans, query, in_transaction);
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(Fault::WhyNot(WhyNot(why))) if !matches!(plans.cutting, Cutting::Into(_)) => {
                return Ok(plans.not_in_pieces(run, why));
            }
            Err(Fault::Engine(error)) if is_not_taken(&error) && !in_transaction => {
                return Ok(plans.not_in_pieces(run, not_taken(&error)));
            }
            Err(error) => return Err(own(error)),
        };
        if let Err(error) = prepared.files.unchanged() {
            abandon(host, &prepared);
            return Err(AttemptError::Own(error));
        }
        match host.attempt(rung, Some(&prepared.sql)) {
            Ok(value) => {
                // Before the COMMIT: the last to read them was this.
                if prepared.undoable
                    && let Err(error) = prepared.files.unchanged()
                {
                    abandon(host, &prepared);
                    return Err(AttemptError::Own(error));
                }
                // Whether an interrupted COMMIT happened nobody knows.
                connection.finishes(query);
                for statement in &prepared.finish {
                    if let Err(error) = host.ask(statement) {
                        abandon(host, &prepared);
                        return Err(AttemptError::Engine(error));
                    }
                }
                run.report.verified = prepared.verified;
                Ok(Attempted::Answered(value, prepared.rest))
            }
            Err(error) => {
                abandon(host, &prepared);
                match error {
                    AttemptError::Engine(error) if is_not_taken(&error) && !in_transaction => {
                        Ok(plans.not_in_pieces(run, not_taken(&error)))
                    }
                    error => Err(error),
                }
            }
        }
    }

    fn prepare<T>(
        &self,
        asking: &mut Asking<'_, '_, T>,
        plans: &mut Plans<'_>,
        query: u64,
        in_transaction: bool,
    ) -> Result<pieces::Prepared, Fault> {
        if plans.parsed.is_none() {
            plans.look(asking, plans.wants())?;
        }
        let Some((parsed, want)) = &plans.parsed else {
            return Err(Fault::WhyNot(WhyNot("nothing of it can be cut".to_owned())));
        };
        let options = Options {
            want: *want,
            pieces: plans.pieces(),
            limit: self.room(),
            in_transaction,
            number: query,
            feed: self.settings().feed,
            disk: room_on_disk(&self.spool_directory()),
            verify: plans.verify,
            by_piece: plans.by_piece,
        };
        pieces::prepare(asking, parsed, &options)
    }

    /// The connection, to be asked for `run`.
    pub(super) fn asking<'a, 'b, T>(
        &'a self,
        host: &'a mut dyn Host<T>,
        connection: &'a Connection,
        run: &'a mut Run<'b>,
    ) -> Asking<'a, 'b, T> {
        Asking {
            host,
            ward: self,
            connection,
            run,
            began: self.guardian.clock().now(),
        }
    }

    /// What DuckDB may use of memory.
    fn room(&self) -> Bytes {
        self.instance.limit()
    }

    /// Whether the plan says that it cannot run as it is. Anything unclear says no: then it is tried.
    fn is_too_much<T>(
        &self,
        host: &mut dyn Host<T>,
        plans: &mut Plans<'_>,
        run: &mut Run<'_>,
        connection: &Connection,
    ) -> bool {
        let room = self.room();
        let why_not;
        {
            let mut asking = self.asking(host, connection, run);
            if pieces::surely_fits(&mut asking, plans.sql, room) {
                return false;
            }
            match plans.look(&mut asking, &[Want::Kept]) {
                Ok(()) => {
                    let Some((parsed, _)) = &plans.parsed else {
                        return false;
                    };
                    return match pieces::foresee(&mut asking, parsed, room) {
                        Ok(Some(bytes)) => {
                            asking.run.report.why = too_much(bytes, room);
                            true
                        }
                        _ => false,
                    };
                }
                Err(Fault::WhyNot(WhyNot(why))) => why_not = Some(why),
                Err(_) => why_not = None,
            }
        }
        run.report.why_not = why_not;
        false
    }

    /// Whether it can be cut, now that it has failed.
    fn look_after_failure<T>(
        &self,
        host: &mut dyn Host<T>,
        plans: &mut Plans<'_>,
        run: &mut Run<'_>,
        connection: &Connection,
    ) {
        if let Some(stop) = connection.stopping() {
            connection.forget_stop(run.query);
            run.forgotten = Some(stop);
        }
        let mut asking = self.asking(host, connection, run);
        let looked = plans.look(&mut asking, &[Want::Kept, Want::All]);
        if let Err(Fault::WhyNot(WhyNot(why))) = looked {
            run.report.why_not = Some(why);
        }
    }
}
