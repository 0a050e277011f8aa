//! Cutting a table: what its columns are like, and what they can be cut by.
//!
//! Types and the text of statements are pure; whoever has a question hands in who answers it ([`Ask`](crate::engine::Ask)).

pub mod balance;
pub mod calendar;
pub mod column;
pub mod deduplicate;
mod disk;
pub mod done;
pub mod ingest;
pub mod lake;
mod pieces;
pub mod plan;
pub mod profile;
pub mod progress;
pub mod tables;
mod work;
