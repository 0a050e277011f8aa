//! Takes a statement in: DuckDB's parse of it, with the values of parameters and the queries of views in their places, and
//! what its functions are. What is cut later must mean the same wherever it stands.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use serde_json::Value;

use super::asking::{describe, node_of};
use super::rewrite::{take_sets_apart, ungroup};
use super::{Asks, Fault, one, why_not};
use crate::engine::Rows;
use crate::engine::text::{Token, query_of, quoted, tokens, view_query, words};
use crate::fallback::decompose::functions::{Functions, names};
use crate::fallback::decompose::{
    all_tables, ctes, has_parameters, name_items, put_parameters, put_views, spell_floats, tables,
};

/// A parsed statement, and what its functions are.
#[derive(Debug)]
pub struct Parsed {
    pub(super) before: String,
    pub(super) after: String,
    pub(super) tree: Value,
    pub(super) functions: Functions,
    /// Whether it is a SELECT, which changes nothing.
    pub selects: bool,
}

impl Parsed {
    /// Whether it writes files.
    pub(super) fn copies(&self) -> bool {
        words(&self.before)
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("copy"))
    }
}

/// Asks DuckDB for its parse of `sql`. `known` keeps what was learnt of DuckDB's own functions: its catalog takes long to read.
///
/// # Errors
/// Why it cannot be cut, or the engine's.
pub fn parse(asks: &mut dyn Asks, sql: &str, known: &Mutex<Functions>) -> Result<Parsed, Fault> {
    let Some(range) = query_of(sql) else {
        return why_not("it is not one SELECT, nor an INSERT, a CREATE TABLE AS or a COPY of one");
    };
    let query = &sql[range.clone()];
    let rows = asks.rows(&format!("SELECT json_serialize_sql({})", quoted(query)))?;
    let mut tree: Value = one(&rows)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null);
    if tree["error"] != Value::Bool(false) {
        let said = tree["error_message"]
            .as_str()
            .unwrap_or("it is nested too deeply");
        return why_not(format!("DuckDB does not give its parse of it: {said}"));
    }
    if tree["statements"].as_array().is_none_or(|all| all.len() != 1) {
        return why_not("it is more than one statement");
    }
    if query.to_ascii_lowercase().contains("duckward_") {
        return why_not("it uses a name that begins with duckward_, as those of the pieces do");
    }
    if has_parameters(&tree) {
        bind(asks, &mut tree)?;
    } else {
        let names = describe(asks, query)?;
        name_items(&mut tree, &names)?;
    }
    expand_views(asks, &mut tree)?;
    let functions = called(asks, &tree, known)?;
    if functions.is_macro("hash") {
        return why_not("there is a macro called hash, which the pieces would be cut by");
    }
    spell_floats(&mut tree);
    take_sets_apart(asks, &mut tree, &functions)?;
    ungroup(asks, &mut tree, &functions)?;
    let before = sql[..range.start].to_owned();
    Ok(Parsed {
        selects: is_gap(&before),
        before,
        after: sql[range.end..]
            .trim_end_matches(|c: char| c.is_whitespace() || c == ';')
            .to_owned(),
        tree,
        functions,
    })
}

/// What the catalog says of the functions that are called.
fn called(asks: &mut dyn Asks, tree: &Value, known: &Mutex<Functions>) -> Result<Functions, Fault> {
    let mut called = names(tree);
    called.extend(["hash", "sum"].map(str::to_owned));
    let unknown: Vec<String> = {
        let known = known.lock();
        called
            .iter()
            .filter(|name| !known.knows(name))
            .map(|name| quoted(name))
            .collect()
    };
    let rows = if unknown.is_empty() {
        Rows::new()
    } else {
        asks.rows(&format!(
            "SELECT DISTINCT function_name, function_type, stability, internal::VARCHAR FROM duckdb_functions() \
             WHERE function_name IN ({})",
            unknown.join(", ")
        ))?
    };
    // The user's own functions may be others the next time, also under the name of one of DuckDB's.
    let own: BTreeSet<&str> = rows
        .iter()
        .filter(|row| {
            row.get(3)
                .is_some_and(|internal| internal.as_deref() != Some("true"))
        })
        .filter_map(|row| row.first()?.as_deref())
        .collect();
    let lasting: Rows = rows
        .iter()
        .filter(|row| {
            row.first()
                .and_then(Option::as_deref)
                .is_some_and(|name| !own.contains(name))
        })
        .cloned()
        .collect();
    let mut known = known.lock();
    known.learn(&lasting);
    let mut functions = known.only(&called);
    drop(known);
    functions.learn(&rows);
    Ok(functions)
}

/// Puts the values of the parameters into the tree.
fn bind(asks: &mut dyn Asks, tree: &mut Value) -> Result<(), Fault> {
    let Some(values) = asks.parameters()? else {
        return why_not("it has parameters whose values cannot be written as SQL");
    };
    let mut known = BTreeMap::new();
    for (name, literal) in values {
        let expression = node_of(asks, &format!("SELECT {literal}"))?
            .pointer("/select_list/0")
            .cloned()
            .unwrap_or(Value::Null);
        known.insert(name, expression);
    }
    put_parameters(tree, &known);
    Ok(())
}

/// Puts the queries of views in their place, as DuckDB would do.
fn expand_views(asks: &mut dyn Asks, tree: &mut Value) -> Result<(), Fault> {
    let local = ctes(tree);
    let mut wanted: Vec<String> = tables(tree)
        .into_iter()
        .filter(|name| !local.contains(name))
        .collect();
    // Views of views, but not for ever.
    for _ in 0..8 {
        if wanted.is_empty() {
            break;
        }
        let listed: Vec<String> = wanted.iter().map(|name| quoted(name)).collect();
        let rows = asks.rows(&format!(
            "SELECT lower(view_name), sql FROM duckdb_views() WHERE NOT internal AND lower(view_name) IN ({}) \
             AND schema_name = 'main' AND current_schema() = 'main' AND database_name IN (current_database(), 'temp') \
             ORDER BY temporary",
            listed.join(", ")
        ))?;
        if rows.is_empty() {
            break;
        }
        let temporary = asks.rows("SELECT lower(table_name) FROM duckdb_tables() WHERE temporary")?;
        let mut queries = BTreeMap::new();
        for row in &rows {
            if let [Some(name), Some(sql)] = row.as_slice()
                && !temporary.iter().flatten().any(|table| table.as_ref() == Some(name))
                // Objects that were registered are views, too.
                && !sql.contains("__duckdb_source")
                && let Some(query) = view_query(sql)
            {
                let table = node_of(asks, &format!("SELECT * FROM {query}"))?["from_table"].clone();
                queries.insert(name.clone(), table);
            }
        }
        wanted = put_views(tree, &queries)
            .into_iter()
            .filter(|name| !local.contains(name))
            .collect();
    }
    Ok(())
}

/// A name that is neither a table nor a file stands for an object of the host program, which may be another one by now, or
/// be readable once only; or for a view that was not looked into.
pub(super) fn refuse_objects(asks: &mut dyn Asks, parsed: &Parsed) -> Result<(), Fault> {
    let local = ctes(&parsed.tree);
    let bare = tables(&parsed.tree);
    let named = all_tables(&parsed.tree);
    if named.is_empty() {
        return Ok(());
    }
    let rows = asks.rows(
        "SELECT lower(table_name), 'table' FROM duckdb_tables() UNION ALL SELECT lower(view_name), \
         CASE WHEN sql LIKE '%pandas_scan(%' THEN 'frame' ELSE 'view' END FROM duckdb_views() WHERE NOT internal",
    )?;
    let is = |name: &str, kind: &str| {
        rows.iter()
            .any(|row| matches!(row.as_slice(), [Some(known), Some(what)] if known == name && what == kind))
    };
    for name in named {
        let is_local = local.contains(&name);
        if is(&name, "view") {
            return why_not(if is_local {
                format!(
                    "it reads {name}, which is the name of a view and of a common table expression: rename that one"
                )
            } else {
                format!(
                    "it reads {name}, a view that is not looked into or an object that may be readable once only: put it into a table"
                )
            });
        }
        let known = is_local || is(&name, "table") || is(&name, "frame") || name.contains(['.', '/', '*']);
        if !known && bare.contains(&name) {
            return why_not(format!(
                "it reads {name}, an object of the program that may be another one by now: register() it, or put it into a table"
            ));
        }
    }
    Ok(())
}

/// Whether there is nothing but space and comments in `text`.
pub(super) fn is_gap(text: &str) -> bool {
    tokens(text).all(|(token, _)| token == Token::Gap)
}
