//! Nonsense: any frames and any calls, in any order, over links that come and go.

mod wire;

use std::{
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;

use self::wire::{Wire, position};
use super::{Random, Referee, frame, text};
use crate::{
    Payload,
    error::{CloseReason, Error, Failure},
    frame::{Demand, Frame, Interaction, Millis31, StreamId},
    proto::{
        Batch, Config, DemandPolicy, Event, LeaseConfig, LeaseGrant, Limits, Open, Progress,
        ResumeOptions, ResumeRequest, Session, SetupOptions, Side, Stats, StreamKey,
    },
    transport::{InFrame, Limits as LinkLimits, OutFrame},
};

/// A session with small limits, and whoever torments it: as its peer, as its
/// application, and as its link.
///
/// After each step the session's books are counted again and held against its
/// limits; everything that it sends is judged by a [`Referee`], and what it sends
/// again on a new link has to be what it sent before.
#[derive(Debug)]
pub struct Torment {
    random: Random,
    session: Session,
    referee: Referee,
    limits: Limits,
    link: LinkLimits,
    now: Instant,
    keys: Vec<StreamKey>,
    stalled: bool,
    /// Present where the session can be resumed.
    wire: Option<Wire>,
    /// A client's RESUME was sent, and not answered.
    asked: bool,
    /// A server's first frame was RESUME: it is no session of its own.
    is_detour: bool,
    uses_lease: bool,
    /// The end of the lease that the session was given.
    lease_until: Option<Instant>,
    log: Log,
}

/// What was said.
#[derive(Debug)]
enum Log {
    Silent,
    /// To be shown if the test fails.
    Kept(Vec<String>),
    /// Shown at once: a fuzzer ends the process in a panic.
    Aloud,
}

impl Log {
    fn note(&mut self, line: impl FnOnce() -> String) {
        match self {
            Self::Silent => {}
            Self::Kept(lines) => lines.push(line()),
            Self::Aloud => eprintln!("{}", line()),
        }
    }
}

impl Drop for Torment {
    fn drop(&mut self) {
        if let Log::Kept(log) = &self.log
            && std::thread::panicking()
        {
            let last = log.len().saturating_sub(60);
            eprintln!("{}", log.get(last..).unwrap_or_default().join("\n"));
        }
    }
}

impl Torment {
    /// A session of either side, with limits and features as `random` has it.
    pub fn new(mut random: Random, now: Instant) -> Self {
        let mut config = Config {
            fragment_len: random.once_in(2).then(|| random.within(0..=200)),
            drain_timeout: Duration::from_secs(5),
            ..Config::default()
        };
        if random.once_in(2) {
            let session_timeout = Duration::from_secs(5);
            config.resume = Some(ResumeOptions {
                session_timeout,
                ..ResumeOptions::default()
            });
        }
        if random.once_in(2) {
            let grace = Duration::from_millis(random.length(300) as u64 - 1);
            let first_within = random.once_in(4).then(|| Duration::from_secs(1));
            config.lease = Some(LeaseConfig {
                grace,
                first_within,
            });
        }
        let limits = &mut config.limits;
        limits.max_frame_len = random.length(4_000).max(64);
        limits.max_payload_len = random.length(4_000);
        limits.max_buffered_len = random.length(20_000);
        limits.max_streams = random.within(0..=20);
        limits.max_owed_len = random.length(5_000);
        limits.max_queued_len = random.length(5_000);
        limits.max_one_way = random.within(0..=5);
        limits.max_waiting_requests = random.within(0..=5);
        limits.max_resume_len = random.length(10_000);
        let limits = limits.clone();
        let link = LinkLimits {
            max_frame_len: random.length(4_000).max(64),
        };
        let fragment_len = match config.fragment_len {
            Some(len) => (len.max(Config::MIN_FRAGMENT_LEN) - 3).min(link.max_frame_len),
            None => link.max_frame_len,
        };
        let resumes = config.resume.is_some();
        let leases = config.lease.is_some();
        let (side, session) = if random.once_in(2) {
            let setup = SetupOptions {
                keepalive_interval: const { Millis31::new(100).unwrap() },
                max_lifetime: const { Millis31::new(2_000).unwrap() },
                metadata_mime: String::new(),
                data_mime: String::new(),
                resume_token: resumes.then(|| Bytes::from_static(b"t")),
                ..SetupOptions::default()
            };
            (Side::Client, Session::client(now, config, &setup, link))
        } else {
            (Side::Server, Session::server(now, config, link))
        };
        let mut torment = Self {
            random,
            session,
            referee: Referee::new(side, link.max_frame_len, fragment_len).of_tormented(),
            limits,
            link,
            now,
            keys: Vec::new(),
            stalled: false,
            wire: None,
            asked: false,
            is_detour: false,
            uses_lease: false,
            lease_until: None,
            log: Log::Silent,
        };
        if side == Side::Client {
            torment.agree(resumes, leases);
        }
        torment
    }

    /// Keeps what is said, and shows the end of it in a panic.
    #[must_use]
    pub fn logged(mut self) -> Self {
        self.log = Log::Kept(Vec::new());
        self
    }

    /// Shows on stderr what is said, as it is said.
    #[must_use]
    pub fn aloud(mut self) -> Self {
        self.log = Log::Aloud;
        self
    }

    /// What SETUP has agreed on.
    fn agree(&mut self, resumes: bool, leases: bool) {
        if resumes {
            self.wire = Some(Wire::default());
            self.referee.resumable();
        }
        if leases {
            self.uses_lease = true;
            self.referee.use_leases();
        }
    }

    /// So many steps at most; fewer if somebody chooses them and has no more.
    ///
    /// # Panics
    ///
    /// When a rule or a limit is broken.
    pub fn run(&mut self, steps: usize) {
        if self.session.side() == Side::Server && !self.random.once_in(8) {
            let lease = if self.random.once_in(2) { "L " } else { "" };
            let token = if self.random.once_in(2) {
                " token=t"
            } else {
                ""
            };
            self.hear(&frame(&format!("SETUP {lease}life=2000{token}")));
            self.events();
        }
        for _ in 0..steps {
            if self.random.is_exhausted() {
                break;
            }
            match self.random.within(0..=10) {
                0..=3 => {
                    let bytes = self.any_frame();
                    self.hear(&bytes);
                }
                4 => self.transmit(),
                5 => self.events(),
                6 => while self.session.poll_wake().is_some() {},
                7 if self.random.once_in(20) => self.rarity(),
                7 => self.pass(),
                8 if self.wire.is_some() => self.change_link(),
                _ => self.any_call(),
            }
            self.check();
        }
    }

    /// Ends the session in whatever state it is, after which it holds nothing.
    ///
    /// # Panics
    ///
    /// When it does.
    pub fn end(mut self) {
        // The end, whatever state it is in.
        if self.random.once_in(2) {
            self.session.abort();
        } else {
            self.session.end(CloseReason::Peer);
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

    /// Gives the session a frame, or any bytes.
    pub fn hear(&mut self, bytes: &[u8]) {
        if !self.session.wants_input() {
            return;
        }
        self.asked &= !self.session.is_closed();
        self.log.note(|| format!("> {}", text(bytes)));
        let whole = if self.random.once_in(2) {
            InFrame::Shared(Bytes::copy_from_slice(bytes))
        } else {
            InFrame::Borrowed(bytes)
        };
        if self.asked || self.session.needs_link() {
            self.session.handle_frame(self.now, &whole);
            if std::mem::take(&mut self.asked) {
                self.answered(bytes);
            }
            return;
        }
        let heeds = !self.session.is_closed() && bytes.len() <= self.limits.max_frame_len;
        if heeds && let Some(wire) = &mut self.wire {
            wire.given(bytes);
        }
        if heeds
            && self.uses_lease
            && let Ok(Frame::Lease(lease)) = Frame::decode(bytes)
        {
            let ttl = Duration::from_millis(lease.ttl_ms.into());
            self.lease_until = Some(self.now + ttl);
            let is_over = ttl == Duration::ZERO;
            self.referee
                .leased(if is_over { 0 } else { lease.requests });
        }
        self.referee.given(bytes);
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

    /// What came of an answer to RESUME.
    fn answered(&mut self, bytes: &[u8]) {
        let session = &self.session;
        let frame = Frame::decode(bytes);
        let Some(wire) = &mut self.wire else { return };
        match frame {
            Ok(_) if bytes.len() > self.limits.max_frame_len => assert!(session.is_closed()),
            Ok(Frame::ResumeOk(ok)) => {
                let at = ok.last_received_client.get();
                // With nothing left to do, a session that was to end has ended.
                let goes_on = session.close_reason().is_none_or(CloseReason::is_graceful);
                assert_eq!(goes_on, wire.is_boundary(at), "{at} [C288]");
                wire.resumed(at);
            }
            Ok(Frame::Error(error)) if error.stream_id.is_none() => {
                let goes_on = session.needs_link();
                assert!(session.is_closed() || goes_on, "it was refused");
            }
            _ => assert!(session.is_closed(), "that was no answer"),
        }
    }

    fn any_frame(&mut self) -> Vec<u8> {
        let mut bytes = frame(&self.any_text());
        match self.random.within(0..=99) {
            // Mostly as it is: a malformed frame ends the connection.
            0 => bytes.truncate(self.random.within(0..=bytes.len())),
            1 => {
                let bit = self.random.within(0..=bytes.len() * 8 - 1);
                flip(&mut bytes, bit / 8, 1 << (bit % 8));
            }
            2 => {
                let len = self.random.length(100);
                bytes = self.random.bytes(len);
            }
            // Any flags at all.
            3..=20 => flip(&mut bytes, 5, self.random.within(0..=255)),
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
        let which = self.random.within(0..=flags.len() - 1);
        let flags = flags.get(which).copied().unwrap_or_default();
        let payload = self.any_payload();
        let at = self.any_position();
        if self.asked {
            return match self.random.within(0..=9) {
                0 => format!(
                    "ERROR {}",
                    if n == 1 {
                        "REJECTED_RESUME"
                    } else {
                        "CONNECTION_ERROR"
                    }
                ),
                1 => format!("PAYLOAD {id} {flags} {payload}"),
                _ => format!("RESUME_OK p={at}"),
            };
        }
        match self.random.within(0..=29) {
            0..=2 => format!("REQUEST_RESPONSE {id} {flags} {payload}"),
            3 | 4 => format!("REQUEST_FNF {id} {flags} {payload}"),
            5..=7 => format!("REQUEST_STREAM {id} {flags} n={n} {payload}"),
            8..=10 => format!("REQUEST_CHANNEL {id} {flags} n={n} {payload}"),
            11..=17 => format!("PAYLOAD {id} {flags} {payload}"),
            18..=20 => format!("REQUEST_N {id} n={n}"),
            21 | 22 => format!("CANCEL {id}"),
            23 => format!("ERROR {} APPLICATION_ERROR d=x", id.max(1)),
            24 => format!("KEEPALIVE {flags} p={at} {payload}"),
            25 => format!("KEEPALIVE R p={at} d=x"),
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
                9 => format!("RESUME p={at} q={at}"),
                _ => format!("RESUME_OK p={at}"),
            },
        }
    }

    /// What the session's peer could have received, or could not.
    fn any_position(&mut self) -> u64 {
        let Some(wire) = &self.wire else {
            return self.random.within(0..=2) as u64;
        };
        let frames = self.random.within(0..=wire.len());
        let right = wire.boundary(frames);
        match self.random.within(0..=19) {
            0 => right + 1,
            1 => right.saturating_sub(1),
            2 => 0,
            3 => (1 << 63) - 1,
            _ => right,
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
            let (blocked, fails) = self.mood();
            let progress = self.transmit_one(blocked, fails);
            if progress.is_err() && self.wire.is_some() && self.random.once_in(2) {
                self.lose_link();
            }
            if !matches!(progress, Ok(Progress::Sent)) {
                return;
            }
        }
    }

    fn transmit_one(&mut self, blocked: bool, fails: bool) -> Result<Progress, ()> {
        self.session.tell_time(self.now);
        self.with_link(blocked, fails, |session, send| session.transmit(send))
    }

    fn open_through(&mut self, open: Open) -> Result<StreamKey, Error> {
        let (blocked, fails) = self.mood();
        self.with_link(blocked, fails, |session, send| {
            let opened = session.open_through(open, send);
            opened.map(|(key, _)| key)
        })
    }

    fn send_through(&mut self, key: StreamKey, mut payload: Payload) {
        let (blocked, fails) = self.mood();
        self.with_link(blocked, fails, |session, send| {
            drop(session.send_through(key, &mut payload, send));
        });
    }

    /// Whether the link takes nothing now, and whether it breaks.
    fn mood(&mut self) -> (bool, bool) {
        let blocked = self.stalled || self.random.once_in(10);
        (blocked, self.random.once_in(50))
    }

    /// Calls the session with what gives a frame to the link.
    fn with_link<R>(
        &mut self,
        blocked: bool,
        fails: bool,
        call: impl FnOnce(&mut Session, &mut dyn FnMut(&OutFrame<'_>) -> Poll<Result<(), ()>>) -> R,
    ) -> R {
        let (referee, log, wire) = (&mut self.referee, &mut self.log, &mut self.wire);
        call(&mut self.session, &mut |frame| {
            if fails {
                return Poll::Ready(Err(()));
            }
            if blocked {
                return Poll::Pending;
            }
            let bytes = frame.to_vec();
            log.note(|| format!("< {}", text(&bytes)));
            // What is sent again was judged when it was sent first.
            let is_new = wire.as_mut().is_none_or(|wire| wire.sent(&bytes));
            if is_new {
                referee.sends(&bytes);
            }
            Poll::Ready(Ok(()))
        })
    }

    // ----- links ----------------------------------------------------------------

    fn lose_link(&mut self) {
        self.log.note(|| "-- the link is lost".to_owned());
        self.session.handle_disconnect(self.now, CloseReason::Peer);
        self.lost_link();
    }

    fn lost_link(&mut self) {
        self.asked = false;
        if let Some(wire) = &mut self.wire {
            wire.cut();
        }
    }

    fn change_link(&mut self) {
        if self.session.side() == Side::Server {
            if self.random.once_in(2) {
                self.lose_link();
            }
            if self.random.once_in(2) {
                self.resume_server();
            }
        } else if !self.session.needs_link() {
            self.lose_link();
        } else {
            self.resume_client();
        }
    }

    fn resume_client(&mut self) {
        self.log.note(|| "-- a new link".to_owned());
        self.session.resume(self.now, self.link);
        self.referee.another_link();
        self.lease_until = None;
        let sent = self.session.stats().frames_sent;
        // What it says first tells what it waits for.
        let progress = self.transmit_one(false, false);
        assert_eq!(progress, Ok(Progress::Sent), "RESUME or SETUP");
        assert_eq!(self.session.stats().frames_sent, sent + 1);
        // One that starts again from SETUP awaits no answer.
        self.asked = self.wire.as_mut().is_some_and(Wire::has_asked);
    }

    fn resume_server(&mut self) {
        let Some(wire) = &self.wire else { return };
        let given = wire.total_given();
        let first = match self.random.within(0..=9) {
            0 => given + 1,
            1 => 0,
            _ => given,
        };
        let last = self.any_position();
        let request = ResumeRequest {
            token: Bytes::from_static(b"t"),
            last_received_server: position(last),
            first_available_client: position(first),
        };
        self.log.note(|| format!("-- RESUME p={last} q={first}"));
        let was_over = self.session.is_closed();
        let had_link = !self.session.needs_link();
        let accepted = self.session.accept_resume(self.now, &request, self.link);
        let Some(wire) = &mut self.wire else { return };
        let fits = wire.is_boundary(last) && first <= given;
        assert_eq!(accepted.is_ok(), fits && !was_over, "[C294]");
        match accepted {
            Ok(()) => {
                wire.resumed(last);
                self.referee.another_link();
                self.lease_until = None;
            }
            // With a link it may be an older RESUME than the one that led to it.
            Err(_) => assert!(
                had_link || self.session.is_closed(),
                "they never will agree"
            ),
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
                Event::Setup(_) if self.random.once_in(8) => {
                    self.session.refuse(&Failure::application("no"));
                }
                Event::Setup(setup) => {
                    self.agree(setup.resume_token.is_some(), setup.lease);
                    self.session.accept(self.now);
                }
                Event::Resume(_) => {
                    self.is_detour = true;
                    match self.random.once_in(2) {
                        true => self.session.refuse(&Failure::rejected("no")),
                        false => self.session.hand_over(),
                    }
                }
                Event::LeaseDue => self.grant(),
                _ => {}
            }
        }
    }

    fn grant(&mut self) {
        let _ = self.session.lease_load(self.now);
        let requests = match self.random.within(0..=3) {
            0 => 0,
            1 => u32::MAX,
            n => u32::try_from(n).unwrap_or(0),
        };
        let ttl = Duration::from_millis(self.random.length(2_000) as u64);
        let grant = LeaseGrant::new(requests, ttl);
        let len = self.random.length(5_000);
        let grant = match self.random.within(0..=9) {
            0 => grant.with_metadata(self.random.bytes(len)),
            1..=3 => grant.renew_after(2),
            _ => grant,
        };
        if self.session.grant_lease(self.now, &grant).is_err() {
            let _ = self.session.grant_lease(self.now, &LeaseGrant::new(1, ttl));
        }
    }

    fn pass(&mut self) {
        let millis = self.random.length(300) as u64;
        self.now += Duration::from_millis(millis);
        let had_link = !self.session.needs_link();
        self.session.handle_timeout(self.now);
        if had_link && self.session.needs_link() {
            self.lost_link();
        }
        if self.lease_until.is_some_and(|until| self.now >= until) {
            self.lease_until = None;
            self.referee.leased(0);
        }
        self.stalled = self.random.once_in(3);
    }

    fn rarity(&mut self) {
        match self.random.within(0..=2) {
            0 => self.session.close(self.now),
            1 if self.session.side() == Side::Client => self.session.accept(self.now),
            _ => self.session.refuse(&Failure::rejected("no")),
        }
    }

    /// A key in use, one that was, or one that never was.
    fn any_key(&mut self) -> StreamKey {
        if self.keys.is_empty() || self.random.once_in(20) {
            return StreamKey {
                slot: self.random.within(0..=30),
                id: stream_id(self.random.within(1..=20)),
            };
        }
        let which = self.random.within(0..=self.keys.len() - 1);
        self.keys.get(which).copied().expect("it is one of them")
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
            n => u32::try_from(n)
                .ok()
                .and_then(Demand::new)
                .expect("1 ..= 5"),
        }
    }

    fn any_call(&mut self) {
        let key = self.any_key();
        match self.random.within(0..=14) {
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
                let opened = match self.random.once_in(2) {
                    true => self.open_through(open),
                    false => self.session.open(open),
                };
                if let Ok(key) = opened {
                    self.keys.push(key);
                }
            }
            1..=3 => drop(self.session.poll_take(key)),
            4 | 5 => {
                let payload = self.payload();
                match self.random.once_in(2) {
                    true => self.send_through(key, payload),
                    false => drop(self.session.send(key, payload)),
                }
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
            14 => {
                let mut batch = Batch::default();
                drop(self.session.poll_take_batch(key, &mut batch));
                while batch.pop().is_some() {
                    if batch.is_due() && self.random.once_in(2) {
                        self.session.settle_batch(key, &mut batch);
                    }
                }
                if self.random.once_in(2) {
                    self.session.settle_batch(key, &mut batch);
                }
            }
            _ => drop(self.session.poll_granted(key)),
        }
    }

    /// Only a channel's requester may fail its stream, and the key does not say.
    fn opened_here(&self, key: StreamKey) -> bool {
        key.id.is_client() == (self.session.side() == Side::Client)
    }

    // ----- what has to hold -------------------------------------------------------

    /// Holds the session against its limits, and its books against each other.
    ///
    /// # Panics
    ///
    /// When they do not agree.
    pub fn check(&self) {
        self.session.assert_consistent();
        let (books, limits) = (self.session.books(), &self.limits);
        assert!(books.buffered <= limits.max_buffered_len, "{books:?}");
        let frame = limits.max_frame_len + 100;
        assert!(books.owed <= limits.max_owed_len + frame, "{books:?}");
        assert!(self.wire.is_some() || !self.session.needs_link());
        let theirs = self.session.streams_open() - self.session.in_flight();
        assert!(theirs <= limits.max_streams, "{theirs} streams");
        assert!(self.session.one_way_in_work() <= 2 * limits.max_one_way);
        let stats = self.session.stats();
        let most = limits.max_resume_len + self.link.max_frame_len + 64;
        assert!(
            stats.resume_len <= most,
            "{} bytes to resume",
            stats.resume_len
        );
        // A server waits for as long as SETUP says, and both do what leases say.
        let knows_all = self.session.side() == Side::Client && !self.uses_lease;
        if let Some(at) = self.session.poll_timeout().filter(|_| knows_all) {
            assert!(at < self.now + Duration::from_secs(60));
        }
    }
}

fn stream_id(n: usize) -> StreamId {
    let n = u32::try_from(n).ok().and_then(StreamId::new);
    n.expect("it is above 0")
}

fn flip(bytes: &mut [u8], at: usize, bits: usize) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= u8::try_from(bits).unwrap_or(0xFF);
    }
}
