//! Leases, as a connection has them; the rules are in [`proto::lease`].
//!
//! [`proto::lease`]: crate::proto

use std::time::Instant;

use super::{Cause, Event, Phase, Session};
use crate::{
    error::{CloseReason, Error},
    frame::{self, ErrorCode, Frame},
    proto::{LeaseGrant, LeaseStatus, Load},
};

impl Session {
    /// Whether both sides agreed on leases. Then tell the time before
    /// [`transmit`](Self::transmit), with [`tell_time`](Self::tell_time): no
    /// request may leave after the lease it counts against.
    #[inline]
    pub fn uses_lease(&self) -> bool {
        self.streams.lease().is_some()
    }

    /// Tells the time, to the ledgers of leases; without leases it does nothing.
    #[inline]
    pub fn tell_time(&mut self, now: Instant) {
        if let Some(lease) = self.streams.lease_mut() {
            lease.tell_time(now);
        }
    }

    /// How busy this side is with the peer's requests, since the last call:
    /// what [`Event::LeaseDue`] is decided by.
    pub fn lease_load(&mut self, now: Instant) -> Load {
        let is_request =
            |event: &&Event| matches!(event, Event::Request { .. } | Event::Channel { .. });
        let undelivered = self.effects.events.iter().filter(is_request).count();
        let open = self.streams.len() - self.streams.local_len();
        match self.streams.lease_mut() {
            Some(lease) => {
                lease.tell_time(now);
                lease.load(undelivered, open)
            }
            None => Load::default(),
        }
    }

    /// Grants the peer requests, in place of what it was granted before, and
    /// asks again, with [`Event::LeaseDue`], when the time is over. Without
    /// effect unless leases were agreed on \[C097] and the connection is open.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`] when the metadata does not fit a frame, which cannot
    /// be fragmented; nothing was granted.
    pub fn grant_lease(&mut self, now: Instant, grant: &LeaseGrant) -> Result<(), Error> {
        if !matches!(self.phase, Phase::Open) {
            return Ok(());
        }
        let Some(lease) = self.streams.lease_mut() else {
            return Ok(());
        };
        let frame = Frame::Lease(grant.frame());
        let (len, limit) = (frame.encoded_len(), self.link_max);
        if len > limit {
            return Err(Error::TooLong { len, limit });
        }
        lease.tell_time(now);
        if lease.grant(grant) {
            // At most one waits for the link: the newest is all that counts.
            let control = &mut self.effects.control;
            control.retain(|control| control.cause != Cause::Lease);
            self.effects.control(Cause::Lease, frame.to_vec().into());
        }
        Ok(())
    }

    /// What is left of the lease that the peer granted; `None` unless leases
    /// were agreed on.
    pub fn lease_status(&mut self, now: Instant) -> Option<LeaseStatus> {
        let lease = self.streams.lease_mut()?;
        lease.tell_time(now);
        Some(lease.status())
    }

    /// Makes the leases of both sides void, as resuming a session does
    /// \[C206, C297]: own requests wait for the next LEASE, the peer's are
    /// rejected until it is granted a new one, for which
    /// [`Event::LeaseDue`] asks at once.
    pub fn void_leases(&mut self, now: Instant) {
        if let Some(lease) = self.streams.lease_mut() {
            lease.tell_time(now);
            lease.void();
            let control = &mut self.effects.control;
            control.retain(|control| control.cause != Cause::Lease);
            self.ask_for_lease();
        }
    }

    /// Leases were agreed on: a client's by SETUP, a server's once it accepted.
    pub(super) fn start_granting(&mut self, now: Instant) {
        if let Some(lease) = self.streams.lease_mut() {
            lease.tell_time(now);
            lease.start_granting();
            self.ask_for_lease();
        }
    }

    /// LEASE.
    pub(super) fn on_lease(&mut self, frame: &frame::Lease<'_>) {
        match self.streams.lease_mut() {
            Some(lease) => {
                lease.on_lease(frame);
                self.effects.stats.leases_received += 1;
            }
            None => self.effects.stats.frames_ignored += 1, // [A23]
        }
    }

    pub(super) fn lease_timeout(&mut self, now: Instant) {
        let Some(lease) = self.streams.lease_mut() else {
            return;
        };
        lease.tell_time(now);
        // Whoever has said its last words says nothing about leases.
        if !matches!(self.phase, Phase::Closed(_)) && lease.is_overdue() {
            let limit = self.config.lease.as_ref().and_then(|it| it.first_within);
            let millis = limit.map_or(0, |limit| limit.as_millis());
            self.fail_connection(ErrorCode::CONNECTION_ERROR, "no LEASE in time");
            self.close_with(CloseReason::NoLease {
                millis: u64::try_from(millis).unwrap_or(u64::MAX),
            });
            return;
        }
        self.ask_for_lease();
    }

    #[inline]
    pub(super) fn ask_for_lease(&mut self) {
        if let Some(lease) = self.streams.lease_mut()
            && matches!(self.phase, Phase::Open)
            && lease.is_due()
        {
            self.effects.events.push_back(Event::LeaseDue);
        }
    }

    pub(super) fn poll_lease_timeout(&self) -> Option<Instant> {
        let granting = matches!(self.phase, Phase::Open);
        self.streams.lease()?.poll_timeout(granting)
    }
}
