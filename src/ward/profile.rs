//! A column's profile for people: as text, and as HTML.

use std::fmt;

use super::report::{html_table, text_lines};
use crate::partition::profile::{Conversion, Profile, shown};

impl Profile {
    /// Name and value of every line that people read.
    fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("column", format!("{} {}", self.name, self.type_name)),
            ("rows", self.rows.to_string()),
            ("NULL", self.nulls.to_string()),
        ];
        if self.nan > 0 {
            lines.push(("NaN", self.nan.to_string()));
        }
        if self.infinite > 0 {
            lines.push(("infinite", self.infinite.to_string()));
        }
        if let (Some(minimum), Some(maximum)) = (&self.minimum, &self.maximum) {
            lines.push(("from, to", format!("{}, {}", shown(minimum), shown(maximum))));
        }
        let about = if self.distinct_exact { "" } else { "about " };
        lines.push(("values", format!("{about}{}", self.distinct)));
        if let Some(top) = &self.most_frequent {
            let most = if top.exact { "" } else { "at most " };
            lines.push((
                "most frequent",
                format!(
                    "{}: {most}{:.1} % of the rows",
                    shown(&top.value),
                    top.share * 100.0
                ),
            ));
        }
        let some = |one: &&Conversion| one.converts > 0;
        lines.extend(
            self.conversions
                .iter()
                .filter(some)
                .map(|one| ("converts to", line(one))),
        );
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        if !kinds.is_empty() {
            lines.push(("can be cut by", kinds.join(", ")));
        }
        lines.push(("advice", self.advice.clone()));
        lines
    }

    /// The profile as a small HTML table, for notebooks.
    pub fn to_html(&self) -> String {
        html_table("duckward profile", self.lines())
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text_lines(f, self.lines())
    }
}

/// One conversion on one line.
fn line(one: &Conversion) -> String {
    let mut text = format!("{}: {} values", one.to, one.converts);
    if one.altered > 0 {
        text.push_str(&format!(", {} of them with a loss", one.altered));
    }
    if one.fails > 0 {
        let examples: Vec<String> = one.examples.iter().map(|value| shown(value)).collect();
        text.push_str(&format!(
            "; {} do not, such as {}",
            one.fails,
            examples.join(", ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::profile::{Frequent, Kind};

    fn profile() -> Profile {
        Profile {
            name: "a<b".to_owned(),
            type_name: "VARCHAR".to_owned(),
            rows: 10,
            nulls: 1,
            minimum: Some("1".to_owned()),
            maximum: Some("x\ny".to_owned()),
            nan: 0,
            infinite: 0,
            distinct: 5,
            distinct_exact: false,
            most_frequent: Some(Frequent {
                value: "1".to_owned(),
                share: 0.4,
                exact: false,
            }),
            conversions: vec![Conversion {
                to: "BIGINT".to_owned(),
                converts: 7,
                altered: 2,
                fails: 2,
                examples: vec!["x\ny".to_owned(), "z".to_owned()],
            }],
            kinds: vec![Kind::Range, Kind::Hash],
            cut: Some(Kind::Range),
            step: None,
            pieces: None,
            advice: "by range".to_owned(),
        }
    }

    #[test]
    fn text_says_what_is_exact_and_what_does_not_convert() {
        let text = profile().to_string();
        for line in [
            "column         a<b VARCHAR",
            "from, to       '1', 'x\\ny'",
            "values         about 5",
            "most frequent  '1': at most 40.0 % of the rows",
            "converts to    BIGINT: 7 values, 2 of them with a loss; 2 do not, such as 'x\\ny', 'z'",
            "can be cut by  range, hash",
            "advice         by range",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn html_is_escaped() {
        let html = profile().to_html();
        assert!(html.contains("a&lt;b") && !html.contains("a<b"), "{html}");
    }
}
