//! Nonsense: any frames and any calls, in any order.
//!
//! `RSOCKET_TEST_SEED=n` runs one seed again.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "what is wrong with a test fails it"
)]

use std::{
    task::Poll,
    time::{Duration, Instant},
};

use rsocket_core::{
    CloseReason, Failure, Payload,
    frame::{Demand, Interaction, Millis31, StreamId},
    proto::{
        Config, DemandPolicy, Event, LeaseConfig, LeaseGrant, Open, Progress, Session,
        SetupOptions, Side, Stats, StreamKey,
    },
    testkit::{Random, Referee, frame, seeds, text},
    transport::{InFrame, Limits as LinkLimits},
};

const ROUNDS: usize = 600;

/// A session, and whoever torments it.
struct Torment {
    random: Random,
    session: Session,
    referee: Referee,
    limits: rsocket_core::proto::Limits,
    leased: bool,
    now: Instant,
    keys: Vec<StreamKey>,
    stalled: bool,
    /// What was said, to be shown if the test fails.
    log: Vec<String>,
}

impl Drop for Torment {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last = self.log.len().saturating_sub(60);
            eprintln!("{}", self.log[last..].join("\n"));
        }
    }
}

impl Torment {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let now = start();
        let mut config = Config {
            fragment_len: random.once_in(2).then(|| random.within(0..=200)),
            drain_timeout: Duration::from_secs(5),
            lease: random.once_in(3).then(LeaseConfig::default),
            ..Config::default()
        };
        let leased = config.lease.is_some();
        let limits = &mut config.limits;
        limits.max_waiting_requests = random.within(0..=9);
        limits.max_frame_len = random.length(4_000).max(64);
        limits.max_payload_len = random.length(4_000);
        limits.max_buffered_len = random.length(20_000);
        limits.max_streams = random.within(0..=20);
        limits.max_owed_len = random.length(5_000);
        limits.max_queued_len = random.length(5_000);
        limits.max_one_way = random.within(0..=5);
        let limits = limits.clone();
        let link = LinkLimits {
            max_frame_len: random.length(4_000).max(64),
        };
        let fragment_len = match config.fragment_len {
            Some(len) => (len.max(64) - 3).min(link.max_frame_len),
            None => link.max_frame_len,
        };
        let (side, session) = if random.once_in(2) {
            let setup = SetupOptions {
                keepalive_interval: Millis31::new(100).unwrap(),
                max_lifetime: Millis31::new(2_000).unwrap(),
                metadata_mime: String::new(),
                data_mime: String::new(),
                ..SetupOptions::default()
            };
            (Side::Client, Session::client(now, config, &setup, link))
        } else {
            (Side::Server, Session::server(now, config, link))
        };
        Self {
            random,
            session,
            referee: Referee::new(side, link.max_frame_len, fragment_len),
            limits,
            leased,
            now,
            keys: Vec::new(),
            stalled: false,
            log: Vec::new(),
        }
    }

    fn run(&mut self) {
        if self.session.side() == Side::Server && !self.random.once_in(4) {
            let leased = self.leased && self.random.once_in(2);
            let setup = ["SETUP life=2000", "SETUP L life=2000"][usize::from(leased)];
            self.hear(&frame(setup));
            self.events();
            self.session.accept(self.now);
        }
        for _ in 0..ROUNDS {
            match self.random.within(0..=9) {
                0..=3 => {
                    let bytes = self.any_frame();
                    self.hear(&bytes);
                }
                4 => self.transmit(),
                5 => self.events(),
                6 => while self.session.poll_wake().is_some() {},
                7 if self.random.once_in(20) => self.rarity(),
                7 => self.pass(),
                _ => self.any_call(),
            }
            self.check();
        }
        // The end, whatever state it is in.
        if self.random.once_in(2) {
            self.session.abort();
        } else {
            self.session.handle_disconnect(self.now, CloseReason::Peer);
        }
        // Its last words; a link that fails here would be told of, too.
        while self.session.transmit(|_| Poll::Ready(Ok::<(), ()>(()))) == Ok(Progress::Sent) {}
        while let Some(event) = self.session.poll_event() {
            self.keep_key(&event);
        }
        for key in std::mem::take(&mut self.keys) {
            self.session.release(key);
            self.session.release(key);
        }
        self.check();
        assert!(self.session.is_closed());
        assert_eq!(self.session.streams_open(), 0);
        let books = self.session.books();
        assert_eq!((books.buffered, books.queued, books.owed), (0, 0, 0));
        assert_eq!(self.session.poll_timeout(), None);
    }

    // ----- frames ------------------------------------------------------------

    fn hear(&mut self, bytes: &[u8]) {
        if !self.session.wants_input() {
            return;
        }
        self.log.push(format!("> {}", text(bytes)));
        self.referee.given(bytes);
        let whole = if self.random.once_in(2) {
            InFrame::Shared(bytes::Bytes::copy_from_slice(bytes))
        } else {
            InFrame::Borrowed(bytes)
        };
        let refused = |stats: Stats| stats.requests_rejected + stats.one_way_dropped;
        let before = refused(self.session.stats());
        let ignored = self.session.stats().frames_ignored;
        self.session.handle_frame(self.now, &whole);
        if refused(self.session.stats()) > before {
            self.referee.refused(bytes);
        } else if self.session.stats().frames_ignored == ignored {
            self.referee.took(bytes);
        }
    }

    fn any_frame(&mut self) -> Vec<u8> {
        let mut bytes = frame(&self.any_text());
        match self.random.within(0..=99) {
            // Mostly as it is: a malformed frame ends the connection.
            0 => bytes.truncate(self.random.within(0..=bytes.len())),
            1 => {
                let bit = self.random.within(0..=bytes.len() * 8 - 1);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            2 => {
                let len = self.random.length(100);
                bytes = self.random.bytes(len);
            }
            // Any flags at all.
            3..=20 => bytes[5] ^= self.random.bytes(1)[0],
            _ => {}
        }
        bytes
    }

    fn any_text(&mut self) -> String {
        // Few ids, so that they meet.
        let id = self.random.within(0..=16);
        let n = match self.random.within(0..=9) {
            0 => 0,
            1 => 0x7FFF_FFFF,
            2 => 0x8000_0001_usize,
            _ => self.random.within(1..=4),
        };
        let flags = [
            "", "F", "N", "C", "FN", "NC", "FC", "FNC", "I", "N", "N", "FN",
        ];
        let flags = flags[self.random.within(0..=flags.len() - 1)];
        let payload = self.any_payload();
        match self.random.within(0..=29) {
            0..=2 => format!("REQUEST_RESPONSE {id} {flags} {payload}"),
            3 | 4 => format!("REQUEST_FNF {id} {flags} {payload}"),
            5..=7 => format!("REQUEST_STREAM {id} {flags} n={n} {payload}"),
            8..=10 => format!("REQUEST_CHANNEL {id} {flags} n={n} {payload}"),
            11..=17 => format!("PAYLOAD {id} {flags} {payload}"),
            18..=20 => format!("REQUEST_N {id} n={n}"),
            21 | 22 => format!("CANCEL {id}"),
            23 => format!("ERROR {} APPLICATION_ERROR d=x", id.max(1)),
            24 => format!("KEEPALIVE {flags} {payload}"),
            25 => "KEEPALIVE R d=x".to_owned(),
            26 => "METADATA_PUSH m=*50".to_owned(),
            27 => format!("LEASE ttl={n} n={n}"),
            28 => format!("EXT {id} I type=5"),
            _ => match self.random.within(0..=40) {
                0 => "ERROR CONNECTION_CLOSE".to_owned(),
                1 => "ERROR CONNECTION_ERROR".to_owned(),
                2 => "EXT type=5".to_owned(),
                3 => "RESUME".to_owned(),
                4 => "TYPE=0x22".to_owned(),
                5 => "REQUEST_N 1 n=1 ".to_owned(),
                6 => "ERROR REJECTED_SETUP".to_owned(),
                7 => "SETUP L".to_owned(),
                8 => format!("ERROR {id} code={n}"),
                _ => "RESUME_OK".to_owned(),
            },
        }
    }

    fn any_payload(&mut self) -> String {
        let metadata = match self.random.within(0..=3) {
            0 => format!("m=*{}", self.random.length(300)),
            1 => "m=".to_owned(),
            _ => String::new(),
        };
        let data = match self.random.within(0..=3) {
            0 => String::new(),
            1 => format!(" d=*{}", self.random.length(3_000)),
            _ => " d=x".to_owned(),
        };
        metadata + &data
    }

    fn transmit(&mut self) {
        for _ in 0..self.random.length(50) {
            let blocked = self.stalled || self.random.once_in(10);
            let fails = self.random.once_in(50);
            let (referee, log) = (&mut self.referee, &mut self.log);
            let progress = self.session.transmit(|frame| {
                if fails {
                    return Poll::Ready(Err(()));
                }
                if blocked {
                    return Poll::Pending;
                }
                let bytes = frame.to_vec();
                log.push(format!("< {}", text(&bytes)));
                referee.sends(&bytes);
                Poll::Ready(Ok(()))
            });
            if !matches!(progress, Ok(Progress::Sent)) {
                return;
            }
        }
    }

    // ----- calls ----------------------------------------------------------------

    fn keep_key(&mut self, event: &Event) {
        if let Event::Request { key, .. } | Event::Channel { key } = event {
            self.keys.push(*key);
        }
    }

    fn events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            self.keep_key(&event);
            match event {
                Event::MetadataPush(_) => self.session.metadata_push_done(),
                Event::Setup(_) if self.random.once_in(3) => {
                    self.session.refuse(&Failure::application("no"));
                }
                Event::Setup(_) => self.session.accept(self.now),
                Event::LeaseDue => {
                    let requests = u32::try_from(self.random.length(9)).unwrap();
                    let ttl = Duration::from_millis(self.random.length(999) as u64);
                    let grant = LeaseGrant::new(requests - 1, ttl);
                    let _ = self.session.lease_load(self.now);
                    self.session.grant_lease(self.now, &grant).unwrap();
                }
                _ => {}
            }
        }
    }

    fn pass(&mut self) {
        let millis = self.random.length(300) as u64;
        self.now += Duration::from_millis(millis);
        self.session.handle_timeout(self.now);
        self.stalled = self.random.once_in(3);
    }

    fn rarity(&mut self) {
        match self.random.within(0..=2) {
            0 => self.session.close(self.now),
            1 => self.session.accept(self.now),
            _ => self.session.refuse(&Failure::rejected("no")),
        }
    }

    /// A key in use, one that was, or one that never was.
    fn any_key(&mut self) -> StreamKey {
        if self.keys.is_empty() || self.random.once_in(20) {
            return StreamKey {
                slot: self.random.within(0..=30),
                id: StreamId::new(self.random.within(1..=20) as u32).unwrap(),
            };
        }
        self.keys[self.random.within(0..=self.keys.len() - 1)]
    }

    fn payload(&mut self) -> Payload {
        let len = self.random.length(2_000);
        let payload = Payload::new(self.random.bytes(len));
        match self.random.within(0..=2) {
            0 => payload.with_metadata(self.random.bytes(50)),
            _ => payload,
        }
    }

    fn demand(&mut self) -> Demand {
        match self.random.within(0..=5) {
            0 => Demand::MAX,
            n => Demand::new(n as u32).unwrap(),
        }
    }

    fn any_call(&mut self) {
        let key = self.any_key();
        match self.random.within(0..=13) {
            0 => {
                let interaction = match self.random.within(0..=3) {
                    0 => Interaction::FireAndForget,
                    1 => Interaction::RequestResponse,
                    2 => Interaction::RequestStream,
                    _ => Interaction::RequestChannel,
                };
                let initial = self.demand();
                let open = Open {
                    interaction,
                    payload: self.payload(),
                    demand: match self.random.once_in(2) {
                        true => DemandPolicy::Manual { initial },
                        false => DemandPolicy::prefetch(initial),
                    },
                    complete: interaction == Interaction::RequestChannel && self.random.once_in(3),
                };
                if let Ok(key) = self.session.open(open) {
                    self.keys.push(key);
                }
            }
            1..=3 => drop(self.session.poll_take(key)),
            4 | 5 => {
                let payload = self.payload();
                let _ = self.session.send(key, payload);
            }
            6 => drop(self.session.poll_capacity(key)),
            7 => drop(self.session.poll_send_closed(key)),
            8 => self.session.complete(key),
            9 if !self.opened_here(key) => self.session.fail(key, &Failure::application("no")),
            10 if self.random.once_in(3) => self.session.cancel(key),
            11 => {
                let n = self.demand();
                self.session.request_n(key, n);
            }
            12 => {
                if self.random.once_in(2) {
                    let _ = self.session.metadata_push(&[7; 30]);
                } else {
                    let demand = DemandPolicy::prefetch(self.demand());
                    self.session.set_demand(key, demand);
                }
            }
            13 if self.random.once_in(2) => self.session.release(key),
            _ => drop(self.session.poll_granted(key)),
        }
    }

    /// Only a channel's requester may fail its stream, and the key does not say.
    fn opened_here(&self, key: StreamKey) -> bool {
        key.id.is_client() == (self.session.side() == Side::Client)
    }

    // ----- what has to hold -------------------------------------------------------

    fn check(&self) {
        self.session.assert_consistent();
        let (books, limits) = (self.session.books(), &self.limits);
        assert!(books.buffered <= limits.max_buffered_len, "{books:?}");
        let frame = limits.max_frame_len + 100;
        assert!(books.owed <= limits.max_owed_len + frame, "{books:?}");
        let theirs = self.session.streams_open() - self.session.in_flight();
        assert!(theirs <= limits.max_streams, "{theirs} streams");
        assert!(self.session.one_way_in_work() <= 2 * limits.max_one_way);
        if let Some(at) = self.session.poll_timeout() {
            assert!(at < self.now + Duration::from_secs(60));
        }
    }
}

fn start() -> Instant {
    Instant::now()
}

/// Names the seed if the test fails.
struct SeedNote(u64);

impl Drop for SeedNote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("RSOCKET_TEST_SEED={}", self.0);
        }
    }
}

// [C013] [C120] [C222] [C223] [C252] [C256] [C320] [C330] [C339]
#[test]
fn no_frame_and_no_call_is_a_panic_or_breaks_a_limit_or_a_rule() {
    torment_all(1_000);
}

#[test]
#[ignore = "takes minutes; for nights"]
fn no_frame_and_no_call_is_a_panic_or_breaks_a_limit_or_a_rule_at_length() {
    torment_all(100_000);
}

fn torment_all(count: u64) {
    for seed in seeds(count) {
        let _note = SeedNote(seed);
        Torment::new(seed).run();
    }
}

// [C013]: not even when nothing that comes is a frame.
#[test]
fn no_bytes_are_a_panic() {
    for seed in seeds(300) {
        let _note = SeedNote(seed);
        let mut torment = Torment::new(seed);
        if torment.session.side() == Side::Server && torment.random.once_in(2) {
            torment.hear(&frame("SETUP life=2000"));
            torment.session.accept(torment.now);
        }
        for _ in 0..50 {
            let len = torment.random.length(60);
            let mut bytes = torment.random.bytes(len);
            // On low ids, and to be ignored if malformed: else it ends at once.
            for (at, byte) in [0, 0, 0, 1].into_iter().enumerate() {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            if let Some(flags) = bytes.get_mut(4) {
                *flags |= 2;
            }
            torment.hear(&bytes);
            torment.events();
            torment.check();
        }
    }
}
