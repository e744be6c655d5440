//! Connecting.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use crate::{
    LeaseOptions, Payload, Reconnect, Reconnecting, Requester, Responder, RestoreError, Restored,
    driver::{Dispatcher, Driver, Redial, Shared, now},
    error::Error,
    frame::Millis31,
    proto::{Config, Limits, Session, SetupOptions, Side},
    restored,
    resume::{Resume, random_token},
    transport::{Connector, Link, TransportError, TransportErrorKind},
};

/// Connects with all defaults and no responder of our own.
///
/// SETUP is sent, and requests may follow at once; a server that refuses shows
/// in their errors and in [`Requester::closed`].
///
/// # Errors
///
/// [`Error::Closed`] when the transport cannot connect.
///
/// # Panics
///
/// Outside a tokio runtime with time enabled.
pub async fn connect(connector: impl Connector) -> Result<Requester, Error> {
    Client::new().connect(connector).await
}

/// Connects with other than default settings.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use rsocket_core::{Client, Handlers, Payload, transport::memory::MemoryConnector};
///
/// # async fn example() -> Result<(), rsocket_core::Error> {
/// let peer = Client::new()
///     .keepalive(Duration::from_secs(5), Duration::from_secs(20))
///     .setup(Payload::new("token"))
///     .responder(Handlers::new().on_request_response(|request| async { Ok(request) }))
///     .connect(MemoryConnector::new("service"))
///     .await?;
/// # drop(peer); Ok(()) }
/// ```
///
/// A clone makes further connections with the same settings; they share the
/// responder.
#[derive(Clone)]
pub struct Client {
    config: Config,
    setup: SetupOptions,
    make_setup: Option<MakeSetup>,
    /// What each connection gets, around one responder.
    dispatcher: Arc<dyn Fn() -> Dispatcher + Send + Sync>,
    resume: Option<Resume>,
    lease: Option<LeaseOptions>,
}

type MakeSetup = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Payload> + Send>> + Send + Sync>;

impl Client {
    /// All defaults: keepalive every 20 s, the server dead after 90 s of
    /// silence, no fragmentation, requests of the server rejected.
    #[expect(clippy::new_without_default, reason = "it is a builder")]
    pub fn new() -> Self {
        Self {
            config: Config::default(),
            setup: SetupOptions::default(),
            make_setup: None,
            dispatcher: dispatchers(()),
            resume: None,
            lease: None,
        }
    }

    /// How often to send KEEPALIVE, and how long either side may be silent
    /// before the other gives it up: both are rounded up to whole milliseconds
    /// and held to 1 ms ..= 2^31-1 ms.
    #[must_use]
    pub fn keepalive(mut self, interval: Duration, max_lifetime: Duration) -> Self {
        self.setup.keepalive_interval = millis(interval);
        self.setup.max_lifetime = millis(max_lifetime);
        self
    }

    /// The payload that the server's acceptor sees: a token, a route.
    #[must_use]
    pub fn setup(mut self, payload: impl Into<Payload>) -> Self {
        self.setup.payload = payload.into();
        self
    }

    /// Makes the payload anew for each connection, where a token that was good
    /// once need not be good again; replaces [`setup`](Self::setup).
    ///
    /// Connecting waits for the future. One that cannot have its payload yet
    /// should wait for it, not give another.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn fresh_token() -> String { String::new() }
    /// use rsocket_core::{Client, Payload};
    ///
    /// let client = Client::new().setup_with(|| async { Payload::new(fresh_token().await) });
    /// # let _ = client;
    /// ```
    #[must_use]
    pub fn setup_with<F>(mut self, make: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Payload> + Send + 'static,
    {
        self.make_setup = Some(Arc::new(move || Box::pin(make())));
        self
    }

    /// Media type of data on this connection; ASCII, at most 127 bytes for all
    /// peers to cope.
    #[must_use]
    pub fn data_mime(mut self, mime: impl Into<String>) -> Self {
        self.setup.data_mime = mime.into();
        self
    }

    /// Media type of metadata on this connection, likewise.
    #[must_use]
    pub fn metadata_mime(mut self, mime: impl Into<String>) -> Self {
        self.setup.metadata_mime = mime.into();
        self
    }

    /// Fragments payloads so that no frame is longer than `len` bytes; see
    /// [`Config::fragment_len`].
    #[must_use]
    pub fn fragment(mut self, len: usize) -> Self {
        self.config.fragment_len = Some(len);
        self
    }

    /// What the server may make this side hold.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// How long [`Requester::close`] waits for open streams.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.config.drain_timeout = timeout;
        self
    }

    /// Makes the session outlive its links: the client connects again by itself
    /// and goes on where it was. A server that does not support it refuses the
    /// connection.
    ///
    /// No request is sent before the server has shown that it knows the session,
    /// one round trip after the connection was made, so that none can ever
    /// happen twice.
    #[must_use]
    pub fn resume(mut self, resume: Resume) -> Self {
        self.config.resume = Some(resume.options.clone());
        self.resume = Some(resume);
        self
    }

    /// Asks for leases: requests wait until the server grants them, and the
    /// server's requests until this side does. A server without leases refuses
    /// the connection; one that does not know them may never grant any, so
    /// consider [`LeaseOptions::first_lease_within`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), rsocket_core::Error> {
    /// use std::time::Duration;
    /// use rsocket_core::{Client, LeaseOptions, transport::memory::MemoryConnector};
    ///
    /// let leases = LeaseOptions::new().first_lease_within(Duration::from_secs(5));
    /// let peer = Client::new()
    ///     .lease(leases)
    ///     .connect(MemoryConnector::new("service"))
    ///     .await?;
    /// # drop(peer); Ok(()) }
    /// ```
    ///
    /// Spec: "Lease Semantics".
    #[must_use]
    pub fn lease(mut self, options: LeaseOptions) -> Self {
        self.config.lease = Some(options.config());
        self.lease = Some(options);
        self
    }

    /// Answers the server's requests.
    #[must_use]
    pub fn responder(mut self, responder: impl Responder) -> Self {
        self.dispatcher = dispatchers(responder);
        self
    }

    /// Connects.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what it had opened.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the transport cannot connect, and
    /// [`Error::TooLong`] when SETUP does not fit a frame, or one of its media
    /// types is over 255 bytes.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time enabled.
    pub async fn connect(mut self, connector: impl Connector) -> Result<Requester, Error> {
        if let Some(make) = &self.make_setup {
            self.setup.payload = make().await;
        }
        if let Some(resume) = &self.resume {
            let token = match &resume.token {
                Some(token) => token.clone(),
                None => random_token().map_err(no_entropy)?,
            };
            self.setup.resume_token = Some(token);
        }
        self.check()?;
        let link = connector
            .connect()
            .await
            .map_err(|error| Error::Closed(error.into()))?;
        let (len, limit) = (self.setup.encoded_len(), link.limits().max_frame_len);
        if len > limit {
            return Err(Error::TooLong { len, limit });
        }
        let redial = self.resume.as_ref().map(|resume| {
            let limit = self.config.limits.setup_timeout;
            Redial::new(Arc::new(connector), &resume.backoff, limit)
        });
        Ok(self.connect_link(link, redial))
    }

    /// A handle that connects by itself, and again whenever the session was
    /// lost: see the [module](crate::reconnect) for what becomes of requests.
    ///
    /// Returns at once; whether it is connected, [`Reconnecting::state`] tells.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time enabled.
    pub fn reconnecting(self, connector: impl Connector, settings: Reconnect) -> Reconnecting {
        Reconnecting::start(self, Arc::new(connector), settings)
    }

    /// Goes on with a session of an earlier process, or of an earlier
    /// [`detach`](Requester::detach), that lies in the
    /// [store](crate::resume::Resume::store) under `token`; see
    /// [`tokens`](crate::resume::ResumeStore::tokens). What the session began
    /// with (SETUP) comes from the store, all else from these settings: be sure
    /// to configure the same.
    ///
    /// Ready when the server has accepted the session. [`Restored`] has the
    /// streams that were open.
    ///
    /// A session is to be in one place at a time: within one process, wait for
    /// [`closed`](Requester::closed) or [`detach`](Requester::detach) of the
    /// earlier requester first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the session in the store.
    ///
    /// # Errors
    ///
    /// See [`RestoreError`].
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time enabled.
    pub async fn restore(
        mut self,
        connector: impl Connector,
        token: impl Into<bytes::Bytes>,
    ) -> Result<(Requester, Restored), RestoreError> {
        let token = token.into();
        let resume = self.resume.take().ok_or(RestoreError::NoStore)?;
        let store = resume.store.ok_or(RestoreError::NoStore)?;
        let rows = restored::load(Arc::clone(&store), token.clone()).await?;
        let limit = self.config.limits.setup_timeout;
        let mut redial = Redial::new(Arc::new(connector), &resume.backoff, limit);
        let dialing = poll_fn(|cx| redial.poll(cx));
        let timeout = resume.options.session_timeout;
        let Ok(Some(link)) = tokio::time::timeout(timeout, dialing).await else {
            return Err(RestoreError::Unreachable);
        };
        let restored = Session::restore(now(), self.config, token.clone(), rows)?;
        let mut session = restored.session;
        if session.side() != Side::Client {
            return Err(RestoreError::Unknown);
        }
        let limits = link.limits();
        session.resume(now(), limits);
        let Link { tx, rx, info, .. } = link;
        let span = tracing::info_span!("rsocket", side = "client", transport = info.scheme);
        let shared = Shared::new(session, tx, info, true);
        let guard = DetachOnDrop(&shared);
        shared.with(|_| ()); // RESUME leaves now.
        let driver = Driver::client(
            Arc::clone(&shared),
            rx,
            limits,
            (self.dispatcher)(),
            Some(redial),
        );
        let driver = driver.granting(self.lease.as_ref()).stored_as(store, token);
        tokio::spawn(tracing::Instrument::instrument(driver, span));
        poll_fn(|cx| shared.poll_resumed(cx)).await;
        if shared.with(|inner| inner.session.is_closed()) {
            return Err(RestoreError::Closed(shared.closed().await));
        }
        std::mem::forget(guard);
        let requester = Requester::new(shared);
        let restored = Restored::new(&requester, restored.streams);
        Ok((requester, restored))
    }

    /// Starts a session on a link that is already there.
    fn connect_link(self, link: Link, redial: Option<Redial>) -> Requester {
        let limits = link.limits();
        let session = Session::client(now(), self.config, &self.setup, limits);
        let Link { tx, rx, info, .. } = link;
        let span = tracing::info_span!("rsocket", side = "client", transport = info.scheme);
        let shared = Shared::new(session, tx, info, true);
        let requester = Requester::new(Arc::clone(&shared));
        // SETUP leaves now, with whatever request comes first.
        shared.with(|_| ());
        let store = self.resume.and_then(|resume| resume.store);
        let driver = Driver::client(shared, rx, limits, (self.dispatcher)(), redial)
            .granting(self.lease.as_ref())
            .storing(store);
        tokio::spawn(tracing::Instrument::instrument(driver, span));
        requester
    }

    /// No two sessions may have the same \[C302].
    pub(crate) fn forget_resume_token(&mut self) {
        if let Some(resume) = &mut self.resume {
            resume.token = None;
        }
    }

    fn check(&self) -> Result<(), Error> {
        const MAX_MIME_LEN: usize = u8::MAX as usize;
        let setup = &self.setup;
        for mime in [&setup.data_mime, &setup.metadata_mime] {
            if mime.len() > MAX_MIME_LEN {
                return Err(Error::TooLong {
                    len: mime.len(),
                    limit: MAX_MIME_LEN,
                });
            }
        }
        if let Some(token) = &setup.resume_token
            && token.len() > usize::from(u16::MAX)
        {
            return Err(Error::TooLong {
                len: token.len(),
                limit: u16::MAX.into(),
            });
        }
        let limit = crate::frame::MAX_FRAME_LEN;
        let len =
            setup.resume_token.as_ref().map_or(0, bytes::Bytes::len) + setup.payload.len() + 1024;
        if len > limit {
            return Err(Error::TooLong { len, limit });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("config", &self.config)
            .field("setup", &self.setup)
            .finish_non_exhaustive()
    }
}

/// Makes dispatchers to one responder.
fn dispatchers(responder: impl Responder) -> Arc<dyn Fn() -> Dispatcher + Send + Sync> {
    let responder = Arc::new(responder);
    Arc::new(move || Dispatcher::new(Arc::clone(&responder)))
}

/// Leaves a session to its store that nobody came to have.
struct DetachOnDrop<'a>(&'a Shared);

impl Drop for DetachOnDrop<'_> {
    fn drop(&mut self) {
        self.0.detach();
    }
}

fn no_entropy(error: std::io::Error) -> Error {
    let error = TransportError::new(TransportErrorKind::Invalid, error);
    Error::Closed(error.into())
}

fn millis(duration: Duration) -> Millis31 {
    const MAX: Millis31 = Millis31::new((1 << 31) - 1).unwrap();
    const MIN: Millis31 = Millis31::new(1).unwrap();
    if duration.is_zero() {
        return MIN;
    }
    Millis31::from_duration(duration).unwrap_or(MAX)
}
