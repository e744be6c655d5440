//! Frames of all lengths through links of all shapes, and halves that end.

use crate::common::*;
use rsocket_core::{
    testkit::{Random, seeds},
    transport::{Link, Received, TransportErrorKind},
};
use rsocket_transport_shm::{ShmConnector, ShmListener, ShmOptions, Spin};

const LONGEST: usize = 0x00FF_FFFF;

async fn linked(options: ShmOptions) -> (Link, Link) {
    let name = name();
    let mut listener = ShmListener::bind_with(&name, options.clone())
        .await
        .unwrap();
    pair(&mut listener, &ShmConnector::new(&name).options(options)).await
}

#[expect(unsafe_code, reason = "the peer is this very process")]
pub(crate) fn trusting() -> ShmOptions {
    // SAFETY: both ends of the links are this crate's, in this process.
    unsafe { ShmOptions::new().trust_peer() }
}

fn shapes() -> [ShmOptions; 5] {
    let tiny = ShmOptions::new().ring_len(4096);
    [
        ShmOptions::new(),
        ShmOptions::new().spin(Spin::Sleep),
        tiny.clone().arena_len(0),
        tiny.arena_len(64 << 10).spin(Spin::Sleep),
        trusting(),
    ]
}

#[tokio::test]
async fn frames_of_any_length_pass_whatever_the_memory() {
    for seed in seeds(1) {
        for options in shapes() {
            let (client, server) = watched(linked(options.clone())).await;
            assert_eq!(client.limits().max_frame_len, LONGEST);
            let (mut tx, _client_rx) = client.split();
            let (_server_tx, mut rx) = server.split();
            let mut random = Random::new(seed);
            let mut frames: Vec<_> = (0..50_u8)
                .map(|n| pattern(random.length(200_000), n))
                .collect();
            frames.push(pattern(LONGEST, 77));
            frames.extend((0..5_u8).map(|n| pattern(random.length(3_000_000), n)));
            let count = frames.len();
            let sender = async {
                for frame in &frames {
                    send(&mut *tx, frame).await.unwrap();
                    if random.once_in(3) {
                        flush(&mut *tx).await.unwrap();
                    }
                }
                close(&mut *tx).await.unwrap();
            };
            let both = async { tokio::join!(sender, recv(&mut *rx, count + 1)) };
            let ((), received) = watched(both).await;
            let received = received.unwrap();
            assert_eq!(received.len(), count, "{options:?}, seed {seed}");
            assert!(received == frames, "{options:?}, seed {seed}");
        }
    }
}

#[tokio::test]
async fn a_receiver_that_is_dropped_ends_a_sender_that_waits() {
    for options in shapes() {
        let (client, server) = watched(linked(options)).await;
        let (mut tx, _client_rx) = client.split();
        let (_server_tx, rx) = server.split();
        let sending = tokio::spawn(async move {
            loop {
                if let Err(error) = send(&mut *tx, &[7; 1000]).await {
                    break error;
                }
                if let Err(error) = flush(&mut *tx).await {
                    break error;
                }
            }
        });
        tokio::task::yield_now().await;
        drop(rx);
        let error = watched(sending).await.unwrap();
        assert_eq!(error.kind(), TransportErrorKind::Lost);
    }
}

#[tokio::test]
async fn payloads_outlive_the_link_that_they_came_through_and_do_not_hold_it_up() {
    let (client, server) = watched(linked(trusting())).await;
    let (mut tx, mut client_rx) = client.split();
    let (server_tx, mut rx) = server.split();
    let frame = pattern(1 << 20, 1);
    send(&mut *tx, &frame).await.unwrap();
    flush(&mut *tx).await.unwrap();
    let mut kept = None;
    std::future::poll_fn(|cx| {
        rx.poll_recv(cx, &mut |frame| {
            if let rsocket_core::transport::InFrame::Shared(bytes) = frame {
                kept = Some(bytes);
            }
            std::ops::ControlFlow::Continue(())
        })
    })
    .await
    .unwrap();
    drop((rx, server_tx));
    let error = watched(ending(&mut *client_rx)).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Lost);
    drop((tx, client_rx));
    assert!(kept.unwrap() == frame);
}

#[tokio::test]
async fn a_close_reaches_a_peer_that_comes_late() {
    let (client, server) = watched(linked(ShmOptions::new())).await;
    let (mut tx, client_rx) = client.split();
    send(&mut *tx, b"last words").await.unwrap();
    close(&mut *tx).await.unwrap();
    drop((tx, client_rx));
    let (_server_tx, mut rx) = server.split();
    assert_eq!(recv(&mut *rx, 1).await.unwrap(), [b"last words"]);
    assert_eq!(ending(&mut *rx).await.unwrap(), Received::End);
    assert_eq!(ending(&mut *rx).await.unwrap(), Received::End);
}
