//! Computes a statement in pieces, as [`decompose`] says: each query that is cut becomes a temporary
//! table of the user's own session, filled piece by piece, and the statement reads that in its place. All pieces see one
//! state of the data: they run in one transaction, unless nobody can write to it. The rows that went into each piece are
//! counted, and so are the rows there were; when the two differ, there is no answer.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "shares and estimates need no more than 53 bits, and numbers of buckets are small"
)]

mod files;
mod proof;
mod rest;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::classify::Failure;
use super::decompose;
use super::decompose::fed::{FEED, fed};
use super::decompose::functions::{Functions, State, names};
use super::decompose::grouping::{Forms, SHARED, apart, is_apart, sets};
use super::decompose::ungrouped::{Question, Ungrouped, ask_distinct, put, ungrouped};
use super::decompose::{
    Cut, KEY, Kept, PAIRS, Target, Want, Way, WhyNot, asks_for_columns, ctes, cut, filtered, has_parameters,
    put_parameters, put_views, queries, tables, targets, whole,
};
use super::feed::{self, Costs};
use super::risk::{Keeps, Plan, Reach, is_too_much, pieces, state_bytes};
use crate::engine::text::{query_of, quoted, quoted_name, view_query, words};
use crate::engine::{Class, EngineError, Rows};
use crate::error::{Error, ErrorKind};
use crate::settings::Feed;
use crate::units::Bytes;

pub use files::Files;
pub use proof::Verify;
use proof::{Digest, Inputs, PIECE};
pub use rest::{Portion, Rest};

/// Buckets of the hash in which rows are counted beforehand; pieces are runs of them.
const BUCKETS: u64 = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 10;
/// How often all pieces are begun anew, each time twice as many.
const RESTARTS: u32 = 4;
/// The share of DuckDB's limit from which on one group by itself is said not to fit.
const CLAIM: f64 = 0.1;
/// DuckDB's name for the type of a bare NULL.
const NO_TYPE: &str = "\"NULL\"";
/// Rows that are looked at to learn how wide values are.
const SAMPLE: u32 = 1000;

/// What DuckDB says when the system refuses it memory (by the ceiling), and not its own limit.
pub const REFUSED_BY_THE_SYSTEM: &str = "bad allocation";
/// How long such a refusal is waited for to pass.
const BURST_PASSES: Duration = Duration::from_millis(300);

/// The connection that the statement is for.
pub trait Asks {
    /// Runs a statement that takes something back, also when the query has been stopped.
    fn clean(&mut self, sql: &str);

    /// Runs a statement of ours on it.
    ///
    /// # Errors
    /// The engine's.
    fn rows(&mut self, sql: &str) -> Result<Rows, EngineError>;

    /// The values of the statement's parameters as expressions of SQL, by name ("1", "2" where they have none); none where
    /// one of them cannot be written so.
    ///
    /// # Errors
    /// The engine's.
    fn parameters(&mut self) -> Result<Option<Vec<(String, String)>>, EngineError>;

    /// What an error of that kind of statement means now; an interrupt by the guard is forgotten by this.
    fn failure(&mut self, error: &EngineError) -> Failure;

    /// Takes note of how far it is.
    fn progress(&mut self, piece: &Piece, share: f64);

    /// Waits.
    fn pause(&mut self, time: Duration);

    /// All pieces are begun anew; those that were noted do not count.
    fn anew(&mut self);

    /// The time since some moment.
    fn elapsed(&self) -> Duration;
}

/// One piece, as the report shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// Rows that went in, if they can be counted.
    pub rows: Option<u64>,
    /// Wall time.
    pub seconds: f64,
    /// How often it was cut in two because it did not fit.
    pub splits: u32,
    /// Whether it read from what was written once for all pieces.
    pub spooled: bool,
}

/// What is known of a statement before it is cut.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What to cut.
    pub want: Want,
    /// Into how many pieces, if that is given.
    pub pieces: Option<usize>,
    /// Memory that DuckDB may use.
    pub limit: Bytes,
    /// Whether the user's own transaction is open.
    pub in_transaction: bool,
    /// A number for the names of temporary tables.
    pub number: u64,
    /// How the pieces get their rows.
    pub feed: Feed,
    /// Room on the disk that DuckDB spills to, if that is known.
    pub disk: Option<Bytes>,
    /// What is proved of the pieces.
    pub verify: Verify,
    /// Whether the pieces may be handed out one by one.
    pub by_piece: bool,
}

/// Why there is nothing prepared.
#[derive(Debug)]
pub enum Fault {
    /// It cannot be cut.
    WhyNot(WhyNot),
    /// The engine failed.
    Engine(EngineError),
    /// duckward cannot go on.
    Own(Error),
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        Fault::Engine(error)
    }
}

impl From<WhyNot> for Fault {
    fn from(why: WhyNot) -> Self {
        Fault::WhyNot(why)
    }
}

fn why_not<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::WhyNot(WhyNot(text.into())))
}

/// A statement whose queries have been computed in pieces.
#[derive(Debug)]
pub struct Prepared {
    /// What is run in its place.
    pub sql: String,
    /// What ends it well, statement by statement.
    pub finish: Vec<String>,
    /// What ends it in any other case.
    pub abandon: Vec<String>,
    /// What was proved of all queries that were cut; none where the rows of one could not be counted.
    pub verified: Option<Verify>,
    /// The files that it reads, as they were before the first piece.
    pub files: Files,
    /// Whether `abandon` takes all of it back when it has run: not a file that a COPY wrote, nor what the user's own
    /// transaction holds.
    pub undoable: bool,
    /// What comes after the first piece, where they are handed out one by one: then `sql` reads that, and `verified` does not
    /// count.
    pub rest: Option<Box<Rest>>,
}

/// A parsed statement, and what its functions are.
#[derive(Debug)]
pub struct Parsed {
    before: String,
    after: String,
    tree: Value,
    functions: Functions,
    /// Whether it is a SELECT, which changes nothing.
    pub selects: bool,
}

impl Parsed {
    /// Whether it writes files.
    fn copies(&self) -> bool {
        words(&self.before)
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("copy"))
    }
}

/// Asks DuckDB for its parse of `sql`. `known` keeps what was learnt of DuckDB's own functions: its catalog takes long to read.
///
/// # Errors
/// Why it cannot be cut, or the engine's.
pub fn parse(asks: &mut dyn Asks, sql: &str, known: &Mutex<Functions>) -> Result<Parsed, Fault> {
    let Some(range) = query_of(sql) else {
        return why_not("it is not one SELECT, nor an INSERT, a CREATE TABLE AS or a COPY of one");
    };
    let query = &sql[range.clone()];
    let rows = asks.rows(&format!("SELECT json_serialize_sql({})", quoted(query)))?;
    let mut tree: Value = one(&rows)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null);
    if tree["error"] != Value::Bool(false) {
        let said = tree["error_message"]
            .as_str()
            .unwrap_or("it is nested too deeply");
        return why_not(format!("DuckDB does not give its parse of it: {said}"));
    }
    if tree["statements"].as_array().is_none_or(|all| all.len() != 1) {
        return why_not("it is more than one statement");
    }
    if query.to_ascii_lowercase().contains("duckward_") {
        return why_not("it uses a name that begins with duckward_, as those of the pieces do");
    }
    if has_parameters(&tree) {
        bind(asks, &mut tree)?;
    } else {
        let names = describe(asks, query)?;
        decompose::name_items(&mut tree, &names)?;
    }
    expand_views(asks, &mut tree)?;
    let functions = called(asks, &tree, known)?;
    if functions.is_macro("hash") {
        return why_not("there is a macro called hash, which the pieces would be cut by");
    }
    decompose::spell_floats(&mut tree);
    take_sets_apart(asks, &mut tree, &functions)?;
    ungroup(asks, &mut tree, &functions)?;
    let before = sql[..range.start].to_owned();
    Ok(Parsed {
        selects: is_gap(&before),
        before,
        after: sql[range.end..]
            .trim_end_matches(|c: char| c.is_whitespace() || c == ';')
            .to_owned(),
        tree,
        functions,
    })
}

/// What the catalog says of the functions that are called.
fn called(asks: &mut dyn Asks, tree: &Value, known: &Mutex<Functions>) -> Result<Functions, Fault> {
    let mut called = names(tree);
    called.extend(["hash", "sum"].map(str::to_owned));
    let unknown: Vec<String> = {
        let known = known.lock();
        called
            .iter()
            .filter(|name| !known.knows(name))
            .map(|name| quoted(name))
            .collect()
    };
    let rows = if unknown.is_empty() {
        Rows::new()
    } else {
        asks.rows(&format!(
            "SELECT DISTINCT function_name, function_type, stability, internal::VARCHAR FROM duckdb_functions() \
             WHERE function_name IN ({})",
            unknown.join(", ")
        ))?
    };
    // The user's own functions may be others the next time, also under the name of one of DuckDB's.
    let own: BTreeSet<&str> = rows
        .iter()
        .filter(|row| {
            row.get(3)
                .is_some_and(|internal| internal.as_deref() != Some("true"))
        })
        .filter_map(|row| row.first()?.as_deref())
        .collect();
    let lasting: Rows = rows
        .iter()
        .filter(|row| {
            row.first()
                .and_then(Option::as_deref)
                .is_some_and(|name| !own.contains(name))
        })
        .cloned()
        .collect();
    let mut known = known.lock();
    known.learn(&lasting);
    let mut functions = known.only(&called);
    drop(known);
    functions.learn(&rows);
    Ok(functions)
}

/// Puts the values of the parameters into the tree.
fn bind(asks: &mut dyn Asks, tree: &mut Value) -> Result<(), Fault> {
    let Some(values) = asks.parameters()? else {
        return why_not("it has parameters whose values cannot be written as SQL");
    };
    let mut known = BTreeMap::new();
    for (name, literal) in values {
        let expression = node_of(asks, &format!("SELECT {literal}"))?
            .pointer("/select_list/0")
            .cloned()
            .unwrap_or(Value::Null);
        known.insert(name, expression);
    }
    put_parameters(tree, &known);
    Ok(())
}

/// Puts the queries of views in their place, as DuckDB would do.
fn expand_views(asks: &mut dyn Asks, tree: &mut Value) -> Result<(), Fault> {
    let local = ctes(tree);
    let mut wanted: Vec<String> = tables(tree)
        .into_iter()
        .filter(|name| !local.contains(name))
        .collect();
    // Views of views, but not for ever.
    for _ in 0..8 {
        if wanted.is_empty() {
            break;
        }
        let listed: Vec<String> = wanted.iter().map(|name| quoted(name)).collect();
        let rows = asks.rows(&format!(
            "SELECT lower(view_name), sql FROM duckdb_views() WHERE NOT internal AND lower(view_name) IN ({}) \
             AND schema_name = 'main' AND current_schema() = 'main' AND database_name IN (current_database(), 'temp') \
             ORDER BY temporary",
            listed.join(", ")
        ))?;
        if rows.is_empty() {
            break;
        }
        let temporary = asks.rows("SELECT lower(table_name) FROM duckdb_tables() WHERE temporary")?;
        let mut queries = BTreeMap::new();
        for row in &rows {
            if let [Some(name), Some(sql)] = row.as_slice()
                && !temporary.iter().flatten().any(|table| table.as_ref() == Some(name))
                // Objects that were registered are views, too.
                && !sql.contains("__duckdb_source")
                && let Some(query) = view_query(sql)
            {
                let table = node_of(asks, &format!("SELECT * FROM {query}"))?["from_table"].clone();
                queries.insert(name.clone(), table);
            }
        }
        wanted = put_views(tree, &queries)
            .into_iter()
            .filter(|name| !local.contains(name))
            .collect();
    }
    Ok(())
}

/// Puts a query for each grouping set in the place of one whose sets have no key in common.
fn take_sets_apart(asks: &mut dyn Asks, tree: &mut Value, functions: &Functions) -> Result<(), Fault> {
    let mut number = 0;
    for pointer in queries(tree) {
        if !tree
            .pointer(&pointer)
            .is_some_and(|node| is_apart(node, functions))
        {
            continue;
        }
        match set_by_set(asks, tree, &pointer, functions, &mut number) {
            Ok(Some(changed)) => *tree = changed,
            Ok(None) | Err(Fault::WhyNot(_)) => {}
            // It names a table beside it, or a type that cannot be written.
            Err(Fault::Engine(error)) if error.class == Class::Statement => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// The tree with a query for each set in the place of the one at `pointer`, if DuckDB gives it the same columns.
fn set_by_set(
    asks: &mut dyn Asks,
    tree: &Value,
    pointer: &str,
    functions: &Functions,
    number: &mut usize,
) -> Result<Option<Value>, Fault> {
    let columns: Option<BTreeSet<String>> = match asks_for_columns(tree, pointer) {
        None => None,
        Some(statement) => {
            let text = text_of(asks, &statement)?;
            let names = describe(asks, &text)?;
            Some(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
        }
    };
    let (Some(found), Some(statement)) = (
        sets(tree, pointer, functions, columns.as_ref()),
        whole(tree, pointer),
    ) else {
        return Ok(None);
    };
    let keys = columns_of(asks, &found.source)?;
    let given = columns_of(asks, &statement)?;
    let nulls = keys.iter().map(|(_, kind)| format!("CAST(NULL AS {kind})"));
    let ordinals = (1..=given.len()).map(|ordinal| ordinal.to_string());
    let numbers = found.numbers();
    let bits = numbers.iter().map(|bits| format!("CAST({bits} AS BIGINT)"));
    let written: Vec<String> = nulls.chain(ordinals).chain(bits).collect();
    let mut items = node_of(asks, &format!("SELECT {}", written.join(", ")))?["select_list"]
        .as_array()
        .cloned()
        .unwrap_or_default()
        .into_iter();
    let forms = Forms {
        nulls: items.by_ref().take(keys.len()).collect(),
        ordinals: items.by_ref().take(given.len()).collect(),
        numbers: numbers.into_iter().zip(items).collect(),
        union: node_of(asks, "SELECT 1 UNION ALL SELECT 2")?,
        distinct: node_of(asks, &format!("SELECT DISTINCT * FROM (SELECT 1) AS {SHARED}all"))?,
        shared: node_of(
            asks,
            &format!("WITH {SHARED}0 AS NOT MATERIALIZED (SELECT 1) SELECT * FROM {SHARED}0"),
        )?,
    };
    let names: Vec<String> = given.iter().map(|(name, _)| name.clone()).collect();
    let changed = apart(tree, pointer, &found, &forms, &names, functions, number);
    let Some(statement) = changed.as_ref().and_then(|changed| whole(changed, pointer)) else {
        return Ok(None);
    };
    Ok(if columns_of(asks, &statement)? == given {
        changed
    } else {
        None
    })
}

/// Puts pairs of a value and its count in the place of what aggregates without groups would keep.
fn ungroup(asks: &mut dyn Asks, tree: &mut Value, functions: &Functions) -> Result<(), Fault> {
    let mut number = 0;
    for pointer in queries(tree) {
        let found = ungrouped(tree, &pointer, functions);
        let (false, Some(statement)) = (found.is_empty(), whole(tree, &pointer)) else {
            continue;
        };
        let text = text_of(asks, &statement)?;
        let names = describe(asks, &text)?;
        let (mut entries, mut expressions, mut known) = (Vec::new(), Vec::new(), Vec::new());
        for ungrouped in &found {
            let values = text_of(asks, &ungrouped.values)?;
            let at = known.iter().position(|other| *other == values);
            let table = format!("{PAIRS}{}", number + at.unwrap_or(known.len()));
            let kinds = asks.rows(&format!("DESCRIBE {values}"))?;
            let kind = kinds
                .first()
                .and_then(|row| row.get(1)?.clone())
                .unwrap_or_default();
            let Some(sql) = asked(asks, ungrouped, &table, &kind)? else {
                break;
            };
            if at.is_none() {
                let pairs = format!(
                    "WITH {table} AS MATERIALIZED (SELECT v, count(*) AS n FROM ({values}) AS duckward_q(v) \
                     WHERE v IS NOT NULL GROUP BY v) SELECT 1"
                );
                entries.extend(node_of(asks, &pairs)?.pointer("/cte_map/map/0").cloned());
                known.push(values);
            }
            let mut expression = node_of(asks, &format!("SELECT {sql}"))?["select_list"][0].take();
            if ungrouped.question == Question::Distinct {
                ask_distinct(ungrouped, &mut expression);
            }
            expressions.push(expression);
        }
        if expressions.len() == found.len() && list_length(tree, &pointer) == names.len() {
            number += known.len();
            put(tree, &pointer, &found, &expressions, entries, &names, functions);
        }
    }
    Ok(())
}

fn list_length(tree: &Value, pointer: &str) -> usize {
    tree.pointer(pointer)
        .and_then(|node| node["select_list"].as_array())
        .map_or(0, Vec::len)
}

/// Pairs in `table`, with how many values there are up to each.
fn running(table: &str) -> String {
    format!(
        "(SELECT v, sum(n) OVER (ORDER BY v ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS upto FROM {table})"
    )
}

/// The value at `share` of the pairs in `table`, between two that are there, by DuckDB's own arithmetic.
fn between(table: &str, share: &str) -> String {
    let running = running(table);
    format!(
        "(SELECT CASE WHEN low = high THEN one ELSE one * (1 - (place - low)) + other * (place - low) END FROM \
         (SELECT any_value(place) AS place, any_value(low) AS low, any_value(high) AS high, \
         min(v) FILTER (WHERE upto > low)::DOUBLE AS one, min(v) FILTER (WHERE upto > high)::DOUBLE AS other \
         FROM {running}, (SELECT place, floor(place) AS low, ceil(place) AS high FROM \
         (SELECT (sum(n)::BIGINT - 1) * ({share})::DOUBLE AS place FROM {table}))))"
    )
}

/// What gives the answer from the pairs in `table`, whose values are of type `kind`; none where that is not known to be the
/// same to the last bit.
fn asked(
    asks: &mut dyn Asks,
    ungrouped: &Ungrouped,
    table: &str,
    kind: &str,
) -> Result<Option<String>, Fault> {
    let whole_number = matches!(
        kind,
        "TINYINT" | "SMALLINT" | "INTEGER" | "BIGINT" | "UTINYINT" | "USMALLINT" | "UINTEGER"
    );
    match ungrouped.question {
        // The function is put in afterwards.
        Question::Distinct => return Ok(Some(format!("(SELECT count(v) FROM {table})"))),
        // Of several values DuckDB's threads take any.
        Question::Mode => {
            return Ok(Some(format!(
                "(SELECT min(v) FROM {table} WHERE n = (SELECT max(n) FROM {table}))"
            )));
        }
        Question::Continuous | Question::Deviation if !whole_number && kind != "DOUBLE" => return Ok(None),
        Question::Deviation => {
            let middle = between(table, "0.5");
            let distances = format!("(SELECT abs(v::DOUBLE - {middle}) AS v, n FROM {table})");
            return Ok(Some(between(&distances, "0.5")));
        }
        Question::Continuous | Question::Discrete => {}
    }
    let running = running(table);
    let mut parts = Vec::new();
    for share in &ungrouped.shares {
        let share = if share.is_null() {
            "0.5".to_owned()
        } else {
            let text = text_of(asks, &statement_of(share))?;
            text.trim_start_matches("SELECT ").to_owned()
        };
        parts.push(match ungrouped.question {
            Question::Discrete => format!(
                "(SELECT min(v) FROM {running}, (SELECT greatest(1, sum(n)::DECIMAL(24, 0) - floor(sum(n)::DECIMAL(24, 0) \
                 - sum(n)::DECIMAL(24, 0) * {share})) - 1 AS place FROM {table}) WHERE upto > place)"
            ),
            _ => between(table, &share),
        });
    }
    Ok(Some(if ungrouped.is_list {
        format!(
            "CASE WHEN (SELECT count(*) FROM {table}) > 0 THEN [{}] END",
            parts.join(", ")
        )
    } else {
        parts.join("")
    }))
}

/// A SELECT of one expression.
#[expect(
    clippy::disallowed_methods,
    reason = "json! unwraps, and what it is given here always has a form in JSON"
)]
fn statement_of(expression: &Value) -> Value {
    let mut node = serde_json::json!({"type": "SELECT_NODE", "modifiers": [], "cte_map": {"map": []},
        "from_table": {"type": "EMPTY", "alias": "", "sample": null}, "where_clause": null, "group_expressions": [],
        "group_sets": [], "aggregate_handling": "STANDARD_HANDLING", "having": null, "sample": null, "qualify": null});
    node["select_list"] = serde_json::json!([expression]);
    serde_json::json!({"error": false, "statements": [{"node": node, "named_param_map": []}]})
}

/// The text of a statement that is given as its parse.
fn text_of(asks: &mut dyn Asks, statement: &Value) -> Result<String, Fault> {
    Ok(texts_of(asks, &[statement])?.swap_remove(0))
}

/// The texts of statements that are given as their parses.
fn texts_of(asks: &mut dyn Asks, statements: &[&Value]) -> Result<Vec<String>, Fault> {
    if statements.is_empty() {
        return Ok(Vec::new());
    }
    let asked: Vec<String> = statements
        .iter()
        .map(|statement| format!("json_deserialize_sql({}::JSON)", quoted(&statement.to_string())))
        .collect();
    let rows = asks.rows(&format!("SELECT {}", asked.join(", ")))?;
    let texts: Option<Vec<String>> = rows.into_iter().next().and_then(|row| {
        let texts = row.into_iter();
        texts
            .map(|text| Some(text?.trim_end_matches(';').to_owned()))
            .collect()
    });
    match texts {
        Some(texts) if texts.len() == statements.len() => Ok(texts),
        _ => why_not("DuckDB does not print its own parse of it"),
    }
}

/// The names of a query's columns.
fn describe(asks: &mut dyn Asks, sql: &str) -> Result<Vec<String>, Fault> {
    let rows = asks.rows(&format!("DESCRIBE {sql}"))?;
    Ok(rows
        .into_iter()
        .filter_map(|row| row.into_iter().next()?)
        .collect())
}

/// The names and types of the columns of a statement that is given as its parse.
fn columns_of(asks: &mut dyn Asks, statement: &Value) -> Result<Vec<(String, String)>, Fault> {
    let text = text_of(asks, statement)?;
    let rows = asks.rows(&format!("DESCRIBE {text}"))?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let mut row = row.into_iter();
            Some((row.next()??, row.next()??))
        })
        .collect())
}

/// DuckDB's plan of a query.
fn plan_of(asks: &mut dyn Asks, sql: &str) -> Result<Option<Plan>, Fault> {
    let rows = asks.rows(&format!("EXPLAIN (FORMAT JSON) {sql}"))?;
    Ok(rows
        .iter()
        .find(|row| {
            row.first()
                .is_some_and(|kind| kind.as_deref() == Some("physical_plan"))
        })
        .or(rows.last())
        .and_then(|row| row.get(1)?.as_deref())
        .and_then(Plan::read))
}

/// The parse of one query.
fn node_of(asks: &mut dyn Asks, sql: &str) -> Result<Value, Fault> {
    let rows = asks.rows(&format!("SELECT json_serialize_sql({})", quoted(sql)))?;
    let tree: Value = one(&rows)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null);
    match tree.pointer("/statements/0/node") {
        Some(node) => Ok(node.clone()),
        None => why_not("DuckDB does not parse what was made of it"),
    }
}

/// Whether there is nothing but space and comments in `text`.
fn is_gap(text: &str) -> bool {
    crate::engine::text::tokens(text).all(|(token, _)| token == crate::engine::text::Token::Gap)
}

/// What of it would be cut.
///
/// # Errors
/// Why nothing.
pub fn look(parsed: &Parsed, want: Want) -> Result<Vec<Target>, WhyNot> {
    targets(&parsed.tree, &parsed.functions, want)
}

/// Whether DuckDB's plan of `sql` says at once that it fits, whatever its aggregates keep. Anything unclear says no.
pub fn surely_fits(asks: &mut dyn Asks, sql: &str, limit: Bytes) -> bool {
    let Some(query) = query_of(sql).map(|range| &sql[range]) else {
        return false;
    };
    // A plan wants the values of parameters.
    if query.contains(['?', '$']) {
        return false;
    }
    let plan = plan_of(asks, query).ok().flatten();
    plan.and_then(|plan| plan.at_most())
        .is_some_and(|bytes| !is_too_much(bytes, limit))
}

/// The memory that the aggregates of `parsed` would keep if it ran as it is, when that is more than `limit`.
///
/// # Errors
/// Why it cannot be told, or the engine's.
pub fn foresee(asks: &mut dyn Asks, parsed: &Arc<Parsed>, limit: Bytes) -> Result<Option<Bytes>, Fault> {
    let nobody = Options {
        want: Want::Kept,
        pieces: None,
        limit,
        in_transaction: true,
        number: 0,
        feed: Feed::Auto,
        disk: None,
        verify: Verify::Counts,
        by_piece: false,
    };
    let mut run = Run {
        asks,
        parsed,
        options: &nobody,
        times: 1,
        fixed: true,
        began: false,
        made: Vec::new(),
        proofs: Vec::new(),
        failed: None,
    };
    run.foresee()
}

/// A query of a statement that would be computed beforehand, as DuckDB's plan estimates it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Its text, as DuckDB prints it, with the queries of views and the values of parameters in their places.
    pub sql: String,
    /// What it is cut by, as text; nothing when it is computed at once.
    pub keys: Vec<String>,
    /// Rows that go into it; that it gives, when it is computed at once.
    pub rows: Option<u64>,
    /// Groups it makes of them.
    pub groups: Option<u64>,
    /// Memory that it would keep, if it ran as it is.
    pub bytes: Option<Bytes>,
    /// Into how many pieces it would be cut at first; none when it is computed at once.
    pub pieces: Option<usize>,
}

/// What of `parsed` would be computed beforehand. Nothing of it is run: DuckDB only plans.
///
/// # Errors
/// Why it cannot be cut, or the engine's.
pub fn explain(asks: &mut dyn Asks, parsed: &Arc<Parsed>, options: &Options) -> Result<Vec<Forecast>, Fault> {
    refuse_objects(asks, parsed)?;
    let mut run = Run {
        asks,
        parsed,
        options,
        times: 1,
        fixed: true,
        began: false,
        made: Vec::new(),
        proofs: Vec::new(),
        failed: None,
    };
    targets(&parsed.tree, &parsed.functions, options.want)?
        .iter()
        .map(|target| run.forecast(target))
        .collect()
}

/// Computes what has to be computed beforehand. On an error nothing is left behind.
///
/// # Errors
/// Why it cannot be cut, the engine's, or duckward's own.
pub fn prepare(asks: &mut dyn Asks, parsed: &Arc<Parsed>, options: &Options) -> Result<Prepared, Fault> {
    refuse_objects(asks, parsed)?;
    // Only within a transaction is now() the same in all pieces.
    let fixed = !options.in_transaction && !parsed.functions.has_times() && is_fixed(asks)?;
    let files = Files::look(asks, &parsed.tree)?;
    let mut times = 1;
    for restart in 0.. {
        let mut run = Run {
            asks,
            parsed,
            options,
            times,
            fixed,
            began: false,
            made: Vec::new(),
            proofs: Vec::new(),
            failed: None,
        };
        match run.all(&files) {
            Ok(prepared) => return Ok(prepared),
            Err(Fault::Engine(error)) => {
                let failure = run.asks.failure(&error);
                run.give_up();
                let again = matches!(failure, Failure::Memory | Failure::InterruptedByGuard);
                if !again || options.in_transaction {
                    return Err(Fault::Engine(error));
                }
                let last = restart >= RESTARTS;
                if let Some(too_large) = run.too_large(&error, last) {
                    return Err(too_large);
                }
                if last {
                    return Err(Fault::Engine(error));
                }
                times *= 2;
                asks.anew();
            }
            Err(other) => {
                run.give_up();
                return Err(other);
            }
        }
    }
    why_not("it was begun too often")
}

/// A name that is neither a table nor a file stands for an object of the host program, which may be another one by now, or
/// be readable once only; or for a view that was not looked into.
fn refuse_objects(asks: &mut dyn Asks, parsed: &Parsed) -> Result<(), Fault> {
    let local = ctes(&parsed.tree);
    let bare = tables(&parsed.tree);
    let named = decompose::all_tables(&parsed.tree);
    if named.is_empty() {
        return Ok(());
    }
    let rows = asks.rows(
        "SELECT lower(table_name), 'table' FROM duckdb_tables() UNION ALL SELECT lower(view_name), \
         CASE WHEN sql LIKE '%pandas_scan(%' THEN 'frame' ELSE 'view' END FROM duckdb_views() WHERE NOT internal",
    )?;
    let is = |name: &str, kind: &str| {
        rows.iter()
            .any(|row| matches!(row.as_slice(), [Some(known), Some(what)] if known == name && what == kind))
    };
    for name in named {
        let is_local = local.contains(&name);
        if is(&name, "view") && !is_local {
            return why_not(format!(
                "it reads {name}, a view that is not looked into or an object that may be readable once only: put it into a table"
            ));
        }
        let known = is_local || is(&name, "table") || is(&name, "frame") || name.contains(['.', '/', '*']);
        if !known && bare.contains(&name) {
            return why_not(format!(
                "it reads {name}, an object of the program that may be another one by now: register() it, or put it into a table"
            ));
        }
    }
    Ok(())
}

/// Whether nobody can change what is read while the pieces run.
fn is_fixed(asks: &mut dyn Asks) -> Result<bool, Fault> {
    let rows = asks.rows(
        "SELECT coalesce(bool_and(readonly), true)::VARCHAR FROM duckdb_databases() WHERE NOT internal",
    )?;
    Ok(one(&rows) == Some("true"))
}

fn one(rows: &Rows) -> Option<&str> {
    rows.first()?.first()?.as_deref()
}

/// A run of hashes, both ends included, and how many rows it has.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    low: u64,
    high: u64,
    rows: u64,
}

/// A range to ask for a plan with.
const SIXTEENTH: Range = Range {
    low: 1,
    high: u64::MAX / 16,
    rows: 0,
};

struct Run<'a> {
    asks: &'a mut dyn Asks,
    parsed: &'a Arc<Parsed>,
    options: &'a Options,
    /// How many times as many pieces as estimated.
    times: usize,
    /// Nobody can write, so no transaction is needed.
    fixed: bool,
    began: bool,
    /// Temporary tables of ours.
    made: Vec<String>,
    /// What was proved of each query that was cut.
    proofs: Vec<Option<Verify>>,
    /// The piece that ended the transaction of all.
    failed: Option<Failed>,
}

/// A piece that failed.
#[derive(Debug)]
struct Failed {
    range: Range,
    source: String,
    cut: Cut,
    chosen: Vec<usize>,
}

/// The rows of one group, by the hash that it is cut by.
#[derive(Debug)]
struct Group {
    hash: u64,
    rows: u64,
    key: String,
}

/// What is known of a cut once DuckDB has described it.
#[derive(Debug)]
struct Described {
    text: String,
    names: Vec<String>,
    types: Vec<String>,
    /// All columns of a piece, visible and hidden.
    columns: Vec<String>,
    keys: Vec<String>,
    /// The query with the cut in its WHERE, between [`LOW`] and [`HIGH`], where DuckDB does not move it down to all of it.
    inside: Option<String>,
}

impl Described {
    /// The piece of that range.
    fn select(&self, items: &str, list: &str, range: Range) -> String {
        match &self.inside {
            Some(text) => format!(
                "SELECT {items} FROM ({}) AS duckward_q({list})",
                put_range(text, range)
            ),
            None => format!(
                "SELECT {items} FROM ({}) AS duckward_q({list}) WHERE hash({}) BETWEEN {}::UBIGINT AND {}::UBIGINT",
                self.text,
                self.keys.join(", "),
                range.low,
                range.high
            ),
        }
    }
}

/// Stand for the ends of a range.
const LOW: &str = "'duckward_low'";
const HIGH: &str = "'duckward_high'";

fn put_range(text: &str, range: Range) -> String {
    text.replace(LOW, &format!("'{}'", range.low))
        .replace(HIGH, &format!("'{}'", range.high))
}

/// A query that is being computed in pieces.
#[derive(Debug)]
struct Work {
    cut: Cut,
    described: Described,
    digest: Option<Digest>,
    /// The statement that gives the keys.
    source: Option<String>,
    chosen: Vec<usize>,
    inputs: Option<Inputs>,
    feed: Option<Written>,
    /// What is left, the next last: a piece that is split goes on in its place.
    ranges: Vec<Range>,
    /// What is in the table that is filled, in order.
    finished: Vec<Range>,
    /// How often the next one was split, and whether it was tried once before.
    splits: u32,
    tried: bool,
    /// How many are done, with how many rows of how many.
    pieces: usize,
    so_far: u64,
    total: u64,
    /// What was done of the statement before, and what it is of it.
    done: f64,
    share: f64,
}

/// What the pieces need, in a temporary table.
#[derive(Debug)]
struct Written {
    table: String,
    /// The query over it.
    body: String,
}

impl Written {
    /// The piece of that range.
    fn select(&self, items: &str, list: &str, range: Range) -> String {
        format!(
            "WITH {FEED} AS NOT MATERIALIZED (SELECT * FROM temp.main.{} WHERE duckward_b BETWEEN {}::UBIGINT AND \
             {}::UBIGINT) SELECT {items} FROM ({}) AS duckward_q({list})",
            self.table, range.low, range.high, self.body
        )
    }
}

impl Run<'_> {
    fn all(&mut self, files: &Files) -> Result<Prepared, Fault> {
        let mut tree = self.parsed.tree.clone();
        let found = targets(&tree, &self.parsed.functions, self.options.want)?;
        if !self.fixed && !self.options.in_transaction {
            self.asks.rows("BEGIN TRANSACTION")?;
            self.began = true;
        }
        let share = 1.0 / found.len().max(1) as f64;
        for (index, target) in found.iter().enumerate() {
            let replacement = match target.way {
                Way::Once => self.once(&tree, &target.pointer)?,
                Way::Pieces => {
                    let mut work = self.work(&tree, &target.pointer, index as f64 * share, share)?;
                    if self.stands_alone(&tree, &target.pointer, &work, files) {
                        self.end_transaction()?;
                        self.fixed = true;
                        if self.options.by_piece && work.cut.modifiers.is_empty() {
                            return self.by_piece(work, files);
                        }
                    }
                    self.whole(&mut work)?
                }
            };
            if let Some(place) = tree.pointer_mut(&target.pointer) {
                *place = replacement;
            }
        }
        let query = self.text(&tree)?;
        let mut finish: Vec<String> = self.drops();
        if self.began {
            finish = if self.parsed.selects {
                vec!["ROLLBACK".to_owned()]
            } else {
                finish.push("COMMIT".to_owned());
                finish
            };
        }
        let prepared = Prepared {
            sql: format!("{}{query}{}", self.parsed.before, self.parsed.after),
            abandon: self.undo(),
            finish,
            verified: self.proofs.iter().copied().min().flatten(),
            files: files.clone(),
            undoable: self.parsed.selects || (self.began && !self.parsed.copies()),
            rest: None,
        };
        Ok(prepared)
    }

    /// Commits what was written down; there is nothing else. From here on a piece that fails is split by itself.
    fn end_transaction(&mut self) -> Result<(), Fault> {
        if std::mem::take(&mut self.began)
            && let Err(error) = self.asks.rows("COMMIT")
        {
            self.asks.clean("ROLLBACK");
            return Err(error.into());
        }
        Ok(())
    }

    /// Whether the query at `pointer` is the whole of a SELECT, and its pieces read nothing that could change between them.
    fn stands_alone(&self, tree: &Value, pointer: &str, work: &Work, files: &Files) -> bool {
        self.parsed.selects
            && !self.options.in_transaction
            && !self.parsed.functions.has_times()
            && pointer == "/statements/0/node"
            && is_gap(&self.parsed.after)
            && (self.fixed || work.feed.is_some() || files.are_all_of(tree))
    }

    /// The first piece of `work`, and the rest.
    fn by_piece(&mut self, work: Work, files: &Files) -> Result<Prepared, Fault> {
        let mut rest = Rest::new(self, work, files.clone())?;
        let first = rest.next(self.asks);
        // Until it is handed over, what there is of it is taken back here.
        let (sql, drop) = match first {
            Ok(Some(Portion { sql, drop })) => (sql, drop),
            Ok(None) => return why_not("there is nothing in it"),
            Err(error) => {
                self.made.extend(rest.tables());
                return Err(error);
            }
        };
        let mut abandon = vec![drop.clone()];
        abandon.extend(rest.drops());
        Ok(Prepared {
            sql,
            finish: vec![drop],
            abandon,
            verified: None,
            files: files.clone(),
            undoable: true,
            rest: Some(Box::new(rest)),
        })
    }

    fn foresee(&mut self) -> Result<Option<Bytes>, Fault> {
        let mut most = Bytes(0);
        for target in targets(&self.parsed.tree, &self.parsed.functions, Want::Kept)? {
            if target.way != Way::Pieces {
                continue;
            }
            let columns = self.columns_below(&self.parsed.tree, &target.pointer)?;
            let cut = cut(
                &self.parsed.tree,
                &target.pointer,
                &self.parsed.functions,
                columns.as_ref(),
            )?;
            let known: Vec<&Kept> = cut
                .kept
                .iter()
                .filter(|kept| matches!(kept.state, State::Values | State::Text | State::Best))
                .collect();
            let named: Vec<String> = cut.kept.iter().map(|kept| kept.name.clone()).collect();
            let body = self.text(&cut.body)?;
            let Some((rows, groups)) = self.explain(&body)?.and_then(|plan| plan.into_aggregate(&named))
            else {
                continue;
            };
            let keeps = self.keeps(&known)?;
            let mut bytes = state_bytes(&keeps, rows, groups);
            for kept in cut.kept.iter().filter(|kept| kept.state == State::Distinct) {
                if let Some(values) = self.different(kept)? {
                    let keeps = self.keeps(&[kept])?;
                    bytes = bytes.plus(state_bytes(&keeps, pairs(values * groups, rows), groups));
                }
            }
            most = most.max(bytes);
        }
        Ok((most > self.options.limit).then_some(most))
    }

    /// How many different values an aggregate takes, if it takes a column of a table of which DuckDB keeps that.
    fn different(&mut self, kept: &Kept) -> Result<Option<f64>, Fault> {
        let Some(mut values) = kept.values.clone() else {
            return Ok(None);
        };
        let node = &mut values["statements"][0]["node"];
        // The first row must be there at once.
        node["where_clause"] = Value::Null;
        let one_table = node["from_table"]["type"] == "BASE_TABLE";
        if !one_table || list_length(&values, "/statements/0/node") != 1 {
            return Ok(None);
        }
        let text = self.text(&values)?;
        let rows = self.asks.rows(&format!(
            "SELECT stats(v)::VARCHAR FROM ({text}) AS duckward_q(v) LIMIT 1"
        ))?;
        Ok(one(&rows).and_then(approximately_unique))
    }

    /// What aggregates keep, by the types of what they take.
    fn keeps(&mut self, kept: &[&Kept]) -> Result<Vec<Keeps>, Fault> {
        let values: Vec<&Value> = kept.iter().filter_map(|kept| kept.values.as_ref()).collect();
        let mut texts = texts_of(self.asks, &values)?.into_iter();
        let mut keeps = Vec::new();
        for kept in kept {
            let width = match kept.values.as_ref().and_then(|_| texts.next()) {
                Some(text) => self.types(&text)?.iter().map(|kind| type_width(kind)).sum(),
                None => 0.0,
            };
            keeps.push(Keeps {
                state: kept.state,
                width,
            });
        }
        Ok(keeps)
    }

    /// What would be done for `target`. The queries below it stay where they are: their tables are not there yet.
    fn forecast(&mut self, target: &Target) -> Result<Forecast, Fault> {
        let tree = &self.parsed.tree;
        let Some(statement) = whole(tree, &target.pointer) else {
            return why_not("the query is not where it was");
        };
        let sql = self.text(&statement)?;
        if target.way == Way::Once {
            let rows = self.explain(&sql)?.and_then(|plan| plan.rows());
            return Ok(Forecast {
                sql,
                rows: rows.map(rounded),
                ..Forecast::default()
            });
        }
        let columns = self.columns_below(tree, &target.pointer)?;
        let written = cut(tree, &target.pointer, &self.parsed.functions, columns.as_ref())?;
        let cut = self.with_counts(tree, &target.pointer, columns.as_ref(), written.clone())?;
        let mut described = self.described(&cut)?;
        let chosen = self.choose(&cut, &mut described)?;
        let keys = self.key_texts(&written, &described, &chosen)?;
        let plan = self.explain(&described.text)?;
        let kept: Vec<&Kept> = cut.kept.iter().collect();
        let named: Vec<String> = kept.iter().map(|kept| kept.name.clone()).collect();
        let keeps = self.keeps(&kept)?;
        let estimated = plan.and_then(|plan| {
            let (rows, groups) = plan.into_aggregate(&named).or_else(|| plan.into_topmost())?;
            // Not every operator that groups has an estimate of its own.
            let groups = Some(groups)
                .filter(|groups| *groups > 0.0)
                .or_else(|| plan.rows())
                .map(|groups| groups.min(rows));
            Some((rows, groups))
        });
        let (rows, groups) = estimated.unzip();
        let bytes = rows.map(|rows| kept_bytes(&keeps, rows, groups.flatten().unwrap_or(rows)));
        Ok(Forecast {
            sql,
            keys,
            rows: rows.map(rounded),
            groups: groups.flatten().filter(|_| cut.rows.is_some()).map(rounded),
            bytes,
            pieces: Some(
                self.options
                    .pieces
                    .unwrap_or_else(|| bytes.map_or(1, |bytes| pieces(bytes, self.options.limit)).max(2)),
            ),
        })
    }

    /// The keys that were chosen, as they would be written.
    fn key_texts(
        &mut self,
        cut: &Cut,
        described: &Described,
        chosen: &[usize],
    ) -> Result<Vec<String>, Fault> {
        let Some(source) = &cut.source else {
            let names = chosen.iter().filter_map(|key| described.names.get(*key));
            return Ok(names.map(|name| quoted_name(name)).collect());
        };
        let bare = node_of(self.asks, "SELECT 1")?;
        let mut texts = Vec::new();
        for key in chosen {
            let mut statement = source.clone();
            let Some(key) = source.pointer(&format!("/statements/0/node/select_list/{key}")) else {
                continue;
            };
            statement["statements"][0]["node"] = bare.clone();
            statement["statements"][0]["node"]["select_list"] = Value::Array(vec![key.clone()]);
            let text = self.text(&statement)?;
            texts.push(text.strip_prefix("SELECT ").unwrap_or(&text).to_owned());
        }
        Ok(texts)
    }

    /// The columns of what the query at `pointer` reads, in small letters, if they decide what its names stand for.
    fn columns_below(&mut self, tree: &Value, pointer: &str) -> Result<Option<BTreeSet<String>>, Fault> {
        let Some(statement) = asks_for_columns(tree, pointer) else {
            return Ok(None);
        };
        let text = self.text(&statement)?;
        Ok(Some(
            self.describe(&text)?
                .into_iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
        ))
    }

    /// The types of a query's columns, where a table can have them.
    fn storable(&mut self, sql: &str) -> Result<Vec<String>, Fault> {
        let types = self.types(sql)?;
        for kind in &types {
            let unnamed = kind.starts_with("STRUCT(")
                && !kind["STRUCT(".len()..].trim_start().starts_with('"')
                && kind["STRUCT(".len()..]
                    .split([',', ')'])
                    .next()
                    .is_some_and(|field| !field.trim().contains(' '));
            if unnamed || (kind != NO_TYPE && kind.contains(NO_TYPE)) {
                return why_not(format!("it has a column of type {kind}, which no table can have"));
            }
        }
        Ok(types)
    }

    fn types(&mut self, sql: &str) -> Result<Vec<String>, Fault> {
        let rows = self.asks.rows(&format!("DESCRIBE {sql}"))?;
        Ok(rows
            .into_iter()
            .filter_map(|row| row.into_iter().nth(1)?)
            .collect())
    }

    fn drops(&self) -> Vec<String> {
        drops(&self.made)
    }

    fn undo(&self) -> Vec<String> {
        if self.began {
            vec!["ROLLBACK".to_owned()]
        } else {
            self.drops()
        }
    }

    fn give_up(&mut self) {
        for statement in self.undo() {
            self.asks.clean(&statement);
        }
    }

    fn text(&mut self, statement: &Value) -> Result<String, Fault> {
        text_of(self.asks, statement)
    }

    fn describe(&mut self, sql: &str) -> Result<Vec<String>, Fault> {
        describe(self.asks, sql)
    }

    fn table(&mut self) -> String {
        format!("duckward_{}_{}", self.options.number, self.made.len() + 1)
    }

    /// A query that gives what is in the temporary table, under its own names.
    fn reading(
        &mut self,
        table: &str,
        names: &[String],
        types: &[String],
        condition: &str,
    ) -> Result<Value, Fault> {
        let items: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(index, name)| {
                // A table has no column of that type; before 2.0 it is stored as an INTEGER.
                let untyped = types.get(index).is_some_and(|kind| kind == NO_TYPE);
                let value = if untyped {
                    "NULL".to_owned()
                } else {
                    format!("duckward_c{index}")
                };
                format!("{value} AS {}", quoted_name(name))
            })
            .collect();
        let sql = format!(
            "SELECT {} FROM temp.main.{table} AS duckward_q{condition}",
            items.join(", ")
        );
        node_of(self.asks, &sql)
    }

    /// Computes the query at `pointer` at once.
    fn once(&mut self, tree: &Value, pointer: &str) -> Result<Value, Fault> {
        let Some(statement) = whole(tree, pointer) else {
            return why_not("the query is not where it was");
        };
        let text = self.text(&statement)?;
        let names = self.describe(&text)?;
        let types = self.storable(&text)?;
        let columns = numbered("duckward_c", names.len()).join(", ");
        let table = self.table();
        let _ = self.asks.rows(&format!(
            "CREATE TEMP TABLE {table} AS SELECT {columns} FROM ({text}) AS duckward_q({columns})"
        ))?;
        self.made.push(table.clone());
        self.reading(&table, &names, &types, "")
    }

    /// All pieces of `work`, in one table; the query that reads it.
    fn whole(&mut self, work: &mut Work) -> Result<Value, Fault> {
        let table = self.table();
        while !work.ranges.is_empty() {
            self.fill(work, &table)?;
        }
        let proved = self.proved(work, &table)?;
        self.proofs.push(proved);
        let mut reading = self.reading_of(work, &table)?;
        reading["modifiers"] = Value::Array(work.cut.modifiers.clone());
        Ok(reading)
    }

    /// What there is to do for the query at `pointer`.
    fn work(&mut self, tree: &Value, pointer: &str, done: f64, share: f64) -> Result<Work, Fault> {
        let columns = self.columns_below(tree, pointer)?;
        let cut = cut(tree, pointer, &self.parsed.functions, columns.as_ref())?;
        let mut cut = self.with_counts(tree, pointer, columns.as_ref(), cut)?;
        let digest = self.digested(tree, pointer, columns.as_ref(), &mut cut)?;
        let mut described = self.described(&cut)?;
        let source = match &cut.source {
            Some(source) => Some(self.text(source)?),
            None => None,
        };
        let chosen = self.choose(&cut, &mut described)?;
        let began = self.asks.elapsed();
        let inputs = match &source {
            Some(source) => Some(self.inputs(source, digest.as_ref(), &cut, &chosen)?),
            None => None,
        };
        let pass = self.asks.elapsed().saturating_sub(began);
        let counts = inputs.as_ref().map(|inputs| inputs.rows.as_slice());
        let wanted = match self.options.pieces {
            Some(pieces) => pieces * self.times,
            None => self.estimate(&cut, &described, counts)? * self.times,
        };
        let mut ranges = ranges(counts, wanted);
        let rows: u64 = counts.unwrap_or_default().iter().sum();
        let feed = self.feed(&cut, &chosen, columns.as_ref(), ranges.len(), rows, pass)?;
        let total = ranges.iter().map(|range| range.rows).sum::<u64>().max(1);
        ranges.reverse();
        Ok(Work {
            cut,
            described,
            digest,
            source,
            chosen,
            inputs,
            feed,
            ranges,
            finished: Vec::new(),
            splits: 0,
            tried: false,
            pieces: 0,
            so_far: 0,
            total,
            done,
            share,
        })
    }

    /// The next piece, put into `table`; one that does not fit is cut in two instead.
    fn fill(&mut self, work: &mut Work, table: &str) -> Result<(), Fault> {
        let Some(range) = work.ranges.pop() else {
            return Ok(());
        };
        let counts = work.inputs.as_ref().map(|inputs| inputs.rows.as_slice());
        let list = work.described.columns.join(", ");
        let items = match &work.digest {
            Some(_) => format!("{list}, {}::UINTEGER AS {PIECE}", work.pieces),
            None => list.clone(),
        };
        let select = match &work.feed {
            Some(feed) => feed.select(&items, &list, range),
            None => work.described.select(&items, &list, range),
        };
        let began = self.asks.elapsed();
        let is_new = !self.made.iter().any(|made| made == table);
        let sql = if is_new {
            format!("CREATE TEMP TABLE {table} AS {select}")
        } else {
            format!("INSERT INTO temp.main.{table} {select}")
        };
        match self.asks.rows(&sql) {
            Ok(_) => {}
            Err(error) if self.fixed => {
                let failure = self.asks.failure(&error);
                if !matches!(failure, Failure::Memory | Failure::InterruptedByGuard) {
                    return Err(error.into());
                }
                if error.message.contains(REFUSED_BY_THE_SYSTEM) && !std::mem::replace(&mut work.tried, true)
                {
                    // Fast growth at its start was taken for a burst: that passes.
                    self.asks.pause(BURST_PASSES);
                    work.ranges.push(range);
                    return Ok(());
                }
                work.tried = false;
                let halves = self.split(
                    range,
                    work.source.as_deref(),
                    &work.cut,
                    &work.chosen,
                    counts,
                    &error,
                )?;
                work.splits += 1;
                // The others are of its size, and each that fails takes long to.
                work.ranges = std::mem::take(&mut work.ranges)
                    .into_iter()
                    .flat_map(|range| smaller(range, counts).into_iter().rev())
                    .collect();
                work.ranges.extend(halves.into_iter().rev());
                return Ok(());
            }
            Err(error) => {
                if let Some(source) = &work.source {
                    self.failed = Some(Failed {
                        range,
                        source: source.clone(),
                        cut: work.cut.clone(),
                        chosen: work.chosen.clone(),
                    });
                }
                return Err(error.into());
            }
        }
        if is_new {
            self.made.push(table.to_owned());
        }
        work.tried = false;
        work.so_far += range.rows;
        work.pieces += 1;
        work.finished.push(range);
        let piece = Piece {
            rows: counts.map(|_| range.rows),
            seconds: self.asks.elapsed().saturating_sub(began).as_secs_f64(),
            splits: std::mem::take(&mut work.splits),
            spooled: work.feed.is_some(),
        };
        self.asks.progress(
            &piece,
            work.done + work.share * work.so_far as f64 / work.total as f64,
        );
        Ok(())
    }

    /// What went into the pieces that are in `table` is what there was; none where that is not counted.
    fn proved(&mut self, work: &Work, table: &str) -> Result<Option<Verify>, Fault> {
        let (Some(inputs), Some(first), Some(last)) =
            (&work.inputs, work.finished.first(), work.finished.last())
        else {
            return Ok(None);
        };
        if work.cut.counted == 0 {
            return Ok(None);
        }
        let inputs = inputs.within(first.low, last.high);
        self.prove(
            table,
            &work.cut,
            &work.described,
            &inputs,
            work.digest.as_ref(),
            &work.finished,
        )
        .map(Some)
    }

    /// A query that gives the rows of the pieces that are in `table`, in no order.
    fn reading_of(&mut self, work: &Work, table: &str) -> Result<Value, Fault> {
        let condition = work.cut.having.map_or_else(String::new, |index| {
            format!(" WHERE duckward_q.duckward_h{index}")
        });
        self.reading(table, &work.described.names, &work.described.types, &condition)
    }

    /// Writes what the pieces need once, where that is worth it and can be done.
    fn feed(
        &mut self,
        cut: &Cut,
        chosen: &[usize],
        columns: Option<&BTreeSet<String>>,
        pieces: usize,
        rows: u64,
        pass: Duration,
    ) -> Result<Option<Written>, Fault> {
        if self.options.feed == Feed::Scan {
            return Ok(None);
        }
        let Some(mut fed) = fed(cut, &self.parsed.functions, columns) else {
            return Ok(None);
        };
        if let Some(summed) = &fed.summed {
            let text = self.text(summed)?;
            // What is added up in another order may differ in its last bit.
            if self
                .types(&text)?
                .iter()
                .any(|kind| kind == "DOUBLE" || kind == "FLOAT")
            {
                return Ok(None);
            }
        }
        let source = self.text(&fed.source)?;
        let types = self.types(&source)?;
        let costs = Costs {
            pieces,
            rows,
            width: types.iter().take(fed.columns).map(|kind| type_width(kind)).sum(),
            pass,
            disk: self.options.disk,
        };
        // A bare NULL has no type that a table could have, and a struct without names none that can be written.
        let storable = !types.iter().any(|kind| kind.contains(NO_TYPE)) && self.storable(&source).is_ok();
        if !storable || (self.options.feed == Feed::Auto && feed::choose(&costs) == Feed::Scan) {
            return Ok(None);
        }
        let from = node_of(self.asks, &format!("SELECT * FROM {FEED}"))?["from_table"].take();
        fed.body["statements"][0]["node"]["from_table"] = from;
        let body = self.text(&fed.body)?;
        let table = self.table();
        let given = numbered("duckward_s", fed.columns);
        let mut all = given.clone();
        all.extend(numbered(KEY, cut.keys.len()));
        let keys: Vec<String> = chosen.iter().map(|key| format!("{KEY}{key}")).collect();
        let mut kept = given;
        kept.push(format!("hash({}) AS duckward_b", keys.join(", ")));
        // Sorted, so that a piece reads no more than its own.
        let _ = self.asks.rows(&format!(
            "CREATE TEMP TABLE {table} AS SELECT {} FROM ({source}) AS duckward_q({}) ORDER BY duckward_b",
            kept.join(", "),
            all.join(", ")
        ))?;
        self.made.push(table.clone());
        Ok(Some(Written { table, body }))
    }

    fn described(&mut self, cut: &Cut) -> Result<Described, Fault> {
        let text = self.text(&cut.body)?;
        let mut names = self.describe(&text)?;
        let Some(visible) = names.len().checked_sub(cut.hidden) else {
            return why_not("DuckDB describes it with fewer columns than it has");
        };
        names.truncate(visible);
        let mut types = self.storable(&text)?;
        for index in &cut.nulls {
            if let Some(kind) = types.get_mut(*index) {
                NO_TYPE.clone_into(kind);
            }
        }
        let mut columns = numbered("duckward_c", visible);
        columns.extend(numbered("duckward_h", cut.hidden));
        let keys = if cut.keys.is_empty() {
            numbered("duckward_c", visible)
        } else {
            cut.keys.iter().map(|key| key.name()).collect()
        };
        Ok(Described {
            text,
            names,
            types,
            columns,
            keys,
            inside: None,
        })
    }

    fn explain(&mut self, sql: &str) -> Result<Option<Plan>, Fault> {
        plan_of(self.asks, sql)
    }

    /// The keys to cut by: all of them, or the one that cuts deepest. Which, as numbers of columns of the source.
    fn choose(&mut self, cut: &Cut, described: &mut Described) -> Result<Vec<usize>, Fault> {
        let all: Vec<usize> = (0..described.keys.len()).collect();
        let mut candidates = vec![all.clone()];
        if cut.keys.len() > 1 {
            candidates.extend(all.iter().map(|key| vec![*key]));
        }
        let list = described.columns.join(", ");
        let every = described.keys.clone();
        let mut best: Option<(f64, Vec<usize>, Option<String>)> = None;
        for candidate in candidates {
            if best.is_some() && cut.is_of_rows() {
                break;
            }
            described.keys = candidate.iter().map(|key| every[*key].clone()).collect();
            described.inside = None;
            let Some(mut plan) = self.explain(&described.select(&list, &list, SIXTEENTH))? else {
                continue;
            };
            let reach = plan.reach("hash(");
            if reach == Reach::Above {
                continue;
            }
            if reach == Reach::Some
                && let Some(text) = self.inside(cut, &candidate)?
            {
                described.inside = Some(text);
                match self.explain(&described.select(&list, &list, SIXTEENTH))? {
                    Some(found) if found.reach("hash(") == Reach::All => plan = found,
                    // The others are of a query beside it, whose rows are not those that are cut.
                    _ => described.inside = None,
                }
            }
            let cost = plan.cost();
            // Fewer keys make fewer, larger groups of them, so it must be worth it.
            if best.as_ref().is_none_or(|(least, ..)| cost < least * 0.8) {
                best = Some((cost, candidate, described.inside.take()));
            }
        }
        let Some((_, chosen, inside)) = best else {
            return why_not("DuckDB's plan does the cut only after the aggregate");
        };
        described.keys = chosen.iter().map(|key| every[*key].clone()).collect();
        described.inside = inside;
        Ok(chosen)
    }

    /// The query with the cut in its WHERE. Only where DuckDB moved it below some aggregate: then nothing in it can fail that
    /// would not have failed, and the keys are compared as they are.
    fn inside(&mut self, cut: &Cut, chosen: &[usize]) -> Result<Option<String>, Fault> {
        if cut.rows.is_none() {
            return Ok(None);
        }
        let keys: Vec<String> = chosen.iter().map(|key| format!("{KEY}{key}")).collect();
        let sql = format!(
            "SELECT hash({}) BETWEEN {LOW}::UBIGINT AND {HIGH}::UBIGINT",
            keys.join(", ")
        );
        let condition = node_of(self.asks, &sql)?["select_list"][0].take();
        match filtered(cut, &condition) {
            Some(statement) => self.text(&statement).map(Some),
            None => Ok(None),
        }
    }

    /// Into how many pieces, by what the aggregates keep.
    fn estimate(&mut self, cut: &Cut, described: &Described, counts: Option<&[u64]>) -> Result<usize, Fault> {
        let plan = self.explain(&described.text)?;
        let rows = counts.map_or_else(
            || plan.as_ref().map_or(0.0, Plan::cost),
            |counts| counts.iter().sum::<u64>() as f64,
        );
        let groups = plan.as_ref().and_then(Plan::groups).unwrap_or(rows).min(rows);
        let keeps = self.keeps_of(cut)?;
        Ok(pieces(kept_bytes(&keeps, rows, groups), self.options.limit).max(2))
    }

    /// What the aggregates of a cut keep, by the first rows.
    fn keeps_of(&mut self, cut: &Cut) -> Result<Vec<Keeps>, Fault> {
        let mut keeps = Vec::new();
        for kept in &cut.kept {
            keeps.push(Keeps {
                state: kept.state,
                width: self.width(kept)?,
            });
        }
        Ok(keeps)
    }

    /// Bytes of the values of one row, from a look at the first of them.
    fn width(&mut self, kept: &Kept) -> Result<f64, Fault> {
        let Some(values) = &kept.values else {
            return Ok(0.0);
        };
        let text = self.text(values)?;
        let count = self.describe(&text)?.len();
        let widths: Vec<String> = numbered("v", count)
            .iter()
            .map(|value| {
                format!(
                    "coalesce(avg(CASE WHEN typeof({value}) IN ('VARCHAR', 'BLOB', 'BIT', 'JSON') OR typeof({value}) LIKE '%[%' \
                     OR typeof({value}) LIKE '%(%' THEN 16 + strlen({value}::VARCHAR) WHEN typeof({value}) LIKE '%INT' \
                     OR typeof({value}) IN ('FLOAT', 'BOOLEAN', 'DATE', 'INTEGER') THEN \
                     CASE WHEN typeof({value}) LIKE '%BIGINT' THEN 8 WHEN typeof({value}) LIKE '%HUGEINT' THEN 16 ELSE 4 END \
                     WHEN typeof({value}) IN ('HUGEINT', 'UHUGEINT', 'UUID', 'INTERVAL') THEN 16 ELSE 8 END), 8)"
                )
            })
            .collect();
        if widths.is_empty() {
            return Ok(0.0);
        }
        let columns = numbered("v", count).join(", ");
        let rows = self.asks.rows(&format!(
            "SELECT ({})::DOUBLE::VARCHAR FROM (SELECT * FROM ({text}) AS duckward_q({columns}) LIMIT {SAMPLE})",
            widths.join(" + ")
        ))?;
        Ok(one(&rows).and_then(|width| width.parse().ok()).unwrap_or(16.0))
    }

    /// The halves of a piece that did not fit.
    fn split(
        &mut self,
        range: Range,
        source: Option<&str>,
        cut: &Cut,
        chosen: &[usize],
        counts: Option<&[u64]>,
        error: &EngineError,
    ) -> Result<Vec<Range>, Fault> {
        let parts = smaller(range, counts);
        if parts.len() > 1 {
            return Ok(parts);
        }
        // One bucket: which groups are in it?
        let Some(source) = source else {
            return Err(Fault::Engine(error.clone()));
        };
        let groups = self.groups(range, source, cut, chosen)?;
        if let [group] = groups.as_slice() {
            let bytes = self.kept_by(group, cut)?;
            if bytes < self.options.limit.times(CLAIM) {
                // It is not the group that fills the memory.
                return Err(Fault::Engine(error.clone()));
            }
            return Err(group.does_not_fit(bytes, error));
        }
        let half: u64 = groups.iter().map(|group| group.rows).sum::<u64>() / 2;
        let mut first = 0;
        for (index, group) in groups.iter().enumerate() {
            first += group.rows;
            if (first >= half || index + 2 == groups.len()) && index + 1 < groups.len() {
                let cut = groups[index + 1].hash;
                let rest = groups[index + 1..].iter().map(|group| group.rows).sum();
                return Ok(vec![
                    Range {
                        low: range.low,
                        high: cut - 1,
                        rows: first,
                    },
                    Range {
                        low: cut,
                        high: range.high,
                        rows: rest,
                    },
                ]);
            }
        }
        Err(Fault::Engine(error.clone()))
    }

    /// The groups of a range, in the order of their hashes.
    fn groups(
        &mut self,
        range: Range,
        source: &str,
        cut: &Cut,
        chosen: &[usize],
    ) -> Result<Vec<Group>, Fault> {
        let columns = numbered("k", cut.keys.len()).join(", ");
        let keys: Vec<String> = chosen.iter().map(|key| format!("k{key}")).collect();
        let shown: Vec<String> = keys
            .iter()
            .map(|key| format!("coalesce({key}::VARCHAR, 'NULL')"))
            .collect();
        let rows = self.asks.rows(&format!(
            "SELECT hash({keys})::VARCHAR AS h, count(*)::VARCHAR, any_value(concat_ws(', ', {})) FROM ({source}) \
             AS duckward_q({columns}) WHERE hash({keys}) BETWEEN {}::UBIGINT AND {}::UBIGINT GROUP BY hash({keys}) \
             ORDER BY hash({keys})",
            shown.join(", "),
            range.low,
            range.high,
            keys = keys.join(", "),
        ))?;
        Ok(rows
            .into_iter()
            .filter_map(|row| match row.as_slice() {
                [Some(hash), Some(rows), key] => Some(Group {
                    hash: hash.parse().ok()?,
                    rows: rows.parse().ok()?,
                    key: key.clone().unwrap_or_default(),
                }),
                _ => None,
            })
            .collect())
    }

    /// What the aggregates keep of a group.
    fn kept_by(&mut self, group: &Group, cut: &Cut) -> Result<Bytes, Fault> {
        let keeps = self.keeps_of(cut)?;
        Ok(kept_bytes(&keeps, group.rows as f64, 1.0))
    }

    /// Why beginning anew with more pieces is no use: a group of the piece that failed does not fit by itself. The `last`
    /// time a group that may be the reason is named, too.
    fn too_large(&mut self, error: &EngineError, last: bool) -> Option<Fault> {
        let failed = self.failed.take()?;
        // What cannot be found out is not said.
        let groups = self
            .groups(failed.range, &failed.source, &failed.cut, &failed.chosen)
            .ok()?;
        let largest = groups.iter().max_by_key(|group| group.rows)?;
        let bytes = self.kept_by(largest, &failed.cut).ok()?;
        let least = self.options.limit.times(if last { CLAIM } else { 1.0 });
        (bytes > least).then(|| largest.does_not_fit(bytes, error))
    }
}

impl Group {
    fn does_not_fit(&self, bytes: Bytes, error: &EngineError) -> Fault {
        Fault::Own(
            Error::new(
                ErrorKind::Memory,
                format!(
                    "one group does not fit into memory by itself: that of the key {}, whose {} rows are all kept by its \
                     aggregate, in about {bytes}; raise memory=, or aggregate less of it\nDuckDB said: {}",
                    self.key, self.rows, error.message
                ),
            )
            .with_source(error.clone()),
        )
    }
}

/// What drops temporary tables of ours.
fn drops(made: &[String]) -> Vec<String> {
    made.iter().rev().map(|table| drop_of(table)).collect()
}

fn drop_of(table: &str) -> String {
    format!("DROP TABLE IF EXISTS temp.main.{table}")
}

/// What a query keeps: its aggregates, and where none of it is kept by itself, its groups.
fn kept_bytes(keeps: &[Keeps], rows: f64, groups: f64) -> Bytes {
    if keeps.is_empty() {
        // Nothing is kept by itself: what there is, is a row of each group.
        return Bytes(rounded(groups * 80.0));
    }
    state_bytes(keeps, rows, groups)
}

/// How many of `cells` are hit by `rows` that are spread evenly over them.
fn pairs(cells: f64, rows: f64) -> f64 {
    if cells <= 0.0 {
        return 0.0;
    }
    (cells * -(-rows / cells).exp_m1()).min(rows)
}

/// How many different values DuckDB's statistics of a column speak of: a struct in 2.0, and a text before.
fn approximately_unique(stats: &str) -> Option<f64> {
    let stats = stats.to_ascii_lowercase().replace('_', " ");
    let after = &stats[stats.find("approx unique")?..];
    let digits: String = after
        .chars()
        .skip_while(|letter| !letter.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// An estimate as a whole number.
#[expect(clippy::cast_sign_loss, reason = "an estimate; saturates")]
fn rounded(number: f64) -> u64 {
    number.round() as u64
}

/// Bytes of a value of that type; of one without a fixed size, what is usual.
fn type_width(kind: &str) -> f64 {
    match kind {
        "BOOLEAN" | "TINYINT" | "UTINYINT" | "SMALLINT" | "USMALLINT" | "INTEGER" | "UINTEGER" | "FLOAT"
        | "DATE" => 4.0,
        "HUGEINT" | "UHUGEINT" | "UUID" | "INTERVAL" => 16.0,
        kind if kind.starts_with("VARCHAR") || kind.contains(['[', '(']) && !kind.starts_with("DECIMAL") => {
            32.0
        }
        "BLOB" | "BIT" | "JSON" => 32.0,
        _ => 8.0,
    }
}

fn numbered(letter: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{letter}{index}")).collect()
}

/// `wanted` ranges that cover every hash, with as equal numbers of rows as whole buckets allow.
fn ranges(counts: Option<&[u64]>, wanted: usize) -> Vec<Range> {
    let even = vec![1u64; BUCKETS as usize];
    let counted = counts.unwrap_or(&even);
    let wanted = wanted.clamp(1, BUCKETS as usize) as u128;
    let total: u128 = counted.iter().map(|count| u128::from(*count)).sum();
    let mut ranges: Vec<Range> = Vec::new();
    let (mut first, mut rows, mut before) = (0u64, 0u64, 0u128);
    for (bucket, count) in (0u64..).zip(counted) {
        rows += count;
        before += u128::from(*count);
        let full = before * wanted >= total * (ranges.len() as u128 + 1);
        let last = bucket + 1 == BUCKETS;
        if last || (full && rows > 0) {
            ranges.push(Range {
                low: first << (64 - BUCKET_BITS),
                high: (bucket << (64 - BUCKET_BITS)) | (u64::MAX >> BUCKET_BITS),
                rows,
            });
            first = bucket + 1;
            rows = 0;
        }
    }
    // What is left over at the end may have no rows.
    if let [.., before, last] = ranges.as_mut_slice()
        && last.rows == 0
    {
        before.high = last.high;
        ranges.pop();
    }
    ranges
}

/// A range in two, if it has several buckets.
fn smaller(range: Range, counts: Option<&[u64]>) -> Vec<Range> {
    let shift = 64 - BUCKET_BITS;
    if range.low >> shift == range.high >> shift {
        return vec![range];
    }
    halves(range, counts)
}

/// A range of several buckets as two, of as equal numbers of rows as can be.
fn halves(range: Range, counts: Option<&[u64]>) -> Vec<Range> {
    let shift = 64 - BUCKET_BITS;
    let (first, last) = (range.low >> shift, range.high >> shift);
    let rows_of = |bucket: u64| counts.map_or(1, |counts| counts[bucket as usize]);
    let total: u64 = (first..=last).map(rows_of).sum();
    let mut rows = 0;
    let mut middle = first;
    for bucket in first..last {
        rows += rows_of(bucket);
        middle = bucket;
        if rows * 2 >= total {
            break;
        }
    }
    let high = (middle << shift) | (u64::MAX >> BUCKET_BITS);
    vec![
        Range {
            low: range.low,
            high,
            rows,
        },
        Range {
            low: high + 1,
            high: range.high,
            rows: total - rows,
        },
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(ranges: &[Range], low: u64, high: u64) {
        assert_eq!(ranges.first().map(|range| range.low), Some(low));
        assert_eq!(ranges.last().map(|range| range.high), Some(high));
        for pair in ranges.windows(2) {
            assert_eq!(pair[0].high + 1, pair[1].low, "disjoint, and nothing between");
        }
    }

    proptest! {
        #[test]
        fn ranges_cover_every_hash_once_and_keep_every_row(
            counts in proptest::collection::vec(prop_oneof![Just(0u64), 0u64..1000, Just(1_000_000)], BUCKETS as usize),
            wanted in 1usize..2000,
        ) {
            let ranges = ranges(Some(&counts), wanted);
            covers(&ranges, 0, u64::MAX);
            prop_assert!(ranges.len() <= wanted.max(1));
            let rows: u64 = ranges.iter().map(|range| range.rows).sum();
            prop_assert_eq!(rows, counts.iter().sum::<u64>());
        }

        #[test]
        fn halves_are_the_whole_and_smaller(first in 0u64..1000, more in 1u64..24, seed in 0u64..1000) {
            let counts: Vec<u64> = (0..BUCKETS).map(|bucket| bucket * seed % 97).collect();
            let shift = 64 - BUCKET_BITS;
            let last = first + more;
            let rows = (first..=last).map(|bucket| counts[bucket as usize]).sum();
            let range = Range { low: first << shift, high: (last << shift) | (u64::MAX >> BUCKET_BITS), rows };
            let parts = halves(range, Some(&counts));
            covers(&parts, range.low, range.high);
            prop_assert_eq!(parts.len(), 2);
            prop_assert_eq!(parts[0].rows + parts[1].rows, rows);
        }
    }

    #[test]
    fn statistics_are_read_in_both_ways_to_print_them() {
        let new = "{'approx_unique': 13358944, 'has_null': false, 'max': 9}";
        let old = "[Min: 0, Max: 9][Has Null: false, Has No Null: true][Approx Unique: 133]";
        assert_eq!(approximately_unique(new), Some(13_358_944.0));
        assert_eq!(approximately_unique(old), Some(133.0));
        assert_eq!(approximately_unique("{'has_null': false}"), None);
    }

    #[test]
    fn pairs_are_no_more_than_rows_or_cells() {
        assert!(
            (pairs(1e9, 2e7) - 2e7).abs() < 1e6,
            "nearly every row is another pair"
        );
        assert!((pairs(100.0, 2e7) - 100.0).abs() < 1e-6);
        assert!(pairs(0.0, 5.0).abs() < 1e-9);
    }

    #[test]
    fn even_ranges_are_made_where_nothing_is_counted() {
        let parts = ranges(None, 4);
        covers(&parts, 0, u64::MAX);
        assert_eq!(parts.len(), 4);
    }
}
