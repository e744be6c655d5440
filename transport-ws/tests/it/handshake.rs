//! Requests that become links, requests that do not, and servers that do not
//! answer as they should.

use std::time::Duration;

use crate::common::*;
use rsocket_core::transport::{Connector as _, Listener as _, TransportError, TransportErrorKind};
use rsocket_transport_ws::WsConnector;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

#[tokio::test]
async fn the_acceptor_sees_what_the_request_said() {
    let mut listener = listener().await.path("/rsocket");
    assert_eq!(
        listener.url(),
        format!("ws://{}/rsocket", listener.local_addr())
    );
    let connector = WsConnector::new(format!("{}?room=7&x=%20", listener.url()))
        .header("Authorization", "Bearer token")
        .header("x-twice", "1")
        .header("x-twice", "2")
        .subprotocol("graphql-ws")
        .subprotocol("rsocket");
    let (client, server) = pair(&mut listener, &connector).await;

    let info = server.info();
    assert_eq!(info.scheme, "ws");
    assert_eq!(info.path.as_deref(), Some("/rsocket?room=7&x=%20"));
    assert!(info.peer_addr.unwrap().ip().is_loopback());
    assert!(info.tls.is_none());
    let values = |name| -> Vec<_> {
        let named = info.headers.iter().filter(|(n, _)| n == name);
        named.map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(values("authorization"), ["Bearer token"]);
    assert_eq!(values("x-twice"), ["1", "2"]);
    assert_eq!(values("host"), [listener.local_addr().to_string()]);

    let info = client.info();
    assert_eq!(info.peer_addr, Some(listener.local_addr()));
    assert_eq!(info.path.as_deref(), Some("/rsocket?room=7&x=%20"));
    let chosen = ("sec-websocket-protocol".to_owned(), "rsocket".to_owned());
    assert!(info.headers.contains(&chosen), "{:?}", info.headers);
}

#[tokio::test]
async fn limits_reach_both_ends() {
    let mut listener = listener().await.max_frame_len(1000).nodelay(false);
    let connector = WsConnector::new(listener.url())
        .max_frame_len(2000)
        .nodelay(false);
    let (client, server) = pair(&mut listener, &connector).await;
    assert_eq!(client.limits().max_frame_len, 2000);
    assert_eq!(server.limits().max_frame_len, 1000);
}

/// What a server answers to `bytes`, having refused them.
async fn refusal(bytes: &[u8]) -> String {
    let mut listener = listener()
        .await
        .path("/rsocket")
        .allow_origins(["https://app.example"]);
    let (response, link) = ask(&mut listener, bytes).await;
    let error = link.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::PeerMisbehaved);
    // The log says what the client was told.
    let body = response.rsplit("\r\n\r\n").next().unwrap().trim();
    assert!(chain(&error).contains(body), "{}: {body}", chain(&error));
    response
}

#[tokio::test]
async fn requests_that_are_none_for_rsocket_are_told_why() {
    let good = request("/rsocket", &[]);
    let cases = [
        (
            "GET /rsocket HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
            "426",
            "ask for an upgrade",
        ),
        (
            good.replace("Upgrade: websocket", "Upgrade: h2c"),
            "426",
            "ask for an upgrade",
        ),
        (
            good.replace("Connection: Upgrade", "Connection: close"),
            "426",
            "ask for an upgrade",
        ),
        (
            good.replace("Version: 13", "Version: 8"),
            "426",
            "version 13",
        ),
        (good.replace("GET", "POST"), "405", "GET"),
        (good.replace("HTTP/1.1", "HTTP/1.0"), "505", "HTTP/1.1"),
        (
            good.replace("dGhlIHNhbXBsZSBub25jZQ==", "short"),
            "400",
            "Sec-WebSocket-Key",
        ),
        (
            good.replace("Sec-WebSocket-Key", "X-Key"),
            "400",
            "Sec-WebSocket-Key",
        ),
        (request("/other", &[]), "404", "RSocket is at /rsocket"),
        (
            request("/rsocket", &["Origin: https://evil.example"]),
            "403",
            "origin",
        ),
        (request("/rsocket", &["Origin: null"]), "403", "origin"),
        (
            request("/rsocket", &["Sec-WebSocket-Protocol: mqtt, stomp"]),
            "400",
            "known: rsocket",
        ),
        ("\0\0\x1A\0\0\0\0\x04\0".to_owned(), "400", "not HTTP/1.1"),
        ("\x16\x03\x01\x02\0".to_owned(), "400", "not HTTP/1.1"),
    ];
    for (bytes, status, says) in cases {
        let response = refusal(bytes.as_bytes()).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{bytes}\n{response}"
        );
        assert!(response.contains(says), "{bytes}\n{response}");
        assert!(
            response.to_lowercase().contains("connection: close"),
            "{response}"
        );
    }
    let plain = refusal(b"GET /rsocket HTTP/1.1\r\n\r\n")
        .await
        .to_lowercase();
    assert!(plain.contains("upgrade: websocket") && plain.contains("sec-websocket-version: 13"));
}

#[tokio::test]
async fn requests_are_let_in_that_browsers_and_others_make() {
    for lines in [
        &[][..],
        &["Origin: https://APP.example"],
        &["Sec-WebSocket-Protocol: rsocket"],
        &[
            "Sec-WebSocket-Protocol: mqtt",
            "Sec-WebSocket-Protocol: rsocket",
        ],
        &["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"],
    ] {
        let mut listener = listener().await.allow_origins(["https://app.example"]);
        let bytes = request("/any/path?x", lines)
            .replace("Connection: Upgrade", "Connection: keep-alive, Upgrade");
        let (response, link) = ask(&mut listener, bytes.as_bytes()).await;
        assert!(
            response.starts_with("HTTP/1.1 101 "),
            "{lines:?}\n{response}"
        );
        let response = response.to_lowercase();
        // The example of RFC 6455, section 1.3.
        assert!(
            response.contains("s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{response}"
        );
        assert!(!response.contains("extensions"), "{response}");
        let offered = lines.concat().contains("rsocket");
        assert_eq!(
            response.contains("sec-websocket-protocol: rsocket"),
            offered
        );
        link.unwrap();
    }
}

#[tokio::test]
async fn a_request_that_is_too_long_is_refused_before_it_ends() {
    let many: Vec<_> = (0..200).map(|n| format!("x-{n}: 1")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(20_000));
    for bytes in [request("/", &many), endless] {
        let mut listener = listener().await;
        let (response, link) = ask(&mut listener, bytes.as_bytes()).await;
        assert!(response.starts_with("HTTP/1.1 431 "), "{response}");
        assert_eq!(link.unwrap_err().kind(), TransportErrorKind::PeerMisbehaved);
    }
}

#[tokio::test]
async fn frames_right_behind_a_request_are_not_lost() {
    let mut listener = listener().await;
    let mut bytes = request("/", &[]).into_bytes();
    bytes.extend_from_slice(&masked(FIN | BINARY, b"hasty"));
    let (_, link) = ask(&mut listener, &bytes).await;
    let (_tx, mut rx) = link.unwrap().split();
    assert_eq!(recv(&mut *rx, 1).await.unwrap(), [b"hasty"]);
}

#[tokio::test]
async fn a_request_that_drips_in_is_taken_if_it_arrives_in_time() {
    watched(async {
        let mut listener = listener().await;
        let mut peer = TcpStream::connect(listener.local_addr()).await.unwrap();
        let handshake = tokio::spawn(listener.accept().await.unwrap());
        for byte in request("/", &[]).bytes() {
            put(&mut peer, &[byte]).await;
            tokio::task::yield_now().await;
        }
        assert!(head(&mut peer).await.starts_with("HTTP/1.1 101 "));
        handshake.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_request_that_drips_in_for_too_long_is_refused_and_disturbs_nobody() {
    watched(async {
        let mut listener = listener()
            .await
            .handshake_timeout(Duration::from_millis(200));
        let mut peer = TcpStream::connect(listener.local_addr()).await.unwrap();
        let slow = tokio::spawn(listener.accept().await.unwrap());
        let mut drip = request("/", &[]).into_bytes();
        drip.truncate(drip.len() - 1);
        put(&mut peer, &drip).await;

        let connector = WsConnector::new(listener.url());
        pair(&mut listener, &connector).await;

        let mut response = String::new();
        peer.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
        let error = slow.await.unwrap().unwrap_err();
        assert!(chain(&error).contains("in time"), "{}", chain(&error));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_hangs_up_within_its_request_is_lost() {
    let mut listener = listener().await;
    let mut peer = TcpStream::connect(listener.local_addr()).await.unwrap();
    put(&mut peer, b"GET / HT").await;
    drop(peer);
    let error = listener.accept().await.unwrap().await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Lost);
    assert!(chain(&error).contains("within the handshake"));
}

/// What a client makes of a server that answers with `response` and then waits.
async fn connecting(response: &str, offer: Option<&str>) -> Result<(), TransportError> {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut connector = WsConnector::new(format!("ws://{}/", server.local_addr().unwrap()))
        .connect_timeout(Duration::from_millis(500));
    if let Some(offer) = offer {
        connector = connector.subprotocol(offer);
    }
    let serving = async {
        let (mut stream, _) = server.accept().await.unwrap();
        let asked = head(&mut stream).await;
        let key = asked
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "));
        let accept = rsocket_transport_ws::tungstenite::handshake::derive_accept_key(
            key.unwrap().as_bytes(),
        );
        let response = response.replace("ACCEPT", &accept);
        let _ = stream.write_all(response.as_bytes()).await;
        stream
    };
    let (connected, _stream) = watched(async { tokio::join!(connector.connect(), serving) }).await;
    connected.map(drop)
}

const GRANTED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                       Sec-WebSocket-Accept: ACCEPT\r\n";

#[tokio::test]
async fn clients_take_no_answer_but_the_right_one() {
    use TransportErrorKind::{Invalid, PeerMisbehaved, Unreachable};

    connecting(&format!("{GRANTED}\r\n"), None).await.unwrap();
    connecting(&format!("{GRANTED}\r\n"), Some("rsocket"))
        .await
        .unwrap();
    let chosen = format!("{GRANTED}Sec-WebSocket-Protocol: rsocket\r\n\r\n");
    connecting(&chosen, Some("rsocket")).await.unwrap();

    let endless = format!("HTTP/1.1 101 x\r\nx: {}", "y".repeat(20_000));
    let cases = [
        (
            chosen.as_str(),
            PeerMisbehaved,
            "`rsocket`, which was not offered",
        ),
        (
            &format!("{GRANTED}Sec-WebSocket-Extensions: x-y\r\n\r\n"),
            PeerMisbehaved,
            "extension `x-y`",
        ),
        (
            &GRANTED.replace("ACCEPT\r\n", "AAAA\r\n\r\n"),
            PeerMisbehaved,
            "does not answer this request",
        ),
        (
            &format!("{GRANTED}\r\n").replace("websocket", "h2c"),
            PeerMisbehaved,
            "another protocol",
        ),
        (
            "HTTP/1.1 404 Not Found\r\n\r\nno such page\nreally",
            Invalid,
            "404 Not Found: no such page",
        ),
        ("HTTP/1.1 401 Unauthorized\r\n\r\n", Invalid, "401"),
        ("HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", Invalid, "301"),
        ("HTTP/1.1 503 Busy\r\n\r\n", Unreachable, "503"),
        ("HTTP/1.1 429 Slow\r\n\r\n", Unreachable, "429"),
        ("HTTP/1.1 200 OK\r\n\r\n", PeerMisbehaved, "200"),
        ("SSH-2.0-OpenSSH_9.2\r\n", PeerMisbehaved, "not HTTP/1.1"),
        (&endless, PeerMisbehaved, "16384 bytes"),
        ("HTTP/1.1 101 Swi", Unreachable, "timed out"),
    ];
    for (response, kind, says) in cases {
        let error = connecting(response, None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{response}: {}", chain(&error));
        assert!(
            chain(&error).contains(says),
            "{response}: {}",
            chain(&error)
        );
    }
}

#[tokio::test]
async fn headers_that_cannot_be_sent_are_reported_when_connecting() {
    let listener = listener().await;
    for (name, value) in [
        ("a b", "c"),
        ("a", "b\r\nc: d"),
        ("Upgrade", "h2c"),
        ("sec-websocket-key", "mine"),
    ] {
        let connector = WsConnector::new(listener.url()).header(name, value);
        let error = connector.connect().await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Invalid);
        assert!(
            chain(&error).contains(&format!("`{name}`")),
            "{}",
            chain(&error)
        );
    }
}

#[tokio::test]
async fn a_host_header_of_the_callers_replaces_ours() {
    let mut listener = listener().await;
    let connector = WsConnector::new(listener.url()).header("host", "app.example");
    let (_client, server) = pair(&mut listener, &connector).await;
    let hosts = server
        .info()
        .headers
        .iter()
        .filter(|(name, _)| name == "host");
    assert_eq!(
        hosts.map(|(_, host)| host.as_str()).collect::<Vec<_>>(),
        ["app.example"]
    );
}
