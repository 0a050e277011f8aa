//! Whether and how one SELECT can be computed in pieces. Pure: DuckDB's own parse of the statement in, what to compute
//! beforehand and in which way out, or why not.
//!
//! The cut is a filter on the *result* of a query: `SELECT * FROM (query) WHERE hash(keys) BETWEEN low AND high`. Whatever
//! the query does, its answer is the union of such pieces, each row in exactly one of them. What makes a piece smaller than
//! the whole is DuckDB's optimizer, which moves the filter below the aggregate when the keys are what it groups by;
//! whether it did is read in the plan, and a cut whose filter stays above is not taken. Below the aggregate the filter
//! sees the input, so the pieces' inputs are disjoint and cover it, and their row counts must add up.
//!
//! A query inside another (in FROM, or a common table expression) that may give other rows the second time (a LIMIT, an
//! aggregate of floats, a window with ties) is computed once, beforehand: every piece must see the same.

mod cut;
pub mod digest;
mod explicit;
pub mod fed;
pub mod functions;
pub mod grouping;
mod keys;
mod names;
mod reads;
pub mod rows;
mod scope;
mod shape;
mod targets;
mod tree;
pub mod ungrouped;

use std::collections::BTreeSet;

use serde_json::Value;

use functions::State;

pub use cut::{cut, filtered, with_qualify};
pub use explicit::{has_parameters, name_items, put_parameters, put_views, spell_floats};
pub use names::asks_for_columns;
pub use reads::{Reads, all_tables, collates, ctes, reads, reads_files_only, tables};
pub use scope::{as_statement, whole};
pub use targets::{queries, targets};

/// How the names of common table expressions of ours begin.
pub const PAIRS: &str = "duckward_pairs_";

/// How the names begin that stand for the keys in [`filtered`].
pub const KEY: &str = "duckward_k";

/// Why a statement is not cut, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyNot(pub String);

impl WhyNot {
    fn of(text: impl Into<String>) -> Self {
        WhyNot(text.into())
    }
}

/// What is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The aggregates that cannot spill.
    Kept,
    /// Everything that can be.
    All,
}

/// How a query of the statement is computed beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In pieces.
    Pieces,
    /// At once, because every piece around it must see the same rows.
    Once,
}

/// A query of the statement that is computed beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it is, as a JSON pointer into the parse; inner ones come first.
    pub pointer: String,
    /// How.
    pub way: Way,
}

/// Where a key is among the columns of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Among those that the query gives.
    Visible(usize),
    /// Among those that were added.
    Hidden(usize),
}

impl Position {
    /// The column's name in a piece.
    pub fn name(self) -> String {
        match self {
            Position::Visible(index) => format!("duckward_c{index}"),
            Position::Hidden(index) => format!("duckward_h{index}"),
        }
    }
}

/// What an aggregate keeps in memory.
#[derive(Clone, Debug)]
pub struct Kept {
    /// How it grows.
    pub state: State,
    /// The statement that gives the values it keeps, a column each, if it keeps any.
    pub values: Option<Value>,
    /// The aggregate's name.
    pub name: String,
}

/// One query, ready to be computed in pieces. Statements are in DuckDB's JSON form.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The query without its order and limit, and with the hidden columns at its end.
    pub body: Value,
    /// How many hidden columns there are.
    pub hidden: usize,
    /// The keys; all visible columns if there are none.
    pub keys: Vec<Position>,
    /// A statement that gives the keys of every row that goes in, a column each, if there is one.
    pub source: Option<Value>,
    /// The hidden column that counts the rows that went in, or none when each row of the result is one.
    pub rows: Option<usize>,
    /// How often each row that went in is counted in the result: once for each grouping set; 0 when it is not.
    pub counted: u64,
    /// The hidden column with what HAVING says.
    pub having: Option<usize>,
    /// The visible columns that are a bare NULL, which has no type that a table could keep.
    pub nulls: BTreeSet<usize>,
    /// DISTINCT, ORDER BY and LIMIT, for what is made of the pieces.
    pub modifiers: Vec<Value>,
    /// What is kept in memory.
    pub kept: Vec<Kept>,
}

impl Cut {
    /// Whether it gives a row of each group and no more: such groups are small, and by fewer keys they only grow.
    pub fn is_of_rows(&self) -> bool {
        let items = self.body.pointer("/statements/0/node/select_list");
        let visible = items
            .and_then(Value::as_array)
            .map_or(0, |items| items.len().saturating_sub(self.hidden));
        self.kept.is_empty() && (0..visible).all(|index| self.keys.contains(&Position::Visible(index)))
    }
}
