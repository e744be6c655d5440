//! Peers that are killed or stopped at any instant.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rsocket_core::{
    testkit::{Random, seeds},
    transport::{Link, Listener as _, Received, TransportErrorKind},
};
use rsocket_transport_shm::ShmListener;
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use crate::{
    ALONE,
    common::*,
    is_slow,
    role::{Actor, connect, receive_all, send_all},
};

/// How soon after a peer's death both halves have to say so. It takes the kernel
/// some microseconds; the rest is for machines that do much else.
const SOON: Duration = Duration::from_secs(5);

fn times() -> usize {
    if is_slow() { 1_000 } else { 50 }
}

/// What must not grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    mappings: usize,
}

impl Held {
    fn now() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ours = |target: &Path| target.to_string_lossy().contains("rsocket-shm");
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        Self {
            descriptors: descriptors
                .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
                .filter(|target| ours(target) || target.to_string_lossy().starts_with("socket:"))
                .count(),
            mappings: maps
                .lines()
                .filter(|line| line.contains("rsocket-shm"))
                .count(),
        }
    }
}

/// Pumps both ways until the peer is killed, which is seen by both halves.
/// Returns how long that took.
async fn survive(link: Link, actor: &Actor, after: Duration, seed: u64) -> Duration {
    let (tx, rx) = link.split();
    let sending = tokio::spawn(send_all(tx, seed));
    let receiving = tokio::spawn(receive_all(rx));
    sleep(after).await;
    actor.signal(Signal::KILL);
    let killed = Instant::now();
    let ends = timeout(SOON, async { (receiving.await, sending.await) });
    let (received, sent) = ends.await.expect("both halves notice");
    let (_, end) = received.unwrap();
    assert_eq!(end.unwrap_err().kind(), TransportErrorKind::Lost);
    assert_eq!(sent.unwrap().kind(), TransportErrorKind::Lost);
    killed.elapsed()
}

/// Kills clients and servers by turns, at random instants from before the
/// rendezvous to the middle of a busy link, and leaves nothing behind.
#[tokio::test]
async fn who_survives_notices_soon_and_loses_nothing_but_the_link() {
    let _alone = ALONE.lock().await;
    let seed = seeds(1)[0];
    let mut random = Random::new(seed);
    let dir = Dir::new();
    let (clients, servers) = (dir.0.join("clients"), dir.0.join("servers"));
    let mut listener = ShmListener::bind(&clients).await.unwrap();
    let idle = Held::now();
    let (mut linked, mut longest) = (0, Duration::ZERO);
    for n in 0..times() {
        let after = Duration::from_micros(random.within(0..=30_000) as u64);
        if n % 2 == 0 {
            let mut actor = Actor::start(&format!("pump {}", clients.display()));
            let early = random.once_in(4);
            if early {
                // While it starts, connects, or meets.
                sleep(after).await;
                actor.signal(Signal::KILL);
            }
            let handshake = loop {
                match timeout(Duration::from_millis(50), listener.accept()).await {
                    Ok(handshake) => break Some(handshake.unwrap()),
                    Err(_) if actor.is_over() => break None,
                    Err(_) => {}
                }
            };
            let Some(handshake) = handshake else { continue };
            let Ok(link) = timeout(SOON, handshake).await.expect("it ends in any case") else {
                assert!(early);
                continue;
            };
            linked += 1;
            let after = if early { Duration::ZERO } else { after };
            longest = longest.max(survive(link, &actor, after, seed).await);
        } else {
            // It replaces the file that the one before it left behind.
            let actor = Actor::start(&format!("pump-server {}", servers.display()));
            let link = connect(&servers.display().to_string()).await;
            linked += 1;
            longest = longest.max(survive(link, &actor, after, seed).await);
        }
    }
    println!("{linked} links were lost, noticed within {longest:?}");
    assert!(linked > times() / 2);
    let left = Held::now();
    assert_eq!(left.mappings, idle.mappings);
    // Pipes and sockets of other tests' processes come and go.
    assert!(
        left.descriptors <= idle.descriptors + 4,
        "{left:?} were {idle:?}"
    );
}

#[tokio::test]
async fn a_peer_that_is_stopped_holds_up_and_is_not_lost() {
    let _alone = ALONE.lock().await;
    let dir = Dir::new();
    let address = dir.socket().display().to_string();
    let actor = Actor::start(&format!("echo {address}"));
    let (mut tx, mut rx) = connect(&address).await.split();
    for round in 0..3_u8 {
        let frames: Vec<_> = (0..40).map(|n| pattern(100_000, round * 50 + n)).collect();
        actor.signal(Signal::STOP);
        let talk = async {
            let sending = async {
                for frame in &frames {
                    send(&mut *tx, frame).await.unwrap();
                    flush(&mut *tx).await.unwrap();
                }
            };
            let (received, ()) = tokio::join!(recv(&mut *rx, frames.len()), sending);
            received.unwrap()
        };
        let mut talk = std::pin::pin!(talk);
        let early = timeout(Duration::from_millis(100), &mut talk).await;
        assert!(early.is_err(), "who is stopped cannot answer");
        actor.signal(Signal::CONT);
        assert!(watched(talk).await == frames);
    }
    drop(actor);
    let end: Result<Received, _> = watched(ending(&mut *rx)).await;
    assert_eq!(end.unwrap_err().kind(), TransportErrorKind::Lost);
}
