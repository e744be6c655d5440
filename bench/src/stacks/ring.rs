//! A bare ring in shared memory: the most that a transport in shared memory can
//! reach.
//!
//! Two rings of equal slots in one file under `/dev/shm`, one for each way. A slot
//! holds a sequence number and a message; who waits, polls the number of the next
//! slot, so that a small message takes one cache line across. Nobody ever
//! sleeps, nothing is checked, and both sides trust each other: what remains is
//! what the machine itself costs.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::hint;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use memmap2::{MmapOptions, MmapRaw};

use crate::child::Announce;
use crate::load::{Counter, Meter, SAMPLED};
use crate::plan::Load;

/// A line, and what slots are multiples of, in bytes.
const LINE: usize = 64;

/// The sequence number ahead of the message, in bytes.
const HEAD: usize = 8;

/// What a ring holds at most, in bytes, unless a few messages need more.
const RING: usize = 256 << 10;

/// Where the consumer says how far it has come: lines of its own.
const TAKEN: usize = 128;

/// One way: a file of slots, mapped.
struct Ring {
    map: Arc<MmapRaw>,
    /// Where this ring starts, in bytes.
    at: usize,
    slot: usize,
    slots: u64,
    /// Messages that went by.
    passed: u64,
    /// What the producer last saw of the consumer.
    seen: u64,
}

struct Shape {
    slot: usize,
    slots: u64,
}

impl Shape {
    fn of(load: Load) -> Result<Self> {
        let (Load::Tasks { bytes, .. }
        | Load::Window { bytes, .. }
        | Load::InOrder { bytes, .. }
        | Load::Stream { bytes, .. }) = load
        else {
            bail!("the ring has no {load:?}");
        };
        let slot = (HEAD + bytes).next_multiple_of(LINE);
        Ok(Self {
            slot,
            slots: ((RING / slot) as u64).max(4).next_power_of_two(),
        })
    }

    fn ring_len(&self) -> usize {
        TAKEN + self.slot * self.slots as usize
    }

    fn rings(&self, map: MmapRaw) -> [Ring; 2] {
        let map = Arc::new(map);
        [0, self.ring_len()].map(|at| Ring {
            map: Arc::clone(&map),
            at,
            slot: self.slot,
            slots: self.slots,
            passed: 0,
            seen: 0,
        })
    }
}

#[expect(unsafe_code, reason = "memory that two processes share")]
impl Ring {
    fn word(&self, at: usize) -> &AtomicU64 {
        let at = self.at + at;
        assert!(at + 8 <= self.map.len() && at.is_multiple_of(8));
        // SAFETY: within the mapping, which lives as long as `self`; aligned,
        // since mappings are aligned to pages; and all processes that map the
        // file treat these words as atomics.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(at).cast()) }
    }

    fn slot(&self, number: u64) -> usize {
        TAKEN + (number & (self.slots - 1)) as usize * self.slot
    }

    /// Puts a message in, unless the ring is full.
    fn push(&mut self, message: &[u8]) -> bool {
        if self.passed - self.seen == self.slots {
            self.seen = self.word(0).load(Ordering::Acquire);
            if self.passed - self.seen == self.slots {
                return false;
            }
        }
        let slot = self.slot(self.passed);
        assert!(HEAD + message.len() <= self.slot);
        // SAFETY: the slot lies within the mapping and is as long as the
        // message; the consumer has said that it is done with it.
        unsafe {
            let to = self.map.as_mut_ptr().add(self.at + slot + HEAD);
            to.copy_from_nonoverlapping(message.as_ptr(), message.len());
        }
        self.passed += 1;
        self.word(slot).store(self.passed, Ordering::Release);
        true
    }

    /// Takes the next message, if there is one, as long as `message`.
    fn pop(&mut self, message: &mut [u8]) -> bool {
        let slot = self.slot(self.passed);
        if self.word(slot).load(Ordering::Acquire) != self.passed + 1 {
            return false;
        }
        assert!(HEAD + message.len() <= self.slot);
        // SAFETY: the slot lies within the mapping and is as long as the
        // message; its producer has said that it is whole.
        unsafe {
            let from = self.map.as_mut_ptr().add(self.at + slot + HEAD);
            from.copy_to_nonoverlapping(message.as_mut_ptr(), message.len());
        }
        self.passed += 1;
        // Seldom: this line goes back and forth.
        if self.passed.is_multiple_of((self.slots / 8).max(1)) {
            self.word(0).store(self.passed, Ordering::Release);
        }
        true
    }
}

fn patiently(mut done: impl FnMut() -> bool) {
    while !done() {
        hint::spin_loop();
    }
}

/// Echoes, or sends without end if `load` is a stream, to one client.
///
/// # Errors
///
/// When there is no shared memory, or `load` has no messages.
pub fn serve(load: Load, announce: Announce) -> Result<()> {
    let shape = Shape::of(load)?;
    let path = format!("/dev/shm/rsocket-bench-{}", process::id());
    let file = File::create_new(&path)?;
    file.set_len(2 * shape.ring_len() as u64)?;
    let map = MmapOptions::new().populate().map_raw(&file)?;
    let [mut requests, mut answers] = shape.rings(map);
    announce(&path);
    let mut message = vec![b'x'; load.bytes()];
    if matches!(load, Load::Stream { .. }) {
        loop {
            patiently(|| answers.push(&message));
        }
    }
    loop {
        patiently(|| requests.pop(&mut message));
        patiently(|| answers.push(&message));
    }
}

/// Puts `load` on the server behind `path`, until something fails.
///
/// # Errors
///
/// When there is no such server, or `load` has no messages.
pub fn drive(path: &str, load: Load, meter: Arc<Meter>) -> Result<()> {
    let shape = Shape::of(load)?;
    let file = File::options().read(true).write(true).open(path)?;
    // Nobody else needs the name, and the server will be killed.
    fs::remove_file(path)?;
    let map = MmapOptions::new().populate().map_raw(&file)?;
    ensure!(map.len() == 2 * shape.ring_len(), "another shape of ring");
    let [mut requests, mut answers] = shape.rings(map);
    let mut counter = Counter::new(meter, 0);
    let bytes = load.bytes();
    let request = vec![b'q'; bytes];
    let mut answer = vec![0; bytes];
    let in_flight = match load {
        Load::Stream { .. } => loop {
            patiently(|| answers.pop(&mut answer));
            counter.add(1, bytes as u64);
        },
        Load::Tasks { in_flight, .. }
        | Load::Window { in_flight, .. }
        | Load::InOrder { in_flight, .. } => in_flight,
        Load::Bulk { .. } | Load::InProcess { .. } => bail!("the ring has no {load:?}"),
    };
    let sampled = if in_flight == 1 { 1 } else { SAMPLED };
    let mut sent = 0_u64;
    let mut stamps = VecDeque::new();
    let mut send = |stamps: &mut VecDeque<_>| {
        sent += 1;
        if sent.is_multiple_of(sampled) {
            stamps.push_back((sent, Instant::now()));
        }
        patiently(|| requests.push(&request));
    };
    for _ in 0..in_flight {
        send(&mut stamps);
    }
    for taken in 1.. {
        patiently(|| answers.pop(&mut answer));
        if let Some((number, at)) = stamps.front().copied()
            && number == taken
        {
            counter.time(at.elapsed(), 1);
            stamps.pop_front();
        }
        counter.add(1, bytes as u64);
        send(&mut stamps);
    }
    Ok(())
}
