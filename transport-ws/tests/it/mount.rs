//! One port for pages, REST and RSocket.

use std::net::SocketAddr;

use crate::common::*;
use axum::{Router, extract::Request, response::IntoResponse as _, routing::get};
use rsocket_core::transport::{Connector as _, Listener as _, TransportErrorKind};
use rsocket_transport_ws::{BACKLOG, UpgradeListener, Upgrades, WsConnector, upgrades};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

/// An axum server with a page and `upgrades` at `/rsocket`.
async fn serve(upgrades: Upgrades) -> SocketAddr {
    let app = Router::new()
        .route("/", get(|| async { "a page" }))
        .route_service("/rsocket", upgrades);
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = port.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(port, app).await });
    address
}

async fn mounted() -> (SocketAddr, UpgradeListener) {
    let (upgrades, listener) = upgrades("ws://app.example/rsocket");
    (serve(upgrades).await, listener)
}

/// The whole response to a request that closes.
async fn fetch(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    put(&mut stream, bytes.as_bytes()).await;
    let mut response = String::new();
    watched(stream.read_to_string(&mut response)).await.unwrap();
    response
}

#[tokio::test]
async fn one_port_serves_pages_and_frames() {
    watched(async {
        let (address, mut listener) = mounted().await;
        assert_eq!(listener.url(), "ws://app.example/rsocket");
        let page = fetch(
            address,
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(
            page.starts_with("HTTP/1.1 200 ") && page.ends_with("a page"),
            "{page}"
        );

        let connector = WsConnector::new(format!("ws://{address}/rsocket?room=7"))
            .header("cookie", "session=1")
            .subprotocol("rsocket");
        let (client, server) = pair(&mut listener, &connector).await;
        let info = server.info();
        assert_eq!(info.scheme, "ws");
        assert_eq!(info.path.as_deref(), Some("/rsocket?room=7"));
        assert!(info.peer_addr.unwrap().ip().is_loopback());
        assert!(
            info.headers
                .contains(&("cookie".to_owned(), "session=1".to_owned()))
        );

        let (mut tx, mut client_rx) = client.split();
        let (mut server_tx, mut rx) = server.split();
        let long = vec![5; 300_000];
        let sending = async {
            send(&mut *tx, &long).await.unwrap();
            close(&mut *tx).await.unwrap();
        };
        let ((), frames) = tokio::join!(sending, recv(&mut *rx, 9));
        assert!(frames.unwrap() == [long]);
        let _ = close(&mut *server_tx).await;
        assert!(recv(&mut *client_rx, 1).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test]
async fn requests_that_are_no_upgrades_get_a_response_and_no_link() {
    let (upgrades, _listener) = upgrades("ws://app.example/rsocket");
    let address = serve(upgrades.allow_origins(["https://app.example"])).await;
    for (bytes, status) in [
        (
            "GET /rsocket HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".to_owned(),
            "426",
        ),
        (
            "POST /rsocket HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                .to_owned(),
            "405",
        ),
    ] {
        let response = fetch(address, &bytes).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{response}"
        );
    }
    let connector = WsConnector::new(format!("ws://{address}/rsocket"))
        .header("origin", "https://evil.example");
    let error = connector.connect().await.unwrap_err();
    assert_eq!(error.kind(), TransportErrorKind::Invalid);
    assert!(
        chain(&error).contains("403 Forbidden: pages of this origin"),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn upgrades_that_nobody_accepts_are_bounded_and_refused_after_that() {
    watched(async {
        let (address, mut listener) = mounted().await;
        let connector = WsConnector::new(format!("ws://{address}/rsocket"));
        let mut waiting = Vec::new();
        for _ in 0..BACKLOG {
            waiting.push(connector.connect().await.unwrap());
        }
        let error = connector.connect().await.unwrap_err();
        assert_eq!(error.kind(), TransportErrorKind::Unreachable);
        assert!(chain(&error).contains("503"), "{}", chain(&error));

        // One is taken, one more may come.
        listener.accept().await.unwrap().await.unwrap();
        connector.connect().await.unwrap();

        drop(listener);
        let error = connector.connect().await.unwrap_err();
        assert!(
            chain(&error).contains("not served any more"),
            "{}",
            chain(&error)
        );
    })
    .await;
}

#[tokio::test]
async fn a_handler_may_look_first() {
    let (upgrades, mut listener) = upgrades("ws://app.example/rsocket");
    let handler = move |mut request: Request| async move {
        if request.headers().contains_key("x-token") {
            upgrades.upgrade(&mut request).into_response()
        } else {
            axum::http::StatusCode::UNAUTHORIZED.into_response()
        }
    };
    let app: Router = Router::new().route("/", get(handler));
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connector = WsConnector::new(format!("ws://{}/", port.local_addr().unwrap()));
    tokio::spawn(async move { axum::serve(port, app).await });

    let error = connector.connect().await.unwrap_err();
    assert!(chain(&error).contains("401"), "{}", chain(&error));
    let (_client, server) = pair(&mut listener, &connector.header("x-token", "1")).await;
    assert_eq!(server.info().peer_addr, None, "axum was not asked for it");
}

#[tokio::test]
async fn a_listener_ends_with_its_http_server() {
    let (upgrades, mut listener) = upgrades("ws://app.example/rsocket");
    drop(upgrades);
    assert!(listener.accept().await.is_err());
}
