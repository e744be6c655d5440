//! The bell between two processes: the Unix socket that they met at.
//!
//! A ring is one byte, which says no more than "look again": there are frames,
//! there is room, or a half was closed. Who sleeps says so in its own memory
//! first, and the peer rings once for it, so bytes are few; where they pile up
//! all the same the socket is full, and a peer that sleeps has been rung.
//!
//! The socket's end is the peer's end: the kernel closes it whatever a process
//! dies of. Nothing that the peer does to its descriptor has an effect on ours:
//! each call here says itself that it must not wait.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::{io::Interest, net::UnixStream};

/// Rings that are taken in one go. More than a correct peer has outstanding.
const RINGS: usize = 64;

/// Which half of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Tx,
    Rx,
}

/// This side's end of the bell, shared by the halves of a link.
#[derive(Debug)]
pub(crate) struct Bell {
    stream: UnixStream,
    sleepers: Arc<Sleepers>,
    /// Wakes both sleepers: a socket has one waker for reading, and a ring may
    /// be for either.
    both: Waker,
    gone: AtomicBool,
}

impl Bell {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let sleepers = Arc::new(Sleepers::default());
        Self {
            stream,
            both: Waker::from(Arc::clone(&sleepers)),
            sleepers,
            gone: AtomicBool::new(false),
        }
    }

    /// Whether the peer is known to have gone.
    pub(crate) fn is_gone(&self) -> bool {
        // Whatever the peer wrote before it went is ordered by the system call
        // that told us.
        self.gone.load(Ordering::Relaxed)
    }

    /// Rings the peer.
    pub(crate) fn ring(&self) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match send(&self.stream, &[0], flags) {
                Err(rustix::io::Errno::INTR) => {}
                // It has not heard the last rings yet.
                Err(rustix::io::Errno::AGAIN) | Ok(_) => return,
                Err(_) => return self.has_gone(),
            }
        }
    }

    /// Leaves word whom to wake. To be called before this half announces to the
    /// peer that it sleeps, and before [`listen`](Self::listen).
    pub(crate) fn leave_word(&self, half: Half, waker: &Waker) {
        self.sleepers.set(half, waker);
    }

    /// `Pending`: nobody has rung, and both halves that left word will be woken
    /// when somebody does or the peer goes. `Ready`: look again.
    pub(crate) fn listen(&self, half: Half) -> Poll<()> {
        if self.is_gone() {
            return Poll::Ready(());
        }
        match self
            .stream
            .poll_read_ready(&mut Context::from_waker(&self.both))
        {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => {}
            // The runtime is shutting down.
            Poll::Ready(Err(_)) => {
                self.has_gone();
                return Poll::Ready(());
            }
        }
        self.hear();
        // The ring may have been for the other.
        self.sleepers.rouse(half.other());
        Poll::Ready(())
    }

    /// Takes rings off the socket.
    fn hear(&self) {
        let mut ended = false;
        // A read that came back short has emptied the socket. Calling that
        // `WouldBlock` has the runtime wait for the next ring without the
        // second read that would say so.
        let heard = self.stream.try_io(Interest::READABLE, || {
            let mut rings = [0; RINGS];
            match recv(&self.stream, &mut rings, RecvFlags::DONTWAIT)?.0 {
                0 => {
                    ended = true;
                    Ok(())
                }
                RINGS => Ok(()),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        match heard {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.has_gone(),
            Ok(()) if ended => self.has_gone(),
            Ok(()) => {}
        }
    }

    fn has_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.sleepers.rouse(Half::Tx);
        self.sleepers.rouse(Half::Rx);
    }

    /// Tells the peer that this side goes, and each half of this side, too.
    pub(crate) fn hang_up(&self) {
        // It fails where the peer has gone already.
        let _ = shutdown(&self.stream, Shutdown::Both);
        self.has_gone();
    }

    /// A half that is dropped is not woken any more.
    pub(crate) fn forget(&self, half: Half) {
        self.sleepers.take(half);
    }
}

impl Half {
    fn other(self) -> Self {
        match self {
            Self::Tx => Self::Rx,
            Self::Rx => Self::Tx,
        }
    }
}

/// Whom a ring is for.
#[derive(Debug, Default)]
struct Sleepers {
    tx: Mutex<Option<Waker>>,
    rx: Mutex<Option<Waker>>,
}

impl Sleepers {
    fn slot(&self, half: Half) -> &Mutex<Option<Waker>> {
        match half {
            Half::Tx => &self.tx,
            Half::Rx => &self.rx,
        }
    }

    fn set(&self, half: Half, waker: &Waker) {
        let mut slot = lock(self.slot(half));
        let stale = match &mut *slot {
            Some(kept) if kept.will_wake(waker) => None,
            slot => slot.replace(waker.clone()),
        };
        drop(slot);
        // Unlocked, since it may drop a task and with it this half.
        drop(stale);
    }

    fn take(&self, half: Half) -> Option<Waker> {
        lock(self.slot(half)).take()
    }

    fn rouse(&self, half: Half) {
        if let Some(waker) = self.take(half) {
            waker.wake();
        }
    }
}

impl Wake for Sleepers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rouse(Half::Rx);
        self.rouse(Half::Tx);
    }
}

/// Nothing panics under these locks but the clone of a waker.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
