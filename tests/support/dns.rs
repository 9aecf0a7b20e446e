//! A DNS server on a free loopback port (UDP and TCP) that the test reprograms while it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::SRV;
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use parking_lot::Mutex;
use tokio::net::{TcpListener, UdpSocket};

/// How the server treats questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It answers.
    Well,
    /// It says SERVFAIL.
    Failing,
    /// It says nothing.
    Silent,
}

/// What it knows.
#[derive(Debug)]
struct Zone {
    mood: Mood,
    /// Names and types that are refused with SERVFAIL while all else goes well.
    broken: BTreeSet<(LowerName, RecordType)>,
    records: BTreeMap<LowerName, Vec<Record>>,
    /// Whether the addresses of an SRV record's targets are sent along.
    glue: bool,
}

/// Questions by the way they came.
#[derive(Debug, Default)]
struct Asked {
    udp: AtomicU64,
    tcp: AtomicU64,
}

#[derive(Debug, Clone)]
struct Handler {
    zone: Arc<Mutex<Zone>>,
    asked: Arc<Asked>,
}

/// A running server; it ends when this is dropped.
pub(crate) struct DnsServer {
    handler: Handler,
    addr: SocketAddr,
    resolv_conf: PathBuf,
    _server: Server<Handler>,
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        // Left behind, it would be litter and nothing worse.
        let _ = std::fs::remove_file(&self.resolv_conf);
    }
}

impl DnsServer {
    /// One that knows no name yet. `resolv_conf` are further lines for the file that points to it.
    pub(crate) async fn start(resolv_conf: &str) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // Somebody else may have the same port for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let addr = udp.local_addr().unwrap();
        let handler = Handler {
            zone: Arc::new(Mutex::new(Zone {
                mood: Mood::Well,
                broken: BTreeSet::new(),
                records: BTreeMap::new(),
                glue: true,
            })),
            asked: Arc::default(),
        };
        let mut server = Server::new(handler.clone());
        server.register_socket(udp);
        server.register_listener(tcp, Duration::from_secs(5), 32);
        let path = std::env::temp_dir().join(format!(
            "trunkline-resolv-{}-{}.conf",
            std::process::id(),
            addr.port()
        ));
        std::fs::write(&path, format!("nameserver 127.0.0.1\n{resolv_conf}\n")).unwrap();
        Self {
            handler,
            addr,
            resolv_conf: path,
            _server: server,
        }
    }

    /// The file to read instead of /etc/resolv.conf.
    pub(crate) fn resolv_conf(&self) -> &Path {
        &self.resolv_conf
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Gives a full name these addresses and no others, with a TTL in seconds.
    pub(crate) fn set(&self, name: &str, ttl: u32, ips: &[&str]) {
        let owner = Name::from_ascii(name).unwrap();
        let records = ips.iter().map(|ip| {
            let data = match ip.parse().unwrap() {
                IpAddr::V4(ip) => RData::A(ip.into()),
                IpAddr::V6(ip) => RData::AAAA(ip.into()),
            };
            Record::from_rdata(owner.clone(), ttl, data)
        });
        self.put(&owner, records.collect());
    }

    /// Gives a full service name these targets and no others.
    pub(crate) fn set_services(&self, name: &str, ttl: u32, targets: &[(&str, u16)]) {
        let owner = Name::from_ascii(name).unwrap();
        let records = targets.iter().map(|(target, port)| {
            let service = SRV::new(0, 0, *port, Name::from_ascii(target).unwrap());
            Record::from_rdata(owner.clone(), ttl, RData::SRV(service))
        });
        self.put(&owner, records.collect());
    }

    fn put(&self, owner: &Name, records: Vec<Record>) {
        let mut zone = self.handler.zone.lock();
        zone.records.insert(owner.into(), records);
    }

    /// Takes a name away.
    pub(crate) fn remove(&self, name: &str) {
        let owner = Name::from_ascii(name).unwrap();
        self.handler
            .zone
            .lock()
            .records
            .remove(&LowerName::from(owner));
    }

    /// How it answers from now on.
    pub(crate) fn set_mood(&self, mood: Mood) {
        self.handler.zone.lock().mood = mood;
    }

    /// Fails at this name and type alone.
    pub(crate) fn break_name(&self, name: &str, kind: RecordType) {
        let owner = Name::from_ascii(name).unwrap();
        self.handler.zone.lock().broken.insert((owner.into(), kind));
    }

    /// Sends no addresses along with targets any more.
    pub(crate) fn without_glue(&self) {
        self.handler.zone.lock().glue = false;
    }

    /// How many questions came over UDP and over TCP.
    pub(crate) fn asked(&self) -> (u64, u64) {
        let asked = &self.handler.asked;
        (
            asked.udp.load(Ordering::Relaxed),
            asked.tcp.load(Ordering::Relaxed),
        )
    }
}

impl Zone {
    /// The records to answer with, the records to send along, and the verdict; None: no answer at all.
    fn answer(
        &self,
        name: &LowerName,
        kind: RecordType,
    ) -> Option<(Vec<Record>, Vec<Record>, ResponseCode)> {
        match self.mood {
            Mood::Silent => return None,
            Mood::Failing => return Some((Vec::new(), Vec::new(), ResponseCode::ServFail)),
            Mood::Well if self.broken.contains(&(name.clone(), kind)) => {
                return Some((Vec::new(), Vec::new(), ResponseCode::ServFail));
            }
            Mood::Well => {}
        }
        let Some(records) = self.records.get(name) else {
            return Some((Vec::new(), Vec::new(), ResponseCode::NXDomain));
        };
        let answers: Vec<Record> = records
            .iter()
            .filter(|record| record.record_type() == kind)
            .cloned()
            .collect();
        let mut glue = Vec::new();
        if self.glue {
            for record in &answers {
                if let RData::SRV(service) = &record.data {
                    let target = LowerName::from(service.target.clone());
                    glue.extend(self.records.get(&target).into_iter().flatten().cloned());
                }
            }
        }
        Some((answers, glue, ResponseCode::NoError))
    }
}

impl RequestHandler for Handler {
    fn handle_request<'life0, 'life1, 'async_trait, R, T>(
        &'life0 self,
        request: &'life1 Request,
        mut responses: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'async_trait>>
    where
        R: ResponseHandler + 'async_trait,
        T: Time + 'async_trait,
        'life0: 'async_trait,
        'life1: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let count = match request.protocol() {
                Protocol::Udp => &self.asked.udp,
                _ => &self.asked.tcp,
            };
            count.fetch_add(1, Ordering::Relaxed);
            let info = request.request_info().expect("one question");
            let said = self
                .zone
                .lock()
                .answer(info.query.name(), info.query.query_type());
            let Some((answers, additionals, code)) = said else {
                return std::future::pending().await;
            };
            let mut metadata = Metadata::response_from_request(info.metadata);
            metadata.response_code = code;
            metadata.authoritative = true;
            let response = MessageResponseBuilder::from_message_request(request).build(
                metadata,
                answers.iter(),
                [],
                [],
                additionals.iter(),
            );
            responses
                .send_response(response)
                .await
                .expect("an answer that can be written")
        })
    }
}
