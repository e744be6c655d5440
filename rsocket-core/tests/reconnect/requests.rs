//! What becomes of requests.

use super::*;

// java#540, #716: the first request after a restart succeeds.
#[tokio::test(start_paused = true)]
async fn the_first_request_after_a_restart_is_answered() {
    let name = unique_name();
    let seen = Seen::default();
    let server = Up::serve(&name, seen.echo());
    let peer = client(&name, Reconnect::new());
    assert_eq!(peer.request_response("1").await.unwrap().data(), b"1");
    server.kill().await;

    let asked_at_once = peer.request_response("2");
    disconnected(&peer).await;
    let asked_while_down = peer.request_response("3");
    let _server = Up::serve(&name, seen.echo());
    assert_eq!(asked_while_down.await.unwrap().data(), b"3");
    assert_eq!(asked_at_once.await.unwrap().data(), b"2");
    assert_eq!(peer.request_response("4").await.unwrap().data(), b"4");
    assert_eq!(seen.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn every_interaction_waits_for_a_server_that_is_not_there_yet() {
    let name = unique_name();
    let seen = Seen::default();
    let peer = client(&name, Reconnect::new());
    let calls = async {
        let response = peer.request_response("x").optional();
        let sent = peer.fire_and_forget("x");
        let mut items = peer.request_stream("x");
        let mut echoes = peer.request_channel(stream::iter(["a".into(), "b".into()]));
        let opened = peer.open_channel("first", DemandPolicy::default());
        let pushed = peer.metadata_push("news");
        let requester = peer.requester();
        let all = futures_util::join!(
            response,
            sent,
            items.next(),
            echoes.next(),
            opened,
            pushed,
            requester
        );
        assert_eq!(all.0.unwrap().unwrap().data(), b"x");
        all.1.unwrap();
        assert_eq!(all.2.unwrap().unwrap().data(), b"x");
        assert_eq!(all.3.unwrap().unwrap().data(), b"a");
        assert_eq!(echoes.next().await.unwrap().unwrap().data(), b"b");
        assert!(echoes.next().await.is_none());
        let (mut sink, mut answers) = all.4.unwrap();
        sink.send("second").await.unwrap();
        assert_eq!(answers.next().await.unwrap().unwrap().data(), b"first");
        assert_eq!(answers.next().await.unwrap().unwrap().data(), b"second");
        all.5.unwrap();
        assert!(all.6.unwrap().request_response("y").await.is_ok());
    };
    let serving = async {
        while peer.waiting() < 7 {
            sleep(MS).await;
        }
        sleep(Duration::from_secs(3)).await;
        Up::serve(&name, seen.echo())
    };
    within(async { futures_util::join!(calls, serving) }).await;
    assert_eq!(peer.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_does_not_wait_fails_at_once_and_says_why() {
    let name = unique_name();
    let peer = client(&name, Reconnect::new());
    let fast = peer.when_down(WhenDown::FailFast);
    let early = fast.request_response("x").now_or_never().unwrap();
    assert!(matches!(early, Err(Error::NotConnected(None))), "{early:?}");

    let _server = Up::serve(&name, Seen::default().echo());
    connected(&peer).await;
    assert!(fast.request_response("x").await.is_ok());
    _server.kill().await;
    disconnected(&peer).await;

    let is_right = |error: Error| match error {
        Error::NotConnected(Some(reason)) => !reason.is_graceful(),
        _ => false,
    };
    let late = fast.request_response("x").now_or_never().unwrap();
    assert!(is_right(late.unwrap_err()));
    let late = fast.fire_and_forget("x").now_or_never().unwrap();
    assert!(is_right(late.unwrap_err()));
    let late = fast.request_stream("x").next().now_or_never().unwrap();
    assert!(is_right(late.unwrap().unwrap_err()));
    let outbound = stream::iter(["x".into()]);
    let late = fast.request_channel(outbound).next().now_or_never();
    assert!(is_right(late.unwrap().unwrap().unwrap_err()));
    let late = fast.metadata_push("x").now_or_never().unwrap();
    assert!(is_right(late.unwrap_err()));
    let late = fast.requester().now_or_never().unwrap();
    assert!(is_right(late.unwrap_err()));
    assert_eq!(peer.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_in_flight_fails_and_is_not_repeated() {
    let name = unique_name();
    let seen = Seen::default();
    let server = Up::serve(&name, seen.echo());
    let peer = client(&name, Reconnect::new());
    connected(&peer).await;
    let call = peer.request_response("hang");
    let mut items = peer.request_stream("x");
    assert!(items.next().await.unwrap().is_ok());
    let outbound = stream::iter(["x".into()]).chain(stream::pending());
    let mut echoes = peer.request_channel(outbound);
    assert!(echoes.next().await.unwrap().is_ok());
    server.kill().await;

    let _server = Up::serve(&name, seen.echo());
    let call = within(call).await;
    assert!(matches!(call, Err(Error::Closed(_))), "{call:?}");
    for items in [&mut items, &mut echoes] {
        let end = items.next().await.unwrap();
        assert!(matches!(end, Err(Error::Closed(_))), "{end:?}");
        assert!(items.next().await.is_none());
    }
    connected(&peer).await;
    assert!(peer.request_response("x").await.is_ok());
    assert_eq!(seen.count(), 3, "the call, the stream, and the last call");
}

/// A client whose link took SETUP and has room for no request.
async fn stuck(name: &str, when_down: WhenDown) -> (Reconnecting, Link) {
    let mut listener = MemoryListener::bind(name).unwrap();
    let settings = Reconnect::new().when_down(when_down);
    let connector = MemoryConnector::new(name).with_capacity(200);
    let peer = Client::new().reconnecting(connector, settings);
    let link = listener.accept().await.unwrap().await.unwrap();
    connected(&peer).await;
    let filler = peer.requester().await.unwrap();
    // Does not fit beside SETUP, which nobody reads.
    tokio::spawn(async move { filler.request_response(vec![0; 180]).await });
    tokio::task::yield_now().await;
    (peer, link)
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_link_took_waits_for_the_next_connection() {
    let name = unique_name();
    let (peer, link) = stuck(&name, WhenDown::Wait).await;
    let call = peer.request_response("call");
    let sent = peer.fire_and_forget("one way");
    let mut items = peer.request_stream("items");
    assert!(poll!(items.next()).is_pending());
    assert_eq!(peer.waiting(), 0, "they wait for the link");

    let seen = Seen::default();
    drop(link);
    let _server = Up::serve(&name, seen.echo());
    assert_eq!(call.await.unwrap().data(), b"call");
    sent.await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap().data(), b"items");
    assert_eq!(peer.request_response("x").await.unwrap().data(), b"x");
    assert_eq!(seen.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_link_took_and_that_does_not_wait_says_that_nothing_was_sent() {
    let (peer, link) = stuck(&unique_name(), WhenDown::FailFast).await;
    let call = peer.request_response("call");
    let mut items = peer.request_stream("items");
    assert!(poll!(items.next()).is_pending());
    drop(link);
    let call = within(call).await;
    assert!(
        matches!(call, Err(Error::NotConnected(Some(_)))),
        "{call:?}"
    );
    let end = items.next().await.unwrap();
    assert!(matches!(end, Err(Error::NotConnected(Some(_)))), "{end:?}");
}

// java#988: while a server drains, new requests go to its successor.
#[tokio::test(start_paused = true)]
async fn requests_leave_a_server_that_drains_and_open_streams_stay() {
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let more = Arc::new(Notify::new());
    let ready = Arc::clone(&more);
    let old = Handlers::new().on_request_stream(move |_| {
        let ready = ready.clone();
        stream::once(future::ready(Ok("old 1".into()))).chain(stream::once(async move {
            ready.notified().await;
            Ok("old 2".into())
        }))
    });
    let accept = move |_, _| future::ready(Ok(old.clone()));
    tokio::spawn(Server::new().serve_until(listener, accept, async { drop(stopped.await) }));
    let peer = client(&name, Reconnect::new());
    let mut items = peer.request_stream("x");
    assert_eq!(items.next().await.unwrap().unwrap().data(), b"old 1");
    stop.send(()).unwrap();
    sleep(MS).await;
    assert!(peer.state().is_connected(), "nothing was asked for");

    let call = peer.request_response("x");
    assert!(!peer.state().is_connected());
    let _server = Up::serve(&name, Seen::default().echo());
    assert_eq!(call.await.unwrap().data(), b"x");
    more.notify_one();
    assert_eq!(items.next().await.unwrap().unwrap().data(), b"old 2");
    assert!(items.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn all_connections_share_one_responder() {
    let name = unique_name();
    let asked = Arc::new(AtomicUsize::new(0));
    let ours = {
        let asked = Arc::clone(&asked);
        Handlers::new().on_request_response(move |request| {
            asked.fetch_add(1, Ordering::Relaxed);
            future::ready(Ok(request))
        })
    };
    let serve = || {
        let listener = MemoryListener::bind(&name).unwrap();
        tokio::spawn(Server::new().serve(listener, |_, client| {
            future::ready(Ok(Handlers::new().on_request_response(move |request| {
                let client = client.clone();
                async move { Ok(client.request_response(request).await?) }
            })))
        }))
    };
    let server = serve();
    let client = Client::new().responder(ours);
    let peer = client.reconnecting(MemoryConnector::new(&name), Reconnect::new());
    assert!(peer.request_response("1").await.is_ok());
    server.abort();
    let _ = server.await;
    disconnected(&peer).await;
    let _server = serve();
    assert!(peer.request_response("2").await.is_ok());
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn whoever_closes_the_session_at_hand_gets_another() {
    let name = unique_name();
    let _server = Up::serve(&name, Seen::default().echo());
    let peer = client(&name, Reconnect::new());
    let session = peer.requester().await.unwrap();
    assert!(matches!(session.close().await, CloseReason::Local));
    assert!(session.request_response("x").await.is_err());
    assert!(peer.request_response("x").await.is_ok());
    assert!(matches!(
        peer.state(),
        ConnectionState::Connected { session: 2 }
    ));
}

// Servers that come and go at random, and clients that ask all the while: each
// request is answered, or fails for its connection; none hangs, none is served
// twice.
#[tokio::test(start_paused = true)]
async fn random_restarts_lose_no_request_and_repeat_none() {
    for seed in seeds(20) {
        let mut random = Random::new(seed);
        let name = unique_name();
        let seen = Arc::new(Mutex::new(
            std::collections::HashMap::<Vec<u8>, usize>::new(),
        ));
        let handlers = {
            let seen = Arc::clone(&seen);
            Handlers::new().on_request_response(move |request| {
                *seen
                    .lock()
                    .unwrap()
                    .entry(request.data().to_vec())
                    .or_default() += 1;
                async move {
                    sleep(3 * MS).await;
                    Ok(request)
                }
            })
        };
        let before = tasks();
        // Servers live too shortly for long delays to meet them.
        let backoff = Backoff::new(10 * MS, 100 * MS);
        let settings = Reconnect::new().backoff(backoff).seed(seed);
        let peer = client(&name, settings);
        let asking: Vec<_> = (0..20)
            .map(|n| {
                let peer = peer.clone();
                tokio::spawn(async move {
                    let (mut answered, mut failed) = (0, 0);
                    for i in 0..50 {
                        match peer.request_response(format!("{n}/{i}")).await {
                            Ok(_) => answered += 1,
                            Err(Error::Closed(_)) => failed += 1,
                            Err(error) => panic!("{error:?}, seed {seed}"),
                        }
                    }
                    (answered, failed)
                })
            })
            .collect();
        let restarts = tokio::spawn({
            let name = name.clone();
            async move {
                loop {
                    let server = Up::serve(&name, handlers.clone());
                    sleep(MS * u32::try_from(random.within(1..=60)).unwrap()).await;
                    server.kill().await;
                    sleep(MS * u32::try_from(random.within(0..=300)).unwrap()).await;
                }
            }
        });
        let (mut answered, mut failed) = (0, 0);
        for asked in asking {
            let (a, f) = within(asked).await.unwrap();
            answered += a;
            failed += f;
        }
        restarts.abort();
        let _ = restarts.await;
        assert_eq!(answered + failed, 1000, "seed {seed}");
        assert!(
            failed > 0,
            "no connection died under a request, seed {seed}"
        );
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert!(seen.values().all(|times| *times == 1), "seed {seed}");
        assert!(seen.len() >= answered, "seed {seed}");
        drop(peer);
        only_tasks(before + 2).await;
    }
}
