//! The way of a source into the staging directory: written share by share, sorted if asked, proved, and put in order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::manifest::{self, Manifest, Part};
use super::share::{ATTEMPTS, Journal, Response, Share, rows_of_share, shares, shares_of_pieces, wait};
use super::staging::{self, Staging, broken, move_piece};
use super::{Options, Room, files, pattern};
use crate::engine::host::Stretch;
use crate::engine::source::Source;
use crate::engine::text::{quoted, quoted_name};
use crate::engine::{Ask, Reason, described, version};
use crate::error::{Error, ErrorKind, Result};
use crate::partition::disk::Load;
use crate::partition::done::Attempt;
use crate::partition::plan::Plan;
use crate::partition::progress::{Course, Progress, Stage, Watch};
use crate::validate::{self, Digests, Layout, PIECE, Validation};

/// The column that says in which piece's directory a row was found.
const AT: &str = "duckward_at";

/// One partitioning on its way.
pub(super) struct Run<'a, E> {
    pub ask: &'a mut dyn Ask<E>,
    pub watch: &'a mut Watch<'a>,
    pub course: Course,
    pub plan: &'a Plan,
    pub options: &'a Options,
    pub source: Source,
    pub columns: Vec<(String, String)>,
    /// Where the rows belong.
    pub layout: &'a dyn Layout,
    /// Pieces of the target that are taken over, with their numbers.
    pub same: Vec<(usize, Part)>,
    pub staging: Staging,
    pub room: Room,
    pub attempts: Vec<Attempt>,
    /// Shares that a process before this one has written.
    pub resumed: usize,
}

impl<E: From<Error> + Reason> Run<'_, E> {
    /// Writes and proves all pieces in the staging directory.
    pub(super) fn staged(&mut self) -> Result<(Manifest, Validation), E> {
        let journal = self.journal()?;
        let types = self.probe()?;
        let count = self.shares(journal)?;
        self.sort(count)?;
        (self.watch)(self.course.part(Stage::Proving, 0, 1));
        let (pieces, validation) = self.prove(&types)?;
        (self.watch)(self.course.part(Stage::Publishing, 0, 1));
        // What is moved cannot be taken up again.
        self.staging.forget()?;
        let version = version(self.ask)?;
        let shares: Vec<PathBuf> = (0..count).map(|share| self.share(share)).collect();
        let mut parts = BTreeMap::new();
        for (number, part) in &self.same {
            let planned = &self.plan.pieces[*number];
            let part = Part {
                name: planned.name.clone(),
                condition: planned.condition.clone(),
                files: self
                    .staging
                    .take_over(&part.files, &manifest::directory(self.plan, *number))?,
                ..part.clone()
            };
            parts.insert(*number, part);
        }
        for (number, piece) in pieces {
            let Some(planned) = self.plan.pieces.get(number) else {
                let message = format!("a row went into piece {number}, which the plan does not have");
                return Err(Error::new(ErrorKind::Internal, message).into());
            };
            let from: Vec<PathBuf> = shares.iter().map(|share| share.join(lying(number))).collect();
            let part = Part {
                name: planned.name.clone(),
                condition: planned.condition.clone(),
                rows: piece.rows,
                digest: piece.digest,
                nulls: piece.nulls,
                table: None,
                files: move_piece(&from, &self.staging, &manifest::directory(self.plan, number))?,
            };
            if parts.insert(number, part).is_some() {
                let message =
                    format!("a row of another piece went into piece {number}, which needed no change");
                return Err(Error::new(ErrorKind::Internal, message).into());
            }
        }
        let data = self.staging.path("data");
        std::fs::remove_dir_all(&data).map_err(|error| broken("removing", &data, &error))?;
        let mut manifest = Manifest::new(self.plan.clone(), types, version, parts.into_values().collect());
        let staging = &self.staging;
        let mut finished = Ok(());
        self.ask.apart(&mut || finished = staging.finish(&mut manifest));
        finished?;
        Ok((manifest, validation))
    }

    /// What is to be written, and what of it a process that was killed has left; everything else that it left is removed.
    fn journal(&mut self) -> Result<Journal, E> {
        let all = match self.ask.workers() {
            None => match self.end()? {
                Some(end) => {
                    let rows = self.options.batch_rows;
                    shares(
                        self.plan,
                        end,
                        rows.unwrap_or(rows_of_share(self.plan, self.room.memory)),
                    )
                }
                None => vec![Share::All],
            },
            Some(workers) => {
                let workers = workers.count();
                shares_of_pieces(self.plan, workers, self.room.pieces() / workers)
            }
        };
        let begun = Journal::new(self.plan, all);
        let left = self
            .staging
            .journal()
            .and_then(|text| Journal::read(&text, &begun));
        let journal = left.unwrap_or(begun);
        self.resumed = journal.written();
        self.check_disk(&journal)?;
        let written = journal.done.iter().enumerate().filter(|(_, done)| **done);
        let kept: Vec<PathBuf> = written.map(|(share, _)| self.share(share)).collect();
        self.staging.clear(&kept)?;
        Ok(journal)
    }

    /// Refuses a disk that cannot have room for what is left to write. What is written is left as it is, for another time.
    fn check_disk(&mut self, journal: &Journal) -> Result<()> {
        let Some(free) = self.room.disk else {
            return Ok(());
        };
        let all = Load::of(self.plan, &self.same);
        let left = all.left(journal.written(), journal.shares.len());
        let place = self.staging.target().display().to_string();
        let other = "give a directory on another disk";
        left.check(free, &self.source.name, &place, other)
            .inspect_err(|_| {
                if self.resumed > 0 {
                    self.staging.leave();
                }
            })
    }

    /// The first number that no row has, where rows have numbers that say where they are.
    fn end(&mut self) -> Result<Option<u64>, E> {
        // Pieces by row number want it of the table itself.
        let hidden = self.plan.is_by_row_number()
            || self
                .columns
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("rowid"));
        // Files and queries have none; asking a view costs no more than DuckDB's refusal.
        if hidden || !self.source.is_name() {
            return Ok(None);
        }
        match self.ask.ask(&format!(
            "SELECT (max(rowid) + 1)::VARCHAR FROM {}",
            self.source.relation
        )) {
            Ok(rows) => Ok(rows
                .into_iter()
                .flatten()
                .flatten()
                .next()
                .and_then(|text| text.parse().ok())),
            Err(error) if error.reason() == Some(ErrorKind::Query) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a share is written.
    fn share(&self, number: usize) -> PathBuf {
        self.staging.path("data").join(number.to_string())
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

    /// Writes every share that is not written yet, and notes each; how many there are in the end.
    fn shares(&mut self, mut journal: Journal) -> Result<usize, E> {
        let data = self.staging.path("data");
        std::fs::create_dir_all(&data).map_err(|error| broken("making", &data, &error))?;
        (self.watch)(writing(self.course, &journal));
        if self.ask.workers().is_some() {
            self.by_workers(&mut journal)?;
            return Ok(journal.shares.len());
        }
        let mut failed = 0;
        while let Some(share) = journal.next() {
            let directory = self.share(share);
            let stretch = self.course.stage(Stage::Writing);
            let stretch = stretch.part(journal.written(), journal.shares.len());
            let Err(error) = self.write(journal.shares[share], &directory, stretch) else {
                failed = 0;
                let staging = &self.staging;
                let mut lies = Ok(());
                self.ask.apart(&mut || lies = staging::synchronise(&directory));
                lies?;
                note(staging, self.watch, self.course, &mut journal, share)?;
                continue;
            };
            failed += 1;
            let response = self.respond(&mut journal, share, failed, error)?;
            self.shrink(response);
            self.ask.pause(wait(failed))?;
        }
        Ok(journal.shares.len())
    }

    /// What is tried next after an attempt at a share that failed; the share is made ready for it.
    ///
    /// # Errors
    /// The error itself, where it would fail again or has failed often enough.
    fn respond(
        &mut self,
        journal: &mut Journal,
        share: usize,
        attempt: u32,
        error: E,
    ) -> Result<Response, E> {
        let response = error
            .reason()
            .and_then(Response::to)
            .filter(|_| attempt < ATTEMPTS);
        let Some(response) = response else {
            return Err(error);
        };
        self.attempts.push(Attempt {
            share,
            attempt,
            error: error.to_string(),
            response: response.name(),
        });
        // What it has written is of more rows, or of more pieces, than what will be.
        self.staging.clear_below(&self.share(share))?;
        if response == Response::Smaller {
            journal.part(share);
        }
        Ok(response)
    }

    /// Has less written at once.
    fn shrink(&mut self, response: Response) {
        if response == Response::Smaller {
            self.room.memory = self.room.memory.times(0.7);
        }
        if response != Response::Again {
            let at_once = self.room.pieces().min(self.plan.pieces.len());
            self.room.files = (at_once / 2).max(1);
        }
    }

    /// The same, several at once: every share that is not written, and then again those that failed. Of shares that wait none
    /// has more pieces than a worker's part of what may be written at once.
    fn by_workers(&mut self, journal: &mut Journal) -> Result<(), E> {
        for attempt in 1..=ATTEMPTS {
            let failed = self.round(journal)?;
            let mut responses = Vec::new();
            for (share, error) in failed {
                responses.push(self.respond(journal, share, attempt, error)?);
            }
            let Some(response) = responses.into_iter().max() else {
                break;
            };
            self.shrink(response);
            let workers = self.ask.workers().map_or(1, |workers| workers.count());
            journal.part_larger(self.plan, self.room.pieces() / workers);
            self.ask.pause(wait(attempt))?;
        }
        Ok(())
    }

    /// Has workers write every share that is not written yet; those that failed, and may be tried again.
    fn round(&mut self, journal: &mut Journal) -> Result<Vec<(usize, E)>, E> {
        let waiting: Vec<usize> = (0..journal.shares.len())
            .filter(|share| !journal.done[*share])
            .collect();
        let statements: Vec<String> = waiting
            .iter()
            .map(|share| {
                let numbered = journal.shares[*share].numbered(self.plan, &self.source.relation);
                copying(&format!("SELECT * FROM {numbered}"), PIECE, &self.share(*share))
            })
            .collect();
        let directories: Vec<PathBuf> = waiting.iter().map(|share| self.share(*share)).collect();
        let mut failed = Vec::new();
        let (staging, watch) = (&self.staging, &mut *self.watch);
        let course = self.course;
        let Some(workers) = self.ask.workers() else {
            return Ok(failed);
        };
        workers.each(&statements, &mut |place, how| {
            let (share, directory) = (waiting[place], &directories[place]);
            match how {
                Ok(()) => {
                    // Of no rows DuckDB makes no directory.
                    std::fs::create_dir_all(directory)
                        .map_err(|error| broken("making", directory, &error))?;
                    staging::synchronise(directory)?;
                    note(staging, watch, course, journal, share)?;
                }
                Err(error) if error.reason().and_then(Response::to).is_some() => failed.push((share, error)),
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        Ok(failed)
    }

    /// Writes the pieces of a share, which is this part of the whole.
    fn write(&mut self, share: Share, to: &Path, stretch: Stretch) -> Result<(), E> {
        let numbered = match share {
            Share::All => self.layout.numbered(&self.source.relation),
            share => share.numbered(self.plan, &self.source.relation),
        };
        let (count, at_once) = (share.pieces(self.plan), self.room.pieces());
        if count <= at_once {
            return self.copy(&format!("SELECT * FROM {numbered}"), PIECE, to);
        }
        // So many pieces in a bundle that there are no more bundles than may be written at once, if that is possible.
        let size = count.div_ceil(at_once).max(count.isqrt());
        let bundles = self.staging.path("bundles");
        let from = format!("SELECT *, {PIECE} // {size} AS duckward_bundle FROM {numbered}");
        (self.watch)(Progress::Reached(stretch.part(0, 2)));
        self.copy(&from, "duckward_bundle", &bundles)?;
        let all = count.div_ceil(size);
        for bundle in 0..all {
            (self.watch)(Progress::Reached(stretch.part(1, 2).part(bundle, all)));
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
            staging::join(&part, to)?;
            std::fs::remove_dir(&part).map_err(|error| broken("removing", &part, &error))?;
            std::fs::remove_dir_all(&directory).map_err(|error| broken("removing", &directory, &error))?;
        }
        std::fs::remove_dir_all(&bundles).map_err(|error| broken("removing", &bundles, &error).into())
    }

    fn copy(&mut self, query: &str, by: &str, to: &Path) -> Result<(), E> {
        self.ask.ask(&copying(query, by, to))?;
        // Of no rows DuckDB makes no directory.
        std::fs::create_dir_all(to).map_err(|error| broken("making", to, &error).into())
    }

    /// Writes each piece anew as one sorted file, if that is asked for. It takes the place of what the first share has.
    fn sort(&mut self, shares: usize) -> Result<(), E> {
        if self.options.sort.is_empty() {
            return Ok(());
        }
        let by: Vec<String> = self.options.sort.iter().map(|name| quoted_name(name)).collect();
        let count = self.plan.pieces.len();
        for number in 0..count {
            (self.watch)(self.course.part(Stage::Making, number, count));
            let all: Vec<String> = (0..shares)
                .map(|share| self.share(share).join(lying(number)))
                .filter(|directory| directory.exists())
                .map(|directory| pattern(&directory, "*.parquet"))
                .collect();
            if all.is_empty() {
                continue;
            }
            let to = self.share(0).join(lying(number));
            let sorted = self.staging.path("sorted.parquet");
            self.ask.ask(&format!(
                "COPY (SELECT * FROM read_parquet([{}], hive_partitioning = false) ORDER BY {}) TO {} ({FORMAT})",
                all.join(", "),
                by.join(", "),
                quoted(&sorted.display().to_string())
            ))?;
            // From here on the pieces are not what the journal says.
            self.staging.forget()?;
            for share in 0..shares {
                self.staging.clear_below(&self.share(share).join(lying(number)))?;
            }
            std::fs::create_dir_all(&to).map_err(|error| broken("making", &to, &error))?;
            let file = to.join("data_0.parquet");
            std::fs::rename(&sorted, &file).map_err(|error| broken("moving", &sorted, &error))?;
        }
        Ok(())
    }

    /// The pieces that have rows, each with its digest, and that nothing is missing, doubled, changed or astray.
    fn prove(&mut self, types: &[(String, String)]) -> Result<(Digests, Validation), E> {
        let data = self.staging.path("data");
        let written = Source {
            name: data.display().to_string(),
            relation: located(&data),
        };
        let whole = validate::Whole {
            source: &self.source,
            columns: &self.columns,
        };
        let (pieces, validation) = validate::pieces(
            self.ask,
            whole,
            &validate::Pieces {
                source: &written,
                columns: types,
                at: AT,
                piece: PIECE,
                layout: self.layout,
            },
        )?;
        if validation.ok {
            return Ok((pieces, validation));
        }
        let message = format!(
            "what was written is not what {} has, and was removed: {}; the source changed meanwhile, or Parquet cannot \
             keep its types",
            self.source.name,
            validation.in_short()
        );
        Err(Error::new(ErrorKind::Transaction, message).into())
    }
}

/// How files are written: half as large as DuckDB's default makes them, and sooner. Version 2 is the encodings of numbers
/// by their differences, which readers of the last years know.
pub(super) const FORMAT: &str = "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1";

/// The statement that writes a query's rows into a directory for each value of a column. One that failed and is run again
/// finds files of the time before.
fn copying(query: &str, by: &str, to: &Path) -> String {
    format!(
        "COPY ({query}) TO {} ({FORMAT}, PARTITION_BY ({by}), OVERWRITE true)",
        quoted(&to.display().to_string())
    )
}

/// What is told before the next share is written.
fn writing(course: Course, journal: &Journal) -> Progress {
    course.part(Stage::Writing, journal.written(), journal.shares.len())
}

/// Notes and tells that a share is on the disk.
fn note(
    staging: &Staging,
    watch: &mut Watch<'_>,
    course: Course,
    journal: &mut Journal,
    share: usize,
) -> Result<()> {
    journal.done[share] = true;
    staging.note(&journal.text())?;
    watch(Progress::Written {
        written: journal.written(),
        shares: journal.shares.len(),
    });
    watch(writing(course, journal));
    Ok(())
}

/// The directory that DuckDB makes of a piece.
fn lying(number: usize) -> String {
    format!("{PIECE}={number}")
}

/// The rows below a directory with the number of their piece, which the last directory of a file's path says. Not by hive
/// partitioning, which would take the names of directories further up for columns.
fn located(directory: &Path) -> String {
    format!(
        "(SELECT * EXCLUDE (duckward_file), regexp_extract(duckward_file, '{PIECE}=([0-9]+)[/\\\\][^/\\\\]*$', 1)::BIGINT AS {AT} \
         FROM read_parquet({}, hive_partitioning = false, filename = 'duckward_file'))",
        pattern(directory, "*/*/*.parquet")
    )
}
