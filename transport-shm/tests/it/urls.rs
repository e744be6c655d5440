//! `shm:` URLs.

use rsocket_core::transport::{Connector as _, Listener as _, TransportErrorKind, Transports};

use crate::common::*;

fn transports() -> Transports {
    let mut transports = Transports::new();
    rsocket_transport_shm::register(&mut transports);
    transports
}

#[test]
fn good_urls_are_understood() {
    for url in [
        "shm:/run/app.sock",
        "shm:///run/app.sock",
        "shm:app.sock",
        "shm:@app",
        "shm+dir:/dev/shm/app",
        "shm+dir:///dev/shm/app",
        "shm+dir:app?ring=4096&users=same",
        "shm:@app?ring=4096&arena=0",
        "shm:@app?ring=1M&arena=64K&longest=1M",
        "shm:/run/app.sock?spin=poll&users=any",
        "shm:/run/app.sock?spin=adaptive&users=same",
        "shm:/run/app.sock?spin=sleep&users=0,1000",
    ] {
        assert!(transports().connector(url).is_ok(), "{url}");
    }
}

#[tokio::test]
async fn bad_urls_are_invalid_and_name_what_is_expected() {
    for url in [
        "shm:",
        "shm:@",
        "shm://host/path",
        "shm:?ring=4096",
        "shm:/a?",
        "shm:/a?ring",
        "shm:/a?ring=",
        "shm:/a?ring=K",
        "shm:/a?ring=+4096",
        "shm:/a?ring=4095",
        "shm:/a?ring=99999999999999M",
        "shm:/a?arena=12345",
        "shm:/a?spin=fast",
        "shm:/a?users=root",
        "shm:/a?trust=yes",
        "shm:/a\0b",
        "shm+dir:",
        "shm+dir:@app",
        "shm+dir://host/path",
        "shm+dir:/a\0b",
        "shm+dir:/a?ring=4095",
    ] {
        let error = transports().connector(url).err().expect(url);
        assert_eq!(error.kind(), TransportErrorKind::Invalid);
        assert!(chain(&error).contains("shm:@name"), "{}", chain(&error));
        let error = transports().listener(url).await.err().expect(url);
        assert_eq!(error.kind(), TransportErrorKind::Invalid);
    }
}

#[tokio::test]
async fn settings_of_a_url_are_those_of_the_link() {
    let name = name();
    let url = format!("shm:{name}?ring=4096&arena=0&longest=64K");
    let mut listener = transports().listener(&url).await.unwrap();
    assert_eq!(listener.url(), format!("shm:{name}"));
    for (query, fits) in [("ring=32K&arena=0", true), ("ring=64K&arena=0", false)] {
        let connector = transports().connector(&format!("shm:{name}?{query}"));
        let connector = connector.unwrap();
        let accept = async { listener.accept().await?.await };
        let (client, server) = tokio::join!(connector.connect(), accept);
        assert_eq!((client.is_ok(), server.is_ok()), (fits, fits), "{query}");
    }
}
