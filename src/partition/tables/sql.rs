//! The statements of a partitioning into tables. Pure.

use super::REGISTRY;
use super::template::Home;
use crate::engine::text::{quoted, quoted_name};
use crate::validate::PIECE;

/// The longest chain of a union.
const CHAINED: usize = 900;

/// The temporary table that pieces are made of.
pub(super) const STAGED: &str = "temp.main.duckward_staged";

/// The column of it that has the number of a row's piece.
pub(super) const AT: &str = "duckward_at";

/// Writes what the source has once, in the order of the pieces: so each piece is read from few blocks. `numbered` has the
/// number of each row's piece besides.
pub(super) fn stage(numbered: &str) -> String {
    format!(
        "CREATE OR REPLACE TEMP TABLE duckward_staged AS SELECT * EXCLUDE ({PIECE}), {PIECE}::INTEGER AS {AT} FROM {numbered} \
         ORDER BY {AT}"
    )
}

/// What was staged, without the numbers.
pub(super) fn staged() -> String {
    format!("(SELECT * EXCLUDE ({AT}) FROM {STAGED})")
}

/// What was staged, with the numbers as a column of another name.
pub(super) fn staged_numbered(name: &str) -> String {
    format!("(SELECT * EXCLUDE ({AT}), {AT} AS {name} FROM {STAGED})")
}

/// The pieces that have rows.
pub(super) fn pieces() -> String {
    format!("SELECT {AT}::VARCHAR FROM {STAGED} GROUP BY {AT} ORDER BY {AT}")
}

/// The table of one piece.
pub(super) fn create(table: &str, number: usize) -> String {
    format!("CREATE TABLE {table} AS SELECT * EXCLUDE ({AT}) FROM {STAGED} WHERE {AT} = {number}")
}

/// All tables as one relation, each row with the number of its table.
pub(super) fn numbered(tables: &[(usize, String)]) -> String {
    let parts: Vec<String> = tables
        .iter()
        .map(|(number, table)| format!("SELECT *, {number} AS {AT} FROM {table}"))
        .collect();
    format!("({})", union(&parts))
}

/// The rows of all tables. DuckDB 1.4 ends the stream of a union early, without an error, where its right side is a union; so
/// it is a chain, and where that would be too deep for the parser it is read whole before its first row comes.
pub(super) fn all(tables: &[String]) -> String {
    let parts: Vec<String> = tables
        .iter()
        .map(|table| format!("SELECT * FROM {table}"))
        .collect();
    if parts.len() <= CHAINED {
        return parts.join(" UNION ALL ");
    }
    format!(
        "WITH duckward_pieces AS MATERIALIZED ({}) SELECT * FROM duckward_pieces",
        union(&parts)
    )
}

/// The union of queries, halved again and again: a parser that descends into one side only would run out of stack.
pub(in crate::partition) fn union(queries: &[String]) -> String {
    match queries {
        [] => String::new(),
        [one] => one.clone(),
        many => {
            let (left, right) = many.split_at(many.len() / 2);
            format!("({}) UNION ALL ({})", union(left), union(right))
        }
    }
}

/// Where a database is, as far as names go: the current one and its schema, and all databases and schemas.
pub(super) const PLACES: [&str; 3] = [
    "SELECT current_database(), current_schema()",
    "SELECT database_name, type, readonly::VARCHAR FROM duckdb_databases() WHERE NOT internal",
    "SELECT database_name, schema_name FROM duckdb_schemas()",
];

/// The file of the database; none of one in memory.
pub(super) fn path(home: &Home) -> String {
    format!(
        "SELECT path FROM duckdb_databases() WHERE database_name = {}",
        quoted(&home.database)
    )
}

/// Bytes in that file that nothing is in. Every attached database is asked for it.
pub(super) fn unused(home: &Home) -> String {
    format!(
        "SELECT (free_blocks * block_size)::VARCHAR FROM pragma_database_size() WHERE database_name = {}",
        quoted(&home.database)
    )
}

/// The condition that a row of DuckDB's catalog is about this place.
fn here(home: &Home) -> String {
    format!(
        "database_name = {} AND schema_name = {}",
        quoted(&home.database),
        quoted(&home.schema)
    )
}

/// Names of what is in the schema; of a table its columns, of a view none: name, column and type.
pub(super) fn relations(home: &Home) -> String {
    let here = here(home);
    format!(
        "SELECT table_name, column_name, data_type FROM (SELECT t.table_name, column_name, data_type, column_index FROM \
         (SELECT table_oid, table_name FROM duckdb_tables() WHERE {here}) AS t JOIN \
         (SELECT table_oid, column_index, column_name, data_type FROM duckdb_columns() WHERE {here}) AS c USING (table_oid) \
         UNION ALL SELECT view_name, NULL, NULL, 0 FROM duckdb_views() WHERE {here}) ORDER BY table_name, column_index"
    )
}

/// The tables of the schema that have indexes.
pub(super) fn indexed(home: &Home) -> String {
    format!(
        "SELECT DISTINCT table_name FROM duckdb_indexes() WHERE {}",
        here(home)
    )
}

/// Gives a table another name.
pub(super) fn rename(home: &Home, from: &str, to: &str) -> String {
    format!("ALTER TABLE {} RENAME TO {}", home.table(from), quoted_name(to))
}

/// The manifests that are kept there, with their templates.
pub(super) fn kept(home: &Home) -> String {
    format!("SELECT template, manifest FROM {}", home.table(REGISTRY))
}

/// Keeps a manifest, in place of the one of `before`.
pub(super) fn keep(home: &Home, before: &str, manifest: &str) -> [String; 3] {
    let registry = home.table(REGISTRY);
    [
        format!(
            "CREATE TABLE IF NOT EXISTS {registry} (template VARCHAR NOT NULL, manifest VARCHAR NOT NULL)"
        ),
        format!("DELETE FROM {registry} WHERE template = {}", quoted(before)),
        format!(
            "INSERT INTO {registry} VALUES ({}, {})",
            quoted(&home.template.name),
            quoted(manifest)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::text::{Token, tokens};
    use crate::partition::tables::template::Template;

    #[test]
    fn a_union_of_many_is_not_deep() {
        let tables: Vec<(usize, String)> = (0..1000).map(|number| (number, format!("t{number}"))).collect();
        let text = numbered(&tables);
        assert_eq!(text.matches("SELECT").count(), 1000);
        let deepest = text
            .chars()
            .fold((0i32, 0i32), |(depth, most), letter| match letter {
                '(' => (depth + 1, most.max(depth + 1)),
                ')' => (depth - 1, most),
                _ => (depth, most),
            });
        assert_eq!(deepest, (0, 11));
    }

    #[test]
    fn what_people_read_is_a_chain_or_read_whole() {
        let tables: Vec<String> = (0..=CHAINED).map(|number| format!("t{number}")).collect();
        assert!(!all(&tables[1..]).contains('('));
        assert!(all(&tables).starts_with("WITH duckward_pieces AS MATERIALIZED ((("));
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_quotes(name in "[a-z\"';. -]{1,8}") {
            let home = Home {
                database: name.clone(),
                schema: name.clone(),
                template: Template { above: Vec::new(), name: format!("{name}{{piece}}") },
            };
            let mut all = vec![create(&home.table(&name), 1), relations(&home), kept(&home), indexed(&home), rename(&home, &name, &name)];
            all.extend(keep(&home, &name, &name));
            for text in all {
                // The tokens of a name with quotes in it are several.
                let outside = tokens(&text).any(|(token, range)| token != Token::Literal && &text[range] == ";");
                prop_assert!(!outside, "{text}");
            }
        }
    }
}
