//! What `/metrics` says, taken apart.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::http::request;

/// One reading of `/metrics`.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(BTreeMap<(String, BTreeMap<String, String>), f64>);

impl Metrics {
    /// Reads them from a listener, in the way Prometheus does.
    pub(crate) async fn scrape(addr: SocketAddr) -> Self {
        let get = "GET /metrics HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
        let answer = request(addr, get).await.expect("an answer");
        assert_eq!(answer.status, 200);
        Self::parse(answer.text())
    }

    fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| line.starts_with("relay_"));
        Self(samples.map(sample).collect())
    }

    /// The sum of all samples of this name that have these labels; 0 if there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let fits = |found: &BTreeMap<String, String>| {
            labels
                .iter()
                .all(|(label, value)| found.get(*label).is_some_and(|found| found == value))
        };
        let samples = self
            .0
            .iter()
            .filter(|((found, labels), _)| found == name && fits(labels));
        samples.map(|(_, value)| *value).sum::<f64>() as u64
    }

    /// Whether there is a sample of this name with these labels.
    pub(crate) fn has(&self, name: &str, labels: &[&str]) -> bool {
        let all = |found: &BTreeMap<String, String>| labels.iter().all(|l| found.contains_key(*l));
        self.0
            .keys()
            .any(|(found, labels)| found == name && all(labels))
    }

    /// The values that a label of this name has.
    pub(crate) fn label_values(&self, name: &str, label: &str) -> Vec<&str> {
        let samples = self.0.keys().filter(|(found, _)| found == name);
        samples
            .filter_map(|(_, labels)| labels.get(label).map(String::as_str))
            .collect()
    }
}

/// `name{label="value",...} number`, with no quote or comma inside a value: ours have none.
fn sample(line: &str) -> ((String, BTreeMap<String, String>), f64) {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let labels = labels.strip_suffix('}').unwrap();
    let labels = labels.split(',').filter(|label| !label.is_empty());
    let labels = labels.map(|label| {
        let (name, value) = label.split_once('=').unwrap();
        (name.to_owned(), value.trim_matches('"').to_owned())
    });
    ((name.to_owned(), labels.collect()), value.parse().unwrap())
}
