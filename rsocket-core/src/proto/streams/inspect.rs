//! What tests see of the streams' books.

use std::collections::HashSet;

use super::{Streams, payload_cost};
use crate::{frame::Interaction, proto::Role};

impl Streams {
    pub(in crate::proto) fn buffered(&self) -> usize {
        self.buffered
    }

    pub(in crate::proto) fn queued_len(&self) -> usize {
        self.queued.len
    }

    pub(in crate::proto) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Sets which of this side's ids is next.
    pub(in crate::proto) fn skip_ids_to(&mut self, next: u32) {
        self.ids.skip_to(next);
    }

    /// Counts everything again, and compares with the running sums.
    ///
    /// `waiting` is what payloads cost that wait in events.
    pub(in crate::proto) fn assert_consistent(&self, waiting: usize, closed: bool) {
        let live = || self.slots.iter().enumerate().filter(|(_, s)| s.live);
        let of = |role| live().filter(move |(_, stream)| stream.role == role);
        let queued = |role| -> usize { of(role).map(|(_, stream)| stream.outbox_cost).sum() };
        let answers = queued(Role::Responder);
        assert_eq!(self.queued.answers, answers, "bytes of answers");
        assert_eq!(self.queued.len, answers + queued(Role::Requester));
        for (slot, stream) in self.slots.iter().enumerate() {
            let mut left = stream.outbox_cost;
            for item in &stream.outbox {
                left = left.saturating_sub(item.cost());
            }
            assert_eq!(left, 0, "slot {slot} pays for more than its outbox holds");
            assert!(
                stream.live || (stream.outbox.is_empty() && stream.inbox.is_empty()),
                "slot {slot} is free and holds payloads"
            );
        }

        let inboxes: usize = live()
            .flat_map(|(_, stream)| &stream.inbox)
            .map(|payload| payload_cost(payload.len()))
            .sum();
        let handed: usize = live().map(|(_, stream)| stream.handed_cost).sum();
        let joins: usize = live()
            .filter_map(|(_, stream)| stream.join.as_ref())
            .map(|joining| joining.join.len())
            .sum();
        assert_eq!(
            self.buffered,
            inboxes + handed + joins + waiting,
            "bytes buffered"
        );

        assert_eq!(self.local.len(), of(Role::Requester).count());
        assert_eq!(self.remote.len(), of(Role::Responder).count());
        let one_way = of(Role::Responder)
            .filter(|(_, stream)| stream.interaction == Interaction::FireAndForget);
        assert_eq!(self.one_way, one_way.count(), "one-way requests in work");

        for (slot, stream) in live() {
            assert_eq!(self.find_any(stream.id), Some(slot));
            assert!(
                closed || stream.queued || stream.waits_for_lease || !stream.has_output(),
                "slot {slot} has output and stands in no queue"
            );
            assert!(
                stream.handles > 0
                    || stream.has_output()
                    || stream.queued
                    || !stream.state.is_closed(),
                "slot {slot} is over and was not freed"
            );
        }
        let queued: HashSet<usize> = self.queue.iter().copied().collect();
        assert_eq!(queued.len(), self.queue.len(), "a slot is queued twice");
        for (slot, stream) in self.slots.iter().enumerate() {
            assert_eq!(stream.queued, queued.contains(&slot), "queue and flag");
        }
        let free: HashSet<usize> = self.free.iter().copied().collect();
        assert_eq!(free.len(), self.free.len(), "a slot is free twice");
        assert_eq!(free.len() + live().count(), self.slots.len());
        let crowded: HashSet<usize> = self.crowded.iter().copied().collect();
        assert_eq!(crowded.len(), self.crowded.len(), "a slot waits twice");
        for (slot, stream) in self.slots.iter().enumerate() {
            assert_eq!(stream.crowded, crowded.contains(&slot), "list and flag");
        }
        let waiting = self.lease.as_ref();
        let waiting: Vec<usize> = waiting.map_or(vec![], |lease| lease.waiting().collect());
        let set: HashSet<usize> = waiting.iter().copied().collect();
        assert_eq!(set.len(), waiting.len(), "a request waits twice");
        for (slot, stream) in self.slots.iter().enumerate() {
            let waits = stream.waits_for_lease && stream.live;
            assert_eq!(waits, set.contains(&slot), "lease queue and flag");
            assert!(!waits || !stream.queued, "slot {slot} stands in two queues");
            assert!(
                !waits || !stream.announced,
                "slot {slot} waits and was sent"
            );
        }
    }
}
