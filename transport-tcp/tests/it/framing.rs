//! Framing over any byte stream, here one in memory whose every byte is ours.

use std::{
    future::poll_fn,
    ops::ControlFlow,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use rsocket_core::testkit::halves::*;
use rsocket_core::transport::{
    FrameTx, InFrame, Link, LinkInfo, OutFrame, Part, Received, TransportErrorKind,
};
use rsocket_transport_tcp::{LinkOptions, link};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};

/// The mark that `FrameTx` documents for its queue, in bytes.
const HIGH_WATER: usize = 64 * 1024;

/// A link, and the bare stream at its other end, which holds `room` bytes.
fn raw(room: usize, options: LinkOptions) -> (Link, DuplexStream) {
    let (ours, theirs) = duplex(room);
    let (read, write) = split(ours);
    (link(read, write, LinkInfo::new("pipe"), options), theirs)
}

/// Two links at the ends of a stream.
fn linked(room: usize) -> (Link, Link) {
    let (left, right) = raw(room, LinkOptions::new());
    let (read, write) = split(right);
    (
        left,
        link(read, write, LinkInfo::new("pipe"), LinkOptions::new()),
    )
}

fn prefixed(frame: &[u8]) -> Vec<u8> {
    let mut out = frame.len().to_be_bytes()[5..].to_vec();
    out.extend_from_slice(frame);
    out
}

// [C006, C009, C010]
#[tokio::test]
async fn frames_of_every_kind_of_length_arrive_whole_and_in_order_both_ways() {
    watched(async {
        let lens = [
            0, 1, 5, 0, 4095, 4096, 4097, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 7,
            16_777_215, 3,
        ];
        let (left, right) = linked(100_000);
        let (mut left_tx, mut left_rx) = left.split();
        let (mut right_tx, mut right_rx) = right.split();
        let send_all = async |tx: &mut dyn FrameTx, seed| {
            for len in lens {
                send(tx, &pattern(len, seed)).await.unwrap();
            }
            close(tx).await.unwrap();
        };
        let check = |frames: Vec<Vec<u8>>, seed| {
            assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), lens);
            for frame in frames {
                assert!(frame == pattern(frame.len(), seed), "{} bytes", frame.len());
            }
        };

        let ((), (), to_right, to_left) = tokio::join!(
            send_all(&mut *left_tx, 1),
            send_all(&mut *right_tx, 2),
            recv(&mut *right_rx, usize::MAX),
            recv(&mut *left_rx, usize::MAX),
        );

        check(to_right.unwrap(), 1);
        check(to_left.unwrap(), 2);
    })
    .await;
}

// [C009]
#[tokio::test]
async fn the_prefix_is_24_bits_big_endian_and_does_not_count_itself() {
    let (link, mut peer) = raw(100_000, LinkOptions::new());
    let (mut tx, _rx) = link.split();
    let data = Bytes::from(pattern(0x01_0203 - 4, 0));
    let frame = OutFrame::new(b"ab", Part::slice(b"cd"), Part::shared(&data, &data));
    poll_fn(|cx| tx.poll_send(cx, &frame)).await.unwrap();
    flush(&mut *tx).await.unwrap();

    let mut arrived = vec![0; 3 + 0x01_0203];
    peer.read_exact(&mut arrived).await.unwrap();

    assert_eq!(arrived[..7], *b"\x01\x02\x03abcd");
    assert!(arrived[7..] == data[..]);
}

#[tokio::test]
async fn a_sender_that_sends_byte_by_byte_is_understood() {
    let (link, mut peer) = raw(1, LinkOptions::new());
    let (_tx, mut rx) = link.split();
    let frames = [
        pattern(0, 1),
        pattern(6, 2),
        pattern(5000, 3),
        pattern(20_000, 4),
    ];
    let sender = async {
        for byte in frames.iter().flat_map(|frame| prefixed(frame)) {
            peer.write_all(&[byte]).await.unwrap();
        }
    };

    let ((), received) = watched(async { tokio::join!(sender, recv(&mut *rx, 4)) }).await;

    assert!(received.unwrap() == frames);
}

#[tokio::test]
async fn a_prefix_may_arrive_in_pieces_behind_whole_frames() {
    let stream: Vec<u8> = [5, 17, 0, 30]
        .iter()
        .flat_map(|&n| prefixed(&pattern(n, 9)))
        .collect();
    for cut in 0..=stream.len() {
        let (link, mut peer) = raw(4096, LinkOptions::new());
        let (_tx, mut rx) = link.split();
        peer.write_all(&stream[..cut]).await.unwrap();
        let mut lens = Vec::new();
        let mut sink = |frame: InFrame<'_>| {
            lens.push(frame.as_slice().len());
            ControlFlow::Continue(())
        };
        let mut cx = Context::from_waker(Waker::noop());
        while rx.poll_recv(&mut cx, &mut sink).is_ready() {}
        peer.write_all(&stream[cut..]).await.unwrap();
        while rx.poll_recv(&mut cx, &mut sink).is_ready() {}
        assert_eq!(lens, [5, 17, 0, 30], "cut at {cut}");
    }
}

#[tokio::test]
async fn short_frames_are_lent_and_long_ones_given() {
    let (link, mut peer) = raw(1 << 20, LinkOptions::new());
    let (_tx, mut rx) = link.split();
    for len in [0, 4095, 4096, 16_385, 200_000] {
        peer.write_all(&prefixed(&pattern(len, 1))).await.unwrap();
    }
    let mut kinds = Vec::new();
    while kinds.len() < 5 {
        poll_fn(|cx| {
            rx.poll_recv(cx, &mut |frame| {
                kinds.push(matches!(frame, InFrame::Shared(_)));
                ControlFlow::Continue(())
            })
        })
        .await
        .unwrap();
    }
    assert_eq!(kinds, [false, false, true, true, true]);
}

#[tokio::test]
async fn a_sink_that_has_enough_gets_the_rest_with_the_next_call() {
    let (link, mut peer) = raw(4096, LinkOptions::new());
    let (_tx, mut rx) = link.split();
    for i in 0..5 {
        peer.write_all(&prefixed(&[i])).await.unwrap();
    }
    for i in 0..5 {
        assert_eq!(recv(&mut *rx, 1).await.unwrap(), [[i]]);
    }
}

// [C012]
#[tokio::test]
async fn a_frame_over_the_limit_is_refused_after_those_before_it() {
    // One that would be buffered, and one that would be collected.
    for (len, max) in [(65_usize, 64), (1 << 20, 100_000)] {
        let (link, mut peer) = raw(4096, LinkOptions::new().max_frame_len(max));
        assert_eq!(link.limits().max_frame_len, max);
        let (_tx, mut rx) = link.split();
        peer.write_all(&prefixed(&[7; 64])).await.unwrap();
        peer.write_all(&len.to_be_bytes()[5..]).await.unwrap();
        peer.write_all(&[0; 65]).await.unwrap();

        assert_eq!(recv(&mut *rx, 1).await.unwrap(), [[7; 64]]);
        for _ in 0..2 {
            let error = ending(&mut *rx).await.unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::PeerMisbehaved);
            assert!(chain(&error).contains(&format!("{len} bytes, {max} are allowed")));
        }
    }
}

#[tokio::test]
async fn a_stream_that_ends_between_frames_ends_in_good_order() {
    let (link, mut peer) = raw(4096, LinkOptions::new());
    let (_tx, mut rx) = link.split();
    peer.write_all(&prefixed(b"last")).await.unwrap();
    peer.shutdown().await.unwrap();

    assert_eq!(recv(&mut *rx, 9).await.unwrap(), [b"last"]);
    assert_eq!(
        ending(&mut *rx).await.unwrap(),
        Received::End,
        "and stays so"
    );
}

#[tokio::test]
async fn a_stream_that_ends_within_a_frame_is_lost() {
    for (sent, arrived) in [
        (vec![0, 0], 2),
        (vec![0, 0, 9, 1, 2], 5),
        (vec![0x10, 0, 0, 1], 4),
    ] {
        let (link, mut peer) = raw(4096, LinkOptions::new());
        let (_tx, mut rx) = link.split();
        peer.write_all(&prefixed(b"whole")).await.unwrap();
        peer.write_all(&sent).await.unwrap();
        drop(peer);

        assert_eq!(recv(&mut *rx, 1).await.unwrap(), [b"whole"]);
        for _ in 0..2 {
            let error = ending(&mut *rx).await.unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::Lost);
            let expected = format!("within a frame, after {arrived} bytes of it");
            assert!(chain(&error).contains(&expected), "{}", chain(&error));
        }
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_makes_sending_pend_and_wakes_it_by_reading() {
    let (link, mut peer) = raw(1000, LinkOptions::new());
    let (mut tx, _rx) = link.split();
    let frame = pattern(497, 1);
    let sender = async {
        for _ in 0..1000 {
            send(&mut *tx, &frame).await.unwrap();
        }
        flush(&mut *tx).await.unwrap();
    };
    let mut sender = pin!(sender);

    let mut taken = 0;
    // One poll of the sender goes as far as it can; then the peer reads a bit.
    while poll_fn(|cx| Poll::Ready(sender.as_mut().poll(cx)))
        .await
        .is_pending()
    {
        let mut some = [0; 777];
        taken += peer.read(&mut some).await.unwrap();
    }
    let mut rest = vec![0; 1000 * 500 - taken];
    peer.read_exact(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_link_that_is_held_up_takes_no_more_than_the_mark_and_one_frame() {
    let (link, _peer) = raw(1000, LinkOptions::new());
    let (mut tx, _rx) = link.split();
    let frame = pattern(497, 1);
    let mut cx = Context::from_waker(Waker::noop());
    let mut taken = 0;
    let out = OutFrame::new(&frame, Part::EMPTY, Part::EMPTY);
    while tx.poll_send(&mut cx, &out).map(Result::unwrap).is_ready() {
        taken += 500;
        assert!(taken <= 1000 + HIGH_WATER + 500);
    }
    assert!(taken >= HIGH_WATER);
    assert!(tx.poll_flush(&mut cx).is_pending());
}

#[tokio::test]
async fn a_frame_longer_than_the_mark_is_taken_when_nothing_is_queued() {
    let (link, _peer) = raw(1000, LinkOptions::new());
    let (mut tx, _rx) = link.split();
    let long = pattern(1 << 20, 1);
    let out = OutFrame::new(&long, Part::EMPTY, Part::EMPTY);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(tx.poll_send(&mut cx, &out).is_ready());
    assert!(tx.poll_send(&mut cx, &out).is_pending());
}

#[tokio::test]
async fn close_delivers_what_was_sent_and_then_ends() {
    watched(async {
        let (left, right) = linked(50);
        let (mut tx, mut left_rx) = left.split();
        let (mut right_tx, mut rx) = right.split();
        for i in 0..100 {
            send(&mut *tx, &pattern(100, i)).await.unwrap();
        }
        let (closed, frames) = tokio::join!(close(&mut *tx), recv(&mut *rx, usize::MAX));
        closed.unwrap();
        assert_eq!(frames.unwrap().len(), 100);

        close(&mut *tx).await.unwrap();
        let error = send(&mut *tx, b"late").await.unwrap_err();
        assert!(chain(&error).contains("closed"));

        // The other direction is not concerned.
        send(&mut *right_tx, b"still here").await.unwrap();
        flush(&mut *right_tx).await.unwrap();
        assert_eq!(recv(&mut *left_rx, 1).await.unwrap(), [b"still here"]);
    })
    .await;
}

#[tokio::test]
async fn each_half_outlives_the_other() {
    let (left, right) = linked(1000);
    let (left_tx, mut left_rx) = left.split();
    let (mut right_tx, mut right_rx) = right.split();

    drop(left_tx);
    assert_eq!(ending(&mut *right_rx).await.unwrap(), Received::End);
    drop(right_rx);
    send(&mut *right_tx, b"one way").await.unwrap();
    flush(&mut *right_tx).await.unwrap();
    assert_eq!(recv(&mut *left_rx, 1).await.unwrap(), [b"one way"]);
    drop(right_tx);
    assert_eq!(ending(&mut *left_rx).await.unwrap(), Received::End);
}

#[tokio::test]
async fn a_sender_whose_peer_is_gone_fails_now_and_ever_after() {
    let (link, peer) = raw(1000, LinkOptions::new());
    let (mut tx, _rx) = link.split();
    drop(peer);
    send(&mut *tx, b"into the void").await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            flush(&mut *tx).await.unwrap_err().kind(),
            TransportErrorKind::Lost
        );
    }
    assert_eq!(
        send(&mut *tx, b"x").await.unwrap_err().kind(),
        TransportErrorKind::Lost
    );
    assert_eq!(
        close(&mut *tx).await.unwrap_err().kind(),
        TransportErrorKind::Lost
    );
}

#[test]
#[should_panic = "max_frame_len is 63"]
fn a_limit_that_no_frame_could_keep_is_a_bug() {
    let _ = LinkOptions::new().max_frame_len(63);
}
