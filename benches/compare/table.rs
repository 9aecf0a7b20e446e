//! The table on the terminal: for each contender median and range, for each relay the ratio to HAProxy.

use std::fmt::Write as _;

use trunkline::load::{Load, Report};

use crate::results::{Results, median, range};

/// One line: its name, its unit, its cells.
struct Line<'a>(&'a str, &'a str, Vec<String>);

/// All of it.
pub(crate) fn text(results: &Results) -> String {
    let contenders = 0..results.contenders.len();
    let name = |index: usize| results.contenders[index].name.clone();
    let compared = results.compared();
    let mut head: Vec<String> = contenders.clone().map(name).collect();
    head.extend(
        compared
            .iter()
            .map(|index| format!("haproxy / {}", name(*index))),
    );
    let mut lines = vec![Line("load", "figure", head)];
    for row in &results.rows {
        let mut cells: Vec<String> = contenders
            .clone()
            .map(|index| spread(&row.figures(index)))
            .collect();
        cells.extend(
            compared
                .iter()
                .map(|index| match results.ratio(row, *index) {
                    Some(ratio) => {
                        format!("{:.2}, by round {:.2}", ratio.of_medians, ratio.of_rounds)
                    }
                    None => "-".to_owned(),
                }),
        );
        lines.push(Line(&row.case.name, row.case.unit, cells));
        if row.case.load == Load::Flow {
            let own = |report: &Report| report.own_cpu_us_per_message;
            let cells = contenders
                .clone()
                .map(|index| spread(&row.values(index, own)));
            lines.push(Line("", "the load's own", cells.collect()));
        }
        if contenders.clone().any(|index| row.lost(index) > 0) {
            let cells = contenders.clone().map(|index| row.lost(index).to_string());
            lines.push(Line("", "messages lost", cells.collect()));
        }
    }
    let names = lines.iter().map(|Line(name, ..)| name.len()).max();
    let width = names.unwrap_or_default() + 2;
    lines
        .iter()
        .fold(String::new(), |mut text, Line(name, unit, cells)| {
            let cells: String = cells.iter().map(|cell| format!("  {cell:>24}")).collect();
            writeln!(text, "{name:<width$}{unit:<23}{cells}")
                .expect("writing to a string does not fail");
            text
        })
}

/// Median and range.
pub(crate) fn spread(values: &[f64]) -> String {
    let (least, most) = range(values);
    match median(values.to_vec()) {
        Some(middle) if values.len() > 1 => format!("{middle:.2} [{least:.2}-{most:.2}]"),
        Some(middle) => format!("{middle:.2}"),
        None => "-".to_owned(),
    }
}
