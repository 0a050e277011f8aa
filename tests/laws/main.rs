//! Laws of the whole: a ward on the scripted engine, from the call to the last event.
//!
//! [`rig`] has a clock that takes the guard's readings when they fall due while somebody waits, so most laws need no
//! threads; [`threads`] has the real ones; [`simulation`] has many callers and one seed.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "tests may unwrap, read the time, and print how to run a seed again"
)]

mod keeping;
mod memory;
mod rig;
mod running;
mod sharing;
mod simulation;
mod threads;
