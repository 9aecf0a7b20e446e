//! How the demo is told: lines on a terminal, and numbers that people can read.

use std::io::Write;
use std::time::Duration;

/// Writes lines, and counts what was checked.
#[derive(Debug)]
pub(super) struct Report<W> {
    out: W,
    checks: usize,
}

impl<W: Write> Report<W> {
    pub(super) const fn new(out: W) -> Self {
        Self { out, checks: 0 }
    }

    /// A line of its own.
    pub(super) fn say(&mut self, text: &str) {
        // Nobody reads any more (`| head`): the exit code is still worth something.
        let _ = writeln!(self.out, "{text}");
        let _ = self.out.flush();
    }

    /// Something that happened as it should.
    pub(super) fn ok(&mut self, text: &str) {
        self.checks += 1;
        self.say(&format!("  ok      {text}"));
    }

    /// Something that did not.
    pub(super) fn failed(&mut self, text: &str) {
        self.checks += 1;
        self.say(&format!("  FAILED  {text}"));
    }

    /// How many things were checked.
    pub(super) const fn checks(&self) -> usize {
        self.checks
    }
}

/// A duration in the unit that suits it: `85 us`, `1.24 ms`, `2.0 s`.
pub(super) fn duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.2} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// A number with commas between its thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(123_456), "123,456");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn durations_have_the_unit_that_suits_them() {
        let text = |micros| duration(Duration::from_micros(micros));
        assert_eq!(text(85), "85 us");
        assert_eq!(text(1_240), "1.24 ms");
        assert_eq!(text(2_040_000), "2.0 s");
    }

    #[test]
    fn counts_what_was_checked() {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out);
        report.say("Hello");
        report.ok("it rains");
        report.failed("it shines");
        assert_eq!(report.checks(), 2);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "Hello\n  ok      it rains\n  FAILED  it shines\n"
        );
    }
}
