//! What is known of a load by its token: a row of the table `duckward_ingests` of the database that is loaded into, changed in
//! the transaction that adds the rows. The text of statements is pure.

use super::target::Name;
use crate::engine::text::quoted;
use crate::engine::{Ask, Rows};
use crate::error::{Error, ErrorKind, Result};

/// What the table is called; in the schema `main`.
pub const TABLE: &str = "duckward_ingests";

/// How far a load is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The table it goes into, quoted, with its schema.
    pub target: String,
    /// Records of the source that are behind it: inserted or rejected.
    pub position: u64,
    /// Rows inserted.
    pub inserted: u64,
    /// Records rejected.
    pub rejected: u64,
    /// Whether the source was read to its end.
    pub finished: bool,
}

impl State {
    /// Whether a load of `token` into `target` may go on from here.
    ///
    /// # Errors
    /// [`ErrorKind::State`] for one that is finished, [`ErrorKind::Invalid`] for one of another table.
    pub(super) fn check(&self, token: &str, target: &str) -> Result<()> {
        if self.target != target {
            let accepted = format!("it belongs to a load into {}; give another one", self.target);
            return Err(Error::invalid("token", format_args!("{token:?}"), &accepted));
        }
        if self.finished {
            let message = format!(
                "the load with token={token:?} is finished: {} rows went into {target} and {} were rejected; nothing was done \
                 now. To load once more, give another token, or none",
                self.inserted, self.rejected
            );
            return Err(Error::new(ErrorKind::State, message));
        }
        Ok(())
    }
}

/// The journal of one load.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    table: String,
    token: String,
    /// The same as a string of SQL.
    quoted: String,
}

impl Journal {
    pub(super) fn new(database: &str, token: &str) -> Self {
        Journal {
            table: Name::new(database, "main", TABLE).sql(),
            token: token.to_owned(),
            quoted: quoted(token),
        }
    }

    /// The token.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// What is known of the load; none where it has not begun.
    pub(super) fn read<E: From<Error>>(
        &self,
        ask: &mut dyn Ask<E>,
        database: &str,
    ) -> Result<Option<State>, E> {
        let there = ask.ask(&format!(
            "SELECT 1 FROM duckdb_tables() WHERE database_name = {} AND schema_name = 'main' AND table_name = {}",
            quoted(database),
            quoted(TABLE)
        ))?;
        if there.is_empty() {
            return Ok(None);
        }
        let rows = ask.ask(&format!(
            "SELECT target, position::VARCHAR, inserted::VARCHAR, rejected::VARCHAR, finished::VARCHAR FROM {} WHERE token = {}",
            self.table, self.quoted
        ))?;
        Ok(read(&rows))
    }

    pub(super) fn create(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (token VARCHAR PRIMARY KEY, target VARCHAR NOT NULL, position BIGINT NOT NULL, \
             inserted BIGINT NOT NULL, rejected BIGINT NOT NULL, batches BIGINT NOT NULL, finished BOOLEAN NOT NULL, \
             began TIMESTAMP WITH TIME ZONE NOT NULL, changed TIMESTAMP WITH TIME ZONE NOT NULL)",
            self.table
        )
    }

    pub(super) fn begin(&self, target: &str) -> String {
        format!(
            "INSERT INTO {} VALUES ({}, {}, 0, 0, 0, 0, false, now(), now())",
            self.table,
            self.quoted,
            quoted(target)
        )
    }

    /// Moves it from one position to another, by so many batches. It changes one row, or none where somebody else has moved it.
    pub(super) fn advance(&self, from: u64, to: u64, inserted: u64, batches: u64, finished: bool) -> String {
        format!(
            "UPDATE {} SET position = {to}, inserted = inserted + {inserted}, rejected = rejected + {}, batches = batches + {batches}, \
             finished = {finished}, changed = now() WHERE token = {} AND position = {from} AND NOT finished",
            self.table,
            to - from - inserted,
            self.quoted
        )
    }

    /// Whether `changed` rows, of [`Journal::advance`], are right.
    pub(super) fn check(&self, changed: u64) -> Result<()> {
        if changed == 1 {
            return Ok(());
        }
        let message = format!(
            "another load with token={:?} goes on meanwhile, or its row in {TABLE} was changed; what this one had not committed was rolled back. Let \
             one load at a time have a token",
            self.token
        );
        Err(Error::new(ErrorKind::State, message))
    }
}

fn read(rows: &Rows) -> Option<State> {
    let row = rows.first()?;
    let text = |column: usize| row.get(column)?.as_deref();
    let number = |column: usize| text(column)?.parse().ok();
    Some(State {
        target: text(0)?.to_owned(),
        position: number(1)?,
        inserted: number(2)?,
        rejected: number(3)?,
        finished: text(4)? == "true",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_one_load_into_one_table() {
        let mut state = State {
            target: "\"main\".\"t\"".to_owned(),
            ..State::default()
        };
        assert!(state.check("x", "\"main\".\"t\"").is_ok());
        let other = state.check("x", "\"main\".\"u\"").unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Invalid);
        state.finished = true;
        let finished = state.check("x", "\"main\".\"t\"").unwrap_err();
        assert_eq!(finished.kind(), ErrorKind::State);
        assert!(finished.message().contains("give another token"), "{finished}");
    }

    #[test]
    fn what_is_not_inserted_is_rejected_and_names_are_quoted() {
        let journal = Journal::new("a\"b", "it's");
        let sql = journal.advance(10, 30, 15, 2, false);
        assert!(sql.contains("\"a\"\"b\".\"main\".\"duckward_ingests\""), "{sql}");
        assert!(
            sql.contains("rejected = rejected + 5, batches = batches + 2")
                && sql.contains("token = 'it''s' AND position = 10"),
            "{sql}"
        );
        assert!(journal.check(1).is_ok());
        assert_eq!(journal.check(0).unwrap_err().kind(), ErrorKind::State);
    }
}
