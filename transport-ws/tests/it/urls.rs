//! URLs that choose a transport at run time.

use crate::common::*;
use rsocket_core::transport::{Connector as _, TransportErrorKind, Transports};
use rsocket_transport_ws::WsConnector;

fn transports() -> Transports {
    let mut transports = Transports::new();
    rsocket_transport_ws::register(&mut transports);
    transports
}

#[tokio::test]
async fn a_listener_says_the_url_that_reaches_it() {
    for (url, path) in [
        ("ws://127.0.0.1:0", "/"),
        ("ws://localhost:0/", "/"),
        ("ws://127.0.0.1:0/rsocket", "/rsocket"),
    ] {
        let mut listener = transports().listener(url).await.unwrap();
        let connector = transports().connector(&listener.url()).unwrap();
        let (_client, server) = pair(&mut listener, &connector).await;
        assert_eq!(server.info().path.as_deref(), Some(path));
        assert!(listener.url().ends_with(path), "{}", listener.url());
    }
}

#[tokio::test]
async fn a_server_without_a_path_serves_any_and_one_with_a_path_that_alone() {
    let mut any = transports().listener("ws://127.0.0.1:0").await.unwrap();
    let connector = WsConnector::new(any.url() + "some/where?x=1");
    let (_client, server) = pair(&mut any, &connector).await;
    assert_eq!(server.info().path.as_deref(), Some("/some/where?x=1"));

    let mut one = transports()
        .listener("ws://127.0.0.1:0/rsocket")
        .await
        .unwrap();
    let connector = WsConnector::new(one.url() + "/more");
    let accepting = async { one.accept().await.unwrap().await };
    let (connected, accepted) = tokio::join!(connector.connect(), accepting);
    assert_eq!(connected.unwrap_err().kind(), TransportErrorKind::Invalid);
    assert!(accepted.is_err());
}

#[tokio::test]
async fn what_is_no_address_is_refused_with_the_form_expected() {
    let mut bad = vec![
        "ws:",
        "ws:127.0.0.1:80",
        "ws://",
        "ws:///path",
        "ws://:80/",
        "ws://host:port/",
        "ws://host:70000/",
        "ws://host:/",
        "ws://user:secret@host:80/",
        "ws://host:80/#ca=file",
        "ws://ho st/",
    ];
    if cfg!(feature = "tls") {
        bad.extend([
            "wss://host/#cert=a",
            "wss://host/#ca=a&ca=b",
            "wss://host/#color=red",
        ]);
    }
    for url in bad {
        let connector = transports().connector(url).map(drop).unwrap_err();
        let listener = transports().listener(url).await.map(drop).unwrap_err();
        for error in [connector, listener] {
            assert_eq!(error.kind(), TransportErrorKind::Invalid, "{url}");
            let text = chain(&error);
            assert!(
                text.contains(&format!("`{url}` is not an address")),
                "{text}"
            );
            assert!(text.contains("ws://host[:port][/path][?query]"), "{text}");
        }
    }
    // A connector that is made by hand reports it when it is used.
    let error = WsConnector::new("ws://").connect().await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
}

#[test]
fn ports_may_be_left_out_and_numbers_of_ipv6_stand_in_brackets() {
    assert!(transports().connector("ws://host").is_ok());
    assert!(transports().connector("ws://host/path?query").is_ok());
    assert!(transports().connector("ws://[::1]:80/").is_ok());
}

#[test]
fn each_build_registers_what_it_can_do() {
    let schemes: Vec<_> = transports().schemes().collect();
    assert!(schemes.contains(&"ws"));
    assert_eq!(schemes.contains(&"wss"), cfg!(feature = "tls"));
}
