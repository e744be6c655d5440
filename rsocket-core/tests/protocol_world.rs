//! Whole connections in virtual time: two sessions, a link that hesitates and
//! breaks, and applications on both sides that do as they please.
//!
//! `RSOCKET_TEST_SEED=n` lives through one seed again.

use rsocket_core::testkit::{Outcome, live_through, live_through_cuts, seeds};

// [C045] [C053] [C085] [C123] [C125] [C217] [C218] [C221] [C250] [C256]
#[test]
fn whatever_happens_payloads_arrive_once_and_nobody_waits_for_ever() {
    live_through_all(500, live_through);
}

#[test]
#[ignore = "takes minutes; for nights"]
fn whatever_happens_payloads_arrive_once_and_nobody_waits_for_ever_at_length() {
    live_through_all(50_000, live_through);
}

// [C267] [C282] [C283] [C286] [C292] [C296] [C299] [C301] [C304] [C305] [C308]
#[test]
fn whatever_happens_to_links_payloads_arrive_once_and_in_order() {
    let sum = live_through_all(500, live_through_cuts);
    if sum.requests > 1_000 {
        assert!(sum.resumptions > 1_000, "few links were cut");
        assert!(sum.resent > sum.resumptions, "little was lost");
    }
}

#[test]
#[ignore = "takes minutes; for nights"]
fn whatever_happens_to_links_payloads_arrive_once_and_in_order_at_length() {
    live_through_all(20_000, live_through_cuts);
}

fn live_through_all(count: u64, live_through: fn(u64) -> Outcome) -> Outcome {
    let mut sum = Outcome::default();
    let seeds = seeds(count);
    for seed in &seeds {
        let outcome = live_through(*seed);
        sum.requests += outcome.requests;
        sum.payloads += outcome.payloads;
        sum.frames += outcome.frames;
        sum.ignored += outcome.ignored;
        sum.refused += outcome.refused;
        sum.resumptions += outcome.resumptions;
        sum.resent += outcome.resent;
    }
    println!("{sum:?}");
    if seeds.len() > 1 {
        assert!(sum.payloads as u64 > 100 * count, "too little happened");
        assert!(sum.ignored > 0 && sum.refused > 0, "too little happened");
    }
    sum
}
