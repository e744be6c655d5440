//! A client that connects again by itself.
//!
//! [`Client::reconnecting`] gives a [`Reconnecting`], which is used as a
//! [`Requester`] is, and which lives on when a connection is lost: one task of
//! its own makes the next. This sits on top of sessions: where a session
//! survives a lost link by itself, nothing is seen of it here; where it does
//! not, a new session is made, and [`Reconnecting::states`] says so.
//!
//! # What becomes of a request
//!
//! Nothing is silently repeated. A request that a link took may have been acted
//! upon, so it fails with its connection, and whether to ask again is for whoever
//! knows what it does. A request that no link took waits for the next connection,
//! or fails with [`Error::NotConnected`], as its [`WhenDown`] says.
//!
//! | when | [`WhenDown::Wait`] | [`WhenDown::FailFast`] |
//! |---|---|---|
//! | connected | is sent | is sent |
//! | in flight when the connection dies | [`Error::Closed`] | [`Error::Closed`] |
//! | a stream, when the connection dies | ends with [`Error::Closed`] | likewise |
//! | queued when the connection dies, and no link took any of it | waits; but a channel fails with [`Error::Closed`] | [`Error::NotConnected`]; a channel, [`Error::Closed`] |
//! | the server drains (CONNECTION_CLOSE) | waits; open streams go on | [`Error::NotConnected`]; open streams go on |
//! | down | waits | [`Error::NotConnected`] |
//! | down, and [`max_waiting`](Reconnect::max_waiting) wait | [`Error::TooManyWaiting`] | [`Error::NotConnected`] |
//! | given up | [`Error::Closed`] with the last reason | likewise |
//! | closed | [`Error::Closed`] with [`CloseReason::Local`] | likewise |
//!
//! Whoever drops a request that waits leaves no trace of it. A wait has no limit
//! of its own, since a limit on the whole request is what one wants; to limit the
//! wait alone, put a timeout around [`Reconnecting::requester`].
//!
//! # Examples
//!
//! ```no_run
//! use rsocket_core::{Client, Reconnect, WhenDown, transport::memory::MemoryConnector};
//!
//! # async fn example() -> Result<(), rsocket_core::Error> {
//! let peer = Client::new().reconnecting(MemoryConnector::new("service"), Reconnect::new());
//! // Waits until there is a server.
//! let answer = peer.request_response("question").await?;
//! // Does not.
//! let maybe = peer.when_down(WhenDown::FailFast).request_response("question").await;
//! # drop((answer, maybe)); Ok(()) }
//! ```

mod call;
mod settings;
mod state;
mod supervisor;

use std::{fmt, future::poll_fn, sync::Arc};

use bytes::Bytes;
use futures_core::Stream;

pub(crate) use self::call::Finder;
pub use self::{
    call::{FireAndForget, OptionalResponse, Response},
    settings::{Dial, Reconnect, WhenDown},
    state::{ConnectionState, ConnectionStates},
};
use self::{
    state::{Core, Phase},
    supervisor::Supervisor,
};
use crate::{
    Client, Payload, PayloadSink, PayloadStream, Requester,
    error::{CloseReason, Error},
    proto::DemandPolicy,
    transport::Connector,
};

/// Sends requests to one peer, over one connection after another. Cheap to
/// clone; all clones share the connection.
///
/// Dropping the last clone stops attempts and ends the connection in good order
/// once the last stream opened through it is dropped. Requests that wait for a
/// connection, or for an answer, count as clones.
///
/// See the [module](self) for what becomes of requests.
pub struct Reconnecting {
    core: Arc<Core>,
    when_down: WhenDown,
}

impl Reconnecting {
    pub(crate) fn start(
        client: Client,
        connector: Arc<dyn Connector>,
        settings: Reconnect,
    ) -> Self {
        let core = Core::new(settings.max_waiting);
        let handle = Self::new(Arc::clone(&core), settings.when_down);
        let supervisor = Supervisor::new(core, client, connector, settings);
        tokio::spawn(supervisor.run());
        handle
    }

    fn new(core: Arc<Core>, when_down: WhenDown) -> Self {
        core.add_handle();
        Self { core, when_down }
    }

    /// A clone whose requests wait, or fail fast, whatever the settings say.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use rsocket_core::{Error, Reconnecting, WhenDown};
    /// # async fn example(peer: Reconnecting) {
    /// let cached = match peer.when_down(WhenDown::FailFast).request_response("rate").await {
    ///     Err(Error::NotConnected(_)) => None,
    ///     answer => Some(answer),
    /// };
    /// # drop(cached); }
    /// ```
    #[must_use]
    pub fn when_down(&self, when_down: WhenDown) -> Self {
        Self::new(Arc::clone(&self.core), when_down)
    }

    /// See [`Requester::fire_and_forget`].
    ///
    /// Sent by this call if there is a connection, else by polling the future.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws a request that was not sent yet.
    ///
    /// # Errors
    ///
    /// See the [module](self).
    pub fn fire_and_forget(&self, request: impl Into<Payload>) -> FireAndForget {
        FireAndForget::new(self, request.into())
    }

    /// See [`Requester::request_response`].
    ///
    /// Sent by this call if there is a connection, else by polling the future.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future sends CANCEL, or ends the wait for a connection.
    ///
    /// # Errors
    ///
    /// See the [module](self).
    pub fn request_response(&self, request: impl Into<Payload>) -> Response {
        Response::new(self, request.into())
    }

    /// See [`Requester::request_stream`]. Looks for a connection when first
    /// polled.
    pub fn request_stream(&self, request: impl Into<Payload>) -> PayloadStream {
        PayloadStream::request_via(Finder::new(self.clone()), request.into())
    }

    /// See [`Requester::request_channel`]. Looks for a connection once
    /// `outbound` gave its first payload; the rest of it belongs to that
    /// connection.
    pub fn request_channel(
        &self,
        outbound: impl Stream<Item = Payload> + Send + 'static,
    ) -> PayloadStream {
        PayloadStream::channel_via(Finder::new(self.clone()), outbound)
    }

    /// See [`Requester::open_channel`]; waits for a connection first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready sends nothing.
    ///
    /// # Errors
    ///
    /// See the [module](self); nothing was sent.
    pub async fn open_channel(
        &self,
        first: impl Into<Payload>,
        demand: DemandPolicy,
    ) -> Result<(PayloadSink, PayloadStream), Error> {
        let first = first.into();
        let mut finder = Finder::new(self.clone());
        loop {
            let requester = poll_fn(|cx| finder.poll(cx)).await?;
            match requester.open_channel(first.clone(), demand) {
                Err(Error::Closed(reason)) => finder.lost(reason),
                opened => return opened,
            }
        }
    }

    /// See [`Requester::metadata_push`]; waits for a connection first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready sends nothing.
    ///
    /// # Errors
    ///
    /// See the [module](self); nothing was sent.
    pub async fn metadata_push(&self, metadata: impl Into<Bytes>) -> Result<(), Error> {
        let metadata = metadata.into();
        let mut finder = Finder::new(self.clone());
        loop {
            let requester = poll_fn(|cx| finder.poll(cx)).await?;
            match requester.metadata_push(metadata.clone()).await {
                Err(Error::Closed(reason)) => finder.lost(reason),
                pushed => return pushed,
            }
        }
    }

    /// The connection at present, waiting for it as a request does: for several
    /// requests that belong to one session. It ends with its session; while it
    /// is held, closing this client does not end it.
    ///
    /// To close it is to lose it: another is made.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// See the [module](self).
    pub async fn requester(&self) -> Result<Requester, Error> {
        let mut finder = Finder::new(self.clone());
        poll_fn(|cx| finder.poll(cx)).await
    }

    /// Where it stands.
    pub fn state(&self) -> ConnectionState {
        self.core.state()
    }

    /// Tells when that changes: how an application learns that its session, and
    /// what the server knew of it, is lost.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # use rsocket_core::{ConnectionState, Reconnecting};
    /// # async fn example(peer: Reconnecting) {
    /// let mut states = peer.states();
    /// while let Some(state) = states.next().await {
    ///     match state {
    ///         ConnectionState::Connected { session } => println!("session {session}"),
    ///         ConnectionState::Disconnected { reason, .. } => println!("lost: {reason:?}"),
    ///         other => println!("{other:?}"),
    ///     }
    /// }
    /// # }
    /// ```
    pub fn states(&self) -> ConnectionStates {
        self.core.states()
    }

    /// How many requests wait for a connection.
    pub fn waiting(&self) -> usize {
        self.core.waiting()
    }

    /// Makes the next attempt now instead of at the end of its delay, with a new
    /// row of delays to follow; also after it gave up. For those who know
    /// better: the network is back, the credentials were renewed. Without effect
    /// while connecting or connected.
    pub fn reconnect_now(&self) {
        self.core.asked.notify_waiters();
    }

    /// Stops attempts for good, for all clones, fails what waits, and ends the
    /// connection as [`Requester::close`] does. Returns why the connection
    /// ended; [`CloseReason::Local`] if there was none.
    ///
    /// # Cancel safety
    ///
    /// The close goes on when the future is dropped after its first poll.
    pub async fn close(&self) -> CloseReason {
        match self.core.stop() {
            Some(Phase::Up { requester, .. }) => requester.close().await,
            Some(Phase::Down(_) | Phase::Over(_)) | None => CloseReason::Local,
        }
    }
}

impl Clone for Reconnecting {
    fn clone(&self) -> Self {
        self.when_down(self.when_down)
    }
}

impl Drop for Reconnecting {
    fn drop(&mut self) {
        self.core.drop_handle();
    }
}

impl fmt::Debug for Reconnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnecting")
            .field("state", &self.state())
            .field("when_down", &self.when_down)
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}
