//! The directory beside the target that pieces are written into, and how it takes the target's place.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::manifest::{FILE, FileOnDisk, Manifest, hexadecimal};
use crate::error::{Error, ErrorKind, Result};

/// What the names of directories beside the target begin with.
const PREFIX: &str = ".duckward-";
/// The file that says what is written.
const JOURNAL: &str = "journal.json";
/// Bytes that are read of a file at once.
const CHUNK: usize = 1 << 20;
/// Threads that read files at once.
const READERS: usize = 4;

/// A directory beside the target, held by this process alone; removed when it is dropped before it was published.
#[derive(Debug)]
pub(super) struct Staging {
    target: PathBuf,
    directory: PathBuf,
    replaces: bool,
    /// Holds the lock.
    lock: Option<File>,
    /// Those that were made for it to be in. Dropped last.
    above: Above,
}

/// Directories that were not there before, the innermost first; removed, where they are empty, when this is dropped.
#[derive(Debug, Default)]
struct Above(Vec<PathBuf>);

impl Above {
    /// Makes a directory, and all that it is in.
    fn make(directory: &Path) -> Result<Self> {
        let missing = directory.ancestors().take_while(|above| !above.exists());
        let above = Above(missing.map(Path::to_owned).collect());
        fs::create_dir_all(directory).map_err(|error| broken("making", directory, &error))?;
        Ok(above)
    }
}

impl Drop for Above {
    fn drop(&mut self) {
        for directory in &self.0 {
            // One that is not empty is not ours any more, and those that it is in are not empty then.
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Staging {
    /// Makes it, if `target` will do. What a process that was killed has left is there still.
    pub(super) fn new(target: &Path, replace: bool) -> Result<Self> {
        let refused =
            |what: &str| Error::invalid("into", format_args!("{:?}", target.display().to_string()), what);
        let text = target.display().to_string();
        if text.trim().is_empty() || text.contains("://") {
            return Err(refused("give the path of a directory on this machine"));
        }
        // Behind a link the directory itself takes part in the exchange, not the link.
        let found = if target.exists() {
            target.canonicalize()
        } else {
            std::path::absolute(target)
        };
        let target = found.map_err(|error| broken("finding", target, &error))?;
        let (Some(parent), Some(directory)) = (target.parent(), beside(&target)) else {
            return Err(refused("give a directory below the root"));
        };
        let above = Above::make(parent)?;
        let lock = alone(&directory)?;
        let staging = Staging {
            replaces: target.exists(),
            target,
            directory,
            lock: Some(lock),
            above,
        };
        staging.check(replace)?;
        Ok(staging)
    }

    /// Refuses a target that must not be replaced.
    fn check(&self, replace: bool) -> Result<()> {
        let target = &self.target;
        if !self.replaces {
            return Ok(());
        }
        let refused = |what: &str| {
            Err(Error::invalid(
                "into",
                format_args!("{:?}", target.display().to_string()),
                what,
            ))
        };
        if !target.is_dir() {
            return refused("it is a file; give the path of a directory");
        }
        let mut entries = fs::read_dir(target).map_err(|error| broken("reading", target, &error))?;
        if entries.next().is_none() {
            return Ok(());
        }
        if !target.join(FILE).is_file() {
            return refused(
                "it has files that no partitioning has written; give another directory, or empty it",
            );
        }
        if !replace {
            return refused("it is there already; give another directory, or replace=True");
        }
        Ok(())
    }

    /// Removes everything in it but the journal, the directories `kept`, and those that they are in.
    pub(super) fn clear(&self, kept: &[PathBuf]) -> Result<()> {
        clear(&self.directory, &self.path(JOURNAL), kept)
    }

    /// Removes a directory in it, if it is there.
    pub(super) fn clear_below(&self, directory: &Path) -> Result<()> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(broken("removing", directory, &error))
            }
            _ => Ok(()),
        }
    }

    /// The journal, if there is one.
    pub(super) fn journal(&self) -> Option<String> {
        fs::read_to_string(self.path(JOURNAL)).ok()
    }

    /// Keeps the journal: the old one is there until the new one is, whole.
    pub(super) fn note(&self, text: &str) -> Result<()> {
        let (path, new) = (self.path(JOURNAL), self.path("journal.new"));
        fs::write(&new, text)
            .and_then(|()| synchronised(&new))
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| broken("writing", &path, &error))
    }

    /// Removes the journal.
    pub(super) fn forget(&self) -> Result<()> {
        let path = self.path(JOURNAL);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(broken("removing", &path, &error)),
            _ => Ok(()),
        }
    }

    /// Where it is to be.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// What is in it stays when it is dropped, for whoever goes on.
    pub(super) fn leave(&mut self) {
        self.directory = PathBuf::new();
    }

    /// A path in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Takes files of the target over into a directory in it; what they are called there.
    pub(super) fn take_over(&self, files: &[FileOnDisk], directory: &str) -> Result<Vec<FileOnDisk>> {
        files
            .iter()
            .map(|file| {
                let name = file.path.rsplit('/').next().unwrap_or(&file.path);
                let path = format!("{directory}/{name}");
                self.link(&file.path, &path)?;
                Ok(FileOnDisk { path, ..file.clone() })
            })
            .collect()
    }

    /// Fills in sizes and checksums that are not known, and sees to it that files and manifest are on the disk.
    pub(super) fn finish(&self, manifest: &mut Manifest) -> Result<()> {
        let mut files: Vec<&mut FileOnDisk> = manifest
            .pieces
            .iter_mut()
            .flat_map(|piece| &mut piece.files)
            .filter(|file| file.sha256.is_empty())
            .collect();
        in_threads(&mut files, &|file| {
            let path = self.path(&file.path);
            (file.bytes, file.sha256) =
                checksum(&path).map_err(|error| broken("reading back", &path, &error))?;
            Ok(())
        })?;
        let path = self.path(FILE);
        fs::write(&path, manifest.seal()).map_err(|error| broken("writing", &path, &error))?;
        synchronise(&self.directory)
    }

    /// Puts it in the target's place.
    pub(super) fn publish(mut self) -> Result<PathBuf> {
        let target = self.target.clone();
        let broken = |error: io::Error| broken("publishing", &target, &error);
        if self.replaces {
            // Nobody may take the old state for one that was left behind, while it is removed.
            let old = open(&target).map_err(broken)?;
            let _ = old.try_lock();
            exchange(&self.directory, &target).map_err(broken)?;
            // What is in the directory now is the old state; dropping removes it.
            self.lock = Some(old);
        } else {
            fs::rename(&self.directory, &target).map_err(broken)?;
            self.leave();
        }
        self.above.0.clear();
        settle(&target);
        Ok(target)
    }

    /// Puts it in the target's place, which then is in `aside`. At no time is one of the two only here.
    pub(super) fn publish_beside(mut self, aside: &Path) -> Result<()> {
        let broken = |error: io::Error| broken("publishing", &self.target, &error);
        fs::rename(&self.directory, aside).map_err(broken)?;
        self.directory = aside.to_owned();
        exchange(aside, &self.target).map_err(broken)?;
        // What is there now is kept.
        self.directory = PathBuf::new();
        settle(&self.target);
        Ok(())
    }

    /// Puts what `publish_beside` has put aside in the target's place again, and removes what was there.
    pub(super) fn take_back(&self, aside: &Path) -> Result<()> {
        exchange(aside, &self.target).map_err(|error| broken("publishing", &self.target, &error))?;
        settle(&self.target);
        fs::remove_dir_all(aside).map_err(|error| broken("removing", aside, &error))
    }

    /// A directory beside the target that is none yet, by a name that `token` makes its own.
    pub(super) fn aside(&self, token: &str) -> PathBuf {
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        self.target
            .with_file_name(format!("{PREFIX}removed-{token}-{name}"))
    }

    /// Has a file of the target here, too, by a path of its own: the same one where the file system knows second names, otherwise
    /// a copy.
    pub(super) fn link(&self, file: &str, path: &str) -> Result<()> {
        let (from, to) = (self.target.join(file), self.path(path));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|error| broken("making", parent, &error))?;
        }
        fs::hard_link(&from, &to)
            .or_else(|_| fs::copy(&from, &to).map(drop))
            .map_err(|error| broken("linking", &to, &error))
    }
}

/// Sees to it that the names of a directory and of those beside it are on the disk. Not everywhere can that be done; then the
/// old state may come back after a power failure.
fn settle(target: &Path) {
    if let Some(parent) = target.parent() {
        let _ = open(parent).and_then(|parent| parent.sync_all());
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.directory.as_os_str().is_empty() {
            let _ = fs::remove_dir_all(&self.directory);
        }
        if let Some(lock) = self.lock.take() {
            // Closing alone would leave it to a child that was forked meanwhile.
            let _ = lock.unlock();
        }
    }
}

/// Removes what a process that was killed has left beside `target`, a partitioning, where nobody can go on with it: an old
/// state. What others are writing is theirs.
pub(super) fn sweep(target: &Path) -> Result<()> {
    let found = target
        .canonicalize()
        .map_err(|error| broken("finding", target, &error))?;
    let is_left = beside(&found).is_some_and(|left| left.is_dir() && !left.join(JOURNAL).exists());
    if !is_left {
        return Ok(());
    }
    match Staging::new(&found, true) {
        Err(error) if error.kind() == ErrorKind::State => Ok(()),
        staging => staging.map(drop),
    }
}

/// Where the pieces of a target are written; none of the root.
fn beside(target: &Path) -> Option<PathBuf> {
    let name = target.file_name()?.to_string_lossy();
    Some(target.parent()?.join(format!("{PREFIX}{name}")))
}

/// Makes the directory and locks it.
fn alone(directory: &Path) -> Result<File> {
    for _ in 0..8 {
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(broken("making", directory, &error));
            }
            _ => {}
        }
        let lock = match open(directory) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(broken("opening", directory, &error)),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let message = format!(
                    "{} is being written by another partitioning; wait for its end, or give another directory",
                    directory.display()
                );
                return Err(Error::new(ErrorKind::State, message));
            }
            Err(TryLockError::Error(error)) => return Err(broken("locking", directory, &error)),
        }
        // Whoever had it may have moved it away between opening and locking.
        if same(&lock, directory) {
            return Ok(lock);
        }
    }
    let message = format!("{} comes and goes; try again", directory.display());
    Err(Error::new(ErrorKind::State, message))
}

#[cfg(unix)]
fn same(lock: &File, directory: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (lock.metadata(), directory.metadata()) {
        (Ok(held), Ok(there)) => of(held) == of(there),
        _ => false,
    }
}

#[cfg(not(unix))]
fn same(_lock: &File, directory: &Path) -> bool {
    directory.exists()
}

/// Two directories change places, so that at no time one of them is missing.
#[cfg(target_os = "linux")]
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE).map_err(io::Error::from)
}

/// For a moment there is no old directory and no new one. Untested.
#[cfg(not(target_os = "linux"))]
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    let aside = old.with_extension("duckward-old");
    fs::rename(old, &aside)?;
    fs::rename(new, old)?;
    fs::rename(&aside, new)
}

/// Removes what is in a directory, but for a file and for directories that are `kept`.
fn clear(directory: &Path, file: &Path, kept: &[PathBuf]) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(|error| broken("reading", directory, &error))?;
    for entry in entries {
        let path = entry
            .map_err(|error| broken("reading", directory, &error))?
            .path();
        let is_kept = kept.contains(&path) || (path == file && !kept.is_empty());
        let removed = if is_kept {
            Ok(())
        } else if kept.iter().any(|kept| kept.starts_with(&path)) {
            clear(&path, file, kept)?;
            Ok(())
        } else if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(|error| broken("removing", &path, &error))?;
    }
    Ok(())
}

/// Moves the files of a piece, which are in several directories, into one of the staging directory; what they are called there.
pub(super) fn move_piece(from: &[PathBuf], staging: &Staging, directory: &str) -> Result<Vec<FileOnDisk>> {
    let to = staging.path(directory);
    fs::create_dir_all(&to).map_err(|error| broken("making", &to, &error))?;
    let mut files = Vec::new();
    for (share, from) in from.iter().enumerate().filter(|(_, from)| from.exists()) {
        for entry in fs::read_dir(from).map_err(|error| broken("reading", from, &error))? {
            let entry = entry.map_err(|error| broken("reading", from, &error))?;
            // Those of several shares have like names.
            let name = match share {
                0 => entry.file_name().to_string_lossy().into_owned(),
                share => format!("{share}_{}", entry.file_name().to_string_lossy()),
            };
            let path = entry.path();
            fs::rename(&path, to.join(&name)).map_err(|error| broken("moving", &path, &error))?;
            files.push(FileOnDisk {
                path: format!("{directory}/{name}"),
                ..FileOnDisk::default()
            });
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

/// Moves everything that is in `from` into `into`.
pub(super) fn join(from: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).map_err(|error| broken("making", into, &error))?;
    for entry in fs::read_dir(from).map_err(|error| broken("reading", from, &error))? {
        let entry = entry.map_err(|error| broken("reading", from, &error))?;
        let path = entry.path();
        fs::rename(&path, into.join(entry.file_name())).map_err(|error| broken("moving", &path, &error))?;
    }
    Ok(())
}

/// Does something with each of several files, a few at a time.
pub(super) fn in_threads<T: Send>(all: &mut [T], act: &(dyn Fn(&mut T) -> Result<()> + Sync)) -> Result<()> {
    let share = all.len().div_ceil(READERS).max(1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = all
            .chunks_mut(share)
            .map(|some| scope.spawn(move || some.iter_mut().try_for_each(act)))
            .collect();
        readers.into_iter().try_for_each(|reader| {
            reader
                .join()
                .map_err(|_| Error::new(ErrorKind::Internal, "a thread that read files panicked"))?
        })
    })
}

/// Sees to it that a file is on the disk.
fn synchronised(path: &Path) -> io::Result<()> {
    open(path)?.sync_all()
}

/// Size and SHA-256 of a file.
pub(super) fn checksum(path: &Path) -> io::Result<(u64, String)> {
    let mut file = open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok((bytes, hexadecimal(&hash.finalize())))
}

/// Sees to it that the files in a directory, and in all below it, are on the disk, and their names.
pub(super) fn synchronise(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(|error| broken("reading", directory, &error))? {
        let path = entry
            .map_err(|error| broken("reading", directory, &error))?
            .path();
        if path.is_dir() {
            synchronise(&path)?;
        } else {
            synchronised(&path).map_err(|error| broken("writing", &path, &error))?;
        }
    }
    // Not everywhere can a directory be synchronised.
    let _ = open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "files that were written here, and directories; no database"
)]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

pub(super) fn broken(what: &str, path: &Path, error: &io::Error) -> Error {
    let next = match error.kind() {
        io::ErrorKind::StorageFull => "; free space there, or write to another disk",
        _ => "",
    };
    Error::new(
        ErrorKind::Disk,
        format!("{what} {} failed: {error}{next}", path.display()),
    )
}
