//! A piece that did not fit, in two. Where it is one bucket of the hash, its groups are counted; one that does not fit by
//! itself is an error that names it, because no cut would help.

use super::ranges::{Range, smaller};
use super::sizes::kept_bytes;
use super::{Fault, Run, numbered};
use crate::engine::EngineError;
use crate::error::{Error, ErrorKind};
use crate::fallback::decompose::Cut;
use crate::units::Bytes;

/// The share of DuckDB's limit from which on one group by itself is said not to fit.
const CLAIM: f64 = 0.1;

/// A piece that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) range: Range,
    pub(super) source: String,
    pub(super) cut: Cut,
    pub(super) chosen: Vec<usize>,
}

/// The rows of one group, by the hash that it is cut by.
#[derive(Debug)]
struct Group {
    hash: u64,
    rows: u64,
    key: String,
}

impl Group {
    fn does_not_fit(&self, bytes: Bytes, error: &EngineError) -> Fault {
        Fault::Own(
            Error::new(
                ErrorKind::Memory,
                format!(
                    "one group does not fit into memory by itself: that of the key {}, whose {} rows are all kept by its \
                     aggregate, in about {bytes}; raise memory=, or aggregate less of it\nDuckDB said: {}",
                    self.key, self.rows, error.message
                ),
            )
            .with_source(error.clone()),
        )
    }
}

impl Run<'_> {
    /// The halves of a piece that did not fit.
    pub(super) fn split(
        &mut self,
        range: Range,
        source: Option<&str>,
        cut: &Cut,
        chosen: &[usize],
        counts: Option<&[u64]>,
        error: &EngineError,
    ) -> Result<Vec<Range>, Fault> {
        let parts = smaller(range, counts);
        if parts.len() > 1 {
            return Ok(parts);
        }
        // One bucket: which groups are in it?
        let Some(source) = source else {
            return Err(Fault::Engine(error.clone()));
        };
        let groups = self.groups(range, source, cut, chosen)?;
        if let [group] = groups.as_slice() {
            let bytes = self.kept_by(group, cut)?;
            if bytes < self.options.limit.times(CLAIM) {
                // It is not the group that fills the memory.
                return Err(Fault::Engine(error.clone()));
            }
            return Err(group.does_not_fit(bytes, error));
        }
        let half: u64 = groups.iter().map(|group| group.rows).sum::<u64>() / 2;
        let mut first = 0;
        for (index, group) in groups.iter().enumerate() {
            first += group.rows;
            if (first >= half || index + 2 == groups.len()) && index + 1 < groups.len() {
                let cut = groups[index + 1].hash;
                let rest = groups[index + 1..].iter().map(|group| group.rows).sum();
                return Ok(vec![
                    Range {
                        low: range.low,
                        high: cut - 1,
                        rows: first,
                    },
                    Range {
                        low: cut,
                        high: range.high,
                        rows: rest,
                    },
                ]);
            }
        }
        Err(Fault::Engine(error.clone()))
    }

    /// The groups of a range, in the order of their hashes.
    fn groups(
        &mut self,
        range: Range,
        source: &str,
        cut: &Cut,
        chosen: &[usize],
    ) -> Result<Vec<Group>, Fault> {
        let columns = numbered("k", cut.keys.len()).join(", ");
        let keys: Vec<String> = chosen.iter().map(|key| format!("k{key}")).collect();
        let shown: Vec<String> = keys
            .iter()
            .map(|key| format!("coalesce({key}::VARCHAR, 'NULL')"))
            .collect();
        let rows = self.asks.rows(&format!(
            "SELECT hash({keys})::VARCHAR AS h, count(*)::VARCHAR, any_value(concat_ws(', ', {})) FROM ({source}) \
             AS duckward_q({columns}) WHERE hash({keys}) BETWEEN {}::UBIGINT AND {}::UBIGINT GROUP BY hash({keys}) \
             ORDER BY hash({keys})",
            shown.join(", "),
            range.low,
            range.high,
            keys = keys.join(", "),
        ))?;
        Ok(rows
            .into_iter()
            .filter_map(|row| match row.as_slice() {
                [Some(hash), Some(rows), key] => Some(Group {
                    hash: hash.parse().ok()?,
                    rows: rows.parse().ok()?,
                    key: key.clone().unwrap_or_default(),
                }),
                _ => None,
            })
            .collect())
    }

    /// What the aggregates keep of a group.
    #[expect(
        clippy::cast_precision_loss,
        reason = "an estimate needs no more than 53 bits"
    )]
    fn kept_by(&mut self, group: &Group, cut: &Cut) -> Result<Bytes, Fault> {
        let keeps = self.keeps_of(cut)?;
        Ok(kept_bytes(&keeps, group.rows as f64, 1.0))
    }

    /// Why beginning anew with more pieces is no use: a group of the piece that failed does not fit by itself. The `last`
    /// time a group that may be the reason is named, too.
    pub(super) fn too_large(&mut self, error: &EngineError, last: bool) -> Option<Fault> {
        let failed = self.failed.take()?;
        // What cannot be found out is not said.
        let groups = self
            .groups(failed.range, &failed.source, &failed.cut, &failed.chosen)
            .ok()?;
        let largest = groups.iter().max_by_key(|group| group.rows)?;
        let bytes = self.kept_by(largest, &failed.cut).ok()?;
        let least = self.options.limit.times(if last { CLAIM } else { 1.0 });
        (bytes > least).then(|| largest.does_not_fit(bytes, error))
    }
}
