//! Granting requests to the peer.

use super::{Driver, dispatch::caught, now};
use crate::{LeaseGrant, LeasePolicy, lease::LeaseOptions};

impl Driver {
    /// Grants what `options` say, where leases are agreed on.
    pub(crate) fn granting(mut self, options: Option<&LeaseOptions>) -> Self {
        self.lease_policy = options.map(LeaseOptions::make_policy);
        self
    }

    /// Asks the policy, without the lock, and grants what it says.
    pub(super) fn grant_lease(&mut self) {
        let load = self.shared.lock().session.lease_load(now());
        let decided = match &mut self.lease_policy {
            Some(policy) => caught(|| policy.decide(&load)),
            None => Some(LeaseGrant::unlimited()),
        };
        let mut inner = self.shared.lock();
        let now = now();
        match decided {
            Some(mut grant) => {
                if let Err(error) = inner.session.grant_lease(now, &grant) {
                    tracing::error!(%error, "the metadata of a lease cannot be sent");
                    grant.metadata = None;
                    // Without metadata it fits any frame.
                    let _ = inner.session.grant_lease(now, &grant);
                }
            }
            None => {
                tracing::error!("the lease policy panicked");
                inner.session.abort();
            }
        }
        inner.pump();
        // What left counts from now.
        inner.session.tell_time(now);
        self.wants_flush = inner.wants_flush();
        self.deadline = inner.session.poll_timeout();
        self.events_left = inner.session.has_events();
    }
}
