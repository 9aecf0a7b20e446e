use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{env, flags, *};
use crate::cluster::discovery::Source;
use crate::proxies::ProxyProtocol;
use crate::tls::Challenge;

mod warnings;
mod wrong_values;

/// A command line that needs nothing more.
const ENOUGH: [&str; 2] = [
    "--exposed-address=relay.example.com",
    "--auth-secret=hunter2",
];

fn load() -> clap::Command {
    clap::Command::new("anything").arg(clap::Arg::new("peers").long("peers"))
}

fn parse_os(args: Vec<OsString>, env: &[(&str, &str)]) -> Result<Command, ConfigError> {
    let env: HashMap<&str, &str> = env.iter().copied().collect();
    let args = std::iter::once(OsString::from("trunkline")).chain(args);
    let names: Vec<_> = env.keys().map(OsString::from).collect();
    parse(
        args,
        |name| env.get(name).map(OsString::from),
        names,
        load(),
    )
}

fn parse_text(args: &[&str], env: &[(&str, &str)]) -> Result<Command, ConfigError> {
    parse_os(args.iter().map(OsString::from).collect(), env)
}

/// The settings of a line that has all it needs, with `args` and `env` besides.
fn settings(args: &[&str], env: &[(&str, &str)]) -> Settings {
    let args: Vec<&str> = ENOUGH.iter().chain(args).copied().collect();
    match parse_text(&args, env) {
        Ok(Command::Run(settings)) => *settings,
        other => panic!("{args:?} {env:?} gave {other:?}"),
    }
}

/// The whole text of the mistakes in a line that has all it needs but for `args` and `env`.
fn mistakes(args: &[&str], env: &[(&str, &str)]) -> String {
    let args: Vec<&str> = ENOUGH.iter().chain(args).copied().collect();
    refusal(parse_text(&args, env))
}

fn refusal(parsed: Result<Command, ConfigError>) -> String {
    match parsed {
        Err(error @ ConfigError::Mistakes(_)) => {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        }
        other => panic!("no mistake seen: {other:?}"),
    }
}

fn help() -> String {
    match parse_text(&["--help"], &[]) {
        Err(ConfigError::Text(text)) => text,
        other => panic!("no help: {other:?}"),
    }
}

#[test]
fn defaults_are_those_of_the_operations_document() {
    let settings = settings(&[], &[]);
    assert_eq!(settings.listen_address, ListenAddress::all(443));
    assert_eq!(settings.relay_path, "/relay");
    assert_eq!(settings.health_listen_address, ListenAddress::all(9000));
    assert_eq!(settings.metrics_port, 9090);
    assert_eq!(settings.exposed_address, "relay.example.com");
    let secrets = SecretSource::Values(vec![SecretText::new("hunter2")]);
    assert_eq!(settings.auth_secret, secrets);
    assert_eq!(settings.peer_queue_bytes, 524_288);
    assert_eq!(settings.memory_limit, None);
    assert_eq!(settings.queue_max_age, Duration::from_secs(1));
    assert_eq!(settings.max_handshakes, 16_384);
    assert_eq!(settings.max_connections, None);
    assert_eq!(settings.max_connections_per_address, 16_384);
    assert_eq!(settings.handshake_rate_per_address, 500);
    assert_eq!(settings.max_subscriptions, 65_536);
    assert_eq!(settings.health_check_threshold, 1);
    let log = LogSettings {
        stun_level: LogLevel::Info,
        level: LogLevel::Info,
        file: LogDestination::Console,
        format: LogFormat::Text,
        max_size_mb: 15,
        rotate: true,
    };
    assert_eq!(settings.log, log);
}

#[test]
fn debug_shows_no_secret() {
    let text = format!("{:?}", settings(&[], &[]));
    assert!(text.contains("SecretText(..)"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn every_form_of_a_good_value() {
    let address = |text: &str| settings(&["-l", text], &[]).listen_address.to_string();
    for text in [
        ":0",
        "127.0.0.1:8443",
        "[::1]:443",
        "localhost:443",
        "my_host-1.example:1",
    ] {
        assert_eq!(address(text), text);
    }
    let queue = |text: &str| settings(&["--peer-queue-bytes", text], &[]).peer_queue_bytes;
    for (text, bytes) in [
        ("65536", 65_536),
        ("64KiB", 65_536),
        ("64Ki", 65_536),
        ("1MiB", 1 << 20),
        ("1 mib", 1 << 20),
        ("100kB", 100_000),
        ("2MB", 2_000_000),
        ("1GiB", 1 << 30),
    ] {
        assert_eq!(queue(text), bytes, "{text}");
    }
    let limit = |text: &str| settings(&["--memory-limit", text], &[]).memory_limit;
    assert_eq!(limit("512Mi"), Some(512 << 20));
    assert_eq!(limit("3GB"), Some(3_000_000_000));
    let age = |text: &str| settings(&["--queue-max-age", text], &[]).queue_max_age;
    assert_eq!(age("1500ms"), Duration::from_millis(1500));
    assert_eq!(age("1m"), Duration::from_secs(60));
    let level = |text: &str| settings(&["--log-level", text], &[]).log.level;
    assert_eq!(level("warning"), LogLevel::Warn);
    assert_eq!(level("WARN"), LogLevel::Warn);
    assert_eq!(level("trace"), LogLevel::Trace);
    let rotate = |args: &[&str]| settings(args, &[]).log.rotate;
    assert!(!rotate(&["--log-disable-rotation"]));
    assert!(!rotate(&["--log-disable-rotation=1"]));
    assert!(rotate(&["--log-disable-rotation=false"]));
    assert!(
        rotate(&["--log-disable-rotation", "--log-disable-rotation=0"]),
        "the last one counts"
    );
    let rotate = |value| {
        settings(&[], &[("NB_LOG_DISABLE_ROTATION", value)])
            .log
            .rotate
    };
    for (value, expected) in [
        ("true", false),
        ("1", false),
        ("yes", false),
        ("no", true),
        ("0", true),
    ] {
        assert_eq!(rotate(value), expected, "{value}");
    }
    let file = |text: &str| settings(&["--log-file", text], &[]).log.file;
    assert_eq!(file("syslog"), LogDestination::Syslog);
    assert_eq!(
        file("relay.log"),
        LogDestination::Path(PathBuf::from("relay.log"))
    );
}

#[test]
fn a_secret_may_start_with_a_hyphen() {
    let parsed = parse_text(&["-e", "example.com", "-s", "-x--y"], &[]);
    let Ok(Command::Run(settings)) = parsed else {
        panic!("{parsed:?}");
    };
    assert_eq!(settings.auth_secret.load().unwrap()[0].expose(), "-x--y");
}

#[test]
fn bind_addresses_are_in_the_order_to_try() {
    let bind = |text: &str| {
        settings(&["-l", text], &[])
            .listen_address
            .bind_addresses()
            .unwrap()
    };
    let addresses = |texts: &[&str]| -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    };
    assert_eq!(bind(":8443"), addresses(&["[::]:8443", "0.0.0.0:8443"]));
    assert_eq!(bind("127.0.0.1:0"), addresses(&["127.0.0.1:0"]));
    assert_eq!(bind("[::]:8443"), addresses(&["[::]:8443"]));
    assert!(
        bind("localhost:8443")
            .iter()
            .all(|address| address.ip().is_loopback())
    );
}

#[test]
fn the_flag_beats_three_prefixes_in_their_order() {
    let all = [
        ("NB_METRICS_PORT", "3"),
        ("OZ_METRICS_PORT", "2"),
        ("TRUNKLINE_METRICS_PORT", "1"),
    ];
    assert_eq!(settings(&["--metrics-port=4"], &all).metrics_port, 4);
    assert_eq!(settings(&[], &all).metrics_port, 1);
    assert_eq!(settings(&[], &all[..2]).metrics_port, 2);
    assert_eq!(settings(&[], &all[..1]).metrics_port, 3);
    let empty = [
        ("TRUNKLINE_METRICS_PORT", ""),
        ("OZ_METRICS_PORT", " "),
        ("NB_METRICS_PORT", "3"),
    ];
    assert_eq!(
        settings(&[], &empty).metrics_port,
        3,
        "an empty variable is unset"
    );
    // What does not count is not judged either.
    assert_eq!(
        settings(&["--metrics-port=4"], &[("OZ_METRICS_PORT", "x")]).metrics_port,
        4
    );
}

#[test]
fn every_setting_is_read_from_all_its_variables() {
    for setting in flags::ALL {
        for variable in env::variables(setting.name) {
            // No setting takes this: a value that is read is complained about under its variable's name.
            let value = "\u{1}";
            let text = match setting.name {
                "exposed-address" => refusal(parse_text(&ENOUGH[1..], &[(&variable, value)])),
                "auth-secret" => refusal(parse_text(
                    &[ENOUGH[0], "--auth-secret-file=/x"],
                    &[(&variable, value)],
                )),
                "cluster-auth-secret" => {
                    mistakes(&["--cluster-auth-secret-file=/x"], &[(&variable, value)])
                }
                "log-file" => mistakes(&[], &[(&variable, "/no/such/place/x")]),
                _ => mistakes(&[], &[(&variable, value)]),
            };
            assert!(text.contains(&variable), "{variable}: {text}");
        }
    }
    let threshold = |env: &[(&str, &str)]| settings(&[], env).health_check_threshold;
    let both = [
        ("NB_RELAY_HC_ATTEMPT_THRESHOLD", "4"),
        ("OZ_RELAY_HC_ATTEMPT_THRESHOLD", "3"),
    ];
    assert_eq!(threshold(&both), 3);
    assert_eq!(threshold(&both[..1]), 4);
    assert_eq!(
        mistakes(&[], &[("NB_RELAY_HC_ATTEMPT_THRESHOLD", "none")]),
        "NB_RELAY_HC_ATTEMPT_THRESHOLD: \"none\" does not do; give a whole number from 1 to 1000"
    );
}

#[test]
fn listeners_on_one_port_are_a_mistake() {
    assert_eq!(
        mistakes(
            &["-l=:9090"],
            &[("OZ_HEALTH_LISTEN_ADDRESS", "127.0.0.1:443")]
        ),
        "--listen-address and --metrics-port: both want port 9090; give one of them another port"
    );
    assert_eq!(
        mistakes(&[], &[("OZ_HEALTH_LISTEN_ADDRESS", "127.0.0.1:443")]),
        "--listen-address and OZ_HEALTH_LISTEN_ADDRESS: both want port 443; give one of them another port"
    );
    settings(&["-l=127.0.0.1:7", "-H=127.0.0.2:7"], &[]);
    settings(&["-l=:0", "-H=:0", "--metrics-port=0"], &[]);
}

#[test]
fn the_stun_server_has_the_ports_it_is_given_when_it_is_asked_for() {
    assert_eq!(
        settings(&["--stun-ports=1,2"], &[]).stun_ports,
        Vec::<u16>::new()
    );
    assert_eq!(settings(&["--enable-stun"], &[]).stun_ports, [3478]);
    let given = settings(
        &["--stun-log-level", "trace"],
        &[("OZ_ENABLE_STUN", "1"), ("NB_STUN_PORTS", "3478, 3479")],
    );
    assert_eq!(given.stun_ports, [3478, 3479]);
    assert_eq!(given.log.stun_level, LogLevel::Trace);
    assert_eq!(given.log.level, LogLevel::Info);
    assert_eq!(
        mistakes(&["--stun-ports=3478,3478"], &[]),
        "--stun-ports: port 3478 is there twice; give each port once"
    );
    assert_eq!(
        mistakes(&["--stun-ports=3478;3479"], &[]),
        "--stun-ports: \"3478;3479\" is not a port; give one port, or several with commas between them, such as 3478,3479"
    );
}

#[test]
fn what_existing_installations_say_of_what_they_do_not_use_is_accepted() {
    let harmless = [
        ("OZ_ENABLE_STUN", "false"),
        ("OZ_STUN_PORTS", "3478"),
        ("OZ_STUN_LOG_LEVEL", "info"),
        ("OZ_LETSENCRYPT_AWS_ROUTE53", "0"),
        ("OZ_LETSENCRYPT_DATA_DIR", "/var/lib/openzro"),
        ("OZ_CLUSTER_PORT", "7090"),
        ("OZ_POD_IP", "10.0.0.1"),
        ("OZ_TRUSTED_PROXIES", ""),
        ("OZ_TLS_CERT_FILE", ""),
    ];
    settings(
        &["--cluster-port", "7090", "--enable-stun=false"],
        &harmless,
    );
    settings(
        &[],
        &[("TRUNKLINE_ENABLE_STUN", "no"), ("OZ_ENABLE_STUN", "true")],
    );
}

#[test]
fn certificates_by_acme_need_domains_and_a_directory() {
    let acme = |args: &[&str], env: &[(&str, &str)]| match settings(args, env).tls {
        Some(TlsSettings::Acme(acme)) => acme,
        other => panic!("no ACME: {other:?}"),
    };
    let given = acme(
        &[
            "-a",
            "Relay.example.com, b.example.",
            "-a=b.example,c.example",
        ],
        &[("OZ_LETSENCRYPT_DATA_DIR", "/var/lib/relay")],
    );
    // Given twice, both count, as with the Go relays.
    let domains = ["relay.example.com", "b.example", "c.example"];
    assert_eq!(given.domains, domains);
    assert_eq!(given.data_dir, PathBuf::from("/var/lib/relay"));
    assert_eq!(given.directory_url, crate::tls::LETS_ENCRYPT);
    assert_eq!((given.email, given.ca_file), (None, None));
    assert_eq!(given.challenge, Challenge::TlsAlpn01);
    let given = acme(
        &["-d/data", "--acme-directory-url=https://ca.example/dir"],
        &[
            ("NB_LETSENCRYPT_DOMAINS", "a.example"),
            ("NB_LETSENCRYPT_EMAIL", "admin@example.com"),
            ("NB_LETSENCRYPT_AWS_ROUTE53", "false"),
        ],
    );
    assert_eq!(given.directory_url, "https://ca.example/dir");
    assert_eq!(given.email.as_deref(), Some("admin@example.com"));
    // Details without domains ask for nothing.
    let details = ["-d/data", "--letsencrypt-email=admin@example.com"];
    assert_eq!(settings(&details, &[]).tls, None);
    for (args, expected) in [
        (
            vec!["-a", "a.example"],
            "--letsencrypt-domains: needs --letsencrypt-data-dir, too; give a directory that outlives this process: account \
             and certificate are kept there",
        ),
        (
            vec!["-d/data", "-a", "a.example", "-c/cert", "-k/key"],
            "--tls-cert-file: /cert cannot be read: No such file or directory (os error 2); give the certificate chain and \
             its private key as PEM files\n\
             --tls-cert-file and --letsencrypt-domains: both give the certificate; keep one of them",
        ),
        (
            vec!["-d/data", "-a", "10.0.0.1"],
            "--letsencrypt-domains: \"10.0.0.1\" is not a domain; give domains such as relay.example.com (others than \
             ASCII letters as xn--...), with commas between them",
        ),
        (
            vec!["-d/data", "-a", "*.example.com"],
            "--letsencrypt-domains: \"*.example.com\" can only be shown to be yours in the DNS; add \
             --letsencrypt-aws-route53 if its zone is there, or give the domains one by one",
        ),
        (
            vec!["-d/data", "-a", "a.example", "--letsencrypt-email", "admin"],
            "--letsencrypt-email: \"admin\" is not a mail address; give one, such as admin@example.com",
        ),
        (
            vec![
                "-d/data",
                "-a",
                "a.example",
                "--acme-directory-url",
                "http://ca.example/dir",
            ],
            "--acme-directory-url: \"http://ca.example/dir\" is not an https address; give one such as \
             https://acme.example.com/directory",
        ),
        (
            vec!["-d/data", "-a", "a.example", "--acme-ca-file", "/nowhere"],
            "--acme-ca-file: /nowhere cannot be read: No such file or directory (os error 2); give the certificates of the \
             authority's own authority as a PEM file",
        ),
    ] {
        assert_eq!(mistakes(&args, &[]), expected);
    }
    assert_eq!(
        mistakes(&["-d/data", "-a", "a..example"], &[])
            .split(';')
            .next(),
        Some("--letsencrypt-domains: \"a..example\" is not a domain")
    );
}

#[test]
fn route_53_is_for_builds_that_have_it_and_needs_domains() {
    let asked = [
        "--letsencrypt-aws-route53",
        "-d/data",
        "-a",
        "*.example.com",
    ];
    #[cfg(feature = "route53")]
    {
        let Some(TlsSettings::Acme(acme)) = settings(&asked, &[]).tls else {
            panic!("no ACME");
        };
        assert_eq!(acme.challenge, Challenge::Dns01Route53);
        assert_eq!(
            mistakes(&[], &[("OZ_LETSENCRYPT_AWS_ROUTE53", "true")]),
            "OZ_LETSENCRYPT_AWS_ROUTE53: needs --letsencrypt-domains, too; give the domains of the certificate"
        );
    }
    #[cfg(not(feature = "route53"))]
    for args in [&asked[..], &asked[..1]] {
        assert_eq!(
            mistakes(args, &[]).lines().next(),
            Some(
                "--letsencrypt-aws-route53: this build has no Route 53; use a release build, or build it with --features \
                 route53"
            )
        );
    }
}

/// A pod of a cluster that has all it needs, with `args` and `env` besides.
fn cluster(args: &[&str], env: &[(&str, &str)]) -> ClusterSettings {
    let env: Vec<_> = [("POD_IP", "10.0.0.1")]
        .iter()
        .chain(env)
        .copied()
        .collect();
    settings(args, &env).cluster.expect("a cluster")
}

#[test]
fn a_cluster_is_asked_for_by_a_name_or_by_a_list() {
    let alone = settings(
        &["--cluster-headless=", "--cluster-peers="],
        &[("POD_IP", "10.0.0.1")],
    );
    assert!(alone.cluster.is_none());
    assert_eq!(alone.drain_delay, Duration::from_secs(2));
    assert_eq!(alone.drain_window, Duration::from_secs(10));
    let source = |text: &str| text.parse::<Source>().unwrap();
    let one = cluster(&[], &[("OZ_CLUSTER_HEADLESS", "relay.mesh")]);
    assert_eq!(one.sources, [source("relay.mesh:7090")]);
    assert_eq!(one.announced, "10.0.0.1:7090".parse().unwrap());
    assert_eq!(one.auth_secret, None);
    assert!(!one.allow_one_way);
    assert_eq!(one.queue_bytes, 16 << 20);
    let both = cluster(
        &[
            "--cluster-headless=_relay._tcp.mesh",
            "--cluster-peers=a:1, 10.0.0.2:7090 ,[::1]:3,",
            "--cluster-port=7",
            "--pod-ip=2001:db8::1",
            "--cluster-auth-secret=hunter3",
            "--cluster-allow-one-way",
            "--cluster-queue-bytes=1MiB",
            "--drain-delay=0s",
        ],
        &[],
    );
    let expected = ["_relay._tcp.mesh", "a:1", "10.0.0.2:7090", "[::1]:3"].map(source);
    assert_eq!(both.sources, expected);
    assert_eq!(both.announced, "[2001:db8::1]:7".parse().unwrap());
    let secret = SecretSource::Values(vec![SecretText::new("hunter3")]);
    assert_eq!(both.auth_secret, Some(secret));
    assert!(both.allow_one_way);
    assert_eq!(both.queue_bytes, 1 << 20);
    assert!(!format!("{both:?}").contains("hunter3"));
    let empty = cluster(&["--cluster-peers=a:1", "--cluster-auth-secret="], &[]);
    assert_eq!(empty.auth_secret, None, "pods without a secret, as before");
    let ours = [("NB_POD_IP", "10.0.0.3"), ("OZ_POD_IP", "10.0.0.2")];
    let announced = cluster(&["--cluster-peers=a:1"], &ours).announced;
    assert_eq!(announced, "10.0.0.2:7090".parse().unwrap());
}

#[test]
fn tls_between_pods_needs_all_its_files_and_a_name_that_a_certificate_can_carry() {
    let all = "--cluster-tls-cert-file, --cluster-tls-key-file, --cluster-tls-ca-file";
    assert_eq!(
        mistakes(
            &["--cluster-tls-cert-file=/x"],
            &[("OZ_CLUSTER_TLS_CA_FILE", "/x")]
        ),
        format!(
            "--cluster-tls-cert-file: TLS between pods needs all of {all}; give all three, or none"
        )
    );
    let missing = mistakes(
        &[
            "--cluster-tls-cert-file=/no/such/file",
            "--cluster-tls-key-file=/x",
            "--cluster-tls-ca-file=/x",
        ],
        &[],
    );
    assert!(
        missing.starts_with("--cluster-tls-cert-file: /no/such/file cannot be read"),
        "{missing}"
    );
    // The flag of the file that is to blame.
    let dir = std::env::temp_dir().join(format!("trunkline-cluster-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let made = rcgen::generate_simple_self_signed(["relay".to_owned()]).unwrap();
    let (certificate, key) = (dir.join("tls.crt"), dir.join("tls.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let file = |flag: &str, path: &Path| format!("--cluster-tls-{flag}-file={}", path.display());
    let absent = Path::new("/no/such/file");
    for (key, ca, blamed) in [
        (
            absent,
            certificate.as_path(),
            "--cluster-tls-key-file: /no/such/file ",
        ),
        (
            key.as_path(),
            absent,
            "--cluster-tls-ca-file: /no/such/file ",
        ),
    ] {
        let files = [file("cert", &certificate), file("key", key), file("ca", ca)];
        let text = mistakes(&files.each_ref().map(String::as_str), &[]);
        assert!(text.starts_with(blamed), "{text}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
    for name in ["relay.mesh.svc", "spiffe://example.org/relay"] {
        settings(&["--cluster-tls-name", name], &[]);
    }
    let without = mistakes(
        &[
            "--cluster-tls-name=relay",
            "--cluster-peers=10.0.0.2:7090",
            "--pod-ip=10.0.0.1",
        ],
        &[],
    );
    assert_eq!(
        without,
        format!(
            "--cluster-tls-name: there is no TLS between pods without {all}; give these, too, or leave it out"
        )
    );
    for name in ["", "http://example.org", "spiffe://", "a b", "10.0.0.1"] {
        let text = mistakes(&["--cluster-tls-name", name], &[]);
        assert!(
            text.contains("is not a name that a certificate carries"),
            "{text}"
        );
    }
    assert!(cluster(&["--cluster-peers=a:1"], &[]).tls.is_none());
}

#[test]
fn a_pod_that_does_not_know_its_own_address_is_told_so() {
    let remedy = "give the address by which other pods reach this one, or set one of TRUNKLINE_POD_IP, OZ_POD_IP, NB_POD_IP, POD_IP";
    assert_eq!(
        mistakes(&[], &[("OZ_CLUSTER_HEADLESS", "relay")]),
        format!("--pod-ip: is required with OZ_CLUSTER_HEADLESS; {remedy}")
    );
    assert_eq!(
        mistakes(&["--cluster-peers=a:1"], &[]),
        format!("--pod-ip: is required with --cluster-peers; {remedy}")
    );
    assert_eq!(
        mistakes(
            &["--cluster-peers=a:1", "-l=:7090"],
            &[("POD_IP", "10.0.0.1")]
        ),
        "--listen-address and --cluster-port: both want port 7090; give one of them another port"
    );
    settings(&["-l=:7090"], &[]);
    assert_eq!(
        mistakes(
            &["--cluster-auth-secret=a", "--cluster-auth-secret-file=/x"],
            &[]
        ),
        "--cluster-auth-secret and --cluster-auth-secret-file: both give the secret; keep one of them"
    );
}

#[test]
fn the_proxy_protocol_is_for_trusted_proxies() {
    let defaults = settings(&["--trusted-proxies="], &[]);
    assert!(defaults.trusted_proxies.is_empty());
    assert_eq!(defaults.proxy_protocol, ProxyProtocol::Off);
    let given = settings(
        &["--proxy-protocol=Required"],
        &[("OZ_TRUSTED_PROXIES", " 10.0.0.0/8, ::1 ")],
    );
    assert_eq!(given.trusted_proxies.to_string(), "10.0.0.0/8,::1/128");
    assert_eq!(given.proxy_protocol, ProxyProtocol::Required);
    for mode in ["optional", "required"] {
        assert_eq!(
            mistakes(&["--proxy-protocol", mode], &[]),
            format!(
                "--proxy-protocol: {mode} without trusted proxies: no PROXY header would be taken; name the proxies with \
                 --trusted-proxies, or give off"
            )
        );
    }
    // A list that cannot be read is one mistake, not two.
    let text = mistakes(
        &["--proxy-protocol=required", "--trusted-proxies=proxy"],
        &[],
    );
    assert_eq!(
        text,
        "--trusted-proxies: \"proxy\" is neither an IP address nor a CIDR prefix; give addresses and prefixes with commas \
         between them, such as 10.0.0.0/8,192.0.2.7,fd00::/8"
    );
}

#[test]
fn a_certificate_and_its_key_come_together_and_are_of_use() {
    assert_eq!(settings(&[], &[]).tls, None);
    assert_eq!(
        mistakes(&["-c", "x"], &[]),
        "--tls-cert-file: TLS needs --tls-key-file, too; give both, or none"
    );
    assert_eq!(
        mistakes(&[], &[("OZ_TLS_KEY_FILE", "x")]),
        "OZ_TLS_KEY_FILE: TLS needs --tls-cert-file, too; give both, or none"
    );
    let text = mistakes(&["-c", "/no/such/file", "-k", "x"], &[]);
    assert!(text.contains("/no/such/file cannot be read"), "{text}");
    // Each is named by its own flag.
    let made = rcgen::generate_simple_self_signed(["relay.example.com".to_owned()]).unwrap();
    let name = format!("trunkline-settings-cert-{}", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, made.cert.pem()).unwrap();
    let text = mistakes(
        &["-c", path.to_str().unwrap()],
        &[("OZ_TLS_KEY_FILE", "/no/such/key")],
    );
    fs::remove_file(&path).unwrap();
    assert!(
        text.starts_with("OZ_TLS_KEY_FILE: /no/such/key cannot be read"),
        "{text}"
    );
}

#[test]
fn the_secret_comes_from_one_place() {
    assert_eq!(
        mistakes(&["--auth-secret-file=/x"], &[]),
        "--auth-secret and --auth-secret-file: both give the secret; keep one of them"
    );
    assert_eq!(
        refusal(parse_text(&[ENOUGH[0], "--auth-secret="], &[])),
        "--auth-secret: the secret is empty; give the management server's secret"
    );
    let text = refusal(parse_text(
        &ENOUGH[..1],
        &[("OZ_AUTH_SECRET_FILE", "/no/such/file")],
    ));
    assert_eq!(
        text,
        "OZ_AUTH_SECRET_FILE: /no/such/file cannot be read: No such file or directory (os error 2); give a readable \
         file with one secret a line"
    );
    let path =
        std::env::temp_dir().join(format!("trunkline-settings-secret-{}", std::process::id()));
    fs::write(&path, "one\ntwo\n").unwrap();
    let parsed = parse_text(
        &ENOUGH[..1],
        &[("NB_AUTH_SECRET_FILE", path.to_str().unwrap())],
    );
    let Ok(Command::Run(settings)) = parsed else {
        panic!("{parsed:?}");
    };
    let secrets = settings.auth_secret.load().unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(settings.auth_secret, SecretSource::File(path));
    assert_eq!(secrets, [SecretText::new("one"), SecretText::new("two")]);
    assert!(settings.auth_secret.load().is_err(), "the file has gone");
}

#[test]
fn help_tells_every_row_of_the_table() {
    let help = help();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let flat = words(&help);
    for setting in flags::ALL {
        let head = match (setting.short, setting.kind) {
            (Some(short), _) => format!("-{short}, --{} <{}>", setting.name, setting.hint),
            (None, flags::Kind::Switch) => format!(" --{}[=<{}>]", setting.name, setting.hint),
            (None, _) => format!(" --{} <{}>", setting.name, setting.hint),
        };
        assert!(help.contains(&head), "{head} is not in the help:\n{help}");
        assert!(
            flat.contains(&words(setting.help)),
            "{} lacks its words",
            setting.name
        );
        if let Some(default) = setting.default {
            assert!(
                flat.contains(&format!("[default: {default}]")),
                "{}",
                setting.name
            );
        }
    }
    let headings = [
        "Listening:",
        "Identity:",
        "Queues and limits:",
        "Logging:",
        "Environment:",
        "Examples:",
    ];
    let places: Vec<_> = headings.iter().map(|heading| help.find(heading)).collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{places:?}"
    );
    for prefix in env::PREFIXES {
        assert!(help.contains(&format!("{prefix}LOG_LEVEL")), "{prefix}");
    }
    assert!(help.contains("Exit codes:") && help.contains("  demo  ") && help.contains("  load  "));
    assert!(
        help.lines().all(|line| line.chars().count() <= 100),
        "{help}"
    );
}

#[test]
fn the_table_names_nothing_twice() {
    let mut names = HashSet::new();
    let mut shorts = HashSet::from(['h', 'V']);
    for setting in flags::ALL {
        assert!(names.insert(setting.name), "{}", setting.name);
        assert!(
            setting.short.is_none_or(|short| shorts.insert(short)),
            "{}",
            setting.name
        );
    }
    // Clap looks for names given twice, the hidden ones included, and for other contradictions.
    flags::command(load()).debug_assert();
}

#[test]
fn texts_that_are_asked_for_are_no_mistakes() {
    let Err(version) = parse_text(&["--version"], &[]) else {
        panic!("no version");
    };
    assert_eq!(
        version.to_string(),
        format!("trunkline {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(version.exit_code(), 0);
    let Err(ConfigError::Text(short)) = parse_text(&["--bogus", "-h"], &[]) else {
        panic!("no help");
    };
    assert_eq!(short, help(), "-h and --help are one text, mistakes or not");
    for args in [["load", "--help"], ["help", "load"]] {
        let Err(ConfigError::Text(text)) = parse_text(&args, &[]) else {
            panic!("no help for {args:?}");
        };
        assert!(text.contains("--peers"), "{text}");
    }
}

#[test]
fn subcommands() {
    assert!(matches!(
        parse_text(&["demo"], &[]),
        Ok(Command::Demo { keep: false })
    ));
    assert!(matches!(
        parse_text(&["demo", "--keep"], &[]),
        Ok(Command::Demo { keep: true })
    ));
    let Ok(Command::Load(matches)) = parse_text(&["load", "--peers", "7"], &[]) else {
        panic!("no load");
    };
    assert_eq!(matches.get_one::<String>("peers").unwrap(), "7");
    assert_eq!(
        refusal(parse_text(&["demo", "--kep"], &[])),
        "--kep: there is no such flag; did you mean --keep?"
    );
    assert_eq!(
        refusal(parse_text(&["load", "--peers"], &[])),
        "--peers: its value is missing; give one after it"
    );
    assert_eq!(
        refusal(parse_text(&["-l", ":80", "demo"], &[])),
        "demo: a subcommand does not go with the relay's flags; give it first, with its own flags only"
    );
}
