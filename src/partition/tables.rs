//! Tables, one for each piece, cut by a plan. All of it happens in one transaction: whoever looks sees nothing, the old state
//! or the new one, whole, also after a crash.
//!
//! One statement scans the source once for all pieces and writes it into a temporary table, in the order of the pieces; each
//! table is made of its stretch of that. What was written is compared with the source before the commit.

mod catalog;
mod deduplicate;
mod sql;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub(super) use deduplicate::{deduplicate, restore};
pub(super) use sql::union;
pub use template::{Home, Template};

use super::column::{check_names, columns, named};
use super::disk::Load;
use super::done::{Partitioning, Place};
use super::lake::{Manifest, Part};
use super::pieces::{numbered, parts, relation};
use super::plan::{Next, Plan, replan};
use super::progress::{Course, Stage, Watch};
use super::work::Work;
use crate::engine::source::Source;
use crate::engine::{Ask, described, version};
use crate::error::{Error, ErrorKind, Result};
use crate::units::Bytes;
use crate::validate::{self, Digests, Finding, FindingKind, Layout, PIECE, Validation};
use catalog::Catalog;

/// The table that tells which tables are pieces of what; one in each schema that has some.
const REGISTRY: &str = "duckward_partitionings";

type Named = (String, String);

/// Free space on the disk that a path is on, where the system says.
pub type FreeSpace = fn(&Path) -> Option<Bytes>;

/// Cuts the plan's source into tables called by `template`; none of them may be there, unless with `replace` an earlier
/// partitioning of that template has made them. `watch` is told how far it is.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a template or a source that will not do; [`ErrorKind::State`] where a transaction is open already;
/// [`ErrorKind::Disk`] where the disk of the database cannot have room; [`ErrorKind::Transaction`] where what was written is not
/// what the source has; those of whoever answers. All is as it was then.
pub fn partition<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    watch: &mut Watch<'_>,
    plan: &Plan,
    template: &Template,
    replace: bool,
    free_space: FreeSpace,
) -> Result<Partitioning, E> {
    committed(ask, &template.name, &mut |ask| {
        let source = Source::parse(&plan.source)?;
        let found = columns(ask, &source.relation)?;
        check_names(&source, &found)?;
        let columns = named(found);
        plan.check_columns(&columns)?;
        let work = Work::new(plan, source, columns);
        let wanted = Wanted {
            plan,
            template,
            replace,
            free_space,
        };
        written(ask, watch, &wanted, work)
    })
}

/// Cuts the tables anew, so that each has about `target` rows: what is more than twice as large is split, what has less than
/// half is put together. None where no piece needs a change. Rows that were put into them since are kept. A table that needs no
/// change, and has what it had when it was written, is not written again; it may get another name.
///
/// # Errors
/// As those of [`partition`] and [`replan`]; [`ErrorKind::Invalid`], too, where the tables are not those that `manifest` tells of.
pub fn rebalance<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    watch: &mut Watch<'_>,
    home: &Home,
    manifest: &Manifest,
    target: u64,
    free_space: FreeSpace,
) -> Result<Option<Partitioning>, E> {
    committed(ask, &home.template.name, &mut |ask| {
        ours(ask, home, manifest, "balanced")?;
        let source = Source {
            name: home.to_string(),
            relation: format!("({})", query(home, manifest)),
        };
        let place = Place::Tables(home.clone());
        let parts = parts(manifest);
        let located = numbered(&place, &parts, false);
        let Some(next) = replan(ask, &manifest.plan, &source, &located, target)? else {
            return Ok(None);
        };
        let same = same(ask, home, manifest, &next)?;
        let Some((same, changed)) = apart(ask, &place, &next, same, &parts)? else {
            return Ok(None);
        };
        let same = same.into_iter().map(|(number, _, part)| (number, part.clone()));
        let named = (source.name, manifest.columns.clone());
        let work = Work::again(&next, &place, named, &changed, same.collect());
        let wanted = Wanted {
            plan: &next.plan,
            template: &home.as_template(),
            replace: true,
            free_space,
        };
        written(ask, watch, &wanted, work).map(Some)
    })
}

/// A piece that stays: its number, the one that it had, and what it is.
type Same<'a> = (usize, usize, &'a Part);

/// The pieces that need no change, and whose tables have what they had when they were written.
fn same<'a, E: From<Error>>(
    ask: &mut dyn Ask<E>,
    home: &Home,
    manifest: &'a Manifest,
    next: &Next,
) -> Result<Vec<Same<'a>>, E> {
    if version(ask)? != manifest.duckdb {
        return Ok(Vec::new());
    }
    let before: BTreeMap<usize, &Part> = parts(manifest).into_iter().collect();
    let names = names(&home.template, &next.plan);
    let rows = ask.ask(&sql::indexed(home))?;
    let indexed: BTreeSet<String> = rows.into_iter().flatten().flatten().collect();
    let mut same = Vec::new();
    for (number, number_before) in next.same(&|before_it| before.contains_key(&before_it)) {
        let part = before[&number_before];
        let Some(table) = &part.table else { continue };
        // DuckDB renames none that has an index.
        if *table != names[number] && indexed.contains(table) {
            continue;
        }
        let source = Source {
            name: table.clone(),
            relation: home.table(table),
        };
        let found = validate::digest(ask, &source, &manifest.columns)?;
        if (found.rows, &found.digest) == (part.rows, &part.digest) {
            same.push((number, number_before, part));
        }
    }
    Ok(same)
}

/// Those of them that stay, and all that are written anew; none where nothing is. Rows that were put into a table since may
/// belong into another; that one does not stay.
#[expect(clippy::type_complexity, reason = "two lists of pieces")]
fn apart<'a, E: From<Error>>(
    ask: &mut dyn Ask<E>,
    place: &Place,
    next: &Next,
    mut same: Vec<Same<'a>>,
    parts: &[(usize, &'a Part)],
) -> Result<Option<(Vec<Same<'a>>, Vec<(usize, &'a Part)>)>, E> {
    loop {
        let staying: BTreeSet<usize> = same.iter().map(|(_, before, _)| *before).collect();
        let changed: Vec<(usize, &Part)> = parts
            .iter()
            .filter(|(number, _)| !staying.contains(number))
            .copied()
            .collect();
        if changed.is_empty() {
            return Ok(None);
        }
        if same.is_empty() || next.plan.is_by_row_number() {
            return Ok(Some((same, changed)));
        }
        let rows = relation(place, changed.iter().map(|(_, part)| *part));
        let numbers = ask.ask(&format!(
            "SELECT DISTINCT {PIECE}::VARCHAR FROM {}",
            Layout::numbered(&next.plan, &rows)
        ))?;
        let numbers: BTreeSet<usize> = numbers
            .into_iter()
            .flatten()
            .filter_map(|text| text?.parse().ok())
            .collect();
        let before = same.len();
        same.retain(|(number, _, _)| !numbers.contains(number));
        if numbers.is_empty() {
            // All rows of the others were deleted, and of none no table is made.
            same.pop();
        }
        if same.len() == before {
            return Ok(Some((same, changed)));
        }
    }
}

/// The name of each piece's table.
fn names(template: &Template, plan: &Plan) -> Vec<String> {
    let pieces: Vec<&str> = plan.pieces.iter().map(|piece| piece.name.as_str()).collect();
    template.names(&pieces)
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

/// What is to be made.
struct Wanted<'a> {
    plan: &'a Plan,
    template: &'a Template,
    replace: bool,
    free_space: FreeSpace,
}

/// Writes and proves all tables, in the transaction that is open.
fn written<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    watch: &mut Watch<'_>,
    wanted: &Wanted<'_>,
    work: Work<'_>,
) -> Result<Partitioning, E> {
    let Wanted {
        plan,
        template,
        replace,
        free_space,
    } = *wanted;
    let (home, is_new) = catalog::home(ask, template)?;
    if is_new {
        ask.ask(&format!("CREATE SCHEMA {}", home.place()))?;
    }
    let catalog = Catalog::read(ask, &home)?;
    let old = catalog.manifest(&home)?;
    let names = names(template, plan);
    // Before the work is done: the tables that the plan expects.
    let expected = plan.pieces.iter().zip(&names).filter(|(piece, _)| piece.rows > 0);
    catalog.check(
        &home,
        old.as_ref(),
        replace,
        expected.map(|(_, name)| name.as_str()),
    )?;
    check_disk(ask, &home, plan, &work, free_space)?;
    let before = catalog.spelled(&home).to_owned();
    let mut run = Run {
        ask,
        watch,
        plan,
        home,
        before,
        names,
        source: work.source,
        columns: work.columns,
        layout: &*work.layout,
        same: work.same,
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

/// Refuses a database on a disk that cannot have room for the tables. Blocks that are free in its file are room, too.
fn check_disk<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    home: &Home,
    plan: &Plan,
    work: &Work<'_>,
    free_space: FreeSpace,
) -> Result<(), E> {
    let path = ask.ask(&sql::path(home))?.into_iter().flatten().flatten().next();
    // One in memory has no file.
    let Some(free) = path.and_then(|path| free_space(Path::new(&path))) else {
        return Ok(());
    };
    let load = Load {
        files: 0,
        ..Load::of(plan, &work.same)
    };
    let place = home.to_string();
    let other = "give a database on another disk, or the path of a directory";
    let check = |free| load.check(free, &work.source.name, &place, other);
    let Err(refused) = check(free) else {
        return Ok(());
    };
    // Where that is not known it stays refused: the transaction may be lost by the question.
    let rows = ask.ask(&sql::unused(home)).map_err(|_| refused.clone())?;
    let unused = rows.into_iter().flatten().flatten().next();
    let unused = unused.and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(check(free.plus(Bytes(unused)))?)
}

struct Run<'a, E> {
    ask: &'a mut dyn Ask<E>,
    watch: &'a mut Watch<'a>,
    plan: &'a Plan,
    home: Home,
    /// The template of what is replaced.
    before: String,
    /// The name of each piece's table.
    names: Vec<String>,
    /// What the tables are compared with, and its columns.
    source: Source,
    columns: Vec<Named>,
    /// Where the rows belong.
    layout: &'a dyn Layout,
    /// Pieces of before that stay, with their numbers.
    same: Vec<(usize, Part)>,
    /// Whether the source is what was staged.
    is_staged: bool,
}

impl<E: From<Error>> Run<'_, E> {
    /// Writes the source into the temporary table; the numbers of the pieces that have rows.
    fn stage(&mut self) -> Result<Vec<usize>, E> {
        (self.watch)(Course::TABLES.part(Stage::Writing, 0, 1));
        self.ask
            .ask(&sql::stage(&self.layout.numbered(&self.source.relation)))?;
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

    /// Drops the tables of before, but for those that stay, which get their names. The source may be made of them, so it is
    /// compared with what was staged first, and that with the new tables.
    fn remove(&mut self, old: &Manifest) -> Result<(), E> {
        if !self.is_staged {
            let mut types = described(self.ask, sql::STAGED)?;
            types.pop();
            self.compare_staged(types)?;
        }
        let staying: BTreeSet<&String> = self
            .same
            .iter()
            .filter_map(|(_, part)| part.table.as_ref())
            .collect();
        for table in old.pieces.iter().filter_map(|part| part.table.as_ref()) {
            if !staying.contains(table) {
                self.ask
                    .ask(&format!("DROP TABLE IF EXISTS {}", self.home.table(table)))?;
            }
        }
        // One may get the name that another has still.
        let renamed: Vec<(String, String, &String)> = self
            .same
            .iter()
            .filter_map(|(number, part)| {
                let (from, to) = (part.table.as_ref()?, &self.names[*number]);
                (from != to).then(|| (from.clone(), format!("duckward_same_{number}"), to))
            })
            .collect();
        for (from, between, _) in &renamed {
            self.ask.ask(&sql::rename(&self.home, from, between))?;
        }
        for (_, between, to) in &renamed {
            self.ask.ask(&sql::rename(&self.home, between, to))?;
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
        for (done, number) in numbers.iter().enumerate() {
            (self.watch)(Course::TABLES.part(Stage::Making, done, numbers.len()));
            let table = self.home.table(&self.names[*number]);
            self.ask.ask(&sql::create(&table, *number))?;
            tables.push((*number, table));
        }
        let written = Source {
            name: self.home.to_string(),
            relation: sql::numbered(&tables),
        };
        (self.watch)(Course::TABLES.part(Stage::Proving, 0, 1));
        let (pieces, validation) = self.prove(&written, &self.columns.clone())?;
        (self.watch)(Course::TABLES.part(Stage::Publishing, 0, 1));
        let written = pieces
            .into_iter()
            .map(|(number, found)| (number, found.rows, found.digest));
        let same = self.same.iter();
        let same = same.map(|(number, part)| (*number, part.rows, part.digest.clone()));
        let mut parts: Vec<(usize, u64, String)> = written.chain(same).collect();
        parts.sort_by_key(|(number, _, _)| *number);
        let parts = parts
            .into_iter()
            .map(|(number, rows, digest)| Part {
                name: self.plan.pieces[number].name.clone(),
                condition: self.plan.pieces[number].condition.clone(),
                rows,
                digest,
                nulls: Vec::new(),
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
        let staged = Staged(self.layout);
        let (pieces, validation) = validate::pieces(
            self.ask,
            whole,
            &validate::Pieces {
                source: written,
                columns: types,
                at: sql::AT,
                piece: PIECE,
                layout: if self.is_staged { &staged } else { self.layout },
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
struct Staged<'a>(&'a dyn Layout);

impl Layout for Staged<'_> {
    fn is_said_by_rows(&self) -> bool {
        self.0.is_said_by_rows()
    }

    fn numbered(&self, relation: &str) -> String {
        if self.is_said_by_rows() {
            self.0.numbered(relation)
        } else {
            sql::staged_numbered(PIECE)
        }
    }

    fn name(&self, piece: usize) -> String {
        self.0.name(piece)
    }
}

/// Whether a transaction is open: in one its number is the same each time, outside each statement has its own.
fn is_in_transaction<E>(ask: &mut dyn Ask<E>) -> Result<bool, E> {
    let number = "SELECT txid_current()::VARCHAR";
    Ok(ask.ask(number)? == ask.ask(number)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::Rows;
    use crate::partition::plan::{Cut, Rule};

    /// A database that says where its file is, and how much of it is free, if it does.
    struct Database {
        path: Option<&'static str>,
        unused: Option<&'static str>,
    }

    impl Ask<Error> for Database {
        fn ask(&mut self, sql: &str) -> Result<Rows> {
            if sql.contains("duckdb_databases") {
                return Ok(vec![vec![self.path.map(str::to_owned)]]);
            }
            let refused = || Error::new(ErrorKind::Query, "Not implemented");
            let unused = self.unused.ok_or_else(refused)?;
            Ok(vec![vec![Some(unused.to_owned())]])
        }

        fn pause(&mut self, _: Duration) -> Result<()> {
            Ok(())
        }
    }

    fn full(_: &Path) -> Option<Bytes> {
        Some(Bytes::mib(1))
    }

    fn unknown(_: &Path) -> Option<Bytes> {
        None
    }

    fn kind(
        path: Option<&'static str>,
        unused: Option<&'static str>,
        free_space: FreeSpace,
    ) -> Option<ErrorKind> {
        let source = Source::parse("t").unwrap();
        let cut = Cut {
            column: "a".to_owned(),
            type_name: "INTEGER".to_owned(),
            rule: Rule::Hash { pieces: 3 },
        };
        let mut plan = Plan::new(&source, vec![("a".to_owned(), "INTEGER".to_owned())], vec![cut]);
        plan.pieces[0].rows = 1;
        plan.pieces[0].bytes = Bytes::mib(40);
        let work = Work::new(&plan, source, plan.columns.clone());
        let home = Home {
            database: "d".to_owned(),
            schema: "main".to_owned(),
            template: Template::parse("t_{piece}").unwrap(),
        };
        check_disk(&mut Database { path, unused }, &home, &plan, &work, free_space)
            .err()
            .map(|error| error.kind())
    }

    #[test]
    fn blocks_that_are_free_in_the_file_are_room_and_what_is_not_known_is_no_reason() {
        let file = Some("/d.duckdb");
        assert_eq!(kind(file, Some("0"), full), Some(ErrorKind::Disk));
        assert_eq!(kind(file, Some("15000000"), full), Some(ErrorKind::Disk));
        assert_eq!(kind(file, Some("16000000"), full), None);
        // Of another database that cannot be asked nobody hears.
        assert_eq!(kind(file, None, full), Some(ErrorKind::Disk));
        assert_eq!(kind(file, None, unknown), None);
        assert_eq!(kind(None, None, full), None);
    }
}
