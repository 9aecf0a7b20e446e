//! The question and who may answer it.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;

use super::error::AuthError;
use crate::proto::PeerId;

/// What is known of a peer that asks to be let in. `Debug` shows nothing of the token.
#[derive(Clone, Copy)]
pub struct AuthRequest<'a> {
    /// Who it says it is.
    pub peer: &'a PeerId,
    /// The token it sent, unread: 0 to 170 bytes.
    pub token: &'a [u8],
    /// Where it comes from, when the transport knows.
    pub remote: Option<SocketAddr>,
}

impl fmt::Debug for AuthRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRequest")
            .field("peer", self.peer)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

/// Decides who is let in. One is shared by all connections; it may call out, as a slow answer holds up only the peer
/// that waits for it. The handshake's time limit covers it: the future may be dropped at any await.
pub trait Validator: Send + Sync + 'static {
    /// Lets the peer in, or says why not.
    ///
    /// # Errors
    /// Any [`AuthError`]: the connection is then closed without an answer. [`AuthError::Unavailable`] when the
    /// validator cannot tell.
    fn validate(
        &self,
        request: &AuthRequest<'_>,
    ) -> impl Future<Output = Result<(), AuthError>> + Send;
}

/// [`Validator`] as an object, at the price of a box for each question: for code that is not generic over it. Every
/// `Validator` is one.
pub trait DynValidator: Send + Sync + 'static {
    /// As [`Validator::validate`].
    fn validate_boxed<'a>(
        &'a self,
        request: &'a AuthRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<(), AuthError>> + Send + 'a>>;
}

impl<V: Validator> DynValidator for V {
    fn validate_boxed<'a>(
        &'a self,
        request: &'a AuthRequest<'a>,
    ) -> Pin<Box<dyn Future<Output = Result<(), AuthError>> + Send + 'a>> {
        Box::pin(self.validate(request))
    }
}

impl fmt::Debug for dyn DynValidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DynValidator")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::AllowAll;

    /// Lets in one peer only, after it has given way once, as one that calls out does.
    struct OnlyOne(PeerId);

    impl Validator for OnlyOne {
        async fn validate(&self, request: &AuthRequest<'_>) -> Result<(), AuthError> {
            tokio::task::yield_now().await;
            if *request.peer == self.0 {
                Ok(())
            } else {
                Err(AuthError::Refused("not on the list".into()))
            }
        }
    }

    #[tokio::test]
    async fn a_foreign_validator_works_as_an_object_on_another_task() {
        let (alice, bob) = (PeerId::from_name(b"alice"), PeerId::from_name(b"bob"));
        let validators: Vec<Arc<dyn DynValidator>> =
            vec![Arc::new(OnlyOne(alice)), Arc::new(AllowAll)];
        let mut verdicts = Vec::new();
        for validator in validators {
            for peer in [alice, bob] {
                let validator = Arc::clone(&validator);
                let task = tokio::spawn(async move {
                    let request = AuthRequest {
                        peer: &peer,
                        token: b"",
                        remote: None,
                    };
                    validator
                        .validate_boxed(&request)
                        .await
                        .map_err(|error| error.to_string())
                });
                verdicts.push(task.await.unwrap());
            }
        }
        assert_eq!(
            verdicts,
            [
                Ok(()),
                Err("refused: not on the list".to_owned()),
                Ok(()),
                Ok(())
            ]
        );
    }

    #[test]
    fn debug_of_a_request_hides_the_token() {
        let peer = PeerId::from_name(b"alice");
        let remote = "192.0.2.1:4711".parse().ok();
        let token = b"ZZZZ";
        let request = AuthRequest {
            peer: &peer,
            token,
            remote,
        };
        assert_eq!(
            format!("{request:?}"),
            format!("AuthRequest {{ peer: {peer}, remote: Some(192.0.2.1:4711), .. }}")
        );
    }
}
