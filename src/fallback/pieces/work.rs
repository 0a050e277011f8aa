//! One query in pieces: what there is to do for it, and each piece put into a table, counted and proved. A piece that does
//! not fit is split where that is possible without beginning anew.

use std::time::Duration;

use serde_json::Value;

use super::described::Described;
use super::proof::{Digest, Inputs, PIECE, Verify};
use super::ranges::{Range, ranges, smaller};
use super::splitting::Failed;
use super::written::Written;
use super::{Fault, Piece, REFUSED_BY_THE_SYSTEM, Run};
use crate::fallback::classify::Failure;
use crate::fallback::decompose::{Cut, cut};

/// How long a refusal by the system is waited for to pass.
const BURST_PASSES: Duration = Duration::from_millis(300);

/// A query that is being computed in pieces.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) cut: Cut,
    described: Described,
    digest: Option<Digest>,
    /// The statement that gives the keys.
    source: Option<String>,
    chosen: Vec<usize>,
    inputs: Option<Inputs>,
    pub(super) feed: Option<Written>,
    /// What is left, the next last: a piece that is split goes on in its place.
    pub(super) ranges: Vec<Range>,
    /// What is in the table that is filled, in order.
    pub(super) finished: Vec<Range>,
    /// How often the next one was split, and whether it was tried once before.
    splits: u32,
    tried: bool,
    /// How many are done, with how many rows of how many.
    pieces: usize,
    so_far: u64,
    total: u64,
    /// What was done of the statement before, and what it is of it.
    done: f64,
    share: f64,
}

impl Run<'_> {
    /// All pieces of `work`, in one table; the query that reads it.
    pub(super) fn whole(&mut self, work: &mut Work) -> Result<Value, Fault> {
        let table = self.table();
        while !work.ranges.is_empty() {
            self.fill(work, &table)?;
        }
        let proved = self.proved(work, &table)?;
        self.proofs.push(proved);
        let mut reading = self.reading_of(work, &table)?;
        reading["modifiers"] = Value::Array(work.cut.modifiers.clone());
        Ok(reading)
    }

    /// What there is to do for the query at `pointer`.
    pub(super) fn work(&mut self, tree: &Value, pointer: &str, done: f64, share: f64) -> Result<Work, Fault> {
        let columns = self.columns_below(tree, pointer)?;
        let cut = cut(tree, pointer, &self.parsed.functions, columns.as_ref())?;
        let mut cut = self.with_counts(tree, pointer, columns.as_ref(), cut)?;
        let digest = self.digested(tree, pointer, columns.as_ref(), &mut cut)?;
        let mut described = self.described(&cut)?;
        let source = match &cut.source {
            Some(source) => Some(self.text(source)?),
            None => None,
        };
        let chosen = self.choose(&cut, &mut described)?;
        let began = self.asks.elapsed();
        let inputs = match &source {
            Some(source) => Some(self.inputs(source, digest.as_ref(), &cut, &chosen)?),
            None => None,
        };
        let pass = self.asks.elapsed().saturating_sub(began);
        let counts = inputs.as_ref().map(|inputs| inputs.rows.as_slice());
        let wanted = match self.options.pieces {
            Some(pieces) => pieces * self.times,
            None => self.estimate(&cut, &described, counts)? * self.times,
        };
        let mut ranges = ranges(counts, wanted);
        let rows: u64 = counts.unwrap_or_default().iter().sum();
        let feed = self.feed(&cut, &chosen, columns.as_ref(), ranges.len(), rows, pass)?;
        let total = ranges.iter().map(|range| range.rows).sum::<u64>().max(1);
        ranges.reverse();
        Ok(Work {
            cut,
            described,
            digest,
            source,
            chosen,
            inputs,
            feed,
            ranges,
            finished: Vec::new(),
            splits: 0,
            tried: false,
            pieces: 0,
            so_far: 0,
            total,
            done,
            share,
        })
    }

    /// The next piece, put into `table`; one that does not fit is cut in two instead.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
    pub(super) fn fill(&mut self, work: &mut Work, table: &str) -> Result<(), Fault> {
        let Some(range) = work.ranges.pop() else {
            return Ok(());
        };
        let counts = work.inputs.as_ref().map(|inputs| inputs.rows.as_slice());
        let list = work.described.columns.join(", ");
        let items = match &work.digest {
            Some(_) => format!("{list}, {}::UINTEGER AS {PIECE}", work.pieces),
            None => list.clone(),
        };
        let select = match &work.feed {
            Some(feed) => feed.select(&items, &list, range),
            None => work.described.select(&items, &list, range),
        };
        let began = self.asks.elapsed();
        let is_new = !self.made.iter().any(|made| made == table);
        let sql = if is_new {
            format!("CREATE TEMP TABLE {table} AS {select}")
        } else {
            format!("INSERT INTO temp.main.{table} {select}")
        };
        match self.asks.rows(&sql) {
            Ok(_) => {}
            Err(error) if self.fixed => {
                let failure = self.asks.failure(&error);
                if !matches!(failure, Failure::Memory | Failure::InterruptedByGuard) {
                    return Err(error.into());
                }
                if error.message.contains(REFUSED_BY_THE_SYSTEM) && !std::mem::replace(&mut work.tried, true)
                {
                    // Fast growth at its start was taken for a burst: that passes.
                    self.asks.pause(BURST_PASSES);
                    work.ranges.push(range);
                    return Ok(());
                }
                work.tried = false;
                let halves = self.split(
                    range,
                    work.source.as_deref(),
                    &work.cut,
                    &work.chosen,
                    counts,
                    &error,
                )?;
                work.splits += 1;
                // The others are of its size, and each that fails takes long to.
                work.ranges = std::mem::take(&mut work.ranges)
                    .into_iter()
                    .flat_map(|range| smaller(range, counts).into_iter().rev())
                    .collect();
                work.ranges.extend(halves.into_iter().rev());
                return Ok(());
            }
            Err(error) => {
                if let Some(source) = &work.source {
                    self.failed = Some(Failed {
                        range,
                        source: source.clone(),
                        cut: work.cut.clone(),
                        chosen: work.chosen.clone(),
                    });
                }
                return Err(error.into());
            }
        }
        if is_new {
            self.made.push(table.to_owned());
        }
        work.tried = false;
        work.so_far += range.rows;
        work.pieces += 1;
        work.finished.push(range);
        let piece = Piece {
            rows: counts.map(|_| range.rows),
            seconds: self.asks.elapsed().saturating_sub(began).as_secs_f64(),
            splits: std::mem::take(&mut work.splits),
            spooled: work.feed.is_some(),
        };
        self.asks.progress(
            &piece,
            work.done + work.share * work.so_far as f64 / work.total as f64,
        );
        Ok(())
    }

    /// What went into the pieces that are in `table` is what there was; none where that is not counted.
    pub(super) fn proved(&mut self, work: &Work, table: &str) -> Result<Option<Verify>, Fault> {
        let (Some(inputs), Some(first), Some(last)) =
            (&work.inputs, work.finished.first(), work.finished.last())
        else {
            return Ok(None);
        };
        if work.cut.counted == 0 {
            return Ok(None);
        }
        let inputs = inputs.within(first.low, last.high);
        self.prove(
            table,
            &work.cut,
            &work.described,
            &inputs,
            work.digest.as_ref(),
            &work.finished,
        )
        .map(Some)
    }

    /// A query that gives the rows of the pieces that are in `table`, in no order.
    pub(super) fn reading_of(&mut self, work: &Work, table: &str) -> Result<Value, Fault> {
        let condition = work.cut.having.map_or_else(String::new, |index| {
            format!(" WHERE duckward_q.duckward_h{index}")
        });
        self.reading(table, &work.described.names, &work.described.types, &condition)
    }
}
