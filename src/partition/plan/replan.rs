//! The plan of pieces that are nearer to a size than those of another plan.

use std::collections::BTreeMap;

use super::balanced::bounds;
use super::planner::{Planner, Size, too_many};
use super::{Cut, Heavy, MOST, Plan, Rule, Wish};
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::error::{Error, ErrorKind, Result};
use crate::partition::balance::{self, Change};
use crate::partition::column::{self, Column};
use crate::units::Bytes;
use crate::validate::PIECE;

/// A plan made of another, and what its pieces are made of.
#[derive(Debug)]
pub struct Next {
    /// The plan.
    pub plan: Plan,
    /// Of each piece those of before that it has all rows of, and no others; none where it has a part of one.
    origins: Vec<Vec<usize>>,
}

impl Next {
    /// The pieces that are as one of before was, but perhaps for the name: its number now and then. `filled` says which of
    /// those had rows.
    pub fn same(&self, filled: &dyn Fn(usize) -> bool) -> Vec<(usize, usize)> {
        let whole = self.origins.iter().enumerate();
        whole
            .filter_map(|(number, origins)| {
                let mut with_rows = origins.iter().filter(|before| filled(**before));
                match (with_rows.next(), with_rows.next()) {
                    (Some(before), None) => Some((number, *before)),
                    _ => None,
                }
            })
            .collect()
    }

    /// The piece that has all rows of one of before.
    pub fn place(&self, before: usize) -> Option<usize> {
        self.origins.iter().position(|origins| origins.contains(&before))
    }
}

/// The plan of pieces that are nearer to `target` rows each, of what `source` has now in the pieces of `plan`; none where
/// they need no change. Pieces by range or time that are too large are split where their rows are, small neighbours put
/// together; by hash there are more pieces, or fewer; small values are put together. Of several columns one is cut anew,
/// the first that can be split. `located` has the rows of the source, each with the number of the piece that it lies in.
///
/// # Errors
/// [`ErrorKind::Invalid`] where pieces by row number are too large, or are cut by another column, too; those of whoever answers.
pub fn replan<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    plan: &Plan,
    source: &Source,
    located: &str,
    target: u64,
) -> Result<Option<Next>, E> {
    if target == 0 {
        return Err(Error::invalid("target_rows", target, "give a number from 1").into());
    }
    let by_number = plan.is_by_row_number();
    if by_number && plan.cuts.len() > 1 {
        let why =
            "they are cut by row number and by another column, and rows have numbers in their table only";
        return Err(refused(why).into());
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
    let chosen = chosen(&plan.cuts);
    let cut = &plan.cuts[chosen];
    // Values that are in one slot are counted one by one.
    let mut now = plan.clone();
    if let Rule::Value { slots, .. } = &mut now.cuts[chosen].rule {
        slots.clear();
    }
    now.pieces = now.written();
    if by_number {
        let keys = format!("SELECT {PIECE} FROM {located}");
        planner.count_in(&mut now, &format!("({keys})"), size)?;
    } else {
        planner.count(&mut now, size)?;
    }
    let (rows, filled) = now.rows_by(chosen);
    let target = target.saturating_mul(filled);
    let (changed, origins, heavy) = planner.balanced(cut, by_number, rows, target)?;
    // One value that is too frequent stays a piece.
    if changed == *cut {
        return Ok(None);
    }
    let mut next = plan.clone();
    next.wish = None;
    next.cuts[chosen] = changed;
    if let Rule::Value { .. } = cut.rule {
        next.heavy = heavy;
    }
    let pieces: usize = next.cuts.iter().map(Cut::slots).fold(1, usize::saturating_mul);
    if next.cuts[chosen].slots() - 1 > MOST || pieces > 2 * MOST {
        return Err(too_many(pieces - 1, "give more `target_rows`").into());
    }
    next.pieces = next.written();
    let next = Next {
        origins: spread(plan, chosen, &origins),
        plan: next,
    };
    Ok(Some(planner.counted(next, &now, by_number, size)?))
}

/// The cut of several whose slots are made anew, because they can be split: the first by time or range, else the first by hash,
/// else the last by value. The pieces of all its slots are changed alike.
fn chosen(cuts: &[Cut]) -> usize {
    let first = |is: &dyn Fn(&Rule) -> bool| cuts.iter().position(|cut| is(&cut.rule));
    first(&|rule| matches!(rule, Rule::Time { .. } | Rule::Range { .. }))
        .or_else(|| first(&|rule| matches!(rule, Rule::Hash { .. })))
        .unwrap_or(cuts.len().saturating_sub(1))
}

/// Of the pieces of a plan after the slots of one cut were made of `origins` what they are made of.
fn spread(plan: &Plan, chosen: usize, origins: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let slots = |cuts: &[Cut]| cuts.iter().map(Cut::slots).product::<usize>();
    let (above, below) = (slots(&plan.cuts[..chosen]), slots(&plan.cuts[chosen + 1..]));
    let before = plan.cuts[chosen].slots();
    let mut all = Vec::new();
    for above in 0..above {
        for origins in origins {
            for below_it in 0..below {
                let piece = |slot: &usize| (above * before + slot) * below + below_it;
                all.push(origins.iter().map(piece).collect());
            }
        }
    }
    all
}

impl Plan {
    /// The rows of each slot of a cut, and how many pieces a slot is cut into by the others, those without any rows left out.
    fn rows_by(&self, chosen: usize) -> (Vec<u64>, u64) {
        let counts: Vec<usize> = self.cuts.iter().map(Cut::slots).collect();
        let mut rows: Vec<Vec<u64>> = counts.iter().map(|slots| vec![0; *slots]).collect();
        for (number, piece) in self.pieces.iter().enumerate() {
            let mut rest = number;
            for (cut, slots) in counts.iter().enumerate().rev() {
                rows[cut][rest % slots] += piece.rows;
                rest /= slots;
            }
        }
        let others = rows.iter().enumerate().filter(|(cut, _)| *cut != chosen);
        let filled: u64 = others
            .map(|(_, rows)| rows.iter().filter(|rows| **rows > 0).count() as u64)
            .product();
        (rows.swap_remove(chosen), filled.max(1))
    }
}

fn refused(why: &str) -> Error {
    let message = format!("its pieces cannot be balanced: {why}; make a new plan, and partition by it");
    Error::new(ErrorKind::Invalid, message)
}

/// Refuses to split what was cut by row number.
fn check_joins(changes: &[Change], rows: &[u64]) -> Result<()> {
    let split = changes.iter().find_map(|change| match change {
        Change::Split { slot, .. } => Some(*slot),
        Change::Join(_) => None,
    });
    let Some(slot) = split else { return Ok(()) };
    let most = rows.iter().max().unwrap_or(&0).div_ceil(2);
    let why = format!(
        "they are cut by row number, which rows have in their table only, so pieces can be put together and not split, and one \
         has {} rows; give {most} or more `target_rows`, or",
        rows[slot]
    );
    Err(refused(&why))
}

/// Values put together anew: the rule, and what its slots are made of.
fn regrouped(
    cut: &Cut,
    values: &[String],
    slots: &[usize],
    rows: &[u64],
    target: u64,
) -> (Rule, Vec<Vec<usize>>) {
    let of = |place: usize| slots.get(place).copied().unwrap_or(place);
    let mut before: Vec<Vec<(usize, u64)>> = vec![Vec::new(); cut.other()];
    for (place, rows) in rows.iter().enumerate() {
        before[of(place)].push((place, *rows));
    }
    let groups = balance::regrouped(&before, target);
    let mut found = vec![0; values.len()];
    let mut origins = Vec::new();
    for (slot, places) in groups.iter().enumerate() {
        let mut from: Vec<usize> = places.iter().map(|place| of(*place)).collect();
        from.sort_unstable();
        from.dedup();
        // What was taken apart is in several.
        let is_whole = from.iter().map(|slot| before[*slot].len()).sum::<usize>() == places.len();
        origins.push(if is_whole { from } else { Vec::new() });
        for place in places {
            found[*place] = slot;
        }
    }
    origins.push(vec![cut.other()]);
    if groups.len() == values.len() {
        found.clear();
    }
    let rule = Rule::Value {
        values: values.to_vec(),
        slots: found,
    };
    (rule, origins)
}

impl<E: From<Error>> Planner<'_, E> {
    /// The cut that makes slots of about `target` rows, where it makes slots with so many `rows` now, of values one by one; what
    /// each slot is made of; and the values that are too frequent.
    #[expect(clippy::type_complexity, reason = "three things that are found together")]
    fn balanced(
        &mut self,
        cut: &Cut,
        by_number: bool,
        mut rows: Vec<u64>,
        target: u64,
    ) -> Result<(Cut, Vec<Vec<usize>>, Vec<Heavy>), E> {
        // The last slot is that of NULL.
        rows.pop();
        let null = cut.slots() - 1;
        let (rule, mut origins, heavy) = match &cut.rule {
            Rule::Hash { pieces } => {
                let pieces = balance::hashed(&rows, *pieces, target);
                (Rule::Hash { pieces }, vec![Vec::new(); pieces], Vec::new())
            }
            Rule::Value { values, slots } => {
                let all: u64 = rows.iter().sum();
                // All other values stay by themselves.
                rows.pop();
                let (rule, origins) = regrouped(cut, values, slots, &rows, target);
                let frequent = values.iter().zip(&rows).filter(|(_, rows)| **rows / 2 > target);
                let heavy = frequent.map(|(value, rows)| Heavy {
                    column: cut.column.clone(),
                    value: value.clone(),
                    share: *rows as f64 / all as f64,
                });
                (rule, origins, heavy.collect())
            }
            Rule::Time { .. } | Rule::Range { .. } => {
                let changes = balance::changes(&rows, target);
                if by_number {
                    check_joins(&changes, &rows)?;
                }
                let within = self.within(cut, &changes)?;
                let changed = balance::changed(cut, &changes, &within);
                let rule = changed.map_or_else(|| cut.rule.clone(), |changed| changed.rule);
                (rule, balance::origins(&changes, &within), Vec::new())
            }
        };
        origins.push(vec![null]);
        Ok((Cut { rule, ..cut.clone() }, origins, heavy))
    }

    /// The plan with the rows of its pieces; those of pieces by row number are known from before, `now`.
    fn counted(&mut self, mut next: Next, now: &Plan, by_number: bool, size: Size) -> Result<Next, E> {
        if !by_number {
            self.count(&mut next.plan, size)?;
            return Ok(next);
        }
        for (piece, origins) in next.plan.pieces.iter_mut().zip(&next.origins) {
            let before = || origins.iter().map(|before| &now.pieces[*before]);
            piece.rows = before().map(|piece| piece.rows).sum();
            piece.bytes = before().fold(Bytes(0), |sum, piece| sum.plus(piece.bytes));
        }
        next.plan.rows = now.rows;
        Ok(next)
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
