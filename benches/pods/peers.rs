//! Peers of the pods, and the times that are taken with them.

use std::time::Duration;

use hdrhistogram::Histogram;
use trunkline::auth::{Secret, mint};
use trunkline::client::Client;
use trunkline::proto::PeerId;

use crate::Failure;
use crate::pods::{Pods, SECRET};

/// A date that no run reaches.
const VALID_UNTIL: u64 = 4_000_000_000;
/// What takes longer counts as that.
const LONGEST_US: u64 = 60_000_000;

pub(crate) fn id(name: &str) -> PeerId {
    PeerId::from_name(name.as_bytes())
}

/// A peer of this name on one of the pods.
pub(crate) async fn connect(pods: &Pods, pod: usize, name: &str) -> Result<Client, Failure> {
    let address = pods.address(pod).to_string();
    let token = mint(&Secret::new(SECRET), VALID_UNTIL);
    Ok(Client::connect(&address, "/relay", id(name), &token).await?)
}

/// How long something took each time.
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("the bounds are in order"))
    }

    pub(crate) fn add(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(us.max(1));
    }

    pub(crate) fn p99(&self) -> f64 {
        self.at(0.99)
    }

    /// In milliseconds.
    fn at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p50 {:.2}, p99 {:.2}, max {:.2} ms of {}",
            self.at(0.5),
            self.p99(),
            self.0.max() as f64 / 1e3,
            self.0.len()
        )
    }
}
