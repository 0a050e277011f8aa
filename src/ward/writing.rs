//! What a partitioning may take, memory and files that are open at once, and what is told of it.

use std::fs;
use std::path::Path;

use super::Ward;
use crate::event::What;
use crate::guard::respond::HeldSettings;
use crate::partition::done::Partitioning;
use crate::partition::lake::{Progress, Room};

/// DuckDB's limit of files that it writes at once.
const SETTING: &str = "partitioned_write_max_open_files";
/// That limit as it is without us.
const BY_ITSELF: usize = 100;
/// Files that are left to the rest of the process, where there are as many again.
const REST: usize = 100;

impl Ward {
    /// What may be taken now. DuckDB keeps as many files open as that until the second value is dropped.
    pub fn writing(&self) -> (Room, HeldSettings) {
        let files = written_at_once(free_files());
        let held = HeldSettings::new(&self.instance, &[(SETTING, &files.to_string())]);
        let room = Room {
            memory: self.guardian.budget(),
            files: if held.names().is_empty() { BY_ITSELF } else { files },
        };
        (room, held)
    }

    /// Tells that a share of a source is written.
    pub fn wrote(&self, target: &Path, progress: Progress) {
        self.guardian.bus().publish(What::ShareWritten {
            path: target.display().to_string(),
            written: progress.written,
            shares: progress.shares,
        });
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
