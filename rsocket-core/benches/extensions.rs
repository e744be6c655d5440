//! What it costs that a session can be resumed, while its link holds, and that
//! requests need leases, while there are enough.
//!
//! Requests over the memory transport, client and server in one thread, with
//! neither, with resumption and with leases in turns, so that what else the
//! machine does concerns all.
//!
//! `cargo bench -p rsocket-core --bench extensions`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a benchmark is code that may fail, and measures time"
)]

use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use rsocket_core::{
    Client, Handlers, LeaseOptions, Payload, Requester, Server,
    resume::Resume,
    transport::memory::{MemoryConnector, MemoryListener},
};

/// Turns of each kind.
const TURNS: usize = 41;

async fn connect(name: &str) -> Requester {
    let listener = MemoryListener::bind(name).unwrap();
    let block = Payload::new(vec![7; 1024]);
    let handlers = Handlers::new()
        .on_request_response(|request| async move { Ok(request) })
        .on_request_stream(move |request: Payload| {
            let count = request.data_utf8().unwrap().parse().unwrap();
            let block = block.clone();
            stream::iter(0..count).map(move |_: u32| Ok(block.clone()))
        });
    let (mut client, mut server) = (Client::new(), Server::new());
    match name {
        "resumption" => {
            client = client.resume(Resume::new());
            server = server.resume(Resume::new());
        }
        "leases" => {
            client = client.lease(LeaseOptions::new());
            server = server.lease(LeaseOptions::new());
        }
        _ => {}
    }
    tokio::spawn(server.serve(listener, move |_, _| {
        let handlers = handlers.clone();
        async move { Ok(handlers) }
    }));
    client.connect(MemoryConnector::new(name)).await.unwrap()
}

async fn requests(peer: &Requester, count: usize, in_flight: usize) {
    stream::iter(0..count)
        .map(|_| peer.request_response(Payload::copy_from_slice(&[7; 32])))
        .buffer_unordered(in_flight)
        .for_each(|answer| async { drop(answer.unwrap()) })
        .await;
}

async fn payloads(peer: &Requester, count: usize) {
    let mut answers = peer.request_stream(count.to_string());
    while let Some(answer) = answers.next().await {
        assert_eq!(answer.unwrap().data().len(), 1024);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Times `run` for all in turns; prints what one of `count` takes.
async fn compare<'p>(
    what: &str,
    peers: [&'p Requester; 3],
    count: usize,
    run: impl AsyncFn(&'p Requester, usize),
) {
    let mut nanos = [vec![], vec![], vec![]];
    for turn in 0..=TURNS {
        for at in 0..peers.len() {
            // None of them always comes first.
            let which = (turn + at) % peers.len();
            let begun = Instant::now();
            run(peers[which], count).await;
            if turn > 0 {
                nanos[which].push(begun.elapsed().as_nanos() as f64 / count as f64);
            }
        }
    }
    let ratio = |these: &[f64]| {
        let of_turns = these.iter().zip(&nanos[0]).map(|(a, b)| a / b);
        median(of_turns.collect())
    };
    let [resumption, leases] = [ratio(&nanos[1]), ratio(&nanos[2])];
    let plain = median(nanos[0].clone());
    println!("{what:>34} {plain:>10.0} {resumption:>16.3} {leases:>12.3}");
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (plain, resumption, leases) = (
        connect("plain").await,
        connect("resumption").await,
        connect("leases").await,
    );
    let peers = [&plain, &resumption, &leases];
    println!("median of {TURNS} turns; of the extensions, ratios to plain");
    println!(
        "{:>34} {:>10} {:>16} {:>12}",
        "", "plain, ns", "with resumption", "with leases"
    );
    compare(
        "request-response, 1 in flight",
        peers,
        5_000,
        async |peer, count| {
            requests(peer, count, 1).await;
        },
    )
    .await;
    compare(
        "request-response, 64 in flight",
        peers,
        20_000,
        async |peer, count| {
            requests(peer, count, 64).await;
        },
    )
    .await;
    compare(
        "payloads of 1 KiB in a stream",
        peers,
        20_000,
        async |peer, count| {
            payloads(peer, count).await;
        },
    )
    .await;
}
