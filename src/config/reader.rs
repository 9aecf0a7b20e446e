//! Reads the value of every setting, checks it, and collects what is wrong.
//!
//! Owns the bounds of values and the checks that span two settings. Never stops at the first mistake.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

mod cluster;
mod otlp;
mod tls;

use super::{
    env::{Given, Lookup, Origin, variables},
    flags::{self, Kind, Setting},
    listen_address::{self, ListenAddress},
    mistakes::{ConfigError, Mistake, Wrong},
    secrets::{SecretText, read_secrets},
    settings::{SecretSource, Settings},
    values,
};
use crate::proxies::{ProxyProtocol, TrustedProxies};
use crate::telemetry::logging::LogSettings;
use crate::transport::quic::INITIAL_MTU_RANGE;

/// The least a peer's queue may hold, in bytes: seven messages of the largest size.
const PEER_QUEUE_MIN: usize = 64 * 1024;
/// The most a peer's queue may hold, in bytes: beyond it, a number is a slip of the keyboard.
const PEER_QUEUE_MAX: usize = 1 << 30;
/// The least all queues together may hold, in bytes: less than this is a forgotten unit.
const MEMORY_MIN: usize = 16 << 20;
/// The most all queues together may hold, in bytes (1 TiB).
const MEMORY_MAX: usize = 1 << 40;
/// The longest time before the first peer of a pod that stops is sent away, and over which they all are: everything has an end after 30 s.
const DRAIN_DELAY_MAX: Duration = Duration::from_secs(10);
const DRAIN_WINDOW_MAX: Duration = Duration::from_secs(15);
/// The largest count of handshakes, connections or subscriptions; all are kept in structures that this cannot overflow.
const COUNT_MAX: usize = 1 << 24;

/// Reads values and collects what is wrong with them.
struct Reader<'a> {
    lookup: &'a Lookup<'a>,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

/// Reads every setting. `mistakes` and `warnings` are those already found; they stay first.
pub(super) fn settings(
    lookup: &Lookup<'_>,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
) -> Result<Settings, ConfigError> {
    let reader = Reader {
        lookup,
        mistakes,
        warnings,
    };
    reader.settings()
}

impl Reader<'_> {
    fn settings(mut self) -> Result<Settings, ConfigError> {
        let listen_address = self.read(&flags::LISTEN_ADDRESS, listen_address::parse);
        let relay_path = self.read(&flags::RELAY_PATH, values::relay_path);
        let (trusted_proxies, proxy_protocol) = self.proxies();
        let health_listen_address = self.read(&flags::HEALTH_LISTEN_ADDRESS, listen_address::parse);
        let metrics_port = self.read(&flags::METRICS_PORT, values::port);
        let exposed_address = self.read(&flags::EXPOSED_ADDRESS, values::exposed_address);
        if exposed_address.as_deref().is_some_and(values::has_path) {
            let origin = self.named(&flags::EXPOSED_ADDRESS);
            self.warnings.push(Mistake::new(
                origin,
                "what stands behind host and port is told to clients, and they make no use of it",
                "leave it out: the path that they ask for here is --relay-path",
            ));
        }
        let auth_secret = self.secret(&flags::AUTH_SECRET, &flags::AUTH_SECRET_FILE);
        if auth_secret.is_none() {
            self.check_secret_given();
        }
        let tls = self.tls();
        let quic = self.read(&flags::QUIC, values::switch);
        let quic_initial_mtu = self.read(&flags::QUIC_INITIAL_MTU, |text| {
            values::count(text, INITIAL_MTU_RANGE)
        });
        let probe_quic_via =
            self.read_optional(&flags::PROBE_QUIC_VIA, listen_address::host_and_port);
        if let Some(given) = self.given(&flags::PROBE_QUIC_VIA)
            && (tls.is_none() || quic == Some(false))
        {
            let wrong = Wrong::new(
                "there is no QUIC to probe",
                "give --tls-cert-file and --tls-key-file, or leave it out",
            );
            self.wrong(&given.origin, wrong);
        }
        if tls.is_none() || quic == Some(false) {
            self.without_effect(
                &[&flags::QUIC, &flags::QUIC_INITIAL_MTU],
                "there is no QUIC without TLS in this process",
            );
        }
        let cluster = self.cluster();
        let drain_delay = self.read(&flags::DRAIN_DELAY, |text| {
            values::duration(text, Duration::ZERO..=DRAIN_DELAY_MAX)
        });
        let drain_window = self.read(&flags::DRAIN_WINDOW, |text| {
            values::duration(text, Duration::ZERO..=DRAIN_WINDOW_MAX)
        });
        if !self.asks_for_pods() {
            self.without_effect(
                &[&flags::DRAIN_DELAY, &flags::DRAIN_WINDOW],
                "a relay without other pods closes at once",
            );
        }
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
        let max_connections = self.read_optional(&flags::MAX_CONNECTIONS, |text| {
            values::count(text, 0..=COUNT_MAX)
        });
        let max_connections_per_address = self.read(&flags::MAX_CONNECTIONS_PER_ADDRESS, |text| {
            values::count(text, 0..=COUNT_MAX)
        });
        let handshake_rate_per_address = self.read(&flags::HANDSHAKE_RATE_PER_ADDRESS, |text| {
            values::count(text, 0..=1_000_000)
        });
        let max_subscriptions = self.read(&flags::MAX_SUBSCRIPTIONS, |text| {
            values::count(text, 1..=COUNT_MAX)
        });
        let health_check_threshold = self.read(&flags::HEALTH_CHECK_ATTEMPT_THRESHOLD, |text| {
            values::count(text, 1..=1000)
        });
        let stun = self.read(&flags::ENABLE_STUN, values::switch);
        let stun_ports = self.read(&flags::STUN_PORTS, values::ports);
        if stun == Some(false) {
            self.without_effect(
                &[&flags::STUN_PORTS, &flags::STUN_LOG_LEVEL],
                "there is no STUN server without --enable-stun",
            );
        }
        let otlp = self.otlp();
        let log = self.log();
        self.check_ports(
            listen_address.as_ref(),
            health_listen_address.as_ref(),
            metrics_port,
            cluster.as_ref().map(|cluster| cluster.announced.port()),
        );
        if !self.mistakes.is_empty() {
            return Err(ConfigError::Mistakes(self.mistakes));
        }
        let complete = || {
            Some(Settings {
                listen_address: listen_address?,
                relay_path: relay_path?,
                trusted_proxies,
                proxy_protocol: proxy_protocol?,
                health_listen_address: health_listen_address?,
                metrics_port: metrics_port?,
                exposed_address: exposed_address?,
                auth_secret: auth_secret?,
                tls,
                quic: quic?,
                quic_initial_mtu: quic_initial_mtu?,
                probe_quic_via,
                cluster,
                drain_delay: drain_delay?,
                drain_window: drain_window?,
                peer_queue_bytes: peer_queue_bytes?,
                memory_limit,
                queue_max_age: queue_max_age?,
                max_handshakes: max_handshakes?,
                max_connections,
                max_connections_per_address: max_connections_per_address?,
                handshake_rate_per_address: handshake_rate_per_address?,
                max_subscriptions: max_subscriptions?,
                health_check_threshold: health_check_threshold?,
                stun_ports: if stun? { stun_ports? } else { Vec::new() },
                otlp,
                log: log?,
                warnings: self.warnings,
            })
        };
        Ok(complete().expect("each value that is missing has left a mistake"))
    }

    /// Whom to believe, and the PROXY protocol, which only those that are believed may speak.
    fn proxies(&mut self) -> (TrustedProxies, Option<ProxyProtocol>) {
        let given = self.given(&flags::TRUSTED_PROXIES);
        // `--trusted-proxies=` asks for none, as an empty variable does.
        let given = given.filter(|given| given.value.to_str().is_none_or(|v| !v.trim().is_empty()));
        let trusted = match &given {
            Some(_) => self.read_optional(&flags::TRUSTED_PROXIES, values::trusted_proxies),
            None => None,
        };
        let protocol = self.read(&flags::PROXY_PROTOCOL, values::proxy_protocol);
        if let (None, Some(mode @ (ProxyProtocol::Optional | ProxyProtocol::Required))) =
            (&given, protocol)
        {
            let origin = self.named(&flags::PROXY_PROTOCOL);
            let remedy = format!(
                "name the proxies with {}, or give off",
                flags::TRUSTED_PROXIES.flag()
            );
            let problem = format!("{mode} without trusted proxies: no PROXY header would be taken");
            self.wrong(&origin, Wrong::new(problem, remedy));
        }
        (trusted.unwrap_or_default(), protocol)
    }

    fn log(&mut self) -> Option<LogSettings> {
        let level = self.read(&flags::LOG_LEVEL, values::log_level);
        let stun_level = self.read(&flags::STUN_LOG_LEVEL, values::log_level);
        let file = self.read(&flags::LOG_FILE, values::log_destination);
        let format = self.read(&flags::LOG_FORMAT, values::log_format);
        let max_size_mb = self.read(&flags::LOG_MAX_SIZE_MB, |text| {
            values::count(text, 1..=1_000_000)
        });
        let frozen = self.read(&flags::LOG_DISABLE_ROTATION, values::switch);
        Some(LogSettings {
            level: level?,
            stun_level: stun_level?,
            file: file?,
            format: format?,
            max_size_mb: max_size_mb?,
            rotate: !frozen?,
        })
    }

    /// The one secret that a relay cannot be without.
    fn check_secret_given(&mut self) {
        match self.given(&flags::AUTH_SECRET) {
            None if self.given(&flags::AUTH_SECRET_FILE).is_none() => {
                let or = format!("or a file with {}", flags::AUTH_SECRET_FILE.flag());
                self.missing(&flags::AUTH_SECRET, &or);
            }
            Some(given) if given.value.is_empty() => self.wrong(
                &given.origin,
                Wrong::new("the secret is empty", "give the management server's secret"),
            ),
            // What is wrong with it has been said.
            None | Some(_) => {}
        }
    }

    /// The secret in one place or the other; None also when there is none, or an empty one.
    fn secret(&mut self, direct: &'static Setting, file: &'static Setting) -> Option<SecretSource> {
        let direct = self.given(direct);
        let file = self.given(file);
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
                (!text.is_empty()).then(|| SecretSource::Values(vec![SecretText::new(text)]))
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
            (None, None) => None,
        }
    }

    /// Two listeners on one port would fail only when the second is bound, with fewer words.
    fn check_ports(
        &mut self,
        peers: Option<&ListenAddress>,
        health: Option<&ListenAddress>,
        metrics: Option<u16>,
        pods: Option<u16>,
    ) {
        let metrics = metrics.map(ListenAddress::all);
        let pods = pods.map(ListenAddress::all);
        let listeners = [
            (&flags::LISTEN_ADDRESS, peers),
            (&flags::HEALTH_LISTEN_ADDRESS, health),
            (&flags::METRICS_PORT, metrics.as_ref()),
            (&flags::CLUSTER_PORT, pods.as_ref()),
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
        check: impl Fn(&str) -> Result<T, Wrong>,
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
        check: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let (origin, text) = match self.given(setting) {
            Some(given) => (given.origin.clone(), self.text(&given)?),
            None => (Origin::Flag(setting.name), setting.default?.to_owned()),
        };
        for other in self.lookup.overridden(setting.name, setting.also_env) {
            // Tomorrow somebody takes the one that counts away.
            if let Some(Err(wrong)) = other.value.to_str().map(|text| check(text.trim())) {
                let remedy =
                    format!("it has no effect while {origin} is given; mend it or remove it");
                self.warnings
                    .push(Mistake::new(other.origin, wrong.problem, remedy));
            }
        }
        match check(text.trim()) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.wrong(&origin, wrong);
                None
            }
        }
    }

    /// Says of each of these that was given, and not as its default or as off, that it is of no use.
    fn without_effect(&mut self, settings: &[&'static Setting], because: &str) {
        for setting in settings {
            let Some(given) = self.given(setting) else {
                continue;
            };
            let text = given.value.to_string_lossy();
            let text = text.trim();
            let is_off = setting.kind == Kind::Switch && matches!(values::switch(text), Ok(false));
            if !is_off && setting.default != Some(text) {
                let remedy =
                    format!("{because}: leave it out, or see --help for what it goes with");
                self.warnings
                    .push(Mistake::new(given.origin, "has no effect here", remedy));
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
