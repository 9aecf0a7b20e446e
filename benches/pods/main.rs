//! What it costs that a message crosses pods, and how soon traffic follows a peer: three pods of this program on loopback, and peers
//! on them.
//!
//! `cargo bench --bench pods -- [--rounds 5] [--seconds 3] [--only TEXT] [--binary PATH]`
//!
//! The cost is that of a load whose receivers are on another pod, beside the same load on one pod, in turn; CPU time of all pods added up.
//! Everything else is a time by the wall clock, on pods that have nothing else to do. (performance.md.)

mod cost;
mod first;
mod moves;
mod peers;
mod pods;
mod unknown;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use pods::Pods;

type Failure = Box<dyn Error>;

/// One line of the table.
struct Line {
    what: String,
    figure: String,
    bar: &'static str,
}

/// The measurements, by the names that `--only` knows.
const ALL: [&str; 4] = ["cost", "first", "unknown", "moves"];

fn main() -> ExitCode {
    let matches = command().get_matches();
    // `cargo test --all-targets` starts benches too, without this flag.
    if !matches.get_flag("bench") {
        println!("pods: run it with `cargo bench --bench pods`");
        return ExitCode::SUCCESS;
    }
    match measure(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pods: {error}");
            ExitCode::FAILURE
        }
    }
}

fn command() -> clap::Command {
    clap::Command::new("pods")
        .about("Measures what it costs to cross pods, and how soon traffic follows a peer")
        .arg(
            Arg::new("rounds")
                .long("rounds")
                .default_value("5")
                .value_parser(value_parser!(u32).range(1..))
                .help("Rounds of the cost; the table shows medians"),
        )
        .arg(
            Arg::new("seconds")
                .long("seconds")
                .default_value("3")
                .value_parser(value_parser!(u64).range(1..))
                .help("Measured seconds of each load"),
        )
        .arg(
            Arg::new("only")
                .long("only")
                .value_name("NAME")
                .value_parser(ALL)
                .help("One measurement alone"),
        )
        .arg(
            Arg::new("binary")
                .long("binary")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .help("Another build of this program"),
        )
        .arg(
            Arg::new("bench")
                .long("bench")
                .action(ArgAction::SetTrue)
                .hide(true),
        )
}

fn measure(matches: &ArgMatches) -> Result<(), Failure> {
    let only = matches.get_one::<String>("only");
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_trunkline"));
    let binary = matches.get_one::<PathBuf>("binary").unwrap_or(&ours);
    let pods = Pods::start(binary)?;
    let mut lines = Vec::new();
    if wanted("cost") {
        let rounds = *matches.get_one("rounds").expect("has a default");
        let seconds = *matches.get_one("seconds").expect("has a default");
        lines.extend(cost::lines(&pods, rounds, seconds)?);
    }
    let runtime = tokio::runtime::Runtime::new()?;
    if wanted("first") {
        lines.extend(runtime.block_on(first::lines(&pods))?);
    }
    if wanted("unknown") {
        lines.extend(runtime.block_on(unknown::lines(&pods))?);
    }
    if wanted("moves") {
        lines.extend(runtime.block_on(moves::lines(&pods))?);
    }
    // Peers' streams are sent by it; those between pods are not (docs/adr/0074-cubic-between-pods.md).
    if let Ok(name) = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control") {
        println!("Peers' TCP congestion control: {}\n", name.trim());
    }
    println!("| what | figure | bar |\n| --- | --- | --- |");
    for Line { what, figure, bar } in lines {
        println!("| {what} | {figure} | {bar} |");
    }
    Ok(())
}
