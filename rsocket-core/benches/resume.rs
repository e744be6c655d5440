//! What it costs that a session can be resumed, while its link holds.
//!
//! Requests over the memory transport, client and server in one thread, with
//! resumption and without in turns, so that what else the machine does concerns
//! both.
//!
//! `cargo bench -p rsocket-core --bench resume`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark is code that may fail, and measures time"
)]

use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use rsocket_core::{
    Client, Handlers, Payload, Requester, Server,
    resume::Resume,
    transport::memory::{MemoryConnector, MemoryListener},
};

/// Turns of each kind.
const TURNS: usize = 41;

async fn connect(name: &str, resumable: bool) -> Requester {
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
    if resumable {
        client = client.resume(Resume::new());
        server = server.resume(Resume::new());
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

/// Times `run` for both in turns; prints what one of `count` takes.
async fn compare<'p>(
    what: &str,
    peers: [&'p Requester; 2],
    count: usize,
    run: impl AsyncFn(&'p Requester, usize),
) {
    let (mut nanos, mut ratios) = ([vec![], vec![]], vec![]);
    for turn in 0..=TURNS {
        let mut took = [0.0; 2];
        for which in if turn % 2 == 0 { [0, 1] } else { [1, 0] } {
            let begun = Instant::now();
            run(peers[which], count).await;
            took[which] = begun.elapsed().as_nanos() as f64 / count as f64;
        }
        if turn == 0 {
            continue; // To warm up.
        }
        nanos[0].push(took[0]);
        nanos[1].push(took[1]);
        ratios.push(took[1] / took[0]);
    }
    let [off, on] = nanos.map(median);
    println!("{what:>34} {off:>10.0} {on:>10.0} {:>7.3}", median(ratios));
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let off = connect("off", false).await;
    let on = connect("on", true).await;
    let peers = [&off, &on];
    println!(
        "ns each, median of {TURNS} turns, {:>20} {:>7}",
        "without", "with"
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
