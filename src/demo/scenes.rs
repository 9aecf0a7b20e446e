//! The play: what the peers do, what must come of it, and what is said about it.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::report::{Report, duration, grouped};
use super::stage::{Stage, id, next, unexpected};
use super::{PATIENCE, PAYLOAD, Unexpected, cluster, traffic};
use crate::client::{Client, ClientError, CloseReason, Event};
use crate::proto::PeerId;
use crate::proto::peer::MessageType;
use crate::telemetry::counters::DropReason;

/// The most round trips that are timed, and how long at most.
const ROUND_TRIPS: usize = 1_000;
const ROUND_TRIPS_TIME: Duration = Duration::from_secs(1);

/// The pairs of the traffic, and how long they send.
const PAIRS: usize = 4;
const TRAFFIC_TIME: Duration = Duration::from_secs(2);

/// Everything but the end.
pub(super) async fn play(stage: &Stage, report: &mut Report<impl Write>) -> Result<(), Unexpected> {
    report.say("Connecting");
    let mut alice = connect(stage, report, "alice").await?;
    let mut bob = connect(stage, report, "bob").await?;
    refuse(stage, report).await?;

    report.say("\nPresence");
    watch(stage, report, &mut alice).await?;

    report.say("\nMessages");
    exchange(report, &mut alice, &mut bob).await?;
    round_trips(report, &mut alice, &mut bob, "alice - bob - alice").await?;
    pairs(stage, report).await?;
    to_nobody(stage, report, &alice).await?;

    report.say("\nComing and going");
    let newer = take_over(stage, report, &mut alice, bob).await?;
    go_offline(report, &mut alice, newer).await?;
    alice.close().await;
    account(stage, report).await?;

    report.say("\nThree pods that act as one relay");
    cluster::play(stage, report).await
}

async fn connect(
    stage: &Stage,
    report: &mut Report<impl Write>,
    name: &str,
) -> Result<Client, Unexpected> {
    let start = Instant::now();
    let client = stage.connect(name).await?;
    let took = duration(start.elapsed());
    if !stage.relay().peers().contains(client.peer()) {
        return Err(Unexpected(format!(
            "{name} was answered before being reachable"
        )));
    }
    let url = client.instance_url();
    if url != stage.relay().instance_url().as_str() {
        return Err(Unexpected(format!(
            "{name} was told a wrong address: {url}"
        )));
    }
    report.ok(&format!(
        "{name} connected in {took} and is {}",
        client.peer()
    ));
    Ok(client)
}

async fn refuse(stage: &Stage, report: &mut Report<impl Write>) -> Result<(), Unexpected> {
    for (token, what) in [
        (stage.forged_token(), "signed with another secret"),
        (stage.expired_token(), "that expired a minute ago"),
    ] {
        match stage.connect_with("mallory", &token).await {
            Err(ClientError::Refused) => report.ok(&format!(
                "mallory was refused: a token {what} gets no answer"
            )),
            Err(error) => {
                return Err(Unexpected(format!(
                    "mallory with a token {what} failed otherwise: {error}"
                )));
            }
            Ok(_) => {
                return Err(Unexpected(format!(
                    "mallory was let in with a token {what}"
                )));
            }
        }
    }
    Ok(())
}

async fn watch(
    stage: &Stage,
    report: &mut Report<impl Write>,
    alice: &mut Client,
) -> Result<(), Unexpected> {
    let ids = [id("bob"), id("carol")];
    alice.subscribe(&ids).await.map_err(|error| lost(&error))?;
    online(alice, ids[0], "alice is told that bob is online").await?;
    report.ok("alice subscribed to bob and carol, and was told at once that bob is online");
    let start = Instant::now();
    let carol = stage.connect("carol").await?;
    online(alice, ids[1], "alice is told that carol came").await?;
    report.ok(&format!(
        "carol connected; alice was told within {}",
        duration(start.elapsed())
    ));
    carol.close().await;
    offline(alice, ids[1], "alice is told that carol went").await?;
    report.ok("carol left; alice was told");
    Ok(())
}

async fn exchange(
    report: &mut Report<impl Write>,
    alice: &mut Client,
    bob: &mut Client,
) -> Result<(), Unexpected> {
    let payload: [u8; PAYLOAD] = rand::random();
    alice
        .send(bob.peer(), &payload)
        .await
        .map_err(|error| lost(&error))?;
    let expected = "bob hears from alice";
    let (from, heard) = message(bob, expected).await?;
    if from != *alice.peer() || heard[..] != payload {
        return Err(Unexpected(format!("{expected}: the message was changed")));
    }
    report.ok(&format!(
        "{PAYLOAD} random bytes went from alice to bob unchanged, marked as from alice"
    ));
    Ok(())
}

/// Times round trips between two peers; `way` says whose.
pub(super) async fn round_trips(
    report: &mut Report<impl Write>,
    alice: &mut Client,
    bob: &mut Client,
    way: &str,
) -> Result<(), Unexpected> {
    let payload = [7; PAYLOAD];
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    let began = Instant::now();
    while times.len() < ROUND_TRIPS && (times.is_empty() || began.elapsed() < ROUND_TRIPS_TIME) {
        let start = Instant::now();
        hop(alice, bob, &payload).await?;
        hop(bob, alice, &payload).await?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| duration(times[(times.len() - 1) * share / 100]);
    report.ok(&format!(
        "{} round trips {way}: min {}, median {}, p99 {}",
        grouped(times.len() as u64),
        at(0),
        at(50),
        at(99)
    ));
    Ok(())
}

pub(super) async fn hop(from: &Client, to: &mut Client, payload: &[u8]) -> Result<(), Unexpected> {
    from.send(to.peer(), payload)
        .await
        .map_err(|error| lost(&error))?;
    message(to, "a message on its round trip").await?;
    Ok(())
}

async fn pairs(stage: &Stage, report: &mut Report<impl Write>) -> Result<(), Unexpected> {
    let traffic = traffic::run(stage, PAIRS, TRAFFIC_TIME).await?;
    let seconds = traffic.took.as_secs_f64();
    let messages = traffic.messages as f64 / seconds;
    report.ok(&format!(
        "{PAIRS} pairs sent for {seconds:.1} s: {} messages, {} a second, {:.1} MB a second, all in order, none lost",
        grouped(traffic.messages),
        grouped(messages as u64),
        messages * PAYLOAD as f64 / 1e6
    ));
    report.say("          (relay and peers share this machine and this process: `trunkline load` measures a relay by itself)");
    Ok(())
}

async fn to_nobody(
    stage: &Stage,
    report: &mut Report<impl Write>,
    alice: &Client,
) -> Result<(), Unexpected> {
    let counters = stage.relay().counters();
    let before = counters.dropped_count(DropReason::NoSuchPeer);
    alice
        .send(&id("nobody"), b"is anybody there?")
        .await
        .map_err(|error| lost(&error))?;
    until("a message for nobody is counted as dropped", || {
        counters.dropped_count(DropReason::NoSuchPeer) == before + 1
    })
    .await?;
    report.ok("a message to a peer that is not there was dropped, and counted as no_such_peer");
    Ok(())
}

async fn take_over(
    stage: &Stage,
    report: &mut Report<impl Write>,
    alice: &mut Client,
    mut older: Client,
) -> Result<Client, Unexpected> {
    let newer = stage.connect("bob").await?;
    let expected = "bob's older connection is closed";
    match next(&mut older, expected).await? {
        Event::Closed(CloseReason::Lost) => {}
        other => return Err(unexpected(expected, &other)),
    }
    let expected = "alice hears from bob's newer connection, and not that bob went offline";
    still_here(&newer, alice, expected).await?;
    report.ok("bob connected again: the newer connection took over, the older was closed, bob never went offline");
    Ok(newer)
}

/// A peer that was online all the time, for all that another knows, sends to it.
pub(super) async fn still_here(
    from: &Client,
    to: &mut Client,
    expected: &str,
) -> Result<(), Unexpected> {
    from.send(to.peer(), b"still here")
        .await
        .map_err(|error| lost(&error))?;
    loop {
        match next(to, expected).await? {
            Event::Message { from: by, .. } if by == *from.peer() => return Ok(()),
            // The subscription to a peer that was online already is good for one such notice.
            Event::Online(_) => {}
            other => return Err(unexpected(expected, &other)),
        }
    }
}

async fn go_offline(
    report: &mut Report<impl Write>,
    alice: &mut Client,
    bob: Client,
) -> Result<(), Unexpected> {
    let start = Instant::now();
    // Without a word, as when a laptop's lid is shut on a live connection.
    drop(bob);
    offline(alice, id("bob"), "alice is told that bob is gone").await?;
    report.ok(&format!(
        "bob's connection broke off; alice was told within {}",
        duration(start.elapsed())
    ));
    Ok(())
}

/// What the relay received is what it delivered and what it dropped.
async fn account(stage: &Stage, report: &mut Report<impl Write>) -> Result<(), Unexpected> {
    let counters = stage.relay().counters();
    let sums = || {
        let dropped: u64 = DropReason::ALL
            .into_iter()
            .filter(|reason| reason.is_transport())
            .map(|reason| counters.dropped_count(reason))
            .sum();
        (
            counters.received_count(MessageType::Transport),
            counters.sent_count(MessageType::Transport),
            dropped,
        )
    };
    until("the relay's counters add up", || {
        let (received, delivered, dropped) = sums();
        stage.relay().peers().is_empty() && received == delivered + dropped
    })
    .await?;
    let (received, delivered, dropped) = sums();
    report.ok(&format!(
        "the relay's account: {} messages received = {} delivered + {} dropped",
        grouped(received),
        grouped(delivered),
        grouped(dropped)
    ));
    if dropped != 1 {
        return Err(Unexpected(format!(
            "only the message to nobody is dropped: instead {dropped} were"
        )));
    }
    Ok(())
}

/// The end: the relay stops, and tells its peers.
pub(super) async fn shutdown(
    stage: Stage,
    report: &mut Report<impl Write>,
) -> Result<(), Unexpected> {
    report.say("\nShutdown");
    let mut dave = stage.connect("dave").await?;
    let start = Instant::now();
    stage.take_down().await?;
    let expected = "dave is told that the relay closes";
    match next(&mut dave, expected).await? {
        Event::Closed(CloseReason::ByRelay) => {}
        other => return Err(unexpected(expected, &other)),
    }
    report.ok(&format!(
        "the relay told dave to close and was gone in {}",
        duration(start.elapsed())
    ));
    Ok(())
}

pub(super) fn lost(error: &ClientError) -> Unexpected {
    Unexpected(format!("a peer could not send: {error}"))
}

pub(super) async fn message(
    client: &mut Client,
    expected: &str,
) -> Result<(PeerId, Bytes), Unexpected> {
    match next(client, expected).await? {
        Event::Message { from, payload } => Ok((from, payload)),
        other => Err(unexpected(expected, &other)),
    }
}

pub(super) async fn online(
    client: &mut Client,
    peer: PeerId,
    expected: &str,
) -> Result<(), Unexpected> {
    match next(client, expected).await? {
        Event::Online(ids) if ids == [peer] => Ok(()),
        other => Err(unexpected(expected, &other)),
    }
}

pub(super) async fn offline(
    client: &mut Client,
    peer: PeerId,
    expected: &str,
) -> Result<(), Unexpected> {
    match next(client, expected).await? {
        Event::Offline(ids) if ids == [peer] => Ok(()),
        other => Err(unexpected(expected, &other)),
    }
}

/// Waits for something that nobody tells of.
pub(super) async fn until(
    expected: &str,
    mut happened: impl FnMut() -> bool,
) -> Result<(), Unexpected> {
    let start = Instant::now();
    while !happened() {
        if start.elapsed() > PATIENCE {
            return Err(Unexpected(format!("{expected}: it did not happen")));
        }
        sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
