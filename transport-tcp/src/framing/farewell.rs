//! What is left to do when both halves of a socket are gone.
//!
//! A socket that is closed with unread bytes, or that receives some afterwards,
//! is reset, and a reset takes away from the peer what it has not read: the last
//! frames before a close, for a keepalive that nobody here wanted any more. So
//! after a close in good order, somebody has to read on until the peer closes too.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{io::AsyncRead, runtime::Handle, time::timeout};

/// How long the peer has to read what was sent and to close: a few round trips
/// anywhere. Longer, and a peer that never closes would keep sockets open here
/// that nobody uses.
const PATIENCE: Duration = Duration::from_secs(2);

/// Shared by the halves; acts when the second of them drops it.
#[derive(Default)]
pub(super) struct Farewell {
    /// Relaxed in all uses: the count of the `Arc` orders it before the end.
    is_closed: AtomicBool,
    unread: Mutex<Option<Box<dyn AsyncRead + Send + Unpin>>>,
}

impl Farewell {
    /// This side has closed in good order.
    pub(super) fn closed(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }

    /// The receiving half is gone, and the peer had not closed.
    pub(super) fn leave_unread(&self, read: impl AsyncRead + Send + Unpin + 'static) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        *unread = Some(Box::new(read));
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let unread = self
            .unread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        // Without a runtime there is nobody who could wait.
        if *self.is_closed.get_mut()
            && let Some(mut read) = unread.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                let mut nowhere = tokio::io::sink();
                let read_on = tokio::io::copy(&mut read, &mut nowhere);
                // Whatever ends it, the socket may go then.
                let _ = timeout(PATIENCE, read_on).await;
            });
        }
    }
}
