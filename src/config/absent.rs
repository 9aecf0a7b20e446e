//! Settings of operations.md whose capability this version does not have.
//!
//! Owns their names and what to do instead. They are known so that asking for one is refused with a reason and
//! never silently ignored; a value that asks for nothing (`OZ_LETSENCRYPT_AWS_ROUTE53=false`) is accepted, because existing
//! installations set such values.

use clap::Arg;

use super::{
    env::Lookup,
    flags::{self, Kind},
    mistakes::Mistake,
    values,
};

/// When a value asks for the capability.
#[derive(Debug, Clone, Copy)]
enum Asks {
    /// Any value does, other than this one, which is what an installation without the capability may say.
    UnlessEmptyOr(&'static str),
    /// A yes does.
    IfTrue,
    /// None does: it only details a capability that another setting switches on.
    Never,
}

/// One setting that is known and refused.
#[derive(Debug)]
pub(super) struct Absent {
    name: &'static str,
    short: Option<char>,
    asks: Asks,
    capability: &'static Capability,
}

/// Something this version cannot do.
#[derive(Debug)]
struct Capability {
    name: &'static str,
    instead: &'static str,
}

static ACME: Capability = Capability {
    name: "certificates from Let's Encrypt",
    instead: "get one with an ACME client such as certbot, and give its files with --tls-cert-file and --tls-key-file: renewed ones are picked up",
};

/// Every such setting.
pub(super) static ALL: &[Absent] = &[
    row(
        "letsencrypt-domains",
        Some('a'),
        Asks::UnlessEmptyOr(""),
        &ACME,
    ),
    row("letsencrypt-data-dir", Some('d'), Asks::Never, &ACME),
    row("letsencrypt-email", None, Asks::Never, &ACME),
    row("letsencrypt-aws-route53", None, Asks::IfTrue, &ACME),
];

const fn row(
    name: &'static str,
    short: Option<char>,
    asks: Asks,
    capability: &'static Capability,
) -> Absent {
    Absent {
        name,
        short,
        asks,
        capability,
    }
}

impl Absent {
    /// The flag, kept out of the help: it is there to be refused.
    pub(super) fn arg(&self) -> Arg {
        let kind = match self.asks {
            Asks::IfTrue => Kind::Switch,
            Asks::UnlessEmptyOr(_) | Asks::Never => Kind::Secret,
        };
        flags::raw_arg(self.name, self.short, kind).hide(true)
    }

    /// The mistake, when what was given asks for the capability.
    pub(super) fn mistake(&self, lookup: &Lookup<'_>) -> Option<Mistake> {
        let given = lookup.find(self.name, &[])?;
        // What is not text asks for something, whatever it is.
        let value = given.value.to_str().map(str::trim);
        let asks = match (self.asks, value) {
            (Asks::Never, _) => false,
            (_, None) => true,
            (Asks::IfTrue, Some(value)) => values::switch(value).unwrap_or(true),
            (Asks::UnlessEmptyOr(usual), Some(value)) => {
                value != usual && !matches!(values::switch(value), Ok(false)) && !value.is_empty()
            }
        };
        asks.then(|| {
            Mistake::new(
                given.origin,
                format!("this version has no {}", self.capability.name),
                self.capability.instead,
            )
        })
    }
}

/// The lines of the help that say what this version cannot do.
pub(super) fn help() -> String {
    let mut names: Vec<&str> = ALL.iter().map(|absent| absent.capability.name).collect();
    names.dedup();
    format!(
        "Not in this version:\n  {}.\n  Flags and variables that ask for one of these are refused with a reason.",
        names.join(", ")
    )
}
