//! What a reconnecting client does, with defaults and why.

use std::{fmt, sync::Arc, time::Duration};

use crate::{Backoff, error::CloseReason};

/// What becomes of a request while there is no connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenDown {
    /// It waits for the next connection, however long that takes: whoever asks
    /// sets the time limit, and dropping the request ends the wait. Default.
    #[default]
    Wait,
    /// It fails at once with [`Error::NotConnected`](crate::Error::NotConnected).
    FailFast,
}

/// When to connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dial {
    /// At once, and again as soon as a connection is lost. Default: requests
    /// seldom have to wait, and the server can ask too.
    #[default]
    Eagerly,
    /// When a request needs it; attempts stop while no request wants one. For
    /// peers that are seldom asked.
    OnDemand,
}

type RetryIf = Arc<dyn Fn(&CloseReason) -> bool + Send + Sync>;

/// How [`Client::reconnecting`](crate::Client::reconnecting) behaves.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use rsocket_core::{Backoff, CloseReason, Reconnect, WhenDown};
///
/// let settings = Reconnect::new()
///     .backoff(Backoff::new(Duration::from_millis(50), Duration::from_secs(2)))
///     .when_down(WhenDown::FailFast)
///     // The server refuses clients while it starts.
///     .retry_if(|reason| reason.is_transient() || matches!(reason, CloseReason::Refused(_)));
/// # let _ = settings;
/// ```
#[derive(Clone)]
pub struct Reconnect {
    pub(super) backoff: Backoff,
    pub(super) when_down: WhenDown,
    pub(super) dial: Dial,
    pub(super) max_waiting: usize,
    pub(super) attempt_timeout: Duration,
    pub(super) stable_after: Duration,
    pub(super) retry_if: RetryIf,
    pub(super) seed: Option<u64>,
}

impl Reconnect {
    /// All defaults: see the methods.
    pub fn new() -> Self {
        Self {
            backoff: Backoff::default(),
            when_down: WhenDown::default(),
            dial: Dial::default(),
            max_waiting: 16_384,
            attempt_timeout: Duration::from_secs(30),
            stable_after: Duration::from_secs(10),
            retry_if: Arc::new(CloseReason::is_transient),
            seed: None,
        }
    }

    /// The delays between attempts, and when to give up. Default: see
    /// [`Backoff::default`], for ever.
    ///
    /// The very first attempt is made at once and counts as one. After a
    /// connection was lost the first attempt has a delay too, since others will
    /// have lost theirs at the same time.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// What becomes of requests while there is no connection, unless a request
    /// says otherwise: see [`Reconnecting::when_down`](super::Reconnecting::when_down).
    /// Default [`WhenDown::Wait`].
    #[must_use]
    pub fn when_down(mut self, when_down: WhenDown) -> Self {
        self.when_down = when_down;
        self
    }

    /// When to connect. Default [`Dial::Eagerly`].
    #[must_use]
    pub fn dial(mut self, dial: Dial) -> Self {
        self.dial = dial;
        self
    }

    /// How many requests may wait for a connection. Each holds its payload.
    /// Beyond it they fail with
    /// [`Error::TooManyWaiting`](crate::Error::TooManyWaiting). Default 16,384,
    /// which is what a server takes at once by default
    /// ([`Limits::max_streams`](crate::proto::Limits::max_streams)): it would
    /// reject what came beyond it anyway.
    #[must_use]
    pub fn max_waiting(mut self, n: usize) -> Self {
        self.max_waiting = n;
        self
    }

    /// How long one attempt may take, making the setup payload included.
    /// Default 30 s: longer than transports wait by themselves, whose errors say
    /// more.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// How long a connection must have lived to count as a success, after
    /// which delays are short again. Default 10 s: a server that accepts and
    /// then fails, or refuses late, is not asked ten times a second.
    #[must_use]
    pub fn stable_after(mut self, lifetime: Duration) -> Self {
        self.stable_after = lifetime;
        self
    }

    /// Whether to connect again after a connection, or an attempt, ended for
    /// that reason; if not, it gives up at once. Default
    /// [`CloseReason::is_transient`].
    #[must_use]
    pub fn retry_if(
        mut self,
        retry: impl Fn(&CloseReason) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.retry_if = Arc::new(retry);
        self
    }

    /// Makes the delays the same each time, for tests. Default: different for
    /// each client.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl Default for Reconnect {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Reconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnect")
            .field("backoff", &self.backoff)
            .field("when_down", &self.when_down)
            .field("dial", &self.dial)
            .field("max_waiting", &self.max_waiting)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("stable_after", &self.stable_after)
            .finish_non_exhaustive()
    }
}
