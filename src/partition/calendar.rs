//! The steps of the calendar: which of them cuts a span of time into a fair number of pieces. Pure.

use serde::{Deserialize, Serialize};

/// So many pieces are wanted of a span, at least and at most.
const FEWEST: u64 = 4;
const MOST: u64 = 200;
/// And of several steps the one that comes closest to so many: large enough to be worth a piece, small enough to fit.
const IDEAL: f64 = 24.0;

const DAY: i64 = 86_400;

/// A step of the calendar, in UTC; weeks begin on Monday, as those of DuckDB's `date_trunc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Sixty minutes.
    Hour,
    /// From midnight.
    Day,
    /// From Monday.
    Week,
    /// From its first day.
    Month,
    /// From January, April, July or October.
    Quarter,
    /// From January.
    Year,
}

impl Step {
    /// Every step, the finest first.
    pub const ALL: [Step; 6] = [
        Step::Hour,
        Step::Day,
        Step::Week,
        Step::Month,
        Step::Quarter,
        Step::Year,
    ];

    /// The step as DuckDB's `date_trunc` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Step::Hour => "hour",
            Step::Day => "day",
            Step::Week => "week",
            Step::Month => "month",
            Step::Quarter => "quarter",
            Step::Year => "year",
        }
    }

    /// The step of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Step::ALL
            .into_iter()
            .find(|step| step.name().eq_ignore_ascii_case(name))
    }

    /// How many steps lie between two moments, in seconds since 1970, those of both included.
    pub fn pieces(self, first: i64, last: i64) -> u64 {
        u64::try_from(self.number(last) - self.number(first) + 1).unwrap_or(0)
    }

    /// The step that cuts the time from `first` to `last`, in seconds since 1970, into 4 to 200 pieces, and into how
    /// many; `days_only` where no time of the day is known.
    pub fn fitting(first: i64, last: i64, days_only: bool) -> Option<(Step, u64)> {
        let far = |pieces: u64| (pieces as f64 / IDEAL).ln().abs();
        Step::ALL
            .into_iter()
            .filter(|step| !(days_only && *step == Step::Hour))
            .map(|step| (step, step.pieces(first, last)))
            .filter(|(_, pieces)| (FEWEST..=MOST).contains(pieces))
            .min_by(|(_, one), (_, other)| far(*one).total_cmp(&far(*other)))
    }

    /// The number of the step that a moment lies in.
    fn number(self, seconds: i64) -> i64 {
        let day = seconds.div_euclid(DAY);
        match self {
            Step::Hour => seconds.div_euclid(3600),
            Step::Day => day,
            // The first day of 1970 was a Thursday.
            Step::Week => (day + 3).div_euclid(7),
            Step::Month => month(day),
            Step::Quarter => month(day).div_euclid(3),
            Step::Year => month(day).div_euclid(12),
        }
    }
}

/// The month of a day since 1970, counted from January of the year 0 of the Gregorian calendar.
fn month(day: i64) -> i64 {
    // Eras of 400 years are alike; within one, years begin in March, so that the leap day is the last.
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    (era * 400 + year) * 12 + (5 * of_year + 2) / 153 + 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_get_the_step_that_people_would_take() {
        for (days, days_only, expected) in [
            (1, false, Some(Step::Hour)),
            (7, false, Some(Step::Day)),
            (7, true, Some(Step::Day)),
            (30, false, Some(Step::Day)),
            (364, true, Some(Step::Month)),
            (2 * 365, true, Some(Step::Month)),
            (10 * 365, true, Some(Step::Quarter)),
            (50 * 365, true, Some(Step::Year)),
            (1, true, None),
            (500 * 365, true, None),
        ] {
            let found = Step::fitting(0, days * DAY, days_only);
            assert_eq!(found.map(|(step, _)| step), expected, "{days} days");
        }
        assert_eq!(Step::fitting(0, 3600, false), None);
    }

    #[test]
    fn months_begin_where_the_calendar_says() {
        // 2024-02-29, 2024-03-01, 1969-12-31, 0000-01-01 and the day before.
        assert_eq!(month(19_782), 2024 * 12 + 1);
        assert_eq!(month(19_783), 2024 * 12 + 2);
        assert_eq!(month(-1), 1969 * 12 + 11);
        assert_eq!(month(-719_528), 0);
        assert_eq!(month(-719_529), -1);
    }

    proptest! {
        #[test]
        fn coarser_steps_make_no_more_pieces(first in -1i64 << 47..1 << 47, length in 0i64..1 << 40) {
            let pieces: Vec<u64> = Step::ALL.iter().map(|step| step.pieces(first, first + length)).collect();
            // A week may straddle two months.
            let [hour, day, week, month, quarter, year] = pieces[..] else { unreachable!() };
            prop_assert!(hour >= day && day >= week && day >= month && month >= quarter && quarter >= year);
            prop_assert!(year >= 1);
        }

        #[test]
        fn what_fits_is_between_4_and_200(first in -1i64 << 40..1 << 40, length in 0i64..1 << 37, days in any::<bool>()) {
            if let Some((step, pieces)) = Step::fitting(first, first + length, days) {
                prop_assert!((4..=200).contains(&pieces));
                prop_assert_eq!(pieces, step.pieces(first, first + length));
                prop_assert!(!(days && step == Step::Hour));
            } else {
                // Between five hours and two centuries there is always one.
                prop_assert!(!(5 * DAY..=199 * 365 * DAY).contains(&length));
            }
        }
    }
}
