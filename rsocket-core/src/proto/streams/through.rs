//! Frames that the link takes at once, past the queues.
//!
//! Most of the time nothing waits for the link when the application has something
//! to send. Then there is no use in putting it where it would be taken from at
//! once.

use std::task::Poll;

use super::{
    Item, Open, StreamKey, Streams,
    outbound::{Sent, send_item, send_payload},
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
        let Some(stream) = self.slots.get(key.slot) else {
            return Ok((key, Ok(Progress::Idle)));
        };
        let sent = send_item(stream, &request, max_len, send);
        let (progress, is_taken) = self.pass(key.slot, sent);
        if !is_taken {
            self.push(key.slot, request);
        }
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
        let Some(stream) = self.slots.get(key.slot) else {
            return Ok(Ok(Progress::Idle));
        };
        debug_assert!(!stream.has_output(), "it would stand in the queue");
        let sent = send_payload(stream, payload, complete, max_len, send);
        let (progress, is_taken) = self.pass(key.slot, sent);
        if !is_taken {
            let payload = std::mem::take(payload);
            self.push(key.slot, Item::Payload { payload, complete });
        }
        Ok(progress)
    }

    /// Notes what became of the first frame of something that is not queued, and
    /// whether the link took all of it: else it is to be queued.
    #[inline]
    fn pass<E>(&mut self, slot: usize, sent: Poll<Result<Sent, E>>) -> (Result<Progress, E>, bool) {
        let sent = match sent {
            Poll::Ready(Ok(sent)) => sent,
            Poll::Ready(Err(error)) => return (Err(error), false),
            Poll::Pending => return (Ok(Progress::Blocked), false),
        };
        if let Some(stream) = self.slots.get_mut(slot) {
            stream.announced = true;
            if let Sent::Fragment(next) = sent {
                stream.cursor = next;
                return (Ok(Progress::Sent), false);
            }
            stream.out_first += 1;
        }
        self.after_sent(slot, false);
        (Ok(Progress::Sent), true)
    }
}
