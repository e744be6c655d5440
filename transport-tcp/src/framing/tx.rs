//! The sending half: frames are gathered in one buffer and written in one go.
//!
//! Owns the bytes that are queued for the stream, and their bound: less than
//! [`HIGH_WATER`] and one frame.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use rsocket_core::transport::{FrameTx, OutFrame, TransportError, WriteQueue};
use tokio::io::AsyncWrite;

use super::{Fault, PREFIX_LEN, farewell::Farewell, stream_error};

/// Queued bytes at which no further frame is taken.
///
/// One write of this size costs little per byte, and a peer that stops reading
/// pins no more than this beside what the kernel buffers.
const HIGH_WATER: usize = 64 * 1024;

/// Memory that the queue keeps when it is empty, in bytes. Twice the mark, as a
/// queue just below the mark takes one more short frame.
const KEPT_CAPACITY: usize = 2 * HIGH_WATER;

/// Frames on their way into `W`.
pub(crate) struct StreamTx<W: AsyncWrite + Unpin> {
    write: W,
    queue: WriteQueue,
    max_frame_len: usize,
    /// Whether `write` takes several pieces at once; else all is copied, as each
    /// piece would be a write of its own.
    is_vectored: bool,
    /// Whether `write` may hold bytes that only its flush hands on.
    is_unflushed: bool,
    /// Of sockets only.
    farewell: Option<Arc<Farewell>>,
    fault: Option<Fault>,
}

impl<W: AsyncWrite + Unpin> StreamTx<W> {
    pub(crate) fn new(write: W, max_frame_len: usize, farewell: Option<Arc<Farewell>>) -> Self {
        Self {
            is_vectored: write.is_write_vectored(),
            write,
            queue: WriteQueue::new(KEPT_CAPACITY),
            max_frame_len,
            is_unflushed: false,
            farewell,
            fault: None,
        }
    }

    /// Writes until the queue is empty: one write where the stream has room.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        while !self.queue.is_empty() {
            let write = Pin::new(&mut self.write);
            let written = if let Some(bytes) = self.queue.copied() {
                write.poll_write(cx, bytes)
            } else {
                let mut slices = [IoSlice::new(&[]); WriteQueue::MAX_SLICES];
                let slices = self.queue.fill(&mut slices);
                write.poll_write_vectored(cx, slices)
            };
            match ready!(written) {
                Ok(0) => return Poll::Ready(Err(self.fail(io::ErrorKind::WriteZero.into()))),
                Ok(n) => {
                    self.is_unflushed = true;
                    self.queue.advance(n);
                }
                Err(error) => return Poll::Ready(Err(self.fail(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Appends a frame and its length.
    #[inline]
    fn push(&mut self, frame: &OutFrame<'_>, len: usize) {
        let [.., high, middle, low] = len.to_be_bytes();
        let prefix = [high, middle, low];
        if len >= WriteQueue::SHARE_FROM && self.is_vectored {
            self.queue.room(PREFIX_LEN).extend_from_slice(&prefix);
            return self.queue.share(frame);
        }
        let out = self.queue.room(PREFIX_LEN + len);
        out.extend_from_slice(&prefix);
        frame.put(out);
    }

    /// Marks the half as dead and frees what nobody will write any more.
    fn fail(&mut self, error: io::Error) -> TransportError {
        self.fault = Some(Fault::Io(error.kind()));
        self.queue = WriteQueue::new(KEPT_CAPACITY);
        stream_error(error)
    }

    fn check(&self) -> Result<(), TransportError> {
        self.fault.map_or(Ok(()), |fault| Err(fault.into()))
    }
}

impl<W: AsyncWrite + Send + Unpin + 'static> FrameTx for StreamTx<W> {
    /// # Panics
    ///
    /// When `frame` is longer than the link's limits allow, which would shift
    /// the length of every frame after it.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frame: &OutFrame<'_>,
    ) -> Poll<Result<(), TransportError>> {
        self.check()?;
        if self.queue.len() >= HIGH_WATER {
            // A write that took a part may have made room enough.
            if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
            if self.queue.len() >= HIGH_WATER {
                return Poll::Pending;
            }
        }
        let len = frame.len();
        assert!(
            len <= self.max_frame_len,
            "a frame of {len} bytes on a link that takes {}",
            self.max_frame_len
        );
        self.push(frame, len);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.check()?;
        ready!(self.poll_drain(cx))?;
        if self.is_unflushed {
            if let Err(error) = ready!(Pin::new(&mut self.write).poll_flush(cx)) {
                return Poll::Ready(Err(self.fail(error)));
            }
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.fault == Some(Fault::Closed) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_flush(cx))?;
        match ready!(Pin::new(&mut self.write).poll_shutdown(cx)) {
            // The peer is gone already, and had taken all that there was.
            Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                Poll::Ready(Err(self.fail(error)))
            }
            _ => {
                self.fault = Some(Fault::Closed);
                if let Some(farewell) = &self.farewell {
                    farewell.closed();
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// The peer learns at once that nothing more comes, even while the receiving
/// half keeps the stream open. What was queued is lost.
impl<W: AsyncWrite + Unpin> Drop for StreamTx<W> {
    fn drop(&mut self) {
        // Halves of sockets see to it themselves.
        if self.fault.is_none() && self.farewell.is_none() {
            // Best effort: a stream that cannot end now ends when it is dropped.
            let _ =
                Pin::new(&mut self.write).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rsocket_core::transport::Part;

    use super::*;

    /// Takes what a seed decides, in small bites, with pauses.
    struct Nibbler {
        seed: u64,
        taken: Vec<u8>,
        is_vectored: bool,
    }

    impl Nibbler {
        fn new(seed: u64, is_vectored: bool) -> Self {
            Self {
                seed,
                taken: Vec::new(),
                is_vectored,
            }
        }
    }

    /// A xorshift: enough to vary lengths.
    fn random(seed: &mut u64, below: usize) -> usize {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        usize::try_from(*seed % below as u64).unwrap()
    }

    impl AsyncWrite for Nibbler {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.as_mut()
                .poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            if random(&mut self.seed, 4) == 0 {
                return Poll::Pending;
            }
            let offered = slices.iter().map(|slice| slice.len()).sum();
            let n = 1 + random(&mut self.seed, offered);
            let mut left = n;
            for slice in slices {
                let part = left.min(slice.len());
                self.taken.extend_from_slice(&slice[..part]);
                left -= part;
            }
            Poll::Ready(Ok(n))
        }

        fn is_write_vectored(&self) -> bool {
            self.is_vectored
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn nibbled(seed: u64, is_vectored: bool, max_frame_len: usize) -> StreamTx<Nibbler> {
        let write = Nibbler::new(seed, is_vectored);
        StreamTx::new(write, max_frame_len, None)
    }

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn flush(tx: &mut StreamTx<Nibbler>) {
        while tx
            .poll_flush(&mut context())
            .map(Result::unwrap)
            .is_pending()
        {}
    }

    // [C009]
    #[test]
    fn any_mix_of_copied_and_shared_parts_arrives_in_order_through_any_short_writes() {
        let bytes = Bytes::from_iter((0..50_000_u32).map(|i| i.to_be_bytes()[3] ^ 0x55));
        for seed in 1..=500 {
            let mut rng = seed * 0x9E37_79B9;
            let is_vectored = random(&mut rng, 4) > 0;
            let mut tx = nibbled(seed, is_vectored, 1 << 20);
            let mut expected = Vec::new();
            for _ in 0..40 {
                let longest = if random(&mut rng, 3) == 0 { 50_000 } else { 60 };
                let metadata = &bytes[random(&mut rng, 100)..][..random(&mut rng, 20_000)];
                let data = &bytes[..random(&mut rng, longest)];
                let part = |rng: &mut u64, part| {
                    if random(rng, 2) == 0 {
                        Part::shared(&bytes, part)
                    } else {
                        Part::slice(part)
                    }
                };
                let (metadata, data) = (part(&mut rng, metadata), part(&mut rng, data));
                let frame = OutFrame::new(&[1, 2, 3], metadata, data);
                while tx
                    .poll_send(&mut context(), &frame)
                    .map(Result::unwrap)
                    .is_pending()
                {
                    assert!(
                        tx.queue.len() >= HIGH_WATER,
                        "seed {seed}: Pending with room"
                    );
                }
                let [.., high, middle, low] = frame.len().to_be_bytes();
                expected.extend_from_slice(&[high, middle, low]);
                frame.put(&mut expected);
                assert!(
                    tx.queue.len() < HIGH_WATER + 70_010,
                    "seed {seed}: over the bound"
                );
                if random(&mut rng, 5) == 0 {
                    flush(&mut tx);
                }
            }
            flush(&mut tx);
            assert!(
                tx.write.taken == expected,
                "seed {seed}: other bytes than sent"
            );
        }
    }

    #[test]
    fn streams_that_take_one_piece_at_a_time_get_one() {
        let long = Bytes::from(vec![1; WriteQueue::SHARE_FROM]);
        let frame = OutFrame::new(&[7; 9], Part::EMPTY, Part::shared(&long, &long));
        for is_vectored in [true, false] {
            let mut tx = nibbled(5, is_vectored, 1 << 20);
            assert!(tx.poll_send(&mut context(), &frame).is_ready());
            assert_eq!(tx.queue.copied().is_none(), is_vectored);
        }
    }

    #[test]
    #[should_panic = "a frame of 65 bytes on a link that takes 64"]
    fn a_frame_over_the_limit_is_a_bug_of_the_sender() {
        let mut tx = nibbled(6, true, 64);
        let frame = OutFrame::new(&[1; 65], Part::EMPTY, Part::EMPTY);
        let _ = tx.poll_send(&mut context(), &frame);
    }
}
