//! A query's place while its answer is being read: permit, connection, degraded settings. Dropping gives all of it back.

use std::sync::Arc;

use super::report::{self, Attempt, Outcome, Report, seconds};
use super::{Failed, Ward};
use crate::clock::Moment;
use crate::engine::EngineError;
use crate::engine::host::{Active, Connection, Stop};
use crate::error::{Error, ErrorKind};
use crate::event::What;
use crate::fallback::classify::{Failure, classify};
use crate::fallback::history::{Fingerprint, Need};
use crate::fallback::ladder::{Rung, kind_of};
use crate::fallback::pieces::Rest;
use crate::guard::Guardian;
use crate::guard::admission::Permit;
use crate::guard::respond::HeldSettings;
use crate::units::Bytes;

/// What a running query holds, given back in this order.
#[derive(Debug)]
#[expect(dead_code, reason = "held for what their drop does")]
pub(super) struct Held {
    pub(super) degraded: Option<HeldSettings>,
    pub(super) permit: Permit,
}

/// A query that was started: what it holds, and its report so far.
#[derive(Debug)]
pub struct Ticket {
    ward: Arc<Ward>,
    pub(super) connection: Arc<Connection>,
    held: Option<Held>,
    pub(super) report: Report,
    fingerprint: Fingerprint,
    rung: Rung,
    began: Moment,
    started: Moment,
    /// What is left of it, where its pieces are handed out one by one.
    pub(super) rest: Option<Box<Rest>>,
    /// The most that memory grew in one of them.
    growth: Bytes,
    ended: bool,
}

pub(super) fn publish_end(guardian: &Guardian, report: &Report, error: Option<ErrorKind>) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a wall time; saturates"
    )]
    guardian.bus().publish(What::QueryEnded {
        query: report.query,
        error,
        attempts: u32::try_from(report.attempts.len()).unwrap_or(u32::MAX),
        rows: report.rows,
        milliseconds: (report.seconds * 1e3) as u64,
        peak: report.peak,
    });
}

impl Ticket {
    #[expect(
        clippy::too_many_arguments,
        reason = "called from one place, with what that place has"
    )]
    pub(super) fn new(
        ward: &Arc<Ward>,
        connection: &Arc<Connection>,
        held: Held,
        report: Report,
        fingerprint: Fingerprint,
        rung: Rung,
        began: Moment,
        started: Moment,
    ) -> Self {
        Ticket {
            ward: Arc::clone(ward),
            connection: Arc::clone(connection),
            held: Some(held),
            report,
            fingerprint,
            rung,
            began,
            started,
            rest: None,
            growth: Bytes(0),
            ended: false,
        }
    }

    /// Gives back what the query holds until its next piece: nobody knows when that will be asked for.
    pub(super) fn pause(&mut self, rest: Box<Rest>) {
        self.connection
            .observe(self.ward.guardian().used_lately(), Bytes(0));
        if let Some(active) = self.connection.end(self.report.query) {
            self.note(&active);
        }
        self.held = None;
        self.rest = Some(rest);
    }

    /// Takes note of what was seen of a piece.
    pub(super) fn note(&mut self, active: &Active) {
        self.report.peak = self.report.peak.max(active.peak);
        self.report.spill = self.report.spill.max(active.spilled);
        self.growth = self.growth.max(active.peak.minus(active.base));
    }

    /// Whether there may be more than what was handed out.
    pub fn has_more(&self) -> bool {
        self.rest.is_some()
    }

    /// Gives up the rest; the statements that remove from the connection what there is of it.
    pub fn give_up(&mut self) -> Vec<String> {
        self.rest.take().map(|rest| rest.drops()).unwrap_or_default()
    }

    /// The report so far.
    pub fn report(&self) -> Report {
        let mut report = self.report.clone();
        if let Some(active) = self
            .connection
            .active()
            .filter(|active| active.query == report.query)
        {
            report.peak = report.peak.max(active.peak);
            report.spill = report.spill.max(active.spilled);
        }
        report.seconds = seconds(self.ward.guardian().clock().now().since(self.began));
        report
    }

    /// The rung it runs on.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// Takes note that the answer was moved to disk.
    pub fn spooled(&mut self, bytes: Bytes) {
        self.report.spooled = Some(self.report.spooled.map_or(bytes, |before| before.plus(bytes)));
        self.ward.guardian().bus().publish(What::AnswerSpooled {
            query: self.report.query,
            bytes,
        });
    }

    /// Takes note that the answer was cut at `row_cap`.
    pub fn truncated(&mut self) {
        self.report.truncated = true;
    }

    /// The answer was read whole.
    pub fn finish(mut self, rows: Option<u64>) -> Report {
        self.report.rows = rows;
        let now = self.ward.guardian().clock().now();
        let ended = self.end(Outcome::Answered, None, None);
        let need = Need {
            growth: ended.map_or(self.growth, |active| active.peak.minus(active.base)),
            spilled: self.report.spill,
            took: now.since(self.started),
            rung: self.rung,
            budget: self.report.budget,
        };
        self.ward.learn(self.fingerprint, need);
        self.report.clone()
    }

    /// Reading the answer failed after some of it was handed out: never run again.
    pub fn fail(mut self, error: &EngineError, rows: u64) -> Box<Failed> {
        let stop = self
            .connection
            .active()
            .and_then(|active| active.stop)
            .map(|(stop, _)| stop);
        self.fail_as(error, stop, rows)
    }

    /// The same, of a query that ended with `stop`.
    pub(super) fn fail_as(&mut self, error: &EngineError, stop: Option<Stop>, rows: u64) -> Box<Failed> {
        let failure = classify(error, stop);
        let kind = kind_of(failure);
        let message = match kind {
            ErrorKind::Query => error.message.clone(),
            _ => format!(
                "{} after {rows} rows of the answer were handed out, so it cannot be run again for you: {}; \
                 run it again yourself, or use to_arrow(), which hands out nothing before the end",
                failure.name(),
                error.message
            ),
        };
        let error = Error::new(kind, message).with_source(error.clone());
        self.failed(error, Some(failure), stop, rows)
    }

    /// duckward itself could not go on with the answer.
    pub fn fail_with(mut self, error: Error, rows: u64) -> Box<Failed> {
        self.fail_as_own(error, rows)
    }

    /// The same.
    pub(super) fn fail_as_own(&mut self, error: Error, rows: u64) -> Box<Failed> {
        self.failed(error, None, None, rows)
    }

    fn failed(
        &mut self,
        error: Error,
        failure: Option<Failure>,
        stop: Option<Stop>,
        rows: u64,
    ) -> Box<Failed> {
        self.report.rows = Some(rows);
        report::first_clause(error.message()).clone_into(&mut self.report.why);
        self.end(
            Outcome::Failed(error.kind()),
            failure,
            Some(error.message().to_owned()),
        );
        Box::new(Failed {
            error,
            failure,
            stop,
            report: self.report.clone(),
        })
    }

    /// Gives everything back and closes the report. What was seen of the query.
    fn end(&mut self, outcome: Outcome, failure: Option<Failure>, message: Option<String>) -> Option<Active> {
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        let held = self.held.take();
        let guardian = Arc::clone(self.ward.guardian());
        let now = guardian.clock().now();
        self.connection.observe(guardian.used_lately(), Bytes(0));
        let ended = self.connection.end(self.report.query);
        drop(held);
        if let Some(active) = &ended {
            self.note(active);
        }
        // Of one that was handed out piece by piece the query itself is not there any more.
        let peak = ended.map_or(self.report.peak, |active| active.peak);
        self.report.seconds = seconds(now.since(self.began));
        self.report.outcome = outcome;
        let rung = self.rung;
        self.report.attempts.push(Attempt {
            rung,
            seconds: seconds(now.since(self.started)),
            peak,
            failure,
            message: message.clone(),
        });
        if let Some(message) = message {
            guardian.bus().publish(What::AttemptFailed {
                query: self.report.query,
                attempt: u32::try_from(self.report.attempts.len()).unwrap_or(u32::MAX),
                rung: rung.name().to_owned(),
                failure: failure.map_or("refused by duckward", Failure::name).to_owned(),
                message,
            });
        }
        let error = match outcome {
            Outcome::Failed(kind) => Some(kind),
            _ => None,
        };
        publish_end(&guardian, &self.report, error);
        ended
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(Outcome::Closed, None, None);
    }
}
