//! Who reads while a licence is out, and that somebody does.
//!
//! The clock stands still unless all tasks wait, so "at once" means without any
//! timer.
#![allow(clippy::unwrap_used, clippy::let_and_return, reason = "tests may fail")]

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::time::timeout;

use super::*;
use crate::{
    Backoff, Client, CloseReason, Handlers, Requester,
    driver::licence::PERIOD,
    resume::Resume,
    testkit::{frame, text},
    transport::{
        Connector, FrameTx, Handshake, Link, Listener as _, OutFrame, Part, TransportError,
        memory::{MemoryConnector, MemoryListener},
    },
};

/// Less than [`PERIOD`], and the least that the runtime's timer knows.
const AT_ONCE: Duration = Duration::from_millis(1);

/// The server's end of a link, spoken by hand.
struct Wire {
    tx: Box<dyn FrameTx>,
    rx: Box<dyn FrameRx>,
}

impl Wire {
    async fn accept(listener: &mut MemoryListener) -> Self {
        let handshake: Handshake = listener.accept().await.unwrap();
        let (tx, rx) = handshake.await.unwrap().split();
        Self { tx, rx }
    }

    async fn say(&mut self, text: &str) {
        let bytes = frame(text);
        let frame = OutFrame::new(&bytes, Part::EMPTY, Part::EMPTY);
        poll_fn(|cx| self.tx.poll_send(cx, &frame)).await.unwrap();
        poll_fn(|cx| self.tx.poll_flush(cx)).await.unwrap();
    }

    async fn hear(&mut self) -> String {
        let mut heard = None;
        let received = poll_fn(|cx| {
            self.rx.poll_recv(cx, &mut |frame| {
                heard = Some(text(frame.as_slice()));
                ControlFlow::Break(())
            })
        });
        match received.await {
            Ok(_) => heard.unwrap_or_else(|| "the end".to_owned()),
            Err(error) => error.to_string(),
        }
    }

    async fn hear_at_once(&mut self) -> String {
        timeout(AT_ONCE, self.hear()).await.expect("in time")
    }
}

/// A memory link whose receiving half lingers: it says whether a frame is there.
struct Lingering<C>(C, Arc<AtomicUsize>);

struct LingeringRx {
    rx: Box<dyn FrameRx>,
    /// Taken from the link while looking.
    stash: Vec<Vec<u8>>,
    lingered: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl<C: Connector> Connector for Lingering<C> {
    async fn connect(&self) -> Result<Link, TransportError> {
        let mut link = self.0.connect().await?;
        link.rx = Box::new(LingeringRx {
            rx: link.rx,
            stash: Vec::new(),
            lingered: Arc::clone(&self.1),
        });
        Ok(link)
    }
}

impl FrameRx for LingeringRx {
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Poll<Result<Received, TransportError>> {
        if self.stash.is_empty() {
            return self.rx.poll_recv(cx, sink);
        }
        while !self.stash.is_empty() {
            let frame = self.stash.remove(0);
            if sink(InFrame::Borrowed(&frame)).is_break() {
                break;
            }
        }
        Poll::Ready(Ok(Received::Frames))
    }

    fn linger(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let stash = &mut self.stash;
        let _ = self.rx.poll_recv(&mut cx, &mut |frame| {
            stash.push(frame.as_slice().to_vec());
            ControlFlow::Continue(())
        });
        self.lingered
            .fetch_add(usize::from(!self.stash.is_empty()), Ordering::Relaxed);
        !self.stash.is_empty()
    }
}

fn name() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("solo-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A client that echoes, and its server.
async fn wired(client: Client) -> (Requester, Wire, MemoryListener) {
    let name = name();
    let mut listener = MemoryListener::bind(&name).unwrap();
    let peer = client.connect(MemoryConnector::new(&name)).await.unwrap();
    let mut wire = Wire::accept(&mut listener).await;
    assert!(wire.hear().await.starts_with("SETUP"));
    (peer, wire, listener)
}

fn client() -> Client {
    let echo = Handlers::new().on_request_response(|request| async move { Ok(request) });
    Client::new().responder(echo)
}

/// Answers one request, and leaves out what the client says besides.
async fn answer(wire: &mut Wire) {
    loop {
        let heard = wire.hear().await;
        if let Some(rest) = heard.strip_prefix("REQUEST_RESPONSE ") {
            let id = rest.split(' ').next().unwrap();
            wire.say(&format!("PAYLOAD {id} NC d=yes")).await;
            return;
        }
    }
}

async fn exchange(peer: &Requester, wire: &mut Wire) {
    let (answered, ()) = tokio::join!(peer.request_response("x"), answer(wire));
    assert_eq!(answered.unwrap().data_utf8(), Some("yes"));
}

fn licence(peer: &Requester) -> Licence {
    peer.shared().lock().licence
}

/// One request at a time, until it brought a licence.
async fn earn_licence(peer: &Requester, wire: &mut Wire) {
    for _ in 0..=ALONE_LEN {
        exchange(peer, wire).await;
    }
    tokio::task::yield_now().await;
    assert_eq!(licence(peer), Licence::Out);
}

/// Counts its calls, and calls nobody.
#[derive(Default)]
struct Deaf(AtomicUsize);

impl Wake for Deaf {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_one_at_a_time_read_their_answers_themselves() {
    let (peer, mut wire, _listener) = wired(client()).await;
    for _ in 0..ALONE_LEN {
        assert_eq!(licence(&peer), Licence::Kept);
        exchange(&peer, &mut wire).await;
    }
    exchange(&peer, &mut wire).await;
    assert_eq!(licence(&peer), Licence::Out);
    for _ in 0..100 {
        // Nobody but the one who waits is called, and it needs no driver.
        let mut call = pin!(peer.request_response("x"));
        let deaf = Arc::new(Deaf::default());
        let waker = Waker::from(Arc::clone(&deaf));
        let mut cx = Context::from_waker(&waker);
        assert!(call.as_mut().poll(&mut cx).is_pending());
        answer(&mut wire).await;
        assert_eq!(deaf.0.load(Ordering::Relaxed), 1);
        assert!(call.as_mut().poll(&mut cx).is_ready());
        assert_eq!(licence(&peer), Licence::Out);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_idle_gets_its_licence_back_and_rests() {
    let (peer, mut wire, _listener) = wired(client()).await;
    earn_licence(&peer, &mut wire).await;
    tokio::time::sleep(2 * PERIOD + AT_ONCE).await;
    assert_eq!(licence(&peer), Licence::Kept);
    exchange(&peer, &mut wire).await;
    assert_eq!(licence(&peer), Licence::Kept, "it is to be earned anew");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_long_is_left_to_the_driver() {
    let (peer, mut wire, _listener) = wired(client()).await;
    earn_licence(&peer, &mut wire).await;
    let call = tokio::spawn({
        let peer = peer.clone();
        async move { peer.request_response("x").await }
    });
    tokio::time::sleep(3 * PERIOD).await;
    assert_eq!(licence(&peer), Licence::Kept);
    answer(&mut wire).await;
    assert!(timeout(AT_ONCE, call).await.unwrap().unwrap().is_ok());
}

// [C103]: what the peer says meanwhile is answered within the period, though
// whoever was called to read it never comes.
#[tokio::test(start_paused = true)]
async fn a_future_that_was_polled_once_and_left_holds_up_nobody_for_long() {
    let (peer, mut wire, _listener) = wired(client()).await;
    earn_licence(&peer, &mut wire).await;
    let mut call = pin!(peer.request_response("x"));
    let deaf = Arc::new(Deaf::default());
    let waker = Waker::from(Arc::clone(&deaf));
    assert!(
        call.as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    assert!(wire.hear_at_once().await.starts_with("REQUEST_RESPONSE"));
    wire.say("KEEPALIVE R d=there?").await;
    assert_eq!(deaf.0.load(Ordering::Relaxed), 1, "it was called");
    let heard = timeout(PERIOD + AT_ONCE, wire.hear()).await;
    assert!(heard.expect("in time").contains("d=there?"));
    assert_eq!(licence(&peer), Licence::Kept);
    wire.say(&format!("PAYLOAD {} NC d=yes", 2 * ALONE_LEN + 3))
        .await;
    assert!(timeout(AT_ONCE, call).await.expect("in time").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_dropped_after_it_was_called_passes_the_call_on() {
    let (peer, mut wire, _listener) = wired(client()).await;
    earn_licence(&peer, &mut wire).await;
    let deaf = Arc::new(Deaf::default());
    {
        let mut call = pin!(peer.request_response("x"));
        let waker = Waker::from(Arc::clone(&deaf));
        assert!(
            call.as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        assert!(wire.hear_at_once().await.starts_with("REQUEST_RESPONSE"));
        wire.say("KEEPALIVE R d=there?").await;
        assert_eq!(deaf.0.load(Ordering::Relaxed), 1, "it was called");
    }
    assert!(wire.hear_at_once().await.starts_with("CANCEL"));
    assert!(wire.hear_at_once().await.contains("d=there?"));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_loses_a_race_leaves_nothing_unread() {
    let (peer, mut wire, _listener) = wired(client()).await;
    for _ in 0..20 {
        earn_licence(&peer, &mut wire).await;
        tokio::select! {
            biased;
            _ = peer.request_response("x") => panic!("nobody answered"),
            () = tokio::task::yield_now() => {}
        }
        assert!(wire.hear_at_once().await.starts_with("REQUEST_RESPONSE"));
        assert!(wire.hear_at_once().await.starts_with("CANCEL"));
        wire.say("KEEPALIVE R d=there?").await;
        assert!(wire.hear_at_once().await.contains("d=there?"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_request_ends_the_licence_and_both_are_answered() {
    let (peer, mut wire, _listener) = wired(client()).await;
    earn_licence(&peer, &mut wire).await;
    let first = tokio::spawn({
        let peer = peer.clone();
        async move { peer.request_response("x").await }
    });
    tokio::task::yield_now().await;
    let second = peer.request_response("y");
    assert_ne!(licence(&peer), Licence::Out);
    answer(&mut wire).await;
    assert!(timeout(AT_ONCE, first).await.unwrap().unwrap().is_ok());
    answer(&mut wire).await;
    assert!(timeout(AT_ONCE, second).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_polls_keeps_the_peer_waiting_for_nothing() {
    let (peer, mut wire, _listener) = wired(client()).await;
    earn_licence(&peer, &mut wire).await;
    let call = peer.request_response("x");
    assert!(wire.hear_at_once().await.starts_with("REQUEST_RESPONSE"));
    wire.say("REQUEST_RESPONSE 2 d=ping").await;
    assert_eq!(wire.hear_at_once().await, "PAYLOAD 2 NC d=ping");
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn the_peers_request_is_served_while_one_of_ours_reads() {
    let (peer, mut wire, _listener) = wired(client()).await;
    earn_licence(&peer, &mut wire).await;
    let call = tokio::spawn({
        let peer = peer.clone();
        async move { peer.request_response("x").await }
    });
    assert!(wire.hear_at_once().await.starts_with("REQUEST_RESPONSE"));
    wire.say("REQUEST_RESPONSE 2 d=ping").await;
    assert_eq!(wire.hear_at_once().await, "PAYLOAD 2 NC d=ping");
    wire.say(&format!("PAYLOAD {} NC d=yes", 2 * ALONE_LEN + 3))
        .await;
    assert!(timeout(AT_ONCE, call).await.unwrap().unwrap().is_ok());
}

// [C103]
#[tokio::test(start_paused = true)]
async fn a_keepalive_is_answered_while_a_request_reads_and_between_two() {
    let (peer, mut wire, _listener) = wired(client()).await;
    earn_licence(&peer, &mut wire).await;
    // Whoever read last left the link so that it calls.
    exchange(&peer, &mut wire).await;
    assert_eq!(licence(&peer), Licence::Out);
    wire.say("KEEPALIVE R d=between").await;
    assert!(wire.hear_at_once().await.contains("d=between"));
    earn_licence(&peer, &mut wire).await;
    let call = tokio::spawn({
        let peer = peer.clone();
        async move { peer.request_response("x").await }
    });
    assert!(wire.hear_at_once().await.starts_with("REQUEST_RESPONSE"));
    wire.say("KEEPALIVE R d=while").await;
    assert!(wire.hear_at_once().await.contains("d=while"));
    assert!(!call.is_finished());
}

// [C105]
#[tokio::test(start_paused = true)]
async fn a_peer_that_falls_silent_is_found_out_while_a_request_reads() {
    let (peer, mut wire, _listener) = wired(client()).await;
    earn_licence(&peer, &mut wire).await;
    let call = peer.request_response("x");
    let error = timeout(Duration::from_secs(200), call)
        .await
        .expect("in time")
        .unwrap_err();
    let crate::Error::Closed(CloseReason::KeepaliveTimeout { .. }) = error else {
        panic!("{error:?}")
    };
}

#[tokio::test(start_paused = true)]
async fn a_link_that_ends_while_a_request_reads_ends_it() {
    let (peer, mut wire, _listener) = wired(client()).await;
    earn_licence(&peer, &mut wire).await;
    let call = tokio::spawn({
        let peer = peer.clone();
        async move { peer.request_response("x").await }
    });
    assert!(wire.hear_at_once().await.starts_with("REQUEST_RESPONSE"));
    drop(wire);
    assert!(timeout(AT_ONCE, call).await.unwrap().unwrap().is_err());
    let ended = timeout(AT_ONCE, peer.closed()).await.expect("in time");
    assert!(matches!(ended, CloseReason::Transport(_)), "{ended:?}");
}

// [C282]
#[tokio::test(start_paused = true)]
async fn a_link_that_is_cut_while_a_request_reads_is_replaced_for_it() {
    let at_once = Duration::from_millis(1);
    let resume = Resume::new().backoff(Backoff::new(at_once, at_once));
    let (peer, mut wire, mut listener) = wired(client().resume(resume)).await;
    assert!(wire.hear().await.starts_with("KEEPALIVE"));
    let mut position = 0;
    wire.say("KEEPALIVE").await;
    for _ in 0..3 {
        for _ in 0..=ALONE_LEN {
            exchange(&peer, &mut wire).await;
            position += frame("PAYLOAD 1 NC d=yes").len();
        }
        tokio::task::yield_now().await;
        assert_eq!(licence(&peer), Licence::Out);
        let call = tokio::spawn({
            let peer = peer.clone();
            async move { peer.request_response("cut").await }
        });
        let asked = wire.hear_at_once().await;
        assert!(asked.starts_with("REQUEST_RESPONSE"), "{asked}");
        drop(wire);
        wire = timeout(Duration::from_secs(10), Wire::accept(&mut listener))
            .await
            .expect("it comes back");
        let heard = wire.hear().await;
        assert!(heard.starts_with("RESUME "), "{heard}");
        assert!(heard.contains(&format!("p={position} ")), "{heard}");
        wire.say("RESUME_OK p=0").await;
        // All that it sent comes again, the last one unanswered.
        loop {
            let heard = wire.hear().await;
            if heard.ends_with("d=cut") && heard.starts_with(asked.trim_end_matches(" d=cut")) {
                break;
            }
        }
        let id = asked.split(' ').nth(1).unwrap();
        wire.say(&format!("PAYLOAD {id} NC d=yes")).await;
        position += frame("PAYLOAD 1 NC d=yes").len();
        let answered = timeout(AT_ONCE, call).await.expect("in time").unwrap();
        assert_eq!(answered.unwrap().data_utf8(), Some("yes"));
    }
    assert_eq!(peer.stats().resumptions, 3);
}

#[tokio::test(start_paused = true)]
async fn a_close_is_not_held_up_by_a_licence() {
    let (peer, mut wire, _listener) = wired(client()).await;
    earn_licence(&peer, &mut wire).await;
    let closing = tokio::spawn({
        let peer = peer.clone();
        async move { peer.close().await }
    });
    assert!(
        wire.hear_at_once()
            .await
            .starts_with("ERROR CONNECTION_CLOSE")
    );
    drop(wire);
    let closed = timeout(AT_ONCE, closing).await.expect("in time");
    assert!(matches!(closed.unwrap(), CloseReason::Local));
}

/// A client on a link that lingers, its server, and how often that found a frame.
async fn lingering() -> (Requester, Wire, Arc<AtomicUsize>) {
    let name = name();
    let mut listener = MemoryListener::bind(&name).unwrap();
    let lingered = Arc::new(AtomicUsize::new(0));
    let connector = Lingering(MemoryConnector::new(&name), Arc::clone(&lingered));
    let peer = client().connect(connector).await.unwrap();
    let mut wire = Wire::accept(&mut listener).await;
    assert!(wire.hear().await.starts_with("SETUP"));
    (peer, wire, lingered)
}

#[tokio::test(start_paused = true)]
async fn a_link_that_lingers_is_asked_before_the_request_sleeps() {
    let (peer, mut wire, lingered) = lingering().await;
    earn_licence(&peer, &mut wire).await;
    assert_eq!(lingered.load(Ordering::Relaxed), 0, "not without a licence");
    let call = peer.request_response("x");
    answer(&mut wire).await;
    let mut call = pin!(call);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut cx).is_ready(), "in the first poll");
    assert_eq!(lingered.load(Ordering::Relaxed), 1);
    // Nobody reads, and the link will not call; but the driver looks.
    wire.say("REQUEST_RESPONSE 2 d=ping").await;
    let heard = timeout(2 * PERIOD + AT_ONCE, wire.hear()).await;
    assert_eq!(heard.expect("in time"), "PAYLOAD 2 NC d=ping");
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_always_ready_let_others_run() {
    let (peer, mut wire, _lingered) = lingering().await;
    earn_licence(&peer, &mut wire).await;
    let mut yields = 0;
    for _ in 0..4 * INLINE_LEN {
        let call = peer.request_response("x");
        answer(&mut wire).await;
        let mut call = pin!(call);
        let deaf = Arc::new(Deaf::default());
        let waker = Waker::from(Arc::clone(&deaf));
        let mut cx = Context::from_waker(&waker);
        if call.as_mut().poll(&mut cx).is_pending() {
            assert_eq!(deaf.0.load(Ordering::Relaxed), 1, "to be polled again");
            yields += 1;
            assert!(call.as_mut().poll(&mut cx).is_ready());
        }
    }
    assert!((3..=4).contains(&yields), "{yields} times");
}
