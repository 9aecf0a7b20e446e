//! Metric names and labels, as operations.md lists them. They are used nowhere as literals.
//!
//! Counters stand without the `_total` that the Prometheus exposition adds.

/// Connected peers, by `transport`.
pub const PEERS: &str = "relay_peers";
/// Which part of them a `transport` carries, from 0 to 1.
pub const PEERS_SHARE: &str = "relay_peers_share";
/// Peers that sent something in the last 30 s.
pub const PEERS_ACTIVE: &str = "relay_peers_active";
/// Peers that did not.
pub const PEERS_IDLE: &str = "relay_peers_idle";
/// Bytes of transport messages delivered.
pub const TRANSFER_SENT_BYTES: &str = "relay_transfer_sent_bytes";
/// Bytes of transport messages received.
pub const TRANSFER_RECEIVED_BYTES: &str = "relay_transfer_received_bytes";
/// Connections that took the place of an older one of the same peer.
pub const RECONNECTIONS: &str = "relay_peer_reconnections";
/// From the first byte to the end of authentication.
pub const AUTHENTICATION_TIME: &str = "relay_peer_authentication_time_milliseconds";
/// What it takes to register a peer.
pub const STORE_TIME: &str = "relay_peer_store_time_milliseconds";
/// Transport messages that a queue dropped, by `reason`.
pub const QUEUE_DROPS: &str = "relay_transport_queue_drops";
/// All other dropped messages, by `reason`.
pub const MESSAGES_DROPPED: &str = "relay_messages_dropped";
/// Messages, by `type` and `direction`.
pub const MESSAGES: &str = "relay_messages";
/// Refused tokens, by `reason`.
pub const AUTHENTICATION_FAILURES: &str = "relay_authentication_failures";
/// Connections that took too long to become peers, by `stage`.
pub const HANDSHAKE_TIMEOUTS: &str = "relay_handshake_timeouts";
/// Connections that were refused before or without authentication, by `reason`.
pub const HANDSHAKE_REFUSALS: &str = "relay_handshake_refusals";
/// Connections that hold a place: peers, and those that are not peers yet.
pub const CONNECTIONS: &str = "relay_connections";
/// Connections that have said something and are not peers yet.
pub const HANDSHAKES: &str = "relay_handshakes";
/// Those that wait until others of their address are done.
pub const HANDSHAKES_WAITING: &str = "relay_handshakes_waiting";
/// TLS handshakes that failed, by `reason`.
pub const TLS_HANDSHAKE_FAILURES: &str = "relay_tls_handshake_failures";
/// Whether the relay reaches itself with QUIC at its public address: 1 or 0.
pub const QUIC_REACHABLE: &str = "relay_quic_reachable";
/// When the certificate in use expires, in Unix seconds.
pub const CERTIFICATE_EXPIRY: &str = "relay_tls_certificate_expiry_timestamp_seconds";
/// Attempts to get a certificate by ACME, by `result`.
pub const ACME_ORDERS: &str = "relay_acme_orders";
/// Takeovers, by `scope`.
pub const TAKEOVERS: &str = "relay_takeovers";
/// Bytes of memory that all queues hold.
pub const QUEUE_BYTES: &str = "relay_queue_bytes";
/// Bytes of memory that all queues may hold.
pub const QUEUE_BUDGET_BYTES: &str = "relay_queue_budget_bytes";
/// Rounds in which the other pods were looked for, by `result`.
pub const DISCOVERY_ROUNDS: &str = "relay_cluster_discovery_rounds";
/// Other pods that the last answers named.
pub const DISCOVERED_PODS: &str = "relay_cluster_discovered_pods";
/// CPU time of the process, in seconds.
pub const PROCESS_CPU: &str = "process_cpu_seconds";
/// Its resident memory.
pub const PROCESS_RESIDENT_MEMORY: &str = "process_resident_memory_bytes";
/// The files that it has open.
pub const PROCESS_OPEN_FDS: &str = "process_open_fds";
/// The files that it may have open.
pub const PROCESS_MAX_FDS: &str = "process_max_fds";
/// When it started, in Unix seconds.
pub const PROCESS_START_TIME: &str = "process_start_time_seconds";
/// Exports by OTLP, by `signal` and `result`.
pub const OTLP_EXPORTS: &str = "relay_otlp_exports";
/// Always 1; the `version` is the label.
pub const BUILD_INFO: &str = "relay_build_info";

/// Datagrams that came to the STUN server, by `result`.
pub const STUN_REQUESTS: &str = "relay_stun_requests";

/// Datagrams that the kernel dropped before they could be read, by `server` and `reason`.
pub const UDP_DROPS: &str = "relay_udp_drops";

/// Other pods that there is a stream to.
pub const CLUSTER_STREAMS: &str = "relay_cluster_streams";
/// 1 for each other pod that there is a stream to, by `peer_pod`.
pub const CLUSTER_STREAM_UP: &str = "relay_cluster_stream_up";
/// Streams from or to pods that were refused, by `reason`.
pub const CLUSTER_HELLO_REJECTS: &str = "relay_cluster_hello_rejects";
/// PINGs sent to other pods.
pub const CLUSTER_PINGS_SENT: &str = "relay_cluster_pings_sent";
/// PINGs that were not answered in time.
pub const CLUSTER_PINGS_LOST: &str = "relay_cluster_pings_lost";
/// Messages for peers on other pods, by `result`.
pub const CLUSTER_FORWARDS: &str = "relay_cluster_forwards";
/// Questions to the other pods who has a peer, by `result`.
pub const CLUSTER_OWNER_LOOKUPS: &str = "relay_cluster_owner_lookups";
/// How long it took to learn who has a peer.
pub const CLUSTER_LOOKUP_DURATION: &str = "relay_cluster_lookup_duration_seconds";

/// Label: what became of a question, a round or an attempt.
pub const RESULT: &str = "result";
/// Label: the server that a socket belongs to.
pub const SERVER: &str = "server";
/// Label: what carries a connection.
pub const TRANSPORT: &str = "transport";
/// Label: why.
pub const REASON: &str = "reason";
/// Label: the type of a message.
pub const TYPE: &str = "type";
/// Label: `received` or `sent`; between pods, `received_from_pod` or `forwarded`.
pub const DIRECTION: &str = "direction";
/// Label: `proxy`, `tls`, `upgrade` or `auth`.
pub const STAGE: &str = "stage";
/// Label: `metrics` or `traces`.
pub const SIGNAL: &str = "signal";
/// Label: `local` or `cluster`.
pub const SCOPE: &str = "scope";
/// Label: the address that another pod announces. (Prometheus gives `pod` to who is asked.)
pub const PEER_POD: &str = "peer_pod";
/// Label: the version of the program.
pub const VERSION: &str = "version";

/// Bounds of the histogram of lookups, in seconds.
pub const LOOKUP_BOUNDS: [f64; 9] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0];

/// Bounds of the histograms in milliseconds.
pub const MILLISECOND_BOUNDS: [f64; 11] = [
    0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0, 10000.0,
];
