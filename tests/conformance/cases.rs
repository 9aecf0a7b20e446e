//! All rows, numbered within their sections.

mod close;
mod control;
mod fragments;
mod framing;
mod limits;
mod utf8;

use crate::case::Case;

/// The sections, as the Autobahn suite numbers them, and what is in them.
pub(crate) const SECTIONS: [(&str, &str); 10] = [
    ("1", "framing: payload lengths"),
    ("2", "pings and pongs"),
    ("3", "reserved bits"),
    ("4", "reserved opcodes"),
    ("5", "fragmentation"),
    ("6", "UTF-8"),
    ("7", "the close handshake"),
    ("9", "limits"),
    ("10", "automatic fragmentation"),
    ("M", "masks and length forms"),
];

/// The table.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (section, _) in SECTIONS {
        let mut rows = match section {
            "1" => framing::lengths(),
            "2" => control::pings(),
            "3" => framing::reserved_bits(),
            "4" => framing::reserved_opcodes(),
            "5" => fragments::all(),
            "6" => utf8::all(),
            "7" => close::all(),
            "9" => limits::sizes(),
            "10" => limits::automatic(),
            "M" => control::masks_and_forms(),
            _ => unreachable!("a section without cases"),
        };
        for (number, case) in rows.iter_mut().enumerate() {
            case.id = format!("{section}.{}", number + 1);
        }
        cases.append(&mut rows);
    }
    cases
}
