//! Whole messages, with their headers and masked, at the end of a queue.

use rsocket_core::transport::{OutFrame, WriteQueue};

use super::header::{Header, LONGEST_HEADER, Mask, OpCode};

/// Memory that a queue keeps when it is empty, in bytes. Twice
/// [`HIGH_WATER`](super::tx::HIGH_WATER), as a queue just below the mark takes
/// one more short frame.
const KEPT_CAPACITY: usize = 128 * 1024;

pub(super) fn queue() -> WriteQueue {
    WriteQueue::new(KEPT_CAPACITY)
}

/// Appends one binary message. `may_share` where the stream takes several pieces
/// at once; else all is copied, as each piece would be a write of its own. What
/// has to be masked is copied too: the caller's bytes are not ours to change.
#[inline]
pub(super) fn put_binary(
    queue: &mut WriteQueue,
    frame: &OutFrame<'_>,
    len: usize,
    mask: Option<Mask>,
    may_share: bool,
) {
    if len >= WriteQueue::SHARE_FROM && mask.is_none() && may_share {
        Header::put(OpCode::Binary, None, len, queue.room(LONGEST_HEADER));
        return queue.share(frame);
    }
    let out = queue.room(LONGEST_HEADER + len);
    Header::put(OpCode::Binary, mask, len, out);
    let begin = out.len();
    frame.put(out);
    mask_from(begin, mask, out);
}

/// Appends a closing frame, a ping or a pong.
pub(super) fn put_control(
    queue: &mut WriteQueue,
    opcode: OpCode,
    payload: &[u8],
    mask: Option<Mask>,
) {
    let out = queue.room(LONGEST_HEADER + payload.len());
    Header::put(opcode, mask, payload.len(), out);
    let begin = out.len();
    out.extend_from_slice(payload);
    mask_from(begin, mask, out);
}

#[inline]
fn mask_from(begin: usize, mask: Option<Mask>, out: &mut [u8]) {
    if let (Some(mask), Some(payload)) = (mask, out.get_mut(begin..)) {
        mask.apply(payload);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rsocket_core::transport::Part;

    use super::*;

    fn put(queue: &mut WriteQueue, data: &Bytes, mask: Option<Mask>) {
        let frame = OutFrame::new(&[7; 9], Part::EMPTY, Part::shared(data, data));
        put_binary(queue, &frame, frame.len(), mask, true);
    }

    #[test]
    fn long_shared_parts_are_not_copied_by_servers() {
        let long = Bytes::from(vec![1; WriteQueue::SHARE_FROM]);
        let mut queue = queue();
        put(&mut queue, &long, None);
        assert!(queue.copied().is_none(), "it takes a vectored write");
        assert_eq!(queue.len(), 4 + 9 + long.len());
    }

    #[test]
    fn clients_leave_the_callers_bytes_alone() {
        let long = Bytes::from(vec![1; WriteQueue::SHARE_FROM]);
        let mut queue = queue();
        put(&mut queue, &long, Some(Mask::random()));
        assert!(long.iter().all(|byte| *byte == 1));
        assert_eq!(queue.copied().unwrap().len(), 14 - 6 + 9 + long.len());
    }

    #[test]
    fn sending_allocates_nothing_once_the_buffer_has_its_size() {
        let bytes = Bytes::from_static(&[2; 200]);
        let mut queue = queue();
        let mut batch = || {
            for _ in 0..32 {
                put(&mut queue, &bytes, Some(Mask::random()));
            }
            let at = queue.copied().map(<[u8]>::as_ptr);
            queue.advance(queue.len());
            (at, queue.capacity())
        };
        let first = batch();
        for _ in 0..1000 {
            assert_eq!(batch(), first);
        }
    }
}
