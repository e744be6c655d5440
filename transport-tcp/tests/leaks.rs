//! What sessions leave behind that were resumed, or not in time: nothing.
//!
//! A process of its own, since descriptors and memory are counted for all of it.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests may fail")]

use std::{alloc::System, time::Duration};

use rsocket_core::{
    Backoff, Client, CloseReason, Handlers, Payload, Requester, Server,
    resume::Resume,
    testkit::{Chaos, ChaosConnector},
};
use rsocket_transport_tcp::{TcpConnector, TcpListener};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::sync::mpsc;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MS: Duration = Duration::from_millis(1);

/// Sessions, or resumptions of one.
const TIMES: usize = 200;

/// What there is of each kind.
#[derive(Clone, Copy, Debug)]
struct Held {
    tasks: usize,
    descriptors: usize,
    bytes: usize,
}

impl Held {
    fn now() -> Self {
        let stats = ALLOCATOR.stats();
        let runtime = tokio::runtime::Handle::current();
        Self {
            tasks: runtime.metrics().num_alive_tasks(),
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            bytes: stats.bytes_allocated - stats.bytes_deallocated,
        }
    }

    /// Waits until tasks and descriptors are as they were.
    async fn settle(before: Self) -> Self {
        for _ in 0..1_000 {
            let now = Self::now();
            if now.tasks <= before.tasks && now.descriptors <= before.descriptors {
                return now;
            }
            tokio::time::sleep(5 * MS).await;
        }
        panic!("{:?} were {before:?}", Self::now());
    }
}

async fn serve(timeout: Duration) -> (TcpConnector, mpsc::UnboundedReceiver<Requester>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connector = TcpConnector::new(listener.local_addr());
    let (tell, clients) = mpsc::unbounded_channel();
    let server = Server::new().resume(Resume::new().session_timeout(timeout));
    tokio::spawn(server.serve(listener, move |_, client| {
        let _ = tell.send(client);
        async { Ok(Handlers::new().on_request_response(|request| async { Ok(request) })) }
    }));
    (connector, clients)
}

async fn connect(connector: ChaosConnector<TcpConnector>, timeout: Duration) -> Requester {
    let resume = Resume::new().session_timeout(timeout);
    let client = Client::new().resume(resume.backoff(Backoff::new(MS, MS)));
    client.connect(connector).await.unwrap()
}

async fn talk(client: &Requester) {
    let payload = Payload::new(vec![7; 5_000]);
    let answer = client.request_response(payload.clone()).await.unwrap();
    assert_eq!(answer, payload);
}

async fn a_session_is_resumed_again_and_again() {
    let (connector, mut clients) = serve(Duration::from_secs(60)).await;
    let idle = Held::now();
    let chaos = Chaos::new(1);
    let client = connect(chaos.connector(connector), Duration::from_secs(60)).await;
    let served = clients.recv().await.unwrap();
    let mut warm = None;
    for n in 0..TIMES + 20 {
        talk(&client).await;
        if n == 20 {
            warm = Some(Held::now());
        }
        chaos.cut_all();
        // So that each cut is noticed before the next.
        while client.stats().resumptions <= n as u64 {
            talk(&client).await;
        }
    }
    talk(&client).await;
    let warm = warm.unwrap();
    let after = Held::settle(warm).await;
    println!("{TIMES} resumptions: {warm:?}, then {after:?}");
    // A log and buffers of some frames may be longer now than then.
    assert!(after.bytes < warm.bytes + 64 * 1024);
    assert!(served.stats().resumptions >= TIMES as u64);
    assert!(client.close().await.is_graceful());
    served.closed().await;
    drop((client, served));
    let after = Held::settle(idle).await;
    assert!(after.bytes < idle.bytes + 64 * 1024, "{idle:?}, {after:?}");
}

async fn sessions_are_not_resumed_in_time() {
    let timeout = 30 * MS;
    let (connector, mut clients) = serve(timeout).await;
    let mut warm = None;
    for n in 0..TIMES + 20 {
        if n == 20 {
            warm = Some(Held::now());
        }
        let chaos = Chaos::new(n as u64).cut_after(40..=60);
        let client = connect(chaos.connector(connector.clone()), timeout).await;
        let served = clients.recv().await.unwrap();
        talk(&client).await;
        // The client's process dies, the server's side of it waits.
        let waits = tokio::spawn(async move {
            let reason = served.closed().await;
            assert!(matches!(reason, CloseReason::NotResumed { .. }), "{reason}");
            let error = served.request_response("x").await.unwrap_err();
            drop(error);
        });
        chaos.cut_all();
        client.abort();
        drop(client);
        if n % 20 == 19 {
            waits.await.unwrap();
        }
    }
    let warm = warm.unwrap();
    let after = Held::settle(warm).await;
    println!("{TIMES} sessions that timed out: {warm:?}, then {after:?}");
    assert!(after.bytes < warm.bytes + 64 * 1024);
}

// [C296]
#[test]
fn sessions_leave_nothing_behind() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    runtime().block_on(a_session_is_resumed_again_and_again());
    runtime().block_on(sessions_are_not_resumed_in_time());
}
