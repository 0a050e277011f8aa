//! The temporary tables of ours: what they are called, what reads them, and what takes them back.

use serde_json::Value;

use super::asking::{NO_TYPE, node_of};
use super::{Fault, Run};
use crate::engine::text::quoted_name;

/// What drops temporary tables of ours.
pub(super) fn drops(made: &[String]) -> Vec<String> {
    made.iter().rev().map(|table| drop_of(table)).collect()
}

pub(super) fn drop_of(table: &str) -> String {
    format!("DROP TABLE IF EXISTS temp.main.{table}")
}

impl Run<'_> {
    pub(super) fn table(&mut self) -> String {
        format!("duckward_{}_{}", self.options.number, self.made.len() + 1)
    }

    /// A query that gives what is in the temporary table, under its own names.
    pub(super) fn reading(
        &mut self,
        table: &str,
        names: &[String],
        types: &[String],
        condition: &str,
    ) -> Result<Value, Fault> {
        let items: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(index, name)| {
                // A table has no column of that type; before 2.0 it is stored as an INTEGER.
                let untyped = types.get(index).is_some_and(|kind| kind == NO_TYPE);
                let value = if untyped {
                    "NULL".to_owned()
                } else {
                    format!("duckward_c{index}")
                };
                format!("{value} AS {}", quoted_name(name))
            })
            .collect();
        let sql = format!(
            "SELECT {} FROM temp.main.{table} AS duckward_q{condition}",
            items.join(", ")
        );
        node_of(self.asks, &sql)
    }

    pub(super) fn drops(&self) -> Vec<String> {
        drops(&self.made)
    }

    pub(super) fn undo(&self) -> Vec<String> {
        if self.began {
            vec!["ROLLBACK".to_owned()]
        } else {
            self.drops()
        }
    }

    pub(super) fn give_up(&mut self) {
        for statement in self.undo() {
            self.asks.clean(&statement);
        }
    }
}
