//! The keys that a query can be cut by: what every grouping set of it has, or what all its windows are partitioned by.

use std::collections::BTreeSet;

use serde_json::Value;

use super::WhyNot;
use super::functions::Functions;
use super::names::Names;
use super::shape::own;
use super::tree::{function, given, integer, is_query, is_star, list, named, same, text, walk};

/// The expressions by which all windows of a query are partitioned.
pub(super) fn partition_keys(node: &Value) -> Vec<Value> {
    let mut common: Option<Vec<Value>> = None;
    own(node, &mut |part| {
        if text(part, "class") == "WINDOW" {
            let mine: Vec<Value> = list(part, "partitions")
                .iter()
                .filter(|key| text(key, "class") != "CONSTANT")
                .cloned()
                .collect();
            common = Some(match common.take() {
                None => mine,
                Some(keys) => keys
                    .into_iter()
                    .filter(|key| mine.iter().any(|other| same(key, other)))
                    .collect(),
            });
        }
        true
    });
    common.unwrap_or_default()
}

/// Whether an expression names a column that is not an argument of an aggregate.
fn names_a_column(expression: &Value, functions: &Functions) -> bool {
    let mut found = false;
    walk(expression, &mut |part| {
        found |= text(part, "class") == "COLUMN_REF";
        !found && !is_query(part) && !function(part).is_some_and(|name| functions.is_aggregate(&name))
    });
    found
}

/// The keys that every grouping set of a query has.
pub(super) fn group_keys(
    node: &Value,
    functions: &Functions,
    columns: Option<&BTreeSet<String>>,
) -> Result<Vec<Value>, WhyNot> {
    let items = list(node, "select_list");
    let names = Names { items, columns };
    if text(node, "aggregate_handling") == "FORCE_AGGREGATES" {
        if given(node, "having").is_some_and(|having| names_a_column(having, functions)) {
            // Before 2.0 DuckDB groups by that column, too.
            return Err(WhyNot::of(
                "GROUP BY ALL with a HAVING that names a column outside of an aggregate",
            ));
        }
        if items.iter().any(is_star) {
            return Err(WhyNot::of("GROUP BY ALL with a star: the keys are not named"));
        }
        let keys = items
            .iter()
            .filter(|item| {
                let mut aggregates = false;
                walk(item, &mut |part| {
                    aggregates |= function(part).is_some_and(|name| functions.is_aggregate(&name));
                    !aggregates && !is_query(part)
                });
                !aggregates
            })
            .filter(|item| text(item, "class") != "CONSTANT")
            .map(|item| named(item, ""))
            .collect();
        return Ok(keys);
    }
    let expressions = list(node, "group_expressions");
    let sets: Vec<BTreeSet<usize>> = list(node, "group_sets")
        .iter()
        .map(|set| {
            set.as_array()
                .into_iter()
                .flatten()
                .filter_map(|index| usize::try_from(index.as_u64()?).ok())
                .collect()
        })
        .collect();
    let last_name = |expression: &Value| {
        list(expression, "column_names")
            .last()
            .and_then(Value::as_str)
            .map(str::to_ascii_lowercase)
    };
    let mut seen = BTreeSet::new();
    let repeated = expressions
        .iter()
        .any(|expression| last_name(&names.resolve(expression)).is_some_and(|name| !seen.insert(name)));
    if sets.len() > 1
        && (repeated
            || expressions
                .iter()
                .any(|expression| last_name(expression).is_none()))
    {
        return Err(WhyNot::of(
            "its grouping sets may have one column under two names",
        ));
    }
    expressions
        .iter()
        .enumerate()
        .filter(|(index, _)| sets.iter().all(|set| set.contains(index)))
        .map(|(_, expression)| match integer(expression) {
            Some(ordinal) => {
                let before = &items[..ordinal.saturating_sub(1).min(items.len())];
                match items.get(ordinal.wrapping_sub(1)) {
                    Some(item) if !before.iter().chain([item]).any(is_star) => Ok(named(item, "")),
                    _ => Err(WhyNot::of("GROUP BY a number that counts columns of a star")),
                }
            }
            None => Ok(named(&names.resolve(expression), "")),
        })
        // A constant has one hash, so it cuts nothing.
        .filter(|key| key.as_ref().map_or(true, |key| text(key, "class") != "CONSTANT"))
        .collect()
}
