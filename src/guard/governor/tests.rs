use std::collections::BTreeSet;

use super::*;

const START: Moment = Moment::at(Duration::from_secs(1000));

fn policy() -> Policy {
    Policy {
        row_cap: Some(10_000),
        ..Policy::from(&Settings::default())
    }
}

/// A reading at `level`, with a share that belongs to it and one query that may be interrupted.
fn reading(level: Level, now: Moment) -> Input {
    let share = match level {
        Level::Normal => 0.5,
        Level::Caution => 0.75,
        Level::Warning => 0.85,
        Level::Critical => 0.92,
        Level::Emergency => 0.96,
    };
    Input {
        level,
        share,
        used: Bytes::mib(512).times(share),
        now,
        interruptible: 1,
        interrupted: 0,
    }
}

fn after(ms: u64) -> Moment {
    START + Duration::from_millis(ms)
}

fn governor_at(level: Level) -> Governor {
    Governor::default().decide(&reading(level, START), &policy()).0
}

fn interrupts(steps: &[Step]) -> bool {
    steps.contains(&Step::Take(Action::Interrupt))
}

// Invariants. Each takes one transition: the state before, the reading, the state after and the steps.

struct Transition<'a> {
    before: &'a Governor,
    input: &'a Input,
    policy: &'a Policy,
    after: &'a Governor,
    steps: &'a [Step],
}

/// The stack is what the levels up to this one ask for, each action once, the mildest level's at the bottom.
fn in_force_is_exactly_what_the_levels_up_to_this_one_ask_for(t: &Transition<'_>) {
    let asked: Vec<Action> = Level::ALL
        .into_iter()
        .filter(|level| *level <= t.input.level)
        .flat_map(|level| t.policy.lasting(level))
        .collect();
    assert_eq!(t.after.in_force().collect::<Vec<_>>(), asked);
    for (index, action) in asked.iter().enumerate() {
        assert!(!asked[..index].contains(action), "{action:?} is in force twice");
    }
    assert_eq!(t.after.level(), t.input.level);
}

/// Every undo takes back the action that was taken last; takes come only on the way up, undos on the way down.
fn takes_and_undos_match_like_brackets(t: &Transition<'_>) {
    let mut stack: Vec<Action> = t.before.in_force().collect();
    for step in t.steps {
        match *step {
            Step::Take(Action::CleanUp { .. } | Action::Interrupt | Action::VerifyRelief { .. }) => {}
            Step::Take(action) => {
                assert!(
                    t.input.level > t.before.level(),
                    "{action:?} taken without a rise"
                );
                stack.push(action);
            }
            Step::Undo(action) => {
                assert!(
                    t.input.level < t.before.level(),
                    "{action:?} undone without a fall"
                );
                assert_eq!(stack.pop(), Some(action));
            }
        }
    }
    assert_eq!(stack, t.after.in_force().collect::<Vec<_>>());
}

/// A query is interrupted in danger only, one at a time, and before anything else is done.
fn an_interrupt_has_a_reason_and_comes_first(t: &Transition<'_>) {
    if !interrupts(t.steps) {
        return;
    }
    assert_eq!(t.steps[0], Step::Take(Action::Interrupt));
    assert_eq!(
        t.steps
            .iter()
            .filter(|step| **step == Step::Take(Action::Interrupt))
            .count(),
        1
    );
    assert!(t.policy.interrupt && t.input.level == Level::Emergency && t.input.share >= t.policy.emergency);
    assert!(t.input.interruptible > 0);
    if let Chase::Sent { at } = t.before.chase {
        let ended = t.input.interrupted == 0;
        assert!(
            ended || t.input.now.since(at) >= t.policy.interrupt_pause,
            "two victims at a time"
        );
    }
}

/// In danger somebody is interrupted unless the last victim still has time to end or to give its memory back.
fn an_interrupt_is_never_withheld_without_a_reason(t: &Transition<'_>) {
    let danger = t.input.level == Level::Emergency && t.input.share >= t.policy.emergency;
    if !t.policy.interrupt || !danger || t.input.interruptible == 0 || interrupts(t.steps) {
        return;
    }
    match t.after.chase {
        Chase::None => panic!("nobody was interrupted"),
        Chase::Sent { at } => {
            assert!(t.input.interrupted > 0 && t.input.now.since(at) < t.policy.interrupt_pause);
        }
        Chase::Ended { at } => assert!(t.input.share < 1.0 && t.input.now.since(at) < t.policy.settle),
    }
}

/// A rise, the interval and an ended victim clean up, once; deep from critical on; never when all is well.
fn clean_up_comes_when_due_and_only_then(t: &Transition<'_>) {
    let cleaned: Vec<bool> = t
        .steps
        .iter()
        .filter_map(|step| {
            if let Step::Take(Action::CleanUp { deep }) = step {
                Some(*deep)
            } else {
                None
            }
        })
        .collect();
    let on = t.policy.clean_up && t.input.level > Level::Normal;
    let due = t.input.level > t.before.level()
        || t.before
            .cleaned
            .is_none_or(|at| t.input.now.since(at) >= t.policy.clean_up_every);
    let ended = matches!(t.before.chase, Chase::Sent { .. })
        && t.input.interrupted == 0
        && t.input.level == Level::Emergency;
    assert_eq!(cleaned.len(), usize::from(on && (due || ended)));
    assert!(
        cleaned
            .iter()
            .all(|deep| *deep == (due && t.input.level >= Level::Critical))
    );
}

/// Every emergency and every interrupt is followed by one verdict: at once when memory fell, else when time is up.
fn relief_is_verified_in_time(t: &Transition<'_>) {
    let verdicts: Vec<(bool, Duration)> = t
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Take(Action::VerifyRelief { fell, took, .. }) => Some((*fell, *took)),
            _ => None,
        })
        .collect();
    let fell = t.input.share < t.policy.emergency;
    match t.before.relief {
        None => assert!(verdicts.is_empty()),
        Some(relief) => {
            let took = t.input.now.since(relief.since);
            let due = fell || took >= t.policy.verify_within;
            assert_eq!(verdicts, if due { vec![(fell, took)] } else { vec![] });
        }
    }
    let begun =
        interrupts(t.steps) || (t.input.level == Level::Emergency && t.before.level() < Level::Emergency);
    assert!(
        !begun || t.after.relief.is_some(),
        "nobody looks whether it helped"
    );
}

const INVARIANTS: [fn(&Transition<'_>); 6] = [
    in_force_is_exactly_what_the_levels_up_to_this_one_ask_for,
    takes_and_undos_match_like_brackets,
    an_interrupt_has_a_reason_and_comes_first,
    an_interrupt_is_never_withheld_without_a_reason,
    clean_up_comes_when_due_and_only_then,
    relief_is_verified_in_time,
];

fn checked(before: &Governor, input: &Input, policy: &Policy) -> (Governor, Vec<Step>) {
    let (after, steps) = before.decide(input, policy);
    for invariant in INVARIANTS {
        invariant(&Transition {
            before,
            input,
            policy,
            after: &after,
            steps: &steps,
        });
    }
    (after, steps)
}

#[test]
fn every_sequence_of_levels_up_to_length_six_keeps_the_invariants_and_undoes_all_in_reverse() {
    let policy = policy();
    for length in 1..=6u32 {
        for number in 0..5usize.pow(length) {
            let mut governor = Governor::default();
            let mut lasting: Vec<Step> = Vec::new();
            let mut now = START;
            let levels = (0..length).map(|place| Level::ALL[number / 5usize.pow(place) % 5]);
            for level in levels.chain([Level::Normal]) {
                now = now + Duration::from_millis(300);
                let (next, steps) = checked(&governor, &reading(level, now), &policy);
                governor = next;
                lasting.extend(steps);
            }
            assert_eq!(governor.in_force().count(), 0);
            undone_is_what_was_taken_in_reverse(&lasting);
        }
    }
}

/// Over a whole history that ends at normal, the lasting takes and the undos cancel out.
fn undone_is_what_was_taken_in_reverse(history: &[Step]) {
    let mut open = Vec::new();
    for step in history {
        match *step {
            Step::Take(Action::CleanUp { .. } | Action::Interrupt | Action::VerifyRelief { .. }) => {}
            Step::Take(action) => open.push(action),
            Step::Undo(action) => assert_eq!(open.pop(), Some(action)),
        }
    }
    assert_eq!(open, []);
}

/// The same state with its moments moved so that `now` is [`START`]; ages beyond every interval are alike.
fn rebased(mut governor: Governor, now: Moment, longest: Duration) -> Governor {
    let base = |moment: Moment| {
        let age = now.since(moment).min(longest);
        Moment::at(START.elapsed().saturating_sub(age))
    };
    governor.cleaned = governor.cleaned.map(base);
    governor.chase = match governor.chase {
        Chase::None => Chase::None,
        Chase::Sent { at } => Chase::Sent { at: base(at) },
        Chase::Ended { at } => Chase::Ended { at: base(at) },
    };
    governor.relief = governor.relief.map(|relief| Relief {
        before: Bytes(1),
        since: base(relief.since),
    });
    governor
}

/// Every reading that differs for the governor, at `now`.
fn every_reading(now: Moment) -> Vec<Input> {
    let mut readings = Vec::new();
    for level in Level::ALL {
        for share in [0.5, 0.96, 1.0] {
            for (interruptible, interrupted) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                readings.push(Input {
                    level,
                    share,
                    used: Bytes(1),
                    now,
                    interruptible,
                    interrupted,
                });
            }
        }
    }
    readings
}

#[test]
fn every_reachable_state_keeps_the_invariants_at_every_reading() {
    let tick = Duration::from_millis(1);
    // Short intervals of different lengths keep the number of states small and their order open.
    let full = Policy {
        clean_up_every: tick * 4,
        interrupt_pause: tick * 2,
        settle: tick,
        verify_within: tick * 3,
        ..policy()
    };
    let none = Policy {
        clean_up: false,
        limit_concurrency: false,
        row_cap: None,
        queue_new: false,
        limit_memory: false,
        interrupt: false,
        refuse_new: false,
        spill_early: false,
        lower_checkpoint: false,
        ..full.clone()
    };
    for (policy, fewest_states) in [(full, 150), (none, 10)] {
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut open = vec![Governor::default()];
        while let Some(governor) = open.pop() {
            for now in [START, START + tick] {
                for input in every_reading(now) {
                    let (next, _) = checked(&governor, &input, &policy);
                    let next = rebased(next, now, tick * 4);
                    if seen.insert(format!("{next:?}")) {
                        open.push(next);
                    }
                }
            }
        }
        assert!(
            seen.len() >= fewest_states,
            "only {} states were reached",
            seen.len()
        );
    }
}

#[test]
fn a_leap_from_normal_to_emergency_does_everything_at_once_and_interrupts_first() {
    let (governor, steps) = Governor::default().decide(&reading(Level::Emergency, START), &policy());
    let takes = [
        Action::Interrupt,
        Action::LimitConcurrency { to: 22 },
        Action::CapRows { rows: 10_000 },
        Action::LimitConcurrency { to: 16 },
        Action::QueueNew,
        Action::LimitMemory { factor: 0.8 },
        Action::RefuseNew,
        Action::LimitMemory { factor: 0.5 },
        Action::SpillEarly,
        Action::LowerCheckpoint,
        Action::CleanUp { deep: true },
    ];
    assert_eq!(steps, takes.map(Step::Take));
    assert_eq!(
        (
            governor.concurrency(),
            governor.row_cap(),
            governor.memory_factor()
        ),
        (Some(16), Some(10_000), 0.5)
    );
    assert!(governor.queues_new() && governor.refuses_new());

    let (governor, steps) = governor.decide(&reading(Level::Critical, after(2000)), &policy());
    let undone = [
        Action::LowerCheckpoint,
        Action::SpillEarly,
        Action::LimitMemory { factor: 0.5 },
        Action::RefuseNew,
    ];
    assert_eq!(steps[..4], undone.map(Step::Undo));
    assert_eq!(governor.memory_factor(), 0.8);
    assert!(governor.queues_new() && !governor.refuses_new());
}

#[test]
fn closing_undoes_all_in_reverse() {
    let governor = governor_at(Level::Emergency);
    let expected: Vec<Step> = governor.in_force().rev().map(Step::Undo).collect();
    assert_eq!(governor.undo_all(), expected);
    assert_eq!(Governor::default().undo_all(), []);
}

#[test]
fn concurrency_is_never_raised_and_not_lowered_under_its_floor() {
    for (base, warning, critical) in [
        (32, Some(22), Some(16)),
        (4, Some(3), Some(2)),
        (3, None, Some(2)),
        (2, None, None),
        (1, None, None),
    ] {
        let policy = Policy {
            concurrency: base,
            ..policy()
        };
        let (governor, _) = Governor::default().decide(&reading(Level::Warning, START), &policy);
        assert_eq!(governor.concurrency(), warning, "warning, {base}");
        let (governor, _) = governor.decide(&reading(Level::Critical, START), &policy);
        assert_eq!(governor.concurrency(), critical, "critical, {base}");
    }
}

#[test]
fn caution_cleans_up_at_once_and_every_minute() {
    let policy = policy();
    let mut governor = Governor::default();
    let mut cleaned = Vec::new();
    for second in 0..=125 {
        let (next, steps) = governor.decide(&reading(Level::Caution, after(second * 1000)), &policy);
        governor = next;
        if steps == [Step::Take(Action::CleanUp { deep: false })] {
            cleaned.push(second);
        } else {
            assert_eq!(steps, []);
        }
    }
    assert_eq!(cleaned, [0, 60, 120]);
}

#[test]
fn memory_that_fell_stops_nobody_although_the_level_still_dwells() {
    let governor = governor_at(Level::Emergency);
    let calm = Input {
        share: 0.93,
        ..reading(Level::Emergency, after(10))
    };
    let (governor, steps) = governor.decide(&calm, &policy());
    assert!(!interrupts(&steps));
    let back = Input {
        share: 0.97,
        ..reading(Level::Emergency, after(900))
    };
    assert!(interrupts(&governor.decide(&back, &policy()).1));
}

#[test]
fn a_victim_that_does_not_end_is_followed_by_the_next_after_the_pause() {
    let governor = governor_at(Level::Emergency);
    let running = |ms| Input {
        interrupted: 1,
        share: 1.1,
        ..reading(Level::Emergency, after(ms))
    };
    assert!(!interrupts(&governor.decide(&running(249), &policy()).1));
    assert!(interrupts(&governor.decide(&running(250), &policy()).1));
}

#[test]
fn a_victim_that_ended_is_flushed_and_given_time_unless_the_budget_is_gone() {
    let governor = governor_at(Level::Emergency);
    let (ended, steps) = governor.decide(&reading(Level::Emergency, after(20)), &policy());
    assert_eq!(steps, [Step::Take(Action::CleanUp { deep: false })]);
    assert!(!interrupts(
        &ended.decide(&reading(Level::Emergency, after(119)), &policy()).1
    ));
    assert!(interrupts(
        &ended.decide(&reading(Level::Emergency, after(120)), &policy()).1
    ));
    for share in [1.0, f64::NAN] {
        let gone = Input {
            share,
            ..reading(Level::Emergency, after(21))
        };
        assert!(interrupts(&ended.decide(&gone, &policy()).1), "{share}");
    }
}

#[test]
fn relief_is_told_with_the_figures_and_failure_after_five_seconds() {
    let governor = governor_at(Level::Emergency);
    let before = reading(Level::Emergency, START).used;
    let alone = |share: f64, ms| Input {
        share,
        used: Bytes::mib(512).times(share),
        interruptible: 0,
        ..reading(Level::Emergency, after(ms))
    };
    let verdict = |input: &Input| governor.decide(input, &policy()).1.last().copied();
    assert_eq!(
        verdict(&alone(0.6, 30)),
        Some(Step::Take(Action::VerifyRelief {
            fell: true,
            before,
            after: Bytes::mib(512).times(0.6),
            took: Duration::from_millis(30),
        }))
    );
    assert!(!matches!(
        verdict(&alone(0.97, 4999)),
        Some(Step::Take(Action::VerifyRelief { .. }))
    ));
    assert!(matches!(
        verdict(&alone(0.97, 5000)),
        Some(Step::Take(Action::VerifyRelief { fell: false, .. }))
    ));
}

#[test]
fn the_names_are_stable_and_differ() {
    let duration = Duration::ZERO;
    let verify = Action::VerifyRelief {
        fell: true,
        before: Bytes(0),
        after: Bytes(0),
        took: duration,
    };
    let actions = [
        (Action::CleanUp { deep: true }, "clean_up"),
        (Action::LimitConcurrency { to: 1 }, "limit_concurrency"),
        (Action::CapRows { rows: 1 }, "cap_rows"),
        (Action::QueueNew, "queue_new"),
        (Action::RefuseNew, "refuse_new"),
        (Action::LimitMemory { factor: 0.5 }, "limit_memory"),
        (Action::Interrupt, "interrupt"),
        (Action::SpillEarly, "spill_early"),
        (Action::LowerCheckpoint, "lower_checkpoint"),
        (verify, "verify_relief"),
    ];
    for (action, name) in actions {
        assert_eq!(action.name(), name);
    }
    assert_eq!(
        actions
            .map(|(_, name)| name)
            .into_iter()
            .collect::<BTreeSet<_>>()
            .len(),
        actions.len()
    );
}
