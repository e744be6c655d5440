//! RSocket over WebSocket: for browsers, through proxies, and on a port that
//! serves HTTP as well.
//!
//! A client and a server choose the same kind of address, and that is all that
//! the rest of a program sees of this crate:
//!
//! ```
//! use rsocket_core::{Handlers, connect, serve};
//! use rsocket_transport_ws::{WsConnector, WsListener};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = WsListener::bind("127.0.0.1:0").await?.path("/rsocket");
//! let url = format!("ws://{}/rsocket", listener.local_addr());
//! tokio::spawn(serve(listener, |_setup, _client| async {
//!     Ok(Handlers::new().on_request_response(|request| async { Ok(request) }))
//! }));
//!
//! let peer = connect(WsConnector::new(url)).await?;
//! let echo = peer.request_response("hello").await?;
//! assert_eq!(echo.data_utf8(), Some("hello"));
//! # Ok(())
//! # }
//! ```
//!
//! | URL | client | server |
//! |---|---|---|
//! | `ws://host[:port][/path][?query]` | [`WsConnector`] | [`WsListener`] |
//! | `wss://host[:port][/path][?query]` | `WsConnector` with `tls` | `WsListener` with `tls` |
//!
//! [`register`] teaches them to a [`Transports`]. A server's URL without a path
//! serves any. Where another HTTP server has the port, `upgrades` turns its
//! requests into links; and for streams that are WebSockets already, there are
//! [`upgraded`] and [`link()`].
//!
//! What the client's request said, its path, headers and address, and who TLS says
//! that it is, an acceptor finds in its setup's [`LinkInfo`]. A token may come in
//! a header, or for browsers, which can send none, in a cookie (then see
//! [`WsListener::allow_origins`]) or in RSocket's own setup payload.
//!
//! # Features
//!
//! - `tls`: `wss:` URLs and the module `tls`, by rustls. Behind `#`, which is never
//!   sent, a client's URL may have `ca=file` (PEM; else the system's roots count)
//!   and `cert=file&key=file`; a server's must have the latter, and with `ca=file`
//!   it lets in only clients with a certificate.
//! - `axum`: `upgrades`, for axum 0.8 and any other server on hyper 1.
//!
//! # On the wire
//!
//! Each frame is one binary message, without a length in front. A message in parts
//! is put together, up to the limit for frames; a longer one is refused with code
//! 1009 by its announced length, a text message with 1003, whatever breaks RFC 6455
//! with 1002. Pings are answered, the last of many; none are sent, as RSocket has a
//! keepalive of its own. No extension is offered or granted: compressing small
//! binary messages costs more than it saves, and what decompresses has to be
//! bounded once more.
//!
//! Codes 1000 and 1001 end a link in good order, as does a closing frame without a
//! code. Other codes, and a connection that ends without one, are errors: of kind
//! [`PeerMisbehaved`] where the peer would refuse the same again (1002, 1003, 1007 to
//! 1010), else [`Lost`].
//!
//! # Where to read on
//!
//! `framing` is the hot path: one buffer for messages to be written, one for what
//! was read. `handshake` decides who is let in. The rest opens sockets:
//! `connector`, `listener`, `upgrades`, `tls`; and `messages` adapts those of
//! tokio-tungstenite.
//!
//! Spec: RSocket, "Framing Protocol Usage" \[C007\]; RFC 6455.
//!
//! [`PeerMisbehaved`]: rsocket_core::transport::TransportErrorKind::PeerMisbehaved
//! [`Lost`]: rsocket_core::transport::TransportErrorKind::Lost

#![forbid(unsafe_code)]

mod connector;
mod framing;
mod handshake;
mod listener;
mod messages;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(feature = "axum")]
mod upgrades;
mod url;

use bytes::Bytes;
use futures_core::Stream;
use futures_sink::Sink;
use rsocket_core::transport::{Connector, Link, LinkInfo, Listener, TransportError, Transports};
pub use rsocket_transport_tcp::{Address, LinkOptions};
use tokio::io::{AsyncRead, AsyncWrite};
pub use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

#[cfg(feature = "axum")]
pub use self::upgrades::{BACKLOG, UpgradeListener, Upgrades, upgrades};
pub use self::{connector::WsConnector, framing::Role, listener::WsListener};
use self::{framing::framed, url::WsUrl};

/// A link over a byte stream that has been upgraded to WebSocket.
///
/// `early` is what was read of the stream behind the handshake, if anything. The
/// sending half shuts the stream down once both ends have closed, or when it is
/// dropped without being closed.
///
/// This is the way for servers and proxies of other HTTP libraries: they hand over
/// the stream once their `101 Switching Protocols` is out.
///
/// # Examples
///
/// ```
/// use bytes::Bytes;
/// use rsocket_core::transport::LinkInfo;
/// use rsocket_transport_ws::{LinkOptions, Role, upgraded};
///
/// let (ours, theirs) = tokio::io::duplex(4096);
/// let info = LinkInfo::new("pipe");
/// let link = upgraded(ours, Role::Server, Bytes::new(), info, LinkOptions::new());
/// # drop((link, theirs));
/// ```
pub fn upgraded<S>(
    stream: S,
    role: Role,
    early: Bytes,
    info: LinkInfo,
    options: LinkOptions,
) -> Link
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (read, write) = tokio::io::split(stream);
    framed(read, write, role, early, info, options.longest_frame())
}

/// A link over a WebSocket of tokio-tungstenite, or something around one.
///
/// Its own limits hold besides those of `options`: set
/// [`max_message_size`](tungstenite::protocol::WebSocketConfig::max_message_size)
/// to `options`' longest frame, or it will buffer longer messages before they are
/// refused. It allocates for each message and takes a lock for each call, which
/// [`upgraded`] does not: prefer that where the bare stream can be had.
///
/// Dropping one half alone tells the peer nothing.
///
/// # Examples
///
/// ```
/// use rsocket_core::transport::LinkInfo;
/// use rsocket_transport_ws::{LinkOptions, link, tungstenite::protocol::Role};
/// use tokio_tungstenite::WebSocketStream;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let (ours, theirs) = tokio::io::duplex(4096);
/// let socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
/// let link = link(socket, LinkInfo::new("pipe"), LinkOptions::new());
/// # drop((link, theirs));
/// # }
/// ```
pub fn link<T>(socket: T, info: LinkInfo, options: LinkOptions) -> Link
where
    T: Stream<Item = Result<Message, WsError>>
        + Sink<Message, Error = WsError>
        + Send
        + Unpin
        + 'static,
{
    messages::over(socket, info, options.longest_frame())
}

/// Adds the schemes of this crate: `ws`, and with the feature `tls` `wss`.
///
/// # Examples
///
/// ```
/// use rsocket_core::transport::Transports;
///
/// let mut transports = Transports::new();
/// rsocket_transport_ws::register(&mut transports);
///
/// assert!(transports.connector("ws://127.0.0.1:7878/rsocket").is_ok());
/// assert!(transports.connector("ws:127.0.0.1").is_err(), "no host");
/// ```
pub fn register(transports: &mut Transports) {
    transports.register("ws", connector_from_url, listener_from_url);
    #[cfg(feature = "tls")]
    transports.register("wss", connector_from_url, listener_from_url);
}

#[cfg(not(feature = "tls"))]
fn connector_from_url(url: &str) -> Result<Box<dyn Connector>, TransportError> {
    WsUrl::parse(url)?;
    Ok(Box::new(WsConnector::new(url)))
}

#[cfg(feature = "tls")]
fn connector_from_url(url: &str) -> Result<Box<dyn Connector>, TransportError> {
    let parsed = WsUrl::parse(url)?;
    let mut connector = WsConnector::new(url);
    if parsed.is_secure {
        connector = connector.tls(tls::client_config_from(&parsed)?);
    }
    Ok(Box::new(connector))
}

async fn listener_from_url(url: String) -> Result<Box<dyn Listener>, TransportError> {
    let parsed = WsUrl::parse(&url)?;
    #[cfg(feature = "tls")]
    let config = match parsed.is_secure {
        true => Some(tls::server_config_from(&parsed)?),
        false => None,
    };
    let mut listener = WsListener::bind(parsed.address()).await?;
    if let Some(path) = parsed.served_path() {
        listener = listener.path(path);
    }
    #[cfg(feature = "tls")]
    if let Some(config) = config {
        listener = listener.tls(config);
    }
    Ok(Box::new(listener))
}
