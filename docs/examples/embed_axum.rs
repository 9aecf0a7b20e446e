//! The relay inside an axum application that has routes and state of its own.
//!
//! `cargo run --example embed_axum`, then `curl http://127.0.0.1:8080/`; peers connect to `ws://127.0.0.1:8080/relay`, or to
//! `ws://127.0.0.1:8080/mesh/relay`. Ctrl-C stops it.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use tokio::net::TcpListener;
use trunkline::Relay;
use trunkline::auth::{Secret, TokenValidator};
use trunkline::server::shutdown_signal;
use trunkline::time::Clock;

/// What this application's own handlers need. The relay is a handle, so it can be part of it.
#[derive(Clone)]
struct App {
    name: String,
    relay: Relay,
}

/// A route of the application's own, which looks at the relay.
async fn home(State(app): State<App>) -> String {
    format!(
        "{}: {} peers connected\n",
        app.name,
        app.relay.peers().len()
    )
}

/// The application: its own routes, and the relay's twice, as it is and below a prefix.
pub(crate) fn app(name: &str, relay: &Relay) -> Router {
    Router::new()
        .route("/", get(home))
        .merge(relay.router())
        .nest("/mesh", relay.router())
        .with_state(App {
            name: name.to_owned(),
            relay: relay.clone(),
        })
}

/// Serves until `stop` resolves, then ends in order: first the peers are told *close* and waited for, while new ones get a 503;
/// then axum finishes the requests that are under way. axum itself does not know of connections that were upgraded.
pub(crate) async fn serve(
    listener: TcpListener,
    name: &str,
    relay: Relay,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    // With connect info the relay's log shows where peers come from.
    let app = app(name, &relay).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            stop.await;
            relay.shutdown().await;
        })
        .await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(io::stderr).init(); // the relay's log; without a subscriber there is none
    let secret = std::env::var("RELAY_SECRET").unwrap_or_else(|_| "change me".to_owned());
    let relay = Relay::builder()
        .exposed_address("rel://127.0.0.1:8080")
        .validator(TokenValidator::new(
            vec![Secret::new(&secret)],
            Clock::system(),
        ))
        .build()?;
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    println!("listening on http://{}", listener.local_addr()?);
    serve(listener, "my application", relay, shutdown_signal()).await?;
    Ok(())
}
