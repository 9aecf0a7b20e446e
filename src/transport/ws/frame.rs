//! WebSocket frames (RFC 6455, section 5): heads in, heads out, masks. Sans-I/O.

/// Bytes of the longest head of a masked frame: two, eight of length, four of mask.
pub const HEAD_MAX: usize = 14;

/// Bytes that a control frame's payload may have (RFC 6455, section 5.5).
pub const CONTROL_MAX: usize = 125;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further piece of a message.
    Continuation = 0x0,
    /// A text message, or its first piece.
    Text = 0x1,
    /// A binary message, or its first piece.
    Binary = 0x2,
    /// The end of the conversation.
    Close = 0x8,
    /// A question that wants a pong.
    Ping = 0x9,
    /// The answer to a ping.
    Pong = 0xA,
}

impl Opcode {
    /// Whether it is a control frame.
    #[must_use]
    pub fn is_control(self) -> bool {
        self as u8 >= 0x8
    }

    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }
}

/// A status code in a close frame (RFC 6455, section 7.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    /// All is well.
    Normal = 1000,
    /// The endpoint broke the protocol.
    Protocol = 1002,
    /// Text, where only binary messages are understood.
    Unsupported = 1003,
    /// Text that is not UTF-8.
    InvalidText = 1007,
    /// The message is too big.
    TooBig = 1009,
}

/// Whether a close frame may carry this code on the wire.
///
/// 1004 to 1006 and 1015 are reserved and never sent; 1012 to 1014 were registered after the RFC; 3000 to 4999 belong to
/// libraries and applications.
#[must_use]
pub fn is_valid_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The head of a frame that a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Whether it is the last piece of its message.
    pub fin: bool,
    /// What it is for.
    pub opcode: Opcode,
    /// Bytes of its payload.
    pub payload_len: u64,
    /// What its payload is masked with.
    pub mask: [u8; 4],
    /// Bytes of the head itself.
    pub len: usize,
}

/// A head that no client may send; all are protocol errors (1002).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadError {
    /// A reserved bit is set although no extension was negotiated (section 5.2).
    ReservedBits,
    /// An opcode that does not exist (section 5.2).
    ReservedOpcode,
    /// A client's frame without a mask (section 5.1).
    Unmasked,
    /// A control frame that is not final (section 5.4).
    FragmentedControl,
    /// A control frame with more than 125 bytes (section 5.5).
    LongControl,
    /// The highest bit of a 64-bit length is set (section 5.2).
    LengthOverflow,
}

impl HeadError {
    /// The broken rule in a few words.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved bit set, but no extension was negotiated",
            Self::ReservedOpcode => "reserved opcode",
            Self::Unmasked => "frame of a client is not masked",
            Self::FragmentedControl => "control frame is fragmented",
            Self::LongControl => "control frame is longer than 125 bytes",
            Self::LengthOverflow => "frame length has its highest bit set",
        }
    }
}

/// Reads the head at the front of `bytes`; none if there are too few. Refuses what can be refused as early as it can.
///
/// # Errors
/// If no client may send such a head.
#[inline]
pub fn parse_head(bytes: &[u8]) -> Result<Option<Head>, HeadError> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err(HeadError::ReservedBits);
    }
    let opcode = Opcode::from_bits(first & 0x0F).ok_or(HeadError::ReservedOpcode)?;
    let fin = first & 0x80 != 0;
    if opcode.is_control() && !fin {
        return Err(HeadError::FragmentedControl);
    }
    let Some(&second) = bytes.get(1) else {
        return Ok(None);
    };
    if second & 0x80 == 0 {
        return Err(HeadError::Unmasked);
    }
    let short = second & 0x7F;
    if opcode.is_control() && usize::from(short) > CONTROL_MAX {
        return Err(HeadError::LongControl);
    }
    let (payload_len, mask_at) = match short {
        126 => match bytes.get(2..4) {
            Some(length) => (u64::from(u16::from_be_bytes([length[0], length[1]])), 4),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10) {
            Some(length) => {
                let length = u64::from_be_bytes(length.try_into().expect("eight bytes"));
                if length >> 63 != 0 {
                    return Err(HeadError::LengthOverflow);
                }
                (length, 10)
            }
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    let Some(mask) = bytes.get(mask_at..mask_at + 4) else {
        return Ok(None);
    };
    Ok(Some(Head {
        fin,
        opcode,
        payload_len,
        mask: mask.try_into().expect("four bytes"),
        len: mask_at + 4,
    }))
}

/// Masks or unmasks `bytes` in place (section 5.3); `bytes` starts at the mask's first byte.
#[inline]
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    // Wide steps first: the compiler turns them into vector instructions.
    let mut wide = [0; 32];
    for (index, byte) in wide.iter_mut().enumerate() {
        *byte = mask[index % 4];
    }
    let mut chunks = bytes.chunks_exact_mut(32);
    for chunk in &mut chunks {
        for (byte, key) in chunk.iter_mut().zip(&wide) {
            *byte ^= key;
        }
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(&wide) {
        *byte ^= key;
    }
}

/// A server's control frame: unmasked, final.
#[must_use]
pub fn control(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    debug_assert!(opcode.is_control() && payload.len() <= CONTROL_MAX);
    let mut frame = Vec::with_capacity(2 + payload.len());
    frame.push(0x80 | opcode as u8);
    frame.push(payload.len() as u8);
    frame.extend_from_slice(payload);
    frame
}

/// A server's close frame.
#[must_use]
pub fn close(code: CloseCode) -> Vec<u8> {
    control(Opcode::Close, &(code as u16).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(fin: bool, opcode: u8, mask: [u8; 4], len: u64, form: usize) -> Vec<u8> {
        let mut bytes = vec![u8::from(fin) << 7 | opcode];
        match form {
            0 => bytes.push(0x80 | len as u8),
            1 => {
                bytes.push(0x80 | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend(len.to_be_bytes());
            }
        }
        bytes.extend(mask);
        bytes
    }

    #[test]
    fn all_three_length_forms() {
        for (len, form) in [
            (0, 0),
            (125, 0),
            (126, 1),
            (65_535, 1),
            (65_536, 2),
            (1 << 62, 2),
            (5, 1),
            (5, 2),
        ] {
            let bytes = masked(true, 2, [1, 2, 3, 4], len, form);
            let head = parse_head(&bytes).unwrap().expect("whole");
            assert_eq!((head.payload_len, head.len), (len, bytes.len()));
            for cut in 0..bytes.len() {
                assert_eq!(parse_head(&bytes[..cut]), Ok(None), "cut at {cut}");
            }
        }
    }

    #[test]
    fn each_bad_head_is_named() {
        for (bytes, error) in [
            (&[0xC2, 0x80][..], HeadError::ReservedBits),
            (&[0xA2, 0x80], HeadError::ReservedBits),
            (&[0x92, 0x80], HeadError::ReservedBits),
            (&[0x83, 0x80], HeadError::ReservedOpcode),
            (&[0x8B, 0x80], HeadError::ReservedOpcode),
            (&[0x82, 0x01], HeadError::Unmasked),
            (&[0x09, 0x80], HeadError::FragmentedControl),
            (&[0x89, 0xFE], HeadError::LongControl),
            (
                &[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0],
                HeadError::LengthOverflow,
            ),
        ] {
            assert_eq!(parse_head(bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn close_codes_of_the_registry() {
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 3999, 4999] {
            assert!(is_valid_close_code(code), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
            assert!(!is_valid_close_code(code), "{code}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            let _ = parse_head(&bytes);
        }

        #[test]
        fn a_head_is_read_back(fin: bool, opcode in prop_oneof![Just(0u8), Just(1), Just(2)], mask: [u8; 4], len in 0u64..1 << 40) {
            let form = if len < 126 { 0 } else if len < 65_536 { 1 } else { 2 };
            let bytes = masked(fin, opcode, mask, len, form);
            let head = parse_head(&bytes).unwrap().unwrap();
            prop_assert_eq!((head.fin, head.opcode as u8, head.mask, head.payload_len), (fin, opcode, mask, len));
        }

        #[test]
        fn masking_twice_changes_nothing_and_once_is_the_definition(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), mask: [u8; 4]
        ) {
            let mut changed = bytes.clone();
            apply_mask(&mut changed, mask);
            for (index, byte) in changed.iter().enumerate() {
                prop_assert_eq!(*byte, bytes[index] ^ mask[index % 4]);
            }
            apply_mask(&mut changed, mask);
            prop_assert_eq!(changed, bytes);
        }
    }
}
