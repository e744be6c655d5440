//! Buffers that the application is lent, and frames that are sent from there.

use std::collections::VecDeque;

use bytes::Bytes;
use rsocket_core::{
    testkit::{Random, seeds},
    transport::{LentMemory, OutFrame, Part},
};

use super::{
    tests::{OneWay, geometry, recv, recv_kept, small, trusting},
    *,
};
use crate::{
    layout::RELEASED,
    lent::{HEADROOM, MIN_LENT_LEN},
    mem::Words,
};

/// What the core makes of lent memory.
struct Frozen(Box<dyn LentMemory>);

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// A buffer full of `byte`.
fn written(producer: &mut Producer, len: usize, byte: u8) -> Option<Bytes> {
    let mut memory = producer.lend(len)?;
    assert_eq!((*memory).as_ref().len(), len);
    (*memory).as_mut().fill(byte);
    Some(Bytes::from_owner(Frozen(memory)))
}

fn send(producer: &mut Producer, metadata: &[u8], data: &[u8]) -> Sent {
    let frame = OutFrame::new(b"head", Part::slice(metadata), Part::slice(data));
    producer
        .try_send(&frame)
        .expect("the consumer keeps the rules")
}

fn expected(metadata: &[u8], data: &[u8]) -> Vec<u8> {
    [b"head", metadata, data].concat()
}

/// The one frame that there is, and whether its end is where `data` is, in a link
/// whose sides see the same memory at the same place.
fn recv_one(link: &mut OneWay, data: &[u8]) -> (Bytes, bool) {
    let mut frames = recv_kept(link);
    assert_eq!(frames.len(), 1);
    let frame = frames.remove(0);
    let is_in_place = frame.as_ptr_range().end == data.as_ptr_range().end;
    (frame, is_in_place)
}

/// Buffers of `len` bytes until there are no more.
fn all(producer: &mut Producer, len: usize) -> Vec<Bytes> {
    std::iter::from_fn(|| written(producer, len, 1)).collect()
}

#[test]
fn what_is_written_in_a_loan_is_received_where_it_was_written() {
    for len in [MIN_LENT_LEN, 5000, small().arena_len() / 2 - HEADROOM] {
        for metadata in [&b""[..], b"metadata", &[7; HEADROOM - 4]] {
            let (mut link, _) = trusting(&small());
            let data = written(&mut link.producer, len, 5).expect("an arena that is free");
            assert_eq!(send(&mut link.producer, metadata, &data), Sent::Done);
            let (frame, is_in_place) = recv_one(&mut link, &data);
            assert!(is_in_place, "{len} bytes were copied");
            assert!(frame == expected(metadata, &data));
        }
    }
}

#[test]
fn a_consumer_that_copies_gets_the_same_with_the_data_at_a_multiple_of_a_word() {
    let step = if cfg!(miri) { 31 } else { 1 };
    for metadata_len in (0..=HEADROOM - 4).step_by(step) {
        let mut link = OneWay::new(&small());
        let data = written(&mut link.producer, 6000, 5).unwrap();
        let metadata = vec![7; metadata_len];
        assert_eq!(send(&mut link.producer, &metadata, &data), Sent::Done);
        let (frame, is_in_place) = recv_one(&mut link, &data);
        assert!(!is_in_place);
        assert!(frame == expected(&metadata, &data));
        let data = frame.slice(4 + metadata_len..);
        // Miri gives bytes no more than the alignment of bytes.
        let is_aligned = data.as_ptr().addr().is_multiple_of(8);
        assert!(is_aligned || cfg!(miri), "{metadata_len}");
    }
}

#[test]
fn only_the_beginning_of_a_loan_is_sent_in_place() {
    let (mut link, _) = trusting(&small());
    let data = written(&mut link.producer, 12_000, 5).unwrap();
    let cases = [
        (0..12_000, true),
        (0..8000, true),
        (1..12_000, false),
        (128..12_000, false),
        (4096..12_000, false),
        (4096 - HEADROOM..12_000, false),
    ];
    for (range, can_be) in cases {
        let slice = data.slice(range.clone());
        assert_eq!(send(&mut link.producer, b"", &slice), Sent::Done);
        let (frame, is_in_place) = recv_one(&mut link, &slice);
        assert_eq!(is_in_place, can_be, "{range:?}");
        assert!(frame == expected(b"", &slice), "{range:?}");
    }
}

#[test]
fn data_is_copied_where_what_comes_before_it_has_no_room() {
    let (mut link, _) = trusting(&small());
    let data = written(&mut link.producer, 8000, 5).unwrap();
    let metadata = [7; HEADROOM - 3];
    assert_eq!(send(&mut link.producer, &metadata, &data), Sent::Done);
    let (frame, is_in_place) = recv_one(&mut link, &data);
    assert!(!is_in_place);
    assert!(frame == expected(&metadata, &data));
}

#[test]
fn what_the_peer_still_reads_is_copied_when_it_is_sent_again_and_in_place_after_that() {
    let (mut link, _) = trusting(&small());
    let data = written(&mut link.producer, 8000, 5).unwrap();
    assert_eq!(send(&mut link.producer, b"first", &data), Sent::Done);
    let (first, is_in_place) = recv_one(&mut link, &data);
    assert!(is_in_place);
    assert_eq!(send(&mut link.producer, b"again", &data), Sent::Done);
    let (again, is_in_place) = recv_one(&mut link, &data);
    assert!(!is_in_place, "the headroom is in use");
    assert!(first == expected(b"first", &data));
    assert!(again == expected(b"again", &data));
    drop(first);
    assert_eq!(send(&mut link.producer, b"third", &data), Sent::Done);
    let (third, is_in_place) = recv_one(&mut link, &data);
    assert!(is_in_place, "the peer is done with it");
    assert!(third == expected(b"third", &data));
}

#[test]
fn a_loan_of_another_link_is_copied() {
    let (mut other, _) = trusting(&small());
    let (mut link, _) = trusting(&small());
    let own = written(&mut link.producer, 8000, 1).unwrap();
    let data = written(&mut other.producer, 8000, 5).unwrap();
    assert_eq!(send(&mut link.producer, b"", &data), Sent::Done);
    let (frame, is_in_place) = recv_one(&mut link, &data);
    assert!(!is_in_place);
    assert!(frame == expected(b"", &data));
    assert!(own.iter().all(|byte| *byte == 1));
}

#[test]
fn a_loan_without_room_in_the_ring_waits_like_any_frame() {
    let mut link = OneWay::new(&small());
    let data = written(&mut link.producer, 8000, 5).unwrap();
    while link.send(b"short") == Sent::Done {}
    assert_eq!(send(&mut link.producer, b"", &data), Sent::Full);
    let sent = link.recv_all().len();
    assert_eq!(send(&mut link.producer, b"", &data), Sent::Done);
    assert_eq!(link.recv_all(), [expected(b"", &data)], "after {sent}");
}

#[test]
fn lengths_that_are_not_lent() {
    let mut link = OneWay::new(&small());
    let longest = small().arena_len() / 2 - HEADROOM;
    for len in [0, 1, MIN_LENT_LEN - 1, longest + 1, usize::MAX] {
        assert!(link.producer.lend(len).is_none(), "{len}");
    }
    assert!(link.producer.lend(longest).is_some());
    let mut without_arena = OneWay::new(&geometry(4096, 0));
    assert!(without_arena.producer.lend(MIN_LENT_LEN).is_none());
}

#[test]
fn half_the_arena_is_lent_at_most_and_the_longest_frames_pass_meanwhile() {
    let geometry = small();
    for is_kept in [false, true] {
        let (mut link, _) = trusting(&geometry);
        let held = all(&mut link.producer, MIN_LENT_LEN);
        // Two blocks each, because of the headroom.
        assert_eq!(held.len(), 4);
        let mut kept = Vec::new();
        for data in &held {
            assert_eq!(send(&mut link.producer, b"", data), Sent::Done);
            kept.extend(recv_kept(&mut link));
        }
        if !is_kept {
            kept.clear();
        }
        let frame = vec![2; geometry.max_whole_len()];
        for _ in 0..5 {
            assert_eq!(link.send(&frame), Sent::Done);
            assert!(link.recv_all() == std::slice::from_ref(&frame));
        }
        assert!(link.producer.lend(MIN_LENT_LEN).is_none());
        assert!(held.iter().flatten().all(|byte| *byte == 1));
    }
}

#[test]
fn a_loan_that_was_not_sent_comes_back_when_it_is_dropped() {
    let mut link = OneWay::new(&small());
    let mut held = all(&mut link.producer, 8000);
    assert_eq!(held.len(), 4);
    drop(held.pop());
    held.extend(written(&mut link.producer, 8000, 1));
    assert_eq!(held.len(), 4, "the one that came back");
    let slice = held.pop().unwrap().slice(10..20);
    assert!(link.producer.lend(8000).is_none(), "a part of it is held");
    std::thread::spawn(move || drop(slice)).join().unwrap();
    assert!(link.producer.lend(8000).is_some());
}

#[test]
fn a_loan_that_was_sent_comes_back_when_both_sides_are_done_with_it() {
    for is_peer_first in [true, false] {
        let (mut link, _) = trusting(&small());
        let longest = small().arena_len() / 2 - HEADROOM;
        let data = written(&mut link.producer, longest, 5).unwrap();
        assert_eq!(send(&mut link.producer, b"", &data), Sent::Done);
        assert!(link.producer.lend(longest).is_none(), "both have it");
        let (frame, _) = recv_one(&mut link, &data);
        let (first, last) = if is_peer_first {
            (frame, data)
        } else {
            (data, frame)
        };
        drop(first);
        assert!(link.producer.lend(longest).is_none(), "one has it");
        assert!(last.ends_with(&[5; 100]));
        drop(last);
        assert!(link.producer.lend(longest).is_some());
    }
}

#[test]
fn a_loan_outlives_its_link() {
    let mut link = OneWay::new(&small());
    let mut memory = link.producer.lend(8000).unwrap();
    let data = written(&mut link.producer, 8000, 5).unwrap();
    drop(link);
    (*memory).as_mut().fill(7);
    assert!((*memory).as_ref().iter().all(|byte| *byte == 7));
    assert!(data.iter().all(|byte| *byte == 5));
    let mut next = OneWay::new(&small());
    assert_eq!(send(&mut next.producer, b"", &data), Sent::Done);
    assert_eq!(next.recv_all(), [expected(b"", &data)]);
}

#[test]
fn a_consumer_that_gives_back_early_does_not_change_what_the_application_holds() {
    for seed in seeds(if cfg!(miri) { 1 } else { 50 }) {
        let mut random = Random::new(seed);
        let mut link = OneWay::new(&small());
        let mut held = Vec::new();
        for step in 0..if cfg!(miri) { 30 } else { 200 } {
            for block in 0..16 {
                let generation = random.within(0..=60) as u64;
                link.consumer_words.store(RELEASED + 8 * block, generation);
            }
            let byte = random.within(1..=255).to_le_bytes()[0];
            if let Some(data) = written(&mut link.producer, 4096, byte) {
                held.push((byte, data));
            }
            if let Some((_, data)) = held.first() {
                let _ = send(&mut link.producer, b"", data);
            }
            let _ = link.send(&[0; 5000]);
            let _ = recv(&mut link.consumer);
            if random.once_in(4) && !held.is_empty() {
                held.remove(0);
            }
            for (byte, data) in &held {
                assert!(*data == vec![*byte; 4096], "seed {seed}, step {step}");
            }
        }
    }
}

#[test]
fn loans_and_frames_in_any_order_arrive_whole_and_all_memory_comes_back() {
    for seed in seeds(if cfg!(miri) { 2 } else { 20 }) {
        let mut random = Random::new(seed);
        let geometry = [small(), geometry(8192, 1 << 18)][random.within(0..=1)];
        let (mut link, _) = if random.once_in(2) {
            trusting(&geometry)
        } else {
            (OneWay::new(&geometry), Default::default())
        };
        let (mut held, mut kept, mut sent) = (Vec::new(), Vec::new(), VecDeque::new());
        for step in 0..if cfg!(miri) { 40_u32 } else { 200 } {
            match random.within(0..=5) {
                0 | 1 => {
                    let len = random.within(1..=geometry.arena_len() / 4);
                    let byte = random.number().to_le_bytes()[0];
                    let data = written(&mut link.producer, len, byte);
                    let copy = vec![byte; len];
                    held.push((data.unwrap_or_else(|| copy.clone().into()), copy));
                }
                2 | 3 if !held.is_empty() => {
                    let (data, _) = &held[random.within(0..=held.len() - 1)];
                    let end = random.within(1..=data.len());
                    let begin = random.within(0..=1) * random.within(0..=end - 1);
                    let data = data.slice(begin..end);
                    let metadata = vec![step.to_le_bytes()[0]; random.length(HEADROOM * 2)];
                    if send(&mut link.producer, &metadata, &data) == Sent::Done {
                        sent.push_back(expected(&metadata, &data));
                    }
                }
                4 if !held.is_empty() => drop(held.swap_remove(random.within(0..=held.len() - 1))),
                _ => {
                    for frame in recv_kept(&mut link) {
                        kept.push((frame, sent.pop_front().expect("one for each")));
                    }
                }
            }
            if random.once_in(3) && !kept.is_empty() {
                kept.swap_remove(random.within(0..=kept.len() - 1));
            }
            for (data, expected) in &held {
                assert!(data == expected, "seed {seed}, step {step}");
            }
            for (frame, expected) in &kept {
                assert!(frame == expected, "seed {seed}, step {step}");
            }
        }
        drop((held, kept));
        while !recv_kept(&mut link).is_empty() {}
        let longest = geometry.arena_len() / 2 - HEADROOM;
        assert!(link.producer.lend(longest).is_some(), "seed {seed}");
        assert_eq!(link.send(&vec![1; geometry.max_whole_len()]), Sent::Done);
    }
}
