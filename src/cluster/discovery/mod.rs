//! Who else is there: the names of the pods are resolved again and again, and what came of it is told.
//!
//! Owns what the operator's names mean ([`Source`]), the questions to the DNS ([`Dns`]) and the rounds in which they are
//! asked. Implements cluster-protocol.md, *Fixed facts*. Never dials: that is for whoever reads [`Discovered`]. A question that
//! fails changes nothing: the pods that were known stay known.

mod dns;
mod resolve;
mod rounds;
mod source;

pub use dns::{Dns, DnsError};
pub use resolve::{Answer, Family, Question, Resolver};
pub use source::{InvalidSource, Source};

pub use rounds::{Discovered, Discovery, INTERVAL};
