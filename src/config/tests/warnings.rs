//! What a relay starts with, though it was hardly meant so.

use super::*;

fn warnings(args: &[&str], env: &[(&str, &str)]) -> String {
    let warnings = settings(args, env).warnings;
    let lines: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn what_is_right_says_nothing() {
    let args = ["--enable-stun", "--stun-ports=3478,3479"];
    assert_eq!(warnings(&args, &[("OZ_LOG_LEVEL", "info")]), "");
    // As charts set them, where there is nothing to be set.
    let defaults = [
        ("OZ_STUN_PORTS", "3478"),
        ("OZ_ENABLE_STUN", "false"),
        ("OZ_LETSENCRYPT_AWS_ROUTE53", "false"),
        ("OZ_LETSENCRYPT_DATA_DIR", ""),
        ("POD_IP", "10.0.0.1"),
        ("OZ_CLUSTER_PORT", "7091"),
        ("TRUNKLINE_DRAIN_DELAY", "2s"),
        ("TRUNKLINE_QUIC", "true"),
    ];
    assert_eq!(warnings(&[], &defaults), "");
}

#[test]
fn a_variable_of_ours_that_is_none_is_named_with_what_was_meant() {
    let env = [
        ("TRUNKLINE_LOG_LEVL", "debug"),
        ("TRUNKLINE_ZZZ", "1"),
        ("OZ_LOG_LEVL", "debug"),
        ("NB_SETUP_KEY", "x"),
        ("HOME", "/root"),
    ];
    assert_eq!(
        warnings(&[], &env),
        "TRUNKLINE_LOG_LEVL: there is no such setting, and it is ignored; did you mean TRUNKLINE_LOG_LEVEL?\n\
         TRUNKLINE_ZZZ: there is no such setting, and it is ignored; see --help for what there is"
    );
}

#[test]
fn what_kubernetes_says_of_a_service_called_trunkline_is_no_setting() {
    let env = [
        ("TRUNKLINE_SERVICE_HOST", "10.96.0.7"),
        ("TRUNKLINE_SERVICE_PORT", "443"),
        ("TRUNKLINE_SERVICE_PORT_RELAY", "443"),
        ("TRUNKLINE_PORT", "tcp://10.96.0.7:443"),
        ("TRUNKLINE_PORT_443_TCP", "tcp://10.96.0.7:443"),
        ("TRUNKLINE_PORT_443_TCP_PROTO", "tcp"),
        ("TRUNKLINE_PORT_3478_UDP_ADDR", "10.96.0.7"),
        ("TRUNKLINE_PODS_SERVICE_HOST", "10.96.0.8"),
    ];
    assert_eq!(warnings(&[], &env), "");
}

#[test]
fn a_wrong_value_that_does_not_count_is_told() {
    assert_eq!(
        warnings(
            &["--log-level=info"],
            &[("TRUNKLINE_LOG_LEVEL", "loud"), ("OZ_LOG_LEVEL", "debug")]
        ),
        "TRUNKLINE_LOG_LEVEL: \"loud\" is not a log level; it has no effect while --log-level is given; mend it or remove it"
    );
    assert_eq!(
        warnings(
            &[],
            &[("TRUNKLINE_METRICS_PORT", "1"), ("NB_METRICS_PORT", "many")]
        )
        .lines()
        .count(),
        1
    );
}

#[test]
fn a_setting_without_effect_is_told() {
    for (arg, because) in [
        (
            "--letsencrypt-data-dir=/var/lib/acme",
            "--letsencrypt-domains",
        ),
        ("--letsencrypt-email=a@example.com", "--letsencrypt-domains"),
        (
            "--acme-directory-url=https://ca.example.com/dir",
            "--letsencrypt-domains",
        ),
        ("--stun-ports=3479", "--enable-stun"),
        ("--stun-log-level=debug", "--enable-stun"),
        ("--quic-initial-mtu=1300", "TLS"),
        ("--cluster-allow-one-way", "--cluster-peers"),
        ("--cluster-queue-bytes=2MiB", "--cluster-peers"),
        ("--drain-delay=3s", "without other pods"),
        ("--drain-window=3s", "without other pods"),
    ] {
        let text = warnings(&[arg], &[]);
        let flag = arg.split('=').next().unwrap();
        assert!(
            text.starts_with(&format!("{flag}: has no effect here")),
            "{arg}: {text}"
        );
        assert!(text.contains(because), "{arg}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn what_stands_behind_the_exposed_host_is_told() {
    let exposed = |address: &str| {
        let args = ["--auth-secret=x", "--exposed-address", address];
        match parse_text(&args, &[]) {
            Ok(Command::Run(settings)) => settings.warnings.len(),
            other => panic!("{address}: {other:?}"),
        }
    };
    for plain in [
        "relay.example.com",
        "rels://relay.example.com:443",
        "rel://r/",
        "[::1]:80",
    ] {
        assert_eq!(exposed(plain), 0, "{plain}");
    }
    for more in [
        "rels://relay.example.com/relay",
        "relay.example.com:443/x",
        "rel://r?x",
        "r#x",
    ] {
        assert_eq!(exposed(more), 1, "{more}");
    }
}
