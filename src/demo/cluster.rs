//! The play's last act: three pods on loopback and peers on all of them. One peer moves, one pod is drained, one is killed.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::pod::Pod;
use super::report::{Report, duration};
use super::scenes::{hop, lost, message, offline, online, round_trips, still_here, until};
use super::stage::{Stage, id, next, unexpected};
use super::{PAYLOAD, Unexpected};
use crate::client::{Client, CloseReason, Event};

/// The pause between two messages to a peer that moves.
const BEAT: Duration = Duration::from_millis(1);

/// All of it, and all pods are gone at its end.
pub(super) async fn play(stage: &Stage, report: &mut Report<impl Write>) -> Result<(), Unexpected> {
    let start = Instant::now();
    let listeners = [listener(0)?, listener(0)?, listener(0)?];
    let addresses = [
        address(&listeners[0])?,
        address(&listeners[1])?,
        address(&listeners[2])?,
    ];
    let pod = |listener: TcpListener| {
        Pod::start(stage, &listener, &addresses)
            .map_err(|error| Unexpected(format!("a pod did not start: {error}")))
    };
    let [one, two, three] = listeners;
    let (one, two, three) = (pod(one)?, pod(two)?, pod(three)?);
    linked([&one, &two, &three]).await?;
    report.ok(&format!(
        "pods 1, 2 and 3 started, and each had a stream to both others after {}",
        duration(start.elapsed())
    ));

    let mut erin = one.connect(stage, "erin").await?;
    let mut frank = two.connect(stage, "frank").await?;
    first_message(report, &erin, &mut frank).await?;
    round_trips(
        report,
        &mut erin,
        &mut frank,
        "erin - frank - erin, over two pods",
    )
    .await?;
    let grace = three.connect(stage, "grace").await?;
    watch(report, &mut erin).await?;

    let frank = move_over(stage, report, &mut erin, frank, &three).await?;
    let (frank, grace) = drain(
        stage,
        report,
        &mut erin,
        [frank, grace],
        three,
        [&one, &two],
    )
    .await?;

    let start = Instant::now();
    let three = pod(listener(addresses[2].port())?)?;
    linked([&one, &two, &three]).await?;
    let mut heidi = three.connect(stage, "heidi").await?;
    let subscribed = heidi.subscribe(&[id("frank")]).await;
    subscribed.map_err(|error| lost(&error))?;
    online(
        &mut heidi,
        id("frank"),
        "heidi is told that frank is online",
    )
    .await?;
    report.ok(&format!(
        "pod 3 started again, and after {} heidi was on it and knew that frank is online on pod 2",
        duration(start.elapsed())
    ));

    kill(report, two, frank, &mut erin, &mut heidi).await?;
    hop(&grace, &mut erin, b"all else goes on").await
}

/// A socket for the other pods.
fn listener(port: u16) -> Result<TcpListener, Unexpected> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map_err(|error| Unexpected(format!("a pod has no port for the others: {error}")))
}

fn address(listener: &TcpListener) -> Result<SocketAddr, Unexpected> {
    listener
        .local_addr()
        .map_err(|error| Unexpected(format!("a pod does not know its port: {error}")))
}

async fn linked(pods: [&Pod; 3]) -> Result<(), Unexpected> {
    until("each pod has a stream to both others", || {
        pods.iter().all(|pod| pod.pods() == pods.len() - 1)
    })
    .await
}

async fn first_message(
    report: &mut Report<impl Write>,
    erin: &Client,
    frank: &mut Client,
) -> Result<(), Unexpected> {
    let start = Instant::now();
    let payload: [u8; PAYLOAD] = rand::random();
    let sent = erin.send(frank.peer(), &payload).await;
    sent.map_err(|error| lost(&error))?;
    let expected = "frank on pod 2 hears from erin on pod 1";
    let (from, heard) = message(frank, expected).await?;
    if from != *erin.peer() || heard[..] != payload {
        return Err(Unexpected(format!("{expected}: the message was changed")));
    }
    report.ok(&format!(
        "erin connected to pod 1, frank to pod 2; the first message between them took {}",
        duration(start.elapsed())
    ));
    Ok(())
}

async fn watch(report: &mut Report<impl Write>, erin: &mut Client) -> Result<(), Unexpected> {
    let start = Instant::now();
    let mut missing = BTreeSet::from([id("frank"), id("grace")]);
    let watched: Vec<_> = missing.iter().copied().collect();
    let subscribed = erin.subscribe(&watched).await;
    subscribed.map_err(|error| lost(&error))?;
    let expected = "erin is told that frank and grace are online";
    while !missing.is_empty() {
        match next(erin, expected).await? {
            Event::Online(ids) => missing.retain(|peer| !ids.contains(peer)),
            other => return Err(unexpected(expected, &other)),
        }
    }
    report.ok(&format!(
        "erin subscribed to frank on pod 2 and grace on pod 3, and was told within {} that they are online",
        duration(start.elapsed())
    ));
    Ok(())
}

/// A peer connects to another pod while somebody sends to it. Returns the newer connection.
async fn move_over(
    stage: &Stage,
    report: &mut Report<impl Write>,
    erin: &mut Client,
    mut older: Client,
    to: &Pod,
) -> Result<Client, Unexpected> {
    let mut newer = to.connect(stage, "frank").await?;
    let start = Instant::now();
    let mut sent = 0_u32;
    let expected = "messages to frank arrive on the pod that he moved to";
    let mut heard = Vec::new();
    let followed = loop {
        let passed = erin.send(newer.peer(), &sent.to_be_bytes()).await;
        passed.map_err(|error| lost(&error))?;
        sent += 1;
        match timeout(BEAT, newer.recv()).await {
            Ok(Event::Message { payload, .. }) => {
                heard.push(payload);
                break duration(start.elapsed());
            }
            Ok(other) => return Err(unexpected(expected, &other)),
            Err(_) if start.elapsed() > super::PATIENCE => {
                return Err(Unexpected(format!("{expected}: nothing came")));
            }
            Err(_) => {}
        }
    };
    while heard
        .last()
        .is_none_or(|last| last[..] != (sent - 1).to_be_bytes())
    {
        heard.push(message(&mut newer, expected).await?.1);
    }
    let expected = "frank's older connection is closed";
    loop {
        match next(&mut older, expected).await? {
            Event::Message { payload, .. } => heard.push(payload),
            Event::Closed(CloseReason::Lost) => break,
            other => return Err(unexpected(expected, &other)),
        }
    }
    let arrived = heard.len();
    if heard.into_iter().collect::<BTreeSet<_>>().len() != arrived {
        return Err(Unexpected(
            "a message to a peer that moves was delivered twice".to_owned(),
        ));
    }
    let expected = "erin hears from frank on pod 3, and not that he went offline";
    still_here(&newer, erin, expected).await?;
    report.ok(&format!(
        "frank moved to pod 3: erin's messages followed within {followed}, none came twice, frank never went offline"
    ));
    Ok(newer)
}

/// A pod ends as in a rolling restart; its peers connect to the pods that are left.
async fn drain(
    stage: &Stage,
    report: &mut Report<impl Write>,
    erin: &mut Client,
    peers: [Client; 2],
    pod: Pod,
    [one, two]: [&Pod; 2],
) -> Result<(Client, Client), Unexpected> {
    let start = Instant::now();
    let again = async {
        for mut peer in peers {
            let expected = "a peer of the pod that is drained is told that it closes";
            loop {
                match next(&mut peer, expected).await? {
                    // What was sent while frank moved, and took a second hop, may come as late as this.
                    Event::Message { .. } => {}
                    Event::Closed(CloseReason::ByRelay) => break,
                    other => return Err(unexpected(expected, &other)),
                }
            }
        }
        let frank = two.connect(stage, "frank").await?;
        Ok((frank, one.connect(stage, "grace").await?))
    };
    let ((), (frank, grace)) = tokio::try_join!(pod.drain(), again)?;
    let took = duration(start.elapsed());
    for peer in [&frank, &grace] {
        let expected = "erin hears from a peer of the drained pod, and not that it went offline";
        still_here(peer, erin, expected).await?;
    }
    report.ok(&format!(
        "pod 3 was drained: frank and grace were told, and on other pods after {took}; erin saw neither go offline"
    ));
    Ok((frank, grace))
}

/// A pod ends without a word.
async fn kill(
    report: &mut Report<impl Write>,
    pod: Pod,
    mut frank: Client,
    erin: &mut Client,
    heidi: &mut Client,
) -> Result<(), Unexpected> {
    let start = Instant::now();
    pod.kill();
    let expected = "frank's connection ends with his pod";
    match next(&mut frank, expected).await? {
        Event::Closed(CloseReason::Lost) => {}
        other => return Err(unexpected(expected, &other)),
    }
    hop(erin, heidi, b"while pod 2 is gone").await?;
    let told = async |watcher: &mut Client| {
        // Nobody else: not those who came from the pod that was drained.
        offline(watcher, id("frank"), "on pods 1 and 3 frank is offline").await?;
        Ok(duration(start.elapsed()))
    };
    let (on_one, on_three) = tokio::try_join!(told(erin), told(heidi))?;
    report.ok(&format!(
        "pod 2 was killed: erin on pod 1 and heidi on pod 3 still met, and were told after {on_one} and {on_three} that frank is offline"
    ));
    Ok(())
}
