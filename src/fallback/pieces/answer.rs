//! The statement as it is run in the end: all that has to be computed beforehand is, in one transaction where one is
//! needed, and the pieces are begun anew where they do not fit. Or its first piece, where they are handed out one by one.

use std::sync::Arc;

use serde_json::Value;

use super::files::Files;
use super::parse::{Parsed, is_gap, refuse_objects};
use super::proof::Verify;
use super::rest::{Portion, Rest};
use super::work::Work;
use super::{Asks, Fault, Options, Run, numbered, one, why_not};
use crate::fallback::classify::Failure;
use crate::fallback::decompose::{Way, targets, whole};

/// How often all pieces are begun anew, each time twice as many.
const RESTARTS: u32 = 4;

/// A statement whose queries have been computed in pieces.
#[derive(Debug)]
pub struct Prepared {
    /// What is run in its place.
    pub sql: String,
    /// What ends it well, statement by statement.
    pub finish: Vec<String>,
    /// What ends it in any other case.
    pub abandon: Vec<String>,
    /// What was proved of all queries that were cut; none where the rows of one could not be counted.
    pub verified: Option<Verify>,
    /// The files that it reads, as they were before the first piece.
    pub files: Files,
    /// Whether `abandon` takes all of it back when it has run: not a file that a COPY wrote, nor what the user's own
    /// transaction holds.
    pub undoable: bool,
    /// What comes after the first piece, where they are handed out one by one: then `sql` reads that, and `verified` does not
    /// count.
    pub rest: Option<Box<Rest>>,
}

/// Computes what has to be computed beforehand. On an error nothing is left behind.
///
/// # Errors
/// Why it cannot be cut, the engine's, or duckward's own.
pub fn prepare(asks: &mut dyn Asks, parsed: &Arc<Parsed>, options: &Options) -> Result<Prepared, Fault> {
    refuse_objects(asks, parsed)?;
    // Only within a transaction is now() the same in all pieces.
    let fixed = !options.in_transaction && !parsed.functions.has_times() && is_fixed(asks)?;
    let files = Files::look(asks, &parsed.tree)?;
    let (mut times, mut restart) = (1, 0);
    loop {
        let mut run = Run {
            times,
            fixed,
            ..Run::new(asks, parsed, options)
        };
        match run.all(&files) {
            Ok(prepared) => return Ok(prepared),
            Err(Fault::Engine(error)) => {
                let failure = run.asks.failure(&error);
                run.give_up();
                let again = matches!(failure, Failure::Memory | Failure::InterruptedByGuard);
                if !again || options.in_transaction {
                    return Err(Fault::Engine(error));
                }
                let last = restart >= RESTARTS;
                if let Some(too_large) = run.too_large(&error, last) {
                    return Err(too_large);
                }
                if last {
                    return Err(Fault::Engine(error));
                }
                times *= 2;
                restart += 1;
                asks.anew();
            }
            Err(other) => {
                run.give_up();
                return Err(other);
            }
        }
    }
}

/// Whether nobody can change what is read while the pieces run.
fn is_fixed(asks: &mut dyn Asks) -> Result<bool, Fault> {
    let rows = asks.rows(
        "SELECT coalesce(bool_and(readonly), true)::VARCHAR FROM duckdb_databases() WHERE NOT internal",
    )?;
    Ok(one(&rows) == Some("true"))
}

impl Run<'_> {
    #[expect(clippy::cast_precision_loss, reason = "shares need no more than 53 bits")]
    fn all(&mut self, files: &Files) -> Result<Prepared, Fault> {
        let mut tree = self.parsed.tree.clone();
        let found = targets(&tree, &self.parsed.functions, self.options.want)?;
        if !self.fixed && !self.options.in_transaction {
            self.asks.rows("BEGIN TRANSACTION")?;
            self.began = true;
        }
        let share = 1.0 / found.len().max(1) as f64;
        for (index, target) in found.iter().enumerate() {
            let replacement = match target.way {
                Way::Once => self.once(&tree, &target.pointer)?,
                Way::Pieces => {
                    let mut work = self.work(&tree, &target.pointer, index as f64 * share, share)?;
                    if self.stands_alone(&tree, &target.pointer, &work, files) {
                        self.end_transaction()?;
                        self.fixed = true;
                        if self.options.by_piece && work.cut.modifiers.is_empty() {
                            return self.by_piece(work, files);
                        }
                    }
                    self.whole(&mut work)?
                }
            };
            if let Some(place) = tree.pointer_mut(&target.pointer) {
                *place = replacement;
            }
        }
        let query = self.text(&tree)?;
        let mut finish: Vec<String> = self.drops();
        if self.began {
            finish = if self.parsed.selects {
                vec!["ROLLBACK".to_owned()]
            } else {
                finish.push("COMMIT".to_owned());
                finish
            };
        }
        let prepared = Prepared {
            sql: format!("{}{query}{}", self.parsed.before, self.parsed.after),
            abandon: self.undo(),
            finish,
            verified: self.proofs.iter().copied().min().flatten(),
            files: files.clone(),
            undoable: self.parsed.selects || (self.began && !self.parsed.copies()),
            rest: None,
        };
        Ok(prepared)
    }

    /// Commits what was written down; there is nothing else. From here on a piece that fails is split by itself.
    fn end_transaction(&mut self) -> Result<(), Fault> {
        if std::mem::take(&mut self.began)
            && let Err(error) = self.asks.rows("COMMIT")
        {
            self.asks.clean("ROLLBACK");
            return Err(error.into());
        }
        Ok(())
    }

    /// Whether the query at `pointer` is the whole of a SELECT, and its pieces read nothing that could change between them.
    fn stands_alone(&self, tree: &Value, pointer: &str, work: &Work, files: &Files) -> bool {
        self.parsed.selects
            && !self.options.in_transaction
            && !self.parsed.functions.has_times()
            && pointer == "/statements/0/node"
            && is_gap(&self.parsed.after)
            && (self.fixed || work.feed.is_some() || files.are_all_of(tree))
    }

    /// The first piece of `work`, and the rest.
    fn by_piece(&mut self, work: Work, files: &Files) -> Result<Prepared, Fault> {
        let mut rest = Rest::new(self, work, files.clone())?;
        let first = rest.next(self.asks);
        // Until it is handed over, what there is of it is taken back here.
        let (sql, drop) = match first {
            Ok(Some(Portion { sql, drop })) => (sql, drop),
            Ok(None) => return why_not("there is nothing in it"),
            Err(error) => {
                self.made.extend(rest.tables());
                return Err(error);
            }
        };
        let mut abandon = vec![drop.clone()];
        abandon.extend(rest.drops());
        Ok(Prepared {
            sql,
            finish: vec![drop],
            abandon,
            verified: None,
            files: files.clone(),
            undoable: true,
            rest: Some(Box::new(rest)),
        })
    }

    /// Computes the query at `pointer` at once.
    fn once(&mut self, tree: &Value, pointer: &str) -> Result<Value, Fault> {
        let Some(statement) = whole(tree, pointer) else {
            return why_not("the query is not where it was");
        };
        let text = self.text(&statement)?;
        let names = self.describe(&text)?;
        let types = self.storable(&text)?;
        let columns = numbered("duckward_c", names.len()).join(", ");
        let table = self.table();
        let _ = self.asks.rows(&format!(
            "CREATE TEMP TABLE {table} AS SELECT {columns} FROM ({text}) AS duckward_q({columns})"
        ))?;
        self.made.push(table.clone());
        self.reading(&table, &names, &types, "")
    }
}
