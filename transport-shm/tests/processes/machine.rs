//! Machines with one processor, and with no memory left.

use std::time::{Duration, Instant};

use rsocket_core::transport::{Connector as _, TransportErrorKind};
use rsocket_transport_shm::{ShmAddress, ShmConnector, ShmListener, ShmOptions, Spin};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{
    common::*,
    role::{Actor, connect_with, say},
};

/// Both processes of a link on one processor: how long a round trip takes.
pub(crate) async fn one_core(spin: &str) {
    let may = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|cpu| may.is_set(*cpu)).unwrap();
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).unwrap();
    let dir = Dir::new();
    let address = dir.socket().display().to_string();
    // It inherits where it may run.
    let _actor = Actor::start(&format!("echo {address}"));
    let spin = match spin {
        "sleep" => Spin::Sleep,
        _ => Spin::Adaptive,
    };
    let link = connect_with(&address, ShmOptions::new().spin(spin)).await;
    let (mut tx, mut rx) = link.split();
    let mut trips = Vec::new();
    for _ in 0..500 {
        let begin = Instant::now();
        send(&mut *tx, b"ping").await.unwrap();
        flush(&mut *tx).await.unwrap();
        recv(&mut *rx, 1).await.unwrap();
        trips.push(begin.elapsed());
    }
    trips.sort();
    say(&trips[trips.len() / 2].as_micros().to_string());
}

#[test]
fn two_processes_on_one_processor_do_not_wait_for_each_others_spinning() {
    for spin in ["adaptive", "sleep"] {
        let median: u64 = Actor::start(&format!("one-core {spin}"))
            .says()
            .parse()
            .unwrap();
        println!("{spin}: {median} us");
        // A time slice is 3 ms and more; whoever spins through it takes that long.
        assert!(median < 1_000, "{spin}: {median} us");
    }
}

#[tokio::test]
async fn a_client_without_memory_says_so() {
    let name = name();
    let _listener = ShmListener::bind(&name).await.unwrap();
    let said = Actor::start(&format!("no-room {name}")).says();
    assert!(said.starts_with("Unreachable"), "{said}");
    assert!(said.contains("making a region of 134"), "{said}");
    assert!(said.contains("annot allocate memory"), "{said}");
}

#[tokio::test]
async fn a_server_without_memory_says_so_and_goes_on() {
    let name = name();
    let mut server = Actor::start(&format!("no-room-server {name}"));
    for _ in 0..2 {
        let begin = Instant::now();
        let error = loop {
            let error = ShmConnector::new(&name).connect().await.unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::Unreachable);
            if chain(&error).contains("no memory for another link") {
                break error;
            }
            // It has not started yet.
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "{}",
                chain(&error)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        drop(error);
        let said = server.says();
        assert!(said.contains("making a region of 134"), "{said}");
    }
}

#[tokio::test]
async fn a_client_whose_file_system_is_full_says_so_and_leaves_nothing() {
    let dir = Dir::new();
    let path = dir.0.join("app");
    let mut listener = ShmListener::bind(ShmAddress::directory(&path))
        .await
        .unwrap();
    let role = format!("full-disk dir:{}", path.display());
    let said = Actor::start_unlimited(&role).says();
    assert!(said.starts_with("Unreachable"), "{said}");
    assert!(said.contains("making a region of 4"), "{said}");
    assert!(said.contains("File too large"), "{said}");
    assert_eq!(Dir::names(&path), ["bell"]);
    pair(
        &mut listener,
        &ShmConnector::new(ShmAddress::directory(&path)),
    )
    .await;
}

#[tokio::test]
async fn a_server_whose_file_system_is_full_says_so_and_goes_on() {
    let dir = Dir::new();
    let path = dir.0.join("app");
    let role = format!("full-disk-server dir:{}", path.display());
    let mut server = Actor::start_unlimited(&role);
    let connector = ShmConnector::new(ShmAddress::directory(&path));
    let begin = Instant::now();
    for _ in 0..2 {
        let text = loop {
            let error = connector.connect().await.unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::Unreachable);
            let text = chain(&error);
            if !text.contains("connecting to") {
                break text;
            }
            // It has not started yet.
            assert!(begin.elapsed() < Duration::from_secs(30), "{text}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!(text.contains("no memory for another link"), "{text}");
        let said = server.says();
        assert!(said.contains("making a region of 4"), "{said}");
    }
    assert_eq!(Dir::names(&path), ["bell"]);
}
