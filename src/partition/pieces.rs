//! The files or tables of a partitioning as pieces that can be validated. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use super::done::{Partitioning, Place};
use super::lake::Part;
use super::tables::union;
use crate::engine::source::Source;
use crate::engine::text::{plain_pattern, quoted, quoted_name};
use crate::validate::{PIECE, Piece, PieceSet, Planned};

impl Partitioning {
    /// Its pieces, in the order of the plan, those without rows too.
    pub fn pieces(&self) -> PieceSet {
        self.set(false)
    }

    /// The same, with the place of each row in its piece as `rowid`: that of its table; of files their order, and the row's
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
        let planned = Planned {
            rows: if self.manifest.pieces.is_empty() {
                empty.clone()
            } else {
                format!("({})", self.query())
            },
            numbered: self.numbered(&empty, is_placed),
            number: plan.number(),
            cut_by: cut_by.collect(),
        };
        PieceSet::planned(self.place.to_string(), pieces, planned)
    }

    /// The rows of a piece.
    pub(super) fn relation(&self, part: &Part) -> String {
        match (&self.place, &part.table) {
            (Place::Directory(path), _) => {
                let files: Vec<String> = part.files.iter().map(|file| read(path, &file.path)).collect();
                format!("read_parquet([{}], hive_partitioning = false)", files.join(", "))
            }
            (Place::Tables(home), Some(table)) => home.table(table),
            (Place::Tables(_), None) => self.empty(),
        }
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

    /// The rows of a piece in files, each with its place as `rowid`.
    pub(super) fn placed_in_files(&self, path: &Path, part: &Part) -> String {
        listed(path, in_order(part, "0"), true)
    }

    /// The rows of all pieces, each with the number of its piece: that of its table, or by the path of its file.
    fn numbered(&self, empty: &str, is_placed: bool) -> String {
        let plan = &self.manifest.plan;
        let numbers: BTreeMap<&str, usize> = plan
            .pieces
            .iter()
            .enumerate()
            .map(|(number, piece)| (piece.name.as_str(), number))
            .collect();
        let number = |part: &Part| {
            let number = numbers.get(part.name.as_str());
            number.map_or_else(|| "NULL".to_owned(), usize::to_string)
        };
        let parts = &self.manifest.pieces;
        let path = match &self.place {
            _ if parts.is_empty() => {
                let place = if is_placed { ", 0::BIGINT AS rowid" } else { "" };
                return format!("(SELECT *, 0::BIGINT AS {PIECE}{place} FROM {empty})");
            }
            Place::Tables(_) => {
                let place = if is_placed { "rowid AS rowid, " } else { "" };
                let tables: Vec<String> = parts
                    .iter()
                    .map(|part| {
                        format!(
                            "SELECT *, {place}{}::BIGINT AS {PIECE} FROM {}",
                            number(part),
                            self.relation(part)
                        )
                    })
                    .collect();
                return format!("({})", union(&tables));
            }
            Place::Directory(path) => path,
        };
        let numbers: Vec<String> = parts.iter().map(number).collect();
        let files = parts
            .iter()
            .zip(&numbers)
            .flat_map(|(part, number)| in_order(part, number));
        listed(path, files, is_placed)
    }
}

/// Rows of a file at most, as its place goes.
const ROWS_BITS: u32 = 40;

/// A file of a piece: its path, the number of the piece, and which of its files it is.
type Listed<'a> = (&'a str, &'a str, usize);

fn in_order<'a>(part: &'a Part, number: &'a str) -> impl Iterator<Item = Listed<'a>> {
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
