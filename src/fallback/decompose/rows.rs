//! A DISTINCT or a set operation as a grouping by all columns that counts the rows that went in. Pure.

use serde_json::{Value, json};

use super::cut::Hidden;
use super::functions::Functions;
use super::scope::with_scope;
use super::shape::{is_aggregate, is_distinct};
use super::tree::{change, column, given, list, named, statement, text};
use super::{Cut, Position};

/// How the names begin that stand in a template for the queries whose rows go in.
const INPUT: &str = "duckward_i";
/// The column that is 1 in rows of the left side of an INTERSECT or EXCEPT, and 0 in others.
const LEFT: &str = "duckward_l";
/// The same for the right.
const RIGHT: &str = "duckward_r";
/// Types with values that are equal and not the same: an INTERSECT gives those of its left side.
const LOOSE: [&str; 5] = ["FLOAT", "DOUBLE", "INTERVAL", "TIME WITH TIME ZONE", "VARIANT"];

/// What is made of the rows that go in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// SELECT DISTINCT.
    Distinct,
    /// UNION.
    Union,
    /// INTERSECT.
    Intersect,
    /// EXCEPT.
    Except,
}

/// A query whose rows are all different, and the queries whose rows go in.
#[derive(Clone, Debug)]
pub struct Rows {
    operation: Operation,
    inputs: Vec<Value>,
}

/// The operation of a node whose rows are cut by all their columns.
pub(super) fn operation(node: &Value, functions: &Functions) -> Option<Operation> {
    match (text(node, "type"), text(node, "setop_type")) {
        ("SELECT_NODE", _) => {
            (is_distinct(node) && !is_aggregate(node, functions)).then_some(Operation::Distinct)
        }
        ("SET_OPERATION_NODE", "UNION" | "UNION_BY_NAME") => Some(Operation::Union),
        ("SET_OPERATION_NODE", "INTERSECT") => Some(Operation::Intersect),
        ("SET_OPERATION_NODE", "EXCEPT") => Some(Operation::Except),
        _ => None,
    }
}

/// The query at `pointer`, if it is such a one.
pub fn rows(root: &Value, pointer: &str, functions: &Functions) -> Option<Rows> {
    let node = root.pointer(pointer)?;
    let operation = operation(node, functions)?;
    let mut all = node.clone();
    all["modifiers"] = json!([]);
    // Those of the query stand around the grouping.
    all["cte_map"] = json!({"map": []});
    let sides = || {
        let named = ["left", "right"].into_iter().filter_map(|side| given(node, side));
        named.chain(list(node, "children")).cloned().collect()
    };
    let inputs: Vec<Value> = match operation {
        Operation::Distinct => vec![all],
        Operation::Union => {
            all["setop_all"] = Value::from(true);
            vec![all]
        }
        Operation::Intersect | Operation::Except => sides(),
    };
    (!inputs.is_empty()).then_some(Rows { operation, inputs })
}

impl Rows {
    /// Whether it is a SELECT DISTINCT, and no set operation.
    pub fn is_distinct(&self) -> bool {
        self.operation == Operation::Distinct
    }

    /// Whether the grouping may be taken for a query with columns of those names and types.
    pub fn is_same_of(&self, names: &[String], types: &[String], functions: &Functions) -> bool {
        let ours = |name: &String| name.to_ascii_lowercase().starts_with("duckward_");
        let loose = |kind: &String| LOOSE.iter().any(|loose| kind.contains(loose));
        // A macro of that name might give anything.
        let sums = !functions.is_macro("sum");
        let operation = match self.operation {
            Operation::Distinct | Operation::Union => true,
            Operation::Intersect => sums && self.inputs.len() == 2 && !types.iter().any(loose),
            Operation::Except => sums,
        };
        operation && !names.iter().any(ours)
    }

    /// The grouping of so many columns as text: its list has the hidden columns only, and other queries stand where the
    /// inputs will.
    pub fn template(&self, columns: usize) -> String {
        let keys: Vec<String> = (0..columns)
            .map(|index| Position::Visible(index).name())
            .collect();
        let keys = keys.join(", ");
        let wanted = match self.operation {
            Operation::Distinct | Operation::Union => {
                return format!("SELECT count(*) FROM (SELECT 1) AS {INPUT}0({keys}) GROUP BY {keys}");
            }
            Operation::Intersect => ">",
            Operation::Except => "=",
        };
        let sides: Vec<String> = (0..self.inputs.len())
            .map(|index| {
                let tags = if index == 0 { "1, 0" } else { "0, 1" };
                format!("SELECT *, {tags} FROM (SELECT 1) AS {INPUT}{index}")
            })
            .collect();
        format!(
            "SELECT sum({LEFT}) > 0 AND sum({RIGHT}) {wanted} 0, count(*) FROM ({}) AS {INPUT}({keys}, {LEFT}, {RIGHT}) \
             GROUP BY {keys}",
            sides.join(" UNION ALL ")
        )
    }

    /// `cut`, which is that of the query at `pointer`, with the grouping in its place: `template` with the inputs put in.
    /// `names` are those of its columns.
    pub fn counted(
        &self,
        root: &Value,
        pointer: &str,
        cut: &Cut,
        template: Value,
        names: &[String],
    ) -> Option<Cut> {
        let mut body = template;
        let mut put = 0;
        change(&mut body["from_table"], &mut |part| {
            let index = text(part, "alias")
                .strip_prefix(INPUT)
                .and_then(|index| index.parse::<usize>().ok());
            match index.and_then(|index| self.inputs.get(index)) {
                Some(input) if text(part, "type") == "SUBQUERY" => {
                    part["subquery"]["node"] = input.clone();
                    put += 1;
                    false
                }
                _ => true,
            }
        });
        if put != self.inputs.len() {
            return None;
        }
        let keys: Vec<Value> = (0..names.len())
            .map(|index| column(&Position::Visible(index).name()))
            .collect();
        body["cte_map"] = root.pointer(pointer)?.get("cte_map")?.clone();
        let mut items: Vec<Value> = keys
            .iter()
            .zip(names)
            .map(|(key, name)| named(key, name))
            .collect();
        let mut hidden = Hidden {
            items: &mut items,
            count: 0,
        };
        let added: Vec<usize> = list(&body, "select_list")
            .iter()
            .map(|item| hidden.add(item))
            .collect();
        let count = hidden.count;
        body["select_list"] = Value::Array(items);
        let body = with_scope(root, pointer, body);
        let mut source = body.clone();
        source["select_list"] = Value::Array(keys);
        source["group_expressions"] = json!([]);
        source["group_sets"] = json!([]);
        let (rows, having) = match added.as_slice() {
            [rows] => (*rows, None),
            [having, rows] => (*rows, Some(*having)),
            _ => return None,
        };
        Some(Cut {
            body: statement(&body),
            hidden: count,
            keys: (0..names.len()).map(Position::Visible).collect(),
            source: Some(statement(&source)),
            rows: Some(rows),
            counted: 1,
            having,
            ..cut.clone()
        })
    }
}

/// What is digested of a row that goes in, besides the keys.
pub(super) fn side(operation: Operation) -> Option<Value> {
    matches!(operation, Operation::Intersect | Operation::Except).then(|| column(LEFT))
}

#[cfg(test)]
mod tests {
    use super::super::{cut, digest};
    use super::*;

    fn select(table: &str, modifiers: &Value) -> Value {
        json!({"type": "SELECT_NODE", "modifiers": modifiers, "cte_map": {"map": []}, "select_list": [column("k"), column("v")],
            "from_table": {"type": "BASE_TABLE", "table_name": table, "schema_name": "", "alias": ""},
            "where_clause": null, "group_expressions": [], "group_sets": [], "aggregate_handling": "STANDARD_HANDLING",
            "having": null, "qualify": null, "sample": null})
    }

    fn distinct() -> Value {
        let order = json!({"type": "ORDER_MODIFIER", "orders": [{"expression": column("k")}]});
        select(
            "t",
            &json!([{"type": "DISTINCT_MODIFIER", "distinct_on_targets": []}, order]),
        )
    }

    fn set(kind: &str, tables: &[&str], as_children: bool) -> Value {
        let sides: Vec<Value> = tables.iter().map(|table| select(table, &json!([]))).collect();
        let mut node = json!({"type": "SET_OPERATION_NODE", "setop_type": kind, "setop_all": false, "modifiers": [],
            "cte_map": {"map": []}, "left": null, "right": null, "children": []});
        if as_children {
            node["children"] = json!(sides);
        } else {
            node["left"] = sides[0].clone();
            node["right"] = sides[1].clone();
        }
        node
    }

    /// What DuckDB makes of a template, as far as it matters here.
    fn parsed(rows: &Rows, columns: usize) -> Value {
        let text = rows.template(columns);
        let input = |index: usize| {
            let alias = format!("{INPUT}{index}");
            assert!(text.contains(&format!("AS {alias}")), "{text}");
            json!({"type": "SUBQUERY", "alias": alias, "subquery": {"node": null}})
        };
        let from = if rows.inputs.len() == 1 {
            input(0)
        } else {
            let sides: Vec<Value> = (0..rows.inputs.len())
                .map(|index| json!({"type": "SELECT_NODE", "modifiers": [], "from_table": input(index)}))
                .collect();
            json!({"type": "SUBQUERY", "alias": INPUT, "subquery": {"node": {"children": sides}}})
        };
        let mut node = select("", &json!([]));
        node["from_table"] = from;
        node["select_list"] = match rows.operation {
            Operation::Intersect | Operation::Except => {
                json!([{"class": "CONJUNCTION"}, {"class": "FUNCTION"}])
            }
            _ => json!([{"class": "FUNCTION"}]),
        };
        node["group_expressions"] = json!([column("duckward_c0"), column("duckward_c1")]);
        node["group_sets"] = json!([[0, 1]]);
        node
    }

    fn counted(node: &Value) -> Option<(Cut, Value)> {
        let root = json!({"error": false, "statements": [{"node": node}]});
        let pointer = "/statements/0/node";
        let functions = Functions::default();
        let before = cut(&root, pointer, &functions, None).unwrap();
        let found = rows(&root, pointer, &functions)?;
        let names = ["k", "k"].map(str::to_owned);
        let made = found.counted(&root, pointer, &before, parsed(&found, 2), &names)?;
        Some((made, root))
    }

    fn tables(cut: &Cut) -> Vec<String> {
        super::super::all_tables(&cut.body).into_iter().collect()
    }

    #[test]
    fn a_distinct_is_a_grouping_of_what_it_reads_without_the_distinct() {
        let (cut, _) = counted(&distinct()).unwrap();
        let node = &cut.body["statements"][0]["node"];
        let names: Vec<&str> = list(node, "select_list")
            .iter()
            .map(|item| text(item, "alias"))
            .collect();
        assert_eq!(names, ["k", "k", "duckward_h0"], "duplicates keep their names");
        assert_eq!(node["from_table"]["subquery"]["node"]["modifiers"], json!([]));
        assert_eq!(
            (cut.rows, cut.having, cut.counted, cut.hidden),
            (Some(0), None, 1, 1)
        );
        assert_eq!(cut.modifiers.len(), 1, "the order waits");
        let source = &cut.source.unwrap()["statements"][0]["node"];
        assert_eq!(
            source["select_list"],
            json!([column("duckward_c0"), column("duckward_c1")])
        );
        assert_eq!(source["group_sets"], json!([]));
        assert_eq!(source["from_table"], node["from_table"]);
    }

    #[test]
    fn a_union_is_a_grouping_of_all_its_rows() {
        for as_children in [false, true] {
            let (cut, _) = counted(&set("UNION", &["t", "u"], as_children)).unwrap();
            let inner = &cut.body["statements"][0]["node"]["from_table"]["subquery"]["node"];
            assert_eq!(inner["setop_all"], Value::from(true));
            assert_eq!(tables(&cut), ["t", "u"]);
        }
    }

    #[test]
    fn what_is_on_which_side_waits_until_rows_are_counted() {
        for kind in ["INTERSECT", "EXCEPT"] {
            for as_children in [false, true] {
                let (cut, root) = counted(&set(kind, &["t", "u"], as_children)).unwrap();
                assert_eq!((cut.having, cut.rows, cut.hidden), (Some(0), Some(1), 2));
                assert_eq!(tables(&cut), ["t", "u"]);
                let digested = digest::values(&root, "/statements/0/node", &Functions::default(), None, &cut);
                assert_eq!(
                    digested.unwrap().last(),
                    Some(&column(LEFT)),
                    "the side is digested, too"
                );
            }
        }
    }

    fn is_same(node: &Value, kind: &str, functions: &Functions) -> bool {
        let root = json!({"statements": [{"node": node}]});
        let rows = rows(&root, "/statements/0/node", functions).unwrap();
        rows.is_same_of(&["k".to_owned()], &[kind.to_owned()], functions)
    }

    #[test]
    fn only_an_except_may_have_more_than_two_sides() {
        let functions = Functions::default();
        for (kind, same) in [("EXCEPT", true), ("INTERSECT", false)] {
            assert!(is_same(&set(kind, &["t", "u"], true), "BIGINT", &functions));
            assert_eq!(
                is_same(&set(kind, &["t", "u", "w"], true), "BIGINT", &functions),
                same
            );
        }
    }

    #[test]
    fn a_macro_called_sum_is_not_asked_for_sides() {
        let mut functions = Functions::default();
        functions.learn(&[vec![Some("sum".to_owned()), Some("macro".to_owned()), None]]);
        assert!(!is_same(&set("EXCEPT", &["t", "u"], false), "BIGINT", &functions));
        assert!(is_same(&set("UNION", &["t", "u"], false), "BIGINT", &functions));
        assert!(is_same(&distinct(), "BIGINT", &functions));
    }

    #[test]
    fn equal_values_that_differ_are_told_apart_by_an_intersect_only() {
        let functions = Functions::default();
        for (kind, same) in [
            ("DOUBLE[]", false),
            ("STRUCT(a INTERVAL)", false),
            ("BIGINT", true),
        ] {
            assert_eq!(
                is_same(&set("INTERSECT", &["t", "u"], false), kind, &functions),
                same
            );
            assert!(is_same(&set("EXCEPT", &["t", "u"], false), kind, &functions));
            assert!(is_same(&distinct(), kind, &functions));
        }
    }

    #[test]
    fn a_column_with_a_name_of_ours_is_not_named_beside_ours() {
        let root = json!({"statements": [{"node": distinct()}]});
        let functions = Functions::default();
        let rows = rows(&root, "/statements/0/node", &functions).unwrap();
        assert!(!rows.is_same_of(&["Duckward_h0".to_owned()], &[], &functions));
    }
}
