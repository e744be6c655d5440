//! Those who wait for a connection.

use super::*;

/// Bytes that say when they are let go of.
fn watched_bytes() -> (Bytes, oneshot::Receiver<()>) {
    struct Owner(
        Vec<u8>,
        #[expect(dead_code, reason = "dropped")] oneshot::Sender<()>,
    );
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let (sender, dropped) = oneshot::channel();
    (Bytes::from_owner(Owner(vec![7; 5000], sender)), dropped)
}

// java#1022: pending requests piled up while callers timed out.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_while_it_waits_leaves_no_trace() {
    let name = unique_name();
    let peer = client(&name, Reconnect::new());
    let (call, mut call_gone) = watched_bytes();
    let (items, mut items_gone) = watched_bytes();
    let call = peer.request_response(call);
    let mut items = peer.request_stream(items);
    assert!(poll!(items.next()).is_pending());
    let call = timeout(5000 * MS, call);
    let (called, item) = futures_util::join!(call, timeout(5000 * MS, items.next()));
    assert!(called.is_err() && item.is_err());
    assert_eq!(peer.waiting(), 1, "the stream, which was only polled");
    assert!(call_gone.try_recv() == Err(oneshot::error::TryRecvError::Closed));
    assert!(items_gone.try_recv() == Err(oneshot::error::TryRecvError::Empty));
    drop(items);
    assert_eq!(peer.waiting(), 0);
    assert!(items_gone.try_recv() == Err(oneshot::error::TryRecvError::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_that_time_out_leave_no_trace() {
    let name = unique_name();
    let seen = Seen::default();
    let before = tasks();
    let peer = client(&name, Reconnect::new());
    let (payload, mut gone) = watched_bytes();
    let impatient = (0..1000).map(|n: u64| {
        let (peer, payload) = (peer.clone(), payload.clone());
        async move {
            let limit = MS * u32::try_from(n).unwrap();
            match n % 4 {
                0 => timeout(limit, peer.request_response(payload))
                    .await
                    .is_err(),
                1 => timeout(limit, peer.fire_and_forget(payload)).await.is_err(),
                2 => timeout(limit, peer.request_stream(payload).next())
                    .await
                    .is_err(),
                _ => timeout(limit, peer.requester()).await.is_err(),
            }
        }
    });
    assert!(join_all(impatient).await.iter().all(|timed_out| *timed_out));
    drop(payload);
    assert_eq!(peer.waiting(), 0);
    assert_eq!(gone.try_recv(), Err(oneshot::error::TryRecvError::Closed));

    let _server = Up::serve(&name, seen.echo());
    connected(&peer).await;
    assert!(peer.request_response("x").await.is_ok());
    assert_eq!(seen.count(), 1);
    let stats = peer.requester().await.unwrap().stats();
    assert_eq!(stats.streams_open, 0);
    drop((peer, _server));
    sleep(Duration::from_secs(5)).await;
    assert!(tasks() <= before + 1, "the server's task at most is left");
}

#[tokio::test(start_paused = true)]
async fn no_more_requests_wait_than_may() {
    let name = unique_name();
    let peer = client(&name, Reconnect::new().max_waiting(2));
    let first = peer.request_response("1");
    let mut second = Box::pin(peer.requester());
    assert!(poll!(&mut second).is_pending());
    let third = peer.request_response("3").now_or_never().unwrap();
    assert!(
        matches!(third, Err(Error::TooManyWaiting { limit: 2 })),
        "{third:?}"
    );
    drop(second);
    let fourth = peer.request_response("4");
    assert_eq!(peer.waiting(), 2);
    let _server = Up::serve(&name, Seen::default().echo());
    let (first, fourth) = futures_util::join!(first, fourth);
    assert!(first.is_ok() && fourth.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_that_wait_are_all_answered_when_the_server_is_back() {
    let name = unique_name();
    let seen = Seen::default();
    let server = Up::serve(&name, seen.echo());
    let peer = client(&name, Reconnect::new());
    connected(&peer).await;
    server.kill().await;
    disconnected(&peer).await;
    let asking: Vec<_> = (0..1000)
        .map(|n: u32| {
            let call = peer.request_response(n.to_string());
            tokio::spawn(async move { (n, call.await) })
        })
        .collect();
    assert_eq!(peer.waiting(), 1000);
    sleep(Duration::from_secs(20)).await;
    let _server = Up::serve(&name, seen.echo());
    for asked in asking {
        let (n, answer) = asked.await.unwrap();
        assert_eq!(answer.unwrap().data_utf8(), Some(n.to_string().as_str()));
    }
    assert_eq!(seen.count(), 1000);
    assert_eq!(peer.waiting(), 0);
}
