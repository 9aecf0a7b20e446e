//! The program: reads the settings, builds, runs, and picks the exit code.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::ExitCode;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tracing::{info, warn};
use trunkline::auth::{Secret, TokenValidator};
use trunkline::cluster::{Cluster, ClusterError, ClusterHandle, ClusterSecrets, PodTls};
use trunkline::config::{
    self, ClusterSettings, Command, ListenAddress, SECRET_POLL_INTERVAL, SecretSource, SecretText,
    Settings, TlsSettings, watch_secrets,
};
use trunkline::demo;
use trunkline::load;
use trunkline::proto::InstanceUrl;
use trunkline::proto::cluster::hello::ClusterSecret;
use trunkline::reload::Reload;
use trunkline::server::{BindError, Listener, Server, reload_signal, shutdown_signal};
use trunkline::systemd::{self, Inherited};
use trunkline::telemetry::logging;
use trunkline::telemetry::otlp::Otlp;
use trunkline::telemetry::process;
use trunkline::telemetry::prometheus::PrometheusMetrics;
use trunkline::time::Clock;
use trunkline::tls::{Acme, CERTIFICATE_POLL_INTERVAL, Certificates};
use trunkline::{BuildError, Relay};

/// Exit code for a mistake in the settings (operations.md, *Flags*); any other trouble is 1.
const MISTAKE: u8 = 2;

fn main() -> ExitCode {
    let command = config::parse(
        std::env::args_os(),
        |name| std::env::var_os(name),
        std::env::vars_os().map(|(name, _)| name),
        load::command(),
    );
    let result = match command {
        Ok(Command::Run(settings)) => run(&settings),
        Ok(Command::Demo { keep }) => demo::run(keep).map_err(Into::into),
        Ok(Command::Load(options)) => return load::run(&options),
        Err(error) => {
            error.print();
            return ExitCode::from(error.exit_code());
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trunkline: {error}{}", remedy(error.as_ref()));
            let mistake = error.is::<BuildError>()
                || error.is::<trunkline::telemetry::logging::LoggingError>()
                || error.is::<trunkline::tls::StorageError>();
            ExitCode::from(if mistake { MISTAKE } else { 1 })
        }
    }
}

/// What is most likely behind an error, and the setting to change: the library, whose error it is, knows of no flags.
fn remedy(error: &(dyn std::error::Error + 'static)) -> String {
    let (setting, source) = if let Some(bind) = error.downcast_ref::<BindError>() {
        let setting = match bind.listener {
            Listener::Peers | Listener::Quic => " (--listen-address)",
            Listener::Health => " (--health-listen-address)",
            Listener::Metrics => " (--metrics-port)",
            Listener::Stun => " (--stun-ports)",
            _ => "",
        };
        (setting, &bind.source)
    } else if let Some(ClusterError::Bind { source, .. }) = error.downcast_ref() {
        (" (--cluster-port)", source)
    } else {
        return String::new();
    };
    let cause = match source.kind() {
        ErrorKind::AddrInUse => {
            ": another program uses that port, or did until a minute ago; clients' own ports come from net.ipv4.ip_local_port_range"
        }
        ErrorKind::AddrNotAvailable => ": this machine has no such address",
        ErrorKind::PermissionDenied => {
            ": ports below 1024 need root, or the capability CAP_NET_BIND_SERVICE"
        }
        _ => "",
    };
    format!("{cause}{setting}")
}

fn run(settings: &Settings) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let otlp = settings.otlp.as_ref();
    let otlp = otlp.map(|otlp| Otlp::start(otlp, runtime.handle()));
    let otlp = otlp.transpose()?;
    let _log = logging::init(&settings.log, otlp.as_ref().and_then(Otlp::tracer))?;
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let inherited = Inherited::from_env()?;
    runtime.block_on(async {
        let metrics = PrometheusMetrics::with_otlp(otlp.as_ref())?;
        process::observe(&metrics.meter(), &Clock::system());
        if let Some(otlp) = &otlp {
            otlp.observe(&metrics.meter());
        }
        let served = serve(settings, inherited, metrics.clone()).await;
        if let Some(otlp) = otlp {
            otlp.shutdown(metrics.provider()).await;
        }
        served
    })
}

/// Lets the process open as many files as its hard limit allows, as Go programs do by themselves: each peer is one, and the usual
/// soft limit of 1024 is meant for programs that use `select`. Returns the limit, if there is one.
#[cfg(unix)]
fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        // It stays as it was, and the log says what that is.
        Err(_) => limit.current,
    }
}

#[cfg(not(unix))]
fn raise_file_limit() -> Option<u64> {
    None
}

/// Files that a relay opens beside its connections to peers: logs, listeners, the runtime's own, health checks, some pods.
const FILES_BESIDE: usize = 32;

/// How many connections so many open files leave room for; 0: any number. A process that may open next to nothing gets half of it.
fn connections_for(open_files: Option<u64>) -> usize {
    let files = open_files.map_or(0, |files| usize::try_from(files).unwrap_or(usize::MAX));
    let left = files.saturating_sub(FILES_BESIDE);
    left.min(files - files / 10).max(files.div_ceil(2))
}

/// The limit that counts: what is asked for, with a warning if the open files carry less, or what they carry.
fn max_connections(asked: Option<usize>, open_files: Option<u64>) -> usize {
    let carried = connections_for(open_files);
    if let (Some(asked), Some(files)) = (asked, open_files)
        && asked > carried
    {
        warn!(
            "--max-connections {asked} is more than {files} open files carry: peers that do not come by QUIC are refused \
             from about {carried} connections on. Raise the limit of open files (LimitNOFILE=, ulimit -n)"
        );
    }
    asked.unwrap_or(carried)
}

async fn serve(
    settings: &Settings,
    inherited: Inherited,
    metrics: PrometheusMetrics,
) -> Result<(), Box<dyn std::error::Error>> {
    let reload = reload_signal();
    let secrets = settings.auth_secret.load()?;
    let validator = TokenValidator::new(keys(&secrets), Clock::system());
    if let SecretSource::File(path) = &settings.auth_secret {
        let accepted = validator.secrets();
        tokio::spawn(watch_secrets(
            path.clone(),
            secrets,
            SECRET_POLL_INTERVAL,
            reload.clone(),
            move |secrets| accepted.set_secrets(keys(&secrets)),
        ));
    }
    let tls = settings.tls.as_ref();
    let tls = tls.map(|tls| certificates(tls, &settings.exposed_address, &metrics, reload.clone()));
    let (certificates, kept_up_to_date) = tls.transpose()?.unzip();
    let mut relay = Relay::builder()
        .exposed_address(&settings.exposed_address)
        .tls(certificates.is_some())
        .path(&settings.relay_path)
        .trusted_proxies(settings.trusted_proxies.clone())
        .validator(validator)
        .meter(metrics.meter())
        .health_check_threshold(settings.health_check_threshold)
        .peer_queue_bytes(settings.peer_queue_bytes)
        .queue_max_age(settings.queue_max_age)
        .max_handshakes(settings.max_handshakes)
        .max_subscriptions(settings.max_subscriptions);
    let open_files = raise_file_limit();
    relay = relay
        .max_connections(max_connections(settings.max_connections, open_files))
        .max_connections_per_address(settings.max_connections_per_address)
        .handshake_rate_per_address(settings.handshake_rate_per_address);
    if let Some(bytes) = settings.memory_limit {
        relay = relay.memory_limit(bytes);
    }
    let relay = relay.build()?;
    let instance_url = relay.instance_url().clone();
    let cluster = match &settings.cluster {
        Some(cluster) => Some(join(cluster, &relay, &reload)?),
        None => None,
    };
    let mut server = Server::builder(relay).inherited(inherited);
    if let Some(cluster) = cluster {
        server = server
            .cluster(cluster)
            .drain(settings.drain_delay, settings.drain_window);
    }
    if let Some(certificates) = certificates {
        server = server
            .tls(certificates)
            .quic(settings.quic)
            .quic_initial_mtu(settings.quic_initial_mtu);
        if let Some(via) = &settings.probe_quic_via {
            server = server.probe_quic_via(via);
        }
    } else if settings.quic {
        info!("no TLS here, so no QUIC: peers connect with WebSocket");
    }
    server = server
        .proxy_protocol(settings.proxy_protocol)
        .listen(addresses("--listen-address", &settings.listen_address)?)
        .health(addresses(
            "--health-listen-address",
            &settings.health_listen_address,
        )?)
        .metrics(
            ListenAddress::all(settings.metrics_port).bind_addresses()?,
            metrics,
        );
    for &port in &settings.stun_ports {
        server = server.stun(ListenAddress::all(port).bind_addresses()?);
    }
    let server = server.bind()?;
    // Only now: an ACME authority comes to the port that has just been bound.
    if let Some(kept_up_to_date) = kept_up_to_date {
        tokio::spawn(kept_up_to_date);
    }
    // Before anybody is told that the relay is up: whoever stops it then is heard.
    let shutdown = shutdown_signal();
    let (stun, cluster) = (server.stun_addrs(), settings.cluster.as_ref());
    info!(
        version = env!("CARGO_PKG_VERSION"),
        instance_url = instance_url.as_str(),
        listen = %server.local_addr()?,
        tls = settings.tls.is_some(),
        quic = server.quic_addr().map(tracing::field::display),
        path = server.relay().path(),
        trusted_proxies = proxies_listed(settings),
        proxy_protocol = proxies_listed(settings).map(|_| tracing::field::display(settings.proxy_protocol)),
        open_files,
        max_connections = server.relay().admission().limits().connections,
        health = server.health_addr().map(tracing::field::display),
        metrics = server.metrics_addr().map(tracing::field::display),
        stun = (!stun.is_empty()).then(|| listed(&stun)),
        pod = cluster.map(|cluster| tracing::field::display(cluster.announced)),
        cluster_sources = cluster.map(|cluster| listed(&cluster.sources)),
        cluster_secret = cluster.map(|cluster| cluster.auth_secret.is_some()),
        cluster_tls = cluster.map(|cluster| cluster.tls.is_some()),
        otlp_metrics = settings.otlp.as_ref().is_some_and(|otlp| otlp.metrics.is_some()),
        otlp_traces = settings.otlp.as_ref().is_some_and(|otlp| otlp.traces.is_some()),
        "relay is up"
    );
    let (readiness, relay) = (server.readiness(), server.relay().clone());
    tokio::spawn(systemd::report(
        async move { readiness.ready().await },
        move || format!("{} peers", relay.peers().len()),
    ));
    let shutdown = async {
        shutdown.await;
        systemd::stopping();
    };
    server.run(shutdown).await;
    Ok(())
}

/// The certificates that are shown, and what keeps them up to date.
fn certificates(
    tls: &TlsSettings,
    exposed_address: &str,
    metrics: &PrometheusMetrics,
    reload: Reload,
) -> Result<(Certificates, BoxFuture<'static, ()>), Box<dyn std::error::Error>> {
    let url = InstanceUrl::from_exposed_address(exposed_address, true).map_err(BuildError::from)?;
    let certificates = Certificates::for_host(url.host());
    let clock = Clock::system();
    let kept_up_to_date = match tls {
        TlsSettings::Files(files) => {
            let certificate = files.load()?;
            certificate.log("certificate in use", &clock);
            certificates.set(certificate);
            let watch = files.clone().watch(
                certificates.clone(),
                CERTIFICATE_POLL_INTERVAL,
                reload,
                clock,
            );
            watch.boxed()
        }
        TlsSettings::Acme(settings) => {
            let (store, meter) = (certificates.clone(), metrics.meter());
            let acme = Acme::open(settings.clone(), store, &meter, clock)?;
            acme.run(reload).boxed()
        }
    };
    Ok((certificates, kept_up_to_date))
}

/// Makes the relay one of several.
fn join(
    settings: &ClusterSettings,
    relay: &Relay,
    reload: &Reload,
) -> Result<ClusterHandle, Box<dyn std::error::Error>> {
    let cluster_secrets = |texts: &[SecretText]| {
        let secrets = texts
            .iter()
            .filter_map(|text| ClusterSecret::new(text.expose()));
        secrets.collect::<Vec<_>>()
    };
    let secrets = ClusterSecrets::default();
    if let Some(source) = &settings.auth_secret {
        let texts = source.load()?;
        secrets.set_secrets(cluster_secrets(&texts));
        if let SecretSource::File(path) = source {
            let accepted = secrets.clone();
            tokio::spawn(watch_secrets(
                path.clone(),
                texts,
                SECRET_POLL_INTERVAL,
                reload.clone(),
                move |texts| accepted.set_secrets(cluster_secrets(&texts)),
            ));
        }
    }
    let mut cluster = Cluster::builder(settings.announced)
        .sources(settings.sources.iter().cloned())
        .secrets(secrets)
        .allow_one_way(settings.allow_one_way)
        .queue_bytes(settings.queue_bytes);
    if let Some(tls) = &settings.tls {
        let pods = PodTls::load(tls.files.clone(), tls.name.clone(), tls.allow_plain)?;
        tokio::spawn(
            pods.clone()
                .watch(CERTIFICATE_POLL_INTERVAL, reload.clone()),
        );
        cluster = cluster.tls(pods);
    }
    Ok(cluster.start(relay)?)
}

/// The addresses to try, or the flag whose host name leads nowhere.
fn addresses(flag: &str, address: &ListenAddress) -> Result<Vec<SocketAddr>, String> {
    address
        .bind_addresses()
        .map_err(|error| format!("{flag}: the host name cannot be looked up: {error}"))
}

/// The trusted proxies in one field, if there are any.
fn proxies_listed(settings: &Settings) -> Option<String> {
    (!settings.trusted_proxies.is_empty()).then(|| settings.trusted_proxies.to_string())
}

/// Several things in one field.
fn listed(things: &[impl ToString]) -> String {
    let texts: Vec<String> = things.iter().map(ToString::to_string).collect();
    texts.join(",")
}

fn keys(secrets: &[SecretText]) -> Vec<Secret> {
    secrets
        .iter()
        .map(|secret| Secret::new(secret.expose()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::connections_for;

    #[test]
    fn connections_leave_files_for_the_rest() {
        assert_eq!(connections_for(None), 0);
        assert_eq!(connections_for(Some(20)), 10);
        assert_eq!(connections_for(Some(64)), 32);
        assert_eq!(connections_for(Some(256)), 224);
        assert_eq!(connections_for(Some(1024)), 922);
        assert_eq!(connections_for(Some(1_048_576)), 943_719);
    }
}
