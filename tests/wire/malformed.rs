//! `malformed.json`, live: what the stock relays did with bad messages, and what ours is to do.

use serde_json::Value;

use crate::support::{
    BINARY, CONTINUATION, RawClient, TEXT, TestRelay, frame, payload_of, peer, token, transport,
};

/// The bytes of the case's message.
fn message(case: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in case["send"].as_array().unwrap() {
        if let Some(hex) = piece["hex"].as_str() {
            let digits = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            bytes.extend((0..hex.len()).step_by(2).map(digits));
        } else if let Some(count) = piece["zeros"].as_u64() {
            bytes.extend(std::iter::repeat_n(0, usize::try_from(count).unwrap()));
        } else if piece["valid_token"] == true {
            bytes.extend(match piece["payload_zero_padded_to"].as_u64() {
                Some(digits) => padded_token(usize::try_from(digits).unwrap()),
                None => token(),
            });
        } else if let Some(filler) = piece["ascii"].as_str() {
            let until = usize::try_from(piece["until_length"].as_u64().unwrap()).unwrap();
            bytes.resize(until, filler.as_bytes()[0]);
        } else {
            // The body of the removed handshake: any bytes stand for it, as nobody reads them.
            assert!(piece["gob"].is_string(), "{piece}");
            let length = usize::try_from(case["length"].as_u64().unwrap()).unwrap();
            bytes.resize(length, 0x2A);
        }
    }
    assert_eq!(Some(bytes.len() as u64), case["length"].as_u64(), "{case}");
    bytes
}

/// A token whose expiry has leading zeros, signed so.
fn padded_token(digits: usize) -> Vec<u8> {
    use hmac::{Hmac, KeyInit, Mac};
    use sha2::{Digest, Sha256};
    let payload = format!("{:0digits$}", crate::support::NOW + 60);
    let key = Sha256::digest(crate::support::SECRET);
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(payload.as_bytes());
    let mut token = vec![1];
    token.extend_from_slice(&mac.finalize().into_bytes());
    token.extend_from_slice(payload.as_bytes());
    token
}

/// The case's message in as many frames as the case says.
fn frames(case: &Value) -> Vec<u8> {
    let message = message(case);
    let opcode = if case["websocket_message"] == "text" {
        TEXT
    } else {
        BINARY
    };
    match case["websocket_frames"].as_u64() {
        Some(1) => frame(true, opcode, &message),
        Some(2) => {
            let (first, second) = message.split_at(message.len() / 2);
            [
                frame(false, opcode, first),
                frame(true, CONTINUATION, second),
            ]
            .concat()
        }
        other => panic!("{other:?} frames"),
    }
}

/// What our relay is to do: what the protocol wants where it wants something else, else what openZro's does.
fn verdict(case: &Value) -> &str {
    let wanted = case["spec_wants"].as_str();
    let reference = case["openzro_verdict"].as_str().unwrap();
    match wanted.map(|words| words.split(',').next().unwrap()) {
        Some("either") | None => reference,
        Some(wanted) => wanted,
    }
}

/// What bob is to see: nothing unless the case says so, and nothing of what the protocol wants refused. A fragmented message
/// that stays is delivered whole: the references, which cut it off, cannot show that.
fn seen_by_bob(case: &Value) -> Option<usize> {
    if case["case"] == "after-2-frames" {
        return case["length"]
            .as_u64()
            .map(|length| usize::try_from(length).unwrap());
    }
    let refused = case["spec_wants"].as_str() == Some("close, and deliver nothing");
    let seen = case["seen_by_bob"].as_str().filter(|_| !refused)?;
    let number = seen.split(' ').find_map(|word| word.parse().ok());
    Some(number.expect("a number of bytes"))
}

#[tokio::test]
async fn every_recorded_case_gets_its_verdict() {
    let file: Value = serde_json::from_str(include_str!("../vectors/malformed.json")).unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 50);
    let relay = TestRelay::start();
    let (alice, bob) = (peer("alice"), peer("bob"));
    let mut bobs = RawClient::connected(&relay, "bob").await;
    let mut verdicts = [0; 3];
    for case in cases {
        let name = case["case"].as_str().unwrap();
        println!("{name}");
        let mut client = RawClient::upgraded(&relay).await;
        let first = case["phase"] == "first";
        if !first {
            assert_eq!(case["phase"], "after");
            client.authenticate("alice").await;
        }
        client.write(&frames(case)).await;
        match verdict(case) {
            "answer" => {
                assert!(first, "{name}");
                verdicts[0] += 1;
                client.expect_auth_response().await;
                assert!(client.sync(&alice).await.is_empty(), "{name}");
            }
            "stay" => {
                verdicts[1] += 1;
                let to_self: Vec<_> = match name {
                    "after-transport-to-self" => vec![transport(&alice, b"\0\0")],
                    _ => Vec::new(),
                };
                let before = client.sync(&alice).await;
                let lengths = |messages: &[Vec<u8>]| messages.iter().map(Vec::len).collect();
                let (before, to_self): (Vec<_>, Vec<_>) = (lengths(&before), lengths(&to_self));
                assert_eq!(before, to_self, "{name}: answered");
                // And it relays to others.
                client.send(&transport(&bob, b"still here")).await;
                let mut message = bobs.message().await;
                if let Some(length) = seen_by_bob(case) {
                    assert_eq!(message.len(), length, "{name}");
                    payload_of(&message, &alice);
                    message = bobs.message().await;
                }
                assert_eq!(payload_of(&message, &alice), b"still here", "{name}");
            }
            "close" => {
                verdicts[2] += 1;
                // A WebSocket close frame may tell why; no answer of the protocol does.
                client.ends_without_message().await;
                assert_eq!(seen_by_bob(case), None, "{name}");
            }
            other => panic!("{name}: {other}"),
        }
        assert!(
            bobs.sync(&bob).await.is_empty(),
            "{name}: bob saw something else"
        );
        relay.peers(1 + usize::from(verdict(case) != "close")).await;
    }
    assert_eq!(verdicts, [2, 17, 31]);
    relay.conserved().await;
}
