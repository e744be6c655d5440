//! Links inside one process: the reference transport.
//!
//! Each direction is a bounded pipe of bytes. The sender appends
//! `length: u32 | frame` under a short lock; the receiver swaps the whole
//! buffer for its own empty one and lends the frames out of it without the
//! lock. Two buffers change places for the life of a link, so in steady state
//! nothing is allocated.
//!
//! What the receiver swapped out counts against the capacity until it has
//! delivered all of it and comes for more, so a pipe never holds more than its
//! capacity, and a receiver that is not polled holds up the sender.
//!
//! [`pair`] makes a link without any address. [`MemoryListener`] and
//! [`MemoryConnector`] meet under a name, which is also the URL `memory:name`;
//! names are known to the whole process.

#![expect(
    clippy::disallowed_types,
    reason = "a transport may lock and wake, only the protocol may not"
)]

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    future::{self, poll_fn},
    mem,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::{
    Connector, FrameRx, FrameTx, Handshake, InFrame, Limits, Link, LinkInfo, Listener, OutFrame,
    Received, TransportError, TransportErrorKind, Transports, UrlError,
};

/// Bytes that one direction of a link holds by default, length prefixes
/// included: 256 KiB. It is small enough to stay in a processor's cache with
/// its twin, and holds thousands of small frames between two turns of a task.
pub const DEFAULT_CAPACITY: usize = 256 * 1024;

/// Connections that wait at a listener until it accepts them; more wait in
/// `connect`. 128, as many as systems commonly queue for a TCP listener: enough
/// for a burst of clients, and a bound on what clients that are not accepted
/// yet may store (one pipe each).
pub const BACKLOG: usize = 128;

const SCHEME: &str = "memory";

/// The length prefix of a frame within a pipe.
const PREFIX: usize = size_of::<u32>();

/// Two ends of one link, of [`DEFAULT_CAPACITY`].
///
/// # Examples
///
/// ```
/// let (ours, theirs) = rsocket_core::transport::memory::pair();
/// assert_eq!(ours.info().scheme, theirs.info().scheme);
/// ```
pub fn pair() -> (Link, Link) {
    pair_with_capacity(DEFAULT_CAPACITY)
}

/// Two ends of one link that holds `capacity` bytes in each direction.
///
/// Each frame costs its length and a prefix of 4 bytes. A frame that is longer
/// than the capacity is taken when the pipe is empty, so that any capacity, be
/// it 0, lets every frame pass.
pub fn pair_with_capacity(capacity: usize) -> (Link, Link) {
    let (tx_a, rx_b) = pipe(capacity);
    let (tx_b, rx_a) = pipe(capacity);
    let info = || LinkInfo::new(SCHEME);
    (Link::new(tx_a, rx_a, info()), Link::new(tx_b, rx_b, info()))
}

fn pipe(capacity: usize) -> (Tx, Rx) {
    let pipe = Arc::new(Pipe {
        capacity,
        state: Mutex::default(),
    });
    let rx = Rx {
        pipe: Arc::clone(&pipe),
        batch: Vec::new(),
        at: 0,
        unsettled: 0,
    };
    (Tx { pipe }, rx)
}

struct Pipe {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Frames that the receiver has not swapped out yet.
    buffer: Vec<u8>,
    /// Bytes in `buffer`, and those swapped out but not settled yet.
    undelivered: usize,
    /// Waits for room.
    sender_waker: Option<Waker>,
    /// Waits for frames.
    receiver_waker: Option<Waker>,
    sender: Sender,
    receiver_dropped: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Sender {
    #[default]
    Open,
    Closed,
    Dropped,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Frames longer than the whole pipe pass one at a time.
    fn has_room(&self, len: usize, capacity: usize) -> bool {
        self.undelivered == 0 || self.undelivered.saturating_add(len) <= capacity
    }

    /// The receiver's bell, if it waits and there is something that it has not
    /// seen. Ring it after unlocking.
    fn bell(&mut self) -> Option<Waker> {
        if self.buffer.is_empty() && self.sender == Sender::Open {
            return None;
        }
        self.receiver_waker.take()
    }
}

struct Tx {
    pipe: Arc<Pipe>,
}

impl FrameTx for Tx {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frame: &OutFrame<'_>,
    ) -> Poll<Result<(), TransportError>> {
        let len = frame.len();
        assert!(
            len <= Limits::default().max_frame_len,
            "a frame of {len} bytes is over the link's limit"
        );
        #[expect(clippy::cast_possible_truncation, reason = "checked above: 24 bits")]
        let prefix = len as u32;

        let mut state = self.pipe.lock();
        check_open(&state)?;
        if !state.has_room(PREFIX + len, self.pipe.capacity) {
            let stale = keep(&mut state.sender_waker, cx.waker());
            // Frames that nobody was told of yet would never make room.
            let bell = state.bell();
            drop(state);
            drop(stale);
            ring(bell);
            return Poll::Pending;
        }
        state.undelivered += PREFIX + len;
        if PREFIX + len > self.pipe.capacity {
            // It travels alone and is given away with its memory: no slack.
            state.buffer.reserve_exact(PREFIX + len);
        }
        state.buffer.extend_from_slice(&prefix.to_ne_bytes());
        frame.put(&mut state.buffer);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let mut state = self.pipe.lock();
        check_open(&state)?;
        let bell = state.bell();
        drop(state);
        ring(bell);
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let mut state = self.pipe.lock();
        if state.receiver_dropped {
            return Poll::Ready(Err(receiver_dropped()));
        }
        state.sender = Sender::Closed;
        let bell = state.bell();
        drop(state);
        ring(bell);
        Poll::Ready(Ok(()))
    }
}

fn check_open(state: &State) -> Result<(), TransportError> {
    if state.receiver_dropped {
        return Err(receiver_dropped());
    }
    match state.sender {
        Sender::Open => Ok(()),
        Sender::Closed | Sender::Dropped => {
            Err(TransportError::lost("this side has closed the link"))
        }
    }
}

fn receiver_dropped() -> TransportError {
    TransportError::lost("the peer dropped its receiving half")
}

impl Drop for Tx {
    fn drop(&mut self) {
        let mut state = self.pipe.lock();
        if state.sender == Sender::Open {
            state.sender = Sender::Dropped;
        }
        let own = state.sender_waker.take();
        let bell = state.bell();
        drop(state);
        drop(own);
        ring(bell);
    }
}

struct Rx {
    pipe: Arc<Pipe>,
    /// Frames swapped out of the pipe.
    batch: Vec<u8>,
    /// Where in `batch` the next frame begins.
    at: usize,
    /// Bytes that were swapped out and still count in the pipe.
    unsettled: usize,
}

impl FrameRx for Rx {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<Received, TransportError>> {
        if self.at == self.batch.len() {
            match self.poll_swap(cx.waker()) {
                Poll::Ready(Ok(Received::Frames)) => {}
                other => return other,
            }
        }
        if self.batch.len() > self.pipe.capacity {
            self.give_away(sink);
        } else {
            self.lend(sink);
        }
        Poll::Ready(Ok(Received::Frames))
    }
}

impl Rx {
    /// Returns the room of the batch that was delivered, and takes all frames
    /// that are there.
    fn poll_swap(&mut self, waker: &Waker) -> Poll<Result<Received, TransportError>> {
        self.batch.clear();
        self.at = 0;

        let mut stale = None;
        let mut sender = None;
        let mut state = self.pipe.lock();
        if self.unsettled > 0 {
            state.undelivered -= mem::take(&mut self.unsettled);
            sender = state.sender_waker.take();
        }
        let polled = if state.buffer.is_empty() {
            match state.sender {
                Sender::Open => {
                    stale = keep(&mut state.receiver_waker, waker);
                    Poll::Pending
                }
                Sender::Closed => Poll::Ready(Ok(Received::End)),
                Sender::Dropped => Poll::Ready(Err(TransportError::lost(
                    "the peer dropped its sending half without closing it",
                ))),
            }
        } else {
            mem::swap(&mut state.buffer, &mut self.batch);
            self.unsettled = self.batch.len();
            Poll::Ready(Ok(Received::Frames))
        };
        drop(state);
        drop(stale);
        ring(sender);
        polled
    }

    fn lend(&mut self, sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>) {
        while let Some(frame) = self.batch.get(self.at..).and_then(first_frame) {
            // Before the call, so that a sink that panics gets no frame twice.
            self.at += PREFIX + frame.len();
            if sink(InFrame::Borrowed(frame)).is_break() {
                break;
            }
        }
    }

    /// A batch over the capacity is one long frame: what it lies in goes with
    /// it, which saves a copy and keeps the link's two buffers short.
    fn give_away(&mut self, sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>) {
        let batch = Bytes::from(mem::take(&mut self.batch));
        // Nothing is left of the batch, so what the sink says does not matter.
        let _ = sink(InFrame::Shared(batch.slice(PREFIX..)));
    }
}

fn first_frame(batch: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = batch.split_first_chunk::<PREFIX>()?;
    rest.get(..u32::from_ne_bytes(*prefix) as usize)
}

impl Drop for Rx {
    fn drop(&mut self) {
        let mut state = self.pipe.lock();
        state.receiver_dropped = true;
        let buffer = mem::take(&mut state.buffer);
        let own = state.receiver_waker.take();
        let sender = state.sender_waker.take();
        drop(state);
        drop((buffer, own));
        ring(sender);
    }
}

/// Listeners by name, for the whole process.
static NAMES: Mutex<BTreeMap<String, Arc<Backlog>>> = Mutex::new(BTreeMap::new());

/// Connections between a connector and the listener of its name.
#[derive(Default)]
struct Backlog {
    state: Mutex<BacklogState>,
}

#[derive(Default)]
struct BacklogState {
    waiting: VecDeque<Link>,
    acceptor: Option<Waker>,
    /// Calls of `connect` that wait for room, by a number that each is given.
    connectors: BTreeMap<u64, Waker>,
    /// The number given last.
    last_connector: u64,
    listener_dropped: bool,
}

/// Accepts links from [`MemoryConnector`]s of the same name.
///
/// Dropping it frees the name and breaks the links that it has not accepted.
pub struct MemoryListener {
    name: String,
    backlog: Arc<Backlog>,
}

impl MemoryListener {
    /// Takes `name`, which is valid in this process only.
    ///
    /// # Errors
    ///
    /// [`TransportErrorKind::Invalid`] when a listener has the name already.
    pub fn bind(name: impl Into<String>) -> Result<Self, TransportError> {
        let name = name.into();
        let backlog = Arc::new(Backlog::default());
        match lock(&NAMES).entry(name.clone()) {
            Entry::Occupied(_) => Err(TransportError::new(
                TransportErrorKind::Invalid,
                format!("`{SCHEME}:{name}` has a listener already"),
            )),
            Entry::Vacant(free) => {
                free.insert(Arc::clone(&backlog));
                Ok(Self { name, backlog })
            }
        }
    }
}

impl std::fmt::Debug for MemoryListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryListener")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl Listener for MemoryListener {
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        let link = poll_fn(|cx| self.backlog.poll_accept(cx.waker())).await;
        Ok(Box::pin(future::ready(Ok(link))))
    }

    fn url(&self) -> String {
        format!("{SCHEME}:{}", self.name)
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        lock(&NAMES).remove(&self.name);
        let mut state = lock(&self.backlog.state);
        state.listener_dropped = true;
        let waiting = mem::take(&mut state.waiting);
        let connectors = mem::take(&mut state.connectors);
        drop(state);
        drop(waiting);
        connectors.into_values().for_each(Waker::wake);
    }
}

impl Backlog {
    fn poll_accept(&self, waker: &Waker) -> Poll<Link> {
        let mut state = lock(&self.state);
        let Some(link) = state.waiting.pop_front() else {
            let stale = keep(&mut state.acceptor, waker);
            drop(state);
            drop(stale);
            return Poll::Pending;
        };
        // All of them: one that was woken may be dropped before it is polled.
        let connectors = mem::take(&mut state.connectors);
        drop(state);
        connectors.into_values().for_each(Waker::wake);
        Poll::Ready(link)
    }
}

/// Connects to the [`MemoryListener`] of a name.
///
/// A link is made at once and waits at the listener until it is accepted; what
/// is sent on it meanwhile is kept. When [`BACKLOG`] links wait already,
/// `connect` waits too.
#[derive(Clone, Debug)]
pub struct MemoryConnector {
    name: String,
    capacity: usize,
}

impl MemoryConnector {
    /// Looks for `name` whenever it is asked to connect, not before.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            capacity: DEFAULT_CAPACITY,
        }
    }

    /// Sets how many bytes a link holds in each direction: see
    /// [`pair_with_capacity`].
    #[must_use]
    pub fn with_capacity(mut self, bytes: usize) -> Self {
        self.capacity = bytes;
        self
    }

    fn unreachable(&self) -> TransportError {
        TransportError::new(
            TransportErrorKind::Unreachable,
            format!("nobody listens at `{SCHEME}:{}`", self.name),
        )
    }
}

#[async_trait::async_trait]
impl Connector for MemoryConnector {
    async fn connect(&self) -> Result<Link, TransportError> {
        let backlog = lock(&NAMES).get(&self.name).cloned();
        let backlog = backlog.ok_or_else(|| self.unreachable())?;
        let mut place = Place {
            backlog: &backlog,
            number: None,
        };
        poll_fn(|cx| place.poll_connect(cx.waker(), self)).await
    }
}

/// A call of `connect`, and its place among those that wait for room.
struct Place<'a> {
    backlog: &'a Backlog,
    number: Option<u64>,
}

impl Place<'_> {
    fn poll_connect(
        &mut self,
        waker: &Waker,
        connector: &MemoryConnector,
    ) -> Poll<Result<Link, TransportError>> {
        let mut state = lock(&self.backlog.state);
        if state.listener_dropped {
            return Poll::Ready(Err(connector.unreachable()));
        }
        if state.waiting.len() >= BACKLOG {
            let number = *self.number.get_or_insert_with(|| {
                state.last_connector += 1;
                state.last_connector
            });
            let stale = state.connectors.insert(number, waker.clone());
            drop(state);
            drop(stale);
            return Poll::Pending;
        }
        let (ours, theirs) = pair_with_capacity(connector.capacity);
        state.waiting.push_back(theirs);
        let acceptor = state.acceptor.take();
        drop(state);
        ring(acceptor);
        Poll::Ready(Ok(ours))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let own = lock(&self.backlog.state).connectors.remove(&number);
            drop(own);
        }
    }
}

/// Makes URLs of the form `memory:name` known to `transports`.
pub fn register(transports: &mut Transports) {
    transports.register(
        SCHEME,
        |url| Ok(Box::new(MemoryConnector::new(name_in(url)?)) as Box<dyn Connector>),
        |url| async move {
            Ok(Box::new(MemoryListener::bind(name_in(&url)?)?) as Box<dyn Listener>)
        },
    );
}

fn name_in(url: &str) -> Result<&str, TransportError> {
    match url.split_once(':') {
        Some((SCHEME, name)) if !name.is_empty() => Ok(name),
        _ => Err(TransportError::new(
            TransportErrorKind::Invalid,
            UrlError::BadAddress {
                url: url.to_owned(),
                expected: "memory:name",
            },
        )),
    }
}

/// A panic elsewhere leaves nothing half done: no call of foreign code is made
/// under any of these locks, but for the clone of a waker.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps `waker` in `slot`. What it returns is to be dropped after unlocking,
/// since dropping the last waker of a task may drop the task and all it owns.
#[must_use]
fn keep(slot: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    match slot {
        Some(kept) if kept.will_wake(waker) => None,
        _ => slot.replace(waker.clone()),
    }
}

fn ring(bell: Option<Waker>) {
    if let Some(waker) = bell {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Bell {
        fn rung(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A task of its own: a bell to be polled with.
    fn task() -> (Arc<Bell>, Waker) {
        let bell = Arc::new(Bell::default());
        (Arc::clone(&bell), Waker::from(bell))
    }

    type Polled<T> = Poll<Result<T, TransportError>>;

    fn send(tx: &mut dyn FrameTx, waker: &Waker, frame: &[u8]) -> Polled<()> {
        let frame = OutFrame::new(frame, super::super::Part::EMPTY, super::super::Part::EMPTY);
        tx.poll_send(&mut Context::from_waker(waker), &frame)
    }

    fn flush(tx: &mut dyn FrameTx, waker: &Waker) -> Polled<()> {
        tx.poll_flush(&mut Context::from_waker(waker))
    }

    fn close(tx: &mut dyn FrameTx, waker: &Waker) -> Polled<()> {
        tx.poll_close(&mut Context::from_waker(waker))
    }

    /// All frames of one call.
    fn recv(rx: &mut dyn FrameRx, waker: &Waker) -> (Polled<Received>, Vec<Vec<u8>>) {
        let mut frames = Vec::new();
        let polled = rx.poll_recv(&mut Context::from_waker(waker), &mut |frame| {
            frames.push(frame.as_slice().to_vec());
            ControlFlow::Continue(())
        });
        (polled, frames)
    }

    fn is_lost<T>(polled: &Polled<T>) -> bool {
        matches!(polled, Poll::Ready(Err(error)) if error.kind() == TransportErrorKind::Lost)
    }

    fn one_way(capacity: usize) -> (Box<dyn FrameTx>, Box<dyn FrameRx>) {
        let (tx, rx) = pipe(capacity);
        (Box::new(tx), Box::new(rx))
    }

    /// Runs futures that need no runtime.
    fn block_on<F: Future>(future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let (bell, waker) = task();
        let mut polls = 0;
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            polls += 1;
            assert!(
                bell.rung() >= polls,
                "it waits for something that never comes"
            );
        }
    }

    /// What is wrong with a link that should not have been made.
    fn refusal(connected: Result<Link, TransportError>) -> (TransportErrorKind, String) {
        let error = connected.expect_err("a link was made");
        let source = std::error::Error::source(&error).expect("it has a cause");
        (error.kind(), source.to_string())
    }

    #[test]
    fn sending_is_silent_and_a_flush_rings_once() {
        let (mut tx, mut rx) = one_way(100);
        let (_, sender) = task();
        let (bell, receiver) = task();
        assert!(recv(&mut *rx, &receiver).0.is_pending());

        assert!(send(&mut *tx, &sender, b"a").is_ready());
        assert!(send(&mut *tx, &sender, b"b").is_ready());
        assert_eq!(bell.rung(), 0, "nothing was flushed yet");
        assert!(flush(&mut *tx, &sender).is_ready());
        assert!(flush(&mut *tx, &sender).is_ready());
        assert_eq!(bell.rung(), 1, "one bell a batch");

        let (polled, frames) = recv(&mut *rx, &receiver);
        assert!(matches!(polled, Poll::Ready(Ok(Received::Frames))));
        assert_eq!(frames, [b"a", b"b"]);
    }

    #[test]
    fn a_flush_of_nothing_rings_nobody() {
        let (mut tx, mut rx) = one_way(100);
        let (bell, receiver) = task();
        assert!(recv(&mut *rx, &receiver).0.is_pending());
        assert!(matches!(flush(&mut *tx, &receiver), Poll::Ready(Ok(()))));
        assert_eq!(bell.rung(), 0);
    }

    #[test]
    fn room_returns_when_the_receiver_comes_back_for_more() {
        let (mut tx, mut rx) = one_way(2 * (PREFIX + 10));
        let (sender_bell, sender) = task();
        let (_, receiver) = task();
        assert!(send(&mut *tx, &sender, &[1; 10]).is_ready());
        assert!(send(&mut *tx, &sender, &[2; 10]).is_ready());
        assert!(send(&mut *tx, &sender, &[3; 10]).is_pending());

        assert_eq!(recv(&mut *rx, &receiver).1.len(), 2);
        assert!(
            send(&mut *tx, &sender, &[3; 10]).is_pending(),
            "what was swapped out still counts"
        );
        assert_eq!(sender_bell.rung(), 0);

        assert!(recv(&mut *rx, &receiver).0.is_pending());
        assert_eq!(sender_bell.rung(), 1);
        assert!(send(&mut *tx, &sender, &[3; 10]).is_ready());
        assert_eq!(recv(&mut *rx, &receiver).1, [[3; 10]]);
    }

    #[test]
    fn a_full_pipe_rings_a_receiver_that_was_not_told_yet() {
        let (mut tx, mut rx) = one_way(PREFIX + 1);
        let (bell, receiver) = task();
        let (_, sender) = task();
        assert!(recv(&mut *rx, &receiver).0.is_pending());
        assert!(send(&mut *tx, &sender, b"a").is_ready());
        assert!(send(&mut *tx, &sender, b"b").is_pending());
        assert_eq!(bell.rung(), 1, "else both would wait for ever");
    }

    #[test]
    fn a_frame_longer_than_the_pipe_passes_alone() {
        let (mut tx, mut rx) = one_way(16);
        let (_, waker) = task();
        let long = vec![7; 1000];
        assert!(send(&mut *tx, &waker, &long).is_ready());
        assert!(send(&mut *tx, &waker, b"x").is_pending());

        let mut shared = 0;
        let polled = rx.poll_recv(&mut Context::from_waker(&waker), &mut |frame| {
            assert_eq!(frame.as_slice(), long);
            shared += usize::from(matches!(frame, InFrame::Shared(_)));
            ControlFlow::Continue(())
        });
        assert!(matches!(polled, Poll::Ready(Ok(Received::Frames))));
        assert_eq!(shared, 1, "its memory goes with it");

        assert!(recv(&mut *rx, &waker).0.is_pending());
        assert!(send(&mut *tx, &waker, b"x").is_ready());
        assert_eq!(recv(&mut *rx, &waker).1, [b"x"]);
    }

    #[test]
    fn a_frame_longer_than_the_pipe_leaves_no_long_buffers_behind() {
        let (mut tx, mut rx) = pipe(64);
        let (_, waker) = task();
        for _ in 0..4 {
            for frame in [&[1; 5000][..], &[2; 20]] {
                assert!(send(&mut tx, &waker, frame).is_ready());
                assert_eq!(recv(&mut rx, &waker).1, [frame]);
                assert!(recv(&mut rx, &waker).0.is_pending());
            }
        }
        let state = tx.pipe.lock();
        assert!(state.buffer.capacity() <= 128, "at most one doubling");
        assert!(rx.batch.capacity() <= 128);
    }

    #[test]
    fn buffers_are_reused() {
        let (mut tx, mut rx) = pipe(100);
        let (_, waker) = task();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            assert!(send(&mut tx, &waker, &[0; 60]).is_ready());
            seen.insert(tx.pipe.lock().buffer.as_ptr().addr());
            assert_eq!(recv(&mut rx, &waker).1.len(), 1);
            assert!(recv(&mut rx, &waker).0.is_pending());
        }
        assert!(seen.len() <= 2, "two buffers change places: {}", seen.len());
    }

    #[test]
    fn a_sink_that_breaks_gets_the_rest_later() {
        let (mut tx, mut rx) = one_way(100);
        let (_, waker) = task();
        for n in 0..3 {
            assert!(send(&mut *tx, &waker, &[n]).is_ready());
        }
        for n in 0..3 {
            let mut frames = Vec::new();
            let polled = rx.poll_recv(&mut Context::from_waker(&waker), &mut |frame| {
                frames.extend_from_slice(frame.as_slice());
                ControlFlow::Break(())
            });
            assert!(matches!(polled, Poll::Ready(Ok(Received::Frames))));
            assert_eq!(frames, [n]);
        }
        assert!(recv(&mut *rx, &waker).0.is_pending());
    }

    #[test]
    fn close_comes_after_the_frames_and_stays() {
        let (mut tx, mut rx) = one_way(100);
        let (_, waker) = task();
        let (bell, receiver) = task();
        assert!(recv(&mut *rx, &receiver).0.is_pending());
        assert!(send(&mut *tx, &waker, b"last").is_ready());
        assert!(matches!(close(&mut *tx, &waker), Poll::Ready(Ok(()))));
        assert!(matches!(close(&mut *tx, &waker), Poll::Ready(Ok(()))));
        assert!(is_lost(&send(&mut *tx, &waker, b"late")));
        drop(tx);
        assert_eq!(bell.rung(), 1);

        assert_eq!(recv(&mut *rx, &waker).1, [b"last"]);
        for _ in 0..2 {
            let (polled, frames) = recv(&mut *rx, &waker);
            assert!(matches!(polled, Poll::Ready(Ok(Received::End))));
            assert!(frames.is_empty());
        }
    }

    #[test]
    fn a_dropped_sender_is_lost_after_its_frames() {
        let (mut tx, mut rx) = one_way(100);
        let (_, waker) = task();
        let (bell, receiver) = task();
        assert!(recv(&mut *rx, &receiver).0.is_pending());
        assert!(send(&mut *tx, &waker, b"last").is_ready());
        drop(tx);
        assert_eq!(bell.rung(), 1);

        assert_eq!(recv(&mut *rx, &waker).1, [b"last"]);
        assert!(is_lost(&recv(&mut *rx, &waker).0));
        assert!(is_lost(&recv(&mut *rx, &waker).0), "and stays lost");
    }

    #[test]
    fn a_dropped_receiver_wakes_and_fails_the_sender() {
        let (mut tx, rx) = one_way(10);
        let (bell, waker) = task();
        assert!(send(&mut *tx, &waker, &[0; 10]).is_ready());
        assert!(send(&mut *tx, &waker, &[0; 10]).is_pending());
        drop(rx);
        assert_eq!(bell.rung(), 1);
        assert!(is_lost(&send(&mut *tx, &waker, b"x")));
        assert!(is_lost(&flush(&mut *tx, &waker)));
        assert!(is_lost(&close(&mut *tx, &waker)));
        assert!(is_lost(&send(&mut *tx, &waker, b"x")), "and stays lost");
    }

    #[test]
    fn a_name_is_taken_until_its_listener_is_dropped() {
        let name = "a_name_is_taken";
        let first = MemoryListener::bind(name).unwrap();
        let taken = MemoryListener::bind(name).unwrap_err();
        assert_eq!(taken.kind(), TransportErrorKind::Invalid);
        drop(first);
        assert_eq!(
            MemoryListener::bind(name).unwrap().url(),
            format!("memory:{name}")
        );
    }

    #[test]
    fn an_unknown_name_is_unreachable_and_named() {
        let connector = MemoryConnector::new("nobody-is-here");
        let (kind, text) = refusal(block_on(connector.connect()));
        assert_eq!(kind, TransportErrorKind::Unreachable);
        assert!(text.contains("memory:nobody-is-here"), "{text}");
    }

    #[test]
    fn names_bring_two_ends_together() {
        let mut transports = Transports::new();
        register(&mut transports);
        let url = "memory:names_bring_two_ends_together";
        let mut listener = block_on(transports.listener(url)).unwrap();
        assert_eq!(listener.url(), url);
        let connector = transports.connector(url).unwrap();

        let (mut tx, _) = block_on(connector.connect()).unwrap().split();
        let (_, waker) = task();
        assert!(send(&mut *tx, &waker, b"early").is_ready());

        let handshake = block_on(listener.accept()).unwrap();
        let (_, mut rx) = block_on(handshake).unwrap().split();
        assert_eq!(recv(&mut *rx, &waker).1, [b"early"]);
    }

    #[test]
    fn a_url_without_a_name_is_invalid() {
        let mut transports = Transports::new();
        register(&mut transports);
        let error = transports.connector("memory:").err().expect("no name");
        assert_eq!(error.kind(), TransportErrorKind::Invalid);
    }

    #[test]
    fn more_than_the_backlog_wait_until_one_is_accepted() {
        let name = "more_than_the_backlog";
        let mut listener = MemoryListener::bind(name).unwrap();
        let connector = MemoryConnector::new(name);
        let mut links: Vec<_> = (0..BACKLOG)
            .map(|_| block_on(connector.connect()).unwrap())
            .collect();

        let (bell, waker) = task();
        let mut late = connector.connect();
        let mut abandoned = connector.connect();
        let mut cx = Context::from_waker(&waker);
        assert!(late.as_mut().poll(&mut cx).is_pending());
        assert!(abandoned.as_mut().poll(&mut cx).is_pending());
        drop(abandoned);

        let handshake = block_on(listener.accept()).unwrap();
        assert_eq!(bell.rung(), 1, "a dropped connect leaves no waker behind");
        let Poll::Ready(Ok(link)) = late.as_mut().poll(&mut cx) else {
            panic!("there was room for one more");
        };
        links.push(link);
        assert!(block_on(handshake).is_ok());
    }

    #[test]
    fn a_dropped_listener_fails_those_who_wait() {
        let name = "a_dropped_listener";
        let listener = MemoryListener::bind(name).unwrap();
        let connector = MemoryConnector::new(name);
        let links: Vec<_> = (0..BACKLOG)
            .map(|_| block_on(connector.connect()).unwrap())
            .collect();
        let (bell, waker) = task();
        let mut late = connector.connect();
        assert!(
            late.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );

        drop(listener);
        assert_eq!(bell.rung(), 1);
        let Poll::Ready(result) = late.as_mut().poll(&mut Context::from_waker(&waker)) else {
            panic!("it waits for a listener that is gone");
        };
        assert_eq!(refusal(result).0, TransportErrorKind::Unreachable);
        for link in links {
            let (mut tx, mut rx) = link.split();
            assert!(is_lost(&flush(&mut *tx, &waker)));
            assert!(is_lost(&recv(&mut *rx, &waker).0));
        }
    }
}
