//! What the process itself uses: CPU, memory, open files, under the names that all Prometheus clients give them.
//!
//! CPU time divided by messages is the figure to size a relay by. Read when somebody asks, never in between.

use opentelemetry::metrics::Meter;

use super::names;
use crate::time::Clock;

/// Registers the metrics of this process; once is enough. What the system does not tell is not shown.
pub fn observe(meter: &Meter, clock: &Clock) {
    meter
        .f64_observable_counter(names::PROCESS_CPU)
        .with_description("CPU time of the process, user and system, in seconds.")
        .with_callback(|observer| {
            if let Some(seconds) = cpu_seconds() {
                observer.observe(seconds, &[]);
            }
        })
        .build();
    let gauge = |name: &'static str, what: &'static str, read: fn() -> Option<u64>| {
        meter
            .u64_observable_gauge(name)
            .with_description(what)
            .with_callback(move |observer| {
                if let Some(value) = read() {
                    observer.observe(value, &[]);
                }
            })
            .build();
    };
    gauge(
        names::PROCESS_RESIDENT_MEMORY,
        "Resident memory of the process, in bytes.",
        resident_bytes,
    );
    gauge(
        names::PROCESS_OPEN_FDS,
        "Files that the process has open, connections among them.",
        open_files,
    );
    gauge(
        names::PROCESS_MAX_FDS,
        "Files that it may have open.",
        open_files_limit,
    );
    let started = clock.now_unix();
    meter
        .u64_observable_gauge(names::PROCESS_START_TIME)
        .with_description("When the process started, in Unix seconds.")
        .with_callback(move |observer| observer.observe(started, &[]))
        .build();
}

#[cfg(unix)]
fn cpu_seconds() -> Option<f64> {
    use rustix::time::{ClockId, clock_gettime};
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Some(used.tv_sec as f64 + used.tv_nsec as f64 / 1e9)
}

#[cfg(not(unix))]
fn cpu_seconds() -> Option<f64> {
    None
}

/// How many files this process may open; none: any number, or it is not known.
#[cfg(unix)]
pub(crate) fn open_files_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current
}

#[cfg(not(unix))]
pub(crate) fn open_files_limit() -> Option<u64> {
    None
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn open_files() -> Option<u64> {
    let directory = "/proc/self/fd";
    // Since Linux 6.2 the directory's size is their number, and the tens of thousands need not be listed.
    match std::fs::metadata(directory).ok()?.len() {
        // One of those listed is the listing itself.
        0 => Some((std::fs::read_dir(directory).ok()?.count() as u64).saturating_sub(1)),
        count => Some(count),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_all_of_it() {
        let before = cpu_seconds().unwrap();
        assert!(before >= 0.0);
        assert!(cpu_seconds().unwrap() >= before);
        assert!(resident_bytes().unwrap() > 1 << 20);
        let few = open_files().unwrap();
        let files: Vec<_> = (0..20)
            .map(|_| std::fs::File::open("/proc/self/status").unwrap())
            .collect();
        // Other tests of this process open and close files, too, but not as many at once.
        assert!(open_files().unwrap() + 10 > few + files.len() as u64);
        assert!(open_files_limit().unwrap() >= 20);
    }
}
