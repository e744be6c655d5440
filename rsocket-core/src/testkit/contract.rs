//! What users get over a transport: whole conversations, with every payload
//! checked.
//!
//! The scenarios are those of rsocket-java's transport contract, so that a
//! transport which passes can be compared with the ones that pass there. As with
//! [`conformance`](super::conformance), a transport's test is one macro:
//!
//! ```
//! use rsocket_core::transport::memory::{MemoryConnector, MemoryListener};
//!
//! rsocket_core::transport_contract! {
//!     async fn pair() -> (MemoryConnector, MemoryListener) {
//!         static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
//!         let name = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
//!         let listener = MemoryListener::bind(&name).unwrap();
//!         (MemoryConnector::new(name), listener)
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! It expands to one module for each [`Variant`], with one `#[test]` for each
//! scenario. Before a test ends, its client closes the connection in good order
//! and its server shuts down, and both have to succeed.
//!
//! With `only_if_asked_for;` in front, the tests of a variant that would take long
//! do nothing unless they are asked for; [`run`] plays a scenario by itself.
//!
//! ```
//! # use rsocket_core::transport::memory::{MemoryConnector, MemoryListener};
//! rsocket_core::transport_contract! {
//!     only_if_asked_for;
//!     async fn pair() -> (MemoryConnector, MemoryListener) {
//!         # unimplemented!()
//!         # /*
//!         ...
//!         # */
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! Such tests and the scenario of 2,000,000 payloads do nothing, and say so, unless the
//! environment variable `RSOCKET_TEST_SLOW` is set. `RSOCKET_TEST_SEED` replaces
//! the seed; the one in use is printed by tests that fail.

#![expect(
    clippy::missing_panics_doc,
    reason = "every function here panics when a payload is wrong or missing"
)]

use std::{
    ops::{AsyncFn, RangeInclusive},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt as _, future, stream};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{Chaos, Random, halves::chain, seeds};
use crate::{
    Backoff, Client, CloseReason, Demand, DemandPolicy, Error, Failure, Payload, PayloadStream,
    Requester, Responder, Server,
    resume::Resume,
    transport::{Connector, Listener, TransportError},
};

/// How long a scenario may take before it counts as hanging: two minutes, for
/// unoptimized builds on busy machines.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Frames that links carry before they are cut. A link that is cut before it
/// carries anything new would be no cut of a session, so some pass.
const LIVES: RangeInclusive<usize> = 8..=2_000;

/// Likewise, for scenarios of a few frames.
const SHORT_LIVES: RangeInclusive<usize> = 4..=16;

/// How long they may take all together.
const SHORT: Duration = Duration::from_secs(1);

/// Allows the scenario that takes long.
const SLOW: &str = "RSOCKET_TEST_SLOW";

/// The longest wait before a lost link is made again.
const SOON: Duration = Duration::from_millis(5);

/// Requests in flight at once where a scenario has more of them.
const AT_ONCE: usize = 256;

/// Bytes of data in a large payload.
const LARGE: usize = 1 << 20;

/// Under which circumstances the scenarios run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Variant {
    /// All defaults, both sides in one thread.
    Plain,
    /// Each side cuts payloads into frames of a random length in 256..=512.
    Fragmented,
    /// Each side has a thread and a runtime of its own.
    Threads,
    /// The links of both sides hesitate at random: see [`Chaos`].
    Hesitant,
    /// Sessions are resumed: links are cut at random, after some frames and
    /// after 10 to 1000 ms.
    Resumed,
    /// [`Fragmented`](Self::Fragmented) and [`Resumed`](Self::Resumed).
    ResumedFragmented,
}

impl Variant {
    fn is_fragmented(self) -> bool {
        matches!(self, Self::Fragmented | Self::ResumedFragmented)
    }

    fn is_resumed(self) -> bool {
        matches!(self, Self::Resumed | Self::ResumedFragmented)
    }
}

/// A client, connected to a server that answers as the scenarios expect.
#[derive(Debug)]
pub struct Peers {
    client: Requester,
    /// What the server saw that has no answer.
    seen: mpsc::Receiver<Seen>,
    /// Payloads that the server's streams were asked for.
    produced: Arc<AtomicUsize>,
    /// Cuts links from time to time.
    cutter: Option<Cutter>,
}

/// Cuts links every 10 to 1000 ms, until it is dropped.
#[derive(Debug)]
struct Cutter {
    task: JoinHandle<()>,
    chaos: Chaos,
}

impl Cutter {
    fn start(chaos: Chaos, mut random: Random) -> Self {
        let cut = chaos.clone();
        let task = tokio::spawn(async move {
            loop {
                let millis = random.within(10..=1000);
                tokio::time::sleep(Duration::from_millis(millis as u64)).await;
                cut.cut_all();
            }
        });
        Self { task, chaos }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    FireAndForget(Payload),
    MetadataPush(Bytes),
    /// A stream of the server was dropped, at its end or before.
    StreamDropped,
}

/// Runs one scenario like [`run`] if slow tests are asked for; else it says that
/// they are not.
///
/// # Panics
///
/// As [`run`].
pub fn run_if_asked_for<P, C, L>(
    pair: impl Fn() -> P,
    variant: Variant,
    scenario: impl AsyncFn(&mut Peers),
) where
    P: Future<Output = (C, L)>,
    C: Connector,
    L: Listener,
{
    if std::env::var_os(SLOW).is_some() {
        run(pair, variant, scenario);
    } else {
        eprintln!("not run: it takes long, and {SLOW} is not set");
    }
}

/// Runs one scenario; [`transport_contract!`](crate::transport_contract) calls
/// it.
///
/// # Panics
///
/// When the scenario fails, or is not done after [`PATIENCE`].
pub fn run<P, C, L>(pair: impl Fn() -> P, variant: Variant, scenario: impl AsyncFn(&mut Peers))
where
    P: Future<Output = (C, L)>,
    C: Connector,
    L: Listener,
{
    let play = async |seed, lives: RangeInclusive<usize>| {
        let (connector, listener) = pair().await;
        let (mut peers, server) = connect(connector, listener, variant, seed, lives.clone()).await;
        scenario(&mut peers).await;
        if lives == SHORT_LIVES {
            // A side that is done and whose last word is lost is waited for, for
            // the drain timeout; with these links that would be the rule.
            peers.stop_cutting().await;
        }

        let stats = peers.client.stats();
        assert_eq!(stats.streams_open, 0, "streams that nobody ended");
        let reason = peers.client.close().await;
        assert!(matches!(reason, CloseReason::Local), "closed by: {reason}");
        server.stop().await;
        stats
    };
    let all = async {
        for seed in seeds(1) {
            let begun = tokio::time::Instant::now();
            let stats = play(seed, LIVES).await;
            let (mut cuts, mut resent) = (stats.resumptions, stats.frames_resent);
            // A short scenario is over before its first link is: again, with
            // links that live as short.
            let mut round = 0;
            while variant.is_resumed()
                && cuts < 20
                && round < 20
                && (cuts == 0 || begun.elapsed() < SHORT)
            {
                round += 1;
                let stats = play(seed + round * 1_000, SHORT_LIVES).await;
                cuts += stats.resumptions;
                resent += stats.frames_resent;
            }
            if variant.is_resumed() {
                println!("{cuts} cuts survived, {resent} frames sent again");
            }
        }
    };
    runtime().block_on(async {
        timeout(PATIENCE, Box::pin(all))
            .await
            .unwrap_or_else(|_| panic!("it hangs: not done after {PATIENCE:?}"));
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built")
}

async fn connect(
    connector: impl Connector,
    listener: impl Listener,
    variant: Variant,
    seed: u64,
    lives: RangeInclusive<usize>,
) -> (Peers, Serving) {
    let mut random = Random::new(seed);
    let (mut client, mut server) = (Client::new(), Server::new());
    let (mut connector, mut listener): (Box<dyn Connector>, Box<dyn Listener>) =
        (Box::new(connector), Box::new(listener));
    println!("{variant:?}, seed {seed}");
    if variant.is_fragmented() {
        let (ours, theirs) = (random.within(256..=512), random.within(256..=512));
        println!("fragments of {ours} from the client, {theirs} from the server");
        client = client.fragment(ours);
        server = server.fragment(theirs);
    }
    if variant == Variant::Hesitant {
        let chaos = Chaos::new(seed).hesitating_once_in(4);
        connector = Box::new(chaos.connector(connector));
        listener = Box::new(chaos.listener(listener));
    }
    let mut cutter = None;
    if variant.is_resumed() {
        let losing = *lives.end() / 5;
        let chaos = Chaos::new(seed).cut_after(lives).losing(losing.min(20));
        connector = Box::new(chaos.connector(connector));
        listener = Box::new(chaos.listener(listener));
        client = client.resume(Resume::new().backoff(Backoff::new(SOON, SOON)));
        server = server.resume(Resume::new());
        cutter = Some(Cutter::start(chaos, Random::new(seed)));
    }

    let (see, seen) = mpsc::channel(64);
    let produced = Arc::new(AtomicUsize::new(0));
    let service = Service {
        see,
        produced: Arc::clone(&produced),
    };
    let server = Serving::start(server, listener, service, variant == Variant::Threads);
    let client = client.connect(connector).await.expect("it connects");
    let peers = Peers {
        client,
        seen,
        produced,
        cutter,
    };
    (peers, server)
}

/// A server at work.
struct Serving {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), TransportError>>,
}

impl Serving {
    fn start(server: Server, listener: impl Listener, service: Service, in_a_thread: bool) -> Self {
        let (stop, stopped) = oneshot::channel();
        let accept = move |_, _| future::ready(Ok(service.clone()));
        let serving = server.serve_until(listener, accept, async {
            // A test that failed has dropped the other end.
            let _ = stopped.await;
        });
        let task = if in_a_thread {
            tokio::task::spawn_blocking(move || runtime().block_on(serving))
        } else {
            tokio::spawn(serving)
        };
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).expect("the server is at work");
        let served = self.task.await.expect("the server did not panic");
        served.expect("the listener works");
    }
}

/// Answers as the scenarios expect.
#[derive(Clone)]
struct Service {
    see: mpsc::Sender<Seen>,
    produced: Arc<AtomicUsize>,
}

impl Service {
    async fn see(&self, seen: Seen) {
        // A test that failed does not look any more.
        let _ = self.see.send(seen).await;
    }
}

impl Responder for Service {
    async fn fire_and_forget(&self, request: Payload) {
        self.see(Seen::FireAndForget(request)).await;
    }

    async fn request_response(&self, request: Payload) -> Result<Payload, Failure> {
        Ok(request)
    }

    /// As many small payloads as the request says.
    fn request_stream(
        &self,
        request: Payload,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<> {
        let count = request.data_utf8().and_then(|text| text.parse().ok());
        let produced = Arc::clone(&self.produced);
        let dropped = OnDrop(self.see.clone());
        stream::iter(0..count.unwrap_or(0)).map(move |n| {
            let _ = &dropped;
            produced.fetch_add(1, Ordering::Relaxed);
            Ok(small(n))
        })
    }

    /// What comes goes back.
    fn request_channel(
        &self,
        inbound: PayloadStream,
    ) -> impl Stream<Item = Result<Payload, Failure>> + Send + use<> {
        inbound.map(|payload| payload.map_err(Failure::from))
    }

    async fn metadata_push(&self, metadata: Bytes) {
        self.see(Seen::MetadataPush(metadata)).await;
    }
}

struct OnDrop(mpsc::Sender<Seen>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        // Where nobody looks, it may well be full.
        let _ = self.0.try_send(Seen::StreamDropped);
    }
}

/// Payload `n` of a scenario: a few bytes, metadata absent, empty or not.
fn small(n: usize) -> Payload {
    let mut random = Random::new(n as u64);
    let len = random.within(0..=40);
    let payload = Payload::new(random.bytes(len));
    match n % 3 {
        0 => payload,
        1 => payload.with_metadata(Bytes::new()),
        _ => payload.with_metadata(random.bytes(1 + n % 20)),
    }
}

/// Large payload `n` of a scenario: about 1 MiB of data, some KiB of metadata.
fn large(n: usize) -> Payload {
    let mut random = Random::new(n as u64);
    let (data, metadata) = (LARGE + random.within(0..=999), random.within(1_000..=9_999));
    Payload::new(random.bytes(data)).with_metadata(random.bytes(metadata))
}

/// Tests a transport against [the contract](crate::testkit::contract).
#[macro_export]
macro_rules! transport_contract {
    ($(#[$attribute:meta])* async fn pair() -> $pair:ty $body:block) => {
        $(#[$attribute])* async fn pair() -> $pair $body

        $crate::transport_contract! { @variants run pair }
    };
    (only_if_asked_for; $(#[$attribute:meta])* async fn pair() -> $pair:ty $body:block) => {
        $(#[$attribute])* async fn pair() -> $pair $body

        $crate::transport_contract! { @variants run_if_asked_for pair }
    };
    (@variants $run:ident $pair:ident) => {
        $crate::transport_contract! { @variants $run $pair,
            [
                plain Plain, fragmented Fragmented, threads Threads, hesitant Hesitant,
                resumed Resumed, resumed_fragmented ResumedFragmented
            ]
            [
                ten_fire_and_forgets
                ten_large_fire_and_forgets
                ten_metadata_pushes
                ten_large_metadata_pushes
                a_channel_of_0_further_payloads
                a_channel_of_1_payload
                a_channel_of_3_payloads
                a_channel_of_256_payloads
                a_channel_of_20_000_payloads
                a_channel_of_200_000_payloads
                a_channel_of_2_000_000_payloads_if_asked_for
                a_channel_of_50_large_payloads
                one_request_response
                ten_request_responses
                a_hundred_request_responses
                ten_thousand_request_responses
                fifty_large_request_responses
                a_stream_of_5_payloads
                a_stream_of_10_000_payloads
                a_stream_waits_for_delayed_request_n
            ]
        }
    };
    (@variants $run:ident $pair:ident, [$($module:ident $variant:ident),*] $scenarios:tt) => {$(
        mod $module {
            use super::$pair as pair;

            $crate::transport_contract! { @each $run pair, $variant, $scenarios }
        }
    )*};
    (@each $run:ident $pair:ident, $variant:ident, [$($scenario:ident)*]) => {$(
        #[test]
        fn $scenario() {
            use $crate::testkit::contract;
            contract::$run($pair, contract::Variant::$variant, contract::$scenario);
        }
    )*};
}

/// Ten small payloads, sent at once, each handled once.
pub async fn ten_fire_and_forgets(peers: &mut Peers) {
    fire_and_forget(peers, (0..10).map(small).collect()).await;
}

/// Ten payloads of about 1 MiB, sent at once, each handled once.
pub async fn ten_large_fire_and_forgets(peers: &mut Peers) {
    fire_and_forget(peers, (0..10).map(large).collect()).await;
}

async fn fire_and_forget(peers: &mut Peers, payloads: Vec<Payload>) {
    let client = peers.client.clone();
    let requests = payloads.iter().map(|p| client.fire_and_forget(p.clone()));
    let sending = future::try_join_all(requests);
    let expected = payloads.iter().cloned().map(Seen::FireAndForget).collect();
    let (sent, ()) = tokio::join!(sending, peers.expect_in_any_order(expected));
    sent.expect("the link takes them");
}

/// Ten short pushes, each handled once.
// [C160]
pub async fn ten_metadata_pushes(peers: &mut Peers) {
    metadata_push(peers, 10..=200).await;
}

/// Ten pushes of about 1 MiB, which are never fragmented, each handled once.
pub async fn ten_large_metadata_pushes(peers: &mut Peers) {
    metadata_push(peers, LARGE..=LARGE + 1_000).await;
}

async fn metadata_push(peers: &mut Peers, lengths: RangeInclusive<usize>) {
    peers.stop_cutting().await;
    let mut random = Random::new(10);
    let pushes: Vec<Bytes> = (0..10)
        .map(|_| {
            let len = random.within(lengths.clone());
            random.bytes(len).into()
        })
        .collect();
    let client = peers.client.clone();
    let sending = future::try_join_all(pushes.iter().map(|p| client.metadata_push(p.clone())));
    let expected = pushes.iter().cloned().map(Seen::MetadataPush).collect();
    let (sent, ()) = tokio::join!(sending, peers.expect_in_any_order(expected));
    sent.expect("the link takes them");
}

impl Peers {
    /// Waits for what the server is to see. Handlers run concurrently, so the
    /// order is theirs.
    async fn expect_in_any_order(&mut self, mut expected: Vec<Seen>) {
        while !expected.is_empty() {
            let seen = self.seen.recv().await.expect("the server is at work");
            let at = expected.iter().position(|expected| *expected == seen);
            let at = at.unwrap_or_else(|| panic!("nobody sent {seen:?}, or it came twice"));
            expected.swap_remove(at);
        }
        assert!(self.seen.try_recv().is_err(), "something came twice");
    }
}

/// A channel whose source is empty sends nothing and says so; one that is
/// completed after its first payload brings that one back.
pub async fn a_channel_of_0_further_payloads(peers: &mut Peers) {
    let mut none = peers.client.request_channel(stream::empty());
    let error = none.next().await.expect("it tells").expect_err("nothing");
    assert!(matches!(error, Error::EmptyChannel), "{error}");
    assert!(none.next().await.is_none());

    let (sink, mut echoes) = peers
        .client
        .open_channel(small(2), DemandPolicy::default())
        .expect("it opens");
    sink.complete();
    let echo = echoes.next().await.expect("one comes").expect("and well");
    assert_eq!(echo, small(2));
    assert!(echoes.next().await.is_none());
}

/// One payload there and back.
pub async fn a_channel_of_1_payload(peers: &mut Peers) {
    channel(peers, 1, small).await;
}

/// Three payloads there and back.
pub async fn a_channel_of_3_payloads(peers: &mut Peers) {
    channel(peers, 3, small).await;
}

/// More payloads than one grant of credit.
pub async fn a_channel_of_256_payloads(peers: &mut Peers) {
    channel(peers, 256, small).await;
}

/// Hundreds of grants of credit, both ways.
pub async fn a_channel_of_20_000_payloads(peers: &mut Peers) {
    channel(peers, 20_000, small).await;
}

/// Thousands of grants of credit, both ways.
pub async fn a_channel_of_200_000_payloads(peers: &mut Peers) {
    channel(peers, 200_000, small).await;
}

/// Minutes of work where builds are not optimized: only with the environment
/// variable `RSOCKET_TEST_SLOW`.
pub async fn a_channel_of_2_000_000_payloads_if_asked_for(peers: &mut Peers) {
    if std::env::var_os(SLOW).is_some() {
        channel(peers, 2_000_000, small).await;
    } else {
        eprintln!("not run: it takes long, and {SLOW} is not set");
    }
}

/// 50 payloads of about 1 MiB there and back.
pub async fn a_channel_of_50_large_payloads(peers: &mut Peers) {
    channel(peers, 50, large).await;
}

async fn channel(peers: &Peers, count: usize, payload: fn(usize) -> Payload) {
    let outbound = stream::iter(0..count).map(payload);
    let mut echoes = peers.client.request_channel(outbound);
    for n in 0..count {
        let echo = echoes.next().await;
        let echo = echo.unwrap_or_else(|| panic!("it ended before payload {n}"));
        let echo = echo.unwrap_or_else(|error| panic!("payload {n}: {}", chain(&error)));
        assert!(echo == payload(n), "payload {n} came back as {echo:?}");
    }
    let end = echoes.next().await.transpose().expect("it ends well");
    assert_eq!(end, None, "more came back than was sent");
}

/// One request, one answer.
pub async fn one_request_response(peers: &mut Peers) {
    request_response(peers, 1, small).await;
}

/// Ten requests at once.
pub async fn ten_request_responses(peers: &mut Peers) {
    request_response(peers, 10, small).await;
}

/// A hundred requests at once.
pub async fn a_hundred_request_responses(peers: &mut Peers) {
    request_response(peers, 100, small).await;
}

/// Ten thousand requests, 256 at a time.
pub async fn ten_thousand_request_responses(peers: &mut Peers) {
    request_response(peers, 10_000, small).await;
}

/// 50 requests of about 1 MiB at once.
pub async fn fifty_large_request_responses(peers: &mut Peers) {
    request_response(peers, 50, large).await;
}

async fn request_response(peers: &Peers, count: usize, payload: fn(usize) -> Payload) {
    stream::iter(0..count)
        .map(async |n| {
            let request = payload(n);
            let answer = peers.client.request_response(request.clone()).await;
            let answer = answer.unwrap_or_else(|error| panic!("request {n}: {}", chain(&error)));
            assert!(answer == request, "request {n} came back as {answer:?}");
        })
        .buffer_unordered(AT_ONCE)
        .count()
        .await;
}

/// One request, five answers.
pub async fn a_stream_of_5_payloads(peers: &mut Peers) {
    request_stream(peers, 5).await;
}

/// One request, ten thousand answers.
pub async fn a_stream_of_10_000_payloads(peers: &mut Peers) {
    request_stream(peers, 10_000).await;
}

async fn request_stream(peers: &Peers, count: usize) {
    let mut answers = peers.client.request_stream(count.to_string());
    for n in 0..count {
        expect_answer(&mut answers, n).await;
    }
    let end = answers.next().await.transpose().expect("it ends well");
    assert_eq!(end, None, "more came than was asked for");
}

/// Five payloads come for five that were asked for, five more for five more,
/// and the server's stream is dropped when the client drops its end. More on the
/// wire would fail the stream; of its source, the server may take one payload
/// ahead, to see whether it has ended.
// [C252]
pub async fn a_stream_waits_for_delayed_request_n(peers: &mut Peers) {
    const FIVE: Demand = Demand::new(5).unwrap();
    let mut answers = peers
        .client
        .request_stream("1000")
        .demand(DemandPolicy::Manual { initial: FIVE });
    for n in 0..5 {
        expect_answer(&mut answers, n).await;
    }
    peers.expect_produced(5).await;

    answers.request_n(FIVE);
    for n in 5..10 {
        expect_answer(&mut answers, n).await;
    }
    peers.expect_produced(10).await;

    drop(answers);
    peers.expect_in_any_order(vec![Seen::StreamDropped]).await;
    peers.expect_produced(10).await;
}

async fn expect_answer(answers: &mut PayloadStream, n: usize) {
    let answer = answers.next().await;
    let answer = answer.unwrap_or_else(|| panic!("it ended before payload {n}"));
    let answer = answer.unwrap_or_else(|error| panic!("payload {n}: {}", chain(&error)));
    assert_eq!(answer, small(n), "payload {n}");
}

impl Peers {
    /// From here on links hold: what follows may be lost with one \[C304].
    async fn stop_cutting(&mut self) {
        if let Some(cutter) = self.cutter.take() {
            cutter.chaos.spare();
            let answer = self.client.request_response("are we through?").await;
            answer.expect("the session goes on");
        }
    }

    /// The server's streams were asked for `count` payloads, or one ahead, even
    /// when the server had time for more: it has answered something since.
    async fn expect_produced(&self, count: usize) {
        for _ in 0..3 {
            let answer = self.client.request_response("anything new?").await;
            answer.expect("the server is at work");
        }
        let produced = self.produced.load(Ordering::Relaxed);
        assert!(
            (count..=count + 1).contains(&produced),
            "{produced} payloads were taken, {count} asked for"
        );
    }
}
