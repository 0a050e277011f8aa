//! What would happen to a statement, and why. Data, as text, and as HTML.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::report::{duration, html_table, text_lines};
use crate::fallback::history::Need;
use crate::fallback::ladder::Rung;
use crate::fallback::pieces::Forecast;
use crate::units::Bytes;

/// Characters of a query that the text shows; the data has all of it.
const SHOWN: usize = 160;

/// What would happen to a statement if it ran now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The rung it would start on.
    pub rung: Rung,
    /// Why on that one.
    pub why: String,
    /// What was learnt when this shape of query was last answered.
    pub learned: Option<Learned>,
    /// Whether it can be computed in pieces, at once or once it has failed.
    pub can_be_cut: bool,
    /// Why not.
    pub why_not: Option<String>,
    /// What would be computed beforehand if it ran in pieces, in order.
    pub queries: Vec<Forecast>,
    /// DuckDB's `memory_limit` now.
    pub memory_limit: Bytes,
    /// The budget now.
    pub budget: Bytes,
}

/// What was learnt when a shape of query was last answered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// The rung it was answered on.
    pub rung: Rung,
    /// Wall time of that attempt.
    pub seconds: f64,
    /// How much memory grew above what counted before it.
    pub growth: Bytes,
    /// Temporary storage.
    pub spill: Bytes,
    /// The budget then.
    pub budget: Bytes,
}

impl From<Need> for Learned {
    fn from(need: Need) -> Self {
        Learned {
            rung: need.rung,
            seconds: super::report::seconds(need.took),
            growth: need.growth,
            spill: need.spilled,
            budget: need.budget,
        }
    }
}

impl Explanation {
    /// Name and value of every line that people read.
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("starts", self.rung.name().to_owned()), ("why", self.why.clone())];
        if let Some(learned) = &self.learned {
            lines.push((
                "last time",
                format!(
                    "answered {} in {}; memory grew by {}, {} spilled, of a budget of {}",
                    learned.rung.name(),
                    duration(learned.seconds),
                    learned.growth,
                    learned.spill,
                    learned.budget
                ),
            ));
        }
        let cut = match (&self.why_not, self.rung) {
            (Some(why_not), _) => format!("no: {why_not}"),
            (None, Rung::Pieces) => "yes".to_owned(),
            (None, _) => "yes, if it does not fit as it is".to_owned(),
        };
        lines.push(("in pieces", cut));
        lines.extend(self.queries.iter().map(|query| ("beforehand", line(query))));
        lines.push(("memory_limit", self.memory_limit.to_string()));
        lines.push(("budget", self.budget.to_string()));
        lines
    }

    /// The explanation as a small HTML table, for notebooks.
    pub fn to_html(&self) -> String {
        html_table("duckward explain", self.lines())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text_lines(f, self.lines())
    }
}

/// One query on one line.
fn line(query: &Forecast) -> String {
    let mut parts = vec![match query.pieces {
        Some(pieces) => format!("in {pieces} pieces by {}", query.keys.join(", ")),
        None => "at once".to_owned(),
    }];
    let about = |number: Option<u64>, what: &str| number.map(|number| format!("about {number} {what}"));
    parts.extend(about(query.rows, "rows"));
    parts.extend(about(query.groups, "groups"));
    parts.extend(query.bytes.map(|bytes| format!("about {bytes} kept")));
    let (text, more) = match query.sql.char_indices().nth(SHOWN) {
        Some((end, _)) => (&query.sql[..end], "…"),
        None => (query.sql.as_str(), ""),
    };
    format!("{}: {text}{more}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explanation() -> Explanation {
        Explanation {
            rung: Rung::Pieces,
            why: "its aggregates would keep too much".to_owned(),
            learned: None,
            can_be_cut: true,
            why_not: None,
            queries: vec![
                Forecast {
                    sql: "SELECT k FROM t LIMIT 5".to_owned(),
                    rows: Some(5),
                    ..Forecast::default()
                },
                Forecast {
                    sql: "SELECT k, median(v) FROM t WHERE a < b GROUP BY k".to_owned(),
                    keys: vec!["k".to_owned(), "lower(name)".to_owned()],
                    rows: Some(1000),
                    groups: Some(10),
                    bytes: Some(Bytes::mib(700)),
                    pieces: Some(8),
                },
            ],
            memory_limit: Bytes::mib(90),
            budget: Bytes::mib(100),
        }
    }

    #[test]
    fn text_says_what_is_computed_beforehand_and_how() {
        let text = explanation().to_string();
        assert!(text.contains("starts         in pieces"), "{text}");
        assert!(
            text.contains("at once, about 5 rows: SELECT k FROM t LIMIT 5"),
            "{text}"
        );
        assert!(
            text.contains(
                "in 8 pieces by k, lower(name), about 1000 rows, about 10 groups, about 700.0 MiB kept: "
            ),
            "{text}"
        );
    }

    #[test]
    fn text_says_why_it_cannot_be_cut_and_what_was_learnt() {
        let text = Explanation {
            rung: Rung::AsIs,
            learned: Some(Learned {
                rung: Rung::Degraded,
                seconds: 1.5,
                growth: Bytes::mib(40),
                spill: Bytes(0),
                budget: Bytes::mib(50),
            }),
            can_be_cut: false,
            why_not: Some("it has no keys".to_owned()),
            queries: Vec::new(),
            ..explanation()
        }
        .to_string();
        assert!(text.contains("in pieces      no: it has no keys"), "{text}");
        assert!(
            text.contains("answered degraded in 1.5 s; memory grew by 40.0 MiB"),
            "{text}"
        );
    }

    #[test]
    fn html_is_escaped() {
        let html = explanation().to_html();
        assert!(html.contains("a &lt; b") && !html.contains("a < b"), "{html}");
    }

    #[test]
    fn a_long_query_is_cut_in_the_text_between_two_characters() {
        let long = Forecast {
            sql: "é".repeat(SHOWN + 1),
            ..Forecast::default()
        };
        assert!(line(&long).ends_with("é…"));
        assert_eq!(line(&long).matches('é').count(), SHOWN);
    }

    #[test]
    fn json_keeps_an_explanation() {
        let json = serde_json::to_string(&explanation()).unwrap();
        assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explanation());
    }
}
