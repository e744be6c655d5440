//! How a client asks, and how it counts.
//!
//! Counting must not cost what it measures. Each task counts in a word of its
//! own, which it stores without a read-modify-write; latencies are taken of one
//! request in [`SAMPLED`] as soon as more than one is in flight, for every stack
//! alike.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;

use crate::plan::Load;

/// One request in so many is timed when several are in flight: two clock reads
/// (about 50 ns) for each would be a fifth of what a request costs.
pub const SAMPLED: u64 = 16;

/// Payloads in one stream. Long enough that the round trip between two streams
/// is less than 1 % of it, short enough that a peer without backpressure holds
/// no more than 50 MB of them.
pub const STREAM_LENGTH: u32 = 50_000;

/// A client of one connection, as the loads need it.
pub trait Caller: Clone + Send + Sync + 'static {
    /// Sends `request`, and yields the length of the answer's data in bytes.
    fn call(&self, request: Bytes) -> impl Future<Output = Result<usize>> + Send;

    /// Asks for a stream, and hands the length of each payload to `each`.
    fn stream(
        &self,
        ask: Ask,
        each: impl FnMut(usize) + Send,
    ) -> impl Future<Output = Result<()>> + Send;
}

/// What a client wants of a stream; it travels as the request's data.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// How many payloads.
    pub items: u32,
    /// How long each is, in bytes.
    pub bytes: u32,
}

impl Ask {
    /// Its eight bytes.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let mut wire = [0; 8];
        wire[..4].copy_from_slice(&self.items.to_be_bytes());
        wire[4..].copy_from_slice(&self.bytes.to_be_bytes());
        Bytes::copy_from_slice(&wire)
    }

    /// Reads them back; `None` when there are not eight.
    #[must_use]
    pub fn decode(wire: &[u8]) -> Option<Self> {
        let wire: [u8; 8] = wire.try_into().ok()?;
        let [a, b, c, d, e, f, g, h] = wire;
        Some(Self {
            items: u32::from_be_bytes([a, b, c, d]),
            bytes: u32::from_be_bytes([e, f, g, h]),
        })
    }

    /// One of the payloads that it asks for.
    #[must_use]
    pub fn payload(self) -> Bytes {
        vec![b'x'; self.bytes as usize].into()
    }
}

/// What one task has done so far, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Tally {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// Counts what all tasks of a client do.
#[derive(Debug)]
pub struct Meter {
    tallies: Box<[Tally]>,
    latencies: Mutex<Histogram<u64>>,
}

impl Meter {
    /// A meter for `tasks` tasks.
    ///
    /// # Panics
    ///
    /// Never: the bounds of its histogram are fixed and valid.
    #[must_use]
    pub fn new(tasks: usize) -> Arc<Self> {
        let latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        Arc::new(Self {
            tallies: (0..tasks).map(|_| Tally::default()).collect(),
            latencies: Mutex::new(latencies),
        })
    }

    /// Requests and bytes up to this moment.
    #[must_use]
    pub fn total(&self) -> (u64, u64) {
        self.tallies
            .iter()
            .fold((0, 0), |(requests, bytes), tally| {
                // Relaxed: a count that is one behind is no error here.
                (
                    requests + tally.requests.load(Ordering::Relaxed),
                    bytes + tally.bytes.load(Ordering::Relaxed),
                )
            })
    }

    /// Forgets the latencies so far.
    pub fn forget(&self) {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .reset();
    }

    /// Median and 99th percentile, in nanoseconds, unless nothing was timed.
    #[must_use]
    pub fn percentiles(&self) -> Option<(f64, f64)> {
        let latencies = self
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (!latencies.is_empty()).then(|| {
            let at = |quantile| latencies.value_at_quantile(quantile) as f64;
            (at(0.5), at(0.99))
        })
    }
}

/// One task's part of a [`Meter`]. No two tasks may use the same part.
#[derive(Debug)]
pub struct Counter {
    meter: Arc<Meter>,
    part: usize,
    requests: u64,
    bytes: u64,
}

impl Counter {
    /// The counter of task number `part`, from 0.
    #[must_use]
    pub const fn new(meter: Arc<Meter>, part: usize) -> Self {
        Self {
            meter,
            part,
            requests: 0,
            bytes: 0,
        }
    }

    /// Counts `requests` that together carried `bytes`.
    #[inline]
    pub fn add(&mut self, requests: u64, bytes: u64) {
        self.requests += requests;
        self.bytes += bytes;
        let tally = &self.meter.tallies[self.part];
        // Relaxed stores of the only writer: an atomic add would cost 6 ns.
        tally.requests.store(self.requests, Ordering::Relaxed);
        tally.bytes.store(self.bytes, Ordering::Relaxed);
    }

    /// Records that `requests` took `latency` each.
    #[inline]
    pub fn time(&self, latency: Duration, requests: u64) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let mut latencies = self
            .meter
            .latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        latencies.saturating_record_n(nanos, requests);
    }
}

/// How many tasks `load` starts, each with a [`Counter`].
#[must_use]
pub const fn tasks(load: Load) -> usize {
    match load {
        Load::Tasks { in_flight, .. } | Load::InProcess { in_flight, .. } => in_flight,
        Load::Window { .. } | Load::InOrder { .. } | Load::Stream { .. } | Load::Bulk { .. } => 1,
    }
}

/// Puts `load` on `caller` until something fails.
///
/// # Errors
///
/// The first failure of any request; an answer of the wrong length is one.
/// [`Load::Bulk`], which has no requests, is refused.
pub async fn drive<C: Caller>(caller: C, load: Load, meter: Arc<Meter>) -> Result<()> {
    match load {
        Load::Tasks { in_flight, bytes } | Load::InProcess { in_flight, bytes } => {
            let body = Bytes::from(vec![b'q'; bytes]);
            let sampled = if in_flight == 1 { 1 } else { SAMPLED };
            let mut running: FuturesUnordered<_> = (0..in_flight)
                .map(|part| {
                    let counter = Counter::new(Arc::clone(&meter), part);
                    tokio::spawn(one_by_one(caller.clone(), body.clone(), sampled, counter))
                })
                .collect();
            // None of them ever ends well, so the first that ends is the failure.
            match running.next().await {
                Some(ended) => ended?,
                None => Ok(()),
            }
        }
        Load::Window { in_flight, bytes } => {
            let body = Bytes::from(vec![b'q'; bytes]);
            tokio::spawn(window(caller, body, in_flight, Counter::new(meter, 0))).await?
        }
        Load::InOrder { in_flight, bytes } => {
            let body = Bytes::from(vec![b'q'; bytes]);
            tokio::spawn(in_order(caller, body, in_flight, Counter::new(meter, 0))).await?
        }
        Load::Stream { bytes, .. } => {
            let ask = Ask {
                items: STREAM_LENGTH,
                bytes: u32::try_from(bytes)?,
            };
            tokio::spawn(streams(caller, ask, Counter::new(meter, 0))).await?
        }
        Load::Bulk { .. } => bail!("only bare TCP has {load:?}"),
    }
}

async fn one_by_one<C: Caller>(
    caller: C,
    body: Bytes,
    sampled: u64,
    mut counter: Counter,
) -> Result<()> {
    let bytes = body.len();
    loop {
        for _ in 1..sampled {
            let answer = caller.call(body.clone()).await?;
            ensure!(answer == bytes, "sent {bytes} bytes, got {answer} back");
            counter.add(1, bytes as u64);
        }
        let sent = Instant::now();
        let answer = caller.call(body.clone()).await?;
        counter.time(sent.elapsed(), 1);
        ensure!(answer == bytes, "sent {bytes} bytes, got {answer} back");
        counter.add(1, bytes as u64);
    }
}

async fn window<C: Caller>(
    caller: C,
    body: Bytes,
    in_flight: usize,
    mut counter: Counter,
) -> Result<()> {
    let bytes = body.len();
    let mut sent = 0;
    let mut call = || {
        sent += 1;
        let from = (sent % SAMPLED == 0).then(Instant::now);
        let answer = caller.call(body.clone());
        async move { (answer.await, from) }
    };
    let mut calls: FuturesUnordered<_> = (0..in_flight).map(|_| call()).collect();
    while let Some((answer, from)) = calls.next().await {
        let answer = answer?;
        if let Some(from) = from {
            counter.time(from.elapsed(), 1);
        }
        ensure!(answer == bytes, "sent {bytes} bytes, got {answer} back");
        counter.add(1, bytes as u64);
        calls.push(call());
    }
    Ok(())
}

async fn in_order<C: Caller>(
    caller: C,
    body: Bytes,
    in_flight: usize,
    mut counter: Counter,
) -> Result<()> {
    let bytes = body.len();
    let mut sent = 0;
    let mut call = || {
        sent += 1;
        let from = (sent % SAMPLED == 0).then(Instant::now);
        let answer = caller.call(body.clone());
        async move { (answer.await, from) }
    };
    // A ring of places, each used again for the request that follows.
    let mut calls: Vec<_> = (0..in_flight).map(|_| Box::pin(call())).collect();
    loop {
        for place in &mut calls {
            let (answer, from) = place.as_mut().await;
            let answer = answer?;
            if let Some(from) = from {
                counter.time(from.elapsed(), 1);
            }
            ensure!(answer == bytes, "sent {bytes} bytes, got {answer} back");
            counter.add(1, bytes as u64);
            place.as_mut().set(call());
        }
    }
}

async fn streams<C: Caller>(caller: C, ask: Ask, mut counter: Counter) -> Result<()> {
    loop {
        let mut items = 0;
        let mut wrong = None;
        let each = |length: usize| {
            items += 1;
            if length != ask.bytes as usize {
                wrong = Some(length);
            }
            counter.add(1, length as u64);
        };
        caller.stream(ask, each).await?;
        ensure!(
            wrong.is_none(),
            "asked for {} bytes, got {wrong:?}",
            ask.bytes
        );
        ensure!(
            items == ask.items,
            "asked for {} payloads, got {items}",
            ask.items
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ask_is_read_as_it_was_written() {
        let ask = Ask {
            items: 50_000,
            bytes: 1024,
        };

        let back = Ask::decode(&ask.encode()).map(|ask| (ask.items, ask.bytes));

        assert_eq!(back, Some((50_000, 1024)));
        assert!(Ask::decode(b"seven b").is_none());
    }

    #[test]
    fn a_meter_adds_up_what_its_counters_count() {
        let meter = Meter::new(2);
        let mut counters = [0, 1].map(|part| Counter::new(Arc::clone(&meter), part));
        counters[0].add(1, 32);
        counters[1].add(2, 64);
        counters[1].add(3, 96);

        assert_eq!(meter.total(), (6, 192));
        assert_eq!(meter.percentiles(), None);

        counters[0].time(Duration::from_micros(10), 99);
        counters[0].time(Duration::from_millis(1), 1);
        let (p50, p99) = meter.percentiles().expect("something was timed");
        assert!((9_990.0..10_020.0).contains(&p50), "p50 {p50}");
        assert!((9_990.0..10_020.0).contains(&p99), "p99 {p99}");

        meter.forget();
        assert_eq!(meter.percentiles(), None);
    }
}
