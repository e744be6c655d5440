//! The sending half: frames are gathered in one buffer and written in one go.
//!
//! Owns the bytes that are queued for the stream, and their bound: less than
//! [`HIGH_WATER`] and one frame.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes};
use rsocket_core::transport::{FrameTx, OutFrame, Part, TransportError};
use tokio::io::AsyncWrite;

use super::{Fault, PREFIX_LEN, farewell::Farewell, stream_error};

/// Queued bytes at which no further frame is taken.
///
/// One write of this size costs little per byte, and a peer that stops reading
/// pins no more than this beside what the kernel buffers.
const HIGH_WATER: usize = 64 * 1024;

/// From this length on, bytes that are shared are written from where they are.
///
/// Over loopback (`benches/framing.rs`) a copy costs no more than a reference and
/// two more pieces for `writev` up to here, and about as much up to 32 KiB. Above,
/// not copying tends to win, and it keeps long payloads from being held twice.
const SHARE_FROM: usize = 16 * 1024;

/// Memory that the queue keeps when it is empty, in bytes; what grew beyond it
/// for a long frame is given back. Twice the mark, as a queue just below the
/// mark takes one more short frame.
const KEPT_CAPACITY: usize = 2 * HIGH_WATER;

/// Pieces in one vectored write. The mark is reached with four shared parts, and
/// each has one copied piece in front.
const MAX_SLICES: usize = 16;

/// Frames on their way into `W`.
pub(crate) struct StreamTx<W: AsyncWrite + Unpin> {
    write: W,
    queue: Queue,
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
            queue: Queue::default(),
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
            let written = if self.queue.shared.is_empty() {
                write.poll_write(cx, self.queue.copied())
            } else {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
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

    /// Marks the half as dead and frees what nobody will write any more.
    fn fail(&mut self, error: io::Error) -> TransportError {
        self.fault = Some(Fault::Io(error.kind()));
        self.queue = Queue::default();
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
        self.queue.push(frame, len, self.is_vectored);
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

/// Bytes in the order in which they are to be written.
#[derive(Default)]
struct Queue {
    /// Prefixes, heads, and parts that were copied.
    copied: Vec<u8>,
    /// Bytes of `copied` that are written already.
    start: usize,
    /// Parts that were not copied, in order.
    shared: VecDeque<Shared>,
    /// Bytes left in `shared`.
    shared_len: usize,
}

struct Shared {
    /// Where in `copied` the bytes belong: behind all that precedes this offset.
    at: usize,
    bytes: Bytes,
}

impl Queue {
    fn len(&self) -> usize {
        self.copied.len() - self.start + self.shared_len
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All there is, if nothing is shared.
    fn copied(&self) -> &[u8] {
        self.copied.get(self.start..).unwrap_or_default()
    }

    #[inline]
    fn push(&mut self, frame: &OutFrame<'_>, len: usize, may_share: bool) {
        self.make_room(PREFIX_LEN + if len < SHARE_FROM { len } else { 0 });
        let [.., high, middle, low] = len.to_be_bytes();
        self.copied.extend_from_slice(&[high, middle, low]);
        if len < SHARE_FROM {
            frame.put(&mut self.copied);
        } else {
            self.push_long(frame, may_share);
        }
    }

    #[cold]
    fn push_long(&mut self, frame: &OutFrame<'_>, may_share: bool) {
        for part in frame.parts() {
            if may_share && is_worth_sharing(&part) {
                let bytes = part.to_bytes();
                self.shared_len += bytes.len();
                self.shared.push_back(Shared {
                    at: self.copied.len(),
                    bytes,
                });
            } else {
                self.make_room(part.as_slice().len());
                self.copied.extend_from_slice(part.as_slice());
            }
        }
    }

    #[inline]
    fn make_room(&mut self, needed: usize) {
        if self.copied.capacity() - self.copied.len() < needed {
            self.grow(needed);
        }
    }

    #[cold]
    fn grow(&mut self, needed: usize) {
        // Moves at most as many bytes as were written since the last move, so
        // that a stream which is never quite empty costs one copy a byte.
        if self.start >= self.copied.len() / 2 {
            self.copied.drain(..self.start);
            for shared in &mut self.shared {
                shared.at -= self.start;
            }
            self.start = 0;
        }
        self.copied.reserve(needed);
    }

    /// The next pieces to be written, as many as fit.
    fn fill<'a, 'b>(&'a self, slices: &'b mut [IoSlice<'a>; MAX_SLICES]) -> &'b [IoSlice<'a>] {
        let mut slots = slices.iter_mut();
        let mut used = 0;
        let mut place = |piece: &'a [u8]| {
            if !piece.is_empty()
                && let Some(slot) = slots.next()
            {
                *slot = IoSlice::new(piece);
                used += 1;
            }
        };
        let mut at = self.start;
        for shared in &self.shared {
            place(self.copied.get(at..shared.at).unwrap_or_default());
            place(&shared.bytes);
            at = shared.at;
        }
        place(self.copied.get(at..).unwrap_or_default());
        slices.get(..used).unwrap_or_default()
    }

    /// Forgets `n` bytes that were written.
    fn advance(&mut self, n: usize) {
        // A stream that claims to have written more than it was given is wrong,
        // but not a reason to panic.
        let mut left = n.min(self.len());
        while let Some(front) = self.shared.front_mut() {
            let before = front.at - self.start;
            if left < before {
                break;
            }
            left -= before;
            self.start = front.at;
            let part = left.min(front.bytes.len());
            left -= part;
            self.shared_len -= part;
            front.bytes.advance(part);
            if !front.bytes.is_empty() {
                return;
            }
            self.shared.pop_front();
        }
        self.start += left;
        if self.is_empty() {
            self.copied.clear();
            self.start = 0;
            if self.copied.capacity() > KEPT_CAPACITY {
                self.copied.shrink_to(KEPT_CAPACITY);
            }
        }
    }
}

fn is_worth_sharing(part: &Part<'_>) -> bool {
    part.is_shared() && part.as_slice().len() >= SHARE_FROM
}

#[cfg(test)]
mod tests {
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
    fn sending_allocates_nothing_once_the_buffer_has_its_size() {
        let mut tx = nibbled(1, true, 1 << 20);
        let mut batch = || {
            for _ in 0..32 {
                let frame = OutFrame::new(&[1; 9], Part::EMPTY, Part::slice(&[2; 200]));
                assert!(tx.poll_send(&mut context(), &frame).is_ready());
            }
            flush(&mut tx);
            (tx.queue.copied.as_ptr(), tx.queue.copied.capacity())
        };
        let first = batch();
        for _ in 0..1000 {
            assert_eq!(batch(), first);
        }
    }

    #[test]
    fn a_queue_that_is_never_empty_stays_bounded() {
        let mut tx = nibbled(3, true, 1 << 20);
        for _ in 0..20_000 {
            let frame = OutFrame::new(&[1; 9], Part::EMPTY, Part::slice(&[2; 3000]));
            let _ = tx.poll_send(&mut context(), &frame).map(Result::unwrap);
            tx.write.taken.clear();
        }
        assert!(tx.queue.copied.capacity() <= 4 * HIGH_WATER);
    }

    #[test]
    fn memory_for_a_long_frame_is_given_back() {
        let mut tx = nibbled(4, true, 1 << 20);
        let long = vec![1; 1 << 20];
        let frame = OutFrame::new(&[], Part::EMPTY, Part::slice(&long));
        assert!(tx.poll_send(&mut context(), &frame).is_ready());
        flush(&mut tx);
        assert!(tx.queue.copied.capacity() <= KEPT_CAPACITY);
    }

    #[test]
    fn long_shared_parts_are_not_copied() {
        let mut tx = nibbled(5, true, 1 << 20);
        let long = Bytes::from(vec![1; SHARE_FROM]);
        let frame = OutFrame::new(&[7; 9], Part::EMPTY, Part::shared(&long, &long));
        assert!(tx.poll_send(&mut context(), &frame).is_ready());
        assert_eq!(tx.queue.copied.len(), PREFIX_LEN + 9);
        assert_eq!(tx.queue.shared[0].bytes.as_ptr(), long.as_ptr());
    }

    #[test]
    #[should_panic = "a frame of 65 bytes on a link that takes 64"]
    fn a_frame_over_the_limit_is_a_bug_of_the_sender() {
        let mut tx = nibbled(6, true, 64);
        let frame = OutFrame::new(&[1; 65], Part::EMPTY, Part::EMPTY);
        let _ = tx.poll_send(&mut context(), &frame);
    }
}
