//! Losing a server and finding it again: what becomes of requests, of those who
//! wait, and of the tasks.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    missing_docs,
    reason = "tests may fail, and need no docs"
)]

mod common;

use std::{
    future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{unique_name, within};
use futures_util::{FutureExt as _, StreamExt as _, future::join_all, poll, stream};
use rsocket_core::{
    Backoff, Client, CloseReason, ConnectionState, DemandPolicy, Error, Failure, Handlers, Payload,
    Reconnect, Reconnecting, Server, WhenDown,
    reconnect::Dial,
    testkit::{Random, seeds},
    transport::{
        Connector, Link, Listener as _, TransportError,
        memory::{MemoryConnector, MemoryListener},
    },
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

const MS: Duration = Duration::from_millis(1);

/// Answers each request with itself, and counts what comes.
#[derive(Clone, Default)]
struct Seen(Arc<AtomicUsize>);

impl Seen {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Echoes, but never answers "hang".
    fn echo(&self) -> Handlers {
        let (of_response, of_stream, of_one_way) = (self.clone(), self.clone(), self.clone());
        Handlers::new()
            .on_request_response(move |request| {
                of_response.0.fetch_add(1, Ordering::Relaxed);
                async move {
                    if request.data() == b"hang" {
                        future::pending::<()>().await;
                    }
                    Ok(request)
                }
            })
            .on_request_stream(move |request| {
                of_stream.0.fetch_add(1, Ordering::Relaxed);
                stream::iter([Ok(request)]).chain(stream::pending())
            })
            .on_request_channel(|inbound| inbound.map(|item| item.map_err(Failure::from)))
            .on_fire_and_forget(move |_| {
                of_one_way.0.fetch_add(1, Ordering::Relaxed);
                future::ready(())
            })
    }
}

/// A server that can be killed with all its connections.
struct Up(JoinHandle<()>);

impl Up {
    fn serve(name: &str, handlers: Handlers) -> Self {
        let listener = MemoryListener::bind(name).unwrap();
        Self(tokio::spawn(async move {
            let accept = move |_, _| future::ready(Ok(handlers.clone()));
            let _ = Server::new().serve(listener, accept).await;
        }))
    }

    async fn kill(self) {
        self.0.abort();
        let _ = self.0.await;
    }
}

/// Notes when it was asked to connect.
#[derive(Clone)]
struct Noted {
    to: MemoryConnector,
    at: Arc<Mutex<Vec<Instant>>>,
}

impl Noted {
    fn new(name: &str) -> Self {
        Self {
            to: MemoryConnector::new(name),
            at: Arc::default(),
        }
    }

    fn times(&self) -> Vec<Instant> {
        self.at.lock().unwrap().clone()
    }
}

#[async_trait::async_trait]
impl Connector for Noted {
    async fn connect(&self) -> Result<Link, TransportError> {
        self.at.lock().unwrap().push(Instant::now());
        self.to.connect().await
    }
}

fn client(name: &str, settings: Reconnect) -> Reconnecting {
    Client::new().reconnecting(MemoryConnector::new(name), settings)
}

fn steady() -> Reconnect {
    Reconnect::new().backoff(Backoff::new(100 * MS, 1000 * MS).without_jitter())
}

async fn until(peer: &Reconnecting, is_it: impl Fn(&ConnectionState) -> bool) -> ConnectionState {
    let mut states = peer.states();
    loop {
        let state = states.next().await.expect("not closed");
        if is_it(&state) {
            return state;
        }
    }
}

async fn connected(peer: &Reconnecting) {
    until(peer, ConnectionState::is_connected).await;
}

async fn disconnected(peer: &Reconnecting) {
    until(peer, |state| !state.is_connected()).await;
}

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// Waits until no more than `n` tasks are left, in virtual time.
async fn only_tasks(n: usize) {
    let done = async {
        while tasks() > n {
            sleep(MS).await;
        }
    };
    timeout(Duration::from_secs(5), done)
        .await
        .unwrap_or_else(|_| panic!("{} tasks, not {n}", tasks()));
}

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
    let call = call.await;
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
    let call = call.await;
    assert!(
        matches!(call, Err(Error::NotConnected(Some(_)))),
        "{call:?}"
    );
    let end = items.next().await.unwrap();
    assert!(matches!(end, Err(Error::NotConnected(Some(_)))), "{end:?}");
}

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
    let (call, items) = futures_util::join!(call, timeout(5000 * MS, items.next()));
    assert!(call.is_err() && items.is_err());
    assert_eq!(peer.waiting(), 1, "the stream, which was only polled");
    assert!(call_gone.try_recv() == Err(oneshot::error::TryRecvError::Closed));
    assert!(items_gone.try_recv() == Err(oneshot::error::TryRecvError::Empty));
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

#[tokio::test(start_paused = true)]
async fn attempts_have_the_delays_that_were_asked_for() {
    let name = unique_name();
    let connector = Noted::new(&name);
    let start = Instant::now();
    let peer = Client::new().reconnecting(connector.clone(), steady());
    sleep(5150 * MS).await;
    let times = |from: usize, since: Instant| -> Vec<u128> {
        let times = connector.times();
        let since_then = times[from..].iter().map(|at| *at - since);
        // The timer's grain is a millisecond.
        since_then.map(|d| d.as_millis() / 10 * 10).collect()
    };
    // The first at once; then 200, 400, 800, 1000, 1000 ms.
    assert_eq!(times(0, start), [0, 200, 600, 1400, 2400, 3400, 4400]);

    // One that lasts makes delays short again, and the next row starts with one.
    let server = Up::serve(&name, Seen::default().echo());
    connected(&peer).await;
    sleep(Duration::from_secs(11)).await;
    let made = connector.times().len();
    let lost = Instant::now();
    server.kill().await;
    sleep(800 * MS).await;
    assert_eq!(times(made, lost), [100, 300, 700]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_dies_is_not_asked_ever_faster() {
    let name = unique_name();
    let mut listener = MemoryListener::bind(&name).unwrap();
    tokio::spawn(async move {
        while let Ok(accepted) = listener.accept().await {
            drop(accepted.await);
        }
    });
    let connector = Noted::new(&name);
    let _peer = Client::new().reconnecting(connector.clone(), steady());
    sleep(Duration::from_secs(60)).await;
    let made = connector.times().len();
    assert!((60..=66).contains(&made), "{made} attempts in a minute");
}

// Each client's delay is its own: seeds differ by themselves.
#[tokio::test(start_paused = true)]
async fn clients_that_lost_the_same_server_do_not_come_back_all_at_once() {
    const CLIENTS: usize = 500;
    let name = unique_name();
    let server = Up::serve(&name, Seen::default().echo());
    let connector = Noted::new(&name);
    let peers: Vec<_> = (0..CLIENTS)
        .map(|_| Client::new().reconnecting(connector.clone(), Reconnect::new()))
        .collect();
    for peer in &peers {
        connected(peer).await;
    }
    // Long enough for the next row of delays to be a new one.
    sleep(Duration::from_secs(11)).await;
    let lost = Instant::now();
    server.kill().await;
    let _server = Up::serve(&name, Seen::default().echo());
    for peer in &peers {
        until(peer, |state| {
            matches!(state, ConnectionState::Connected { session: 2 })
        })
        .await;
    }
    let mut buckets = [0; 11];
    for at in &connector.times()[CLIENTS..] {
        buckets[usize::try_from((*at - lost).as_millis() / 10).unwrap()] += 1;
    }
    assert_eq!(buckets.iter().sum::<usize>(), CLIENTS);
    // Even would be a tenth in each 10 ms; a fifth is twelve deviations off.
    assert!(buckets.iter().all(|n| *n < CLIENTS / 5), "{buckets:?}");
}

#[tokio::test(start_paused = true)]
async fn after_giving_up_all_requests_fail_with_the_last_reason_until_told_to_try_again() {
    let name = unique_name();
    let backoff = Backoff::new(100 * MS, 1000 * MS).max_attempts(3);
    let connector = Noted::new(&name);
    let settings = Reconnect::new().backoff(backoff);
    let peer = Client::new().reconnecting(connector.clone(), settings);
    let waits = peer.request_response("early");
    let is_right = |error: Error| {
        let text = error.to_string();
        match error {
            Error::Closed(reason @ CloseReason::Transport(_)) => {
                reason.to_string().contains("could not connect")
            }
            _ => panic!("{text}"),
        }
    };
    assert!(is_right(waits.await.unwrap_err()));
    assert_eq!(connector.times().len(), 3);
    let ConnectionState::GaveUp { error, attempts: 3 } = peer.state() else {
        panic!("{:?}", peer.state())
    };
    assert!(is_right(error));
    let late = peer.request_response("late").now_or_never().unwrap();
    assert!(is_right(late.unwrap_err()));
    let late = peer.request_stream("late").next().now_or_never().unwrap();
    assert!(is_right(late.unwrap().unwrap_err()));
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(connector.times().len(), 3);

    let _server = Up::serve(&name, Seen::default().echo());
    peer.reconnect_now();
    connected(&peer).await;
    assert!(peer.request_response("again").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn reconnect_now_cuts_a_delay_short() {
    let name = unique_name();
    let hour = Duration::from_secs(3600);
    let backoff = Backoff::new(hour, hour).without_jitter();
    let peer = client(&name, Reconnect::new().backoff(backoff));
    let mut states = peer.states();
    while !matches!(
        states.next().await,
        Some(ConnectionState::Disconnected { retry_in: Some(d), .. }) if d == hour
    ) {}
    let _server = Up::serve(&name, Seen::default().echo());
    let start = Instant::now();
    peer.reconnect_now();
    assert!(peer.request_response("x").await.is_ok());
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// Refuses all whose setup payload is not "good"; counts who asked.
fn strict(name: &str) -> Arc<AtomicUsize> {
    let listener = MemoryListener::bind(name).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(Server::new().serve(listener, move |setup, _| {
        count.fetch_add(1, Ordering::Relaxed);
        future::ready(if setup.payload().data() == b"good" {
            Ok(Seen::default().echo())
        } else {
            Err(Failure::rejected("who are you?"))
        })
    }));
    asked
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_tried_again() {
    let name = unique_name();
    let asked = strict(&name);
    let peer = client(&name, Reconnect::new());
    let state = until(&peer, |state| {
        matches!(state, ConnectionState::GaveUp { .. })
    })
    .await;
    let ConnectionState::GaveUp { error, attempts: 1 } = state else {
        panic!("{state:?}")
    };
    assert!(matches!(error, Error::Closed(CloseReason::Refused(_))));
    let error = peer.request_response("x").await.unwrap_err();
    assert!(
        matches!(&error, Error::Closed(CloseReason::Refused(failure)) if failure.message() == "who are you?")
    );
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_tried_again_if_so_wanted_with_a_payload_made_anew() {
    let name = unique_name();
    let asked = strict(&name);
    let made = Arc::new(AtomicUsize::new(0));
    let tokens = Client::new().setup_with(move || {
        let n = made.fetch_add(1, Ordering::Relaxed);
        async move {
            sleep(10 * MS).await;
            Payload::new(if n < 2 { "stale" } else { "good" })
        }
    });
    let settings = Reconnect::new().retry_if(|reason| matches!(reason, CloseReason::Refused(_)));
    let peer = tokens.reconnecting(MemoryConnector::new(&name), settings);
    until(&peer, |state| {
        matches!(state, ConnectionState::Connected { session: 3 })
    })
    .await;
    assert!(peer.request_response("x").await.is_ok());
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn a_setup_that_fits_no_frame_is_not_tried_again() {
    let setup = Client::new().setup(vec![0; 17 << 20]);
    let peer = setup.reconnecting(MemoryConnector::new(unique_name()), Reconnect::new());
    let error = peer.request_response("x").await.unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn states_tell_that_a_session_was_lost_and_another_made() {
    let name = unique_name();
    let server = Up::serve(&name, Seen::default().echo());
    // So slow that no state is missed.
    let slow = Client::new().setup_with(|| sleep(MS).map(|()| Payload::default()));
    let peer = slow.reconnecting(MemoryConnector::new(&name), steady());
    let mut states = peer.states();
    let mut next = async || format!("{:?}", states.next().await);
    assert!(next().await.contains("Disconnected { reason: None"));
    assert_eq!(next().await, "Some(Connecting { attempt: 1 })");
    assert_eq!(next().await, "Some(Connected { session: 1 })");
    server.kill().await;
    let lost = next().await;
    assert!(
        lost.contains("Disconnected { reason: Some(") && lost.contains("Some(200ms)"),
        "{lost}"
    );
    let _server = Up::serve(&name, Seen::default().echo());
    assert_eq!(next().await, "Some(Connecting { attempt: 2 })");
    assert_eq!(next().await, "Some(Connected { session: 2 })");
    drop(peer);
    assert_eq!(next().await, "Some(Closed)");
    assert_eq!(next().await, "None");
}

#[tokio::test(start_paused = true)]
async fn on_demand_means_that_attempts_are_made_for_requests_alone() {
    let name = unique_name();
    let day = Duration::from_secs(86_400);
    let connector = Noted::new(&name);
    let peer = Client::new().reconnecting(connector.clone(), steady().dial(Dial::OnDemand));
    sleep(day).await;
    assert_eq!(connector.times().len(), 0);

    let waits = timeout(500 * MS, peer.request_response("x")).await;
    assert!(waits.is_err());
    sleep(day).await;
    // At 0, 200; and the one due at 600 when nobody waits any more is not made.
    assert_eq!(connector.times().len(), 2);

    let fast = peer.when_down(WhenDown::FailFast);
    let server = Up::serve(&name, Seen::default().echo());
    assert!(fast.request_response("x").await.is_err());
    connected(&peer).await;
    assert!(fast.request_response("x").await.is_ok());
    assert_eq!(connector.times().len(), 3);

    server.kill().await;
    sleep(day).await;
    assert_eq!(connector.times().len(), 3);
    let _server = Up::serve(&name, Seen::default().echo());
    let asked = Instant::now();
    assert!(peer.request_response("x").await.is_ok());
    assert!(asked.elapsed() < 10 * MS, "nobody has to wait for a delay");
}

// java#988: while a server drains, new requests go to its successor.
#[tokio::test(start_paused = true)]
async fn requests_leave_a_server_that_drains_and_open_streams_stay() {
    let name = unique_name();
    let listener = MemoryListener::bind(&name).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (more, ready) = async_channel();
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

fn async_channel() -> (Arc<tokio::sync::Notify>, Arc<tokio::sync::Notify>) {
    let notify = Arc::new(tokio::sync::Notify::new());
    (Arc::clone(&notify), notify)
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_given_up_and_made_again() {
    struct Hangs(Arc<AtomicUsize>, MemoryConnector);
    #[async_trait::async_trait]
    impl Connector for Hangs {
        async fn connect(&self) -> Result<Link, TransportError> {
            if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                future::pending::<()>().await;
            }
            self.1.connect().await
        }
    }
    let name = unique_name();
    let _server = Up::serve(&name, Seen::default().echo());
    let made = Arc::new(AtomicUsize::new(0));
    let connector = Hangs(Arc::clone(&made), MemoryConnector::new(&name));
    let settings = Reconnect::new().attempt_timeout(Duration::from_secs(2));
    let peer = Client::new().reconnecting(connector, settings);
    let start = Instant::now();
    assert!(peer.request_response("x").await.is_ok());
    assert!((2000 * MS..2300 * MS).contains(&start.elapsed()));
    assert_eq!(made.load(Ordering::Relaxed), 2);
}

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

    let (go, ready) = async_channel();
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
        let seen = seen.lock().unwrap();
        assert!(seen.values().all(|times| *times == 1), "seed {seed}");
        assert!(seen.len() >= answered, "seed {seed}");
        drop(peer);
        only_tasks(before + 2).await;
    }
}
