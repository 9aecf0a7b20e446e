//! Where a value is looked for: the flag, then the environment, in one order for every setting.
//!
//! Owns the prefixes and the rule that makes variable names from flag names (operations.md, *Flags*). Never
//! judges a value.

use std::{
    ffi::{OsStr, OsString},
    fmt,
};

use clap::{ArgMatches, parser::ValueSource};

/// The prefix that no other program has.
pub(super) const OWN_PREFIX: &str = "TRUNKLINE_";

/// The prefixes of environment variables; an earlier one beats a later one.
pub(super) const PREFIXES: [&str; 3] = [OWN_PREFIX, "OZ_", "NB_"];

/// Where a value came from, displayed as the operator would name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A flag, by its name without `--`.
    Flag(&'static str),
    /// An environment variable.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// A value somebody gave, unread.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) origin: Origin,
    pub(super) value: OsString,
}

/// The flags and the environment, asked together.
pub(super) struct Lookup<'a> {
    matches: &'a ArgMatches,
    env: &'a dyn Fn(&str) -> Option<OsString>,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(matches: &'a ArgMatches, env: &'a dyn Fn(&str) -> Option<OsString>) -> Self {
        Self { matches, env }
    }

    /// The value that counts for the flag `name`: its own, else that of the first variable that is set and not
    /// empty. Charts set empty variables for what they have no value for.
    pub(super) fn find(&self, name: &'static str, also_env: &[&str]) -> Option<Given> {
        self.flag(name)
            .or_else(|| self.variables(name, also_env).next())
    }

    /// The values that somebody gave, too, and that do not count.
    pub(super) fn overridden(&self, name: &'static str, also_env: &[&str]) -> Vec<Given> {
        let flag = self.flag(name).is_some();
        self.variables(name, also_env)
            .skip(usize::from(!flag))
            .collect()
    }

    fn flag(&self, name: &'static str) -> Option<Given> {
        if self.matches.value_source(name) == Some(ValueSource::CommandLine) {
            // Only of a list there is more than one.
            let values = self.matches.get_many::<OsString>(name);
            let values: Vec<&OsStr> = values.into_iter().flatten().map(OsString::as_ref).collect();
            return Some(Given {
                origin: Origin::Flag(name),
                value: values.join(OsStr::new(",")),
            });
        }
        None
    }

    fn variables(&self, name: &str, also_env: &[&str]) -> impl Iterator<Item = Given> {
        variables(name)
            .into_iter()
            .chain(also_env.iter().map(|&name| name.to_owned()))
            .filter_map(|variable| {
                let value = (self.env)(&variable).filter(|value| !blank(value))?;
                Some(Given {
                    origin: Origin::Variable(variable),
                    value,
                })
            })
    }

    /// A variable by its whole name, if it is set.
    pub(super) fn variable(&self, name: &str) -> Option<OsString> {
        (self.env)(name)
    }
}

/// The variables made from a flag's name, in the order in which they count.
pub(super) fn variables(name: &str) -> Vec<String> {
    let name = name.to_uppercase().replace('-', "_");
    PREFIXES
        .iter()
        .map(|prefix| format!("{prefix}{name}"))
        .collect()
}

fn blank(value: &OsStr) -> bool {
    value.to_str().is_some_and(|text| text.trim().is_empty())
}
