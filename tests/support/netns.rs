//! Network namespaces that a test makes for itself, and takes away again. They need root and `ip` (iproute2); far cables need `python3`, too.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
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

    /// Lays a cable to another namespace; both ends are down.
    pub(crate) fn cable(&self, end: &str, other: &Self, other_end: &str) -> Result<(), String> {
        run(&format!(
            "ip link add {end} netns {} type veth peer name {other_end} netns {}",
            self.0, other.0
        ))
    }

    /// Lays a cable that is like a long way: see [`Far`]. Both ends are down. It lasts until it is dropped.
    ///
    /// # Errors
    /// Where there are no taps, or no Python: what else fails is a failure of the test.
    pub(crate) fn far_cable(
        &self,
        end: &str,
        other: &Self,
        other_end: &str,
        far: Far,
    ) -> Result<FarCable, String> {
        if !Path::new("/dev/net/tun").exists() {
            return Err("no /dev/net/tun".to_owned());
        }
        run("python3 --version")?;
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/far_cable.py");
        let mut process = self
            .command("python3")
            .args([program, end, other_end])
            .args([far.delay, far.jitter, far.lost_percent].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "far_cable.py: {:?}", process.wait());
        let cable = FarCable { process, output };
        self.ip(&format!("link set dev {other_end} netns {}", other.0))?;
        Ok(cable)
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

/// What a long way does to what goes along it, in either direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Far {
    /// Milliseconds that a frame is on its way.
    pub(crate) delay: u32,
    /// By how many of them that may differ, from frame to frame.
    pub(crate) jitter: u32,
    /// How many frames of a hundred are lost.
    pub(crate) lost_percent: u32,
}

/// What became of the frames in one direction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) carried: u64,
    pub(crate) lost: u64,
    /// Those that came out after one that went in later.
    pub(crate) overtaken: u64,
    /// How long the fastest of them was on its way.
    pub(crate) shortest_ms: u64,
}

/// A cable that `far_cable.py` carries the frames of; gone when this is dropped.
#[derive(Debug)]
pub(crate) struct FarCable {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl FarCable {
    /// Ends it, and says what it has carried, there and back.
    pub(crate) fn end(mut self) -> [Way; 2] {
        drop(self.process.stdin.take());
        let mut lines = String::new();
        self.output.read_to_string(&mut lines).unwrap();
        let way = |line: &str| {
            let mut numbers = line.split(' ').map(|number| number.parse().unwrap());
            let mut next = || numbers.next().expect("a line of four numbers");
            Way {
                carried: next(),
                lost: next(),
                overtaken: next(),
                shortest_ms: next(),
            }
        };
        let ways: Vec<_> = lines.lines().map(way).collect();
        ways.try_into().expect("two lines")
    }
}

impl Drop for FarCable {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}
