//! The files of a partitioning as pieces that can be validated. Pure.

use std::collections::BTreeMap;

use super::lake::Partitioning;
use crate::engine::source::Source;
use crate::engine::text::{quoted, quoted_name};
use crate::validate::{Layout, PIECE, Piece, PieceSet, Planned};

impl Partitioning {
    /// Its pieces, in the order of the plan, those without rows too.
    pub fn pieces(&self) -> PieceSet {
        let plan = &self.manifest.plan;
        let empty = self.empty();
        let mut files: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, path) in self.files() {
            files.entry(name).or_default().push(read(&path));
        }
        let pieces = plan
            .pieces
            .iter()
            .map(|piece| {
                let relation = match files.get(piece.name.as_str()) {
                    None => empty.clone(),
                    Some(files) => read_all(files),
                };
                Piece {
                    name: piece.name.clone(),
                    source: Source {
                        name: piece.name.clone(),
                        relation,
                    },
                    condition: Some(piece.condition.clone()),
                }
            })
            .collect();
        let cut_by = plan
            .cuts
            .iter()
            .map(|cut| (cut.column.clone(), cut.type_name.clone()));
        let all: Vec<String> = files.into_values().flatten().collect();
        let planned = Planned {
            rows: if all.is_empty() {
                empty.clone()
            } else {
                read_all(&all)
            },
            numbered: self.numbered(&empty),
            number: plan.number(),
            cut_by: cut_by.collect(),
        };
        PieceSet::planned(self.path.display().to_string(), pieces, planned)
    }

    /// The piece and the path of each file.
    fn files(&self) -> impl Iterator<Item = (&str, String)> {
        self.manifest.pieces.iter().flat_map(|part| {
            part.files.iter().map(|file| {
                (
                    part.name.as_str(),
                    self.path.join(&file.path).display().to_string(),
                )
            })
        })
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

    /// The rows of all files, each with the number of its piece, which is found by its file's path.
    fn numbered(&self, empty: &str) -> String {
        let numbers: BTreeMap<&str, usize> = self
            .manifest
            .plan
            .pieces
            .iter()
            .enumerate()
            .map(|(number, piece)| (piece.name.as_str(), number))
            .collect();
        let (paths, places): (Vec<String>, Vec<String>) = self
            .files()
            .map(|(piece, path)| {
                let number = numbers
                    .get(piece)
                    .map_or_else(|| "NULL".to_owned(), usize::to_string);
                (read(&path), format!("({}, {number}::BIGINT)", quoted(&path)))
            })
            .unzip();
        if paths.is_empty() {
            return format!("(SELECT *, 0::BIGINT AS {PIECE} FROM {empty})");
        }
        // A file that were not in the list would give NULL, which is no number, and not be left out.
        format!(
            "(SELECT duckward_rows.* EXCLUDE (duckward_file), {PIECE} FROM \
             read_parquet([{}], hive_partitioning = false, filename = 'duckward_file') AS duckward_rows \
             LEFT JOIN (VALUES {}) AS duckward_files(duckward_path, {PIECE}) ON duckward_file = duckward_path)",
            paths.join(", "),
            places.join(", ")
        )
    }
}

/// Files, as a relation.
fn read_all(files: &[String]) -> String {
    format!("read_parquet([{}], hive_partitioning = false)", files.join(", "))
}

/// A path as DuckDB reads it: a bracket or a star in it is none of a pattern.
fn read(path: &str) -> String {
    let fixed: String = path
        .chars()
        .map(|letter| match letter {
            '*' | '?' | '[' => format!("[{letter}]"),
            letter => letter.to_string(),
        })
        .collect();
    quoted(&fixed)
}
