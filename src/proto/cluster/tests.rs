use proptest::collection::vec;
use proptest::prelude::*;

use super::hello::{ClusterSecret, HelloRefusal, check_hello, encode_hello};
use super::*;
use crate::proto::PeerId;

const NOW: u64 = 1_786_752_000;

fn secrets(texts: &[&str]) -> Vec<ClusterSecret> {
    texts
        .iter()
        .filter_map(|text| ClusterSecret::new(text))
        .collect()
}

fn hello(address: &str, unix: u64, secret: &str) -> Vec<u8> {
    let secret = ClusterSecret::new(secret);
    encode_hello(address, unix, secret.as_ref()).unwrap()[FRAME_HEADER_LEN..].to_vec()
}

#[test]
fn numbers_and_types_are_one_to_one() {
    for byte in 0..=u8::MAX {
        let known = FrameType::ALL.iter().find(|kind| **kind as u8 == byte);
        assert_eq!(FrameType::from_byte(byte).as_ref(), known);
    }
}

#[test]
fn any_of_several_secrets_is_good_and_no_other() {
    let signed = hello("10.0.0.1:7090", NOW, "new");
    let all = secrets(&["old", "new"]);
    assert_eq!(check_hello(&signed, &all, NOW), Ok("10.0.0.1:7090"));
    assert_eq!(
        check_hello(&signed, &all[..1], NOW),
        Err(HelloRefusal::HmacMismatch)
    );
    assert!(ClusterSecret::new("").is_none());
    assert_eq!(format!("{:?}", all[0]), "ClusterSecret");
}

#[test]
fn addresses_are_host_and_port() {
    let good = [
        "10.0.0.1:7090",
        "[2001:db8::1]:7090",
        "relay-0.relay.example:1",
        "x:65535",
    ];
    let bad = [
        "",
        ":7090",
        "10.0.0.1",
        "10.0.0.1:",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1:+1",
        "2001:db8::1:7090",
        "[10.0.0.1]:7090",
        "[::1:7090",
        "a b:7090",
        "a\n:7090",
        "ä:7090",
    ];
    for address in good {
        assert_eq!(
            check_hello(&hello(address, NOW, ""), &[], NOW),
            Ok(address),
            "{address}"
        );
    }
    for address in bad {
        let payload = hello(address, NOW, "");
        let verdict = check_hello(&payload, &[], NOW);
        assert_eq!(verdict, Err(HelloRefusal::Malformed), "{address:?}");
    }
}

#[test]
fn the_signature_is_judged_before_address_and_timestamp() {
    let verdict = |address, unix, secret| {
        check_hello(&hello(address, unix, secret), &secrets(&["right"]), NOW).err()
    };
    let stale = NOW - hello::CLOCK_SKEW_MAX - 1;
    assert_eq!(
        verdict("?", stale, "wrong"),
        Some(HelloRefusal::HmacMismatch)
    );
    assert_eq!(verdict("?", stale, "right"), Some(HelloRefusal::Malformed));
    assert_eq!(
        verdict("a:1", stale, "right"),
        Some(HelloRefusal::StaleTimestamp)
    );
    assert_eq!(
        verdict("a:1", u64::MAX, "right"),
        Some(HelloRefusal::StaleTimestamp)
    );
    assert_eq!(verdict("a:1", NOW - hello::CLOCK_SKEW_MAX, "right"), None);
}

#[test]
fn debug_shows_no_payload() {
    let frame = Frame::Forward {
        destination: PeerId::from_name(b"bob"),
        message: b"ZZZZ",
    };
    assert!(
        format!("{frame:?}").ends_with("message_len: 4 }"),
        "{frame:?}"
    );
    assert!(!format!("{:?}", Frame::Hello(b"ZZZZ")).contains("90"));
}

fn peer() -> impl Strategy<Value = PeerId> {
    any::<[u8; 36]>().prop_map(PeerId::from_bytes)
}

proptest! {
    #[test]
    fn any_bytes_are_cut_and_read_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        match next_frame(&bytes) {
            None => prop_assert!(bytes.len() < FRAME_HEADER_LEN),
            Some(raw) => {
                let payload = bytes.get(FRAME_HEADER_LEN..raw.len());
                prop_assert_eq!(payload.is_some(), raw.len() <= bytes.len());
                let _ = parse(raw.kind, &bytes[FRAME_HEADER_LEN..]);
            }
        }
        let _ = check_hello(&bytes, &secrets(&["a"]), NOW);
        let _ = check_hello(&bytes, &[], NOW);
    }

    #[test]
    fn what_is_written_is_read_back(a in peer(), b in peer(), number: u32, status: u8, body in vec(any::<u8>(), 0..300)) {
        let seqno = Seqno(number);
        let cases: [(Vec<u8>, Frame<'_>); 10] = [
            (encode_who_has(&a).to_vec(), Frame::WhoHas(a)),
            (encode_i_have(&a, seqno).to_vec(), Frame::IHave { peer: a, seqno }),
            (encode_lost(&a, seqno).to_vec(), Frame::Lost { peer: a, seqno }),
            (encode_open(&a, &b, number).to_vec(), Frame::Open { source: a, destination: b, channel: number }),
            (encode_open_ack(number, status).to_vec(), Frame::OpenAck { channel: number, status }),
            (encode_data(number, &body).unwrap(), Frame::Data { channel: number, bytes: &body }),
            (encode_close(number).to_vec(), Frame::Close { channel: number }),
            (
                encode_forward(FrameType::Forward, &a, &body).unwrap(),
                Frame::Forward { destination: a, message: &body },
            ),
            (
                encode_forward(FrameType::Reforward, &a, &body).unwrap(),
                Frame::Reforward { destination: a, message: &body },
            ),
            (PING.to_vec(), Frame::Ping),
        ];
        for (bytes, frame) in cases {
            let raw = next_frame(&bytes).unwrap();
            prop_assert_eq!(raw.len(), bytes.len());
            prop_assert_eq!(parse(raw.kind, &bytes[FRAME_HEADER_LEN..]), Ok(frame));
        }
    }

    #[test]
    fn one_flipped_bit_breaks_the_signature(at in 0_usize..56, bit in 0_u8..8) {
        let good = hello("10.0.0.1:7090", NOW, "secret");
        prop_assert_eq!(good.len(), 56);
        let mut bad = good;
        bad[at] ^= 1 << bit;
        prop_assert!(check_hello(&bad, &secrets(&["secret"]), NOW).is_err());
    }
}
