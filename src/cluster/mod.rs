//! The cluster fabric: several relay pods become one relay (cluster-protocol.md).
//!
//! Owns the streams between pods, who of them is ours, and who owns which peer. It never sees the relay's types: what it needs of
//! the relay, and the relay of it, stands in `crosspod`.

mod announce;
mod asker;
mod asks;
mod builder;
mod claims;
mod dial;
pub mod discovery;
mod exchange;
mod fabric;
mod forward;
#[cfg(unix)]
mod halves;
mod held;
mod hello;
mod inlet;
mod leaving;
mod link;
mod link_metrics;
mod links;
mod listen;
mod lookup;
mod owner_metrics;
mod owners;
mod ping;
mod pods;
mod reader;
mod session;
mod shard;
mod stream;
mod streams;
#[cfg(test)]
mod streams_tests;
mod sweep;
#[cfg(test)]
mod tests;
mod timeline;
mod tls;

pub use builder::{Cluster, ClusterBuilder, ClusterError, ClusterHandle, Host};
pub use dial::{Dial, TcpDial};
pub use hello::ClusterSecrets;
pub use listen::Accept;
pub use stream::PodStream;
pub use tls::{PodTls, PodTlsError, PodTlsFiles};
