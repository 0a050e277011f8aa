//! Puts other queries in the place of those that could not be cut as they stand: one for each grouping set, and pairs of a
//! value and its count for aggregates without groups. DuckDB is asked whether what comes out is the same.

use std::collections::BTreeSet;

use serde_json::Value;

use super::asking::{columns_of, describe, node_of, statement_of, text_of};
use super::{Asks, Fault};
use crate::engine::Class;
use crate::fallback::decompose::functions::Functions;
use crate::fallback::decompose::grouping::{Forms, SHARED, apart, is_apart, sets};
use crate::fallback::decompose::ungrouped::{Question, Ungrouped, ask_distinct, put, ungrouped};
use crate::fallback::decompose::{PAIRS, asks_for_columns, queries, whole};

/// Puts a query for each grouping set in the place of one whose sets have no key in common.
pub(super) fn take_sets_apart(
    asks: &mut dyn Asks,
    tree: &mut Value,
    functions: &Functions,
) -> Result<(), Fault> {
    let mut number = 0;
    for pointer in queries(tree) {
        if !tree
            .pointer(&pointer)
            .is_some_and(|node| is_apart(node, functions))
        {
            continue;
        }
        match set_by_set(asks, tree, &pointer, functions, &mut number) {
            Ok(Some(changed)) => *tree = changed,
            Ok(None) | Err(Fault::WhyNot(_)) => {}
            // It names a table beside it, or a type that cannot be written.
            Err(Fault::Engine(error)) if error.class == Class::Statement => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// The tree with a query for each set in the place of the one at `pointer`, if DuckDB gives it the same columns.
fn set_by_set(
    asks: &mut dyn Asks,
    tree: &Value,
    pointer: &str,
    functions: &Functions,
    number: &mut usize,
) -> Result<Option<Value>, Fault> {
    let columns: Option<BTreeSet<String>> = match asks_for_columns(tree, pointer) {
        None => None,
        Some(statement) => {
            let text = text_of(asks, &statement)?;
            let names = describe(asks, &text)?;
            Some(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
        }
    };
    let (Some(found), Some(statement)) = (
        sets(tree, pointer, functions, columns.as_ref()),
        whole(tree, pointer),
    ) else {
        return Ok(None);
    };
    let keys = columns_of(asks, &found.source)?;
    let given = columns_of(asks, &statement)?;
    let nulls = keys.iter().map(|(_, kind)| format!("CAST(NULL AS {kind})"));
    let ordinals = (1..=given.len()).map(|ordinal| ordinal.to_string());
    let numbers = found.numbers();
    let bits = numbers.iter().map(|bits| format!("CAST({bits} AS BIGINT)"));
    let written: Vec<String> = nulls.chain(ordinals).chain(bits).collect();
    let mut items = node_of(asks, &format!("SELECT {}", written.join(", ")))?["select_list"]
        .as_array()
        .cloned()
        .unwrap_or_default()
        .into_iter();
    let forms = Forms {
        nulls: items.by_ref().take(keys.len()).collect(),
        ordinals: items.by_ref().take(given.len()).collect(),
        numbers: numbers.into_iter().zip(items).collect(),
        union: node_of(asks, "SELECT 1 UNION ALL SELECT 2")?,
        distinct: node_of(asks, &format!("SELECT DISTINCT * FROM (SELECT 1) AS {SHARED}all"))?,
        shared: node_of(
            asks,
            &format!("WITH {SHARED}0 AS NOT MATERIALIZED (SELECT 1) SELECT * FROM {SHARED}0"),
        )?,
    };
    let names: Vec<String> = given.iter().map(|(name, _)| name.clone()).collect();
    let changed = apart(tree, pointer, &found, &forms, &names, functions, number);
    let Some(statement) = changed.as_ref().and_then(|changed| whole(changed, pointer)) else {
        return Ok(None);
    };
    Ok(if columns_of(asks, &statement)? == given {
        changed
    } else {
        None
    })
}

/// Puts pairs of a value and its count in the place of what aggregates without groups would keep.
pub(super) fn ungroup(asks: &mut dyn Asks, tree: &mut Value, functions: &Functions) -> Result<(), Fault> {
    let mut number = 0;
    for pointer in queries(tree) {
        let found = ungrouped(tree, &pointer, functions);
        let (false, Some(statement)) = (found.is_empty(), whole(tree, &pointer)) else {
            continue;
        };
        let text = text_of(asks, &statement)?;
        let names = describe(asks, &text)?;
        let (mut entries, mut expressions, mut known) = (Vec::new(), Vec::new(), Vec::new());
        for ungrouped in &found {
            let values = text_of(asks, &ungrouped.values)?;
            let at = known.iter().position(|other| *other == values);
            let table = format!("{PAIRS}{}", number + at.unwrap_or(known.len()));
            let kinds = asks.rows(&format!("DESCRIBE {values}"))?;
            let kind = kinds
                .first()
                .and_then(|row| row.get(1)?.clone())
                .unwrap_or_default();
            let Some(sql) = asked(asks, ungrouped, &table, &kind)? else {
                break;
            };
            if at.is_none() {
                let pairs = format!(
                    "WITH {table} AS MATERIALIZED (SELECT v, count(*) AS n FROM ({values}) AS duckward_q(v) \
                     WHERE v IS NOT NULL GROUP BY v) SELECT 1"
                );
                entries.extend(node_of(asks, &pairs)?.pointer("/cte_map/map/0").cloned());
                known.push(values);
            }
            let mut expression = node_of(asks, &format!("SELECT {sql}"))?["select_list"][0].take();
            if ungrouped.question == Question::Distinct {
                ask_distinct(ungrouped, &mut expression);
            }
            expressions.push(expression);
        }
        if expressions.len() == found.len() && list_length(tree, &pointer) == names.len() {
            number += known.len();
            put(tree, &pointer, &found, &expressions, entries, &names, functions);
        }
    }
    Ok(())
}

pub(super) fn list_length(tree: &Value, pointer: &str) -> usize {
    tree.pointer(pointer)
        .and_then(|node| node["select_list"].as_array())
        .map_or(0, Vec::len)
}

/// Pairs in `table`, with how many values there are up to each.
fn running(table: &str) -> String {
    format!(
        "(SELECT v, sum(n) OVER (ORDER BY v ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS upto FROM {table})"
    )
}

/// The value at `share` of the pairs in `table`, between two that are there, by DuckDB's own arithmetic.
fn between(table: &str, share: &str) -> String {
    let running = running(table);
    format!(
        "(SELECT CASE WHEN low = high THEN one ELSE one * (1 - (place - low)) + other * (place - low) END FROM \
         (SELECT any_value(place) AS place, any_value(low) AS low, any_value(high) AS high, \
         min(v) FILTER (WHERE upto > low)::DOUBLE AS one, min(v) FILTER (WHERE upto > high)::DOUBLE AS other \
         FROM {running}, (SELECT place, floor(place) AS low, ceil(place) AS high FROM \
         (SELECT (sum(n)::BIGINT - 1) * ({share})::DOUBLE AS place FROM {table}))))"
    )
}

/// What gives the answer from the pairs in `table`, whose values are of type `kind`; none where that is not known to be the
/// same to the last bit.
fn asked(
    asks: &mut dyn Asks,
    ungrouped: &Ungrouped,
    table: &str,
    kind: &str,
) -> Result<Option<String>, Fault> {
    let whole_number = matches!(
        kind,
        "TINYINT" | "SMALLINT" | "INTEGER" | "BIGINT" | "UTINYINT" | "USMALLINT" | "UINTEGER"
    );
    match ungrouped.question {
        // The function is put in afterwards.
        Question::Distinct => return Ok(Some(format!("(SELECT count(v) FROM {table})"))),
        // Of several values DuckDB's threads take any.
        Question::Mode => {
            return Ok(Some(format!(
                "(SELECT min(v) FROM {table} WHERE n = (SELECT max(n) FROM {table}))"
            )));
        }
        Question::Continuous | Question::Deviation if !whole_number && kind != "DOUBLE" => return Ok(None),
        Question::Deviation => {
            let middle = between(table, "0.5");
            let distances = format!("(SELECT abs(v::DOUBLE - {middle}) AS v, n FROM {table})");
            return Ok(Some(between(&distances, "0.5")));
        }
        Question::Continuous | Question::Discrete => {}
    }
    let running = running(table);
    let mut parts = Vec::new();
    for share in &ungrouped.shares {
        let share = if share.is_null() {
            "0.5".to_owned()
        } else {
            let text = text_of(asks, &statement_of(share))?;
            text.trim_start_matches("SELECT ").to_owned()
        };
        parts.push(match ungrouped.question {
            Question::Discrete => format!(
                "(SELECT min(v) FROM {running}, (SELECT greatest(1, sum(n)::DECIMAL(24, 0) - floor(sum(n)::DECIMAL(24, 0) \
                 - sum(n)::DECIMAL(24, 0) * {share})) - 1 AS place FROM {table}) WHERE upto > place)"
            ),
            _ => between(table, &share),
        });
    }
    Ok(Some(if ungrouped.is_list {
        format!(
            "CASE WHEN (SELECT count(*) FROM {table}) > 0 THEN [{}] END",
            parts.join(", ")
        )
    } else {
        parts.join("")
    }))
}
