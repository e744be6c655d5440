//! What was done, and what went wrong, over all connections.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::Serialize;

/// Counters of the whole run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: [AtomicU64; COUNTS],
    faults: Mutex<Vec<String>>,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    Connections,
    Sessions,
    Leased,
    Fragmented,
    Orderly,
    Abrupt,
    Cuts,
    Resumptions,
    FireAndForget,
    RequestResponse,
    RequestStream,
    RequestChannel,
    Cancelled,
    Lost,
    Payloads,
    Bytes,
    Faults,
}

const COUNTS: usize = Count::Faults as usize + 1;

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Counts {
    /// Connections made; of these, with resumption, with leases, in fragments.
    pub(crate) connections: u64,
    pub(crate) sessions: u64,
    pub(crate) leased: u64,
    pub(crate) fragmented: u64,
    /// How they ended.
    pub(crate) orderly: u64,
    pub(crate) abrupt: u64,
    /// Links that were cut, and sessions that went on over another.
    pub(crate) cuts: u64,
    pub(crate) resumptions: u64,
    /// Requests that came to their end, by kind.
    pub(crate) fire_and_forget: u64,
    pub(crate) request_response: u64,
    pub(crate) request_stream: u64,
    pub(crate) request_channel: u64,
    /// Requests that were cancelled, and lost with their connection as was to be
    /// expected.
    pub(crate) cancelled: u64,
    pub(crate) lost: u64,
    /// Payloads that were checked by who received them.
    pub(crate) payloads: u64,
    pub(crate) bytes: u64,
    pub(crate) faults: u64,
}

impl Counts {
    pub(crate) fn requests(&self) -> u64 {
        self.fire_and_forget + self.request_response + self.request_stream + self.request_channel
    }
}

impl Tally {
    /// Faults that are kept in words.
    const KEPT: usize = 20;

    pub(crate) fn add(&self, count: Count, n: u64) {
        if let Some(counter) = self.counts.get(count as usize) {
            counter.fetch_add(n, Relaxed);
        }
    }

    pub(crate) fn one(&self, count: Count) {
        self.add(count, 1);
    }

    /// A payload was checked.
    pub(crate) fn payload(&self, len: usize) {
        self.one(Count::Payloads);
        self.add(Count::Bytes, u64::try_from(len).unwrap_or(u64::MAX));
    }

    /// What must not be.
    pub(crate) fn fault(&self, what: impl Into<String>) {
        self.one(Count::Faults);
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < Self::KEPT {
            faults.push(what.into());
        }
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        self.faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn counts(&self) -> Counts {
        let of = |count: Count| {
            let counter = self.counts.get(count as usize);
            counter.map_or(0, |counter| counter.load(Relaxed))
        };
        Counts {
            connections: of(Count::Connections),
            sessions: of(Count::Sessions),
            leased: of(Count::Leased),
            fragmented: of(Count::Fragmented),
            orderly: of(Count::Orderly),
            abrupt: of(Count::Abrupt),
            cuts: of(Count::Cuts),
            resumptions: of(Count::Resumptions),
            fire_and_forget: of(Count::FireAndForget),
            request_response: of(Count::RequestResponse),
            request_stream: of(Count::RequestStream),
            request_channel: of(Count::RequestChannel),
            cancelled: of(Count::Cancelled),
            lost: of(Count::Lost),
            payloads: of(Count::Payloads),
            bytes: of(Count::Bytes),
            faults: of(Count::Faults),
        }
    }
}
