//! Memory that rises and falls, and what the guard does about it.

use std::sync::Arc;
use std::time::Duration;

use duckward::Level;
use duckward::clock::Clock;
use duckward::engine::Class;
use duckward::engine::scripted::{Answer, Asked};
use duckward::error::ErrorKind;
use duckward::event::What;
use duckward::guard::reading::CgroupMemory;
use duckward::settings::Settings;
use duckward::units::Bytes;

use crate::rig::{Rig, asked, engine_error, mib, ms, read, settings};

/// Calm settings: nothing but what a law is about.
fn only(on: impl Fn(&mut Settings)) -> Settings {
    let mut settings = Settings {
        elastic: false,
        clean_up: false,
        limit_concurrency: false,
        limit_memory: false,
        queue_new: false,
        refuse_new: false,
        spill_early: false,
        lower_checkpoint: false,
        interrupt: false,
        ..settings()
    };
    on(&mut settings);
    settings
}

fn growing(to: u64, seconds: u64) -> Answer {
    let curve = vec![(Duration::from_secs(seconds), mib(to))];
    Answer::rows(1 << 20).along(curve).untracked(1.0)
}

/// The first error of a stream that was interrupted.
fn error_of(stream: duckward::engine::Stream) -> Option<Class> {
    stream
        .into_iter()
        .find_map(|batch| batch.err())
        .map(|error| engine_error(error).class)
}

#[test]
fn an_emergency_interrupts_the_largest_first_and_verifies_that_memory_fell() {
    let rig = Rig::new();
    rig.answers("small", [growing(100, 10)]);
    rig.answers("large", [growing(900, 10)]);
    let seats = [rig.seat(), rig.seat()];
    let ward = rig.guard(&seats[0], only(|settings| settings.interrupt = true));
    ward.add(&seats[1].connection);
    let small = rig.open(&ward, &seats[0], "small").unwrap();
    let (stream, ticket) = rig.open(&ward, &seats[1], "large").unwrap();
    while rig.interrupts().is_empty() {
        rig.clock.sleep(ms(1));
        assert!(rig.process.anonymous() <= mib(1000), "too late");
    }
    assert_eq!(ward.level(), Level::Emergency);
    assert_eq!(rig.interrupts()[0].as_deref(), Some("large"));
    assert!(rig.process.anonymous() >= mib(950), "too early");
    let failed = read(stream, ticket).unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Memory);
    assert!(
        failed.error.message().contains("interrupted by the guard"),
        "{}",
        failed.error
    );
    rig.clock.sleep(ms(3000));
    assert!(
        rig.story
            .any(|what| matches!(what, What::ReliefVerified { fell: true, .. }))
    );
    assert!(
        rig.interrupts().iter().all(|hit| hit.as_deref() == Some("large")),
        "the small one goes on"
    );
    drop(small);
}

#[test]
fn relief_that_does_not_come_is_said() {
    let rig = Rig::new();
    let (ward, _seat) = (rig.guard(&rig.seat(), only(|_| ())), ());
    rig.process.host_holds(mib(920));
    rig.clock.sleep(Duration::from_secs(8));
    assert_eq!(ward.level(), Level::Emergency);
    assert!(
        rig.story
            .any(|what| matches!(what, What::ReliefVerified { fell: false, .. }))
    );
}

#[test]
fn a_query_the_guard_interrupted_waits_until_memory_fell_and_runs_degraded() {
    let rig = Rig::new();
    let spill = Answer::rows(7)
        .taking(ms(2000))
        .growing_to(mib(300))
        .untracked(1.0);
    rig.answers(
        "q",
        [
            Answer::rows(7)
                .taking(ms(5000))
                .growing_to(mib(3000))
                .untracked(1.0),
            spill,
        ],
    );
    let (ward, seat) = rig.ward();
    let report = rig.run(&ward, &seat, "q").unwrap();
    assert_eq!((report.attempts.len(), report.rows), (2, Some(7)));
    assert!(report.peak <= mib(1000), "{}", report.peak);
    assert!(report.why.contains("interrupted by the guard"), "{}", report.why);
    rig.nothing_is_held();
}

#[test]
fn what_the_host_runs_itself_is_interrupted_only_when_memory_grows_and_nothing_of_ours_runs() {
    let rig = Rig::new();
    rig.answers("theirs", [growing(2000, 10)]);
    rig.answers("ours", [growing(10, 10)]);
    let (theirs, ours) = (rig.seat(), rig.seat());
    let ward = rig.guard(&theirs, only(|settings| settings.interrupt = true));
    ward.add(&ours.connection);
    let stream = theirs.session.query("theirs").unwrap();
    rig.clock.sleep(ms(6000));
    assert!(rig.interrupts().contains(&Some("theirs".to_owned())));
    assert_eq!(error_of(stream), Some(Class::Interrupt));
    let sent = rig.interrupts().len();
    rig.process.host_holds(mib(900));
    rig.clock.sleep(Duration::from_secs(3));
    let open = rig.open(&ward, &ours, "ours").unwrap();
    rig.clock.sleep(Duration::from_secs(1));
    assert!(rig.interrupts()[sent..].iter().flatten().all(|hit| hit == "ours"));
    drop(open);
}

#[test]
fn responses_are_taken_as_memory_rises_and_undone_in_reverse_as_it_falls() {
    let rig = Rig::new();
    let seat = rig.seat();
    let ward = rig.guard(
        &seat,
        Settings {
            row_cap: Some(10),
            ..settings()
        },
    );
    rig.database.user_sets("checkpoint_threshold", "64.0 MiB");
    rig.clock.sleep(Duration::from_secs(2));
    let before = rig.database.settings();
    rig.story.clear();
    for host in [680, 780, 880, 930] {
        rig.process.host_holds(mib(host));
        rig.clock.sleep(Duration::from_secs(2));
    }
    assert_eq!(
        (ward.level(), rig.guardian.row_cap()),
        (Level::Emergency, Some(10))
    );
    let pressed = ["threads", "checkpoint_threshold"].map(|name| rig.database.setting(name).unwrap());
    assert_eq!(pressed, ["1", "1MiB"]);
    assert!(rig.database.memory_limit() < mib(100));
    for host in [860, 760, 600, 0] {
        rig.process.host_holds(mib(host));
        rig.clock.sleep(Duration::from_secs(4));
    }
    assert_eq!((ward.level(), rig.guardian.actions().len()), (Level::Normal, 0));
    assert_eq!(rig.database.settings(), before);
    let mut stack = Vec::new();
    for event in rig.story.events() {
        match event.what {
            What::ActionTaken { action, .. } if action != "clean_up" => stack.push(action),
            What::ActionUndone { action, .. } => assert_eq!(stack.pop(), Some(action), "not in reverse"),
            What::ActionFailed { action, reason } => panic!("{action}: {reason}"),
            _ => {}
        }
    }
    assert_eq!(stack, Vec::<String>::new());
}

#[test]
fn responses_that_are_off_are_not_taken() {
    let rig = Rig::new();
    let before = rig.database.settings();
    let ward = rig.guard(&rig.seat(), only(|_| ()));
    rig.process.host_holds(mib(980));
    rig.clock.sleep(Duration::from_secs(10));
    assert_eq!((ward.level(), rig.guardian.actions()), (Level::Emergency, vec![]));
    assert_eq!(rig.database.settings(), before);
}

#[test]
fn a_level_is_entered_at_once_and_left_late() {
    let rig = Rig::new();
    let ward = rig.guard(&rig.seat(), only(|_| ()));
    rig.process.host_holds(mib(760));
    rig.clock.read();
    assert_eq!(ward.level(), Level::Warning);
    rig.process.host_holds(mib(710));
    rig.clock.sleep(Duration::from_secs(5));
    assert_eq!(
        ward.level(),
        Level::Warning,
        "760 of 1000 is above 80 % less the hysteresis"
    );
    rig.process.host_holds(mib(690));
    rig.clock.read();
    rig.clock.sleep(ms(900));
    assert_eq!(ward.level(), Level::Warning, "not before the dwell");
    rig.clock.sleep(ms(1200));
    assert_eq!(ward.level(), Level::Caution);
}

#[test]
fn the_limit_holds_when_the_ward_is_there_and_is_given_back_whole_when_it_goes() {
    for theirs in [None, Some("300MB")] {
        let rig = Rig::new();
        if let Some(theirs) = theirs {
            rig.database.user_sets("memory_limit", theirs);
        }
        let (before, holds) = (rig.database.settings(), rig.database.memory_limit());
        let ward = rig.ward().0;
        let room = mib(780 - 50).min(holds);
        assert!(
            rig.database.memory_limit().get().abs_diff(room.get()) < 1 << 20,
            "{theirs:?}"
        );
        ward.close();
        assert_eq!(rig.database.settings(), before);
        // DuckDB prints a limit with one decimal, so that is as exactly as it is known.
        assert!(
            rig.database.memory_limit().get().abs_diff(holds.get()) <= mib(1).get() / 10,
            "{theirs:?}"
        );
    }
}

#[test]
fn a_limit_that_duckdb_refuses_leaves_the_one_that_was_there() {
    let rig = Rig::new();
    rig.database.user_sets("memory_limit", "900MB");
    let holds = rig.database.memory_limit();
    rig.database.refuses("memory_limit", true);
    let ward = rig.ward().0;
    rig.process.host_holds(mib(500));
    rig.clock.sleep(Duration::from_secs(5));
    assert!(rig.database.memory_limit().get().abs_diff(holds.get()) <= mib(1).get() / 10);
    rig.database.refuses("memory_limit", false);
    rig.clock.sleep(Duration::from_secs(5));
    ward.close();
    assert!(rig.database.memory_limit().get().abs_diff(holds.get()) <= mib(1).get() / 10);
}

#[test]
fn the_limit_follows_the_rest_of_the_process_and_does_not_oscillate() {
    let rig = Rig::new();
    rig.answers("q", [growing(200, 5)]);
    let (ward, seat) = rig.ward();
    let open = rig.open(&ward, &seat, "q").unwrap();
    rig.clock.sleep(Duration::from_secs(6));
    rig.process.host_holds(mib(300));
    rig.clock.sleep(Duration::from_secs(2));
    let lowered = rig.database.memory_limit();
    // 780 less 50 for the process, 200 past the buffer manager and 300 of the host's.
    assert!(lowered >= mib(222) && lowered <= mib(230), "{lowered}");
    let changes = || {
        let limit = |asked: &Asked| matches!(asked, Asked::Statement(sql) if sql.starts_with("SET GLOBAL memory_limit"));
        rig.database.asked().iter().filter(|asked| limit(asked)).count()
    };
    let before = changes();
    for step in 0..120u64 {
        rig.process.host_holds(mib(300 + step % 5));
        rig.clock.sleep(ms(500));
    }
    assert!(
        changes() - before <= 2,
        "{} changes for noise of 4 MiB",
        changes() - before
    );
    rig.process.host_holds(mib(0));
    rig.clock.sleep(Duration::from_secs(5));
    assert!(
        rig.database.memory_limit() >= mib(520),
        "{}",
        rig.database.memory_limit()
    );
    drop(open);
}

#[test]
fn pages_that_an_allocator_keeps_do_not_lower_the_limit_for_good() {
    let rig = Rig::new();
    rig.process.keeps_freed(true);
    rig.answers("q", [Answer::rows(1).taking(ms(3000)).growing_to(mib(500))]);
    let (ward, seat) = rig.ward();
    let before = rig.database.memory_limit();
    rig.run(&ward, &seat, "q").unwrap();
    rig.clock.sleep(Duration::from_secs(5));
    rig.answers("r", [Answer::rows(1).taking(ms(3000))]);
    rig.run(&ward, &seat, "r").unwrap();
    let after = rig.database.memory_limit();
    assert!(after >= before.times(0.9), "{before} then {after}");
}

#[test]
fn new_queries_wait_in_critical_and_are_refused_in_an_emergency() {
    let rig = Rig::new();
    let patient = only(|settings| {
        (settings.queue_new, settings.refuse_new, settings.wait) = (true, true, ms(2000));
    });
    rig.answers("q", [Answer::rows(5000)]);
    let seats = [rig.seat(), rig.seat()];
    let ward = rig.guard(&seats[0], patient);
    rig.process.host_holds(mib(860));
    rig.clock.read();
    let open = rig.open(&ward, &seats[0], "q").unwrap();
    let failed = rig.run(&ward, &seats[1], "q").unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Timeout, "{}", failed.error);
    let process = rig.process.clone();
    rig.clock.after(ms(500), move || process.host_holds(Bytes(0)));
    assert!(
        rig.run(&ward, &seats[1], "q").is_ok(),
        "it waited until memory fell"
    );
    drop(open);
    rig.process.host_holds(mib(930));
    rig.clock.read();
    let failed = rig.run(&ward, &seats[1], "q").unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Memory);
    assert!(
        failed.error.message().contains("98 % of the budget"),
        "{}",
        failed.error
    );
    rig.nothing_is_held();
}

#[test]
fn two_queries_whose_known_needs_do_not_fit_together_run_one_after_the_other() {
    let rig = Rig::new();
    let need = |sql: &str| {
        rig.answers(
            sql,
            [Answer::rows(5000)
                .taking(ms(4000))
                .growing_to(mib(450))
                .untracked(0.9)],
        );
    };
    need("a");
    need("b");
    let seats = [rig.seat(), rig.seat()];
    let ward = rig.guard(
        &seats[0],
        Settings {
            wait: ms(1000),
            ..settings()
        },
    );
    for sql in ["a", "b"] {
        rig.run(&ward, &seats[0], sql).unwrap();
    }
    rig.clock.sleep(Duration::from_secs(3));
    let open = rig.open(&ward, &seats[0], "a").unwrap();
    let failed = rig.run(&ward, &seats[1], "b").unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Timeout);
    assert!(failed.error.message().contains("do not fit"), "{}", failed.error);
    drop(open);
    assert!(rig.run(&ward, &seats[1], "b").is_ok());
}

#[test]
fn a_cgroup_that_is_fuller_than_the_budget_sets_the_level() {
    let rig = Rig::new();
    let ward = rig.guard(&rig.seat(), only(|_| ()));
    rig.process.in_cgroup(Some(CgroupMemory {
        used: mib(1900),
        limit: mib(2000),
    }));
    rig.clock.sleep(Duration::from_secs(2));
    assert_eq!(
        (ward.level(), ward.status().bound.as_str()),
        (Level::Emergency, "cgroup")
    );
}

#[test]
fn clean_up_flushes_and_an_emergency_on_and_off_again_before_it_is_answered_ends_as_it_is() {
    let rig = Rig::new();
    let ward = rig.guard(&rig.seat(), settings());
    // Without the responder: the watcher alone goes up, down and up.
    for (host, wait) in [(930, 10), (0, 1500), (930, 10)] {
        rig.process.host_holds(mib(host));
        let until = rig.clock.now() + ms(wait);
        while rig.clock.now() < until {
            rig.guardian.tick();
            rig.clock.pass(ms(10));
        }
    }
    assert_eq!(ward.level(), Level::Emergency);
    rig.guardian.respond();
    assert_eq!(
        rig.database.setting("checkpoint_threshold").as_deref(),
        Some("1MiB")
    );
    assert!(asked(&rig.database, "CHECKPOINT") > 0, "deep, as nothing runs");
    ward.close();
    assert_eq!(
        rig.database.setting("checkpoint_threshold").as_deref(),
        Some("16.0 MiB")
    );
}

#[test]
fn the_end_of_an_emergency_leaves_the_degraded_rung_its_one_thread() {
    let rig = Rig::new();
    rig.answers(
        "q",
        [
            Answer::error(Class::OutOfMemory, "Out of Memory Error: x"),
            Answer::rows(5000),
        ],
    );
    let (ward, seat) = (rig.seat(), rig.seat());
    let guarded = rig.guard(
        &ward,
        Settings {
            refuse_new: false,
            queue_new: false,
            ..settings()
        },
    );
    rig.process.host_holds(mib(930));
    rig.clock.sleep(ms(100));
    assert_eq!(
        rig.database.setting("threads").as_deref(),
        Some("1"),
        "operators spill early"
    );
    let open = rig.open(&guarded, &seat, "q").unwrap();
    rig.process.host_holds(Bytes(0));
    rig.clock.sleep(Duration::from_secs(5));
    assert_eq!(guarded.level(), Level::Normal);
    assert_eq!(
        rig.database.setting("threads").as_deref(),
        Some("1"),
        "the degraded rung still runs"
    );
    drop(open);
    assert_eq!(rig.database.setting("threads").as_deref(), Some("8"));
}

#[test]
fn an_emergency_that_comes_and_goes_while_the_degraded_rung_runs_leaves_it_its_one_thread() {
    let rig = Rig::new();
    rig.answers(
        "q",
        [
            Answer::error(Class::OutOfMemory, "Out of Memory Error: x"),
            Answer::rows(5000),
        ],
    );
    let seat = rig.seat();
    let calm = Settings {
        interrupt: false,
        ..settings()
    };
    let ward = rig.guard(&seat, calm);
    let open = rig.open(&ward, &seat, "q").unwrap();
    for (host, level) in [(930, Level::Emergency), (0, Level::Normal)] {
        rig.process.host_holds(mib(host));
        rig.clock.sleep(Duration::from_secs(5));
        assert_eq!(ward.level(), level);
        assert_eq!(rig.database.setting("threads").as_deref(), Some("1"));
    }
    drop(open);
    assert_eq!(rig.database.setting("threads").as_deref(), Some("8"));
}

#[test]
fn an_interrupt_for_a_query_that_has_just_ended_hits_nobody() {
    let rig = Rig::new();
    rig.answers("q", [growing(5, 1)]);
    let (ward, seat) = rig.ward();
    let (theirs, query) = (rig.seat(), rig.open(&ward, &seat, "q").unwrap());
    ward.add(&theirs.connection);
    let number = query.1.report().query;
    drop(query);
    let now = rig.clock.now();
    assert!(
        !seat
            .connection
            .stop(number, duckward::engine::host::Stop::Memory, now)
    );
    assert_eq!(rig.interrupts(), []);
    let _ward = Arc::clone(&ward);
}
