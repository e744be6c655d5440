//! The receiving half: many frames a read, and no more memory than has arrived.
//!
//! Owns the bytes between the stream and the core. A frame is lent from the read
//! buffer, or given away in memory of its own if it is long.

use std::{
    io,
    ops::ControlFlow,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes};
use rsocket_core::transport::{FrameRx, InFrame, Received, TransportError};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use super::{Fault, PREFIX_LEN, farewell::Farewell, stream_error};

/// Bytes of the read buffer: thousands of short frames, or a full socket buffer,
/// for one system call. Fresh pages of it cost nothing until they are read into.
const BUFFER_LEN: usize = 64 * 1024;

/// From this length on, a frame gets memory of its own, of which the core keeps
/// slices. Below, to copy what it keeps costs the core less than an allocation.
const GIVEN_FROM: usize = 4 * 1024;

/// Above this length, a frame that has not arrived whole is read into its own
/// memory directly, at the price of reads that end where the frame ends. Below,
/// a copy costs less than such a read.
const BUFFERED_MAX: usize = 16 * 1024;

/// Memory for a long frame before more of it than this has arrived.
const FIRST_STEP: usize = 64 * 1024;

/// Frames on their way out of `R`.
pub(crate) struct StreamRx<R: AsyncRead + Send + Unpin + 'static> {
    /// Until it is dropped.
    read: Option<R>,
    max_frame_len: usize,
    buffer: Box<[u8]>,
    /// Where in `buffer` the bytes lie that were read and not yet delivered.
    start: usize,
    end: usize,
    /// The frame in progress, if it is a long one; `buffer` is empty then.
    long: Option<LongFrame>,
    state: State,
    /// Of sockets only.
    farewell: Option<Arc<Farewell>>,
}

#[derive(Clone, Copy)]
enum State {
    Open,
    Ended,
    Failed(Fault),
}

impl<R: AsyncRead + Send + Unpin + 'static> StreamRx<R> {
    pub(crate) fn new(read: R, max_frame_len: usize, farewell: Option<Arc<Farewell>>) -> Self {
        Self {
            read: Some(read),
            max_frame_len,
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            start: 0,
            end: 0,
            long: None,
            state: State::Open,
            farewell,
        }
    }

    /// Delivers the whole frames that are here; whether there was one.
    fn deliver(
        &mut self,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Result<bool, Fault> {
        if let Some(frame) = self.long.take_if(|long| long.is_whole()) {
            // The buffer behind it is empty.
            let _ = sink(InFrame::Shared(frame.bytes.into()));
            return Ok(true);
        }
        let mut delivered = false;
        while let Some(([high, middle, low], rest)) = self
            .buffer
            .get(self.start..self.end)
            .and_then(<[u8]>::split_first_chunk::<PREFIX_LEN>)
        {
            let len = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
            let Some(frame) = rest.get(..len) else {
                // Not yet the error, if frames were delivered: they come first.
                if !delivered {
                    self.begin(len)?;
                }
                break;
            };
            if len > self.max_frame_len {
                if delivered {
                    break;
                }
                return Err(self.too_long(len));
            }
            self.start += PREFIX_LEN + len;
            delivered = true;
            let frame = if len < GIVEN_FROM {
                InFrame::Borrowed(frame)
            } else {
                InFrame::Shared(Bytes::copy_from_slice(frame))
            };
            if sink(frame).is_break() {
                break;
            }
        }
        Ok(delivered)
    }

    /// Looks at the length of a frame that has not arrived whole.
    #[cold]
    fn begin(&mut self, len: usize) -> Result<(), Fault> {
        if len > self.max_frame_len {
            return Err(self.too_long(len));
        }
        if len > BUFFERED_MAX {
            let arrived = self.buffer.get(self.start + PREFIX_LEN..self.end);
            self.long = Some(LongFrame::new(len, arrived.unwrap_or_default()));
            self.start = self.end;
        }
        Ok(())
    }

    fn too_long(&self, len: usize) -> Fault {
        Fault::TooLong {
            len,
            max: self.max_frame_len,
        }
    }

    /// One read; the number of bytes that came, 0 at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(read) = &mut self.read else {
            return Poll::Ready(Ok(0));
        };
        if let Some(long) = &mut self.long {
            return long.poll_read(read, cx);
        }
        if self.start > 0 {
            // At most BUFFERED_MAX bytes, so there is always room behind them.
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        let mut free = ReadBuf::new(free);
        ready!(Pin::new(read).poll_read(cx, &mut free))?;
        let n = free.filled().len();
        self.end += n;
        Poll::Ready(Ok(n))
    }

    /// What the end of the stream means here.
    fn end(&mut self) -> Result<Received, TransportError> {
        let arrived = match &self.long {
            Some(long) => PREFIX_LEN + long.bytes.len(),
            None => self.end - self.start,
        };
        if arrived > 0 {
            return Err(self.fail(Fault::Truncated { arrived }).into());
        }
        self.state = State::Ended;
        self.free();
        Ok(Received::End)
    }

    fn fail(&mut self, fault: Fault) -> Fault {
        self.state = State::Failed(fault);
        self.free();
        fault
    }

    /// Nothing more will be read.
    fn free(&mut self) {
        (self.start, self.end) = (0, 0);
        self.buffer = Box::default();
        self.long = None;
    }
}

impl<R: AsyncRead + Send + Unpin + 'static> FrameRx for StreamRx<R> {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<Received, TransportError>> {
        match self.state {
            State::Open => {}
            State::Ended => return Poll::Ready(Ok(Received::End)),
            State::Failed(fault) => return Poll::Ready(Err(fault.into())),
        }
        // Reads only when nothing is left from before, and again only when what
        // came is less than a frame.
        loop {
            match self.deliver(sink) {
                Ok(true) => return Poll::Ready(Ok(Received::Frames)),
                Ok(false) => {}
                Err(fault) => return Poll::Ready(Err(self.fail(fault).into())),
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(self.end()),
                Ok(_) => {}
                Err(error) => {
                    self.fail(Fault::Io(error.kind()));
                    return Poll::Ready(Err(stream_error(error)));
                }
            }
        }
    }
}

impl<R: AsyncRead + Send + Unpin + 'static> Drop for StreamRx<R> {
    fn drop(&mut self) {
        if let (State::Open, Some(farewell), Some(read)) =
            (self.state, &self.farewell, self.read.take())
        {
            farewell.leave_unread(read);
        }
    }
}

/// A frame that is collected in memory of its own.
struct LongFrame {
    /// What has arrived. The capacity is never more than twice that, or
    /// [`FIRST_STEP`], and `len` in the end: a peer that announces a long frame
    /// has to send it before it costs its length here.
    bytes: Vec<u8>,
    len: usize,
}

impl LongFrame {
    fn new(len: usize, arrived: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(len.min(FIRST_STEP));
        bytes.extend_from_slice(arrived);
        Self { bytes, len }
    }

    fn is_whole(&self) -> bool {
        self.bytes.len() == self.len
    }

    fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        read: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let arrived = self.bytes.len();
        let missing = self.len - arrived;
        if self.bytes.capacity() == arrived {
            self.bytes.reserve_exact(arrived.min(missing));
        }
        let room = missing.min(self.bytes.capacity() - arrived);
        let mut target = (&mut self.bytes).limit(room);
        pin!(read.read_buf(&mut target)).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// What one poll brings: lengths of the frames, and how it ended.
    fn poll(
        rx: &mut StreamRx<DuplexStream>,
    ) -> (Vec<usize>, Poll<Result<Received, TransportError>>) {
        let mut lens = Vec::new();
        let result = rx.poll_recv(&mut Context::from_waker(Waker::noop()), &mut |frame| {
            lens.push(frame.as_slice().len());
            ControlFlow::Continue(())
        });
        (lens, result)
    }

    // [C012]
    #[tokio::test]
    async fn a_peer_that_announces_a_long_frame_pays_for_it_first() {
        let (mut peer, ours) = duplex(1 << 20);
        let mut rx = StreamRx::new(ours, 0x00FF_FFFF, None);
        let capacity = |rx: &StreamRx<_>| rx.long.as_ref().map(|long| long.bytes.capacity());

        peer.write_all(&[0xFF, 0xFF, 0xFF]).await.unwrap();
        assert!(poll(&mut rx).1.is_pending());
        assert_eq!(capacity(&rx), Some(FIRST_STEP), "for a prefix alone");

        let mut sent = 0;
        for _ in 0..170 {
            let n = 100_000.min(0x00FF_FFFF - sent);
            peer.write_all(&vec![1; n]).await.unwrap();
            sent += n;
            if poll(&mut rx).1.is_pending() {
                assert!(
                    capacity(&rx) <= Some(FIRST_STEP.max(2 * sent)),
                    "{sent} bytes came"
                );
            }
        }
        assert_eq!(sent, 0x00FF_FFFF);
        assert!(rx.long.is_none(), "delivered");
    }

    #[tokio::test]
    async fn a_long_frame_is_given_away_in_memory_of_its_exact_size() {
        let (mut peer, ours) = duplex(1 << 20);
        let mut rx = StreamRx::new(ours, 0x00FF_FFFF, None);
        peer.write_all(&[0x01, 0x86, 0xA0]).await.unwrap();
        peer.write_all(&[1; 100_000]).await.unwrap();

        while rx.long.as_ref().is_none_or(|long| !long.is_whole()) {
            let mut cx = Context::from_waker(Waker::noop());
            assert!(!rx.deliver(&mut |_| ControlFlow::Break(())).unwrap());
            assert!(rx.poll_fill(&mut cx).is_ready());
        }

        assert_eq!(rx.long.as_ref().unwrap().bytes.capacity(), 100_000);
    }

    #[tokio::test]
    async fn whole_frames_at_hand_are_delivered_without_looking_for_more() {
        let (mut peer, ours) = duplex(1 << 20);
        let mut rx = StreamRx::new(ours, 1 << 20, None);
        peer.write_all(&[0, 0, 1, 9, 0, 0, 1, 9, 0, 0])
            .await
            .unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let first = rx.poll_recv(&mut cx, &mut |_| ControlFlow::Break(()));
        assert!(first.is_ready());
        peer.write_all(&[1, 9]).await.unwrap();

        assert_eq!(poll(&mut rx).0, [1], "the second frame came with the first");
        assert_eq!(poll(&mut rx).0, [1], "the third needed another read");
        assert!(poll(&mut rx).1.is_pending());
    }

    #[tokio::test]
    async fn memory_is_freed_at_the_end() {
        let (peer, ours) = duplex(64);
        let mut rx = StreamRx::new(ours, 1 << 20, None);
        drop(peer);
        assert!(matches!(poll(&mut rx).1, Poll::Ready(Ok(Received::End))));
        assert!(
            matches!(poll(&mut rx).1, Poll::Ready(Ok(Received::End))),
            "again"
        );
        assert!(rx.buffer.is_empty());
    }
}
