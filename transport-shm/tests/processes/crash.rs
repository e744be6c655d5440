//! Peers that are killed or stopped at any instant.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rsocket_core::{
    testkit::{Random, seeds},
    transport::{Connector as _, Link, Listener as _, Received, TransportErrorKind},
};
use rsocket_transport_shm::{ShmAddress, ShmConnector, ShmListener};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use crate::{
    ALONE,
    common::*,
    is_slow,
    liar::resident,
    role::{Actor, connect, receive_all, send_all},
};

/// How soon after a peer's death both halves have to say so. It takes the kernel
/// some microseconds; the rest is for machines that do much else.
const SOON: Duration = Duration::from_secs(5);

/// Memory that may stay with the process: what its allocator keeps of frames of
/// 1 MiB that were under way, and not a part of each link.
const MEMORY: u64 = 64 << 20;

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

/// Where clients and servers are killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Sockets,
    Directories,
}

impl At {
    fn address(self, path: &Path) -> ShmAddress {
        match self {
            Self::Sockets => path.into(),
            Self::Directories => ShmAddress::directory(path),
        }
    }

    /// As roles take it.
    fn word(self, path: &Path) -> String {
        match self {
            Self::Sockets => path.display().to_string(),
            Self::Directories => format!("dir:{}", path.display()),
        }
    }

    /// Links that are up have left nothing at `path`.
    fn check(self, path: &Path, seed: u64) {
        if self == Self::Directories {
            assert_eq!(Dir::names(path), ["bell"], "seed {seed}");
        }
    }
}

#[tokio::test]
async fn who_survives_notices_soon_and_loses_nothing_but_the_link() {
    survivors(At::Sockets).await;
}

#[tokio::test]
async fn who_survives_a_link_that_began_in_a_directory_notices_soon_too() {
    survivors(At::Directories).await;
}

/// Kills clients and servers by turns, at random instants from before the
/// rendezvous to the middle of a busy link, and leaves nothing behind.
async fn survivors(at: At) {
    let _alone = ALONE.lock().await;
    let seed = seeds(1)[0];
    let mut random = Random::new(seed);
    let dir = Dir::new();
    let (clients, servers) = (dir.0.join("clients"), dir.0.join("servers"));
    let mut listener = ShmListener::bind(at.address(&clients)).await.unwrap();
    let idle = Held::now();
    let mut noticed = Vec::new();
    let mut memory = resident();
    for n in 0..times() {
        if n == times() / 5 {
            memory = resident(); // By now it has what it needs.
        }
        let after = Duration::from_micros(random.within(0..=30_000) as u64);
        if n % 2 == 0 {
            let mut actor = Actor::start(&format!("pump {}", at.word(&clients)));
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
            at.check(&clients, seed);
            let after = if early { Duration::ZERO } else { after };
            noticed.push(survive(link, &actor, after, seed).await);
        } else {
            // It replaces the files that the one before it left behind.
            let actor = Actor::start(&format!("pump-server {}", at.word(&servers)));
            let link = connect(&at.word(&servers)).await;
            at.check(&servers, seed);
            noticed.push(survive(link, &actor, after, seed).await);
        }
    }
    assert!(noticed.len() > times() / 2);
    noticed.sort();
    let (left, grown) = (Held::now(), resident().saturating_sub(memory));
    println!(
        "{} links were lost, noticed within {:?}, half of them within {:?}; {left:?}, before \
         {idle:?}; {} KiB more than after a fifth of them",
        noticed.len(),
        noticed[noticed.len() - 1],
        noticed[noticed.len() / 2],
        grown >> 10,
    );
    assert!(grown < MEMORY, "{grown} bytes");
    assert_eq!(left.mappings, idle.mappings);
    // Pipes and sockets of other tests' processes come and go.
    assert!(
        left.descriptors <= idle.descriptors + 4,
        "{left:?} were {idle:?}"
    );
    if at == At::Directories {
        // The next of each kind removes what there is of the last.
        drop(listener);
        for path in [&clients, &servers] {
            drop(ShmListener::bind(at.address(path)).await.unwrap());
            if path.exists() {
                assert_eq!(Dir::names(path), [""; 0], "seed {seed}");
            }
        }
    }
}

/// Clients that are killed and a server that is, all at random instants while
/// they meet: what they leave, the next server removes, and no client waits for
/// a server that is gone.
#[tokio::test]
async fn what_meetings_of_the_dead_leave_in_a_directory_the_next_server_removes() {
    let _alone = ALONE.lock().await;
    let seed = seeds(1)[0];
    let mut random = Random::new(seed);
    let dir = Dir::new();
    let path = dir.0.join("app");
    let role = At::Directories.word(&path);
    let address = ShmAddress::directory(&path);
    let (mut met, mut left, mut longest) = (0, 0, Duration::ZERO);
    for _ in 0..times() / 4 {
        let server = Actor::start(&format!("serve {role}"));
        let clients: Vec<_> = (0..3)
            .map(|_| Actor::start(&format!("pump {role}")))
            .collect();
        let connector = ShmConnector::new(address.clone());
        let is_over = Arc::new(AtomicBool::new(false));
        let is_killed = Arc::clone(&is_over);
        let connecting = tokio::spawn(async move {
            let mut links = Vec::new();
            loop {
                let begin = Instant::now();
                match connector.connect().await {
                    Ok(link) => links.push(link),
                    Err(_) if is_killed.load(Ordering::Relaxed) => return (links, begin.elapsed()),
                    Err(_) => sleep(Duration::from_millis(1)).await,
                }
                tokio::task::yield_now().await;
            }
        });
        // From the first meeting on.
        while Dir::names(dir.0.as_path()).is_empty() {
            sleep(Duration::from_micros(200)).await;
        }
        sleep(Duration::from_millis(5)).await;
        for client in &clients {
            sleep(Duration::from_micros(random.within(0..=8_000) as u64)).await;
            client.signal(Signal::KILL);
        }
        sleep(Duration::from_micros(random.within(0..=8_000) as u64)).await;
        server.signal(Signal::KILL);
        is_over.store(true, Ordering::Relaxed);
        let ended = timeout(SOON, connecting).await;
        let (links, took) = ended.expect("nobody waits for the dead").unwrap();
        // Their locks end with them, which may be after the signal.
        drop((server, clients));
        met += links.len();
        longest = longest.max(took);
        drop(links);
        left += Dir::names(&path)
            .iter()
            .filter(|name| *name != "bell")
            .count();

        let listener = ShmListener::bind(address.clone()).await.unwrap();
        assert_eq!(Dir::names(&path), ["bell"], "seed {seed}");
        drop(listener);
    }
    println!("{met} links, {left} meetings were left, failed within {longest:?}");
    assert!(met > 0, "seed {seed}");
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
