//! Reading and changing DuckDB's own parse of a SELECT, its JSON form. What differs between versions of DuckDB (the name
//! under which a function keeps its arguments, how a constant is written) is met here and nowhere else.

use serde_json::{Map, Value, json};

/// The parts of a node that say where in the text it stood, or how its result is called: not what it computes.
const INCIDENTAL: [&str; 3] = ["query_location", "query_location_length", "alias"];

/// A member that is a text, "" if there is none.
pub(super) fn text<'a>(node: &'a Value, member: &str) -> &'a str {
    node.get(member).and_then(Value::as_str).unwrap_or("")
}

/// The elements of a member that is an array; none if there is none.
pub(super) fn list<'a>(node: &'a Value, member: &str) -> &'a [Value] {
    node.get(member)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A member that is there and not null.
pub(super) fn given<'a>(node: &'a Value, member: &str) -> Option<&'a Value> {
    node.get(member).filter(|value| !value.is_null())
}

/// Whether two expressions are the same but for their place and name.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let counted = |map: &Map<String, Value>| {
                map.keys()
                    .filter(|key| !INCIDENTAL.contains(&key.as_str()))
                    .count()
            };
            counted(one) == counted(other)
                && one
                    .iter()
                    .filter(|(key, _)| !INCIDENTAL.contains(&key.as_str()))
                    .all(|(key, value)| other.get(key).is_some_and(|theirs| same(value, theirs)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        _ => one == other,
    }
}

/// Visits `value` and all below it, parents first; what `visit` says no to is not entered.
pub(super) fn walk<'a>(value: &'a Value, visit: &mut dyn FnMut(&'a Value) -> bool) {
    match value {
        Value::Object(map) if visit(value) => map.values().for_each(|child| walk(child, visit)),
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        _ => {}
    }
}

/// As [`walk`], to change what is visited.
pub(super) fn change(value: &mut Value, visit: &mut dyn FnMut(&mut Value) -> bool) {
    if value.is_object() && !visit(value) {
        return;
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(|child| change(child, visit)),
        Value::Array(items) => items.iter_mut().for_each(|item| change(item, visit)),
        _ => {}
    }
}

/// Whether `value` is a whole query below an expression or a table.
pub(super) fn is_query(value: &Value) -> bool {
    matches!(
        text(value, "type"),
        "SELECT_NODE" | "SET_OPERATION_NODE" | "RECURSIVE_CTE_NODE" | "CTE_NODE"
    ) && value.get("modifiers").is_some()
}

/// The function that `node` calls, in small letters; not of a window.
pub(super) fn function(node: &Value) -> Option<String> {
    (text(node, "class") == "FUNCTION").then(|| text(node, "function_name").to_ascii_lowercase())
}

/// A function's arguments.
pub(super) fn arguments(node: &Value) -> Vec<&Value> {
    let named = list(node, "arguments");
    if named.is_empty() {
        return list(node, "children").iter().collect();
    }
    named
        .iter()
        .filter_map(|argument| argument.get("expression"))
        .collect()
}

/// A whole number written as such.
pub(super) fn integer(node: &Value) -> Option<usize> {
    if text(node, "class") != "CONSTANT" {
        return None;
    }
    if let Some(literal) = given(node, "literal") {
        return (text(literal, "kind") == "INTEGER").then(|| text(literal, "text").parse().ok())?;
    }
    let value = node.get("value")?;
    // A decimal is written as a whole number, too.
    let is_whole = matches!(text(value.get("type")?, "id"), "INTEGER" | "BIGINT");
    if !is_whole {
        return None;
    }
    usize::try_from(value.get("value")?.as_u64()?).ok()
}

/// Whether `node` is NULL, written so.
pub(super) fn is_null(node: &Value) -> bool {
    text(node, "class") == "CONSTANT"
        && (node.pointer("/value/is_null") == Some(&Value::Bool(true))
            || node
                .pointer("/literal/kind")
                .and_then(Value::as_str)
                .is_some_and(|kind| kind.contains("NULL")))
}

/// The value of a number that is written as such, as near as a float comes to it: for its sign and its size.
pub(super) fn number(node: &Value) -> Option<f64> {
    if text(node, "class") != "CONSTANT" {
        return None;
    }
    if let Some(literal) = given(node, "literal") {
        return text(literal, "text").parse().ok();
    }
    let value = node.get("value")?;
    match text(value.get("type")?, "id") {
        // A decimal is written as a whole number; its scale only makes it smaller.
        "INTEGER" | "BIGINT" | "DECIMAL" | "DOUBLE" | "FLOAT" => value.get("value")?.as_f64(),
        _ => None,
    }
}

/// A name on its own, without a table before it.
pub(super) fn bare_name(node: &Value) -> Option<&str> {
    match list(node, "column_names") {
        [name] if text(node, "class") == "COLUMN_REF" => name.as_str(),
        _ => None,
    }
}

/// Whether `node` stands for several columns.
pub(super) fn is_star(node: &Value) -> bool {
    let mut found = false;
    walk(node, &mut |part| {
        // `COLUMNS('pattern')` and `*`; count(*) has a function of its own.
        found |= text(part, "class") == "STAR";
        !found && !is_query(part)
    });
    found
}

/// A reference to the column `name`.
pub(super) fn column(name: &str) -> Value {
    json!({"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": [name]})
}

/// `expression`, called `alias`.
pub(super) fn named(expression: &Value, alias: &str) -> Value {
    let mut named = expression.clone();
    if let Some(map) = named.as_object_mut() {
        map.insert("alias".to_owned(), Value::from(alias));
    }
    named
}

/// A whole statement around a query.
pub(super) fn statement(node: &Value) -> Value {
    json!({"error": false, "statements": [{"node": node, "named_param_map": []}]})
}

/// The query below a common table expression; DuckDB 2.0 keeps it under another name.
pub(super) fn cte_query(entry: &Value) -> Option<(&'static str, &Value)> {
    let value = entry.get("value")?;
    if let Some(node) = given(value, "query_node") {
        return Some(("/value/query_node", node));
    }
    Some(("/value/query/node", value.get("query")?.get("node")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_and_name_make_no_difference_and_everything_else_does() {
        let one = json!({"class": "COLUMN_REF", "alias": "a", "query_location": 3, "column_names": ["k"]});
        let other = json!({"class": "COLUMN_REF", "alias": "", "query_location": 99, "column_names": ["k"]});
        assert!(same(&one, &other));
        let third =
            json!({"class": "COLUMN_REF", "alias": "", "query_location": 99, "column_names": ["t", "k"]});
        assert!(!same(&one, &third));
        assert!(!same(&json!({"a": 1}), &json!({"a": 1, "b": 2})));
    }

    #[test]
    fn both_ways_to_write_a_number_are_read() {
        let new = json!({"class": "CONSTANT", "literal": {"kind": "INTEGER", "text": "7"}});
        let old =
            json!({"class": "CONSTANT", "value": {"type": {"id": "INTEGER"}, "is_null": false, "value": 7}});
        assert_eq!((integer(&new), integer(&old)), (Some(7), Some(7)));
        assert_eq!(
            integer(&json!({"class": "CONSTANT", "literal": {"kind": "STRING", "text": "7"}})),
            None
        );
    }

    #[test]
    fn a_number_has_its_sign_in_both_ways_to_write_it() {
        let new = |text: &str| json!({"class": "CONSTANT", "literal": {"kind": "DECIMAL", "text": text}});
        let old = |kind: &str, value: Value| json!({"class": "CONSTANT", "value": {"type": {"id": kind}, "is_null": false, "value": value}});
        assert_eq!(number(&new("-0.25")), Some(-0.25));
        assert_eq!(number(&new("half")), None);
        assert_eq!(number(&old("DECIMAL", json!(-25))), Some(-25.0));
        assert_eq!(number(&old("VARCHAR", json!("0.5"))), None);
        assert_eq!(number(&json!({"class": "FUNCTION"})), None);
    }

    #[test]
    fn a_star_inside_a_query_of_its_own_is_not_one_of_the_list() {
        let inner = json!({"type": "SELECT_NODE", "modifiers": [], "select_list": [{"class": "STAR"}]});
        assert!(!is_star(
            &json!({"class": "SUBQUERY", "subquery": {"node": inner}})
        ));
        assert!(is_star(
            &json!({"class": "FUNCTION", "children": [{"class": "STAR", "columns": true}]})
        ));
    }
}
