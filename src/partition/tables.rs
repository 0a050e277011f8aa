//! Tables, one for each piece, cut by a plan. All of it happens in one transaction: whoever looks sees nothing, the old state
//! or the new one, whole, also after a crash.
//!
//! One statement scans the source once for all pieces and writes it into a temporary table, in the order of the pieces; each
//! table is made of its stretch of that. What was written is compared with the source before the commit.

mod catalog;
mod deduplicate;
mod sql;
mod template;

use std::collections::BTreeSet;

pub(super) use deduplicate::{deduplicate, restore};
pub(super) use sql::union;
pub use template::{Home, Template};

use super::column::{check_names, columns, named};
use super::done::{Partitioning, Place};
use super::lake::{Manifest, Part};
use super::plan::{Plan, replan};
use crate::engine::source::Source;
use crate::engine::{Ask, described};
use crate::error::{Error, ErrorKind, Result};
use crate::validate::{self, Digests, Finding, FindingKind, Layout, PIECE, Validation};
use catalog::Catalog;

/// The table that tells which tables are pieces of what; one in each schema that has some.
const REGISTRY: &str = "duckward_partitionings";

type Named = (String, String);

/// Cuts the plan's source into tables called by `template`; none of them may be there, unless with `replace` an earlier
/// partitioning of that template has made them.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a template or a source that will not do; [`ErrorKind::State`] where a transaction is open already;
/// [`ErrorKind::Transaction`] where what was written is not what the source has; those of whoever answers. All is as it was
/// then.
pub fn partition<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    plan: &Plan,
    template: &Template,
    replace: bool,
) -> Result<Partitioning, E> {
    committed(ask, &template.name, &mut |ask| {
        let source = Source::parse(&plan.source)?;
        let found = columns(ask, &source.relation)?;
        check_names(&source, &found)?;
        let columns = named(found);
        plan.check_columns(&columns)?;
        written(ask, plan, (source, columns), template, replace)
    })
}

/// Cuts the tables anew, so that each has about `target` rows: what is more than twice as large is split, neighbours of less
/// than half are put together. None where they need no change. Rows that were put into them since are kept.
///
/// # Errors
/// As those of [`partition`]; [`ErrorKind::Invalid`], too, for pieces that have no neighbours (see
/// [`replan`]), and where the tables are not those that `manifest` tells of.
pub fn rebalance<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    home: &Home,
    manifest: &Manifest,
    target: u64,
) -> Result<Option<Partitioning>, E> {
    committed(ask, &home.template.name, &mut |ask| {
        ours(ask, home, manifest, "balanced")?;
        let source = Source {
            name: home.to_string(),
            relation: format!("({})", query(home, manifest)),
        };
        let Some(plan) = replan(ask, &manifest.plan, &source, target)? else {
            return Ok(None);
        };
        let columns = manifest.columns.clone();
        written(ask, &plan, (source, columns), &home.as_template(), true).map(Some)
    })
}

/// What is there, if the tables are those that `manifest` tells of. `what` they are to be: for the error.
fn ours<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    home: &Home,
    manifest: &Manifest,
    what: &str,
) -> Result<Catalog, E> {
    let catalog = Catalog::read(ask, home)?;
    if catalog.manifest(home)?.as_ref() != Some(manifest) {
        let message = format!(
            "{home} is not what it was: another partitioning took its place; find it by ward.partitioning()"
        );
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    let broken = catalog.findings(home, manifest);
    if let Some(finding) = broken.iter().find(|finding| finding.piece.is_some()) {
        let message = format!("{home} cannot be {what}: {}; check() tells all", finding.message);
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    Ok(catalog)
}

/// Does `work` in a transaction of its own: it is committed, or all is as it was.
fn committed<E: From<Error>, T>(
    ask: &mut dyn Ask<E>,
    template: &str,
    work: &mut dyn FnMut(&mut dyn Ask<E>) -> Result<T, E>,
) -> Result<T, E> {
    if is_in_transaction(ask)? {
        let message = format!(
            "a transaction is open on this connection, and tables {template} are published in one of their own: commit it or \
             roll it back first, or give connection=ward.cursor(), which does not see what is not committed"
        );
        return Err(Error::new(ErrorKind::State, message).into());
    }
    // Whatever fails, also a Ctrl-C that arrives with the answer to BEGIN: nothing stays open.
    let done = ask
        .ask("BEGIN TRANSACTION")
        .and_then(|_| work(ask))
        .and_then(|done| ask.ask("COMMIT").map(|_| done));
    if done.is_err() {
        ask.take_back("ROLLBACK");
    }
    done
}

/// The partitioning of that template.
///
/// # Errors
/// [`ErrorKind::Invalid`] where there is none, or what is kept of it was edited; those of whoever answers.
pub fn load<E: From<Error>>(ask: &mut dyn Ask<E>, template: &Template) -> Result<Partitioning, E> {
    let (home, _) = catalog::home(ask, template)?;
    let catalog = Catalog::read(ask, &home)?;
    let Some(manifest) = catalog.manifest(&home)? else {
        let known = catalog.templates();
        let message = format!(
            "there is no partitioning {home}; {}",
            if known.is_empty() {
                "none is in that schema".to_owned()
            } else {
                format!("that schema has {}", known.join(", "))
            }
        );
        return Err(Error::new(ErrorKind::Invalid, message).into());
    };
    Ok(Partitioning {
        place: Place::Tables(home),
        manifest,
        validation: None,
        attempts: Vec::new(),
        resumed: 0,
    })
}

/// Whether the tables are still those that were written: what is missing, added or changed, by their columns, rows and digests.
///
/// # Errors
/// [`ErrorKind::State`] where all else is as it was, and the digests were made by another version of DuckDB, which may hash
/// otherwise; those of whoever answers.
pub fn check<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    home: &Home,
    manifest: &Manifest,
) -> Result<Vec<Finding>, E> {
    let mut findings = standing(ask, home, manifest)?;
    let broken: BTreeSet<Option<String>> = findings.iter().map(|finding| finding.piece.clone()).collect();
    let version = version(ask)?;
    for part in &manifest.pieces {
        let Some(table) = &part.table else { continue };
        if broken.contains(&Some(part.name.clone())) {
            continue;
        }
        let source = Source {
            name: table.clone(),
            relation: home.table(table),
        };
        let found = validate::digest(ask, &source, &manifest.columns)?;
        let what = if found.rows != part.rows {
            format!("has {} rows and should have {}", found.rows, part.rows)
        } else if found.digest != part.digest && version == manifest.duckdb {
            "has other values than it should".to_owned()
        } else {
            continue;
        };
        let mut finding = catalog::finding(FindingKind::ChangedTable, Some(&part.name), table, &what);
        finding.rows = Some(found.rows.abs_diff(part.rows)).filter(|rows| *rows > 0);
        findings.push(finding);
    }
    if findings.is_empty() && version != manifest.duckdb {
        let message = format!(
            "the tables {home} have the columns and as many rows as when they were written; their values were not compared, \
             because the digests were made by DuckDB {}, and {version} may hash otherwise: compare them with their source by \
             ward.validate(), or partition anew",
            manifest.duckdb
        );
        return Err(Error::new(ErrorKind::State, message).into());
    }
    Ok(findings)
}

/// What of that is seen without reading a row: tables that are missing or added, and their columns.
///
/// # Errors
/// Those of whoever answers.
pub fn standing<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    home: &Home,
    manifest: &Manifest,
) -> Result<Vec<Finding>, E> {
    Ok(Catalog::read(ask, home)?.findings(home, manifest))
}

/// The rows of all tables, as a query.
pub(super) fn query(home: &Home, manifest: &Manifest) -> String {
    let tables: Vec<String> = manifest
        .pieces
        .iter()
        .filter_map(|part| Some(home.table(part.table.as_ref()?)))
        .collect();
    sql::all(&tables)
}

/// Writes and proves all tables, in the transaction that is open.
fn written<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    plan: &Plan,
    (source, columns): (Source, Vec<Named>),
    template: &Template,
    replace: bool,
) -> Result<Partitioning, E> {
    let (home, is_new) = catalog::home(ask, template)?;
    if is_new {
        ask.ask(&format!("CREATE SCHEMA {}", home.place()))?;
    }
    let catalog = Catalog::read(ask, &home)?;
    let old = catalog.manifest(&home)?;
    let names = template.names(
        &plan
            .pieces
            .iter()
            .map(|piece| piece.name.as_str())
            .collect::<Vec<_>>(),
    );
    // Before the work is done: the tables that the plan expects.
    let expected = plan.pieces.iter().zip(&names).filter(|(piece, _)| piece.rows > 0);
    catalog.check(
        &home,
        old.as_ref(),
        replace,
        expected.map(|(_, name)| name.as_str()),
    )?;
    let before = catalog.spelled(&home).to_owned();
    let mut run = Run {
        ask,
        plan,
        home,
        before,
        names,
        source,
        columns,
        is_staged: false,
    };
    let numbers = run.stage()?;
    let wanted = numbers.iter().filter_map(|number| run.names.get(*number));
    catalog.check(&run.home, old.as_ref(), replace, wanted.map(String::as_str))?;
    if let Some(old) = &old {
        run.remove(old)?;
    }
    let (manifest, validation) = run.publish(&numbers)?;
    Ok(Partitioning {
        place: Place::Tables(run.home),
        manifest,
        validation: Some(validation),
        attempts: Vec::new(),
        resumed: 0,
    })
}

struct Run<'a, E> {
    ask: &'a mut dyn Ask<E>,
    plan: &'a Plan,
    home: Home,
    /// The template of what is replaced.
    before: String,
    /// The name of each piece's table.
    names: Vec<String>,
    /// What the tables are compared with, and its columns.
    source: Source,
    columns: Vec<Named>,
    /// Whether that is what was staged.
    is_staged: bool,
}

impl<E: From<Error>> Run<'_, E> {
    /// Writes the source into the temporary table; the numbers of the pieces that have rows.
    fn stage(&mut self) -> Result<Vec<usize>, E> {
        self.ask
            .ask(&sql::stage(&self.plan.numbered(&self.source.relation)))?;
        let rows = self.ask.ask(&sql::pieces())?;
        let numbers: Vec<usize> = rows
            .into_iter()
            .flatten()
            .filter_map(|text| text?.parse().ok())
            .collect();
        if numbers.is_empty() {
            let message = format!("{} has no rows: there is nothing to cut", self.source.name);
            return Err(Error::new(ErrorKind::Invalid, message).into());
        }
        if numbers.iter().any(|number| *number >= self.names.len()) {
            let message = "a row went into a piece that the plan does not have";
            return Err(Error::new(ErrorKind::Internal, message).into());
        }
        let mut types = described(self.ask, sql::STAGED)?;
        types.pop();
        if types != self.columns {
            self.compare_staged(types)?;
        }
        Ok(numbers)
    }

    /// Drops the tables of before. The source may be made of them, so it is compared with what was staged first, and that
    /// with the new tables.
    fn remove(&mut self, old: &Manifest) -> Result<(), E> {
        if !self.is_staged {
            let mut types = described(self.ask, sql::STAGED)?;
            types.pop();
            self.compare_staged(types)?;
        }
        for table in old.pieces.iter().filter_map(|part| part.table.as_ref()) {
            self.ask
                .ask(&format!("DROP TABLE IF EXISTS {}", self.home.table(table)))?;
        }
        Ok(())
    }

    /// Compares what was staged with the source, and puts it in the source's place. `types` are its columns.
    fn compare_staged(&mut self, types: Vec<Named>) -> Result<(), E> {
        let staged = |relation: String| Source {
            name: self.source.name.clone(),
            relation,
        };
        let (lying, rows) = (staged(sql::STAGED.to_owned()), staged(sql::staged()));
        self.prove(&lying, &types)?;
        self.source = rows;
        self.columns = types;
        self.is_staged = true;
        Ok(())
    }

    /// Makes the tables, compares them with the source, and keeps what they are.
    fn publish(&mut self, numbers: &[usize]) -> Result<(Manifest, Validation), E> {
        let mut tables = Vec::new();
        for number in numbers {
            let table = self.home.table(&self.names[*number]);
            self.ask.ask(&sql::create(&table, *number))?;
            tables.push((*number, table));
        }
        let written = Source {
            name: self.home.to_string(),
            relation: sql::numbered(&tables),
        };
        let (pieces, validation) = self.prove(&written, &self.columns.clone())?;
        let parts = pieces
            .into_iter()
            .map(|(number, found)| Part {
                name: self.plan.pieces[number].name.clone(),
                condition: self.plan.pieces[number].condition.clone(),
                rows: found.rows,
                digest: found.digest,
                table: Some(self.names[number].clone()),
                files: Vec::new(),
            })
            .collect();
        let version = version(self.ask)?;
        let mut manifest = Manifest::new(self.plan.clone(), self.columns.clone(), version, parts);
        for statement in sql::keep(&self.home, &self.before, &manifest.seal()) {
            self.ask.ask(&statement)?;
        }
        self.ask.ask(&format!("DROP TABLE {}", sql::STAGED))?;
        Ok((manifest, validation))
    }

    /// That `written` has what the source has, piece by piece.
    fn prove(&mut self, written: &Source, types: &[Named]) -> Result<(Digests, Validation), E> {
        let whole = validate::Whole {
            source: &self.source,
            columns: &self.columns,
        };
        let staged = Staged(self.plan);
        let (pieces, validation) = validate::pieces(
            self.ask,
            whole,
            &validate::Pieces {
                source: written,
                columns: types,
                at: sql::AT,
                piece: PIECE,
                layout: if self.is_staged { &staged } else { self.plan },
            },
        )?;
        if validation.ok {
            return Ok((pieces, validation));
        }
        let message = format!(
            "what was written is not what {} has, and was rolled back: {}; the source gives other rows when it is read again",
            self.source.name,
            validation.in_short()
        );
        Err(Error::new(ErrorKind::Transaction, message).into())
    }
}

/// Where rows belong that were staged: that is known of each, also where its number in its table said it.
#[derive(Debug)]
struct Staged<'a>(&'a Plan);

impl Layout for Staged<'_> {
    fn number(&self) -> Option<String> {
        Layout::number(self.0)
    }

    fn numbered(&self, _relation: &str) -> String {
        sql::staged_numbered(PIECE)
    }

    fn name(&self, piece: usize) -> String {
        Layout::name(self.0, piece)
    }
}

/// Whether a transaction is open: in one its number is the same each time, outside each statement has its own.
fn is_in_transaction<E>(ask: &mut dyn Ask<E>) -> Result<bool, E> {
    let number = "SELECT txid_current()::VARCHAR";
    Ok(ask.ask(number)? == ask.ask(number)?)
}

fn version<E>(ask: &mut dyn Ask<E>) -> Result<String, E> {
    let rows = ask.ask("SELECT version()")?;
    Ok(rows.into_iter().flatten().flatten().next().unwrap_or_default())
}
