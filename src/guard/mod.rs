//! How much memory is there, how much is used, and what to do about it.
//!
//! One data flow: [`reading`] samples the process, its cgroups and the machine; [`pressure`] turns a sample and the
//! [`budget`] into a [`Level`]; [`governor`] turns levels into [`Action`](governor::Action)s; [`respond`] carries
//! them out and takes them back; [`admission`] lets queries in; [`guardian`] joins them for one
//! process, and [`watch`] has the threads that drive it.
//! `pressure`, `governor`, `elastic` and the arithmetic of `budget` are pure: values in, values out.

pub mod admission;
pub mod bell;
pub mod budget;
pub mod ceiling;
pub mod elastic;
pub mod governor;
pub mod guardian;
pub mod pressure;
pub mod reading;
pub mod respond;
pub mod wake;
pub mod watch;

pub use admission::{Admission, Permit, Priority};
pub use budget::Budget;
pub use guardian::Guardian;
pub use pressure::Level;
pub use reading::Reading;
