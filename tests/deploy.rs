//! What is in `deploy/`, with the real tools: the chart with helm and Kubernetes' schemas, the image built and started with buildah, the
//! unit with systemd's own judgement, the package and the Compose file with the programs that read them.
//!
//! What a tool is missing for is skipped, by name; `.ci/run` installs them all but cargo-deb.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use support::{RawClient, UPGRADE_REQUEST, request};
use tokio::time::{sleep, timeout};

const PROGRAM: &str = env!("CARGO_BIN_EXE_trunkline");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files that the tests of this name leave behind, below cargo's directory.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _absent = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Whether all these programs are there; else says which test is skipped for want of which.
fn have(test: &str, programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| !std::env::split_paths(&path).any(|dir| dir.join(program).exists()))
        .collect();
    if !missing.is_empty() {
        println!("skipped: {test}: not installed: {missing:?}");
    }
    missing.is_empty()
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Runs it to its end and returns what it printed.
#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    text(&output)
}

/// The release that `deploy/build-static` built, if it did.
fn static_binary(test: &str) -> Option<PathBuf> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let binary = root().join(format!("target/{host}/release/trunkline"));
    if !binary.exists() {
        println!("skipped: {test}: deploy/build-static has not been run");
        return None;
    }
    Some(binary)
}

/// A relay that was started in some way or other; ended with the test.
struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        // With all that was started to run it in a container.
        let group = format!("-{}", self.0.id());
        let _ended = Command::new("kill")
            .args(["-s", "KILL", "--", &group])
            .status();
        let _reaped = self.0.wait();
    }
}

/// Starts it with the variables of a container, and sees that health, metrics and peers are answered.
async fn serves(mut command: Command) -> Relay {
    let mut relay = Relay(
        command
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap(),
    );
    let stderr = BufReader::new(relay.0.stderr.take().unwrap());
    let mut said = Vec::new();
    let up = stderr.lines().map_while(Result::ok).find_map(|line| {
        said.push(line.clone());
        let line: serde_json::Value = serde_json::from_str(&line).ok()?;
        (line["message"] == "relay is up" || line["fields"]["message"] == "relay is up")
            .then_some(line)
    });
    let up = up.unwrap_or_else(|| panic!("it did not start: {said:?}"));
    let at = |name: &str| -> SocketAddr {
        let address: SocketAddr = up[name].as_str().unwrap().parse().unwrap();
        SocketAddr::new("127.0.0.1".parse().unwrap(), address.port())
    };
    let get = |path| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    // It is up a moment before it is ready.
    let ready = async {
        loop {
            let ready = request(at("health"), get("/readyz")).await.unwrap();
            if (ready.status, ready.text()) != (503, "starting\n") {
                return ready;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let ready = timeout(Duration::from_secs(60), ready).await.unwrap();
    assert_eq!((ready.status, ready.text()), (200, "ready\n"));
    let metrics = request(at("metrics"), get("/metrics")).await.unwrap();
    assert!(metrics.text().contains("relay_build_info"));
    let mut peer = RawClient::tcp(at("listen")).await;
    peer.write(UPGRADE_REQUEST.as_bytes()).await;
    peer.expect_upgrade().await;
    relay
}

/// The settings of a container that listens on free ports.
const VARIABLES: [&str; 6] = [
    "OZ_LISTEN_ADDRESS=:0",
    "NB_EXPOSED_ADDRESS=rel://relay.example.com:80",
    "OZ_AUTH_SECRET=secret",
    "TRUNKLINE_METRICS_PORT=0",
    "TRUNKLINE_HEALTH_LISTEN_ADDRESS=:0",
    "TRUNKLINE_LOG_FORMAT=json",
];

#[test]
fn the_chart_renders_to_what_kubernetes_takes() {
    let test = "the_chart_renders_to_what_kubernetes_takes";
    let python = root().join("target/deploy-venv/bin/python");
    if !have(test, &["helm"]) {
        return;
    }
    if !python.exists() {
        println!("skipped: {test}: no target/deploy-venv with kubernetes-validate");
        return;
    }
    let script = root().join("tests/deploy/chart.py");
    succeeds(Command::new(python).arg(script).arg(PROGRAM));
}

#[tokio::test]
async fn the_image_starts() {
    let test = "the_image_starts";
    if !have(test, &["buildah", "strip"]) || !rustix::process::geteuid().is_root() {
        println!("skipped: {test}: needs buildah, strip and root");
        return;
    }
    let Some(binary) = static_binary(test) else {
        return;
    };
    let dir = scratch("image");
    // What the stage `build` leaves behind, without the toolchain's image that it begins with.
    let layout = root().join("deploy/image-root");
    succeeds(Command::new(layout).arg(&binary).arg(dir.join("image")));
    let dockerfile = fs::read_to_string(root().join("deploy/Dockerfile")).unwrap();
    let last = dockerfile.find("FROM scratch\n").unwrap();
    fs::write(dir.join("Dockerfile"), &dockerfile[last..]).unwrap();
    let buildah = |args: &[&str]| {
        let mut command = Command::new("buildah");
        command
            .args(["--storage-driver", "vfs", "--root"])
            .arg(dir.join("root"))
            .arg("--runroot")
            .arg(dir.join("run"))
            .args(args)
            .current_dir(&dir);
        command
    };
    let context = format!("build={}", dir.display());
    succeeds(&mut buildah(&[
        "bud",
        "--isolation",
        "chroot",
        "--build-context",
        &context,
        "-t",
        "trunkline-test",
        ".",
    ]));
    succeeds(&mut buildah(&["from", "--name", "relay", "trunkline-test"]));
    let format = "{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}";
    let config = succeeds(&mut buildah(&["inspect", "--format", format, "relay"]));
    assert_eq!(config.trim(), "65532:65532 [/trunkline]");
    let mut run = buildah(&["run", "--isolation", "chroot"]);
    for variable in VARIABLES {
        run.args(["--env", variable]);
    }
    run.args(["relay", "--", "/trunkline"]);
    let relay = serves(run).await;
    drop(relay);
    succeeds(&mut buildah(&["rm", "relay"]));
}

#[tokio::test]
async fn the_static_binary_needs_nothing_around_it() {
    let test = "the_static_binary_needs_nothing_around_it";
    if !have(test, &["chroot"]) || !rustix::process::geteuid().is_root() {
        println!("skipped: {test}: needs root");
        return;
    }
    let Some(binary) = static_binary(test) else {
        return;
    };
    let dir = scratch("empty");
    fs::copy(binary, dir.join("trunkline")).unwrap();
    let mut command = Command::new("chroot");
    command
        .args(["--userspec=65532:65532"])
        .arg(&dir)
        .arg("/trunkline")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(
            VARIABLES
                .iter()
                .map(|variable| variable.split_once('=').unwrap()),
        );
    drop(serves(command).await);
}

#[test]
fn the_unit_is_hardened_and_right() {
    let test = "the_unit_is_hardened_and_right";
    if !have(test, &["systemd-analyze"]) {
        return;
    }
    let dir = scratch("systemd");
    let unit = root().join("deploy/systemd/trunkline.service");
    // At most 2.0 of 10.
    succeeds(
        Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--threshold=20"])
            .arg(&unit),
    );
    // With a program where the package would put it.
    let installed = fs::read_to_string(&unit)
        .unwrap()
        .replace("/usr/bin/trunkline", PROGRAM);
    fs::write(dir.join("trunkline.service"), installed).unwrap();
    fs::copy(
        root().join("deploy/systemd/trunkline.socket"),
        dir.join("trunkline.socket"),
    )
    .unwrap();
    let said = succeeds(
        Command::new("systemd-analyze")
            .args([
                "verify",
                "--man=no",
                "trunkline.service",
                "trunkline.socket",
            ])
            .current_dir(&dir),
    );
    assert!(!said.contains("trunkline"), "{said}");
}

#[test]
fn the_environment_file_names_flags() {
    let file = fs::read_to_string(root().join("deploy/systemd/trunkline.env")).unwrap();
    let help = succeeds(Command::new(PROGRAM).arg("--help").env_clear());
    let mut named = 0;
    for line in file.lines().filter(|line| line.contains('=')) {
        let name = line.trim_start_matches('#').split('=').next().unwrap();
        if let Some(flag) = name.strip_prefix("TRUNKLINE_") {
            let flag = format!("--{}", flag.to_lowercase().replace('_', "-"));
            assert!(help.contains(&flag), "{name}");
            named += 1;
        }
    }
    assert!(named > 5);
}

#[test]
fn the_package_has_what_it_should() {
    let test = "the_package_has_what_it_should";
    let cargo = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let installed = cargo.is_some_and(|home| home.join("bin/cargo-deb").exists());
    if !installed || !have(test, &["dpkg-deb"]) {
        println!("skipped: {test}: needs cargo-deb and dpkg-deb");
        return;
    }
    if static_binary(test).is_none() {
        return;
    }
    let package = scratch("package").join("trunkline.deb");
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    succeeds(
        Command::new("cargo")
            .args(["deb", "--fast", "--no-build", "--target", &host, "--output"])
            .arg(&package)
            .current_dir(root()),
    );
    let contents = succeeds(Command::new("dpkg-deb").arg("--contents").arg(&package));
    for file in [
        "-rwxr-xr-x .* ./usr/bin/trunkline",
        "-rw-r--r-- .* ./usr/lib/systemd/system/trunkline.service",
        "-rw-r--r-- .* ./usr/lib/systemd/system/trunkline.socket",
        "-rw-r--r-- .* ./usr/lib/sysusers.d/trunkline.conf",
        "-rw-r--r-- .* ./etc/trunkline/trunkline.env",
        "-rw-r--r-- .* ./usr/share/doc/trunkline/README.md",
        "-rw-r--r-- .* ./usr/share/doc/trunkline/docs/troubleshooting.md",
        "-rw-r--r-- .* ./usr/share/doc/trunkline/docs/runbooks/TrunklinePodDown.md",
        "-rw-r--r-- .* ./usr/share/doc/trunkline/deploy/proxies/nginx.conf",
    ] {
        let (mode, path) = file.split_once(" .* ").unwrap();
        let found = contents.lines().find(|line| line.ends_with(path));
        assert!(
            found.is_some_and(|line| line.starts_with(mode)),
            "{file}: {contents}"
        );
    }
    let field = |name| {
        succeeds(
            Command::new("dpkg-deb")
                .arg("--field")
                .arg(&package)
                .arg(name),
        )
    };
    assert_eq!(field("Package").trim(), "trunkline");
    assert_eq!(
        field("Depends").trim(),
        "systemd",
        "a static program needs no library"
    );
    let control = scratch("package-control");
    succeeds(
        Command::new("dpkg-deb")
            .arg("--control")
            .arg(&package)
            .arg(&control),
    );
    let kept = fs::read_to_string(control.join("conffiles")).unwrap();
    assert_eq!(kept.trim(), "/etc/trunkline/trunkline.env");
}

#[test]
fn compose_and_its_front_are_right() {
    let test = "compose_and_its_front_are_right";
    let dir = scratch("compose");
    for file in ["compose.yaml", "haproxy.cfg"] {
        fs::copy(root().join("deploy/compose").join(file), dir.join(file)).unwrap();
    }
    for secret in ["relay-auth.secret", "relay-cluster.secret"] {
        fs::write(dir.join(secret), "x\n").unwrap();
    }
    if have(test, &["haproxy"]) {
        succeeds(
            Command::new("haproxy")
                .args(["-c", "-f", "haproxy.cfg"])
                .current_dir(&dir),
        );
    }
    if have(test, &["docker-compose"]) {
        let config = succeeds(
            Command::new("docker-compose")
                .args(["-f", "compose.yaml", "config"])
                .current_dir(&dir),
        );
        let help = succeeds(Command::new(PROGRAM).arg("--help").env_clear());
        for pod in 1..=3 {
            assert!(config.contains(&format!("relay-{pod}:")), "{config}");
            assert!(
                config.contains(&format!("POD_IP: 10.89.70.1{pod}")),
                "{config}"
            );
        }
        for line in config
            .lines()
            .filter_map(|line| line.trim().strip_prefix("TRUNKLINE_"))
        {
            let name = line.split(':').next().unwrap();
            let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
            assert!(help.contains(&flag), "TRUNKLINE_{name}");
        }
    }
}
