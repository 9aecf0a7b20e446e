//! Section 6: UTF-8. The relay takes no text, so its verdict is one; what it must not do is look at the bytes of a binary
//! message in that light, and each sequence goes through that test as well.

use crate::case::{Case, message};
use crate::difference::Why;
use crate::frame::{binary, continuation, text};

/// Sequences at the edges of what is valid, on both sides of them.
const SEQUENCES: [&[u8]; 62] = [
    b"",
    b"Hello-\xC2\xB5@\xC3\x9F\xC3\xB6\xC3\xA4\xC3\xBC\xC3\xA0\xC3\xA1-UTF-8!!",
    b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5",
    // First and last of each length.
    b"\x00",
    b"\x7F",
    b"\xC2\x80",
    b"\xDF\xBF",
    b"\xE0\xA0\x80",
    b"\xEF\xBF\xBF",
    b"\xF0\x90\x80\x80",
    b"\xF4\x8F\xBF\xBF",
    // Around the surrogates, noncharacters, the replacement character, a byte order mark.
    b"\xED\x9F\xBF",
    b"\xEE\x80\x80",
    b"\xEF\xBF\xBD",
    b"\xEF\xBF\xBE",
    b"\xEF\xBB\xBF",
    b"\xEF\xB7\x90",
    b"\xF0\x9F\xBF\xBE",
    b"\xF0\xAF\xBF\xBF",
    b"\xF3\xBF\xBF\xBF",
    // Beyond the last character, and the five and six bytes of old.
    b"\xF4\x90\x80\x80",
    b"\xF7\xBF\xBF\xBF",
    b"\xF8\x88\x80\x80\x80",
    b"\xFB\xBF\xBF\xBF\xBF",
    b"\xFC\x84\x80\x80\x80\x80",
    b"\xFD\xBF\xBF\xBF\xBF\xBF",
    b"\xFE",
    b"\xFF",
    b"\xFE\xFE\xFF\xFF",
    // Continuation bytes alone.
    b"\x80",
    b"\xBF",
    b"\x80\xBF",
    b"\x80\xBF\x80\xBF\x80\xBF",
    b"ok\x80",
    // Beginnings without an end.
    b"\xC2",
    b"\xC3 ",
    b"\xDF ",
    b"\xE0\xA0",
    b"\xE1\x80 ",
    b"\xEF\xBF",
    b"\xF0\x90\x80",
    b"\xF1\x80\x80 ",
    b"\xF4\x8F\xBF",
    b"\xCE\xBA\xE1",
    // Longer than need be.
    b"\xC0\xAF",
    b"\xE0\x80\xAF",
    b"\xF0\x80\x80\xAF",
    b"\xF8\x80\x80\x80\xAF",
    b"\xFC\x80\x80\x80\x80\xAF",
    b"\xC1\xBF",
    b"\xE0\x9F\xBF",
    b"\xF0\x8F\xBF\xBF",
    b"\xC0\x80",
    b"\xE0\x80\x80",
    b"\xF0\x80\x80\x80",
    // Surrogates, single and in pairs.
    b"\xED\xA0\x80",
    b"\xED\xAF\xBF",
    b"\xED\xB0\x80",
    b"\xED\xBF\xBF",
    b"\xED\xA0\x80\xED\xB0\x80",
    b"\xED\xAF\xBF\xED\xBF\xBF",
    b"\xCE\xBA\xE1\xBD\xB9\xCF\x83\xCE\xBC\xCE\xB5\xED\xA0\x80edited",
];

pub(super) fn all() -> Vec<Case> {
    let (mut rows, mut in_pieces, mut in_binary) = (Vec::new(), Vec::new(), Vec::new());
    for sequence in SEQUENCES {
        let name: String = sequence.iter().map(|byte| format!("{byte:02x}")).collect();
        let row = |what: &str| Case::new("8.1", format!("{what} '{name}'"));
        let verdict = |case: Case| {
            let case = case.closes(1003);
            match std::str::from_utf8(sequence) {
                Ok(_) => case.but_theirs_echoes(Why::Text, &[sequence]),
                Err(_) => case.but_theirs_closes(Why::Text, 1007),
            }
        };
        rows.push(verdict(row("text of").send(&text(sequence))));
        let mut frames = vec![text("").more()];
        frames.extend(sequence.chunks(1).map(|byte| continuation(byte).more()));
        frames.push(continuation(""));
        in_pieces.push(verdict(
            row("text in fragments of one byte:").send_all(&frames),
        ));
        let mut carrier = message(38);
        carrier.extend_from_slice(sequence);
        in_binary.push(
            row("binary message with")
                .send(&binary(carrier.clone()))
                .echoes(carrier),
        );
    }
    rows.append(&mut in_pieces);
    // To refuse text before it is whole: section 8.1 allows it, and the Autobahn suite likes it.
    for (what, bytes) in [
        ("character beyond the last", &b"\xCE\xBA\xF4\x90"[..]),
        ("surrogate", b"\xCE\xBA\xED\xA0\x80"),
    ] {
        rows.push(
            Case::new(
                "8.1",
                format!("{what} in the first fragment of a text that never ends"),
            )
            .send(&text(bytes).more())
            .then_end()
            .closes(1003)
            .but_theirs_closes(Why::Text, 1007),
        );
    }
    rows.push(
        Case::new(
            "8.1",
            "text cut inside a character, the rest of its frame never comes",
        )
        .send(&text(b"\xCE\xBA\xE1\xBD\xB9".to_vec()).cut(9))
        .then_end()
        .closes(1003)
        .but_theirs(Why::Text, |verdict| {
            verdict.close = crate::verdict::Close::None
        }),
    );
    rows.append(&mut in_binary);
    rows
}
