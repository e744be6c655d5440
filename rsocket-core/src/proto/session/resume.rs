//! A session that outlives its link.
//!
//! Spec: "Resuming Operation" \[C260-C308].

use std::{task::Poll, time::Instant};

use bytes::Bytes;

use super::{By, Cause, Control, Event, Phase, Progress, Session};
use crate::{
    error::{CloseReason, Failure},
    frame::{self, DecodeError, ErrorCode, ErrorFrame, Frame, Position},
    proto::{
        ResumeRequest, Side,
        resume::{LinkState, Refusal, Resumption},
        streams::frame_limit,
    },
    transport::{Limits as LinkLimits, OutFrame},
};

impl Session {
    /// Whether the session lost its link and goes on over another. A client
    /// connects one and gives it to [`resume`](Self::resume); a server waits for
    /// [`Event::Resume`] on another session, and for `accept_resume` on this.
    #[inline]
    pub fn needs_link(&self) -> bool {
        match &self.resume {
            Some(resume) => matches!(resume.link, LinkState::Down) && !self.is_closed(),
            None => false,
        }
    }

    /// Why the link was lost, while the session is without one, or has one that
    /// was not confirmed yet.
    pub fn lost_for(&self) -> Option<&CloseReason> {
        self.resume.as_ref()?.lost_for()
    }

    /// A client's session gets a new link: RESUME goes out first, and nothing
    /// else before the answer \[C282].
    ///
    /// Does nothing for a session that [needs none](Self::needs_link).
    pub fn resume(&mut self, now: Instant, link: LinkLimits) {
        if !self.needs_link() || self.side == Side::Server {
            return;
        }
        if link.max_frame_len < self.link_max {
            // What was sent on the old link may not fit.
            self.close_with(CloseReason::Protocol(
                "the new link takes shorter frames than the one that was lost",
            ));
            return;
        }
        let answer_by = now + self.config.limits.setup_timeout;
        if let Some(resume) = &mut self.resume {
            resume.ask(answer_by);
            if resume.is_up() {
                self.void_leases(now);
                // From the start: SETUP.
                self.farewell_owed = matches!(self.phase, Phase::Draining(By::Us));
                if let Some(keepalive) = &mut self.keepalive {
                    keepalive.restart(now);
                }
                self.ask_to_confirm();
            }
        }
    }

    /// A server's session gets a new link, on which `request` came: RESUME_OK
    /// goes out first, then all that the client does not have \[C292]. The old
    /// link, if it still looks alive, is to be dropped \[C299].
    ///
    /// # Errors
    ///
    /// What to refuse the client with. If the two sides do not fit together and
    /// the session has no link, it is over: they never will. If it has one, this
    /// RESUME may be older than the one that led to that link, and changes
    /// nothing.
    pub fn accept_resume(
        &mut self,
        now: Instant,
        request: &ResumeRequest,
        link: LinkLimits,
    ) -> Result<(), Failure> {
        let no = |message| Failure::from_wire(ErrorCode::REJECTED_RESUME, String::from(message));
        let open = matches!(self.phase, Phase::Open | Phase::Draining(_));
        let Some(resume) = self.resume.as_mut().filter(|_| open) else {
            return Err(no("there is no such session"));
        };
        if link.max_frame_len < self.link_max {
            return Err(no(
                "the link takes shorter frames than the one that was lost",
            ));
        }
        let has_link = resume.is_up();
        if let Err(what) = resume.answer(request) {
            if !has_link {
                self.close_with(CloseReason::Protocol(what));
            }
            return Err(no(what)); // [C293]
        }
        self.touch(); // The log has room again.
        self.drop_control();
        self.on_resumed(now);
        Ok(())
    }

    /// The link of this session, which got RESUME, goes to the session that was
    /// asked for; this one is over, without a word.
    pub fn hand_over(&mut self) {
        self.effects.clear_control();
        self.close_with(CloseReason::Local);
        self.effects.events.clear();
    }

    /// Keeps the session for another link, if it can be; `false` if not.
    pub(super) fn suspend(&mut self, now: Instant, reason: &CloseReason) -> bool {
        let worth_it = match self.phase {
            Phase::Open => true,
            // A peer that knows of the end and closes the link itself has all it
            // wants, if what it did not confirm are late frames of streams that it
            // gave up. Else it was not the peer that closed the link.
            Phase::Draining(_) if matches!(reason, CloseReason::Peer) && !self.farewell_owed => {
                let holds_ends = |resume: &Resumption| resume.log.holds_ends();
                !self.has_nothing_to_do() || self.resume.as_deref().is_some_and(holds_ends)
            }
            // Whoever drains has said so; once nothing is left that the other
            // side may not have, there is nothing to go on for.
            Phase::Draining(_) => !self.is_settled(),
            Phase::AwaitSetup | Phase::Deciding { .. } | Phase::Closed(_) => false,
        };
        let Some(resume) = self.resume.as_mut().filter(|_| worth_it) else {
            return false;
        };
        resume.suspend(now, reason.clone());
        self.drop_control();
        tracing::debug!(%reason, "link lost, the session waits for another");
        true
    }

    /// What was said on stream 0 concerned the link that is gone. Metadata
    /// pushes that did not leave wait for the next one; those that did are lost
    /// \[C304].
    fn drop_control(&mut self) {
        self.forget_asked();
        let mut pushes = Vec::new();
        while let Some(Control { frame, cause }) = self.effects.pop_control() {
            if cause == Cause::Push {
                pushes.push(frame);
            }
        }
        for frame in pushes {
            self.effects.control(Cause::Push, frame);
        }
    }

    /// Frames go both ways again.
    fn on_resumed(&mut self, now: Instant) {
        if let Some(keepalive) = &mut self.keepalive {
            keepalive.restart(now);
        }
        self.effects.stats.resumptions += 1;
        self.void_leases(now);
        tracing::debug!("the session goes on over a new link");
        let mut replays = false;
        if let Some(resume) = &mut self.resume {
            resume.on_resumed(now);
            replays = resume.log.is_replaying();
        }
        if !replays {
            self.on_replayed();
        }
    }

    /// All that the peer did not have was sent again.
    fn on_replayed(&mut self) {
        // It may not have seen the word that announced the end.
        self.farewell_owed = matches!(self.phase, Phase::Draining(By::Us));
        self.finish_drain();
    }

    /// Whether the peer may be told that this side drains. Frames of stream 0
    /// overtake all others, and a peer that hears of the end before it hears of
    /// the last requests would be gone when they come.
    pub(super) fn is_farewell_due(&self) -> bool {
        let in_order = self
            .resume
            .as_ref()
            .is_none_or(|resume| resume.is_up() && !resume.log.is_replaying());
        in_order && !self.streams.has_unsent_requests()
    }

    /// Whether all streams are over, as far as this side knows.
    fn has_nothing_to_do(&self) -> bool {
        self.streams_are_over() && self.effects.answers.is_empty()
    }

    /// Whether no other link is needed for any stream. What has arrived can be
    /// read when the session has ended, too; but with the session a store forgets
    /// what the application has not taken.
    fn streams_are_over(&self) -> bool {
        match self.durable {
            Some(_) => self.streams.len() == 0,
            None => self.streams.are_over(),
        }
    }

    /// The answer to RESUME: RESUME_OK or ERROR, and nothing else \[C284];
    /// `None` is no frame at all.
    pub(super) fn on_resume_answer(&mut self, now: Instant, frame: Option<&Frame<'_>>) {
        let Some(resume) = &mut self.resume else {
            return;
        };
        match frame {
            Some(Frame::ResumeOk(ok)) => match resume.on_resume_ok(ok) {
                Ok(()) => {
                    self.established = true;
                    self.on_resumed(now);
                }
                Err(what) => self.violation(what), // [C288]
            },
            Some(Frame::Error(
                error @ ErrorFrame {
                    stream_id: None, ..
                },
            )) => {
                let failure = Failure::from_wire(error.code, error.message_lossy().into_owned());
                let reason = CloseReason::ResumeRefused(failure.clone());
                match resume.on_refused(&failure) {
                    Refusal::TryAgain => self.ask_again(now, reason),
                    Refusal::Final => self.give_up(reason),
                }
            }
            _ => self.violation("the answer to RESUME must be RESUME_OK or ERROR"),
        }
    }

    /// RESUME did not get the answer it should, and is to be sent on another
    /// link, if that is still worth it.
    pub(super) fn ask_again(&mut self, now: Instant, reason: CloseReason) {
        if !self.suspend(now, &reason) {
            self.give_up(reason);
        }
    }

    fn give_up(&mut self, reason: CloseReason) {
        self.close_with(match self.phase {
            // Everything was said and done, but for the goodbye.
            Phase::Draining(By::Us) if self.has_nothing_to_do() => CloseReason::Local,
            Phase::Draining(By::Peer) if self.has_nothing_to_do() => CloseReason::Peer,
            _ => reason,
        });
    }

    /// The peer told what it has, perhaps because it was asked.
    pub(super) fn on_position(&mut self, position: Position, is_answer: bool) {
        let max_resume_len = self.config.limits.max_resume_len;
        if let Some(resume) = &mut self.resume
            && let Err(reason) = resume.on_confirmed(position, is_answer, max_resume_len)
        {
            self.fail_connection(ErrorCode::CONNECTION_ERROR, "nothing is confirmed");
            self.close_with(reason);
        }
    }

    /// Counts a frame of the peer, and tells it in time what arrived.
    #[inline]
    pub(super) fn count_received(&mut self, frame: &Result<Frame<'_>, DecodeError>, whole: &[u8]) {
        if let Some(resume) = &mut self.resume {
            resume.on_received(frame, whole);
            if resume.owes_confirmation() {
                self.confirm();
            }
        }
    }

    /// Tells the peer what arrived, so that it can forget it.
    pub(super) fn confirm(&mut self) {
        let last_received = self.position();
        let keepalive = Frame::Keepalive(frame::Keepalive {
            respond: false,
            last_received,
            data: &[],
        });
        let frame = keepalive.to_vec().into();
        self.effects.control_once(Cause::Confirm, frame);
    }

    /// Asks the peer what it has.
    pub(super) fn ask_to_confirm(&mut self) {
        let last_received = self.position();
        if let Some(resume) = &mut self.resume {
            resume.ask_to_confirm();
            let keepalive = Frame::Keepalive(frame::Keepalive {
                respond: true,
                last_received,
                data: &[],
            });
            let frame = keepalive.to_vec().into();
            self.effects.control_once(Cause::Keepalive, frame);
        }
    }

    /// What to tell the peer of what was received: 0 without resumption \[C106].
    pub(super) fn position(&mut self) -> Position {
        match &mut self.resume {
            Some(resume) => resume.tell(),
            None => Position::ZERO,
        }
    }

    /// Whether the peer has everything, and nothing is to come.
    pub(super) fn is_settled(&self) -> bool {
        self.streams_are_over()
            && self.effects.answers.is_empty()
            && self.resume.as_ref().is_none_or(|r| r.log.is_empty())
    }

    /// [`transmit`](Self::transmit) for sessions that can be resumed: what goes
    /// out on streams is kept until the peer confirms it.
    pub(super) fn transmit_tracked<E>(
        &mut self,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Progress, E> {
        let awaits_store = self.awaits_store();
        let Some(resume) = &mut self.resume else {
            return Ok(Progress::Idle);
        };
        if !resume.is_up() || resume.first_words.is_some() {
            return self.transmit_words(send);
        }
        if awaits_store {
            return Ok(Progress::Idle);
        }
        if !self.effects.control.is_empty() {
            return self.transmit_control(send);
        }
        if matches!(self.phase, Phase::Closed(_)) {
            return Ok(Progress::Idle);
        }
        if resume.log.has_next() {
            return self.transmit_held(send);
        }
        let max_resume_len = self.config.limits.max_resume_len;
        if resume.wants_confirmation(max_resume_len) {
            self.ask_to_confirm();
            return Ok(Progress::Sent);
        }
        if self.durable.is_some() {
            // What is new goes into the log, and out once it is stored.
            return Ok(Progress::Idle);
        }
        // Until the server has shown that it knows the session nothing is sent
        // that could happen twice.
        if resume.unaccepted.is_some() || resume.is_full(max_resume_len) {
            return Ok(Progress::Idle);
        }
        let log = &mut resume.log;
        let sent = &mut self.effects.stats.frames_sent;
        let send = |frame: &OutFrame<'_>| {
            let result = send(frame);
            if let Poll::Ready(Ok(())) = result {
                log.push(frame);
                *sent += 1;
            }
            result
        };
        let progress = match self.effects.answers.front() {
            Some(answer) => {
                let result = answer.send(send);
                finish(result, || self.effects.pop_answer())?
            }
            None => {
                let max_len = frame_limit(self.link_max, &self.config);
                self.streams.transmit(max_len, send)?
            }
        };
        if progress == Progress::Sent {
            self.finish_drain();
        }
        Ok(progress)
    }

    /// What a new link carries first, and until the other side has answered.
    #[cold]
    fn transmit_words<E>(
        &mut self,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Progress, E> {
        let Some(resume) = &mut self.resume else {
            return Ok(Progress::Idle);
        };
        if let Some(words) = resume.ready_words() {
            let sent = send(&OutFrame::encoded(words));
            return finish(sent, || {
                resume.first_words = None;
                self.effects.stats.frames_sent += 1;
            });
        }
        // After RESUME nothing but why the session ends here [C282, C287].
        let said = resume.first_words.is_none();
        let asked = matches!(resume.link, LinkState::Asked { .. });
        if !asked || !said || !matches!(self.phase, Phase::Closed(_)) {
            return Ok(Progress::Idle);
        }
        while let Some(control) = self.effects.control.front()
            && control.cause != Cause::Once
        {
            self.effects.pop_control();
        }
        if self.effects.control.is_empty() {
            return Ok(Progress::Idle);
        }
        self.transmit_control(send)
    }

    /// Frames that are in the log: those of an earlier link, and those that are
    /// stored first.
    #[cold]
    fn transmit_held<E>(
        &mut self,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Progress, E> {
        let Some(resume) = self.resume.as_mut().filter(|it| !it.log.pauses()) else {
            return Ok(Progress::Idle);
        };
        let again = resume.log.is_replaying();
        let sent = resume.log.replay(send);
        finish(sent, || {
            self.effects.stats.frames_sent += 1;
            self.effects.stats.frames_resent += u64::from(again);
            let log = self.resume.as_ref().map(|resume| &resume.log);
            if again && log.is_some_and(|log| !log.is_replaying()) {
                self.on_replayed();
            } else if log.is_some_and(|log| !log.has_next()) {
                self.finish_drain();
            }
        })
    }
}

/// What came of sending one frame.
fn finish<E>(sent: Poll<Result<(), E>>, on_sent: impl FnOnce()) -> Result<Progress, E> {
    match sent {
        Poll::Pending => Ok(Progress::Blocked),
        Poll::Ready(Err(error)) => Err(error),
        Poll::Ready(Ok(())) => {
            on_sent();
            Ok(Progress::Sent)
        }
    }
}

impl Session {
    /// Makes a server's session resumable once its SETUP was accepted.
    pub(super) fn keep_for_resumption(&mut self, token: Option<Bytes>, setup: Option<Bytes>) {
        if let (Some(token), Some(options)) = (token, &self.config.resume) {
            self.resume = Some(Box::new(Resumption::server(token, options.clone())));
            if let Some(setup) = setup {
                self.make_durable(setup);
            }
        }
    }

    /// RESUME as the first frame of a link.
    pub(super) fn on_resume_request(&mut self, frame: &frame::Resume<'_>) {
        self.phase = Phase::Deciding {
            max_lifetime: frame::Millis31::MAX,
            token: None,
            setup: None,
        };
        let request = ResumeRequest::from_frame(frame);
        self.effects.events.push_back(Event::Resume(request));
    }
}
