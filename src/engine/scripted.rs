//! The test double.
