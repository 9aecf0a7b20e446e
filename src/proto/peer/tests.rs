use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::proto::PeerId;
use crate::proto::limits::{
    AUTH_MAX, AUTH_RESPONSE_MAX, HEADER_LEN, MESSAGE_MAX, PEER_ID_LEN, PEER_STATE_IDS_MAX,
    TRANSPORT_HEADER_LEN,
};

const PEER_STATE: [MessageType; 4] = [
    MessageType::Subscribe,
    MessageType::Unsubscribe,
    MessageType::PeersOnline,
    MessageType::PeersOffline,
];

fn alice() -> PeerId {
    PeerId::from_name(b"alice")
}

fn transport(peer: &PeerId, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_transport(peer, payload, &mut out).unwrap();
    out
}

fn peer_ids(kind: MessageType, ids: &[PeerId]) -> Vec<u8> {
    encode_peer_ids(kind, ids)
        .next()
        .unwrap_or_else(|| vec![1, kind as u8])
}

/// The bytes that make this message. Types whose body means nothing come back without one.
fn encode(message: &Message<'_>) -> Vec<u8> {
    let kind = message.message_type();
    match *message {
        Message::Hello | Message::HelloResponse => vec![1, kind as u8],
        Message::Close => CLOSE.to_vec(),
        Message::HealthCheck => HEALTH_CHECK.to_vec(),
        Message::Transport { peer, payload } => transport(&peer, payload),
        Message::Auth(AuthMessage { peer, token }) => encode_auth(&peer, token).unwrap(),
        Message::AuthResponse(url) => encode_auth_response(url).unwrap(),
        Message::Subscribe(ids)
        | Message::Unsubscribe(ids)
        | Message::PeersOnline(ids)
        | Message::PeersOffline(ids) => peer_ids(kind, &ids.iter().collect::<Vec<_>>()),
    }
}

/// Whether the body of such a message is looked at.
fn has_body(kind: MessageType) -> bool {
    use MessageType::{Close, HealthCheck, Hello, HelloResponse};
    !matches!(kind, Hello | HelloResponse | Close | HealthCheck)
}

#[test]
fn types_are_the_numbers_of_the_wire() {
    for byte in 0..=u8::MAX {
        match MessageType::try_from(byte) {
            Ok(kind) => {
                assert!((1..=11).contains(&byte));
                assert_eq!(kind as u8, byte);
                assert_eq!(kind.index(), usize::from(byte) - 1);
                assert_eq!(MessageType::ALL[kind.index()], kind);
            }
            Err(error) => {
                assert!(byte == 0 || byte > 11, "{byte}");
                assert_eq!(error, MessageError::UnknownType(byte));
            }
        }
    }
    let names: HashSet<_> = MessageType::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), MessageType::ALL.len());
    for name in names {
        assert!(
            name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{name}"
        );
    }
}

#[test]
fn header_is_judged_before_anything_else() {
    let cases: [(&[u8], MessageError); 7] = [
        (&[], MessageError::Empty),
        (&[1], MessageError::Truncated),
        (&[2], MessageError::Truncated),
        (&[0, 5], MessageError::Version(0)),
        (&[2, 99], MessageError::Version(2)),
        (&[1, 0], MessageError::UnknownType(0)),
        (&[1, 12], MessageError::UnknownType(12)),
    ];
    for (bytes, error) in cases {
        assert_eq!(message_type(bytes), Err(error), "{bytes:?}");
        assert_eq!(parse(bytes), Err(error), "{bytes:?}");
        assert!(error.ends_connection());
    }
    let mut long = vec![1; MESSAGE_MAX + 1];
    long[1] = 12;
    assert_eq!(parse(&long), Err(MessageError::UnknownType(12)));
}

#[test]
fn one_byte_above_the_limit_of_its_type_is_too_long() {
    for kind in MessageType::ALL {
        let limit = match kind {
            MessageType::Auth => AUTH_MAX,
            MessageType::AuthResponse => AUTH_RESPONSE_MAX,
            _ => MESSAGE_MAX,
        };
        assert_eq!(kind.max_len(), limit);
        let mut message = vec![b'a'; limit + 1];
        message[..HEADER_LEN].copy_from_slice(&[1, kind as u8]);
        let error = MessageError::TooLong {
            len: limit + 1,
            limit,
        };
        assert_eq!(parse(&message), Err(error));
        assert!(error.ends_connection());
        assert_eq!(message_type(&message), Ok(kind));

        let at_limit = parse(&message[..limit]);
        match kind {
            MessageType::Auth => assert_eq!(at_limit, Err(MessageError::AuthMagic)),
            kind if kind.is_peer_state() => {
                assert_eq!(
                    at_limit,
                    Err(MessageError::PeerIdList {
                        len: MESSAGE_MAX - HEADER_LEN
                    })
                );
            }
            kind => assert_eq!(at_limit.map(|message| message.message_type()), Ok(kind)),
        }
    }
}

#[test]
fn encoders_fill_a_message_and_refuse_one_byte_more() {
    let peer = alice();
    let too_long = |kind: MessageType| EncodeError::TooLong {
        kind,
        len: kind.max_len() + 1,
        limit: kind.max_len(),
    };

    let token = [7; AUTH_MAX - 42 + 1];
    assert_eq!(encode_auth(&peer, &token[1..]).unwrap().len(), AUTH_MAX);
    assert_eq!(encode_auth(&peer, &token), Err(too_long(MessageType::Auth)));

    let url = "u".repeat(AUTH_RESPONSE_MAX - 2 + 1);
    assert_eq!(
        encode_auth_response(&url[1..]).unwrap().len(),
        AUTH_RESPONSE_MAX
    );
    assert_eq!(
        encode_auth_response(&url),
        Err(too_long(MessageType::AuthResponse))
    );

    let payload = [7; MESSAGE_MAX - 38 + 1];
    let mut out = b"before".to_vec();
    assert_eq!(
        encode_transport(&peer, &payload, &mut out),
        Err(too_long(MessageType::Transport))
    );
    assert_eq!(out, b"before", "what was there is left alone");
    encode_transport(&peer, &payload[1..], &mut out).unwrap();
    assert_eq!(out.len(), "before".len() + MESSAGE_MAX);
    assert!(out.starts_with(b"before\x01\x03sha-"));
    assert_eq!(
        too_long(MessageType::Transport).to_string(),
        "transport message of 8821 bytes would be longer than 8820"
    );
}

#[test]
fn only_a_short_transport_or_an_odd_list_leaves_the_connection_alive() {
    let errors = [
        MessageError::Empty,
        MessageError::Truncated,
        MessageError::Version(2),
        MessageError::UnknownType(99),
        MessageError::TooLong {
            len: 8821,
            limit: 8820,
        },
        MessageError::TransportTooShort { len: 37 },
        MessageError::PeerIdList { len: 35 },
        MessageError::AuthTooShort { len: 41 },
        MessageError::AuthMagic,
        MessageError::AuthResponseEmpty,
        MessageError::AuthResponseNotUtf8,
    ];
    let alive: Vec<_> = errors
        .iter()
        .filter(|error| !error.ends_connection())
        .map(MessageError::reason)
        .collect();
    assert_eq!(alive, ["transport_too_short", "peer_id_list"]);
    let reasons: HashSet<_> = errors.iter().map(MessageError::reason).collect();
    assert_eq!(reasons.len(), errors.len());
}

#[test]
fn auth_response_must_be_utf8() {
    assert_eq!(
        parse(b"\x01\x07rel://\xff"),
        Err(MessageError::AuthResponseNotUtf8)
    );
    assert_eq!(
        parse("\x01\x07rel://ü".as_bytes()),
        Ok(Message::AuthResponse("rel://ü"))
    );
}

#[test]
fn debug_shows_neither_token_nor_payload() {
    let auth = encode_auth(&alice(), b"ZZZZZZZZ").unwrap();
    let text = format!("{:?}", parse(&auth).unwrap());
    assert_eq!(
        text,
        format!("auth(AuthMessage {{ peer: {}, .. }})", alice())
    );
    let message = transport(&alice(), b"ZZZZZZZZ");
    let text = format!("{:?}", parse(&message).unwrap());
    assert_eq!(
        text,
        format!("transport {{ peer: {}, payload_len: 8 }}", alice())
    );
}

#[test]
#[cfg(not(debug_assertions))]
fn stamping_a_short_message_leaves_it_alone() {
    let mut short = vec![1, 3, 9];
    stamp_source(&mut short, &alice());
    assert_eq!(short, [1, 3, 9]);
}

prop_compose! {
    fn any_id()(bytes in vec(any::<u8>(), PEER_ID_LEN)) -> PeerId {
        PeerId::from_slice(&bytes).expect("36 bytes were asked for")
    }
}

/// Whole messages of every type, as their encoders write them, and those without an encoder with any body.
fn any_valid() -> impl Strategy<Value = Vec<u8>> {
    let bodiless = [
        MessageType::Hello,
        MessageType::HelloResponse,
        MessageType::Close,
        MessageType::HealthCheck,
    ];
    prop_oneof![
        (any_id(), vec(any::<u8>(), 0..=1500)).prop_map(|(id, payload)| transport(&id, &payload)),
        (any_id(), vec(any::<u8>(), 0..=170))
            .prop_map(|(id, token)| encode_auth(&id, &token).unwrap()),
        "[\\PC]{1,200}".prop_map(|url| encode_auth_response(&url).unwrap()),
        (
            select(PEER_STATE.to_vec()),
            vec(any_id(), 0..=PEER_STATE_IDS_MAX)
        )
            .prop_map(|(kind, ids)| peer_ids(kind, &ids)),
        (select(bodiless.to_vec()), vec(any::<u8>(), 0..=64)).prop_map(|(kind, body)| {
            let mut message = vec![1, kind as u8];
            message.extend(body);
            message
        }),
    ]
}

/// What must hold for any bytes at all, good or bad.
fn check_any_bytes(bytes: &[u8]) -> Result<(), TestCaseError> {
    let kind = message_type(bytes);
    match parse(bytes) {
        Ok(message) => {
            prop_assert_eq!(kind, Ok(message.message_type()));
            prop_assert!(bytes.len() <= message.message_type().max_len());
            if has_body(message.message_type()) {
                prop_assert_eq!(encode(&message), bytes);
            } else {
                prop_assert_eq!(encode(&message), &bytes[..HEADER_LEN]);
            }
            if let Message::Transport { peer, .. } = message {
                prop_assert_eq!(transport_peer(bytes), Some(peer));
            }
            // Debug is part of the promise: it must cope with any content.
            let shown = format!("{message:?}");
            prop_assert!(shown.starts_with(message.message_type().name()));
        }
        Err(error) => {
            if let Err(in_header) = kind {
                prop_assert_eq!(error, in_header);
            }
            prop_assert!(!error.to_string().is_empty() && !error.reason().is_empty());
        }
    }
    prop_assert_eq!(
        transport_peer(bytes).is_some(),
        bytes.len() >= TRANSPORT_HEADER_LEN
    );
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in vec(any::<u8>(), 0..=300)) {
        check_any_bytes(&bytes)?;
    }

    #[test]
    fn any_body_under_a_good_header_is_a_message_or_an_error(
        kind in select(MessageType::ALL.to_vec()),
        body in vec(any::<u8>(), 0..=300),
    ) {
        let mut bytes = vec![1, kind as u8];
        bytes.extend(body);
        check_any_bytes(&bytes)?;
    }

    #[test]
    fn what_is_encoded_parses_and_encodes_to_the_same(bytes in any_valid()) {
        prop_assert!(parse(&bytes).is_ok());
        check_any_bytes(&bytes)?;
    }

    #[test]
    fn a_damaged_message_is_a_message_or_an_error(
        mut bytes in any_valid(),
        flips in vec((any::<Index>(), 1..=u8::MAX), 0..4),
        cut in proptest::option::of(any::<Index>()),
        grow in prop_oneof![3 => Just(0_usize), 1 => 0..9000_usize],
    ) {
        for (at, bits) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes.resize(bytes.len() + grow, 0);
        check_any_bytes(&bytes)?;
    }

    #[test]
    fn parts_come_back_as_they_went_in(id in any_id(), payload in vec(any::<u8>(), 0..=170)) {
        let auth = encode_auth(&id, &payload).unwrap();
        prop_assert_eq!(parse(&auth), Ok(Message::Auth(AuthMessage { peer: id, token: &payload })));
        let message = transport(&id, &payload);
        prop_assert_eq!(parse(&message), Ok(Message::Transport { peer: id, payload: &payload }));
    }

    #[test]
    fn splitting_keeps_every_id_in_its_order(
        kind in select(PEER_STATE.to_vec()),
        count in prop_oneof![0..5_usize, 240..250_usize, 0..1500_usize],
    ) {
        let ids: Vec<_> = (0..count).map(|n| PeerId::from_name(&n.to_be_bytes())).collect();
        let messages: Vec<_> = encode_peer_ids(kind, &ids).collect();
        prop_assert_eq!(messages.len(), count.div_ceil(PEER_STATE_IDS_MAX));
        let mut back = Vec::new();
        for message in &messages {
            prop_assert!(message.len() <= MESSAGE_MAX);
            let parsed = parse(message).unwrap();
            prop_assert_eq!(parsed.message_type(), kind);
            let (Message::Subscribe(list) | Message::Unsubscribe(list) | Message::PeersOnline(list)
                | Message::PeersOffline(list)) = parsed else { panic!("no list in {parsed:?}") };
            prop_assert!(!list.is_empty());
            prop_assert_eq!(list.len(), list.iter().len());
            back.extend(list);
        }
        prop_assert_eq!(back, ids);
    }

    #[test]
    fn stamping_changes_the_id_and_nothing_else(to in any_id(), from in any_id(), payload in vec(any::<u8>(), 0..=1500)) {
        let mut message = transport(&to, &payload);
        stamp_source(&mut message, &from);
        prop_assert_eq!(message, transport(&from, &payload));
    }
}
