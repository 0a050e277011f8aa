//! A query that cannot run as it is: [`classify`] says what failed, [`ladder`] says what is next, [`decompose`] says how
//! it is cut and [`pieces`] computes it so, [`feed`] says how its pieces get their rows, [`risk`] sees beforehand that it must be, [`spool`] holds answers larger than
//! memory, [`history`] remembers what a query needed the last time.
//!
//! `classify`, `ladder`, `decompose`, `feed`, `risk` and `history` are pure.

pub mod classify;
#[expect(
    clippy::disallowed_methods,
    reason = "json! unwraps, and what it is given here always has a form in JSON"
)]
pub mod decompose;
pub mod feed;
pub mod history;
pub mod ladder;
pub mod pieces;
pub mod risk;
pub mod spool;
