//! What each guarded DuckDB instance's `memory_limit` should be, given the room that the rest leaves. Pure.
//!
//! DuckDB's limit covers its buffer manager only; what else the process uses (data frames, answers, the allocator) is
//! taken off here. Lower at once: another's growth does not wait. Raise late: room that comes back may go again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Level;
use crate::clock::Moment;
use crate::settings::Settings;
use crate::units::Bytes;

/// Below this DuckDB does no useful work, and a checkpoint that finds no room invalidates the whole instance (1.5 needs more
/// than 16 MiB for one, and of a table with long texts more than 57 MiB).
pub const FLOOR: Bytes = Bytes::mib(96);
/// How long there must be more room before a limit is raised, and before a lowering that did not happen is asked again.
const DWELL: Duration = Duration::from_secs(1);
/// Limits are whole multiples of this, so that small comings and goings ask for nothing.
const GRAIN: u64 = 1 << 20;
/// How far the fill share stays below warning, so that an instance at its limit does not itself raise the level.
const BELOW_WARNING: f64 = 0.02;
/// A change up to this share of the limit is small. Setting a limit gives the allocator's free pages back, which the next
/// query pays for; so while the instance uses less than [`NEAR_LIMIT`] of its limit, a small change is not worth it, and
/// from there on one above [`SMALL_LOWER`] or [`SMALL_RAISE`] is.
const SMALL_SHARE: f64 = 0.05;
const SMALL_LOWER: Bytes = Bytes::mib(8);
const SMALL_RAISE: Bytes = Bytes::mib(16);
const NEAR_LIMIT: f64 = 0.5;

/// A guarded instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its number in this process.
    pub id: u64,
    /// Memory that its buffer manager tracks.
    pub tracked: Bytes,
    /// Its `memory_limit` now.
    pub limit: Bytes,
    /// Its `memory_limit` before the guard.
    pub original: Bytes,
}

/// What there is to share out.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    /// The budget.
    pub budget: Bytes,
    /// Memory that counts, of the instances and of everything else.
    pub used: Bytes,
    /// Share of the budget up to which instances may fill memory: [`fill_share`].
    pub fill: f64,
    /// The governor's factor: [`Governor::memory_factor`](super::governor::Governor::memory_factor).
    pub factor: f64,
    /// The level in force; from critical on no lowering is too small.
    pub level: Level,
    /// When that was read.
    pub now: Moment,
    /// The guarded instances.
    pub instances: &'a [Instance],
}

/// A limit to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewLimit {
    /// Whose.
    pub id: u64,
    /// The limit.
    pub limit: Bytes,
}

/// The fill share that belongs to `settings`: a little below warning.
pub fn fill_share(settings: &Settings) -> f64 {
    let [_, warning, ..] = settings.levels;
    (warning - BELOW_WARNING).max(0.0)
}

impl Room<'_> {
    /// Memory that the instances may use together.
    pub fn pool(&self) -> Bytes {
        let others = self.used.minus(self.tracked());
        self.budget.times(self.fill).minus(others)
    }

    fn tracked(&self) -> Bytes {
        self.instances
            .iter()
            .fold(Bytes(0), |sum, instance| sum.plus(instance.tracked))
    }

    /// The limit that each instance should have, in their order: what it uses and an equal part of what is free (or,
    /// when the pool is smaller than what they use, their part of the pool), times the factor; at most its original
    /// limit, at least the floor.
    pub fn targets(&self) -> Vec<Bytes> {
        let (pool, tracked) = (self.pool(), self.tracked());
        let count = u64::try_from(self.instances.len()).unwrap_or(u64::MAX).max(1);
        self.instances
            .iter()
            .map(|instance| {
                let share = if pool >= tracked {
                    instance.tracked.plus(Bytes(pool.minus(tracked).get() / count))
                } else {
                    part(instance.tracked, pool, tracked)
                };
                let wished = share.min(instance.original).times(self.factor);
                if wished >= instance.original {
                    instance.original
                } else {
                    Bytes(wished.get() / GRAIN * GRAIN)
                        .max(FLOOR)
                        .min(instance.original)
                }
            })
            .collect()
    }
}

/// `tracked` scaled down by `pool` / `all`, exactly.
fn part(tracked: Bytes, pool: Bytes, all: Bytes) -> Bytes {
    let scaled = u128::from(tracked.get()) * u128::from(pool.get()) / u128::from(all.get().max(1));
    Bytes(u64::try_from(scaled).unwrap_or(u64::MAX))
}

/// What is remembered of one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Memory {
    /// Since when its target was enough above its limit.
    more_since: Option<Moment>,
    /// The last lowering that was asked for: DuckDB refuses one while pinned memory is in the way.
    asked: Option<(Bytes, Moment)>,
}

/// The state between readings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elastic {
    instances: BTreeMap<u64, Memory>,
}

impl Elastic {
    /// The state after a reading, and the limits to be set now, lowerings first.
    #[must_use]
    pub fn decide(&self, room: &Room<'_>) -> (Elastic, Vec<NewLimit>) {
        let targets = room.targets();
        let with_targets = || room.instances.iter().zip(&targets);
        let pressed = room.level >= Level::Critical;
        // Room is not promised to one while another still has more than its part.
        let overdrawn =
            with_targets().any(|(instance, target)| lower(instance, instance.limit, *target, pressed));
        let (mut lowered, mut raised) = (Vec::new(), Vec::new());
        let mut next = Elastic::default();
        for (instance, target) in with_targets() {
            let mut memory = self.instances.get(&instance.id).copied().unwrap_or_default();
            let new = NewLimit {
                id: instance.id,
                limit: *target,
            };
            memory.asked = memory.asked.filter(|(_, at)| room.now.since(*at) < DWELL);
            let asked = memory
                .asked
                .map_or(instance.limit, |(limit, _)| limit.min(instance.limit));
            if lower(instance, asked, *target, pressed) {
                memory.asked = Some((*target, room.now));
                lowered.push(new);
            }
            if raise(instance, *target) {
                let since = *memory.more_since.get_or_insert(room.now);
                if room.now.since(since) >= DWELL && !overdrawn {
                    memory.more_since = None;
                    raised.push(new);
                }
            } else {
                memory.more_since = None;
            }
            next.instances.insert(instance.id, memory);
        }
        lowered.extend(raised);
        (next, lowered)
    }
}

/// Whether going from `limit` down to `target` is worth a statement.
fn lower(instance: &Instance, limit: Bytes, target: Bytes, pressed: bool) -> bool {
    let by = limit.minus(target);
    if pressed || target < instance.tracked {
        return by > Bytes(0);
    }
    by > Bytes(0) && (by >= limit.times(SMALL_SHARE) || (by >= SMALL_LOWER && near(instance)))
}

/// Whether going up to `target` is worth a statement.
fn raise(instance: &Instance, target: Bytes) -> bool {
    let by = target.minus(instance.limit);
    by > instance.limit.times(SMALL_SHARE) || (by > SMALL_RAISE && near(instance))
}

/// Whether the instance may soon be held by its limit.
fn near(instance: &Instance) -> bool {
    instance.tracked >= instance.limit.times(NEAR_LIMIT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1024;

    fn at(ms: u64) -> Moment {
        Moment::at(Duration::from_millis(ms))
    }

    fn instance(id: u64, tracked: u64, limit: u64) -> Instance {
        Instance {
            id,
            tracked: Bytes::mib(tracked),
            limit: Bytes::mib(limit),
            original: Bytes::mib(16 * GIB),
        }
    }

    fn room(used: u64, instances: &[Instance]) -> Room<'_> {
        Room {
            budget: Bytes::mib(1000),
            used: Bytes::mib(used),
            fill: 0.78,
            factor: 1.0,
            level: Level::Normal,
            now: at(0),
            instances,
        }
    }

    fn limits(room: &Room<'_>, elastic: &mut Elastic) -> Vec<(u64, u64)> {
        let (next, new) = elastic.decide(room);
        *elastic = next;
        new.into_iter()
            .map(|new| (new.id, new.limit.get() >> 20))
            .collect()
    }

    #[test]
    fn an_instance_at_its_limit_stays_below_warning() {
        let settings = Settings::default();
        assert!((fill_share(&settings) - 0.78).abs() < 1e-12);
        let alone = [instance(1, 0, 16 * GIB)];
        assert_eq!(room(100, &alone).targets(), [Bytes::mib(680)]);
    }

    #[test]
    fn instances_share_the_free_room_equally_and_keep_what_they_use() {
        let two = [instance(1, 300, 600), instance(2, 0, 600)];
        // 100 MiB are others'; 680 less 300 are free.
        assert_eq!(room(400, &two).targets(), [Bytes::mib(490), Bytes::mib(190)]);
    }

    #[test]
    fn when_others_take_what_instances_use_these_share_the_pool_by_use() {
        let two = [instance(1, 300, 600), instance(2, 150, 600)];
        // 450 MiB are others'; 330 are left for 450.
        assert_eq!(room(900, &two).targets(), [Bytes::mib(220), Bytes::mib(110)]);
    }

    #[test]
    fn the_floor_holds_when_nothing_is_left_and_a_smaller_original_limit_is_kept() {
        let small = Instance {
            original: Bytes::mib(10),
            ..instance(2, 0, 10)
        };
        let instances = [instance(1, 0, 600), small];
        assert_eq!(room(5000, &instances).targets(), [FLOOR, Bytes::mib(10)]);
    }

    #[test]
    fn an_original_limit_is_given_back_to_the_byte() {
        let odd = Instance {
            original: Bytes(100_000_001),
            ..instance(1, 0, 50)
        };
        assert_eq!(room(100, &[odd]).targets(), [Bytes(100_000_001)]);
    }

    #[test]
    fn lowering_is_at_once_and_raising_after_the_dwell() {
        let mut elastic = Elastic::default();
        assert_eq!(
            limits(&room(100, &[instance(1, 0, 900)]), &mut elastic),
            [(1, 680)]
        );
        for ms in [0, 500, 999] {
            let calm = [instance(1, 0, 400)];
            assert_eq!(
                limits(
                    &Room {
                        now: at(ms),
                        ..room(100, &calm)
                    },
                    &mut elastic
                ),
                []
            );
        }
        let calm = [instance(1, 0, 400)];
        assert_eq!(
            limits(
                &Room {
                    now: at(1000),
                    ..room(100, &calm)
                },
                &mut elastic
            ),
            [(1, 680)]
        );
    }

    #[test]
    fn room_that_goes_again_begins_the_dwell_anew() {
        let mut elastic = Elastic::default();
        let calm = [instance(1, 0, 400)];
        for (ms, used) in [(0, 100), (900, 380), (950, 100), (1900, 100)] {
            assert_eq!(
                limits(
                    &Room {
                        now: at(ms),
                        ..room(used, &calm)
                    },
                    &mut elastic
                ),
                [],
                "{ms}"
            );
        }
        assert_eq!(
            limits(
                &Room {
                    now: at(1950),
                    ..room(100, &calm)
                },
                &mut elastic
            ),
            [(1, 680)]
        );
    }

    #[test]
    fn small_changes_ask_for_nothing_unless_memory_is_critical() {
        let mut elastic = Elastic::default();
        let near = [instance(1, 0, 685)];
        assert_eq!(limits(&room(100, &near), &mut elastic), []);
        let near_below = [instance(1, 0, 670)];
        for ms in [0, 5000] {
            assert_eq!(
                limits(
                    &Room {
                        now: at(ms),
                        ..room(100, &near_below)
                    },
                    &mut elastic
                ),
                []
            );
        }
        let critical = Room {
            level: Level::Critical,
            ..room(100, &near)
        };
        assert_eq!(limits(&critical, &mut elastic), [(1, 680)]);
    }

    #[test]
    fn a_refused_lowering_is_asked_again_after_the_dwell_or_when_it_must_go_lower() {
        let mut elastic = Elastic::default();
        let stuck = [instance(1, 500, 900)];
        assert_eq!(limits(&room(600, &stuck), &mut elastic), [(1, 680)]);
        assert_eq!(
            limits(
                &Room {
                    now: at(500),
                    ..room(600, &stuck)
                },
                &mut elastic
            ),
            []
        );
        assert_eq!(
            limits(
                &Room {
                    now: at(600),
                    ..room(650, &stuck)
                },
                &mut elastic
            ),
            [(1, 630)]
        );
        assert_eq!(
            limits(
                &Room {
                    now: at(1599),
                    ..room(650, &stuck)
                },
                &mut elastic
            ),
            []
        );
        assert_eq!(
            limits(
                &Room {
                    now: at(1600),
                    ..room(650, &stuck)
                },
                &mut elastic
            ),
            [(1, 630)]
        );
    }

    #[test]
    fn nobody_is_raised_while_another_has_more_than_its_part() {
        let mut elastic = Elastic::default();
        let two = [instance(1, 0, 600), instance(2, 0, 100)];
        for ms in [0, 1000, 2000] {
            assert_eq!(
                limits(
                    &Room {
                        now: at(ms),
                        ..room(100, &two)
                    },
                    &mut elastic
                ),
                [(1, 340)]
            );
        }
        let gave = [instance(1, 0, 340), instance(2, 0, 100)];
        assert_eq!(
            limits(
                &Room {
                    now: at(2001),
                    ..room(100, &gave)
                },
                &mut elastic
            ),
            [(2, 340)]
        );
    }

    #[test]
    fn an_instance_that_left_is_forgotten() {
        let (elastic, _) = Elastic::default().decide(&room(100, &[instance(1, 0, 400)]));
        let (elastic, new) = elastic.decide(&room(100, &[]));
        assert_eq!((elastic, new), (Elastic::default(), vec![]));
    }

    fn any_instances() -> impl Strategy<Value = Vec<Instance>> {
        let one =
            (0u64..2 << 30, 1u64..4 << 30, 1u64..4 << 30).prop_map(|(tracked, limit, original)| Instance {
                id: 0,
                tracked: Bytes(tracked),
                limit: Bytes(limit.min(original)),
                original: Bytes(original),
            });
        proptest::collection::vec(one, 0..5).prop_map(|mut instances| {
            for (id, instance) in (1..).zip(&mut instances) {
                instance.id = id;
            }
            instances
        })
    }

    fn any_room(instances: &[Instance], used: u64, budget: u64, factor: f64) -> Room<'_> {
        Room {
            budget: Bytes(budget),
            used: Bytes(used),
            factor,
            ..room(0, instances)
        }
    }

    proptest! {
        #[test]
        fn never_more_is_promised_than_the_pool_but_for_floors(
            instances in any_instances(), used in 0u64..8 << 30, budget in 1u64..8 << 30,
            factor in prop_oneof![Just(1.0), Just(0.8), Just(0.5)],
        ) {
            let room = any_room(&instances, used, budget, factor);
            let promised: u64 = room.targets().iter().map(|target| target.get()).filter(|target| *target > FLOOR.get()).sum();
            prop_assert!(promised <= room.pool().get());
        }

        #[test]
        fn a_target_is_never_above_the_original_limit_and_never_below_the_floor(
            instances in any_instances(), used in 0u64..8 << 30, budget in 1u64..8 << 30, factor in 0.0..=1.0f64,
        ) {
            let targets = any_room(&instances, used, budget, factor).targets();
            for (instance, target) in instances.iter().zip(targets) {
                prop_assert!(target <= instance.original && target >= FLOOR.min(instance.original));
            }
        }

        #[test]
        fn more_memory_of_others_never_raises_a_target(
            instances in any_instances(), used in 0u64..8 << 30, more in 0u64..4 << 30, budget in 1u64..8 << 30,
        ) {
            let before = any_room(&instances, used, budget, 1.0).targets();
            let after = any_room(&instances, used + more, budget, 1.0).targets();
            prop_assert!(before.iter().zip(&after).all(|(before, after)| after <= before));
        }

        #[test]
        fn under_constant_input_every_limit_moves_at_most_once(
            mut instances in any_instances(), used in 0u64..8 << 30, budget in 1u64..8 << 30, level in 0usize..5,
        ) {
            let mut elastic = Elastic::default();
            let mut moves: BTreeMap<u64, u32> = BTreeMap::new();
            for tick in 0..60 {
                let room = any_room(&instances, used, budget, 1.0);
                let (next, new) = elastic.decide(&Room { now: at(tick * 100), level: Level::ALL[level], ..room });
                elastic = next;
                for new in new {
                    *moves.entry(new.id).or_default() += 1;
                    for instance in instances.iter_mut().filter(|instance| instance.id == new.id) {
                        instance.limit = new.limit;
                    }
                }
            }
            prop_assert!(moves.values().all(|count| *count == 1), "{moves:?}");
        }
    }
}
