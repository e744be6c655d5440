use std::{collections::VecDeque, ops::ControlFlow};

use bytes::Bytes;
use rsocket_core::{
    testkit::{Random, seeds},
    transport::OutFrame,
};

use super::*;
use crate::{
    layout::{CONTROL_LEN, Geometry},
    mem,
};

/// A producer and the consumer of its frames, on the heap.
fn one_way(geometry: &Geometry) -> (Producer, Consumer) {
    let ((words, data), from_producer) = mem::heap(geometry.region_len(), CONTROL_LEN);
    let ((consumer_words, _), from_consumer) = mem::heap(CONTROL_LEN, CONTROL_LEN);
    (
        Producer::new(words, data, from_consumer, geometry),
        Consumer::new(consumer_words, from_producer, geometry),
    )
}

fn geometry(ring_len: usize, arena_len: usize) -> Geometry {
    Geometry::new(ring_len, arena_len).unwrap()
}

fn send(producer: &mut Producer, frame: &[u8]) -> Sent {
    let frame = Bytes::copy_from_slice(frame);
    producer.try_send(&OutFrame::encoded(&frame)).unwrap()
}

fn recv(consumer: &mut Consumer) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let n = consumer
        .recv(&mut |frame| {
            frames.push(frame.as_slice().to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(n, frames.len());
    frames
}

#[test]
fn frames_of_all_lengths_arrive_whole_and_in_order() {
    for seed in seeds(20) {
        let mut random = Random::new(seed);
        let arena_len = if random.once_in(2) { 65_536 } else { 0 };
        let geometry = geometry(4096, arena_len);
        let (mut producer, mut consumer) = one_way(&geometry);
        let mut expected = VecDeque::new();
        for _ in 0..2000 {
            let len = random.within(0..=geometry.max_whole_len());
            let frame = random.bytes(len);
            if send(&mut producer, &frame) == Sent::Done {
                expected.push_back(frame);
            } else {
                assert!(!expected.is_empty(), "an empty ring is full, seed {seed}");
            }
            if random.once_in(3) {
                for frame in recv(&mut consumer) {
                    assert_eq!(Some(frame), expected.pop_front(), "seed {seed}");
                }
            }
        }
    }
}
