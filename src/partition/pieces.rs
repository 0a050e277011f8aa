//! The files or tables of a partitioning as pieces that can be validated. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::done::{Partitioning, Place};
use super::lake::{Manifest, Part};
use super::plan::Plan;
use super::tables::union;
use crate::engine::source::Source;
use crate::engine::text::{plain_pattern, quoted, quoted_name};
use crate::validate::{Kept, Layout, PIECE, Piece, PieceDigest, PieceSet, Planned};

impl Partitioning {
    /// Its pieces, in the order of the plan, those without rows too.
    pub fn pieces(&self) -> PieceSet {
        self.set(false)
    }

    /// The same, where [`check`](super::lake::check) has just found nothing: files whose bytes are what was written have what
    /// was found of them then, and need not be read.
    pub fn unchanged(&self) -> PieceSet {
        // Tables have no checksums: what is in them is known when they are read.
        if let Place::Tables(_) = self.place {
            return self.pieces();
        }
        let manifest = &self.manifest;
        let digest = |(number, part): (usize, &Part)| {
            let found = PieceDigest {
                rows: part.rows,
                digest: part.digest.clone(),
                nulls: part.nulls.clone(),
            };
            (number, found)
        };
        self.set(false).with_kept(Kept {
            duckdb: manifest.duckdb.clone(),
            columns: [manifest.plan.columns.clone(), manifest.columns.clone()],
            pieces: parts(manifest).into_iter().map(digest).collect(),
        })
    }

    /// Its pieces, with the place of each row in its piece as `rowid`: that of its table; of files their order, and the row's
    /// number in its own.
    pub(super) fn placed(&self) -> PieceSet {
        self.set(true)
    }

    fn set(&self, is_placed: bool) -> PieceSet {
        let plan = &self.manifest.plan;
        let empty = self.empty();
        let mut standing: BTreeMap<&str, String> = self
            .manifest
            .pieces
            .iter()
            .map(|part| (part.name.as_str(), self.relation(part)))
            .collect();
        let pieces = plan
            .pieces
            .iter()
            .map(|piece| Piece {
                name: piece.name.clone(),
                source: Source {
                    name: piece.name.clone(),
                    relation: standing
                        .remove(piece.name.as_str())
                        .unwrap_or_else(|| empty.clone()),
                },
                condition: Some(piece.condition.clone()),
            })
            .collect();
        let cut_by = plan
            .cuts
            .iter()
            .map(|cut| (cut.column.clone(), cut.type_name.clone()));
        let rowid = if is_placed { "0::BIGINT AS rowid, " } else { "" };
        let (rows, numbered) = if self.manifest.pieces.is_empty() {
            (
                empty.clone(),
                format!("(SELECT *, {rowid}0::BIGINT AS {PIECE} FROM {empty})"),
            )
        } else {
            (
                format!("({})", self.query()),
                numbered(&self.place, &parts(&self.manifest), is_placed),
            )
        };
        let planned = Planned {
            rows,
            numbered,
            layout: Arc::new(plan.clone()),
            cut_by: cut_by.collect(),
            kept: None,
        };
        PieceSet::planned(self.place.to_string(), pieces, planned)
    }

    /// The rows of a piece; of a table by its name, so that its rows have their numbers.
    pub(super) fn relation(&self, part: &Part) -> String {
        match (&self.place, &part.table) {
            (Place::Directory(_), _) => relation(&self.place, std::iter::once(part)),
            (Place::Tables(home), Some(table)) => home.table(table),
            (Place::Tables(_), None) => self.empty(),
        }
    }

    /// The rows of a piece in files, each with its place as `rowid`.
    pub(super) fn placed_in_files(&self, path: &Path, part: &Part) -> String {
        listed(path, in_order(part, 0), true)
    }

    /// A relation of the same columns without rows.
    fn empty(&self) -> String {
        let columns: Vec<String> = self
            .manifest
            .columns
            .iter()
            .map(|(name, kind)| format!("NULL::{kind} AS {}", quoted_name(name)))
            .collect();
        format!("(SELECT {} WHERE false)", columns.join(", "))
    }
}

/// Rows whose piece is where they lie, whatever the plan says of their columns.
#[derive(Debug)]
pub(super) struct Located<'a> {
    plan: &'a Plan,
    numbered: String,
}

impl<'a> Located<'a> {
    /// The rows of these pieces, which have these numbers in the plan.
    pub(super) fn new(place: &Place, plan: &'a Plan, parts: &[(usize, &Part)]) -> Self {
        Located {
            plan,
            numbered: numbered(place, parts, false),
        }
    }
}

impl Layout for Located<'_> {
    fn is_said_by_rows(&self) -> bool {
        false
    }

    fn numbered(&self, _relation: &str) -> String {
        self.numbered.clone()
    }

    fn name(&self, piece: usize) -> String {
        Layout::name(self.plan, piece)
    }
}

/// The pieces that have rows, each with its number in the plan.
pub(super) fn parts(manifest: &Manifest) -> Vec<(usize, &Part)> {
    let all = manifest.plan.pieces.iter().enumerate();
    let numbers: BTreeMap<&str, usize> = all.map(|(number, piece)| (piece.name.as_str(), number)).collect();
    let number = |part: &Part| numbers.get(part.name.as_str()).copied();
    manifest
        .pieces
        .iter()
        .filter_map(|part| Some((number(part)?, part)))
        .collect()
}

/// The rows of some pieces, of one or more.
pub(super) fn relation<'a>(place: &Place, parts: impl Iterator<Item = &'a Part>) -> String {
    match place {
        Place::Directory(path) => {
            let files: Vec<String> = parts
                .flat_map(|part| part.files.iter().map(|file| read(path, &file.path)))
                .collect();
            format!("read_parquet([{}], hive_partitioning = false)", files.join(", "))
        }
        Place::Tables(home) => {
            let tables: Vec<String> = parts
                .filter_map(|part| Some(format!("SELECT * FROM {}", home.table(part.table.as_ref()?))))
                .collect();
            format!("({})", union(&tables))
        }
    }
}

/// The same, each row with the number of its piece: that of its table, or by the path of its file; with `is_placed` also with
/// its place there, as `rowid`.
pub(super) fn numbered(place: &Place, parts: &[(usize, &Part)], is_placed: bool) -> String {
    let path = match place {
        Place::Tables(home) => {
            let rowid = if is_placed { "rowid AS rowid, " } else { "" };
            let tables: Vec<String> = parts
                .iter()
                .filter_map(|(number, part)| {
                    let table = home.table(part.table.as_ref()?);
                    Some(format!(
                        "SELECT *, {rowid}{number}::BIGINT AS {PIECE} FROM {table}"
                    ))
                })
                .collect();
            return format!("({})", union(&tables));
        }
        Place::Directory(path) => path,
    };
    let files = parts.iter().flat_map(|(number, part)| in_order(part, *number));
    listed(path, files, is_placed)
}

/// Rows of a file at most, as its place goes.
const ROWS_BITS: u32 = 40;

/// A file of a piece: its path, the number of the piece, and which of its files it is.
type Listed<'a> = (&'a str, usize, usize);

fn in_order<'a>(part: &'a Part, number: usize) -> impl Iterator<Item = Listed<'a>> {
    let files = part.files.iter().enumerate();
    files.map(move |(place, file)| (file.path.as_str(), number, place))
}

/// The rows of files in a directory, each with the number of its piece; with `is_placed` also with its place there, as `rowid`.
fn listed<'a>(path: &Path, files: impl Iterator<Item = Listed<'a>>, is_placed: bool) -> String {
    let (paths, places): (Vec<String>, Vec<String>) = files
        .map(|(file, number, place)| {
            let full = quoted(&path.join(file).display().to_string());
            (
                read(path, file),
                format!("({full}, {number}::BIGINT, {place}::BIGINT)"),
            )
        })
        .unzip();
    let (option, hidden, rowid) = if is_placed {
        let rowid = format!(", (duckward_place << {ROWS_BITS}) + file_row_number AS rowid");
        (", file_row_number = true", ", file_row_number", rowid)
    } else {
        ("", "", String::new())
    };
    // A file that were not in the list would give NULL, which is no number, and not be left out.
    format!(
        "(SELECT duckward_rows.* EXCLUDE (duckward_file{hidden}), {PIECE}{rowid} FROM \
         read_parquet([{}], hive_partitioning = false, filename = 'duckward_file'{option}) AS duckward_rows \
         LEFT JOIN (VALUES {}) AS duckward_files(duckward_path, {PIECE}, duckward_place) ON duckward_file = duckward_path)",
        paths.join(", "),
        places.join(", ")
    )
}

/// The path of a file as DuckDB reads it: a bracket or a star in it is none of a pattern.
fn read(directory: &Path, file: &str) -> String {
    quoted(&plain_pattern(&directory.join(file).display().to_string()))
}
