//! The connection's one task.

use std::{
    collections::VecDeque,
    future::Future,
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use super::{
    Dispatcher, Shared,
    dispatch::{Answer, InPlace},
    now,
    serve::{PANICKED, ServeAnswer, ServeOneWay, ServeStream, Writer, answer},
};
use crate::{
    Failure, PayloadStream,
    error::CloseReason,
    frame::Interaction,
    proto::{Event, Setup, StreamKey},
    transport::{FrameRx, InFrame, Received},
};

/// Decides about a SETUP: the responder for this client, or why not.
pub(crate) type Acceptor = Box<dyn FnOnce(Setup) -> Accepting + Send>;
pub(crate) type Accepting = Pin<Box<dyn Future<Output = Result<Dispatcher, Failure>> + Send>>;

/// The future that a connection lives in. It ends when the connection does.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    rx: Box<dyn FrameRx>,
    /// Serves requests: a client from the start, a server once it accepted.
    dispatcher: Option<Dispatcher>,
    acceptor: Option<Acceptor>,
    accepting: Option<Accepting>,
    /// Events taken from the session and not dispatched for want of room.
    events: VecDeque<Event>,
    /// Answers of handlers that were ready at once, given to the session
    /// together.
    answers: Vec<(StreamKey, Answer)>,
    wakes: Vec<Waker>,
    timer: Pin<Box<tokio::time::Sleep>>,
    armed: Option<Instant>,
    /// Whether the timer was polled since it was set, with our waker.
    timer_knows_us: bool,
    /// Whether there was room for answers when last seen.
    room: bool,
    /// A flush was asked for and waits for one more turn.
    flush_yielded: bool,
    ending: Option<Ending>,
}

/// The last steps of a connection.
struct Ending {
    reason: CloseReason,
    /// Whether the link still works.
    link_works: bool,
    until: Instant,
}

/// Whether the link may have more to read.
#[derive(PartialEq, Eq)]
enum Reading {
    More,
    Waits,
}

impl Driver {
    /// Frames handled under one lock.
    const BATCH_LEN: usize = 64;

    /// Rounds of reading and serving before other tasks get a turn.
    const ROUNDS: usize = 8;

    /// Answers given to the session at a time.
    const ANSWERS_LEN: usize = 32;

    /// How long last words may take to leave.
    const LINGER: Duration = Duration::from_secs(1);

    pub(crate) fn client(
        shared: Arc<Shared>,
        rx: Box<dyn FrameRx>,
        dispatcher: Dispatcher,
    ) -> Self {
        Self::new(shared, rx, Some(dispatcher), None)
    }

    pub(crate) fn server(shared: Arc<Shared>, rx: Box<dyn FrameRx>, acceptor: Acceptor) -> Self {
        Self::new(shared, rx, None, Some(acceptor))
    }

    fn new(
        shared: Arc<Shared>,
        rx: Box<dyn FrameRx>,
        dispatcher: Option<Dispatcher>,
        acceptor: Option<Acceptor>,
    ) -> Self {
        Self {
            shared,
            rx,
            dispatcher,
            acceptor,
            accepting: None,
            events: VecDeque::new(),
            answers: Vec::new(),
            wakes: Vec::new(),
            timer: Box::pin(tokio::time::sleep_until(now().into())),
            armed: None,
            timer_knows_us: false,
            room: true,
            flush_yielded: false,
            ending: None,
        }
    }

    /// What is due whatever the link says: time, frames that wait, wakers.
    fn housekeeping(&mut self, cx: &Context<'_>, now: Instant) {
        let mut inner = self.shared.lock();
        inner.driver_called = false;
        if !inner.driver.will_wake(cx.waker()) {
            inner.driver = cx.waker().clone();
            self.timer_knows_us = false;
        }
        if self.armed.is_some_and(|deadline| now >= deadline) {
            self.armed = None;
            inner.session.handle_timeout(now);
        }
        inner.blocked = false;
        inner.pump();
        if let Some(reason) = inner.lost.clone() {
            inner.session.handle_disconnect(reason);
        }
        inner.drain_wakes(|waker| self.wakes.push(waker));
        while let Some(event) = inner.session.poll_event() {
            self.events.push_back(event);
        }
    }

    /// Reads once from the link and gives what came to the session.
    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> Reading {
        if !self.events.is_empty() || !self.shared.lock().wants_input() {
            return Reading::Waits;
        }
        let shared = &self.shared;
        let mut guard = None;
        let mut left = Self::BATCH_LEN;
        let mut sink = |frame: InFrame<'_>| {
            // The lock is taken when something came, not while looking for it.
            let inner = guard.get_or_insert_with(|| shared.lock());
            inner.session.handle_frame(now, &frame);
            left -= 1;
            if left == 0 || !inner.wants_input() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let received = self.rx.poll_recv(cx, &mut sink);
        let (reading, gone) = match received {
            Poll::Pending => (Reading::Waits, None),
            Poll::Ready(Ok(Received::Frames)) => (Reading::More, None),
            Poll::Ready(Ok(Received::End)) => (Reading::Waits, Some(CloseReason::Peer)),
            Poll::Ready(Err(error)) => (Reading::Waits, Some(error.into())),
        };
        let inner = match (guard, &gone) {
            (Some(guard), _) => Some(guard),
            (None, Some(_)) => Some(shared.lock()),
            (None, None) => None,
        };
        if let Some(mut inner) = inner {
            if let Some(reason) = gone {
                inner.session.handle_disconnect(reason);
            }
            // REQUEST_N and answers to KEEPALIVE; flushed with what follows.
            inner.pump();
            inner.drain_wakes(|waker| self.wakes.push(waker));
            while let Some(event) = inner.session.poll_event() {
                self.events.push_back(event);
            }
        }
        reading
    }

    /// Serves what came, as long as there is room for answers.
    fn dispatch(&mut self) {
        if self.events.is_empty() {
            return;
        }
        if !self.room {
            self.room = self.shared.lock().session.wants_work();
            if !self.room {
                return;
            }
        }
        while let Some(event) = self.events.pop_front() {
            match event {
                Event::Setup(setup) => {
                    if let Some(acceptor) = self.acceptor.take() {
                        self.accepting = Some(acceptor(setup));
                    }
                }
                Event::Request {
                    key,
                    interaction,
                    payload,
                } => self.serve(key, interaction, payload),
                Event::Channel { key } => self.serve_channel(key),
                Event::MetadataPush(metadata) => {
                    let done = {
                        let shared = Arc::clone(&self.shared);
                        move || shared.with(|inner| inner.session.metadata_push_done())
                    };
                    let handled = self
                        .dispatcher
                        .as_mut()
                        .map(|dispatcher| (dispatcher.metadata_push)(metadata));
                    one_way(handled, done);
                }
                Event::Closed(reason) => {
                    let link_works = self.shared.lock().lost.is_none()
                        && !matches!(reason, CloseReason::Transport(_));
                    self.ending.get_or_insert(Ending {
                        reason,
                        link_works,
                        until: now() + Self::LINGER,
                    });
                }
            }
            if self.answers.len() >= Self::ANSWERS_LEN {
                self.give_answers();
                if !self.room {
                    return;
                }
            }
        }
        self.give_answers();
    }

    fn serve(&mut self, key: StreamKey, interaction: Interaction, payload: crate::Payload) {
        let Some(dispatcher) = &mut self.dispatcher else {
            return;
        };
        match interaction {
            Interaction::RequestResponse => match (dispatcher.request_response)(payload) {
                InPlace::Ready(answer) => self.answers.push((key, answer)),
                InPlace::Panicked => {
                    let failure = Failure::application(PANICKED);
                    self.answers.push((key, Err(failure)));
                }
                InPlace::Pending(handler) => {
                    let writer = Writer::new(Arc::clone(&self.shared), key);
                    tokio::spawn(ServeAnswer::new(handler, writer));
                }
            },
            Interaction::FireAndForget => {
                let shared = Arc::clone(&self.shared);
                let done = move || shared.with(|inner| inner.session.release(key));
                one_way(Some((dispatcher.fire_and_forget)(payload)), done);
            }
            Interaction::RequestStream | Interaction::RequestChannel => {
                let source = (dispatcher.request_stream)(payload);
                self.serve_stream(key, source);
            }
        }
    }

    fn serve_channel(&mut self, key: StreamKey) {
        let Some(dispatcher) = &mut self.dispatcher else {
            return;
        };
        let inbound = PayloadStream::inbound(Arc::clone(&self.shared), key);
        let source = (dispatcher.request_channel)(inbound);
        self.serve_stream(key, source);
    }

    fn serve_stream(&self, key: StreamKey, source: Option<super::dispatch::BoxAnswers>) {
        let writer = Writer::new(Arc::clone(&self.shared), key);
        let Some(source) = source else {
            return; // It panicked, and dropping the writer says so.
        };
        let mut serving = Box::pin(ServeStream::new(source, writer));
        // Once in place: a short stream needs no task. No waker: a stream that
        // is not over is polled again by its own task.
        let mut cx = Context::from_waker(Waker::noop());
        if serving.as_mut().poll(&mut cx).is_pending() {
            tokio::spawn(serving);
        }
    }

    /// Gives the answers gathered to the session.
    fn give_answers(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let mut inner = self.shared.lock();
        for (key, result) in self.answers.drain(..) {
            answer(&mut inner, key, result);
            inner.session.release(key);
        }
        inner.pump();
        if inner.unflushed >= super::flush_batch(Self::BATCH_LEN * 8) {
            inner.flush();
        }
        self.room = inner.session.wants_work();
    }

    fn wake_all(&mut self) {
        self.wakes.drain(..).for_each(Waker::wake);
    }

    /// Asks the application about a client.
    fn accept(&mut self, cx: &mut Context<'_>) {
        let Some(accepting) = &mut self.accepting else {
            return;
        };
        let polled = super::dispatch::caught(|| accepting.as_mut().poll(cx));
        let decision = match polled {
            Some(Poll::Pending) => return,
            Some(Poll::Ready(decision)) => decision,
            None => Err(Failure::rejected("the acceptor panicked")),
        };
        self.accepting = None;
        self.shared.with(|inner| match decision {
            Ok(dispatcher) => {
                self.dispatcher = Some(dispatcher);
                inner.session.accept(now());
            }
            Err(failure) => inner.session.refuse(&failure),
        });
    }

    /// Flushes what this round produced; what others asked for waits until all
    /// that are runnable had their turn, so that one write covers them.
    fn flush(&mut self, cx: &Context<'_>, produced: bool) {
        let mut inner = self.shared.lock();
        if !inner.flush_wanted && !inner.flush_pending && inner.unflushed == 0 {
            return;
        }
        if produced || self.flush_yielded || inner.flush_pending || inner.session.is_closed() {
            self.flush_yielded = false;
            inner.flush_wanted = false;
            inner.flush();
        } else {
            self.flush_yielded = true;
            cx.waker().wake_by_ref();
        }
    }

    /// Sets the timer to the next deadline.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let deadline = match &self.ending {
            Some(ending) => Some(ending.until),
            None => self.shared.lock().session.poll_timeout(),
        };
        // A deadline that moved back is left armed: the timer fires early,
        // finds nothing to do, and is armed anew. Cheaper than moving it with
        // each frame.
        if let Some(deadline) = deadline
            && self.armed.is_none_or(|armed| deadline < armed)
        {
            self.armed = Some(deadline);
            self.timer.as_mut().reset(deadline.into());
            self.timer_knows_us = false;
        }
        if self.armed.is_some() && !self.timer_knows_us {
            self.timer_knows_us = true;
            if self.timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
    }

    /// Sends the last words and closes the sending half. That the peer gets to
    /// read them is the transport's affair.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ending) = &mut self.ending else {
            return Poll::Pending;
        };
        if ending.link_works && now() < ending.until {
            let mut inner = self.shared.lock();
            inner.blocked = false;
            inner.pump();
            if inner.blocked {
                return Poll::Pending;
            }
            // An error changes nothing: the connection is over either way.
            let _ = ready!(inner.tx.poll_close(cx));
        }
        self.shared.tell_closed(&ending.reason);
        Poll::Ready(())
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let mut produced = false;
        for round in 0..Self::ROUNDS {
            let now = now();
            this.housekeeping(cx, now);
            this.wake_all();
            this.accept(cx);
            if this.ending.is_none() {
                let reading = this.read(cx, now);
                this.wake_all();
                produced |= !this.events.is_empty();
                this.dispatch();
                if reading == Reading::More && this.ending.is_none() {
                    if round + 1 == Self::ROUNDS {
                        cx.waker().wake_by_ref();
                    }
                    continue;
                }
            }
            break;
        }
        this.flush(cx, produced);
        if this.ending.is_some() {
            let end = this.poll_end(cx);
            this.wake_all();
            if end.is_ready() {
                return Poll::Ready(());
            }
        }
        this.arm(cx);
        Poll::Pending
    }
}

impl Drop for Driver {
    /// The runtime shuts down, or the connection is over: nobody must wait for
    /// what will never come.
    fn drop(&mut self) {
        self.shared.with(|inner| {
            inner.session.handle_disconnect(CloseReason::Local);
            inner.lost.get_or_insert(CloseReason::Local);
        });
        let reason = self.shared.lock().session.close_reason().cloned();
        self.shared
            .tell_closed(&reason.unwrap_or(CloseReason::Local));
    }
}

/// Runs a one-way handler to its end, and says when it is done.
fn one_way(handled: Option<InPlace<()>>, done: impl FnOnce() + Send + 'static) {
    match handled {
        Some(InPlace::Pending(handler)) => {
            tokio::spawn(ServeOneWay::new(handler, done));
        }
        Some(InPlace::Ready(()) | InPlace::Panicked) | None => done(),
    }
}
