//! The requests that a peer answers, and the counters behind `stats`.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Error, Result};
use rsocket_rust::error::RSocketError;
use rsocket_rust::prelude::*;
use rsocket_rust::{Client, async_trait, stream};

/// `n` bytes, byte i = i mod 251.
pub(crate) fn pattern(n: usize) -> Vec<u8> {
    (0..=250u8).cycle().take(n).collect()
}

static FNF: AtomicU64 = AtomicU64::new(0);
static PUSH: AtomicU64 = AtomicU64::new(0);
static CANCEL: AtomicU64 = AtomicU64::new(0);
static ACTIVE: AtomicI64 = AtomicI64::new(0);
static MAXOUT: AtomicI64 = AtomicI64::new(0);

fn stats() -> String {
    format!(
        "fnf={} cancel={} push={} maxout={} active={}",
        FNF.load(SeqCst),
        CANCEL.load(SeqCst),
        PUSH.load(SeqCst),
        MAXOUT.load(SeqCst),
        ACTIVE.load(SeqCst)
    )
}

/// One request in work. Dropped without `finish` it counts as cancelled.
struct Work {
    finished: bool,
}

impl Work {
    fn begin() -> Self {
        let now = ACTIVE.fetch_add(1, SeqCst) + 1;
        MAXOUT.fetch_max(now, SeqCst);
        Self { finished: false }
    }

    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        ACTIVE.fetch_sub(1, SeqCst);
        if !self.finished {
            CANCEL.fetch_add(1, SeqCst);
        }
    }
}

/// What the library sends as ERROR[APPLICATION_ERROR] with exactly this message.
pub(crate) fn failure(message: &str) -> Error {
    RSocketError::WithDescription(message.to_owned()).into()
}

fn text(payload: &Payload) -> String {
    payload
        .data()
        .map(|data| String::from_utf8_lossy(data).into_owned())
        .unwrap_or_default()
}

fn answer(data: impl Into<Vec<u8>>) -> Payload {
    Payload::builder().set_data(data).build()
}

/// The requester of a connection, for `callme`. A client's exists only after its
/// responder does, and goes away when the client closes.
pub(crate) type ClientSlot = Arc<Mutex<Option<Client>>>;

enum Requester {
    Server(Box<dyn RSocket>),
    Client(ClientSlot),
}

pub(crate) struct Service {
    peer: Requester,
}

impl Service {
    pub(crate) fn of_server(peer: Box<dyn RSocket>) -> Self {
        Self {
            peer: Requester::Server(peer),
        }
    }

    pub(crate) fn of_client(slot: ClientSlot) -> Self {
        Self {
            peer: Requester::Client(slot),
        }
    }

    async fn call(&self, request: Payload) -> Result<Option<Payload>> {
        match &self.peer {
            Requester::Server(peer) => peer.request_response(request).await,
            Requester::Client(slot) => {
                let client = slot.lock().ok().and_then(|slot| slot.clone());
                match client {
                    Some(client) => client.request_response(request).await,
                    None => Err(failure("not connected")),
                }
            }
        }
    }
}

/// The library keeps everything that a stream yields in an unbounded queue and does
/// not read request-n: a stream that never ends takes this pause after each turn.
const PAUSE: Duration = Duration::from_millis(1);
const TURN: u64 = 32;

struct Plan {
    count: Option<u64>,
    size: Option<usize>,
    failure: Option<&'static str>,
}

impl Plan {
    fn of(request: &str) -> Self {
        let finite = |count, size, failure| Self {
            count: Some(count),
            size,
            failure,
        };
        let (name, argument) = request.split_once(':').unwrap_or((request, ""));
        let number = argument.parse::<u64>().ok();
        match (name, number) {
            ("range", Some(n)) => finite(n, None, None),
            ("fail", Some(n)) => finite(n, None, Some("boom")),
            ("bigitems", None) => {
                let parts = argument.split_once(':');
                let sizes = parts.and_then(|(n, size)| Some((n.parse().ok()?, size.parse().ok()?)));
                match sizes {
                    Some((n, size)) => finite(n, Some(size), None),
                    None => finite(0, None, Some("unknown")),
                }
            }
            ("infinite", _) if argument.is_empty() => Self {
                count: None,
                size: None,
                failure: None,
            },
            ("empty", _) if argument.is_empty() => finite(0, None, None),
            _ => finite(0, None, Some("unknown")),
        }
    }
}

#[async_trait]
impl RSocket for Service {
    async fn metadata_push(&self, _req: Payload) -> Result<()> {
        PUSH.fetch_add(1, SeqCst);
        Ok(())
    }

    async fn fire_and_forget(&self, _req: Payload) -> Result<()> {
        FNF.fetch_add(1, SeqCst);
        Ok(())
    }

    async fn request_response(&self, req: Payload) -> Result<Option<Payload>> {
        let request = text(&req);
        if request == "stats" {
            return Ok(Some(answer(stats())));
        }
        let work = Work::begin();
        let result = match request.split_once(':') {
            _ if request == "never" => std::future::pending().await,
            Some(("echo", _)) => Ok(Some(req)),
            Some(("error", message)) => Err(failure(message)),
            Some(("big", n)) => match n.parse() {
                Ok(n) => Ok(Some(answer(pattern(n)))),
                Err(_) => Err(failure("unknown")),
            },
            Some(("len", _)) => {
                let length = req.data().map_or(0, |data| data.len());
                Ok(Some(answer(length.to_string())))
            }
            Some(("callme", text)) => self.call(answer(format!("echo:{text}"))).await,
            _ => Err(failure("unknown")),
        };
        work.finish();
        result
    }

    fn request_stream(&self, req: Payload) -> Flux<Result<Payload>> {
        let plan = Plan::of(&text(&req));
        Box::pin(stream! {
            let work = Work::begin();
            let item = plan.size.map(pattern);
            let mut i = 0;
            while plan.count.is_none_or(|count| i < count) {
                yield Ok(match &item {
                    Some(bytes) => answer(bytes.clone()),
                    None => answer(i.to_string()),
                });
                i += 1;
                if i % TURN == 0 {
                    match plan.count {
                        Some(_) => tokio::task::yield_now().await,
                        None => tokio::time::sleep(PAUSE).await,
                    }
                }
            }
            work.finish();
            if let Some(message) = plan.failure {
                yield Err(failure(message));
            }
        })
    }

    fn request_channel(&self, mut reqs: Flux<Result<Payload>>) -> Flux<Result<Payload>> {
        Box::pin(stream! {
            let Some(Ok(first)) = reqs.next().await else { return };
            let work = Work::begin();
            let command = text(&first);
            let stop = command.strip_prefix("stop:").and_then(|n| n.parse::<u64>().ok());
            if command == "sum" {
                let mut total = 0i128;
                while let Some(Ok(next)) = reqs.next().await {
                    let Ok(number) = text(&next).parse::<i64>() else {
                        work.finish();
                        yield Err(failure("not a number"));
                        return;
                    };
                    total += i128::from(number);
                    yield Ok(answer(total.to_string()));
                }
            } else if command == "echo" {
                yield Ok(first);
                while let Some(Ok(next)) = reqs.next().await {
                    yield Ok(next);
                }
            } else if let Some(mut left) = stop {
                let mut next = Some(Ok(first));
                while left > 0 {
                    let Some(Ok(payload)) = next.take() else { break };
                    left -= 1;
                    yield Ok(payload);
                    if left > 0 {
                        next = reqs.next().await;
                    }
                }
            } else {
                work.finish();
                yield Err(failure("unknown"));
                return;
            }
            work.finish();
        })
    }
}
