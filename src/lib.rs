#![doc = include_str!("../README.md")]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "tests may unwrap, sleep and read the time"
    )
)]

pub mod clock;
pub mod engine;
pub mod error;
pub mod event;
pub mod fallback;
mod files;
pub mod guard;
pub mod partition;
pub mod settings;
pub mod units;
pub mod validate;
pub mod ward;

/// Why it is built as it is: questions and answers.
#[doc = include_str!("../DESIGN.md")]
pub mod design {}

#[cfg(feature = "python")]
mod python;

pub use error::{Error, ErrorKind, Result};
pub use event::Event;
pub use guard::Level;
pub use settings::Settings;
pub use ward::Ward;
