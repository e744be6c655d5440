//! Bytes in the order in which they are to be written.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf as _, Bytes};
use rsocket_core::transport::{OutFrame, Part};

use super::header::{Header, LONGEST_HEADER, Mask, OpCode};

/// From this length on, bytes that are shared are written from where they are,
/// unless they have to be masked. The TCP transport measured where that begins
/// to pay.
const SHARE_FROM: usize = 16 * 1024;

/// Memory that the queue keeps when it is empty, in bytes; what grew beyond it
/// for a long frame is given back. Twice [`HIGH_WATER`](super::tx::HIGH_WATER),
/// as a queue just below the mark takes one more short frame.
const KEPT_CAPACITY: usize = 128 * 1024;

/// Pieces in one vectored write. The mark is reached with four shared parts, and
/// each has one copied piece in front.
pub(super) const MAX_SLICES: usize = 16;

/// Messages with their headers, masked, and not yet written.
#[derive(Default)]
pub(super) struct Queue {
    /// Headers, and parts that were copied.
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
    /// Appends one binary message. `may_share` where `write` takes several pieces
    /// at once; else all is copied, as each piece would be a write of its own.
    #[inline]
    pub(super) fn push(
        &mut self,
        frame: &OutFrame<'_>,
        len: usize,
        mask: Option<Mask>,
        may_share: bool,
    ) {
        if len >= SHARE_FROM && mask.is_none() && may_share {
            return self.push_long(frame, len);
        }
        self.make_room(LONGEST_HEADER + len);
        Header::put(OpCode::Binary, mask, len, &mut self.copied);
        let begin = self.copied.len();
        frame.put(&mut self.copied);
        self.mask_from(begin, mask);
    }

    /// Appends a closing frame, a ping or a pong.
    pub(super) fn push_control(&mut self, opcode: OpCode, payload: &[u8], mask: Option<Mask>) {
        Header::put(opcode, mask, payload.len(), &mut self.copied);
        let begin = self.copied.len();
        self.copied.extend_from_slice(payload);
        self.mask_from(begin, mask);
    }

    pub(super) fn len(&self) -> usize {
        self.copied.len() - self.start + self.shared_len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All there is, if nothing is shared.
    pub(super) fn copied(&self) -> Option<&[u8]> {
        if self.shared.is_empty() {
            self.copied.get(self.start..)
        } else {
            None
        }
    }

    /// The next pieces to be written, as many as fit.
    pub(super) fn fill<'a, 'b>(
        &'a self,
        slices: &'b mut [IoSlice<'a>; MAX_SLICES],
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

    /// Forgets `n` bytes that were written.
    pub(super) fn advance(&mut self, n: usize) {
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

    #[cold]
    fn push_long(&mut self, frame: &OutFrame<'_>, len: usize) {
        self.make_room(LONGEST_HEADER);
        Header::put(OpCode::Binary, None, len, &mut self.copied);
        for part in frame.parts() {
            if is_worth_sharing(&part) {
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
    fn mask_from(&mut self, begin: usize, mask: Option<Mask>) {
        if let (Some(mask), Some(payload)) = (mask, self.copied.get_mut(begin..)) {
            mask.apply(payload);
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
}

fn is_worth_sharing(part: &Part<'_>) -> bool {
    part.is_shared() && part.as_slice().len() >= SHARE_FROM
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame<'a>(bytes: &'a Bytes) -> OutFrame<'a> {
        OutFrame::new(&[7; 9], Part::EMPTY, Part::shared(bytes, bytes))
    }

    #[test]
    fn long_shared_parts_are_not_copied_by_servers() {
        let long = Bytes::from(vec![1; SHARE_FROM]);
        let mut queue = Queue::default();
        queue.push(&frame(&long), 9 + long.len(), None, true);
        assert!(queue.copied.len() <= LONGEST_HEADER + 9);
        assert_eq!(queue.shared[0].bytes.as_ptr(), long.as_ptr());
        assert!(queue.copied().is_none(), "it takes a vectored write");
    }

    #[test]
    fn clients_leave_the_callers_bytes_alone() {
        let long = Bytes::from(vec![1; SHARE_FROM]);
        let mut queue = Queue::default();
        let mask = Some(Mask::random());
        queue.push(&frame(&long), 9 + long.len(), mask, true);
        assert!(long.iter().all(|byte| *byte == 1));
        assert_eq!(queue.copied().unwrap().len(), 14 - 6 + 9 + long.len());
    }

    #[test]
    fn sending_allocates_nothing_once_the_buffer_has_its_size() {
        let bytes = Bytes::from_static(&[2; 200]);
        let mut queue = Queue::default();
        let mut batch = || {
            for _ in 0..32 {
                queue.push(&frame(&bytes), 209, Some(Mask::random()), true);
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
    fn memory_for_a_long_frame_is_given_back() {
        let long = Bytes::from(vec![1; 1 << 20]);
        let mut queue = Queue::default();
        queue.push(&frame(&long), 9 + long.len(), Some(Mask::random()), true);
        queue.advance(queue.len());
        assert!(queue.copied.capacity() <= KEPT_CAPACITY);
    }

    /// Short writes of whatever length leave the same bytes.
    #[test]
    fn what_is_written_in_pieces_is_what_was_queued() {
        let long = Bytes::from_iter((0..60_000_u32).map(|n| n.to_be_bytes()[3]));
        for step in [1, 7, 1000, 16_384, 20_000] {
            let mut queue = Queue::default();
            let mut expected = Vec::new();
            let mut written = Vec::new();
            for len in [0, 5, 20_000, 300, SHARE_FROM - 9, SHARE_FROM, 60_000] {
                let data = long.slice(..len);
                queue.push(&frame(&data), 9 + len, None, true);
                Header::put(OpCode::Binary, None, 9 + len, &mut expected);
                frame(&data).put(&mut expected);
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let piece = queue.fill(&mut slices)[0];
                let n = piece.len().min(step);
                written.extend_from_slice(&piece[..n]);
                queue.advance(n);
            }
            while !queue.is_empty() {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let piece = queue.fill(&mut slices)[0];
                let n = piece.len().min(step);
                written.extend_from_slice(&piece[..n]);
                queue.advance(n);
            }
            assert!(written == expected, "in steps of {step}");
        }
    }
}
