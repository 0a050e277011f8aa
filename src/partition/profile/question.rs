//! What is asked of a table to know its columns, and how the answer is read. Pure.
//!
//! Everything is an aggregate of fixed size: the most frequent values are those of `approx_top_k`, which is exact while
//! there are fewer values than places. How often each occurs, it does not say; so rows are counted by a hash of the
//! value, too. A value that is alone in its bucket has exactly that many rows, and no value has more than its bucket.

use super::{Conversion, Frequent, Profile, advice};
use crate::engine::Rows;
use crate::engine::source::Source;
use crate::partition::column::{Column, Family};

/// Up to so many values are known one by one.
pub(super) const FEW: u64 = 100;
/// Buckets that rows are counted in.
const BUCKETS: u32 = 1024;
/// Examples of values that do not convert.
const EXAMPLES: usize = 5;

/// A conversion that is asked for. `altered` says of `value`, converted as `cast`, whether it says something else then.
struct Target {
    to: &'static str,
    altered: fn(value: &str, cast: &str) -> String,
}

/// The types that a text is tried as, in the order in which they are proposed.
const TARGETS: [Target; 5] = [
    Target {
        to: "BIGINT",
        altered: |value, cast| format!("{cast}::VARCHAR <> trim({value})"),
    },
    Target {
        to: "DOUBLE",
        // A leading zero, or more digits than a DOUBLE keeps.
        altered: |value, cast| {
            format!(
                "{cast}::VARCHAR <> trim({value}) \
                 AND regexp_matches({value}, '^\\s*[-+]?0[0-9]|([0-9][._]?){{16}}')"
            )
        },
    },
    Target {
        to: "DATE",
        // A time of the day.
        altered: |value, cast| format!("TRY_CAST({value} AS TIMESTAMP) <> TRY_CAST({cast} AS TIMESTAMP)"),
    },
    Target {
        to: "TIMESTAMP",
        // An offset, or nanoseconds.
        altered: |value, _| format!("regexp_matches({value}, ':[0-9.]+\\s*[-+][0-9]|[.][0-9]{{7}}')"),
    },
    Target {
        to: "BOOLEAN",
        altered: |_, _| "false".to_owned(),
    },
];

fn bucket(family: Family, value: &str) -> String {
    // Of a text with a collation some versions hash what the collation makes of it.
    let bytes = if family == Family::Text {
        format!("encode({value})")
    } else {
        value.to_owned()
    };
    format!("(hash({bytes}) % {BUCKETS})::USMALLINT")
}

/// The one statement that asks for everything. Columns go by their places, so that no name can be in the way.
pub(super) fn figures(source: &Source, columns: &[Column], wanted: &[usize]) -> String {
    let mut inner = vec!["count(*) AS n".to_owned()];
    let mut outer = vec!["n::VARCHAR".to_owned()];
    for index in wanted {
        let (aggregates, fields) = of_column(columns[*index].family, *index);
        inner.extend(aggregates);
        outer.extend(fields);
    }
    let names: Vec<String> = (0..columns.len()).map(|index| format!("c{index}")).collect();
    format!(
        "SELECT {} FROM (SELECT {} FROM {} AS s({}))",
        outer.join(", "),
        inner.join(", "),
        source.relation,
        names.join(", ")
    )
}

/// The aggregates of one column, and what is told of them, in the order in which [`read`] reads it.
fn of_column(family: Family, i: usize) -> (Vec<String>, Vec<String>) {
    let c = format!("s.c{i}");
    let finite = if family.may_be_infinite() {
        format!(" FILTER (WHERE isfinite({c}))")
    } else {
        String::new()
    };
    let mut aggregates = vec![
        format!("count({c}) AS n{i}"),
        format!("min({c}){finite} AS low{i}"),
        format!("max({c}){finite} AS high{i}"),
        format!("approx_count_distinct({c}) AS many{i}"),
        format!("approx_top_k({c}, {}) AS top{i}", FEW + 1),
        format!(
            "histogram({}) FILTER (WHERE {c} IS NOT NULL) AS rows{i}",
            bucket(family, &c)
        ),
    ];
    let nothing = || "NULL".to_owned();
    let mut counted = |wanted: bool, aggregate: String, name: &str| {
        if !wanted {
            return nothing();
        }
        aggregates.push(format!("{aggregate} AS {name}{i}"));
        format!("{name}{i}::VARCHAR")
    };
    let nan = counted(
        family == Family::Float,
        format!("count(*) FILTER (WHERE isnan({c}))"),
        "nan",
    );
    let infinite = counted(
        family.may_be_infinite(),
        format!("count(*) FILTER (WHERE isinf({c}))"),
        "infinite",
    );
    // There are no more of them than the type names.
    let exact = counted(
        family == Family::Enum,
        format!("cardinality(histogram({c}))"),
        "exact",
    );
    let first = bucket(family, &format!("top{i}[1]"));
    let mut fields = vec![
        format!("n{i}::VARCHAR"),
        format!("low{i}::VARCHAR"),
        format!("high{i}::VARCHAR"),
        seconds(family, &format!("low{i}")).unwrap_or_else(nothing),
        seconds(family, &format!("high{i}")).unwrap_or_else(nothing),
        nan,
        infinite,
        format!("many{i}::VARCHAR"),
        exact,
        format!("len(top{i})::VARCHAR"),
        format!("top{i}[1]::VARCHAR"),
        format!("rows{i}[{first}]::VARCHAR"),
        format!(
            "len([x FOR x IN top{i} IF {} = {first}])::VARCHAR",
            bucket(family, "x")
        ),
    ];
    if family == Family::Text {
        for (target, Target { to, altered }) in TARGETS.iter().enumerate() {
            let mut cast = format!("TRY_CAST({c} AS {to})");
            let altered = altered(&c, &cast);
            if *to == "TIMESTAMP" {
                // What is no date is no timestamp, and to fail is what takes long.
                cast = format!("CASE WHEN TRY_CAST({c} AS DATE) IS NOT NULL THEN {cast} END");
            }
            let (yes, other, least) = (
                format!("yes{i}_{target}"),
                format!("other{i}_{target}"),
                format!("least{i}_{target}"),
            );
            aggregates.extend([
                format!("count({cast}) AS {yes}"),
                format!("count(*) FILTER (WHERE CASE WHEN {cast} IS NOT NULL THEN {altered} END) AS {other}"),
                format!("min({c}, {EXAMPLES}) FILTER (WHERE {cast} IS NULL AND {c} IS NOT NULL) AS {least}"),
            ]);
            let frequent = format!("[x FOR x IN top{i} IF TRY_CAST(x AS {to}) IS NULL][1:{EXAMPLES}]");
            fields.extend([
                format!("{yes}::VARCHAR"),
                format!("{other}::VARCHAR"),
                list(&frequent),
                list(&least),
            ]);
        }
    }
    (aggregates, fields)
}

/// Seconds since 1970 of a moment, where it has any.
fn seconds(family: Family, value: &str) -> Option<String> {
    let moment = match family {
        // A date has more years than a timestamp.
        Family::Date => value.to_owned(),
        Family::Timestamp => format!("TRY_CAST({value} AS TIMESTAMP)"),
        _ => return None,
    };
    Some(format!("TRY(floor(epoch({moment}))::BIGINT)::VARCHAR"))
}

/// A list of texts as one text: a line for each, in which backslash and line feed are spelled out.
fn list(texts: &str) -> String {
    format!(
        "array_to_string([replace(replace(x, '\\', '\\\\'), chr(10), '\\n') || chr(10) FOR x IN {texts}], '')"
    )
}

fn read_list(text: Option<String>) -> Vec<String> {
    let text = text.unwrap_or_default();
    text.split_terminator('\n').map(read_line).collect()
}

fn read_line(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.next() == Some('n') => text.push('\n'),
            '\\' => text.push('\\'),
            c => text.push(c),
        }
    }
    text
}

/// The profiles that the one row of [`figures`] holds; none if it is not such a row.
pub(super) fn read<'a>(columns: impl Iterator<Item = &'a Column>, rows: Rows) -> Option<Vec<Profile>> {
    let mut fields = rows.into_iter().next()?.into_iter();
    let rows = fields.next()??.parse().ok()?;
    columns
        .map(|column| read_column(column, rows, &mut fields))
        .collect()
}

fn read_column(
    column: &Column,
    rows: u64,
    fields: &mut dyn Iterator<Item = Option<String>>,
) -> Option<Profile> {
    let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
    let values = number(fields.next()?)?;
    let (minimum, maximum) = (fields.next()?, fields.next()?);
    let mut second = || {
        fields
            .next()
            .map(|text| text.and_then(|text| text.parse::<i64>().ok()))
    };
    let span = second()?.zip(second()?);
    let (nan, infinite) = (number(fields.next()?), number(fields.next()?));
    let (approximate, exact) = (number(fields.next()?)?, number(fields.next()?));
    let known = number(fields.next()?).unwrap_or(0);
    let few = known <= FEW;
    let (value, in_bucket, sharing) = (fields.next()?, number(fields.next()?), number(fields.next()?));
    let most_frequent = value.map(|value| Frequent {
        value,
        share: in_bucket.unwrap_or(values) as f64 / rows as f64,
        exact: few && in_bucket.is_some() && sharing == Some(1),
    });
    let mut conversions = Vec::new();
    if column.family == Family::Text {
        for target in &TARGETS {
            let (converts, altered) = (number(fields.next()?)?, number(fields.next()?)?);
            let mut examples = read_list(fields.next()?);
            for example in read_list(fields.next()?) {
                if examples.len() < EXAMPLES && !examples.contains(&example) {
                    examples.push(example);
                }
            }
            conversions.push(Conversion {
                to: target.to.to_owned(),
                converts,
                altered,
                fails: values.checked_sub(converts)?,
                examples,
            });
        }
    }
    let mut profile = Profile {
        name: column.name.clone(),
        type_name: column.type_name.clone(),
        rows,
        nulls: rows.checked_sub(values)?,
        minimum,
        maximum,
        nan: nan.unwrap_or(0),
        infinite: infinite.unwrap_or(0),
        // An estimate may say what cannot be.
        distinct: match exact {
            Some(exact) => exact,
            None if few => known,
            None => approximate.clamp(FEW + 1, values.max(FEW + 1)),
        },
        distinct_exact: few || exact.is_some(),
        most_frequent,
        conversions,
        kinds: Vec::new(),
        cut: None,
        step: None,
        pieces: None,
        advice: String::new(),
    };
    advice::advise(&mut profile, column.family, span);
    Some(profile)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn columns(types: &[&str]) -> Vec<Column> {
        types
            .iter()
            .map(|kind| Column::new("x\"; drop table t --".to_owned(), (*kind).to_owned()))
            .collect()
    }

    #[test]
    fn types_are_known_by_what_duckdb_prints() {
        for (name, family) in [
            ("HUGEINT", Family::Integer),
            ("DECIMAL(18,3)", Family::Decimal),
            ("TIMESTAMP WITH TIME ZONE", Family::Timestamp),
            ("ENUM('a]', 'b')", Family::Enum),
            ("ENUM('a')[]", Family::Nested),
            ("DOUBLE[3]", Family::Nested),
            ("STRUCT(a DATE)", Family::Nested),
            ("UNION(a DATE, b INTEGER)", Family::Nested),
            ("INTERVAL", Family::Opaque),
            ("INET", Family::Opaque),
        ] {
            assert_eq!(Family::of(name), family, "{name}");
        }
    }

    #[test]
    fn no_name_gets_into_the_question() {
        let source = Source::parse("t").unwrap();
        let sql = figures(&source, &columns(&["VARCHAR", "DOUBLE", "DATE"]), &[0, 1, 2]);
        assert!(!sql.contains("drop"), "{sql}");
        assert_eq!(sql.matches("\"t\"").count(), 1, "one pass over the rows");
        assert!(sql.ends_with("FROM \"t\" AS s(c0, c1, c2))"), "{sql}");
    }

    fn row(fields: &[&str]) -> Rows {
        let field = |text: &&str| (*text != "-").then(|| (*text).to_owned());
        vec![fields.iter().map(field).collect()]
    }

    #[test]
    fn an_estimate_never_says_what_cannot_be() {
        // Rows; values, least, largest, seconds of both, NaN, infinite, distinct, exact, known, top, its bucket, sharing.
        for (estimate, known, expected) in [("1300", "101", 1000), ("7", "101", 101), ("90", "80", 80)] {
            let fields = [
                "1000", "1000", "0", "9", "-", "-", "-", "-", estimate, "-", known, "5", "40", "1",
            ];
            let found = read(columns(&["INTEGER"]).iter(), row(&fields)).unwrap();
            assert_eq!(found[0].distinct, expected);
            assert_eq!(found[0].distinct_exact, known == "80");
        }
    }

    #[test]
    fn a_share_is_exact_only_where_the_value_is_alone_in_its_bucket() {
        for (known, bucket, sharing, exact, share) in [
            ("80", "40", "1", true, 0.04),
            ("80", "40", "2", false, 0.04),
            ("101", "40", "1", false, 0.04),
            // A hash that is another one the next time says nothing.
            ("80", "-", "1", false, 0.5),
        ] {
            let fields = [
                "1000", "500", "0", "9", "-", "-", "-", "-", "90", "-", known, "5", bucket, sharing,
            ];
            let found = read(columns(&["INTEGER"]).iter(), row(&fields)).unwrap();
            let top = found[0].most_frequent.clone().unwrap();
            assert_eq!((top.exact, top.share), (exact, share));
        }
    }

    #[test]
    fn examples_are_the_frequent_ones_then_the_least_and_no_more_than_five() {
        let mut fields = vec![
            "9", "9", "a", "z", "-", "-", "-", "-", "9", "-", "9", "b", "1", "1",
        ];
        for _ in &TARGETS {
            fields.extend(["2", "0", "b\nz\\n\na\\\\n\n", "a\nb\nc\nd\ne\n"]);
        }
        let found = read(columns(&["VARCHAR"]).iter(), row(&fields)).unwrap();
        let [first, ..] = &found[0].conversions[..] else {
            panic!("none")
        };
        assert_eq!((first.converts, first.fails), (2, 7));
        assert_eq!(first.examples, ["b", "z\n", "a\\n", "a", "c"]);
    }

    proptest! {
        #[test]
        fn a_list_of_texts_comes_back_as_it_was(texts in prop::collection::vec("[a\\\\\nnü]{0,6}", 0..6)) {
            // What `list` has DuckDB do.
            let line = |text: &String| text.replace('\\', "\\\\").replace('\n', "\\n") + "\n";
            let sent: String = texts.iter().map(line).collect();
            prop_assert_eq!(read_list(Some(sent)), texts);
        }

        #[test]
        fn no_answer_makes_the_reading_panic(
            fields in prop::collection::vec(prop::option::of("[0-9]{1,3}|[a\\\\\n]{0,3}"), 0..80), kind in 0usize..4,
        ) {
            let columns = columns(&[["VARCHAR", "DOUBLE", "DATE", "BLOB"][kind]]);
            if let Some(found) = read(columns.iter(), vec![fields]) {
                prop_assert!(found.iter().all(|profile| profile.nulls <= profile.rows));
            }
        }
    }
}
