//! A query that is cut, reading its input from a table that was filled once, in place of what it reads itself. Pure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Cut;
use super::functions::Functions;
use super::names::Names;
use super::tree::{arguments, bare_name, change, column, function, given, list, named, text, walk};

/// The name under which the query reads the table.
pub const FEED: &str = "duckward_feed";

/// Aggregates whose result does not depend on the order of what they take.
const UNORDERED: [&str; 20] = [
    "count",
    "count_star",
    "count_if",
    "countif",
    "min",
    "max",
    "median",
    "quantile",
    "quantile_cont",
    "quantile_disc",
    "mad",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "histogram",
    "approx_count_distinct",
    "grouping",
    "grouping_id",
];
/// Aggregates for which that is so unless they add up floats.
const SUMS: [&str; 4] = ["sum", "sum_no_overflow", "avg", "mean"];

/// A query in two: what is put into the table, and the query over it.
#[derive(Clone, Debug)]
pub struct Fed {
    /// The statement whose first columns are what the query needs, and whose others are the keys.
    pub source: Value,
    /// How many columns the query needs.
    pub columns: usize,
    /// A statement that gives what is summed up, a column each: none of it may be a float.
    pub summed: Option<Value>,
    /// The query over the table [`FEED`] with the columns `duckward_s0`, `duckward_s1`, ...; its FROM is still to be put in.
    pub body: Value,
}

/// The query of `cut` so, if its answer does not depend on the order of its input, and all that it reads can be named.
/// `columns` are those of its FROM, if they matter.
pub fn fed(cut: &Cut, functions: &Functions, columns: Option<&BTreeSet<String>>) -> Option<Fed> {
    let root = "/statements/0/node";
    // Without aggregates rows are counted as they are, and DuckDB spills them.
    let (mut source, _) = (cut.source.clone()?, cut.rows?);
    let mut body = cut.body.clone();
    let node = body.pointer_mut(root)?;
    let items = list(node, "select_list").to_vec();
    let names = Names {
        items: &items,
        columns,
    };
    let parts = ["select_list", "group_expressions", "having"];
    let mut plain = true;
    let mut summed: Vec<Value> = Vec::new();
    for part in parts.iter().filter_map(|part| given(node, part)) {
        walk(part, &mut |inner| {
            plain &= match text(inner, "class") {
                "SUBQUERY"
                | "STAR"
                | "LAMBDA"
                | "LAMBDA_REF"
                | "WINDOW"
                | "POSITIONAL_REFERENCE"
                | "DEFAULT" => false,
                "FUNCTION" => {
                    if function(inner).is_some_and(|name| SUMS.contains(&name.as_str())) {
                        summed.extend(arguments(inner).into_iter().map(|value| names.resolve(value)));
                    }
                    !depends_on_order(inner, functions)
                }
                _ => true,
            };
            plain
        });
    }
    if !plain {
        return None;
    }
    let mut needed: Vec<Value> = Vec::new();
    for part in parts {
        let Some(part) = node.get_mut(part) else { continue };
        change(part, &mut |inner| {
            if text(inner, "class") != "COLUMN_REF" {
                return true;
            }
            if bare_name(inner).is_some_and(|name| names.is_alias(name).is_some()) {
                return false;
            }
            let known = needed
                .iter()
                .position(|other| other["column_names"] == inner["column_names"]);
            let index = known.unwrap_or_else(|| {
                needed.push(inner.clone());
                needed.len() - 1
            });
            *inner = named(&column(&format!("duckward_s{index}")), text(inner, "alias"));
            false
        });
    }
    // Nothing of FROM is read any more, so neither is anything that only FROM named.
    node["where_clause"] = Value::Null;
    node["cte_map"] = json!({"map": []});
    let summed = (!summed.is_empty()).then(|| {
        let mut statement = source.clone();
        statement["statements"][0]["node"]["select_list"] = Value::Array(summed);
        statement
    });
    let keys = source
        .pointer_mut(&format!("{root}/select_list"))?
        .as_array_mut()?;
    let columns = needed.len();
    needed.append(keys);
    *keys = needed;
    Some(Fed {
        source,
        columns,
        summed,
        body,
    })
}

fn depends_on_order(call: &Value, functions: &Functions) -> bool {
    let Some(name) = function(call).filter(|name| functions.is_aggregate(name)) else {
        return false;
    };
    let ordered = call
        .get("order_bys")
        .is_some_and(|orders| !list(orders, "orders").is_empty());
    !ordered && !UNORDERED.contains(&name.as_str()) && !SUMS.contains(&name.as_str())
}
