//! What the ring costs by itself, beside the least that a transfer between two
//! cores costs: a ring of slots of one line, each with its sequence number.
//! `cargo bench -p rsocket-transport-shm --bench ring`.
//!
//! Two threads, pinned to the first two cores, that never sleep. They look at
//! each other's words as the transport does, once a batch.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench that fails has nobody to report to"
)]

use std::{
    fs::File,
    hint::{black_box, spin_loop},
    ops::ControlFlow,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rsocket_core::transport::OutFrame;
use rsocket_transport_shm::raw::{
    CONTROL_LEN, Consumer, Geometry, Producer, Sent, check, format, map_own, map_peer,
};

/// Short turns, and many: on a machine that has other work, some of them have
/// both cores for themselves.
const TURNS: usize = 2000;
const TURN: Duration = Duration::from_micros(200);
/// Frames from one bell to the next in the one-way measurements.
const BATCH: usize = 16;

fn main() {
    println!("ns, the 1st and the 50th percentile of {TURNS} turns");
    println!("{:28} {:>9} {:>9}", "", "p1", "p50");
    let raw = report("round trip, slots, 32 B", slots_round_trip());
    for len in [32, 1024, 16_384, 65_536] {
        let ring = report(&format!("round trip, ring, {len} B"), ring_round_trip(len));
        if len == 32 {
            println!(
                "{:28} {:>9.2} {:>9.2}",
                "  to slots",
                ring.0 / raw.0,
                ring.1 / raw.1
            );
        }
    }
    for len in [32, 1024, 16_384, 65_536] {
        report(&format!("one thread, ring, {len} B"), ring_one_thread(len));
    }
    let raw = report("one way, slots, 32 B", slots_one_way());
    for len in [32, 1024, 16_384, 65_536] {
        let ring = report(&format!("one way, ring, {len} B"), ring_one_way(len));
        if len == 32 {
            println!(
                "{:28} {:>9.2} {:>9.2}",
                "  to slots",
                ring.0 / raw.0,
                ring.1 / raw.1
            );
        } else {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let len = len as f64;
            println!(
                "{:28} {:>9.1} {:>9.1}",
                "  GB/s",
                len / ring.0,
                len / ring.1
            );
        }
    }
}

fn report(name: &str, (p1, p50): (f64, f64)) -> (f64, f64) {
    println!("{name:28} {p1:>9.1} {p50:>9.1}");
    (p1, p50)
}

fn pin(core: usize) {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    // On a machine with one core the figures say nothing anyway.
    let _ = rustix::thread::sched_setaffinity(None, &cores);
}

/// ns per unit of what `work` returns: the 1st and the 50th percentile.
fn turns(mut work: impl FnMut() -> usize) -> (f64, f64) {
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        let (mut done, begin) = (0, Instant::now());
        while begin.elapsed() < TURN {
            for _ in 0..16 {
                done += work();
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "millions")]
        turns.push(begin.elapsed().as_secs_f64() * 1e9 / done as f64);
    }
    turns.sort_by(f64::total_cmp);
    (turns[TURNS / 100], turns[TURNS / 2])
}

/// The base line: one line is a message of 32 bytes.
struct Slots(Vec<Slot>);

#[derive(Default)]
#[repr(align(64))]
struct Slot([AtomicU64; 8]);

impl Slots {
    fn new() -> Self {
        Self((0..1024).map(|_| Slot::default()).collect())
    }

    fn push(&self, number: u64) {
        let slot = &self.0[usize::try_from(number).unwrap() % self.0.len()];
        for word in &slot.0[1..5] {
            word.store(number, Relaxed);
        }
        slot.0[0].store(number + 1, Release);
    }

    fn pop(&self, number: u64) -> bool {
        let slot = &self.0[usize::try_from(number).unwrap() % self.0.len()];
        if slot.0[0].load(Acquire) != number + 1 {
            return false;
        }
        for word in &slot.0[1..5] {
            black_box(word.load(Relaxed));
        }
        true
    }
}

fn slots_round_trip() -> (f64, f64) {
    let (there, back, stop) = (Slots::new(), Slots::new(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            let mut number = 0;
            while !stop.load(Relaxed) {
                if there.pop(number) {
                    back.push(number);
                    number += 1;
                } else {
                    spin_loop();
                }
            }
        });
        pin(0);
        let mut number = 0;
        let result = turns(|| {
            there.push(number);
            while !back.pop(number) {
                spin_loop();
            }
            number += 1;
            1
        });
        stop.store(true, Relaxed);
        result
    })
}

fn slots_one_way() -> (f64, f64) {
    let (there, popped, stop) = (Slots::new(), Slots::new(), AtomicBool::new(false));
    let popped = &popped.0[0].0[0];
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            let mut number = 0;
            while !stop.load(Relaxed) {
                if there.pop(number) {
                    number += 1;
                    if number % 128 == 0 {
                        popped.store(number, Release);
                    }
                } else {
                    spin_loop();
                }
            }
        });
        pin(0);
        let (mut number, mut seen) = (0, 0);
        let result = turns(|| {
            for _ in 0..BATCH {
                while number - seen >= there.0.len() as u64 {
                    seen = popped.load(Acquire);
                }
                there.push(number);
                number += 1;
            }
            BATCH
        });
        stop.store(true, Relaxed);
        result
    })
}

/// A side of a link: what it sends through, and what it receives from.
struct Side {
    producer: Producer,
    consumer: Consumer,
}

fn sides() -> (Side, Side) {
    let geometry = Geometry::default();
    let files = [region_file(&geometry), region_file(&geometry)];
    let len = geometry.region_len();
    let [a, b] = [[0, 1], [1, 0]].map(|[own, peer]| {
        let (words, data) = map_own(&files[own], len, CONTROL_LEN).unwrap();
        format(&words, &geometry, 1);
        let memory = map_peer(&files[peer], len).unwrap();
        let producer = Producer::new(words.clone(), data, memory.clone(), &geometry);
        (producer, words, memory)
    });
    let [a, b] = [a, b].map(|(producer, words, memory)| {
        let header = check(&memory, len).unwrap();
        Side {
            producer,
            consumer: Consumer::new(words, memory, &header.geometry),
        }
    });
    (a, b)
}

fn region_file(geometry: &Geometry) -> File {
    let file = rustix::fs::memfd_create("region", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(file);
    file.set_len(geometry.region_len() as u64).unwrap();
    file
}

impl Side {
    fn send(&mut self, frame: &Bytes) {
        while self.producer.try_send(&OutFrame::encoded(frame)).unwrap() == Sent::Full {
            spin_loop();
        }
    }

    fn recv(&mut self) -> usize {
        let n = self
            .consumer
            .recv(&mut |frame| {
                black_box(frame.as_slice());
                ControlFlow::Continue(())
            })
            .unwrap();
        let _ = self.consumer.room_bell();
        n
    }
}

fn ring_round_trip(len: usize) -> (f64, f64) {
    let (mut client, mut server) = sides();
    let (frame, stop) = (Bytes::from(vec![1; len]), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            while !stop.load(Relaxed) {
                for _ in 0..server.recv() {
                    server.send(&frame);
                }
                let _ = server.producer.wants_bell();
                spin_loop();
            }
        });
        pin(0);
        let result = turns(|| {
            client.send(&frame);
            let _ = client.producer.wants_bell();
            while client.recv() == 0 {
                spin_loop();
            }
            1
        });
        stop.store(true, Relaxed);
        result
    })
}

/// What the instructions cost: all lines are in the cache of the one core.
fn ring_one_thread(len: usize) -> (f64, f64) {
    let (mut client, mut server) = sides();
    let frame = Bytes::from(vec![1; len]);
    pin(0);
    turns(|| {
        for _ in 0..BATCH {
            client.send(&frame);
            let _ = client.producer.wants_bell();
            while server.recv() == 0 {}
        }
        BATCH
    })
}

fn ring_one_way(len: usize) -> (f64, f64) {
    let (mut client, mut server) = sides();
    let (frame, stop) = (Bytes::from(vec![1; len]), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            while !stop.load(Relaxed) {
                if server.recv() == 0 {
                    spin_loop();
                }
            }
        });
        pin(0);
        let result = turns(|| {
            for _ in 0..BATCH {
                client.send(&frame);
            }
            let _ = client.producer.wants_bell();
            BATCH
        });
        stop.store(true, Relaxed);
        result
    })
}
