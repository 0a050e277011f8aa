//! One sample of memory: the process, its cgroup, the machine, and what DuckDB says of itself.
//!
//! [`Sampler`] takes it from the system, [`tightest`] compares it with a [`Budget`]. Linux only so far:
//! elsewhere the sampler says that it is unsupported, which has not been tested.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::budget::{
    BoundKind, Budget, Group, Version, field, hierarchies, kibibytes, open_system_file, parse_limit,
};
use crate::units::Bytes;

/// Memory of this process, from `/proc/self/statm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMemory {
    /// Anonymous resident memory: what cannot be dropped. Never the page cache.
    pub anonymous: Bytes,
    /// All resident memory.
    pub resident: Bytes,
    /// Private writable mappings, touched or not (what `RLIMIT_DATA` counts).
    pub data: Bytes,
}

/// Memory of the tightest cgroup above this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupMemory {
    /// What the kernel cannot reclaim: anonymous and shared memory, swap excluded, and kernel memory.
    pub used: Bytes,
    /// The limit in force (`memory.max`, `memory.high` or `memory.limit_in_bytes`).
    pub limit: Bytes,
}

/// Memory of the machine, from `/proc/meminfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineMemory {
    /// `MemTotal`.
    pub total: Bytes,
    /// `MemAvailable`.
    pub available: Bytes,
}

/// What DuckDB says of itself (`duckdb_memory()`), summed over the guarded instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DuckdbMemory {
    /// Memory that its buffer manager tracks.
    pub tracked: Bytes,
    /// Temporary storage on disk.
    pub spilled: Bytes,
    /// Its `memory_limit` now.
    pub limit: Bytes,
}

/// Pressure stall information: the share of the last ten seconds in which some task waited for memory, 0 to
/// 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryStall {
    /// `some avg10` of `/proc/pressure/memory` or of the cgroup's `memory.pressure`.
    pub some_avg10: f64,
    /// `full avg10`.
    pub full_avg10: f64,
}

/// One sample. The slow parts (all but `process`) are carried over from the last time they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The process.
    pub process: ProcessMemory,
    /// The tightest cgroup, if there is one with a limit.
    pub cgroup: Option<CgroupMemory>,
    /// The machine.
    pub machine: Option<MachineMemory>,
    /// Stalls.
    pub stall: Option<MemoryStall>,
    /// DuckDB's own figures.
    pub duckdb: Option<DuckdbMemory>,
    /// Free space where DuckDB spills.
    pub disk_free: Option<Bytes>,
}

impl Reading {
    /// Takes over what was read fast. What the process grew by since, its cgroup and the machine have less room by, until
    /// they are read again: at a gigabyte a second half a second is much.
    pub fn advance(&mut self, process: ProcessMemory) {
        let (grown, shrunk) = (
            process.anonymous.minus(self.process.anonymous),
            self.process.anonymous.minus(process.anonymous),
        );
        if let Some(cgroup) = &mut self.cgroup {
            cgroup.used = cgroup.used.plus(grown).minus(shrunk);
        }
        if let Some(machine) = &mut self.machine {
            machine.available = machine.available.plus(shrunk).minus(grown);
        }
        self.process = process;
    }

    /// Takes over what was read slowly; the process and DuckDB's figures stay.
    pub fn update(&mut self, slow: Slow) {
        self.cgroup = slow.cgroup;
        self.machine = slow.machine;
        self.stall = slow.stall;
        self.disk_free = slow.disk_free;
    }
}

/// The parts of a [`Reading`] that cost more to read. What cannot be read is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slow {
    /// The tightest cgroup: of those with a limit, the one that is used up most.
    pub cgroup: Option<CgroupMemory>,
    /// The machine.
    pub machine: Option<MachineMemory>,
    /// Stalls.
    pub stall: Option<MemoryStall>,
    /// Free space where DuckDB spills.
    pub disk_free: Option<Bytes>,
}

/// Where readings come from: the system, or a script.
pub trait Sample: Send {
    /// Memory of the process now. Costs microseconds and allocates nothing unless it fails.
    ///
    /// # Errors
    /// The system's, or [`io::ErrorKind::Unsupported`] where there is no `/proc/self/statm`.
    fn fast(&self) -> io::Result<ProcessMemory>;

    /// All the rest.
    fn slow(&mut self) -> Slow;
}

/// Reads the system. Keeps its files open, so a reading opens none.
///
/// The files are those of the process that opened them: a forked child must open a sampler of its own.
#[derive(Debug)]
pub struct Sampler {
    statm: Option<File>,
    page: u64,
    meminfo: Option<File>,
    pressure: Option<File>,
    groups: Vec<GroupFiles>,
    disk: Option<PathBuf>,
}

impl Sampler {
    /// A sampler for the `/proc` and the cgroup mounts below `root` (which is "/" outside tests), and for the
    /// free space of `disk`. It never fails; what cannot be opened is not read.
    ///
    /// The groups are those that the process is in now; limits that are set or changed later are seen.
    pub fn open(root: &Path, disk: Option<PathBuf>) -> Self {
        let open = |path: &Path| open_system_file(path).ok();
        let hierarchies = hierarchies(root);
        // Groups of v2 count stalls also where v1 counts the memory.
        let pressure = hierarchies
            .iter()
            .filter(|hierarchy| hierarchy.version == Version::V2)
            .filter_map(|hierarchy| open(&hierarchy.groups.first()?.dir.join("memory.pressure")))
            .chain(open(&root.join("proc/pressure/memory")))
            .find(|file| read(file, &mut [0; TEXT]).and_then(parse_stall).is_some());
        Sampler {
            statm: open(&root.join("proc/self/statm")),
            page: page_size(),
            meminfo: open(&root.join("proc/meminfo")),
            pressure,
            groups: hierarchies
                .iter()
                .flat_map(|hierarchy| hierarchy.groups.iter().map(|group| (hierarchy.version, group)))
                .filter_map(|(version, group)| GroupFiles::open(version, group))
                .collect(),
            disk,
        }
    }

    /// Reads the free space of `disk` from now on.
    pub fn watch_disk(&mut self, disk: Option<PathBuf>) {
        self.disk = disk;
    }
}

impl Sample for Sampler {
    fn fast(&self) -> io::Result<ProcessMemory> {
        let Some(statm) = &self.statm else {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the memory of this process cannot be read: there is no /proc/self/statm",
            ));
        };
        let mut buffer = [0; 128];
        let length = read_at_start(statm, &mut buffer)?;
        buffer
            .get(..length)
            .and_then(|text| parse_statm(text, self.page))
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    fn slow(&mut self) -> Slow {
        let mut buffer = [0; TEXT];
        let meminfo = self
            .meminfo
            .as_ref()
            .and_then(|file| read(file, &mut buffer))
            .map(parse_meminfo);
        let reclaimable = meminfo.map_or(0.0, |meminfo| meminfo.reclaimable_kernel);
        Slow {
            cgroup: self
                .groups
                .iter()
                .filter_map(|group| group.read(reclaimable))
                .max_by(|a, b| a.used.share_of(a.limit).total_cmp(&b.used.share_of(b.limit))),
            machine: meminfo.and_then(|meminfo| meminfo.machine),
            stall: self
                .pressure
                .as_ref()
                .and_then(|file| parse_stall(read(file, &mut [0; TEXT])?)),
            disk_free: self.disk.as_deref().and_then(disk_free),
        }
    }
}

/// Free space for this user where `path` is, or where its nearest existing parent is.
#[cfg(unix)]
pub fn disk_free(path: &Path) -> Option<Bytes> {
    path.ancestors().find_map(|part| {
        let part = if part.as_os_str().is_empty() {
            Path::new(".")
        } else {
            part
        };
        let disk = rustix::fs::statvfs(part).ok()?;
        Some(Bytes(disk.f_bavail.saturating_mul(disk.f_frsize)))
    })
}

/// Free space for this user; unsupported on this system.
#[cfg(not(unix))]
pub fn disk_free(_path: &Path) -> Option<Bytes> {
    None
}

/// The files of one group, kept open.
#[derive(Debug)]
struct GroupFiles {
    version: Version,
    limits: Vec<File>,
    stat: File,
    /// v1 only: kernel memory.
    kernel: Option<File>,
}

impl GroupFiles {
    fn open(version: Version, group: &Group) -> Option<Self> {
        let open = |file: &str| open_system_file(&group.dir.join(file)).ok();
        let limits: Vec<File> = version
            .limit_files()
            .iter()
            .filter_map(|file| open(file))
            .collect();
        if limits.is_empty() {
            return None;
        }
        let kernel = if version == Version::V1 {
            open("memory.kmem.usage_in_bytes")
        } else {
            None
        };
        Some(GroupFiles {
            version,
            limits,
            stat: open("memory.stat")?,
            kernel,
        })
    }

    /// The group's memory, if it has a limit now. v1 does not say how much of a group's kernel memory is
    /// reclaimable; the machine's share of it, `reclaimable`, stands in.
    fn read(&self, reclaimable: f64) -> Option<CgroupMemory> {
        let limit = self
            .limits
            .iter()
            .filter_map(|file| parse_limit(read(file, &mut [0; 32])?))
            .min()?;
        let mut buffer = [0; TEXT];
        let stat = read(&self.stat, &mut buffer)?;
        let used = match self.version {
            Version::V2 => unreclaimable_v2(stat)?,
            Version::V1 => {
                let kernel = self
                    .kernel
                    .as_ref()
                    .and_then(|file| parse_limit(read(file, &mut [0; 32])?));
                unreclaimable_v1(stat)?.plus(kernel.unwrap_or_default().times(1.0 - reclaimable))
            }
        };
        Some(CgroupMemory { used, limit })
    }
}

/// Longest text that is read at once; the longest known, `memory.stat` of v2, is a quarter of that.
const TEXT: usize = 8 << 10;

/// Reads from the beginning. These files are made up anew for each read from the beginning, so one call must
/// do.
#[cfg(unix)]
fn read_at_start(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::pread(file, buffer, 0)?)
}

#[cfg(windows)]
fn read_at_start(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, 0)
}

fn read<'a>(file: &File, buffer: &'a mut [u8]) -> Option<&'a str> {
    let length = read_at_start(file, buffer).ok()?;
    std::str::from_utf8(buffer.get(..length)?).ok()
}

#[cfg(unix)]
fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(not(unix))]
fn page_size() -> u64 {
    4096
}

/// `/proc/self/statm`: size, resident, shared, text, lib, data, dt, in pages.
fn parse_statm(text: &[u8], page: u64) -> Option<ProcessMemory> {
    let mut fields = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    let mut skip = |count: usize| {
        fields
            .nth(count)?
            .parse::<u64>()
            .ok()?
            .checked_mul(page)
            .map(Bytes)
    };
    let (resident, shared, data) = (skip(1)?, skip(0)?, skip(2)?);
    Some(ProcessMemory {
        anonymous: resident.minus(shared),
        resident,
        data,
    })
}

#[derive(Clone, Copy, Debug, Default)]
struct Meminfo {
    machine: Option<MachineMemory>,
    /// The share of the machine's kernel memory that can be reclaimed.
    reclaimable_kernel: f64,
}

fn parse_meminfo(text: &str) -> Meminfo {
    let value = |key: &str| kibibytes(text, key);
    let kernel = ["Slab:", "KernelStack:", "PageTables:", "Percpu:"]
        .into_iter()
        .filter_map(value)
        .fold(Bytes(0), Bytes::plus);
    Meminfo {
        machine: value("MemTotal:")
            .zip(value("MemAvailable:"))
            .map(|(total, available)| MachineMemory { total, available }),
        reclaimable_kernel: value("SReclaimable:")
            .unwrap_or_default()
            .share_of(kernel)
            .min(1.0),
    }
}

/// What the kernel cannot reclaim of a v2 group, from its `memory.stat`; swap is not part of these figures.
fn unreclaimable_v2(stat: &str) -> Option<Bytes> {
    let value = |key: &str| field(stat, key)?.parse().ok().map(Bytes);
    let sum = |keys: &[&str]| {
        keys.iter()
            .filter_map(|key| value(key))
            .fold(Bytes(0), Bytes::plus)
    };
    let kernel = match value("kernel") {
        Some(kernel) => kernel.minus(sum(&["slab_reclaimable"])),
        // Before Linux 5.18.
        None => sum(&["slab_unreclaimable", "kernel_stack", "pagetables", "percpu"]),
    };
    Some(value("anon")?.plus(sum(&["shmem", "sock"])).plus(kernel))
}

/// The same of a v1 group and those below it, without kernel memory.
fn unreclaimable_v1(stat: &str) -> Option<Bytes> {
    let value = |key: &str| field(stat, key)?.parse().ok().map(Bytes);
    Some(value("total_rss")?.plus(value("total_shmem").unwrap_or_default()))
}

/// `memory.pressure`: lines "some avg10=0.00 avg60=...", and "full ..." on all but old systems.
fn parse_stall(text: &str) -> Option<MemoryStall> {
    let avg10 = |kind: &str| field(text, kind)?.strip_prefix("avg10=")?.parse::<f64>().ok();
    Some(MemoryStall {
        some_avg10: avg10("some")?,
        full_avg10: avg10("full").unwrap_or_default(),
    })
}

/// Whose use of memory a [`Usage`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Anonymous memory of this process, against the budget.
    Process,
    /// Unreclaimable memory of the cgroup with all its processes, against its limit less the reserve.
    Cgroup,
    /// Anonymous memory of this process, against that and what the machine has available, less the reserve.
    Machine,
}

impl Scope {
    /// The scope as one lower-case word.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Process => "process",
            Scope::Cgroup => "cgroup",
            Scope::Machine => "machine",
        }
    }
}

/// How much of which limit is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// What is used.
    pub used: Bytes,
    /// What may be used.
    pub limit: Bytes,
    /// Whose.
    pub bound: Scope,
}

impl Usage {
    /// `used` as a share of `limit`; infinite if something is used where nothing is left to use.
    pub fn share(&self) -> f64 {
        self.used.share_of(self.limit)
    }
}

/// The usage that is closest to its limit. The machine counts only if the budget is taken from it: what
/// others on the machine leave is no part of a limit that somebody has set.
///
/// What the process has in swap does not count.
pub fn tightest(reading: &Reading, budget: &Budget) -> Usage {
    let used = reading.process.anonymous;
    let process = Usage {
        used,
        limit: budget.bytes,
        bound: Scope::Process,
    };
    let cgroup = reading.cgroup.map(|cgroup| Usage {
        used: cgroup.used,
        limit: less_reserve(cgroup.limit, budget.reserve),
        bound: Scope::Cgroup,
    });
    let machine = reading
        .machine
        .filter(|_| budget.taken_from == Some(BoundKind::Machine))
        .map(|machine| Usage {
            used,
            limit: used.plus(machine.available).minus(budget.reserve),
            bound: Scope::Machine,
        });
    [cgroup, machine]
        .into_iter()
        .flatten()
        .fold(process, |tightest, usage| {
            if usage.share() > tightest.share() {
                usage
            } else {
                tightest
            }
        })
}

/// A limit that was lowered below the reserve since the budget was made keeps half of itself.
fn less_reserve(limit: Bytes, reserve: Bytes) -> Bytes {
    if reserve < limit {
        limit.minus(reserve)
    } else {
        Bytes(limit.0 / 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::guard::budget::testing::tree;

    const MEMINFO: &str = "MemTotal:       16777216 kB\nMemFree:          100000 kB\n\
        MemAvailable:    8388608 kB\n\
        Slab:               6000 kB\nSReclaimable:       5000 kB\nSUnreclaim:         1000 kB\n\
        KernelStack:        1000 kB\nPageTables:         2000 kB\nPercpu:             1000 kB\n";

    const V2_STAT: &str = "anon 100000000\nfile 900000000\nkernel 30000000\nkernel_stack 1000000\n\
        pagetables 2000000\npercpu 500000\nsock 4000\nshmem 5000000\nswapcached 0\n\
        slab_reclaimable 20000000\n\
        slab_unreclaimable 3000000\nslab 23000000\n";

    const V2: [(&str, &str); 2] = [
        ("proc/self/cgroup", "0::/pod/app\n"),
        (
            "proc/self/mountinfo",
            "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        ),
    ];

    fn sampler(files: &[(&str, &str)]) -> (tempfile::TempDir, Sampler) {
        let root = tree(files);
        let sampler = Sampler::open(root.path(), None);
        (root, sampler)
    }

    #[test]
    fn statm_gives_anonymous_resident_and_data() {
        let memory = parse_statm(b"90000 5000 1200 10 0 20000 0\n", 4096).expect("a reading");
        assert_eq!(memory.anonymous, Bytes(3800 * 4096));
        assert_eq!(memory.resident, Bytes(5000 * 4096));
        assert_eq!(memory.data, Bytes(20000 * 4096));
        assert_eq!(parse_statm(b"90000 5000 1200 10 0", 4096), None);
        assert_eq!(parse_statm(b"1 99999999999999999 1 1 1 1", 4096), None);
    }

    #[test]
    fn where_there_is_no_statm_the_sampler_says_unsupported() {
        let (_root, mut sampler) = sampler(&[]);
        assert_eq!(
            sampler.fast().expect_err("no file").kind(),
            io::ErrorKind::Unsupported
        );
        assert_eq!(sampler.slow(), Slow::default());
    }

    #[test]
    fn v2_page_cache_swap_and_reclaimable_slab_do_not_count() {
        assert_eq!(
            unreclaimable_v2(V2_STAT),
            Some(Bytes(100_000_000 + 5_000_000 + 4000 + 10_000_000))
        );
        let old = V2_STAT.replace("kernel 30000000\n", "");
        assert_eq!(
            unreclaimable_v2(&old),
            Some(Bytes(100_000_000 + 5_000_000 + 4000 + 6_500_000))
        );
        assert_eq!(unreclaimable_v2("file 5\n"), None);
    }

    #[test]
    fn v1_counts_the_whole_subtree_and_the_share_of_kernel_memory_that_stays() {
        let (_root, mut sampler) = sampler(&[
            ("proc/self/cgroup", "4:memory:/a\n"),
            (
                "proc/self/mountinfo",
                "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
            ),
            ("proc/meminfo", MEMINFO),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "536870912\n"),
            ("sys/fs/cgroup/memory/a/memory.kmem.usage_in_bytes", "10000000\n"),
            (
                "sys/fs/cgroup/memory/a/memory.stat",
                "cache 400\nrss 100\ntotal_cache 90000000\ntotal_rss 30000000\ntotal_shmem 2000000\n",
            ),
        ]);
        let cgroup = sampler.slow().cgroup.expect("a group with a limit");
        assert_eq!(cgroup.limit, Bytes::mib(512));
        assert_eq!(
            cgroup.used,
            Bytes(30_000_000 + 2_000_000 + 5_000_000),
            "half of it is reclaimable slab"
        );
    }

    #[test]
    fn of_several_groups_the_one_used_up_most_is_read_and_new_limits_are_seen() {
        let stat = |anon: u64| format!("anon {anon}\n");
        let (app, pod) = (stat(60), stat(800));
        let mut files = V2.to_vec();
        files.extend([
            ("sys/fs/cgroup/pod/app/memory.max", "100\n"),
            ("sys/fs/cgroup/pod/app/memory.high", "max\n"),
            ("sys/fs/cgroup/pod/app/memory.stat", app.as_str()),
            ("sys/fs/cgroup/pod/memory.max", "1000\n"),
            ("sys/fs/cgroup/pod/memory.stat", pod.as_str()),
        ]);
        let (root, mut sampler) = sampler(&files);
        assert_eq!(
            sampler.slow().cgroup,
            Some(CgroupMemory {
                used: Bytes(800),
                limit: Bytes(1000)
            })
        );
        std::fs::write(root.path().join("sys/fs/cgroup/pod/app/memory.high"), "70\n").expect("a file");
        assert_eq!(
            sampler.slow().cgroup,
            Some(CgroupMemory {
                used: Bytes(60),
                limit: Bytes(70)
            })
        );
        for file in ["pod/app/memory.max", "pod/app/memory.high", "pod/memory.max"] {
            std::fs::write(root.path().join("sys/fs/cgroup").join(file), "max\n").expect("a file");
        }
        assert_eq!(sampler.slow().cgroup, None);
    }

    #[test]
    fn stalls_are_the_groups_where_it_has_them_and_else_the_machines() {
        let stall = |avg10: f64| {
            format!("some avg10={avg10:.2} avg60=0.08 total=1\nfull avg10=0.25 avg60=0.00 total=1\n")
        };
        let (own, machine) = (stall(1.5), stall(7.0));
        let mut files = V2.to_vec();
        files.extend([
            ("proc/pressure/memory", machine.as_str()),
            ("proc/meminfo", MEMINFO),
        ]);
        let slow = sampler(&files).1.slow();
        assert_eq!(
            slow.stall,
            Some(MemoryStall {
                some_avg10: 7.0,
                full_avg10: 0.25
            })
        );
        let machine = MachineMemory {
            total: Bytes::mib(16384),
            available: Bytes::mib(8192),
        };
        assert_eq!(slow.machine, Some(machine));
        files.push(("sys/fs/cgroup/pod/app/memory.pressure", own.as_str()));
        let slow = sampler(&files).1.slow();
        assert_eq!(
            slow.stall,
            Some(MemoryStall {
                some_avg10: 1.5,
                full_avg10: 0.25
            })
        );
    }

    #[test]
    fn a_slow_reading_leaves_the_process_and_duckdb_as_they_were() {
        let process = ProcessMemory {
            anonymous: Bytes(1),
            resident: Bytes(2),
            data: Bytes(3),
        };
        let duckdb = Some(DuckdbMemory {
            tracked: Bytes(4),
            ..DuckdbMemory::default()
        });
        let mut reading = Reading {
            process,
            duckdb,
            disk_free: Some(Bytes(5)),
            ..Reading::default()
        };
        reading.update(Slow {
            stall: Some(MemoryStall::default()),
            ..Slow::default()
        });
        assert_eq!(
            (reading.process, reading.duckdb, reading.disk_free),
            (process, duckdb, None)
        );
        assert!(reading.stall.is_some());
    }

    #[cfg(unix)]
    #[test]
    fn the_free_space_of_a_directory_that_is_yet_to_be_made_is_its_parents() {
        let root = tree(&[]);
        assert!(disk_free(root.path()).is_some_and(|free| free > Bytes(0)));
        assert!(disk_free(&root.path().join("not/yet")).is_some());
        assert!(disk_free(Path::new("neither-here")).is_some());
        let mut sampler = Sampler::open(root.path(), None);
        assert_eq!(sampler.slow().disk_free, None);
        sampler.watch_disk(Some(root.path().to_owned()));
        assert!(sampler.slow().disk_free.is_some());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_counts_when_it_is_touched_and_no_longer_when_it_is_freed() {
        use crate::guard::budget::testing::{in_child, run_in_child};

        // Alone in a process, so that no other test's memory is in the way.
        if in_child().is_none() {
            let test = "memory_counts_when_it_is_touched_and_no_longer_when_it_is_freed";
            return run_in_child(module_path!(), test, "1");
        }
        let sampler = Sampler::open(Path::new("/"), None);
        let read = || sampler.fast().expect("a reading");
        let is_64_mib = |bytes: Bytes| (Bytes::mib(62)..Bytes::mib(66)).contains(&bytes);
        let before = read();
        let mut memory: Vec<u8> = Vec::with_capacity(64 << 20);
        let mapped = read();
        memory.resize(64 << 20, 1);
        let touched = read();
        drop(std::hint::black_box(memory));
        let freed = read();
        assert!(is_64_mib(mapped.data.minus(before.data)), "{before:?} {mapped:?}");
        assert!(
            mapped.anonymous.minus(before.anonymous) < Bytes::mib(2),
            "{before:?} {mapped:?}"
        );
        assert!(
            is_64_mib(touched.anonymous.minus(before.anonymous)),
            "{before:?} {touched:?}"
        );
        assert!(
            is_64_mib(touched.anonymous.minus(freed.anonymous)),
            "{touched:?} {freed:?}"
        );
    }

    fn budget(bytes: u64, reserve: u64, taken_from: Option<BoundKind>) -> Budget {
        Budget {
            bytes: Bytes(bytes),
            source: String::new(),
            reserve: Bytes(reserve),
            taken_from,
            bounds: Vec::new(),
        }
    }

    fn reading(anonymous: u64, cgroup: Option<(u64, u64)>, available: Option<u64>) -> Reading {
        Reading {
            process: ProcessMemory {
                anonymous: Bytes(anonymous),
                ..ProcessMemory::default()
            },
            cgroup: cgroup.map(|(used, limit)| CgroupMemory {
                used: Bytes(used),
                limit: Bytes(limit),
            }),
            machine: available.map(|available| MachineMemory {
                total: Bytes(1 << 40),
                available: Bytes(available),
            }),
            ..Reading::default()
        }
    }

    #[test]
    fn the_neighbours_in_a_group_count_and_the_reserve_is_kept_free() {
        let usage = tightest(&reading(100, Some((800, 1000)), None), &budget(950, 50, None));
        assert_eq!(
            usage,
            Usage {
                used: Bytes(800),
                limit: Bytes(950),
                bound: Scope::Cgroup
            }
        );
        let usage = tightest(&reading(900, Some((800, 1000)), None), &budget(950, 50, None));
        assert_eq!(
            usage,
            Usage {
                used: Bytes(900),
                limit: Bytes(950),
                bound: Scope::Process
            }
        );
        let lowered = tightest(&reading(1, Some((10, 40)), None), &budget(950, 50, None));
        assert_eq!(
            lowered,
            Usage {
                used: Bytes(10),
                limit: Bytes(20),
                bound: Scope::Cgroup
            }
        );
    }

    #[test]
    fn the_machine_counts_only_where_the_budget_is_taken_from_it() {
        let reading = reading(100, None, Some(150));
        let usage = |from| tightest(&reading, &budget(1000, 50, from));
        let machine = Usage {
            used: Bytes(100),
            limit: Bytes(200),
            bound: Scope::Machine,
        };
        assert_eq!(usage(Some(BoundKind::Machine)), machine);
        let process = Usage {
            used: Bytes(100),
            limit: Bytes(1000),
            bound: Scope::Process,
        };
        for from in [None, Some(BoundKind::Cgroup), Some(BoundKind::Rlimit)] {
            assert_eq!(usage(from), process);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_tighter_than_the_tightest_and_more_memory_is_never_calmer(
            anonymous in 0..1u64 << 40, more in 0..1u64 << 40, group: Option<(u64, u64)>,
            available: Option<u64>, bytes in 1..1u64 << 40, reserve in 0..1u64 << 30,
        ) {
            let budget = budget(bytes, reserve, Some(BoundKind::Machine));
            let usage = |own, group, available| tightest(&reading(own, group, available), &budget);
            let all = usage(anonymous, group, available).share();
            prop_assert!(all >= usage(anonymous, None, None).share());
            prop_assert!(all >= usage(anonymous, group, None).share());
            prop_assert!(all >= usage(anonymous, None, available).share());
            let grown = usage(anonymous + more, group, None).share();
            prop_assert!(grown >= usage(anonymous, group, None).share());
        }
    }
}
