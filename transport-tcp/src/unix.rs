//! Unix sockets: the peer is a process of this machine, and the kernel says whose.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rsocket_core::transport::{
    Connector, Handshake, Link, LinkInfo, Listener, PeerProcess, TransportError,
};
use tokio::{
    net::{UnixSocket, UnixStream},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    address::{bad_address, invalid, unreachable_error},
    framing::{Medium, framed},
    listener::Pause,
    options::{BACKLOG, CONNECT_TIMEOUT, LinkOptions},
};

/// How long a connector waits before it tries again where the listener's backlog
/// is full, which Linux reports at once instead of waiting as it does for TCP.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

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

    async fn open(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sleep(BACKLOG_PAUSE).await;
                }
                result => return result,
            }
        }
    }
}

#[async_trait::async_trait]
impl Connector for UnixConnector {
    async fn connect(&self) -> Result<Link, TransportError> {
        let deadline = Instant::now() + self.connect_timeout;
        let opened = timeout_at(deadline, self.open()).await;
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
    // Dropped before the socket, which keeps its inode from being given to a
    // file that is not ours.
    file: SocketFile,
    inner: tokio::net::UnixListener,
    options: LinkOptions,
    pause: Pause,
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
        let listening = match listen(&path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                match unlink_stale(&path).await {
                    Ok(true) => listen(&path),
                    _ => Err(error),
                }
            }
            result => result,
        };
        match listening.and_then(|inner| Ok((inner, SocketFile::new(&path)?))) {
            Ok((inner, file)) => Ok(Self {
                inner,
                file,
                options: LinkOptions::new(),
                pause: Pause::default(),
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
        &self.file.path
    }
}

#[async_trait::async_trait]
impl Listener for UnixListener {
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        let options = self.options;
        loop {
            self.pause.over().await;
            match self.inner.accept().await {
                Ok((stream, _)) => {
                    return Ok(Box::pin(async move { Ok(unix_link(stream, options)) }));
                }
                Err(error) => self.pause.judge(error, &self.file.path.display())?,
            }
        }
    }

    /// With U+FFFD for what is not UTF-8 in the path.
    fn url(&self) -> String {
        format!("unix:{}", self.file.path.display())
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

fn listen(path: &Path) -> io::Result<tokio::net::UnixListener> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    socket.listen(BACKLOG)
}

/// Removes the file at `path` if it is a socket on which nobody listens.
async fn unlink_stale(path: &Path) -> io::Result<bool> {
    let found = fs::symlink_metadata(path)?;
    // Connecting to a file of another type is refused just the same.
    if !found.file_type().is_socket() {
        return Ok(false);
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            // Not if somebody was faster and has put a socket of theirs here.
            let is_same = identity(&found) == identity(&fs::symlink_metadata(path)?);
            if is_same {
                tracing::debug!(path = %path.display(), "removing a socket that was left behind");
                fs::remove_file(path)?;
            }
            Ok(is_same)
        }
        _ => Ok(false),
    }
}

/// The file that binding made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(&fs::symlink_metadata(path)?),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| identity(&found) == self.identity) {
            // Best effort: a file that stays is found to be stale later.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What tells one file from another that took its name.
fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}
