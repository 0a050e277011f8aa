//! One row per setting: its name, what it accepts, how it is read, printed and explained. Everything else
//! that needs a list of the settings (files, environment, arguments, errors, `status()`) goes through
//! [`TABLE`].

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::settings::{Feed, Keep, Settings, Victim};
use crate::units::{self, Bytes, Memory};

/// A value as it arrives: from TOML, from the environment (always text) or as an argument of some language.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A text; every setting can be written as one.
    Text(String),
    /// Nothing: clears an optional setting. An argument that was not given is left out instead.
    None,
}

impl Value {
    /// Whether this clears an optional setting: nothing, an empty text, or the word "none".
    pub fn clears(&self) -> bool {
        match self {
            Value::None => true,
            Value::Text(text) => text.trim().is_empty() || text.trim().eq_ignore_ascii_case("none"),
            _ => false,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => value.fmt(f),
            Value::Int(value) => value.fmt(f),
            Value::Float(value) => value.fmt(f),
            Value::Text(value) => fmt::Debug::fmt(value, f),
            Value::None => f.write_str("none"),
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Float(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Text(value)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::None, Into::into)
    }
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The name in files and arguments; `DUCKWARD_` and this in capitals in the environment.
    pub name: &'static str,
    /// What is accepted, as the end of an error message.
    pub accepted: &'static str,
    /// What the setting does, in one line.
    pub about: &'static str,
    read: fn(&Value, &mut Settings) -> Option<()>,
    print: fn(&Settings) -> String,
}

impl Row {
    /// Reads `value` into `settings`. Settings that depend on each other are checked by [`Settings::check`].
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], naming the setting, the value and what is accepted; nothing was changed.
    pub fn set(&self, settings: &mut Settings, value: &Value) -> Result<()> {
        self.read(settings, value)
            .ok_or_else(|| Error::invalid(self.name, value, self.accepted))
    }

    /// The value in force, as a text that [`Row::set`] reads back to the same value.
    pub fn print(&self, settings: &Settings) -> String {
        (self.print)(settings)
    }

    /// As [`Row::set`]; `None` if `value` is not accepted, for callers who say more about where it came from.
    pub(super) fn read(&self, settings: &mut Settings, value: &Value) -> Option<()> {
        (self.read)(value, settings)
    }
}

/// The row called `name`.
pub fn row(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

const MEMORY: &str = "give a size such as \"512MB\" or \"2GiB\", a whole number of bytes, a share above 0 \
                      and up to 1 such as 0.6 or \"60%\", or \"auto\"";
const OPTIONAL_SIZE: &str =
    "give a size above zero such as \"512MB\" or \"2GiB\", a whole number of bytes, or \"none\"";
const LEVEL: &str = "give a share of the budget above 0 and up to 1 such as 0.8 or \"80%\"";
const TIME: &str = "give seconds such as 30 or 0.5, or a text such as \"250ms\", \"30s\", \"5min\" or \"2h\"";
const TIME_ABOVE_ZERO: &str =
    "give a time above zero: seconds such as 0.5, or a text such as \"250ms\" or \"5s\"";
const OPTIONAL_TIME: &str =
    "give a time above zero: seconds such as 30, or a text such as \"30s\" or \"5min\"; or \"none\"";
const SWITCH: &str = "give true or false (as text also on, off, yes, no, 1, 0)";

/// Every setting.
pub static TABLE: [Row; 34] = [
    Row {
        name: "memory",
        accepted: MEMORY,
        about: "The memory budget of the process.",
        read: |value, settings| put(&mut settings.memory, memory(value)),
        print: |settings| print_memory(settings.memory),
    },
    Row {
        name: "reserve",
        accepted: OPTIONAL_SIZE,
        about: "Head-room left free under a limit of the system; none: 5 %, at least 32 MiB, at most 1 GiB.",
        read: |value, settings| put(&mut settings.reserve, optional(value, size)),
        print: |settings| print_optional(settings.reserve, print_size),
    },
    Row {
        name: "caution",
        accepted: LEVEL,
        about: "Share of the budget at which the level caution begins (more readings, clean-up).",
        read: |value, settings| put(&mut settings.levels[0], level(value)),
        print: |settings| settings.levels[0].to_string(),
    },
    Row {
        name: "warning",
        accepted: LEVEL,
        about: "Share of the budget at which the level warning begins (fewer queries at once).",
        read: |value, settings| put(&mut settings.levels[1], level(value)),
        print: |settings| settings.levels[1].to_string(),
    },
    Row {
        name: "critical",
        accepted: LEVEL,
        about: "Share of the budget at which the level critical begins (queries wait, DuckDB gets less).",
        read: |value, settings| put(&mut settings.levels[2], level(value)),
        print: |settings| settings.levels[2].to_string(),
    },
    Row {
        name: "emergency",
        accepted: LEVEL,
        about: "Share of the budget at which the level emergency begins (a query is interrupted).",
        read: |value, settings| put(&mut settings.levels[3], level(value)),
        print: |settings| settings.levels[3].to_string(),
    },
    Row {
        name: "hysteresis",
        accepted: "give a share of the budget from 0 up to, not including, 1 such as 0.05 or \"5%\"",
        about: "How far below its threshold memory must fall to leave a level, as a share of the budget.",
        read: |value, settings| {
            put(
                &mut settings.hysteresis,
                number(value).filter(|share| (0.0..1.0).contains(share)),
            )
        },
        print: |settings| settings.hysteresis.to_string(),
    },
    Row {
        name: "dwell",
        accepted: TIME,
        about: "How long memory must stay there before the level is left.",
        read: |value, settings| put(&mut settings.dwell, time(value)),
        print: |settings| print_time(settings.dwell),
    },
    Row {
        name: "interval_min",
        accepted: TIME_ABOVE_ZERO,
        about: "Shortest time between two readings of memory, when it climbs.",
        read: |value, settings| put(&mut settings.interval_min, time_above_zero(value)),
        print: |settings| print_time(settings.interval_min),
    },
    Row {
        name: "interval_max",
        accepted: TIME_ABOVE_ZERO,
        about: "Longest time between two readings of memory, when it is calm.",
        read: |value, settings| put(&mut settings.interval_max, time_above_zero(value)),
        print: |settings| print_time(settings.interval_max),
    },
    Row {
        name: "elastic",
        accepted: SWITCH,
        about: "Whether DuckDB's memory_limit follows the room that the rest of the process leaves.",
        read: |value, settings| put(&mut settings.elastic, switch(value)),
        print: |settings| settings.elastic.to_string(),
    },
    Row {
        name: "ceiling",
        accepted: SWITCH,
        about: "Whether growth that nothing else stops ends in an error instead of a killed process.",
        read: |value, settings| put(&mut settings.ceiling, switch(value)),
        print: |settings| settings.ceiling.to_string(),
    },
    Row {
        name: "clean_up",
        accepted: SWITCH,
        about: "Whether caution and above drop caches and return freed pages to the system.",
        read: |value, settings| put(&mut settings.clean_up, switch(value)),
        print: |settings| settings.clean_up.to_string(),
    },
    Row {
        name: "limit_concurrency",
        accepted: SWITCH,
        about: "Whether warning and above lower how many queries run at once.",
        read: |value, settings| put(&mut settings.limit_concurrency, switch(value)),
        print: |settings| settings.limit_concurrency.to_string(),
    },
    Row {
        name: "limit_memory",
        accepted: SWITCH,
        about: "Whether critical and above lower DuckDB's memory_limit further.",
        read: |value, settings| put(&mut settings.limit_memory, switch(value)),
        print: |settings| settings.limit_memory.to_string(),
    },
    Row {
        name: "queue_new",
        accepted: SWITCH,
        about: "Whether critical and above hold new queries in the waiting line.",
        read: |value, settings| put(&mut settings.queue_new, switch(value)),
        print: |settings| settings.queue_new.to_string(),
    },
    Row {
        name: "refuse_new",
        accepted: SWITCH,
        about: "Whether an emergency refuses new queries at once.",
        read: |value, settings| put(&mut settings.refuse_new, switch(value)),
        print: |settings| settings.refuse_new.to_string(),
    },
    Row {
        name: "spill_early",
        accepted: SWITCH,
        about: "Whether an emergency makes operators spill early (a temp directory that is there, fewer threads).",
        read: |value, settings| put(&mut settings.spill_early, switch(value)),
        print: |settings| settings.spill_early.to_string(),
    },
    Row {
        name: "lower_checkpoint",
        accepted: SWITCH,
        about: "Whether an emergency lowers DuckDB's checkpoint_threshold.",
        read: |value, settings| put(&mut settings.lower_checkpoint, switch(value)),
        print: |settings| settings.lower_checkpoint.to_string(),
    },
    Row {
        name: "interrupt",
        accepted: SWITCH,
        about: "Whether an emergency interrupts a query.",
        read: |value, settings| put(&mut settings.interrupt, switch(value)),
        print: |settings| settings.interrupt.to_string(),
    },
    Row {
        name: "victim",
        accepted: "give \"largest\" or \"longest\"",
        about: "Which query an emergency interrupts: the largest, or the one that has run longest.",
        read: |value, settings| put(&mut settings.victim, victim(value)),
        print: |settings| print_victim(settings.victim).to_owned(),
    },
    Row {
        name: "row_cap",
        accepted: "give a whole number of rows from 1 such as 10000, or \"none\"",
        about: "From warning on, answers are cut at so many rows and marked truncated; none: never.",
        read: |value, settings| {
            put(
                &mut settings.row_cap,
                optional(value, |value| whole(value).filter(|rows| *rows >= 1)),
            )
        },
        print: |settings| print_optional(settings.row_cap, |rows| rows.to_string()),
    },
    Row {
        name: "max_concurrent",
        accepted: "give a whole number from 1 such as 8",
        about: "Most queries at once through the wards of this process.",
        read: |value, settings| {
            put(
                &mut settings.max_concurrent,
                count(value).filter(|count| *count >= 1),
            )
        },
        print: |settings| settings.max_concurrent.to_string(),
    },
    Row {
        name: "wait",
        accepted: TIME,
        about: "Longest wait of a query for admission; 0: refused at once when there is no room.",
        read: |value, settings| put(&mut settings.wait, time(value)),
        print: |settings| print_time(settings.wait),
    },
    Row {
        name: "query_timeout",
        accepted: OPTIONAL_TIME,
        about: "Longest time one attempt at a query may take; none: no limit.",
        read: |value, settings| put(&mut settings.query_timeout, optional(value, time_above_zero)),
        print: |settings| print_optional(settings.query_timeout, print_time),
    },
    Row {
        name: "retries",
        accepted: "give a whole number from 0 such as 3",
        about: "Most retries of a failure that time can mend (a transaction conflict).",
        read: |value, settings| {
            put(
                &mut settings.retries,
                whole(value).and_then(|n| n.try_into().ok()),
            )
        },
        print: |settings| settings.retries.to_string(),
    },
    Row {
        name: "backoff",
        accepted: TIME,
        about: "Wait before the first retry of a failure that time can mend; doubles each time.",
        read: |value, settings| put(&mut settings.backoff, time(value)),
        print: |settings| print_time(settings.backoff),
    },
    Row {
        name: "keep_order",
        accepted: SWITCH,
        about: "Whether a query run again with less memory keeps the order of rows without ORDER BY.",
        read: |value, settings| put(&mut settings.keep_order, switch(value)),
        print: |settings| settings.keep_order.to_string(),
    },
    Row {
        name: "feed",
        accepted: "give \"auto\", \"scan\" or \"spool\"",
        about: "How the pieces of a query get their rows: each reads again, or from what was written once; auto: by cost.",
        read: |value, settings| put(&mut settings.feed, feed(value)),
        print: |settings| print_feed(settings.feed).to_owned(),
    },
    Row {
        name: "history",
        accepted: "give \"beside\" (in a file beside the database's), the path of a file whose name ends in .json, or \
                   \"none\"",
        about: "Where what is learnt of queries is kept for the next process; none: it is forgotten with the ward.",
        read: |value, settings| put(&mut settings.history, keep(value)),
        print: |settings| print_keep(&settings.history),
    },
    Row {
        name: "temp_directory",
        accepted: "give the path of a directory, or \"none\" (a directory of that name is \"./none\")",
        about: "Where DuckDB and duckward spill; none: where DuckDB does.",
        read: |value, settings| put(&mut settings.temp_directory, optional(value, path)),
        print: |settings| {
            print_optional(settings.temp_directory.as_ref(), |path| {
                path.display().to_string()
            })
        },
    },
    Row {
        name: "answer_memory",
        accepted: OPTIONAL_SIZE,
        about: "Largest part of an answer held in memory before it goes to disk; none: an eighth of the \
                budget, at most 1 GiB.",
        read: |value, settings| put(&mut settings.answer_memory, optional(value, size)),
        print: |settings| print_optional(settings.answer_memory, print_size),
    },
    Row {
        name: "batch_rows",
        accepted: "give a whole number from 1 to 1048576 such as 8192",
        about: "Rows in a batch of an answer.",
        read: |value, settings| {
            put(
                &mut settings.batch_rows,
                count(value).filter(|rows| (1..=1 << 20).contains(rows)),
            )
        },
        print: |settings| settings.batch_rows.to_string(),
    },
    Row {
        name: "log",
        accepted: "give a level (off, error, warn, info, debug, trace) or target=level such as \
                   \"duckward=debug\", several separated by commas, or \"none\"",
        about: "Filter of the log; none: no log.",
        read: |value, settings| put(&mut settings.log, optional(value, filter)),
        print: |settings| print_optional(settings.log.as_ref(), String::clone),
    },
];

/// Two settings that are each acceptable, but not together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conflict {
    pub(super) name: &'static str,
    pub(super) other: &'static str,
    pub(super) rule: &'static str,
}

/// The first two settings that contradict each other.
pub(super) fn conflict(settings: &Settings) -> Option<Conflict> {
    const RISING: &str =
        "the levels must rise (caution < warning < critical < emergency); change one or set the others too";
    let [caution, warning, critical, emergency] = settings.levels;
    // Asked for as "the rule holds" and not as its contrary, so that NaN breaks every rule.
    [
        ("warning", "caution", caution < warning, RISING),
        ("critical", "warning", warning < critical, RISING),
        ("emergency", "critical", critical < emergency, RISING),
        (
            "hysteresis",
            "caution",
            settings.hysteresis < caution,
            "hysteresis must be below caution, else that level is never left; lower it",
        ),
        (
            "interval_min",
            "interval_max",
            settings.interval_min <= settings.interval_max,
            "the shortest interval must not be above the longest; lower the one or raise the other",
        ),
    ]
    .into_iter()
    .find(|(_, _, holds, _)| !holds)
    .map(|(name, other, _, rule)| Conflict { name, other, rule })
}

impl Settings {
    /// Checks every value and that they agree with each other, for settings that were put together in Rust.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], naming the setting, its value and what is accepted.
    pub fn check(&self) -> Result<()> {
        // What a value prints must be acceptable to its own reader: no second list of rules to keep in step.
        let mut scratch = self.clone();
        for row in &TABLE {
            row.set(&mut scratch, &Value::Text(row.print(self)))?;
        }
        match conflict(self) {
            None => Ok(()),
            Some(Conflict { name, other, rule }) => {
                let [value, other_value] = [name, other].map(|name| print_named(self, name));
                let message = format!("{name}={value} is not accepted with {other}={other_value}: {rule}");
                Err(Error::new(ErrorKind::Invalid, message))
            }
        }
    }
}

/// What the setting called `name` prints.
pub(super) fn print_named(settings: &Settings, name: &str) -> String {
    row(name).map(|row| row.print(settings)).unwrap_or_default()
}

/// The name among `known` that `name` was probably meant to be.
pub(super) fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.trim().to_lowercase().replace(['-', ' '], "_");
    let near = |candidate: &str, distance: usize| {
        // One inside the other ("timeout", "memory_limit") or the same beginning ("retry", "retries") is
        // near, however long the rest is.
        let contained = name.contains(candidate) || (name.chars().count() >= 3 && candidate.contains(&name));
        let shared = name
            .chars()
            .zip(candidate.chars())
            .take_while(|(a, b)| a == b)
            .count();
        contained || shared >= 4 || distance <= (candidate.chars().count() / 3).max(1)
    };
    known
        .into_iter()
        .map(|candidate| (edit_distance(&name, candidate), candidate))
        .filter(|&(distance, candidate)| near(candidate, distance))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements that turn one text into the other.
fn edit_distance(from: &str, to: &str) -> usize {
    let mut distances: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (b, above) in to.chars().zip(distances.iter_mut().skip(1)) {
            left = (diagonal + usize::from(a != b)).min(left + 1).min(*above + 1);
            diagonal = std::mem::replace(above, left);
        }
        if let Some(first) = distances.first_mut() {
            *first = i + 1;
        }
    }
    distances.last().copied().unwrap_or_default()
}

fn put<T>(field: &mut T, value: Option<T>) -> Option<()> {
    *field = value?;
    Some(())
}

#[expect(
    clippy::option_option,
    reason = "the outer one is whether the value is accepted, the inner one is the value"
)]
fn optional<T>(value: &Value, read: impl FnOnce(&Value) -> Option<T>) -> Option<Option<T>> {
    if value.clears() {
        Some(None)
    } else {
        read(value).map(Some)
    }
}

fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked just before"
        )]
        Value::Float(number) if number.fract() == 0.0 && (0.0..9.0e15).contains(number) => {
            Some(*number as u64)
        }
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn count(value: &Value) -> Option<usize> {
    whole(value)?.try_into().ok()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "whole numbers that large are out of every range that is asked for"
)]
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Text(text) => match text.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().ok().map(|percent| percent / 100.0),
            None => text.trim().parse().ok(),
        },
        _ => None,
    }
}

fn level(value: &Value) -> Option<f64> {
    number(value).filter(|share| *share > 0.0 && *share <= 1.0)
}

fn memory(value: &Value) -> Option<Memory> {
    match value {
        // Not through `from_number`, to which 1 and 1.0 are the same: a whole number is bytes.
        Value::Int(_) => size(value).map(Memory::Size),
        Value::Float(number) => Memory::from_number(*number).ok(),
        Value::Text(text) => text.parse().ok(),
        _ => None,
    }
}

fn print_memory(memory: Memory) -> String {
    match memory {
        Memory::Auto => "auto".to_owned(),
        // Not as a percentage, which would not always read back to the same number; and "1" would be one
        // byte.
        Memory::Share(share) if share.fract() == 0.0 => format!("{share:.1}"),
        Memory::Share(share) => share.to_string(),
        Memory::Size(size) => print_size(size),
    }
}

fn size(value: &Value) -> Option<Bytes> {
    match value {
        Value::Text(text) => text.parse().ok(),
        _ => whole(value).filter(|bytes| *bytes >= 1).map(Bytes),
    }
}

/// Exactly, in the largest unit that divides it; the `Display` of [`Bytes`] rounds.
fn print_size(size: Bytes) -> String {
    const UNITS: [(&str, u64); 8] = [
        ("TiB", 1 << 40),
        ("TB", 1_000_000_000_000),
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("KB", 1_000),
    ];
    // A number with a unit is read as a float, which is exact only up to here.
    const EXACT: u64 = 1 << 53;
    let bytes = size.get();
    let unit = UNITS
        .iter()
        .find(|(_, scale)| bytes > 0 && bytes < EXACT && bytes.is_multiple_of(*scale));
    match unit {
        Some((unit, scale)) => format!("{}{unit}", bytes / scale),
        None => bytes.to_string(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds that large are out of range")]
fn time(value: &Value) -> Option<Duration> {
    match value {
        Value::Int(seconds) => units::seconds("", *seconds as f64).ok(),
        Value::Float(seconds) => units::seconds("", *seconds).ok(),
        Value::Text(text) => units::parse_duration("", text).ok(),
        _ => None,
    }
}

fn time_above_zero(value: &Value) -> Option<Duration> {
    time(value).filter(|time| !time.is_zero())
}

/// Exactly. Small units only below a second, where the reader's multiplication by a thousandth loses nothing.
fn print_time(time: Duration) -> String {
    match (time.as_secs(), time.subsec_nanos()) {
        (0, 0) => "0s".to_owned(),
        (0, nanos) if nanos % 1_000_000 == 0 => format!("{}ms", nanos / 1_000_000),
        (0, nanos) if nanos % 1_000 == 0 => format!("{}us", nanos / 1_000),
        (seconds, 0) if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        (seconds, 0) if seconds % 60 == 0 => format!("{}min", seconds / 60),
        (seconds, 0) => format!("{seconds}s"),
        (seconds, nanos) => {
            let fraction = format!("{nanos:09}");
            format!("{seconds}.{}s", fraction.trim_end_matches('0'))
        }
    }
}

fn switch(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "on" | "yes" | "1" => Some(true),
            "false" | "off" | "no" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn victim(value: &Value) -> Option<Victim> {
    let Value::Text(text) = value else { return None };
    [Victim::Largest, Victim::Longest]
        .into_iter()
        .find(|victim| text.trim().eq_ignore_ascii_case(print_victim(*victim)))
}

fn print_victim(victim: Victim) -> &'static str {
    match victim {
        Victim::Largest => "largest",
        Victim::Longest => "longest",
    }
}

fn feed(value: &Value) -> Option<Feed> {
    let Value::Text(text) = value else { return None };
    [Feed::Auto, Feed::Scan, Feed::Spool]
        .into_iter()
        .find(|feed| text.trim().eq_ignore_ascii_case(print_feed(*feed)))
}

fn print_feed(feed: Feed) -> &'static str {
    match feed {
        Feed::Auto => "auto",
        Feed::Scan => "scan",
        Feed::Spool => "spool",
    }
}

/// Not any file: opening and closing a database that this process has open drops DuckDB's lock on it.
fn keep(value: &Value) -> Option<Keep> {
    if value.clears() {
        return Some(Keep::Nowhere);
    }
    let path = path(value)?;
    if path
        .to_str()
        .is_some_and(|text| text.trim().eq_ignore_ascii_case("beside"))
    {
        return Some(Keep::Beside);
    }
    let is_json = path
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("json"));
    is_json.then_some(Keep::In(path))
}

fn print_keep(keep: &Keep) -> String {
    match keep {
        Keep::Nowhere => "none".to_owned(),
        Keep::Beside => "beside".to_owned(),
        Keep::In(path) => path.display().to_string(),
    }
}

fn path(value: &Value) -> Option<PathBuf> {
    match value {
        Value::Text(text) if !text.contains('\0') => Some(PathBuf::from(text)),
        _ => None,
    }
}

/// The directives of `tracing`, less those that are accepted there and do nothing: a word alone must be a
/// level, so that "verbose" is an error and not a log of the target "verbose".
fn filter(value: &Value) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let Value::Text(text) = value else { return None };
    let is_level = |text: &str| LEVELS.iter().any(|level| text.eq_ignore_ascii_case(level));
    let is_target = |text: &str| {
        !text.is_empty()
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-'))
    };
    let directives = text.split(',').map(|directive| match directive.split_once('=') {
        None => is_level(directive.trim()).then(|| directive.trim().to_owned()),
        Some((target, level)) => {
            let (target, level) = (target.trim(), level.trim());
            (is_target(target) && is_level(level)).then(|| format!("{target}={level}"))
        }
    });
    directives
        .collect::<Option<Vec<String>>>()
        .map(|directives| directives.join(","))
}

fn print_optional<T>(value: Option<T>, print: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "none".to_owned(), print)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// For every setting a value that is not the default and agrees with all the others' defaults.
    pub(in crate::settings) const SAMPLES: [(&str, &str); 34] = [
        ("memory", "512MB"),
        ("reserve", "64MiB"),
        ("caution", "0.65"),
        ("warning", "0.85"),
        ("critical", "0.92"),
        ("emergency", "0.99"),
        ("hysteresis", "0.1"),
        ("dwell", "3s"),
        ("interval_min", "5ms"),
        ("interval_max", "2.5s"),
        ("elastic", "false"),
        ("ceiling", "false"),
        ("clean_up", "false"),
        ("limit_concurrency", "false"),
        ("limit_memory", "false"),
        ("queue_new", "false"),
        ("refuse_new", "false"),
        ("spill_early", "false"),
        ("lower_checkpoint", "false"),
        ("interrupt", "false"),
        ("victim", "longest"),
        ("row_cap", "10000"),
        ("max_concurrent", "3"),
        ("wait", "0s"),
        ("query_timeout", "5min"),
        ("retries", "0"),
        ("backoff", "250us"),
        ("keep_order", "false"),
        ("feed", "spool"),
        ("history", "beside"),
        ("temp_directory", "/tmp/spill here"),
        ("answer_memory", "1GiB"),
        ("batch_rows", "1048576"),
        ("log", "warn,duckward::guard=debug"),
    ];

    /// The fields of `settings` by name, each as `Debug` prints it: knows every field, also one added
    /// tomorrow.
    fn fields(settings: &Settings) -> BTreeMap<String, String> {
        let printed = format!("{settings:#?}");
        let mut fields = BTreeMap::new();
        let mut name = String::new();
        for line in printed.lines().filter(|line| line.starts_with("    ")) {
            if let Some((field, value)) = line.trim_start().split_once(": ")
                && line.chars().nth(4) != Some(' ')
            {
                name = field.to_owned();
                fields.insert(name.clone(), value.to_owned());
            } else if let Some(value) = fields.get_mut(&name) {
                value.push_str(line.trim());
            }
        }
        fields
    }

    fn field_of(name: &str) -> &str {
        if ["caution", "warning", "critical", "emergency"].contains(&name) {
            "levels"
        } else {
            name
        }
    }

    fn text(text: &str) -> Value {
        text.into()
    }

    fn read(name: &str, value: &Value) -> Option<Settings> {
        let mut settings = Settings::default();
        row(name)
            .unwrap()
            .set(&mut settings, value)
            .ok()
            .map(|()| settings)
    }

    #[test]
    fn every_field_has_a_row_and_every_row_a_field_and_a_sample() {
        let default = Settings::default();
        let fields = fields(&default);
        for field in fields.keys() {
            assert!(
                TABLE.iter().any(|row| field_of(row.name) == field),
                "no row sets the field {field}"
            );
        }
        for (row, (sample, _)) in TABLE.iter().zip(SAMPLES) {
            assert_eq!(row.name, sample);
            assert!(fields.contains_key(field_of(row.name)), "{}", row.name);
            assert!(
                row.about.ends_with('.') && !row.about.contains('\n'),
                "{}",
                row.about
            );
            assert!(row.accepted.starts_with("give "), "{}", row.accepted);
        }
    }

    #[test]
    fn a_row_changes_its_own_field_and_no_other() {
        let default = fields(&Settings::default());
        for (name, sample) in SAMPLES {
            let set = fields(&read(name, &text(sample)).unwrap());
            let changed: Vec<&String> = set
                .keys()
                .filter(|field| set[*field] != default[*field])
                .collect();
            assert_eq!(changed, [field_of(name)], "{name}");
        }
    }

    #[test]
    fn each_level_has_a_place_of_its_own() {
        let mut settings = Settings::default();
        for (name, share) in [
            ("caution", 0.1),
            ("warning", 0.2),
            ("critical", 0.3),
            ("emergency", 0.4),
        ] {
            row(name).unwrap().set(&mut settings, &share.into()).unwrap();
        }
        assert_eq!(settings.levels.to_vec(), [0.1, 0.2, 0.3, 0.4]);
    }

    #[test]
    fn a_sample_and_a_default_print_as_they_were_written() {
        for (name, sample) in SAMPLES {
            let row = row(name).unwrap();
            assert_eq!(row.print(&read(name, &text(sample)).unwrap()), sample);
            let default = row.print(&Settings::default());
            assert_eq!(read(name, &text(&default)), Some(Settings::default()), "{name}");
        }
    }

    #[test]
    fn typed_values_read_like_their_texts() {
        for (name, value, same) in [
            ("memory", Value::Int(1), "1"),
            ("memory", Value::Float(1.0), "100%"),
            ("memory", Value::Float(0.6), "60%"),
            ("memory", Value::Float(1e9), "1GB"),
            ("reserve", Value::Int(1024), "1KiB"),
            ("reserve", Value::None, ""),
            ("caution", Value::Float(0.5), "50%"),
            ("emergency", Value::Int(1), "1.0"),
            ("elastic", Value::Bool(false), " Off "),
            ("victim", text("Longest"), "longest"),
            ("row_cap", Value::Float(1e4), "10000"),
            ("row_cap", text("None"), ""),
            ("history", text(" Beside"), "beside"),
            ("history", Value::None, "none"),
            ("wait", Value::Int(0), "0"),
            ("wait", Value::Float(0.25), "250ms"),
            ("log", text(" info , duckward = TRACE "), "info,duckward=TRACE"),
        ] {
            let typed = read(name, &value);
            assert!(typed.is_some(), "{name}={value}");
            assert_eq!(typed, read(name, &text(same)), "{name}={value}");
        }
    }

    #[test]
    fn a_bad_value_is_refused_names_itself_and_changes_nothing() {
        let bad = [
            (
                "memory",
                vec![
                    text("12 parsecs"),
                    Value::Int(-1),
                    Value::Int(0),
                    Value::Float(2.5),
                    Value::None,
                ],
            ),
            (
                "reserve",
                vec![text("0"), Value::Int(-1), Value::Float(0.5), Value::Bool(true)],
            ),
            (
                "caution",
                vec![
                    Value::Float(0.0),
                    Value::Float(1.1),
                    text("80"),
                    Value::Float(f64::NAN),
                    text(""),
                ],
            ),
            (
                "hysteresis",
                vec![Value::Float(-0.1), Value::Int(1), text("nan"), text("none")],
            ),
            (
                "interval_min",
                vec![
                    Value::Int(0),
                    Value::Float(1e-12),
                    Value::Float(-1.0),
                    text("soon"),
                ],
            ),
            ("interval_max", vec![text("0ms"), Value::Float(f64::INFINITY)]),
            (
                "dwell",
                vec![Value::Int(-1), Value::Int(i64::MAX), Value::Bool(false)],
            ),
            ("elastic", vec![Value::Int(1), text("maybe"), text("none")]),
            ("victim", vec![text("smallest"), text("")]),
            ("feed", vec![text("once"), Value::Bool(true)]),
            (
                "row_cap",
                vec![Value::Int(0), Value::Int(-1), Value::Float(1.5), text("many")],
            ),
            (
                "max_concurrent",
                vec![Value::Int(0), text("none"), Value::Bool(true)],
            ),
            ("query_timeout", vec![Value::Int(0), text("never")]),
            ("retries", vec![Value::Int(-1), Value::Int(1 << 32)]),
            (
                "history",
                vec![
                    Value::Bool(true),
                    text("analytics.duckdb"),
                    text(".json"),
                    text("a\0.json"),
                ],
            ),
            ("temp_directory", vec![Value::Int(1), text("a\0b")]),
            ("batch_rows", vec![Value::Int(0), Value::Int((1 << 20) + 1)]),
            (
                "log",
                vec![
                    text("verbose"),
                    text("duckward=loud"),
                    text("=info"),
                    text("info,"),
                    Value::Int(3),
                ],
            ),
        ];
        for (name, values) in bad {
            let row = row(name).unwrap();
            for value in values {
                let mut settings = Settings::default();
                let error = row
                    .set(&mut settings, &value)
                    .expect_err(&format!("{name}={value}"));
                assert_eq!(error.kind(), ErrorKind::Invalid);
                assert!(error.message().contains(&format!("{name}={value} ")), "{error}");
                assert!(error.message().contains(row.accepted), "{error}");
                assert_eq!(settings, Settings::default());
            }
        }
    }

    #[test]
    fn the_defaults_and_every_sample_pass_the_check() {
        Settings::default().check().unwrap();
        for (name, sample) in SAMPLES {
            read(name, &text(sample)).unwrap().check().unwrap();
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_with_both_names_and_values() {
        let default = Settings::default;
        for (settings, named) in [
            (
                Settings {
                    levels: [0.8, 0.8, 0.9, 0.95],
                    ..default()
                },
                ["warning=0.8", "caution=0.8"],
            ),
            (
                Settings {
                    levels: [0.7, 0.95, 0.9, 1.0],
                    ..default()
                },
                ["critical=0.9", "warning=0.95"],
            ),
            (
                Settings {
                    levels: [0.7, 0.8, 0.9, 0.5],
                    ..default()
                },
                ["emergency=0.5", "critical=0.9"],
            ),
            (
                Settings {
                    hysteresis: 0.7,
                    ..default()
                },
                ["hysteresis=0.7", "caution=0.7"],
            ),
            (
                Settings {
                    interval_min: Duration::from_secs(2),
                    ..default()
                },
                ["interval_min=2s", "interval_max=1s"],
            ),
        ] {
            let error = settings.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(named.iter().all(|text| error.message().contains(text)), "{error}");
        }
    }

    #[test]
    fn the_check_refuses_single_values_that_no_reader_would_accept() {
        let default = Settings::default;
        for (settings, named) in [
            (
                Settings {
                    levels: [f64::NAN, 0.8, 0.9, 0.95],
                    ..default()
                },
                "caution=\"NaN\"",
            ),
            (
                Settings {
                    memory: Memory::Share(1.5),
                    ..default()
                },
                "memory=\"1.5\"",
            ),
            (
                Settings {
                    memory: Memory::Size(Bytes(0)),
                    ..default()
                },
                "memory=\"0\"",
            ),
            (
                Settings {
                    max_concurrent: 0,
                    ..default()
                },
                "max_concurrent=\"0\"",
            ),
            (
                Settings {
                    query_timeout: Some(Duration::ZERO),
                    ..default()
                },
                "query_timeout=\"0s\"",
            ),
            (
                Settings {
                    wait: Duration::MAX,
                    ..default()
                },
                "wait=\"",
            ),
            (
                Settings {
                    log: Some("loud".to_owned()),
                    ..default()
                },
                "log=\"loud\"",
            ),
        ] {
            let error = settings.check().unwrap_err();
            assert!(error.message().contains(named), "{error}");
        }
    }

    #[test]
    fn the_closest_name_is_what_a_person_would_guess() {
        let guess = |name| closest(name, TABLE.iter().map(|row| row.name));
        for (name, meant) in [
            ("memroy", "memory"),
            ("Memory", "memory"),
            ("memory_limit", "memory"),
            ("mem", "memory"),
            ("max-concurrent", "max_concurrent"),
            ("timeout", "query_timeout"),
            ("retry", "retries"),
            ("log_level", "log"),
            ("tempdirectory", "temp_directory"),
        ] {
            assert_eq!(guess(name), Some(meant), "{name}");
        }
        for name in ["", "x", "zebra", "дюк"] {
            assert_eq!(guess(name), None, "{name}");
        }
    }

    #[test]
    fn the_distance_counts_single_edits() {
        for (from, to, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(edit_distance(from, to), distance, "{from} {to}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (-2i64..100_000).prop_map(Value::Int),
            any::<f64>().prop_map(Value::Float),
            (-0.5f64..1.5).prop_map(Value::Float),
            (0.0f64..4e8).prop_map(Value::Float),
            ".{0,24}".prop_map(Value::Text),
            "[0-9]{1,6}(\\.[0-9]{1,9})?(%|us|ms|s|min|h|KB|MiB|GB|TiB)?".prop_map(Value::Text),
            Just(Value::None),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_is_accepted_prints_to_what_reads_back_the_same(value in value()) {
            for row in &TABLE {
                let mut settings = Settings::default();
                if row.set(&mut settings, &value).is_ok() {
                    let mut again = Settings::default();
                    row.set(&mut again, &Value::Text(row.print(&settings))).unwrap();
                    let printed = row.print(&settings);
                    prop_assert_eq!(&again, &settings, "{}={} printed {}", row.name, value, printed);
                } else {
                    prop_assert_eq!(&settings, &Settings::default());
                }
            }
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            for row in &TABLE {
                let _ = row.set(&mut Settings::default(), &Value::Text(text.clone()));
            }
            let _ = closest(&text, TABLE.iter().map(|row| row.name));
        }
    }
}
