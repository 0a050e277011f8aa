//! What the pieces of a query read, written down once where reading it again for each of them would take longer.

use std::collections::BTreeSet;
use std::time::Duration;

use super::asking::{NO_TYPE, node_of};
use super::ranges::Range;
use super::sizes::type_width;
use super::{Fault, Run, numbered};
use crate::fallback::decompose::fed::{FEED, fed};
use crate::fallback::decompose::{Cut, KEY};
use crate::fallback::feed::{self, Costs};
use crate::settings::Feed;

/// What the pieces need, in a temporary table.
#[derive(Debug)]
pub(super) struct Written {
    table: String,
    /// The query over it.
    body: String,
}

impl Written {
    /// The piece of that range.
    pub(super) fn select(&self, items: &str, list: &str, range: Range) -> String {
        format!(
            "WITH {FEED} AS NOT MATERIALIZED (SELECT * FROM temp.main.{} WHERE duckward_b BETWEEN {}::UBIGINT AND \
             {}::UBIGINT) SELECT {items} FROM ({}) AS duckward_q({list})",
            self.table, range.low, range.high, self.body
        )
    }
}

impl Run<'_> {
    /// Writes what the pieces need once, where that is worth it and can be done.
    pub(super) fn feed(
        &mut self,
        cut: &Cut,
        chosen: &[usize],
        columns: Option<&BTreeSet<String>>,
        pieces: usize,
        rows: u64,
        pass: Duration,
    ) -> Result<Option<Written>, Fault> {
        if self.options.feed == Feed::Scan {
            return Ok(None);
        }
        let Some(mut fed) = fed(cut, &self.parsed.functions, columns) else {
            return Ok(None);
        };
        if let Some(summed) = &fed.summed {
            let text = self.text(summed)?;
            // What is added up in another order may differ in its last bit.
            if self
                .types(&text)?
                .iter()
                .any(|kind| kind == "DOUBLE" || kind == "FLOAT")
            {
                return Ok(None);
            }
        }
        let source = self.text(&fed.source)?;
        let types = self.types(&source)?;
        let costs = Costs {
            pieces,
            rows,
            width: types.iter().take(fed.columns).map(|kind| type_width(kind)).sum(),
            pass,
            disk: self.options.disk,
        };
        // A bare NULL has no type that a table could have, and a struct without names none that can be written.
        let storable = !types.iter().any(|kind| kind.contains(NO_TYPE)) && self.storable(&source).is_ok();
        if !storable || (self.options.feed == Feed::Auto && feed::choose(&costs) == Feed::Scan) {
            return Ok(None);
        }
        let from = node_of(self.asks, &format!("SELECT * FROM {FEED}"))?["from_table"].take();
        fed.body["statements"][0]["node"]["from_table"] = from;
        let body = self.text(&fed.body)?;
        let table = self.table();
        let given = numbered("duckward_s", fed.columns);
        let mut all = given.clone();
        all.extend(numbered(KEY, cut.keys.len()));
        let keys: Vec<String> = chosen.iter().map(|key| format!("{KEY}{key}")).collect();
        let mut kept = given;
        kept.push(format!("hash({}) AS duckward_b", keys.join(", ")));
        // Sorted, so that a piece reads no more than its own.
        let _ = self.asks.rows(&format!(
            "CREATE TEMP TABLE {table} AS SELECT {} FROM ({source}) AS duckward_q({}) ORDER BY duckward_b",
            kept.join(", "),
            all.join(", ")
        ))?;
        self.made.push(table.clone());
        Ok(Some(Written { table, body }))
    }
}
