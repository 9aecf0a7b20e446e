//! Golden vectors: bytes and verdicts that the stock relays gave, in both directions where there are two.
//!
//! Each test goes through one file of `tests/vectors/` whole and says how many cases it found there, so that a file
//! which was emptied or renamed cannot pass. Where Trunkline differs from a reference on purpose, the difference is
//! listed with its reason, and a difference that is no longer one fails.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};
use trunkline::auth::{AuthRequest, Secret, TokenValidator, is_health_probe, mint};
use trunkline::proto::peer::{
    AuthMessage, CLOSE, EncodeError, HEALTH_CHECK, Message, MessageError, MessageType, PeerIds,
    encode_auth, encode_auth_response, encode_peer_ids, encode_transport, message_type, parse,
    stamp_source, transport_peer,
};
use trunkline::proto::{InstanceUrl, InstanceUrlError, PeerId};
use trunkline::time::Clock;

macro_rules! vectors {
    ($file:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/vectors/",
            $file
        )))
        .expect($file)
    };
}

#[path = "vectors/cluster.rs"]
mod cluster;

/// The elements of a list, of which there must be this many.
fn list<'a>(value: &'a Value, key: &str, count: usize) -> &'a [Value] {
    let list = value[key]
        .as_array()
        .unwrap_or_else(|| panic!("no list {key}"));
    assert_eq!(list.len(), count, "cases in {key}");
    list
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no text {key} in {value}"))
}

fn number(value: &Value, key: &str) -> usize {
    let number = value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no number {key} in {value}"));
    usize::try_from(number).unwrap()
}

fn bytes(value: &Value, key: &str) -> Vec<u8> {
    unhex(text(value, key))
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "half a byte in {text}");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits"))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Whether the case is one that succeeds: the field with the reference's words is empty or not there.
fn succeeds(case: &Value, error_key: &str) -> bool {
    case[error_key].as_str().is_none_or(str::is_empty)
}

fn peer(name: &str) -> PeerId {
    PeerId::from_name(name.as_bytes())
}

#[test]
fn peer_ids() {
    for case in list(&vectors!("peer-ids.json"), "cases", 10) {
        let id = peer(text(case, "name"));
        assert_eq!(hex(id.as_bytes()), text(case, "id_hex"));
        assert_eq!(id.to_string(), text(case, "id_text"));
        assert_eq!(PeerId::from_slice(&bytes(case, "id_hex")), Some(id));
        assert_eq!(text(case, "id_text").parse(), Ok(id));
    }
}

/// What we count a refusal under, by the reference's words for it.
fn token_reason(case: &Value) -> &'static str {
    if text(case, "case") == "payload negative, MAC right" {
        // The reference reads it as a date before 1970. To us it is no number: nothing may stand around the digits.
        return "bad_number";
    }
    let error = text(case, "reference_error");
    let table = [
        ("expired token", "expired"),
        ("invalid signature", "bad_signature"),
        ("unsupported auth algorithm", "algorithm"),
        ("ParseInt", "bad_number"),
        ("insufficient length", "too_short"),
        ("invalid token data", "too_short"),
    ];
    table
        .iter()
        .find(|(words, _)| error.contains(words))
        .unwrap_or_else(|| panic!("no reason for {error:?}"))
        .1
}

#[test]
fn tokens() {
    let file = vectors!("tokens.json");
    let now = file["now_unix"].as_u64().unwrap();
    let (mut accepted, mut minted) = (0, 0);
    for case in list(&file, "cases", 47) {
        let (name, configured, token) = (
            text(case, "case"),
            text(case, "secret"),
            bytes(case, "token_hex"),
        );
        assert_eq!(
            sha256_hex(configured.as_bytes()),
            text(case, "key_hex"),
            "{name}"
        );
        let secret = Secret::new(configured);
        let only = TokenValidator::new(vec![secret.clone()], Clock::fixed(now));
        // A second secret, before or after, changes no verdict.
        let other = Secret::new("a secret that signed nothing");
        let first = TokenValidator::new(vec![secret.clone(), other.clone()], Clock::fixed(now));
        let last = TokenValidator::new(vec![other.clone(), secret.clone()], Clock::fixed(now));
        for validator in [only, first, last] {
            let verdict = validator.check(&token).map_err(|error| error.reason());
            match text(case, "verdict") {
                "accept" => assert_eq!(verdict, Ok(()), "{name}"),
                "refuse" => assert_eq!(verdict, Err(token_reason(case)), "{name}"),
                verdict => panic!("{name}: verdict {verdict}"),
            }
        }
        let stranger = TokenValidator::new(vec![other], Clock::fixed(now));
        assert!(stranger.check(&token).is_err(), "{name}");
        accepted += usize::from(text(case, "verdict") == "accept");
        if text(case, "made_by") == "reference generator" {
            let expiry = str::from_utf8(&token[33..]).unwrap().parse().unwrap();
            assert_eq!(hex(&mint(&secret, expiry)), hex(&token), "{name}");
            minted += 1;
        }
    }
    assert!(
        accepted >= 15 && minted >= 20,
        "accepted {accepted}, minted {minted}"
    );
}

#[test]
fn auth_messages() {
    let file = vectors!("auth-messages.json");
    for case in list(&file, "encode", 6) {
        let (id, token) = (peer(text(case, "name")), bytes(case, "token_hex"));
        let encoded = encode_auth(&id, &token);
        if succeeds(case, "encoder_error") {
            let message = encoded.unwrap();
            assert_eq!(hex(&message), text(case, "message_hex"));
            assert_eq!(message.len(), number(case, "length"));
            assert_eq!(
                parse(&message),
                Ok(Message::Auth(AuthMessage {
                    peer: id,
                    token: &token
                }))
            );
        } else {
            assert!(
                matches!(
                    encoded,
                    Err(EncodeError::TooLong {
                        len: 213,
                        limit: 212,
                        ..
                    })
                ),
                "{encoded:?}"
            );
        }
    }
    for case in list(&file, "decode", 7) {
        let message = bytes(case, "message_hex");
        match (parse(&message), text(case, "decoder_error")) {
            (Ok(Message::Auth(auth)), "") => {
                assert_eq!(hex(auth.peer.as_bytes()), text(case, "id_hex"));
                assert_eq!(hex(auth.token), text(case, "token_hex"));
            }
            (Err(MessageError::AuthMagic), "invalid magic header") => {}
            (Err(MessageError::AuthTooShort { len }), "invalid message length") => {
                assert_eq!(len, message.len())
            }
            (got, wanted) => panic!("{}: {got:?}, wanted {wanted:?}", text(case, "case")),
        }
    }
}

#[test]
fn auth_responses() {
    for case in list(&vectors!("auth-responses.json"), "cases", 7) {
        let url = match case["url"].as_str() {
            Some(url) => url.to_owned(),
            None => match text(case, "url_rule") {
                "rel:// then the letter a 8184 times" => format!("rel://{}", "a".repeat(8184)),
                "rel:// then the letter a 8185 times" => format!("rel://{}", "a".repeat(8185)),
                rule => panic!("unknown rule {rule}"),
            },
        };
        let encoded = encode_auth_response(&url);
        if !succeeds(case, "encoder_error") {
            assert!(
                matches!(
                    encoded,
                    Err(EncodeError::TooLong {
                        len: 8193,
                        limit: 8192,
                        ..
                    })
                ),
                "{encoded:?}"
            );
            continue;
        }
        let message = encoded.unwrap();
        assert_eq!(message.len(), number(case, "length"));
        match case["message_hex"].as_str() {
            Some(expected) => assert_eq!(hex(&message), expected),
            None => assert_eq!(sha256_hex(&message), text(case, "message_sha256")),
        }
        if succeeds(case, "decoder_error") {
            assert_eq!(parse(&message), Ok(Message::AuthResponse(&url)));
        } else {
            assert_eq!(parse(&message), Err(MessageError::AuthResponseEmpty));
        }
    }
}

#[test]
fn transport_and_its_rewrite() {
    let file = vectors!("transport.json");
    let (from, to) = (
        peer(text(&file, "source")),
        peer(text(&file, "destination")),
    );
    assert_eq!(
        text(&file, "payload_rule"),
        "byte i of the payload is (7*i + 13) mod 256"
    );
    for case in list(&file, "cases", 4) {
        let payload: Vec<u8> = (0..number(case, "payload_size"))
            .map(|i| ((7 * i + 13) % 256) as u8)
            .collect();
        let check = |message: &[u8], as_seen: &str, id: PeerId| {
            assert_eq!(message.len(), number(case, "length"));
            assert_eq!(
                hex(&message[..38]),
                text(case, &format!("{as_seen}_header_hex"))
            );
            assert_eq!(
                sha256_hex(message),
                text(case, &format!("{as_seen}_sha256"))
            );
            if let Some(whole) = case[format!("{as_seen}_hex")].as_str() {
                assert_eq!(hex(message), whole);
            }
            assert_eq!(
                parse(message),
                Ok(Message::Transport {
                    peer: id,
                    payload: &payload
                })
            );
            assert_eq!(transport_peer(message), Some(id));
        };
        let mut message = Vec::new();
        encode_transport(&to, &payload, &mut message).unwrap();
        check(&message, "sent", to);
        stamp_source(&mut message, &from);
        check(&message, "delivered", from);
    }
    for case in list(&file, "short", 3) {
        let message = bytes(case, "message_hex");
        assert_eq!(message.len(), number(case, "length"));
        let readable = succeeds(case, "decode_error");
        assert_eq!(readable, succeeds(case, "read_id_error"));
        assert_eq!(transport_peer(&message), readable.then_some(to));
        let expected = if readable {
            Ok(Message::Transport {
                peer: to,
                payload: &[],
            })
        } else {
            Err(MessageError::TransportTooShort { len: message.len() })
        };
        assert_eq!(parse(&message), expected);
    }
}

#[test]
fn control() {
    let file = vectors!("control.json");
    for (key, ours, message) in [
        ("health_check_hex", HEALTH_CHECK, Message::HealthCheck),
        ("close_hex", CLOSE, Message::Close),
    ] {
        assert_eq!(hex(&ours), text(&file, key));
        assert_eq!(parse(&ours), Ok(message));
    }
}

/// The list of a peer-state message.
fn ids_of<'a>(message: &Message<'a>) -> PeerIds<'a> {
    match *message {
        Message::Subscribe(ids)
        | Message::Unsubscribe(ids)
        | Message::PeersOnline(ids)
        | Message::PeersOffline(ids) => ids,
        ref other => panic!("no list in {other:?}"),
    }
}

#[test]
fn peer_state() {
    let file = vectors!("peer-state.json");
    let ids: Vec<PeerId> = (0..600).map(|n| peer(&format!("peer-{n}"))).collect();
    for case in list(&file, "encode", 36) {
        let kind = match text(case, "kind") {
            "subscribe" => MessageType::Subscribe,
            "unsubscribe" => MessageType::Unsubscribe,
            "online" => MessageType::PeersOnline,
            "offline" => MessageType::PeersOffline,
            kind => panic!("unknown kind {kind}"),
        };
        let count = number(case, "ids");
        // The reference has no message for no ID, and says so with an error; we say it with an empty list.
        assert_eq!(succeeds(case, "encoder_error"), count != 0);
        let messages: Vec<_> = encode_peer_ids(kind, &ids[..count]).collect();
        for (message, expected) in messages.iter().zip(list(case, "messages", messages.len())) {
            assert_eq!(message.len(), number(expected, "length"));
            assert_eq!(sha256_hex(message), text(expected, "sha256"));
            if let Some(whole) = expected["hex"].as_str() {
                assert_eq!(hex(message), whole);
            }
            let parsed = parse(message).unwrap();
            assert_eq!(parsed.message_type(), kind);
            let (first, in_it) = (number(expected, "first_id"), number(expected, "ids"));
            assert!(
                ids_of(&parsed)
                    .iter()
                    .eq(ids[first..first + in_it].iter().copied())
            );
        }
    }
    let whole = encode_peer_ids(MessageType::Subscribe, &ids[..2])
        .next()
        .unwrap();
    for case in list(&file, "decode_of_prefixes_of_subscribe_with_2_ids", 9) {
        let prefix = &whole[..number(case, "length")];
        match parse(prefix) {
            Ok(message) => {
                assert!(succeeds(case, "decoder_error"), "{case}");
                assert_eq!(ids_of(&message).len(), number(case, "ids"));
            }
            Err(MessageError::PeerIdList { len }) => {
                assert_eq!(
                    text(case, "decoder_error"),
                    format!("invalid peer list size: {len}")
                );
            }
            Err(MessageError::Empty | MessageError::Truncated) => {
                assert_eq!(text(case, "decoder_error"), "invalid message format");
            }
            Err(error) => panic!("{case}: {error}"),
        }
    }
}

#[test]
fn healthcheck_probe() {
    let file = vectors!("healthcheck-probe.json");
    let (message, id, token) = (
        bytes(&file, "message_hex"),
        peer(text(&file, "name")),
        bytes(&file, "token_hex"),
    );
    assert_eq!(message.len(), number(&file, "length"));
    assert_eq!(hex(id.as_bytes()), text(&file, "id_hex"));
    assert_eq!(id.to_string(), text(&file, "id_text"));
    assert_eq!(hex(&encode_auth(&id, &token).unwrap()), hex(&message));
    let Ok(Message::Auth(auth)) = parse(&message) else {
        panic!("the probe is an auth message")
    };
    assert_eq!((auth.peer, auth.token), (id, &token[..]));
    assert!(is_health_probe(&AuthRequest {
        peer: &auth.peer,
        token: auth.token,
        remote: None
    }));
    let validator = TokenValidator::new(vec![Secret::new("s")], Clock::system());
    assert_eq!(text(&file, "validator_error"), "invalid signature");
    assert_eq!(
        validator.check(&token).map_err(|error| error.reason()),
        Err("bad_signature")
    );
}

/// Where we do not give openZro's URL, and why. Everything else is as openZro has it.
const INSTANCE_URL_DIFFERENCES: [(&str, InstanceUrlError); 2] = [
    // peer-protocol.md makes it an error: the references start and tell their clients `rel:`, which nobody can dial.
    ("", InstanceUrlError::Empty),
    // The same mistake with a scheme before it; the references tell their clients `rels:`.
    ("rels://", InstanceUrlError::NoHost),
];

#[test]
fn instance_urls() {
    let (mut different, mut warned) = (0, 0);
    for case in list(&vectors!("instance-url.json"), "cases", 38) {
        let (exposed, tls) = (text(case, "exposed"), case["tls"].as_bool().unwrap());
        let ours = InstanceUrl::from_exposed_address(exposed, tls);
        if let Some((_, why)) = INSTANCE_URL_DIFFERENCES
            .iter()
            .find(|(address, _)| *address == exposed)
        {
            assert_eq!(ours.as_ref(), Err(why), "{exposed:?}");
            assert!(
                case["openzro_url"].is_string() && case["netbird_url"].is_string(),
                "no difference any more"
            );
            different += 1;
            continue;
        }
        let Some(openzro) = case["openzro_url"].as_str() else {
            assert!(ours.is_err(), "{exposed:?} gave {ours:?}");
            assert!(case["netbird_error"].is_string());
            continue;
        };
        let ours = ours.unwrap();
        assert_eq!(ours.as_str(), openzro);
        // The one point where the references differ: NetBird refuses what we, as openZro, take with a warning.
        assert_eq!(
            ours.is_plain_over_tls(),
            case["netbird_error"].is_string(),
            "{exposed:?}"
        );
        if !ours.is_plain_over_tls() {
            assert_eq!(ours.as_str(), text(case, "netbird_url"));
        }
        warned += usize::from(ours.is_plain_over_tls());
    }
    assert_eq!((different, warned), (4, 2));
}

const MALFORMED_SECRET: &str = "relay-shared-secret";
const MALFORMED_NOW: u64 = 1_786_752_000;

/// The message of a case of `malformed.json`, put together from its pieces.
fn malformed_message(case: &Value) -> Vec<u8> {
    let mut message = Vec::new();
    for piece in case["send"].as_array().unwrap() {
        if let Some(hex) = piece["hex"].as_str() {
            message.extend(unhex(hex));
        } else if let Some(count) = piece["zeros"].as_u64() {
            message.resize(message.len() + usize::try_from(count).unwrap(), 0);
        } else if let Some(filler) = piece["ascii"].as_str() {
            message.resize(number(piece, "until_length"), filler.as_bytes()[0]);
        } else if piece["gob"].is_string() {
            // The body of the removed handshake, which nobody reads: filler of the same length.
            message.resize(number(case, "length"), b'g');
        } else {
            assert_eq!(piece["valid_token"], true, "unknown piece {piece}");
            let width = piece["payload_zero_padded_to"]
                .as_u64()
                .map_or(10, |width| usize::try_from(width).unwrap());
            let payload = format!("{:0width$}", MALFORMED_NOW + 3600);
            let mut mac =
                Hmac::<Sha256>::new_from_slice(&Sha256::digest(MALFORMED_SECRET)).unwrap();
            mac.update(payload.as_bytes());
            message.push(1);
            message.extend(mac.finalize().into_bytes());
            message.extend(payload.into_bytes());
        }
    }
    assert_eq!(
        message.len(),
        number(case, "length"),
        "{}",
        text(case, "case")
    );
    message
}

/// What the codec's and the token's verdicts add up to before authentication.
fn verdict_first(message: &[u8]) -> &'static str {
    let validator = TokenValidator::new(
        vec![Secret::new(MALFORMED_SECRET)],
        Clock::fixed(MALFORMED_NOW),
    );
    match parse(message) {
        Ok(Message::Auth(auth)) if validator.check(auth.token).is_ok() => "answer",
        _ => "close",
    }
}

/// What the codec's verdicts add up to once authenticated.
fn verdict_after(message: &[u8]) -> &'static str {
    match parse(message) {
        Err(error) if error.ends_connection() => "close",
        Ok(Message::Close) => "close",
        Ok(message) if !message.message_type().is_sent_by_clients() => "close",
        Err(_) | Ok(_) => "stay",
    }
}

/// The verdicts on whole binary messages. What is a matter of WebSocket (text, frames) or of the connection is tested
/// on the wire; a message that comes in two frames is here what it is then: one message.
#[test]
fn malformed() {
    let (mut judged, mut seen) = (0, 0);
    for case in list(&vectors!("malformed.json"), "cases", 50) {
        if text(case, "websocket_message") == "text" {
            continue;
        }
        let (name, message) = (text(case, "case"), malformed_message(case));
        let ours = match text(case, "phase") {
            "first" => verdict_first(&message),
            "after" => verdict_after(&message),
            phase => panic!("{name}: phase {phase}"),
        };
        match case["spec_wants"].as_str() {
            None => {
                assert_eq!(ours, text(case, "openzro_verdict"), "{name}");
                assert_eq!(ours, text(case, "netbird_verdict"), "{name}");
            }
            // A legacy hello after auth: known, and so ignored.
            Some("either") => assert_eq!(
                (ours, message_type(&message)),
                ("stay", Ok(MessageType::Hello)),
                "{name}"
            ),
            // The references deliver the first 8820 bytes of it.
            Some("close, and deliver nothing") => {
                assert_eq!(ours, "close", "{name}");
                let (len, limit) = (message.len(), 8820);
                assert_eq!(
                    parse(&message),
                    Err(MessageError::TooLong { len, limit }),
                    "{name}"
                );
            }
            Some(wanted) => assert_eq!(ours, wanted, "{name}"),
        }
        if let (Some(words), None) = (case["seen_by_bob"].as_str(), case["spec_wants"].as_str()) {
            assert_eq!(
                words,
                format!("a transport message of {} bytes in all", message.len()),
                "{name}"
            );
            assert_eq!(transport_peer(&message), Some(peer("bob")), "{name}");
            seen += 1;
        }
        judged += 1;
    }
    assert_eq!((judged, seen), (48, 2));
}
