//! The laws of an engine, obeyed by DuckDB itself.
#![allow(clippy::disallowed_methods, reason = "tests may unwrap and read the time")]

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use duckdb::Connection;
use duckward::engine::native::NativeEngine;
use duckward::engine::{Ask, Class, Engine, EngineError, Rows, Session, host, instance_memory, version};
use duckward::guard::Guardian;
use duckward::settings::{Layers, Loaded, Settings};
use duckward::units::{Bytes, Memory};
use duckward::ward::Ward;

/// A database in memory, the program's connection to it, and a session of ours.
fn opened() -> (Connection, NativeEngine, Box<dyn Session>) {
    let connection = Connection::open_in_memory().unwrap();
    let engine = NativeEngine::new(&connection).unwrap();
    let session = engine.session().unwrap();
    (connection, engine, session)
}

fn one(session: &dyn Session, sql: &str) -> Option<String> {
    let rows = session.rows(sql).unwrap();
    rows.into_iter().flatten().next().unwrap()
}

fn class(session: &dyn Session, sql: &str) -> Class {
    session.rows(sql).unwrap_err().class
}

const ENDLESS: &str = "SELECT sum(a.range * b.range) FROM range(10_000_000) a, range(10_000_000) b";

#[test]
fn rows_are_text_and_null_is_none() {
    let (_connection, _engine, session) = opened();
    let rows = session
        .rows("SELECT 42, 'é', NULL, true, 1.50::DECIMAL(9, 2), DATE '2024-02-29' UNION ALL SELECT 1, '', NULL, NULL, 0, NULL")
        .unwrap();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        rows,
        [
            vec![
                text("42"),
                text("é"),
                None,
                text("true"),
                text("1.50"),
                text("2024-02-29")
            ],
            vec![text("1"), text(""), None, None, text("0.00"), None],
        ]
    );
    assert!(session.rows("CREATE TABLE t (i INTEGER)").is_ok());
    assert!(session.rows("FROM t").unwrap().is_empty());
}

#[test]
fn sessions_share_the_database_and_nothing_else() {
    let (connection, engine, session) = opened();
    connection
        .execute_batch("CREATE TABLE t AS SELECT 7 AS i; CREATE TEMP TABLE ours AS SELECT 1 AS i; SET memory_limit = '1GB'")
        .unwrap();
    assert_eq!(one(&*session, "FROM t").as_deref(), Some("7"));
    assert_eq!(class(&*session, "FROM ours"), Class::Statement);
    let other = engine.session().unwrap();
    session.rows("BEGIN").unwrap();
    session.rows("INSERT INTO t VALUES (8)").unwrap();
    assert_eq!(one(&*other, "SELECT count(*) FROM t").as_deref(), Some("1"));
    session.rows("COMMIT").unwrap();
    assert_eq!(one(&*other, "SELECT count(*) FROM t").as_deref(), Some("2"));
    assert_eq!(instance_memory(&*session).unwrap().limit, "953.6 MiB");
}

#[test]
fn an_answer_comes_as_it_is_made_and_one_at_a_time() {
    let (_connection, _engine, session) = opened();
    let mut answer = session
        .query("SELECT range AS i, 'x' AS s FROM range(100_000_000_000)")
        .unwrap();
    let names: Vec<String> = answer
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    assert_eq!(names, ["i", "s"]);
    let batch = answer.next().unwrap().unwrap();
    assert!(batch.num_rows() > 0);
    assert_eq!(class(&*session, "SELECT 1"), Class::Busy);
    // What is left of it will never be made.
    drop(answer);
    assert_eq!(one(&*session, "SELECT 1").as_deref(), Some("1"));
    let whole: usize = session
        .query("FROM range(1_000_000)")
        .unwrap()
        .map(|batch| batch.unwrap().num_rows())
        .sum();
    assert_eq!(whole, 1_000_000);
    let mut none = session.query("SELECT 1 AS i WHERE false").unwrap();
    assert_eq!(none.schema().fields().len(), 1);
    assert!(none.next().is_none() && none.next().is_none());
    assert_eq!(one(&*session, "SELECT 2").as_deref(), Some("2"));
}

#[test]
fn an_answer_outlives_its_session() {
    let (_connection, _engine, session) = opened();
    let answer = session.query("FROM range(50_000)").unwrap();
    drop(session);
    assert_eq!(
        answer.map(|batch| batch.unwrap().num_rows()).sum::<usize>(),
        50_000
    );
}

#[test]
fn an_error_in_the_middle_is_an_item_and_the_last() {
    let (_connection, _engine, session) = opened();
    session.rows("SET threads = 1").unwrap();
    let answer = session
        .query("SELECT CASE WHEN range = 900_000 THEN error('no more') ELSE range END FROM range(1_000_000)")
        .unwrap();
    let items: Vec<_> = answer.collect();
    let (last, before) = items.split_last().unwrap();
    assert!(before.iter().all(Result::is_ok));
    let error = last.as_ref().unwrap_err().to_string();
    assert!(error.contains("no more"), "{error}");
    assert_eq!(one(&*session, "SELECT 1").as_deref(), Some("1"));
}

#[test]
fn errors_have_their_class_and_duckdbs_text() {
    let (_connection, engine, session) = opened();
    let session = &*session;
    assert_eq!(class(session, "SELEC 1"), Class::Statement);
    assert_eq!(class(session, "FROM nowhere"), Class::Statement);
    assert_eq!(class(session, "FROM '/nowhere/at/all.csv'"), Class::Io);
    session.rows("CREATE TABLE t (i INTEGER PRIMARY KEY)").unwrap();
    session.rows("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(class(session, "INSERT INTO t VALUES (1)"), Class::Constraint);
    let other = engine.session().unwrap();
    for one in [session, &*other] {
        one.rows("BEGIN").unwrap();
    }
    session.rows("UPDATE t SET i = 2").unwrap();
    assert_eq!(class(&*other, "UPDATE t SET i = 3"), Class::Transaction);
    session.rows("ROLLBACK").unwrap();
    session.rows("SET memory_limit = '30MB'").unwrap();
    let error: EngineError = session
        .rows("SELECT len(list(range::VARCHAR)) FROM range(5_000_000)")
        .unwrap_err();
    assert_eq!(error.class, Class::OutOfMemory);
    assert!(error.message.starts_with("Out of Memory Error: "), "{error}");
}

#[test]
fn an_interrupt_stops_what_runs_and_nothing_later() {
    let (_connection, _engine, session) = opened();
    let interrupt = session.interrupt();
    // To an idle session it is lost.
    interrupt.interrupt();
    assert_eq!(one(&*session, "SELECT 1").as_deref(), Some("1"));
    let stops = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        interrupt.interrupt();
    });
    assert_eq!(class(&*session, ENDLESS), Class::Interrupt);
    stops.join().unwrap();
    assert_eq!(one(&*session, "SELECT 1").as_deref(), Some("1"));
}

#[test]
fn an_answer_that_is_dropped_leaves_the_connection_free() {
    let (_connection, _engine, session) = opened();
    for round in 0..50 {
        let mut answer = session
            .query("SELECT a.range, b.range FROM range(1_000_000) a, range(1_000_000) b")
            .unwrap();
        for _ in 0..round % 4 {
            answer.next().unwrap().unwrap();
        }
        drop(answer);
        assert_eq!(one(&*session, "SELECT 1").as_deref(), Some("1"));
    }
}

#[test]
fn a_database_is_closed_with_its_last_session() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.duckdb");
    for round in 1..20 {
        let connection = Connection::open(&path).unwrap();
        let engine: Arc<dyn Engine> = Arc::new(NativeEngine::new(&connection).unwrap());
        drop(connection);
        let session = engine.session().unwrap();
        session
            .rows("CREATE TABLE IF NOT EXISTS t AS SELECT 0 AS i WHERE false")
            .unwrap();
        session.rows(&format!("INSERT INTO t VALUES ({round})")).unwrap();
        assert_eq!(
            one(&*session, "SELECT count(*) FROM t"),
            Some(round.to_string()),
            "what was written before is there"
        );
        drop((session, engine));
        assert!(
            !folder.path().join("d.duckdb.wal").exists(),
            "it was closed, with a checkpoint"
        );
    }
}

#[test]
fn a_ward_takes_it_under_guard_and_gives_it_back() {
    let (connection, engine, session) = opened();
    let limit = || one(&*session, "SELECT current_setting('memory_limit')");
    connection.execute_batch("SET memory_limit = '3GiB'").unwrap();
    let loaded = Loaded {
        settings: Settings {
            memory: Memory::Size(Bytes::mib(1000)),
            ceiling: false,
            ..Settings::default()
        },
        ..Layers::new()
            .load(|_| Err(std::io::ErrorKind::NotFound.into()))
            .unwrap()
    };
    let guardian = Guardian::of_system().unwrap();
    let stops = host::Connection::new(session.interrupt());
    let ward = Ward::guard(&guardian, Arc::new(engine), stops, loaded).unwrap();
    let guarded = Bytes::from_printed(&limit().unwrap()).unwrap();
    assert!(guarded < Bytes::mib(1000), "{guarded}");
    ward.close();
    assert_eq!(limit().as_deref(), Some("3.0 GiB"));
}

#[test]
fn it_is_the_duckdb_that_it_says() {
    struct Asks(Box<dyn Session>);
    impl Ask<EngineError> for Asks {
        fn ask(&mut self, sql: &str) -> Result<Rows, EngineError> {
            self.0.rows(sql)
        }

        fn pause(&mut self, _: Duration) -> Result<(), EngineError> {
            Ok(())
        }
    }
    let (connection, _engine, session) = opened();
    let told = version(&mut Asks(session)).unwrap();
    assert_eq!(told, connection.version().unwrap());
}
