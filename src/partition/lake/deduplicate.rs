//! Doubled rows of files: the pieces that have some are written anew without them, in a directory beside, which shares all other
//! files with the old one; then the two change places. The old one is kept until it is put back or forgotten.

use std::collections::BTreeMap;
use std::path::Path;

use super::check;
use super::manifest::{self, FileOnDisk, Manifest, Part};
use super::staging::{Staging, broken};
use super::writing::FORMAT;
use crate::engine::source::Source;
use crate::engine::text::{plain_pattern, quoted, quoted_name};
use crate::engine::{Ask, version};
use crate::error::{Error, ErrorKind, Result};
use crate::partition::deduplicate::{Removal, superseded};
use crate::partition::done::{Partitioning, Place};
use crate::validate::{self, DROP_NOTED, Doubled, PieceDigest, PieceSet};

/// The column by which DuckDB tells rows of a file apart.
const ROW: &str = "file_row_number";
/// The file that a piece is written anew into.
const WRITTEN: &str = "data_0.parquet";

/// Removes all rows but the first of each key.
///
/// # Errors
/// Those of [`crate::partition::deduplicate::deduplicate`].
pub(in crate::partition) fn deduplicate<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    path: &Path,
    partitioning: &Partitioning,
    on: &[String],
    order_by: &[String],
) -> Result<Removal, E> {
    let staging = Staging::new(path, true)?;
    check::expect(path, &partitioning.manifest, "deduplicated")?;
    let columns = &partitioning.manifest.columns;
    if columns.iter().any(|(name, _)| name.eq_ignore_ascii_case(ROW)) {
        let message = format!(
            "{} has a column {ROW}, which hides DuckDB's own, by which rows are told apart; partition a query that renames it",
            path.display()
        );
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    let set = partitioning.placed();
    let removal = written(ask, staging, path, (partitioning, &set), on, order_by);
    if removal.is_err() {
        ask.take_back(DROP_NOTED);
    }
    removal
}

fn written<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    staging: Staging,
    path: &Path,
    (partitioning, set): (&Partitioning, &PieceSet),
    on: &[String],
    order_by: &[String],
) -> Result<Removal, E> {
    let doubled = Doubled::note(ask, set, on, order_by)?;
    if doubled.removed.is_empty() {
        ask.ask(DROP_NOTED)?;
        return Ok(Removal::none(
            doubled.done(&|_| String::new(), true),
            partitioning,
        ));
    }
    staging.clear(&[])?;
    let mut after = Partitioning {
        place: Place::Directory(staging.path("")),
        manifest: thinned(ask, &staging, path, partitioning, &doubled)?,
        ..partitioning.clone()
    };
    after.validation = None;
    doubled.prove(ask, &after.placed())?;
    let token = ask.ask("SELECT substr(md5(uuid()::VARCHAR), 1, 8)")?;
    let token = token.into_iter().flatten().flatten().next().unwrap_or_default();
    ask.ask(DROP_NOTED)?;
    staging.finish(&mut after.manifest)?;
    let kept = staging.aside(&token);
    let old = Partitioning {
        place: Place::Directory(kept.clone()),
        ..partitioning.clone()
    };
    let before = |number: usize| {
        let name = &old.manifest.plan.pieces[number].name;
        let part = old.manifest.pieces.iter().find(|part| part.name == *name);
        part.map_or_else(String::new, |part| old.relation(part))
    };
    let done = doubled.done(&before, true);
    staging.publish_beside(&kept)?;
    after.place = partitioning.place.clone();
    Ok(Removal {
        done,
        before: partitioning.clone(),
        after,
        kept: Some(kept),
    })
}

/// Writes the pieces that lose rows, and shares the others' files; what the directory is then.
fn thinned<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    staging: &Staging,
    path: &Path,
    partitioning: &Partitioning,
    doubled: &Doubled<'_>,
) -> Result<Manifest, E> {
    let old = &partitioning.manifest;
    let version = version(ask)?;
    let numbers: BTreeMap<&str, usize> = old
        .plan
        .pieces
        .iter()
        .enumerate()
        .map(|(number, piece)| (piece.name.as_str(), number))
        .collect();
    let mut parts = Vec::new();
    for part in &old.pieces {
        let touched = numbers
            .get(part.name.as_str())
            .and_then(|number| Some((*number, *doubled.removed.get(number)?)));
        let mut part = part.clone();
        match touched {
            None => {
                for file in &part.files {
                    staging.link(&file.path, &file.path)?;
                }
                if version != old.duckdb {
                    let source = Source {
                        name: part.name.clone(),
                        relation: partitioning.relation(&part),
                    };
                    part.digest = validate::digest(ask, &source, &old.columns)?.digest;
                }
            }
            Some((_, removed)) if removed == part.rows => continue,
            Some((number, removed)) => {
                let rows = format!(
                    "SELECT * FROM {} AS duckward_all ANTI JOIN {} AS duckward_noted USING (rowid)",
                    partitioning.placed_in_files(path, &part),
                    validate::places(number)
                );
                let directory = manifest::directory(&old.plan, number);
                let found = write(ask, staging, &part, &rows, &directory, &old.columns)?;
                if found.rows + removed != part.rows {
                    return Err(changed(&part).into());
                }
                (part.rows, part.digest, part.nulls) = (found.rows, found.digest, found.nulls);
                part.files = vec![FileOnDisk {
                    path: format!("{directory}/{WRITTEN}"),
                    ..FileOnDisk::default()
                }];
            }
        }
        parts.push(part);
    }
    Ok(Manifest::new(
        old.plan.clone(),
        old.columns.clone(),
        version,
        parts,
    ))
}

/// Writes a piece's rows, in the order that they had, and proves that they are written as they are read.
fn write<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    staging: &Staging,
    part: &Part,
    rows: &str,
    directory: &str,
    columns: &[(String, String)],
) -> Result<PieceDigest, E> {
    let to = staging.path(directory);
    std::fs::create_dir_all(&to).map_err(|error| broken("making", &to, &error))?;
    let file = quoted(&to.join(WRITTEN).display().to_string());
    let names: Vec<String> = columns.iter().map(|(name, _)| quoted_name(name)).collect();
    let names = names.join(", ");
    ask.ask(&format!(
        "COPY (SELECT {names} FROM ({rows}) ORDER BY rowid) TO {file} ({FORMAT})"
    ))?;
    let source = |relation: String| Source {
        name: part.name.clone(),
        relation,
    };
    let pattern = quoted(&plain_pattern(&to.join(WRITTEN).display().to_string()));
    let read = format!("read_parquet({pattern}, hive_partitioning = false)");
    let stays = validate::digest(ask, &source(format!("({rows})")), columns)?;
    let found = validate::digest(ask, &source(read), columns)?;
    if found == stays {
        Ok(found)
    } else {
        Err(changed(part).into())
    }
}

fn changed(part: &Part) -> Error {
    let message = format!(
        "piece {} without the rows that were to go is not what was written, so nothing was removed: its files changed meanwhile",
        part.name
    );
    Error::new(ErrorKind::Transaction, message)
}

/// Puts what was before in its place again.
///
/// # Errors
/// Those of [`crate::partition::deduplicate::restore`].
pub(in crate::partition) fn restore(path: &Path, removal: &Removal) -> Result<u64> {
    let Some(kept) = &removal.kept else {
        return Ok(0);
    };
    let staging = Staging::new(path, true)?;
    expect_kept(kept, removal)?;
    if !is(path, &removal.after.manifest)? {
        return Err(superseded(path.display()));
    }
    staging.take_back(kept)?;
    Ok(removal.done.removed)
}

/// Removes what was before.
///
/// # Errors
/// As of [`restore`].
pub(in crate::partition) fn forget(removal: &Removal) -> Result<()> {
    let Some(kept) = &removal.kept else {
        return Ok(());
    };
    expect_kept(kept, removal)?;
    std::fs::remove_dir_all(kept).map_err(|error| broken("removing", kept, &error))
}

fn expect_kept(kept: &Path, removal: &Removal) -> Result<()> {
    if kept.is_dir() && is(kept, &removal.before.manifest)? {
        return Ok(());
    }
    let message = format!(
        "{}, where the files of before were put, is gone or has other files: they were put back or forgotten before, or somebody \
         changed it; nothing was done",
        kept.display()
    );
    Err(Error::new(ErrorKind::State, message))
}

/// Whether a directory is the one that a manifest tells of, with its files.
fn is(directory: &Path, manifest: &Manifest) -> Result<bool> {
    Ok(check::read(directory)? == *manifest && check::files(directory, manifest)?.is_empty())
}
