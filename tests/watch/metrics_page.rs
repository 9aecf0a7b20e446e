//! `docs/metrics.md`: what running relays show, with the values of labels that have few.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// Labels whose values are the relay's own words, and few.
const LISTED: [&str; 8] = [
    "direction",
    "reason",
    "result",
    "scope",
    "signal",
    "stage",
    "transport",
    "type",
];

const HEAD: &str = "# Metrics

<!-- Made from what relays show: `TRUNKLINE_WRITE_DOCS=1 cargo test --test watch each_metric` writes it anew. -->

All of `/metrics`. Names, types and labels stay; further values of labels may come. Histograms have `_bucket`, `_sum` and `_count`. Some values of
labels are shown only when they have happened once. What the names that other relays have, too, mean there: [operations](spec/operations.md).

";

/// A metric, as Prometheus reads it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// What relays have shown so far.
#[derive(Debug, Default)]
pub(crate) struct Shown(BTreeMap<String, Metric>);

impl Shown {
    /// Takes in the text of one `/metrics`.
    pub(crate) fn read(&mut self, text: &str) {
        let mut current = String::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                name.clone_into(&mut current);
                help.clone_into(&mut self.0.entry(current.clone()).or_default().help);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let kind = kind.rsplit_once(' ').unwrap().1;
                kind.clone_into(&mut self.0.get_mut(&current).unwrap().kind);
            } else if let Some((_, labels)) = line.split_once('{') {
                let metric = self.0.get_mut(&current).unwrap();
                let labels = labels.rsplit_once('}').unwrap().0;
                for (label, value) in labels.split(',').filter_map(|one| one.split_once('=')) {
                    // The bounds of a histogram are no label of it.
                    if label == "le" {
                        continue;
                    }
                    let values = metric.labels.entry(label.to_owned()).or_default();
                    if LISTED.contains(&label) {
                        values.insert(value.trim_matches('"').to_owned());
                    }
                }
            }
        }
    }

    fn page(&self) -> String {
        let mut page =
            format!("{HEAD}| metric | type | labels | what it is |\n|---|---|---|---|\n");
        for (name, metric) in &self.0 {
            let labels: Vec<String> = metric
                .labels
                .iter()
                .map(|(label, values)| {
                    let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
                    let colon = if values.is_empty() { "" } else { ": " };
                    format!("`{label}`{colon}{}", values.join(", "))
                })
                .collect();
            // Writing to a string cannot fail.
            let _ = writeln!(
                page,
                "| `{name}` | {} | {} | {} |",
                metric.kind,
                labels.join("; "),
                metric.help
            );
        }
        page
    }

    /// Reads a page back.
    fn of_page(page: &str) -> Self {
        let mut shown = Self::default();
        for line in page.lines() {
            let cells: Vec<_> = line.split(" | ").collect();
            let [name, kind, labels, help] = cells[..] else {
                continue;
            };
            let Some(name) = name.strip_prefix("| `") else {
                continue;
            };
            let mut metric = Metric {
                kind: kind.to_owned(),
                help: help.trim_end_matches(" |").to_owned(),
                ..Metric::default()
            };
            for label in labels.split("; ").filter(|label| !label.is_empty()) {
                let (label, values) = label.split_once(": ").unwrap_or((label, ""));
                let values = values.split(", ").filter(|value| !value.is_empty());
                let values = values
                    .map(|value| value.trim_matches('`').to_owned())
                    .collect();
                metric
                    .labels
                    .insert(label.trim_matches('`').to_owned(), values);
            }
            shown
                .0
                .insert(name.trim_end_matches('`').to_owned(), metric);
        }
        shown
    }

    /// Whether the page says what was shown. Its values of labels are not compared: not all happen in a test.
    pub(crate) fn compare(mut self) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        let written = Self::of_page(&fs::read_to_string(&file).unwrap_or_default());
        for (name, metric) in &written.0 {
            let Some(shown) = self.0.get_mut(name) else {
                continue;
            };
            for (label, values) in &mut shown.labels {
                let known = metric.labels.get(label).into_iter().flatten();
                values.extend(known.cloned());
            }
        }
        if env::var_os("TRUNKLINE_WRITE_DOCS").is_some() {
            fs::write(&file, self.page()).unwrap();
            return;
        }
        let how = "TRUNKLINE_WRITE_DOCS=1 cargo test --test watch each_metric writes docs/metrics.md anew";
        let names = |shown: &Self| shown.0.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&written), names(&self), "{how}");
        for (name, metric) in &self.0 {
            let page = &written.0[name];
            assert_eq!(
                (&page.kind, &page.help),
                (&metric.kind, &metric.help),
                "{name}: {how}"
            );
            assert!(page.labels.keys().eq(metric.labels.keys()), "{name}: {how}");
        }
    }
}
