//! Losing a server and finding it again: what becomes of requests, of those who
//! wait, and of the tasks.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    missing_docs,
    reason = "tests may fail, and need no docs"
)]

#[path = "../common/mod.rs"]
mod common;

mod attempts;
mod endings;
mod requests;
mod waiting;

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
    sync::{Notify, oneshot},
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
    within(async {
        loop {
            let state = states.next().await.expect("not closed");
            if is_it(&state) {
                return state;
            }
        }
    })
    .await
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
