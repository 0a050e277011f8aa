//! The plan of pieces that are nearer to a size than those of another plan.

use std::collections::BTreeMap;

use super::balanced::bounds;
use super::planner::{Planner, too_many};
use super::{Cut, MOST, MOST_COMPARED, Plan, Rule, Wish};
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::error::{Error, ErrorKind, Result};
use crate::partition::balance::{self, Change};
use crate::partition::column::{self, Column};
use crate::units::Bytes;

/// The plan of pieces that are nearer to `target` rows each, of what `source` has now in the pieces of `plan`; none where
/// they need no change. Pieces by range or time that are too large are split where their rows are, small neighbours put
/// together; by hash there are more pieces, or fewer.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a plan whose pieces have no neighbours: by value, by row number, or by several columns; those of
/// whoever answers.
pub fn replan<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    plan: &Plan,
    source: &Source,
    target: u64,
) -> Result<Option<Plan>, E> {
    if target == 0 {
        return Err(Error::invalid("target_rows", target, "give a number from 1").into());
    }
    let [cut] = plan.cuts.as_slice() else {
        return Err(refused("they are cut by several columns").into());
    };
    if cut.column == "rowid" && !plan.columns.iter().any(|(name, _)| name == "rowid") {
        return Err(refused("they are cut by row number, which rows have in their table only").into());
    }
    let wish = Wish::default();
    let mut planner = Planner {
        ask,
        source,
        wish: &wish,
        room: Bytes(0),
    };
    let columns = column::columns(planner.ask, &source.relation)?;
    let size = planner.rows(&columns)?;
    let mut next = plan.clone();
    next.wish = None;
    next.pieces = next.written();
    planner.count(&mut next, size)?;
    // The last slot is that of NULL.
    let mut rows: Vec<u64> = next.pieces.iter().map(|piece| piece.rows).collect();
    rows.pop();
    let changed = planner.balanced(cut, &rows, target)?;
    // One value that is too frequent stays a piece.
    if changed == *cut {
        return Ok(None);
    }
    let most = match changed.rule {
        Rule::Hash { .. } => MOST,
        _ => MOST_COMPARED,
    };
    let pieces = changed.slots() - 1;
    if pieces > most {
        return Err(too_many(pieces, most, "give more `target_rows`").into());
    }
    next.cuts = vec![changed];
    next.pieces = next.written();
    planner.count(&mut next, size)?;
    Ok(Some(next))
}

fn refused(why: &str) -> Error {
    let message = format!("its pieces cannot be balanced: {why}; make a new plan, and partition by it");
    Error::new(ErrorKind::Invalid, message)
}

impl<E: From<Error>> Planner<'_, E> {
    /// The cut that makes pieces of about `target` rows, where it makes pieces with so many `rows` now.
    fn balanced(&mut self, cut: &Cut, rows: &[u64], target: u64) -> Result<Cut, E> {
        if let Rule::Hash { pieces } = cut.rule {
            let rule = Rule::Hash {
                pieces: balance::hashed(rows, pieces, target),
            };
            return Ok(Cut { rule, ..cut.clone() });
        }
        let changes = balance::changes(rows, target);
        let within = self.within(cut, &changes)?;
        balance::changed(cut, &changes, &within)
            .ok_or_else(|| refused("they are cut by value, and no value is split").into())
    }

    /// Where the slots that are to be split are split, by a sample of the rows of each.
    fn within(&mut self, cut: &Cut, changes: &[Change]) -> Result<BTreeMap<usize, Vec<String>>, E> {
        let column = Column::new(cut.column.clone(), cut.type_name.clone());
        let mut within = BTreeMap::new();
        for change in changes {
            let Change::Split { slot, parts } = change else {
                continue;
            };
            let rows = Source {
                name: self.source.name.clone(),
                relation: format!(
                    "(SELECT * FROM {} WHERE {})",
                    self.source.relation,
                    cut.condition(*slot)
                ),
            };
            let mut of_slot = Planner {
                ask: &mut *self.ask,
                source: &rows,
                wish: self.wish,
                room: self.room,
            };
            let (values, counts) = of_slot.sampled(&column, *parts)?;
            let bounds = bounds(&counts, *parts);
            within.insert(
                *slot,
                bounds.into_iter().map(|index| values[index].clone()).collect(),
            );
        }
        Ok(within)
    }
}
