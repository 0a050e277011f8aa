//! The text of a refusal: what happened, to what, what it would need, and what to do next. Pure.

use serde_json::Value;

use super::report::Report;
use crate::engine::EngineError;
use crate::error::ErrorKind;
use crate::fallback::classify::Failure;
use crate::units::Bytes;

/// What a refusal is told from.
pub(super) struct Refusal<'a> {
    pub(super) kind: ErrorKind,
    pub(super) failure: Failure,
    pub(super) in_transaction: bool,
    pub(super) report: &'a Report,
    pub(super) budget_source: &'a str,
    pub(super) plan: Option<String>,
}

/// Bytes an operator keeps per row of what it cannot spill, beside the values themselves (measured: 16 to 40).
const STATE_PER_ROW: u64 = 24;

/// Whether a message about a full disk is about temporary storage, and not about a file that is written.
fn is_spill(text: &str) -> bool {
    text.contains("max_temp_directory_size") || text.contains("duckdb_temp_")
}

impl Refusal<'_> {
    pub(super) fn message(&self, error: &EngineError) -> String {
        let text = error.message.trim_end();
        let mut message = match self.kind {
            ErrorKind::Memory => self.memory(text),
            ErrorKind::Disk if !is_spill(text) => {
                format!("a disk is full: {text}; free space there, or write to another disk")
            }
            ErrorKind::Disk => format!(
                "no room to spill after {} of temporary storage: {text}; free disk space, name a larger directory with \
                 temp_directory=, or raise max_temp_directory_size",
                self.report.spill
            ),
            ErrorKind::Timeout => {
                format!(
                    "stopped by its time limit: {text}; raise query_timeout= (or max_execution_time), or narrow the query"
                )
            }
            ErrorKind::Cancelled => "cancelled; the connection can be used".to_owned(),
            ErrorKind::Transaction if self.failure == Failure::Aborted => {
                format!(
                    "the open transaction is aborted and nothing of it will be kept: {text}; run ROLLBACK and start it again"
                )
            }
            ErrorKind::Transaction => format!(
                "another transaction changed the same rows first, {} times in a row: {text}; try again when it has ended",
                self.report.attempts.len()
            ),
            ErrorKind::Connection if self.failure == Failure::Crash => {
                format!(
                    "DuckDB invalidated the database: {text}; close every connection to it and open it again"
                )
            }
            ErrorKind::Corruption => {
                format!(
                    "stored data does not match its checksum: {text}; stop writing and restore from a backup"
                )
            }
            _ => text.to_owned(),
        };
        if self.in_transaction && self.kind != ErrorKind::Query {
            message.push_str("; it ran inside your transaction, so it was not tried again: ROLLBACK first");
        }
        message
    }

    fn memory(&self, text: &str) -> String {
        let tried: Vec<&str> = self
            .report
            .attempts
            .iter()
            .map(|attempt| attempt.rung.name())
            .collect();
        let what = match self.failure {
            Failure::InterruptedByGuard => {
                "the guard interrupted the query before the process ran out of memory"
            }
            _ => "the query does not fit into memory",
        };
        let need = self.need();
        let mut message = format!(
            "{what} (tried: {}; peak {} of a budget of {}, {}); it needs about {need} or more: raise memory=",
            tried.join(", "),
            self.report.peak,
            self.report.budget,
            self.budget_source,
        );
        if self
            .plan
            .as_deref()
            .is_some_and(|plan| !unspillable(plan).is_empty())
        {
            let names = unspillable(self.plan.as_deref().unwrap_or_default());
            message.push_str(&format!(
                ", or cut the query by a range of its keys: {} cannot spill to disk",
                names.join(", ")
            ));
        } else {
            message.push_str(
                ", read fewer columns or rows, or read the answer batch by batch or with to_arrow()",
            );
        }
        message.push_str("\nDuckDB said: ");
        message.push_str(text);
        message
    }

    /// The larger of what the plan suggests and half as much again as was reached.
    fn need(&self) -> Bytes {
        let reached = self.report.peak.times(1.5);
        let planned = self
            .plan
            .as_deref()
            .and_then(planned_state)
            .map_or(Bytes(0), |state| state.plus(self.report.budget.times(0.25)));
        let need = reached.max(planned).max(self.report.budget.times(1.25));
        // Rounded up to 64 MiB: an estimate should not look exact.
        Bytes(need.get().div_ceil(64 << 20) * (64 << 20))
    }
}

/// Aggregates whose state DuckDB keeps in memory whole (measured on 1.4 to 2.0).
const UNSPILLABLE: [&str; 17] = [
    "string_agg",
    "group_concat",
    "listagg",
    "array_agg",
    "list",
    "median",
    "quantile",
    "mode",
    "arg_max",
    "arg_min",
    "max_by",
    "min_by",
    "histogram",
    "mad",
    "approx_quantile",
    "json_group",
    "count(distinct",
];

/// What the name of one of them may end in: `list_value` is no form of `list`.
const FORMS: [&str; 9] = [
    "",
    "_cont",
    "_disc",
    "_null",
    "_nulls_last",
    "_exact",
    "_array",
    "_object",
    "_structure",
];

/// The aggregates in a plan that cannot spill, each once.
fn unspillable(plan: &str) -> Vec<&'static str> {
    let plan = plan.to_ascii_lowercase();
    UNSPILLABLE
        .into_iter()
        .filter(|name| {
            plan.match_indices(name).any(|(at, _)| {
                let before = plan[..at]
                    .chars()
                    .next_back()
                    .is_none_or(|c| !c.is_alphanumeric() && c != '_');
                let after = &plan[at + name.len()..];
                let (form, _) = after.split_once('(').unwrap_or((" ", ""));
                before && (name.contains('(') || FORMS.contains(&form))
            })
        })
        .map(|name| name.trim_end_matches("(distinct"))
        .collect()
}

/// Memory of the largest blocking operator, from the plan's estimated cardinalities.
fn planned_state(plan: &str) -> Option<Bytes> {
    let json: Value = serde_json::from_str(plan).ok()?;
    let mut most = 0;
    walk(&json, &mut most);
    (most > 0).then_some(Bytes(most))
}

fn walk(node: &Value, most: &mut u64) {
    match node {
        Value::Array(nodes) => nodes.iter().for_each(|node| walk(node, most)),
        Value::Object(fields) => {
            let name = fields
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_ascii_uppercase();
            let children = fields.get("children").and_then(Value::as_array);
            if name.contains("GROUP_BY") || name.contains("AGGREGATE") || name.contains("WINDOW") {
                let rows = children
                    .into_iter()
                    .flatten()
                    .filter_map(cardinality)
                    .max()
                    .unwrap_or(0);
                let aggregates = fields
                    .get("extra_info")
                    .and_then(|info| info.get("Aggregates"))
                    .map_or(1, |list| list.as_array().map_or(1, Vec::len) as u64);
                *most = (*most).max(
                    rows.saturating_mul(STATE_PER_ROW)
                        .saturating_mul(aggregates.max(1)),
                );
            }
            children.into_iter().flatten().for_each(|child| walk(child, most));
        }
        _ => {}
    }
}

/// The estimated cardinality of a node, or of the first below it that has one.
fn cardinality(node: &Value) -> Option<u64> {
    let own = node
        .get("extra_info")
        .and_then(|info| info.get("Estimated Cardinality"))
        .and_then(|value| match value {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        });
    own.or_else(|| {
        node.get("children")?
            .as_array()?
            .iter()
            .filter_map(cardinality)
            .max()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Class;
    use crate::fallback::ladder::Rung;
    use crate::ward::Attempt;

    const PLAN: &str = r#"[{"name":"HASH_GROUP_BY","children":[{"name":"SEQ_SCAN","children":[],
        "extra_info":{"Estimated Cardinality":"20000000"}}],"extra_info":{"Aggregates":["median(#1)","list(#2)"]}}]"#;

    fn report() -> Report {
        let attempt = |rung| Attempt {
            rung,
            seconds: 1.0,
            peak: Bytes::mib(400),
            failure: Some(Failure::Memory),
            message: None,
        };
        Report {
            attempts: vec![attempt(Rung::AsIs), attempt(Rung::Degraded)],
            budget: Bytes::mib(480),
            peak: Bytes::mib(400),
            ..Report::default()
        }
    }

    fn message(kind: ErrorKind, failure: Failure, in_transaction: bool, plan: Option<&str>) -> String {
        let report = report();
        let refusal = Refusal {
            kind,
            failure,
            in_transaction,
            report: &report,
            budget_source: "memory=480MiB",
            plan: plan.map(str::to_owned),
        };
        refusal.message(&EngineError {
            class: Class::OutOfMemory,
            message: "Out of Memory Error: x".to_owned(),
        })
    }

    #[test]
    fn a_refusal_for_memory_names_what_was_tried_what_it_needs_and_what_cannot_spill() {
        let text = message(ErrorKind::Memory, Failure::Memory, false, Some(PLAN));
        for part in [
            "as is, degraded",
            "400.0 MiB of a budget of 480.0 MiB",
            "1.0 GiB",
            "raise memory=",
            "median",
            "list",
            "Out of Memory Error: x",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn without_a_plan_the_estimate_is_more_than_was_reached() {
        let text = message(ErrorKind::Memory, Failure::InterruptedByGuard, false, None);
        assert!(
            text.contains("640.0 MiB") && text.contains("to_arrow()"),
            "{text}"
        );
    }

    #[test]
    fn a_name_inside_another_is_not_an_aggregate() {
        assert_eq!(
            unspillable("list_value(1), my_median(2), \"mode\""),
            Vec::<&str>::new().as_slice()
        );
        assert_eq!(
            unspillable("quantile_disc(v, 0.5), string_agg(s)"),
            ["string_agg", "quantile"]
        );
    }

    #[test]
    fn inside_a_transaction_it_says_why_it_was_not_tried_again() {
        let text = message(ErrorKind::Memory, Failure::Memory, true, None);
        assert!(text.contains("ROLLBACK"), "{text}");
    }

    #[test]
    fn a_disk_that_is_full_of_what_is_written_is_not_taken_for_one_that_is_spilled_to() {
        let text = |message: &str| {
            let report = report();
            let refusal = Refusal {
                kind: ErrorKind::Disk,
                failure: Failure::DiskFull,
                in_transaction: false,
                report: &report,
                budget_source: "memory=480MiB",
                plan: None,
            };
            refusal.message(&EngineError {
                class: Class::Io,
                message: message.to_owned(),
            })
        };
        let written = text("Could not write file \"/lake/data_0.parquet\": No space left on device");
        assert!(
            written.starts_with("a disk is full: ") && !written.contains("temp_directory"),
            "{written}"
        );
        for spilled in [
            "Could not write file \"/tmp/duckdb_temp_storage_DEFAULT-0.tmp\": No space left on device",
            "failed to offload data block; max_temp_directory_size",
        ] {
            let spilled = text(spilled);
            assert!(
                spilled.contains("name a larger directory with temp_directory="),
                "{spilled}"
            );
        }
    }
}
