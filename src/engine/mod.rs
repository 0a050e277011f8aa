//! The only door to a database. An [`Engine`] makes [`Session`]s; a session runs statements and can be interrupted.
//!
//! `native` is DuckDB in this process; `scripted` is the test double; `host` is a connection that the host program already has (in Python the user's own
//! `DuckDBPyConnection`, which the Python face hands in).

pub mod host;
#[cfg(feature = "native")]
pub mod native;
pub mod scripted;
pub mod source;
pub mod text;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatchReader;

use crate::error::{Error, ErrorKind};
use crate::units::Bytes;

/// What an engine's error says of itself: the class, and the text.
///
/// The class comes from the engine's typed error (a Python exception class, a C error type), never from the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineError {
    /// The engine's class.
    pub class: Class,
    /// The engine's message, unchanged.
    pub message: String,
}

/// DuckDB's error types, as far as somebody acts on the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Out of memory; DuckDB gives a full temporary directory the same type.
    OutOfMemory,
    /// Interrupted, by whomever, or its own `max_execution_time`.
    Interrupt,
    /// Input and output, a full disk included.
    Io,
    /// A transaction conflict, or an aborted transaction.
    Transaction,
    /// The connection is closed or cannot be made.
    Connection,
    /// The connection has an unfinished result or is busy.
    Busy,
    /// A constraint or a duplicate key.
    Constraint,
    /// Stored data does not match its checksum.
    Corruption,
    /// A fatal or internal error: the instance is invalid until reopened.
    Fatal,
    /// Anything wrong with the statement or its values.
    Statement,
    /// The host's own error (an exception in a user-defined function).
    Host,
}

impl Class {
    /// The class by the fixed prefix of DuckDB's messages, where an interface passes on nothing but the text
    /// (an Arrow stream's `get_last_error`, the `duckdb` crate).
    pub fn of_text(text: &str) -> Self {
        const PREFIXES: [(&str, Class); 13] = [
            ("Out of Memory Error:", Class::OutOfMemory),
            ("INTERRUPT Error:", Class::Interrupt),
            ("IO Error:", Class::Io),
            ("HTTP Error:", Class::Io),
            ("TransactionContext Error:", Class::Transaction),
            ("Transaction Error:", Class::Transaction),
            ("Connection Error:", Class::Connection),
            ("Resource In Use Error:", Class::Busy),
            ("Constraint Error:", Class::Constraint),
            ("Corrupt", Class::Corruption),
            ("Data Corruption Error:", Class::Corruption),
            ("FATAL Error:", Class::Fatal),
            ("INTERNAL Error:", Class::Fatal),
        ];
        PREFIXES
            .iter()
            .filter_map(|(prefix, class)| text.find(prefix).map(|at| (at, *class)))
            .min_by_key(|(at, _)| *at)
            .map_or(Class::Statement, |(_, class)| class)
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for EngineError {}

/// An answer as it comes: Arrow batches with one schema.
pub type Stream = Box<dyn RecordBatchReader + Send>;

/// Rows as text, for our own questions; none is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// Somebody who runs a statement and gives its rows: for folders that have questions and do not care who answers. `E` is the
/// error of whoever does, so that it comes back as it was.
pub trait Ask<E> {
    /// Runs one statement to its end.
    ///
    /// # Errors
    /// The one who answers'.
    fn ask(&mut self, sql: &str) -> std::result::Result<Rows, E>;

    /// Those who run several statements at once, if there are any.
    fn workers(&mut self) -> Option<&mut dyn Workers<E>> {
        None
    }

    /// Waits before a statement that failed is run again.
    ///
    /// # Errors
    /// Where the user ends the wait.
    fn pause(&mut self, time: Duration) -> std::result::Result<(), E>;

    /// Does what takes long and asks nothing, so that others may go on meanwhile.
    fn apart(&mut self, work: &mut (dyn FnMut() + Send)) {
        work();
    }

    /// Runs a statement that takes something back after another one failed. What it has to say is not told.
    fn take_back(&mut self, sql: &str) {
        let _ = self.ask(sql);
    }
}

/// Name and type of each column of what can be selected from.
///
/// # Errors
/// Those of whoever is asked.
pub fn described<E>(ask: &mut dyn Ask<E>, relation: &str) -> std::result::Result<Vec<(String, String)>, E> {
    let rows = ask.ask(&format!("DESCRIBE SELECT * FROM {relation}"))?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let mut row = row.into_iter();
            Some((row.next()??, row.next()??))
        })
        .collect())
}

/// The version of the DuckDB that is asked.
///
/// # Errors
/// Those of whoever is asked.
pub fn version<E>(ask: &mut dyn Ask<E>) -> std::result::Result<String, E> {
    let rows = ask.ask("SELECT version()")?;
    Ok(rows.into_iter().flatten().flatten().next().unwrap_or_default())
}

/// Those who run statements that write, several at once.
pub trait Workers<E> {
    /// How many they are.
    fn count(&self) -> usize;

    /// Runs each statement once; `ended` is told the place of each, and how it ended.
    ///
    /// # Errors
    /// Those of `ended`; the others are over then.
    fn each(
        &mut self,
        statements: &[String],
        ended: &mut dyn FnMut(usize, std::result::Result<(), E>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E>;
}

/// An error whose kind can be told, whoever raised it.
pub trait Reason: fmt::Display {
    /// What the caller does next; nothing where that is not known.
    fn reason(&self) -> Option<ErrorKind>;
}

impl Reason for Error {
    fn reason(&self) -> Option<ErrorKind> {
        Some(self.kind())
    }
}

/// Stops the statement that runs on a session now. Does nothing when none runs; may be called from any thread.
pub trait Interrupt: Send + Sync {
    /// Asks the engine to stop. Not remembered: sent to an idle session it is lost.
    fn interrupt(&self);
}

/// One connection.
pub trait Session: Send {
    /// Runs one statement; the stream is its answer, read as it is made.
    ///
    /// # Errors
    /// The engine's, here or in an item of the stream.
    fn query(&self, sql: &str) -> Result<Stream, EngineError>;

    /// Runs one statement to its end and returns the rows of its answer as text, for our own small questions.
    ///
    /// # Errors
    /// The engine's.
    fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, EngineError>;

    /// The handle that stops what runs here.
    fn interrupt(&self) -> Arc<dyn Interrupt>;
}

/// A database instance as the guard needs it.
pub trait Engine: Send + Sync {
    /// A new connection of our own to the same instance; sees its global settings, shares none of its session's.
    ///
    /// # Errors
    /// The engine's; [`Class::Connection`] when the instance is closed.
    fn session(&self) -> Result<Box<dyn Session>, EngineError>;
}

/// What `duckdb_memory()` and the settings say of one instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceMemory {
    /// Memory its buffer manager tracks.
    pub tracked: Bytes,
    /// Temporary storage on disk.
    pub spilled: Bytes,
    /// Its `memory_limit`, as it prints it.
    pub limit: String,
}

/// Asks an instance for its memory.
///
/// # Errors
/// The engine's.
pub fn instance_memory(session: &dyn Session) -> Result<InstanceMemory, EngineError> {
    // Summed here: that halves what the question costs.
    let rows = session.rows(
        "SELECT memory_usage_bytes::VARCHAR, temporary_storage_bytes::VARCHAR, current_setting('memory_limit') \
         FROM duckdb_memory()",
    )?;
    let sum = |column: usize| {
        let numbers = rows
            .iter()
            .filter_map(|row| row.get(column)?.as_deref()?.parse().ok());
        numbers.fold(Bytes(0), |sum, number| sum.plus(Bytes(number)))
    };
    let limit = rows
        .first()
        .and_then(|row| row.get(2)?.clone())
        .unwrap_or_default();
    Ok(InstanceMemory {
        tracked: sum(0),
        spilled: sum(1),
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_read_from_the_first_prefix_of_a_text() {
        let wrapped = "C Data interface error: Out of Memory Error: failed ... (see IO Error: x)";
        assert_eq!(Class::of_text(wrapped), Class::OutOfMemory);
        assert_eq!(
            Class::of_text("Conversion Error: Could not convert string 'x'"),
            Class::Statement
        );
    }
}
