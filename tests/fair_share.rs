//! One sender floods a slow receiver, fifty send at a modest rate: `trunkline load fair` on a real relay (performance.md, *Rules of
//! the message path*). Messages are counted; no time is asserted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use trunkline::auth::{Secret, TokenValidator};
use trunkline::load::{Load, Settings, Target, execute};
use trunkline::time::Clock;
use trunkline::{Relay, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_takes_nobody_elses_share_and_handshakes_come_through() {
    let relay = Relay::builder()
        .exposed_address("localhost")
        .validator(TokenValidator::new(
            vec![Secret::new("fair")],
            Clock::system(),
        ))
        .build()
        .unwrap();
    let server = Server::builder(relay.clone())
        .listen(["127.0.0.1:0".parse().unwrap()])
        .bind()
        .unwrap();
    let address = server.local_addr().unwrap();
    let running = tokio::spawn(server.run(std::future::pending()));
    let target = Target::Relay {
        address,
        host: address.to_string(),
        route: "/relay".to_owned(),
        secret: Secret::new("fair"),
    };
    let mut settings = Settings::new(Load::Fair, target);
    settings.rate = 100.0;
    settings.receive_rate = 2000.0;
    settings.handshakes = true;
    settings.duration = Duration::from_secs(3);
    // A machine that is busy with something else may hold the load itself up: then the senders are no longer what they claim to be. A
    // relay that shares unfairly (an index of 0.03 without the cure) fails each time.
    let mut tries = 0..3;
    let report = loop {
        tries.next();
        let settings = settings.clone();
        let report = tokio::task::spawn_blocking(move || execute(&settings))
            .await
            .unwrap()
            .unwrap();
        if tries.is_empty() || report.fair.as_ref().unwrap().jain >= 0.95 {
            break report;
        }
    };
    running.abort();
    let fair = report.fair.clone().unwrap();
    assert_eq!(report.ended, Some(0), "{report}");
    assert!(
        fair.flood_sent > 10 * fair.flood_delivered,
        "it floods: {report}"
    );
    assert!(fair.jain >= 0.95, "{report}");
    assert!(fair.jain_of_share >= 0.95, "{report}");
    assert!(fair.handshakes_sent > 100, "{report}");
    // What was in the queue when the measured time began, or at the end of the drain, is not lost.
    assert!(
        fair.handshakes_delivered * 100 >= fair.handshakes_sent * 95,
        "{report}"
    );
    assert_eq!(fair.reordered, 0, "{report}");
}
