//! TCP, and what is peculiar to sockets.

use std::{net::SocketAddr, time::Duration};

use rsocket_core::testkit::halves::*;
use rsocket_core::transport::{
    Connector as _, Listener as _, OutFrame, Part, Received, TransportErrorKind,
};
use rsocket_transport_tcp::{TcpConnector, TcpListener};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// An address at which nobody listens, and the socket that keeps it so.
fn nobody() -> (SocketAddr, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

// [C003, C010]
#[tokio::test]
async fn frames_up_to_the_longest_arrive_whole_and_in_order_both_ways() {
    watched(async {
        let lens = [
            0, 1, 5, 4095, 4096, 4097, 65_535, 65_536, 65_537, 16_777_215, 2,
        ];
        let mut listener = listener().await;
        let connector = TcpConnector::new(listener.local_addr());
        let (client, server) = pair(&mut listener, &connector).await;
        let mut tasks = tokio::task::JoinSet::new();
        for (link, seed) in [(client, 1), (server, 2)] {
            let (mut tx, mut rx) = link.split();
            tasks.spawn(async move {
                for len in lens {
                    send(&mut *tx, &pattern(len, seed)).await.unwrap();
                    flush(&mut *tx).await.unwrap();
                }
                // Kept by the other task until it has read all.
                close(&mut *tx).await.unwrap();
            });
            tasks.spawn(async move {
                let frames = recv(&mut *rx, usize::MAX).await.unwrap();
                assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), lens);
                for frame in frames {
                    assert!(frame == pattern(frame.len(), 3 - seed));
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn both_ends_know_the_other() {
    let mut listener = listener().await;
    let connector = TcpConnector::new(("127.0.0.1", listener.local_addr().port()));
    let (client, server) = pair(&mut listener, &connector).await;
    assert_eq!(client.info().scheme, "tcp");
    assert_eq!(client.info().peer_addr, Some(listener.local_addr()));
    assert_eq!(server.info().scheme, "tcp");
    assert!(server.info().peer_addr.unwrap().ip().is_loopback());
    assert_eq!(listener.url(), format!("tcp://{}", listener.local_addr()));
}

#[tokio::test]
async fn names_are_looked_up() {
    let mut listener = listener().await;
    let connector = TcpConnector::new(format!("localhost:{}", listener.local_addr().port()));
    pair(&mut listener, &connector).await;
}

#[tokio::test]
async fn options_reach_both_ends() {
    let mut listener = listener().await.max_frame_len(1000).nodelay(false);
    let connector = TcpConnector::new(listener.local_addr())
        .max_frame_len(2000)
        .nodelay(false);
    let (client, server) = pair(&mut listener, &connector).await;
    assert_eq!(client.limits().max_frame_len, 2000);
    assert_eq!(server.limits().max_frame_len, 1000);
}

#[tokio::test]
async fn connecting_where_nobody_listens_fails_and_names_the_address() {
    let (address, _reserved) = nobody();
    let error = TcpConnector::new(address).connect().await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Unreachable);
    let text = chain(&error).to_lowercase();
    assert!(
        text.contains(&format!("connecting to {address}: connection refused")),
        "{text}"
    );
}

#[tokio::test]
async fn connecting_gives_up_in_time() {
    // Once nobody accepts and the backlog is full, SYNs get no answer.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    let patience = Duration::from_millis(200);
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(patience, TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }

    let error = TcpConnector::new(address)
        .connect_timeout(patience)
        .connect()
        .await
        .unwrap_err();

    assert_eq!(error.kind(), TransportErrorKind::Unreachable);
    let expected = format!("connecting to {address}: timed out");
    assert!(chain(&error).contains(&expected), "{}", chain(&error));
}

#[tokio::test]
async fn text_that_is_no_address_is_reported_when_it_is_used() {
    for text in [
        "",
        "localhost",
        "localhost:",
        ":80",
        "host:99999",
        "a b:80",
        "::1:80",
        "h:+8",
    ] {
        let error = TcpConnector::new(text).connect().await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Invalid, "{text:?}");
        assert!(chain(&error).contains("expected host:port"), "{text:?}");
        let error = TcpListener::bind(text).await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Invalid, "{text:?}");
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_refused() {
    let listener = listener().await;
    let error = TcpListener::bind(listener.local_addr()).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    assert!(chain(&error).contains(&listener.local_addr().to_string()));
}

#[tokio::test]
async fn a_server_can_take_its_address_again_at_once() {
    let mut first = listener().await;
    let address = first.local_addr();
    let (client, server) = pair(&mut first, &TcpConnector::new(address)).await;
    // Whoever closes first leaves TIME_WAIT behind: here, the server.
    drop((first, server));
    let (_tx, mut rx) = client.split();
    assert_eq!(ending(&mut *rx).await.unwrap(), Received::End);

    TcpListener::bind(address).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_vanishes_is_an_error_on_both_halves() {
    watched(async {
        let mut listener = listener().await;
        let socket = TcpSocket::new_v4().unwrap();
        let mut peer = socket.connect(listener.local_addr()).await.unwrap();
        let link = listener.accept().await.unwrap().await.unwrap();
        let (mut tx, mut rx) = link.split();
        send(&mut *tx, b"unread").await.unwrap();
        flush(&mut *tx).await.unwrap();
        peer.readable().await.unwrap();

        // With unread data, closing sends a reset.
        peer.write_all(&[0, 0]).await.unwrap();
        drop(peer);

        for _ in 0..2 {
            assert_eq!(
                ending(&mut *rx).await.unwrap_err().kind(),
                TransportErrorKind::Lost
            );
        }
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

#[tokio::test]
async fn a_peer_that_does_not_read_holds_up_the_sender_and_loses_nothing() {
    watched(async {
        let mut listener = listener().await;
        let connector = TcpConnector::new(listener.local_addr());
        let (client, server) = pair(&mut listener, &connector).await;
        let (mut tx, _client_rx) = client.split();
        let (_server_tx, mut rx) = server.split();
        let frame = pattern(10_000, 1);

        // Until the buffers of both sockets and the queue are full.
        let mut sent = 0_u32;
        std::future::poll_fn(|cx| {
            let frame = OutFrame::new(&frame, Part::EMPTY, Part::EMPTY);
            while tx.poll_send(cx, &frame).map(Result::unwrap).is_ready() {
                sent += 1;
                assert!(sent < 100_000, "a gigabyte, and no end");
            }
            std::task::Poll::Ready(())
        })
        .await;

        // One more is pending until the reader reads.
        let more = tokio::spawn(async move {
            send(&mut *tx, b"more").await.unwrap();
            close(&mut *tx).await.unwrap();
        });
        let frames = recv(&mut *rx, usize::MAX).await.unwrap();
        more.await.unwrap();
        assert_eq!(frames.len(), sent as usize + 1);
        assert_eq!(frames.last().unwrap(), b"more");
    })
    .await;
}

#[tokio::test]
async fn dropping_the_sending_half_ends_the_peers_receiving() {
    let mut listener = listener().await;
    let connector = TcpConnector::new(listener.local_addr());
    let (client, server) = pair(&mut listener, &connector).await;
    let (client_tx, mut client_rx) = client.split();
    let (mut server_tx, mut server_rx) = server.split();
    drop(client_tx);
    assert_eq!(ending(&mut *server_rx).await.unwrap(), Received::End);
    drop(server_rx);
    send(&mut *server_tx, b"still here").await.unwrap();
    close(&mut *server_tx).await.unwrap();
    assert_eq!(recv(&mut *client_rx, 9).await.unwrap(), [b"still here"]);
}

#[tokio::test]
async fn what_was_sent_before_a_close_arrives_even_if_nobody_reads_the_answers() {
    watched(async {
        let mut listener = listener().await;
        let connector = TcpConnector::new(listener.local_addr());
        let (client, server) = pair(&mut listener, &connector).await;
        let (mut tx, client_rx) = client.split();
        let (mut server_tx, mut rx) = server.split();
        send(&mut *server_tx, b"nobody reads this").await.unwrap();
        flush(&mut *server_tx).await.unwrap();
        tokio::spawn(async move {
            for i in 0..2000_u32 {
                send(&mut *tx, &pattern(10_000, i as u8)).await.unwrap();
            }
            close(&mut *tx).await.unwrap();
            // With what the kernel has not yet sent, and what it has received.
            drop((tx, client_rx));
        });

        assert_eq!(recv(&mut *rx, usize::MAX).await.unwrap().len(), 2000);
    })
    .await;
}

#[tokio::test]
async fn dropping_accept_loses_no_connection() {
    let mut listener = listener().await;
    for _ in 0..20 {
        // Polled once, then dropped.
        let _ = timeout(Duration::ZERO, listener.accept()).await;
    }
    let connector = TcpConnector::new(listener.local_addr());
    pair(&mut listener, &connector).await;
}

#[tokio::test]
async fn dropping_a_handshake_closes_the_connection() {
    let mut listener = listener().await;
    let connector = TcpConnector::new(listener.local_addr());
    let (client, handshake) = tokio::try_join!(connector.connect(), listener.accept()).unwrap();
    drop(handshake);
    let (_tx, mut rx) = client.split();
    assert_eq!(ending(&mut *rx).await.unwrap(), Received::End);
}

#[tokio::test]
async fn bytes_on_the_wire_are_prefixed_frames() {
    let mut listener = listener().await;
    let socket = TcpSocket::new_v4().unwrap();
    let mut peer = socket.connect(listener.local_addr()).await.unwrap();
    let link = listener.accept().await.unwrap().await.unwrap();
    let (mut tx, mut rx) = link.split();
    send(&mut *tx, b"pong").await.unwrap();
    flush(&mut *tx).await.unwrap();
    peer.write_all(b"\0\0\x04ping").await.unwrap();

    let mut arrived = [0; 7];
    peer.read_exact(&mut arrived).await.unwrap();

    assert_eq!(arrived, *b"\0\0\x04pong");
    assert_eq!(recv(&mut *rx, 1).await.unwrap(), [b"ping"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_listener_that_runs_out_of_files_goes_on_when_there_are_some_again() {
    const NAME: &str = "tcp::a_listener_that_runs_out_of_files_goes_on_when_there_are_some_again";
    const INNER: &str = "RSOCKET_TEST_WITH_FEW_FILES";

    if std::env::var_os(INNER).is_some() {
        return run_out_of_files();
    }
    // The limit is the process's, so it has to be another process.
    let status = std::process::Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -n 40 && exec \"$0\" --exact {NAME}"))
        .arg(std::env::current_exe().unwrap())
        .env(INNER, "1")
        .status();
    assert!(status.unwrap().success());
}

#[cfg(target_os = "linux")]
#[tokio::main(flavor = "current_thread")]
async fn run_out_of_files() {
    let mut listener = listener().await;
    let client = TcpSocket::new_v4().unwrap();
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    let _client = client.connect(listener.local_addr()).await.unwrap();

    let begin = std::time::Instant::now();
    let early = timeout(Duration::from_millis(30), listener.accept()).await;
    assert!(early.is_err(), "there was a file left");
    drop(hoard);
    watched(listener.accept()).await.unwrap().await.unwrap();
    assert!(
        begin.elapsed() >= Duration::from_millis(100),
        "it did not pause"
    );
}
