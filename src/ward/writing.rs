//! What a partitioning may take, memory and files that are open at once, and what is told of it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::Ward;
use super::cutting::room_on_disk;
use crate::engine::host::Connection;
use crate::event::What;
use crate::guard::respond::HeldSettings;
use crate::partition::done::Partitioning;
use crate::partition::lake::Room;
use crate::partition::progress::Progress;
use crate::units::Bytes;

/// DuckDB's limit of files that it writes at once.
const SETTING: &str = "partitioned_write_max_open_files";
/// That limit as it is without us.
const BY_ITSELF: usize = 100;
/// Files that are left to the rest of the process, where there are as many again.
const REST: usize = 100;

impl Ward {
    /// What may be taken now to write into a directory. DuckDB keeps as many files open as that until the second value is dropped.
    pub fn writing(&self, target: &Path) -> (Room, HeldSettings) {
        let files = written_at_once(free_files());
        let held = HeldSettings::new(&self.instance, &[(SETTING, &files.to_string())]);
        let room = Room {
            memory: self.guardian.budget(),
            files: if held.names().is_empty() { BY_ITSELF } else { files },
            disk: free_space(target),
        };
        (room, held)
    }

    /// Tells how far a partitioning is.
    pub fn reached(&self, work: &Work, target: &str, progress: Progress) {
        match progress {
            Progress::Written { written, shares } => self.guardian.bus().publish(What::ShareWritten {
                path: target.to_owned(),
                written,
                shares,
            }),
            Progress::Reached(stretch) => work.0.works(Some(stretch)),
        }
    }

    /// Tells that a partitioning is in its place.
    pub fn published(&self, done: &Partitioning) {
        self.guardian.bus().publish(What::PartitionPublished {
            path: done.place.to_string(),
            pieces: done.manifest.pieces.len(),
            rows: done.manifest.rows(),
        });
    }
}

/// A work of several statements on a connection, until it is dropped.
#[derive(Debug)]
pub struct Work(Arc<Connection>);

impl Work {
    /// A work that has not begun.
    pub fn new(connection: &Arc<Connection>) -> Self {
        Work(Arc::clone(connection))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.works(None);
    }
}

/// Free space on the disk that a path is on, or will be, where the system says.
pub fn free_space(path: &Path) -> Option<Bytes> {
    room_on_disk(&std::path::absolute(path).ok()?)
}

/// Files that may be written at once where so many may be opened. DuckDB reads others meanwhile, so of few half are left.
fn written_at_once(free: usize) -> usize {
    (free - REST.min(free / 2)).clamp(1, Room::MOST)
}

/// Files that this process may open besides those that it has.
#[cfg(unix)]
fn free_files() -> usize {
    use rustix::process::{Resource, getrlimit};
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return usize::MAX;
    };
    let open = fs::read_dir("/proc/self/fd").map_or(REST, Iterator::count);
    usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(open)
}

#[cfg(not(unix))]
fn free_files() -> usize {
    BY_ITSELF + REST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_files_are_left_to_others() {
        for (free, written) in [(0, 1), (1, 1), (52, 26), (199, 100), (201, 101), (1024, 924)] {
            assert_eq!(written_at_once(free), written);
        }
        assert_eq!(written_at_once(usize::MAX), Room::MOST);
    }
}
