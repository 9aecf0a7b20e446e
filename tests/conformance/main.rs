//! Conformance of the WebSocket layer (RFC 6455): a table of raw bytes, given to the relay and to a server on tokio-tungstenite,
//! whole and cut to pieces. Each row says what must come of it; each difference between the two is listed with its reason.
//!
//! `docs/conformance.md` says what is covered, and is itself checked here.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod case;
mod cases;
mod chopped;
mod client;
mod difference;
mod frame;
mod report;
mod server;
mod verdict;

use case::Case;
use chopped::Cut;
use server::{Ours, Theirs};
use verdict::Verdict;

/// Runs with random cuts per case and server.
const RANDOM_RUNS: u64 = 3;

/// The seed of this run's random cuts: `CONFORMANCE_SEED` brings one back.
fn seed() -> u64 {
    match std::env::var("CONFORMANCE_SEED") {
        Ok(seed) => seed.parse().expect("CONFORMANCE_SEED is a number"),
        Err(_) => rand::random(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_has_its_verdict() {
    let seed = seed();
    println!("random cuts from CONFORMANCE_SEED={seed}");
    let (ours, theirs) = (Ours::start(), Theirs::start().await);
    let cases = cases::all();
    let mut runs = 0;
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let cuts = [Cut::Nowhere, Cut::Everywhere].into_iter().chain(
            (0..RANDOM_RUNS)
                .map(|run| Cut::Random(seed.wrapping_add(number as u64 * RANDOM_RUNS + run))),
        );
        let ours = async {
            let mut verdicts = vec![
                ("relay, TCP".to_owned(), ours.tcp(case, false).await),
                (
                    "relay, TCP, glued to the upgrade".to_owned(),
                    ours.tcp(case, true).await,
                ),
            ];
            for cut in cuts.clone() {
                verdicts.push((format!("relay, cut {cut:?}"), ours.chopped(case, cut).await));
            }
            verdicts
        };
        let theirs = async {
            let mut verdicts = vec![("tokio-tungstenite, TCP".to_owned(), theirs.tcp(case).await)];
            for cut in cuts.clone() {
                verdicts.push((
                    format!("tokio-tungstenite, cut {cut:?}"),
                    theirs.chopped(case, cut).await,
                ));
            }
            verdicts
        };
        let (ours, theirs) = tokio::join!(ours, theirs);
        runs += ours.len() + theirs.len();
        let expected_of_theirs = case
            .theirs
            .as_ref()
            .map_or(&case.ours, |(_, theirs)| theirs);
        let expected = [(ours, &case.ours), (theirs, expected_of_theirs)];
        for (verdicts, expected) in expected {
            for (run, verdict) in verdicts {
                if verdict != *expected {
                    wrong.push(complaint(case, &run, &verdict, expected));
                }
            }
        }
    }
    println!("{} in {runs} runs", report::summary(&cases));
    print!("{}", report::differences(&cases));
    assert!(
        wrong.is_empty(),
        "CONFORMANCE_SEED={seed}: {} of {runs} runs went otherwise than listed\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn complaint(case: &Case, run: &str, verdict: &Verdict, expected: &Verdict) -> String {
    format!(
        "{} ({}; RFC 6455, {}), {run}:\n  is     {verdict:?}\n  listed {expected:?}",
        case.id, case.what, case.rfc
    )
}

/// A difference that names two equal verdicts is none, and a reason without a case is no reason.
#[test]
fn listed_differences_are_differences() {
    let cases = cases::all();
    for case in &cases {
        if let Some((why, theirs)) = &case.theirs {
            assert!(
                *theirs != case.ours,
                "{}: listed as {why:?}, but the verdicts are equal",
                case.id
            );
        }
    }
    for why in difference::Why::ALL {
        let listed = cases
            .iter()
            .any(|case| case.theirs.as_ref().is_some_and(|(of, _)| *of == why));
        assert!(listed, "no case differs by {why:?}");
    }
}

#[test]
fn the_documentation_is_current() {
    let page = include_str!("../../docs/conformance.md");
    let cases = cases::all();
    for part in [
        report::summary(&cases),
        report::sections(&cases),
        report::differences(&cases),
    ] {
        assert!(
            page.contains(&part),
            "docs/conformance.md lacks this:\n{part}"
        );
    }
}
