//! Pairs of peers that send as fast as their windows allow.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::stage::{Stage, unexpected};
use super::{PATIENCE, PAYLOAD, Unexpected};
use crate::client::{Client, Event};

/// Messages that each pair keeps in flight. Less than the relay's queue of one peer holds, so that none is dropped.
const WINDOW: usize = 128;

/// What the pairs did.
pub(super) struct Traffic {
    pub(super) messages: u64,
    pub(super) took: Duration,
}

/// Lets so many pairs send for `time`. Every message is checked for its order.
pub(super) async fn run(
    stage: &Stage,
    pairs: usize,
    time: Duration,
) -> Result<Traffic, Unexpected> {
    let mut connected = Vec::with_capacity(pairs);
    for pair in 1..=pairs {
        let receiver = format!("receiver {pair}");
        let sender = stage.connect(&format!("sender {pair}")).await?;
        connected.push((sender, stage.connect(&receiver).await?));
    }
    let mut working = JoinSet::new();
    let start = Instant::now();
    for (sender, receiver) in connected {
        working.spawn(timeout(
            time + PATIENCE,
            relay_through(sender, receiver, start + time),
        ));
    }
    let mut messages = 0;
    while let Some(ended) = working.join_next().await {
        let pair = ended.map_err(|_| Unexpected("a pair of peers failed".to_owned()))?;
        messages += pair.map_err(|_| Unexpected("a pair of peers lost messages".to_owned()))??;
    }
    Ok(Traffic {
        messages,
        took: start.elapsed(),
    })
}

/// One pair, until `deadline` and the last message's arrival. Returns the number of messages, all of which have arrived.
async fn relay_through(
    sender: Client,
    mut receiver: Client,
    deadline: Instant,
) -> Result<u64, Unexpected> {
    let window = Semaphore::new(WINDOW);
    let to = *receiver.peer();
    let sending = async {
        let mut payload = [0; PAYLOAD];
        for number in 0_u64.. {
            window
                .acquire()
                .await
                .expect("the window is never closed")
                .forget();
            let last = Instant::now() >= deadline;
            payload[..8].copy_from_slice(&number.to_be_bytes());
            payload[8] = u8::from(last);
            sender
                .send(&to, &payload)
                .await
                .map_err(|error| Unexpected(format!("a sender could not send: {error}")))?;
            if last {
                break;
            }
        }
        Ok(())
    };
    let from = *sender.peer();
    let receiving = async {
        let mut number = 0_u64;
        loop {
            let expected = "the next message of a pair";
            match receiver.recv().await {
                Event::Message { from: by, payload }
                    if by == from
                        && payload.len() == PAYLOAD
                        && payload[..8] == number.to_be_bytes() =>
                {
                    number += 1;
                    window.add_permits(1);
                    if payload[8] == 1 {
                        return Ok(number);
                    }
                }
                other => return Err(unexpected(expected, &other)),
            }
        }
    };
    let ((), messages) = tokio::try_join!(sending, receiving)?;
    sender.close().await;
    receiver.close().await;
    Ok(messages)
}
