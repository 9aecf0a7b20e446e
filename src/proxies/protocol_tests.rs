use proptest::prelude::*;
use proxy_header::ProxiedAddress;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A version 2 header with this command and family, and these bytes behind the preamble.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = V2.to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes.extend(rest);
    bytes
}

const IPV4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x0F, 0xA0, 1, 0xBB];

#[test]
fn headers_that_name_a_client() {
    let tlv = [IPV4.as_slice(), &[0x04, 0, 2, 0, 0]].concat();
    let headers: [&[u8]; 4] = [
        b"PROXY TCP4 192.0.2.1 10.0.0.1 4000 443\r\n",
        b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4000 443\r\n",
        &v2(0x21, 0x11, &IPV4),
        &v2(0x21, 0x11, &tlv),
    ];
    for header in headers {
        let Ok(Parsed::Header(length, Some(source))) = parse(&[header, b"GET /"].concat()) else {
            panic!("{}", header.escape_ascii());
        };
        assert_eq!(length, header.len());
        assert_eq!(RemoteAddr::from(source).to_string(), "192.0.2.1:4000");
    }
}

#[test]
fn headers_that_name_nobody() {
    let headers: [&[u8]; 7] = [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n",
        &v2(0x20, 0, &[]),
        // LOCAL, with whatever behind it.
        &v2(0x20, 0xEE, &[1, 2, 3]),
        // An unspecified family, UDP, and a Unix socket.
        &v2(0x21, 0x00, &[1, 2, 3]),
        &v2(0x21, 0x12, &IPV4),
        &v2(0x21, 0x31, &[0; 216]),
    ];
    for header in headers {
        let expected = Parsed::Header(header.len(), None);
        assert_eq!(
            parse(header).unwrap(),
            expected,
            "{}",
            header.escape_ascii()
        );
    }
}

#[test]
fn what_is_no_header() {
    let beginnings: [&[u8]; 8] = [
        b"G",
        b"GET /relay HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /",
        b"PROXIED",
        b"\x16\x03\x01",
        b"\r\n\r\n\r\n",
        b"\n",
    ];
    for bytes in beginnings {
        assert_eq!(
            parse(bytes).unwrap(),
            Parsed::None,
            "{}",
            bytes.escape_ascii()
        );
    }
    for bytes in [
        &b""[..],
        b"P",
        b"PR",
        b"PROXY",
        b"PROXY ",
        b"\r",
        &V2[..11],
        V2,
    ] {
        assert_eq!(
            parse(bytes).unwrap(),
            Parsed::Partial,
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn broken_headers_are_refused() {
    let broken: [(&[u8], &str); 9] = [
        (
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4000 65536\r\n",
            "proxy_header_malformed",
        ),
        (
            b"PROXY TCP4 192.0.2.256 10.0.0.1 4000 443\r\n",
            "proxy_header_malformed",
        ),
        (
            b"PROXY UDP4 192.0.2.1 10.0.0.1 4000 443\r\n",
            "proxy_header_malformed",
        ),
        (
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4000 443\rX",
            "proxy_header_malformed",
        ),
        (
            &[b"PROXY TCP4 ".as_slice(), &[b'1'; 100]].concat(),
            "proxy_header_malformed",
        ),
        (&v2(0x22, 0x11, &IPV4), "proxy_header_malformed"),
        (&v2(0x11, 0x11, &IPV4), "proxy_header_malformed"),
        (&v2(0x21, 0x11, &IPV4[..11]), "proxy_header_malformed"),
        (&v2(0x21, 0x11, &[0; HEADER_MAX]), "proxy_header_too_long"),
    ];
    for (bytes, reason) in broken {
        assert_eq!(
            parse(bytes).unwrap_err().reason(),
            reason,
            "{}",
            bytes.escape_ascii()
        );
    }
}

proptest! {
    #[test]
    fn never_panics_and_never_claims_more_than_there_is(
        signature in prop::sample::select(vec![&b""[..], V1, V2, b"PROXY TCP4 ", b"PROXY TCP6 "]),
        rest in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [signature, &rest].concat();
        match parse(&bytes) {
            Ok(Parsed::Header(length, _)) => prop_assert!(length <= bytes.len().min(HEADER_MAX)),
            // Bounded: with the longest header there, nothing more is waited for.
            Ok(Parsed::Partial) => prop_assert!(bytes.len() < HEADER_MAX),
            Ok(Parsed::None) | Err(_) => {}
        }
    }

    /// However a header is cut, what is there before its end is neither refused nor taken for the whole.
    #[test]
    fn every_cut_of_every_header_is_waited_for(source: SocketAddr, port: u16, old: bool) {
        let destination = SocketAddr::new(source.ip(), port);
        let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
        let mut bytes = [0; 256];
        let length = if old { header.encode_to_slice_v1(&mut bytes) } else { header.encode_to_slice_v2(&mut bytes) }.unwrap();
        for cut in 0..length {
            prop_assert_eq!(parse(&bytes[..cut]).unwrap(), Parsed::Partial);
        }
        // What an IPv6 address has besides does not travel.
        let plain = SocketAddr::new(source.ip(), source.port());
        prop_assert_eq!(parse(&bytes).unwrap(), Parsed::Header(length, Some(plain)));
    }
}

/// A connection whose client has written `pieces`, one after the other, each when the one before has been seen.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await;
    let (server, _) = listener.accept().await.unwrap();
    (client.unwrap(), server)
}

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_is_taken_and_nothing_behind_it() {
    let (mut client, mut server) = connection().await;
    client.set_nodelay(true).unwrap();
    let bytes = [&v2(0x21, 0x11, &IPV4)[..], b"behind"].concat();
    let writing = tokio::spawn(async move {
        for byte in bytes {
            client.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let trusted = "192.0.2.99".parse().unwrap();
    let taken = ProxyProtocol::Required
        .client_address(&mut server, address("192.0.2.99:1").into(), &trusted)
        .await
        .unwrap();
    assert_eq!(taken.to_string(), "192.0.2.1:4000");
    let mut behind = [0; 6];
    server.read_exact(&mut behind).await.unwrap();
    assert_eq!(&behind, b"behind");
    writing.await.unwrap();
}

#[tokio::test]
async fn an_end_within_the_header_ends_the_wait() {
    for bytes in [&b""[..], b"PROXY TCP4 192.0.2.1"] {
        let (mut client, mut server) = connection().await;
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let trusted = "192.0.2.99".parse().unwrap();
        let error = ProxyProtocol::Optional
            .client_address(&mut server, address("192.0.2.99:1").into(), &trusted)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "proxy_header_lost");
    }
}

#[tokio::test]
async fn each_mode_with_and_without_a_header_from_friend_and_stranger() {
    use ProxyProtocol::{Off, Optional, Required};
    let header: &[u8] = b"PROXY TCP4 192.0.2.1 10.0.0.1 4000 443\r\nbehind";
    let (proxy, stranger) = ("10.0.0.1:5000", "198.51.100.1:5000");
    let client = "192.0.2.1:4000";
    for (mode, from, bytes, expected, left) in [
        (Off, proxy, header, Ok(proxy), header),
        (Optional, proxy, header, Ok(client), b"behind"),
        (Optional, proxy, b"GET /", Ok(proxy), b"GET /"),
        (Optional, stranger, header, Ok(stranger), header),
        (Required, proxy, header, Ok(client), b"behind"),
        (
            Required,
            proxy,
            b"GET /",
            Err("proxy_header_missing"),
            b"GET /",
        ),
        (Required, stranger, header, Err("proxy_untrusted"), header),
        (
            Optional,
            proxy,
            b"PROXY TCP4 x",
            Err("proxy_header_lost"),
            b"PROXY TCP4 x",
        ),
    ] {
        let (mut writer, mut server) = connection().await;
        writer.write_all(bytes).await.unwrap();
        drop(writer);
        let trusted = "10.0.0.0/8".parse().unwrap();
        let taken = mode
            .client_address(&mut server, address(from).into(), &trusted)
            .await
            .map(|client| client.to_string());
        let taken = taken.as_deref().map_err(|error| error.reason());
        assert_eq!(taken, expected, "{mode} {from} {}", bytes.escape_ascii());
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, left, "{mode} {from}");
    }
}
