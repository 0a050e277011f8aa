//! What is cut by a plan, and what of an earlier partitioning is taken over. Pure.

use super::done::Place;
use super::lake::Part;
use super::pieces::{Located, relation};
use super::plan::{Next, Plan};
use crate::engine::source::Source;
use crate::validate::Layout;

/// What is cut, and what is taken over.
pub(super) struct Work<'a> {
    /// The rows that are written.
    pub source: Source,
    /// Their columns: name and type.
    pub columns: Vec<(String, String)>,
    /// Where they belong.
    pub layout: Box<dyn Layout + 'a>,
    /// Pieces of before that stay, with the numbers that they get.
    pub same: Vec<(usize, Part)>,
}

impl<'a> Work<'a> {
    /// A source that is cut for the first time.
    pub(super) fn new(plan: &'a Plan, source: Source, columns: Vec<(String, String)>) -> Self {
        Work {
            source,
            columns,
            layout: Box::new(plan),
            same: Vec::new(),
        }
    }

    /// Pieces that are cut anew, of these columns and known by this name: `changed`, with their numbers of before; `same` stay.
    pub(super) fn again(
        next: &'a Next,
        place: &Place,
        (name, columns): (String, Vec<(String, String)>),
        changed: &[(usize, &Part)],
        same: Vec<(usize, Part)>,
    ) -> Self {
        // What a row has does not say its number in a table that it is in no more: all of its old piece is in one of the new.
        let layout: Box<dyn Layout + 'a> = if next.plan.is_by_row_number() {
            let numbers = changed
                .iter()
                .filter_map(|(before, part)| Some((next.place(*before)?, *part)));
            Box::new(Located::new(place, &next.plan, &numbers.collect::<Vec<_>>()))
        } else {
            Box::new(&next.plan)
        };
        let relation = relation(place, changed.iter().map(|(_, part)| *part));
        Work {
            source: Source { name, relation },
            columns,
            layout,
            same,
        }
    }
}
