//! How one query is cut: its body with the hidden columns that the pieces need (keys, what HAVING says, a count of rows),
//! and what is left to do with all pieces together.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::explicit::stands_for_several;
use super::functions::Functions;
use super::keys::{group_keys, partition_keys};
use super::names::Names;
use super::scope::{selecting, with_scope};
use super::shape::{is_aggregate, kept_calls};
use super::tree::{
    arguments, bare_name, change, column, function, given, integer, is_null, is_star, list, named, same,
    statement, text, walk,
};
use super::{Cut, KEY, Kept, Position, WhyNot, digest, rows};

/// The hidden columns of a cut, as they are added.
pub(super) struct Hidden<'a> {
    pub(super) items: &'a mut Vec<Value>,
    pub(super) count: usize,
}

impl Hidden<'_> {
    pub(super) fn add(&mut self, expression: &Value) -> usize {
        let index = self.count;
        self.items.push(named(expression, &format!("duckward_h{index}")));
        self.count += 1;
        index
    }
}

/// How the query at `pointer` is cut. `columns` are those of its FROM, if [`super::asks_for_columns`] asked.
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
        return cut_rows(root, pointer, node, columns);
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
    let modifiers = rewrite_modifiers(list(node, "modifiers"), &names, &mut hidden, false)?;
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
fn cut_rows(
    root: &Value,
    pointer: &str,
    node: &Value,
    columns: Option<&BTreeSet<String>>,
) -> Result<Cut, WhyNot> {
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
    let outside = rewrite_modifiers(&outside, &names, &mut hidden, true)?;
    Ok(Cut {
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
    })
}

/// DISTINCT, ORDER BY and LIMIT in terms of the columns of the pieces; what they need besides becomes a hidden column.
/// With `fixed` there are no hidden columns: what is not in the list stays as it is.
fn rewrite_modifiers(
    modifiers: &[Value],
    names: &Names<'_>,
    hidden: &mut Hidden<'_>,
    fixed: bool,
) -> Result<Vec<Value>, WhyNot> {
    let mut modifiers = modifiers.to_vec();
    let mut place = |expression: &mut Value| {
        if integer(expression).is_some() || is_star(expression) {
            return Ok(());
        }
        if let Some(name) = bare_name(expression) {
            match named_item(names, name)? {
                Called::Place(at) => {
                    *expression = column(&Position::Visible(at).name());
                    return Ok(());
                }
                Called::Itself => return Ok(()),
                Called::Column => {}
            }
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
        Ok(())
    };
    for modifier in &mut modifiers {
        for order in modifier
            .get_mut("orders")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(expression) = order.get_mut("expression") {
                place(expression)?;
            }
        }
        for target in modifier
            .get_mut("distinct_on_targets")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            place(target)?;
        }
    }
    Ok(modifiers)
}

/// What a name in ORDER BY stands for.
enum Called {
    /// An item of the list, told from others of that name by its place.
    Place(usize),
    /// The only one of that name.
    Itself,
    /// No item, but a column of FROM.
    Column,
}

/// An alias comes first, the last of several; the names of columns in the list are no aliases. Of the pieces all columns are
/// called alike, so the name alone would not tell them apart.
fn named_item(names: &Names<'_>, name: &str) -> Result<Called, WhyNot> {
    let items = names.items;
    let is_alias = |item: &Value| text(item, "alias").eq_ignore_ascii_case(name);
    let is_called = |item: &Value| {
        let column = list(item, "column_names").last().and_then(Value::as_str);
        is_alias(item)
            || (text(item, "alias").is_empty()
                && column.is_some_and(|column| column.eq_ignore_ascii_case(name)))
    };
    let several = items.iter().position(stands_for_several);
    let among_several = several.is_some()
        && names
            .columns
            .is_none_or(|columns| columns.contains(&name.to_ascii_lowercase()));
    let count = items.iter().filter(|item| is_called(item)).count();
    Ok(match items.iter().rposition(is_alias) {
        Some(_) if count == 1 && !among_several => Called::Itself,
        Some(at) if several.is_none_or(|several| at < several) => Called::Place(at),
        Some(_) => {
            return Err(WhyNot::of(format!(
                "{name} in ORDER BY may be one of several columns beside a star: give it a name of its own"
            )));
        }
        None if count == 1 => Called::Itself,
        None => Called::Column,
    })
}
