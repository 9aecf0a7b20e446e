use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::metrics::noop::NoopMeterProvider;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tower::service_fn;
use tower::util::BoxCloneSyncService;

use super::*;
use crate::cluster::discovery::Question;

/// What the script has the DNS say; None: it never answers.
type Said = Option<Result<(&'static str, u64), &'static str>>;

/// When each question came, and the answers still to be given by name.
#[derive(Debug, Default)]
struct Script {
    asked: Mutex<Vec<(Duration, Question)>>,
    answers: Mutex<HashMap<&'static str, VecDeque<Said>>>,
}

/// The addresses of a text with commas between them.
fn addresses(text: &str) -> BTreeSet<SocketAddr> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().unwrap())
        .collect()
}

/// A discovery on a paused clock whose resolver follows a script; the last answer of a name is given for ever.
struct Scripted {
    script: Arc<Script>,
    found: watch::Receiver<Discovered>,
    start: Instant,
}

impl Scripted {
    fn start(own: &str, sources: &[&str], answers: &[(&'static str, &[Said])]) -> Self {
        let script = Arc::new(Script::default());
        for (name, said) in answers {
            let said = said.iter().copied().collect();
            script.answers.lock().insert(name, said);
        }
        let start = Instant::now();
        let of = Arc::clone(&script);
        let resolver = BoxCloneSyncService::new(service_fn(move |question: Question| {
            let script = Arc::clone(&of);
            async move {
                let said = {
                    let mut answers = script.answers.lock();
                    let said = answers
                        .get_mut(question.name())
                        .expect("a name of the script");
                    if said.len() > 1 {
                        said.pop_front()
                    } else {
                        said.front().copied()
                    }
                };
                script.asked.lock().push((start.elapsed(), question));
                match said.expect("an answer in the script") {
                    None => std::future::pending().await,
                    Some(Err(error)) => Err(BoxError::from(error)),
                    Some(Ok((pods, ttl))) => Ok(Answer {
                        pods: addresses(pods),
                        ttl: Duration::from_secs(ttl),
                    }),
                }
            }
        }));
        let sources = sources.iter().map(|source| source.parse().unwrap());
        let meter = NoopMeterProvider::new().meter("test");
        let (discovery, found) =
            Discovery::new(own.parse().unwrap(), sources, resolver, INTERVAL, &meter);
        tokio::spawn(discovery.run());
        Self {
            script,
            found,
            start,
        }
    }

    /// Waits for the next successful round, and tells when it was.
    async fn round(&mut self) -> (u64, BTreeSet<SocketAddr>) {
        let limit = Duration::from_secs(3600);
        timeout(limit, self.found.changed())
            .await
            .expect("a round")
            .unwrap();
        (
            self.start.elapsed().as_secs(),
            self.found.borrow_and_update().pods.clone(),
        )
    }

    fn asked_at(&self) -> Vec<Duration> {
        self.script
            .asked
            .lock()
            .iter()
            .map(|(when, _)| *when)
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_round_is_at_once_and_the_next_when_the_ttl_is_over_but_never_later_than_the_interval()
 {
    let answers: &[Said] = &[
        Some(Ok(("10.0.0.1:1", 300))),
        Some(Ok(("10.0.0.1:1", 4))),
        Some(Ok(("10.0.0.1:1", 0))),
        Some(Ok(("10.0.0.1:1", 10))),
    ];
    let mut scripted = Scripted::start("10.0.0.9:1", &["pods:1"], &[("pods", answers)]);
    let mut when = Vec::new();
    for _ in 0..5 {
        when.push(scripted.round().await.0);
    }
    assert_eq!(when, [0, 10, 14, 15, 25]);
    assert_eq!(scripted.found.borrow().rounds, 5);
}

#[tokio::test(start_paused = true)]
async fn a_failed_round_changes_nothing_and_is_repeated_soon_then_less_often() {
    let answers: &[Said] = &[
        Some(Ok(("10.0.0.1:1,10.0.0.2:1,10.0.0.9:1", 5))),
        Some(Err("SERVFAIL")),
        Some(Err("SERVFAIL")),
        Some(Ok(("10.0.0.9:1,10.0.0.3:1", 5))),
    ];
    let mut scripted = Scripted::start("10.0.0.9:1", &["pods:1"], &[("pods", answers)]);
    let (_, pods) = scripted.round().await;
    assert_eq!(pods, addresses("10.0.0.1:1,10.0.0.2:1"), "without our own");
    let before = scripted.found.borrow().clone();
    while scripted.asked_at().len() < 3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(*scripted.found.borrow(), before);
    let (_, pods) = scripted.round().await;
    assert_eq!(pods, addresses("10.0.0.3:1"));
    let asked = scripted.asked_at();
    let pauses: Vec<f64> = asked
        .windows(2)
        .map(|two| (two[1] - two[0]).as_secs_f64())
        .collect();
    assert!((0.5..=0.76).contains(&pauses[1]), "{pauses:?}");
    assert!((1.0..=1.51).contains(&pauses[2]), "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_waited_for_half_an_interval_and_nobody_is_there_before_the_first() {
    let answers: &[Said] = &[None, None, None, None, None, Some(Ok(("10.0.0.1:1", 5)))];
    let mut scripted = Scripted::start("10.0.0.9:1", &["pods:1"], &[("pods", answers)]);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(*scripted.found.borrow(), Discovered::default());
    assert_eq!(scripted.round().await.1, addresses("10.0.0.1:1"));
    let asked = scripted.asked_at();
    for two in asked.windows(2) {
        let pause = two[1] - two[0];
        assert!(
            pause >= Duration::from_millis(5500) && pause <= Duration::from_secs(15),
            "{asked:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_without_addresses_counts_as_a_round_and_takes_no_pod_away() {
    let answers: &[Said] = &[
        Some(Ok(("", 5))),
        Some(Ok(("10.0.0.1:1", 5))),
        Some(Ok(("", 5))),
        Some(Ok(("10.0.0.9:1", 5))),
    ];
    let mut scripted = Scripted::start("10.0.0.9:1", &["pods:1"], &[("pods", answers)]);
    assert_eq!(scripted.round().await, (0, addresses("")));
    assert_eq!(scripted.round().await.1, addresses("10.0.0.1:1"));
    assert_eq!(scripted.round().await.1, addresses("10.0.0.1:1"));
    assert_eq!(
        scripted.round().await.1,
        addresses(""),
        "an answer without it does"
    );
}

#[tokio::test(start_paused = true)]
async fn sources_are_one_set_and_one_that_fails_does_not_hold_up_the_others() {
    let list = [
        "10.0.0.1:7090",
        "b:7091",
        "_relay._tcp.example.com",
        "[::ffff:10.0.0.9]:7090",
        "c:1",
    ];
    let answers: [(&'static str, &[Said]); 3] = [
        ("b", &[Some(Ok(("10.0.0.2:7091", 60)))]),
        (
            "_relay._tcp.example.com",
            &[Some(Ok(("10.0.0.3:1,10.0.0.3:2", 60)))],
        ),
        (
            "c",
            &[
                Some(Err("no route")),
                Some(Ok(("10.0.0.4:1", 60))),
                Some(Err("no route")),
            ],
        ),
    ];
    let mut scripted = Scripted::start("10.0.0.9:7090", &list, &answers);
    let first = addresses("10.0.0.1:7090,10.0.0.2:7091,10.0.0.3:1,10.0.0.3:2");
    assert_eq!(scripted.round().await, (0, first.clone()));
    let mut all = first;
    all.extend(addresses("10.0.0.4:1"));
    assert_eq!(scripted.round().await, (10, all.clone()));
    assert_eq!(scripted.round().await, (20, all));
    let asked = scripted.script.asked.lock();
    assert!(asked.iter().all(|(_, question)| match question {
        Question::Hosts { family, .. } | Question::Services { family, .. } => *family == Family::V4,
    }));
}
