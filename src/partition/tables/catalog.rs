//! What is in the schema that the tables go to: which of them are ours, and what stands in the way.

use std::collections::{BTreeMap, BTreeSet};

use super::template::{Home, Template};
use super::{Named, REGISTRY, sql};
use crate::engine::{Ask, Rows};
use crate::error::{Error, ErrorKind, Result};
use crate::partition::lake::Manifest;
use crate::validate::{Finding, FindingKind};

/// Names that an error lists.
const NAMED: usize = 20;

/// The tables and views of a schema, and what is kept of partitionings there.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// By names in small letters: the name, and the columns of a table; of a view none.
    relations: BTreeMap<String, (String, Vec<Named>)>,
    /// Template and manifest.
    kept: Vec<(String, String)>,
}

/// The database and the schema that a template means, and whether the schema is still to be made.
///
/// # Errors
/// [`ErrorKind::Invalid`] where there is no such database, or none that can be written; those of whoever answers.
pub(super) fn home<E: From<Error>>(ask: &mut dyn Ask<E>, template: &Template) -> Result<(Home, bool), E> {
    let [current, databases, schemas] = sql::PLACES;
    let (current, databases, schemas) = (ask.ask(current)?, ask.ask(databases)?, ask.ask(schemas)?);
    Ok(resolved(template, &current, &databases, &schemas)?)
}

fn resolved(template: &Template, current: &Rows, databases: &Rows, schemas: &Rows) -> Result<(Home, bool)> {
    let refused = |what: &str| Error::invalid("into", format_args!("{:?}", template.to_string()), what);
    let cell = |row: &[Option<String>], index: usize| row.get(index).cloned().flatten().unwrap_or_default();
    let current = current.first().map(Vec::as_slice).unwrap_or_default();
    let current = (cell(current, 0), cell(current, 1));
    let database = |name: &str| {
        databases
            .iter()
            .find(|row| cell(row, 0).eq_ignore_ascii_case(name))
    };
    // Names as the database spells them; whether the schema is there.
    let schema = |database: &str, name: &str| {
        schemas
            .iter()
            .find(|row| cell(row, 0) == database && cell(row, 1).eq_ignore_ascii_case(name))
            .map(|row| cell(row, 1))
    };
    let (database_name, schema_name) = match template.above.as_slice() {
        [database, schema] => (database.clone(), schema.clone()),
        [name] => match (schema(&current.0, name), database(name)) {
            (Some(_), Some(_)) => {
                let what = format!("{name} is a schema and a database; give both names");
                return Err(refused(&what));
            }
            (None, Some(_)) => (name.clone(), "main".to_owned()),
            _ => (current.0, name.clone()),
        },
        _ => current,
    };
    let Some(row) = database(&database_name) else {
        let names: Vec<String> = databases.iter().map(|row| cell(row, 0)).collect();
        let what = format!(
            "there is no database {database_name} that keeps tables; attached are {}",
            names.join(", ")
        );
        return Err(refused(&what));
    };
    let (database_name, kind, is_read_only) = (cell(row, 0), cell(row, 1), cell(row, 2) == "true");
    if is_read_only {
        let what = format!("the database {database_name} is read-only; open it for writing, or name another");
        return Err(refused(&what));
    }
    if kind != "duckdb" {
        let what = format!("{database_name} is a {kind} database; name one of DuckDB's own");
        return Err(refused(&what));
    }
    let found = schema(&database_name, &schema_name);
    let is_new = found.is_none();
    let home = Home {
        database: database_name,
        schema: found.unwrap_or(schema_name),
        template: Template {
            above: Vec::new(),
            name: template.name.clone(),
        },
    };
    Ok((home, is_new))
}

impl Catalog {
    /// Reads what is there.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where a table that is not ours has the name of the one that tells; those of whoever answers.
    pub(super) fn read<E: From<Error>>(ask: &mut dyn Ask<E>, home: &Home) -> Result<Self, E> {
        let mut catalog = Catalog::default();
        for row in ask.ask(&sql::relations(home))? {
            let mut row = row.into_iter();
            let Some(name) = row.next().flatten() else {
                continue;
            };
            let (_, columns) = catalog
                .relations
                .entry(name.to_lowercase())
                .or_insert_with(|| (name, Vec::new()));
            columns.extend(row.next().flatten().zip(row.next().flatten()));
        }
        if let Some((_, columns)) = catalog.relations.get(REGISTRY) {
            let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
            if names != ["template", "manifest"] {
                let message = format!(
                    "{} is not the table that duckward keeps its partitionings in: it has other columns; rename it",
                    home.table(REGISTRY)
                );
                return Err(Error::new(ErrorKind::Invalid, message).into());
            }
            let rows = ask.ask(&sql::kept(home))?;
            catalog.kept = rows
                .into_iter()
                .filter_map(|row| {
                    let mut row = row.into_iter();
                    Some((row.next()??, row.next()??))
                })
                .collect();
        }
        Ok(catalog)
    }

    /// The templates of all partitionings.
    pub(super) fn templates(&self) -> Vec<&str> {
        self.kept
            .iter()
            .take(NAMED)
            .map(|(template, _)| template.as_str())
            .collect()
    }

    /// What is kept of the partitioning of that template.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] where somebody has edited it.
    pub(super) fn manifest(&self, home: &Home) -> Result<Option<Manifest>> {
        self.of(home)
            .map(|(template, json)| Manifest::from_json(&format!("{REGISTRY} of {template}"), json))
            .transpose()
    }

    /// The template as it was spelled when that was kept.
    pub(super) fn spelled<'a>(&'a self, home: &'a Home) -> &'a str {
        self.of(home)
            .map_or(&home.template.name, |(template, _)| template)
    }

    fn of(&self, home: &Home) -> Option<&(String, String)> {
        self.kept
            .iter()
            .find(|(template, _)| template.to_lowercase() == home.template.name.to_lowercase())
    }

    /// Refuses tables that must not be made, or replaced.
    pub(super) fn check<'a>(
        &self,
        home: &Home,
        old: Option<&Manifest>,
        replace: bool,
        mut wanted: impl Iterator<Item = &'a str>,
    ) -> Result<()> {
        let refused = |what: String| {
            Err(Error::invalid(
                "into",
                format_args!("{:?}", home.to_string()),
                &what,
            ))
        };
        if old.is_some() && !replace {
            return refused("it is there already; give another template, or replace=True".to_owned());
        }
        let mut ours = BTreeSet::new();
        for table in old.iter().flat_map(|old| tables(old)) {
            ours.insert(table.to_lowercase());
            if let Some((name, columns)) = self.relations.get(&table.to_lowercase())
                && old.is_some_and(|old| old.columns != *columns)
            {
                return refused(format!(
                    "{name} has other columns than the partitioning has made, and is not replaced; drop or rename it"
                ));
            }
        }
        let foreign = wanted.find(|table| {
            let table = table.to_lowercase();
            self.relations.contains_key(&table) && !ours.contains(&table)
        });
        match foreign {
            None => Ok(()),
            Some(table) => refused(format!(
                "{table} is there, and no partitioning of that template has made it; rename it, or give another template"
            )),
        }
    }

    /// Tables that are missing, have other columns, or could be one of a piece and are none.
    pub(super) fn findings(&self, home: &Home, manifest: &Manifest) -> Vec<Finding> {
        let mut findings = Vec::new();
        for part in &manifest.pieces {
            let Some(table) = &part.table else { continue };
            match self.relations.get(&table.to_lowercase()) {
                Some((_, columns)) if *columns == manifest.columns => {}
                Some((_, columns)) if columns.is_empty() => {
                    let what = "is a view now";
                    findings.push(finding(FindingKind::MissingTable, Some(&part.name), table, what));
                }
                Some(_) => {
                    let what = "has other columns than it should";
                    findings.push(finding(FindingKind::ChangedTable, Some(&part.name), table, what));
                }
                None => {
                    let what = "is not there";
                    findings.push(finding(FindingKind::MissingTable, Some(&part.name), table, what));
                }
            }
        }
        // Those of other templates, which may begin alike, are in their manifests.
        let others: Vec<Manifest> = self
            .kept
            .iter()
            .filter_map(|(template, json)| Manifest::from_json(template, json).ok())
            .collect();
        let known: BTreeSet<String> = others
            .iter()
            .chain([manifest])
            .flat_map(tables)
            .map(str::to_lowercase)
            .collect();
        for (small, (name, columns)) in &self.relations {
            let is_table = !columns.is_empty() && small != REGISTRY;
            if is_table && home.template.matches(name) && !known.contains(small) {
                findings.push(finding(
                    FindingKind::ExtraTable,
                    None,
                    name,
                    "belongs to no piece",
                ));
            }
        }
        findings
    }
}

/// The tables of a manifest.
fn tables(manifest: &Manifest) -> impl Iterator<Item = &str> {
    manifest.pieces.iter().filter_map(|part| part.table.as_deref())
}

/// A finding about a table.
pub(super) fn finding(kind: FindingKind, piece: Option<&str>, table: &str, what: &str) -> Finding {
    Finding {
        kind,
        column: None,
        piece: piece.map(str::to_owned),
        rows: None,
        message: format!("table {table} {what}"),
        examples: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Rows {
        rows.iter()
            .map(|row| row.iter().map(|cell| Some((*cell).to_owned())).collect())
            .collect()
    }

    fn found(template: &str) -> Result<(Home, bool)> {
        let databases = rows(&[
            &["Here", "duckdb", "false"],
            &["other", "duckdb", "false"],
            &["both", "duckdb", "false"],
            &["frozen", "duckdb", "true"],
            &["lite", "sqlite", "false"],
        ]);
        let schemas = rows(&[
            &["Here", "main"],
            &["Here", "Archive"],
            &["Here", "both"],
            &["other", "main"],
        ]);
        resolved(
            &Template::parse(template)?,
            &rows(&[&["Here", "main"]]),
            &databases,
            &schemas,
        )
    }

    #[test]
    fn a_template_means_one_place() {
        for (template, database, schema, is_new) in [
            ("e_{piece}", "Here", "main", false),
            ("ARCHIVE.e_{piece}", "Here", "Archive", false),
            ("fresh.e_{piece}", "Here", "fresh", true),
            ("other.e_{piece}", "other", "main", false),
            ("Other.Main.e_{piece}", "other", "main", false),
            ("here.fresh.e_{piece}", "Here", "fresh", true),
        ] {
            let (home, made) = found(template).unwrap();
            assert_eq!(
                (home.database.as_str(), home.schema.as_str(), made),
                (database, schema, is_new),
                "{template}"
            );
        }
        for (template, expected) in [
            ("both.e_{piece}", "both is a schema and a database"),
            ("nowhere.main.e_{piece}", "there is no database nowhere"),
            (
                "temp.main.e_{piece}",
                "there is no database temp that keeps tables; attached are Here, other",
            ),
            ("frozen.e_{piece}", "the database frozen is read-only"),
            ("lite.e_{piece}", "lite is a sqlite database"),
        ] {
            let error = found(template).unwrap_err();
            assert!(error.message().contains(expected), "{}", error.message());
        }
    }
}
