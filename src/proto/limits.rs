//! The numbers of the peer protocol (peer-protocol.md, *Header* and *Sizes*). All lengths are in bytes and count a
//! whole protocol message with its header, unless the name says otherwise.

/// The only protocol version there is: the first byte of every message.
pub const PROTOCOL_VERSION: u8 = 1;

/// Version and type: what every message starts with.
pub const HEADER_LEN: usize = 2;

/// A peer ID: the four bytes `sha-` and a SHA-256.
pub const PEER_ID_LEN: usize = 36;

/// Header and peer ID: what stands before the payload of a transport message.
pub const TRANSPORT_HEADER_LEN: usize = HEADER_LEN + PEER_ID_LEN;

/// The four bytes between the header and the peer ID of an auth message.
pub const AUTH_MAGIC: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];

/// Header, magic and peer ID: what stands before the token of an auth message.
pub const AUTH_HEADER_LEN: usize = HEADER_LEN + AUTH_MAGIC.len() + PEER_ID_LEN;

/// The longest auth message. It bounds what a peer may send before it is known.
pub const AUTH_MAX: usize = 212;

/// The longest auth response.
pub const AUTH_RESPONSE_MAX: usize = 8192;

/// The longest message of any other type. Stock clients read into a buffer of this size and lose what is beyond.
pub const MESSAGE_MAX: usize = 8820;

/// The most IDs one peer-state message can hold; longer lists are split.
pub const PEER_STATE_IDS_MAX: usize = (MESSAGE_MAX - HEADER_LEN) / PEER_ID_LEN;

const _: () =
    assert!(PEER_STATE_IDS_MAX == 244 && TRANSPORT_HEADER_LEN == 38 && AUTH_HEADER_LEN == 42);
