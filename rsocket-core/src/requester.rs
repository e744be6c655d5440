//! [`Requester`]: what sends requests, and the futures of its answers.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_core::Stream;

use crate::{
    Payload, PayloadBuf, PayloadSink, PayloadStream,
    driver::{Shared, now},
    error::{CloseReason, Error},
    frame::Interaction,
    proto::{DemandPolicy, LeaseStatus, Open, Stats, StreamKey, Take},
    transport::LinkInfo,
};

/// Sends requests to one peer. Cheap to clone; all clones share a connection.
///
/// A client's connection ends, in good order, when the last clone and the last
/// stream opened through one are dropped; to serve a server's requests and ask
/// for nothing, keep a clone and await [`closed`](Self::closed). A server's
/// connection lives until its client ends it.
///
/// A client's session that has a [store](crate::resume::Resume::store) is not
/// ended by that but left to the store, as by [`detach`](Self::detach); to end
/// it, call [`close`](Self::close).
pub struct Requester {
    shared: Arc<Shared>,
}

impl Requester {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        shared.add_handle();
        Self { shared }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Sends one payload and waits for no answer.
    ///
    /// The request is sent, or queued, by this call. The future is ready once
    /// the link has taken it, which is how a caller that is too fast is slowed
    /// down; that says nothing about delivery.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future withdraws a request that was not sent yet.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::TooLong`].
    ///
    /// Spec: "Fire-n-Forget".
    pub fn fire_and_forget(&self, request: impl Into<Payload>) -> FireAndForget<'_> {
        FireAndForget(self.call(Interaction::FireAndForget, request.into()))
    }

    /// Sends one payload and returns the answer.
    ///
    /// The request is sent, or queued, by this call and not by the first poll,
    /// so several calls are in flight at once without tasks.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future sends CANCEL. The peer may already have acted.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    ///
    /// Spec: "Request Response".
    pub fn request_response(&self, request: impl Into<Payload>) -> Response<'_> {
        Response(self.call(Interaction::RequestResponse, request.into()))
    }

    /// Sends one payload and returns the stream of answers.
    ///
    /// The request is sent when the stream is first polled, so that it can be
    /// configured before: see [`PayloadStream::prefetch`].
    ///
    /// Spec: "Request Stream".
    pub fn request_stream(&self, request: impl Into<Payload>) -> PayloadStream {
        PayloadStream::request(self.clone(), request.into())
    }

    /// Sends the payloads of `outbound` and returns the stream of answers.
    ///
    /// Nothing happens before the first poll. From then on a task of its own
    /// polls `outbound` as the peer grants credit, and completes this side when
    /// it ends. An `outbound` that ends without a payload sends nothing and
    /// fails with [`Error::EmptyChannel`].
    ///
    /// Dropping the returned stream ends the channel in both directions and
    /// drops `outbound`.
    ///
    /// Spec: "Request Channel".
    pub fn request_channel(
        &self,
        outbound: impl Stream<Item = Payload> + Send + 'static,
    ) -> PayloadStream {
        PayloadStream::channel(self.clone(), outbound)
    }

    /// Opens a channel with its first payload and returns both halves: a sink
    /// to send into and the stream of answers.
    ///
    /// `demand` says how answers are asked for. The request is sent, or queued,
    /// by this call.
    ///
    /// # Errors
    ///
    /// See [`Error`]; nothing was sent.
    ///
    /// Spec: "Request Channel".
    pub fn open_channel(
        &self,
        first: impl Into<Payload>,
        demand: DemandPolicy,
    ) -> Result<(PayloadSink, PayloadStream), Error> {
        let key = self.shared.open(Open {
            interaction: Interaction::RequestChannel,
            payload: first.into(),
            demand,
            complete: false,
        });
        let key = key.map_err(|error| *error)?;
        let sink = PayloadSink::new(Arc::clone(&self.shared), key);
        let answers = PayloadStream::opened(self.clone(), key);
        Ok((sink, answers))
    }

    /// Tells the peer something about the connection as a whole.
    ///
    /// Ready once it is queued ahead of all requests; waits while much is
    /// queued there. There is no answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready sends nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::TooLong`]: it cannot be fragmented.
    ///
    /// Spec: "METADATA_PUSH Frame (0x0C)".
    pub async fn metadata_push(&self, metadata: impl Into<Bytes>) -> Result<(), Error> {
        let metadata = metadata.into();
        poll_fn(|cx| self.shared.poll_metadata_push(cx, &metadata)).await
    }

    /// Ends the connection in good order and waits for it: tells the peer
    /// (CONNECTION_CLOSE), refuses new requests on both sides, and lets open
    /// ones end, for at most
    /// [`drain_timeout`](crate::proto::Config::drain_timeout). Returns why it
    /// ended: [`CloseReason::Local`] if all went well.
    ///
    /// # Cancel safety
    ///
    /// The close goes on when the future is dropped.
    pub async fn close(&self) -> CloseReason {
        self.shared.close();
        self.closed().await
    }

    /// Ends the connection at once. Open requests fail on both sides.
    pub fn abort(&self) {
        self.shared.abort();
    }

    /// Lets go of a session that has a [store](crate::resume::Resume::store): it
    /// ends here with [`CloseReason::Detached`], and stays in the store for
    /// [`Client::restore`](crate::Client::restore), with all that happened
    /// before. The peer sees a lost link. Keep streams until this is ready:
    /// dropping one cancels it.
    ///
    /// Without a store it is as [`close`](Self::close).
    ///
    /// # Cancel safety
    ///
    /// It goes on when the future is dropped.
    pub async fn detach(&self) -> CloseReason {
        self.shared.detach();
        self.closed().await
    }

    /// Waits until the connection has ended, and says why.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub async fn closed(&self) -> CloseReason {
        self.shared.closed().await
    }

    /// Why the connection ended, if it has.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.shared.close_reason()
    }

    /// A buffer of `len` bytes, all zero, for the data of a payload to this
    /// peer: of a request, or of an answer to one of the peer's.
    ///
    /// It lies in memory of the link where the link lends some (shared memory),
    /// and else on the heap, so it never fails; see [`PayloadBuf`]. A link lends
    /// no more than a part of what it has, and nothing for short data, which is
    /// copied faster.
    pub fn buffer(&self, len: usize) -> PayloadBuf {
        let mut buf = self.buffer_uncleared(len);
        if buf.is_lent() {
            buf.fill(0);
        }
        buf
    }

    /// Likewise for who writes all of it anyway: the bytes are zero, or what
    /// this process wrote to the same peer before.
    pub fn buffer_uncleared(&self, len: usize) -> PayloadBuf {
        let lent = self.shared.lend(len);
        // Of another length it would be the transport's mistake, not the caller's.
        let lent = lent.filter(|memory| (**memory).as_ref().len() == len);
        lent.map_or_else(|| PayloadBuf::on_heap(len), PayloadBuf::lent)
    }

    /// What is known about the link to the peer.
    pub fn link(&self) -> &LinkInfo {
        self.shared.link()
    }

    /// Counters of this connection.
    pub fn stats(&self) -> Stats {
        self.shared.with(|inner| inner.session.stats())
    }

    /// What is left of the lease that the peer granted; `None` on a connection
    /// without leases. With it one can choose among peers, or know before a
    /// request that it would wait.
    pub fn lease(&self) -> Option<LeaseStatus> {
        self.shared.with(|inner| inner.session.lease_status(now()))
    }

    #[inline]
    fn call(&self, interaction: Interaction, payload: Payload) -> Call<'_> {
        let opened = self.shared.open(Open {
            interaction,
            payload,
            demand: DemandPolicy::default(),
            complete: false,
        });
        Call {
            shared: &self.shared,
            state: match opened {
                Ok(key) => CallState::Open(key),
                Err(error) => CallState::Failed(error),
            },
        }
    }
}

impl Clone for Requester {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

impl Drop for Requester {
    fn drop(&mut self) {
        self.shared.drop_handle();
    }
}

impl fmt::Debug for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Requester").field(&self.shared).finish()
    }
}

/// A request with at most one answer, in flight.
#[derive(Debug)]
struct Call<'a> {
    shared: &'a Shared,
    state: CallState,
}

#[derive(Debug)]
enum CallState {
    Open(StreamKey),
    Failed(Box<Error>),
    Done,
}

impl Call<'_> {
    /// The answer; `None` when the peer completed without one.
    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<Option<Payload>, Error>> {
        let CallState::Open(key) = self.state else {
            return match std::mem::replace(&mut self.state, CallState::Done) {
                CallState::Failed(error) => Poll::Ready(Err(*error)),
                CallState::Open(_) | CallState::Done => panic!("polled after it was ready"),
            };
        };
        let answer = match self.shared.poll_answer(cx, key) {
            Take::Pending => return Poll::Pending,
            Take::Payload(payload) => Ok(Some(payload)),
            Take::Complete => Ok(None),
            Take::Failed(error) => Err(error),
        };
        self.state = CallState::Done;
        Poll::Ready(answer)
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let CallState::Open(key) = self.state {
            self.shared.cancel_and_release(key);
        }
    }
}

/// The answer to [`Requester::request_response`].
///
/// Dropping it sends CANCEL.
#[must_use = "dropping the future cancels the request that was just sent"]
#[derive(Debug)]
pub struct Response<'a>(Call<'a>);

impl<'a> Response<'a> {
    /// For peers that may complete without a payload: then the answer is
    /// `None`, where the plain future gives an empty payload.
    pub fn optional(self) -> OptionalResponse<'a> {
        OptionalResponse(self.0)
    }
}

impl Future for Response<'_> {
    type Output = Result<Payload, Error>;

    /// # Panics
    ///
    /// When polled after it was ready.
    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0
            .poll(cx)
            .map(|answer| answer.map(Option::unwrap_or_default))
    }
}

/// The answer to a request-response, if there is one: see
/// [`Response::optional`].
#[must_use = "dropping the future cancels the request that was just sent"]
#[derive(Debug)]
pub struct OptionalResponse<'a>(Call<'a>);

impl Future for OptionalResponse<'_> {
    type Output = Result<Option<Payload>, Error>;

    /// # Panics
    ///
    /// When polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

/// A fire-and-forget on its way to the link: see
/// [`Requester::fire_and_forget`].
#[must_use = "dropping the future withdraws the request if it was not sent yet"]
#[derive(Debug)]
pub struct FireAndForget<'a>(Call<'a>);

impl Future for FireAndForget<'_> {
    type Output = Result<(), Error>;

    /// # Panics
    ///
    /// When polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx).map(|sent| sent.map(|_| ()))
    }
}
