//! Both sides load each other, with more than links and queues hold.

mod common;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use rsocket_core::{
    Client, Handlers, Payload, Server,
    proto::Limits,
    transport::memory::{MemoryConnector, MemoryListener},
};
use tokio::sync::mpsc;

const REQUESTS: usize = 300;

async fn load(peer: rsocket_core::Requester) {
    let requests: FuturesUnordered<_> = (0..REQUESTS)
        .map(|_| peer.request_response(Payload::new(vec![7; 1_000])))
        .collect();
    let answers: Vec<_> = requests.collect().await;
    assert!(answers.iter().all(Result::is_ok));
}

// [C256]: whoever stopped reading until its own answers are read would wait for
// a peer that does the same.
#[tokio::test]
async fn sides_that_load_each_other_do_not_wait_for_each_other() {
    let mut limits = Limits::default();
    limits.max_queued_len = 10_000;
    let echo = || Handlers::new().on_request_response(|request| async move { Ok(request) });
    let name = common::unique_name();
    let listener = MemoryListener::bind(&name).expect("a name of its own");
    let (tx, mut rx) = mpsc::unbounded_channel();
    let server = Server::new().limits(limits.clone());
    tokio::spawn(server.serve(listener, move |_, client| {
        let _ = tx.send(client);
        let echo = echo();
        async move { Ok(echo) }
    }));
    let connector = MemoryConnector::new(&name).with_capacity(4_096);
    let client = Client::new().limits(limits).responder(echo());
    let client = client.connect(connector).await.expect("a server");
    let server = rx.recv().await.expect("a client");
    common::within(async { tokio::join!(load(client), load(server)) }).await;
}
