//! `wss:`: who is let in, and what is known about them.

use crate::{authority::Authority, common::*};
use rsocket_core::transport::{Connector as _, Listener as _, TransportErrorKind, Transports};
use rsocket_transport_ws::{WsConnector, WsListener, tls::Roots};

async fn secure(authority: &Authority, clients: Option<Roots>) -> WsListener {
    listener().await.tls(authority.server(clients))
}

fn url(listener: &WsListener) -> String {
    format!("wss://localhost:{}/rsocket", listener.local_addr().port())
}

#[tokio::test]
async fn the_acceptor_sees_who_the_client_is_and_what_it_asked_for() {
    let authority = Authority::new();
    let mut listener = secure(&authority, Some(authority.roots())).await;
    let alice = authority.issue("alice");
    let connector = WsConnector::new(url(&listener)).tls(authority.client(Some(&alice)));
    let (client, server) = pair(&mut listener, &connector).await;

    let info = server.info();
    assert_eq!(info.scheme, "wss");
    assert_eq!(info.path.as_deref(), Some("/rsocket"));
    let seen = info.tls.as_ref().unwrap();
    assert_eq!(seen.server_name.as_deref(), Some("localhost"));
    assert_eq!(seen.peer_certificates[0], alice.der);
    assert!(
        info.headers
            .iter()
            .any(|(name, _)| name == "sec-websocket-key")
    );
    assert_eq!(
        client.info().tls.as_ref().unwrap().peer_certificates.len(),
        1
    );
    assert!(listener.url().starts_with("wss://"));
}

#[tokio::test]
async fn who_cannot_show_a_certificate_is_not_let_in() {
    watched(async {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let mut listener = secure(&ours, Some(ours.roots())).await;
        let mallory = theirs.issue("mallory");
        for identity in [None, Some(&mallory)] {
            let connector = WsConnector::new(url(&listener)).tls(ours.client(identity));
            let accepting = async { listener.accept().await.unwrap().await };
            let (connected, accepted) = tokio::join!(connector.connect(), accepting);
            assert_eq!(
                accepted.unwrap_err().kind(),
                TransportErrorKind::PeerMisbehaved
            );
            // The request got no answer but the server's alert.
            assert_eq!(
                connected.unwrap_err().kind(),
                TransportErrorKind::PeerMisbehaved
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_not_trusted() {
    watched(async {
        let (ours, theirs) = (Authority::new(), Authority::new());
        let mut listener = secure(&theirs, None).await;
        let connector = WsConnector::new(url(&listener)).tls(ours.client(None));
        let accepting = async { listener.accept().await.unwrap().await };
        let (connected, accepted) = tokio::join!(connector.connect(), accepting);
        assert_eq!(
            connected.unwrap_err().kind(),
            TransportErrorKind::PeerMisbehaved
        );
        assert!(accepted.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_client_without_tls_is_turned_away() {
    watched(async {
        let authority = Authority::new();
        let mut listener = secure(&authority, None).await;
        let plain = WsConnector::new(url(&listener).replace("wss:", "ws:"));
        let accepting = async { listener.accept().await.unwrap().await };
        let (connected, accepted) = tokio::join!(plain.connect(), accepting);
        assert!(connected.is_err());
        assert_eq!(
            accepted.unwrap_err().kind(),
            TransportErrorKind::PeerMisbehaved
        );
    })
    .await;
}

#[tokio::test]
async fn urls_name_the_files_behind_a_hash_that_is_never_sent() {
    let authority = Authority::new();
    let server = authority.issue("localhost");
    let client = authority.issue("alice");
    let folder = std::env::temp_dir().join(format!("rsocket-wss-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let ca = file("ca.pem", &authority.pem());
    let (cert, key) = (file("s.pem", &server.cert), file("s.key", &server.key));
    let (my_cert, my_key) = (file("c.pem", &client.cert), file("c.key", &client.key));

    let mut transports = Transports::new();
    rsocket_transport_ws::register(&mut transports);
    let listening = format!("wss://127.0.0.1:0/rsocket#cert={cert}&key={key}&ca={ca}");
    let mut listener = transports.listener(&listening).await.unwrap();
    let url = listener.url().replace("127.0.0.1", "localhost");
    let url = format!("{url}?x=1#ca={ca}&cert={my_cert}&key={my_key}");
    let connector = transports.connector(&url).unwrap();
    let (_client, server) = pair(&mut listener, &connector).await;
    std::fs::remove_dir_all(&folder).unwrap();

    let info = server.info();
    assert_eq!(info.path.as_deref(), Some("/rsocket?x=1"));
    assert_eq!(info.tls.as_ref().unwrap().peer_certificates[0], client.der);

    let missing = transports.connector("wss://host/#ca=/nowhere/ca.pem");
    let error = missing.map(drop).unwrap_err();
    assert!(
        chain(&error).contains("/nowhere/ca.pem"),
        "{}",
        chain(&error)
    );
}
