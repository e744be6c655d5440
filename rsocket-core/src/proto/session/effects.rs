//! What handling frames leaves to be sent on stream 0, told and counted.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Event, Stats};
use crate::frame::{ErrorCode, StreamId};

/// What handling a frame leaves to be done outside of the streams.
#[derive(Debug, Default)]
pub(in crate::proto) struct Effects {
    pub(in crate::proto) events: VecDeque<Event>,
    pub(in crate::proto) stats: Stats,
    /// Frames of stream 0: they go before all others \[C254].
    pub(super) control: VecDeque<Control>,
    /// Answers to requests that never became streams.
    pub(super) answers: VecDeque<(StreamId, ErrorCode, Bytes)>,
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
            Cause::Keepalive | Cause::Once => {}
        }
        self.control.push_back(Control { frame, cause });
    }

    pub(in crate::proto) fn answer(
        &mut self,
        id: StreamId,
        code: ErrorCode,
        message: &'static str,
    ) {
        self.owed += message.len() + Self::COST;
        let message = Bytes::from_static(message.as_bytes());
        self.answers.push_back((id, code, message));
    }

    pub(super) fn pop_control(&mut self) {
        let Some(Control { frame, cause }) = self.control.pop_front() else {
            return;
        };
        let cost = frame.len() + Self::COST;
        match cause {
            Cause::Peer => self.owed -= cost,
            Cause::Push => self.pushed -= cost,
            Cause::Keepalive | Cause::Once => {}
        }
    }

    pub(super) fn pop_answer(&mut self) {
        if let Some((_, _, message)) = self.answers.pop_front() {
            self.owed -= message.len() + Self::COST;
        }
    }

    pub(super) fn clear_control(&mut self) {
        while !self.control.is_empty() {
            self.pop_control();
        }
    }

    pub(super) fn clear_answers(&mut self) {
        while !self.answers.is_empty() {
            self.pop_answer();
        }
    }
}
