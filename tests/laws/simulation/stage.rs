//! Time and turns.
//!
//! [`Ward::run`](duckward::ward::Ward::run) blocks, so every caller has a thread; but exactly one of them, or the
//! director, runs at a time. Whoever sleeps gives the turn back, and the director, who alone moves the clock, says
//! whose turn is next. So the operating system decides nothing: this was chosen over waits that can be driven from
//! outside because the code under test stays the one that users run, and there is no second set of waits to get wrong.
//!
//! Nobody may sleep while holding a lock that another needs: the turn would come to somebody who waits for it for
//! ever. The core keeps to that but for its own statements, which run under the lock of their session; so these take
//! no time here ([`threads`](crate::threads) has the law for slow ones).

use std::cell::Cell;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use duckward::clock::{Clock, Moment};
use parking_lot::{Condvar, Mutex, MutexGuard};

thread_local! {
    static ACTOR: Cell<Option<usize>> = const { Cell::new(None) };
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    /// Whose turn it is; none: the director's.
    turn: Option<usize>,
    /// When each actor wants to go on; none: it has left.
    wakes: Vec<Option<Duration>>,
    /// Where each actor waits for its turn: one of its own, so that a turn wakes one thread.
    cues: Vec<Arc<Condvar>>,
    /// Somebody failed: everybody leaves.
    over: bool,
}

/// The clock of a simulation, and whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    state: Mutex<State>,
    /// The director waits for its turn.
    back: Condvar,
}

impl Clock for Stage {
    fn now(&self) -> Moment {
        Moment::at(self.state.lock().now)
    }

    fn unix_ms(&self) -> u64 {
        u64::try_from(self.state.lock().now.as_millis()).unwrap_or(u64::MAX)
    }

    fn sleep(&self, time: Duration) {
        let me = ACTOR.get().expect("the guard itself never waits");
        let mut state = self.state.lock();
        let until = state.now + time;
        state.wakes[me] = Some(until);
        state.turn = None;
        self.back.notify_one();
        self.my_turn(&mut state, me);
    }

    fn real(&self, _time: Duration) -> Duration {
        Duration::ZERO
    }
}

impl Stage {
    fn my_turn(&self, state: &mut MutexGuard<'_, State>, me: usize) {
        let cue = Arc::clone(&state.cues[me]);
        while state.turn != Some(me) {
            if state.over {
                if !std::thread::panicking() {
                    // Not a panic: the one that ended it has been told.
                    MutexGuard::unlocked(state, || resume_unwind(Box::new("over")));
                }
                return;
            }
            cue.wait(state);
        }
    }

    /// A new actor, who plays `body` on the thread that calls what this returns.
    pub(crate) fn actor(self: &Arc<Self>, body: impl FnOnce() + Send) -> impl FnOnce() + Send {
        let me = {
            let mut state = self.state.lock();
            let now = state.now;
            state.wakes.push(Some(now));
            state.cues.push(Arc::default());
            state.wakes.len() - 1
        };
        let stage = Arc::clone(self);
        move || {
            ACTOR.set(Some(me));
            let _exit = Exit(Arc::clone(&stage), me);
            stage.my_turn(&mut stage.state.lock(), me);
            body();
        }
    }

    /// When each actor that is still there wants to go on.
    pub(crate) fn wakes(&self) -> Vec<(usize, Moment)> {
        let state = self.state.lock();
        let wakes = state.wakes.iter().enumerate();
        wakes
            .filter_map(|(actor, at)| Some((actor, Moment::at((*at)?))))
            .collect()
    }

    /// Moves the clock on, never back.
    pub(crate) fn move_to(&self, moment: Moment) {
        let mut state = self.state.lock();
        state.now = state.now.max(moment.elapsed());
    }

    /// Gives `actor` the turn until it sleeps or leaves; whether the play goes on.
    pub(crate) fn play(&self, actor: usize) -> bool {
        let mut state = self.state.lock();
        state.turn = Some(actor);
        state.cues[actor].notify_one();
        while state.turn.is_some() && !state.over {
            self.back.wait(&mut state);
        }
        !state.over
    }

    /// Whoever holds this ends the play when it fails, so that nobody waits for its turn for ever.
    pub(crate) fn curtain(self: &Arc<Self>) -> Curtain {
        Curtain(Arc::clone(self))
    }

    fn end(&self) {
        let mut state = self.state.lock();
        state.over = true;
        for cue in &state.cues {
            cue.notify_all();
        }
        self.back.notify_all();
    }
}

struct Exit(Arc<Stage>, usize);

impl Drop for Exit {
    fn drop(&mut self) {
        let Exit(stage, me) = self;
        if std::thread::panicking() {
            stage.end();
        }
        let mut state = stage.state.lock();
        state.wakes[*me] = None;
        state.turn = None;
        stage.back.notify_all();
    }
}

pub(crate) struct Curtain(Arc<Stage>);

impl Drop for Curtain {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}
