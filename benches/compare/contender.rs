//! Who takes part, and how each is started, loaded and ended.

use std::error::Error;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, sleep};
use std::time::Duration;

use clap::ArgMatches;
use trunkline::auth::Secret;
use trunkline::load::{Load, LoadError, Report, Settings, Target, execute};

use crate::Failure;
use crate::loads::Case;
use crate::results::Conditions;

const SECRET: &str = "side-by-side";
/// Connections that HAProxy allows itself: more than any load here makes, and half of 20,000 files at most.
const HAPROXY_CONNECTIONS: usize = 9_000;
/// A contender that does not listen after so many tries, or lets the crowd in, never will.
const TRIES: u32 = 1_500;
/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Who takes part.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Relay(PathBuf),
    HaProxy,
}

/// This relay, HAProxy if it is installed, and the relays of the command line.
pub(crate) fn all(matches: &ArgMatches) -> Vec<Contender> {
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_trunkline"));
    let mut all = vec![Contender {
        name: "trunkline".to_owned(),
        kind: Kind::Relay(ours),
    }];
    if haproxy_version().is_some() {
        all.push(Contender {
            name: "haproxy".to_owned(),
            kind: Kind::HaProxy,
        });
    } else {
        println!("haproxy: skipped, it is not installed (apt-get install haproxy): no ratios");
    }
    for path in matches.get_many::<PathBuf>("relay").into_iter().flatten() {
        let name = path.file_name().map_or_else(
            || path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        );
        all.push(Contender {
            name,
            kind: Kind::Relay(path.clone()),
        });
    }
    all
}

/// The version of the HAProxy that is installed.
pub(crate) fn haproxy_version() -> Option<String> {
    let output = Command::new("haproxy").arg("-v").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_ascii_whitespace().nth(2)?;
    let version = version.split('-').next()?.to_owned();
    output.status.success().then_some(version)
}

/// Keeps this process on CPU 0, and returns the CPUs that are left. On a busy machine the cost of a message at one a write was seen
/// to differ eightfold from run to run, for every contender; this rules out one possible reason, that the load and the
/// contender share a CPU. It does not keep other programs away.
pub(crate) fn pin_the_load(cpus: usize) -> Result<String, Failure> {
    if cpus < 2 {
        return Err("--pin needs two CPUs".into());
    }
    let own = std::process::id().to_string();
    let status = Command::new("taskset")
        .args(["-c", "-p", "0", &own])
        .stdout(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(format!("1-{}", cpus - 1)),
        Ok(status) => Err(format!("--pin: taskset failed ({status})").into()),
        Err(error) => Err(format!("--pin: taskset cannot be run: {error}").into()),
    }
}

/// A directory for configurations and logs, gone afterwards.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self, Failure> {
        let directory =
            std::env::temp_dir().join(format!("trunkline-compare-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind in a temporary directory harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A contender's process, ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the contender, loads it, ends it.
pub(crate) fn run(
    case: &Case,
    contender: &Contender,
    conditions: &Conditions,
    scratch: &Scratch,
    pinned: Option<&str>,
) -> Result<Report, Failure> {
    let log = scratch.0.join("log");
    let (mut running, target) = start(contender, &scratch.0, &log, pinned)?;
    let mut settings = Settings::new(case.load, target);
    settings.pids = vec![running.0.id()];
    case.apply(&mut settings, conditions.seconds);
    let outcome = thread::scope(|scope| {
        if case.crowd > 0 {
            // What becomes of it shows in the number of files, or in the load beside it, which needs the relay as much.
            let crowd = crowd(&settings, case.crowd);
            scope.spawn(move || execute(&crowd));
            wait_for_files(&running, case.crowd)?;
        }
        execute(&settings).map_err(told)
    });
    if let Some(status) = running.0.try_wait()? {
        return Err(format!("it ended during the load ({status}): {}", last_line(&log)).into());
    }
    drop(running);
    let panics = fs::read_to_string(&log)?.matches("panicked at").count();
    if panics > 0 {
        eprintln!(
            "{}: {}: it panicked {panics} times: {}",
            contender.name,
            case.name,
            last_line(&log)
        );
    }
    outcome
}

/// An error of a load with its cause.
fn told(error: LoadError) -> Failure {
    match error.source() {
        Some(source) => format!("{error}: {source}").into(),
        None => error.into(),
    }
}

/// Peers that stay connected as long as the load runs.
fn crowd(load: &Settings, peers: usize) -> Settings {
    let mut crowd = Settings::new(Load::Idle, load.target.clone());
    crowd.peers = peers;
    // Its clock runs from when all are connected, and the other load needs a moment to begin and to end.
    crowd.duration = load.warmup + load.duration + Duration::from_secs(2);
    crowd
}

/// Waits until the process has so many files open.
fn wait_for_files(running: &Running, files: usize) -> Result<(), Failure> {
    let directory = format!("/proc/{}/fd", running.0.id());
    for _ in 0..TRIES {
        if fs::read_dir(&directory)?.count() >= files {
            return Ok(());
        }
        sleep(PAUSE);
    }
    Err(format!("it does not let {files} peers in").into())
}

fn start(
    contender: &Contender,
    scratch: &Path,
    log: &Path,
    pinned: Option<&str>,
) -> Result<(Running, Target), Failure> {
    let [address, metrics, health] = free_addresses()?;
    let (mut command, target) = match &contender.kind {
        Kind::Relay(path) => {
            let mut command = command_on(pinned, path.as_os_str());
            command
                .args(["--listen-address", &address.to_string()])
                .args(["--exposed-address", &format!("rel://{address}")])
                .args(["--auth-secret", SECRET])
                .args(["--metrics-port", &metrics.port().to_string()])
                .args(["--health-listen-address", &health.to_string()])
                .args(["--log-level", "error"])
                // The whole load comes from one address. Variables, for an older build knows no such flags.
                .env("TRUNKLINE_MAX_CONNECTIONS_PER_ADDRESS", "0")
                .env("TRUNKLINE_HANDSHAKE_RATE_PER_ADDRESS", "0");
            let target = Target::Relay {
                address,
                host: address.to_string(),
                route: "/relay".to_owned(),
                secret: Secret::new(SECRET),
            };
            (command, target)
        }
        Kind::HaProxy => {
            let file = scratch.join("haproxy.cfg");
            fs::write(&file, haproxy_configuration(address, metrics))?;
            let mut command = command_on(pinned, "haproxy".as_ref());
            command.arg("-db").arg("-q").arg("-f").arg(&file);
            (
                command,
                Target::Proxy {
                    front: address,
                    back: metrics,
                },
            )
        }
    };
    let errors = File::create(log)?;
    let mut running = Running(
        command
            .stdin(Stdio::null())
            .stdout(errors.try_clone()?)
            .stderr(errors)
            .spawn()?,
    );
    for _ in 0..TRIES {
        if let Some(status) = running.0.try_wait()? {
            return Err(format!("it does not start ({status}): {}", last_line(log)).into());
        }
        if TcpStream::connect(address).is_ok() {
            return Ok((running, target));
        }
        sleep(PAUSE);
    }
    Err(format!("it does not listen on {address}: {}", last_line(log)).into())
}

/// The program, on the CPUs of `pinned` alone; `taskset` becomes the program, so that the process ID is right.
fn command_on(pinned: Option<&str>, program: &OsStr) -> Command {
    let Some(cpus) = pinned else {
        return Command::new(program);
    };
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cpus).arg(program);
    command
}

/// Loopback addresses whose ports were free a moment ago.
fn free_addresses() -> Result<[SocketAddr; 3], Failure> {
    // All are held until the last is known: they must differ.
    let listeners = [0; 3].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 3];
    for (address, listener) in addresses.iter_mut().zip(listeners) {
        *address = listener?.local_addr()?;
    }
    Ok(addresses)
}

/// TCP mode, two threads, everything else as it comes.
fn haproxy_configuration(front: SocketAddr, back: SocketAddr) -> String {
    format!(
        "global\n    nbthread 2\n    maxconn {HAPROXY_CONNECTIONS}\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
         frontend peers\n    bind {front}\n    default_backend load\n\
         backend load\n    server load {back}\n"
    )
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing")
        .to_owned()
}
