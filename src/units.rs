//! Sizes, shares and durations as people write them: parse and print.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};

/// A number of bytes. Reads "512MB" (10⁶), "512MiB" (2²⁰), "1.5 GB", "1000000"; prints as DuckDB does ("488.2 MiB").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

const SIZE_FORMS: &str = "give a size above zero such as \"512MB\", \"2GiB\" or a whole number of bytes";
const MEMORY_FORMS: &str = "give a size such as \"512MB\" or \"2GiB\", a whole number of bytes, a share above 0 and up to 1 such as 0.6 or \"60%\", or \"auto\"";
const DURATION_FORMS: &str =
    "give seconds such as 30 or 0.5, or a text such as \"250ms\", \"30s\", \"5min\" or \"2h\"";

impl Bytes {
    /// `n` mebibytes.
    pub const fn mib(n: u64) -> Self {
        Bytes(n << 20)
    }

    /// The count itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The share `share` of this size.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a float keeps 53 bits; a byte in nine petabytes does not matter, and the cast saturates"
    )]
    pub fn times(self, share: f64) -> Self {
        Bytes((self.0 as f64 * share) as u64)
    }

    /// The difference, or zero.
    pub const fn minus(self, other: Bytes) -> Self {
        Bytes(self.0.saturating_sub(other.0))
    }

    /// The sum, or the largest size.
    pub const fn plus(self, other: Bytes) -> Self {
        Bytes(self.0.saturating_add(other.0))
    }

    /// This size as a share of `whole`; 0 of 0 is 0.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
    pub fn share_of(self, whole: Bytes) -> f64 {
        if whole.0 == 0 {
            if self.0 == 0 { 0.0 } else { f64::INFINITY }
        } else {
            self.0 as f64 / whole.0 as f64
        }
    }

    /// The smallest size that prints as `text`, which [`Bytes`] or DuckDB printed; none for another text.
    pub fn from_printed(text: &str) -> Option<Self> {
        let (number, unit) = text.split_once(' ')?;
        let shift = match unit {
            "bytes" => return number.parse().ok().map(Bytes),
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            "PiB" => 50,
            _ => return None,
        };
        let (whole, tenths) = number.split_once('.')?;
        let (whole, tenths): (u64, u64) = (
            whole.parse().ok()?,
            tenths.parse().ok().filter(|tenths| *tenths < 10)?,
        );
        let whole = whole.checked_mul(1 << shift)?;
        whole
            .checked_add((tenths * 1024).div_ceil(10) << (shift - 10))
            .map(Bytes)
    }

    /// Mebibytes, for people.
    #[expect(clippy::cast_precision_loss, reason = "for display")]
    pub fn as_mib(self) -> f64 {
        self.0 as f64 / (1u64 << 20) as f64
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 5] = [("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            let whole = self.0 >> shift;
            if whole > 0 {
                // As DuckDB does: the rest in whole smaller units, then its tenth.
                let tenths = ((self.0 - (whole << shift)) >> (shift - 10)) * 10 / 1024;
                return write!(f, "{whole}.{tenths} {unit}");
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

impl FromStr for Bytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse_size(text).ok_or_else(|| Error::invalid("size", format_args!("{text:?}"), SIZE_FORMS))
    }
}

/// Splits "1.5 GB" into its number and its unit; no sign, no exponent.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text.get(..end)?.parse().ok()?;
    Some((number, text.get(end..)?.trim()))
}

fn parse_size(text: &str) -> Option<Bytes> {
    if let Ok(bytes) = text.trim().parse::<u64>() {
        return (bytes > 0).then_some(Bytes(bytes));
    }
    let (number, unit) = split_number(text)?;
    let scale: f64 = match unit.to_ascii_lowercase().as_str() {
        "b" | "byte" | "bytes" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number * scale;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked just before"
    )]
    (1.0..9.0e18)
        .contains(&bytes)
        .then(|| Bytes(bytes.round() as u64))
}

/// How much memory: what the argument `memory` accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Memory {
    /// What the machine, the cgroups and the rlimits leave, less the reserve.
    #[default]
    Auto,
    /// A share of that, above 0 and up to 1.
    Share(f64),
    /// A fixed size.
    Size(Bytes),
}

impl Memory {
    /// Reads a number as Python and TOML write it: up to 1 with a fraction is a share, a whole number is bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for zero, negative, not finite, or a fraction above 1.
    pub fn from_number(number: f64) -> Result<Self> {
        let refuse = || Error::invalid("memory", number, MEMORY_FORMS);
        if !number.is_finite() || number <= 0.0 {
            return Err(refuse());
        }
        if number <= 1.0 {
            return Ok(Memory::Share(number));
        }
        if number.fract() != 0.0 || number > 9.0e18 {
            return Err(refuse());
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked just before"
        )]
        Ok(Memory::Size(Bytes(number as u64)))
    }
}

impl FromStr for Memory {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::invalid("memory", format_args!("{text:?}"), MEMORY_FORMS);
        let trimmed = text.trim();
        if trimmed.eq_ignore_ascii_case("auto") {
            return Ok(Memory::Auto);
        }
        if let Some(percent) = trimmed.strip_suffix('%') {
            let share = percent.trim().parse::<f64>().map_err(|_| refuse())? / 100.0;
            return if share > 0.0 && share <= 1.0 {
                Ok(Memory::Share(share))
            } else {
                Err(refuse())
            };
        }
        if trimmed.contains('.')
            && let Ok(number) = trimmed.parse::<f64>()
        {
            return if number > 0.0 && number <= 1.0 {
                Ok(Memory::Share(number))
            } else {
                Err(refuse())
            };
        }
        parse_size(trimmed).map(Memory::Size).ok_or_else(refuse)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Memory::Auto => f.write_str("auto"),
            Memory::Share(share) => write!(f, "{}%", share * 100.0),
            Memory::Size(bytes) => bytes.fmt(f),
        }
    }
}

/// Reads a duration: "250ms", "30s", "5min", "2h", or seconds as a bare number.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid), naming `name`, the value and the accepted forms.
pub fn parse_duration(name: &str, text: &str) -> Result<Duration> {
    let refuse = || Error::invalid(name, format_args!("{text:?}"), DURATION_FORMS);
    let (number, unit) = split_number(text).ok_or_else(refuse)?;
    let scale = match unit.to_ascii_lowercase().as_str() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" | "sec" | "seconds" => 1.0,
        "m" | "min" | "minutes" => 60.0,
        "h" | "hours" => 3600.0,
        _ => return Err(refuse()),
    };
    seconds(name, number * scale)
}

/// Reads a duration in seconds.
///
/// # Errors
/// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for negative, not finite, or more than ten years.
pub fn seconds(name: &str, seconds: f64) -> Result<Duration> {
    const LONGEST: f64 = 10.0 * 366.0 * 86_400.0;
    if (0.0..=LONGEST).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(Error::invalid(name, seconds, DURATION_FORMS))
    }
}

/// As much of `text` as a line has room for, control characters spelled out: data must not drive the terminal.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let mut short = String::new();
    for (count, c) in text.chars().enumerate() {
        match c {
            _ if count == most => {
                short.push('…');
                break;
            }
            c if c.is_control() => short.extend(c.escape_default()),
            c => short.push(c),
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_read_as_duckdb_reads_them() {
        for (text, bytes) in [
            ("512MB", 512_000_000),
            ("512MiB", 512 << 20),
            ("1.5 gb", 1_500_000_000),
            ("2g", 2_000_000_000),
            ("100", 100),
            ("7 bytes", 7),
            ("18.8 GiB", 20_186_346_291),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_value_and_the_accepted_forms() {
        for text in [
            "12 parsecs",
            "-1",
            "0",
            "2.5",
            "",
            "MB",
            "nan",
            "inf",
            "1e9",
            "101%",
            "0%",
            "-5%",
            "1..5GB",
            "0.0",
            "99999999999TB",
        ] {
            let error = text.parse::<Memory>().unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{text}");
            assert!(
                error.message().contains(text) && error.message().contains("\"auto\""),
                "{error}"
            );
        }
        for number in [0.0, -1.0, 2.5, f64::NAN, f64::INFINITY] {
            assert!(Memory::from_number(number).is_err(), "{number}");
        }
    }

    #[test]
    fn memory_reads_shares_sizes_and_auto() {
        assert_eq!("auto".parse::<Memory>().unwrap(), Memory::Auto);
        assert_eq!("60%".parse::<Memory>().unwrap(), Memory::Share(0.6));
        assert_eq!("0.5".parse::<Memory>().unwrap(), Memory::Share(0.5));
        assert_eq!(Memory::from_number(1.0).unwrap(), Memory::Share(1.0));
        assert_eq!(Memory::from_number(4096.0).unwrap(), Memory::Size(Bytes(4096)));
    }

    #[test]
    fn durations_read_with_and_without_a_unit() {
        assert_eq!(
            parse_duration("wait", "250ms").unwrap(),
            Duration::from_millis(250)
        );
        assert_eq!(parse_duration("wait", "5min").unwrap(), Duration::from_secs(300));
        assert_eq!(parse_duration("wait", "0.5").unwrap(), Duration::from_millis(500));
        let error = parse_duration("wait", "soon").unwrap_err();
        assert!(
            error.message().starts_with("wait=\"soon\" is not accepted"),
            "{error}"
        );
        assert!(seconds("wait", -1.0).is_err());
    }

    proptest! {
        #[test]
        fn a_printed_size_reads_back_to_the_smallest_that_prints_the_same(bytes in 1u64..(1 << 50)) {
            let printed = Bytes(bytes).to_string();
            let read = Bytes::from_printed(&printed).unwrap();
            prop_assert!(read <= Bytes(bytes));
            prop_assert_eq!(read.to_string(), printed);
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = text.parse::<Memory>();
            let _ = text.parse::<Bytes>();
            let _ = parse_duration("wait", &text);
        }
    }
}
