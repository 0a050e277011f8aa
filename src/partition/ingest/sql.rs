//! The statements of a batch: how its records become rows, which of them cannot, and why. Pure.
//!
//! A batch is a relation with columns of our own names, so that none of the user's is in the way: `duckward_3_text` has texts
//! for the fourth column of the table. A column of records has one of these for each kind of value that came; in each row at
//! most one of them is not NULL. So what becomes of a value depends on nothing but the value, however it was batched.

use std::collections::BTreeMap;

use super::target::Table;
use crate::engine::text::{quoted, quoted_name};

/// What a batch is called on the connection that loads.
pub const BATCH: &str = "duckward_batch";
/// The column with the number of a record in its source, from 1; only where it is asked for.
pub const ROW: &str = "duckward_row";
/// The column that says why a record cannot be a row at all, and the one with its JSON then.
pub const REASON: &str = "duckward_reason";
/// See [`REASON`].
pub const RAW: &str = "duckward_raw";
/// Characters of a value that a reason quotes.
const SHOWN: usize = 100;

/// What the values of a column of a batch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Values of an Arrow stream: DuckDB knows their type.
    Arrow,
    /// Truth values.
    Bool,
    /// Whole numbers of 64 bits.
    Int,
    /// Binary fractions.
    Float,
    /// Texts, and what is exact only as a text.
    Text,
    /// Bytes.
    Blob,
    /// Days.
    Date,
    /// Times of the day.
    Time,
    /// Moments without a zone.
    Stamp,
    /// Moments with a zone.
    Moment,
    /// Lengths of time.
    Delta,
    /// Objects and lists, as JSON.
    Json,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 12] = [
        Kind::Arrow,
        Kind::Bool,
        Kind::Int,
        Kind::Float,
        Kind::Text,
        Kind::Blob,
        Kind::Date,
        Kind::Time,
        Kind::Stamp,
        Kind::Moment,
        Kind::Delta,
        Kind::Json,
    ];

    /// As names of columns end.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Arrow => "arrow",
            Kind::Bool => "bool",
            Kind::Int => "int",
            Kind::Float => "float",
            Kind::Text => "text",
            Kind::Blob => "blob",
            Kind::Date => "date",
            Kind::Time => "time",
            Kind::Stamp => "stamp",
            Kind::Moment => "moment",
            Kind::Delta => "delta",
            Kind::Json => "json",
        }
    }

    fn type_name(self) -> &'static str {
        match self {
            Kind::Arrow | Kind::Text => "VARCHAR",
            Kind::Bool => "BOOLEAN",
            Kind::Int => "BIGINT",
            Kind::Float => "DOUBLE",
            Kind::Blob => "BLOB",
            Kind::Date => "DATE",
            Kind::Time => "TIME",
            Kind::Stamp => "TIMESTAMP",
            Kind::Moment => "TIMESTAMP WITH TIME ZONE",
            Kind::Delta => "INTERVAL",
            Kind::Json => "JSON",
        }
    }
}

/// The type of a column that is made for values of these kinds.
pub fn type_of(kinds: &[Kind]) -> &'static str {
    match kinds {
        [one] => one.type_name(),
        [Kind::Int, Kind::Float] | [Kind::Float, Kind::Int] => "DOUBLE",
        _ => "VARCHAR",
    }
}

/// The name of the column of a batch with values for the table's column at `place`.
pub fn column_name(place: usize, kind: Kind) -> String {
    format!("duckward_{place}_{}", kind.name())
}

/// The name of the column that says whether a record has the table's column at `place`, of one that has a default.
pub fn presence_name(place: usize) -> String {
    format!("duckward_has_{place}")
}

/// How a batch is laid out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Places in the table, and the kinds of values there are.
    kinds: BTreeMap<usize, Vec<Kind>>,
    /// Places where not every record may have a value.
    present: Vec<usize>,
    /// Whether some records cannot be rows at all.
    pub reasons: bool,
}

impl Layout {
    /// From the names of the batch's columns.
    pub fn read<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut layout = Layout::default();
        for name in names {
            if name == REASON {
                layout.reasons = true;
            } else if let Some(place) = name.strip_prefix("duckward_has_") {
                layout.present.extend(place.parse::<usize>());
            } else if let Some((place, kind)) = name
                .strip_prefix("duckward_")
                .and_then(|rest| rest.split_once('_'))
            {
                let kind = Kind::ALL.into_iter().find(|one| one.name() == kind);
                if let (Ok(place), Some(kind)) = (place.parse(), kind) {
                    layout.kinds.entry(place).or_default().push(kind);
                }
            }
        }
        layout
    }
}

/// How failures of values are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// All records are rows; one that is not fails the statement.
    Plain,
    /// Each record is judged by casts, NOT NULL and conditions.
    Judged,
    /// By keys, too, which reads the table.
    Keyed,
}

impl Method {
    /// What is tried next.
    pub fn next(self) -> Option<Method> {
        match self {
            Method::Plain => Some(Method::Judged),
            Method::Judged => Some(Method::Keyed),
            Method::Keyed => None,
        }
    }
}

/// Whether a cast that fails inside of a value makes the part NULL, so that it must not be tried.
fn has_parts(type_name: &str) -> bool {
    type_name.ends_with(']')
        || ["STRUCT(", "MAP(", "UNION("]
            .iter()
            .any(|nested| type_name.starts_with(nested))
        || type_name == "VARIANT"
}

/// The statements of one load's batches.
#[derive(Clone, Debug)]
pub struct Statements {
    /// The table, quoted.
    pub target: String,
    /// What it is like.
    pub table: Table,
    /// The table of rejected records, quoted.
    pub rejects: Option<String>,
    /// The token.
    pub token: String,
}

impl Statements {
    /// Makes the table.
    pub fn create_target(&self) -> String {
        let columns: Vec<String> = self
            .table
            .columns
            .iter()
            .map(|column| format!("{} {}", quoted_name(&column.name), column.type_name))
            .collect();
        format!("CREATE TABLE {} ({})", self.target, columns.join(", "))
    }

    /// Makes the table of rejected records, if there is to be one.
    pub fn create_rejects(&self) -> Option<String> {
        let rejects = self.rejects.as_ref()?;
        Some(format!(
            "CREATE TABLE IF NOT EXISTS {rejects} (token VARCHAR, source_row BIGINT, reason VARCHAR, record VARCHAR)"
        ))
    }

    /// A value as the table wants it; `tried` makes it NULL where the cast fails.
    fn cast(&self, place: usize, kind: Kind, tried: bool) -> String {
        let name = column_name(place, kind);
        let type_name = &self.table.columns[place].type_name;
        let cast = if tried && !has_parts(type_name) {
            "TRY_CAST"
        } else {
            "CAST"
        };
        if kind == Kind::Json && type_name != "JSON" && type_name != "VARCHAR" {
            return format!("{cast}({name}::JSON AS {type_name})");
        }
        format!("{cast}({name} AS {type_name})")
    }

    /// What goes into the table's column at `place`.
    fn value(&self, layout: &Layout, place: usize, tried: bool) -> String {
        let column = &self.table.columns[place];
        let Some(kinds) = layout.kinds.get(&place) else {
            return column
                .default
                .clone()
                .unwrap_or_else(|| format!("NULL::{}", column.type_name));
        };
        let casts: Vec<String> = kinds
            .iter()
            .map(|kind| match kind {
                // INSERT casts as it always does, also to types that have no text.
                Kind::Json => self.cast(place, *kind, tried),
                _ if kinds.len() == 1 && !tried => column_name(place, *kind),
                _ => self.cast(place, *kind, tried),
            })
            .collect();
        let value = match casts.as_slice() {
            [one] => one.clone(),
            several => format!("coalesce({})", several.join(", ")),
        };
        match &column.default {
            Some(default) if layout.present.contains(&place) => {
                format!(
                    "CASE WHEN {} THEN {value} ELSE {default} END",
                    presence_name(place)
                )
            }
            _ => value,
        }
    }

    /// The table's columns that a batch has values for, as a list.
    fn listed(&self, layout: &Layout) -> String {
        let names: Vec<String> = layout
            .kinds
            .keys()
            .map(|place| quoted_name(&self.table.columns[*place].name))
            .collect();
        names.join(", ")
    }

    /// Inserts all records of a batch.
    pub fn plain(&self, layout: &Layout) -> String {
        let values: Vec<String> = layout
            .kinds
            .keys()
            .map(|place| self.value(layout, *place, false))
            .collect();
        format!(
            "INSERT INTO {} ({}) SELECT {} FROM {BATCH}",
            self.target,
            self.listed(layout),
            values.join(", ")
        )
    }

    /// Inserts those records that can be rows.
    pub fn good(&self, layout: &Layout, method: Method) -> String {
        let listed = self.listed(layout);
        format!(
            "INSERT INTO {} ({listed}) SELECT {listed} FROM ({}) WHERE duckward_why IS NULL ORDER BY {ROW}",
            self.target,
            self.judged(layout, method)
        )
    }

    /// Inserts the others into the table of rejected records; none where there is no such table.
    pub fn bad(&self, layout: &Layout, method: Method) -> Option<String> {
        let rejects = self.rejects.as_ref()?;
        Some(format!(
            "INSERT INTO {rejects} (token, source_row, reason, record) SELECT {}, {ROW}, duckward_why, {} FROM ({}) \
             WHERE duckward_why IS NOT NULL ORDER BY {ROW}",
            quoted(&self.token),
            self.raw(layout),
            self.judged(layout, method)
        ))
    }

    /// Inserts the one record of a batch into the table of rejected records.
    pub fn reject(&self, layout: &Layout, reason: &str) -> Option<String> {
        let rejects = self.rejects.as_ref()?;
        Some(format!(
            "INSERT INTO {rejects} (token, source_row, reason, record) SELECT {}, {ROW}, {}, {} FROM {BATCH}",
            quoted(&self.token),
            quoted(reason),
            self.raw(layout)
        ))
    }

    /// The first record that cannot be a row at all.
    pub fn first_reason() -> String {
        format!(
            "SELECT {ROW}::VARCHAR, {REASON} FROM {BATCH} WHERE {REASON} IS NOT NULL ORDER BY {ROW} LIMIT 1"
        )
    }

    /// A record as JSON.
    fn raw(&self, layout: &Layout) -> String {
        let fields: Vec<String> = layout
            .kinds
            .iter()
            .map(|(place, kinds)| {
                let values: Vec<String> = kinds
                    .iter()
                    .map(|kind| {
                        let name = column_name(*place, *kind);
                        match kind {
                            Kind::Json => format!("{name}::JSON"),
                            _ => format!("CASE WHEN {name} IS NOT NULL THEN to_json({name}) END"),
                        }
                    })
                    .collect();
                let value = match values.as_slice() {
                    [one] => one.clone(),
                    several => format!("coalesce({})", several.join(", ")),
                };
                format!("{}, {value}", quoted(&self.table.columns[*place].name))
            })
            .collect();
        let json = format!("json_object({})::VARCHAR", fields.join(", "));
        if layout.reasons {
            format!("coalesce({RAW}, {json})")
        } else {
            json
        }
    }

    /// The records with the rows that they would be, and in `duckward_why` why they cannot.
    fn judged(&self, layout: &Layout, method: Method) -> String {
        let columns: Vec<String> = (0..self.table.columns.len())
            .filter(|place| layout.kinds.contains_key(place) || self.is_judged(*place))
            .map(|place| {
                let name = quoted_name(&self.table.columns[place].name);
                format!("{} AS {name}", self.value(layout, place, true))
            })
            .collect();
        let mut why = Vec::new();
        if layout.reasons {
            why.push(REASON.to_owned());
        }
        for (place, kinds) in &layout.kinds {
            why.extend(kinds.iter().filter_map(|kind| self.no_cast(*place, *kind)));
        }
        why.extend(self.table.not_null.iter().map(|name| {
            let reason = format!("{name} is NULL, and must not be");
            format!(
                "CASE WHEN {} IS NULL THEN {} END",
                quoted_name(name),
                quoted(&reason)
            )
        }));
        why.extend(self.table.checks.iter().map(|check| {
            let reason = format!("the condition {check} is not met");
            format!("CASE WHEN NOT ({check}) THEN {} END", quoted(&reason))
        }));
        let why = if why.is_empty() {
            "NULL::VARCHAR".to_owned()
        } else {
            format!("coalesce({}, NULL)", why.join(", "))
        };
        let judged = format!(
            "SELECT *, {why} AS duckward_why FROM (SELECT *, {} FROM {BATCH})",
            columns.join(", ")
        );
        if method == Method::Keyed {
            self.keyed(judged)
        } else {
            judged
        }
    }

    /// Whether a condition or a key may be about a column that the batch does not have.
    fn is_judged(&self, place: usize) -> bool {
        let name = &self.table.columns[place].name;
        !self.table.checks.is_empty()
            || self.table.not_null.contains(name)
            || self.table.keys.iter().any(|key| key.contains(name))
    }

    /// Why a value is none of the column's type.
    fn no_cast(&self, place: usize, kind: Kind) -> Option<String> {
        let column = &self.table.columns[place];
        if has_parts(&column.type_name) {
            return None;
        }
        let name = column_name(place, kind);
        Some(format!(
            "CASE WHEN {name} IS NOT NULL AND {} IS NULL THEN {} || left({name}::VARCHAR, {SHOWN}) || {} END",
            self.cast(place, kind, true),
            quoted(&format!("{}: '", column.name)),
            quoted(&format!("' cannot be cast to {}", column.type_name))
        ))
    }

    /// The same with what keys say: of the records that are rows otherwise, those whose key is in the table, and but for the
    /// first those that have it in common.
    fn keyed(&self, judged: String) -> String {
        let mut sql = judged;
        for key in &self.table.keys {
            let names: Vec<String> = key.iter().map(|name| quoted_name(name)).collect();
            let same: Vec<String> = names
                .iter()
                .map(|name| format!("duckward_t.{name} = duckward_j.{name}"))
                .collect();
            let reason = quoted(&format!(
                "{}: a row with this key is in the table",
                key.join(", ")
            ));
            sql = format!(
                "SELECT * REPLACE (coalesce(duckward_why, CASE WHEN EXISTS (SELECT 1 FROM {} duckward_t WHERE {}) THEN {reason} \
                 END) AS duckward_why) FROM ({sql}) duckward_j",
                self.target,
                same.join(" AND ")
            );
        }
        // With several keys, which records are in each other's way depends on those that are rejected for another key.
        if let [key] = self.table.keys.as_slice() {
            let names: Vec<String> = key.iter().map(|name| quoted_name(name)).collect();
            let whole: Vec<String> = names.iter().map(|name| format!("{name} IS NOT NULL")).collect();
            let reason = quoted(&format!("{}: an earlier record has this key", key.join(", ")));
            sql = format!(
                "SELECT * REPLACE (coalesce(duckward_why, CASE WHEN {} AND row_number() OVER (PARTITION BY duckward_why IS NULL, \
                 {} ORDER BY {ROW}) > 1 THEN {reason} END) AS duckward_why) FROM ({sql})",
                whole.join(" AND "),
                names.join(", ")
            );
        }
        sql
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::Column;
    use super::*;

    fn statements() -> Statements {
        let column = |name: &str, type_name: &str, default: Option<&str>| Column {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            default: default.map(str::to_owned),
        };
        Statements {
            target: "\"main\".\"t\"".to_owned(),
            table: Table {
                columns: vec![
                    column("id", "INTEGER", None),
                    column("a \"b\"", "VARCHAR", Some("'x'")),
                    column("l", "INTEGER[]", None),
                ],
                not_null: vec!["id".to_owned()],
                checks: Vec::new(),
                keys: vec![vec!["id".to_owned()]],
            },
            rejects: Some("\"main\".\"r\"".to_owned()),
            token: "it's".to_owned(),
        }
    }

    #[test]
    fn a_layout_is_read_from_names() {
        let layout = Layout::read([
            "duckward_0_int",
            "duckward_0_text",
            "duckward_1_text",
            "duckward_has_1",
            REASON,
            RAW,
            ROW,
        ]);
        assert_eq!(layout.kinds.get(&0), Some(&vec![Kind::Int, Kind::Text]));
        assert_eq!(layout.kinds.len(), 2);
        assert_eq!(layout.present, [1]);
        assert!(layout.reasons);
        for kind in Kind::ALL {
            assert_eq!(
                Layout::read([column_name(7, kind).as_str()]).kinds.get(&7),
                Some(&vec![kind])
            );
        }
    }

    #[test]
    fn all_records_of_a_stream_are_inserted_as_they_are() {
        let layout = Layout::read(["duckward_1_arrow", "duckward_0_arrow"]);
        assert_eq!(
            statements().plain(&layout),
            "INSERT INTO \"main\".\"t\" (\"id\", \"a \"\"b\"\"\") SELECT duckward_0_arrow, duckward_1_arrow FROM duckward_batch"
        );
    }

    #[test]
    fn a_value_is_cast_by_its_own_kind_and_a_default_stands_in_for_none() {
        let layout = Layout::read([
            "duckward_0_int",
            "duckward_0_text",
            "duckward_1_text",
            "duckward_has_1",
        ]);
        let sql = statements().plain(&layout);
        assert!(
            sql.contains("coalesce(CAST(duckward_0_int AS INTEGER), CAST(duckward_0_text AS INTEGER))"),
            "{sql}"
        );
        assert!(
            sql.contains("CASE WHEN duckward_has_1 THEN duckward_1_text ELSE 'x' END"),
            "{sql}"
        );
    }

    #[test]
    fn values_with_parts_are_never_tried_because_a_part_would_become_null() {
        let layout = Layout::read(["duckward_0_json", "duckward_2_json"]);
        let sql = statements().good(&layout, Method::Judged);
        assert!(
            sql.contains("CAST(duckward_2_json::JSON AS INTEGER[]) AS \"l\""),
            "{sql}"
        );
        assert!(!sql.contains("TRY_CAST(duckward_2_json"), "{sql}");
        assert!(
            sql.contains("TRY_CAST(duckward_0_json::JSON AS INTEGER)"),
            "{sql}"
        );
    }

    #[test]
    fn keys_are_looked_up_only_when_asked_for() {
        let layout = Layout::read(["duckward_0_arrow"]);
        let bad = |method| statements().bad(&layout, method).unwrap();
        assert!(!bad(Method::Judged).contains("EXISTS"));
        assert!(bad(Method::Keyed).contains("EXISTS"));
        assert!(bad(Method::Keyed).contains("SELECT 'it''s', duckward_row"));
        let mut without = statements();
        without.rejects = None;
        assert_eq!(without.bad(&layout, Method::Judged), None);
    }

    #[test]
    fn a_column_is_made_for_what_came() {
        assert_eq!(type_of(&[Kind::Int]), "BIGINT");
        assert_eq!(type_of(&[Kind::Int, Kind::Float]), "DOUBLE");
        assert_eq!(type_of(&[Kind::Int, Kind::Text]), "VARCHAR");
        assert_eq!(type_of(&[]), "VARCHAR");
    }
}
