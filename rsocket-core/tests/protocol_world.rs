//! Whole connections in virtual time: two sessions, a link that hesitates and
//! breaks, and applications on both sides that do as they please.
//!
//! `RSOCKET_TEST_SEED=n` lives through one seed again.

use rsocket_core::testkit::{Outcome, live_through, seeds};

// [C045] [C053] [C085] [C123] [C125] [C217] [C218] [C221] [C250] [C256]
#[test]
fn whatever_happens_payloads_arrive_once_and_nobody_waits_for_ever() {
    live_through_all(500);
}

#[test]
#[ignore = "takes minutes; for nights"]
fn whatever_happens_payloads_arrive_once_and_nobody_waits_for_ever_at_length() {
    live_through_all(50_000);
}

fn live_through_all(count: u64) {
    let mut sum = Outcome::default();
    let seeds = seeds(count);
    for seed in &seeds {
        let outcome = live_through(*seed);
        sum.requests += outcome.requests;
        sum.payloads += outcome.payloads;
        sum.frames += outcome.frames;
        sum.ignored += outcome.ignored;
        sum.refused += outcome.refused;
    }
    println!("{sum:?}");
    if seeds.len() > 1 {
        assert!(sum.payloads as u64 > 100 * count, "too little happened");
        assert!(sum.ignored > 0 && sum.refused > 0, "too little happened");
    }
}
