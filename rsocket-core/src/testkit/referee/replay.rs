//! Whether what a resumable session sends fits together from link to link.

use crate::{frame::Frame, proto::Side};

/// Watches one side of a session over all its links.
///
/// What was sent is kept for ever, unlike in the session, so that every frame
/// that is sent again can be compared with what it was.
#[derive(Debug)]
pub(super) struct Replay {
    side: Side,
    /// All tracked frames ever sent, with the positions at which they begin.
    sent: Vec<(u64, Vec<u8>)>,
    /// Where the next new frame begins.
    end: u64,
    /// The next of `sent` to go out on this link.
    next: usize,
    /// What the side was given, in bytes of tracked frames.
    received: u64,
    /// The last position that it told on this link.
    told: u64,
    /// The furthest position that the peer ever told.
    confirmed: u64,
    /// A client's, after RESUME.
    awaits_answer: bool,
    /// A client's, until the server showed that it knows the session.
    unknown: bool,
    /// It is not on its first link.
    goes_on: bool,
}

impl Replay {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            sent: Vec::new(),
            end: 0,
            next: 0,
            received: 0,
            told: 0,
            confirmed: 0,
            awaits_answer: false,
            unknown: side == Side::Client,
            goes_on: false,
        }
    }

    pub(super) fn new_link(&mut self, client_has: Option<u64>) {
        self.told = 0;
        self.awaits_answer = false;
        self.goes_on = true;
        if let Some(position) = client_has {
            self.goes_on_at(position);
        }
    }

    fn goes_on_at(&mut self, position: u64) {
        let next = self.sent.iter().position(|(at, _)| *at == position);
        assert!(
            next.is_some() || position == self.end,
            "no frame begins there"
        );
        self.next = next.unwrap_or(self.sent.len());
        self.confirmed = self.confirmed.max(position);
    }

    pub(super) fn given(&mut self, frame: &Frame<'_>, len: usize) {
        match frame {
            Frame::ResumeOk(ok) => {
                assert!(self.awaits_answer, "RESUME_OK that nobody asked for");
                self.awaits_answer = false;
                self.unknown = false;
                self.goes_on_at(ok.last_received_client.get());
            }
            Frame::Keepalive(keepalive) => {
                self.unknown = false;
                self.confirmed = self.confirmed.max(keepalive.last_received.get());
            }
            _ if is_tracked(frame) => {
                self.unknown = false;
                self.received += len as u64;
            }
            Frame::MetadataPush(_) => self.unknown = false,
            _ => {}
        }
    }

    /// The side sends a frame; returns whether that is all there is to judge.
    pub(super) fn sends(
        &mut self,
        frame: &Frame<'_>,
        bytes: &[u8],
        first: bool,
        shown: &str,
    ) -> bool {
        let is_last_word = matches!(frame, Frame::Error(error) if error.stream_id.is_none());
        assert!(!self.awaits_answer || is_last_word, "after RESUME: {shown}");
        match frame {
            Frame::Setup(_) => {
                assert!(self.unknown, "the server knows the session: {shown}");
                false
            }
            Frame::Resume(resume) => {
                assert!(first && self.side == Side::Client, "{shown}");
                let last_received = resume.last_received_server.get();
                assert_eq!(last_received, self.received, "{shown}");
                let held = resume.first_available_client.get();
                assert!(held <= self.confirmed, "forgotten too soon: {shown}");
                self.awaits_answer = true;
                true
            }
            Frame::ResumeOk(ok) => {
                assert!(first && self.side == Side::Server, "{shown}");
                assert_eq!(ok.last_received_client.get(), self.received, "{shown}");
                true
            }
            Frame::Keepalive(keepalive) => {
                assert!(!(first && self.goes_on), "the first on a link: {shown}");
                let told = keepalive.last_received.get();
                assert!(
                    told >= self.told,
                    "it goes back from {}: {shown}",
                    self.told
                );
                assert!(told <= self.received, "of {}: {shown}", self.received);
                self.told = told;
                true
            }
            _ if is_tracked(frame) => {
                assert!(!(first && self.goes_on), "the first on a link: {shown}");
                assert!(!self.unknown, "it may happen twice: {shown}");
                self.next += 1;
                if let Some((_, before)) = self.sent.get(self.next - 1) {
                    assert_eq!(bytes, before, "not what was lost: {shown}");
                    return true;
                }
                self.sent.push((self.end, bytes.to_vec()));
                self.end += bytes.len() as u64;
                false
            }
            _ => false,
        }
    }
}

/// By type and stream, as the spec has it.
fn is_tracked(frame: &Frame<'_>) -> bool {
    match frame {
        Frame::Request(_) | Frame::RequestN(_) | Frame::Cancel(_) | Frame::Payload(_) => true,
        Frame::Error(error) => error.stream_id.is_some(),
        _ => false,
    }
}
