//! Computes a statement in pieces, as [`decompose`](super::decompose) says: each query that is cut becomes a temporary
//! table of the user's own session, filled piece by piece, and the statement reads that in its place. All pieces see one
//! state of the data: they run in one transaction, unless nobody can write to it. The rows that went into each piece are
//! counted, and so are the rows there were; when the two differ, there is no answer.

mod answer;
mod asking;
mod described;
mod files;
mod forecast;
mod parse;
mod proof;
mod ranges;
mod rest;
mod rewrite;
mod rows;
mod sizes;
mod splitting;
mod tables;
mod work;
mod written;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::classify::Failure;
use super::decompose::{Want, WhyNot};
use crate::engine::{EngineError, Rows};
use crate::error::Error;
use crate::settings::Feed;
use crate::units::Bytes;

pub use answer::{Prepared, prepare};
pub use files::Files;
pub use forecast::{Forecast, explain, foresee, look, surely_fits};
pub use parse::{Parsed, parse};
pub use proof::Verify;
pub use rest::{Portion, Rest};
use splitting::Failed;

/// What DuckDB says when the system refuses it memory (by the ceiling), and not its own limit.
pub const REFUSED_BY_THE_SYSTEM: &str = "bad allocation";

/// The connection that the statement is for.
pub trait Asks {
    /// Runs a statement that takes something back, also when the query has been stopped.
    fn clean(&mut self, sql: &str);

    /// Runs a statement of ours on it.
    ///
    /// # Errors
    /// The engine's.
    fn rows(&mut self, sql: &str) -> Result<Rows, EngineError>;

    /// The values of the statement's parameters as expressions of SQL, by name ("1", "2" where they have none); none where
    /// one of them cannot be written so.
    ///
    /// # Errors
    /// The engine's.
    fn parameters(&mut self) -> Result<Option<Vec<(String, String)>>, EngineError>;

    /// What an error of that kind of statement means now; an interrupt by the guard is forgotten by this.
    fn failure(&mut self, error: &EngineError) -> Failure;

    /// Takes note of how far it is.
    fn progress(&mut self, piece: &Piece, share: f64);

    /// Waits.
    fn pause(&mut self, time: Duration);

    /// All pieces are begun anew; those that were noted do not count.
    fn anew(&mut self);

    /// The time since some moment.
    fn elapsed(&self) -> Duration;
}

/// One piece, as the report shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// Rows that went in, if they can be counted.
    pub rows: Option<u64>,
    /// Wall time.
    pub seconds: f64,
    /// How often it was cut in two because it did not fit.
    pub splits: u32,
    /// Whether it read from what was written once for all pieces.
    pub spooled: bool,
}

/// What is known of a statement before it is cut.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What to cut.
    pub want: Want,
    /// Into how many pieces, if that is given.
    pub pieces: Option<usize>,
    /// Memory that DuckDB may use.
    pub limit: Bytes,
    /// Whether the user's own transaction is open.
    pub in_transaction: bool,
    /// A number for the names of temporary tables.
    pub number: u64,
    /// How the pieces get their rows.
    pub feed: Feed,
    /// Room on the disk that DuckDB spills to, if that is known.
    pub disk: Option<Bytes>,
    /// What is proved of the pieces.
    pub verify: Verify,
    /// Whether the pieces may be handed out one by one.
    pub by_piece: bool,
}

/// Why there is nothing prepared.
#[derive(Debug)]
pub enum Fault {
    /// It cannot be cut.
    WhyNot(WhyNot),
    /// The engine failed.
    Engine(EngineError),
    /// duckward cannot go on.
    Own(Error),
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        Fault::Engine(error)
    }
}

impl From<WhyNot> for Fault {
    fn from(why: WhyNot) -> Self {
        Fault::WhyNot(why)
    }
}

fn why_not<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::WhyNot(WhyNot(text.into())))
}

struct Run<'a> {
    asks: &'a mut dyn Asks,
    parsed: &'a Arc<Parsed>,
    options: &'a Options,
    /// How many times as many pieces as estimated.
    times: usize,
    /// Nobody can write, so no transaction is needed.
    fixed: bool,
    began: bool,
    /// Temporary tables of ours.
    made: Vec<String>,
    /// What was proved of each query that was cut.
    proofs: Vec<Option<Verify>>,
    /// The piece that ended the transaction of all.
    failed: Option<Failed>,
}

impl<'a> Run<'a> {
    /// One that has done nothing yet, for what cannot change meanwhile.
    fn new(asks: &'a mut dyn Asks, parsed: &'a Arc<Parsed>, options: &'a Options) -> Self {
        Run {
            asks,
            parsed,
            options,
            times: 1,
            fixed: true,
            began: false,
            made: Vec::new(),
            proofs: Vec::new(),
            failed: None,
        }
    }
}

fn one(rows: &Rows) -> Option<&str> {
    rows.first()?.first()?.as_deref()
}

fn numbered(letter: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{letter}{index}")).collect()
}
