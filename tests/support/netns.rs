//! Network namespaces that a test makes for itself, and takes away again. They need root and `ip` (iproute2).

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs a command; its words on failure.
pub(crate) fn run(words: &str) -> Result<(), String> {
    let mut parts = words.split_whitespace();
    let output = Command::new(parts.next().unwrap()).args(parts).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{words}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("{words}: {error}")),
    }
}

/// A namespace of a name that nobody else has; gone when this is dropped, however the test ends.
#[derive(Debug)]
pub(crate) struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _absent = run(&format!("ip netns del {}", self.0));
    }
}

impl Namespace {
    /// Makes one with nothing in it but a loopback device.
    pub(crate) fn make(role: &str) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tl-{role}-{}-{number}", std::process::id());
        run(&format!("ip netns add {name}"))?;
        let namespace = Self(name);
        namespace.ip("link set dev lo up")?;
        Ok(namespace)
    }

    /// `ip`, within.
    pub(crate) fn ip(&self, words: &str) -> Result<(), String> {
        run(&format!("ip -n {} {words}", self.0))
    }

    /// `tc`, within.
    pub(crate) fn tc(&self, words: &str) -> Result<(), String> {
        run(&format!("tc -n {} {words}", self.0))
    }

    /// Lays a cable to another namespace; both ends are down.
    pub(crate) fn cable(&self, end: &str, other: &Self, other_end: &str) -> Result<(), String> {
        run(&format!(
            "ip link add {end} netns {} type veth peer name {other_end} netns {}",
            self.0, other.0
        ))
    }

    /// A program that is to run within; the process is that of the program.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    /// Runs `work` on a thread of its own within.
    pub(crate) fn within<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(work())
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}
