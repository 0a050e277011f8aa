//! What became of a partitioning: where the pieces are, what is known of them, and the proof. Pure.

use std::fmt;
use std::path::PathBuf;

use super::lake::{self, Manifest};
use crate::engine::source::Source;
use crate::error::Result;
use crate::validate::Validation;

/// Where the pieces are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory of Parquet files.
    Directory(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Directory(path) => path.display().fmt(f),
        }
    }
}

/// A source in pieces.
#[derive(Clone, Debug, PartialEq)]
pub struct Partitioning {
    /// Where they are.
    pub place: Place,
    /// What they are, as is kept with them.
    pub manifest: Manifest,
    /// The pieces against the source, when they were written; none of one that was read.
    pub validation: Option<Validation>,
}

impl Partitioning {
    /// The rows of all pieces, as a query.
    pub fn query(&self) -> String {
        match &self.place {
            Place::Directory(path) => lake::query(path),
        }
    }

    /// The rows of all pieces, by a name that people know.
    ///
    /// # Errors
    /// None where the query is one.
    pub fn source(&self) -> Result<Source> {
        Ok(Source {
            name: self.place.to_string(),
            ..Source::parse(&self.query())?
        })
    }
}
