//! Unix sockets as transports use them: their files, and waiting at both ends.
//!
//! Public for transports that meet at Unix sockets and carry frames otherwise.
//! Not covered by any promise: what is right here is what those of this project
//! need.

use std::{
    fmt, fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rsocket_core::transport::TransportError;
use tokio::{
    net::{UnixListener, UnixSocket, UnixStream},
    time::sleep,
};

pub use crate::{
    listener::Pause,
    options::{BACKLOG, CONNECT_TIMEOUT},
};

/// How long a connector waits before it tries again where the listener's backlog
/// is full, which Linux reports at once instead of waiting as it does for TCP.
const BACKLOG_PAUSE: Duration = Duration::from_millis(10);

/// Connects to the socket at `path`, and waits for as long as its backlog is full.
///
/// # Errors
///
/// What the system says: where nobody listens, at once.
///
/// # Cancel safety
///
/// Cancel-safe: an attempt that is dropped leaves nothing.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sleep(BACKLOG_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// A socket that listens, and its file.
///
/// Dropping it removes the file, unless somebody has put another in its place.
#[derive(Debug)]
pub struct Socket {
    // Dropped before the socket, which keeps its inode from being given to a
    // file that is not ours.
    _file: Option<SocketFile>,
    inner: UnixListener,
    pause: Pause,
}

impl Socket {
    /// Listens at `path`, or, where it begins with NUL, under an abstract name,
    /// which has no file.
    ///
    /// A socket file that was left behind, that is, on which nobody listens, is
    /// replaced; any other file is not. Two that find the same file left behind
    /// may displace each other.
    ///
    /// The file's permissions are `mode` before anybody can connect, where it is
    /// given.
    ///
    /// # Errors
    ///
    /// What the system says, or that somebody listens there.
    pub async fn bind(path: &Path, mode: Option<u32>) -> io::Result<Self> {
        let has_file = !path.as_os_str().as_bytes().starts_with(&[0]);
        let mode = mode.filter(|_| has_file);
        let inner = match listen(path, mode) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && has_file => {
                match unlink_stale(path).await {
                    Ok(true) => listen(path, mode)?,
                    _ => return Err(error),
                }
            }
            result => result?,
        };
        Ok(Self {
            _file: has_file.then(|| SocketFile::new(path)).transpose()?,
            inner,
            pause: Pause::default(),
        })
    }

    /// The next connection. `listener` is what logs call this one.
    ///
    /// # Errors
    ///
    /// As [`Listener::accept`](rsocket_core::transport::Listener::accept).
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: no connection is lost by dropping the future.
    pub async fn accept(
        &mut self,
        listener: &(dyn fmt::Display + Sync),
    ) -> Result<UnixStream, TransportError> {
        loop {
            self.pause.over().await;
            match self.inner.accept().await {
                Ok((stream, _)) => return Ok(stream),
                Err(error) => self.pause.judge(error, listener)?,
            }
        }
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
