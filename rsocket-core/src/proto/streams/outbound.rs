//! Whose frame goes next, and what it looks like.

use std::task::Poll;

use super::{Item, Streams, fixed_len, stream::Stream};
use crate::{
    Payload,
    frame::{Demand, HEADER_LEN, Head, Interaction},
    payload::Chunk,
    proto::{
        Role,
        fragment::{Cursor, Fragment},
        session::Progress,
    },
    transport::{OutFrame, Part},
};

/// What a frame that was sent means for its stream.
pub(super) enum Sent {
    /// A fragment, and others follow from the cursor.
    Fragment(Cursor),
    /// The outbox's first item, or the last fragment of it.
    Item,
    Cancel,
    RequestN(Demand),
}

impl Sent {
    /// Whether a responder that sends this answers.
    fn is_answer(&self) -> bool {
        matches!(self, Self::Fragment(_) | Self::Item)
    }
}

impl Streams {
    /// Sends one frame of the stream whose turn it is.
    ///
    /// Streams take turns frame by frame, so a long payload, cut into
    /// fragments, holds up nobody.
    pub(in crate::proto) fn transmit<E>(
        &mut self,
        max_len: usize,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Progress, E> {
        if let Some(lease) = &self.lease
            && let Some(slot) = lease.next_start(!self.queue.is_empty())
        {
            return self.transmit_start(slot, max_len, send);
        }
        let Some(&slot) = self.queue.front() else {
            return Ok(Progress::Idle);
        };
        let Some(stream) = self.slots.get_mut(slot) else {
            return Ok(Progress::Idle);
        };
        if !stream.has_output() {
            // It was cancelled while it stood in the queue.
            self.queue.pop_front();
            stream.queued = false;
            self.settle(slot);
            return Ok(Progress::Sent);
        }
        let sent = match send_next(stream, max_len, send) {
            Poll::Pending => return Ok(Progress::Blocked),
            Poll::Ready(sent) => sent?,
        };
        if let Some(lease) = &mut self.lease {
            lease.went_on();
            if stream.role == Role::Responder && sent.is_answer() {
                lease.answered(slot);
            }
        }
        self.queued.remove(stream.role, apply(stream, sent));

        let more = stream.has_output();
        if !more {
            self.queue.pop_front();
            stream.queued = false;
        } else if self.queue.len() > 1 && !(self.durable && stream.cursor.is_started()) {
            self.queue.rotate_left(1);
        }
        self.after_sent(slot, more);
        Ok(Progress::Sent)
    }

    /// Sends the first frame of a request that waited for a lease.
    #[inline(never)]
    fn transmit_start<E>(
        &mut self,
        slot: usize,
        max_len: usize,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Progress, E> {
        let Some(stream) = self.slots.get_mut(slot) else {
            return Ok(Progress::Idle);
        };
        let sent = match send_next(stream, max_len, send) {
            Poll::Pending => return Ok(Progress::Blocked),
            Poll::Ready(sent) => sent?,
        };
        self.leave_queue_of_lease(slot);
        let Some(stream) = self.slots.get_mut(slot) else {
            return Ok(Progress::Idle);
        };
        self.queued.remove(stream.role, apply(stream, sent));
        let more = stream.has_output();
        self.enqueue(slot);
        self.after_sent(slot, more);
        Ok(Progress::Sent)
    }

    #[inline]
    pub(super) fn after_sent(&mut self, slot: usize, more: bool) {
        self.wake_writer(slot);
        self.relieve();
        if !more {
            self.tell_fire_and_forget(slot);
            self.settle(slot);
        }
    }

    /// Whether the next frame goes on with a payload that others began.
    pub(in crate::proto) fn is_amid_payload(&self) -> bool {
        self.queue
            .front()
            .and_then(|slot| self.slots.get(*slot))
            .is_some_and(|stream| stream.cursor.is_started())
    }

    /// Whoever sent a fire-and-forget waits for this.
    fn tell_fire_and_forget(&mut self, slot: usize) {
        if let Some(stream) = self.slots.get_mut(slot)
            && stream.interaction == Interaction::FireAndForget
            && stream.announced
            && !stream.state.is_closed()
        {
            stream.state = super::State::Closed;
            self.end_reader(slot, super::Ended::Complete);
        }
    }
}

/// Builds the stream's next frame on the stack and sends it.
fn send_next<E>(
    stream: &Stream,
    max_len: usize,
    send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
) -> Poll<Result<Sent, E>> {
    // Nothing precedes the request, and nothing but ERROR may come between the
    // fragments of a payload for all peers to cope [C221].
    let between = stream.announced && !stream.cursor.is_started();
    if between && stream.cancel {
        let head = Head::cancel(stream.id);
        return bare(&head, send).map_ok(|()| Sent::Cancel);
    }
    if between && stream.request_n > 0 {
        let n = u32::try_from(stream.request_n).ok().and_then(Demand::new);
        let n = n.unwrap_or(Demand::MAX);
        let head = Head::request_n(stream.id, n);
        return bare(&head, send).map_ok(|()| Sent::RequestN(n));
    }
    match stream.outbox.front() {
        Some(item) => send_item(stream, item, max_len, send),
        None => bare(&completion(stream), send).map_ok(|()| Sent::Item),
    }
}

/// Likewise, the frame that `item` makes, or the next of its fragments.
pub(super) fn send_item<E>(
    stream: &Stream,
    item: &Item,
    max_len: usize,
    send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
) -> Poll<Result<Sent, E>> {
    match item {
        Item::Request {
            payload,
            initial_n,
            complete,
        } if !stream.cursor.is_started() => {
            let fixed = fixed_len(stream.interaction);
            let (part, next) = stream.cursor.next(payload, fixed, max_len);
            let head = Head::request(
                stream.id,
                stream.interaction,
                *initial_n,
                part.follows,
                // C never goes with F [C217].
                *complete && !part.follows,
                part.metadata.map(<[u8]>::len),
            );
            payload_frame(payload, &head, &part, send).map_ok(|()| after(part.follows, next))
        }
        Item::Request { payload, .. } => {
            let (part, next) = stream.cursor.next(payload, HEADER_LEN, max_len);
            let metadata_len = part.metadata.map(<[u8]>::len);
            let head = Head::payload(stream.id, part.follows, false, true, metadata_len);
            payload_frame(payload, &head, &part, send).map_ok(|()| after(part.follows, next))
        }
        Item::Payload { payload, complete } => {
            send_payload(stream, payload, *complete, max_len, send)
        }
        Item::Error(code, message) => {
            let head = Head::error(Some(stream.id), *code);
            let frame = OutFrame::new(head.as_slice(), Part::EMPTY, Part::shared(message, message));
            send(&frame).map_ok(|()| Sent::Item)
        }
        Item::Complete => bare(&completion(stream), send).map_ok(|()| Sent::Item),
    }
}

/// Likewise, for a payload that need not be an item yet.
#[inline]
pub(super) fn send_payload<E>(
    stream: &Stream,
    payload: &Payload,
    complete: bool,
    max_len: usize,
    send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
) -> Poll<Result<Sent, E>> {
    let (part, next) = stream.cursor.next(payload, HEADER_LEN, max_len);
    let complete = complete && !part.follows;
    let metadata_len = part.metadata.map(<[u8]>::len);
    let head = Head::payload(stream.id, part.follows, complete, true, metadata_len);
    payload_frame(payload, &head, &part, send).map_ok(|()| after(part.follows, next))
}

fn completion(stream: &Stream) -> Head {
    Head::payload(stream.id, false, true, false, None)
}

fn after(follows: bool, next: Cursor) -> Sent {
    if follows {
        Sent::Fragment(next)
    } else {
        Sent::Item
    }
}

fn bare<R>(head: &Head, send: impl FnOnce(&OutFrame<'_>) -> R) -> R {
    send(&OutFrame::new(head.as_slice(), Part::EMPTY, Part::EMPTY))
}

#[inline]
fn payload_frame<R>(
    payload: &Payload,
    head: &Head,
    part: &Fragment<'_>,
    send: impl FnOnce(&OutFrame<'_>) -> R,
) -> R {
    let metadata = match (part.metadata, payload.metadata_chunk()) {
        (Some(bytes), Some(chunk)) => part_of(chunk, bytes),
        _ => Part::EMPTY,
    };
    let data = part_of(payload.data_chunk(), part.data);
    send(&OutFrame::new(head.as_slice(), metadata, data))
}

#[inline]
fn part_of<'a>(chunk: &'a Chunk, bytes: &'a [u8]) -> Part<'a> {
    match chunk.as_shared() {
        Some(owner) => Part::shared(owner, bytes),
        None => Part::slice(bytes),
    }
}

/// Notes what was sent; returns what it had cost in the outbox.
fn apply(stream: &mut Stream, sent: Sent) -> usize {
    let mut cost = 0;
    match sent {
        Sent::Fragment(next) => {
            stream.cursor = next;
            stream.announced = true;
        }
        Sent::Item => {
            let fragmented = stream.cursor.is_started();
            stream.cursor = Cursor::default();
            stream.announced = true;
            let item = stream.outbox.pop_front();
            stream.out_first += u64::from(item.is_some());
            cost = item.as_ref().map_or(0, Item::cost).min(stream.outbox_cost);
            stream.outbox_cost -= cost;
            if let Some(Item::Request { complete: true, .. }) = item
                && fragmented
            {
                // Free of cost: it replaces what was paid for.
                stream.out_first += stream.outbox.len() as u64;
                stream.outbox.push_front(Item::Complete);
            }
        }
        Sent::Cancel => stream.cancel = false,
        Sent::RequestN(n) => {
            stream.request_n = stream.request_n.saturating_sub(n.get().into());
        }
    }
    cost
}
