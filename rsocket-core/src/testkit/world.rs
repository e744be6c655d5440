//! Two sessions, one virtual clock, a link between them, and applications on
//! both sides: a whole connection's life from a seed.
#![expect(
    clippy::indexing_slicing,
    reason = "an index that is wrong fails the test, as it should"
)]

mod actors;
mod links;
mod script;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;

use self::{
    actors::{Actor, ActorState, Job},
    links::Links,
    script::{HowEnded, Script, content},
};
use super::{
    Random,
    link::{Arrival, LinkFaults, Wire},
    referee::Referee,
};
use crate::{
    Payload,
    error::{CloseReason, Error, Failure},
    frame::{Interaction, Millis31},
    proto::{
        Config, DemandPolicy, Event, LeaseConfig, LeaseGrant, Limits, Open, Progress,
        ResumeOptions, Session, SetupOptions, Side, Stats, StreamKey, Take, Wake,
    },
    transport::{InFrame, Limits as LinkLimits, OutFrame, TransportError, TransportErrorKind},
};

/// What a seed made of a connection's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Requests that were opened, on both sides.
    pub requests: usize,
    /// Payloads that applications took, requests included.
    pub payloads: usize,
    /// Frames that both sides sent.
    pub frames: u64,
    /// Frames that both sides ignored.
    pub ignored: u64,
    /// Requests and pushes that were refused or dropped for a limit.
    pub refused: u64,
    /// How often the client's session went on over a new link.
    pub resumptions: u64,
    /// Frames that both sides sent again after that.
    pub resent: u64,
}

/// Lives through a connection and checks that all is well:
///
/// - every payload arrives once, in order, whole, unless somebody ended its
///   stream, and then the other side learns how;
/// - no side sends what it may not ([`Referee`]);
/// - with leases, which some have, nothing that was granted is rejected;
/// - nobody waits for ever: woken by nothing but [`Session::poll_wake`], all
///   applications come to their end;
/// - at the end nothing is open and nothing is held.
///
/// # Panics
///
/// When something is not well; the seed is printed.
pub fn live_through(seed: u64) -> Outcome {
    let _note = SeedNote(seed);
    let fate = Fate::any(&mut Random::new(!seed));
    World::new(seed, fate).run()
}

/// As [`live_through`], for a session that is resumed: its links break at any
/// moment, with all that is under way; one side may notice long before the
/// other. All the same every payload arrives once and in order.
///
/// # Panics
///
/// Likewise.
pub fn live_through_cuts(seed: u64) -> Outcome {
    let _note = SeedNote(seed);
    let mut random = Random::new(!seed);
    let close = random.once_in(3).then(|| random.within(0..=1));
    World::new(seed, Fate::Cuts { close }).run()
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

/// What happens to the connection before its applications are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Peace,
    Close(usize),
    Abort(usize),
    Loss,
    Refusal,
    /// Links break and are made anew; one side may close.
    Cuts {
        close: Option<usize>,
    },
}

impl Fate {
    fn any(random: &mut Random) -> Self {
        match random.within(0..=9) {
            0 => Self::Close(random.within(0..=1)),
            1 => Self::Abort(random.within(0..=1)),
            2 | 3 => Self::Loss,
            4 if random.once_in(4) => Self::Refusal,
            _ => Self::Peace,
        }
    }
}

#[derive(Debug)]
struct World {
    random: Random,
    now: Instant,
    fate: Fate,
    fate_at: usize,
    ends: [End; 2],
    links: Links,
    scripts: Vec<Script>,
    actors: Vec<Actor>,
    /// Those of them that can go on.
    running: Vec<usize>,
}

/// One side: the session and what its driver knows.
#[derive(Debug)]
struct End {
    session: Session,
    config: Config,
    link: LinkLimits,
    limits: Limits,
    referee: Referee,
    readers: HashMap<usize, usize>,
    writers: HashMap<usize, usize>,
    deciding: bool,
    accepted: bool,
    closed: Option<CloseReason>,
    wire_ended: bool,
    to_open: Vec<usize>,
    to_push: u8,
    pushed: u8,
    got_pushes: Vec<u8>,
    pushes_in_work: usize,
}

impl World {
    /// More steps than any life needs.
    const STEPS: usize = 300_000;

    fn new(seed: u64, fate: Fate) -> Self {
        let mut random = Random::new(seed);
        let now = Instant::now();
        let resumable = matches!(fate, Fate::Cuts { .. });
        let leased = random.once_in(3) && !resumable;
        let mut scripts = Vec::new();
        let mut ends = [Side::Client, Side::Server].map(|side| {
            let by = usize::from(side == Side::Server);
            let requests = random.length(24) - 1;
            let first = scripts.len();
            scripts.extend((0..requests).map(|_| Script::new(&mut random, by)));
            let to_open = (first..scripts.len()).rev().collect();
            End::new(&mut random, side, now, to_open, leased, resumable)
        });
        let faults = [0, 1].map(|_| LinkFaults {
            capacity: random.length(20_000),
            refuse_once_in: random.within(0..=4),
            delay: Duration::from_micros(random.length(20_000) as u64),
        });
        if fate == Fate::Refusal {
            for end in &mut ends {
                end.to_push = 0;
            }
        }
        let links = Links::new(&mut random, faults, resumable);
        Self {
            fate,
            fate_at: random.length(4_000),
            random,
            now,
            ends,
            links,
            scripts,
            actors: Vec::new(),
            running: Vec::new(),
        }
    }

    fn run(mut self) -> Outcome {
        for step in 0..Self::STEPS {
            if step == self.fate_at {
                self.meet_fate();
            }
            self.random_step();
            self.check_limits();
            if step > self.fate_at && self.random.once_in(500) {
                break;
            }
        }
        self.links.calm();
        self.come_to_rest();
        self.wait_for_the_lost();
        self.assert_all_done();
        self.links.hold();
        self.stay_alive();
        self.end_well();
        self.sum_up()
    }

    // ----- what happens ------------------------------------------------------

    fn random_step(&mut self) -> bool {
        if self.mend(false) {
            return true;
        }
        let side = self.random.within(0..=1);
        match self.random.within(0..=11) {
            0..=2 => self.transmit(side),
            3..=5 => self.deliver(side),
            6 => self.take_event(side),
            7 => self.wake(side),
            8 | 9 => self.act(),
            10 => self.start(side),
            _ => {
                let pause = Duration::from_micros(self.random.length(3_000) as u64);
                self.now += pause;
                self.keep_time(side)
            }
        }
    }

    fn meet_fate(&mut self) {
        match self.fate {
            Fate::Peace | Fate::Refusal => {}
            Fate::Close(side) | Fate::Cuts { close: Some(side) } => {
                self.ends[side].session.close(self.now);
            }
            Fate::Cuts { close: None } => {}
            Fate::Abort(side) => self.ends[side].session.abort(),
            Fate::Loss => self.links.lose_all(),
        }
    }

    /// Everything that can happen happens, until nothing more can.
    fn come_to_rest(&mut self) {
        for _ in 0..Self::STEPS {
            let mut busy = self.mend(true);
            for side in [0, 1] {
                busy |= self.transmit(side);
                busy |= self.deliver(side);
                busy |= self.take_event(side);
                busy |= self.wake(side);
                busy |= self.start(side);
                busy |= self.keep_time(side);
            }
            for _ in 0..self.running.len() {
                busy |= self.act();
            }
            self.check_limits();
            if busy {
                continue;
            }
            // What has arrived and is not read is held back for good.
            match self.links.next_arrival(self.now) {
                Some(at) => self.now = at,
                None => match self.next_lease() {
                    Some(at) => self.now = self.now.max(at),
                    None => return,
                },
            }
        }
        panic!("it does not come to rest");
    }

    /// When something may change for requests that wait for a lease.
    fn next_lease(&self) -> Option<Instant> {
        let waits = |end: &End| end.session.stats().requests_waiting > 0;
        let timeouts = self
            .ends
            .iter()
            .filter_map(|end| end.session.poll_timeout());
        timeouts.min().filter(|_| self.ends.iter().any(waits))
    }

    fn transmit(&mut self, side: usize) -> bool {
        let end = &mut self.ends[side];
        let (random, now) = (&mut self.random, self.now);
        let Some(wire) = self.links.sending(side) else {
            let news = end.closed.is_some() && !end.wire_ended;
            end.wire_ended |= news;
            return news;
        };
        let referee = &mut end.referee;
        let mut busy = false;
        end.session.tell_time(now);
        for _ in 0..random.length(8) {
            let Ok(progress) = end
                .session
                .transmit(|frame| offer(wire, referee, now, random, frame));
            match progress {
                Progress::Sent => busy = true,
                Progress::Idle => {
                    if end.closed.is_some() && !end.wire_ended {
                        end.wire_ended = true;
                        wire.end();
                        busy = true;
                    }
                    break;
                }
                Progress::Blocked => break,
            }
        }
        self.audit(side);
        busy
    }

    fn deliver(&mut self, side: usize) -> bool {
        let end = &mut self.ends[side];
        let replaceable = side == 1 && !end.accepted && self.links.are_mortal();
        let Some(wire) = self.links.receiving(side) else {
            return false;
        };
        let mut busy = false;
        for _ in 0..self.random.length(8) {
            if end.session.needs_link() {
                break;
            }
            if end.closed.is_some() {
                // It reads on, so that the other side can finish writing.
                busy |= matches!(wire.receive(self.now), Arrival::Frame(_));
                continue;
            }
            if end.session.is_closed() || !end.session.wants_input() {
                break;
            }
            match wire.receive(self.now) {
                Arrival::Frame(bytes) => {
                    busy = true;
                    let late = end.referee.late();
                    let before = end.session.stats();
                    end.referee.given(&bytes);
                    let frame = if self.random.once_in(2) {
                        InFrame::Shared(Bytes::copy_from_slice(&bytes))
                    } else {
                        InFrame::Borrowed(&bytes)
                    };
                    end.session.handle_frame(self.now, &frame);
                    let after = end.session.stats();
                    let refused = |stats: Stats| stats.requests_rejected + stats.one_way_dropped;
                    if refused(after) > refused(before) {
                        end.referee.refused(&bytes);
                    }
                    let ignored = after.frames_ignored - before.frames_ignored;
                    let late = end.referee.late() - late;
                    assert!(
                        ignored <= late,
                        "side {side} ignored {}",
                        super::text(&bytes)
                    );
                }
                Arrival::Nothing(_) => break,
                Arrival::End | Arrival::Lost if replaceable => {
                    self.forget_setup();
                    return true;
                }
                Arrival::End => {
                    end.session.handle_disconnect(self.now, CloseReason::Peer);
                    busy = true;
                }
                Arrival::Lost => {
                    let error = TransportError::new(TransportErrorKind::Lost, "cut");
                    let reason = CloseReason::Transport(Arc::new(error));
                    end.session.handle_disconnect(self.now, reason);
                    busy = true;
                }
            }
        }
        if end.session.needs_link() {
            self.links.part(side);
        }
        self.audit(side);
        busy
    }

    /// Checks the books now and then: it takes long.
    fn audit(&mut self, side: usize) {
        if self.random.once_in(16) {
            self.ends[side].session.assert_consistent();
        }
    }

    fn keep_time(&mut self, side: usize) -> bool {
        let end = &mut self.ends[side];
        let due = end.session.poll_timeout().is_some_and(|at| at <= self.now);
        if due {
            end.session.handle_timeout(self.now);
            if end.session.needs_link() {
                self.links.part(side);
            }
        }
        due
    }

    fn wake(&mut self, side: usize) -> bool {
        let end = &mut self.ends[side];
        let Some(wake) = end.session.poll_wake() else {
            return false;
        };
        let waiting = match wake {
            Wake::Reader(slot) => end.readers.remove(&slot),
            Wake::Writer(slot) => end.writers.remove(&slot),
        };
        if let Some(actor) = waiting.and_then(|actor| self.actors.get_mut(actor))
            && actor.state == ActorState::Waits
        {
            actor.state = ActorState::Runs;
            self.running.extend(waiting);
        }
        true
    }

    fn take_event(&mut self, side: usize) -> bool {
        let refuse = self.fate == Fate::Refusal;
        let end = &mut self.ends[side];
        if end.deciding {
            end.deciding = false;
            match refuse {
                true => end.session.refuse(&Failure::rejected("not today")),
                false => {
                    end.session.accept(self.now);
                    end.accepted = true;
                }
            }
            return true;
        }
        if end.pushes_in_work > 0 && self.random.once_in(2) {
            end.pushes_in_work -= 1;
            end.session.metadata_push_done();
            return true;
        }
        if !end.session.wants_work() {
            return false;
        }
        let Some(event) = end.session.poll_event() else {
            return false;
        };
        match event {
            Event::Setup(_) => end.deciding = true,
            Event::Resume(_) => panic!("on a link that has a session"),
            Event::Request {
                key,
                interaction,
                payload,
            } => {
                let script = self.started(side, interaction, &payload);
                self.scripts[script].up.received = 1;
                let job = match interaction {
                    Interaction::FireAndForget => Job::Hold,
                    _ => Job::Write { down: true },
                };
                self.cast(side, key, script, job);
            }
            Event::Channel { key } => {
                let Take::Payload(first) = self.ends[side].session.poll_take(key) else {
                    panic!("a channel comes with its first payload");
                };
                // Demand can be set until the first payload is taken; taking it
                // first shows which script this is, so the default is used.
                let script = self.started(side, Interaction::RequestChannel, &first);
                let flow = &mut self.scripts[script].up;
                flow.received = 1;
                flow.demand = DemandPolicy::default();
                self.cast(side, key, script, Job::Read { down: false });
                self.cast(side, key, script, Job::Write { down: true });
            }
            Event::MetadataPush(metadata) => {
                end.pushes_in_work += 1;
                end.got_pushes.push(metadata[0]);
            }
            Event::LeaseDue => {
                let load = end.session.lease_load(self.now);
                assert_eq!(
                    load.rejected, 0,
                    "side {side} sent more than it was granted"
                );
                let requests = small(self.random.length(8)) - 1;
                let ttl = Duration::from_micros(self.random.length(50_000) as u64);
                let mut grant = LeaseGrant::new(requests, ttl);
                if self.random.once_in(3) {
                    grant = grant.renew_after(small(self.random.length(4)));
                }
                let granted = end.session.grant_lease(self.now, &grant);
                granted.expect("it has no metadata that could be too long");
            }
            Event::Closed(reason) => {
                assert!(end.closed.is_none(), "it ends once");
                end.closed = Some(reason);
            }
        }
        true
    }

    /// The responder is told of a request: checks that it is one, and new.
    fn started(&mut self, side: usize, interaction: Interaction, payload: &Payload) -> usize {
        let tag = payload.data().first_chunk::<4>().expect("a tag");
        let index = u32::from_be_bytes(*tag) as usize;
        let script = &mut self.scripts[index];
        assert_eq!(*payload, content(index, false, 0), "script {index}");
        assert_eq!(script.interaction, interaction);
        assert_eq!(script.by, 1 - side);
        assert!(!script.started, "script {index} came twice");
        assert!(!script.rejected, "a rejected request was served");
        script.started = true;
        index
    }

    fn cast(&mut self, side: usize, key: StreamKey, script: usize, job: Job) {
        self.running.push(self.actors.len());
        self.actors.push(Actor {
            side,
            key,
            script,
            job,
            state: ActorState::Runs,
        });
    }

    /// Opens a request, or pushes metadata.
    fn start(&mut self, side: usize) -> bool {
        let end = &mut self.ends[side];
        if side == 1 && !end.accepted && self.links.are_mortal() {
            return false; // Another session may take its place.
        }
        if end.to_push > 0 && self.random.once_in(2) {
            end.to_push -= 1;
            if end.session.has_push_room() {
                let padding = self.random.length(2_000);
                let metadata = vec![end.pushed; padding];
                if end.session.metadata_push(&metadata).is_ok() {
                    end.pushed += 1;
                }
            }
            return true;
        }
        let Some(index) = end.to_open.pop() else {
            return false;
        };
        let script = &mut self.scripts[index];
        let interaction = script.interaction;
        let complete = interaction == Interaction::RequestChannel
            && script.up.planned == 1
            && script.up.end == HowEnded::Completed;
        let open = Open {
            interaction,
            payload: content(index, false, 0),
            demand: script.down.demand,
            complete,
        };
        let (random, now) = (&mut self.random, self.now);
        let opened = match self.links.sending(side) {
            Some(wire) if random.once_in(2) => {
                let send = |frame: &OutFrame<'_>| offer(wire, &mut end.referee, now, random, frame);
                end.session.open_through(open, send).map(|(key, _)| key)
            }
            _ => end.session.open(open),
        };
        let key = match opened {
            Ok(key) => key,
            Err(Error::Closed(_)) => return true,
            Err(error) => panic!("script {index} cannot be opened: {error}"),
        };
        script.opened = true;
        script.up.sent = 1;
        if complete || interaction != Interaction::RequestChannel {
            script.up.ended = Some(HowEnded::Completed);
            end.referee.has_sent(key.id);
        }
        self.cast(side, key, index, Job::Read { down: true });
        if interaction == Interaction::RequestChannel {
            self.cast(side, key, index, Job::Write { down: false });
        }
        true
    }

    // ----- what has to hold ----------------------------------------------------

    fn check_limits(&self) {
        for end in &self.ends {
            let books = end.session.books();
            let limits = &end.limits;
            assert!(books.buffered <= limits.max_buffered_len, "{books:?}");
            assert!(books.owed <= limits.max_owed_len + 5_000, "{books:?}");
            assert!(end.session.one_way_in_work() <= 2 * limits.max_one_way);
        }
    }

    /// Nobody waits: who holds a handle would have been told.
    fn assert_all_done(&self) {
        for actor in &self.actors {
            assert!(
                actor.state == ActorState::Done,
                "stuck: {actor:?}\n{:#?}\n{:?}",
                self.scripts[actor.script],
                (self.ends.each_ref().map(|end| &end.session), &self.links),
            );
        }
        let over = self.ends.iter().any(|end| end.closed.is_some());
        for (index, script) in self.scripts.iter().enumerate() {
            let served = script.started || script.rejected || script.down.quit;
            let one_way = script.interaction == Interaction::FireAndForget;
            let stats = self.ends[1 - script.by].session.stats();
            // Those who gave it up do not hear that it was refused.
            let refused = match one_way {
                true => stats.one_way_dropped > 0,
                false => stats.requests_rejected > 0 && script.disturbed(),
            };
            assert!(
                served || over || !script.opened || refused,
                "script {index} was lost: {script:?}"
            );
        }
        for side in [0, 1] {
            let end = &self.ends[side];
            let in_order = end.got_pushes.is_sorted();
            assert!(in_order, "pushes out of order: {:?}", end.got_pushes);
            let sent = u64::from(self.ends[1 - side].pushed);
            let got = end.got_pushes.len() as u64;
            let dropped = end.session.stats().one_way_dropped;
            // Those that are under way when a link breaks are lost [C304].
            let may_be_lost = over || self.links.are_mortal();
            assert!(
                got <= sent && (may_be_lost || got + dropped >= sent),
                "pushes lost"
            );
            let mut pushes = end.got_pushes.clone();
            pushes.dedup();
            assert_eq!(pushes.len() as u64, got, "a push came twice");
        }
    }

    /// For some time nothing happens but KEEPALIVE.
    fn stay_alive(&mut self) {
        let over = |world: &Self| world.ends.iter().any(|end| end.closed.is_some());
        if over(self) {
            return;
        }
        for _ in 0..20 {
            self.now += Duration::from_secs(1);
            self.come_to_rest();
        }
        assert!(!over(self), "it did not stay alive");
        for end in &self.ends {
            assert_eq!(end.session.streams_open(), 0);
        }
    }

    /// One side closes; then both are done, and nothing is left.
    fn end_well(&mut self) {
        let side = self.random.within(0..=1);
        self.ends[side].session.close(self.now);
        self.come_to_rest();
        self.wait_for_the_lost();
        for (side, end) in self.ends.iter().enumerate() {
            let Some(reason) = &end.closed else {
                panic!(
                    "side {side} is not closed: {:?}, {:?}, {:#?}",
                    end.session.books(),
                    self.fate,
                    self.links
                );
            };
            let refused = matches!(
                reason,
                CloseReason::Refused(_) | CloseReason::RefusedClient(_)
            );
            match self.fate {
                Fate::Peace => assert!(reason.is_graceful(), "side {side}: {reason}"),
                // A server that was not asked yet refuses.
                Fate::Close(_) => assert!(reason.is_graceful() || refused, "{reason}"),
                Fate::Refusal => assert!(refused, "side {side}: {reason}"),
                Fate::Cuts { close: None } => {
                    assert!(reason.is_graceful(), "side {side}: {reason}");
                }
                Fate::Cuts { close: Some(_) } => {
                    let gone = match reason {
                        // The server closed it while it had no link.
                        CloseReason::ResumeRefused(_) => side == 0,
                        _ => side == 1 && self.links.lost_goodbye(),
                    };
                    let graceful = reason.is_graceful() || refused || gone;
                    assert!(graceful, "side {side}: {reason}");
                }
                Fate::Abort(_) | Fate::Loss => {}
            }
            assert_eq!(end.session.streams_open(), 0, "side {side}");
            let books = end.session.books();
            let left = (books.buffered, books.queued, books.owed);
            assert_eq!(left, (0, 0, 0), "side {side}");
            end.session.assert_consistent();
            assert_eq!(end.session.stats().streams_misbehaved, 0, "side {side}");
            assert_eq!(end.session.poll_timeout(), None);
        }
        self.assert_all_done();
    }

    fn sum_up(&self) -> Outcome {
        let mut outcome = Outcome {
            requests: self.scripts.iter().filter(|script| script.opened).count(),
            ..Outcome::default()
        };
        for script in &self.scripts {
            outcome.payloads += script.up.received + script.down.received;
        }
        for end in &self.ends {
            let stats = end.session.stats();
            outcome.frames += stats.frames_sent;
            outcome.ignored += stats.frames_ignored;
            outcome.refused += stats.requests_rejected + stats.one_way_dropped;
            outcome.resent += stats.frames_resent;
        }
        outcome.resumptions = self.ends[0].session.stats().resumptions;
        outcome
    }
}

/// A few.
fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl End {
    fn new(
        random: &mut Random,
        side: Side,
        now: Instant,
        to_open: Vec<usize>,
        leased: bool,
        resumable: bool,
    ) -> Self {
        let mut limits = Limits::default();
        if random.once_in(3) {
            limits.max_queued_len = random.length(20_000);
        }
        if random.once_in(5) {
            limits.max_streams = random.within(0..=8);
        }
        if random.once_in(5) {
            limits.max_one_way = random.within(0..=3);
        }
        if resumable && random.once_in(3) {
            limits.max_resume_len = random.length(20_000);
        }
        if random.once_in(5) {
            // What one side owes may hold up its reading; with less than all
            // that both can owe, both would hold up each other.
            limits.max_owed_len = 30_000;
        }
        let fragment_len = random.once_in(2).then(|| random.within(0..=300));
        let mut link = LinkLimits::default();
        if fragment_len.is_some() && random.once_in(2) {
            link.max_frame_len = random.within(64..=400).max(2_100);
        }
        let config = Config {
            fragment_len,
            limits: limits.clone(),
            drain_timeout: Duration::from_secs(3_600),
            resume: resumable.then_some(ResumeOptions {
                session_timeout: links::SESSION_TIMEOUT,
                ..ResumeOptions::default()
            }),
            lease: leased.then(|| {
                // However long something takes: what was granted is served.
                LeaseConfig {
                    grace: Duration::from_secs(36_000),
                    ..LeaseConfig::default()
                }
            }),
        };
        let millis = |n| Millis31::new(n).expect("some milliseconds");
        let setup = SetupOptions {
            keepalive_interval: millis(5_000),
            max_lifetime: millis(3_600_000),
            resume_token: resumable.then(|| Bytes::from_static(b"world")),
            ..SetupOptions::default()
        };
        let max_len = match fragment_len {
            Some(len) => (len.max(64) - 3).min(link.max_frame_len),
            None => link.max_frame_len,
        };
        let session = match side {
            Side::Client => Session::client(now, config.clone(), &setup, link),
            Side::Server => Session::server(now, config.clone(), link),
        };
        let mut referee = Referee::new(side, link.max_frame_len, max_len);
        if resumable {
            referee = referee.of_resumable();
        }
        Self {
            session,
            config,
            link,
            limits,
            referee,
            accepted: false,
            readers: HashMap::new(),
            writers: HashMap::new(),
            deciding: false,
            closed: None,
            wire_ended: false,
            to_open,
            to_push: u8::try_from(random.within(0..=5)).unwrap_or(0),
            pushed: 0,
            got_pushes: Vec::new(),
            pushes_in_work: 0,
        }
    }
}

/// Gives a frame to a link, which may not take it.
fn offer(
    wire: &mut Wire,
    referee: &mut Referee,
    now: Instant,
    random: &mut Random,
    frame: &OutFrame<'_>,
) -> Poll<Result<(), Infallible>> {
    let bytes = frame.to_vec();
    if !wire.send(now, random, bytes.clone()) {
        return Poll::Pending;
    }
    referee.sends(&bytes);
    Poll::Ready(Ok(()))
}
