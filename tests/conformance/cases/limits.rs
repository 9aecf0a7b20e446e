//! Sections 9 and 10: messages at the limit and above it, whole, in fragments, many of them.

use super::fragments::pieces;
use crate::case::{Case, message};
use crate::difference::Why;
use crate::frame::{binary, continuation, ping};
use crate::verdict::Close;

use trunkline::proto::limits::MESSAGE_MAX;

/// A message in fragments of this length.
fn in_pieces_of(length: usize, of: usize) -> Vec<crate::frame::Frame> {
    pieces(&message(of), &vec![length; (of - 1) / length])
}

pub(super) fn sizes() -> Vec<Case> {
    let mut rows = Vec::new();
    for length in [MESSAGE_MAX - 1, MESSAGE_MAX] {
        rows.push(
            Case::new("5.2", format!("{length} bytes in one frame"))
                .send(&binary(message(length)))
                .echoes(message(length)),
        );
    }
    for length in [MESSAGE_MAX + 1, 2 * MESSAGE_MAX, 65_536, 262_144] {
        rows.push(
            Case::new("7.4.1", format!("{length} bytes in one frame, then a ping"))
                .send(&binary(message(length)))
                .send(&ping("late"))
                .closes(1009),
        );
    }
    rows.push(
        Case::new("7.4.1", "one byte too many, and a payload that never comes")
            .send(&binary(message(MESSAGE_MAX + 1)).head_only())
            .then_end()
            .closes(1009),
    );
    rows.push(
        Case::new(
            "7.4.1",
            "message of the longest length twice, then one byte too many",
        )
        .send(&binary(message(MESSAGE_MAX)))
        .send(&binary(message(MESSAGE_MAX)))
        .send(&binary(message(MESSAGE_MAX + 1)))
        .echoes(message(MESSAGE_MAX))
        .echoes(message(MESSAGE_MAX))
        .closes(1009),
    );
    for piece in [64, 256, 1024, 4096, 8192, MESSAGE_MAX - 1] {
        rows.push(
            Case::new(
                "5.4",
                format!("{MESSAGE_MAX} bytes in fragments of {piece}"),
            )
            .send_all(&in_pieces_of(piece, MESSAGE_MAX))
            .echoes(message(MESSAGE_MAX)),
        );
        rows.push(
            Case::new(
                "7.4.1",
                format!("{} bytes in fragments of {piece}", MESSAGE_MAX + 1),
            )
            .send_all(&in_pieces_of(piece, MESSAGE_MAX + 1))
            .closes(1009),
        );
    }
    rows.push(
        Case::new("7.4.1", "fragments without end")
            .send(&binary(message(1024)).more())
            .send_all(&vec![continuation([7; 1024]).more(); 40])
            .closes(1009),
    );
    rows.push(
        Case::new("5.4", "the longest message, then an empty last fragment")
            .send(&binary(message(MESSAGE_MAX)).more())
            .send(&continuation(""))
            .echoes(message(MESSAGE_MAX)),
    );
    rows.push(
        Case::new(
            "7.4.1",
            "second fragment too long, and a payload that never comes",
        )
        .send(&binary(message(8000)).more())
        .send(&continuation([7; 1000]).head_only())
        .then_end()
        .closes(1009)
        .but_theirs(Why::Early, |verdict| verdict.close = Close::None),
    );
    for (count, length) in [(1000, 38), (1000, 64), (1000, 256), (200, 1420), (30, 8820)] {
        let mut row = Case::new(
            "5.2",
            format!("{count} messages of {length} bytes in one go"),
        );
        for _ in 0..count {
            row = row.send(&binary(message(length))).echoes(message(length));
        }
        rows.push(row);
    }
    rows
}

pub(super) fn automatic() -> Vec<Case> {
    let mut rows = Vec::new();
    for piece in [1, 7, 125, 126, 1300] {
        rows.push(
            Case::new(
                "5.4",
                format!("{MESSAGE_MAX} bytes, sent in fragments of {piece}"),
            )
            .send_all(&in_pieces_of(piece, MESSAGE_MAX))
            .echoes(message(MESSAGE_MAX)),
        );
    }
    rows.push(
        Case::new("7.4.1", "65536 bytes, sent in fragments of 1300")
            .send_all(&in_pieces_of(1300, 65_536))
            .closes(1009),
    );
    let mut mixed = Case::new(
        "5.4",
        "twenty messages, each in fragments of its own length, pings in between",
    );
    for number in 1..=20 {
        let mut frames = in_pieces_of(number * 13, 300 + number);
        frames.insert(1, ping(format!("{number}")));
        mixed = mixed
            .send_all(&frames)
            .pongs(format!("{number}"))
            .echoes(message(300 + number));
    }
    rows.push(mixed);
    rows
}
