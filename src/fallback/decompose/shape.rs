//! What kind of query one is: whether it groups, has windows or is a DISTINCT, and which of its aggregates cannot spill.

use serde_json::Value;

use super::functions::{self, Functions, State};
use super::tree::{function, given, is_query, list, same, text, walk};

pub(super) fn own<'a>(node: &'a Value, visit: &mut dyn FnMut(&'a Value) -> bool) {
    for member in ["select_list", "having", "qualify", "modifiers"] {
        if let Some(part) = node.get(member) {
            walk(part, &mut |inner| !is_query(inner) && visit(inner));
        }
    }
}

pub(super) fn has_modifier(query: &Value, kind: &str) -> bool {
    list(query, "modifiers")
        .iter()
        .any(|modifier| text(modifier, "type").starts_with(kind))
}

/// Whether a query gives the same rows each time that what it reads is the same.
pub(super) fn is_plain(node: &Value, functions: &Functions) -> bool {
    let fixed = !list(node, "modifiers").iter().any(|modifier| {
        text(modifier, "type").starts_with("LIMIT") || !list(modifier, "distinct_on_targets").is_empty()
    });
    match text(node, "type") {
        "SELECT_NODE" => fixed && !is_aggregate(node, functions) && !has_window(node),
        "SET_OPERATION_NODE" => fixed,
        _ => false,
    }
}

pub(super) fn is_aggregate(node: &Value, functions: &Functions) -> bool {
    if !list(node, "group_expressions").is_empty()
        || !list(node, "group_sets").is_empty()
        || text(node, "aggregate_handling") == "FORCE_AGGREGATES"
        || given(node, "having").is_some()
    {
        return true;
    }
    let mut found = false;
    own(node, &mut |part| {
        found |= function(part).is_some_and(|name| functions.is_aggregate(&name));
        !found
    });
    found
}

pub(super) fn has_window(node: &Value) -> bool {
    let mut found = given(node, "qualify").is_some();
    own(node, &mut |part| {
        found |= text(part, "class") == "WINDOW";
        !found
    });
    found
}

pub(super) fn is_distinct(node: &Value) -> bool {
    list(node, "modifiers").iter().any(|modifier| {
        text(modifier, "type").starts_with("DISTINCT") && list(modifier, "distinct_on_targets").is_empty()
    })
}

/// The aggregates of a query that cannot spill.
pub(super) fn kept_calls<'a>(node: &'a Value, functions: &Functions) -> Vec<(&'a Value, State)> {
    let mut calls: Vec<(&Value, State)> = Vec::new();
    own(node, &mut |part| {
        if let Some(name) = function(part)
            && functions.is_aggregate(&name)
        {
            if let Some(state) = functions::state(part)
                && !calls.iter().any(|(known, _)| same(known, part))
            {
                calls.push((part, state));
            }
            return false;
        }
        true
    });
    calls
}
