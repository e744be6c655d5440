//! Both ends of a ring in two threads, at the same addresses.
//!
//! A processor reorders as it likes here, unlike in the models; and a
//! ThreadSanitizer, which knows memory by its address, can tell whether each read
//! of a frame comes after the writes of it. It cannot for regions that are mapped
//! twice. `docs/verification.md` says how to run it.

use std::{
    ops::ControlFlow,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
};

use bytes::Bytes;
use rsocket_core::{
    testkit::{Random, seeds},
    transport::{InFrame, OutFrame},
};

use super::{
    tests::{geometry, small},
    *,
};
use crate::{
    layout::{CONTROL_LEN, Geometry},
    mem,
};

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
        let rung = self.is_rung.lock().unwrap();
        *self.condvar.wait_while(rung, |rung| !*rung).unwrap() = false;
    }
}

/// Frames that both threads know, since they draw them from one seed.
struct Frames {
    random: Random,
    longest: usize,
}

impl Frames {
    fn next(&mut self) -> Vec<u8> {
        let len = self.random.length(self.longest);
        vec![self.random.number().to_le_bytes()[0]; len]
    }
}

/// Sends frames of random lengths; both sides sleep whenever they can, and what
/// the consumer may keep a third thread gives back.
fn pass(seed: u64, geometry: &Geometry, is_trusted: bool) {
    let count = if cfg!(miri) { 20 } else { 1_000 };
    let ((words, data), peer) = mem::heap(geometry.region_len(), CONTROL_LEN);
    let ((consumer_words, _), from_consumer) = mem::heap(CONTROL_LEN, CONTROL_LEN);
    let peer = match is_trusted {
        true => mem::trust_for_test(peer),
        false => peer,
    };
    let mut producer: Producer = Producer::new(words, data, from_consumer, geometry);
    let mut consumer: Consumer = Consumer::new(consumer_words, peer, geometry);
    let drawn = || Frames {
        random: Random::new(seed),
        longest: geometry.max_whole_len(),
    };
    let (filled, room) = (&Bell::default(), Arc::new(Bell::default()));
    if is_trusted {
        let room = Arc::clone(&room);
        consumer = consumer.lending(Arc::new(move || room.ring()));
    }
    let (kept, users) = mpsc::channel::<Bytes>();
    thread::scope(|scope| {
        scope.spawn(move || {
            for bytes in users {
                std::hint::black_box(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>());
            }
        });
        scope.spawn({
            let (room, mut frames) = (Arc::clone(&room), drawn());
            move || {
                for number in 0..count {
                    let frame = Bytes::from(frames.next());
                    let frame = OutFrame::encoded(&frame);
                    while producer.try_send(&frame).unwrap() == Sent::Full {
                        producer.announce_wait();
                        if producer.wants_bell() {
                            filled.ring();
                        }
                        if producer.try_send(&frame).unwrap() == Sent::Done {
                            break;
                        }
                        room.wait();
                    }
                    if (number % 3 == 0 || number + 1 == count) && producer.wants_bell() {
                        filled.ring();
                    }
                }
            }
        });
        let (mut received, mut frames) = (0, drawn());
        while received < count {
            let came = consumer.recv(&mut |frame| {
                assert!(
                    frame.as_slice() == frames.next(),
                    "frame {received}, seed {seed}"
                );
                if let InFrame::Shared(bytes) = frame {
                    kept.send(bytes).unwrap();
                }
                received += 1;
                ControlFlow::Continue(())
            });
            let is_asleep = came.unwrap() == 0 && consumer.announce_sleep();
            if consumer.room_bell() {
                room.ring();
            }
            if is_asleep {
                filled.wait();
                consumer.awake();
            }
        }
        drop(kept);
    });
}

#[test]
fn threads_pass_frames_of_all_lengths() {
    for seed in seeds(2) {
        for is_trusted in [false, true] {
            pass(seed, &small(), is_trusted);
            pass(seed, &geometry(4096, 0), is_trusted);
            pass(seed, &geometry(64 << 10, 256 << 10), is_trusted);
        }
    }
}
