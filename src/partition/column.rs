//! Columns and their types, as far as cutting goes. Pure.

use crate::engine::source::Source;
use crate::engine::{Ask, described};
use crate::error::{Error, ErrorKind, Result};

/// So many columns an error names at most.
const NAMED: usize = 100;

/// What a type is to whoever cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Whole numbers up to 128 bits.
    Integer,
    /// Exact numbers.
    Decimal,
    /// Binary fractions, with NaN and infinities.
    Float,
    /// Days.
    Date,
    /// Moments, with and without a zone.
    Timestamp,
    /// Times of the day.
    Clock,
    /// Texts.
    Text,
    /// Two values.
    Boolean,
    /// The values that the type names.
    Enum,
    /// 128 bits that mean nothing.
    Uuid,
    /// Values that can be told apart, but have no distances: bytes, bits, intervals, types of extensions.
    Opaque,
    /// Values with parts.
    Nested,
}

impl Family {
    /// Of a type, as DuckDB prints it.
    pub fn of(type_name: &str) -> Self {
        if type_name.ends_with(']') {
            return Family::Nested;
        }
        match type_name.split('(').next().unwrap_or_default() {
            "TINYINT" | "SMALLINT" | "INTEGER" | "BIGINT" | "HUGEINT" | "UTINYINT" | "USMALLINT"
            | "UINTEGER" | "UBIGINT" | "UHUGEINT" => Family::Integer,
            "DECIMAL" | "BIGNUM" => Family::Decimal,
            "FLOAT" | "DOUBLE" => Family::Float,
            "DATE" => Family::Date,
            "TIMESTAMP" | "TIMESTAMP_S" | "TIMESTAMP_MS" | "TIMESTAMP_NS" | "TIMESTAMP WITH TIME ZONE" => {
                Family::Timestamp
            }
            "TIME" | "TIME_NS" | "TIME WITH TIME ZONE" => Family::Clock,
            "VARCHAR" => Family::Text,
            "BOOLEAN" => Family::Boolean,
            "ENUM" => Family::Enum,
            "UUID" => Family::Uuid,
            "STRUCT" | "MAP" | "UNION" | "JSON" | "VARIANT" | "GEOMETRY" => Family::Nested,
            _ => Family::Opaque,
        }
    }

    /// Whether there are values that are infinite.
    pub fn may_be_infinite(self) -> bool {
        matches!(self, Family::Float | Family::Date | Family::Timestamp)
    }
}

/// A column as DESCRIBE tells of it.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name, as the table spells it.
    pub name: String,
    /// Its type, as DuckDB prints it.
    pub type_name: String,
    /// What that is to whoever cuts.
    pub family: Family,
}

impl Column {
    /// A column of that name and type.
    pub fn new(name: String, type_name: String) -> Self {
        Column {
            family: Family::of(&type_name),
            name,
            type_name,
        }
    }
}

/// The columns of what can be selected from.
///
/// # Errors
/// Those of whoever is asked.
pub fn columns<E>(ask: &mut dyn Ask<E>, relation: &str) -> Result<Vec<Column>, E> {
    let found = described(ask, relation)?.into_iter();
    Ok(found.map(|(name, kind)| Column::new(name, kind)).collect())
}

/// Name and type of each.
pub(super) fn named(columns: Vec<Column>) -> Vec<(String, String)> {
    columns
        .into_iter()
        .map(|column| (column.name, column.type_name))
        .collect()
}

/// Refuses a source that has columns by whose names rows are told apart while they are written.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), with the first of them.
pub(super) fn check_names(source: &Source, columns: &[Column]) -> Result<()> {
    let ours = |column: &&Column| column.name.to_ascii_lowercase().starts_with("duckward_");
    let Some(column) = columns.iter().find(ours) else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Invalid,
        format!(
            "{} has a column {}, and names that begin with duckward_ tell pieces apart; rename it in a query",
            source.name, column.name
        ),
    ))
}

/// The error of a column that `source` does not have; `setting` is what named it.
pub fn unknown(source: &Source, setting: &str, name: &str, columns: &[Column]) -> Error {
    let mut names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let mut accepted = format!("{} has the columns {}", source.name, names.join(", "));
    if more > 0 {
        accepted.push_str(&format!(" and {more} more"));
    }
    Error::invalid(setting, format_args!("{name:?}"), &accepted)
}
