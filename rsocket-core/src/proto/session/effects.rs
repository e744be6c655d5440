//! What handling frames leaves to be sent on stream 0, told and counted.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Event, Stats};
use crate::{
    frame::{ErrorCode, Head, StreamId},
    proto::{
        Damaged,
        resume::rows::{Reader, Writer},
    },
    transport::{OutFrame, Part},
};

/// What handling a frame leaves to be done outside of the streams.
#[derive(Debug, Default)]
pub(in crate::proto) struct Effects {
    pub(in crate::proto) events: VecDeque<Event>,
    pub(in crate::proto) stats: Stats,
    /// Frames of stream 0: they go before all others \[C254].
    pub(super) control: VecDeque<Control>,
    /// Answers to requests that never became streams.
    pub(super) answers: VecDeque<Answer>,
    /// What waits because of the peer's frames, in bytes.
    pub(super) owed: usize,
    /// METADATA_PUSH frames of our own that wait, in bytes.
    pub(super) pushed: usize,
    /// METADATA_PUSH events that were not taken or are in work.
    pub(super) pushes: usize,
}

/// An encoded frame of stream 0.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) frame: Bytes,
    pub(super) cause: Cause,
}

/// ERROR for a request that never became a stream.
#[derive(Debug)]
pub(super) struct Answer {
    id: StreamId,
    code: ErrorCode,
    pub(super) message: Bytes,
}

impl Answer {
    pub(super) fn send<R>(&self, send: impl FnOnce(&OutFrame<'_>) -> R) -> R {
        let head = Head::error(Some(self.id), self.code);
        let message = Part::shared(&self.message, &self.message);
        send(&OutFrame::new(head.as_slice(), Part::EMPTY, message))
    }
}

/// Whose doing a frame of stream 0 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The peer's. Only this counts as owed: what we queue ourselves must not
    /// keep us from reading, or two such sides would wait for each other.
    Peer,
    /// The application's METADATA_PUSH.
    Push,
    /// Our KEEPALIVE: one at a time.
    Keepalive,
    /// What we have received, for the peer to forget it: one at a time.
    Confirm,
    /// Our LEASE: the newest.
    Lease,
    /// SETUP, or the last words.
    Once,
}

impl Effects {
    /// What one owed frame costs beyond its bytes.
    pub(super) const COST: usize = 64;

    pub(super) fn control(&mut self, cause: Cause, frame: Bytes) {
        match cause {
            Cause::Peer => self.owed += frame.len() + Self::COST,
            Cause::Push => self.pushed += frame.len() + Self::COST,
            Cause::Keepalive | Cause::Confirm | Cause::Lease | Cause::Once => {}
        }
        self.control.push_back(Control { frame, cause });
    }

    /// As [`control`](Self::control), unless one of the same cause waits: then
    /// that one is dropped, so that they do not pile up on a link that takes
    /// nothing. The new one goes to the end: the positions that the peer is told
    /// must not go back \[C301].
    pub(super) fn control_once(&mut self, cause: Cause, frame: Bytes) {
        if let Some(at) = self.control.iter().position(|waits| waits.cause == cause) {
            self.control.remove(at);
        }
        self.control(cause, frame);
    }

    pub(in crate::proto) fn answer(
        &mut self,
        id: StreamId,
        code: ErrorCode,
        message: &'static str,
    ) {
        self.owed += message.len() + Self::COST;
        let message = Bytes::from_static(message.as_bytes());
        self.answers.push_back(Answer { id, code, message });
    }

    /// What waits in `answers`, to be stored; no bytes if nothing does.
    pub(super) fn answers_row(&self) -> Vec<u8> {
        let mut row = Writer::new();
        for answer in &self.answers {
            row.u64(answer.id.get().into());
            row.u64(answer.code.get().into());
            row.bytes(&answer.message);
        }
        row.into_vec()
    }

    pub(super) fn read_answers(&mut self, row: Bytes) -> Result<(), Damaged> {
        let mut row = Reader::new(row);
        while !row.is_empty() {
            let id = StreamId::new(row.u32()?).ok_or(Damaged("a stream id is out of range"))?;
            let code = ErrorCode::new(row.u32()?);
            let message = row.bytes()?;
            self.owed += message.len() + Self::COST;
            self.answers.push_back(Answer { id, code, message });
        }
        Ok(())
    }

    pub(super) fn pop_control(&mut self) -> Option<Control> {
        let control = self.control.pop_front()?;
        let cost = control.frame.len() + Self::COST;
        match control.cause {
            Cause::Peer => self.owed -= cost,
            Cause::Push => self.pushed -= cost,
            Cause::Keepalive | Cause::Confirm | Cause::Lease | Cause::Once => {}
        }
        Some(control)
    }

    pub(super) fn pop_answer(&mut self) {
        if let Some(answer) = self.answers.pop_front() {
            self.owed -= answer.message.len() + Self::COST;
        }
    }

    pub(super) fn clear_control(&mut self) {
        while self.pop_control().is_some() {}
    }

    pub(super) fn clear_answers(&mut self) {
        while !self.answers.is_empty() {
            self.pop_answer();
        }
    }
}
