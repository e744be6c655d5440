//! What the application wants of a connection and its streams.

use std::{task::Poll, time::Instant};

use super::{By, Cause, Phase, Progress, Session};
use crate::{
    Payload,
    error::{CloseReason, Error, Failure},
    frame::{self, Demand, ErrorCode, Frame, MetadataPush},
    proto::{
        Batch, Capacity, DemandPolicy, Keepalive, Open, StreamKey, Take, streams::frame_limit,
    },
    transport::OutFrame,
};

impl Session {
    /// Accepts the SETUP of [`Event::Setup`](super::Event::Setup).
    pub fn accept(&mut self, now: Instant) {
        if let Phase::Deciding {
            max_lifetime,
            token,
            setup,
        } = &mut self.phase
        {
            let (max_lifetime, token, setup) = (*max_lifetime, token.take(), setup.take());
            self.keep_for_resumption(token, setup);
            self.phase = Phase::Open;
            self.deadline = None;
            self.keepalive = Some(Keepalive::server(now, max_lifetime));
            self.start_granting(now);
        }
    }

    /// Refuses the SETUP of [`Event::Setup`](super::Event::Setup): ERROR on stream 0, then the end
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
    /// use, [`Error::NoLease`] when too many wait for a lease. Nothing was sent.
    pub fn open(&mut self, open: Open) -> Result<StreamKey, Error> {
        let max_len = self.begin_open()?;
        self.streams.open(open, max_len, &self.config)
    }

    /// As [`open`](Self::open), and if nothing else waits for the link, the request
    /// goes to `send` at once, as from [`transmit`](Self::transmit): what came of
    /// that, if it did.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); within, what `send` returned.
    #[inline]
    pub fn open_through<E>(
        &mut self,
        open: Open,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<(StreamKey, Result<Progress, E>), Error> {
        let max_len = self.begin_open()?;
        if !self.is_clear() {
            let key = self.streams.open(open, max_len, &self.config)?;
            return Ok((key, Ok(Progress::Idle)));
        }
        let (key, progress) = self
            .streams
            .open_through(open, max_len, &self.config, send)?;
        self.count_sent(&progress);
        Ok((key, progress))
    }

    /// Checks that a stream may be opened; the longest frame for it.
    #[inline]
    fn begin_open(&mut self) -> Result<usize, Error> {
        self.touch();
        match &self.phase {
            Phase::AwaitSetup | Phase::Deciding { .. } | Phase::Open => {}
            Phase::Draining(By::Us) => return Err(Error::Closed(CloseReason::Local)),
            Phase::Draining(By::Peer) => return Err(Error::Closed(CloseReason::Peer)),
            Phase::Closed(reason) => return Err(Error::Closed(reason.clone())),
        }
        Ok(frame_limit(self.link_max, &self.config))
    }

    /// Whether a frame that is sent now is not ahead of another one, and need not
    /// be remembered.
    #[inline]
    fn is_clear(&self) -> bool {
        matches!(self.phase, Phase::Open)
            && self.resume.is_none()
            && self.effects.control.is_empty()
            && self.effects.answers.is_empty()
            && self.streams.is_clear()
    }

    /// Counts what went out past [`transmit`](Self::transmit).
    #[inline]
    fn count_sent<E>(&mut self, progress: &Result<Progress, E>) {
        self.effects.stats.frames_sent += u64::from(matches!(progress, Ok(Progress::Sent)));
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
        self.touch();
        self.streams.poll_take(key)
    }

    /// As [`poll_take`](Self::poll_take); what else is there goes into `batch`,
    /// which is empty, to be used without asking for each. Of a stream with a
    /// store behind it nothing does.
    pub fn poll_take_batch(&mut self, key: StreamKey, batch: &mut Batch) -> Take {
        let take = self.poll_take(key);
        if matches!(take, Take::Payload(_)) {
            self.streams.fill_batch(key, batch);
        }
        take
    }

    /// Takes note of what was used of a batch, when that [is due](Batch::is_due).
    pub fn settle_batch(&mut self, key: StreamKey, batch: &mut Batch) {
        self.streams.settle_batch(key, batch);
    }

    /// The rest of a stream's batch was dropped; before [`release`](Self::release).
    pub fn give_up_batch(&mut self, key: StreamKey) {
        self.streams.give_up_batch(key);
    }

    /// How many payloads a stream takes now: within the peer's credit, and no
    /// more than may wait for the link.
    pub fn poll_capacity(&mut self, key: StreamKey) -> Capacity {
        self.streams.poll_capacity(key)
    }

    /// Whether a link took the request that opened the stream, if only its first
    /// fragment. If not, the peer knows nothing of it.
    pub fn was_sent(&mut self, key: StreamKey) -> bool {
        self.streams.was_sent(key)
    }

    /// Whether the stream's sending half is over; [`Wake::Writer`](crate::proto::Wake::Writer) tells when
    /// it ends later.
    pub fn poll_send_closed(&mut self, key: StreamKey) -> bool {
        self.streams.poll_send_closed(key)
    }

    /// Credit that the peer granted on a stream since the last call; `None`
    /// when the sending half is over, `Pending` when there was none:
    /// [`Wake::Writer`](crate::proto::Wake::Writer) will tell.
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
        self.touch();
        let max_len = frame_limit(self.link_max, &self.config);
        self.streams.send(key, payload, max_len, &self.config)
    }

    /// As [`send`](Self::send), and if nothing else waits for the link, the payload
    /// goes to `send` at once, as from [`transmit`](Self::transmit): what came of
    /// that, if it did.
    ///
    /// A payload that the link took stays in `payload`. To drop it is the caller's,
    /// who may have others to send first: where the link is memory, the locked
    /// instruction of a shared payload's drop waits for what was just stored there.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); within, what `send` returned.
    #[inline]
    pub fn send_through<E>(
        &mut self,
        key: StreamKey,
        payload: &mut Payload,
        send: impl FnOnce(&OutFrame<'_>) -> Poll<Result<(), E>>,
    ) -> Result<Result<Progress, E>, Error> {
        if !self.is_clear() {
            self.send(key, std::mem::take(payload))?;
            return Ok(Ok(Progress::Idle));
        }
        let max_len = frame_limit(self.link_max, &self.config);
        let progress = self
            .streams
            .send_through(key, payload, max_len, &self.config, send)?;
        self.count_sent(&progress);
        Ok(progress)
    }

    /// Completes the sending half. Without effect after its end.
    pub fn complete(&mut self, key: StreamKey) {
        self.touch();
        self.streams.complete(key);
    }

    /// Ends the stream with ERROR, behind all that was sent on it.
    pub fn fail(&mut self, key: StreamKey, failure: &Failure) {
        self.touch();
        self.streams.fail(key, failure);
    }

    /// As a requester: ends the stream. As a responder of a channel: asks the
    /// peer to send no more.
    pub fn cancel(&mut self, key: StreamKey) {
        self.touch();
        self.streams.cancel(key);
    }

    /// Asks for `n` more payloads than the demand policy does by itself.
    pub fn request_n(&mut self, key: StreamKey, n: Demand) {
        self.touch();
        self.streams.request_n(key, n);
    }

    /// Sets how the inbound half of a channel that the peer opened asks for
    /// payloads. Without effect once the first was taken.
    pub fn set_demand(&mut self, key: StreamKey, policy: DemandPolicy) {
        self.touch();
        self.streams.set_demand(key, policy);
    }

    /// Lets go of a stream's handle; a channel has two.
    pub fn release(&mut self, key: StreamKey) {
        self.touch();
        self.streams.release(key);
        self.ask_for_lease();
        self.finish_drain();
    }

    /// Ends the connection in good order: tells the peer, refuses new
    /// requests, lets open streams end, for at most the drain timeout \[C085].
    pub fn close(&mut self, now: Instant) {
        self.touch();
        match self.phase {
            Phase::Open => {
                self.phase = Phase::Draining(By::Us);
                self.farewell_owed = true;
                self.deadline = now.checked_add(self.config.drain_timeout);
                self.streams.fail_waiting(&CloseReason::Local);
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
}
