//! What rings and a peer's end go over: the Unix socket that both met at, or a
//! pair of pipes out of a directory.
//!
//! | | Unix socket | pipes |
//! |---|---|---|
//! | a ring | a byte | a byte |
//! | rings are read | now and then | all |
//! | not heard yet | the socket is full | the pipe is full |
//! | the peer has gone | end of the stream, and errors of sending | end of its pipe |
//! | this side goes | shutdown | its pipe is closed |
//!
//! No call here waits, and none raises a signal, whatever the peer does with its
//! descriptors: sending over the socket says so with each call, and this side's
//! pipe has this side for a reader, too, so that writing to it cannot fail for
//! want of one.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use rustix::{
    io::{Errno, read, write},
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{UnixStream, unix::pipe},
};

/// Rings that are taken in one go. More than a correct peer has outstanding.
const RINGS: usize = 64;

/// Announcements between two times that a socket is emptied. Each is answered with
/// one ring, so that few wait in it, where there is room for hundreds.
pub(crate) const ANNOUNCEMENTS: u32 = 16;

/// Both directions between two processes.
#[derive(Debug)]
pub(crate) enum Line {
    Socket(Socket),
    Pipes(Pipes),
}

/// A Unix socket. Each ring tells the runtime anew, whether or not those before it
/// were read, so they are read now and then only: a system call less for whoever is
/// woken. The runtime asks for reading only; to be told of room as well would wake
/// this side whenever the peer reads.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: AsyncFd<OwnedFd>,
    /// Since it was emptied.
    announcements: AtomicU32,
}

impl Socket {
    #[expect(unsafe_code, reason = "a descriptor is lent to the runtime")]
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        let stream = OwnedFd::from(stream.into_std()?);
        // SAFETY: it owns one descriptor, the same for as long as it lives.
        let stream = unsafe { AsyncFd::register_with_interest(stream, Interest::READABLE) };
        Ok(Self {
            stream: stream?,
            announcements: AtomicU32::new(0),
        })
    }

    /// Takes the rings that are there: whether there were some.
    fn empty(&self) -> bool {
        let mut rings = [0; RINGS];
        let mut take = || recv(&self.stream, &mut rings, RecvFlags::DONTWAIT);
        let mut were_some = false;
        while let Ok((taken @ 1.., _)) = take() {
            were_some = true;
            if taken < RINGS {
                break;
            }
        }
        were_some
    }

    fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<io::Result<Heard>> {
        let mut ready = ready!(self.stream.poll_read_ready(cx))?;
        if ready.ready().is_read_closed() {
            return Poll::Ready(Ok(Heard::End));
        }
        // A ring that the runtime has not told of yet is not forgotten by that.
        ready.clear_ready();
        Poll::Ready(Ok(Heard::Rings))
    }
}

/// A pipe for each direction.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// Opened for reading only: its end is the end of all who can write to it.
    pub(crate) from_peer: pipe::Receiver,
    /// Opened for reading, too. `None` once this side has gone.
    pub(crate) to_peer: Mutex<Option<OwnedFd>>,
}

/// What was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Rings, or none any more.
    Rings,
    /// The peer has gone.
    End,
}

impl Line {
    /// Rings the peer, who may have gone.
    pub(crate) fn ring(&self) -> Result<(), Errno> {
        loop {
            let rung = match self {
                Self::Socket(socket) => {
                    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                    send(&socket.stream, &[0], flags)
                }
                Self::Pipes(pipes) => match &*pipes.to_peer() {
                    Some(pipe) => write(pipe, &[0]),
                    None => Err(Errno::PIPE),
                },
            };
            match rung {
                Err(Errno::INTR) => {}
                // It has not heard the last rings yet.
                Err(Errno::AGAIN) | Ok(_) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// To be called before each announcement to the peer, which it answers with a
    /// ring: there is to be room for it. True if rings were taken, which the runtime
    /// then need not tell of any more.
    #[must_use = "a ring that was taken may have been for another"]
    pub(crate) fn make_room(&self) -> bool {
        let Self::Socket(socket) = self else {
            return false;
        };
        if socket.announcements.fetch_add(1, Relaxed) < ANNOUNCEMENTS {
            return false;
        }
        // Before, so that what comes meanwhile is counted.
        socket.announcements.store(0, Relaxed);
        socket.empty()
    }

    /// What there is to hear, once there is.
    ///
    /// # Errors
    ///
    /// When the runtime is shutting down, or the system fails.
    pub(crate) fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<io::Result<Heard>> {
        match self {
            Self::Socket(socket) => socket.poll_heard(cx),
            Self::Pipes(pipes) => {
                ready!(pipes.from_peer.poll_read_ready(cx))?;
                Poll::Ready(pipes.hear())
            }
        }
    }

    /// Tells the peer that this side goes.
    pub(crate) fn hang_up(&self) {
        match self {
            Self::Socket(socket) => {
                // It fails where the peer has gone already.
                let _ = shutdown(&socket.stream, Shutdown::Both);
            }
            Self::Pipes(pipes) => *pipes.to_peer() = None,
        }
    }
}

impl Pipes {
    /// Takes rings. Unlike a socket, a pipe need not tell of bytes behind others that
    /// were not read.
    fn hear(&self) -> io::Result<Heard> {
        let mut heard = Heard::Rings;
        let mut rings = [0; RINGS];
        let pipe = &self.from_peer;
        // A read that came back short has emptied it. Calling that `WouldBlock`
        // has the runtime wait for the next ring without the second read that
        // would say so.
        let taken = pipe.try_io(|| match read(pipe, &mut rings)? {
            0 => {
                heard = Heard::End;
                Ok(())
            }
            RINGS => Ok(()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        });
        match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Rings),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Heard::Rings),
            Err(error) => Err(error),
            Ok(()) => Ok(heard),
        }
    }

    fn to_peer(&self) -> std::sync::MutexGuard<'_, Option<OwnedFd>> {
        // Nothing panics under this lock.
        self.to_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
