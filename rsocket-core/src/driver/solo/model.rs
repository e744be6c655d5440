//! Every order in which the link, the driver and a request that reads its own
//! answer may act: the real code, with loom's locks.
//!
//! A frame that nobody comes to read leaves somebody waiting for ever, which
//! loom reports. The clock stands still and nothing turns the timer, so none of
//! this is owed to the driver's look at licences.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p rsocket-core --release --lib model`
#![allow(clippy::unwrap_used, clippy::let_and_return, reason = "tests may fail")]

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    time::Instant,
};

use loom::{
    future::block_on,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::*;
use crate::{
    Payload, Requester,
    driver::{Dispatcher, Driver, bell::Bell},
    frame::Interaction,
    proto::{Config, DemandPolicy, Open, Session, SetupOptions},
    testkit::{frame, text},
    transport::{FrameTx, Limits, LinkInfo, OutFrame, TransportError},
};

/// Both directions of a link, and who waits at its ends.
#[derive(Default)]
struct Medium {
    there: VecDeque<String>,
    back: VecDeque<Vec<u8>>,
    /// By the client.
    closed: bool,
    ends: Ends,
    /// The client's end says whether there is something to read.
    lingers: bool,
    client: Option<Waker>,
    server: Option<Waker>,
}

/// Whether the server ended the link, of which a reader is told once.
#[derive(Default, PartialEq)]
enum Ends {
    #[default]
    Not,
    Yes,
    Told,
}

#[derive(Clone)]
struct End(Arc<Mutex<Medium>>);

impl End {
    fn with<R>(&self, act: impl FnOnce(&mut Medium) -> R) -> R {
        act(&mut self.0.lock().unwrap())
    }

    /// As the server.
    fn say(&self, text: &str) {
        self.call(|medium| medium.back.push_back(frame(text)));
    }

    /// As the server: calls for nothing, as links may.
    fn nudge(&self) {
        self.call(|_| ());
    }

    /// As the server: there will be nothing more.
    fn hang_up(&self) {
        self.call(|medium| medium.ends = Ends::Yes);
    }

    fn call(&self, act: impl FnOnce(&mut Medium)) {
        let waker = self.with(|medium| {
            act(medium);
            medium.client.take()
        });
        waker.into_iter().for_each(Waker::wake);
    }

    /// As the server: waits for a frame that has this in it.
    fn hear(&self, wanted: &str) {
        block_on(poll_fn(|cx| {
            self.with(|medium| {
                while let Some(heard) = medium.there.pop_front() {
                    if heard.contains(wanted) {
                        return Poll::Ready(());
                    }
                }
                medium.server = Some(cx.waker().clone());
                Poll::Pending
            })
        }));
    }
}

impl FrameTx for End {
    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        frame: &OutFrame<'_>,
    ) -> Poll<Result<(), TransportError>> {
        let mut bytes = Vec::new();
        frame.put(&mut bytes);
        let waker = self.with(|medium| {
            medium.there.push_back(text(&bytes));
            medium.server.take()
        });
        waker.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.with(|medium| medium.closed = true);
        Poll::Ready(Ok(()))
    }
}

impl FrameRx for End {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<Received, TransportError>> {
        let (frame, over) = self.with(|medium| {
            let frame = medium.back.pop_front();
            let over = frame.is_none() && (medium.closed || medium.ends == Ends::Yes);
            if over {
                assert!(medium.ends != Ends::Told, "it is told once");
                medium.ends = Ends::Told;
            } else if frame.is_none() {
                medium.client = Some(cx.waker().clone());
            }
            (frame, over)
        });
        match frame {
            Some(frame) => {
                let _ = sink(InFrame::Borrowed(&frame));
                Poll::Ready(Ok(Received::Frames))
            }
            None if over => Poll::Ready(Ok(Received::End)),
            None => Poll::Pending,
        }
    }

    fn linger(&mut self) -> bool {
        self.with(|medium| medium.lingers && !medium.back.is_empty())
    }
}

/// A client with a licence out, and the driver's thread.
struct World {
    peer: Requester,
    end: End,
    driver: thread::JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let now: Instant = crate::driver::now();
        let setup = SetupOptions::default();
        let session = Session::client(now, Config::default(), &setup, Limits::default());
        let end = End(Arc::default());
        let shared = Shared::new(session, Box::new(end.clone()), LinkInfo::new("model"), true);
        let peer = Requester::new(Arc::clone(&shared));
        shared.with(|inner| inner.alone = ALONE_LEN);
        let rx = Box::new(end.clone());
        let dispatcher = Dispatcher::new(Arc::new(()));
        let mut driver = Driver::client(shared, rx, Limits::default(), dispatcher, None);
        let mut first = pin!(&mut driver);
        // Twice: the first look finds that one may be granted.
        for _ in 0..2 {
            block_on(poll_fn(|cx| {
                assert!(first.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            }));
        }
        assert_eq!(peer.shared().lock().licence, Licence::Out);
        let driver = thread::spawn(move || block_on(driver));
        Self { peer, end, driver }
    }

    fn end(self) {
        self.peer.abort();
        self.end_of_itself();
    }

    /// The driver comes to its end though nobody asks it to.
    fn end_of_itself(self) {
        self.driver.join().unwrap();
        drop(self.peer);
    }
}

fn explore(world: impl Fn() + Send + Sync + 'static) {
    // Time that stands still, so that each run takes the same way.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(2));
    builder.max_branches = 100_000;
    builder.check(world);
}

fn open(peer: &Requester) -> StreamKey {
    let open = Open {
        interaction: Interaction::RequestResponse,
        payload: Payload::new("x"),
        demand: DemandPolicy::default(),
        complete: false,
    };
    peer.shared().open(open).unwrap()
}

fn wait(peer: &Requester, key: StreamKey) {
    block_on(poll_fn(|cx| match peer.shared().poll_answer(cx, key) {
        Take::Pending => Poll::Pending,
        _ => Poll::Ready(()),
    }));
}

#[test]
fn model_an_answer_is_read_by_somebody() {
    explore(|| {
        let world = World::new();
        let server = thread::spawn({
            let end = world.end.clone();
            move || {
                end.hear("REQUEST_RESPONSE 1");
                end.say("PAYLOAD 1 NC d=yes");
            }
        });
        assert!(block_on(world.peer.request_response("x")).is_ok());
        server.join().unwrap();
        world.end();
    });
}

#[test]
fn model_what_else_the_peer_says_is_answered() {
    explore(|| {
        let world = World::new();
        let server = thread::spawn({
            let end = world.end.clone();
            move || {
                end.hear("REQUEST_RESPONSE 1");
                end.say("KEEPALIVE R d=there?");
                end.say("PAYLOAD 1 NC d=yes");
                end.hear("d=there?");
            }
        });
        let answered = block_on(world.peer.request_response("x"));
        server.join().unwrap();
        drop(answered);
        world.end();
    });
}

#[test]
fn model_what_the_peer_says_between_requests_is_answered() {
    explore(|| {
        let world = World::new();
        let server = thread::spawn({
            let end = world.end.clone();
            move || {
                end.hear("REQUEST_RESPONSE 1");
                end.say("PAYLOAD 1 NC d=yes");
                // Twice: whoever finds the first by chance has to see to the next.
                for asked in ["one", "two"] {
                    end.say(&format!("KEEPALIVE R d={asked}"));
                    end.hear(&format!("d={asked}"));
                }
            }
        });
        assert!(block_on(world.peer.request_response("x")).is_ok());
        server.join().unwrap();
        world.end();
    });
}

#[test]
fn model_a_link_that_calls_for_nothing_is_looked_at_again() {
    explore(|| {
        let world = World::new();
        let server = thread::spawn({
            let end = world.end.clone();
            move || {
                end.hear("REQUEST_RESPONSE 1");
                end.nudge();
                end.say("PAYLOAD 1 NC d=yes");
            }
        });
        assert!(block_on(world.peer.request_response("x")).is_ok());
        server.join().unwrap();
        world.end();
    });
}

#[test]
fn model_a_request_finds_what_one_that_lingered_left() {
    explore(|| {
        let world = World::new();
        world.end.with(|medium| medium.lingers = true);
        let server = thread::spawn({
            let end = world.end.clone();
            move || {
                for id in [1, 3] {
                    end.hear(&format!("REQUEST_RESPONSE {id}"));
                    end.say(&format!("PAYLOAD {id} NC d=yes"));
                }
            }
        });
        for _ in 0..2 {
            assert!(block_on(world.peer.request_response("x")).is_ok());
        }
        server.join().unwrap();
        world.end();
    });
}

#[test]
fn model_a_request_that_is_dropped_passes_its_call_on() {
    explore(|| {
        let world = World::new();
        let server = thread::spawn({
            let end = world.end.clone();
            move || {
                end.say("KEEPALIVE R d=there?");
                end.hear("d=there?");
            }
        });
        {
            let mut call = pin!(world.peer.request_response("x"));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
        }
        server.join().unwrap();
        world.end();
    });
}

#[test]
fn model_a_licence_that_comes_back_calls_nobody_of_the_last_one() {
    explore(|| {
        let world = World::new();
        {
            let mut call = pin!(world.peer.request_response("x"));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending());
        }
        // As if there had been many requests since.
        world.peer.shared().with(|inner| inner.alone = ALONE_LEN);
        let server = thread::spawn({
            let end = world.end.clone();
            move || {
                end.say("KEEPALIVE R d=there?");
                end.hear("d=there?");
            }
        });
        server.join().unwrap();
        world.end();
    });
}

#[test]
fn model_two_requests_are_both_answered() {
    explore(|| {
        let world = World::new();
        let first = open(&world.peer);
        // So that it looks, and may find what is for the other.
        world.end.nudge();
        let second = thread::spawn({
            let (peer, end) = (world.peer.clone(), world.end.clone());
            move || {
                let second = open(&peer);
                end.say("PAYLOAD 3 NC d=yes");
                end.say("PAYLOAD 1 NC d=yes");
                wait(&peer, second);
            }
        });
        wait(&world.peer, first);
        second.join().unwrap();
        world.end();
    });
}

#[test]
fn model_a_second_request_leaves_nobody_waiting() {
    explore(|| {
        let world = World::new();
        let first = open(&world.peer);
        let second = thread::spawn({
            let peer = world.peer.clone();
            move || {
                let second = open(&peer);
                // Polled by nobody: the first must not depend on it.
                second
            }
        });
        world.end.say("PAYLOAD 1 NC d=yes");
        wait(&world.peer, first);
        let second = second.join().unwrap();
        world.peer.shared().cancel_and_release(second);
        world.end();
    });
}

#[test]
fn model_a_close_ends_it_whoever_reads() {
    explore(|| {
        let world = World::new();
        let closer = thread::spawn({
            let peer = world.peer.clone();
            move || peer.abort()
        });
        assert!(block_on(world.peer.request_response("x")).is_err());
        closer.join().unwrap();
        world.end();
    });
}

#[test]
fn model_a_link_that_ends_in_place_of_an_answer_ends_all() {
    explore(|| {
        let world = World::new();
        let server = thread::spawn({
            let end = world.end.clone();
            move || {
                end.hear("REQUEST_RESPONSE 1");
                end.hang_up();
            }
        });
        assert!(block_on(world.peer.request_response("x")).is_err());
        server.join().unwrap();
        world.end_of_itself();
    });
}

#[test]
fn model_a_link_that_ends_after_an_answer_ends_all() {
    explore(|| {
        let world = World::new();
        let server = thread::spawn({
            let end = world.end.clone();
            move || {
                end.hear("REQUEST_RESPONSE 1");
                end.say("PAYLOAD 1 NC d=yes");
                end.hang_up();
            }
        });
        assert!(block_on(world.peer.request_response("x")).is_ok());
        server.join().unwrap();
        world.end_of_itself();
    });
}

// By itself, since in a connection the driver would be called instead, and make
// up for what the bell forgot.
#[test]
fn model_a_call_is_not_slept_through() {
    explore(|| {
        let bell = Arc::new(Bell::new());
        let there = Arc::new(AtomicBool::new(false));
        let link = thread::spawn({
            let (waker, there) = (Waker::from(Arc::clone(&bell)), Arc::clone(&there));
            move || {
                there.store(true, Ordering::Relaxed);
                waker.wake();
            }
        });
        block_on(poll_fn(|cx| {
            while !there.load(Ordering::Relaxed) {
                if bell.call_me(cx) {
                    return Poll::Pending;
                }
                bell.hush();
            }
            Poll::Ready(())
        }));
        link.join().unwrap();
    });
}
