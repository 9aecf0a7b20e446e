//! Section 5: fragmentation (RFC 6455, section 5.4).

use crate::case::{Case, message};
use crate::difference::Why;
use crate::frame::{Frame, binary, close, continuation, frame, ping, pong, text};
use crate::verdict::Close;

/// A message in frames of these lengths; the last takes what is left.
pub(super) fn pieces(message: &[u8], lengths: &[usize]) -> Vec<Frame> {
    let mut rest = message;
    let mut frames = Vec::new();
    for &length in lengths {
        let (piece, tail) = rest.split_at(length);
        rest = tail;
        frames.push(if frames.is_empty() {
            binary(piece).more()
        } else {
            continuation(piece).more()
        });
    }
    frames.push(if frames.is_empty() {
        binary(rest)
    } else {
        continuation(rest)
    });
    frames
}

pub(super) fn all() -> Vec<Case> {
    let mut rows = good();
    rows.extend(bad());
    rows.extend(of_text());
    rows
}

fn good() -> Vec<Case> {
    let hello = message(60);
    let two = pieces(&hello, &[25]);
    let five = pieces(&hello, &[10, 12, 9, 14]);
    let mut rows = vec![
        Case::new("5.4", "message in two fragments")
            .send_all(&two)
            .echoes(message(60)),
        Case::new("5.4", "message in five fragments")
            .send_all(&five)
            .echoes(message(60)),
        Case::new("5.4", "ping between two fragments")
            .send(&two[0])
            .send(&ping("between"))
            .send(&two[1])
            .pongs("between")
            .echoes(message(60)),
        Case::new("5.4", "pong between two fragments")
            .send(&two[0])
            .send(&pong("between"))
            .send(&two[1])
            .echoes(message(60)),
        Case::new("5.4", "pings and pongs between five fragments")
            .send_all(&five[..2])
            .send(&ping("first"))
            .send(&pong(""))
            .send_all(&five[2..4])
            .send(&ping("second"))
            .send(&ping(""))
            .send(&five[4])
            .pongs("first")
            .pongs("second")
            .pongs("")
            .echoes(message(60)),
        Case::new("5.4", "empty first fragment")
            .send_all(&pieces(&hello, &[0]))
            .echoes(message(60)),
        Case::new("5.4", "empty fragment in the middle")
            .send_all(&pieces(&hello, &[30, 0]))
            .echoes(message(60)),
        Case::new("5.4", "empty last fragment")
            .send_all(&pieces(&hello, &[60]))
            .echoes(message(60)),
        Case::new("5.4", "a hundred empty fragments before the message")
            .send_all(&pieces(&hello, &[0; 100]))
            .echoes(message(60)),
        Case::new("5.4", "three empty fragments and nothing else")
            .send_all(&pieces(&[], &[0, 0]))
            .ends()
            .but_theirs_echoes(Why::RelayMessage, &[&[]]),
        Case::new("5.4", "fragments of one byte")
            .send_all(&pieces(&hello, &[1; 59]))
            .echoes(message(60)),
        Case::new("5.4", "fragments of one byte, a ping after each")
            .send_all(
                &pieces(&hello, &[1; 59])
                    .into_iter()
                    .flat_map(|piece| [piece, ping("")])
                    .collect::<Vec<_>>(),
            )
            .echoes(message(60)),
        Case::new("5.4", "two messages in fragments, one behind the other")
            .send_all(&two)
            .send_all(&five)
            .echoes(message(60))
            .echoes(message(60)),
        Case::new(
            "5.4",
            "fragmented message, whole message, fragmented message",
        )
        .send_all(&two)
        .send(&binary(message(61)))
        .send_all(&pieces(&message(62), &[40]))
        .echoes(message(60))
        .echoes(message(61))
        .echoes(message(62)),
        Case::new("5.4", "unfinished message, connection goes on").send_all(&five[..4]),
        Case::new("5.5.1", "close between two fragments")
            .send(&two[0])
            .send(&close(1000, ""))
            .send(&two[1])
            .closes(1000),
    ];
    for _ in 0..60 {
        rows[11].ours.pongs.push(Vec::new());
    }
    let mut cuts = Case::new("5.4", "two fragments, the cut at every byte");
    for cut in 0..=60 {
        cuts = cuts.send_all(&pieces(&hello, &[cut])).echoes(message(60));
    }
    rows.push(cuts);
    rows
}

fn bad() -> Vec<Case> {
    let hello = message(60);
    let two = pieces(&hello, &[25]);
    let mut rows = Vec::new();
    for (name, bad) in [
        ("ping", ping("fragment")),
        ("pong", pong("fragment")),
        ("close", close(1000, "")),
    ] {
        rows.push(
            Case::new("5.5", format!("fragmented {name}"))
                .send(&bad.clone().more())
                .send(&continuation("rest"))
                .closes(1002),
        );
        rows.push(
            Case::new("5.5", format!("fragmented {name} between two fragments"))
                .send(&two[0])
                .send(&bad.clone().more())
                .send(&two[1])
                .closes(1002),
        );
        rows.push(
            Case::new("5.5", format!("good message, then a fragmented {name}, and nothing behind its head's first byte"))
                .send(&bad.more().cut(1))
                .then_end()
                .closes(1002)
                .but_theirs(Why::Early, |verdict| verdict.close = Close::None),
        );
    }
    rows.extend([
        Case::new("5.4", "final continuation of no message, then a message")
            .send(&continuation("non-continuation payload"))
            .send(&binary(message(60)))
            .closes(1002),
        Case::new(
            "5.4",
            "continuation of no message that is not final, then a message",
        )
        .send(&continuation("non-continuation payload").more())
        .send(&binary(message(60)))
        .closes(1002),
        Case::new("5.4", "empty continuation of no message")
            .send(&continuation(""))
            .closes(1002),
        Case::new("5.4", "continuation of a message that was final")
            .send(&binary(message(60)))
            .send(&continuation("more"))
            .echoes(message(60))
            .closes(1002),
        Case::new("5.4", "continuation of a fragmented message that is over")
            .send_all(&two)
            .send(&continuation("more").more())
            .send(&binary(message(60)))
            .echoes(message(60))
            .closes(1002),
        Case::new("5.4", "three times: continuation of no message, message")
            .send_all(&[
                continuation("x").more(),
                binary(message(60)),
                continuation("y"),
            ])
            .send_all(&[
                continuation("x").more(),
                binary(message(60)),
                continuation("y"),
            ])
            .send_all(&[
                continuation("x").more(),
                binary(message(60)),
                continuation("y"),
            ])
            .closes(1002),
        Case::new("5.4", "new binary message inside a fragmented one")
            .send(&two[0])
            .send(&binary(message(60)))
            .closes(1002),
        Case::new("5.4", "new fragmented message inside a fragmented one")
            .send(&two[0])
            .send(&two[0])
            .send(&two[1])
            .closes(1002),
        Case::new("5.4", "new text message inside a fragmented binary one")
            .send(&two[0])
            .send(&text("hello"))
            .closes(1002),
        Case::new("5.4", "ping, then a new message inside a fragmented one")
            .send(&two[0])
            .send(&ping("hello"))
            .send(&binary(message(60)))
            .pongs("hello")
            .closes(1002),
        Case::new(
            "5.4",
            "continuation of no message, and a payload that never comes",
        )
        .send(&continuation(message(60)).head_only())
        .then_end()
        .closes(1002)
        .but_theirs(Why::Early, |verdict| verdict.close = Close::None),
        Case::new("5.4", "continuation of no message that is too long as well")
            .send(&continuation(message(8821)))
            .closes(1002)
            .but_theirs_closes(Why::RuleBeforeSize, 1009),
        Case::new(
            "5.4",
            "new message inside a fragmented one that is too long as well",
        )
        .send(&two[0])
        .send(&binary(message(8821)))
        .closes(1002)
        .but_theirs_closes(Why::RuleBeforeSize, 1009),
        Case::new("5.2", "opcode of a continuation with that of a message")
            .send(&two[0])
            .send(&frame(0x2, "rest").more())
            .closes(1002),
    ]);
    rows
}

fn of_text() -> Vec<Case> {
    let two = [text("fragment1").more(), continuation("fragment2")];
    vec![
        Case::new("5.6", "text message in two fragments")
            .send_all(&two)
            .closes(1003)
            .but_theirs_echoes(Why::Text, &[b"fragment1fragment2"]),
        Case::new("5.6", "ping between two fragments of text")
            .send(&two[0])
            .send(&ping("between"))
            .send(&two[1])
            .closes(1003)
            .but_theirs(Why::Text, |verdict| {
                verdict.close = Close::None;
                verdict.ended = false;
                verdict.pongs.push(b"between".to_vec());
                verdict.messages.push(b"fragment1fragment2".to_vec());
            }),
        Case::new("5.6", "new binary message inside a fragmented text one")
            .send(&two[0])
            .send(&binary(message(60)))
            .closes(1003)
            .but_theirs_closes(Why::Text, 1002),
        Case::new("5.6", "new text message inside a fragmented text one")
            .send(&two[0])
            .send(&text("fragment2"))
            .closes(1003)
            .but_theirs_closes(Why::Text, 1002),
        Case::new("5.6", "good message, then text, then a ping")
            .send(&binary(message(60)))
            .send(&text("hello"))
            .send(&ping("late"))
            .echoes(message(60))
            .closes(1003)
            .but_theirs(Why::Text, |verdict| {
                verdict.close = Close::None;
                verdict.ended = false;
                verdict.messages.push(b"hello".to_vec());
                verdict.pongs.push(b"late".to_vec());
            }),
    ]
}
