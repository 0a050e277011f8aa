//! Gaps in a sequence of whole numbers or in time.
//!
//! The column's values are sorted into steps: stretches of equal length, such as an hour or a hundred numbers. A gap is the
//! longest sequence of steps without a row, between steps that have some. Against a source, the steps are those that the source
//! has rows in, so a gap can be before the first step and after the last one, too; without one they are all from the first to
//! the last. A NULL and an infinite moment are in no step.

use super::compare::{numbers, same_name, unread};
use super::keys::{example, grouped, index};
use super::piece_set::{Described, Picked};
use super::sql::INTEGERS;
use super::{Finding, FindingKind, counted, shown};
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::engine::text::quoted_name;
use crate::error::{Error, Result};

/// What is asked of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gaps {
    /// The column.
    pub column: String,
    /// The length of a step: a number, or a time such as `hour` and `15 minutes`. Unless given 1, and of dates a day.
    pub every: Option<String>,
}

/// Units of time, how they are written, and how long they are in microseconds or in months.
const UNITS: [(&str, Length); 8] = [
    ("second", Length::Microseconds(1_000_000)),
    ("minute", Length::Microseconds(60_000_000)),
    ("hour", Length::Microseconds(3_600_000_000)),
    ("day", Length::Microseconds(86_400_000_000)),
    ("week", Length::Microseconds(604_800_000_000)),
    ("month", Length::Months(1)),
    ("quarter", Length::Months(3)),
    ("year", Length::Months(12)),
];
/// The most units of time in a step.
const MOST: u64 = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Microseconds(u64),
    Months(u64),
}

/// How long a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Numbers(u64),
    Time(Length),
}

impl Step {
    fn number(text: &str) -> Option<Self> {
        text.parse().ok().filter(|number| *number > 0).map(Step::Numbers)
    }

    /// Reads `hour`, `hours`, `15 minutes`.
    fn time(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let (many, unit) = match text.split_once(' ') {
            Some((many, unit)) => (many.parse().ok()?, unit.trim_start()),
            None => (1, text.as_str()),
        };
        let unit = unit.strip_suffix('s').unwrap_or(unit);
        let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
        (1..=MOST).contains(&many).then_some(Step::Time(match length {
            Length::Microseconds(long) => Length::Microseconds(long * many),
            Length::Months(long) => Length::Months(long * many),
        }))
    }

    /// The step of a column whose type is `kind`.
    fn of(gaps: &Gaps, kind: &str) -> Result<Self> {
        let every = gaps.every.as_deref();
        let no = |accepted: &str| {
            Error::invalid(
                "every",
                every.map_or("None".to_owned(), |every| format!("{every:?}")),
                accepted,
            )
        };
        if INTEGERS.contains(&kind) {
            return Step::number(every.unwrap_or("1"))
                .ok_or_else(|| no(&format!("{} is {kind}; give a whole number from 1", gaps.column)));
        }
        if kind == "DATE" || kind.starts_with("TIMESTAMP") {
            let every = every.or((kind == "DATE").then_some("day"));
            return every.and_then(Step::time).ok_or_else(|| {
                let units = UNITS.map(|(name, _)| name).join(", ");
                no(&format!(
                    "{} is {kind}; give a time such as \"hour\" or \"15 minutes\", in one of {units}",
                    gaps.column
                ))
            });
        }
        Err(Error::invalid(
            "gaps",
            format_args!("{:?}", gaps.column),
            &format!("it is {kind}; give a column of whole numbers, dates or timestamps"),
        ))
    }

    fn interval(length: Length) -> String {
        match length {
            Length::Microseconds(long) => format!("to_microseconds({long})"),
            Length::Months(long) => format!("to_months({long})"),
        }
    }

    /// Where the step begins that a value is in; NULL for one that is in none.
    fn begin(self, column: &str, kind: &str) -> String {
        match self {
            Step::Numbers(1) => format!("{column}::HUGEINT"),
            Step::Numbers(long) => {
                format!("{column}::HUGEINT - (({column}::HUGEINT % {long}) + {long}) % {long}")
            }
            Step::Time(length) => {
                let moment = if kind.ends_with("TIME ZONE") {
                    format!("make_timestamp(epoch_us({column}))")
                } else {
                    format!("{column}::TIMESTAMP")
                };
                format!(
                    "CASE WHEN isfinite({column}) THEN time_bucket({}, {moment}) END",
                    Self::interval(length)
                )
            }
        }
    }

    /// The step after or before the one that begins at `from`.
    fn beside(self, from: &str, sign: char) -> String {
        match self {
            Step::Numbers(long) => format!("{from} {sign} {long}"),
            Step::Time(length) => format!("{from} {sign} {}", Self::interval(length)),
        }
    }

    /// How many steps are between those that begin at `v` and `w`.
    fn between(self) -> String {
        match self {
            Step::Numbers(long) => format!("(w - v) // {long} - 1"),
            Step::Time(Length::Microseconds(long)) => format!("(epoch_us(w) - epoch_us(v)) // {long} - 1"),
            Step::Time(Length::Months(long)) => format!("date_diff('month', v, w) // {long} - 1"),
        }
    }
}

/// The gaps, by where they are: within a piece, or between two.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a column that is not there or has no steps; those of whoever is asked.
pub(super) fn check<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    source: Option<(&Source, &[(String, String)])>,
    rows: &Described<'_>,
    gaps: &Gaps,
    most: usize,
) -> Result<Vec<Finding>, E> {
    let picked = rows.pick("gaps", std::slice::from_ref(&gaps.column))?;
    let column = &picked[0];
    let step = step(rows, column, gaps)?;
    let stepped = rows.read_as(column, &|name, kind| step.begin(name, kind));
    let all = match source {
        None => every_gap(step, &stepped),
        Some((source, columns)) => {
            let Some((name, kind)) = columns.iter().find(|(name, _)| same_name(name, &gaps.column)) else {
                let accepted = format!("{} has no such column", source.name);
                return Err(Error::invalid("gaps", format_args!("{:?}", gaps.column), &accepted).into());
            };
            if Step::of(gaps, kind)? != step {
                let accepted = format!(
                    "it is {kind} in {} and {} on the right",
                    source.name, column.types[0]
                );
                return Err(Error::invalid("gaps", format_args!("{:?}", gaps.column), &accepted).into());
            }
            let wanted = step.begin(&quoted_name(name), kind);
            gaps_of_source(&source.relation, &wanted, &stepped)
        }
    };
    let found = ask.ask(&counted_gaps(&all, most))?;
    let mut findings = Vec::new();
    let mut filled = None;
    for row in grouped_by_place(&found)? {
        let (before, after) = row.place;
        let between = match (before, after) {
            // What lies between two pieces may be a piece that has no rows.
            (Some(before), Some(after)) if before + 1 < after => {
                if filled.is_none() {
                    let found = ask.ask(&format!(
                        "SELECT p::VARCHAR FROM ({stepped}) WHERE k0 IS NOT NULL GROUP BY p"
                    ))?;
                    filled = Some(
                        found
                            .iter()
                            .map(|row| numbers(&vec![row.clone()]))
                            .collect::<Result<Vec<_>>>()?
                            .concat(),
                    );
                }
                let filled = filled.as_deref().unwrap_or_default();
                (before + 1..after)
                    .filter(|piece| !filled.contains(piece))
                    .collect()
            }
            _ => Vec::new(),
        };
        findings.push(row.finding(rows, column, &between, most));
    }
    Ok(findings)
}

/// The step, the same in all pieces.
fn step(rows: &Described<'_>, column: &Picked, gaps: &Gaps) -> Result<Step> {
    let step = Step::of(gaps, &column.types[0])?;
    for (piece, kind) in column.types.iter().enumerate() {
        if Step::of(gaps, kind)? != step {
            let accepted = format!(
                "it is {} in {} and {kind} in {}",
                column.types[0],
                rows.set.called(0),
                rows.set.called(piece)
            );
            return Err(Error::invalid(
                "gaps",
                format_args!("{:?}", gaps.column),
                &accepted,
            ));
        }
    }
    Ok(step)
}

/// The steps that have rows, each with the first and the last piece that has some.
fn filled(stepped: &str) -> String {
    format!("SELECT k0 AS v, min(p) AS lo, max(p) AS hi FROM ({stepped}) WHERE k0 IS NOT NULL GROUP BY k0")
}

/// Every gap: the pieces before (`a`) and after it (`b`), its first (`f`) and last step (`t`), and how many they are (`n`).
fn every_gap(step: Step, stepped: &str) -> String {
    format!(
        "SELECT a, b, {} AS f, {} AS t, {} AS n FROM (SELECT v, hi AS a, lead(v) OVER (ORDER BY v) AS w, \
         lead(lo) OVER (ORDER BY v) AS b FROM ({})) WHERE w > {}",
        step.beside("v", '+'),
        step.beside("w", '-'),
        step.between(),
        filled(stepped),
        step.beside("v", '+')
    )
}

/// The same, of the steps that a source has. Each step with rows begins a stretch, which the ones without follow.
fn gaps_of_source(relation: &str, wanted: &str, stepped: &str) -> String {
    format!(
        "SELECT a, b, f, t, n FROM (SELECT a, f, t, n, lead(lo) OVER (ORDER BY c) AS b FROM (SELECT c, max(hi) AS a, \
         min(lo) AS lo, min(v) FILTER (WHERE hi IS NULL) AS f, max(v) FILTER (WHERE hi IS NULL) AS t, \
         count(*) FILTER (WHERE hi IS NULL) AS n FROM (SELECT v, lo, hi, count(hi) OVER (ORDER BY v) AS c FROM \
         (SELECT {wanted} AS v FROM {relation} AS duckward_source GROUP BY v HAVING v IS NOT NULL) LEFT JOIN ({}) USING (v)) \
         GROUP BY c)) WHERE n > 0",
        filled(stepped)
    )
}

/// The gaps by place: how many, how many steps they have (as far as 64 bits go), and the longest.
fn counted_gaps(all: &str, most: usize) -> String {
    format!(
        "SELECT coalesce(a + 1, 0)::VARCHAR, coalesce(b + 1, 0)::VARCHAR, m::VARCHAR, s::VARCHAR, u.f::VARCHAR, u.t::VARCHAR, \
         u.n::VARCHAR FROM (SELECT a, b, m, s, unnest(e) AS u FROM (SELECT a, b, count(*) AS m, least(sum(n), 18446744073709551615) AS s, \
         max({{'n': n, 'f': f, 't': t}}, {}) AS e FROM ({all}) GROUP BY a, b)) ORDER BY a NULLS FIRST, b NULLS LAST, u DESC",
        most.max(1)
    )
}

/// The gaps in one place.
struct Place<'a> {
    /// The pieces before and after; none before the first step and after the last.
    place: (Option<u64>, Option<u64>),
    gaps: u64,
    steps: u64,
    longest: Vec<&'a [Option<String>]>,
}

fn grouped_by_place(rows: &crate::engine::Rows) -> Result<Vec<Place<'_>>> {
    let groups = grouped::<4>(rows)?;
    groups
        .into_iter()
        .map(|([before, after, gaps, steps], longest)| {
            if longest.iter().any(|cells| cells.len() != 3) {
                return Err(unread());
            }
            Ok(Place {
                place: (before.checked_sub(1), after.checked_sub(1)),
                gaps,
                steps,
                longest,
            })
        })
        .collect()
}

impl Place<'_> {
    fn finding(&self, rows: &Described<'_>, column: &Picked, between: &[u64], most: usize) -> Finding {
        let called = |piece: u64| rows.set.called(index(piece));
        let is_whole = rows.set.is_whole();
        let (place, piece) = match self.place {
            (Some(before), Some(after)) if before != after => {
                (format!(" between {} and {}", called(before), called(after)), None)
            }
            (Some(piece), Some(_)) if is_whole => (String::new(), rows.set.label(index(piece))),
            (Some(piece), Some(_)) => (format!(" in {}", called(piece)), rows.set.label(index(piece))),
            (Some(last), None) => (" at the end".to_owned(), rows.set.label(index(last))),
            (None, Some(first)) => (" at the beginning".to_owned(), rows.set.label(index(first))),
            (None, None) => (" everywhere".to_owned(), None),
        };
        let names: Vec<String> = between
            .iter()
            .take(most.max(1))
            .filter_map(|piece| rows.set.label(index(*piece)))
            .map(|name| shown(&name))
            .collect();
        let empty = match between.len().saturating_sub(names.len()) {
            _ if names.is_empty() => String::new(),
            0 => format!("; no rows in {}", names.join(", ")),
            more => format!("; no rows in {} and {more} more", names.join(", ")),
        };
        Finding {
            kind: FindingKind::Gap,
            column: Some(column.name.clone()),
            // Of one empty piece it is known that the rows of the gap belong there.
            piece: match between {
                [one] => rows.set.label(index(*one)),
                _ => piece,
            },
            rows: None,
            message: format!(
                "column {} has {} with {}{place}{empty}",
                column.name,
                counted(self.gaps, "gap"),
                counted(self.steps, "step")
            ),
            examples: self
                .longest
                .iter()
                .take(most)
                .map(|cells| example(&[], &["from", "to", "steps"], cells))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(every: Option<&str>, kind: &str) -> Result<Step> {
        let gaps = Gaps {
            column: "c".to_owned(),
            every: every.map(str::to_owned),
        };
        Step::of(&gaps, kind)
    }

    #[test]
    fn a_step_is_of_the_columns_type() {
        assert_eq!(step(None, "BIGINT").unwrap(), Step::Numbers(1));
        assert_eq!(step(Some("100"), "UTINYINT").unwrap(), Step::Numbers(100));
        let day = Step::Time(Length::Microseconds(86_400_000_000));
        assert_eq!(step(None, "DATE").unwrap(), day);
        assert_eq!(step(Some("1 days"), "TIMESTAMP WITH TIME ZONE").unwrap(), day);
        assert_eq!(
            step(Some("Quarter"), "TIMESTAMP_NS").unwrap(),
            Step::Time(Length::Months(3))
        );
        for (every, kind) in [
            (None, "TIMESTAMP"),
            (Some("0"), "BIGINT"),
            (Some("-1"), "BIGINT"),
            (Some("hour"), "BIGINT"),
            (Some("1"), "DATE"),
            (Some("0 hours"), "DATE"),
            (Some("1000000 years"), "DATE"),
            (Some("1 hour; drop table t"), "DATE"),
            (None, "VARCHAR"),
            (None, "DOUBLE"),
        ] {
            assert!(step(every, kind).is_err(), "{every:?} {kind}");
        }
    }
}
