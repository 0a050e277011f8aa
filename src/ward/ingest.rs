//! A load, as the ward tells it: an event for each batch, and what became of all of it, as text and as HTML.

use std::fmt;

use super::Ward;
use super::report::{duration, html_table, text_lines};
use crate::event::What;
use crate::guard::Level;
use crate::partition::ingest::{Committed, Ingested};

impl Ward {
    /// Whether a load should take less at once: from the level warning on.
    pub fn is_pressed(&self) -> bool {
        self.level() >= Level::Warning
    }

    /// Publishes that a batch of the load that is known by `token` was committed.
    pub fn publish_batch(&self, token: &str, batch: Committed) {
        self.guardian.bus().publish(What::BatchCommitted {
            token: token.to_owned(),
            batch: batch.batch,
            rows: batch.rows,
            rejected: batch.rejected,
            position: batch.position,
        });
    }
}

impl Ingested {
    /// Name and value of every line that people read.
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("into", self.table.clone()),
            ("rows", self.rows.to_string()),
            ("batches", self.batches.to_string()),
        ];
        match &self.rejects {
            Some(rejects) => lines.push(("rejected", format!("{}, into {rejects}", self.rejected))),
            None => lines.push((
                "rejected",
                "none: a bad record would have ended the load".to_owned(),
            )),
        }
        if let Some(position) = self.resumed_from {
            lines.push((
                "resumed",
                format!("after {position} records that earlier calls had committed"),
            ));
            lines.push((
                "all in all",
                format!("{} rows, {} rejected", self.total_rows, self.total_rejected),
            ));
        }
        lines.push(("token", self.token.clone()));
        lines.push(("time", duration(self.seconds)));
        lines
    }

    /// That as a small HTML table, for notebooks.
    pub fn to_html(&self) -> String {
        html_table("duckward ingest", self.lines())
    }
}

impl fmt::Display for Ingested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text_lines(f, self.lines())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_was_resumed_says_so_and_html_is_escaped() {
        let mut done = Ingested {
            table: "\"main\".\"a<b\"".to_owned(),
            rows: 5,
            rejected: 0,
            batches: 1,
            token: "x".to_owned(),
            resumed_from: None,
            total_rows: 5,
            total_rejected: 0,
            rejects: None,
            seconds: 1.0,
        };
        assert!(!done.to_string().contains("resumed"), "{done}");
        done.resumed_from = Some(7);
        assert!(done.to_string().contains("after 7 records"), "{done}");
        assert!(!done.to_html().contains("a<b"));
    }
}
