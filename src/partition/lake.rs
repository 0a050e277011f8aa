//! A directory of Parquet files, cut by a plan. It is written beside its place, proved there against the source, and put in
//! its place by one rename: whoever looks sees nothing, the old state or the new one, whole.
//!
//! One statement scans the source once for all pieces. Where there are more of them than files may be open at once, it writes
//! bundles of pieces, and one statement for each bundle parts it.

mod check;
mod manifest;
mod staging;

use std::path::Path;

pub(super) use manifest::hexadecimal;
pub use manifest::{FileOnDisk, Manifest, Part};

use super::column::columns;
use super::done::{Partitioning, Place};
use super::plan::Plan;
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::engine::text::{quoted, quoted_name};
use crate::error::{Error, ErrorKind, Result};
use crate::units::Bytes;
use crate::validate::{self, Finding, PieceDigest, Validation};
use staging::{Staging, broken, move_piece};

/// Pieces that one statement writes, at least and at most, and the memory that each of them takes: DuckDB buffers its rows.
const AT_ONCE: std::ops::RangeInclusive<u64> = 100..=1000;
const EACH: Bytes = Bytes::mib(1);
/// Findings that an error tells.
const TOLD: usize = 6;
/// The column that tells pieces apart while they are written; it is in no file.
const PIECE: &str = "duckward_piece";

/// What is in a directory that was partitioned.
///
/// # Errors
/// [`ErrorKind::Disk`] where it cannot be read; [`ErrorKind::Invalid`] where it is none, or its manifest was edited.
pub fn load(path: &Path) -> Result<Partitioning> {
    let path = std::path::absolute(path).map_err(|error| broken("finding", path, &error))?;
    Ok(Partitioning {
        manifest: check::read(&path)?,
        place: Place::Directory(path),
        validation: None,
    })
}

/// Whether the files in a directory are still those that were written: what is missing, added or changed.
///
/// # Errors
/// [`ErrorKind::Disk`] where they cannot be read.
pub fn check(path: &Path, manifest: &Manifest) -> Result<Vec<Finding>> {
    check::files(path, manifest)
}

/// The rows of all pieces in a directory, as a query.
pub(super) fn query(path: &Path) -> String {
    format!("SELECT * FROM {}", files(path, "**/*.parquet"))
}

/// Cuts the plan's source into `target`, a directory that must not be there, or be empty; with `replace` it may be an earlier
/// partitioning. `room` is what may be taken of memory.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a target or a source that will not do; [`ErrorKind::Disk`] for what the file system refuses;
/// [`ErrorKind::Transaction`] where what was written is not what the source has; those of whoever answers. The target is as
/// it was then.
pub fn partition<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    plan: &Plan,
    target: &Path,
    replace: bool,
    room: Bytes,
) -> Result<Partitioning, E> {
    let source = Source::parse(&plan.source)?;
    let columns = described(ask, &source.relation)?;
    plan.check_columns(&columns)?;
    let ours = |name: &str| name.to_ascii_lowercase().starts_with("duckward_");
    if let Some((name, _)) = columns.iter().find(|(name, _)| ours(name)) {
        let message = format!(
            "{} has a column {name}, and names that begin with duckward_ tell pieces apart; rename it in a query",
            source.name
        );
        return Err(Error::new(ErrorKind::Invalid, message).into());
    }
    let staging = Staging::new(target, replace)?;
    let mut run = Run {
        ask,
        plan,
        source,
        columns,
        staging,
        at_once: (room.get() / EACH.get()).clamp(*AT_ONCE.start(), *AT_ONCE.end()) as usize,
    };
    let (manifest, mut validation) = run.staged()?;
    let path = run.staging.publish()?;
    validation.right = path.display().to_string();
    Ok(Partitioning {
        place: Place::Directory(path),
        manifest,
        validation: Some(validation),
    })
}

struct Run<'a, E> {
    ask: &'a mut dyn Ask<E>,
    plan: &'a Plan,
    source: Source,
    columns: Vec<(String, String)>,
    staging: Staging,
    /// Pieces that one statement writes.
    at_once: usize,
}

impl<E: From<Error>> Run<'_, E> {
    /// Writes and proves all pieces in the staging directory.
    fn staged(&mut self) -> Result<(Manifest, Validation), E> {
        let types = self.probe()?;
        let data = self.staging.path("data");
        self.write(&data)?;
        let (pieces, validation) = self.prove(&data, &types)?;
        let version = self.ask.ask("SELECT version()")?;
        let version = version.into_iter().flatten().flatten().next().unwrap_or_default();
        let mut parts = Vec::new();
        for (number, piece) in pieces {
            let Some(planned) = self.plan.pieces.get(number) else {
                let message = format!("a row went into piece {number}, which the plan does not have");
                return Err(Error::new(ErrorKind::Internal, message).into());
            };
            let directory = manifest::directory(self.plan, number);
            let files = move_piece(&data.join(format!("{PIECE}={number}")), &self.staging, &directory)?;
            parts.push(Part {
                name: planned.name.clone(),
                condition: planned.condition.clone(),
                rows: piece.rows,
                digest: piece.digest,
                table: None,
                files,
            });
        }
        std::fs::remove_dir_all(&data).map_err(|error| broken("removing", &data, &error))?;
        let mut manifest = Manifest::new(self.plan.clone(), types, version, parts);
        self.staging.finish(&mut manifest)?;
        Ok((manifest, validation))
    }

    /// What Parquet makes of the columns' types, before anything is written in earnest.
    fn probe(&mut self) -> Result<Vec<(String, String)>, E> {
        let probe = self.staging.path("probe.parquet");
        let file = quoted(&probe.display().to_string());
        self.ask.ask(&format!(
            "COPY (SELECT * FROM {} LIMIT 0) TO {file} (FORMAT parquet)",
            self.source.relation
        ))?;
        let types = described(self.ask, &file)?;
        std::fs::remove_file(&probe).map_err(|error| broken("removing", &probe, &error))?;
        let lossy = self.columns.iter().zip(&types).find(|((_, kind), (_, stored))| {
            matches!(kind.as_str(), "HUGEINT" | "UHUGEINT") && stored == "DOUBLE"
        });
        match lossy {
            None => Ok(types),
            Some(((name, kind), _)) => {
                let name = quoted_name(name);
                let message = format!(
                    "column {name} is {kind}, which Parquet keeps as DOUBLE, with a loss; plan over a query that casts \
                     it, such as SELECT * REPLACE ({name}::DECIMAL(38, 0) AS {name}) FROM ..."
                );
                Err(Error::new(ErrorKind::Invalid, message).into())
            }
        }
    }

    fn write(&mut self, data: &Path) -> Result<(), E> {
        let number = self.plan.number();
        let count = self.plan.pieces.len();
        if count <= self.at_once {
            let from = format!("SELECT *, {number} AS {PIECE} FROM {}", self.source.relation);
            return self.copy(&from, PIECE, data);
        }
        // So many pieces in a bundle that there are no more bundles than may be written at once, if that is possible.
        let size = count.div_ceil(self.at_once).max(count.isqrt());
        let bundles = self.staging.path("bundles");
        let from = format!(
            "SELECT *, {PIECE} // {size} AS duckward_bundle FROM (SELECT *, ({number})::INTEGER AS {PIECE} FROM {})",
            self.source.relation
        );
        self.copy(&from, "duckward_bundle", &bundles)?;
        for bundle in 0..count.div_ceil(size) {
            let directory = bundles.join(format!("duckward_bundle={bundle}"));
            if !directory.exists() {
                continue;
            }
            let part = self.staging.path("part");
            self.copy(
                &format!("SELECT * FROM {}", files(&directory, "*.parquet")),
                PIECE,
                &part,
            )?;
            staging::join(&part, data)?;
            std::fs::remove_dir_all(&directory).map_err(|error| broken("removing", &directory, &error))?;
        }
        std::fs::remove_dir_all(&bundles).map_err(|error| broken("removing", &bundles, &error).into())
    }

    fn copy(&mut self, query: &str, by: &str, to: &Path) -> Result<(), E> {
        // A statement that failed and is run again finds files of the time before.
        self.ask.ask(&format!(
            "COPY ({query}) TO {} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PARTITION_BY ({by}), OVERWRITE true)",
            quoted(&to.display().to_string())
        ))?;
        Ok(())
    }

    /// The pieces that have rows, each with its digests, and that nothing is missing, doubled or changed.
    fn prove(
        &mut self,
        data: &Path,
        types: &[(String, String)],
    ) -> Result<(Vec<(usize, PieceDigest)>, Validation), E> {
        let written = Source {
            name: data.display().to_string(),
            relation: numbered(data),
        };
        let number = self.plan.number();
        let left = validate::Cut {
            source: &self.source,
            columns: &self.columns,
            number: &number,
        };
        let right = validate::Cut {
            source: &written,
            columns: types,
            number: PIECE,
        };
        let (pieces, validation) = validate::pieces(self.ask, left, right, &|number| {
            self.plan
                .pieces
                .get(number)
                .map_or_else(|| number.to_string(), |piece| piece.name.clone())
        })?;
        if validation.ok {
            return Ok((pieces, validation));
        }
        let found: Vec<&str> = validation
            .findings
            .iter()
            .map(|finding| finding.message.as_str())
            .collect();
        let more = found.len().saturating_sub(TOLD);
        let message = format!(
            "what was written is not what {} has, and was removed: {}{}; the source changed meanwhile, or Parquet cannot \
             keep its types",
            self.source.name,
            found[..found.len() - more].join("; "),
            if more > 0 {
                format!("; and {more} more")
            } else {
                String::new()
            }
        );
        Err(Error::new(ErrorKind::Transaction, message).into())
    }
}

/// Name and type of each column.
fn described<E>(ask: &mut dyn Ask<E>, relation: &str) -> Result<Vec<(String, String)>, E> {
    let found = columns(ask, relation)?;
    Ok(found
        .into_iter()
        .map(|column| (column.name, column.type_name))
        .collect())
}

/// The files in or below a directory as a relation.
fn files(directory: &Path, below: &str) -> String {
    format!(
        "read_parquet({}, hive_partitioning = false)",
        pattern(directory, below)
    )
}

/// The same with the number of the piece, which the last directory of a file's path says. Not by hive partitioning, which
/// would take the names of directories further up for columns.
fn numbered(directory: &Path) -> String {
    format!(
        "(SELECT * EXCLUDE (duckward_file), regexp_extract(duckward_file, '{PIECE}=([0-9]+)[/\\\\][^/\\\\]*$', 1)::BIGINT AS {PIECE} \
         FROM read_parquet({}, hive_partitioning = false, filename = 'duckward_file'))",
        pattern(directory, "*/*.parquet")
    )
}

/// A pattern for files below a directory, as SQL. A bracket or a star in the directory's own name is none.
fn pattern(directory: &Path, below: &str) -> String {
    let fixed: String = directory
        .display()
        .to_string()
        .chars()
        .map(|letter| match letter {
            '*' | '?' | '[' => format!("[{letter}]"),
            letter => letter.to_string(),
        })
        .collect();
    quoted(&format!("{fixed}/{below}"))
}
