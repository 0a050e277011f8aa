//! What queries needed, by fingerprint, so that the next run of the same shape starts on the right rung. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::ladder::Rung;
use super::text::{Token, tokens};
use crate::units::Bytes;

/// A query's shape: its text without literals, comments and spacing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of `sql`. Two texts that differ in numbers, strings, comments, spacing or letter case share one.
    pub fn of(sql: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        for (token, range) in tokens(sql) {
            let text = &sql[range];
            match token {
                Token::Gap => {}
                Token::Literal => '?'.hash(&mut hasher),
                Token::Word => text.to_ascii_lowercase().hash(&mut hasher),
                Token::Exact => text.hash(&mut hasher),
            }
        }
        Fingerprint(hasher.finish())
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

/// A bounded memory of needs; the shape seen longest ago is forgotten first.
#[derive(Debug)]
pub struct History {
    capacity: usize,
    needs: BTreeMap<Fingerprint, Need>,
    order: VecDeque<Fingerprint>,
}

impl History {
    /// Remembers at most `capacity` shapes.
    pub fn new(capacity: usize) -> Self {
        History {
            capacity,
            needs: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    /// Takes note of an answered attempt.
    pub fn learn(&mut self, fingerprint: Fingerprint, need: Need) {
        if self.needs.insert(fingerprint, need).is_some() {
            return;
        }
        self.order.push_back(fingerprint);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.needs.remove(&oldest);
        }
    }

    /// What this shape needed.
    pub fn need(&self, fingerprint: Fingerprint) -> Option<Need> {
        self.needs.get(&fingerprint).copied()
    }

    /// The rung to start on: the one that answered under a budget not smaller than this one's, else as is.
    pub fn start(&self, fingerprint: Fingerprint, budget: Bytes) -> Rung {
        self.need(fingerprint)
            .filter(|need| need.budget >= budget)
            .map_or(Rung::AsIs, |need| need.rung)
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
    fn the_oldest_shape_is_forgotten_first() {
        let mut history = History::new(2);
        let prints = ["select a", "select b", "select c"].map(Fingerprint::of);
        for print in prints {
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

    proptest! {
        #[test]
        fn any_text_has_a_fingerprint(text in ".{0,40}") {
            let _ = Fingerprint::of(&text);
        }
    }
}
