//! The files or tables of a partitioning as pieces that can be validated. Pure.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::done::{Partitioning, Place};
use super::lake::Part;
use super::tables::union;
use crate::engine::source::Source;
use crate::engine::text::{plain_pattern, quoted, quoted_name};
use crate::validate::{PIECE, Piece, PieceSet, Planned};

impl Partitioning {
    /// Its pieces, in the order of the plan, those without rows too.
    pub fn pieces(&self) -> PieceSet {
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
            numbered: self.numbered(&empty),
            layout: Arc::new(plan.clone()),
            cut_by: cut_by.collect(),
        };
        PieceSet::planned(self.place.to_string(), pieces, planned)
    }

    /// The rows of a piece.
    fn relation(&self, part: &Part) -> String {
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

    /// The rows of all pieces, each with the number of its piece: that of its table, or by the path of its file.
    fn numbered(&self, empty: &str) -> String {
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
            _ if parts.is_empty() => return format!("(SELECT *, 0::BIGINT AS {PIECE} FROM {empty})"),
            Place::Tables(_) => {
                let tables: Vec<String> = parts
                    .iter()
                    .map(|part| {
                        format!(
                            "SELECT *, {}::BIGINT AS {PIECE} FROM {}",
                            number(part),
                            self.relation(part)
                        )
                    })
                    .collect();
                return format!("({})", union(&tables));
            }
            Place::Directory(path) => path,
        };
        let (paths, places): (Vec<String>, Vec<String>) = parts
            .iter()
            .flat_map(|part| part.files.iter().map(move |file| (part, &file.path)))
            .map(|(part, file)| {
                let place = quoted(&path.join(file).display().to_string());
                (read(path, file), format!("({place}, {}::BIGINT)", number(part)))
            })
            .unzip();
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

/// The path of a file as DuckDB reads it: a bracket or a star in it is none of a pattern.
fn read(directory: &Path, file: &str) -> String {
    quoted(&plain_pattern(&directory.join(file).display().to_string()))
}
