//! Which queries of a statement are computed beforehand, and in which way; or what forbids it for all of them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::functions::{Functions, is_unnest};
use super::keys::{group_keys, partition_keys};
use super::shape::{has_modifier, has_window, is_aggregate, is_distinct, is_plain, kept_calls, own};
use super::tree::{cte_query, given, is_query, list, text, walk};
use super::ungrouped::is_pairs;
use super::{Target, Want, Way, WhyNot};

/// The queries of `statement` that are to be computed beforehand, inner ones first.
///
/// # Errors
/// Why nothing can be.
pub fn targets(statement: &Value, functions: &Functions, want: Want) -> Result<Vec<Target>, WhyNot> {
    refuse_unstable(statement, functions)?;
    refuse_shadows(statement)?;
    let root = "/statements/0/node";
    let node = statement
        .pointer(root)
        .ok_or_else(|| WhyNot::of("DuckDB gave no parse of it"))?;
    let mut found = Vec::new();
    collect(node, root, true, functions, want, &mut found);
    let Some(last) = found.iter().rposition(|target| target.way == Way::Pieces) else {
        return Err(WhyNot::of(match want {
            Want::Kept => "no aggregate of it that cannot spill has keys to cut by",
            Want::All => "nothing in it has keys to cut by",
        }));
    };
    // What comes after the last is not seen by any piece.
    found.truncate(last + 1);
    Ok(found)
}

/// What makes two runs of any part of a statement differ.
fn refuse_unstable(statement: &Value, functions: &Functions) -> Result<(), WhyNot> {
    let mut why = None;
    walk(statement, &mut |node| {
        let name = text(node, "function_name").to_ascii_lowercase();
        if functions.is_volatile(&name) {
            why = Some(format!("it calls {name}(), which gives another value each time"));
        } else if functions.is_macro(&name) && !functions.is_aggregate(&name) {
            why = Some(format!("it calls the macro {name}(), which may do anything"));
        } else if given(node, "sample").is_some() {
            why = Some("it takes a sample, which is another one each time".to_owned());
        } else if text(node, "class") == "PARAMETER" {
            why = Some("it has parameters, whose values are not known here".to_owned());
        } else if text(node, "class") == "SUBQUERY"
            && node
                .pointer("/subquery/node")
                .is_some_and(|query| has_modifier(query, "LIMIT"))
        {
            why = Some(
                "a subquery in an expression has a LIMIT, which may choose other rows each time".to_owned(),
            );
        } else if let Some(what) = of_catalog(node) {
            why = Some(format!(
                "it reads {what}, where the tables of the pieces would show"
            ));
        } else if name == "query" || name == "query_table" {
            why = Some(format!("it calls {name}(), in which anything may be"));
        } else if text(node, "type") == "RECURSIVE_CTE_NODE" {
            why = Some("a recursive common table expression is not looked into".to_owned());
        } else if text(node, "type") == "CTE_NODE" {
            why = Some("a common table expression stands where it is not looked into".to_owned());
        }
        why.is_none()
    });
    why.map_or(Ok(()), |why| Err(WhyNot(why)))
}

/// What a node reads of the catalog, if it does.
fn of_catalog(node: &Value) -> Option<&str> {
    ["function_name", "table_name", "schema_name"]
        .into_iter()
        .map(|member| text(node, member))
        .find(|name| {
            let name = name.to_ascii_lowercase();
            ["duckdb_", "pragma_", "pg_", "sqlite_", "information_schema"]
                .iter()
                .any(|begin| name.starts_with(begin))
        })
}

/// Two common table expressions of one name cannot be told apart once they stand side by side.
fn refuse_shadows(statement: &Value) -> Result<(), WhyNot> {
    let mut names = BTreeSet::new();
    let mut twice = None;
    walk(statement, &mut |part| {
        for entry in list(&part["cte_map"], "map") {
            let name = text(entry, "key").to_ascii_lowercase();
            if !names.insert(name.clone()) {
                twice = Some(name);
            }
        }
        true
    });
    match twice {
        None => Ok(()),
        Some(name) => Err(WhyNot(format!(
            "two common table expressions of it are called {name}"
        ))),
    }
}

/// Where the queries of a statement are that [`targets`] looks at, inner ones first.
pub fn queries(statement: &Value) -> Vec<String> {
    fn below(node: &Value, pointer: &str, found: &mut Vec<String>) {
        for (index, entry) in list(&node["cte_map"], "map").iter().enumerate() {
            if let Some((inside, query)) = cte_query(entry) {
                below(query, &format!("{pointer}/cte_map/map/{index}{inside}"), found);
            }
        }
        tables_below(&node["from_table"], &format!("{pointer}/from_table"), found);
        for side in ["left", "right"] {
            if let Some(query) = given(node, side).filter(|query| is_query(query)) {
                below(query, &format!("{pointer}/{side}"), found);
            }
        }
        for (index, query) in list(node, "children").iter().enumerate() {
            below(query, &format!("{pointer}/children/{index}"), found);
        }
        found.push(pointer.to_owned());
    }
    fn tables_below(table: &Value, pointer: &str, found: &mut Vec<String>) {
        if let Some(query) = table.pointer("/subquery/node") {
            below(query, &format!("{pointer}/subquery/node"), found);
        }
        for side in ["left", "right"] {
            if let Some(table) = given(table, side) {
                tables_below(table, &format!("{pointer}/{side}"), found);
            }
        }
    }
    let mut found = Vec::new();
    let root = "/statements/0/node";
    if let Some(node) = statement.pointer(root) {
        below(node, root, &mut found);
    }
    found
}

/// Collects the targets at and below `node`.
fn collect(
    node: &Value,
    pointer: &str,
    top: bool,
    functions: &Functions,
    want: Want,
    found: &mut Vec<Target>,
) {
    for (index, entry) in list(&node["cte_map"], "map").iter().enumerate() {
        if let Some((below, query)) = cte_query(entry) {
            let pointer = format!("{pointer}/cte_map/map/{index}{below}");
            let want = if is_pairs(entry) { Want::All } else { want };
            collect(query, &pointer, false, functions, want, found);
        }
    }
    match text(node, "type") {
        "SELECT_NODE" => collect_from(
            &node["from_table"],
            &format!("{pointer}/from_table"),
            functions,
            want,
            found,
        ),
        "SET_OPERATION_NODE" => {
            for side in ["left", "right"] {
                if let Some(query) = given(node, side) {
                    collect(query, &format!("{pointer}/{side}"), false, functions, want, found);
                }
            }
            for (index, query) in list(node, "children").iter().enumerate() {
                collect(
                    query,
                    &format!("{pointer}/children/{index}"),
                    false,
                    functions,
                    want,
                    found,
                );
            }
        }
        _ => {}
    }
    let way = if can_be_cut(node, functions, want) {
        Way::Pieces
    } else if !top && !is_plain(node, functions) {
        Way::Once
    } else {
        return;
    };
    found.push(Target {
        pointer: pointer.to_owned(),
        way,
    });
}

fn collect_from(table: &Value, pointer: &str, functions: &Functions, want: Want, found: &mut Vec<Target>) {
    match text(table, "type") {
        "SUBQUERY" => {
            if let Some(query) = table.pointer("/subquery/node") {
                collect(
                    query,
                    &format!("{pointer}/subquery/node"),
                    false,
                    functions,
                    want,
                    found,
                );
            }
        }
        "JOIN" => {
            for side in ["left", "right"] {
                collect_from(&table[side], &format!("{pointer}/{side}"), functions, want, found);
            }
        }
        _ => {}
    }
}

pub(super) fn can_be_cut(node: &Value, functions: &Functions, want: Want) -> bool {
    let mut unnests = false;
    own(node, &mut |part| {
        unnests |= is_unnest(part);
        !unnests
    });
    if unnests {
        // One row of it is several, so its rows do not count what went in.
        return false;
    }
    match text(node, "type") {
        "SELECT_NODE" if is_aggregate(node, functions) => {
            let keys = group_keys(node, functions, None).is_ok_and(|keys| !keys.is_empty());
            keys && !has_window(node) && (want == Want::All || !kept_calls(node, functions).is_empty())
        }
        "SELECT_NODE" if has_window(node) => {
            want == Want::All && !has_modifier(node, "DISTINCT") && !partition_keys(node).is_empty()
        }
        "SELECT_NODE" => want == Want::All && is_distinct(node),
        "SET_OPERATION_NODE" => {
            want == Want::All
                && node.get("setop_all").and_then(Value::as_bool) == Some(false)
                && !has_modifier(node, "DISTINCT")
        }
        _ => false,
    }
}
