//! What a session needs to go on over another link: the frames that the peer may
//! not have, how much it sent, and where the link stands.
//!
//! ```text
//!            link lost             RESUME sent            RESUME_OK
//!      Up ------------> Down ----------------> Asked ----------------> Up
//!                        ^   (client)            |      replay
//!                        '-----------------------'
//!                         link lost, no answer
//! ```
//!
//! A server goes from `Down`, or from an `Up` that it only believed in, straight
//! to `Up`.
//!
//! Spec: "Resuming Operation" \[C260-C308].

mod log;
pub(super) mod rows;

use std::time::{Duration, Instant};

use bytes::Bytes;

pub(super) use self::log::{FrameLog, Misplaced};
pub use self::rows::Damaged;
use super::SetupOptions;
use crate::{
    error::{CloseReason, Failure},
    frame::{self, DecodeError, ErrorCode, Frame, FrameType, Header, Position},
};

/// How a session is resumed. Both sides have one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResumeOptions {
    /// How long the session outlives a lost link: a client tries for so long to
    /// go on, a server keeps what it needs for so long \[C296]. Default 60 s:
    /// longer than a change of networks or a reboot of a switch takes.
    pub session_timeout: Duration,
    /// Whether the session outlives its process too: then its owner stores what
    /// [`checkpoint`](super::Session::checkpoint) gives, and nothing is sent or
    /// confirmed before. Default: no.
    pub durable: bool,
}

impl Default for ResumeOptions {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(60),
            durable: false,
        }
    }
}

/// A client asks to go on with a session: RESUME as the first frame of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeRequest {
    /// Which session.
    pub token: Bytes,
    /// What the client has received from the server.
    pub last_received_server: Position,
    /// From where on the client can send again.
    pub first_available_client: Position,
}

impl ResumeRequest {
    /// The version is not looked at: the session fixes it, and rsocket-js 1.0
    /// sends its two numbers exchanged \[A33].
    pub(super) fn from_frame(frame: &frame::Resume<'_>) -> Self {
        Self {
            token: Bytes::copy_from_slice(frame.token),
            last_received_server: frame.last_received_server,
            first_available_client: frame.first_available_client,
        }
    }
}

/// Where the link stands.
#[derive(Clone, Debug)]
pub(super) enum LinkState {
    /// Frames go both ways.
    Up,
    /// There is none.
    Down,
    /// A client sent RESUME and waits for the answer; nothing else may be sent
    /// \[C282].
    Asked {
        /// When the link counts as lost without it.
        answer_by: Instant,
    },
}

/// What a resumable session keeps beyond what all sessions do.
#[derive(Debug)]
pub(super) struct Resumption {
    pub(super) token: Bytes,
    pub(super) options: ResumeOptions,
    pub(super) log: FrameLog,
    /// What came from the peer, in bytes of tracked frames.
    pub(super) received: Position,
    /// What the peer was told of `received`.
    told: Position,
    /// Of a durable session: the part of `received` that is stored. What is not
    /// must not be confirmed, since the peer forgets it.
    pub(super) stored: Position,
    pub(super) link: LinkState,
    /// While the link is not up: why it was lost, and when the session is given
    /// up.
    lost: Option<(CloseReason, Instant)>,
    /// When it last came up again.
    resumed_at: Option<Instant>,
    /// RESUME or RESUME_OK: what a new link carries first.
    pub(super) first_words: Option<Bytes>,
    /// `first_words` have to wait until all that was received is stored: what
    /// they say decides what the peer sends again.
    first_words_wait: bool,
    /// The peer was asked to confirm, and did not yet.
    pub(super) asked_to_confirm: bool,
    /// What had been sent when it was asked last.
    asked_at: u64,
    /// KEEPALIVEs on this link that ask for an answer and did not get it yet.
    pub(super) unanswered: u32,
    /// Answers to KEEPALIVE in a row that confirmed nothing while the log was
    /// full.
    idle_confirmations: u32,
    /// Refusals in a row that are worth another try.
    refusals: u32,
    /// A client's, until the server showed that it accepted the session.
    pub(super) unaccepted: Option<Box<Unaccepted>>,
}

/// A session that the server may not know yet.
#[derive(Debug)]
pub(super) struct Unaccepted {
    setup: SetupOptions,
    lease: bool,
    /// SETUP goes out again on the next link: the server has no such session.
    pub(super) start_over: bool,
    attempts: u32,
}

/// What an ERROR in answer to RESUME means.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Never ask again \[C285].
    Final,
    /// Ask again on a new link.
    TryAgain,
}

impl Resumption {
    /// After so many bytes received the peer is told, so that it can forget
    /// them: small beside what it may keep, large beside a KEEPALIVE.
    const CONFIRM_LEN: u64 = 64 << 10;

    /// A peer that answers so many KEEPALIVEs and confirms nothing, although the
    /// log is full, will never confirm. KEEPALIVEs of its own do not count: it may
    /// send many while one long frame is on its way to it.
    const MAX_IDLE_CONFIRMATIONS: u32 = 8;

    /// Refusals with a code that does not say "never", after which it is
    /// "never" all the same: rsocket-cpp says so that it cannot resume \[C285].
    const MAX_REFUSALS: u32 = 8;

    pub(super) fn client(
        token: Bytes,
        options: ResumeOptions,
        setup: SetupOptions,
        lease: bool,
    ) -> Self {
        let mut resumption = Self::server(token, options);
        resumption.unaccepted = Some(Box::new(Unaccepted {
            setup,
            lease,
            start_over: false,
            attempts: 0,
        }));
        resumption
    }

    pub(super) fn server(token: Bytes, options: ResumeOptions) -> Self {
        let mut log = FrameLog::new();
        if options.durable {
            log.write_ahead();
        }
        Self {
            token,
            options,
            log,
            received: Position::ZERO,
            told: Position::ZERO,
            stored: Position::ZERO,
            link: LinkState::Up,
            lost: None,
            resumed_at: None,
            first_words: None,
            first_words_wait: false,
            asked_to_confirm: false,
            asked_at: 0,
            unanswered: 0,
            idle_confirmations: 0,
            refusals: 0,
            unaccepted: None,
        }
    }

    /// What a process before this one left.
    pub(super) fn restored(
        token: Bytes,
        options: ResumeOptions,
        log: FrameLog,
        received: Position,
        until: Instant,
    ) -> Self {
        let mut resumption = Self::server(token, options);
        resumption.log = log;
        resumption.received = received;
        resumption.told = received;
        resumption.stored = received;
        resumption.link = LinkState::Down;
        resumption.lost = Some((CloseReason::Local, until));
        resumption
    }

    /// How much of what was received the peer may be told of.
    fn confirmable(&self) -> Position {
        if self.options.durable {
            self.stored
        } else {
            self.received
        }
    }

    /// Everything received before `position` is in the store, and everything
    /// sent before `sent`.
    pub(super) fn on_stored(&mut self, position: Position, sent: u64) {
        self.stored = position;
        self.log.stored(sent);
        if self.stored == self.received {
            self.first_words_wait = false;
        }
    }

    /// What a new link carries first, once it may.
    pub(super) fn ready_words(&self) -> Option<&Bytes> {
        self.first_words.as_ref().filter(|_| !self.first_words_wait)
    }

    #[inline]
    pub(super) fn is_up(&self) -> bool {
        matches!(self.link, LinkState::Up)
    }

    /// The link is gone.
    pub(super) fn suspend(&mut self, now: Instant, reason: CloseReason) {
        self.link = LinkState::Down;
        self.first_words = None;
        self.first_words_wait = false;
        // What was to be told and was not.
        self.told = self.told.min(self.confirmable());
        self.asked_to_confirm = false;
        if self.lost.is_none() {
            // Once it was resumed, the time starts anew; a link that is lost
            // before that does not extend it.
            let until = now + self.options.session_timeout;
            self.lost = Some((reason, until));
        }
    }

    /// Frames go both ways again.
    pub(super) fn on_resumed(&mut self, now: Instant) {
        self.resumed_at = Some(now);
    }

    /// When to go on with sending again: at once, after all others that are due.
    pub(super) fn replay_due(&self) -> Option<Instant> {
        self.resumed_at.filter(|_| self.log.pauses())
    }

    /// When something is to be done about a link that is not up.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let (_, until) = self.lost.as_ref()?;
        Some(match self.link {
            LinkState::Asked { answer_by } => answer_by.min(*until),
            LinkState::Up | LinkState::Down => *until,
        })
    }

    /// The end of a session that nobody resumed in time.
    pub(super) fn expired(&self, now: Instant) -> Option<CloseReason> {
        let (reason, until) = self.lost.as_ref()?;
        (now >= *until).then(|| CloseReason::NotResumed {
            cause: Box::new(reason.clone()),
        })
    }

    /// Why the link was lost that the session is without.
    pub(super) fn lost_for(&self) -> Option<&CloseReason> {
        self.lost.as_ref().map(|(reason, _)| reason)
    }

    /// A client's new link: what to send first.
    pub(super) fn ask(&mut self, answer_by: Instant) {
        if let Some(unaccepted) = &mut self.unaccepted
            && std::mem::take(&mut unaccepted.start_over)
        {
            // Nothing but SETUP was ever sent, so nothing can happen twice. The
            // token is new: the old one may be in use by a SETUP that was on its
            // way for long.
            unaccepted.attempts += 1;
            let mut token = self.token.to_vec();
            if unaccepted.attempts > 1 {
                token.truncate(
                    token
                        .iter()
                        .rposition(|b| *b == b'.')
                        .unwrap_or(token.len()),
                );
            }
            token.extend_from_slice(format!(".{}", unaccepted.attempts).as_bytes());
            self.token = token.into();
            unaccepted.setup.resume_token = Some(self.token.clone());
            self.first_words = Some(unaccepted.setup.encode(unaccepted.lease));
            // The time to go on runs until the server accepts: it could have
            // SETUP sent to it for ever.
            let lost = self.lost.take();
            self.come_up();
            self.lost = lost;
            return;
        }
        let resume = Frame::Resume(frame::Resume {
            major: frame::VERSION.0,
            minor: frame::VERSION.1,
            token: &self.token,
            last_received_server: self.received,
            first_available_client: self.log.first(),
        });
        self.first_words = Some(resume.to_vec().into());
        self.first_words_wait = self.confirmable() != self.received;
        self.link = LinkState::Asked { answer_by };
    }

    /// A server's answer to RESUME; the link takes it first.
    ///
    /// # Errors
    ///
    /// When the two sides do not fit together \[C294]; they never will.
    pub(super) fn answer(&mut self, request: &ResumeRequest) -> Result<(), &'static str> {
        if request.first_available_client > self.received {
            return Err("frames that were lost are no longer held by the client");
        }
        self.confirm_all(request.last_received_server)?;
        let ok = Frame::ResumeOk(frame::ResumeOk {
            last_received_client: self.received,
        });
        self.first_words = Some(ok.to_vec().into());
        self.first_words_wait = self.confirmable() != self.received;
        self.told = self.received;
        self.come_up();
        Ok(())
    }

    /// RESUME_OK came.
    ///
    /// # Errors
    ///
    /// When the server's position is none that this side can go on from
    /// \[C288].
    pub(super) fn on_resume_ok(&mut self, frame: &frame::ResumeOk) -> Result<(), &'static str> {
        self.confirm_all(frame.last_received_client)?;
        self.told = self.received; // By RESUME.
        self.unaccepted = None;
        self.come_up();
        Ok(())
    }

    /// The server showed that it knows the session.
    pub(super) fn on_accepted(&mut self) {
        self.unaccepted = None;
        self.lost = None;
    }

    fn confirm_all(&mut self, position: Position) -> Result<(), &'static str> {
        self.log
            .confirm(position)
            .map_err(|misplaced| match misplaced {
                Misplaced::Gone => "frames that were lost are no longer held",
                Misplaced::Ahead => "the peer claims to have received more than was sent",
                Misplaced::WithinFrame => "the peer's position lies within a frame",
            })
    }

    fn come_up(&mut self) {
        self.link = LinkState::Up;
        self.lost = None;
        self.refusals = 0;
        self.idle_confirmations = 0;
        self.asked_to_confirm = false;
        self.asked_at = 0;
        self.unanswered = 0;
        self.log.start_replay();
    }

    /// The server refused.
    pub(super) fn on_refused(&mut self, failure: &Failure) -> Refusal {
        let is_final =
            (ErrorCode::INVALID_SETUP..=ErrorCode::REJECTED_RESUME).contains(&failure.code());
        if is_final && let Some(unaccepted) = &mut self.unaccepted {
            unaccepted.start_over = true;
            return Refusal::TryAgain;
        }
        self.refusals += 1;
        if is_final || self.refusals >= Self::MAX_REFUSALS {
            return Refusal::Final;
        }
        Refusal::TryAgain
    }

    /// The peer told what it has, in KEEPALIVE \[C300, C301].
    ///
    /// # Errors
    ///
    /// When the log is full and the peer will never empty it.
    pub(super) fn on_confirmed(
        &mut self,
        position: Position,
        is_answer: bool,
        max_resume_len: usize,
    ) -> Result<(), CloseReason> {
        let before = self.log.first();
        // Positions that make no sense are not trusted, and harm nobody.
        let _ = self.log.confirm(position);
        self.unanswered = self.unanswered.saturating_sub(u32::from(is_answer));
        if self.log.first() > before {
            self.asked_to_confirm = false;
            self.idle_confirmations = 0;
        } else if is_answer && self.unanswered == 0 {
            // The answer to the last question, which covers all that was sent
            // before it; those to earlier ones say nothing.
            self.asked_to_confirm = false;
            if self.is_full(max_resume_len) && self.log.sent_len() == self.log.len() {
                self.idle_confirmations += 1;
            }
            if self.idle_confirmations >= Self::MAX_IDLE_CONFIRMATIONS {
                let limit = max_resume_len;
                return Err(CloseReason::ResumeLogFull { limit });
            }
        }
        Ok(())
    }

    /// Whether new frames have to wait for the peer to confirm old ones. One
    /// frame of any length always passes.
    #[inline]
    pub(super) fn is_full(&self, max_resume_len: usize) -> bool {
        self.log.len() >= max_resume_len && !self.log.is_empty()
    }

    /// Whether the peer is to be asked now, so that the log will not be full.
    #[inline]
    pub(super) fn wants_confirmation(&self, max_resume_len: usize) -> bool {
        let sent = self.log.sent_len();
        sent >= max_resume_len / 2
            && sent > 0
            && !self.asked_to_confirm
            && (self.has_news() || self.is_full(max_resume_len))
    }

    /// Whether the peer was not asked yet to confirm all that was sent.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.asked_at < self.log.sent_end()
    }

    /// The peer is asked to confirm all that was sent so far.
    pub(super) fn ask_to_confirm(&mut self) {
        self.asked_to_confirm = true;
        self.asked_at = self.log.sent_end();
    }

    /// Counts a frame from the peer \[C261, C262].
    #[inline]
    pub(super) fn on_received(&mut self, frame: &Result<Frame<'_>, DecodeError>, bytes: &[u8]) {
        let counts = match frame {
            Ok(frame) => match frame {
                Frame::Payload(_) | Frame::Request(_) | Frame::RequestN(_) | Frame::Cancel(_) => {
                    true
                }
                Frame::Error(error) => error.stream_id.is_some(),
                _ => false,
            },
            // Wrong, perhaps ignored, and sent all the same.
            Err(_) => is_tracked(bytes),
        };
        if counts {
            self.received = self.received.advance(bytes.len());
        }
    }

    /// Whether it is time to tell the peer what was received.
    #[inline]
    pub(super) fn owes_confirmation(&self) -> bool {
        self.confirmable().get().saturating_sub(self.told.get()) >= Self::CONFIRM_LEN
    }

    /// Whether the peer does not know of all that was received.
    pub(super) fn is_behind(&self) -> bool {
        self.received != self.told
    }

    /// The position to put into a KEEPALIVE.
    pub(super) fn tell(&mut self) -> Position {
        // Never less than before: RESUME says `received`, once it is stored.
        self.told = self.told.max(self.confirmable());
        self.told
    }
}

/// Whether a frame counts for positions: those of streams do, of all types but
/// extensions, which nobody sends in resumable sessions \[C261, C262, C265,
/// C266].
#[cold]
fn is_tracked(bytes: &[u8]) -> bool {
    let Ok(header) = Header::decode(bytes) else {
        return false;
    };
    header.stream_id != 0
        && matches!(
            FrameType::from_bits(header.frame_type),
            Some(
                FrameType::RequestResponse
                    | FrameType::RequestFnf
                    | FrameType::RequestStream
                    | FrameType::RequestChannel
                    | FrameType::RequestN
                    | FrameType::Cancel
                    | FrameType::Payload
                    | FrameType::Error
            )
        )
}
