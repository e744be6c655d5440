//! What is measured of the peer's requests, so that a policy can decide.

use std::time::{Duration, Instant};

/// How busy one side is with its peer's requests, on one connection: what a
/// policy decides by. Counts are since it was last asked, unless said
/// otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Load {
    /// Time since the policy was last asked; for the first time, since leases
    /// were agreed on.
    pub elapsed: Duration,
    /// Requests of the last grant; 0 before the first.
    pub granted: u32,
    /// Requests taken on.
    pub started: u64,
    /// Requests answered, or ended without an answer: one-way or cancelled.
    pub finished: u64,
    /// Requests refused or dropped because no lease allowed them.
    pub rejected: u64,
    /// Requests without (the first frame of) an answer, now.
    pub in_work: usize,
    /// The part of them that no handler has seen, now: answers to earlier ones
    /// fill the memory meant for them.
    pub waiting: usize,
    /// Streams of the peer that are open, now: those that were answered and go
    /// on too.
    pub open: usize,
    /// How long answers took; `None` if there were none.
    pub latency: Option<Latency>,
}

/// How long answers took, from the arrival of the request to the first frame
/// of its answer. One-way requests have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latency {
    /// How many answers.
    pub samples: u64,
    /// The shortest.
    pub min: Duration,
    /// The mean.
    pub mean: Duration,
    /// The longest.
    pub max: Duration,
}

/// The peer's requests as they come and go.
#[derive(Debug)]
pub(super) struct Work {
    /// By slot: when a request came that has no answer yet.
    begun: Vec<Option<Instant>>,
    in_work: usize,
    asked_at: Instant,
    pub(super) granted: u32,
    /// Finished requests after which a policy wants to be asked.
    pub(super) enough: u64,
    started: u64,
    finished: u64,
    rejected: u64,
    samples: u64,
    sum: Duration,
    min: Duration,
    max: Duration,
}

impl Work {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            begun: Vec::new(),
            in_work: 0,
            asked_at: now,
            granted: 0,
            enough: u64::MAX,
            started: 0,
            finished: 0,
            rejected: 0,
            samples: 0,
            sum: Duration::ZERO,
            min: Duration::MAX,
            max: Duration::ZERO,
        }
    }

    pub(super) fn on_request(&mut self, admitted: bool) {
        if admitted {
            self.started += 1;
        } else {
            self.rejected += 1;
        }
    }

    pub(super) fn begin(&mut self, slot: usize, now: Instant) {
        if self.begun.len() <= slot {
            self.begun.resize(slot + 1, None);
        }
        if let Some(begun) = self.begun.get_mut(slot) {
            *begun = Some(now);
            self.in_work += 1;
        }
    }

    fn end(&mut self, slot: usize) -> Option<Instant> {
        let begun = self.begun.get_mut(slot)?.take()?;
        self.in_work -= 1;
        self.finished += 1;
        Some(begun)
    }

    #[inline]
    pub(super) fn answered(&mut self, slot: usize, now: Instant) {
        if let Some(begun) = self.end(slot) {
            let took = now.saturating_duration_since(begun);
            self.samples += 1;
            self.sum += took;
            self.min = self.min.min(took);
            self.max = self.max.max(took);
        }
    }

    pub(super) fn gone(&mut self, slot: usize) {
        self.end(slot);
    }

    pub(super) fn has_finished_enough(&self) -> bool {
        self.finished >= self.enough
    }

    pub(super) fn take_load(&mut self, now: Instant, waiting: usize, open: usize) -> Load {
        let mean = |samples| self.sum.as_nanos() / u128::from(samples);
        let latency = (self.samples > 0).then(|| Latency {
            samples: self.samples,
            min: self.min,
            mean: Duration::from_nanos_u128(mean(self.samples)),
            max: self.max,
        });
        let load = Load {
            elapsed: now.saturating_duration_since(self.asked_at),
            granted: self.granted,
            started: self.started,
            finished: self.finished,
            rejected: self.rejected,
            in_work: self.in_work,
            waiting,
            open,
            latency,
        };
        let begun = std::mem::take(&mut self.begun);
        *self = Self {
            begun,
            in_work: self.in_work,
            granted: self.granted,
            ..Self::new(now)
        };
        load
    }
}
