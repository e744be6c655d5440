//! Payloads that are taken off a stream together.

use std::collections::VecDeque;

use super::{StreamKey, Streams, payload_cost};
use crate::Payload;

/// Payloads taken off a stream together, to be used one by one without asking the
/// session for each.
///
/// They count as not taken until the session is told of their use
/// ([`Session::settle_batch`](super::super::Session::settle_batch)). That is due when
/// it would change anything for the peer: the peer is granted more at the same
/// payload as if each of them had been taken by itself.
#[derive(Debug, Default)]
pub struct Batch {
    payloads: VecDeque<Payload>,
    /// Used since the session was told.
    used: u32,
    /// What those cost.
    used_cost: usize,
    /// So many used are worth telling.
    due: u32,
}

impl Batch {
    /// Payloads used before the session is told of them, at most: what it counts
    /// as held is to be near what is held.
    const MOST_USED: u32 = 32;

    /// Likewise, what they cost.
    const MOST_USED_COST: usize = 64 << 10;

    /// The next payload.
    #[inline]
    pub fn pop(&mut self) -> Option<Payload> {
        self.used_cost += payload_cost(self.payloads.front()?.len());
        self.used += 1;
        self.payloads.pop_front()
    }

    /// Whether the session is to be told, since it has more to give or to grant.
    #[inline]
    pub fn is_due(&self) -> bool {
        let is_enough = self.used >= self.due || self.used_cost >= Self::MOST_USED_COST;
        self.used > 0 && (is_enough || self.payloads.is_empty())
    }
}

impl Streams {
    /// Takes all that arrived into `batch`, if that is empty.
    pub(in crate::proto) fn fill_batch(&mut self, key: StreamKey, batch: &mut Batch) {
        // What is stored is what the application has not used.
        if self.durable || !batch.payloads.is_empty() {
            return;
        }
        let Some(stream) = self.by_key(key) else {
            return;
        };
        std::mem::swap(&mut stream.inbox, &mut batch.payloads);
        let costs = batch.payloads.iter().map(|p| payload_cost(p.len()));
        stream.handed_cost += costs.sum::<usize>();
        batch.due = stream.prefetch.until_refill().min(Batch::MOST_USED);
    }

    /// Counts what was used of `batch` as taken, and takes more if it is empty.
    pub(in crate::proto) fn settle_batch(&mut self, key: StreamKey, batch: &mut Batch) {
        let used = std::mem::take(&mut batch.used);
        let cost = std::mem::take(&mut batch.used_cost);
        let Some(stream) = self.by_key(key) else {
            return;
        };
        // Less, if the batch was given up: it was taken off the sum with that.
        let cost = cost.min(stream.handed_cost);
        stream.handed_cost -= cost;
        if stream.demanded {
            let more = stream.prefetch.on_consumed(used);
            stream.owe(more);
        }
        batch.due = stream.prefetch.until_refill().min(Batch::MOST_USED);
        self.forget(cost);
        self.fill_batch(key, batch);
        self.enqueue(key.slot);
    }

    /// The rest of a batch is not used any more, nor is what else arrives.
    pub(in crate::proto) fn give_up_batch(&mut self, key: StreamKey) {
        if let Some(stream) = self.by_key(key) {
            let cost = std::mem::take(&mut stream.handed_cost);
            self.forget(cost);
        }
    }
}
