//! Accepts processes of this host.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rsocket_core::transport::{Handshake, Listener, TransportError, TransportErrorKind};
use tokio::{
    net::{UnixListener, UnixSocket, UnixStream},
    time::{Instant, sleep_until},
};

use crate::{
    address::ShmAddress,
    link::link,
    options::{BACKLOG, ShmOptions, Users},
    rendezvous,
};

/// How long a listener waits when the machine has no room for a connection: long
/// enough not to spin on the error, short beside a client's patience.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections of processes that are to share memory with this one.
///
/// Whom it accepts is up to [`ShmOptions::users`]: by default, processes of the
/// user that this one runs as. Anybody else is told so and sent away.
///
/// Dropping it removes its socket file, unless somebody has put another in its
/// place. Links that it made live on.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), rsocket_core::transport::TransportError> {
/// use rsocket_transport_shm::ShmListener;
///
/// # let name = format!("@rsocket-doc-{}", std::process::id());
/// let listener = ShmListener::bind(name).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ShmListener {
    // Dropped before the socket, which keeps its inode from being given to a
    // file that is not ours.
    _file: Option<SocketFile>,
    inner: UnixListener,
    address: ShmAddress,
    options: ShmOptions,
    /// Kept here and not in a future, so that a caller that drops `accept` and
    /// calls it again does not turn the pause into a spin.
    pause_until: Option<Instant>,
}

impl ShmListener {
    /// Listens at `address`, a path or `"@name"`, with all options at their
    /// defaults.
    ///
    /// # Errors
    ///
    /// As [`bind_with`](Self::bind_with).
    pub async fn bind(address: impl Into<ShmAddress>) -> Result<Self, TransportError> {
        Self::bind_with(address, ShmOptions::new()).await
    }

    /// Listens at `address`, a path or `"@name"`.
    ///
    /// A socket file that was left behind, that is, on which nobody listens, is
    /// replaced; any other file is not. Start one server at a time on a path: two
    /// that find the same file left behind may displace each other.
    ///
    /// The file lets in only this process's user (mode 0600) if
    /// [`ShmOptions::users`] does; otherwise all may knock (mode 0666), and
    /// whoever is not among the users is refused.
    ///
    /// # Errors
    ///
    /// [`TransportErrorKind::Invalid`] when somebody listens there, or no socket
    /// can be made there.
    pub async fn bind_with(
        address: impl Into<ShmAddress>,
        options: ShmOptions,
    ) -> Result<Self, TransportError> {
        let address = address.into();
        if !address.is_valid() {
            return Err(address.invalid());
        }
        let path = address.socket_path();
        let mode = match options.users {
            None | Some(Users::Same) => 0o600,
            Some(_) => 0o666,
        };
        let mode = address.path().is_some().then_some(mode);
        let listening = match listen(&path, mode) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && mode.is_some() => {
                match unlink_stale(&path).await {
                    Ok(true) => listen(&path, mode),
                    _ => Err(error),
                }
            }
            result => result,
        };
        let with_file = listening.and_then(|inner| {
            let file = address.path().map(SocketFile::new).transpose()?;
            Ok((inner, file))
        });
        match with_file {
            Ok((inner, file)) => Ok(Self {
                _file: file,
                inner,
                address,
                options,
                pause_until: None,
            }),
            Err(error) => {
                let message = format!("listening on {address}: {error}");
                Err(TransportError::new(
                    TransportErrorKind::Invalid,
                    io::Error::new(error.kind(), message),
                ))
            }
        }
    }

    /// Where it listens, as given to [`bind`](Self::bind).
    pub fn address(&self) -> &ShmAddress {
        &self.address
    }

    /// Passes on what ends the listener, and notes what does not.
    fn judge(&mut self, error: io::Error) -> Result<(), TransportError> {
        use io::ErrorKind as Kind;
        match error.kind() {
            // This socket does not listen any more.
            Kind::InvalidInput => Err(TransportError::new(TransportErrorKind::Invalid, error)),
            Kind::ConnectionAborted | Kind::Interrupted => Ok(()),
            // Out of files or memory, for which there are several codes and no
            // common kind. Whatever else it is, trying ten times a second is
            // better than a server that has stopped.
            _ => {
                let listener = &self.address;
                tracing::warn!(%listener, %error, "cannot accept now, trying again in 100 ms");
                self.pause_until = Some(Instant::now() + PAUSE);
                Ok(())
            }
        }
    }
}

#[async_trait::async_trait]
impl Listener for ShmListener {
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        loop {
            if let Some(until) = self.pause_until {
                sleep_until(until).await;
                self.pause_until = None;
            }
            match self.inner.accept().await {
                Ok((stream, _)) => {
                    let options = self.options.clone();
                    return Ok(Box::pin(async move {
                        let met = rendezvous::answer(stream, &options).await?;
                        Ok(link(met, &options))
                    }));
                }
                Err(error) => self.judge(error)?,
            }
        }
    }

    /// With U+FFFD for what is not UTF-8 in the path.
    fn url(&self) -> String {
        format!("shm:{}", self.address)
    }
}

fn listen(path: &Path, mode: Option<u32>) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    if let Some(mode) = mode {
        // Before anybody can connect.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
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
