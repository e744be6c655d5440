//! What a request costs in the protocol alone: two sessions in one thread, and
//! a byte buffer between them in each direction.
//!
//! `cargo bench -p rsocket-core --bench session`
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a benchmark is code that may fail, and measures time"
)]

use std::{
    convert::Infallible,
    hint::black_box,
    task::Poll,
    time::{Duration, Instant},
};

use rsocket_core::{
    DemandPolicy, Payload,
    frame::Interaction,
    proto::{
        Config, Event, LeaseConfig, LeaseGrant, Open, Progress, ResumeOptions, Session,
        SetupOptions, StreamKey, Take,
    },
    transport::{InFrame, Limits},
};

/// One direction of the link.
#[derive(Default)]
struct Pipe {
    bytes: Vec<u8>,
}

impl Pipe {
    fn fill(&mut self, from: &mut Session) {
        if from.uses_lease() {
            from.tell_time(Instant::now());
        }
        loop {
            let sent = from.transmit(|frame| {
                self.bytes
                    .extend_from_slice(&(frame.len() as u32).to_ne_bytes());
                frame.put(&mut self.bytes);
                Poll::Ready(Ok::<_, Infallible>(()))
            });
            match sent {
                Ok(Progress::Sent) => {}
                Ok(Progress::Idle | Progress::Blocked) => return,
                Err(never) => match never {},
            }
        }
    }

    fn drain(&mut self, to: &mut Session, now: Instant) {
        let mut rest = self.bytes.as_slice();
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let (frame, next) = after.split_at(u32::from_ne_bytes(*len) as usize);
            to.handle_frame(now, &InFrame::Borrowed(frame));
            rest = next;
        }
        self.bytes.clear();
    }
}

struct Pair {
    client: Session,
    server: Session,
    there: Pipe,
    back: Pipe,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        Self::with(Config::default())
    }

    /// With leases, of more than can be used; the time is told as a shell does.
    fn leased() -> Self {
        let mut pair = Self::with(Config {
            lease: Some(LeaseConfig::default()),
            ..Config::default()
        });
        let now = pair.now;
        for session in [&mut pair.client, &mut pair.server] {
            assert!(matches!(session.poll_event(), Some(Event::LeaseDue)));
            session.grant_lease(now, &LeaseGrant::unlimited()).unwrap();
        }
        pair.there.fill(&mut pair.client);
        pair.there.drain(&mut pair.server, now);
        pair.back.fill(&mut pair.server);
        pair.back.drain(&mut pair.client, now);
        assert!(pair.client.uses_lease() && pair.server.uses_lease());
        pair
    }

    /// Sessions that could be resumed; they keep what they send until the other
    /// side confirms it.
    fn resumable() -> Self {
        let mut pair = Self::with(Config {
            resume: Some(ResumeOptions::default()),
            ..Config::default()
        });
        // The KEEPALIVE behind SETUP came before that was accepted; the next one
        // is answered, and shows the client that it was.
        pair.client
            .handle_timeout(pair.now + Duration::from_secs(20));
        pair.there.fill(&mut pair.client);
        pair.there.drain(&mut pair.server, pair.now);
        pair.back.fill(&mut pair.server);
        pair.back.drain(&mut pair.client, pair.now);
        pair
    }

    fn with(config: Config) -> Self {
        let now = Instant::now();
        let link = Limits::default();
        let setup = SetupOptions {
            resume_token: config.resume.as_ref().map(|_| "token".into()),
            ..SetupOptions::default()
        };
        let mut pair = Self {
            client: Session::client(now, config.clone(), &setup, link),
            server: Session::server(now, config, link),
            there: Pipe::default(),
            back: Pipe::default(),
            now,
        };
        pair.there.fill(&mut pair.client);
        pair.there.drain(&mut pair.server, now);
        assert!(matches!(pair.server.poll_event(), Some(Event::Setup(_))));
        pair.server.accept(now);
        pair
    }

    /// `keys.len()` requests there, their answers back.
    fn round(&mut self, keys: &mut Vec<StreamKey>, n: usize, data: &[u8]) {
        for _ in 0..n {
            let open = Open {
                interaction: Interaction::RequestResponse,
                payload: Payload::copy_from_slice(data),
                demand: DemandPolicy::default(),
                complete: false,
            };
            keys.push(self.client.open(open).unwrap());
        }
        self.there.fill(&mut self.client);
        self.there.drain(&mut self.server, self.now);
        while let Some(event) = self.server.poll_event() {
            let Event::Request { key, payload, .. } = event else {
                unreachable!()
            };
            self.server.send(key, payload).unwrap();
            self.server.release(key);
        }
        self.back.fill(&mut self.server);
        self.back.drain(&mut self.client, self.now);
        for key in keys.drain(..) {
            match self.client.poll_take(key) {
                Take::Payload(payload) => black_box(payload),
                other => panic!("{other:?}"),
            };
            self.client.release(key);
        }
    }
}

/// The same bytes moved by hand: two copies into buffers and out again.
fn by_hand(there: &mut Vec<u8>, back: &mut Vec<u8>, data: &[u8]) {
    for (buffer, head) in [
        (&mut *there, [0, 0, 0, 1, 0x10, 0]),
        (&mut *back, [0, 0, 0, 1, 0x28, 0x60]),
    ] {
        buffer.extend_from_slice(&38_u32.to_ne_bytes());
        buffer.extend_from_slice(&head);
        buffer.extend_from_slice(data);
        black_box(&buffer[4..]);
        black_box(Payload::copy_from_slice(&buffer[10..]));
        buffer.clear();
    }
}

fn time(rounds: u32, mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..rounds {
        run();
    }
    start.elapsed()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Nanoseconds a request, of each of `pairs` in turn, again and again.
fn compare(pairs: &mut [Pair], window: usize, data: &[u8]) -> Vec<Vec<f64>> {
    let rounds = REQUESTS / window as u32;
    let mut keys = Vec::new();
    let mut times = vec![Vec::new(); pairs.len()];
    for pair in &mut *pairs {
        time(rounds, || pair.round(&mut keys, window, data));
    }
    for _ in 0..PAIRS {
        for (pair, times) in pairs.iter_mut().zip(&mut times) {
            let took = time(rounds, || pair.round(&mut keys, window, data));
            times.push(took.as_nanos() as f64 / f64::from(rounds * window as u32));
        }
    }
    times
}

/// The median of what each measurement is to the one of the same turn.
fn ratio(these: &[f64], to: &[f64]) -> f64 {
    median(these.iter().zip(to).map(|(a, b)| a / b).collect())
}

const PAIRS: usize = 15;
const REQUESTS: u32 = 200_000;

fn main() {
    let data = [7_u8; 32];
    println!(
        "request-response of 32 bytes, both sessions, one thread, ns a request; median of {PAIRS}"
    );
    println!(
        "ratios: to bytes by hand; of leases (with a clock read a step) and of resumption to neither"
    );
    println!(
        "{:>10} {:>8} {:>8} {:>6} {:>12} {:>6} {:>16} {:>6}",
        "in flight",
        "plain",
        "by hand",
        "ratio",
        "with leases",
        "ratio",
        "with resumption",
        "ratio"
    );
    for window in [1_usize, 16, 64] {
        let mut pairs = [Pair::new(), Pair::leased(), Pair::resumable()];
        let times = compare(&mut pairs, window, &data);
        let [plain, leased, resumable] = times.try_into().unwrap();
        let (mut there, mut back) = (Vec::new(), Vec::new());
        let hand: Vec<f64> = (0..PAIRS)
            .map(|_| time(REQUESTS, || by_hand(&mut there, &mut back, &data)))
            .map(|took| took.as_nanos() as f64 / f64::from(REQUESTS))
            .collect();
        println!(
            "{window:>10} {:>8.0} {:>8.1} {:>6.1} {:>12.0} {:>6.2} {:>16.0} {:>6.2}",
            median(plain.clone()),
            median(hand.clone()),
            ratio(&plain, &hand),
            median(leased.clone()),
            ratio(&leased, &plain),
            median(resumable.clone()),
            ratio(&resumable, &plain),
        );
    }
}
