//! The sending half: messages are gathered in one buffer and written in one go.
//!
//! Owns the bytes that are queued for the stream, and their bound: less than
//! [`HIGH_WATER`], one frame and one control frame of each kind.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use rsocket_core::transport::{FrameTx, OutFrame, TransportError, WriteQueue};
use tokio::io::AsyncWrite;

use super::{
    Fault, Role, code,
    header::OpCode,
    message::{self, put_binary, put_control},
    outlet::{Outlet, State},
    stream_error,
};

/// Queued bytes at which no further frame is taken.
///
/// One write of this size costs little per byte, and a peer that stops reading
/// pins no more than this beside what the kernel buffers.
pub(super) const HIGH_WATER: usize = 64 * 1024;

/// Frames on their way into `W`.
pub(super) struct SocketTx<W: AsyncWrite + Send + Unpin + 'static> {
    outlet: Arc<Outlet<W>>,
    batch: Batch,
    max_frame_len: usize,
    is_vectored: bool,
    fault: Option<Fault>,
}

/// What is queued.
struct Batch {
    queue: WriteQueue,
    role: Role,
    /// Whether a closing frame is at the end of the queue, or was.
    is_closing: bool,
}

impl<W: AsyncWrite + Send + Unpin + 'static> SocketTx<W> {
    pub(super) fn new(outlet: Arc<Outlet<W>>, role: Role, max_frame_len: usize) -> Self {
        let is_vectored = outlet.lock().is_write_vectored();
        Self {
            outlet,
            batch: Batch {
                queue: message::queue(),
                role,
                is_closing: false,
            },
            max_frame_len,
            is_vectored,
            fault: None,
        }
    }

    /// Writes until the queue is empty: one write where the stream has room.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let mut state = self.outlet.lock();
        let drained = self.batch.poll_drain(&mut state, cx);
        // Not only within a message: as long as this half is the one that the
        // stream is to wake.
        state.is_tx_busy = drained.is_pending();
        drop(state);
        drained.map_err(|failed| self.fail(failed))
    }

    /// Marks the half as dead and frees what nobody will write any more.
    fn fail(&mut self, failed: Failed) -> TransportError {
        self.batch.queue = message::queue();
        match failed {
            Failed::Io(error) => {
                self.fault = Some(Fault::Io(error.kind()));
                stream_error(error)
            }
            Failed::Closed => {
                self.fault = Some(Fault::SendingClosed);
                Fault::SendingClosed.into()
            }
        }
    }

    fn check(&self) -> Result<(), TransportError> {
        match &self.fault {
            None => Ok(()),
            Some(fault) => Err(fault.clone().into()),
        }
    }
}

impl Batch {
    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        state: &mut State<W>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        ready!(state.poll_writing(cx))?;
        loop {
            // Under the mark, so that a peer that pings and never reads does not
            // make the queue grow.
            if self.queue.len() < HIGH_WATER && !state.news.is_empty() {
                self.is_closing |= state.news.put(&mut self.queue, self.role);
            }
            if self.queue.is_empty() {
                break;
            }
            if state.is_closing && !self.is_closing && !state.has_news() {
                // The receiving half wrote a closing frame: nothing may follow.
                return Poll::Ready(Err(Failed::Closed));
            }
            let n = ready!(state.poll_write(cx, &self.queue))?;
            self.queue.advance(n);
        }
        ready!(state.poll_flush(cx))?;
        if self.is_closing {
            state.close_is_written();
        }
        Poll::Ready(Ok(()))
    }
}

/// Why the queue cannot be written.
enum Failed {
    Io(io::Error),
    /// There was a closing frame.
    Closed,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<W: AsyncWrite + Send + Unpin + 'static> FrameTx for SocketTx<W> {
    /// # Panics
    ///
    /// When `frame` is longer than the link's limits allow, for which the peer
    /// may end the link.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frame: &OutFrame<'_>,
    ) -> Poll<Result<(), TransportError>> {
        self.check()?;
        if self.batch.queue.len() >= HIGH_WATER {
            // A write that took a part may have made room enough.
            if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
            if self.batch.queue.len() >= HIGH_WATER {
                return Poll::Pending;
            }
        }
        if self.batch.is_closing {
            return Poll::Ready(Err(self.fail(Failed::Closed)));
        }
        let len = frame.len();
        assert!(
            len <= self.max_frame_len,
            "a frame of {len} bytes on a link that takes {}",
            self.max_frame_len
        );
        let mask = self.batch.role.mask();
        put_binary(&mut self.batch.queue, frame, len, mask, self.is_vectored);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.check()?;
        self.poll_drain(cx)
    }

    /// Says goodbye, and does not wait for the answer: that comes to the receiving
    /// half.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.fault == Some(Fault::SendingClosed) && self.batch.is_closing {
            return Poll::Ready(Ok(()));
        }
        self.check()?;
        if !self.batch.is_closing {
            let mut state = self.outlet.lock();
            if state.begin_closing() {
                // No pong may follow.
                let Batch { queue, role, .. } = &mut self.batch;
                state.news.put(queue, *role);
                let code = code::NORMAL.to_be_bytes();
                put_control(queue, OpCode::Close, &code, role.mask());
                self.batch.is_closing = true;
            }
        }
        ready!(self.poll_drain(cx))?;
        self.batch.is_closing = true;
        self.fault = Some(Fault::SendingClosed);
        Poll::Ready(Ok(()))
    }
}

/// The peer learns at once that nothing more comes, even while the receiving
/// half keeps the stream open. What was queued is lost.
impl<W: AsyncWrite + Send + Unpin + 'static> Drop for SocketTx<W> {
    fn drop(&mut self) {
        let mut state = self.outlet.lock();
        if state.has_news() {
            // Best effort, where no message was cut short.
            let _ = state.poll_news(&mut Context::from_waker(Waker::noop()));
        }
        if !state.is_closing {
            state.shut_down();
        }
    }
}
