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

use loom::{future::block_on, sync::Mutex, thread};

use super::*;
use crate::{
    Payload, Requester,
    driver::{Dispatcher, Driver},
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
    closed: bool,
    client: Option<Waker>,
    server: Option<Waker>,
}

#[derive(Clone)]
struct End(Arc<Mutex<Medium>>);

impl End {
    fn with<R>(&self, act: impl FnOnce(&mut Medium) -> R) -> R {
        act(&mut self.0.lock().unwrap())
    }

    /// As the server.
    fn say(&self, text: &str) {
        let waker = self.with(|medium| {
            medium.back.push_back(frame(text));
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
        let (frame, closed) = self.with(|medium| {
            let frame = medium.back.pop_front();
            if frame.is_none() {
                medium.client = Some(cx.waker().clone());
            }
            (frame, medium.closed)
        });
        match frame {
            Some(frame) => {
                let _ = sink(InFrame::Borrowed(&frame));
                Poll::Ready(Ok(Received::Frames))
            }
            None if closed => Poll::Ready(Ok(Received::End)),
            None => Poll::Pending,
        }
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
        drop(self.peer);
        self.driver.join().unwrap();
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
        let shared = world.peer.shared();
        block_on(poll_fn(|cx| match shared.poll_answer(cx, first) {
            Take::Pending => Poll::Pending,
            _ => Poll::Ready(()),
        }));
        let second = second.join().unwrap();
        shared.cancel_and_release(second);
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
