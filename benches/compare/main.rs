//! The side-by-side comparison: this relay, HAProxy in plain TCP mode as the practical limit, and any other relay given by its
//! path, under the same loads in turn.
//!
//! `cargo bench --bench compare -- [--quick] [--rounds 3] [--seconds 4] [--only TEXT] [--pin] [--relay PATH]... [--plots DIR]
//! [--markdown FILE] [--json FILE]`
//!
//! Each figure is the median of several rounds; within a round the contenders take turns, so that what else the machine does
//! hits all of them. Each run starts a fresh process on free loopback ports and ends it afterwards. The figure that counts is
//! the process's CPU time per message, not the wall clock. (performance.md.)

mod contender;
mod loads;
mod markdown;
mod plots;
mod results;
mod table;

use std::error::Error;
use std::fs;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use contender::{Contender, Scratch};
use loads::Case;
use results::{Conditions, Results, Row};

type Failure = Box<dyn Error>;

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
    let file = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .value_parser(value_parser!(PathBuf))
            .help(help)
    };
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
            file(
                "relay",
                "PATH",
                "Another relay's binary with the same flags (openZro, NetBird, an older build)",
            )
            .action(ArgAction::Append),
        )
        .arg(
            Arg::new("quick")
                .long("quick")
                .action(ArgAction::SetTrue)
                .help("One round of one second each: a first look in two minutes"),
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
        .arg(file(
            "plots",
            "DIR",
            "Run the loads of the curves too, and draw them there as SVG",
        ))
        .arg(file(
            "markdown",
            "FILE",
            "Write the tables there: between its marks if it has them, else as the whole file",
        ))
        .arg(file("json", "FILE", "Write all figures there as JSON"))
        .arg(
            Arg::new("bench")
                .long("bench")
                .action(ArgAction::SetTrue)
                .hide(true),
        )
}

fn compare(matches: &ArgMatches) -> Result<(), Failure> {
    let path = |name: &str| matches.get_one::<PathBuf>(name);
    let only = matches.get_one::<String>("only").map_or("", String::as_str);
    let curves = path("plots").is_some();
    let quick = matches.get_flag("quick");
    let conditions = Conditions {
        rounds: match quick {
            true => 1,
            false => *matches.get_one("rounds").expect("has a default"),
        },
        seconds: match quick {
            true => 1,
            false => *matches.get_one("seconds").expect("has a default"),
        },
        // Asked before this process is pinned: afterwards the answer is 1.
        cpus: std::thread::available_parallelism()?.get(),
        pinned: matches.get_flag("pin"),
        busy_before: Conditions::busy_now(),
    };
    let cases = loads::all()
        .into_iter()
        .filter(|case| (curves || !case.only_for_curves) && case.name.contains(only))
        .collect();
    let results = measure(conditions, cases, contender::all(matches))?;
    print!("{}", table::text(&results));
    if let Some(file) = path("json") {
        fs::write(file, format!("{:#}\n", results.to_json()))?;
    }
    if let Some(file) = path("markdown") {
        markdown::write(&results, file)?;
    }
    if let Some(directory) = path("plots") {
        plots::draw(&results, directory)?;
    }
    if results.is_complete() {
        Ok(())
    } else {
        Err("some runs failed: see above".into())
    }
}

fn measure(
    conditions: Conditions,
    cases: Vec<Case>,
    contenders: Vec<Contender>,
) -> Result<Results, Failure> {
    let scratch = Scratch::new()?;
    let pinned = conditions
        .pinned
        .then(|| contender::pin_the_load(conditions.cpus))
        .transpose()?;
    let mut rows: Vec<Row> = cases
        .into_iter()
        .map(|case| Row::new(case, contenders.len()))
        .collect();
    let rounds = conditions.rounds;
    for round in 1..=rounds {
        for Row { case, reports } in &mut rows {
            for (contender, reports) in contenders.iter().zip(reports) {
                if !case.suits(contender) {
                    continue;
                }
                progress(&format!(
                    "round {round} of {rounds}: {}: {}",
                    case.name, contender.name
                ));
                match contender::run(case, contender, &conditions, &scratch, pinned.as_deref()) {
                    Ok(report) => reports.push(report),
                    Err(error) => eprintln!("{}: {}: {error}", contender.name, case.name),
                }
            }
        }
    }
    progress("");
    Ok(Results {
        conditions,
        contenders,
        rows,
    })
}

/// Shows how far it is, where there is a terminal to show it on; what is printed next begins a line of its own.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K{text}\r");
    }
}
