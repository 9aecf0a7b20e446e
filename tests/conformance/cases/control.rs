//! Section 2, pings and pongs; and what the Autobahn suite leaves out: masks and length forms.

use crate::case::{Case, message};
use crate::difference::Why;
use crate::frame::{Form, binary, close, continuation, ping, pong};
use crate::verdict::Close;

pub(super) fn pings() -> Vec<Case> {
    let mut rows = vec![
        Case::new("5.5.2", "ping without payload")
            .send(&ping(""))
            .pongs(""),
        Case::new("5.5.2", "ping with text")
            .send(&ping("Hello, world!"))
            .pongs("Hello, world!"),
        Case::new("5.5.2", "ping with bytes that are not UTF-8")
            .send(&ping([0x00, 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0x00, 0xFF]))
            .pongs([0x00, 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0x00, 0xFF]),
        Case::new("5.5", "ping of 125 bytes")
            .send(&ping([0xFE; 125]))
            .pongs([0xFE; 125]),
        Case::new("5.5", "ping of 126 bytes")
            .send(&ping([0xFE; 126]))
            .closes(1002),
        Case::new("5.5", "pong of 126 bytes")
            .send(&pong([0xFE; 126]))
            .closes(1002),
        Case::new("5.5", "good ping, then one of 126 bytes, then a message")
            .send(&ping("first"))
            .send(&ping([0xFE; 126]))
            .send(&binary(message(60)))
            .pongs("first")
            .closes(1002),
        Case::new("5.5", "ping that declares 126 bytes, and nothing behind it")
            .send(&ping([0xFE; 126]).cut(2))
            .then_end()
            .closes(1002)
            .but_theirs(Why::Early, |verdict| verdict.close = Close::None),
        Case::new("5.5", "ping of 8821 bytes")
            .send(&ping([0xFE; 8821]))
            .closes(1002)
            .but_theirs_closes(Why::LongControl, 1009),
        Case::new("5.5", "ping of 65536 bytes")
            .send(&ping(vec![0xFE; 65_536]))
            .closes(1002)
            .but_theirs_closes(Why::LongControl, 1009),
        Case::new("5.5.3", "unsolicited pong without payload").send(&pong("")),
        Case::new("5.5.3", "unsolicited pong with payload").send(&pong("unsolicited")),
        Case::new("5.5.3", "unsolicited pong of 125 bytes").send(&pong([1; 125])),
        Case::new("5.5.3", "unsolicited pong, then a ping")
            .send(&pong("unsolicited"))
            .send(&ping("solicited"))
            .pongs("solicited"),
        Case::new("5.5.3", "ten unsolicited pongs, then a message")
            .send_all(&vec![pong("unsolicited"); 10])
            .send(&binary(message(60)))
            .echoes(message(60)),
        Case::new("5.5.2", "message, ping, message, ping")
            .send(&binary(message(60)))
            .send(&ping("one"))
            .send(&binary(message(61)))
            .send(&ping("two"))
            .echoes(message(60))
            .echoes(message(61))
            .pongs("one")
            .pongs("two"),
    ];
    let mut ten = Case::new("5.5.2", "ten pings in one go");
    for number in 0..10 {
        let payload = format!("payload-{number}");
        ten = ten.send(&ping(payload.clone())).pongs(payload);
    }
    rows.push(ten);
    let mut every = Case::new("5.5.2", "a ping of every length from 0 to 125");
    for length in 0..=125 {
        every = every
            .send(&ping(vec![length; length.into()]))
            .pongs(vec![length; length.into()]);
    }
    rows.push(every);
    rows
}

pub(super) fn masks_and_forms() -> Vec<Case> {
    let hello = || binary(message(60));
    let early = |case: Case| {
        case.then_end()
            .closes(1002)
            .but_theirs(Why::Early, |verdict| verdict.close = Close::None)
    };
    let mut rows = vec![
        Case::new("5.1", "binary frame without a mask")
            .send(&hello().unmasked())
            .closes(1002),
        Case::new("5.1", "ping without a mask")
            .send(&ping("hello").unmasked())
            .closes(1002),
        Case::new("5.1", "pong without a mask")
            .send(&pong("").unmasked())
            .closes(1002),
        Case::new("5.1", "close frame without a mask")
            .send(&close(1000, "").unmasked())
            .closes(1002),
        Case::new("5.1", "empty frame without a mask")
            .send(&binary("").unmasked())
            .closes(1002),
        Case::new(
            "5.1",
            "good message, then a frame without a mask, then a ping",
        )
        .send(&hello())
        .send(&hello().unmasked())
        .send(&ping("late"))
        .echoes(message(60))
        .closes(1002),
        Case::new("5.1", "second fragment without a mask")
            .send(&hello().more())
            .send(&continuation("rest").unmasked())
            .closes(1002),
        early(
            Case::new(
                "5.1",
                "frame without a mask, and a payload that never comes",
            )
            .send(&hello().unmasked().head_only()),
        ),
        Case::new("5.1", "frame of 8821 bytes without a mask")
            .send(&binary(message(8821)).unmasked())
            .closes(1002)
            .but_theirs_closes(Why::RuleBeforeSize, 1009),
        Case::new("5.3", "mask of zeros")
            .send(&hello().mask([0; 4]))
            .echoes(message(60)),
        Case::new("5.3", "mask of ones")
            .send(&hello().mask([0xFF; 4]))
            .echoes(message(60)),
        Case::new("5.3", "ping with a mask of zeros")
            .send(&ping("hello").mask([0; 4]))
            .pongs("hello"),
        Case::new(
            "5.3",
            "fragments with a mask each, of lengths that are no multiple of four",
        )
        .send(&binary(&message(60)[..7]).more().mask([1, 2, 3, 4]))
        .send(
            &continuation(&message(60)[7..22])
                .more()
                .mask([0x80, 0, 0, 1]),
        )
        .send(&ping("a mask of its own").mask([0, 0, 0, 1]))
        .send(&continuation(&message(60)[22..]).mask([9, 8, 7, 6]))
        .pongs("a mask of its own")
        .echoes(message(60)),
        Case::new("5.2", "60 bytes with the length in 16 bits")
            .send(&hello().form(Form::Sixteen))
            .echoes(message(60)),
        Case::new("5.2", "60 bytes with the length in 64 bits")
            .send(&hello().form(Form::SixtyFour))
            .echoes(message(60)),
        Case::new("5.2", "1420 bytes with the length in 64 bits")
            .send(&binary(message(1420)).form(Form::SixtyFour))
            .echoes(message(1420)),
        Case::new("5.2", "last fragment without payload, length in 64 bits")
            .send(&hello().more())
            .send(&continuation("").form(Form::SixtyFour))
            .echoes(message(60)),
        Case::new("5.2", "length of 2^63 - 1, and nothing behind it")
            .send(&hello().declare(i64::MAX.unsigned_abs()).head_only())
            .then_end()
            .closes(1009),
        Case::new("5.2", "length of 2^32, and nothing behind it")
            .send(&hello().declare(1 << 32).head_only())
            .then_end()
            .closes(1009),
        Case::new("5.2", "close frame with its length in 16 bits")
            .send(&close(1000, "").form(Form::Sixteen))
            .closes(1002)
            .but_theirs_closes(Why::LongForm, 1000),
    ];
    for (length, name) in [
        ((1 << 63) + 60, "2^63 + 60"),
        (1 << 63, "2^63"),
        (u64::MAX, "2^64 - 1"),
    ] {
        rows.push(
            Case::new("5.2", format!("length of {name}"))
                .send(&hello().declare(length))
                .closes(1002)
                .but_theirs_closes(Why::LengthBit, 1009),
        );
    }
    for (form, name) in [(Form::Sixteen, 16), (Form::SixtyFour, 64)] {
        rows.push(
            Case::new(
                "5.2",
                format!("ping of 5 bytes with the length in {name} bits"),
            )
            .send(&ping("hello").form(form))
            .closes(1002)
            .but_theirs(Why::LongForm, |verdict| {
                verdict.close = Close::None;
                verdict.ended = false;
                verdict.pongs.push(b"hello".to_vec());
            }),
        );
    }
    let mut masks = Case::new("5.3", "a message for every bit of the mask");
    for bit in 0..32 {
        masks = masks
            .send(&hello().mask((1_u32 << bit).to_be_bytes()))
            .echoes(message(60));
    }
    rows.push(masks);
    rows
}
