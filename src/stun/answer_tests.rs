use proptest::prelude::*;
use stun_types::message::TransactionId;

use super::*;

/// RFC 5769, 2.1: a sample request, with PRIORITY, ICE-CONTROLLED, USERNAME, MESSAGE-INTEGRITY and FINGERPRINT.
const RFC5769_REQUEST: [u8; 108] = [
    0x00, 0x01, 0x00, 0x58, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86,
    0xfa, 0x87, 0xdf, 0xae, 0x80, 0x22, 0x00, 0x10, 0x53, 0x54, 0x55, 0x4e, 0x20, 0x74, 0x65, 0x73,
    0x74, 0x20, 0x63, 0x6c, 0x69, 0x65, 0x6e, 0x74, 0x00, 0x24, 0x00, 0x04, 0x6e, 0x00, 0x01, 0xff,
    0x80, 0x29, 0x00, 0x08, 0x93, 0x2f, 0xf9, 0xb1, 0x51, 0x26, 0x3b, 0x36, 0x00, 0x06, 0x00, 0x09,
    0x65, 0x76, 0x74, 0x6a, 0x3a, 0x68, 0x36, 0x76, 0x59, 0x20, 0x20, 0x20, 0x00, 0x08, 0x00, 0x14,
    0x9a, 0xea, 0xa7, 0x0c, 0xbf, 0xd8, 0xcb, 0x56, 0x78, 0x1e, 0xf2, 0xb5, 0xb2, 0xd3, 0xf2, 0x49,
    0xc1, 0xb5, 0x71, 0xa2, 0x80, 0x28, 0x00, 0x04, 0xe5, 0x7a, 0x3b, 0xcf,
];
/// The transaction of all samples of RFC 5769, 2.1 to 2.3.
const TRANSACTION: [u8; 12] = [
    0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
];
/// XOR-MAPPED-ADDRESS of 192.0.2.1:32853 (RFC 5769, 2.2).
const MAPPED_V4: [u8; 12] = [
    0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43,
];
/// XOR-MAPPED-ADDRESS of [2001:db8:1234:5678:11:2233:4455:6677]:32853 (RFC 5769, 2.3).
const MAPPED_V6: [u8; 24] = [
    0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79,
    0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
];

fn v4() -> SocketAddr {
    "192.0.2.1:32853".parse().unwrap()
}

fn reply(question: &[u8], from: SocketAddr) -> Result<(&'static str, Vec<u8>), Ignored> {
    let mut room = [0; ANSWER_MAX];
    answer(question, from, &mut room).map(|(result, length)| (result, room[..length].to_vec()))
}

/// A message of this type with these attributes' bytes.
fn message(kind: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(attributes.len()).unwrap();
    let mut bytes = Vec::new();
    bytes.extend(kind.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0x21, 0x12, 0xa4, 0x42]);
    bytes.extend(TRANSACTION);
    bytes.extend(attributes);
    bytes
}

/// Header, transaction, the one attribute and a fingerprint whose value another implementation checks.
fn assert_answer(bytes: &[u8], kind: u16, attributes: &[u8]) {
    let end = 20 + attributes.len();
    assert_eq!(bytes[..2], kind.to_be_bytes());
    assert_eq!(bytes.len(), end + 8);
    assert_eq!(bytes[2..4], (attributes.len() as u16 + 8).to_be_bytes());
    assert_eq!(bytes[4..8], [0x21, 0x12, 0xa4, 0x42]);
    assert_eq!(bytes[8..20], TRANSACTION);
    assert_eq!(bytes[20..end], *attributes);
    assert_eq!(bytes[end..end + 4], [0x80, 0x28, 0, 4]);
    let crc = crc32(&bytes[..end]) ^ 0x5354_554e;
    assert_eq!(bytes[end + 4..], crc.to_be_bytes());
}

/// The CRC of ITU V.42, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn addresses_as_in_rfc_5769() {
    let (result, bytes) = reply(&message(1, &[]), v4()).unwrap();
    assert_eq!(result, "answered");
    assert_answer(&bytes, 0x0101, &MAPPED_V4);
    let v6 = "[2001:db8:1234:5678:11:2233:4455:6677]:32853"
        .parse()
        .unwrap();
    assert_answer(&reply(&message(1, &[]), v6).unwrap().1, 0x0101, &MAPPED_V6);
    let both = "[::ffff:192.0.2.1]:32853".parse().unwrap();
    assert_answer(
        &reply(&message(1, &[]), both).unwrap().1,
        0x0101,
        &MAPPED_V4,
    );
}

#[test]
fn the_sample_request_of_rfc_5769_asks_for_what_a_plain_server_has_not() {
    let (result, bytes) = reply(&RFC5769_REQUEST, v4()).unwrap();
    assert_eq!(result, "unknown_attribute");
    // 420 without a phrase, and PRIORITY.
    let attributes = [0, 9, 0, 4, 0, 0, 4, 20, 0, 10, 0, 2, 0, 0x24];
    assert_answer(&bytes, 0x0111, &[&attributes[..], &bytes[34..36]].concat());
    let mut broken = RFC5769_REQUEST;
    broken[107] ^= 1;
    assert_eq!(
        reply(&broken, v4()),
        Err(Ignored::Malformed),
        "its fingerprint is checked"
    );
}

#[test]
fn what_may_be_ignored_is() {
    // SOFTWARE of three bytes and a padding; then USERNAME, which is understood.
    let known = [
        0x80, 0x22, 0, 3, b'a', b'b', b'c', 0, 0, 6, 0, 4, b'u', b's', b'e', b'r',
    ];
    assert_answer(
        &reply(&message(1, &known), v4()).unwrap().1,
        0x0101,
        &MAPPED_V4,
    );
    // CHANGE-REQUEST after an integrity is not protected by it and does not count.
    let mut late = vec![0, 8, 0, 20];
    late.extend([7; 20]);
    late.extend([0, 3, 0, 4, 0, 0, 0, 6]);
    assert_answer(
        &reply(&message(1, &late), v4()).unwrap().1,
        0x0101,
        &MAPPED_V4,
    );
    let refused = reply(&message(1, &late[24..]), v4()).unwrap();
    assert_eq!(refused.0, "unknown_attribute");
}

#[test]
fn nothing_but_a_binding_request_is_answered() {
    for kind in [0x0011, 0x0101, 0x0111, 0x0003, 0x0002, 0x0103] {
        assert_eq!(
            reply(&message(kind, &[]), v4()),
            Err(Ignored::Unsupported),
            "{kind:#x}"
        );
    }
    let good = message(1, &[]);
    for length in 0..20 {
        assert_eq!(
            reply(&good[..length], v4()),
            Err(Ignored::Malformed),
            "{length}"
        );
    }
    let mut cookie = good.clone();
    cookie[4] = 0x20;
    let mut longer = good;
    longer.extend([0; 4]);
    let mut cut = message(1, &[0x80, 0x22, 0, 9, 1, 2, 3, 4]);
    for wrong in [cookie, longer, message(1, &[0x80, 0x22, 0]), cut.clone()] {
        assert_eq!(reply(&wrong, v4()), Err(Ignored::Malformed), "{wrong:02x?}");
    }
    cut[0] = 0x80;
    assert_eq!(
        reply(&cut, v4()),
        Err(Ignored::Malformed),
        "not STUN's first bits"
    );
    assert_eq!(reply(&[0; QUESTION_MAX + 1], v4()), Err(Ignored::TooLong));
}

#[test]
fn no_question_has_a_much_longer_answer() {
    let v6 = "[2001:db8::1]:1".parse().unwrap();
    assert_eq!(
        reply(&message(1, &[]), v6).unwrap().1.len(),
        20 + GROWTH_MAX
    );
    // As many different unknown attributes as there is room for.
    let attributes: Vec<u8> = (0..132u16)
        .flat_map(|n| [(0x1000 + n).to_be_bytes(), [0, 0]].concat())
        .collect();
    let question = message(1, &attributes);
    assert_eq!(question.len(), QUESTION_MAX);
    let (result, bytes) = reply(&question, v6).unwrap();
    assert_eq!(
        (result, bytes.len()),
        ("unknown_attribute", 20 + 8 + 4 + 264 + 8)
    );
}

proptest! {
    #[test]
    fn any_bytes_are_answered_shortly_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok((_, answer)) = reply(&bytes, v4()) {
            prop_assert!(answer.len() <= bytes.len() + GROWTH_MAX);
        }
    }

    /// Headers that fit, so that attributes are reached: any bytes, and short attributes of any type.
    #[test]
    fn any_attributes_are_answered_shortly_or_not_at_all(
        words in prop::collection::vec((any::<u16>(), 0..3u16, any::<u32>(), any::<u32>()), 0..50),
        tail in prop::collection::vec(any::<u8>(), 0..40),
        v6: bool,
    ) {
        let mut attributes = Vec::new();
        for (kind, length, one, two) in words {
            attributes.extend(kind.to_be_bytes());
            attributes.extend((length * 4).to_be_bytes());
            attributes.extend(&[one.to_be_bytes(), two.to_be_bytes()].concat()[..usize::from(length) * 4]);
        }
        attributes.extend(tail);
        let question = message(1, &attributes);
        let from = if v6 { "[2001:db8::1]:9".parse().unwrap() } else { v4() };
        if let Ok((_, answer)) = reply(&question, from) {
            prop_assert!(answer.len() <= question.len() + GROWTH_MAX);
            let parsed = Message::from_bytes(&answer).unwrap();
            prop_assert!(parsed.is_response());
            prop_assert_eq!(parsed.transaction_id(), request_id());
        }
    }
}

fn request_id() -> TransactionId {
    Message::from_bytes(&message(1, &[]))
        .unwrap()
        .transaction_id()
}
