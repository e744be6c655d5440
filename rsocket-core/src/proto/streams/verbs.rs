//! What the application wants of streams.

use std::task::Poll;

use super::{
    Capacity, DemandPolicy, Ended, Item, Open, Prefetch, Role, StreamEvent, StreamKey, Streams,
    Take, WriterWaits, fixed_len, payload_cost,
};
use crate::{
    Payload,
    error::{Error, Failure},
    frame::{Demand, HEADER_LEN, Interaction},
    proto::Config,
};

impl Streams {
    /// Opens a stream; its request goes out in the order of its id \[C045].
    pub(in crate::proto) fn open(
        &mut self,
        open: Open,
        max_frame_len: usize,
        config: &Config,
    ) -> Result<StreamKey, Error> {
        let (key, request) = self.begin(open, max_frame_len, config)?;
        if self.lease.is_some() {
            self.wait_for_lease(key.slot, request);
        } else {
            self.push(key.slot, request);
        }
        Ok(key)
    }

    /// A stream whose request is still to be sent.
    #[inline]
    pub(super) fn begin(
        &mut self,
        open: Open,
        max_frame_len: usize,
        config: &Config,
    ) -> Result<(StreamKey, Item), Error> {
        check_len(&open, max_frame_len, config)?;
        if let Some(lease) = &self.lease {
            lease.takes_request()?;
        }
        let Open {
            interaction,
            payload,
            demand,
            complete,
        } = open;
        let local = &self.local;
        let id = self
            .ids
            .next(|id| local.get(id).is_some())
            .ok_or(Error::NoStreamId)?;
        let slot = self.insert(id, Role::Requester, interaction);
        let Some(stream) = self.slots.get_mut(slot) else {
            return Err(Error::NoStreamId);
        };
        let mut initial_n = None;
        if interaction.has_initial_n() {
            stream.prefetch = Prefetch::new(demand);
            initial_n = Some(stream.prefetch.start_request());
            stream.demanded = true;
        }
        if complete {
            stream.transition(StreamEvent::SendComplete);
        }
        stream.handles = match interaction {
            Interaction::RequestChannel => 2,
            _ => 1,
        };
        stream.sent = u64::from(interaction == Interaction::RequestChannel);
        if self.durable {
            stream.label = Some(Box::new(payload.clone()));
        }
        let request = Item::Request {
            payload,
            initial_n,
            complete,
        };
        Ok((StreamKey { slot, id }, request))
    }

    /// Whether a link took the request; so it is assumed of streams long gone.
    pub(in crate::proto) fn was_sent(&mut self, key: StreamKey) -> bool {
        self.by_key(key).is_none_or(|stream| stream.announced)
    }

    /// Takes what arrived on a stream.
    pub(in crate::proto) fn poll_take(&mut self, key: StreamKey) -> Take {
        if self.durable {
            self.drop_handle(key);
        }
        let durable = self.durable;
        let Some(stream) = self.by_key(key) else {
            return Take::Complete;
        };
        // A responder's inbound asks for payloads when it is first read.
        stream.start_demand();
        if durable && let Some(payload) = stream.inbox.front() {
            stream.in_hand = true;
            let take = Take::Payload(payload.clone());
            self.enqueue(key.slot);
            return take;
        }
        let Some(payload) = stream.inbox.pop_front() else {
            let take = match &stream.end {
                Some(Ended::Complete) => Take::Complete,
                Some(Ended::Failed(error)) => Take::Failed(error.clone()),
                None => {
                    stream.reader_waits = true;
                    Take::Pending
                }
            };
            self.enqueue(key.slot);
            return take;
        };
        if stream.demanded {
            let more = stream.prefetch.on_consumed(1);
            stream.owe(more);
        }
        self.forget(payload_cost(payload.len()));
        self.enqueue(key.slot);
        Take::Payload(payload)
    }

    /// Forgets the payload that the application took last: it comes back for the
    /// next, so it is done with that one.
    fn drop_handle(&mut self, key: StreamKey) {
        if let Some(stream) = self.by_key(key)
            && std::mem::take(&mut stream.in_hand)
            && let Some(payload) = stream.inbox.pop_front()
        {
            if stream.demanded {
                let more = stream.prefetch.on_consumed(1);
                stream.owe(more);
            }
            self.forget(payload_cost(payload.len()));
        }
    }

    /// The index of the payload that is taken next.
    pub(in crate::proto) fn position(&mut self, key: StreamKey) -> u64 {
        self.by_key(key).map_or(0, |stream| stream.position())
    }

    /// Payloads handed over to be sent.
    pub(in crate::proto) fn sent(&mut self, key: StreamKey) -> u64 {
        self.by_key(key).map_or(0, |stream| stream.sent)
    }

    /// Asks for `n` more payloads than the policy does by itself.
    pub(in crate::proto) fn request_n(&mut self, key: StreamKey, n: Demand) {
        if let Some(stream) = self.by_key(key)
            && stream.interaction.has_initial_n()
        {
            stream.start_demand();
            let n = stream.prefetch.request(n);
            stream.owe(n);
            self.enqueue(key.slot);
        }
    }

    /// Sets how a responder's inbound asks; without effect once it has asked.
    pub(in crate::proto) fn set_demand(&mut self, key: StreamKey, policy: DemandPolicy) {
        if let Some(stream) = self.by_key(key)
            && !stream.demanded
        {
            let mut prefetch = Prefetch::new(policy);
            for _ in 0..stream.inbox.len() {
                prefetch.on_received_free();
            }
            stream.prefetch = prefetch;
        }
    }

    pub(in crate::proto) fn poll_capacity(&mut self, key: StreamKey) -> Capacity {
        let Some(stream) = self.by_key(key) else {
            return Capacity::Closed;
        };
        if !stream.state.can_send() {
            return Capacity::Closed;
        }
        let n = stream.room();
        let waits = std::mem::replace(&mut stream.writer_waits, WriterWaits::ForCapacity);
        if n > 0 && self.has_room() {
            if let Some(stream) = self.by_key(key) {
                stream.writer_waits = waits;
            }
            return Capacity::Payloads(n);
        }
        if n > 0
            && let Some(stream) = self.by_key(key)
            && !std::mem::replace(&mut stream.crowded, true)
        {
            self.crowded.push(key.slot);
        }
        Capacity::Pending
    }

    /// Whether the sending half is over; else [`Wake::Writer`](crate::proto::Wake::Writer) will tell.
    pub(in crate::proto) fn poll_send_closed(&mut self, key: StreamKey) -> bool {
        match self.by_key(key) {
            Some(stream) if stream.state.can_send() => {
                if stream.writer_waits == WriterWaits::No {
                    stream.writer_waits = WriterWaits::ForEnd;
                }
                false
            }
            _ => true,
        }
    }

    /// Credit that the peer granted since the last call.
    pub(in crate::proto) fn poll_granted(&mut self, key: StreamKey) -> Poll<Option<u64>> {
        let Some(stream) = self.by_key(key) else {
            return Poll::Ready(None);
        };
        match stream.credit.take_news() {
            0 if !stream.state.can_send() => Poll::Ready(None),
            0 => {
                stream.writer_waits = WriterWaits::ForCapacity;
                Poll::Pending
            }
            n => Poll::Ready(Some(n)),
        }
    }

    /// Sends a payload. Without room or credit, or after the end, it is
    /// dropped: [`poll_capacity`](Self::poll_capacity) says beforehand.
    pub(in crate::proto) fn send(
        &mut self,
        key: StreamKey,
        payload: Payload,
        max_frame_len: usize,
        config: &Config,
    ) -> Result<(), Error> {
        if let Some(complete) = self.begin_send(key, &payload, max_frame_len, config)? {
            self.push(key.slot, Item::Payload { payload, complete });
        }
        Ok(())
    }

    /// Counts a payload that is to be sent, if one may be; whether it completes the
    /// stream.
    #[inline]
    pub(super) fn begin_send(
        &mut self,
        key: StreamKey,
        payload: &Payload,
        max_frame_len: usize,
        config: &Config,
    ) -> Result<Option<bool>, Error> {
        let Some(stream) = self.by_key(key) else {
            return Ok(None);
        };
        if !stream.state.can_send() || stream.room() == 0 {
            return Ok(None);
        }
        fits(payload, HEADER_LEN, max_frame_len, config)?;
        let complete = stream.interaction == Interaction::RequestResponse;
        if complete {
            stream.transition(StreamEvent::SendComplete);
        } else if stream.credit.spend().is_err() {
            return Ok(None);
        }
        stream.sent += 1;
        Ok(Some(complete))
    }

    /// Completes the sending half.
    pub(in crate::proto) fn complete(&mut self, key: StreamKey) {
        if let Some(stream) = self.by_key(key)
            && stream.transition(StreamEvent::SendComplete)
        {
            self.push(key.slot, Item::Complete);
            self.end_writer(key.slot);
        }
    }

    /// Ends the stream with ERROR, behind what was sent before.
    pub(in crate::proto) fn fail(&mut self, key: StreamKey, failure: &Failure) {
        let item = self.error_item(failure);
        let Some(stream) = self.by_key(key) else {
            return;
        };
        if !stream.transition(StreamEvent::SendError) {
            return;
        }
        stream.request_n = 0;
        self.push(key.slot, item);
        self.end_writer(key.slot);
        self.end_reader(key.slot, Ended::Failed(Error::Canceled));
    }

    /// A requester ends the stream; a responder stops the requester's half.
    pub(in crate::proto) fn cancel(&mut self, key: StreamKey) {
        let Some(stream) = self
            .slots
            .get_mut(key.slot)
            .filter(|stream| stream.id == key.id && stream.handles > 0)
        else {
            return;
        };
        if !stream.transition(StreamEvent::SendCancel) {
            return;
        }
        match stream.role {
            Role::Requester => {
                self.queued.remove(stream.role, stream.drop_output());
                // A request that nobody saw needs no CANCEL [C339].
                stream.cancel = stream.announced;
                self.forget_waiting(key.slot);
                self.relieve();
                self.end_writer(key.slot);
            }
            Role::Responder => {
                stream.request_n = 0;
                stream.cancel = true;
            }
        }
        self.enqueue(key.slot);
        self.end_reader(key.slot, Ended::Failed(Error::Canceled));
    }

    /// The application lets go of one handle. With the last one nobody is left
    /// to end the stream, so it ends.
    pub(in crate::proto) fn release(&mut self, key: StreamKey) {
        let Some(stream) = self.by_key(key) else {
            return;
        };
        if stream.handles == 1 && !stream.state.is_closed() {
            match (stream.role, stream.interaction) {
                (Role::Requester, Interaction::FireAndForget) => {}
                (Role::Requester, _) => self.cancel(key),
                (Role::Responder, _) => self.fail(key, &Failure::canceled("nobody answers")),
            }
        }
        if let Some(stream) = self.by_key(key) {
            stream.handles -= 1;
            self.settle(key.slot);
        }
    }
}

fn check_len(open: &Open, max_frame_len: usize, config: &Config) -> Result<(), Error> {
    let fixed = fixed_len(open.interaction);
    fits(&open.payload, fixed, max_frame_len, config)
}

/// Refuses a payload that needs fragments when there may be none \[C011].
fn fits(
    payload: &Payload,
    fixed: usize,
    max_frame_len: usize,
    config: &Config,
) -> Result<(), Error> {
    let metadata_length = if payload.metadata().is_some() { 3 } else { 0 };
    let len = fixed + metadata_length + payload.len();
    if config.fragment_len.is_none() && len > max_frame_len {
        return Err(Error::TooLong {
            len,
            limit: max_frame_len,
        });
    }
    Ok(())
}
