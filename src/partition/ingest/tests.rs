//! The flow over a database that is a few vectors, whose transactions fail as a script says.

use std::time::Duration;

use proptest::prelude::*;

use super::sql::{ROW, column_name};
use super::*;
use crate::engine::Rows;

#[derive(Clone, Debug)]
enum Fails {
    Own(Error),
    With(Fault),
    Source,
}

impl From<Error> for Fails {
    fn from(error: Error) -> Self {
        Fails::Own(error)
    }
}

/// How a transaction goes.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Well,
    Badly(Fault),
    /// It is committed, and that is not known.
    Unknown,
}

/// Records are numbers; those below zero cannot be rows, and those below -10 only DuckDB itself finds.
#[derive(Clone, Debug, Default)]
struct Fake {
    source: Vec<i64>,
    at: usize,
    fails_at: Option<usize>,
    buffer: Vec<i64>,
    batch: Vec<i64>,
    table: Vec<i64>,
    rejects: Vec<i64>,
    journal: Option<(u64, u64, u64, bool)>,
    fates: Vec<Fate>,
    told: u64,
    commits: u64,
}

impl Ask<Fails> for Fake {
    fn pause(&mut self, _time: std::time::Duration) -> Result<(), Fails> {
        Ok(())
    }

    fn ask(&mut self, sql: &str) -> Result<Rows, Fails> {
        let row = |cells: &[&str]| vec![cells.iter().map(|cell| Some((*cell).to_owned())).collect()];
        Ok(if sql.contains("current_database()") {
            row(&["d", "main"])
        } else if sql.contains("duckdb_views()") {
            if sql.contains("'bad'") {
                row(&["d", "main", "bad", "table"])
            } else {
                row(&["d", "main", "t", "table"])
            }
        } else if sql.contains("readonly") {
            row(&["false"])
        } else if sql.contains("duckdb_columns()") {
            let names = if sql.contains("'bad'") {
                vec!["token", "source_row", "reason", "record"]
            } else {
                vec!["id"]
            };
            names.iter().flat_map(|name| row(&[name, "BIGINT"])).collect()
        } else if sql.contains("duckdb_tables()") {
            if self.journal.is_some() {
                row(&["1"])
            } else {
                Rows::new()
            }
        } else if sql.starts_with("SELECT target") {
            self.journal
                .map(|(position, inserted, rejected, finished)| {
                    let texts = [position, inserted, rejected].map(|number| number.to_string());
                    let finished = finished.to_string();
                    row(&["\"main\".\"t\"", &texts[0], &texts[1], &texts[2], &finished])
                })
                .unwrap_or_default()
        } else {
            Rows::new()
        })
    }
}

impl Fake {
    /// Runs a statement on a copy of the database; the rows it changed.
    fn run(&mut self, sql: &str) -> Result<u64, Fault> {
        let number = |text: &str, after: &str| -> u64 {
            let rest = &text[text.find(after).unwrap() + after.len()..];
            rest.split(|c: char| !c.is_ascii_digit())
                .next()
                .unwrap()
                .parse()
                .unwrap()
        };
        let judged = sql.contains("duckward_why");
        if sql.starts_with("UPDATE") {
            let (position, inserted, rejected, _) = self.journal.unwrap();
            if number(sql, "AND position = ") != position {
                return Ok(0);
            }
            self.journal = Some((
                number(sql, "SET position = "),
                inserted + number(sql, "inserted = inserted + "),
                rejected + number(sql, "rejected = rejected + "),
                sql.contains("finished = true"),
            ));
            return Ok(1);
        }
        if sql.contains(JOURNAL) {
            self.journal = self.journal.or(Some((0, 0, 0, false)));
            return Ok(1);
        }
        let found: Vec<i64> = self.batch.clone();
        if sql.contains("\"bad\"") {
            let bad: Vec<i64> = if judged {
                found.into_iter().filter(|one| (-10..0).contains(one)).collect()
            } else {
                found
            };
            self.rejects.extend(&bad);
            return Ok(bad.len() as u64);
        }
        let good: Vec<i64> = found
            .into_iter()
            .filter(|one| !judged || !(-10..0).contains(one))
            .collect();
        if good.iter().any(|one| *one < 0) {
            return Err(Fault::Data);
        }
        self.table.extend(&good);
        Ok(good.len() as u64)
    }
}

impl Load<Fails> for Fake {
    fn session(&self) -> Option<&Session> {
        None
    }

    fn shape(&mut self) -> Result<Option<Shape>, Fails> {
        Ok(None)
    }

    fn bind(&mut self, _: &[Column], _: &str) -> Result<(), Fails> {
        Ok(())
    }

    fn skip(&mut self, records: u64) -> Result<u64, Fails> {
        self.at = self.source.len().min(usize::try_from(records).unwrap());
        Ok(self.at as u64)
    }

    fn fill(&mut self, limit: Limit, behind: bool) -> Result<Filled, Fails> {
        let end = self
            .source
            .len()
            .min(self.at + usize::try_from(limit.rows).unwrap());
        if self.fails_at.is_some_and(|at| end > at) {
            return Err(Fails::Source);
        }
        if !behind {
            self.buffer.clear();
        }
        self.buffer.extend(&self.source[self.at..end]);
        let rows = (end - self.at) as u64;
        self.at = end;
        Ok(Filled {
            rows,
            bytes: 8 * rows,
            time: Duration::ZERO,
            ended: rows < limit.rows,
        })
    }

    fn offer(&mut self, records: Range<u64>, first: Option<u64>) -> Result<Layout, Fails> {
        let at = |number: u64| usize::try_from(number).unwrap();
        self.batch = self.buffer[at(records.start)..at(records.end)].to_vec();
        let name = column_name(0, Kind::Arrow);
        Ok(Layout::read([
            name.as_str(),
            if first.is_some() { ROW } else { "" },
        ]))
    }

    fn transact(&mut self, steps: Steps<'_>, commit: bool, _: bool) -> Result<(), Fails> {
        let fate = if commit {
            self.fates.pop().unwrap_or(Fate::Well)
        } else {
            Fate::Well
        };
        if let Fate::Badly(fault) = fate {
            return Err(Fails::With(fault));
        }
        let mut copy = self.clone();
        let mut done = Vec::new();
        while let Some(sql) = steps(&done)? {
            done.push(copy.run(&sql).map_err(Fails::With)?);
        }
        if commit {
            *self = copy;
            self.commits += 1;
        }
        if matches!(fate, Fate::Unknown) {
            Err(Fails::With(Fault::Other))
        } else {
            Ok(())
        }
    }

    fn fault(&self, error: &Fails) -> Fault {
        match error {
            Fails::With(fault) => *fault,
            _ => Fault::Other,
        }
    }

    fn is_the_sources(&self, error: &Fails) -> bool {
        matches!(error, Fails::Source)
    }

    fn text(&self, error: &Fails) -> String {
        format!("{error:?}")
    }

    fn because(&self, error: Error, _: Fails) -> Fails {
        Fails::Own(error)
    }

    fn is_pressed(&self) -> bool {
        self.table.len() % 7 == 3
    }

    fn rest(&mut self, _: Duration) -> Result<(), Fails> {
        Ok(())
    }

    fn started(&mut self, _: &str) {}

    fn committed(&mut self, batch: Committed) {
        self.told += batch.rows + batch.rejected;
    }
}

fn wish(batch_rows: u64, rejects: bool) -> Wish {
    Wish {
        table: "t".to_owned(),
        limit: Limit {
            rows: batch_rows,
            bytes: 1 << 20,
        },
        token: Some("x".to_owned()),
        rejects: rejects.then(|| "bad".to_owned()),
        create: false,
        retries: 3,
        backoff: Duration::from_secs(1),
    }
}

/// What a state of the database must be of a source: everything up to the position, once.
fn is_whole(load: &Fake) -> bool {
    let position = usize::try_from(load.journal.map_or(0, |journal| journal.0)).unwrap();
    let (bad, good): (Vec<i64>, Vec<i64>) = load.source[..position].iter().partition(|one| **one < 0);
    (&load.table, &load.rejects) == (&good, &bad)
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Well),
        1 => Just(Fate::Badly(Fault::Memory)),
        1 => Just(Fate::Badly(Fault::Conflict)),
        1 => Just(Fate::Badly(Fault::Other)),
        1 => Just(Fate::Unknown),
    ]
}

proptest! {
    #[test]
    fn whatever_fails_nothing_is_lost_or_doubled(
        source in proptest::collection::vec(-20_i64..200, 0..300),
        fates in proptest::collection::vec(fate(), 0..60),
        batch_rows in 1_u64..100,
        cuts in proptest::collection::vec(proptest::option::of(0_usize..300), 0..10),
    ) {
        let mut load = Fake { source, fates, ..Fake::default() };
        let mut finished = None;
        for fails_at in cuts.into_iter().chain(std::iter::repeat_n(None, 80)) {
            load.fails_at = fails_at;
            load.at = 0;
            let outcome = ingest(&mut load, &wish(batch_rows, true));
            prop_assert!(is_whole(&load), "{load:?}");
            match outcome {
                Ok(done) => { finished = Some(done); break; }
                // An end that is not known to have been reached is one that was reached.
                Err(Fails::Own(error)) if error.kind() == ErrorKind::State => break,
                Err(_) => {}
            }
        }
        prop_assert_eq!(load.journal.map(|journal| (journal.0, journal.3)), Some((load.source.len() as u64, true)));
        if let Some(done) = finished {
            prop_assert_eq!((done.total_rows, done.total_rejected), (load.table.len() as u64, load.rejects.len() as u64));
        }
    }

    #[test]
    fn the_first_bad_record_ends_a_load_and_is_found(
        good in 0_usize..200, after in 0_usize..50, batch_rows in 1_u64..100
    ) {
        let mut source = vec![1; good];
        source.push(-15);
        source.resize(good + 1 + after, -1);
        let mut load = Fake { source, ..Fake::default() };
        let Err(Fails::Own(error)) = ingest(&mut load, &wish(batch_rows, false)) else {
            panic!("it went in");
        };
        prop_assert!(error.message().contains(&format!("record {} of the source", good + 1)), "{}", error);
        prop_assert_eq!(error.kind(), ErrorKind::Query);
        prop_assert!(is_whole(&load));
    }
}

#[test]
fn batches_are_told_one_by_one_and_committed_together() {
    let mut load = Fake {
        source: vec![1; 140],
        ..Fake::default()
    };
    // The beginning, and then 1, 2, 4 and the last 3 of 10.
    let Ok(done) = ingest(&mut load, &wish(14, false)) else {
        panic!("it failed");
    };
    assert_eq!((done.batches, load.commits, load.told), (10, 5, 140));
}

#[test]
fn whole_batches_are_committed_before_the_error_of_their_source_is_told() {
    let mut load = Fake {
        source: vec![1; 140],
        fails_at: Some(90),
        ..Fake::default()
    };
    assert!(ingest(&mut load, &wish(14, false)).is_err());
    assert_eq!(load.table.len(), 84);
    assert!(is_whole(&load));
}

#[test]
fn a_source_that_is_shorter_than_what_was_committed_is_another_one() {
    let mut load = Fake {
        source: vec![1; 50],
        fails_at: Some(30),
        ..Fake::default()
    };
    assert!(ingest(&mut load, &wish(10, false)).is_err());
    assert_eq!(load.table.len(), 30);
    load.source.truncate(20);
    load.fails_at = None;
    let Err(Fails::Own(error)) = ingest(&mut load, &wish(10, false)) else {
        panic!("it went on");
    };
    assert_eq!(error.kind(), ErrorKind::Transaction);
    assert!(
        error
            .message()
            .contains("ended after 20 records, but 30 were committed"),
        "{error}"
    );
}
