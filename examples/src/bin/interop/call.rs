//! One request of the driver, from its command to its last event.
//!
//! Each function here is such a request. Its first poll sends it. It ends with
//! `complete` or `error`, or, told to cancel, without another event.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::StreamExt as _;
use rsocket_core::{
    Demand, DemandPolicy, Error, Failure, Payload, PayloadSink, PayloadStream, Requester,
    frame::ErrorCode,
};
use tokio::sync::mpsc;

use crate::{json::Event, output::Events};

/// What a request needs to run.
pub(crate) struct Call {
    pub(crate) id: u64,
    pub(crate) requester: Requester,
    pub(crate) events: Events,
    /// Commands with the request's id; its end cancels.
    pub(crate) told: mpsc::UnboundedReceiver<Tell>,
}

/// A command to a running request.
pub(crate) enum Tell {
    RequestN(Demand),
    Cancel,
    // To a channel.
    Send(Payload),
    Complete,
    Fail(String),
}

impl Call {
    async fn emit(&self, event: Event) {
        self.events.emit(self.id, event).await;
    }

    async fn emit_error(&self, error: Error) {
        let (code, message) = code_and_message(error);
        self.emit(Event::Error { code, message }).await;
    }

    /// The end of a request without items.
    async fn emit_end(&self, end: Result<(), Error>) {
        match end {
            Ok(()) => self.emit(Event::Complete).await,
            Err(error) => self.emit_error(error).await,
        }
    }

    async fn cancelled(&mut self) {
        while let Some(tell) = self.told.recv().await {
            if matches!(tell, Tell::Cancel) {
                return;
            }
        }
    }
}

/// The peer's code, or -1 for what went wrong on this side.
pub(crate) fn code_and_message(error: Error) -> (i64, String) {
    let code = match &error {
        Error::Peer(failure) => failure.code().get().into(),
        Error::Misbehaved(_) => ErrorCode::CANCELED.get().into(),
        _ => -1,
    };
    (code, Failure::from(error).message().to_owned())
}

pub(crate) async fn response(mut call: Call, request: Payload) {
    let requester = call.requester.clone();
    let answer = tokio::select! {
        biased;
        answer = requester.request_response(request).optional() => answer,
        // Dropping the future is what cancels.
        () = call.cancelled() => return,
    };
    match answer {
        Ok(payload) => {
            if let Some(payload) = payload {
                call.emit(Event::next(payload)).await;
            }
            call.emit(Event::Complete).await;
        }
        Err(error) => call.emit_error(error).await,
    }
}

pub(crate) async fn fire_and_forget(call: Call, request: Payload) {
    let sent = call.requester.fire_and_forget(request).await;
    call.emit_end(sent).await;
}

pub(crate) async fn metadata_push(call: Call, metadata: Bytes) {
    let sent = call.requester.metadata_push(metadata).await;
    call.emit_end(sent).await;
}

pub(crate) async fn stream(mut call: Call, request: Payload, initial: Demand) {
    let mut items = call
        .requester
        .request_stream(request)
        .demand(DemandPolicy::Manual { initial });
    loop {
        tokio::select! {
            biased;
            told = call.told.recv() => match told {
                Some(Tell::RequestN(n)) => items.request_n(n),
                Some(Tell::Cancel) | None => return,
                Some(Tell::Send(_) | Tell::Complete | Tell::Fail(_)) => {}
            },
            item = items.next() => match item {
                Some(Ok(payload)) => call.emit(Event::next(payload)).await,
                Some(Err(error)) => return call.emit_error(error).await,
                None => return call.emit(Event::Complete).await,
            },
        }
    }
}

pub(crate) async fn channel(mut call: Call, first: Payload, initial: Demand) {
    let policy = DemandPolicy::Manual { initial };
    let (sink, answers) = match call.requester.open_channel(first, policy) {
        Ok(halves) => halves,
        Err(error) => return call.emit_error(error).await,
    };
    let mut answers = Some(answers);
    let mut outgoing = Outgoing::new(sink);
    // The responder ended our half, and how is not clear yet.
    let mut stopped = false;
    while answers.is_some() || outgoing.is_open() || stopped {
        tokio::select! {
            biased;
            told = call.told.recv() => match told {
                Some(Tell::RequestN(n)) => {
                    if let Some(answers) = &mut answers {
                        answers.request_n(n);
                    }
                }
                Some(Tell::Send(payload)) => outgoing.push(Step::Send(payload)),
                Some(Tell::Complete) => outgoing.push(Step::Complete),
                Some(Tell::Fail(message)) => outgoing.push(Step::Fail(message)),
                Some(Tell::Cancel) | None => {
                    // First, since dropping the sink would complete.
                    drop(answers);
                    return;
                }
            },
            item = next(&mut answers) => match item {
                Some(Ok(payload)) => call.emit(Event::next(payload)).await,
                Some(Err(error)) => return call.emit_error(error).await,
                None => {
                    answers = None;
                    call.emit(Event::Complete).await;
                }
            },
            // Reached when there are no answers at hand: then it was not an
            // error, which would have ended those too.
            () = std::future::ready(()), if stopped => {
                stopped = false;
                call.emit(Event::Cancelled).await;
            }
            news = outgoing.next() => match news {
                News::Granted(n) => call.emit(Event::Demand { n }).await,
                News::Completed => {}
                News::Failed => return, // The tester ended the channel, and knows.
                News::Stopped(error) => stopped = matches!(error, Error::Canceled),
                News::Refused(error) => return call.emit_error(error).await,
            },
        }
    }
}

async fn next(answers: &mut Option<PayloadStream>) -> Option<Result<Payload, Error>> {
    match answers {
        Some(answers) => answers.next().await,
        None => std::future::pending().await,
    }
}

/// A channel's sending half: what is to be sent, as credit comes in.
struct Outgoing {
    /// Until this half is over.
    sink: Option<PayloadSink>,
    queue: VecDeque<Step>,
    /// Payloads that the responder granted and that were not sent.
    credit: u64,
}

enum Step {
    Send(Payload),
    Complete,
    Fail(String),
}

/// What became of a channel's sending half.
enum News {
    Granted(u64),
    Completed,
    Failed,
    /// The responder wants no more, or the channel is over.
    Stopped(Error),
    /// A payload cannot be sent.
    Refused(Error),
}

impl Outgoing {
    fn new(sink: PayloadSink) -> Self {
        Self {
            sink: Some(sink),
            queue: VecDeque::new(),
            credit: 0,
        }
    }

    fn is_open(&self) -> bool {
        self.sink.is_some()
    }

    fn push(&mut self, step: Step) {
        if self.is_open() {
            self.queue.push_back(step);
        }
    }

    /// Sends what credit allows, until there is something to tell.
    ///
    /// Cancel-safe: what was not sent stays in the queue.
    async fn next(&mut self) -> News {
        loop {
            let Some(sink) = &mut self.sink else {
                return std::future::pending().await;
            };
            let went_on = match self.queue.front() {
                Some(Step::Send(payload)) if self.credit > 0 => sink.send(payload.clone()).await,
                Some(Step::Complete) => {
                    // Dropping it completes.
                    self.sink = None;
                    return News::Completed;
                }
                Some(Step::Fail(message)) => {
                    let failure = Failure::application(message);
                    if let Some(sink) = self.sink.take() {
                        sink.fail(&failure);
                    }
                    return News::Failed;
                }
                // Without credit there is nothing to do but to wait for it; and
                // news of it are told even when there is nothing to send.
                Some(Step::Send(_)) | None => match sink.granted().await {
                    Ok(n) => {
                        self.credit = self.credit.saturating_add(n);
                        return News::Granted(n);
                    }
                    Err(error) => Err(error),
                },
            };
            match went_on {
                Ok(()) => {
                    self.queue.pop_front();
                    self.credit -= 1;
                }
                Err(error @ Error::TooLong { .. }) => return News::Refused(error),
                Err(error) => {
                    self.sink = None;
                    self.queue.clear();
                    return News::Stopped(error);
                }
            }
        }
    }
}
