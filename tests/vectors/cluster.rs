//! The frames between pods and the verdicts on HELLO.

use serde_json::Value;
use trunkline::proto::cluster::hello::{ClusterSecret, HelloRefusal, check_hello, encode_hello};
use trunkline::proto::cluster::{
    Frame, FrameType, PING, PONG, Seqno, encode_close, encode_data, encode_forward, encode_i_have,
    encode_lost, encode_open, encode_open_ack, encode_who_has, next_frame, parse,
};
use trunkline::proto::peer::encode_transport;

use super::{bytes, hex, list, number, peer, text};

fn small(value: &Value, key: &str) -> u32 {
    u32::try_from(number(value, key)).unwrap()
}

/// The frame that the case describes, made by our encoders.
fn encoded(name: &str, fields: &Value) -> Vec<u8> {
    match name {
        "HELLO" => {
            let secret = fields["secret"].as_str().and_then(ClusterSecret::new);
            let unix = number(fields, "unix") as u64;
            encode_hello(text(fields, "address"), unix, secret.as_ref()).unwrap()
        }
        "WHO_HAS" => encode_who_has(&peer(text(fields, "peer"))).to_vec(),
        "I_HAVE" => {
            let seqno = Seqno(small(fields, "seqno"));
            encode_i_have(&peer(text(fields, "peer")), seqno).to_vec()
        }
        "OPEN" => encode_open(
            &peer(text(fields, "source")),
            &peer(text(fields, "destination")),
            small(fields, "channel"),
        )
        .to_vec(),
        "OPEN_ACK" => {
            let status = u8::try_from(number(fields, "status")).unwrap();
            encode_open_ack(small(fields, "channel"), status).to_vec()
        }
        "DATA" => encode_data(small(fields, "channel"), &bytes(fields, "bytes_hex")).unwrap(),
        "CLOSE" => encode_close(small(fields, "channel")).to_vec(),
        "FWD" => {
            let mut message = Vec::new();
            let payload = bytes(fields, "transport_payload_hex");
            encode_transport(&peer(text(fields, "source")), &payload, &mut message).unwrap();
            let destination = peer(text(fields, "destination"));
            encode_forward(FrameType::Forward, &destination, &message).unwrap()
        }
        "PING" => PING.to_vec(),
        "PONG" => PONG.to_vec(),
        other => panic!("no encoder for {other}"),
    }
}

#[test]
fn frames() {
    let vectors = vectors!("cluster-frames.json");
    let mut known = 0;
    for case in list(&vectors, "frames", 18) {
        let name = text(case, "name");
        let frame = bytes(case, "frame_hex");
        let head = next_frame(&frame).unwrap();
        assert_eq!(usize::from(head.kind), number(case, "type"));
        assert_eq!(head.len(), frame.len(), "{name}");
        assert_eq!(hex(&frame[3..]), text(case, "payload_hex"));
        let parsed = parse(head.kind, &frame[3..]).unwrap();
        if name.starts_with("MsgType") {
            // 0x03 was unknown to the reference; here it is LOST, and 40 bytes are the right size for it.
            let lost = matches!(parsed, Frame::Lost { .. }) && head.kind == 3;
            assert!(lost || parsed == Frame::Unknown(head.kind), "{parsed:?}");
            continue;
        }
        known += 1;
        assert_eq!(
            hex(&encoded(name, &case["fields"])),
            text(case, "frame_hex")
        );
        assert_eq!(parsed.frame_type().map(FrameType::name), Some(name));
    }
    assert_eq!(known, 15);
    assert_eq!(number(&vectors["limits"], "largest_frame"), 65538);
    assert!(encode_data(1, &vec![0; 65531]).is_some_and(|frame| frame.len() == 65538));
    assert!(encode_data(1, &vec![0; 65532]).is_none());
}

#[test]
fn payload_sizes() {
    for case in list(&vectors!("cluster-frames.json"), "payload_sizes", 24) {
        let kind = u8::try_from(number(case, "type")).unwrap();
        let payload = vec![0; number(case, "payload_length")];
        let parsed = parse(kind, &payload);
        assert_eq!(parsed.is_ok(), case["decoder_accepts"] == true, "{case}");
        let ends = parsed.is_err_and(|error| error.ends_stream());
        assert_eq!(
            ends,
            case["closes_stream_on_the_reference"] == true,
            "{case}"
        );
    }
    // Our own types obey the same rule.
    let lost = encode_lost(&peer("alice"), Seqno(7));
    assert!(parse(lost[0], &lost[3..]).is_ok());
    for wrong in [35, 39, 41] {
        assert!(parse(0x03, &vec![0; wrong]).is_err_and(|error| error.ends_stream()));
    }
    assert!(parse(0x15, &[0; 35]).is_err_and(|error| error.ends_stream()));
    assert!(parse(0x15, &[0; 36]).is_ok());
}

#[test]
fn unfinished_frames() {
    let frame = encode_who_has(&peer("alice"));
    for case in list(&vectors!("cluster-frames.json"), "partial", 6) {
        let cut = number(case, "bytes_before_end_of_stream");
        let whole = next_frame(&frame[..cut]).is_some_and(|head| head.len() <= cut);
        assert_eq!(whole, text(case, "reference_error") == "<nil>", "{cut}");
    }
}

/// Where our verdict on a HELLO is another than the reference's, and why.
fn ours(case: &str) -> Option<HelloRefusal> {
    Some(match case {
        // The MAC is looked at before the timestamp, so that a forger's timestamp decides nothing.
        "signed with another secret and stale" => HelloRefusal::HmacMismatch,
        "unsigned and stale, receiver has a secret" => HelloRefusal::UnsignedButRequired,
        // The address must be host:port in UTF-8: it becomes the name of the pod.
        "empty address, unsigned"
        | "empty address, signed"
        | "address of 255 bytes, signed"
        | "address that is not host:port, signed"
        | "address not UTF-8, signed" => HelloRefusal::Malformed,
        _ => return None,
    })
}

#[test]
fn hello_verdicts() {
    let vectors = vectors!("cluster-hello.json");
    let now = number(&vectors, "now_unix") as u64;
    let mut different = 0;
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 38);
    for case in cases {
        let secrets: Vec<_> = ClusterSecret::new(text(case, "receiver_secret"))
            .into_iter()
            .collect();
        let payload = bytes(case, "payload_hex");
        let verdict = check_hello(&payload, &secrets, now);
        if let Some(refusal) = ours(text(case, "case")) {
            different += 1;
            assert_eq!(verdict, Err(refusal), "{case}");
            assert_ne!(
                case["reason"],
                refusal.reason(),
                "no difference any more: {case}"
            );
            continue;
        }
        match verdict {
            Ok(address) => assert_eq!(hex(address.as_bytes()), text(case, "address_hex")),
            Err(refusal) => assert_eq!(refusal.reason(), text(case, "reason"), "{case}"),
        }
    }
    assert_eq!(different, 7);
    for reason in list(&vectors, "reasons_not_from_the_payload", 2) {
        assert!(
            HelloRefusal::ALL
                .iter()
                .any(|refusal| refusal.reason() == reason.as_str().unwrap())
        );
    }
    assert!(encode_hello(&"a".repeat(256), 0, None).is_none());
}
