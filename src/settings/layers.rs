//! Puts the settings together: arguments over environment over file over profile over defaults.
//!
//! [`Layers`] is pure: the environment and the reading of files are passed in. [`Settings::load`] passes the
//! real ones.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::settings::Settings;
use crate::settings::table::{self, Conflict, Row, TABLE, Value};

/// Where the value of a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The profile of this name.
    Profile(&'static str),
    /// The settings file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// The caller.
    Argument,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Profile(name) => write!(f, "profile {name}"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Environment(variable) => write!(f, "environment variable {variable}"),
            Source::Argument => f.write_str("argument"),
        }
    }
}

/// A template of settings for a kind of place.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// Whom it is for, in one line.
    pub about: &'static str,
    /// What it sets, by name and as text.
    pub settings: &'static [(&'static str, &'static str)],
}

/// Every profile.
pub static PROFILES: [Profile; 6] = [
    Profile {
        name: "development",
        about: "A person at a workstation that runs an editor and a browser too.",
        settings: &[
            // The other programs of the machine were there first and are bigger than they look.
            ("memory", "0.5"),
            // One person, a few tools.
            ("max_concurrent", "4"),
            // Somebody is looking at it: say soon that there is no room.
            ("wait", "30s"),
            // Longer than anything one tries out; what runs on is a forgotten join condition.
            ("query_timeout", "10min"),
            // Show what the guard does while one learns it.
            ("log", "info"),
        ],
    },
    Profile {
        name: "testing",
        about: "A test run, often several at once on one machine: the same outcomes, without the waiting.",
        settings: &[
            // Test runners start a process per core; four of them fit.
            ("memory", "0.25"),
            ("max_concurrent", "4"),
            // A failure that waits for minutes holds up the whole run.
            ("wait", "10s"),
            ("query_timeout", "5min"),
            // Retries stay on, so that tests meet what production meets; only the pauses go.
            ("backoff", "10ms"),
            ("dwell", "100ms"),
            ("log", "warn"),
        ],
    },
    Profile {
        name: "production",
        about: "A service that has the machine or the container to itself.",
        settings: &[
            // The service's own code, its connections and its libraries need the rest.
            ("memory", "0.8"),
            // Whoever called has given up by then.
            ("wait", "1min"),
            // The longest bulk work; what is still running then hangs.
            ("query_timeout", "30min"),
            // What the guard did about memory, not what it saw.
            ("log", "warn"),
        ],
    },
    Profile {
        name: "notebook",
        about: "A Jupyter kernel: one person, and data frames beside the queries.",
        settings: &[
            // Data frames of earlier cells stay in the same process, and the browser is on the same machine.
            ("memory", "0.6"),
            // Cells run one after another; the rest is for widgets and threads.
            ("max_concurrent", "4"),
            // The person is waiting.
            ("wait", "30s"),
            // An answer becomes a data frame and is then there twice.
            ("answer_memory", "256MiB"),
            // Lets go of a level slowly, because a person's next cell comes seconds later.
            ("dwell", "3s"),
        ],
    },
    Profile {
        name: "container-small",
        about: "A container of up to about 2 GiB, where the kernel kills without a warning.",
        settings: &[
            // An interpreter and its imports grow by this much after the start.
            ("reserve", "64MiB"),
            // Between two levels there are only a few MiB, so each begins earlier.
            ("caution", "0.6"),
            ("warning", "0.7"),
            ("critical", "0.8"),
            ("emergency", "0.9"),
            // So little room is filled in a fraction of a second.
            ("interval_max", "100ms"),
            // Each query needs its own hash tables, and DuckDB some MiB per thread.
            ("max_concurrent", "2"),
            ("answer_memory", "32MiB"),
            // DuckDB's own vector size: the smallest batch that costs nothing extra.
            ("batch_rows", "2048"),
        ],
    },
    Profile {
        name: "server-large",
        about: "A machine of hundreds of GiB for DuckDB.",
        settings: &[
            // The page tables and the other processes of such a machine outgrow 1 GiB.
            ("reserve", "4GiB"),
            // One percent is gigabytes: no need to act as early.
            ("caution", "0.8"),
            ("warning", "0.88"),
            ("critical", "0.94"),
            ("emergency", "0.97"),
            // Many cores, many users; admission by memory still decides.
            ("max_concurrent", "64"),
            ("answer_memory", "4GiB"),
            // Fewer, larger batches: the cost of each handover counts, their memory does not.
            ("batch_rows", "65536"),
            ("log", "warn"),
        ],
    },
];

/// What [`Layers::load`] gives: the settings in force, and where each came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings in force.
    pub settings: Settings,
    /// For every row of [`TABLE`], by name, where the value came from.
    pub sources: BTreeMap<&'static str, Source>,
    /// The profile that was chosen.
    pub profile: Option<&'static str>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

impl Loaded {
    /// Every setting in force, as text.
    pub fn print(&self) -> BTreeMap<String, String> {
        TABLE
            .iter()
            .map(|row| (row.name.to_owned(), row.print(&self.settings)))
            .collect()
    }
}

impl Loaded {
    /// The defaults.
    fn new() -> Self {
        Loaded {
            settings: Settings::default(),
            sources: TABLE.iter().map(|row| (row.name, Source::Default)).collect(),
            profile: None,
            file: None,
        }
    }

    /// Sets one value. `read` is what the row reads: `value`, or that with the unit of an older name.
    fn set(
        &mut self,
        row: &'static Row,
        value: &Value,
        read: &Value,
        accepted: &str,
        source: Source,
    ) -> Result<()> {
        match row.read(&mut self.settings, read) {
            Some(()) => {
                self.sources.insert(row.name, source);
                Ok(())
            }
            None => Err(refused(row.name, value, &source, accepted)),
        }
    }

    fn set_plain(&mut self, row: &'static Row, value: &Value, source: Source) -> Result<()> {
        self.set(row, value, value, row.accepted, source)
    }

    fn check(&self) -> Result<()> {
        let Some(Conflict { name, other, rule }) = table::conflict(&self.settings) else {
            return Ok(());
        };
        let told = |name| {
            let value = table::print_named(&self.settings, name);
            let source = self.sources.get(name).unwrap_or(&Source::Default);
            format!("{name}={value} ({source})")
        };
        let message = format!("{} is not accepted with {}: {rule}", told(name), told(other));
        Err(Error::new(ErrorKind::Invalid, message))
    }
}

/// The chooser of the profile, as an argument, as a key of the file and as `DUCKWARD_PROFILE`.
const PROFILE: &str = "profile";
/// The chooser of the file, as an argument; `DUCKWARD_SETTINGS` in the environment.
const SETTINGS_FILE: &str = "settings_file";
const PROFILE_VARIABLE: &str = "DUCKWARD_PROFILE";
const FILE_VARIABLE: &str = "DUCKWARD_SETTINGS";
/// Where the demo keeps its data; not a setting of the guard.
const DEMO_VARIABLE: &str = "DUCKWARD_DEMO_HOME";
/// What every variable of duckward's own begins with.
const PREFIX: &str = "DUCKWARD_";
/// Read from the working directory when no file is named.
const DEFAULT_FILE: &str = "duckward.toml";

/// A variable of an older program that means a setting.
struct OlderName {
    variable: &'static str,
    setting: &'static str,
    /// The unit that its bare number has there; empty: the setting's own.
    unit: &'static str,
    /// What is accepted, if not what the setting accepts.
    accepted: Option<&'static str>,
}

const OLDER_NAMES: [OlderName; 3] = [
    OlderName {
        variable: "DUCKDB_MEMORY_LIMIT",
        setting: "memory",
        unit: "",
        accepted: None,
    },
    OlderName {
        variable: "DUCKDB_MAX_CONNECTIONS",
        setting: "max_concurrent",
        unit: "",
        accepted: None,
    },
    OlderName {
        variable: "DUCKDB_MONITORING_INTERVAL",
        setting: "interval_max",
        unit: "ms",
        accepted: Some("give milliseconds above zero such as 1000"),
    },
];

/// What the layers above the defaults say. Build it, then [`load`](Layers::load).
#[derive(Clone, Debug, Default)]
pub struct Layers {
    arguments: BTreeMap<String, Value>,
    environment: BTreeMap<String, String>,
}

impl Layers {
    /// Nothing but defaults, and whatever `duckward.toml` says.
    pub fn new() -> Self {
        Layers::default()
    }

    /// The environment. Only `DUCKWARD_*` and the older names are looked at.
    #[must_use]
    pub fn environment(mut self, environment: BTreeMap<String, String>) -> Self {
        self.environment = environment;
        self
    }

    /// One argument: the name of a setting, `profile` or `settings_file`. Leave out what the caller did not
    /// give: [`Value::None`] clears an optional setting.
    #[must_use]
    pub fn argument(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.arguments.insert(name.into(), value.into());
        self
    }

    /// Puts the layers together. `read` reads a text file, and is asked for one file at most.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an unknown name, a value that is not accepted, or values that contradict
    /// each other; the message names each with its value and where it came from. Also for a file that cannot
    /// be read.
    pub fn load(&self, read: impl Fn(&Path) -> io::Result<String>) -> Result<Loaded> {
        let mut loaded = Loaded::new();
        let keys = match self.file(read)? {
            None => toml::Table::new(),
            Some((path, text)) => {
                let keys = parse(&path, &text)?;
                loaded.file = Some(path);
                keys
            }
        };
        if let Some(profile) = self.profile(&keys, loaded.file.as_deref())? {
            loaded.profile = Some(profile.name);
            apply_profile(&mut loaded, profile)?;
        }
        if let Some(path) = loaded.file.clone() {
            apply_file(&mut loaded, &path, &keys)?;
        }
        self.apply_environment(&mut loaded)?;
        self.apply_arguments(&mut loaded)?;
        loaded.check()?;
        Ok(loaded)
    }

    /// A chooser of a layer: the argument, else the variable.
    fn chosen(&self, argument: &str, variable: &str) -> Option<(Value, Source)> {
        let argument = self
            .arguments
            .get(argument)
            .map(|value| (value.clone(), Source::Argument));
        argument.or_else(|| {
            let value = self.environment.get(variable)?;
            Some((
                Value::from(value.as_str()),
                Source::Environment(variable.to_owned()),
            ))
        })
    }

    /// The path and the text of the settings file, if there is one.
    fn file(&self, read: impl Fn(&Path) -> io::Result<String>) -> Result<Option<(PathBuf, String)>> {
        // Not any file: opening and closing a database that this process has open drops DuckDB's lock on it.
        const ACCEPTED: &str =
            "give the path of a TOML file, whose name ends in .toml, or \"none\" to read no settings file";
        let Some((value, source)) = self.chosen(SETTINGS_FILE, FILE_VARIABLE) else {
            let path = PathBuf::from(DEFAULT_FILE);
            return match read(&path) {
                Ok(text) => Ok(Some((path, text))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => {
                    let message = format!(
                        "{SETTINGS_FILE}=\"{DEFAULT_FILE}\" (found in the working directory) cannot be read: \
                         {error}; make it readable, or give {SETTINGS_FILE}=\"none\" to do without"
                    );
                    Err(Error::new(ErrorKind::Invalid, message).with_source(error))
                }
            };
        };
        if value.clears() {
            return Ok(None);
        }
        let path = match &value {
            Value::Text(text) => Some(PathBuf::from(text)),
            _ => None,
        };
        let is_toml = |path: &PathBuf| {
            path.extension()
                .is_some_and(|end| end.eq_ignore_ascii_case("toml"))
        };
        let path = path
            .filter(is_toml)
            .ok_or_else(|| refused(SETTINGS_FILE, &value, &source, ACCEPTED))?;
        match read(&path) {
            Ok(text) => Ok(Some((path, text))),
            Err(error) => {
                let message =
                    format!("{SETTINGS_FILE}={value} ({source}) cannot be read: {error}; {ACCEPTED}");
                Err(Error::new(ErrorKind::Invalid, message).with_source(error))
            }
        }
    }

    /// The profile that the argument, else the environment, else the file names.
    fn profile(&self, keys: &toml::Table, file: Option<&Path>) -> Result<Option<&'static Profile>> {
        let in_file = || {
            let key = keys.get(PROFILE)?;
            Some((key, Source::File(file?.to_owned())))
        };
        let (value, source) = match (self.chosen(PROFILE, PROFILE_VARIABLE), in_file()) {
            (Some(chosen), _) => chosen,
            (None, Some((key, source))) => (from_toml(PROFILE, key, &source, &profiles_accepted())?, source),
            (None, None) => return Ok(None),
        };
        if value.clears() {
            return Ok(None);
        }
        let Value::Text(name) = &value else {
            return Err(refused(PROFILE, &value, &source, &profiles_accepted()));
        };
        let profile = PROFILES.iter().find(|profile| profile.name == name.trim());
        profile.map(Some).ok_or_else(|| {
            let guess = table::closest(name, PROFILES.iter().map(|profile| profile.name));
            let hint = guess
                .map(|guess| format!("did you mean {guess:?}? "))
                .unwrap_or_default();
            refused(
                PROFILE,
                &value,
                &source,
                &format!("{hint}{}", profiles_accepted()),
            )
        })
    }

    fn apply_environment(&self, loaded: &mut Loaded) -> Result<()> {
        for older in OLDER_NAMES {
            let (Some(text), Some(row)) = (self.environment.get(older.variable), table::row(older.setting))
            else {
                continue;
            };
            // Meant for another program perhaps: not even its errors matter when the own name is set.
            if self.environment.contains_key(&variable(row.name)) {
                continue;
            }
            let read = Value::Text(format!("{text}{}", older.unit));
            let accepted = older.accepted.unwrap_or(row.accepted);
            let source = Source::Environment(older.variable.to_owned());
            loaded.set(row, &Value::from(text.as_str()), &read, accepted, source)?;
        }
        for (name, text) in &self.environment {
            let Some(short) = name.strip_prefix(PREFIX) else {
                continue;
            };
            if [PROFILE_VARIABLE, FILE_VARIABLE, DEMO_VARIABLE].contains(&name.as_str()) {
                continue;
            }
            let value = Value::from(text.as_str());
            let source = Source::Environment(name.clone());
            let Some(row) = TABLE.iter().find(|row| variable(row.name) == *name) else {
                let known = TABLE.iter().map(|row| row.name).chain([PROFILE, "settings"]);
                let guess = table::closest(short, known).map(variable);
                return Err(unknown(
                    &short.to_lowercase(),
                    &value.to_string(),
                    &source,
                    guess.as_deref(),
                ));
            };
            loaded.set_plain(row, &value, source)?;
        }
        Ok(())
    }

    fn apply_arguments(&self, loaded: &mut Loaded) -> Result<()> {
        for (name, value) in &self.arguments {
            if name == PROFILE || name == SETTINGS_FILE {
                continue;
            }
            let Some(row) = table::row(name) else {
                let known = TABLE.iter().map(|row| row.name).chain([PROFILE, SETTINGS_FILE]);
                let guess = table::closest(name, known);
                return Err(unknown(name, &value.to_string(), &Source::Argument, guess));
            };
            loaded.set_plain(row, value, Source::Argument)?;
        }
        Ok(())
    }
}

impl Settings {
    /// The settings in force for `arguments`, with the real environment and the real files.
    ///
    /// # Errors
    /// As [`Layers::load`]; also for a variable of duckward's whose value is not UTF-8.
    pub fn load(arguments: BTreeMap<String, Value>) -> Result<Loaded> {
        let layers = Layers {
            arguments,
            environment: real_environment()?,
        };
        layers.load(|path| std::fs::read_to_string(path))
    }
}

/// The variables of this process that duckward looks at.
fn real_environment() -> Result<BTreeMap<String, String>> {
    let ours =
        |name: &str| name.starts_with(PREFIX) || OLDER_NAMES.iter().any(|older| older.variable == name);
    // Not `vars`, which panics when any variable of the process is not UTF-8.
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| ours(name))
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(value) => {
                let source = Source::Environment(name.clone());
                let value = Value::Text(value.to_string_lossy().into_owned());
                let key = name.trim_start_matches(PREFIX).to_lowercase();
                Err(refused(&key, &value, &source, "give a text in UTF-8"))
            }
        })
        .collect()
}

fn apply_profile(loaded: &mut Loaded, profile: &'static Profile) -> Result<()> {
    for &(name, text) in profile.settings {
        let value = Value::from(text);
        let source = Source::Profile(profile.name);
        let Some(row) = table::row(name) else {
            return Err(unknown(name, &value.to_string(), &source, None));
        };
        loaded.set_plain(row, &value, source)?;
    }
    Ok(())
}

/// The keys of the settings file: those under `[duckward]`, or all of them if there is no such table.
fn parse(path: &Path, text: &str) -> Result<toml::Table> {
    let mut keys: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error
            .span()
            .and_then(|span| text.get(..span.start))
            .unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let message = format!(
            "the settings file {} is not TOML: {} in line {line}; correct it, or give \
             {SETTINGS_FILE}=\"none\"",
            path.display(),
            error.message(),
        );
        Error::new(ErrorKind::Invalid, message).with_source(error)
    })?;
    match keys.remove("duckward") {
        None => Ok(keys),
        Some(toml::Value::Table(own)) => {
            // Other tables belong to other programs, but a value beside the table was meant for us and lost
            // its way.
            match keys.into_iter().find(|(_, value)| !value.is_table()) {
                None => Ok(own),
                Some((key, value)) => {
                    let value = shown(&value);
                    let message = format!(
                        "{key}={value} (file {}) is outside of [duckward] and would not count: move it there",
                        path.display(),
                    );
                    Err(Error::new(ErrorKind::Invalid, message))
                }
            }
        }
        Some(other) => {
            let source = Source::File(path.to_owned());
            Err(unknown("duckward", &shown(&other), &source, Some("[duckward]")))
        }
    }
}

fn apply_file(loaded: &mut Loaded, path: &Path, keys: &toml::Table) -> Result<()> {
    let source = Source::File(path.to_owned());
    for (key, value) in keys.iter().filter(|(key, _)| *key != PROFILE) {
        let Some(row) = table::row(key) else {
            let known = TABLE.iter().map(|row| row.name).chain([PROFILE]);
            return Err(unknown(key, &shown(value), &source, table::closest(key, known)));
        };
        let value = from_toml(key, value, &source, row.accepted)?;
        loaded.set_plain(row, &value, source.clone())?;
    }
    Ok(())
}

fn scalar(value: &toml::Value) -> Option<Value> {
    match value {
        toml::Value::String(text) => Some(Value::Text(text.clone())),
        toml::Value::Integer(number) => Some(Value::Int(*number)),
        toml::Value::Float(number) => Some(Value::Float(*number)),
        toml::Value::Boolean(value) => Some(Value::Bool(*value)),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

fn from_toml(key: &str, value: &toml::Value, source: &Source, accepted: &str) -> Result<Value> {
    scalar(value).ok_or_else(|| refused(key, &shown(value), source, accepted))
}

/// The value as errors show it; of what can never be a value only its type.
fn shown(value: &toml::Value) -> String {
    scalar(value).map_or_else(|| format!("({})", value.type_str()), |value| value.to_string())
}

/// The environment variable of the setting `name`.
fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase())
}

fn profiles_accepted() -> String {
    let names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
    format!("give one of {}, or \"none\"", names.join(", "))
}

fn refused(name: &str, value: &impl fmt::Display, source: &Source, accepted: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!("{name}={value} ({source}) is not accepted: {accepted}"),
    )
}

fn unknown(name: &str, value: &str, source: &Source, guess: Option<&str>) -> Error {
    let advice = guess.map_or_else(
        || {
            let names: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
            format!("remove it, or give one of {}", names.join(", "))
        },
        |guess| format!("did you mean `{guess}`?"),
    );
    Error::new(
        ErrorKind::Invalid,
        format!("{name}={value} ({source}) is not a setting: {advice}"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::table::tests::SAMPLES;
    use crate::units::{Bytes, Memory};

    /// The files of a machine that has only these.
    fn files(files: &[(&'static str, &str)]) -> impl Fn(&Path) -> io::Result<String> + use<> {
        let files: BTreeMap<&Path, String> = files
            .iter()
            .map(|(path, text)| (Path::new(*path), (*text).to_owned()))
            .collect();
        move |path| {
            files
                .get(path)
                .cloned()
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        }
    }

    fn no_files(_: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn variables(pairs: &[(&str, &str)]) -> Layers {
        Layers::new().environment(
            pairs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
        )
    }

    /// The message of the error, which is of the kind that every error of a setting is.
    fn message(loaded: Result<Loaded>) -> String {
        let error = loaded.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.message().to_owned()
    }

    fn assert_says(message: &str, parts: &[&str]) {
        for part in parts {
            assert!(message.contains(part), "{part:?} is missing in: {message}");
        }
    }

    #[test]
    fn without_any_layer_the_defaults_hold_and_every_setting_has_that_source() {
        let loaded = Layers::new().load(no_files).unwrap();
        assert_eq!(loaded, Loaded::new());
        assert_eq!(loaded.settings, Settings::default());
        assert_eq!(loaded.sources.len(), TABLE.len());
        assert!(loaded.sources.values().all(|source| *source == Source::Default));
    }

    #[test]
    fn for_every_setting_each_layer_beats_the_one_below() {
        for (row, (name, sample)) in TABLE.iter().zip(SAMPLES) {
            let default = row.print(&Settings::default());
            let file = files(&[("duckward.toml", &format!("{name} = \"{sample}\""))]);
            let check = |layers: &Layers, value: &str, source: Source| {
                let loaded = layers.load(&file).unwrap();
                assert_eq!(
                    (row.print(&loaded.settings).as_str(), &loaded.sources[name]),
                    (value, &source)
                );
                let others = loaded.sources.iter().filter(|(other, _)| **other != name);
                assert!(
                    others.into_iter().all(|(_, source)| *source == Source::Default),
                    "{name}"
                );
            };
            check(&Layers::new(), sample, Source::File("duckward.toml".into()));
            let layers = variables(&[(&variable(name), &default)]);
            check(&layers, &default, Source::Environment(variable(name)));
            check(&layers.argument(name, sample), sample, Source::Argument);
        }
    }

    #[test]
    fn every_profile_loads_beats_the_defaults_and_is_beaten_by_the_file() {
        for profile in &PROFILES {
            let layers = Layers::new().argument("profile", profile.name);
            let loaded = layers.load(no_files).unwrap();
            loaded.settings.check().unwrap();
            assert_eq!(loaded.profile, Some(profile.name));
            for (name, row) in TABLE.iter().map(|row| (row.name, row)) {
                let set = profile.settings.iter().find(|(set, _)| *set == name);
                let source = set.map_or(Source::Default, |_| Source::Profile(profile.name));
                assert_eq!(loaded.sources[name], source);
                if let Some((_, text)) = set {
                    assert_eq!(row.print(&loaded.settings), *text, "{}: {name}", profile.name);
                    assert_ne!(
                        *text,
                        row.print(&Settings::default()),
                        "{}: {name} is the default",
                        profile.name
                    );
                }
            }
            let (name, text) = profile.settings[0];
            let file = files(&[("duckward.toml", &format!("{name} = \"{text}\""))]);
            assert_eq!(
                layers.load(file).unwrap().sources[name],
                Source::File("duckward.toml".into())
            );
        }
    }

    #[test]
    fn the_profile_is_named_by_argument_over_environment_over_file() {
        let file = files(&[("duckward.toml", "profile = \"testing\"")]);
        let environment = variables(&[("DUCKWARD_PROFILE", "notebook")]);
        let argument = environment.clone().argument("profile", "production");
        assert_eq!(Layers::new().load(&file).unwrap().profile, Some("testing"));
        assert_eq!(environment.load(&file).unwrap().profile, Some("notebook"));
        assert_eq!(argument.load(&file).unwrap().profile, Some("production"));
        assert_eq!(
            environment
                .argument("profile", Value::None)
                .load(&file)
                .unwrap()
                .profile,
            None
        );
    }

    #[test]
    fn an_unknown_profile_is_refused_with_the_list_of_profiles_whoever_named_it() {
        let file = files(&[("duckward.toml", "profile = \"prod\"")]);
        let named = [
            (
                Layers::new().argument("profile", "prod").load(no_files),
                "(argument)",
            ),
            (
                variables(&[("DUCKWARD_PROFILE", "prod")]).load(no_files),
                "DUCKWARD_PROFILE",
            ),
            (Layers::new().load(file), "duckward.toml"),
        ];
        for (loaded, source) in named {
            let message = message(loaded);
            assert_says(
                &message,
                &["profile=\"prod\"", source, "did you mean \"production\"?"],
            );
            assert!(
                PROFILES.iter().all(|profile| message.contains(profile.name)),
                "{message}"
            );
        }
        assert_says(
            &message(Layers::new().argument("profile", 3).load(no_files)),
            &["profile=3 (argument)"],
        );
        let list = files(&[("duckward.toml", "profile = [1]")]);
        assert_says(
            &message(Layers::new().load(list)),
            &["profile=(array)", "notebook"],
        );
    }

    #[test]
    fn the_file_is_named_by_argument_over_environment_over_the_working_directory() {
        let file = files(&[
            ("duckward.toml", "retries = 10"),
            ("/etc/a.toml", "retries = 11"),
            ("b.TOML", "[duckward]\nretries = 12\n[other]\nx = 1"),
        ]);
        let environment = variables(&[("DUCKWARD_SETTINGS", "/etc/a.toml")]);
        let argument = environment.clone().argument("settings_file", "b.TOML");
        for (layers, path, retries) in [
            (Layers::new(), "duckward.toml", 10),
            (environment.clone(), "/etc/a.toml", 11),
            (argument, "b.TOML", 12),
        ] {
            let loaded = layers.load(&file).unwrap();
            assert_eq!(
                (loaded.file, loaded.settings.retries),
                (Some(path.into()), retries)
            );
            assert_eq!(loaded.sources["retries"].to_string(), format!("file {path}"));
        }
        let none = environment.argument("settings_file", "none").load(file).unwrap();
        assert_eq!(
            (none.file, none.settings.retries),
            (None, Settings::default().retries)
        );
    }

    #[test]
    fn a_named_file_that_cannot_be_read_is_an_error_and_one_that_is_not_toml_is_not_even_opened() {
        let missing = message(Layers::new().argument("settings_file", "no.toml").load(no_files));
        assert_says(
            &missing,
            &[
                "settings_file=\"no.toml\" (argument) cannot be read",
                "not found",
                "none",
            ],
        );
        let untouched = |path: &Path| -> io::Result<String> { panic!("{} was opened", path.display()) };
        let database = message(variables(&[("DUCKWARD_SETTINGS", "live.duckdb")]).load(untouched));
        assert_says(
            &database,
            &["settings_file=\"live.duckdb\"", "DUCKWARD_SETTINGS", ".toml"],
        );
        let number = message(Layers::new().argument("settings_file", 1).load(untouched));
        assert_says(&number, &["settings_file=1 (argument)"]);
        let locked = message(Layers::new().load(|_| Err(io::ErrorKind::PermissionDenied.into())));
        assert_says(
            &locked,
            &[
                "\"duckward.toml\" (found in the working directory)",
                "permission denied",
            ],
        );
    }

    #[test]
    fn a_file_may_hold_every_type_and_no_key_of_it_is_ignored() {
        let text = "memory = 0.5\nrow_cap = 7\nelastic = false\nwait = \"5s\"\nlog = \"none\"";
        let settings = Layers::new()
            .load(files(&[("duckward.toml", text)]))
            .unwrap()
            .settings;
        assert_eq!((settings.memory, settings.row_cap), (Memory::Share(0.5), Some(7)));
        assert!(!settings.elastic);

        for (text, parts) in [
            (
                "memroy = \"1GB\"",
                vec!["memroy=\"1GB\"", "did you mean `memory`?"],
            ),
            ("zebra = 1", vec!["zebra=1", "is not a setting", "temp_directory"]),
            ("Memory = 1", vec!["Memory=1", "did you mean `memory`?"]),
            (
                "settings_file = \"x.toml\"",
                vec!["settings_file=\"x.toml\"", "is not a setting"],
            ),
            (
                "memory = \"12 parsecs\"",
                vec!["memory=\"12 parsecs\"", "\"512MB\""],
            ),
            ("memory = [1]", vec!["memory=(array)", "\"512MB\""]),
            ("wait = 2020-01-01", vec!["wait=(datetime)", "\"5min\""]),
            ("[levels]\ncaution = 1", vec!["levels=(table)", "caution"]),
            ("duckward = 1", vec!["duckward=1", "[duckward]"]),
            (
                "wait = 1\n[duckward]\nmemory = 1",
                vec!["wait=1", "move it there"],
            ),
            (
                "[duckward]\nmemori = 1",
                vec!["memori=1", "did you mean `memory`?"],
            ),
            ("memory = 1\nwait = = 2", vec!["is not TOML", "in line 2"]),
            ("memory = 1\nmemory = 2", vec!["is not TOML", "in line 2"]),
        ] {
            let message = message(Layers::new().load(files(&[("duckward.toml", text)])));
            assert_says(&message, &parts);
            assert_says(&message, &["duckward.toml"]);
        }
    }

    #[test]
    fn older_names_are_read_and_the_own_names_win() {
        let older = [
            ("DUCKDB_MEMORY_LIMIT", "2GiB"),
            ("DUCKDB_MAX_CONNECTIONS", "5"),
            ("DUCKDB_MONITORING_INTERVAL", "250"),
        ];
        let loaded = variables(&older).load(no_files).unwrap();
        assert_eq!(loaded.settings.memory, Memory::Size(Bytes(2 << 30)));
        assert_eq!(loaded.settings.max_concurrent, 5);
        assert_eq!(loaded.settings.interval_max.as_millis(), 250);
        assert_eq!(
            loaded.sources["memory"],
            Source::Environment("DUCKDB_MEMORY_LIMIT".to_owned())
        );

        let own = [
            ("DUCKWARD_MEMORY", "1GiB"),
            ("DUCKDB_MEMORY_LIMIT", "nonsense for us"),
        ];
        let loaded = variables(&own).load(no_files).unwrap();
        assert_eq!(loaded.settings.memory, Memory::Size(Bytes(1 << 30)));
        assert_eq!(
            loaded.sources["memory"],
            Source::Environment("DUCKWARD_MEMORY".to_owned())
        );
    }

    #[test]
    fn a_bad_value_in_an_older_name_is_told_in_its_own_words() {
        let message = message(variables(&[("DUCKDB_MONITORING_INTERVAL", "5s")]).load(no_files));
        assert_says(
            &message,
            &[
                "interval_max=\"5s\"",
                "DUCKDB_MONITORING_INTERVAL",
                "milliseconds",
            ],
        );
    }

    #[test]
    fn an_unknown_variable_of_ours_is_refused_and_those_of_others_are_not_looked_at() {
        for (name, guess) in [
            ("DUCKWARD_MEMROY", "did you mean `DUCKWARD_MEMORY`?"),
            ("DUCKWARD_memory", "did you mean `DUCKWARD_MEMORY`?"),
            ("DUCKWARD_SETTINGS_FILE", "did you mean `DUCKWARD_SETTINGS`?"),
            ("DUCKWARD_PROFIL", "did you mean `DUCKWARD_PROFILE`?"),
            ("DUCKWARD_", "is not a setting"),
        ] {
            assert_says(
                &message(variables(&[(name, "17")]).load(no_files)),
                &[name, "=\"17\"", guess],
            );
        }
        let others = [
            ("DUCKDB_WEB_DASHBOARD_PORT", "1"),
            ("PATH", ""),
            ("DUCKWARDEN", "x"),
            ("memory", "?"),
        ];
        assert_eq!(variables(&others).load(no_files).unwrap(), Loaded::new());
    }

    #[test]
    fn an_unknown_argument_is_refused_with_the_closest_name() {
        let message = message(Layers::new().argument("timeout", 3).load(no_files));
        assert_says(
            &message,
            &["timeout=3 (argument)", "did you mean `query_timeout`?"],
        );
    }

    #[test]
    fn for_every_setting_a_bad_value_is_told_with_key_value_and_source() {
        for row in &TABLE {
            // No setting accepts it: as a text it holds a NUL, which not even a path may.
            let bad = "\0?";
            let environment = variables(&[(&variable(row.name), bad)]).load(no_files);
            let file = Layers::new().load(files(&[(
                "duckward.toml",
                &format!("{} = \"\\u0000?\"", row.name),
            )]));
            let argument = Layers::new().argument(row.name, bad).load(no_files);
            let sources = [
                variable(row.name),
                "file duckward.toml".to_owned(),
                "(argument)".to_owned(),
            ];
            for (loaded, source) in [environment, file, argument].into_iter().zip(sources) {
                assert_says(
                    &message(loaded),
                    &[&format!("{}={bad:?}", row.name), &source, row.accepted],
                );
            }
        }
    }

    #[test]
    fn a_contradiction_names_both_values_and_both_sources() {
        let layers = variables(&[("DUCKWARD_CAUTION", "0.85")]).argument("profile", "container-small");
        let message = message(layers.load(no_files));
        let parts = [
            "warning=0.7 (profile container-small)",
            "caution=0.85 (environment variable DUCKWARD_CAUTION)",
        ];
        assert_says(&message, &parts);
        assert_says(&message, &["the levels must rise"]);
    }

    #[test]
    fn levels_may_be_moved_together_past_each_others_defaults() {
        let layers = [
            ("caution", 0.1),
            ("warning", 0.2),
            ("critical", 0.3),
            ("emergency", 0.4),
        ]
        .into_iter()
        .fold(Layers::new(), |layers, (name, share)| {
            layers.argument(name, share)
        });
        assert_eq!(
            layers.load(no_files).unwrap().settings.levels.to_vec(),
            [0.1, 0.2, 0.3, 0.4]
        );
    }

    #[test]
    fn the_real_environment_is_gathered_without_what_is_not_ours() {
        let ours = real_environment().unwrap();
        assert!(ours.keys().all(|name| name.starts_with("DUCK")), "{ours:?}");
    }

    proptest! {
        #[test]
        fn no_text_panics_in_any_layer(text in "\\PC{0,40}", row in 0..TABLE.len()) {
            let name = TABLE[row].name;
            let any_name = format!("{PREFIX}{text}");
            let _ = variables(&[(&variable(name), &text), (&any_name, &text)]).load(no_files);
            let older: Vec<(&str, &str)> = OLDER_NAMES.iter().map(|older| (older.variable, &*text)).collect();
            let _ = variables(&older).load(no_files);
            let _ = variables(&[(PROFILE_VARIABLE, &text), (FILE_VARIABLE, &text)]).load(no_files);
            let _ = Layers::new().argument(&*text, &*text).load(no_files);
            let _ = Layers::new().load(files(&[("duckward.toml", &text)]));
            let _ = Layers::new().load(files(&[("duckward.toml", &format!("{name} = {text}"))]));
        }

        #[test]
        fn what_loads_passes_the_check(
            shares in proptest::array::uniform4(0.01f64..1.0),
            hysteresis in 0.0f64..0.5,
            intervals in proptest::array::uniform2(0.001f64..5.0),
        ) {
            let levels = ["caution", "warning", "critical", "emergency"];
            let names = levels.into_iter().chain(["hysteresis", "interval_min", "interval_max"]);
            let values = shares.into_iter().chain([hysteresis]).chain(intervals);
            let layers = names.zip(values).fold(Layers::new(), |l, (name, value)| l.argument(name, value));
            if let Ok(loaded) = layers.load(no_files) {
                prop_assert!(loaded.settings.check().is_ok());
                prop_assert!(shares.is_sorted() && hysteresis < shares[0] && intervals.is_sorted());
            }
        }
    }
}
