//! How much memory a query keeps: by the types of what its aggregates take where nothing may be run yet, and by a look at
//! the first rows where it is computed anyway.

use serde_json::Value;

use super::asking::texts_of;
use super::described::Described;
use super::rewrite::list_length;
use super::{Fault, Run, numbered, one};
use crate::fallback::decompose::{Cut, Kept};
use crate::fallback::risk::{Keeps, Plan, pieces, state_bytes};
use crate::units::Bytes;

/// Rows that are looked at to learn how wide values are.
const SAMPLE: u32 = 1000;

impl Run<'_> {
    /// How many different values an aggregate takes, if it takes a column of a table of which DuckDB keeps that.
    pub(super) fn different(&mut self, kept: &Kept) -> Result<Option<f64>, Fault> {
        let Some(mut values) = kept.values.clone() else {
            return Ok(None);
        };
        let node = &mut values["statements"][0]["node"];
        // The first row must be there at once.
        node["where_clause"] = Value::Null;
        let one_table = node["from_table"]["type"] == "BASE_TABLE";
        if !one_table || list_length(&values, "/statements/0/node") != 1 {
            return Ok(None);
        }
        let text = self.text(&values)?;
        let rows = self.asks.rows(&format!(
            "SELECT stats(v)::VARCHAR FROM ({text}) AS duckward_q(v) LIMIT 1"
        ))?;
        Ok(one(&rows).and_then(approximately_unique))
    }

    /// What aggregates keep, by the types of what they take.
    pub(super) fn keeps(&mut self, kept: &[&Kept]) -> Result<Vec<Keeps>, Fault> {
        let values: Vec<&Value> = kept.iter().filter_map(|kept| kept.values.as_ref()).collect();
        let mut texts = texts_of(self.asks, &values)?.into_iter();
        let mut keeps = Vec::new();
        for kept in kept {
            let width = match kept.values.as_ref().and_then(|_| texts.next()) {
                Some(text) => self.types(&text)?.iter().map(|kind| type_width(kind)).sum(),
                None => 0.0,
            };
            keeps.push(Keeps {
                state: kept.state,
                width,
            });
        }
        Ok(keeps)
    }

    /// Into how many pieces, by what the aggregates keep.
    #[expect(
        clippy::cast_precision_loss,
        reason = "an estimate needs no more than 53 bits"
    )]
    pub(super) fn estimate(
        &mut self,
        cut: &Cut,
        described: &Described,
        counts: Option<&[u64]>,
    ) -> Result<usize, Fault> {
        let plan = self.explain(&described.text)?;
        let rows = counts.map_or_else(
            || plan.as_ref().map_or(0.0, Plan::cost),
            |counts| counts.iter().sum::<u64>() as f64,
        );
        let groups = plan.as_ref().and_then(Plan::groups).unwrap_or(rows).min(rows);
        let keeps = self.keeps_of(cut)?;
        Ok(pieces(kept_bytes(&keeps, rows, groups), self.options.limit).max(2))
    }

    /// What the aggregates of a cut keep, by the first rows.
    pub(super) fn keeps_of(&mut self, cut: &Cut) -> Result<Vec<Keeps>, Fault> {
        let mut keeps = Vec::new();
        for kept in &cut.kept {
            keeps.push(Keeps {
                state: kept.state,
                width: self.width(kept)?,
            });
        }
        Ok(keeps)
    }

    /// Bytes of the values of one row, from a look at the first of them.
    fn width(&mut self, kept: &Kept) -> Result<f64, Fault> {
        let Some(values) = &kept.values else {
            return Ok(0.0);
        };
        let text = self.text(values)?;
        let count = self.describe(&text)?.len();
        let widths: Vec<String> = numbered("v", count)
            .iter()
            .map(|value| {
                format!(
                    "coalesce(avg(CASE WHEN typeof({value}) IN ('VARCHAR', 'BLOB', 'BIT', 'JSON') OR typeof({value}) LIKE '%[%' \
                     OR typeof({value}) LIKE '%(%' THEN 16 + strlen({value}::VARCHAR) WHEN typeof({value}) LIKE '%INT' \
                     OR typeof({value}) IN ('FLOAT', 'BOOLEAN', 'DATE', 'INTEGER') THEN \
                     CASE WHEN typeof({value}) LIKE '%BIGINT' THEN 8 WHEN typeof({value}) LIKE '%HUGEINT' THEN 16 ELSE 4 END \
                     WHEN typeof({value}) IN ('HUGEINT', 'UHUGEINT', 'UUID', 'INTERVAL') THEN 16 ELSE 8 END), 8)"
                )
            })
            .collect();
        if widths.is_empty() {
            return Ok(0.0);
        }
        let columns = numbered("v", count).join(", ");
        // Under a constant as its limit DuckDB 1.4 opens all files of a pattern, and keeps them open.
        let rows = self.asks.rows(&format!(
            "SELECT ({})::DOUBLE::VARCHAR FROM (SELECT * FROM ({text}) AS duckward_q({columns}) LIMIT (SELECT {SAMPLE}))",
            widths.join(" + ")
        ))?;
        Ok(one(&rows).and_then(|width| width.parse().ok()).unwrap_or(16.0))
    }
}

/// What a query keeps: its aggregates, and where none of it is kept by itself, its groups.
pub(super) fn kept_bytes(keeps: &[Keeps], rows: f64, groups: f64) -> Bytes {
    if keeps.is_empty() {
        // Nothing is kept by itself: what there is, is a row of each group.
        return Bytes(rounded(groups * 80.0));
    }
    state_bytes(keeps, rows, groups)
}

/// How many of `cells` are hit by `rows` that are spread evenly over them.
pub(super) fn pairs(cells: f64, rows: f64) -> f64 {
    if cells <= 0.0 {
        return 0.0;
    }
    (cells * -(-rows / cells).exp_m1()).min(rows)
}

/// How many different values DuckDB's statistics of a column speak of: a struct in 2.0, and a text before.
fn approximately_unique(stats: &str) -> Option<f64> {
    let stats = stats.to_ascii_lowercase().replace('_', " ");
    let after = &stats[stats.find("approx unique")?..];
    let digits: String = after
        .chars()
        .skip_while(|letter| !letter.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// An estimate as a whole number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate; saturates"
)]
pub(super) fn rounded(number: f64) -> u64 {
    number.round() as u64
}

/// Bytes of a value of that type; of one without a fixed size, what is usual.
pub(super) fn type_width(kind: &str) -> f64 {
    match kind {
        "BOOLEAN" | "TINYINT" | "UTINYINT" | "SMALLINT" | "USMALLINT" | "INTEGER" | "UINTEGER" | "FLOAT"
        | "DATE" => 4.0,
        "HUGEINT" | "UHUGEINT" | "UUID" | "INTERVAL" => 16.0,
        "VARCHAR" | "BLOB" | "BIT" | "JSON" => 32.0,
        kind if kind.ends_with(']') => 32.0,
        kind if kind.starts_with("DECIMAL(") => 16.0,
        kind if kind.starts_with("ENUM(") => 4.0,
        kind if kind.contains('(') => 32.0,
        _ => 8.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_in_both_ways_to_print_them() {
        let new = "{'approx_unique': 13358944, 'has_null': false, 'max': 9}";
        let old = "[Min: 0, Max: 9][Has Null: false, Has No Null: true][Approx Unique: 133]";
        assert_eq!(approximately_unique(new), Some(13_358_944.0));
        assert_eq!(approximately_unique(old), Some(133.0));
        assert_eq!(approximately_unique("{'has_null': false}"), None);
    }

    #[test]
    fn pairs_are_no_more_than_rows_or_cells() {
        assert!(
            (pairs(1e9, 2e7) - 2e7).abs() < 1e6,
            "nearly every row is another pair"
        );
        assert!((pairs(100.0, 2e7) - 100.0).abs() < 1e-6);
        assert!(pairs(0.0, 5.0).abs() < 1e-9);
    }
}
