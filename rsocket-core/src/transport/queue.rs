//! Bytes in the order in which they are to be written.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf as _, Bytes};

use super::{OutFrame, Part};

/// What a transport over a byte stream has to write: short pieces copied one
/// behind the other, long ones left where they are.
///
/// The queue has no bound of its own. Whoever owns it takes no further frame at
/// a mark, so that it holds less than that and one frame.
///
/// # Examples
///
/// ```
/// use rsocket_core::transport::{OutFrame, Part, WriteQueue};
///
/// let frame = OutFrame::new(b"head", Part::EMPTY, Part::slice(b"data"));
/// let mut queue = WriteQueue::new(1024);
/// let out = queue.room(1 + frame.len());
/// out.push(8);
/// frame.put(out);
/// assert_eq!(queue.copied(), Some(&b"\x08headdata"[..]));
///
/// queue.advance(5);
/// assert_eq!(queue.copied(), Some(&b"data"[..]));
/// ```
#[derive(Debug)]
pub struct WriteQueue {
    copied: Vec<u8>,
    /// Bytes of `copied` that are written already.
    start: usize,
    /// Parts that were not copied, in order.
    shared: VecDeque<Shared>,
    /// Bytes left in `shared`.
    shared_len: usize,
    kept: usize,
}

#[derive(Debug)]
struct Shared {
    /// Where in `copied` the bytes belong: behind all that precedes this offset.
    at: usize,
    bytes: Bytes,
}

impl WriteQueue {
    /// From this length on, in bytes, parts that are shared are worth being
    /// written from where they are.
    ///
    /// Over loopback (`benches/framing.rs` of the TCP transport) a copy costs no
    /// more than a reference and two more pieces for `writev` up to here, and
    /// about as much up to 32 KiB. Above, not copying tends to win, and it keeps
    /// long payloads from being held twice.
    pub const SHARE_FROM: usize = 16 * 1024;

    /// Pieces in one vectored write. A mark of 64 KiB is reached with four shared
    /// parts, and each has one copied piece in front.
    pub const MAX_SLICES: usize = 16;

    /// An empty queue that keeps at most `kept` bytes of memory when it is empty;
    /// what grew beyond it for a long frame is given back.
    pub fn new(kept: usize) -> Self {
        Self {
            copied: Vec::new(),
            start: 0,
            shared: VecDeque::new(),
            shared_len: 0,
            kept,
        }
    }

    /// Bytes that are to be written.
    #[inline]
    pub fn len(&self) -> usize {
        self.copied.len() - self.start + self.shared_len
    }

    /// Whether all is written.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory for what is copied.
    pub fn capacity(&self) -> usize {
        self.copied.capacity()
    }

    /// The end of the queue, with room for `len` bytes that are to follow.
    ///
    /// Append to it, and change no more than what was appended: what lies before
    /// is spoken for.
    #[inline]
    pub fn room(&mut self, len: usize) -> &mut Vec<u8> {
        if self.copied.capacity() - self.copied.len() < len {
            self.grow(len);
        }
        &mut self.copied
    }

    #[cold]
    fn grow(&mut self, len: usize) {
        // Moves at most as many bytes as were written since the last move, so
        // that a stream which is never quite empty costs one copy a byte.
        if self.start >= self.copied.len() / 2 {
            self.copied.drain(..self.start);
            for shared in &mut self.shared {
                shared.at -= self.start;
            }
            self.start = 0;
        }
        self.copied.reserve(len);
    }

    /// Appends a frame without copying its parts that are shared and
    /// [long](Self::SHARE_FROM).
    #[cold]
    pub fn share(&mut self, frame: &OutFrame<'_>) {
        for part in frame.parts() {
            if is_worth_sharing(&part) {
                let bytes = part.to_bytes();
                self.shared_len += bytes.len();
                self.shared.push_back(Shared {
                    at: self.copied.len(),
                    bytes,
                });
            } else {
                let bytes = part.as_slice();
                self.room(bytes.len()).extend_from_slice(bytes);
            }
        }
    }

    /// All there is, if nothing is shared: one plain write.
    #[inline]
    pub fn copied(&self) -> Option<&[u8]> {
        if self.shared.is_empty() {
            self.copied.get(self.start..)
        } else {
            None
        }
    }

    /// The next pieces to be written, as many as fit.
    pub fn fill<'a, 'b>(
        &'a self,
        slices: &'b mut [IoSlice<'a>; Self::MAX_SLICES],
    ) -> &'b [IoSlice<'a>] {
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

    /// Forgets `n` bytes that were written; all if there are fewer.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        // A stream that claims to have written more than it was given is wrong,
        // but not a reason to panic.
        let mut left = n.min(self.len());
        if !self.shared.is_empty() {
            left = self.advance_shared(left);
        }
        self.start += left;
        if self.is_empty() {
            self.copied.clear();
            self.start = 0;
            if self.copied.capacity() > self.kept {
                self.copied.shrink_to(self.kept);
            }
        }
    }

    /// Returns how many bytes of `copied` are left to be forgotten.
    #[cold]
    fn advance_shared(&mut self, mut left: usize) -> usize {
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
                break;
            }
            self.shared.pop_front();
        }
        left
    }
}

fn is_worth_sharing(part: &Part<'_>) -> bool {
    part.is_shared() && part.as_slice().len() >= WriteQueue::SHARE_FROM
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: usize = 1 << 17;

    fn frame<'a>(bytes: &'a Bytes) -> OutFrame<'a> {
        OutFrame::new(&[7; 9], Part::EMPTY, Part::shared(bytes, bytes))
    }

    fn copy(queue: &mut WriteQueue, bytes: &Bytes) {
        let frame = frame(bytes);
        frame.put(queue.room(frame.len()));
    }

    #[test]
    fn long_shared_parts_are_left_where_they_are() {
        let long = Bytes::from(vec![1; WriteQueue::SHARE_FROM]);
        let mut queue = WriteQueue::new(KEPT);
        queue.share(&frame(&long));
        assert!(queue.copied().is_none(), "it takes a vectored write");
        let mut slices = [IoSlice::new(&[]); WriteQueue::MAX_SLICES];
        let [head, data] = queue.fill(&mut slices) else {
            panic!("two pieces");
        };
        assert_eq!(head.len(), 9);
        assert_eq!(data.as_ptr(), long.as_ptr());
        let short = long.slice(1..);
        queue.advance(queue.len());
        queue.share(&frame(&short));
        assert!(
            queue
                .copied()
                .is_some_and(|all| all.len() == 9 + short.len())
        );
    }

    #[test]
    fn nothing_is_allocated_once_the_buffer_has_its_size() {
        let bytes = Bytes::from_static(&[2; 200]);
        let mut queue = WriteQueue::new(KEPT);
        let mut batch = || {
            for _ in 0..32 {
                copy(&mut queue, &bytes);
            }
            queue.advance(queue.len());
            (queue.copied.as_ptr(), queue.copied.capacity())
        };
        let first = batch();
        for _ in 0..1000 {
            assert_eq!(batch(), first);
        }
    }

    #[test]
    fn a_queue_that_is_never_empty_stays_bounded() {
        let bytes = Bytes::from_static(&[2; 3000]);
        let mut queue = WriteQueue::new(KEPT);
        for _ in 0..20_000 {
            copy(&mut queue, &bytes);
            queue.advance(queue.len().saturating_sub(50_000));
        }
        assert!(queue.capacity() <= 4 * 53_009, "{}", queue.capacity());
    }

    #[test]
    fn memory_for_a_long_frame_is_given_back() {
        let mut queue = WriteQueue::new(KEPT);
        copy(&mut queue, &Bytes::from(vec![1; 1 << 20]));
        queue.advance(queue.len());
        assert!(queue.capacity() <= KEPT);
    }

    #[test]
    fn more_than_there_is_cannot_be_written() {
        let mut queue = WriteQueue::new(KEPT);
        copy(&mut queue, &Bytes::from_static(b"x"));
        queue.share(&frame(&Bytes::from(vec![1; WriteQueue::SHARE_FROM])));
        queue.advance(usize::MAX);
        assert!(queue.is_empty());
        copy(&mut queue, &Bytes::from_static(b"x"));
        assert_eq!(
            queue.copied(),
            Some(&b"\x07\x07\x07\x07\x07\x07\x07\x07\x07x"[..])
        );
    }

    /// Short writes of whatever length leave the same bytes.
    #[test]
    fn what_is_written_in_pieces_is_what_was_queued() {
        const LENS: [usize; 8] = [0, 5, 20_000, 300, 16_383, 16_384, 20_000, 60_000];
        let long = Bytes::from_iter((0..60_000_u32).map(|n| n.to_be_bytes()[3]));
        for step in [1, 7, 1000, 16_384, 20_000] {
            let mut queue = WriteQueue::new(KEPT);
            let mut expected = Vec::new();
            let mut written = Vec::new();
            let write = |queue: &mut WriteQueue, written: &mut Vec<u8>| {
                let mut slices = [IoSlice::new(&[]); WriteQueue::MAX_SLICES];
                let piece = queue.fill(&mut slices)[0];
                let n = piece.len().min(step);
                written.extend_from_slice(&piece[..n]);
                queue.advance(n);
            };
            for (i, len) in LENS.into_iter().enumerate() {
                let data = long.slice(..len);
                if i % 3 == 0 {
                    copy(&mut queue, &data);
                } else {
                    queue.share(&frame(&data));
                }
                frame(&data).put(&mut expected);
                write(&mut queue, &mut written);
            }
            while !queue.is_empty() {
                write(&mut queue, &mut written);
            }
            assert!(written == expected, "in steps of {step}");
        }
    }
}
