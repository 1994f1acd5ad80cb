//! What this machine is, for reports and estimates: the CPU's name, how many cores, how much memory there is and was used.

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
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The memory that this process can still get, free swap and what the system would give back included, in bytes; `None` where the
/// system does not tell.
pub fn available_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let free = free_in(&read("/proc/meminfo")?)?;
    // A container's limit; `max` is none.
    let number = |name: &str| read(&format!("/sys/fs/cgroup/{name}"))?.trim().parse::<u64>().ok();
    let left = number("memory.max").map(|limit| {
        let files = read("/sys/fs/cgroup/memory.stat").and_then(|stat| field(&stat, "inactive_file ")).unwrap_or(0);
        let held = number("memory.current").unwrap_or(0).saturating_sub(files);
        limit.saturating_sub(held)
    });
    Some(left.map_or(free, |left| left.min(free)))
}

/// What is free by the text of `/proc/meminfo`.
fn free_in(info: &str) -> Option<u64> {
    let kilobytes = |key: &str| field(info, key).map(|kilobytes| kilobytes.saturating_mul(1024));
    Some(kilobytes("MemAvailable:")?.saturating_add(kilobytes("SwapFree:").unwrap_or(0)))
}

/// The number after `key` in lines of names and numbers.
fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_what_the_system_says_with_swap() {
        let info = "MemTotal:       24576 kB\nMemFree:  100 kB\nMemAvailable:   2048 kB\nSwapTotal: 900 kB\nSwapFree:  512 kB\n";
        assert_eq!(free_in(info), Some(2560 * 1024));
        assert_eq!(free_in("MemTotal: 1 kB\n"), None);
        assert_eq!(available_bytes().is_some(), cfg!(target_os = "linux"));
    }
}
