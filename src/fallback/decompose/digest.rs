//! What goes into a query that is cut, besides how many rows: for a proof by digests. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::functions::Functions;
use super::names::Names;
use super::shape::{is_aggregate, own};
use super::tree::{
    arguments, bare_name, change, function, given, integer, is_query, list, named, same, text, walk,
};
use super::{Cut, rows};

/// How the names in a template begin that values are put in the place of.
pub const VALUE: &str = "duckward_v";

/// The values of a row that goes into the query at `pointer`, which is cut so: the keys, and what its aggregates or windows
/// name. None where something that it reads has no name, or where the rows that go in cannot be counted. `columns` are those
/// of its FROM, if they matter.
pub fn values(
    root: &Value,
    pointer: &str,
    functions: &Functions,
    columns: Option<&BTreeSet<String>>,
    cut: &Cut,
) -> Option<Vec<Value>> {
    let (node, source) = (root.pointer(pointer)?, cut.source.as_ref()?);
    // A user's sum might be anything.
    if cut.counted == 0 || functions.is_macro("sum") {
        return None;
    }
    let keys = source
        .pointer("/statements/0/node/select_list")?
        .as_array()?
        .clone();
    if let Some(operation) = rows::operation(node, functions) {
        return Some(keys.into_iter().chain(rows::side(operation)).collect());
    }
    let items = list(node, "select_list").to_vec();
    let names = Names {
        items: &items,
        columns,
    };
    let aggregates = is_aggregate(node, functions);
    let parts = if aggregates {
        taken(node, functions, &keys)?
    } else {
        let ordered = list(node, "modifiers")
            .iter()
            .flat_map(|modifier| list(modifier, "orders"))
            .filter_map(|order| order.get("expression"))
            .filter(|by| integer(by).is_none() && text(by, "class") != "STAR");
        items
            .iter()
            .chain(ordered)
            .chain(given(node, "qualify"))
            .collect()
    };
    // An aggregate of a subquery would be another query.
    if keys.iter().any(reads_elsewhere) {
        return None;
    }
    let mut found = keys;
    for part in parts {
        let values = match text(part, "class") {
            "STAR" if !aggregates => vec![every(part)?],
            _ => named_in(&names.resolve(part))?,
        };
        for value in values {
            if !found.iter().any(|known| same(known, &value)) {
                found.push(value);
            }
        }
    }
    Some(found)
}

/// What the aggregates of a query take, and what it groups by; none where it reads something besides.
fn taken<'a>(node: &'a Value, functions: &Functions, keys: &[Value]) -> Option<Vec<&'a Value>> {
    let mut parts: Vec<&Value> = list(node, "group_expressions").iter().collect();
    let mut all = true;
    own(node, &mut |part| {
        if keys.iter().any(|key| same(key, part)) {
            return false;
        }
        if function(part).is_some_and(|name| functions.is_aggregate(&name)) {
            parts.extend(arguments(part));
            let orders = part.get("order_bys").map_or(&[][..], |by| list(by, "orders"));
            parts.extend(orders.iter().filter_map(|order| order.get("expression")));
            parts.extend(given(part, "filter"));
            return false;
        }
        all &= text(part, "class") != "SUBQUERY";
        true
    });
    all.then_some(parts)
}

/// What stands for the columns of a star among the arguments of a function.
fn every(star: &Value) -> Option<Value> {
    let mut star = named(star, "");
    star["columns"] = Value::from(true);
    (!reads_elsewhere(&star))
        .then(|| json!({"class": "OPERATOR", "type": "OPERATOR_UNPACK", "alias": "", "children": [star]}))
}

/// The columns that an expression names; none where it is made of something without a name.
fn named_in(expression: &Value) -> Option<Vec<Value>> {
    let mut columns = Vec::new();
    let mut all = true;
    walk(expression, &mut |part| {
        match text(part, "class") {
            "COLUMN_REF" => columns.push(named(part, "")),
            "SUBQUERY" | "LAMBDA" | "LAMBDA_REF" | "STAR" | "POSITIONAL_REFERENCE" => all = false,
            _ => {}
        }
        all && !is_query(part)
    });
    all.then_some(columns)
}

fn reads_elsewhere(expression: &Value) -> bool {
    let mut found = false;
    walk(expression, &mut |part| {
        found |= text(part, "class") == "SUBQUERY";
        !found
    });
    found
}

/// Puts `values` in the place of the names in `template` that begin with [`VALUE`].
pub fn put(template: &mut Value, values: &[Value]) {
    change(template, &mut |part| {
        let meant = bare_name(part)
            .and_then(|name| name.strip_prefix(VALUE)?.parse::<usize>().ok())
            .and_then(|index| values.get(index));
        match meant {
            Some(value) => {
                *part = value.clone();
                false
            }
            None => true,
        }
    });
}

/// Adds a hidden column to a cut; its number.
pub fn add(cut: &mut Cut, item: &Value) -> usize {
    let index = cut.hidden;
    if let Some(items) = cut
        .body
        .pointer_mut("/statements/0/node/select_list")
        .and_then(Value::as_array_mut)
    {
        items.push(named(item, &format!("duckward_h{index}")));
        cut.hidden += 1;
    }
    index
}

/// The statement that gives the keys of every row that goes in, and `item` after them.
pub fn source_with(cut: &Cut, item: &Value) -> Option<Value> {
    let mut source = cut.source.clone()?;
    source
        .pointer_mut("/statements/0/node/select_list")?
        .as_array_mut()?
        .push(item.clone());
    Some(source)
}

#[cfg(test)]
mod tests {
    use super::super::cut;
    use super::*;

    fn column(name: &str) -> Value {
        super::super::tree::column(name)
    }

    fn call(name: &str, arguments: &[Value]) -> Value {
        json!({"class": "FUNCTION", "function_name": name, "alias": "", "distinct": false, "filter": null,
               "order_bys": {"orders": []}, "children": arguments})
    }

    fn functions() -> Functions {
        let mut functions = Functions::default();
        let row = |name: &str, kind: &str| vec![Some(name.to_owned()), Some(kind.to_owned()), None];
        functions.learn(&[row("median", "aggregate"), row("abs", "scalar")]);
        functions
    }

    fn grouped(items: &[Value], having: &Value) -> Value {
        json!({"error": false, "statements": [{"node": {"type": "SELECT_NODE", "modifiers": [], "cte_map": {"map": []},
            "select_list": items, "from_table": {"type": "BASE_TABLE", "table_name": "t", "schema_name": ""},
            "where_clause": null, "group_expressions": [column("k")], "group_sets": [[0]],
            "aggregate_handling": "STANDARD_HANDLING", "having": having, "qualify": null, "sample": null}}]})
    }

    fn windowed(items: &[Value]) -> Value {
        let mut statement = grouped(items, &Value::Null);
        statement["statements"][0]["node"]["group_expressions"] = json!([]);
        statement["statements"][0]["node"]["group_sets"] = json!([]);
        statement
    }

    fn found(statement: &Value) -> Option<Vec<String>> {
        let pointer = "/statements/0/node";
        let cut = cut(statement, pointer, &functions(), None).unwrap();
        let values = values(statement, pointer, &functions(), None, &cut)?;
        Some(
            values
                .iter()
                .map(|value| {
                    list(value, "column_names")
                        .first()
                        .and_then(Value::as_str)
                        .unwrap_or(text(value, "type"))
                        .to_owned()
                })
                .collect(),
        )
    }

    #[test]
    fn every_column_that_an_aggregate_names_is_digested_and_once() {
        let mut filtered = call("median", &[call("abs", &[column("v")])]);
        filtered["filter"] = column("w");
        filtered["order_bys"] = json!({"orders": [{"expression": column("x")}]});
        let statement = grouped(
            &[column("k"), filtered, call("median", &[column("v")])],
            &Value::Null,
        );
        assert_eq!(found(&statement).unwrap(), ["k", "v", "x", "w"]);
    }

    #[test]
    fn what_reads_something_without_a_name_is_not_digested() {
        let subquery = json!({"class": "SUBQUERY", "alias": "", "subquery": {"node": null}});
        let lambda = json!({"class": "LAMBDA", "alias": "", "expr": column("v")});
        let star = json!({"class": "STAR", "type": "STAR", "alias": "", "columns": true});
        for inside in [subquery.clone(), lambda, star] {
            let statement = grouped(&[column("k"), call("median", &[inside])], &Value::Null);
            assert_eq!(found(&statement), None);
        }
        let beside = grouped(&[column("k"), call("abs", &[subquery])], &Value::Null);
        assert_eq!(found(&beside), None);
    }

    #[test]
    fn what_cannot_be_counted_is_not_digested() {
        let items = [column("k"), call("abs", &[column("k")])];
        assert_eq!(found(&grouped(&items, &column("v"))), None);
        assert!(found(&grouped(&items, &Value::Null)).is_some());
    }

    #[test]
    fn a_star_beside_a_window_is_all_its_columns() {
        let window = json!({"class": "WINDOW", "type": "WINDOW_ROW_NUMBER", "alias": "", "children": [],
            "partitions": [column("k")], "orders": [{"expression": column("v")}]});
        let star = json!({"class": "STAR", "type": "STAR", "alias": "", "columns": false});
        assert_eq!(
            found(&windowed(&[star, window])).unwrap(),
            ["k", "OPERATOR_UNPACK", "v"]
        );
    }

    #[test]
    fn values_are_put_in_their_places() {
        let mut template = call(
            "sum",
            &[call("hash", &[column("duckward_v1"), column("duckward_v0")])],
        );
        put(&mut template, &[column("a"), column("b")]);
        assert_eq!(
            template,
            call("sum", &[call("hash", &[column("b"), column("a")])])
        );
    }
}
