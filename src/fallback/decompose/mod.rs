//! Whether and how one SELECT can be computed in pieces. Pure: DuckDB's own parse of the statement in, what to compute
//! beforehand and in which way out, or why not.
//!
//! The cut is a filter on the *result* of a query: `SELECT * FROM (query) WHERE hash(keys) BETWEEN low AND high`. Whatever
//! the query does, its answer is the union of such pieces, each row in exactly one of them. What makes a piece smaller than
//! the whole is DuckDB's optimizer, which moves the filter below the aggregate when the keys are what it groups by;
//! whether it did is read in the plan, and a cut whose filter stays above is not taken. Below the aggregate the filter
//! sees the input, so the pieces' inputs are disjoint and cover it, and their row counts must add up.
//!
//! A query inside another (in FROM, or a common table expression) that may give other rows the second time (a LIMIT, an
//! aggregate of floats, a window with ties) is computed once, beforehand: every piece must see the same.

pub mod digest;
pub mod fed;
pub mod functions;
pub mod grouping;
pub mod rows;
mod tree;
pub mod ungrouped;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use functions::{Functions, State};
use tree::{
    arguments, bare_name, change, column, cte_query, function, given, integer, is_null, is_query, is_star,
    list, named, same, statement, text, walk,
};

/// How the names of common table expressions of ours begin.
pub const PAIRS: &str = "duckward_pairs_";

/// How the names begin that stand for the keys in [`filtered`].
pub const KEY: &str = "duckward_k";

/// Why a statement is not cut, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyNot(pub String);

impl WhyNot {
    fn of(text: impl Into<String>) -> Self {
        WhyNot(text.into())
    }
}

/// What is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The aggregates that cannot spill.
    Kept,
    /// Everything that can be.
    All,
}

/// How a query of the statement is computed beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In pieces.
    Pieces,
    /// At once, because every piece around it must see the same rows.
    Once,
}

/// A query of the statement that is computed beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it is, as a JSON pointer into the parse; inner ones come first.
    pub pointer: String,
    /// How.
    pub way: Way,
}

/// Where a key is among the columns of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Among those that the query gives.
    Visible(usize),
    /// Among those that were added.
    Hidden(usize),
}

impl Position {
    /// The column's name in a piece.
    pub fn name(self) -> String {
        match self {
            Position::Visible(index) => format!("duckward_c{index}"),
            Position::Hidden(index) => format!("duckward_h{index}"),
        }
    }
}

/// What an aggregate keeps in memory.
#[derive(Clone, Debug)]
pub struct Kept {
    /// How it grows.
    pub state: State,
    /// The statement that gives the values it keeps, a column each, if it keeps any.
    pub values: Option<Value>,
    /// The aggregate's name.
    pub name: String,
}

/// One query, ready to be computed in pieces. Statements are in DuckDB's JSON form.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The query without its order and limit, and with the hidden columns at its end.
    pub body: Value,
    /// How many hidden columns there are.
    pub hidden: usize,
    /// The keys; all visible columns if there are none.
    pub keys: Vec<Position>,
    /// A statement that gives the keys of every row that goes in, a column each, if there is one.
    pub source: Option<Value>,
    /// The hidden column that counts the rows that went in, or none when each row of the result is one.
    pub rows: Option<usize>,
    /// How often each row that went in is counted in the result: once for each grouping set; 0 when it is not.
    pub counted: u64,
    /// The hidden column with what HAVING says.
    pub having: Option<usize>,
    /// The visible columns that are a bare NULL, which has no type that a table could keep.
    pub nulls: BTreeSet<usize>,
    /// DISTINCT, ORDER BY and LIMIT, for what is made of the pieces.
    pub modifiers: Vec<Value>,
    /// What is kept in memory.
    pub kept: Vec<Kept>,
}

impl Cut {
    /// Whether it gives a row of each group and no more: such groups are small, and by fewer keys they only grow.
    pub fn is_of_rows(&self) -> bool {
        let items = self.body.pointer("/statements/0/node/select_list");
        let visible = items
            .and_then(Value::as_array)
            .map_or(0, |items| items.len().saturating_sub(self.hidden));
        self.kept.is_empty() && (0..visible).all(|index| self.keys.contains(&Position::Visible(index)))
    }
}

/// The queries of `statement` that are to be computed beforehand, inner ones first.
///
/// # Errors
/// Why nothing can be.
pub fn targets(statement: &Value, functions: &Functions, want: Want) -> Result<Vec<Target>, WhyNot> {
    refuse_unstable(statement, functions)?;
    refuse_shadows(statement)?;
    let root = "/statements/0/node";
    let node = statement
        .pointer(root)
        .ok_or_else(|| WhyNot::of("DuckDB gave no parse of it"))?;
    let mut found = Vec::new();
    collect(node, root, true, functions, want, &mut found);
    let Some(last) = found.iter().rposition(|target| target.way == Way::Pieces) else {
        return Err(WhyNot::of(match want {
            Want::Kept => "no aggregate of it that cannot spill has keys to cut by",
            Want::All => "nothing in it has keys to cut by",
        }));
    };
    // What comes after the last is not seen by any piece.
    found.truncate(last + 1);
    Ok(found)
}

/// What makes two runs of any part of a statement differ.
fn refuse_unstable(statement: &Value, functions: &Functions) -> Result<(), WhyNot> {
    let mut why = None;
    walk(statement, &mut |node| {
        let name = text(node, "function_name").to_ascii_lowercase();
        if functions.is_volatile(&name) {
            why = Some(format!("it calls {name}(), which gives another value each time"));
        } else if functions.is_macro(&name) && !functions.is_aggregate(&name) {
            why = Some(format!("it calls the macro {name}(), which may do anything"));
        } else if given(node, "sample").is_some() {
            why = Some("it takes a sample, which is another one each time".to_owned());
        } else if text(node, "class") == "PARAMETER" {
            why = Some("it has parameters, whose values are not known here".to_owned());
        } else if text(node, "class") == "SUBQUERY"
            && node
                .pointer("/subquery/node")
                .is_some_and(|query| has_modifier(query, "LIMIT"))
        {
            why = Some(
                "a subquery in an expression has a LIMIT, which may choose other rows each time".to_owned(),
            );
        } else if let Some(what) = of_catalog(node) {
            why = Some(format!(
                "it reads {what}, where the tables of the pieces would show"
            ));
        } else if name == "query" || name == "query_table" {
            why = Some(format!("it calls {name}(), in which anything may be"));
        } else if text(node, "type") == "RECURSIVE_CTE_NODE" {
            why = Some("a recursive common table expression is not looked into".to_owned());
        } else if text(node, "type") == "CTE_NODE" {
            why = Some("a common table expression stands where it is not looked into".to_owned());
        }
        why.is_none()
    });
    why.map_or(Ok(()), |why| Err(WhyNot(why)))
}

/// What a node reads of the catalog, if it does.
fn of_catalog(node: &Value) -> Option<&str> {
    ["function_name", "table_name", "schema_name"]
        .into_iter()
        .map(|member| text(node, member))
        .find(|name| {
            let name = name.to_ascii_lowercase();
            ["duckdb_", "pragma_", "pg_", "sqlite_", "information_schema"]
                .iter()
                .any(|begin| name.starts_with(begin))
        })
}

/// Two common table expressions of one name cannot be told apart once they stand side by side.
fn refuse_shadows(statement: &Value) -> Result<(), WhyNot> {
    let mut names = BTreeSet::new();
    let mut twice = None;
    walk(statement, &mut |part| {
        for entry in list(&part["cte_map"], "map") {
            let name = text(entry, "key").to_ascii_lowercase();
            if !names.insert(name.clone()) {
                twice = Some(name);
            }
        }
        true
    });
    match twice {
        None => Ok(()),
        Some(name) => Err(WhyNot(format!(
            "two common table expressions of it are called {name}"
        ))),
    }
}

fn has_modifier(query: &Value, kind: &str) -> bool {
    list(query, "modifiers")
        .iter()
        .any(|modifier| text(modifier, "type").starts_with(kind))
}

/// Where the queries of a statement are that [`targets`] looks at, inner ones first.
pub fn queries(statement: &Value) -> Vec<String> {
    fn below(node: &Value, pointer: &str, found: &mut Vec<String>) {
        for (index, entry) in list(&node["cte_map"], "map").iter().enumerate() {
            if let Some((inside, query)) = cte_query(entry) {
                below(query, &format!("{pointer}/cte_map/map/{index}{inside}"), found);
            }
        }
        tables_below(&node["from_table"], &format!("{pointer}/from_table"), found);
        for side in ["left", "right"] {
            if let Some(query) = given(node, side).filter(|query| is_query(query)) {
                below(query, &format!("{pointer}/{side}"), found);
            }
        }
        for (index, query) in list(node, "children").iter().enumerate() {
            below(query, &format!("{pointer}/children/{index}"), found);
        }
        found.push(pointer.to_owned());
    }
    fn tables_below(table: &Value, pointer: &str, found: &mut Vec<String>) {
        if let Some(query) = table.pointer("/subquery/node") {
            below(query, &format!("{pointer}/subquery/node"), found);
        }
        for side in ["left", "right"] {
            if let Some(table) = given(table, side) {
                tables_below(table, &format!("{pointer}/{side}"), found);
            }
        }
    }
    let mut found = Vec::new();
    let root = "/statements/0/node";
    if let Some(node) = statement.pointer(root) {
        below(node, root, &mut found);
    }
    found
}

/// Collects the targets at and below `node`.
fn collect(
    node: &Value,
    pointer: &str,
    top: bool,
    functions: &Functions,
    want: Want,
    found: &mut Vec<Target>,
) {
    for (index, entry) in list(&node["cte_map"], "map").iter().enumerate() {
        if let Some((below, query)) = cte_query(entry) {
            let pointer = format!("{pointer}/cte_map/map/{index}{below}");
            let want = if ungrouped::is_pairs(entry) {
                Want::All
            } else {
                want
            };
            collect(query, &pointer, false, functions, want, found);
        }
    }
    match text(node, "type") {
        "SELECT_NODE" => collect_from(
            &node["from_table"],
            &format!("{pointer}/from_table"),
            functions,
            want,
            found,
        ),
        "SET_OPERATION_NODE" => {
            for side in ["left", "right"] {
                if let Some(query) = given(node, side) {
                    collect(query, &format!("{pointer}/{side}"), false, functions, want, found);
                }
            }
            for (index, query) in list(node, "children").iter().enumerate() {
                collect(
                    query,
                    &format!("{pointer}/children/{index}"),
                    false,
                    functions,
                    want,
                    found,
                );
            }
        }
        _ => {}
    }
    let way = if can_be_cut(node, functions, want) {
        Way::Pieces
    } else if !top && !is_plain(node, functions) {
        Way::Once
    } else {
        return;
    };
    found.push(Target {
        pointer: pointer.to_owned(),
        way,
    });
}

fn collect_from(table: &Value, pointer: &str, functions: &Functions, want: Want, found: &mut Vec<Target>) {
    match text(table, "type") {
        "SUBQUERY" => {
            if let Some(query) = table.pointer("/subquery/node") {
                collect(
                    query,
                    &format!("{pointer}/subquery/node"),
                    false,
                    functions,
                    want,
                    found,
                );
            }
        }
        "JOIN" => {
            for side in ["left", "right"] {
                collect_from(&table[side], &format!("{pointer}/{side}"), functions, want, found);
            }
        }
        _ => {}
    }
}

/// Whether a query gives the same rows each time that what it reads is the same.
fn is_plain(node: &Value, functions: &Functions) -> bool {
    let fixed = !list(node, "modifiers").iter().any(|modifier| {
        text(modifier, "type").starts_with("LIMIT") || !list(modifier, "distinct_on_targets").is_empty()
    });
    match text(node, "type") {
        "SELECT_NODE" => fixed && !is_aggregate(node, functions) && !has_window(node),
        "SET_OPERATION_NODE" => fixed,
        _ => false,
    }
}

fn own<'a>(node: &'a Value, visit: &mut dyn FnMut(&'a Value) -> bool) {
    for member in ["select_list", "having", "qualify", "modifiers"] {
        if let Some(part) = node.get(member) {
            walk(part, &mut |inner| !is_query(inner) && visit(inner));
        }
    }
}

fn is_aggregate(node: &Value, functions: &Functions) -> bool {
    if !list(node, "group_expressions").is_empty()
        || !list(node, "group_sets").is_empty()
        || text(node, "aggregate_handling") == "FORCE_AGGREGATES"
        || given(node, "having").is_some()
    {
        return true;
    }
    let mut found = false;
    own(node, &mut |part| {
        found |= function(part).is_some_and(|name| functions.is_aggregate(&name));
        !found
    });
    found
}

fn has_window(node: &Value) -> bool {
    let mut found = given(node, "qualify").is_some();
    own(node, &mut |part| {
        found |= text(part, "class") == "WINDOW";
        !found
    });
    found
}

/// The aggregates of a query that cannot spill.
fn kept_calls<'a>(node: &'a Value, functions: &Functions) -> Vec<(&'a Value, State)> {
    let mut calls: Vec<(&Value, State)> = Vec::new();
    own(node, &mut |part| {
        if let Some(name) = function(part)
            && functions.is_aggregate(&name)
        {
            if let Some(state) = functions::state(part)
                && !calls.iter().any(|(known, _)| same(known, part))
            {
                calls.push((part, state));
            }
            return false;
        }
        true
    });
    calls
}

fn can_be_cut(node: &Value, functions: &Functions, want: Want) -> bool {
    let mut unnests = false;
    own(node, &mut |part| {
        unnests |= function(part).is_some_and(|name| name == "unnest" || name == "unlist");
        !unnests
    });
    if unnests {
        // One row of it is several, so its rows do not count what went in.
        return false;
    }
    match text(node, "type") {
        "SELECT_NODE" if is_aggregate(node, functions) => {
            let keys = group_keys(node, functions, None).is_ok_and(|keys| !keys.is_empty());
            keys && !has_window(node) && (want == Want::All || !kept_calls(node, functions).is_empty())
        }
        "SELECT_NODE" if has_window(node) => {
            want == Want::All && !has_modifier(node, "DISTINCT") && !partition_keys(node).is_empty()
        }
        "SELECT_NODE" => want == Want::All && is_distinct(node),
        "SET_OPERATION_NODE" => {
            want == Want::All
                && node.get("setop_all").and_then(Value::as_bool) == Some(false)
                && !has_modifier(node, "DISTINCT")
        }
        _ => false,
    }
}

fn is_distinct(node: &Value) -> bool {
    list(node, "modifiers").iter().any(|modifier| {
        text(modifier, "type").starts_with("DISTINCT") && list(modifier, "distinct_on_targets").is_empty()
    })
}

/// The expressions by which all windows of a query are partitioned.
fn partition_keys(node: &Value) -> Vec<Value> {
    let mut common: Option<Vec<Value>> = None;
    own(node, &mut |part| {
        if text(part, "class") == "WINDOW" {
            let mine: Vec<Value> = list(part, "partitions")
                .iter()
                .filter(|key| text(key, "class") != "CONSTANT")
                .cloned()
                .collect();
            common = Some(match common.take() {
                None => mine,
                Some(keys) => keys
                    .into_iter()
                    .filter(|key| mine.iter().any(|other| same(key, other)))
                    .collect(),
            });
        }
        true
    });
    common.unwrap_or_default()
}

/// What a name stands for in GROUP BY and the like: a column of FROM if there is one, else an item of the list.
struct Names<'a> {
    items: &'a [Value],
    columns: Option<&'a BTreeSet<String>>,
}

impl Names<'_> {
    /// Whether what `name` stands for cannot be told without knowing the columns.
    fn is_alias(&self, name: &str) -> Option<&Value> {
        if self
            .columns
            .is_some_and(|columns| columns.contains(&name.to_ascii_lowercase()))
        {
            return None;
        }
        self.items
            .iter()
            .find(|item| text(item, "alias").eq_ignore_ascii_case(name) && bare_name(item) != Some(name))
    }

    fn resolve(&self, expression: &Value) -> Value {
        let mut resolved = expression.clone();
        change(&mut resolved, &mut |part| {
            // The parameters of a lambda are names, too.
            if is_query(part) || text(part, "class") == "LAMBDA" {
                return false;
            }
            let meant = bare_name(part).and_then(|name| self.is_alias(name)).cloned();
            match meant {
                Some(meant) => {
                    *part = named(&meant, "");
                    false
                }
                None => true,
            }
        });
        resolved
    }
}

/// Whether an expression names a column that is not an argument of an aggregate.
fn names_a_column(expression: &Value, functions: &Functions) -> bool {
    let mut found = false;
    walk(expression, &mut |part| {
        found |= text(part, "class") == "COLUMN_REF";
        !found && !is_query(part) && !function(part).is_some_and(|name| functions.is_aggregate(&name))
    });
    found
}

/// The keys that every grouping set of a query has.
fn group_keys(
    node: &Value,
    functions: &Functions,
    columns: Option<&BTreeSet<String>>,
) -> Result<Vec<Value>, WhyNot> {
    let items = list(node, "select_list");
    let names = Names { items, columns };
    if text(node, "aggregate_handling") == "FORCE_AGGREGATES" {
        if given(node, "having").is_some_and(|having| names_a_column(having, functions)) {
            // Before 2.0 DuckDB groups by that column, too.
            return Err(WhyNot::of(
                "GROUP BY ALL with a HAVING that names a column outside of an aggregate",
            ));
        }
        if items.iter().any(is_star) {
            return Err(WhyNot::of("GROUP BY ALL with a star: the keys are not named"));
        }
        let keys = items
            .iter()
            .filter(|item| {
                let mut aggregates = false;
                walk(item, &mut |part| {
                    aggregates |= function(part).is_some_and(|name| functions.is_aggregate(&name));
                    !aggregates && !is_query(part)
                });
                !aggregates
            })
            .filter(|item| text(item, "class") != "CONSTANT")
            .map(|item| named(item, ""))
            .collect();
        return Ok(keys);
    }
    let expressions = list(node, "group_expressions");
    let sets: Vec<BTreeSet<usize>> = list(node, "group_sets")
        .iter()
        .map(|set| {
            set.as_array()
                .into_iter()
                .flatten()
                .filter_map(|index| usize::try_from(index.as_u64()?).ok())
                .collect()
        })
        .collect();
    let last_name = |expression: &Value| {
        list(expression, "column_names")
            .last()
            .and_then(Value::as_str)
            .map(str::to_ascii_lowercase)
    };
    let mut seen = BTreeSet::new();
    let repeated = expressions
        .iter()
        .any(|expression| last_name(&names.resolve(expression)).is_some_and(|name| !seen.insert(name)));
    if sets.len() > 1
        && (repeated
            || expressions
                .iter()
                .any(|expression| last_name(expression).is_none()))
    {
        return Err(WhyNot::of(
            "its grouping sets may have one column under two names",
        ));
    }
    expressions
        .iter()
        .enumerate()
        .filter(|(index, _)| sets.iter().all(|set| set.contains(index)))
        .map(|(_, expression)| match integer(expression) {
            Some(ordinal) => {
                let before = &items[..ordinal.saturating_sub(1).min(items.len())];
                match items.get(ordinal.wrapping_sub(1)) {
                    Some(item) if !before.iter().chain([item]).any(is_star) => Ok(named(item, "")),
                    _ => Err(WhyNot::of("GROUP BY a number that counts columns of a star")),
                }
            }
            None => Ok(named(&names.resolve(expression), "")),
        })
        // A constant has one hash, so it cuts nothing.
        .filter(|key| key.as_ref().map_or(true, |key| text(key, "class") != "CONSTANT"))
        .collect()
}

/// The statement whose columns decide what the names of `node` stand for, if that matters.
pub fn asks_for_columns(root: &Value, pointer: &str) -> Option<Value> {
    let node = root.pointer(pointer)?;
    let items = list(node, "select_list");
    let names = Names { items, columns: None };
    let mut matters = false;
    for member in [
        "group_expressions",
        "where_clause",
        "having",
        "qualify",
        "modifiers",
        "select_list",
    ] {
        if let Some(part) = node.get(member) {
            walk(part, &mut |inner| {
                matters |= bare_name(inner).is_some_and(|name| names.is_alias(name).is_some());
                !matters && !is_query(inner)
            });
        }
    }
    matters.then(|| {
        let mut bare = skeleton(root, pointer, node);
        bare["select_list"] = json!([{"class": "STAR", "type": "STAR", "alias": "", "relation_name": "",
            "exclude_list": [], "replace_list": [], "columns": false, "expr": null,
            "qualified_exclude_list": [], "rename_list": []}]);
        bare["where_clause"] = Value::Null;
        statement(&bare)
    })
}

/// A query that reads what `node` reads and does nothing with it yet, with every common table expression that it sees.
fn skeleton(root: &Value, pointer: &str, node: &Value) -> Value {
    let mut bare = node.clone();
    bare["modifiers"] = json!([]);
    bare["group_expressions"] = json!([]);
    bare["group_sets"] = json!([]);
    bare["aggregate_handling"] = Value::from("STANDARD_HANDLING");
    bare["having"] = Value::Null;
    bare["qualify"] = Value::Null;
    with_scope(root, pointer, bare)
}

/// The statement that gives `expressions` of every row that goes into `node`.
fn selecting(root: &Value, pointer: &str, node: &Value, names: &Names<'_>, expressions: &[Value]) -> Value {
    let mut bare = skeleton(root, pointer, node);
    bare["select_list"] = Value::Array(expressions.to_vec());
    if let Some(condition) = given(node, "where_clause") {
        bare["where_clause"] = names.resolve(condition);
    }
    statement(&bare)
}

/// Adds the common table expressions around `pointer` that `query` names.
fn with_scope(root: &Value, pointer: &str, mut query: Value) -> Value {
    let mut visible: Vec<&Value> = Vec::new();
    let mut at = root;
    let steps: Vec<&str> = pointer.split('/').skip(1).collect();
    for (index, step) in steps.iter().enumerate() {
        if is_query(at) {
            let entries = list(&at["cte_map"], "map");
            // Inside of one of them only those before it are seen.
            let seen = match steps.get(index..index + 3) {
                Some(["cte_map", "map", number]) => number.parse().unwrap_or(0),
                _ => entries.len(),
            };
            visible.extend(&entries[..seen.min(entries.len())]);
        }
        at = match at {
            Value::Array(items) => step.parse::<usize>().ok().and_then(|step| items.get(step)),
            _ => at.get(step),
        }
        .unwrap_or(&Value::Null);
    }
    let mut needed: Vec<Value> = Vec::new();
    let mut own: Vec<Value> = list(&query["cte_map"], "map").to_vec();
    let mut wanted = tables(&query);
    for entry in visible.into_iter().rev() {
        let key = text(entry, "key");
        let shadowed = own
            .iter()
            .chain(&needed)
            .any(|known| text(known, "key").eq_ignore_ascii_case(key));
        if !shadowed && wanted.contains(&key.to_ascii_lowercase()) {
            wanted.extend(tables(entry));
            needed.push(entry.clone());
        }
    }
    needed.reverse();
    needed.append(&mut own);
    query["cte_map"] = json!({"map": needed});
    query
}

/// The tables that are named in `value` without a schema, in small letters.
pub fn tables(value: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    walk(value, &mut |part| {
        if text(part, "type") == "BASE_TABLE" && text(part, "schema_name").is_empty() {
            names.insert(text(part, "table_name").to_ascii_lowercase());
        }
        true
    });
    names
}

/// What names files in a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Reads {
    /// A name that stands for a table; one or more files, if there is no table of that name.
    Path(String),
    /// The first argument of a function that reads files, as an expression.
    Argument(Value),
}

/// What may name files in `statement`.
pub fn reads(statement: &Value) -> Vec<Reads> {
    let mut found = Vec::new();
    let local = ctes(statement);
    walk(statement, &mut |part| {
        match text(part, "type") {
            "BASE_TABLE" => {
                let names = ["catalog_name", "schema_name", "table_name"].map(|member| text(part, member));
                let path = names
                    .into_iter()
                    .filter(|name| !name.is_empty())
                    .collect::<Vec<_>>()
                    .join(".");
                if path.contains(['.', '/', '*']) && !local.contains(&path.to_ascii_lowercase()) {
                    found.push(Reads::Path(path));
                }
            }
            "TABLE_FUNCTION" => {
                let call = &part["function"];
                if function(call).is_some_and(|name| reads_files(&name))
                    && let Some(argument) = arguments(call).first()
                {
                    found.push(Reads::Argument((*argument).clone()));
                }
            }
            _ => {}
        }
        true
    });
    found
}

/// Whether `statement` reads nothing but what [`reads`] names, tables of ours, and functions that make their rows themselves.
pub fn reads_files_only(statement: &Value) -> bool {
    let local = ctes(statement);
    let mut only = true;
    walk(statement, &mut |part| {
        only &= match text(part, "type") {
            "BASE_TABLE" => {
                let name = text(part, "table_name").to_ascii_lowercase();
                name.contains(['.', '/', '*']) || name.starts_with("duckward_") || local.contains(&name)
            }
            "TABLE_FUNCTION" => function(&part["function"]).is_some_and(|name| {
                reads_files(&name)
                    || matches!(name.as_str(), "range" | "generate_series" | "unnest" | "repeat")
            }),
            _ => true,
        };
        only
    });
    only
}

fn reads_files(function: &str) -> bool {
    function.starts_with("read_") || matches!(function, "parquet_scan" | "sqlite_scan" | "st_read")
}

/// Whether a statement names a collation.
pub fn collates(statement: &Value) -> bool {
    let mut found = false;
    walk(statement, &mut |node| {
        found |= text(node, "class") == "COLLATE";
        !found
    });
    found
}

/// Whether a statement has parameters.
pub fn has_parameters(statement: &Value) -> bool {
    let mut found = false;
    walk(statement, &mut |node| {
        found |= text(node, "class") == "PARAMETER";
        !found
    });
    found
}

/// Puts values, as expressions, in the place of parameters; one that has none stays.
pub fn put_parameters(statement: &mut Value, values: &BTreeMap<String, Value>) {
    change(statement, &mut |node| {
        if text(node, "class") != "PARAMETER" {
            return true;
        }
        if let Some(value) = values.get(text(node, "identifier")) {
            *node = named(value, text(node, "alias"));
        }
        false
    });
    if let Some(place) = statement.pointer_mut("/statements/0/named_param_map") {
        *place = json!([]);
    }
}

/// Puts queries in the place of the views of those names; the tables that are named in them.
pub fn put_views(statement: &mut Value, queries: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let mut inside = BTreeSet::new();
    change(statement, &mut |node| {
        if text(node, "type") != "BASE_TABLE" || !text(node, "schema_name").is_empty() {
            return true;
        }
        let name = text(node, "table_name").to_owned();
        let Some(query) = queries.get(&name.to_ascii_lowercase()) else {
            return true;
        };
        inside.extend(tables(query));
        let mut table = query.clone();
        let alias = text(node, "alias");
        table["alias"] = Value::from(if alias.is_empty() { name.as_str() } else { alias });
        if let Some(columns) = node
            .get("column_name_alias")
            .filter(|columns| columns.as_array().is_some_and(|columns| !columns.is_empty()))
        {
            table["column_name_alias"] = columns.clone();
        }
        *node = table;
        false
    });
    inside
}

/// All tables that are named in `value`, with a schema or without, in small letters.
pub fn all_tables(value: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    walk(value, &mut |part| {
        if text(part, "type") == "BASE_TABLE" {
            names.insert(text(part, "table_name").to_ascii_lowercase());
        }
        true
    });
    names
}

/// Writes numbers of floating point so that they are read again as such: before 2.0 DuckDB prints 1e-1 as 0.1, a DECIMAL.
pub fn spell_floats(statement: &mut Value) {
    change(statement, &mut |node| {
        if text(node, "class") != "CONSTANT" {
            return true;
        }
        let Some(value) = node
            .get("value")
            .filter(|value| value.get("is_null") == Some(&Value::Bool(false)))
        else {
            return false;
        };
        let kind = value.get("type").map_or("", |kind| text(kind, "id"));
        if (kind == "DOUBLE" || kind == "FLOAT")
            && let Some(number) = value.get("value").and_then(Value::as_f64)
        {
            let written = json!({"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "",
                "value": {"type": {"id": "VARCHAR", "type_info": null}, "is_null": false, "value": format!("{number:?}")}});
            *node = json!({"class": "CAST", "type": "OPERATOR_CAST", "alias": text(node, "alias"), "child": written,
                "cast_type": {"id": kind, "type_info": null}, "try_cast": false});
        }
        false
    });
}

/// Names the items of the outermost list as DuckDB names them now: what they are computed from will be another text.
///
/// # Errors
/// Where the name of one is not known.
pub fn name_items(statement: &mut Value, names: &[String]) -> Result<(), WhyNot> {
    let Some(items) = statement
        .pointer_mut("/statements/0/node/select_list")
        .and_then(Value::as_array_mut)
    else {
        return Ok(());
    };
    let first = items.iter().position(stands_for_several).unwrap_or(items.len());
    let last = items.iter().rposition(stands_for_several);
    let count = items.len();
    if last.is_none() && count != names.len() {
        return Ok(());
    }
    for (index, item) in items.iter_mut().enumerate() {
        let name = if index < first {
            names.get(index)
        } else if last.is_some_and(|last| index > last) {
            // Counted from the end: how many columns there are before it is not known here.
            names
                .len()
                .checked_sub(count - index)
                .and_then(|at| names.get(at))
        } else {
            None
        };
        if !text(item, "alias").is_empty() || text(item, "class") == "COLUMN_REF" {
            continue;
        }
        match name {
            Some(name) => *item = named(item, name),
            None if stands_for_several(item) => {}
            None => return Err(WhyNot::of("a column between two stars has no name: give it one")),
        }
    }
    Ok(())
}

/// Whether an item of a list may become several columns.
fn stands_for_several(item: &Value) -> bool {
    let mut several = false;
    walk(item, &mut |part| {
        several |= is_star(part) || function(part).is_some_and(|name| name == "unnest" || name == "unlist");
        !several && !is_query(part)
    });
    several
}

/// The names of all common table expressions of a statement, in small letters.
pub fn ctes(statement: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    walk(statement, &mut |part| {
        for entry in list(&part["cte_map"], "map") {
            names.insert(text(entry, "key").to_ascii_lowercase());
        }
        true
    });
    names
}

/// A query as a statement.
pub fn as_statement(query: &Value) -> Value {
    statement(query)
}

/// The query at `pointer` with everything it sees, as a statement of its own.
pub fn whole(root: &Value, pointer: &str) -> Option<Value> {
    Some(statement(&with_scope(
        root,
        pointer,
        root.pointer(pointer)?.clone(),
    )))
}

/// The hidden columns of a cut, as they are added.
struct Hidden<'a> {
    items: &'a mut Vec<Value>,
    count: usize,
}

impl Hidden<'_> {
    fn add(&mut self, expression: &Value) -> usize {
        let index = self.count;
        self.items.push(named(expression, &format!("duckward_h{index}")));
        self.count += 1;
        index
    }
}

/// How the query at `pointer` is cut. `columns` are those of its FROM, if [`asks_for_columns`] asked.
///
/// # Errors
/// Why it cannot be.
pub fn cut(
    root: &Value,
    pointer: &str,
    functions: &Functions,
    columns: Option<&BTreeSet<String>>,
) -> Result<Cut, WhyNot> {
    let node = root
        .pointer(pointer)
        .ok_or_else(|| WhyNot::of("the query is not where it was"))?;
    if text(node, "type") != "SELECT_NODE" || rows::operation(node, functions).is_some() {
        return Ok(cut_rows(root, pointer, node, columns));
    }
    let items = list(node, "select_list").to_vec();
    let names = Names {
        items: &items,
        columns,
    };
    let aggregates = is_aggregate(node, functions);
    let keys = if aggregates {
        group_keys(node, functions, columns)?
    } else {
        partition_keys(node)
            .iter()
            .map(|key| names.resolve(key))
            .collect()
    };
    if keys.is_empty() {
        return Err(WhyNot::of("it has no keys to cut by"));
    }
    let starred = items.iter().any(is_star);
    let mut body = node.clone();
    let mut all_items = items.clone();
    let mut hidden = Hidden {
        items: &mut all_items,
        count: 0,
    };
    let positions: Vec<Position> = keys
        .iter()
        .map(|key| {
            let visible = items.iter().position(|item| !starred && same(item, key));
            visible.map_or_else(|| Position::Hidden(hidden.add(key)), Position::Visible)
        })
        .collect();
    let modifiers = rewrite_modifiers(list(node, "modifiers"), &names, &mut hidden, false);
    // Where it can be, HAVING waits until all rows are counted.
    let having = given(node, "having")
        .filter(|having| having_can_wait(node, having, &names, functions))
        .map(|having| hidden.add(having));
    let count = json!({"class": "FUNCTION", "type": "FUNCTION", "alias": "", "function_name": "count_star",
        "schema": "", "catalog": "", "filter": null, "order_bys": {"type": "ORDER_MODIFIER", "orders": []},
        "distinct": false, "is_operator": false, "export_state": false, "children": [], "arguments": [],
        "qualified_name": {"path": ["count_star"]}});
    let rows = aggregates.then(|| hidden.add(&count));
    let hidden = hidden.count;
    body["select_list"] = Value::Array(all_items);
    if having.is_some() {
        body["having"] = Value::Null;
    }
    if text(node, "aggregate_handling") == "FORCE_AGGREGATES" {
        // Written out, or the hidden columns would be keys, too.
        body["aggregate_handling"] = Value::from("STANDARD_HANDLING");
        body["group_sets"] = json!([(0..keys.len()).collect::<Vec<_>>()]);
        body["group_expressions"] = json!(keys);
    }
    body["modifiers"] = json!([]);
    let selecting = |expressions: &[Value]| selecting(root, pointer, node, &names, expressions);
    let kept = kept_calls(node, functions)
        .into_iter()
        .map(|(call, state)| {
            let mut values: Vec<Value> = arguments(call)
                .into_iter()
                .map(|value| names.resolve(value))
                .collect();
            if let Some(orders) = call.get("order_bys") {
                values.extend(
                    list(orders, "orders")
                        .iter()
                        .filter_map(|order| order.get("expression"))
                        .map(|value| names.resolve(value)),
                );
            }
            Kept {
                state,
                values: (!values.is_empty()).then(|| selecting(&values)),
                name: function(call).unwrap_or_default(),
            }
        })
        .collect();
    Ok(Cut {
        body: statement(&with_scope(root, pointer, body)),
        hidden,
        keys: positions,
        source: Some(selecting(&keys)),
        rows,
        counted: if given(node, "having").is_some() && having.is_none() {
            0
        } else if aggregates {
            list(node, "group_sets").len().max(1) as u64
        } else {
            u64::from(given(node, "qualify").is_none())
        },
        having,
        nulls: bare_nulls(&items),
        modifiers,
        kept,
    })
}

/// The query of `cut` with `condition` beside its WHERE. Each name `duckward_k0`, `duckward_k1`, ... in it stands for a key.
pub fn filtered(cut: &Cut, condition: &Value) -> Option<Value> {
    let root = "/statements/0/node";
    let keys = list(cut.source.as_ref()?.pointer(root)?, "select_list");
    let mut condition = condition.clone();
    change(&mut condition, &mut |part| {
        let key = bare_name(part)
            .and_then(|name| name.strip_prefix(KEY)?.parse::<usize>().ok())
            .and_then(|index| keys.get(index));
        match key {
            Some(key) => {
                *part = named(key, "");
                false
            }
            None => true,
        }
    });
    let mut body = cut.body.clone();
    let place = body.pointer_mut(root)?.get_mut("where_clause")?;
    *place = if place.is_null() {
        condition
    } else {
        json!({"class": "CONJUNCTION", "type": "CONJUNCTION_AND", "alias": "", "children": [place.take(), condition]})
    };
    Some(body)
}

fn bare_nulls(items: &[Value]) -> BTreeSet<usize> {
    if items.iter().any(is_star) {
        return BTreeSet::new();
    }
    items
        .iter()
        .enumerate()
        .filter(|(_, item)| is_null(item))
        .map(|(index, _)| index)
        .collect()
}

/// Whether HAVING may be looked at after all groups were computed: only where nothing that is computed for a group can fail,
/// and no name in it may be an alias.
fn having_can_wait(node: &Value, having: &Value, names: &Names<'_>, functions: &Functions) -> bool {
    let mut aliases = false;
    walk(having, &mut |part| {
        aliases |= bare_name(part).is_some_and(|name| {
            names
                .items
                .iter()
                .any(|item| text(item, "alias").eq_ignore_ascii_case(name))
        });
        !aliases
    });
    let harmless = |item: &Value| {
        matches!(text(item, "class"), "COLUMN_REF" | "CONSTANT")
            || function(item).is_some_and(|name| functions.is_aggregate(&name))
    };
    !aliases
        && text(node, "aggregate_handling") != "FORCE_AGGREGATES"
        && list(node, "select_list").iter().all(harmless)
}

/// `cut`, which is that of the query at `pointer`, with QUALIFY as a hidden column, where it may be looked at after all rows
/// were computed: nothing in the list can fail, and no name in it is both an alias and a column. It takes the room of all
/// rows.
pub fn with_qualify(root: &Value, pointer: &str, columns: Option<&BTreeSet<String>>, mut cut: Cut) -> Cut {
    let Some((node, qualify)) = root
        .pointer(pointer)
        .and_then(|node| Some((node, given(node, "qualify")?)))
    else {
        return cut;
    };
    let items = list(node, "select_list");
    let names = Names { items, columns };
    let mut plain = cut.rows.is_none() && cut.source.is_some();
    walk(qualify, &mut |part| {
        plain &= !bare_name(part).is_some_and(|name| {
            names.is_alias(name).is_none()
                && items
                    .iter()
                    .any(|item| text(item, "alias").eq_ignore_ascii_case(name))
        });
        plain &= !matches!(text(part, "class"), "SUBQUERY" | "LAMBDA" | "STAR");
        plain
    });
    // Windows are computed before QUALIFY anyway.
    let harmless = |item: &Value| {
        matches!(text(item, "class"), "COLUMN_REF" | "CONSTANT" | "WINDOW")
            || (text(item, "class") == "STAR"
                && list(item, "replace_list").is_empty()
                && given(item, "expr").is_none())
    };
    let place = "/statements/0/node/qualify";
    if plain
        && items.iter().all(harmless)
        && let Some(below) = cut.body.pointer_mut(place)
    {
        *below = Value::Null;
        cut.having = Some(digest::add(&mut cut, &names.resolve(qualify)));
        cut.counted = 1;
    }
    cut
}

/// A DISTINCT or a set operation: its keys are all its columns.
fn cut_rows(root: &Value, pointer: &str, node: &Value, columns: Option<&BTreeSet<String>>) -> Cut {
    let mut body = node.clone();
    let (inside, outside): (Vec<Value>, Vec<Value>) = list(node, "modifiers")
        .iter()
        .cloned()
        .partition(|modifier| text(modifier, "type").starts_with("DISTINCT"));
    body["modifiers"] = Value::Array(inside);
    let items = list(node, "select_list");
    let names = Names { items, columns };
    let mut none = Vec::new();
    let mut hidden = Hidden {
        items: &mut none,
        count: 0,
    };
    let outside = rewrite_modifiers(&outside, &names, &mut hidden, true);
    Cut {
        body: statement(&with_scope(root, pointer, body)),
        hidden: 0,
        keys: Vec::new(),
        source: None,
        rows: None,
        counted: 0,
        having: None,
        nulls: bare_nulls(items),
        modifiers: outside,
        kept: Vec::new(),
    }
}

/// DISTINCT, ORDER BY and LIMIT in terms of the columns of the pieces; what they need besides becomes a hidden column.
/// With `fixed` there are no hidden columns: what is not in the list stays as it is.
fn rewrite_modifiers(
    modifiers: &[Value],
    names: &Names<'_>,
    hidden: &mut Hidden<'_>,
    fixed: bool,
) -> Vec<Value> {
    let mut modifiers = modifiers.to_vec();
    let mut place = |expression: &mut Value| {
        let given_name = bare_name(expression).is_some_and(|name| {
            names.items.iter().any(|item| {
                let alias = text(item, "alias");
                let called = if alias.is_empty() {
                    list(item, "column_names")
                        .last()
                        .and_then(Value::as_str)
                        .unwrap_or("")
                } else {
                    alias
                };
                called.eq_ignore_ascii_case(name)
            })
        });
        if integer(expression).is_some() || given_name || is_star(expression) {
            return;
        }
        // A name that stands alone is first of all one of the list; inside of an expression it is a column.
        let meant = names.resolve(expression);
        let known = names.items.iter().any(is_star);
        let at = names.items.iter().position(|item| !known && same(item, &meant));
        *expression = match at {
            Some(at) => column(&Position::Visible(at).name()),
            None if fixed => expression.clone(),
            None => column(&Position::Hidden(hidden.add(&meant)).name()),
        };
    };
    for modifier in &mut modifiers {
        for order in modifier
            .get_mut("orders")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(expression) = order.get_mut("expression") {
                place(expression);
            }
        }
        for target in modifier
            .get_mut("distinct_on_targets")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            place(target);
        }
    }
    modifiers
}
