//! Doubled rows of tables: removed, with the manifest, in one transaction, and put back in another one.

use super::catalog::Catalog;
use super::template::Home;
use super::{ours, sql, version};
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::error::{Error, Result};
use crate::partition::deduplicate::{Removal, superseded};
use crate::partition::done::Partitioning;
use crate::partition::lake::Manifest;
use crate::validate::{self, Doubled};

/// Removes all rows but the first of each key. A table that loses all its rows stays.
///
/// # Errors
/// Those of [`crate::partition::deduplicate::deduplicate`].
pub(in crate::partition) fn deduplicate<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    home: &Home,
    partitioning: &Partitioning,
    on: &[String],
    order_by: &[String],
) -> Result<Removal, E> {
    validate::transaction(ask, |ask| {
        let catalog = ours(ask, home, &partitioning.manifest, "deduplicated")?;
        let set = partitioning.placed();
        let done = Doubled::note(ask, &set, on, order_by)?.remove(ask)?;
        if done.removed == 0 {
            return Ok((Removal::none(done, partitioning), None));
        }
        let mut after = partitioning.clone();
        after.validation = None;
        let manifest = &mut after.manifest;
        let version = version(ask)?;
        // Digests of another version are those of no piece that this one could tell.
        let all = version != manifest.duckdb;
        manifest.duckdb = version;
        let touched = done.touched();
        for part in &mut manifest.pieces {
            let Some(table) = part
                .table
                .as_ref()
                .filter(|_| all || touched.contains(part.name.as_str()))
            else {
                continue;
            };
            let source = Source {
                name: table.clone(),
                relation: home.table(table),
            };
            let found = validate::digest(ask, &source, &manifest.columns)?;
            (part.rows, part.digest) = (found.rows, found.digest);
        }
        keep(ask, home, &catalog, manifest)?;
        let witness = done.witness();
        let removal = Removal {
            before: partitioning.clone(),
            after,
            kept: None,
            done,
        };
        Ok((removal, witness))
    })
}

/// Puts the rows and the manifest back. Rows that were put into the tables since stay.
///
/// # Errors
/// Those of [`crate::partition::deduplicate::restore`].
pub(in crate::partition) fn restore<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    home: &Home,
    removal: &Removal,
) -> Result<u64, E> {
    validate::transaction(ask, |ask| {
        if removal.done.removed == 0 {
            return Ok((0, None));
        }
        let catalog = Catalog::read(ask, home)?;
        if catalog.manifest(home)?.as_ref() != Some(&removal.after.manifest) {
            return Err(superseded(home).into());
        }
        let rows = validate::put_back(ask, &removal.done)?;
        keep(ask, home, &catalog, &mut removal.before.manifest.clone())?;
        Ok((rows, None))
    })
}

fn keep<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    home: &Home,
    catalog: &Catalog,
    manifest: &mut Manifest,
) -> Result<(), E> {
    for statement in sql::keep(home, catalog.spelled(home), &manifest.seal()) {
        ask.ask(&statement)?;
    }
    Ok(())
}
