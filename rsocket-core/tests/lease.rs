//! Leases through the public API, in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "tests may fail, and need no docs"
)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, future::join_all, stream};
use rsocket_core::{
    Adaptive, Client, CloseReason, Error, Failure, FixedRate, Handlers, LeaseGrant, LeaseOptions,
    LeasePolicy, Load, Payload, Requester, Server,
    proto::Limits,
    transport::memory::{MemoryConnector, MemoryListener},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// An address of its own for each test.
fn address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("lease-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Serves an echo, and connects to it.
async fn connected(server: LeaseOptions, client: Client) -> Requester {
    let address = address();
    let listener = MemoryListener::bind(&address).unwrap();
    let server = Server::new().lease(server);
    tokio::spawn(server.serve(listener, |_, _| async {
        Ok(Handlers::new()
            .on_request_response(|request| async { Ok(request) })
            .on_request_stream(|_| stream::iter((0..3).map(|n| Ok(Payload::new(n.to_string())))))
            .on_fire_and_forget(|_| async {}))
    }));
    client
        .connect(MemoryConnector::new(&address))
        .await
        .unwrap()
}

fn rate(requests: u32, period: Duration) -> LeaseOptions {
    LeaseOptions::new().policy(move || FixedRate::new(requests, period))
}

fn leased() -> Client {
    Client::new().lease(LeaseOptions::new())
}

// [C201] [C185] [C186]
#[tokio::test(start_paused = true)]
async fn requests_beyond_a_lease_go_on_with_the_next() {
    let start = Instant::now();
    let peer = connected(rate(2, ms(100)), leased()).await;
    let asked = &peer;
    let calls = (0..5).map(|n| async move { (n, peer_call(asked, n).await, start.elapsed()) });
    let done = join_all(calls).await;
    let seen: Vec<_> = done
        .iter()
        .map(|(n, _, at)| (*n, at.as_millis() / 100))
        .collect();
    assert_eq!(seen, [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]);
    let stats = peer.stats();
    assert_eq!((stats.leases_received, stats.requests_waiting), (3, 0));
}

async fn peer_call(peer: &Requester, n: u32) -> Payload {
    let answer = peer.request_response(n.to_string()).await.unwrap();
    assert_eq!(answer.data_utf8(), Some(n.to_string().as_str()));
    answer
}

// [C200]
#[tokio::test(start_paused = true)]
async fn every_interaction_waits_for_a_lease() {
    let peer = connected(rate(1, ms(100)), leased()).await;
    let start = Instant::now();
    peer.fire_and_forget("f").await.unwrap();
    assert_eq!(peer.request_stream("s").count().await, 3);
    peer.request_response("r").await.unwrap();
    // Handlers have no channel: the peer rejects it, having counted it.
    let channel = peer.request_channel(stream::iter(["c".into()]));
    assert!(matches!(
        channel.collect::<Vec<_>>().await[..],
        [Err(Error::Peer(_))]
    ));
    assert_eq!(start.elapsed().as_millis() / 100, 3);
}

// [C207] [C339]
#[tokio::test(start_paused = true)]
async fn dropped_requests_wait_no_more_and_take_nothing_of_the_next_lease() {
    let peer = connected(rate(1, ms(100)), leased()).await;
    peer.request_response("the first lease").await.unwrap();
    let start = Instant::now();
    let mut given_up = Vec::new();
    for n in 0..50 {
        let mut call = peer.request_response(format!("given up {n}"));
        assert!((&mut call).now_or_never().is_none());
        given_up.push(call);
    }
    let mut ticks = peer.request_stream("given up too");
    assert!(ticks.next().now_or_never().is_none());
    let kept = peer.request_response("kept");
    assert_eq!(peer.stats().requests_waiting, 52);
    drop(given_up);
    drop(ticks);
    assert_eq!(peer.stats().requests_waiting, 1);
    kept.await.unwrap();
    assert_eq!(start.elapsed().as_millis() / 100, 1);
}

// [C207]
#[tokio::test(start_paused = true)]
async fn beyond_the_bound_requests_fail_with_an_error_that_says_what_to_do() {
    let mut limits = Limits::default();
    limits.max_waiting_requests = 2;
    let never = LeaseOptions::new().policy(|| |_: &Load| LeaseGrant::nothing(ms(1_000)));
    let peer = connected(never, leased().limits(limits)).await;
    let waits = [peer.request_response("a"), peer.request_response("b")];
    let error = peer.request_response("c").await.unwrap_err();
    assert!(matches!(error, Error::NoLease { limit: 2 }));
    let error = peer.request_stream("d").next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::NoLease { limit: 2 }));
    drop(waits);
    assert!(
        timeout(ms(5_000), peer.request_response("e"))
            .await
            .is_err()
    );
}

// [A22]
#[tokio::test(start_paused = true)]
async fn a_server_that_never_grants_may_be_given_up() {
    let never = LeaseOptions::new().policy(|| |_: &Load| LeaseGrant::nothing(ms(1_000)));
    let leases = LeaseOptions::new().first_lease_within(ms(2_500));
    let start = Instant::now();
    let peer = connected(never, Client::new().lease(leases)).await;
    let error = peer.request_response("ping").await.unwrap_err();
    let Error::Closed(CloseReason::NoLease { millis: 2_500 }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(start.elapsed().as_millis(), 2_500);
}

// [C073] [A22]
#[tokio::test(start_paused = true)]
async fn a_server_without_leases_refuses_who_asks_for_them() {
    let address = address();
    let listener = MemoryListener::bind(&address).unwrap();
    tokio::spawn(Server::new().serve(listener, |_, _| async { Ok(()) }));
    let peer = leased()
        .connect(MemoryConnector::new(&address))
        .await
        .unwrap();
    let reason = peer.closed().await;
    assert!(matches!(&reason, CloseReason::Refused(failure)
        if failure.code() == rsocket_core::frame::ErrorCode::UNSUPPORTED_SETUP));
}

#[tokio::test(start_paused = true)]
async fn an_acceptor_sees_who_asks_for_leases_and_can_insist() {
    let address = address();
    let listener = MemoryListener::bind(&address).unwrap();
    let server = Server::new().lease(rate(5, ms(100)));
    tokio::spawn(server.serve(listener, |setup, _| async move {
        if !setup.lease() {
            return Err(Failure::rejected("leases only"));
        }
        Ok(Handlers::new().on_request_response(|request| async { Ok(request) }))
    }));
    let without = Client::new()
        .connect(MemoryConnector::new(&address))
        .await
        .unwrap();
    assert!(matches!(without.closed().await, CloseReason::Refused(_)));
    let with = leased()
        .connect(MemoryConnector::new(&address))
        .await
        .unwrap();
    with.request_response("ping").await.unwrap();
}

// [C091] [C188] [C189]
#[tokio::test(start_paused = true)]
async fn a_client_grants_its_server_requests() {
    let address = address();
    let listener = MemoryListener::bind(&address).unwrap();
    let (found, mut clients) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::new().lease(LeaseOptions::new());
    tokio::spawn(server.serve(listener, move |_, client| {
        found.send(client).unwrap();
        async { Ok(()) }
    }));
    let start = Instant::now();
    let client = Client::new()
        .lease(rate(1, ms(100)))
        .responder(Handlers::new().on_request_response(|request| async { Ok(request) }))
        .connect(MemoryConnector::new(&address))
        .await
        .unwrap();
    let asked = clients.recv().await.unwrap();
    for n in 0..3 {
        asked.request_response("who").await.unwrap();
        assert_eq!(start.elapsed().as_millis() / 100, n);
    }
    // A side without a policy grants without limit.
    let lease = client.lease().unwrap();
    assert_eq!(lease.remaining_requests, (1 << 31) - 1);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn the_requester_reads_the_last_lease_and_its_metadata() {
    let policy = LeaseOptions::new()
        .policy(|| |_: &Load| LeaseGrant::new(7, ms(1_000)).with_metadata("zone-a"));
    let peer = connected(policy, leased()).await;
    peer.request_response("ping").await.unwrap();
    sleep(ms(400)).await;
    let lease = peer.lease().unwrap();
    assert_eq!(lease.remaining_requests, 6);
    assert_eq!(lease.remaining_ttl, ms(600));
    assert_eq!(lease.metadata.as_deref(), Some(&b"zone-a"[..]));
    let without = connected(rate(1, ms(10)), Client::new()).await;
    assert_eq!(without.lease(), None);
}

#[tokio::test(start_paused = true)]
async fn connections_can_share_one_budget() {
    let left = Arc::new(Mutex::new(3_u32));
    let shared = LeaseOptions::new().policy(move || {
        let left = Arc::clone(&left);
        move |_: &Load| {
            let mut left = left.lock().unwrap();
            let mine = (*left).min(2);
            *left -= mine;
            LeaseGrant::new(mine, ms(60_000))
        }
    });
    let address = address();
    let listener = MemoryListener::bind(&address).unwrap();
    tokio::spawn(Server::new().lease(shared).serve(listener, |_, _| async {
        Ok(Handlers::new().on_request_response(|request| async { Ok(request) }))
    }));
    let mut answered = Vec::new();
    for _ in 0..3 {
        let peer = leased()
            .connect(MemoryConnector::new(&address))
            .await
            .unwrap();
        let calls = join_all((0..4).map(|_| timeout(ms(100), peer.request_response("x"))));
        answered.push(calls.await.iter().filter(|call| call.is_ok()).count());
    }
    assert_eq!(answered, [2, 1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_ends_its_connection_and_no_other() {
    struct Bomb(bool);
    impl LeasePolicy for Bomb {
        fn decide(&mut self, _: &Load) -> LeaseGrant {
            assert!(!self.0, "boom");
            LeaseGrant::new(1, ms(1_000))
        }
    }
    let made = AtomicUsize::new(0);
    let options =
        LeaseOptions::new().policy(move || Bomb(made.fetch_add(1, Ordering::Relaxed) == 0));
    let address = address();
    let listener = MemoryListener::bind(&address).unwrap();
    tokio::spawn(Server::new().lease(options).serve(listener, |_, _| async {
        Ok(Handlers::new().on_request_response(|request| async { Ok(request) }))
    }));
    let connect = || leased().connect(MemoryConnector::new(&address));
    let unlucky = connect().await.unwrap();
    let reason = unlucky.closed().await;
    assert!(!reason.is_graceful(), "{reason:?}");
    connect()
        .await
        .unwrap()
        .request_response("ping")
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_does_not_wait_for_what_waits_for_a_lease() {
    let never = LeaseOptions::new().policy(|| |_: &Load| LeaseGrant::nothing(ms(1_000)));
    let peer = connected(never, leased()).await;
    let waits = peer.request_response("x");
    let start = Instant::now();
    let (reason, answer) = futures_util::join!(peer.close(), waits);
    // The server has nothing open, and ends the connection when it is told.
    assert!(reason.is_graceful(), "{reason:?}");
    assert!(matches!(answer, Err(Error::Closed(_))));
    assert!(start.elapsed() < ms(1_000));
}

// ----- the adaptive policy -----------------------------------------------------

/// What a server with so many workers did under a load that never ends.
struct Simulated {
    /// Answers in each second of virtual time.
    rates: Vec<usize>,
    /// The longest that a request was in work, by second.
    slowest: Vec<Duration>,
    /// Answers to each client.
    by_client: Vec<usize>,
}

/// A server whose `workers` take `service(second)` for each request, and
/// clients that together keep 200 requests in flight or waiting.
async fn overloaded(
    clients: usize,
    workers: usize,
    seconds: usize,
    service: impl Fn(u64) -> Duration + Send + Sync + 'static,
    policy: LeaseOptions,
) -> Simulated {
    let free = Arc::new(Semaphore::new(workers));
    let service = Arc::new(service);
    let seen: Arc<Mutex<Vec<(Duration, Duration)>>> = Arc::default();
    let start = Instant::now();
    let address = address();
    let listener = MemoryListener::bind(&address).unwrap();
    let seen_by_server = Arc::clone(&seen);
    let make = move || {
        let (free, service) = (Arc::clone(&free), Arc::clone(&service));
        let seen = Arc::clone(&seen_by_server);
        Handlers::new().on_request_response(move |request| {
            let (free, service) = (Arc::clone(&free), Arc::clone(&service));
            let seen = Arc::clone(&seen);
            async move {
                let came = Instant::now();
                let permit = free.acquire().await;
                sleep(service((came - start).as_secs())).await;
                drop(permit);
                seen.lock().unwrap().push((start.elapsed(), came.elapsed()));
                Ok::<Payload, Failure>(request)
            }
        })
    };
    tokio::spawn(Server::new().lease(policy).serve(listener, move |_, _| {
        let handlers = make();
        async move { Ok(handlers) }
    }));
    let mut peers = Vec::new();
    for _ in 0..clients {
        let peer = leased().connect(MemoryConnector::new(&address)).await;
        peers.push(peer.unwrap());
    }
    let done: Vec<_> = peers.iter().map(|_| AtomicUsize::new(0)).collect();
    let callers = (0..200).map(|n| {
        let (peer, done) = (&peers[n % clients], &done[n % clients]);
        async move {
            while start.elapsed() < Duration::from_secs(seconds as u64) {
                peer.request_response("work").await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    join_all(callers).await;
    let mut rates = vec![0; seconds];
    let mut slowest = vec![Duration::ZERO; seconds];
    for (at, took) in seen.lock().unwrap().iter() {
        let second = at.as_secs() as usize;
        if second < seconds {
            rates[second] += 1;
            slowest[second] = slowest[second].max(*took);
        }
    }
    Simulated {
        rates,
        slowest,
        by_client: done.into_iter().map(AtomicUsize::into_inner).collect(),
    }
}

fn adaptive() -> LeaseOptions {
    let limit = Adaptive::new();
    LeaseOptions::new().policy(move || limit.clone())
}

#[tokio::test(start_paused = true)]
async fn adaptive_keeps_an_overloaded_server_busy_and_its_queue_short() {
    // 8 workers at 20 ms: 400 a second, and 200 callers who want more. Without
    // leases each request would be in work for 500 ms.
    let sim = overloaded(1, 8, 20, |_| ms(20), adaptive()).await;
    eprintln!("rates {:?}\nslowest {:?}", sim.rates, sim.slowest);
    let settled = 5..20;
    for second in settled {
        assert!(sim.rates[second] >= 350, "second {second}: {:?}", sim.rates);
        assert!(
            sim.slowest[second] <= ms(100),
            "second {second}: {:?}",
            sim.slowest
        );
    }
}

#[tokio::test(start_paused = true)]
async fn adaptive_follows_a_service_that_becomes_slower_and_faster_again() {
    let service = |second| {
        if (20..50).contains(&second) {
            ms(80)
        } else {
            ms(20)
        }
    };
    let sim = overloaded(1, 8, 80, service, adaptive()).await;
    eprintln!("rates {:?}\nslowest {:?}", sim.rates, sim.slowest);
    let least = |seconds: std::ops::Range<usize>| *sim.rates[seconds].iter().min().unwrap();
    assert!(least(10..20) >= 350, "400 is all there is: {:?}", sim.rates);
    assert!(least(25..50) >= 60, "100 is all there is: {:?}", sim.rates);
    assert!(least(55..80) >= 350, "400 is all there is: {:?}", sim.rates);
    assert!(sim.slowest[25..50].iter().all(|took| *took <= ms(400)));
}

#[tokio::test(start_paused = true)]
async fn adaptive_finds_a_large_capacity() {
    let sim = overloaded(1, 100, 20, |_| ms(20), adaptive()).await;
    eprintln!("rates {:?}\nslowest {:?}", sim.rates, sim.slowest);
    for second in 5..20 {
        assert!(
            sim.rates[second] >= 4_500,
            "5,000 is all there is: {:?}",
            sim.rates
        );
    }
}

#[tokio::test(start_paused = true)]
async fn connections_share_an_adaptive_limit_in_equal_parts() {
    let sim = overloaded(4, 8, 20, |_| ms(20), adaptive()).await;
    eprintln!("rates {:?}", sim.rates);
    eprintln!("slowest {:?}\nby client {:?}", sim.slowest, sim.by_client);
    for second in 5..20 {
        assert!(
            sim.rates[second] >= 350,
            "400 is all there is: {:?}",
            sim.rates
        );
        assert!(sim.slowest[second] <= ms(120), "{:?}", sim.slowest);
    }
    let (least, most) = (sim.by_client.iter().min(), sim.by_client.iter().max());
    assert!(
        least.unwrap() * 5 >= most.unwrap() * 4,
        "{:?}",
        sim.by_client
    );
}
