//! A query that cannot run as it is: [`classify`] says what failed, [`ladder`] says what is next, [`spool`] holds
//! answers larger than memory, [`history`] remembers what a query needed the last time.
//!
//! `classify`, `ladder` and `history` are pure.

pub mod classify;
pub mod history;
pub mod ladder;
pub mod spool;
