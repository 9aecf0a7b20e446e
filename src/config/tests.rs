use std::{
    collections::{HashMap, HashSet},
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{env, flags, *};
use crate::proxies::ProxyProtocol;

mod certificates;
mod cluster;
mod help;
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
