//! The stream's sending side, which both halves of a link write to.
//!
//! The sending half writes messages. The receiving half now and then has a word
//! for the peer as well: the answer to a ping, the answer to a closing frame, or
//! why it will not read on. It writes that itself while no message is on its way,
//! and else leaves it to the sending half. At most one pong and one closing frame
//! wait, however many pings come.
//!
//! # What is left to do when both halves are gone
//!
//! A socket that is closed with unread bytes, or that receives some afterwards,
//! is reset, and a reset takes away from the peer what it has not read: the last
//! messages before a close, or the code that says what was wrong. So somebody has
//! to read on for a while, until the peer closes too.

use std::{
    io,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use rsocket_core::transport::WriteQueue;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
    time::timeout,
};

use super::{
    Role,
    header::{LONGEST_CONTROL, Mask, OpCode},
    message::{self, put_control},
};

/// How long the peer has to read what was sent and to close: a few round trips
/// anywhere. Longer, and a peer that never closes would keep sockets open here
/// that nobody uses.
const PATIENCE: Duration = Duration::from_secs(2);

/// Held by the halves; acts when the second of them drops it.
pub(super) struct Outlet<W: AsyncWrite + Send + Unpin + 'static>(Mutex<State<W>>);

impl<W: AsyncWrite + Send + Unpin + 'static> Outlet<W> {
    pub(super) fn new(write: W, role: Role) -> Self {
        Self(Mutex::new(State {
            write: Some(write),
            role,
            news: News::default(),
            writing: message::queue(),
            is_reply_closing: false,
            is_unflushed: false,
            is_tx_busy: false,
            is_closing: false,
            is_close_written: false,
            is_peer_closed: false,
            unread: None,
        }))
    }

    /// Held for one poll at a time.
    pub(super) fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct State<W> {
    /// Until the outlet is dropped.
    write: Option<W>,
    role: Role,
    /// What the receiving half wants to be said, and nobody has begun to write.
    pub(super) news: News,
    /// What the receiving half has begun to write.
    writing: WriteQueue,
    /// Whether a closing frame is at its end, or was.
    is_reply_closing: bool,
    /// Whether `write` may hold bytes that only its flush hands on.
    is_unflushed: bool,
    /// Whether a message is on its way: the receiving half must not interrupt it,
    /// nor take the sending half's place as the one that the stream wakes.
    pub(super) is_tx_busy: bool,
    /// Whether a closing frame was written, or will be next: nothing may follow.
    pub(super) is_closing: bool,
    is_close_written: bool,
    /// Whether the peer sent a closing frame.
    is_peer_closed: bool,
    /// The receiving side, if it was dropped before the stream's end.
    unread: Option<Box<dyn AsyncRead + Send + Unpin>>,
}

/// Control frames that are due.
#[derive(Default)]
pub(super) struct News {
    /// Answers the last ping: RFC 6455, section 5.5.3, lets us skip the others.
    pong: Option<Payload>,
    close: Option<Payload>,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.pong.is_none() && self.close.is_none()
    }

    /// Moves everything to the end of `queue`; whether that closes it.
    pub(super) fn put(&mut self, queue: &mut WriteQueue, role: Role) -> bool {
        if let Some(pong) = self.pong.take() {
            put_control(queue, OpCode::Pong, pong.as_slice(), role.mask());
        }
        let close = self.close.take();
        if let Some(close) = &close {
            put_control(queue, OpCode::Close, close.as_slice(), role.mask());
        }
        close.is_some()
    }
}

/// The payload of a control frame.
struct Payload {
    bytes: [u8; LONGEST_CONTROL],
    len: usize,
}

impl Payload {
    /// Longer ones are cut off.
    fn new(parts: [&[u8]; 2]) -> Self {
        let mut payload = Self {
            bytes: [0; LONGEST_CONTROL],
            len: 0,
        };
        let source = parts.into_iter().flatten();
        for (to, from) in payload.bytes.iter_mut().zip(source) {
            *to = *from;
            payload.len += 1;
        }
        payload
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Role {
    /// A mask for the next frame, if this end has to mask.
    #[inline]
    pub(super) fn mask(self) -> Option<Mask> {
        match self {
            Self::Client => Some(Mask::random()),
            Self::Server => None,
        }
    }
}

impl<W: AsyncWrite + Unpin> State<W> {
    /// The peer wants to know whether anybody is here.
    pub(super) fn answer_ping(&mut self, payload: &[u8]) {
        if !self.is_closing {
            self.news.pong = Some(Payload::new([payload, &[]]));
        }
    }

    /// The peer closed, with this code.
    pub(super) fn peer_closed(&mut self, code: Option<u16>) {
        self.is_peer_closed = true;
        self.close(code, "");
        if self.is_close_written {
            self.shut_down();
        }
    }

    /// Nothing more is to be said than why. Does nothing after a closing frame.
    pub(super) fn close(&mut self, code: Option<u16>, reason: &str) {
        if !self.is_closing {
            self.is_closing = true;
            let code = code.map(u16::to_be_bytes);
            let code = code.as_ref().map_or(&[][..], |code| &code[..]);
            self.news.close = Some(Payload::new([code, reason.as_bytes()]));
        }
    }

    /// The sending half is about to queue a closing frame; whether it may.
    pub(super) fn begin_closing(&mut self) -> bool {
        !std::mem::replace(&mut self.is_closing, true)
    }

    /// Once both ends have closed, the stream has no further use.
    pub(super) fn close_is_written(&mut self) {
        if !self.is_close_written {
            self.is_close_written = true;
            if self.is_peer_closed {
                self.shut_down();
            }
        }
    }

    /// Writes what the receiving half has to say, unless a message is on its way.
    pub(super) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_tx_busy {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_writing(cx))?;
        if !self.news.is_empty() {
            self.is_reply_closing |= self.news.put(&mut self.writing, self.role);
            ready!(self.poll_writing(cx))?;
        }
        ready!(self.poll_flush(cx))?;
        if self.is_reply_closing {
            self.close_is_written();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the receiving half has something left to write.
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty() || !self.writing.is_empty()
    }

    /// Writes the rest of what the receiving half has begun to write.
    pub(super) fn poll_writing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(bytes) = self.writing.copied().filter(|bytes| !bytes.is_empty()) {
            let n = match &mut self.write {
                Some(write) => ready!(Pin::new(write).poll_write(cx, bytes))?,
                None => 0,
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_unflushed = true;
            self.writing.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes some of `queue`; the number of bytes, or an error if none.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        queue: &WriteQueue,
    ) -> Poll<io::Result<usize>> {
        let Some(write) = &mut self.write else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let write = Pin::new(write);
        let written = if let Some(bytes) = queue.copied() {
            write.poll_write(cx, bytes)
        } else {
            let mut slices = [io::IoSlice::new(&[]); WriteQueue::MAX_SLICES];
            let slices = queue.fill(&mut slices);
            write.poll_write_vectored(cx, slices)
        };
        match ready!(written)? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            n => {
                self.is_unflushed = true;
                Poll::Ready(Ok(n))
            }
        }
    }

    pub(super) fn is_write_vectored(&self) -> bool {
        self.write.as_ref().is_some_and(W::is_write_vectored)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_unflushed {
            if let Some(write) = &mut self.write {
                ready!(Pin::new(write).poll_flush(cx))?;
            }
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the stream, as far as that can be done at once; what could not is
    /// done when it is dropped.
    pub(super) fn shut_down(&mut self) {
        if let Some(write) = &mut self.write {
            let _ = Pin::new(write).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// The receiving half is gone before the stream's end.
    pub(super) fn leave_unread(&mut self, read: impl AsyncRead + Send + Unpin + 'static) {
        self.unread = Some(Box::new(read));
    }
}

impl<W: AsyncWrite + Send + Unpin + 'static> Drop for Outlet<W> {
    fn drop(&mut self) {
        let state = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        // A link that was dropped and not closed has nothing to say, and without
        // a runtime there is nobody who could wait.
        if state.is_closing
            && let (Some(mut read), Some(mut write)) = (state.unread.take(), state.write.take())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                let mut nowhere = tokio::io::sink();
                let farewell = async {
                    use tokio::io::AsyncWriteExt as _;

                    let _ = write.shutdown().await;
                    tokio::io::copy(&mut read, &mut nowhere).await
                };
                // Whatever ends it, the stream may go then.
                let _ = timeout(PATIENCE, farewell).await;
            });
        }
    }
}
