//! Connects over TCP.

use std::{io, net::SocketAddr, time::Duration};

use rsocket_core::transport::{Connector, Link, LinkInfo, TransportError};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    address::{Address, unreachable_error},
    framing::{Medium, framed, stream_error},
    options::{CONNECT_TIMEOUT, TcpOptions},
};

/// Connects to one TCP address.
///
/// A name may stand for several hosts: they are tried in the resolver's order,
/// each for its share of the time that is left.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use rsocket_transport_tcp::TcpConnector;
///
/// let connector = TcpConnector::new("rsocket.example:7878")
///     .connect_timeout(Duration::from_secs(3));
/// ```
#[derive(Clone, Debug)]
pub struct TcpConnector {
    address: Address,
    options: TcpOptions,
    connect_timeout: Duration,
}

impl TcpConnector {
    /// Connects to `address`: `"host:port"`, a [`SocketAddr`], or `(host, port)`.
    pub fn new(address: impl Into<Address>) -> Self {
        Self {
            address: address.into(),
            options: TcpOptions::default(),
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// Sets the longest frame, see [`LinkOptions::max_frame_len`](crate::LinkOptions::max_frame_len).
    ///
    /// # Panics
    ///
    /// When `len` is not in 64 ..= 16,777,215.
    #[must_use]
    pub fn max_frame_len(mut self, len: usize) -> Self {
        self.options.link = self.options.link.max_frame_len(len);
        self
    }

    /// Sets TCP_NODELAY, which is on by default: frames are gathered into few
    /// writes before the kernel sees them, and it need not wait for more.
    #[must_use]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.options.nodelay = nodelay;
        self
    }

    /// Sets how long one attempt may take in all, name lookup included.
    ///
    /// 10 s by default: long enough for three lost SYNs.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// A connected stream with its options set, for protocols that begin with a
    /// handshake of their own.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes what it had opened.
    ///
    /// # Errors
    ///
    /// As [`Connector::connect`].
    pub async fn connect_stream(&self) -> Result<TcpStream, TransportError> {
        self.open(self.deadline()).await
    }

    #[cfg(feature = "tls")]
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    #[cfg(feature = "tls")]
    pub(crate) fn link_options(&self) -> crate::LinkOptions {
        self.options.link
    }

    /// When an attempt that starts now has failed.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.connect_timeout
    }

    /// A connected stream with its options set.
    pub(crate) async fn open(&self, deadline: Instant) -> Result<TcpStream, TransportError> {
        let failed =
            |error| unreachable_error(&format_args!("connecting to {}", self.address), error);
        let mut addresses = timeout_at(deadline, self.address.resolve())
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))??
            .into_iter();
        let mut last = io::ErrorKind::NotFound.into();
        while let Some(address) = addresses.next() {
            // An address that swallows SYNs must not use up its neighbours' time.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len()).map_or(u32::MAX, |n| n + 1);
            match timeout(share, open_one(address)).await {
                Ok(Ok(stream)) => {
                    self.options.apply(&stream).map_err(stream_error)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
            tracing::debug!(%address, error = %last, "could not connect");
        }
        Err(failed(last))
    }
}

#[async_trait::async_trait]
impl Connector for TcpConnector {
    async fn connect(&self) -> Result<Link, TransportError> {
        let stream = self.open(self.deadline()).await?;
        Ok(tcp_link(stream, self.options))
    }
}

impl TcpOptions {
    pub(crate) fn apply(self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(self.nodelay)
    }
}

/// The link over a connected stream.
pub(crate) fn tcp_link(stream: TcpStream, options: TcpOptions) -> Link {
    let mut info = LinkInfo::new("tcp");
    info.peer_addr = stream.peer_addr().ok();
    let (read, write) = stream.into_split();
    framed(read, write, info, options.link, Medium::Socket)
}

async fn open_one(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Where nobody listens on a port that this host may pick for outgoing
    // connections, TCP can connect a socket to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}
