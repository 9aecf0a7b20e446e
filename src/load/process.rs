//! The kernel's account of a process: CPU time, resident memory, wake-ups.
//!
//! Reads `/proc` and nothing else, never controls a process. It is the only clock by which two relays are compared here: the wall
//! clock says more about the machine's other work. (performance.md, The figure that counts.)

use std::fs;
use std::io;
use std::path::PathBuf;

use super::error::LoadError;

/// Nanoseconds in one clock tick of `/proc/PID/stat`: `USER_HZ` is 100 on every Linux that Rust runs on.
const TICK_NS: u64 = 10_000_000;
/// `ESRCH` of Linux: what a file of `/proc` says when its process has ended since it was opened.
const NO_SUCH_PROCESS: i32 = 3;

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// CPU time of all threads, nanoseconds.
    pub cpu_ns: u64,
    /// What of it was spent in the program's own code and its libraries; the rest is the kernel's work for it. In steps of 10 ms.
    pub user_ns: u64,
    /// Resident memory now, bytes.
    pub resident: u64,
    /// How often one of its threads went to sleep by itself: what it costs to be woken for too little.
    pub sleeps: u64,
}

impl Account {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            user_ns: self.user_ns + other.user_ns,
            resident: self.resident + other.resident,
            sleeps: self.sleeps + other.sleeps,
        }
    }

    /// CPU time used between `earlier` and this reading, nanoseconds.
    pub fn cpu_since(&self, earlier: &Self) -> u64 {
        self.cpu_ns.saturating_sub(earlier.cpu_ns)
    }

    /// What of it was spent outside the kernel, nanoseconds.
    pub fn user_since(&self, earlier: &Self) -> u64 {
        self.user_ns.saturating_sub(earlier.user_ns)
    }

    /// Sleeps between `earlier` and this reading.
    pub fn sleeps_since(&self, earlier: &Self) -> u64 {
        self.sleeps.saturating_sub(earlier.sleeps)
    }
}

/// A process whose account can be read.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pid: u32,
}

impl Process {
    /// The process with this ID. Fails when there is none that can be read.
    pub fn new(pid: u32) -> Result<Self, LoadError> {
        let process = Self { pid };
        process.account()?;
        Ok(process)
    }

    /// This very process.
    pub fn own() -> Self {
        Self {
            pid: std::process::id(),
        }
    }

    /// Reads the account of a process that has been there before: that it is no more is an error of its own.
    pub(super) fn account_still(&self) -> Result<Account, LoadError> {
        self.read().map_err(|source| {
            let gone = source.kind() == io::ErrorKind::NotFound
                || source.raw_os_error() == Some(NO_SUCH_PROCESS);
            if gone {
                LoadError::ProcessEnded { pid: self.pid }
            } else {
                LoadError::Process {
                    pid: self.pid,
                    source,
                }
            }
        })
    }

    /// Reads the account.
    pub fn account(&self) -> Result<Account, LoadError> {
        self.read().map_err(|source| LoadError::Process {
            pid: self.pid,
            source,
        })
    }

    fn read(&self) -> io::Result<Account> {
        let root = PathBuf::from(format!("/proc/{}", self.pid));
        let stat = fs::read_to_string(root.join("stat"))?;
        if has_ended(&stat) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it has ended"));
        }
        let (user_ns, system_ns) = parse_stat(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let stat_ns = user_ns + system_ns;
        let mut schedule_ns = Some(0);
        let mut sleeps = 0;
        for thread in fs::read_dir(root.join("task"))? {
            let thread = thread?.path();
            // A thread may end between the two readings; its share is then in neither.
            let ran = fs::read_to_string(thread.join("schedstat")).ok();
            let ran = ran.as_deref().and_then(parse_schedule);
            schedule_ns = schedule_ns.zip(ran).map(|(sum, ran)| sum + ran);
            if let Ok(status) = fs::read_to_string(thread.join("status")) {
                sleeps += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            }
        }
        let status = fs::read_to_string(root.join("status"))?;
        let resident = field(&status, "VmRSS:").unwrap_or(0) * 1024;
        // `schedstat` counts nanoseconds but forgets threads that have ended; `stat` remembers them, in ticks of 10 ms.
        let cpu_ns = match schedule_ns {
            Some(ns) if ns + 2 * TICK_NS >= stat_ns => ns,
            _ => stat_ns,
        };
        Ok(Account {
            cpu_ns,
            user_ns,
            resident,
            sleeps,
        })
    }
}

/// The first number of a `schedstat` line: nanoseconds spent running.
fn parse_schedule(line: &str) -> Option<u64> {
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Whether a `stat` line is that of a process which has ended and waits for its parent to notice.
fn has_ended(line: &str) -> bool {
    let state = line.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| state.starts_with(['Z', 'X']))
}

/// User and system time of a `stat` line, as nanoseconds.
fn parse_stat(line: &str) -> Option<(u64, u64)> {
    // The command's name may hold blanks and brackets; what follows its last bracket is regular.
    let (_, rest) = line.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user * TICK_NS, system * TICK_NS))
}

/// The number after `name` in a `status` file.
fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_brackets() {
        let line = "17 (a ) b) S 1 17 17 0 -1 4194304 100 0 0 0 31 11 0 0 20 0 4 0 5 6 7";
        assert_eq!(parse_stat(line), Some((31 * TICK_NS, 11 * TICK_NS)));
        assert_eq!(parse_stat("17 (cut"), None);
        assert!(!has_ended(line));
        assert!(has_ended("17 (a) Z) Z 1 17 17 0"));
    }

    #[test]
    fn status_and_schedule_lines_are_read() {
        let status = "Name:\tx\nVmRSS:\t    1740 kB\nvoluntary_ctxt_switches:\t12\n";
        assert_eq!(field(status, "VmRSS:"), Some(1740));
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(12));
        assert_eq!(field(status, "VmSwap:"), None);
        assert_eq!(parse_schedule("123456 5 6\n"), Some(123_456));
    }

    #[test]
    fn own_account_grows_with_work() {
        let own = Process::own();
        let before = own.account().unwrap();
        assert!(before.resident > 100 * 1024, "{before:?}");
        // 60 ms of work by the account itself: independent of what else the machine does, and of the clock's grain.
        let mut state = 1_u64;
        let mut rounds = 0;
        while own.account().unwrap().cpu_since(&before) < 60_000_000 {
            for _ in 0..100_000 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
            }
            rounds += 1;
            assert!(rounds < 100_000, "the account does not move ({state})");
        }
        let after = own.account().unwrap();
        // What is multiplied here is not done by the kernel; the grain of the two accounts is not the same.
        let user = after.user_since(&before);
        assert!(
            user > 0 && user <= after.cpu_since(&before) + 2 * TICK_NS,
            "{before:?} {after:?}"
        );
    }

    #[test]
    fn a_process_that_has_ended_meanwhile_is_told_from_one_that_never_was() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let process = Process::new(child.id()).unwrap();
        assert!(process.account_still().is_ok());
        child.kill().unwrap();
        // Until somebody waits for it, it is still there by its number.
        while process.account_still().is_ok() {
            std::thread::yield_now();
        }
        let ended = || process.account_still().unwrap_err();
        assert!(matches!(ended(), LoadError::ProcessEnded { .. }));
        child.wait().unwrap();
        assert!(matches!(ended(), LoadError::ProcessEnded { .. }));
    }

    #[test]
    fn missing_process_is_named() {
        // The largest ID Linux gives out is 4194304.
        let error = Process::new(4_194_305).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read the account of process 4194305"
        );
    }
}
