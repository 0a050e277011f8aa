//! What a user names when rows are meant: a table or view, files, or a query. Pure.

use super::text::{Token, query_of, quoted, quoted_name, tokens};
use crate::error::{Error, Result};

/// Endings that DuckDB reads by themselves.
const FILES: [&str; 9] = [
    ".parquet", ".csv", ".csv.gz", ".csv.zst", ".tsv", ".json", ".jsonl", ".ndjson", ".json.gz",
];

/// Rows, by what people call them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What the user wrote.
    pub name: String,
    /// What stands after FROM.
    pub relation: String,
}

impl Source {
    /// Reads `text`: a query, the path or pattern of files, or the name of a table, with its schema and database if wanted.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) where there is nothing, or more than one statement.
    pub fn parse(text: &str) -> Result<Self> {
        let name = text.trim();
        if name.is_empty() || name.contains('\0') {
            return Err(Error::invalid(
                "source",
                format_args!("{text:?}"),
                "give a table, the path of files, or a query",
            ));
        }
        Ok(Source {
            name: name.to_owned(),
            relation: relation(name).ok_or_else(|| {
                Error::invalid(
                    "source",
                    format_args!("{text:?}"),
                    "give one query without a semicolon inside, a table, or the path of files",
                )
            })?,
        })
    }

    /// Whether it is the name of a table or a view, as opposed to files and queries.
    pub fn is_name(&self) -> bool {
        self.relation.starts_with('"')
    }
}

fn relation(name: &str) -> Option<String> {
    let small = name.to_ascii_lowercase();
    if FILES.iter().any(|ending| small.ends_with(ending)) {
        return Some(quoted(name));
    }
    if let Some(table) = table(name) {
        return Some(table);
    }
    let first = tokens(name).find(|(token, _)| *token != Token::Gap)?;
    let word = small[first.1].to_owned();
    if matches!(
        word.as_str(),
        "select" | "from" | "with" | "values" | "(" | "table" | "pivot" | "unpivot"
    ) {
        // A newline ends a comment that may be at its end.
        let query = match word.as_str() {
            "select" | "from" | "with" | "(" => &name[query_of(name)?],
            _ => name,
        };
        let is_one = tokens(query).all(|(_, range)| &query[range] != ";");
        return is_one.then(|| format!("({query}\n)"));
    }
    if name.contains(['/', '\\', '*']) {
        return Some(quoted(name));
    }
    // Whatever else it is, it may be what a table is called.
    Some(quoted_name(name))
}

/// Names joined by dots, each quoted or a plain word.
fn table(name: &str) -> Option<String> {
    let names: Vec<String> = parts(name)?.iter().map(|part| quoted_name(part)).collect();
    Some(names.join("."))
}

/// The names that `text` stands for where only a table is meant, the last one the table's: up to three, joined by dots, each
/// quoted or a plain word. Anything else is the name of a table as it stands. None where there is no name.
pub fn names(text: &str) -> Option<Vec<String>> {
    let name = text.trim();
    if name.is_empty() || name.contains('\0') || name == "\"\"" {
        return None;
    }
    Some(parts(name).unwrap_or_else(|| vec![name.to_owned()]))
}

fn parts(name: &str) -> Option<Vec<String>> {
    let mut parts: Vec<String> = Vec::new();
    let mut wants_name = true;
    for (token, range) in tokens(name) {
        let part = &name[range];
        let is_quoted =
            token == Token::Exact && part.len() > 1 && part.starts_with('"') && part.ends_with('"');
        match parts.last_mut() {
            // Two quotes inside of a quoted name are one, and end one token and begin the next.
            Some(last) if is_quoted && !wants_name && last.ends_with('"') => last.push_str(part),
            _ if is_quoted && wants_name => parts.push(part.to_owned()),
            _ if token == Token::Word && wants_name => parts.push(part.to_owned()),
            Some(_) if token == Token::Exact && part == "." && !wants_name => {
                wants_name = true;
                continue;
            }
            _ => return None,
        }
        wants_name = false;
    }
    let names: Vec<String> = parts
        .into_iter()
        .map(|part| {
            let inner = part.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            inner.map_or_else(|| part.clone(), |inner| inner.replace("\"\"", "\""))
        })
        .collect();
    let is_name = names.iter().all(|name| !name.is_empty());
    (!wants_name && is_name && names.len() <= 3).then_some(names)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relation(text: &str) -> String {
        Source::parse(text).unwrap().relation
    }

    #[test]
    fn a_table_is_named_by_its_parts_or_as_it_stands() {
        let parts = |text: &str| names(text).unwrap();
        assert_eq!(parts(" main.events "), ["main", "events"]);
        assert_eq!(parts("\"a.b\".\"c\"\"d\""), ["a.b", "c\"d"]);
        assert_eq!(parts("my events"), ["my events"]);
        assert_eq!(parts("select"), ["select"]);
        assert_eq!(parts("a.csv"), ["a", "csv"]);
        assert_eq!(parts("a.b.c.d"), ["a.b.c.d"]);
        for none in ["", "  ", "\"\"", "a\0b"] {
            assert_eq!(names(none), None);
        }
    }

    #[test]
    fn tables_files_and_queries_are_told_apart() {
        for (text, expected) in [
            ("events", "\"events\""),
            (" main.events ", "\"main\".\"events\""),
            ("a.b.\"c d\"", "\"a\".\"b\".\"c d\""),
            ("\"a \"\"b\"\" c\"", "\"a \"\"b\"\" c\""),
            ("two words", "\"two words\""),
            ("it's", "\"it's\""),
            ("lake/x.parquet", "'lake/x.parquet'"),
            ("it's.csv", "'it''s.csv'"),
            ("lake/*/part", "'lake/*/part'"),
            ("select 1 as a;", "(select 1 as a\n)"),
            ("from t -- all of it", "(from t\n)"),
            ("values (1), (2)", "(values (1), (2)\n)"),
        ] {
            assert_eq!(relation(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_nothing_or_two_statements_is_refused() {
        for text in [
            "",
            "  ",
            "select 1; drop table t",
            "values (1); drop table t",
            "a\0b",
        ] {
            assert!(Source::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_quotes(text in "[a-z\"'.;()/ -]{1,12}") {
            if let Ok(source) = Source::parse(&text) {
                let relation = source.relation;
                // One literal, names with dots, or something in brackets: never a semicolon outside of quotes.
                let outside = tokens(&relation).any(|(_, range)| &relation[range] == ";");
                prop_assert!(!outside, "{text:?} became {relation}");
            }
        }
    }
}
