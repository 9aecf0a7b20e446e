//! What the operator asked for: flags, environment and secret files become one checked [`Settings`].
//!
//! This room owns the table of settings (`flags`), the order in which a value is looked for (`env`), the
//! checks (`values`, `listen_address`, `reader`) and the secret files (`secrets`). It implements operations.md, *Flags*. It never
//! binds a socket, never starts a log, and never ends the process: `main` does what [`ConfigError::exit_code`]
//! says. Only `main` imports it; every other room is handed plain values.

mod command_line;
mod env;
mod flags;
mod listen_address;
mod mistakes;
mod reader;
mod reference;
mod secrets;
mod settings;
mod unknown;
mod values;

pub use command_line::{Command, parse};
pub use listen_address::ListenAddress;
pub use mistakes::{ConfigError, Mistake};
pub use reference::reference;
pub use secrets::{SECRET_POLL_INTERVAL, SecretError, SecretText, read_secrets, watch_secrets};
pub use settings::{ClusterSettings, ClusterTlsSettings, SecretSource, Settings, TlsSettings};

pub use crate::telemetry::logging::{LogDestination, LogFormat, LogLevel, LogSettings};

#[cfg(test)]
mod tests;
