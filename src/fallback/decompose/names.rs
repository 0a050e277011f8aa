//! What a name in a query stands for, a column or an item of its list, and whether that can be told without its columns.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::scope::skeleton;
use super::tree::{bare_name, change, is_query, list, named, statement, text, walk};

/// What a name stands for in GROUP BY and the like: a column of FROM if there is one, else an item of the list.
pub(super) struct Names<'a> {
    pub(super) items: &'a [Value],
    pub(super) columns: Option<&'a BTreeSet<String>>,
}

impl Names<'_> {
    /// Whether what `name` stands for cannot be told without knowing the columns.
    pub(super) fn is_alias(&self, name: &str) -> Option<&Value> {
        if self
            .columns
            .is_some_and(|columns| columns.contains(&name.to_ascii_lowercase()))
        {
            return None;
        }
        self.items
            .iter()
            .find(|item| text(item, "alias").eq_ignore_ascii_case(name) && bare_name(item) != Some(name))
    }

    pub(super) fn resolve(&self, expression: &Value) -> Value {
        let mut resolved = expression.clone();
        change(&mut resolved, &mut |part| {
            // The parameters of a lambda are names, too.
            if is_query(part) || text(part, "class") == "LAMBDA" {
                return false;
            }
            let meant = bare_name(part).and_then(|name| self.is_alias(name)).cloned();
            match meant {
                Some(meant) => {
                    *part = named(&meant, "");
                    false
                }
                None => true,
            }
        });
        resolved
    }
}

/// The statement whose columns decide what the names of `node` stand for, if that matters.
pub fn asks_for_columns(root: &Value, pointer: &str) -> Option<Value> {
    let node = root.pointer(pointer)?;
    let items = list(node, "select_list");
    let names = Names { items, columns: None };
    let mut matters = false;
    for member in [
        "group_expressions",
        "where_clause",
        "having",
        "qualify",
        "modifiers",
        "select_list",
    ] {
        if let Some(part) = node.get(member) {
            walk(part, &mut |inner| {
                matters |= bare_name(inner).is_some_and(|name| names.is_alias(name).is_some());
                !matters && !is_query(inner)
            });
        }
    }
    matters.then(|| {
        let mut bare = skeleton(root, pointer, node);
        bare["select_list"] = json!([{"class": "STAR", "type": "STAR", "alias": "", "relation_name": "",
            "exclude_list": [], "replace_list": [], "columns": false, "expr": null,
            "qualified_exclude_list": [], "rename_list": []}]);
        bare["where_clause"] = Value::Null;
        statement(&bare)
    })
}
