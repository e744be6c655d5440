//! Sessions whose processes die, in virtual time: what is stored at that moment
//! is all that is left, and the peer goes on with it.
//!
//! Two sessions, a link, and applications on both sides that remember what they
//! have done with. A process dies at any moment, also while a batch is on its
//! way to the store, which then has it or has not. Every payload of a stream or
//! channel arrives at its application exactly once, in order.
//!
//! `RSOCKET_TEST_SEED=n` lives through one seed again;
//! `RSOCKET_TEST_COLD=n` lives through the first `n`.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "what is wrong with a test fails it"
)]

use std::{collections::VecDeque, convert::Infallible, task::Poll, time::Instant};

use bytes::Bytes;
use rsocket_core::{
    CloseReason, Demand, DemandPolicy, Payload,
    frame::Interaction,
    proto::{
        Capacity, Config, Event, Open, ResumeOptions, Role, Session, SetupOptions, StreamKey, Take,
    },
    resume::{Batch, Key, MemoryStore, ResumeStore},
    testkit::{Random, seeds},
    transport::{InFrame, Limits as LinkLimits},
};

const TOKEN: &[u8] = b"token";
const LINK: LinkLimits = LinkLimits {
    max_frame_len: 1 << 20,
};

/// One request, and what both applications have durably done about it.
#[derive(Debug)]
struct Script {
    by: usize,
    interaction: Interaction,
    /// Towards the responder, the request of a channel included, and back.
    flows: [Flow; 2],
    opened: bool,
    /// The requester has enough after so many.
    quit_after: Option<u64>,
    quit: bool,
}

#[derive(Debug)]
struct Flow {
    planned: u64,
    /// What the receiver is done with.
    cursor: u64,
    ended: bool,
}

/// A stream in the hands of a process.
#[derive(Debug)]
struct Hand {
    script: usize,
    key: StreamKey,
    role: Role,
    reader: bool,
    writer: bool,
}

struct End {
    session: Session,
    config: Config,
    store: MemoryStore,
    /// On its way to the store.
    batch: Option<(u64, Batch)>,
    hands: Vec<Hand>,
    crashes: usize,
}

struct World {
    random: Random,
    now: Instant,
    ends: [End; 2],
    /// To the side of that index.
    wires: [VecDeque<Vec<u8>>; 2],
    linked: bool,
    scripts: Vec<Script>,
}

#[derive(Debug, Default)]
struct Outcome {
    payloads: u64,
    crashes: usize,
    cuts: usize,
    resent: u64,
    skipped: u64,
}

fn config(random: &mut Random) -> Config {
    let mut config = Config {
        fragment_len: random.once_in(2).then(|| random.within(64..=200)),
        ..Config::default()
    };
    let mut resume = ResumeOptions::default();
    resume.durable = true;
    config.resume = Some(resume);
    if random.once_in(2) {
        config.limits.max_resume_len = random.within(1..=2000);
    }
    config
}

fn text(script: usize, direction: usize, index: u64, random: &mut Random) -> Payload {
    let padding = match random.within(0..=3) {
        0 => random.within(0..=600),
        _ => random.within(0..=30),
    };
    let text = format!("{script}/{direction}/{index}/{}", "x".repeat(padding));
    let payload = Payload::new(text);
    match random.once_in(4) {
        true => payload.with_metadata(vec![7; random.within(0..=200)]),
        false => payload,
    }
}

fn parse(payload: &Payload) -> (usize, usize, u64) {
    let text = payload.data_utf8().unwrap();
    let mut parts = text.split('/');
    let mut next = || parts.next().unwrap().parse::<u64>().unwrap();
    let (script, direction) = (next(), next());
    (
        usize::try_from(script).unwrap(),
        usize::try_from(direction).unwrap(),
        next(),
    )
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let now = Instant::now();
        let setup = SetupOptions {
            resume_token: Some(Bytes::from_static(TOKEN)),
            ..SetupOptions::default()
        };
        let configs = [config(&mut random), config(&mut random)];
        let client = Session::client(now, configs[0].clone(), &setup, LINK);
        let server = Session::server(now, configs[1].clone(), LINK);
        let end = |session, config| End {
            session,
            config,
            store: MemoryStore::new(),
            batch: None,
            hands: Vec::new(),
            crashes: 0,
        };
        let [first, second] = configs;
        let scripts = (0..random.within(1..=8))
            .map(|_| {
                let interaction = match random.within(0..=4) {
                    0 => Interaction::RequestResponse,
                    1 | 2 => Interaction::RequestStream,
                    _ => Interaction::RequestChannel,
                };
                let mut planned = |from| random.within(from..=40) as u64;
                let (up, down) = match interaction {
                    Interaction::RequestResponse => (0, 1),
                    Interaction::RequestStream => (0, planned(0)),
                    _ => (planned(1), planned(0)),
                };
                let flow = |planned| Flow {
                    planned,
                    cursor: 0,
                    ended: false,
                };
                let quits = interaction == Interaction::RequestStream && random.once_in(5);
                Script {
                    by: random.within(0..=1),
                    interaction,
                    flows: [flow(up), flow(down)],
                    opened: false,
                    quit_after: quits.then(|| random.within(1..=20) as u64),
                    quit: false,
                }
            })
            .collect();
        Self {
            random,
            now,
            ends: [end(client, first), end(server, second)],
            wires: [VecDeque::new(), VecDeque::new()],
            linked: true,
            scripts,
        }
    }

    fn run(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let mut steps = 0;
        // Death is rare enough that something happens in between.
        let peace = self.random.within(20..=200);
        while !self.is_done() {
            steps += 1;
            assert!(steps < 400_000, "they wait for ever");
            let side = self.random.within(0..=1);
            match self.random.within(0..=9) {
                0 | 1 => self.transmit(side),
                2 | 3 => self.deliver(side),
                4 => self.checkpoint(side),
                5 => self.commit(side),
                6 => self.open(side),
                7 if steps < 20_000 && self.random.once_in(peace) => {
                    if self.random.once_in(3) {
                        self.cut();
                        outcome.cuts += 1;
                    } else if self.crash(side) {
                        outcome.crashes += 1;
                    }
                }
                _ => self.act(side, &mut outcome),
            }
            if !self.linked {
                self.relink();
            }
            for end in &mut self.ends {
                if steps % 32 == 0 {
                    end.session.assert_consistent();
                }
                assert!(!end.session.is_closed(), "{:?}", end.session.close_reason());
            }
        }
        for end in &self.ends {
            outcome.resent += end.session.stats().frames_resent;
        }
        outcome
    }

    fn is_done(&self) -> bool {
        self.scripts.iter().all(|script| {
            let channel = script.interaction == Interaction::RequestChannel;
            script.opened
                && (script.quit || script.flows[1].ended)
                && (!channel || script.flows[0].ended)
        }) && self.ends.iter().all(|end| end.hands.is_empty())
    }

    fn transmit(&mut self, side: usize) {
        let wire = &mut self.wires[1 - side];
        let progress = self.ends[side].session.transmit(|frame| {
            wire.push_back(frame.to_vec());
            Poll::Ready(Ok::<(), Infallible>(()))
        });
        assert!(progress.is_ok());
    }

    fn deliver(&mut self, side: usize) {
        if !self.ends[side].session.wants_input() {
            return;
        }
        let Some(frame) = self.wires[side].pop_front() else {
            return;
        };
        let now = self.now;
        let session = &mut self.ends[side].session;
        session.handle_frame(now, &InFrame::Borrowed(&frame));
        while let Some(event) = session.poll_event() {
            match event {
                Event::Setup(_) => session.accept(now),
                Event::Request { key, payload, .. } => {
                    let (script, _, _) = parse(&payload);
                    self.ends[side].hands.push(Hand {
                        script,
                        key,
                        role: Role::Responder,
                        reader: false,
                        writer: true,
                    });
                    return;
                }
                Event::Channel { key } => {
                    // The request comes as the first payload; the script is
                    // known once it was looked at.
                    self.ends[side].hands.push(Hand {
                        script: usize::MAX,
                        key,
                        role: Role::Responder,
                        reader: true,
                        writer: true,
                    });
                    return;
                }
                event => panic!("{event:?}"),
            }
        }
    }

    fn checkpoint(&mut self, side: usize) {
        let end = &mut self.ends[side];
        if end.batch.is_none() {
            end.batch = end.session.checkpoint();
        }
    }

    fn commit(&mut self, side: usize) {
        let end = &mut self.ends[side];
        if let Some((seq, batch)) = end.batch.take() {
            end.store.commit(TOKEN, &batch).unwrap();
            end.session.committed(seq);
        }
    }

    fn open(&mut self, side: usize) {
        let at = self.random.within(0..=self.scripts.len() - 1);
        let demand = match self.random.within(0..=2) {
            0 => DemandPolicy::default(),
            n => DemandPolicy::prefetch(Demand::new(u32::try_from(n * 3 - 2).unwrap()).unwrap()),
        };
        let payload = text(at, 0, 0, &mut self.random);
        let script = &mut self.scripts[at];
        if script.by != side || script.opened {
            return;
        }
        script.opened = true;
        let channel = script.interaction == Interaction::RequestChannel;
        let open = Open {
            interaction: script.interaction,
            payload,
            demand,
            complete: false,
        };
        let end = &mut self.ends[side];
        let key = end.session.open(open).unwrap();
        end.hands.push(Hand {
            script: at,
            key,
            role: Role::Requester,
            reader: true,
            writer: channel,
        });
    }

    /// One of the application's hands does something.
    fn act(&mut self, side: usize, outcome: &mut Outcome) {
        if self.ends[side].hands.is_empty() {
            return;
        }
        let at = self.random.within(0..=self.ends[side].hands.len() - 1);
        match self.random.once_in(2) {
            true => self.read(side, at, outcome),
            false => self.write(side, at),
        }
        let hands = &mut self.ends[side].hands;
        if !hands[at].reader && !hands[at].writer {
            hands.swap_remove(at);
        }
    }

    fn read(&mut self, side: usize, at: usize, outcome: &mut Outcome) {
        let End { session, hands, .. } = &mut self.ends[side];
        let hand = &mut hands[at];
        if !hand.reader {
            return;
        }
        let direction = usize::from(hand.role == Role::Requester);
        let index = session.taken(hand.key);
        match session.poll_take(hand.key) {
            Take::Payload(payload) => {
                let (script, of, n) = parse(&payload);
                hand.script = script;
                assert_eq!((of, n), (direction, index), "in order, by its index");
                let script = &mut self.scripts[script];
                let flow = &mut script.flows[direction];
                if index < flow.cursor {
                    outcome.skipped += 1; // It was done with before the crash.
                } else {
                    assert_eq!(index, flow.cursor, "none is left out");
                    flow.cursor += 1;
                    outcome.payloads += 1;
                }
                if script.interaction == Interaction::RequestResponse {
                    flow.ended = true;
                    hand.reader = false;
                    session.release(hand.key);
                } else if script.quit_after == Some(flow.cursor) {
                    script.quit = true;
                    hand.reader = false;
                    session.cancel(hand.key);
                    session.release(hand.key);
                }
            }
            Take::Complete => {
                let flow = &mut self.scripts[hand.script].flows[direction];
                assert_eq!(flow.cursor, flow.planned, "nothing is lost");
                flow.ended = true;
                hand.reader = false;
                session.release(hand.key);
            }
            Take::Failed(error) => panic!("{error}"),
            Take::Pending => {}
        }
    }

    fn write(&mut self, side: usize, at: usize) {
        let End { session, hands, .. } = &mut self.ends[side];
        let hand = &mut hands[at];
        if !hand.writer || hand.script == usize::MAX {
            return;
        }
        let direction = usize::from(hand.role == Role::Responder);
        let planned = self.scripts[hand.script].flows[direction].planned;
        for _ in 0..self.random.within(1..=4) {
            let sent = session.sent(hand.key);
            if sent == planned {
                session.complete(hand.key);
                session.release(hand.key);
                hand.writer = false;
                return;
            }
            match session.poll_capacity(hand.key) {
                Capacity::Payloads(_) => {
                    let payload = text(hand.script, direction, sent, &mut self.random);
                    session.send(hand.key, payload).unwrap();
                }
                Capacity::Closed => {
                    assert!(self.scripts[hand.script].quit, "nobody ended it");
                    session.release(hand.key);
                    hand.writer = false;
                    return;
                }
                Capacity::Pending => return,
            }
        }
    }

    fn cut(&mut self) {
        // Some arrive, the others never do.
        for side in 0..2 {
            for _ in 0..self.random.within(0..=3) {
                self.deliver(side);
            }
            self.wires[side].clear();
        }
        for end in &mut self.ends {
            end.session.handle_disconnect(self.now, CloseReason::Peer);
        }
        self.linked = false;
    }

    /// The process of `side` dies; false if nothing of its session is stored.
    fn crash(&mut self, side: usize) -> bool {
        let both = self
            .ends
            .iter()
            .all(|end| end.store.load(TOKEN).unwrap().is_some());
        if !both {
            return false;
        }
        self.cut();
        let end = &mut self.ends[side];
        if let Some((_, batch)) = end.batch.take()
            && self.random.once_in(2)
        {
            end.store.commit(TOKEN, &batch).unwrap();
        }
        let rows = end.store.load(TOKEN).unwrap().unwrap();
        let token = Bytes::from_static(TOKEN);
        let restored = Session::restore(self.now, end.config.clone(), token, rows).unwrap();
        end.session = restored.session;
        end.crashes += 1;
        end.hands.clear();
        for stream in restored.streams {
            let (at, _, _) = parse(&stream.request);
            let script = &mut self.scripts[at];
            assert_eq!(stream.interaction, script.interaction);
            assert_eq!((script.by == side), stream.role == Role::Requester);
            let mut hand = Hand {
                script: at,
                key: stream.key,
                role: stream.role,
                reader: stream.reader,
                writer: stream.writer,
            };
            if hand.reader {
                let direction = usize::from(hand.role == Role::Requester);
                let flow = &script.flows[direction];
                assert!(stream.received <= flow.cursor, "nothing is lost");
                // The application is done with it, as it remembers.
                if script.quit || (flow.ended && script.interaction == Interaction::RequestResponse)
                {
                    end.session.cancel(hand.key);
                    end.session.release(hand.key);
                    hand.reader = false;
                }
            }
            if hand.reader || hand.writer {
                end.hands.push(hand);
            }
        }
        // What is neither done nor stored was never asked.
        for (at, script) in self.scripts.iter_mut().enumerate() {
            let done = script.quit || script.flows[1].ended;
            let known = end.hands.iter().any(|hand| hand.script == at);
            if script.by == side && script.opened && !done && !known {
                assert_eq!(script.flows[1].cursor, 0, "script {at} was lost");
                script.opened = false;
            }
        }
        true
    }

    fn relink(&mut self) {
        let now = self.now;
        for wire in &mut self.wires {
            wire.clear();
        }
        // What is received must be stored before RESUME says so.
        self.ends[0].session.resume(now, LINK);
        let mut ask = None;
        for _ in 0..4 {
            let _ = self.ends[0].session.transmit(|frame| {
                ask = Some(frame.to_vec());
                Poll::Ready(Ok::<(), Infallible>(()))
            });
            if ask.is_some() {
                break;
            }
            self.commit(0);
            self.checkpoint(0);
            self.commit(0);
        }
        let ask = ask.expect("RESUME");
        let mut front = Session::server(now, self.ends[1].config.clone(), LINK);
        front.handle_frame(now, &InFrame::Borrowed(&ask));
        match front.poll_event() {
            Some(Event::Resume(request)) => {
                let server = &mut self.ends[1].session;
                server.accept_resume(now, &request, LINK).unwrap();
            }
            // The server never knew it.
            Some(Event::Setup(_)) => panic!("cut before it was accepted"),
            event => panic!("{event:?}"),
        }
        self.linked = true;
    }
}

/// The session is known on both sides before anything happens to it.
fn settled(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..20 {
        for side in 0..2 {
            world.transmit(side);
            world.deliver(side);
            world.checkpoint(side);
            world.commit(side);
        }
    }
    world
}

fn live_through(seed: u64) -> Outcome {
    let note = SeedNote(seed);
    let outcome = settled(seed).run();
    drop(note);
    outcome
}

struct SeedNote(u64);

impl Drop for SeedNote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("RSOCKET_TEST_SEED={}", self.0);
        }
    }
}

// [C281] [C283] [C292] [C294] [C305]
#[test]
fn whoever_dies_whenever_every_payload_arrives_once_and_in_order() {
    let count = std::env::var("RSOCKET_TEST_COLD").ok();
    let count = count.map_or(300, |count| count.parse().unwrap());
    let mut sum = Outcome::default();
    let seeds = seeds(count);
    for seed in &seeds {
        let outcome = live_through(*seed);
        sum.payloads += outcome.payloads;
        sum.crashes += outcome.crashes;
        sum.cuts += outcome.cuts;
        sum.resent += outcome.resent;
        sum.skipped += outcome.skipped;
    }
    println!("{sum:?}");
    if seeds.len() > 1 {
        assert!(
            sum.crashes as u64 > count && sum.skipped > count,
            "too little happened"
        );
    }
}

/// Rows of sessions at all kinds of moments.
fn stored(seed: u64) -> Vec<(Config, Vec<(Key, Bytes)>)> {
    let mut world = settled(seed);
    let steps = world.random.within(50..=1500);
    for _ in 0..steps {
        let side = world.random.within(0..=1);
        match world.random.within(0..=5) {
            0 => world.transmit(side),
            1 => world.deliver(side),
            2 => {
                world.checkpoint(side);
                world.commit(side);
            }
            3 => world.open(side),
            _ => world.act(side, &mut Outcome::default()),
        }
    }
    let rows = |end: &End| (end.config.clone(), end.store.load(TOKEN).unwrap().unwrap());
    world.ends.iter().map(rows).collect()
}

/// Reads rows that may be damaged, and uses what comes of them; whether they
/// were taken for a session.
fn is_taken(config: &Config, rows: Vec<(Key, Bytes)>) -> bool {
    let now = Instant::now();
    let token = Bytes::from_static(TOKEN);
    let Ok(restored) = Session::restore(now, config.clone(), token, rows) else {
        return false;
    };
    let mut session = restored.session;
    session.assert_consistent();
    for stream in &restored.streams {
        let _ = session.poll_take(stream.key);
        let _ = session.poll_take(stream.key);
        let _ = session.poll_capacity(stream.key);
        session.cancel(stream.key);
    }
    if let Some((seq, _)) = session.checkpoint() {
        session.committed(seq);
    }
    session.resume(now, LINK);
    let _ = session.transmit(|_| Poll::Ready(Ok::<(), Infallible>(())));
    session.assert_consistent();
    true
}

#[test]
fn a_damaged_row_is_an_error_or_harmless_and_never_a_panic() {
    let (mut refused, mut taken) = (0_u64, 0_u64);
    for seed in seeds(40) {
        let note = SeedNote(seed);
        let mut random = Random::new(seed);
        for (config, rows) in stored(seed) {
            assert!(is_taken(&config, rows.clone()), "they are whole");
            for at in 0..rows.len() {
                let mut gone = rows.clone();
                let (key, row) = gone.remove(at);
                // All that may be missing without being missed is what people
                // know a stream by.
                let is_label = key.table == 2 && key.b >> 56 == 1;
                let is_answers = key.table == 0 && key.b == 2;
                // A first fragment may be empty, and then nothing is missing.
                let is_empty = key.table == 2 && key.b >> 56 == 4 && row.iter().all(|b| *b == 0);
                let may_be_missing = is_label || is_answers || is_empty;
                assert!(
                    !is_taken(&config, gone) || may_be_missing,
                    "{key:?} {row:?}"
                );

                let mut bytes = row.to_vec();
                if bytes.is_empty() {
                    continue;
                }
                let mut damages = vec![bytes[..bytes.len() - 1].to_vec()];
                for _ in 0..4 {
                    let place = random.within(0..=bytes.len() - 1);
                    let before = bytes[place];
                    bytes[place] ^= 1 << random.within(0..=7);
                    damages.push(bytes.clone());
                    bytes[place] = before;
                }
                for damage in damages {
                    let mut rows = rows.clone();
                    rows[at].1 = damage.into();
                    match is_taken(&config, rows) {
                        true => taken += 1,
                        false => refused += 1,
                    }
                }
                let mut rows = rows.clone();
                rows[at].0.b ^= 1 << random.within(0..=62);
                rows.sort_by_key(|(key, _)| *key);
                is_taken(&config, rows);
            }
        }
        drop(note);
    }
    println!("{refused} refused, {taken} taken");
    assert!(refused > 0);
}
