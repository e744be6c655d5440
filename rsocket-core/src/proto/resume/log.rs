//! The frames that were sent and that the peer has not confirmed yet.
//!
//! Spec: "Implied Position", "Client Lifetime Management" \[C260-C268].

use std::{collections::VecDeque, task::Poll};

use bytes::Bytes;

use crate::{
    frame::{Flags, FrameType, HEADER_LEN, Header, MAX_FRAME_LEN, Position},
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
    /// The frame to be sent next; `None` when all were sent on this link.
    next: Option<Cursor>,
    /// Frames before this position are sent again.
    again: u64,
    /// How much may be sent again before others have their turn.
    turn: usize,
    /// Of a durable session: how far the frames are in its store.
    ahead: Option<Ahead>,
    /// A whole frame, while it is sent again.
    scratch: Vec<u8>,
}

/// Where a frame begins, and how much of it lies where.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u64,
    copied: u32,
    /// 0: no shared part.
    shared: u32,
}

impl Entry {
    /// Where the frame begins.
    fn at(&self) -> u64 {
        #[cfg(test)]
        tests::LOOKS.set(tests::LOOKS.get() + 1);
        self.at
    }

    fn len(self) -> u64 {
        u64::from(self.copied) + u64::from(self.shared)
    }
}

/// A frame: which one, where it begins, and where its parts do.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    at: u64,
    frame: usize,
    byte: usize,
    shared: usize,
}

impl Cursor {
    /// Behind the frame.
    fn after(self, entry: Entry) -> Self {
        Self {
            at: self.at + entry.len(),
            frame: self.frame + 1,
            byte: self.byte + entry.copied as usize,
            shared: self.shared + usize::from(entry.shared > 0),
        }
    }

    /// The same frame once those before `first` are gone; the first that is
    /// left if it is one of them.
    fn without(self, first: u64, count: usize, bytes: usize, shared: usize) -> Self {
        Self {
            at: self.at.max(first),
            frame: self.frame.saturating_sub(count),
            byte: self.byte.saturating_sub(bytes),
            shared: self.shared.saturating_sub(shared),
        }
    }
}

/// Frames that are written down before they are sent.
#[derive(Clone, Copy, Debug, Default)]
struct Ahead {
    /// What comes before is in the store, and may be sent.
    mark: u64,
    /// What comes before was given out to be stored.
    given: Cursor,
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

    /// What is sent again at a time, in bytes of memory: of the shortest frames
    /// less than a tenth of a millisecond's work.
    const TURN_LEN: usize = 32 << 10;

    pub(in crate::proto) fn new() -> Self {
        Self {
            first: 0,
            end: 0,
            frames: VecDeque::new(),
            bytes: VecDeque::new(),
            shared: VecDeque::new(),
            next: None,
            again: 0,
            turn: 0,
            ahead: None,
            scratch: Vec::new(),
        }
    }

    /// From now on frames are only sent once they are [stored](Self::stored).
    pub(in crate::proto) fn write_ahead(&mut self) {
        self.ahead = Some(Ahead::default());
    }

    /// What a process before this one left: `frames` that begin at `first`.
    ///
    /// # Errors
    ///
    /// When the frames do not follow each other.
    pub(in crate::proto) fn restored(
        first: u64,
        end: u64,
        frames: impl Iterator<Item = (u64, Bytes)>,
    ) -> Result<Self, &'static str> {
        let mut log = Self::new();
        log.first = first;
        log.end = first;
        for (at, frame) in frames {
            if at != log.end || frame.is_empty() || frame.len() > MAX_FRAME_LEN {
                return Err("sent frames do not follow each other");
            }
            log.push(&OutFrame::encoded(&frame));
        }
        if log.end != end {
            return Err("sent frames are missing");
        }
        log.ahead = Some(Ahead {
            mark: end,
            given: log.cursor_at_end(),
        });
        Ok(log)
    }

    /// Behind the last frame.
    fn cursor_at_end(&self) -> Cursor {
        Cursor {
            at: self.end,
            frame: self.frames.len(),
            byte: self.bytes.len(),
            shared: self.shared.len(),
        }
    }

    /// Where the next frame will begin.
    pub(in crate::proto) fn end(&self) -> u64 {
        self.end
    }

    /// Frames that were not given out yet to be stored, with their positions.
    pub(in crate::proto) fn give(&mut self, mut store: impl FnMut(u64, Bytes)) {
        let Some(ahead) = &mut self.ahead else {
            return;
        };
        while let Some(entry) = self.frames.get(ahead.given.frame) {
            let from = ahead.given;
            ahead.given = from.after(*entry);
            let mut frame = Vec::with_capacity(usize::try_from(entry.len()).unwrap_or(0));
            frame.extend(self.bytes.range(from.byte..ahead.given.byte));
            if entry.shared > 0
                && let Some(data) = self.shared.get(from.shared)
            {
                frame.extend_from_slice(data);
            }
            store(from.at, frame.into());
        }
    }

    /// Everything before `position` is in the store.
    pub(in crate::proto) fn stored(&mut self, position: u64) {
        if let Some(ahead) = &mut self.ahead {
            ahead.mark = position;
        }
    }

    /// What the peer can have received, and has not confirmed, in bytes of
    /// memory.
    pub(in crate::proto) fn sent_len(&self) -> usize {
        match (self.next, self.ahead) {
            (Some(next), Some(_)) => {
                let sent = usize::try_from(next.at - self.first).unwrap_or(usize::MAX);
                sent.saturating_add(next.frame * Self::COST)
            }
            _ => self.len(),
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

    /// How many bytes were sent, those included that the peer has confirmed.
    #[inline]
    pub(in crate::proto) fn sent_end(&self) -> u64 {
        match (self.next, self.ahead) {
            (Some(next), Some(_)) => next.at,
            _ => self.end,
        }
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
            at: self.end,
            copied: u32::try_from(copied).unwrap_or(u32::MAX),
            shared: u32::try_from(shared).unwrap_or(u32::MAX),
        };
        if self.ahead.is_some() && self.next.is_none() {
            self.next = Some(Cursor {
                at: self.end,
                frame: self.frames.len(),
                byte: self.bytes.len() - copied,
                shared: self.shared.len() - usize::from(shared > 0),
            });
        }
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
        // What is not stored was not sent.
        if position > self.ahead.map_or(self.end, |ahead| ahead.mark) {
            return Err(Misplaced::Ahead);
        }
        // By halves: a peer may ask this of a full log as often as it likes, with
        // positions that are none.
        let count = self.frames.partition_point(|entry| entry.at() < position);
        if self.frames.get(count).map_or(self.end, Entry::at) != position {
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
        // What the peer has need not be sent again.
        let first = self.first;
        let moved = |cursor: Cursor| cursor.without(first, count, bytes, shared);
        self.next = self.next.map(moved);
        if let Some(ahead) = &mut self.ahead {
            ahead.given = moved(ahead.given);
        }
        if self.frames.is_empty() {
            self.next = None;
            if self.bytes.capacity() > Self::KEPT_LEN {
                self.bytes = VecDeque::new();
            }
            if self.frames.capacity() > Self::KEPT_LEN / Self::COST {
                self.frames = VecDeque::new();
            }
        }
    }

    /// Whether a frame is held without which the peer cannot be done: any but
    /// credit, and payloads that are not the last of their stream. Of those there
    /// may be some on their way when the peer has cancelled.
    ///
    /// Looks at all frames: for the end of a session.
    pub(in crate::proto) fn holds_ends(&self) -> bool {
        let mut cursor = Cursor::default();
        self.frames.iter().any(|entry| {
            let next = cursor.after(*entry);
            let header = match self.shared.get(cursor.shared) {
                Some(whole) if entry.copied == 0 => first_bytes(whole.iter()),
                _ => first_bytes(self.bytes.range(cursor.byte..next.byte)),
            };
            cursor = next;
            let Ok(header) = Header::decode(&header) else {
                return true;
            };
            let is = |frame_type| header.frame_type == frame_type as u8;
            let is_payload = is(FrameType::Payload) && !header.flags.contains(Flags::COMPLETE);
            !is_payload && !is(FrameType::RequestN)
        })
    }

    /// From now on, all that is held is sent again before anything new.
    pub(in crate::proto) fn start_replay(&mut self) {
        let first = Cursor {
            at: self.first,
            ..Cursor::default()
        };
        self.next = (!self.frames.is_empty()).then_some(first);
        self.again = self.end;
        self.turn = Self::TURN_LEN;
    }

    /// Whether there is more to be sent again, after a [pause](Self::go_on).
    ///
    /// A link may take the whole log at once, and a peer may resume again and
    /// again: all that shares a thread with this session would wait meanwhile.
    #[inline]
    pub(in crate::proto) fn pauses(&self) -> bool {
        self.turn == 0 && self.is_replaying()
    }

    /// Others had their turn.
    pub(in crate::proto) fn go_on(&mut self) {
        self.turn = Self::TURN_LEN;
    }

    /// Whether frames of an earlier link are still to be sent again.
    #[inline]
    pub(in crate::proto) fn is_replaying(&self) -> bool {
        self.next.is_some_and(|next| next.at < self.again)
    }

    /// Whether a frame that is held may be sent now.
    #[inline]
    pub(in crate::proto) fn has_next(&self) -> bool {
        self.next
            .is_some_and(|next| self.ahead.is_none_or(|ahead| next.at < ahead.mark))
    }

    /// Sends the next frame that is held through `send`; its position stays
    /// what it was \[C267].
    pub(in crate::proto) fn replay<E>(
        &mut self,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Poll<Result<(), E>> {
        let Some((cursor, entry)) = self
            .next
            .and_then(|cursor| Some((cursor, *self.frames.get(cursor.frame)?)))
        else {
            self.next = None;
            return Poll::Ready(Ok(()));
        };
        let next = cursor.after(entry);
        self.scratch.clear();
        self.scratch
            .extend(self.bytes.range(cursor.byte..next.byte));
        let data = match self.shared.get(cursor.shared) {
            Some(data) if entry.shared > 0 => Part::shared(data, data),
            _ => Part::EMPTY,
        };
        let frame = OutFrame::new(&self.scratch, Part::EMPTY, data);
        let sent = send(&frame);
        if let Poll::Ready(Ok(())) = sent {
            let len = usize::try_from(entry.len()).unwrap_or(usize::MAX);
            self.turn = self.turn.saturating_sub(len.saturating_add(Self::COST));
            self.next = (next.frame < self.frames.len()).then_some(next);
        }
        sent
    }
}

/// As many as a header has. A frame of ours has no fewer.
fn first_bytes<'a>(bytes: impl Iterator<Item = &'a u8>) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    for (place, byte) in header.iter_mut().zip(bytes) {
        *place = *byte;
    }
    header
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, convert::Infallible};

    use super::*;

    thread_local! {
        /// How often this thread looked where a frame begins.
        pub(super) static LOOKS: Cell<usize> = const { Cell::new(0) };
    }

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

    // [C301]
    #[test]
    fn a_position_within_a_frame_is_told_from_a_true_one_in_a_few_steps_however_full_the_log() {
        const FRAMES: u64 = 1 << 17;
        let mut log = FrameLog::new();
        for _ in 0..FRAMES {
            log.push(&OutFrame::new(&[0; 10], Part::EMPTY, Part::EMPTY));
        }
        for at in [1, 10 * (FRAMES / 2) + 9, 10 * FRAMES - 1] {
            LOOKS.set(0);
            assert_eq!(log.confirm(position(at)), Err(Misplaced::WithinFrame));
            // 17 halvings, and the one that is left.
            assert!(LOOKS.get() <= 20, "{} looks for {at}", LOOKS.get());
        }
        for at in [10, 10 * (FRAMES / 2), 10 * FRAMES] {
            LOOKS.set(0);
            assert_eq!(log.confirm(position(at)), Ok(()));
            assert!(LOOKS.get() <= 20, "{} looks for {at}", LOOKS.get());
            assert_eq!(log.first(), position(at));
        }
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
