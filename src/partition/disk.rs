//! Whether a disk has room for what a plan makes. Pure.
//!
//! What it will take is not known before it is written: the same rows may be a tenth of their size in memory, or a hundredth. So
//! only what cannot go well is refused; a disk that gets full later is an error of its own, and nothing is published then.

use std::collections::BTreeSet;

use crate::error::{Error, ErrorKind, Result};
use crate::partition::plan::Plan;
use crate::units::Bytes;

/// So many times smaller than in memory are rows on a disk at best: few values, repeated. Ordinary ones are five to fifteen times
/// smaller.
const BEST: u64 = 100;
/// So much is left for the file system, and for whoever else writes there, unless all of it would fit as it is in memory.
const RESERVE: Bytes = Bytes::mib(16);
/// What a file takes at least.
const BLOCK: Bytes = Bytes(4096);

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// The rows' bytes in memory.
    pub bytes: Bytes,
    /// Files.
    pub files: usize,
}

impl Load {
    /// The pieces of a plan, each a file, but for those that are taken over.
    pub(super) fn of<T>(plan: &Plan, taken_over: &[(usize, T)]) -> Self {
        let taken_over: BTreeSet<usize> = taken_over.iter().map(|(number, _)| *number).collect();
        let pieces = plan.pieces.iter().enumerate();
        let none = Load {
            bytes: Bytes(0),
            files: 0,
        };
        pieces
            .filter(|(number, piece)| piece.rows > 0 && !taken_over.contains(number))
            .fold(none, |sum, (_, piece)| Load {
                bytes: sum.bytes.plus(piece.bytes),
                files: sum.files + 1,
            })
    }

    /// What of it is left when `done` of `all` parts are written.
    pub(super) fn left(self, done: usize, all: usize) -> Self {
        let left = |whole: u64| {
            let (all, left) = (all.max(1) as u128, all.saturating_sub(done) as u128);
            u64::try_from(u128::from(whole) * left / all).unwrap_or(whole)
        };
        Load {
            bytes: Bytes(left(self.bytes.get())),
            files: usize::try_from(left(self.files as u64)).unwrap_or(self.files),
        }
    }

    /// With less free space than that it is not begun.
    fn least(self) -> Bytes {
        let files = Bytes(BLOCK.get().saturating_mul(self.files as u64));
        Bytes(self.bytes.get() / BEST)
            .max(self.bytes.min(RESERVE))
            .plus(files)
    }

    /// Refuses a disk that cannot have room for it. `source` is what is cut, `place` where it is to be, `other` what else can be
    /// done.
    ///
    /// # Errors
    /// [`ErrorKind::Disk`].
    pub(super) fn check(self, free: Bytes, source: &str, place: &str, other: &str) -> Result<()> {
        let least = self.least();
        if free >= least {
            return Ok(());
        }
        let message = format!(
            "{place} has no room for the pieces of {source}, about {} in memory: at least {least} must be free on that disk, \
             and {free} are; nothing was written: free space, or {other}",
            self.bytes
        );
        Err(Error::new(ErrorKind::Disk, message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(bytes: Bytes, files: usize, free: Bytes) -> bool {
        let load = Load { bytes, files };
        load.check(free, "t", "lake", "give another directory").is_err()
    }

    #[test]
    fn only_what_cannot_fit_is_refused() {
        let gib = |number: u64| Bytes::mib(number << 10);
        // 200 GiB in memory may become 2 GiB, and more often 20.
        assert!(!refused(gib(200), 24, gib(3)));
        assert!(refused(gib(200), 24, gib(2)));
        // Little fits anywhere, as long as it fits as it is.
        assert!(!refused(Bytes(4000), 1, Bytes(8192)));
        assert!(refused(Bytes(4000), 1, Bytes(8000)));
        assert!(refused(Bytes(0), 1, Bytes(0)));
        // In between some is left to the others.
        assert!(refused(Bytes::mib(40), 0, Bytes::mib(15)));
        assert!(!refused(Bytes::mib(40), 0, Bytes::mib(16)));
        // Ten thousand files take their blocks.
        assert!(refused(Bytes::mib(1), 10_000, Bytes::mib(39)));
        assert!(!refused(Bytes::mib(1), 10_000, Bytes::mib(41)));
    }

    #[test]
    fn what_is_written_already_needs_no_room() {
        let all = Load {
            bytes: Bytes::mib(4000),
            files: 40,
        };
        let quarter = Load {
            bytes: Bytes::mib(1000),
            files: 10,
        };
        assert_eq!(all.left(3, 4), quarter);
        assert_eq!(all.left(4, 4).least(), Bytes(0));
        assert_eq!(all.left(0, 0), all.left(5, 4));
    }

    #[test]
    fn the_message_says_how_much_is_needed_and_how_much_is_there() {
        let load = Load {
            bytes: Bytes::mib(200 << 10),
            files: 0,
        };
        let error = load
            .check(Bytes::mib(100), "t", "lake/t", "give another directory")
            .unwrap_err();
        assert_eq!(
            error.message(),
            "lake/t has no room for the pieces of t, about 200.0 GiB in memory: at least 2.0 GiB must be free on that disk, \
             and 100.0 MiB are; nothing was written: free space, or give another directory"
        );
    }

    proptest! {
        #[test]
        fn more_room_never_hurts_and_more_rows_never_help(
            bytes in 0u64..1 << 45, files in 0usize..20_000, free in 0u64..1 << 45, more in 0u64..1 << 40
        ) {
            let now = refused(Bytes(bytes), files, Bytes(free));
            prop_assert!(now || !refused(Bytes(bytes), files, Bytes(free + more)));
            prop_assert!(!now || refused(Bytes(bytes + more), files, Bytes(free)));
            // What fits uncompressed, with a block for each file, is never refused.
            let all = bytes + files as u64 * BLOCK.get();
            prop_assert!(!(now && free >= all));
        }
    }
}
