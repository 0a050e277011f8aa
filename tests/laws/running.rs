//! One query, from the call to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use duckward::clock::Clock;
use duckward::engine::Class;
use duckward::engine::scripted::Answer;
use duckward::error::ErrorKind;
use duckward::event::What;
use duckward::fallback::ladder::Rung;
use duckward::settings::Settings;
use duckward::ward::Outcome;

use crate::rig::{Rig, job, mib, ms, read, settings};

const OUT_OF_MEMORY: &str = "Out of Memory Error: could not allocate block";

fn conflict() -> Answer {
    Answer::error(Class::Transaction, "TransactionContext Error: conflict on tuple")
}

fn out_of_memory() -> Answer {
    Answer::error(Class::OutOfMemory, OUT_OF_MEMORY)
}

#[test]
fn an_answer_comes_whole_and_once_and_everything_is_given_back() {
    let rig = Rig::new();
    rig.answers("q", [Answer::rows(5000).taking(ms(300)).growing_to(mib(100))]);
    let (ward, seat) = rig.ward();
    let report = rig.run(&ward, &seat, "q").unwrap();
    assert_eq!((report.rows, report.outcome), (Some(5000), Outcome::Answered));
    assert_eq!((report.attempts.len(), rig.asked("q")), (1, 1));
    assert!(
        report.peak >= mib(150) && (0.3..0.4).contains(&report.seconds),
        "{report:?}"
    );
    assert!(seat.connection.active().is_none());
    rig.nothing_is_held();
}

#[test]
fn a_conflict_is_tried_again_after_waits_that_double_and_then_refused() {
    let rig = Rig::new();
    rig.answers("q", [conflict()]);
    let (ward, seat) = rig.ward();
    let began = rig.clock.now();
    let failed = rig.run(&ward, &seat, "q").unwrap_err();
    let waited = rig.clock.now().since(began);
    assert_eq!((failed.error.kind(), rig.asked("q")), (ErrorKind::Transaction, 4));
    assert!(
        (ms(7000)..ms(9000)).contains(&waited),
        "1 + 2 + 4 s with up to a quarter more: {waited:?}"
    );
    assert!(
        failed.error.message().contains("4 times in a row"),
        "{}",
        failed.error
    );
    rig.nothing_is_held();
}

#[test]
fn a_conflict_that_time_mends_is_answered() {
    let rig = Rig::new();
    rig.answers("q", [conflict(), conflict(), Answer::rows(1)]);
    let (ward, seat) = rig.ward();
    let report = rig.run(&ward, &seat, "q").unwrap();
    assert_eq!((report.attempts.len(), report.rows), (3, Some(1)));
}

#[test]
fn without_memory_it_runs_degraded_and_the_settings_are_degraded_only_meanwhile() {
    let rig = Rig::new();
    rig.answers("q", [out_of_memory(), Answer::rows(10)]);
    let seat = rig.seat();
    let ward = rig.guard(
        &seat,
        Settings {
            keep_order: false,
            ..settings()
        },
    );
    let before = rig.database.settings();
    let mut caller = rig.caller(&seat, "q");
    let (stream, ticket) = ward.run(&seat.connection, &job("q"), &mut caller).unwrap();
    let one = "1".to_owned();
    assert_eq!(
        caller.attempts,
        [(Rung::AsIs, "8".to_owned()), (Rung::Degraded, one.clone())]
    );
    let degraded = [
        "threads",
        "preserve_insertion_order",
        "write_buffer_row_group_count",
    ]
    .map(|name| rig.database.setting(name).unwrap());
    assert_eq!(degraded, [one.clone(), "false".to_owned(), one]);
    let report = read(stream, ticket).unwrap();
    assert!(report.why.contains("out of memory"), "{}", report.why);
    assert_eq!(rig.database.settings(), before);
}

#[test]
fn a_shape_that_needed_the_degraded_rung_starts_there_the_next_time() {
    let rig = Rig::new();
    rig.answers("q where a = 1", [out_of_memory(), Answer::rows(1)]);
    rig.answers("q where a = 2", [Answer::rows(1)]);
    let (ward, seat) = rig.ward();
    rig.run(&ward, &seat, "q where a = 1").unwrap();
    let report = rig.run(&ward, &seat, "q where a = 2").unwrap();
    assert_eq!((report.rung(), report.attempts.len()), (Some(Rung::Degraded), 1));
}

#[test]
fn a_query_that_fits_nowhere_is_refused_with_the_fix_and_the_need() {
    let rig = Rig::new();
    rig.answers("q", [out_of_memory()]);
    let (ward, seat) = rig.ward();
    let mut caller = rig.caller(&seat, "q");
    caller.plan = Some(r#"[{"name":"HASH_GROUP_BY","extra_info":{"Aggregates":["median(#1)"]}}]"#.to_owned());
    let failed = ward.run(&seat.connection, &job("q"), &mut caller).err().unwrap();
    assert_eq!((failed.error.kind(), rig.asked("q")), (ErrorKind::Memory, 2));
    for part in [
        "as is, degraded",
        "raise memory=",
        "1.2 GiB",
        "median cannot spill",
        OUT_OF_MEMORY,
    ] {
        assert!(failed.error.message().contains(part), "{part}: {}", failed.error);
    }
    assert_eq!(rig.database.setting("threads").as_deref(), Some("8"));
    rig.nothing_is_held();
}

fn refused_by_the_system() -> Answer {
    Answer::error(
        Class::OutOfMemory,
        "Out of Memory Error: Failed to allocate block (bad allocation)",
    )
}

#[test]
fn what_grew_faster_than_it_can_be_stopped_does_not_run_where_nothing_would_hold_it() {
    let rig = Rig::new();
    rig.answers("q", [refused_by_the_system()]);
    let (ward, seat) = rig.ward();
    rig.process.maps(mib(2000));
    let failed = rig.run(&ward, &seat, "q").unwrap_err();
    assert_eq!(
        (failed.error.kind(), rig.asked("q")),
        (ErrorKind::Memory, 1),
        "not degraded either"
    );
    let failed = rig.run(&ward, &seat, "q").unwrap_err();
    assert_eq!(
        (failed.error.kind(), rig.asked("q")),
        (ErrorKind::Memory, 1),
        "not even tried"
    );
    assert!(
        failed
            .error
            .message()
            .contains("grew faster than an interrupt stops it")
    );
    // Another statement is, and this one as soon as it would be held.
    rig.answers("other", [Answer::rows(1)]);
    rig.run(&ward, &seat, "other").unwrap();
    rig.process.maps(mib(0));
    rig.run(&ward, &seat, "q").unwrap_err();
    assert_eq!(rig.asked("q"), 3, "as is and degraded");
    rig.nothing_is_held();
}

#[test]
fn what_was_answered_on_another_rung_is_not_taken_for_unstoppable() {
    let rig = Rig::new();
    rig.answers("q", [refused_by_the_system(), Answer::rows(1)]);
    let (ward, seat) = rig.ward();
    let report = rig.run(&ward, &seat, "q").unwrap();
    assert_eq!((report.rung(), report.attempts.len()), (Some(Rung::Degraded), 2));
    rig.process.maps(mib(2000));
    assert_eq!(rig.run(&ward, &seat, "q").unwrap().rows, Some(1));
}

#[test]
fn nothing_runs_again_inside_a_transaction_nor_after_its_statement_was_refused() {
    for (answer, in_transaction, kind) in [
        (out_of_memory(), true, ErrorKind::Memory),
        (conflict(), true, ErrorKind::Transaction),
        (
            Answer::error(Class::Statement, "Parser Error: x"),
            false,
            ErrorKind::Query,
        ),
        (
            Answer::error(Class::Constraint, "Constraint Error: x"),
            false,
            ErrorKind::Query,
        ),
        (
            Answer::error(Class::Fatal, "FATAL Error: x"),
            false,
            ErrorKind::Connection,
        ),
    ] {
        let rig = Rig::new();
        rig.answers("q", [answer]);
        let (ward, seat) = rig.ward();
        let mut caller = rig.caller(&seat, "q");
        caller.in_transaction = in_transaction;
        let failed = ward.run(&seat.connection, &job("q"), &mut caller).err().unwrap();
        assert_eq!((failed.error.kind(), rig.asked("q")), (kind, 1));
        assert_eq!(
            failed.error.message().contains("ROLLBACK"),
            in_transaction,
            "{}",
            failed.error
        );
        rig.nothing_is_held();
    }
}

#[test]
fn an_answer_that_fails_after_some_rows_is_never_handed_out_twice() {
    let rig = Rig::new();
    rig.answers(
        "q",
        [Answer::rows(2048).then_error(Class::OutOfMemory, OUT_OF_MEMORY)],
    );
    let (ward, seat) = rig.ward();
    let failed = rig.run(&ward, &seat, "q").unwrap_err();
    assert_eq!((failed.error.kind(), rig.asked("q")), (ErrorKind::Memory, 1));
    assert!(
        failed.error.message().contains("after 2048 rows"),
        "{}",
        failed.error
    );
    let names = rig.story.names();
    assert!(
        names.ends_with(&["attempt_started", "attempt_failed", "query_ended"]),
        "{names:?}"
    );
    rig.nothing_is_held();
}

#[test]
fn a_cancel_ends_the_query_and_starts_no_retry() {
    let rig = Rig::new();
    rig.answers("q", [Answer::rows(1).taking(Duration::from_secs(60))]);
    let (ward, seat) = rig.ward();
    let began = rig.clock.now();
    let canceller = Arc::clone(&ward);
    rig.clock
        .after(ms(1000), move || assert_eq!(canceller.cancel(), 1));
    let failed = rig.run(&ward, &seat, "q").unwrap_err();
    assert_eq!((failed.error.kind(), rig.asked("q")), (ErrorKind::Cancelled, 1));
    assert!(rig.clock.now().since(began) <= ms(1250));
    rig.answers("next", [Answer::rows(1)]);
    assert_eq!(
        rig.run(&ward, &seat, "next").unwrap().rows,
        Some(1),
        "the connection can be used"
    );
}

#[test]
fn a_query_that_was_cancelled_is_not_tried_again_whatever_it_failed_of() {
    for answer in [out_of_memory(), conflict()] {
        let rig = Rig::new();
        rig.answers("q", [answer.taking(ms(100)).deaf_to(99)]);
        let (ward, seat) = rig.ward();
        let canceller = Arc::clone(&ward);
        rig.clock.after(ms(50), move || assert_eq!(canceller.cancel(), 1));
        let failed = rig.run(&ward, &seat, "q").unwrap_err();
        assert_eq!((failed.error.kind(), rig.asked("q")), (ErrorKind::Cancelled, 1));
    }
}

#[test]
fn a_cancel_ends_a_query_that_waits_in_line_or_for_its_next_attempt() {
    let rig = Rig::new();
    rig.answers("q", [conflict()]);
    rig.answers("open", [Answer::rows(5000)]);
    let seat = rig.seat();
    let ward = rig.guard(
        &seat,
        Settings {
            max_concurrent: 1,
            ..settings()
        },
    );
    let cancel_soon = || {
        let canceller = Arc::clone(&ward);
        rig.clock
            .after(ms(300), move || assert_eq!(canceller.cancel(), 1));
    };
    cancel_soon();
    let failed = rig.run(&ward, &seat, "q").unwrap_err();
    assert_eq!((failed.error.kind(), rig.asked("q")), (ErrorKind::Cancelled, 1));
    let other = rig.seat();
    // Not added to the ward: its answer is not the ward's to cancel.
    let open = rig.open(&ward, &other, "open").unwrap();
    let began = rig.clock.now();
    cancel_soon();
    let failed = rig.run(&ward, &seat, "q").unwrap_err();
    assert_eq!((failed.error.kind(), rig.asked("q")), (ErrorKind::Cancelled, 1));
    assert!(rig.clock.now().since(began) <= ms(550));
    drop(open);
    rig.nothing_is_held();
}

#[test]
fn giving_up_while_it_waits_for_the_next_attempt_is_final() {
    let rig = Rig::new();
    rig.answers("q", [conflict()]);
    let (ward, seat) = rig.ward();
    let mut caller = rig.caller(&seat, "q");
    caller.quits = Some(rig.clock.now() + ms(1500));
    let failed = ward.run(&seat.connection, &job("q"), &mut caller).err().unwrap();
    assert_eq!(failed.error.kind(), ErrorKind::Cancelled);
    assert!(rig.asked("q") <= 2);
    rig.nothing_is_held();
}

#[test]
fn a_query_over_its_time_is_stopped_also_when_interrupts_are_lost_and_the_story_says_so() {
    let rig = Rig::new();
    rig.answers("q", [Answer::rows(1).taking(Duration::from_secs(60)).deaf_to(3)]);
    let seat = rig.seat();
    let ward = rig.guard(
        &seat,
        Settings {
            query_timeout: Some(ms(2000)),
            ..settings()
        },
    );
    let began = rig.clock.now();
    let failed = rig.run(&ward, &seat, "q").unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Timeout);
    assert!(
        failed.error.message().contains("query_timeout="),
        "{}",
        failed.error
    );
    // Three lost interrupts, and an answer to the fourth.
    assert!(rig.clock.now().since(began) <= ms(2200));
    assert_eq!(rig.interrupts().len(), 4);
    assert!(rig.story.any(|what| matches!(
        what,
        What::QueryInterrupted { query: Some(_), reason } if reason.contains("query_timeout")
    )));
}

#[test]
fn a_commit_is_never_interrupted_and_never_run_again() {
    let rig = Rig::new();
    rig.answers(
        "COMMIT",
        [conflict().taking(ms(3000)).growing_to(mib(5000)).untracked(1.0)],
    );
    let seat = rig.seat();
    let ward = rig.guard(
        &seat,
        Settings {
            query_timeout: Some(ms(100)),
            ..settings()
        },
    );
    let canceller = Arc::clone(&ward);
    rig.clock
        .after(ms(1000), move || assert_eq!(canceller.cancel(), 0));
    let guardian = Arc::clone(&rig.guardian);
    rig.clock.after(ms(1100), move || guardian.signal());
    let failed = rig.run(&ward, &seat, "COMMIT").unwrap_err();
    assert!(rig.story.any(|what| matches!(
        what,
        What::LevelChanged {
            to: duckward::Level::Emergency,
            ..
        }
    )));
    assert_eq!(
        (failed.error.kind(), rig.asked("COMMIT")),
        (ErrorKind::Transaction, 1)
    );
    assert_eq!(rig.interrupts(), []);
}

#[test]
fn ctrl_c_stops_only_what_runs_on_its_thread() {
    let rig = Rig::new();
    rig.answers("q", [Answer::rows(1).taking(ms(2000))]);
    let (ward, seat) = rig.ward();
    let guardian = Arc::clone(&rig.guardian);
    rig.clock.after(ms(100), move || guardian.signal());
    let elsewhere = duckward::ward::Job {
        heeds_signals: false,
        cutting: duckward::ward::Cutting::Auto,
        verify: duckward::ward::Verify::Counts,
        by_piece: false,
        ..job("q")
    };
    let mut caller = rig.caller(&seat, "q");
    assert!(ward.run(&seat.connection, &elsewhere, &mut caller).is_ok());
    let guardian = Arc::clone(&rig.guardian);
    rig.clock.after(ms(100), move || guardian.signal());
    let seat = rig.seat();
    ward.add(&seat.connection);
    assert_eq!(
        rig.run(&ward, &seat, "q").unwrap_err().error.kind(),
        ErrorKind::Cancelled
    );
}

#[test]
fn a_host_that_panics_leaves_permit_and_connection_free() {
    let rig = Rig::new();
    let (ward, seat) = rig.ward();
    let outcome = catch_unwind(AssertUnwindSafe(|| rig.run(&ward, &seat, "panic").is_ok()));
    assert!(outcome.is_err());
    assert!(seat.connection.active().is_none());
    rig.nothing_is_held();
    assert_eq!(rig.database.setting("threads").as_deref(), Some("8"));
}

#[test]
fn a_connection_with_an_unread_answer_refuses_the_next_query_at_once() {
    let rig = Rig::new();
    rig.answers("q", [out_of_memory(), Answer::rows(5000)]);
    let (ward, seat) = rig.ward();
    let (stream, ticket) = rig.open(&ward, &seat, "q").unwrap();
    let began = rig.clock.now();
    let failed = rig.run(&ward, &seat, "q").unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Connection);
    assert!(
        rig.clock.now().since(began) < ms(100),
        "it does not wait for its own caller"
    );
    assert_eq!(read(stream, ticket).unwrap().rows, Some(5000));
}

#[test]
fn the_degraded_rung_runs_alone() {
    let rig = Rig::new();
    rig.answers("open", [Answer::rows(5000)]);
    rig.answers("q", [out_of_memory(), Answer::rows(5000)]);
    let patient = Settings {
        wait: ms(500),
        ..settings()
    };
    let seats = [rig.seat(), rig.seat()];
    let ward = rig.guard(&seats[0], patient);
    ward.add(&seats[1].connection);
    let (stream, ticket) = rig.open(&ward, &seats[0], "open").unwrap();
    let failed = rig.run(&ward, &seats[1], "q").unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Timeout, "{}", failed.error);
    assert!(failed.error.message().contains("runs alone"), "{}", failed.error);
    drop((stream, ticket));
    rig.answers("r", [out_of_memory(), Answer::rows(5000)]);
    let (stream, ticket) = rig.open(&ward, &seats[1], "r").unwrap();
    let failed = rig.run(&ward, &seats[0], "open").unwrap_err();
    assert_eq!(
        failed.error.kind(),
        ErrorKind::Timeout,
        "others wait for it: {}",
        failed.error
    );
    drop((stream, ticket));
    assert!(rig.run(&ward, &seats[0], "open").is_ok());
}

#[test]
fn an_answer_that_is_dropped_unread_gives_everything_back() {
    let rig = Rig::new();
    rig.answers("q", [out_of_memory(), Answer::rows(5000)]);
    let (ward, seat) = rig.ward();
    drop(rig.open(&ward, &seat, "q").unwrap());
    assert!(seat.connection.active().is_none());
    assert_eq!(rig.database.setting("threads").as_deref(), Some("8"));
    rig.nothing_is_held();
    assert!(rig.story.names().ends_with(&["query_ended"]));
}

#[test]
fn a_ward_closed_under_a_degraded_answer_leaves_nothing_changed() {
    let rig = Rig::new();
    rig.answers("q", [out_of_memory(), Answer::rows(5000)]);
    let before = rig.database.settings();
    let (ward, seat) = rig.ward();
    let open = rig.open(&ward, &seat, "q").unwrap();
    ward.close();
    assert_eq!(rig.database.settings(), before);
    drop(open);
    assert_eq!(rig.database.settings(), before);
    rig.nothing_is_held();
}

#[test]
fn the_events_tell_the_whole_story_in_order() {
    let rig = Rig::new();
    rig.answers("q", [conflict(), out_of_memory(), Answer::rows(3)]);
    let (ward, seat) = rig.ward();
    rig.run(&ward, &seat, "q").unwrap();
    ward.close();
    let told: Vec<String> = rig
        .story
        .events()
        .iter()
        .filter_map(|event| match &event.what {
            What::AttemptStarted { attempt, rung, .. } => Some(format!("start {attempt} {rung}")),
            What::AttemptFailed { attempt, failure, .. } => Some(format!("fail {attempt} {failure}")),
            What::QueryEnded {
                error,
                attempts,
                rows,
                ..
            } => Some(format!("end {error:?} {attempts} {rows:?}")),
            What::GuardStarted { .. } => Some("guard".to_owned()),
            What::GuardStopped { left, .. } => Some(format!("close {left:?}")),
            _ => None,
        })
        .collect();
    assert_eq!(
        told,
        [
            "guard",
            "start 1 as is",
            "fail 1 transaction conflict",
            "start 2 as is",
            "fail 2 out of memory",
            "start 3 degraded",
            "end None 3 Some(3)",
            "close []",
        ]
    );
}
