//! Behind somebody's proxy: whom we believe where a client comes from, and how it is said.
//!
//! Owns the list of trusted proxies ([`TrustedProxies`]), the HTTP headers in which they name their client, and the PROXY protocol
//! ([`ProxyProtocol`]). An address that anybody else claims is never believed. It never decides what an address is used for: that is
//! the affair of logs and limits.
//!
//! Source: peer-protocol.md, *Behind a proxy*; RFC 7239; the PROXY protocol's document, versions 1 and 2. Which header counts, and
//! what becomes of contradictions, is `docs/adr/0040-client-address.md`.

mod headers;
mod node;
mod protocol;
mod trusted;

pub use protocol::{ProxyHeaderError, ProxyProtocol};
pub use trusted::{NotAPrefix, TrustedProxies};
