//! What operators see from outside: the dashboard, the alerts and their runbooks against a running relay, and OTLP against a
//! collector that takes the bytes apart.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "watch/collector.rs"]
mod collector;
#[path = "watch/metrics_page.rs"]
mod metrics_page;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use collector::{Collector, TlsListener, attribute};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use support::{Pair, Program, RawClient, UPGRADE_REQUEST, fresh_dir, peer, request, until};
use tokio_rustls::TlsAcceptor;
use trunkline::auth::{Secret, mint};
use trunkline::client::Client;
use trunkline::proto::peer::encode_auth;
use trunkline::tls::CertificateFiles;

const SECRET: &str = "watched";
const USUAL: [&str; 4] = ["-e", "relay.example.com", "-s", SECRET];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn token() -> Vec<u8> {
    mint(&Secret::new(SECRET), 4_000_000_000)
}

#[test]
fn promtool_takes_the_rules_and_their_tests() {
    let run = |args: &[&str]| {
        let promtool = Command::new("promtool")
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        match promtool {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout);
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{args:?}: {said}{errors}");
                true
            }
            Err(_) => false,
        }
    };
    let there = run(&["check", "rules", "deploy/prometheus/rules.yaml"])
        && run(&["test", "rules", "tests/watch/rules-test.yaml"]);
    if !there {
        eprintln!("skipped: promtool_takes_the_rules_and_their_tests: promtool is not installed");
    }
}

/// The lines of the rules' file that begin with this key.
fn rule_values<'a>(rules: &'a str, key: &str) -> Vec<&'a str> {
    let lines = rules
        .lines()
        .map(|line| line.trim().trim_start_matches("- "));
    lines
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        .collect()
}

#[test]
fn each_alert_has_a_runbook_and_a_test_and_there_are_no_others() {
    let rules = read("deploy/prometheus/rules.yaml");
    let alerts: BTreeSet<_> = rule_values(&rules, "alert").into_iter().collect();
    let urls = rule_values(&rules, "runbook_url");
    let severities = rule_values(&rules, "severity");
    let index = read("docs/runbooks/README.md");
    let tests = read("tests/watch/rules-test.yaml");
    assert_eq!(urls.len(), alerts.len());
    assert!(alerts.len() > 15, "{alerts:?}");
    for ((alert, url), severity) in rule_values(&rules, "alert")
        .iter()
        .zip(urls)
        .zip(severities)
    {
        assert_eq!(url, format!("docs/runbooks/{alert}.md"));
        let page = read(url);
        assert!(
            page.starts_with(&format!("# {alert}\n\nSeverity: {severity}\n")),
            "{url}"
        );
        for part in [
            "What it means",
            "Who is hurt",
            "Where to look",
            "What to do",
        ] {
            assert!(page.contains(&format!("\n## {part}\n")), "{url}: {part}");
        }
        assert!(
            index.contains(&format!("[{alert}]({alert}.md) | {severity} |")),
            "{alert}"
        );
        assert!(
            tests.contains(&format!("alertname=\"{alert}\"")),
            "{alert} has no test"
        );
    }
    let pages = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks"));
    for page in pages.unwrap() {
        let name = page.unwrap().file_name().into_string().unwrap();
        let alert = name.strip_suffix(".md").unwrap();
        assert!(
            alert == "README" || alerts.contains(alert),
            "{name} is for no alert"
        );
    }
}

/// Names of metrics, with the names of their labels.
type Series = BTreeMap<String, BTreeSet<String>>;

/// The metrics that an expression of PromQL reads, and the labels by which it picks them.
fn metrics_in(expression: &str, found: &mut Series) {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut rest = expression;
    while let Some(start) = rest.find(word) {
        let text = &rest[start..];
        let (name, behind) = text.split_at(text.find(|c| !word(c)).unwrap_or(text.len()));
        rest = behind;
        if rest.starts_with('"') {
            continue;
        }
        if !name.starts_with("relay_") && !name.starts_with("process_") {
            continue;
        }
        let labels = found.entry(name.to_owned()).or_default();
        if let Some(selector) = rest.strip_prefix('{') {
            let (selector, behind) = selector.split_once('}').unwrap();
            let matchers = selector.split(", ").flat_map(|part| part.split("\","));
            let names = matchers.filter_map(|matcher| matcher.split_once(['=', '!']));
            labels.extend(names.map(|(label, _)| label.trim().to_owned()));
            rest = behind;
        }
    }
}

/// The expressions in a dashboard, wherever they are.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" || name == "query" => found.push(text.to_owned()),
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|v| expressions(v, found)),
        _ => {}
    }
}

/// What a program shows, by names and labels, and for the page that lists all metrics.
async fn shown(program: &Program, series: &mut Series, page: &mut metrics_page::Shown) {
    let get = "GET /metrics HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
    let answer = request(program.metrics(), get).await.unwrap();
    assert!(
        !answer.text().contains(" # {"),
        "no exemplars unless asked for"
    );
    page.read(answer.text());
    for line in answer.text().lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        let names = labels.map(|(label, _)| label.to_owned());
        series.entry(name.to_owned()).or_default().extend(names);
    }
}

#[tokio::test]
async fn each_metric_of_dashboard_rules_and_pages_exists() {
    let dir = fresh_dir("watch-metrics");
    let CertificateFiles {
        certificate: cert,
        key,
    } = Pair::write(&dir, ["localhost"]).files;
    let own = |name: &str| {
        let own = dir.join(name);
        fs::create_dir_all(&own).unwrap();
        own
    };
    let (mut series, mut page) = (Series::new(), metrics_page::Shown::default());
    let plain = [&USUAL[..], &["--enable-stun", "--stun-ports=0"]].concat();
    // Nobody is there, and nobody need be.
    let nobody = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")];
    let plain = Program::start_with(&own("plain"), &plain, &nobody).await;
    let address = plain.addr().to_string();
    let mut client = Client::connect(&address, "/relay", peer("a"), &token())
        .await
        .unwrap();
    client.send(&peer("a"), b"to myself").await.unwrap();
    client.recv().await;
    shown(&plain, &mut series, &mut page).await;
    let files = [
        format!("--tls-cert-file={}", cert.display()),
        format!("--tls-key-file={}", key.display()),
    ];
    let tls = [&USUAL[..], &[&files[0], &files[1]]].concat();
    let tls = Program::start(&own("tls"), &tls).await;
    shown(&tls, &mut series, &mut page).await;
    // It comes after a minute of failed probes: tests/quic.rs waits for it.
    series.entry("relay_quic_reachable".to_owned()).or_default();
    page.read(
        "# HELP relay_quic_reachable Whether the relay reaches itself with QUIC at the address of --probe-quic-via.\n\
         # TYPE relay_quic_reachable gauge\n",
    );
    let data = format!("--letsencrypt-data-dir={}", own("data").display());
    let acme = [
        &USUAL[..],
        &["--letsencrypt-domains=relay.example.com", &data],
        &["--acme-directory-url=https://127.0.0.1:9/directory"],
    ];
    let acme = Program::start(&own("acme"), &acme.concat()).await;
    shown(&acme, &mut series, &mut page).await;
    let (one, _other) = two_pods(&own("one"), &own("other"), &[]).await;
    shown(&one, &mut series, &mut page).await;
    page.compare();

    let mut wanted = Series::new();
    let dashboard = serde_json::from_str(&read("deploy/grafana/trunkline.json")).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 40, "{}", found.len());
    let rules = read("deploy/prometheus/rules.yaml");
    found.extend(
        rules
            .lines()
            .filter(|line| !line.contains(": |") && !line.trim().starts_with('#'))
            .map(str::to_owned),
    );
    found.iter().for_each(|one| metrics_in(one, &mut wanted));
    assert!(wanted.len() > 30, "{wanted:?}");
    let shown = wanted.clone();
    pages(Path::new(env!("CARGO_MANIFEST_DIR")), &mut |text| {
        metrics_in(text, &mut wanted);
    });
    assert!(wanted.len() > shown.len(), "{wanted:?}");
    // A family by its first letters.
    wanted.retain(|name, _| !name.ends_with('_'));
    // What Prometheus adds itself.
    let added: BTreeSet<_> = ["job", "instance"].map(str::to_owned).into();
    for (name, labels) in wanted {
        // A histogram is named by what it measures in a page.
        let histogram = format!("{name}_bucket");
        match series.get(&name).or_else(|| series.get(&histogram)) {
            Some(has) => {
                let unknown: Vec<_> = labels
                    .difference(has)
                    .filter(|l| !added.contains(*l))
                    .collect();
                assert!(
                    unknown.is_empty(),
                    "{name} has no label {unknown:?}, only {has:?}"
                );
            }
            None => panic!("no relay has a metric {name}"),
        }
    }
}

/// Calls this with the text of each page of Markdown, but for the decisions, which are not rewritten.
fn pages(dir: &Path, each: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir()
            && (name == "docs"
                || (path.ancestors().any(|dir| dir.ends_with("docs")) && name != "adr"))
        {
            pages(&path, each);
        } else if name.ends_with(".md") {
            each(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// Two pods with a stream between them, and a message for a peer that neither has: that costs the first one a lookup.
async fn two_pods(one: &Path, other: &Path, env: &[(&str, &str)]) -> (Program, Program) {
    let [first, second] = support::ports();
    // At the third nobody listens.
    let peers = format!("--cluster-peers=127.0.0.1:{first},127.0.0.1:{second},127.0.0.1:9");
    let start = async |dir: &Path, port: u16| {
        let port = format!("--cluster-port={port}");
        let fabric = [&peers[..], &port, "--pod-ip=127.0.0.1"];
        Program::start_with(dir, &[&USUAL[..], &fabric].concat(), env).await
    };
    let pods = (start(one, first).await, start(other, second).await);
    let scrape = async || support::Metrics::scrape(pods.0.metrics()).await;
    while scrape().await.sum("relay_cluster_streams", &[]) != 1 {
        support::real_pause().await;
    }
    let other = [("peer_pod", &format!("127.0.0.1:{second}")[..])];
    assert_eq!(scrape().await.sum("relay_cluster_stream_up", &other), 1);
    let address = pods.0.addr().to_string();
    let client = Client::connect(&address, "/relay", peer("a"), &token())
        .await
        .unwrap();
    client
        .send(&peer("nobody"), b"are you there?")
        .await
        .unwrap();
    let lookups = "relay_cluster_lookup_duration_seconds_count";
    while scrape().await.sum(lookups, &[]) == 0 {
        support::real_pause().await;
    }
    pods
}

#[tokio::test]
async fn metrics_and_traces_reach_a_collector() {
    let (collector, address) = Collector::start().await;
    let endpoint = format!("http://{address}");
    let mut program = Program::start_with(
        &fresh_dir("watch-otlp"),
        &[&USUAL[..], &["--trusted-proxies=127.0.0.1"]].concat(),
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Bearer%20let-me-in",
            ),
            ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_SERVICE_NAME", "the-relay"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "deployment.environment.name=test",
            ),
        ],
    )
    .await;
    // A peer whose upgrade is part of its proxy's trace, one that says so of itself, and one that is refused.
    let mut client = RawClient::tcp(program.addr()).await;
    let traced = UPGRADE_REQUEST.replace(
        "\r\n\r\n",
        "\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
    );
    client.write(traced.as_bytes()).await;
    client.expect_upgrade().await;
    client
        .send(&encode_auth(&peer("a"), &token()).unwrap())
        .await;
    assert_eq!(client.message().await[..2], [1, 7]);
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let elsewhere = elsewhere.connect(program.addr()).await.unwrap();
    let mut stranger = RawClient::over(elsewhere);
    stranger.write(traced.as_bytes()).await;
    stranger.expect_upgrade().await;
    stranger
        .send(&encode_auth(&peer("c"), &token()).unwrap())
        .await;
    assert_eq!(stranger.message().await[..2], [1, 7]);
    let mut refused = RawClient::tcp(program.addr()).await;
    refused.write(UPGRADE_REQUEST.as_bytes()).await;
    refused.expect_upgrade().await;
    let wrong = mint(&Secret::new("another"), 4_000_000_000);
    refused
        .send(&encode_auth(&peer("b"), &wrong).unwrap())
        .await;
    refused.rest().await;
    until("all connections have come", || {
        collector
            .spans()
            .iter()
            .filter(|(span, _)| span.name == "connection")
            .count()
            == 3
            && collector.metrics().contains("relay_peers")
    })
    .await;

    let spans = collector.spans();
    let connection = |name: &str| {
        let id = peer(name).to_string();
        let mut spans = spans.iter().filter(|(span, _)| span.name == "connection");
        spans.find(|(span, _)| attribute(&span.attributes, "relay.peer.id") == Some(id.clone()))
    };
    let (span, resource) = connection("a").expect("the span of the peer");
    assert_eq!(hex(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&span.parent_span_id), "b7ad6b7169203331");
    // Who is no trusted proxy begins a trace of its own.
    let (span, _) = connection("c").expect("the span of the stranger");
    assert_ne!(hex(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&span.parent_span_id), "");
    assert_eq!(
        attribute(&span.attributes, "network.protocol.name").as_deref(),
        Some("ws")
    );
    assert_eq!(
        attribute(resource, "service.name").as_deref(),
        Some("the-relay")
    );
    assert_eq!(
        attribute(resource, "deployment.environment.name").as_deref(),
        Some("test")
    );
    for name in ["hello", "authenticate"] {
        let mut children = spans.iter().filter(|(child, _)| child.name == name);
        assert!(
            children.any(|(child, _)| child.parent_span_id == span.span_id),
            "{name}"
        );
    }
    let (span, _) = connection("b").expect("the span of who was refused");
    assert_eq!(
        attribute(&span.attributes, "error.type").as_deref(),
        Some("bad_signature")
    );
    assert_eq!(span.status.as_ref().map(|status| status.code), Some(2));
    assert!(span.parent_span_id.is_empty());
    for (_, headers, _) in collector.got.lock().iter() {
        assert_eq!(headers["authorization"], "Bearer let-me-in");
        assert_eq!(headers["content-type"], "application/x-protobuf");
    }
    for name in [
        "relay_messages",
        "process_cpu_seconds",
        "relay_build_info",
        "relay_otlp_exports",
    ] {
        assert!(collector.metrics().contains(name), "{name}");
    }

    // The last is sent before the program ends, and its secrets are in no log.
    assert_eq!(program.stop().await, Some(0));
    assert!(
        collector.span("drain").is_some(),
        "what is left is sent at the end"
    );
    assert_eq!(program.lines("let-me-in"), 0);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn lookups_and_dials_reach_a_collector() {
    let (collector, address) = Collector::start().await;
    let endpoint = format!("http://{address}");
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint[..]),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    let dirs = ["one", "other"].map(|name| fresh_dir(&format!("watch-otlp-{name}")));
    let (one, other) = two_pods(&dirs[0], &dirs[1], &env).await;
    // One of them dials the other, and both a third one in vain.
    let dial = |failed: bool| {
        let mut spans = collector.spans().into_iter().map(|(span, _)| span);
        spans.find(|span| {
            span.name == "dial" && attribute(&span.attributes, "error.type").is_some() == failed
        })
    };
    until("a lookup and two dials have come", || {
        collector.span("lookup").is_some() && dial(true).is_some() && dial(false).is_some()
    })
    .await;

    let client = 3;
    let lookup = collector.span("lookup").unwrap();
    let of = |key| attribute(&lookup.attributes, key);
    assert_eq!(of("relay.peer.id"), Some(peer("nobody").to_string()));
    assert_eq!(of("error.type").as_deref(), Some("not_found"));
    assert_eq!(lookup.status.as_ref().map(|status| status.code), Some(2));
    assert_eq!((lookup.kind, lookup.parent_span_id.len()), (client, 0));
    assert!(lookup.end_time_unix_nano > lookup.start_time_unix_nano);

    let (failed, done) = (dial(true).unwrap(), dial(false).unwrap());
    for span in [&failed, &done] {
        let of = |key| attribute(&span.attributes, key);
        let pod = of("network.peer.address").unwrap();
        assert!(pod.starts_with("127.0.0.1:"), "{pod}");
        assert_eq!(of("network.transport").as_deref(), Some("tcp"));
        assert_eq!(span.kind, client);
    }
    let why = attribute(&failed.attributes, "error.type");
    assert_eq!(why.as_deref(), Some("unreachable"));
    assert_eq!(failed.status.as_ref().map(|status| status.code), Some(2));

    // A stream that is gone is gone from the metrics, too.
    drop(other);
    for _ in 0..30_000 {
        let metrics = support::Metrics::scrape(one.metrics()).await;
        if !metrics.has("relay_cluster_stream_up", &[]) {
            return;
        }
        support::real_pause().await;
    }
    panic!("the stream to a killed pod is shown as up");
}

#[tokio::test]
async fn an_https_collector_gets_what_it_should_if_its_authority_is_known() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://localhost:{}", tcp.local_addr().unwrap().port());
    let tls = TlsAcceptor::from(Arc::new(config));
    let collector = Collector::on(TlsListener { tcp, tls });
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint[..]),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
    ];

    let stranger = fresh_dir("watch-otlp-stranger");
    let stranger = Program::start_with(&stranger, &USUAL, &env).await;
    until("it says why nothing is sent", || {
        stranger.lines("invalid peer certificate: UnknownIssuer") == 1
    })
    .await;
    assert!(collector.metrics().is_empty());

    let dir = fresh_dir("watch-otlp-https");
    let authority = dir.join("ca.pem");
    fs::write(&authority, made.cert.pem()).unwrap();
    let known = ("SSL_CERT_FILE", authority.to_str().unwrap());
    let program = Program::start_with(&dir, &USUAL, &[&env[..], &[known]].concat()).await;
    until("metrics have come", || {
        collector.metrics().contains("relay_peers_active")
    })
    .await;
    assert_eq!(program.lines("OTLP collector does not take"), 0);
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_one_line_and_no_peer() {
    // A port that nobody listens on, as long as this socket is bound and does not listen.
    let closed = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    closed
        .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    let endpoint = closed.local_addr().unwrap().as_socket().unwrap();
    let endpoint = format!("http://{endpoint}");
    let mut program = Program::start_with(
        &fresh_dir("watch-otlp-gone"),
        &USUAL,
        &[
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &endpoint),
            ("OTEL_METRIC_EXPORT_INTERVAL", "10"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "100"),
        ],
    )
    .await;
    let mut failed = 0;
    while failed < 5 {
        let metrics = support::Metrics::scrape(program.metrics()).await;
        failed = metrics.sum(
            "relay_otlp_exports_total",
            &[("signal", "metrics"), ("result", "failed")],
        );
        tokio::task::yield_now().await;
    }
    assert_eq!(program.lines("OTLP collector does not take"), 1);
    assert_eq!(program.lines("WARN"), 1);
    let address = program.addr().to_string();
    Client::connect(&address, "/relay", peer("a"), &token())
        .await
        .unwrap();
    assert_eq!(program.stop().await, Some(0));
}

#[test]
fn what_is_not_spoken_is_a_mistake_with_a_remedy() {
    let output = Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .env_clear()
        .args(USUAL)
        .envs([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "http://collector:4318/v1/traces",
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a-secret-without-a-name"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "10%"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "10s"),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let off = "or set OTEL_SDK_DISABLED=true to send nothing";
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!(
            "OTEL_EXPORTER_OTLP_ENDPOINT: is no URL of a collector; give http://HOST:4318 or https://HOST:4318\n\
             OTEL_EXPORTER_OTLP_PROTOCOL: \"grpc\" is not spoken here; give http/protobuf, and the collector's port for that, \
             usually 4318, {off}\n\
             OTEL_EXPORTER_OTLP_HEADERS: is no list of headers; give name=value, with commas between several, {off}\n\
             OTEL_METRIC_EXPORT_INTERVAL: \"10s\" is no whole number above 0; give one (times are in milliseconds), {off}\n\
             OTEL_TRACES_SAMPLER_ARG: \"10%\" is no share; give a number from 0 to 1, {off}\n"
        )
    );
}
