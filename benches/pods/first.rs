//! The first message that a connection sends to a peer on another pod.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep, timeout};
use trunkline::client::{Client, Event};

use crate::peers::{Times, connect, id};
use crate::pods::Pods;
use crate::{Failure, Line};

/// Peers that are there when the sender comes, and that come when it is there.
const PEERS: usize = 1_000;
const AT_A_TIME: usize = 32;
/// From the last connection to the first message.
const CALM: Duration = Duration::from_secs(1);
/// Between two messages: each finds idle pods.
const PAUSE: Duration = Duration::from_millis(3);
/// What has not come by then is lost.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) async fn lines(pods: &Pods) -> Result<Vec<Line>, Failure> {
    let receivers = stream::iter(0..PEERS).map(async |number| {
        let name = format!("there-{number}");
        connect(pods, 1, &name).await.map(|client| (name, client))
    });
    let receivers: Vec<_> = receivers.buffered(AT_A_TIME).try_collect().await?;
    let sender = connect(pods, 0, "first-sender").await?;
    sleep(CALM).await;
    let mut there = Times::new();
    let mut second = Times::new();
    for (name, mut receiver) in receivers {
        there.add(message(&sender, &name, &mut receiver).await?);
        sleep(PAUSE).await;
        second.add(message(&sender, &name, &mut receiver).await?);
        sleep(PAUSE).await;
    }
    let mut just_come = Times::new();
    for number in 0..PEERS {
        let name = format!("just-come-{number}");
        let mut receiver = connect(pods, 1, &name).await?;
        just_come.add(message(&sender, &name, &mut receiver).await?);
        sleep(PAUSE).await;
    }
    let line = |what: &str, times: &Times, bar| Line {
        what: what.to_owned(),
        figure: times.to_string(),
        bar,
    };
    Ok(vec![
        line(
            "first message to a peer on another pod",
            &there,
            "p99 at most 2 ms",
        ),
        line(
            "first message, just after it has connected",
            &just_come,
            "p99 at most 2 ms",
        ),
        line("second message, for comparison", &second, ""),
    ])
}

async fn message(sender: &Client, name: &str, receiver: &mut Client) -> Result<Duration, Failure> {
    let began = Instant::now();
    sender.send(&id(name), b"message").await?;
    match timeout(LIMIT, receiver.recv()).await? {
        Event::Message { .. } => Ok(began.elapsed()),
        other => Err(format!("{name} got no message but {other:?}").into()),
    }
}
