//! Where processes meet, and URLs.

use std::{
    fmt,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rsocket_core::transport::{TransportError, TransportErrorKind, UrlError};

use crate::{
    layout::Geometry,
    options::{ShmOptions, Spin, Users},
    rendezvous::directory::SCHEME as DIRECTORY,
};

/// The scheme of URLs that lead to sockets.
const SOCKET: &str = "shm";

const EXPECTED: &str = "shm:/path, shm:///path, shm:relative/path or shm:@name for a socket, \
     shm+dir:/path, shm+dir:///path or shm+dir:relative/path for a directory, and then \
     perhaps ?ring=bytes&arena=bytes&longest=bytes&spin=adaptive|poll|sleep&users=same|any|id,id";

/// Where two processes meet: at a Unix socket, or in a directory.
///
/// A socket is made from a path, or from text that begins with `@` and is an
/// abstract name: one that is in no file system and ends with its listener.
/// Anybody on this host may take an abstract name; who may put a socket at a
/// path is up to the permissions of its directory.
///
/// A directory is for processes that can reach no common socket, like those of
/// containers that share a volume and no more: see [`directory`](Self::directory).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmAddress(Repr);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Repr {
    Path(PathBuf),
    Abstract(String),
    Directory(PathBuf),
}

impl ShmAddress {
    /// The directory at `path`, best one in memory (`/dev/shm/app`).
    ///
    /// It is for processes of one user, and has to be out of reach of all others:
    /// owned by that user, with mode 0700. Files in it cannot be sealed, so that
    /// who can write to it can cut one short and so end a process that uses it
    /// (SIGBUS) – as it may by sending it a signal. Both sides check owner and
    /// modes, and [`Users::Same`] is the only choice.
    ///
    /// The listener makes the directory if it is not there, and keeps a lock on
    /// it (`flock`) for as long as it lives. Each meeting has files in it for a
    /// moment, and nothing of a link stays once it is up.
    ///
    /// Links are like those by way of a socket otherwise, and as fast; each side
    /// keeps two descriptors of pipes instead of one of a socket.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self(Repr::Directory(path.into()))
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.0, Repr::Directory(_))
    }

    /// The path of the socket or of the directory, unless it is an abstract name.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Repr::Path(path) | Repr::Directory(path) => Some(path),
            Repr::Abstract(_) => None,
        }
    }

    /// What to do there.
    pub(crate) fn place(&self) -> Place {
        match &self.0 {
            Repr::Path(path) => Place::Socket(path.clone()),
            Repr::Abstract(name) => Place::Socket(format!("\0{name}").into()),
            Repr::Directory(path) => Place::Directory(path.clone()),
        }
    }

    /// As a URL, without settings.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_directory() {
            DIRECTORY
        } else {
            SOCKET
        };
        format!("{scheme}:{self}")
    }

    /// Whose processes it may lead to if nobody said.
    pub(crate) fn users(&self) -> Users {
        match &self.0 {
            Repr::Path(_) => Users::Any,
            Repr::Abstract(_) | Repr::Directory(_) => Users::Same,
        }
    }

    /// Checks that it can lead anywhere at all, and to those users.
    pub(crate) fn check(&self, users: Option<&Users>) -> Result<(), TransportError> {
        if !self.is_valid() {
            return Err(bad_address(&self.url()));
        }
        if self.is_directory() && !matches!(users, None | Some(Users::Same)) {
            return Err(TransportError::new(
                TransportErrorKind::Invalid,
                OneUserOnly { url: self.url() },
            ));
        }
        Ok(())
    }

    fn is_valid(&self) -> bool {
        match &self.0 {
            Repr::Path(path) | Repr::Directory(path) => {
                !path.as_os_str().is_empty() && !path.as_os_str().as_bytes().contains(&0)
            }
            Repr::Abstract(name) => !name.is_empty(),
        }
    }
}

/// What an address stands for.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// As sockets take it: an abstract name is behind a NUL.
    Socket(PathBuf),
    Directory(PathBuf),
}

/// Other users are not kept from a directory's files by seals.
#[derive(Debug, thiserror::Error)]
#[error(
    "{url} is for processes of the user that this one runs as: there is no other choice of users \
     in a directory"
)]
struct OneUserOnly {
    url: String,
}

/// As it is written in URLs behind the scheme, with U+FFFD for what is not UTF-8.
impl fmt::Display for ShmAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Path(path) | Repr::Directory(path) => path.display().fmt(f),
            Repr::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

impl From<&str> for ShmAddress {
    fn from(text: &str) -> Self {
        Self(match text.strip_prefix('@') {
            Some(name) => Repr::Abstract(name.to_owned()),
            None => Repr::Path(text.into()),
        })
    }
}

impl From<String> for ShmAddress {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&String> for ShmAddress {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<PathBuf> for ShmAddress {
    fn from(path: PathBuf) -> Self {
        Self(Repr::Path(path))
    }
}

impl From<&Path> for ShmAddress {
    fn from(path: &Path) -> Self {
        Self(Repr::Path(path.to_owned()))
    }
}

impl From<&PathBuf> for ShmAddress {
    fn from(path: &PathBuf) -> Self {
        path.as_path().into()
    }
}

/// The address and the settings in a URL.
pub(crate) fn from_url(url: &str) -> Result<(ShmAddress, ShmOptions), TransportError> {
    let bad = || bad_address(url);
    let (scheme, rest) = url.split_once(':').ok_or_else(bad)?;
    let (address, query) = match rest.split_once('?') {
        Some((address, query)) => (address, Some(query)),
        None => (rest, None),
    };
    let address = match address.strip_prefix("//") {
        // Between the slashes there would be a host.
        Some(path) if !path.starts_with('/') => return Err(bad()),
        Some(path) => path,
        None => address,
    };
    let address = match scheme {
        SOCKET => ShmAddress::from(address),
        // Somebody means a name for a socket.
        DIRECTORY if address.starts_with('@') => return Err(bad()),
        DIRECTORY => ShmAddress::directory(address),
        _ => return Err(bad()),
    };
    if !address.is_valid() {
        return Err(bad());
    }
    let mut options = ShmOptions::new();
    for setting in query.iter().flat_map(|query| query.split('&')) {
        let (key, value) = setting.split_once('=').ok_or_else(bad)?;
        options = set(options, key, value).ok_or_else(bad)?;
    }
    address.check(options.users.as_ref())?;
    Ok((address, options))
}

/// `None` where the setting is unknown or has no such value.
fn set(mut options: ShmOptions, key: &str, value: &str) -> Option<ShmOptions> {
    match key {
        "ring" => options.ring_len = bytes(value)?,
        "arena" => options.arena_len = bytes(value)?,
        "longest" => options.longest_peer_region = bytes(value)?,
        "spin" => {
            options.spin = match value {
                "adaptive" => Spin::Adaptive,
                "poll" => Spin::Poll,
                "sleep" => Spin::Sleep,
                _ => return None,
            }
        }
        "users" => {
            options.users = Some(match value {
                "same" => Users::Same,
                "any" => Users::Any,
                ids => Users::Only(
                    ids.split(',')
                        .map(|id| id.parse().ok())
                        .collect::<Option<_>>()?,
                ),
            });
        }
        _ => return None,
    }
    Geometry::new(options.ring_len, options.arena_len).ok()?;
    Some(options)
}

/// A number of bytes, of KiB with a `K` behind it, of MiB with an `M`.
fn bytes(text: &str) -> Option<usize> {
    let (number, unit) = match text.strip_suffix(['K', 'M']) {
        Some(number) if text.ends_with('K') => (number, 1 << 10),
        Some(number) => (number, 1 << 20),
        None => (text, 1),
    };
    // `usize::from_str` would let a sign pass.
    let digits = number.bytes().all(|c| c.is_ascii_digit());
    number
        .parse::<usize>()
        .ok()
        .filter(|_| digits)?
        .checked_mul(unit)
}

fn bad_address(url: &str) -> TransportError {
    TransportError::new(
        TransportErrorKind::Invalid,
        UrlError::BadAddress {
            url: url.to_owned(),
            expected: EXPECTED,
        },
    )
}
