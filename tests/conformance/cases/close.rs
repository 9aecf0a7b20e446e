//! Section 7: the close handshake (RFC 6455, sections 5.5.1 and 7).

use super::fragments::pieces;
use crate::case::{Case, message};
use crate::difference::Why;
use crate::frame::{binary, close, frame, ping, text};

pub(super) fn all() -> Vec<Case> {
    let mut rows = vec![
        Case::new("7.1", "message, then close")
            .send(&binary(message(60)))
            .send(&close(1000, ""))
            .echoes(message(60))
            .closes(1000),
        Case::new("5.5.1", "close twice")
            .send(&close(1000, ""))
            .send(&close(1000, ""))
            .closes(1000),
        Case::new("5.5.1", "close twice, with two codes")
            .send(&close(1001, ""))
            .send(&close(1000, ""))
            .closes(1001),
        Case::new("5.5.1", "ping after close")
            .send(&close(1000, ""))
            .send(&ping("late"))
            .closes(1000),
        Case::new("5.5.1", "message after close")
            .send(&close(1000, ""))
            .send(&binary(message(60)))
            .closes(1000),
        Case::new("5.5.1", "text after close")
            .send(&close(1000, ""))
            .send(&text("hello"))
            .closes(1000),
        Case::new("5.5.1", "forbidden frame after close")
            .send(&close(1000, ""))
            .send(&frame(0x3, "").rsv(7).unmasked())
            .closes(1000),
        Case::new(
            "5.5.1",
            "unfinished message, close, the rest of the message",
        )
        .send(&pieces(&message(60), &[30])[0])
        .send(&close(1000, ""))
        .send(&pieces(&message(60), &[30])[1])
        .closes(1000),
        Case::new("7.1", "long message, close, ping")
            .send(&binary(message(8820)))
            .send(&close(1000, ""))
            .send(&ping("late"))
            .echoes(message(8820))
            .closes(1000),
        Case::new("7.1", "ping, then close")
            .send(&ping("before"))
            .send(&close(1000, ""))
            .pongs("before")
            .closes(1000),
        Case::new("5.5.1", "close, and the stream ends at once")
            .send(&close(1000, ""))
            .then_end()
            .closes(1000),
        Case::new("7.1.4", "the stream ends without a close frame").then_end(),
        Case::new("7.1.5", "the stream ends inside a frame")
            .send(&binary(message(60)).cut(30))
            .then_end(),
        Case::new("7.1.5", "the stream ends inside a head")
            .send(&binary(message(300)).cut(3))
            .then_end(),
        Case::new("7.1.5", "the stream ends inside a close frame")
            .send(&close(1000, "bye").cut(8))
            .then_end(),
        Case::new("5.5.1", "close without payload")
            .send(&frame(0x8, ""))
            .closes_empty(),
        Case::new("5.5.1", "close with half a code")
            .send(&frame(0x8, [3]))
            .closes(1002),
        Case::new("5.5.1", "close with a code")
            .send(&close(1000, ""))
            .closes(1000),
        Case::new("5.5.1", "close with a reason")
            .send(&close(1000, "Hello, world!"))
            .closes(1000),
        Case::new("5.5.1", "close with a reason that is not ASCII")
            .send(&close(1000, "auf Wiedersehen, \u{1F44B}"))
            .closes(1000),
        Case::new("5.5.1", "close with the longest reason")
            .send(&close(1000, [b'*'; 123]))
            .closes(1000),
        Case::new("5.5", "close with 126 bytes")
            .send(&close(1000, [b'*'; 124]))
            .closes(1002),
        Case::new("5.5", "close with 8821 bytes")
            .send(&close(1000, [b'*'; 8819]))
            .closes(1002)
            .but_theirs_closes(Why::LongControl, 1009),
        Case::new("5.5.1", "close reason that is not UTF-8")
            .send(&close(1000, b"\xCE\xBA\xED\xA0\x80edited"))
            .closes(1007),
        Case::new("5.5.1", "close reason that ends inside a character")
            .send(&close(1000, &"*\u{1F44B}".as_bytes()[..4]))
            .closes(1007),
        Case::new("5.5.1", "close reason with an overlong zero")
            .send(&close(4000, [0xC0, 0x80]))
            .closes(1007),
        Case::new("7.4", "forbidden code, and a reason that is not UTF-8")
            .send(&close(999, [0xFF]))
            .closes(1002)
            .but_theirs_closes(Why::CloseBoth, 1007),
    ];
    let valid = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ];
    for code in valid {
        let row = Case::new("7.4", format!("close with {code}"))
            .send(&close(code, ""))
            .closes(code);
        rows.push(match code {
            1014 => row.but_theirs_closes(Why::RegisteredCode, 1002),
            _ => row,
        });
    }
    for code in [
        0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ] {
        rows.push(
            Case::new("7.4", format!("close with {code}"))
                .send(&close(code, ""))
                .closes(1002),
        );
        rows.push(
            Case::new(
                "7.4",
                format!("message, then close with {code} and a reason"),
            )
            .send(&binary(message(60)))
            .send(&close(code, "reason"))
            .echoes(message(60))
            .closes(1002),
        );
    }
    rows
}
