//! What queries needed, by fingerprint, so that the next run of the same shape starts on the right rung. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ladder::Rung;
use crate::engine::text::{Token, tokens};
use crate::units::Bytes;

/// The version of the form that [`History::write`] gives; another way to fingerprint is another version.
const VERSION: u64 = 1;
/// FNV-1a, 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
/// What stands for a literal, and what ends a token: bytes that no text has.
const LITERAL: u8 = 0xfe;
const END: u8 = 0xff;

/// A query's shape: its text without literals, comments and spacing. The same in every process and on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of `sql`. Two texts that differ in numbers, strings, comments, spacing or letter case share one.
    pub fn of(sql: &str) -> Self {
        let mut hash = FNV_OFFSET;
        let mut take = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        for (token, range) in tokens(sql) {
            let text = sql[range].bytes();
            match token {
                Token::Gap => continue,
                Token::Literal => take(LITERAL),
                Token::Word => text.for_each(|byte| take(byte.to_ascii_lowercase())),
                Token::Exact => text.for_each(&mut take),
            }
            take(END);
        }
        Fingerprint(hash)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        format!("{:016x}", fingerprint.0)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let read = u64::from_str_radix(&text, 16).ok().filter(|_| is_hex);
        read.map(Fingerprint)
            .ok_or_else(|| format!("{text:?} is not a fingerprint"))
    }
}

/// What one shape of query needed the last time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Need {
    /// How much memory grew above what counted before it.
    pub growth: Bytes,
    /// Temporary storage.
    pub spilled: Bytes,
    /// Wall time of the attempt.
    pub took: Duration,
    /// The rung it was answered on.
    pub rung: Rung,
    /// The budget then; what was learnt under a smaller one says nothing of a larger.
    pub budget: Bytes,
}

/// A moment in the life of a [`History`]: how much it had learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

/// A bounded memory of needs; the shape seen longest ago is forgotten first.
#[derive(Clone, Debug)]
pub struct History {
    capacity: usize,
    needs: BTreeMap<Fingerprint, (Place, Need)>,
    /// When each shape was last seen.
    order: BTreeMap<Place, Fingerprint>,
    next: Place,
}

impl History {
    /// Remembers at most `capacity` shapes.
    pub fn new(capacity: usize) -> Self {
        History {
            capacity,
            needs: BTreeMap::new(),
            order: BTreeMap::new(),
            next: Place::default(),
        }
    }

    /// Takes note of an answered attempt.
    pub fn learn(&mut self, fingerprint: Fingerprint, need: Need) {
        if let Some((seen, _)) = self.needs.insert(fingerprint, (self.next, need)) {
            self.order.remove(&seen);
        }
        self.order.insert(self.next, fingerprint);
        self.next.0 += 1;
        if self.order.len() > self.capacity
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.needs.remove(&oldest);
        }
    }

    /// The place that what is learnt next will have.
    pub fn place(&self) -> Place {
        self.next
    }

    /// What was learnt at `place` and later, and not forgotten, in order.
    pub fn since(&self, place: Place) -> Vec<(Fingerprint, Need)> {
        self.order
            .range(place..)
            .filter_map(|(_, fingerprint)| Some((*fingerprint, self.need(*fingerprint)?)))
            .collect()
    }

    /// Learns all of `later`: of a shape that both know, the later word holds.
    pub fn merge(&mut self, later: impl IntoIterator<Item = (Fingerprint, Need)>) {
        for (fingerprint, need) in later {
            self.learn(fingerprint, need);
        }
    }

    /// What this shape needed.
    pub fn need(&self, fingerprint: Fingerprint) -> Option<Need> {
        self.needs.get(&fingerprint).map(|(_, need)| *need)
    }

    /// The rung to start on: the one that answered under a budget not smaller than this one's, else as is.
    pub fn start(&self, fingerprint: Fingerprint, budget: Bytes) -> Rung {
        self.need(fingerprint)
            .filter(|need| need.budget >= budget)
            .map_or(Rung::AsIs, |need| need.rung)
    }
}

/// Why a text is not read as a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// A newer version wrote it.
    Newer(u64),
    /// It is not the form that [`History::write`] gives.
    Broken(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Newer(version) => {
                write!(f, "it has version {version}, and this duckward reads {VERSION}")
            }
            Unreadable::Broken(reason) => write!(f, "it is not a history: {reason}"),
        }
    }
}

/// The written form, whatever its version.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

/// The written form.
#[derive(Serialize, Deserialize)]
struct Written {
    version: u64,
    /// The shape seen longest ago comes first.
    queries: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    fingerprint: Fingerprint,
    rung: Rung,
    growth: Bytes,
    spilled: Bytes,
    /// Seconds.
    took: f64,
    budget: Bytes,
}

impl History {
    /// As JSON: fingerprints and numbers, nothing of the texts.
    ///
    /// # Errors
    /// None of its own; what the serializer says is passed on.
    pub fn write(&self) -> serde_json::Result<String> {
        let queries = self.since(Place::default()).into_iter();
        let written = Written {
            version: VERSION,
            queries: queries
                .map(|(fingerprint, need)| Line {
                    fingerprint,
                    rung: need.rung,
                    growth: need.growth,
                    spilled: need.spilled,
                    took: need.took.as_secs_f64(),
                    budget: need.budget,
                })
                .collect(),
        };
        serde_json::to_string_pretty(&written).map(|text| text + "\n")
    }

    /// Reads what [`History::write`] gave; of more than `capacity` shapes those that were seen last.
    ///
    /// # Errors
    /// [`Unreadable`], for anything else.
    pub fn read(text: &[u8], capacity: usize) -> Result<Self, Unreadable> {
        let broken = |error: serde_json::Error| Unreadable::Broken(error.to_string());
        let Versioned { version } = serde_json::from_slice(text).map_err(broken)?;
        if version > VERSION {
            return Err(Unreadable::Newer(version));
        }
        let written: Written = serde_json::from_slice(text).map_err(broken)?;
        let mut history = History::new(capacity);
        for line in written.queries {
            let need = Need {
                growth: line.growth,
                spilled: line.spilled,
                took: Duration::try_from_secs_f64(line.took)
                    .map_err(|error| Unreadable::Broken(format!("took={}: {error}", line.took)))?,
                rung: line.rung,
                budget: line.budget,
            };
            history.learn(line.fingerprint, need);
        }
        Ok(history)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn need(rung: Rung, budget: u64) -> Need {
        Need {
            growth: Bytes(1),
            spilled: Bytes(0),
            took: Duration::ZERO,
            rung,
            budget: Bytes(budget),
        }
    }

    #[test]
    fn literals_comments_spacing_and_case_do_not_change_a_fingerprint() {
        let one = Fingerprint::of("select a from t where b = 17 and c = 'it''s' -- note\n");
        let two = Fingerprint::of("SELECT a\nFROM t /* x */ WHERE b=4.5e3 AND c='x''y'");
        assert_eq!(one, two);
        for other in [
            "select a from t where \"B\" = 17 and c = 'x'",
            "select a from u where b = 17 and c = 'x'",
        ] {
            assert_ne!(one, Fingerprint::of(other), "{other}");
        }
    }

    #[test]
    fn a_fingerprint_is_the_same_in_every_process_and_version() {
        for (sql, print) in [
            ("", "cbf29ce484222325"),
            ("select a from t where b = 17", "0f3a42cf80dc8eea"),
            ("SELECT \"B\" FROM d WHERE c = 'x' AND e = ?", "3f77b8ff2484ccbe"),
        ] {
            assert_eq!(String::from(Fingerprint::of(sql)), print, "{sql}");
            assert_eq!(Fingerprint::try_from(print.to_owned()), Ok(Fingerprint::of(sql)));
        }
        for text in [
            "",
            "cbf29ce48422232",
            "+bf29ce484222325",
            "cbf29ce4842223255",
            "gbf29ce484222325",
        ] {
            assert!(Fingerprint::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_shape_seen_longest_ago_is_forgotten_first() {
        let mut history = History::new(2);
        let prints = ["select a", "select b", "select c"].map(Fingerprint::of);
        for print in [prints[1], prints[0], prints[1], prints[2]] {
            history.learn(print, need(Rung::AsIs, 1));
        }
        assert_eq!(history.need(prints[0]), None);
        assert!(history.need(prints[1]).is_some() && history.need(prints[2]).is_some());
    }

    #[test]
    fn a_larger_budget_starts_as_is_again() {
        let mut history = History::new(2);
        let print = Fingerprint::of("select 1");
        history.learn(print, need(Rung::Degraded, 100));
        assert_eq!(history.start(print, Bytes(100)), Rung::Degraded);
        assert_eq!(history.start(print, Bytes(101)), Rung::AsIs);
    }

    #[test]
    fn what_is_not_a_history_says_why() {
        let read = |text: &str| {
            History::read(text.as_bytes(), 2)
                .err()
                .map(|error| error.to_string())
        };
        let line = r#"{"fingerprint":"00000000000000ff","rung":"as is","growth":1,"spilled":0,"took":0.5,"budget":9}"#;
        let written = |line: &str| format!(r#"{{"version":1,"queries":[{line}]}}"#);
        assert_eq!(read(&written(line)), None);
        for (text, why) in [
            (String::new(), "it is not a history"),
            (written(line)[..60].to_owned(), "it is not a history"),
            ("[]".to_owned(), "it is not a history"),
            (r#"{"version":1}"#.to_owned(), "missing field `queries`"),
            (
                r#"{"version":2,"needs":7}"#.to_owned(),
                "it has version 2, and this duckward reads 1",
            ),
            (written(&line.replace("as is", "flying")), "flying"),
            (written(&line.replace("00ff", "00fg")), "00fg"),
            (written(&line.replace("0.5", "-0.5")), "took=-0.5"),
            (written(&line.replace("0.5", "1e300")), "took="),
            (written(&line.replace("9}", "-9}")), "-9"),
        ] {
            let told = read(&text).unwrap_or_default();
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    fn needs(most: usize) -> impl Strategy<Value = Vec<(Fingerprint, Need)>> {
        let need = (
            0..1u64 << 50,
            0..1u64 << 50,
            0..100_000_000u64,
            0..3usize,
            any::<u64>(),
        );
        let need = need.prop_map(|(growth, spilled, took, rung, budget)| Need {
            growth: Bytes(growth),
            spilled: Bytes(spilled),
            took: Duration::from_millis(took),
            rung: Rung::ALL[rung],
            budget: Bytes(budget),
        });
        prop::collection::vec(((0..20u64).prop_map(Fingerprint), need), 0..most)
    }

    fn all(history: &History) -> Vec<(Fingerprint, Need)> {
        history.since(Place::default())
    }

    proptest! {
        #[test]
        fn a_history_reads_back_as_it_was_written_in_the_order_of_use(learnt in needs(40)) {
            let mut history = History::new(10);
            history.merge(learnt);
            let text = history.write().unwrap();
            prop_assert_eq!(all(&History::read(text.as_bytes(), 10).unwrap()), all(&history));
            // With less room, what was seen last.
            let fewer = History::read(text.as_bytes(), 3).unwrap();
            prop_assert_eq!(all(&fewer), all(&history)[all(&history).len().saturating_sub(3)..].to_vec());
        }

        #[test]
        fn a_merge_is_bounded_and_the_later_word_holds(kept in needs(30), learnt in needs(30)) {
            let mut merged = History::new(10);
            merged.merge(kept.clone());
            let place = merged.place();
            merged.merge(learnt.clone());
            let words: Vec<_> = kept.iter().chain(&learnt).copied().collect();
            // Of each shape the last word, of these the last ten.
            let mut expected: Vec<(Fingerprint, Need)> = Vec::new();
            for (print, need) in words {
                expected.retain(|(other, _)| *other != print);
                expected.push((print, need));
            }
            let expected = expected.split_off(expected.len().saturating_sub(10));
            prop_assert_eq!(&all(&merged), &expected);
            let newer = merged.since(place);
            prop_assert_eq!(&newer[..], &expected[expected.len() - newer.len()..]);
            prop_assert!(newer.iter().all(|(print, _)| learnt.iter().any(|(other, _)| other == print)));
        }

        #[test]
        fn merging_the_same_again_changes_nothing(kept in needs(30), learnt in needs(9)) {
            let mut once = History::new(10);
            once.merge(kept);
            once.merge(learnt.clone());
            let mut twice = once.clone();
            twice.merge(once.since(Place::default()));
            prop_assert_eq!(all(&twice), all(&once));
            twice.merge(learnt.clone());
            for (print, _) in &learnt {
                prop_assert_eq!(twice.need(*print), once.need(*print));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = History::read(&bytes, 4);
        }

        #[test]
        fn a_written_history_with_some_bytes_changed_is_read_or_refused(
            learnt in needs(6),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            end in any::<prop::sample::Index>(),
        ) {
            let mut history = History::new(4);
            history.merge(learnt);
            let mut bytes = history.write().unwrap().into_bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(read) = History::read(&bytes, 4) {
                prop_assert!(all(&read).len() <= 4);
                let again = read.write().unwrap();
                prop_assert_eq!(all(&History::read(again.as_bytes(), 4).unwrap()), all(&read));
            }
            let _ = History::read(&bytes[..end.index(bytes.len())], 4);
        }

        #[test]
        fn any_text_has_a_fingerprint(text in ".{0,40}") {
            let _ = Fingerprint::of(&text);
        }
    }
}
