//! TLS: who is let in, what is known about them, and who is not disturbed.

use std::sync::Arc;

use crate::authority::{Authority, Identity};
use rsocket_core::testkit::halves::*;
use rsocket_core::transport::{
    Connector as _, Link, Listener as _, Received, TransportError, TransportErrorKind, Transports,
};
use rsocket_transport_tcp::{
    TcpConnector,
    tls::{self, Roots, TlsConnector, TlsListener, rustls::ClientConfig},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

async fn listener(authority: &Authority, clients: Option<Roots>) -> TlsListener {
    let config = authority.server(clients);
    TlsListener::bind("127.0.0.1:0", config).await.unwrap()
}

fn connector(listener: &TlsListener, config: Arc<ClientConfig>) -> TlsConnector {
    let tcp = TcpConnector::new(listener.local_addr());
    TlsConnector::new(tcp, config, "localhost".try_into().unwrap())
}

/// Both ends' results, of which either may be an error.
async fn attempt(
    listener: &mut TlsListener,
    connector: &TlsConnector,
) -> (Result<Link, TransportError>, Result<Link, TransportError>) {
    let accept = async { listener.accept().await.unwrap().await };
    watched(async { tokio::join!(connector.connect(), accept) }).await
}

// [C003, C010]
#[tokio::test]
async fn frames_arrive_whole_and_in_order_both_ways_and_close_ends_them() {
    watched(async {
        let lens = [
            0, 1, 5, 4095, 4096, 4097, 65_535, 65_536, 65_537, 16_777_215, 2,
        ];
        let authority = Authority::new();
        let mut listener = listener(&authority, None).await;
        let connector = connector(&listener, authority.client(None));
        let (client, server) = pair(&mut listener, &connector).await;
        let (mut client_tx, mut client_rx) = client.split();
        let (mut server_tx, mut server_rx) = server.split();
        let send_all = async |tx: &mut dyn rsocket_core::transport::FrameTx| {
            for len in lens {
                send(tx, &pattern(len, 1)).await.unwrap();
            }
            close(tx).await.unwrap();
        };
        let ((), (), to_server, to_client) = tokio::join!(
            send_all(&mut *client_tx),
            send_all(&mut *server_tx),
            recv(&mut *server_rx, usize::MAX),
            recv(&mut *client_rx, usize::MAX),
        );
        for frames in [to_server.unwrap(), to_client.unwrap()] {
            assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), lens);
            assert!(frames.iter().all(|frame| *frame == pattern(frame.len(), 1)));
        }
    })
    .await;
}

#[tokio::test]
async fn both_ends_know_what_tls_established() {
    let authority = Authority::new();
    let mut listener = listener(&authority, None).await;
    let connector = connector(&listener, authority.client(None));
    let (client, server) = pair(&mut listener, &connector).await;

    assert_eq!(client.info().scheme, "tls");
    assert_eq!(client.info().peer_addr, Some(listener.local_addr()));
    let seen = client.info().tls.as_ref().unwrap();
    assert_eq!(seen.peer_certificates.len(), 1);
    assert_eq!(seen.server_name.as_deref(), Some("localhost"));
    assert_eq!(seen.alpn, None);
    let seen = server.info().tls.as_ref().unwrap();
    assert!(seen.peer_certificates.is_empty(), "none was asked for");
    assert_eq!(seen.server_name.as_deref(), Some("localhost"));
    assert_eq!(listener.url(), format!("tls://{}", listener.local_addr()));
}

#[tokio::test]
async fn a_server_that_asks_knows_the_clients_certificate() {
    let authority = Authority::new();
    let alice = authority.issue("alice");
    let mut listener = listener(&authority, Some(authority.roots())).await;
    let connector = connector(&listener, authority.client(Some(&alice)));
    let (_client, server) = pair(&mut listener, &connector).await;
    let seen = server.info().tls.as_ref().unwrap();
    assert_eq!(seen.peer_certificates, [alice.der]);
}

#[tokio::test]
async fn the_protocol_agreed_on_is_known() {
    let authority = Authority::new();
    let Identity { cert, key, .. } = authority.issue("localhost");
    let config = tls::server_config(cert.as_bytes(), key.as_bytes())
        .unwrap()
        .build()
        .unwrap();
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![b"rsocket".to_vec()];
    let mut listener = TlsListener::bind("127.0.0.1:0", Arc::new(config))
        .await
        .unwrap();
    let mut config = Arc::unwrap_or_clone(authority.client(None));
    config.alpn_protocols = vec![b"other".to_vec(), b"rsocket".to_vec()];
    let connector = connector(&listener, Arc::new(config));
    let (client, server) = pair(&mut listener, &connector).await;
    for link in [client, server] {
        assert_eq!(
            link.info().tls.as_ref().unwrap().alpn.as_deref(),
            Some(&b"rsocket"[..])
        );
    }
}

#[tokio::test]
async fn a_server_by_an_unknown_authority_is_refused() {
    let authority = Authority::new();
    let mut listener = listener(&authority, None).await;
    let connector = connector(&listener, Authority::new().client(None));
    let (client, server) = attempt(&mut listener, &connector).await;
    assert_eq!(
        client.unwrap_err().kind(),
        TransportErrorKind::PeerMisbehaved
    );
    assert!(server.is_err(), "the client told the server");
}

#[tokio::test]
async fn a_server_of_another_name_is_refused() {
    let authority = Authority::new();
    let mut listener = listener(&authority, None).await;
    let tcp = TcpConnector::new(listener.local_addr());
    let name = "elsewhere".try_into().unwrap();
    let connector = TlsConnector::new(tcp, authority.client(None), name);
    let (client, _server) = attempt(&mut listener, &connector).await;
    assert_eq!(
        client.unwrap_err().kind(),
        TransportErrorKind::PeerMisbehaved
    );
}

#[tokio::test]
async fn a_client_without_a_good_certificate_is_refused() {
    let authority = Authority::new();
    let stranger = Authority::new().issue("alice");
    for identity in [None, Some(&stranger)] {
        let mut listener = listener(&authority, Some(authority.roots())).await;
        let connector = connector(&listener, authority.client(identity));
        let (client, server) = attempt(&mut listener, &connector).await;
        assert_eq!(
            server.unwrap_err().kind(),
            TransportErrorKind::PeerMisbehaved
        );
        // With TLS 1.3 the client is done before the server looks.
        if let Ok(client) = client {
            let (_tx, mut rx) = client.split();
            let error = watched(ending(&mut *rx)).await.unwrap_err();
            assert_eq!(
                error.kind(),
                TransportErrorKind::PeerMisbehaved,
                "{}",
                chain(&error)
            );
        }
    }
}

#[tokio::test]
async fn a_client_that_speaks_no_tls_or_nothing_disturbs_nobody() {
    let authority = Authority::new();
    let mut listener = listener(&authority, None).await;
    let _silent = TcpStream::connect(listener.local_addr()).await.unwrap();
    let silent_handshake = listener.accept().await.unwrap();
    let mut plain = TcpStream::connect(listener.local_addr()).await.unwrap();
    let plain_handshake = listener.accept().await.unwrap();

    let connector = connector(&listener, authority.client(None));
    pair(&mut listener, &connector).await;

    plain.write_all(b"\0\0\x04ping").await.unwrap();
    let error = watched(plain_handshake).await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::PeerMisbehaved);
    drop(silent_handshake);
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_refused_by_the_client() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpConnector::new(server.local_addr().unwrap());
    let config = Authority::new().client(None);
    let connector = TlsConnector::new(tcp, config, "localhost".try_into().unwrap());
    let answer = async {
        let (mut stream, _) = server.accept().await.unwrap();
        stream.write_all(b"\0\0\x04pong").await.unwrap();
        stream
    };
    let (result, _stream) = watched(async { tokio::join!(connector.connect(), answer) }).await;
    assert_eq!(
        result.unwrap_err().kind(),
        TransportErrorKind::PeerMisbehaved
    );
}

#[tokio::test]
async fn a_sending_half_that_is_dropped_is_told_from_one_that_is_closed() {
    let authority = Authority::new();
    let mut listener = listener(&authority, None).await;
    let connector = connector(&listener, authority.client(None));
    for is_closed in [false, true] {
        let (client, server) = pair(&mut listener, &connector).await;
        let (mut client_tx, mut client_rx) = client.split();
        let (mut server_tx, mut server_rx) = server.split();
        if is_closed {
            close(&mut *client_tx).await.unwrap();
        }
        drop(client_tx);
        let ending = watched(ending(&mut *server_rx)).await;
        assert_eq!(
            ending.map_err(|error| error.kind()),
            if is_closed {
                Ok(Received::End)
            } else {
                Err(TransportErrorKind::Lost)
            }
        );
        // The other direction is not concerned.
        send(&mut *server_tx, b"still here").await.unwrap();
        flush(&mut *server_tx).await.unwrap();
        assert_eq!(
            watched(recv(&mut *client_rx, 1)).await.unwrap(),
            [b"still here"]
        );
    }
}

#[tokio::test]
async fn urls_name_files_for_what_an_address_cannot_say() {
    let dir = std::env::temp_dir().join(format!("rsocket-tls-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let authority = Authority::new();
    let file = |name: &str, content: &str| {
        let path = dir.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (server, client) = (authority.issue("localhost"), authority.issue("client"));
    let ca = file("ca.pem", &authority.pem());
    let server_files = (file("s.pem", &server.cert), file("s.key", &server.key));
    let client_files = (file("c.pem", &client.cert), file("c.key", &client.key));
    let mut transports = Transports::new();
    rsocket_transport_tcp::register(&mut transports);

    let (cert, key) = server_files;
    let url = format!("tls://127.0.0.1:0?cert={cert}&key={key}&ca={ca}");
    let mut listener = transports.listener(&url).await.unwrap();
    let at = listener.url().replace("127.0.0.1", "localhost");
    let (cert, key) = client_files;
    let url = format!("{at}?cert={cert}&key={key}&ca={ca}");
    let connector = transports.connector(&url).unwrap();
    let (_client, server) = pair(&mut listener, &connector).await;
    let seen = server.info().tls.as_ref().unwrap();
    assert_eq!(seen.peer_certificates, [client.der]);

    let missing = dir.join("missing").display().to_string();
    let error = transports
        .connector(&format!("{at}?ca={missing}"))
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    assert!(
        chain(&error).contains(&format!("reading {missing}")),
        "{}",
        chain(&error)
    );
    let error = transports
        .connector(&format!("{at}?ca={key}"))
        .map(drop)
        .unwrap_err();
    assert!(
        chain(&error).contains("no certificate in PEM"),
        "{}",
        chain(&error)
    );
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn no_key_shows_in_debug_output() {
    let Identity { cert, key, .. } = Authority::new().issue("localhost");
    let config = tls::server_config(cert.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(
        format!("{config:?}"),
        "ServerConfigBuilder { identity: Identity { chain: 1, .. }, client_roots: None }"
    );
}
