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

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Dispatcher, Inner, Redial, Sessions, Shared,
    dispatch::{Answer, InPlace},
    licence::Watch,
    now,
    resume::{Claim, Loading, NewLink},
    saving::Saving,
    serve::{PANICKED, ServeAnswer, ServeOneWay, ServeStream, Writer, answer},
    solo::{ALONE_LEN, Found, Licence},
    way_back::WayBack,
};
use crate::{
    Failure, LeasePolicy, PayloadStream,
    error::CloseReason,
    frame::Interaction,
    proto::{Event, RestoredStream, ResumeRequest, Setup, StreamKey},
    resume::ResumeStore,
    transport::{FrameRx, InFrame, Limits as LinkLimits, Received},
};

/// Decides about a SETUP: the responder for this client, or why not.
/// Of a session of an earlier process: with the streams that were open.
pub(crate) type Acceptor = Box<dyn FnOnce(Setup, Option<Vec<RestoredStream>>) -> Accepting + Send>;
pub(crate) type Accepting = Pin<Box<dyn Future<Output = Result<Dispatcher, Failure>> + Send>>;

/// The future that a connection lives in. It ends when the connection does.
pub(crate) struct Driver {
    pub(super) shared: Arc<Shared>,
    /// The receiving half is to be replaced by this, or to be dropped: not under
    /// the connection's lock, since whoever reads takes that last.
    pub(super) new_rx: Option<(Option<Box<dyn FrameRx>>, u64)>,
    /// A licence to read the link is out.
    pub(super) licensed: bool,
    /// One may be granted.
    pub(super) may_grant: bool,
    /// While one is out: when to look whether it is used.
    pub(super) watch: Option<Watch>,
    /// What the link takes and gives.
    pub(super) limits: LinkLimits,
    pub(super) back: WayBack,
    /// Of a session that outlives the process.
    pub(super) saving: Option<Saving>,
    /// A place among the server's connections, while there is a link.
    pub(super) place: Option<OwnedSemaphorePermit>,
    /// Serves requests: a client from the start, a server once it accepted.
    pub(super) dispatcher: Option<Dispatcher>,
    pub(super) acceptor: Option<Acceptor>,
    pub(super) accepting: Option<Accepting>,
    /// Decides what the peer may ask for, where leases were agreed on.
    pub(super) lease_policy: Option<Box<dyn LeasePolicy>>,
    /// A session of an earlier process that was asked for.
    pub(super) loading: Option<(ResumeRequest, Claim, Loading)>,
    /// Events taken from the session and not dispatched for want of room.
    pub(super) events: VecDeque<Event>,
    /// Answers of handlers that were ready at once, given to the session
    /// together.
    pub(super) answers: Vec<(StreamKey, Answer)>,
    pub(super) wakes: Vec<Waker>,
    pub(super) timer: Pin<Box<tokio::time::Sleep>>,
    pub(super) armed: Option<Instant>,
    /// Whether the timer was polled since it was set, with our waker.
    pub(super) timer_knows_us: bool,
    /// What the session said when last asked: whether there was room for
    /// answers, whether it has more events, whether to read on, whether frames
    /// wait for a flush, and when it wants to be called. Whoever changes these
    /// calls the driver.
    pub(super) room: bool,
    pub(super) events_left: bool,
    pub(super) wants_input: bool,
    pub(super) wants_flush: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) needs_link: bool,
    /// The receiving half has nothing more to give.
    pub(super) link_ended: bool,
    /// The link has hardly more to read at the moment.
    pub(super) drained: bool,
    /// A flush was asked for and waits for one more turn.
    pub(super) flush_yielded: bool,
    pub(super) ending: Option<Ending>,
}

/// The last steps of a connection.
pub(super) struct Ending {
    pub(super) reason: CloseReason,
    /// All frames are out, and the peer was told that no more will come.
    pub(super) tx_closed: bool,
    pub(super) until: Instant,
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

    /// How long the end of a connection may take: for last words to leave, and
    /// for the peer to close too.
    const LINGER: Duration = Duration::from_secs(1);

    pub(crate) fn client(
        shared: Arc<Shared>,
        rx: Box<dyn FrameRx>,
        limits: LinkLimits,
        dispatcher: Dispatcher,
        redial: Option<Redial>,
    ) -> Self {
        let mut driver = Self::new(shared, rx, limits);
        driver.dispatcher = Some(dispatcher);
        if let Some(redial) = redial {
            driver.back = WayBack::Redial {
                redial,
                resumptions: 0,
            };
        }
        driver
    }

    pub(crate) fn server(
        shared: Arc<Shared>,
        rx: Box<dyn FrameRx>,
        limits: LinkLimits,
        acceptor: Acceptor,
        place: OwnedSemaphorePermit,
        sessions: Option<Arc<Sessions>>,
    ) -> Self {
        let mut driver = Self::new(shared, rx, limits);
        driver.acceptor = Some(acceptor);
        driver.place = Some(place);
        if let Some(sessions) = sessions {
            driver.back = WayBack::Await {
                sessions,
                reserved: None,
                suspended: None,
            };
        }
        driver
    }

    /// Stores what the session has to remember, as it has something.
    pub(crate) fn storing(mut self, store: Option<Arc<dyn ResumeStore>>) -> Self {
        self.saving = store.map(Saving::new);
        self
    }

    /// As [`storing`](Self::storing), what came from the store.
    pub(crate) fn stored_as(mut self, store: Arc<dyn ResumeStore>, token: Bytes) -> Self {
        let saving = self.saving.insert(Saving::new(store));
        saving.is_stored_as(token);
        self
    }

    fn new(shared: Arc<Shared>, rx: Box<dyn FrameRx>, limits: LinkLimits) -> Self {
        Self {
            shared,
            new_rx: Some((Some(rx), 0)),
            licensed: false,
            may_grant: false,
            watch: None,
            limits,
            back: WayBack::None,
            saving: None,
            place: None,
            needs_link: false,
            dispatcher: None,
            acceptor: None,
            accepting: None,
            lease_policy: None,
            loading: None,
            events: VecDeque::new(),
            answers: Vec::new(),
            wakes: Vec::new(),
            timer: Box::pin(tokio::time::sleep_until(now().into())),
            armed: None,
            timer_knows_us: false,
            room: true,
            events_left: false,
            wants_input: true,
            wants_flush: false,
            deadline: None,
            link_ended: false,
            drained: false,
            flush_yielded: false,
            ending: None,
        }
    }

    /// What is due whatever the link says: time, frames that wait, wakers.
    fn begin(&mut self, cx: &Context<'_>, now: Instant) {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        inner.driver_called = false;
        if !inner.driver.will_wake(cx.waker()) {
            inner.driver = cx.waker().clone();
            inner.bell.set_driver(cx.waker());
            self.timer_knows_us = false;
        }
        if let Some(NewLink { rx, place }) = inner.adopted.take() {
            self.new_rx = Some((Some(rx), inner.link_no));
            self.place = place;
            self.link_ended = false;
            if let WayBack::Await { suspended, .. } = &mut self.back {
                *suspended = None;
            }
        }
        let is_due = self.armed.is_some_and(|deadline| now >= deadline);
        if is_due {
            self.armed = None;
            inner.session.handle_timeout(now);
        }
        if is_due || inner.blocked {
            inner.blocked = false;
            inner.pump();
        }
        if let Some(reason) = inner.gone.take() {
            self.link_ended = true;
            inner.session.handle_disconnect(now, reason);
        }
        if let Some(reason) = inner.lost.clone() {
            inner.session.handle_disconnect(now, reason);
        }
        self.look_after_licence(cx, &mut inner, now);
        self.collect(&mut inner);
    }

    /// Takes from the session what is to be done without the lock.
    #[inline]
    pub(super) fn collect(&mut self, inner: &mut Inner) {
        self.needs_link = inner.session.needs_link();
        if self.needs_link && inner.tx.is_some() {
            self.part_with_link(inner);
        }
        inner.drain_wakes(|waker| self.wakes.push(waker));
        // Without room for answers requests wait where they are counted. Reading
        // goes on: two sides that load each other would otherwise each wait for
        // the other to read.
        self.room = inner.session.wants_work();
        if self.room && self.events.is_empty() {
            inner.session.take_events(&mut self.events, Self::BATCH_LEN);
        }
        self.events_left = inner.session.has_events();
        self.wants_input = inner.session.wants_input();
        self.wants_flush = inner.wants_flush();
        self.deadline = inner.session.poll_timeout();
        self.may_grant =
            inner.alone >= ALONE_LEN && inner.licence == Licence::Kept && inner.is_calm();
    }

    /// Reads once from the link and gives what came to the session.
    fn read(&mut self, cx: &Context<'_>, now: Instant) -> Reading {
        if !self.wants_input || self.licensed {
            return Reading::Waits;
        }
        let shared = Arc::clone(&self.shared);
        let mut line = shared.line();
        if let Some((rx, link_no)) = self.new_rx.take() {
            line.set(rx, link_no);
        }
        // The bell calls us too, but takes a lock for it.
        let waker = match self.may_grant {
            true => {
                shared.bell.hush();
                &shared.bell_waker
            }
            false => cx.waker(),
        };
        let look = shared.look(&mut line, waker, Some(now), Self::BATCH_LEN);
        let (reading, gone) = match look.found {
            Found::Nothing => (Reading::Waits, None),
            Found::More => (Reading::More, None),
            Found::Gone(reason) => (Reading::Waits, Some(reason)),
        };
        if look.guard.is_none() && gone.is_none() {
            if self.may_grant && reading == Reading::Waits {
                self.grant_licence(now);
            }
            return reading;
        }
        self.drained = look.frames < Self::BATCH_LEN;
        let mut inner = look.guard.unwrap_or_else(|| shared.lock());
        if let Some(reason) = gone
            && inner.link_no == line.link_no
        {
            self.link_ended = true;
            inner.session.handle_disconnect(now, reason);
        }
        drop(line);
        // REQUEST_N and answers to KEEPALIVE; flushed with what follows.
        inner.pump();
        self.collect(&mut inner);
        reading
    }

    /// Drops a receiving half that is not needed any more.
    fn settle_line(&mut self) {
        if let Some((rx, link_no)) = self.new_rx.take() {
            self.shared.line().set(rx, link_no);
        }
    }

    /// Serves what came, as long as there is room for answers.
    fn dispatch(&mut self) {
        if self.accepting.is_some() && !self.events.iter().any(|e| matches!(e, Event::Closed(_))) {
            return; // Requests of a session of an earlier process.
        }
        while self.room
            && let Some(event) = self.events.pop_front()
        {
            match event {
                Event::Setup(setup) => self.on_setup(setup),
                Event::Resume(request) => self.hand_over(&request),
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
                Event::LeaseDue => self.grant_lease(),
                Event::Closed(reason) => {
                    if let WayBack::Await { reserved, .. } = &mut self.back
                        && self.saving.is_none()
                    {
                        *reserved = None; // There is nothing left to resume.
                    }
                    self.ending.get_or_insert(Ending {
                        reason,
                        tx_closed: false,
                        until: now() + Self::LINGER,
                    });
                }
            }
            if self.answers.len() >= Self::ANSWERS_LEN {
                self.give_answers();
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

    fn serve_stream(&mut self, key: StreamKey, source: Option<super::dispatch::BoxAnswers>) {
        let writer = Writer::new(Arc::clone(&self.shared), key);
        self.wants_flush = true; // What it sends goes out with this turn.
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
        for (key, result) in &mut self.answers {
            answer(&mut inner, *key, result);
            inner.session.release(*key);
        }
        inner.pump();
        // Where little comes at a time, what is read next had to wait for these.
        if inner.unflushed >= Self::ANSWERS_LEN || (self.drained && self.events.is_empty()) {
            inner.flush_wanted = false;
            inner.flush();
        }
        self.room = inner.session.wants_work();
        // Of finished requests it may come that it is time to grant more.
        self.events_left = inner.session.has_events();
        self.wants_flush = inner.wants_flush();
        drop(inner);
        self.answers.clear();
    }

    /// Wakes those whose turn came; whether there was somebody.
    fn wake_all(&mut self) -> bool {
        let woke = !self.wakes.is_empty();
        if woke {
            self.wakes.drain(..).for_each(Waker::wake);
        }
        woke
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
            Err(failure) => {
                inner.session.refuse(&failure);
                // One of an earlier process, which goes on already.
                inner.session.abort();
            }
        });
        let shared = Arc::clone(&self.shared);
        self.collect(&mut shared.lock());
    }

    /// Flushes what this turn produced; what others asked for waits until all
    /// that are runnable had their turn, so that one write covers them.
    fn flush(&mut self, cx: &Context<'_>, produced: bool) {
        if !self.wants_flush {
            return;
        }
        let mut inner = self.shared.lock();
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
            None => match (self.deadline, &self.watch) {
                (Some(deadline), Some(watch)) => Some(deadline.min(watch.due)),
                (None, Some(watch)) => Some(watch.due),
                (deadline, None) => deadline,
            },
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

    /// Sends the last words, closes the sending half, and reads on until the
    /// peer closes too: a process that exits with unread bytes in a socket makes
    /// the kernel take from the peer what it has not read yet.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.settle_line();
        let Some(ending) = &mut self.ending else {
            return Poll::Pending;
        };
        if now() < ending.until && !self.link_ended {
            if !ending.tx_closed {
                let mut inner = self.shared.lock();
                if inner.lost.is_none() {
                    inner.blocked = false;
                    inner.pump();
                    if inner.blocked {
                        return Poll::Pending;
                    }
                    if let Some(tx) = &mut inner.tx {
                        // An error changes nothing: it is over either way.
                        let _ = ready!(tx.poll_close(cx));
                    }
                }
                ending.tx_closed = true;
            }
            let mut discard = |_: InFrame<'_>| ControlFlow::Continue(());
            let mut line = self.shared.line();
            if let Some(rx) = &mut line.rx {
                while let Ok(Received::Frames) = ready!(rx.poll_recv(cx, &mut discard)) {}
            }
        }
        if let Some(saving) = &mut self.saving {
            let removed = ready!(saving.poll_finish(cx));
            if let WayBack::Await { reserved, .. } = &mut self.back
                && let Some(mut reserved) = reserved.take()
            {
                reserved.set_stored(!removed);
            }
        }
        self.shared.tell_closed(&ending.reason);
        Poll::Ready(())
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let now = now();
        this.begin(cx, now);
        this.wake_all();
        let mut produced = false;
        for round in 1..=Self::ROUNDS {
            if this.ending.is_some() {
                break;
            }
            this.restore(cx);
            this.accept(cx);
            let reading = this.read(cx, now);
            let woke = this.wake_all();
            produced |= !this.events.is_empty();
            this.dispatch();
            if reading == Reading::Waits {
                break;
            }
            // What came is used best while it is in the processor's cache. Of little
            // it is better to see first that there is no more, and who may read on.
            if woke && !this.drained || round == Self::ROUNDS {
                cx.waker().wake_by_ref();
                break;
            }
        }
        if this.events_left && this.room {
            cx.waker().wake_by_ref();
        }
        if this.ending.is_none() {
            produced |= this.save(cx);
            this.wake_all();
        }
        this.flush(cx, produced);
        if this.needs_link && this.ending.is_none() {
            this.redial(cx, now);
        }
        if this.ending.is_some() && this.poll_end(cx).is_ready() {
            return Poll::Ready(());
        }
        this.settle_line();
        this.arm(cx);
        Poll::Pending
    }
}

impl Drop for Driver {
    /// The runtime shuts down, or the connection is over: nobody must wait for
    /// what will never come. The link goes too, however long the application
    /// keeps its handles: it would be a socket that nobody uses.
    fn drop(&mut self) {
        let mut line = self.shared.line();
        let rx = line.rx.take();
        drop(line);
        drop(rx);
        let tx = self.shared.with(|inner| {
            inner.session.end(match inner.session.is_durable() {
                true => CloseReason::Detached,
                false => CloseReason::Local,
            });
            inner.lost.get_or_insert(CloseReason::Local);
            inner.tx.take()
        });
        drop(tx);
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
