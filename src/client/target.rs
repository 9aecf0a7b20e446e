//! Where a relay is: reading its address.

use super::ClientError;

/// What `host:port` and path are to be connected to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `host:port`, for the resolver and the `Host` header.
    pub(super) authority: String,
    /// Starts with `/`.
    pub(super) path: String,
}

impl Target {
    /// Reads `host[:port]`, or the same behind `rel://` or `ws://`; without a port, 80 is meant.
    pub(super) fn parse(address: &str, path: &str) -> Result<Self, ClientError> {
        let host = match address.split_once("://") {
            None => address,
            Some(("rel" | "ws", host)) => host.trim_end_matches('/'),
            Some(("rels" | "wss", _)) => return Err(ClientError::Tls(address.to_owned())),
            Some(_) => return Err(ClientError::Address(address.to_owned())),
        };
        let forbidden = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | '?' | '#' | '@');
        if host.is_empty() || host.starts_with(':') || host.contains(forbidden) {
            return Err(ClientError::Address(address.to_owned()));
        }
        if !path.starts_with('/') || path.contains(|c: char| !c.is_ascii_graphic()) {
            return Err(ClientError::Address(path.to_owned()));
        }
        // The colon of a port stands behind the bracket of an IPv6 address.
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let authority = if has_port {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        Ok(Self {
            authority,
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        for (address, authority) in [
            ("127.0.0.1:18080", "127.0.0.1:18080"),
            ("rel://relay.example.com:33080", "relay.example.com:33080"),
            ("ws://relay.example.com/", "relay.example.com:80"),
            ("relay.example.com", "relay.example.com:80"),
            ("[::1]:8080", "[::1]:8080"),
            ("[::1]", "[::1]:80"),
        ] {
            let target = Target::parse(address, "/relay").unwrap();
            assert_eq!(target.authority, authority, "{address}");
            assert_eq!(target.path, "/relay");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for address in ["", ":80", "http://a", "a/b", "a b", "rel://", "a@b", "ä:80"] {
            let error = Target::parse(address, "/relay").unwrap_err();
            assert!(matches!(error, ClientError::Address(_)), "{address}");
        }
        for address in ["rels://a", "wss://a:443"] {
            let error = Target::parse(address, "/relay").unwrap_err();
            assert!(matches!(error, ClientError::Tls(_)), "{address}");
        }
        for path in ["", "relay", "/a b"] {
            let error = Target::parse("a:80", path).unwrap_err();
            assert!(matches!(error, ClientError::Address(_)), "{path}");
        }
    }
}
