//! What this machine is, for reports and estimates: the CPU's name, how many cores, how much memory there is and was used.

use std::path::Path;

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The CPU's own name where the system tells it, else the architecture.
pub fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field =
        |key: &str| info.lines().find_map(|line| Some(line.strip_prefix(key)?.split_once(':')?.1.trim().to_owned()));
    field("model name").or_else(|| field("Model")).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The most memory this process had resident so far, in bytes; `None` where the system does not tell.
pub fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kilobytes(&status, "VmHWM:")
}

/// The memory that this process could take now, swap included, in bytes; `None` where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    return left_in(&std::fs::read_to_string("/proc/meminfo").ok()?, &Groups::of_this_process());
    #[cfg(not(target_os = "linux"))]
    {
        // A library knows each system's own way.
        let mut system = sysinfo::System::new();
        system.refresh_memory();
        Some(system.available_memory().saturating_add(system.free_swap())).filter(|&bytes| bytes > 0)
    }
}

/// What the whole machine has left, by the text of /proc/meminfo, or less where a control group allows less.
fn left_in(info: &str, groups: &Groups) -> Option<u64> {
    let swap = kilobytes(info, "SwapFree:").unwrap_or(0);
    let of_group = |group: &Group| group.memory.saturating_add(group.swap.min(swap));
    Some(groups.0.iter().map(of_group).fold(kilobytes(info, "MemAvailable:")?.saturating_add(swap), u64::min))
}

/// The number of kB behind `key` at the beginning of a line, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The control groups of this process that limit its memory, such as a container's.
struct Groups(Vec<Group>);

/// What a control group has left, in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    memory: u64,
    /// `u64::MAX` where only the machine limits it.
    swap: u64,
}

impl Groups {
    fn of_this_process() -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::under(Path::new("/sys/fs/cgroup"), &own)
    }

    /// The groups that `own`, the text of /proc/self/cgroup, names, and those above them, in the hierarchy mounted at `root`.
    fn under(root: &Path, own: &str) -> Self {
        let mut groups = Vec::new();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let (root, files) = match controllers {
                "" => (root.to_owned(), &VERSION_2),
                _ if controllers.split(',').any(|name| name == "memory") => (root.join("memory"), &VERSION_1),
                _ => continue,
            };
            let inner = root.join(path.trim_start_matches('/'));
            // Inside a container the path may be that of the host: then there is nothing, and the root is the container's.
            let above = inner.ancestors().take_while(|dir| dir.starts_with(&root));
            groups.extend(above.filter_map(|dir| files.read(dir)));
        }
        Self(groups)
    }
}

/// Names of a control group's files.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// In memory.stat: pages of files that the system drops when it needs room.
    dropped: &'static str,
    /// Limit and use of swap alone.
    swap: Option<(&'static str, &'static str)>,
}

const VERSION_2: Files = Files {
    limit: "memory.max",
    used: "memory.current",
    dropped: "inactive_file ",
    swap: Some(("memory.swap.max", "memory.swap.current")),
};

const VERSION_1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    dropped: "total_inactive_file ",
    swap: None,
};

impl Files {
    fn read(&self, dir: &Path) -> Option<Group> {
        let text = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
        // "max", for none, is no number.
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
        let limit = number(self.limit)?;
        let dropped = || text("memory.stat")?.lines().find_map(|line| line.strip_prefix(self.dropped)?.parse().ok());
        let used = number(self.used).unwrap_or(0).saturating_sub(dropped().unwrap_or(0));
        let swap = self.swap.and_then(|(limit, used)| Some(number(limit)?.saturating_sub(number(used).unwrap_or(0))));
        Some(Group { memory: limit.saturating_sub(used), swap: swap.unwrap_or(u64::MAX) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes the files of a group into `dir`.
    fn group(dir: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            std::fs::write(dir.join(name), text).unwrap();
        }
    }

    #[test]
    fn limits_of_control_groups_are_read_up_to_the_root() {
        let root = tempfile::TempDir::new().unwrap();
        let stat = "anon 5\ninactive_file 300\nactive_file 7\n";
        let none = [("memory.swap.max", "0\n"), ("memory.swap.current", "0\n")];
        group(
            &root.path().join("a/b"),
            &[("memory.max", "1000\n"), ("memory.current", "800\n"), ("memory.stat", stat)],
        );
        group(&root.path().join("a/b"), &none);
        group(&root.path().join("a"), &[("memory.max", "max\n"), ("memory.current", "900\n")]);
        group(root.path(), &[("memory.max", "5000\n"), ("memory.current", "4900\n")]);
        group(root.path(), &[("memory.swap.max", "50\n"), ("memory.swap.current", "20\n")]);
        let groups = Groups::under(root.path(), "0::/a/b\n").0;
        assert_eq!(groups, [Group { memory: 500, swap: 0 }, Group { memory: 100, swap: 30 }]);
        // The path of the host, seen from a container.
        assert_eq!(Groups::under(root.path(), "0::/not/here\n").0, [Group { memory: 100, swap: 30 }]);
        assert!(Groups::under(root.path(), "1:cpu:/a\nnonsense\n").0.is_empty());

        let old = root.path().join("memory/docker/x");
        let stat = "inactive_file 1\ntotal_inactive_file 100\n";
        let files = [("memory.limit_in_bytes", "2000\n"), ("memory.usage_in_bytes", "600\n"), ("memory.stat", stat)];
        group(&old, &files);
        assert_eq!(Groups::under(root.path(), "4:cpu,memory:/docker/x\n").0, [Group { memory: 1500, swap: u64::MAX }]);
    }

    #[test]
    fn memory_of_this_machine_makes_sense() {
        assert!(available_bytes().is_some_and(|available| available > 1 << 20));
        let info = "MemTotal: 99 kB\nMemAvailable:    20 kB\nSwapFree:   5 kB\n";
        let left = |groups: Vec<Group>| left_in(info, &Groups(groups)).unwrap() / 1024;
        let group = |memory: u64, swap: u64| Group { memory: memory * 1024, swap };
        assert_eq!(left(Vec::new()), 25);
        assert_eq!(left(vec![group(10, u64::MAX)]), 15);
        assert_eq!(left(vec![group(90, 0), group(8, 0)]), 8);
        assert_eq!(left_in("MemTotal: 99 kB\n", &Groups(Vec::new())), None);
    }
}
