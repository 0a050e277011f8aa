//! Time, as a value that is handed in: the system's clock, and one that tests and simulation move by hand.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A moment: the time since the clock's own beginning. Only differences mean anything.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Moment(Duration);

impl Moment {
    /// The moment `since` after the clock's beginning.
    pub const fn at(since: Duration) -> Self {
        Moment(since)
    }

    /// The time since `earlier`, or zero if that is later.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The time since the clock's beginning.
    pub fn elapsed(self) -> Duration {
        self.0
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, more: Duration) -> Moment {
        Moment(self.0.saturating_add(more))
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present moment; never goes back.
    fn now(&self) -> Moment;
    /// The wall clock, as milliseconds since 1970-01-01 UTC; may jump.
    fn unix_ms(&self) -> u64;
    /// Waits for `time`.
    fn sleep(&self, time: Duration);
    /// How long somebody who waits for another thread may really wait while `time` passes here. A simulation, in
    /// which nobody else moves meanwhile, gives zero.
    fn real(&self, time: Duration) -> Duration {
        time
    }
}

/// A clock that many own.
pub type SharedClock = Arc<dyn Clock>;

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock that begins now.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place where the system's time enters"
    )]
    pub fn new() -> Self {
        SystemClock {
            start: std::time::Instant::now(),
        }
    }

    /// The same, to be shared.
    pub fn shared() -> SharedClock {
        Arc::new(SystemClock::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        Moment(self.start.elapsed())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place where the system's time enters"
    )]
    fn unix_ms(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place where a thread sleeps"
    )]
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: Mutex<Duration>,
    moved: Condvar,
}

impl ManualClock {
    /// A clock at zero.
    pub fn new() -> Arc<Self> {
        Arc::new(ManualClock::default())
    }

    /// Moves the clock on and wakes whoever sleeps by it.
    pub fn advance(&self, time: Duration) {
        *self.now.lock() += time;
        self.moved.notify_all();
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Moment {
        Moment(*self.now.lock())
    }

    fn unix_ms(&self) -> u64 {
        u64::try_from(self.now.lock().as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, time: Duration) {
        let mut now = self.now.lock();
        let until = *now + time;
        while *now < until {
            self.moved.wait(&mut now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_clock_moves_only_by_hand_and_wakes_sleepers() {
        let clock = ManualClock::new();
        let before = clock.now();
        let sleeper = {
            let clock = Arc::clone(&clock);
            std::thread::spawn(move || clock.sleep(Duration::from_secs(5)))
        };
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.now().since(before), Duration::from_secs(2));
        // The sleeper may begin late; it wakes as soon as five seconds have passed since then.
        while !sleeper.is_finished() {
            clock.advance(Duration::from_secs(5));
            std::thread::yield_now();
        }
        sleeper.join().unwrap();
    }

    #[test]
    fn a_difference_is_never_negative() {
        let early = Moment::at(Duration::from_secs(1));
        assert_eq!(early.since(early + Duration::from_secs(1)), Duration::ZERO);
    }
}
