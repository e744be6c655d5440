//! How it ends, and that nothing is left.

use super::*;

// rust PR#40, PR#65: nothing is left of what nobody can use any more.
#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_stops_attempts_and_leaves_no_task() {
    // While it waits for its next attempt.
    let name = unique_name();
    let before = tasks();
    let connector = Noted::new(&name);
    let peer = Client::new().reconnecting(connector.clone(), Reconnect::new());
    let clone = peer.clone();
    sleep(Duration::from_secs(2)).await;
    drop(peer);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(tasks(), before + 1, "there is a clone");
    let made = connector.times().len();
    drop(clone);
    only_tasks(before).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(connector.times().len(), made);

    // While it connects, and the attempt is dropped with it.
    struct Hangs(Mutex<Option<oneshot::Sender<()>>>);
    #[async_trait::async_trait]
    impl Connector for Hangs {
        async fn connect(&self) -> Result<Link, TransportError> {
            let _dropped = self.0.lock().unwrap().take();
            future::pending().await
        }
    }
    let (sender, dropped) = oneshot::channel();
    let peer = Client::new().reconnecting(Hangs(Mutex::new(Some(sender))), Reconnect::new());
    sleep(MS).await;
    drop(peer);
    within(dropped).await.unwrap_err();
    only_tasks(before).await;

    // While it is connected, and a stream goes on.
    let server = Up::serve(&name, Seen::default().echo());
    let served = tasks();
    let peer = client(&name, Reconnect::new());
    let mut items = peer.request_stream("x");
    assert!(items.next().await.unwrap().is_ok());
    drop(peer);
    sleep(Duration::from_secs(5)).await;
    assert!(poll!(items.next()).is_pending(), "the stream is open");
    drop(items);
    only_tasks(served).await;
    server.kill().await;
    only_tasks(before).await;

    // While a request waits, which counts as a handle.
    let peer = client(&name, Reconnect::new());
    let call = peer.request_response("x");
    drop(peer);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(tasks(), before + 1);
    drop(call);
    only_tasks(before).await;
}

#[tokio::test(start_paused = true)]
async fn close_fails_what_waits_and_lets_end_what_is_open() {
    let name = unique_name();
    let before = tasks();
    let peer = client(&name, Reconnect::new());
    let waits = peer.request_response("x");
    assert!(matches!(peer.close().await, CloseReason::Local));
    let waits = waits.await;
    assert!(
        matches!(waits, Err(Error::Closed(CloseReason::Local))),
        "{waits:?}"
    );
    assert!(matches!(peer.state(), ConnectionState::Closed));
    only_tasks(before).await;

    let go = Arc::new(Notify::new());
    let ready = Arc::clone(&go);
    let slow = Handlers::new().on_request_response(move |request| {
        let ready = ready.clone();
        async move {
            ready.notified().await;
            Ok(request)
        }
    });
    let server = Up::serve(&name, slow);
    let peer = client(&name, Reconnect::new());
    connected(&peer).await;
    let open = peer.request_response("open");
    let closing = tokio::spawn({
        let peer = peer.clone();
        async move { peer.close().await }
    });
    sleep(MS).await;
    let late = peer.request_response("late").now_or_never().unwrap();
    assert!(
        matches!(late, Err(Error::Closed(CloseReason::Local))),
        "{late:?}"
    );
    assert!(!closing.is_finished());
    go.notify_one();
    assert_eq!(open.await.unwrap().data(), b"open");
    assert!(matches!(closing.await.unwrap(), CloseReason::Local));
    peer.reconnect_now();
    sleep(Duration::from_secs(60)).await;
    assert!(matches!(peer.state(), ConnectionState::Closed));
    server.kill().await;
    only_tasks(before).await;
}

#[test]
fn whoever_waits_learns_that_the_runtime_of_the_client_is_gone() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
    };
    let (ours, theirs) = (runtime().unwrap(), runtime().unwrap());
    let peer = theirs.block_on(async { client(&unique_name(), Reconnect::new()) });
    let waits = ours.spawn(peer.request_response("x"));
    theirs.shutdown_background();
    let answer = ours.block_on(within(waits)).unwrap();
    assert!(matches!(answer, Err(Error::Closed(_))), "{answer:?}");
    assert!(matches!(peer.state(), ConnectionState::Closed));
}
