//! Is a directory of pieces still what was put there? By its files, without the source.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::manifest::{FILE, Manifest};
use super::staging::{broken, checksum, in_threads};
use crate::error::{Error, ErrorKind, Result};
use crate::validate::{Finding, FindingKind};

/// The manifest of a directory.
///
/// # Errors
/// [`ErrorKind::Disk`] where it cannot be read; [`ErrorKind::Invalid`] where there is none, or one that was edited.
pub(super) fn read(directory: &Path) -> Result<Manifest> {
    let path = directory.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Manifest::from_json(FILE, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!(
                "{} is no partitioning: it has no {FILE}; give a directory that partition() has written",
                directory.display()
            );
            Err(Error::new(ErrorKind::Invalid, message))
        }
        Err(error) => Err(broken("reading", &path, &error)),
    }
}

/// That a directory is the one that `manifest` tells of.
///
/// # Errors
/// [`ErrorKind::Invalid`] where it is not; [`ErrorKind::Disk`] where it cannot be read.
pub(super) fn same(directory: &Path, manifest: &Manifest) -> Result<()> {
    if read(directory)? == *manifest {
        return Ok(());
    }
    let message = format!(
        "{} is not what it was: another partitioning took its place; find it by Partitioning.load()",
        directory.display()
    );
    Err(Error::new(ErrorKind::Invalid, message))
}

/// The same, and that it has its files. `what` it is to be: for the error.
///
/// # Errors
/// [`ErrorKind::Invalid`] where it is not; [`ErrorKind::Disk`] where it cannot be read.
pub(super) fn expect(directory: &Path, manifest: &Manifest, what: &str) -> Result<()> {
    same(directory, manifest)?;
    match files(directory, manifest)?.first() {
        None => Ok(()),
        Some(finding) => {
            let message = format!(
                "{} cannot be {what}: {}; check() tells all",
                directory.display(),
                finding.message
            );
            Err(Error::new(ErrorKind::Invalid, message))
        }
    }
}

/// What is missing, added or changed of the files.
///
/// # Errors
/// [`ErrorKind::Disk`] where the directory or a file cannot be read.
pub(super) fn files(directory: &Path, manifest: &Manifest) -> Result<Vec<Finding>> {
    let mut there = BTreeMap::new();
    list(directory, "", &mut there)?;
    let mut known: Vec<_> = manifest
        .files()
        .map(|(piece, file)| (piece, file, there.remove(&file.path), None))
        .collect();
    in_threads(&mut known, &|(_, file, size, found)| {
        *found = match *size {
            None => Some((FindingKind::MissingFile, "is not there".to_owned())),
            Some(size) if size != file.bytes => Some((
                FindingKind::ChangedFile,
                format!("has {size} bytes and should have {}", file.bytes),
            )),
            Some(_) => {
                let path = directory.join(&file.path);
                let (_, sha256) = checksum(&path).map_err(|error| broken("reading", &path, &error))?;
                let is_same = sha256 == file.sha256;
                (!is_same).then(|| {
                    (
                        FindingKind::ChangedFile,
                        "has other bytes than it should".to_owned(),
                    )
                })
            }
        };
        Ok(())
    })?;
    let finding = |kind, piece: Option<&str>, message| Finding {
        kind,
        column: None,
        piece: piece.map(str::to_owned),
        rows: None,
        message,
        examples: Vec::new(),
    };
    let mut findings: Vec<Finding> = known
        .into_iter()
        .filter_map(|(piece, file, _, found)| {
            let (kind, what) = found?;
            Some(finding(
                kind,
                Some(piece),
                format!("file {} of piece {piece} {what}", file.path),
            ))
        })
        .collect();
    findings.extend(there.into_keys().map(|path| {
        finding(
            FindingKind::ExtraFile,
            None,
            format!("file {path} belongs to no piece"),
        )
    }));
    Ok(findings)
}

/// The files below a directory with their sizes, but for the manifest.
fn list(directory: &Path, prefix: &str, there: &mut BTreeMap<String, u64>) -> Result<()> {
    let of = |error: io::Error| broken("reading", directory, &error);
    for entry in fs::read_dir(directory).map_err(of)? {
        let entry = entry.map_err(of)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let path = entry.path();
        let metadata = path
            .metadata()
            .map_err(|error| broken("reading", &path, &error))?;
        if metadata.is_dir() {
            list(&path, &format!("{name}/"), there)?;
        } else if name != FILE {
            there.insert(name, metadata.len());
        }
    }
    Ok(())
}
