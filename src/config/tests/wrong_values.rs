//! Each wrong value, and the line it gets.

use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};

use super::*;

/// What is given, and the whole line that is expected.
#[test]
fn each_mistake_says_where_what_and_what_instead() {
    let address = "give :port for all addresses, or host:port, ip:port, [ipv6]:port";
    let port = "give a number from 0 to 65535 (0: any free port)";
    let path = "give a path such as /relay: it starts with /, and has no query, no white space and none of {}*";
    let queue = "give a size from 64KiB to 1GiB, such as 64000000, 64MB or 64MiB";
    let pod_queue = "give a size from 1MiB to 1GiB, such as 64000000, 64MB or 64MiB";
    let pod_port = "give a whole number from 1 to 65535";
    let pod_ip = "give one IP address without a port, such as 10.0.0.1 or 2001:db8::1";
    let headless = "give the Service's name alone, such as relay or relay.mesh.svc.cluster.local; the port is that of --cluster-port";
    let pods = "give the pods with commas between them, such as 10.0.0.1:7090,[2001:db8::1]:7090,relay-b.example.com:7090";
    let memory = "give a size from 16MiB to 1024GiB, such as 64000000, 64MB or 64MiB";
    let age = "give a duration from 1ms to 1m, such as 1s or 500ms";
    let limit = "give a whole number from 0 to 16777216";
    let count = "give a whole number from 1 to 16777216";
    let exposed = "give rels://host:port, rel://host:port or host:port";
    let file = "give console, syslog, or the path of a file in a directory that exists";
    for (flag, value, problem, remedy) in [
        (
            "listen-address",
            "443",
            r#""443" is not an address to listen on"#,
            address,
        ),
        (
            "listen-address",
            "",
            r#""" is not an address to listen on"#,
            address,
        ),
        (
            "listen-address",
            ":65536",
            r#"":65536" is not an address to listen on"#,
            address,
        ),
        (
            "listen-address",
            ":+1",
            r#"":+1" is not an address to listen on"#,
            address,
        ),
        (
            "listen-address",
            "::1:443",
            r#""::1:443" is not an address to listen on"#,
            address,
        ),
        (
            "listen-address",
            "10.0.0:1",
            r#""10.0.0:1" is not an address to listen on"#,
            address,
        ),
        (
            "listen-address",
            "[1.2.3.4]:1",
            r#""[1.2.3.4]:1" is not an address to listen on"#,
            address,
        ),
        (
            "listen-address",
            "a b:1",
            r#""a b:1" is not an address to listen on"#,
            address,
        ),
        (
            "health-listen-address",
            "x\ny",
            r#""x\ny" is not an address to listen on"#,
            address,
        ),
        ("cluster-port", "0", r#""0" does not do"#, pod_port),
        (
            "cluster-headless",
            "relay:7090",
            r#""relay:7090" is not a name"#,
            headless,
        ),
        (
            "cluster-peers",
            "a:1,b",
            r#""b" does not do (neither host:port nor _service._proto.name)"#,
            pods,
        ),
        (
            "cluster-peers",
            "a:0",
            r#""a:0" does not do (port 0 cannot be dialed)"#,
            pods,
        ),
        (
            "cluster-peers",
            "[::]:1",
            r#""[::]:1" does not do (an unspecified address cannot be dialed)"#,
            pods,
        ),
        (
            "pod-ip",
            "10.0.0.1:7090",
            r#""10.0.0.1:7090" is not the address of a pod"#,
            pod_ip,
        ),
        (
            "pod-ip",
            "0.0.0.0",
            r#""0.0.0.0" is not the address of a pod"#,
            pod_ip,
        ),
        (
            "cluster-queue-bytes",
            "512KiB",
            r#""512KiB" does not do"#,
            pod_queue,
        ),
        (
            "drain-delay",
            "11s",
            r#""11s" does not do"#,
            "give a duration from 0s to 10s, such as 1s or 500ms",
        ),
        (
            "drain-window",
            "1m",
            r#""1m" does not do"#,
            "give a duration from 0s to 15s, such as 1s or 500ms",
        ),
        ("metrics-port", "http", r#""http" is not a port"#, port),
        ("metrics-port", "-1", r#""-1" is not a port"#, port),
        ("metrics-port", "70000", r#""70000" is not a port"#, port),
        (
            "relay-path",
            "relay",
            r#""relay" is not a plain path"#,
            path,
        ),
        (
            "relay-path",
            "/relay?x=1",
            r#""/relay?x=1" is not a plain path"#,
            path,
        ),
        (
            "relay-path",
            "/{peer}",
            r#""/{peer}" is not a plain path"#,
            path,
        ),
        ("relay-path", "/*", r#""/*" is not a plain path"#, path),
        ("relay-path", "/a b", r#""/a b" is not a plain path"#, path),
        (
            "proxy-protocol",
            "on",
            r#""on" is not a way to use the PROXY protocol"#,
            "give off, optional or required",
        ),
        ("peer-queue-bytes", "512", r#""512" does not do"#, queue),
        ("peer-queue-bytes", "64QiB", r#""64QiB" does not do"#, queue),
        (
            "peer-queue-bytes",
            "1.5MiB",
            r#""1.5MiB" does not do"#,
            queue,
        ),
        (
            "peer-queue-bytes",
            "99999999999999999999",
            r#""99999999999999999999" does not do"#,
            queue,
        ),
        (
            "memory-limit",
            "18446744073709551615KiB",
            r#""18446744073709551615KiB" does not do"#,
            memory,
        ),
        ("memory-limit", "512", r#""512" does not do"#, memory),
        ("queue-max-age", "1", r#""1" does not do"#, age),
        ("queue-max-age", "0s", r#""0s" does not do"#, age),
        ("queue-max-age", "2h", r#""2h" does not do"#, age),
        ("max-handshakes", "0", r#""0" does not do"#, count),
        ("max-connections", "-1", r#""-1" does not do"#, limit),
        (
            "max-connections-per-address",
            "1k",
            r#""1k" does not do"#,
            limit,
        ),
        (
            "handshake-rate-per-address",
            "1/s",
            r#""1/s" does not do"#,
            "give a whole number from 0 to 1000000",
        ),
        ("max-subscriptions", "many", r#""many" does not do"#, count),
        (
            "health-check-attempt-threshold",
            "0",
            r#""0" does not do"#,
            "give a whole number from 1 to 1000",
        ),
        (
            "log-level",
            "loud",
            r#""loud" is not a log level"#,
            "give trace, debug, info, warn or error",
        ),
        (
            "log-format",
            "xml",
            r#""xml" is not a log format"#,
            "give text, json or syslog",
        ),
        (
            "log-max-size-mb",
            "0",
            r#""0" does not do"#,
            "give a whole number from 1 to 1000000",
        ),
        (
            "log-disable-rotation",
            "maybe",
            r#""maybe" is neither yes nor no"#,
            "give true or false",
        ),
        ("log-file", "/", r#""/" is a directory"#, file),
        (
            "log-file",
            "/no/such/place/relay.log",
            r#"the directory of "/no/such/place/relay.log" does not exist"#,
            file,
        ),
        (
            "exposed-address",
            "http://example.com",
            r#""http://example.com" does not do (exposed address has the scheme "http", only rel and rels are known)"#,
            exposed,
        ),
        (
            "exposed-address",
            "",
            r#""" does not do (exposed address is empty)"#,
            exposed,
        ),
    ] {
        let given = format!("--{flag}={value}");
        assert_eq!(
            mistakes(&[&given], &[]),
            format!("--{flag}: {problem}; {remedy}")
        );
        // The same value from the environment is the same mistake of the variable, unless it is empty: that is unset.
        if !value.is_empty() && flag != "exposed-address" {
            for variable in env::variables(flag) {
                assert_eq!(
                    mistakes(&[], &[(&variable, value)]),
                    format!("{variable}: {problem}; {remedy}")
                );
            }
        }
    }
}

#[test]
fn a_long_wrong_value_is_quoted_in_part() {
    let text = mistakes(&["--log-level", &"é".repeat(5000)], &[]);
    let quoted = format!("--log-level: \"{}\"... is not a log level", "é".repeat(80));
    assert!(text.starts_with(&quoted), "{text}");
}

#[test]
fn what_clap_refuses_is_told_with_all_the_rest() {
    let text = refusal(parse_text(
        &[
            "--bogus",
            "x",
            "--listen-adress=:1",
            "-z",
            "--metrics-port",
            "-5",
            "word",
            "--log-level",
            "loud",
            "--exposed-address",
        ],
        &[
            ("OZ_MAX_HANDSHAKES", "0"),
            ("NB_LETSENCRYPT_DOMAINS", "a.example"),
        ],
    ));
    let expected = "\
--bogus: there is no such flag; see --help for what there is
--listen-adress: there is no such flag; did you mean --listen-address?
-z: there is no such flag; see --help for what there is
word: a word that belongs to no flag; see --help for what there is
--exposed-address: its value is missing; give one after it
--metrics-port: \"-5\" is not a port; give a number from 0 to 65535 (0: any free port)
--auth-secret: is required; give it, or set one of TRUNKLINE_AUTH_SECRET, OZ_AUTH_SECRET, NB_AUTH_SECRET, \
or a file with --auth-secret-file
OZ_MAX_HANDSHAKES: \"0\" does not do; give a whole number from 1 to 16777216
--log-level: \"loud\" is not a log level; give trace, debug, info, warn or error
NB_LETSENCRYPT_DOMAINS: needs --letsencrypt-data-dir, too; give a directory that outlives this process: account and \
certificate are kept there";
    let mut got: Vec<&str> = text.lines().collect();
    let mut expected: Vec<&str> = expected.lines().collect();
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
}

#[test]
fn required_values_are_asked_for() {
    assert_eq!(
        refusal(parse_text(&[], &[])),
        "--exposed-address: is required; give it, or set one of TRUNKLINE_EXPOSED_ADDRESS, OZ_EXPOSED_ADDRESS, \
         NB_EXPOSED_ADDRESS\n\
         --auth-secret: is required; give it, or set one of TRUNKLINE_AUTH_SECRET, OZ_AUTH_SECRET, NB_AUTH_SECRET, \
         or a file with --auth-secret-file"
    );
}

#[test]
fn a_value_that_is_not_text_is_a_mistake() {
    let bytes = |text: &[u8]| OsString::from_vec(text.to_vec());
    let mut args: Vec<OsString> = ENOUGH.iter().map(OsString::from).collect();
    args.push(bytes(b"--relay-path=/\xff"));
    assert_eq!(
        refusal(parse_os(args, &[])),
        "--relay-path: the value is not UTF-8 text; give it in UTF-8"
    );
    let mut args: Vec<OsString> = ENOUGH.iter().map(OsString::from).collect();
    args.push(bytes(b"--b\xff"));
    assert_eq!(refusal(parse_os(args, &[])).lines().count(), 1);
    let parsed = parse(
        ["trunkline", ENOUGH[0]].map(OsString::from),
        |name| (name == "OZ_AUTH_SECRET").then(|| bytes(b"hunter\xff")),
        [],
        load(),
    );
    assert_eq!(
        refusal(parsed),
        "OZ_AUTH_SECRET: the value is not UTF-8 text; give it in UTF-8"
    );
}

#[test]
fn an_unknown_letter_with_its_value_behind_it_hides_nothing() {
    let text = mistakes(&["-phunter2", "--log-level=loud"], &[]);
    assert_eq!(
        text,
        "-p: there is no such flag; see --help for what there is\n\
         --log-level: \"loud\" is not a log level; give trace, debug, info, warn or error"
    );
}
