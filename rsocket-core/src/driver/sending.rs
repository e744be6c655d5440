//! From the session to the link: when frames are sent, and when they are flushed.

use std::task::{Context, Poll};

use super::{Inner, now};
use crate::{
    Payload,
    error::Error,
    proto::{Open, Progress, Session, StreamKey},
    transport::{FrameTx, OutFrame, TransportError},
};

impl Inner {
    /// The session, and the link if it takes frames, with whom it wakes.
    #[inline]
    fn session_and_link(&mut self) -> (&mut Session, Option<(&mut dyn FrameTx, Context<'_>)>) {
        let takes = !self.blocked && self.lost.is_none();
        let cx = Context::from_waker(&self.driver);
        let tx = self.tx.as_deref_mut().filter(|_| takes);
        (&mut self.session, tx.map(|tx| (tx as &mut dyn FrameTx, cx)))
    }

    /// Opens a stream; the link takes the request at once if nothing is before it.
    #[inline]
    pub(super) fn open(&mut self, open: Open) -> Result<StreamKey, Error> {
        let (session, Some((tx, mut cx))) = self.session_and_link() else {
            return self.session.open(open);
        };
        let send = |frame: &OutFrame<'_>| tx.poll_send(&mut cx, frame);
        let (key, progress) = session.open_through(open, send)?;
        self.note(progress);
        Ok(key)
    }

    /// Sends a payload on a stream, likewise. What is left of it is to be dropped
    /// without the lock.
    #[inline]
    pub(crate) fn send(&mut self, key: StreamKey, payload: &mut Payload) -> Result<(), Error> {
        let (session, Some((tx, mut cx))) = self.session_and_link() else {
            return self.session.send(key, std::mem::take(payload));
        };
        let send = |frame: &OutFrame<'_>| tx.poll_send(&mut cx, frame);
        let progress = session.send_through(key, payload, send)?;
        self.note(progress);
        Ok(())
    }

    /// Takes note of what became of a frame; whether the link took one.
    #[inline]
    fn note(&mut self, progress: Result<Progress, TransportError>) -> bool {
        match progress {
            Ok(Progress::Sent) => {
                self.unflushed += 1;
                return true;
            }
            Ok(Progress::Idle) => {}
            Ok(Progress::Blocked) => self.blocked = true,
            Err(error) => self.lost = Some(error.into()),
        }
        false
    }

    /// Moves frames from the session to the link until one of them has no more.
    #[inline]
    pub(super) fn pump(&mut self) {
        self.session.append_output();
        if self.session.uses_lease() {
            self.session.tell_time(now());
        }
        loop {
            let (session, Some((tx, mut cx))) = self.session_and_link() else {
                return;
            };
            let progress = session.transmit(|frame| tx.poll_send(&mut cx, frame));
            if !self.note(progress) {
                return;
            }
        }
    }

    /// Flushes now, or leaves it to the driver so that it covers more.
    ///
    /// A lone request is written at once. With many in flight one write for
    /// each would cost more than all else, but one write for all would make
    /// both ends take turns; a part of what is in flight keeps both busy.
    #[inline]
    pub(super) fn flush_by_rule(&mut self) {
        if self.unflushed == 0 {
            return;
        }
        let open = self.session.streams_open();
        if open <= 1 || self.unflushed >= flush_batch(open) {
            self.flush();
        } else {
            self.flush_wanted = true;
        }
    }

    pub(super) fn flush(&mut self) {
        if self.lost.is_some() {
            return;
        }
        self.unflushed = 0;
        let Some(tx) = &mut self.tx else {
            return;
        };
        let mut cx = Context::from_waker(&self.driver);
        let flushed = tx.poll_flush(&mut cx);
        self.flush_pending = flushed.is_pending();
        if let Poll::Ready(Err(error)) = flushed {
            self.lost = Some(error.into());
        }
    }

    /// Whether frames were taken by the link and not yet handed to its medium.
    pub(super) fn wants_flush(&self) -> bool {
        self.unflushed > 0 || self.flush_wanted || self.flush_pending
    }
}

/// Frames worth one write when `open` streams are open: a quarter of them, at
/// least a few, at most what two kilobytes of small frames make.
///
/// Measured with `bench run --goal P9`: an eighth, and at least two, costs 1.4
/// times the CPU at 16 in flight and a third of the rate; a half and more gains
/// nothing up to 64 in flight, since both ends then take turns.
fn flush_batch(open: usize) -> usize {
    (open / 4).clamp(4, 64)
}
