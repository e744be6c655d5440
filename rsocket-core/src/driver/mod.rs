//! The async shell: it moves frames, wakes tasks and waits.
//!
//! [`Shared`] is a connection's one lock, with the session and the link's
//! sending half behind it. It is never held across an await or while a user's
//! code or waker runs, but for what the owner of a payload's memory does when that
//! is let go of. Whoever wants something locks it, tells the session, and
//! sends what came of it straight into the transport's memory: no channel, no
//! other task.
//!
//! [`Driver`] is the connection's one task. It reads the link,
//! serves requests, keeps time, and finishes what others could not: frames that
//! the link did not take, and flushes put off so that they cover many frames.
//! Where requests come one at a time, whoever waits reads: see [`solo`].

mod bell;
mod dispatch;
mod lease;
mod licence;
mod resume;
mod saving;
mod sending;
mod serve;
mod solo;
mod task;
mod way_back;

use std::{
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

#[cfg(all(test, loom))]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(all(test, loom)))]
use std::sync::{Mutex, MutexGuard};

use tokio::sync::watch;

use self::{
    bell::Bell,
    solo::{Licence, Line},
};
pub(crate) use self::{
    dispatch::Dispatcher,
    resume::{Redial, Sessions},
    serve::Outbound,
    task::{Accepting, Acceptor, Driver},
};
use crate::{
    error::{CloseReason, Error},
    proto::{Batch, Capacity, Open, Session, StreamKey, Take, Wake},
    transport::{FrameTx, LentMemory, LinkInfo},
};

/// What a connection's handles and its driver share.
pub(crate) struct Shared {
    /// The link's receiving half; locked before `inner`.
    line: Mutex<Line>,
    inner: Mutex<Inner>,
    bell: Arc<Bell>,
    /// Rings it.
    bell_waker: Waker,
    closed: watch::Sender<Option<CloseReason>>,
    link: LinkInfo,
    /// Handles through which the application may still open requests.
    handles: AtomicUsize,
    /// Whether dropping the last of them closes the connection.
    close_when_unused: bool,
}

/// What the lock guards.
pub(crate) struct Inner {
    pub(crate) session: Session,
    /// `None` while a session waits for another link.
    tx: Option<Box<dyn FrameTx>>,
    /// The other half of a new link, for the driver; what comes from the old one
    /// no longer counts.
    adopted: Option<resume::NewLink>,
    /// By slot: who waits on which stream.
    waiting: Vec<Waiting>,
    /// Who may read the link.
    licence: Licence,
    bell: Arc<Bell>,
    /// Answers in a row to requests that were alone in flight.
    alone: u32,
    /// The number of the link, since one may be replaced while it is read.
    link_no: u64,
    /// The link has nothing more to give; the driver is to know.
    gone: Option<CloseReason>,
    /// Tasks that wait for room among the frames of stream 0.
    push_waiters: Vec<Waker>,
    driver: Waker,
    /// Frames that the link took and that were not flushed.
    unflushed: usize,
    /// The link took nothing; the driver tries again when it is told to.
    blocked: bool,
    /// The link failed under somebody's hands; the driver is to know.
    lost: Option<CloseReason>,
    /// The session is to be left to its store.
    detach: bool,
    /// Waits for the first link of a session of an earlier process.
    resumed_waiter: Option<Waker>,
    /// The driver is to flush.
    flush_wanted: bool,
    /// A flush did not get done; the link tells the driver when to go on.
    flush_pending: bool,
    /// The driver was woken and did not run yet.
    driver_called: bool,
}

#[derive(Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Time for `proto`: virtual when tokio's clock is paused.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Shared {
    pub(crate) fn new(
        session: Session,
        tx: Box<dyn FrameTx>,
        link: LinkInfo,
        close_when_unused: bool,
    ) -> Arc<Self> {
        let bell = Arc::new(Bell::new());
        Arc::new(Self {
            line: Mutex::default(),
            bell_waker: Waker::from(Arc::clone(&bell)),
            inner: Mutex::new(Inner {
                session,
                tx: Some(tx),
                adopted: None,
                waiting: Vec::new(),
                licence: Licence::Kept,
                bell: Arc::clone(&bell),
                alone: 0,
                link_no: 0,
                gone: None,
                push_waiters: Vec::new(),
                driver: Waker::noop().clone(),
                unflushed: 0,
                blocked: false,
                lost: None,
                detach: false,
                resumed_waiter: None,
                flush_wanted: false,
                flush_pending: false,
                driver_called: false,
            }),
            bell,
            closed: watch::Sender::new(None),
            link,
            handles: AtomicUsize::new(0),
            close_when_unused,
        })
    }

    pub(crate) fn link(&self) -> &LinkInfo {
        &self.link
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// The application dropped a handle; without any it can ask for nothing
    /// more, so a client's connection ends here.
    pub(crate) fn drop_handle(&self) {
        // AcqRel: what other handles did comes before the close.
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 && self.close_when_unused {
            // A session with a store only ends when it is told to: perhaps the
            // handle goes because the runtime does.
            self.detach();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock would be our bug; others go on as they can.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the session something, sends what comes of it, and wakes those
    /// whom it concerns.
    pub(crate) fn with<R>(&self, tell: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.lock();
        let result = tell(&mut inner);
        inner.pump();
        inner.flush_by_rule();
        inner.check_licence();
        Self::release(inner);
        result
    }

    /// Lets go of the lock, and then wakes those whom it concerns.
    #[inline]
    fn release(mut inner: MutexGuard<'_, Inner>) {
        let wakes = inner.take_wakes();
        let driver = inner.driver_to_wake();
        drop(inner);
        if let Some(driver) = driver {
            driver.wake();
        }
        wakes.wake();
    }

    /// Opens a stream: the request is with the link, or queued, on return.
    #[inline]
    pub(crate) fn open(&self, open: Open) -> Result<StreamKey, Box<Error>> {
        self.with(|inner| {
            // Boxed, since it is kept over what follows: it would be moved as a
            // whole, and seldom is one.
            let opened = inner.open(open).map_err(Box::new);
            if inner.session.streams_open() > 1 {
                inner.alone = 0;
            }
            opened
        })
    }

    /// Takes what arrived on a stream, more than the first payload into `batch`;
    /// on `Pending` the task will be woken.
    pub(crate) fn poll_take_batch(
        &self,
        cx: &Context<'_>,
        key: StreamKey,
        batch: &mut Batch,
    ) -> Take {
        self.with(|inner| {
            let take = inner.session.poll_take_batch(key, batch);
            inner.remember_reader(cx, key, take)
        })
    }

    /// Tells of what was used of `batch`.
    #[inline(never)]
    pub(crate) fn settle_batch(&self, key: StreamKey, batch: &mut Batch) {
        self.with(|inner| inner.session.settle_batch(key, batch));
    }

    /// Takes a request's one answer and lets go of the stream.
    #[inline]
    pub(crate) fn poll_answer(&self, cx: &Context<'_>, key: StreamKey) -> Take {
        self.take_answer(cx, key, |_| ())
    }

    #[inline]
    fn take_answer(
        &self,
        cx: &Context<'_>,
        key: StreamKey,
        mut before_release: impl FnMut(&mut Inner),
    ) -> Take {
        if let Some(take) = self.poll_solo(cx, key, &mut before_release) {
            return take;
        }
        // Nothing to send comes of it, unless it was the last thing that a
        // closing connection waited for.
        let mut inner = self.lock();
        let take = inner.poll_take(cx, key);
        if !matches!(take, Take::Pending) {
            before_release(&mut inner);
            inner.session.release(key);
            if inner.session.streams_open() == 0 {
                inner.alone = inner.alone.saturating_add(1);
            }
            inner.check_licence();
            let driver = inner.driver_to_wake();
            drop(inner);
            if let Some(driver) = driver {
                driver.wake();
            }
        }
        take
    }

    /// Likewise, and says whether a link took the request.
    pub(crate) fn poll_answer_or_unsent(&self, cx: &Context<'_>, key: StreamKey) -> (Take, bool) {
        let mut sent = true;
        let take = self.take_answer(cx, key, |inner| sent = inner.session.was_sent(key));
        (take, sent)
    }

    /// Ends a stream that its reader gave up.
    pub(crate) fn cancel_and_release(&self, key: StreamKey) {
        self.release_reader(key, false);
    }

    /// Lets go of a stream's receiving half; cancels it unless it has ended.
    pub(crate) fn release_reader(&self, key: StreamKey, ended: bool) {
        self.with(|inner| {
            inner.waiting(key.slot).reader = None;
            if !ended {
                // Perhaps the link called it, and it will not come.
                inner.end_licence();
                inner.session.cancel(key);
            }
            inner.session.give_up_batch(key);
            inner.session.release(key);
        });
    }

    /// Asks for the end in good order.
    pub(crate) fn close(&self) {
        self.with(|inner| {
            inner.session.close(now());
            // There is a deadline now that the driver does not know of.
            inner.flush_wanted = true;
        });
    }

    /// Leaves a session that has a store to it; closes others.
    pub(crate) fn detach(&self) {
        let durable = self.with(|inner| {
            inner.detach = true;
            inner.flush_wanted = true;
            inner.session.is_durable()
        });
        if !durable {
            self.close();
        }
    }

    /// Whether the session ended here, and can be gone on with from its store.
    fn is_left_to_store(&self) -> bool {
        let inner = self.lock();
        let reason = inner.session.close_reason();
        matches!(reason, Some(CloseReason::Detached | CloseReason::Store(_)))
    }

    /// Waits until the peer has accepted a session of an earlier process.
    pub(crate) fn poll_resumed(&self, cx: &Context<'_>) -> Poll<()> {
        self.with(|inner| {
            if inner.is_resumed() {
                return Poll::Ready(());
            }
            remember(&mut inner.resumed_waiter, cx);
            Poll::Pending
        })
    }

    /// Ends the connection at once.
    pub(crate) fn abort(&self) {
        self.with(|inner| inner.session.abort());
    }

    /// Waits for the end of the connection, link included.
    pub(crate) async fn closed(&self) -> CloseReason {
        let mut closed = self.closed.subscribe();
        let reason = closed.wait_for(Option::is_some).await;
        match reason.as_deref() {
            Ok(Some(reason)) => reason.clone(),
            // The sender lives in `self`.
            Ok(None) | Err(_) => CloseReason::Local,
        }
    }

    /// Tells those who wait in [`closed`](Self::closed), once.
    fn tell_closed(&self, reason: &CloseReason) {
        self.closed.send_if_modified(|closed| {
            let is_news = closed.is_none();
            if is_news {
                *closed = Some(reason.clone());
            }
            is_news
        });
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.closed.borrow().clone()
    }

    /// Memory of the link for `len` bytes, if there is a link that has some.
    pub(crate) fn lend(&self, len: usize) -> Option<Box<dyn LentMemory>> {
        self.lock().tx.as_mut()?.lend(len)
    }

    /// Waits until METADATA_PUSH may be sent, and sends it.
    pub(crate) fn poll_metadata_push(
        &self,
        cx: &Context<'_>,
        metadata: &[u8],
    ) -> Poll<Result<(), Error>> {
        self.with(|inner| {
            if inner.session.has_push_room() {
                return Poll::Ready(inner.session.metadata_push(metadata));
            }
            inner.push_waiters.push(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn poll_take(&mut self, cx: &Context<'_>, key: StreamKey) -> Take {
        let take = self.session.poll_take(key);
        self.remember_reader(cx, key, take)
    }

    fn remember_reader(&mut self, cx: &Context<'_>, key: StreamKey, take: Take) -> Take {
        if matches!(take, Take::Pending) {
            remember(&mut self.waiting(key.slot).reader, cx);
        }
        take
    }

    /// How many payloads a stream takes now; on `Pending` the task will be
    /// woken.
    pub(crate) fn poll_capacity(&mut self, cx: &Context<'_>, key: StreamKey) -> Capacity {
        let capacity = self.session.poll_capacity(key);
        if capacity == Capacity::Pending {
            remember(&mut self.waiting(key.slot).writer, cx);
        }
        capacity
    }

    /// Whether a stream's sending half is over; else the task will be woken
    /// when it ends.
    pub(crate) fn poll_send_closed(&mut self, cx: &Context<'_>, key: StreamKey) -> bool {
        let closed = self.session.poll_send_closed(key);
        if !closed {
            remember(&mut self.waiting(key.slot).writer, cx);
        }
        closed
    }

    /// Credit granted since the last call; `None` when the sending half is
    /// over. On `Pending` the task will be woken.
    pub(crate) fn poll_granted(&mut self, cx: &Context<'_>, key: StreamKey) -> Poll<Option<u64>> {
        let granted = self.session.poll_granted(key);
        if granted.is_pending() {
            remember(&mut self.waiting(key.slot).writer, cx);
        }
        granted
    }

    pub(crate) fn forget_writer(&mut self, slot: usize) {
        self.waiting(slot).writer = None;
    }

    #[expect(clippy::indexing_slicing, reason = "made long enough just before")]
    fn waiting(&mut self, slot: usize) -> &mut Waiting {
        if self.waiting.len() <= slot {
            self.waiting.resize_with(slot + 1, Waiting::default);
        }
        &mut self.waiting[slot]
    }

    /// Sends over `tx` from now on.
    fn attach(&mut self, tx: Box<dyn FrameTx>) {
        self.detach();
        self.tx = Some(tx);
    }

    /// Forgets the link, and all that was known of it.
    fn detach(&mut self) {
        self.tx = None;
        self.link_no += 1;
        self.gone = None;
        self.unflushed = 0;
        self.blocked = false;
        self.lost = None;
        self.flush_wanted = false;
        self.flush_pending = false;
    }

    fn is_resumed(&self) -> bool {
        self.session.lost_for().is_none() || self.session.is_closed()
    }

    /// The driver, if it has something to do that it does not know of.
    fn driver_to_wake(&mut self) -> Option<Waker> {
        let has_news = self.session.has_events() && self.session.wants_work();
        let wanted = self.flush_wanted
            || self.session.wants_checkpoint()
            || self.lost.is_some()
            || self.gone.is_some()
            || has_news
            || self.adopted.is_some()
            || self.licence == Licence::Ended;
        if !wanted || self.driver_called {
            return None;
        }
        self.driver_called = true;
        Some(self.driver.clone())
    }

    /// As [`take_wakes`](Self::take_wakes), without the reader of `slot` if it
    /// is served: it is the one who asks.
    fn take_wakes_but(&mut self, slot: usize, served: bool) -> Wakes {
        if !served {
            return self.take_wakes();
        }
        let reader = self.waiting(slot).reader.take();
        let wakes = self.take_wakes();
        // It stays for the next request in this slot, mostly of the same task.
        self.waiting(slot).reader = reader;
        wakes
    }

    #[inline]
    fn take_wakes(&mut self) -> Wakes {
        let mut wakes = Wakes::default();
        self.drain_wakes(|waker| wakes.push(waker));
        wakes
    }

    #[inline]
    fn drain_wakes(&mut self, mut push: impl FnMut(Waker)) {
        while let Some(wake) = self.session.poll_wake() {
            let waker = match wake {
                Wake::Reader(slot) => self.waiting(slot).reader.take(),
                Wake::Writer(slot) => self.waiting(slot).writer.take(),
            };
            if let Some(waker) = waker {
                push(waker);
            }
        }
        if self.resumed_waiter.is_some()
            && self.is_resumed()
            && let Some(waker) = self.resumed_waiter.take()
        {
            push(waker);
        }
        if !self.push_waiters.is_empty() && self.session.has_push_room() {
            self.push_waiters.drain(..).for_each(push);
        }
    }
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

/// Tasks to wake once the lock is free: mostly none or one.
#[derive(Default)]
struct Wakes {
    first: Option<Waker>,
    more: Vec<Waker>,
}

impl Wakes {
    fn push(&mut self, waker: Waker) {
        match self.first {
            None => self.first = Some(waker),
            Some(_) => self.more.push(waker),
        }
    }

    fn wake(self) {
        if let Some(first) = self.first {
            first.wake();
            self.more.into_iter().for_each(Waker::wake);
        }
    }
}
