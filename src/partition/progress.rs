//! How far a partitioning is: which part of the whole each of its statements is. Pure.

use crate::engine::host::Stretch;

/// What is told of a partitioning while it is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// One more share of the source is written, and on the disk.
    Written {
        /// Shares that are written.
        written: usize,
        /// Shares.
        shares: usize,
    },
    /// What follows is this part of the whole.
    Reached(Stretch),
}

/// Who is told.
pub type Watch<'a> = dyn FnMut(Progress) + 'a;

/// What is done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The source is scanned and written.
    Writing,
    /// Pieces are sorted, or made of what was written.
    Making,
    /// What was written is compared with the source.
    Proving,
    /// It is put in its place.
    Publishing,
}

/// Where each stage ends, from 0 to 1: by what each took of tables of 5 million rows. A bar is for waiting, not for measuring.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Course([f64; 4]);

impl Course {
    /// Files as they are written.
    pub(super) const FILES: Course = Course([0.65, 0.65, 0.95, 1.0]);
    /// Files that are sorted.
    pub(super) const SORTED: Course = Course([0.4, 0.86, 0.98, 1.0]);
    /// Tables.
    pub(super) const TABLES: Course = Course([0.3, 0.82, 0.97, 1.0]);

    /// Part `done` of `all` parts of a stage, from 0.
    pub(super) fn part(self, stage: Stage, done: usize, all: usize) -> Progress {
        Progress::Reached(self.stage(stage).part(done, all))
    }

    /// A stage.
    pub(super) fn stage(self, stage: Stage) -> Stretch {
        let place = stage as usize;
        Stretch {
            from: place.checked_sub(1).map_or(0.0, |before| self.0[before]),
            to: self.0[place],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_and_their_parts_are_the_whole_without_a_gap() {
        for course in [Course::FILES, Course::SORTED, Course::TABLES] {
            let mut reached = 0.0_f64;
            for stage in [Stage::Writing, Stage::Making, Stage::Proving, Stage::Publishing] {
                for done in 0..7 {
                    let Progress::Reached(part) = course.part(stage, done, 7) else {
                        panic!("a part is told as one");
                    };
                    assert!((part.from - reached).abs() < 1e-9, "{course:?} {stage:?} {done}");
                    assert!(part.to >= part.from);
                    reached = part.to;
                }
            }
            assert!((reached - 1.0).abs() < 1e-9);
        }
    }
}
