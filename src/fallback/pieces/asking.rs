//! What DuckDB is asked about a query without running it: its parse and its text, its columns and their types, its plan.
//! DuckDB alone reads and writes SQL, so a query means here what it means there.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Asks, Fault, Run, one, why_not};
use crate::engine::text::quoted;
use crate::fallback::decompose::asks_for_columns;
use crate::fallback::risk::Plan;

/// DuckDB's name for the type of a bare NULL.
pub(super) const NO_TYPE: &str = "\"NULL\"";

/// A SELECT of one expression.
#[expect(
    clippy::disallowed_methods,
    reason = "json! unwraps, and what it is given here always has a form in JSON"
)]
pub(super) fn statement_of(expression: &Value) -> Value {
    let mut node = serde_json::json!({"type": "SELECT_NODE", "modifiers": [], "cte_map": {"map": []},
        "from_table": {"type": "EMPTY", "alias": "", "sample": null}, "where_clause": null, "group_expressions": [],
        "group_sets": [], "aggregate_handling": "STANDARD_HANDLING", "having": null, "sample": null, "qualify": null});
    node["select_list"] = serde_json::json!([expression]);
    serde_json::json!({"error": false, "statements": [{"node": node, "named_param_map": []}]})
}

/// The text of a statement that is given as its parse.
pub(super) fn text_of(asks: &mut dyn Asks, statement: &Value) -> Result<String, Fault> {
    Ok(texts_of(asks, &[statement])?.swap_remove(0))
}

/// The texts of statements that are given as their parses.
pub(super) fn texts_of(asks: &mut dyn Asks, statements: &[&Value]) -> Result<Vec<String>, Fault> {
    if statements.is_empty() {
        return Ok(Vec::new());
    }
    let asked: Vec<String> = statements
        .iter()
        .map(|statement| format!("json_deserialize_sql({}::JSON)", quoted(&statement.to_string())))
        .collect();
    let rows = asks.rows(&format!("SELECT {}", asked.join(", ")))?;
    let texts: Option<Vec<String>> = rows.into_iter().next().and_then(|row| {
        let texts = row.into_iter();
        texts
            .map(|text| Some(text?.trim_end_matches(';').to_owned()))
            .collect()
    });
    match texts {
        Some(texts) if texts.len() == statements.len() => Ok(texts),
        _ => why_not("DuckDB does not print its own parse of it"),
    }
}

/// The names of a query's columns.
pub(super) fn describe(asks: &mut dyn Asks, sql: &str) -> Result<Vec<String>, Fault> {
    let rows = asks.rows(&format!("DESCRIBE {sql}"))?;
    Ok(rows
        .into_iter()
        .filter_map(|row| row.into_iter().next()?)
        .collect())
}

/// The names and types of the columns of a statement that is given as its parse.
pub(super) fn columns_of(asks: &mut dyn Asks, statement: &Value) -> Result<Vec<(String, String)>, Fault> {
    let text = text_of(asks, statement)?;
    let rows = asks.rows(&format!("DESCRIBE {text}"))?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let mut row = row.into_iter();
            Some((row.next()??, row.next()??))
        })
        .collect())
}

/// DuckDB's plan of a query.
pub(super) fn plan_of(asks: &mut dyn Asks, sql: &str) -> Result<Option<Plan>, Fault> {
    let rows = asks.rows(&format!("EXPLAIN (FORMAT JSON) {sql}"))?;
    Ok(rows
        .iter()
        .find(|row| {
            row.first()
                .is_some_and(|kind| kind.as_deref() == Some("physical_plan"))
        })
        .or(rows.last())
        .and_then(|row| row.get(1)?.as_deref())
        .and_then(Plan::read))
}

/// The parse of one query.
pub(super) fn node_of(asks: &mut dyn Asks, sql: &str) -> Result<Value, Fault> {
    let rows = asks.rows(&format!("SELECT json_serialize_sql({})", quoted(sql)))?;
    let tree: Value = one(&rows)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null);
    match tree.pointer("/statements/0/node") {
        Some(node) => Ok(node.clone()),
        None => why_not("DuckDB does not parse what was made of it"),
    }
}

impl Run<'_> {
    /// The columns of what the query at `pointer` reads, in small letters, if they decide what its names stand for.
    pub(super) fn columns_below(
        &mut self,
        tree: &Value,
        pointer: &str,
    ) -> Result<Option<BTreeSet<String>>, Fault> {
        let Some(statement) = asks_for_columns(tree, pointer) else {
            return Ok(None);
        };
        let text = self.text(&statement)?;
        Ok(Some(
            self.describe(&text)?
                .into_iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
        ))
    }

    /// The types of a query's columns, where a table can have them.
    pub(super) fn storable(&mut self, sql: &str) -> Result<Vec<String>, Fault> {
        let types = self.types(sql)?;
        for kind in &types {
            let unnamed = kind.starts_with("STRUCT(")
                && !kind["STRUCT(".len()..].trim_start().starts_with('"')
                && kind["STRUCT(".len()..]
                    .split([',', ')'])
                    .next()
                    .is_some_and(|field| !field.trim().contains(' '));
            if unnamed || (kind != NO_TYPE && kind.contains(NO_TYPE)) {
                return why_not(format!("it has a column of type {kind}, which no table can have"));
            }
        }
        Ok(types)
    }

    pub(super) fn types(&mut self, sql: &str) -> Result<Vec<String>, Fault> {
        let rows = self.asks.rows(&format!("DESCRIBE {sql}"))?;
        Ok(rows
            .into_iter()
            .filter_map(|row| row.into_iter().nth(1)?)
            .collect())
    }

    pub(super) fn text(&mut self, statement: &Value) -> Result<String, Fault> {
        text_of(self.asks, statement)
    }

    pub(super) fn describe(&mut self, sql: &str) -> Result<Vec<String>, Fault> {
        describe(self.asks, sql)
    }

    pub(super) fn explain(&mut self, sql: &str) -> Result<Option<Plan>, Fault> {
        plan_of(self.asks, sql)
    }
}
