//! A row of the table: what a client sends, and what must become of it.

use trunkline::proto::PeerId;

use crate::difference::Why;
use crate::frame::Frame;
use crate::verdict::{Close, Verdict};

/// How the client goes on after the bytes of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It sends one more ping: a server that is still there answers it.
    Ping,
    /// It ends its direction of the stream: whoever waits for the rest of a frame learns that none comes.
    End,
}

/// One row.
pub(crate) struct Case {
    /// Section of the Autobahn suite and a number of ours; `M` is masking and length forms, which that suite lacks.
    pub(crate) id: String,
    /// The rule, as a section of RFC 6455.
    pub(crate) rfc: &'static str,
    /// What is sent, in a few words.
    pub(crate) what: String,
    /// What is sent.
    pub(crate) bytes: Vec<u8>,
    /// What follows.
    pub(crate) then: Then,
    /// What the relay must do.
    pub(crate) ours: Verdict,
    /// What the other server does where it differs, and why.
    pub(crate) theirs: Option<(Why, Verdict)>,
}

/// Who the client of all cases is.
pub(crate) fn alice() -> PeerId {
    PeerId::from_name(b"alice")
}

/// A message of this length that the relay brings back to its sender unchanged: one from alice to alice. Below 38 bytes, the
/// beginning of one.
pub(crate) fn message(length: usize) -> Vec<u8> {
    let mut message = vec![1, 3];
    message.extend_from_slice(alice().as_bytes());
    message.extend((message.len()..length).map(|at| (at * 31 % 251) as u8));
    message.truncate(length);
    message
}

impl Case {
    /// A case that sends nothing yet and that the connection survives.
    pub(crate) fn new(rfc: &'static str, what: impl Into<String>) -> Self {
        Self {
            id: String::new(),
            rfc,
            what: what.into(),
            bytes: Vec::new(),
            then: Then::Ping,
            ours: Verdict::default(),
            theirs: None,
        }
    }

    /// Sends a frame.
    pub(crate) fn send(mut self, frame: &Frame) -> Self {
        self.bytes.extend(frame.bytes());
        self
    }

    /// Sends frames.
    pub(crate) fn send_all<'a>(self, frames: impl IntoIterator<Item = &'a Frame>) -> Self {
        frames.into_iter().fold(self, Self::send)
    }

    /// Sends no more and ends the stream: for a last frame that is not whole.
    pub(crate) fn then_end(mut self) -> Self {
        self.then = Then::End;
        self.ours.ended = true;
        self
    }

    /// The message comes back.
    pub(crate) fn echoes(mut self, message: impl Into<Vec<u8>>) -> Self {
        self.ours.messages.push(message.into());
        self
    }

    /// The ping is answered.
    pub(crate) fn pongs(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.ours.pongs.push(payload.into());
        self
    }

    /// The server closes with this code.
    pub(crate) fn closes(mut self, code: u16) -> Self {
        self.ours.close = Close::Code(code);
        self.ours.ended = true;
        self
    }

    /// The server closes without a code.
    pub(crate) fn closes_empty(mut self) -> Self {
        self.ours.close = Close::Empty;
        self.ours.ended = true;
        self
    }

    /// The server ends the connection without a close frame.
    pub(crate) fn ends(mut self) -> Self {
        self.ours.ended = true;
        self
    }

    /// The other server does something else: `change` makes its verdict from ours.
    pub(crate) fn but_theirs(mut self, why: Why, change: impl FnOnce(&mut Verdict)) -> Self {
        let mut theirs = self.ours.clone();
        change(&mut theirs);
        self.theirs = Some((why, theirs));
        self
    }

    /// The other server closes with another code, or closes at all.
    pub(crate) fn but_theirs_closes(self, why: Why, code: u16) -> Self {
        self.but_theirs(why, |verdict| {
            verdict.close = Close::Code(code);
            verdict.ended = true;
        })
    }

    /// The other server brings the message back and goes on.
    pub(crate) fn but_theirs_echoes(self, why: Why, messages: &[&[u8]]) -> Self {
        self.but_theirs(why, |verdict| {
            verdict.close = Close::None;
            verdict.ended = false;
            verdict
                .messages
                .extend(messages.iter().map(|message| message.to_vec()));
        })
    }
}
