//! A request that is alone in flight reads the link itself.
//!
//! Otherwise each answer takes two tasks to arrive: the driver, which the link
//! wakes, and the one that waits, which the driver wakes. The second one can do
//! the reading as well.
//!
//! It may do so while a *licence* is out. The driver grants it after it saw
//! requests come one at a time for a while, and does not read meanwhile. Then
//! the link calls through the [`Bell`](super::bell::Bell), and one of these holds at all times:
//!
//! - the link was read until it had nothing more, and will call the bell;
//! - it called, and the bell called whoever waits for an answer, or the driver;
//! - it has frames at hand that a [lingering](crate::transport::FrameRx::linger)
//!   reader left for the next one.
//!
//! Since nobody can be made to poll what was woken, and nobody comes after the
//! last request, the driver [looks](super::licence) every 20 ms whether a call went
//! unanswered or nothing came at all. If so, the licence ends. So it does when
//! anything else happens than an answer to the one request: a second request, a
//! request or a KEEPALIVE of the peer, a loss, a close, a request that is
//! dropped. An end of it calls the driver, which reads again.
//!
//! Locks are taken in this order: the line, the connection, the bell.

use std::{
    ops::ControlFlow,
    sync::PoisonError,
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::{Inner, MutexGuard, Shared, remember};
use crate::{
    error::CloseReason,
    proto::{StreamKey, Take},
    transport::{FrameRx, InFrame, Received},
};

/// Answers in a row that were alone in flight before a licence is granted: what
/// it costs to end one too early is paid by few.
pub(super) const ALONE_LEN: u32 = 8;

/// Frames that a waiting request handles before it calls the driver.
const BATCH_LEN: usize = 32;

/// Looks at the link in one poll.
const LOOKS: usize = 3;

/// Answers taken without a pause before the task yields. The runtime cannot see
/// that a future which is always ready keeps others waiting.
const INLINE_LEN: u32 = 128;

/// A link's receiving half, where whoever reads finds it.
#[derive(Default)]
pub(super) struct Line {
    /// `None` while a session waits for another link.
    pub(super) rx: Option<Box<dyn FrameRx>>,
    /// Which link it is of. What comes from one that was replaced no longer
    /// counts.
    pub(super) link_no: u64,
    /// Frames may be at hand, of which the link will not tell.
    loose: bool,
    /// Answers taken in a row without a pause.
    inline: u32,
}

/// Who may read the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Licence {
    /// The driver alone.
    Kept,
    /// A request that is alone in flight.
    Out,
    /// The driver again, once it knows.
    Ended,
}

/// What one look at the link brought.
pub(super) struct Look<'a> {
    /// Locked when the first frame came.
    pub(super) guard: Option<MutexGuard<'a, Inner>>,
    pub(super) frames: usize,
    pub(super) found: Found,
}

/// How a look at the link ended.
pub(super) enum Found {
    /// There may be more.
    More,
    /// Nothing more; the link will call.
    Nothing,
    /// The link is over.
    Gone(CloseReason),
}

impl Shared {
    /// The receiving half, waiting for whoever reads.
    pub(super) fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads once from the link, and gives up to `max` frames to the session.
    pub(super) fn look<'a>(
        &'a self,
        line: &mut Line,
        waker: &Waker,
        mut now: Option<Instant>,
        max: usize,
    ) -> Look<'a> {
        let mut guard = None;
        let mut frames = 0;
        let link_no = line.link_no;
        let Some(rx) = &mut line.rx else {
            return Look {
                guard,
                frames,
                found: Found::Nothing,
            };
        };
        let mut sink = |frame: InFrame<'_>| {
            // The lock is taken when something came, not while looking for it.
            let inner = guard.get_or_insert_with(|| self.lock());
            if inner.link_no != link_no {
                return ControlFlow::Break(()); // From a link that was replaced.
            }
            let now = *now.get_or_insert_with(super::now);
            inner.session.handle_frame(now, &frame);
            frames += 1;
            if frames == max || !inner.session.wants_input() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let received = rx.poll_recv(&mut Context::from_waker(waker), &mut sink);
        line.loose = received.is_ready();
        let found = match received {
            Poll::Pending => Found::Nothing,
            Poll::Ready(Ok(Received::Frames)) => Found::More,
            Poll::Ready(Ok(Received::End)) => Found::Gone(CloseReason::Peer),
            Poll::Ready(Err(error)) => Found::Gone(error.into()),
        };
        Look {
            guard,
            frames,
            found,
        }
    }

    /// Takes the answer of the one request in flight, reading the link if need
    /// be. `None` if that is for others to do now.
    pub(super) fn poll_solo(
        &self,
        cx: &Context<'_>,
        key: StreamKey,
        before_release: &mut impl FnMut(&mut Inner),
    ) -> Option<Take> {
        if !self.bell.is_licensed() {
            return None;
        }
        // Whoever has it reads until there is nothing more, or calls the driver.
        let mut line = self.line.try_lock().ok()?;
        if line.inline >= INLINE_LEN {
            line.inline = 0;
            cx.waker().wake_by_ref();
            return Some(Take::Pending);
        }
        let rx = line.rx.as_mut()?;
        let lingered = rx.linger();
        let mut must_look = lingered || line.loose || self.bell.is_rung();
        for _ in 0..LOOKS {
            let mut look = None;
            if must_look {
                if !lingered {
                    self.bell.hush();
                }
                look = Some(self.look(&mut line, &self.bell_waker, None, BATCH_LEN));
            }
            let (guard, frames, found) = match look {
                Some(look) => (look.guard, look.frames, look.found),
                None => (None, 0, Found::Nothing),
            };
            let mut inner = guard.unwrap_or_else(|| self.lock());
            if frames > 0 {
                inner.pump();
                inner.flush_by_rule();
            }
            let take = inner.session.poll_take(key);
            let is_ready = !matches!(take, Take::Pending);
            if is_ready {
                before_release(&mut inner);
                inner.session.release(key);
                inner.alone = inner.alone.wrapping_add(1);
            }
            // Only an answer, or nothing, is what is expected.
            let mut is_plain = inner.link_no == line.link_no && frames <= usize::from(is_ready);
            if let Found::Gone(reason) = found {
                inner.note_gone(line.link_no, reason);
                is_plain = false;
            }
            if !is_plain {
                inner.end_licence();
            }
            inner.check_licence();
            if !is_ready && inner.licence == Licence::Out {
                remember(&mut inner.waiting(key.slot).reader, cx);
                if self.bell.call_me(cx) {
                    line.inline = 0;
                    return Some(Take::Pending);
                }
                drop(inner);
                must_look = true;
                continue;
            }
            if !is_ready {
                remember(&mut inner.waiting(key.slot).reader, cx);
            }
            let wakes = inner.take_wakes_but(key.slot, is_ready);
            let driver = inner.driver_to_wake();
            let stays = inner.licence == Licence::Out;
            drop(inner);
            if stays && line.loose {
                if lingered {
                    // The next one finds what there is, or the driver does.
                    line.inline += 1;
                } else {
                    self.look_for_more(&mut line);
                }
            }
            drop(line);
            if let Some(driver) = driver {
                driver.wake();
            }
            wakes.wake();
            return Some(take);
        }
        // It called again each time: a turn for others.
        cx.waker().wake_by_ref();
        Some(Take::Pending)
    }

    /// Looks until the link has nothing more, so that it will call.
    fn look_for_more(&self, line: &mut Line) {
        self.bell.hush();
        let look = self.look(line, &self.bell_waker, None, BATCH_LEN);
        if matches!(look.found, Found::Nothing) && look.guard.is_none() {
            return;
        }
        let mut inner = look.guard.unwrap_or_else(|| self.lock());
        if let Found::Gone(reason) = look.found {
            inner.note_gone(line.link_no, reason);
        }
        inner.pump();
        inner.flush_by_rule();
        inner.end_licence();
        Self::release(inner);
    }
}

impl Line {
    /// Reads from this link from now on.
    pub(super) fn set(&mut self, rx: Option<Box<dyn FrameRx>>, link_no: u64) {
        *self = Self {
            rx,
            link_no,
            loose: false,
            inline: 0,
        };
    }
}

impl Inner {
    /// Whether all that may happen is an answer to the one request in flight.
    pub(super) fn is_calm(&self) -> bool {
        let session = &self.session;
        session.streams_open() <= 1
            && session.is_steady()
            && !session.has_events()
            && session.wants_input()
            && self.tx.is_some()
            && self.adopted.is_none()
            && self.lost.is_none()
            && self.gone.is_none()
            && !self.blocked
            && !self.flush_wanted
            && !self.detach
    }

    /// Only the driver reads from now on, as soon as it knows.
    pub(super) fn end_licence(&mut self) {
        if self.licence == Licence::Out {
            self.licence = Licence::Ended;
            self.alone = 0;
            self.bell.set_licensed(false);
            self.bell.withdraw();
        }
    }

    /// Ends the licence if something else may happen than an answer.
    #[inline]
    pub(super) fn check_licence(&mut self) {
        if self.licence == Licence::Out && !self.is_calm() {
            self.end_licence();
        }
    }

    /// The link of that number has nothing more to give; the driver is to know.
    fn note_gone(&mut self, link_no: u64, reason: CloseReason) {
        if self.link_no == link_no {
            self.gone.get_or_insert(reason);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod model;
