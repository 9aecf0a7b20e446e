//! What can be wrong with a command line or an environment, and how it is told.
//!
//! Owns the wording "source: what is wrong; what would be right". Never prints a secret: the checks that make
//! mistakes quote values through [`quoted`], and the checks of secrets quote nothing.

use std::fmt;

/// The longest part of a wrong value that is quoted back, in characters: enough to recognise it.
const QUOTED_CHARS: usize = 80;

/// One thing that is wrong with the configuration, as one line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    source: String,
    problem: String,
    remedy: String,
}

impl Mistake {
    /// A mistake in `source` (a flag, an environment variable, or a stray word).
    pub(super) fn new(
        source: impl fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            source: source.to_string(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// The flag or the environment variable that held the value, such as `--listen-address` or `OZ_LOG_LEVEL`.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.source, self.problem, self.remedy)
    }
}

/// Why there is nothing to run: the operator asked for a text, or made mistakes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The help or the version was asked for: the text for stdout, its last line ended.
    #[error("{0}")]
    Text(String),
    /// All mistakes found, never none; displayed one a line, without a last line break.
    #[error("{}", lines(.0))]
    Mistakes(Vec<Mistake>),
}

impl ConfigError {
    /// What the process ends with: 0 after a text that was asked for, 2 after mistakes (operations.md, *Flags*).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Text(_) => 0,
            Self::Mistakes(_) => 2,
        }
    }

    /// Writes the text to stdout, or the mistakes to stderr. A closed stream is not an error worth reporting:
    /// there is nobody left to read it.
    pub fn print(&self) {
        use std::io::Write as _;
        let _closed = match self {
            Self::Text(text) => std::io::stdout().write_all(text.as_bytes()),
            Self::Mistakes(_) => writeln!(std::io::stderr(), "{self}"),
        };
    }
}

fn lines(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes.iter().map(Mistake::to_string).collect();
    lines.join("\n")
}

/// What a check finds wrong with a value; the reader adds where the value came from.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Wrong {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// `value` in double quotes, on one line whatever it holds, and shortened when it is long.
pub(super) fn quoted(value: &str) -> String {
    match value.char_indices().nth(QUOTED_CHARS) {
        Some((cut, _)) => format!("{:?}...", &value[..cut]),
        None => format!("{value:?}"),
    }
}
