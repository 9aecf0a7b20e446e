//! Whether a local flow suffers when its sender asks for IDs that nobody owns.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use trunkline::client::{Client, Event};
use trunkline::proto::PeerId;

use crate::cost::spread;
use crate::peers::{Times, connect, id};
use crate::pods::Pods;
use crate::{Failure, Line};

/// Senders, each with a receiver of its own on the same pod.
const FLOWS: usize = 10;
const INTERVAL: Duration = Duration::from_millis(5);
/// Messages of each flow in each turn.
const MESSAGES: u32 = 200;
/// Many short ones: whatever else the machine does falls into few of them, and a median does not see it.
const TURNS: u32 = 15;
/// What has not come by then, after the last was sent, is lost.
const LIMIT: Duration = Duration::from_secs(2);

/// Whom a sender writes to just before each message of its flow.
#[derive(Clone, Copy)]
enum Beside {
    Nobody,
    /// Always the same peer, on another pod.
    Known,
    /// Each time an ID that nobody has.
    Unknown,
}

struct Flow {
    sender: Client,
    receiver: Client,
    name: String,
}

pub(crate) async fn lines(pods: &Pods) -> Result<Vec<Line>, Failure> {
    let _known = connect(pods, 1, "beside").await?;
    let mut flows = Vec::new();
    for number in 0..FLOWS {
        let name = format!("flow-{number}");
        let sender = connect(pods, 0, &format!("{name}-sender")).await?;
        let receiver = connect(pods, 0, &name).await?;
        flows.push(Flow {
            sender,
            receiver,
            name,
        });
    }
    let kinds = [Beside::Nobody, Beside::Known, Beside::Unknown];
    let mut p99s = kinds.map(|_| Vec::new());
    let mut lost = 0;
    for turn in 0..TURNS {
        for (kind, p99s) in kinds.into_iter().zip(&mut p99s) {
            let mut times = Times::new();
            let mut running = JoinSet::new();
            for flow in flows.drain(..) {
                running.spawn(run(flow, kind, turn));
            }
            for (flow, latencies) in running.join_all().await {
                lost += MESSAGES as usize - latencies.len();
                latencies.into_iter().for_each(|time| times.add(time));
                flows.push(flow);
            }
            p99s.push(times.p99());
        }
    }
    let [alone, known, unknown] = &p99s;
    let ratios: Vec<f64> = unknown.iter().zip(known).map(|(of, to)| of / to).collect();
    Ok(vec![Line {
        what: format!(
            "p99 of {FLOWS} local flows, {} messages a second each, in ms, whose senders also write as often to a peer on another pod; to IDs that nobody has; to nobody; {TURNS} turns",
            1_000 / INTERVAL.as_millis()
        ),
        figure: format!(
            "{}; {}; {}: {} times; {lost} lost",
            spread(known),
            spread(unknown),
            spread(alone),
            spread(&ratios)
        ),
        bar: "p99 unchanged",
    }])
}

async fn run(mut flow: Flow, kind: Beside, turn: u32) -> (Flow, Vec<Duration>) {
    let began = Instant::now();
    let to = id(&flow.name);
    let sender = flow.sender.sender();
    let beside = id("beside");
    let name = flow.name.clone();
    let sending = tokio::spawn(async move {
        let mut beat = interval(INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0..MESSAGES {
            beat.tick().await;
            let other: Option<PeerId> = match kind {
                Beside::Nobody => None,
                Beside::Known => Some(beside),
                Beside::Unknown => Some(id(&format!("{name}-{turn}-{number}"))),
            };
            if let Some(other) = other {
                let _ = sender.send(&other, &[0; 148]).await;
            }
            let at = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let mut payload = [0; 1280];
            payload[..8].copy_from_slice(&at.to_be_bytes());
            let _ = sender.send(&to, &payload).await;
        }
    });
    let mut latencies = Vec::new();
    let limit = began + INTERVAL * MESSAGES + LIMIT;
    while latencies.len() < MESSAGES as usize
        && let Ok(Event::Message { payload, .. }) = timeout_at(limit, flow.receiver.recv()).await
    {
        let sent = payload
            .first_chunk()
            .map_or(0, |at| u64::from_be_bytes(*at));
        latencies.push(began.elapsed().saturating_sub(Duration::from_nanos(sent)));
    }
    // It has ended by itself unless the pod has gone.
    sending.abort();
    (flow, latencies)
}
