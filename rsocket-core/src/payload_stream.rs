//! [`PayloadStream`] and [`PayloadSink`]: the two halves of long interactions.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use futures_util::StreamExt as _;

use crate::{
    Failure, Payload, Requester,
    driver::{Inner, Outbound, Shared},
    error::Error,
    frame::{Demand, Interaction},
    proto::{Batch, Capacity, DemandPolicy, Open, StreamKey, Take},
    reconnect::Finder,
};

type BoxOutbound = Pin<Box<dyn Stream<Item = Payload> + Send>>;

/// Payloads from the peer, in order, ending with `None` when it completes, or
/// with an error.
///
/// Holds at most its prefetch (64 payloads unless changed) in memory; the peer
/// is granted more as payloads are taken.
///
/// **Dropping it cancels**, at once, even if nothing ever arrives. For the side
/// that asked, this ends the stream; for a responder, it tells the peer to stop
/// sending, and what the responder sends goes on.
#[must_use = "streams do nothing unless polled"]
pub struct PayloadStream {
    state: State,
    /// Keeps a client's connection open.
    requester: Option<Requester>,
    /// Finds it, if it may have to be waited for; until a link took the request.
    finder: Option<Box<Finder>>,
    demand: DemandPolicy,
    /// Payloads given out, or skipped, by this process or an earlier one.
    received: u64,
    skip_to: u64,
}

enum State {
    /// Asked for when first polled.
    Request(Payload),
    /// Asked for when first polled and `outbound` has its first payload.
    Channel(BoxOutbound, Option<Payload>),
    /// With the request, if it may have to be sent again.
    Open(Reader, Option<Payload>),
    Done,
}

/// A stream's receiving half in the application's hands.
struct Reader {
    shared: Arc<Shared>,
    key: StreamKey,
    /// Arrived, and taken from the connection already.
    batch: Batch,
    /// Its end was seen: letting go of it cancels nothing.
    ended: bool,
}

impl Reader {
    fn new(shared: Arc<Shared>, key: StreamKey) -> Self {
        Self {
            shared,
            key,
            batch: Batch::default(),
            ended: false,
        }
    }

    /// The next payload that was taken from the connection already.
    #[inline]
    fn pop(&mut self) -> Option<Payload> {
        let payload = self.batch.pop();
        if self.batch.is_due() {
            self.shared.settle_batch(self.key, &mut self.batch);
        }
        payload
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.release_reader(self.key, self.ended);
    }
}

impl PayloadStream {
    pub(crate) fn request(requester: Requester, payload: Payload) -> Self {
        Self {
            requester: Some(requester),
            ..Self::new(State::Request(payload))
        }
    }

    /// Likewise, on the connection that `finder` finds.
    pub(crate) fn request_via(finder: Finder, payload: Payload) -> Self {
        Self {
            finder: Some(Box::new(finder)),
            ..Self::new(State::Request(payload))
        }
    }

    pub(crate) fn channel(
        requester: Requester,
        outbound: impl Stream<Item = Payload> + Send + 'static,
    ) -> Self {
        Self {
            requester: Some(requester),
            ..Self::new(State::Channel(Box::pin(outbound), None))
        }
    }

    /// Likewise, on the connection that `finder` finds.
    pub(crate) fn channel_via(
        finder: Finder,
        outbound: impl Stream<Item = Payload> + Send + 'static,
    ) -> Self {
        Self {
            finder: Some(Box::new(finder)),
            ..Self::new(State::Channel(Box::pin(outbound), None))
        }
    }

    fn new(state: State) -> Self {
        Self {
            state,
            requester: None,
            finder: None,
            demand: DemandPolicy::default(),
            received: 0,
            skip_to: 0,
        }
    }

    /// Goes on with a stream of which so many payloads were taken.
    pub(crate) fn starting_at(mut self, received: u64) -> Self {
        self.received = received;
        self
    }

    /// How many payloads it gave out, or skipped; of a stream that was
    /// [restored](crate::Restored), counted from its beginning: the index of the
    /// next one.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Leaves out payloads whose index is less than `n`: after a crash, those
    /// that the application had dealt with. See [`Restored`](crate::Restored).
    pub fn skip_to(&mut self, n: u64) {
        self.skip_to = n;
    }

    /// A channel whose request was sent.
    pub(crate) fn opened(requester: Requester, key: StreamKey) -> Self {
        let shared = Arc::clone(requester.shared());
        Self {
            requester: Some(requester),
            ..Self::new(State::Open(Reader::new(shared, key), None))
        }
    }

    /// The inbound half of a channel that the peer opened.
    pub(crate) fn inbound(shared: Arc<Shared>, key: StreamKey) -> Self {
        Self::new(State::Open(Reader::new(shared, key), None))
    }

    /// Asks for up to `high` payloads ahead of their use, and for more when
    /// half of them are left.
    ///
    /// Has no effect after the first poll.
    pub fn prefetch(self, high: Demand) -> Self {
        self.demand(DemandPolicy::prefetch(high))
    }

    /// Sets how payloads are asked for. Has no effect after the first poll.
    ///
    /// With [`DemandPolicy::Manual`] nothing is asked for but its initial
    /// request-n and what [`request_n`](Self::request_n) adds, and what was
    /// asked for is buffered until it is taken.
    pub fn demand(mut self, policy: DemandPolicy) -> Self {
        self.demand = policy;
        if let State::Open(Reader { shared, key, .. }, _) = &self.state {
            shared.with(|inner| inner.session.set_demand(*key, policy));
        }
        self
    }

    /// Asks for `n` payloads on top of what the demand policy asks for: one
    /// REQUEST_N. Without effect before the first poll and after the end.
    ///
    /// Spec: "REQUEST_N Frame (0x08)".
    pub fn request_n(&mut self, n: Demand) {
        if let State::Open(Reader { shared, key, .. }, _) = &self.state {
            shared.with(|inner| inner.session.request_n(*key, n));
        }
    }

    /// Sends the request, once there is a connection that takes it. Leaves it in
    /// `request` if it may have to be sent again.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        interaction: Interaction,
        request: &mut Option<Payload>,
    ) -> Poll<Result<Reader, Error>> {
        loop {
            let requester = match (&self.requester, &mut self.finder) {
                (Some(requester), _) => requester,
                (None, Some(finder)) => self.requester.insert(ready!(finder.poll(cx))?),
                (None, None) => return Poll::Ready(Err(Error::Canceled)),
            };
            let payload = match &self.finder {
                Some(_) => request.clone(),
                None => request.take(),
            };
            let shared = Arc::clone(requester.shared());
            let opened = shared.open(Open {
                interaction,
                payload: payload.unwrap_or_default(),
                demand: self.demand,
                complete: false,
            });
            match (opened.map_err(|error| *error), &self.finder) {
                (Err(Error::Closed(reason)), Some(finder)) => {
                    finder.lost(reason);
                    self.requester = None;
                }
                (opened, _) => {
                    return Poll::Ready(opened.map(|key| Reader::new(shared, key)));
                }
            }
        }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Request(payload) => {
                let mut request = Some(payload);
                let sent = self.poll_send(cx, Interaction::RequestStream, &mut request);
                let Poll::Ready(sent) = sent else {
                    self.state = State::Request(request.unwrap_or_default());
                    return Poll::Pending;
                };
                self.state = State::Open(sent?, request);
            }
            State::Channel(mut outbound, mut first) => {
                if first.is_none() {
                    first = match outbound.poll_next_unpin(cx) {
                        Poll::Ready(Some(first)) => Some(first),
                        Poll::Ready(None) => return Poll::Ready(Err(Error::EmptyChannel)),
                        Poll::Pending => {
                            self.state = State::Channel(outbound, None);
                            return Poll::Pending;
                        }
                    };
                }
                let sent = self.poll_send(cx, Interaction::RequestChannel, &mut first);
                let Poll::Ready(sent) = sent else {
                    self.state = State::Channel(outbound, first);
                    return Poll::Pending;
                };
                let reader = sent?;
                // What follows comes from `outbound`, which cannot start anew.
                self.finder = None;
                let source = Box::pin(outbound.map(Ok));
                let (shared, key) = (Arc::clone(&reader.shared), reader.key);
                self.state = State::Open(reader, None);
                tokio::spawn(Outbound::serve(source, shared, key));
            }
            state @ (State::Open(..) | State::Done) => self.state = state,
        }
        Poll::Ready(Ok(()))
    }

    /// The next payload that was taken from the connection already.
    #[inline]
    fn pop(&mut self) -> Option<Payload> {
        loop {
            let State::Open(reader, _) = &mut self.state else {
                return None;
            };
            let payload = reader.pop();
            self.received += u64::from(payload.is_some());
            if self.received > self.skip_to || payload.is_none() {
                return payload;
            }
        }
    }

    #[inline(never)]
    fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Payload, Error>>> {
        loop {
            if let Some(payload) = self.pop() {
                return Poll::Ready(Some(Ok(payload)));
            }
            if let Err(error) = ready!(self.poll_open(cx)) {
                self.requester = None;
                self.finder = None;
                return Poll::Ready(Some(Err(error)));
            }
            let State::Open(reader, request) = &mut self.state else {
                return Poll::Ready(None);
            };
            let Reader {
                shared, key, batch, ..
            } = reader;
            let (take, sent) = match &self.finder {
                None => (shared.poll_take_batch(cx, *key, batch), true),
                Some(_) => shared.with(|inner| {
                    let take = inner.poll_take(cx, *key);
                    (take, inner.session.was_sent(*key))
                }),
            };
            let item = match (take, &self.finder, request.take()) {
                (Take::Failed(Error::Closed(reason)), Some(finder), Some(again)) if !sent => {
                    finder.lost(reason);
                    self.requester = None;
                    self.state = State::Request(again);
                    continue;
                }
                (Take::Pending, _, again) => {
                    if sent {
                        self.finder = None;
                    } else {
                        *request = again;
                    }
                    return Poll::Pending;
                }
                (Take::Payload(payload), ..) => {
                    self.finder = None;
                    self.received += 1;
                    if self.received <= self.skip_to {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(payload)));
                }
                (Take::Complete, ..) => None,
                (Take::Failed(error), ..) => Some(Err(error)),
            };
            reader.ended = true;
            self.state = State::Done;
            self.requester = None;
            self.finder = None;
            return Poll::Ready(item);
        }
    }
}

impl Stream for PayloadStream {
    type Item = Result<Payload, Error>;

    #[inline]
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match this.pop() {
            Some(payload) => Poll::Ready(Some(Ok(payload))),
            None => this.poll_arrived(cx),
        }
    }
}

impl fmt::Debug for PayloadStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, id) = match &self.state {
            State::Request(_) | State::Channel(..) => ("not sent yet", None),
            State::Open(reader, _) => ("open", Some(reader.key.id.get())),
            State::Done => ("over", None),
        };
        f.debug_struct("PayloadStream")
            .field("state", &state)
            .field("stream_id", &id)
            .finish_non_exhaustive()
    }
}

/// The sending half of a channel: see
/// [`Requester::open_channel`](crate::Requester::open_channel).
///
/// Dropping it completes this side, as [`complete`](Self::complete) does.
pub struct PayloadSink {
    outbound: Option<Outbound>,
}

impl PayloadSink {
    pub(crate) fn new(shared: Arc<Shared>, key: StreamKey) -> Self {
        Self {
            outbound: Some(Outbound::new(shared, key)),
        }
    }

    /// Sends one payload: waits for one credit of the peer and for room on the
    /// link.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped before it is ready, nothing was sent.
    ///
    /// # Errors
    ///
    /// [`Error::Canceled`] when the peer wants no more, or the channel is over;
    /// the stream of answers says more. [`Error::Closed`], [`Error::TooLong`].
    pub async fn send(&mut self, payload: impl Into<Payload>) -> Result<(), Error> {
        let mut payload = payload.into();
        poll_fn(|cx| {
            let Some(outbound) = &self.outbound else {
                return Poll::Ready(Err(Error::Canceled));
            };
            outbound.with(|inner, key| match inner.poll_capacity(cx, key) {
                Capacity::Pending => Poll::Pending,
                Capacity::Closed => Poll::Ready(Err(over(inner))),
                Capacity::Payloads(_) => Poll::Ready(inner.send(key, &mut payload)),
            })
        })
        .await
    }

    /// Waits until the peer grants more credit, and returns how many payloads
    /// it granted since the last call (endless demand is 2^31-1 or more).
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Error::Canceled`] when the peer wants no more, or the channel is over;
    /// [`Error::Closed`] when the connection is.
    pub async fn granted(&mut self) -> Result<u64, Error> {
        poll_fn(|cx| {
            let Some(outbound) = &self.outbound else {
                return Poll::Ready(Err(Error::Canceled));
            };
            outbound.with(|inner, key| match inner.poll_granted(cx, key) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(Err(over(inner))),
                Poll::Ready(Some(n)) => Poll::Ready(Ok(n)),
            })
        })
        .await
    }

    /// How many payloads were handed over, the first of a channel included; of a
    /// stream that was [restored](crate::Restored), from its beginning. 0 once
    /// the channel is over.
    pub fn sent(&self) -> u64 {
        self.outbound.as_ref().map_or(0, |outbound| {
            outbound.with(|inner, key| inner.session.sent(key))
        })
    }

    /// Completes this side; answers go on. Without effect after its end.
    pub fn complete(mut self) {
        self.finish();
    }

    /// Ends the channel in both directions with an ERROR frame, behind what
    /// was sent before.
    pub fn fail(mut self, failure: &Failure) {
        if let Some(outbound) = self.outbound.take() {
            outbound.finish(|inner, key| inner.session.fail(key, failure));
        }
    }

    fn finish(&mut self) {
        if let Some(outbound) = self.outbound.take() {
            outbound.finish(|inner, key| inner.session.complete(key));
        }
    }
}

/// Why nothing more can be sent.
fn over(inner: &Inner) -> Error {
    match inner.session.close_reason() {
        Some(reason) => Error::Closed(reason.clone()),
        None => Error::Canceled,
    }
}

impl Drop for PayloadSink {
    fn drop(&mut self) {
        self.finish();
    }
}

impl fmt::Debug for PayloadSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadSink").finish_non_exhaustive()
    }
}
