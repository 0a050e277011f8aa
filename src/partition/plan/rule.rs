//! One cut: numbered slots, each with a name, a condition, and the expression that finds it. Pure.

use serde::{Deserialize, Serialize};

use super::MOST;
use super::literal::{self, literal, printed};
use crate::engine::text::quoted_name;
use crate::partition::calendar::Step;
use crate::partition::column::Family;

/// So many slots at most are found by comparisons that branch: of these, each branch has rows enough to be worth its call.
const BRANCHES: usize = 32;

/// A cut by one column. Its last slot is that of NULL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// The column.
    pub column: String,
    /// Its type, as DuckDB prints it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The rule.
    pub rule: Rule,
}

/// By what rule. Values are as DuckDB prints them; moments with a zone in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Rule {
    /// A slot for each step of the calendar. What is before the first or after the last step is with those.
    Time {
        /// The step.
        step: Step,
        /// The zone whose calendar it is; none for times without a zone.
        zone: Option<String>,
        /// The slots' names: where each begins, in that zone.
        names: Vec<String>,
        /// Where each but the first begins, ascending.
        bounds: Vec<String>,
    },
    /// A slot below the first bound, one from each bound to the next, and one from the last; ascending.
    Range {
        /// The bounds.
        bounds: Vec<String>,
    },
    /// A slot for each remainder of a hash that is the same in every version of DuckDB.
    Hash {
        /// How many.
        pieces: usize,
    },
    /// A slot for each value, or for several together, and one for all others.
    Value {
        /// The values, ascending.
        values: Vec<String>,
        /// The slot of each value, where some have one together; each slot comes first after the ones before it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        slots: Vec<usize>,
    },
}

impl Cut {
    /// How many slots there are.
    pub fn slots(&self) -> usize {
        1 + match &self.rule {
            Rule::Time { bounds, .. } | Rule::Range { bounds } => bounds.len() + 1,
            Rule::Hash { pieces } => *pieces,
            Rule::Value { .. } => self.other() + 1,
        }
    }

    /// The slot of all other values, in a cut by value.
    pub(in crate::partition) fn other(&self) -> usize {
        match &self.rule {
            Rule::Value { values, slots } if slots.is_empty() => values.len(),
            Rule::Value { slots, .. } => slots.iter().max().map_or(0, |last| last + 1),
            _ => 0,
        }
    }

    /// The values of a slot, in a cut by value.
    fn values(&self, slot: usize) -> Vec<&String> {
        match &self.rule {
            Rule::Value { values, slots } if slots.is_empty() => values.get(slot).into_iter().collect(),
            Rule::Value { values, slots } => {
                let both = values.iter().zip(slots);
                both.filter(|(_, of)| **of == slot)
                    .map(|(value, _)| value)
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether it is one that could have been planned, or why not.
    pub(super) fn check(&self) -> Result<(), String> {
        let kind = match &self.rule {
            Rule::Time { names, bounds, .. } if names.len() != bounds.len() + 1 => {
                return Err(format!(
                    "a cut by time has {} names for {} pieces",
                    names.len(),
                    bounds.len() + 1
                ));
            }
            Rule::Value { values, slots } if !slots.is_empty() && !are_in_order(values.len(), slots) => {
                return Err(format!(
                    "a cut by value has pieces for {} values in another order than it could make, and {} values",
                    slots.len(),
                    values.len()
                ));
            }
            Rule::Time { .. } => "time",
            Rule::Range { .. } => "range",
            Rule::Hash { .. } => "hash",
            Rule::Value { .. } => "value",
        };
        if (2..=MOST + 2).contains(&self.slots()) {
            Ok(())
        } else {
            Err(format!("a cut by {kind} makes 1 to {MOST} pieces"))
        }
    }

    /// The slot's name.
    pub fn name(&self, slot: usize) -> String {
        if slot + 1 == self.slots() {
            return "null".to_owned();
        }
        let padded = || format!("{slot:0width$}", width = (self.slots() - 2).to_string().len());
        match &self.rule {
            Rule::Time { names, .. } => names.get(slot).cloned().unwrap_or_default(),
            Rule::Range { .. } | Rule::Hash { .. } => padded(),
            Rule::Value { .. } => match self.values(slot).as_slice() {
                [] => "other".to_owned(),
                [value] => match value.as_str() {
                    // Two slots have these names, and a slash parts those of two cuts.
                    "null" | "other" => format!("={value}"),
                    _ if value.starts_with('=') || value.contains('/') => format!("={}", escaped(value)),
                    _ => (*value).clone(),
                },
                // No value has a name in which such a sign and a digit follow.
                [first, ..] => format!("={}={}", escaped(first), self.values(slot).len()),
            },
        }
    }

    /// What the rows of a slot fulfil, and no others.
    pub fn condition(&self, slot: usize) -> String {
        let column = quoted_name(&self.column);
        if slot + 1 == self.slots() {
            return format!("{column} IS NULL");
        }
        let literal = |text: &String| literal(text, &self.type_name);
        match &self.rule {
            Rule::Time { bounds, .. } | Rule::Range { bounds } => {
                let from = slot.checked_sub(1).and_then(|before| bounds.get(before));
                match (from, bounds.get(slot)) {
                    (None, None) => format!("{column} IS NOT NULL"),
                    (None, Some(to)) => format!("{column} < {}", literal(to)),
                    (Some(from), None) => format!("{column} >= {}", literal(from)),
                    (Some(from), Some(to)) => {
                        format!("{column} >= {} AND {column} < {}", literal(from), literal(to))
                    }
                }
            }
            Rule::Hash { .. } => format!("{} = {slot}", self.remainder()),
            Rule::Value { values, .. } => {
                let all = |values: &[&String]| {
                    let all: Vec<String> = values.iter().map(|value| literal(value)).collect();
                    all.join(", ")
                };
                match self.values(slot).as_slice() {
                    [value] => format!("{column} = {}", literal(value)),
                    [] if values.is_empty() => format!("{column} IS NOT NULL"),
                    [] => format!("{column} NOT IN ({})", all(&values.iter().collect::<Vec<_>>())),
                    several => format!("{column} IN ({})", all(several)),
                }
            }
        }
    }

    /// What the rows of these slots fulfil, where that is two comparisons by which a scan leaves out what it need not read.
    pub(super) fn stretch(&self, first: usize, last: usize) -> Option<String> {
        let (Rule::Time { bounds, .. } | Rule::Range { bounds }) = &self.rule else {
            return None;
        };
        let column = quoted_name(&self.column);
        let literal = |bound: Option<&String>| bound.map(|text| literal(text, &self.type_name));
        let from = literal(first.checked_sub(1).and_then(|before| bounds.get(before)));
        let to = literal(bounds.get(last));
        // The last slot has the rows that no comparison is true of.
        if last + 1 >= self.slots() {
            return None;
        }
        match (from, to) {
            (None, None) => None,
            (Some(from), None) => Some(format!("{column} >= {from}")),
            (None, Some(to)) => Some(format!("{column} < {to}")),
            (Some(from), Some(to)) => Some(format!("{column} >= {from} AND {column} < {to}")),
        }
    }

    /// The number of the slot that a row is in, from 0, as an expression.
    pub fn number(&self) -> String {
        let column = quoted_name(&self.column);
        let inside = match &self.rule {
            Rule::Time { bounds, .. } | Rule::Range { bounds } => {
                self.halves(bounds, 0, &mut |slot| slot.to_string())
            }
            Rule::Hash { .. } => self.remainder(),
            Rule::Value { values, slots } => {
                let other = self.other();
                let mut leaf = |place: usize| {
                    let value = literal(&values[place], &self.type_name);
                    let slot = slots.get(place).unwrap_or(&place);
                    format!("CASE WHEN {column} = {value} THEN {slot} ELSE {other} END")
                };
                match values.get(1..) {
                    Some(bounds) => self.halves(bounds, 0, &mut leaf),
                    None => other.to_string(),
                }
            }
        };
        format!(
            "CASE WHEN {column} IS NULL THEN {} ELSE {inside} END",
            self.slots() - 1
        )
    }

    /// `relation` with one column more, `name`: the number of the slot that each row is in. As [`Cut::number`]; many slots are
    /// found in a list of the bounds, which costs the same in whatever order the rows come.
    pub(super) fn numbered(&self, relation: &str, name: &str) -> String {
        let (bounds, values) = match &self.rule {
            Rule::Time { bounds, .. } | Rule::Range { bounds } => (bounds.as_slice(), None),
            Rule::Value { values, slots } => (values.get(1..).unwrap_or_default(), Some((values, slots))),
            Rule::Hash { .. } => (&[][..], None),
        };
        if bounds.len() < 2 * BRANCHES {
            return format!("(SELECT *, {} AS {name} FROM {relation})", self.number());
        }
        let column = quoted_name(&self.column);
        let list = |values: &[String]| literal::list(values, &self.type_name);
        // The slot is the number of bounds that are not above the value: what is known of it is a multiple of `step`.
        let mut step = (bounds.len() + 1).next_power_of_two() / BRANCHES;
        let first: Vec<String> = bounds.iter().skip(step - 1).step_by(step).cloned().collect();
        let start = self.halves(&first, 0, &mut |slot| (slot * step).to_string());
        // The lists come from a row of their own: as constants they would be made anew for every vector, at each step.
        let mut lists = vec![("duckward_bounds", list(bounds))];
        let mut last = name.to_owned();
        if let Some((values, slots)) = values {
            lists.push(("duckward_values", list(values)));
            let mut slot = name.to_owned();
            if !slots.is_empty() {
                let all: Vec<String> = slots.iter().map(usize::to_string).collect();
                lists.push(("duckward_slots", literal::list(&all, "INTEGER")));
                slot = format!("duckward_slots[{name} + 1]");
            }
            last = format!(
                "CASE WHEN {column} = duckward_values[{name} + 1] THEN {slot} ELSE {} END",
                self.other()
            );
        }
        let (names, lists): (Vec<&str>, Vec<String>) = lists
            .into_iter()
            .map(|(name, list)| (name, format!("{list} AS {name}")))
            .unzip();
        let lists = lists.join(", ");
        let mut found = format!("(SELECT *, {start} AS {name} FROM {relation}, (SELECT {lists}))");
        while step > 1 {
            step /= 2;
            // Beyond the list is NULL, and no step is made.
            found = format!(
                "(SELECT * REPLACE (CASE WHEN {column} >= duckward_bounds[{name} + {step}] THEN {name} + {step} ELSE {name} \
                 END AS {name}) FROM {found})"
            );
        }
        format!(
            "(SELECT * EXCLUDE ({}) REPLACE (CASE WHEN {column} IS NULL THEN {} ELSE {last} END AS {name}) FROM {found})",
            names.join(", "),
            self.slots() - 1
        )
    }

    /// Halves what lies between the bounds until one stretch is left; the first of them has the number `first`.
    fn halves(&self, bounds: &[String], first: usize, leaf: &mut dyn FnMut(usize) -> String) -> String {
        if bounds.is_empty() {
            return leaf(first);
        }
        let middle = bounds.len() / 2;
        let below = self.halves(&bounds[..middle], first, leaf);
        let above = self.halves(&bounds[middle + 1..], first + middle + 1, leaf);
        format!(
            "CASE WHEN {} < {} THEN {below} ELSE {above} END",
            quoted_name(&self.column),
            literal(&bounds[middle], &self.type_name)
        )
    }

    /// The remainder of a hash. Not DuckDB's own `hash()`, which may be another in its next version: Fibonacci hashing of
    /// whole numbers up to 64 bits, of all else MD5 of the text.
    fn remainder(&self) -> String {
        let Rule::Hash { pieces } = self.rule else {
            return "0".to_owned();
        };
        let column = quoted_name(&self.column);
        match Family::of(&self.type_name) {
            Family::Integer if !self.type_name.ends_with("HUGEINT") => format!(
                "(((({column}::HUGEINT + 9223372036854775808)::UHUGEINT * 11400714819323198485::UHUGEINT) >> 32) \
                 & 4294967295::UHUGEINT)::BIGINT % {pieces}"
            ),
            // -0.0 is 0.0.
            Family::Float => format!("(md5_number_lower(({column} + 0)::VARCHAR) % {pieces})::BIGINT"),
            _ => format!(
                "(md5_number_lower({}) % {pieces})::BIGINT",
                printed(&column, &self.type_name)
            ),
        }
    }
}

/// Whether values have slots as a plan gives them: each slot the next one or one of before.
fn are_in_order(values: usize, slots: &[usize]) -> bool {
    let mut next = 0;
    values == slots.len()
        && slots.iter().all(|slot| {
            let is_known = *slot <= next;
            next = next.max(slot + 1);
            is_known
        })
}

/// A value as part of a slot's name that begins with an equals sign.
fn escaped(value: &str) -> String {
    value.replace('=', "==").replace('/', "=-")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(rule: Rule) -> Cut {
        Cut {
            column: "c".to_owned(),
            type_name: "INTEGER".to_owned(),
            rule,
        }
    }

    #[test]
    fn slots_of_a_range_meet_without_a_gap() {
        let cut = cut(Rule::Range {
            bounds: vec!["3".to_owned(), "7".to_owned()],
        });
        let conditions: Vec<String> = (0..cut.slots()).map(|slot| cut.condition(slot)).collect();
        assert_eq!(
            conditions,
            [
                "\"c\" < '3'::INTEGER",
                "\"c\" >= '3'::INTEGER AND \"c\" < '7'::INTEGER",
                "\"c\" >= '7'::INTEGER",
                "\"c\" IS NULL"
            ]
        );
        assert_eq!(
            cut.number(),
            "CASE WHEN \"c\" IS NULL THEN 3 ELSE CASE WHEN \"c\" < '7'::INTEGER THEN \
             CASE WHEN \"c\" < '3'::INTEGER THEN 0 ELSE 1 END ELSE 2 END END"
        );
    }

    #[test]
    fn several_values_may_have_a_slot_together() {
        let of = |slots: &[usize]| {
            cut(Rule::Value {
                values: ["1", "2", "3"].map(str::to_owned).into(),
                slots: slots.into(),
            })
        };
        let cut = of(&[0, 1, 0]);
        let conditions: Vec<String> = (0..cut.slots()).map(|slot| cut.condition(slot)).collect();
        assert_eq!(
            conditions,
            [
                "\"c\" IN ('1'::INTEGER, '3'::INTEGER)",
                "\"c\" = '2'::INTEGER",
                "\"c\" NOT IN ('1'::INTEGER, '2'::INTEGER, '3'::INTEGER)",
                "\"c\" IS NULL"
            ]
        );
        assert_eq!([0, 1, 2].map(|slot| cut.name(slot)), ["=1=2", "2", "other"]);
        for (slots, is_one) in [
            (&[][..], true),
            (&[0, 1, 1], true),
            (&[0, 0], false),
            (&[1, 0, 0], false),
            (&[0, 2, 1], false),
        ] {
            assert_eq!(of(slots).check().is_ok(), is_one, "{slots:?}");
        }
    }

    #[test]
    fn names_of_values_are_never_those_of_other_slots() {
        let values = ["null", "other", "=null", "a/b", "a=-b", "=a=-b", "x"].map(str::to_owned);
        let cut = cut(Rule::Value {
            values: values.into(),
            slots: Vec::new(),
        });
        let names: std::collections::BTreeSet<String> = (0..cut.slots()).map(|slot| cut.name(slot)).collect();
        assert_eq!(names.len(), cut.slots(), "{names:?}");
        assert!(names.iter().all(|name| !name.contains('/')));
        assert_eq!(cut.name(6), "x");
    }

    proptest! {
        #[test]
        fn names_of_values_differ_where_the_values_do(one in "[=/a-]{0,6}", other in "[=/a-]{0,6}") {
            prop_assume!(one != other);
            let names: std::collections::BTreeSet<String> = [vec![], vec![0, 0], vec![0, 1]]
                .into_iter()
                .map(|slots| cut(Rule::Value { values: vec![one.clone(), other.clone()], slots }).name(0))
                .collect();
            prop_assert_eq!(names.len(), 2);
            let cut = cut(Rule::Value { values: vec![one, other], slots: Vec::new() });
            prop_assert!(!names.contains(&cut.name(1)));
        }

        #[test]
        fn every_slot_is_a_leaf_once_and_halving_is_not_deep(count in 0usize..300) {
            let bounds: Vec<String> = (0..count).map(|bound| bound.to_string()).collect();
            let cut = cut(Rule::Range { bounds });
            let number = cut.number();
            for slot in 0..=count {
                prop_assert_eq!(number.matches(&format!(" {slot} ")).count(), 1);
            }
            let depth = number.bytes().fold((0i32, 0i32), |(deep, most), byte| match byte {
                b'C' => (deep + 1, most.max(deep + 1)),
                b'D' => (deep - 1, most),
                _ => (deep, most),
            });
            prop_assert!(f64::from(depth.1) <= 4.0 + (count as f64 + 1.0).log2());
        }
    }
}
