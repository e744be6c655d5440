//! Accepts over TCP, and what all listeners here do about failures.

use std::{fmt, io, net::SocketAddr, time::Duration};

use rsocket_core::transport::{Handshake, Listener, TransportError, TransportErrorKind};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep_until},
};

use crate::{
    address::{Address, invalid},
    connector::tcp_link,
    framing::stream_error,
    options::{BACKLOG, TcpOptions},
};

/// How long a listener waits when the machine has no room for a connection: long
/// enough not to spin on the error, short beside a client's patience.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts TCP connections.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), rsocket_core::transport::TransportError> {
/// use rsocket_transport_tcp::TcpListener;
///
/// let listener = TcpListener::bind("127.0.0.1:0").await?.max_frame_len(1 << 20);
/// println!("listening on {}", listener.local_addr());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TcpListener {
    inner: tokio::net::TcpListener,
    local_addr: SocketAddr,
    options: TcpOptions,
    pause: Pause,
}

impl TcpListener {
    /// Listens on `address`; port 0 lets the system choose one.
    ///
    /// The address of a server that has just ended can be taken at once
    /// (SO_REUSEADDR). Of a name that stands for several addresses, the first
    /// that can be had is taken.
    ///
    /// # Errors
    ///
    /// [`TransportErrorKind::Invalid`] when the address is malformed, taken, or
    /// not this machine's.
    pub async fn bind(address: impl Into<Address>) -> Result<Self, TransportError> {
        let address = address.into();
        let mut last = io::ErrorKind::NotFound.into();
        for number in address.resolve().await? {
            match listen(number).and_then(|inner| Ok((inner.local_addr()?, inner))) {
                Ok((local_addr, inner)) => {
                    return Ok(Self {
                        inner,
                        local_addr,
                        options: TcpOptions::default(),
                        pause: Pause::default(),
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(invalid(&format_args!("listening on {address}"), last))
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

    /// Sets TCP_NODELAY on accepted connections; on by default.
    #[must_use]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.options.nodelay = nodelay;
        self
    }

    /// Where it listens, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The next stream, with its options set, for protocols that begin with a
    /// handshake of their own.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: no connection is lost by dropping the future.
    ///
    /// # Errors
    ///
    /// As [`Listener::accept`].
    pub async fn accept_stream(&mut self) -> Result<TcpStream, TransportError> {
        loop {
            let (stream, options) = self.next().await?;
            match options.apply(&stream) {
                Ok(()) => return Ok(stream),
                Err(error) => {
                    tracing::debug!(listener = %self.local_addr, %error, "a connection is gone");
                }
            }
        }
    }

    /// The next stream, whose options its handshake has to set.
    pub(crate) async fn next(&mut self) -> Result<(TcpStream, TcpOptions), TransportError> {
        loop {
            self.pause.over().await;
            match self.inner.accept().await {
                Ok((stream, _)) => return Ok((stream, self.options)),
                Err(error) => self.pause.judge(error, &self.local_addr)?,
            }
        }
    }
}

#[async_trait::async_trait]
impl Listener for TcpListener {
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        let (stream, options) = self.next().await?;
        Ok(Box::pin(async move {
            options.apply(&stream).map_err(stream_error)?;
            Ok(tcp_link(stream, options))
        }))
    }

    /// With the address as bound: of `0.0.0.0`, clients elsewhere have to put in a
    /// name of this host.
    fn url(&self) -> String {
        format!("tcp://{}", self.local_addr)
    }
}

fn listen(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // Elsewhere it only lets a new server have the port while connections of the
    // last one linger; on Windows it would let two servers share it.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What a listener does about failures of `accept`.
#[derive(Debug, Default)]
pub struct Pause {
    /// Kept here and not in a future, so that a caller that drops `accept` and
    /// calls it again does not turn the pause into a spin.
    until: Option<Instant>,
}

impl Pause {
    /// Waits until it is worth trying again.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: it goes on to wait when it is called again.
    pub async fn over(&mut self) {
        if let Some(until) = self.until {
            sleep_until(until).await;
            self.until = None;
        }
    }

    /// Passes on what ends the listener, and notes what does not.
    ///
    /// # Errors
    ///
    /// [`TransportErrorKind::Invalid`] when the listener cannot go on.
    pub fn judge(
        &mut self,
        error: io::Error,
        listener: &(dyn fmt::Display + Sync),
    ) -> Result<(), TransportError> {
        use io::ErrorKind as Kind;
        match error.kind() {
            // This socket does not listen any more.
            Kind::InvalidInput => Err(TransportError::new(TransportErrorKind::Invalid, error)),
            // The connection failed while it waited. Linux reports network errors
            // of the new connection here, too.
            Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::ConnectionRefused
            | Kind::HostUnreachable
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::Interrupted
            | Kind::TimedOut => {
                tracing::debug!(%listener, %error, "a connection ended before it was accepted");
                Ok(())
            }
            // Out of files or memory, for which there are several codes and no
            // common kind. Whatever else it is, trying ten times a second is
            // better than a server that has stopped.
            _ => {
                tracing::warn!(%listener, %error, "cannot accept now, trying again in 100 ms");
                self.until = Some(Instant::now() + PAUSE);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test(start_paused = true)]
    async fn a_machine_without_room_pauses_a_listener_and_does_not_end_it() {
        const ENOMEM: i32 = 12;
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        const ENOBUFS: i32 = 105;

        for code in [ENOMEM, ENFILE, EMFILE, ENOBUFS] {
            let mut pause = Pause::default();
            let begin = Instant::now();
            pause
                .judge(io::Error::from_raw_os_error(code), &"here")
                .unwrap();
            // A caller that gives up on `accept` does not cut the pause short.
            let _ = tokio::time::timeout(PAUSE / 2, pause.over()).await;
            pause.over().await;
            assert_eq!(begin.elapsed(), PAUSE, "code {code}");
        }
    }

    #[test]
    fn a_connection_that_failed_while_it_waited_is_skipped() {
        let mut pause = Pause::default();
        pause
            .judge(io::ErrorKind::ConnectionAborted.into(), &"here")
            .unwrap();
        assert_eq!(pause.until, None);
    }

    #[test]
    fn a_socket_that_does_not_listen_ends_the_listener() {
        let error = Pause::default().judge(io::ErrorKind::InvalidInput.into(), &"here");
        assert_eq!(error.unwrap_err().kind(), TransportErrorKind::Invalid);
    }
}
