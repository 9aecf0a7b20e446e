//! The validator that asks nothing.

use super::error::AuthError;
use super::validator::{AuthRequest, Validator};

/// Lets in every peer with any token, or none.
///
/// For tests, and for networks in which whoever reaches the relay may use it: anybody can then relay through it, and
/// can take any peer's place. A relay that faces the internet wants a
/// [`TokenValidator`](super::TokenValidator).
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Validator for AllowAll {
    async fn validate(&self, _: &AuthRequest<'_>) -> Result<(), AuthError> {
        Ok(())
    }
}
