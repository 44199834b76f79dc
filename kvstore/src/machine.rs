//! What memory this machine, or the container the daemon runs in, has left.
//!
//! Reads `/proc`, `/sys/fs/cgroup` and the like below a root that tests can put elsewhere. What cannot be read sets
//! no bound: a daemon must start where some of these files are hidden.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// Bytes of one huge page, as the region uses them.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Bytes left below one bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// How many.
    pub bytes: u64,
    /// Which bound, for people.
    pub source: String,
    /// What raises it, for people.
    pub remedy: &'static str,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Machine {
    /// All bounds on memory.
    pub headrooms: Vec<Headroom>,
    /// Free huge pages of 2 MiB.
    pub huge_pages_free: u64,
    /// `RLIMIT_MEMLOCK`; none if there is no limit.
    pub memlock_bytes: Option<u64>,
    /// Whether that limit does not hold for this process.
    pub memlock_exempt: bool,
    /// `RLIMIT_FSIZE`, which bounds memory that is a file; none if there is no limit.
    pub file_bytes: Option<u64>,
    /// `RLIMIT_AS`, which bounds everything that is mapped; none if there is no limit.
    pub address_bytes: Option<u64>,
    /// `RLIMIT_DATA`, which bounds what is allocated; none if there is no limit.
    pub data_bytes: Option<u64>,
}

impl Machine {
    /// Looks at the machine whose file system begins at `root`.
    pub fn read(root: &Path, memlock_bytes: Option<u64>) -> Self {
        let mut headrooms = Vec::new();
        if let Some(bytes) = mem_available(root) {
            let remedy = "free memory on the node";
            headrooms.push(Headroom {
                bytes,
                source: "MemAvailable".to_owned(),
                remedy,
            });
        }
        headrooms.extend(cgroup_headrooms(root));
        let free = root.join("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        Self {
            headrooms,
            huge_pages_free: read_number(&free).unwrap_or(0),
            memlock_bytes,
            memlock_exempt: is_memlock_exempt(root),
            file_bytes: None,
            address_bytes: None,
            data_bytes: None,
        }
    }

    /// This one.
    pub fn of_process() -> Self {
        let limit = |resource| getrlimit(resource).current;
        Self {
            file_bytes: limit(Resource::Fsize),
            address_bytes: limit(Resource::As),
            data_bytes: limit(Resource::Data),
            ..Self::read(Path::new("/"), limit(Resource::Memlock))
        }
    }

    /// The bound that leaves least.
    pub fn tightest(&self) -> Option<&Headroom> {
        self.headrooms.iter().min_by_key(|headroom| headroom.bytes)
    }
}

fn mem_available(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Whether this process has CAP_IPC_LOCK where it counts: the kernel asks for it in the first user namespace, whose users
/// are all there and map to themselves.
fn is_memlock_exempt(root: &Path) -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let read = |name: &str| std::fs::read_to_string(root.join("proc/self").join(name)).unwrap_or_default();
    let status = read("status");
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let has_it = capabilities
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .is_some_and(|set| set & CAP_IPC_LOCK != 0);
    has_it && read("uid_map").split_whitespace().eq(["0", "0", "4294967295"])
}

/// The names of the files of one cgroup version.
struct Version {
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// File cache that goes when memory is wanted, in `memory.stat`.
    reclaimable: &'static str,
}

const V1: Version = Version {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file",
};
const V2: Version = Version {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: "inactive_file",
};

/// The bounds of this process's cgroup and of all above it.
fn cgroup_headrooms(root: &Path) -> Vec<Headroom> {
    let Ok(text) = std::fs::read_to_string(root.join("proc/self/cgroup")) else {
        return Vec::new();
    };
    let mut headrooms = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if controllers.is_empty() {
            headrooms.extend(walk(root, &V2, path));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            headrooms.extend(walk(root, &V1, path));
        }
    }
    headrooms
}

/// From the group up to the mount. In a container the path may name groups that are not mounted here; then only
/// those that are set bounds, and the mount itself is the container's own group.
fn walk(root: &Path, version: &Version, path: &str) -> Vec<Headroom> {
    let relative = path.trim_start_matches('/');
    let escapes = relative.split('/').any(|part| part == "..");
    let group = if escapes {
        PathBuf::new()
    } else {
        PathBuf::from(relative)
    };
    let mount = root.join(version.mount);
    group
        .ancestors()
        .filter_map(|group| headroom(&mount.join(group), group, version))
        .collect()
}

fn headroom(directory: &Path, group: &Path, version: &Version) -> Option<Headroom> {
    // "max" is no number, so it sets no bound; version 1 says "no limit" with a number no machine has.
    let limit = read_number(&directory.join(version.limit)).filter(|limit| *limit < 1 << 60)?;
    let used = read_number(&directory.join(version.usage)).unwrap_or(0);
    let reclaimable = read_stat(&directory.join("memory.stat"), version.reclaimable).unwrap_or(0);
    Some(Headroom {
        bytes: limit.saturating_sub(used.saturating_sub(reclaimable)),
        source: format!("{} of cgroup /{}", version.limit, group.display()),
        remedy: "raise the container's memory limit",
    })
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_stat(path: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Draws what tells this process from every other one.
pub(crate) fn draw_boot_epoch() -> std::io::Result<kvstore_types::BootEpoch> {
    let mut bytes = [0; 16];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(kvstore_types::BootEpoch(bytes))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine made of files.
    pub(crate) fn machine(files: &[(&str, &str)]) -> Machine {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Machine::read(root.path(), None)
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal: 99 kB\nMemAvailable:    4194304 kB\n");

    #[test]
    fn free_memory_is_read() {
        let tightest = machine(&[MEMINFO]).tightest().cloned().unwrap();
        assert_eq!(
            (tightest.bytes, tightest.source.as_str()),
            (4 << 30, "MemAvailable")
        );
    }

    #[test]
    fn a_machine_that_shows_nothing_sets_no_bound() {
        assert_eq!(machine(&[]).tightest(), None);
    }

    #[test]
    fn the_limit_of_a_group_above_ours_counts_and_file_cache_does_not() {
        let found = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/pods/ours\n"),
            ("sys/fs/cgroup/pods/ours/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/pods/memory.current", "1610612736\n"),
            (
                "sys/fs/cgroup/pods/memory.stat",
                "anon 5\ninactive_file 536870912\n",
            ),
        ]);
        let tightest = found.tightest().unwrap();
        assert_eq!(
            (tightest.bytes, tightest.source.as_str()),
            (1 << 30, "memory.max of cgroup /pods")
        );
    }

    #[test]
    fn version_1_is_read_where_its_memory_controller_is_mounted() {
        let found = machine(&[
            MEMINFO,
            (
                "proc/self/cgroup",
                "9:cpu,cpuacct:/x\n4:memory:/not/mounted/here\n0::/\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n"),
        ]);
        let tightest = found.tightest().unwrap();
        assert_eq!(
            (tightest.bytes, tightest.source.as_str()),
            (1 << 30, "memory.limit_in_bytes of cgroup /")
        );
    }

    #[test]
    fn version_1_without_a_limit_sets_no_bound() {
        let found = machine(&[
            MEMINFO,
            ("proc/self/cgroup", "4:memory:/\n"),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ]);
        assert_eq!(found.tightest().unwrap().source, "MemAvailable");
    }

    #[test]
    fn the_capability_to_lock_memory_counts_in_the_first_user_namespace_only() {
        let all = ("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n");
        let without = (
            "proc/self/status",
            "CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffbfff\n",
        );
        let first = ("proc/self/uid_map", "         0          0 4294967295\n");
        let inner = ("proc/self/uid_map", "         0       1000          1\n");
        assert!(machine(&[all, first]).memlock_exempt);
        assert!(!machine(&[without, first]).memlock_exempt);
        assert!(!machine(&[all, inner]).memlock_exempt);
        assert!(!machine(&[]).memlock_exempt);
    }

    #[test]
    fn free_huge_pages_are_counted() {
        let found = machine(&[("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "512\n")]);
        assert_eq!(found.huge_pages_free, 512);
    }
}
