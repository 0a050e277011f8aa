//! The last-resort net: a soft `RLIMIT_DATA` while guarded queries run.
//!
//! Some of DuckDB's memory passes its buffer manager by (the strings of one vector: 15 GB were measured under
//! a `memory_limit` of 500 MB), and grows faster than any watcher can interrupt. Under this limit the
//! allocation fails, DuckDB answers with an out-of-memory error, and the process lives.
//!
//! The limit belongs to the process, so what is kept of it is kept once per process. Child processes inherit
//! it: a program that is started, or a fork that is made, while queries run has it for life, unless it calls
//! [`release_now`] (a fork) or raises its own soft limit. On systems other than Linux nothing of this has an
//! effect; that has not been tested.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use parking_lot::Mutex;

use super::reading::ProcessMemory;
use crate::units::Bytes;

/// What is left for everybody else, however much the engine's allocator keeps mapped.
pub const HEADROOM: Bytes = Bytes::mib(16);

/// What may still be mapped when a burst is seen.
pub const BURST_ROOM: Bytes = Bytes((11 << 20) / 2);

/// What the sizes of large mappings are multiples of.
const BLOCK: u64 = 512 << 10;

/// What is left of the room when such mappings have filled it: enough for the heap of a thread that has none yet.
const REST: u64 = 448 << 10;

/// Free memory in the heap, below the size that glibc maps and unmaps on its own.
const SMALL_CHANGE: usize = 96 << 10;

/// Room in which an allocation may soon fail.
const WIDE: Bytes = Bytes::mib(2048);

/// How much the mappings must have changed for what is set aside to be looked up again.
const REMAPPED: u64 = 4 << 20;

/// The largest mapping behind a guard page that is taken for a stack.
const STACK: u64 = 16 << 20;

/// The smallest mapping that is taken for a reservation.
const RESERVATION: u64 = 1 << 30;

/// A limit is moved only by more than this, so that most readings cost no system call.
const STEP: u64 = 1 << 20;

/// "No limit" in [`BEFORE`], "none of ours" in [`IN_FORCE`] and [`TRIED`].
const NONE: u64 = u64::MAX;

/// How many [`Armed`] there are. Whoever moves the limit holds this lock, except for [`release_now`].
static ARMED: Mutex<usize> = Mutex::new(0);
/// The soft limit before the first of them.
static BEFORE: AtomicU64 = AtomicU64::new(NONE);
/// The soft limit that we have set and still keep up.
static IN_FORCE: AtomicU64 = AtomicU64::new(NONE);
/// The last one that we tried to set: another thread may see it in the kernel before [`IN_FORCE`] says so.
static TRIED: AtomicU64 = AtomicU64::new(NONE);
/// In a burst, the least that the limit may be: see [`limit`].
static STRICT: AtomicU64 = AtomicU64::new(NONE);
/// What the process had mapped when [`ASIDE`] was looked up.
static LOOKED_UP_AT: AtomicU64 = AtomicU64::new(0);
/// What of it was set aside.
static ASIDE: AtomicU64 = AtomicU64::new(0);
/// Whether [`release_now`] has lifted it.
static RELEASED: AtomicBool = AtomicBool::new(false);

/// The soft `RLIMIT_DATA` under which a process reaches `reach` bytes of anonymous memory, and hardly more.
///
/// An allocator maps ahead of use and keeps what it freed mapped (jemalloc: half as much again, and more), so usually the
/// limit allows for as much new as there is room for what is in use. In a burst all of it is used at once, so then
/// everything mapped counts, but for `aside`, which no engine can use: thread stacks, and what another library reserved.
/// `strict` is the least such a limit may be: what was mapped when the burst began, and some head-room, because a small
/// allocation that fails ends many a C library.
pub fn limit(now: ProcessMemory, aside: Bytes, reach: Bytes, strict: Option<Bytes>) -> Bytes {
    let limit = match strict {
        Some(least) => reach.plus(aside).max(least),
        None => now.data.plus(reach.minus(now.anonymous)),
    };
    // One byte less than "no limit", in case it saturated.
    limit.min(Bytes(NONE - 1))
}

/// `limit`, lowered so that with `mapped` bytes mapped the room is no whole number of blocks. Who takes blocks until one fails
/// leaves a rest then, and in that a thread's first allocation succeeds, without which glibc ends the process.
fn with_rest(limit: Bytes, mapped: Bytes) -> Bytes {
    let blocks = limit.minus(mapped).0 / BLOCK;
    if blocks == 0 {
        return limit;
    }
    mapped.plus(Bytes((blocks - 1) * BLOCK + REST))
}

/// Sizes of the mappings in the text of `/proc/self/maps` that no engine hands out: stacks (a private writable mapping
/// right behind its guard page), and reservations of a gibibyte and more (mimalloc's, which comes with pyarrow).
fn set_aside(maps: &str) -> Bytes {
    let mut sum = Bytes(0);
    let mut guard_end = None;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else {
            continue;
        };
        let bound = |text: &str| u64::from_str_radix(text, 16).ok();
        let Some((start, end)) = range
            .split_once('-')
            .and_then(|(start, end)| Some((bound(start)?, bound(end)?)))
        else {
            continue;
        };
        let size = end.saturating_sub(start);
        let anonymous = fields.nth(3).is_none();
        if rights == "rw-p"
            && anonymous
            && ((guard_end == Some(start) && size <= STACK) || size >= RESERVATION)
        {
            sum = sum.plus(Bytes(size));
        }
        guard_end = rights.starts_with("---").then_some(end);
    }
    sum
}

/// The net. Dropping it does not take the limit away; dropping the last [`Armed`] does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ceiling;

impl Ceiling {
    /// Limits the process, which is at `now`, to `reach` bytes of anonymous memory and hardly more, until every
    /// [`Armed`] is dropped.
    ///
    /// It never fails: where the system refuses, or somebody else has changed the limit since the first was
    /// armed, nothing is limited, and [`in_force`] says so.
    #[must_use = "the ceiling is taken away when this is dropped"]
    pub fn arm(&self, now: ProcessMemory, reach: Bytes) -> Armed {
        if reach.minus(now.anonymous) < WIDE {
            leave_small_change();
            // Now, and not in a burst, when what an engine maps cannot be told from a stack any more.
            if now.data.0.abs_diff(LOOKED_UP_AT.load(SeqCst)) > REMAPPED {
                look_up_aside(now);
            }
        }
        let mut armed = ARMED.lock();
        *armed += 1;
        if *armed == 1 {
            if let Some((soft, _)) = rlimit::get() {
                RELEASED.store(false, SeqCst);
                BEFORE.store(soft, SeqCst);
                set(now, reach);
            }
        } else if IN_FORCE.load(SeqCst) != NONE {
            set(now, reach);
        }
        Armed { _private: () }
    }

    /// Moves the limit to where the process, now at `now`, may reach `reach` bytes of anonymous memory. Does nothing
    /// unless armed, or for less than a mebibyte; cheap enough for every reading.
    pub fn adjust(&self, now: ProcessMemory, reach: Bytes) {
        let in_force = IN_FORCE.load(SeqCst);
        if in_force == NONE || limit_for(now, reach).0.abs_diff(in_force) <= STEP {
            return;
        }
        let armed = ARMED.lock();
        if *armed > 0 && IN_FORCE.load(SeqCst) != NONE {
            set(now, reach);
        }
    }

    /// From now on everything mapped counts, but the limit is not under `least`; or, with none, only what is in use.
    pub fn strict(&self, least: Option<Bytes>) {
        STRICT.store(least.map_or(NONE, Bytes::get), SeqCst);
    }
}

/// Whether the ceiling can hold the process, now at `now`, to `reach`: what is mapped already comes into use without asking the
/// system, and an allocator may keep mapped what it freed (jemalloc does, for good).
pub fn holds(now: ProcessMemory, reach: Bytes) -> bool {
    now.data.minus(Bytes(ASIDE.load(SeqCst))) <= reach
}

fn strict() -> Option<Bytes> {
    let least = STRICT.load(SeqCst);
    (least != NONE).then_some(Bytes(least))
}

fn limit_for(now: ProcessMemory, reach: Bytes) -> Bytes {
    let aside = Bytes(ASIDE.load(SeqCst));
    let limit = with_rest(limit(now, aside, reach, strict()), now.data);
    before().map_or(limit, |most| limit.min(most))
}

/// Sets the limit, unless somebody else has set one; with [`ARMED`] locked.
fn set(now: ProcessMemory, reach: Bytes) {
    let Some((soft, hard)) = rlimit::get() else { return };
    let first = IN_FORCE.load(SeqCst) == NONE;
    let as_left = is_ours(soft) || (first && soft == BEFORE.load(SeqCst));
    if !as_left {
        forget();
        return;
    }
    let limit = limit_for(now, reach).0.min(hard);
    TRIED.store(limit, SeqCst);
    if rlimit::set(limit, hard) {
        IN_FORCE.store(limit, SeqCst);
    }
    // It may have been released between the lines above.
    if RELEASED.load(SeqCst) {
        lift();
    }
}

/// Leaves free memory in the heap of this thread (the main one's serves all others when theirs cannot grow). A thread's
/// local data is allocated when it first throws, which is when the limit is reached, and glibc ends the process without.
fn leave_small_change() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(SMALL_CHANGE)));
}

/// Looks up what is set aside of the mappings. Takes long enough to be felt, so only where room is scarce.
fn look_up_aside(now: ProcessMemory) {
    if let Ok(maps) = std::fs::read_to_string("/proc/self/maps") {
        ASIDE.store(set_aside(&maps).0, SeqCst);
        LOOKED_UP_AT.store(now.data.0, SeqCst);
    }
}

/// As long as one of these lives, the limit is kept up. Dropping the last puts the soft limit back that was
/// there before, unless somebody else has changed it meanwhile.
#[derive(Debug)]
pub struct Armed {
    _private: (),
}

impl Drop for Armed {
    fn drop(&mut self) {
        let mut armed = ARMED.lock();
        *armed = armed.saturating_sub(1);
        if *armed == 0 {
            lift();
            forget();
        }
    }
}

/// The limit that is kept up now, if any.
pub fn in_force() -> Option<Bytes> {
    let set = IN_FORCE.load(SeqCst);
    (set != NONE).then_some(Bytes(set))
}

/// Whether the limit was lifted by [`release_now`] since it was last armed.
pub fn released() -> bool {
    RELEASED.load(SeqCst)
}

/// Lifts the limit at once, until it is armed anew after the last query. Allocates nothing and takes no lock,
/// so that a failing allocator can call it. Returns whether there was something to lift, which means: whether
/// to try again.
pub fn release_now() -> bool {
    if IN_FORCE.load(SeqCst) == NONE && TRIED.load(SeqCst) == NONE {
        return false;
    }
    RELEASED.store(true, SeqCst);
    lift()
}

/// The soft limit `soft`, or the one that ours has displaced if that is what it is.
pub(super) fn without_ours(soft: Option<Bytes>) -> Option<Bytes> {
    match soft {
        Some(Bytes(bytes)) if is_ours(bytes) => before(),
        other => other,
    }
}

fn before() -> Option<Bytes> {
    let before = BEFORE.load(SeqCst);
    (before != NONE).then_some(Bytes(before))
}

fn is_ours(soft: u64) -> bool {
    soft != NONE && (soft == IN_FORCE.load(SeqCst) || soft == TRIED.load(SeqCst))
}

/// Puts the soft limit back if the one in force is ours.
fn lift() -> bool {
    let set = IN_FORCE.load(SeqCst);
    let lifted = match rlimit::get() {
        Some((soft, hard)) if is_ours(soft) => rlimit::set(BEFORE.load(SeqCst).min(hard), hard),
        _ => false,
    };
    // Another thread may have armed it anew in between; then that one stays known.
    let _ = IN_FORCE.compare_exchange(set, NONE, SeqCst, SeqCst);
    lifted
}

fn forget() {
    IN_FORCE.store(NONE, SeqCst);
    TRIED.store(NONE, SeqCst);
}

/// `RLIMIT_DATA` of this process, with [`NONE`] for no limit.
#[cfg(target_os = "linux")]
mod rlimit {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::NONE;

    /// The soft and the hard limit.
    pub(super) fn get() -> Option<(u64, u64)> {
        let limits = getrlimit(Resource::Data);
        Some((limits.current.unwrap_or(NONE), limits.maximum.unwrap_or(NONE)))
    }

    /// Sets both, and says whether the system did.
    pub(super) fn set(soft: u64, hard: u64) -> bool {
        let known = |limit: u64| (limit != NONE).then_some(limit);
        setrlimit(
            Resource::Data,
            Rlimit {
                current: known(soft),
                maximum: known(hard),
            },
        )
        .is_ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod rlimit {
    pub(super) fn get() -> Option<(u64, u64)> {
        None
    }

    pub(super) fn set(_soft: u64, _hard: u64) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn process(anonymous: Bytes, data: Bytes) -> ProcessMemory {
        ProcessMemory {
            anonymous,
            resident: anonymous,
            data,
        }
    }

    #[test]
    fn usually_there_is_room_for_as_much_new_as_may_still_come_into_use() {
        let used = process(Bytes::mib(350), Bytes::mib(420));
        assert_eq!(
            limit(used, Bytes::mib(70), Bytes::mib(550), None),
            Bytes::mib(420 + 200)
        );
    }

    #[test]
    fn in_a_burst_everything_mapped_counts_but_what_is_set_aside() {
        let ahead = process(Bytes::mib(90), Bytes::mib(420));
        assert_eq!(
            limit(ahead, Bytes::mib(70), Bytes::mib(500), Some(Bytes::mib(436))),
            Bytes::mib(570)
        );
        let over = process(Bytes::mib(490), Bytes::mib(700));
        let least = Some(Bytes::mib(716));
        assert_eq!(
            limit(over, Bytes::mib(70), Bytes::mib(500), least),
            Bytes::mib(716)
        );
    }

    #[test]
    fn stacks_and_reservations_are_set_aside_and_heaps_are_not() {
        let maps = "\
7f0000000000-7f0000001000 ---p 00000000 00:00 0 \n\
7f0000001000-7f0000801000 rw-p 00000000 00:00 0 \n\
7f0000801000-7f0000a01000 rw-p 00000000 00:00 0 \n\
7f1000000000-7f1040000000 rw-p 00000000 00:00 0 \n\
7f2000000000-7f2000001000 ---p 00000000 00:00 0 \n\
7f2000001000-7f2008001000 rw-p 00000000 00:00 0 \n\
7f3000000000-7f3000001000 ---p 00000000 08:01 77   /lib/x.so\n\
7f3000001000-7f3000002000 rw-p 00000000 08:01 77   /lib/x.so\n\
garbage\n";
        assert_eq!(set_aside(maps), Bytes::mib(8 + 1024));
    }

    proptest! {
        #[test]
        fn blocks_that_fill_the_room_leave_a_rest(limit: u64, mapped: u64, blocks in 1u64..64) {
            let lowered = with_rest(Bytes(limit), Bytes(mapped));
            prop_assert!(lowered <= Bytes(limit) && limit - lowered.0 <= 2 * BLOCK);
            let room = lowered.minus(Bytes(mapped)).0;
            prop_assert!(room < BLOCK || room % (blocks * BLOCK) >= REST);
        }

        #[test]
        fn more_reach_never_lowers_the_limit(
            now: (u64, u64), aside: u64, reach: u64, more: u64, strict: Option<u64>,
        ) {
            let (now, aside, reach) = (process(Bytes(now.0), Bytes(now.1)), Bytes(aside), Bytes(reach));
            let strict = strict.map(Bytes);
            let free = limit(now, aside, reach, strict);
            prop_assert!(free.0 < NONE);
            prop_assert!(limit(now, aside, reach.plus(Bytes(more)), strict) >= free);
        }
    }

    /// The tests below change a limit of their process, so each runs in one of its own.
    #[cfg(target_os = "linux")]
    mod alone {
        use std::path::Path;

        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        use super::super::*;
        use crate::guard::budget::Limits;
        use crate::guard::budget::testing::{in_child, run_in_child};
        use crate::guard::reading::{Sample, Sampler};

        const GIB: usize = 1 << 30;

        fn now() -> ProcessMemory {
            Sampler::open(Path::new("/"), None).fast().expect("statm reads")
        }

        fn armed(room: Bytes) -> (Ceiling, Armed) {
            let now = now();
            let ceiling = Ceiling;
            (ceiling, ceiling.arm(now, now.anonymous.plus(room)))
        }

        fn can_allocate(bytes: usize) -> bool {
            let mut memory: Vec<u8> = Vec::new();
            let done = memory.try_reserve_exact(bytes).is_ok();
            std::hint::black_box(&memory);
            done
        }

        fn set_soft(soft: Option<u64>) {
            let maximum = getrlimit(Resource::Data).maximum;
            setrlimit(
                Resource::Data,
                Rlimit {
                    current: soft,
                    maximum,
                },
            )
            .expect("a soft limit can be set");
        }

        /// In the child, returns; else runs `test` in a child and says that there is nothing more to do.
        fn is_parent(test: &str) -> bool {
            if in_child().is_some() {
                return false;
            }
            run_in_child(module_path!(), test, "1");
            true
        }

        #[test]
        fn an_allocation_beyond_the_room_fails_while_armed_and_succeeds_afterwards() {
            if is_parent("an_allocation_beyond_the_room_fails_while_armed_and_succeeds_afterwards") {
                return;
            }
            let before = getrlimit(Resource::Data);
            let (_, armed) = armed(Bytes::mib(256));
            assert!(!can_allocate(GIB));
            assert!(can_allocate(64 << 20), "what fits into the room is not refused");
            drop(armed);
            assert_eq!(getrlimit(Resource::Data), before);
            assert!(can_allocate(GIB));
        }

        #[test]
        fn the_soft_limit_that_was_there_is_never_passed_and_comes_back_with_the_last_one_armed() {
            if is_parent(
                "the_soft_limit_that_was_there_is_never_passed_and_comes_back_with_the_last_one_armed",
            ) {
                return;
            }
            set_soft(Some(3 << 30));
            let (ceiling, first) = armed(Bytes::mib(8192));
            assert_eq!(in_force(), Some(Bytes::mib(3072)));
            let second = ceiling.arm(now(), now().anonymous.plus(Bytes::mib(512)));
            drop(first);
            let limited = getrlimit(Resource::Data).current.expect("a limit");
            assert!(limited < 1 << 30, "{limited}");
            assert_eq!(in_force(), Some(Bytes(limited)));
            drop(second);
            assert_eq!(getrlimit(Resource::Data).current, Some(3 << 30));
            assert_eq!(in_force(), None);
        }

        #[test]
        fn the_limit_follows_the_room_in_steps_of_more_than_a_mebibyte() {
            if is_parent("the_limit_follows_the_room_in_steps_of_more_than_a_mebibyte") {
                return;
            }
            let soft = || getrlimit(Resource::Data).current;
            let before = soft();
            let start = now();
            let ceiling = Ceiling;
            ceiling.adjust(start, start.anonymous.plus(Bytes::mib(100)));
            assert_eq!(soft(), before, "not armed");
            let armed = ceiling.arm(start, start.anonymous.plus(Bytes::mib(200)));
            let first = soft().expect("a limit");
            ceiling.adjust(start, start.anonymous.plus(Bytes::mib(201)));
            assert_eq!(soft(), Some(first));
            ceiling.adjust(start, start.anonymous.plus(Bytes::mib(300)));
            assert_eq!(soft(), Some(first + (100 << 20)));
            ceiling.adjust(start, start.anonymous.plus(Bytes::mib(90)));
            assert_eq!(soft(), Some(first - (110 << 20)));
            drop(armed);
            assert_eq!(soft(), before);
        }

        #[test]
        fn a_limit_that_somebody_else_sets_meanwhile_is_left_alone() {
            if is_parent("a_limit_that_somebody_else_sets_meanwhile_is_left_alone") {
                return;
            }
            let (ceiling, armed) = armed(Bytes::mib(512));
            set_soft(Some(5 << 30));
            ceiling.adjust(now(), now().anonymous.plus(Bytes::mib(256)));
            let nested = ceiling.arm(now(), now().anonymous.plus(Bytes::mib(256)));
            assert_eq!(in_force(), None);
            drop((nested, armed));
            assert_eq!(getrlimit(Resource::Data).current, Some(5 << 30));
        }

        #[test]
        fn a_failing_allocator_can_lift_the_limit_and_it_stays_lifted_until_the_last_query_ends() {
            if is_parent(
                "a_failing_allocator_can_lift_the_limit_and_it_stays_lifted_until_the_last_query_ends",
            ) {
                return;
            }
            assert!(!release_now(), "nothing is armed");
            let before = getrlimit(Resource::Data);
            let (ceiling, first) = armed(Bytes::mib(256));
            assert!(!can_allocate(GIB));
            assert!(release_now());
            assert!(released() && can_allocate(GIB));
            ceiling.adjust(now(), now().anonymous.plus(Bytes::mib(64)));
            let second = ceiling.arm(now(), now().anonymous.plus(Bytes::mib(64)));
            assert_eq!((in_force(), getrlimit(Resource::Data)), (None, before));
            assert!(!release_now(), "it is lifted already");
            drop((first, second));
            let anew = ceiling.arm(now(), now().anonymous.plus(Bytes::mib(64)));
            assert!(!released() && !can_allocate(GIB));
            drop(anew);
            assert_eq!(getrlimit(Resource::Data), before);
        }

        #[test]
        fn our_own_limit_is_no_bound_of_a_budget() {
            if is_parent("our_own_limit_is_no_bound_of_a_budget") {
                return;
            }
            let without = Limits::read(Path::new("/")).data;
            let (_, armed) = armed(Bytes::mib(256));
            assert_eq!(Limits::read(Path::new("/")).data, without);
            drop(armed);
            set_soft(Some(4 << 30));
            assert_eq!(Limits::read(Path::new("/")).data, Some(Bytes::mib(4096)));
        }

        #[test]
        fn whatever_threads_arm_adjust_and_release_the_limit_ends_as_it_was() {
            if is_parent("whatever_threads_arm_adjust_and_release_the_limit_ends_as_it_was") {
                return;
            }
            set_soft(Some(6 << 30));
            let start = now();
            let ceiling = Ceiling;
            std::thread::scope(|scope| {
                for thread in 0..6u64 {
                    scope.spawn(move || {
                        for round in 0..2000u64 {
                            let room = Bytes::mib(1024 + (thread * 977 + round * 31) % 512);
                            match thread {
                                0 => drop(release_now()),
                                1 | 2 => ceiling.adjust(start, start.anonymous.plus(room)),
                                _ => drop(ceiling.arm(start, start.anonymous.plus(room))),
                            }
                        }
                    });
                }
            });
            assert_eq!(getrlimit(Resource::Data).current, Some(6 << 30));
            assert_eq!(in_force(), None);
        }
    }
}
