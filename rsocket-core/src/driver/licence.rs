//! How the driver grants a licence to read the link, and looks after it.
//!
//! What a licence is, and who uses it: [`super::solo`].

use std::{
    task::Context,
    time::{Duration, Instant},
};

use super::{Driver, Inner, solo::Licence};

/// How often the driver looks after a licence: how long a frame may lie unread
/// because somebody who was called to read it does not come, and how long a
/// licence outlives the last request.
///
/// Longer than a tick of the kernel (4 ms, or 10), which is due anyway. A timer
/// that is nearer than that has to be set anew for each sleep: in one run over TCP
/// on the loopback a round trip took 8 to 10 percent longer with 2 ms, and no
/// longer with 10 ms or more.
pub(super) const PERIOD: Duration = Duration::from_millis(20);

/// A look at a licence that is out.
pub(super) struct Watch {
    pub(super) due: Instant,
    /// Answers that were counted by the last one.
    pub(super) answers: u32,
    /// The link had called, and whoever it called got a turn.
    pub(super) yielded: bool,
}

impl Driver {
    /// Ends a licence of which no use is made.
    pub(super) fn look_after_licence(&mut self, cx: &Context<'_>, inner: &mut Inner, now: Instant) {
        if inner.licence == Licence::Kept {
            return;
        }
        let is_rung = inner.bell.is_rung();
        if let Some(watch) = &mut self.watch {
            if now >= watch.due {
                if watch.answers == inner.alone {
                    inner.end_licence();
                }
                watch.answers = inner.alone;
                watch.due = now + PERIOD;
            }
            // The link called. Whoever it called may stand behind us, so it gets
            // a turn to come.
            if is_rung && std::mem::replace(&mut watch.yielded, is_rung) {
                inner.end_licence();
            } else if is_rung {
                cx.waker().wake_by_ref();
            } else {
                watch.yielded = false;
            }
        }
        inner.check_licence();
        if inner.licence == Licence::Ended {
            inner.licence = Licence::Kept;
            self.licensed = false;
            self.watch = None;
        }
    }

    /// Lets a request that is alone in flight read the link, which has nothing
    /// now and will ring the bell.
    pub(super) fn grant_licence(&mut self, now: Instant) {
        let mut inner = self.shared.lock();
        self.may_grant = false;
        if inner.licence == Licence::Kept && inner.is_calm() {
            inner.licence = Licence::Out;
            inner.bell.set_licensed(true);
            self.licensed = true;
            self.watch = Some(Watch {
                due: now + PERIOD,
                answers: inner.alone,
                yielded: false,
            });
        }
    }
}
