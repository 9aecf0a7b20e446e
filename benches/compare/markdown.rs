//! The same figures as a part of `docs/performance.md`, with the machine and the day, so that no figure is copied by hand.

use std::fs;
use std::path::Path;

use trunkline::load::{Load, Report};
use trunkline::time::Clock;

use crate::Failure;
use crate::contender::haproxy_version;
use crate::results::{Results, congestion_control, median};
use crate::table::spread;

/// What stands between these two lines is ours to replace.
const BEGIN: &str = "<!-- figures: written by `cargo bench --bench compare -- --markdown` -->";
const END: &str = "<!-- end of figures -->";

/// Writes the tables into `file`: between its marks if it has them, else as all of it.
pub(crate) fn write(results: &Results, file: &Path) -> Result<(), Failure> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let marked = text
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = marked.unwrap_or(("", "\n"));
    let figures = figures(results);
    fs::write(file, format!("{before}{BEGIN}\n\n{figures}\n{END}{after}"))?;
    Ok(())
}

fn figures(results: &Results) -> String {
    let contenders = 0..results.contenders.len();
    let name = |index: usize| results.contenders[index].name.as_str();
    let compared = results.compared();
    let mut lines = conditions(results);
    let mut head = vec!["load", "figure"];
    head.extend(contenders.clone().map(name));
    let ratios: Vec<String> = compared
        .iter()
        .map(|index| format!("haproxy / {}", name(*index)))
        .collect();
    head.extend(ratios.iter().map(String::as_str));
    head.push("bar");
    lines.push(line(&head));
    lines.push(line(&vec!["---"; head.len()]));
    for row in &results.rows {
        let mut cells = vec![row.case.name.clone(), row.case.unit.to_owned()];
        cells.extend(contenders.clone().map(|index| spread(&row.figures(index))));
        cells.extend(
            compared
                .iter()
                .map(|index| match results.ratio(row, *index) {
                    Some(ratio) => format!("{:.2} ({:.2})", ratio.of_medians, ratio.of_rounds),
                    None => String::new(),
                }),
        );
        cells.push(row.case.bar.to_owned());
        lines.push(line(&cells));
    }
    lines.push(String::new());
    lines.push(losses(results));
    lines.extend(own_cost(results));
    lines.join("\n") + "\n"
}

/// The day, the machine and the manner.
fn conditions(results: &Results) -> Vec<String> {
    let conditions = &results.conditions;
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: f64 = memory
        .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<&str> = kernel.trim().split(['.', '-']).take(2).collect();
    let haproxy =
        haproxy_version().map_or_else(String::new, |version| format!(", HAProxy {version}"));
    vec![
        format!(
            "{}; {} CPUs, {:.0} GiB of memory, Linux {} (TCP: {}){haproxy}; {} round{}, {} s of each load{}.",
            today(),
            conditions.cpus,
            kib / 1024.0 / 1024.0,
            kernel.join("."),
            congestion_control(),
            conditions.rounds,
            if conditions.rounds == 1 { "" } else { "s" },
            conditions.seconds,
            if conditions.pinned {
                ", load and contender on CPUs of their own"
            } else {
                ""
            },
        ),
        format!(
            "Other work on the machine in the minute before: {:.1} tasks that wanted a CPU.",
            conditions.busy_before
        ),
        "Median of the rounds [least-most]; ratio of the medians (median of the rounds' ratios)."
            .to_owned(),
        String::new(),
    ]
}

/// Today's date, UTC.
fn today() -> String {
    let now = std::time::UNIX_EPOCH + std::time::Duration::from_secs(Clock::system().now_unix());
    let text = humantime::format_rfc3339_seconds(now).to_string();
    text.split('T').next().unwrap_or_default().to_owned()
}

fn losses(results: &Results) -> String {
    let mut lost = Vec::new();
    for row in &results.rows {
        for (index, contender) in results.contenders.iter().enumerate() {
            if row.lost(index) > 0 {
                lost.push(format!(
                    "{} {} ({})",
                    contender.name,
                    row.lost(index),
                    row.case.name
                ));
            }
        }
    }
    if lost.is_empty() {
        "Messages lost: none, in any round.".to_owned()
    } else {
        format!("Messages lost: {}.", lost.join(", "))
    }
}

/// What the load itself cost: a load that costs more than what it measures measures itself.
fn own_cost(results: &Results) -> Option<String> {
    let own = |report: &Report| report.own_cpu_us_per_message;
    let user = |report: &Report| report.own_user_us_per_message;
    let costs: Vec<String> = results
        .rows
        .iter()
        .filter(|row| row.case.load == Load::Flow && !row.case.only_for_curves)
        .filter_map(|row| {
            Some(format!(
                "{:.2}, {:.2} ({})",
                median(row.values(0, own))?,
                median(row.values(0, user))?,
                row.case.name
            ))
        })
        .collect();
    (!costs.is_empty()).then(|| {
        format!(
            "The load generator's own CPU time, us a message, and what of it is spent outside the kernel: {}.",
            costs.join("; ")
        )
    })
}

fn line(cells: &[impl AsRef<str>]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {} |", cells.join(" | "))
}
