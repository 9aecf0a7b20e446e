//! The relay as axum routes: the WebSocket upgrade, and what operators ask for.
//!
//! Owns HTTP; of peers it knows no more than [`Relay`] shows.

mod admin;
mod opening;
mod upgrade;

use axum::Router;
use axum::routing::any;

pub(crate) use upgrade::{Deadline, StreamUse};

pub use admin::{Readiness, health_router, metrics_router};

use crate::relay::Relay;

impl Relay {
    /// The relay's route, to serve alone or to merge or nest into an axum application. Serve with
    /// `into_make_service_with_connect_info::<SocketAddr>()` if the logs are to show where peers come from.
    ///
    /// A shutdown of the application's server does not end upgraded connections: call [`Relay::shutdown`] for that.
    pub fn router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let relay = self.clone();
        Router::new().route(
            self.path(),
            any(move |request| upgrade::upgrade(relay, request)),
        )
    }
}
