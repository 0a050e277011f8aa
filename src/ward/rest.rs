//! The rest of an answer whose pieces are handed out one by one. Between two pieces the query holds nothing but its temporary
//! tables: it waits for its turn again for each.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cutting::{clean, own};
use super::{ALONE, AttemptError, Failed, Host, Job, Run, Ticket, Ward, busy};
use crate::engine::host::{Connection, Stop};
use crate::error::{Error, ErrorKind};
use crate::fallback::ladder::Rung;
use crate::fallback::pieces::{Portion, Rest};
use crate::units::Bytes;

impl Ward {
    /// The next piece of the answer of `ticket`; none at its end, when nothing is left of it in the database.
    ///
    /// # Errors
    /// What stopped it, with the report. `rows` were handed out, so it is not run again, and nothing is left of it.
    pub fn go_on<T>(
        self: &Arc<Self>,
        ticket: &mut Ticket,
        job: &Job<'_>,
        host: &mut dyn Host<T>,
        rows: u64,
    ) -> Result<Option<T>, Box<Failed>> {
        let Some(mut rest) = ticket.rest.take() else {
            return Ok(None);
        };
        let next = self.next_piece(ticket, &mut rest, job, host);
        let done = !matches!(next, Ok(Some(_)));
        if done {
            rest.drops().iter().for_each(|drop| clean(host, drop));
            ticket.report.verified = rest.verified();
        } else {
            ticket.rest = Some(rest);
        }
        next.map_err(|(error, stop)| match error {
            AttemptError::Engine(error) => ticket.fail_as(&error, stop, rows),
            AttemptError::Own(error) => ticket.fail_as_own(error, rows),
        })
    }

    fn next_piece<T>(
        self: &Arc<Self>,
        ticket: &mut Ticket,
        rest: &mut Rest,
        job: &Job<'_>,
        host: &mut dyn Host<T>,
    ) -> Result<Option<T>, (AttemptError, Option<Stop>)> {
        let own_error = |error| (AttemptError::Own(error), None);
        self.usable().map_err(own_error)?;
        let query = ticket.report.query;
        let connection = Arc::clone(&ticket.connection);
        if connection.active().is_some() {
            return Err(own_error(busy()));
        }
        let cancels = self.cancels.load(Ordering::Acquire);
        let gave_up = || self.cancels.load(Ordering::Acquire) != cancels || host.gave_up();
        let waited = &mut ticket.report.waited;
        let permit = self
            .admit(query, job.priority, ALONE, waited, &gave_up)
            .map_err(own_error)?;
        let Some((begun, ceiling, _)) = self.begin(&connection, query, true, job.heeds_signals) else {
            return Err(own_error(busy()));
        };
        let mut run = Run {
            ward: self,
            query,
            report: std::mem::take(&mut ticket.report),
            failure: None,
            stop: None,
            forgotten: None,
        };
        let piece = self.portion(rest, &connection, &mut run, host);
        connection.observe(self.guardian.used_lately(), Bytes(0));
        let ended = begun.end();
        drop((ceiling, permit));
        ticket.report = run.report;
        if let Some(active) = &ended {
            ticket.note(active);
        }
        piece.map_err(|error| (error, ended.and_then(|active| active.stop).map(|(stop, _)| stop)))
    }

    fn portion<T>(
        &self,
        rest: &mut Rest,
        connection: &Connection,
        run: &mut Run<'_>,
        host: &mut dyn Host<T>,
    ) -> Result<Option<T>, AttemptError> {
        if host.in_transaction() {
            // Or it is closed, or that transaction has failed already.
            host.ask("SELECT 1").map_err(AttemptError::Engine)?;
            // A piece that fails would end it.
            return Err(AttemptError::Own(Error::new(
                ErrorKind::Transaction,
                "the rest of the answer is withheld: a transaction was begun on the connection while the pieces of the answer \
                 were handed out: end it and run the statement again, or take the answer whole with to_arrow() first",
            )));
        }
        let portion = {
            let mut asking = self.asking(host, connection, run);
            rest.next(&mut asking).map_err(own)?
        };
        let Some(Portion { sql, drop }) = portion else {
            return Ok(None);
        };
        let value = host.attempt(Rung::Pieces, Some(&sql));
        clean(host, &drop);
        value.map(Some)
    }
}
