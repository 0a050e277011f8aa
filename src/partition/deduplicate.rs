//! Of the rows of a partitioning that have one key, the first one stays: that in the piece that comes first in the plan. Only pieces
//! that lose rows are written anew; what they were is kept, and can be put back.

use std::fmt;
use std::path::PathBuf;

use super::done::{Partitioning, Place};
use super::{lake, tables};
use crate::engine::Ask;
use crate::error::{Error, ErrorKind, Result};
use crate::validate::{self, Deduplication};

/// Rows that were removed from a partitioning.
#[derive(Clone, Debug, PartialEq)]
pub struct Removal {
    /// What was removed, piece by piece.
    pub done: Deduplication,
    /// The partitioning before.
    pub before: Partitioning,
    /// The partitioning without those rows.
    pub after: Partitioning,
    /// The directory that has what was before, of files that lost rows.
    pub(super) kept: Option<PathBuf>,
}

impl Removal {
    /// Where nothing was to be removed.
    pub(super) fn none(done: Deduplication, partitioning: &Partitioning) -> Self {
        Removal {
            done,
            before: partitioning.clone(),
            after: partitioning.clone(),
            kept: None,
        }
    }
}

/// Removes all rows but the first of each key.
///
/// # Errors
/// [`ErrorKind::Invalid`] for columns that are not there, for a partitioning that is not what it was, and for tables within a
/// transaction; [`ErrorKind::Transaction`] where more were lost than should be; [`ErrorKind::Disk`] for what the file system
/// refuses; those of whoever is asked. Then nothing was changed.
pub fn deduplicate<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    partitioning: &Partitioning,
    on: &[String],
    order_by: &[String],
) -> Result<Removal, E> {
    match &partitioning.place {
        Place::Tables(home) => tables::deduplicate(ask, home, partitioning, on, order_by),
        Place::Directory(path) => lake::deduplicate(ask, path, partitioning, on, order_by),
    }
}

/// Puts the removed rows back; how many.
///
/// # Errors
/// [`ErrorKind::State`] where that was done before, or the partitioning or what was kept has changed; those of whoever is asked.
/// Then nothing was changed.
pub fn restore<E: From<Error>>(ask: &mut dyn Ask<E>, removal: &Removal) -> Result<u64, E> {
    match &removal.before.place {
        Place::Tables(home) => tables::restore(ask, home, removal),
        Place::Directory(path) => Ok(lake::restore(path, removal)?),
    }
}

/// Removes what was kept.
///
/// # Errors
/// As of [`restore`].
pub fn forget<E: From<Error>>(ask: &mut dyn Ask<E>, removal: &Removal) -> Result<(), E> {
    match &removal.before.place {
        Place::Tables(_) => validate::forget(ask, &removal.done),
        Place::Directory(_) => Ok(lake::forget(removal)?),
    }
}

/// Of a place that is not what it was after rows were removed there.
pub(super) fn superseded(place: impl fmt::Display) -> Error {
    let message = format!(
        "{place} is not what it was after the rows were removed: they were put back before, or another partitioning took its \
         place, or somebody changed it; nothing was done"
    );
    Error::new(ErrorKind::State, message)
}
