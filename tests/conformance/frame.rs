//! Builds client frames bit by bit, the forbidden ones included (RFC 6455, section 5.2).

/// The mask of a frame that asks for no other: the one of the examples in RFC 6455, section 5.7.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// How a frame writes its length.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    /// The shortest that holds it, as the RFC demands.
    Shortest,
    /// 126 and 16 bits, whatever the length.
    Sixteen,
    /// 127 and 64 bits, whatever the length.
    SixtyFour,
}

/// One frame of a client.
#[derive(Clone)]
pub(crate) struct Frame {
    first: u8,
    payload: Vec<u8>,
    mask: Option<[u8; 4]>,
    form: Form,
    declared: Option<u64>,
    cut: Option<usize>,
}

/// A final frame of any opcode.
pub(crate) fn frame(opcode: u8, payload: impl Into<Vec<u8>>) -> Frame {
    Frame {
        first: 0x80 | opcode,
        payload: payload.into(),
        mask: Some(MASK),
        form: Form::Shortest,
        declared: None,
        cut: None,
    }
}

/// A continuation frame, the last one of its message unless [`Frame::more`] says otherwise.
pub(crate) fn continuation(payload: impl Into<Vec<u8>>) -> Frame {
    frame(0x0, payload)
}

/// A text frame.
pub(crate) fn text(payload: impl Into<Vec<u8>>) -> Frame {
    frame(0x1, payload)
}

/// A binary frame.
pub(crate) fn binary(payload: impl Into<Vec<u8>>) -> Frame {
    frame(0x2, payload)
}

/// A close frame with a code and a reason.
pub(crate) fn close(code: u16, reason: impl AsRef<[u8]>) -> Frame {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_ref());
    frame(0x8, payload)
}

/// A ping.
pub(crate) fn ping(payload: impl Into<Vec<u8>>) -> Frame {
    frame(0x9, payload)
}

/// A pong.
pub(crate) fn pong(payload: impl Into<Vec<u8>>) -> Frame {
    frame(0xA, payload)
}

impl Frame {
    /// Not the last frame of its message.
    pub(crate) fn more(mut self) -> Self {
        self.first &= 0x7F;
        self
    }

    /// With reserved bits, as a number from 1 (RSV3) to 7 (all).
    pub(crate) fn rsv(mut self, bits: u8) -> Self {
        self.first |= bits << 4;
        self
    }

    /// With another mask.
    pub(crate) fn mask(mut self, mask: [u8; 4]) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Without a mask.
    pub(crate) fn unmasked(mut self) -> Self {
        self.mask = None;
        self
    }

    /// With its length written so.
    pub(crate) fn form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    /// Declares another length than it has, in 64 bits.
    pub(crate) fn declare(mut self, length: u64) -> Self {
        self.declared = Some(length);
        self.form = Form::SixtyFour;
        self
    }

    /// Only its first bytes.
    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// Only its head: all but the payload.
    pub(crate) fn head_only(self) -> Self {
        let head = self.bytes().len() - self.payload.len();
        self.cut(head)
    }

    /// As it goes over the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = self.declared.unwrap_or(self.payload.len() as u64);
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![self.first];
        match (self.form, length) {
            (Form::Shortest, 0..=125) => bytes.push(masked | length as u8),
            (Form::Shortest | Form::Sixteen, 0..=0xFFFF) => {
                bytes.push(masked | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            (Form::Shortest | Form::SixtyFour, _) => {
                bytes.push(masked | 127);
                bytes.extend(length.to_be_bytes());
            }
            (Form::Sixteen, _) => unreachable!("no 16 bits hold {length}"),
        }
        bytes.extend(
            self.mask
                .unwrap_or_default()
                .iter()
                .take(self.mask.map_or(0, |_| 4)),
        );
        let mask = self.mask.unwrap_or_default();
        bytes.extend(
            self.payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        bytes.truncate(self.cut.unwrap_or(usize::MAX));
        bytes
    }
}
