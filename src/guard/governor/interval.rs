//! How long the watcher may look away. Pure.

use std::time::Duration;

use crate::settings::Settings;
use crate::units::Bytes;

/// Bytes per second that memory is taken to grow by at most between two readings.
const BURST: f64 = 4e9;
/// The same while nothing of ours runs and memory is still: an interrupt stops only what the host's own queries track,
/// which grows by half as much.
const BURST_AT_REST: f64 = 2e9;
/// Readings that fit into the time which the present growth leaves: growth may still double, and a reading come late.
const READINGS_AHEAD: f64 = 4.0;
/// Bytes per second below which memory counts as still: an idle interpreter's own comings and goings.
const STILL: f64 = 1e6;
/// The shortest interval while nothing runs and nothing grows: nobody could be interrupted anyway.
const IDLE: Duration = Duration::from_millis(50);
/// The longest interval while a query runs and room is scarce, so that a burst is seen early.
const RUNNING: Duration = Duration::from_millis(20);
/// Readings that fit into the room while a query runs, however fast memory grows: a burst takes some to be seen.
const READINGS_IN_A_BURST: f64 = 8.0;

/// What the watcher knows when it goes to sleep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// Memory that counts.
    pub used: Bytes,
    /// The limit it counts against.
    pub limit: Bytes,
    /// Bytes per second by which memory grew lately; negative when it shrank.
    pub growth: f64,
    /// Whether a query runs.
    pub running: bool,
}

/// The time until the next reading: never longer than memory needs to reach the emergency threshold at 4 GB/s, or at
/// four times its present growth, within the bounds of the settings. At rest it is 2 GB/s, and never below 50 ms.
pub fn next_interval(trend: &Trend, settings: &Settings) -> Duration {
    let [.., emergency] = settings.levels;
    let room = trend.limit.times(emergency).minus(trend.used);
    let idle = !trend.running && trend.growth < STILL;
    let burst = if idle { BURST_AT_REST } else { BURST };
    // `max` takes the number when the growth is none, so the burst bound always holds.
    let pace = burst.max(trend.growth * READINGS_AHEAD);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a float keeps 53 bits; the result is clamped"
    )]
    let safe = Duration::try_from_secs_f64(room.get() as f64 / pace).unwrap_or(Duration::ZERO);
    let wished = if idle {
        safe.max(IDLE)
    } else if trend.running {
        safe.min(RUNNING.max(safe.div_f64(READINGS_IN_A_BURST)))
    } else {
        safe
    };
    wished.min(settings.interval_max).max(settings.interval_min)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trend(used_mib: u64, limit_mib: u64, growth: f64, running: bool) -> Trend {
        Trend {
            used: Bytes::mib(used_mib),
            limit: Bytes::mib(limit_mib),
            growth,
            running,
        }
    }

    fn interval(trend: Trend) -> Duration {
        next_interval(&trend, &Settings::default())
    }

    #[test]
    fn calm_is_one_second_and_the_last_bytes_are_two_milliseconds() {
        assert_eq!(interval(trend(100, 16_000, 0.0, false)), Duration::from_secs(1));
        assert_eq!(interval(trend(485, 512, 1e9, true)), Duration::from_millis(2));
        assert_eq!(interval(trend(600, 512, 0.0, true)), Duration::from_millis(2));
    }

    #[test]
    fn a_burst_in_a_running_query_is_seen_several_times_before_it_fills_the_room() {
        assert_eq!(interval(trend(100, 512, 0.0, true)), RUNNING);
        let wide = interval(trend(100, 16_000, 0.0, true));
        assert!(wide > RUNNING && 8 * wide <= Duration::from_secs(4), "{wide:?}");
    }

    #[test]
    fn at_rest_near_the_limit_it_backs_off_and_with_work_it_does_not() {
        assert_eq!(interval(trend(500, 512, 0.0, false)), IDLE);
        assert_eq!(interval(trend(500, 512, -3e8, false)), IDLE);
        assert!(interval(trend(500, 512, 0.0, true)) < IDLE);
        assert!(interval(trend(500, 512, 2e8, false)) < IDLE);
        assert!(interval(trend(500, 512, f64::NAN, false)) < IDLE);
    }

    #[test]
    fn memory_that_grows_by_a_gigabyte_a_second_is_caught_within_ten_milliseconds_of_the_threshold() {
        let limit = Bytes::mib(512);
        let threshold = limit.times(0.95);
        let growth = 1e9;
        for start in 0..486 {
            let mut used = Bytes::mib(start);
            // The growth begins right after a reading that saw none.
            let mut seen = 0.0;
            while used < threshold {
                let pause = next_interval(
                    &Trend {
                        used,
                        limit,
                        growth: seen,
                        running: true,
                    },
                    &Settings::default(),
                );
                used = used.plus(Bytes(u64::try_from(pause.as_nanos()).unwrap()));
                seen = growth;
            }
            let late = used.minus(threshold);
            assert!(
                late <= Bytes(10_000_000),
                "from {start} MiB: {late} over the threshold"
            );
        }
    }

    proptest! {
        #[test]
        fn a_burst_never_reaches_the_threshold_unseen_but_for_the_shortest_interval(
            used in 0u64..3000, limit in 1u64..3000, growth in -1e10..1e10f64, running in any::<bool>(),
        ) {
            let settings = Settings::default();
            let interval = interval(trend(used, limit, growth, running));
            prop_assert!(interval >= settings.interval_min && interval <= settings.interval_max);
            let room = Bytes::mib(limit).times(0.95).minus(Bytes::mib(used));
            let floor = if running || growth >= STILL { settings.interval_min } else { IDLE };
            let rate = if running || growth >= STILL { 4 } else { 2 };
            let grown = Bytes(rate * u64::try_from(interval.as_nanos()).unwrap());
            prop_assert!(interval <= floor || grown <= room.plus(Bytes(8)), "{grown} in {interval:?}, room {room}");
        }

        #[test]
        fn more_memory_or_more_growth_never_lengthens_the_interval(
            used in 0u64..3000, more in 0u64..3000, growth in -1e10..1e10f64, faster in 0.0..1e10f64,
        ) {
            let calm = interval(trend(used, 3000, growth, true));
            prop_assert!(interval(trend(used + more, 3000, growth, true)) <= calm);
            prop_assert!(interval(trend(used, 3000, growth + faster, true)) <= calm);
        }
    }
}
