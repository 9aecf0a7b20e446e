//! The command line of `trunkline load`: its options, and the settings made of them.
//!
//! Looks up the target's name, reads the files of the secret and of authorities (or what authorities the machine trusts), and refuses a
//! target that may be somebody else's. Opens no connection.

use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};

use super::error::LoadError;
use super::options::{Load, Settings, Target};
use super::tls::{self, Trust};
use crate::auth::Secret;

/// No load is longer, seconds.
const SECONDS_MAX: f64 = 7.0 * 24.0 * 3600.0;

/// The route that stock relays serve.
const DEFAULT_ROUTE: &str = "/relay";

/// Reads what [`command`] has parsed. Looks names up and reads files.
pub(super) fn settings(matches: &ArgMatches) -> Result<Settings, LoadError> {
    let one = |name: &str| *matches.get_one::<usize>(name).expect("has a default");
    let name = matches.get_one::<String>("load").expect("has a default");
    let load = Load::ALL
        .into_iter()
        .find(|load| load.name() == name)
        .expect("clap takes no other");
    refuse_useless(matches, load)?;
    let text = |name| matches.get_one::<String>(name).map(String::as_str);
    for option in ["ca-file", "secret-file"] {
        if text(option) == Some("") {
            return Err(LoadError::Usage(format!("--{option} is empty")));
        }
    }
    let target = text("address").expect("required");
    let (host, route) = parse_address("address", target)?;
    let owned = matches.get_flag("i-own-this-relay");
    let elsewhere = |option| {
        let found = text(option).map(|text| resolve(option, &parse_place(option, text)?, owned));
        found.transpose()
    };
    let address = match elsewhere("connect-to")? {
        Some(address) => address,
        None => resolve("address", &host, owned)?,
    };
    let receivers_on = elsewhere("receivers-on")?;
    let secret = read_secret(text("secret"), text("secret-file").map(Path::new))?;
    let quic = matches.get_flag("quic");
    if quic && without_scheme(target).contains('/') {
        return Err(LoadError::Usage(format!(
            "--address: a path has no effect with --quic: give {host}"
        )));
    }
    let trust = match (text("ca-file"), matches.get_flag("insecure")) {
        (Some(file), _) => Trust::File(Path::new(file)),
        (None, true) => Trust::Anything,
        (None, false) => Trust::System,
    };
    let tls = match (matches.get_flag("tls") || quic, trust) {
        (true, trust) => Some(tls::config(trust)?),
        (false, Trust::System) => None,
        (false, Trust::File(_) | Trust::Anything) => {
            let option = text("ca-file").map_or("--insecure", |_| "--ca-file");
            return Err(LoadError::Usage(format!(
                "{option} is about the certificate of a relay with TLS: add --tls or --quic, or leave it out"
            )));
        }
    };
    let defaults = Settings::new(
        load,
        Target::Relay {
            address,
            host,
            route,
            secret,
        },
    );
    let settings = Settings {
        pairs: matches
            .get_one::<usize>("pairs")
            .copied()
            .unwrap_or(defaults.pairs),
        size: one("size"),
        batch: one("batch"),
        window: *matches.get_one::<u64>("window").expect("has a default"),
        rate: *matches.get_one::<f64>("rate").expect("has a default"),
        receive_rate: *matches
            .get_one::<f64>("receive-rate")
            .expect("has a default"),
        handshakes: matches.get_flag("handshakes"),
        receivers_on,
        ramp_up: *matches
            .get_one::<Duration>("ramp-up")
            .expect("has a default"),
        duration: *matches
            .get_one::<Duration>("duration")
            .expect("has a default"),
        warmup: *matches
            .get_one::<Duration>("warmup")
            .expect("has a default"),
        peers: matches
            .get_one::<usize>("peers")
            .copied()
            .unwrap_or(defaults.peers),
        concurrency: matches
            .get_one::<usize>("concurrency")
            .copied()
            .unwrap_or(defaults.concurrency),
        pids: matches
            .get_many::<u32>("pid")
            .unwrap_or_default()
            .copied()
            .collect(),
        source_addresses: *matches
            .get_one::<u32>("source-addresses")
            .expect("has a default"),
        tls,
        quic,
        interrupt: true,
        progress: true,
        ..defaults
    };
    settings.check()?;
    Ok(settings)
}

/// The loads on which an option has an effect, if not on all.
const ONLY: [(&str, &[Load]); 10] = {
    use Load::{Fair, Flood, Flow, Idle, Paced, Stall, Storm};
    let with_pairs: &[Load] = &[Flow, Paced, Flood, Stall, Storm, Fair];
    [
        ("pairs", with_pairs),
        ("size", with_pairs),
        ("receivers-on", with_pairs),
        ("batch", &[Flow, Paced, Flood, Stall, Storm]),
        ("window", &[Flow]),
        ("rate", &[Paced, Stall, Storm, Fair]),
        ("receive-rate", &[Fair]),
        ("handshakes", &[Fair]),
        ("peers", &[Idle, Storm]),
        ("ramp-up", &[Flow, Paced, Flood, Stall, Storm, Fair, Idle]),
    ]
};

/// Whoever gives an option that changes nothing measures something else than he believes.
fn refuse_useless(matches: &ArgMatches, load: Load) -> Result<(), LoadError> {
    let useless = |(option, loads): &(&str, &[Load])| {
        let given = matches.value_source(option) == Some(ValueSource::CommandLine);
        (given && !loads.contains(&load)).then(|| {
            let others: Vec<_> = loads.iter().map(|load| load.name()).collect();
            let (load, others) = (load.name(), others.join(", "));
            format!("--{option} has no effect on the {load} load, only on {others}: leave it out")
        })
    };
    let mistakes: Vec<_> = ONLY.iter().filter_map(useless).collect();
    if mistakes.is_empty() {
        return Ok(());
    }
    Err(LoadError::Usage(mistakes.join("\n  ")))
}

/// The subcommand `load` with its options.
pub fn command() -> Command {
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("N")
            .default_value(default)
            .value_parser(value_parser!(usize))
            .help(help)
    };
    Command::new("load")
        .about("Loads a relay and reports what it cost")
        .long_about(
            "Loads any relay of this protocol (Trunkline, openZro, NetBird) and reports messages and bits a second, \
             loss, latency, and, with --pid, the relay's CPU time per message and its memory.\n\n\
             The relay's CPU time per message is the figure to compare: it holds on a busy machine.",
        )
        .arg(
            Arg::new("load")
                .value_name("LOAD")
                .default_value(Load::Flow.name())
                .value_parser(PossibleValuesParser::new(Load::ALL.map(Load::name)))
                .help("flow: a window in flight; paced: a rate; flood: all it takes; idle; churn; stall: one receiver never reads; storm: strangers attempt handshakes; fair: one sender floods a slow receiver"),
        )
        .arg(
            Arg::new("address")
                .long("address")
                .short('a')
                .value_name("HOST:PORT | ws://HOST:PORT/PATH")
                .required(true)
                .help("The relay; the path is /relay unless given"),
        )
        .arg(
            Arg::new("connect-to")
                .long("connect-to")
                .value_name("HOST:PORT")
                .help("Where to connect in the place of the address, whose name stays in requests and TLS handshakes"),
        )
        .arg(
            Arg::new("secret")
                .long("secret")
                .short('s')
                .value_name("TEXT")
                .conflicts_with("secret-file")
                .help("The relay's auth secret; other users of this machine can see it here, so rather:"),
        )
        .arg(
            Arg::new("secret-file")
                .long("secret-file")
                .value_name("FILE")
                .help("A file whose first line is the relay's auth secret"),
        )
        .arg(
            Arg::new("receivers-on")
                .long("receivers-on")
                .value_name("HOST:PORT")
                .help("Where receivers connect, if it is another pod of the same relay"),
        )
        .arg(
            Arg::new("pairs")
                .long("pairs")
                .short('p')
                .value_name("N")
                .value_parser(value_parser!(usize))
                .help("Pairs of a sender and a receiver; fair: modest senders [default: 50 for fair, else 10]"),
        )
        .arg(number("size", "1280", "Payload bytes of a message, 16 to 8782"))
        .arg(number("batch", "1", "Messages a sender writes in one call").short('b'))
        .arg(
            Arg::new("window")
                .long("window")
                .short('w')
                .value_name("N")
                .default_value("128")
                .value_parser(value_parser!(u64))
                .help("flow: messages each pair keeps in flight"),
        )
        .arg(
            Arg::new("rate")
                .long("rate")
                .short('r')
                .value_name("N")
                .default_value("200")
                .value_parser(value_parser!(f64))
                .help("paced, stall, storm: messages a second and pair; fair: and modest sender"),
        )
        .arg(
            Arg::new("receive-rate")
                .long("receive-rate")
                .value_name("N")
                .default_value("5000")
                .value_parser(value_parser!(f64))
                .help("fair: messages a second that the receiver reads"),
        )
        .arg(
            Arg::new("handshakes")
                .long("handshakes")
                .action(ArgAction::SetTrue)
                .help("fair: modest senders send messages of the form of WireGuard handshakes, too"),
        )
        .arg(seconds("ramp-up", "0").help("Over how long the connections are made"))
        .arg(seconds("duration", "10").short('d').help("How long is measured"))
        .arg(seconds("warmup", "1").help("How long the load runs before that"))
        .arg(
            Arg::new("peers")
                .long("peers")
                .value_name("N")
                .value_parser(value_parser!(usize))
                .help("idle: peers connected; storm: handshakes attempted [default: 10000 for storm, else 1000]"),
        )
        .arg(
            Arg::new("concurrency")
                .long("concurrency")
                .short('c')
                .value_name("N")
                .value_parser(value_parser!(usize))
                .help("Connections being made at a time [default: 1 for churn, else 64]"),
        )
        .arg(
            Arg::new("pid")
                .long("pid")
                .value_name("PID")
                .action(ArgAction::Append)
                .value_parser(value_parser!(u32))
                .help("The relay's process on this machine: reports its CPU time and memory; several, one for each pod, are added up"),
        )
        .arg(
            Arg::new("source-addresses")
                .long("source-addresses")
                .value_name("N")
                .default_value("0")
                .value_parser(value_parser!(u32))
                .help("Connect from 127.0.0.1 to 127.0.0.N in turn, so that ports do not run out"),
        )
        .arg(Arg::new("tls").long("tls").action(ArgAction::SetTrue).help("Connect with TLS"))
        .arg(Arg::new("quic").long("quic").action(ArgAction::SetTrue).help("Connect with QUIC: a datagram for each message"))
        .group(ArgGroup::new("encrypted").args(["tls", "quic"]))
        .arg(
            Arg::new("ca-file")
                .long("ca-file")
                .value_name("FILE")
                .conflicts_with("insecure")
                .help("Authorities in PEM that the relay's certificate must come from, in the place of those that this machine trusts (or SSL_CERT_FILE names)"),
        )
        .arg(
            Arg::new("insecure")
                .long("insecure")
                .action(ArgAction::SetTrue)
                .help("Take whatever certificate the relay shows"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one JSON object in place of the table"))
        .arg(
            Arg::new("i-own-this-relay")
                .long("i-own-this-relay")
                .action(ArgAction::SetTrue)
                .help("Needed for a target that is neither loopback nor private"),
        )
        // A number below 0 is a mistake in the option's value, and not an option of its own.
        .mut_args(|arg| {
            let takes_value = arg.get_action().takes_values();
            arg.allow_negative_numbers(takes_value)
        })
}

fn seconds(name: &'static str, default: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name("SECONDS")
        .default_value(default)
        .value_parser(parse_seconds)
}

/// `2.5`, `2.5s`.
fn parse_seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse();
    number
        .ok()
        .filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| {
            format!("give seconds, such as 2.5 or 10s, and {SECONDS_MAX} (7 days) at most")
        })
}

fn without_scheme(text: &str) -> &str {
    text.split_once("://").map_or(text, |(_, rest)| rest)
}

/// Takes `host:port`, and nothing more.
fn parse_place(option: &str, text: &str) -> Result<String, LoadError> {
    let place = without_scheme(text).split('/').next().unwrap_or_default();
    if place != text {
        return Err(LoadError::Usage(format!(
            "--{option} must be host:port without a scheme or a path, {place} and not {text}"
        )));
    }
    parse_address(option, text).map(|(host, _)| host)
}

/// Takes `host:port` or a `ws://` URL apart, into `host:port` and a path.
fn parse_address(option: &str, text: &str) -> Result<(String, String), LoadError> {
    let usage = |text: String| LoadError::Usage(text);
    let rest = match text.split_once("://") {
        None => text,
        Some(("ws", rest)) => rest,
        Some((scheme, rest)) => {
            let tls = match scheme {
                "wss" | "rels" | "https" => " --tls",
                _ => "",
            };
            return Err(usage(format!(
                "--{option}: give host:port or ws://host:port/path, not {scheme}://, so --{option} {rest}{tls}"
            )));
        }
    };
    let (host, route) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, DEFAULT_ROUTE),
    };
    let host = if host.starts_with(':') {
        format!("127.0.0.1{host}")
    } else {
        host.to_owned()
    };
    let has_port = host.rsplit_once(':').is_some_and(|(name, port)| {
        port.parse::<u16>().is_ok() && (!name.contains(':') || name.ends_with(']'))
    });
    match (has_port, text.contains("://")) {
        (true, _) => Ok((host, route.to_owned())),
        (false, true) => Ok((format!("{host}:80"), route.to_owned())),
        (false, false) => Err(usage(format!(
            "--{option} must be host:port or ws://host/path, not {text:?}"
        ))),
    }
}

/// Looks the name up; all of its addresses must be ones at which nobody else's relay is hit by mistake.
fn resolve(option: &str, host: &str, owned: bool) -> Result<SocketAddr, LoadError> {
    let addresses: Vec<_> = host
        .to_socket_addrs()
        .map_err(|error| {
            LoadError::Usage(format!("--{option}: {host} cannot be looked up: {error}"))
        })?
        .collect();
    let public = addresses.iter().find(|address| !is_ours(address.ip()));
    match (public, addresses.first()) {
        (Some(public), _) if !owned => Err(LoadError::Usage(format!(
            "{public} is a public address, and a load like this is an attack on a relay that is not yours; \
             add --i-own-this-relay if it is"
        ))),
        (_, Some(first)) => Ok(*first),
        (_, None) => Err(LoadError::Usage(format!(
            "--{option}: {host} has no address"
        ))),
    }
}

/// Loopback, private, link-local, and shared (100.64/10) addresses.
fn is_ours(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            address.is_loopback()
                || address.is_private()
                || address.is_link_local()
                || address.is_unspecified()
                || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unique_local()
                || address.is_unicast_link_local()
                || address.is_unspecified()
        }
    }
}

fn read_secret(text: Option<&str>, file: Option<&Path>) -> Result<Secret, LoadError> {
    let text = match (text, file) {
        (Some(text), _) => text.to_owned(),
        (None, Some(file)) => {
            let content = fs::read_to_string(file).map_err(|error| {
                LoadError::Usage(format!("--secret-file {}: {error}", file.display()))
            })?;
            content.lines().next().unwrap_or_default().to_owned()
        }
        (None, None) => {
            return Err(LoadError::Usage(
                "give the relay's auth secret: --secret-file or --secret".to_owned(),
            ));
        }
    };
    if text.is_empty() {
        return Err(LoadError::Usage("the auth secret is empty".to_owned()));
    }
    Ok(Secret::new(&text))
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
