//! What a request must be to become a WebSocket: the opening handshake (RFC 6455, section 4.2; RFC 8441 for HTTP/2).

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method, StatusCode, Version};
use hyper::ext::Protocol;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Why a request is no WebSocket upgrade that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Host,
    Body,
    Method,
    NotAnUpgrade,
    NotExtendedConnect,
    WebSocketVersion,
    Key,
}

impl Refusal {
    /// The label of `relay_handshake_refusals_total`.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Host => "http_host",
            Self::Body => "http_body",
            Self::Method => "http_method",
            Self::NotAnUpgrade => "http_not_an_upgrade",
            Self::NotExtendedConnect => "http_not_extended_connect",
            Self::WebSocketVersion => "http_websocket_version",
            Self::Key => "http_websocket_key",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let websocket = (UPGRADE, HeaderValue::from_static("websocket"));
        match self {
            Self::Host => (
                StatusCode::BAD_REQUEST,
                "expected one header 'Host'\n",
            )
                .into_response(),
            Self::Body => (
                StatusCode::BAD_REQUEST,
                "a WebSocket upgrade has no body\n",
            )
                .into_response(),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                [(ALLOW, HeaderValue::from_static("GET"))],
                "the relay is reached by GET with a WebSocket upgrade\n",
            )
                .into_response(),
            Self::NotAnUpgrade => (
                StatusCode::UPGRADE_REQUIRED,
                [
                    websocket,
                    (CONNECTION, HeaderValue::from_static("Upgrade")),
                ],
                "this is a relay for WebSocket clients: expected the headers 'Connection: Upgrade' and 'Upgrade: websocket' \
                 (a proxy in between may have removed them)\n",
            )
                .into_response(),
            Self::NotExtendedConnect => (
                StatusCode::BAD_REQUEST,
                "this is a relay for WebSocket clients: over HTTP/2, expected an extended CONNECT with ':protocol: websocket' \
                 (RFC 8441)\n",
            )
                .into_response(),
            Self::WebSocketVersion => (
                StatusCode::UPGRADE_REQUIRED,
                [
                    websocket,
                    (
                        SEC_WEBSOCKET_VERSION,
                        HeaderValue::from_static("13"),
                    ),
                ],
                "expected the header 'Sec-WebSocket-Version: 13'\n",
            )
                .into_response(),
            Self::Key => (
                StatusCode::BAD_REQUEST,
                "expected one header 'Sec-WebSocket-Key' with 16 bytes in base64\n",
            )
                .into_response(),
        }
    }
}

/// A valid request, by the way in which its connection becomes a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Accepted {
    /// The whole connection is upgraded, with this answer to the client's key (RFC 6455).
    Upgrade(HeaderValue),
    /// One stream of an HTTP/2 connection (RFC 8441).
    Stream,
}

/// What is asked for, if it is what the relay is there for.
pub(super) fn check(request: &Request) -> Result<Accepted, Refusal> {
    if request.version() == Version::HTTP_2 {
        return check_stream(request);
    }
    if request.method() != Method::GET {
        return Err(Refusal::Method);
    }
    let headers = request.headers();
    // Whoever sits in front may have taken another of several for the one that counts (RFC 9112, section 3.2).
    if request.version() == Version::HTTP_11 && headers.get_all(HOST).iter().count() != 1 {
        return Err(Refusal::Host);
    }
    if request.version() < Version::HTTP_11
        || !has_token(headers, &CONNECTION, "upgrade")
        || !has_token(headers, &UPGRADE, "websocket")
    {
        return Err(Refusal::NotAnUpgrade);
    }
    check_version(headers)?;
    // What one of us takes for a body, the other would take for messages (RFC 9112, section 11.2).
    if headers.contains_key(TRANSFER_ENCODING)
        || headers
            .get_all(CONTENT_LENGTH)
            .iter()
            .any(|length| length != "0")
    {
        return Err(Refusal::Body);
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key.as_bytes()) => {
            let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
            accept.map(Accepted::Upgrade).map_err(|_| Refusal::Key)
        }
        _ => Err(Refusal::Key),
    }
}

/// RFC 8441, section 5: the version counts as ever, and there is no key.
fn check_stream(request: &Request) -> Result<Accepted, Refusal> {
    let protocol = request.extensions().get::<Protocol>();
    if request.method() != Method::CONNECT
        || protocol.is_none_or(|protocol| protocol.as_str() != "websocket")
    {
        return Err(Refusal::NotExtendedConnect);
    }
    check_version(request.headers())?;
    Ok(Accepted::Stream)
}

fn check_version(headers: &HeaderMap) -> Result<(), Refusal> {
    let version = headers.get(SEC_WEBSOCKET_VERSION);
    if version.map(HeaderValue::as_bytes) == Some(b"13") {
        Ok(())
    } else {
        Err(Refusal::WebSocketVersion)
    }
}

/// Whether a header that lists tokens has this one, in any case.
fn has_token(headers: &HeaderMap, name: &http::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn is_key(key: &[u8]) -> bool {
    use base64::Engine as _;
    let mut bytes = [0; 24];
    matches!(
        base64::engine::general_purpose::STANDARD.decode_slice(key, &mut bytes),
        Ok(16)
    )
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(change: impl FnOnce(&mut Request)) -> Request {
        let mut request = Request::builder()
            .uri("/relay")
            .header("Host", "relay.example.com")
            .header("Connection", "keep-alive, Upgrade")
            .header("Upgrade", "WebSocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(Body::empty())
            .unwrap();
        change(&mut request);
        request
    }

    #[test]
    fn takes_what_browsers_and_go_clients_send() {
        // The example of RFC 6455, section 1.3.
        let accept = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(check(&request(|_| {})), Ok(Accepted::Upgrade(accept)));
    }

    #[test]
    fn each_refusal_has_its_status() {
        type Change = fn(&mut Request);
        fn set(request: &mut Request, name: &'static str, value: &'static str) {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(name, value);
        }
        fn remove(request: &mut Request, name: &'static str) {
            request.headers_mut().remove(name);
        }
        let cases: [(Change, Refusal, u16); 16] = [
            (
                |r| *r.version_mut() = Version::HTTP_2,
                Refusal::NotExtendedConnect,
                400,
            ),
            (
                |r| {
                    *r.version_mut() = Version::HTTP_2;
                    *r.method_mut() = Method::CONNECT;
                    r.extensions_mut()
                        .insert(Protocol::from_static("connect-udp"));
                },
                Refusal::NotExtendedConnect,
                400,
            ),
            (
                |r| {
                    *r.version_mut() = Version::HTTP_2;
                    *r.method_mut() = Method::CONNECT;
                    r.extensions_mut()
                        .insert(Protocol::from_static("websocket"));
                    remove(r, "sec-websocket-version");
                },
                Refusal::WebSocketVersion,
                426,
            ),
            (|r| remove(r, "host"), Refusal::Host, 400),
            (
                |r| {
                    r.headers_mut().append(HOST, HeaderValue::from_static("b"));
                },
                Refusal::Host,
                400,
            ),
            (|r| set(r, "content-length", "5"), Refusal::Body, 400),
            (
                |r| set(r, "transfer-encoding", "chunked"),
                Refusal::Body,
                400,
            ),
            (|r| *r.method_mut() = Method::POST, Refusal::Method, 405),
            (
                |r| *r.version_mut() = Version::HTTP_10,
                Refusal::NotAnUpgrade,
                426,
            ),
            (|r| remove(r, "upgrade"), Refusal::NotAnUpgrade, 426),
            (|r| remove(r, "connection"), Refusal::NotAnUpgrade, 426),
            (|r| set(r, "upgrade", "h2c"), Refusal::NotAnUpgrade, 426),
            (
                |r| set(r, "sec-websocket-version", "8"),
                Refusal::WebSocketVersion,
                426,
            ),
            (|r| remove(r, "sec-websocket-key"), Refusal::Key, 400),
            (
                |r| set(r, "sec-websocket-key", "c2hvcnQ="),
                Refusal::Key,
                400,
            ),
            (
                |r| {
                    let second = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
                    r.headers_mut().append("sec-websocket-key", second);
                },
                Refusal::Key,
                400,
            ),
        ];
        for (change, refusal, status) in cases {
            assert_eq!(check(&request(change)), Err(refusal));
            assert_eq!(refusal.into_response().status().as_u16(), status);
        }
    }
}
