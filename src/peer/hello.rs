//! The first message: who is it, and what does it show for that?

use std::pin::Pin;
use std::task::{Context, Poll};

use tower::{Layer, Service, ServiceExt};
use tracing::Instrument as _;

use super::{HandshakeError, Incoming};
use crate::proto::PeerId;
use crate::proto::limits::AUTH_MAX;
use crate::proto::peer::{self, Message, MessageError};
use crate::telemetry::spans;
use crate::transport::MessageTransport;

/// A connection that has said who it is, and not yet been believed.
#[derive(Debug)]
pub struct Hello<T> {
    /// Who it says it is.
    pub peer: PeerId,
    /// What it shows for that.
    pub token: Token,
    /// The connection.
    pub incoming: Incoming<T>,
}

/// A token as it was sent. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Token(Vec<u8>);

impl Token {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Reads the first message: [`Incoming`] becomes [`Hello`].
#[derive(Debug, Clone, Copy, Default)]
pub struct HelloLayer;

impl<S> Layer<S> for HelloLayer {
    type Service = ReadHello<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ReadHello { inner }
    }
}

/// The service of [`HelloLayer`]. Always ready; it makes the inner service ready when the message has come.
#[derive(Debug, Clone)]
pub struct ReadHello<S> {
    inner: S,
}

impl<T, S> Service<Incoming<T>> for ReadHello<S>
where
    T: MessageTransport,
    S: Service<Hello<T>, Error = HandshakeError> + Clone + Send + 'static,
    S::Future: Send,
    S::Response: Send,
{
    type Response = S::Response;
    type Error = HandshakeError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, HandshakeError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut incoming: Incoming<T>) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move {
            let first = incoming.transport.first_message(AUTH_MAX, read);
            match first.instrument(spans::hello()).await {
                Ok(Ok((peer, token))) => {
                    inner
                        .oneshot(Hello {
                            peer,
                            token,
                            incoming,
                        })
                        .await
                }
                Ok(Err(error)) => Err(error),
                Err(error) => {
                    if !error.farewell().is_empty() {
                        incoming.transport.refuse(error.farewell()).await;
                    }
                    Err(error.into())
                }
            }
        })
    }
}

fn read(message: &[u8]) -> Result<(PeerId, Token), HandshakeError> {
    match peer::parse(message) {
        Ok(Message::Auth(auth)) => Ok((auth.peer, Token(auth.token.to_vec()))),
        Ok(Message::Hello) => Err(HandshakeError::LegacyHello),
        Ok(other) => Err(HandshakeError::NotAuth(other.message_type())),
        // Too short or not: what matters to its sender is that it was no *auth*.
        Err(MessageError::TransportTooShort { .. } | MessageError::PeerIdList { .. }) => {
            let kind = peer::message_type(message)?;
            Err(HandshakeError::NotAuth(kind))
        }
        Err(error) => Err(error.into()),
    }
}
