use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::thread;

use super::*;
use crate::clock::{Clock, ManualClock, SystemClock};

const LONG: Duration = Duration::from_secs(60);

fn door(limit: usize) -> Arc<Admission> {
    Admission::new(SystemClock::shared(), limit, Bytes::mib(100))
}

fn demand(mib: u64, wait: Duration) -> Demand {
    Demand {
        priority: Priority::Normal,
        memory: Bytes::mib(mib),
        wait,
    }
}

fn enter(door: &Arc<Admission>, demand: Demand) -> Result<Permit> {
    door.enter(demand, &|| false, &mut |_| ())
}

/// Waits until `door` has so many in line, so that a test knows that another thread has got there.
fn until_waiting(door: &Admission, count: usize) {
    while door.waiting() != count {
        thread::yield_now();
    }
}

#[test]
fn a_dropped_permit_gives_its_place_and_its_memory_back() {
    let door = door(1);
    let permit = enter(&door, demand(70, LONG)).unwrap();
    assert_eq!(
        (door.running(), door.waiting(), permit.memory()),
        (1, 0, Bytes::mib(70))
    );
    drop(permit);
    assert_eq!(door.running(), 0);
    assert!(enter(&door, demand(70, Duration::ZERO)).is_ok());
}

#[test]
fn a_permit_is_given_back_when_its_holder_panics() {
    let door = door(1);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _permit = enter(&door, demand(1, LONG)).unwrap();
        panic!("the query's thread died");
    }));
    assert!(outcome.is_err());
    assert_eq!(door.running(), 0);
}

#[test]
fn a_callback_that_panics_while_waiting_leaves_no_one_in_line() {
    let door = door(1);
    let _permit = enter(&door, demand(1, LONG)).unwrap();
    let panics = || door.enter(demand(1, LONG), &|| panic!("oops"), &mut |_| ());
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    assert_eq!((door.running(), door.waiting()), (1, 0));
}

#[test]
fn whoever_does_not_wait_asks_nobody_and_tells_nobody() {
    let door = door(1);
    let called = Cell::new(false);
    let queued = RefCell::new(Vec::new());
    let cancelled = || {
        called.set(true);
        true
    };
    assert!(
        door.enter(demand(1, LONG), &cancelled, &mut |ahead| queued
            .borrow_mut()
            .push(ahead))
            .is_ok()
    );
    assert!(!called.get() && queued.borrow().is_empty());
}

#[test]
fn one_who_waits_is_let_in_by_the_one_who_leaves() {
    let door = door(1);
    let first = enter(&door, demand(1, LONG)).unwrap();
    thread::scope(|scope| {
        let second = scope.spawn(|| {
            let mut heard = Vec::new();
            let permit = door.enter(demand(1, LONG), &|| false, &mut |ahead| heard.push(ahead));
            (permit.is_ok(), heard)
        });
        until_waiting(&door, 1);
        drop(first);
        assert_eq!(second.join().unwrap(), (true, vec![0]));
    });
    assert_eq!((door.running(), door.waiting()), (0, 0));
}

#[test]
fn a_raised_limit_a_raised_capacity_and_an_end_of_holding_each_let_someone_in() {
    let changes: [fn(&Admission); 3] = [
        |door| door.set_limit(2),
        |door| door.set_capacity(Bytes::mib(1000)),
        |door| door.queue_new(false),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let door = door(if index == 0 { 1 } else { 2 });
        let _first = enter(&door, demand(if index == 1 { 90 } else { 1 }, LONG)).unwrap();
        door.queue_new(index == 2);
        thread::scope(|scope| {
            let second = scope.spawn(|| enter(&door, demand(20, LONG)).is_ok());
            until_waiting(&door, 1);
            change(&door);
            assert!(second.join().unwrap());
        });
    }
}

#[test]
fn a_cancelled_wait_ends_soon_and_leaves_the_line() {
    let door = door(1);
    let _permit = enter(&door, demand(1, LONG)).unwrap();
    let clock = SystemClock::new();
    let asked = Cell::new(0);
    let cancelled = || {
        asked.set(asked.get() + 1);
        asked.get() > 2
    };
    let error = door.enter(demand(1, LONG), &cancelled, &mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(clock.now().elapsed() < Duration::from_secs(5));
    assert_eq!((door.running(), door.waiting()), (1, 0));
}

#[test]
fn a_timeout_by_number_says_how_many_run_how_long_it_waited_and_what_to_raise() {
    let door = door(1);
    let _permit = enter(&door, demand(3, LONG)).unwrap();
    let error = enter(&door, demand(1, Duration::from_millis(30))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(
        error.message(),
        "the query waited 0.0 s for its turn and was not started: 1 running (3.0 MiB claimed), 0 waiting \
         before it, and at most 1 may run at once (fewer than usual while memory is tight); run it again when less is \
         running, or raise `max_concurrent` or `wait`"
    );
    assert_eq!((door.running(), door.waiting()), (1, 0));
}

#[test]
fn a_timeout_by_memory_names_the_memory() {
    let door = door(8);
    let _permit = enter(&door, demand(70, LONG)).unwrap();
    let error = enter(&door, demand(40, Duration::ZERO)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(
        error
            .message()
            .contains("40.0 MiB more do not fit into 100.0 MiB"),
        "{error}"
    );
    assert!(error.message().contains("raise `memory`"), "{error}");
}

#[test]
fn holding_waits_and_then_says_how_full_memory_is() {
    let door = door(8);
    let _permit = enter(&door, demand(1, LONG)).unwrap();
    door.queue_new(true);
    door.note_share(0.914);
    let error = enter(&door, demand(1, Duration::from_millis(1))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(
        error.message().contains("memory is at 91 % of the budget"),
        "{error}"
    );
}

#[test]
fn refusing_fails_at_once_and_says_how_full_memory_is_and_to_try_again() {
    let door = door(8);
    door.refuse_new(true);
    assert!(
        enter(&door, demand(1, LONG))
            .unwrap_err()
            .message()
            .contains("memory is almost used up")
    );
    door.note_share(0.967);
    let error = enter(&door, demand(1, LONG)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Memory);
    assert_eq!(
        error.message(),
        "the query was refused before it started: memory is at 97 % of the budget, and nothing new starts until it \
         falls; run it again then, or raise `memory`"
    );
    door.refuse_new(false);
    assert!(enter(&door, demand(1, LONG)).is_ok());
}

#[test]
fn the_wait_goes_by_the_clock_that_was_handed_in() {
    let clock = ManualClock::new();
    let door = Admission::new(clock.clone(), 1, Bytes::mib(1));
    let _permit = enter(&door, demand(1, LONG)).unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| enter(&door, demand(1, LONG)).unwrap_err());
        until_waiting(&door, 1);
        // The waiting thread may read the clock only after it moved, so the clock goes on until it has seen enough.
        while !waits.is_finished() {
            clock.advance(LONG);
            thread::yield_now();
        }
        assert_eq!(waits.join().unwrap().kind(), ErrorKind::Timeout);
    });
}

#[test]
fn one_who_is_called_while_it_is_cancelled_passes_the_permit_on() {
    let door = door(1);
    let first = Mutex::new(Some(enter(&door, demand(1, LONG)).unwrap()));
    // The permit comes free, and this one is called, in the very moment in which it says that it was cancelled.
    let cancelled = || {
        drop(first.lock().take());
        true
    };
    let error = door.enter(demand(1, LONG), &cancelled, &mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!((door.running(), door.waiting()), (0, 0));
}

/// Counts who is inside, and how many were at most.
#[derive(Default)]
struct Turnstile {
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Turnstile {
    fn pass(&self) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        thread::yield_now();
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn many_threads_all_get_through_and_never_more_than_the_limit_at_once() {
    const THREADS: u64 = 48;
    const ROUNDS: u64 = 100;
    let door = door(4);
    let turnstile = Turnstile::default();
    let through = AtomicUsize::new(0);
    let clock = SystemClock::new();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (door, turnstile, through) = (&door, &turnstile, &through);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let priority = [Priority::High, Priority::Normal, Priority::Low][(thread % 3) as usize];
                    let memory = Bytes::mib((thread * 7 + round * 13) % 60);
                    let permit = enter(
                        door,
                        Demand {
                            priority,
                            memory,
                            wait: LONG,
                        },
                    )
                    .unwrap();
                    turnstile.pass();
                    drop(permit);
                    through.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(through.load(Ordering::SeqCst) as u64, THREADS * ROUNDS);
    assert!(turnstile.most.load(Ordering::SeqCst) <= 4);
    assert_eq!((door.running(), door.waiting()), (0, 0));
    // A lost wakeup would be mended by the next slice of 50 ms; thousands of them would show here.
    assert!(clock.now().elapsed() < Duration::from_secs(20));
}

#[test]
fn one_who_waits_wakes_when_called_and_not_at_the_end_of_its_slice() {
    let door = door(1);
    let clock = SystemClock::new();
    let mut fastest = SLICE;
    for _ in 0..20 {
        let began = clock.now();
        let permit = enter(&door, demand(1, LONG)).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| drop(enter(&door, demand(1, LONG)).unwrap()));
            until_waiting(&door, 1);
            drop(permit);
        });
        fastest = fastest.min(clock.now().since(began));
    }
    // Were each hand-over to wait for the end of the slice, none would be so fast; on a busy machine some are slow.
    assert!(fastest < SLICE / 2, "{fastest:?}");
}

#[test]
fn under_cancels_timeouts_and_changing_limits_no_permit_is_lost() {
    let door = door(3);
    let kinds = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..24u64)
            .map(|thread| {
                let (door, kinds) = (&door, &kinds);
                scope.spawn(move || {
                    for round in 0..60u64 {
                        let asked = Cell::new(0);
                        let cancelled = || {
                            asked.set(asked.get() + 1);
                            thread % 3 == 0 && asked.get() > 1
                        };
                        let wait = if thread % 3 == 1 {
                            Duration::from_micros(round * 10)
                        } else {
                            LONG
                        };
                        let demand = demand((thread * 5 + round) % 120, wait);
                        match door.enter(demand, &cancelled, &mut |_| ()) {
                            Ok(permit) => drop(permit),
                            Err(error) => kinds.lock().push(error.kind()),
                        }
                    }
                })
            })
            .collect();
        let mut turn = 0;
        while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
            turn += 1;
            door.set_limit(turn % 5);
            door.set_capacity(Bytes::mib(turn as u64 % 90));
            door.queue_new(turn % 7 == 0);
            door.refuse_new(turn % 11 == 0);
            thread::yield_now();
        }
    });
    assert_eq!((door.running(), door.waiting()), (0, 0));
    let expected = [ErrorKind::Cancelled, ErrorKind::Timeout, ErrorKind::Memory];
    assert!(kinds.lock().iter().all(|kind| expected.contains(kind)));
}

#[test]
fn doors_and_permits_go_between_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Admission>();
    crosses::<Permit>();
}
