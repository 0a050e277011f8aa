//! The plan of a statement, as DuckDB's EXPLAIN gives it in JSON: what it says of memory before anything runs. Pure.

use serde_json::Value;

use super::decompose::functions::State;
use crate::units::Bytes;

/// A plan.
#[derive(Clone, Debug)]
pub struct Plan(Value);

impl Plan {
    /// Reads what `EXPLAIN (FORMAT JSON)` printed.
    pub fn read(json: &str) -> Option<Self> {
        match serde_json::from_str(json).ok()? {
            Value::Array(mut plans) if plans.len() == 1 => plans.pop().map(Plan),
            plan @ Value::Object(_) => Some(Plan(plan)),
            _ => None,
        }
    }

    /// How far a filter that has `mark` in it was moved down.
    pub fn reach(&self, mark: &str) -> Reach {
        reach(&self.0, mark, &mut Vec::new()).unwrap_or(Reach::All)
    }

    /// The sum of the rows that all operators are estimated to give: what running it costs, roughly.
    pub fn cost(&self) -> f64 {
        sum(&self.0)
    }

    /// The groups of the topmost aggregate, as estimated.
    pub fn groups(&self) -> Option<f64> {
        find(&self.0, &|node| {
            name(node).contains("GROUP_BY").then(|| cardinality(node))
        })
    }

    /// The rows that go into the topmost aggregate that keeps what it takes, and the groups it makes of them.
    pub fn into_aggregate(&self, named: &[String]) -> Option<(f64, f64)> {
        find(&self.0, &|node| {
            let aggregates = node["extra_info"]["Aggregates"].to_string().to_ascii_lowercase();
            let keeps = (name(node).contains("GROUP_BY") || name(node).contains("AGGREGATE"))
                && named
                    .iter()
                    .any(|function| aggregates.contains(&format!("{function}(")));
            keeps.then(|| {
                let rows = node["children"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(cardinality)
                    .fold(0.0, f64::max);
                (rows, cardinality(node))
            })
        })
    }

    /// The rows that go into the topmost operator that has to see all its input, and the groups it makes of them.
    pub fn into_topmost(&self) -> Option<(f64, f64)> {
        find(&self.0, &|node| {
            ["GROUP_BY", "AGGREGATE", "WINDOW", "UNION"]
                .iter()
                .any(|kind| name(node).contains(kind))
                .then(|| (below(node), cardinality(node)))
        })
    }

    /// Bytes that its aggregates by key keep at most, by the largest of all estimates; none where nothing is estimated. What
    /// this is little for needs no closer look.
    pub fn at_most(&self) -> Option<Bytes> {
        let mut rows: f64 = 0.0;
        let mut aggregates = 0;
        visit(&self.0, &mut |node| {
            rows = rows.max(cardinality(node));
            if !is_without_key(node) {
                let texts = texts(&node["extra_info"]["Aggregates"]);
                aggregates += texts.iter().filter(|text| !keeps_one_value(text)).count();
            }
        });
        if aggregates == 0 {
            return Some(Bytes(0));
        }
        let most = |state| {
            let keeps = vec![Keeps { state, width: WIDEST }; aggregates];
            state_bytes(&keeps, rows, rows)
        };
        (rows > 0.0).then(|| State::ALL.map(most).into_iter().max().unwrap_or_default())
    }

    /// The rows it gives: of the topmost operator for which that is estimated.
    pub fn rows(&self) -> Option<f64> {
        find(&self.0, &|node| {
            Some(cardinality(node)).filter(|rows| *rows > 0.0)
        })
    }
}

/// How far a filter was moved down in a plan with operators that have to see all their input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It stayed above one of them.
    Above,
    /// It is below some, and others see everything: DuckDB 2.0 computes some aggregates on a branch of their own.
    Some,
    /// It is below all.
    All,
}

/// The same for the topmost of them at and below `node`; none where there is none. `filtered` are the common table
/// expressions so far whose rows went through the filter.
fn reach<'a>(node: &'a Value, mark: &str, filtered: &mut Vec<&'a Value>) -> Option<Reach> {
    let kind = name(node);
    let info = &node["extra_info"];
    let children = node["children"].as_array().into_iter().flatten();
    if kind.contains("EMPTY") {
        // What is filtered was a constant.
        return Some(Reach::Above);
    }
    if ["GROUP_BY", "AGGREGATE", "WINDOW", "UNION"]
        .iter()
        .any(|whole| kind.contains(whole))
    {
        let below = children.into_iter().any(|child| sees(child, mark, filtered));
        return Some(if below { Reach::All } else { Reach::Some });
    }
    if kind.contains("FILTER") && info.to_string().contains(mark) {
        return Some(Reach::Above);
    }
    let is_cte = kind == "CTE";
    let mut found: Option<Reach> = None;
    for (index, child) in children.enumerate() {
        if is_cte && index == 0 && sees(child, mark, filtered) {
            filtered.push(&info["Table Index"]);
            continue;
        }
        found = match (found, reach(child, mark, filtered)) {
            (one, None) => one,
            (None, other) => other,
            (Some(Reach::Above), _) | (_, Some(Reach::Above)) => Some(Reach::Above),
            (Some(Reach::All), Some(Reach::All)) => Some(Reach::All),
            _ => Some(Reach::Some),
        };
    }
    found
}

/// Whether the rows of an operator went through the filter.
fn sees(node: &Value, mark: &str, filtered: &[&Value]) -> bool {
    let info = &node["extra_info"];
    info.to_string().contains(mark)
        || (name(node) == "CTE_SCAN" && filtered.contains(&&info["CTE Index"]))
        || node["children"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|child| sees(child, mark, filtered))
}

/// The lines of an entry of a plan, which is a list, or one text.
fn texts(entry: &Value) -> Vec<&str> {
    match entry {
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => one.lines().filter(|line| !line.trim().is_empty()).collect(),
        _ => vec![],
    }
}

/// Whether an aggregate has one group: what that keeps is computed otherwise, and never foreseen.
fn is_without_key(node: &Value) -> bool {
    let groups = &node["extra_info"]["Groups"];
    name(node) == "UNGROUPED_AGGREGATE" || (!groups.is_null() && texts(groups).is_empty())
}

/// Aggregates that keep one value, or a few numbers, when they have one argument.
const ONE_VALUE: [&str; 27] = [
    "any_value",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "count",
    "count_if",
    "count_star",
    "countif",
    "favg",
    "first",
    "fsum",
    "kahan_sum",
    "last",
    "max",
    "mean",
    "min",
    "product",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "sum",
    "sum_no_overflow",
    "var_pop",
    "var_samp",
];

/// Whether an aggregate of a plan (`sum(#1) FILTER (WHERE #2)`) is one of those. Anything unclear says no.
fn keeps_one_value(text: &str) -> bool {
    let Some((name, rest)) = text.split_once('(') else {
        return false;
    };
    let Some((arguments, _)) = rest.split_once(')') else {
        return false;
    };
    let name = name.trim().trim_matches('"').to_ascii_lowercase();
    // Several arguments, DISTINCT and ORDER BY are more than a reference to a column.
    let is_reference = arguments
        .strip_prefix('#')
        .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    (is_reference || arguments.is_empty()) && ONE_VALUE.contains(&name.as_str())
}

/// The rows that go into an operator: DuckDB estimates those of each side.
fn below(node: &Value) -> f64 {
    node["children"]
        .as_array()
        .into_iter()
        .flatten()
        .map(cardinality)
        .sum()
}

fn name(node: &Value) -> String {
    node["name"].as_str().unwrap_or("").trim().to_ascii_uppercase()
}

fn cardinality(node: &Value) -> f64 {
    node["extra_info"]["Estimated Cardinality"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.0)
}

fn sum(node: &Value) -> f64 {
    cardinality(node)
        + node["children"]
            .as_array()
            .into_iter()
            .flatten()
            .map(sum)
            .sum::<f64>()
}

fn visit(node: &Value, look: &mut dyn FnMut(&Value)) {
    look(node);
    for child in node["children"].as_array().into_iter().flatten() {
        visit(child, look);
    }
}

fn find<T>(node: &Value, wanted: &dyn Fn(&Value) -> Option<T>) -> Option<T> {
    wanted(node).or_else(|| {
        node["children"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|child| find(child, wanted))
    })
}

/// Bytes of the values that an aggregate takes from a row, where they are not looked at: four of unknown length.
const WIDEST: f64 = 128.0;

/// What one aggregate keeps: how, and the bytes of the values it takes from a row.
#[derive(Clone, Copy, Debug)]
pub struct Keeps {
    /// How it grows.
    pub state: State,
    /// Bytes of the values, a row's.
    pub width: f64,
}

/// Bytes that aggregates keep for `rows` rows in `groups` groups: measured with DuckDB 2.0 on groups of one, twenty and
/// two hundred thousand rows, and on the safe side.
pub fn state_bytes(keeps: &[Keeps], rows: f64, groups: f64) -> Bytes {
    let of_rows = |keeps: &Keeps| match keeps.state {
        State::Values => rows * 3.0 * keeps.width,
        State::Text => rows * 4.5 * keeps.width,
        State::Distinct => rows * (32.0 + 2.0 * keeps.width),
        State::Counts => rows * (90.0 + 4.0 * keeps.width),
        // Of a large group few rows are ever among the best.
        State::Best => rows.min(25.0 * groups) * (80.0 + keeps.width),
        State::Sketch => groups * 4096.0,
    };
    let bytes = keeps
        .iter()
        .map(|keeps| of_rows(keeps) + groups * 300.0)
        .sum::<f64>()
        + groups * 32.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate; saturates"
    )]
    Bytes(bytes as u64)
}

/// The share of DuckDB's limit that one piece is meant to fill: the estimate may be off, and a piece that does not fit
/// takes long to fail.
const FILL: f64 = 0.45;
/// The most pieces that are begun with.
const MOST: usize = 1024;

/// Into how many pieces a query is cut whose aggregates keep `bytes`.
pub fn pieces(bytes: Bytes, limit: Bytes) -> usize {
    let room = limit.times(FILL).get().max(1);
    usize::try_from(bytes.get().div_ceil(room))
        .unwrap_or(MOST)
        .clamp(1, MOST)
}

/// Whether aggregates that keep `bytes` are not even tried as they are.
pub fn is_too_much(bytes: Bytes, limit: Bytes) -> bool {
    bytes > limit
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn node(name: &str, info: Value, children: Vec<Value>) -> Value {
        json!({"name": name, "extra_info": info, "children": children})
    }

    fn plan(above: bool) -> Plan {
        let filter = |below| {
            node(
                "FILTER",
                json!({"Expression": "(hash(k) BETWEEN 1 AND 2)", "Estimated Cardinality": "4"}),
                vec![below],
            )
        };
        let scan = node("SEQ_SCAN ", json!({"Estimated Cardinality": "20"}), vec![]);
        let group = |below| {
            node(
                "HASH_GROUP_BY",
                json!({"Aggregates": ["median(#1)"], "Estimated Cardinality": "10"}),
                vec![below],
            )
        };
        let top = if above {
            filter(group(scan))
        } else {
            group(filter(scan))
        };
        Plan::read(&json!([node("PROJECTION", json!({}), vec![top])]).to_string()).unwrap()
    }

    #[test]
    fn a_filter_above_the_aggregate_is_told_from_one_below() {
        assert_eq!(plan(true).reach("hash("), Reach::Above);
        assert_eq!(plan(false).reach("hash("), Reach::All);
        assert_eq!(plan(true).reach("other("), Reach::Some);
        let of = |sides: [bool; 2]| {
            let sides = sides.map(|above| plan(above).0);
            Plan(node(
                "CTE",
                json!({}),
                vec![
                    node("SEQ_SCAN ", json!({}), vec![]),
                    node("HASH_JOIN", json!({}), sides.into()),
                ],
            ))
        };
        assert_eq!(of([false, false]).reach("hash("), Reach::All);
        assert_eq!(of([false, true]).reach("hash("), Reach::Above);
        let mut one = of([false, false]);
        one.0["children"][1]["children"][1]["children"][0]["children"][0] =
            node("CTE_SCAN", json!({}), vec![]);
        assert_eq!(one.reach("hash("), Reach::Some);
        let scan = |index| node("CTE_SCAN", json!({"CTE Index": index}), vec![]);
        one.0["extra_info"]["Table Index"] = json!("17");
        one.0["children"][0]["extra_info"]["Filters"] = json!("hash(k) BETWEEN 1 AND 2");
        for (index, expected) in [("17", Reach::All), ("3", Reach::Some)] {
            one.0["children"][1]["children"][1]["children"][0]["children"][0] = scan(index);
            assert_eq!(one.reach("hash("), expected);
        }
        assert_eq!(
            Plan(node("EMPTY_RESULT", json!({}), vec![])).reach("hash("),
            Reach::Above
        );
        assert_eq!(
            Plan(node("SEQ_SCAN", json!({}), vec![])).reach("hash("),
            Reach::All
        );
    }

    #[test]
    fn rows_groups_and_cost_are_read() {
        let plan = plan(false);
        assert_eq!(plan.groups(), Some(10.0));
        assert_eq!(plan.into_aggregate(&["median".to_owned()]), Some((4.0, 10.0)));
        assert_eq!(plan.into_aggregate(&["mode".to_owned()]), None);
        assert_eq!(plan.into_topmost(), Some((4.0, 10.0)));
        assert_eq!(plan.rows(), Some(10.0), "the projection above is not estimated");
        assert!((plan.cost() - 34.0).abs() < 1e-9);
        assert!(plan.at_most() > Some(Bytes(20 * 500)));
        assert!(Plan::read("not json").is_none());
    }

    #[test]
    fn what_keeps_little_needs_no_closer_look() {
        let of = |kind: &str, groups: Value, aggregates: Value| {
            let scan = node("SEQ_SCAN", json!({"Estimated Cardinality": "1000000"}), vec![]);
            let info = json!({"Groups": groups, "Aggregates": aggregates});
            Plan(node(kind, info, vec![scan])).at_most() == Some(Bytes(0))
        };
        let group = |aggregates| of("HASH_GROUP_BY", json!(["#0", "#1"]), aggregates);
        assert!(group(json!([
            "sum(#1) FILTER (WHERE #5) Filter: #5",
            "count_star()",
            "\"first\"(#2)"
        ])));
        assert!(group(json!("")), "DISTINCT");
        assert!(group(json!("sum_no_overflow(#1)\navg(#2)")), "as text");
        for keeps in [
            "median(#1)",
            "max(#1, #2)",
            "count(DISTINCT #1)",
            "first(#1 ORDER BY #2)",
            "sum",
            "(#1)",
            "my(#1)",
        ] {
            assert!(!group(json!(["count_star()", keeps])), "{keeps}");
            assert!(of("UNGROUPED_AGGREGATE", Value::Null, json!(keeps)), "{keeps}");
            assert!(of("HASH_GROUP_BY", json!(""), json!(keeps)), "{keeps}");
            assert!(!of("PARTITIONED_AGGREGATE", Value::Null, json!(keeps)), "{keeps}");
        }
        let unknown = node(
            "HASH_GROUP_BY",
            json!({"Groups": "#0", "Aggregates": "median(#1)"}),
            vec![],
        );
        assert_eq!(Plan(unknown).at_most(), None);
        assert_eq!(
            Plan(node("SEQ_SCAN", json!({}), vec![])).at_most(),
            Some(Bytes(0))
        );
    }

    proptest! {
        #[test]
        fn what_is_kept_at_most_is_no_less_than_what_is_kept(
            rows in 1.0..1e10f64, share in 0.0..1.0f64, width in 0.0..WIDEST, states in prop::collection::vec(0..State::ALL.len(), 1..4)
        ) {
            let aggregates: Vec<String> = states.iter().map(|state| format!("f{state}(#1)")).collect();
            let scan = node("SEQ_SCAN", json!({"Estimated Cardinality": format!("{rows:.0}")}), vec![]);
            let group = node("HASH_GROUP_BY", json!({"Aggregates": aggregates}), vec![scan]);
            let keeps: Vec<Keeps> = states.iter().map(|state| Keeps { state: State::ALL[*state], width }).collect();
            let kept = state_bytes(&keeps, rows.floor(), (rows * share).floor());
            prop_assert!(Plan(group).at_most().unwrap() >= kept);
        }

        #[test]
        fn more_rows_never_mean_fewer_pieces(rows in 0.0..1e12f64, more in 0.0..1e12f64, width in 0.0..1e4f64, limit in 1u64..1 << 40) {
            let keeps = [Keeps { state: State::Values, width }];
            let limit = Bytes(limit);
            let few = pieces(state_bytes(&keeps, rows, 1.0), limit);
            let many = pieces(state_bytes(&keeps, rows + more, 1.0), limit);
            prop_assert!(few >= 1 && few <= many && many <= MOST);
        }
    }
}
