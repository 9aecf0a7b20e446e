use http::HeaderMap;
use proptest::prelude::*;

use super::super::TrustedProxies;
use super::*;
use crate::transport::RemoteAddr;

/// The proxy that every request of these tests comes from.
const PROXY: &str = "10.0.0.1:5000";

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// What the log would show for a request from `connection` with these headers.
fn from(connection: &str, lines: &[(&'static str, &str)]) -> String {
    let trusted: TrustedProxies = "10.0.0.0/8, fd00::/8".parse().unwrap();
    let connection = RemoteAddr::from(connection.parse::<SocketAddr>().unwrap());
    trusted
        .client_address(connection, &headers(lines))
        .to_string()
}

fn client(lines: &[(&'static str, &str)]) -> String {
    from(PROXY, lines)
}

#[test]
fn nobody_else_is_believed() {
    let lines = [
        ("x-real-ip", "192.0.2.1"),
        ("x-real-port", "4000"),
        ("forwarded", "for=192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1"),
    ];
    assert_eq!(from("198.51.100.1:7", &lines), "198.51.100.1:7");
    assert_eq!(from("[2001:db8::1]:7", &lines), "[2001:db8::1]:7");
    let unknown = RemoteAddr::unknown();
    let all: TrustedProxies = "0.0.0.0/0,::/0".parse().unwrap();
    assert_eq!(all.client_address(unknown, &headers(&lines)), unknown);
    // A dual-stack socket shows an IPv4 proxy as this.
    assert_eq!(from("[::ffff:10.0.0.1]:7", &lines), "192.0.2.1:4000");
}

#[test]
fn real_ip_and_port_belong_together() {
    let real = |ip, port| client(&[("x-real-ip", ip), ("x-real-port", port)]);
    assert_eq!(real("192.0.2.1", "4000"), "192.0.2.1:4000");
    assert_eq!(real("2001:db8::1", "4000"), "[2001:db8::1]:4000");
    assert_eq!(real("[2001:db8::1]", "4000"), "[2001:db8::1]:4000");
    for (ip, port) in [
        ("", ""),
        ("192.0.2.1", ""),
        ("192.0.2.1", "0"),
        ("192.0.2.1", "+4"),
        ("192.0.2.1", "65536"),
        ("192.0.2.1:4000", "4000"),
        ("192.0.2.1, 192.0.2.2", "4000"),
        ("unknown", "4000"),
        ("192.0.2.\u{e9}", "4000"),
    ] {
        assert_eq!(real(ip, port), PROXY, "{ip:?} {port:?}");
    }
    // One of them alone is no word about the client, and another header may have one.
    let list = ("x-forwarded-for", "192.0.2.9");
    assert_eq!(client(&[("x-real-ip", "192.0.2.1")]), PROXY);
    assert_eq!(client(&[("x-real-ip", "192.0.2.1"), list]), "192.0.2.9");
    assert_eq!(client(&[("x-real-port", "4000"), list]), "192.0.2.9");
}

#[test]
fn the_first_kind_that_is_there_counts() {
    let ip = ("x-real-ip", "192.0.2.1");
    let port = ("x-real-port", "4000");
    let forwarded = ("forwarded", "for=192.0.2.2");
    let list = ("x-forwarded-for", "192.0.2.3");
    assert_eq!(client(&[list, forwarded, port, ip]), "192.0.2.1:4000");
    assert_eq!(client(&[list, forwarded]), "192.0.2.2");
    assert_eq!(client(&[list]), "192.0.2.3");
    assert_eq!(client(&[]), PROXY);
    // A malformed or repeated one gives no way to those behind it.
    assert_eq!(client(&[list, ("forwarded", "for=\"192.0.2.2")]), PROXY);
    assert_eq!(client(&[list, ip, port, port]), PROXY);
    assert_eq!(client(&[list, ip, ip, port]), PROXY);
    // A hop in between gives way to a list that knows where it got it from.
    let hop = ("x-real-ip", "10.0.0.2");
    assert_eq!(client(&[list, hop, port]), "192.0.2.3");
    assert_eq!(client(&[hop, port]), PROXY);
}

#[test]
fn a_list_is_read_from_the_right_as_far_as_it_is_trusted() {
    let list = |text| client(&[("x-forwarded-for", text)]);
    for (text, expected) in [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:4000", "192.0.2.1:4000"),
        ("[2001:db8::1]:4000", "[2001:db8::1]:4000"),
        ("2001:db8::1", "2001:db8::1"),
        ("203.0.113.9, 192.0.2.1", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.1, 10.0.0.3,fd00::4", "192.0.2.1"),
        ("10.0.0.4, 10.0.0.3", "10.0.0.4"),
        ("192.0.2.1, unknown, 10.0.0.3", "10.0.0.3"),
        ("192.0.2.1, garbage", PROXY),
        ("garbage, 192.0.2.1", "192.0.2.1"),
        (",, 192.0.2.1 ,\t,", "192.0.2.1"),
        (",", PROXY),
        ("", PROXY),
        ("192.0.2.\u{e9}", PROXY),
    ] {
        assert_eq!(list(text), expected, "{text}");
    }
    // Several lines are one list.
    let lines = ["203.0.113.9", "192.0.2.1, 10.0.0.9", "10.0.0.3"];
    assert_eq!(client(&lines.map(|l| ("x-forwarded-for", l))), "192.0.2.1");
    let lines = ["192.0.2.1", "unknown", "10.0.0.3"];
    assert_eq!(client(&lines.map(|l| ("x-forwarded-for", l))), "10.0.0.3");
}

#[test]
fn forwarded_is_read_as_its_standard_writes_it() {
    let forwarded = |text| client(&[("forwarded", text)]);
    for (text, expected) in [
        // The examples of RFC 7239, sections 4 and 6.
        ("for=\"_gazonk\"", PROXY),
        (
            "For=\"[2001:db8:cafe::17]:4711\"",
            "[2001:db8:cafe::17]:4711",
        ),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
        ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17"),
        ("for=_hidden, for=_SEVKISEK", PROXY),
        ("for=\"192.0.2.43:47011\"", "192.0.2.43:47011"),
        ("for=unknown", PROXY),
        (
            "for=192.0.2.43, for=\"[2001:db8:cafe::17]\", for=unknown",
            PROXY,
        ),
        ("for=\"192.0.2.43:_port\"", "192.0.2.43"),
        // Chains.
        ("for=203.0.113.9, for=192.0.2.1, for=10.0.0.3", "192.0.2.1"),
        ("for=192.0.2.1, proto=https", PROXY),
        ("proto=https; for=192.0.2.1", "192.0.2.1"),
        (", ;,for=192.0.2.1,;", "192.0.2.1"),
        ("for=192.0.2.1:80", "192.0.2.1:80"),
        // Commas and semicolons in quotation are no separators.
        ("for=192.0.2.1;by=\"a,for=203.0.113.9;\\\"\"", "192.0.2.1"),
        ("for=\"192.0\\.2.1\"", "192.0.2.1"),
        // What is no such header.
        ("for=\"192.0.2.1", PROXY),
        ("for=\", for=192.0.2.1", PROXY),
        ("for=192.0.2.1;for=192.0.2.1", PROXY),
        ("for", PROXY),
        ("for=", PROXY),
        ("=192.0.2.1", PROXY),
        ("for =192.0.2.1", PROXY),
        ("for=192.0.2.1 by=x", PROXY),
        ("for=192\"0.2.1\"", PROXY),
        ("192.0.2.1", PROXY),
        ("", PROXY),
    ] {
        assert_eq!(forwarded(text), expected, "{text}");
    }
}

#[test]
fn contradictions_are_seen() {
    let trusted: TrustedProxies = "10.0.0.0/8".parse().unwrap();
    let contradict = |connection: &str, lines: &[_]| {
        let connection = RemoteAddr::from(connection.parse::<SocketAddr>().unwrap());
        trusted.is_contradictory(connection, &headers(lines))
    };
    let list = ("x-forwarded-for", "192.0.2.1, 10.0.0.2");
    assert!(!contradict(PROXY, &[list]));
    assert!(!contradict(
        PROXY,
        &[list, ("forwarded", "for=\"192.0.2.1:80\"")]
    ));
    assert!(contradict(PROXY, &[list, ("forwarded", "for=192.0.2.2")]));
    assert!(contradict(PROXY, &[list, ("forwarded", "for=unknown")]));
    assert!(!contradict(
        "192.0.2.7:1",
        &[list, ("forwarded", "for=192.0.2.2")]
    ));
}

proptest! {
    /// Whatever a stranger writes in front of what a trusted proxy adds, the proxy's word is the one that counts.
    #[test]
    fn what_the_client_wrote_before_never_counts(forged in "[ -~]{0,60}", hop in 0_u8..) {
        let list = format!("{forged}, 192.0.2.1, 10.0.0.{hop}");
        prop_assert_eq!(client(&[("x-forwarded-for", &list)]), "192.0.2.1");
        prop_assert_eq!(client(&[("x-forwarded-for", &forged), ("x-forwarded-for", "192.0.2.1")]), "192.0.2.1");
        prop_assert_eq!(client(&[("forwarded", &forged), ("forwarded", "for=192.0.2.1")]), "192.0.2.1");
        // In one line the client can spoil it, and yet not choose what is believed.
        let list = format!("{forged}, for=192.0.2.1");
        let seen = client(&[("forwarded", &list)]);
        prop_assert!(seen == "192.0.2.1" || seen == PROXY, "{}", seen);
    }

    #[test]
    fn garbage_never_panics(
        names in prop::collection::vec(prop::sample::select(vec!["x-real-ip", "x-real-port", "forwarded", "x-forwarded-for"]), 0..6),
        values in prop::collection::vec("[ -~\u{80}-\u{ff}]{0,40}|(for=)?\"?\\[?[0-9a-f:.]{0,20}\\]?(:[0-9]{0,6})?\"?[,;]?", 6),
    ) {
        let lines: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
        let _ = client(&lines);
        prop_assert_eq!(from("198.51.100.1:7", &lines), "198.51.100.1:7");
    }

    #[test]
    fn every_address_comes_through(ip: std::net::Ipv6Addr, port in 1..=u16::MAX) {
        let addr = SocketAddr::new(IpAddr::V6(ip).to_canonical(), port);
        prop_assume!(!matches!(addr.ip(), IpAddr::V4(v4) if v4.octets()[0] == 10) && ip.octets()[0] != 0xfd);
        let text = addr.to_string();
        prop_assert_eq!(client(&[("x-forwarded-for", &text)]), text.as_str());
        prop_assert_eq!(client(&[("forwarded", &format!("for=\"{text}\""))]), text.as_str());
        let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
        prop_assert_eq!(client(&[("x-real-ip", &ip), ("x-real-port", &port)]), text.as_str());
    }
}
