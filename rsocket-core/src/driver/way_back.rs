//! What a driver does about links that come and go, and about sessions that
//! outlive them.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    Inner, Redial, Sessions, now,
    resume::{Claimed, NewLink, Reserved},
    saving::Saved,
    task::{Driver, Ending},
};
use crate::{
    Failure, RestoreError,
    error::CloseReason,
    frame::ErrorCode,
    proto::{ResumeRequest, Setup, Side},
    transport::FrameRx,
};

/// What a session that lost its link does about it.
pub(super) enum WayBack {
    /// It ends.
    None,
    /// A client's: connects again.
    Redial {
        redial: Redial,
        /// As the session counted them when it last lost its link.
        resumptions: u64,
    },
    /// A server's: waits to be asked for.
    Await {
        sessions: Arc<Sessions>,
        reserved: Option<Reserved>,
        /// Its place among the sessions without a link.
        suspended: Option<OwnedSemaphorePermit>,
    },
}

impl Driver {
    pub(super) fn on_setup(&mut self, setup: Setup) {
        if let (
            Some(token),
            WayBack::Await {
                sessions, reserved, ..
            },
        ) = (&setup.resume_token, &mut self.back)
        {
            *reserved = sessions.reserve(token.clone(), &self.shared);
            if reserved.is_none() {
                let failure = Failure::from_wire(
                    ErrorCode::REJECTED_SETUP,
                    "the resume token is in use".to_owned(),
                );
                self.shared.with(|inner| inner.session.refuse(&failure));
                return;
            }
        }
        if let Some(acceptor) = self.acceptor.take() {
            self.accepting = Some(acceptor(setup, None));
        }
    }

    /// Gives the link to the session that was asked for.
    pub(super) fn hand_over(&mut self, request: &ResumeRequest) {
        let found = match &self.back {
            WayBack::Await { sessions, .. } => match sessions.find(&request.token) {
                Some(session) => Some(session),
                None => match sessions.claim(&request.token) {
                    Claimed::Yes(claim) => {
                        let loading = claim.load();
                        self.loading = loading.map(|loading| (request.clone(), claim, loading));
                        return;
                    }
                    Claimed::Later => {
                        // Without an answer: the client asks again.
                        self.shared
                            .with(|inner| inner.session.end(CloseReason::Local));
                        return;
                    }
                    Claimed::Unknown => None,
                },
            },
            WayBack::None | WayBack::Redial { .. } => None,
        };
        let mut failure = Failure::from_wire(
            ErrorCode::REJECTED_RESUME,
            "there is no such session".to_owned(), // [C291]
        );
        if let Some(session) = found
            && let Some(rx) = self.take_rx()
            && let Some(tx) = self.shared.with(|inner| inner.tx.take())
        {
            let place = self.place.take();
            match session.adopt(tx, NewLink { rx, place }, request, self.limits) {
                Ok(()) => {
                    self.shared.with(|inner| inner.session.hand_over());
                    self.ending = Some(Ending {
                        reason: CloseReason::Local,
                        tx_closed: true,
                        until: now(),
                    });
                    return;
                }
                Err(kept) => {
                    let (tx, new, why) = *kept;
                    let link_no = self.shared.with(|inner| {
                        inner.attach(tx);
                        inner.link_no
                    });
                    self.new_rx = Some((Some(new.rx), link_no));
                    self.place = new.place;
                    if session.is_left_to_store() {
                        // Without an answer: when the client asks again the
                        // session may be read.
                        self.shared
                            .with(|inner| inner.session.end(CloseReason::Local));
                        return;
                    }
                    failure = why;
                }
            }
        }
        self.shared.with(|inner| inner.session.refuse(&failure));
    }

    fn take_rx(&self) -> Option<Box<dyn FrameRx>> {
        self.shared.line().rx.take()
    }

    /// Goes on with a session of an earlier process, once it was read.
    pub(super) fn restore(&mut self, cx: &mut Context<'_>) {
        let Some((_, _, loading)) = &mut self.loading else {
            return;
        };
        let Poll::Ready(rows) = loading.as_mut().poll(cx) else {
            return;
        };
        let Some((request, claim, _)) = self.loading.take() else {
            return;
        };
        let restored = rows.and_then(|rows| Ok(claim.restore(rows)?));
        let no = |message| Failure::from_wire(ErrorCode::REJECTED_RESUME, String::from(message));
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        let refusal = match restored {
            Err(error @ (RestoreError::Unknown | RestoreError::Damaged(_))) => {
                tracing::error!(%error, "a stored session cannot be gone on with");
                no("the session is lost")
            }
            Err(error) => {
                // Perhaps later, or in another process: the client asks again.
                tracing::warn!(%error, "a stored session cannot be read");
                inner.session.end(CloseReason::Local);
                self.collect(&mut inner);
                cx.waker().wake_by_ref();
                return;
            }
            Ok(_) if inner.session.is_closed() => return, // Too late.
            Ok(restored) if restored.session.side() != Side::Server => {
                no("there is no such session")
            }
            Ok(mut restored) => {
                let session = &mut restored.session;
                match session.accept_resume(now(), &request, self.limits) {
                    Err(failure) => {
                        if session.is_closed() {
                            claim.discard(); // It never fits.
                        }
                        failure
                    }
                    Ok(()) => {
                        inner.session = restored.session;
                        inner.pump();
                        self.collect(&mut inner);
                        drop(inner);
                        if let (Some(saving), Some(acceptor)) =
                            (&mut self.saving, self.acceptor.take())
                        {
                            saving.is_stored_as(request.token);
                            let streams = Some(restored.streams);
                            self.accepting = Some(acceptor(restored.setup, streams));
                        }
                        if let WayBack::Await { reserved, .. } = &mut self.back {
                            *reserved = claim.take(&self.shared);
                        }
                        self.wants_flush = true;
                        cx.waker().wake_by_ref();
                        return;
                    }
                }
            }
        };
        inner.session.refuse(&refusal);
        inner.pump();
        self.collect(&mut inner);
        cx.waker().wake_by_ref();
    }

    /// The link is gone and the session stays.
    pub(super) fn part_with_link(&mut self, inner: &mut Inner) {
        self.link_ended = false;
        self.place = None;
        inner.detach();
        self.new_rx = Some((None, inner.link_no));
        match &mut self.back {
            WayBack::Redial {
                redial,
                resumptions,
            } => {
                let now = inner.session.stats().resumptions;
                if std::mem::replace(resumptions, now) != now {
                    redial.reset();
                }
            }
            WayBack::Await {
                sessions,
                suspended,
                ..
            } => {
                *suspended = sessions.suspend();
                if suspended.is_none() {
                    tracing::warn!("max_suspended sessions wait for their clients, ending one");
                    self.give_up(inner);
                }
            }
            WayBack::None => self.give_up(inner),
        }
    }

    /// There will be no other link.
    fn give_up(&mut self, inner: &mut Inner) {
        let cause = inner.session.lost_for().cloned();
        let cause = Box::new(cause.unwrap_or(CloseReason::Local));
        inner.session.end(CloseReason::NotResumed { cause });
        self.needs_link = false;
    }

    /// Looks for another link.
    pub(super) fn redial(&mut self, cx: &mut Context<'_>, now: Instant) {
        let WayBack::Redial { redial, .. } = &mut self.back else {
            return;
        };
        let Poll::Ready(link) = redial.poll(cx) else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        match link {
            Some(link) => {
                let limits = link.limits();
                let (tx, rx) = link.split();
                inner.attach(tx);
                self.new_rx = Some((Some(rx), inner.link_no));
                inner.session.resume(now, limits);
                inner.pump();
                inner.flush();
            }
            None => self.give_up(&mut inner),
        }
        self.collect(&mut inner);
        drop(inner);
        // What came of it has its turn.
        cx.waker().wake_by_ref();
    }

    /// Notes what was stored, and has the next batch stored. True when frames
    /// may go out for it.
    pub(super) fn save(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(saving) = &mut self.saving else {
            return false;
        };
        let mut stored = false;
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        loop {
            match saving.poll_committed(cx) {
                Poll::Ready(Saved::Yes(seq)) => {
                    inner.session.committed(seq);
                    inner.pump();
                    stored = true;
                }
                Poll::Ready(Saved::No(error)) => inner.session.end(CloseReason::Store(error)),
                Poll::Ready(Saved::Abandoned) => inner.session.end(CloseReason::Detached),
                Poll::Pending if saving.is_busy() => break,
                Poll::Pending => {}
            }
            if inner.session.is_closed() {
                break;
            }
            let checkpoint = inner.session.checkpoint();
            let detach = inner.detach && inner.session.is_durable();
            let nothing = checkpoint.is_none();
            if let Some((seq, batch)) = checkpoint
                && let Some(token) = inner.session.resume_token()
            {
                saving.commit(token, seq, batch);
                if let WayBack::Await {
                    reserved: Some(reserved),
                    ..
                } = &mut self.back
                {
                    reserved.set_stored(true);
                }
            }
            if detach {
                saving.keep();
                inner.session.end(CloseReason::Detached);
                break;
            }
            if nothing {
                break;
            }
        }
        let ended = inner.session.is_closed() && inner.session.has_events();
        self.collect(&mut inner);
        if ended || self.needs_link {
            cx.waker().wake_by_ref();
        }
        stored
    }
}
