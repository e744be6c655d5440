//! [`Responder`]: what answers requests, and [`Handlers`], one made of closures.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::stream;

use crate::{Failure, Payload, PayloadStream};

/// Answers the requests of one peer.
///
/// Each method has a default, so a service writes only what it serves: requests
/// are rejected, one-way messages dropped.
///
/// Requests are served concurrently. A handler that is ready at its first poll
/// is answered on the spot; one that awaits goes on in a task of its own and
/// delays no other; one that blocks its thread holds up its connection, so use
/// `tokio::task::spawn_blocking` for that.
///
/// **Dropping is how a request is cancelled**: when the peer sends CANCEL, or
/// the connection ends, the future or stream that serves it is dropped, at its
/// next await point at the latest. A handler that panics fails its request with
/// APPLICATION_ERROR and nothing else.
pub trait Responder: Send + Sync + 'static {
    /// One request, no answer. Default: dropped.
    fn fire_and_forget(&self, request: Payload) -> impl Future<Output = ()> + Send {
        drop(request);
        async {}
    }

    /// One request, one answer. Default: REJECTED.
    ///
    /// # Errors
    ///
    /// What the handler returns goes to the peer as an ERROR frame.
    fn request_response(
        &self,
        request: Payload,
    ) -> impl Future<Output = Result<Payload, Failure>> + Send {
        drop(request);
        async { Err(Failure::unsupported("request-response")) }
    }

    /// One request, many answers. Default: REJECTED.
    ///
    /// The stream is polled while the peer has granted credit and the link has
    /// room, so being polled *is* the demand signal; but for one payload ahead,
    /// which is held until there is credit for it, since the end needs none. It
    /// ends the stream by ending, or by its first error.
    fn request_stream(
        &self,
        request: Payload,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<Self> {
        drop(request);
        stream::iter([Err(Failure::unsupported("request-stream"))])
    }

    /// Many both ways. Default: REJECTED.
    ///
    /// `inbound` yields the requester's payloads, the first of them included,
    /// and asks for more as it is read. Dropping it tells the peer to stop
    /// sending; the stream that is returned goes on.
    fn request_channel(
        &self,
        inbound: PayloadStream,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<Self> {
        drop(inbound);
        stream::iter([Err(Failure::unsupported("request-channel"))])
    }

    /// Metadata about the connection as a whole. Default: dropped.
    ///
    /// Spec: "METADATA_PUSH Frame (0x0C)".
    fn metadata_push(&self, metadata: Bytes) -> impl Future<Output = ()> + Send {
        drop(metadata);
        async {}
    }
}

/// Serves nothing.
impl Responder for () {}

/// One responder for many connections.
impl<R: Responder> Responder for Arc<R> {
    fn fire_and_forget(&self, request: Payload) -> impl Future<Output = ()> + Send {
        (**self).fire_and_forget(request)
    }

    fn request_response(
        &self,
        request: Payload,
    ) -> impl Future<Output = Result<Payload, Failure>> + Send {
        (**self).request_response(request)
    }

    fn request_stream(
        &self,
        request: Payload,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<R> {
        (**self).request_stream(request)
    }

    fn request_channel(
        &self,
        inbound: PayloadStream,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<R> {
        (**self).request_channel(inbound)
    }

    fn metadata_push(&self, metadata: Bytes) -> impl Future<Output = ()> + Send {
        (**self).metadata_push(metadata)
    }
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type BoxStream = Pin<Box<dyn Stream<Item = Result<Payload, Failure>> + Send>>;
type OneWay<A> = Arc<dyn Fn(A) -> BoxFuture<()> + Send + Sync>;
type OnRequestResponse = Arc<dyn Fn(Payload) -> BoxFuture<Result<Payload, Failure>> + Send + Sync>;
type OnMany<A> = Arc<dyn Fn(A) -> BoxStream + Send + Sync>;

/// A [`Responder`] made of closures: for services too small for a type.
///
/// What is not set behaves as the trait's default. Clones share the closures.
///
/// # Examples
///
/// ```
/// use futures_util::{StreamExt as _, stream};
/// use rsocket_core::{Failure, Handlers, Payload};
///
/// let echo = Handlers::new()
///     .on_request_response(|request| async { Ok(request) })
///     .on_request_stream(|request| stream::iter(0..3).map(move |_| Ok(request.clone())))
///     .on_request_channel(|inbound| inbound.map(|payload| payload.map_err(Failure::from)));
/// # let _ = echo;
/// ```
#[derive(Clone, Default)]
pub struct Handlers {
    fire_and_forget: Option<OneWay<Payload>>,
    request_response: Option<OnRequestResponse>,
    request_stream: Option<OnMany<Payload>>,
    request_channel: Option<OnMany<PayloadStream>>,
    metadata_push: Option<OneWay<Bytes>>,
}

impl Handlers {
    /// Serves nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// See [`Responder::fire_and_forget`].
    #[must_use]
    pub fn on_fire_and_forget<F>(
        mut self,
        handler: impl Fn(Payload) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.fire_and_forget = Some(Arc::new(move |request| Box::pin(handler(request))));
        self
    }

    /// See [`Responder::request_response`].
    #[must_use]
    pub fn on_request_response<F>(
        mut self,
        handler: impl Fn(Payload) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Payload, Failure>> + Send + 'static,
    {
        self.request_response = Some(Arc::new(move |request| Box::pin(handler(request))));
        self
    }

    /// See [`Responder::request_stream`].
    #[must_use]
    pub fn on_request_stream<S>(
        mut self,
        handler: impl Fn(Payload) -> S + Send + Sync + 'static,
    ) -> Self
    where
        S: Stream<Item = Result<Payload, Failure>> + Send + 'static,
    {
        self.request_stream = Some(Arc::new(move |request| Box::pin(handler(request))));
        self
    }

    /// See [`Responder::request_channel`].
    #[must_use]
    pub fn on_request_channel<S>(
        mut self,
        handler: impl Fn(PayloadStream) -> S + Send + Sync + 'static,
    ) -> Self
    where
        S: Stream<Item = Result<Payload, Failure>> + Send + 'static,
    {
        self.request_channel = Some(Arc::new(move |inbound| Box::pin(handler(inbound))));
        self
    }

    /// See [`Responder::metadata_push`].
    #[must_use]
    pub fn on_metadata_push<F>(
        mut self,
        handler: impl Fn(Bytes) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.metadata_push = Some(Arc::new(move |metadata| Box::pin(handler(metadata))));
        self
    }
}

impl Responder for Handlers {
    async fn fire_and_forget(&self, request: Payload) {
        if let Some(handler) = &self.fire_and_forget {
            handler(request).await;
        }
    }

    async fn request_response(&self, request: Payload) -> Result<Payload, Failure> {
        match &self.request_response {
            Some(handler) => handler(request).await,
            None => ().request_response(request).await,
        }
    }

    fn request_stream(
        &self,
        request: Payload,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<> {
        match &self.request_stream {
            Some(handler) => handler(request),
            None => Box::pin(().request_stream(request)),
        }
    }

    fn request_channel(
        &self,
        inbound: PayloadStream,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<> {
        match &self.request_channel {
            Some(handler) => handler(inbound),
            None => Box::pin(().request_channel(inbound)),
        }
    }

    async fn metadata_push(&self, metadata: Bytes) {
        if let Some(handler) = &self.metadata_push {
            handler(metadata).await;
        }
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers")
            .field("fire_and_forget", &self.fire_and_forget.is_some())
            .field("request_response", &self.request_response.is_some())
            .field("request_stream", &self.request_stream.is_some())
            .field("request_channel", &self.request_channel.is_some())
            .field("metadata_push", &self.metadata_push.is_some())
            .finish()
    }
}
