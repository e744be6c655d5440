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
        Ok((key, self.push_through(key.slot, request, max_len, send)))
    }

    /// As [`send`](Self::send), likewise.
    pub(in crate::proto) fn send_through<E>(
        &mut self,
        key: StreamKey,
        payload: Payload,
        max_len: usize,
        config: &Config,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Result<Progress, E>, Error> {
        Ok(match self.begin_send(key, payload, max_len, config)? {
            Some(item) => self.push_through(key.slot, item, max_len, send),
            None => Ok(Progress::Idle),
        })
    }

    /// Sends `item`, or its first fragment; queues what the link does not take.
    #[inline]
    fn push_through<E>(
        &mut self,
        slot: usize,
        item: Item,
        max_len: usize,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Progress, E> {
        let Some(stream) = self.slots.get_mut(slot) else {
            return Ok(Progress::Idle);
        };
        debug_assert!(!stream.has_output(), "it would stand in the queue");
        let sent = match send_item(stream, &item, max_len, send) {
            Poll::Ready(Ok(sent)) => sent,
            Poll::Ready(Err(error)) => {
                self.push(slot, item);
                return Err(error);
            }
            Poll::Pending => {
                self.push(slot, item);
                return Ok(Progress::Blocked);
            }
        };
        stream.announced = true;
        if let Sent::Fragment(next) = sent {
            stream.cursor = next;
            self.push(slot, item);
        } else {
            stream.out_first += 1;
            self.after_sent(slot, false);
        }
        Ok(Progress::Sent)
    }
}
