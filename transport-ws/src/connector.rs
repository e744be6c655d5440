//! Connects over WebSocket.

use std::{io, time::Duration};

use rsocket_core::transport::{Connector, Link, LinkInfo, TransportError, TransportErrorKind};
use rsocket_transport_tcp::{LinkOptions, TcpConnector};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    framing::{Role, framed},
    handshake::client::{Extras, connect},
    url::WsUrl,
};

/// How long connecting may take unless told otherwise: as the TCP transport's
/// attempts, which are part of it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to one URL.
///
/// # Examples
///
/// ```
/// use rsocket_transport_ws::WsConnector;
///
/// let connector = WsConnector::new("ws://rsocket.example/feed?topic=rust")
///     .header("authorization", "Bearer 7f3a")
///     .subprotocol("rsocket");
/// ```
#[derive(Clone, Debug)]
pub struct WsConnector {
    url: Result<WsUrl, String>,
    options: LinkOptions,
    nodelay: bool,
    connect_timeout: Duration,
    extras: Extras,
    #[cfg(feature = "tls")]
    tls: Option<std::sync::Arc<crate::tls::rustls::ClientConfig>>,
}

impl WsConnector {
    /// Connects to `url`: `ws://host[:port][/path][?query]`, and with the feature
    /// `tls` also `wss:`. What is no such URL is reported when it is used.
    ///
    /// The host's name is looked up anew for each connection. Redirects are not
    /// followed.
    pub fn new(url: impl AsRef<str>) -> Self {
        let url = url.as_ref();
        Self {
            url: WsUrl::parse(url).map_err(|_| url.to_owned()),
            options: LinkOptions::new(),
            nodelay: true,
            connect_timeout: CONNECT_TIMEOUT,
            extras: Extras::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Adds a header to the request. `host` replaces the one that is sent anyway.
    ///
    /// What cannot be sent, or is the handshake's own (`connection`, `upgrade`,
    /// `sec-websocket-*`), makes connecting fail with
    /// [`Invalid`](TransportErrorKind::Invalid).
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.extras.add(name, value);
        self
    }

    /// Offers a sub-protocol, besides those offered before. None is by default,
    /// which every server takes; some ask for `rsocket`.
    ///
    /// Which one the server chose is in [`LinkInfo::headers`], under
    /// `sec-websocket-protocol`.
    #[must_use]
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.extras.subprotocols.push(name.into());
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

    /// Sets TCP_NODELAY, which is on by default: frames are gathered into few
    /// writes before the kernel sees them, and it need not wait for more.
    #[must_use]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Sets how long one attempt may take in all: name lookup, TCP, TLS and the
    /// server's answer. 10 s by default.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how a `wss:` URL's server is checked, and what it is shown. By
    /// default, the system's roots count, and nothing is shown.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, config: std::sync::Arc<crate::tls::rustls::ClientConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    async fn open(&self) -> Result<Link, TransportError> {
        let url = self.url.as_ref().map_err(|url| crate::url::bad_url(url))?;
        #[cfg(feature = "tls")]
        let tls = match (url.is_secure, &self.tls) {
            (false, _) => None,
            (true, Some(config)) => Some(std::sync::Arc::clone(config)),
            (true, None) => Some(crate::tls::client_config_from(url)?),
        };
        let stream = TcpConnector::new(url.address())
            .nodelay(self.nodelay)
            .connect_timeout(self.connect_timeout)
            .connect_stream()
            .await?;
        #[cfg(feature = "tls")]
        if let Some(config) = tls {
            return self.open_tls(url, stream, config).await;
        }
        self.open_plain(url, stream).await
    }

    async fn open_plain(&self, url: &WsUrl, mut stream: TcpStream) -> Result<Link, TransportError> {
        let mut info = LinkInfo::new("ws");
        info.peer_addr = stream.peer_addr().ok();
        let early = connect(&mut stream, &url.uri, &self.extras, &mut info).await?;
        let (read, write) = stream.into_split();
        let max_frame_len = self.options.longest_frame();
        Ok(framed(
            read,
            write,
            Role::Client,
            early,
            info,
            max_frame_len,
        ))
    }

    #[cfg(feature = "tls")]
    async fn open_tls(
        &self,
        url: &WsUrl,
        stream: TcpStream,
        config: std::sync::Arc<crate::tls::rustls::ClientConfig>,
    ) -> Result<Link, TransportError> {
        let mut info = LinkInfo::new("wss");
        info.peer_addr = stream.peer_addr().ok();
        let mut stream = crate::tls::connect(&url.host, stream, config, &mut info).await?;
        let early = connect(&mut stream, &url.uri, &self.extras, &mut info).await?;
        let (read, write) = tokio::io::split(stream);
        let max_frame_len = self.options.longest_frame();
        Ok(framed(
            read,
            write,
            Role::Client,
            early,
            info,
            max_frame_len,
        ))
    }
}

#[async_trait::async_trait]
impl Connector for WsConnector {
    async fn connect(&self) -> Result<Link, TransportError> {
        match timeout(self.connect_timeout, self.open()).await {
            Ok(result) => result,
            Err(_) => {
                let (Ok(url) | Err(url)) = self.url.as_ref().map(|url| &url.text);
                let error = format!("connecting to {url}: timed out");
                let error = io::Error::new(io::ErrorKind::TimedOut, error);
                Err(TransportError::new(TransportErrorKind::Unreachable, error))
            }
        }
    }
}
