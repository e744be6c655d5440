//! The frames that were sent and that the peer has not confirmed yet.
//!
//! Spec: "Implied Position", "Client Lifetime Management" \[C260-C268].

use std::{collections::VecDeque, task::Poll};

use bytes::Bytes;

use crate::{
    frame::Position,
    transport::{OutFrame, Part},
};

/// Frames in the order in which they were sent, each with its position: the
/// bytes sent before it.
///
/// Short frames are copied into one ring of bytes; of long ones the data is
/// shared with whoever made it.
#[derive(Debug)]
pub(in crate::proto) struct FrameLog {
    /// Where the first frame held begins.
    first: u64,
    /// Where the next frame will begin.
    end: u64,
    frames: VecDeque<Entry>,
    bytes: VecDeque<u8>,
    shared: VecDeque<Bytes>,
    /// From where frames are sent again; `None` when all were sent on this link.
    replay: Option<Cursor>,
    /// A whole frame, while it is sent again.
    scratch: Vec<u8>,
}

/// How much of a frame lies where.
#[derive(Clone, Copy, Debug)]
struct Entry {
    copied: u32,
    /// 0: no shared part.
    shared: u32,
}

impl Entry {
    fn len(self) -> u64 {
        u64::from(self.copied) + u64::from(self.shared)
    }
}

/// The frame to be sent again next: which one, and where its parts begin.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    frame: usize,
    byte: usize,
    shared: usize,
}

/// A position at which no frame begins, or of bytes that are not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proto) enum Misplaced {
    /// The frames from there on are gone.
    Gone,
    /// So much was never sent.
    Ahead,
    /// It lies within a frame.
    WithinFrame,
}

impl FrameLog {
    /// From this length on data is shared: to copy less costs less than to count
    /// references.
    const SHARED_LEN: usize = 1024;

    /// What a frame costs beyond its bytes.
    const COST: usize = size_of::<Entry>();

    /// A ring longer than this is given back when it is empty.
    const KEPT_LEN: usize = 256 << 10;

    pub(in crate::proto) fn new() -> Self {
        Self {
            first: 0,
            end: 0,
            frames: VecDeque::new(),
            bytes: VecDeque::new(),
            shared: VecDeque::new(),
            replay: None,
            scratch: Vec::new(),
        }
    }

    /// What is held, in bytes of memory.
    #[inline]
    pub(in crate::proto) fn len(&self) -> usize {
        let held = usize::try_from(self.end - self.first).unwrap_or(usize::MAX);
        held.saturating_add(self.frames.len() * Self::COST)
    }

    pub(in crate::proto) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Where the first frame held begins: from there on it can be sent again.
    pub(in crate::proto) fn first(&self) -> Position {
        Position::ZERO.advance(usize::try_from(self.first).unwrap_or(usize::MAX))
    }

    /// Notes a frame that the link took.
    #[inline]
    pub(in crate::proto) fn push(&mut self, frame: &OutFrame<'_>) {
        let [head, metadata, data] = frame.parts();
        let mut copied = 0;
        for part in [head, metadata] {
            self.bytes.extend(part.as_slice());
            copied += part.as_slice().len();
        }
        let mut shared = 0;
        if data.is_shared() && data.as_slice().len() >= Self::SHARED_LEN {
            shared = data.as_slice().len();
            self.shared.push_back(data.to_bytes());
        } else {
            self.bytes.extend(data.as_slice());
            copied += data.as_slice().len();
        }
        // A frame is shorter than 2^24 bytes.
        let entry = Entry {
            copied: u32::try_from(copied).unwrap_or(u32::MAX),
            shared: u32::try_from(shared).unwrap_or(u32::MAX),
        };
        self.frames.push_back(entry);
        self.end += entry.len();
    }

    /// The peer has everything before `position`: forgets it.
    ///
    /// # Errors
    ///
    /// When `position` is none at which a frame begins or the log ends. Nothing
    /// changed.
    pub(in crate::proto) fn confirm(&mut self, position: Position) -> Result<(), Misplaced> {
        let position = position.get();
        if position < self.first {
            return Err(Misplaced::Gone);
        }
        if position > self.end {
            return Err(Misplaced::Ahead);
        }
        let mut count = 0;
        let mut at = self.first;
        for entry in &self.frames {
            if at >= position {
                break;
            }
            at += entry.len();
            count += 1;
        }
        if at != position {
            return Err(Misplaced::WithinFrame);
        }
        self.drop_first(count);
        Ok(())
    }

    fn drop_first(&mut self, count: usize) {
        let (mut bytes, mut shared) = (0, 0);
        for entry in self.frames.drain(..count) {
            bytes += entry.copied as usize;
            shared += usize::from(entry.shared > 0);
            self.first += entry.len();
        }
        self.bytes.drain(..bytes);
        self.shared.drain(..shared);
        if let Some(cursor) = &mut self.replay {
            // What the peer has need not be sent again.
            *cursor = Cursor {
                frame: cursor.frame.saturating_sub(count),
                byte: cursor.byte.saturating_sub(bytes),
                shared: cursor.shared.saturating_sub(shared),
            };
        }
        if self.frames.is_empty() {
            self.replay = None;
            if self.bytes.capacity() > Self::KEPT_LEN {
                self.bytes = VecDeque::new();
            }
            if self.frames.capacity() > Self::KEPT_LEN / Self::COST {
                self.frames = VecDeque::new();
            }
        }
    }

    /// From now on, all that is held is sent again before anything new.
    pub(in crate::proto) fn start_replay(&mut self) {
        self.replay = (!self.frames.is_empty()).then(Cursor::default);
    }

    #[inline]
    pub(in crate::proto) fn is_replaying(&self) -> bool {
        self.replay.is_some()
    }

    /// Sends one frame again through `send`; its position stays what it was
    /// \[C267].
    pub(in crate::proto) fn replay<E>(
        &mut self,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Poll<Result<(), E>> {
        let Some((cursor, entry)) = self
            .replay
            .and_then(|cursor| Some((cursor, *self.frames.get(cursor.frame)?)))
        else {
            self.replay = None;
            return Poll::Ready(Ok(()));
        };
        let end = cursor.byte + entry.copied as usize;
        self.scratch.clear();
        self.scratch.extend(self.bytes.range(cursor.byte..end));
        let data = match self.shared.get(cursor.shared) {
            Some(data) if entry.shared > 0 => Part::shared(data, data),
            _ => Part::EMPTY,
        };
        let frame = OutFrame::new(&self.scratch, Part::EMPTY, data);
        let sent = send(&frame);
        if let Poll::Ready(Ok(())) = sent {
            let next = Cursor {
                frame: cursor.frame + 1,
                byte: end,
                shared: cursor.shared + usize::from(entry.shared > 0),
            };
            self.replay = (next.frame < self.frames.len()).then_some(next);
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn position(n: u64) -> Position {
        Position::new(n).unwrap()
    }

    fn log_of(lens: &[usize]) -> (FrameLog, Vec<Vec<u8>>) {
        let mut log = FrameLog::new();
        let mut frames = Vec::new();
        for (i, &len) in lens.iter().enumerate() {
            let head = [u8::try_from(i).unwrap(); 6];
            let data = Bytes::from(vec![u8::try_from(i).unwrap().wrapping_mul(7); len - 6]);
            let frame = OutFrame::new(&head, Part::EMPTY, Part::shared(&data, &data));
            log.push(&frame);
            frames.push(frame.to_vec());
        }
        (log, frames)
    }

    fn replayed(log: &mut FrameLog) -> Vec<Vec<u8>> {
        let mut got = Vec::new();
        while log.is_replaying() {
            let _ = log.replay(|frame| {
                got.push(frame.to_vec());
                Poll::Ready(Ok::<(), Infallible>(()))
            });
        }
        got
    }

    // [C260, C263, C264]
    #[test]
    fn positions_are_the_bytes_sent_before() {
        // The spec's example: a request of 15 bytes, REQUEST_N of 10, CANCEL of 6.
        let (mut log, _) = log_of(&[15, 10, 6]);
        for boundary in [0, 15, 25, 31] {
            assert_eq!(log.confirm(position(boundary)), Ok(()));
            assert_eq!(log.first(), position(boundary));
        }
        assert!(log.is_empty());
    }

    // [C288, C294, C301]
    #[test]
    fn positions_that_are_no_boundary_are_told_apart_and_change_nothing() {
        let (mut log, _) = log_of(&[15, 10, 6]);
        log.confirm(position(15)).unwrap();
        assert_eq!(log.confirm(position(14)), Err(Misplaced::Gone));
        assert_eq!(log.confirm(position(24)), Err(Misplaced::WithinFrame));
        assert_eq!(log.confirm(position(32)), Err(Misplaced::Ahead));
        assert_eq!(log.first(), position(15));
        assert_eq!(log.len(), 16 + 2 * FrameLog::COST);
    }

    // [C267, C292]
    #[test]
    fn frames_are_sent_again_as_they_were_whatever_was_confirmed_meanwhile() {
        let lens = [6, 2000, 40, 1024 + 6, 7, 5000];
        for confirmed in 0..=lens.len() {
            for resent in 0..=lens.len() {
                let (mut log, frames) = log_of(&lens);
                log.start_replay();
                for frame in frames.iter().take(resent) {
                    let _ = log.replay(|again| {
                        assert_eq!(&again.to_vec(), frame);
                        Poll::Ready(Ok::<(), Infallible>(()))
                    });
                }
                let bytes: usize = lens.iter().take(confirmed).sum();
                log.confirm(position(bytes as u64)).unwrap();
                let rest = confirmed.max(resent);
                assert_eq!(replayed(&mut log), frames[rest..]);
                // A second cut: from the first that is held.
                log.start_replay();
                assert_eq!(replayed(&mut log), frames[confirmed..]);
            }
        }
    }

    #[test]
    fn a_link_that_takes_nothing_is_offered_the_same_frame_again() {
        let (mut log, frames) = log_of(&[6, 8]);
        log.start_replay();
        let blocked = log.replay(|_| Poll::<Result<(), Infallible>>::Pending);
        assert!(blocked.is_pending());
        assert_eq!(replayed(&mut log), frames);
    }

    #[test]
    fn a_ring_that_was_long_is_given_back() {
        let (mut log, _) = log_of(&[1000; 200]);
        let mut total = 200_000;
        for _ in 0..20 {
            let head = [0; 1000];
            for _ in 0..1000 {
                log.push(&OutFrame::new(&head, Part::EMPTY, Part::EMPTY));
                total += 1000;
            }
        }
        log.confirm(position(total)).unwrap();
        assert_eq!(log.len(), 0);
        assert!(log.bytes.capacity() <= FrameLog::KEPT_LEN);
    }
}
