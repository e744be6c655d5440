//! What the peer's frames do to streams.

use super::{
    Ended, Item, Role, State, StreamEvent, StreamKey, Streams, payload_cost,
    stream::{Joining, Stream},
};
use crate::{
    Payload,
    error::{Error, Failure, Misbehavior},
    frame::{ErrorCode, ErrorFrame, Interaction, PayloadFrame, Request, RequestN, StreamId},
    proto::{
        Limits,
        fragment::Join,
        session::{Effects, Event},
        setup::keep_in,
    },
    transport::InFrame,
};

impl Streams {
    /// REQUEST_*: a stream that the peer opens.
    pub(in crate::proto) fn on_request(
        &mut self,
        request: &Request<'_>,
        whole: &InFrame<'_>,
        refuse_new: bool,
        limits: &Limits,
        effects: &mut Effects,
    ) {
        let Request {
            stream_id: id,
            interaction,
            ..
        } = *request;
        // An id of our own parity [C337], or one in use, also while its request
        // is still being reassembled [C331].
        if self.is_local(id) || self.remote.get(id).is_some() {
            effects.stats.frames_ignored += 1;
            return;
        }
        if let Err(why) = self.admits(request, refuse_new, limits, effects) {
            match interaction {
                // No answer of any kind [C234].
                Interaction::FireAndForget => effects.stats.one_way_dropped += 1,
                Interaction::RequestResponse
                | Interaction::RequestStream
                | Interaction::RequestChannel => {
                    effects.stats.requests_rejected += 1;
                    effects.answer(id, ErrorCode::REJECTED, why);
                }
            }
            return;
        }

        let slot = self.insert(id, Role::Responder, interaction);
        if let Some(lease) = &mut self.lease {
            lease.begin(slot);
        }
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        if let Some(n) = request.initial_n {
            stream.credit.grant(n);
        }
        if request.follows {
            stream.join = Some(Box::new(Joining {
                join: Join::default(),
                is_request: true,
                complete: request.complete,
            }));
            let complete = request.complete;
            self.on_fragment(slot, &request.payload, true, complete, limits, effects);
        } else {
            let len = request.payload.content_len();
            let fill = |payload: &mut Payload| keep_in(payload, &request.payload, whole);
            self.deliver_request(slot, len, fill, request.complete, limits, effects);
        }
    }

    fn admits(
        &mut self,
        request: &Request<'_>,
        refuse_new: bool,
        limits: &Limits,
        effects: &mut Effects,
    ) -> Result<(), &'static str> {
        // First, since the peer counts it whatever else we find [C200].
        if let Some(lease) = &mut self.lease
            && let Err(why) = lease.admit()
        {
            effects.stats.lease_rejected += 1;
            return Err(why);
        }
        if refuse_new {
            return Err("the connection is closing");
        }
        if self.remote.len() >= limits.max_streams {
            return Err("too many concurrent requests on this connection");
        }
        let asked = request.initial_n.map_or(0, |n| n.get().into());
        if asked > limits.max_credit {
            return Err("the initial request-n is more than max_credit");
        }
        if request.interaction == Interaction::FireAndForget && self.one_way >= limits.max_one_way {
            return Err("too many one-way requests in work");
        }
        Ok(())
    }

    /// PAYLOAD: an item, a fragment, a completion.
    #[inline]
    pub(in crate::proto) fn on_payload(
        &mut self,
        frame: &PayloadFrame<'_>,
        whole: &InFrame<'_>,
        limits: &Limits,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.find(frame.stream_id) else {
            effects.stats.frames_ignored += 1;
            return;
        };
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        let joining = stream.join.is_some();
        let expected = joining || stream.state.can_receive();
        let empty = frame.payload.data.is_empty() && frame.payload.metadata.is_none();
        if joining && frame.complete && !frame.next && empty {
            // A completion in the middle of a payload: its sender gave the
            // payload up [C226].
            let given_up = self.abandon_join(slot);
            if given_up.is_some_and(|joining| joining.is_request) {
                let why = "the request was completed before it was whole";
                self.refuse(slot, ErrorCode::INVALID, why, effects);
            } else {
                self.on_complete(slot);
            }
        } else if !expected || (!joining && !frame.next && !frame.complete) {
            // Out of place [C334], or neither an item nor an end [C151].
            effects.stats.frames_ignored += 1;
        } else if joining || frame.follows {
            let follows = frame.follows;
            self.on_fragment(
                slot,
                &frame.payload,
                follows,
                frame.complete,
                limits,
                effects,
            );
        } else {
            if frame.next {
                let fill = |payload: &mut Payload| keep_in(payload, &frame.payload, whole);
                self.deliver(slot, frame.payload.content_len(), fill, limits, effects);
            }
            // Content without NEXT is no item [C153].
            if frame.complete {
                self.on_complete(slot);
            }
        }
    }

    fn on_fragment(
        &mut self,
        slot: usize,
        fragment: &crate::frame::PayloadRef<'_>,
        follows: bool,
        complete: bool,
        limits: &Limits,
        effects: &mut Effects,
    ) {
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        if stream.join.is_none() {
            // The first fragment of an item: refused at once if the item will
            // be, so that nothing is held for it [C252].
            if stream.interaction != Interaction::RequestResponse && !stream.prefetch.expects() {
                self.misbehaved(slot, Misbehavior::Overrun, effects);
                return;
            }
        }
        let added = fragment.content_len();
        if added > limits.max_buffered_len.saturating_sub(self.buffered) {
            let limit = limits.max_buffered_len;
            self.misbehaved(slot, Misbehavior::BufferFull { limit }, effects);
            return;
        }
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        let joining = stream.join.get_or_insert_with(|| {
            Box::new(Joining {
                join: Join::default(),
                is_request: false,
                complete: false,
            })
        });
        joining.complete |= complete;
        let before = joining.join.len();
        let pushed = joining.join.push(*fragment, follows, limits);
        self.buffered += joining.join.len() - before;
        if let Err(why) = pushed {
            self.misbehaved(slot, why, effects);
            return;
        }
        if follows {
            return;
        }
        let Some(joining) = self.abandon_join(slot) else {
            return;
        };
        let joined = joining.join.finish();
        let len = joined.len();
        let fill = |payload: &mut Payload| *payload = joined;
        if joining.is_request {
            self.deliver_request(slot, len, fill, joining.complete, limits, effects);
        } else {
            self.deliver(slot, len, fill, limits, effects);
            if joining.complete {
                self.on_complete(slot);
            }
        }
    }

    /// Takes what was reassembled so far from the stream.
    fn abandon_join(&mut self, slot: usize) -> Option<Joining> {
        let joining = self.slots.get_mut(slot)?.join.take()?;
        self.forget(joining.join.len());
        Some(*joining)
    }

    /// A request is in, whole: of so many bytes, to be filled in where it is kept.
    #[inline]
    fn deliver_request(
        &mut self,
        slot: usize,
        len: usize,
        fill: impl FnOnce(&mut Payload),
        complete: bool,
        limits: &Limits,
        effects: &mut Effects,
    ) {
        if len > limits.max_payload_len {
            let limit = limits.max_payload_len;
            self.misbehaved(slot, Misbehavior::PayloadTooLong { limit }, effects);
            return;
        }
        // Counted until the application takes it.
        if !self.keeps(payload_cost(len), limits) {
            let why = "too much waits to be taken on this connection";
            self.refuse(slot, ErrorCode::REJECTED, why, effects);
            return;
        }
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        let key = StreamKey {
            slot,
            id: stream.id,
        };
        let interaction = stream.interaction;
        stream.handles = 1;
        match interaction {
            Interaction::FireAndForget => {
                // It ends on receipt [C234]; the handle counts the handler.
                stream.state = State::Closed;
            }
            Interaction::RequestResponse | Interaction::RequestStream => {}
            Interaction::RequestChannel => {
                stream.handles = 2;
                stream.prefetch.on_received_free();
                stream.received += 1;
                stream.inbox.push_back(Payload::default());
                if let Some(payload) = stream.inbox.back_mut() {
                    fill(payload);
                    if self.durable {
                        stream.label = Some(Box::new(payload.clone()));
                    }
                }
                if complete {
                    self.on_complete(slot);
                }
                effects.events.push_back(Event::Channel { key });
                return;
            }
        }
        effects.events.push_back(Event::Request {
            key,
            interaction,
            payload: Payload::default(),
        });
        if let Some(Event::Request { payload, .. }) = effects.events.back_mut() {
            fill(payload);
            if self.durable {
                stream.label = Some(Box::new(payload.clone()));
            }
        }
    }

    /// An item is in, whole; likewise.
    #[inline]
    fn deliver(
        &mut self,
        slot: usize,
        len: usize,
        fill: impl FnOnce(&mut Payload),
        limits: &Limits,
        effects: &mut Effects,
    ) {
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        if len > limits.max_payload_len {
            let limit = limits.max_payload_len;
            self.misbehaved(slot, Misbehavior::PayloadTooLong { limit }, effects);
            return;
        }
        if stream.interaction == Interaction::RequestResponse {
            // The one answer; it completes, C set or not [C154].
            stream.transition(StreamEvent::RecvComplete);
            stream.end = Some(Ended::Complete);
        } else {
            match stream.prefetch.on_received() {
                Ok(top_up) => stream.owe(top_up),
                Err(_) => {
                    self.misbehaved(slot, Misbehavior::Overrun, effects);
                    return;
                }
            }
        }
        let owes = stream.request_n > 0;
        if !self.keeps(payload_cost(len), limits) {
            let limit = limits.max_buffered_len;
            self.misbehaved(slot, Misbehavior::BufferFull { limit }, effects);
            return;
        }
        if let Some(stream) = self.slots.get_mut(slot) {
            stream.received += 1;
            stream.inbox.push_back(Payload::default());
            if let Some(payload) = stream.inbox.back_mut() {
                fill(payload);
            }
        }
        if owes {
            self.enqueue(slot);
        }
        self.wake_reader(slot);
        self.settle(slot);
    }

    fn on_complete(&mut self, slot: usize) {
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        if !stream.transition(StreamEvent::RecvComplete) {
            return;
        }
        stream.request_n = 0;
        self.end_reader(slot, Ended::Complete);
        self.settle(slot);
    }

    /// REQUEST_N: credit for our sending half \[C136].
    pub(in crate::proto) fn on_request_n(
        &mut self,
        frame: RequestN,
        limits: &Limits,
        effects: &mut Effects,
    ) {
        let slot = self.find(frame.stream_id);
        match slot.and_then(|slot| Some((slot, self.slots.get_mut(slot)?))) {
            Some((slot, stream)) if stream.state.can_send() => {
                stream.credit.grant(frame.n);
                if stream.credit.balance() > limits.max_credit {
                    let limit = limits.max_credit;
                    self.misbehaved(slot, Misbehavior::TooMuchCredit { limit }, effects);
                    return;
                }
                self.wake_writer(slot);
            }
            _ => effects.stats.frames_ignored += 1,
        }
    }

    /// CANCEL: from a requester the end, from a responder of our half only.
    pub(in crate::proto) fn on_cancel(&mut self, id: StreamId, effects: &mut Effects) {
        let Some(slot) = self.find(id) else {
            effects.stats.frames_ignored += 1;
            return;
        };
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        let role = stream.role;
        if !stream.transition(StreamEvent::RecvCancel) {
            self.drop_unwanted(slot, role == Role::Responder, effects);
            return;
        }
        match role {
            Role::Responder => {
                self.drop_output(slot);
                self.end_writer(slot);
                self.end_reader(slot, Ended::Failed(Error::Canceled));
            }
            Role::Requester => {
                self.drop_payloads(slot);
                self.end_writer(slot);
            }
        }
        self.settle(slot);
    }

    /// ERROR on a stream: the end of both halves.
    pub(in crate::proto) fn on_error(
        &mut self,
        id: StreamId,
        frame: &ErrorFrame<'_>,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.find(id) else {
            effects.stats.frames_ignored += 1;
            return;
        };
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        if !stream.transition(StreamEvent::RecvError) {
            self.drop_unwanted(slot, true, effects);
            return;
        }
        self.drop_output(slot);
        let failure = Failure::from_wire(frame.code, frame.message_lossy().into_owned());
        self.end_writer(slot);
        self.end_reader(slot, Ended::Failed(Error::Peer(failure)));
        self.settle(slot);
    }

    /// Ends a stream for a rule that the peer broke on it \[C222, C252]: as a
    /// requester with CANCEL, as a responder with ERROR\[CANCELED\].
    fn misbehaved(&mut self, slot: usize, why: Misbehavior, effects: &mut Effects) {
        effects.stats.streams_misbehaved += 1;
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        tracing::warn!(stream_id = stream.id.get(), %why, "peer misbehaved on a stream");
        // The state may be closed by the very frame that broke the rule.
        let was_open = !stream.state.is_closed();
        stream.state = State::Closed;
        stream.end = None;
        self.queued.remove(stream.role, stream.drop_output());
        match stream.role {
            Role::Requester => stream.cancel = was_open,
            Role::Responder if stream.interaction == Interaction::FireAndForget => {}
            Role::Responder => {
                let item = self.error_item(&Failure::canceled(why));
                self.push(slot, item);
            }
        }
        self.enqueue(slot);
        self.relieve();
        self.end_writer(slot);
        self.end_reader(slot, Ended::Failed(Error::Misbehaved(why)));
        self.settle(slot);
    }

    /// The peer ended what is over on this side already, perhaps with the rest
    /// of it still to be sent: nobody wants that now \[C232].
    fn drop_unwanted(&mut self, slot: usize, both_halves: bool, effects: &mut Effects) {
        let Some(stream) = self.slots.get(slot) else {
            return;
        };
        let had_output = stream.has_output();
        match stream.role {
            _ if both_halves && stream.state.is_closed() => self.drop_output(slot),
            Role::Requester => self.drop_payloads(slot),
            Role::Responder => {}
        }
        let has_output = self.slots.get(slot).is_some_and(Stream::has_output);
        if has_output == had_output {
            effects.stats.frames_ignored += 1;
        }
    }

    /// Ends a request that the application was not told of.
    fn refuse(&mut self, slot: usize, code: ErrorCode, why: &'static str, effects: &mut Effects) {
        let Some(stream) = self.slots.get_mut(slot) else {
            return;
        };
        stream.state = State::Closed;
        if stream.interaction == Interaction::FireAndForget {
            effects.stats.one_way_dropped += 1; // No answer of any kind [C234].
        } else {
            effects.stats.requests_rejected += 1;
            let why = bytes::Bytes::from_static(why.as_bytes());
            self.push(slot, Item::Error(code, why));
        }
        self.settle(slot);
    }
}
