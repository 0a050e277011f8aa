//! What a statement names: tables, common table expressions, files, and collations.

use std::collections::BTreeSet;

use serde_json::Value;

use super::tree::{arguments, function, list, text, walk};

/// The tables that are named in `value` without a schema, in small letters.
pub fn tables(value: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    walk(value, &mut |part| {
        if text(part, "type") == "BASE_TABLE" && text(part, "schema_name").is_empty() {
            names.insert(text(part, "table_name").to_ascii_lowercase());
        }
        true
    });
    names
}

/// All tables that are named in `value`, with a schema or without, in small letters.
pub fn all_tables(value: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    walk(value, &mut |part| {
        if text(part, "type") == "BASE_TABLE" {
            names.insert(text(part, "table_name").to_ascii_lowercase());
        }
        true
    });
    names
}

/// The names of all common table expressions of a statement, in small letters.
pub fn ctes(statement: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    walk(statement, &mut |part| {
        for entry in list(&part["cte_map"], "map") {
            names.insert(text(entry, "key").to_ascii_lowercase());
        }
        true
    });
    names
}

/// What names files in a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Reads {
    /// A name that stands for a table; one or more files, if there is no table of that name.
    Path(String),
    /// The first argument of a function that reads files, as an expression.
    Argument(Value),
}

/// What may name files in `statement`.
pub fn reads(statement: &Value) -> Vec<Reads> {
    let mut found = Vec::new();
    let local = ctes(statement);
    walk(statement, &mut |part| {
        match text(part, "type") {
            "BASE_TABLE" => {
                let names = ["catalog_name", "schema_name", "table_name"].map(|member| text(part, member));
                let path = names
                    .into_iter()
                    .filter(|name| !name.is_empty())
                    .collect::<Vec<_>>()
                    .join(".");
                if path.contains(['.', '/', '*']) && !local.contains(&path.to_ascii_lowercase()) {
                    found.push(Reads::Path(path));
                }
            }
            "TABLE_FUNCTION" => {
                let call = &part["function"];
                if function(call).is_some_and(|name| reads_files(&name))
                    && let Some(argument) = arguments(call).first()
                {
                    found.push(Reads::Argument((*argument).clone()));
                }
            }
            _ => {}
        }
        true
    });
    found
}

/// Whether `statement` reads nothing but what [`reads`] names, tables of ours, and functions that make their rows themselves.
pub fn reads_files_only(statement: &Value) -> bool {
    let local = ctes(statement);
    let mut only = true;
    walk(statement, &mut |part| {
        only &= match text(part, "type") {
            "BASE_TABLE" => {
                let name = text(part, "table_name").to_ascii_lowercase();
                name.contains(['.', '/', '*']) || name.starts_with("duckward_") || local.contains(&name)
            }
            "TABLE_FUNCTION" => function(&part["function"]).is_some_and(|name| {
                reads_files(&name)
                    || matches!(name.as_str(), "range" | "generate_series" | "unnest" | "repeat")
            }),
            _ => true,
        };
        only
    });
    only
}

fn reads_files(function: &str) -> bool {
    function.starts_with("read_") || matches!(function, "parquet_scan" | "sqlite_scan" | "st_read")
}

/// Whether a statement names a collation.
pub fn collates(statement: &Value) -> bool {
    let mut found = false;
    walk(statement, &mut |node| {
        found |= text(node, "class") == "COLLATE";
        !found
    });
    found
}
