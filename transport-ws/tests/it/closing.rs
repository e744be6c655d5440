//! How links end.

use std::time::Duration;

use crate::common::*;
use rsocket_core::transport::{Received, TransportErrorKind};
use rsocket_transport_ws::WsConnector;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

#[tokio::test]
async fn a_peer_that_is_done_ends_the_link_in_good_order_and_is_answered() {
    for payload in [
        close_payload(1000, "bye"),
        close_payload(1001, ""),
        Vec::new(),
    ] {
        let (link, mut peer) = server();
        let (mut tx, mut rx) = link.split();
        put(&mut peer, &masked(FIN | BINARY, b"last")).await;
        put(&mut peer, &masked(FIN | CLOSE, &payload)).await;
        assert_eq!(recv(&mut *rx, 9).await.unwrap(), [b"last"]);
        assert_eq!(ending(&mut *rx).await.unwrap(), Received::End, "and again");

        let (first, answer) = next_frame(&mut peer).await.unwrap();
        assert_eq!(first, FIN | CLOSE);
        assert_eq!(
            answer,
            payload.get(..2).unwrap_or_default(),
            "the same code"
        );
        // Both have closed: the stream ends, though the sending half lives.
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
        assert!(flush(&mut *tx).await.is_ok(), "there is nothing to flush");
        send(&mut *tx, b"late").await.unwrap();
        assert!(
            flush(&mut *tx).await.is_err(),
            "nothing follows a closing frame"
        );
    }
}

#[tokio::test]
async fn other_codes_are_errors_worth_trying_again_or_not() {
    use TransportErrorKind::{Lost, PeerMisbehaved};

    for (code, kind) in [
        (1002, PeerMisbehaved),
        (1003, PeerMisbehaved),
        (1007, PeerMisbehaved),
        (1008, PeerMisbehaved),
        (1009, PeerMisbehaved),
        (1010, PeerMisbehaved),
        (1011, Lost),
        (1012, Lost),
        (1013, Lost),
        (3000, Lost),
        (4999, Lost),
    ] {
        let (link, mut peer) = server();
        let (_tx, mut rx) = link.split();
        put(
            &mut peer,
            &masked(FIN | CLOSE, &close_payload(code, "because")),
        )
        .await;
        for _ in 0..2 {
            let error = ending(&mut *rx).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{code}");
            let text = chain(&error);
            assert!(text.contains(&format!("code {code}: because")), "{text}");
        }
        assert_eq!(
            closing_frame(&mut peer).await.0,
            code,
            "answered with the same"
        );
    }
}

#[tokio::test]
async fn closing_says_1000_once_and_what_was_queued_goes_before() {
    let (link, mut peer) = server();
    let (mut tx, mut rx) = link.split();
    send(&mut *tx, b"last").await.unwrap();
    close(&mut *tx).await.unwrap();
    close(&mut *tx).await.unwrap();
    assert!(send(&mut *tx, b"more").await.is_err());
    assert_eq!(
        next_frame(&mut peer).await.unwrap(),
        (FIN | BINARY, b"last".to_vec())
    );
    assert_eq!(closing_frame(&mut peer).await, (1000, String::new()));

    // The peer may still have something to say before it closes as well; but it
    // gets no more answers.
    put(&mut peer, &masked(FIN | PING, b"alive?")).await;
    put(&mut peer, &masked(FIN | BINARY, b"too late")).await;
    put(&mut peer, &masked(FIN | CLOSE, &close_payload(1000, ""))).await;
    assert_eq!(recv(&mut *rx, 9).await.unwrap(), [b"too late"]);
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "the stream ends");
}

#[tokio::test]
async fn a_connection_that_ends_without_a_closing_frame_is_lost() {
    for (bytes, says) in [
        (Vec::new(), "after 0 bytes"),
        (masked(FIN | BINARY, b"cut")[..7].to_vec(), "after 7 bytes"),
        (masked(BINARY, b"part"), "after 4 bytes"),
        (
            masked(FIN | BINARY, &[0; 50_000])[..20_000].to_vec(),
            "after 19992 bytes",
        ),
    ] {
        let (link, mut peer) = server();
        let (_tx, mut rx) = link.split();
        put(&mut peer, &bytes).await;
        drop(peer);
        for _ in 0..2 {
            let error = ending(&mut *rx).await.unwrap_err();
            assert_eq!(error.kind(), TransportErrorKind::Lost);
            assert!(chain(&error).contains(says), "{}", chain(&error));
        }
    }
}

#[tokio::test]
async fn dropping_a_sender_that_did_not_close_ends_the_stream_without_a_closing_frame() {
    let (link, mut peer) = server();
    let (mut tx, rx) = link.split();
    send(&mut *tx, b"flushed").await.unwrap();
    flush(&mut *tx).await.unwrap();
    drop(tx);
    assert_eq!(next_frame(&mut peer).await.unwrap().1, b"flushed");
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
    drop(rx);
}

/// A handshake by hand, and the server's link.
async fn raw_client() -> (TcpStream, rsocket_core::transport::Link) {
    use rsocket_core::transport::Listener as _;

    let mut listener = listener().await;
    let mut peer = TcpStream::connect(listener.local_addr()).await.unwrap();
    put(&mut peer, request("/", &[]).as_bytes()).await;
    let link = listener.accept().await.unwrap().await.unwrap();
    head(&mut peer).await;
    (peer, link)
}

#[tokio::test]
async fn the_code_of_a_refusal_reaches_a_peer_that_sends_on() {
    watched(async {
        let (mut peer, link) = raw_client().await;
        let (tx, mut rx) = link.split();
        let mut bytes = header(FIN | BINARY, 0x80, 20_000_000);
        bytes.extend_from_slice(&[0; 300_000]);
        put(&mut peer, &bytes).await;
        assert!(ending(&mut *rx).await.is_err());
        // With bytes that nobody will read, a socket that is just closed would be
        // reset, and the code lost.
        drop((tx, rx));
        put(&mut peer, &[0; 100_000]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(closing_frame(&mut peer).await.0, 1009);
    })
    .await;
}

#[tokio::test]
async fn what_was_sent_before_a_close_arrives_even_if_nobody_reads_the_answers() {
    watched(async {
        let mut listener = listener().await;
        let url = format!("ws://{}/", listener.local_addr());
        let (client, server) = pair(&mut listener, &WsConnector::new(url)).await;
        let (mut tx, client_rx) = client.split();
        let (mut server_tx, mut rx) = server.split();
        send(&mut *server_tx, b"nobody reads this").await.unwrap();
        flush(&mut *server_tx).await.unwrap();
        tokio::spawn(async move {
            for i in 0..2000_u32 {
                send(&mut *tx, &[i as u8; 10_000]).await.unwrap();
            }
            close(&mut *tx).await.unwrap();
            drop((tx, client_rx));
        });
        assert_eq!(recv(&mut *rx, usize::MAX).await.unwrap().len(), 2000);
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_is_reset_is_lost_on_both_halves() {
    watched(async {
        let (peer, link) = raw_client().await;
        let (mut tx, mut rx) = link.split();
        send(&mut *tx, b"unread").await.unwrap();
        flush(&mut *tx).await.unwrap();
        peer.readable().await.unwrap();
        // With unread data, closing sends a reset.
        drop(peer);
        assert_eq!(
            ending(&mut *rx).await.unwrap_err().kind(),
            TransportErrorKind::Lost
        );
        let error = loop {
            let sent = send(&mut *tx, b"anyone?").await;
            if let Err(error) = sent.and(flush(&mut *tx).await) {
                break error;
            }
        };
        assert_eq!(error.kind(), TransportErrorKind::Lost);
    })
    .await;
}
