//! The headers in which a trusted proxy names its client, read as a whole: who is believed has been decided by then.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::node::{node, port};

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_REAL_PORT: HeaderName = HeaderName::from_static("x-real-port");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What one kind of header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It is not there, or says nothing that is meant for us.
    Absent,
    /// It is there and names nobody: malformed, contradictory, or hidden.
    Nobody,
    /// The client.
    Client(SocketAddr),
}

/// What the headers say, those first that count first.
#[derive(Debug)]
pub(super) struct Claims([Claim; 3]);

/// Whether there is more than one kind, at a glance.
pub(super) fn may_contradict(headers: &HeaderMap) -> bool {
    let kinds = [X_REAL_IP, FORWARDED, X_FORWARDED_FOR];
    kinds
        .iter()
        .filter(|kind| headers.contains_key(*kind))
        .count()
        > 1
}

impl Claims {
    pub(super) fn read(headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> Self {
        Self([
            real_ip(headers, &trusted),
            list(headers, &FORWARDED, &trusted, forwarded_hops),
            list(headers, &X_FORWARDED_FOR, &trusted, |text| {
                Some(x_forwarded_for_hops(text))
            }),
        ])
    }

    /// Who the client is, if anybody is named by the first header that is there.
    pub(super) fn client(&self) -> Option<SocketAddr> {
        match self.present().next() {
            Some(Claim::Client(client)) => Some(client),
            _ => None,
        }
    }

    /// Whether two of them do not name the same address.
    pub(super) fn contradict(&self) -> bool {
        let mut addresses = self.present().map(|claim| match claim {
            Claim::Client(client) => Some(client.ip()),
            Claim::Nobody | Claim::Absent => None,
        });
        let first = addresses.next();
        addresses.any(|other| Some(other) != first)
    }

    fn present(&self) -> impl Iterator<Item = Claim> {
        self.0.into_iter().filter(|claim| *claim != Claim::Absent)
    }
}

/// `X-Real-Ip` and `X-Real-Port`: both, and each once.
fn real_ip(headers: &HeaderMap, trusted: &impl Fn(IpAddr) -> bool) -> Claim {
    let once = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        values
            .next()
            .map(|value| values.next().is_none().then(|| text(value)).flatten())
    };
    let (ip, told_port) = match (once(&X_REAL_IP), once(&X_REAL_PORT)) {
        (Some(Some(ip)), Some(Some(port))) => (ip, port),
        (None, _) | (_, None) => return Claim::Absent,
        _ => return Claim::Nobody,
    };
    // Brackets are taken; a port in the address is not, because it has a header of its own.
    let ip = node(ip)
        .filter(|addr| addr.port() == 0)
        .map(|addr| addr.ip());
    match (ip, port(told_port)) {
        // The hop in front of the last one, and not the client: a list may know more.
        (Some(ip), Some(_)) if trusted(ip) => Claim::Absent,
        (Some(ip), Some(port)) => Claim::Client(SocketAddr::new(ip, port)),
        _ => Claim::Nobody,
    }
}

/// The client in a list of hops that may be spread over several header lines, the nearest hop last.
fn list(
    headers: &HeaderMap,
    name: &HeaderName,
    trusted: &impl Fn(IpAddr) -> bool,
    hops: impl Fn(&str) -> Option<Vec<Option<SocketAddr>>>,
) -> Claim {
    let mut client = None;
    let mut lines = headers.get_all(name).iter().rev().peekable();
    if lines.peek().is_none() {
        return Claim::Absent;
    }
    'lines: for line in lines {
        // A line that cannot be read was not written by a proxy that is worth its trust: all of it is off.
        let Some(hops) = text(line).and_then(&hops) else {
            return Claim::Nobody;
        };
        for hop in hops.into_iter().rev() {
            let Some(hop) = hop else { break 'lines };
            client = Some(hop);
            if !trusted(hop.ip()) {
                break 'lines;
            }
        }
    }
    client.map_or(Claim::Nobody, Claim::Client)
}

/// The hops of `X-Forwarded-For`; empty elements do not count (RFC 9110, section 5.6.1.2).
fn x_forwarded_for_hops(text: &str) -> Vec<Option<SocketAddr>> {
    let elements = text.split(',').map(trim);
    elements
        .filter(|element| !element.is_empty())
        .map(node)
        .collect()
}

/// The hops of `Forwarded` (RFC 7239, section 4): the `for` of each element, none where an element has no address there. Nothing
/// if it breaks the grammar, which an unfinished quotation of the client's does to what the proxy adds behind it.
///
/// Taken besides the grammar: spaces around `;`, and addresses without the quotation marks that they should have.
fn forwarded_hops(mut text: &str) -> Option<Vec<Option<SocketAddr>>> {
    let mut hops = Vec::new();
    // The element being read: whether it has any pair, and its `for`.
    let mut has_pair = false;
    let mut hop: Option<Option<SocketAddr>> = None;
    loop {
        text = text.trim_start_matches(OWS);
        let end = text.find([',', ';', '=']).unwrap_or(text.len());
        if text[end..].starts_with('=') {
            let name = &text[..end];
            if name.is_empty() || !name.bytes().all(is_token) {
                return None;
            }
            let (value, rest) = forwarded_value(&text[end + 1..])?;
            if name.eq_ignore_ascii_case("for") && hop.replace(node(&value)).is_some() {
                return None;
            }
            has_pair = true;
            text = rest.trim_start_matches(OWS);
        } else if trim(&text[..end]).is_empty() {
            text = &text[end..];
        } else {
            return None;
        }
        match text.bytes().next() {
            Some(b';') => {}
            Some(b',') | None => {
                if std::mem::take(&mut has_pair) {
                    hops.push(hop.take().flatten());
                }
            }
            Some(_) => return None,
        }
        match text.get(1..) {
            Some(rest) => text = rest,
            None => return Some(hops),
        }
    }
}

/// A token or a quoted string (RFC 9110, section 5.6.4) at the front of `text`, and what follows it.
fn forwarded_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';', ' ', '\t', '"']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (!value.is_empty() && !rest.starts_with('"')).then(|| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(char),
        }
    }
    None
}

const OWS: [char; 2] = [' ', '\t'];

fn trim(text: &str) -> &str {
    text.trim_matches(OWS)
}

/// A value's visible ASCII without the white space around it.
fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().map(trim)
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
