//! Several wards in one process.

use std::sync::Arc;
use std::time::Duration;

use duckward::Level;
use duckward::clock::Clock;
use duckward::engine::Engine;
use duckward::engine::scripted::Answer;
use duckward::error::ErrorKind;
use duckward::settings::Settings;
use duckward::units::Memory;
use duckward::ward::Ward;

use crate::rig::{Rig, Seat, loaded, mib, ms, settings};

fn with_budget(n: u64) -> Settings {
    Settings {
        memory: Memory::Size(mib(n)),
        ..settings()
    }
}

#[test]
fn the_strictest_budget_holds_for_all_and_the_next_one_when_its_ward_goes() {
    let rig = Rig::new();
    let (wide, tight) = (rig.seat(), rig.seat());
    let wide = rig.guard(&wide, with_budget(2000));
    assert_eq!(rig.guardian.budget(), mib(2000));
    let tight = rig.guard(
        &tight,
        Settings {
            max_concurrent: 1,
            ..with_budget(500)
        },
    );
    assert_eq!((wide.status().budget, wide.status().wards), (mib(500), 2));
    rig.process.host_holds(mib(430));
    rig.clock.sleep(ms(600));
    assert_eq!(wide.level(), Level::Emergency);
    tight.close();
    rig.clock.sleep(Duration::from_secs(3));
    assert_eq!((wide.level(), wide.status().budget), (Level::Normal, mib(2000)));
    assert_eq!(rig.guardian.actions(), Vec::<String>::new());
}

#[test]
fn two_wards_on_one_instance_share_its_limit_and_the_last_to_go_puts_it_back() {
    let rig = Rig::new();
    let before = rig.database.settings();
    let seats = [rig.seat(), rig.seat()];
    let [first, second] = [0, 1].map(|n| rig.guard(&seats[n], settings()));
    assert!(Arc::ptr_eq(first.instance(), second.instance()));
    first.close();
    assert_ne!(rig.database.settings(), before);
    second.close();
    second.close();
    assert_eq!(rig.database.settings(), before);
    assert_eq!(first.usable().unwrap_err().kind(), ErrorKind::State);
    let again = rig.guard(&seats[0], settings());
    assert_ne!(rig.database.settings(), before, "and it may come again");
    drop(again);
    assert_eq!(rig.database.settings(), before, "a dropped ward is closed");
}

#[test]
fn two_instances_share_the_room_and_each_is_put_back_with_its_own_last_ward() {
    let rig = Rig::new();
    let other = rig.process.database();
    let before = rig.database.settings();
    let here = rig.guard(&rig.seat(), settings());
    let there = rig.guard(&Seat::of(&other), settings());
    rig.clock.sleep(Duration::from_secs(3));
    let sum = rig.database.memory_limit().plus(other.memory_limit());
    assert!(sum <= mib(730), "{sum}");
    assert!(!Arc::ptr_eq(here.instance(), there.instance()));
    there.close();
    assert_eq!(other.settings(), before);
    assert_ne!(rig.database.settings(), before);
    here.close();
    assert_eq!(rig.database.settings(), before);
}

#[test]
fn a_closed_instance_is_refused_and_nothing_is_left_of_the_attempt() {
    let rig = Rig::new();
    rig.database.close();
    let engine: Arc<dyn Engine> = Arc::new(rig.database.clone());
    let connection =
        duckward::engine::host::Connection::new(Seat::of(&rig.process.database()).session.interrupt());
    let refused = Ward::guard(&rig.guardian, engine, connection, loaded(settings())).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Connection);
    assert_eq!(rig.guardian.members(), 0);
}

#[test]
fn an_instance_that_closes_under_its_ward_stops_nobody_and_says_what_stays() {
    let rig = Rig::new();
    let other = rig.process.database();
    rig.answers("q", [Answer::rows(1)]);
    let (here, seat) = rig.ward();
    let there = rig.guard(&Seat::of(&other), settings());
    other.close();
    rig.process.host_holds(mib(930));
    rig.clock.sleep(Duration::from_secs(2));
    rig.process.host_holds(mib(0));
    rig.clock.sleep(Duration::from_secs(4));
    assert!(rig.run(&here, &seat, "q").is_ok());
    there.close();
    let left = |what: &duckward::event::What| matches!(what, duckward::event::What::GuardStopped { left, .. } if left.iter().any(|text| text.contains("memory_limit")));
    assert!(rig.story.any(left));
    assert_eq!(rig.guardian.members(), 1);
}

#[test]
fn the_last_ward_to_go_in_an_emergency_takes_every_response_with_it() {
    let rig = Rig::new();
    rig.answers("q", [Answer::rows(1)]);
    let before = rig.database.settings();
    let (ward, _seat) = rig.ward();
    rig.process.host_holds(mib(930));
    rig.clock.sleep(Duration::from_secs(1));
    assert!(!rig.guardian.actions().is_empty());
    ward.close();
    assert_eq!(
        (rig.guardian.actions(), rig.guardian.level()),
        (vec![], Level::Normal)
    );
    assert_eq!(rig.database.settings(), before);
    rig.process.host_holds(mib(0));
    let seat = rig.seat();
    let ward = rig.guard(&seat, settings());
    assert!(
        rig.run(&ward, &seat, "q").is_ok(),
        "nothing refuses new queries any more"
    );
}
