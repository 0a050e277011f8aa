//! DuckDB in this process, by the `duckdb` crate.
//!
//! Each session has a thread of its own, on which its connection lives: the crate's statements borrow their connection and stay
//! on its thread, and an answer is read on any. The thread runs at most two batches ahead of who reads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arrow::array::{Array, RecordBatch, RecordBatchReader};
use arrow::buffer::NullBuffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use duckdb::InterruptHandle;
use parking_lot::Mutex;

use super::{Class, Engine, EngineError, Interrupt, Rows, Session, Stream};

/// Batches that are made before somebody reads them.
const AHEAD: usize = 2;
/// How long after one interrupt the next is sent, where an answer was dropped and its query has not ended: one that arrives
/// between two fetches is lost.
const RESEND: Duration = Duration::from_millis(25);

/// The database that a connection of the program is open on.
pub struct NativeEngine {
    /// Never runs anything; others are made from it.
    connection: Mutex<duckdb::Connection>,
}

impl fmt::Debug for NativeEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeEngine").finish_non_exhaustive()
    }
}

impl NativeEngine {
    /// The database that `connection` is open on. The database stays open for as long as the engine lives.
    ///
    /// # Errors
    /// The engine's.
    pub fn new(connection: &duckdb::Connection) -> Result<Self, EngineError> {
        Ok(NativeEngine {
            connection: Mutex::new(connection.try_clone().map_err(of_connection)?),
        })
    }
}

impl Engine for NativeEngine {
    fn session(&self) -> Result<Box<dyn Session>, EngineError> {
        let connection = self.connection.lock().try_clone().map_err(of_connection)?;
        Ok(Box::new(NativeSession::new(connection)?))
    }
}

/// A connection, on a thread of its own.
pub struct NativeSession {
    /// Some until it is dropped.
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    interrupt: Arc<InterruptHandle>,
    /// Whether an answer is being read.
    is_read: Arc<AtomicBool>,
}

impl fmt::Debug for NativeSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NativeSession").finish_non_exhaustive()
    }
}

/// What the thread of a connection is asked for.
struct Work {
    sql: String,
    /// The schema of the answer, or why there is none.
    begun: SyncSender<Result<SchemaRef, EngineError>>,
    /// The answer.
    batches: SyncSender<Result<RecordBatch, EngineError>>,
    /// Dropped when the statement is over.
    over: SyncSender<()>,
    is_read: Arc<AtomicBool>,
}

impl NativeSession {
    /// The session of this connection, which runs nothing else from now on.
    ///
    /// # Errors
    /// [`Class::Connection`] where the system has no thread for it.
    pub fn new(connection: duckdb::Connection) -> Result<Self, EngineError> {
        let interrupt = connection.interrupt_handle();
        let (work, asked) = mpsc::channel::<Work>();
        let thread = thread::Builder::new()
            .name("duckward-duckdb".to_owned())
            .spawn(move || {
                for work in asked {
                    run(&connection, work);
                }
            })
            .map_err(|error| EngineError {
                class: Class::Connection,
                message: format!("there is no thread for another connection: {error}"),
            })?;
        Ok(NativeSession {
            work: Some(work),
            thread: Some(thread),
            interrupt,
            is_read: Arc::new(AtomicBool::new(false)),
        })
    }

    fn begin(&self, sql: &str) -> Result<Answer, EngineError> {
        if self.is_read.swap(true, Ordering::AcqRel) {
            return Err(EngineError {
                class: Class::Busy,
                message: "an answer of this connection is still being read; read it to its end, or drop it"
                    .to_owned(),
            });
        }
        let (begun, schema) = mpsc::sync_channel(1);
        let (batches, answer) = mpsc::sync_channel(AHEAD);
        let (over, ended) = mpsc::sync_channel(0);
        let work = self.work.as_ref().ok_or_else(gone)?;
        let sent = work.send(Work {
            sql: sql.to_owned(),
            begun,
            batches,
            over,
            is_read: Arc::clone(&self.is_read),
        });
        let schema = sent.ok().and_then(|()| schema.recv().ok()).ok_or_else(gone)??;
        Ok(Answer {
            schema,
            batches: Some(answer),
            ended,
            interrupt: Arc::clone(&self.interrupt),
        })
    }
}

impl Drop for NativeSession {
    /// The connection is closed afterwards, unless an answer of it is still read: then when that is over.
    fn drop(&mut self) {
        drop(self.work.take());
        if !self.is_read.load(Ordering::Acquire)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Session for NativeSession {
    fn query(&self, sql: &str) -> Result<Stream, EngineError> {
        Ok(Box::new(self.begin(sql)?))
    }

    fn rows(&self, sql: &str) -> Result<Rows, EngineError> {
        let mut answer = self.begin(sql)?;
        let mut rows = Rows::new();
        while let Some(batch) = answer.fetch() {
            rows.extend(texts(&batch?)?);
        }
        Ok(rows)
    }

    fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::new(NativeInterrupt(Arc::clone(&self.interrupt)))
    }
}

struct NativeInterrupt(Arc<InterruptHandle>);

impl Interrupt for NativeInterrupt {
    fn interrupt(&self) {
        self.0.interrupt();
    }
}

/// Runs a statement, on the connection's thread. Who waits for it knows that it is over by what is dropped here, the statement
/// first.
fn run(connection: &duckdb::Connection, work: Work) {
    let Work {
        sql,
        begun,
        batches,
        over,
        is_read,
    } = work;
    let failed = fetch(connection, &sql, &begun, &batches);
    is_read.store(false, Ordering::Release);
    if let Err(error) = failed {
        let error = of_statement(error);
        // Either the schema is waited for, or a batch, or nobody is there.
        if let Err(mpsc::TrySendError::Full(error) | mpsc::TrySendError::Disconnected(error)) =
            begun.try_send(Err(error))
            && let Err(error) = error
        {
            let _ = batches.send(Err(error));
        }
    }
    drop((begun, batches, over));
}

fn fetch(
    connection: &duckdb::Connection,
    sql: &str,
    begun: &SyncSender<Result<SchemaRef, EngineError>>,
    batches: &SyncSender<Result<RecordBatch, EngineError>>,
) -> duckdb::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let answer = statement.stream_arrow([])?;
    let _ = begun.send(Ok(answer.get_schema()));
    for batch in answer {
        if batches.send(Ok(batch?)).is_err() {
            break;
        }
    }
    Ok(())
}

/// An answer that is read while it is made.
struct Answer {
    schema: SchemaRef,
    /// None when all was read.
    batches: Option<Receiver<Result<RecordBatch, EngineError>>>,
    ended: Receiver<()>,
    interrupt: Arc<InterruptHandle>,
}

impl Answer {
    fn fetch(&mut self) -> Option<Result<RecordBatch, EngineError>> {
        let batch = self.batches.as_ref()?.recv().ok();
        if !matches!(batch, Some(Ok(_))) {
            self.batches = None;
            let _ = self.ended.recv();
        }
        batch
    }
}

impl Iterator for Answer {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(
            self.fetch()?
                .map_err(|error| ArrowError::ExternalError(Box::new(error))),
        )
    }
}

impl RecordBatchReader for Answer {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Drop for Answer {
    /// Ends the query: the connection is free afterwards.
    fn drop(&mut self) {
        if self.batches.take().is_none() {
            return;
        }
        while self.ended.recv_timeout(Duration::ZERO) == Err(RecvTimeoutError::Timeout) {
            self.interrupt.interrupt();
            if self.ended.recv_timeout(RESEND) == Err(RecvTimeoutError::Disconnected) {
                break;
            }
        }
    }
}

/// Rows as text.
fn texts(batch: &RecordBatch) -> Result<Rows, EngineError> {
    let options = FormatOptions::new();
    let unread = |error: &ArrowError| EngineError {
        class: Class::Statement,
        message: format!("an answer cannot be read as text: {error}"),
    };
    let columns = batch
        .columns()
        .iter()
        .map(|column| Ok((column.logical_nulls(), ArrayFormatter::try_new(column, &options)?)))
        .collect::<Result<Vec<_>, ArrowError>>()
        .map_err(|error| unread(&error))?;
    (0..batch.num_rows())
        .map(|row| {
            let cell = |(nulls, text): &(Option<NullBuffer>, ArrayFormatter<'_>)| {
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    return Ok(None);
                }
                text.value(row).try_to_string().map(Some)
            };
            columns.iter().map(cell).collect()
        })
        .collect::<Result<_, ArrowError>>()
        .map_err(|error| unread(&error))
}

/// The crate passes on the text alone; its prefix is the name of DuckDB's exception.
fn of_statement(error: duckdb::Error) -> EngineError {
    let message = match error {
        duckdb::Error::DuckDBFailure(_, Some(message)) => message,
        other => other.to_string(),
    };
    EngineError {
        class: Class::of_text(&message),
        message,
    }
}

fn of_connection(error: duckdb::Error) -> EngineError {
    EngineError {
        class: Class::Connection,
        ..of_statement(error)
    }
}

fn gone() -> EngineError {
    EngineError {
        class: Class::Connection,
        message: "the connection's thread has ended".to_owned(),
    }
}
