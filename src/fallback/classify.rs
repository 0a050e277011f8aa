//! From an engine's error to a [`Failure`]: the typed class first, the text only where one class has two meanings.

use serde::{Deserialize, Serialize};

use crate::engine::host::Stop;
use crate::engine::{Class, EngineError};

/// What failed, as far as it decides what is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The engine ran out of memory.
    Memory,
    /// A disk is full, or the temporary directory reached its limit.
    DiskFull,
    /// The guard interrupted it, because memory reached the emergency level.
    InterruptedByGuard,
    /// It ran longer than it may.
    Timeout,
    /// The user cancelled it.
    Cancelled,
    /// Another transaction was faster.
    Conflict,
    /// The transaction it ran in is aborted.
    Aborted,
    /// The connection is closed or busy.
    Connection,
    /// The instance is invalid until it is reopened.
    Crash,
    /// Stored data does not match its checksum.
    Corruption,
    /// A constraint or a duplicate key.
    Constraint,
    /// Reading or writing failed for another reason than a full disk.
    Io,
    /// The statement itself is wrong.
    Statement,
    /// The host's own function raised.
    Host,
}

impl Failure {
    /// Every failure.
    pub const ALL: [Failure; 14] = [
        Failure::Memory,
        Failure::DiskFull,
        Failure::InterruptedByGuard,
        Failure::Timeout,
        Failure::Cancelled,
        Failure::Conflict,
        Failure::Aborted,
        Failure::Connection,
        Failure::Crash,
        Failure::Corruption,
        Failure::Constraint,
        Failure::Io,
        Failure::Statement,
        Failure::Host,
    ];

    /// The failure in a few words, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Memory => "out of memory",
            Failure::DiskFull => "disk full",
            Failure::InterruptedByGuard => "interrupted by the guard",
            Failure::Timeout => "timed out",
            Failure::Cancelled => "cancelled",
            Failure::Conflict => "transaction conflict",
            Failure::Aborted => "transaction aborted",
            Failure::Connection => "connection closed or busy",
            Failure::Crash => "database invalidated",
            Failure::Corruption => "corrupt data",
            Failure::Constraint => "constraint violated",
            Failure::Io => "input or output failed",
            Failure::Statement => "statement refused",
            Failure::Host => "host function raised",
        }
    }
}

/// Classifies `error` of a query that `stop` may have stopped.
pub fn classify(error: &EngineError, stop: Option<Stop>) -> Failure {
    let text = &error.message;
    match error.class {
        // DuckDB's own max_execution_time has the type of an interrupt.
        Class::Interrupt if text.contains("maximum execution time") => Failure::Timeout,
        Class::Interrupt => stopped(stop).unwrap_or(Failure::Cancelled),
        // A full temporary directory has the type of exhausted memory.
        Class::OutOfMemory if text.contains("max_temp_directory_size") => Failure::DiskFull,
        Class::OutOfMemory => Failure::Memory,
        Class::Io | Class::Transaction if text.contains("No space left on device") => Failure::DiskFull,
        Class::Io => Failure::Io,
        Class::Transaction if text.contains("aborted") => Failure::Aborted,
        Class::Transaction => Failure::Conflict,
        Class::Connection | Class::Busy => Failure::Connection,
        Class::Constraint => Failure::Constraint,
        Class::Corruption => Failure::Corruption,
        Class::Fatal => Failure::Crash,
        Class::Statement => Failure::Statement,
        // The engine's bindings turn an interrupt into an error of their own now and then.
        Class::Host => stopped(stop).unwrap_or(Failure::Host),
    }
}

fn stopped(stop: Option<Stop>) -> Option<Failure> {
    stop.map(|stop| match stop {
        Stop::Memory => Failure::InterruptedByGuard,
        Stop::Timeout => Failure::Timeout,
        Stop::Cancel | Stop::Signal => Failure::Cancelled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(class: Class, message: &str) -> EngineError {
        EngineError {
            class,
            message: message.to_owned(),
        }
    }

    #[test]
    fn an_interrupt_is_whose_it_was() {
        let interrupt = error(Class::Interrupt, "INTERRUPT Error: Interrupted!");
        assert_eq!(
            classify(&interrupt, Some(Stop::Memory)),
            Failure::InterruptedByGuard
        );
        assert_eq!(classify(&interrupt, Some(Stop::Timeout)), Failure::Timeout);
        assert_eq!(classify(&interrupt, Some(Stop::Signal)), Failure::Cancelled);
        assert_eq!(
            classify(&interrupt, None),
            Failure::Cancelled,
            "the user's own interrupt"
        );
        let timeout = error(
            Class::Interrupt,
            "INTERRUPT Error: Query exceeded maximum execution time",
        );
        assert_eq!(classify(&timeout, None), Failure::Timeout);
    }

    #[test]
    fn a_real_failure_that_came_before_the_stop_keeps_its_name() {
        let failed = error(
            Class::OutOfMemory,
            "Out of Memory Error: could not allocate block",
        );
        assert_eq!(classify(&failed, Some(Stop::Memory)), Failure::Memory);
    }

    #[test]
    fn a_full_disk_is_told_from_full_memory() {
        let temp = error(
            Class::OutOfMemory,
            "Out of Memory Error: failed to offload data block of size 256.0 KiB (4.5 GiB/4.5 GiB used). This limit was set by the 'max_temp_directory_size' setting.",
        );
        assert_eq!(classify(&temp, None), Failure::DiskFull);
        let device = error(
            Class::Io,
            "IO Error: Could not write file \"x\": No space left on device",
        );
        assert_eq!(classify(&device, None), Failure::DiskFull);
        let commit = error(
            Class::Transaction,
            "Failed to commit: Could not write file: No space left on device",
        );
        assert_eq!(classify(&commit, None), Failure::DiskFull);
    }
}
