//! Cancel, close, refusal, loss: how things end, and that they do.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    missing_docs,
    reason = "tests may fail, and need no docs"
)]

mod common;

use std::{future, sync::Arc, time::Duration};

use common::{client_of, pair, unique_name, within};
use futures_util::{StreamExt as _, stream};
use rsocket_core::{
    Client, CloseReason, Demand, DemandPolicy, Error, Failure, Handlers, Payload, Server, connect,
    frame::ErrorCode,
    transport::{
        Connector, Limits, Link, TransportError,
        memory::{MemoryConnector, MemoryListener},
    },
};
use tokio::sync::{Notify, mpsc, oneshot};

/// Says when it is dropped.
struct OnDrop(Option<oneshot::Sender<()>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}

/// A service none of whose handlers ever ends; and the news of their deaths.
fn endless() -> (Handlers, mpsc::UnboundedReceiver<oneshot::Receiver<()>>) {
    let (tx, rx) = mpsc::unbounded_channel();
    let guard = move || {
        let (dropped, news) = oneshot::channel();
        tx.send(news).unwrap();
        OnDrop(Some(dropped))
    };
    let (of_response, of_stream) = (guard.clone(), guard.clone());
    let handlers = Handlers::new()
        .on_request_response(move |_| {
            let guard = of_response();
            async move {
                future::pending::<()>().await;
                drop(guard);
                Ok(Payload::default())
            }
        })
        .on_request_stream(move |_| {
            let guard = of_stream();
            stream::pending().map(move |()| {
                let _ = &guard;
                Ok(Payload::default())
            })
        })
        .on_request_channel(move |inbound| {
            let guard = guard();
            inbound.filter_map(move |_| {
                let _ = &guard;
                future::ready(None)
            })
        });
    (handlers, rx)
}

// [C232, C236, C239]; rust#48: at once, even if no item ever comes.
#[tokio::test]
async fn dropping_cancels_at_once_even_if_nothing_ever_arrives() {
    let (handlers, mut started) = endless();
    let peer = client_of(handlers).await;

    let call = peer.request_response("x");
    let gone = within(started.recv()).await.unwrap();
    drop(call);
    within(gone).await.unwrap();

    let mut items = peer.request_stream("x");
    assert!(futures_util::poll!(items.next()).is_pending());
    let gone = within(started.recv()).await.unwrap();
    drop(items);
    within(gone).await.unwrap();

    let mut echoes = peer.request_channel(stream::iter(["x".into()]).chain(stream::pending()));
    assert!(futures_util::poll!(echoes.next()).is_pending());
    let gone = within(started.recv()).await.unwrap();
    drop(echoes);
    within(gone).await.unwrap();

    assert_eq!(peer.stats().streams_open, 0);
}

// [C240]: dropping the inbound stops the requester, and answers go on.
#[tokio::test]
async fn a_responder_that_drops_its_inbound_stops_only_the_requesters_half() {
    let handlers = Handlers::new().on_request_channel(|inbound| {
        drop(inbound);
        stream::iter(0..100).map(|n: u32| Ok(Payload::new(n.to_string())))
    });
    let peer = client_of(handlers).await;
    let (mut sink, answers) = peer.open_channel("x", DemandPolicy::default()).unwrap();
    let error = within(sink.granted()).await.unwrap_err();
    assert!(matches!(error, Error::Canceled), "{error:?}");
    assert_eq!(within(answers.count()).await, 100);
}

// [C238]
#[tokio::test]
async fn a_requester_that_fails_its_half_ends_the_channel_for_both() {
    let (tx, mut seen) = mpsc::unbounded_channel();
    let handlers = Handlers::new().on_request_channel(move |mut inbound| {
        let tx = tx.clone();
        tokio::spawn(async move {
            while let Some(item) = inbound.next().await {
                tx.send(item.map(|payload| payload.len())).unwrap();
            }
        });
        stream::pending()
    });
    let peer = client_of(handlers).await;
    let (sink, _answers) = peer.open_channel("x", DemandPolicy::default()).unwrap();
    assert_eq!(within(seen.recv()).await.unwrap().unwrap(), 1);
    sink.fail(&Failure::application("changed my mind"));
    let Err(Error::Peer(failure)) = within(seen.recv()).await.unwrap() else {
        panic!("not the requester's error")
    };
    assert_eq!(failure.message(), "changed my mind");
}

// java#956: all pending streams end when the connection is lost, in both roles.
#[tokio::test]
async fn losing_the_connection_ends_everything_on_both_sides() {
    let (handlers, mut started) = endless();
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    let server = tokio::spawn(Server::new().serve(listener, move |_, _| {
        let handlers = handlers.clone();
        async { Ok(handlers) }
    }));
    let peer = connect(MemoryConnector::new(&name)).await.unwrap();
    let call = peer.request_response("x");
    let mut items = peer.request_stream("x");
    assert!(futures_util::poll!(items.next()).is_pending());
    let first = within(started.recv()).await.unwrap();
    let second = within(started.recv()).await.unwrap();

    server.abort(); // All its connections are dropped with it.

    assert!(matches!(within(call).await, Err(Error::Closed(_))));
    assert!(matches!(
        within(items.next()).await,
        Some(Err(Error::Closed(_)))
    ));
    within(first).await.unwrap();
    within(second).await.unwrap();
    assert!(!within(peer.closed()).await.is_graceful());
    let late = peer.request_response("x").await;
    assert!(matches!(late, Err(Error::Closed(_))), "{late:?}");
}

// [C085]: nobody else has it.
#[tokio::test]
async fn close_lets_open_requests_end_and_takes_no_new_ones() {
    let go = Arc::new(Notify::new());
    let handlers = {
        let go = Arc::clone(&go);
        Handlers::new().on_request_response(move |request| {
            let go = Arc::clone(&go);
            async move {
                go.notified().await;
                Ok(request)
            }
        })
    };
    let peer = client_of(handlers).await;
    let open = peer.request_response("open");
    let closing = tokio::spawn({
        let peer = peer.clone();
        async move { peer.close().await }
    });
    // The close is asked for by now, or soon: wait until it shows.
    let refused = within(async {
        loop {
            let call = peer.request_response("late");
            let mut call = std::pin::pin!(call);
            match futures_util::poll!(&mut call) {
                std::task::Poll::Ready(answer) => break answer,
                std::task::Poll::Pending => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert!(
        matches!(refused, Err(Error::Closed(CloseReason::Local))),
        "{refused:?}"
    );
    assert!(!closing.is_finished());
    // Some calls may have gone out before the close; all are let go.
    go.notify_waiters();
    go.notify_one();
    assert_eq!(within(open).await.unwrap().data(), b"open");
    assert!(matches!(within(closing).await.unwrap(), CloseReason::Local));
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_ever() {
    let (handlers, mut started) = endless();
    let client = Client::new().drain_timeout(Duration::from_secs(5));
    let peer = pair(client, Server::new(), handlers).await;
    let call = peer.request_response("never");
    let gone = started.recv().await.unwrap();
    let start = tokio::time::Instant::now();
    assert!(matches!(peer.close().await, CloseReason::DrainTimeout));
    assert!(start.elapsed() >= Duration::from_secs(5));
    assert!(matches!(
        call.await,
        Err(Error::Closed(CloseReason::DrainTimeout))
    ));
    gone.await.unwrap();
}

#[tokio::test]
async fn a_server_that_shuts_down_drains_its_connections_first() {
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (started, mut has_started) = mpsc::unbounded_channel();
    let go = Arc::new(Notify::new());
    let handlers = {
        let go = Arc::clone(&go);
        Handlers::new().on_request_response(move |request| {
            let go = Arc::clone(&go);
            started.send(()).unwrap();
            async move {
                go.notified().await;
                Ok(request)
            }
        })
    };
    let serving = tokio::spawn(Server::new().serve_until(
        listener,
        move |_, _| future::ready(Ok(handlers.clone())),
        async { drop(stopped.await) },
    ));
    let peer = connect(MemoryConnector::new(&name)).await.unwrap();
    let call = peer.request_response("in flight");
    within(has_started.recv()).await.unwrap();
    stop.send(()).unwrap();
    let gone = within(async {
        loop {
            match connect(MemoryConnector::new(&name)).await {
                Err(error) => break error,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    });
    assert!(matches!(gone.await, Error::Closed(_)));
    go.notify_one();
    assert_eq!(within(call).await.unwrap().data(), b"in flight");
    assert!(matches!(within(peer.closed()).await, CloseReason::Peer));
    within(serving).await.unwrap().unwrap();
}

// rust PR#40, PR#65: dropping the last handle ends the connection and frees
// what belongs to it.
#[tokio::test]
async fn dropping_the_last_handle_closes_and_frees_everything() {
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    let (dropped, news) = oneshot::channel();
    let guard = Arc::new(std::sync::Mutex::new(Some(OnDrop(Some(dropped)))));
    tokio::spawn(Server::new().serve(listener, move |_, client| {
        let guard = guard.lock().unwrap().take();
        // The responder holds the way back, as many do.
        future::ready(Ok(Handlers::new().on_request_response(move |request| {
            let _ = (&client, &guard);
            future::ready(Ok(request))
        })))
    }));
    let peer = connect(MemoryConnector::new(&name)).await.unwrap();
    let clone = peer.clone();
    let items = clone.request_stream("x");
    drop(peer);
    drop(clone);
    let link_is_up = items;
    drop(link_is_up);
    within(news).await.unwrap();
}

// [C183]
#[tokio::test]
async fn a_refused_client_learns_why() {
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    tokio::spawn(Server::new().serve(listener, |setup, _| {
        let known = setup.payload().data() == b"secret";
        async move {
            if known {
                Ok(Handlers::new().on_request_response(|request| async { Ok(request) }))
            } else {
                Err(Failure::rejected("who are you?"))
            }
        }
    }));
    let stranger = connect(MemoryConnector::new(&name)).await.unwrap();
    let error = within(stranger.request_response("x")).await.unwrap_err();
    let Error::Closed(CloseReason::Refused(failure)) = error else {
        panic!("{error:?}")
    };
    assert_eq!(failure.code(), ErrorCode::REJECTED_SETUP);
    assert_eq!(failure.message(), "who are you?");

    let friend = Client::new().setup("secret");
    let friend = friend.connect(MemoryConnector::new(&name)).await.unwrap();
    assert!(within(friend.request_response("x")).await.is_ok());
}

// [C182]
#[tokio::test(start_paused = true)]
async fn an_acceptor_that_never_decides_is_cut_off() {
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    tokio::spawn(Server::new().serve(listener, |_, _| future::pending::<Result<(), Failure>>()));
    let peer = connect(MemoryConnector::new(&name)).await.unwrap();
    let start = tokio::time::Instant::now();
    assert!(matches!(peer.closed().await, CloseReason::Refused(_)));
    assert!(start.elapsed() >= Duration::from_secs(10));
}

// [C108], java#1118
#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up_after_the_max_lifetime() {
    let name = unique_name();
    let mut listener = MemoryListener::bind(&name).unwrap();
    let client = Client::new().keepalive(Duration::from_secs(1), Duration::from_secs(3));
    let peer = client.connect(MemoryConnector::new(&name));
    let accept = rsocket_core::transport::Listener::accept(&mut listener);
    let (peer, link) = futures_util::future::join(peer, accept).await;
    let peer = peer.unwrap();
    let _held_and_silent = link.unwrap().await.unwrap();
    let start = tokio::time::Instant::now();
    let reason = peer.closed().await;
    assert!(
        matches!(reason, CloseReason::KeepaliveTimeout { millis: 3000 }),
        "{reason:?}"
    );
    assert!(start.elapsed() >= Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn keepalive_keeps_an_idle_connection_for_hours() {
    let peer =
        client_of(Handlers::new().on_request_response(|request| async { Ok(request) })).await;
    tokio::time::sleep(Duration::from_secs(3 * 3600)).await;
    assert!(peer.close_reason().is_none());
    assert!(peer.request_response("still there?").await.is_ok());
}

#[tokio::test]
async fn a_payload_that_fits_no_frame_is_refused_and_the_connection_lives() {
    let handlers = Handlers::new()
        .on_request_response(|request| async move {
            match request.data() {
                b"big" => Ok(Payload::new(vec![0; 17 << 20])),
                _ => Ok(request),
            }
        })
        .on_request_stream(|_| stream::iter([Ok(Payload::new(vec![0; 17 << 20]))]));
    let peer = client_of(handlers).await;
    let error = within(peer.request_response(vec![0; 17 << 20]))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLong {
                limit: 16_777_215,
                ..
            }
        ),
        "{error:?}"
    );
    let error = within(peer.request_response("big")).await.unwrap_err();
    assert!(matches!(error, Error::Peer(_)), "{error:?}");
    let error = within(peer.request_stream("x").next())
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, Error::Peer(_)), "{error:?}");
    assert!(within(peer.request_response("small")).await.is_ok());
}

#[tokio::test]
async fn a_manual_demand_asks_for_exactly_what_is_asked_for() {
    let handlers = Handlers::new()
        .on_request_stream(|_| stream::iter(0_u32..).map(|n| Ok(Payload::new(n.to_string()))));
    let peer = client_of(handlers).await;
    let three = Demand::new(3).unwrap();
    let mut items = peer
        .request_stream("x")
        .demand(DemandPolicy::Manual { initial: three });
    for n in 0..3 {
        let item = within(items.next()).await.unwrap().unwrap();
        assert_eq!(item.data_utf8(), Some(n.to_string().as_str()));
    }
    // Nothing more is under way: a round trip brings none.
    let _ = peer.request_response("rejected, but answered").await;
    assert!(futures_util::poll!(items.next()).is_pending());
    items.request_n(Demand::ONE);
    assert_eq!(within(items.next()).await.unwrap().unwrap().data(), b"3");
}

// [C150]: completion is no payload, so it needs no credit.
#[tokio::test]
async fn a_stream_that_is_exactly_as_long_as_its_credit_completes() {
    let handlers = Handlers::new()
        .on_request_stream(|_| stream::iter(0..3).map(|n: u32| Ok(Payload::new(n.to_string()))));
    let peer = client_of(handlers).await;
    let initial = Demand::new(3).unwrap();
    let items = peer
        .request_stream("x")
        .demand(DemandPolicy::Manual { initial });
    assert_eq!(within(items.count()).await, 3);
}

#[tokio::test]
async fn an_acceptor_that_panics_refuses_its_client_and_nobody_else() {
    std::panic::set_hook(Box::new(|_| ())); // Keep the output readable.
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    tokio::spawn(Server::new().serve(listener, |setup, _| {
        assert_ne!(setup.payload().data(), b"boom");
        async { Ok(Handlers::new().on_request_response(|request| async { Ok(request) })) }
    }));
    let unlucky = Client::new().setup("boom");
    let unlucky = unlucky.connect(MemoryConnector::new(&name)).await.unwrap();
    let reason = within(unlucky.closed()).await;
    assert!(matches!(reason, CloseReason::Refused(_)), "{reason:?}");
    let lucky = connect(MemoryConnector::new(&name)).await.unwrap();
    assert!(within(lucky.request_response("x")).await.is_ok());
}

/// Links that take short frames only.
struct Narrow(MemoryConnector);

#[async_trait::async_trait]
impl Connector for Narrow {
    async fn connect(&self) -> Result<Link, TransportError> {
        let limits = Limits { max_frame_len: 64 };
        Ok(self.0.connect().await?.with_limits(limits))
    }
}

// [C011]
#[tokio::test]
async fn a_setup_that_the_link_cannot_carry_is_an_error_of_connect() {
    let name = unique_name();
    let _listener = MemoryListener::bind(&name).unwrap();
    let client = Client::new().setup(vec![0; 100]);
    let error = client.connect(Narrow(MemoryConnector::new(&name))).await;
    assert!(
        matches!(error, Err(Error::TooLong { limit: 64, .. })),
        "{error:?}"
    );
}
