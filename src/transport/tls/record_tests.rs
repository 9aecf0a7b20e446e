//! Records against what the other side may send: anything.

use proptest::collection::vec;
use proptest::prelude::*;
use rustls::ConnectionTrafficSecrets::{Aes256Gcm, Chacha20Poly1305};
use rustls::crypto::cipher::{AeadKey, Iv};

use super::*;

/// Both sides' key of this number.
fn key(number: u8) -> RecordKey {
    let (key, iv) = (AeadKey::from([number; 32]), Iv::new([9; 12]));
    let secrets = if number.is_multiple_of(2) {
        Aes256Gcm { key, iv }
    } else {
        Chacha20Poly1305 { key, iv }
    };
    RecordKey::new(3, &secrets).unwrap()
}

/// A record with this in it, whatever it is.
fn record(key: &mut RecordKey, inner: &[u8]) -> Vec<u8> {
    let len = u16::try_from(inner.len() + TAG_LEN).unwrap();
    let [high, low] = len.to_be_bytes();
    let head = [DATA, 3, 3, high, low];
    let mut sealed = inner.to_vec();
    let tag = key.seal(head, &mut sealed);
    [&head[..], &sealed, &tag].concat()
}

fn typed(kind: u8, content: &[u8]) -> Vec<u8> {
    [content, &[kind]].concat()
}

/// What becomes of records with these things in them, in one piece.
fn opened(inners: &[Vec<u8>]) -> (Vec<u8>, Result<Stop, Fault>) {
    let mut sender = key(2);
    let mut bytes: Vec<u8> = inners
        .iter()
        .flat_map(|inner| record(&mut sender, inner))
        .collect();
    let mut progress = Progress::default();
    let result = Opener::new(key(2)).open(&mut bytes, &mut progress);
    bytes.truncate(progress.plain);
    (bytes, result)
}

/// Feeds `stream` in pieces that end at `cuts`, as the reader does, and changes keys when told to.
fn fed(stream: &[u8], cuts: &[usize]) -> (Vec<u8>, u8, Result<Stop, Fault>) {
    let mut number = 2;
    let mut opener = Opener::new(key(number));
    let (mut data, mut carry) = (Vec::new(), Vec::new());
    let mut from = 0;
    for &to in cuts.iter().chain([&stream.len()]) {
        if to <= from {
            continue;
        }
        carry.extend_from_slice(&stream[from..to]);
        from = to;
        let mut progress = Progress::default();
        loop {
            match opener.open(&mut carry, &mut progress) {
                Ok(Stop::KeyUpdate { .. }) => {
                    number += 1;
                    opener.set_key(key(number));
                }
                Ok(Stop::Starved) => break,
                end => {
                    data.extend_from_slice(&carry[..progress.plain]);
                    return (data, number, end);
                }
            }
        }
        data.extend_from_slice(&carry[..progress.plain]);
        carry.drain(..progress.unread);
    }
    (data, number, Ok(Stop::Starved))
}

/// What a side sends.
#[derive(Debug, Clone)]
enum Sent {
    Data(Vec<u8>, usize),
    Update,
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        6 => (vec(any::<u8>(), 0..600), 0..40_usize).prop_map(|(data, zeros)| Sent::Data(data, zeros)),
        1 => Just(Sent::Update),
    ]
}

fn stream(all: &[Sent]) -> (Vec<u8>, Vec<u8>, u8) {
    let (mut number, mut bytes, mut data) = (2, Vec::new(), Vec::new());
    let mut sender = key(number);
    for one in all {
        match one {
            Sent::Data(content, zeros) => {
                let inner = [&typed(DATA, content)[..], &vec![0; *zeros]].concat();
                bytes.extend(record(&mut sender, &inner));
                data.extend_from_slice(content);
            }
            Sent::Update => {
                let update = typed(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 1]);
                bytes.extend(record(&mut sender, &update));
                number += 1;
                sender = key(number);
            }
        }
    }
    (bytes, data, number)
}

proptest! {
    /// Data comes out whole and in one piece, wherever the stream is cut.
    #[test]
    fn data_is_what_was_sealed(all in vec(sent(), 0..20), cuts in vec(any::<prop::sample::Index>(), 0..20)) {
        let (bytes, data, number) = stream(&all);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(fed(&bytes, &cuts), (data, number, Ok(Stop::Starved)));
    }

    /// One bit that is not as it was sent, anywhere, and nothing of that record comes out.
    #[test]
    fn a_changed_bit_ends_it(data in vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let good = record(&mut key(2), &typed(DATA, &data));
        let mut bytes = good.clone();
        bytes[at.index(good.len())] ^= 1_u8 << bit;
        // With a longer length the rest is waited for; it would be covered by the tag.
        let (out, _, end) = fed(&bytes, &[]);
        prop_assert!(out.is_empty());
        prop_assert!(end.is_err() || (at.index(good.len()) == 3 || at.index(good.len()) == 4) && end == Ok(Stop::Starved));
    }

    /// Bytes of any kind, sealed or not, neither panic nor bring data that nobody sealed.
    #[test]
    fn anything_may_come(bytes in vec(any::<u8>(), 0..300), inners in vec((vec(any::<u8>(), 0..40), 18..26_u8), 0..20)) {
        prop_assert!(fed(&[&[DATA, 3, 3, 0][..], &bytes].concat(), &[]).0.is_empty());
        let inners: Vec<Vec<u8>> = inners.iter().map(|(content, kind)| typed(*kind, content)).collect();
        let (data, _) = opened(&inners);
        prop_assert!(data.len() <= inners.iter().map(Vec::len).sum());
    }

    /// What is sealed where it lies is what is sealed as a copy, and the byte behind it stays.
    #[test]
    fn in_place_or_copied_is_the_same(data in vec(any::<u8>(), 1..40_000)) {
        let mut copied = Sealed::default();
        Sealer::new(key(2), 100).seal(&data, &mut copied);
        let mut sealer = Sealer::new(key(2), 100);
        let mut slab = [&data[..], &[0xA5]].concat();
        let mut joined = Vec::new();
        for start in (0..data.len()).step_by(DATA_MAX) {
            let end = data.len().min(start + DATA_MAX);
            let behind = slab[end];
            let frame = sealer.seal_in_place(&mut slab[start..=end]);
            prop_assert_eq!(slab[end], behind);
            joined.extend([&frame.head[..], &slab[start..end], &frame.trailer].concat());
        }
        prop_assert_eq!(copied.bytes(), &joined[..]);
        prop_assert_eq!(fed(&joined, &[]), (data, 2, Ok(Stop::Starved)));
    }
}

/// Cut at each single byte, a stream with all that may come in it is the same.
#[test]
fn every_cut_is_alike() {
    let all = [
        Sent::Data(vec![1; 50], 0),
        Sent::Update,
        Sent::Data(Vec::new(), 3),
        Sent::Data(vec![2; 70], 9),
    ];
    let (bytes, data, number) = stream(&all);
    for cut in 0..=bytes.len() {
        assert_eq!(
            fed(&bytes, &[cut]),
            (data.clone(), number, Ok(Stop::Starved))
        );
    }
    let every: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(fed(&bytes, &every), (data, number, Ok(Stop::Starved)));
}

#[test]
fn what_has_no_place_is_refused() {
    let update = |want| typed(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, want]);
    let whole = vec![7; DATA_MAX];
    let cases = [
        // An alert is one record, and the other side's last word.
        (vec![typed(ALERT, &[1, 0])], Ok(Stop::Closed)),
        (
            vec![typed(ALERT, &[1, 90]), typed(ALERT, &[2, 0])],
            Ok(Stop::Closed),
        ),
        (
            vec![typed(ALERT, &[2, 20])],
            Err(Fault::Alert(AlertDescription::BadRecordMac)),
        ),
        (vec![typed(ALERT, &[2])], Err(Fault::Malformed)),
        (vec![typed(ALERT, &[1, 0, 0])], Err(Fault::Malformed)),
        (vec![typed(ALERT, &[])], Err(Fault::Malformed)),
        // Of the handshake there are key updates, whole or in pieces, and nothing in between or behind.
        (vec![update(0)], Ok(Stop::KeyUpdate { answer: false })),
        (vec![update(1)], Ok(Stop::KeyUpdate { answer: true })),
        (vec![update(2)], Err(Fault::Illegal)),
        (
            vec![
                typed(HANDSHAKE, &[KEY_UPDATE, 0]),
                typed(HANDSHAKE, &[0, 1, 1]),
            ],
            Ok(Stop::KeyUpdate { answer: true }),
        ),
        (
            vec![typed(HANDSHAKE, &[KEY_UPDATE, 0]), typed(DATA, b"x")],
            Err(Fault::Unexpected),
        ),
        (
            vec![typed(HANDSHAKE, &[KEY_UPDATE, 0]), typed(ALERT, &[1, 0])],
            Err(Fault::Unexpected),
        ),
        (
            vec![typed(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE])],
            Err(Fault::Unexpected),
        ),
        (
            vec![typed(HANDSHAKE, &[KEY_UPDATE, 0, 0, 2])],
            Err(Fault::Malformed),
        ),
        (vec![typed(HANDSHAKE, &[])], Err(Fault::Unexpected)),
        // ClientHello, as for another handshake; a ticket; Finished.
        (vec![typed(HANDSHAKE, &[1])], Err(Fault::Unexpected)),
        (vec![typed(HANDSHAKE, &[4, 0])], Err(Fault::Unexpected)),
        (vec![typed(HANDSHAKE, &[20])], Err(Fault::Unexpected)),
        // ChangeCipherSpec, unknown types, and none at all.
        (vec![typed(20, &[1])], Err(Fault::Unexpected)),
        (vec![typed(24, &[1])], Err(Fault::Unexpected)),
        (vec![vec![0; 9]], Err(Fault::Unexpected)),
        (vec![Vec::new()], Err(Fault::Unexpected)),
        // Lengths: with padding, too.
        (vec![typed(DATA, &whole)], Ok(Stop::Starved)),
        (
            vec![[&typed(DATA, &whole)[..], &[0]].concat()],
            Err(Fault::TooLong),
        ),
        (vec![typed(DATA, &[7; DATA_MAX + 1])], Err(Fault::TooLong)),
    ];
    for (inners, end) in cases {
        let shown: Vec<&[u8]> = inners.iter().map(|it| &it[..it.len().min(9)]).collect();
        assert_eq!(opened(&inners).1, end, "{shown:?}");
    }
}

#[test]
fn heads_are_refused_before_what_follows_them_has_come() {
    for (head, fault) in [
        // ChangeCipherSpec, an alert in the clear, a handshake.
        ([20, 3, 3, 0, 1], Fault::Unexpected),
        ([21, 3, 3, 0, 2], Fault::Unexpected),
        ([22, 3, 3, 0, 9], Fault::Unexpected),
        ([23, 3, 3, 0, 15], Fault::BadTag),
        ([23, 3, 3, 0x41, 1], Fault::TooLong),
    ] {
        assert_eq!(fed(&head, &[]).2, Err(fault), "{head:?}");
    }
    assert_eq!(fed(&[23, 3, 3, 0x41, 0], &[]).2, Ok(Stop::Starved));
}

/// What came in front of a bad record is handed out.
#[test]
fn good_records_in_front_of_a_bad_one_count() {
    let inners = [typed(DATA, b"one"), typed(DATA, b"two"), typed(20, &[1])];
    assert_eq!(
        opened(&inners),
        (b"onetwo".to_vec(), Err(Fault::Unexpected))
    );
}

#[test]
fn records_without_data_are_bounded() {
    for empty in [typed(DATA, &[]), typed(ALERT, &[1, 90])] {
        let mut inners = vec![empty.clone(); IDLE_MAX as usize];
        assert_eq!(opened(&inners).1, Ok(Stop::Starved));
        inners.push(typed(DATA, b"x"));
        inners.extend(vec![empty.clone(); IDLE_MAX as usize]);
        assert_eq!(opened(&inners), (b"x".to_vec(), Ok(Stop::Starved)));
        inners.push(empty);
        assert_eq!(opened(&inners).1, Err(Fault::Unexpected));
    }
    let updates = |count| stream(&vec![Sent::Update; count]).0;
    assert_eq!(fed(&updates(IDLE_MAX as usize), &[]).2, Ok(Stop::Starved));
    assert_eq!(
        fed(&updates(IDLE_MAX as usize + 1), &[]).2,
        Err(Fault::Unexpected)
    );
}

/// A key is changed while it may still seal the records that are due, the message that says so, and an alert.
#[test]
fn a_key_is_worn_before_its_limit() {
    let mut sealer = Sealer::new(key(2), 9);
    assert!(!sealer.is_worn(4));
    assert!(sealer.is_worn(5));
    let mut records = Sealed::default();
    sealer.seal(&[1; 3 * DATA_MAX], &mut records);
    assert!(sealer.is_worn(2));
    sealer.update(key(3), &mut records);
    sealer.seal(b"after", &mut records);
    let (data, number, _) = fed(records.bytes(), &[]);
    assert_eq!((&data[3 * DATA_MAX..], number), (&b"after"[..], 3));
    assert!(!Sealer::new(key(2), u64::MAX).is_worn(1 << 40));
}

#[test]
fn no_key_is_shown() {
    let shown = format!("{:?}", (Opener::new(key(2)), Sealer::new(key(2), 9)));
    assert!(
        shown.contains("RecordKey") && !shown.contains("iv"),
        "{shown}"
    );
}
