//! What can go wrong with a load, in words that tell the operator what to do about it.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

/// Why a load could not be run to its end.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// An option that cannot be used as it is; nothing has been sent.
    #[error("{0}")]
    Usage(String),
    /// The certificate that the relay shows is not taken.
    #[error("{why}, or take whatever comes with --insecure")]
    Certificate {
        /// What is wrong with it, and what can be done.
        why: &'static str,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// The other side of a TLS handshake does not speak TLS.
    #[error("this port does not speak TLS: leave out --tls")]
    NotTls {
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// Nothing came back from where QUIC was expected.
    #[error(
        "no answer to the QUIC handshake from {address} within {seconds} s: does the relay have TLS and QUIC, and is the UDP port \
         of this number open on the way to it?"
    )]
    QuicSilent {
        /// Where the handshake was sent.
        address: SocketAddr,
        /// How long an answer was waited for, in seconds.
        seconds: u64,
    },
    /// The system lets this process hold no more sockets.
    #[error(
        "too many open files: raise the limit with `ulimit -n` (this load needs about {needed})"
    )]
    TooManyFiles {
        /// How many files the load needs, roughly.
        needed: u64,
    },
    /// No local port is left for a connection to this address.
    #[error("no local port is left to reach {address}: spread the load with --source-addresses")]
    NoPortLeft {
        /// Where the connection was to go.
        address: SocketAddr,
    },
    /// A connection could not be made.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where the connection was to go.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The relay closed the connection before it had said anything.
    #[error(
        "the relay closed the connection without an answer: its log says why. It may be at one of its limits, which it counts in \
         relay_handshake_refusals_total (a load comes from one address: start the relay with --max-connections-per-address 0 \
         --handshake-rate-per-address 0, or spread the load with --source-addresses), or expect a PROXY header (--proxy-protocol)"
    )]
    Closed,
    /// The upgrade request was answered with something other than 101.
    #[error(
        "the upgrade to WebSocket was refused: {answer}{}",
        upgrade_hint(answer)
    )]
    Upgrade {
        /// The first line of the answer.
        answer: String,
    },
    /// The connection ended in place of the auth response.
    #[error("the relay closed the connection in place of an auth response: is the secret right?")]
    Refused,
    /// The first message was no auth response.
    #[error("the relay answered the auth message with something else (message type {kind})")]
    NotAnAnswer {
        /// The message type that came.
        kind: u8,
    },
    /// A step took longer than a working relay takes.
    #[error("no answer while {doing} within {seconds} s")]
    Timeout {
        /// What was waited for.
        doing: &'static str,
        /// How long, in seconds.
        seconds: u64,
    },
    /// Every pair or peer lost its connection before the load was over.
    #[error("every pair or peer lost a connection during the load: {which}")]
    AllEnded {
        /// How many, and where to.
        which: String,
    },
    /// `fair` has lost its receiver, or all of its senders.
    #[error("connections without which there is nothing to measure ended during the load: {which}")]
    CannotGoOn {
        /// How many connections ended, and where to.
        which: String,
    },
    /// Not one of the messages arrived.
    #[error("nothing arrived: {sent} messages were sent, and none came; {likely}")]
    NothingArrived {
        /// How many were sent.
        sent: u64,
        /// What is the most likely reason, and where to look.
        likely: &'static str,
    },
    /// The process to be measured cannot be read.
    #[error("cannot read the account of process {pid}")]
    Process {
        /// The process.
        pid: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The process to be measured has ended before the load did.
    #[error(
        "process {pid} (--pid) ended during the load: what was measured is not what a running relay costs"
    )]
    ProcessEnded {
        /// The process.
        pid: u32,
    },
    /// Ctrl-C, before there was anything to report.
    #[error("interrupted before anything was measured")]
    Interrupted,
    /// Anything else the system refused.
    #[error("failed while {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl LoadError {
    /// Whether the mistake is in the options: such a run ends with exit code 2.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_))
    }
}

fn upgrade_hint(answer: &str) -> &'static str {
    if answer.contains(" 404") {
        " (is the path right, which is /relay unless --relay-path says otherwise? A proxy in front must know the host name, too)"
    } else {
        ""
    }
}
