//! What the tests of the public API share.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part of it, and tests may fail"
)]

use std::{
    future::Future,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use rsocket_core::{
    Client, Requester, Responder, Server,
    transport::memory::{MemoryConnector, MemoryListener},
};

/// A name that no other test of this process uses.
pub(crate) fn unique_name() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A client of `responder`, both with default settings.
pub(crate) async fn client_of(responder: impl Responder + Clone) -> Requester {
    pair(Client::new(), Server::new(), responder).await
}

/// A client and a server with the given settings.
pub(crate) async fn pair(
    client: Client,
    server: Server,
    responder: impl Responder + Clone,
) -> Requester {
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    tokio::spawn(server.serve(listener, move |_, _| {
        let responder = responder.clone();
        async move { Ok(responder) }
    }));
    client.connect(MemoryConnector::new(&name)).await.unwrap()
}

/// Ends a test that hangs. Generous: machines are slow and shared.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("the test hangs")
}
