//! TLS-ALPN-01: obtained, kept, renewed; and what happens when that does not work.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rcgen::generate_simple_self_signed;
use rustls::RootCertStore;
use trunkline::client::Event;

use crate::authority::{Authority, BLOCKED, Wanted};
use crate::program::{Program, Start, place};
use crate::support::{free_address, until};

const DAY: u64 = 24 * 3600;

/// An authority that comes to the relay's port.
async fn authority(test: &str, dir: &Path, port: u16, lifetime: u64) -> Option<Authority> {
    let wanted = Wanted {
        lifetime,
        challenge_port: port,
    };
    Authority::start(test, dir, wanted).await
}

/// The permissions of everything below a directory, with file names.
fn permissions(dir: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        found.push((entry.file_name().into_string().unwrap(), mode));
        if entry.path().is_dir() {
            found.extend(permissions(&entry.path()));
        }
    }
    found.sort();
    found
}

async fn exchange(program: &Program, domain: &str, roots: &RootCertStore) {
    let left = program.peer("left", domain, roots).await;
    let mut right = program.peer("right", domain, roots).await;
    left.sender().send(right.peer(), b"hello").await.unwrap();
    let Event::Message { payload, .. } = right.recv().await else {
        panic!("no message");
    };
    assert_eq!(&payload[..], b"hello");
}

#[tokio::test]
async fn a_certificate_is_obtained_kept_for_nobody_else_and_found_by_a_restart() {
    let test = "obtained";
    let (dir, port) = place(test);
    let Some(mut authority) = authority(test, &dir, port, 90 * DAY).await else {
        return;
    };
    let start = Start::with(
        &dir,
        &authority,
        port,
        "relay.example.com,other.example.com",
    );
    let program = start.start().await;
    let line = program
        .says("certificate obtained by ACME, in use now")
        .await;
    // In the authority's order.
    let names = line["certificate.names"].as_str().unwrap();
    let mut names: Vec<&str> = names.split(", ").collect();
    names.sort_unstable();
    assert_eq!(names, ["other.example.com", "relay.example.com"]);
    let roots = authority.issuer().await;
    exchange(&program, "relay.example.com", &roots).await;
    let first = program.certificate("other.example.com", &roots).await;
    // Health, metrics and log tell the same.
    let (status, health) = program.health("/health").await;
    assert_eq!(status, 200, "{health}");
    assert!(health.contains(r#""certificate_valid":true"#), "{health}");
    program.until_orders("ok", 1).await;
    let metrics = program.metrics().await;
    let expires = metrics.sum("relay_tls_certificate_expiry_timestamp_seconds", &[]);
    let expires = humantime::format_rfc3339_seconds(
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(expires),
    );
    assert_eq!(line["certificate.expires"], expires.to_string());
    let told = format!(r#""certificate_expires":"{expires}""#);
    assert!(health.contains(&told), "{health}");
    assert!(!program.log_text().contains("PRIVATE KEY"));
    // Challenges were shown, which is told once in ten seconds, and none is any more.
    assert!(!program.logged("ACME challenge answered").is_empty());
    let asked = program.handshake("relay.example.com", &roots, b"acme-tls/1");
    assert!(asked.await.is_err());

    let mut modes = permissions(&start.data_dir());
    let (authority_dir, mode) = modes.remove(2);
    assert!(authority_dir.starts_with("localhost-"), "{authority_dir}");
    assert_eq!(mode, 0o700);
    let expected = [("account.json", 0o600), ("certificate.pem", 0o600)];
    assert_eq!(modes, expected.map(|(name, mode)| (name.to_owned(), mode)));

    // An authority that is down, and a volume that was mounted for a group, are no hindrance.
    drop(program);
    authority.down();
    let kept = start
        .data_dir()
        .join(&authority_dir)
        .join("certificate.pem");
    std::fs::set_permissions(&kept, std::fs::Permissions::from_mode(0o660)).unwrap();
    let program = start.start().await;
    assert_eq!(
        program.certificate("relay.example.com", &roots).await,
        first
    );
    assert!(
        program
            .logged("certificate obtained by ACME, in use now")
            .is_empty()
    );
    assert_eq!(
        program
            .logged("certificate from the ACME directory, in use now")
            .len(),
        1
    );
    let mode = std::fs::metadata(&kept).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // What is kept is damaged, and the authority has forgotten us: both begin anew.
    drop(program);
    std::fs::write(&kept, "damaged").unwrap();
    assert!(authority.up().await);
    let program = start.start().await;
    program
        .says("certificate obtained by ACME, in use now")
        .await;
    let roots = authority.issuer().await;
    assert_ne!(
        program.certificate("relay.example.com", &roots).await,
        first
    );
}

#[tokio::test]
async fn a_certificate_is_renewed_in_time_and_nobody_is_dropped() {
    let test = "renewed";
    let (dir, port) = place(test);
    let Some(authority) = authority(test, &dir, port, 10).await else {
        return;
    };
    let program = Start::with(&dir, &authority, port, "relay.example.com")
        .start()
        .await;
    program
        .says("certificate obtained by ACME, in use now")
        .await;
    let roots = authority.issuer().await;
    let left = program.peer("left", "relay.example.com", &roots).await;
    let mut right = program.peer("right", "relay.example.com", &roots).await;
    let first = program.certificate("relay.example.com", &roots).await;
    program.until_orders("ok", 2).await;
    // It was still valid: the new one came before its time was over, and peers connect all the while.
    let second = program.certificate("relay.example.com", &roots).await;
    assert_ne!(first, second);
    left.sender().send(right.peer(), b"hello").await.unwrap();
    assert!(matches!(right.recv().await, Event::Message { .. }));
    assert_eq!(program.health("/health").await.0, 200);
    let obtained = program.logged("certificate obtained by ACME, in use now");
    let time = |text: &serde_json::Value| humantime::parse_rfc3339_weak(text.as_str().unwrap());
    let expired = time(&obtained[0]["certificate.expires"]).unwrap();
    let renewed = time(&obtained[1]["timestamp"]).unwrap();
    assert!(renewed < expired, "{obtained:?}");
}

#[tokio::test]
async fn an_authority_that_is_down_or_not_trusted_keeps_nothing_from_starting() {
    let test = "down";
    let (dir, port) = place(test);
    let Some(mut authority) = authority(test, &dir, port, 90 * DAY).await else {
        return;
    };
    authority.down();
    let stranger = generate_simple_self_signed(["stranger".to_owned()]).unwrap();
    let ca_file = dir.join("trusted.pem");
    std::fs::write(&ca_file, stranger.cert.pem()).unwrap();
    let mut start = Start::with(&dir, &authority, port, "relay.example.com");
    start.ca_file.clone_from(&ca_file);
    let program = start.start().await;
    program.until_orders("unreachable", 1).await;
    let line = program.says("no certificate by ACME").await;
    assert_eq!(line["error.type"], "unreachable");
    assert!(
        line["error"].as_str().unwrap().contains("refused"),
        "{line}"
    );
    assert!(line["next_attempt_in"].is_string());
    // Peers cannot come, and whoever probes is told; but the program is there for the authority to come to.
    assert_eq!(program.health("/readyz").await.0, 200);
    let (status, health) = program.health("/health").await;
    assert_eq!(status, 503);
    assert!(health.contains(r#""certificate_valid":false"#), "{health}");

    // It is up, but somebody else could be: the file does not vouch for it.
    assert!(authority.up().await);
    program.signal("HUP");
    until("the other failure is logged", || {
        program.logged("no certificate by ACME").len() == 2
    })
    .await;
    let line = &program.logged("no certificate by ACME")[1];
    assert!(
        line["error"]
            .as_str()
            .unwrap()
            .contains("invalid peer certificate"),
        "{line}"
    );
    // The same failure again is counted, and only mentioned.
    let before = program.orders("unreachable").await;
    program.signal("HUP");
    program.until_orders("unreachable", before + 1).await;
    program
        .says("still no certificate by ACME, for the same reason")
        .await;
    assert_eq!(program.logged("no certificate by ACME").len(), 2);

    std::fs::copy(authority.ca_file(), &ca_file).unwrap();
    program.signal("HUP");
    program.until_orders("ok", 1).await;
    let roots = authority.issuer().await;
    exchange(&program, "relay.example.com", &roots).await;
    assert_eq!(program.health("/health").await.0, 200);
}

#[tokio::test]
async fn an_authority_that_is_not_convinced_says_of_which_domain() {
    let test = "refused";
    let (dir, port) = place(test);
    // It comes to a port where nobody is.
    let Some(authority) = authority(test, &dir, free_address().port(), 90 * DAY).await else {
        return;
    };
    let start = Start::with(&dir, &authority, port, "relay.example.com");
    let program = start.start().await;
    program.until_orders("challenge_failed", 1).await;
    let line = program.says("no certificate by ACME").await;
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("relay.example.com"), "{line}");
    assert!(error.contains("Failed to connect"), "{line}");
    // It counts such attempts, so the next one is not soon.
    let wait = humantime::parse_duration(line["next_attempt_in"].as_str().unwrap());
    assert!(wait.unwrap().as_secs() > 60, "{line}");
    drop(program);

    let start = Start::with(&dir, &authority, port, BLOCKED);
    let program = start.start().await;
    program.until_orders("refused", 1).await;
    let line = program.says("no certificate by ACME").await;
    assert!(line["error"].as_str().unwrap().contains(BLOCKED), "{line}");
}

#[test]
fn a_directory_that_cannot_be_written_to_is_a_mistake() {
    let (dir, _) = place("unwritable");
    let file = dir.join("file");
    std::fs::write(&file, "").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .env_clear()
        .args(["-l", "127.0.0.1:0", "-H", "127.0.0.1:0", "--metrics-port=0"])
        .args([
            "-e",
            "rels://relay.example.com",
            "-s",
            "s",
            "-a",
            "a.example",
        ])
        .arg("-d")
        .arg(file.join("data"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("file/data"), "{text}");
}
