//! Counts in cuts that have none by themselves: of DISTINCT, of set operations, and of QUALIFY.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::decompose::rows::rows;
use super::super::decompose::{Cut, with_qualify};
use super::super::risk::Reach;
use super::{Fault, Run, SIXTEENTH, Verify, node_of};
use crate::engine::Class;

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
}
