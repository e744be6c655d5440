//! What the peer's frames mean to a connection.

use std::time::Instant;

use bytes::Bytes;

use super::{By, Cause, Event, Phase, Session};
use crate::{
    error::{CloseReason, Failure},
    frame::{self, DecodeError, ErrorCode, ErrorFrame, Frame, FrameType, Header, StreamId},
    proto::{Setup, Side, resume::LinkState, streams::payload_cost},
    transport::InFrame,
};

impl Session {
    /// Takes one frame from the peer.
    ///
    /// Not to be called between [`Event::Setup`] and the answer to it, nor
    /// while [`wants_input`](Self::wants_input) is false.
    pub fn handle_frame(&mut self, now: Instant, whole: &InFrame<'_>) {
        self.effects.stats.frames_received += 1;
        self.touch();
        if let Some(keepalive) = &mut self.keepalive {
            keepalive.on_received(now);
        }
        self.tell_time(now);
        let too_long = whole.as_slice().len() > self.config.limits.max_frame_len;
        let frame = Frame::decode(whole.as_slice());
        match self.phase {
            Phase::AwaitSetup if too_long => {
                let message = "the first frame is longer than max_frame_len".to_owned();
                self.refuse(&Failure::from_wire(ErrorCode::INVALID_SETUP, message));
            }
            Phase::AwaitSetup => self.on_first_frame(now, frame, whole),
            Phase::Open | Phase::Draining(_) => {
                match self.resume.as_ref().map(|resume| &resume.link) {
                    // What comes is from a link that is gone.
                    Some(LinkState::Down) => return,
                    Some(LinkState::Asked { .. }) => {
                        self.on_resume_answer(now, frame.ok().filter(|_| !too_long).as_ref());
                        return;
                    }
                    Some(LinkState::Up) | None => {}
                }
                if too_long {
                    self.violation("a frame is longer than max_frame_len");
                    return;
                }
                self.count_received(&frame, whole.as_slice());
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
        if !self.established && shows_acceptance(frame) {
            self.established = true;
            if let Some(resume) = &mut self.resume {
                resume.on_accepted();
            }
        }
        match frame {
            Frame::Payload(frame) => self.streams.on_payload(frame, whole, limits, effects),
            Frame::Request(frame) => {
                let refuse_new = matches!(self.phase, Phase::Draining(By::Us));
                self.streams
                    .on_request(frame, whole, refuse_new, limits, effects);
            }
            Frame::RequestN(frame) => self.streams.on_request_n(*frame, limits, effects),
            Frame::Cancel(frame) => self.streams.on_cancel(frame.stream_id, effects),
            Frame::Error(frame) => match frame.stream_id {
                Some(id) => self.streams.on_error(id, frame, effects),
                None => self.on_connection_error(now, frame),
            },
            Frame::Keepalive(frame) => self.on_keepalive(frame),
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
            Frame::Lease(frame) => self.on_lease(frame),
            Frame::Setup(_) | Frame::Resume(_) | Frame::ResumeOk(_) | Frame::Ext(_) => {
                effects.stats.frames_ignored += 1
            }
        }
        self.finish_drain();
    }

    fn on_keepalive(&mut self, frame: &frame::Keepalive<'_>) {
        self.on_position(frame.last_received, !frame.respond);
        if !frame.respond || self.is_closed() {
            return;
        }
        match self.durable {
            Some(_) => self.on_asked(frame.data),
            None => self.answer_keepalive(frame.data),
        }
    }

    /// The same data, our own position \[C103, C104].
    pub(super) fn answer_keepalive(&mut self, data: &[u8]) {
        let answer = Frame::Keepalive(frame::Keepalive {
            respond: false,
            last_received: self.position(),
            data,
        });
        if answer.encoded_len() > self.link_max {
            self.effects.stats.frames_ignored += 1; // No frame can hold it.
        } else {
            self.effects.control(Cause::Peer, answer.to_vec().into());
        }
    }

    /// A server's first frame must be SETUP or RESUME \[C181].
    fn on_first_frame(
        &mut self,
        now: Instant,
        frame: Result<Frame<'_>, DecodeError>,
        whole: &InFrame<'_>,
    ) {
        let (code, message) = match frame {
            Ok(Frame::Setup(setup)) => {
                // The version is checked first: of another version nothing else
                // can be trusted to mean what it says [C075].
                if (setup.major, setup.minor) != frame::VERSION {
                    let message = "only version 1.0 is supported";
                    (ErrorCode::UNSUPPORTED_SETUP, message.to_owned())
                } else if setup.resume_token.is_some() && self.config.resume.is_none() {
                    let message = "resumption is not supported";
                    (ErrorCode::REJECTED_SETUP, message.to_owned()) // [C073]
                } else if setup.resume_token.is_some_and(<[u8]>::is_empty) {
                    let message = "the resume token is empty";
                    (ErrorCode::INVALID_SETUP, message.to_owned())
                } else if setup.lease && self.config.lease.is_none() {
                    let message = "lease is not supported";
                    (ErrorCode::UNSUPPORTED_SETUP, message.to_owned())
                } else if setup.payload.content_len() > self.config.limits.max_payload_len {
                    let message = "the payload is longer than max_payload_len";
                    (ErrorCode::REJECTED_SETUP, message.to_owned())
                } else {
                    let max_lifetime = setup.max_lifetime;
                    if setup.lease {
                        self.streams.use_lease(now, &self.config);
                    }
                    let stored = setup.resume_token.is_some()
                        && self.config.resume.as_ref().is_some_and(|r| r.durable);
                    let frame = stored.then(|| Bytes::copy_from_slice(whole.as_slice()));
                    let setup = Setup::from_frame(&setup, whole);
                    let token = setup.resume_token.clone();
                    self.phase = Phase::Deciding {
                        max_lifetime,
                        token,
                        setup: frame,
                    };
                    self.effects.events.push_back(Event::Setup(setup));
                    return;
                }
            }
            Ok(Frame::Resume(resume)) if self.config.resume.is_some() => {
                self.on_resume_request(&resume);
                return;
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
                self.streams.fail_waiting(&CloseReason::Peer);
                self.deadline = now.checked_add(self.config.drain_timeout);
            }
        } else if self.side == Side::Client && !self.established {
            self.close_with(CloseReason::Refused(failure));
        } else {
            self.close_with(CloseReason::PeerError(failure));
        }
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
