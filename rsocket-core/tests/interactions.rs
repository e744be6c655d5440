//! The four interactions and METADATA_PUSH, in both directions.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    missing_docs,
    reason = "tests may fail, and need no docs"
)]

mod common;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::{client_of, unique_name, within};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rsocket_core::{
    Client, Demand, DemandPolicy, Error, Failure, Handlers, Payload, PayloadStream, Requester,
    Server,
    frame::ErrorCode,
    transport::memory::{MemoryConnector, MemoryListener},
};
use tokio::sync::{mpsc, oneshot};

/// Answers everything, and reports what needs no answer.
fn echo(seen: mpsc::UnboundedSender<String>) -> Handlers {
    let pushed = seen.clone();
    Handlers::new()
        .on_fire_and_forget(move |request| {
            let _ = seen.send(format!("fnf {}", request.data_utf8().unwrap()));
            async {}
        })
        .on_metadata_push(move |metadata: Bytes| {
            let _ = pushed.send(format!("push {}", String::from_utf8_lossy(&metadata)));
            async {}
        })
        .on_request_response(|request| async { Ok(request) })
        .on_request_stream(|request| {
            let n: u32 = request.data_utf8().unwrap().parse().unwrap();
            stream::iter(0..n).map(|i| Ok(Payload::new(i.to_string())))
        })
        .on_request_channel(|inbound| inbound.map_err(Failure::from))
}

async fn texts(stream: PayloadStream) -> Vec<String> {
    stream
        .map_ok(|payload| payload.data_utf8().unwrap().to_owned())
        .try_collect()
        .await
        .unwrap()
}

async fn exercise(peer: &Requester, seen: &mut mpsc::UnboundedReceiver<String>) {
    peer.fire_and_forget("one way").await.unwrap();
    assert_eq!(seen.recv().await.unwrap(), "fnf one way");

    peer.metadata_push("news").await.unwrap();
    assert_eq!(seen.recv().await.unwrap(), "push news");

    let request = Payload::new("ping").with_metadata("meta");
    let answer = peer.request_response(request.clone()).await.unwrap();
    assert_eq!(answer, request);

    let items = texts(peer.request_stream("1000")).await;
    assert_eq!(items.len(), 1000);
    assert_eq!(items.last().unwrap(), "999");
    assert!(texts(peer.request_stream("0")).await.is_empty());

    let numbers = stream::iter(0..500).map(|n| Payload::new(n.to_string()));
    let echoes = texts(peer.request_channel(numbers)).await;
    let expected: Vec<_> = (0..500).map(|n| n.to_string()).collect();
    assert_eq!(echoes, expected);
}

// [C230, C234, C235, C237]
#[tokio::test]
async fn a_client_asks_a_server() {
    let (tx, mut seen) = mpsc::unbounded_channel();
    let peer = client_of(echo(tx)).await;
    within(exercise(&peer, &mut seen)).await;
    assert_eq!(peer.stats().streams_open, 0);
}

// [C043, C187]
#[tokio::test]
async fn a_server_asks_its_client() {
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    let (to_test, from_acceptor) = oneshot::channel();
    let to_test = Arc::new(Mutex::new(Some(to_test)));
    tokio::spawn(Server::new().serve(listener, move |_, client| {
        let sender = to_test.lock().unwrap().take().unwrap();
        let _ = sender.send(client);
        async { Ok(()) }
    }));
    let (tx, mut seen) = mpsc::unbounded_channel();
    let held = Client::new()
        .responder(echo(tx))
        .connect(MemoryConnector::new(&name))
        .await
        .unwrap();
    let client = from_acceptor.await.unwrap();
    within(exercise(&client, &mut seen)).await;
    drop(held);
}

#[tokio::test]
async fn what_nobody_serves_is_rejected_and_the_connection_lives() {
    let peer = client_of(()).await;
    let error = within(peer.request_response("x")).await.unwrap_err();
    let Error::Peer(failure) = error else {
        panic!("{error:?}")
    };
    assert_eq!(failure.code(), ErrorCode::REJECTED);
    let mut items = peer.request_stream("x");
    assert!(within(items.next()).await.unwrap().is_err());
    assert!(within(items.next()).await.is_none());
    let mut echoes = peer.request_channel(stream::iter([Payload::new("x")]));
    assert!(within(echoes.next()).await.unwrap().is_err());
    assert!(peer.close_reason().is_none());
}

// [A49]
#[tokio::test]
async fn a_channel_from_an_empty_source_fails_without_sending_anything() {
    let peer = client_of(()).await;
    let mut echoes = peer.request_channel(stream::empty());
    let error = within(echoes.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::EmptyChannel), "{error:?}");
    assert_eq!(peer.stats().frames_sent, 1, "SETUP alone");
}

#[tokio::test]
async fn an_opened_channel_sends_within_credit_and_half_closes() {
    let (tx, _seen) = mpsc::unbounded_channel();
    let peer = client_of(echo(tx)).await;
    let (mut sink, mut echoes) = peer
        .open_channel("0", DemandPolicy::prefetch(Demand::new(4).unwrap()))
        .unwrap();
    let sending = async {
        assert!(sink.granted().await.unwrap() > 0);
        for n in 1..200 {
            sink.send(n.to_string()).await.unwrap();
        }
        sink.complete();
    };
    let receiving = async {
        let mut n = 0;
        while let Some(echo) = echoes.next().await {
            assert_eq!(echo.unwrap().data_utf8(), Some(n.to_string().as_str()));
            n += 1;
        }
        n
    };
    let ((), n) = within(futures_util::future::join(sending, receiving)).await;
    assert_eq!(n, 200);
}

// Handlers that await go on in tasks of their own and delay nobody.
#[tokio::test]
async fn a_slow_handler_delays_no_other() {
    let (release, released) = tokio::sync::watch::channel(false);
    let handlers = Handlers::new().on_request_response(move |request| {
        let mut released = released.clone();
        async move {
            if request.data() == b"slow" {
                released.wait_for(|go| *go).await.unwrap();
            }
            Ok(request)
        }
    });
    let peer = client_of(handlers).await;
    let slow = peer.request_response("slow");
    assert_eq!(
        within(peer.request_response("fast")).await.unwrap().data(),
        b"fast"
    );
    release.send(true).unwrap();
    assert_eq!(within(slow).await.unwrap().data(), b"slow");
}

#[tokio::test]
async fn a_panicking_handler_fails_its_request_and_nothing_else() {
    std::panic::set_hook(Box::new(|_| ())); // Keep the output readable.
    let handlers = Handlers::new()
        .on_request_response(|request: Payload| async move {
            assert_ne!(request.data(), b"now");
            tokio::task::yield_now().await;
            assert_ne!(request.data(), b"later");
            Ok(request)
        })
        .on_request_stream(|_| {
            stream::iter(0..3).map(|n| {
                assert!(n < 2);
                Ok("item".into())
            })
        });
    let peer = client_of(handlers).await;
    for request in ["now", "later"] {
        let error = within(peer.request_response(request)).await.unwrap_err();
        assert!(matches!(error, Error::Peer(_)), "{error:?}");
    }
    let items: Vec<_> = within(peer.request_stream("x").collect()).await;
    assert_eq!(items.len(), 3);
    assert!(items[2].is_err());
    assert!(within(peer.request_response("fine")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_at_once_are_each_answered_with_their_own() {
    let (tx, _seen) = mpsc::unbounded_channel();
    let peer = client_of(echo(tx)).await;
    let calls = (0..10_000).map(|n: u32| {
        let peer = peer.clone();
        tokio::spawn(async move {
            let answer = peer.request_response(n.to_string()).await.unwrap();
            assert_eq!(answer.data_utf8(), Some(n.to_string().as_str()));
        })
    });
    for call in calls.collect::<Vec<_>>() {
        within(call).await.unwrap();
    }
    assert_eq!(peer.stats().streams_open, 0);
}
