//! A SELECT whose pieces are handed out one by one, each as soon as it is done and proved. Between two of them the user may
//! do anything with the connection: no transaction of ours is open then, what the pieces read cannot change (nobody can write
//! to it, or it was written down once, or it is files that are looked at), and the session must be what it was.

use std::sync::Arc;

use super::files::Files;
use super::parse::Parsed;
use super::proof::Verify;
use super::ranges::BUCKET_BITS;
use super::tables::{drop_of, drops};
use super::work::Work;
use super::{Asks, Fault, Options, Run, one};
use crate::error::{Error, ErrorKind};
use crate::fallback::decompose::as_statement;

/// Words in the names of settings that change no answer: the guard moves some of them, and DuckDB derives others from those.
const INDIFFERENT: &str =
    "memory|thread|buffer|cache|checkpoint|temp_directory|insertion_order|partitioned_write|progress";

/// What is left of it.
#[derive(Debug)]
pub struct Rest {
    parsed: Arc<Parsed>,
    options: Options,
    work: Work,
    /// Temporary tables of ours.
    made: Vec<String>,
    /// What decides what names and values mean.
    session: Option<String>,
    /// What was proved so far, as [`super::Prepared::verified`].
    verified: Option<Verify>,
    files: Files,
}

/// One piece, or several that only together are whole buckets of the hash.
#[derive(Debug)]
pub struct Portion {
    /// The statement that reads it.
    pub sql: String,
    /// The statement that drops it.
    pub drop: String,
}

impl Rest {
    /// Begins to hand out the pieces of `work`, for which `run` has written down what it had to.
    pub(super) fn new(run: &mut Run<'_>, work: Work, files: Files) -> Result<Self, Fault> {
        let session = session(run.asks)?;
        Ok(Rest {
            parsed: Arc::clone(run.parsed),
            options: *run.options,
            work,
            made: std::mem::take(&mut run.made),
            session,
            verified: run.proofs.iter().copied().min().unwrap_or(Some(Verify::Full)),
            files,
        })
    }

    /// Computes and proves what comes next; none at the end.
    ///
    /// # Errors
    /// The engine's, [`ErrorKind::Transaction`] where what is read changed, and [`ErrorKind::Internal`] for a proof that failed.
    pub fn next(&mut self, asks: &mut dyn Asks) -> Result<Option<Portion>, Fault> {
        if self.work.ranges.is_empty() {
            return Ok(None);
        }
        if session(asks)? != self.session {
            return Err(Fault::Own(Error::new(
                ErrorKind::Transaction,
                "the rest of the answer is withheld: a setting, a temporary table or view, or an attached database of the \
                 connection was changed while its pieces were handed out: run it again, or take it whole with to_arrow()",
            )));
        }
        let mut run = Run {
            made: std::mem::take(&mut self.made),
            ..Run::new(asks, &self.parsed, &self.options)
        };
        let portion = run.portion(&mut self.work);
        self.made = run.made;
        let (table, sql, proved) = portion?;
        if let Err(error) = self.files.unchanged() {
            self.made.push(table);
            return Err(Fault::Own(error));
        }
        self.verified = self.verified.min(proved);
        Ok(Some(Portion {
            sql,
            drop: drop_of(&table),
        }))
    }

    /// What drops all that there is of it.
    pub fn drops(&self) -> Vec<String> {
        drops(&self.made)
    }

    /// The temporary tables that there are of it.
    pub(super) fn tables(self) -> Vec<String> {
        self.made
    }

    /// What was proved of all pieces so far, as of a whole statement.
    pub fn verified(&self) -> Option<Verify> {
        self.verified
    }
}

/// What decides what names and values mean on the connection.
fn session(asks: &mut dyn Asks) -> Result<Option<String>, Fault> {
    let rows = asks.rows(&format!(
        "SELECT md5(string_agg(x, chr(10) ORDER BY x)) FROM (SELECT concat_ws(' ', name, value) AS x FROM duckdb_settings() \
         WHERE NOT regexp_matches(name, '{INDIFFERENT}') \
         UNION ALL SELECT concat_ws(' ', 'database', database_name, path, readonly) FROM duckdb_databases() \
         UNION ALL SELECT concat_ws(' ', 'table', table_name, table_oid) FROM duckdb_tables() WHERE temporary \
         AND NOT starts_with(table_name, 'duckward_') \
         UNION ALL SELECT concat_ws(' ', 'view', view_name, sql) FROM duckdb_views() WHERE temporary)"
    ))?;
    Ok(one(&rows).map(str::to_owned))
}

impl Run<'_> {
    /// The next pieces, up to the end of a bucket, in a table of their own: its name, what reads it, and what was proved of them.
    fn portion(&mut self, work: &mut Work) -> Result<(String, String, Option<Verify>), Fault> {
        work.finished.clear();
        let table = self.table();
        let ends = |work: &Work| {
            let whole = u64::MAX >> BUCKET_BITS;
            work.finished
                .last()
                .is_some_and(|range| range.high & whole == whole)
        };
        while !work.ranges.is_empty() {
            let before = work.finished.len();
            self.fill(work, &table)?;
            if work.finished.len() > before && ends(work) {
                break;
            }
        }
        let proved = self.proved(work, &table)?;
        let node = self.reading_of(work, &table)?;
        let sql = self.text(&as_statement(&node))?;
        // The table goes as soon as it has been read.
        self.made.retain(|made| *made != table);
        Ok((table, sql, proved))
    }
}
