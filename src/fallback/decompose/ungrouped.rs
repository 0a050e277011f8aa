//! Aggregates without groups. What one of them says of a column depends on nothing but the values there and how often each
//! of them is, and these pairs come of a plain GROUP BY, which has keys to cut by. Pure.

use serde_json::{Value, json};

use super::PAIRS;
use super::functions::{self, Functions};
use super::scope::skeleton;
use super::shape::{is_aggregate, own};
use super::tree::{
    arguments, change, cte_query, function, given, is_query, list, named, number, same, statement, text,
};

/// What is asked of the pairs of a value and its count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The aggregate of the distinct values.
    Distinct,
    /// The value at a share of all, one that is there.
    Discrete,
    /// The value at a share of all, between two that are there.
    Continuous,
    /// The median of the distances from the median.
    Deviation,
    /// The value that is there most often; of several, the smallest.
    Mode,
}

/// One aggregate that is computed from the pairs.
#[derive(Clone, Debug)]
pub struct Ungrouped {
    /// Its call.
    pub call: Value,
    /// What is asked.
    pub question: Question,
    /// The statement that gives the values it takes.
    pub values: Value,
    /// The shares asked for, as constants; null for one half.
    pub shares: Vec<Value>,
    /// Whether the shares came as a list.
    pub is_list: bool,
}

/// The aggregates of the query at `pointer` that are computed from pairs; none when one of those that cannot spill is not.
pub fn ungrouped(root: &Value, pointer: &str, functions: &Functions) -> Vec<Ungrouped> {
    let Some(node) = root.pointer(pointer) else {
        return Vec::new();
    };
    let plain = text(node, "type") == "SELECT_NODE"
        && is_aggregate(node, functions)
        && list(node, "group_expressions").is_empty()
        && list(node, "group_sets").is_empty()
        && text(node, "aggregate_handling") != "FORCE_AGGREGATES"
        && given(node, "having").is_none()
        && given(node, "qualify").is_none();
    if !plain {
        return Vec::new();
    }
    let mut calls: Vec<&Value> = Vec::new();
    let mut simple = true;
    own(node, &mut |part| {
        simple &= text(part, "class") != "WINDOW";
        if function(part).is_some_and(|name| functions.is_aggregate(&name)) {
            if functions::state(part).is_some() && !calls.iter().any(|known| same(known, part)) {
                calls.push(part);
            }
            return false;
        }
        true
    });
    if !simple {
        return Vec::new();
    }
    let found: Option<Vec<Ungrouped>> = calls
        .into_iter()
        .map(|call| question(root, pointer, node, call))
        .collect();
    found.unwrap_or_default()
}

fn question(root: &Value, pointer: &str, node: &Value, call: &Value) -> Option<Ungrouped> {
    let given_orders = call
        .get("order_bys")
        .is_some_and(|orders| !list(orders, "orders").is_empty());
    if given_orders {
        return None;
    }
    let name = function(call)?;
    let values = arguments(call);
    let distinct = call.get("distinct").and_then(Value::as_bool) == Some(true);
    let (question, shares) = match (name.as_str(), values.as_slice()) {
        // Of these the order of the values, or their number, is part of the answer.
        (
            "list" | "array_agg" | "string_agg" | "group_concat" | "listagg" | "first" | "last" | "any_value",
            _,
        ) => return None,
        (_, [_]) if distinct => (Question::Distinct, Vec::new()),
        ("median", [_]) => (Question::Continuous, vec![json!(null)]),
        ("mad", [_]) => (Question::Deviation, Vec::new()),
        ("mode", [_]) => (Question::Mode, Vec::new()),
        ("quantile_cont", [_, share]) => (Question::Continuous, vec![(*share).clone()]),
        ("quantile_disc" | "quantile", [_, share]) => (Question::Discrete, vec![(*share).clone()]),
        _ => return None,
    };
    if distinct && question != Question::Distinct {
        return None;
    }
    let mut is_list = false;
    let mut written = Vec::new();
    for share in shares {
        if share.is_null() {
            written.push(share);
            continue;
        }
        let items = match function(&share).as_deref() {
            Some("list_value" | "array_value") => {
                is_list = true;
                arguments(&share).into_iter().cloned().collect()
            }
            _ => vec![share],
        };
        for item in items {
            // A share that is computed, or counts from the end, is DuckDB's own business.
            if number(&item).is_none_or(|share| share.is_sign_negative()) {
                return None;
            }
            written.push(item);
        }
    }
    let mut bare = skeleton(root, pointer, node);
    bare["select_list"] = json!([named(values.first()?, "")]);
    bare["where_clause"] = match (given(node, "where_clause"), given(call, "filter")) {
        (Some(one), Some(other)) => {
            json!({"class": "CONJUNCTION", "type": "CONJUNCTION_AND", "alias": "", "children": [one, other]})
        }
        (one, other) => one.or(other).cloned().unwrap_or(Value::Null),
    };
    Some(Ungrouped {
        call: call.clone(),
        question,
        values: statement(&bare),
        shares: written,
        is_list,
    })
}

/// The call that asks the same of the distinct values, in the place of a function in `expression`.
pub fn ask_distinct(ungrouped: &Ungrouped, expression: &mut Value) {
    let mut call = ungrouped.call.clone();
    call["distinct"] = Value::from(false);
    call["filter"] = Value::Null;
    change(expression, &mut |part| {
        if function(part).is_none() {
            return true;
        }
        for member in ["arguments", "children"] {
            if let Some(given) = part.get(member) {
                call[member] = given.clone();
            }
        }
        *part = named(&call, "");
        false
    });
}

/// Whether `entry`, of a map of common table expressions, is one of ours.
pub(super) fn is_pairs(entry: &Value) -> bool {
    text(entry, "key").starts_with(PAIRS)
}

/// Puts `expressions` in the place of the calls of `found`, and the pairs among the common table expressions.
/// `names` are those of the query's columns, which change with what they are computed from.
pub fn put(
    root: &mut Value,
    pointer: &str,
    found: &[Ungrouped],
    expressions: &[Value],
    entries: Vec<Value>,
    names: &[String],
    functions: &Functions,
) {
    let Some(node) = root.pointer_mut(pointer) else {
        return;
    };
    if let Some(items) = node.get_mut("select_list").and_then(Value::as_array_mut) {
        for (item, name) in items.iter_mut().zip(names) {
            *item = named(item, name);
        }
    }
    for member in ["select_list", "modifiers"] {
        if let Some(part) = node.get_mut(member) {
            change(part, &mut |inner| {
                if is_query(inner) {
                    return false;
                }
                let at = found.iter().position(|ungrouped| same(&ungrouped.call, inner));
                if let Some(at) = at {
                    *inner = named(&expressions[at], text(inner, "alias"));
                    return false;
                }
                true
            });
        }
    }
    let mut rest = false;
    own(node, &mut |part| {
        rest |= function(part).is_some_and(|name| functions.is_aggregate(&name));
        !rest
    });
    if !rest {
        // Nothing is aggregated here any more: one row, of nothing.
        node["from_table"] = json!({"type": "EMPTY", "alias": "", "sample": null});
        node["where_clause"] = Value::Null;
    }
    let mut map = list(&node["cte_map"], "map").to_vec();
    for mut entry in entries {
        let inside =
            cte_query(&entry).map(|(inside, _)| format!("{inside}/from_table/subquery/node/cte_map"));
        // What the values are read from stands before it, or around.
        if let Some(scope) = inside.and_then(|inside| entry.pointer_mut(&inside)) {
            *scope = json!({"map": []});
        }
        map.push(entry);
    }
    node["cte_map"] = json!({"map": map});
}
