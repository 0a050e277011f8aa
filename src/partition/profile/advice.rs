//! What to cut a column by, and why. Pure.

use super::question::FEW;
use super::{Kind, Profile};
use crate::partition::calendar::Step;
use crate::partition::column::Family;
use crate::units::shortened;

/// With so many values for each row they are taken for keys: `approx_count_distinct` may be off by a sixth and more.
const LIKE_KEYS: f64 = 0.75;
/// Characters of a value that a sentence shows.
const SHOWN: usize = 40;

/// Fills in what `profile` can be cut by and what to cut it by; `span` is its first and last moment in seconds since 1970,
/// if it has any.
pub(super) fn advise(profile: &mut Profile, family: Family, span: Option<(i64, i64)>) {
    let sentence = if let Some(why) = useless(profile, family) {
        format!("not by this column: {why}")
    } else {
        let step = span.and_then(|(first, last)| Step::fitting(first, last, family == Family::Date));
        profile.kinds = kinds(profile, family, step.is_some());
        match dominant(profile) {
            Some(why) => format!("not by this column: {why}"),
            None => choose(profile, family, step, span.is_some()),
        }
    };
    profile.advice = format!("{sentence}{}", remarks(profile));
}

/// Why nothing can be cut by it.
fn useless(profile: &Profile, family: Family) -> Option<String> {
    let values = profile.values();
    if profile.rows == 0 {
        Some("the table has no rows".to_owned())
    } else if values == 0 {
        Some("all of it is NULL".to_owned())
    } else if family == Family::Nested {
        Some(format!(
            "values of {} have parts; cut by one of them in a query",
            shortened(&profile.type_name, SHOWN)
        ))
    } else if profile.distinct == 1 && profile.distinct_exact {
        let besides = if profile.nulls > 0 { " besides NULL" } else { "" };
        Some(format!("it has only one value{besides}"))
    } else if profile.nan > values / 2 {
        Some(format!("{} of its values are NaN", percent(profile.nan, values)))
    } else {
        None
    }
}

/// Why no cut by it makes pieces of like size.
fn dominant(profile: &Profile) -> Option<String> {
    let top = profile.most_frequent.as_ref()?;
    let rows = top.share * profile.rows as f64;
    (rows > profile.values() as f64 / 2.0).then(|| {
        format!(
            "{} has {}{} of its values, and no cut splits one value",
            shown(&top.value),
            if top.exact { "" } else { "about " },
            percent(rows.round() as u64, profile.values())
        )
    })
}

fn kinds(profile: &Profile, family: Family, has_step: bool) -> Vec<Kind> {
    let ordered = match family {
        Family::Integer | Family::Decimal | Family::Float | Family::Date | Family::Timestamp => true,
        Family::Clock | Family::Text => true,
        Family::Boolean | Family::Enum | Family::Uuid | Family::Opaque | Family::Nested => false,
    };
    [
        (Kind::Time, has_step),
        (Kind::Range, ordered),
        (Kind::Hash, true),
        (Kind::Value, profile.distinct_exact && profile.distinct <= FEW),
    ]
    .into_iter()
    .filter_map(|(kind, can)| can.then_some(kind))
    .collect()
}

fn choose(profile: &mut Profile, family: Family, step: Option<(Step, u64)>, is_dated: bool) -> String {
    if let Some((step, pieces)) = step {
        profile.cut = Some(Kind::Time);
        profile.step = Some(step);
        profile.pieces = Some(pieces);
        return format!(
            "by time, a piece for each {}: from {} to {} that makes {pieces}",
            step.name(),
            profile.minimum.as_deref().unwrap_or_default(),
            profile.maximum.as_deref().unwrap_or_default()
        );
    }
    if profile.kinds.contains(&Kind::Value) {
        profile.cut = Some(Kind::Value);
        profile.pieces = Some(profile.distinct);
        return format!(
            "by value: it has {} values, and none has more than half of the rows",
            profile.distinct
        );
    }
    let about = if profile.distinct_exact { "" } else { "about " };
    let unlike = profile.distinct as f64 >= LIKE_KEYS * profile.values() as f64;
    let is_key = unlike && matches!(family, Family::Integer | Family::Text);
    let is_ordered = profile.kinds.contains(&Kind::Range);
    if is_ordered && !is_key {
        profile.cut = Some(Kind::Range);
        let why_not_time = match family {
            Family::Date | Family::Timestamp if is_dated => {
                ", and no step of the calendar makes 4 to 200 pieces"
            }
            Family::Date | Family::Timestamp => ", and it lies too far out for the calendar",
            _ => "",
        };
        return format!(
            "by range: it has {about}{} values in an order{why_not_time}",
            profile.distinct
        );
    }
    profile.cut = Some(Kind::Hash);
    let why = if unlike {
        "nearly every row has a value of its own, as keys have"
    } else {
        "ranges of them mean nothing"
    };
    format!("by hash: it has {about}{} values, and {why}", profile.distinct)
}

/// What else is to know before it is cut.
fn remarks(profile: &Profile) -> String {
    let mut text = String::new();
    if profile.nulls > 0 && profile.values() > 0 && profile.nulls >= profile.values() {
        text.push_str(&format!(
            "; NULL, a piece of its own, has {} of the rows",
            percent(profile.nulls, profile.rows)
        ));
    }
    if let Some(to) = profile.converts_to() {
        text.push_str(&format!("; every value is a {to}, so convert it first"));
    }
    text
}

/// A share in percent that is 100 or 0 only where it is all or nothing.
fn percent(part: u64, whole: u64) -> String {
    let share = 100.0 * part as f64 / whole.max(1) as f64;
    if part < whole && share > 99.9 {
        "over 99.9 %".to_owned()
    } else {
        format!("{share:.1} %").replace(".0 %", " %")
    }
}

/// A value as a sentence shows it.
pub(super) fn shown(value: &str) -> String {
    format!("'{}'", shortened(value, SHOWN))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Conversion, Frequent};
    use super::*;

    const DAY: i64 = 86_400;

    fn column(distinct: u64, nulls: u64, share: f64) -> Profile {
        Profile {
            name: "c".to_owned(),
            type_name: "T".to_owned(),
            rows: 1000,
            nulls,
            minimum: Some("0".to_owned()),
            maximum: Some("9".to_owned()),
            nan: 0,
            infinite: 0,
            distinct,
            distinct_exact: distinct <= FEW,
            most_frequent: (distinct > 0).then(|| Frequent {
                value: "top".to_owned(),
                share,
                exact: distinct <= FEW,
            }),
            conversions: Vec::new(),
            kinds: Vec::new(),
            cut: None,
            step: None,
            pieces: None,
            advice: String::new(),
        }
    }

    fn advised(mut profile: Profile, family: Family, span: Option<(i64, i64)>) -> Profile {
        advise(&mut profile, family, span);
        profile
    }

    #[test]
    fn each_kind_of_column_gets_the_cut_that_fits_it() {
        let year = Some((0, 364 * DAY));
        for (family, distinct, span, expected) in [
            (Family::Timestamp, 900, year, Kind::Time),
            (Family::Date, 365, year, Kind::Time),
            (Family::Date, 3, Some((0, 2 * DAY)), Kind::Value),
            (Family::Timestamp, 900, Some((0, 60)), Kind::Range),
            (Family::Integer, 7, None, Kind::Value),
            (Family::Integer, 500, None, Kind::Range),
            (Family::Integer, 990, None, Kind::Hash),
            (Family::Float, 990, None, Kind::Range),
            (Family::Text, 500, None, Kind::Range),
            (Family::Text, 1000, None, Kind::Hash),
            (Family::Uuid, 1000, None, Kind::Hash),
            (Family::Enum, 101, None, Kind::Hash),
            (Family::Opaque, 500, None, Kind::Hash),
        ] {
            let found = advised(column(distinct, 0, 0.001), family, span);
            assert_eq!(
                found.cut,
                Some(expected),
                "{family:?}, {distinct}: {}",
                found.advice
            );
            assert_eq!(found.step.is_some(), expected == Kind::Time, "{}", found.advice);
        }
    }

    #[test]
    fn what_is_no_key_says_why() {
        let nan = Profile {
            nan: 600,
            ..column(300, 0, 0.1)
        };
        let none = Profile {
            rows: 0,
            ..column(0, 0, 0.0)
        };
        for (profile, family, why) in [
            (none, Family::Integer, "no rows"),
            (column(0, 1000, 0.0), Family::Integer, "all of it is NULL"),
            (column(1, 0, 1.0), Family::Integer, "only one value"),
            (
                column(1, 10, 0.99),
                Family::Integer,
                "only one value besides NULL",
            ),
            (column(50, 0, 0.1), Family::Nested, "have parts"),
            (nan, Family::Float, "60 % of its values are NaN"),
        ] {
            let found = advised(profile, family, None);
            assert!(
                found.advice.starts_with("not by this column: "),
                "{}",
                found.advice
            );
            assert!(found.advice.contains(why), "{}", found.advice);
            assert_eq!((found.cut, found.kinds.len()), (None, 0));
        }
    }

    #[test]
    fn a_value_with_more_than_half_is_named() {
        let found = advised(column(5, 200, 0.5), Family::Text, None);
        assert_eq!(found.cut, None);
        assert_eq!(
            found.advice,
            "not by this column: 'top' has 62.5 % of its values, and no cut splits one value"
        );
        assert!(found.kinds.contains(&Kind::Value), "it can be cut, and badly");
        assert_eq!(
            advised(column(5, 200, 0.4), Family::Text, None).cut,
            Some(Kind::Value)
        );
    }

    #[test]
    fn a_text_that_is_something_else_says_so() {
        let tried = |to: &str, fails, altered| Conversion {
            to: to.to_owned(),
            converts: 1000 - fails,
            altered,
            fails,
            examples: Vec::new(),
        };
        let text = |conversions| Profile {
            conversions,
            ..column(500, 0, 0.01)
        };
        let found = advised(
            text(vec![tried("BIGINT", 0, 3), tried("DOUBLE", 0, 0)]),
            Family::Text,
            None,
        );
        assert!(
            found
                .advice
                .ends_with("; every value is a DOUBLE, so convert it first")
        );
        let found = advised(
            text(vec![tried("BIGINT", 1, 0), tried("DATE", 0, 1)]),
            Family::Text,
            None,
        );
        assert!(!found.advice.contains("convert"), "{}", found.advice);
    }

    #[test]
    fn values_in_a_sentence_are_short_and_harmless() {
        assert_eq!(shown("a\u{1b}[2J"), "'a\\u{1b}[2J'");
        assert_eq!(shown(&"é".repeat(50)), format!("'{}…'", "é".repeat(SHOWN)));
    }

    #[test]
    fn a_share_is_all_only_where_it_is() {
        assert_eq!(percent(1000, 1000), "100 %");
        assert_eq!(percent(999_999, 1_000_000), "over 99.9 %");
        assert_eq!(percent(1, 3), "33.3 %");
    }

    fn families() -> impl Strategy<Value = Family> {
        prop::sample::select(vec![
            Family::Integer,
            Family::Decimal,
            Family::Float,
            Family::Date,
            Family::Timestamp,
            Family::Clock,
            Family::Text,
            Family::Boolean,
            Family::Enum,
            Family::Uuid,
            Family::Opaque,
            Family::Nested,
        ])
    }

    proptest! {
        #[test]
        fn what_is_advised_can_be_done(
            family in families(), distinct in 0u64..1000, nulls in 0u64..=1000, share in 0.0..=1.0,
            first in -1i64 << 47..1 << 47, length in 0i64..1 << 40, dated in any::<bool>(),
        ) {
            let span = dated.then_some((first, first + length));
            let found = advised(column(distinct.clamp(u64::from(nulls < 1000), 1000 - nulls), nulls, share), family, span);
            if let Some(cut) = found.cut {
                prop_assert!(found.kinds.contains(&cut), "{}", found.advice);
                let by = format!("by {}", cut.name());
                prop_assert!(found.advice.starts_with(&by), "{}", found.advice);
            } else {
                prop_assert!(found.advice.starts_with("not by this column: "), "{}", found.advice);
            }
            prop_assert_eq!(found.step.is_some(), found.cut == Some(Kind::Time));
            prop_assert_eq!(found.pieces.is_some(), matches!(found.cut, Some(Kind::Time | Kind::Value)));
            prop_assert!(found.pieces.is_none_or(|pieces| (2..=200).contains(&pieces)));
        }
    }
}
