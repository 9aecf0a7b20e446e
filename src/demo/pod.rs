//! One of the demo's pods: a relay in a cluster, on a runtime of its own, so that it can be killed as a process is.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::stage::{Stage, on_free_address};
use super::{DemoError, PATIENCE, Unexpected};
use crate::client::Client;
use crate::cluster::discovery::Source;
use crate::cluster::{Cluster, ClusterHandle, ClusterSecrets};
use crate::proto::cluster::hello::ClusterSecret;
use crate::server::Server;

/// The longest pause between two tries to reach a pod. The default of ten seconds spares machines that are gone for long.
const REDIAL: Duration = Duration::from_millis(250);

/// A pod at work. Dropping it kills it.
pub(super) struct Pod {
    address: SocketAddr,
    cluster: ClusterHandle,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
    runtime: Killable,
}

/// A runtime that is never waited for.
struct Killable(Option<Runtime>);

impl Drop for Killable {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Its tasks end where they are, and the kernel closes their sockets, as it does for a process that is killed.
            runtime.shutdown_background();
        }
    }
}

impl Pod {
    /// Starts a pod that listens to the others here, and finds all of them in this list.
    pub(super) fn start(
        stage: &Stage,
        others: &TcpListener,
        pods: &[SocketAddr],
    ) -> Result<Self, DemoError> {
        on_free_address(|address| {
            let others = others.try_clone().map_err(DemoError::Runtime)?;
            Self::start_at(stage, address, others, pods)
        })
    }

    fn start_at(
        stage: &Stage,
        address: SocketAddr,
        others: TcpListener,
        pods: &[SocketAddr],
    ) -> Result<Self, DemoError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.map_err(DemoError::Runtime)?;
        let handle = runtime.handle().clone();
        let runtime = Killable(Some(runtime));
        let _within = handle.enter();
        let relay = stage.another(address).build()?;
        let announced = others.local_addr().map_err(DemoError::Runtime)?;
        others.set_nonblocking(true).map_err(DemoError::Runtime)?;
        let others = tokio::net::TcpListener::from_std(others).map_err(DemoError::Runtime)?;
        let secret = ClusterSecret::new(stage.secret_text());
        let cluster = Cluster::builder(announced)
            .sources(pods.iter().copied().map(Source::Fixed))
            .interval(REDIAL)
            .accept(others)
            .secrets(ClusterSecrets::new(secret.into_iter().collect()))
            .start(&relay)?;
        let server = Server::builder(relay)
            .listen([address])
            .cluster(cluster.clone())
            .bind()?;
        let (stop, stopped) = oneshot::channel();
        let served = handle.spawn(server.run(async {
            let _ = stopped.await;
        }));
        Ok(Self {
            address,
            cluster,
            stop,
            served,
            runtime,
        })
    }

    /// How many other pods it has a stream to.
    pub(super) fn pods(&self) -> usize {
        self.cluster.pods()
    }

    /// Connects a peer of this name to this pod.
    pub(super) async fn connect(&self, stage: &Stage, name: &str) -> Result<Client, Unexpected> {
        stage.connect_at(self.address, name).await
    }

    /// Lets it say goodbye to its peers and to the other pods, and waits until it has.
    pub(super) async fn drain(self) -> Result<(), Unexpected> {
        // An error means that it has stopped already.
        let _ = self.stop.send(());
        let ended = timeout(PATIENCE, self.served).await;
        drop(self.runtime);
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Unexpected("a pod failed".to_owned())),
            Err(_) => Err(Unexpected("a pod did not stop".to_owned())),
        }
    }

    /// Ends it without a word.
    pub(super) fn kill(self) {
        drop(self.runtime);
    }
}
