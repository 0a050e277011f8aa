//! A source against its pieces. Where it is known what the pieces have, only the source is read. Where a plan says which rows
//! belong into a piece, one pass asks whether they are where they belong, and whether they are together those of the source:
//! that costs the same however many pieces there are. Where not all is well, another gives the totals of every piece on both sides; only pieces that differ are looked into.
//!
//! Where a plan says which rows belong into a piece, each differing piece is compared by itself, so whatever is found of it is
//! found there. Otherwise the rows are compared as one, and those that the source has not, or less often, are looked for in the
//! pieces.

use std::collections::BTreeMap;

use super::compare::{ByPiece, Options, Placed, compare, of_column, same_name, totals_of, verdict};
use super::keys::{Examples, findings, index};
use super::piece_set::{Described, Kept, PIECE, Picked, Piece, Planned};
use super::sql::{self, Shared, comparable};
use super::{Finding, FindingKind, PieceRows, Validation, counted, shown};
use crate::engine::source::Source;
use crate::engine::text::quoted_name;
use crate::engine::{Ask, version};
use crate::error::{Error, ErrorKind, Result};

/// Differing pieces that are compared one by one; of more it is only told that they differ.
const LOOKED_INTO: usize = 32;

/// The column that says in which piece a row lies, beside the one that says where it belongs.
const LYING: &str = "duckward_lying";

/// What the two sides have in common.
struct Common {
    shared: Vec<Shared>,
    picked: Vec<Picked>,
}

/// Compares pieces with the source, whose columns are `columns`. Keys are not looked at but to name changed rows.
///
/// # Errors
/// [`ErrorKind::Invalid`] where nothing can be compared; those of whoever is asked.
pub(super) fn compare_pieces<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    source: &Source,
    columns: &[(String, String)],
    rows: &Described<'_>,
    options: &Options,
) -> Result<Validation, E> {
    let (common, mut findings) = matched(source, columns, rows)?;
    let plan = rows.set.plan().filter(|plan| fits(plan, columns));
    let outside = rows.set.pieces().len();
    let numbered = match plan {
        Some(plan) => plan.layout.numbered(&source.relation),
        None => format!("(SELECT *, {outside} AS {PIECE} FROM {})", source.relation),
    };
    let both = both(&numbered, rows, &common);
    let count = common.shared.len();
    let mut whole = match rows.set.plan().and_then(|plan| plan.kept.as_ref()) {
        Some(kept) if kept.columns[0] == columns && kept.columns[1] == rows.columns[0] => {
            as_kept(ask, source, kept, &common)?
        }
        _ => None,
    };
    if let Some(plan) = plan.filter(|plan| whole.is_none() && fits(plan, &rows.columns[0])) {
        whole = in_place(ask, source, plan, &common)?;
    }
    let found = match whole {
        Some(found) => found,
        None => totals_of(&ask.ask(&sql::totals_by_piece(&both, count))?, count)?,
    };
    if plan.is_some() {
        findings.extend(piece_by_piece(ask, source, rows, &common, &found, options)?);
    } else if found.all[0] != found.all[1] {
        findings.extend(as_one(ask, source, rows, &common, options)?);
        findings.extend(strangers(ask, &both, rows, &common, options.examples)?);
    }
    let union = rows.set.union();
    let mut validation = verdict(
        [source, &union],
        options.on.clone(),
        &common.shared,
        &found.all,
        findings,
    );
    validation.pieces = pieces(rows, &common, &found);
    Ok(validation)
}

/// The totals of every piece as they were kept, if the source has those rows now and no others; only it is read.
fn as_kept<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    source: &Source,
    kept: &Kept,
    common: &Common,
) -> Result<Option<ByPiece>, E> {
    if version(ask)? != kept.duckdb {
        return Ok(None);
    }
    let count = common.shared.len();
    let left = sql::left_placed(source, &common.shared);
    let rows = ask.ask(&sql::totals_placed(&left, count))?;
    let placed = Placed::kept(&rows, count, &kept.pieces)?;
    Ok(placed.filter(Placed::is_whole).map(Placed::by_piece))
}

/// The totals of every piece, if all rows of the source are in them, no others, and each where it belongs; of the source only
/// those of all its rows.
fn in_place<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    source: &Source,
    plan: &Planned,
    common: &Common,
) -> Result<Option<ByPiece>, E> {
    let lying = format!(
        "(SELECT * EXCLUDE ({PIECE}), {PIECE} AS {LYING} FROM {})",
        plan.numbered
    );
    let numbered = Source {
        name: String::new(),
        relation: plan.layout.numbered(&lying),
    };
    let both = sql::both_placed(source, &numbered, LYING, PIECE, &common.shared);
    let count = common.shared.len();
    let placed = Placed::read(&ask.ask(&sql::totals_placed(&both, count))?, count)?;
    Ok(placed.is_whole().then(|| placed.by_piece()))
}

/// Whether there are the columns that the plan cuts by.
fn fits(plan: &Planned, columns: &[(String, String)]) -> bool {
    plan.cut_by.iter().all(|wanted| columns.contains(wanted))
}

/// The columns that both sides have, and what is wrong with the others, by piece.
fn matched(
    source: &Source,
    columns: &[(String, String)],
    rows: &Described<'_>,
) -> Result<(Common, Vec<Finding>)> {
    let mut findings = Vec::new();
    for (relation, described) in rows.columns.iter().enumerate() {
        let is_one = rows.columns.len() == 1 && rows.set.plan().is_some();
        let (called, piece) = if is_one {
            ("the right side".to_owned(), None)
        } else {
            (rows.set.called(relation), rows.set.label(relation))
        };
        findings.extend(columns_differ(columns, described, &called, piece.as_deref()));
    }
    let mut common = Common {
        shared: Vec::new(),
        picked: Vec::new(),
    };
    for (name, kind) in columns {
        if let Ok(picked) = rows.find(name) {
            common.shared.push(Shared {
                left: name.clone(),
                right: picked.name.clone(),
                left_type: kind.clone(),
                right_type: picked.types[0].clone(),
            });
            common.picked.push(picked);
        }
    }
    if common.shared.is_empty() {
        let message = format!(
            "{} and {} have no column in common, so there is nothing to compare; give pieces of this source",
            source.name,
            rows.set.name()
        );
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok((common, findings))
}

/// How the columns of a piece are others than those that were `wanted`.
pub(super) fn columns_differ(
    wanted: &[(String, String)],
    found: &[(String, String)],
    called: &str,
    piece: Option<&str>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, kind) in wanted {
        match found.iter().find(|(other, _)| same_name(name, other)) {
            None => {
                let message = format!("{called} has no column {name} ({kind})");
                findings.push(of_column(FindingKind::MissingColumn, name, message));
            }
            Some((_, other)) if other != kind => {
                let message = format!("column {name} is {kind}, and {other} in {called}");
                findings.push(of_column(FindingKind::ColumnType, name, message));
            }
            Some(_) => {}
        }
    }
    for (name, kind) in found {
        if !wanted.iter().any(|(other, _)| same_name(name, other)) {
            let message = format!("{called} has a column {name} ({kind}) besides");
            findings.push(of_column(FindingKind::ExtraColumn, name, message));
        }
    }
    for finding in &mut findings {
        finding.piece = piece.map(str::to_owned);
    }
    findings
}

/// What makes values of a column comparable, over the source and all pieces.
fn suffix(shared: &Shared, picked: &Picked) -> &'static str {
    let types = picked.types.iter().map(String::as_str);
    comparable(&types.chain([shared.left_type.as_str()]).collect::<Vec<_>>())
}

/// Both sides in one: the side in `s`, the piece in `p`, the columns as `c0`, `c1`, ...
fn both(numbered: &str, rows: &Described<'_>, common: &Common) -> String {
    let list: Vec<String> = common
        .shared
        .iter()
        .zip(&common.picked)
        .enumerate()
        .map(|(index, (shared, picked))| {
            format!(
                "{}{} AS c{index}",
                quoted_name(&shared.left),
                suffix(shared, picked)
            )
        })
        .collect();
    let renamed: Vec<String> = (0..list.len())
        .map(|index| format!("k{index} AS c{index}"))
        .collect();
    let types: Vec<&str> = common
        .shared
        .iter()
        .map(|shared| shared.left_type.as_str())
        .collect();
    format!(
        "SELECT 0::UTINYINT AS s, {PIECE}::BIGINT AS p, {} FROM {numbered} AS duckward_source UNION ALL \
         SELECT 1::UTINYINT, p, {} FROM ({})",
        list.join(", "),
        renamed.join(", "),
        rows.read(&common.picked, &types)
    )
}

/// Each piece that differs, by itself.
fn piece_by_piece<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    source: &Source,
    rows: &Described<'_>,
    common: &Common,
    found: &ByPiece,
    options: &Options,
) -> Result<Vec<Finding>, E> {
    let differing: Vec<usize> = found
        .pieces
        .iter()
        .filter(|(_, [left, right])| left != right)
        .map(|(piece, _)| *piece)
        .collect();
    let mut findings = Vec::new();
    for (place, number) in differing.iter().enumerate() {
        let Some(piece) = rows.set.pieces().get(*number) else {
            return Err(super::compare::unread().into());
        };
        let mut of_piece = Vec::new();
        if place < LOOKED_INTO {
            let [left, right] = sides(source, piece, common);
            of_piece = compare(ask, &left, &right, options)?.findings;
            // Types are the same in all pieces, and keys are looked at over all of them.
            of_piece.retain(|finding| {
                !matches!(finding.kind, FindingKind::ColumnType | FindingKind::DuplicateKeys)
            });
        }
        if of_piece.is_empty() {
            let [left, right] = &found.pieces[number];
            of_piece.push(differs(left.rows, right.rows));
        }
        for finding in &mut of_piece {
            finding.piece = Some(piece.name.clone());
            finding.message = format!("piece {}: {}", shown(&piece.name), finding.message);
        }
        findings.extend(of_piece);
    }
    Ok(findings)
}

fn differs(wanted: u64, there: u64) -> Finding {
    Finding {
        kind: FindingKind::PieceRows,
        column: None,
        piece: None,
        rows: Some(wanted.abs_diff(there)).filter(|rows| *rows > 0),
        message: if wanted == there {
            "it has other rows than it should".to_owned()
        } else {
            format!("it has {} and should have {wanted}", counted(there, "row"))
        },
        examples: Vec::new(),
    }
}

/// The rows of the source that belong into a piece, and those that are in it.
fn sides(source: &Source, piece: &Piece, common: &Common) -> [Source; 2] {
    let names = |name: &dyn Fn(&Shared) -> &String| {
        let names: Vec<String> = common
            .shared
            .iter()
            .map(|shared| quoted_name(name(shared)))
            .collect();
        names.join(", ")
    };
    let condition = piece.condition.as_deref().unwrap_or("true");
    [
        Source {
            name: source.name.clone(),
            relation: format!(
                "(SELECT {} FROM {} AS duckward_source WHERE {condition})",
                names(&|shared| &shared.left),
                source.relation
            ),
        },
        Source {
            name: piece.name.clone(),
            relation: format!(
                "(SELECT {} FROM {} AS duckward_piece)",
                names(&|shared| &shared.right),
                piece.source.relation
            ),
        },
    ]
}

/// The rows of all pieces as one against the source.
fn as_one<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    source: &Source,
    rows: &Described<'_>,
    common: &Common,
    options: &Options,
) -> Result<Vec<Finding>, E> {
    let types: Vec<&str> = common
        .shared
        .iter()
        .map(|shared| shared.left_type.as_str())
        .collect();
    let (left, right): (Vec<String>, Vec<String>) = common
        .shared
        .iter()
        .enumerate()
        .map(|(index, shared)| {
            let name = quoted_name(&shared.left);
            (name.clone(), format!("k{index} AS {name}"))
        })
        .unzip();
    let left = Source {
        name: source.name.clone(),
        relation: format!(
            "(SELECT {} FROM {} AS duckward_source)",
            left.join(", "),
            source.relation
        ),
    };
    let right = Source {
        name: rows.set.name().to_owned(),
        relation: format!(
            "(SELECT {} FROM ({}))",
            right.join(", "),
            rows.read(&common.picked, &types)
        ),
    };
    let mut findings = compare(ask, &left, &right, options)?.findings;
    findings.retain(|finding| !matches!(finding.kind, FindingKind::ColumnType | FindingKind::DuplicateKeys));
    Ok(findings)
}

/// In which pieces the rows are that the source has not, or less often.
fn strangers<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    both: &str,
    rows: &Described<'_>,
    common: &Common,
    most: usize,
) -> Result<Vec<Finding>, E> {
    let count = common.shared.len();
    let shares = ask.ask(&sql::unlike_shares(both, count, &[]))?;
    let shares: Vec<String> = shares.into_iter().flatten().flatten().collect();
    let within = if shares.is_empty() || shares.len() > sql::FEW {
        both.to_owned()
    } else {
        sql::of_shares(both, count, &[], &shares)
    };
    let found = ask.ask(&sql::strangers(&within, count, most))?;
    let names: Vec<String> = common.shared.iter().map(|shared| shared.left.clone()).collect();
    let shown = Examples {
        names: &names,
        others: &[],
        most,
    };
    let say = |[piece, extra, more_often]: [u64; 3]| {
        let parts = [
            (extra, "that the left side does not have"),
            (more_often, "that are there more often than on the left"),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(rows, _)| *rows > 0)
            .map(|(rows, what)| format!("{} {what}", counted(rows, "row")))
            .collect();
        let message = format!("{} has {}", rows.set.called(index(piece)), parts.join(", and "));
        (index(piece), extra + more_often, message)
    };
    Ok(findings(rows, FindingKind::PieceRows, &found, shown, say)?)
}

fn pieces(rows: &Described<'_>, common: &Common, found: &ByPiece) -> Vec<PieceRows> {
    rows.set
        .pieces()
        .iter()
        .enumerate()
        .map(|(number, piece)| {
            let totals = found.pieces.get(&number).map(|[_, right]| right);
            PieceRows {
                name: piece.name.clone(),
                rows: totals.map_or(0, |totals| totals.rows),
                nulls: common
                    .shared
                    .iter()
                    .enumerate()
                    .map(|(index, shared)| {
                        (
                            shared.left.clone(),
                            totals.map_or(0, |totals| totals.nulls(index)),
                        )
                    })
                    .collect::<BTreeMap<_, _>>(),
            }
        })
        .collect()
}

/// The same of pieces by themselves, and which columns are empty in some of them only.
///
/// # Errors
/// Those of whoever is asked.
pub(super) fn by_themselves<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    rows: &Described<'_>,
) -> Result<(Vec<PieceRows>, Vec<Finding>), E> {
    let mut findings = Vec::new();
    for (number, columns) in rows.columns.iter().enumerate().skip(1) {
        let piece = rows.set.label(number);
        findings.extend(columns_differ(
            &rows.columns[0],
            columns,
            &rows.set.called(number),
            piece.as_deref(),
        ));
    }
    let picked: Vec<Picked> = rows.columns[0]
        .iter()
        .filter_map(|(name, _)| rows.find(name).ok())
        .collect();
    let counts: Vec<String> = (0..picked.len())
        .map(|index| format!(", count(k{index})::VARCHAR"))
        .collect();
    let found = ask.ask(&format!(
        "SELECT p::VARCHAR, count(*)::VARCHAR{} FROM ({}) GROUP BY p",
        counts.concat(),
        rows.read(&picked, &[])
    ))?;
    let found: BTreeMap<usize, Vec<u64>> = found
        .iter()
        .map(|row| {
            let numbers = super::compare::numbers(&vec![row.clone()])?;
            Ok((index(numbers[0]), numbers[1..].to_vec()))
        })
        .collect::<Result<_>>()?;
    let mut all = Vec::new();
    for (number, piece) in rows.set.pieces().iter().enumerate() {
        let counts = found.get(&number);
        let many = counts.map_or(0, |counts| counts[0]);
        let values = |index: usize| counts.map_or(0, |counts| counts[index + 1]);
        for (index, column) in picked.iter().enumerate() {
            let elsewhere = found.values().any(|counts| counts[index + 1] > 0);
            if many > 0 && values(index) == 0 && elsewhere {
                findings.push(Finding {
                    piece: rows.set.label(number),
                    rows: Some(many),
                    ..of_column(
                        FindingKind::Nulls,
                        &column.name,
                        format!(
                            "column {} is NULL in all of {}, and not elsewhere",
                            column.name,
                            rows.set.called(number)
                        ),
                    )
                });
            }
        }
        all.push(PieceRows {
            name: piece.name.clone(),
            rows: many,
            nulls: picked
                .iter()
                .enumerate()
                .map(|(index, column)| (column.name.clone(), many - values(index)))
                .collect(),
        });
    }
    Ok((all, findings))
}
