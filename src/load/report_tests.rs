//! Tables and JSON: what is known is in them, and nothing else.

use super::super::table::{bits, grouped, share};
use super::*;

#[test]
fn percentiles_are_in_microseconds() {
    let mut recorded = Histogram::new(3).unwrap();
    for us in 1..=1000_u64 {
        recorded.record(us * 1000).unwrap();
    }
    let latency = Latency::new(&recorded);
    assert_eq!(latency.samples, 1000);
    for (found, right) in [
        (latency.p50, 500.0),
        (latency.p90, 900.0),
        (latency.p99, 990.0),
        (latency.p999, 999.0),
        (latency.max, 1000.0),
    ] {
        assert!(
            (found - right).abs() <= right * 0.002,
            "{found} is not {right}"
        );
    }
}

fn assert_rows(table: &str, rows: &[&str]) {
    for row in rows {
        assert!(
            table.lines().any(|found| found == *row),
            "{row} is not in\n{table}"
        );
    }
}

#[test]
fn table_has_a_row_for_what_is_known_only() {
    let report = Report {
        load: "flow",
        target: "127.0.0.1:80".to_owned(),
        seconds: 4.0,
        messages: Some(1_234_567),
        bits_per_second: Some(3.5e9),
        sent: Some(2000),
        lost: Some(3),
        relay_cpu_us_per_message: Some(0.876),
        ..Report::default()
    };
    let table = report.to_string();
    assert_rows(
        &table,
        &[
            "load                    flow on 127.0.0.1:80, 4.0 s",
            "messages                1 234 567",
            "payload a second        3.50 Gbit",
            "lost                    3 (0.150 %)",
            "relay CPU a message     0.88 us",
        ],
    );
    assert_eq!(table.lines().count(), 6, "{table}");
}

#[test]
fn a_rate_that_was_not_reached_and_what_is_doubtful_are_told() {
    let report = Report {
        load: "paced",
        target: "127.0.0.1:80".to_owned(),
        over: "QUIC",
        receivers_on: Some("127.0.0.1:81".to_owned()),
        rate_reached_percent: Some(17.3),
        ended: Some(2),
        ended_senders: Some(0),
        ended_receivers: Some(2),
        notes: vec!["doubtful".to_owned()],
        ..Report::default()
    };
    let table = report.to_string();
    assert_rows(
        &table,
        &[
            "over               QUIC",
            "rate reached       17 %",
            "connections ended  2 (0 to 127.0.0.1:80, 2 to 127.0.0.1:81)",
            "note               doubtful",
        ],
    );
}

#[test]
fn json_is_one_object_with_plain_names() {
    let report = Report {
        load: "paced",
        latency: Some(Latency::new(&Histogram::new(3).unwrap())),
        lost: Some(0),
        ..Report::default()
    };
    let value: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(value["load"], "paced");
    assert_eq!(value["lost"], 0);
    assert_eq!(value["latency"]["samples"], 0);
    assert!(value.get("connects").is_none());
    assert!(!report.to_json().contains('\n'));
}

#[test]
fn digits_are_grouped_from_the_right() {
    assert_eq!(grouped(0), "0");
    assert_eq!(grouped(999), "999");
    assert_eq!(grouped(1000), "1 000");
    assert_eq!(grouped(12_345_678), "12 345 678");
    assert_eq!(bits(12_345_678.0), "12.3 Mbit");
    assert_eq!(share(0, Some(9)), "0");
}
