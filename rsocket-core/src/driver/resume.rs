//! Links that come and go under a session: a client's new attempts, a server's
//! sessions by token, and the handing over of a link.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Shared, now};
use crate::{
    Backoff, Failure,
    backoff::Attempts,
    proto::ResumeRequest,
    transport::{Connector, FrameRx, FrameTx, Limits, Link, TransportError, TransportErrorKind},
};

/// The receiving half of a link that a session got from elsewhere, and the place
/// among the server's connections that came with it.
pub(super) struct NewLink {
    pub(super) rx: Box<dyn FrameRx>,
    pub(super) place: Option<OwnedSemaphorePermit>,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Link, TransportError>> + Send>>;

/// How a client's session finds its way back.
pub(crate) struct Redial {
    connector: Arc<dyn Connector>,
    attempts: Attempts,
    /// How long one attempt may take.
    limit: Duration,
    connecting: Option<Connecting>,
    /// No attempt was made since the link was lost.
    at_once: bool,
}

impl Redial {
    pub(crate) fn new(connector: Arc<dyn Connector>, backoff: &Backoff, limit: Duration) -> Self {
        Self {
            connector,
            attempts: backoff.start_anywhere(),
            limit,
            connecting: None,
            at_once: true,
        }
    }

    /// The session was resumed: the next loss starts a row of attempts of its
    /// own.
    pub(super) fn reset(&mut self) {
        self.attempts.reset();
        self.at_once = true;
    }

    /// The next link; `None` when no more attempts are to be made.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Link>> {
        loop {
            let connecting = match &mut self.connecting {
                Some(connecting) => connecting,
                None => {
                    let delay = match std::mem::take(&mut self.at_once) {
                        true => Some(Duration::ZERO),
                        false => self.attempts.next_delay(now()),
                    };
                    let Some(delay) = delay else {
                        return Poll::Ready(None);
                    };
                    self.connecting.insert(self.connect(delay))
                }
            };
            let connected = ready!(connecting.as_mut().poll(cx));
            self.connecting = None;
            match connected {
                Ok(link) => return Poll::Ready(Some(link)),
                Err(error) => tracing::debug!(%error, "cannot connect to resume"),
            }
        }
    }

    fn connect(&self, delay: Duration) -> Connecting {
        let connector = Arc::clone(&self.connector);
        let limit = self.limit;
        Box::pin(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            match tokio::time::timeout(limit, connector.connect()).await {
                Ok(connected) => connected,
                Err(_) => {
                    let why = format!("no link within {limit:?}");
                    Err(TransportError::new(TransportErrorKind::Unreachable, why))
                }
            }
        })
    }
}

/// The sessions of a server that can be resumed, by token.
pub(crate) struct Sessions {
    by_token: Mutex<HashMap<Bytes, Weak<Shared>>>,
    /// How many of them may be without a link.
    suspended: Arc<Semaphore>,
}

impl Sessions {
    pub(crate) fn new(max_suspended: usize) -> Arc<Self> {
        Arc::new(Self {
            by_token: Mutex::default(),
            suspended: Arc::new(Semaphore::new(max_suspended.min(Semaphore::MAX_PERMITS))),
        })
    }

    fn by_token(&self) -> MutexGuard<'_, HashMap<Bytes, Weak<Shared>>> {
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `token` for a session; `None` if one has it \[C298].
    pub(super) fn reserve(
        self: &Arc<Self>,
        token: Bytes,
        shared: &Arc<Shared>,
    ) -> Option<Reserved> {
        let mut by_token = self.by_token();
        if by_token.contains_key(&token) {
            return None;
        }
        by_token.insert(token.clone(), Arc::downgrade(shared));
        drop(by_token);
        Some(Reserved {
            sessions: Arc::clone(self),
            token,
        })
    }

    pub(super) fn find(&self, token: &[u8]) -> Option<Arc<Shared>> {
        self.by_token().get(token)?.upgrade()
    }

    /// A place for a session without a link, if there is one.
    pub(super) fn suspend(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.suspended).try_acquire_owned().ok()
    }
}

/// A token in use. Dropping it gives it up.
pub(super) struct Reserved {
    sessions: Arc<Sessions>,
    token: Bytes,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.sessions.by_token().remove(&self.token);
    }
}

/// What was not handed over, and why not.
pub(super) type Kept = (Box<dyn FrameTx>, NewLink, Failure);

impl Shared {
    /// Gives the session a link on which a client asked for it. The one that it
    /// had is dropped, whatever it looked like: the client knows better
    /// \[C299].
    ///
    /// The sending half is used from now on, under the session's lock, so that
    /// of two clients with one token the later one wins, whole; the receiving
    /// half waits for the driver.
    pub(super) fn adopt(
        &self,
        tx: Box<dyn FrameTx>,
        new: NewLink,
        request: &ResumeRequest,
        limits: Limits,
    ) -> Result<(), Box<Kept>> {
        self.with(|inner| {
            if let Err(failure) = inner.session.accept_resume(now(), request, limits) {
                return Err(Box::new((tx, new, failure)));
            }
            inner.attach(tx);
            inner.adopted = Some(new);
            Ok(())
        })
    }
}
