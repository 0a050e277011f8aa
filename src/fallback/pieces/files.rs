//! The local files that a statement reads, and whether they are what they were: between two pieces nothing keeps them.
//! Files elsewhere (`s3://`, `https://`) are not looked at.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::asking::{statement_of, text_of};
use super::{Asks, Fault};
use crate::engine::text::quoted;
use crate::error::{Error, ErrorKind};
use crate::fallback::decompose::{Reads, reads, reads_files_only};

/// What tells a file from one that took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    /// The number of the file in its file system, where there is such a thing.
    number: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Stamp {
            bytes: found.len(),
            modified: found.modified().ok(),
            #[cfg(unix)]
            number: std::os::unix::fs::MetadataExt::ino(&found),
            #[cfg(not(unix))]
            number: 0,
        })
    }
}

/// Files as they were at some moment.
#[derive(Clone, Debug, Default)]
pub struct Files {
    known: Vec<(PathBuf, Option<Stamp>)>,
    /// Whether something that may be a file is none on this machine.
    elsewhere: bool,
}

impl Files {
    /// Those that `tree` reads, as they are now. What DuckDB does not name is not known.
    pub(super) fn look(asks: &mut dyn Asks, tree: &Value) -> Result<Self, Fault> {
        let mut files = Files::default();
        for what in reads(tree) {
            let given = match what {
                Reads::Path(path) => quoted(&path),
                Reads::Argument(argument) => match text_of(asks, &statement_of(&argument)) {
                    Ok(text) => text.trim_start_matches("SELECT ").to_owned(),
                    Err(Fault::WhyNot(_)) => {
                        files.elsewhere = true;
                        continue;
                    }
                    Err(other) => return Err(other),
                },
            };
            // Neither a missing file nor a wrong argument is an error of ours.
            let rows = asks
                .rows(&format!("SELECT file FROM glob({given})"))
                .unwrap_or_default();
            files.elsewhere |= rows.is_empty();
            for name in rows.into_iter().filter_map(|row| row.into_iter().next()?) {
                let path = PathBuf::from(name);
                let stamp = Stamp::of(&path);
                files.elsewhere |= stamp.is_none();
                files.known.push((path, stamp));
            }
        }
        Ok(files)
    }

    /// Whether `tree`, for which these were looked up, reads nothing else that could change.
    pub(super) fn are_all_of(&self, tree: &Value) -> bool {
        !self.elsewhere && reads_files_only(tree)
    }

    /// They are what they were.
    ///
    /// # Errors
    /// [`ErrorKind::Transaction`] with the first that is not.
    pub fn unchanged(&self) -> Result<(), Error> {
        match self.known.iter().find(|(path, stamp)| Stamp::of(path) != *stamp) {
            None => Ok(()),
            Some((path, _)) => Err(Error::new(
                ErrorKind::Transaction,
                format!(
                    "the answer is withheld: the file {} was changed or replaced while the pieces read it, so they may have \
                     read different rows; nothing was written: run the statement again",
                    path.display()
                ),
            )),
        }
    }
}
