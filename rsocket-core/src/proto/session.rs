//! One side of a connection: establishment, dispatch, keepalive, the end.

use std::{collections::VecDeque, task::Poll, time::Instant};

use bytes::Bytes;

#[cfg(any(test, feature = "testkit"))]
use super::Books;
use super::{
    Action, Capacity, Config, DemandPolicy, Keepalive, Open, Setup, SetupOptions, Side, Stats,
    StreamKey, Take, Wake,
    streams::{Streams, frame_limit, message_bytes, payload_cost},
};
use crate::{
    Payload,
    error::{CloseReason, Error, Failure},
    frame::{
        self, DecodeError, Demand, ErrorCode, ErrorFrame, Frame, FrameType, Head, Header,
        Interaction, MetadataPush, Position, StreamId,
    },
    transport::{InFrame, Limits as LinkLimits, OutFrame, Part},
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
    /// The connection is over. All streams were told; once `transmit` is idle,
    /// close the link.
    Closed(CloseReason),
}

/// What [`Session::transmit`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// One step was made; call again.
    Sent,
    /// There is nothing to send.
    Idle,
    /// The link took nothing.
    Blocked,
}

/// What handling a frame leaves to be done outside of the streams.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) events: VecDeque<Event>,
    pub(super) stats: Stats,
    /// Frames of stream 0: they go before all others \[C254].
    control: VecDeque<Control>,
    /// Answers to requests that never became streams.
    answers: VecDeque<(StreamId, ErrorCode, Bytes)>,
    /// What waits because of the peer's frames, in bytes.
    owed: usize,
    /// METADATA_PUSH frames of our own that wait, in bytes.
    pushed: usize,
    /// METADATA_PUSH events that were not taken or are in work.
    pushes: usize,
}

/// An encoded frame of stream 0.
#[derive(Debug)]
struct Control {
    frame: Bytes,
    cause: Cause,
}

/// Whose doing a frame of stream 0 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
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
    const COST: usize = 64;

    fn control(&mut self, cause: Cause, frame: Bytes) {
        match cause {
            Cause::Peer => self.owed += frame.len() + Self::COST,
            Cause::Push => self.pushed += frame.len() + Self::COST,
            Cause::Keepalive | Cause::Once => {}
        }
        self.control.push_back(Control { frame, cause });
    }

    pub(super) fn answer(&mut self, id: StreamId, code: ErrorCode, message: &'static str) {
        self.owed += message.len() + Self::COST;
        let message = Bytes::from_static(message.as_bytes());
        self.answers.push_back((id, code, message));
    }

    fn pop_control(&mut self) {
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

    fn pop_answer(&mut self) {
        if let Some((_, _, message)) = self.answers.pop_front() {
            self.owed -= message.len() + Self::COST;
        }
    }

    fn clear_control(&mut self) {
        while !self.control.is_empty() {
            self.pop_control();
        }
    }

    fn clear_answers(&mut self) {
        while !self.answers.is_empty() {
            self.pop_answer();
        }
    }
}

impl Event {
    /// What it costs to keep it until it is taken.
    #[inline]
    fn cost(&self) -> usize {
        match self {
            Self::Request { payload, .. } => payload_cost(payload.len()),
            Self::MetadataPush(metadata) => payload_cost(metadata.len()),
            Self::Setup(_) | Self::Channel { .. } | Self::Closed(_) => 0,
        }
    }
}

impl Session {
    /// A client's side: SETUP is the first frame it transmits.
    pub fn client(now: Instant, config: Config, setup: &SetupOptions, link: LinkLimits) -> Self {
        let keepalive = Keepalive::client(now, setup.keepalive_interval, setup.max_lifetime);
        let mut session = Self::new(Side::Client, config, link, Phase::Open);
        session.keepalive = Some(keepalive);
        session.effects.control(Cause::Once, setup.encode());
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
            streams: Streams::new(side, config.limits.max_queued_len, link_max),
            effects: Effects::default(),
            config,
        }
    }

    // ----- what happens outside -------------------------------------------

    /// Takes one frame from the peer.
    ///
    /// Not to be called between [`Event::Setup`] and the answer to it, nor
    /// while [`wants_input`](Self::wants_input) is false.
    pub fn handle_frame(&mut self, now: Instant, whole: &InFrame<'_>) {
        self.effects.stats.frames_received += 1;
        if let Some(keepalive) = &mut self.keepalive {
            keepalive.on_received(now);
        }
        let too_long = whole.as_slice().len() > self.config.limits.max_frame_len;
        let frame = Frame::decode(whole.as_slice());
        match self.phase {
            Phase::AwaitSetup if too_long => {
                let message = "the first frame is longer than max_frame_len".to_owned();
                self.refuse(&Failure::from_wire(ErrorCode::INVALID_SETUP, message));
            }
            Phase::AwaitSetup => self.on_first_frame(frame, whole),
            Phase::Open | Phase::Draining(_) => {
                if too_long {
                    self.violation("a frame is longer than max_frame_len");
                    return;
                }
                match frame {
                    Ok(frame) => self.on_frame(now, &frame, whole),
                    Err(error) => self.on_malformed(whole.as_slice(), error),
                }
            }
            // After the end everything is ignored [C005].
            Phase::Deciding { .. } | Phase::Closed(_) => {}
        }
    }

    fn on_frame(&mut self, now: Instant, frame: &Frame<'_>, whole: &InFrame<'_>) {
        let limits = &self.config.limits;
        let effects = &mut self.effects;
        self.established |= shows_acceptance(frame);
        match frame {
            Frame::Payload(frame) => self.streams.on_payload(frame, whole, limits, effects),
            Frame::Request(frame) => {
                let refuse_new = matches!(self.phase, Phase::Draining(By::Us));
                self.streams
                    .on_request(frame, whole, refuse_new, limits, effects);
            }
            Frame::RequestN(frame) => self.streams.on_request_n(*frame, effects),
            Frame::Cancel(frame) => self.streams.on_cancel(frame.stream_id, effects),
            Frame::Error(frame) => match frame.stream_id {
                Some(id) => self.streams.on_error(id, frame, effects),
                None => self.on_connection_error(now, frame),
            },
            Frame::Keepalive(frame) if frame.respond => {
                // The same data, our own position: 0 without resumption
                // [C103, C104, C106].
                let answer = Frame::Keepalive(frame::Keepalive {
                    respond: false,
                    last_received: Position::ZERO,
                    data: frame.data,
                });
                if answer.encoded_len() > self.link_max {
                    effects.stats.frames_ignored += 1; // No frame can hold it.
                } else {
                    effects.control(Cause::Peer, answer.to_vec().into());
                }
            }
            Frame::Keepalive(_) => {}
            Frame::MetadataPush(frame) => {
                let len = frame.metadata.len();
                if effects.pushes >= limits.max_one_way
                    || len > limits.max_payload_len
                    || !self.streams.keeps(payload_cost(len), limits)
                {
                    effects.stats.one_way_dropped += 1;
                    return;
                }
                effects.pushes += 1;
                let metadata = Bytes::copy_from_slice(frame.metadata);
                effects.events.push_back(Event::MetadataPush(metadata));
            }
            // A RESUME in the middle of a connection is an attack or a bug
            // [C197]; a second SETUP is ignored [C194].
            Frame::Resume(_) if self.side == Side::Server => {
                self.violation("RESUME on an established connection");
            }
            Frame::Ext(ext) if !ext.ignore => {
                self.violation("an extension frame of unknown type without IGNORE");
            }
            Frame::Setup(_)
            | Frame::Lease(_)
            | Frame::Resume(_)
            | Frame::ResumeOk(_)
            | Frame::Ext(_) => effects.stats.frames_ignored += 1,
        }
        self.finish_drain();
    }

    /// A server's first frame must be SETUP \[C181]; RESUME comes with an
    /// extension that is not offered here \[C290].
    fn on_first_frame(&mut self, frame: Result<Frame<'_>, DecodeError>, whole: &InFrame<'_>) {
        let (code, message) = match frame {
            Ok(Frame::Setup(setup)) => {
                // The version is checked first: of another version nothing else
                // can be trusted to mean what it says [C075].
                if (setup.major, setup.minor) != frame::VERSION {
                    let message = "only version 1.0 is supported";
                    (ErrorCode::UNSUPPORTED_SETUP, message.to_owned())
                } else if setup.resume_token.is_some() {
                    let message = "resumption is not supported";
                    (ErrorCode::REJECTED_SETUP, message.to_owned()) // [C073]
                } else if setup.lease {
                    let message = "lease is not supported";
                    (ErrorCode::UNSUPPORTED_SETUP, message.to_owned())
                } else if payload_len(&setup.payload) > self.config.limits.max_payload_len {
                    let message = "the payload is longer than max_payload_len";
                    (ErrorCode::REJECTED_SETUP, message.to_owned())
                } else {
                    self.phase = Phase::Deciding {
                        max_lifetime: setup.max_lifetime,
                    };
                    let setup = Setup::from_frame(&setup, whole);
                    self.effects.events.push_back(Event::Setup(setup));
                    return;
                }
            }
            Ok(Frame::Resume(_)) => {
                let message = "resumption is not supported";
                (ErrorCode::REJECTED_RESUME, message.to_owned())
            }
            Ok(_) => {
                let message = "the first frame must be SETUP";
                (ErrorCode::INVALID_SETUP, message.to_owned())
            }
            Err(error) => (ErrorCode::INVALID_SETUP, error.to_string()),
        };
        self.refuse(&Failure::from_wire(code, message));
    }

    fn on_malformed(&mut self, bytes: &[u8], error: DecodeError) {
        let header = Header::decode(bytes).ok();
        // On a frame of a type that has one, IGNORE covers what is wrong with
        // it too [C034]; unknown types have nothing but it [C027].
        let ignorable = header.is_some_and(Header::is_ignorable);
        let frame_type = header.and_then(|header| FrameType::from_bits(header.frame_type));
        match error {
            _ if ignorable => self.effects.stats.frames_ignored += 1,
            // On a stream where it has no place, or the other way round [C332,
            // C334, C335, C337, C338].
            DecodeError::WrongStream { .. } => self.effects.stats.frames_ignored += 1,
            // [C135]
            DecodeError::OutOfRange { .. } if frame_type == Some(FrameType::RequestN) => {
                self.effects.stats.frames_ignored += 1;
            }
            // [C121]
            DecodeError::OutOfRange { .. }
                if matches!(
                    frame_type,
                    Some(FrameType::RequestStream | FrameType::RequestChannel)
                ) =>
            {
                let id = header.and_then(|header| StreamId::new(header.stream_id));
                match id {
                    Some(id) if !self.streams.knows(id) => {
                        self.effects.stats.requests_rejected += 1;
                        let message = "initial request-n must be 1..=2^31-1";
                        self.effects.answer(id, ErrorCode::INVALID, message);
                    }
                    _ => self.effects.stats.frames_ignored += 1,
                }
            }
            error => {
                tracing::warn!(%error, "peer sent a malformed frame");
                let message = error.to_string();
                self.fail_connection(ErrorCode::CONNECTION_ERROR, &message);
                self.close_with(CloseReason::Malformed(error));
            }
        }
    }

    /// ERROR on stream 0.
    fn on_connection_error(&mut self, now: Instant, frame: &ErrorFrame<'_>) {
        let setup_code =
            (ErrorCode::INVALID_SETUP..=ErrorCode::REJECTED_RESUME).contains(&frame.code);
        if setup_code && (self.side == Side::Server || self.established) {
            self.effects.stats.frames_ignored += 1; // [C195, C196]
            return;
        }
        let failure = Failure::from_wire(frame.code, frame.message_lossy().into_owned());
        if frame.code == ErrorCode::CONNECTION_CLOSE {
            if matches!(self.phase, Phase::Open) {
                self.phase = Phase::Draining(By::Peer);
                self.deadline = now.checked_add(self.config.drain_timeout);
            }
        } else if self.side == Side::Client && !self.established {
            self.close_with(CloseReason::Refused(failure));
        } else {
            self.close_with(CloseReason::PeerError(failure));
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
        let Some(keepalive) = &mut self.keepalive else {
            return;
        };
        match keepalive.handle_timeout(now) {
            Action::Nothing => {}
            Action::Send => {
                let waits = |control: &Control| control.cause == Cause::Keepalive;
                // On a link that takes nothing they would pile up.
                if !self.effects.control.iter().any(waits) {
                    let keepalive = Frame::Keepalive(frame::Keepalive {
                        respond: true,
                        last_received: Position::ZERO,
                        data: &[],
                    });
                    let encoded = keepalive.to_vec().into();
                    self.effects.control(Cause::Keepalive, encoded);
                }
            }
            Action::PeerDead => {
                let millis = keepalive.max_lifetime().get();
                self.fail_connection(ErrorCode::CONNECTION_ERROR, "no keepalive in time");
                self.close_with(CloseReason::KeepaliveTimeout { millis });
            }
        }
    }

    /// The link is gone, or the peer closed its half of it.
    pub fn handle_disconnect(&mut self, reason: CloseReason) {
        let reason = match (&self.phase, reason) {
            // Those who were asked to end and do so are not at fault.
            (Phase::Draining(By::Us), CloseReason::Peer) => CloseReason::Local,
            (Phase::Draining(By::Peer), CloseReason::Transport(_)) => CloseReason::Peer,
            (_, reason) => reason,
        };
        self.effects.clear_control();
        self.close_with(reason);
    }

    // ----- what the application wants -------------------------------------

    /// Accepts the SETUP of [`Event::Setup`].
    pub fn accept(&mut self, now: Instant) {
        if let Phase::Deciding { max_lifetime } = self.phase {
            self.phase = Phase::Open;
            self.deadline = None;
            self.keepalive = Some(Keepalive::server(now, max_lifetime));
        }
    }

    /// Refuses the SETUP of [`Event::Setup`]: ERROR on stream 0, then the end
    /// \[C183]. A code that is none of the setup codes becomes REJECTED_SETUP.
    pub fn refuse(&mut self, failure: &Failure) {
        if !matches!(self.phase, Phase::AwaitSetup | Phase::Deciding { .. }) {
            return;
        }
        let code = match failure.code() {
            code if (ErrorCode::INVALID_SETUP..=ErrorCode::REJECTED_RESUME).contains(&code) => code,
            _ => ErrorCode::REJECTED_SETUP,
        };
        self.fail_connection(code, failure.message());
        self.close_with(CloseReason::RefusedClient(failure.clone()));
    }

    /// Opens a stream. Its request leaves in the order of stream ids \[C045].
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the connection ends, [`Error::TooLong`] for a
    /// payload that cannot be sent, [`Error::NoStreamId`] when all ids are in
    /// use. Nothing was sent.
    pub fn open(&mut self, open: Open) -> Result<StreamKey, Error> {
        match &self.phase {
            Phase::AwaitSetup | Phase::Deciding { .. } | Phase::Open => {}
            Phase::Draining(By::Us) => return Err(Error::Closed(CloseReason::Local)),
            Phase::Draining(By::Peer) => return Err(Error::Closed(CloseReason::Peer)),
            Phase::Closed(reason) => return Err(Error::Closed(reason.clone())),
        }
        let max_len = frame_limit(self.link_max, &self.config);
        self.streams.open(open, max_len, &self.config)
    }

    /// Sends METADATA_PUSH.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], and [`Error::TooLong`] since it cannot be fragmented
    /// \[C165].
    pub fn metadata_push(&mut self, metadata: &[u8]) -> Result<(), Error> {
        if let Phase::Closed(reason) = &self.phase {
            return Err(Error::Closed(reason.clone()));
        }
        let len = metadata.len() + frame::HEADER_LEN;
        if len > self.link_max {
            return Err(Error::TooLong {
                len,
                limit: self.link_max,
            });
        }
        let frame = Frame::MetadataPush(MetadataPush { metadata });
        self.effects.control(Cause::Push, frame.to_vec().into());
        Ok(())
    }

    /// A METADATA_PUSH handler is done.
    pub fn metadata_push_done(&mut self) {
        self.effects.pushes = self.effects.pushes.saturating_sub(1);
    }

    /// Takes what arrived on a stream.
    pub fn poll_take(&mut self, key: StreamKey) -> Take {
        self.streams.poll_take(key)
    }

    /// How many payloads a stream takes now: within the peer's credit, and no
    /// more than may wait for the link.
    pub fn poll_capacity(&mut self, key: StreamKey) -> Capacity {
        self.streams.poll_capacity(key)
    }

    /// Whether the stream's sending half is over; [`Wake::Writer`] tells when
    /// it ends later.
    pub fn poll_send_closed(&mut self, key: StreamKey) -> bool {
        self.streams.poll_send_closed(key)
    }

    /// Credit that the peer granted on a stream since the last call; `None`
    /// when the sending half is over, `Pending` when there was none:
    /// [`Wake::Writer`] will tell.
    pub fn poll_granted(&mut self, key: StreamKey) -> Poll<Option<u64>> {
        self.streams.poll_granted(key)
    }

    /// Sends a payload on a stream; the answer of a request-response completes
    /// it. Without capacity, or after the end, the payload is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`]: it was not sent, and the stream is as before.
    pub fn send(&mut self, key: StreamKey, payload: Payload) -> Result<(), Error> {
        let max_len = frame_limit(self.link_max, &self.config);
        self.streams.send(key, payload, max_len, &self.config)
    }

    /// Completes the sending half. Without effect after its end.
    pub fn complete(&mut self, key: StreamKey) {
        self.streams.complete(key);
    }

    /// Ends the stream with ERROR, behind all that was sent on it.
    pub fn fail(&mut self, key: StreamKey, failure: &Failure) {
        self.streams.fail(key, failure);
    }

    /// As a requester: ends the stream. As a responder of a channel: asks the
    /// peer to send no more.
    pub fn cancel(&mut self, key: StreamKey) {
        self.streams.cancel(key);
    }

    /// Asks for `n` more payloads than the demand policy does by itself.
    pub fn request_n(&mut self, key: StreamKey, n: Demand) {
        self.streams.request_n(key, n);
    }

    /// Sets how the inbound half of a channel that the peer opened asks for
    /// payloads. Without effect once the first was taken.
    pub fn set_demand(&mut self, key: StreamKey, policy: DemandPolicy) {
        self.streams.set_demand(key, policy);
    }

    /// Lets go of a stream's handle; a channel has two.
    pub fn release(&mut self, key: StreamKey) {
        self.streams.release(key);
        self.finish_drain();
    }

    /// Ends the connection in good order: tells the peer, refuses new
    /// requests, lets open streams end, for at most the drain timeout \[C085].
    pub fn close(&mut self, now: Instant) {
        match self.phase {
            Phase::Open => {
                self.fail_connection(ErrorCode::CONNECTION_CLOSE, "closing");
                self.phase = Phase::Draining(By::Us);
                self.deadline = now.checked_add(self.config.drain_timeout);
                self.finish_drain();
            }
            Phase::AwaitSetup | Phase::Deciding { .. } => {
                self.refuse(&Failure::rejected("the server is closing"));
            }
            Phase::Draining(_) | Phase::Closed(_) => {}
        }
    }

    /// Ends the connection at once; open streams fail.
    pub fn abort(&mut self) {
        if !self.is_closed() {
            self.fail_connection(ErrorCode::CONNECTION_ERROR, "aborted");
            self.close_with(CloseReason::Local);
        }
    }

    // ----- what is to be done ---------------------------------------------

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
        if !self.effects.control.is_empty() || !self.effects.answers.is_empty() {
            return self.transmit_owed(send);
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
            Progress::Sent => self.finish_drain(),
            Progress::Idle | Progress::Blocked => {}
        }
        Ok(progress)
    }

    #[inline(never)]
    fn transmit_owed<E>(
        &mut self,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Progress, E> {
        let effects = &mut self.effects;
        if let Some(Control { frame, .. }) = effects.control.front() {
            match send(&OutFrame::encoded(frame)) {
                Poll::Pending => return Ok(Progress::Blocked),
                Poll::Ready(sent) => sent?,
            }
            effects.pop_control();
        } else if let Some((id, code, message)) = effects.answers.front() {
            let head = Head::error(Some(*id), *code);
            let frame = OutFrame::new(head.as_slice(), Part::EMPTY, Part::shared(message, message));
            match send(&frame) {
                Poll::Pending => return Ok(Progress::Blocked),
                Poll::Ready(sent) => sent?,
            }
            effects.pop_answer();
        }
        effects.stats.frames_sent += 1;
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
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_closed() {
            return None;
        }
        let keepalive = self.keepalive.as_ref().map(Keepalive::poll_timeout);
        match (self.deadline, keepalive) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
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

    // ----- what it is ------------------------------------------------------

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
            ..self.effects.stats
        }
    }

    /// Which end of the connection this is.
    pub fn side(&self) -> Side {
        self.side
    }

    // ----- the end ----------------------------------------------------------

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
    fn finish_drain(&mut self) {
        if let Phase::Draining(by) = self.phase
            && self.streams.len() == 0
            && self.effects.answers.is_empty()
        {
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
        self.effects.clear_answers();
        self.streams.close(&reason);
        self.phase = Phase::Closed(reason.clone());
        self.deadline = None;
        self.keepalive = None;
        self.effects.events.push_back(Event::Closed(reason));
    }
}

/// Whether a server that sends this has accepted SETUP \[C190]. ERROR on stream
/// 0 may be its refusal.
fn shows_acceptance(frame: &Frame<'_>) -> bool {
    match frame {
        Frame::Error(frame) => frame.stream_id.is_some(),
        Frame::Request(_)
        | Frame::RequestN(_)
        | Frame::Cancel(_)
        | Frame::Payload(_)
        | Frame::Keepalive(_)
        | Frame::Lease(_)
        | Frame::MetadataPush(_) => true,
        Frame::Setup(_) | Frame::Resume(_) | Frame::ResumeOk(_) | Frame::Ext(_) => false,
    }
}

fn payload_len(payload: &frame::PayloadRef<'_>) -> usize {
    payload.data.len() + payload.metadata.map_or(0, <[u8]>::len)
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
            .map(|(_, _, message)| message.len() + Effects::COST)
            .sum();
        assert_eq!(self.effects.owed, control + answers, "bytes owed");
    }

    /// Makes `next` the id of this side's next stream.
    pub fn skip_ids_to(&mut self, next: u32) {
        self.streams.skip_ids_to(next);
    }
}
