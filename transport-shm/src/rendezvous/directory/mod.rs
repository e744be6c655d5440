//! Over files in a directory that both processes can reach, for where they share
//! neither sockets nor the numbers of processes: containers with a common volume.
//!
//! ```text
//! app/            0700, of the one user; the server holds a lock on it (flock)
//!   bell          a pipe: a byte says that somebody asks, a reader that a server lives
//!   new-<id>/     a client prepares a meeting, and holds a lock on it from here on,
//!   ask-<id>/     asks by giving it this name,
//!   met-<id>/     and the server answers
//!     up, down    pipes to the server and to the client: messages, then rings
//!     client      the client's region
//!     server      the server's
//! ```
//!
//! Both sides remove the meeting's directory when they have each other's region,
//! or as soon as they give up. What nobody holds a lock on any more was left
//! behind by a process that died, and the server removes it, or the next one.
//!
//! Files cannot be sealed against their owner, so all who can write to the
//! directory have to be trusted not to cut a region short. They are processes of
//! this very user: owner and mode of all that is opened are looked at, and so are
//! its type and, of regions, length and pages.

mod meeting;
mod server;

use std::{
    fmt, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rsocket_core::transport::TransportErrorKind;
use rustix::{
    fs::{
        AtFlags, CWD, Dir as Entries, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat,
        mkfifoat, openat, renameat, statat, unlinkat,
    },
    io::{Errno, write},
    process::geteuid,
    rand::{GetRandomFlags, getrandom},
};
use tokio::net::unix::pipe;

pub(crate) use self::{meeting::Asking, server::Server};

/// The scheme of URLs that lead to directories.
pub(crate) const SCHEME: &str = "shm+dir";

const BELL: &str = "bell";

/// What a meeting's directory may hold.
const UP: &str = "up";
const DOWN: &str = "down";
const CLIENT: &str = "client";
const SERVER: &str = "server";

/// How all pipes are opened: without waiting for who is at the other end.
const PIPE: OFlags = OFlags::NONBLOCK
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// For one user only.
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
const PRIVATE_DIR: Mode = Mode::RWXU;

/// The directory at which processes meet.
#[derive(Debug)]
struct Dir {
    fd: OwnedFd,
}

impl Dir {
    fn open(path: &Path) -> Result<Self, DirectoryError> {
        // A slash at the end would follow a link after all.
        let path: PathBuf = path.components().collect();
        let fd = open_dir(CWD, &path)?;
        let found = fstat(&fd)?;
        check_owner(&found)?;
        Ok(Self { fd })
    }

    /// Whether this is what the path leads to, and not what it led to before.
    fn is_at(&self, path: &Path) -> bool {
        let path: PathBuf = path.components().collect();
        let there = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW);
        let here = fstat(&self.fd);
        matches!((there, here), (Ok(there), Ok(here))
            if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino))
    }

    /// Makes the bell anew and opens it. Clients find a server from here on.
    fn make_bell(&self) -> Result<pipe::Receiver, DirectoryError> {
        match statat(&self.fd, BELL, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => {
                check(&found, FileType::Fifo)?;
                unlinkat(&self.fd, BELL, AtFlags::empty())?;
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        mkfifoat(&self.fd, BELL, PRIVATE_FILE)?;
        // For writing, too, so that it does not end with each client.
        let bell = open_file(&self.fd, BELL, OFlags::RDWR | PIPE, FileType::Fifo)?;
        Ok(pipe::Receiver::from_owned_fd(bell)?)
    }

    /// The bell's other end, which reports an error when the server has gone.
    fn watch_server(&self) -> Result<pipe::Sender, DirectoryError> {
        match open_file(&self.fd, BELL, OFlags::WRONLY | PIPE, FileType::Fifo) {
            Ok(bell) => Ok(pipe::Sender::from_owned_fd(bell)?),
            // Nobody has it open for reading.
            Err(DirectoryError::System(Errno::NXIO | Errno::NOENT)) => Err(DirectoryError::Nobody),
            Err(error) => Err(error),
        }
    }

    fn ring(&self) -> io::Result<()> {
        // For reading, too: if the server has gone meanwhile, writing would raise
        // a signal.
        let bell = openat(&self.fd, BELL, OFlags::RDWR | PIPE, Mode::empty())?;
        match write(&bell, &[0]) {
            // Full of rings that nobody has heard yet.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The meetings here, in any order.
    fn meetings(&self) -> io::Result<impl Iterator<Item = io::Result<(Stage, Id)>> + use<>> {
        let entries = Entries::read_from(&self.fd)?;
        Ok(entries.filter_map(|entry| match entry {
            Ok(entry) => Stage::parse(entry.file_name().to_bytes()).map(Ok),
            Err(error) => Some(Err(error.into())),
        }))
    }

    fn rename(&self, id: Id, from: Stage, to: Stage) -> rustix::io::Result<()> {
        renameat(&self.fd, from.name(id), &self.fd, to.name(id))
    }

    /// Removes a meeting, whatever its stage, and all that it consists of.
    fn remove(&self, meeting: &OwnedFd, id: Id) {
        for name in [UP, DOWN, CLIENT, SERVER] {
            // What is not there need not be removed.
            let _ = unlinkat(meeting, name, AtFlags::empty());
        }
        let is_removed = Stage::ALL
            .iter()
            .any(|stage| unlinkat(&self.fd, stage.name(id), AtFlags::REMOVEDIR).is_ok());
        if !is_removed {
            // By the other side, as a rule.
            tracing::trace!(%id, "a meeting is gone already, or cannot be removed");
        }
    }

    /// Removes a meeting if the client that made it has gone.
    fn remove_stale(&self, stage: Stage, id: Id) -> bool {
        let Ok(meeting) = open_dir(&self.fd, Path::new(&stage.name(id))) else {
            // Gone, or out of descriptors, or not for us to touch.
            return false;
        };
        let is_ours = fstat(&meeting).is_ok_and(|found| check_owner(&found).is_ok());
        let is_stale = is_ours && flock(&meeting, FlockOperation::NonBlockingLockExclusive).is_ok();
        if is_stale {
            tracing::debug!(%id, "removing a meeting that was left behind");
            self.remove(&meeting, id);
        }
        is_stale
    }
}

/// What a meeting has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Asked,
    Met,
}

impl Stage {
    const ALL: [Self; 3] = [Self::Met, Self::Asked, Self::New];

    fn prefix(self) -> &'static str {
        match self {
            Self::New => "new-",
            Self::Asked => "ask-",
            Self::Met => "met-",
        }
    }

    fn name(self, id: Id) -> String {
        format!("{}{id}", self.prefix())
    }

    /// `None` for whatever is not a meeting.
    fn parse(name: &[u8]) -> Option<(Self, Id)> {
        let name = std::str::from_utf8(name).ok()?;
        Self::ALL.into_iter().find_map(|stage| {
            let id = name.strip_prefix(stage.prefix())?;
            let id = Id(u128::from_str_radix(id, 16).ok()?);
            // Just as it would be written: no signs, no capitals.
            (stage.name(id) == name).then_some((stage, id))
        })
    }
}

/// Tells meetings apart: random, so that no two clients choose the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(u128);

impl Id {
    fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        // Of so few bytes it gives all or none.
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        Ok(Self(u128::from_ne_bytes(bytes)))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

fn open_dir(dir: impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(dir, path, flags, Mode::empty())
}

/// Opens a file that is there and is what it should be.
fn open_file(
    dir: impl AsFd,
    name: &str,
    flags: OFlags,
    expected: FileType,
) -> Result<OwnedFd, DirectoryError> {
    let file = openat(dir, name, flags, Mode::empty())?;
    check(&fstat(&file)?, expected)?;
    Ok(file)
}

fn check(found: &Stat, expected: FileType) -> Result<(), DirectoryError> {
    let file_type = FileType::from_raw_mode(found.st_mode);
    if file_type != expected {
        return Err(DirectoryError::Type {
            found: file_type,
            expected,
        });
    }
    check_owner(found)
}

/// It is this user's, and nobody else's.
fn check_owner(found: &Stat) -> Result<(), DirectoryError> {
    let us = geteuid().as_raw();
    if found.st_uid != us {
        return Err(DirectoryError::Owner {
            uid: found.st_uid,
            us,
        });
    }
    let mode = Mode::from_raw_mode(found.st_mode);
    if mode.intersects(Mode::RWXG | Mode::RWXO) {
        return Err(DirectoryError::Mode {
            mode: found.st_mode & 0o7777,
        });
    }
    Ok(())
}

/// Why a directory will not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    #[error("it belongs to user {uid}, and this process runs as {us}")]
    Owner { uid: u32, us: u32 },
    #[error("its mode is {mode:03o}, and it has to be out of reach of other users, as with 700")]
    Mode { mode: u32 },
    #[error("there is a file of type {found:?} in it, where a {expected:?} should be")]
    Type { found: FileType, expected: FileType },
    #[error("address in use: a server lives there")]
    Taken,
    #[error("nobody listens there")]
    Nobody,
    #[error(transparent)]
    System(#[from] Errno),
    #[error(transparent)]
    Runtime(#[from] io::Error),
}

impl DirectoryError {
    /// Whether it says nothing about who made the file.
    pub(crate) fn is_of_this_side(&self) -> bool {
        !matches!(
            self,
            Self::Owner { .. } | Self::Mode { .. } | Self::Type { .. } | Self::System(Errno::NOENT)
        )
    }

    /// For who wants to connect.
    pub(crate) fn kind(&self) -> TransportErrorKind {
        match self {
            Self::Owner { .. } | Self::Mode { .. } | Self::Type { .. } | Self::Taken => {
                TransportErrorKind::Invalid
            }
            Self::Nobody | Self::System(_) | Self::Runtime(_) => TransportErrorKind::Unreachable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_meetings_are_told_from_all_others() {
        let id = Id(0xABC);
        for stage in Stage::ALL {
            let name = stage.name(id);
            assert_eq!(Stage::parse(name.as_bytes()), Some((stage, id)), "{name}");
        }
        let hex = "00000000000000000000000000000abc";
        for name in [
            "bell".to_owned(),
            "new-".to_owned(),
            "ask-abc".to_owned(),
            format!("ask-{}", hex.to_uppercase()),
            format!("ask-+{}", &hex[1..]),
            format!("ask-{hex}0"),
            format!("asked-{hex}"),
            hex.to_owned(),
        ] {
            assert_eq!(Stage::parse(name.as_bytes()), None, "{name}");
        }
        assert_eq!(Stage::parse(b"ask-\xFF"), None);
    }
}
