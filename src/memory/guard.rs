//! Says when there is so little memory left that one more connection might be the end of all others.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::{parse_limit, parse_meminfo, read};
use crate::ticks::Ticks;

/// How long one look is believed, in milliseconds. A look costs some 30 us.
const BELIEVED: u32 = 250;

/// Looks at the memory of the control group and of the machine, when it is asked and now and then.
#[derive(Debug)]
pub(crate) struct MemoryGuard {
    ticks: Ticks,
    /// Where the control group's and the kernel's files are.
    group: PathBuf,
    meminfo: PathBuf,
    looked: AtomicU32,
    has_looked: AtomicBool,
    low: AtomicBool,
}

impl MemoryGuard {
    pub(crate) fn new(ticks: Ticks) -> Self {
        Self::at(
            ticks,
            Path::new("/sys/fs/cgroup"),
            Path::new("/proc/meminfo"),
        )
    }

    fn at(ticks: Ticks, group: &Path, meminfo: &Path) -> Self {
        Self {
            ticks,
            group: group.to_owned(),
            meminfo: meminfo.to_owned(),
            looked: AtomicU32::new(0),
            has_looked: AtomicBool::new(false),
            low: AtomicBool::new(false),
        }
    }

    /// Whether less than a twentieth of the control group's memory, or less than a fiftieth of the machine's, is left. Where the
    /// kernel does not tell there is enough.
    pub(crate) fn is_low(&self) -> bool {
        let fresh = self.has_looked.load(Ordering::Relaxed)
            && self.ticks.since(self.looked.load(Ordering::Relaxed)) < BELIEVED;
        if !fresh {
            self.looked.store(self.ticks.now(), Ordering::Relaxed);
            self.has_looked.store(true, Ordering::Relaxed);
            let low =
                self.group_is_low().unwrap_or(false) || self.machine_is_low().unwrap_or(false);
            self.low.store(low, Ordering::Relaxed);
        }
        self.low.load(Ordering::Relaxed)
    }

    fn group_is_low(&self) -> Option<bool> {
        let limit = read(&self.group.join("memory.max"), parse_limit)?;
        let current = read(&self.group.join("memory.current"), parse_limit)?;
        // Pages of files that the kernel takes back before it kills anybody.
        let files = read(&self.group.join("memory.stat"), |text| {
            text.lines()
                .find_map(|line| line.strip_prefix("inactive_file "))?
                .trim()
                .parse()
                .ok()
        });
        let used = current.saturating_sub(files.unwrap_or(0));
        Some(used > limit - limit / 20)
    }

    fn machine_is_low(&self) -> Option<bool> {
        let all = read(&self.meminfo, |text| parse_meminfo(text, "MemTotal:"))?;
        let left = read(&self.meminfo, |text| parse_meminfo(text, "MemAvailable:"))?;
        Some(left < all / 50)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_low_near_the_limit_of_the_group_or_the_machine() {
        let folder = std::env::temp_dir().join(format!("trunkline-memory-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        let ticks = Ticks::default();
        ticks.start();
        let guard = MemoryGuard::at(ticks, &folder, &folder.join("meminfo"));
        assert!(!guard.is_low(), "nothing is known");
        let later = || tokio::time::sleep(Duration::from_millis(400));

        write("memory.max", "1000000\n");
        write("memory.current", "960000\n");
        assert!(!guard.is_low(), "it has only just looked");
        later().await;
        assert!(guard.is_low());
        write(
            "memory.stat",
            "anon 5\ninactive_file 20000\nactive_file 1\n",
        );
        later().await;
        assert!(
            !guard.is_low(),
            "the log's pages are not the relay's memory"
        );
        write("memory.max", "max\n");
        write("memory.current", "9600000000\n");
        later().await;
        assert!(!guard.is_low());
        write(
            "meminfo",
            "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 19 kB\n",
        );
        later().await;
        assert!(guard.is_low());
        write(
            "meminfo",
            "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 21 kB\n",
        );
        later().await;
        assert!(!guard.is_low());
        fs::remove_dir_all(&folder).unwrap();
    }
}
