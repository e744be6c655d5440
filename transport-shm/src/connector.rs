//! Connects to a process of this host.

use std::{io, time::Duration};

use rsocket_core::transport::{Connector, Link, TransportError, TransportErrorKind};
use rsocket_transport_tcp::socket::{self, CONNECT_TIMEOUT};
use tokio::time::{Instant, timeout_at};

use crate::{
    address::{Place, ShmAddress},
    link::link,
    options::ShmOptions,
    rendezvous::{
        self,
        directory::{Asking, DirectoryError},
        socket::Socket,
    },
};

/// Connects to the [`ShmListener`](crate::ShmListener) at an address.
///
/// [`LinkInfo::peer_process`](rsocket_core::transport::LinkInfo::peer_process)
/// says which user's process listens there.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use rsocket_transport_shm::ShmConnector;
///
/// let connector = ShmConnector::new("/run/app.sock").connect_timeout(Duration::from_secs(1));
/// let abstract_name = ShmConnector::new("@app");
/// ```
#[derive(Clone, Debug)]
pub struct ShmConnector {
    address: ShmAddress,
    options: ShmOptions,
    connect_timeout: Duration,
}

impl ShmConnector {
    /// Connects to the socket at `address`, a path or `"@name"`, or in a
    /// [directory](ShmAddress::directory).
    pub fn new(address: impl Into<ShmAddress>) -> Self {
        Self {
            address: address.into(),
            options: ShmOptions::new(),
            connect_timeout: CONNECT_TIMEOUT,
        }
    }

    /// Sets what the link is like.
    #[must_use]
    pub fn options(mut self, options: ShmOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets how long one attempt may take in all: for a listener whose backlog is
    /// full, and for a server that does not answer.
    ///
    /// 10 s by default. Where nobody listens, the attempt fails at once.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    fn unreachable(&self, error: &io::Error) -> TransportError {
        let message = format!("connecting to {}: {error}", self.address);
        TransportError::new(
            TransportErrorKind::Unreachable,
            io::Error::new(error.kind(), message),
        )
    }

    fn failed(&self, kind: TransportErrorKind, error: &DirectoryError) -> TransportError {
        let message = format!("connecting to {}: {error}", self.address);
        TransportError::new(kind, io::Error::other(message))
    }
}

#[async_trait::async_trait]
impl Connector for ShmConnector {
    async fn connect(&self) -> Result<Link, TransportError> {
        let users = self.options.users.as_ref();
        self.address.check(users)?;
        let users = users.cloned().unwrap_or_else(|| self.address.users());
        let connecting = async {
            let met = match self.address.place() {
                Place::Socket(path) => {
                    let stream = socket::connect(&path).await;
                    let stream = stream.map_err(|error| self.unreachable(&error))?;
                    rendezvous::ask(Socket::new(stream), &self.options, &users).await?
                }
                Place::Directory(path) => {
                    let meeting = Asking::prepare(&path);
                    let meeting = meeting.map_err(|error| self.failed(error.kind(), &error))?;
                    rendezvous::ask(meeting, &self.options, &users).await?
                }
            };
            Ok(link(met, &self.options))
        };
        let deadline = Instant::now() + self.connect_timeout;
        timeout_at(deadline, connecting)
            .await
            .unwrap_or_else(|_| Err(self.unreachable(&io::ErrorKind::TimedOut.into())))
    }
}
