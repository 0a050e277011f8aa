//! Foreign keys: rows whose key no row of another table has.
//!
//! As in SQL (MATCH SIMPLE), a row whose key has a NULL refers to nothing and is not looked at.

use super::compare::same_name;
use super::keys::{Examples, findings, has_key, index, within};
use super::piece_set::Described;
use super::{Finding, FindingKind, counted, shown};
use crate::engine::source::Source;
use crate::engine::text::{Token, quoted_name, tokens};
use crate::engine::{Ask, described};
use crate::error::{Error, Result};

/// Columns whose values must be in columns of another source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The columns that refer.
    pub columns: Vec<String>,
    /// The source that they refer to.
    pub parent: Source,
    /// Its columns, one for each.
    pub parent_columns: Vec<String>,
}

impl Reference {
    /// The reference of these columns to these columns of a parent.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for none, or where there are not as many of one as of the other.
    pub fn new(columns: Vec<String>, parent: Source, parent_columns: Vec<String>) -> Result<Self> {
        if columns.is_empty() || columns.len() != parent_columns.len() {
            let value = format!(
                "{} for {}",
                counted(parent_columns.len() as u64, "column"),
                columns.len()
            );
            let accepted = "give as many columns of the parent as refer to them";
            return Err(Error::invalid("references", value, accepted));
        }
        Ok(Reference {
            columns,
            parent,
            parent_columns,
        })
    }

    /// Reads `table.column`, or `table(column, column)`, which these columns refer to.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for anything else.
    pub fn parse(columns: Vec<String>, text: &str) -> Result<Self> {
        let no = || {
            Error::invalid(
                "references",
                format_args!("{text:?}"),
                "give \"table.column\", \"table(column, column)\", or a source and its columns as a pair",
            )
        };
        let all: Vec<(Token, std::ops::Range<usize>)> =
            tokens(text).filter(|(token, _)| *token != Token::Gap).collect();
        let word = |index: usize| all.get(index).map(|(_, range)| &text[range.clone()]);
        let last = all.len().checked_sub(1).ok_or_else(no)?;
        let (table, names) = if word(last) == Some(")") {
            let open = (0..last)
                .rev()
                .find(|index| word(*index) == Some("("))
                .ok_or_else(no)?;
            let inside = all[open].1.end..all[last].1.start;
            (all[open].1.start, separated(&text[inside]))
        } else {
            let dot = (0..last)
                .rev()
                .find(|index| word(*index) == Some("."))
                .ok_or_else(no)?;
            (all[dot].1.start, Some(vec![name(text[all[dot].1.end..].trim())]))
        };
        let names = names.ok_or_else(no)?;
        let table = text[..table].trim();
        if table.is_empty() || names.iter().any(String::is_empty) {
            return Err(no());
        }
        Reference::new(columns, Source::parse(table)?, names)
    }
}

/// Names between commas.
fn separated(text: &str) -> Option<Vec<String>> {
    let mut names = vec![String::new()];
    for (token, range) in tokens(text) {
        if token == Token::Exact && &text[range.clone()] == "," {
            names.push(String::new());
        } else {
            names.last_mut()?.push_str(&text[range]);
        }
    }
    Some(names.iter().map(|text| name(text.trim())).collect())
}

/// A name without its quotes.
fn name(text: &str) -> String {
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inside) => inside.replace("\"\"", "\""),
        None => text.to_owned(),
    }
}

/// The rows whose key has no parent, by piece.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for columns that are not there; those of whoever is asked.
pub(super) fn check<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    rows: &Described<'_>,
    reference: &Reference,
    most: usize,
) -> Result<Vec<Finding>, E> {
    let picked = rows.pick("references", &reference.columns)?;
    let names: Vec<String> = picked.iter().map(|column| column.name.clone()).collect();
    let columns = described(ask, &reference.parent.relation)?;
    let mut parents = Vec::new();
    for wanted in &reference.parent_columns {
        let Some(found) = columns.iter().find(|(name, _)| same_name(name, wanted)) else {
            let all: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
            let accepted = format!("{} has the columns {}", reference.parent.name, all.join(", "));
            return Err(Error::invalid("references", format_args!("{wanted:?}"), &accepted).into());
        };
        parents.push(found.clone());
    }
    let kinds: Vec<&str> = parents.iter().map(|(_, kind)| kind.as_str()).collect();
    let parent: Vec<String> = parents
        .iter()
        .enumerate()
        .map(|(index, (name, kind))| {
            let mut types: Vec<&str> = picked[index].types.iter().map(String::as_str).collect();
            types.push(kind);
            format!(
                "{}{} AS k{index}",
                quoted_name(name),
                super::sql::comparable(&types)
            )
        })
        .collect();
    let parent = format!(
        "SELECT {} FROM {} AS duckward_parent",
        parent.join(", "),
        reference.parent.relation
    );
    let found = ask.ask(&orphans(&rows.read(&picked, &kinds), &parent, names.len(), most))?;
    let shown_of = Examples {
        names: &names,
        others: &["rows"],
        most,
    };
    let say = |[piece, keys, of]: [u64; 3]| {
        let message = format!(
            "{}{} with {} of {} that {} does not have in {}",
            counted(of, "row"),
            within(rows, index(piece)),
            counted(keys, "value"),
            names.join(", "),
            shown(&reference.parent.name),
            reference.parent_columns.join(", ")
        );
        (index(piece), of, message)
    };
    let mut found = findings(rows, FindingKind::MissingParents, &found, shown_of, say)?;
    if let [name] = names.as_slice() {
        found
            .iter_mut()
            .for_each(|finding| finding.column = Some(name.clone()));
    }
    Ok(found)
}

/// Of each piece the keys without a parent: how many, their rows, and the least ones. Keys are grouped first: there are fewer
/// of them than rows, and both the grouping and the join spill.
fn orphans(rows: &str, parent: &str, count: usize, most: usize) -> String {
    let all = |each: &dyn Fn(usize) -> String, between: &str| {
        let all: Vec<String> = (0..count).map(each).collect();
        all.join(between)
    };
    let keys = all(&|index| format!("k{index}"), ", ");
    let same = all(&|index| format!("a.k{index} = b.k{index}"), " AND ");
    let fields = all(&|index| format!("'k{index}': k{index}"), ", ");
    let shown = all(&|index| format!("u.k{index}::VARCHAR"), ", ");
    format!(
        "SELECT p::VARCHAR, m::VARCHAR, r::VARCHAR, {shown}, u.n::VARCHAR FROM (SELECT p, m, r, unnest(e) AS u FROM \
         (SELECT p, count(*) AS m, sum(n) AS r, min({{{fields}, 'n': n}}, {}) AS e FROM \
         (SELECT p, {keys}, count(*) AS n FROM ({rows}) WHERE {} GROUP BY p, {keys}) AS a \
         WHERE NOT EXISTS (SELECT 1 FROM ({parent}) AS b WHERE {same}) GROUP BY p)) ORDER BY p, u",
        most.max(1),
        has_key(count)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tables_and_columns_are_told_apart() {
        for (text, table, columns) in [
            ("users.id", "\"users\"", vec!["id"]),
            ("main.users.id", "\"main\".\"users\"", vec!["id"]),
            (" users ( a, \"b \"\"c\" ) ", "\"users\"", vec!["a", "b \"c"]),
            ("db.\"a.b\".\"x y\"", "\"db\".\"a.b\"", vec!["x y"]),
        ] {
            let columns: Vec<String> = columns.into_iter().map(str::to_owned).collect();
            let found = Reference::parse(columns.clone(), text).unwrap();
            assert_eq!(
                (found.parent.relation.as_str(), &found.parent_columns),
                (table, &columns),
                "{text}"
            );
        }
        for text in ["", "users", ".id", "users.", "users()", "(id)", "users(a,)"] {
            assert!(Reference::parse(vec!["x".to_owned()], text).is_err(), "{text}");
        }
        assert!(Reference::parse(vec!["x".to_owned(), "y".to_owned()], "users.id").is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_or_refused(text in "[a-z\"'.(), ]{0,14}") {
            if let Ok(found) = Reference::parse(vec!["x".to_owned()], &text) {
                prop_assert_eq!(found.parent_columns.len(), 1);
                prop_assert!(!found.parent_columns[0].is_empty());
            }
        }
    }
}
