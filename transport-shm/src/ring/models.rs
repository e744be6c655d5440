//! Every interleaving, and every value that a load may see, of a producer and a
//! consumer who do a little each: up to two preemptions, or as many as
//! `LOOM_MAX_PREEMPTIONS` says. Three take minutes without optimization.
//!
//! The bell is modelled by a flag that is waited for, so that a lost wake-up is
//! a deadlock, which loom reports. That the models can fail is tested, too: each
//! [`Fault`] leaves out one thing that the ring relies on.
//!
//! A frame's bytes are checked for races as if they were plain memory, which for
//! `copy_in` they are: it takes more than the right values to pass.
#![expect(unsafe_code, reason = "loom's check for races is not `Sync` by itself")]

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use loom::{
    cell::UnsafeCell,
    sync::{
        Condvar, Mutex,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
            fence,
        },
    },
    thread,
};
use rsocket_core::transport::{InFrame, OutFrame};

use super::{Consumer, Producer, Sent};
use crate::{
    layout::{self, Geometry},
    mem::{Data, Memory, Peer, WORD, Words},
};

/// What the memory does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Fences order no store before a later load.
    WeakFence,
    /// Commits publish nothing but themselves.
    RelaxedCommit,
    /// Commits are seen without what they publish.
    RelaxedPoll,
    /// The head publishes nothing but itself.
    RelaxedHead,
    /// The head is seen without what it publishes.
    RelaxedRoom,
    /// Loans that are given back publish nothing but that.
    RelaxedRelease,
    /// Loans that are given back are seen without what that publishes.
    RelaxedReclaim,
}

/// Memory of the model: those words of a region that are used.
#[derive(Clone)]
struct Region {
    words: Arc<BTreeMap<usize, Word>>,
    fault: Fault,
    is_trusted: bool,
}

#[derive(Default)]
struct Word {
    value: AtomicU64,
    race: Race,
}

/// Fails the model when two threads use it and one of them changes it, unless
/// they are ordered.
#[derive(Default)]
struct Race(UnsafeCell<()>);

// SAFETY: nothing is stored in it, and loom lets one thread run at a time.
unsafe impl Sync for Race {}

impl Region {
    fn new(offsets: impl IntoIterator<Item = usize>, fault: Fault) -> Self {
        let words = offsets.into_iter().map(|at| (at, Word::default()));
        Self {
            words: Arc::new(words.collect()),
            fault,
            is_trusted: false,
        }
    }

    /// A word that is loaded and stored as such: in the control pages, or where
    /// commit words are.
    fn word(&self, at: usize) -> &AtomicU64 {
        &self.any(at).value
    }

    /// A word of a frame, about to be read.
    fn read(&self, at: usize) -> &AtomicU64 {
        let word = self.any(at);
        if !at.is_multiple_of(layout::LINE) {
            word.race.0.with(|_| ());
        }
        &word.value
    }

    /// A word of a frame, about to be written.
    fn write(&self, at: usize) -> &AtomicU64 {
        let word = self.any(at);
        if !at.is_multiple_of(layout::LINE) {
            word.race.0.with_mut(|_| ());
        }
        &word.value
    }

    fn any(&self, at: usize) -> &Word {
        self.words.get(&at).expect("a word of the model")
    }
}

impl Words for Region {
    fn store(&self, at: usize, value: u64) {
        self.word(at).store(value, Relaxed);
    }

    fn store_release(&self, at: usize, value: u64) {
        let is_faulty = match at {
            layout::HEAD => self.fault == Fault::RelaxedHead,
            _ => self.fault == Fault::RelaxedRelease,
        };
        self.word(at)
            .store(value, if is_faulty { Relaxed } else { Release });
    }

    fn fence(&self) {
        fence(if self.fault == Fault::WeakFence {
            AcqRel
        } else {
            SeqCst
        });
    }
}

impl Data for Region {
    fn store(&mut self, at: usize, value: u64) {
        self.word(at).store(value, Relaxed);
    }

    fn store_release(&mut self, at: usize, value: u64) {
        let is_faulty = self.fault == Fault::RelaxedCommit;
        self.word(at)
            .store(value, if is_faulty { Relaxed } else { Release });
    }

    fn copy_in(&mut self, at: usize, bytes: &[u8]) {
        for (i, bytes) in bytes.chunks(WORD).enumerate() {
            let value = u64::from_ne_bytes(bytes.try_into().expect("whole words"));
            self.write(at + i * WORD).store(value, Relaxed);
        }
    }
}

impl Peer for Region {
    fn load(&self, at: usize) -> u64 {
        let is_control = at < layout::CONTROL_LEN;
        if is_control {
            self.word(at).load(Relaxed)
        } else {
            self.read(at).load(Relaxed)
        }
    }

    fn load_acquire(&self, at: usize) -> u64 {
        let is_faulty = match at {
            layout::HEAD => self.fault == Fault::RelaxedRoom,
            at if at < layout::CONTROL_LEN => self.fault == Fault::RelaxedReclaim,
            _ => self.fault == Fault::RelaxedPoll,
        };
        self.word(at)
            .load(if is_faulty { Relaxed } else { Acquire })
    }

    fn append(&self, at: usize, len: usize, out: &mut Vec<u8>) {
        for i in 0..len / WORD {
            out.extend_from_slice(&self.load(at + i * WORD).to_ne_bytes());
        }
    }

    fn bytes<R: Send + 'static>(&self, at: usize, len: usize, release: R) -> Result<Bytes, R> {
        if !self.is_trusted {
            return Err(release);
        }
        let mut bytes = Vec::new();
        self.append(at, len, &mut bytes);
        Ok(Bytes::from_owner(Lent {
            region: self.clone(),
            at,
            bytes,
            _release: release,
        }))
    }
}

/// Bytes that are in place until they are dropped.
struct Lent<R> {
    region: Region,
    at: usize,
    bytes: Vec<u8>,
    _release: R,
}

impl<R> AsRef<[u8]> for Lent<R> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<R> Drop for Lent<R> {
    fn drop(&mut self) {
        let mut bytes = Vec::new();
        self.region.append(self.at, self.bytes.len(), &mut bytes);
        assert_eq!(bytes, self.bytes, "they changed while they were lent");
    }
}

enum Model {}

impl Memory for Model {
    type Words = Region;
    type Data = Region;
    type Peer = Region;
}

/// One byte in a socket: ringing twice is ringing once.
#[derive(Default)]
struct Bell {
    is_rung: Mutex<bool>,
    condvar: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.is_rung.lock().unwrap() = true;
        self.condvar.notify_one();
    }

    fn wait(&self) {
        let mut is_rung = self.is_rung.lock().unwrap();
        while !*is_rung {
            is_rung = self.condvar.wait(is_rung).unwrap();
        }
        *is_rung = false;
    }
}

/// What the producer does.
#[derive(Clone, Copy)]
struct Shape {
    /// Lines of the ring, of which one is always free.
    lines: usize,
    /// Frames to be sent, one line each.
    frames: u64,
    /// Frames from one look at the consumer's sleep word to the next.
    batch: u64,
    /// How frames go.
    way: Way,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through the ring.
    Inline,
    /// Through the ring, the first of them two lines long, which frees room for
    /// more than one.
    Mixed,
    /// Through an arena that holds one, and are copied.
    Copied,
    /// Through an arena that holds one, and are given back by another thread.
    Kept,
}

/// One frame.
const ONE: Shape = Shape {
    lines: 2,
    frames: 1,
    batch: 1,
    way: Way::Inline,
};

/// More frames than there is room, so that lines are written again.
const LAPS: Shape = Shape {
    lines: 2,
    frames: 3,
    batch: 1,
    way: Way::Inline,
};

/// Lines are written again without a fence on the way.
const BATCH: Shape = Shape {
    lines: 4,
    frames: 5,
    batch: 5,
    way: Way::Inline,
};

/// Lines of a long record are written again by short ones.
const MIXED: Shape = Shape {
    lines: 4,
    frames: 4,
    batch: 4,
    way: Way::Mixed,
};

/// The arena's one block is written again.
const COPIED: Shape = Shape {
    lines: 2,
    frames: 2,
    batch: 1,
    way: Way::Copied,
};

/// Another thread tells the producer that it is free.
const KEPT: Shape = Shape {
    way: Way::Kept,
    ..COPIED
};

/// A block that takes the whole arena, of which half may be one frame.
const BLOCK: usize = 128;

fn one_way(shape: Shape, fault: Fault) -> (Producer<Model>, Consumer<Model>) {
    let has_arena = matches!(shape.way, Way::Copied | Way::Kept);
    let geometry = &Geometry {
        ring_len: shape.lines * layout::LINE,
        arena_len: if has_arena { BLOCK } else { 0 },
        block_len: BLOCK,
    };
    let words = (geometry.ring_at()..geometry.region_len()).step_by(WORD);
    let producers = Region::new(words.chain([layout::WAIT]), fault);
    let own = [layout::HEAD, layout::SLEEP, layout::RELEASED];
    let consumers = Region::new(own, fault);
    let producer = Producer::new(
        producers.clone(),
        producers.clone(),
        consumers.clone(),
        geometry,
    );
    let from_producer = Region {
        is_trusted: shape.way == Way::Kept,
        ..producers
    };
    (producer, Consumer::new(consumers, from_producer, geometry))
}

fn frame(number: u64, shape: Shape) -> Bytes {
    let words = [number, !number, 7, 8, 9, 10, 11, 12];
    let words = match shape.way {
        Way::Mixed if number == 0 => &words[..],
        Way::Inline | Way::Mixed => &words[..2],
        // Too long for so short a ring.
        Way::Copied | Way::Kept => &words[..5],
    };
    Bytes::from_iter(words.iter().flat_map(|word| word.to_ne_bytes()))
}

/// Sends and receives; both sides sleep whenever they can.
fn run(shape: Shape, fault: Fault) {
    let (mut producer, consumer) = one_way(shape, fault);
    if shape.batch > 1 {
        producer = producer.holding();
    }
    let frames = Arc::new(Bell::default());
    let room = Arc::new(Bell::default());

    let bells = (Arc::clone(&frames), Arc::clone(&room));
    let sending = thread::spawn(move || {
        let (frames, room) = bells;
        for number in 0..shape.frames {
            let frame = frame(number, shape);
            let frame = OutFrame::encoded(&frame);
            while producer.try_send(&frame).unwrap() == Sent::Full {
                producer.announce_wait();
                if producer.wants_bell() {
                    frames.ring();
                }
                if producer.try_send(&frame).unwrap() == Sent::Done {
                    break;
                }
                room.wait();
            }
            if (number + 1) % shape.batch == 0 && producer.wants_bell() {
                frames.ring();
            }
        }
    });

    let bell = Arc::clone(&room);
    let mut consumer = consumer.lending(Arc::new(move || bell.ring()));
    let mut users = Vec::new();
    let mut next = 0;
    while next < shape.frames {
        let received = consumer
            .recv(&mut |received: InFrame<'_>| {
                assert_eq!(received.as_slice(), frame(next, shape));
                if let (Way::Kept, InFrame::Shared(bytes)) = (shape.way, received) {
                    users.push(thread::spawn(move || drop(bytes)));
                }
                next += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        let is_asleep = received == 0 && consumer.announce_sleep();
        if consumer.room_bell() {
            room.ring();
        }
        if is_asleep {
            frames.wait();
            consumer.awake();
        }
    }
    sending.join().unwrap();
    for user in users {
        user.join().unwrap();
    }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(2);
    builder.check(model);
}

fn fails(shape: Shape, fault: Fault) {
    let explored = std::panic::catch_unwind(|| {
        let mut builder = loom::model::Builder::new();
        // It ends with the first failure.
        builder.preemption_bound = Some(3);
        builder.check(move || run(shape, fault));
    });
    assert!(explored.is_err(), "{fault:?} was not noticed");
}

#[test]
fn loom_frames_arrive_and_nobody_sleeps_over_them() {
    explore(|| run(ONE, Fault::None));
}

#[test]
fn loom_a_full_ring_wakes_its_producer_and_laps_do_not_mix() {
    explore(|| run(LAPS, Fault::None));
}

#[test]
fn loom_notices_a_fence_that_does_not_order_stores_before_loads() {
    fails(ONE, Fault::WeakFence);
}

#[test]
fn loom_notices_a_commit_that_publishes_nothing() {
    fails(ONE, Fault::RelaxedCommit);
    fails(BATCH, Fault::RelaxedCommit);
}

#[test]
fn loom_notices_a_poll_that_acquires_nothing() {
    fails(ONE, Fault::RelaxedPoll);
}

#[test]
fn loom_notices_a_head_that_publishes_nothing() {
    fails(LAPS, Fault::RelaxedHead);
}

#[test]
fn loom_notices_a_look_for_room_that_acquires_nothing() {
    fails(BATCH, Fault::RelaxedRoom);
}

#[test]
fn loom_a_batch_is_found_whole_and_nobody_sleeps_over_it() {
    explore(|| run(BATCH, Fault::None));
}

#[test]
fn loom_lines_are_not_written_again_before_they_were_read() {
    explore(|| run(MIXED, Fault::None));
}

#[test]
fn loom_a_loan_that_was_copied_makes_room_and_wakes_the_producer() {
    explore(|| run(COPIED, Fault::None));
}

#[test]
fn loom_a_loan_that_was_kept_makes_room_and_wakes_the_producer() {
    explore(|| run(KEPT, Fault::None));
}

#[test]
fn loom_notices_a_loan_whose_return_publishes_nothing() {
    fails(COPIED, Fault::RelaxedRelease);
    fails(KEPT, Fault::RelaxedRelease);
}

#[test]
fn loom_notices_a_look_for_returned_loans_that_acquires_nothing() {
    fails(COPIED, Fault::RelaxedReclaim);
    fails(KEPT, Fault::RelaxedReclaim);
}
