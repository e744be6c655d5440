//! What every transport has to do, frame by frame.
//!
//! A transport's whole test is one macro in a file of its `tests` folder, with
//! `rsocket-core` as a dev-dependency that has the feature `testkit`:
//!
//! ```
//! use rsocket_core::transport::memory::{MemoryConnector, MemoryListener};
//!
//! rsocket_core::transport_conformance! {
//!     async fn pair() -> (MemoryConnector, MemoryListener) {
//!         // Tests run at the same time, so each needs an address of its own;
//!         // with sockets one binds to port 0.
//!         static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
//!         let name = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
//!         let listener = MemoryListener::bind(&name).unwrap();
//!         (MemoryConnector::new(name), listener)
//!     }
//! }
//! ```
//!
//! It expands to one `#[test]` for each behaviour, which are the public
//! functions of this module that take a [`Pair`]. `Box<dyn Connector>` and
//! `Box<dyn Listener>` will do as well, to test what a URL chooses. Each test
//! runs in a single-threaded tokio runtime of its own, with all drivers that
//! tokio was built with, and fails after [`PATIENCE`].
//!
//! What differs between media is said in front:
//!
//! ```
//! # use rsocket_core::transport::{Connector, Listener};
//! use rsocket_core::testkit::conformance::Medium;
//!
//! rsocket_core::transport_conformance! {
//!     medium = Medium::default().holding(1 << 20).telling_loss();
//!     async fn pair() -> (Box<dyn Connector>, Box<dyn Listener>) {
//!         # unimplemented!()
//!         # /*
//!         ...
//!         # */
//!     }
//! }
//! ```
//!
//! # Not tested here
//!
//! What only the transport itself can provoke: frames over its limit, broken
//! prefixes, bad certificates, a peer that stops in the middle of a frame.

#![expect(
    clippy::disallowed_types,
    reason = "that a transport wakes is to be seen"
)]
#![expect(
    clippy::missing_panics_doc,
    reason = "every function here panics when the transport fails"
)]

use std::{
    future::poll_fn,
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

use super::{Random, seeds};
use crate::transport::{
    Connector, FrameRx, FrameTx, InFrame, Link, Listener, OutFrame, Part, Received, TransportError,
    TransportErrorKind,
};

/// How long a behaviour may take before it counts as hanging: 60 seconds, for
/// slow machines that do much else; the whole suite takes a few.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a link is watched before it counts as full: nothing tells that
/// nothing will happen. Too short makes a test weaker, never fail.
const QUIET: Duration = Duration::from_millis(50);

/// What may differ between transports that are all correct.
#[derive(Clone, Copy, Debug)]
pub struct Medium {
    held_bytes: usize,
    tells_loss: bool,
}

impl Default for Medium {
    /// Holds at most 64 MiB in one direction: more than systems let socket
    /// buffers grow to on both sides by default. May not tell loss.
    fn default() -> Self {
        Self {
            held_bytes: 64 << 20,
            tells_loss: false,
        }
    }
}

impl Medium {
    /// Sets the most bytes of frames that one direction of a link accepts while
    /// nobody receives, the system's buffers included.
    #[must_use]
    pub fn holding(mut self, bytes: usize) -> Self {
        self.held_bytes = bytes;
        self
    }

    /// Demands that a peer that drops its link without closing it is reported
    /// as [`Lost`](TransportErrorKind::Lost) to the receiving half.
    ///
    /// Not asked for, [`Received::End`] is right too: to a plain TCP socket,
    /// both look the same.
    #[must_use]
    pub fn telling_loss(mut self) -> Self {
        self.tells_loss = true;
        self
    }
}

/// A listener, and a connector that leads to it.
pub struct Pair {
    connector: Arc<dyn Connector>,
    listener: Box<dyn Listener>,
    medium: Medium,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair")
            .field("url", &self.listener.url())
            .field("medium", &self.medium)
            .finish_non_exhaustive()
    }
}

impl Pair {
    /// A fresh pair; no other connector leads to `listener`.
    pub fn new(connector: impl Connector, listener: impl Listener, medium: Medium) -> Self {
        Self {
            connector: Arc::new(connector),
            listener: Box::new(listener),
            medium,
        }
    }

    fn connect(&self) -> JoinHandle<Result<Link, TransportError>> {
        let connector = Arc::clone(&self.connector);
        tokio::spawn(async move { connector.connect().await })
    }

    /// The next connection's handshake, as a task of its own.
    async fn accept(&mut self) -> JoinHandle<Result<Link, TransportError>> {
        let handshake = self.listener.accept().await;
        tokio::spawn(handshake.expect("the listener accepts"))
    }

    /// A connection: the client's end, the server's end.
    async fn link(&mut self) -> (Link, Link) {
        let connecting = self.connect();
        let accepted = done(self.accept().await).await;
        let connected = done(connecting).await;
        (
            connected.expect("the client connects"),
            accepted.expect("the server's handshake succeeds"),
        )
    }

    async fn halves(&mut self) -> (End, End) {
        let (client, server) = self.link().await;
        (End::from(client), End::from(server))
    }
}

/// Runs one behaviour; [`transport_conformance!`](crate::transport_conformance)
/// calls it.
///
/// # Panics
///
/// When the transport fails, or does nothing for [`PATIENCE`].
pub fn run<P, C, L, B>(pair: P, medium: Medium, behaviour: impl FnOnce(Pair) -> B)
where
    P: Future<Output = (C, L)>,
    C: Connector,
    L: Listener,
    B: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    runtime.block_on(async {
        let all = async {
            let (connector, listener) = pair.await;
            behaviour(Pair::new(connector, listener, medium)).await;
        };
        timeout(PATIENCE, Box::pin(all))
            .await
            .unwrap_or_else(|_| panic!("it hangs: not done after {PATIENCE:?}"));
    });
}

/// Tests a transport against [the suite](crate::testkit::conformance).
#[macro_export]
macro_rules! transport_conformance {
    ($(#[$attribute:meta])* async fn pair() -> $pair:ty $body:block) => {
        $crate::transport_conformance! {
            medium = $crate::testkit::conformance::Medium::default();
            $(#[$attribute])* async fn pair() -> $pair $body
        }
    };
    (medium = $medium:expr; $(#[$attribute:meta])* async fn pair() -> $pair:ty $body:block) => {
        $(#[$attribute])* async fn pair() -> $pair $body

        $crate::transport_conformance! { @each pair, $medium;
            the_url_names_the_scheme_of_both_ends
            frames_arrive_whole_and_in_order
            frames_of_random_sizes_arrive_in_order
            the_parts_of_a_frame_arrive_as_one
            frames_pass_before_a_flush_when_the_link_is_full
            a_flush_of_nothing_is_fine
            a_sink_that_breaks_gets_the_rest_at_the_next_call
            a_full_link_is_pending_and_then_wakes
            a_slow_receiver_holds_up_the_sender
            the_last_waker_of_a_receiver_is_woken
            the_last_waker_of_a_sender_is_woken
            two_threads_may_use_the_halves
            close_delivers_what_was_sent
            each_half_outlives_the_other
            a_vanished_peer_is_an_error_on_both_halves
            a_vanished_peer_wakes_a_sender_that_waits
            after_an_error_every_later_call_is_an_error
            connecting_to_nobody_is_unreachable
            dropping_connect_leaks_nothing
            dropping_accept_loses_no_connection
            dropping_a_handshake_closes_its_connection
            many_connect_at_once
        }
    };
    (@each $pair:ident, $medium:expr; $($behaviour:ident)*) => {$(
        #[test]
        fn $behaviour() {
            let medium: $crate::testkit::conformance::Medium = $medium;
            $crate::testkit::conformance::run(
                $pair(),
                medium,
                $crate::testkit::conformance::$behaviour,
            );
        }
    )*};
}

/// The listener's URL has the scheme that both ends report, and limits that the
/// core can work with.
// [C010]
pub async fn the_url_names_the_scheme_of_both_ends(mut pair: Pair) {
    let url = pair.listener.url();
    let (scheme, _) = url.split_once(':').expect("a URL has a scheme");
    let (client, server) = pair.link().await;
    for link in [client, server] {
        assert_eq!(link.info().scheme, scheme);
        let longest = link.limits().max_frame_len;
        assert!(
            (64..=0x00FF_FFFF).contains(&longest),
            "frames of up to {longest} bytes"
        );
    }
}

/// Frames of all lengths around powers of two, up to the longest, in both
/// directions at once.
// [C002, C003, C010]
pub async fn frames_arrive_whole_and_in_order(mut pair: Pair) {
    let (client, server) = pair.link().await;
    let longest = client
        .limits()
        .max_frame_len
        .min(server.limits().max_frame_len);
    let mut lengths: Vec<_> = (0..=17)
        .flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1])
        .chain((18..24).map(|power| 1 << power))
        .filter(|len| (1..longest).contains(len))
        .collect();
    lengths.push(longest);
    let lengths: Arc<[usize]> = lengths.into();

    let directions = both_ways(client, server).map(|(mut tx, mut rx)| {
        let (sent, expected) = (Arc::clone(&lengths), Arc::clone(&lengths));
        let sending = tokio::spawn(async move {
            for (n, len) in sent.iter().enumerate() {
                tx.send(&numbered(n, *len)).await.expect("the link holds");
                tx.flush().await.expect("the link holds");
            }
            tx
        });
        let receiving = tokio::spawn(async move {
            let mut n = 0;
            while n < expected.len() {
                for frame in rx.some().await.expect("the link holds") {
                    let len = expected.get(n).copied();
                    assert_eq!(Some(frame.len()), len, "length of frame {n}");
                    assert!(frame == numbered(n, frame.len()), "content of frame {n}");
                    n += 1;
                }
            }
            rx
        });
        (sending, receiving)
    });
    all_done(directions).await;
}

/// Frames of random lengths, flushed at random, received in random portions.
pub async fn frames_of_random_sizes_arrive_in_order(mut pair: Pair) {
    const FRAMES: usize = 400;
    for seed in seeds(4) {
        let (client, server) = pair.link().await;
        let longest = client.limits().max_frame_len.min(200_000);
        let directions = both_ways(client, server).map(|(mut tx, mut rx)| {
            let sending = tokio::spawn(async move {
                let mut random = Random::new(seed);
                for n in 0..FRAMES {
                    let frame = numbered(n, random.length(longest));
                    tx.send(&frame).await.expect("the link holds");
                    if random.once_in(8) {
                        tx.flush().await.expect("the link holds");
                    }
                }
                tx.flush().await.expect("the link holds");
                tx
            });
            let receiving = tokio::spawn(async move {
                let mut lengths = Random::new(seed);
                let mut portions = Random::new(!seed);
                let mut n = 0;
                while n < FRAMES {
                    let at_most = portions.within(1..=20);
                    for frame in rx.up_to(at_most).await.expect("the link holds") {
                        let len = lengths.length(longest);
                        lengths.once_in(8);
                        assert!(frame == numbered(n, len), "frame {n}, seed {seed}");
                        n += 1;
                    }
                }
                rx
            });
            (sending, receiving)
        });
        all_done(directions).await;
    }
}

/// However a frame is cut into head, metadata and data, and whether its parts
/// are borrowed or shared, the peer gets the whole.
pub async fn the_parts_of_a_frame_arrive_as_one(mut pair: Pair) {
    const LENGTHS: [usize; 5] = [0, 1, 5, 5_000, 150_000];
    let (mut client, mut server) = pair.halves().await;
    let sending = tokio::spawn(async move {
        for (n, [head, metadata, data]) in part_lengths(&LENGTHS).enumerate() {
            let frame = Bytes::from(numbered(n, head + metadata + data));
            let (head, rest) = frame.split_at(head);
            let (metadata, data) = rest.split_at(metadata);
            let part = |bytes, shared| {
                if shared {
                    Part::shared(&frame, bytes)
                } else {
                    Part::slice(bytes)
                }
            };
            let out = OutFrame::new(
                head,
                part(metadata, n.is_multiple_of(2)),
                part(data, n.is_multiple_of(3)),
            );
            poll_fn(|cx| client.tx.0.poll_send(cx, &out))
                .await
                .expect("the link holds");
            client.tx.flush().await.expect("the link holds");
        }
        client
    });
    for (n, lengths) in part_lengths(&LENGTHS).enumerate() {
        let frame = server.rx.one().await.expect("the link holds");
        let expected = numbered(n, lengths.iter().sum());
        assert!(frame.as_ref() == Some(&expected), "parts of {lengths:?}");
    }
    done(sending).await;
}

/// All triples of lengths that make a frame.
fn part_lengths(lengths: &[usize]) -> impl Iterator<Item = [usize; 3]> {
    lengths
        .iter()
        .flat_map(move |a| lengths.iter().map(move |b| (a, b)))
        .flat_map(move |(a, b)| lengths.iter().map(move |c| [*a, *b, *c]))
        .filter(|parts| parts.iter().sum::<usize>() > 0)
}

/// A sender that never flushes is not stuck when the link is full: `Pending`
/// promises a wake-up, so the transport must get rid of what it took.
pub async fn frames_pass_before_a_flush_when_the_link_is_full(mut pair: Pair) {
    const LEN: usize = 60_000;
    let (mut client, mut server) = pair.halves().await;
    // All but what is held at the end passes.
    let count = 2 * pair.medium.held_bytes.min(16 << 20) / LEN;
    let sending = tokio::spawn(async move {
        for n in 0..count {
            client.tx.send(&numbered(n, LEN)).await.expect("it passes");
        }
        client.tx.flush().await.expect("it passes");
        client
    });
    server.rx.expect_numbered(0..count, LEN).await;
    done(sending).await;
}

/// A flush with nothing to flush succeeds, before and after frames.
pub async fn a_flush_of_nothing_is_fine(mut pair: Pair) {
    let (mut client, mut server) = pair.halves().await;
    for end in [&mut client, &mut server] {
        end.tx.flush().await.expect("nothing to do");
        end.tx.flush().await.expect("nothing to do");
    }
    client.tx.send(b"frame").await.expect("the link holds");
    client.tx.flush().await.expect("the link holds");
    client.tx.flush().await.expect("nothing to do");
    let frame = server.rx.one().await.expect("the link holds");
    assert_eq!(frame.as_deref(), Some(&b"frame"[..]));
}

/// A sink that breaks after a frame is not called again in that call, and gets
/// the next frame at the next call, without anything new on the medium.
pub async fn a_sink_that_breaks_gets_the_rest_at_the_next_call(mut pair: Pair) {
    const FRAMES: usize = 300;
    let (mut client, mut server) = pair.halves().await;
    let sending = tokio::spawn(async move {
        for n in 0..FRAMES {
            let frame = numbered(n, 1 + n % 40);
            client.tx.send(&frame).await.expect("the link holds");
        }
        client.tx.flush().await.expect("the link holds");
        client
    });
    for n in 0..FRAMES {
        let frame = server.rx.one().await.expect("the link holds");
        assert_eq!(frame, Some(numbered(n, 1 + n % 40)), "frame {n}");
    }
    done(sending).await;
}

/// A link that takes no more says so, and wakes its sender when the peer
/// receives.
pub async fn a_full_link_is_pending_and_then_wakes(mut pair: Pair) {
    const LEN: usize = 30_000;
    const MORE: usize = 100;
    let (mut client, mut server) = pair.halves().await;
    let held = client.tx.fill(LEN, pair.medium).await;
    // In a task of its own, so that only the transport can wake it.
    let sending = tokio::spawn(async move {
        for n in held..held + MORE {
            client.tx.send(&numbered(n, LEN)).await.expect("it passes");
            client.tx.flush().await.expect("it passes");
        }
        client
    });
    tokio::task::yield_now().await;
    server.rx.expect_numbered(0..held + MORE, LEN).await;
    done(sending).await;
}

/// While nobody receives, a bounded number of bytes is taken, in however small
/// or long frames, and none of it is lost. The other direction is not held up.
pub async fn a_slow_receiver_holds_up_the_sender(mut pair: Pair) {
    for len in [100, 1 << 20] {
        let (client, server) = pair.link().await;
        let len = len.min(client.limits().max_frame_len);
        let (mut client, mut server) = (End::from(client), End::from(server));
        let held = client.tx.fill(len, pair.medium).await;

        server.tx.send(b"back").await.expect("the link holds");
        server.tx.flush().await.expect("the link holds");
        let back = client.rx.one().await.expect("the link holds");
        assert_eq!(back.as_deref(), Some(&b"back"[..]), "the way back is free");

        let closing = tokio::spawn(async move {
            client.tx.close().await.expect("the link holds");
            client
        });
        server.rx.expect_numbered(0..held, len).await;
        server.rx.expect_end().await;
        done(closing).await;
    }
}

/// A receiver that was polled with one waker after the other is woken by the
/// last, whatever becomes of the others.
pub async fn the_last_waker_of_a_receiver_is_woken(mut pair: Pair) {
    let (mut client, mut server) = pair.halves().await;
    for round in 0..3 {
        let bells: [_; 5] = std::array::from_fn(|_| Bell::new());
        let [.., last] = &bells;
        for bell in &bells {
            let polled = server.rx.poll_some(&mut bell.context(), usize::MAX);
            assert!(polled.is_pending(), "nothing was sent yet");
        }
        let frame = numbered(round, 50);
        client.tx.send(&frame).await.expect("the link holds");
        client.tx.flush().await.expect("the link holds");
        let received = last
            .until_ready(|cx| server.rx.poll_some(cx, usize::MAX))
            .await;
        assert_eq!(received.expect("the link holds"), [frame]);
    }
}

/// A sender that waits for room and was polled with one waker after the other
/// is woken by the last.
pub async fn the_last_waker_of_a_sender_is_woken(mut pair: Pair) {
    const LEN: usize = 30_000;
    let (mut client, mut server) = pair.halves().await;
    let mut n = client.tx.fill(LEN, pair.medium).await;
    let bells: [_; 5] = std::array::from_fn(|_| Bell::new());
    let [.., last] = &bells;
    // A system may still move what it holds and make room by itself.
    while let Some(sent) = bells.iter().find_map(|bell| {
        match client.tx.poll_send(&mut bell.context(), &numbered(n, LEN)) {
            Poll::Ready(sent) => Some(sent),
            Poll::Pending => None,
        }
    }) {
        sent.expect("the link holds");
        n += 1;
    }
    let receiving = tokio::spawn(async move {
        server.rx.expect_numbered(0..n + 1, LEN).await;
        server
    });
    last.until_ready(|cx| client.tx.poll_send(cx, &numbered(n, LEN)))
        .await
        .expect("the link holds");
    client.tx.flush().await.expect("the link holds");
    done(receiving).await;
}

/// The halves of both ends, each in a thread of its own, at full speed.
pub async fn two_threads_may_use_the_halves(mut pair: Pair) {
    const FRAMES: usize = 20_000;
    for seed in seeds(1) {
        let (client, server) = pair.link().await;
        let directions = both_ways(client, server).map(|(mut tx, mut rx)| {
            let sending = in_a_thread(async move {
                let mut random = Random::new(seed);
                for n in 0..FRAMES {
                    let len = random.within(1..=300);
                    tx.send(&numbered(n, len)).await.expect("the link holds");
                    if random.once_in(10) {
                        tx.flush().await.expect("the link holds");
                    }
                }
                tx.flush().await.expect("the link holds");
                tx
            });
            let receiving = in_a_thread(async move {
                let mut random = Random::new(seed);
                let mut n = 0;
                while n < FRAMES {
                    for frame in rx.some().await.expect("the link holds") {
                        let len = random.within(1..=300);
                        random.once_in(10);
                        assert!(frame == numbered(n, len), "frame {n}, seed {seed}");
                        n += 1;
                    }
                }
                rx
            });
            (sending, receiving)
        });
        all_done(directions).await;
    }
}

/// What was sent before a close arrives, flushed or not, more than fits the
/// link or nothing at all, and then comes the end, whether or not the sender
/// stays.
pub async fn close_delivers_what_was_sent(mut pair: Pair) {
    const LEN: usize = 10_000;
    for (count, stays) in [
        (0, true),
        (0, false),
        (10, true),
        (2_000, true),
        (2_000, false),
    ] {
        let (mut client, mut server) = pair.halves().await;
        let receiving = tokio::spawn(async move {
            server.rx.expect_numbered(0..count, LEN).await;
            server.rx.expect_end().await;
            server
        });
        // So that it waits.
        tokio::task::yield_now().await;
        for n in 0..count {
            let frame = numbered(n, LEN);
            client.tx.send(&frame).await.expect("it passes");
        }
        client.tx.close().await.expect("the link holds");
        let client = stays.then_some(client);
        done(receiving).await;
        drop(client);
    }
}

/// Dropping one half leaves the other usable: a sender without its receiver
/// delivers everything; a receiver without its sender gets what has arrived,
/// and then learns that the link is no more.
pub async fn each_half_outlives_the_other(mut pair: Pair) {
    const LEN: usize = 1_000;
    const FRAMES: usize = 50;

    let (client, mut server) = pair.halves().await;
    let mut tx = client.tx;
    drop(client.rx);
    let sending = tokio::spawn(async move {
        for n in 0..FRAMES {
            tx.send(&numbered(n, LEN)).await.expect("the link holds");
        }
        tx.close().await.expect("the link holds");
    });
    server.rx.expect_numbered(0..FRAMES, LEN).await;
    server.rx.expect_end().await;
    done(sending).await;

    let (mut client, server) = pair.halves().await;
    let sending = tokio::spawn(async move {
        // It may fail as soon as the peer has dropped a half.
        for n in 0..FRAMES {
            client.tx.send(&numbered(n, LEN)).await?;
            client.tx.flush().await?;
        }
        client.tx.close().await
    });
    let mut rx = server.rx;
    rx.expect_numbered(0..1, LEN).await;
    drop(server.tx);
    let mut n = 1;
    while let Ok(Some(frame)) = rx.one().await {
        assert!(frame == numbered(n, LEN), "content of frame {n}");
        n += 1;
    }
    assert!(n <= FRAMES, "{n} frames came of {FRAMES}");
    let _ = done(sending).await;
}

/// A peer that drops its link without closing it is noticed by a receiver that
/// waits and, once it goes on, by a sender; what it had sent is delivered.
pub async fn a_vanished_peer_is_an_error_on_both_halves(mut pair: Pair) {
    let (mut client, server) = pair.halves().await;
    client.tx.send(b"last").await.expect("the link holds");
    client.tx.flush().await.expect("the link holds");
    let End { mut tx, mut rx } = server;
    let receiving = tokio::spawn(async move {
        let frame = rx.one().await.expect("it was flushed");
        assert_eq!(frame.as_deref(), Some(&b"last"[..]));
        rx.one().await
    });
    tokio::task::yield_now().await;
    drop(client);

    match done(receiving).await {
        Err(error) => assert_eq!(error.kind(), TransportErrorKind::Lost),
        Ok(None) => assert!(!pair.medium.tells_loss, "it was lost, not closed"),
        Ok(Some(frame)) => panic!("a frame of {} bytes from nowhere", frame.len()),
    }
    let error = tx.send_until_error(1_000, pair.medium).await;
    assert_eq!(error.kind(), TransportErrorKind::Lost);
}

/// A sender that waits for room learns that there will be none.
pub async fn a_vanished_peer_wakes_a_sender_that_waits(mut pair: Pair) {
    const LEN: usize = 30_000;
    let (mut client, server) = pair.halves().await;
    client.tx.fill(LEN, pair.medium).await;
    let medium = pair.medium;
    let sending = tokio::spawn(async move { client.tx.send_until_error(LEN, medium).await });
    tokio::task::yield_now().await;
    drop(server);
    assert_eq!(done(sending).await.kind(), TransportErrorKind::Lost);
}

/// A half that failed stays failed, and says so at once.
pub async fn after_an_error_every_later_call_is_an_error(mut pair: Pair) {
    let (mut client, server) = pair.halves().await;
    drop(server);
    client.tx.send_until_error(1_000, pair.medium).await;
    for _ in 0..2 {
        let bell = Bell::new();
        let polls = [
            client.tx.poll_send(&mut bell.context(), b"frame"),
            client.tx.0.poll_flush(&mut bell.context()),
            client.tx.0.poll_close(&mut bell.context()),
        ];
        for (method, polled) in ["poll_send", "poll_flush", "poll_close"].iter().zip(polls) {
            assert!(matches!(polled, Poll::Ready(Err(_))), "{method} was fine");
        }
    }
    if client.rx.one().await.is_err() {
        for _ in 0..2 {
            let polled = client.rx.poll_some(&mut Bell::new().context(), usize::MAX);
            assert!(
                matches!(polled, Poll::Ready(Err(_))),
                "it came back to life"
            );
        }
    }
}

/// Where nobody listens, connecting fails with
/// [`Unreachable`](TransportErrorKind::Unreachable), and says why.
pub async fn connecting_to_nobody_is_unreachable(pair: Pair) {
    drop(pair.listener);
    for _ in 0..2 {
        let connected = pair.connector.connect().await;
        let error = connected.expect_err("somebody answered");
        assert_eq!(error.kind(), TransportErrorKind::Unreachable);
        assert!(
            std::error::Error::source(&error).is_some(),
            "it has a cause"
        );
    }
}

/// A `connect` that is dropped, at whichever point, closes what it had opened,
/// and takes nothing away from the next.
pub async fn dropping_connect_leaks_nothing(mut pair: Pair) {
    for polls in 0..20 {
        let mut connecting = pair.connector.connect();
        for _ in 0..polls {
            if poll_once(&mut connecting).await.is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let connecting = pair.connect();
    let client = tokio::spawn(async move {
        let connected = done(connecting).await.expect("the client connects");
        let mut client = End::from(connected);
        client.tx.send(b"here").await.expect("the link holds");
        client.tx.flush().await.expect("the link holds");
        client.rx.expect_no_more().await;
    });

    let found = Arc::new(Notify::new());
    let mut accepted = Vec::new();
    loop {
        tokio::select! {
            handshake = pair.listener.accept() => {
                let handshake = handshake.expect("the listener accepts");
                let found = Arc::clone(&found);
                accepted.push(tokio::spawn(async move {
                    let Ok(link) = handshake.await else { return };
                    if let Ok(Some(frame)) = End::from(link).rx.one().await {
                        assert_eq!(frame, b"here");
                        found.notify_one();
                    }
                }));
            }
            () = found.notified() => break,
        }
    }
    // A link whose `connect` was dropped and that does not end hangs here.
    for ended in accepted {
        done(ended).await;
    }
    done(client).await;
}

/// An `accept` that is dropped, before or after it was polled, takes no
/// connection with it.
pub async fn dropping_accept_loses_no_connection(mut pair: Pair) {
    const CONNECTIONS: usize = 20;
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            let connecting = pair.connect();
            tokio::spawn(async move {
                let connected = done(connecting).await.expect("the client connects");
                let mut client = End::from(connected);
                let frame = numbered(n, 16);
                client.tx.send(&frame).await.expect("the link holds");
                client.tx.flush().await.expect("the link holds");
                let echo = client.rx.one().await.expect("the link holds");
                assert_eq!(echo, Some(frame));
            })
        })
        .collect();
    let mut servers = Vec::new();
    let mut patience = 0;
    while servers.len() < CONNECTIONS {
        drop(pair.listener.accept());
        let accepting = pair.listener.accept();
        // From one poll to longer than the system needs for a connection.
        let accepted = if patience == 0 {
            let mut accepting = accepting;
            poll_once(&mut accepting).await
        } else {
            let waited = timeout(Duration::from_micros(patience), accepting).await;
            waited.map_or(Poll::Pending, Poll::Ready)
        };
        patience = (patience + 100) % 2_000;
        tokio::task::yield_now().await;
        if let Poll::Ready(handshake) = accepted {
            let handshake = handshake.expect("the listener accepts");
            servers.push(tokio::spawn(echo(handshake)));
        }
    }
    for task in clients.into_iter().chain(servers) {
        done(task).await;
    }
}

/// A handshake that is dropped closes its connection: the peer is not left
/// waiting, and the next connection is not affected.
pub async fn dropping_a_handshake_closes_its_connection(mut pair: Pair) {
    let connecting = pair.connect();
    drop(pair.listener.accept().await.expect("the listener accepts"));
    if let Ok(link) = done(connecting).await {
        End::from(link).rx.expect_no_more().await;
    }
    pair.halves().await;
}

/// A hundred connections, made and used at the same time.
pub async fn many_connect_at_once(mut pair: Pair) {
    const CONNECTIONS: usize = 100;
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            let connecting = pair.connect();
            tokio::spawn(async move {
                let connected = done(connecting).await.expect("the client connects");
                let mut client = End::from(connected);
                for round in 0..10 {
                    let frame = numbered(n * 10 + round, 1 + n * round);
                    client.tx.send(&frame).await.expect("the link holds");
                    client.tx.flush().await.expect("the link holds");
                    let echo = client.rx.one().await.expect("the link holds");
                    assert!(echo == Some(frame), "connection {n}, round {round}");
                }
            })
        })
        .collect();
    let mut servers = Vec::new();
    for _ in 0..CONNECTIONS {
        let handshake = pair.listener.accept().await;
        let handshake = handshake.expect("the listener accepts");
        servers.push(tokio::spawn(echo(handshake)));
    }
    for task in clients.into_iter().chain(servers) {
        done(task).await;
    }
}

/// Sends back each frame until the client is gone.
async fn echo(handshake: crate::transport::Handshake) {
    let accepted = handshake.await.expect("the server's handshake succeeds");
    let mut server = End::from(accepted);
    while let Ok(Some(frame)) = server.rx.one().await {
        // The client may be content and gone.
        if server.tx.send(&frame).await.is_err() || server.tx.flush().await.is_err() {
            break;
        }
    }
}

/// One end of a link.
struct End {
    tx: Tx,
    rx: Rx,
}

impl From<Link> for End {
    fn from(link: Link) -> Self {
        let (tx, rx) = link.split();
        Self {
            tx: Tx(tx),
            rx: Rx(rx),
        }
    }
}

/// The sender and the receiver of both directions.
fn both_ways(client: Link, server: Link) -> [(Tx, Rx); 2] {
    let (client, server) = (End::from(client), End::from(server));
    [(client.tx, server.rx), (server.tx, client.rx)]
}

/// Waits for both directions; all halves live until both are through.
async fn all_done(directions: [(JoinHandle<Tx>, JoinHandle<Rx>); 2]) {
    let mut halves = Vec::new();
    for (sending, receiving) in directions {
        // The receiver first: it knows what is wrong.
        let rx = done(receiving).await;
        halves.push((done(sending).await, rx));
    }
}

/// The result of a task, or its panic.
async fn done<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Runs a future in a thread of its own; its sockets stay with the runtime.
fn in_a_thread<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(future))
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx))).await
}

/// Content that differs from frame to frame and within a frame.
fn numbered(n: usize, len: usize) -> Vec<u8> {
    Random::new(n as u64).bytes(len)
}

struct Tx(Box<dyn FrameTx>);

impl Tx {
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frame: &[u8],
    ) -> Poll<Result<(), TransportError>> {
        let frame = OutFrame::new(frame, Part::EMPTY, Part::EMPTY);
        self.0.poll_send(cx, &frame)
    }

    async fn send(&mut self, frame: &[u8]) -> Result<(), TransportError> {
        poll_fn(|cx| self.poll_send(cx, frame)).await
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        poll_fn(|cx| self.0.poll_flush(cx)).await
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        poll_fn(|cx| self.0.poll_close(cx)).await
    }

    /// Sends numbered frames until the link takes no more, and returns how many
    /// it took. Nobody must be receiving.
    async fn fill(&mut self, len: usize, medium: Medium) -> usize {
        for n in 0.. {
            assert!(
                n * len <= medium.held_bytes,
                "it took {} bytes while nobody received; bound: {}",
                n * len,
                medium.held_bytes
            );
            let frame = numbered(n, len);
            let Ok(sent) = timeout(QUIET, self.send(&frame)).await else {
                return n;
            };
            sent.expect("the link holds");
            // Begun and not waited for: a full link may not get through with it.
            let _ = poll_fn(|cx| Poll::Ready(self.0.poll_flush(cx))).await;
        }
        unreachable!("the bound comes first")
    }

    /// Why the link broke, once it notices.
    async fn send_until_error(&mut self, len: usize, medium: Medium) -> TransportError {
        let frame = numbered(0, len);
        for _ in 0..=medium.held_bytes / len {
            if let Err(error) = self.send(&frame).await {
                return error;
            }
            if let Err(error) = self.flush().await {
                return error;
            }
            // The news may have to come through the system.
            tokio::task::yield_now().await;
        }
        panic!("nobody is there, and it took {} bytes", medium.held_bytes);
    }
}

struct Rx(Box<dyn FrameRx>);

impl Rx {
    /// The frames of one call, none at the end; breaks after `at_most`.
    ///
    /// Every call in this file comes through here, and is held to the contract
    /// of [`FrameRx::poll_recv`].
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        at_most: usize,
    ) -> Poll<Result<Vec<Vec<u8>>, TransportError>> {
        let mut frames = Vec::new();
        let polled = self.0.poll_recv(cx, &mut |frame: InFrame<'_>| {
            assert!(
                frames.len() < at_most,
                "the sink broke and was called again"
            );
            frames.push(frame.as_slice().to_vec());
            if frames.len() == at_most {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        let delivered = matches!(polled, Poll::Ready(Ok(Received::Frames)));
        assert_eq!(
            delivered,
            !frames.is_empty(),
            "`Frames` means that there were some: {polled:?}"
        );
        polled.map_ok(|_| frames)
    }

    /// As many frames as there are, at least one; none at the end.
    async fn some(&mut self) -> Result<Vec<Vec<u8>>, TransportError> {
        self.up_to(usize::MAX).await
    }

    async fn up_to(&mut self, at_most: usize) -> Result<Vec<Vec<u8>>, TransportError> {
        poll_fn(|cx| self.poll_some(cx, at_most)).await
    }

    /// The next frame, or `None` at the end.
    async fn one(&mut self) -> Result<Option<Vec<u8>>, TransportError> {
        Ok(self.up_to(1).await?.pop())
    }

    /// Receives the numbered frames of `range`, all of one length.
    async fn expect_numbered(&mut self, range: std::ops::Range<usize>, len: usize) {
        let mut range = range;
        while !range.is_empty() {
            let frames = self.up_to(range.len()).await.expect("the link holds");
            assert!(!frames.is_empty(), "the end came before {range:?}");
            for (frame, n) in frames.iter().zip(range.by_ref()) {
                assert!(*frame == numbered(n, len), "frame {n} of {len} bytes");
            }
        }
    }

    /// The peer has closed in good order.
    async fn expect_end(&mut self) {
        let end = self.one().await.expect("it was closed, not lost");
        assert_eq!(end, None, "a frame that nobody sent");
    }

    /// The peer is gone, in whichever way.
    async fn expect_no_more(&mut self) {
        if let Ok(Some(frame)) = self.one().await {
            panic!("a frame of {} bytes from nowhere", frame.len());
        }
    }
}

/// A waker of its own, to see who is woken.
struct Bell {
    rung: Arc<Rung>,
    waker: Waker,
}

#[derive(Default)]
struct Rung(Notify);

impl Wake for Rung {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

impl Bell {
    fn new() -> Self {
        let rung = Arc::new(Rung::default());
        let waker = Waker::from(Arc::clone(&rung));
        Self { rung, waker }
    }

    fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }

    /// Polls when this bell has rung, and not before.
    async fn until_ready<T>(&self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        loop {
            self.rung.0.notified().await;
            if let Poll::Ready(value) = poll(&mut self.context()) {
                return value;
            }
        }
    }
}
