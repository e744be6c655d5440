//! Links that hesitate, and links that break.
//!
//! What a real link does rarely and at bad moments, these do often and from a
//! seed: they say `Pending` where they could go on, hand over frames in small
//! portions, and are cut in the middle of a conversation.

use std::{
    fmt, mem,
    ops::{ControlFlow, RangeInclusive},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use super::Random;
use crate::transport::{
    Connector, FrameRx, FrameTx, Handshake, InFrame, LentMemory, Link, Listener, OutFrame,
    Received, TransportError,
};

/// Wraps links so that they hesitate or break, as its seed says.
///
/// Clones share the seed and the links: [`cut_all`](Self::cut_all) of one cuts
/// the links of all.
///
/// # Examples
///
/// ```
/// use rsocket_core::{testkit::Chaos, transport::memory};
///
/// let chaos = Chaos::new(7).hesitating_once_in(4).cut_after(100..=200);
/// let (ours, theirs) = memory::pair();
/// let ours = chaos.wrap(ours);
/// # drop((ours, theirs));
/// ```
#[derive(Clone)]
pub struct Chaos {
    hesitation: Option<usize>,
    cut_after: Option<RangeInclusive<usize>>,
    losing: usize,
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    links: AtomicU64,
    spared: AtomicBool,
    alive: Mutex<Vec<Weak<Fate>>>,
}

impl Chaos {
    /// Does nothing to links yet but that they can be [cut](Self::cut_all).
    pub fn new(seed: u64) -> Self {
        Self {
            hesitation: None,
            cut_after: None,
            losing: 0,
            shared: Arc::new(Shared {
                seed,
                links: AtomicU64::new(0),
                spared: AtomicBool::new(false),
                alive: Mutex::default(),
            }),
        }
    }

    /// Makes each call on a link return `Pending` once in `n` times, with an
    /// immediate wake-up, and deliver a few frames at most.
    ///
    /// With `n` = 1 nothing would ever get through, so at least 2 is meant.
    ///
    /// # Panics
    ///
    /// When `n` is below 2.
    #[must_use]
    pub fn hesitating_once_in(mut self, n: usize) -> Self {
        assert!(n >= 2, "it would hesitate for ever");
        self.hesitation = Some(n);
        self
    }

    /// Cuts each link after a number of frames in `frames`, sent and received
    /// by this end together.
    #[must_use]
    pub fn cut_after(mut self, frames: RangeInclusive<usize>) -> Self {
        self.cut_after = Some(frames);
        self
    }

    /// Loses what this end sends among the last frames before a cut, up to `n`
    /// of them: they were taken and never arrive, as with a real link. Only for
    /// links that are cut some time, by number or by [`cut_all`](Self::cut_all).
    #[must_use]
    pub fn losing(mut self, n: usize) -> Self {
        self.losing = n;
        self
    }

    /// Cuts all links there are. Links that are made later are not concerned.
    ///
    /// Both halves of this end fail with
    /// [`Lost`](crate::transport::TransportErrorKind::Lost) from their next
    /// call on, and are woken for it; the peer is dropped without a close.
    pub fn cut_all(&self) {
        for fate in mem::take(&mut *lock(&self.shared.alive)) {
            if let Some(fate) = fate.upgrade() {
                fate.cut();
            }
        }
    }

    /// Cuts all links there are, and none of those to come; nor do they lose
    /// anything.
    pub fn spare(&self) {
        self.cut_all();
        self.shared.spared.store(true, Ordering::Relaxed);
    }

    /// Wraps one end of a link.
    pub fn wrap(&self, link: Link) -> Link {
        let number = self.shared.links.fetch_add(1, Ordering::Relaxed);
        let mut random = Random::new(self.shared.seed ^ number.rotate_left(32));
        let frames_left = self.cut_after.clone().map(|frames| random.within(frames));
        let fate = Arc::new(Fate {
            shared: Arc::clone(&self.shared),
            state: Mutex::new(State {
                frames_left,
                losing: random.within(0..=self.losing),
                is_cut: frames_left == Some(0),
                wakers: [None, None],
            }),
        });
        let mut alive = lock(&self.shared.alive);
        alive.retain(|fate| fate.strong_count() > 0);
        alive.push(Arc::downgrade(&fate));
        drop(alive);

        let mut whim = || Whim {
            hesitation: self.hesitation,
            random: Random::new(random.number()),
        };
        let tx = Tx {
            inner: Some(link.tx),
            fate: Arc::clone(&fate),
            whim: whim(),
            has_lost: false,
        };
        let rx = Rx {
            inner: Some(link.rx),
            fate,
            whim: whim(),
        };
        Link {
            tx: Box::new(tx),
            rx: Box::new(rx),
            limits: link.limits,
            info: link.info,
        }
    }

    /// Wraps all links that `connector` makes.
    pub fn connector<C: Connector>(&self, connector: C) -> ChaosConnector<C> {
        ChaosConnector {
            inner: connector,
            chaos: self.clone(),
        }
    }

    /// Wraps all links that `listener` accepts.
    pub fn listener<L: Listener>(&self, listener: L) -> ChaosListener<L> {
        ChaosListener {
            inner: listener,
            chaos: self.clone(),
        }
    }
}

impl fmt::Debug for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos")
            .field("seed", &self.shared.seed)
            .field("hesitation", &self.hesitation)
            .field("cut_after", &self.cut_after)
            .field("losing", &self.losing)
            .finish_non_exhaustive()
    }
}

/// See [`Chaos::connector`].
#[derive(Clone, Debug)]
pub struct ChaosConnector<C> {
    inner: C,
    chaos: Chaos,
}

#[async_trait::async_trait]
impl<C: Connector> Connector for ChaosConnector<C> {
    async fn connect(&self) -> Result<Link, TransportError> {
        Ok(self.chaos.wrap(self.inner.connect().await?))
    }
}

/// See [`Chaos::listener`].
#[derive(Debug)]
pub struct ChaosListener<L> {
    inner: L,
    chaos: Chaos,
}

#[async_trait::async_trait]
impl<L: Listener> Listener for ChaosListener<L> {
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        let handshake = self.inner.accept().await?;
        let chaos = self.chaos.clone();
        Ok(Box::pin(async move { Ok(chaos.wrap(handshake.await?)) }))
    }

    fn url(&self) -> String {
        self.inner.url()
    }
}

/// What both halves of a wrapped link share.
struct Fate {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

struct State {
    frames_left: Option<usize>,
    /// With so many frames left, what is sent is lost.
    losing: usize,
    is_cut: bool,
    /// Who polled each half last.
    wakers: [Option<Waker>; 2],
}

#[derive(Clone, Copy)]
enum Half {
    Sending,
    Receiving,
}

impl Fate {
    fn cut(&self) {
        if self.shared.spared.load(Ordering::Relaxed) {
            return;
        }
        let mut state = lock(&self.state);
        state.is_cut = true;
        let wakers = mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Whether the link still holds; if so, `waker` hears of its end.
    fn check(&self, half: Half, waker: &Waker) -> Result<(), TransportError> {
        let mut state = lock(&self.state);
        if state.is_cut {
            return Err(TransportError::lost("the link was cut on purpose"));
        }
        let [sending, receiving] = &mut state.wakers;
        let kept = match half {
            Half::Sending => sending,
            Half::Receiving => receiving,
        };
        let stale = match kept {
            Some(kept) if kept.will_wake(waker) => None,
            _ => kept.replace(waker.clone()),
        };
        // Only unlocked: the last waker of a task may drop all that it owns.
        drop(state);
        drop(stale);
        Ok(())
    }

    /// Whether a frame that is sent now is lost.
    fn loses(&self) -> bool {
        let state = lock(&self.state);
        let is_near = state.frames_left.is_some_and(|left| left <= state.losing);
        is_near && !self.shared.spared.load(Ordering::Relaxed)
    }

    /// Whether the next frame is the last.
    fn is_at_its_last(&self) -> bool {
        lock(&self.state).frames_left == Some(1)
    }

    fn count(&self, frames: usize) {
        let mut state = lock(&self.state);
        let Some(left) = &mut state.frames_left else {
            return;
        };
        *left = left.saturating_sub(frames);
        if *left == 0 {
            drop(state);
            self.cut();
        }
    }
}

/// When a half hesitates.
struct Whim {
    hesitation: Option<usize>,
    random: Random,
}

impl Whim {
    /// Frames that a call may deliver where one hesitates.
    const PORTION: RangeInclusive<usize> = 1..=5;

    fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        match self.hesitation {
            Some(n) if self.random.once_in(n) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    fn portion(&mut self) -> usize {
        match self.hesitation {
            Some(_) => self.random.within(Self::PORTION),
            None => usize::MAX,
        }
    }
}

struct Tx {
    /// Dropped when the link is cut.
    inner: Option<Box<dyn FrameTx>>,
    fate: Arc<Fate>,
    whim: Whim,
    /// A frame was taken and thrown away.
    has_lost: bool,
}

impl Tx {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        call: impl FnOnce(&mut dyn FrameTx, &mut Context<'_>) -> Poll<Result<(), TransportError>>,
    ) -> Poll<Result<(), TransportError>> {
        if let Err(error) = self.fate.check(Half::Sending, cx.waker()) {
            self.inner = None;
            return Poll::Ready(Err(error));
        }
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Err(TransportError::lost("the link has failed before")));
        };
        if self.whim.poll(cx).is_pending() {
            return Poll::Pending;
        }
        let polled = call(&mut **inner, cx);
        if matches!(polled, Poll::Ready(Err(_))) {
            // Dead: from here on it fails at once, without hesitating.
            self.inner = None;
        }
        polled
    }
}

impl FrameTx for Tx {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frame: &OutFrame<'_>,
    ) -> Poll<Result<(), TransportError>> {
        let loses = self.fate.loses();
        self.has_lost |= loses;
        let sent = self.poll(cx, |inner, cx| match loses {
            true => Poll::Ready(Ok(())),
            false => inner.poll_send(cx, frame),
        });
        if matches!(sent, Poll::Ready(Ok(()))) {
            if self.fate.is_at_its_last()
                && let Some(inner) = &mut self.inner
            {
                // What was sent before arrives, as far as the medium takes it at
                // once: else a burst longer than the life of any link would
                // never get through.
                let _ = inner.poll_flush(cx);
            }
            self.fate.count(1);
        }
        sent
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if self.has_lost {
            // Both sides would wait for what was lost, and never come to the
            // frame at which the link is cut.
            self.fate.cut();
        }
        self.poll(cx, |inner, cx| inner.poll_flush(cx))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.poll(cx, |inner, cx| inner.poll_close(cx))
    }

    fn lend(&mut self, len: usize) -> Option<Box<dyn LentMemory>> {
        self.inner.as_mut()?.lend(len)
    }
}

struct Rx {
    /// Dropped when the link is cut.
    inner: Option<Box<dyn FrameRx>>,
    fate: Arc<Fate>,
    whim: Whim,
}

impl FrameRx for Rx {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<Received, TransportError>> {
        if let Err(error) = self.fate.check(Half::Receiving, cx.waker()) {
            self.inner = None;
            return Poll::Ready(Err(error));
        }
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(Err(TransportError::lost("the link has failed before")));
        };
        if self.whim.poll(cx).is_pending() {
            return Poll::Pending;
        }
        let portion = self.whim.portion();
        let mut delivered = 0;
        let polled = inner.poll_recv(cx, &mut |frame| {
            delivered += 1;
            let flow = sink(frame);
            if delivered < portion {
                flow
            } else {
                ControlFlow::Break(())
            }
        });
        if matches!(polled, Poll::Ready(Err(_))) {
            self.inner = None;
        }
        if delivered > 0 {
            self.fate.count(delivered);
        }
        polled
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use bytes::Bytes;

    use super::*;
    use crate::transport::{TransportErrorKind, memory};

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send(tx: &mut dyn FrameTx, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        tx.poll_send(cx, &OutFrame::encoded(&Bytes::from_static(b"frame")))
    }

    fn recv(rx: &mut dyn FrameRx, cx: &mut Context<'_>) -> Poll<Result<Received, TransportError>> {
        rx.poll_recv(cx, &mut |_| ControlFlow::Break(()))
    }

    fn is_lost<T>(polled: &Poll<Result<T, TransportError>>) -> bool {
        matches!(polled, Poll::Ready(Err(error)) if error.kind() == TransportErrorKind::Lost)
    }

    #[test]
    fn a_link_is_cut_after_its_frames_and_the_peer_notices() {
        let mut cx = Context::from_waker(Waker::noop());
        let (ours, theirs) = memory::pair();
        let (mut tx, mut rx) = Chaos::new(1).cut_after(3..=3).wrap(ours).split();
        let (mut their_tx, mut their_rx) = theirs.split();

        assert!(send(&mut *their_tx, &mut cx).is_ready());
        assert!(recv(&mut *rx, &mut cx).is_ready());
        assert!(matches!(send(&mut *tx, &mut cx), Poll::Ready(Ok(()))));
        assert!(matches!(send(&mut *tx, &mut cx), Poll::Ready(Ok(()))));

        for _ in 0..2 {
            assert!(is_lost(&send(&mut *tx, &mut cx)));
            assert!(is_lost(&tx.poll_flush(&mut cx)));
            assert!(is_lost(&recv(&mut *rx, &mut cx)));
        }
        for _ in 0..2 {
            let received = recv(&mut *their_rx, &mut cx);
            assert!(matches!(received, Poll::Ready(Ok(Received::Frames))));
        }
        assert!(is_lost(&recv(&mut *their_rx, &mut cx)));
        assert!(is_lost(&send(&mut *their_tx, &mut cx)));
    }

    #[test]
    fn cutting_wakes_who_waits_and_spares_later_links() {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut cx = Context::from_waker(&waker);
        let chaos = Chaos::new(1);
        let (ours, _theirs) = memory::pair();
        let (_tx, mut rx) = chaos.wrap(ours).split();
        assert!(recv(&mut *rx, &mut cx).is_pending());

        chaos.cut_all();
        assert_eq!(bell.0.load(Ordering::Relaxed), 1);
        assert!(is_lost(&recv(&mut *rx, &mut cx)));

        let (ours, _theirs) = memory::pair();
        let (mut tx, _rx) = chaos.wrap(ours).split();
        assert!(matches!(send(&mut *tx, &mut cx), Poll::Ready(Ok(()))));
    }

    #[test]
    fn whoever_hesitates_wakes_and_gets_through_in_the_end() {
        for seed in crate::testkit::seeds(100) {
            let bell = Arc::new(Bell::default());
            let waker = Waker::from(Arc::clone(&bell));
            let mut cx = Context::from_waker(&waker);
            let (ours, _theirs) = memory::pair();
            let (mut tx, _rx) = Chaos::new(seed).hesitating_once_in(2).wrap(ours).split();
            let (mut sent, mut hesitated) = (0, 0);
            while sent < 20 {
                match send(&mut *tx, &mut cx) {
                    Poll::Ready(result) => {
                        result.expect("the link holds");
                        sent += 1;
                    }
                    Poll::Pending => hesitated += 1,
                }
            }
            assert!(hesitated > 0, "seed {seed}");
            assert_eq!(bell.0.load(Ordering::Relaxed), hesitated, "seed {seed}");
        }
    }
}
