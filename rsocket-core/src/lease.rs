//! Who may send how many requests: [`LeaseOptions`] and [`LeasePolicy`].

mod adaptive;

use std::{fmt, sync::Arc, time::Duration};

pub use self::adaptive::Adaptive;
use crate::proto::{LeaseConfig, LeaseGrant, Load};

/// Decides how many requests the peer of one connection may send, and how
/// long that holds.
///
/// It is asked when leases start, when what it granted is over, and when as
/// many requests were finished as it said ([`LeaseGrant::renew_after`]). It is
/// called by the connection's task: it must not block, and if it panics the
/// connection ends.
///
/// A closure `FnMut(&Load) -> LeaseGrant` is a policy.
///
/// # Examples
///
/// A budget that all connections of a server share: each is asked for in turn
/// and takes what is free.
///
/// ```
/// use std::{sync::{Arc, Mutex}, time::Duration};
/// use rsocket_core::{LeaseGrant, LeaseOptions, Load};
///
/// let free = Arc::new(Mutex::new(1_000_u32));
/// let options = LeaseOptions::new().policy(move || {
///     let free = Arc::clone(&free);
///     let mut mine = 0;
///     move |load: &Load| {
///         let mut free = free.lock().unwrap();
///         *free += mine; // What was granted before is over.
///         mine = (*free).min(50);
///         *free -= mine;
///         LeaseGrant::new(mine, Duration::from_secs(1))
///     }
/// });
/// # let _ = options;
/// ```
pub trait LeasePolicy: Send + 'static {
    /// What the peer gets next, in place of what it had.
    fn decide(&mut self, load: &Load) -> LeaseGrant;
}

impl<F: FnMut(&Load) -> LeaseGrant + Send + 'static> LeasePolicy for F {
    fn decide(&mut self, load: &Load) -> LeaseGrant {
        self(load)
    }
}

impl LeasePolicy for Box<dyn LeasePolicy> {
    fn decide(&mut self, load: &Load) -> LeaseGrant {
        (**self).decide(load)
    }
}

/// The same number of requests in each period, whatever the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedRate {
    requests: u32,
    period: Duration,
}

impl FixedRate {
    /// `requests` in each `period`. What was not used by its end is lost.
    pub fn new(requests: u32, period: Duration) -> Self {
        Self { requests, period }
    }
}

impl LeasePolicy for FixedRate {
    fn decide(&mut self, _: &Load) -> LeaseGrant {
        LeaseGrant::new(self.requests, self.period)
    }
}

/// How a connection uses leases: see [`Client::lease`](crate::Client::lease)
/// and [`Server::lease`](crate::Server::lease).
#[derive(Clone, Default)]
pub struct LeaseOptions {
    config: LeaseConfig,
    policy: Option<MakePolicy>,
}

type MakePolicy = Arc<dyn Fn() -> Box<dyn LeasePolicy> + Send + Sync>;

impl LeaseOptions {
    /// Keeps to what the peer grants, and grants it without limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Grants what a policy decides. Each connection has one of its own, made
    /// by `make`; what they share is for `make` to share.
    #[must_use]
    pub fn policy<P: LeasePolicy>(mut self, make: impl Fn() -> P + Send + Sync + 'static) -> Self {
        self.policy = Some(Arc::new(move || Box::new(make())));
        self
    }

    /// For how long a lease that is over is still honoured, as far as it was
    /// not used up; default 200 ms. See [`LeaseConfig::grace`].
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.config.grace = grace;
        self
    }

    /// How long the peer's first lease may take before the connection ends
    /// with [`CloseReason::NoLease`](crate::CloseReason::NoLease). Without it,
    /// requests to a server that never grants wait for ever.
    #[must_use]
    pub fn first_lease_within(mut self, limit: Duration) -> Self {
        self.config.first_within = Some(limit);
        self
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn config(&self) -> LeaseConfig {
        self.config.clone()
    }

    /// The policy of a new connection.
    #[cfg(feature = "tokio")]
    pub(crate) fn make_policy(&self) -> Box<dyn LeasePolicy> {
        match &self.policy {
            Some(make) => make(),
            None => Box::new(|_: &Load| LeaseGrant::unlimited()),
        }
    }
}

impl fmt::Debug for LeaseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseOptions")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
