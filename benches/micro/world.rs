//! What the benches share: peers without connections, and the bytes that a client would send.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use trunkline::outbox::{Framing, Outbox, QueuePolicy, Taken};
use trunkline::proto::PeerId;
use trunkline::proto::peer::encode_transport;
use trunkline::routing::{Presence, Registration, Registry};
use trunkline::telemetry::counters::Counters;
use trunkline::ticks::Ticks;
use trunkline::transport::ws::frame::apply_mask;
use trunkline::transport::{RemoteAddr, TransportKind};

/// Payload bytes of a message: what WireGuard makes of a full packet.
pub(crate) const PAYLOAD: usize = 1280;

/// The ID of peer `number`.
pub(crate) fn id(number: usize) -> PeerId {
    PeerId::from_name(&number.to_be_bytes())
}

/// A *transport* message for `peer`.
pub(crate) fn transport(peer: &PeerId) -> Vec<u8> {
    let mut message = Vec::new();
    encode_transport(peer, &[7; PAYLOAD], &mut message).expect("the payload is short enough");
    message
}

/// A message as a client's WebSocket frame.
pub(crate) fn masked(message: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
    let length = u16::try_from(message.len()).expect("a message is at most 8820 bytes");
    let mut frame = vec![0x82];
    match length {
        0..126 => frame.push(0x80 | length as u8),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend(MASK);
    let body = frame.len();
    frame.extend(message);
    apply_mask(&mut frame[body..], MASK);
    frame
}

/// A pod without connections.
pub(crate) struct World {
    pub(crate) registry: Arc<Registry>,
    pub(crate) presence: Presence,
    policy: Arc<QueuePolicy>,
    serial: u64,
}

/// One peer: as everybody sees it, and its writer's side.
pub(crate) struct Peer {
    pub(crate) registration: Arc<Registration>,
    pub(crate) outbox: Arc<Outbox>,
}

impl World {
    pub(crate) fn new() -> Self {
        let registry = Arc::<Registry>::default();
        let counters = Arc::<Counters>::default();
        Self {
            presence: Presence::new(Arc::clone(&registry), Arc::clone(&counters)),
            registry,
            policy: QueuePolicy::new(
                512 * 1024,
                Duration::from_secs(1),
                1 << 30,
                counters,
                Ticks::default(),
            ),
            serial: 0,
        }
    }

    /// A pod with peers 0 to `peers`.
    pub(crate) fn with_peers(peers: usize) -> Self {
        let mut world = Self::new();
        for number in 0..peers {
            world.connect(number);
        }
        world
    }

    /// An outbox that belongs to nobody.
    pub(crate) fn outbox(&self) -> Arc<Outbox> {
        Outbox::new(Framing::WebSocket, &self.policy)
    }

    /// Peer `number`, not yet registered.
    pub(crate) fn peer(&mut self, number: usize) -> Peer {
        self.serial += 1;
        let outbox = self.outbox();
        let registration = Registration::new(
            id(number),
            self.serial,
            TransportKind::Memory,
            RemoteAddr::unknown(),
            Arc::clone(&outbox),
            0,
        );
        Peer {
            registration,
            outbox,
        }
    }

    /// Peer `number`, registered.
    pub(crate) fn connect(&mut self, number: usize) -> Peer {
        let peer = self.peer(number);
        self.presence.register(&peer.registration);
        peer
    }
}

/// Takes all that waits in an outbox, as a writer does whose socket takes everything; returns the number of writes.
pub(crate) fn drain(outbox: &Outbox) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let mut writes = 0;
    while let Poll::Ready(taken) = outbox.poll_take(&mut cx) {
        match taken {
            Taken::Data(slab) => slab.delivered(),
            Taken::Control(_) => {}
            Taken::Finished | Taken::Aborted => return writes,
        }
        writes += 1;
    }
    writes
}
