//! RSocket over TCP, Unix sockets, TLS, and any other byte stream.
//!
//! A client and a server choose the same kind of address, and that is all that
//! the rest of a program sees of this crate:
//!
//! ```
//! use rsocket_core::{Handlers, connect, serve};
//! use rsocket_transport_tcp::{TcpConnector, TcpListener};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let address = listener.local_addr();
//! tokio::spawn(serve(listener, |_setup, _client| async {
//!     Ok(Handlers::new().on_request_response(|request| async { Ok(request) }))
//! }));
//!
//! let peer = connect(TcpConnector::new(address)).await?;
//! let echo = peer.request_response("hello").await?;
//! assert_eq!(echo.data_utf8(), Some("hello"));
//! # Ok(())
//! # }
//! ```
//!
//! | URL | client | server |
//! |---|---|---|
//! | `tcp://host:port` | [`TcpConnector`] | [`TcpListener`] |
//! | `unix:/path`, `unix:///path`, `unix:relative/path` | `UnixConnector` | `UnixListener` |
//! | `tls://host:port` | `tls::TlsConnector` | `tls::TlsListener` |
//!
//! [`register`] teaches them to a [`Transports`]. For streams of other kinds, a
//! pipe or a channel of SSH, there is [`link()`].
//!
//! # Features
//!
//! - `tls`: the module `tls` and its URLs, by rustls. A client's URL may have
//!   `?ca=file` (PEM; else the system's roots count) and `cert=file&key=file`; a
//!   server's must have the latter, and with `ca=file` it lets in only clients
//!   with a certificate.
//!
//! # On the wire
//!
//! Each frame is preceded by its length, 24 bits, big endian, which does not count
//! itself. A limit below 2^24-1 can be set on either side; a peer that announces a
//! longer frame loses its link.
//!
//! # Where to read on
//!
//! `framing` is the hot path: one buffer for frames to be written, one for what
//! was read. The rest opens sockets: `connector`, `listener`, `unix`, `tls`.
//!
//! Spec: "Framing Protocol Usage", "Framing Format".

#![forbid(unsafe_code)]

mod address;
mod connector;
mod framing;
mod listener;
mod options;
#[cfg(unix)]
#[doc(hidden)]
pub mod socket;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(unix)]
mod unix;

use rsocket_core::transport::{Connector, Link, LinkInfo, Listener, TransportError, Transports};
use tokio::io::{AsyncRead, AsyncWrite};

use self::framing::{Medium, framed};
#[cfg(unix)]
pub use self::unix::{UnixConnector, UnixListener};
pub use self::{
    address::Address, connector::TcpConnector, listener::TcpListener, options::LinkOptions,
};

/// A link over a byte stream of any kind, given as its two halves.
///
/// The stream has to be reliable and in order. The sending half shuts `write`
/// down when it is closed or dropped.
///
/// # Examples
///
/// ```
/// use rsocket_core::transport::LinkInfo;
/// use rsocket_transport_tcp::{LinkOptions, link};
///
/// let (ours, theirs) = tokio::io::duplex(4096);
/// let (read, write) = tokio::io::split(ours);
/// let link = link(read, write, LinkInfo::new("pipe"), LinkOptions::new());
/// # drop((link, theirs));
/// ```
pub fn link<R, W>(read: R, write: W, info: LinkInfo, options: LinkOptions) -> Link
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    framed(read, write, info, options, Medium::Stream)
}

/// Adds the schemes of this crate: `tcp`, on Unix `unix`, and with the feature
/// `tls` that.
///
/// # Examples
///
/// ```
/// use rsocket_core::transport::Transports;
///
/// let mut transports = Transports::new();
/// rsocket_transport_tcp::register(&mut transports);
///
/// assert!(transports.connector("tcp://127.0.0.1:7878").is_ok());
/// assert!(transports.connector("tcp://127.0.0.1").is_err(), "no port");
/// ```
pub fn register(transports: &mut Transports) {
    transports.register("tcp", tcp_connector, tcp_listener);
    #[cfg(unix)]
    transports.register("unix", unix_connector, unix_listener);
    #[cfg(feature = "tls")]
    transports.register("tls", tls::connector_from_url, tls::listener_from_url);
}

fn tcp_address(url: &str) -> Result<Address, TransportError> {
    Address::from_url(url, "tcp://", "tcp://host:port")
}

fn tcp_connector(url: &str) -> Result<Box<dyn Connector>, TransportError> {
    Ok(Box::new(TcpConnector::new(tcp_address(url)?)))
}

async fn tcp_listener(url: String) -> Result<Box<dyn Listener>, TransportError> {
    Ok(Box::new(TcpListener::bind(tcp_address(&url)?).await?))
}

#[cfg(unix)]
fn unix_connector(url: &str) -> Result<Box<dyn Connector>, TransportError> {
    Ok(Box::new(UnixConnector::new(unix::path_from_url(url)?)))
}

#[cfg(unix)]
async fn unix_listener(url: String) -> Result<Box<dyn Listener>, TransportError> {
    Ok(Box::new(
        UnixListener::bind(unix::path_from_url(&url)?).await?,
    ))
}
