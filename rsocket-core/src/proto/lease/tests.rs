//! The ledgers, in virtual time.

use std::time::{Duration, Instant};

use super::{Lease, LeaseConfig, LeaseGrant};
use crate::{error::Error, frame};

const MS: Duration = Duration::from_millis(1);

#[expect(clippy::disallowed_methods, reason = "any instant does")]
fn start() -> Instant {
    Instant::now()
}

fn config(grace: Duration) -> LeaseConfig {
    LeaseConfig {
        grace,
        ..LeaseConfig::default()
    }
}

fn requester(max_waiting: usize) -> (Lease, Instant) {
    let now = start();
    (Lease::new(now, &config(Duration::ZERO), max_waiting), now)
}

fn responder(grace: Duration) -> (Lease, Instant) {
    let now = start();
    (Lease::new(now, &config(grace), 0), now)
}

fn lease(requests: u32, ttl_ms: u32) -> frame::Lease<'static> {
    frame::Lease {
        ttl_ms,
        requests,
        metadata: None,
    }
}

/// Starts what may start now; says how many.
fn start_all(lease: &mut Lease) -> usize {
    std::iter::from_fn(|| lease.next_start(false).inspect(|_| lease.started())).count()
}

/// Grants, and the link takes it at once.
fn grant(lease: &mut Lease, now: Instant, requests: u32, ttl: Duration) {
    lease.tell_time(now);
    assert!(lease.grant(&LeaseGrant::new(requests, ttl)));
    lease.on_sent();
    lease.tell_time(now);
}

/// Requests of the peer that are admitted, out of `n` at this time.
fn admitted(lease: &mut Lease, now: Instant, n: usize) -> usize {
    lease.tell_time(now);
    (0..n).filter(|_| lease.admit().is_ok()).count()
}

// [C201] [C185]
#[test]
fn nothing_starts_before_the_first_lease_and_then_no_more_than_granted() {
    let (mut lease_, _) = requester(10);
    (0..5).for_each(|slot| lease_.wait(slot));
    assert_eq!(start_all(&mut lease_), 0);
    lease_.on_lease(&lease(3, 1_000));
    assert_eq!(start_all(&mut lease_), 3);
    assert_eq!(lease_.waiting().collect::<Vec<_>>(), [3, 4]);
}

// [C092]
#[test]
fn the_newest_lease_replaces_what_was_left_of_the_last() {
    let (mut lease_, _) = requester(10);
    lease_.on_lease(&lease(9, 1_000));
    lease_.on_lease(&lease(1, 1_000));
    (0..5).for_each(|slot| lease_.wait(slot));
    assert_eq!(start_all(&mut lease_), 1);
}

// [C093] [C095] [C201]
#[test]
fn after_its_time_nothing_is_left_of_a_lease() {
    let (mut lease_, now) = requester(10);
    lease_.tell_time(now + 50 * MS);
    lease_.on_lease(&lease(9, 100));
    assert_eq!(lease_.status().remaining_ttl, 100 * MS);
    lease_.wait(0);
    lease_.wait(1);
    lease_.tell_time(now + 149 * MS);
    assert_eq!(lease_.next_start(false), Some(0));
    lease_.started();
    assert_eq!(lease_.status().remaining_requests, 8);
    assert_eq!(lease_.poll_timeout(true), Some(now + 150 * MS));
    lease_.tell_time(now + 150 * MS);
    assert_eq!(lease_.next_start(false), None);
    assert_eq!(lease_.status().remaining_requests, 0);
    assert_eq!(lease_.status().remaining_ttl, Duration::ZERO);
}

// [C094] [A24]
#[test]
fn a_lease_of_zero_stops_requests() {
    for zero in [lease(0, 1_000), lease(5, 0), lease(0, 0)] {
        let (mut lease_, now) = requester(10);
        lease_.on_lease(&lease(5, 1_000));
        lease_.on_lease(&zero);
        lease_.tell_time(now);
        lease_.wait(0);
        assert_eq!(start_all(&mut lease_), 0);
    }
}

// [C207]
#[test]
fn waiting_requests_are_bounded_and_those_with_a_lease_do_not_wait_for_one() {
    let (mut lease_, _) = requester(2);
    for slot in 0..2 {
        lease_.takes_request().unwrap();
        lease_.wait(slot);
    }
    let error = lease_.takes_request().unwrap_err();
    assert!(matches!(error, Error::NoLease { limit: 2 }));
    // The link is full, but there is a lease for three.
    lease_.on_lease(&lease(3, 1_000));
    for slot in 2..5 {
        lease_.takes_request().unwrap();
        lease_.wait(slot);
    }
    assert!(lease_.takes_request().is_err());
    // Nothing waits where nothing may.
    let (mut lease_, _) = requester(0);
    assert!(lease_.takes_request().is_err());
    lease_.on_lease(&lease(1, 1_000));
    assert!(lease_.takes_request().is_ok());
}

// [C045] [C207] [C339]
#[test]
fn a_request_given_up_leaves_the_others_in_order() {
    let (mut lease_, _) = requester(10);
    (0..4).for_each(|slot| lease_.wait(slot));
    lease_.forget(1);
    lease_.forget(1);
    lease_.forget(9);
    assert_eq!(lease_.waiting().collect::<Vec<_>>(), [0, 2, 3]);
}

#[test]
fn requests_take_turns_with_streams_that_go_on() {
    let (mut lease_, _) = requester(10);
    lease_.on_lease(&lease(9, 1_000));
    lease_.wait(0);
    lease_.wait(1);
    assert_eq!(lease_.next_start(true), Some(0));
    lease_.started();
    assert_eq!(lease_.next_start(true), None);
    assert_eq!(lease_.next_start(false), Some(1));
    lease_.went_on();
    assert_eq!(lease_.next_start(true), Some(1));
}

// [A22] [C204]
#[test]
fn the_first_lease_may_be_waited_for_in_vain_or_for_a_time() {
    let now = start();
    let mut settings = config(Duration::ZERO);
    let mut patient = Lease::new(now, &settings, 0);
    patient.tell_time(now + 1_000_000 * MS);
    assert!(!patient.is_overdue());
    assert_eq!(patient.poll_timeout(true), None);
    settings.first_within = Some(100 * MS);
    let mut lease_ = Lease::new(now, &settings, 0);
    assert_eq!(lease_.poll_timeout(true), Some(now + 100 * MS));
    lease_.tell_time(now + 99 * MS);
    assert!(!lease_.is_overdue());
    lease_.tell_time(now + 100 * MS);
    assert!(lease_.is_overdue());
    lease_.on_lease(&lease(0, 1));
    assert!(!lease_.is_overdue());
}

// [C202]
#[test]
fn a_responder_admits_what_it_granted_and_says_why_no_more() {
    let (mut lease, now) = responder(Duration::ZERO);
    assert!(
        lease
            .admit()
            .unwrap_err()
            .contains("no lease was granted yet")
    );
    grant(&mut lease, now, 2, 100 * MS);
    assert_eq!(admitted(&mut lease, now, 2), 2);
    assert!(lease.admit().unwrap_err().contains("used up"));
    grant(&mut lease, now + 50 * MS, 2, 100 * MS);
    assert_eq!(admitted(&mut lease, now + 149 * MS, 1), 1);
    assert_eq!(admitted(&mut lease, now + 150 * MS, 1), 0);
    assert!(lease.admit().unwrap_err().contains("is over"));
}

// [C202]
#[test]
fn a_lease_that_waits_for_the_link_admits_nothing_and_its_time_does_not_run() {
    let (mut lease, now) = responder(Duration::ZERO);
    assert!(lease.grant(&LeaseGrant::new(5, 100 * MS)));
    assert_eq!(admitted(&mut lease, now + 90 * MS, 1), 0);
    lease.on_sent();
    // It wants to know at once when that was.
    assert!(lease.poll_timeout(true).unwrap() <= now + 90 * MS);
    assert_eq!(admitted(&mut lease, now + 90 * MS, 1), 1);
    assert_eq!(admitted(&mut lease, now + 189 * MS, 1), 1);
    assert_eq!(admitted(&mut lease, now + 190 * MS, 1), 0);
}

// [C092] [C093] [C202]
#[test]
fn what_was_sent_under_a_lease_before_its_end_arrived_is_admitted_within_the_grace() {
    let (mut lease, now) = responder(20 * MS);
    grant(&mut lease, now, 3, 100 * MS);
    // Replaced before it was used: its rest counts for the grace, not longer.
    grant(&mut lease, now + 50 * MS, 2, 100 * MS);
    assert_eq!(admitted(&mut lease, now + 60 * MS, 1), 1);
    assert_eq!(admitted(&mut lease, now + 69 * MS, 1), 1);
    assert_eq!(admitted(&mut lease, now + 70 * MS, 9), 2);
    // Over by its time: the grace counts from there.
    grant(&mut lease, now + 200 * MS, 2, 100 * MS);
    assert_eq!(admitted(&mut lease, now + 319 * MS, 1), 1);
    assert_eq!(admitted(&mut lease, now + 320 * MS, 1), 0);
}

#[test]
fn leases_without_end_do_not_pile_up() {
    let (mut lease, now) = responder(1_000_000 * MS);
    for _ in 0..10_000 {
        grant(&mut lease, now, 1, MS);
    }
    assert_eq!(admitted(&mut lease, now, 10_000), super::Grants::MAX_HELD);
}

// [C205] [C094]
#[test]
fn it_is_asked_again_when_the_time_is_over_even_if_nothing_was_granted() {
    let (mut lease, now) = responder(Duration::ZERO);
    assert!(!lease.is_due());
    lease.start_granting();
    assert!(lease.is_due());
    assert!(!lease.is_due(), "once");
    assert!(!lease.grant(&LeaseGrant::nothing(30 * MS)), "0 is not sent");
    assert_eq!(lease.poll_timeout(true), Some(now + 30 * MS));
    assert_eq!(lease.poll_timeout(false), None);
    lease.tell_time(now + 29 * MS);
    assert!(!lease.is_due());
    lease.tell_time(now + 30 * MS);
    assert!(lease.is_due());
    // Or as soon as enough was finished.
    let requests = LeaseGrant::new(4, 30 * MS).renew_after(2);
    assert!(lease.grant(&requests));
    for slot in 0..2 {
        assert!(!lease.is_due());
        lease.begin(slot);
        lease.gone(slot);
    }
    assert!(lease.is_due());
}

// [C206] [C297]
#[test]
fn void_leases_allow_nothing_but_what_is_sent_again() {
    let (mut lease_, now) = responder(1_000 * MS);
    lease_.on_lease(&lease(5, 1_000));
    grant(&mut lease_, now, 5, 1_000 * MS);
    lease_.wait(7);
    lease_.void();
    assert_eq!(lease_.next_start(false), None);
    assert_eq!(admitted(&mut lease_, now, 3), 3, "it was sent in time");
    assert!(lease_.is_due(), "a new one is to be granted");
    lease_.on_lease(&lease(1, 1_000));
    assert_eq!(lease_.next_start(false), Some(7), "it waited");
    grant(&mut lease_, now, 1, 1_000 * MS);
    assert_eq!(
        admitted(&mut lease_, now, 9),
        3,
        "the new one, and two again"
    );
}

// [C206]
#[test]
fn what_may_come_again_may_still_after_a_second_loss() {
    let (mut lease, now) = responder(1_000 * MS);
    grant(&mut lease, now, 5, 1_000 * MS);
    assert_eq!(admitted(&mut lease, now, 2), 2);
    lease.void();
    assert_eq!(admitted(&mut lease, now, 1), 1);
    lease.void();
    assert_eq!(
        admitted(&mut lease, now, 9),
        2,
        "never more than was granted"
    );
}

#[test]
fn what_is_sent_again_has_come_when_a_second_lease_is_granted() {
    let (mut lease, now) = responder(1_000 * MS);
    grant(&mut lease, now, 5, 1_000 * MS);
    lease.void();
    grant(&mut lease, now, 1, 1_000 * MS);
    grant(&mut lease, now, 1, 1_000 * MS);
    assert_eq!(admitted(&mut lease, now, 9), 2);
}

#[test]
fn the_load_says_what_happened_since_it_was_last_asked() {
    let (mut lease, now) = responder(Duration::ZERO);
    grant(&mut lease, now, 4, 1_000 * MS);
    assert_eq!(admitted(&mut lease, now, 5), 4);
    (0..4).for_each(|slot| lease.begin(slot));
    lease.tell_time(now + 10 * MS);
    lease.answered(0);
    lease.answered(0);
    lease.tell_time(now + 30 * MS);
    lease.answered(1);
    lease.gone(2);
    let load = lease.load(1, 2);
    assert_eq!((load.granted, load.started, load.finished), (4, 4, 3));
    assert_eq!((load.rejected, load.in_work), (1, 1));
    assert_eq!((load.waiting, load.open), (1, 2));
    assert_eq!(load.elapsed, 30 * MS);
    let latency = load.latency.unwrap();
    assert_eq!((latency.samples, latency.mean), (2, 20 * MS));
    assert_eq!((latency.min, latency.max), (10 * MS, 30 * MS));
    let load = lease.load(0, 0);
    assert_eq!((load.started, load.finished, load.in_work), (0, 0, 1));
    assert_eq!(load.latency, None);
}

#[test]
fn a_grant_fits_its_frame() {
    let frame = |grant: LeaseGrant| (grant.frame().requests, grant.frame().ttl_ms);
    const MAX: u32 = (1 << 31) - 1;
    assert_eq!(frame(LeaseGrant::unlimited()), (MAX, MAX));
    assert_eq!(frame(LeaseGrant::new(u32::MAX, Duration::MAX)), (MAX, MAX));
    assert_eq!(frame(LeaseGrant::new(1, Duration::ZERO)), (1, 1));
    assert_eq!(
        frame(LeaseGrant::new(1, Duration::from_micros(1_001))),
        (1, 2)
    );
}
