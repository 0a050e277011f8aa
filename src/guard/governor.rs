//! From levels to actions: what is done when memory rises, and taken back when it falls. Pure.
//!
//! Lasting actions lie on a stack. A higher level puts its own on top; when the level falls they are undone from the
//! top, so that takes and undos match like brackets. Two forms of one action (`memory_limit` x 0.8 under x 0.5) lie
//! there together: the upper one counts, and undoing it brings the lower one back. What counts is read from
//! [`Governor::concurrency`], [`Governor::memory_factor`], [`Governor::row_cap`], [`Governor::queues_new`] and
//! [`Governor::refuses_new`], so that no gap opens while several steps are carried out.

mod interval;
#[cfg(test)]
mod tests;
mod victim;

use std::time::Duration;

pub use interval::{Trend, next_interval};
pub use victim::{RunningQuery, choose_victim};

use super::Level;
use crate::clock::Moment;
use crate::settings::Settings;
use crate::units::Bytes;

/// Something the guard does about memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Give freed pages back to the system; `deep`: drop what is cached, too.
    CleanUp {
        /// Whether caches go as well.
        deep: bool,
    },
    /// Let fewer queries run at once.
    LimitConcurrency {
        /// So many.
        to: usize,
    },
    /// Cut answers, marked as truncated.
    CapRows {
        /// At so many rows.
        rows: u64,
    },
    /// Hold new queries in the waiting line.
    QueueNew,
    /// Refuse new queries at once.
    RefuseNew,
    /// Lower DuckDB's `memory_limit`.
    LimitMemory {
        /// To this share of what it would be.
        factor: f64,
    },
    /// Interrupt one query.
    Interrupt,
    /// Make operators spill early: fewer threads, and a temp directory that is there.
    SpillEarly,
    /// Checkpoint earlier, so that the log of changes takes less.
    LowerCheckpoint,
    /// Say whether the emergency's measures brought memory below the emergency threshold.
    VerifyRelief {
        /// Whether they did, in time.
        fell: bool,
        /// Memory that counts, when they were taken.
        before: Bytes,
        /// Memory that counts, now.
        after: Bytes,
        /// The time in between.
        took: Duration,
    },
}

impl Action {
    /// The action's name in events.
    pub fn name(self) -> &'static str {
        match self {
            Action::CleanUp { .. } => "clean_up",
            Action::LimitConcurrency { .. } => "limit_concurrency",
            Action::CapRows { .. } => "cap_rows",
            Action::QueueNew => "queue_new",
            Action::RefuseNew => "refuse_new",
            Action::LimitMemory { .. } => "limit_memory",
            Action::Interrupt => "interrupt",
            Action::SpillEarly => "spill_early",
            Action::LowerCheckpoint => "lower_checkpoint",
            Action::VerifyRelief { .. } => "verify_relief",
        }
    }
}

/// What is to be done next, in this order. Each step is tried even if the one before it failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Do it.
    Take(Action),
    /// Take it back: a milder form beneath it counts again, else what was before the guard.
    Undo(Action),
}

/// Which responses are on, and their measures.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Whether caution and above clean up.
    pub clean_up: bool,
    /// How often, while the level lasts.
    pub clean_up_every: Duration,
    /// Whether warning and critical let fewer queries run.
    pub limit_concurrency: bool,
    /// How many run at once without pressure.
    pub concurrency: usize,
    /// At how many rows warning and above cut answers; none: never.
    pub row_cap: Option<u64>,
    /// Whether critical holds new queries in the waiting line.
    pub queue_new: bool,
    /// Whether critical and emergency lower `memory_limit`.
    pub limit_memory: bool,
    /// Whether emergency interrupts.
    pub interrupt: bool,
    /// How long an interrupted query may take to end before the next one is interrupted.
    pub interrupt_pause: Duration,
    /// How long the memory of a query that ended after an interrupt may take to come back.
    pub settle: Duration,
    /// Whether emergency refuses new queries.
    pub refuse_new: bool,
    /// Whether emergency makes operators spill early.
    pub spill_early: bool,
    /// Whether emergency lowers the checkpoint threshold.
    pub lower_checkpoint: bool,
    /// Share of the budget from which queries are interrupted, and below which memory counts as relieved.
    pub emergency: f64,
    /// How long an emergency's measures may take to bring memory below that.
    pub verify_within: Duration,
}

impl From<&Settings> for Policy {
    fn from(settings: &Settings) -> Self {
        let [.., emergency] = settings.levels;
        Policy {
            clean_up: settings.clean_up,
            clean_up_every: Duration::from_secs(60),
            limit_concurrency: settings.limit_concurrency,
            concurrency: settings.max_concurrent,
            row_cap: settings.row_cap,
            queue_new: settings.queue_new,
            limit_memory: settings.limit_memory,
            interrupt: settings.interrupt,
            interrupt_pause: Duration::from_millis(250),
            settle: Duration::from_millis(100),
            refuse_new: settings.refuse_new,
            spill_early: settings.spill_early,
            lower_checkpoint: settings.lower_checkpoint,
            emergency,
            verify_within: Duration::from_secs(5),
        }
    }
}

impl Policy {
    /// The lasting actions that `level` itself adds, in the order of taking.
    fn lasting(&self, level: Level) -> Vec<Action> {
        let few = (self.concurrency.saturating_mul(7) / 10)
            .max(3)
            .min(self.concurrency);
        let fewer = (self.concurrency / 2).max(2).min(few);
        // A limit that changes nothing is not taken: people would read of an action that none of them can see.
        let limit = |to: usize, from: usize| {
            (self.limit_concurrency && to < from).then_some(Action::LimitConcurrency { to })
        };
        let memory = |factor: f64| self.limit_memory.then_some(Action::LimitMemory { factor });
        let actions = match level {
            Level::Normal | Level::Caution => vec![],
            Level::Warning => vec![
                limit(few, self.concurrency),
                self.row_cap.map(|rows| Action::CapRows { rows }),
            ],
            Level::Critical => {
                vec![
                    limit(fewer, few),
                    self.queue_new.then_some(Action::QueueNew),
                    memory(0.8),
                ]
            }
            Level::Emergency => vec![
                self.refuse_new.then_some(Action::RefuseNew),
                memory(0.5),
                self.spill_early.then_some(Action::SpillEarly),
                self.lower_checkpoint.then_some(Action::LowerCheckpoint),
            ],
        };
        actions.into_iter().flatten().collect()
    }

    /// Whether memory is where queries are interrupted. What is not a number is no reason to feel safe.
    fn over(&self, share: f64) -> bool {
        share.is_nan() || share >= self.emergency
    }
}

/// What the governor is told at each reading. The steps of the last decision have been handed over by then, and an
/// interrupt among them carried out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// The level in force.
    pub level: Level,
    /// Memory that counts, as a share of the budget.
    pub share: f64,
    /// Memory that counts.
    pub used: Bytes,
    /// When that was read.
    pub now: Moment,
    /// Queries that run and may be interrupted and were not yet ([`RunningQuery::may_be_chosen`]).
    pub interruptible: usize,
    /// Queries that were interrupted and have not ended.
    pub interrupted: usize,
}

/// How far the last interrupt of this emergency has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Chase {
    /// Nobody was interrupted in this emergency.
    #[default]
    None,
    /// A query was interrupted and is still to end.
    Sent { at: Moment },
    /// It ended; its memory is still to come back.
    Ended { at: Moment },
}

/// What waits to be verified.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Relief {
    before: Bytes,
    since: Moment,
}

/// What is in force, and what is pending.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Governor {
    level: Level,
    /// Oldest first, each with the level that asked for it.
    stack: Vec<(Level, Action)>,
    cleaned: Option<Moment>,
    chase: Chase,
    relief: Option<Relief>,
}

impl Governor {
    /// The state after a reading, and what is to be done about it. An interrupt comes first among the steps.
    #[must_use]
    pub fn decide(&self, input: &Input, policy: &Policy) -> (Governor, Vec<Step>) {
        let mut next = self.clone();
        let mut steps = Vec::new();
        let verified = next.verify(input, policy);
        let flush = next.follow_the_chase(input);
        steps.extend(next.interrupt(input, policy));
        next.fall_to(input.level, &mut steps);
        next.rise_to(input, policy, &mut steps);
        steps.extend(next.clean_up(input, policy, flush, input.level > self.level));
        steps.extend(verified);
        next.level = input.level;
        (next, steps)
    }

    /// Everything undone, as when the guard is closed.
    #[must_use]
    pub fn undo_all(mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        self.fall_to(Level::Normal, &mut steps);
        steps
    }

    /// The level that the actions in force belong to.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The lasting actions in force, oldest first; of two forms of one action the later counts.
    pub fn in_force(&self) -> impl DoubleEndedIterator<Item = Action> {
        self.stack.iter().map(|(_, action)| *action)
    }

    /// How many queries may run at once, if fewer than without pressure.
    pub fn concurrency(&self) -> Option<usize> {
        self.topmost(|action| {
            if let Action::LimitConcurrency { to } = action {
                Some(to)
            } else {
                None
            }
        })
    }

    /// At how many rows answers are cut, if they are.
    pub fn row_cap(&self) -> Option<u64> {
        self.topmost(|action| {
            if let Action::CapRows { rows } = action {
                Some(rows)
            } else {
                None
            }
        })
    }

    /// The factor for `memory_limit`: 1 without pressure.
    pub fn memory_factor(&self) -> f64 {
        self.topmost(|action| {
            if let Action::LimitMemory { factor } = action {
                Some(factor)
            } else {
                None
            }
        })
        .unwrap_or(1.0)
    }

    /// Whether new queries wait in line.
    pub fn queues_new(&self) -> bool {
        self.in_force().any(|action| action == Action::QueueNew)
    }

    /// Whether new queries are refused.
    pub fn refuses_new(&self) -> bool {
        self.in_force().any(|action| action == Action::RefuseNew)
    }

    fn topmost<T>(&self, of: impl Fn(Action) -> Option<T>) -> Option<T> {
        self.in_force().rev().find_map(of)
    }

    fn verify(&mut self, input: &Input, policy: &Policy) -> Option<Step> {
        let Relief { before, since } = self.relief?;
        let took = input.now.since(since);
        let fell = !policy.over(input.share);
        if !fell && took < policy.verify_within {
            return None;
        }
        self.relief = None;
        Some(Step::Take(Action::VerifyRelief {
            fell,
            before,
            after: input.used,
            took,
        }))
    }

    /// Notes whether the last victim has ended; true at the reading that sees it.
    fn follow_the_chase(&mut self, input: &Input) -> bool {
        if input.level < Level::Emergency {
            self.chase = Chase::None;
            return false;
        }
        let ended = matches!(self.chase, Chase::Sent { .. }) && input.interrupted == 0;
        if ended {
            self.chase = Chase::Ended { at: input.now };
        }
        ended
    }

    fn interrupt(&mut self, input: &Input, policy: &Policy) -> Option<Step> {
        // The level outlasts the danger by its hysteresis and dwell; queries must not be stopped for that.
        let danger = input.level == Level::Emergency && policy.over(input.share);
        if !policy.interrupt || !danger || input.interruptible == 0 {
            return None;
        }
        let due = match self.chase {
            Chase::None => true,
            Chase::Sent { at } => input.now.since(at) >= policy.interrupt_pause,
            // An allocator keeps what a query freed until it is flushed: without this pause the next query would be
            // stopped for memory that nobody uses. With the whole budget gone there is no time for it.
            Chase::Ended { at } => {
                input.now.since(at) >= policy.settle || input.share.is_nan() || input.share >= 1.0
            }
        };
        if !due {
            return None;
        }
        self.chase = Chase::Sent { at: input.now };
        self.await_relief(input);
        Some(Step::Take(Action::Interrupt))
    }

    fn fall_to(&mut self, level: Level, steps: &mut Vec<Step>) {
        while let Some((_, action)) = self.stack.pop_if(|(asked_by, _)| *asked_by > level) {
            steps.push(Step::Undo(action));
        }
    }

    fn rise_to(&mut self, input: &Input, policy: &Policy, steps: &mut Vec<Step>) {
        let from = self.level;
        for level in Level::ALL
            .into_iter()
            .filter(|level| *level > from && *level <= input.level)
        {
            for action in policy.lasting(level) {
                self.stack.push((level, action));
                steps.push(Step::Take(action));
            }
            if level == Level::Emergency {
                self.await_relief(input);
            }
        }
    }

    fn clean_up(&mut self, input: &Input, policy: &Policy, flush: bool, rose: bool) -> Option<Step> {
        if !policy.clean_up || input.level == Level::Normal {
            return None;
        }
        let due = rose
            || self
                .cleaned
                .is_none_or(|at| input.now.since(at) >= policy.clean_up_every);
        if !due && !flush {
            return None;
        }
        if due {
            self.cleaned = Some(input.now);
        }
        // After an interrupt only the allocator needs a flush; the caches went when the level rose.
        Some(Step::Take(Action::CleanUp {
            deep: due && input.level >= Level::Critical,
        }))
    }

    fn await_relief(&mut self, input: &Input) {
        self.relief.get_or_insert(Relief {
            before: input.used,
            since: input.now,
        });
    }
}
