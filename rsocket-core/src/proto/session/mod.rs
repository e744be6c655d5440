//! One side of a connection: establishment, dispatch, keepalive, the end.

mod durable;
mod effects;
mod inbound;
mod lease;
mod resume;
mod verbs;

use std::{collections::VecDeque, task::Poll, time::Instant};

use bytes::Bytes;

#[cfg(any(test, feature = "testkit"))]
use super::Books;
use super::{
    Action, Config, Keepalive, ResumeRequest, Setup, SetupOptions, Side, Stats, StreamKey, Wake,
    lease::Lease,
    resume::{LinkState, Resumption},
    streams::{Streams, frame_limit, message_bytes, payload_cost},
};
use crate::{
    Payload,
    error::CloseReason,
    frame::{self, ErrorCode, ErrorFrame, Frame, Interaction},
    transport::{Limits as LinkLimits, OutFrame},
};

pub use self::durable::RestoredSession;
pub(super) use self::effects::Effects;
use self::{
    durable::Durable,
    effects::{Cause, Control},
};

/// One side of a connection. See the [module](super) for how to drive it.
#[derive(Debug)]
pub struct Session {
    side: Side,
    config: Config,
    phase: Phase,
    /// The longest frame that the link takes.
    link_max: usize,
    keepalive: Option<Keepalive>,
    /// When waiting for SETUP, or for streams to end, is over.
    deadline: Option<Instant>,
    /// A client's: whether the server showed that it accepted \[C190].
    established: bool,
    /// The peer is yet to be told that this side drains.
    farewell_owed: bool,
    /// What a session needs to outlive its link, if it is to.
    resume: Option<Box<Resumption>>,
    /// What it needs to outlive its process.
    durable: Option<Box<Durable>>,
    streams: Streams,
    effects: Effects,
}

/// Where a connection stands.
#[derive(Clone, Debug)]
enum Phase {
    /// A server before the first frame.
    AwaitSetup,
    /// A server whose application decides about SETUP.
    Deciding {
        max_lifetime: frame::Millis31,
        token: Option<Bytes>,
        /// The SETUP frame, if it is to be stored.
        setup: Option<Bytes>,
    },
    Open,
    /// New requests are refused; open streams go on \[C085].
    Draining(By),
    /// What is queued on stream 0 may still be sent; nothing else.
    Closed(CloseReason),
}

/// Who asked for the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Us,
    Peer,
}

/// What the application is told.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A client asks for a connection: answer with [`Session::accept`] or
    /// [`Session::refuse`]. Until then give the session no more frames.
    Setup(Setup),
    /// A client asks to go on with a session: give this link to the session of
    /// that token with [`Session::accept_resume`], or refuse it with
    /// [`Session::refuse`]. Until then give this session no more frames.
    Resume(ResumeRequest),
    /// A request, to be served under `key`. Whoever serves it calls
    /// [`Session::release`] when done.
    Request {
        /// Its stream.
        key: StreamKey,
        /// Any but [`Interaction::RequestChannel`].
        interaction: Interaction,
        /// The request itself.
        payload: Payload,
    },
    /// A channel, whose first payload waits in `poll_take`. It has two
    /// handles: one for reading, one for writing.
    Channel {
        /// Its stream.
        key: StreamKey,
    },
    /// METADATA_PUSH.
    MetadataPush(Bytes),
    /// It is time to grant the peer requests, or to decide that it gets none:
    /// answer with [`Session::grant_lease`], by
    /// [`Session::lease_load`]. Only where leases were agreed on.
    LeaseDue,
    /// The connection is over. All streams were told; once `transmit` is idle,
    /// close the link.
    Closed(CloseReason),
}

/// What [`Session::transmit`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// One step was made; call again.
    Sent,
    /// There is nothing to send, or it is not its turn.
    Idle,
    /// The link took nothing.
    Blocked,
}

impl Event {
    /// What it costs to keep it until it is taken.
    #[inline]
    fn cost(&self) -> usize {
        match self {
            Self::Request { payload, .. } => payload_cost(payload.len()),
            Self::MetadataPush(metadata) => payload_cost(metadata.len()),
            Self::Setup(_)
            | Self::Resume(_)
            | Self::Channel { .. }
            | Self::LeaseDue
            | Self::Closed(_) => 0,
        }
    }
}

impl Session {
    /// A client's side: SETUP is the first frame it transmits.
    pub fn client(now: Instant, config: Config, setup: &SetupOptions, link: LinkLimits) -> Self {
        let keepalive = Keepalive::client(now, setup.keepalive_interval, setup.max_lifetime);
        let mut session = Self::new(Side::Client, config, link, Phase::Open);
        session.keepalive = Some(keepalive);
        let lease = session.config.lease.is_some();
        session.effects.control(Cause::Once, setup.encode(lease));
        session.streams.use_lease(now, &session.config);
        session.start_granting(now);
        if let Some(token) = setup.resume_token.clone() {
            let options = session.config.resume.clone().unwrap_or_default();
            if options.durable {
                session.make_durable(setup.encode(lease));
            }
            let resumption = Resumption::client(token, options, setup.clone(), lease);
            session.resume = Some(Box::new(resumption));
            // The answer shows that the server knows the session.
            session.ask_to_confirm();
        }
        session
    }

    /// A server's side: waits for SETUP.
    pub fn server(now: Instant, config: Config, link: LinkLimits) -> Self {
        let deadline = now.checked_add(config.limits.setup_timeout);
        let mut session = Self::new(Side::Server, config, link, Phase::AwaitSetup);
        session.deadline = deadline;
        session
    }

    fn new(side: Side, config: Config, link: LinkLimits, phase: Phase) -> Self {
        let link_max = link.max_frame_len.min(frame::MAX_FRAME_LEN);
        Self {
            side,
            phase,
            link_max,
            keepalive: None,
            deadline: None,
            established: false,
            farewell_owed: false,
            resume: None,
            durable: None,
            streams: Streams::new(side, config.limits.max_queued_len, link_max),
            effects: Effects::default(),
            config,
        }
    }

    /// Acts on the passing of time. Early, late and repeated calls are fine.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.deadline = None;
            match self.phase {
                Phase::AwaitSetup | Phase::Deciding { .. } => {
                    let message = "no SETUP was accepted in time";
                    self.fail_connection(ErrorCode::INVALID_SETUP, message);
                    self.close_with(CloseReason::SetupTimeout);
                }
                Phase::Draining(_) => {
                    let message = "streams did not end within the drain timeout";
                    self.fail_connection(ErrorCode::CONNECTION_ERROR, message);
                    self.close_with(CloseReason::DrainTimeout);
                }
                Phase::Open | Phase::Closed(_) => {}
            }
        }
        if let Some(resume) = &self.resume
            && !resume.is_up()
        {
            if let Some(reason) = resume.expired(now) {
                self.close_with(reason);
            } else if resume.poll_timeout().is_some_and(|due| now >= due) {
                self.ask_again(now, CloseReason::SetupTimeout);
            }
            return;
        }
        if let Some(resume) = &mut self.resume {
            resume.log.go_on();
        }
        self.lease_timeout(now);
        let Some(keepalive) = &mut self.keepalive else {
            return;
        };
        match keepalive.handle_timeout(now) {
            Action::Nothing => {}
            Action::Send => {
                let keepalive = Frame::Keepalive(frame::Keepalive {
                    respond: true,
                    last_received: self.position(),
                    data: &[],
                });
                let encoded = keepalive.to_vec().into();
                self.effects.control_once(Cause::Keepalive, encoded);
            }
            Action::PeerDead => {
                let millis = keepalive.max_lifetime().get();
                let reason = CloseReason::KeepaliveTimeout { millis };
                if !self.suspend(now, &reason) {
                    self.fail_connection(ErrorCode::CONNECTION_ERROR, "no keepalive in time");
                    self.close_with(reason);
                }
            }
        }
    }

    /// The link is gone, or the peer closed its half of it. A session that can
    /// be resumed goes on without one: see [`needs_link`](Self::needs_link).
    pub fn handle_disconnect(&mut self, now: Instant, reason: CloseReason) {
        if self.needs_link() || self.suspend(now, &reason) {
            return;
        }
        let drained = matches!(self.phase, Phase::Draining(_)) && self.is_settled();
        self.end(match (&self.resume, reason) {
            // Nothing was left for which to look for another link.
            (Some(_), _) if drained => CloseReason::Peer,
            (_, reason) => reason,
        });
    }

    /// Ends the session, whatever it could be resumed for; the link, if there is
    /// one, takes nothing more.
    pub fn end(&mut self, reason: CloseReason) {
        let reason = match (&self.phase, reason) {
            // Those who were asked to end and do so are not at fault.
            (Phase::Draining(By::Us), CloseReason::Peer) => CloseReason::Local,
            (Phase::Draining(By::Peer), CloseReason::Transport(_)) => CloseReason::Peer,
            (_, reason) => reason,
        };
        self.effects.clear_control();
        self.close_with(reason);
    }

    /// Sends one frame through `send`, which says `Pending` when the link takes
    /// nothing. Frames of stream 0 go first \[C254].
    ///
    /// # Errors
    ///
    /// What `send` returned.
    #[inline]
    pub fn transmit<E>(
        &mut self,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Progress, E> {
        // Nothing goes out before the connection is established [C191].
        if matches!(self.phase, Phase::AwaitSetup | Phase::Deciding { .. }) {
            return Ok(Progress::Idle);
        }
        if self.resume.is_some() {
            return self.transmit_tracked(send);
        }
        if !self.effects.control.is_empty() {
            return self.transmit_control(send);
        }
        if !self.effects.answers.is_empty() {
            return self.transmit_answer(send);
        }
        if self.is_closed() {
            return Ok(Progress::Idle);
        }
        let max_len = frame_limit(self.link_max, &self.config);
        let sent = &mut self.effects.stats.frames_sent;
        let progress = self.streams.transmit(max_len, |frame| {
            let result = send(frame);
            *sent += u64::from(matches!(result, Poll::Ready(Ok(()))));
            result
        })?;
        match progress {
            Progress::Sent => {
                self.finish_drain();
                self.ask_for_lease();
            }
            Progress::Idle | Progress::Blocked => {}
        }
        Ok(progress)
    }

    #[inline(never)]
    fn transmit_control<E>(
        &mut self,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Progress, E> {
        if let Some(Control { frame, cause }) = self.effects.control.front() {
            match send(&OutFrame::encoded(frame)) {
                Poll::Pending => return Ok(Progress::Blocked),
                Poll::Ready(sent) => sent?,
            }
            if *cause == Cause::Lease
                && let Some(lease) = self.streams.lease_mut()
            {
                lease.on_sent();
                self.effects.stats.leases_sent += 1;
            }
            let sent = self.effects.pop_control();
            if let Some(resume) = &mut self.resume
                && sent.is_some_and(|control| control.cause == Cause::Keepalive)
            {
                resume.unanswered += 1;
            }
        }
        self.effects.stats.frames_sent += 1;
        self.finish_drain();
        Ok(Progress::Sent)
    }

    #[inline(never)]
    fn transmit_answer<E>(
        &mut self,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Progress, E> {
        if let Some(answer) = self.effects.answers.front() {
            match answer.send(send) {
                Poll::Pending => return Ok(Progress::Blocked),
                Poll::Ready(sent) => sent?,
            }
            self.effects.pop_answer();
        }
        self.effects.stats.frames_sent += 1;
        self.finish_drain();
        Ok(Progress::Sent)
    }

    /// Something for the application.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.effects.events.pop_front()?;
        self.streams.forget(event.cost());
        Some(event)
    }

    /// What [`poll_event`](Self::poll_event) would give, up to `max` at once;
    /// by exchanging memory if all of it goes to an `into` that is empty.
    #[inline]
    pub fn take_events(&mut self, into: &mut VecDeque<Event>, max: usize) {
        if self.effects.events.is_empty() {
            return;
        }
        if into.is_empty() && self.effects.events.len() <= max {
            std::mem::swap(&mut self.effects.events, into);
            let cost = into.iter().map(Event::cost).sum();
            self.streams.forget(cost);
        } else {
            into.extend(std::iter::from_fn(|| self.poll_event()).take(max));
        }
    }

    /// Whether [`poll_event`](Self::poll_event) has something.
    #[inline]
    pub fn has_events(&self) -> bool {
        !self.effects.events.is_empty()
    }

    /// Whether METADATA_PUSH may be sent without piling up.
    #[inline]
    pub fn has_push_room(&self) -> bool {
        self.effects.pushed <= self.config.limits.max_owed_len || self.is_closed()
    }

    /// Somebody who waits in `poll_take` or `poll_capacity` can go on.
    #[inline]
    pub fn poll_wake(&mut self) -> Option<Wake> {
        self.streams.poll_wake()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    #[inline]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        let mut due = self.deadline;
        if let Some(resume) = &self.resume {
            if !resume.is_up() {
                return earlier(due, resume.poll_timeout());
            }
            due = earlier(due, resume.replay_due());
        }
        let keepalive = self.keepalive.as_ref().map(Keepalive::poll_timeout);
        earlier(earlier(due, keepalive), self.poll_lease_timeout())
    }

    /// Whether frames may be given to [`handle_frame`](Self::handle_frame).
    ///
    /// False while an acceptor decides, and while the peer does not read what
    /// is owed to it: then nothing is read from it either, so that it cannot
    /// make us owe more.
    #[inline]
    pub fn wants_input(&self) -> bool {
        !matches!(self.phase, Phase::Deciding { .. })
            && self.effects.owed <= self.config.limits.max_owed_len
    }

    /// Whether a further request may be served: false while answers to earlier
    /// ones fill the memory meant for them.
    ///
    /// Leave events in the session until then, where they are counted, but read
    /// on: two sides that stopped reading until their answers are read would
    /// wait for each other.
    #[inline]
    pub fn wants_work(&self) -> bool {
        self.streams.has_room_for_answers() || self.is_closed()
    }

    /// Why the connection is over, if it is.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        match &self.phase {
            Phase::Closed(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether the connection is over; `transmit` may still have last words.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }

    /// Whether it is open, on a link that holds, and nothing is due but a
    /// KEEPALIVE or a lease: then what the peer sends can be handled by anybody,
    /// and outlives no process.
    #[inline]
    pub fn is_steady(&self) -> bool {
        matches!(self.phase, Phase::Open)
            && self.deadline.is_none()
            && self.durable.is_none()
            && self.resume.as_ref().is_none_or(|resume| resume.is_up())
    }

    /// Requests of this side that are in flight.
    #[inline]
    pub fn in_flight(&self) -> usize {
        self.streams.local_len()
    }

    /// Streams of both sides that are not over.
    #[inline]
    pub fn streams_open(&self) -> usize {
        self.streams.len()
    }

    /// One-way requests of the peer in work.
    pub fn one_way_in_work(&self) -> usize {
        self.streams.one_way_len() + self.effects.pushes
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats {
            streams_open: self.streams.len(),
            resume_len: self.resume.as_ref().map_or(0, |resume| resume.log.len()),
            requests_waiting: self.streams.lease().map_or(0, Lease::waiting_len),
            ..self.effects.stats
        }
    }

    /// Which end of the connection this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The peer broke the protocol beyond repair.
    fn violation(&mut self, what: &'static str) {
        tracing::warn!(what, "peer broke the protocol");
        self.fail_connection(ErrorCode::CONNECTION_ERROR, what);
        self.close_with(CloseReason::Protocol(what));
    }

    /// Queues the last words.
    fn fail_connection(&mut self, code: ErrorCode, message: &str) {
        if matches!(self.phase, Phase::AwaitSetup | Phase::Deciding { .. }) {
            // What was pushed for a connection that will not be.
            self.effects.clear_control();
        }
        let message = message_bytes(message, self.link_max);
        let error = Frame::Error(ErrorFrame {
            stream_id: None,
            code,
            message: &message,
        });
        self.effects.control(Cause::Once, error.to_vec().into());
    }

    /// Ends a drain once all streams are over, and those whose requests were
    /// refused know.
    #[inline]
    fn finish_drain(&mut self) {
        if self.farewell_owed || matches!(self.phase, Phase::Draining(_)) {
            self.drain();
        }
    }

    #[cold]
    fn drain(&mut self) {
        if self.farewell_owed && self.is_farewell_due() {
            self.farewell_owed = false;
            self.fail_connection(ErrorCode::CONNECTION_CLOSE, "closing");
        }
        if let Phase::Draining(by) = self.phase
            && self.streams.len() == 0
            && self.effects.answers.is_empty()
        {
            if let Some(resume) = &mut self.resume {
                if matches!(resume.link, LinkState::Asked { .. }) {
                    return;
                }
                // Neither side may go before the other has everything, nor be
                // told of it before that is stored.
                if self.durable.is_some() && resume.stored != resume.received {
                    return;
                }
                if !resume.log.is_empty() {
                    let may_ask = resume.is_up()
                        && !resume.log.is_replaying()
                        && resume.log.sent_len() == resume.log.len();
                    if may_ask && !resume.asked_to_confirm && resume.has_news() {
                        self.ask_to_confirm();
                    }
                    return;
                }
                if resume.is_behind() && resume.is_up() {
                    self.confirm();
                }
            }
            self.close_with(match by {
                By::Us => CloseReason::Local,
                By::Peer => CloseReason::Peer,
            });
        }
    }

    fn close_with(&mut self, reason: CloseReason) {
        if self.is_closed() {
            return;
        }
        self.farewell_owed = false;
        self.effects.clear_answers();
        self.streams.close(&reason);
        self.phase = Phase::Closed(reason.clone());
        self.deadline = None;
        self.keepalive = None;
        self.effects.events.push_back(Event::Closed(reason));
    }
}

/// The earlier of two times, if there are any.
#[inline]
fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// For tests: the books that the limits are kept by.
#[cfg(any(test, feature = "testkit"))]
impl Session {
    /// What this side holds for its peer, in bytes.
    pub fn books(&self) -> Books {
        Books {
            buffered: self.streams.buffered(),
            queued: self.streams.queued_len(),
            owed: self.effects.owed,
            slots: self.streams.slots(),
        }
    }

    /// Counts everything again, and compares with the running sums.
    ///
    /// # Panics
    ///
    /// When they differ: a bug of this module.
    pub fn assert_consistent(&self) {
        let waiting = self.effects.events.iter().map(Event::cost).sum();
        self.streams.assert_consistent(waiting, self.is_closed());
        let frames = self.effects.control.iter();
        let peers = frames.filter(|control| control.cause == Cause::Peer);
        let control: usize = peers
            .map(|control| control.frame.len() + Effects::COST)
            .sum();
        let answers = self.effects.answers.iter();
        let answers: usize = answers
            .map(|answer| answer.message.len() + Effects::COST)
            .sum();
        let owed = control + answers + self.asked_cost();
        assert_eq!(self.effects.owed, owed, "bytes owed");
    }

    /// Makes `next` the id of this side's next stream.
    pub fn skip_ids_to(&mut self, next: u32) {
        self.streams.skip_ids_to(next);
    }
}
