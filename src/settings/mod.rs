//! Settings: plain data. [`layers`] puts them together: arguments over environment over file over profile over defaults.

pub mod layers;
pub mod table;

pub use layers::{Layers, Loaded, Source};
pub use table::Value;

use std::path::PathBuf;
use std::time::Duration;

use crate::units::{Bytes, Memory};

/// Which running query the guard interrupts in an emergency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Victim {
    /// The one whose start was followed by the largest growth of memory.
    #[default]
    Largest,
    /// The one that has run longest, if longer than 30 s; else the largest.
    Longest,
}

/// How the pieces of a query get their rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Feed {
    /// By what is estimated to take less time.
    #[default]
    Auto,
    /// Each piece reads what the query reads.
    Scan,
    /// What the pieces need is written once, into a temporary table, and each reads its own, where that can be done.
    Spool,
}

/// Where what is learnt of queries is kept for the next process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Nowhere: it is forgotten with the ward.
    #[default]
    Nowhere,
    /// In a file beside the database that the connection was opened with.
    Beside,
    /// In this file.
    In(PathBuf),
}

/// Every setting, with the value in force. Each has one row in [`table`], which names, reads and explains it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The budget: `memory`.
    pub memory: Memory,
    /// Head-room that the budget leaves free under a limit of the system; none: 5 %, at least 32 MiB, at most 1 GiB.
    pub reserve: Option<Bytes>,
    /// Share of the budget at which each level begins: caution, warning, critical, emergency.
    pub levels: [f64; 4],
    /// How far below its threshold memory must fall before a level is left.
    pub hysteresis: f64,
    /// How long it must stay there.
    pub dwell: Duration,
    /// Shortest time between two readings.
    pub interval_min: Duration,
    /// Longest time between two readings.
    pub interval_max: Duration,
    /// Whether DuckDB's `memory_limit` follows the room that the rest of the process leaves.
    pub elastic: bool,
    /// Whether a soft `RLIMIT_DATA` turns growth that nothing else stops into an out-of-memory error, while queries run.
    pub ceiling: bool,
    /// Whether caution and above clean up (caches, freed pages).
    pub clean_up: bool,
    /// Whether warning and above lower how many queries run at once.
    pub limit_concurrency: bool,
    /// Whether critical and above lower DuckDB's `memory_limit` further.
    pub limit_memory: bool,
    /// Whether critical and above hold new queries in the waiting line.
    pub queue_new: bool,
    /// Whether emergency refuses new queries.
    pub refuse_new: bool,
    /// Whether emergency makes operators spill early.
    pub spill_early: bool,
    /// Whether emergency lowers the checkpoint threshold.
    pub lower_checkpoint: bool,
    /// Whether emergency interrupts a query.
    pub interrupt: bool,
    /// Which query that is.
    pub victim: Victim,
    /// From warning on, answers are cut at so many rows and marked truncated; none: never.
    pub row_cap: Option<u64>,
    /// Most queries at once through wards of this process.
    pub max_concurrent: usize,
    /// Longest wait for admission.
    pub wait: Duration,
    /// Longest time one attempt at a query may take; none: no limit.
    pub query_timeout: Option<Duration>,
    /// Most retries of a failure that time can mend (a transaction conflict).
    pub retries: u32,
    /// Wait before the first retry of a failure that time can mend; doubles each time, with jitter.
    pub backoff: Duration,
    /// Whether the degraded rung keeps `preserve_insertion_order`; without it, rows of an unordered query may come in another order.
    pub keep_order: bool,
    /// How the pieces of a query get their rows.
    pub feed: Feed,
    /// Where what is learnt of queries is kept for the next process.
    pub history: Keep,
    /// Where DuckDB and duckward spill; none: where DuckDB does.
    pub temp_directory: Option<PathBuf>,
    /// Largest part of an answer held in memory before it goes to disk; none: an eighth of the budget, at most 1 GiB.
    pub answer_memory: Option<Bytes>,
    /// Rows in a batch of an answer.
    pub batch_rows: usize,
    /// Filter of the log, in the syntax of `tracing` ("info", "duckward=debug"); none: no log.
    pub log: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            memory: Memory::Auto,
            reserve: None,
            levels: [0.70, 0.80, 0.90, 0.95],
            hysteresis: 0.05,
            dwell: Duration::from_secs(1),
            interval_min: Duration::from_millis(2),
            interval_max: Duration::from_secs(1),
            elastic: true,
            ceiling: true,
            clean_up: true,
            limit_concurrency: true,
            limit_memory: true,
            queue_new: true,
            refuse_new: true,
            spill_early: true,
            lower_checkpoint: true,
            interrupt: true,
            victim: Victim::Largest,
            row_cap: None,
            max_concurrent: 32,
            wait: Duration::from_secs(300),
            query_timeout: None,
            retries: 3,
            backoff: Duration::from_secs(1),
            keep_order: true,
            feed: Feed::Auto,
            history: Keep::Nowhere,
            temp_directory: None,
            answer_memory: None,
            batch_rows: 8192,
            log: None,
        }
    }
}
