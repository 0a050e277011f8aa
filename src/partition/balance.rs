//! Which pieces are split and which neighbours are put together, so that all are near a target. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use super::plan::{Cut, Rule};

/// What becomes of some neighbouring slots of a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// One piece. Of one slot: it stays.
    Join(Range<usize>),
    /// A slot that becomes several pieces.
    Split {
        /// The slot.
        slot: usize,
        /// Into how many.
        parts: usize,
    },
}

/// What becomes of slots with so many rows, in order. More than twice the target is split; neighbours of which one has less
/// than half of it are put together, as long as that makes no more than one and a half.
pub fn changes(rows: &[u64], target: u64) -> Vec<Change> {
    let target = target.max(1) as f64;
    let (few, most, many) = (0.5 * target, 1.5 * target, 2.0 * target);
    let mut changes: Vec<Change> = Vec::new();
    // Rows of the last piece, where more may be put to it.
    let mut open: Option<f64> = None;
    for (slot, count) in rows.iter().enumerate() {
        let count = *count as f64;
        if count > many {
            let parts = (count / target).round() as usize;
            changes.push(Change::Split { slot, parts });
            open = None;
            continue;
        }
        match (open, changes.last_mut()) {
            (Some(before), Some(Change::Join(slots)))
                if before.min(count) < few && before + count <= most =>
            {
                slots.end = slot + 1;
                open = Some(before + count);
            }
            _ => {
                changes.push(Change::Join(slot..slot + 1));
                open = Some(count);
            }
        }
    }
    changes
}

/// Into how many pieces a hash should cut, whose `pieces` have so many rows: as it is, unless one has more than twice the
/// target, or all have less than half of it on the average.
pub fn hashed(rows: &[u64], pieces: usize, target: u64) -> usize {
    let target = target.max(1);
    let wanted = rows.iter().sum::<u64>().div_ceil(target).max(1);
    let is_near =
        rows.iter().all(|rows| *rows <= target.saturating_mul(2)) && wanted.saturating_mul(2) > pieces as u64;
    if is_near {
        pieces
    } else {
        usize::try_from(wanted).unwrap_or(usize::MAX)
    }
}

/// Values put together anew; of each slot there are the places of its values and their rows. A slot of several values that has
/// more than twice the target is taken apart; what has less than half of it is put together, to no more than the target. The
/// places of each slot, in the order of their first.
pub fn regrouped(slots: &[Vec<(usize, u64)>], target: u64) -> Vec<Vec<usize>> {
    let target = target.max(1);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    // The last of the small ones, where more may be put to it, and its rows.
    let mut open: Option<(Vec<usize>, u64)> = None;
    for slot in slots {
        let rows: u64 = slot.iter().map(|(_, rows)| rows).sum();
        let parts: Vec<&[(usize, u64)]> = if rows > target.saturating_mul(2) {
            slot.chunks(1).collect()
        } else {
            vec![slot]
        };
        for part in parts {
            let places: Vec<usize> = part.iter().map(|(place, _)| *place).collect();
            let rows: u64 = part.iter().map(|(_, rows)| rows).sum();
            if rows >= target.div_ceil(2) {
                groups.push(places);
                continue;
            }
            match &mut open {
                Some((before, sum)) if *sum + rows <= target => {
                    before.extend(places);
                    *sum += rows;
                }
                _ => groups.extend(open.replace((places, rows)).map(|(places, _)| places)),
            }
        }
    }
    groups.extend(open.map(|(places, _)| places));
    for group in &mut groups {
        group.sort_unstable();
    }
    groups.sort_unstable();
    groups
}

/// Of each slot after these changes the slots that it is made of, whole; none of a part.
pub fn origins(changes: &[Change], within: &BTreeMap<usize, Vec<String>>) -> Vec<Vec<usize>> {
    let mut all = Vec::new();
    for change in changes {
        match change {
            Change::Join(slots) => all.push(slots.clone().collect()),
            Change::Split { slot, .. } => match within.get(slot).map_or(0, Vec::len) {
                0 => all.push(vec![*slot]),
                bounds => all.extend((0..=bounds).map(|_| Vec::new())),
            },
        }
    }
    all
}

/// A cut by time or range after these changes of its slots but the one of NULL; `bounds` says at which values a slot is split.
/// None of a cut that has no neighbours.
pub fn changed(cut: &Cut, changes: &[Change], bounds: &BTreeMap<usize, Vec<String>>) -> Option<Cut> {
    let (old, names) = match &cut.rule {
        Rule::Range { bounds } => (bounds, None),
        Rule::Time { bounds, names, .. } => (bounds, Some(names)),
        Rule::Hash { .. } | Rule::Value { .. } => return None,
    };
    let mut all = Vec::new();
    let mut called = Vec::new();
    let name = |slot: usize| {
        names
            .and_then(|names| names.get(slot))
            .cloned()
            .unwrap_or_default()
    };
    for change in changes {
        let first = match change {
            Change::Join(slots) => slots.start,
            Change::Split { slot, .. } => *slot,
        };
        if first > 0 {
            all.push(old.get(first - 1)?.clone());
        }
        match change {
            Change::Join(slots) if slots.len() > 1 => {
                called.push(format!("{}..{}", name(slots.start), name(slots.end - 1)));
            }
            Change::Join(slots) => called.push(name(slots.start)),
            Change::Split { slot, .. } => {
                let within = bounds.get(slot).map(Vec::as_slice).unwrap_or_default();
                if within.is_empty() {
                    called.push(name(*slot));
                } else {
                    called.extend((0..=within.len()).map(|part| format!("{}.{}", name(*slot), part + 1)));
                }
                all.extend(within.iter().cloned());
            }
        }
    }
    let rule = match &cut.rule {
        Rule::Time { step, zone, .. } => Rule::Time {
            step: *step,
            zone: zone.clone(),
            names: called,
            bounds: all,
        },
        _ => Rule::Range { bounds: all },
    };
    Some(Cut { rule, ..cut.clone() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::partition::calendar::Step;

    #[test]
    fn the_large_are_split_and_the_small_put_together() {
        assert_eq!(
            changes(&[100, 10, 20, 90, 450, 0, 30, 201], 100),
            [
                Change::Join(0..3),
                Change::Join(3..4),
                Change::Split { slot: 4, parts: 5 },
                Change::Join(5..7),
                Change::Split { slot: 7, parts: 2 },
            ]
        );
        let same = [Change::Join(0..1), Change::Join(1..2), Change::Join(2..3)];
        assert_eq!(changes(&[50, 200, 100], 100), same);
        assert_eq!(changes(&[], 100), []);
    }

    #[test]
    fn a_hash_has_as_many_pieces_as_the_target_makes() {
        assert_eq!(hashed(&[100, 200, 60], 3, 100), 3);
        assert_eq!(hashed(&[100, 201, 60], 3, 100), 4);
        assert_eq!(hashed(&[10, 20, 6, 9], 4, 100), 1);
        assert_eq!(hashed(&[], 4, 0), 1);
    }

    #[test]
    fn bounds_and_names_follow() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let time = |names: &[&str], bounds: &[&str]| Cut {
            column: "d".to_owned(),
            type_name: "DATE".to_owned(),
            rule: Rule::Time {
                step: Step::Month,
                zone: None,
                names: texts(names),
                bounds: texts(bounds),
            },
        };
        let cut = time(&["jan", "feb", "mar", "apr"], &["02-01", "03-01", "04-01"]);
        let decided = [
            Change::Split { slot: 0, parts: 3 },
            Change::Join(1..3),
            Change::Split { slot: 3, parts: 2 },
        ];
        let found = BTreeMap::from([(0, texts(&["01-10", "01-20"])), (3, Vec::new())]);
        let expected = time(
            &["jan.1", "jan.2", "jan.3", "feb..mar", "apr"],
            &["01-10", "01-20", "02-01", "04-01"],
        );
        assert_eq!(changed(&cut, &decided, &found), Some(expected));
        let hash = Cut {
            rule: Rule::Hash { pieces: 3 },
            ..cut
        };
        assert_eq!(changed(&hash, &decided, &found), None);
    }

    proptest! {
        #[test]
        fn values_are_put_together_once_and_only_the_small(
            slots in prop::collection::vec(prop::collection::vec(prop_oneof![0u64..50, 0u64..1000], 1..5), 0..40), target in 1u64..400
        ) {
            let mut rows = Vec::new();
            let slots: Vec<Vec<(usize, u64)>> = slots
                .iter()
                .map(|slot| {
                    slot.iter()
                        .map(|count| {
                            rows.push(*count);
                            (rows.len() - 1, *count)
                        })
                        .collect()
                })
                .collect();
            let groups = regrouped(&slots, target);
            let mut places: Vec<usize> = groups.concat();
            places.sort_unstable();
            prop_assert_eq!(places, (0..rows.len()).collect::<Vec<_>>());
            prop_assert!(groups.windows(2).all(|pair| pair[0][0] < pair[1][0]));
            let sizes: Vec<u64> = groups.iter().map(|group| group.iter().map(|place| rows[*place]).sum()).collect();
            for (group, size) in groups.iter().zip(&sizes) {
                prop_assert!(group.len() == 1 || *size <= 2 * target);
            }
            prop_assert!(sizes.iter().filter(|size| **size * 2 < target).count() <= 1);
            // What was done needs no more doing.
            let again: Vec<Vec<(usize, u64)>> = groups
                .iter()
                .map(|group| group.iter().map(|place| (*place, rows[*place])).collect())
                .collect();
            prop_assert_eq!(regrouped(&again, target), groups);
        }

        #[test]
        fn every_slot_is_in_one_piece_and_sizes_come_near(
            rows in prop::collection::vec(prop_oneof![0u64..50, 0u64..1000], 0..80), target in 1u64..400
        ) {
            let decided = changes(&rows, target);
            let mut next = 0;
            let mut sizes = Vec::new();
            for change in &decided {
                match change {
                    Change::Join(slots) => {
                        prop_assert_eq!(slots.start, next);
                        prop_assert!(slots.end > slots.start);
                        next = slots.end;
                        let size: u64 = rows[slots.clone()].iter().sum();
                        let most = if slots.len() > 1 { 1.5 } else { 2.0 };
                        prop_assert!(size as f64 <= most * target as f64);
                        sizes.push(size);
                    }
                    Change::Split { slot, parts } => {
                        prop_assert_eq!(*slot, next);
                        next = slot + 1;
                        prop_assert!(rows[*slot] > 2 * target && *parts >= 2);
                        let part = rows[*slot] as f64 / *parts as f64;
                        prop_assert!(part > 0.66 * target as f64 && part < 1.34 * target as f64);
                        sizes.extend(std::iter::repeat_n(part as u64, *parts));
                    }
                }
            }
            prop_assert_eq!(next, rows.len());
            let whole = origins(&decided, &BTreeMap::new()).concat();
            prop_assert_eq!(whole, (0..rows.len()).collect::<Vec<_>>());
            // No two neighbours are left that could be put together, and what was done needs no more doing.
            for pair in decided.windows(2) {
                if let [Change::Join(one), Change::Join(other)] = pair {
                    let (before, next) = (rows[one.clone()].iter().sum::<u64>(), rows[other.start]);
                    let is_enough = before.min(next) as f64 >= 0.5 * target as f64;
                    prop_assert!(is_enough || (before + next) as f64 > 1.5 * target as f64);
                }
            }
            // A cut has a bound less than pieces, and ascending bounds stay so.
            let bounds: Vec<String> = (1..rows.len()).map(|slot| format!("{slot:04}")).collect();
            let cut = Cut { column: "c".to_owned(), type_name: "VARCHAR".to_owned(), rule: Rule::Range { bounds } };
            let within: BTreeMap<usize, Vec<String>> = decided
                .iter()
                .filter_map(|change| match change {
                    Change::Split { slot, parts } => Some((*slot, (1..*parts).map(|part| format!("{slot:04}.{part:04}")).collect())),
                    Change::Join(_) => None,
                })
                .collect();
            if let Some(Cut { rule: Rule::Range { bounds }, .. }) = changed(&cut, &decided, &within) {
                prop_assert_eq!(bounds.len() + 1, sizes.len().max(1));
                let whole = origins(&decided, &within);
                prop_assert_eq!(whole.len(), sizes.len());
                prop_assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]));
            }
        }
    }
}
