//! The certificates of the relay: where they come from, which one is shown, and until when it is valid.
//!
//! Owns [`Certificates`], the store that listeners show certificates from, and what fills it: files that are watched, or ACME.
//! A new certificate is in use from the next handshake on; no connection is ever dropped for one. It never touches a
//! connection (that is `transport::tls`), and no private key is ever logged.
//!
//! Source: operations.md, *Flags* and *Health*.

mod acme;
mod aead;
mod any;
mod config;
mod files;
mod records;
mod store;

pub use acme::{Acme, AcmeError, AcmeSettings, Challenge, LETS_ENCRYPT, StorageError, read_roots};
pub(crate) use aead::{HEAD_LEN, RecordKey, TAG_LEN};
pub use any::{AnyCertificate, any_certificate};
pub use config::server_config;
pub(crate) use files::read as read_file;
pub use files::{CERTIFICATE_POLL_INTERVAL, CertificateError, CertificateFiles};
pub use store::{ACME_TLS_ALPN, Certificate, Certificates};
