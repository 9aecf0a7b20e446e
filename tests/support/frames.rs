//! WebSocket frames by hand (RFC 6455, section 5.2).

/// Opcode: a further piece of a message.
pub(crate) const CONTINUATION: u8 = 0x0;
/// Opcode: text.
pub(crate) const TEXT: u8 = 0x1;
/// Opcode: binary.
pub(crate) const BINARY: u8 = 0x2;
/// Opcode: the end of the conversation.
pub(crate) const CLOSE: u8 = 0x8;
/// Opcode: a question that wants a pong.
pub(crate) const PING: u8 = 0x9;
/// Opcode: its answer.
pub(crate) const PONG: u8 = 0xA;

/// A client's frame: masked, with the shortest form of the length.
pub(crate) fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | short as u8),
        middle @ 126..65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    let mask = [0x5A, 0x00, 0xC3, payload.len() as u8];
    bytes.extend_from_slice(&mask);
    bytes.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

/// A whole binary message of a client.
pub(crate) fn binary(message: &[u8]) -> Vec<u8> {
    frame(true, BINARY, message)
}

/// A frame that the relay sent, as it stood on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// FIN, the three reserved bits and the opcode.
    pub(crate) first_byte: u8,
    /// Whether the mask bit was set, which no server may do.
    pub(crate) masked: bool,
    /// What it carried.
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Takes a whole frame from the front of `bytes`, if one is there.
    pub(crate) fn take(bytes: &mut Vec<u8>) -> Option<Self> {
        let (&first_byte, &second) = (bytes.first()?, bytes.get(1)?);
        let (len, head) = match second & 0x7F {
            126 => {
                let length = bytes.get(2..4)?.try_into().unwrap();
                (usize::from(u16::from_be_bytes(length)), 4)
            }
            127 => {
                let length = bytes.get(2..10)?.try_into().unwrap();
                (usize::try_from(u64::from_be_bytes(length)).unwrap(), 10)
            }
            short => (usize::from(short), 2),
        };
        let payload = bytes.get(head..head + len)?.to_vec();
        bytes.drain(..head + len);
        Some(Self {
            first_byte,
            masked: second & 0x80 != 0,
            payload,
        })
    }

    /// The message, if this is one in the only form the stock clients read: one final binary frame, unmasked, without
    /// reserved bits, of at most 8820 bytes.
    pub(crate) fn into_message(self) -> Vec<u8> {
        assert_eq!(
            self.first_byte,
            0x80 | BINARY,
            "not one final binary frame: {self:?}"
        );
        assert!(!self.masked, "the relay masks");
        assert!(self.payload.len() <= 8820, "{} bytes", self.payload.len());
        self.payload
    }
}
