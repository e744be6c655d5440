//! Storing what sessions give out, so that they outlive the process.
//!
//! One commit at a time, on a thread that may block; what happens meanwhile goes
//! into the next, so a slow disk makes batches long and not many.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::resume::{Batch, ResumeStore, StoreError};

type Work = JoinHandle<Result<(), StoreError>>;

/// A session's way to its store.
pub(super) struct Saving {
    store: Arc<dyn ResumeStore>,
    /// The name that its rows have, once there are any.
    token: Option<Bytes>,
    committing: Option<(u64, Work)>,
    removing: Option<Work>,
    /// The session ends here and not in the store.
    keep: bool,
}

/// What came of a commit.
pub(super) enum Saved {
    /// The batch of that number is stored.
    Yes(u64),
    /// It may be or not.
    No(StoreError),
    /// The runtime shuts down.
    Abandoned,
}

impl Saving {
    pub(super) fn new(store: Arc<dyn ResumeStore>) -> Self {
        Self {
            store,
            token: None,
            committing: None,
            removing: None,
            keep: false,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.committing.is_some()
    }

    /// The rows stay when the session ends.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }

    pub(super) fn commit(&mut self, token: &Bytes, seq: u64, batch: Batch) {
        let store = Arc::clone(&self.store);
        let token = self.token.insert(token.clone()).clone();
        let work = tokio::task::spawn_blocking(move || store.commit(&token, &batch));
        self.committing = Some((seq, work));
    }

    /// Waits for the commit that is under way; pending if there is none.
    pub(super) fn poll_committed(&mut self, cx: &mut Context<'_>) -> Poll<Saved> {
        let Some((seq, work)) = &mut self.committing else {
            return Poll::Pending;
        };
        let seq = *seq;
        let done = ready!(Pin::new(work).poll(cx));
        self.committing = None;
        Poll::Ready(match done {
            Ok(Ok(())) => Saved::Yes(seq),
            Ok(Err(error)) => {
                self.keep = true;
                Saved::No(error)
            }
            Err(error) => {
                self.keep = true;
                match error.try_into_panic() {
                    // As if it had happened here.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Saved::Abandoned,
                }
            }
        })
    }

    /// The session is over: removes it, unless it is to be kept. False if it
    /// lies in the store still.
    pub(super) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if let Some((_, work)) = &mut self.committing {
            let _ = ready!(Pin::new(work).poll(cx));
            self.committing = None;
        }
        let Some(token) = self.token.clone() else {
            return Poll::Ready(true);
        };
        if self.keep {
            return Poll::Ready(false);
        }
        let removing = self.removing.get_or_insert_with(|| {
            let store = Arc::clone(&self.store);
            tokio::task::spawn_blocking(move || store.remove(&token))
        });
        if let Ok(Err(error)) = ready!(Pin::new(removing).poll(cx)) {
            tracing::warn!(%error, "a session that is over stays in its store");
        }
        self.token = None;
        Poll::Ready(true)
    }

    /// A session of that name lies in the store.
    pub(super) fn is_stored_as(&mut self, token: Bytes) {
        self.token = Some(token);
    }
}
