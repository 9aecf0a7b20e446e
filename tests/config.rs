//! Black box: the real binary with wrong and right configurations. What is printed where, and the exit code.
//!
//! What each wrong value is told is tested beside the code; here it is that the process does what the texts say.

mod support;

use std::{
    fs,
    process::{Child, Command, Output, Stdio},
};

use support::{Pair, fresh_dir, until};

/// The binary with an empty environment, so that nobody's variables get in.
fn trunkline(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = trunkline(args);
    command.envs(env.iter().copied());
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the binary prints UTF-8")
}

/// A relay that is killed when the test ends, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn all_mistakes_are_on_stderr_and_the_exit_code_is_2() {
    let output = run(
        &[
            "--listen-address",
            "nonsense",
            "--bogus",
            "--exposed-address=relay.example.com",
        ],
        &[
            ("OZ_METRICS_PORT", "http"),
            ("NB_CLUSTER_HEADLESS", "relay"),
            ("OZ_LOG_LEVEL", ""),
        ],
    );
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stdout), "");
    assert_eq!(
        text(&output.stderr),
        "--bogus: there is no such flag; see --help for what there is\n\
         --listen-address: \"nonsense\" is not an address to listen on; give :port for all addresses, or host:port, \
         ip:port, [ipv6]:port\n\
         OZ_METRICS_PORT: \"http\" is not a port; give a number from 0 to 65535 (0: any free port)\n\
         --auth-secret: is required; give it, or set one of TRUNKLINE_AUTH_SECRET, OZ_AUTH_SECRET, NB_AUTH_SECRET, \
         or a file with --auth-secret-file\n\
         --pod-ip: is required with NB_CLUSTER_HEADLESS; give the address by which other pods reach this one, or set \
         one of TRUNKLINE_POD_IP, OZ_POD_IP, NB_POD_IP, POD_IP\n"
    );
}

#[test]
fn help_and_version_are_on_stdout_and_the_exit_code_is_0() {
    for (args, first) in [
        (
            ["--version"],
            format!("trunkline {}\n", env!("CARGO_PKG_VERSION")),
        ),
        (["-V"], format!("trunkline {}\n", env!("CARGO_PKG_VERSION"))),
        (["--help"], "A relay for WireGuard mesh peers".to_owned()),
        (["-h"], "A relay for WireGuard mesh peers".to_owned()),
    ] {
        let output = run(&args, &[("OZ_METRICS_PORT", "http")]);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(text(&output.stdout).starts_with(&first), "{args:?}");
        assert_eq!(text(&output.stderr), "", "{args:?}");
    }
}

#[test]
fn a_log_file_that_cannot_be_opened_is_a_mistake() {
    let dir = fresh_dir("config-unwritable");
    // A link that leads nowhere: seen only when the file is opened, and refused to root as well.
    let link = dir.join("relay.log");
    std::os::unix::fs::symlink(dir.join("missing/target"), &link).expect("a link can be made");
    let file = link.to_str().expect("cargo's directory is UTF-8");
    let output = run(
        &[
            "-e=relay.example.com",
            "-s=secret",
            "-l=127.0.0.1:0",
            "-H=127.0.0.1:0",
            "--metrics-port=0",
            "--log-file",
            file,
        ],
        &[],
    );
    assert_eq!(output.status.code(), Some(2));
    let expected = format!(
        "--log-file: {file} cannot be opened for writing: No such file or directory (os error 2)\n"
    );
    let stderr = text(&output.stderr);
    assert!(stderr.ends_with(&expected), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn a_secret_is_never_printed() {
    let output = run(
        &["-s=hunter2", "--log-level=loud"],
        &[("OZ_CLUSTER_HEADLESS", "relay")],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(!text(&output.stderr).contains("hunter2"));
}

#[tokio::test]
async fn a_log_file_holds_one_json_object_a_line() {
    let dir = fresh_dir("config-json-log");
    let secrets = dir.join("secrets");
    fs::write(&secrets, "hunter2\nhunter1\n").expect("cargo's directory can be written");
    let log = dir.join("relay.log");
    // Everything from the environment, as a Helm release gives it.
    let child = trunkline(&[])
        .env("OZ_EXPOSED_ADDRESS", "rels://relay.example.com:443")
        .env("OZ_AUTH_SECRET_FILE", &secrets)
        .env("OZ_LISTEN_ADDRESS", "127.0.0.1:0")
        .env("OZ_HEALTH_LISTEN_ADDRESS", "127.0.0.1:0")
        .env("OZ_METRICS_PORT", "0")
        .env("OZ_ENABLE_STUN", "false")
        .env("OZ_LOG_FORMAT", "json")
        .env("OZ_LOG_FILE", &log)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let _running = Running(child);
    // Another process writes it: there is nothing to wait on but the file.
    let mut lines = String::new();
    until("there is a line", || {
        lines = fs::read_to_string(&log).unwrap_or_default();
        lines.ends_with('\n')
    })
    .await;
    assert!(!lines.contains("hunter"));
    for line in lines.lines() {
        let object: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        for member in ["timestamp", "level", "target", "message"] {
            assert!(object[member].is_string(), "{member}: {line}");
        }
        let nested = |value: &serde_json::Value| value.is_object() || value.is_array();
        let members = object.as_object().expect("a line is an object");
        assert!(!members.values().any(nested), "{line}");
    }
}

/// What a relay with these arguments says until it is up, as objects; a shell says `first` before.
#[cfg(unix)]
fn start(first: &str, args: &str) -> Vec<serde_json::Value> {
    use std::io::{BufRead as _, BufReader};
    let mut command = Command::new("sh");
    command
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command.arg("-c").arg(format!(
        "{first} && exec \"$0\" -l 127.0.0.1:0 -H 127.0.0.1:0 --metrics-port 0 -s s --log-format json {args}"
    ));
    command.arg(env!("CARGO_BIN_EXE_trunkline"));
    let mut running = Running(command.spawn().expect("a shell"));
    let stderr = running.0.stderr.take().expect("it is piped");
    let mut lines = Vec::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        lines.push(serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}")));
        if line.contains("relay is up") {
            return lines;
        }
    }
    panic!("the relay does not start: {lines:?}");
}

/// What of that are warnings.
#[cfg(unix)]
fn warnings(lines: &[serde_json::Value]) -> Vec<&str> {
    let warnings = lines.iter().filter(|line| line["level"] == "WARN");
    warnings
        .filter_map(|line| line["message"].as_str())
        .collect()
}

#[cfg(unix)]
#[test]
fn it_opens_as_many_files_as_the_hard_limit_allows() {
    let lines = start("ulimit -Sn 64", "-e rel://x");
    let line = lines.last().expect("the last one");
    assert!(line["open_files"].as_u64() > Some(64), "{line}");
}

#[cfg(unix)]
#[test]
fn few_open_files_leave_room_for_the_relays_own() {
    let lines = start("ulimit -n 64", "-e rel://x");
    let line = lines.last().expect("the last one");
    assert_eq!(line["max_connections"], 32, "{line}");
    assert!(warnings(&lines).is_empty(), "{lines:?}");
    let lines = start("ulimit -n 64", "-e rel://x --max-connections 60");
    let warnings = warnings(&lines);
    assert!(
        warnings[0].starts_with("--max-connections 60 is more than 64 open files carry"),
        "{warnings:?}"
    );
}

#[cfg(unix)]
#[test]
fn a_certificate_for_another_host_than_the_exposed_one_is_told() {
    let pair = Pair::write(&fresh_dir("certificate-host"), ["relay.example.com"]);
    let tls = format!(
        "--quic=false -c '{}' -k '{}'",
        pair.files.certificate.display(),
        pair.files.key.display()
    );
    let lines = start("true", &format!("{tls} -e rels://relay.example.com:443"));
    assert!(warnings(&lines).is_empty(), "{lines:?}");
    let lines = start("true", &format!("{tls} -e rels://other.example.com"));
    let warnings = warnings(&lines);
    assert!(
        matches!(warnings[..], [one] if one.contains("not for other.example.com")),
        "{warnings:?}"
    );
}
