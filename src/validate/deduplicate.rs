//! Of the rows that have one key, in one table or over several, the first one stays. The others move, in one transaction, into
//! tables beside, from which they can be put back.
//!
//! The first is that of the least value to order by (NULL last), of equal ones that in the earlier table, and there the one with
//! the least `rowid`, the order in which rows were inserted. A row whose key has a NULL is like no other and stays.

use std::fmt;

use serde::Serialize;

use super::compare::{numbers, unread};
use super::keys::{has_key, index, leading};
use super::piece_set::{Described, Picked, PieceSet};
use super::{counted, shown};
use crate::engine::text::{Token, quoted, quoted_name, tokens};
use crate::engine::{Ask, Rows};
use crate::error::{Error, ErrorKind, Result};

/// Where the rows are noted that go, while it is decided.
const NOTED: &str = "temp.main.duckward_duplicates";
/// What tables of removed rows begin with.
const REMOVED: &str = "duckward_removed_";

/// What was removed, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deduplication {
    /// The columns of the key.
    pub on: Vec<String>,
    /// The columns that say which row is the first.
    pub order_by: Vec<String>,
    /// Rows that were removed.
    pub removed: u64,
    /// The tables, in order.
    pub tables: Vec<Deduplicated>,
}

/// A table of which rows were removed, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deduplicated {
    /// The table, as it was named.
    pub name: String,
    /// The same as SQL.
    #[serde(skip)]
    table: String,
    /// Rows that were removed.
    pub removed: u64,
    /// The table that has them, as SQL; none where there are none.
    pub kept_in: Option<String>,
}

impl Deduplication {
    /// Name and value of every line that people read.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![
            ("removed", counted(self.removed, "row")),
            ("key", self.on.join(", ")),
        ];
        if !self.order_by.is_empty() {
            lines.push(("first by", self.order_by.join(", ")));
        }
        for table in &self.tables {
            if let Some(kept_in) = &table.kept_in {
                let rows = counted(table.removed, "row");
                lines.push((
                    "from",
                    format!("{}: {rows}, now in {kept_in}", shown(&table.name)),
                ));
            }
        }
        lines
    }

    /// The tables that have removed rows, and where those are.
    fn kept(&self) -> impl Iterator<Item = (&Deduplicated, &str)> {
        self.tables
            .iter()
            .filter_map(|table| Some((table, table.kept_in.as_deref()?)))
    }
}

impl fmt::Display for Deduplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::write_lines(f, self.lines())
    }
}

/// Removes all rows but the first of each key.
///
/// # Errors
/// [`ErrorKind::Invalid`] for what is no table, for columns that are not there, and within a transaction;
/// [`ErrorKind::Transaction`] where afterwards a key were lost; those of whoever is asked. Then nothing was changed.
pub fn deduplicate<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    set: &PieceSet,
    on: &[String],
    order_by: &[String],
) -> Result<Deduplication, E> {
    let job = Job::new(ask, set, on, order_by)?;
    if is_in_transaction(ask)? {
        let message = "this connection is in a transaction, and rows are removed in one of their own; commit it or roll it \
                       back first";
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    let token = ask.ask("SELECT substr(md5(uuid()::VARCHAR), 1, 8)")?;
    let token = token.into_iter().flatten().flatten().next().ok_or_else(unread)?;
    let mut done = Deduplication {
        on: job.keys.iter().map(|column| column.name.clone()).collect(),
        order_by: job.order.iter().map(|column| column.name.clone()).collect(),
        removed: 0,
        tables: Vec::new(),
    };
    transaction(ask, |ask| {
        job.run(ask, &token, &mut done)?;
        Ok(done.kept().map(|(_, kept)| kept.to_owned()).next())
    })?;
    Ok(done)
}

/// Puts the removed rows back; how many. They come at the end of their tables.
///
/// # Errors
/// [`ErrorKind::State`] where the tables that have them are gone or have other rows; those of whoever is asked. Then nothing was
/// changed.
pub fn restore<E: From<Error>>(ask: &mut dyn Ask<E>, done: &Deduplication) -> Result<u64, E> {
    transaction(ask, |ask| {
        for (table, kept) in done.kept() {
            expect_kept(ask, table, kept)?;
            ask.ask(&format!(
                "INSERT INTO {} SELECT * FROM {kept} ORDER BY rowid",
                table.table
            ))?;
            ask.ask(&format!("DROP TABLE {kept}"))?;
        }
        Ok(None)
    })?;
    Ok(done.removed)
}

/// Drops the tables that have the removed rows.
///
/// # Errors
/// As of [`restore`].
pub fn forget<E: From<Error>>(ask: &mut dyn Ask<E>, done: &Deduplication) -> Result<(), E> {
    transaction(ask, |ask| {
        for (table, kept) in done.kept() {
            expect_kept(ask, table, kept)?;
            ask.ask(&format!("DROP TABLE {kept}"))?;
        }
        Ok(None)
    })
}

/// That the rows are still where they were put.
fn expect_kept<E: From<Error>>(ask: &mut dyn Ask<E>, table: &Deduplicated, kept: &str) -> Result<(), E> {
    let there = if exists(ask, kept)? {
        numbers(&ask.ask(&format!("SELECT count(*)::VARCHAR FROM {kept}"))?)?
            .first()
            .copied()
    } else {
        None
    };
    match there {
        Some(rows) if rows == table.removed => Ok(()),
        found => {
            let found = found.map_or("is gone".to_owned(), |rows| {
                format!("has {}", counted(rows, "row"))
            });
            let message = format!(
                "{kept}, where the {} of {} were put, {found}: they were put back or forgotten before, or somebody changed \
                 it; nothing was done",
                counted(table.removed, "row"),
                table.name
            );
            Err(Error::new(ErrorKind::State, message).into())
        }
    }
}

/// Whether there is a table of ours.
fn exists<E: From<Error>>(ask: &mut dyn Ask<E>, kept: &str) -> Result<bool, E> {
    let name = kept
        .rfind(REMOVED)
        .map_or(kept, |at| &kept[at..])
        .trim_end_matches('"');
    let found = ask.ask(&format!(
        "SELECT count(*)::VARCHAR FROM duckdb_tables() WHERE table_name = {}",
        quoted(name)
    ))?;
    Ok(numbers(&found)?.first() != Some(&0))
}

/// Within a transaction its number is the same each time; outside each statement has its own.
fn is_in_transaction<E>(ask: &mut dyn Ask<E>) -> Result<bool, E> {
    let sql = "SELECT txid_current()::VARCHAR";
    Ok(ask.ask(sql)? == ask.ask(sql)?)
}

/// Does something in one transaction, which is rolled back if it fails. It may name a table that it makes: whether a COMMIT
/// that failed has kept everything, that table tells.
fn transaction<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    work: impl FnOnce(&mut dyn Ask<E>) -> Result<Option<String>, E>,
) -> Result<(), E> {
    ask.ask("BEGIN TRANSACTION")?;
    let made = work(ask).inspect_err(|_| {
        // The first error is told; a transaction that cannot even be rolled back ends with its connection.
        let _ = ask.ask("ROLLBACK");
    });
    let made = made?;
    let Err(error) = ask.ask("COMMIT") else {
        return Ok(());
    };
    let _ = ask.ask("ROLLBACK");
    match made {
        Some(table) if exists(ask, &table)? => Ok(()),
        _ => Err(error),
    }
}

/// What is to be done, checked.
struct Job<'a> {
    rows: Described<'a>,
    keys: Vec<Picked>,
    order: Vec<Picked>,
}

impl<'a> Job<'a> {
    fn new<E: From<Error>>(
        ask: &mut dyn Ask<E>,
        set: &'a PieceSet,
        on: &[String],
        order_by: &[String],
    ) -> Result<Self, E> {
        if on.is_empty() {
            return Err(Error::invalid(
                "on",
                "None",
                "name the columns of which each value is to be there once",
            )
            .into());
        }
        if let Some(piece) = set
            .pieces()
            .iter()
            .find(|piece| parts(&piece.source.relation).is_none())
        {
            let accepted = "rows can be removed from a table only; give the name of one";
            return Err(Error::invalid("source", format_args!("{:?}", piece.source.name), accepted).into());
        }
        let rows = Described::ask(ask, set)?;
        let has_rowid = |columns: &Vec<(String, String)>| {
            columns
                .iter()
                .position(|(name, _)| name.eq_ignore_ascii_case("rowid"))
        };
        if let Some(table) = rows
            .columns
            .iter()
            .position(|columns| has_rowid(columns).is_some())
        {
            let message = format!(
                "{} has a column rowid, which hides DuckDB's own, by which rows are told apart; rename it first",
                set.pieces()[table].name
            );
            return Err(Error::new(ErrorKind::Invalid, message).into());
        }
        let keys = rows.pick("on", on)?;
        let order = rows.pick("order_by", order_by)?;
        if let Some(column) = order
            .iter()
            .find(|column| column.types.iter().any(|kind| *kind != column.types[0]))
        {
            let accepted = "it has another type in another table; give them one type first";
            return Err(Error::invalid("order_by", format_args!("{:?}", column.name), accepted).into());
        }
        Ok(Job { rows, keys, order })
    }

    fn run<E: From<Error>>(
        &self,
        ask: &mut dyn Ask<E>,
        token: &str,
        done: &mut Deduplication,
    ) -> Result<(), E> {
        let keys = self.rows.read(&self.keys, &[]);
        let before = numbers(&ask.ask(&distinct(&keys, self.keys.len()))?)?;
        let rows = self.rows.read_ordered(&self.keys, &self.order);
        ask.ask(&noted(&rows, &keys, self.keys.len(), self.order.len()))?;
        let removed = removed_of(&ask.ask(&format!(
            "SELECT p::VARCHAR, count(*)::VARCHAR FROM {NOTED} GROUP BY p"
        ))?)?;
        for (number, piece) in self.rows.set.pieces().iter().enumerate() {
            let mut table = Deduplicated {
                name: piece.name.clone(),
                table: piece.source.relation.clone(),
                removed: 0,
                kept_in: None,
            };
            if let Some((_, many)) = removed.iter().find(|(piece, _)| *piece == number) {
                table.removed = *many;
                let kept = beside(&table.table, &format!("{REMOVED}{token}_{number}"));
                let noted = format!("rowid IN (SELECT r FROM {NOTED} WHERE p = {number})");
                ask.ask(&format!(
                    "CREATE TABLE {kept} AS SELECT * FROM {} WHERE {noted} ORDER BY rowid",
                    table.table
                ))?;
                // What could not be put back is not taken away.
                ask.ask(&format!(
                    "INSERT INTO {} SELECT * FROM {kept} WHERE false",
                    table.table
                ))?;
                ask.ask(&format!("DELETE FROM {} WHERE {noted}", table.table))?;
                table.kept_in = Some(kept);
            }
            done.removed += table.removed;
            done.tables.push(table);
        }
        ask.ask(&format!("DROP TABLE {NOTED}"))?;
        let after = numbers(&ask.ask(&distinct(&keys, self.keys.len()))?)?;
        // All keys are there, and each once.
        if after.first() != before.first() || after.get(1) != before.first() {
            let message = "a key would have been lost, so nothing was removed: the same table was given twice, or it changes \
                           while it is read; give each table once";
            return Err(Error::new(ErrorKind::Transaction, message).into());
        }
        Ok(())
    }
}

/// How many keys there are, and how many rows have one.
fn distinct(keys: &str, count: usize) -> String {
    let names: Vec<String> = (0..count).map(|index| format!("k{index}")).collect();
    format!(
        "SELECT count(*)::VARCHAR, coalesce(sum(n), 0)::VARCHAR FROM (SELECT count(*) AS n FROM ({keys}) WHERE {} GROUP BY {})",
        has_key(count),
        names.join(", ")
    )
}

/// Notes each row but the first of its key, by table and `rowid`. Only keys that several rows have are put in order.
fn noted(rows: &str, keys: &str, count: usize, ordered: usize) -> String {
    let names: Vec<String> = (0..count).map(|index| format!("k{index}")).collect();
    let names = names.join(", ");
    let order: String = (0..ordered)
        .map(|index| format!("o{index} ASC NULLS LAST, "))
        .collect();
    format!(
        "CREATE TEMP TABLE duckward_duplicates AS SELECT p, r FROM (SELECT p, r, row_number() OVER (PARTITION BY {names} \
         ORDER BY {order}p, r) AS n FROM ({rows}) AS a SEMI JOIN (SELECT {names} FROM ({keys}) WHERE {} GROUP BY {names} \
         HAVING count(*) > 1) AS b USING ({names})) WHERE n > 1",
        has_key(count)
    )
}

fn removed_of(rows: &Rows) -> Result<Vec<(usize, u64)>> {
    rows.iter()
        .map(|row| leading(row).map(|[piece, many]| (index(piece), many)))
        .collect()
}

/// The parts of a table's name as SQL, if it is one.
fn parts(relation: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let mut from = 0;
    for (token, range) in tokens(relation) {
        match &relation[range.clone()] {
            "." => {
                parts.push(&relation[from..range.start]);
                from = range.end;
            }
            part if token == Token::Exact && part.starts_with('"') => {}
            _ => return None,
        }
    }
    parts.push(&relation[from..]);
    Some(parts)
}

/// The name of another table in the place of this one.
fn beside(table: &str, name: &str) -> String {
    let mut parts = parts(table).unwrap_or_default();
    parts.pop();
    let name = quoted_name(name);
    parts.push(&name);
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::source::Source;

    #[test]
    fn a_table_is_told_from_anything_else() {
        for (text, expected) in [
            ("t", Some("\"x\"")),
            ("a.\"b \"\".c\".t", Some("\"a\".\"b \"\".c\".\"x\"")),
            ("select 1", None),
            ("a.parquet", None),
        ] {
            let relation = Source::parse(text).unwrap().relation;
            assert_eq!(
                parts(&relation).map(|_| beside(&relation, "x")).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    /// A table of two rows with one key. One statement may fail; whether the table of removed rows is there is told.
    #[derive(Default)]
    struct Table {
        fails: &'static str,
        is_kept: bool,
        asked: Vec<String>,
    }

    impl Ask<Error> for Table {
        fn pause(&mut self, _time: std::time::Duration) -> Result<()> {
            Ok(())
        }

        fn ask(&mut self, sql: &str) -> Result<Rows> {
            self.asked.push(sql.to_owned());
            if !self.fails.is_empty() && sql.starts_with(self.fails) {
                return Err(Error::new(ErrorKind::Query, "no"));
            }
            let row = |cells: &[&str]| vec![cells.iter().map(|cell| Some((*cell).to_owned())).collect()];
            Ok(match sql {
                _ if sql.starts_with("DESCRIBE") => row(&["k", "INTEGER"]),
                _ if sql.contains("txid") => row(&[&self.asked.len().to_string()]),
                _ if sql.contains("uuid") => row(&["abc"]),
                _ if sql.contains("duckdb_tables") => row(&[if self.is_kept { "1" } else { "0" }]),
                _ if sql.contains("coalesce") => row(&["1", "1"]),
                _ if sql.starts_with("SELECT p::VARCHAR") => row(&["0", "1"]),
                _ => Vec::new(),
            })
        }
    }

    fn run(fails: &'static str, is_kept: bool) -> (Result<Deduplication>, Table) {
        let mut table = Table {
            fails,
            is_kept,
            asked: Vec::new(),
        };
        let set = PieceSet::whole(Source::parse("t").unwrap());
        (deduplicate(&mut table, &set, &["k".to_owned()], &[]), table)
    }

    #[test]
    fn whatever_fails_is_rolled_back() {
        for fails in [
            "CREATE TEMP",
            "SELECT p::",
            "CREATE TABLE",
            "INSERT",
            "DELETE",
            "DROP",
            "COMMIT",
        ] {
            let (done, table) = run(fails, false);
            assert_eq!(done.unwrap_err().message(), "no", "{fails}");
            assert!(
                table.asked.iter().any(|sql| sql == "ROLLBACK"),
                "{fails}: {:?}",
                table.asked
            );
        }
        let (done, table) = run("BEGIN", false);
        assert!(done.is_err());
        assert_eq!(table.asked.last().map(String::as_str), Some("BEGIN TRANSACTION"));
    }

    #[test]
    fn a_commit_that_fails_may_have_been_kept() {
        let (done, _) = run("COMMIT", true);
        let done = done.unwrap();
        assert_eq!(
            (done.removed, done.tables[0].kept_in.as_deref()),
            (1, Some("\"duckward_removed_abc_0\""))
        );
        let (done, table) = run("", false);
        assert_eq!(done.unwrap().removed, 1);
        assert_eq!(table.asked.last().map(String::as_str), Some("COMMIT"));
    }
}
