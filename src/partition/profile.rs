//! What a column is like, and what it can be cut by.

mod advice;
mod question;

use serde::{Deserialize, Serialize};

use super::calendar::Step;
use super::column::{self, unknown};
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::error::{Error, ErrorKind, Result};

/// What a table can be cut by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A piece for each step of the calendar.
    Time,
    /// A piece for each range of values.
    Range,
    /// A piece for each share of the values' hashes.
    Hash,
    /// A piece for each value.
    Value,
}

impl Kind {
    /// The kind as one word.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Time => "time",
            Kind::Range => "range",
            Kind::Hash => "hash",
            Kind::Value => "value",
        }
    }
}

/// What one column of a table is like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// The column, as the table spells it.
    pub name: String,
    /// Its type, as DuckDB prints it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Rows of the table.
    pub rows: u64,
    /// Rows in which it is NULL.
    pub nulls: u64,
    /// The smallest value that is no NaN and not infinite, as DuckDB prints it; none where there is none.
    pub minimum: Option<String>,
    /// The largest such value.
    pub maximum: Option<String>,
    /// Rows in which it is NaN.
    pub nan: u64,
    /// Rows in which it is infinite: a number, a date or a time.
    pub infinite: u64,
    /// How many values there are, NULL not counted.
    pub distinct: u64,
    /// Whether that is exact. Otherwise it is DuckDB's `approx_count_distinct`, which may be off by a fifth.
    pub distinct_exact: bool,
    /// The most frequent value, or one of several; none where all is NULL.
    pub most_frequent: Option<Frequent>,
    /// Of a text: what its values convert to.
    pub conversions: Vec<Conversion>,
    /// What it can be cut by at all.
    pub kinds: Vec<Kind>,
    /// What to cut it by; none where another column is better.
    pub cut: Option<Kind>,
    /// The step of a cut by time.
    pub step: Option<Step>,
    /// How many pieces a cut by time or by value makes, that of NULL not counted.
    pub pieces: Option<u64>,
    /// That, and why, in a sentence.
    pub advice: String,
}

/// The most frequent value of a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frequent {
    /// The value, as DuckDB prints it. Found by `approx_top_k`, unless `exact`.
    pub value: String,
    /// Its share of all rows, from 0 to 1. If not `exact`, it is at most that.
    pub share: f64,
    /// Whether value and share are exact, as they are where there are few values.
    pub exact: bool,
}

/// What becomes of a text's values in another type, by `TRY_CAST`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conversion {
    /// The type.
    pub to: String,
    /// Rows whose value converts.
    pub converts: u64,
    /// Of these, rows whose value then says something else: a fraction, a leading zero, a time of the day, an
    /// offset of a time zone, or a digit is lost.
    pub altered: u64,
    /// Rows whose value does not convert.
    pub fails: u64,
    /// Up to five values that do not: frequent ones first.
    pub examples: Vec<String>,
}

impl Profile {
    /// Rows in which it is not NULL.
    pub fn values(&self) -> u64 {
        self.rows - self.nulls
    }

    /// The type that every value converts to without loss, if it is a text and there is one.
    pub fn converts_to(&self) -> Option<&str> {
        self.conversions
            .iter()
            .find(|one| one.fails == 0 && one.altered == 0 && one.converts > 0)
            .map(|one| one.to.as_str())
    }
}

/// What the columns of `source` are like, or the one that is named, in one pass over its rows. Names match without regard
/// to case, as DuckDB's do.
///
/// # Errors
/// [`ErrorKind::Invalid`] where there is no such column; whatever the one who answers has against the source.
pub fn profile<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    source: &Source,
    column: Option<&str>,
) -> Result<Vec<Profile>, E> {
    let columns = column::columns(ask, &source.relation)?;
    let wanted: Vec<usize> = match column {
        None => (0..columns.len()).collect(),
        Some(name) => vec![
            columns
                .iter()
                .position(|column| column.name.eq_ignore_ascii_case(name))
                .ok_or_else(|| unknown(source, "column", name, &columns))?,
        ],
    };
    let rows = ask.ask(&question::figures(source, &columns, &wanted))?;
    let wanted = wanted.iter().map(|index| &columns[*index]);
    question::read(wanted, rows).ok_or_else(|| {
        let message = format!("the figures of {} came in a form that is not known", source.name);
        Error::new(ErrorKind::Internal, message).into()
    })
}

/// A value of a column as people are shown it: in quotes, not too long, and without control characters.
pub fn shown(value: &str) -> String {
    advice::shown(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Rows;

    /// Answers DESCRIBE, and keeps what else it is asked.
    struct Described(Vec<String>);

    impl Ask<Error> for Described {
        fn pause(&mut self, _time: std::time::Duration) -> Result<(), Error> {
            Ok(())
        }

        fn ask(&mut self, sql: &str) -> Result<Rows> {
            if sql.starts_with("DESCRIBE") {
                let row = |name: &str| vec![Some(name.to_owned()), Some("INTEGER".to_owned()), None];
                return Ok(vec![row("Id"), row("no \"t")]);
            }
            self.0.push(sql.to_owned());
            let fields = [
                "10", "10", "0", "9", "", "", "", "", "10", "", "10", "3", "1", "1",
            ];
            let fields = fields.map(|field| (!field.is_empty()).then(|| field.to_owned()));
            Ok(vec![fields.to_vec()])
        }
    }

    #[test]
    fn a_column_is_found_without_regard_to_case_and_keeps_its_name() {
        let mut ask = Described(Vec::new());
        let source = Source::parse("t").unwrap();
        let found = profile(&mut ask, &source, Some("NO \"T")).unwrap();
        assert_eq!((found.len(), found[0].name.as_str()), (1, "no \"t"));
        assert_eq!(ask.0.len(), 1, "one pass");
        assert!(
            ask.0[0].contains("s.c1") && !ask.0[0].contains("s.c0"),
            "{}",
            ask.0[0]
        );
    }

    #[test]
    fn an_unknown_column_is_refused_with_those_there_are_before_anything_is_read() {
        let mut ask = Described(Vec::new());
        let error = profile(&mut ask, &Source::parse("t").unwrap(), Some("id2")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            error.message(),
            "column=\"id2\" is not accepted: t has the columns Id, no \"t"
        );
        assert!(ask.0.is_empty());
    }

    #[test]
    fn json_keeps_a_profile() {
        let mut ask = Described(Vec::new());
        let found = profile(&mut ask, &Source::parse("t").unwrap(), Some("id")).unwrap();
        let json = serde_json::to_string(&found).unwrap();
        assert!(json.contains("\"type\":\"INTEGER\""), "{json}");
        assert_eq!(serde_json::from_str::<Vec<Profile>>(&json).unwrap(), found);
    }
}
