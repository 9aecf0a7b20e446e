//! The table of settings: the one place that knows their names, defaults and words.
//!
//! The clap command, the help text and the names looked up in the environment are all derived from it. It
//! never reads a value: `env` finds values, `reader` checks them.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, builder::ValueParser};

use crate::tls::LETS_ENCRYPT;

/// The name of the demo subcommand, and of its only flag.
pub(super) const DEMO: &str = "demo";
pub(super) const KEEP: &str = "keep";
/// The name under which the load generator's command is mounted.
pub(super) const LOAD: &str = "load";

/// Where a setting is listed in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Listening,
    Identity,
    Tls,
    Cluster,
    Queues,
    Logging,
}

impl Group {
    pub(super) fn heading(self) -> &'static str {
        match self {
            Self::Listening => "Listening",
            Self::Identity => "Identity",
            Self::Tls => "TLS",
            Self::Cluster => "Cluster",
            Self::Queues => "Queues and limits",
            Self::Logging => "Logging",
        }
    }
}

/// How a setting's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `--name value` or `--name=value`.
    Text,
    /// As `Text`, but never printed, and it may start with `-` as a generated secret may.
    Secret,
    /// As `Text`, with commas between several; given several times, all count.
    List,
    /// `--name`, or `--name=true|false|1|0`.
    Switch,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Setting {
    /// The flag without `--`; the environment names are made from it.
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    pub(super) kind: Kind,
    /// What is read when nobody gives a value, written as an operator would write it.
    pub(super) default: Option<&'static str>,
    /// What the help shows in the value's place.
    pub(super) hint: &'static str,
    pub(super) help: &'static str,
    pub(super) group: Group,
    /// Further environment variables, in order, asked after those made from the name.
    pub(super) also_env: &'static [&'static str],
}

impl Setting {
    /// What most rows have in common.
    const PLAIN: Self = Self {
        name: "",
        short: None,
        kind: Kind::Text,
        default: None,
        hint: "VALUE",
        help: "",
        group: Group::Listening,
        also_env: &[],
    };

    /// The flag as the operator types it.
    pub(super) fn flag(&self) -> String {
        format!("--{}", self.name)
    }
}

/// Declares each row as a static of its own, so that code names a row and not a string, and lists them all.
macro_rules! table {
    ($($id:ident = { $($field:ident: $value:expr),* $(,)? })*) => {
        $(pub(super) static $id: Setting = Setting { $($field: $value,)* ..Setting::PLAIN };)*
        /// Every setting of this version, in the order of the help.
        pub(super) static ALL: &[&Setting] = &[$(&$id),*];
    };
}

table! {
    LISTEN_ADDRESS = {
        name: "listen-address", short: Some('l'), default: Some(":443"), hint: "ADDRESS",
        help: "Where peers connect: host:port, ip:port or [ipv6]:port; :port alone means all addresses, IPv4 and IPv6",
    }
    RELAY_PATH = {
        name: "relay-path", default: Some("/relay"), hint: "PATH",
        help: "The HTTP path peers ask for, with whatever prefix an ingress leaves in front of it",
    }
    TRUSTED_PROXIES = {
        name: "trusted-proxies", hint: "ADDRESSES",
        help: "Proxies that are believed where a client comes from, for the log and for limits: IP addresses and CIDR prefixes with \
               commas between them. Read are X-Real-Ip with X-Real-Port, else Forwarded, else X-Forwarded-For; from anybody else \
               they are ignored",
    }
    PROXY_PROTOCOL = {
        name: "proxy-protocol", default: Some("off"), hint: "off|optional|required",
        help: "Whether connections begin with a PROXY header (version 1 or 2): optional takes one from trusted proxies; required \
               refuses whoever brings none or is no trusted proxy",
    }
    HEALTH_LISTEN_ADDRESS = {
        name: "health-listen-address", short: Some('H'), default: Some(":9000"), hint: "ADDRESS",
        help: "Where /health, /healthz and /readyz are served",
    }
    METRICS_PORT = {
        name: "metrics-port", default: Some("9090"), hint: "PORT",
        help: "The port of /metrics, on all addresses",
    }
    EXPOSED_ADDRESS = {
        name: "exposed-address", short: Some('e'), hint: "URL", group: Group::Identity,
        help: "The public address peers are told, such as rels://relay.example.com:443. Required. Without rel:// or \
               rels:// in front, rel:// is understood: write rels:// when TLS ends at an ingress",
    }
    AUTH_SECRET = {
        name: "auth-secret", short: Some('s'), kind: Kind::Secret, hint: "SECRET", group: Group::Identity,
        help: "The secret shared with the management server. This or --auth-secret-file is required; other users \
               of the machine can read a command line, so prefer the file or the environment",
    }
    AUTH_SECRET_FILE = {
        name: "auth-secret-file", hint: "FILE", group: Group::Identity,
        help: "A file with one secret a line: all are accepted. It is read again when it changes",
    }
    TLS_CERT_FILE = {
        name: "tls-cert-file", short: Some('c'), hint: "FILE", group: Group::Tls,
        help: "The certificate chain in PEM, the relay's own certificate first: peers then connect with TLS, and only so. \
               Read again when it changes and on SIGHUP; nobody is disconnected",
    }
    TLS_KEY_FILE = {
        name: "tls-key-file", short: Some('k'), hint: "FILE", group: Group::Tls,
        help: "The private key of that certificate in PEM",
    }
    LETSENCRYPT_DOMAINS = {
        name: "letsencrypt-domains", short: Some('a'), kind: Kind::List, hint: "DOMAINS", group: Group::Tls,
        help: "The domains of a certificate that is obtained and renewed by ACME, from Let's Encrypt if nothing else is said, \
               with commas between them. The authority comes to port 443 of each (TLS-ALPN-01): let it through to this port",
    }
    LETSENCRYPT_DATA_DIR = {
        name: "letsencrypt-data-dir", short: Some('d'), hint: "DIRECTORY", group: Group::Tls,
        help: "Where the ACME account and certificate are kept, for this user's eyes only. Needed with the domains",
    }
    LETSENCRYPT_EMAIL = {
        name: "letsencrypt-email", hint: "ADDRESS", group: Group::Tls,
        help: "Where the authority may write to about the account",
    }
    LETSENCRYPT_AWS_ROUTE53 = {
        name: "letsencrypt-aws-route53", kind: Kind::Switch, default: Some("false"), hint: "true|false", group: Group::Tls,
        help: "Show that the domains are yours by records in Amazon Route 53 (DNS-01), with the credentials that AWS's own \
               variables and files give; nobody has to reach this relay then, and wildcards are possible",
    }
    ACME_DIRECTORY_URL = {
        name: "acme-directory-url", default: Some(LETS_ENCRYPT), hint: "URL", group: Group::Tls,
        help: "The ACME authority. For tries: https://acme-staging-v02.api.letsencrypt.org/directory, whose \
               certificates no client trusts, and whose limits are generous",
    }
    ACME_CA_FILE = {
        name: "acme-ca-file", hint: "FILE", group: Group::Tls,
        help: "Whom the ACME authority's own certificate must come from, in PEM. Without it, those that the system trusts",
    }
    QUIC = {
        name: "quic", kind: Kind::Switch, default: Some("true"), hint: "true|false", group: Group::Tls,
        help: "Let peers connect with QUIC, too, on the UDP port of the same number. Without TLS there is none",
    }
    QUIC_INITIAL_MTU = {
        name: "quic-initial-mtu", default: Some("1232"), hint: "BYTES", group: Group::Tls,
        help: "The UDP payload that a QUIC connection starts with, from 1200 to 1452; what the path carries beyond that is \
               found out within a few round trips. The default gets through everywhere",
    }
    PROBE_QUIC_VIA = {
        name: "probe-quic-via", hint: "HOST:PORT", group: Group::Tls,
        help: "Dial this, the relay's own public address, with QUIC once a minute: relay_quic_reachable and one warning in the log \
               say whether UDP gets through. It must be reachable from here (a NAT that does not let one reach oneself \
               from within looks like a closed port)",
    }
    CLUSTER_HEADLESS = {
        name: "cluster-headless", hint: "NAME", group: Group::Cluster,
        help: "The headless Service behind which all pods are found; several pods are one relay then. A name that begins with _ \
               is asked for SRV records, so that pods may have different ports",
    }
    CLUSTER_PEERS = {
        name: "cluster-peers", hint: "PODS", group: Group::Cluster,
        help: "The pods themselves, for machines without Kubernetes: host:port, with commas between them. This pod may be among \
               them, so all can have the same list; names are looked up, and _service._proto.name is asked for SRV records",
    }
    CLUSTER_PORT = {
        name: "cluster-port", default: Some("7090"), hint: "PORT", group: Group::Cluster,
        help: "Where the other pods connect to this one, on all addresses; behind --cluster-headless it is the same on every pod",
    }
    POD_IP = {
        name: "pod-ip", hint: "IP", group: Group::Cluster, also_env: &["POD_IP"],
        help: "The address by which the other pods reach this one; required in a cluster. Also read from POD_IP, where Kubernetes' \
               downward API can put it (fieldRef: status.podIP)",
    }
    CLUSTER_AUTH_SECRET = {
        name: "cluster-auth-secret", kind: Kind::Secret, hint: "SECRET", group: Group::Cluster,
        help: "The secret by which pods know each other. Without one, whoever reaches the cluster's port can join",
    }
    CLUSTER_AUTH_SECRET_FILE = {
        name: "cluster-auth-secret-file", hint: "FILE", group: Group::Cluster,
        help: "A file with one secret a line: all are accepted, the first one signs. It is read again when it changes",
    }
    CLUSTER_ALLOW_ONE_WAY = {
        name: "cluster-allow-one-way", kind: Kind::Switch, default: Some("false"), hint: "true|false", group: Group::Cluster,
        help: "Send peers' messages also to pods that this one has dialed and that do not prove the secret, as openZro's pods do not: for the \
               time of a migration",
    }
    CLUSTER_TLS_CERT_FILE = {
        name: "cluster-tls-cert-file", hint: "FILE", group: Group::Cluster,
        help: "The certificate chain in PEM that this pod shows to the others, the pod's own first: pods then speak TLS, both ends show a \
               certificate. Read again when it changes",
    }
    CLUSTER_TLS_KEY_FILE = {
        name: "cluster-tls-key-file", hint: "FILE", group: Group::Cluster,
        help: "The private key of that certificate in PEM",
    }
    CLUSTER_TLS_CA_FILE = {
        name: "cluster-tls-ca-file", hint: "FILE", group: Group::Cluster,
        help: "The authorities in PEM that the other pods' certificates must chain to",
    }
    CLUSTER_TLS_NAME = {
        name: "cluster-tls-name", hint: "NAME", group: Group::Cluster,
        help: "A DNS name or a SPIFFE URI that the other pods' certificates must carry. Without it, any certificate of those authorities will do",
    }
    CLUSTER_ALLOW_PLAIN = {
        name: "cluster-allow-plain", kind: Kind::Switch, default: Some("false"), hint: "true|false", group: Group::Cluster,
        help: "Speak without TLS to pods that have none, too: for the time of a migration",
    }
    CLUSTER_QUEUE_BYTES = {
        name: "cluster-queue-bytes", default: Some("16MiB"), hint: "BYTES", group: Group::Cluster,
        help: "What may wait for one slow pod before messages to it are dropped; at least 1MiB",
    }
    DRAIN_DELAY = {
        name: "drain-delay", default: Some("2s"), hint: "DURATION", group: Group::Cluster,
        help: "How long a pod that is told to stop goes on as before, not ready any more, so that load balancers notice; up to 10s",
    }
    DRAIN_WINDOW = {
        name: "drain-window", default: Some("10s"), hint: "DURATION", group: Group::Cluster,
        help: "Over which time the pod then sends its peers away, evenly; up to 15s",
    }
    PEER_QUEUE_BYTES = {
        name: "peer-queue-bytes", default: Some("524288"), hint: "BYTES", group: Group::Queues,
        help: "What may wait for one slow peer before messages to it are dropped, such as 512KiB or 1MiB; at least 64KiB",
    }
    MEMORY_LIMIT = {
        name: "memory-limit", hint: "BYTES", group: Group::Queues,
        help: "What all queues together may hold, such as 512MiB; at least 16MiB. Without it, a share of the \
               memory this process may use",
    }
    QUEUE_MAX_AGE = {
        name: "queue-max-age", default: Some("1s"), hint: "DURATION", group: Group::Queues,
        help: "How long a message may wait for its peer before it is dropped, such as 500ms; from 1ms to 1m",
    }
    MAX_HANDSHAKES = {
        name: "max-handshakes", default: Some("16384"), hint: "COUNT", group: Group::Queues,
        help: "How many connections may be in their handshake at once, from their first byte until they are peers; further ones are \
               refused. One IPv4 address or IPv6 /64 may have a sixteenth of them, an IPv6 /48 a quarter (64 in any case); its others wait",
    }
    MAX_CONNECTIONS = {
        name: "max-connections", hint: "COUNT", group: Group::Queues,
        help: "How many connections there may be, peers and others; 0: no limit. Without it, nine tenths of the files that \
               this process may open, and at least 32 fewer",
    }
    MAX_CONNECTIONS_PER_ADDRESS = {
        name: "max-connections-per-address", default: Some("16384"), hint: "COUNT", group: Group::Queues,
        help: "How many of them one IPv4 address or IPv6 /64 may have; 0: no limit",
    }
    HANDSHAKE_RATE_PER_ADDRESS = {
        name: "handshake-rate-per-address", default: Some("500"), hint: "COUNT", group: Group::Queues,
        help: "How many connections a second such an address may make in the long run; at once it may make as many as it \
               may have. 0: no limit",
    }
    MAX_SUBSCRIPTIONS = {
        name: "max-subscriptions", default: Some("65536"), hint: "COUNT", group: Group::Queues,
        help: "How many peers one peer may watch for coming and going",
    }
    HEALTH_CHECK_ATTEMPT_THRESHOLD = {
        name: "health-check-attempt-threshold", default: Some("1"), hint: "COUNT", group: Group::Queues,
        also_env: &["OZ_RELAY_HC_ATTEMPT_THRESHOLD", "NB_RELAY_HC_ATTEMPT_THRESHOLD"],
        help: "After how many unanswered health checks a peer is disconnected; also read from \
               OZ_RELAY_HC_ATTEMPT_THRESHOLD and NB_RELAY_HC_ATTEMPT_THRESHOLD",
    }
    ENABLE_STUN = {
        name: "enable-stun", kind: Kind::Switch, default: Some("false"), hint: "true|false",
        help: "Tell clients the address they are seen by: a STUN server for binding requests over UDP",
    }
    STUN_PORTS = {
        name: "stun-ports", default: Some("3478"), hint: "PORTS",
        help: "The UDP ports of the STUN server, on all addresses, with commas between them",
    }
    STUN_LOG_LEVEL = {
        name: "stun-log-level", default: Some("info"), hint: "LEVEL", group: Group::Logging,
        help: "What is logged of the STUN server: trace (each request that has no answer), debug, info, warn or error",
    }
    LOG_LEVEL = {
        name: "log-level", default: Some("info"), hint: "LEVEL", group: Group::Logging,
        help: "What is logged: trace, debug, info, warn or error",
    }
    LOG_FILE = {
        name: "log-file", default: Some("console"), hint: "PATH", group: Group::Logging,
        help: "Where the log goes: console (stderr), syslog (the machine's syslog), or the path of a file",
    }
    LOG_FORMAT = {
        name: "log-format", default: Some("text"), hint: "FORMAT", group: Group::Logging,
        help: "text, json (one object a line), or syslog (text without a time, for a collector that adds its own)",
    }
    LOG_MAX_SIZE_MB = {
        name: "log-max-size-mb", default: Some("15"), hint: "MB", group: Group::Logging,
        help: "The size at which a log file is set aside as FILE.1; ten old ones are kept",
    }
    LOG_DISABLE_ROTATION = {
        name: "log-disable-rotation", kind: Kind::Switch, default: Some("false"), hint: "true|false", group: Group::Logging,
        help: "Let the log file grow: something else moves it away (the file is then opened anew)",
    }
}

const ABOUT: &str = "A relay for WireGuard mesh peers: takes the place of an openZro or NetBird relay, with the \
same flags, environment variables and ports. Without a subcommand it runs the relay.";

const AFTER_HELP: &str = "\
Environment:
  Every flag is also a variable: upper case, - becomes _, and TRUNKLINE_, OZ_ or NB_ in front.
  For --log-level: TRUNKLINE_LOG_LEVEL, else OZ_LOG_LEVEL, else NB_LOG_LEVEL.
  The flag beats them all; an empty variable counts as unset.

Examples:
  trunkline -l :8080 -e rel://relay.example.com:8080 --auth-secret-file /etc/trunkline/secret
  OZ_EXPOSED_ADDRESS=rels://relay.example.com OZ_AUTH_SECRET=... trunkline --log-format json

Where to look:
  metrics  http://HOST:9090/metrics (--metrics-port)
  health   http://HOST:9000/healthz: it runs; /readyz: it takes peers; /health: JSON
           (--health-listen-address)

OpenTelemetry: with OTEL_EXPORTER_OTLP_ENDPOINT set, metrics and traces are sent there (http/protobuf);
the other standard variables count, too.

Exit codes:
  0  stopped by a signal, or printed what was asked for
  1  could not start or go on (an address in use, ...), or a second signal
  2  a mistake in the configuration; all mistakes are listed on stderr, one a line";

/// The whole command line: the relay's flags, `demo`, and
/// `load` with the flags of the load generator's own command.
pub(super) fn command(load: Command) -> Command {
    Command::new(env!("CARGO_PKG_NAME"))
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .after_help(AFTER_HELP)
        .max_term_width(100)
        .args_override_self(true)
        .args(ALL.iter().map(|setting| arg(setting)))
        .subcommand(
            Command::new(DEMO)
                .about("A relay, then three pods, on free loopback ports, with real peers that show what they do; needs no flags")
                .arg(
                    Arg::new(KEEP)
                        .long(KEEP)
                        .action(ArgAction::SetTrue)
                        .help("Go on after the summary, until a signal"),
                ),
        )
        .subcommand(load.name(LOAD).about("Puts load on a relay and reports what it carried"))
}

fn arg(setting: &'static Setting) -> Arg {
    let help = match setting.default {
        Some(default) => format!("{} [default: {default}]", setting.help),
        None => setting.help.to_owned(),
    };
    raw_arg(setting.name, setting.short, setting.kind)
        .value_name(setting.hint)
        .help_heading(setting.group.heading())
        .help(help)
}

/// A flag whose value clap hands on unread: we check values ourselves, so that all mistakes come together.
pub(super) fn raw_arg(name: &'static str, short: Option<char>, kind: Kind) -> Arg {
    let arg = Arg::new(name)
        .long(name)
        .action(ArgAction::Set)
        .value_parser(ValueParser::os_string());
    let arg = match short {
        Some(short) => arg.short(short),
        None => arg,
    };
    match kind {
        // `-5` is a wrong value, not an unknown flag.
        Kind::Text => arg.allow_negative_numbers(true),
        Kind::List => arg.action(ArgAction::Append),
        Kind::Secret => arg.allow_hyphen_values(true),
        Kind::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value(OsString::from("true")),
    }
}
