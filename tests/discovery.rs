//! Discovery against a real DNS server: what becomes of names, failures, long answers and service records.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_server::proto::rr::RecordType;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::metrics::noop::NoopMeterProvider;
use support::dns::{DnsServer, Mood};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;
use trunkline::cluster::discovery::{
    Answer, Discovered, Discovery, Dns, Family, Question, Resolver, Source,
};

/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// So that the tests do not wait for ten seconds each time.
const INTERVAL: Duration = Duration::from_millis(100);

const KUBERNETES: &str =
    "search ns.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5";

fn addresses(texts: &[&str]) -> BTreeSet<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn resolver(server: &DnsServer) -> Resolver {
    let dns = Dns::at(server.resolv_conf()).port(server.port());
    BoxCloneSyncService::new(dns.map_err(Into::into))
}

fn hosts(name: &str, family: Family) -> Question {
    Question::Hosts {
        name: name.into(),
        port: 7090,
        family,
    }
}

fn services(name: &str) -> Question {
    Question::Services {
        name: name.into(),
        family: Family::V4,
    }
}

async fn ask(server: &DnsServer, question: Question) -> Result<Answer, String> {
    let answer = timeout(PATIENCE, resolver(server).oneshot(question)).await;
    answer
        .expect("an answer in time")
        .map_err(|error| error.to_string())
}

/// A discovery at work, and what it tells.
struct Watched(watch::Receiver<Discovered>);

impl Watched {
    fn start(server: &DnsServer, own: &str, source: Source) -> Self {
        let meter = NoopMeterProvider::new().meter("test");
        let (discovery, found) = Discovery::new(
            own.parse().unwrap(),
            [source],
            resolver(server),
            INTERVAL,
            &meter,
        );
        tokio::spawn(discovery.run());
        Self(found)
    }

    async fn until(&mut self, pods: &[&str]) {
        let pods = addresses(pods);
        let all = |found: &Discovered| found.rounds > 0 && found.pods == pods;
        let came = timeout(PATIENCE, self.0.wait_for(all)).await.is_ok();
        assert!(came, "{pods:?} never came; there is {:?}", *self.0.borrow());
    }

    /// Waits for some further successful rounds.
    async fn rounds(&mut self, more: u64) {
        let goal = self.0.borrow().rounds + more;
        let enough = timeout(PATIENCE, self.0.wait_for(|found| found.rounds >= goal)).await;
        enough.expect("further rounds").unwrap();
    }
}

#[tokio::test]
async fn pods_come_and_go_with_the_name() {
    let server = DnsServer::start(KUBERNETES).await;
    let name = "relay.ns.svc.cluster.local.";
    server.set(name, 0, &["127.0.0.1", "127.0.0.2"]);
    let source = Source::headless("relay", 7090).unwrap();
    let mut watched = Watched::start(&server, "127.0.0.1:7090", source);
    watched.until(&["127.0.0.2:7090"]).await;
    server.set(
        name,
        0,
        &[
            "127.0.0.1",
            "127.0.0.2",
            "127.0.0.3",
            "127.0.0.4",
            "127.0.0.5",
        ],
    );
    watched
        .until(&[
            "127.0.0.2:7090",
            "127.0.0.3:7090",
            "127.0.0.4:7090",
            "127.0.0.5:7090",
        ])
        .await;
    server.set(name, 0, &["127.0.0.1", "127.0.0.5"]);
    watched.until(&["127.0.0.5:7090"]).await;
    server.set(name, 0, &["127.0.0.1"]);
    watched.until(&[]).await;
}

#[tokio::test]
async fn a_failing_dns_and_a_vanished_name_change_nothing() {
    let server = DnsServer::start(KUBERNETES).await;
    let name = "relay.ns.svc.cluster.local.";
    server.set(name, 0, &["127.0.0.1", "127.0.0.2"]);
    let source = Source::headless("relay", 7090).unwrap();
    let mut watched = Watched::start(&server, "127.0.0.1:7090", source);
    watched.until(&["127.0.0.2:7090"]).await;
    for mood in [Mood::Failing, Mood::Silent] {
        server.set_mood(mood);
        let asked = server.asked().0;
        // An answer from before may still be on its way.
        let rounds = watched.0.borrow().rounds + 1;
        support::until("questions without an answer", || {
            server.asked().0 > asked + 8
        })
        .await;
        let found = watched.0.borrow().clone();
        assert_eq!(found.pods, addresses(&["127.0.0.2:7090"]), "{mood:?}");
        assert!(found.rounds <= rounds, "{mood:?}: {found:?}");
        server.set_mood(Mood::Well);
        watched.rounds(2).await;
    }
    server.remove(name);
    watched.rounds(3).await;
    assert_eq!(watched.0.borrow().pods, addresses(&["127.0.0.2:7090"]));
    server.set(name, 0, &["127.0.0.1", "127.0.0.3"]);
    watched.until(&["127.0.0.3:7090"]).await;
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_an_answer_and_a_failure_is_none() {
    let server = DnsServer::start(KUBERNETES).await;
    assert_eq!(
        ask(&server, hosts("relay", Family::V4)).await.unwrap().pods,
        addresses(&[])
    );
    assert_eq!(
        ask(&server, services("_relay._tcp.x")).await.unwrap().pods,
        addresses(&[])
    );
    // The name that exists cannot be asked for: that the other candidates do not exist is no answer.
    server.set("relay.ns.svc.cluster.local.", 5, &["10.0.0.1"]);
    server.break_name("relay.ns.svc.cluster.local.", RecordType::A);
    let error = ask(&server, hosts("relay", Family::V4)).await.unwrap_err();
    assert!(
        error.starts_with("relay.ns.svc.cluster.local.: "),
        "{error}"
    );
    // A failure at the addresses nobody wants is none.
    let answer = ask(&server, hosts("relay", Family::V6)).await;
    assert!(
        answer.is_err(),
        "the other family may be the only one: {answer:?}"
    );
    server.set("other.ns.svc.cluster.local.", 5, &["10.0.0.1"]);
    server.break_name("other.ns.svc.cluster.local.", RecordType::AAAA);
    let answer = ask(&server, hosts("other", Family::V4)).await.unwrap();
    assert_eq!(answer.pods, addresses(&["10.0.0.1:7090"]));
    assert_eq!(answer.ttl, Duration::from_secs(5));
}

#[tokio::test]
async fn of_two_families_the_pods_own_counts_and_one_alone_always_does() {
    let server = DnsServer::start("").await;
    server.set(
        "both.example.",
        30,
        &["10.0.0.1", "2001:db8::1", "10.0.0.2", "2001:db8::2"],
    );
    server.set("six.example.", 30, &["2001:db8::1"]);
    for (name, family, expected) in [
        (
            "both.example",
            Family::V4,
            &["10.0.0.1:7090", "10.0.0.2:7090"][..],
        ),
        (
            "both.example",
            Family::V6,
            &["[2001:db8::1]:7090", "[2001:db8::2]:7090"],
        ),
        ("six.example", Family::V4, &["[2001:db8::1]:7090"]),
        ("six.example", Family::V6, &["[2001:db8::1]:7090"]),
    ] {
        let answer = ask(&server, hosts(name, family)).await.unwrap();
        assert_eq!(answer.pods, addresses(expected), "{name} {family:?}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_fit_into_a_datagram_is_fetched_over_tcp() {
    let server = DnsServer::start("").await;
    let ips: Vec<String> = (0..250).map(|n| format!("10.0.1.{n}")).collect();
    let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    server.set("many.example.", 5, &ips);
    let answer = ask(&server, hosts("many.example.", Family::V4))
        .await
        .unwrap();
    assert_eq!(answer.pods.len(), 250);
    assert!(server.asked().1 > 0, "{:?}", server.asked());
}

#[tokio::test]
async fn service_records_give_each_pod_its_own_port() {
    let server = DnsServer::start(KUBERNETES).await;
    let name = "_cluster._tcp.relay.ns.svc.cluster.local.";
    let (one, two) = (
        "one.relay.ns.svc.cluster.local.",
        "two.relay.ns.svc.cluster.local.",
    );
    server.set_services(name, 9, &[(one, 7090), (two, 7091), (two, 7092), (".", 1)]);
    server.set(one, 7, &["10.0.0.1", "2001:db8::1"]);
    server.set(two, 8, &["10.0.0.2"]);
    let expected = Answer {
        pods: addresses(&["10.0.0.1:7090", "10.0.0.2:7091", "10.0.0.2:7092"]),
        ttl: Duration::from_secs(7),
    };
    let question = services("_cluster._tcp.relay");
    assert_eq!(ask(&server, question.clone()).await.unwrap(), expected);
    let (udp, tcp) = server.asked();
    assert_eq!(udp + tcp, 1, "the addresses come along");
    server.without_glue();
    assert_eq!(ask(&server, question.clone()).await.unwrap(), expected);
    // A target that cannot be looked up makes the answer incomplete, so it is none.
    server.break_name(two, RecordType::A);
    assert!(ask(&server, question).await.is_err());
}
