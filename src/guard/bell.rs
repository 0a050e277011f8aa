//! What threads that have nothing to do wait for.
//!
//! Not parking_lot's condition variable: that keeps whoever waits in a table of the process that points into the threads'
//! stacks. A forked child inherits the table without the threads, and the next lock it waits for reads what became of them.

#[expect(
    clippy::disallowed_types,
    reason = "parking_lot's does not survive a fork, see above"
)]
use std::sync::Mutex;
use std::sync::{Condvar, MutexGuard, PoisonError};
use std::time::Duration;

/// Rung when something has changed. It guards nothing: what has changed lies under locks of its own.
#[derive(Debug, Default)]
#[expect(
    clippy::disallowed_types,
    reason = "parking_lot's does not survive a fork, see above"
)]
pub struct Bell {
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    /// How often it was rung. Asked before one looks whether there is anything to do, so that no ring is missed.
    pub fn rings(&self) -> u64 {
        *self.lock()
    }

    /// Wakes everybody who waits.
    pub fn ring(&self) {
        let mut rings = self.lock();
        *rings = rings.wrapping_add(1);
        self.rung.notify_all();
    }

    /// Waits for a ring after the `heard`th, at most for `time`.
    pub fn wait(&self, heard: u64, time: Duration) {
        let rings = self.lock();
        drop(
            self.rung
                .wait_timeout_while(rings, time, |rings| *rings == heard)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_ring_between_the_look_and_the_wait_is_not_missed() {
        let bell = Bell::default();
        let heard = bell.rings();
        bell.ring();
        bell.wait(heard, Duration::from_secs(600));
        assert_eq!(bell.rings(), heard + 1);
    }

    #[test]
    fn a_ring_wakes_all_who_wait_and_a_wait_ends_without_one() {
        let bell = Arc::new(Bell::default());
        bell.wait(bell.rings(), Duration::from_millis(1));
        let heard = bell.rings();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let bell = Arc::clone(&bell);
                std::thread::spawn(move || bell.wait(heard, Duration::from_secs(600)))
            })
            .collect();
        bell.ring();
        for thread in waiting {
            thread.join().unwrap();
        }
    }
}
