//! How soon traffic follows a peer that moves from pod to pod.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use trunkline::client::{Client, Event};

use crate::peers::{Times, connect, id};
use crate::pods::Pods;
use crate::{Failure, Line};

const MOVES: usize = 200;
const STAY: Duration = Duration::from_millis(60);
/// Between two messages to the peer.
const INTERVAL: Duration = Duration::from_millis(1);
/// From the last message to the count.
const QUIET: Duration = Duration::from_secs(2);

/// A message that came: its number, over which connection, and when.
type Came = (u64, usize, Instant);

pub(crate) async fn lines(pods: &Pods) -> Result<Vec<Line>, Failure> {
    let sender = connect(pods, 2, "move-sender").await?;
    let (tell, mut told) = mpsc::unbounded_channel::<Came>();
    let mut began = Vec::new();
    let hear = |connection: usize, mut client: Client| {
        let tell = tell.clone();
        tokio::spawn(async move {
            while let Event::Message { payload, .. } = client.recv().await {
                let number = payload
                    .first_chunk()
                    .map_or(0, |bytes| u64::from_be_bytes(*bytes));
                let _ = tell.send((number, connection, Instant::now()));
            }
        })
    };
    began.push(Instant::now());
    hear(0, connect(pods, 0, "mover").await?);
    let sending = tokio::spawn(async move {
        let mut beat = interval(INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0_u64.. {
            beat.tick().await;
            if sender
                .send(&id("mover"), &number.to_be_bytes())
                .await
                .is_err()
            {
                return;
            }
        }
    });
    for connection in 1..=MOVES {
        sleep(STAY).await;
        began.push(Instant::now());
        hear(connection, connect(pods, connection % 2, "mover").await?);
    }
    sleep(STAY).await;
    sending.abort();
    sleep(QUIET).await;

    let mut seen: HashMap<u64, u32> = HashMap::new();
    let mut first: HashMap<usize, Instant> = HashMap::new();
    while let Ok((number, connection, at)) = told.try_recv() {
        *seen.entry(number).or_default() += 1;
        first.entry(connection).or_insert(at);
    }
    let mut times = Times::new();
    let mut never = 0;
    for (connection, began) in began.iter().enumerate().skip(1) {
        match first.get(&connection) {
            Some(at) => times.add(*at - *began),
            None => never += 1,
        }
    }
    let twice = seen.values().filter(|&&times| times > 1).count();
    let sent = seen.keys().max().map_or(0, |last| last + 1);
    Ok(vec![Line {
        what: format!(
            "a peer moves {MOVES} times while a third pod sends to it each {} ms: from before it connects to its first message",
            INTERVAL.as_millis()
        ),
        figure: format!(
            "{times}; {never} times none came; {twice} messages came twice, {} of {sent} were lost",
            sent - seen.len() as u64
        ),
        bar: "at most 50 ms, nothing twice",
    }])
}
