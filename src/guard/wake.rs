//! Waits of the watching thread: for a time, for a call to wake, or for a signal number written into its pipe
//! (Python's `signal.set_wakeup_fd` does that from its signal handler, while the main thread is inside DuckDB).

use std::time::Duration;

#[cfg(unix)]
mod unix {
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::pipe::{PipeFlags, pipe_with};

    /// A self-pipe. A zero byte wakes; any other byte is the number of a signal.
    #[derive(Debug)]
    pub struct Wake {
        read: OwnedFd,
        write: OwnedFd,
    }

    impl Wake {
        /// A new pipe.
        ///
        /// # Errors
        /// The system's, when it has no more descriptors.
        pub fn new() -> std::io::Result<Self> {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            Ok(Wake { read, write })
        }

        /// Ends the wait now, or the next one at once.
        pub fn wake(&self) {
            // A full pipe wakes as well as one more byte would.
            let _ = rustix::io::write(&self.write, &[0]);
        }

        /// Waits; the signals that arrived.
        pub fn wait(&self, time: Duration) -> Vec<u8> {
            let timeout = Timespec {
                tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(time.subsec_nanos()),
            };
            let mut fds = [PollFd::new(&self.read, PollFlags::IN)];
            if !matches!(poll(&mut fds, Some(&timeout)), Ok(ready) if ready > 0) {
                return Vec::new();
            }
            let mut buffer = [0u8; 64];
            let count = rustix::io::read(&self.read, &mut buffer).unwrap_or(0);
            buffer[..count]
                .iter()
                .copied()
                .filter(|byte| *byte != 0)
                .collect()
        }

        /// The descriptor to which signal numbers are written.
        pub fn descriptor(&self) -> i32 {
            self.write.as_raw_fd()
        }
    }
}

#[cfg(not(unix))]
mod other {
    use std::time::Duration;

    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::super::bell::Bell;

    /// Without signals. Compiles on Windows; untested there.
    #[derive(Debug, Default)]
    pub struct Wake {
        woken: AtomicBool,
        changed: Bell,
    }

    impl Wake {
        /// A new one.
        ///
        /// # Errors
        /// Never here.
        pub fn new() -> std::io::Result<Self> {
            Ok(Wake::default())
        }

        /// Ends the wait now, or the next one at once.
        pub fn wake(&self) {
            self.woken.store(true, SeqCst);
            self.changed.ring();
        }

        /// Waits.
        pub fn wait(&self, time: Duration) -> Vec<u8> {
            let heard = self.changed.rings();
            if !self.woken.swap(false, SeqCst) {
                self.changed.wait(heard, time);
                self.woken.store(false, SeqCst);
            }
            Vec::new()
        }

        /// No descriptor.
        pub fn descriptor(&self) -> i32 {
            -1
        }
    }
}

#[cfg(not(unix))]
pub use other::Wake;
#[cfg(unix)]
pub use unix::Wake;

/// The number of the signal that Ctrl-C sends.
pub const SIGINT: u8 = 2;

/// How long the watcher sleeps at most; a bound on everything it may notice late.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

#[cfg(all(test, unix))]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_wake_before_the_wait_is_not_lost_and_is_used_once() {
        let wake = Wake::new().unwrap();
        wake.wake();
        assert!(
            wake.wait(Duration::from_secs(60)).is_empty(),
            "returned at once, without a signal"
        );
        assert!(wake.wait(Duration::from_millis(1)).is_empty());
    }

    #[test]
    fn a_wake_ends_a_wait_of_another_thread() {
        let wake = Arc::new(Wake::new().unwrap());
        let waiter = {
            let wake = Arc::clone(&wake);
            std::thread::spawn(move || wake.wait(Duration::from_secs(600)))
        };
        wake.wake();
        assert!(waiter.join().unwrap().is_empty());
    }
}
