//! Accepting connections.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tracing::Instrument as _;

use crate::{
    Failure, LeaseOptions, Payload, Requester, Responder, Restored,
    driver::{Accepting, Acceptor, Dispatcher, Driver, Sessions, Shared, now},
    proto::{self, Config, Limits, Session},
    resume::{Resume, ResumeStore},
    transport::{Handshake, Link, LinkInfo, Listener, TransportError, TransportErrorKind},
};

/// Serves every connection that `listener` accepts, with all defaults, until
/// the listener fails.
///
/// `accept` sees each client's SETUP and returns the responder for it, or
/// refuses it. The [`Requester`] sends requests to that client; they wait until
/// it was accepted.
///
/// # Cancel safety
///
/// Dropping the future closes the listener and drops all connections. See
/// [`Server::serve_until`] for an end in good order.
///
/// # Errors
///
/// The listener's own error. A connection's errors end only that connection.
///
/// # Panics
///
/// Outside a tokio runtime with time enabled.
///
/// # Examples
///
/// ```
/// use rsocket_core::{Handlers, Payload, connect, serve};
/// use rsocket_core::transport::memory::{MemoryConnector, MemoryListener};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = MemoryListener::bind("echo")?;
/// tokio::spawn(serve(listener, |_setup, _client| async {
///     Ok(Handlers::new().on_request_response(|request| async { Ok(request) }))
/// }));
///
/// let peer = connect(MemoryConnector::new("echo")).await?;
/// let pong = peer.request_response("ping").await?;
/// assert_eq!(pong.data(), b"ping");
/// # Ok(()) }
/// ```
pub async fn serve<A, F, R>(
    listener: impl Listener,
    accept: A,
) -> Result<Infallible, TransportError>
where
    // Not `AsyncFn`: one cannot yet ask that its future be `Send`, and each
    // connection is a task of its own.
    A: Fn(Setup, Requester) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R, Failure>> + Send + 'static,
    R: Responder,
{
    Server::new().serve(listener, accept).await
}

/// What a client sent when it connected, and what is known of its link.
#[derive(Clone, Debug)]
pub struct Setup {
    setup: proto::Setup,
    link: LinkInfo,
    /// Of all clones, the first that asks gets it.
    restored: Option<Arc<Mutex<Option<Restored>>>>,
}

impl Setup {
    /// The client application's own payload: an authentication token, a route.
    pub fn payload(&self) -> &Payload {
        &self.setup.payload
    }

    /// Media type of data on this connection.
    pub fn data_mime(&self) -> &str {
        &self.setup.data_mime
    }

    /// Media type of metadata on this connection.
    pub fn metadata_mime(&self) -> &str {
        &self.setup.metadata_mime
    }

    /// Whether the client asks for leases, and will keep to them.
    pub fn lease(&self) -> bool {
        self.setup.lease
    }

    /// How often the client will send KEEPALIVE.
    pub fn keepalive_interval(&self) -> Duration {
        self.setup.keepalive_interval
    }

    /// How long either side may be silent before the other gives it up.
    pub fn max_lifetime(&self) -> Duration {
        self.setup.max_lifetime
    }

    /// Whether the session began in an earlier process of this server and lies
    /// in its [store](crate::resume::Resume::store). What it began with is what
    /// this `Setup` says; the responder serves its new requests.
    pub fn is_restored(&self) -> bool {
        self.restored.is_some()
    }

    /// The streams that were open in such a session, for the application to go
    /// on with; `None` if it is a new session, or they were taken before. When
    /// nobody takes them they are ended.
    pub fn take_restored(&self) -> Option<Restored> {
        let restored = self.restored.as_ref()?;
        let mut restored = restored.lock().unwrap_or_else(PoisonError::into_inner);
        restored.take()
    }

    /// The link: peer address, TLS identity, handshake headers.
    pub fn link(&self) -> &LinkInfo {
        &self.link
    }
}

/// Serves with other than default settings.
#[derive(Clone, Debug)]
pub struct Server {
    config: Config,
    lease: Option<LeaseOptions>,
    max_connections: usize,
    max_suspended: usize,
    store: Option<StoreHandle>,
}

/// Where sessions are stored.
#[derive(Clone)]
struct StoreHandle(Arc<dyn ResumeStore>);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a store of sessions")
    }
}

impl Server {
    /// Connections at once: what a process can have descriptors for, mostly.
    const MAX_CONNECTIONS: usize = 65_536;

    /// All defaults.
    #[expect(clippy::new_without_default, reason = "it is a builder")]
    pub fn new() -> Self {
        Self {
            config: Config::default(),
            lease: None,
            max_connections: Self::MAX_CONNECTIONS,
            max_suspended: 0,
            store: None,
        }
    }

    /// Fragments payloads so that no frame is longer than `len` bytes; see
    /// [`Config::fragment_len`].
    #[must_use]
    pub fn fragment(mut self, len: usize) -> Self {
        self.config.fragment_len = Some(len);
        self
    }

    /// What each client may make this side hold.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.config.limits = limits;
        self
    }

    /// Grants leases to clients that ask for them: they send no more requests
    /// than that, and what comes beyond is rejected. Requests to such a client
    /// wait for its leases. Clients that do not ask are served without; an
    /// acceptor can refuse them by [`Setup::lease`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use rsocket_core::{Adaptive, LeaseOptions, Server};
    ///
    /// let limit = Adaptive::new();
    /// let server = Server::new().lease(LeaseOptions::new().policy(move || limit.clone()));
    /// # drop(server);
    /// ```
    ///
    /// Spec: "Lease Semantics".
    #[must_use]
    pub fn lease(mut self, options: LeaseOptions) -> Self {
        self.config.lease = Some(options.config());
        self.lease = Some(options);
        self
    }

    /// Connections at once; more wait to be accepted. Default 65,536.
    #[must_use]
    pub fn max_connections(mut self, n: usize) -> Self {
        self.max_connections = n.min(Semaphore::MAX_PERMITS);
        self
    }

    /// Lets clients resume their sessions after a link was lost. Without it they
    /// are refused when they ask for it in SETUP.
    ///
    /// With a [store](Resume::store) sessions outlive the server's process: when
    /// a client asks for one that an earlier process left, the acceptor is called
    /// again, with a [`Setup`] that [is restored](Setup::is_restored). To refuse
    /// ends the session. A session that no client asks for within the session
    /// timeout, counted from the start of this process, is removed.
    #[must_use]
    pub fn resume(mut self, resume: Resume) -> Self {
        self.max_suspended = resume.max_suspended;
        self.store = resume.store.map(StoreHandle);
        self.config.resume = Some(resume.options);
        self
    }

    /// How long a close in good order waits for open streams.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.config.drain_timeout = timeout;
        self
    }

    /// As [`serve`], with these settings.
    ///
    /// # Errors
    ///
    /// The listener's own error.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time enabled.
    pub async fn serve<A, F, R>(
        self,
        listener: impl Listener,
        accept: A,
    ) -> Result<Infallible, TransportError>
    where
        A: Fn(Setup, Requester) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, Failure>> + Send + 'static,
        R: Responder,
    {
        let mut connections = Connections::new(self, listener, accept).await?;
        loop {
            connections.accept_one().await?;
        }
    }

    /// Serves until `shutdown` is ready, then ends in good order: takes no more
    /// clients, tells those it has (CONNECTION_CLOSE), and lets open streams end,
    /// for at most the drain timeout.
    ///
    /// With [`resume`](Self::resume) it goes on listening meanwhile: clients that
    /// lose their link get their session back on another one, and whoever comes
    /// for a new session is rejected. Without, the listener is closed at once.
    ///
    /// # Cancel safety
    ///
    /// As [`serve`](Self::serve): dropping the future closes the listener and drops
    /// all connections.
    ///
    /// # Errors
    ///
    /// The listener's own error; connections are then ended as well.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with time enabled.
    pub async fn serve_until<A, F, R>(
        self,
        listener: impl Listener,
        accept: A,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), TransportError>
    where
        A: Fn(Setup, Requester) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, Failure>> + Send + 'static,
        R: Responder,
    {
        let mut connections = Connections::new(self, listener, accept).await?;
        let mut shutdown = std::pin::pin!(shutdown);
        let result = loop {
            tokio::select! {
                () = &mut shutdown => break Ok(()),
                accepted = connections.accept_one() => if let Err(error) = accepted {
                    break Err(error);
                },
            }
        };
        connections.drain().await;
        result
    }
}

type Decide = dyn Fn(proto::Setup, Option<Vec<proto::RestoredStream>>, Arc<Shared>) -> Accepting
    + Send
    + Sync;

/// A listener and the connections it took in.
struct Connections {
    config: Config,
    lease: Option<LeaseOptions>,
    listener: Box<dyn Listener>,
    decide: Arc<Decide>,
    /// What can be resumed, if anything can.
    sessions: Option<Arc<Sessions>>,
    store: Option<StoreHandle>,
    /// Removes what nobody asks for.
    expiring: JoinSet<()>,
    free: Arc<Semaphore>,
    tasks: JoinSet<()>,
    /// Tells all connections to end.
    closing: tokio::sync::watch::Sender<bool>,
}

impl Connections {
    async fn new<A, F, R>(
        server: Server,
        listener: impl Listener,
        accept: A,
    ) -> Result<Self, TransportError>
    where
        A: Fn(Setup, Requester) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R, Failure>> + Send + 'static,
        R: Responder,
    {
        let mut expiring = JoinSet::new();
        let accept = Arc::new(accept);
        let decide = move |setup, streams: Option<Vec<_>>, shared: Arc<Shared>| -> Accepting {
            let link = shared.link().clone();
            let requester = Requester::new(shared);
            let restored = streams.map(|streams| Restored::new(&requester, streams));
            let restored = restored.map(|restored| Arc::new(Mutex::new(Some(restored))));
            let accept = Arc::clone(&accept);
            // Called where it is polled: a panic of either is the client's
            // refusal, not the connection's task's end.
            Box::pin(async move {
                let setup = Setup {
                    setup,
                    link,
                    restored,
                };
                let responder = accept(setup, requester).await?;
                Ok(Dispatcher::new(Arc::new(responder)))
            })
        };
        let resume = server.config.resume.as_ref();
        let store = server.store;
        let sessions = match (resume, &store) {
            (None, _) => None,
            (Some(_), None) => Some(Sessions::new(server.max_suspended)),
            (Some(resume), Some(StoreHandle(store))) => {
                let (store, config) = (Arc::clone(store), server.config.clone());
                let sessions = Sessions::stored(server.max_suspended, store, config).await;
                let sessions = sessions
                    .map_err(|error| TransportError::new(TransportErrorKind::Invalid, error))?;
                let (late, timeout) = (Arc::clone(&sessions), resume.session_timeout);
                expiring.spawn(async move {
                    tokio::time::sleep(timeout).await;
                    late.expire();
                });
                Some(sessions)
            }
        };
        Ok(Self {
            sessions,
            store,
            expiring,
            config: server.config,
            lease: server.lease,
            listener: Box::new(listener),
            decide: Arc::new(decide),
            free: Arc::new(Semaphore::new(server.max_connections)),
            tasks: JoinSet::new(),
            closing: tokio::sync::watch::Sender::new(false),
        })
    }

    /// Waits for one connection and gives it a task of its own.
    ///
    /// Cancel-safe.
    async fn accept_one(&mut self) -> Result<(), TransportError> {
        while self.tasks.try_join_next().is_some() {}
        while self.expiring.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&self.free).acquire_owned().await else {
            return Ok(()); // The semaphore is never closed.
        };
        let handshake = self.listener.accept().await?;
        let connection = Connection {
            config: self.config.clone(),
            lease: self.lease.clone(),
            decide: Arc::clone(&self.decide),
            sessions: self.sessions.clone(),
            store: self.store.clone(),
            place: permit,
        };
        let connection = connection.serve(handshake, self.closing.subscribe());
        self.tasks
            .spawn(connection.instrument(tracing::info_span!("rsocket", side = "server")));
        Ok(())
    }

    /// Lets all connections end. Sessions that lose their link meanwhile can
    /// still be resumed, so those links are let in, and nothing else.
    async fn drain(mut self) {
        let closing = std::mem::take(&mut self.closing);
        closing.send_replace(true);
        if self.sessions.is_some() {
            self.decide = Arc::new(|_, _, _| {
                Box::pin(async { Err(Failure::rejected("the server is closing")) })
            });
            let mut old = std::mem::take(&mut self.tasks);
            let all = async { while old.join_next().await.is_some() {} };
            let mut all = std::pin::pin!(all);
            loop {
                tokio::select! {
                    () = &mut all => break,
                    accepted = self.accept_one() => if accepted.is_err() {
                        all.await;
                        break;
                    },
                }
            }
        }
        drop(self.listener);
        self.closing.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// What a new connection gets from its server.
struct Connection {
    config: Config,
    lease: Option<LeaseOptions>,
    decide: Arc<Decide>,
    sessions: Option<Arc<Sessions>>,
    store: Option<StoreHandle>,
    place: OwnedSemaphorePermit,
}

impl Connection {
    /// One connection, from its handshake to its end; of a session that can be
    /// resumed, to the end of that.
    async fn serve(self, handshake: Handshake, mut closing: tokio::sync::watch::Receiver<bool>) {
        let limit = self.config.limits.setup_timeout;
        let link = match tokio::time::timeout(limit, handshake).await {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::debug!(%error, cause, "handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(?limit, "handshake took too long");
                return;
            }
        };
        let limits = link.limits();
        let session = Session::server(now(), self.config, limits);
        let Link { tx, rx, info, .. } = link;
        tracing::debug!(transport = info.scheme, peer = ?info.peer_addr, "accepted");
        let shared = Shared::new(session, tx, info, false);
        let acceptor: Acceptor = {
            let (shared, decide) = (Arc::clone(&shared), self.decide);
            Box::new(move |setup, restored| decide(setup, restored, shared))
        };
        let driver = Driver::server(
            Arc::clone(&shared),
            rx,
            limits,
            acceptor,
            self.place,
            self.sessions,
        )
        .granting(self.lease.as_ref())
        .storing(self.store.map(|StoreHandle(store)| store));
        let mut driver: Pin<Box<Driver>> = Box::pin(driver);
        let told_to_close = async {
            // An error means that the server is gone, and this task with it.
            let _ = closing.wait_for(|closing| *closing).await.is_ok();
        };
        // Not by `select!`, which would ask for the news with each frame.
        let mut told_to_close = pin!(told_to_close);
        let news = News::new();
        let mut is_told = false;
        poll_fn(|cx| {
            if !is_told
                && news.has_come(cx)
                && told_to_close.as_mut().poll(&mut news.context()).is_ready()
            {
                is_told = true;
                shared.close();
            }
            driver.as_mut().poll(cx)
        })
        .await;
        if let Some(reason) = shared.close_reason() {
            tracing::debug!(%reason, "connection ended");
        }
    }
}

/// Tells whether a future that is polled beside another one asked for it.
struct News {
    call: Arc<Call>,
    waker: Waker,
}

struct Call {
    called: AtomicBool,
    task: AtomicWaker,
}

impl News {
    fn new() -> Self {
        let call = Arc::new(Call {
            called: AtomicBool::new(true), // To be polled once.
            task: AtomicWaker::new(),
        });
        Self {
            waker: Waker::from(Arc::clone(&call)),
            call,
        }
    }

    /// Whether the future is to be polled; later calls go to the task of `cx`.
    fn has_come(&self, cx: &Context<'_>) -> bool {
        // A connection is a task of its own: that of `cx` stays the same.
        if !self.call.called.load(Ordering::Acquire) {
            return false;
        }
        self.call.called.store(false, Ordering::Release);
        self.call.task.register(cx.waker());
        true
    }

    fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.called.store(true, Ordering::Release);
        self.task.wake();
    }
}
