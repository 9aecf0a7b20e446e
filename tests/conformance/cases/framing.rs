//! Sections 1, 3 and 4: payload lengths, reserved bits, reserved opcodes.

use crate::case::{Case, message};
use crate::difference::Why;
use crate::frame::{binary, close, continuation, frame, ping, pong, text};

pub(super) fn lengths() -> Vec<Case> {
    let mut rows = Vec::new();
    for length in [0, 125, 126, 127, 128, 8820] {
        let letters = vec![b'*'; length];
        rows.push(
            Case::new("5.6", format!("text message of {length} bytes"))
                .send(&text(letters.clone()))
                .closes(1003)
                .but_theirs_echoes(Why::Text, &[&letters]),
        );
    }
    for length in [65_535, 65_536] {
        rows.push(
            Case::new("5.6", format!("text message of {length} bytes"))
                .send(&text(vec![b'*'; length]))
                .closes(1003)
                .but_theirs_closes(Why::Text, 1009),
        );
    }
    for length in [0, 1] {
        rows.push(
            Case::new("5.2", format!("binary message of {length} bytes"))
                .send(&binary(message(length)))
                .ends()
                .but_theirs_echoes(Why::RelayMessage, &[&message(length)]),
        );
    }
    for length in [2, 37] {
        rows.push(
            Case::new("5.2", format!("binary message of {length} bytes"))
                .send(&binary(message(length)))
                .but_theirs_echoes(Why::RelayMessage, &[&message(length)]),
        );
    }
    for length in [
        38, 39, 64, 124, 125, 126, 127, 128, 129, 255, 256, 1420, 4096, 8819, 8820,
    ] {
        rows.push(
            Case::new("5.2", format!("binary message of {length} bytes"))
                .send(&binary(message(length)))
                .echoes(message(length)),
        );
    }
    for length in [65_535, 65_536] {
        rows.push(
            Case::new("7.4.1", format!("binary message of {length} bytes"))
                .send(&binary(message(length)))
                .closes(1009),
        );
    }
    let mut run = Case::new("5.2", "every length from 38 to 300, one after the other");
    for length in 38..=300 {
        run = run.send(&binary(message(length))).echoes(message(length));
    }
    rows.push(run);
    rows
}

pub(super) fn reserved_bits() -> Vec<Case> {
    let mut rows = Vec::new();
    for bits in 1..=7 {
        rows.push(
            Case::new("5.2", format!("RSV {bits} in a binary frame"))
                .send(&binary(message(60)).rsv(bits))
                .closes(1002),
        );
        rows.push(
            Case::new(
                "5.2",
                format!("good message, then RSV {bits} in a binary frame, then a ping"),
            )
            .send(&binary(message(60)))
            .send(&binary(message(61)).rsv(bits))
            .send(&ping("late"))
            .echoes(message(60))
            .closes(1002),
        );
        rows.push(
            Case::new("5.2", format!("RSV {bits} in a ping"))
                .send(&ping("hello").rsv(bits))
                .closes(1002),
        );
        rows.push(
            Case::new(
                "5.2",
                format!("good message and ping, then RSV {bits} in a close frame"),
            )
            .send(&binary(message(60)))
            .send(&ping("hello"))
            .send(&close(1000, "").rsv(bits))
            .echoes(message(60))
            .pongs("hello")
            .closes(1002),
        );
        rows.push(
            Case::new("5.2", format!("RSV {bits} in a pong"))
                .send(&pong("").rsv(bits))
                .closes(1002),
        );
        rows.push(
            Case::new("5.2", format!("RSV {bits} in a text frame"))
                .send(&text("hello").rsv(bits))
                .closes(1002),
        );
    }
    rows.push(
        Case::new("5.2", "RSV 4 in the second fragment")
            .send(&binary(message(60)).more())
            .send(&continuation("rest").rsv(4))
            .closes(1002),
    );
    rows.push(
        Case::new("5.2", "RSV 4 in the first fragment")
            .send(&binary(message(60)).more().rsv(4))
            .send(&continuation("rest"))
            .closes(1002),
    );
    rows.push(
        Case::new("5.2", "RSV 4, and no byte behind it")
            .send(&binary(message(60)).rsv(4).cut(1))
            .then_end()
            .closes(1002)
            .but_theirs(Why::Early, |verdict| {
                verdict.close = crate::verdict::Close::None
            }),
    );
    rows.push(
        Case::new("5.2", "RSV 1, and a payload that never comes")
            .send(&binary(message(60)).rsv(1).head_only())
            .then_end()
            .closes(1002)
            .but_theirs(Why::Early, |verdict| {
                verdict.close = crate::verdict::Close::None
            }),
    );
    rows
}

pub(super) fn reserved_opcodes() -> Vec<Case> {
    let mut rows = Vec::new();
    for opcode in (3..=7).chain(11..=15) {
        rows.push(
            Case::new("5.2", format!("opcode {opcode} without payload"))
                .send(&frame(opcode, ""))
                .closes(1002),
        );
        rows.push(
            Case::new("5.2", format!("opcode {opcode} with payload"))
                .send(&frame(opcode, message(60)))
                .closes(1002),
        );
        rows.push(
            Case::new(
                "5.2",
                format!("good message, then opcode {opcode}, then a ping"),
            )
            .send(&binary(message(60)))
            .send(&frame(opcode, ""))
            .send(&ping("late"))
            .echoes(message(60))
            .closes(1002),
        );
        rows.push(
            Case::new(
                "5.2",
                format!("opcode {opcode} inside a fragmented message"),
            )
            .send(&binary(message(60)).more())
            .send(&frame(opcode, "hello"))
            .send(&continuation("rest"))
            .closes(1002),
        );
        rows.push(
            Case::new("5.2", format!("opcode {opcode} not final"))
                .send(&frame(opcode, "hello").more())
                .closes(1002),
        );
    }
    rows.push(
        Case::new("5.2", "opcode 3, and no byte behind it")
            .send(&frame(3, "").cut(1))
            .then_end()
            .closes(1002)
            .but_theirs(Why::Early, |verdict| {
                verdict.close = crate::verdict::Close::None
            }),
    );
    rows
}
