use std::{collections::VecDeque, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use rsocket_core::{
    testkit::{Random, seeds},
    transport::{InFrame, OutFrame, Part},
};

use super::*;
use crate::{
    layout::{self, CONTROL_LEN, Geometry},
    mem::{self, MappedPeer, MappedWords, Peer, Words},
};

/// Both regions of a connection, on the heap, with frames in one direction.
pub(super) struct OneWay {
    pub(super) producer: Producer,
    pub(super) consumer: Consumer,
    /// The consumer's words, to lie with.
    pub(super) consumer_words: MappedWords,
}

impl OneWay {
    pub(super) fn new(geometry: &Geometry) -> Self {
        let ((words, data), from_producer) = mem::heap(geometry.region_len(), CONTROL_LEN);
        let ((consumer_words, _), from_consumer) = mem::heap(CONTROL_LEN, CONTROL_LEN);
        Self {
            producer: Producer::new(words, data, from_consumer, geometry),
            consumer: Consumer::new(consumer_words.clone(), from_producer, geometry),
            consumer_words,
        }
    }

    pub(super) fn send(&mut self, frame: &[u8]) -> Sent {
        let frame = Bytes::copy_from_slice(frame);
        self.producer
            .try_send(&OutFrame::encoded(&frame))
            .expect("the consumer keeps the rules")
    }

    /// All frames of one call.
    fn recv(&mut self) -> Vec<Vec<u8>> {
        let (received, frames) = recv(&mut self.consumer);
        assert_eq!(received, Ok(frames.len()));
        frames
    }

    pub(super) fn recv_all(&mut self) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let frames = self.recv();
            if frames.is_empty() {
                return all;
            }
            all.extend(frames);
        }
    }
}

pub(super) fn recv(consumer: &mut Consumer) -> (Result<usize, Corrupt>, Vec<Vec<u8>>) {
    let mut frames = Vec::new();
    let received = consumer.recv(&mut |frame| {
        frames.push(frame.as_slice().to_vec());
        ControlFlow::Continue(())
    });
    (received, frames)
}

pub(super) fn geometry(ring_len: usize, arena_len: usize) -> Geometry {
    Geometry::new(ring_len, arena_len).unwrap()
}

/// 4 KiB of ring and 64 KiB of arena: the least.
pub(super) fn small() -> Geometry {
    geometry(Geometry::MIN_RING_LEN, Geometry::MIN_ARENA_LEN)
}

#[test]
fn frames_of_all_lengths_arrive_whole_and_in_order() {
    let count = if cfg!(miri) { 2 } else { 30 };
    for seed in seeds(count) {
        let mut random = Random::new(seed);
        let arena_len = if random.once_in(2) { 65_536 } else { 0 };
        let geometry = geometry(4096, arena_len);
        let mut link = OneWay::new(&geometry);
        let mut expected = VecDeque::new();
        let mut is_asleep = false;
        let steps = if cfg!(miri) { 100 } else { 600 };
        for step in 0..steps {
            if random.once_in(3) {
                if is_asleep && !expected.is_empty() {
                    link.consumer.awake();
                    is_asleep = false;
                }
                for frame in link.recv() {
                    assert_eq!(Some(frame), expected.pop_front(), "seed {seed}");
                }
                if expected.is_empty() && !is_asleep {
                    is_asleep = link.consumer.announce_sleep();
                    assert!(is_asleep, "seed {seed}, step {step}: nothing is there");
                }
                continue;
            }
            let longest = geometry.max_whole_len();
            let len = random.length(longest);
            let frame = random.bytes(len);
            match link.send(&frame) {
                Sent::Done => {
                    expected.push_back(frame);
                    let wants_bell = link.producer.wants_bell();
                    let is_first = expected.len() == 1;
                    assert_eq!(
                        wants_bell,
                        is_asleep && is_first,
                        "seed {seed}, step {step}"
                    );
                }
                Sent::Full => assert!(!expected.is_empty(), "no room in nothing, seed {seed}"),
            }
        }
    }
}

#[test]
fn what_was_sent_is_seen_in_order_and_all_of_it_when_its_batch_has_ended() {
    for seed in seeds(if cfg!(miri) { 2 } else { 30 }) {
        let mut random = Random::new(seed);
        let mut link = OneWay::new(&geometry(8192, 0));
        let (mut sent, mut seen) = (0_u32, 0_u32);
        for _ in 0..if cfg!(miri) { 100 } else { 2_000 } {
            if !random.once_in(3) {
                let mut frame = sent.to_be_bytes().to_vec();
                frame.resize(4 + random.length(300), 0xa5);
                sent += u32::from(link.send(&frame) == Sent::Done);
            } else if random.once_in(2) {
                seen += check(link.recv(), seen, seed);
            } else {
                let _ = link.producer.wants_bell();
                seen += check(link.recv_all(), seen, seed);
                assert_eq!(seen, sent, "seed {seed}");
            }
            assert!(seen <= sent);
        }
    }

    fn check(frames: Vec<Vec<u8>>, from: u32, seed: u64) -> u32 {
        for (number, frame) in (from..).zip(&frames) {
            assert_eq!(frame[..4], number.to_be_bytes(), "seed {seed}");
        }
        u32::try_from(frames.len()).unwrap()
    }
}

#[test]
fn a_batch_is_seen_when_it_ends_which_it_does_by_itself_after_a_while() {
    let mut link = OneWay::new(&geometry(65_536, 0));
    let end_batch = |link: &mut OneWay| {
        let _ = link.producer.wants_bell();
    };
    let _ = link.send(b"a first frame is seen at once");
    assert_eq!(link.recv().len(), 1);
    let _ = link.send(b"and so is a second one");
    assert_eq!(link.recv().len(), 1);
    end_batch(&mut link);

    for _ in 0..3 {
        let _ = link.send(b"now more than one is expected");
        assert!(!link.consumer.has_record());
    }
    end_batch(&mut link);
    assert_eq!(link.recv().len(), 3);

    let records = usize::try_from(BATCH_LEN).unwrap() / LINE;
    for _ in 1..records {
        let _ = link.send(b"short");
        assert!(!link.consumer.has_record());
    }
    let _ = link.send(b"the last one of 4 KiB");
    assert_eq!(link.recv_all().len(), records);
    end_batch(&mut link);

    let _ = link.send(b"alone");
    end_batch(&mut link);
    let _ = link.send(b"so the next one is not waited for");
    assert_eq!(link.recv().len(), 2);
}

#[test]
fn bytes_of_a_frame_are_never_taken_for_a_record() {
    for batch in 1..=3 {
        let mut link = OneWay::new(&geometry(4096, 0));
        let mut begin = 0;
        for frame in (0..1_000_u64).step_by(batch) {
            let sent = Vec::from_iter((frame..).take(batch).map(|frame| {
                // Long ones of several lengths, and short ones that end among their
                // lines.
                let len = match frame % 5 {
                    0 | 2 => 700,
                    1 => 333,
                    _ => 8,
                };
                // Each word is what would begin a record there one lap later.
                let bytes = Vec::from_iter((0..len / 8).flat_map(|word| {
                    let at = begin + 8 * (word + 1) + 4096;
                    commit_word(at / 64 * 64, Kind::Inline, 1).to_ne_bytes()
                }));
                assert_eq!(link.send(&bytes), Sent::Done);
                begin += span(bytes.len());
                bytes
            }));
            let _ = link.producer.wants_bell();
            let frames = link.recv_all();
            assert_eq!(frames, sent, "from frame {frame} on, in batches of {batch}");
        }
    }
}

#[test]
fn a_frame_of_any_length_passes_an_empty_ring_wherever_it_begins() {
    for arena_len in [0, 65_536] {
        let geometry = geometry(4096, arena_len);
        let mut link = OneWay::new(&geometry);
        for begin in 0..if cfg!(miri) { 8 } else { 64 } {
            for len in [
                0,
                1,
                SHORT_LEN,
                SHORT_LEN + 1,
                512,
                1024,
                geometry.max_whole_len(),
            ] {
                let frame = vec![begin; len];
                assert_eq!(link.send(&frame), Sent::Done, "{len} bytes after {begin}");
                assert_eq!(link.recv_all(), [frame]);
            }
        }
    }
}

#[test]
fn parts_are_put_together() {
    let mut link = OneWay::new(&small());
    for len in [3, 300, 3000] {
        let bytes = vec![7; len];
        let frame = OutFrame::new(b"head", Part::slice(b"metadata"), Part::slice(&bytes));
        assert_eq!(link.producer.try_send(&frame), Ok(Sent::Done));
        assert_eq!(link.recv(), [frame.to_vec()]);
    }
}

#[test]
fn a_frame_that_is_too_long_for_both_goes_in_pieces() {
    let geometry = small();
    for seed in seeds(if cfg!(miri) { 1 } else { 20 }) {
        let mut random = Random::new(seed);
        let mut link = OneWay::new(&geometry);
        let longest = 4 * geometry.max_whole_len();
        let len = random.within(geometry.max_whole_len() + 1..=longest);
        let bytes = random.bytes(len);
        let (metadata, data) = bytes.split_at(random.within(0..=len));
        let frame = OutFrame::new(&[], Part::slice(metadata), Part::slice(data));
        let (mut sent, mut received) = (0, Vec::new());
        while sent < len {
            if link.producer.try_send_piece(&frame, &mut sent) == Ok(Sent::Full) {
                received.extend(link.recv());
            }
        }
        let _ = link.send(b"next");
        received.extend(link.recv_all());
        assert_eq!(received, [bytes, b"next".to_vec()], "seed {seed}");
    }
}

#[test]
fn a_full_ring_takes_nothing_until_an_eighth_was_read() {
    let mut link = OneWay::new(&geometry(4096, 0));
    let mut sent = 0;
    while link.send(&[sent]) == Sent::Done {
        sent += 1;
    }
    // 64 lines, one of which stays free.
    assert_eq!(sent, 63);
    assert!(!link.consumer.room_bell(), "nobody waits");

    link.producer.announce_wait();
    assert_eq!(link.send(&[sent]), Sent::Full);
    let mut left = 7;
    let received = link.consumer.recv(&mut |_| {
        left -= 1;
        if left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert_eq!(received, Ok(7));
    assert!(!link.consumer.room_bell(), "less than an eighth");
    assert_eq!(link.send(&[sent]), Sent::Full);

    assert_eq!(link.recv().len(), 56);
    assert!(link.consumer.room_bell(), "the producer waits");
    assert!(!link.consumer.room_bell(), "it was rung");
    assert_eq!(link.send(&[sent]), Sent::Done);
    assert_eq!(link.recv().len(), 1);
    assert!(!link.consumer.room_bell(), "it waits no more");
}

#[test]
fn who_waits_for_more_than_there_is_is_not_rung_for_it_again() {
    let mut link = OneWay::new(&geometry(4096, 0));
    while link.send(&[1]) == Sent::Done {}
    link.producer.announce_wait();
    assert_eq!(link.recv_all().len(), 63);
    assert!(link.consumer.room_bell());
    // As if all that room were not enough.
    link.producer.announce_wait();
    assert_eq!(link.recv().len(), 0);
    assert!(
        !link.consumer.room_bell(),
        "there is no more room than before"
    );
}

#[test]
fn each_sleep_is_rung_for_once() {
    let mut link = OneWay::new(&small());
    assert!(link.consumer.announce_sleep());
    assert!(!link.producer.wants_bell(), "nothing was sent");
    let _ = link.send(b"1");
    let _ = link.send(b"2");
    assert!(link.producer.wants_bell());
    let _ = link.send(b"3");
    assert!(!link.producer.wants_bell(), "the bell was rung");
    link.consumer.awake();
    assert!(!link.consumer.announce_sleep(), "frames are there");
    assert_eq!(link.recv().len(), 3);
    assert!(link.consumer.announce_sleep());
    let _ = link.send(b"4");
    assert!(link.producer.wants_bell());
}

#[test]
fn a_close_is_seen_after_all_frames() {
    let mut link = OneWay::new(&small());
    let _ = link.send(b"last");
    assert_eq!(link.producer.try_close(), Ok(Sent::Done));
    assert!(!link.consumer.is_closed());
    assert_eq!(link.recv(), [b"last"]);
    assert!(link.consumer.is_closed());
    assert!(!link.consumer.has_record());
    assert_eq!(link.recv().len(), 0);
}

#[test]
fn a_sink_that_breaks_gets_the_rest_with_the_next_call() {
    let mut link = OneWay::new(&small());
    for frame in [b"1", b"2", b"3"] {
        let _ = link.send(frame);
    }
    let received = link.consumer.recv(&mut |_| ControlFlow::Break(()));
    assert_eq!(received, Ok(1));
    assert!(link.consumer.has_record());
    assert_eq!(link.recv(), [b"2", b"3"]);
}

#[test]
fn a_producer_without_pause_does_not_keep_the_consumer_for_ever() {
    let mut link = OneWay::new(&small());
    let mut delivered = 0;
    let OneWay {
        producer, consumer, ..
    } = &mut link;
    let received = consumer.recv(&mut |_| {
        delivered += 1;
        ControlFlow::Continue(())
    });
    assert_eq!(received, Ok(0));
    let frame = Bytes::from_static(b"again");
    assert_eq!(
        producer.try_send(&OutFrame::encoded(&frame)),
        Ok(Sent::Done)
    );
    let received = consumer.recv(&mut |_| {
        delivered += 1;
        assert!(delivered < 1000, "no end");
        assert_eq!(
            producer.try_send(&OutFrame::encoded(&frame)),
            Ok(Sent::Done)
        );
        ControlFlow::Continue(())
    });
    assert_eq!(received, Ok(delivered));
}

#[test]
fn an_arena_that_is_full_fills_again_once_it_was_read() {
    let geometry = small();
    let mut link = OneWay::new(&geometry);
    let frame = vec![1; geometry.max_whole_len()];
    for _ in 0..5 {
        assert_eq!(link.send(&frame), Sent::Done);
        assert_eq!(link.send(&frame), Sent::Done);
        assert_eq!(link.send(&frame), Sent::Full);
        link.producer.announce_wait();
        assert_eq!(link.recv().len(), 2);
        assert!(link.consumer.room_bell(), "loans were given back");
    }
}

#[test]
fn what_finds_no_room_in_the_arena_goes_through_the_ring_if_it_may() {
    let geometry = small();
    let mut link = OneWay::new(&geometry);
    let long = vec![1; geometry.max_whole_len()];
    let short = vec![2; geometry.max_inline_len()];
    for frame in [&long, &long, &short] {
        assert_eq!(link.send(frame), Sent::Done);
    }
    assert_eq!(link.send(&[3; 1025]), Sent::Full);
    assert_eq!(link.recv(), [long.clone(), long, short]);
}

/// A link whose consumer trusts the producer, and how often it rang.
pub(super) fn trusting(geometry: &Geometry) -> (OneWay, Arc<std::sync::atomic::AtomicUsize>) {
    let ((words, data), from_producer) = mem::heap(geometry.region_len(), CONTROL_LEN);
    let ((consumer_words, _), from_consumer) = mem::heap(CONTROL_LEN, CONTROL_LEN);
    let rung = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let bell = Arc::clone(&rung);
    let bell: Bell = Arc::new(move || {
        bell.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    let from_producer = mem::trust_for_test(from_producer);
    let link = OneWay {
        producer: Producer::new(words, data, from_consumer, geometry),
        consumer: Consumer::new(consumer_words.clone(), from_producer, geometry).lending(bell),
        consumer_words,
    };
    (link, rung)
}

pub(super) fn recv_kept(link: &mut OneWay) -> Vec<Bytes> {
    let mut frames = Vec::new();
    let received = link.consumer.recv(&mut |frame| {
        frames.push(match frame {
            InFrame::Shared(bytes) => bytes,
            InFrame::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        });
        ControlFlow::Continue(())
    });
    assert_eq!(received, Ok(frames.len()));
    frames
}

#[test]
fn a_trusted_peers_long_frames_are_lent_in_place_and_given_back_on_drop() {
    let geometry = small();
    let (mut link, rung) = trusting(&geometry);
    let rung = || rung.load(std::sync::atomic::Ordering::Relaxed);
    let frame = vec![1; 16 * 1024];
    for _ in 0..4 {
        assert_eq!(link.send(&frame), Sent::Done);
    }
    let mut kept = recv_kept(&mut link);
    assert!(kept.iter().all(|bytes| *bytes == frame));
    // Two lie in the first half; the others were copied.
    link.producer.announce_wait();
    let _ = link.consumer.room_bell();
    assert_eq!(link.send(&frame), Sent::Done);
    assert_eq!(link.send(&frame), Sent::Done);
    assert_eq!(link.send(&frame), Sent::Full);
    assert_eq!(rung(), 0);

    link.producer.announce_wait();
    drop(kept.split_off(2));
    assert_eq!(rung(), 0, "copies are nobody's loans");
    drop(kept.pop().unwrap().slice(10..20));
    assert_eq!(rung(), 1, "who gives back rings");
    assert_eq!(link.send(&[2; 16 * 1024]), Sent::Done);
    assert_eq!(kept.pop().unwrap(), frame, "what is kept does not change");
}

#[test]
fn one_ring_answers_an_announcement_however_many_loans_are_given_back() {
    let (mut link, rung) = trusting(&small());
    let rung = || rung.load(std::sync::atomic::Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(link.send(&[1; 16 * 1024]), Sent::Done);
    }
    let mut kept = recv_kept(&mut link);

    link.producer.announce_wait();
    drop(kept.pop());
    drop(kept.pop());
    assert_eq!(rung(), 1);
    assert!(!link.consumer.room_bell(), "it was rung for that");

    assert_eq!(link.send(&[1; 16 * 1024]), Sent::Done);
    let kept = recv_kept(&mut link);
    link.producer.announce_wait();
    drop(kept);
    assert_eq!(rung(), 2, "for another announcement it is rung again");
}

#[test]
fn a_trusted_peers_short_frames_are_lent_in_place_while_the_sink_runs() {
    let (mut link, _) = trusting(&geometry(4096, 0));
    for begin in 0..200 {
        let frame = vec![begin; 700];
        assert_eq!(link.send(&frame), Sent::Done);
        let mut seen = false;
        let received = link.consumer.recv(&mut |received| {
            seen = received.as_slice() == frame;
            ControlFlow::Continue(())
        });
        assert_eq!((received, seen), (Ok(1), true), "frame {begin}");
    }
}

#[test]
fn the_longest_frames_pass_although_everything_that_was_lent_is_kept() {
    let geometry = small();
    for seed in seeds(if cfg!(miri) { 1 } else { 20 }) {
        let mut random = Random::new(seed);
        let (mut link, _) = trusting(&geometry);
        let mut kept = Vec::new();
        for _ in 0..100 {
            let len = random.within(1025..=geometry.max_whole_len());
            let frame = random.bytes(len);
            while link.send(&frame) == Sent::Full {
                let frames = recv_kept(&mut link);
                assert!(!frames.is_empty(), "stuck, seed {seed}");
                kept.extend(frames);
            }
        }
        drop(link);
        // The memory stays while somebody looks at it.
        assert!(kept.iter().all(|frame| !frame.is_empty()));
    }
}

#[test]
fn a_header_is_read_as_it_was_written() {
    for (ring_len, arena_len) in [(4096, 0), (1 << 18, 1 << 22), (1 << 26, 1 << 16)] {
        let geometry = geometry(ring_len, arena_len);
        let ((words, _), peer) = mem::heap(CONTROL_LEN, CONTROL_LEN);
        layout::format(&words, &geometry, u128::MAX - 5);
        let header = layout::check(&peer, geometry.region_len()).unwrap();
        assert_eq!((header.geometry, header.id), (geometry, u128::MAX - 5));
    }
}

#[test]
fn a_header_with_any_bit_wrong_is_refused_or_says_what_it_says() {
    let geometry = small();
    let region_len = geometry.region_len();
    for at in (0..48).step_by(8) {
        for bit in 0..64 {
            let ((words, _), peer) = mem::heap(CONTROL_LEN, CONTROL_LEN);
            layout::format(&words, &geometry, 1);
            words.store(at, peer.load(at) ^ 1 << bit);
            assert!(
                layout::check(&peer, region_len).is_err(),
                "bit {bit} at {at}"
            );
        }
    }
    let ((_, _), peer): (_, MappedPeer) = mem::heap(CONTROL_LEN, CONTROL_LEN);
    assert!(layout::check(&peer, region_len).is_err(), "all zero");
    assert!(layout::check(&peer, 100).is_err(), "too short for a header");
}

#[test]
fn lengths_beyond_their_limits_are_no_geometry() {
    for (ring_len, arena_len) in [
        (2048, 0),
        (5000, 0),
        (1 << 27, 0),
        (4096, 4096),
        (4096, 70_000),
        (4096, 1 << 31),
    ] {
        assert!(
            Geometry::new(ring_len, arena_len).is_err(),
            "{ring_len}, {arena_len}"
        );
    }
}
