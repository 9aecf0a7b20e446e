//! How long messages may be, and in what pieces they may come (peer-protocol.md, *Sizes*).

use trunkline::telemetry::counters::DropReason;

use crate::support::{
    BINARY, CONTINUATION, MemoryClient, PING, PONG, RawClient, TestRelay, UPGRADE_REQUEST,
    auth_message, binary, frame, ids, payload_of, peer, transport,
};

/// A payload whose bytes tell where they stood.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 256) as u8).collect()
}

/// A message of this many bytes for bob.
fn for_bob(length: usize) -> Vec<u8> {
    let mut message = vec![1, 3];
    message.extend_from_slice(peer("bob").as_bytes());
    message.extend(payload(length.saturating_sub(38)));
    message.truncate(length);
    message
}

#[tokio::test]
async fn transport_of_38_to_8820_bytes_arrives_as_it_was() {
    let relay = TestRelay::start();
    let mut alice = RawClient::connected(&relay, "alice").await;
    let mut bob = RawClient::connected(&relay, "bob").await;
    // Around the steps of the frame's length forms, too: 125, 126.
    let lengths = [38, 39, 124, 125, 126, 127, 1318, 8819, 8820];
    for length in lengths {
        alice.send(&for_bob(length)).await;
        let seen = bob.message().await;
        assert_eq!(seen.len(), length);
        assert_eq!(payload_of(&seen, &peer("alice")), payload(length - 38));
    }
    // All at once, in one write.
    let together: Vec<u8> = lengths.iter().flat_map(|&l| binary(&for_bob(l))).collect();
    alice.write(&together).await;
    for length in lengths {
        assert_eq!(bob.message().await.len(), length);
    }
    let (received, delivered) = relay.conserved().await;
    assert_eq!((received, delivered), (18, 18));
}

#[tokio::test]
async fn shorter_transport_is_dropped_and_counted() {
    let relay = TestRelay::start();
    let mut alice = RawClient::connected(&relay, "alice").await;
    let mut bob = RawClient::connected(&relay, "bob").await;
    for length in 2..38 {
        alice.send(&for_bob(length)).await;
    }
    assert!(alice.sync(&peer("alice")).await.is_empty());
    assert!(bob.sync(&peer("bob")).await.is_empty());
    assert_eq!(relay.dropped(DropReason::Malformed), 36);
    let metrics = relay.read_metrics().await;
    let malformed = [("reason", "malformed")];
    assert_eq!(
        metrics.sum("relay_messages_dropped_total", &malformed),
        36,
        "{metrics:?}"
    );
    assert_eq!(relay.conserved().await, (38, 2));
}

#[tokio::test]
async fn longer_messages_end_the_connection_and_nothing_of_them_is_delivered() {
    let relay = TestRelay::start();
    let mut bob = RawClient::connected(&relay, "bob").await;
    let long = for_bob(8821);
    let list = ids(8, &vec![peer("bob"); 245]);
    assert_eq!(list.len(), 8822);
    let fragments = |sizes: &[usize]| {
        let (mut bytes, mut at) = (Vec::new(), 0);
        for (index, size) in sizes.iter().enumerate() {
            let opcode = if index == 0 { BINARY } else { CONTINUATION };
            let last = index + 1 == sizes.len();
            bytes.extend(frame(last, opcode, &long[at..at + size]));
            at += size;
        }
        bytes
    };
    let cases = [
        binary(&long),
        binary(&list),
        binary(&vec![1; 100_000]),
        fragments(&[8820, 1]),
        fragments(&[1, 8820]),
        fragments(&[4000, 4000, 821]),
        // The limit is passed before the last fragment.
        fragments(&[8820, 1, 0])[..8820 + 16].to_vec(),
    ];
    for (number, bytes) in cases.iter().enumerate() {
        let mut alice = RawClient::connected(&relay, "alice").await;
        // The relay may end the connection before all is written.
        alice.try_write(bytes).await;
        let code = alice.ends_without_message().await;
        assert_eq!(code, Some(1009), "case {number}");
        assert!(bob.sync(&peer("bob")).await.is_empty(), "case {number}");
    }
    relay.peers(1).await;
    relay.conserved().await;
}

#[tokio::test]
async fn fragments_make_one_message_and_control_frames_may_stand_between() {
    let relay = TestRelay::start();
    let mut alice = RawClient::connected(&relay, "alice").await;
    let mut bob = RawClient::connected(&relay, "bob").await;
    let message = for_bob(8820);
    for pieces in [2, 3, 9, 100] {
        let size = message.len().div_ceil(pieces);
        let mut chunks = message.chunks(size).peekable();
        let mut opcode = BINARY;
        let mut pings = 0;
        while let Some(chunk) = chunks.next() {
            alice
                .write(&frame(chunks.peek().is_none(), opcode, chunk))
                .await;
            opcode = CONTINUATION;
            if chunks.peek().is_some() {
                // An unasked pong wants no answer, a ping wants its own bytes back.
                let ping = frame(true, PING, &[pings; 125]);
                let between = [frame(true, PONG, b"unasked"), ping].concat();
                alice.write(&between).await;
                pings += 1;
            }
        }
        for ping in 0..pings {
            let pong = alice.frame().await.unwrap();
            assert_eq!(pong.first_byte, 0x80 | PONG);
            assert_eq!(pong.payload, [ping; 125]);
        }
        let seen = bob.message().await;
        assert_eq!(payload_of(&seen, &peer("alice")), payload(8820 - 38));
    }
    // Empty fragments are fragments.
    let parts = [&message[..0], &message[..50], &message[..0], &message[50..]];
    for (index, part) in parts.iter().enumerate() {
        let opcode = if index == 0 { BINARY } else { CONTINUATION };
        alice.write(&frame(index == 3, opcode, part)).await;
    }
    assert_eq!(bob.message().await.len(), 8820);
    assert_eq!(relay.conserved().await, (5, 5));
}

#[tokio::test]
async fn lists_of_0_1_and_244_ids_are_taken_and_answered_in_one_message() {
    let relay = TestRelay::start();
    let mut peers: Vec<MemoryClient> = Vec::new();
    let mut all = Vec::new();
    for number in 0..244 {
        let name = format!("peer {number}");
        peers.push(relay.memory_peer(&name).await);
        all.push(peer(&name));
    }
    let mut alice = RawClient::connected(&relay, "alice").await;
    alice.send(&ids(8, &[])).await;
    assert!(alice.sync(&peer("alice")).await.is_empty());
    alice.send(&ids(8, &all[..1])).await;
    assert_eq!(alice.message().await, ids(10, &all[..1]));
    alice.send(&ids(8, &all)).await;
    let answer = alice.message().await;
    assert_eq!(answer.len(), 8786);
    assert_eq!(answer, ids(10, &all));
    assert!(alice.sync(&peer("alice")).await.is_empty());
    alice.send(&ids(9, &all)).await;
    alice.send(&ids(9, &[])).await;
    assert!(alice.sync(&peer("alice")).await.is_empty());
    drop(peers);
    relay.peers(1).await;
    assert!(alice.sync(&peer("alice")).await.is_empty());
}

#[tokio::test]
async fn a_list_that_holds_no_whole_number_of_ids_is_dropped_and_counted() {
    let relay = TestRelay::start();
    let mut alice = RawClient::connected(&relay, "alice").await;
    let list = ids(8, &[peer("alice"), peer("bob")]);
    for kind in [8, 9] {
        for length in (3..list.len()).filter(|length| (length - 2) % 36 != 0) {
            let mut cut = list[..length].to_vec();
            cut[1] = kind;
            alice.send(&cut).await;
        }
    }
    assert!(alice.sync(&peer("alice")).await.is_empty());
    assert_eq!(relay.dropped(DropReason::MalformedPeerList), 2 * 70);
    // Nor do they count among the transport messages.
    assert_eq!(relay.conserved().await, (1, 1));
}

#[tokio::test]
async fn bytes_may_come_in_any_two_pieces() {
    let relay = TestRelay::start();
    let mut bob = RawClient::connected(&relay, "bob").await;
    let sequence = [
        binary(&auth_message("alice")),
        binary(&ids(8, &[peer("bob")])),
        binary(&transport(&peer("bob"), &payload(150))),
        binary(&transport(&peer("bob"), b"second")),
    ]
    .concat();
    for cut in 0..=sequence.len() {
        let mut alice = RawClient::upgraded(&relay).await;
        alice.write(&sequence[..cut]).await;
        // The relay's turn: it reads the first piece before the second is written.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        alice.write(&sequence[cut..]).await;
        alice.expect_auth_response().await;
        assert_eq!(
            alice.message().await,
            ids(10, &[peer("bob")]),
            "cut at {cut}"
        );
        let seen = bob.message().await;
        assert_eq!(
            payload_of(&seen, &peer("alice")),
            payload(150),
            "cut at {cut}"
        );
        let seen = bob.message().await;
        assert_eq!(payload_of(&seen, &peer("alice")), b"second", "cut at {cut}");
    }
    relay.conserved().await;
}

#[tokio::test]
async fn what_comes_in_one_segment_with_the_upgrade_request_counts() {
    let relay = TestRelay::start();
    let mut bob = RawClient::connected(&relay, "bob").await;
    let mut behind = [
        binary(&auth_message("alice")),
        binary(&ids(8, &[peer("bob")])),
    ]
    .concat();
    for number in 0..7 {
        behind.extend(binary(&transport(&peer("bob"), &payload(1000 + number))));
    }
    // All of it, and up to the middle of a frame's head and of its payload.
    for early in [behind.len(), 1, 3, 50, 92, 150, behind.len() - 1] {
        let mut alice = RawClient::tcp(relay.addr).await;
        let segment = [UPGRADE_REQUEST.as_bytes(), &behind[..early]].concat();
        alice.write(&segment).await;
        alice.expect_upgrade().await;
        alice.write(&behind[early..]).await;
        alice.expect_auth_response().await;
        let online = alice.message().await;
        assert_eq!(online, ids(10, &[peer("bob")]), "{early} bytes early");
        for number in 0..7 {
            let seen = bob.message().await;
            assert_eq!(payload_of(&seen, &peer("alice")), payload(1000 + number));
        }
    }
    relay.conserved().await;
}
