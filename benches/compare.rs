//! The side-by-side comparison: this relay, HAProxy in plain TCP mode as the practical limit, and any other relay given by its
//! path, under the same loads in turn.
//!
//! `cargo bench --bench compare -- [--rounds 3] [--seconds 4] [--pin] [--relay PATH]... [--json FILE]`
//!
//! Each figure is the median of several rounds; within a round the contenders take turns, so that what else the machine does
//! hits all of them. Each run starts a fresh process on free loopback ports and ends it afterwards. The figure that counts is
//! the process's CPU time per message, not the wall clock. (performance.md.)

use std::error::Error;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde_json::{Value, json};
use trunkline::auth::Secret;
use trunkline::load::{Load, LoadError, Report, Settings, Target, execute};

type Failure = Box<dyn Error>;

const SECRET: &str = "side-by-side";
/// Connections that HAProxy allows itself: more than any load here makes, and half of 20,000 files at most.
const HAPROXY_CONNECTIONS: usize = 9_000;
/// A contender that does not listen after so many tries, 20 ms apart, never will.
const START_TRIES: u32 = 500;
/// Short-lived connections come from so many addresses: none of them runs out of ports.
const SOURCES: u32 = 16;

/// One row of the table: a load, and the figure taken from its report.
struct Case {
    name: &'static str,
    unit: &'static str,
    load: Load,
    adjust: fn(&mut Settings),
    figure: fn(&Report) -> Option<f64>,
}

const CASES: [Case; 8] = [
    flow("1 pair, 1 a write", |settings| {
        (settings.pairs, settings.batch) = (1, 1)
    }),
    flow("1 pair, 16 a write", |settings| {
        (settings.pairs, settings.batch) = (1, 16)
    }),
    flow("50 pairs, 1 a write", |settings| {
        (settings.pairs, settings.batch) = (50, 1)
    }),
    flow("50 pairs, 16 a write", |settings| {
        (settings.pairs, settings.batch) = (50, 16)
    }),
    Case {
        name: "10 pairs, 200 a second each, p99",
        unit: "us one way",
        load: Load::Paced,
        adjust: |_| {},
        figure: |report| report.latency.map(|latency| latency.p99),
    },
    Case {
        name: "5,000 idle peers",
        unit: "KiB a peer",
        load: Load::Idle,
        adjust: |settings| {
            settings.peers = 5_000;
            settings.duration = Duration::from_secs(1);
        },
        figure: |report| report.relay_kib_per_peer,
    },
    Case {
        name: "connects, one after another",
        unit: "us CPU each",
        load: Load::Churn,
        adjust: |settings| (settings.concurrency, settings.source_addresses) = (1, SOURCES),
        figure: |report| report.relay_cpu_us_per_connect,
    },
    Case {
        name: "connects, 64 at a time",
        unit: "us CPU each",
        load: Load::Churn,
        adjust: |settings| (settings.concurrency, settings.source_addresses) = (64, SOURCES),
        figure: |report| report.relay_cpu_us_per_connect,
    },
];

const fn flow(name: &'static str, adjust: fn(&mut Settings)) -> Case {
    Case {
        name,
        unit: "us CPU a message",
        load: Load::Flow,
        adjust,
        figure: |report| report.relay_cpu_us_per_message,
    }
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    // `cargo test --all-targets` starts benches too, without this flag; minutes of load are not what it asks for.
    if !matches.get_flag("bench") {
        println!("compare: run it with `cargo bench --bench compare`");
        return ExitCode::SUCCESS;
    }
    match compare(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> clap::Command {
    clap::Command::new("compare")
        .about("Runs this relay, HAProxy and other relays under the same loads")
        .arg(
            Arg::new("rounds")
                .long("rounds")
                .default_value("3")
                .value_parser(value_parser!(u32).range(1..))
                .help("Rounds; the table shows medians"),
        )
        .arg(
            Arg::new("seconds")
                .long("seconds")
                .default_value("4")
                .value_parser(value_parser!(u64).range(1..))
                .help("Measured seconds of each load"),
        )
        .arg(
            Arg::new("relay")
                .long("relay")
                .action(ArgAction::Append)
                .value_parser(value_parser!(PathBuf))
                .help(
                    "Another relay's binary with the same flags (openZro, NetBird, an older build)",
                ),
        )
        .arg(
            Arg::new("only")
                .long("only")
                .value_name("TEXT")
                .help("Only the loads whose name contains this"),
        )
        .arg(
            Arg::new("pin")
                .long("pin")
                .action(ArgAction::SetTrue)
                .help("Keep the load on CPU 0 and the contenders off it (needs taskset)"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Write all figures there as JSON"),
        )
        .arg(
            Arg::new("bench")
                .long("bench")
                .action(ArgAction::SetTrue)
                .hide(true),
        )
}

fn compare(matches: &ArgMatches) -> Result<(), Failure> {
    let rounds = *matches.get_one::<u32>("rounds").expect("has a default");
    let seconds = *matches.get_one::<u64>("seconds").expect("has a default");
    let only = matches.get_one::<String>("only").map_or("", String::as_str);
    let scratch = Scratch::new()?;
    // Asked before this process is pinned: afterwards the answer is 1.
    let cpus = std::thread::available_parallelism()?.get();
    let pinned = matches
        .get_flag("pin")
        .then(|| pin_the_load(cpus))
        .transpose()?;
    let contenders = contenders(matches);
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| case.name.contains(only))
        .collect();
    let mut results: Vec<Vec<Vec<Report>>> = vec![vec![Vec::new(); contenders.len()]; cases.len()];
    for round in 1..=rounds {
        for (case, by_contender) in cases.iter().zip(&mut results) {
            for (contender, reports) in contenders.iter().zip(by_contender) {
                progress(&format!(
                    "round {round} of {rounds}: {}: {}",
                    case.name, contender.name
                ));
                match run(case, contender, seconds, &scratch.0, pinned.as_deref()) {
                    Ok(report) => reports.push(report),
                    Err(error) => eprintln!("{}: {}: {error}", contender.name, case.name),
                }
            }
        }
    }
    progress("");
    print!("{}", table(&cases, &contenders, &results));
    if let Some(file) = matches.get_one::<PathBuf>("json") {
        let mut all = as_json(&cases, &contenders, &results);
        all["rounds"] = json!(rounds);
        all["seconds"] = json!(seconds);
        all["cpus"] = json!(cpus);
        all["pinned"] = json!(pinned.is_some());
        fs::write(file, format!("{all:#}\n"))?;
    }
    let incomplete = results
        .iter()
        .flatten()
        .any(|reports| reports.len() < rounds as usize);
    if incomplete {
        Err("some runs failed: see above".into())
    } else {
        Ok(())
    }
}

/// Shows how far it is, where there is a terminal to show it on; what is printed next begins a line of its own.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K{text}\r");
    }
}

/// Keeps this process on CPU 0, and returns the CPUs that are left. On a busy machine the cost of a message at one a write was seen
/// to differ eightfold from run to run, for every contender; this rules out one possible reason, that the load and the
/// contender share a CPU. It does not keep other programs away.
fn pin_the_load(cpus: usize) -> Result<String, Failure> {
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

/// Who takes part.
struct Contender {
    name: String,
    kind: Kind,
}

enum Kind {
    Relay(PathBuf),
    HaProxy,
}

fn contenders(matches: &ArgMatches) -> Vec<Contender> {
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_trunkline"));
    let mut all = vec![Contender {
        name: "trunkline".to_owned(),
        kind: Kind::Relay(ours),
    }];
    let installed = Command::new("haproxy")
        .arg("-v")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if installed.is_ok_and(|status| status.success()) {
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

/// A directory for configurations and logs, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
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
fn run(
    case: &Case,
    contender: &Contender,
    seconds: u64,
    scratch: &Path,
    pinned: Option<&str>,
) -> Result<Report, Failure> {
    let log = scratch.join("log");
    let (mut running, target) = start(contender, scratch, &log, pinned)?;
    let mut settings = Settings::new(case.load, target);
    settings.pid = Some(running.0.id());
    settings.duration = Duration::from_secs(seconds);
    settings.warmup = Duration::from_millis(500);
    (case.adjust)(&mut settings);
    let outcome = execute(&settings);
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
    outcome.map_err(|error: LoadError| match error.source() {
        Some(source) => format!("{error}: {source}").into(),
        None => error.into(),
    })
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
                .args(["--log-level", "error"]);
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
    for _ in 0..START_TRIES {
        if let Some(status) = running.0.try_wait()? {
            return Err(format!("it does not start ({status}): {}", last_line(log)).into());
        }
        if TcpStream::connect(address).is_ok() {
            return Ok((running, target));
        }
        sleep(Duration::from_millis(20));
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

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

fn figures(case: &Case, reports: &[Report]) -> Vec<f64> {
    reports.iter().filter_map(case.figure).collect()
}

/// The table: for each contender median and range; for each relay HAProxy's figure divided by its own, once of the medians, and
/// once as the median of each round's ratio, whose two runs had the same neighbours on the machine.
fn table(cases: &[&Case], contenders: &[Contender], results: &[Vec<Vec<Report>>]) -> String {
    let is_yardstick = |contender: &Contender| matches!(contender.kind, Kind::HaProxy);
    let yardstick = contenders.iter().position(is_yardstick);
    let mut text = String::new();
    let mut line = |name: &str, unit: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("  {cell:>24}")).collect();
        writeln!(text, "{name:<34}{unit:<17}{cells}").expect("writing to a string does not fail");
    };
    let mut head: Vec<String> = contenders
        .iter()
        .map(|contender| contender.name.clone())
        .collect();
    let relays: Vec<usize> = (0..contenders.len())
        .filter(|index| yardstick.is_some() && !is_yardstick(&contenders[*index]))
        .collect();
    head.extend(
        relays
            .iter()
            .map(|index| format!("haproxy / {}", contenders[*index].name)),
    );
    line("load", "figure", head);
    for (case, by_contender) in cases.iter().zip(results) {
        let each: Vec<Vec<f64>> = by_contender
            .iter()
            .map(|reports| figures(case, reports))
            .collect();
        let mut cells: Vec<String> = each.iter().map(|values| spread(values)).collect();
        let ratio = |index: &usize| {
            let (limit, own) = (&each[yardstick?], &each[*index]);
            // Both are told, and where they differ much neither is to be trusted: the machine was not quiet.
            let of_medians = median(limit.clone())? / median(own.clone())?;
            let of_rounds = median(
                limit
                    .iter()
                    .zip(own)
                    .map(|(limit, own)| limit / own)
                    .collect(),
            )?;
            Some(format!("{of_medians:.2}, by round {of_rounds:.2}"))
        };
        cells.extend(
            relays
                .iter()
                .map(|index| ratio(index).unwrap_or_else(|| "-".to_owned())),
        );
        line(case.name, case.unit, cells);
        if case.load == Load::Flow {
            let own = |reports: &Vec<Report>| {
                spread(
                    &reports
                        .iter()
                        .filter_map(|report| report.own_cpu_us_per_message)
                        .collect::<Vec<_>>(),
                )
            };
            line("", "the load's own", by_contender.iter().map(own).collect());
        }
        let lost =
            |reports: &Vec<Report>| reports.iter().filter_map(|report| report.lost).sum::<u64>();
        if by_contender.iter().any(|reports| lost(reports) > 0) {
            line(
                "",
                "messages lost",
                by_contender
                    .iter()
                    .map(|reports| lost(reports).to_string())
                    .collect(),
            );
        }
    }
    text
}

/// Median and range.
fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match median(values.to_vec()) {
        Some(middle) if values.len() > 1 => format!("{middle:.2} [{least:.2}-{most:.2}]"),
        Some(middle) => format!("{middle:.2}"),
        None => "-".to_owned(),
    }
}

fn as_json(cases: &[&Case], contenders: &[Contender], results: &[Vec<Vec<Report>>]) -> Value {
    let case = |(case, by_contender): (&&Case, &Vec<Vec<Report>>)| {
        let each = contenders
            .iter()
            .zip(by_contender)
            .map(|(contender, reports)| {
                json!({
                    "contender": contender.name,
                    "median": median(figures(case, reports)),
                    "rounds": figures(case, reports),
                    "reports": reports,
                })
            });
        json!({ "load": case.name, "unit": case.unit, "results": each.collect::<Vec<_>>() })
    };
    json!({
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "cases": cases.iter().zip(results).map(case).collect::<Vec<_>>(),
    })
}
