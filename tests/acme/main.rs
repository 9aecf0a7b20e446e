//! Certificates by ACME from a real authority: Pebble, Let's Encrypt's own for tests, with its DNS server for tests.
//!
//! The program is the real one, started as an operator would. Where `pebble` and `pebble-challtestsrv` are not to be found, each test
//! says by its name that it is skipped; `.ci/run` installs them where Go is present.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod authority;
mod program;
#[cfg(feature = "route53")]
mod route53;
mod tls_alpn;
