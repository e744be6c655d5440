//! Peers that break the rules.

use std::ops::ControlFlow;

use bytes::Bytes;
use rsocket_core::{
    testkit::{Random, seeds},
    transport::OutFrame,
};

use super::{
    tests::{OneWay, geometry, recv, small},
    *,
};
use crate::{
    arena::Loan,
    layout::{self, CONTROL_LEN, Geometry, MAX_BLOCKS, RELEASED},
    lent::HEADROOM,
    mem::{self, Data, MappedData, Words},
};

#[test]
fn a_head_that_cannot_be_is_an_error() {
    for head in [1, 64 * 63 + 8, 64 * 64, 1 << 63, u64::MAX] {
        let mut link = OneWay::new(&geometry(4096, 0));
        while link.send(&[1]) == Sent::Done {}
        link.consumer_words.store(layout::HEAD, head);
        let frame = Bytes::from(vec![1; 1024]);
        let (seen, tail) = (0, 64 * 63);
        assert_eq!(
            link.producer.try_send(&OutFrame::encoded(&frame)),
            Err(Corrupt::Head { head, seen, tail })
        );
    }
}

#[test]
fn a_head_that_goes_back_is_an_error() {
    let mut link = OneWay::new(&geometry(4096, 0));
    while link.send(&[1]) == Sent::Done {}
    assert_eq!(link.recv_all().len(), 63);
    while link.send(&[1]) == Sent::Done {}
    link.consumer_words.store(layout::HEAD, 64);
    let frame = Bytes::from_static(b"1");
    assert!(link.producer.try_send(&OutFrame::encoded(&frame)).is_err());
}

/// A consumer, and the region of its peer for a test to write.
fn lied_to(geometry: &Geometry) -> (MappedData, Consumer) {
    let ((_, data), from_producer) = mem::heap(geometry.region_len(), CONTROL_LEN);
    let ((words, _), _) = mem::heap(CONTROL_LEN, CONTROL_LEN);
    (data, Consumer::new(words, from_producer, geometry))
}

#[test]
fn a_record_that_cannot_be_is_an_error() {
    let geometry = small();
    let ring = geometry.ring_at();
    let longest = geometry.max_inline_len();
    let len = |len| Err(Corrupt::Len { at: 0, len });
    let record = |word| Err(Corrupt::Record { at: 0, word });
    let cases = [
        (commit_word(0, Kind::Inline, longest), Ok(1)),
        (commit_word(0, Kind::Inline, longest + 1), len(longest + 1)),
        (
            commit_word(0, Kind::Inline, (1 << 28) - 1),
            len((1 << 28) - 1),
        ),
        (commit_word(0, Kind::Loan, 23), len(23)),
        (commit_word(0, Kind::Loan, 25), len(25)),
        // Of another line, or of no kind: nothing that was sent.
        (commit_word(64, Kind::Inline, 1), Ok(0)),
        (1, Ok(0)),
        (u64::MAX, Ok(0)),
        (5 << 28, record(5 << 28)),
        (15 << 28, record(15 << 28)),
    ];
    for (word, expected) in cases {
        let (mut data, mut consumer) = lied_to(&geometry);
        data.store(ring, word);
        assert_eq!(recv(&mut consumer).0, expected, "{word:#x}");
    }
}

#[test]
fn a_loan_that_cannot_be_is_an_error() {
    let geometry = small();
    let (block, arena) = (4096, geometry.arena_len() as u64);
    let longest = geometry.max_whole_len() as u64;
    let headroom = HEADROOM as u64;
    let cases = [
        ([0, 1, 1], true),
        ([arena - block, block, 1], true),
        ([arena - longest, longest, 1], true),
        ([0, longest + 1, 1], false),
        ([arena - block, block + 1, 1], false),
        ([arena, 0, 1], false),
        // Within the headroom of a block, and behind it.
        ([1, 1, 1], true),
        ([headroom, longest, 1], true),
        ([arena - block + headroom, block - headroom, 1], true),
        ([arena - block + headroom, block - headroom + 1, 1], false),
        ([headroom + 1, 1, 1], false),
        ([block - 1, 1, 1], false),
        ([u64::MAX - 4095, 1, 1], false),
        ([0, u64::MAX, 1], false),
    ];
    for (words, is_loan) in cases {
        let (mut data, mut consumer) = lied_to(&geometry);
        let ring = geometry.ring_at();
        for (i, word) in words.into_iter().enumerate() {
            data.store(ring + 8 + 8 * i, word);
        }
        data.store(ring, commit_word(0, Kind::Loan, 24));
        let [offset, len, _] = words;
        let expected = if is_loan {
            Ok(1)
        } else {
            Err(Corrupt::Loan { offset, len })
        };
        assert_eq!(recv(&mut consumer).0, expected, "{words:?}");
    }
}

#[test]
fn pieces_of_a_frame_that_never_ends_are_an_error_and_not_kept() {
    let geometry = small();
    let (mut data, mut consumer) = lied_to(&geometry);
    let piece = geometry.piece_len();
    let mut at = 0;
    let error = loop {
        let word = commit_word(at, Kind::Piece, piece);
        let offset = usize::try_from(at).unwrap() % geometry.ring_len();
        data.store(geometry.ring_at() + offset, word);
        at += span(piece);
        let next = usize::try_from(at).unwrap() % geometry.ring_len();
        data.store(geometry.ring_at() + next, 0);
        match recv(&mut consumer).0 {
            Ok(n) => assert_eq!(n, 0),
            Err(error) => break error,
        }
        assert!(at < 1 << 26, "64 MiB and no end");
    };
    assert!(matches!(error, Corrupt::Len { .. }), "{error}");
}

#[test]
fn a_loan_or_a_close_within_a_frame_of_pieces_is_an_error() {
    let geometry = small();
    let piece = geometry.piece_len();
    for (kind, len) in [(Kind::Loan, 24), (Kind::Close, 0), (Kind::Piece, piece - 1)] {
        let (mut data, mut consumer) = lied_to(&geometry);
        data.store(geometry.ring_at(), commit_word(0, Kind::Piece, piece));
        let next = span(piece);
        let at = geometry.ring_at() + usize::try_from(next).unwrap();
        data.store(at, commit_word(next, kind, len));
        assert!(recv(&mut consumer).0.is_err(), "{kind:?}");
    }
}

#[test]
fn every_release_word_of_a_loan_lies_between_its_bounds() {
    for arena_len in [Geometry::MIN_ARENA_LEN, Geometry::MAX_ARENA_LEN] {
        let geometry = geometry(4096, arena_len);
        let last = arena_len - geometry.block_len;
        let words = [last as u64, 1, 1];
        let loan = Loan::from_words(words, &geometry).expect("the last block");
        assert!(loan.release_word(&geometry) < RELEASED + 8 * MAX_BLOCKS);
    }
}

#[test]
fn a_consumer_that_gives_back_what_it_was_not_lent_harms_only_itself() {
    for seed in seeds(if cfg!(miri) { 1 } else { 50 }) {
        let mut random = Random::new(seed);
        let mut link = OneWay::new(&small());
        for _ in 0..if cfg!(miri) { 20 } else { 200 } {
            let block = random.within(0..=15);
            let generation = random.within(0..=30) as u64;
            link.consumer_words.store(RELEASED + 8 * block, generation);
            let frame = vec![1; random.within(1025..=32_768)];
            let frame = Bytes::from(frame);
            let _ = link.producer.try_send(&OutFrame::encoded(&frame)).unwrap();
            if random.once_in(2) {
                let (received, frames) = recv(&mut link.consumer);
                assert_eq!(received, Ok(frames.len()), "seed {seed}");
            }
        }
    }
}

/// Whatever is in the peer's region: an error or frames, and no more memory
/// than a frame's.
#[test]
fn a_region_of_noise_is_an_error_or_frames() {
    let geometry = small();
    for seed in seeds(if cfg!(miri) { 5 } else { 500 }) {
        let mut random = Random::new(seed);
        let (mut data, mut consumer) = lied_to(&geometry);
        for round in 0..50 {
            for _ in 0..random.within(1..=20) {
                let line = random.within(0..=63);
                let word = match random.within(0..=3) {
                    0 => random.number(),
                    1 => random.length(1 << 20) as u64,
                    // Close to what is expected there.
                    _ => {
                        let kind = [Kind::Inline, Kind::Loan][random.within(0..=1)];
                        let len = if random.once_in(2) {
                            24
                        } else {
                            random.length(1 << 12)
                        };
                        commit_word(64 * line as u64, kind, len)
                    }
                };
                let at = geometry.ring_at()
                    + 64 * line
                    + 8 * random.within(0..=3) * random.within(0..=1);
                data.store(at, word);
            }
            let (received, frames) = recv(&mut consumer);
            assert!(frames.len() <= 64, "seed {seed}, round {round}");
            assert!(
                frames
                    .iter()
                    .all(|frame| frame.len() <= geometry.max_whole_len())
            );
            let _ = (consumer.room_bell(), consumer.announce_sleep());
            if received.is_err() {
                break;
            }
        }
    }
}

/// A file of the kind that regions lie in.
#[cfg(not(miri))]
fn region_file(geometry: &Geometry) -> std::fs::File {
    let file = rustix::fs::memfd_create("region", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = std::fs::File::from(file);
    file.set_len(geometry.region_len() as u64).unwrap();
    file
}

#[cfg(not(miri))]
#[test]
fn a_peer_who_scribbles_over_all_that_it_has_causes_errors_at_most() {
    use std::{
        sync::atomic::{AtomicBool, Ordering::Relaxed},
        thread,
        time::{Duration, Instant},
    };

    const LEAST: Duration = Duration::from_millis(300);
    /// Until each side had a turn, however busy the machine is.
    const MOST: Duration = Duration::from_secs(30);

    /// What a liar writes, if it is a good one.
    fn lie(random: &mut Random, at: usize, geometry: &Geometry) -> u64 {
        let line = (at - CONTROL_LEN.min(at)) as u64 / 64 * 64;
        match random.within(0..=4) {
            0 => random.number(),
            1 => 64 * random.within(0..=1 << 10) as u64,
            2 => {
                let block = random.within(0..=geometry.arena_len()) as u64 & !4095;
                block + (random.once_in(2) as u64) * random.within(0..=HEADROOM + 1) as u64
            }
            3 => commit_word(line, Kind::Loan, 24),
            _ => commit_word(line, Kind::Inline, random.length(1 << 10)),
        }
    }

    let geometry = small();
    let len = geometry.region_len();
    let seed = seeds(1)[0];
    let (own, peer) = (region_file(&geometry), region_file(&geometry));
    // All of the peer's region as words, to be written by the liar alone.
    let (lies, _) = mem::map_own(&peer, len, len).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(seed);
            while !stop.load(Relaxed) {
                // Half of them where this side reads much.
                let at = match random.within(0..=5) {
                    0 => layout::HEAD,
                    1 => layout::WAIT,
                    2 => RELEASED + 8 * random.within(0..=15),
                    3 => geometry.ring_at() + 64 * random.within(0..=63),
                    4 => geometry.ring_at() + 8 * random.within(0..=511),
                    _ => 8 * random.within(0..=len / 8 - 1),
                };
                lies.store(at, lie(&mut random, at, &geometry));
            }
        });
        let mut random = Random::new(!seed);
        let begin = Instant::now();
        let (mut errors, mut frames) = (0, 0);
        while begin.elapsed() < LEAST || (errors == 0 || frames == 0) && begin.elapsed() < MOST {
            let (words, data) = mem::map_own(&own, len, CONTROL_LEN).unwrap();
            let peer = mem::map_peer(&peer, len).unwrap();
            let mut producer: Producer =
                Producer::new(words.clone(), data, peer.clone(), &geometry);
            let mut consumer: Consumer = Consumer::new(words, peer.clone(), &geometry);
            for _ in 0..1000 {
                let frame = Bytes::from(vec![1; random.length(geometry.max_whole_len())]);
                if producer.try_send(&OutFrame::encoded(&frame)).is_err() {
                    errors += 1;
                    break;
                }
                let _ = producer.wants_bell();
                producer.announce_wait();
                let received = consumer.recv(&mut |frame| {
                    assert!(frame.as_slice().len() <= geometry.max_whole_len());
                    frames += 1;
                    ControlFlow::Continue(())
                });
                if received.is_err() {
                    errors += 1;
                    break;
                }
                let _ = (consumer.room_bell(), consumer.announce_sleep());
                let _ = layout::check(&peer, len);
            }
        }
        stop.store(true, Relaxed);
        assert!(errors > 0, "seed {seed}: no lie was noticed");
        assert!(frames > 0, "seed {seed}: no lie was believed");
    });
}
