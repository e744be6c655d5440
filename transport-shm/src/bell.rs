//! The bell between two processes, over the [`Line`] that their rendezvous left.
//!
//! A ring is one byte, which says no more than "look again": there are frames,
//! there is room, or a half was closed. Who sleeps says so in its own memory
//! first, and the peer rings once for it, so bytes are few; where they pile up
//! all the same the line is full, and a peer that sleeps has been rung.
//!
//! The line's end is the peer's end: the kernel closes it whatever a process
//! dies of.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use crate::line::{Heard, Line};

/// Which half of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Tx,
    Rx,
}

/// This side's end of the bell, shared by the halves of a link.
#[derive(Debug)]
pub(crate) struct Bell {
    line: Line,
    sleepers: Arc<Sleepers>,
    /// Wakes both sleepers: a line has one waker for reading, and a ring may
    /// be for either.
    both: Waker,
    gone: AtomicBool,
}

impl Bell {
    pub(crate) fn new(line: Line) -> Self {
        let sleepers = Arc::new(Sleepers::default());
        Self {
            line,
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
        if self.line.ring().is_err() {
            self.has_gone();
        }
    }

    /// Leaves word whom to wake. To be called before this half announces to the
    /// peer that it sleeps, and before [`listen`](Self::listen).
    pub(crate) fn leave_word(&self, half: Half, waker: &Waker) {
        self.sleepers.set(half, waker);
        if self.line.make_room() {
            self.sleepers.rouse(half.other());
        }
    }

    /// `Pending`: nobody has rung, and both halves that left word will be woken
    /// when somebody does or the peer goes. `Ready`: look again.
    pub(crate) fn listen(&self, half: Half) -> Poll<()> {
        if self.is_gone() {
            return Poll::Ready(());
        }
        match self.line.poll_heard(&mut Context::from_waker(&self.both)) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Heard::Rings)) => {}
            // Or the runtime is shutting down.
            Poll::Ready(Ok(Heard::End) | Err(_)) => self.has_gone(),
        }
        // The ring may have been for the other.
        self.sleepers.rouse(half.other());
        Poll::Ready(())
    }

    fn has_gone(&self) {
        self.gone.store(true, Ordering::Relaxed);
        self.sleepers.rouse(Half::Tx);
        self.sleepers.rouse(Half::Rx);
    }

    /// Tells the peer that this side goes, and each half of this side, too.
    pub(crate) fn hang_up(&self) {
        self.line.hang_up();
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

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::atomic::AtomicUsize, time::Duration};

    use tokio::{net::UnixStream, time::timeout};

    use super::*;
    use crate::line::{ANNOUNCEMENTS, Socket};

    fn pair() -> [Bell; 2] {
        let (a, b) = UnixStream::pair().unwrap();
        [a, b].map(|stream| Bell::new(Line::Socket(Socket::new(stream).unwrap())))
    }

    /// Announces, and waits for what `theirs` does then.
    async fn hears(bell: &Bell, half: Half, theirs: impl FnOnce()) {
        let mut theirs = Some(theirs);
        let heard = poll_fn(|cx| {
            if let Some(theirs) = theirs.take() {
                bell.leave_word(half, cx.waker());
                theirs();
            }
            bell.listen(half)
        });
        let heard = timeout(Duration::from_secs(10), heard).await;
        heard.expect("a ring that nobody heard");
    }

    #[tokio::test]
    async fn each_ring_wakes_who_sleeps_however_many_came_before() {
        let [mine, theirs] = pair();
        for _ in 0..2000 {
            hears(&mine, Half::Rx, || theirs.ring()).await;
        }
        assert!(!mine.is_gone());
        hears(&mine, Half::Rx, || drop(theirs)).await;
        assert!(mine.is_gone(), "behind all rings is the end");
    }

    #[tokio::test]
    async fn rings_without_number_of_a_peer_who_means_harm_stop_nobody() {
        let [mine, theirs] = pair();
        for _ in 0..10_000 {
            theirs.ring();
        }
        assert!(!theirs.is_gone(), "a full line is no end");
        hears(&mine, Half::Tx, || theirs.ring()).await;
        assert!(!mine.is_gone());
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_ring_that_one_half_takes_off_the_line_wakes_the_other() {
        let [mine, theirs] = pair();
        let woken = Arc::new(Woken::default());
        mine.leave_word(Half::Tx, &Waker::from(Arc::clone(&woken)));
        // It arrives while this task runs, so that the runtime does not tell of it.
        theirs.ring();
        for _ in 0..ANNOUNCEMENTS {
            mine.leave_word(Half::Rx, Waker::noop());
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }
}
