//! Requests that wait for a lease; the rules are in `proto::lease`.

use std::{collections::VecDeque, time::Instant};

use super::{Ended, Item, State, Streams};
use crate::{
    error::{CloseReason, Error},
    proto::{Config, lease::Lease},
};

impl Streams {
    #[inline]
    pub(in crate::proto) fn lease(&self) -> Option<&Lease> {
        self.lease.as_deref()
    }

    #[inline]
    pub(in crate::proto) fn lease_mut(&mut self) -> Option<&mut Lease> {
        self.lease.as_deref_mut()
    }

    /// Both sides agreed on leases, if `config` has them.
    pub(in crate::proto) fn use_lease(&mut self, now: Instant, config: &Config) {
        let Some(settings) = &config.lease else {
            return;
        };
        let max_waiting = config.limits.max_waiting_requests;
        self.lease = Some(Box::new(Lease::new(now, settings, max_waiting)));
        // Opened before the client said that it wants leases.
        for slot in std::mem::take(&mut self.queue) {
            let Some(stream) = self.slots.get_mut(slot) else {
                continue;
            };
            if stream.announced {
                self.queue.push_back(slot); // Of a restored session.
                continue;
            }
            stream.queued = false;
            if let Some(request) = stream.outbox.pop_front() {
                let cost = std::mem::take(&mut stream.outbox_cost);
                self.queued.remove(stream.role, cost);
                self.wait_for_lease(slot, request);
            } else {
                self.settle(slot);
            }
        }
    }

    /// Puts the request into the stream's outbox, and the stream behind all
    /// whose requests wait.
    pub(super) fn wait_for_lease(&mut self, slot: usize, request: Item) {
        if let Some(stream) = self.slots.get_mut(slot)
            && let Some(lease) = &mut self.lease
        {
            stream.waits_for_lease = true;
            stream.outbox.push_front(request);
            lease.wait(slot);
        }
    }

    /// The first frame of the request was sent. From now on its cost counts.
    pub(super) fn leave_queue_of_lease(&mut self, slot: usize) {
        if let Some(stream) = self.slots.get_mut(slot)
            && let Some(lease) = &mut self.lease
        {
            stream.waits_for_lease = false;
            let cost = stream.outbox.front().map_or(0, Item::cost);
            stream.outbox_cost += cost;
            self.queued.add(stream.role, cost);
            lease.started();
        }
    }

    /// The stream was given up: its request waits no more, if it did.
    pub(super) fn forget_waiting(&mut self, slot: usize) {
        if let Some(stream) = self.slots.get_mut(slot)
            && std::mem::take(&mut stream.waits_for_lease)
            && let Some(lease) = &mut self.lease
        {
            lease.forget(slot);
        }
    }

    /// Nothing waits for a lease any more.
    pub(super) fn stop_waiting(&mut self) -> VecDeque<usize> {
        let waiting = self.lease.as_mut().map(|lease| lease.take_waiting());
        self.let_go(waiting)
    }

    fn let_go(&mut self, waiting: Option<VecDeque<usize>>) -> VecDeque<usize> {
        let waiting = waiting.unwrap_or_default();
        for slot in &waiting {
            if let Some(stream) = self.slots.get_mut(*slot) {
                stream.waits_for_lease = false;
            }
        }
        waiting
    }

    /// Fails requests that wait for a lease, since none will come: nobody
    /// grants requests on a connection that is to end.
    pub(in crate::proto) fn fail_waiting(&mut self, reason: &CloseReason) {
        let waiting = self.lease.as_mut().map(|lease| lease.take_without_lease());
        for slot in self.let_go(waiting) {
            self.drop_output(slot);
            if let Some(stream) = self.slots.get_mut(slot) {
                stream.state = State::Closed;
            }
            self.end_writer(slot);
            self.end_reader(slot, Ended::Failed(Error::Closed(reason.clone())));
            self.settle(slot);
        }
    }
}
