//! What rings and a peer's end go over: the Unix socket that both met at, or a
//! pair of pipes out of a directory.
//!
//! | | Unix socket | pipes |
//! |---|---|---|
//! | a ring | a byte | a byte |
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
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use rustix::{
    io::{Errno, read, write},
    net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown},
};
use tokio::{
    io::Interest,
    net::{UnixStream, unix::pipe},
};

/// Rings that are taken in one go. More than a correct peer has outstanding.
const RINGS: usize = 64;

/// Both directions between two processes.
#[derive(Debug)]
pub(crate) enum Line {
    Socket(UnixStream),
    Pipes(Pipes),
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
                Self::Socket(stream) => {
                    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                    send(stream, &[0], flags)
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

    /// Whether there is something to hear.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(stream) => stream.poll_read_ready(cx),
            Self::Pipes(pipes) => pipes.from_peer.poll_read_ready(cx),
        }
    }

    /// Takes rings off it.
    pub(crate) fn hear(&self) -> io::Result<Heard> {
        let mut heard = Heard::Rings;
        let mut rings = [0; RINGS];
        // A read that came back short has emptied it. Calling that `WouldBlock`
        // has the runtime wait for the next ring without the second read that
        // would say so.
        let mut judge = |taken| match taken {
            0 => {
                heard = Heard::End;
                Ok(())
            }
            RINGS => Ok(()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        };
        let taken = match self {
            Self::Socket(stream) => stream.try_io(Interest::READABLE, || {
                judge(recv(stream, &mut rings, RecvFlags::DONTWAIT)?.0)
            }),
            Self::Pipes(pipes) => {
                let pipe = &pipes.from_peer;
                pipe.try_io(|| judge(read(pipe, &mut rings)?))
            }
        };
        match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Heard::Rings),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Heard::Rings),
            Err(error) => Err(error),
            Ok(()) => Ok(heard),
        }
    }

    /// Tells the peer that this side goes.
    pub(crate) fn hang_up(&self) {
        match self {
            Self::Socket(stream) => {
                // It fails where the peer has gone already.
                let _ = shutdown(stream, Shutdown::Both);
            }
            Self::Pipes(pipes) => *pipes.to_peer() = None,
        }
    }
}

impl Pipes {
    fn to_peer(&self) -> std::sync::MutexGuard<'_, Option<OwnedFd>> {
        // Nothing panics under this lock.
        self.to_peer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
