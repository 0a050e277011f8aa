//! What is in a directory of pieces, or in tables, as it is kept with them. Pure.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::partition::plan::{Plan, Rule};

/// The manifest's file in the directory. Readers of a directory leave out names that begin with an underscore.
pub(super) const FILE: &str = "_duckward.json";
/// The form in which manifests are kept.
const VERSION: u32 = 1;
/// How the digests of pieces are made.
const DIGEST: &str = "two sums of DuckDB's hash over all rows";
/// Bytes of a directory's name that come from a value.
const LONGEST: usize = 150;

/// What the pieces are, in a directory or in tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// How it was cut.
    pub plan: Plan,
    /// The columns of the files or tables: name and type.
    pub columns: Vec<(String, String)>,
    /// The DuckDB that wrote it, and whose hash the pieces' digests are made of.
    pub duckdb: String,
    /// How the pieces' digests are made; files have SHA-256.
    pub digest: String,
    /// The pieces that have rows, in order.
    pub pieces: Vec<Part>,
    /// SHA-256 of all of this without it, so that an edited manifest is told from one that was written.
    checksum: String,
}

/// A piece that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its name in the plan.
    pub name: String,
    /// What its rows fulfil.
    pub condition: String,
    /// Rows, counted in what was written.
    pub rows: u64,
    /// 128 bits over its rows, as hexadecimal digits, whatever their order; the same in the source when it was written.
    pub digest: String,
    /// The NULLs in each column, in the order of the columns, where the pieces are files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nulls: Vec<u64>,
    /// Its table, where the pieces are tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Its files, where they are files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileOnDisk>,
}

/// A file of a piece.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOnDisk {
    /// Its path in the directory, parted by slashes.
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256, as hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    pub(in crate::partition) fn new(
        plan: Plan,
        columns: Vec<(String, String)>,
        duckdb: String,
        pieces: Vec<Part>,
    ) -> Self {
        Manifest {
            version: VERSION,
            plan,
            columns,
            duckdb,
            digest: DIGEST.to_owned(),
            pieces,
            checksum: String::new(),
        }
    }

    /// The manifest as JSON, to be kept.
    pub(in crate::partition) fn seal(&mut self) -> String {
        self.checksum = self.sum();
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    fn sum(&self) -> String {
        let mut bare = self.clone();
        bare.checksum = String::new();
        let text = serde_json::to_string(&bare).unwrap_or_default();
        hexadecimal(&Sha256::digest(text.as_bytes()))
    }

    /// What a piece's files are called, by the name of the piece.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &FileOnDisk)> {
        self.pieces
            .iter()
            .flat_map(|part| part.files.iter().map(|file| (part.name.as_str(), file)))
    }

    /// Rows of all pieces.
    pub fn rows(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.rows).sum()
    }

    /// Reads what is kept; `name` is what people know it by.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is no manifest, or one of another version.
    pub fn from_json(name: &str, json: &str) -> Result<Self> {
        let no = |why: String| Error::new(ErrorKind::Invalid, format!("{name} is no manifest: {why}"));
        let manifest: Manifest = serde_json::from_str(json).map_err(|error| no(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(no(format!("it has version {}, not {VERSION}", manifest.version)));
        }
        if manifest.checksum != manifest.sum() {
            return Err(no("somebody has edited it; partition anew".to_owned()));
        }
        Ok(manifest)
    }
}

/// The directory of a piece: `ts_month=2024-01`, or one in another where there are several cuts.
pub(super) fn directory(plan: &Plan, piece: usize) -> String {
    let mut rest = piece;
    let mut levels = Vec::new();
    for cut in plan.cuts.iter().rev() {
        let slot = rest % cut.slots();
        rest /= cut.slots();
        let kind = match &cut.rule {
            Rule::Time { step, .. } => step.name(),
            Rule::Range { .. } => "range",
            Rule::Hash { .. } => "hash",
            Rule::Value { .. } => "value",
        };
        levels.push(format!(
            "{}_{kind}={}",
            encoded(&cut.column),
            encoded(&cut.name(slot))
        ));
    }
    levels.reverse();
    levels.join("/")
}

/// A text as part of a directory's name: what is not harmless everywhere as `%` and two hexadecimal digits, as in an address.
/// A long one is shortened, and its hash told.
fn encoded(text: &str) -> String {
    let mut all = String::new();
    for (index, byte) in text.bytes().enumerate() {
        let harmless =
            byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || (byte == b'.' && index > 0);
        if harmless {
            all.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(all, "%{byte:02X}");
        }
    }
    if all.len() <= LONGEST {
        return all;
    }
    let hash = Sha256::digest(text.as_bytes());
    format!("{}-{}", &all[..LONGEST - 17], &hexadecimal(&hash)[..16])
}

/// Bytes as hexadecimal digits.
pub(in crate::partition) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_of_directories_are_harmless_and_differ() {
        let long = ["x".repeat(300), format!("{}y", "x".repeat(299))];
        let texts = [
            "..", ".", "a/b", "a%2Fb", "it's", "日本", "DE", "", " ", &long[0], &long[1], "a", "A",
        ];
        let names: BTreeSet<String> = texts.iter().map(|text| encoded(text)).collect();
        assert_eq!(names.len(), texts.len(), "{names:?}");
        for name in names {
            assert!(
                name.len() <= LONGEST && !name.contains('/') && !name.starts_with('.'),
                "{name}"
            );
        }
        assert_eq!(encoded("2024-01"), "2024-01");
    }
}
