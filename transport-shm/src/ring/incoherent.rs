//! The ring over memory that nobody keeps coherent: each side has a cache of its
//! own, a line goes to memory when it is written back, and a line that was read
//! stays as it was until it is refreshed. Lines also come and go by chance.
//!
//! Machines that share a pool of memory without coherence are like that. What is
//! tested here is that each write-back and each refresh stands where it has to:
//! leaving out any one of them is seen to fail.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use rsocket_core::{
    testkit::{Random, seeds},
    transport::OutFrame,
};

use super::{Consumer, Producer, Sent};
use crate::{
    layout::{self, CONTROL_LEN, Geometry, LINE},
    mem::{Data, Memory, Peer, WORD, Words},
};

/// A kind of access, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Wait,
    Head,
    Sleep,
    Released,
    /// The line in which a record begins.
    Commit,
    /// The first word of a line that is free.
    Clear,
    /// What is behind the first line of a record.
    Rest,
    Arena,
}

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    NoWriteback(Part),
    NoRefresh(Part),
}

/// The least there is, so that laps are short: 1 KiB of ring, 4 loans.
const GEOMETRY: Geometry = Geometry {
    ring_len: 1024,
    arena_len: 4 * 1024,
    block_len: 1024,
};

fn part(at: usize, len: usize) -> Part {
    match at {
        layout::WAIT => Part::Wait,
        layout::HEAD => Part::Head,
        layout::SLEEP => Part::Sleep,
        at if at < CONTROL_LEN => Part::Released,
        at if at >= GEOMETRY.arena_at() => Part::Arena,
        _ if len == WORD => Part::Clear,
        _ => Part::Rest,
    }
}

type Line = [u8; LINE];

/// Memory, and how lines come and go.
struct Home {
    lines: BTreeMap<usize, Line>,
    random: Random,
    /// One access in so many has a side effect; 0 stands for none.
    chance: usize,
}

/// A side's view of one region.
#[derive(Clone)]
struct View {
    home: Arc<Mutex<Home>>,
    /// Lines that may differ from memory: newer if the side owns the region,
    /// older if it does not.
    cache: Arc<Mutex<BTreeMap<usize, Line>>>,
    is_owner: bool,
    fault: Fault,
    /// The commit word that was stored last, until its line is written back.
    committed: Option<usize>,
}

impl View {
    /// A region as its owner and as its reader see it.
    fn new(seed: u64, chance: usize, fault: Fault) -> (Self, Self) {
        let home = Arc::new(Mutex::new(Home {
            lines: BTreeMap::new(),
            random: Random::new(seed),
            chance,
        }));
        let view = |is_owner| Self {
            home: Arc::clone(&home),
            cache: Arc::default(),
            is_owner,
            fault,
            committed: None,
        };
        (view(true), view(false))
    }

    /// Calls `use_` with the line as this side sees it.
    fn with<T>(&self, at: usize, use_: impl FnOnce(&mut Line) -> T) -> T {
        self.happen();
        let at = at / LINE * LINE;
        let home = self.home.lock().unwrap();
        let fresh = || home.lines.get(&at).copied().unwrap_or([0; LINE]);
        use_(self.cache.lock().unwrap().entry(at).or_insert_with(fresh))
    }

    /// Drops a line of the cache, to memory if this side owns it.
    fn evict(&self, at: usize) {
        let evicted = self.cache.lock().unwrap().remove(&at);
        if let Some(line) = evicted
            && self.is_owner
        {
            self.home.lock().unwrap().lines.insert(at, line);
        }
    }

    /// What caches do when nobody asks them to.
    fn happen(&self) {
        let evicted = {
            let mut home = self.home.lock().unwrap();
            let chance = home.chance;
            if chance == 0 || !home.random.once_in(chance) {
                return;
            }
            let cache = self.cache.lock().unwrap();
            let count = cache.len();
            if count == 0 {
                return;
            }
            let nth = home.random.within(0..=count - 1);
            cache.keys().nth(nth).copied()
        };
        if let Some(at) = evicted {
            self.evict(at);
        }
    }

    fn load(&self, at: usize) -> u64 {
        self.with(at, |line| {
            let word = &line[at % LINE..][..WORD];
            u64::from_ne_bytes(word.try_into().unwrap())
        })
    }

    fn put(&self, mut at: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(LINE - at % LINE));
            self.with(at, |line| {
                line[at % LINE..][..now.len()].copy_from_slice(now)
            });
            (at, bytes) = (at + now.len(), later);
        }
    }

    fn evict_all(&self, at: usize, len: usize) {
        for line in (at / LINE * LINE..at + len).step_by(LINE) {
            self.evict(line);
        }
    }

    fn written(&self, part: Part, at: usize, len: usize) {
        if self.fault != Fault::NoWriteback(part) {
            self.evict_all(at, len);
        }
    }
}

impl Words for View {
    fn store(&self, at: usize, value: u64) {
        self.put(at, &value.to_ne_bytes());
    }

    fn store_release(&self, at: usize, value: u64) {
        self.put(at, &value.to_ne_bytes());
    }

    fn fence(&self) {}

    fn writeback(&self, at: usize, len: usize) {
        self.written(part(at, len), at, len);
    }
}

impl Data for View {
    fn store(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_ne_bytes());
    }

    fn store_release(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_ne_bytes());
        self.committed = Some(at);
    }

    fn copy_in(&mut self, at: usize, bytes: &[u8]) {
        self.put(at, bytes);
    }

    fn writeback(&mut self, at: usize, len: usize) {
        let is_commit = self.committed.take() == Some(at);
        let part = if is_commit {
            Part::Commit
        } else {
            part(at, len)
        };
        self.written(part, at, len);
    }
}

impl Peer for View {
    fn load(&self, at: usize) -> u64 {
        self.load(at)
    }

    fn load_acquire(&self, at: usize) -> u64 {
        self.load(at)
    }

    fn append(&self, at: usize, len: usize, out: &mut Vec<u8>) {
        for at in at..at + len {
            out.push(self.with(at, |line| line[at % LINE]));
        }
    }

    fn refresh(&self, at: usize, len: usize) {
        let is_commit = at >= CONTROL_LEN && at < GEOMETRY.arena_at() && len == LINE;
        let part = if is_commit && at.is_multiple_of(LINE) {
            Part::Commit
        } else {
            part(at, len)
        };
        if self.fault != Fault::NoRefresh(part) {
            self.evict_all(at, len);
        }
    }
}

enum Incoherent {}

impl Memory for Incoherent {
    type Words = View;
    type Data = View;
    type Peer = View;
}

/// Sends frames of all lengths, both sides in turns by chance and asleep when
/// they can. Says what went wrong.
fn run(seed: u64, chance: usize, fault: Fault) -> Result<(), &'static str> {
    let mut random = Random::new(seed);
    let (own, from_producer) = View::new(seed, chance, fault);
    let (consumers, from_consumer) = View::new(!seed, chance, fault);
    let mut producer: Producer<Incoherent> =
        Producer::new(own.clone(), own, from_consumer, &GEOMETRY);
    let mut consumer: Consumer<Incoherent> = Consumer::new(consumers, from_producer, &GEOMETRY);

    let frames: Vec<Bytes> = (0..100)
        .map(|_| Bytes::from(random.bytes_of_length(GEOMETRY.max_whole_len())))
        .collect();
    let (mut sent, mut received) = (0, 0);
    let (mut is_sender_asleep, mut is_receiver_asleep) = (false, false);
    let mut is_wrong = false;
    for _ in 0..100_000 {
        if received == frames.len() {
            return Ok(());
        }
        if random.once_in(2) {
            if is_sender_asleep || sent == frames.len() {
                if is_receiver_asleep {
                    return Err("both sleep");
                }
                continue;
            }
            let frame = OutFrame::encoded(&frames[sent]);
            let mut result = producer.try_send(&frame);
            if result == Ok(Sent::Full) {
                producer.announce_wait();
                result = producer.try_send(&frame);
            }
            match result {
                Ok(Sent::Done) => sent += 1,
                Ok(Sent::Full) => is_sender_asleep = true,
                Err(_) => return Err("the producer sees what cannot be"),
            }
            // Sleep or the end of the batch.
            let is_batch = is_sender_asleep || sent == frames.len() || random.once_in(3);
            if is_batch && producer.wants_bell() {
                is_receiver_asleep = false;
            }
        } else if !is_receiver_asleep {
            consumer.awake();
            let result = consumer.recv(&mut |frame| {
                is_wrong |= frames.get(received).map(|bytes| &bytes[..]) != Some(frame.as_slice());
                received += 1;
                ControlFlow::Continue(())
            });
            if is_wrong {
                return Err("a frame is wrong");
            }
            match result {
                Ok(0) => is_receiver_asleep = consumer.announce_sleep(),
                Ok(_) => {}
                Err(_) => return Err("the consumer sees what cannot be"),
            }
            if consumer.room_bell() {
                is_sender_asleep = false;
            }
        }
    }
    Err("no end")
}

trait OfLength {
    fn bytes_of_length(&mut self, longest: usize) -> Vec<u8>;
}

impl OfLength for Random {
    fn bytes_of_length(&mut self, longest: usize) -> Vec<u8> {
        let len = self.length(longest);
        self.bytes(len)
    }
}

#[test]
fn frames_arrive_over_memory_that_is_not_coherent() {
    for seed in seeds(20) {
        for chance in [0, 2, 10, 100] {
            assert_eq!(
                run(seed, chance, Fault::None),
                Ok(()),
                "seed {seed}, {chance}"
            );
        }
    }
}

#[test]
fn any_write_back_or_refresh_that_is_left_out_is_noticed() {
    let parts = [
        Part::Wait,
        Part::Head,
        Part::Sleep,
        Part::Released,
        Part::Commit,
        Part::Clear,
        Part::Rest,
        Part::Arena,
    ];
    let faults = parts
        .map(|part| [Fault::NoWriteback(part), Fault::NoRefresh(part)])
        .into_iter()
        .flatten()
        // Only who owns the ring clears.
        .filter(|fault| *fault != Fault::NoRefresh(Part::Clear));
    for fault in faults {
        let is_noticed = (0..20).any(|seed| run(seed, 0, fault).is_err());
        assert!(is_noticed, "{fault:?}");
    }
}
