//! What is asked of a source to plan how to cut it. A few statements with small answers; nothing is written.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::balanced::{bounds, heavy};
use super::literal::{literal, printed};
use super::{Cut, Heavy, MOST, Plan, Rule};
use crate::engine::Ask;
use crate::engine::source::Source;
use crate::engine::text::{quoted, quoted_name};
use crate::error::{Error, ErrorKind, Result};
use crate::partition::calendar::Step;
use crate::partition::column::{self, Column, Family, unknown};
use crate::partition::profile::{Kind, Profile, profile, shown};
use crate::units::{Bytes, shortened};
use crate::validate::{Layout, PIECE};

/// Rows of a sample that bounds are chosen from, for each piece, and within which bounds: DuckDB keeps them in memory.
const SAMPLE_PER_PIECE: usize = 200;
const SAMPLE: std::ops::RangeInclusive<usize> = 100_000..=500_000;
/// Parts of the sample that bounds are chosen among, for each piece, and within which bounds: each is a row of an answer.
const PARTS_PER_PIECE: usize = 32;
const PARTS: std::ops::RangeInclusive<usize> = 4096..=65_536;
/// Rows that the width of a row is measured on.
const MEASURED: usize = 2048;
/// Rows of a piece where nothing is said: what fits into this share of the budget, within these bounds.
const SHARE: f64 = 0.25;
const ROWS: std::ops::RangeInclusive<u64> = 100_000..=1_000_000;
/// Columns that a plan may cut by, one after the other.
const MOST_CUTS: usize = 3;
/// Characters of a value in a message.
const SHOWN: usize = 40;

/// How a source is to be cut. What is left open is advised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The columns to cut by, one after the other; none: the one that is advised.
    pub by: Vec<String>,
    /// By time: a piece for each step.
    pub every: Option<Step>,
    /// The zone whose calendar that is; none: the session's.
    pub zone: Option<String>,
    /// By range: so many pieces with about as many rows each.
    pub pieces: Option<usize>,
    /// By range: about so many rows a piece.
    pub rows: Option<u64>,
    /// By hash: so many pieces.
    pub hash: Option<usize>,
    /// By value: a piece for each.
    pub value: bool,
}

/// Plans how to cut `source`. Columns are named without regard to case. Where the size of pieces is left open, one takes its
/// share of `room`.
///
/// # Errors
/// [`ErrorKind::Invalid`] where there is no such column, where it cannot be cut that way, and where there is nothing to cut;
/// whatever the one who answers has against the source.
pub fn plan<E: From<Error>>(
    ask: &mut dyn Ask<E>,
    source: &Source,
    wish: &Wish,
    room: Bytes,
) -> Result<Plan, E> {
    let columns = column::columns(ask, &source.relation)?;
    let mut planner = Planner {
        ask,
        source,
        wish,
        room,
    };
    let chosen = planner.choose(&columns)?;
    let rows = planner.rows(&columns)?;
    let mut cuts = Vec::new();
    let mut heavy = Vec::new();
    for (column, how) in chosen {
        let (rule, found) = planner.rule(&column, how, rows)?;
        heavy.extend(found);
        cuts.push(Cut {
            column: column.name,
            type_name: column.type_name,
            rule,
        });
    }
    let names = columns
        .into_iter()
        .map(|column| (column.name, column.type_name))
        .collect();
    let pieces: usize = cuts.iter().map(Cut::slots).fold(1, usize::saturating_mul);
    // Each cut has a slot for NULL, and one by value one for all others.
    if pieces > 2 * MOST {
        return Err(too_many(pieces, "cut by fewer columns, or into fewer pieces each").into());
    }
    let mut plan = Plan::new(source, names, cuts);
    plan.heavy = heavy;
    plan.wish = Some(wish.clone());
    planner.count(&mut plan, rows)?;
    Ok(plan)
}

/// How one column is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Time(Step),
    /// Into so many pieces, or as many as the size of pieces makes.
    Range(Option<usize>),
    Hash(Option<usize>),
    Value,
}

/// What is known of the source's size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    rows: u64,
    /// Bytes of a row in memory.
    width: f64,
}

pub(super) struct Planner<'a, E> {
    pub(super) ask: &'a mut dyn Ask<E>,
    pub(super) source: &'a Source,
    pub(super) wish: &'a Wish,
    pub(super) room: Bytes,
}

impl<E: From<Error>> Planner<'_, E> {
    /// The columns to cut by, and how.
    fn choose(&mut self, columns: &[Column]) -> Result<Vec<(Column, How)>, E> {
        let wish = self.wish;
        self.check_wish()?;
        if wish.by.is_empty() {
            return self.advised(columns).map(|one| vec![one]);
        }
        let mut chosen: Vec<Column> = Vec::new();
        for name in &wish.by {
            let found = match columns
                .iter()
                .find(|column| column.name.eq_ignore_ascii_case(name))
            {
                Some(column) => column.clone(),
                // A row's number in its table: no column, but DuckDB takes it for one.
                None if name.eq_ignore_ascii_case("rowid") => {
                    Column::new("rowid".to_owned(), "BIGINT".to_owned())
                }
                None => return Err(unknown(self.source, "by", name, columns).into()),
            };
            if chosen.iter().any(|before| before.name == found.name) {
                return Err(
                    Error::invalid("by", format_args!("{:?}", wish.by), "name each column once").into(),
                );
            }
            if found.family == Family::Nested {
                return Err(cannot(&found, "its values have parts; cut by one of them in a query").into());
            }
            chosen.push(found);
        }
        let mut hows: Vec<Option<How>> = vec![None; chosen.len()];
        if let Some(step) = wish.every {
            let place = chosen
                .iter()
                .position(|column| matches!(column.family, Family::Date | Family::Timestamp));
            let Some(place) = place else {
                return Err(cannot(&chosen[0], &not_a_time(&chosen[0])).into());
            };
            if chosen[place].family == Family::Date && step == Step::Hour {
                return Err(cannot(
                    &chosen[place],
                    "a DATE has no hours; take every=\"day\" or longer",
                )
                .into());
            }
            hows[place] = Some(How::Time(step));
        }
        let mut last = |how: How, name: &str| {
            // The last column that nothing is said of: `by=["ts", "id"], every="month", hash=16`.
            let place = hows.iter().rposition(Option::is_none);
            let place = place.ok_or_else(|| {
                Error::invalid(
                    name,
                    "it",
                    "every column of `by` is cut otherwise already; name one more, or leave it out",
                )
            })?;
            hows[place] = Some(how);
            Ok::<_, Error>(())
        };
        if let Some(pieces) = wish.hash {
            last(How::Hash(Some(pieces)), "hash")?;
        }
        if wish.value {
            last(How::Value, "value")?;
        }
        if wish.pieces.is_some() || wish.rows.is_some() {
            let name = if wish.pieces.is_some() { "pieces" } else { "rows" };
            last(How::Range(wish.pieces), name)?;
        }
        let mut all = Vec::new();
        for (column, how) in chosen.into_iter().zip(hows) {
            let how = match how {
                Some(how) => how,
                None => self.advised_for(&column)?,
            };
            all.push((column, how));
        }
        Ok(all)
    }

    fn check_wish(&self) -> Result<()> {
        let wish = self.wish;
        let number = |name, value: Option<u64>, most: u64| match value {
            Some(value) if value == 0 || value > most => Err(Error::invalid(
                name,
                value,
                &format!("give a number from 1 to {most}"),
            )),
            _ => Ok(()),
        };
        number("pieces", wish.pieces.map(|pieces| pieces as u64), MOST as u64)?;
        number("hash", wish.hash.map(|pieces| pieces as u64), MOST as u64)?;
        number("rows", wish.rows, u64::MAX)?;
        if wish.pieces.is_some() && wish.rows.is_some() {
            let rows = wish.rows.unwrap_or_default();
            return Err(Error::invalid("rows", rows, "give `pieces` or `rows`, not both"));
        }
        if wish.by.len() > MOST_CUTS {
            let accepted = format!("name up to {MOST_CUTS} columns");
            return Err(Error::invalid("by", format_args!("{:?}", wish.by), &accepted));
        }
        if wish.zone.is_some() && wish.every.is_none() {
            let zone = wish.zone.clone().unwrap_or_default();
            return Err(Error::invalid(
                "zone",
                format_args!("{zone:?}"),
                "a zone goes with `every`",
            ));
        }
        let of_column = [
            ("every", wish.every.is_some()),
            ("pieces", wish.pieces.is_some()),
            ("hash", wish.hash.is_some()),
            ("value", wish.value),
        ];
        match of_column.iter().find(|(_, given)| *given) {
            Some((name, _)) if wish.by.is_empty() => Err(Error::invalid(
                "by",
                "nothing",
                &format!("name the column that `{name}` is meant for"),
            )),
            _ => Ok(()),
        }
    }

    /// Where no column is named: the rows by their numbers if a number of rows is given, else the column that is advised.
    fn advised(&mut self, columns: &[Column]) -> Result<(Column, How), E> {
        if self.wish.rows.is_some() {
            if columns
                .iter()
                .any(|column| column.name.eq_ignore_ascii_case("rowid"))
            {
                let why = "the source has a column of that name; name the column to cut by";
                return Err(Error::invalid("rows", "it", why).into());
            }
            return Ok((
                Column::new("rowid".to_owned(), "BIGINT".to_owned()),
                How::Range(None),
            ));
        }
        let profiles = profile(self.ask, self.source, None)?;
        // By time before value before range before hash; of like ones the first.
        let best = profiles
            .iter()
            .filter(|profile| profile.cut.is_some())
            .min_by_key(|profile| profile.cut);
        let Some(best) = best else {
            let why: Vec<String> = profiles
                .iter()
                .take(5)
                .map(|profile| format!("{}: {}", profile.name, profile.advice))
                .collect();
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "no column of {} makes pieces of like size; say by which to cut, and how ({})",
                    self.source.name,
                    why.join("; ")
                ),
            )
            .into());
        };
        let column = columns.iter().find(|column| column.name == best.name);
        let how = Self::how(best);
        column.cloned().zip(how).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the profile names no column of the source").into()
        })
    }

    fn advised_for(&mut self, column: &Column) -> Result<How, E> {
        if column.name == "rowid" {
            return Ok(How::Range(None));
        }
        let profiles = profile(self.ask, self.source, Some(&column.name))?;
        let best = profiles.first().and_then(Self::how);
        best.ok_or_else(|| {
            let why = profiles
                .first()
                .map(|profile| profile.advice.clone())
                .unwrap_or_default();
            let message = format!("{} is not cut without being told how: {why}", column.name);
            Error::new(ErrorKind::Invalid, message).into()
        })
    }

    fn how(profile: &Profile) -> Option<How> {
        Some(match profile.cut? {
            Kind::Time => How::Time(profile.step?),
            Kind::Range => How::Range(None),
            Kind::Hash => How::Hash(None),
            Kind::Value => How::Value,
        })
    }

    /// How many rows there are, and how wide.
    pub(super) fn rows(&mut self, columns: &[Column]) -> Result<Size, E> {
        let count = format!("SELECT count(*)::VARCHAR FROM {}", self.source.relation);
        let rows = one(self.ask.ask(&count)?)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        if rows == 0 {
            let message = format!("{} has no rows: there is nothing to cut", self.source.name);
            return Err(Error::new(ErrorKind::Invalid, message).into());
        }
        let mut fixed = 0.0;
        let mut measured = Vec::new();
        for column in columns {
            match width(column) {
                Some(width) => fixed += width,
                None => measured.push(format!(
                    "16 + coalesce(strlen({}::VARCHAR), 0)",
                    quoted_name(&column.name)
                )),
            }
        }
        if !measured.is_empty() {
            // Under a constant as its limit DuckDB 1.4 opens all files of a pattern, and keeps them open.
            let sql = format!(
                "SELECT avg({})::VARCHAR FROM (SELECT * FROM {} LIMIT (SELECT {MEASURED}))",
                measured.join(" + "),
                self.source.relation
            );
            fixed += one(self.ask.ask(&sql)?)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0.0);
        }
        Ok(Size { rows, width: fixed })
    }

    /// How many rows a piece should have.
    fn target(&self, size: Size) -> u64 {
        self.wish.rows.unwrap_or_else(|| {
            let fits = self.room.get() as f64 * SHARE / size.width.max(1.0);
            (fits as u64).clamp(*ROWS.start(), *ROWS.end())
        })
    }

    /// Into how many pieces, where that is left open.
    fn pieces(&self, size: Size, said: Option<usize>) -> Result<usize> {
        let pieces = match said {
            Some(pieces) => pieces,
            None => usize::try_from(size.rows.div_ceil(self.target(size))).unwrap_or(usize::MAX),
        };
        if pieces > MOST {
            return Err(too_many(pieces, "give more `rows` a piece"));
        }
        Ok(pieces)
    }

    fn rule(&mut self, column: &Column, how: How, size: Size) -> Result<(Rule, Vec<Heavy>), E> {
        match how {
            How::Time(step) => Ok((self.time(column, step)?, Vec::new())),
            How::Range(said) => {
                let pieces = self.pieces(size, said)?;
                self.range(column, pieces)
            }
            How::Hash(said) => {
                let pieces = self.pieces(size, said)?;
                Ok((Rule::Hash { pieces }, Vec::new()))
            }
            How::Value => Ok((self.value(column)?, Vec::new())),
        }
    }

    /// Bounds of ranges with about as many rows each, from a sample.
    fn range(&mut self, column: &Column, pieces: usize) -> Result<(Rule, Vec<Heavy>), E> {
        let (values, counts) = self.sampled(column, pieces)?;
        if values.is_empty() {
            return Err(all_null(column).into());
        }
        if values.len() == 1 && pieces > 1 {
            return Err(cannot(
                column,
                &format!(
                    "it has only one value, {}, and no cut splits one value",
                    shown(&values[0])
                ),
            )
            .into());
        }
        let found = heavy(&counts, pieces)
            .into_iter()
            .map(|(index, share)| Heavy {
                column: column.name.clone(),
                value: values[index].clone(),
                share,
            })
            .collect();
        let bounds = bounds(&counts, pieces)
            .into_iter()
            .map(|index| values[index].clone())
            .collect();
        Ok((Rule::Range { bounds }, found))
    }

    /// Values of a sample, ascending, and how often each is in it; of neighbours that are rare the first.
    pub(super) fn sampled(&mut self, column: &Column, pieces: usize) -> Result<(Vec<String>, Vec<u64>), E> {
        let name = quoted_name(&column.name);
        let sample = within(&SAMPLE, pieces.saturating_mul(SAMPLE_PER_PIECE));
        // Neighbours are put together until each is about as frequent as the others; frequent values stay alone.
        let parts = within(&PARTS, pieces.saturating_mul(PARTS_PER_PIECE));
        let rows = self.ask.ask(&format!(
            "SELECT {}, n::VARCHAR FROM (SELECT arg_min(k, below) AS k, sum(n) AS n, min(below) AS place FROM (SELECT *, \
             below * {parts} // whole AS part, n * {parts} > whole AS alone FROM (SELECT k, n, sum(n) OVER () AS whole, \
             sum(n) OVER (ORDER BY k ROWS UNBOUNDED PRECEDING) - n AS below FROM (SELECT k, count(*) AS n FROM \
             (SELECT {name} AS k FROM {} WHERE {name} IS NOT NULL) AS q TABLESAMPLE reservoir({sample} ROWS) GROUP BY k))) \
             GROUP BY part, alone) ORDER BY place",
            printed("k", &column.type_name),
            self.source.relation
        ))?;
        let mut values = Vec::new();
        let mut counts = Vec::new();
        for row in rows {
            if let [Some(value), Some(count)] = row.as_slice() {
                values.push(value.clone());
                counts.push(count.parse().unwrap_or(0));
            }
        }
        Ok((values, counts))
    }

    /// The steps of the calendar from the first moment to the last.
    fn time(&mut self, column: &Column, step: Step) -> Result<Rule, E> {
        if !matches!(column.family, Family::Date | Family::Timestamp) {
            return Err(cannot(column, &not_a_time(column)).into());
        }
        let is_zoned = column.type_name == "TIMESTAMP WITH TIME ZONE";
        let zone = match (&self.wish.zone, is_zoned) {
            (Some(zone), false) => {
                let why = format!("{} is {}, which has no zone", column.name, column.type_name);
                return Err(Error::invalid(
                    "zone",
                    format_args!("{zone:?}"),
                    &format!("leave it out: {why}"),
                )
                .into());
            }
            (Some(zone), true) => Some(zone.clone()),
            (None, true) => one(self.ask.ask("SELECT current_setting('TimeZone')")?),
            (None, false) => None,
        };
        let name = quoted_name(&column.name);
        let ends = self.ask.ask(&format!(
            "SELECT epoch(low)::BIGINT::VARCHAR, epoch(high)::BIGINT::VARCHAR, {}, n::VARCHAR FROM (SELECT \
             min({name}) FILTER (WHERE isfinite({name})) AS low, max({name}) FILTER (WHERE isfinite({name})) AS high, \
             count({name}) AS n FROM {})",
            printed("low", &column.type_name),
            self.source.relation
        ))?;
        let ends = ends.into_iter().next().unwrap_or_default();
        let [first, last, Some(low), _] = ends.as_slice() else {
            return Err(match ends.get(3).and_then(Option::as_deref) {
                None | Some("0") => all_null(column),
                Some(_) => cannot(column, "none of its values is finite"),
            }
            .into());
        };
        let second = |text: &Option<String>| text.as_ref().and_then(|text| text.parse().ok()).unwrap_or(0i64);
        let steps = step.pieces(second(first), second(last));
        if steps > MOST as u64 {
            let steps = usize::try_from(steps).unwrap_or(usize::MAX);
            return Err(too_many(steps, "cut by longer steps").into());
        }
        let local = |moment: &str| match &zone {
            Some(zone) => format!("({moment}) AT TIME ZONE {}", quoted(zone)),
            None => moment.to_owned(),
        };
        let low = literal(low, &column.type_name);
        let interval = match step {
            Step::Quarter => "INTERVAL 3 MONTH".to_owned(),
            step => format!("INTERVAL 1 {}", step.name().to_ascii_uppercase()),
        };
        // In another zone it may be another day; those that begin after the last moment are dropped below.
        let steps = steps + u64::from(is_zoned);
        let starts = self.ask.ask(&format!(
            "SELECT local::VARCHAR, {}, epoch_us(start)::VARCHAR FROM (SELECT local, {} AS start FROM (SELECT \
             date_trunc('{}', ({})::TIMESTAMP)::TIMESTAMP + i * {interval} AS local FROM range({steps}) AS r(i)))",
            printed(&format!("start::{}", column.type_name), &column.type_name),
            local("local"),
            step.name(),
            local(&low),
        ))?;
        let mut found: Vec<(i64, String, String)> = starts
            .into_iter()
            .filter_map(|row| match row.as_slice() {
                [Some(name), Some(start), Some(us)] => {
                    Some((us.parse::<i64>().ok()?, label(name, step), start.clone()))
                }
                _ => None,
            })
            .filter(|(us, _, _)| us.div_euclid(1_000_000) <= second(last))
            .collect();
        // Where clocks are set on or back, two steps may begin at one moment, or out of turn.
        found.sort_by_key(|(us, _, _)| *us);
        found.dedup_by_key(|(us, _, _)| *us);
        let (names, mut bounds): (Vec<String>, Vec<String>) =
            found.into_iter().map(|(_, name, start)| (name, start)).unzip();
        if names.is_empty() {
            let message = format!("the calendar of {} could not be read", column.name);
            return Err(Error::new(ErrorKind::Internal, message).into());
        }
        bounds.remove(0);
        Ok(Rule::Time {
            step,
            zone,
            names,
            bounds,
        })
    }

    /// Every value.
    fn value(&mut self, column: &Column) -> Result<Rule, E> {
        let name = quoted_name(&column.name);
        let rows = self.ask.ask(&format!(
            "SELECT {} FROM (SELECT DISTINCT {name} AS k FROM {} WHERE {name} IS NOT NULL LIMIT {}) ORDER BY k",
            printed("k", &column.type_name),
            self.source.relation,
            MOST + 1
        ))?;
        let values: Vec<String> = rows.into_iter().flatten().flatten().collect();
        if values.is_empty() {
            return Err(all_null(column).into());
        }
        if values.len() > MOST {
            let why = format!("it has more than {MOST} values; cut it by hash or by range");
            return Err(cannot(column, &why).into());
        }
        Ok(Rule::Value {
            values,
            slots: Vec::new(),
        })
    }

    /// Counts the rows of each piece, in one pass.
    pub(super) fn count(&mut self, plan: &mut Plan, size: Size) -> Result<(), E> {
        let keys: BTreeSet<String> = plan.cuts.iter().map(|cut| quoted_name(&cut.column)).collect();
        let keys: Vec<String> = keys.into_iter().collect();
        let keys = format!("(SELECT {} FROM {})", keys.join(", "), self.source.relation);
        let numbered = plan.numbered(&keys);
        self.count_in(plan, &numbered, size)
    }

    /// The same, where the rows have the numbers of their pieces.
    pub(super) fn count_in(&mut self, plan: &mut Plan, numbered: &str, size: Size) -> Result<(), E> {
        let rows = self.ask.ask(&format!(
            "SELECT {PIECE}::VARCHAR, count(*)::VARCHAR FROM {numbered} GROUP BY {PIECE}"
        ))?;
        for row in rows {
            let numbers = row
                .iter()
                .map(|text| text.as_ref().and_then(|text| text.parse::<u64>().ok()));
            let numbers: Vec<Option<u64>> = numbers.collect();
            let [Some(piece), Some(rows)] = numbers.as_slice() else {
                continue;
            };
            let piece = usize::try_from(*piece)
                .ok()
                .and_then(|piece| plan.pieces.get_mut(piece));
            if let Some(piece) = piece {
                piece.rows = *rows;
                piece.bytes = Bytes((*rows as f64 * size.width) as u64);
            }
        }
        plan.rows = plan.pieces.iter().map(|piece| piece.rows).sum();
        Ok(())
    }
}

fn within(bounds: &std::ops::RangeInclusive<usize>, number: usize) -> usize {
    number.clamp(*bounds.start(), *bounds.end())
}

fn one(rows: Vec<Vec<Option<String>>>) -> Option<String> {
    rows.into_iter().next()?.into_iter().next()?
}

/// The name of a step by the text of the moment when it begins.
fn label(start: &str, step: Step) -> String {
    let (text, sign) = match start
        .strip_suffix(" (BC)")
        .or_else(|| start.split_once(" (BC)").map(|both| both.0))
    {
        Some(day) => (
            day.to_owned() + start.split_once("(BC)").map_or("", |both| both.1),
            "-",
        ),
        None => (start.to_owned(), ""),
    };
    let mut parts = text.splitn(2, ' ');
    let (day, clock) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default().trim(),
    );
    let mut fields = day.splitn(3, '-');
    let (year, month) = (
        fields.next().unwrap_or_default(),
        fields.next().unwrap_or_default(),
    );
    let name = match step {
        Step::Hour => format!("{day}T{}", clock.get(..2).unwrap_or("00")),
        Step::Day | Step::Week => day.to_owned(),
        Step::Month => format!("{year}-{month}"),
        Step::Quarter => format!("{year}-Q{}", month.parse::<u32>().unwrap_or(1).div_ceil(3)),
        Step::Year => year.to_owned(),
    };
    format!("{sign}{name}")
}

/// Bytes of a value in memory; none where that is for its text to say.
fn width(column: &Column) -> Option<f64> {
    match column.family {
        Family::Boolean => Some(1.0),
        Family::Date | Family::Enum => Some(4.0),
        Family::Integer | Family::Float | Family::Timestamp | Family::Clock => {
            let huge = column.type_name.ends_with("HUGEINT");
            Some(if huge { 16.0 } else { 8.0 })
        }
        Family::Decimal | Family::Uuid => Some(16.0),
        Family::Text | Family::Opaque | Family::Nested => None,
    }
}

fn cannot(column: &Column, why: &str) -> Error {
    let kind = shortened(&column.type_name, SHOWN);
    Error::new(
        ErrorKind::Invalid,
        format!("{} ({kind}) cannot be cut that way: {why}", column.name),
    )
}

fn not_a_time(column: &Column) -> String {
    let name = quoted_name(&column.name);
    format!(
        "`every` wants a DATE or a TIMESTAMP; if its values are moments, plan over a query, such as \
         SELECT * REPLACE ({name}::TIMESTAMP AS {name}) FROM ..."
    )
}

fn all_null(column: &Column) -> Error {
    cannot(column, "every value is NULL")
}

pub(super) fn too_many(pieces: usize, advice: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("that makes {pieces} pieces, and {MOST} are the most: {advice}"),
    )
}
