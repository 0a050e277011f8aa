//! The guard's real threads, on the system's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use duckward::Level;
use duckward::clock::{SharedClock, SystemClock};
use duckward::engine::scripted::{Answer, Database, Process};
use duckward::engine::{Class, Engine, EngineError};
use duckward::error::ErrorKind;
use duckward::guard::Guardian;
use duckward::guard::watch;
use duckward::settings::Settings;
use duckward::ward::{AttemptError, Host, Ward};

use crate::rig::{Seat, job, limits, loaded, mib, ms, read, settings};

struct Guarded {
    clock: SharedClock,
    process: Process,
    database: Database,
    guardian: Arc<Guardian>,
    threads: Vec<JoinHandle<()>>,
}

impl Guarded {
    fn new() -> Self {
        let clock = SystemClock::shared();
        let process = Process::new(Arc::clone(&clock));
        let guardian = Guardian::new(Arc::clone(&clock), process.sampler(), limits()).unwrap();
        Guarded {
            threads: watch::start(&guardian).unwrap(),
            database: process.database(),
            clock,
            process,
            guardian,
        }
    }

    fn guard(&self, seat: &Seat, settings: Settings) -> Arc<Ward> {
        let engine: Arc<dyn Engine> = Arc::new(self.database.clone());
        Ward::guard(
            &self.guardian,
            engine,
            Arc::clone(&seat.connection),
            loaded(settings),
        )
        .unwrap()
    }

    fn soon(&self, what: &str, holds: impl Fn() -> bool) {
        let began = self.clock.now();
        while !holds() {
            assert!(
                self.clock.now().since(began) < Duration::from_secs(10),
                "not soon: {what}"
            );
            self.clock.sleep(ms(1));
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.guardian.stop();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

struct Plain<'a>(&'a Seat, &'a str);

impl Host<duckward::engine::Stream> for Plain<'_> {
    fn attempt(
        &mut self,
        _: duckward::fallback::ladder::Rung,
        _: Option<&str>,
    ) -> Result<duckward::engine::Stream, AttemptError> {
        Ok(self.0.session.query(self.1)?)
    }

    fn ask(&mut self, _sql: &str) -> Result<Vec<Vec<Option<String>>>, EngineError> {
        // This engine does not give its parse, so nothing runs in pieces here.
        Err(EngineError {
            class: Class::Statement,
            message: "no parse is scripted".to_owned(),
        })
    }

    fn in_transaction(&mut self) -> bool {
        false
    }

    fn gave_up(&self) -> bool {
        false
    }

    fn plan(&mut self) -> Option<String> {
        None
    }
}

#[test]
fn many_callers_at_once_are_all_answered_and_nothing_is_left() {
    let guarded = Guarded::new();
    let before = guarded.database.settings();
    guarded
        .database
        .answer("q", Answer::rows(3000).taking(ms(5)).growing_to(mib(40)));
    let seat = Seat::of(&guarded.database);
    let ward = guarded.guard(
        &seat,
        Settings {
            max_concurrent: 3,
            ..settings()
        },
    );
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let seat = Seat::of(&guarded.database);
                ward.add(&seat.connection);
                for _ in 0..10 {
                    let (stream, ticket) = ward
                        .run(&seat.connection, &job("q"), &mut Plain(&seat, "q"))
                        .unwrap();
                    assert_eq!(read(stream, ticket).unwrap().rows, Some(3000));
                }
            });
        }
    });
    assert_eq!(
        (
            guarded.guardian.admission().running(),
            guarded.guardian.admission().waiting()
        ),
        (0, 0)
    );
    ward.close();
    assert_eq!(guarded.database.settings(), before);
}

#[test]
fn a_query_that_outgrows_the_budget_is_stopped_before_it_does() {
    let guarded = Guarded::new();
    let seat = Seat::of(&guarded.database);
    // A gigabyte a second.
    let hungry = Answer::rows(1)
        .taking(ms(2500))
        .growing_to(mib(2500))
        .untracked(1.0);
    guarded.database.answer("q", hungry);
    let ward = guarded.guard(&seat, settings());
    let failed = ward
        .run(&seat.connection, &job("q"), &mut Plain(&seat, "q"))
        .err()
        .unwrap();
    assert_eq!(failed.error.kind(), ErrorKind::Memory);
    let first = &failed.report.attempts[0];
    assert!(first.peak >= mib(900) && first.seconds < 2.0, "{first:?}");
}

#[test]
fn a_cancel_from_another_thread_ends_a_query_soon() {
    let guarded = Guarded::new();
    let seat = Seat::of(&guarded.database);
    guarded
        .database
        .answer("q", Answer::rows(1).taking(Duration::from_secs(60)).deaf_to(2));
    let ward = guarded.guard(&seat, settings());
    std::thread::scope(|scope| {
        scope.spawn(|| guarded.soon("a query to cancel", || ward.cancel() == 1));
        let failed = ward
            .run(&seat.connection, &job("q"), &mut Plain(&seat, "q"))
            .err()
            .unwrap();
        assert_eq!(failed.error.kind(), ErrorKind::Cancelled);
        assert!(failed.report.seconds < 5.0);
    });
}

#[test]
fn a_time_limit_shorter_than_the_watchers_sleep_is_kept() {
    let guarded = Guarded::new();
    let seat = Seat::of(&guarded.database);
    guarded
        .database
        .answer("q", Answer::rows(1).taking(Duration::from_secs(60)));
    let limited = Settings {
        memory: duckward::units::Memory::Size(mib(15 << 10)),
        query_timeout: Some(ms(50)),
        ..settings()
    };
    let ward = guarded.guard(&seat, limited);
    // The watcher is calm, and asleep for a second.
    guarded.clock.sleep(ms(100));
    let failed = ward
        .run(&seat.connection, &job("q"), &mut Plain(&seat, "q"))
        .err()
        .unwrap();
    assert_eq!(failed.error.kind(), ErrorKind::Timeout);
    assert!(failed.report.seconds < 0.8, "{}", failed.report.seconds);
}

#[test]
fn a_statement_of_the_guards_own_that_hangs_does_not_stop_the_watcher() {
    let guarded = Guarded::new();
    let seat = Seat::of(&guarded.database);
    let ward = guarded.guard(&seat, settings());
    guarded.database.own_statements_take(ms(2000));
    guarded.process.host_holds(mib(780));
    guarded.soon("warning", || ward.level() == Level::Warning);
    // The responder hangs in its clean-up now.
    guarded.clock.sleep(ms(50));
    let began = guarded.clock.now();
    guarded.process.host_holds(mib(920));
    guarded.soon("emergency", || ward.level() == Level::Emergency);
    assert!(guarded.clock.now().since(began) < ms(1500));
    guarded.database.own_statements_take(Duration::ZERO);
}

#[test]
fn a_ward_that_closes_while_the_responder_works_leaves_nothing_changed() {
    let guarded = Guarded::new();
    let before = guarded.database.settings();
    for round in 0..20u64 {
        let seat = Seat::of(&guarded.database);
        let ward = guarded.guard(&seat, settings());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut host = 0;
                while !stop.load(Ordering::Relaxed) {
                    host = (host + 97) % 700;
                    guarded.process.host_holds(mib(host));
                    guarded.guardian.wake();
                    guarded.guardian.respond();
                }
            });
            guarded.clock.sleep(ms(round % 7));
            ward.close();
            stop.store(true, Ordering::Relaxed);
        });
        guarded.process.host_holds(mib(0));
        guarded.guardian.respond();
        assert_eq!(guarded.database.settings(), before, "round {round}");
    }
}
