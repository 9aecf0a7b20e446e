//! How much memory there is.

mod guard;

use std::path::Path;

pub(crate) use guard::MemoryGuard;

/// What the queues may use when nobody says: half of the smaller of the control group's limit and the machine's memory.
/// The other half is for connections, the program and the kernel's socket buffers.
#[must_use]
pub(crate) fn queue_budget() -> usize {
    let group = read(Path::new("/sys/fs/cgroup/memory.max"), parse_limit);
    let machine = read(Path::new("/proc/meminfo"), |text| {
        parse_meminfo(text, "MemTotal:")
    });
    // Where neither can be read: a machine so small that it is safe to assume.
    group.into_iter().chain(machine).min().unwrap_or(512 << 20) / 2
}

fn read(path: &Path, parse: impl Fn(&str) -> Option<usize>) -> Option<usize> {
    parse(&std::fs::read_to_string(path).ok()?)
}

/// `max` or a number of bytes.
fn parse_limit(text: &str) -> Option<usize> {
    text.trim().parse().ok()
}

/// The line `MemTotal: N kB`, or another of that form.
fn parse_meminfo(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms() {
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("268435456\n"), Some(256 << 20));
        assert_eq!(
            parse_meminfo("MemTotal:       1024 kB\nMemFree: 1 kB\n", "MemTotal:"),
            Some(1 << 20)
        );
        assert_eq!(parse_meminfo("MemFree: 1 kB\n", "MemTotal:"), None);
        assert!(queue_budget() > 0);
    }
}
