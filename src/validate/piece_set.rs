//! What is checked: one source, or several that are its pieces. Pure, but for the question what columns they have.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::compare::same_name;
use super::sql::comparable;
use super::{Digests, Layout, counted, shown};
use crate::engine::source::Source;
use crate::engine::text::quoted_name;
use crate::engine::{Ask, described};
use crate::error::{Error, Result};

/// The most pieces that are named one by one: each is a part of one statement.
const MOST: usize = 1000;
/// Names of pieces that stand for all of them.
const NAMED: usize = 3;
/// The column that tells pieces apart where one relation has the rows of all.
pub const PIECE: &str = "duckward_piece";

/// A piece of what is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What it is called.
    pub name: String,
    /// Its rows.
    pub source: Source,
    /// What the rows of it fulfil, and no others, as SQL; none where nobody says.
    pub condition: Option<String>,
}

/// How pieces were cut, where a plan says it.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The rows of all pieces as a relation.
    pub rows: String,
    /// The same, with the number of each one's piece, from 0, in [`PIECE`].
    pub numbered: String,
    /// Which piece a row of the source belongs to.
    pub layout: Arc<dyn Layout + Send + Sync>,
    /// The columns of the source that this needs: name and type.
    pub cut_by: Vec<(String, String)>,
    /// What the pieces have, where it is known that they did not change since that was written down.
    pub kept: Option<Kept>,
}

/// What was found of pieces when they were written, and each row where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The DuckDB whose hash the digests are made of.
    pub duckdb: String,
    /// The columns of the source, and of the pieces: name and type.
    pub columns: [Vec<(String, String)>; 2],
    /// The pieces that have rows.
    pub pieces: Digests,
}

/// One source, or several that are its pieces, in order.
#[derive(Clone, Debug)]
pub struct PieceSet {
    name: String,
    pieces: Vec<Piece>,
    is_whole: bool,
    planned: Option<Planned>,
}

impl PieceSet {
    /// A source that is not in pieces.
    pub fn whole(source: Source) -> Self {
        PieceSet {
            name: source.name.clone(),
            pieces: vec![Piece {
                name: source.name.clone(),
                source,
                condition: None,
            }],
            is_whole: true,
            planned: None,
        }
    }

    /// Pieces that somebody names, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for none, more than a thousand, or two of one name.
    pub fn named(pieces: Vec<(String, Source)>) -> Result<Self> {
        let count = pieces.len();
        if count == 0 || count > MOST {
            let accepted = format!("give 1 to {MOST} tables, files or queries");
            return Err(Error::invalid(
                "pieces",
                counted(count as u64, "piece"),
                &accepted,
            ));
        }
        let mut names = BTreeSet::new();
        if let Some((name, _)) = pieces.iter().find(|(name, _)| !names.insert(name.as_str())) {
            let accepted = "two pieces have this name; give a mapping with a name for each";
            return Err(Error::invalid("pieces", format_args!("{name:?}"), accepted));
        }
        let mut name: Vec<String> = pieces.iter().take(NAMED).map(|(name, _)| shown(name)).collect();
        if count > NAMED {
            name.push(format!("and {} more", count - NAMED));
        }
        Ok(PieceSet {
            name: name.join(", "),
            pieces: pieces
                .into_iter()
                .map(|(name, source)| Piece {
                    name,
                    source,
                    condition: None,
                })
                .collect(),
            is_whole: false,
            planned: None,
        })
    }

    /// Pieces that a plan has cut, in its order.
    pub fn planned(name: String, pieces: Vec<Piece>, planned: Planned) -> Self {
        PieceSet {
            name,
            pieces,
            is_whole: false,
            planned: Some(planned),
        }
    }

    /// The same, where a plan has cut them and this is known of them.
    pub fn with_kept(mut self, kept: Kept) -> Self {
        if let Some(planned) = &mut self.planned {
            planned.kept = Some(kept);
        }
        self
    }

    /// What all of it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    pub(super) fn plan(&self) -> Option<&Planned> {
        self.planned.as_ref()
    }

    /// The piece's name, for a finding about it; a source that is not in pieces has none.
    pub(super) fn label(&self, piece: usize) -> Option<String> {
        let piece = self.pieces.get(piece).filter(|_| !self.is_whole)?;
        Some(piece.name.clone())
    }

    /// "piece x", as a message names it.
    pub(super) fn called(&self, piece: usize) -> String {
        self.label(piece)
            .map_or_else(|| self.name.clone(), |name| format!("piece {}", shown(&name)))
    }

    /// All rows, as one relation with the columns that the first piece has.
    pub fn union(&self) -> Source {
        let relation = match &self.planned {
            Some(planned) => planned.rows.clone(),
            None => {
                let each: Vec<String> = self
                    .pieces
                    .iter()
                    .map(|piece| format!("SELECT * FROM {}", piece.source.relation))
                    .collect();
                format!("({})", each.join(" UNION ALL BY NAME "))
            }
        };
        Source {
            name: self.name.clone(),
            relation,
        }
    }
}

/// A column as the pieces have it: one name and type for each relation that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picked {
    /// The name in the first of them.
    pub name: String,
    names: Vec<String>,
    pub types: Vec<String>,
}

/// Pieces, and the columns of each relation that their rows are read from.
#[derive(Debug)]
pub(super) struct Described<'a> {
    pub set: &'a PieceSet,
    /// Of each relation the name and type of its columns. Pieces that a plan has cut are in one.
    pub columns: Vec<Vec<(String, String)>>,
}

impl<'a> Described<'a> {
    pub(super) fn ask<E>(ask: &mut dyn Ask<E>, set: &'a PieceSet) -> Result<Self, E> {
        let columns = match set.plan() {
            Some(_) => vec![described(ask, &set.union().relation)?],
            None => set
                .pieces
                .iter()
                .map(|piece| described(ask, &piece.source.relation))
                .collect::<Result<_, E>>()?,
        };
        Ok(Described { set, columns })
    }

    /// The column of that name, if all pieces have it; otherwise the number of the first relation that has not.
    pub(super) fn find(&self, name: &str) -> Result<Picked, usize> {
        let mut picked = Picked {
            name: String::new(),
            names: Vec::new(),
            types: Vec::new(),
        };
        for (number, columns) in self.columns.iter().enumerate() {
            let (name, kind) = columns
                .iter()
                .find(|(other, _)| same_name(other, name))
                .ok_or(number)?;
            picked.names.push(name.clone());
            picked.types.push(kind.clone());
        }
        picked.name = picked.names[0].clone();
        Ok(picked)
    }

    /// The columns that an argument names.
    pub(super) fn pick(&self, setting: &str, names: &[String]) -> Result<Vec<Picked>> {
        names
            .iter()
            .map(|name| {
                self.find(name).map_err(|number| {
                    let columns: Vec<&str> = self.columns[number]
                        .iter()
                        .map(|(name, _)| name.as_str())
                        .collect();
                    let whose = if self.columns.len() == 1 {
                        self.set.name.clone()
                    } else {
                        self.set.called(number)
                    };
                    let accepted = format!("{whose} has the columns {}", columns.join(", "));
                    Error::invalid(setting, format_args!("{name:?}"), &accepted)
                })
            })
            .collect()
    }

    /// The rows of all pieces: the number of the piece in `p`, then these columns as `k0`, `k1`, ..., made comparable among
    /// the pieces and with values of the `others`' types.
    pub(super) fn read(&self, columns: &[Picked], others: &[&str]) -> String {
        self.each(&|relation| keys(columns, others, relation))
    }

    /// The same with what orders rows, as `o0`, `o1`, ..., and with `rowid` as `r`: of tables.
    pub(super) fn read_ordered(&self, columns: &[Picked], order: &[Picked]) -> String {
        self.each(&|relation| {
            let order: String = order
                .iter()
                .enumerate()
                .map(|(index, column)| format!(", {} AS o{index}", quoted_name(&column.names[relation])))
                .collect();
            format!("{}{order}, rowid AS r", keys(columns, &[], relation))
        })
    }

    /// The same of one column, of which `step` makes what is read, by its name and type.
    pub(super) fn read_as(&self, column: &Picked, step: &dyn Fn(&str, &str) -> String) -> String {
        self.each(&|relation| {
            let name = quoted_name(&column.names[relation]);
            format!(", {} AS k0", step(&name, &column.types[relation]))
        })
    }

    /// What is read of each relation, under the number of the piece.
    fn each(&self, list: &dyn Fn(usize) -> String) -> String {
        if let Some(planned) = self.set.plan() {
            return format!("SELECT {PIECE}::BIGINT AS p{} FROM {}", list(0), planned.numbered);
        }
        let each: Vec<String> = self
            .set
            .pieces
            .iter()
            .enumerate()
            .map(|(number, piece)| {
                format!(
                    "SELECT {number}::BIGINT AS p{} FROM {} AS duckward_{number}",
                    list(number),
                    piece.source.relation
                )
            })
            .collect();
        each.join(" UNION ALL ")
    }
}

/// Columns as a relation has them, read as `k0`, `k1`, ....
fn keys(columns: &[Picked], others: &[&str], relation: usize) -> String {
    columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let types = column.types.iter().map(String::as_str);
            let types: Vec<&str> = types.chain(others.get(index).copied()).collect();
            format!(
                ", {}{} AS k{index}",
                quoted_name(&column.names[relation]),
                comparable(&types)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::parse(text).unwrap()
    }

    fn two() -> PieceSet {
        PieceSet::named(vec![
            ("a".to_owned(), source("a")),
            ("b \n".to_owned(), source("b")),
        ])
        .unwrap()
    }

    #[test]
    fn pieces_are_named_and_each_otherwise() {
        assert_eq!(two().name(), "a, b \\n");
        assert_eq!(two().called(1), "piece b \\n");
        assert_eq!(PieceSet::whole(source("t")).label(0), None);
        for pieces in [
            Vec::new(),
            vec![("a".to_owned(), source("a")), ("a".to_owned(), source("b"))],
            vec![("a".to_owned(), source("a")); MOST + 1],
        ] {
            assert!(PieceSet::named(pieces).is_err());
        }
    }

    #[test]
    fn a_column_is_found_whatever_its_case_and_read_as_one_type() {
        let set = two();
        let described = Described {
            set: &set,
            columns: vec![
                vec![("Id".to_owned(), "INTEGER".to_owned())],
                vec![
                    ("x".to_owned(), "DATE".to_owned()),
                    ("ID".to_owned(), "VARCHAR".to_owned()),
                ],
            ],
        };
        let picked = described.pick("on", &["iD".to_owned()]).unwrap();
        assert_eq!(
            described.read(&picked, &[]),
            "SELECT 0::BIGINT AS p, \"Id\"::VARCHAR COLLATE C AS k0 FROM \"a\" AS duckward_0 UNION ALL \
             SELECT 1::BIGINT AS p, \"ID\"::VARCHAR COLLATE C AS k0 FROM \"b\" AS duckward_1"
        );
        let error = described.pick("on", &["x".to_owned()]).unwrap_err();
        assert_eq!(
            error.message(),
            "on=\"x\" is not accepted: piece a has the columns Id"
        );
    }
}
