//! From a share of the budget to a level, with hysteresis on the way down. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::settings::Settings;
use crate::units::Bytes;

/// How close memory is to the budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Below 70 %.
    #[default]
    Normal,
    /// From 70 %.
    Caution,
    /// From 80 %.
    Warning,
    /// From 90 %.
    Critical,
    /// From 95 %.
    Emergency,
}

impl Level {
    /// Every level, mildest first.
    pub const ALL: [Level; 5] = [
        Level::Normal,
        Level::Caution,
        Level::Warning,
        Level::Critical,
        Level::Emergency,
    ];

    /// The level as one lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Level::Normal => "normal",
            Level::Caution => "caution",
            Level::Warning => "warning",
            Level::Critical => "critical",
            Level::Emergency => "emergency",
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Where the levels begin, and what it takes to leave one downward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Share at which caution, warning, critical and emergency begin, ascending.
    pub at: [f64; 4],
    /// How far below its threshold the share must fall before a level is left.
    pub hysteresis: f64,
    /// How long it must stay there.
    pub dwell: Duration,
}

impl From<&Settings> for Thresholds {
    fn from(settings: &Settings) -> Self {
        Thresholds {
            at: settings.levels,
            hysteresis: settings.hysteresis,
            dwell: settings.dwell,
        }
    }
}

impl Thresholds {
    /// The level that `share` has by itself. A share that is not a number is an emergency: nothing is known to be well.
    pub fn level_of(&self, share: f64) -> Level {
        self.level_with(share, 0.0)
    }

    /// The level that `share` holds once it is there: each threshold counts as lower by the hysteresis.
    pub fn level_held_by(&self, share: f64) -> Level {
        self.level_with(share, self.hysteresis)
    }

    fn level_with(&self, share: f64, slack: f64) -> Level {
        if share.is_nan() {
            return Level::Emergency;
        }
        // Subtracted from the threshold, not added to the share, so that both ways round alike.
        let reached = self
            .at
            .iter()
            .rposition(|at| share >= at - slack)
            .map_or(0, |index| index + 1);
        Level::ALL[reached]
    }
}

/// Growth a second from which it may be a burst: strings of one vector, which no interrupt and no limit of DuckDB's stops.
const BURST_A_SECOND: Bytes = Bytes::mib(1228);
/// How far DuckDB goes over its own limit.
const OVERSHOOT: f64 = 0.05;

/// Bytes per second from which on memory grows, and does not only come and go.
const GROWING: f64 = 50e6;

/// Whether memory, now at `share` of what there is, that grew by `growth` in `took` does so in a burst. Up to `fill`, the
/// share that DuckDB's limit leaves to it, DuckDB itself may grow as fast as the machine copies: that is no burst.
pub fn is_burst(growth: Bytes, took: Duration, share: f64, fill: f64) -> bool {
    let most = BURST_A_SECOND.times(took.as_secs_f64());
    // A share that is not a number is not known to be harmless.
    growth > most && (share.is_nan() || share > fill + OVERSHOOT)
}

/// Whether memory grows, by `growth` bytes a second, although `interrupted` queries have been told to stop at `level`: then the
/// engine heeds no interrupt, and only an allocation that fails ends it.
pub fn is_unheeded(level: Level, interrupted: usize, growth: f64) -> bool {
    level == Level::Emergency && interrupted > 0 && growth > GROWING
}

/// The level in force, and since when the share has been low enough to leave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// The level in force.
    pub level: Level,
    /// Since when every share was below what holds the level; none while it holds.
    pub below_since: Option<Moment>,
}

impl Pressure {
    /// The pressure after `share` was read at `now`. Up at once, over several levels if need be; down only after the
    /// share stayed below (threshold - hysteresis) for the dwell, then to the level that the share holds.
    #[must_use]
    pub fn next(self, share: f64, now: Moment, thresholds: &Thresholds) -> Pressure {
        let risen = thresholds.level_of(share);
        if risen > self.level {
            return Pressure {
                level: risen,
                below_since: None,
            };
        }
        let held = thresholds.level_held_by(share);
        if held >= self.level {
            return Pressure {
                level: self.level,
                below_since: None,
            };
        }
        let since = self.below_since.unwrap_or(now);
        if now.since(since) >= thresholds.dwell {
            Pressure {
                level: held,
                below_since: None,
            }
        } else {
            Pressure {
                level: self.level,
                below_since: Some(since),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_fast_growth_above_what_duckdb_may_use_is_a_burst() {
        let ms = Duration::from_millis;
        assert!(is_burst(Bytes::mib(20), ms(10), 0.9, 0.78));
        assert!(
            !is_burst(Bytes::mib(20), ms(10), 0.8, 0.78),
            "DuckDB fills its limit"
        );
        assert!(
            !is_burst(Bytes::mib(20), ms(20), 0.9, 0.78),
            "slow enough to be interrupted"
        );
        assert!(is_burst(Bytes::mib(20), ms(10), f64::NAN, 0.78));
    }

    #[test]
    fn growth_after_an_interrupt_is_unheeded_only_in_an_emergency() {
        assert!(is_unheeded(Level::Emergency, 1, 2e8));
        assert!(!is_unheeded(Level::Critical, 1, 2e8));
        assert!(!is_unheeded(Level::Emergency, 0, 2e8));
        assert!(!is_unheeded(Level::Emergency, 1, 1e6));
        assert!(!is_unheeded(Level::Emergency, 1, f64::NAN));
    }

    fn thresholds() -> Thresholds {
        Thresholds::from(&Settings::default())
    }

    fn at(ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms))
    }

    #[test]
    fn up_is_at_once_and_may_skip_levels() {
        let up = Pressure::default().next(0.96, at(0), &thresholds());
        assert_eq!(
            up,
            Pressure {
                level: Level::Emergency,
                below_since: None
            }
        );
    }

    #[test]
    fn every_threshold_belongs_to_the_level_it_begins() {
        let thresholds = thresholds();
        for (index, share) in thresholds.at.into_iter().enumerate() {
            assert_eq!(thresholds.level_of(share), Level::ALL[index + 1]);
            assert_eq!(thresholds.level_of(share - 1e-9), Level::ALL[index]);
        }
    }

    #[test]
    fn what_is_not_a_number_is_an_emergency_and_keeps_it() {
        let thresholds = thresholds();
        let pressure = Pressure::default().next(f64::NAN, at(0), &thresholds);
        assert_eq!(pressure.level, Level::Emergency);
        assert_eq!(
            pressure.next(f64::NAN, at(60_000), &thresholds).level,
            Level::Emergency
        );
        assert_eq!(thresholds.level_of(f64::INFINITY), Level::Emergency);
    }

    #[test]
    fn down_waits_for_the_dwell_then_goes_to_the_level_the_share_holds() {
        let thresholds = thresholds();
        let mut pressure = Pressure {
            level: Level::Critical,
            below_since: None,
        };
        pressure = pressure.next(0.84, at(0), &thresholds);
        assert_eq!(
            pressure,
            Pressure {
                level: Level::Critical,
                below_since: Some(at(0))
            }
        );
        pressure = pressure.next(0.66, at(999), &thresholds);
        assert_eq!(pressure.level, Level::Critical);
        // 0.66 is below caution's 0.70, but not by the hysteresis.
        pressure = pressure.next(0.66, at(1000), &thresholds);
        assert_eq!(
            pressure,
            Pressure {
                level: Level::Caution,
                below_since: None
            }
        );
    }

    #[test]
    fn one_share_within_the_hysteresis_begins_the_dwell_anew() {
        let thresholds = thresholds();
        let mut pressure = Pressure {
            level: Level::Critical,
            below_since: None,
        };
        for (share, ms) in [(0.80, 0), (0.85, 900), (0.80, 950), (0.80, 1900)] {
            pressure = pressure.next(share, at(ms), &thresholds);
            assert_eq!(pressure.level, Level::Critical, "{share} at {ms} ms");
        }
        assert_eq!(pressure.next(0.80, at(1950), &thresholds).level, Level::Warning);
    }

    /// Shares with a pause before each, in milliseconds.
    fn curves() -> impl Strategy<Value = Vec<(f64, u64)>> {
        let share = prop_oneof![9 => 0.0..1.2f64, 1 => Just(f64::NAN)];
        proptest::collection::vec((share, 0u64..800), 1..60)
    }

    proptest! {
        #[test]
        fn a_level_is_never_left_early_and_never_reached_late(curve in curves()) {
            let thresholds = thresholds();
            let mut pressure = Pressure::default();
            let mut seen: Vec<(Moment, f64)> = Vec::new();
            let mut now = at(0);
            for (share, pause) in curve {
                now = now + Duration::from_millis(pause);
                seen.push((now, share));
                let before = pressure.level;
                pressure = pressure.next(share, now, &thresholds);

                prop_assert!(pressure.level >= thresholds.level_of(share), "reached late");
                if pressure.level > before {
                    prop_assert_eq!(pressure.level, thresholds.level_of(share));
                }
                if pressure.level < before {
                    let mut below = seen.iter().rev().take_while(|(_, s)| thresholds.level_held_by(*s) < before);
                    let first = below.by_ref().last().map(|(moment, _)| *moment);
                    prop_assert!(first.is_some_and(|first| now.since(first) >= thresholds.dwell), "left early");
                    prop_assert_eq!(pressure.level, thresholds.level_held_by(share));
                }
            }
        }

        #[test]
        fn a_share_that_stays_settles_within_the_dwell_and_moves_no_more(start in 0usize..5, share in 0.0..1.2f64) {
            let thresholds = thresholds();
            let mut pressure = Pressure { level: Level::ALL[start], below_since: None };
            pressure = pressure.next(share, at(0), &thresholds).next(share, at(1000), &thresholds);
            let settled = pressure.level;
            prop_assert!(settled == thresholds.level_held_by(share) || settled == thresholds.level_of(share));
            for ms in [1001, 5000, 60_000] {
                pressure = pressure.next(share, at(ms), &thresholds);
                prop_assert_eq!(pressure.level, settled);
            }
        }
    }
}
