//! RSocket over TLS over TCP.
//!
//! [`client_config`] and [`server_config`] make the usual settings from PEM;
//! anything else can be had from [`rustls`] itself.
//!
//! # Examples
//!
//! Both sides know each other by certificates of a private authority:
//!
//! ```no_run
//! use rsocket_transport_tcp::{TcpConnector, tls::{self, Roots, TlsConnector, TlsListener}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let read = |name: &str| std::fs::read(name);
//!
//! let config = tls::server_config(&read("server.pem")?, &read("server.key")?)?
//!     .with_client_auth(Roots::pem(&read("ca.pem")?)?)
//!     .build()?;
//! let listener = TlsListener::bind("0.0.0.0:7879", config).await?;
//!
//! let config = tls::client_config(Roots::pem(&read("ca.pem")?)?)
//!     .with_identity(&read("client.pem")?, &read("client.key")?)?
//!     .build()?;
//! let tcp = TcpConnector::new("server.example:7879");
//! let connector = TlsConnector::new(tcp, config, "server.example".try_into()?);
//! # Ok(())
//! # }
//! ```

mod config;
mod halves;
mod url;

use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use rsocket_core::transport::{
    Connector, Handshake, Link, LinkInfo, Listener, TlsInfo, TransportError, TransportErrorKind,
};
use tokio::{net::TcpStream, time::timeout_at};
pub use tokio_rustls::rustls;
use tokio_rustls::{
    TlsAcceptor, TlsStream,
    rustls::{ClientConfig, CommonState, ServerConfig, pki_types::ServerName},
};

pub use self::config::{
    ClientConfigBuilder, Roots, ServerConfigBuilder, TlsConfigError, client_config, server_config,
};
pub use self::url::TlsFiles;
pub(crate) use self::url::{connector_from_url, listener_from_url};
use crate::{
    TcpConnector, TcpListener,
    address::{Address, unreachable_error},
    framing::{Medium, framed, stream_error},
    options::LinkOptions,
};

/// Connects over TLS.
#[derive(Clone, Debug)]
pub struct TlsConnector {
    tcp: TcpConnector,
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
}

impl TlsConnector {
    /// Connects by `tcp`, whose options hold here too, to a server that can show
    /// a certificate for `server_name`.
    ///
    /// The time that `tcp` may take to connect includes the handshake.
    pub fn new(
        tcp: TcpConnector,
        config: Arc<ClientConfig>,
        server_name: ServerName<'static>,
    ) -> Self {
        Self {
            tcp,
            config,
            server_name,
        }
    }
}

/// A server that refuses the client's certificate may do so after the handshake
/// (TLS 1.3): then the link's first use fails, with the server's alert.
#[async_trait::async_trait]
impl Connector for TlsConnector {
    async fn connect(&self) -> Result<Link, TransportError> {
        let deadline = self.tcp.deadline();
        let stream = self.tcp.open(deadline).await?;
        let tls = tokio_rustls::TlsConnector::from(Arc::clone(&self.config));
        let handshake = tls.connect(self.server_name.clone(), stream);
        match timeout_at(deadline, handshake).await {
            Ok(Ok(stream)) => {
                let name = Some(self.server_name.to_str().into_owned());
                Ok(tls_link(stream.into(), name, self.tcp.link_options()))
            }
            Ok(Err(error)) => Err(stream_error(error)),
            Err(_) => Err(unreachable_error(
                &format_args!("TLS handshake with {}", self.tcp.address()),
                io::ErrorKind::TimedOut.into(),
            )),
        }
    }
}

/// Accepts connections over TLS.
///
/// Handshakes run where the core runs them, one for each connection, so a client
/// that dawdles or fails concerns nobody else.
#[derive(Debug)]
pub struct TlsListener {
    tcp: TcpListener,
    config: Arc<ServerConfig>,
}

impl TlsListener {
    /// Listens on `address`, as [`TcpListener::bind`] does.
    ///
    /// # Errors
    ///
    /// [`TransportErrorKind::Invalid`] when the address is malformed, taken, or
    /// not this machine's.
    pub async fn bind(
        address: impl Into<Address>,
        config: Arc<ServerConfig>,
    ) -> Result<Self, TransportError> {
        let tcp = TcpListener::bind(address).await?;
        Ok(Self { tcp, config })
    }

    /// Sets the longest frame, see [`LinkOptions::max_frame_len`].
    ///
    /// # Panics
    ///
    /// When `len` is not in 64 ..= 16,777,215.
    #[must_use]
    pub fn max_frame_len(mut self, len: usize) -> Self {
        self.tcp = self.tcp.max_frame_len(len);
        self
    }

    /// Sets TCP_NODELAY on accepted connections; on by default.
    #[must_use]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.tcp = self.tcp.nodelay(nodelay);
        self
    }

    /// Where it listens, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.tcp.local_addr()
    }
}

#[async_trait::async_trait]
impl Listener for TlsListener {
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        let (stream, options) = self.tcp.next().await?;
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        Ok(Box::pin(async move {
            options.apply(&stream).map_err(stream_error)?;
            let stream = acceptor.accept(stream).await.map_err(stream_error)?;
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            Ok(tls_link(stream.into(), name, options.link))
        }))
    }

    fn url(&self) -> String {
        format!("tls://{}", self.local_addr())
    }
}

/// The link over an established connection.
fn tls_link(
    stream: TlsStream<TcpStream>,
    server_name: Option<String>,
    options: LinkOptions,
) -> Link {
    let (tcp, connection) = stream.get_ref();
    let mut info = LinkInfo::new("tls");
    info.peer_addr = tcp.peer_addr().ok();
    info.tls = Some(tls_info(connection, server_name));
    let (read, write) = halves::split(stream);
    framed(read, write, info, options, Medium::Socket)
}

/// What `connection` established, for the link of a protocol above TLS.
///
/// `server_name` is the name that the client asked for.
pub fn tls_info(connection: &CommonState, server_name: Option<String>) -> TlsInfo {
    let certificates = connection.peer_certificates().unwrap_or_default();
    let mut info = TlsInfo::new();
    info.peer_certificates = certificates
        .iter()
        .map(|certificate| Bytes::copy_from_slice(certificate))
        .collect();
    info.server_name = server_name;
    info.alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
    info
}

/// The settings cannot be used.
fn invalid_settings(error: TlsConfigError) -> TransportError {
    TransportError::new(TransportErrorKind::Invalid, error)
}
