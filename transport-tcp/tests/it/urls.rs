//! URLs that choose a transport at run time.

use rsocket_core::testkit::halves::*;
use rsocket_core::transport::{TransportErrorKind, Transports};

fn transports() -> Transports {
    let mut transports = Transports::new();
    rsocket_transport_tcp::register(&mut transports);
    transports
}

/// The link's scheme, after one frame has passed.
async fn round_trip(server: &str, client: impl FnOnce(String) -> String) -> &'static str {
    let mut listener = transports().listener(server).await.unwrap();
    let connector = transports().connector(&client(listener.url())).unwrap();
    let (client, server) = pair(&mut listener, &connector).await;
    let scheme = server.info().scheme;
    let (mut tx, _client_rx) = client.split();
    let (_server_tx, mut rx) = server.split();
    send(&mut *tx, b"hello").await.unwrap();
    flush(&mut *tx).await.unwrap();
    assert_eq!(recv(&mut *rx, 1).await.unwrap(), [b"hello"]);
    scheme
}

#[tokio::test]
async fn a_listener_says_the_url_that_reaches_it() {
    assert_eq!(round_trip("tcp://127.0.0.1:0", |url| url).await, "tcp");
    assert_eq!(
        round_trip("tcp://127.0.0.1:0/", |url| url + "/").await,
        "tcp"
    );
    assert_eq!(
        round_trip("tcp://localhost:0", |url| url
            .replace("127.0.0.1", "localhost"))
        .await,
        "tcp"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn unix_paths_have_three_forms() {
    let name = format!("rsocket-url-{}", std::process::id());
    let path = std::env::temp_dir().join(&name).display().to_string();
    assert_eq!(round_trip(&format!("unix:{path}"), |url| url).await, "unix");
    assert_eq!(
        round_trip(&format!("unix://{path}"), |url| url).await,
        "unix"
    );
    // Relative to the package, where tests run.
    let relative = format!("unix:{name}");
    assert_eq!(round_trip(&relative, |url| url).await, "unix");
    assert!(!std::path::Path::new(&name).exists(), "removed again");
}

#[tokio::test]
async fn what_is_no_address_is_refused_with_the_form_expected() {
    let mut bad = vec![
        ("tcp:", "tcp://host:port"),
        ("tcp:127.0.0.1:80", "tcp://host:port"),
        ("tcp://", "tcp://host:port"),
        ("tcp://:80", "tcp://host:port"),
        ("tcp://host", "tcp://host:port"),
        ("tcp://host:port", "tcp://host:port"),
        ("tcp://host:70000", "tcp://host:port"),
        ("tcp://host:80/path", "tcp://host:port"),
        ("tcp://host:80?x=1", "tcp://host:port"),
        ("tcp://user@host:80", "tcp://host:port"),
        ("tcp://::1:80", "tcp://host:port"),
        ("tcp://[host]:80", "tcp://host:port"),
    ];
    if cfg!(unix) {
        bad.extend([
            ("unix:", "unix:/path"),
            ("unix://", "unix:/path"),
            ("unix://host/path", "unix:/path"),
        ]);
    }
    if cfg!(feature = "tls") {
        bad.extend([
            ("tls://host", "tls://host:port"),
            ("tls://host:80?cert=a", "cert=file&key=file"),
            ("tls://host:80?ca=a&ca=b", "cert=file&key=file"),
            ("tls://host:80?color=red", "cert=file&key=file"),
        ]);
    }
    for (url, expected) in bad {
        let connector = transports().connector(url).map(drop).unwrap_err();
        let listener = transports().listener(url).await.map(drop).unwrap_err();
        for error in [connector, listener] {
            assert_eq!(error.kind(), TransportErrorKind::Invalid, "{url}");
            let text = chain(&error);
            assert!(
                text.contains(&format!("`{url}` is not an address")),
                "{text}"
            );
            assert!(text.contains(expected), "{text}");
        }
    }
}

#[test]
fn numbers_of_ipv6_stand_in_brackets() {
    assert!(transports().connector("tcp://[::1]:80").is_ok());
    assert!(transports().connector("tcp://[fe80::1%eth0]:80").is_ok());
}

#[test]
fn each_build_registers_what_it_can_do() {
    let schemes: Vec<_> = transports().schemes().collect();
    assert!(schemes.contains(&"tcp"));
    assert_eq!(schemes.contains(&"unix"), cfg!(unix));
    assert_eq!(schemes.contains(&"tls"), cfg!(feature = "tls"));
}
