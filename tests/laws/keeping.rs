//! What is learnt of queries outlives a ward where that is wanted.

use std::path::Path;
use std::time::Duration;

use duckward::engine::Class;
use duckward::engine::scripted::Answer;
use duckward::event::What;
use duckward::fallback::ladder::Rung;
use duckward::settings::{Keep, Settings};

use crate::rig::{Rig, settings};

const SHAPE: &str = "q where a = 1";

fn keeping(path: &Path) -> Settings {
    Settings {
        history: Keep::In(path.to_owned()),
        ..settings()
    }
}

/// A process whose database answers [`SHAPE`] after it has failed once, and other queries at once.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.answers(
        SHAPE,
        [Answer::error(Class::OutOfMemory, "no block"), Answer::rows(1)],
    );
    rig.answers("q where a = 2", [Answer::rows(1)]);
    rig.answers("other", [Answer::rows(1)]);
    rig
}

#[test]
fn what_one_process_learnt_the_next_one_begins_with() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.json");
    let first = rig();
    let seat = first.seat();
    let ward = first.guard(&seat, keeping(&path));
    first.run(&ward, &seat, SHAPE).unwrap();
    assert!(
        !path.exists(),
        "nothing is written while queries end one soon after the other"
    );
    ward.close();

    let second = rig();
    let seat = second.seat();
    let ward = second.guard(&seat, keeping(&path));
    let report = second.run(&ward, &seat, "q where a = 2").unwrap();
    assert_eq!((report.rung(), report.attempts.len()), (Some(Rung::Degraded), 1));
    assert!(report.why.contains("the last time"), "{}", report.why);
}

#[test]
fn a_history_is_written_every_thirty_seconds_while_queries_end_and_has_no_text_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.json");
    let rig = rig();
    let seat = rig.seat();
    let ward = rig.guard(&seat, keeping(&path));
    let written = || std::fs::read_to_string(&path).unwrap_or_default();
    rig.clock.pass(Duration::from_secs(29));
    rig.run(&ward, &seat, "other").unwrap();
    assert_eq!(written(), "");
    rig.clock.pass(Duration::from_secs(1));
    rig.run(&ward, &seat, "other").unwrap();
    let once = written();
    assert_eq!(once.matches("fingerprint").count(), 1, "{once}");
    assert!(!once.contains("other"), "{once}");
    rig.clock.pass(Duration::from_secs(29));
    rig.run(&ward, &seat, SHAPE).unwrap();
    assert_eq!(written(), once);
    rig.clock.pass(Duration::from_secs(1));
    rig.run(&ward, &seat, SHAPE).unwrap();
    assert_eq!(written().matches("fingerprint").count(), 2, "{}", written());
}

#[test]
fn an_answer_that_is_read_to_its_end_after_the_ward_was_closed_is_kept_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.json");
    let rig = rig();
    let seat = rig.seat();
    let ward = rig.guard(&seat, keeping(&path));
    let (stream, ticket) = rig.open(&ward, &seat, "other").unwrap();
    ward.close();
    assert!(!path.exists());
    crate::rig::read(stream, ticket).unwrap();
    assert!(path.exists());
}

#[test]
fn two_wards_on_one_file_lose_nothing_and_learn_from_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.json");
    let (one, two) = (rig(), rig());
    let (seat, other_seat) = (one.seat(), two.seat());
    let ward = one.guard(&seat, keeping(&path));
    let other_ward = two.guard(&other_seat, keeping(&path));
    one.run(&ward, &seat, SHAPE).unwrap();
    one.clock.pass(Duration::from_secs(30));
    one.run(&ward, &seat, SHAPE).unwrap();
    two.clock.pass(Duration::from_secs(30));
    two.run(&other_ward, &other_seat, "other").unwrap();
    let report = two.run(&other_ward, &other_seat, "q where a = 2").unwrap();
    assert_eq!(report.rung(), Some(Rung::Degraded));
    other_ward.close();
    ward.close();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches("fingerprint").count(), 2, "{text}");
}

#[test]
fn a_history_that_cannot_be_kept_is_told_and_no_query_fails_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let rig = rig();
    let seat = rig.seat();
    let ward = rig.guard(&seat, keeping(&below.join("history.json")));
    std::fs::remove_dir(&below).unwrap();
    rig.clock.pass(Duration::from_secs(30));
    rig.run(&ward, &seat, "other").unwrap();
    assert!(rig.story.any(|what| matches!(what, What::HistoryNotKept { .. })));
    // It is tried again, and what could not be kept is.
    std::fs::create_dir(&below).unwrap();
    ward.close();
    assert!(below.join("history.json").exists());
}
