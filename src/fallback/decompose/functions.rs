//! What is known of DuckDB's functions: which of them keep what they take in memory, and how much of it.

use std::collections::{BTreeMap, BTreeSet};

use super::tree::{arguments, function, list, text, walk};
use serde_json::Value;

/// How the state of an aggregate grows. None of these can spill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Every value it takes is kept.
    Values,
    /// Every value it takes is kept, in one text that grows by doubling.
    Text,
    /// Every distinct value is kept, in a hash table of its own per group.
    Distinct,
    /// Every distinct value is kept with its count, in a tree.
    Counts,
    /// The best few rows, and what was among them before.
    Best,
    /// A state of fixed size, but large.
    Sketch,
}

impl State {
    /// All of them.
    pub const ALL: [State; 6] = [
        State::Values,
        State::Text,
        State::Distinct,
        State::Counts,
        State::Best,
        State::Sketch,
    ];
}

/// The aggregates whose state is kept in memory however large it grows.
const KEPT: [(&str, State); 26] = [
    ("quantile", State::Values),
    ("quantile_cont", State::Values),
    ("quantile_disc", State::Values),
    ("median", State::Values),
    ("mad", State::Values),
    ("list", State::Values),
    ("array_agg", State::Values),
    ("string_agg", State::Text),
    ("group_concat", State::Text),
    ("listagg", State::Text),
    ("mode", State::Distinct),
    ("entropy", State::Distinct),
    ("histogram", State::Counts),
    ("histogram_exact", State::Counts),
    ("arg_max", State::Best),
    ("arg_min", State::Best),
    ("max_by", State::Best),
    ("min_by", State::Best),
    ("argmax", State::Best),
    ("argmin", State::Best),
    ("max", State::Best),
    ("min", State::Best),
    ("approx_quantile", State::Sketch),
    ("approx_count_distinct", State::Sketch),
    ("approx_top_k", State::Sketch),
    ("reservoir_quantile", State::Sketch),
];

/// What DuckDB's catalog says of the functions that a statement calls.
#[derive(Clone, Debug, Default)]
pub struct Functions {
    kinds: BTreeMap<String, BTreeSet<String>>,
    volatile: BTreeSet<String>,
    times: BTreeSet<String>,
}

impl Functions {
    /// Takes note of rows of name, kind and stability.
    pub fn learn(&mut self, rows: &[Vec<Option<String>>]) {
        for row in rows {
            let [Some(name), Some(kind), stability, ..] = row.as_slice() else {
                continue;
            };
            let name = name.to_ascii_lowercase();
            match stability.as_deref() {
                Some("VOLATILE") => drop(self.volatile.insert(name.clone())),
                Some("CONSISTENT_WITHIN_QUERY") => drop(self.times.insert(name.clone())),
                _ => {}
            }
            self.kinds.entry(name).or_default().insert(kind.clone());
        }
    }

    /// Whether anything is known of `name`.
    pub fn knows(&self, name: &str) -> bool {
        self.kinds.contains_key(name)
    }

    /// What is known of `names`.
    #[must_use]
    pub fn only(&self, names: &BTreeSet<String>) -> Self {
        let of = |set: &BTreeSet<String>| set.intersection(names).cloned().collect();
        Functions {
            kinds: self
                .kinds
                .iter()
                .filter(|(name, _)| names.contains(*name))
                .map(|(name, kinds)| (name.clone(), kinds.clone()))
                .collect(),
            volatile: of(&self.volatile),
            times: of(&self.times),
        }
    }

    fn is(&self, name: &str, kind: &str) -> bool {
        self.kinds.get(name).is_some_and(|kinds| kinds.contains(kind))
    }

    /// Whether one of them gives the time of the transaction, or the like.
    pub fn has_times(&self) -> bool {
        !self.times.is_empty()
    }

    /// Whether `name` is an aggregate.
    pub fn is_aggregate(&self, name: &str) -> bool {
        self.is(name, "aggregate") || name == "count_star"
    }

    /// Whether `name` is the user's macro, in which anything may be.
    pub fn is_macro(&self, name: &str) -> bool {
        self.is(name, "macro") || self.is(name, "table_macro")
    }

    /// Whether `name` gives another value each time, or does something besides.
    pub fn is_volatile(&self, name: &str) -> bool {
        self.volatile.contains(name)
    }
}

/// The state of the aggregate that `call` calls, if it is one that cannot spill.
pub(super) fn state(call: &Value) -> Option<State> {
    let name = function(call)?;
    let ordered = call
        .get("order_bys")
        .is_some_and(|orders| !list(orders, "orders").is_empty());
    if call.get("distinct").and_then(Value::as_bool) == Some(true) {
        return Some(State::Distinct);
    }
    let known = KEPT
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, state)| *state);
    match known {
        // With one argument, or two, they keep one value.
        Some(State::Best) if name == "max" || name == "min" => {
            (arguments(call).len() > 1).then_some(State::Best)
        }
        Some(State::Best) => (arguments(call).len() > 2 || ordered).then_some(State::Best),
        None if ordered => Some(State::Values),
        known => known,
    }
}

/// Whether `call` makes several rows of one, or several columns.
pub(super) fn is_unnest(call: &Value) -> bool {
    function(call).is_some_and(|name| name == "unnest" || name == "unlist")
}

/// Whether the text names a function that keeps what it takes, so that it is worth a look at the plan. Cheap, and may say
/// yes for nothing.
pub fn may_keep<'a>(mut words: impl Iterator<Item = &'a str>) -> bool {
    words.any(|word| {
        KEPT.iter()
            .any(|(name, state)| *state != State::Best && name.eq_ignore_ascii_case(word))
            || [
                "arg_max", "arg_min", "max_by", "min_by", "argmax", "argmin", "within",
            ]
            .iter()
            .any(|name| name.eq_ignore_ascii_case(word))
    })
}

/// The names of all functions called anywhere in `statement`.
pub fn names(statement: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    walk(statement, &mut |node| {
        let name = text(node, "function_name");
        if !name.is_empty() {
            names.insert(name.to_ascii_lowercase());
        }
        true
    });
    names
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(name: &str, arguments: usize, distinct: bool) -> Value {
        json!({"class": "FUNCTION", "function_name": name, "distinct": distinct,
               "order_bys": {"orders": []}, "children": vec![json!({"class": "CONSTANT"}); arguments]})
    }

    #[test]
    fn the_same_name_keeps_much_or_little_by_what_it_is_given() {
        assert_eq!(state(&call("MEDIAN", 1, false)), Some(State::Values));
        assert_eq!(state(&call("max", 1, false)), None);
        assert_eq!(state(&call("max", 2, false)), Some(State::Best));
        assert_eq!(state(&call("arg_max", 2, false)), None);
        assert_eq!(state(&call("arg_max", 3, false)), Some(State::Best));
        assert_eq!(state(&call("count", 1, true)), Some(State::Distinct));
        assert_eq!(state(&call("sum", 1, false)), None);
    }

    #[test]
    fn only_a_text_that_names_such_a_function_is_worth_a_look() {
        assert!(may_keep("select Median x from t".split(' ')));
        assert!(!may_keep("select max x sum y from t".split(' ')));
    }
}
