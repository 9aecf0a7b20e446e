//! What a forward and an entry of the owner table cost. Allocations are asserted; times are printed, for the record that
//! `docs/adr/` keeps (`cargo test --release --lib cluster::tests::costs -- --nocapture --test-threads 1`).

use std::hint::black_box;
use std::task::{Context, Waker};

use super::*;
use crate::crosspod::{Directory, Forward, Forwarded};

/// Lets a link's queue be written to nowhere.
fn write_out(link: &Link) {
    let mut cx = Context::from_waker(Waker::noop());
    while let std::task::Poll::Ready(taken) = link.outbox().poll_take(&mut cx) {
        match taken {
            Taken::Data(slab) => slab.delivered(),
            Taken::Control(_) => {}
            Taken::Finished | Taken::Aborted => return,
        }
    }
}

fn linked(pod: &Pod, address: &str) -> (Arc<Link>, Box<dyn FrameSink>) {
    let link = pod.link_to(&PodAddr(address.to_owned()));
    let mut sink = Arc::clone(&pod.owners).link_up(&link);
    pod.owners.use_link(&link);
    link.set_ours();
    sink.became_ours();
    (link, sink)
}

fn numbered(number: u32) -> PeerId {
    let mut bytes = *id("numbered").as_bytes();
    bytes[4..8].copy_from_slice(&number.to_be_bytes());
    // The tail tells senders apart, and hashes differ in all bytes.
    bytes[32..].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
    PeerId::from_bytes(bytes)
}

fn nanoseconds(since: std::time::Duration, times: u32) -> u128 {
    since.as_nanos() / u128::from(times)
}

#[tokio::test]
async fn a_forward_allocates_nothing() {
    const BATCHES: u32 = 1_000;
    const BATCH: u32 = 32;
    let a = Pod::new("a:7090");
    let (link, mut sink) = linked(&a, "b:7090");
    let peers: Vec<PeerId> = (0..4).map(numbered).collect();
    for peer in &peers {
        sink.frame(Frame::IHave {
            peer: *peer,
            seqno: Seqno(TODAY as u32),
        });
    }
    let mut message = Vec::new();
    peer::encode_transport(&id("alice"), &[7; 1_280], &mut message).unwrap();
    let mut forwarder = a.owners.forwarder();
    let mut some = |batches: u32| {
        for _ in 0..batches {
            for number in 0..BATCH {
                let forwarded = forwarder.forward(Forward {
                    destination: peers[number as usize % 4],
                    message: black_box(&message),
                });
                assert_eq!(forwarded, Forwarded::Queued);
            }
            forwarder.flush();
            write_out(&link);
        }
    };
    some(10);
    let allocated = allocation_counter::measure(|| some(100));
    assert_eq!(allocated.count_total, 0);
    let began = Instant::now();
    some(BATCHES);
    println!(
        "a forward, its copy and its part of a batch: {} ns",
        nanoseconds(began.elapsed(), BATCHES * BATCH)
    );
}

#[tokio::test]
async fn a_peer_of_another_pod_costs_about_sixty_bytes() {
    const PEERS: u32 = 100_000;
    let a = Pod::new("a:7090");
    let (_link, mut sink) = linked(&a, "b:7090");
    let began = Instant::now();
    let allocated = allocation_counter::measure(|| {
        for number in 0..PEERS {
            sink.frame(Frame::IHave {
                peer: numbered(number),
                seqno: Seqno(TODAY as u32),
            });
        }
    });
    let bytes = allocated.bytes_current / i64::from(PEERS);
    println!(
        "a peer of another pod: {bytes} bytes, {} ns to take in",
        nanoseconds(began.elapsed(), PEERS)
    );
    assert!((50..=80).contains(&bytes), "{bytes}");
    assert_eq!(a.owners.len(), PEERS as usize);
}

#[tokio::test]
async fn a_registration_is_announced_to_a_hundred_pods() {
    const PEERS: u32 = 10_000;
    let a = Pod::new("a:7090");
    let links: Vec<_> = (0..99)
        .map(|number| linked(&a, &format!("pod-{number}:7090")))
        .collect();
    let began = Instant::now();
    for number in 0..PEERS {
        a.owners.registered(&numbered(number));
        if number % 100 == 0 {
            links.iter().for_each(|(link, _)| write_out(link));
        }
    }
    println!(
        "a registration, announced to 99 pods: {} ns",
        nanoseconds(began.elapsed(), PEERS)
    );
    assert!(links.iter().all(|(link, _)| link.is_up()));
}
