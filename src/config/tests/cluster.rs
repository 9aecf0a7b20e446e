//! What makes a relay one of several pods.

use super::*;
use crate::cluster::discovery::Source;

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
