//! Accepts over WebSocket.

use std::{net::SocketAddr, time::Duration};

use rsocket_core::transport::{Handshake, Link, LinkInfo, Listener, TransportError};
use rsocket_transport_tcp::{Address, LinkOptions, TcpListener};
use tokio::net::TcpStream;

use crate::{
    framing::{Role, framed},
    handshake::{Gate, server::accept},
};

/// How long a client has for its request unless told otherwise: three lost
/// packets, as for connecting. The core's own limit for a connection to be set
/// up holds as well.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts WebSocket connections.
///
/// Handshakes run where the core runs them, one for each connection, so a client
/// that dawdles or fails concerns nobody else. What is no request for a WebSocket
/// gets an HTTP response that says what is wrong.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), rsocket_core::transport::TransportError> {
/// use rsocket_transport_ws::WsListener;
///
/// let listener = WsListener::bind("127.0.0.1:0")
///     .await?
///     .path("/rsocket")
///     .allow_origins(["https://app.example"]);
/// println!("listening on {}", listener.local_addr());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct WsListener {
    tcp: TcpListener,
    settings: Settings,
}

#[derive(Clone, Debug)]
struct Settings {
    gate: Gate,
    options: LinkOptions,
    handshake_timeout: Duration,
    #[cfg(feature = "tls")]
    tls: Option<std::sync::Arc<crate::tls::rustls::ServerConfig>>,
}

impl WsListener {
    /// Listens on `address`, as [`TcpListener::bind`] does, and serves any path.
    ///
    /// # Errors
    ///
    /// [`Invalid`] when the address is malformed, taken, or not this machine's.
    ///
    /// [`Invalid`]: rsocket_core::transport::TransportErrorKind::Invalid
    pub async fn bind(address: impl Into<Address>) -> Result<Self, TransportError> {
        Ok(Self {
            tcp: TcpListener::bind(address).await?,
            settings: Settings {
                gate: Gate::default(),
                options: LinkOptions::new(),
                handshake_timeout: HANDSHAKE_TIMEOUT,
                #[cfg(feature = "tls")]
                tls: None,
            },
        })
    }

    /// Serves `path` alone, such as `/rsocket`; requests for others get 404.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.settings.gate.path = Some(path.into());
        self
    }

    /// Lets in only pages of these origins, such as `https://app.example`, where a
    /// browser says whose page it is; others get 403.
    ///
    /// By default all pages may connect. Set it where browsers are let in by a
    /// cookie: they send that along whoever's page asks. Clients that are no
    /// browsers need not say an origin, and are not concerned.
    #[must_use]
    pub fn allow_origins<O: Into<String>>(mut self, origins: impl IntoIterator<Item = O>) -> Self {
        self.settings.gate.origins = Some(origins.into_iter().map(Into::into).collect());
        self
    }

    /// Sets the sub-protocols that are spoken here, best first; `rsocket` by
    /// default. A client that offers others only is refused, one that offers none
    /// is let in.
    #[must_use]
    pub fn subprotocols<P: Into<String>>(mut self, names: impl IntoIterator<Item = P>) -> Self {
        self.settings.gate.subprotocols = names.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the longest frame, see [`LinkOptions::max_frame_len`].
    ///
    /// # Panics
    ///
    /// When `len` is not in 64 ..= 16,777,215.
    #[must_use]
    pub fn max_frame_len(mut self, len: usize) -> Self {
        self.settings.options = self.settings.options.max_frame_len(len);
        self
    }

    /// Sets TCP_NODELAY on accepted connections; on by default.
    #[must_use]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.tcp = self.tcp.nodelay(nodelay);
        self
    }

    /// Sets how long a client has for its request, and with TLS for that before;
    /// 10 s by default.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings.handshake_timeout = timeout;
        self
    }

    /// Accepts TLS alone: the URL becomes a `wss:` one.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, config: std::sync::Arc<crate::tls::rustls::ServerConfig>) -> Self {
        self.settings.tls = Some(config);
        self
    }

    /// Where it listens, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.tcp.local_addr()
    }
}

impl Settings {
    async fn shake_hands(self, mut stream: TcpStream) -> Result<Link, TransportError> {
        #[cfg(feature = "tls")]
        if let Some(config) = &self.tls {
            let config = std::sync::Arc::clone(config);
            return self.shake_hands_tls(stream, config).await;
        }
        let mut info = LinkInfo::new("ws");
        info.peer_addr = stream.peer_addr().ok();
        let early = accept(&mut stream, &self.gate, &mut info, self.handshake_timeout).await?;
        let (read, write) = stream.into_split();
        let max_frame_len = self.options.longest_frame();
        Ok(framed(
            read,
            write,
            Role::Server,
            early,
            info,
            max_frame_len,
        ))
    }

    #[cfg(feature = "tls")]
    async fn shake_hands_tls(
        self,
        stream: TcpStream,
        config: std::sync::Arc<crate::tls::rustls::ServerConfig>,
    ) -> Result<Link, TransportError> {
        let mut info = LinkInfo::new("wss");
        info.peer_addr = stream.peer_addr().ok();
        let accepting = crate::tls::accept(stream, config, &mut info);
        let mut stream = match tokio::time::timeout(self.handshake_timeout, accepting).await {
            Ok(accepted) => accepted?,
            Err(_) => return Err(TransportError::lost("no TLS handshake in time")),
        };
        let early = accept(&mut stream, &self.gate, &mut info, self.handshake_timeout).await?;
        let (read, write) = tokio::io::split(stream);
        let max_frame_len = self.options.longest_frame();
        Ok(framed(
            read,
            write,
            Role::Server,
            early,
            info,
            max_frame_len,
        ))
    }

    fn scheme(&self) -> &'static str {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return "wss";
        }
        "ws"
    }
}

#[async_trait::async_trait]
impl Listener for WsListener {
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        let stream = self.tcp.accept_stream().await?;
        Ok(Box::pin(self.settings.clone().shake_hands(stream)))
    }

    /// With the address as bound: of `0.0.0.0`, clients elsewhere have to put in a
    /// name of this host.
    fn url(&self) -> String {
        let path = self.settings.gate.path.as_deref().unwrap_or("/");
        format!("{}://{}{path}", self.settings.scheme(), self.local_addr())
    }
}
