//! The load that asks who gets what of a receiver that cannot take it all: one sender floods, the others are modest.
//!
//! The receiver reads at a limited rate. What it got of each sender is held against the max-min fair share: who asks for less than
//! an equal part gets what it asks for, the rest is divided equally.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until};

use super::error::LoadError;
use super::frame::Batch;
use super::interrupt::Interrupt;
use super::measure::{Meter, jain};
use super::options::Settings;
use super::path::{Path, gather};
use super::peer::Peer;
use super::progress::Progress;
use super::report::{MESSAGE_US, Report};
use super::scan::Sequence;
use crate::proto::PeerId;

/// The receiver's socket takes no more than this by itself.
const SMALL_BUFFER: usize = 32 * 1024;
/// What the receiver reads at once: a dozen messages, so that its rate is even.
const READ: usize = 16 * 1024;
/// Messages that the flooding sender writes in one call.
const FLOOD_BATCH: usize = 16;
/// A modest sender starts a handshake as often as a busy mesh would, and more.
const HANDSHAKE_INTERVAL: Duration = Duration::from_millis(250);
/// Type (in the first byte) and size of WireGuard's handshake messages, in turn.
const HANDSHAKES: [(u8, usize); 3] = [(1, 148), (2, 92), (3, 64)];
/// The first byte of a payload is that of its sequence number: there the type of a handshake goes.
const TYPE_SHIFT: u32 = 56;
/// What is still queued may come for so long after the end.
const DRAIN: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(250);

/// What each class of senders got of the saturated receiver, over the measured time and the drain after it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Fairness {
    /// Modest senders.
    pub modest: u64,
    /// Messages a second that the receiver was willing to read.
    pub receive_rate: f64,
    /// Messages of the flooding sender that were sent, and that came.
    pub flood_sent: u64,
    /// See `flood_sent`.
    pub flood_delivered: u64,
    /// Messages of all modest senders that were sent, and that came.
    pub modest_sent: u64,
    /// See `modest_sent`.
    pub modest_delivered: u64,
    /// What the modest sender with the least got.
    pub modest_least: u64,
    /// What the modest sender with the most got.
    pub modest_most: u64,
    /// Jain's index over what all senders got.
    pub jain: f64,
    /// Jain's index over what each got of its max-min fair share.
    pub jain_of_share: f64,
    /// Handshake messages sent by modest senders, and those that came (`--handshakes`).
    pub handshakes_sent: u64,
    /// See `handshakes_sent`.
    pub handshakes_delivered: u64,
    /// Messages that came after a later one of the same sender.
    pub reordered: u64,
}

/// What is known of one sender; seen by its task and by the receiver's.
#[derive(Debug, Default)]
struct Sender {
    sent: Cell<u64>,
    delivered: Cell<u64>,
    handshakes_sent: Cell<u64>,
    handshakes_delivered: Cell<u64>,
    sequence: Cell<Sequence>,
}

/// What all tasks share.
#[derive(Debug)]
struct Run {
    senders: Vec<Sender>,
    recording: Cell<bool>,
    stopped: Cell<bool>,
    ended: Cell<u64>,
    receiver_ended: Cell<bool>,
    buffer: RefCell<Vec<u8>>,
}

/// Runs the load: `--pairs` is the number of modest senders.
pub(super) async fn run(settings: &Settings, path: &Rc<Path>) -> Result<Report, LoadError> {
    let (receiver, _) = path.receiver(1).await?;
    receiver.narrow(SMALL_BUFFER)?;
    let connecting = Rc::clone(path);
    let peers = gather(settings, settings.pairs + 1, move |number| {
        let path = Rc::clone(&connecting);
        async move { path.lone(2 * number).await }
    })
    .await?;
    let run = Rc::new(Run {
        senders: peers.iter().map(|_| Sender::default()).collect(),
        recording: Cell::new(false),
        stopped: Cell::new(false),
        ended: Cell::new(0),
        receiver_ended: Cell::new(false),
        buffer: RefCell::new(vec![0; READ]),
    });
    let mut tasks = JoinSet::new();
    let ended = Rc::clone(&run);
    let mut spawn = |task: std::pin::Pin<Box<dyn Future<Output = io::Result<()>>>>| {
        let run = Rc::clone(&ended);
        tasks.spawn_local(async move {
            if task.await.is_err() {
                run.ended.set(run.ended.get() + 1);
            }
        });
    };
    let (reader, rate) = (Rc::clone(&run), settings.receive_rate);
    spawn(Box::pin(async move {
        let ended = read_slowly(receiver, Rc::clone(&reader), rate).await;
        reader.receiver_ended.set(true);
        ended
    }));
    let to = path.id(1);
    for (number, (peer, _)) in peers.into_iter().enumerate() {
        let run = Rc::clone(&run);
        if number == 0 {
            spawn(Box::pin(flood(peer, run, to, settings.size)));
        } else {
            let settings = settings.clone();
            spawn(Box::pin(modest(peer, run, number, to, settings)));
        }
    }

    let meter = Meter::new(&settings.pids)?;
    let mut progress = Progress::new(settings.progress);
    let interrupt = path.interrupt();
    watch(
        settings,
        &run,
        interrupt,
        settings.warmup,
        "warm-up",
        &mut progress,
    )
    .await?;
    run.recording.set(true);
    let start = Instant::now();
    let before = (meter.relay()?, meter.own()?);
    interrupt.measuring(true);
    watch(
        settings,
        &run,
        interrupt,
        settings.duration,
        "fair",
        &mut progress,
    )
    .await?;
    interrupt.measuring(false);
    let after = (meter.relay()?, meter.own()?);
    let time = start.elapsed();
    let in_time = run.total(|sender| sender.delivered.get() + sender.handshakes_delivered.get());
    run.stopped.set(true);
    watch(
        settings,
        &run,
        &Interrupt::default(),
        DRAIN,
        "drain",
        &mut progress,
    )
    .await?;

    let fairness = run.fairness(settings);
    let sent = fairness.flood_sent + fairness.modest_sent;
    if sent > 0 && fairness.flood_delivered + fairness.modest_delivered == 0 {
        return Err(settings.nothing_arrived(sent));
    }
    let mut report = Report::new(settings);
    report.seconds = time.as_secs_f64();
    report.size = Some(settings.size as u64);
    report.rate = Some(settings.rate);
    report.messages = Some(in_time);
    report.messages_per_second = Some(in_time as f64 / time.as_secs_f64());
    report.ended = Some(run.ended.get());
    let each = in_time.max(1) as f64 * 1e3;
    if let (Some(before), Some(after)) = (before.0, after.0) {
        report.relay_cpu_us_per_message = Some(after.cpu_since(&before) as f64 / each);
        report.relay_kib = Some(after.resident as f64 / 1024.0);
        report.doubt_the_process(&before, &after, in_time * MESSAGE_US);
    }
    report.own_cpu_us_per_message = Some(after.1.cpu_since(&before.1) as f64 / each);
    report.fair = Some(fairness);
    Ok(report)
}

async fn watch(
    settings: &Settings,
    run: &Run,
    interrupt: &Interrupt,
    time: Duration,
    what: &str,
    progress: &mut Progress,
) -> Result<(), LoadError> {
    let start = Instant::now();
    while let Some(rest) = interrupt.left(start, time) {
        sleep(rest.min(TICK)).await;
        run.can_go_on(settings)?;
        let count = run.total(|sender| sender.delivered.get());
        let elapsed = start.elapsed().as_secs_f64();
        progress.show(|| {
            format!(
                "{what}: {elapsed:.1} of {:.1} s, {count} messages came",
                time.as_secs_f64()
            )
        });
    }
    Ok(())
}

/// Reads as many messages a second as it is told, in small helpings.
async fn read_slowly(mut peer: Peer, run: Rc<Run>, rate: f64) -> io::Result<()> {
    let mut due = Instant::now();
    loop {
        let mut came = 0_u32;
        poll_fn(|cx| {
            peer.poll_receive(
                cx,
                &mut run.buffer.borrow_mut(),
                &mut |_, sequence, sender| {
                    came += 1;
                    run.see(sequence, sender);
                },
            )
        })
        .await?;
        poll_fn(|cx| peer.poll_control(cx)).await?;
        // A pause of its own making is not caught up.
        due = due.max(Instant::now() - TICK) + Duration::from_secs_f64(f64::from(came) / rate);
        sleep_until(due).await;
    }
}

/// Sends all that its socket takes.
async fn flood(mut peer: Peer, run: Rc<Run>, to: PeerId, size: usize) -> io::Result<()> {
    let mut batch = Batch::new(&[to; FLOOD_BATCH], size);
    let mut number = 0;
    while !run.stopped.get() {
        for slot in 0..FLOOD_BATCH {
            batch.stamp(slot, number, 0);
            number += 1;
        }
        poll_fn(|cx| peer.poll_send(cx, batch.bytes())).await?;
        run.senders[0].count_sent(&run, FLOOD_BATCH as u64, false);
        // The socket may always have room: the others have their turn all the same.
        yield_now().await;
    }
    stay(peer, &run).await
}

/// Sends at its rate, and a handshake now and then.
async fn modest(
    mut peer: Peer,
    run: Rc<Run>,
    sender: usize,
    to: PeerId,
    settings: Settings,
) -> io::Result<()> {
    let interval = Duration::from_secs_f64(1.0 / settings.rate);
    let mut data = Batch::new(&[to], settings.size);
    let mut handshakes = HANDSHAKES.map(|(_, size)| Batch::new(&[to], size));
    let mut due = Instant::now() + interval.mul_f64(rand::random());
    let mut handshake_due = Instant::now() + HANDSHAKE_INTERVAL.mul_f64(rand::random());
    let (mut number, mut turn) = (0, 0);
    while !run.stopped.get() {
        sleep_until(due).await;
        due += interval;
        let handshake = settings.handshakes && due >= handshake_due;
        let batch = if handshake {
            handshake_due += HANDSHAKE_INTERVAL;
            turn = (turn + 1) % HANDSHAKES.len();
            let kind = u64::from(HANDSHAKES[turn].0) << TYPE_SHIFT;
            handshakes[turn].stamp(0, kind | number, sender as u64);
            &handshakes[turn]
        } else {
            data.stamp(0, number, sender as u64);
            &data
        };
        number += 1;
        poll_fn(|cx| peer.poll_send(cx, batch.bytes())).await?;
        run.senders[sender].count_sent(&run, 1, handshake);
    }
    stay(peer, &run).await
}

/// Answers health checks until the load is over.
async fn stay(mut peer: Peer, run: &Run) -> io::Result<()> {
    loop {
        poll_fn(|cx| peer.poll_receive(cx, &mut run.buffer.borrow_mut(), &mut |_, _, _| {}))
            .await?;
        poll_fn(|cx| peer.poll_control(cx)).await?;
    }
}

impl Sender {
    fn count_sent(&self, run: &Run, messages: u64, handshake: bool) {
        if run.recording.get() {
            let counter = if handshake {
                &self.handshakes_sent
            } else {
                &self.sent
            };
            counter.set(counter.get() + messages);
        }
    }
}

impl Run {
    fn total(&self, value: fn(&Sender) -> u64) -> u64 {
        self.senders.iter().map(value).sum()
    }

    /// The receiver is the one who is measured, and somebody must send to it.
    fn can_go_on(&self, settings: &Settings) -> Result<(), LoadError> {
        let receivers = u64::from(self.receiver_ended.get());
        let senders = self.ended.get() - receivers;
        if receivers == 0 && senders < self.senders.len() as u64 {
            return Ok(());
        }
        let which = settings.places(senders, receivers);
        Err(LoadError::CannotGoOn { which })
    }

    fn see(&self, stamped: u64, sender: u64) {
        let Some(sender) = usize::try_from(sender)
            .ok()
            .and_then(|at| self.senders.get(at))
        else {
            return;
        };
        let mut sequence = sender.sequence.get();
        sequence.see(stamped & ((1 << TYPE_SHIFT) - 1));
        sender.sequence.set(sequence);
        if self.recording.get() {
            let handshake = stamped >> TYPE_SHIFT != 0;
            let counter = if handshake {
                &sender.handshakes_delivered
            } else {
                &sender.delivered
            };
            counter.set(counter.get() + 1);
        }
    }

    fn fairness(&self, settings: &Settings) -> Fairness {
        let delivered: Vec<u64> = self
            .senders
            .iter()
            .map(|sender| sender.delivered.get() + sender.handshakes_delivered.get())
            .collect();
        let wanted: Vec<u64> = self
            .senders
            .iter()
            .map(|sender| sender.sent.get() + sender.handshakes_sent.get())
            .collect();
        let shares = max_min(&wanted, delivered.iter().sum());
        let of_share: Vec<f64> = delivered
            .iter()
            .zip(&shares)
            .map(|(&got, &share)| if share > 0.0 { got as f64 / share } else { 1.0 })
            .collect();
        let plain: Vec<f64> = delivered.iter().map(|&got| got as f64).collect();
        let modest = delivered.get(1..).unwrap_or_default();
        Fairness {
            modest: modest.len() as u64,
            receive_rate: settings.receive_rate,
            flood_sent: wanted[0],
            flood_delivered: delivered[0],
            modest_sent: wanted[1..].iter().sum(),
            modest_delivered: modest.iter().sum(),
            modest_least: modest.iter().copied().min().unwrap_or_default(),
            modest_most: modest.iter().copied().max().unwrap_or_default(),
            jain: jain(&plain),
            jain_of_share: jain(&of_share),
            handshakes_sent: self.total(|sender| sender.handshakes_sent.get()),
            handshakes_delivered: self.total(|sender| sender.handshakes_delivered.get()),
            reordered: self.total(|sender| sender.sequence.get().reordered()),
        }
    }
}

/// Each sender's max-min fair share of `capacity`: nobody gets more than it wants, and nobody could get more but at the cost of one
/// who has no more.
fn max_min(wanted: &[u64], capacity: u64) -> Vec<f64> {
    let mut ascending = wanted.to_vec();
    ascending.sort_unstable();
    let mut left = capacity as f64;
    let mut level = 0.0;
    for (served, &want) in ascending.iter().enumerate() {
        let equal = left / (ascending.len() - served) as f64;
        if (want as f64) >= equal {
            level = equal;
            break;
        }
        level = want as f64;
        left -= want as f64;
    }
    wanted
        .iter()
        .map(|&want| (want as f64).min(level))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_max_min_fair() {
        assert_eq!(max_min(&[1000, 10, 10], 50), [30.0, 10.0, 10.0]);
        assert_eq!(max_min(&[1000, 100, 10], 50), [20.0, 20.0, 10.0]);
        assert_eq!(max_min(&[5, 5, 5], 100), [5.0, 5.0, 5.0]);
        assert_eq!(max_min(&[5, 0], 4), [4.0, 0.0]);
    }
}
