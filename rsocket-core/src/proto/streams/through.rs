//! Frames that the link takes at once, past the queues.
//!
//! Most of the time nothing waits for the link when the application has something
//! to send. Then there is no use in putting it where it would be taken from at
//! once.

use std::task::Poll;

use super::{
    Item, Open, StreamKey, Streams,
    outbound::{Sent, send_item},
};
use crate::{
    Payload,
    error::Error,
    proto::{Config, session::Progress},
    transport::OutFrame,
};

impl Streams {
    /// Whether nothing stands before what would be sent now, and nobody has to
    /// know of it beforehand: no lease, no store.
    pub(in crate::proto) fn is_clear(&self) -> bool {
        self.queue.is_empty() && self.lease.is_none() && !self.durable
    }

    /// As [`open`](Self::open), while the way [is clear](Self::is_clear): and what
    /// came of sending the request.
    pub(in crate::proto) fn open_through<E>(
        &mut self,
        open: Open,
        max_len: usize,
        config: &Config,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<(StreamKey, Result<Progress, E>), Error> {
        let (key, request) = self.begin(open, max_len, config)?;
        let (progress, _) = self.push_through(key.slot, request, max_len, send);
        Ok((key, progress))
    }

    /// As [`send`](Self::send), likewise. Leaves the payload where it is if the link
    /// took all of it.
    pub(in crate::proto) fn send_through<E>(
        &mut self,
        key: StreamKey,
        payload: &mut Payload,
        max_len: usize,
        config: &Config,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Result<Progress, E>, Error> {
        let Some(complete) = self.begin_send(key, payload, max_len, config)? else {
            return Ok(Ok(Progress::Idle));
        };
        let item = Item::Payload {
            payload: std::mem::take(payload),
            complete,
        };
        let (progress, sent) = self.push_through(key.slot, item, max_len, send);
        if let Some(Item::Payload { payload: sent, .. }) = sent {
            *payload = sent;
        }
        Ok(progress)
    }

    /// Sends `item`, or its first fragment; queues what the link does not take, and
    /// gives back what it took.
    #[inline]
    fn push_through<E>(
        &mut self,
        slot: usize,
        item: Item,
        max_len: usize,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> (Result<Progress, E>, Option<Item>) {
        let Some(stream) = self.slots.get_mut(slot) else {
            return (Ok(Progress::Idle), None);
        };
        debug_assert!(!stream.has_output(), "it would stand in the queue");
        let sent = match send_item(stream, &item, max_len, send) {
            Poll::Ready(Ok(sent)) => sent,
            Poll::Ready(Err(error)) => {
                self.push(slot, item);
                return (Err(error), None);
            }
            Poll::Pending => {
                self.push(slot, item);
                return (Ok(Progress::Blocked), None);
            }
        };
        stream.announced = true;
        if let Sent::Fragment(next) = sent {
            stream.cursor = next;
            self.push(slot, item);
            return (Ok(Progress::Sent), None);
        }
        stream.out_first += 1;
        self.after_sent(slot, false);
        (Ok(Progress::Sent), Some(item))
    }
}
