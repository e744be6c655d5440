//! One meeting, from either side.

use std::{
    future::poll_fn,
    io,
    os::fd::OwnedFd,
    path::Path,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Poll, ready},
};

use rsocket_core::transport::PeerProcess;
use rustix::{
    fs::{AtFlags, FileType, FlockOperation, OFlags, flock, fstat, mkdirat, mkfifoat, unlinkat},
    io::{Errno, read, write},
};
use tokio::{io::Interest, net::unix::pipe};

use super::{
    super::{Medium, RendezvousError, message::MESSAGE_LEN},
    CLIENT, DOWN, Dir, DirectoryError, Id, PIPE, PRIVATE_DIR, PRIVATE_FILE, SCHEME, SERVER, Stage,
    UP, check_owner, open_dir, open_file,
};
use crate::{
    layout::Geometry,
    line::{Line, Pipes},
    mem::MappedPeer,
    region::{OwnRegion, map_file},
};

/// Times that a client begins: a server that looks for what was left behind may
/// take it for that, in the moment before it is locked.
const ATTEMPTS: usize = 5;

/// What a client sends when it has the server's region.
const SETTLED: u8 = 1;

/// The directory of a meeting. Dropping it removes all that there is of it.
#[derive(Debug)]
struct Place {
    dir: Arc<Dir>,
    /// Locked, if this is the client's.
    fd: OwnedFd,
    id: Id,
}

impl Place {
    fn new(dir: &Arc<Dir>) -> Result<Self, DirectoryError> {
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            match Self::try_new(dir) {
                Err(DirectoryError::System(Errno::NOENT | Errno::WOULDBLOCK)) if left > 0 => {}
                result => return result,
            }
        }
    }

    fn try_new(dir: &Arc<Dir>) -> Result<Self, DirectoryError> {
        let id = Id::random()?;
        let name = Stage::New.name(id);
        mkdirat(&dir.fd, &name, PRIVATE_DIR)?;
        let fd = open_dir(&dir.fd, Path::new(&name)).inspect_err(|_| {
            let _ = unlinkat(&dir.fd, &name, AtFlags::REMOVEDIR);
        })?;
        let place = Self {
            fd,
            dir: Arc::clone(dir),
            id,
        };
        flock(&place.fd, FlockOperation::NonBlockingLockExclusive)?;
        for name in [UP, DOWN] {
            mkfifoat(&place.fd, name, PRIVATE_FILE)?;
        }
        Ok(place)
    }

    fn pipe(&self, name: &str, access: OFlags) -> Result<OwnedFd, DirectoryError> {
        open_file(&self.fd, name, access | PIPE, FileType::Fifo)
    }

    /// The pipe from the peer, which ends with it.
    fn incoming(&self, name: &str) -> Result<pipe::Receiver, DirectoryError> {
        let pipe = self.pipe(name, OFlags::RDONLY)?;
        Ok(pipe::Receiver::from_owned_fd(pipe)?)
    }

    /// The pipe to the peer. For reading, too: see [`Line`].
    fn outgoing(&self, name: &str) -> Result<OwnedFd, DirectoryError> {
        self.pipe(name, OFlags::RDWR)
    }

    fn peer_process(&self) -> io::Result<PeerProcess> {
        // Its owner was checked, and the client of that user made it.
        let found = fstat(&self.fd)?;
        Ok(PeerProcess::new(found.st_uid, found.st_gid, None))
    }

    fn map_region(&self, name: &str, len: usize) -> Result<MappedPeer, RendezvousError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = open_file(&self.fd, name, flags, FileType::RegularFile)
            .map_err(RendezvousError::File)?;
        Ok(map_file(file, len)?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.dir.remove(&self.fd, self.id);
    }
}

/// The client's side.
#[derive(Debug)]
pub(crate) struct Asking {
    place: Place,
    down: pipe::Receiver,
    up: OwnedFd,
    server: pipe::Sender,
    has_asked: bool,
}

impl Asking {
    /// Prepares a meeting in the directory at `path`.
    pub(crate) fn prepare(path: &Path) -> Result<Self, DirectoryError> {
        let dir = Arc::new(Dir::open(path)?);
        // Before anything is made, so that nothing is where nobody listens.
        let server = dir.watch_server()?;
        let place = Place::new(&dir)?;
        Ok(Self {
            down: place.incoming(DOWN)?,
            up: place.outgoing(UP)?,
            place,
            server,
            has_asked: false,
        })
    }
}

impl Medium for Asking {
    const SCHEME: &'static str = SCHEME;

    fn peer_process(&self) -> io::Result<PeerProcess> {
        self.place.peer_process()
    }

    fn make_region(&mut self, geometry: &Geometry) -> io::Result<OwnRegion> {
        OwnRegion::file(&self.place.fd, CLIENT, geometry)
    }

    async fn send(
        &mut self,
        message: &[u8; MESSAGE_LEN],
        _region: Option<&OwnRegion>,
    ) -> io::Result<()> {
        // The region is where the server looks for it.
        send(&self.up, message)?;
        let Place { dir, id, .. } = &self.place;
        dir.rename(*id, Stage::New, Stage::Asked)?;
        self.has_asked = true;
        dir.ring()
    }

    async fn recv(&mut self) -> io::Result<[u8; MESSAGE_LEN]> {
        if !self.has_asked {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let mut message = [0; MESSAGE_LEN];
        {
            let mut answered = pin!(recv(&self.down, &mut message));
            // What says that the server lives before it has opened our pipe.
            let mut gone = pin!(self.server.ready(Interest::ERROR));
            poll_fn(|cx| {
                if let Poll::Ready(answered) = answered.as_mut().poll(cx) {
                    return Poll::Ready(answered);
                }
                let error = match ready!(gone.as_mut().poll(cx)) {
                    Ok(_) => io::Error::new(io::ErrorKind::ConnectionReset, "the server is gone"),
                    Err(error) => error,
                };
                Poll::Ready(Err(error))
            })
            .await?;
        }
        Ok(message)
    }

    fn map_region(&mut self, len: usize) -> Result<MappedPeer, RendezvousError> {
        self.place.map_region(SERVER, len)
    }

    async fn settle(&mut self) -> io::Result<()> {
        send(&self.up, &[SETTLED])
    }

    fn into_line(self) -> io::Result<Line> {
        Ok(line(self.down, self.up))
    }

    fn error(error: io::Error) -> RendezvousError {
        RendezvousError::Directory(error)
    }
}

/// The server's side.
#[derive(Debug)]
pub(crate) struct Answering {
    place: Place,
    up: pipe::Receiver,
    down: OwnedFd,
    /// Whoever waits for an answer knows by it that there is a server, even if
    /// that does not listen any more.
    _bell: Arc<pipe::Receiver>,
}

/// A meeting that somebody asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    place: Place,
    bell: Arc<pipe::Receiver>,
}

impl Asked {
    /// Takes it on, so that it is not found again.
    pub(super) fn claim(
        dir: &Arc<Dir>,
        id: Id,
        bell: &Arc<pipe::Receiver>,
    ) -> rustix::io::Result<Self> {
        // What has no descriptor cannot be taken on, and stays to be found.
        let fd = open_dir(&dir.fd, Path::new(&Stage::Asked.name(id)))?;
        dir.rename(id, Stage::Asked, Stage::Met)?;
        Ok(Self {
            place: Place {
                dir: Arc::clone(dir),
                fd,
                id,
            },
            bell: Arc::clone(bell),
        })
    }

    /// Opens what the client has prepared.
    pub(crate) fn open(self) -> Result<Answering, RendezvousError> {
        let Self { place, bell } = self;
        let opened = fstat(&place.fd)
            .map_err(DirectoryError::from)
            .and_then(|found| check_owner(&found))
            .and_then(|()| Ok((place.incoming(UP)?, place.outgoing(DOWN)?)));
        let (up, down) = opened.map_err(RendezvousError::File)?;
        Ok(Answering {
            place,
            up,
            down,
            _bell: bell,
        })
    }
}

impl Medium for Answering {
    const SCHEME: &'static str = SCHEME;

    fn peer_process(&self) -> io::Result<PeerProcess> {
        self.place.peer_process()
    }

    fn make_region(&mut self, geometry: &Geometry) -> io::Result<OwnRegion> {
        OwnRegion::file(&self.place.fd, SERVER, geometry)
    }

    async fn send(
        &mut self,
        message: &[u8; MESSAGE_LEN],
        _region: Option<&OwnRegion>,
    ) -> io::Result<()> {
        send(&self.down, message)
    }

    async fn recv(&mut self) -> io::Result<[u8; MESSAGE_LEN]> {
        let mut message = [0; MESSAGE_LEN];
        // Not by way of the runtime at first, which does not hear of the end of
        // a pipe if that was before we opened it. The client writes before it
        // asks, so there is a message or there is no client.
        match read(&self.up, &mut message) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(taken) => {
                let rest = message.get_mut(taken..).unwrap_or_default();
                recv(&self.up, rest).await?;
            }
            Err(Errno::AGAIN) => recv(&self.up, &mut message).await?,
            Err(error) => return Err(error.into()),
        }
        Ok(message)
    }

    fn map_region(&mut self, len: usize) -> Result<MappedPeer, RendezvousError> {
        self.place.map_region(CLIENT, len)
    }

    /// The client looks for this side's region by its name.
    async fn settle(&mut self) -> io::Result<()> {
        let mut settled = [0];
        recv(&self.up, &mut settled).await?;
        if settled == [SETTLED] {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    fn into_line(self) -> io::Result<Line> {
        Ok(line(self.up, self.down))
    }

    fn error(error: io::Error) -> RendezvousError {
        RendezvousError::Directory(error)
    }
}

fn line(from_peer: pipe::Receiver, to_peer: OwnedFd) -> Line {
    Line::Pipes(Pipes {
        from_peer,
        to_peer: Mutex::new(Some(to_peer)),
    })
}

/// Any pipe has room for the few bytes of a meeting.
fn send(pipe: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    if write(pipe, bytes)? == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Fills `bytes`, and takes none that follow.
async fn recv(pipe: &pipe::Receiver, bytes: &mut [u8]) -> io::Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        pipe.readable().await?;
        match pipe.try_io(|| Ok(read(pipe, &mut *rest)?)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(taken) => rest = rest.get_mut(taken..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
