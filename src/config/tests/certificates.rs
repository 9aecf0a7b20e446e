//! Where a listener's certificate comes from.

use super::*;
use crate::tls::Challenge;

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
