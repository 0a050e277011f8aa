//! The table that is loaded into: which one a name means, its columns, and what it demands of them.

use std::collections::BTreeSet;

use crate::engine::Ask;
use crate::engine::source::names;
use crate::engine::text::{quoted, quoted_name};
use crate::error::{Error, ErrorKind, Result};

/// So many columns an error names at most.
const NAMED: usize = 20;
/// What names of ours begin with.
const OURS: &str = "duckward_";

/// A table, by its full name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// The database.
    pub database: String,
    /// The schema.
    pub schema: String,
    /// The table.
    pub table: String,
}

impl Name {
    /// From its parts.
    pub(super) fn new(database: &str, schema: &str, table: &str) -> Self {
        Name {
            database: database.to_owned(),
            schema: schema.to_owned(),
            table: table.to_owned(),
        }
    }

    /// As SQL.
    pub(super) fn sql(&self) -> String {
        format!("{}.{}", quoted_name(&self.database), self.local())
    }

    /// As SQL, without the database: a file may be attached by another name the next time.
    pub(super) fn local(&self) -> String {
        format!("{}.{}", quoted_name(&self.schema), quoted_name(&self.table))
    }

    /// Those rows of a function such as `duckdb_columns()` that are about it.
    fn filter(&self) -> String {
        format!(
            "database_name = {} AND schema_name = {} AND table_name = {}",
            quoted(&self.database),
            quoted(&self.schema),
            quoted(&self.table)
        )
    }
}

/// A column of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as DuckDB prints it.
    pub type_name: String,
    /// What it is where nothing is given, as SQL.
    pub default: Option<String>,
}

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    There(Name),
    /// There is no such table; so it would be called.
    Missing(Name),
}

/// Columns, and what they must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// The names of those that must not be NULL.
    pub not_null: Vec<String>,
    /// Conditions over them, as SQL.
    pub checks: Vec<String>,
    /// Columns that together are there once.
    pub keys: Vec<Vec<String>>,
}

/// What names mean to the user's connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Its database.
    pub database: String,
    /// Its schema.
    pub schema: String,
    /// Its temporary tables, which no other connection sees.
    pub temporary: Vec<String>,
}

/// The table that `text` names to `session`; where that is not known, the only one in all databases that it can name.
pub(super) fn find<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    session: Option<&Session>,
    argument: &str,
    text: &str,
) -> Result<Found, E> {
    let refused = |accepted: &str| Err(Error::invalid(argument, format_args!("{text:?}"), accepted).into());
    let Some(parts) = names(text) else {
        return refused("give the name of a table, with its schema and database if needed");
    };
    let here = match session {
        Some(session) => session.clone(),
        None => {
            let rows = ask.ask("SELECT current_database(), current_schema()")?;
            let mut cells = rows.into_iter().flatten().flatten();
            Session {
                database: cells.next().unwrap_or_default(),
                schema: cells.next().unwrap_or_default(),
                temporary: Vec::new(),
            }
        }
    };
    if let [table] = parts.as_slice()
        && here
            .temporary
            .iter()
            .any(|name| name.to_lowercase() == table.to_lowercase())
    {
        return refused(
            "it is a temporary table, which only its own connection sees, and batches are committed on another one; give a table \
             that is kept",
        );
    }
    let (wanted, filter) = meant(&parts, &here, session.is_some());
    let table = quoted(&wanted.table);
    let rows = ask.ask(&format!(
        "SELECT * FROM (SELECT database_name, schema_name, table_name, 'table' FROM duckdb_tables() \
         WHERE NOT temporary AND NOT internal AND lower(table_name) = lower({table}) AND {filter} \
         UNION ALL SELECT database_name, schema_name, view_name, 'view' FROM duckdb_views() \
         WHERE NOT temporary AND NOT internal AND lower(view_name) = lower({table}) AND {filter}) \
         ORDER BY database_name = {} DESC, schema_name = {} DESC",
        quoted(&wanted.database),
        quoted(&wanted.schema)
    ))?;
    let Some(row) = rows.first() else {
        return Ok(Found::Missing(placed(ask, &parts, wanted)?));
    };
    if session.is_none() && rows.len() > 1 {
        return refused(
            "there are several of that name, and which one is meant the connection cannot be asked, because the source may be \
             reading from it; give it as database.schema.table",
        );
    }
    let cell = |at: usize| row.get(at).and_then(Option::as_deref).unwrap_or_default();
    if cell(3) == "view" {
        return refused("it is a view; give a table");
    }
    Ok(Found::There(Name::new(cell(0), cell(1), cell(2))))
}

/// What the parts of a name would stand for, and the condition that a table meets that they may mean.
fn meant(parts: &[String], here: &Session, known: bool) -> (Name, String) {
    let is = |column: &str, value: &str| format!("lower({column}) = lower({})", quoted(value));
    let here_only = |sql: String| {
        if known {
            format!("{} AND {sql}", is("database_name", &here.database))
        } else {
            sql
        }
    };
    match parts {
        [database, schema, table] => (
            Name::new(database, schema, table),
            format!(
                "{} AND {}",
                is("database_name", database),
                is("schema_name", schema)
            ),
        ),
        [first, table] => (
            Name::new(&here.database, first, table),
            format!(
                "(({}) OR ({} AND schema_name = 'main'))",
                here_only(is("schema_name", first)),
                is("database_name", first)
            ),
        ),
        _ => {
            let table = parts.last().map_or("", String::as_str);
            let filter = if known {
                here_only(is("schema_name", &here.schema))
            } else {
                "true".to_owned()
            };
            (Name::new(&here.database, &here.schema, table), filter)
        }
    }
}

/// Where a table that is not there would be made: of two names the first may be a database.
fn placed<E>(ask: &mut dyn Ask<E>, parts: &[String], wanted: Name) -> Result<Name, E> {
    let [first, table] = parts else {
        return Ok(wanted);
    };
    let rows = ask.ask(&format!(
        "SELECT database_name, schema_name FROM duckdb_schemas() \
         WHERE (lower(database_name) = lower({}) AND lower(schema_name) = lower({first})) \
         OR (lower(database_name) = lower({first}) AND schema_name = 'main') ORDER BY database_name = {} DESC",
        quoted(&wanted.database),
        quoted(&wanted.database),
        first = quoted(first)
    ))?;
    Ok(match rows.first().map(Vec::as_slice) {
        Some([Some(database), Some(schema)]) => Name::new(database, schema, table),
        _ => wanted,
    })
}

/// Whether something can be written into its database.
pub(super) fn writable<E: From<Error>>(ask: &mut dyn Ask<E>, name: &Name) -> Result<(), E> {
    let rows = ask.ask(&format!(
        "SELECT readonly::VARCHAR FROM duckdb_databases() WHERE database_name = {}",
        quoted(&name.database)
    ))?;
    match rows.first().and_then(|row| row.first()?.as_deref()) {
        Some("false") => Ok(()),
        found => {
            let what = if found.is_some() {
                "is opened read-only"
            } else {
                "is not there"
            };
            let message = format!(
                "the database {} {what}, and nothing can be loaded into it: open or attach it for writing",
                quoted_name(&name.database)
            );
            Err(Error::new(ErrorKind::Invalid, message).into())
        }
    }
}

/// What the table is like.
pub(super) fn describe<E: From<Error>>(ask: &mut dyn Ask<E>, name: &Name) -> Result<Table, E> {
    let filter = name.filter();
    let rows = ask.ask(&format!(
        "SELECT column_name, data_type, column_default FROM duckdb_columns() WHERE {filter} ORDER BY column_index"
    ))?;
    let columns: Vec<Column> = rows
        .into_iter()
        .map(|row| {
            let mut cells = row.into_iter();
            Column {
                name: cells.next().flatten().unwrap_or_default(),
                type_name: cells.next().flatten().unwrap_or_default(),
                default: cells
                    .next()
                    .flatten()
                    .filter(|text| !text.eq_ignore_ascii_case("NULL")),
            }
        })
        .collect();
    if let Some(ours) = columns
        .iter()
        .find(|column| column.name.to_ascii_lowercase().starts_with(OURS))
    {
        let message = format!(
            "{} has a column {}, and names that begin with {OURS} are duckward's own while rows are checked; rename it",
            name.local(),
            quoted_name(&ours.name)
        );
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    // One row for each column of a constraint, so that no name has to be parsed.
    let rows = ask.ask(&format!(
        "SELECT constraint_index::VARCHAR, constraint_type, expression, unnest(constraint_column_names) \
         FROM duckdb_constraints() WHERE {filter} ORDER BY constraint_index"
    ))?;
    let mut table = Table {
        columns,
        ..Table::default()
    };
    let mut last = None;
    for row in rows {
        let [index, Some(kind), expression, Some(column)] = row.as_slice() else {
            continue;
        };
        let begins = last.as_ref() != Some(index);
        last = Some(index.clone());
        match kind.as_str() {
            "NOT NULL" => table.not_null.push(column.clone()),
            "CHECK" if begins => table.checks.extend(expression.clone()),
            "PRIMARY KEY" | "UNIQUE" if begins => table.keys.push(vec![column.clone()]),
            "PRIMARY KEY" | "UNIQUE" => {
                if let Some(key) = table.keys.last_mut() {
                    key.push(column.clone());
                }
            }
            _ => {}
        }
    }
    Ok(table)
}

/// For each column of a source the place of the column of the table that it goes into, by name as DuckDB compares names; none
/// for what PyAirbyte adds of its own where the table has no such column.
///
/// # Errors
/// [`ErrorKind::Invalid`] for columns that the table does not have, and for one that is there twice.
pub fn matched(source: &[String], columns: &[String], table: &str) -> Result<Vec<Option<usize>>> {
    let mut unknown = Vec::new();
    let mut taken = BTreeSet::new();
    let mut places = Vec::with_capacity(source.len());
    for name in source {
        let small = name.to_lowercase();
        let place = columns.iter().position(|column| column.to_lowercase() == small);
        if place.is_none() && !small.starts_with("_airbyte_") {
            unknown.push(name.as_str());
        }
        if let Some(place) = place
            && !taken.insert(place)
        {
            let message = format!(
                "the source has two columns for {} of {table}, which DuckDB does not tell apart: rename one, or leave it out",
                quoted_name(&columns[place])
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        places.push(place);
    }
    if unknown.is_empty() && !taken.is_empty() {
        return Ok(places);
    }
    let found = if unknown.is_empty() {
        "the source has no column".to_owned()
    } else {
        format!("{table} has no column {}, which the source has", listed(&unknown))
    };
    let there: Vec<&str> = columns.iter().map(String::as_str).collect();
    let message = format!(
        "{found}. Columns are matched by name: rename or leave out what is too much, or ALTER TABLE ... ADD COLUMN. The table \
         has {}",
        listed(&there)
    );
    Err(Error::new(ErrorKind::Invalid, message))
}

fn listed(names: &[&str]) -> String {
    let mut text: Vec<String> = names.iter().take(NAMED).map(|name| quoted_name(name)).collect();
    if names.len() > NAMED {
        text.push(format!("and {} more", names.len() - NAMED));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn columns_are_matched_by_name_whatever_their_order_and_case() {
        let columns = texts(&["a", "B", "c"]);
        let found = matched(&texts(&["C", "_airbyte_raw_id", "b"]), &columns, "t").unwrap();
        assert_eq!(found, [Some(2), None, Some(1)]);
    }

    #[test]
    fn a_name_means_what_it_means_to_the_connection() {
        let here = Session {
            database: "d".to_owned(),
            schema: "s".to_owned(),
            temporary: Vec::new(),
        };
        let (name, filter) = meant(&texts(&["t\"u"]), &here, true);
        assert_eq!(name.sql(), "\"d\".\"s\".\"t\"\"u\"");
        assert_eq!(
            filter,
            "lower(database_name) = lower('d') AND lower(schema_name) = lower('s')"
        );
        assert_eq!(meant(&texts(&["t"]), &here, false).1, "true");
        let (name, filter) = meant(&texts(&["o'x", "t"]), &here, true);
        assert_eq!((name.database.as_str(), name.schema.as_str()), ("d", "o'x"));
        assert!(
            filter.contains("lower(database_name) = lower('o''x') AND schema_name = 'main'"),
            "{filter}"
        );
    }

    #[test]
    fn columns_that_do_not_match_are_named() {
        let columns = texts(&["a", "b"]);
        let unknown = matched(&texts(&["a", "x\"y"]), &columns, "t").unwrap_err();
        assert!(unknown.message().contains("no column \"x\"\"y\""), "{unknown}");
        assert!(unknown.message().contains("\"a\", \"b\""), "{unknown}");
        assert!(
            matched(&texts(&["a", "A"]), &columns, "t")
                .unwrap_err()
                .message()
                .contains("two columns")
        );
        assert!(
            matched(&[], &columns, "t")
                .unwrap_err()
                .message()
                .contains("no column")
        );
    }
}
