//! Counts in cuts that have none by themselves: of DISTINCT, of set operations, and of QUALIFY.

use std::collections::BTreeSet;

use serde_json::Value;

use super::asking::node_of;
use super::proof::Verify;
use super::ranges::SIXTEENTH;
use super::{Fault, Run, one, why_not};
use crate::engine::Class;
use crate::engine::text::quoted;
use crate::fallback::decompose::rows::rows;
use crate::fallback::decompose::{Cut, all_tables, collates, with_qualify};
use crate::fallback::risk::Reach;

impl Run<'_> {
    /// `cut`, which is that of the query at `pointer`, with a grouping that counts in its place, where that is the same; and
    /// with a QUALIFY that waits until rows are counted, where they are to be proved in full.
    pub(super) fn with_counts(
        &mut self,
        tree: &Value,
        pointer: &str,
        columns: Option<&BTreeSet<String>>,
        cut: Cut,
    ) -> Result<Cut, Fault> {
        let Some(rows) = rows(tree, pointer, &self.parsed.functions) else {
            return Ok(match self.options.verify {
                Verify::Full => with_qualify(tree, pointer, columns, cut),
                Verify::Counts => cut,
            });
        };
        if self.may_collate(tree)? {
            // Which of its operations compare by a collation, and what is filtered below them, is another thing in each version.
            return why_not("a collation may decide which of its rows are equal");
        }
        let described = self.described(&cut)?;
        let template = node_of(self.asks, &rows.template(described.names.len()))?;
        let Some(counted) = rows.counted(tree, pointer, &cut, template, &described.names) else {
            return Ok(cut);
        };
        let other = match self.described(&counted) {
            // The sides may not go together as they do where they stand.
            Err(Fault::Engine(error)) if error.class == Class::Statement => return Ok(cut),
            Err(Fault::WhyNot(_)) => return Ok(cut),
            other => other?,
        };
        let same = rows.is_same_of(&described.names, &described.types, &self.parsed.functions)
            && other.names == described.names
            && other.types.starts_with(&described.types);
        // A grouping compares by collations, and DuckDB leaves the filter above it then. Before 2.0 it moves it below a
        // DISTINCT that does so, too, and the pieces would be wrong; and set operations compare without collations.
        if same && rows.is_distinct() {
            return Ok(counted);
        }
        let list = other.columns.join(", ");
        let plan = self.explain(&other.select(&list, &list, SIXTEENTH))?;
        let exact = plan.is_some_and(|plan| plan.reach("hash(") == Reach::All);
        Ok(if same && exact { counted } else { cut })
    }

    /// Whether a collation is named in `tree`, is that of a table in it, or holds everywhere.
    fn may_collate(&mut self, tree: &Value) -> Result<bool, Fault> {
        if collates(tree) {
            return Ok(true);
        }
        let named: Vec<String> = all_tables(tree).iter().map(|name| quoted(name)).collect();
        let named = if named.is_empty() {
            "NULL".to_owned()
        } else {
            named.join(", ")
        };
        let rows = self.asks.rows(&format!(
            "SELECT (current_setting('default_collation') <> '' OR EXISTS (FROM duckdb_tables() \
             WHERE lower(table_name) IN ({named}) AND sql ILIKE '%collate%'))::VARCHAR"
        ))?;
        Ok(one(&rows) != Some("false"))
    }
}
