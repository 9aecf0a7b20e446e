//! From a command line and an environment to one checked [`Settings`], or to all mistakes at once.
//!
//! Owns which values the relay needs, the checks that span two of them, and what clap's refusals are called in our
//! words. Never binds, logs or exits.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    ArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{
    absent,
    env::{Given, Lookup, Origin, variables},
    flags::{self, Setting},
    mistakes::{ConfigError, Mistake, Wrong},
    secrets::{SecretError, SecretText, read_secrets},
    values::{self, ListenAddress},
};
use crate::telemetry::logging::LogSettings;

/// The least a peer's queue may hold, in bytes: seven messages of the largest size.
const PEER_QUEUE_MIN: usize = 64 * 1024;
/// The most a peer's queue may hold, in bytes: beyond it, a number is a slip of the keyboard.
const PEER_QUEUE_MAX: usize = 1 << 30;
/// The least all queues together may hold, in bytes: less than this is a forgotten unit.
const MEMORY_MIN: usize = 16 << 20;
/// The most all queues together may hold, in bytes (1 TiB).
const MEMORY_MAX: usize = 1 << 40;
/// The largest count of handshakes or subscriptions; both are kept in structures that this cannot overflow.
const COUNT_MAX: usize = 1 << 24;

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

/// Where the secrets shared with the management server come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// Given directly; never empty.
    Values(Vec<SecretText>),
    /// A file with one secret a line, to be watched with [`watch_secrets`](super::watch_secrets).
    File(PathBuf),
}

impl SecretSource {
    /// The secrets as they are now, never none; the first one is the one to sign with. Blocks on the file system.
    ///
    /// # Errors
    /// Those of [`read_secrets`]: the file was readable when the settings were checked, and may not be any more.
    pub fn load(&self) -> Result<Vec<SecretText>, SecretError> {
        match self {
            Self::Values(secrets) => Ok(secrets.clone()),
            Self::File(path) => read_secrets(path),
        }
    }
}

/// Everything a relay is told from outside, checked. `Debug` shows no secret.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Where peers connect.
    pub listen_address: ListenAddress,
    /// The path peers ask for; starts with `/`.
    pub relay_path: String,
    /// Where the health pages are served.
    pub health_listen_address: ListenAddress,
    /// The port of `/metrics`, on all addresses; 0 means any free one.
    pub metrics_port: u16,
    /// The public address, as given; the instance URL is made from it.
    pub exposed_address: String,
    /// The secrets tokens are checked with.
    pub auth_secret: SecretSource,
    /// What may wait for one peer, in bytes.
    pub peer_queue_bytes: usize,
    /// What all queues together may hold, in bytes; None leaves it to the relay.
    pub memory_limit: Option<usize>,
    /// How long a message may wait in a queue.
    pub queue_max_age: Duration,
    /// How many connections may be in their handshake at once.
    pub max_handshakes: usize,
    /// How many peers one peer may be subscribed to.
    pub max_subscriptions: usize,
    /// After how many unanswered health checks a peer is disconnected; at least 1.
    pub health_check_threshold: u32,
    /// The log.
    pub log: LogSettings,
}

/// Reads a command line (`args`, the program's name first) and an environment. `load` is the load generator's
/// command, mounted as the subcommand `load`. Reads a given secret file once, to see that it is of use.
///
/// # Errors
/// [`ConfigError::Text`] when help or version are asked for, else [`ConfigError::Mistakes`] with everything that
/// is wrong.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
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
    let reader = Reader {
        lookup: &lookup,
        mistakes,
    };
    reader
        .settings()
        .map(|settings| Command::Run(Box::new(settings)))
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
            Ok(matches) => return Ok((matches, mistakes)),
            Err(error) if is_text(&error) => return Err(ConfigError::Text(error.to_string())),
            Err(error) => error,
        };
        mistakes.push(clap_mistake(&error));
        if error.kind() == ErrorKind::ArgumentConflict {
            // A subcommand after the relay's flags: which of the two was meant is not ours to guess.
            return Err(ConfigError::Mistakes(mistakes));
        }
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
        None => "see --help for what there is".to_owned(),
    };
    match (error.kind(), refused(error)) {
        (ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand, Some(what)) => {
            let problem = if what.starts_with('-') {
                "there is no such flag"
            } else {
                "a word that belongs to no flag"
            };
            Mistake::new(what, problem, remedy)
        }
        (ErrorKind::InvalidValue, Some(what))
            if context(error, ContextKind::InvalidValue).as_deref() == Some("") =>
        {
            Mistake::new(what, "its value is missing", "give one after it")
        }
        (ErrorKind::ArgumentConflict, Some(what)) => Mistake::new(
            what,
            "a subcommand does not go with the relay's flags",
            "give it first, with its own flags only",
        ),
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
            arg == what.as_str() || arg.starts_with(&format!("{what}="))
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

/// Reads values and collects what is wrong with them.
struct Reader<'a> {
    lookup: &'a Lookup<'a>,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn settings(mut self) -> Result<Settings, ConfigError> {
        let listen_address = self.read(&flags::LISTEN_ADDRESS, values::listen_address);
        let relay_path = self.read(&flags::RELAY_PATH, values::relay_path);
        let health_listen_address =
            self.read(&flags::HEALTH_LISTEN_ADDRESS, values::listen_address);
        let metrics_port = self.read(&flags::METRICS_PORT, values::port);
        let exposed_address = self.read(&flags::EXPOSED_ADDRESS, values::exposed_address);
        let auth_secret = self.secret();
        let peer_queue_bytes = self.read(&flags::PEER_QUEUE_BYTES, |text| {
            values::bytes(text, PEER_QUEUE_MIN..=PEER_QUEUE_MAX)
        });
        let memory_limit = self.read_optional(&flags::MEMORY_LIMIT, |text| {
            values::bytes(text, MEMORY_MIN..=MEMORY_MAX)
        });
        let queue_max_age = self.read(&flags::QUEUE_MAX_AGE, |text| {
            values::duration(text, Duration::from_millis(1)..=Duration::from_secs(60))
        });
        let max_handshakes = self.read(&flags::MAX_HANDSHAKES, |text| {
            values::count(text, 1..=COUNT_MAX)
        });
        let max_subscriptions = self.read(&flags::MAX_SUBSCRIPTIONS, |text| {
            values::count(text, 1..=COUNT_MAX)
        });
        let health_check_threshold = self.read(&flags::HEALTH_CHECK_ATTEMPT_THRESHOLD, |text| {
            values::count(text, 1..=1000)
        });
        let log = self.log();
        self.check_ports(
            listen_address.as_ref(),
            health_listen_address.as_ref(),
            metrics_port,
        );
        for absent in absent::ALL {
            self.mistakes.extend(absent.mistake(self.lookup));
        }
        if !self.mistakes.is_empty() {
            return Err(ConfigError::Mistakes(self.mistakes));
        }
        let complete = || {
            Some(Settings {
                listen_address: listen_address?,
                relay_path: relay_path?,
                health_listen_address: health_listen_address?,
                metrics_port: metrics_port?,
                exposed_address: exposed_address?,
                auth_secret: auth_secret?,
                peer_queue_bytes: peer_queue_bytes?,
                memory_limit,
                queue_max_age: queue_max_age?,
                max_handshakes: max_handshakes?,
                max_subscriptions: max_subscriptions?,
                health_check_threshold: health_check_threshold?,
                log: log?,
            })
        };
        Ok(complete().expect("each value that is missing has left a mistake"))
    }

    fn log(&mut self) -> Option<LogSettings> {
        let level = self.read(&flags::LOG_LEVEL, values::log_level);
        let file = self.read(&flags::LOG_FILE, values::log_destination);
        let format = self.read(&flags::LOG_FORMAT, values::log_format);
        let max_size_mb = self.read(&flags::LOG_MAX_SIZE_MB, |text| {
            values::count(text, 1..=1_000_000)
        });
        let frozen = self.read(&flags::LOG_DISABLE_ROTATION, values::switch);
        Some(LogSettings {
            level: level?,
            file: file?,
            format: format?,
            max_size_mb: max_size_mb?,
            rotate: !frozen?,
        })
    }

    fn secret(&mut self) -> Option<SecretSource> {
        let direct = self.given(&flags::AUTH_SECRET);
        let file = self.given(&flags::AUTH_SECRET_FILE);
        match (direct, file) {
            (Some(direct), Some(file)) => {
                self.mistakes.push(Mistake::new(
                    format!("{} and {}", direct.origin, file.origin),
                    "both give the secret",
                    "keep one of them",
                ));
                None
            }
            (Some(direct), None) => {
                let text = self.text(&direct)?;
                if text.is_empty() {
                    self.wrong(
                        &direct.origin,
                        Wrong::new("the secret is empty", "give the management server's secret"),
                    );
                    return None;
                }
                Some(SecretSource::Values(vec![SecretText::new(text)]))
            }
            (None, Some(file)) => {
                let path = self.text(&file)?;
                match read_secrets(Path::new(&path)) {
                    Ok(_) => Some(SecretSource::File(PathBuf::from(path))),
                    Err(error) => {
                        let remedy = "give a readable file with one secret a line";
                        self.wrong(&file.origin, Wrong::new(error.to_string(), remedy));
                        None
                    }
                }
            }
            (None, None) => {
                self.missing(
                    &flags::AUTH_SECRET,
                    &format!("or a file with {}", flags::AUTH_SECRET_FILE.flag()),
                );
                None
            }
        }
    }

    /// Two listeners on one port would fail only when the second is bound, with fewer words.
    fn check_ports(
        &mut self,
        peers: Option<&ListenAddress>,
        health: Option<&ListenAddress>,
        metrics: Option<u16>,
    ) {
        let metrics = metrics.map(ListenAddress::all);
        let listeners = [
            (&flags::LISTEN_ADDRESS, peers),
            (&flags::HEALTH_LISTEN_ADDRESS, health),
            (&flags::METRICS_PORT, metrics.as_ref()),
        ];
        for (index, (first, one)) in listeners.iter().enumerate() {
            for (second, other) in &listeners[index + 1..] {
                let (Some(one), Some(other)) = (one, other) else {
                    continue;
                };
                if one.collides_with(other) {
                    self.mistakes.push(Mistake::new(
                        format!("{} and {}", self.named(first), self.named(second)),
                        format!("both want port {}", one.port()),
                        "give one of them another port",
                    ));
                }
            }
        }
    }

    /// Where the setting's value came from, or its flag when that is the default.
    fn named(&self, setting: &Setting) -> Origin {
        self.given(setting)
            .map_or(Origin::Flag(setting.name), |given| given.origin)
    }

    fn given(&self, setting: &Setting) -> Option<Given> {
        self.lookup.find(setting.name, setting.also_env)
    }

    /// The checked value, or the checked default; a mistake when there is neither.
    fn read<T>(
        &mut self,
        setting: &'static Setting,
        check: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        if self.given(setting).is_none() && setting.default.is_none() {
            self.missing(setting, "");
            return None;
        }
        self.read_optional(setting, check)
    }

    /// As `read`, but without a value and a default there is nothing to report.
    fn read_optional<T>(
        &mut self,
        setting: &'static Setting,
        check: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let (origin, text) = match self.given(setting) {
            Some(given) => (given.origin.clone(), self.text(&given)?),
            None => (Origin::Flag(setting.name), setting.default?.to_owned()),
        };
        match check(text.trim()) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.wrong(&origin, wrong);
                None
            }
        }
    }

    fn text(&mut self, given: &Given) -> Option<String> {
        let text = given.value.to_str().map(str::to_owned);
        if text.is_none() {
            self.wrong(
                &given.origin,
                Wrong::new("the value is not UTF-8 text", "give it in UTF-8"),
            );
        }
        text
    }

    fn wrong(&mut self, origin: &impl fmt::Display, wrong: Wrong) {
        self.mistakes
            .push(Mistake::new(origin, wrong.problem, wrong.remedy));
    }

    fn missing(&mut self, setting: &Setting, or: &str) {
        // A flag without its value has been reported once already.
        let flag = setting.flag();
        if self.mistakes.iter().any(|mistake| mistake.source() == flag) {
            return;
        }
        let names = variables(setting.name).join(", ");
        let remedy = format!("give it, or set one of {names}");
        let remedy = if or.is_empty() {
            remedy
        } else {
            format!("{remedy}, {or}")
        };
        self.mistakes
            .push(Mistake::new(flag, "is required", remedy));
    }
}
