//! The command line of `trunkline load`: what is taken, and what is refused in which words.

use super::*;

fn parsed(arguments: &str) -> Result<Settings, LoadError> {
    let words = std::iter::once("load").chain(arguments.split_whitespace());
    settings(&command().try_get_matches_from(words).unwrap())
}

fn refusal(arguments: &str) -> String {
    let error = parsed(arguments).unwrap_err();
    assert!(error.is_usage());
    error.to_string()
}

#[test]
fn defaults_are_those_of_the_command_line() {
    let found = parsed("--address 127.0.0.1:9 --secret x").unwrap();
    let default = Settings::new(Load::Flow, found.target.clone());
    assert_eq!(
        format!("{found:?}"),
        format!(
            "{:?}",
            Settings {
                interrupt: true,
                progress: true,
                ..default
            }
        )
    );
    assert_eq!(parsed("churn -a :9 -s x").unwrap().concurrency, 1);
    assert_eq!(parsed("idle -a :9 -s x").unwrap().concurrency, 64);
    assert_eq!(parsed("fair -a :9 -s x").unwrap().pairs, 50);
    let elsewhere = parsed("-a :9 -s x --receivers-on :10").unwrap();
    assert_eq!(elsewhere.receivers_on, Some(([127, 0, 0, 1], 10).into()));
    let through = parsed("-a relay.example.com:443 --connect-to :10 -s x").unwrap();
    assert_eq!(through.target.address(), ([127, 0, 0, 1], 10).into());
    assert!(format!("{through:?}").contains("relay.example.com:443"));
    command().debug_assert();
}

#[test]
fn address_is_taken_apart() {
    let parse = |text| parse_address("address", text).map_err(|error| error.to_string());
    let pair = |host: &str, route: &str| Ok((host.to_owned(), route.to_owned()));
    assert_eq!(parse("relay:80"), pair("relay:80", "/relay"));
    assert_eq!(parse(":80"), pair("127.0.0.1:80", "/relay"));
    assert_eq!(parse("[::1]:80"), pair("[::1]:80", "/relay"));
    assert_eq!(parse("ws://relay"), pair("relay:80", "/relay"));
    assert_eq!(parse("ws://relay:81/a/b?c"), pair("relay:81", "/a/b?c"));
    assert_eq!(parse("ws://[::1]/x"), pair("[::1]:80", "/x"));
    for bad in [
        "relay",
        "::1",
        "wss://relay/",
        "http://relay/",
        "relay:99999",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn only_schemes_with_tls_are_told_to_take_tls() {
    for (scheme, tls) in [
        ("wss", true),
        ("rels", true),
        ("https", true),
        ("rel", false),
        ("http", false),
    ] {
        let text = refusal(&format!("-s x -a {scheme}://h:1"));
        assert!(text.contains("--address h:1"), "{text}");
        assert_eq!(text.contains("--tls"), tls, "{text}");
    }
}

#[test]
fn public_target_needs_the_flag() {
    let text = refusal("-a 192.0.2.1:443 -s x");
    assert!(text.contains("--i-own-this-relay"), "{text}");
    assert!(parsed("-a 192.0.2.1:443 -s x --i-own-this-relay").is_ok());
    for ours in [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "127.9.9.9",
        "169.254.1.1",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "fe80::1",
        "::ffff:10.0.0.1",
    ] {
        assert!(is_ours(ours.parse().unwrap()), "{ours}");
    }
    for public in [
        "1.1.1.1",
        "172.32.0.1",
        "100.128.0.1",
        "2001:db8::1",
        "::ffff:1.1.1.1",
    ] {
        assert!(!is_ours(public.parse().unwrap()), "{public}");
    }
}

#[test]
fn mistakes_name_their_option() {
    for (arguments, name) in [
        ("--size 15", "--size"),
        ("--size 8783", "--size"),
        ("--pairs 0", "--pairs"),
        ("--pairs 100000000", "--pairs must be 1 to 1000000"),
        ("--batch 100000 --window 100000", "16 MiB"),
        ("--pairs 100000 --batch 100", "1 GiB"),
        ("--window 100000000", "--window must be"),
        ("--pid 1 --pid 2 --pid 1", "--pid"),
        ("--batch 0", "--batch"),
        ("idle --peers 0", "--peers"),
        ("--concurrency 0", "--concurrency"),
        ("--window 7 --batch 8", "--window"),
        ("paced --rate 0", "--rate"),
        ("paced --rate NaN", "--rate"),
        ("fair --receive-rate 0", "--receive-rate"),
        ("--rate 5", "only on paced"),
        ("churn --pairs 3", "--pairs has no effect on the churn load"),
        ("idle --handshakes", "only on fair"),
        ("--connect-to 1.1.1.1:443", "--i-own-this-relay"),
        ("--connect-to nonsense", "--connect-to must be host:port"),
        (
            "--connect-to ws://127.0.0.1:1",
            "--connect-to must be host:port",
        ),
        (
            "--receivers-on 127.0.0.1:1/x",
            "--receivers-on must be host:port",
        ),
        (
            "--quic --insecure -a 127.0.0.1:9/x",
            "a path has no effect with --quic",
        ),
        ("--tls --ca-file=", "--ca-file is empty"),
        ("-r -5", "only on paced"),
        ("paced -r -5", "--rate must be"),
        ("--duration 0", "--duration"),
        ("--source-addresses 255", "--source-addresses"),
        ("--quic --insecure --size 1340", "--size"),
        ("stall --quic --insecure", "leave out --quic"),
        ("storm --quic --insecure", "leave out --quic"),
        ("--insecure", "--tls"),
        ("--ca-file /x", "--tls"),
        ("--tls --ca-file /x", "--ca-file: "),
        ("--source-addresses 2 -a 10.0.0.1:9", "--source-addresses"),
        ("--source-addresses 2 -a [::1]:9", "--source-addresses"),
    ] {
        let address = if arguments.contains("-a ") {
            ""
        } else {
            "-a 127.0.0.1:9"
        };
        let text = refusal(&format!("{arguments} {address} -s x"));
        assert!(text.contains(name), "{arguments}: {text}");
    }
    let both = refusal("paced -a :9 -s x --size 1 --rate 0");
    assert!(both.contains("--size") && both.contains("--rate"), "{both}");
    assert!(refusal("-a :9").contains("--secret-file"));
    assert!(refusal("-a :9 --secret-file /nowhere/at/all").contains("/nowhere/at/all"));
}

#[test]
fn seconds_may_be_broken_and_carry_their_unit() {
    assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
    assert_eq!(parse_seconds("3s"), Ok(Duration::from_secs(3)));
    for bad in ["-1", "soon", "", "inf", "nan", "1e300", "604801"] {
        let text = parse_seconds(bad).unwrap_err();
        assert!(text.contains("2.5 or 10s"), "{bad}: {text}");
    }
}

#[test]
fn numbers_below_0_are_mistakes_of_the_option_that_has_them() {
    for (words, option) in [
        (["-d", "-1"], "--duration"),
        (["-p", "-1"], "--pairs"),
        (["--warmup", "-1"], "--warmup"),
    ] {
        let line = ["load", "-a", ":9", "-s", "x"].into_iter().chain(words);
        let error = command().try_get_matches_from(line).unwrap_err();
        assert!(error.to_string().contains(option), "{error}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let found = parsed("-a :9 -s verysecretword").unwrap();
    assert!(!format!("{found:?}").contains("verysecretword"));
}
