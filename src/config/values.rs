//! The forms values are written in: addresses, sizes, durations, switches, paths.
//!
//! Owns one check per form, each with the words for what is wrong and what would be right. Never knows which
//! setting a value belongs to, nor where it came from.

use std::{
    fmt,
    fs::OpenOptions,
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::mistakes::{Wrong, quoted};
use crate::{
    cluster::discovery::Source,
    proto::InstanceUrl,
    proxies::{NotAPrefix, ProxyProtocol, TrustedProxies},
    telemetry::logging::{LogDestination, LogFormat, LogLevel},
};

/// What Let's Encrypt takes for one certificate.
const DOMAINS_MAX: usize = 100;

/// Letters, digits, `-`, `_` and dots, and not all digits and dots: that would be a mistyped IPv4 address.
pub(super) fn host_name(host: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    host.chars().all(allowed) && host.chars().any(|c| !c.is_ascii_digit() && c != '.')
}

/// A port; 0 means any free one.
pub(super) fn port(text: &str) -> Result<u16, Wrong> {
    decimal(text).ok_or_else(|| {
        Wrong::new(
            format!("{} is not a port", quoted(text)),
            "give a number from 0 to 65535 (0: any free port)",
        )
    })
}

/// Ports with commas between them, none twice but 0.
pub(super) fn ports(text: &str) -> Result<Vec<u16>, Wrong> {
    let mut ports = Vec::new();
    for part in text.split(',') {
        let port = decimal(part.trim()).ok_or_else(|| {
            Wrong::new(
                format!("{} is not a port", quoted(part)),
                "give one port, or several with commas between them, such as 3478,3479",
            )
        })?;
        if port != 0 && ports.contains(&port) {
            return Err(Wrong::new(
                format!("port {port} is there twice"),
                "give each port once",
            ));
        }
        ports.push(port);
    }
    Ok(ports)
}

/// The name of a headless Service; its pods are on `port`. An empty one is what an installation without a cluster may say.
pub(super) fn headless(text: &str, port: u16) -> Result<Vec<Source>, Wrong> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let source = Source::headless(text, port).map_err(|_| {
        Wrong::new(
            format!("{} is not a name", quoted(text)),
            "give the Service's name alone, such as relay or relay.mesh.svc.cluster.local; the port is that of --cluster-port",
        )
    })?;
    Ok(vec![source])
}

/// Pods with commas between them; none at all as above.
pub(super) fn pods(text: &str) -> Result<Vec<Source>, Wrong> {
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    parts
        .map(|part| {
            part.parse().map_err(|error| {
                Wrong::new(
                    format!("{} does not do ({error})", quoted(part)),
                    "give the pods with commas between them, such as 10.0.0.1:7090,[2001:db8::1]:7090,relay-b.example.com:7090",
                )
            })
        })
        .collect()
}

/// A name that a certificate can carry: a DNS name, or a URI.
pub(super) fn certificate_name(text: &str) -> Result<String, Wrong> {
    let is_uri = text.split_once("://").is_some_and(|(scheme, rest)| {
        scheme == "spiffe" && !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic())
    });
    if is_uri || !text.is_empty() && host_name(text) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(
        format!("{} is not a name that a certificate carries", quoted(text)),
        "give a DNS name such as relay.mesh.svc, or a URI such as spiffe://example.org/relay",
    ))
}

/// An address that other machines can reach.
pub(super) fn pod_ip(text: &str) -> Result<IpAddr, Wrong> {
    text.parse()
        .ok()
        .map(|ip: IpAddr| ip.to_canonical())
        .filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
        .ok_or_else(|| {
            Wrong::new(
                format!("{} is not the address of a pod", quoted(text)),
                "give one IP address without a port, such as 10.0.0.1 or 2001:db8::1",
            )
        })
}

/// Domains for a certificate, lower case, each once.
pub(super) fn domains(text: &str) -> Result<Vec<String>, Wrong> {
    let mut domains = Vec::new();
    for part in text.split(',') {
        let domain = part.trim().trim_end_matches('.').to_ascii_lowercase();
        if !domain_name(domain.strip_prefix("*.").unwrap_or(&domain)) {
            return Err(Wrong::new(
                format!("{} is not a domain", quoted(part)),
                "give domains such as relay.example.com (others than ASCII letters as xn--...), with commas between them",
            ));
        }
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    if domains.len() > DOMAINS_MAX {
        return Err(Wrong::new(
            format!("{} domains are too many for one certificate", domains.len()),
            format!("give at most {DOMAINS_MAX}"),
        ));
    }
    Ok(domains)
}

/// Labels of letters, digits and `-` between dots (RFC 1123, section 2.1); not an IP address.
fn domain_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label) && name.parse::<IpAddr>().is_err()
}

/// A mail address, so far as one can tell by looking at it.
pub(super) fn email(text: &str) -> Result<String, Wrong> {
    let plain = |part: &str| {
        !part.is_empty() && !part.contains(|c: char| c.is_whitespace() || ",;:<>@".contains(c))
    };
    match text.rsplit_once('@') {
        Some((name, host)) if plain(name) && plain(host) => Ok(text.to_owned()),
        _ => Err(Wrong::new(
            format!("{} is not a mail address", quoted(text)),
            "give one, such as admin@example.com",
        )),
    }
}

/// A path; whether there is anything is for others to find out.
pub(super) fn path(text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() || text.contains(char::is_control) {
        return Err(Wrong::new(
            format!("{} is not a path", quoted(text)),
            "give a path such as /var/lib/trunkline",
        ));
    }
    Ok(PathBuf::from(text))
}

/// An address of the web that begins with `https://`.
pub(super) fn https_url(text: &str) -> Result<String, Wrong> {
    let url = text.parse::<http::Uri>().ok();
    let host = url.filter(|url| url.scheme_str() == Some("https"));
    match host.and_then(|url| url.host().map(str::is_empty)) {
        Some(false) => Ok(text.to_owned()),
        _ => Err(Wrong::new(
            format!("{} is not an https address", quoted(text)),
            "give one such as https://acme.example.com/directory",
        )),
    }
}

/// The public address, judged by what makes the instance URL from it (peer-protocol.md, *Instance URL*).
pub(super) fn exposed_address(text: &str) -> Result<String, Wrong> {
    // Without TLS of its own, which this version has not.
    match InstanceUrl::from_exposed_address(text, false) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(Wrong::new(
            format!("{} does not do ({error})", quoted(text)),
            "give rels://host:port, rel://host:port or host:port",
        )),
    }
}

/// Whether an address that is one has anything behind host and port but a slash.
pub(super) fn has_path(address: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let behind = rest.find(['/', '?', '#']).map_or("", |at| &rest[at..]);
    !matches!(behind, "" | "/")
}

/// The path of the relay's route. No pattern characters of the router, and nothing a request path cannot hold.
pub(super) fn relay_path(text: &str) -> Result<String, Wrong> {
    let allowed = |c: char| c.is_ascii_graphic() && !"{}*?#".contains(c);
    if !text.starts_with('/') || !text.chars().all(allowed) {
        return Err(Wrong::new(
            format!("{} is not a plain path", quoted(text)),
            "give a path such as /relay: it starts with /, and has no query, no white space and none of {}*",
        ));
    }
    Ok(text.to_owned())
}

/// A whole number within `range`.
pub(super) fn count<T>(text: &str, range: RangeInclusive<T>) -> Result<T, Wrong>
where
    T: FromStr + PartialOrd + fmt::Display,
{
    decimal(text)
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            Wrong::new(
                format!("{} does not do", quoted(text)),
                format!(
                    "give a whole number from {} to {}",
                    range.start(),
                    range.end()
                ),
            )
        })
}

/// The units of sizes and the bytes they stand for; also those Kubernetes writes.
const UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("B", 1),
    ("K", 1000),
    ("KB", 1000),
    ("M", 1_000_000),
    ("MB", 1_000_000),
    ("G", 1_000_000_000),
    ("GB", 1_000_000_000),
    ("KI", 1 << 10),
    ("KIB", 1 << 10),
    ("MI", 1 << 20),
    ("MIB", 1 << 20),
    ("GI", 1 << 30),
    ("GIB", 1 << 30),
];

/// A number of bytes within `range`, with or without a unit: `524288`, `512KiB`, `1MiB`, `1Gi`, `2 GB`.
pub(super) fn bytes(text: &str, range: RangeInclusive<usize>) -> Result<usize, Wrong> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_uppercase();
    UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .and_then(|(_, factor)| decimal::<u64>(number)?.checked_mul(*factor))
        .and_then(|bytes| usize::try_from(bytes).ok())
        .filter(|bytes| range.contains(bytes))
        .ok_or_else(|| {
            Wrong::new(
                format!("{} does not do", quoted(text)),
                format!(
                    "give a size from {} to {}, such as 64000000, 64MB or 64MiB",
                    size(*range.start()),
                    size(*range.end())
                ),
            )
        })
}

fn size(bytes: usize) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ => format!("{}KiB", bytes >> 10),
    }
}

/// A duration within `range`: `1s`, `500ms`.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, Wrong> {
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| {
            Wrong::new(
                format!("{} does not do", quoted(text)),
                format!(
                    "give a duration from {} to {}, such as 1s or 500ms",
                    humantime::format_duration(*range.start()),
                    humantime::format_duration(*range.end())
                ),
            )
        })
}

/// Addresses and prefixes with commas between them.
pub(super) fn trusted_proxies(text: &str) -> Result<TrustedProxies, Wrong> {
    text.parse().map_err(|NotAPrefix(entry)| {
        Wrong::new(
            format!(
                "{} is neither an IP address nor a CIDR prefix",
                quoted(&entry)
            ),
            "give addresses and prefixes with commas between them, such as 10.0.0.0/8,192.0.2.7,fd00::/8",
        )
    })
}

/// Whether connections begin with a PROXY header.
pub(super) fn proxy_protocol(text: &str) -> Result<ProxyProtocol, Wrong> {
    text.to_ascii_lowercase().parse().map_err(|()| {
        Wrong::new(
            format!("{} is not a way to use the PROXY protocol", quoted(text)),
            "give off, optional or required",
        )
    })
}

/// A yes or a no.
pub(super) fn switch(text: &str) -> Result<bool, Wrong> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(Wrong::new(
            format!("{} is neither yes nor no", quoted(text)),
            "give true or false",
        )),
    }
}

/// A log level; `warning`, `fatal` and `panic` are what the Go relays also take. Nothing is logged above `error`.
pub(super) fn log_level(text: &str) -> Result<LogLevel, Wrong> {
    match text.to_ascii_lowercase().as_str() {
        "trace" => Ok(LogLevel::Trace),
        "debug" => Ok(LogLevel::Debug),
        "info" => Ok(LogLevel::Info),
        "warn" | "warning" => Ok(LogLevel::Warn),
        "error" | "fatal" | "panic" => Ok(LogLevel::Error),
        _ => Err(Wrong::new(
            format!("{} is not a log level", quoted(text)),
            "give trace, debug, info, warn or error",
        )),
    }
}

/// A log format.
pub(super) fn log_format(text: &str) -> Result<LogFormat, Wrong> {
    match text.to_ascii_lowercase().as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        "syslog" => Ok(LogFormat::Syslog),
        _ => Err(Wrong::new(
            format!("{} is not a log format", quoted(text)),
            "give text, json or syslog",
        )),
    }
}

/// Where the log goes. Making a file is left to the log; what can be seen without changing anything is
/// checked here, so that it is reported with all other mistakes.
pub(super) fn log_destination(text: &str) -> Result<LogDestination, Wrong> {
    match text {
        "console" => return Ok(LogDestination::Console),
        "syslog" => return Ok(LogDestination::Syslog),
        _ => {}
    }
    let path = PathBuf::from(text);
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let problem = if path.is_dir() {
        Some(format!("{} is a directory", quoted(text)))
    } else if !parent.is_dir() {
        Some(format!("the directory of {} does not exist", quoted(text)))
    } else if path.is_file() {
        let opened = OpenOptions::new().append(true).open(&path);
        opened
            .err()
            .map(|error| format!("{} cannot be written ({error})", quoted(text)))
    } else {
        None
    };
    match problem {
        Some(problem) => Err(Wrong::new(
            problem,
            "give console, syslog, or the path of a file in a directory that exists",
        )),
        None => Ok(LogDestination::Path(path)),
    }
}

/// A number in decimal digits and nothing else: no sign, no white space.
pub(super) fn decimal<T: FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}
