//! Writes out what a statement only refers to or leaves open (values of parameters, queries of views, floats, the names of
//! its columns), so that what is made of it means the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::WhyNot;
use super::functions::is_unnest;
use super::reads::tables;
use super::tree::{change, is_query, is_star, named, text, walk};

/// Whether a statement has parameters.
pub fn has_parameters(statement: &Value) -> bool {
    let mut found = false;
    walk(statement, &mut |node| {
        found |= text(node, "class") == "PARAMETER";
        !found
    });
    found
}

/// Puts values, as expressions, in the place of parameters; one that has none stays.
pub fn put_parameters(statement: &mut Value, values: &BTreeMap<String, Value>) {
    change(statement, &mut |node| {
        if text(node, "class") != "PARAMETER" {
            return true;
        }
        if let Some(value) = values.get(text(node, "identifier")) {
            *node = named(value, text(node, "alias"));
        }
        false
    });
    if let Some(place) = statement.pointer_mut("/statements/0/named_param_map") {
        *place = json!([]);
    }
}

/// Puts queries in the place of the views of those names; the tables that are named in them.
pub fn put_views(statement: &mut Value, queries: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let mut inside = BTreeSet::new();
    change(statement, &mut |node| {
        if text(node, "type") != "BASE_TABLE" || !text(node, "schema_name").is_empty() {
            return true;
        }
        let name = text(node, "table_name").to_owned();
        let Some(query) = queries.get(&name.to_ascii_lowercase()) else {
            return true;
        };
        inside.extend(tables(query));
        let mut table = query.clone();
        let alias = text(node, "alias");
        table["alias"] = Value::from(if alias.is_empty() { name.as_str() } else { alias });
        if let Some(columns) = node
            .get("column_name_alias")
            .filter(|columns| columns.as_array().is_some_and(|columns| !columns.is_empty()))
        {
            table["column_name_alias"] = columns.clone();
        }
        *node = table;
        false
    });
    inside
}

/// Writes numbers of floating point so that they are read again as such: before 2.0 DuckDB prints 1e-1 as 0.1, a DECIMAL.
pub fn spell_floats(statement: &mut Value) {
    change(statement, &mut |node| {
        if text(node, "class") != "CONSTANT" {
            return true;
        }
        let Some(value) = node
            .get("value")
            .filter(|value| value.get("is_null") == Some(&Value::Bool(false)))
        else {
            return false;
        };
        let kind = value.get("type").map_or("", |kind| text(kind, "id"));
        if (kind == "DOUBLE" || kind == "FLOAT")
            && let Some(number) = value.get("value").and_then(Value::as_f64)
        {
            let written = json!({"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "",
                "value": {"type": {"id": "VARCHAR", "type_info": null}, "is_null": false, "value": format!("{number:?}")}});
            *node = json!({"class": "CAST", "type": "OPERATOR_CAST", "alias": text(node, "alias"), "child": written,
                "cast_type": {"id": kind, "type_info": null}, "try_cast": false});
        }
        false
    });
}

/// Names the items of the outermost list as DuckDB names them now: what they are computed from will be another text.
///
/// # Errors
/// Where the name of one is not known.
pub fn name_items(statement: &mut Value, names: &[String]) -> Result<(), WhyNot> {
    let Some(items) = statement
        .pointer_mut("/statements/0/node/select_list")
        .and_then(Value::as_array_mut)
    else {
        return Ok(());
    };
    let first = items.iter().position(stands_for_several).unwrap_or(items.len());
    let last = items.iter().rposition(stands_for_several);
    let count = items.len();
    if last.is_none() && count != names.len() {
        return Ok(());
    }
    for (index, item) in items.iter_mut().enumerate() {
        let name = if index < first {
            names.get(index)
        } else if last.is_some_and(|last| index > last) {
            // Counted from the end: how many columns there are before it is not known here.
            names
                .len()
                .checked_sub(count - index)
                .and_then(|at| names.get(at))
        } else {
            None
        };
        if !text(item, "alias").is_empty() || text(item, "class") == "COLUMN_REF" {
            continue;
        }
        match name {
            Some(name) => *item = named(item, name),
            None if stands_for_several(item) => {}
            None => return Err(WhyNot::of("a column between two stars has no name: give it one")),
        }
    }
    Ok(())
}

/// Whether an item of a list may become several columns.
pub(super) fn stands_for_several(item: &Value) -> bool {
    let mut several = false;
    walk(item, &mut |part| {
        several |= is_star(part) || is_unnest(part);
        !several && !is_query(part)
    });
    several
}
