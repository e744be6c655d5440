//! What a peer knows of a resumable session: what was sent to it, and how much
//! the session was given.

use std::collections::VecDeque;

use crate::frame::{Frame, FrameType, Header, Position};

/// Frames that count for positions \[C261, C262\], seen from outside.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// What the session sent and was not told to have arrived, in order.
    sent: VecDeque<Vec<u8>>,
    /// Where the first of them begins.
    first: u64,
    /// Which of them comes next again.
    replay: Option<usize>,
    /// What the session was given.
    given: u64,
    /// It sent RESUME.
    asks: bool,
    /// And what before it went on.
    given_before: u64,
    /// The greatest position that it told on this link.
    told: u64,
}

impl Wire {
    /// The session was given a frame, over a link that it believes in.
    pub(super) fn given(&mut self, bytes: &[u8]) {
        if counts(bytes) {
            self.given += bytes.len() as u64;
        }
        if let Ok(Frame::Keepalive(keepalive)) = Frame::decode(bytes) {
            self.confirm(keepalive.last_received.get());
        }
    }

    /// How much it was given.
    pub(super) fn total_given(&self) -> u64 {
        self.given
    }

    /// The session sent a frame. True if it was new, and not one of those that
    /// it owes again.
    ///
    /// # Panics
    ///
    /// When a frame is sent again that differs, or one is left out, and when a
    /// position is told that cannot be.
    pub(super) fn sent(&mut self, bytes: &[u8]) -> bool {
        match Frame::decode(bytes) {
            Ok(Frame::Keepalive(keepalive)) => self.tells(keepalive.last_received.get()),
            Ok(Frame::ResumeOk(ok)) => {
                assert_eq!(
                    ok.last_received_client.get(),
                    self.given_before,
                    "RESUME_OK"
                );
            }
            Ok(Frame::Resume(resume)) => {
                assert_eq!(resume.last_received_server.get(), self.given, "RESUME");
                assert_eq!(resume.first_available_client.get(), self.first, "RESUME");
                self.asks = true;
            }
            _ => {}
        }
        if !counts(bytes) {
            return true;
        }
        let Some(at) = self.replay else {
            self.sent.push_back(bytes.to_vec());
            return true;
        };
        let owed = self.sent.get(at).map(Vec::as_slice);
        assert_eq!(owed, Some(bytes), "sent again, but not the same");
        self.replay = Some(at + 1).filter(|next| *next < self.sent.len());
        false
    }

    fn tells(&mut self, position: u64) {
        let range = self.told..=self.given;
        assert!(range.contains(&position), "{position} is not in {range:?}");
        self.told = position;
    }

    /// Whether it sent RESUME since this was asked last.
    pub(super) fn has_asked(&mut self) -> bool {
        std::mem::take(&mut self.asks)
    }

    /// Where a frame begins, or the end: what a peer may rightly claim to have.
    pub(super) fn boundary(&self, frames: usize) -> u64 {
        let some = self.sent.iter().take(frames);
        self.first + some.map(|frame| frame.len() as u64).sum::<u64>()
    }

    /// How many frames are held.
    pub(super) fn len(&self) -> usize {
        self.sent.len()
    }

    /// Whether a frame begins there, or the log ends.
    pub(super) fn is_boundary(&self, position: u64) -> bool {
        (0..=self.sent.len()).any(|frames| self.boundary(frames) == position)
    }

    /// The peer has everything before `position`; nonsense changes nothing
    /// \[C301\].
    fn confirm(&mut self, position: u64) {
        if !self.is_boundary(position) {
            return;
        }
        while self.first < position {
            let Some(frame) = self.sent.pop_front() else {
                return;
            };
            self.first += frame.len() as u64;
            self.replay = self.replay.map(|at| at.saturating_sub(1));
        }
        self.replay = self.replay.filter(|at| *at < self.sent.len());
    }

    /// The link is gone.
    pub(super) fn cut(&mut self) {
        self.replay = None;
        self.told = 0;
    }

    /// The session goes on: all from `position` on comes again.
    pub(super) fn resumed(&mut self, position: u64) {
        self.confirm(position);
        self.told = 0;
        self.given_before = self.given;
        self.replay = (!self.sent.is_empty()).then_some(0);
    }
}

/// As a [`Position`], which has one bit less.
pub(super) fn position(n: u64) -> Position {
    Position::new(n).unwrap_or(Position::ZERO)
}

fn counts(bytes: &[u8]) -> bool {
    let Ok(header) = Header::decode(bytes) else {
        return false;
    };
    let kind = FrameType::from_bits(header.frame_type);
    header.stream_id != 0
        && kind.is_some_and(|kind| {
            matches!(
                kind,
                FrameType::RequestResponse
                    | FrameType::RequestFnf
                    | FrameType::RequestStream
                    | FrameType::RequestChannel
                    | FrameType::RequestN
                    | FrameType::Cancel
                    | FrameType::Payload
                    | FrameType::Error
            )
        })
}
