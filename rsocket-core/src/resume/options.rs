//! How sessions are resumed.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use super::ResumeStore;
use crate::{Backoff, proto::ResumeOptions};

/// Makes sessions outlive their links: [`Client::resume`](crate::Client::resume),
/// [`Server::resume`](crate::Server::resume).
///
/// When a link is lost, both sides keep the session: open streams stay open,
/// requests wait. The client connects again, and what the other side did not get
/// is sent again, once, in order. Only when that does not happen within
/// [`session_timeout`](Self::session_timeout) does everything end, with
/// [`CloseReason::NotResumed`](crate::CloseReason::NotResumed).
///
/// Spec: "Resuming Operation".
#[derive(Clone)]
pub struct Resume {
    pub(crate) options: ResumeOptions,
    pub(crate) backoff: Backoff,
    pub(crate) token: Option<Bytes>,
    pub(crate) max_suspended: usize,
    pub(crate) store: Option<Arc<dyn ResumeStore>>,
}

impl Resume {
    /// Sessions of a server that may be without a link at once.
    const MAX_SUSPENDED: usize = 1024;

    /// All defaults.
    #[expect(clippy::new_without_default, reason = "it is a builder")]
    pub fn new() -> Self {
        Self {
            options: ResumeOptions::default(),
            backoff: Backoff::default(),
            token: None,
            max_suspended: Self::MAX_SUSPENDED,
            store: None,
        }
    }

    /// Makes sessions outlive their process too: what they consist of is written
    /// to `store`, and nothing is sent or confirmed before. After a crash, or
    /// [`Requester::detach`](crate::Requester::detach), a client goes on with
    /// [`Client::restore`](crate::Client::restore).
    ///
    /// Every message waits for the store, those that come meanwhile for the next
    /// write, together. A session that [ends](crate::Requester::close) is removed
    /// from the store; that the process dies, the runtime is dropped, or the last
    /// [`Requester`](crate::Requester) is, does not end it. But streams that are
    /// dropped are cancelled, as ever: call
    /// [`detach`](crate::Requester::detach) before a runtime is shut down on
    /// purpose.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn ResumeStore>) -> Self {
        self.options.durable = true;
        self.store = Some(store);
        self
    }

    /// How long a session outlives a lost link. Default 60 s. A client should
    /// not try for longer than its server keeps sessions: it would be refused,
    /// and learn of the end later than it could.
    #[must_use]
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.options.session_timeout = timeout;
        self
    }

    /// How a client spreads its attempts to connect again; the first is made at
    /// once. Default: up to 100 ms before the second, then up to twice as long
    /// each time, at most 10 s. Servers do not use it.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// A client's name for the session, 1 ..= 65,535 bytes that nobody can
    /// guess and that are used for no other session; printable ASCII for all
    /// peers to cope. Whoever knows it can take the session over. Default: 128
    /// random bits in hexadecimal. Servers do not use it.
    #[must_use]
    pub fn token(mut self, token: impl Into<Bytes>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// How many sessions of a server may be without a link at once; beyond it,
    /// one that loses its link ends. Default 1,024. Each may hold up to
    /// [`max_resume_len`](crate::proto::Limits::max_resume_len) and what its
    /// streams hold. Clients do not use it.
    #[must_use]
    pub fn max_suspended(mut self, n: usize) -> Self {
        self.max_suspended = n;
        self
    }
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the token, which is secret.
        f.debug_struct("Resume")
            .field("options", &self.options)
            .field("backoff", &self.backoff)
            .field("max_suspended", &self.max_suspended)
            .finish_non_exhaustive()
    }
}

/// 128 bits that nobody can guess, as ASCII \[C302, C303].
#[cfg(feature = "tokio")]
pub(crate) fn random_token() -> std::io::Result<Bytes> {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits)?;
    Ok(bits
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect::<String>()
        .into())
}
