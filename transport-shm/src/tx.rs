//! The sending half.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use rsocket_core::transport::{FrameTx, LentMemory, OutFrame, Part, TransportError};

use crate::{
    bell::{Bell, Half},
    ring::{Corrupt, Producer, Sent},
};

/// Sends frames through this side's memory.
#[derive(Debug)]
pub(crate) struct Tx {
    producer: Producer,
    bell: Arc<Bell>,
    state: State,
    /// A frame that goes through the ring in pieces, and not all of them fit yet.
    long: Option<Long>,
}

/// A frame over [`Producer::max_whole_len`] that was taken.
#[derive(Debug)]
struct Long {
    parts: [Bytes; 3],
    sent: usize,
}

impl Long {
    fn try_send_piece(&mut self, producer: &mut Producer) -> Result<Sent, Corrupt> {
        let [head, metadata, data] = &self.parts;
        let frame = OutFrame::new(
            head,
            Part::shared(metadata, metadata),
            Part::shared(data, data),
        );
        producer.try_send_piece(&frame, &mut self.sent)
    }

    fn is_sent(&self) -> bool {
        self.sent == self.parts.iter().map(Bytes::len).sum()
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Open,
    Closed,
    /// The peer said of itself what cannot be.
    Corrupt(Corrupt),
    /// The peer is gone, or its receiving half is.
    Lost,
}

impl Tx {
    pub(crate) fn new(producer: Producer, bell: Arc<Bell>) -> Self {
        Self {
            producer,
            bell,
            state: State::Open,
            long: None,
        }
    }

    fn check(&mut self) -> Result<(), TransportError> {
        if matches!(self.state, State::Open | State::Closed) && self.bell.is_gone() {
            self.state = State::Lost;
        }
        match self.state {
            State::Open => Ok(()),
            State::Closed => Err(TransportError::lost("this side has closed the link")),
            State::Corrupt(corrupt) => Err(TransportError::misbehaved(corrupt)),
            State::Lost => Err(TransportError::lost("the peer is gone")),
        }
    }

    /// Does what `send` does, one record, once there is room for it.
    fn poll_room(
        &mut self,
        cx: &Context<'_>,
        mut send: impl FnMut(&mut Producer) -> Result<Sent, Corrupt>,
    ) -> Poll<Result<(), TransportError>> {
        let mut is_announced = false;
        loop {
            match send(&mut self.producer) {
                Ok(Sent::Done) => return Poll::Ready(Ok(())),
                Ok(Sent::Full) => {}
                Err(corrupt) => {
                    self.state = State::Corrupt(corrupt);
                    // The other half must not go on with such a peer.
                    self.bell.hang_up();
                    self.check()?;
                }
            }
            if self.producer.is_deaf() {
                self.state = State::Lost;
            }
            self.check()?;
            if is_announced {
                ready!(self.bell.listen(Half::Tx));
                is_announced = false;
            } else {
                // Frames that the receiver was not told of never make room.
                self.tell();
                self.bell.leave_word(Half::Tx, cx.waker());
                self.producer.announce_wait();
                is_announced = true;
            }
        }
    }

    /// Whether there is nothing to see to before a frame is sent.
    #[inline]
    fn is_idle(&self) -> bool {
        matches!(self.state, State::Open) && self.long.is_none() && !self.bell.is_gone()
    }

    /// Sends a frame whatever there is to see to before.
    #[inline(never)]
    fn poll_send_with_care(
        &mut self,
        cx: &Context<'_>,
        frame: &OutFrame<'_>,
    ) -> Poll<Result<(), TransportError>> {
        self.check()?;
        ready!(self.poll_pieces(cx))?;
        if frame.len() > self.producer.max_whole_len() {
            self.long = Some(Long {
                parts: frame.parts().map(|part| part.to_bytes()),
                sent: 0,
            });
            // It is taken, whether or not all of it finds room now.
            return match self.poll_pieces(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
            };
        }
        self.poll_room(cx, |producer| producer.try_send(frame))
    }

    /// Sends the pieces that are left of a long frame.
    fn poll_pieces(&mut self, cx: &Context<'_>) -> Poll<Result<(), TransportError>> {
        let Some(mut long) = self.long.take() else {
            return Poll::Ready(Ok(()));
        };
        while !long.is_sent() {
            // One by one: each that is sent ends the wait that was announced.
            let polled = self.poll_room(cx, |producer| long.try_send_piece(producer));
            if !matches!(polled, Poll::Ready(Ok(()))) {
                self.long = Some(long);
                return polled;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn tell(&mut self) {
        if self.producer.wants_bell() {
            self.bell.ring();
        }
    }
}

impl FrameTx for Tx {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frame: &OutFrame<'_>,
    ) -> Poll<Result<(), TransportError>> {
        if self.is_idle()
            && frame.len() <= self.producer.max_whole_len()
            && matches!(self.producer.try_send(frame), Ok(Sent::Done))
        {
            return Poll::Ready(Ok(()));
        }
        self.poll_send_with_care(cx, frame)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.check()?;
        ready!(self.poll_pieces(cx))?;
        self.tell();
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if !matches!(self.state, State::Closed) {
            self.check()?;
            ready!(self.poll_pieces(cx))?;
            ready!(self.poll_room(cx, Producer::try_close))?;
            self.state = State::Closed;
        }
        self.tell();
        Poll::Ready(Ok(()))
    }

    fn lend(&mut self, len: usize) -> Option<Box<dyn LentMemory>> {
        self.check().ok()?;
        self.producer.lend(len)
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        self.bell.forget(Half::Tx);
        if !matches!(self.state, State::Closed) {
            // The receiver would take silence for a pause.
            self.bell.hang_up();
        }
    }
}
