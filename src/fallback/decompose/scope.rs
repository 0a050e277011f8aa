//! A query as a statement of its own, with every common table expression that it sees where it stands.

use serde_json::{Value, json};

use super::names::Names;
use super::reads::tables;
use super::tree::{given, is_query, list, statement, text};

/// A query as a statement.
pub fn as_statement(query: &Value) -> Value {
    statement(query)
}

/// The query at `pointer` with everything it sees, as a statement of its own.
pub fn whole(root: &Value, pointer: &str) -> Option<Value> {
    Some(statement(&with_scope(
        root,
        pointer,
        root.pointer(pointer)?.clone(),
    )))
}

/// A query that reads what `node` reads and does nothing with it yet, with every common table expression that it sees.
pub(super) fn skeleton(root: &Value, pointer: &str, node: &Value) -> Value {
    let mut bare = node.clone();
    bare["modifiers"] = json!([]);
    bare["group_expressions"] = json!([]);
    bare["group_sets"] = json!([]);
    bare["aggregate_handling"] = Value::from("STANDARD_HANDLING");
    bare["having"] = Value::Null;
    bare["qualify"] = Value::Null;
    with_scope(root, pointer, bare)
}

/// The statement that gives `expressions` of every row that goes into `node`.
pub(super) fn selecting(
    root: &Value,
    pointer: &str,
    node: &Value,
    names: &Names<'_>,
    expressions: &[Value],
) -> Value {
    let mut bare = skeleton(root, pointer, node);
    bare["select_list"] = Value::Array(expressions.to_vec());
    if let Some(condition) = given(node, "where_clause") {
        bare["where_clause"] = names.resolve(condition);
    }
    statement(&bare)
}

/// Adds the common table expressions around `pointer` that `query` names.
pub(super) fn with_scope(root: &Value, pointer: &str, mut query: Value) -> Value {
    let mut visible: Vec<&Value> = Vec::new();
    let mut at = root;
    let steps: Vec<&str> = pointer.split('/').skip(1).collect();
    for (index, step) in steps.iter().enumerate() {
        if is_query(at) {
            let entries = list(&at["cte_map"], "map");
            // Inside of one of them only those before it are seen.
            let seen = match steps.get(index..index + 3) {
                Some(["cte_map", "map", number]) => number.parse().unwrap_or(0),
                _ => entries.len(),
            };
            visible.extend(&entries[..seen.min(entries.len())]);
        }
        at = match at {
            Value::Array(items) => step.parse::<usize>().ok().and_then(|step| items.get(step)),
            _ => at.get(step),
        }
        .unwrap_or(&Value::Null);
    }
    let mut needed: Vec<Value> = Vec::new();
    let mut own: Vec<Value> = list(&query["cte_map"], "map").to_vec();
    let mut wanted = tables(&query);
    for entry in visible.into_iter().rev() {
        let key = text(entry, "key");
        let shadowed = own
            .iter()
            .chain(&needed)
            .any(|known| text(known, "key").eq_ignore_ascii_case(key));
        if !shadowed && wanted.contains(&key.to_ascii_lowercase()) {
            wanted.extend(tables(entry));
            needed.push(entry.clone());
        }
    }
    needed.reverse();
    needed.append(&mut own);
    query["cte_map"] = json!({"map": needed});
    query
}
