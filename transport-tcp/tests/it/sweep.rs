//! A session is cut at every byte.
//!
//! A scripted session with every interaction open in both directions runs over
//! a link that breaks exactly behind byte N of one direction, for every N that
//! there is. What was sent before arrives, nothing behind it does, and what was
//! on its way in the other direction is lost. Whatever N: every payload arrives
//! once and in order, both sides end well, and nothing is left.
#![expect(
    clippy::indexing_slicing,
    reason = "an index that is wrong fails the test, as it should"
)]

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use rsocket_core::{
    Backoff, Client, CloseReason, Failure, Payload, PayloadStream, Requester, Responder, Server,
    resume::Resume,
    testkit::Random,
    transport::{
        Connector, Handshake, Link, LinkInfo, Listener, TransportError, TransportErrorKind,
    },
};
use rsocket_transport_tcp::{LinkOptions, link};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, ReadHalf, WriteHalf},
    sync::{mpsc, oneshot},
};

// ----- links that break at a byte ---------------------------------------------------

/// Who sends the bytes that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Where a link breaks.
type Cut = Option<(Side, usize)>;

/// One link: what both of its ends know.
struct Line {
    cut: Cut,
    /// By sender.
    sent: [AtomicUsize; 2],
    is_cut: AtomicBool,
    /// Whether ends see a reset; else they see the stream end.
    resets: bool,
    wakers: Mutex<Vec<Waker>>,
}

impl Line {
    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        let wakers = std::mem::take(&mut *self.wakers.lock().unwrap());
        wakers.into_iter().for_each(Waker::wake);
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    fn error(&self) -> io::Result<()> {
        match self.resets {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }
}

struct Reading {
    inner: ReadHalf<DuplexStream>,
    side: Side,
    line: Arc<Line>,
}

impl AsyncRead for Reading {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What was sent before the cut arrives at the other side alone.
        let is_sender = this.line.cut.is_some_and(|(side, _)| side == this.side);
        if this.line.is_cut() && is_sender {
            return Poll::Ready(this.line.error());
        }
        let polled = Pin::new(&mut this.inner).poll_read(cx, buf);
        if polled.is_pending() {
            if this.line.is_cut() {
                return Poll::Ready(this.line.error());
            }
            this.line.wakers.lock().unwrap().push(cx.waker().clone());
        }
        polled
    }
}

struct Writing {
    inner: WriteHalf<DuplexStream>,
    side: Side,
    line: Arc<Line>,
}

impl AsyncWrite for Writing {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.line.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let sent = &this.line.sent[this.side as usize];
        let left = match this.line.cut {
            Some((side, n)) if side == this.side => n - sent.load(Ordering::Relaxed),
            _ => usize::MAX,
        };
        if left == 0 {
            this.line.cut();
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let buf = &buf[..buf.len().min(left)];
        let polled = Pin::new(&mut this.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = polled {
            sent.fetch_add(n, Ordering::Relaxed);
            if n == left {
                this.line.cut();
            }
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

fn end(stream: DuplexStream, side: Side, line: &Arc<Line>) -> Link {
    let (inner, write) = tokio::io::split(stream);
    let read = Reading {
        inner,
        side,
        line: Arc::clone(line),
    };
    let write = Writing {
        inner: write,
        side,
        line: Arc::clone(line),
    };
    link(read, write, LinkInfo::new("sweep"), LinkOptions::new())
}

/// Makes links that break as planned, the first as the first of the plan says;
/// those beyond the plan hold.
struct Cutting {
    plan: Vec<Cut>,
    resets: bool,
    lines: Mutex<Vec<Arc<Line>>>,
    accepting: mpsc::UnboundedSender<Link>,
}

struct Sweeper(Arc<Cutting>);

#[async_trait::async_trait]
impl Connector for Sweeper {
    async fn connect(&self) -> Result<Link, TransportError> {
        let mut lines = self.0.lines.lock().unwrap();
        let line = Arc::new(Line {
            cut: self.0.plan.get(lines.len()).copied().flatten(),
            sent: [AtomicUsize::new(0), AtomicUsize::new(0)],
            is_cut: AtomicBool::new(false),
            resets: self.0.resets,
            wakers: Mutex::default(),
        });
        // Small, so that writes are cut up anywhere.
        let (ours, theirs) = tokio::io::duplex(512);
        let sent = self.0.accepting.send(end(theirs, Side::Server, &line));
        let gone = |_| TransportError::new(TransportErrorKind::Unreachable, "the server is gone");
        sent.map_err(gone)?;
        lines.push(Arc::clone(&line));
        Ok(end(ours, Side::Client, &line))
    }
}

struct Accepting(mpsc::UnboundedReceiver<Link>);

#[async_trait::async_trait]
impl Listener for Accepting {
    async fn accept(&mut self) -> Result<Handshake, TransportError> {
        match self.0.recv().await {
            Some(link) => Ok(Box::pin(async move { Ok(link) })),
            None => std::future::pending().await,
        }
    }

    fn url(&self) -> String {
        "sweep:".to_owned()
    }
}

// ----- what goes over them ----------------------------------------------------------

/// Answers, and remembers what has no answer.
#[derive(Clone, Default)]
struct Service {
    seen: Arc<Mutex<Vec<Payload>>>,
}

impl Responder for Service {
    async fn fire_and_forget(&self, request: Payload) {
        self.seen.lock().unwrap().push(request);
    }

    async fn request_response(&self, request: Payload) -> Result<Payload, Failure> {
        tokio::task::yield_now().await;
        Ok(request)
    }

    fn request_stream(
        &self,
        request: Payload,
    ) -> impl stream::Stream<Item = Result<Payload, Failure>> + Send + use<> {
        let seed = request.data()[0];
        stream::iter(0..6).map(move |n| Ok(content(seed, n)))
    }

    fn request_channel(
        &self,
        inbound: PayloadStream,
    ) -> impl stream::Stream<Item = Result<Payload, Failure>> + Send + use<> {
        inbound.map(|payload| payload.map_err(Failure::from))
    }
}

/// Some need fragments, some do not.
fn content(seed: u8, n: usize) -> Payload {
    let mut random = Random::new(u64::from(seed) << 8 | n as u64);
    let len = [0, 7, 30, 150][n % 4];
    let payload = Payload::new(random.bytes(len));
    match n % 3 {
        0 => payload.with_metadata(random.bytes(len / 3)),
        _ => payload,
    }
}

/// Every interaction at once; returns the bytes compared.
async fn talk(peer: &Requester, seed: u8) -> usize {
    let compared = AtomicUsize::new(0);
    let compare = |got: Payload, expected: Payload| {
        assert_eq!(got, expected);
        let metadata = got.metadata().map_or(0, <[u8]>::len);
        compared.fetch_add(got.data().len() + metadata, Ordering::Relaxed);
    };
    let one_way = async {
        peer.fire_and_forget(content(seed, 3)).await.unwrap();
    };
    let response = async {
        for n in 0..4 {
            let answer = peer.request_response(content(seed, n)).await.unwrap();
            compare(answer, content(seed, n));
        }
    };
    let stream = async {
        let mut answers = peer.request_stream(vec![seed]);
        for n in 0..6 {
            compare(answers.next().await.unwrap().unwrap(), content(seed, n));
        }
        assert!(answers.next().await.is_none());
    };
    let channel = async {
        let outbound = stream::iter(0..5).map(move |n| content(seed, n));
        let mut echoes = peer.request_channel(outbound);
        for n in 0..5 {
            compare(echoes.next().await.unwrap().unwrap(), content(seed, n));
        }
        assert!(echoes.next().await.is_none());
    };
    let early = async {
        // Given up: nothing comes of it, and nothing stays of it.
        let mut answers = peer.request_stream(vec![seed]);
        compare(answers.next().await.unwrap().unwrap(), content(seed, 0));
    };
    tokio::join!(one_way, response, stream, channel, early);
    compared.into_inner()
}

/// What came of one session.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    /// Bytes sent over the first link, by side.
    sent: [usize; 2],
    links: usize,
    resumptions: u64,
    resent: u64,
    compared: usize,
    goodbye_lost: bool,
}

async fn live(plan: Vec<Cut>, resets: bool, client_closes: bool) -> Outcome {
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let (accepting, accepted) = mpsc::unbounded_channel();
    let cutting = Arc::new(Cutting {
        plan,
        resets,
        lines: Mutex::default(),
        accepting,
    });
    let (theirs, ours) = (Service::default(), Service::default());
    let (tell, mut clients) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::new()
        .fragment(64)
        .resume(Resume::new().session_timeout(Duration::from_secs(120)));
    let service = theirs.clone();
    let serving = tokio::spawn(server.serve_until(
        Accepting(accepted),
        move |_, client| {
            tell.send(client).unwrap();
            let service = service.clone();
            async move { Ok(service) }
        },
        async {
            let _ = stopped.await;
        },
    ));
    let (soon, later) = (Duration::from_millis(5), Duration::from_secs(2));
    let resume = Resume::new().backoff(Backoff::new(soon, later));
    let client = Client::new()
        .fragment(80)
        .resume(resume)
        .responder(ours.clone())
        .connect(Sweeper(Arc::clone(&cutting)))
        .await
        .unwrap();
    let from_server = async {
        let server = clients.recv().await.unwrap();
        let compared = talk(&server, 2).await;
        (server, compared)
    };
    let (compared, (server, also)) = tokio::join!(talk(&client, 1), from_server);
    // Until both have told each other what they have.
    for rounds in 0.. {
        let held = client.stats().resume_len + server.stats().resume_len;
        let open = client.stats().streams_open + server.stats().streams_open;
        if held == 0 && open == 0 {
            break;
        }
        assert!(rounds < 20, "{:?} {:?}", client.stats(), server.stats());
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    for (seen, seed) in [(&theirs.seen, 1), (&ours.seen, 2)] {
        assert_eq!(*seen.lock().unwrap(), [content(seed, 3)]);
    }

    let mut stop = Some(stop);
    let reasons = match client_closes {
        true => [client.close().await, server.closed().await],
        false => {
            stop.take().unwrap().send(()).unwrap();
            [client.closed().await, server.closed().await]
        }
    };
    let expected = match client_closes {
        true => [CloseReason::Local, CloseReason::Peer],
        false => [CloseReason::Peer, CloseReason::Local],
    };
    // When the last words of the side that is done first are lost, the other
    // side waits, or asks for the session, in vain.
    let mut goodbye_lost = false;
    for (reason, expected) in reasons.iter().zip(&expected) {
        if reason.to_string() != expected.to_string() {
            let in_vain = matches!(
                reason,
                CloseReason::NotResumed { .. } | CloseReason::ResumeRefused(_)
            );
            assert!(in_vain && !goodbye_lost, "{reasons:?}");
            goodbye_lost = true;
        }
    }
    assert!(clients.try_recv().is_err(), "it was accepted twice");
    let stats = client.stats();
    drop((client, server));
    if let Some(stop) = stop {
        stop.send(()).unwrap();
    }
    serving.await.unwrap().unwrap();
    // The client's driver may have its last steps before it.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let after = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert_eq!(after, before, "tasks are left");
    let lines = cutting.lines.lock().unwrap();
    let first = &lines[0].sent;
    Outcome {
        sent: [0, 1].map(|side: usize| first[side].load(Ordering::Relaxed)),
        links: lines.len(),
        resumptions: stats.resumptions,
        resent: stats.frames_resent,
        compared: compared + also,
        goodbye_lost,
    }
}

/// Lives through a session in virtual time; says where it was cut if it fails.
fn run(plan: Vec<Cut>, resets: bool, client_closes: bool) -> Outcome {
    struct Note(String);
    impl Drop for Note {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{}", self.0);
            }
        }
    }
    let _note = Note(format!(
        "cut at {plan:?}, by reset: {resets}, the client closes: {client_closes}"
    ));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let patience = Duration::from_secs(3_600);
    runtime
        .block_on(async { tokio::time::timeout(patience, live(plan, resets, client_closes)).await })
        .expect("it hangs")
}

#[derive(Debug, Default)]
struct Sum {
    sessions: usize,
    cut: usize,
    links: usize,
    resumptions: u64,
    resent: u64,
    compared: usize,
    goodbyes_lost: usize,
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.sessions += 1;
        self.cut += usize::from(outcome.links > 1 || outcome.goodbye_lost);
        self.links += outcome.links;
        self.resumptions += outcome.resumptions;
        self.resent += outcome.resent;
        self.compared += outcome.compared;
        self.goodbyes_lost += usize::from(outcome.goodbye_lost);
    }
}

fn sweep(side: Side, client_closes: bool) {
    let whole = run(Vec::new(), false, client_closes);
    assert_eq!((whole.links, whole.resumptions), (1, 0));
    let total = whole.sent[side as usize];
    let mut sum = Sum::default();
    // Only the end differs when the server is the one that closes.
    let step = if client_closes { 1 } else { 4 };
    let last = total - 200;
    for n in (0..last).step_by(step).chain(last..total) {
        let outcome = run(vec![Some((side, n))], n % 2 == 0, client_closes);
        assert_eq!(outcome.compared, whole.compared);
        sum.add(outcome);
    }
    println!(
        "{side:?}, {total} bytes on the first link, the client closes: {client_closes}; {sum:?}"
    );
    assert!(total > 2_000, "too little is sent");
    assert!(sum.cut + 200 > sum.sessions, "few were cut");
    assert!(sum.goodbyes_lost < 200, "few end well");
}

// [C267] [C286] [C292] [C308]
#[test]
fn a_session_survives_a_cut_behind_every_byte_that_the_client_sends() {
    sweep(Side::Client, true);
}

// [C267] [C286] [C292] [C308]
#[test]
fn a_session_survives_a_cut_behind_every_byte_that_the_server_sends() {
    sweep(Side::Server, true);
}

// [C085]
#[test]
fn a_server_that_stops_survives_a_cut_behind_every_byte_too() {
    sweep(Side::Client, false);
    sweep(Side::Server, false);
}

// [C267] [C283]
#[test]
fn a_session_survives_links_that_are_cut_one_after_the_other() {
    let mut sum = Sum::default();
    for seed in rsocket_core::testkit::seeds(500) {
        let mut random = Random::new(seed);
        let links = random.within(2..=5);
        let plan = (0..links)
            .map(|_| {
                let side = [Side::Client, Side::Server][random.within(0..=1)];
                Some((side, random.within(0..=2_000)))
            })
            .collect();
        sum.add(run(plan, random.once_in(2), random.once_in(2)));
    }
    println!("{sum:?}");
    assert!(sum.resumptions > 500 || sum.sessions < 500, "few were cut");
}
