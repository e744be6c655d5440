//! Leases: who may send how many requests, frame by frame.
//!
//! A session is spoken to frame by frame; numbers in brackets are statements
//! of `docs/checklist.md`.

use std::time::Duration;

use rsocket_core::{
    CloseReason, Error, LeaseGrant,
    frame::Interaction,
    proto::{Config, LeaseConfig, Limits, Wake},
    testkit::{Peer, request},
};

use Interaction::{FireAndForget, RequestChannel, RequestResponse, RequestStream};

const NOTHING: [&str; 0] = [];
const ALL: [Interaction; 4] = [
    RequestResponse,
    FireAndForget,
    RequestStream,
    RequestChannel,
];

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn leases() -> Config {
    leases_with(|_| ())
}

fn leases_with(change: impl FnOnce(&mut LeaseConfig)) -> Config {
    let mut lease = LeaseConfig::default();
    lease.grace = Duration::ZERO;
    change(&mut lease);
    Config {
        lease: Some(lease),
        ..Config::default()
    }
}

fn waiting(max: usize) -> Config {
    let mut limits = Limits::default();
    limits.max_waiting_requests = max;
    Config { limits, ..leases() }
}

/// The server of a client that asked for leases, and was told to grant.
fn client(config: Config) -> Peer {
    let mut peer = Peer::of_client(config);
    assert_eq!(peer.events(), ["LeaseDue"]);
    peer
}

/// The client, with leases, of a server that was told to grant.
fn server(config: Config) -> Peer {
    let mut peer = Peer::of_new_server(config);
    peer.say("SETUP L");
    assert_eq!(peer.events(), ["Setup"]);
    peer.session.accept(peer.now());
    assert_eq!(peer.events(), ["LeaseDue"]);
    peer
}

fn grant(peer: &mut Peer, requests: u32, ttl: u64) {
    let now = peer.now();
    let grant = LeaseGrant::new(requests, ms(ttl));
    let granted = peer.session.grant_lease(now, &grant);
    granted.expect("it has no metadata that could be too long");
}

// ----- agreeing on leases ------------------------------------------------------

// [C072] [C185] [C193]
#[test]
fn a_client_that_asks_for_leases_says_so_and_waits_for_one() {
    let setup = rsocket_core::proto::SetupOptions::default();
    let mut peer = Peer::of_new_client(leases(), &setup);
    peer.open(RequestResponse, "ping");
    let heard = peer.heard();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].starts_with("SETUP L v=1.0"), "{heard:?}");
    assert_eq!(
        peer.ask("LEASE ttl=1000 n=1"),
        ["REQUEST_RESPONSE 1 d=ping"]
    );
}

// [C072] [C186] [C193]
#[test]
fn a_server_with_leases_accepts_such_a_client_and_grants() {
    let mut peer = server(leases());
    assert_eq!(peer.heard(), NOTHING, "nothing was granted yet");
    grant(&mut peer, 5, 1_500);
    assert_eq!(peer.heard(), ["LEASE ttl=1500 n=5"]);
    peer.say("REQUEST_RESPONSE 1 d=ping");
    assert_eq!(peer.events(), ["REQUEST_RESPONSE 1 d=ping"]);
}

// [C073] [A22]
#[test]
fn a_server_without_leases_refuses_such_a_client() {
    let mut peer = Peer::of_new_server(Config::default());
    peer.say("SETUP L");
    assert_eq!(peer.heard(), ["ERROR UNSUPPORTED_SETUP"]);
}

// [C097] [C185]
#[test]
fn a_server_with_leases_uses_none_with_a_client_that_did_not_ask() {
    let mut peer = Peer::of_server(leases());
    assert_eq!(peer.events(), NOTHING);
    grant(&mut peer, 5, 1_500);
    assert_eq!(peer.heard(), NOTHING);
    peer.say("REQUEST_RESPONSE 1 d=ping");
    assert_eq!(peer.events(), ["REQUEST_RESPONSE 1 d=ping"]);
    peer.open(RequestResponse, "pong");
    assert_eq!(peer.heard(), ["REQUEST_RESPONSE 2 d=pong"]);
    assert!(!peer.session.uses_lease());
}

// [C097] [A23]
#[test]
fn without_leases_neither_side_sends_one_and_both_ignore_it() {
    let config = Config::default;
    for mut peer in [Peer::of_client(config()), Peer::of_server(config())] {
        grant(&mut peer, 5, 1_500);
        assert_eq!(peer.heard(), NOTHING);
        assert_eq!(peer.ask("LEASE ttl=1000 n=1"), NOTHING);
        let stats = peer.session.stats();
        assert_eq!((stats.frames_ignored, stats.leases_received), (1, 0));
        peer.open(RequestResponse, "ping");
        assert_eq!(peer.heard().len(), 1, "it waits for nothing");
    }
}

// [C091] [C188] [C189] [C193]
#[test]
fn a_client_grants_too_and_the_servers_requests_wait_for_it() {
    let mut peer = server(leases());
    peer.open(RequestStream, "a");
    peer.open(FireAndForget, "b");
    assert_eq!(peer.heard(), NOTHING);
    assert_eq!(peer.session.stats().requests_waiting, 2);
    assert_eq!(peer.ask("LEASE ttl=1000 n=1"), ["REQUEST_STREAM 2 n=1 d=a"]);
    let mut peer = client(leases());
    grant(&mut peer, 1, 1_000);
    assert_eq!(peer.heard(), ["LEASE ttl=1000 n=1"]);
    peer.say("REQUEST_FNF 2 d=b");
    assert_eq!(peer.events(), ["REQUEST_FNF 2 d=b"]);
}

// [C188]
#[test]
fn what_a_server_asks_before_it_accepted_waits_for_a_lease_too() {
    let mut peer = Peer::of_new_server(leases());
    peer.open(RequestResponse, "first");
    peer.say("SETUP L");
    assert_eq!(peer.events(), ["Setup"]);
    peer.open(RequestResponse, "second");
    peer.session.accept(peer.now());
    assert_eq!(peer.heard(), NOTHING);
    assert_eq!(
        peer.ask("LEASE ttl=1000 n=9"),
        ["REQUEST_RESPONSE 2 d=first", "REQUEST_RESPONSE 4 d=second"]
    );
}

// [A22]
#[test]
fn a_client_may_give_up_a_server_that_never_grants() {
    let mut peer = client(leases_with(|lease| lease.first_within = Some(ms(300))));
    let id = peer.open(RequestResponse, "ping");
    peer.pass(ms(299));
    assert_eq!(peer.take(id), "Pending");
    peer.pass(ms(1));
    assert_eq!(peer.heard(), ["ERROR CONNECTION_ERROR"]);
    assert!(matches!(
        peer.session.close_reason(),
        Some(CloseReason::NoLease { millis: 300 })
    ));
    assert_eq!(
        peer.take(id),
        "Failed: the server granted no lease within 300 ms"
    );
    // One of 0 is one: the server knows leases.
    let mut peer = client(leases_with(|lease| lease.first_within = Some(ms(300))));
    peer.say("LEASE ttl=0 n=0");
    peer.pass(ms(1_000));
    assert!(!peer.session.is_closed());
}

// [C005]
#[test]
fn a_connection_that_is_over_does_not_complain_about_leases() {
    let mut peer = client(leases_with(|lease| lease.first_within = Some(ms(300))));
    peer.heard();
    assert_eq!(peer.ask("EXT type=5"), ["ERROR CONNECTION_ERROR"]);
    peer.pass(ms(1_000));
    assert_eq!(peer.heard(), NOTHING);
}

// [C204]
#[test]
fn a_missing_lease_is_nothing_unexpected() {
    let mut peer = client(leases());
    let id = peer.open(RequestResponse, "ping");
    for _ in 0..60 {
        peer.pass(ms(60_000));
        peer.say("KEEPALIVE d=x");
    }
    assert_eq!(peer.take(id), "Pending");
    assert!(!peer.session.is_closed());
}

// ----- as a requester ---------------------------------------------------------

// [C200] [C201]
#[test]
fn every_interaction_counts_one_and_no_more_start_than_granted() {
    for first in ALL {
        let mut peer = client(leases());
        for interaction in [first, RequestResponse, first] {
            peer.open(interaction, "x");
        }
        assert_eq!(peer.ask("LEASE ttl=1000 n=2").len(), 2, "{first:?}");
        assert_eq!(peer.heard(), NOTHING);
        assert_eq!(peer.session.stats().requests_waiting, 1);
        assert_eq!(peer.ask("LEASE ttl=1000 n=2").len(), 1, "{first:?}");
    }
}

// [C093] [C095] [C201]
#[test]
fn none_starts_after_the_time_even_if_the_link_was_full_until_then() {
    let mut peer = client(leases());
    peer.say("LEASE ttl=1000 n=9");
    peer.open(RequestResponse, "in time");
    assert_eq!(peer.heard(), ["REQUEST_RESPONSE 1 d=in time"]);
    peer.stall(true);
    peer.open(RequestResponse, "on time");
    assert_eq!(peer.heard(), NOTHING);
    peer.pass(ms(1_000));
    peer.stall(false);
    assert_eq!(peer.heard(), NOTHING);
    assert_eq!(
        peer.ask("LEASE ttl=1000 n=1"),
        ["REQUEST_RESPONSE 3 d=on time"]
    );
}

// [C092]
#[test]
fn what_waits_for_the_link_counts_against_the_lease_that_it_is_sent_under() {
    let mut peer = client(leases());
    peer.say("LEASE ttl=1000 n=2");
    peer.stall(true);
    for _ in 0..4 {
        peer.open(FireAndForget, "x");
    }
    assert_eq!(peer.heard(), NOTHING);
    peer.say("LEASE ttl=1000 n=1");
    peer.stall(false);
    assert_eq!(peer.heard(), ["REQUEST_FNF 1 d=x"]);
}

// [C094] [A24]
#[test]
fn a_lease_of_zero_stops_new_requests_and_leaves_open_ones_alone() {
    let mut peer = client(leases());
    peer.say("LEASE ttl=1000 n=9");
    let open = peer.open(RequestStream, "x");
    assert_eq!(peer.heard(), ["REQUEST_STREAM 1 n=1 d=x"]);
    peer.say("LEASE ttl=0 n=0");
    let next = peer.open(RequestResponse, "y");
    assert_eq!(peer.heard(), NOTHING);
    peer.say("PAYLOAD 1 NC d=z");
    assert_eq!(peer.take_all(open), ["d=z", "Complete"]);
    assert_eq!(peer.take(next), "Pending");
}

// [C203] [C220]
#[test]
fn a_fragmented_request_counts_once() {
    let mut config = leases();
    config.fragment_len = Some(64);
    let mut peer = client(config);
    let long = "y".repeat(150);
    peer.open(RequestResponse, &long);
    peer.open(RequestResponse, "short");
    let heard = peer.ask("LEASE ttl=1000 n=1");
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert!(heard.iter().all(|frame| !frame.contains("short")));
    let left = peer.session.lease_status(peer.now()).unwrap();
    assert_eq!(left.remaining_requests, 0);
    // As a responder: three fragments, one request.
    let mut peer = server(leases());
    grant(&mut peer, 2, 1_000);
    peer.heard();
    peer.say_all([
        "REQUEST_RESPONSE 1 F d=a",
        "PAYLOAD 1 FN d=b",
        "PAYLOAD 1 N d=c",
    ]);
    peer.say("REQUEST_RESPONSE 3 d=x");
    assert_eq!(
        peer.events(),
        ["REQUEST_RESPONSE 1 d=abc", "REQUEST_RESPONSE 3 d=x"]
    );
}

// [C203] [C201]
#[test]
fn a_request_that_was_begun_is_sent_to_its_end_after_the_lease() {
    let mut config = leases();
    config.fragment_len = Some(64);
    let mut peer = client(config);
    peer.say("LEASE ttl=1000 n=1");
    peer.open(RequestResponse, &"y".repeat(150));
    let mut sent = 0;
    // The link takes one frame at a time.
    let step = |peer: &mut Peer, sent: &mut u32| {
        let progress = peer.session.transmit(|frame| {
            assert!(!frame.to_vec().is_empty());
            *sent += 1;
            std::task::Poll::Ready(Ok::<(), std::convert::Infallible>(()))
        });
        let Ok(_) = progress;
    };
    step(&mut peer, &mut sent);
    peer.pass(ms(2_000));
    peer.say("LEASE ttl=0 n=0");
    (0..3).for_each(|_| step(&mut peer, &mut sent));
    assert_eq!(sent, 3);
}

// [C045]
#[test]
fn requests_that_waited_leave_in_the_order_of_their_ids() {
    let mut peer = client(leases());
    for interaction in &ALL[..3] {
        peer.open(*interaction, "x");
    }
    assert_eq!(peer.ask("LEASE ttl=1000 n=2").len(), 2);
    peer.open(RequestResponse, "late");
    assert_eq!(
        peer.ask("LEASE ttl=1000 n=9"),
        ["REQUEST_STREAM 5 n=1 d=x", "REQUEST_RESPONSE 7 d=late"]
    );
}

// [C207] [C339]
#[test]
fn a_waiting_request_that_is_given_up_leaves_no_trace() {
    for interaction in ALL {
        let mut peer = client(leases());
        let id = peer.open(interaction, "given up");
        peer.open(RequestResponse, "kept");
        let key = peer.key(id);
        peer.session.cancel(key);
        peer.session.release(key);
        peer.session.release(key); // A channel has two handles.
        peer.session.assert_consistent();
        assert_eq!(peer.session.stats().requests_waiting, 1, "{interaction:?}");
        assert_eq!(peer.session.in_flight(), 1);
        assert_eq!(
            peer.ask("LEASE ttl=1000 n=9"),
            ["REQUEST_RESPONSE 3 d=kept"]
        );
        let left = peer.session.lease_status(peer.now()).unwrap();
        assert_eq!(left.remaining_requests, 8, "it counts for nothing");
    }
}

#[test]
fn a_waiting_channel_that_its_sender_fails_is_sent_and_failed_in_order() {
    let mut peer = client(leases());
    let id = peer.open(RequestChannel, "x");
    let key = peer.key(id);
    let failure = rsocket_core::Failure::application("oops");
    peer.session.fail(key, &failure);
    peer.session.release(key);
    peer.session.release(key);
    peer.session.assert_consistent();
    assert_eq!(
        peer.ask("LEASE ttl=1000 n=9"),
        ["REQUEST_CHANNEL 1 n=1 d=x", "ERROR 1 APPLICATION_ERROR"]
    );
    peer.session.assert_consistent();
    assert_eq!(peer.session.in_flight(), 0);
}

// [C207]
#[test]
fn beyond_the_bound_a_request_fails_at_once() {
    let mut peer = client(waiting(2));
    peer.open(RequestResponse, "a");
    peer.open(RequestResponse, "b");
    let open = request(RequestResponse, "c");
    let error = peer.session.open(open).unwrap_err();
    assert!(matches!(error, Error::NoLease { limit: 2 }), "{error:?}");
    assert!(error.to_string().contains("max_waiting_requests"));
    // It took no id, and room made is used.
    assert_eq!(peer.ask("LEASE ttl=1000 n=1").len(), 1);
    peer.open(RequestResponse, "d");
    let heard = peer.ask("LEASE ttl=1000 n=9");
    assert_eq!(heard, ["REQUEST_RESPONSE 3 d=b", "REQUEST_RESPONSE 5 d=d"]);
}

// [C207]
#[test]
fn where_none_may_wait_a_request_is_sent_or_fails() {
    let mut peer = client(waiting(0));
    let open = || request(RequestResponse, "x");
    assert!(peer.session.open(open()).is_err());
    peer.say("LEASE ttl=1000 n=1");
    assert!(peer.session.open(open()).is_ok());
    assert_eq!(peer.heard(), ["REQUEST_RESPONSE 1 d=x"]);
    assert!(peer.session.open(open()).is_err());
    peer.say("LEASE ttl=1000 n=1");
    peer.pass(ms(1_000));
    assert!(peer.session.open(open()).is_err());
}

#[test]
fn waiting_requests_do_not_hold_up_streams_that_go_on() {
    let mut limits = Limits::default();
    limits.max_queued_len = 1_000;
    let mut peer = server(Config { limits, ..leases() });
    grant(&mut peer, 1, 1_000);
    peer.heard();
    peer.say("REQUEST_STREAM 1 n=9 d=x");
    peer.events();
    peer.open(RequestResponse, &"y".repeat(10_000));
    let key = peer.key(1);
    let capacity = peer.session.poll_capacity(key);
    assert!(
        matches!(capacity, rsocket_core::proto::Capacity::Payloads(_)),
        "{capacity:?}"
    );
}

#[test]
fn requests_and_streams_that_go_on_share_the_link() {
    let mut peer = client(leases());
    peer.say("LEASE ttl=1000 n=99");
    peer.open(RequestChannel, "c");
    assert_eq!(peer.heard(), ["REQUEST_CHANNEL 1 n=1 d=c"]);
    peer.say("REQUEST_N 1 n=3");
    peer.stall(true);
    (0..3).for_each(|_| {
        peer.open(FireAndForget, "f");
        peer.send(1, "p");
    });
    peer.stall(false);
    let heard = peer.heard();
    let kinds: String = heard.iter().map(|frame| &frame[..1]).collect();
    assert!(kinds == "RPRPRP" || kinds == "PRPRPR", "{heard:?}");
}

// [C085]
#[test]
fn on_a_connection_that_is_to_end_nothing_waits_for_a_lease() {
    for (by_us, why) in [(false, "closed by the peer"), (true, "closed by this side")] {
        let mut peer = client(leases());
        peer.say("LEASE ttl=1000 n=2");
        let open = peer.open(RequestStream, "open");
        assert_eq!(peer.heard().len(), 1);
        peer.stall(true);
        peer.open(FireAndForget, "has a lease, and waits for the link");
        let waits = peer.open(RequestResponse, "has none");
        peer.take(waits);
        if by_us {
            peer.session.close(peer.now());
        } else {
            peer.say("ERROR CONNECTION_CLOSE d=bye");
        }
        assert_eq!(peer.wakes(), [Wake::Reader(2)]);
        assert_eq!(peer.take(waits), format!("Failed: {why}"));
        peer.session.release(peer.key(waits));
        peer.session.assert_consistent();
        peer.stall(false);
        let heard = peer.heard();
        let last = heard.last().map(String::as_str);
        assert_eq!(
            last,
            Some("REQUEST_FNF 3 d=has a lease, and waits for the link")
        );
        peer.say("PAYLOAD 1 NC d=x");
        assert_eq!(peer.take_all(open), ["d=x", "Complete"]);
    }
}

#[test]
fn the_application_sees_what_is_left_of_the_last_lease() {
    let mut peer = client(leases());
    let now = peer.now();
    let status = peer.session.lease_status(now).unwrap();
    assert_eq!((status.remaining_requests, status.metadata), (0, None));
    peer.say("LEASE ttl=1000 n=5 m=zone-a");
    peer.open(FireAndForget, "x");
    peer.heard();
    peer.pass(ms(400));
    let status = peer.session.lease_status(peer.now()).unwrap();
    assert_eq!(status.remaining_requests, 4);
    assert_eq!(status.remaining_ttl, ms(600));
    assert_eq!(status.metadata.as_deref(), Some(&b"zone-a"[..]));
    peer.pass(ms(600));
    let status = peer.session.lease_status(peer.now()).unwrap();
    assert_eq!(status.remaining_requests, 0);
    assert_eq!(peer.session.stats().leases_received, 1);
}

// ----- as a responder -----------------------------------------------------------

// [C202] [A25]
#[test]
fn what_was_not_granted_is_rejected_and_one_way_requests_are_dropped() {
    for (n, interaction) in ["RESPONSE", "STREAM", "CHANNEL"].iter().enumerate() {
        let mut peer = server(leases());
        // Before the first LEASE was sent.
        let heard = peer.ask(&format!("REQUEST_{interaction} 1 d=x"));
        assert_eq!(heard, ["ERROR 1 REJECTED"], "{interaction}");
        peer.say("REQUEST_FNF 3 d=x");
        assert_eq!(peer.heard(), NOTHING);
        // Beyond it.
        grant(&mut peer, 1, 1_000);
        assert_eq!(peer.heard(), ["LEASE ttl=1000 n=1"]);
        peer.say("REQUEST_FNF 5 d=x");
        assert_eq!(peer.events(), ["REQUEST_FNF 5 d=x"]);
        let heard = peer.ask(&format!("REQUEST_{interaction} 7 d=x"));
        assert_eq!(heard, ["ERROR 7 REJECTED"], "{interaction} {n}");
        peer.say("REQUEST_FNF 9 d=x");
        assert_eq!(peer.heard(), NOTHING);
        // After it.
        grant(&mut peer, 1, 1_000);
        peer.heard();
        peer.pass(ms(1_000));
        assert_eq!(peer.events(), ["LeaseDue"]);
        let heard = peer.ask(&format!("REQUEST_{interaction} 11 d=x"));
        assert_eq!(heard, ["ERROR 11 REJECTED"], "{interaction}");
        assert_eq!(peer.events(), NOTHING);
        let stats = peer.session.stats();
        assert_eq!(stats.lease_rejected, 5);
        assert_eq!((stats.requests_rejected, stats.one_way_dropped), (3, 2));
    }
}

// [C202]
#[test]
fn a_rejection_says_what_to_do() {
    let mut peer = server(leases());
    peer.say("REQUEST_RESPONSE 1 d=x");
    let bytes = peer.heard_bytes().concat();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("no lease was granted yet; wait for LEASE"));
}

// [C200]
#[test]
fn every_request_of_the_peer_counts_one_and_frames_out_of_place_do_not() {
    let mut peer = server(leases());
    grant(&mut peer, 4, 1_000);
    peer.heard();
    peer.say_all([
        "REQUEST_RESPONSE 1 d=x",
        "REQUEST_RESPONSE 1 d=twice",
        "REQUEST_RESPONSE 2 d=not its id",
        "PAYLOAD 99 N d=x",
        "METADATA_PUSH m=x",
        "REQUEST_FNF 3 d=x",
        "REQUEST_STREAM 5 n=1 d=x",
        "REQUEST_CHANNEL 7 n=1 d=x",
    ]);
    assert_eq!(peer.heard(), NOTHING);
    assert_eq!(peer.ask("REQUEST_RESPONSE 9 d=x"), ["ERROR 9 REJECTED"]);
}

// [C092] [C093] [C202]
#[test]
fn a_request_that_crossed_the_next_lease_is_served_within_the_grace() {
    let mut peer = server(leases_with(|lease| lease.grace = ms(50)));
    grant(&mut peer, 1, 1_000);
    peer.heard();
    peer.pass(ms(990));
    grant(&mut peer, 1, 1_000);
    peer.heard();
    peer.pass(ms(49));
    peer.say_all(["REQUEST_FNF 1 d=old", "REQUEST_FNF 3 d=new"]);
    assert_eq!(peer.session.stats().lease_rejected, 0);
    peer.say("REQUEST_FNF 5 d=none");
    assert_eq!(peer.session.stats().lease_rejected, 1);
}

// [C205] [C186]
#[test]
fn the_application_is_asked_again_whenever_a_grant_is_over() {
    let mut peer = server(leases());
    for n in 1..4 {
        grant(&mut peer, n, 1_000);
        assert_eq!(peer.heard(), [format!("LEASE ttl=1000 n={n}")]);
        peer.pass(ms(999));
        assert_eq!(peer.events(), NOTHING);
        peer.pass(ms(1));
        assert_eq!(peer.events(), ["LeaseDue"]);
        peer.pass(ms(5_000));
        assert_eq!(peer.events(), NOTHING, "once");
    }
    // Nothing to grant is nothing to send.
    grant(&mut peer, 0, 10);
    assert_eq!(peer.heard(), NOTHING);
    peer.pass(ms(10));
    assert_eq!(peer.events(), ["LeaseDue"]);
    assert_eq!(peer.session.stats().leases_sent, 3);
    // Who closes grants no more.
    grant(&mut peer, 1, 10);
    peer.heard();
    peer.say("REQUEST_RESPONSE 1 d=x");
    peer.session.close(peer.now());
    peer.pass(ms(10));
    assert_eq!(peer.events(), ["REQUEST_RESPONSE 1 d=x"]);
}

#[test]
fn the_application_is_asked_as_soon_as_enough_was_finished() {
    let mut peer = server(leases());
    let now = peer.now();
    let requests = LeaseGrant::new(4, ms(1_000)).renew_after(2);
    peer.session.grant_lease(now, &requests).unwrap();
    peer.heard();
    peer.say_all(["REQUEST_RESPONSE 1 d=x", "REQUEST_FNF 3 d=x"]);
    peer.events();
    peer.pass(ms(7));
    peer.send(1, "y");
    assert_eq!(peer.heard(), ["PAYLOAD 1 NC d=y"]);
    assert_eq!(peer.events(), NOTHING);
    peer.session.release(peer.key(3));
    assert_eq!(peer.events(), ["LeaseDue"]);
    let load = peer.session.lease_load(peer.now());
    assert_eq!((load.granted, load.started, load.finished), (4, 2, 2));
    assert_eq!(load.latency.unwrap().mean, ms(7));
}

#[test]
fn leases_that_the_link_does_not_take_do_not_pile_up() {
    let mut peer = server(leases());
    peer.stall(true);
    for n in 1..100 {
        grant(&mut peer, n, 10);
        assert_eq!(peer.heard(), NOTHING);
        peer.pass(ms(10));
        assert_eq!(peer.events(), ["LeaseDue"]);
    }
    peer.stall(false);
    assert_eq!(peer.heard(), ["LEASE ttl=10 n=99"]);
    // Its time starts now.
    peer.pass(ms(9));
    peer.say("REQUEST_FNF 1 d=x");
    assert_eq!(peer.events(), ["REQUEST_FNF 1 d=x"]);
    peer.pass(ms(1));
    assert_eq!(peer.ask("REQUEST_RESPONSE 3 d=x"), ["ERROR 3 REJECTED"]);
}

#[test]
fn metadata_that_does_not_fit_a_frame_is_an_error() {
    let mut peer = server(leases());
    let grant = LeaseGrant::new(1, ms(10)).with_metadata(vec![0; 17 << 20]);
    let error = peer.session.grant_lease(peer.now(), &grant).unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }));
    assert_eq!(peer.heard(), NOTHING);
    let grant = LeaseGrant::new(1, ms(10)).with_metadata("m");
    peer.session.grant_lease(peer.now(), &grant).unwrap();
    assert_eq!(peer.heard(), ["LEASE ttl=10 n=1 m=m"]);
}

// ----- resumption ---------------------------------------------------------------

// [C206] [C297]
#[test]
fn void_leases_make_requests_wait_and_the_peers_fail_until_the_next() {
    for mut peer in [client(leases()), server(leases())] {
        peer.say("LEASE ttl=1000 n=9 m=old");
        grant(&mut peer, 1, 1_000);
        peer.heard();
        grant(&mut peer, 8, 1_000); // Not sent yet: it must not be.
        peer.session.void_leases(peer.now());
        assert_eq!(peer.events(), ["LeaseDue"]);
        let waits = peer.open(RequestResponse, "x");
        assert_eq!(peer.heard(), NOTHING);
        let status = peer.session.lease_status(peer.now()).unwrap();
        assert_eq!((status.remaining_requests, status.metadata), (0, None));
        // Sent under the old lease, and again since it was lost with its link.
        let id = peer.first_id();
        peer.say(&format!("REQUEST_RESPONSE {id} d=x"));
        assert_eq!(peer.heard(), NOTHING);
        let beyond = id + 2;
        let heard = peer.ask(&format!("REQUEST_RESPONSE {beyond} d=x"));
        assert_eq!(heard, [format!("ERROR {beyond} REJECTED")]);
        grant(&mut peer, 1, 1_000);
        assert_eq!(peer.heard(), ["LEASE ttl=1000 n=1"]);
        let heard = peer.ask("LEASE ttl=1000 n=1");
        assert_eq!(heard, [format!("REQUEST_RESPONSE {waits} d=x")]);
    }
}
