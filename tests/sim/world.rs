//! One run: a random schedule from one seed, and what must hold during it and after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep};

use super::client::{Connection, Note, Witness};
use super::net::Net;
use super::pod::{Pod, address};
use super::stock::Stock;

/// How long after the last event everything must have come right, in virtual time: the longest is a stream that is cut off in silence (16 s), the pauses
/// between two dials after that (10 s), and a lost pod's peers, which are held for 5 s.
const QUIET: Duration = Duration::from_secs(45);

/// The same with a stock pod, which announces nothing: it is asked for watched peers every 30 s at the least.
const QUIET_WITH_STOCK: Duration = Duration::from_secs(90);

/// How many of each there are at most.
const PODS: std::ops::RangeInclusive<usize> = 2..=4;
const PEERS: std::ops::RangeInclusive<u8> = 3..=7;
const EVENTS: std::ops::RangeInclusive<usize> = 8..=30;

pub(crate) struct World {
    random: SmallRng,
    net: Net,
    /// By place; None: nobody is there, or the stock pod.
    pods: Vec<Option<Pod>>,
    /// The place of the stock pod, if there is one in this world.
    stock_place: Option<usize>,
    stock: Option<Stock>,
    /// How many pods were ever started.
    lives: u32,
    peers: u8,
    connections: Vec<Connection>,
    opened: u32,
    numbers: BTreeMap<u8, u32>,
    witness: Arc<Mutex<Witness>>,
    calms: u32,
    listed: Arc<Mutex<Vec<std::net::SocketAddr>>>,
    start: Instant,
}

/// Runs one seed; the error is the story and what went wrong.
pub(crate) async fn run(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed).await;
    world.schedule().await;
    world.settle().await;
    world.check_truth().await;
    world.end().await;
    let witness = world.witness.lock();
    if witness.wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{}\n{}", witness.story, witness.wrong.join("\n")))
    }
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let delay = Duration::from_millis(random.random_range(1..=40));
        let net = Net::new(random.random(), delay);
        tokio::spawn(net.clone().run());
        let count = random.random_range(PODS);
        let mut world = Self {
            pods: (0..count).map(|_| None).collect(),
            stock_place: random.random_bool(0.4).then_some(count - 1),
            stock: None,
            lives: 0,
            peers: random.random_range(PEERS),
            connections: Vec::new(),
            opened: 0,
            numbers: BTreeMap::new(),
            witness: Arc::default(),
            calms: 0,
            listed: Arc::default(),
            start: Instant::now(),
            random,
            net,
        };
        for place in 0..count {
            // All at one instant, or one after the other.
            if world.random.random_bool(0.3) {
                sleep(Duration::from_millis(300)).await;
            }
            world.start_pod(place);
        }
        world
    }

    fn tell(&mut self, what: &str) {
        self.witness.lock().tell(what);
    }

    fn wrong(&self, what: String) {
        self.witness.lock().wrong.push(what);
    }

    fn list(&self) {
        let ours = self.pods.iter().flatten().map(|pod| pod.address);
        let there = ours.chain(self.stock.iter().map(|stock| stock.address));
        *self.listed.lock() = there.collect();
    }

    fn start_pod(&mut self, place: usize) {
        let skew = self.random.random_range(0..5);
        let seed = self.random.random();
        self.lives += 1;
        for other in 0..self.pods.len() {
            self.cut(place, other, false);
            self.cut(other, place, false);
        }
        if self.stock_place == Some(place) {
            self.stock = Some(Stock::start(&self.net, place, self.lives, self.start));
            self.list();
            return self.tell(&format!(
                "pod {place} starts as life {}, a stock pod",
                self.lives
            ));
        }
        let pod = Pod::start(
            &self.net,
            place,
            self.lives,
            skew,
            seed,
            self.start,
            &self.listed,
        );
        self.pods[place] = Some(pod);
        self.list();
        self.tell(&format!("pod {place} starts as life {}", self.lives));
    }

    fn cut(&self, from: usize, to: usize, is_cut: bool) {
        self.net.set_cut(address(from), address(to), is_cut);
    }

    /// A process that is killed: its machine says so to those who ask, or it does not.
    async fn kill(&mut self, place: usize, silently: bool) {
        if !self.is_there(place) {
            return;
        }
        self.tell(&format!("pod {place} is killed, silently: {silently}"));
        self.net.unlisten(address(place));
        if !silently {
            self.net.reset_all(address(place));
        }
        for other in 0..self.pods.len() {
            self.cut(place, other, true);
            self.cut(other, place, true);
        }
        self.connections
            .retain(|connection| connection.pod != place);
        if self.random.random_bool(0.5) {
            self.list();
        }
        // Nobody hears what it says at its end.
        self.end_pod(place).await;
    }

    fn is_there(&self, place: usize) -> bool {
        if self.stock_place == Some(place) {
            self.stock.is_some()
        } else {
            self.pods[place].is_some()
        }
    }

    async fn end_pod(&mut self, place: usize) {
        if self.stock_place == Some(place) {
            self.stock = None;
        } else if let Some(pod) = self.pods[place].take() {
            pod.end().await;
        }
    }

    async fn drain(&mut self, place: usize) {
        let Some(pod) = self.pods[place].take() else {
            return;
        };
        self.tell(&format!("pod {place} is told to stop"));
        self.list();
        pod.end().await;
        self.net.unlisten(address(place));
        self.connections
            .retain(|connection| connection.pod != place);
        self.tell(&format!("pod {place} has stopped"));
    }

    async fn connect(&mut self, peer: u8, place: usize) {
        // Stock pods and ours end no connections for each other: the client does.
        let stock = self.stock_place;
        if self.is_there(place) {
            let is_left = |at: usize| stock == Some(place) || stock == Some(at);
            self.connections
                .retain(|of| of.peer != peer || !is_left(of.pod));
        }
        if stock == Some(place) {
            return self.connect_to_stock(peer, place);
        }
        let Some(pod) = &self.pods[place] else { return };
        self.opened += 1;
        let number = self.opened;
        let life = (place, pod.life);
        let connection = Connection::open(&pod.relay, peer, number, life, &self.witness).await;
        self.tell(&format!(
            "p{peer} connects to pod {place} as c{number}: {}",
            connection.is_some()
        ));
        self.connections.extend(connection);
    }

    fn connect_to_stock(&mut self, peer: u8, place: usize) {
        let Some(stock) = &self.stock else { return };
        self.opened += 1;
        let (number, life) = (self.opened, (place, stock.life));
        let connection = Connection::to_stock(&stock.pod, peer, number, life, &self.witness);
        self.tell(&format!("p{peer} connects to the stock pod as c{number}"));
        self.connections.push(connection);
    }

    fn a_place(&mut self) -> usize {
        self.random.random_range(0..self.pods.len())
    }

    fn a_peer(&mut self) -> u8 {
        self.random.random_range(0..self.peers)
    }

    fn send(&mut self, connection: usize, to: u8) {
        let connection = &self.connections[connection];
        let number = self.numbers.entry(connection.peer).or_default();
        *number += 1;
        connection.send(Note {
            from: connection.peer,
            to,
            connection: connection.number,
            number: *number,
            calm: self.witness.lock().calm,
        });
    }

    async fn schedule(&mut self) {
        for _ in 0..self.random.random_range(EVENTS) {
            self.witness.lock().calm = 0;
            self.event().await;
            let pause = match self.random.random_range(0..10) {
                0..=3 => 0,
                4..=6 => self.random.random_range(1..200),
                7 | 8 => self.random.random_range(200..5_000),
                _ => self.random.random_range(5_000..30_000),
            };
            sleep(Duration::from_millis(pause)).await;
            self.connections.retain(Connection::is_alive);
        }
    }

    async fn event(&mut self) {
        let (one, other) = (self.a_place(), self.a_place());
        let peer = self.a_peer();
        match self.random.random_range(0..100) {
            0..=29 => self.connect(peer, one).await,
            30..=39 => {
                let leaving = self
                    .connections
                    .iter()
                    .position(|connection| connection.peer == peer);
                if let Some(leaving) = leaving {
                    self.connections.remove(leaving);
                    self.tell(&format!("p{peer} leaves"));
                }
            }
            40..=47 => {
                // A client that moves: the old connection goes at once, soon, or by a takeover.
                self.connections
                    .retain(|connection| connection.peer != peer);
                self.connect(peer, one).await;
            }
            48..=59 => {
                let peers = self.peers;
                let watched: Vec<u8> = (0..peers)
                    .filter(|_| self.random.random_bool(0.5))
                    .collect();
                let mut told = None;
                if let Some(connection) = self.connections.iter_mut().find(|of| of.peer == peer) {
                    connection.watch(watched.iter().copied().filter(|of| *of != peer));
                    told = Some(connection.number);
                }
                self.tell(&format!("c{told:?} of p{peer} watches {watched:?}"));
            }
            60..=79 => {
                let to = self.a_peer();
                let count = self.random.random_range(1..=20);
                if !self.connections.is_empty() && to != peer {
                    let from = self.random.random_range(0..self.connections.len());
                    self.tell(&format!(
                        "c{} sends {count} to p{to}",
                        self.connections[from].number
                    ));
                    for _ in 0..count {
                        self.send(from, to);
                    }
                }
            }
            80..=84 => {
                self.net.reset(address(one), address(other));
                self.tell(&format!("streams between {one} and {other} break"));
            }
            85..=88 => {
                let ways = *[(true, true), (true, false)]
                    .choose(&mut self.random)
                    .expect("two");
                self.cut(one, other, ways.0);
                self.cut(other, one, ways.1);
                self.tell(&format!(
                    "nothing gets from {one} to {other}, and back: {}",
                    ways.1
                ));
            }
            89..=91 => {
                self.cut(one, other, false);
                self.cut(other, one, false);
                self.tell(&format!("{one} and {other} reach each other"));
            }
            92 | 93 => {
                let silently = self.random.random_bool(0.5);
                self.kill(one, silently).await;
            }
            94 => self.drain(one).await,
            _ => {
                if !self.is_there(one) {
                    self.start_pod(one);
                }
            }
        }
    }

    /// Everything is whole again, and then nothing happens for a while.
    async fn settle(&mut self) {
        for one in 0..self.pods.len() {
            for other in 0..self.pods.len() {
                if self.is_there(one) && self.is_there(other) {
                    self.cut(one, other, false);
                }
            }
        }
        self.list();
        self.tell("calm");
        sleep(if self.stock_place.is_some() {
            QUIET_WITH_STOCK
        } else {
            QUIET
        })
        .await;
        self.connections.retain(Connection::is_alive);
        self.calms += 1;
        self.witness.lock().calm = self.calms;
    }

    /// After the quiet: who is where is known everywhere, and everything arrives, once, in order.
    async fn check_truth(&mut self) {
        let mut place_of = BTreeMap::new();
        for connection in &self.connections {
            if let Some(other) = place_of.insert(connection.peer, connection.number) {
                self.wrong(format!(
                    "p{} has two connections, c{other} and c{}",
                    connection.peer, connection.number
                ));
            }
        }
        let living = self.pods.iter().flatten().count();
        let streams = self.net.streams();
        let with_stock = if self.stock.is_some() { living } else { 0 };
        if streams != living * living.saturating_sub(1) / 2 + with_stock {
            self.wrong(format!(
                "{living} pods have {streams} streams, {with_stock} of them with a stock pod"
            ));
        }
        {
            let notices = self.witness.lock().notices.clone();
            for connection in &self.connections {
                if self.stock_place == Some(connection.pod) {
                    continue;
                }
                for watched in &connection.watching {
                    let is_online = place_of.contains_key(watched);
                    let told = notices.get(&(connection.number, *watched)).copied();
                    if told.unwrap_or(false) != is_online {
                        self.wrong(format!(
                            "c{} was last told {told:?} of p{watched}, which is online: {is_online}",
                            connection.number
                        ));
                    }
                }
            }
        }
        let mut expected = Vec::new();
        for from in 0..self.connections.len() {
            for to in 0..self.peers {
                let peer = self.connections[from].peer;
                if to != peer && place_of.contains_key(&to) {
                    for nth in 0..5 {
                        self.send(from, to);
                        // What a stock pod has remembered may lead astray, once.
                        if nth < 4 && self.stock_place == Some(self.connections[from].pod) {
                            continue;
                        }
                        expected.push((peer, to, self.numbers[&peer]));
                    }
                }
            }
        }
        sleep(Duration::from_secs(2)).await;
        let witness = Arc::clone(&self.witness);
        let mut witness = witness.lock();
        for lost in expected {
            if !witness.arrived.contains(&lost) {
                let (from, to, number) = lost;
                witness
                    .wrong
                    .push(format!("number {number} of p{from} to p{to} never arrived"));
            }
        }
        for (place, pod) in self.pods.iter().enumerate() {
            if let Some(pod) = pod {
                let (received, accounted) = pod.balance();
                if received != accounted {
                    witness.wrong.push(format!(
                        "pod {place}: {received} received, {accounted} delivered, forwarded or dropped"
                    ));
                }
            }
        }
    }

    /// Everybody goes; nothing may be left.
    async fn end(&mut self) {
        self.connections.clear();
        sleep(Duration::from_secs(10)).await;
        for place in 0..self.pods.len() {
            self.end_pod(place).await;
            self.net.unlisten(address(place));
        }
        sleep(Duration::from_secs(60)).await;
        let streams = self.net.streams();
        if streams != 0 {
            self.wrong(format!("{streams} streams are left"));
        }
        // The network's own task, and this one is none.
        let tasks = tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks();
        if tasks != 1 {
            self.wrong(format!("{} tasks are left", tasks - 1));
        }
    }
}
