//! Host memory of this process and of the machine.

use std::fs;

/// Most memory this process has held at once. `None` where the system does not say (only Linux
/// does so far).
pub fn peak_resident_bytes() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// Memory this process holds now. `None` where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    field(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Memory this process may still take without swapping: what the machine has left, or what its
/// container allows, whichever is less. `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let machine = field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(container_bytes().map_or(machine, |container| machine.min(container)))
}

/// What control groups (version 2, then 1) leave; `None` without a limit. File cache counts as
/// used here although the kernel would give it back, so it is added again.
fn container_bytes() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let groups = [
        (
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory.current",
            "/sys/fs/cgroup/memory.stat",
        ),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            "/sys/fs/cgroup/memory/memory.stat",
        ),
    ];
    groups.iter().find_map(|(limit, used, details)| {
        let cache = fs::read_to_string(details)
            .ok()
            .and_then(|text| word_after(&text, "inactive_file"));
        let used = number(used)?.saturating_sub(cache.unwrap_or(0));
        Some(number(limit)?.saturating_sub(used))
    })
}

/// The value of a line such as `VmHWM:     1234 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    word_after(text, name)?.checked_mul(1024)
}

fn word_after(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_bytes() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\tgarbage\n";
        assert_eq!(field(text, "VmHWM:"), Some(2 << 20));
        assert_eq!(field(text, "VmRSS:"), None);
        assert_eq!(field(text, "VmSwap:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn peak_grows_with_what_is_held() {
        let held = vec![1_u8; 256 << 20];
        assert!(resident_bytes().unwrap() > 200 << 20);
        assert_eq!(held[123], 1);
        drop(held);
        let peak = peak_resident_bytes().unwrap();
        assert!(peak > 200 << 20, "the peak outlives what was held");
        assert!(available_bytes().unwrap() > 0);
    }
}
