//! From a request to the user's code, with its types erased once.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::future::OptionFuture;

use crate::{Failure, Payload, PayloadStream, Responder};

pub(crate) type Answer = Result<Payload, Failure>;
pub(crate) type BoxAnswer = Pin<Box<dyn Future<Output = Option<Answer>> + Send>>;
pub(crate) type BoxDone = Pin<Box<dyn Future<Output = Option<()>> + Send>>;
pub(crate) type BoxAnswers = Pin<Box<dyn Stream<Item = Answer> + Send>>;

/// Calls one connection's responder.
pub(crate) struct Dispatcher {
    pub(crate) request_response: Box<dyn FnMut(Payload) -> InPlace<Answer> + Send>,
    pub(crate) fire_and_forget: Box<dyn FnMut(Payload) -> InPlace<()> + Send>,
    pub(crate) metadata_push: Box<dyn FnMut(Bytes) -> InPlace<()> + Send>,
    pub(crate) request_stream: Box<dyn FnMut(Payload) -> Option<BoxAnswers> + Send>,
    pub(crate) request_channel: Box<dyn FnMut(PayloadStream) -> Option<BoxAnswers> + Send>,
}

/// What one poll of a handler, in place, came to.
pub(crate) enum InPlace<T> {
    /// It was ready at once: no task, no queue.
    Ready(T),
    /// The same future, to go on in a task of its own.
    Pending(Pin<Box<dyn Future<Output = Option<T>> + Send>>),
    /// It panicked.
    Panicked,
}

impl Dispatcher {
    pub(crate) fn new<R: Responder>(responder: Arc<R>) -> Self {
        let r = responder;
        Self {
            request_response: {
                let r = Arc::clone(&r);
                in_place(move |payload| {
                    let r = Arc::clone(&r);
                    async move { r.request_response(payload).await }
                })
            },
            fire_and_forget: {
                let r = Arc::clone(&r);
                in_place(move |payload| {
                    let r = Arc::clone(&r);
                    async move { r.fire_and_forget(payload).await }
                })
            },
            metadata_push: {
                let r = Arc::clone(&r);
                in_place(move |metadata| {
                    let r = Arc::clone(&r);
                    async move { r.metadata_push(metadata).await }
                })
            },
            request_stream: {
                let r = Arc::clone(&r);
                Box::new(move |payload| {
                    caught(|| -> BoxAnswers { Box::pin(r.request_stream(payload)) })
                })
            },
            request_channel: Box::new(move |inbound| {
                caught(|| -> BoxAnswers { Box::pin(r.request_channel(inbound)) })
            }),
        }
    }
}

/// Polls each future that `start` makes once, where it is made.
///
/// The box that holds it is used again when the future was ready at once, so a
/// ready handler costs no allocation.
fn in_place<A, T, F>(
    mut start: impl FnMut(A) -> F + Send + 'static,
) -> Box<dyn FnMut(A) -> InPlace<T> + Send>
where
    F: Future<Output = T> + Send + 'static,
    T: Send,
{
    let mut spare: Option<Pin<Box<OptionFuture<F>>>> = None;
    Box::new(move |argument| {
        let polled = caught(|| {
            let future = OptionFuture::from(Some(start(argument)));
            let mut boxed = match spare.take() {
                Some(mut boxed) => {
                    boxed.set(future);
                    boxed
                }
                None => Box::pin(future),
            };
            // No waker: if it is pending, its own task polls it again at once.
            let mut cx = Context::from_waker(Waker::noop());
            let poll = boxed.as_mut().poll(&mut cx);
            (boxed, poll)
        });
        match polled {
            Some((mut boxed, Poll::Ready(Some(output)))) => {
                boxed.set(OptionFuture::from(None));
                spare = Some(boxed);
                InPlace::Ready(output)
            }
            Some((boxed, Poll::Pending)) => InPlace::Pending(boxed),
            Some((_, Poll::Ready(None))) | None => InPlace::Panicked,
        }
    })
}

/// Runs a user's code; `None` if it panicked, which concerns one stream only.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    // A value that saw the panic is dropped with it, never used again.
    catch_unwind(AssertUnwindSafe(run)).ok()
}
