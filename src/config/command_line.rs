//! From a command line and an environment to what is to be done, or to all mistakes at once.
//!
//! Owns the subcommands, and what clap's refusals are called in our words. Never reads a value: that is `reader`'s.
//! Never binds, logs or exits.

use std::ffi::{OsStr, OsString};

use clap::{
    ArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{
    env::Lookup,
    flags,
    mistakes::{ConfigError, Mistake},
    reader,
    settings::Settings,
    unknown,
};

/// What the operator wants to be done.
#[derive(Debug)]
pub enum Command {
    /// Run the relay.
    Run(Box<Settings>),
    /// Show a relay at work, and end by itself unless `keep`.
    Demo {
        /// Go on after the summary.
        keep: bool,
    },
    /// Put load on a relay; the flags are those of the load generator's own command.
    Load(ArgMatches),
}

/// Reads a command line (`args`, the program's name first) and an environment: `env` gives a variable's value, `names` lists the
/// variables that there are. `load` is the load generator's command, mounted as the subcommand `load`. Reads a given secret file once, to see that it is of use.
///
/// # Errors
/// [`ConfigError::Text`] when help or version are asked for, else [`ConfigError::Mistakes`] with everything that
/// is wrong.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
    names: impl IntoIterator<Item = OsString>,
    load: clap::Command,
) -> Result<Command, ConfigError> {
    let command = flags::command(load);
    let args: Vec<OsString> = args.into_iter().collect();
    let name = args
        .get(1)
        .and_then(|first| first.to_str())
        .unwrap_or_default();
    if name == "help" || command.find_subcommand(name).is_some() {
        return subcommand(command, args);
    }
    let (matches, mistakes) = read_flags(&command, args)?;
    let lookup = Lookup::new(&matches, &env);
    let unknown = unknown::variables(names, &env);
    reader::settings(&lookup, mistakes, unknown).map(|settings| Command::Run(Box::new(settings)))
}

/// A subcommand's line; its flags are few and its own, so clap's first refusal is enough.
fn subcommand(command: clap::Command, args: Vec<OsString>) -> Result<Command, ConfigError> {
    let matches = command.try_get_matches_from(args).map_err(|error| {
        if is_text(&error) {
            ConfigError::Text(error.to_string())
        } else {
            ConfigError::Mistakes(vec![clap_mistake(&error)])
        }
    })?;
    match matches.subcommand() {
        Some((flags::DEMO, matches)) => Ok(Command::Demo {
            keep: matches.get_flag(flags::KEEP),
        }),
        Some((_, matches)) => Ok(Command::Load(matches.clone())),
        None => unreachable!("clap has matched the name of a subcommand in the first place"),
    }
}

fn is_text(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    )
}

/// Lets clap read the flags, and puts away what it refuses, one by one, so that a misspelt flag does not hide
/// the other mistakes.
fn read_flags(
    command: &clap::Command,
    mut args: Vec<OsString>,
) -> Result<(ArgMatches, Vec<Mistake>), ConfigError> {
    let mut mistakes = Vec::new();
    loop {
        let error = match command.clone().try_get_matches_from(&args) {
            Ok(matches) => match matches.subcommand_name() {
                None => return Ok((matches, mistakes)),
                Some(name) => {
                    // Which of the two was meant is not ours to guess, so nothing more is judged.
                    mistakes.push(Mistake::new(
                        name,
                        "a subcommand does not go with the relay's flags",
                        "give it first, with its own flags only",
                    ));
                    return Err(ConfigError::Mistakes(mistakes));
                }
            },
            Err(error) if is_text(&error) => return Err(ConfigError::Text(error.to_string())),
            Err(error) => error,
        };
        mistakes.push(clap_mistake(&error));
        // Each turn takes at least one argument away; what cannot be found ends the search.
        if !remove_refused(&error, &mut args) {
            return Err(ConfigError::Mistakes(mistakes));
        }
    }
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

/// The words that would have been right, where there are only so many.
fn choices(error: &clap::Error) -> &[String] {
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(words)) => words,
        _ => &[],
    }
}

/// What clap refuses: `--bogus`, `-x`, a stray word, or a flag without its value.
fn refused(error: &clap::Error) -> Option<String> {
    let text = context(error, ContextKind::InvalidArg)
        .or_else(|| context(error, ContextKind::InvalidSubcommand))?;
    // A flag is followed by its hint: `--listen-address <ADDRESS>`.
    let end = text
        .find(" <")
        .or_else(|| text.find("[="))
        .or_else(|| text.find("=<"));
    Some(text[..end.unwrap_or(text.len())].to_owned())
}

fn clap_mistake(error: &clap::Error) -> Mistake {
    let suggestion = context(error, ContextKind::SuggestedArg)
        .or_else(|| context(error, ContextKind::SuggestedSubcommand));
    let remedy = match suggestion {
        Some(suggestion) => format!("did you mean {suggestion}?"),
        None if !choices(error).is_empty() => format!("give one of {}", choices(error).join(", ")),
        None => "see --help for what there is".to_owned(),
    };
    match (error.kind(), refused(error)) {
        (ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand, Some(what)) => {
            let problem = if what.starts_with('-') {
                "there is no such flag"
            } else {
                "a word that belongs to no flag"
            };
            let is_switch_value = ["true", "false"].contains(&what.as_str());
            let remedy = if is_switch_value {
                format!("give it with the flag in front of it and \"=\", as in --quic={what}")
            } else {
                remedy
            };
            Mistake::new(what, problem, remedy)
        }
        (ErrorKind::InvalidValue, Some(what))
            if context(error, ContextKind::InvalidValue).as_deref() == Some("") =>
        {
            Mistake::new(what, "its value is missing", "give one after it")
        }
        (ErrorKind::MissingRequiredArgument, Some(what)) => {
            Mistake::new(what, "is required", "give it; see --help for what there is")
        }
        // Only the subcommands' own checks get here, and clap words them well.
        (_, what) => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            let first = first.strip_prefix("error: ").unwrap_or(first);
            Mistake::new(
                what.unwrap_or_else(|| "command line".to_owned()),
                first,
                remedy,
            )
        }
    }
}

/// Takes the refused argument out of `args`; false when it is not found there.
fn remove_refused(error: &clap::Error, args: &mut Vec<OsString>) -> bool {
    let Some(what) = refused(error) else {
        return false;
    };
    let starts = |arg: &OsStr, with: &str| arg.to_string_lossy().starts_with(with);
    let lacks_value = |at: usize| args.get(at + 1).is_none_or(|next| starts(next, "-"));
    let valueless = error.kind() == ErrorKind::InvalidValue;
    let short = flags::ALL
        .iter()
        .find(|setting| setting.flag() == what)
        .and_then(|setting| setting.short)
        .map(|short| format!("-{short}"));
    let found = (1..args.len()).find(|&at| {
        let arg = args[at].to_string_lossy();
        if valueless {
            (arg == what.as_str() || Some(arg.as_ref()) == short.as_deref()) && lacks_value(at)
        } else {
            // `-x` may have its value, or further letters, right behind it.
            let glued = !what.starts_with("--") && what.starts_with('-') && !arg.starts_with("--");
            arg == what.as_str()
                || arg.starts_with(&format!("{what}="))
                || (glued && arg.starts_with(&what))
        }
    });
    let Some(at) = found else {
        return false;
    };
    let alone = !args[at].to_string_lossy().contains('=');
    args.remove(at);
    // The word after an unknown flag is its value: without the flag it would be a second, misleading mistake.
    if !valueless
        && what.starts_with('-')
        && alone
        && args.get(at).is_some_and(|next| !starts(next, "-"))
    {
        args.remove(at);
    }
    true
}
