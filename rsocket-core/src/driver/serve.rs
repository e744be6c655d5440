//! Handlers at work: the futures and streams that serve requests.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    Inner, Shared,
    dispatch::{BoxAnswer, BoxAnswers, BoxDone, caught},
};
use crate::{
    Failure, Payload,
    proto::{Capacity, StreamKey},
};

/// What a peer is told when a handler panics; what happened stays with us.
pub(crate) const PANICKED: &str = "the handler panicked";

/// A stream's sending half in the hands of whoever serves it.
///
/// Dropping it without an end fails the stream: nobody would ever end it.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    key: StreamKey,
    released: bool,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, key: StreamKey) -> Self {
        Self {
            shared,
            key,
            released: false,
        }
    }

    /// Ends the sending half and lets go of the stream.
    pub(crate) fn finish(mut self, end: impl FnOnce(&mut Inner, StreamKey)) {
        self.finish_ref(end);
    }

    pub(crate) fn finish_ref(&mut self, end: impl FnOnce(&mut Inner, StreamKey)) {
        if self.released {
            return;
        }
        self.released = true;
        let key = self.key;
        self.shared.with(|inner| {
            end(inner, key);
            inner.forget_writer(key.slot);
            inner.session.release(key);
        });
    }

    pub(crate) fn with<R>(&self, tell: impl FnOnce(&mut Inner, StreamKey) -> R) -> R {
        let key = self.key;
        self.shared.with(|inner| tell(inner, key))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish_ref(|inner, key| {
            inner.session.fail(key, &Failure::application(PANICKED));
        });
    }
}

/// A channel's sending half in the hands of whoever opened it.
pub(crate) struct Outbound(Writer);

impl Outbound {
    pub(crate) fn new(shared: Arc<Shared>, key: StreamKey) -> Self {
        Self(Writer::new(shared, key))
    }

    /// Sends what `source` yields, as the peer grants credit.
    pub(crate) fn serve(source: BoxAnswers, shared: Arc<Shared>, key: StreamKey) -> ServeStream {
        ServeStream::new(source, Writer::new(shared, key))
    }

    pub(crate) fn with<R>(&self, tell: impl FnOnce(&mut Inner, StreamKey) -> R) -> R {
        self.0.with(tell)
    }

    pub(crate) fn finish(self, end: impl FnOnce(&mut Inner, StreamKey)) {
        self.0.finish(end);
    }
}

/// Sends the one answer of a request-response.
///
/// What is left of it is to be dropped without the lock.
pub(crate) fn answer(inner: &mut Inner, key: StreamKey, answer: &mut Result<Payload, Failure>) {
    match answer {
        Ok(payload) => {
            if let Err(error) = inner.send(key, payload) {
                tracing::error!(stream_id = key.id.get(), %error, "the answer cannot be sent");
                inner.session.fail(key, &error.into());
            }
        }
        Err(failure) => inner.session.fail(key, failure),
    }
}

/// A request-response whose handler was not ready at once.
pub(crate) struct ServeAnswer {
    handler: BoxAnswer,
    writer: Option<Writer>,
    /// The answer, while the connection has no room for it.
    answer: Option<Result<Payload, Failure>>,
}

impl ServeAnswer {
    pub(crate) fn new(handler: BoxAnswer, writer: Writer) -> Self {
        Self {
            handler,
            writer: Some(writer),
            answer: None,
        }
    }
}

impl Future for ServeAnswer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(writer) = &this.writer else {
            return Poll::Ready(());
        };
        if this.answer.is_none() {
            if writer.with(|inner, key| inner.poll_send_closed(cx, key)) {
                this.drop_writer();
                return Poll::Ready(()); // Cancelled: the handler is dropped.
            }
            match this.handler.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(answer) => this.answer = answer,
            }
        }
        let capacity = writer.with(|inner, key| inner.poll_capacity(cx, key));
        if capacity == Capacity::Pending {
            return Poll::Pending;
        }
        if let (Some(writer), Some(mut result)) = (this.writer.take(), this.answer.take()) {
            writer.finish(|inner, key| answer(inner, key, &mut result));
        }
        Poll::Ready(())
    }
}

impl ServeAnswer {
    fn drop_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.finish(|_, _| ());
        }
    }
}

/// A one-way handler that was not ready at once.
pub(crate) struct ServeOneWay {
    handler: BoxDone,
    /// Called when the handler is done, or dropped.
    done: Option<Box<dyn FnOnce() + Send>>,
}

impl ServeOneWay {
    pub(crate) fn new(handler: BoxDone, done: impl FnOnce() + Send + 'static) -> Self {
        Self {
            handler,
            done: Some(Box::new(done)),
        }
    }
}

impl Future for ServeOneWay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.handler.as_mut().poll(cx).map(|_| ())
    }
}

impl Drop for ServeOneWay {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done();
        }
    }
}

/// Sends what a stream yields, as the peer grants credit: the sending half of a
/// request-stream's responder, and of both sides of a channel.
pub(crate) struct ServeStream {
    source: BoxAnswers,
    writer: Option<Writer>,
    /// Taken from the source and not yet given to the session: between steps
    /// at most one.
    batch: Vec<Payload>,
}

enum Step {
    Again,
    Pending,
    Done,
}

enum End {
    Complete,
    Failed(Failure),
}

impl ServeStream {
    /// Payloads taken from the source at a time.
    const BATCH_LEN: usize = 32;

    /// Batches sent before other tasks get a turn.
    const STEPS: usize = 4;

    pub(crate) fn new(source: BoxAnswers, writer: Writer) -> Self {
        Self {
            source,
            writer: Some(writer),
            batch: Vec::new(),
        }
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Step {
        let Some(writer) = &self.writer else {
            return Step::Done;
        };
        let room = match writer.with(|inner, key| inner.poll_capacity(cx, key)) {
            Capacity::Payloads(n) => n,
            Capacity::Pending => 0,
            Capacity::Closed => {
                self.finish(|_, _| ());
                return Step::Done;
            }
        };
        // One more than there is room for: the end needs no credit, and nothing
        // but the source knows whether it has come [C150].
        let limit = room.saturating_add(1).min(Self::BATCH_LEN);
        let mut end = None;
        let mut pending = false;
        while self.batch.len() < limit {
            let polled = caught(|| self.source.as_mut().poll_next(cx));
            match polled {
                Some(Poll::Ready(Some(Ok(payload)))) => self.batch.push(payload),
                Some(Poll::Ready(Some(Err(failure)))) => {
                    end = Some(End::Failed(failure));
                    break;
                }
                Some(Poll::Ready(None)) => {
                    end = Some(End::Complete);
                    break;
                }
                Some(Poll::Pending) => {
                    pending = true;
                    break;
                }
                None => {
                    end = Some(End::Failed(Failure::application(PANICKED)));
                    break;
                }
            }
        }
        let mut batch = std::mem::take(&mut self.batch);
        if let Some(end) = end {
            self.finish(|inner, key| {
                if send(inner, key, &mut batch) {
                    match end {
                        End::Complete => inner.session.complete(key),
                        End::Failed(failure) => inner.session.fail(key, &failure),
                    }
                }
            });
            return Step::Done;
        }
        let len = room.min(batch.len());
        let closed = writer.with(|inner, key| {
            let now = batch.get_mut(..len).unwrap_or_default();
            !send(inner, key, now) || (pending && inner.poll_send_closed(cx, key))
        });
        batch.drain(..len);
        self.batch = batch;
        if closed {
            self.finish(|_, _| ());
            Step::Done
        } else if pending || room == 0 {
            Step::Pending
        } else {
            Step::Again
        }
    }

    fn finish(&mut self, end: impl FnOnce(&mut Inner, StreamKey)) {
        if let Some(writer) = self.writer.take() {
            writer.finish(end);
        }
    }
}

/// Gives `payloads` to the session; false when that ended the stream. What is left
/// of them is to be dropped without the lock.
fn send(inner: &mut Inner, key: StreamKey, payloads: &mut [Payload]) -> bool {
    for payload in payloads {
        if let Err(error) = inner.send(key, payload) {
            tracing::error!(stream_id = key.id.get(), %error, "a payload cannot be sent");
            inner.session.fail(key, &error.into());
            return false;
        }
    }
    true
}

impl Future for ServeStream {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        for _ in 0..Self::STEPS {
            match this.step(cx) {
                Step::Again => {}
                Step::Pending => return Poll::Pending,
                Step::Done => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
