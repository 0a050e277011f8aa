//! What became of a partitioning: where the pieces are, what is known of them, and the proof. Pure.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::lake::{self, Manifest};
use super::tables::{self, Home, Template};
use crate::error::Result;
use crate::validate::Validation;

/// Where the pieces are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory of Parquet files.
    Directory(PathBuf),
    /// Tables of a database.
    Tables(Home),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Directory(path) => path.display().fmt(f),
            Place::Tables(home) => home.fmt(f),
        }
    }
}

/// What a source is to be cut into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A directory of Parquet files.
    Directory(PathBuf),
    /// Tables, called by a template.
    Tables(Template),
}

impl Target {
    /// Reads what a user names: the path of a directory, or a text with `{piece}` in it for tables.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a text with `{piece}` that is no template.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(if Template::is_meant(text) {
            Target::Tables(Template::parse(text)?)
        } else {
            Target::Directory(PathBuf::from(text))
        })
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
    /// What failed while it was written, and what was tried then.
    pub attempts: Vec<Attempt>,
    /// Shares of the source that a process before this one had written.
    pub resumed: usize,
}

/// An attempt to write a share of the source that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// The share, from 0.
    pub share: usize,
    /// The attempt at it, from 1.
    pub attempt: u32,
    /// Why it failed.
    pub error: String,
    /// What was tried next.
    pub response: &'static str,
}

impl Partitioning {
    /// The rows of all pieces, as a query.
    pub fn query(&self) -> String {
        match &self.place {
            Place::Directory(path) => lake::query(path),
            Place::Tables(home) => tables::query(home, &self.manifest),
        }
    }
}
