//! Peers that are gone and did not say so: a connection that is open at this end
//! alone. Nothing arrives, so it is time that tells.

use std::time::{Duration, Instant};

use crate::common::*;
use rsocket_core::{
    Client, CloseReason, Error, Handlers, Requester, Server, proto::Limits,
    transport::Listener as _,
};
use rsocket_transport_ws::WsConnector;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

const PATIENCE: Duration = Duration::from_millis(300);

/// A server that waits this long for requests and for SETUP; and the requesters of
/// the clients that it accepted.
async fn serving() -> (std::net::SocketAddr, mpsc::Receiver<Requester>) {
    let listener = listener().await.handshake_timeout(PATIENCE);
    let address = listener.local_addr();
    let mut limits = Limits::default();
    limits.setup_timeout = PATIENCE;
    let (accepted, clients) = mpsc::channel(8);
    let server = Server::new().limits(limits);
    tokio::spawn(server.serve(listener, move |_, client| {
        let accepted = accepted.clone();
        async move {
            // Whoever waits for clients may be gone.
            let _ = accepted.send(client).await;
            Ok(Handlers::new())
        }
    }));
    (address, clients)
}

/// All that still comes, once the other end has closed.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn a_client_that_connects_and_says_nothing_is_let_go() {
    watched(async {
        let (address, _clients) = serving().await;
        let start = Instant::now();
        let mut peer = TcpStream::connect(address).await.unwrap();
        let answer = String::from_utf8(rest(&mut peer).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(start.elapsed() >= PATIENCE);
    })
    .await;
}

// [C182]
#[tokio::test]
async fn a_client_that_upgrades_and_sends_no_setup_is_let_go() {
    watched(async {
        let (address, _clients) = serving().await;
        let mut peer = TcpStream::connect(address).await.unwrap();
        put(&mut peer, request("/", &[]).as_bytes()).await;
        head(&mut peer).await;
        let start = Instant::now();
        rest(&mut peer).await;
        // Counted from when the server's link was there, which is a little earlier.
        assert!(start.elapsed() >= PATIENCE / 2);
    })
    .await;
}

// [C108]
#[tokio::test]
async fn a_client_that_vanishes_is_given_up_after_its_max_lifetime() {
    watched(async {
        let (address, mut clients) = serving().await;
        let mut peer = TcpStream::connect(address).await.unwrap();
        put(&mut peer, request("/", &[]).as_bytes()).await;
        head(&mut peer).await;
        put(&mut peer, &masked(FIN | BINARY, &setup(300))).await;
        let client = clients.recv().await.unwrap();
        // Pings are the transport's own business: they show that a machine is there,
        // not that anybody listens.
        put(&mut peer, &masked(FIN | PING, b"still here")).await;
        let reason = client.closed().await;
        assert!(
            matches!(reason, CloseReason::KeepaliveTimeout { millis: 300 }),
            "{reason:?}"
        );
        // Its socket is closed, though the application still has its handle.
        rest(&mut peer).await;
        drop(client);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_never_answers_the_request_is_given_up() {
    watched(async {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", server.local_addr().unwrap());
        let connector = WsConnector::new(url).connect_timeout(PATIENCE);
        let connecting = Client::new().connect(connector);
        let (connected, held) = tokio::join!(connecting, server.accept());
        let error = format!("{:?}", connected.unwrap_err());
        assert!(error.contains("timed out"), "{error}");
        drop(held);
    })
    .await;
}

// [C108]
#[tokio::test]
async fn a_server_that_vanishes_fails_what_was_asked_after_the_max_lifetime() {
    watched(async {
        let mut listener = listener().await;
        let client = Client::new().keepalive(Duration::from_millis(100), PATIENCE);
        let connecting = client.connect(WsConnector::new(listener.url()));
        let accepting = async { listener.accept().await.unwrap().await.unwrap() };
        let (peer, _held_and_silent) = tokio::join!(connecting, accepting);
        let peer = peer.unwrap();
        let error = peer.request_response("anybody there?").await.unwrap_err();
        assert!(matches!(error, Error::Closed(_)), "{error:?}");
        let reason = peer.closed().await;
        assert!(
            matches!(reason, CloseReason::KeepaliveTimeout { millis: 300 }),
            "{reason:?}"
        );
    })
    .await;
}
