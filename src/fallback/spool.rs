//! Answers larger than memory: batches are kept in memory up to an allowance, then all of them move to one Arrow IPC
//! file, which readers map into memory. The file has no name that outlives the reader.

use std::fmt;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use tempfile::TempPath;

use crate::error::{Error, ErrorKind, Result};
use crate::units::Bytes;

/// Free space that writing leaves on the disk.
const DISK_RESERVE: Bytes = Bytes::mib(128);
/// How much is written between two looks at the free space.
const DISK_STRIDE: Bytes = Bytes::mib(32);

/// How the spool learns of free space. Injected, so that a full disk can be tested.
pub type FreeSpace = fn(&Path) -> Option<Bytes>;

/// Free space on the disk of `path`, where the system says.
pub fn free_space(path: &Path) -> Option<Bytes> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::statvfs(path).ok()?;
        Some(Bytes(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Takes the batches of one answer.
#[derive(Debug)]
pub struct Spool {
    schema: SchemaRef,
    directory: PathBuf,
    allowance: Bytes,
    free_space: FreeSpace,
    rows: u64,
    held: Bytes,
    batches: Vec<RecordBatch>,
    file: Option<OnDisk>,
}

struct OnDisk {
    writer: FileWriter<BufWriter<File>>,
    path: TempPath,
    written: Bytes,
    checked_at: Bytes,
}

impl fmt::Debug for OnDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDisk")
            .field("path", &self.path)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// A whole answer.
#[derive(Debug)]
pub enum Spooled {
    /// It fits into memory.
    Memory {
        /// The batches, in order.
        batches: Vec<RecordBatch>,
    },
    /// It is an Arrow IPC file, removed when this is dropped.
    File {
        /// Where it is.
        path: TempPath,
        /// Its size.
        bytes: Bytes,
    },
}

impl Spool {
    /// An empty spool that holds at most `allowance` in memory and goes on in `directory`.
    pub fn new(schema: SchemaRef, directory: &Path, allowance: Bytes, free_space: FreeSpace) -> Self {
        Spool {
            schema,
            directory: directory.to_owned(),
            allowance,
            free_space,
            rows: 0,
            held: Bytes(0),
            batches: Vec::new(),
            file: None,
        }
    }

    /// Rows taken so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes a batch. With `to_disk` the answer goes to disk now, allowance or not.
    ///
    /// # Errors
    /// [`ErrorKind::Disk`] when the directory cannot be written or has no room. The file is gone then.
    pub fn push(&mut self, batch: RecordBatch, to_disk: bool) -> Result<()> {
        self.rows += batch.num_rows() as u64;
        let size = Bytes(batch.get_array_memory_size() as u64);
        if self.file.is_none() && (to_disk || self.held.plus(size) > self.allowance) {
            self.move_to_disk()?;
        }
        match &mut self.file {
            Some(file) => file.write(&batch, size, &self.directory, self.free_space),
            None => {
                self.held = self.held.plus(size);
                self.batches.push(batch);
                Ok(())
            }
        }
    }

    fn move_to_disk(&mut self) -> Result<()> {
        let mut file = OnDisk::create(&self.schema, &self.directory)?;
        for batch in self.batches.drain(..) {
            let size = Bytes(batch.get_array_memory_size() as u64);
            file.write(&batch, size, &self.directory, self.free_space)?;
        }
        self.held = Bytes(0);
        self.file = Some(file);
        Ok(())
    }

    /// The whole answer.
    ///
    /// # Errors
    /// [`ErrorKind::Disk`] when the end of the file cannot be written.
    pub fn finish(self) -> Result<Spooled> {
        let Some(mut file) = self.file else {
            return Ok(Spooled::Memory {
                batches: self.batches,
            });
        };
        file.writer
            .finish()
            .map_err(|error| refused(&self.directory, &error))?;
        let written = file
            .writer
            .get_ref()
            .get_ref()
            .metadata()
            .map_or(file.written, |meta| Bytes(meta.len()));
        Ok(Spooled::File {
            path: file.path,
            bytes: written,
        })
    }
}

impl OnDisk {
    fn create(schema: &SchemaRef, directory: &Path) -> Result<Self> {
        let refuse = |error: &dyn std::fmt::Display| {
            Error::new(
                ErrorKind::Disk,
                format!(
                    "the answer is larger than memory and the directory {} cannot take it: {error}; \
                     name a writable one with temp_directory=",
                    directory.display()
                ),
            )
        };
        std::fs::create_dir_all(directory).map_err(|error| refuse(&error))?;
        let file = tempfile::Builder::new()
            .prefix("duckward_answer_")
            .suffix(".arrow")
            .tempfile_in(directory)
            .map_err(|error| refuse(&error))?;
        let (file, path) = file.into_parts();
        let writer = FileWriter::try_new_buffered(file, schema).map_err(|error| refuse(&error))?;
        Ok(OnDisk {
            writer,
            path,
            written: Bytes(0),
            checked_at: Bytes(0),
        })
    }

    fn write(
        &mut self,
        batch: &RecordBatch,
        size: Bytes,
        directory: &Path,
        free_space: FreeSpace,
    ) -> Result<()> {
        if self.written == Bytes(0) || self.written.minus(self.checked_at) >= DISK_STRIDE {
            self.checked_at = self.written;
            if let Some(free) = free_space(directory)
                && free < DISK_RESERVE.plus(size)
            {
                return Err(Error::new(
                    ErrorKind::Disk,
                    format!(
                        "the disk of {} has no room for the answer: {} written, {free} free, {DISK_RESERVE} kept free; \
                         free space, name another directory with temp_directory=, or read the answer batch by batch",
                        directory.display(),
                        self.written
                    ),
                ));
            }
        }
        self.written = self.written.plus(size);
        self.writer
            .write(batch)
            .map_err(|error| refused(directory, &error))
    }
}

fn refused(directory: &Path, error: &ArrowError) -> Error {
    Error::new(
        ErrorKind::Disk,
        format!(
            "writing the answer to {} failed: {error}; free space, or name another directory with temp_directory=",
            directory.display()
        ),
    )
}

/// The batches of a whole answer, in order; those of a file are read one at a time.
pub fn read(spooled: Spooled) -> Result<Box<dyn Iterator<Item = Result<RecordBatch>> + Send>> {
    match spooled {
        Spooled::Memory { batches } => Ok(Box::new(batches.into_iter().map(Ok))),
        Spooled::File { path, .. } => {
            let refuse = |error: &dyn std::fmt::Display| {
                Error::new(
                    ErrorKind::Disk,
                    format!("the spooled answer does not read back: {error}; run the query again"),
                )
            };
            #[expect(
                clippy::disallowed_methods,
                reason = "a file of our own, made for this answer"
            )]
            let file = File::open(&path).map_err(|error| refuse(&error))?;
            let reader = FileReader::try_new_buffered(file, None).map_err(|error| refuse(&error))?;
            // The path goes along, so that the file lives as long as its reader.
            Ok(Box::new(Reading { reader, _path: path }))
        }
    }
}

struct Reading {
    reader: FileReader<std::io::BufReader<File>>,
    _path: TempPath,
}

impl Iterator for Reading {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.reader.next().map(|item| {
            item.map_err(|error| {
                Error::new(
                    ErrorKind::Disk,
                    format!("the spooled answer does not read back: {error}; run the query again"),
                )
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use proptest::prelude::*;

    use super::*;

    fn batch(from: i64, rows: i64) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("i", DataType::Int64, false),
            Field::new("s", DataType::Utf8, true),
        ]);
        let numbers: Vec<i64> = (from..from + rows).collect();
        let texts: Vec<Option<String>> = numbers
            .iter()
            .map(|i| (i % 3 > 0).then(|| format!("row {i}")))
            .collect();
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(Int64Array::from(numbers)),
                Arc::new(StringArray::from(texts)),
            ],
        )
        .unwrap()
    }

    fn spool_all(batches: &[RecordBatch], directory: &Path, allowance: u64) -> Spooled {
        let schema = batch(0, 0).schema();
        let mut spool = Spool::new(schema, directory, Bytes(allowance), |_| None);
        for batch in batches {
            spool.push(batch.clone(), false).unwrap();
        }
        spool.finish().unwrap()
    }

    #[test]
    fn a_small_answer_stays_in_memory_and_makes_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let spooled = spool_all(&[batch(0, 10)], directory.path(), 1 << 20);
        assert!(matches!(spooled, Spooled::Memory { .. }));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_file_is_gone_when_the_answer_is_dropped_read_or_not() {
        let directory = tempfile::tempdir().unwrap();
        drop(spool_all(&[batch(0, 10)], directory.path(), 0));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let mut rows = read(spool_all(&[batch(0, 10), batch(10, 5)], directory.path(), 0)).unwrap();
        assert_eq!(rows.next().unwrap().unwrap().num_rows(), 10);
        drop(rows);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_full_disk_and_an_unwritable_directory_are_refused_with_a_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(batch(0, 0).schema(), directory.path(), Bytes(0), |_| {
            Some(Bytes::mib(100))
        });
        let error = spool.push(batch(0, 10), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Disk);
        assert!(error.message().contains("temp_directory="), "{error}");
        drop(spool);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

        let file = directory.path().join("a file");
        std::fs::write(&file, "x").unwrap();
        let mut spool = Spool::new(batch(0, 0).schema(), &file, Bytes(0), |_| None);
        let error = spool.push(batch(0, 1), false).unwrap_err();
        assert!(
            error.message().contains("a file") && error.message().contains("temp_directory="),
            "{error}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn what_went_in_comes_out_wherever_it_was_kept(
            sizes in proptest::collection::vec(0i64..200, 0..8), allowance in 0u64..40_000
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut from = 0;
            let batches: Vec<_> = sizes.iter().map(|rows| { let b = batch(from, *rows); from += rows; b }).collect();
            let back: Vec<_> = read(spool_all(&batches, directory.path(), allowance)).unwrap().map(|b| b.unwrap()).collect();
            prop_assert_eq!(back, batches);
        }
    }
}
