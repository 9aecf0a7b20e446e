//! Reading a message: the two bytes that decide its way, and the whole of each type.

use std::hint::black_box;

use criterion::Criterion;
use trunkline::proto::PeerId;
use trunkline::proto::limits::PEER_STATE_IDS_MAX;
use trunkline::proto::peer::{
    self, CLOSE, HEALTH_CHECK, MessageType, encode_auth, encode_auth_response, encode_peer_ids,
};

use crate::world::{id, transport};

/// Bytes of a token that the stock clients send.
const TOKEN_LEN: usize = 43;

pub(crate) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    let message = transport(&id(1));
    group.bench_function("message_type", |bencher| {
        bencher.iter(|| peer::message_type(black_box(&message)));
    });
    for message in messages() {
        let kind = peer::message_type(&message).expect("a message of a known type");
        peer::parse(&message).expect("a well-formed message");
        group.bench_function(kind.name(), |bencher| {
            bencher.iter(|| peer::parse(black_box(&message)).is_ok());
        });
    }
    group.finish();
}

/// A message of each type that is spoken today.
fn messages() -> Vec<Vec<u8>> {
    let ids: Vec<PeerId> = (0..PEER_STATE_IDS_MAX).map(id).collect();
    let mut messages = vec![
        transport(&id(1)),
        HEALTH_CHECK.to_vec(),
        CLOSE.to_vec(),
        encode_auth(&id(1), &[0; TOKEN_LEN]).expect("the token is short enough"),
        encode_auth_response("rel://relay.example.com:443").expect("the address is short enough"),
    ];
    for kind in MessageType::ALL {
        if kind.is_peer_state() {
            messages.extend(encode_peer_ids(kind, &ids));
        }
    }
    messages
}
