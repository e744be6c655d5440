//! Buffers in shared memory as programs use them: from a requester, in requests
//! and answers, and back.
//!
//! Both sides are in this process, with a mapping each, so a payload that was
//! not copied is known by its place in a page: a loan's data begins 128 bytes
//! behind the beginning of one, and data that was copied does not, since it
//! comes behind the head of a frame.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use rsocket_core::{
    Backoff, Client, Failure, Handlers, Payload, PayloadBuf, Requester, Server, connect,
    resume::Resume,
    serve,
    testkit::{Chaos, Random, seeds},
    transport::memory::{MemoryConnector, MemoryListener},
};
use rsocket_transport_shm::{ShmConnector, ShmListener, ShmOptions};

use crate::{common::*, links::trusting};

const LEN: usize = 64 * 1024;

fn is_in_place(payload: &Payload) -> bool {
    payload.data().as_ptr().addr() % 4096 == 128
}

/// Metadata says whether the request came in place.
fn answer(peer: &Requester, request: &Payload) -> Payload {
    let mut buf = peer.buffer(request.data().len());
    for (to, from) in buf.iter_mut().zip(request.data()) {
        *to = !from;
    }
    let is_in_place = u8::from(is_in_place(request));
    Payload::from(buf).with_metadata(vec![is_in_place])
}

/// Answers with the complement of each byte, and streams what was asked for.
fn service(client: &Requester) -> Handlers {
    let (one, many) = (client.clone(), client.clone());
    Handlers::new()
        .on_request_response(move |request| {
            let answer = answer(&one, &request);
            async { Ok(answer) }
        })
        .on_request_stream(move |request| {
            let peer = many.clone();
            stream::iter(0..request.data().len()).map(move |n| {
                let n = n.to_le_bytes()[0];
                Ok::<_, Failure>(filled(&peer, &pattern(LEN, n)).into())
            })
        })
}

/// A buffer with `bytes` in it.
fn filled(peer: &Requester, bytes: &[u8]) -> PayloadBuf {
    let mut buf = peer.buffer(bytes.len());
    buf.copy_from_slice(bytes);
    buf
}

fn complement(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

async fn served(options: ShmOptions) -> Requester {
    let name = name();
    let listener = ShmListener::bind_with(&name, options.clone()).await;
    tokio::spawn(serve(listener.unwrap(), |_setup, client| async move {
        Ok(service(&client))
    }));
    connect(ShmConnector::new(&name).options(options))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_request_and_its_answer_lie_where_they_were_written() {
    let peer = watched(served(trusting())).await;
    for n in 0..100 {
        let data = pattern(LEN, n);
        let buf = filled(&peer, &data);
        assert!(buf.is_lent(), "request {n}");
        let answer = watched(peer.request_response(buf)).await.unwrap();
        assert!(answer.data() == complement(&data), "request {n}");
        assert_eq!(answer.metadata(), Some(&[1][..]), "request {n} was copied");
        assert!(is_in_place(&answer), "answer {n} was copied");
    }
}

#[tokio::test]
async fn a_peer_who_does_not_trust_gets_copies_of_the_same() {
    let peer = watched(served(ShmOptions::new())).await;
    for n in 0..100 {
        let data = pattern(LEN, n);
        let buf = filled(&peer, &data);
        assert!(buf.is_lent(), "request {n}");
        let answer = watched(peer.request_response(buf)).await.unwrap();
        assert!(answer.data() == complement(&data), "request {n}");
        assert_eq!(answer.data().as_ptr().addr() % 8, 0, "answer {n}");
    }
}

#[tokio::test]
async fn the_payloads_of_a_stream_lie_where_they_were_written_and_stay_while_they_are_kept() {
    let peer = watched(served(trusting())).await;
    let mut payloads = peer.request_stream(vec![0; 200]);
    let (mut kept, mut in_place) = (Vec::new(), 0);
    for n in 0..200 {
        let payload = watched(payloads.next()).await.unwrap().unwrap();
        in_place += usize::from(is_in_place(&payload));
        kept.push(payload);
        if n % 20 == 19 {
            for (n, payload) in (n - 19..).zip(kept.drain(..)) {
                assert!(payload.data() == pattern(LEN, n), "payload {n}");
            }
        }
    }
    assert!(watched(payloads.next()).await.is_none());
    // Those for which there was no room while 64 were on their way are copies.
    assert!(in_place >= 20, "{in_place} of 200");
}

#[tokio::test]
async fn what_is_not_lent_is_a_vector_and_nobody_notices() {
    let peer = watched(served(trusting())).await;
    let mut held: Vec<_> = std::iter::repeat_with(|| peer.buffer(LEN))
        .take(100)
        .collect();
    let lent = held.iter().filter(|buf| buf.is_lent()).count();
    // 2 MiB of the arena, in runs of 17 pages.
    assert_eq!(lent, 30);
    for (n, buf) in (0..).zip(&mut held) {
        buf.copy_from_slice(&pattern(LEN, n));
    }
    for (n, buf) in (0..).zip(held) {
        let answer = watched(peer.request_response(buf)).await.unwrap();
        assert!(answer.data() == complement(&pattern(LEN, n)), "{n}");
    }
    assert!(peer.buffer(LEN).is_lent(), "they came back");
    assert!(!peer.buffer(100).is_lent(), "short data is copied faster");
    assert!(!peer.buffer(4 << 20).is_lent(), "more than may be lent");
}

#[tokio::test]
async fn a_buffer_is_all_zero_whatever_was_there_before() {
    let peer = watched(served(trusting())).await;
    for _ in 0..5 {
        let mut buf = peer.buffer(LEN);
        assert!(buf.is_lent() && buf.iter().all(|byte| *byte == 0));
        buf.fill(7);
    }
}

#[tokio::test]
async fn a_buffer_of_a_link_that_is_gone_can_be_written_and_sent_on_another() {
    let peer = watched(served(trusting())).await;
    let (mut first, second) = (peer.buffer(LEN), filled(&peer, &pattern(LEN, 2)));
    let second = second.freeze();
    watched(peer.close()).await;
    assert!(!peer.buffer(LEN).is_lent(), "there is no link");
    drop(peer);
    first.copy_from_slice(&pattern(LEN, 1));
    let peer = watched(served(trusting())).await;
    let answers = [
        watched(peer.request_response(first)).await.unwrap(),
        watched(peer.request_response(second)).await.unwrap(),
    ];
    for (n, answer) in (1..).zip(answers) {
        assert!(answer.data() == complement(&pattern(LEN, n)));
        assert_eq!(answer.metadata(), Some(&[0][..]), "it cannot be in place");
    }
}

#[tokio::test]
async fn the_same_program_runs_where_nothing_is_lent() {
    let listener = MemoryListener::bind("loans").unwrap();
    tokio::spawn(serve(listener, |_setup, client| async move {
        Ok(service(&client))
    }));
    let peer = connect(MemoryConnector::new("loans")).await.unwrap();
    let buf = filled(&peer, &pattern(LEN, 1));
    assert!(!buf.is_lent());
    let answer = watched(peer.request_response(buf)).await.unwrap();
    assert!(answer.data() == complement(&pattern(LEN, 1)));
}

/// The log of a session holds what it may have to send again, on another link.
#[tokio::test]
async fn what_is_sent_again_over_another_link_is_what_was_written() {
    for seed in seeds(3) {
        let mut random = Random::new(seed);
        let name = name();
        let chaos = Chaos::new(seed).cut_after(5..=40).losing(3);
        let resume = || {
            let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(5));
            Resume::new().backoff(backoff)
        };
        let listener = ShmListener::bind_with(&name, trusting()).await.unwrap();
        let server = Server::new().resume(resume());
        tokio::spawn(server.serve(
            listener,
            |_setup, client| async move { Ok(service(&client)) },
        ));
        let connector = chaos.connector(ShmConnector::new(&name).options(trusting()));
        let client = Client::new().resume(resume());
        let peer = watched(client.connect(connector)).await.unwrap();
        for n in 0..60 {
            let len = random.within(1..=2 * LEN);
            let data = pattern(len, n);
            let buf = filled(&peer, &data);
            let answer = watched(peer.request_response(buf)).await;
            let answer = answer.unwrap_or_else(|error| panic!("seed {seed}, {n}: {error}"));
            assert!(answer.data() == complement(&data), "seed {seed}, {n}");
        }
        assert!(peer.stats().resumptions > 0, "seed {seed}: no link was cut");
    }
}
