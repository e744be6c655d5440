//! What is answered to whom: the one service of the interop program.
//!
//! The table in `examples/interop/README.md` is the specification. The server
//! serves it, and the driver too, so that servers can call their clients.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use rsocket_core::{Error, Failure, Payload, PayloadStream, Requester, Responder};

/// What the whole process did for its peers.
#[derive(Default)]
pub(crate) struct Counters {
    fire_and_forget: AtomicU64,
    metadata_push: AtomicU64,
    cancelled: AtomicU64,
    active: AtomicU64,
    most_active: AtomicU64,
}

impl Counters {
    fn begin(self: &Arc<Self>) -> Work {
        let active = self.active.fetch_add(1, Relaxed) + 1;
        self.most_active.fetch_max(active, Relaxed);
        Work {
            counters: Arc::clone(self),
            finished: false,
        }
    }
}

/// As `stats` answers.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fnf={} cancel={} push={} maxout={} active={}",
            self.fire_and_forget.load(Relaxed),
            self.cancelled.load(Relaxed),
            self.metadata_push.load(Relaxed),
            self.most_active.load(Relaxed),
            self.active.load(Relaxed),
        )
    }
}

/// One request in work.
///
/// The library drops a handler when its requester cancels, and when the
/// connection ends. So work that is dropped before it is finished was
/// cancelled: there is no other sign of it, and none is needed.
struct Work {
    counters: Arc<Counters>,
    finished: bool,
}

impl Work {
    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if !self.finished {
            self.counters.cancelled.fetch_add(1, Relaxed);
        }
        self.counters.active.fetch_sub(1, Relaxed);
    }
}

/// For handlers that may be polled again after they are done.
fn finish(work: &mut Option<Work>) {
    if let Some(work) = work.take() {
        work.finish();
    }
}

/// The service, for one peer.
#[derive(Clone)]
pub(crate) struct Service {
    counters: Arc<Counters>,
    /// Whom `callme` calls. A client has its responder before it has its
    /// requester, so this is filled in later.
    peer: Arc<OnceLock<Requester>>,
}

impl Service {
    pub(crate) fn new(counters: &Arc<Counters>) -> Self {
        Self {
            counters: Arc::clone(counters),
            peer: Arc::default(),
        }
    }

    /// Says who is at the other end of the connection. Only the first call
    /// counts.
    ///
    /// From then on the connection does not end for want of a [`Requester`]: it
    /// keeps this service, and the service keeps one.
    pub(crate) fn set_peer(&self, peer: Requester) {
        let _ = self.peer.set(peer);
    }

    async fn answer(&self, request: Payload) -> Result<Payload, Failure> {
        let data = request.data();
        if data.starts_with(b"echo:") {
            Ok(request)
        } else if let Some(message) = data.strip_prefix(b"error:") {
            Err(Failure::application(String::from_utf8_lossy(message)))
        } else if let Some([len]) = numbers(data, b"big:") {
            pattern(len).map(Payload::new)
        } else if data.starts_with(b"len:") {
            Ok(data.len().to_string().into())
        } else if data == b"never" {
            std::future::pending().await
        } else if let Some(text) = data.strip_prefix(b"callme:") {
            self.call_peer(text).await
        } else {
            Err(unknown())
        }
    }

    async fn call_peer(&self, text: &[u8]) -> Result<Payload, Failure> {
        let Some(peer) = self.peer.get() else {
            return Err(Failure::application("the connection is not ready"));
        };
        let request = [b"echo:", text].concat();
        // Dropped with this handler: a cancel of ours goes on to the peer.
        Ok(peer.request_response(request).await?)
    }
}

impl Responder for Service {
    async fn fire_and_forget(&self, _request: Payload) {
        self.counters.fire_and_forget.fetch_add(1, Relaxed);
    }

    async fn metadata_push(&self, _metadata: Bytes) {
        self.counters.metadata_push.fetch_add(1, Relaxed);
    }

    async fn request_response(&self, request: Payload) -> Result<Payload, Failure> {
        if request.data() == b"stats" {
            return Ok(self.counters.to_string().into()); // Not work itself.
        }
        let work = self.counters.begin();
        let answer = self.answer(request).await;
        work.finish();
        answer
    }

    fn request_stream(
        &self,
        request: Payload,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<> {
        Counted {
            work: Some(self.counters.begin()),
            items: stream::iter(items(request.data())),
        }
    }

    fn request_channel(
        &self,
        inbound: PayloadStream,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<> {
        Channel {
            work: Some(self.counters.begin()),
            inbound,
            kind: Kind::NotKnownYet,
        }
    }
}

fn unknown() -> Failure {
    Failure::application("unknown")
}

/// The numbers behind `prefix`, if there are exactly `N`, separated by colons.
fn numbers<const N: usize>(data: &[u8], prefix: &[u8]) -> Option<[u64; N]> {
    let text = std::str::from_utf8(data.strip_prefix(prefix)?).ok()?;
    let number = |digits: &str| {
        // `parse` alone would let a sign pass.
        let all_digits = digits.bytes().all(|c| c.is_ascii_digit());
        all_digits.then(|| digits.parse().ok()).flatten()
    };
    let numbers: Option<Vec<u64>> = text.split(':').map(number).collect();
    numbers?.try_into().ok()
}

/// The first `len` bytes of the pattern: byte i is i mod 251.
///
/// All patterns are one piece of memory, so a thousand long answers that nobody
/// reads cost what the longest does.
///
/// # Errors
///
/// Beyond 64 MiB: who asks for it must not make this process take it.
pub(crate) fn pattern(len: u64) -> Result<Bytes, Failure> {
    const MAX_LEN: usize = 64 << 20;
    static LONGEST: Mutex<Bytes> = Mutex::new(Bytes::new());

    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > MAX_LEN {
        let message = format!("more than {MAX_LEN} bytes are not to be had");
        return Err(Failure::application(message));
    }
    let mut longest = LONGEST.lock().unwrap_or_else(PoisonError::into_inner);
    if longest.len() < len {
        *longest = (0..251).cycle().take(len).collect::<Vec<u8>>().into();
    }
    Ok(longest.slice(..len))
}

type Item = Result<Payload, Failure>;

/// What a request-stream is answered with. The library takes from it only as
/// much as the requester's credit allows, so it may be endless.
fn items(request: &[u8]) -> Box<dyn Iterator<Item = Item> + Send> {
    fn counting(numbers: impl Iterator<Item = u64>) -> impl Iterator<Item = Item> {
        numbers.map(|n| Ok(n.to_string().into()))
    }
    if let Some([n]) = numbers(request, b"range:") {
        Box::new(counting(0..n))
    } else if request == b"infinite" {
        Box::new(counting(0..))
    } else if let Some([n]) = numbers(request, b"fail:") {
        let boom = Failure::application("boom");
        Box::new(counting(0..n).chain([Err(boom)]))
    } else if request == b"empty" {
        Box::new(std::iter::empty())
    } else if let Some([n, len]) = numbers(request, b"bigitems:") {
        let item = pattern(len).map(Payload::new);
        Box::new((0..n).map(move |_| item.clone()))
    } else {
        Box::new(std::iter::once(Err(unknown())))
    }
}

/// A stream whose end, if it comes to one, finishes its work.
struct Counted<S> {
    work: Option<Work>,
    items: S,
}

impl<S: Stream<Item = Item> + Unpin> Stream for Counted<S> {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let item = ready!(self.items.poll_next_unpin(cx));
        if !matches!(item, Some(Ok(_))) {
            finish(&mut self.work);
        }
        Poll::Ready(item)
    }
}

/// The answers of a request-channel.
struct Channel {
    work: Option<Work>,
    inbound: PayloadStream,
    kind: Kind,
}

/// What the first payload asks for.
enum Kind {
    NotKnownYet,
    Echo,
    /// The sum so far.
    Sum(i128),
    /// How many payloads are still to be echoed.
    Stop(u64),
}

impl Channel {
    /// Takes one payload in, and returns what it makes this side send.
    fn take(&mut self, payload: Payload) -> Result<Option<Payload>, Failure> {
        if matches!(self.kind, Kind::NotKnownYet) {
            self.kind = Kind::chosen_by(&payload).ok_or_else(unknown)?;
            if matches!(self.kind, Kind::Sum(_)) {
                return Ok(None);
            }
        }
        match &mut self.kind {
            Kind::Sum(sum) => {
                let number = payload.data_utf8().and_then(|text| text.parse().ok());
                let next = number.and_then(|number| sum.checked_add(number));
                *sum = next.ok_or_else(|| Failure::application("not a number"))?;
                Ok(Some(sum.to_string().into()))
            }
            Kind::Stop(left) => {
                // At 0 nothing is sent: `stop:0`.
                Ok(left.checked_sub(1).map(|less| {
                    *left = less;
                    payload
                }))
            }
            Kind::NotKnownYet | Kind::Echo => Ok(Some(payload)),
        }
    }

    /// Inbound stays open when this side ends first. It is dropped behind what
    /// was sent, completion included, and only then cancelled.
    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        loop {
            if matches!(self.kind, Kind::Stop(0)) {
                return Poll::Ready(None);
            }
            let answer = match ready!(self.inbound.poll_next_unpin(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(payload)) => self.take(payload),
                Some(Err(error)) => Err(error.into()),
            };
            if let Some(item) = answer.transpose() {
                return Poll::Ready(Some(item));
            }
        }
    }
}

impl Kind {
    fn chosen_by(first: &Payload) -> Option<Self> {
        match first.data() {
            b"echo" => Some(Self::Echo),
            b"sum" => Some(Self::Sum(0)),
            data => numbers(data, b"stop:").map(|[n]| Self::Stop(n)),
        }
    }
}

impl Stream for Channel {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let item = ready!(self.poll_item(cx));
        if !matches!(item, Some(Ok(_))) {
            finish(&mut self.work);
        }
        Poll::Ready(item)
    }
}

impl Drop for Channel {
    /// Tells an ERROR of the requester, which ends a channel as well, from its
    /// CANCEL: only the latter is to be counted, and inbound knows.
    fn drop(&mut self) {
        if self.work.is_none() {
            return;
        }
        while let Some(Some(item)) = self.inbound.next().now_or_never() {
            if let Err(Error::Peer(_)) = item {
                finish(&mut self.work);
            }
        }
    }
}
