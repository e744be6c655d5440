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
};

const EXPECTED: &str = "shm:/path, shm:///path, shm:relative/path or shm:@name, and then \
     perhaps ?ring=bytes&arena=bytes&longest=bytes&spin=adaptive|poll|sleep&users=same|any|id,id";

/// The Unix socket at which two processes meet.
///
/// Made from a path, or from text that begins with `@` and is an abstract name:
/// one that is in no file system and ends with its listener. Anybody on this
/// host may take an abstract name; who may put a socket at a path is up to the
/// permissions of its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmAddress(Repr);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Repr {
    Path(PathBuf),
    Abstract(String),
}

impl ShmAddress {
    /// The path, unless it is an abstract name.
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Repr::Path(path) => Some(path),
            Repr::Abstract(_) => None,
        }
    }

    /// As sockets take it: an abstract name is behind a NUL.
    pub(crate) fn socket_path(&self) -> PathBuf {
        match &self.0 {
            Repr::Path(path) => path.clone(),
            Repr::Abstract(name) => format!("\0{name}").into(),
        }
    }

    /// Whose processes it may lead to if nobody said.
    pub(crate) fn users(&self) -> Users {
        match &self.0 {
            Repr::Path(_) => Users::Any,
            Repr::Abstract(_) => Users::Same,
        }
    }

    /// Whether it can name a socket at all.
    pub(crate) fn is_valid(&self) -> bool {
        match &self.0 {
            Repr::Path(path) => {
                !path.as_os_str().is_empty() && !path.as_os_str().as_bytes().contains(&0)
            }
            Repr::Abstract(name) => !name.is_empty(),
        }
    }

    /// This is no address.
    pub(crate) fn invalid(&self) -> TransportError {
        bad_address(&format!("shm:{self}"))
    }
}

/// As it is written in URLs, with U+FFFD for what is not UTF-8.
impl fmt::Display for ShmAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Path(path) => path.display().fmt(f),
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
    let rest = url.strip_prefix("shm:").ok_or_else(bad)?;
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
    let address = ShmAddress::from(address);
    if !address.is_valid() {
        return Err(bad());
    }
    let mut options = ShmOptions::new();
    for setting in query.iter().flat_map(|query| query.split('&')) {
        let (key, value) = setting.split_once('=').ok_or_else(bad)?;
        options = set(options, key, value).ok_or_else(bad)?;
    }
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
