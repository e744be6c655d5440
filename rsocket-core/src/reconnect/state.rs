//! Where a reconnecting client stands, and who waits for it.
//!
//! [`Core`] is what handles, requests and the supervisor share. Whether there is
//! a connection is said in one place, a watch channel; nobody else keeps a copy.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

use crate::{
    Requester,
    error::{CloseReason, Error},
};

/// Where a reconnecting client stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionState {
    /// An attempt is being made.
    Connecting {
        /// Which in a row, from 1.
        attempt: u32,
    },
    /// Requests go out at once. RSocket servers do not confirm that they accept
    /// a client, so a refusal shows a moment later.
    Connected {
        /// Which session of this client, from 1. A number higher than the one
        /// seen before means that the session before was lost, even if nothing
        /// was seen in between.
        session: u64,
    },
    /// There is no connection, and none is being made.
    Disconnected {
        /// What ended the last connection or attempt; `None` before the first.
        reason: Option<CloseReason>,
        /// How long until the next attempt, seen from when this state began;
        /// `None` if it is made when a request needs it, or soon.
        retry_in: Option<Duration>,
    },
    /// No more attempts are made, unless
    /// [`reconnect_now`](super::Reconnecting::reconnect_now) is called.
    GaveUp {
        /// What requests fail with: [`Error::Closed`] with the last reason, or
        /// what is wrong with SETUP.
        error: Error,
        /// Attempts made in a row.
        attempts: u32,
    },
    /// It was closed, or its last handle was dropped. Final.
    Closed,
}

impl ConnectionState {
    /// Whether requests go out at once.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// States as they change: see [`Reconnecting::states`](super::Reconnecting::states).
///
/// Keeps nothing alive, neither connection nor attempts.
#[derive(Debug)]
pub struct ConnectionStates {
    now: watch::Receiver<Now>,
    is_over: bool,
}

impl ConnectionStates {
    /// The state at present when first called, then waits for another. Whoever
    /// calls seldom misses states but never the latest. `None` after
    /// [`ConnectionState::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: no state is lost.
    pub async fn next(&mut self) -> Option<ConnectionState> {
        if self.is_over || self.now.changed().await.is_err() {
            return None;
        }
        let state = self.now.borrow_and_update().state.clone();
        self.is_over = matches!(state, ConnectionState::Closed);
        Some(state)
    }
}

/// What handles, requests and the supervisor share.
#[derive(Debug)]
pub(super) struct Core {
    now: watch::Sender<Now>,
    handles: AtomicUsize,
    waiting: AtomicUsize,
    max_waiting: usize,
    /// A request that did not wait would have liked a connection.
    wished: AtomicBool,
    /// Somebody waits, or wished.
    demand: Notify,
    /// The application wants an attempt at once.
    pub(super) asked: Notify,
}

#[derive(Debug)]
struct Now {
    state: ConnectionState,
    phase: Phase,
}

/// What a request has to know.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    Up { session: u64, requester: Requester },
    Down(Option<CloseReason>),
    Over(Error),
}

impl Core {
    pub(super) fn new(max_waiting: usize) -> Arc<Self> {
        Arc::new(Self {
            now: watch::Sender::new(Now {
                state: ConnectionState::Disconnected {
                    reason: None,
                    retry_in: None,
                },
                phase: Phase::Down(None),
            }),
            handles: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            max_waiting,
            wished: AtomicBool::new(false),
            demand: Notify::new(),
            asked: Notify::new(),
        })
    }

    pub(super) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Without handles nobody can ask for anything more.
    pub(super) fn drop_handle(&self) {
        // AcqRel: what other handles did comes before the end.
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stop();
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.now.borrow().phase.clone()
    }

    pub(super) fn state(&self) -> ConnectionState {
        self.now.borrow().state.clone()
    }

    pub(super) fn states(&self) -> ConnectionStates {
        let mut now = self.now.subscribe();
        now.mark_changed();
        ConnectionStates {
            now,
            is_over: false,
        }
    }

    /// Goes to another state, if `may` allows it; never from
    /// [`ConnectionState::Closed`]. Returns what was before.
    fn set(
        &self,
        state: ConnectionState,
        phase: Phase,
        may: impl FnOnce(&Phase) -> bool,
    ) -> Option<Phase> {
        let mut next = Some(Now { state, phase });
        let mut before = None;
        self.now.send_if_modified(|now| {
            if !matches!(now.state, ConnectionState::Closed) && may(&now.phase) {
                before = next.take().map(|next| std::mem::replace(now, next));
            }
            before.is_some()
        });
        if let Some(before) = &before {
            tracing::debug!(before = ?before.state, "connection state changed");
        }
        // Whatever is dropped, connections among it, is dropped without the lock.
        before.map(|before| before.phase)
    }

    pub(super) fn set_connecting(&self, attempt: u32, last: Option<CloseReason>) {
        // Wishes from here on are for the attempt after this one.
        self.wished.store(false, Ordering::Relaxed);
        let state = ConnectionState::Connecting { attempt };
        self.set(state, Phase::Down(last), |_| true);
    }

    pub(super) fn set_up(&self, session: u64, requester: Requester) {
        let phase = Phase::Up { session, requester };
        self.set(ConnectionState::Connected { session }, phase, |_| true);
    }

    pub(super) fn set_down(&self, reason: CloseReason, retry_in: Option<Duration>) {
        let reason = Some(reason);
        let state = ConnectionState::Disconnected {
            reason: reason.clone(),
            retry_in,
        };
        self.set(state, Phase::Down(reason), |_| true);
    }

    pub(super) fn give_up(&self, error: Error, attempts: u32) {
        let state = ConnectionState::GaveUp {
            error: error.clone(),
            attempts,
        };
        self.set(state, Phase::Over(error), |_| true);
    }

    /// A request found that a session takes no more, before the supervisor did:
    /// its peer drains, or it is just ending.
    pub(super) fn retire(&self, session: u64, reason: CloseReason) {
        let reason = Some(reason);
        let state = ConnectionState::Disconnected {
            reason: reason.clone(),
            retry_in: None,
        };
        let is_it =
            |phase: &Phase| matches!(phase, Phase::Up { session: up, .. } if *up == session);
        self.set(state, Phase::Down(reason), is_it);
    }

    /// Ends it for good. Returns what was before, unless it had ended already.
    pub(super) fn stop(&self) -> Option<Phase> {
        let over = Phase::Over(Error::Closed(CloseReason::Local));
        self.set(ConnectionState::Closed, over, |_| true)
    }

    /// Waits for [`stop`](Self::stop).
    pub(super) async fn stopped(&self) {
        let mut now = self.now.subscribe();
        // The sender lives in `self`.
        let _ = now
            .wait_for(|now| matches!(now.state, ConnectionState::Closed))
            .await;
    }

    /// Waits until a session is [retired](Self::retire), and says why.
    pub(super) async fn retired(&self, session: u64) -> CloseReason {
        let mut now = self.now.subscribe();
        let is_other =
            |now: &Now| !matches!(now.phase, Phase::Up { session: up, .. } if up == session);
        match now.wait_for(is_other).await.as_deref() {
            Ok(Now {
                phase: Phase::Down(Some(reason)),
                ..
            }) => reason.clone(),
            _ => CloseReason::Local,
        }
    }

    /// A request did not wait, and the next one may be luckier.
    pub(super) fn wish(&self) {
        self.wished.store(true, Ordering::Relaxed);
        self.demand.notify_one();
    }

    /// Whether a request waits, or wished.
    pub(super) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 || self.wished.load(Ordering::Relaxed)
    }

    /// Waits until a request waits, or wished.
    pub(super) async fn wanted(&self) {
        while !self.is_wanted() {
            self.demand.notified().await;
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A place among those who wait for a connection, and the wait.
    pub(super) fn wait(
        self: &Arc<Self>,
    ) -> Result<impl Future<Output = Phase> + Send + use<>, Error> {
        let place = Place::take(self)?;
        let mut now = self.now.subscribe();
        self.demand.notify_one();
        Ok(async move {
            let decided = now.wait_for(|now| !matches!(now.phase, Phase::Down(_)));
            let phase = match decided.await {
                Ok(now) => now.phase.clone(),
                Err(_) => Phase::Over(Error::Closed(CloseReason::Local)),
            };
            drop(place);
            phase
        })
    }
}

/// One of those who wait; given back when dropped.
struct Place(Arc<Core>);

impl Place {
    fn take(core: &Arc<Core>) -> Result<Self, Error> {
        let limit = core.max_waiting;
        let more = |n: usize| (n < limit).then_some(n + 1);
        match core
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        {
            Ok(_) => Ok(Self(Arc::clone(core))),
            Err(_) => Err(Error::TooManyWaiting { limit }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
