//! Proof that what went into the pieces is what there was: counts of rows in each bucket of the hash, before and of the
//! pieces, and where that is asked, digests of their values, and that no key is in two pieces.
//!
//! A digest is a sum of hashes of rows, so that neither their order nor their groups make a difference. What DuckDB makes of
//! the hashes of several values is hashed once more: those it combines by xor, and a sum of that hardly tells which value
//! stood beside which.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::asking::node_of;
use super::described::Described;
use super::ranges::{BUCKET_BITS, BUCKETS, Range};
use super::{Fault, Run, numbered, one};
use crate::engine::Rows;
use crate::error::{Error, ErrorKind};
use crate::fallback::decompose::Cut;
use crate::fallback::decompose::digest::{self, VALUE};

/// The column with the number of the piece.
pub(super) const PIECE: &str = "duckward_p";

/// What is proved of the pieces of a query before its answer is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// As many rows went in as there were, in each bucket of the keys.
    #[default]
    Counts,
    /// They had the values that there were, too, and no key is in two pieces.
    Full,
}

impl Verify {
    /// What [`Verify::parse`] accepts, as the end of an error message.
    pub const ACCEPTED: &str = "give \"counts\" or \"full\"";

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Verify::Counts => "counts",
            Verify::Full => "full",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Verify::Counts, Verify::Full]
            .into_iter()
            .find(|verify| verify.name() == name)
    }
}

/// How the values that go into a cut are digested.
#[derive(Debug)]
pub(super) struct Digest {
    /// The statement that gives the keys and the hash of every row that goes in.
    source: String,
    /// The hidden column with the digest of each row of the result.
    hidden: usize,
}

/// What went in, bucket by bucket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inputs {
    /// Rows.
    pub(super) rows: Vec<u64>,
    /// Their digests; zeros where there are none.
    digests: Vec<u128>,
}

impl Inputs {
    /// Of rows of bucket, count and, where it was asked for, digest.
    fn read(found: &Rows) -> Self {
        let count = usize::try_from(BUCKETS).unwrap_or(0);
        let mut inputs = Inputs {
            rows: vec![0; count],
            digests: vec![0; count],
        };
        for row in found {
            if let [Some(bucket), Some(rows), digest @ ..] = row.as_slice()
                && let (Ok(bucket), Ok(rows)) = (bucket.parse::<usize>(), rows.parse::<u64>())
                && bucket < count
            {
                let digest = digest.first().and_then(|digest| digest.as_ref()?.parse().ok());
                inputs.rows[bucket] = rows;
                inputs.digests[bucket] = digest.unwrap_or(0);
            }
        }
        inputs
    }

    /// Those of the whole buckets from the hash `low` to `high`; nothing in the others.
    pub(super) fn within(&self, low: u64, high: u64) -> Self {
        let shift = 64 - BUCKET_BITS;
        let is_in = |bucket: usize| (low >> shift..=high >> shift).contains(&(bucket as u64));
        Inputs {
            rows: (self.rows.iter().enumerate())
                .map(|(bucket, rows)| if is_in(bucket) { *rows } else { 0 })
                .collect(),
            digests: (self.digests.iter().enumerate())
                .map(|(bucket, digest)| if is_in(bucket) { *digest } else { 0 })
                .collect(),
        }
    }

    /// How what went into the pieces differs from this, if it does. Each row went in so many `times`.
    fn differs(&self, went: &Inputs, times: u64) -> Option<String> {
        let is_multiple = |(before, after): (&u64, &u64)| before.checked_mul(times) == Some(*after);
        if !self.rows.iter().zip(&went.rows).all(is_multiple) {
            let there = self.rows.iter().sum::<u64>().saturating_mul(times);
            let went: u64 = went.rows.iter().sum();
            return Some(format!(
                "{there} rows were counted, and {went} went into the pieces"
            ));
        }
        let rows: u64 = (self.rows.iter().zip(&self.digests).zip(&went.digests))
            .filter(|((_, before), after)| before.checked_mul(times.into()) != Some(**after))
            .map(|((rows, _), _)| rows)
            .sum();
        (rows > 0).then(|| {
            format!(
                "as many rows went into the pieces as were counted, but with other values: some of {rows} rows differ"
            )
        })
    }
}

fn bucket(keys: &str) -> String {
    format!("(hash({keys}) >> {})::VARCHAR AS b", 64 - BUCKET_BITS)
}

fn withheld(what: &str) -> Fault {
    Fault::Own(Error::new(
        ErrorKind::Internal,
        format!(
            "the answer is withheld: {what}; the data changed meanwhile (a file that was replaced, a function that gives other \
             values each time?), or this is a defect of duckward: run it again, or with pieces=False"
        ),
    ))
}

impl Run<'_> {
    /// Adds to `cut`, which is that of the query at `pointer`, a column with the digest of what goes in, if that is asked for
    /// and can be.
    pub(super) fn digested(
        &mut self,
        tree: &Value,
        pointer: &str,
        columns: Option<&BTreeSet<String>>,
        cut: &mut Cut,
    ) -> Result<Option<Digest>, Fault> {
        let values = match self.options.verify {
            Verify::Full => digest::values(tree, pointer, &self.parsed.functions, columns, cut),
            Verify::Counts => None,
        };
        let Some(values) = values else {
            return Ok(None);
        };
        let names = numbered(VALUE, values.len()).join(", ");
        let mut hash = node_of(self.asks, &format!("SELECT hash(hash({names}))"))?["select_list"][0].take();
        digest::put(&mut hash, &values);
        let Some(source) = digest::source_with(cut, &hash) else {
            return Ok(None);
        };
        let source = self.text(&source)?;
        if cut.rows.is_some() {
            let mut sum = node_of(self.asks, &format!("SELECT sum({VALUE}0)"))?["select_list"][0].take();
            digest::put(&mut sum, &[hash]);
            hash = sum;
        }
        let hidden = digest::add(cut, &hash);
        Ok(Some(Digest { source, hidden }))
    }

    /// What there is to go in, in each bucket of the hash; `source` gives the keys.
    pub(super) fn inputs(
        &mut self,
        source: &str,
        digest: Option<&Digest>,
        cut: &Cut,
        chosen: &[usize],
    ) -> Result<Inputs, Fault> {
        let mut columns = numbered("k", cut.keys.len());
        let keys: Vec<String> = chosen.iter().map(|key| format!("k{key}")).collect();
        let (mut source, mut summed) = (source, "");
        if let Some(digest) = digest {
            columns.push("d".to_owned());
            (source, summed) = (&digest.source, ", sum(d)::VARCHAR");
        }
        let rows = self.asks.rows(&format!(
            "SELECT {}, count(*)::VARCHAR{summed} FROM ({source}) AS duckward_q({}) GROUP BY b",
            bucket(&keys.join(", ")),
            columns.join(", "),
        ))?;
        Ok(Inputs::read(&rows))
    }

    /// What went into the pieces in `table`, which have the hashes in `ranges`, is what there was `before`.
    pub(super) fn prove(
        &mut self,
        table: &str,
        cut: &Cut,
        described: &Described,
        before: &Inputs,
        digest: Option<&Digest>,
        ranges: &[Range],
    ) -> Result<Verify, Fault> {
        let counted = cut.rows.map_or_else(
            || "count(*)".to_owned(),
            |index| format!("sum(duckward_h{index})"),
        );
        let summed = digest.map_or_else(String::new, |digest| {
            format!(", sum(duckward_h{})::VARCHAR", digest.hidden)
        });
        let keys = described.keys.join(", ");
        let rows = self.asks.rows(&format!(
            "SELECT {}, ({counted})::HUGEINT::VARCHAR{summed} FROM temp.main.{table} GROUP BY b",
            bucket(&keys)
        ))?;
        if let Some(how) = before.differs(&Inputs::read(&rows), cut.counted) {
            return Err(withheld(&how));
        }
        if digest.is_none() {
            return Ok(Verify::Counts);
        }
        self.prove_disjoint(table, &keys, ranges)?;
        Ok(Verify::Full)
    }

    /// No key is in two pieces. Range by range, so that no more keys are in memory at once than those of a piece.
    fn prove_disjoint(&mut self, table: &str, keys: &str, ranges: &[Range]) -> Result<(), Fault> {
        for range in ranges {
            let rows = self.asks.rows(&format!(
                "SELECT count(*)::VARCHAR FROM (SELECT 1 FROM temp.main.{table} WHERE hash({keys}) BETWEEN {}::UBIGINT \
                 AND {}::UBIGINT GROUP BY {keys} HAVING min({PIECE}) <> max({PIECE}))",
                range.low, range.high
            ))?;
            match one(&rows) {
                Some("0") => {}
                found => {
                    let found = found.unwrap_or("some");
                    return Err(withheld(&format!("{found} keys are in more than one piece")));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::ranges::ranges;
    use super::super::{Asks, Options, Parsed, Piece};
    use super::*;
    use crate::engine::EngineError;
    use crate::fallback::classify::Failure;
    use crate::fallback::decompose::Want;
    use crate::fallback::decompose::functions::Functions;
    use crate::settings::Feed;
    use crate::units::Bytes;

    /// Rows of bucket, count and digest as DuckDB gives them.
    fn inputs(rows: &[(u64, u64, u128)]) -> Inputs {
        let text = |number: &dyn ToString| Some(number.to_string());
        let rows: Rows = rows
            .iter()
            .map(|(bucket, count, digest)| vec![text(bucket), text(count), text(digest)])
            .collect();
        Inputs::read(&rows)
    }

    proptest! {
        #[test]
        fn what_is_there_as_often_as_it_should_be_is_proved_and_any_difference_is_not(
            rows in proptest::collection::btree_map(0u64..BUCKETS, (1u64..1000, 0u128..1 << 80), 1..50),
            times in 1u64..5,
            other in any::<proptest::sample::Index>(),
        ) {
            let before: Vec<_> = rows.iter().map(|(bucket, (rows, digest))| (*bucket, *rows, *digest)).collect();
            let after: Vec<_> =
                before.iter().map(|(bucket, rows, digest)| (*bucket, rows * times, digest * u128::from(times))).collect();
            let there = inputs(&before);
            prop_assert_eq!(there.differs(&inputs(&after), times), None);
            let at = other.index(after.len());
            let changed = |change: &dyn Fn(&mut (u64, u64, u128))| {
                let mut after = after.clone();
                change(&mut after[at]);
                there.differs(&inputs(&after), times)
            };
            let fewer = changed(&|row| row.1 -= 1).unwrap();
            prop_assert!(fewer.contains("rows were counted"), "{}", fewer);
            let values = changed(&|row| row.2 += 1).unwrap();
            prop_assert!(values.contains("other values"), "{}", values);
        }
    }

    /// Answers in turn, and keeps what it was asked.
    #[derive(Default)]
    struct Scripted {
        answers: Vec<Rows>,
        asked: Vec<String>,
    }

    impl Asks for Scripted {
        fn clean(&mut self, _: &str) {}
        fn rows(&mut self, sql: &str) -> Result<Rows, EngineError> {
            self.asked.push(sql.to_owned());
            Ok(self.answers.remove(0))
        }
        fn parameters(&mut self) -> Result<Option<Vec<(String, String)>>, EngineError> {
            Ok(None)
        }
        fn failure(&mut self, _: &EngineError) -> Failure {
            Failure::Memory
        }
        fn progress(&mut self, _: &Piece, _: f64) {}
        fn pause(&mut self, _: Duration) {}
        fn anew(&mut self) {}
        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }
    }

    /// What comes of the proof of two pieces of a table with one bucket of 4 rows, when DuckDB answers so.
    fn proved(answers: Vec<Rows>, digested: bool) -> (Result<Verify, String>, Vec<String>) {
        let parsed = Arc::new(Parsed {
            before: String::new(),
            after: String::new(),
            tree: Value::Null,
            functions: Functions::default(),
            selects: true,
        });
        let options = Options {
            want: Want::Kept,
            pieces: None,
            limit: Bytes::mib(100),
            in_transaction: false,
            number: 1,
            feed: Feed::Scan,
            disk: None,
            verify: Verify::Full,
            by_piece: false,
        };
        let cut = Cut {
            body: Value::Null,
            hidden: 2,
            keys: Vec::new(),
            source: None,
            rows: Some(0),
            counted: 1,
            having: None,
            nulls: BTreeSet::new(),
            modifiers: Vec::new(),
            kept: Vec::new(),
        };
        let described = Described {
            text: String::new(),
            names: Vec::new(),
            types: Vec::new(),
            columns: Vec::new(),
            keys: vec!["duckward_c0".to_owned()],
            inside: None,
        };
        let digest = Digest {
            source: String::new(),
            hidden: 1,
        };
        let halves = ranges(None, 2);
        let mut asks = Scripted {
            answers,
            ..Scripted::default()
        };
        let mut run = Run::new(&mut asks, &parsed, &options);
        let before = inputs(&[(7, 4, if digested { 99 } else { 0 })]);
        let digest = digested.then_some(&digest);
        let proved = run
            .prove("made", &cut, &described, &before, digest, &halves)
            .map_err(|fault| match fault {
                Fault::Own(error) => error.message().to_owned(),
                other => format!("{other:?}"),
            });
        (proved, asks.asked)
    }

    fn answer(row: &[&str]) -> Rows {
        vec![row.iter().map(|value| Some((*value).to_owned())).collect()]
    }

    #[test]
    fn all_three_proofs_must_hold() {
        let whole = || answer(&["7", "4", "99"]);
        let (all, asked) = proved(vec![whole(), answer(&["0"]), answer(&["0"])], true);
        assert_eq!(all, Ok(Verify::Full));
        assert_eq!(asked.len(), 3, "the keys range by range");
        let (rows, _) = proved(vec![answer(&["7", "3", "99"])], true);
        assert!(rows.unwrap_err().contains("4 rows were counted, and 3 went"));
        let (values, _) = proved(vec![answer(&["7", "4", "98"])], true);
        assert!(values.unwrap_err().contains("other values"));
        let (keys, _) = proved(vec![whole(), answer(&["0"]), answer(&["2"])], true);
        assert!(keys.unwrap_err().contains("2 keys are in more than one piece"));
        let (silence, _) = proved(vec![whole(), Rows::new()], true);
        assert!(silence.unwrap_err().contains("withheld"), "no answer is no proof");
    }

    #[test]
    fn without_digests_one_statement_proves_the_counts() {
        let (proved, asked) = proved(vec![answer(&["7", "4"])], false);
        assert_eq!(proved, Ok(Verify::Counts));
        assert_eq!(asked.len(), 1);
        assert!(!asked[0].contains("duckward_h1") && !asked[0].contains(PIECE));
    }

    #[test]
    fn counts_are_compared_where_nothing_is_digested() {
        let count = |count: &str| Inputs::read(&vec![vec![Some("3".to_owned()), Some(count.to_owned())]]);
        assert_eq!(count("5").differs(&count("5"), 1), None);
        assert!(count("5").differs(&count("4"), 1).is_some());
    }

    #[test]
    fn a_proof_has_the_name_it_is_asked_by() {
        for verify in [Verify::Counts, Verify::Full] {
            assert_eq!(Verify::parse(verify.name()), Some(verify));
        }
        assert_eq!(Verify::parse("Full"), None);
    }
}
