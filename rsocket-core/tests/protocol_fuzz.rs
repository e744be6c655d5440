//! Nonsense: any frames and any calls, in any order.
//!
//! `RSOCKET_TEST_SEED=n` runs one seed again. `fuzz/README.md` says how to let a
//! fuzzer look for more.
#![expect(
    clippy::disallowed_methods,
    reason = "a test starts its clock somewhere"
)]

use std::time::Instant;

use rsocket_core::testkit::{Random, Torment, seeds};

const STEPS: usize = 600;

/// Names the seed if the test fails.
struct SeedNote(u64);

impl Drop for SeedNote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("RSOCKET_TEST_SEED={}", self.0);
        }
    }
}

// [C013] [C120] [C201] [C222] [C223] [C252] [C256] [C262] [C267] [C288] [C292]
// [C294] [C301] [C306] [C308] [C320] [C330] [C339]
#[test]
fn no_frame_and_no_call_is_a_panic_or_breaks_a_limit_or_a_rule() {
    torment_all(1_000);
}

#[test]
#[ignore = "takes minutes; for nights"]
fn no_frame_and_no_call_is_a_panic_or_breaks_a_limit_or_a_rule_at_length() {
    torment_all(100_000);
}

fn torment_all(count: u64) {
    for seed in seeds(count) {
        let _note = SeedNote(seed);
        let mut torment = Torment::new(Random::new(seed), Instant::now()).logged();
        torment.run(STEPS);
        torment.end();
    }
}

// [C013]: not even when nothing that comes is a frame.
#[test]
fn no_bytes_are_a_panic() {
    for seed in seeds(300) {
        let _note = SeedNote(seed);
        let mut random = Random::new(seed);
        let mut torment = Torment::new(Random::new(seed), Instant::now()).logged();
        torment.run(10);
        for _ in 0..50 {
            let len = random.length(60);
            let mut bytes = random.bytes(len);
            // On low ids, and to be ignored if malformed: else it ends at once.
            for (at, byte) in [0, 0, 0, 1].into_iter().enumerate() {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            if let Some(flags) = bytes.get_mut(4) {
                *flags |= 2;
            }
            torment.hear(&bytes);
            torment.check();
        }
    }
}
