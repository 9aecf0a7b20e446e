//! Who is told when a peer comes and goes (peer-protocol.md, *Peer state*).

use trunkline::telemetry::counters::DropReason;

use crate::support::{MemoryClient, RawClient, TestRelay, close, ids, peer, transport};

const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 9;
const ONLINE: u8 = 10;
const OFFLINE: u8 = 11;

/// Connects, and closes gracefully: both have happened when this returns.
async fn come_and_go(relay: &TestRelay, name: &str) {
    let mut client = RawClient::connected(relay, name).await;
    client.send(&close()).await;
    client.ends_silently().await;
}

#[tokio::test]
async fn online_is_told_once_a_subscription_and_offline_every_time() {
    let relay = TestRelay::start();
    let (w, x) = (peer("w"), peer("x"));
    let mut watcher = RawClient::connected(&relay, "w").await;
    watcher.send(&ids(SUBSCRIBE, &[x])).await;
    assert!(watcher.sync(&w).await.is_empty(), "nobody is online");
    come_and_go(&relay, "x").await;
    assert_eq!(
        watcher.sync(&w).await,
        [ids(ONLINE, &[x]), ids(OFFLINE, &[x])]
    );
    // The online notice is used up.
    come_and_go(&relay, "x").await;
    come_and_go(&relay, "x").await;
    assert_eq!(
        watcher.sync(&w).await,
        [ids(OFFLINE, &[x]), ids(OFFLINE, &[x])]
    );
    // A new subscription arms it again.
    watcher.send(&ids(SUBSCRIBE, &[x])).await;
    assert!(watcher.sync(&w).await.is_empty());
    come_and_go(&relay, "x").await;
    assert_eq!(
        watcher.sync(&w).await,
        [ids(ONLINE, &[x]), ids(OFFLINE, &[x])]
    );
    watcher.send(&ids(UNSUBSCRIBE, &[x])).await;
    assert!(watcher.sync(&w).await.is_empty());
    come_and_go(&relay, "x").await;
    assert!(watcher.sync(&w).await.is_empty());
}

#[tokio::test]
async fn who_was_online_when_subscribed_to_is_told_of_once_more() {
    let relay = TestRelay::start();
    let (w, x) = (peer("w"), peer("x"));
    let mut watcher = RawClient::connected(&relay, "w").await;
    let mut client = RawClient::connected(&relay, "x").await;
    watcher.send(&ids(SUBSCRIBE, &[x])).await;
    assert_eq!(watcher.sync(&w).await, [ids(ONLINE, &[x])]);
    client.send(&close()).await;
    client.ends_silently().await;
    assert_eq!(watcher.sync(&w).await, [ids(OFFLINE, &[x])]);
    come_and_go(&relay, "x").await;
    assert_eq!(
        watcher.sync(&w).await,
        [ids(ONLINE, &[x]), ids(OFFLINE, &[x])]
    );
    come_and_go(&relay, "x").await;
    assert_eq!(watcher.sync(&w).await, [ids(OFFLINE, &[x])]);
}

#[tokio::test]
async fn the_answer_to_a_subscription_lists_who_is_online_and_nobody_else() {
    let relay = TestRelay::start();
    let mut watcher = RawClient::connected(&relay, "w").await;
    let _b = RawClient::connected(&relay, "b").await;
    let _d = RawClient::connected(&relay, "d").await;
    let all = ["a", "b", "c", "d", "e"].map(peer);
    watcher.send(&ids(SUBSCRIBE, &all)).await;
    assert_eq!(watcher.message().await, ids(ONLINE, &[all[1], all[3]]));
    // Whatever ends a connection is told: here a reset.
    RawClient::connected(&relay, "c").await.reset();
    assert_eq!(watcher.message().await, ids(ONLINE, &[all[2]]));
    assert_eq!(watcher.message().await, ids(OFFLINE, &[all[2]]));
    assert!(watcher.sync(&peer("w")).await.is_empty());
}

#[tokio::test]
async fn every_watcher_is_told_and_no_other() {
    let relay = TestRelay::start();
    let x = peer("x");
    let mut watchers = Vec::new();
    for number in 0..20 {
        let name = format!("w{number}");
        let mut watcher = RawClient::connected(&relay, &name).await;
        let watched = if number % 2 == 0 { x } else { peer("other") };
        watcher.send(&ids(SUBSCRIBE, &[watched])).await;
        assert!(watcher.sync(&peer(&name)).await.is_empty());
        watchers.push((name, watcher));
    }
    come_and_go(&relay, "x").await;
    for (number, (name, watcher)) in watchers.iter_mut().enumerate() {
        let told = watcher.sync(&peer(name)).await;
        if number % 2 == 0 {
            assert_eq!(told, [ids(ONLINE, &[x]), ids(OFFLINE, &[x])], "{name}");
        } else {
            assert!(told.is_empty(), "{name}");
        }
    }
}

#[tokio::test]
async fn subscriptions_end_with_the_connection() {
    let relay = TestRelay::start();
    let (w, x) = (peer("w"), peer("x"));
    let mut watcher = RawClient::connected(&relay, "w").await;
    watcher.send(&ids(SUBSCRIBE, &[x])).await;
    watcher.send(&close()).await;
    watcher.ends_silently().await;
    let mut watcher = RawClient::connected(&relay, "w").await;
    come_and_go(&relay, "x").await;
    assert!(watcher.sync(&w).await.is_empty());
}

#[tokio::test]
async fn subscriptions_beyond_the_limit_are_refused_and_counted() {
    let relay = TestRelay::with(|builder| builder.max_subscriptions(3));
    let w = peer("w");
    let all: Vec<_> = (0..5).map(|n| peer(&format!("x{n}"))).collect();
    let mut watcher = RawClient::connected(&relay, "w").await;
    watcher.send(&ids(SUBSCRIBE, &all)).await;
    // Those it has count once, however often it asks.
    watcher.send(&ids(SUBSCRIBE, &all[..3])).await;
    assert!(watcher.sync(&w).await.is_empty());
    assert_eq!(relay.dropped(DropReason::SubscriptionLimit), 2);
    come_and_go(&relay, "x4").await;
    assert!(watcher.sync(&w).await.is_empty());
    watcher.send(&ids(UNSUBSCRIBE, &all[..1])).await;
    watcher.send(&ids(SUBSCRIBE, &all[4..])).await;
    assert!(watcher.sync(&w).await.is_empty());
    come_and_go(&relay, "x4").await;
    assert_eq!(watcher.sync(&w).await.len(), 2);
    relay.conserved().await;
}

/// As fast as the machine can, and many more changes than 1,000: each watcher subscribes anew when it hears *offline*, so the last
/// notice it holds must be the truth for every ID.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_notice_is_the_truth_after_thousands_of_changes() {
    const IDS: usize = 8;
    const CHANGES: usize = 400;
    // Half of them wait for their end before they come back, the others run into it.
    let waits = |number: usize| number < IDS / 2;
    let relay = TestRelay::start();
    let all: Vec<_> = (0..IDS).map(|n| peer(&format!("x{n}"))).collect();
    let mut watchers = Vec::new();
    for number in 0..4 {
        let name = format!("w{number}");
        let mut watcher = RawClient::connected(&relay, &name).await;
        watcher.send(&ids(SUBSCRIBE, &all)).await;
        watcher.sync(&peer(&name)).await;
        watchers.push((name, watcher));
    }
    let mut togglers = Vec::new();
    for number in 0..IDS {
        let handle = relay.relay.clone();
        togglers.push(tokio::spawn(async move {
            let name = format!("x{number}");
            let mut ending = Vec::new();
            for turn in 0..CHANGES / 2 {
                let client = MemoryClient::connect(&handle, &name).await;
                if turn % 3 == 0 {
                    assert!(client.end.send(close()).await);
                }
                drop(client.end);
                if waits(number) {
                    client.connection.await.unwrap().unwrap();
                } else {
                    ending.push(client.connection);
                }
            }
            for connection in ending {
                connection.await.unwrap().unwrap();
            }
            // Every other one stays.
            match number % 2 {
                0 => Some(MemoryClient::connect(&handle, &name).await),
                _ => None,
            }
        }));
    }
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut watching = Vec::new();
    for (name, mut watcher) in watchers {
        let (all, mut stopped) = (all.clone(), stopped.clone());
        watching.push(tokio::spawn(async move {
            let mut last = vec![None; IDS];
            let mut offline = vec![0; IDS];
            loop {
                let over = *stopped.borrow_and_update();
                let told = watcher.sync(&peer(&name)).await;
                for notice in &told {
                    assert!(notice[1] == ONLINE || notice[1] == OFFLINE, "{notice:?}");
                    for id in notice[2..].chunks(36) {
                        let at = all.iter().position(|x| x.as_bytes() == id).unwrap();
                        last[at] = Some(notice[1]);
                        offline[at] += usize::from(notice[1] == OFFLINE);
                        if notice[1] == OFFLINE {
                            watcher.send(&ids(SUBSCRIBE, &all[at..=at])).await;
                        }
                    }
                }
                if over && told.is_empty() {
                    return (last, offline);
                }
            }
        }));
    }
    let mut staying = Vec::new();
    for toggler in togglers {
        staying.push(toggler.await.unwrap());
    }
    stop.send(true).unwrap();
    for watcher in watching {
        let (last, offline) = watcher.await.unwrap();
        for (number, last) in last.iter().enumerate() {
            let truth = if number % 2 == 0 { ONLINE } else { OFFLINE };
            assert_eq!(*last, Some(truth), "x{number} of {last:?}");
        }
        // Once for every time that it went: it had never unsubscribed. Who did not wait took itself over now and then.
        for (number, &offline) in offline.iter().enumerate() {
            let went = CHANGES / 2;
            let right = if waits(number) {
                offline == went
            } else {
                (1..=went).contains(&offline)
            };
            assert!(right, "x{number}: {offline} of {went}");
        }
    }
    let online: Vec<_> = (0..IDS)
        .map(|n| relay.relay.peers().contains(&all[n]))
        .collect();
    assert_eq!(online, (0..IDS).map(|n| n % 2 == 0).collect::<Vec<_>>());
    relay.conserved().await;
}

#[tokio::test]
async fn transport_to_nobody_is_dropped_and_the_sender_is_not_told() {
    let relay = TestRelay::start();
    let mut alice = RawClient::connected(&relay, "alice").await;
    for _ in 0..10 {
        alice.send(&transport(&peer("nobody"), b"lost")).await;
    }
    assert!(alice.sync(&peer("alice")).await.is_empty());
    assert_eq!(relay.dropped(DropReason::NoSuchPeer), 10);
    assert_eq!(relay.conserved().await, (11, 1));
}
