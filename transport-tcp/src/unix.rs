//! Unix sockets: the peer is a process of this machine, and the kernel says whose.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rsocket_core::transport::{
    Connector, Handshake, Link, LinkInfo, Listener, PeerProcess, TransportError,
};
use tokio::{
    net::UnixStream,
    time::{Instant, timeout_at},
};

use crate::{
    address::{bad_address, invalid, unreachable_error},
    framing::{Medium, framed},
    options::{CONNECT_TIMEOUT, LinkOptions},
    socket::{self, Socket},
};

/// Connects to a Unix socket.
///
/// [`LinkInfo::peer_process`] says which user's process listens there.
#[derive(Clone, Debug)]
pub struct UnixConnector {
    path: PathBuf,
    options: LinkOptions,
    connect_timeout: Duration,
}

impl UnixConnector {
    /// Connects to the socket at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            options: LinkOptions::new(),
            connect_timeout: CONNECT_TIMEOUT,
        }
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

    /// Sets how long to wait for a listener whose backlog is full; 10 s by
    /// default. Where nobody listens, the attempt fails at once.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }
}

#[async_trait::async_trait]
impl Connector for UnixConnector {
    async fn connect(&self) -> Result<Link, TransportError> {
        let deadline = Instant::now() + self.connect_timeout;
        let opened = timeout_at(deadline, socket::connect(&self.path)).await;
        match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => Ok(unix_link(stream, self.options)),
            Err(error) => {
                let path = self.path.display();
                Err(unreachable_error(
                    &format_args!("connecting to {path}"),
                    error,
                ))
            }
        }
    }
}

/// Accepts connections on a Unix socket.
///
/// [`LinkInfo::peer_process`] says which user's process connected. Who may
/// connect is up to the permissions of the socket's directory.
///
/// Dropping it removes its file, unless somebody has put another in its place.
#[derive(Debug)]
pub struct UnixListener {
    socket: Socket,
    path: PathBuf,
    options: LinkOptions,
}

impl UnixListener {
    /// Listens at `path`.
    ///
    /// A socket file that was left behind, that is, on which nobody listens, is
    /// replaced; any other file is not. Start one server at a time on a path: two
    /// that find the same file left behind may displace each other.
    ///
    /// # Errors
    ///
    /// [`Invalid`] when somebody listens there, or no socket can be made there.
    ///
    /// [`Invalid`]: rsocket_core::transport::TransportErrorKind::Invalid
    pub async fn bind(path: impl Into<PathBuf>) -> Result<Self, TransportError> {
        let path = path.into();
        match Socket::bind(&path, None).await {
            Ok(socket) => Ok(Self {
                socket,
                path,
                options: LinkOptions::new(),
            }),
            Err(error) => Err(invalid(
                &format_args!("listening on {}", path.display()),
                error,
            )),
        }
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

    /// Where it listens, as given to [`bind`](Self::bind).
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[async_trait::async_trait]
impl Listener for UnixListener {
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        let options = self.options;
        let stream = self.socket.accept(&self.path.display()).await?;
        Ok(Box::pin(async move { Ok(unix_link(stream, options)) }))
    }

    /// With U+FFFD for what is not UTF-8 in the path.
    fn url(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

/// The path in `unix:/path`, `unix:///path` or `unix:relative/path`.
pub(crate) fn path_from_url(url: &str) -> Result<PathBuf, TransportError> {
    let path = url
        .strip_prefix("unix:")
        .and_then(|rest| match rest.strip_prefix("//") {
            // Between the slashes there would be a host.
            Some(path) => path.starts_with('/').then_some(path),
            None => Some(rest),
        });
    match path {
        Some(path) if !path.is_empty() && !path.contains('\0') => Ok(path.into()),
        _ => Err(bad_address(
            url,
            "unix:/path, unix:///path or unix:relative/path",
        )),
    }
}

fn unix_link(stream: UnixStream, options: LinkOptions) -> Link {
    let mut info = LinkInfo::new("unix");
    info.peer_process = stream
        .peer_cred()
        .ok()
        .map(|peer| PeerProcess::new(peer.uid(), peer.gid(), peer.pid()));
    let (read, write) = stream.into_split();
    framed(read, write, info, options, Medium::Socket)
}
