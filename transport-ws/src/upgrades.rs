//! Links from the requests of another HTTP server: axum, or any that is built on
//! hyper.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    task::{Context, Poll},
};

use axum::extract::ConnectInfo;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use rsocket_core::transport::{Handshake, LinkInfo, Listener, TransportError};
use rsocket_transport_tcp::LinkOptions;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_tungstenite::tungstenite::http::{Request, Response, StatusCode};

use crate::{
    framing::{Role, framed},
    handshake::{Gate, Refusal, server::describe},
};

/// Upgrades that wait at a listener until it accepts them; further requests get
/// 503. As many as systems commonly queue for a TCP listener: enough for a burst
/// of clients, and a bound on what clients that are not accepted yet cost.
pub const BACKLOG: usize = 128;

/// Where requests of an HTTP server become links, and the listener that hands
/// them to RSocket.
///
/// `url` is what [`Listener::url`] says: the HTTP server knows where it is, and
/// under which path it routes requests to these [`Upgrades`].
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use rsocket_core::{Handlers, serve};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (upgrades, listener) = rsocket_transport_ws::upgrades("ws://app.example/rsocket");
/// let app: Router = Router::new()
///     .route("/", get(|| async { "a page" }))
///     .route_service("/rsocket", upgrades);
///
/// tokio::spawn(serve(listener, |_setup, _client| async {
///     Ok(Handlers::new().on_request_response(|request| async { Ok(request) }))
/// }));
/// let port = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// tokio::spawn(async { axum::serve(port, app).await });
/// # Ok(())
/// # }
/// ```
pub fn upgrades(url: impl Into<String>) -> (Upgrades, UpgradeListener) {
    let (queue, accepted) = mpsc::channel(BACKLOG);
    let upgrades = Upgrades {
        queue,
        gate: Gate::default(),
        options: LinkOptions::new(),
    };
    let url = url.into();
    (upgrades, UpgradeListener { accepted, url })
}

/// Grants the upgrade to requests of an HTTP server, as a service of its router,
/// or one by one.
///
/// Cheap to clone; clones feed the same listener. Requests that are no requests
/// for a WebSocket get a response that says what is wrong.
#[derive(Clone, Debug)]
pub struct Upgrades {
    queue: mpsc::Sender<Handshake>,
    gate: Gate,
    options: LinkOptions,
}

impl Upgrades {
    /// Lets in only pages of these origins, see
    /// [`WsListener::allow_origins`](crate::WsListener::allow_origins).
    #[must_use]
    pub fn allow_origins<O: Into<String>>(mut self, origins: impl IntoIterator<Item = O>) -> Self {
        self.gate.origins = Some(origins.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the sub-protocols that are spoken here, see
    /// [`WsListener::subprotocols`](crate::WsListener::subprotocols).
    #[must_use]
    pub fn subprotocols<P: Into<String>>(mut self, names: impl IntoIterator<Item = P>) -> Self {
        self.gate.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the longest frame, see [`LinkOptions::max_frame_len`].
    ///
    /// # Panics
    ///
    /// When `len` is not in 64 ..= 16,777,215.
    #[must_use]
    pub fn max_frame_len(mut self, len: usize) -> Self {
        self.options = self.options.max_frame_len(len);
        self
    }

    /// The response to `request`, which has to be sent. If it grants the upgrade,
    /// the link waits for the listener, and is there once the response is out.
    ///
    /// For handlers that look at the request first, to check a cookie for one.
    /// The acceptor finds path and headers in its
    /// [`LinkInfo`], and the peer's address where axum was
    /// asked for it
    /// ([`into_make_service_with_connect_info`](axum::Router::into_make_service_with_connect_info)).
    /// Whether there was TLS is the HTTP server's knowledge: the scheme is `ws`.
    pub fn upgrade<B>(&self, request: &mut Request<B>) -> Response<String> {
        self.try_upgrade(request).unwrap_or_else(|refusal| {
            tracing::debug!(%refusal, "a request was not upgraded");
            refusal.into_response()
        })
    }

    fn try_upgrade<B>(&self, request: &mut Request<B>) -> Result<Response<String>, Refusal> {
        let response = self.gate.judge(request)?;
        if request
            .extensions()
            .get::<hyper::upgrade::OnUpgrade>()
            .is_none()
        {
            let text = "this HTTP server cannot hand over its connections";
            return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text));
        }
        let mut info = LinkInfo::new("ws");
        describe(&mut info, request);
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        info.peer_addr = peer.map(|ConnectInfo(address)| *address);

        let upgrading = hyper::upgrade::on(request);
        let max_frame_len = self.options.longest_frame();
        let handshake: Handshake = Box::pin(async move {
            let upgraded = upgrading.await.map_err(TransportError::lost)?;
            let (read, write) = tokio::io::split(TokioIo::new(upgraded));
            // What came early is within `upgraded`.
            let early = Bytes::new();
            Ok(framed(
                read,
                write,
                Role::Server,
                early,
                info,
                max_frame_len,
            ))
        });
        match self.queue.try_send(handshake) {
            Ok(()) => Ok(response.map(|()| String::new())),
            Err(error) => {
                let text = match error {
                    TrySendError::Full(_) => "too many connections at once, try again",
                    TrySendError::Closed(_) => "RSocket is not served any more",
                };
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text))
            }
        }
    }
}

impl<B> tower_service::Service<Request<B>> for Upgrades {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        ready(Ok(self.upgrade(&mut request)))
    }
}

/// Accepts what [`Upgrades`] let in.
///
/// Dropping it makes them answer 503.
pub struct UpgradeListener {
    accepted: mpsc::Receiver<Handshake>,
    url: String,
}

impl std::fmt::Debug for UpgradeListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpgradeListener")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl Listener for UpgradeListener {
    /// The handshake waits for the HTTP server to send its response.
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        let accepted = self.accepted.recv().await;
        accepted.ok_or_else(|| TransportError::lost("the HTTP server is gone"))
    }

    fn url(&self) -> String {
        self.url.clone()
    }
}
