//! Of the rows that have one key, in one table or over several, the first one stays. The others move, in one transaction, into
//! tables beside, from which they can be put back.
//!
//! Pieces that a plan has cut are looked at in its order; whoever has them says where their rows are, and removes those noted here
//! himself where they are no tables.
//!
//! The first is that of the least value to order by (NULL last), of equal ones that in the earlier table, and there the one with
//! the least `rowid`, the order in which rows were inserted. A row whose key has a NULL is like no other and stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::compare::{numbers, unread};
use super::keys::{has_key, index, leading};
use super::piece_set::{Described, Picked, PieceSet};
use super::{counted, shown};
use crate::engine::text::{Token, quoted, quoted_name, tokens};
use crate::engine::{Ask, Rows};
use crate::error::{Error, ErrorKind, Result};

/// Where the rows are noted that go, until they are gone.
const NOTED: &str = "temp.main.duckward_duplicates";
/// The statement that drops that, if it is there.
pub const DROP_NOTED: &str = "DROP TABLE IF EXISTS temp.main.duckward_duplicates";
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
    /// The table that has them, as SQL; of a piece in files those of before, with all its rows. None where none were removed.
    pub kept_in: Option<String>,
    /// Whether that has all rows, not only those that were removed.
    #[serde(skip)]
    has_all: bool,
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
                let now = if table.has_all { "as it was in" } else { "now in" };
                lines.push(("from", format!("{}: {rows}, {now} {kept_in}", shown(&table.name))));
            }
        }
        lines
    }

    /// A table that was made for it, if one was.
    pub fn witness(&self) -> Option<String> {
        self.kept().map(|(_, kept)| kept.to_owned()).next()
    }

    /// The names of the tables that rows were removed from.
    pub fn touched(&self) -> BTreeSet<&str> {
        self.kept().map(|(table, _)| table.name.as_str()).collect()
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
    transaction(ask, |ask| {
        let done = Doubled::note(ask, set, on, order_by)?.remove(ask)?;
        let witness = done.witness();
        Ok((done, witness))
    })
}

/// Puts the removed rows back; how many. They come at the end of their tables.
///
/// # Errors
/// [`ErrorKind::State`] where the tables that have them are gone or have other rows; those of whoever is asked. Then nothing was
/// changed.
pub fn restore<E: From<Error>>(ask: &mut dyn Ask<E>, done: &Deduplication) -> Result<u64, E> {
    transaction(ask, |ask| Ok((put_back(ask, done)?, None)))
}

/// The same in the transaction that is open.
///
/// # Errors
/// As of [`restore`].
pub fn put_back<E: From<Error>>(ask: &mut dyn Ask<E>, done: &Deduplication) -> Result<u64, E> {
    for (table, kept) in done.kept() {
        expect_kept(ask, table, kept)?;
        ask.ask(&format!(
            "INSERT INTO {} SELECT * FROM {kept} ORDER BY rowid",
            table.table
        ))?;
        ask.ask(&format!("DROP TABLE {kept}"))?;
    }
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
        Ok(((), None))
    })
}

/// That the rows are still where they were put.
fn expect_kept<E: From<Error>>(ask: &mut dyn Ask<E>, table: &Deduplicated, kept: &str) -> Result<(), E> {
    let there = if exists(ask, kept)? {
        Some(rows_of(ask, kept)?)
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
///
/// # Errors
/// [`ErrorKind::Invalid`] where one is open already; those of `work` and of whoever is asked.
pub fn transaction<E: From<Error>, T>(
    ask: &mut dyn Ask<E>,
    work: impl FnOnce(&mut dyn Ask<E>) -> Result<(T, Option<String>), E>,
) -> Result<T, E> {
    if is_in_transaction(ask)? {
        let message = "this connection is in a transaction, and rows are removed in one of their own; commit it or roll it \
                       back first";
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    let done = ask.ask("BEGIN TRANSACTION").and_then(|_| work(ask));
    let (done, witness) = match done {
        Ok(done) => done,
        Err(error) => {
            ask.take_back("ROLLBACK");
            return Err(error);
        }
    };
    let Err(error) = ask.ask("COMMIT") else {
        return Ok(done);
    };
    ask.take_back("ROLLBACK");
    match witness {
        Some(table) if exists(ask, &table)? => Ok(done),
        _ => Err(error),
    }
}

/// All rows but the first of each key, noted in a temporary table: they are to go.
#[derive(Debug)]
pub struct Doubled<'a> {
    rows: Described<'a>,
    keys: Vec<Picked>,
    order: Vec<Picked>,
    /// Keys before.
    before: u64,
    /// The numbers of the pieces that have some, and how many.
    pub removed: BTreeMap<usize, u64>,
}

impl<'a> Doubled<'a> {
    /// Notes them. Of pieces that a plan has cut, a row's place in its piece is in a column `rowid` of the numbered relation.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for what is no table, and for columns that are not there; those of whoever is asked.
    pub fn note<E: From<Error>>(
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
        if set.plan().is_none()
            && let Some(piece) = set
                .pieces()
                .iter()
                .find(|piece| parts(&piece.source.relation).is_none())
        {
            let accepted = "rows can be removed from a table or a partitioning only; give the name of one";
            return Err(Error::invalid("source", format_args!("{:?}", piece.source.name), accepted).into());
        }
        let rows = Described::ask(ask, set)?;
        let has_rowid = |columns: &Vec<(String, String)>| {
            columns.iter().any(|(name, _)| name.eq_ignore_ascii_case("rowid"))
        };
        if let Some(table) = rows.columns.iter().position(has_rowid) {
            let message = format!(
                "{} has a column rowid, which hides DuckDB's own, by which rows are told apart; rename it first",
                if set.plan().is_some() {
                    set.name()
                } else {
                    &set.pieces()[table].name
                }
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
        let (read, read_ordered) = (rows.read(&keys, &[]), rows.read_ordered(&keys, &order));
        let before = numbers(&ask.ask(&distinct(&read, keys.len()))?)?;
        ask.ask(&noted(&read_ordered, &read, keys.len(), order.len()))?;
        let found = ask.ask(&format!(
            "SELECT p::VARCHAR, count(*)::VARCHAR FROM {NOTED} GROUP BY p"
        ))?;
        Ok(Doubled {
            keys,
            order,
            before: *before.first().ok_or_else(unread)?,
            removed: removed_of(&found)?,
            rows,
        })
    }

    /// What was removed, where `kept` says of each piece that loses rows where they are then, or all rows that it had.
    pub fn done(&self, kept: &dyn Fn(usize) -> String, has_all: bool) -> Deduplication {
        let removed = |number| self.removed.get(&number).copied();
        let pieces = self.rows.set.pieces().iter().enumerate();
        Deduplication {
            on: self.keys.iter().map(|column| column.name.clone()).collect(),
            order_by: self.order.iter().map(|column| column.name.clone()).collect(),
            removed: self.removed.values().sum(),
            tables: pieces
                .map(|(number, piece)| Deduplicated {
                    name: piece.name.clone(),
                    table: piece.source.relation.clone(),
                    removed: removed(number).unwrap_or_default(),
                    kept_in: removed(number).map(|_| kept(number)),
                    has_all,
                })
                .collect(),
        }
    }

    /// Moves them, in the transaction that is open, from their tables into others beside, and proves that nothing else went.
    ///
    /// # Errors
    /// [`ErrorKind::Transaction`] where more than they went; those of whoever is asked.
    pub fn remove<E: From<Error>>(&self, ask: &mut dyn Ask<E>) -> Result<Deduplication, E> {
        let token = ask.ask("SELECT substr(md5(uuid()::VARCHAR), 1, 8)")?;
        let token = token.into_iter().flatten().flatten().next().ok_or_else(unread)?;
        let relation = |number: usize| &self.rows.set.pieces()[number].source.relation;
        let done = self.done(
            &|number| beside(relation(number), &format!("{REMOVED}{token}_{number}")),
            false,
        );
        for (number, table) in done.tables.iter().enumerate() {
            let (Some(kept), from) = (&table.kept_in, &table.table) else {
                continue;
            };
            let before = rows_of(ask, from)?;
            ask.ask(&format!(
                "CREATE TABLE {kept} AS SELECT * FROM {from} WHERE rowid IN {} ORDER BY rowid",
                places(number)
            ))?;
            // What could not be put back is not taken away.
            ask.ask(&format!("INSERT INTO {from} SELECT * FROM {kept} WHERE false"))?;
            ask.ask(&format!("DELETE FROM {from} WHERE rowid IN {}", places(number)))?;
            let (after, moved) = (rows_of(ask, from)?, rows_of(ask, kept)?);
            if moved != table.removed || after + moved != before {
                return Err(lost().into());
            }
        }
        ask.ask(DROP_NOTED)?;
        self.prove(ask, self.rows.set)?;
        Ok(done)
    }

    /// That each key is there still, and once, in what the pieces are after it.
    ///
    /// # Errors
    /// [`ErrorKind::Transaction`] where it is not; those of whoever is asked.
    pub fn prove<E: From<Error>>(&self, ask: &mut dyn Ask<E>, after: &PieceSet) -> Result<(), E> {
        let rows = Described {
            set: after,
            columns: self.rows.columns.clone(),
        };
        let after = numbers(&ask.ask(&distinct(&rows.read(&self.keys, &[]), self.keys.len()))?)?;
        if after.first() != Some(&self.before) || after.get(1) != Some(&self.before) {
            return Err(lost().into());
        }
        Ok(())
    }
}

/// The places of the rows of a piece that [`Doubled::note`] has noted, as `rowid`: a relation.
pub fn places(piece: usize) -> String {
    format!("(SELECT r AS rowid FROM {NOTED} WHERE p = {piece})")
}

fn lost() -> Error {
    let message = "rows would have been lost, so nothing was removed: the same table was given twice, or it changes while it is \
                   read; give each table once";
    Error::new(ErrorKind::Transaction, message)
}

/// The rows of a table.
fn rows_of<E: From<Error>>(ask: &mut dyn Ask<E>, table: &str) -> Result<u64, E> {
    let found = numbers(&ask.ask(&format!("SELECT count(*)::VARCHAR FROM {table}"))?)?;
    Ok(*found.first().ok_or_else(unread)?)
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
        "CREATE OR REPLACE TEMP TABLE duckward_duplicates AS SELECT p, r FROM (SELECT p, r, row_number() OVER (PARTITION BY {names} \
         ORDER BY {order}p, r) AS n FROM ({rows}) AS a SEMI JOIN (SELECT {names} FROM ({keys}) WHERE {} GROUP BY {names} \
         HAVING count(*) > 1) AS b USING ({names})) WHERE n > 1",
        has_key(count)
    )
}

fn removed_of(rows: &Rows) -> Result<BTreeMap<usize, u64>> {
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
                _ if sql.starts_with("SELECT count(*)::VARCHAR FROM \"t\"") => {
                    row(&[if self.asked.iter().any(|sql| sql.starts_with("DELETE")) {
                        "1"
                    } else {
                        "2"
                    }])
                }
                _ if sql.starts_with("SELECT count(*)::VARCHAR FROM \"duckward_removed") => row(&["1"]),
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
            // It may have been interrupted after it was done.
            "BEGIN",
            "CREATE OR REPLACE",
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
