//! The one error type. Its [`ErrorKind`] says what the caller does next; the message says what happened, to what.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the caller does next. Small and closed: a program branches on this, people read the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument or a setting is not acceptable. Nothing was changed; correct the call.
    Invalid,
    /// The work does not fit into the memory budget. Raise `memory`, or do what the message names.
    Memory,
    /// A disk is full or a directory cannot be written. Free space, or name another directory.
    Disk,
    /// A time limit passed. Try again when less is running, or raise the limit that the message names.
    Timeout,
    /// The user cancelled. Nothing is retried.
    Cancelled,
    /// DuckDB refused the statement itself (syntax, names, types, constraints). Correct the statement.
    Query,
    /// The open transaction was lost, or what was read changed meanwhile. Start again.
    Transaction,
    /// The connection is closed, busy or lost. Open or choose another one.
    Connection,
    /// Stored data does not read back. Stop writing and restore.
    Corruption,
    /// The object cannot do this any more: closed, already read, or inherited through a fork.
    State,
    /// A defect of duckward. Report it with the message.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [ErrorKind; 11] = [
        ErrorKind::Invalid,
        ErrorKind::Memory,
        ErrorKind::Disk,
        ErrorKind::Timeout,
        ErrorKind::Cancelled,
        ErrorKind::Query,
        ErrorKind::Transaction,
        ErrorKind::Connection,
        ErrorKind::Corruption,
        ErrorKind::State,
        ErrorKind::Internal,
    ];

    /// The kind as one lower-case word, as in events and reports.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::Memory => "memory",
            ErrorKind::Disk => "disk",
            ErrorKind::Timeout => "timeout",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Query => "query",
            ErrorKind::Transaction => "transaction",
            ErrorKind::Connection => "connection",
            ErrorKind::Corruption => "corruption",
            ErrorKind::State => "state",
            ErrorKind::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

type Source = Arc<dyn StdError + Send + Sync + 'static>;

/// An error: its kind, a message for people, and the error of the engine or the system behind it.
#[derive(Clone)]
pub struct Error {
    inner: Arc<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` whose `message` says what happened, to what, and what to do next.
    #[cold]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            inner: Arc::new(Inner {
                kind,
                message: message.into(),
                source: None,
            }),
        }
    }

    /// [`ErrorKind::Invalid`] for the value of a setting or an argument.
    #[cold]
    pub fn invalid(name: &str, value: impl fmt::Display, accepted: &str) -> Self {
        Error::new(
            ErrorKind::Invalid,
            format!("{name}={value} is not accepted: {accepted}"),
        )
    }

    /// The same error with `source` behind it.
    pub fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        Error {
            inner: Arc::new(Inner {
                kind: self.kind(),
                message: self.message().to_owned(),
                source: Some(Arc::new(source)),
            }),
        }
    }

    /// What the caller does next.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The message without the source's.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The error behind this one, if it is of type `T`.
    pub fn source_as<T: StdError + 'static>(&self) -> Option<&T> {
        self.inner
            .source
            .as_ref()
            .and_then(|source| source.downcast_ref::<T>())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({}: {})", self.inner.kind, self.inner.message)?;
        match &self.inner.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner
            .source
            .as_ref()
            .map(|source| &**source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_listed_once_with_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = ErrorKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
        for kind in ErrorKind::ALL {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{}\"", kind.name()));
        }
    }

    #[test]
    fn the_source_is_kept_and_found_by_type() {
        let error =
            Error::new(ErrorKind::Disk, "spill directory /x is full").with_source(std::io::Error::other("x"));
        assert_eq!(error.kind(), ErrorKind::Disk);
        assert!(error.source_as::<std::io::Error>().is_some());
        assert!(error.source_as::<fmt::Error>().is_none());
    }
}
