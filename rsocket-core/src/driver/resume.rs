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
    proto::{Config, Damaged, RestoredSession, ResumeRequest, Session},
    restored::{self, RestoreError},
    resume::{Key, ResumeStore, StoreError},
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
    /// Those that an earlier process left.
    cold: Option<Cold>,
}

/// Sessions of an earlier process that nobody asked for yet.
struct Cold {
    store: Arc<dyn ResumeStore>,
    config: Config,
    by_token: Mutex<HashMap<Bytes, Stored>>,
}

/// What is done about a session that lies in the store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stored {
    Waits,
    /// A client asked for it on one link: another has to wait.
    Loads,
}

/// What is known of a token that no session of this process has.
pub(super) enum Claimed {
    Yes(Claim),
    /// It is being loaded for another link.
    Later,
    Unknown,
}

/// A session that is being loaded. Dropping it leaves the session in the store.
pub(super) struct Claim {
    sessions: Arc<Sessions>,
    token: Bytes,
}

impl Claim {
    /// Reads the session's rows.
    pub(super) fn load(&self) -> Option<Loading> {
        let store = Arc::clone(&self.sessions.cold.as_ref()?.store);
        Some(Box::pin(restored::load(store, self.token.clone())))
    }

    /// Makes the session of its rows.
    pub(super) fn restore(&self, rows: Rows) -> Result<RestoredSession, Damaged> {
        let config = self.sessions.cold.as_ref().map(|cold| cold.config.clone());
        Session::restore(now(), config.unwrap_or_default(), self.token.clone(), rows)
    }

    /// The session is this process's.
    pub(super) fn take(self, shared: &Arc<Shared>) -> Option<Reserved> {
        // At every moment one of the two maps has it.
        let mut reserved = self.sessions.insert(self.token.clone(), shared)?;
        reserved.set_stored(true);
        if let Some(cold) = &self.sessions.cold {
            cold.by_token().remove(&self.token);
        }
        Some(reserved)
    }

    /// The session will never be resumed.
    pub(super) fn discard(self) {
        if let Some(cold) = &self.sessions.cold {
            cold.remove(vec![self.token.clone()]);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(cold) = &self.sessions.cold
            && let Some(stored) = cold.by_token().get_mut(&self.token)
        {
            *stored = Stored::Waits;
        }
    }
}

impl Cold {
    fn by_token(&self) -> MutexGuard<'_, HashMap<Bytes, Stored>> {
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes sessions from the store, and then gives their tokens up.
    fn remove(&self, tokens: Vec<Bytes>) {
        let store = Arc::clone(&self.store);
        for token in &tokens {
            self.by_token().remove(token);
        }
        tokio::task::spawn_blocking(move || {
            for token in tokens {
                if let Err(error) = store.remove(&token) {
                    tracing::warn!(%error, "a session that is over stays in its store");
                }
            }
        });
    }
}

pub(super) type Rows = Vec<(Key, Bytes)>;
pub(super) type Loading = Pin<Box<dyn Future<Output = Result<Rows, RestoreError>> + Send>>;

impl Sessions {
    pub(crate) fn new(max_suspended: usize) -> Arc<Self> {
        Arc::new(Self {
            by_token: Mutex::default(),
            suspended: Arc::new(Semaphore::new(max_suspended.min(Semaphore::MAX_PERMITS))),
            cold: None,
        })
    }

    /// As [`new`](Self::new), with the sessions that lie in `store`.
    pub(crate) async fn stored(
        max_suspended: usize,
        store: Arc<dyn ResumeStore>,
        config: Config,
    ) -> Result<Arc<Self>, StoreError> {
        let reading = {
            let store = Arc::clone(&store);
            tokio::task::spawn_blocking(move || store.tokens())
        };
        let tokens = match reading.await {
            Ok(tokens) => tokens?,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime shuts down.
                Err(_) => std::future::pending().await,
            },
        };
        let by_token = tokens.into_iter().map(|token| (token, Stored::Waits));
        Ok(Arc::new(Self {
            by_token: Mutex::default(),
            suspended: Arc::new(Semaphore::new(max_suspended.min(Semaphore::MAX_PERMITS))),
            cold: Some(Cold {
                store,
                config,
                by_token: Mutex::new(by_token.collect()),
            }),
        }))
    }

    /// Removes the sessions of an earlier process that nobody asked for.
    pub(crate) fn expire(&self) {
        let Some(cold) = &self.cold else { return };
        let waiting = cold
            .by_token()
            .iter()
            .filter(|(_, stored)| **stored == Stored::Waits)
            .map(|(token, _)| token.clone())
            .collect();
        cold.remove(waiting);
    }

    /// Takes a session of an earlier process out of the store.
    pub(super) fn claim(self: &Arc<Self>, token: &Bytes) -> Claimed {
        let Some(cold) = &self.cold else {
            return Claimed::Unknown;
        };
        if self.by_token().contains_key(token) {
            return Claimed::Later; // It is just being dropped.
        }
        match cold.by_token().get_mut(token) {
            None => Claimed::Unknown,
            Some(Stored::Loads) => Claimed::Later,
            Some(stored @ Stored::Waits) => {
                *stored = Stored::Loads;
                Claimed::Yes(Claim {
                    sessions: Arc::clone(self),
                    token: token.clone(),
                })
            }
        }
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
        let stored = self.cold.as_ref();
        if stored.is_some_and(|cold| cold.by_token().contains_key(&token)) {
            return None;
        }
        self.insert(token, shared)
    }

    fn insert(self: &Arc<Self>, token: Bytes, shared: &Arc<Shared>) -> Option<Reserved> {
        let mut by_token = self.by_token();
        if by_token.contains_key(&token) {
            return None;
        }
        by_token.insert(token.clone(), Arc::downgrade(shared));
        drop(by_token);
        Some(Reserved {
            sessions: Arc::clone(self),
            token,
            is_stored: false,
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
    /// The session lies in the store, and can be gone on with from there.
    is_stored: bool,
}

impl Reserved {
    pub(super) fn set_stored(&mut self, is_stored: bool) {
        self.is_stored = is_stored;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.is_stored
            && let Some(cold) = &self.sessions.cold
        {
            cold.by_token().insert(self.token.clone(), Stored::Waits);
        }
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
