//! A directory of Parquet files, cut by a plan. It is written beside its place, proved there against the source, and put in
//! its place by one rename: whoever looks sees nothing, the old state or the new one, whole.
//!
//! The source is scanned once for all pieces: a large table by shares of its rows, each of which is noted when it is written, so
//! that a process that was killed is gone on from there. Where there are more pieces than files may be open at once, bundles
//! of pieces are written, and one statement for each bundle parts it.

mod check;
mod deduplicate;
mod manifest;
mod share;
mod staging;
mod writing;

use std::collections::BTreeMap;
use std::path::Path;

pub(super) use deduplicate::{deduplicate, forget, restore};
pub(super) use manifest::hexadecimal;
pub use manifest::{FileOnDisk, Manifest, Part};

use super::column::{check_names, columns, named, unknown};
use super::done::{Partitioning, Place};
use super::pieces::{numbered, parts};
use super::plan::{MOST, Plan, replan};
use super::progress::{Course, Watch};
use super::work::Work;
use crate::engine::source::Source;
use crate::engine::text::{plain_pattern, quoted};
use crate::engine::{Ask, Reason, version};
use crate::error::{Error, Result};
use crate::units::Bytes;
use crate::validate::Finding;
use staging::{Staging, broken};
use writing::Run;

/// Memory that each piece takes while it is written, at least: DuckDB buffers its rows.
const EACH: Bytes = Bytes(32 << 10);

/// What writing may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Memory.
    pub memory: Bytes,
    /// Files that may be open at once.
    pub files: usize,
    /// Free space on the disk, where the system says.
    pub disk: Option<Bytes>,
}

impl Room {
    /// More files than that are never open at once.
    pub const MOST: usize = MOST;

    /// Pieces that one statement may write.
    fn pieces(self) -> usize {
        let by_memory = usize::try_from(self.memory.get() / EACH.get()).unwrap_or(usize::MAX);
        by_memory.min(self.files).max(1)
    }
}

/// What is in a directory that was partitioned.
///
/// # Errors
/// [`Disk`](crate::ErrorKind::Disk) where it cannot be read; [`Invalid`](crate::ErrorKind::Invalid) where it is none, or its manifest was edited.
pub fn load(path: &Path) -> Result<Partitioning> {
    let path = std::path::absolute(path).map_err(|error| broken("finding", path, &error))?;
    Ok(Partitioning {
        manifest: check::read(&path)?,
        place: Place::Directory(path),
        validation: None,
        attempts: Vec::new(),
        resumed: 0,
    })
}

/// Whether the files in a directory are still those that were written: what is missing, added or changed.
///
/// # Errors
/// [`Disk`](crate::ErrorKind::Disk) where they cannot be read.
pub fn check(path: &Path, manifest: &Manifest) -> Result<Vec<Finding>> {
    check::files(path, manifest)
}

/// The rows of all pieces in a directory, as a query.
pub(super) fn query(path: &Path) -> String {
    format!("SELECT * FROM {}", files(path, "**/*.parquet"))
}

/// How a partitioning is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether the target may be an earlier partitioning.
    pub replace: bool,
    /// Rows that are written, and kept from a crash, at once; by the size of the pieces unless given.
    pub batch_rows: Option<u64>,
    /// The columns that each piece's rows are sorted by.
    pub sort: Vec<String>,
}

/// Cuts the plan's source into `target`, a directory that must not be there, or be empty; with `replace` it may be an earlier
/// partitioning. What a process that was killed has written by the same plan is not written again. `room` is what may be
/// taken for it; `watch` is told how far it is.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) for a target or a source that will not do; [`Disk`](crate::ErrorKind::Disk) for what the file system
/// refuses, and, before anything is written, where it cannot have room;
/// [`Transaction`](crate::ErrorKind::Transaction) where what was written is not what the source has; those of whoever answers. The target is as
/// it was then.
pub fn partition<E: From<Error> + Reason>(
    ask: &mut dyn Ask<E>,
    watch: &mut Watch<'_>,
    plan: &Plan,
    target: &Path,
    options: &Options,
    room: Room,
) -> Result<Partitioning, E> {
    let source = Source::parse(&plan.source)?;
    let found = columns(ask, &source.relation)?;
    let names = |name: &String| found.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    if let Some(name) = options.sort.iter().find(|name| !names(name)) {
        return Err(unknown(&source, "sort", name, &found).into());
    }
    check_names(&source, &found)?;
    let columns = named(found);
    plan.check_columns(&columns)?;
    if options.batch_rows == Some(0) {
        return Err(Error::invalid("batch_rows", "0", "give 1 or more").into());
    }
    let work = Work::new(plan, source, columns);
    cut(
        ask,
        watch,
        plan,
        work,
        Staging::new(target, options.replace)?,
        options,
        room,
    )
}

/// Cuts a directory anew, so that each piece has about `target` rows: what is more than twice as large is split, what has less
/// than half is put together. None where no piece needs a change. The files of those that need none are taken over as they are.
///
/// # Errors
/// As those of [`partition`] and [`replan`]; [`Invalid`](crate::ErrorKind::Invalid), too, for files that are not those that `manifest`
/// tells of.
pub fn rebalance<E: From<Error> + Reason>(
    ask: &mut dyn Ask<E>,
    watch: &mut Watch<'_>,
    path: &Path,
    manifest: &Manifest,
    target: u64,
    room: Room,
) -> Result<Option<Partitioning>, E> {
    check::expect(path, manifest, "balanced")?;
    let source = Source {
        name: path.display().to_string(),
        relation: files(path, "**/*.parquet"),
    };
    let place = Place::Directory(path.to_path_buf());
    let parts = parts(manifest);
    let located = numbered(&place, &parts, false);
    let Some(next) = replan(ask, &manifest.plan, &source, &located, target)? else {
        // A process that was killed may have done the same, all but removing what was there before.
        staging::sweep(path)?;
        return Ok(None);
    };
    let before: BTreeMap<usize, &Part> = parts.iter().copied().collect();
    // Another DuckDB may hash otherwise, and the pieces of a manifest have digests of one.
    let same = if version(ask)? == manifest.duckdb {
        next.same(&|before_it| before.contains_key(&before_it))
    } else {
        Vec::new()
    };
    let is_same = |number: &usize| same.iter().any(|(_, before)| before == number);
    let changed: Vec<(usize, &Part)> = parts.into_iter().filter(|(number, _)| !is_same(number)).collect();
    if changed.is_empty() {
        staging::sweep(path)?;
        return Ok(None);
    }
    let same = same
        .into_iter()
        .map(|(number, number_before)| (number, before[&number_before].clone()));
    let named = (source.name, manifest.columns.clone());
    let work = Work::again(&next, &place, named, &changed, same.collect());
    let options = Options {
        replace: true,
        ..Options::default()
    };
    let staging = Staging::new(path, true)?;
    // From here on nobody else can put another in its place.
    check::same(path, manifest)?;
    cut(ask, watch, &next.plan, work, staging, &options, room).map(Some)
}

/// Cuts a source, whose columns are name and type, whatever the plan says of it.
fn cut<E: From<Error> + Reason>(
    ask: &mut dyn Ask<E>,
    watch: &mut Watch<'_>,
    plan: &Plan,
    work: Work<'_>,
    staging: Staging,
    options: &Options,
    room: Room,
) -> Result<Partitioning, E> {
    let mut run = Run {
        ask,
        watch,
        course: if options.sort.is_empty() {
            Course::FILES
        } else {
            Course::SORTED
        },
        plan,
        options,
        source: work.source,
        columns: work.columns,
        layout: &*work.layout,
        same: work.same,
        staging,
        room,
        attempts: Vec::new(),
        resumed: 0,
    };
    let (manifest, mut validation) = run.staged()?;
    let path = run.staging.publish()?;
    validation.right = path.display().to_string();
    Ok(Partitioning {
        place: Place::Directory(path),
        manifest,
        validation: Some(validation),
        attempts: run.attempts,
        resumed: run.resumed,
    })
}

/// The files in or below a directory as a relation.
fn files(directory: &Path, below: &str) -> String {
    format!(
        "read_parquet({}, hive_partitioning = false)",
        pattern(directory, below)
    )
}

/// A pattern for files below a directory, as SQL. A bracket or a star in the directory's own name is none.
fn pattern(directory: &Path, below: &str) -> String {
    quoted(&format!(
        "{}/{below}",
        plain_pattern(&directory.display().to_string())
    ))
}
