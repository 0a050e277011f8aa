//! Grouping sets without a key in common. Each of them is a query of its own with a plain GROUP BY, which has keys to cut
//! by; a key that is not in the set is NULL there. Where it is not sure that their rows together are the same, nothing is
//! taken apart. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Want;
use super::functions::Functions;
use super::keys::group_keys;
use super::names::Names;
use super::scope::selecting;
use super::shape::{has_window, is_plain, kept_calls};
use super::targets::can_be_cut;
use super::tree::{
    bare_name, change, cte_query, function, given, integer, is_query, is_star, list, named, same, text, walk,
};

/// How the names begin of what the queries of all sets read, and must see the same of.
pub const SHARED: &str = "duckward_sets_";

/// More sets than these are not taken apart: for each the input is read again.
const SETS: usize = 64;

/// What an expression outside of aggregates may be made of.
const CLASSES: [&str; 11] = [
    "BETWEEN",
    "CASE",
    "CAST",
    "COLLATE",
    "COLUMN_REF",
    "COMPARISON",
    "CONJUNCTION",
    "CONSTANT",
    "FUNCTION",
    "OPERATOR",
    "TYPE",
];

/// A key, and how it is told from others.
#[derive(Clone, Debug)]
struct Key {
    expression: Value,
    /// As DuckDB compares it.
    folded: Value,
    /// Without the tables of its columns.
    bare: Value,
}

/// The grouping sets of one query.
#[derive(Clone, Debug)]
pub struct Sets {
    keys: Vec<Key>,
    sets: Vec<BTreeSet<usize>>,
    /// What `grouping()` is called with, by the numbers of the keys.
    calls: Vec<Vec<usize>>,
    /// The statement that gives the keys, a column each.
    pub source: Value,
}

/// What the queries of the sets are made of, as DuckDB writes it.
#[derive(Clone, Debug, Default)]
pub struct Forms {
    /// NULL of each key's type.
    pub nulls: Vec<Value>,
    /// The numbers of the query's columns, from 1 on.
    pub ordinals: Vec<Value>,
    /// What `grouping()` may give.
    pub numbers: BTreeMap<u64, Value>,
    /// `SELECT 1 UNION ALL SELECT 2`.
    pub union: Value,
    /// `SELECT DISTINCT * FROM (SELECT 1) AS name`.
    pub distinct: Value,
    /// `WITH name AS (SELECT 1) SELECT * FROM name`.
    pub shared: Value,
}

/// Whether the query has to be taken apart if it is to be cut.
pub fn is_apart(node: &Value, functions: &Functions) -> bool {
    let sets = list(node, "group_sets");
    text(node, "type") == "SELECT_NODE"
        && (2..=SETS).contains(&sets.len())
        && sets
            .iter()
            .any(|set| set.as_array().is_some_and(|set| !set.is_empty()))
        && text(node, "aggregate_handling") != "FORCE_AGGREGATES"
        && !has_window(node)
        && given(node, "sample").is_none()
        && !list(node, "select_list").iter().any(is_star)
        && group_keys(node, functions, None).map_or(true, |keys| keys.is_empty())
        && !kept_calls(node, functions).is_empty()
}

/// The sets of the query at `pointer`, where their keys can be told apart. `columns` are those of its FROM, if
/// [`super::asks_for_columns`] asked.
pub fn sets(
    root: &Value,
    pointer: &str,
    functions: &Functions,
    columns: Option<&BTreeSet<String>>,
) -> Option<Sets> {
    let node = root.pointer(pointer)?;
    let items = list(node, "select_list");
    let names = Names { items, columns };
    // An item that is NULL in one of the sets would be so under its alias, too.
    for member in ["select_list", "where_clause", "having"] {
        if names_alias(node.get(member)?, &names) {
            return None;
        }
    }
    let keys: Vec<Key> = list(node, "group_expressions")
        .iter()
        .map(|expression| key(expression, &names, functions))
        .collect::<Option<_>>()?;
    let twice = |(at, key): (usize, &Key)| keys[..at].iter().any(|other| same(&other.bare, &key.bare));
    if keys.iter().enumerate().any(twice) {
        return None;
    }
    let sets = list(node, "group_sets")
        .iter()
        .map(|set| {
            let indexes = set.as_array()?.iter().map(|index| {
                usize::try_from(index.as_u64()?)
                    .ok()
                    .filter(|index| *index < keys.len())
            });
            indexes.collect()
        })
        .collect::<Option<_>>()?;
    let expressions: Vec<Value> = keys.iter().map(|key| key.expression.clone()).collect();
    let mut found = Sets {
        keys,
        sets,
        calls: Vec::new(),
        source: selecting(root, pointer, node, &names, &expressions),
    };
    let mut calls = Some(Vec::new());
    for member in ["select_list", "having"] {
        walk(node.get(member)?, &mut |part| {
            if is_grouping(part) {
                match (found.called(part), &mut calls) {
                    (Some(call), Some(calls)) => calls.push(call),
                    _ => calls = None,
                }
            }
            true
        });
    }
    found.calls = calls?;
    Some(found)
}

/// Whether a name in `value` stands, or may stand, for an item of the list.
fn names_alias(value: &Value, names: &Names<'_>) -> bool {
    let mut found = false;
    walk(value, &mut |part| {
        found |= bare_name(part).is_some_and(|name| names.is_alias(name).is_some());
        !found
    });
    found
}

fn key(expression: &Value, names: &Names<'_>, functions: &Functions) -> Option<Key> {
    let meant = match integer(expression) {
        Some(ordinal) => names.items.get(ordinal.checked_sub(1)?)?.clone(),
        None => {
            let called = |item: &&Value| {
                bare_name(expression).is_some_and(|name| text(item, "alias").eq_ignore_ascii_case(name))
            };
            let resolved = names.resolve(expression);
            if !same(&resolved, expression) && names.items.iter().filter(called).count() != 1 {
                return None;
            }
            resolved
        }
    };
    let (mut columns, mut simple) = (false, true);
    walk(&meant, &mut |part| {
        let class = text(part, "class");
        columns |= class == "COLUMN_REF";
        simple &= (class.is_empty() || CLASSES.contains(&class))
            && !is_query(part)
            && !is_grouping(part)
            && !function(part).is_some_and(|name| functions.is_aggregate(&name));
        simple
    });
    (columns && simple).then(|| Key {
        folded: folded(&meant, false),
        bare: folded(&meant, true),
        expression: named(&meant, ""),
    })
}

/// `expression` with all in which DuckDB sees no difference written in one way; with `bare` the tables of columns left out.
fn folded(expression: &Value, bare: bool) -> Value {
    let mut folded = expression.clone();
    change(&mut folded, &mut |part| {
        if let Some(map) = part.as_object_mut() {
            map.remove("is_operator");
            map.remove("is_legacy_function_call");
        }
        if let Some(names) = part.get_mut("column_names").and_then(Value::as_array_mut) {
            if bare {
                names.drain(..names.len().saturating_sub(1));
            }
            for name in names {
                *name = Value::from(name.as_str().unwrap_or("").to_lowercase());
            }
        }
        true
    });
    folded
}

fn is_grouping(part: &Value) -> bool {
    text(part, "type") == "GROUPING_FUNCTION"
}

/// What an expression is among the keys.
enum Found {
    Key(usize),
    /// Perhaps one of them, written in another way.
    Unsure,
    No,
}

impl Sets {
    /// What `grouping()` gives in the queries of the sets.
    pub fn numbers(&self) -> BTreeSet<u64> {
        let calls = self.calls.iter();
        calls
            .flat_map(|call| self.sets.iter().map(|set| number(call, set)))
            .collect()
    }

    fn find(&self, part: &Value) -> Found {
        let mine = folded(part, false);
        if let Some(at) = self.keys.iter().position(|key| same(&key.folded, &mine)) {
            return Found::Key(at);
        }
        let bare = folded(part, true);
        if self.keys.iter().any(|key| same(&key.bare, &bare)) {
            return Found::Unsure;
        }
        Found::No
    }

    /// The keys that `grouping()` is called with.
    fn called(&self, call: &Value) -> Option<Vec<usize>> {
        let keys = list(call, "children").iter().map(|child| match self.find(child) {
            Found::Key(at) => Some(at),
            Found::Unsure | Found::No => None,
        });
        keys.collect::<Option<Vec<usize>>>()
            .filter(|keys| !keys.is_empty())
    }

    /// Makes `part` what it is in `set`; none where that is not sure.
    fn put(
        &self,
        part: &mut Value,
        set: &BTreeSet<usize>,
        forms: &Forms,
        functions: &Functions,
    ) -> Option<()> {
        let map = match part {
            Value::Array(parts) => {
                return parts
                    .iter_mut()
                    .try_for_each(|part| self.put(part, set, forms, functions));
            }
            Value::Object(_) => part,
            _ => return Some(()),
        };
        let class = text(map, "class").to_owned();
        if !class.is_empty() {
            match self.find(map) {
                Found::Key(at) => {
                    if !set.contains(&at) {
                        *map = named(forms.nulls.get(at)?, text(map, "alias"));
                    }
                    return Some(());
                }
                Found::Unsure => return None,
                Found::No => {}
            }
            if is_grouping(map) {
                let number = number(&self.called(map)?, set);
                *map = named(forms.numbers.get(&number)?, text(map, "alias"));
                return Some(());
            }
            if function(map).is_some_and(|name| functions.is_aggregate(&name)) {
                let mut inside = false;
                walk(map, &mut |part| {
                    inside |= is_grouping(part);
                    !inside
                });
                return (!inside).then_some(());
            }
            if class == "COLUMN_REF" || !CLASSES.contains(&class.as_str()) {
                return None;
            }
        }
        if is_query(map) {
            return None;
        }
        map.as_object_mut()?
            .values_mut()
            .try_for_each(|part| self.put(part, set, forms, functions))
    }

    /// The query of one set.
    fn query(
        &self,
        body: &Value,
        set: &BTreeSet<usize>,
        forms: &Forms,
        functions: &Functions,
    ) -> Option<Value> {
        let mut query = body.clone();
        for member in ["select_list", "having"] {
            self.put(query.get_mut(member)?, set, forms, functions)?;
        }
        let keys: Vec<&Value> = set.iter().map(|at| &self.keys[*at].expression).collect();
        query["group_sets"] = if keys.is_empty() {
            json!([])
        } else {
            json!([(0..keys.len()).collect::<Vec<_>>()])
        };
        query["group_expressions"] = json!(keys);
        (set.is_empty() || can_be_cut(&query, functions, Want::Kept)).then_some(query)
    }
}

/// What `grouping()` of these keys gives in `set`: a bit for each, the last one the lowest, set where the key is not there.
fn number(keys: &[usize], set: &BTreeSet<usize>) -> u64 {
    keys.iter()
        .fold(0, |bits, key| (bits << 1) | u64::from(!set.contains(key)))
}

/// `root` with a query for each set in the place of the one at `pointer`, whose columns are called `names`. `number` counts
/// what they share. None where it is not sure that they give the same.
pub fn apart(
    root: &Value,
    pointer: &str,
    found: &Sets,
    forms: &Forms,
    names: &[String],
    functions: &Functions,
    number: &mut usize,
) -> Option<Value> {
    let node = root.pointer(pointer)?;
    let mut body = node.clone();
    let mut entries = list(&node["cte_map"], "map").to_vec();
    body["cte_map"] = json!({"map": []});
    body["modifiers"] = json!([]);
    share(
        body.get_mut("from_table")?,
        forms,
        functions,
        number,
        &mut entries,
    )?;
    if has_ctes(&body) {
        // They would stand there once for each set, under one name.
        return None;
    }
    let items = body.get_mut("select_list")?.as_array_mut()?;
    if items.len() != names.len() {
        return None;
    }
    for (item, name) in items.iter_mut().zip(names) {
        *item = named(item, name);
    }
    let queries: Vec<Value> = found
        .sets
        .iter()
        .map(|set| found.query(&body, set, forms, functions))
        .collect::<Option<_>>()?;
    let mut query = joined(&forms.union, &queries)?;
    let modifiers = modifiers(node, forms)?;
    if modifiers
        .iter()
        .any(|modifier| text(modifier, "type").starts_with("DISTINCT"))
    {
        let mut around = forms.distinct.clone();
        *around.pointer_mut("/from_table/subquery/node")? = query;
        query = around;
    }
    query["modifiers"] = Value::Array(modifiers);
    query["cte_map"] = json!({"map": entries});
    let mut changed = root.clone();
    *changed.pointer_mut(pointer)? = query;
    Some(changed)
}

/// All of `queries`, in their order. DuckDB 2.0 has them in one list; before they are nested, here no deeper than needed.
fn joined(union: &Value, queries: &[Value]) -> Option<Value> {
    if let [query] = queries {
        return Some(query.clone());
    }
    let mut joined = union.clone();
    if list(union, "children").is_empty() {
        let (left, right) = queries.split_at(queries.len() / 2);
        joined["left"] = self::joined(union, left)?;
        joined["right"] = self::joined(union, right)?;
    } else {
        joined["children"] = json!(queries);
    }
    (!queries.is_empty()).then_some(joined)
}

/// Puts what is in FROM and may give other rows the second time, or has common table expressions of its own, where the
/// queries of all sets find it.
fn share(
    table: &mut Value,
    forms: &Forms,
    functions: &Functions,
    number: &mut usize,
    entries: &mut Vec<Value>,
) -> Option<()> {
    if given(table, "sample").is_some() {
        return None;
    }
    match text(table, "type") {
        "BASE_TABLE" | "TABLE_FUNCTION" | "EXPRESSION_LIST" => Some(()),
        "JOIN" => {
            share(table.get_mut("left")?, forms, functions, number, entries)?;
            share(table.get_mut("right")?, forms, functions, number, entries)
        }
        "SUBQUERY" => {
            let query = table.pointer("/subquery/node")?;
            let mut fixed = !has_ctes(query);
            walk(query, &mut |part| {
                fixed &= !is_query(part) || is_plain(part, functions);
                fixed
            });
            if fixed {
                return Some(());
            }
            let name = format!("{SHARED}{number}");
            *number += 1;
            let mut entry = forms.shared.pointer("/cte_map/map/0")?.clone();
            let (inside, _) = cte_query(&entry)?;
            entry["key"] = Value::from(name.as_str());
            *entry.pointer_mut(inside)? = query.clone();
            entries.push(entry);
            let mut reading = forms.shared.get("from_table")?.clone();
            reading["table_name"] = Value::from(name.as_str());
            if let Some(path) = reading.pointer_mut("/qualified_name/path") {
                *path = json!([name]);
            }
            for member in ["alias", "column_name_alias"] {
                reading[member] = table.get(member)?.clone();
            }
            *table = reading;
            Some(())
        }
        _ => None,
    }
}

fn has_ctes(value: &Value) -> bool {
    let mut found = false;
    walk(value, &mut |part| {
        found |= !list(&part["cte_map"], "map").is_empty();
        !found
    });
    found
}

/// DISTINCT, ORDER BY and LIMIT of `node` by the numbers of its columns.
fn modifiers(node: &Value, forms: &Forms) -> Option<Vec<Value>> {
    let items = list(node, "select_list");
    let names = Names { items, columns: None };
    let mut modifiers = list(node, "modifiers").to_vec();
    for modifier in &mut modifiers {
        if !list(modifier, "distinct_on_targets").is_empty() {
            return None;
        }
        let mut orders = Vec::new();
        for order in list(modifier, "orders") {
            let by = |expression: &Value| {
                let mut order = order.clone();
                order["expression"] = expression.clone();
                order
            };
            let expression = order.get("expression")?;
            if is_all(expression) {
                orders.extend(forms.ordinals.iter().map(by));
            } else if integer(expression).is_some() {
                orders.push(order.clone());
            } else {
                orders.push(by(forms.ordinals.get(place(expression, items, &names)?)?));
            }
        }
        if modifier.get("orders").is_some() {
            modifier["orders"] = Value::Array(orders);
        }
    }
    Some(modifiers)
}

/// Whether `expression` is that of ORDER BY ALL.
fn is_all(expression: &Value) -> bool {
    let lists = [
        "exclude_list",
        "qualified_exclude_list",
        "replace_list",
        "rename_list",
    ];
    text(expression, "class") == "STAR"
        && text(expression, "relation_name").is_empty()
        && given(expression, "expr").is_none()
        && lists.iter().all(|member| list(expression, member).is_empty())
}

/// The item that is ordered by.
fn place(expression: &Value, items: &[Value], names: &Names<'_>) -> Option<usize> {
    if let Some(name) = bare_name(expression) {
        let called = |item: &Value| match text(item, "alias") {
            "" => list(item, "column_names")
                .last()
                .and_then(Value::as_str)
                .is_some_and(|last| last.eq_ignore_ascii_case(name)),
            alias => alias.eq_ignore_ascii_case(name),
        };
        let mut those = items
            .iter()
            .enumerate()
            .filter(|(_, item)| called(item))
            .map(|(at, _)| at);
        if let Some(first) = those.next() {
            return those.next().is_none().then_some(first);
        }
    } else if names_alias(expression, names) {
        return None;
    }
    items.iter().position(|item| same(item, expression))
}

#[cfg(test)]
mod tests {
    use super::super::tree::{column, statement};
    use super::*;

    const ROOT: &str = "/statements/0/node";

    fn functions() -> Functions {
        let mut functions = Functions::default();
        let row = |name: &str, kind: &str| vec![Some(name.to_owned()), Some(kind.to_owned()), None];
        functions.learn(&[
            row("median", "aggregate"),
            row("sum", "aggregate"),
            row("abs", "scalar"),
        ]);
        functions
    }

    fn call(name: &str, argument: &Value) -> Value {
        json!({"class": "FUNCTION", "function_name": name, "alias": "", "distinct": false, "filter": null,
               "order_bys": {"orders": []}, "children": [argument]})
    }

    fn grouping(keys: &[&str]) -> Value {
        let keys: Vec<Value> = keys.iter().map(|key| column(key)).collect();
        json!({"class": "OPERATOR", "type": "GROUPING_FUNCTION", "alias": "", "children": keys})
    }

    fn qualified(table: &str, name: &str) -> Value {
        json!({"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": [table, name]})
    }

    fn constant(value: &str) -> Value {
        json!({"class": "CONSTANT", "alias": "", "of": value})
    }

    /// `SELECT items FROM t GROUP BY GROUPING SETS (...)`.
    fn query(items: &[Value], keys: &[Value], sets: &[&[usize]]) -> Value {
        statement(
            &json!({"type": "SELECT_NODE", "modifiers": [], "cte_map": {"map": []}, "select_list": items,
            "from_table": {"type": "BASE_TABLE", "table_name": "t", "schema_name": "", "alias": ""},
            "where_clause": null, "group_expressions": keys, "group_sets": sets,
            "aggregate_handling": "STANDARD_HANDLING", "having": null, "qualify": null, "sample": null}),
        )
    }

    fn cube(items: &[Value]) -> Value {
        query(items, &[column("a"), column("b")], &[&[], &[0], &[0, 1], &[1]])
    }

    fn with(mut statement: Value, member: &str, value: Value) -> Value {
        statement["statements"][0]["node"][member] = value;
        statement
    }

    fn forms() -> Forms {
        let nested = |name: &str| json!({"type": "SUBQUERY", "subquery": {"node": {"type": name}}});
        Forms {
            nulls: vec![constant("no a"), constant("no b")],
            ordinals: vec![constant("first"), constant("second")],
            numbers: (0..4).map(|bits| (bits, constant(&bits.to_string()))).collect(),
            union: json!({"type": "SET_OPERATION_NODE", "modifiers": [], "cte_map": {"map": []},
                "left": null, "right": null, "children": [1, 2]}),
            distinct: json!({"type": "SELECT_NODE", "modifiers": [], "from_table": nested("SELECT_NODE")}),
            shared: json!({"cte_map": {"map": [{"key": "", "value": {"query_node": {}}}]},
                "from_table": {"type": "BASE_TABLE", "table_name": "", "qualified_name": {"path": [""]}}}),
        }
    }

    fn taken_apart(statement: &Value) -> Option<Value> {
        let node = statement.pointer(ROOT)?;
        assert!(is_apart(node, &functions()));
        let names = vec!["one".to_owned(); list(node, "select_list").len()];
        let found = sets(statement, ROOT, &functions(), None)?;
        let changed = apart(statement, ROOT, &found, &forms(), &names, &functions(), &mut 0)?;
        changed.pointer(ROOT).cloned()
    }

    /// The first column of each query.
    fn firsts(query: &Value) -> Vec<&Value> {
        list(query, "children")
            .iter()
            .map(|query| &query["select_list"][0])
            .collect()
    }

    fn median() -> Value {
        call("median", &column("a"))
    }

    #[test]
    fn a_key_that_is_not_in_the_set_is_null_but_inside_an_aggregate() {
        let changed = taken_apart(&cube(&[call("abs", &column("A")), median()])).unwrap();
        let null = call("abs", &constant("no a"));
        let key = call("abs", &column("A"));
        for (first, expected) in firsts(&changed).into_iter().zip([&null, &key, &key, &null]) {
            assert!(same(first, expected), "{first}");
            assert_eq!(first["alias"], "one");
        }
        for query in list(&changed, "children") {
            assert!(same(&query["select_list"][1], &median()));
        }
        let keys: Vec<&Value> = list(&changed, "children")
            .iter()
            .map(|query| &query["group_expressions"])
            .collect();
        assert_eq!(keys[0], &json!([]));
        assert_eq!(keys[2], &json!([column("a"), column("b")]));
    }

    #[test]
    fn grouping_has_a_bit_for_each_key_that_is_not_there_and_the_last_one_is_the_lowest() {
        let changed = taken_apart(&cube(&[grouping(&["a", "b"]), median()])).unwrap();
        let bits: Vec<&Value> = firsts(&changed).into_iter().map(|item| &item["of"]).collect();
        assert_eq!(bits, ["3", "1", "0", "2"]);
    }

    #[test]
    fn a_set_that_is_there_twice_stays_so() {
        let items = [column("a"), median()];
        let statement = query(&items, &[column("a"), column("b")], &[&[0], &[1], &[0]]);
        assert_eq!(firsts(&taken_apart(&statement).unwrap()).len(), 3);
    }

    #[test]
    fn before_2_0_queries_are_nested_no_deeper_than_needed_and_in_order() {
        fn flat(query: &Value, depth: usize, found: &mut Vec<(usize, u64)>) {
            if let Some(number) = query.as_u64() {
                found.push((depth, number));
                return;
            }
            flat(&query["left"], depth + 1, found);
            flat(&query["right"], depth + 1, found);
        }
        let queries: Vec<Value> = (0..SETS).map(|number| json!(number)).collect();
        let union = joined(&json!({"left": null, "right": null}), &queries).unwrap();
        let mut found = Vec::new();
        flat(&union, 0, &mut found);
        assert!(found.iter().all(|(depth, _)| *depth == 6));
        assert!(found.into_iter().map(|(_, number)| number).eq(0..SETS as u64));
    }

    #[test]
    fn one_key_written_in_two_ways_is_left_alone() {
        let items = [qualified("t", "a"), median()];
        assert!(taken_apart(&cube(&items)).is_none());
        let keys = [column("a"), qualified("t", "a")];
        assert!(taken_apart(&query(&[median()], &keys, &[&[0], &[1]])).is_none());
    }

    #[test]
    fn what_is_no_key_or_not_looked_into_is_left_alone() {
        let subquery = json!({"class": "SUBQUERY", "alias": "", "subquery": {"node": {}}});
        let hidden = call("median", &grouping(&["a"]));
        for item in [column("c"), grouping(&["c"]), grouping(&[]), subquery, hidden] {
            assert!(taken_apart(&cube(&[item.clone(), median()])).is_none(), "{item}");
        }
        for key in [constant("1"), call("sum", &column("b"))] {
            let statement = query(&[median()], &[column("a"), key], &[&[0], &[1]]);
            assert!(taken_apart(&statement).is_none());
        }
    }

    #[test]
    fn an_alias_in_where_is_left_alone_unless_a_column_has_that_name() {
        let items = [named(&call("abs", &column("a")), "x"), median()];
        let statement = with(cube(&items), "where_clause", column("x"));
        let of = |columns: &[&str]| {
            let columns = columns.iter().map(|name| (*name).to_owned()).collect();
            sets(&statement, ROOT, &functions(), Some(&columns)).is_some()
        };
        assert!(!of(&["a", "b"]));
        assert!(of(&["a", "b", "x"]));
    }

    #[test]
    fn order_is_by_the_columns_that_come_out_or_nothing_is_done() {
        let ordered = |expression: &Value| {
            let items = [named(&column("b"), "x"), named(&median(), "x2")];
            let order = json!([{"type": "ORDER_MODIFIER", "orders": [{"expression": expression}]}]);
            let changed = taken_apart(&with(cube(&items), "modifiers", order))?;
            Some(changed["modifiers"][0]["orders"][0]["expression"]["of"].clone())
        };
        assert_eq!(ordered(&column("X")), Some(json!("first")));
        assert_eq!(ordered(&column("b")), Some(json!("first")));
        assert_eq!(ordered(&median()), Some(json!("second")));
        assert_eq!(
            ordered(&json!({"class": "STAR", "columns": true})),
            Some(json!("first"))
        );
        assert_eq!(
            ordered(&json!({"class": "STAR", "expr": {"class": "LAMBDA"}})),
            None
        );
        assert_eq!(ordered(&column("a")), None);
        assert_eq!(ordered(&call("abs", &column("x"))), None);
    }

    #[test]
    fn what_may_give_other_rows_is_read_in_one_place() {
        let limited = json!({"type": "SELECT_NODE", "modifiers": [{"type": "LIMIT_MODIFIER"}], "cte_map": {"map": []},
            "select_list": [column("a")]});
        let table = json!({"type": "SUBQUERY", "alias": "s", "column_name_alias": ["a"], "sample": null,
            "subquery": {"node": limited}});
        let items = [column("a"), median()];
        let changed = taken_apart(&with(cube(&items), "from_table", table.clone())).unwrap();
        assert_eq!(changed["cte_map"]["map"][0]["value"]["query_node"], limited);
        for query in list(&changed, "children") {
            assert_eq!(query["from_table"]["table_name"], "duckward_sets_0");
            assert_eq!(query["from_table"]["alias"], "s");
        }
        let mut sampled = table;
        sampled["sample"] = json!({"size": 10});
        assert!(taken_apart(&with(cube(&items), "from_table", sampled)).is_none());
    }

    #[test]
    fn only_what_cannot_spill_and_has_no_key_in_common_is_taken_apart() {
        let is = |statement: &Value| is_apart(&statement["statements"][0]["node"], &functions());
        let (a, b) = (column("a"), column("b"));
        assert!(is(&cube(&[median()])));
        assert!(!is(&cube(&[call("sum", &column("a"))])));
        assert!(!is(&query(
            &[median()],
            &[a.clone(), b.clone()],
            &[&[0, 1], &[0]]
        )));
        assert!(!is(&query(&[median()], &[], &[&[], &[]])));
        assert!(!is(&query(&[median()], &[a, b], &[&[0]])));
    }
}
