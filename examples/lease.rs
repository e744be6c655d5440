//! Leases: a server that can do only so much, and two clients who want more.
//!
//! ```text
//! cargo run --release --example lease
//! cargo run --release --example lease -- --policy fixed
//! cargo run --release --example lease -- --policy none
//! ```
//!
//! The patient client lets requests wait for a lease; the hurried one would
//! rather be told at once that there is none. Compare the policies: the fixed
//! rate has to be known beforehand, the adaptive one finds it, and without any
//! all that the clients send queues at the server.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use clap::{Parser, ValueEnum};
use futures_util::future::join_all;
use rsocket_core::{
    Adaptive, Client, Error, FixedRate, Handlers, LeaseGrant, LeaseOptions, LeasePolicy, Load,
    Payload, Requester, Server, proto::Limits,
};
use tokio::{sync::Semaphore, time::sleep};

/// Shows how leases keep a server from being overloaded.
#[derive(Parser)]
struct Args {
    /// Who decides how many requests the clients may send.
    #[arg(long, default_value = "adaptive")]
    policy: Policy,

    /// How long to run, in seconds.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Policy {
    /// Finds out by itself what the server can do.
    Adaptive,
    /// Each client gets 20 requests in each 200 ms: half of what there is.
    Fixed,
    /// No leases.
    None,
}

/// What the server is made of.
const WORKERS: usize = 4;
const WORK: Duration = Duration::from_millis(20);

/// What a policy granted to one client.
#[derive(Default)]
struct Granted {
    requests: AtomicU64,
}

/// Any policy, watched: policies can be wrapped.
struct Watched {
    policy: Box<dyn LeasePolicy>,
    granted: Arc<Granted>,
}

impl LeasePolicy for Watched {
    fn decide(&mut self, load: &Load) -> LeaseGrant {
        let grant = self.policy.decide(load);
        self.granted
            .requests
            .fetch_add(grant.requests.into(), Relaxed);
        grant
    }
}

/// The grants of all connections, in the order in which they were made.
type AllGranted = Arc<Mutex<Vec<Arc<Granted>>>>;

fn leases(policy: Policy, all: &AllGranted) -> LeaseOptions {
    let all = Arc::clone(all);
    // One limit for all connections.
    let adaptive = Adaptive::new();
    LeaseOptions::new().policy(move || {
        let granted = Arc::<Granted>::default();
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&granted));
        let policy: Box<dyn LeasePolicy> = match policy {
            Policy::Fixed => Box::new(FixedRate::new(20, Duration::from_millis(200))),
            Policy::Adaptive | Policy::None => Box::new(adaptive.clone()),
        };
        Watched { policy, granted }
    })
}

/// What became of one client's requests.
#[derive(Default)]
struct Outcome {
    sent: AtomicU64,
    answered: AtomicU64,
    /// Not sent for want of a lease.
    given_up: AtomicU64,
    /// Sent, and refused by the server.
    rejected: AtomicU64,
    /// Of those that were answered, waiting for a lease included.
    took_ms: Mutex<Vec<u64>>,
}

/// One of many who ask, one request after the other.
async fn ask(peer: &Requester, outcome: &Outcome, until: Instant) {
    while Instant::now() < until {
        let asked = Instant::now();
        match peer.request_response("work").await {
            Ok(answer) => {
                outcome.sent.fetch_add(1, Relaxed);
                outcome.answered.fetch_add(1, Relaxed);
                let _in_work = answer;
                let millis = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
                let mut took = outcome
                    .took_ms
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                took.push(millis);
            }
            Err(Error::NoLease { .. }) => {
                outcome.given_up.fetch_add(1, Relaxed);
                // There is nothing to do here: ask another server, or later.
                sleep(Duration::from_millis(5)).await;
            }
            Err(_) => {
                outcome.sent.fetch_add(1, Relaxed);
                outcome.rejected.fetch_add(1, Relaxed);
            }
        }
    }
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or(0)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let with_leases = args.policy != Policy::None;

    let all_granted = AllGranted::default();
    let mut server = Server::new();
    if with_leases {
        server = server.lease(leases(args.policy, &all_granted));
    }
    let listener = examples::transports().listener("tcp://127.0.0.1:0").await?;
    let url = listener.url();
    let workers = Arc::new(Semaphore::new(WORKERS));
    // How long requests are at the server, queue and all.
    let at_server: Arc<Mutex<Vec<u64>>> = Arc::default();
    let seen = Arc::clone(&at_server);
    tokio::spawn(server.serve(listener, move |_setup, _client| {
        let (workers, seen) = (Arc::clone(&workers), Arc::clone(&seen));
        async move {
            Ok(Handlers::new().on_request_response(move |request| {
                let (workers, seen) = (Arc::clone(&workers), Arc::clone(&seen));
                async move {
                    let came = Instant::now();
                    let worker = workers.acquire().await;
                    sleep(WORK).await;
                    drop(worker);
                    let millis = u64::try_from(came.elapsed().as_millis()).unwrap_or(u64::MAX);
                    seen.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(millis);
                    Ok::<Payload, _>(request)
                }
            }))
        }
    }));

    let connect = |waiting: usize| {
        let mut limits = Limits::default();
        limits.max_waiting_requests = waiting;
        let mut client = Client::new().limits(limits);
        if with_leases {
            let leases = LeaseOptions::new().first_lease_within(Duration::from_secs(5));
            client = client.lease(leases);
        }
        let connector = examples::transports().connector(&url);
        async move { Ok::<_, Box<dyn std::error::Error>>(client.connect(connector?).await?) }
    };
    let patient = connect(256).await?;
    // One after the other, so that the server's policies are in this order.
    patient.request_response("hello").await?;
    let hurried = connect(0).await?;
    let outcomes = [Outcome::default(), Outcome::default()];

    let until = Instant::now() + Duration::from_secs(args.seconds);
    let [of_patient, of_hurried] = &outcomes;
    let callers = (0..40).map(|_| ask(&patient, of_patient, until));
    let others = (0..40).map(|_| ask(&hurried, of_hurried, until));
    tokio::join!(join_all(callers), join_all(others));

    println!(
        "{WORKERS} workers at {} ms: {} requests a second; 2 clients of 40 callers; {} s",
        WORK.as_millis(),
        1_000 * WORKERS as u128 / WORK.as_millis(),
        args.seconds
    );
    println!(
        "{:<8} {:>7} {:>8} {:>6} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "client",
        "leases",
        "granted",
        "sent",
        "answered",
        "given up",
        "rejected",
        "p50 ms",
        "p99 ms"
    );
    let granted = all_granted.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = [("patient", &patient), ("hurried", &hurried)];
    for (n, ((name, peer), outcome)) in rows.iter().zip(&outcomes).enumerate() {
        let requests = granted.get(n).map_or_else(
            || "-".to_owned(),
            |granted| granted.requests.load(Relaxed).to_string(),
        );
        let mut took = outcome
            .took_ms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        took.sort_unstable();
        println!(
            "{name:<8} {:>7} {requests:>8} {:>6} {:>9} {:>9} {:>9} {:>8} {:>8}",
            peer.stats().leases_received,
            outcome.sent.load(Relaxed),
            outcome.answered.load(Relaxed),
            outcome.given_up.load(Relaxed),
            outcome.rejected.load(Relaxed),
            percentile(&took, 50),
            percentile(&took, 99),
        );
    }
    let mut at_server = at_server.lock().unwrap_or_else(PoisonError::into_inner);
    at_server.sort_unstable();
    println!(
        "at the server each request took {} ms (p50), {} ms (p99)",
        percentile(&at_server, 50),
        percentile(&at_server, 99)
    );
    Ok(())
}
