//! How much memory there is to use: what the system allows ([`Limits`], read from its files) and what follows
//! from it ([`Budget::resolve`], pure).

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ceiling;
use crate::error::{Error, Result};
use crate::units::{Bytes, Memory};

/// The least that must be left between what the process uses already and its budget.
pub const WORKING_MINIMUM: Bytes = Bytes::mib(32);

const RESERVE_SHARE: f64 = 0.05;
const RESERVE_LEAST: Bytes = Bytes::mib(32);
const RESERVE_MOST: Bytes = Bytes::mib(1024);

/// Limits from here on mean "no limit": cgroup v1 says `PAGE_COUNTER_MAX`, which is just under 2⁶³ and
/// depends on the page size.
const UNLIMITED: u64 = 1 << 60;

/// What the system allows, as plain data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory of the machine (`MemTotal`).
    pub machine: Option<Bytes>,
    /// Every memory limit of a cgroup from the own group up to the root; groups without one are left out.
    pub cgroups: Vec<CgroupLimit>,
    /// Soft `RLIMIT_AS`, if there is one.
    pub address_space: Option<Bytes>,
    /// Soft `RLIMIT_DATA`, if there is one. One that [`ceiling`] has put there does not count.
    pub data: Option<Bytes>,
}

/// One limit of one cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupLimit {
    /// The group as its hierarchy names it ("/docker/abc").
    pub path: String,
    /// The file that says so: `memory.max`, `memory.high` or `memory.limit_in_bytes`; or the field
    /// `hierarchical_memory_limit` of `memory.stat`, for an ancestor that a container cannot see.
    pub file: &'static str,
    /// The limit.
    pub bytes: Bytes,
}

impl Limits {
    /// Reads `/proc` and the cgroup mounts below `root` (which is "/" outside tests). What is missing or not
    /// understood is left out, so this never fails; on systems without `/proc` everything is.
    pub fn read(root: &Path) -> Self {
        let rlimits = read_text(&root.join("proc/self/limits")).unwrap_or_default();
        let mut cgroups = Vec::new();
        let mut hidden = None;
        for hierarchy in hierarchies(root) {
            for (depth, group) in hierarchy.groups.iter().enumerate() {
                for &file in hierarchy.version.limit_files() {
                    let limit = read_text(&group.dir.join(file)).and_then(|text| parse_limit(&text));
                    cgroups.extend(limit.map(|bytes| CgroupLimit {
                        path: group.path.clone(),
                        file,
                        bytes,
                    }));
                }
                if depth == 0 && hierarchy.version == Version::V1 {
                    hidden = hierarchical_limit(group);
                }
            }
        }
        // It repeats the tightest ancestor, unless that one lies above what is mounted here.
        if let Some(hidden) = hidden
            && cgroups.iter().all(|seen| hidden.bytes < seen.bytes)
        {
            cgroups.push(hidden);
        }
        Limits {
            machine: read_text(&root.join("proc/meminfo")).and_then(|text| kibibytes(&text, "MemTotal:")),
            cgroups,
            address_space: parse_rlimit(&rlimits, "Max address space"),
            data: ceiling::without_ours(parse_rlimit(&rlimits, "Max data size")),
        }
    }

    /// Every limit, smallest first.
    pub fn bounds(&self) -> Vec<Bound> {
        let mut bounds: Vec<Bound> = self
            .cgroups
            .iter()
            .map(|limit| Bound {
                kind: BoundKind::Cgroup,
                name: format!("cgroup {} {}", limit.path, limit.file),
                bytes: limit.bytes,
            })
            .collect();
        let others = [
            (BoundKind::Rlimit, "soft RLIMIT_AS", self.address_space),
            (BoundKind::Rlimit, "soft RLIMIT_DATA", self.data),
            (BoundKind::Machine, "machine MemTotal", self.machine),
        ];
        for (kind, name, bytes) in others {
            bounds.extend(bytes.map(|bytes| Bound {
                kind,
                name: name.to_owned(),
                bytes,
            }));
        }
        bounds.sort_by_key(|bound| bound.bytes);
        bounds
    }
}

/// What kind of limit a [`Bound`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoundKind {
    /// A limit of the own cgroup or one above it.
    Cgroup,
    /// A limit of the process.
    Rlimit,
    /// The memory that the machine has.
    Machine,
}

/// One limit that the budget must stay within. Prints as "cgroup /docker/abc memory.max 512.0 MiB".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// What kind of limit it is.
    pub kind: BoundKind,
    /// Where it comes from, in the system's words.
    pub name: String,
    /// The limit.
    pub bytes: Bytes,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.bytes)
    }
}

/// How much anonymous memory this process may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The budget.
    pub bytes: Bytes,
    /// What it follows from, for people.
    pub source: String,
    /// Head-room that is left free under the limits of the system.
    pub reserve: Bytes,
    /// The kind of limit that the budget is taken from; none if a size was given.
    pub taken_from: Option<BoundKind>,
    /// Every limit of the system, smallest first.
    pub bounds: Vec<Bound>,
}

impl Budget {
    /// The budget that `memory` asks for under `limits`, by a process whose anonymous memory is `used_now`.
    ///
    /// Without a `reserve`, it is 5 % of the smallest limit, at least 32 MiB and at most 1 GiB, but never
    /// more than half.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if a size is larger than the smallest limit, if a
    /// share is not above 0 and up to 1, if the reserve takes all of the smallest limit, if no limit is known
    /// of which to take a share, or if less than [`WORKING_MINIMUM`] is left beyond `used_now`.
    pub fn resolve(memory: Memory, reserve: Option<Bytes>, limits: &Limits, used_now: Bytes) -> Result<Self> {
        let bounds = limits.bounds();
        let smallest = bounds.first();
        let reserve = match (reserve, smallest) {
            (Some(reserve), Some(bound)) if reserve >= bound.bytes => {
                let accepted = format!("it leaves nothing of {bound}; give less than that");
                return Err(Error::invalid("reserve", reserve, &accepted));
            }
            (Some(reserve), _) => reserve,
            (None, Some(bound)) => default_reserve(bound.bytes),
            (None, None) => RESERVE_LEAST,
        };
        let refuse = |why: String| Err(Error::invalid("memory", memory, &why));

        let (bytes, source) = match (memory, smallest) {
            (Memory::Size(size), None) => (size, "as given".to_owned()),
            (Memory::Size(size), Some(bound)) if size <= bound.bytes => {
                (size, format!("as given, within {bound}"))
            }
            (Memory::Size(_), Some(bound)) => {
                return refuse(format!(
                    "it is larger than {bound}; give \"auto\" ({} here), a size up to {}, or raise it",
                    bound.bytes.minus(reserve),
                    bound.bytes
                ));
            }
            (Memory::Auto | Memory::Share(_), None) => {
                return refuse(
                    "no limit of the system can be read here; give a size such as \"2GB\"".to_owned(),
                );
            }
            (Memory::Auto, Some(bound)) => (
                bound.bytes.minus(reserve),
                format!("{bound}, less {reserve} reserve"),
            ),
            (Memory::Share(share), Some(bound)) if share > 0.0 && share <= 1.0 => {
                let whole = bound.bytes.minus(reserve);
                (
                    whole.times(share),
                    format!("{memory} of {whole} ({bound}, less {reserve} reserve)"),
                )
            }
            (Memory::Share(_), Some(_)) => return refuse("give a share above 0 and up to 1".to_owned()),
        };

        let least = used_now.plus(WORKING_MINIMUM);
        if bytes < least {
            return refuse(too_small(memory, bytes, &source, used_now, smallest));
        }
        let taken_from = match memory {
            Memory::Size(_) => None,
            Memory::Auto | Memory::Share(_) => smallest.map(|bound| bound.kind),
        };
        Ok(Budget {
            bytes,
            source,
            reserve,
            taken_from,
            bounds,
        })
    }
}

fn default_reserve(bound: Bytes) -> Bytes {
    bound
        .times(RESERVE_SHARE)
        .clamp(RESERVE_LEAST, RESERVE_MOST)
        .min(Bytes(bound.0 / 2))
}

/// Why a budget of `bytes` is too small, and what helps.
fn too_small(
    memory: Memory,
    bytes: Bytes,
    source: &str,
    used_now: Bytes,
    smallest: Option<&Bound>,
) -> String {
    // In whole mebibytes, because a printed size is cut off after one decimal and would not be accepted.
    let least_mib = used_now.plus(WORKING_MINIMUM).0.div_ceil(1 << 20);
    let gives = match memory {
        Memory::Size(_) => String::new(),
        Memory::Auto | Memory::Share(_) => format!("it gives {bytes} ({source}), but "),
    };
    let remedy = match smallest {
        Some(bound) if bound.bytes < Bytes::mib(least_mib) => format!(
            "no size fits under {bound}: raise it to {least_mib} MiB or more, or guard a smaller process"
        ),
        _ => format!("give at least {least_mib} MiB"),
    };
    let minimum = WORKING_MINIMUM;
    format!("{gives}this process already uses {used_now} and needs {minimum} more to work with; {remedy}")
}

/// The two generations of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

impl Version {
    /// The files of a group that may hold a limit.
    pub(super) fn limit_files(self) -> &'static [&'static str] {
        match self {
            Version::V1 => &["memory.limit_in_bytes"],
            Version::V2 => &["memory.max", "memory.high"],
        }
    }
}

/// A cgroup hierarchy that may limit memory, as far as it is mounted here.
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// The own group first, the topmost that can be seen last; never empty.
    pub(super) groups: Vec<Group>,
}

/// One group: its name in the hierarchy and its directory.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) path: String,
    pub(super) dir: PathBuf,
}

/// The hierarchies that this process is in: cgroup v2, the v1 memory controller, or both on a hybrid system.
pub(super) fn hierarchies(root: &Path) -> Vec<Hierarchy> {
    let read = |path: &str| read_text(&root.join(path)).unwrap_or_default();
    let mounts = parse_mounts(&read("proc/self/mountinfo"));
    parse_memberships(&read("proc/self/cgroup"))
        .into_iter()
        .filter_map(|(version, path)| {
            Some(Hierarchy {
                version,
                groups: groups(root, &mounts, version, &path)?,
            })
        })
        .collect()
}

/// The group `path` and its ancestors, through the mount that shows it.
fn groups(root: &Path, mounts: &[Mount], version: Version, path: &str) -> Option<Vec<Group>> {
    // The mount with the shortest root shows the most ancestors.
    let mut candidates: Vec<&Mount> = mounts.iter().filter(|mount| mount.version == version).collect();
    candidates.sort_by_key(|mount| mount.root.len());
    let base = |mount: &Mount| root.join(mount.point.trim_start_matches('/'));
    let shown = candidates.iter().find_map(|mount| {
        let below = below(&mount.root, path)?;
        base(mount)
            .join(below.join("/"))
            .is_dir()
            .then_some((*mount, below))
    });
    // Within a cgroup namespace the path can be one that only the outside knows; then the mount shows the own
    // group.
    let (mount, below) = shown.or_else(|| candidates.first().map(|mount| (*mount, Vec::new())))?;
    let groups = (0..=below.len()).rev().map(|depth| {
        let below = below.get(..depth).unwrap_or_default().join("/");
        let path = format!("{}/{below}", mount.root.trim_end_matches('/'));
        let path = if path.len() > 1 {
            path.trim_end_matches('/').to_owned()
        } else {
            path
        };
        Group {
            path,
            dir: base(mount).join(below),
        }
    });
    Some(groups.collect())
}

/// The parts of `path` below `root`, if it is below it and stays there.
fn below<'a>(root: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    if !rest.is_empty() && !rest.starts_with('/') {
        return None;
    }
    let parts: Vec<&str> = rest.split('/').filter(|part| !part.is_empty()).collect();
    (!parts.contains(&"..")).then_some(parts)
}

#[derive(Debug)]
struct Mount {
    version: Version,
    /// Which group of the hierarchy is mounted.
    root: String,
    /// Where.
    point: String,
}

/// The mounts of cgroup v2 and of the v1 memory controller in the text of `/proc/self/mountinfo`.
fn parse_mounts(mountinfo: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split_ascii_whitespace().skip(3);
        let (root, point) = (unescape(mount.next()?), unescape(mount.next()?));
        let mut file_system = file_system.split_ascii_whitespace();
        let version = match file_system.next()? {
            "cgroup2" => Version::V2,
            "cgroup" if file_system.nth(1)?.split(',').any(|option| option == "memory") => Version::V1,
            _ => return None,
        };
        Some(Mount { version, root, point })
    };
    mountinfo.lines().filter_map(parse).collect()
}

/// Undoes the kernel's `\040` for a space and the like.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The own group in each hierarchy that may limit memory, from the text of `/proc/self/cgroup`.
fn parse_memberships(cgroup: &str) -> Vec<(Version, String)> {
    let parse = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let version = if id == "0" && controllers.is_empty() {
            Version::V2
        } else if controllers.split(',').any(|controller| controller == "memory") {
            Version::V1
        } else {
            return None;
        };
        Some((version, path.to_owned()))
    };
    cgroup.lines().filter_map(parse).collect()
}

/// The tightest limit above a v1 group, also where the ancestor that sets it is not mounted here.
fn hierarchical_limit(group: &Group) -> Option<CgroupLimit> {
    let stat = read_text(&group.dir.join("memory.stat"))?;
    let bytes = parse_limit(field(&stat, "hierarchical_memory_limit")?)?;
    Some(CgroupLimit {
        path: group.path.clone(),
        file: "hierarchical_memory_limit",
        bytes,
    })
}

/// A limit as a cgroup file says it; none for "max", for v1's huge number, and for anything that is not a
/// number.
pub(super) fn parse_limit(text: &str) -> Option<Bytes> {
    text.trim()
        .parse()
        .ok()
        .filter(|&bytes| bytes < UNLIMITED)
        .map(Bytes)
}

/// The soft limit called `name` in the text of `/proc/self/limits`.
fn parse_rlimit(limits: &str, name: &str) -> Option<Bytes> {
    let values = limits.lines().find_map(|line| line.strip_prefix(name))?;
    parse_limit(values.split_ascii_whitespace().next()?)
}

/// The word after `key` in a text of lines "key value ...".
pub(super) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == key).then(|| words.next()).flatten()
    })
}

/// The value of `key` in the text of `/proc/meminfo`.
pub(super) fn kibibytes(meminfo: &str, key: &str) -> Option<Bytes> {
    field(meminfo, key)?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
        .map(Bytes)
}

/// Opens a file of `/proc` or of a cgroup.
#[expect(
    clippy::disallowed_methods,
    reason = "a file that the kernel makes up is never a database"
)]
pub(super) fn open_system_file(path: &Path) -> io::Result<File> {
    File::open(path)
}

fn read_text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    open_system_file(path).ok()?.read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the tests of the guard share: fixture trees, processes of their own, and real cgroups.
#[cfg(test)]
pub(super) mod testing {
    use std::ffi::{OsStr, OsString};
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::{Version, hierarchies};
    use crate::clock::{Clock, SystemClock};

    const CHILD: &str = "DUCKWARD_TEST_CHILD";

    /// A directory with these files.
    pub(crate) fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temp directory");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }
        root
    }

    /// In a child that [`run_in_child`] started: the value it was given.
    pub(crate) fn in_child() -> Option<OsString> {
        std::env::var_os(CHILD)
    }

    /// Runs `test` of the module `module` once more, alone in a process of its own, and fails if it fails
    /// there.
    pub(crate) fn run_in_child(module: &str, test: &str, value: impl AsRef<OsStr>) {
        let (_crate, module) = module.split_once("::").expect("a module below the crate");
        let output = Command::new(std::env::current_exe().expect("this binary"))
            .args([
                &format!("{module}::{test}"),
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(CHILD, value)
            .output()
            .expect("this binary runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
        assert!(said.contains("1 passed"), "there is no such test: {said}");
    }

    /// A memory cgroup with a limit, removed when dropped.
    #[derive(Debug)]
    pub(crate) struct TestGroup {
        pub(crate) dir: PathBuf,
    }

    impl TestGroup {
        /// A group right below a mounted hierarchy, if this user may make one there and memory can be limited
        /// in it.
        pub(crate) fn make(limit: u64) -> Option<Self> {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            hierarchies(Path::new("/")).into_iter().find_map(|hierarchy| {
                let file = match hierarchy.version {
                    Version::V1 => "memory.limit_in_bytes",
                    Version::V2 => "memory.max",
                };
                let name = format!("duckward-test-{}-{count}", std::process::id());
                let group = TestGroup {
                    dir: hierarchy.groups.last()?.dir.join(name),
                };
                std::fs::create_dir(&group.dir).ok()?;
                std::fs::write(group.dir.join(file), limit.to_string()).ok()?;
                Some(group)
            })
        }

        /// Moves this process into the group at `dir`.
        pub(crate) fn join(dir: &Path) {
            std::fs::write(dir.join("cgroup.procs"), std::process::id().to_string())
                .expect("the group takes a process");
        }
    }

    impl Drop for TestGroup {
        fn drop(&mut self) {
            // A group is busy for a moment after its last process has gone.
            for _ in 0..100 {
                if std::fs::remove_dir(&self.dir).is_ok() {
                    return;
                }
                SystemClock::new().sleep(Duration::from_millis(10));
            }
        }
    }

    /// Whether this machine lets us make a memory cgroup. If not, that is said past the test harness, which
    /// would swallow it.
    pub(crate) fn can_make_cgroup() -> bool {
        let can = TestGroup::make(1 << 30).is_some();
        if !can {
            let _ = writeln!(
                std::io::stderr(),
                "NOT TESTED: no memory cgroup can be made on this machine"
            );
        }
        can
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{TestGroup, can_make_cgroup, in_child, run_in_child, tree};
    use super::*;
    use crate::error::ErrorKind;
    use crate::guard::reading::{Sample, Sampler};

    const V2_MOUNT: &str = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_MOUNTS: &str = "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n";
    const NO_V1_LIMIT: &str = "9223372036854771712\n";

    fn mib(n: u64) -> String {
        format!("{}\n", n << 20)
    }

    fn seen(limits: &Limits) -> Vec<(&str, &str, u64)> {
        limits
            .cgroups
            .iter()
            .map(|limit| (limit.path.as_str(), limit.file, limit.bytes.0 >> 20))
            .collect()
    }

    #[test]
    fn v2_every_ancestor_counts_with_max_and_high_and_the_tightest_may_be_in_the_middle() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/pods/burst/app\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n"),
            ("sys/fs/cgroup/pods/memory.max", &mib(8192)),
            ("sys/fs/cgroup/pods/memory.high", "max\n"),
            ("sys/fs/cgroup/pods/burst/memory.max", &mib(1024)),
            ("sys/fs/cgroup/pods/burst/memory.high", &mib(768)),
            ("sys/fs/cgroup/pods/burst/app/memory.max", &mib(2048)),
            ("sys/fs/cgroup/pods/burst/app/memory.high", "max\n"),
        ]);
        let limits = Limits::read(root.path());
        assert_eq!(
            seen(&limits),
            [
                ("/pods/burst/app", "memory.max", 2048),
                ("/pods/burst", "memory.max", 1024),
                ("/pods/burst", "memory.high", 768),
                ("/pods", "memory.max", 8192),
            ]
        );
        let budget = Budget::resolve(Memory::Auto, None, &limits, Bytes(0)).expect("a budget");
        assert_eq!(budget.bytes, Bytes::mib(768).minus(Bytes::mib(768).times(0.05)));
        assert_eq!(
            budget.source,
            "cgroup /pods/burst memory.high 768.0 MiB, less 38.3 MiB reserve"
        );
        assert_eq!(budget.taken_from, Some(BoundKind::Cgroup));
        assert_eq!(budget.bounds.len(), 5);
    }

    #[test]
    fn v1_limits_are_read_and_its_huge_number_is_no_limit() {
        let root = tree(&[
            (
                "proc/self/cgroup",
                "9:name=systemd:/x\n4:memory:/docker/abc\n3:cpuset:/\n",
            ),
            ("proc/self/mountinfo", V1_MOUNTS),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", NO_V1_LIMIT),
            (
                "sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "9223372036854710272\n",
            ),
            ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", &mib(512)),
            (
                "sys/fs/cgroup/memory/docker/abc/memory.stat",
                "cache 0\nhierarchical_memory_limit 536870912\n",
            ),
        ]);
        let limits = Limits::read(root.path());
        assert_eq!(seen(&limits), [("/docker/abc", "memory.limit_in_bytes", 512)]);
        assert_eq!(limits.machine, None);
    }

    #[test]
    fn v1_an_ancestor_above_the_mount_still_counts() {
        let root = tree(&[
            ("proc/self/cgroup", "4:memory:/pods/app\n"),
            (
                "proc/self/mountinfo",
                "35 31 0:32 /pods/app /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", NO_V1_LIMIT),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "rss 0\nhierarchical_memory_limit 1073741824\n",
            ),
        ]);
        let limits = Limits::read(root.path());
        assert_eq!(seen(&limits), [("/pods/app", "hierarchical_memory_limit", 1024)]);
    }

    #[test]
    fn hybrid_both_hierarchies_count() {
        let root = tree(&[
            ("proc/self/cgroup", "4:cpu,memory:/a\n0::/user/b\n"),
            (
                "proc/self/mountinfo",
                "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup none rw,cpu,memory\n\
                 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n",
            ),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", &mib(512)),
            ("sys/fs/cgroup/unified/user/memory.max", &mib(256)),
            ("sys/fs/cgroup/unified/user/b/memory.pressure", ""),
        ]);
        let limits = Limits::read(root.path());
        assert_eq!(
            seen(&limits),
            [("/a", "memory.limit_in_bytes", 512), ("/user", "memory.max", 256)]
        );
    }

    #[test]
    fn in_a_cgroup_namespace_the_mount_root_is_the_own_group() {
        for path in ["/", "/docker/abc", "/../../elsewhere"] {
            let root = tree(&[
                ("proc/self/cgroup", &format!("0::{path}\n")),
                ("proc/self/mountinfo", V2_MOUNT),
                ("sys/fs/cgroup/memory.max", &mib(300)),
            ]);
            assert_eq!(
                seen(&Limits::read(root.path())),
                [("/", "memory.max", 300)],
                "{path}"
            );
        }
    }

    #[test]
    fn a_mount_of_a_subtree_shows_the_group_below_it_and_the_widest_mount_is_taken() {
        let narrow = "50 31 0:28 /docker/abc /mnt/with\\040space rw - cgroup2 none rw\n";
        let files = [
            ("proc/self/cgroup", "0::/docker/abc/job"),
            ("sys/fs/cgroup/docker/memory.max", &mib(400)),
            ("sys/fs/cgroup/docker/abc/job/memory.max", &mib(500)),
            ("mnt/with space/job/memory.max", &mib(500)),
        ];
        let root = tree(&files);
        let mountinfo = root.path().join("proc/self/mountinfo");
        std::fs::write(&mountinfo, narrow).expect("a file");
        assert_eq!(
            seen(&Limits::read(root.path())),
            [("/docker/abc/job", "memory.max", 500)]
        );
        std::fs::write(&mountinfo, format!("{narrow}{V2_MOUNT}")).expect("a file");
        assert_eq!(
            seen(&Limits::read(root.path())),
            [
                ("/docker/abc/job", "memory.max", 500),
                ("/docker", "memory.max", 400)
            ]
        );
    }

    #[test]
    fn soft_rlimits_count_and_unlimited_ones_do_not() {
        let limits = |address_space: &str, data: &str| {
            let text = format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max data size             {data}            unlimited            bytes     \n\
                 Max address space         {address_space}            unlimited            bytes     \n"
            );
            Limits::read(tree(&[("proc/self/limits", &text)]).path())
        };
        assert_eq!(limits("unlimited", "unlimited"), Limits::default());
        let limits = limits("4294967296", "2147483648");
        assert_eq!(
            (limits.address_space, limits.data),
            (Some(Bytes::mib(4096)), Some(Bytes::mib(2048)))
        );
        let budget = Budget::resolve(Memory::Auto, None, &limits, Bytes(0)).expect("a budget");
        assert_eq!(budget.source, "soft RLIMIT_DATA 2.0 GiB, less 102.3 MiB reserve");
        assert_eq!(budget.taken_from, Some(BoundKind::Rlimit));
    }

    #[test]
    fn missing_files_and_garbage_mean_no_limit() {
        assert_eq!(Limits::read(tree(&[]).path()), Limits::default());
        assert_eq!(Limits::read(Path::new("/nonexistent")), Limits::default());
        for garbage in [
            "",
            "\n",
            "-1\n",
            "12x",
            "0x10",
            "18446744073709551616",
            "\u{0}",
            "max max",
        ] {
            let root = tree(&[
                ("proc/self/cgroup", "0::/a\n4:memory:/a"),
                ("proc/self/mountinfo", V2_MOUNT),
                ("proc/self/limits", garbage),
                ("proc/meminfo", &format!("MemTotal: {garbage} kB\n")),
                ("sys/fs/cgroup/a/memory.max", garbage),
                ("sys/fs/cgroup/a/memory.high", garbage),
            ]);
            assert_eq!(Limits::read(root.path()), Limits::default(), "{garbage:?}");
        }
        assert_eq!(kibibytes("MemTotal: 18446744073709551615 kB", "MemTotal:"), None);
    }

    fn machine(mib: u64) -> Limits {
        Limits {
            machine: Some(Bytes::mib(mib)),
            ..Limits::default()
        }
    }

    fn container(mib: u64) -> Limits {
        let limit = CgroupLimit {
            path: "/docker/abc".to_owned(),
            file: "memory.max",
            bytes: Bytes::mib(mib),
        };
        Limits {
            cgroups: vec![limit],
            ..machine(16384)
        }
    }

    fn refusal(memory: Memory, reserve: Option<Bytes>, limits: &Limits, used_now: Bytes) -> String {
        let error = Budget::resolve(memory, reserve, limits, used_now).expect_err("a refusal");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.message().to_owned()
    }

    #[test]
    fn the_reserve_is_five_percent_between_32_mib_and_1_gib_and_never_more_than_half() {
        for (total, reserve) in [
            (40, 20),
            (64, 32),
            (512, 32),
            (1000, 50),
            (16384, 819),
            (65536, 1024),
        ] {
            assert_eq!(default_reserve(Bytes::mib(total)).0 >> 20, reserve, "{total}");
        }
    }

    #[test]
    fn auto_a_share_and_a_size_say_what_they_follow_from() {
        let budget =
            |memory| Budget::resolve(memory, None, &container(512), Bytes::mib(60)).expect("a budget");
        let auto = budget(Memory::Auto);
        assert_eq!(auto.bytes, Bytes::mib(480));
        assert_eq!(
            auto.source,
            "cgroup /docker/abc memory.max 512.0 MiB, less 32.0 MiB reserve"
        );
        assert_eq!(
            (auto.reserve, auto.taken_from),
            (Bytes::mib(32), Some(BoundKind::Cgroup))
        );
        let share = budget(Memory::Share(0.5));
        assert_eq!(share.bytes, Bytes::mib(240));
        assert_eq!(
            share.source,
            "50% of 480.0 MiB (cgroup /docker/abc memory.max 512.0 MiB, less 32.0 MiB reserve)"
        );
        let size = budget(Memory::Size(Bytes::mib(512)));
        assert_eq!(size.bytes, Bytes::mib(512));
        assert_eq!(
            size.source,
            "as given, within cgroup /docker/abc memory.max 512.0 MiB"
        );
        assert_eq!((size.reserve, size.taken_from), (Bytes::mib(32), None));
    }

    #[test]
    fn a_size_beyond_the_smallest_limit_is_refused_with_the_limit_and_what_fits() {
        assert_eq!(
            refusal(Memory::Size(Bytes::mib(513)), None, &container(512), Bytes(0)),
            "memory=513.0 MiB is not accepted: it is larger than cgroup /docker/abc memory.max 512.0 MiB; \
             give \"auto\" (480.0 MiB here), a size up to 512.0 MiB, or raise it"
        );
        let message = refusal(Memory::Size(Bytes::mib(99_999)), None, &machine(16384), Bytes(0));
        assert!(message.contains("machine MemTotal 16.0 GiB"), "{message}");
    }

    #[test]
    fn a_budget_that_the_process_has_used_up_is_refused_with_both_figures() {
        assert_eq!(
            refusal(
                Memory::Size(Bytes::mib(80)),
                None,
                &container(512),
                Bytes::mib(60)
            ),
            "memory=80.0 MiB is not accepted: this process already uses 60.0 MiB and needs 32.0 MiB more \
             to work with; give at least 92 MiB"
        );
        assert_eq!(
            refusal(Memory::Auto, None, &container(512), Bytes::mib(490)),
            "memory=auto is not accepted: it gives 480.0 MiB (cgroup /docker/abc memory.max 512.0 MiB, less \
             32.0 MiB reserve), but this process already uses 490.0 MiB and needs 32.0 MiB more to work \
             with; no size fits under cgroup /docker/abc memory.max 512.0 MiB: raise it to 522 MiB or more, \
             or guard a smaller process"
        );
    }

    #[test]
    fn without_any_limit_only_a_size_will_do() {
        let none = Limits::default();
        for memory in [Memory::Auto, Memory::Share(0.5)] {
            assert!(refusal(memory, None, &none, Bytes(0)).contains("give a size such as \"2GB\""));
        }
        let budget = Budget::resolve(Memory::Size(Bytes::mib(100)), None, &none, Bytes(0)).expect("a budget");
        assert_eq!(
            (budget.bytes, budget.source.as_str()),
            (Bytes::mib(100), "as given")
        );
    }

    #[test]
    fn a_reserve_that_takes_everything_and_a_share_that_is_none_are_refused() {
        let message = refusal(Memory::Auto, Some(Bytes::mib(512)), &container(512), Bytes(0));
        assert!(
            message.starts_with("reserve=512.0 MiB is not accepted"),
            "{message}"
        );
        assert!(
            message.contains("cgroup /docker/abc memory.max 512.0 MiB"),
            "{message}"
        );
        for share in [0.0, -1.0, 1.5, f64::NAN, f64::INFINITY] {
            refusal(Memory::Share(share), None, &container(512), Bytes(0));
        }
    }

    fn memories() -> impl Strategy<Value = Memory> {
        prop_oneof![
            Just(Memory::Auto),
            (0.0..=1.0f64).prop_map(Memory::Share),
            (0..3u64 << 40).prop_map(|bytes| Memory::Size(Bytes(bytes)))
        ]
    }

    fn some_limits() -> impl Strategy<Value = Limits> {
        let bytes = || proptest::option::of((0..2u64 << 40).prop_map(Bytes));
        (bytes(), bytes(), bytes(), bytes()).prop_map(|(machine, group, address_space, data)| Limits {
            machine,
            cgroups: group
                .map(|bytes| CgroupLimit {
                    path: "/x".to_owned(),
                    file: "memory.high",
                    bytes,
                })
                .into_iter()
                .collect(),
            address_space,
            data,
        })
    }

    /// Text that looks a little like these files, or not at all.
    fn noise() -> impl Strategy<Value = String> {
        let word = "(memory|max|0|1:|::|/|/a|\\.\\.|cgroup2?|rw,memory| - |-|\\\\04|kB|some|avg10=\
                    |Max data size|[0-9]{1,22}|\n| |.)";
        proptest::collection::vec(word, 0..60).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn a_budget_fits_under_every_limit_and_leaves_room_to_work(
            memory in memories(),
            reserve in proptest::option::of(0..4u64 << 30),
            limits in some_limits(),
            used in 0..8u64 << 30,
        ) {
            if let Ok(budget) = Budget::resolve(memory, reserve.map(Bytes), &limits, Bytes(used)) {
                prop_assert!(limits.bounds().iter().all(|bound| budget.bytes <= bound.bytes));
                prop_assert!(budget.bytes >= Bytes(used).plus(WORKING_MINIMUM));
                if memory == Memory::Auto {
                    let smallest = limits.bounds().first().map(|bound| bound.bytes);
                    prop_assert_eq!(Some(budget.bytes.plus(budget.reserve)), smallest);
                }
            }
        }

        #[test]
        fn the_size_that_a_refusal_names_is_accepted(
            memory in memories(), limits in some_limits(), used in 0..8u64 << 30,
        ) {
            if let Err(error) = Budget::resolve(memory, None, &limits, Bytes(used))
                && let Some((_, size)) = error.message().split_once("give at least ")
            {
                let size: Memory = size.parse().expect("a size");
                prop_assert!(Budget::resolve(size, None, &limits, Bytes(used)).is_ok(), "{}", error);
            }
        }
    }

    proptest! {
        // Each case writes a tree of files.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_content_of_any_file_panics(
            cgroup in noise(), mountinfo in noise(), other in noise(), bytes: Vec<u8>,
        ) {
            let group = if cgroup.len() % 2 == 0 { "0::/a\n1:memory:/a\n" } else { &cgroup };
            let mounts = if cgroup.len() % 3 == 0 { format!("{V2_MOUNT}{V1_MOUNTS}") } else { mountinfo };
            let root = tree(&[
                ("proc/self/cgroup", group),
                ("proc/self/mountinfo", &mounts),
                ("proc/self/limits", &other),
                ("proc/self/statm", &other),
                ("proc/meminfo", &other),
                ("proc/pressure/memory", &other),
                ("sys/fs/cgroup/a/memory.max", "1000"),
                ("sys/fs/cgroup/a/memory.stat", &other),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", &other),
            ]);
            let _ = Limits::read(root.path());
            let mut sampler = Sampler::open(root.path(), Some(PathBuf::from(&other)));
            let _ = (sampler.fast(), sampler.slow());
            std::fs::write(root.path().join("proc/self/statm"), &bytes).expect("a file");
            std::fs::write(root.path().join("sys/fs/cgroup/a/memory.stat"), &bytes).expect("a file");
            let _ = (sampler.fast(), sampler.slow(), Limits::read(root.path()));
        }
    }

    #[test]
    fn this_machine_is_read_and_gives_a_budget() {
        let limits = Limits::read(Path::new("/"));
        if cfg!(target_os = "linux") {
            assert!(limits.machine.is_some_and(|total| total > Bytes::mib(64)));
            let budget = Budget::resolve(Memory::Auto, None, &limits, Bytes(0)).expect("a budget");
            assert_eq!(budget.bounds, limits.bounds());
        }
    }

    #[test]
    fn where_a_cgroup_can_be_made_its_limit_and_its_usage_are_seen() {
        const LIMIT: Bytes = Bytes::mib(256);
        if let Some(dir) = in_child() {
            let dir = PathBuf::from(dir);
            TestGroup::join(&dir);
            let name = dir.file_name().and_then(|name| name.to_str()).expect("a name");
            let limits = Limits::read(Path::new("/"));
            let own = limits
                .cgroups
                .iter()
                .find(|limit| limit.path.ends_with(name))
                .expect("the own group");
            assert_eq!(own.bytes, LIMIT);
            let budget = Budget::resolve(Memory::Auto, None, &limits, Bytes(0)).expect("a budget");
            assert_eq!(budget.bytes, Bytes::mib(224), "{}", budget.source);

            let mut sampler = Sampler::open(Path::new("/"), None);
            let mut group = || sampler.slow().cgroup.expect("a group with a limit");
            let before = group();
            let memory = std::hint::black_box(vec![1u8; 64 << 20]);
            let after = group();
            drop(memory);
            assert_eq!((before.limit, after.limit), (LIMIT, LIMIT));
            assert!(before.used < Bytes::mib(32), "{before:?}");
            let grown = after.used.minus(before.used);
            assert!(
                (Bytes::mib(60)..Bytes::mib(72)).contains(&grown),
                "{before:?} {after:?}"
            );
            assert!(
                group().used < Bytes::mib(32),
                "what was given back no longer counts"
            );
        } else if can_make_cgroup() {
            let group = TestGroup::make(LIMIT.0).expect("a group");
            let test = "where_a_cgroup_can_be_made_its_limit_and_its_usage_are_seen";
            run_in_child(module_path!(), test, &group.dir);
        }
    }

    #[test]
    fn where_a_cgroup_can_be_made_a_budget_larger_than_it_is_refused_by_name() {
        if let Some(dir) = in_child() {
            let dir = PathBuf::from(dir);
            TestGroup::join(&dir);
            let limits = Limits::read(Path::new("/"));
            let message = refusal(Memory::Size(Bytes::mib(129)), None, &limits, Bytes(0));
            let name = dir.file_name().and_then(|name| name.to_str()).expect("a name");
            assert!(
                message.contains(name) && message.contains("128.0 MiB"),
                "{message}"
            );
        } else if can_make_cgroup() {
            let group = TestGroup::make(128 << 20).expect("a group");
            let test = "where_a_cgroup_can_be_made_a_budget_larger_than_it_is_refused_by_name";
            run_in_child(module_path!(), test, &group.dir);
        }
    }
}
