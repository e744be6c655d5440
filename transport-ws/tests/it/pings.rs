//! Pings, also very many of them.

use std::{future::poll_fn, ops::ControlFlow, task::Poll};

use crate::common::*;
use rsocket_core::transport::{OutFrame, Part};
use rsocket_transport_ws::{LinkOptions, Role};
use tokio::io::AsyncReadExt as _;

#[tokio::test]
async fn a_ping_is_answered_while_nothing_is_sent() {
    let (link, mut peer) = server();
    let (_tx, mut rx) = link.split();
    let receiving = tokio::spawn(async move { recv(&mut *rx, 1).await });
    for payload in [&b""[..], b"alive?", &[7; 125]] {
        put(&mut peer, &masked(FIN | PING, payload)).await;
        assert_eq!(
            next_frame(&mut peer).await.unwrap(),
            (FIN | PONG, payload.to_vec())
        );
    }
    // A pong that nobody asked for is no frame, and no fault.
    put(&mut peer, &masked(FIN | PONG, b"beat")).await;
    put(&mut peer, &masked(FIN | BINARY, b"frame")).await;
    assert_eq!(receiving.await.unwrap().unwrap(), [b"frame"]);
}

#[tokio::test]
async fn a_clients_pongs_are_masked() {
    let (link, mut peer) = raw(Role::Client, ROOMY, LinkOptions::new());
    let (_tx, mut rx) = link.split();
    let receiving = tokio::spawn(async move { recv(&mut *rx, 1).await });
    put(&mut peer, &bare(FIN | PING, b"x")).await;
    let mut bytes = [0; 7];
    peer.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes[..2], [FIN | PONG, 0x81]);
    assert_eq!(bytes[6] ^ bytes[2], b'x');
    receiving.abort();
}

/// The pongs in what `peer` has been sent, the last of them, and the frames.
fn sort(mut bytes: &[u8]) -> (usize, Vec<u8>, usize) {
    let (mut pongs, mut last, mut frames) = (0, Vec::new(), 0);
    while let [first, second, rest @ ..] = bytes {
        let (len, rest) = match second {
            126 => (usize::from(rest[0]) << 8 | usize::from(rest[1]), &rest[2..]),
            len => (usize::from(*len), rest),
        };
        match *first & 0x0F {
            PONG => (pongs, last) = (pongs + 1, rest[..len].to_vec()),
            BINARY => frames += 1,
            other => panic!("opcode {other}"),
        }
        bytes = &rest[len..];
    }
    (pongs, last, frames)
}

#[tokio::test]
async fn a_peer_that_floods_with_pings_and_never_reads_gets_the_last_answered() {
    const PINGS: u32 = 50_000;
    watched(async {
        // Both directions hold 1000 bytes: most answers find no room.
        let (link, peer) = raw(Role::Server, 1000, LinkOptions::new());
        let (mut tx, mut rx) = link.split();
        let (mut read, mut write) = tokio::io::split(peer);
        let receiving = tokio::spawn(async move {
            let frame = recv(&mut *rx, 1).await.unwrap();
            (frame, rx)
        });
        for n in 0..PINGS {
            put(&mut write, &masked(FIN | PING, &n.to_be_bytes())).await;
        }
        put(&mut write, &masked(FIN | BINARY, b"through")).await;
        let (frame, mut rx) = receiving.await.unwrap();
        assert_eq!(frame, [b"through"]);

        // What waits is what the stream holds, what is being written, and one.
        let reading = tokio::spawn(async move {
            let mut answers = Vec::new();
            read.read_to_end(&mut answers).await.unwrap();
            answers
        });
        // The rest goes out as the receiving half is polled again.
        put(&mut write, &masked(FIN | BINARY, b"more")).await;
        assert_eq!(recv(&mut *rx, 1).await.unwrap(), [b"more"]);
        close(&mut *tx).await.unwrap();
        drop((tx, rx, write));
        let mut answers = reading.await.unwrap();
        answers.truncate(answers.len() - 4);
        let (pongs, last, _) = sort(&answers);
        assert!(pongs <= 1000 / 6 + 3, "{pongs} pongs were kept");
        assert_eq!(last, (PINGS - 1).to_be_bytes(), "the last is answered");
    })
    .await;
}

#[tokio::test]
async fn pings_do_not_make_the_queue_of_a_stalled_sender_grow() {
    const PINGS: u32 = 20_000;
    watched(async {
        let (link, peer) = raw(Role::Server, 1000, LinkOptions::new());
        let (mut tx, mut rx) = link.split();
        let (mut read, mut write) = tokio::io::split(peer);
        let frame = OutFrame::new(&[1; 200], Part::EMPTY, Part::EMPTY);
        // Until the queue is full.
        let mut sent = 0;
        poll_fn(|cx| {
            while tx.poll_send(cx, &frame).map(Result::unwrap).is_ready() {
                sent += 1;
                let _ = tx.poll_flush(cx).map(Result::unwrap);
            }
            Poll::Ready(())
        })
        .await;
        for n in 0..PINGS {
            put(&mut write, &masked(FIN | PING, &n.to_be_bytes())).await;
            poll_fn(|cx| {
                let polled = rx.poll_recv(cx, &mut |_| ControlFlow::Continue(()));
                assert!(polled.is_pending());
                // The core tries again and again.
                let _ = tx.poll_flush(cx).map(Result::unwrap);
                Poll::Ready(())
            })
            .await;
        }
        let reading = tokio::spawn(async move {
            let mut bytes = Vec::new();
            read.read_to_end(&mut bytes).await.unwrap();
            bytes
        });
        close(&mut *tx).await.unwrap();
        drop((tx, rx, write));
        let mut bytes = reading.await.unwrap();
        bytes.truncate(bytes.len() - 4);
        let (pongs, last, frames) = sort(&bytes);
        assert_eq!(frames, sent);
        assert!(pongs <= 3, "{pongs} pongs were queued");
        assert_eq!(last, (PINGS - 1).to_be_bytes());
    })
    .await;
}

#[tokio::test]
async fn a_pong_never_cuts_a_message_in_two() {
    const FRAMES: usize = 300;
    watched(async {
        // So narrow that nearly every message is written in several pieces.
        let (link, peer) = raw(Role::Server, 100, LinkOptions::new());
        let (mut tx, mut rx) = link.split();
        let (mut read, mut write) = tokio::io::split(peer);
        let sending = tokio::spawn(async move {
            for n in 0..FRAMES {
                send(&mut *tx, &vec![n as u8; 1 + n]).await.unwrap();
                if n % 3 == 0 {
                    flush(&mut *tx).await.unwrap();
                }
            }
            flush(&mut *tx).await.unwrap();
            tx
        });
        let receiving = tokio::spawn(async move { recv(&mut *rx, 1).await });
        let pinging = tokio::spawn(async move {
            for n in 0..1000_u32 {
                put(&mut write, &masked(FIN | PING, &n.to_be_bytes())).await;
            }
            write
        });
        let mut n = 0;
        while n < FRAMES {
            match next_frame(&mut read).await.unwrap() {
                (first, payload) if first == FIN | BINARY => {
                    assert_eq!(payload, vec![n as u8; 1 + n]);
                    n += 1;
                }
                (first, payload) => {
                    assert_eq!((first, payload.len()), (FIN | PONG, 4));
                }
            }
        }
        drop(sending.await.unwrap());
        receiving.abort();
        pinging.abort();
    })
    .await;
}
