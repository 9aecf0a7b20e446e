//! What the table comes to, in the words of `docs/conformance.md`.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::case::Case;
use crate::cases::SECTIONS;
use crate::difference::Why;

/// The line with the numbers.
pub(crate) fn summary(cases: &[Case]) -> String {
    let differ = cases.iter().filter(|case| case.theirs.is_some()).count();
    format!(
        "conformance: {} cases, {} agreements, {differ} differences for {} reasons",
        cases.len(),
        cases.len() - differ,
        Why::ALL.len()
    )
}

/// A table row for each section.
pub(crate) fn sections(cases: &[Case]) -> String {
    let mut table = String::from(
        "| section | what | cases | agreements | differences |\n|---|---|---|---|---|\n",
    );
    for (section, what) in SECTIONS {
        let of: Vec<_> = cases
            .iter()
            .filter(|case| case.id.split('.').next() == Some(section))
            .collect();
        let differ = of.iter().filter(|case| case.theirs.is_some()).count();
        writeln!(
            table,
            "| {section} | {what} | {} | {} | {differ} |",
            of.len(),
            of.len() - differ
        )
        .unwrap();
    }
    table
}

/// A table row for each reason.
pub(crate) fn differences(cases: &[Case]) -> String {
    let mut table = String::from(
        "| difference | cases | relay | tokio-tungstenite | right by RFC 6455 | reason |\n|---|---|---|---|---|---|\n",
    );
    for why in Why::ALL {
        let (mut ids, mut ours, mut theirs) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for case in cases {
            if let Some((_, verdict)) = case.theirs.as_ref().filter(|(of, _)| *of == why) {
                ids.push(case.id.as_str());
                ours.insert(case.ours.outcome());
                theirs.insert(verdict.outcome());
            }
        }
        let join = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join("; ");
        let (what, right, reason) = why.explain();
        writeln!(
            table,
            "| {what} | {}: {} | {} | {} | {right} | {reason} |",
            ids.len(),
            ranges(&ids),
            join(ours),
            join(theirs)
        )
        .unwrap();
    }
    table
}

/// `5.1, 5.2, 5.3, 6.7` as `5.1 to 5.3, 6.7`.
fn ranges(ids: &[&str]) -> String {
    let mut runs: Vec<(&str, &str)> = Vec::new();
    for id in ids {
        match runs.last_mut() {
            Some((_, last)) if follows(last, id) => *last = id,
            _ => runs.push((id, id)),
        }
    }
    let runs = runs.into_iter().map(|(first, last)| {
        if first == last {
            first.to_owned()
        } else {
            format!("{first} to {last}")
        }
    });
    runs.collect::<Vec<_>>().join(", ")
}

fn follows(one: &str, other: &str) -> bool {
    let parts = |id: &str| {
        let (section, number) = id.split_once('.').expect("section and number");
        (section.to_owned(), number.parse::<u32>().expect("a number"))
    };
    let ((section, number), (of, next)) = (parts(one), parts(other));
    section == of && number + 1 == next
}
