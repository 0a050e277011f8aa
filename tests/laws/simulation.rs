//! Many callers, random memory, one seed.
//!
//! `DUCKWARD_SIM_SEEDS` says how many seeds are run; `DUCKWARD_SIM_SEED` runs one. A seed that fails says so.

mod invariants;
mod stage;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use duckward::clock::{Clock, Moment, SharedClock};
use duckward::engine::scripted::{Answer, Database, Process};
use duckward::engine::{Class, Engine, EngineError, Stream};
use duckward::event::{Event, What};
use duckward::fallback::ladder::Rung;
use duckward::guard::{Guardian, Priority};
use duckward::settings::Settings;
use duckward::units::{Bytes, Memory};
use duckward::ward::{AttemptError, Cutting, Host, Job, Verify, Ward};
use parking_lot::Mutex;

use crate::rig::{Seat, Story, engine_error, limits, loaded, mib, ms, settings};
use stage::Stage;

/// How many seeds are run unless it is said otherwise.
const SEEDS: u64 = 200;

/// Splitmix: small, and the same everywhere.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.roll() % most
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Dice of their own for `actor`, so that one rolls the same whatever the others do.
    fn of(&self, actor: usize) -> Dice {
        let mut dice = Dice(self.0 ^ (actor as u64 + 1).wrapping_mul(0xd6e8_feb8_6659_fd93));
        dice.roll();
        dice
    }
}

/// What is known of a caller from outside.
#[derive(Clone, Debug, Default)]
struct Caller {
    /// Inside a call, or reading its answer.
    called: bool,
    /// The rung its query runs on.
    runs: Option<Rung>,
}

/// What all share.
struct World {
    stage: Arc<Stage>,
    guardian: Arc<Guardian>,
    databases: Vec<Database>,
    /// Database and ward.
    wards: Mutex<Vec<(usize, Arc<Ward>)>>,
    callers: Mutex<Vec<Caller>>,
    /// The number of each statement.
    numbers: Mutex<BTreeMap<String, u64>>,
    /// The attempt of which each query's answer was handed out.
    answered: Mutex<BTreeMap<u64, u32>>,
    called: Mutex<usize>,
}

fn settings_of(dice: &mut Dice) -> Settings {
    Settings {
        memory: Memory::Size(mib(700 + 100 * dice.below(6))),
        max_concurrent: 4,
        wait: Duration::from_secs(20),
        query_timeout: dice.one_in(3).then_some(Duration::from_secs(8)),
        keep_order: dice.one_in(2),
        elastic: !dice.one_in(4),
        ..settings()
    }
}

fn answer(dice: &mut Dice) -> Answer {
    let time = ms(dice.below(2500));
    let peak = match dice.below(8) {
        0 => 500 + dice.below(1500),
        1 | 2 => 200 + dice.below(400),
        _ => dice.below(100),
    };
    let rows = dice.below(5000);
    let curve = (1..=3)
        .map(|step| (time * step / 3, mib(dice.below(peak + 1))))
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "a share of ten")]
    let untracked = dice.below(11) as f64 / 10.0;
    let answer = Answer::rows(rows)
        .taking(time)
        .along(curve)
        .untracked(untracked)
        .deaf_to(u32::try_from(dice.below(4)).unwrap());
    let answer = if dice.one_in(4) {
        answer.unspillable()
    } else {
        answer
    };
    match dice.below(12) {
        0 => answer.then_error(
            Class::OutOfMemory,
            "Out of Memory Error: could not allocate block",
        ),
        1 | 2 => answer.then_error(Class::Transaction, "TransactionContext Error: conflict on tuple"),
        3 => answer.then_error(Class::Statement, "Conversion Error: x"),
        4 => answer.then_error(Class::Io, "IO Error: No space left on device"),
        _ => answer,
    }
}

/// One query of a caller.
struct Query<'a> {
    world: &'a World,
    me: usize,
    seat: &'a Seat,
    ward: &'a Ward,
    sql: &'a str,
    dice: &'a Mutex<Dice>,
    in_transaction: bool,
    quits: Option<Moment>,
}

impl Query<'_> {
    fn runs(&self, rung: Option<Rung>) {
        self.world.callers.lock()[self.me].runs = rung;
    }
}

impl Host<Stream> for Query<'_> {
    fn attempt(&mut self, rung: Rung, _prepared: Option<&str>) -> Result<Stream, AttemptError> {
        let guarded = self.ward.usable().is_ok();
        if rung == Rung::Degraded && guarded {
            assert_eq!(
                self.seat.database.setting("threads").as_deref(),
                Some("1"),
                "not degraded"
            );
        }
        self.runs(Some(rung));
        let stream = self.seat.session.query(self.sql);
        if stream.is_err() {
            self.runs(None);
        }
        Ok(stream?)
    }

    fn ask(&mut self, _sql: &str) -> Result<Vec<Vec<Option<String>>>, EngineError> {
        // This engine does not give its parse, so nothing runs in pieces here.
        Err(EngineError {
            class: Class::Statement,
            message: "no parse is scripted".to_owned(),
        })
    }

    fn in_transaction(&mut self) -> bool {
        self.in_transaction
    }

    fn gave_up(&self) -> bool {
        let pause = ms(1 + self.dice.lock().below(50));
        self.world.stage.sleep(pause);
        self.quits.is_some_and(|at| self.world.stage.now() >= at)
    }

    fn plan(&mut self) -> Option<String> {
        None
    }
}

/// One caller: some queries, one after the other, on one connection.
fn play(world: &World, me: usize, dice: Dice) {
    let dice = Mutex::new(dice);
    let below = |most: u64| dice.lock().below(most);
    let database = usize::try_from(below(world.databases.len() as u64)).unwrap();
    let seat = Seat::of(&world.databases[database]);
    for number in 0..2 + below(4) {
        world.stage.sleep(ms(below(4000)));
        let ward = {
            let wards = world.wards.lock();
            let ward = wards.iter().find(|(of, _)| *of == database);
            ward.map(|(_, ward)| Arc::clone(ward))
        };
        let Some(ward) = ward else { continue };
        ward.add(&seat.connection);
        let commit = below(6) == 0;
        let sql = format!("{} {me} {number}", if commit { "commit" } else { "select" });
        for _ in 0..8 {
            seat.database.answer(&sql, answer(&mut dice.lock()));
        }
        let quits = (below(6) == 0).then(|| world.stage.now() + ms(below(8000)));
        let priority = [Priority::High, Priority::Normal, Priority::Low][usize::try_from(below(3)).unwrap()];
        let mut query = Query {
            world,
            me,
            seat: &seat,
            ward: &ward,
            sql: &sql,
            dice: &dice,
            in_transaction: below(8) == 0,
            quits,
        };
        let job = Job {
            sql: &sql,
            interruptible: !commit,
            priority,
            heeds_signals: below(2) == 0,
            cutting: Cutting::Auto,
            verify: Verify::Counts,
            by_piece: false,
        };
        *world.called.lock() += 1;
        world.callers.lock()[me].called = true;
        let outcome = ward.run(&seat.connection, &job, &mut query);
        let number = match outcome {
            Err(failed) => failed.report.query,
            Ok((stream, ticket)) => read(world, &query, stream, ticket),
        };
        world.callers.lock()[me] = Caller::default();
        world.numbers.lock().insert(sql, number);
        assert!(
            seat.connection.active().is_none(),
            "the query ended and its connection runs on"
        );
    }
}

/// Reads an answer, with pauses, perhaps not to its end; the query's number.
fn read(world: &World, query: &Query<'_>, stream: Stream, ticket: duckward::ward::Ticket) -> u64 {
    let below = |most: u64| query.dice.lock().below(most);
    let report = ticket.report();
    let attempt = u32::try_from(report.attempts.len() + 1).unwrap();
    assert!(
        world.answered.lock().insert(report.query, attempt).is_none(),
        "two answers for {}",
        query.sql
    );
    let mut rows = 0u64;
    for batch in stream {
        if below(4) == 0 {
            world.stage.sleep(ms(below(1500)));
        }
        match batch {
            Ok(batch) => {
                let column = batch.column(0).as_any();
                let column = column.downcast_ref::<arrow::array::Int64Array>().unwrap();
                for n in column.values() {
                    assert_eq!(
                        u64::try_from(*n).unwrap(),
                        rows,
                        "a row is missing or comes twice"
                    );
                    rows += 1;
                }
            }
            Err(error) => {
                query.runs(None);
                drop(ticket.fail(&engine_error(error), rows));
                return report.query;
            }
        }
        if below(20) == 0 {
            query.runs(None);
            drop(ticket);
            return report.query;
        }
    }
    query.runs(None);
    let report = ticket.finish(Some(rows));
    report.query
}

/// The director: readings, responses, the world outside, and whose turn it is.
struct Director<'a> {
    world: &'a World,
    process: Process,
    dice: Dice,
    read_at: Moment,
    respond_at: Moment,
    world_at: Moment,
    /// How many things are still to happen in the world.
    happenings: u64,
    common: Settings,
    level: invariants::LevelFollows,
    originals: Vec<Bytes>,
}

enum Due {
    Actor(usize),
    Read,
    Respond,
    World,
}

impl Director<'_> {
    fn direct(&mut self) {
        loop {
            let actors = self.world.stage.wakes();
            if actors.is_empty() {
                return;
            }
            let mut agenda: Vec<(Moment, Due)> = actors
                .into_iter()
                .map(|(actor, at)| (at, Due::Actor(actor)))
                .collect();
            agenda.push((self.read_at, Due::Read));
            agenda.push((self.respond_at, Due::Respond));
            if self.happenings > 0 {
                agenda.push((self.world_at, Due::World));
            }
            let now = self.world.stage.now();
            let first = agenda.iter().map(|(at, _)| *at).min().unwrap().max(now);
            self.world.stage.move_to(first);
            assert!(first.elapsed() < invariants::LONGEST, "some query does not end");
            agenda.retain(|(at, _)| *at <= first);
            // Who of those whose time has come goes first is as random as in life.
            let chosen = usize::try_from(self.dice.below(agenda.len() as u64)).unwrap();
            match agenda.swap_remove(chosen).1 {
                Due::Actor(actor) => {
                    if !self.world.stage.play(actor) {
                        return;
                    }
                }
                Due::Read => self.read(),
                Due::Respond => {
                    self.world.guardian.respond();
                    self.respond_at = first + ms(1 + self.dice.below(100));
                }
                Due::World => self.happen(),
            }
            self.check();
        }
    }

    fn read(&mut self) {
        let now = self.world.stage.now();
        let next = self.world.guardian.tick();
        // The system may wake a thread late; somebody may wake it early.
        let late = ms(self.dice.below(3));
        self.read_at = now + if self.dice.one_in(10) { next / 3 } else { next } + late;
        if self.world.guardian.members() > 0 {
            self.level.check(&self.world.guardian, now, &self.common);
            invariants::the_actions_match_the_level(&self.world.guardian);
        }
    }

    fn happen(&mut self) {
        self.happenings -= 1;
        self.world_at = self.world.stage.now() + ms(self.dice.below(3000));
        let database = usize::try_from(self.dice.below(self.world.databases.len() as u64)).unwrap();
        match self.dice.below(10) {
            0..=2 => self.process.host_holds(mib(self.dice.below(300))),
            3 => self.process.host_holds(mib(500 + self.dice.below(600))),
            4 => {
                let refuses = self.dice.one_in(2);
                self.world.databases[database].refuses("memory_limit", refuses);
            }
            5 => {
                let wards = self.world.wards.lock().clone();
                if let Some((_, ward)) = wards.first() {
                    ward.cancel();
                }
            }
            6 => self.world.guardian.signal(),
            7 => self.process.keeps_freed(self.dice.one_in(2)),
            8 => {
                open(self.world, database, &mut self.dice);
                // A ward that comes takes a reading of its own, which may have held the level.
                self.level = invariants::LevelFollows::new();
            }
            _ => {
                // What is refused now would stay; that law is elsewhere.
                for database in &self.world.databases {
                    database.refuses("memory_limit", false);
                }
                let gone = {
                    let mut wards = self.world.wards.lock();
                    let at = usize::try_from(self.dice.below(wards.len().max(1) as u64)).unwrap();
                    (at < wards.len()).then(|| wards.remove(at))
                };
                if let Some((_, ward)) = gone {
                    ward.close();
                }
            }
        }
    }

    fn check(&self) {
        let callers = self.world.callers.lock().clone();
        invariants::no_permit_is_lost(&self.world.guardian, &callers);
        invariants::the_degraded_rung_is_alone(&callers);
        for (database, original) in self.world.databases.iter().zip(&self.originals) {
            invariants::the_limit_is_within_its_bounds(database, *original);
        }
    }
}

/// Guards a connection of a database, unless its budget is too small for the process as it is.
fn open(world: &World, database: usize, dice: &mut Dice) {
    let seat = Seat::of(&world.databases[database]);
    let engine: Arc<dyn Engine> = Arc::new(seat.database.clone());
    let settings = loaded(settings_of(dice));
    if let Ok(ward) = Ward::guard(&world.guardian, engine, Arc::clone(&seat.connection), settings) {
        world.wards.lock().push((database, ward));
    }
}

/// Runs one seed; what happened.
fn simulate(seed: u64) -> Vec<Event> {
    let mut dice = Dice(seed);
    let stage = Arc::new(Stage::default());
    let process = Process::new(Arc::clone(&stage) as SharedClock);
    let shared = Arc::clone(&stage) as SharedClock;
    let guardian = Guardian::new(shared, process.sampler(), limits()).unwrap();
    let story = Story::of(&guardian);
    let databases: Vec<Database> = (0..1 + dice.below(2)).map(|_| process.database()).collect();
    for database in &databases {
        if dice.one_in(3) {
            database.user_sets("memory_limit", "300MB");
        }
        if dice.one_in(3) {
            database.lacks("write_buffer_row_group_count");
        }
    }
    let before: Vec<_> = databases
        .iter()
        .map(|database| (database.settings(), database.memory_limit()))
        .collect();
    let callers = usize::try_from(2 + dice.below(4)).unwrap();
    let world = World {
        stage: Arc::clone(&stage),
        guardian,
        databases,
        wards: Mutex::default(),
        callers: Mutex::new(vec![Caller::default(); callers]),
        numbers: Mutex::default(),
        answered: Mutex::default(),
        called: Mutex::new(0),
    };
    for database in 0..world.databases.len() {
        open(&world, database, &mut dice);
    }
    let mut director = Director {
        world: &world,
        process,
        read_at: Moment::default(),
        respond_at: Moment::default(),
        world_at: Moment::default(),
        happenings: 5 + dice.below(30),
        common: settings(),
        level: invariants::LevelFollows::new(),
        originals: before.iter().map(|(_, limit)| *limit).collect(),
        dice,
    };
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        for me in 0..callers {
            let (world, dice) = (&world, director.dice.of(me));
            scope.spawn(stage.actor(move || play(world, me, dice)));
        }
        director.direct();
    });
    for database in &world.databases {
        database.refuses("memory_limit", false);
    }
    let wards = std::mem::take(&mut *world.wards.lock());
    for (_, ward) in wards {
        ward.close();
    }
    let events = story.events();
    assert_eq!(
        (
            world.guardian.admission().running(),
            world.guardian.admission().waiting()
        ),
        (0, 0)
    );
    for (database, (settings, limit)) in world.databases.iter().zip(&before) {
        assert_eq!(database.running(), 0, "a query runs on");
        invariants::every_setting_is_restored(database, settings, *limit);
    }
    invariants::interrupts_reach_only_whom_they_are_for(&world.databases, &events, &world.numbers.lock());
    invariants::every_query_ends_once(&events, *world.called.lock());
    invariants::never_two_answers(&events, &world.answered.lock());
    events
}

/// What happened, as one number.
fn trace(seed: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    for event in simulate(seed) {
        serde_json::to_string(&event).unwrap().hash(&mut hasher);
    }
    hasher.finish()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn the_invariants_hold_for_every_seed() {
    let seeds: Vec<u64> = match number("DUCKWARD_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("DUCKWARD_SIM_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| simulate(seed))) {
            eprintln!(
                "seed {seed} failed; run it again: DUCKWARD_SIM_SEED={seed} cargo test --test laws simulation"
            );
            resume_unwind(panic);
        }
    }
}

#[test]
fn one_seed_is_one_story() {
    let first: Vec<u64> = (0..6).map(trace).collect();
    let second: Vec<u64> = (0..6).map(trace).collect();
    assert_eq!(first, second);
    let different: std::collections::BTreeSet<u64> = first.into_iter().collect();
    assert_eq!(different.len(), 6, "different seeds tell different stories");
}

#[test]
fn the_seeds_reach_what_they_are_for() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        for event in simulate(seed) {
            seen.insert(event.what.name());
            match event.what {
                What::LevelChanged { to, .. } => drop(seen.insert(to.name())),
                What::AttemptStarted { rung, .. } if rung == "degraded" => drop(seen.insert("degraded")),
                _ => {}
            }
        }
    }
    for name in [
        "query_queued",
        "query_interrupted",
        "attempt_failed",
        "action_undone",
        "relief_verified",
        "guard_stopped",
        "degraded",
        "emergency",
    ] {
        assert!(seen.contains(name), "{name} never happens: {seen:?}");
    }
}
