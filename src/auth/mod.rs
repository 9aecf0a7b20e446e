//! Is this token good: the question a relay asks before it lets a peer in.
//!
//! Owns the [`Validator`] trait with its boxed twin, the timed HMAC tokens that stock clients send
//! ([`TokenValidator`]), and [`AllowAll`]. It never sees a connection, never logs, and no `Debug` or `Display` in it
//! shows a token or a secret. What it implements is peer-protocol.md, *Token* and *Health-check probe*.
//!
//! A token says nothing of who holds it: whoever has a valid one can claim any peer ID. That is a limit of the wire.

pub mod allow_all;
pub mod token;
pub mod validator;

mod error;

pub use allow_all::AllowAll;
pub use error::AuthError;
pub use token::{Secret, Secrets, TokenValidator, health_probe, is_health_probe, mint};
pub use validator::{AuthRequest, DynValidator, Validator};
