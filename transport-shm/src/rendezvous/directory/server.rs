//! The one who lives in a directory.

use std::{
    collections::VecDeque,
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rsocket_core::transport::TransportError;
use rsocket_transport_tcp::socket::{BACKLOG, Pause};
use rustix::{
    fs::{AtFlags, FlockOperation, flock, unlinkat},
    io::{Errno, read},
};
use tokio::net::unix::pipe;

use super::{BELL, Dir, DirectoryError, Id, PRIVATE_DIR, Stage, meeting::Asked};

/// Times that a server looks at where it wants to live: another that moves out
/// may take the directory with it.
const ATTEMPTS: usize = 5;

/// Who asked and is noted at a time: as many as wait at a socket. Others stay in
/// the directory, which is their own memory, until there is a place.
const MOST_ASKED: usize = if cfg!(test) { 8 } else { BACKLOG as usize };

/// Lives in a directory: has the lock on it, and hears its bell.
///
/// Dropping it removes the bell and what clients that died have left, and the
/// directory, if it made that and it is empty.
#[derive(Debug)]
pub(crate) struct Server {
    dir: Arc<Dir>,
    path: PathBuf,
    has_made_dir: bool,
    bell: Arc<pipe::Receiver>,
    /// Who has asked, as of the last look.
    asked: VecDeque<Id>,
    /// There may be more of them.
    is_partial: bool,
    pause: Pause,
}

impl Server {
    /// Moves into the directory at `path`, which is made if it is not there.
    pub(crate) fn bind(path: &Path) -> Result<Self, DirectoryError> {
        for _ in 0..ATTEMPTS {
            let made = fs::DirBuilder::new().mode(PRIVATE_DIR.bits()).create(path);
            let has_made_dir = match made {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(error) => return Err(error.into()),
            };
            let dir = match Dir::open(path) {
                Err(DirectoryError::System(Errno::NOENT)) => continue,
                result => result?,
            };
            match flock(&dir.fd, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => return Err(DirectoryError::Taken),
                result => result?,
            }
            // Who had the lock may have removed it before giving it up.
            if !dir.is_at(path) {
                continue;
            }
            let mut server = Self {
                bell: Arc::new(dir.make_bell()?),
                dir: Arc::new(dir),
                path: path.to_owned(),
                has_made_dir,
                asked: VecDeque::new(),
                is_partial: false,
                pause: Pause::default(),
            };
            server.look()?;
            return Ok(server);
        }
        Err(DirectoryError::Taken)
    }

    /// The next meeting that somebody asks for. Cancel-safe.
    pub(crate) async fn accept(&mut self) -> Result<Asked, TransportError> {
        loop {
            self.pause.over().await;
            match self.try_accept() {
                Ok(Some(asked)) => return Ok(asked),
                Ok(None) => {}
                Err(error) => {
                    self.pause.judge(error, &self.path.display())?;
                    continue;
                }
            }
            let heard = match self.bell.readable().await {
                Ok(()) => self.hear().and_then(|()| self.look()),
                // The runtime is shutting down.
                Err(_) => Err(io::ErrorKind::InvalidInput.into()),
            };
            if let Err(error) = heard {
                // So that the next call looks again, whoever rings.
                self.is_partial = true;
                self.pause.judge(error, &self.path.display())?;
            }
        }
    }

    fn try_accept(&mut self) -> io::Result<Option<Asked>> {
        loop {
            while let Some(id) = self.asked.front().copied() {
                let claimed = Asked::claim(&self.dir, id, &self.bell);
                if let Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) = claimed {
                    return Err(error.into());
                }
                self.asked.pop_front();
                match claimed {
                    Ok(asked) => return Ok(Some(asked)),
                    // As a rule, its client has given up.
                    Err(error) => tracing::debug!(%id, %error, "a meeting cannot be opened"),
                }
            }
            if !self.is_partial {
                return Ok(None);
            }
            self.look()?;
        }
    }

    /// Takes all rings off the bell.
    fn hear(&self) -> io::Result<()> {
        let mut rings = [0; 4096];
        let heard = self.bell.try_io(|| {
            // As much as a pipe holds; if more comes meanwhile, it is still ready.
            for _ in 0..16 {
                read(&self.bell, &mut rings)?;
            }
            Ok(())
        });
        match heard {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            heard => heard,
        }
    }

    /// Notes who has asked, and removes what was left behind by who died.
    fn look(&mut self) -> io::Result<()> {
        self.is_partial = false;
        for meeting in self.dir.meetings()? {
            let (stage, id) = meeting?;
            if self.dir.remove_stale(stage, id) || stage != Stage::Asked {
                continue;
            }
            if self.asked.len() >= MOST_ASKED {
                self.is_partial = true;
                break;
            }
            self.asked.push_back(id);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // As far as it goes: what stays is found to be stale later.
        let _ = unlinkat(&self.dir.fd, BELL, AtFlags::empty());
        for (stage, id) in self.dir.meetings().into_iter().flatten().flatten() {
            self.dir.remove_stale(stage, id);
        }
        if self.has_made_dir && self.dir.is_at(&self.path) {
            let _ = fs::remove_dir(&self.path);
        }
        // Not by closing it: meetings that go on have it open.
        let _ = flock(&self.dir.fd, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::mkdirat;

    use super::{super::open_dir, *};

    #[tokio::test]
    async fn who_asks_is_served_though_not_all_are_noted_at_once() {
        let path = format!("rsocket-shm-asked-{}", std::process::id());
        let path = std::env::temp_dir().join(path);
        let mut server = Server::bind(&path).unwrap();
        let locked: Vec<_> = (0..3 * MOST_ASKED)
            .map(|_| {
                let name = Stage::Asked.name(Id::random().unwrap());
                mkdirat(&server.dir.fd, &name, PRIVATE_DIR).unwrap();
                let meeting = open_dir(&server.dir.fd, Path::new(&name)).unwrap();
                flock(&meeting, FlockOperation::NonBlockingLockExclusive).unwrap();
                meeting
            })
            .collect();
        server.look().unwrap();
        let mut asked = Vec::new();
        loop {
            assert!(server.asked.len() <= MOST_ASKED);
            match server.try_accept().unwrap() {
                Some(one) => asked.push(one),
                None => break,
            }
        }
        assert_eq!(asked.len(), locked.len());
        drop(asked);
        drop(server);
        assert!(!path.exists());
    }
}
