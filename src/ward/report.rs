//! What happened to one query: attempts, rung, why, memory, spill, rows, time. Data, as text, and as HTML.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;
use crate::fallback::classify::Failure;
use crate::fallback::ladder::Rung;
use crate::fallback::pieces::{Piece, Verify};
use crate::units::Bytes;

/// How a query ended.
///
/// In JSON it is the text that people read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Outcome {
    /// It has not been read yet, so it has not run.
    #[default]
    NotRun,
    /// It runs, or its answer is being read.
    Running,
    /// Answered whole.
    Answered,
    /// Closed before its end.
    Closed,
    /// It ended in an error of this kind.
    Failed(ErrorKind),
}

impl From<Outcome> for String {
    fn from(outcome: Outcome) -> String {
        outcome.to_string()
    }
}

impl TryFrom<String> for Outcome {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let failed = ErrorKind::ALL.map(Outcome::Failed);
        [
            Outcome::NotRun,
            Outcome::Running,
            Outcome::Answered,
            Outcome::Closed,
        ]
        .into_iter()
        .chain(failed)
        .find(|outcome| outcome.to_string() == text)
        .ok_or_else(|| format!("{text:?} is not an outcome"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::NotRun => f.write_str("not run yet"),
            Outcome::Running => f.write_str("running"),
            Outcome::Answered => f.write_str("answered"),
            Outcome::Closed => f.write_str("closed before its end"),
            Outcome::Failed(kind) => write!(f, "failed: {kind}"),
        }
    }
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The rung it ran on.
    pub rung: Rung,
    /// Wall time.
    pub seconds: f64,
    /// Largest memory that counted while it ran.
    pub peak: Bytes,
    /// Why it failed; none for the one that answered.
    pub failure: Option<Failure>,
    /// The engine's message, when it failed.
    pub message: Option<String>,
}

/// What happened to one query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The query's number in this process; 0 when it has not run.
    pub query: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
    /// Why it left the first rung, or why it failed; empty when nothing happened.
    pub why: String,
    /// The budget in force when it began.
    pub budget: Bytes,
    /// Largest memory that counted while it ran: of the process, not of the query alone.
    pub peak: Bytes,
    /// Largest temporary storage seen while it ran.
    pub spill: Bytes,
    /// Rows handed out or changed; none where they are not counted.
    pub rows: Option<u64>,
    /// The pieces it was computed in; empty when it was computed at once.
    pub pieces: Vec<Piece>,
    /// What was proved of the pieces: of every query that was cut. None where there are none, or where the rows of one could
    /// not be counted.
    pub verified: Option<Verify>,
    /// Why it was not computed in pieces, if that was asked.
    pub why_not: Option<String>,
    /// The answer was cut at `row_cap` rows under memory pressure.
    pub truncated: bool,
    /// Size of the answer on disk, when it was moved there.
    pub spooled: Option<Bytes>,
    /// Wall time from the start of the first attempt to the end of the answer.
    pub seconds: f64,
    /// Time spent waiting for admission.
    pub waited: f64,
}

impl Report {
    /// The rung of the last attempt.
    pub fn rung(&self) -> Option<Rung> {
        self.attempts.last().map(|attempt| attempt.rung)
    }

    /// Name and value of every line that people read.
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("outcome", self.outcome.to_string())];
        if self.outcome == Outcome::NotRun {
            return lines;
        }
        if self.truncated {
            lines.push((
                "truncated",
                "yes: cut at row_cap under memory pressure".to_owned(),
            ));
        }
        if let Some(rows) = self.rows {
            lines.push(("rows", rows.to_string()));
        }
        lines.push(("time", duration(self.seconds)));
        if self.waited >= 0.001 {
            lines.push(("waited", duration(self.waited)));
        }
        let share = self.peak.share_of(self.budget) * 100.0;
        lines.push((
            "peak memory",
            format!("{} of {} ({share:.0} %)", self.peak, self.budget),
        ));
        if self.spill > Bytes(0) {
            lines.push(("spilled", self.spill.to_string()));
        }
        if let Some(spooled) = self.spooled {
            lines.push(("answer on disk", spooled.to_string()));
        }
        if !self.why.is_empty() {
            lines.push(("why", self.why.clone()));
        }
        if !self.pieces.is_empty() {
            lines.push(("pieces", self.pieces_line()));
            if self.outcome == Outcome::Answered || self.verified.is_some() {
                lines.push(("verified", verified(self.verified).to_owned()));
            }
        }
        if let Some(why_not) = &self.why_not {
            lines.push(("not in pieces", why_not.clone()));
        }
        if self.attempts.len() > 1 || self.attempts.iter().any(|attempt| attempt.failure.is_some()) {
            for attempt in &self.attempts {
                let end = attempt.failure.map_or("answered", Failure::name);
                let text = format!(
                    "{}: {end}, {}, peak {}",
                    attempt.rung.name(),
                    duration(attempt.seconds),
                    attempt.peak
                );
                lines.push(("attempt", text));
            }
        }
        lines
    }

    fn pieces_line(&self) -> String {
        let longest = self.pieces.iter().map(|piece| piece.seconds).fold(0.0, f64::max);
        let most = self.pieces.iter().filter_map(|piece| piece.rows).max();
        let splits: u32 = self.pieces.iter().map(|piece| piece.splits).sum();
        let mut line = format!("{}, the longest {}", self.pieces.len(), duration(longest));
        if let Some(rows) = most {
            // Writing to a String does not fail.
            let _ = write!(line, ", the largest {rows} rows");
        }
        if self.pieces.iter().any(|piece| piece.spooled) {
            line.push_str("; what they read was written once");
        }
        if splits > 0 {
            let _ = write!(line, "; cut again {splits} times");
        }
        line
    }

    /// The report as a small HTML table, for notebooks.
    pub fn to_html(&self) -> String {
        html_table("duckward report", self.lines())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text_lines(f, self.lines())
    }
}

/// A proof in words.
fn verified(verified: Option<Verify>) -> &'static str {
    match verified {
        Some(Verify::Full) => {
            "full: rows and values that went into the pieces, and that no key is in two of them"
        }
        Some(Verify::Counts) => "counts: rows that went into the pieces",
        None => "no: the rows that went into the pieces cannot be counted",
    }
}

/// Lines of name and value, for people.
pub(super) fn text_lines(f: &mut fmt::Formatter<'_>, lines: Vec<(&str, String)>) -> fmt::Result {
    for (index, (name, value)) in lines.into_iter().enumerate() {
        if index > 0 {
            f.write_str("\n")?;
        }
        write!(f, "{name:<14} {value}")?;
    }
    Ok(())
}

/// The same lines as a small HTML table.
pub(crate) fn html_table(caption: &str, lines: Vec<(&str, String)>) -> String {
    let mut html = format!("<table><caption>{caption}</caption>");
    for (name, value) in lines {
        let value = value
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        // Writing to a String does not fail.
        let _ = write!(
            html,
            "<tr><th style=\"text-align:left\">{name}</th><td style=\"text-align:left\">{value}</td></tr>"
        );
    }
    html.push_str("</table>");
    html
}

pub(super) fn duration(seconds: f64) -> String {
    if seconds < 0.001 {
        format!("{:.0} us", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{seconds:.1} s")
    }
}

/// What a message says first: the rest is advice, which the error itself has.
pub(crate) fn first_clause(message: &str) -> &str {
    let end = message.find([';', '(', '\n']).unwrap_or(message.len());
    message[..end].trim_end()
}

/// Seconds of a duration, as reports give them.
pub(crate) fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            query: 3,
            outcome: Outcome::Failed(ErrorKind::Memory),
            attempts: vec![Attempt {
                rung: Rung::AsIs,
                seconds: 1.5,
                peak: Bytes::mib(90),
                failure: Some(Failure::Memory),
                message: Some("Out of Memory Error: <x>".to_owned()),
            }],
            why: "a < b & c".to_owned(),
            budget: Bytes::mib(100),
            peak: Bytes::mib(90),
            seconds: 1.5,
            ..Report::default()
        }
    }

    #[test]
    fn text_and_html_say_the_same_and_html_is_escaped() {
        let text = report().to_string();
        assert!(
            text.contains("failed: memory") && text.contains("90.0 MiB of 100.0 MiB (90 %)"),
            "{text}"
        );
        assert!(text.contains("as is: out of memory, 1.5 s"), "{text}");
        let html = report().to_html();
        assert!(
            html.contains("a &lt; b &amp; c") && !html.contains("a < b"),
            "{html}"
        );
    }

    #[test]
    fn json_keeps_a_report() {
        let json = serde_json::to_string(&report()).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report());
    }

    #[test]
    fn a_query_that_has_not_run_says_only_that() {
        assert_eq!(Report::default().to_string(), "outcome        not run yet");
    }
}
