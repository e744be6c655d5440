//! Streams: their ids, their four interactions, and how they end.
//!
//! A session is spoken to frame by frame; numbers in brackets are statements
//! of `docs/checklist.md`.
#![expect(clippy::unwrap_used, reason = "what is wrong with a test fails it")]

use std::fmt::Write as _;

use rsocket_core::{
    Error, Failure, Payload,
    frame::{Demand, Interaction},
    proto::{Capacity, Config, DemandPolicy, Open},
    testkit::{Peer, frame, request},
};

use Interaction::{FireAndForget, RequestChannel, RequestResponse, RequestStream};

const NONE: [&str; 0] = [];

fn server() -> Peer {
    Peer::of_server(Config::default())
}

fn client() -> Peer {
    Peer::of_client(Config::default())
}

/// A server to which a request was made, whose application has its key.
fn asked(text: &str) -> Peer {
    let mut peer = server();
    peer.say(text);
    assert_eq!(peer.events().len(), 1);
    peer
}

/// A client that made a request, which this peer heard.
fn asking(interaction: Interaction) -> Peer {
    let mut peer = client();
    assert_eq!(peer.open(interaction, "first"), 1);
    peer.heard();
    peer
}

fn let_go(peer: &mut Peer, id: u32) {
    let key = peer.key(id);
    peer.session.release(key);
    peer.session.release(key);
    peer.heard();
    assert_eq!(peer.session.streams_open(), 0);
    assert_eq!(peer.session.books().buffered, 0);
    assert_eq!(peer.session.books().queued, 0);
}

// ----- ids ---------------------------------------------------------------------

// [C040] [C042] [C043] [C044] [C045] [A18]
#[test]
fn clients_count_odd_and_servers_even_in_the_order_of_the_wire() {
    let mut peer = client();
    peer.stall(true);
    for interaction in [
        RequestStream,
        FireAndForget,
        RequestChannel,
        RequestResponse,
    ] {
        peer.open(interaction, "x");
    }
    peer.stall(false);
    assert_eq!(
        peer.heard(),
        [
            "REQUEST_STREAM 1 n=1 d=x",
            "REQUEST_FNF 3 d=x",
            "REQUEST_CHANNEL 5 n=1 d=x",
            "REQUEST_RESPONSE 7 d=x",
        ]
    );
    let mut peer = server();
    assert_eq!(
        [
            peer.open(RequestResponse, "x"),
            peer.open(RequestResponse, "x")
        ],
        [2, 4]
    );
}

// [C045]: also when long requests are cut and others end before they leave.
#[test]
fn requests_leave_in_the_order_of_their_ids_whatever_happens_to_them() {
    let config = Config {
        fragment_len: Some(64),
        ..Config::default()
    };
    let mut peer = Peer::of_client(config);
    peer.stall(true);
    for len in [500, 1, 300, 1, 1, 400] {
        peer.open(RequestResponse, &"x".repeat(len));
    }
    peer.session.cancel(peer.key(5));
    peer.session.cancel(peer.key(7));
    peer.stall(false);
    let heard = peer.heard();
    let requests: Vec<_> = heard
        .iter()
        .filter(|text| text.starts_with("REQUEST"))
        .map(|text| text.split(' ').nth(1).unwrap())
        .collect();
    assert_eq!(requests, ["1", "3", "9", "11"]);
}

// [C046] [C047] [C048] [C049] [C053]
#[test]
fn ids_start_again_after_the_last_and_skip_those_in_use() {
    let mut peer = client();
    let live = peer.open(RequestStream, "long");
    assert_eq!(live, 1);
    peer.open(RequestResponse, "short"); // 3
    peer.heard();
    peer.say("PAYLOAD 3 NC d=x");
    peer.session.release(peer.key(3));
    peer.session.skip_ids_to(0x7FFF_FFFF);
    assert_eq!(peer.open(RequestResponse, "last"), 0x7FFF_FFFF);
    assert_eq!(peer.open(RequestResponse, "again"), 3);
    peer.heard();
    assert_eq!(peer.ask("PAYLOAD 3 NC d=second life"), NONE);
    assert_eq!(peer.take_all(3), ["d=second life", "Complete"]);
    let mut peer = server();
    peer.session.skip_ids_to(0x7FFF_FFFE);
    assert_eq!(peer.open(RequestResponse, "last"), 0x7FFF_FFFE);
    assert_eq!(peer.open(RequestResponse, "again"), 2);
}

// [C046]
#[test]
fn a_responder_takes_ids_in_any_order_and_again() {
    let mut peer = server();
    for text in [
        "REQUEST_FNF 2147483647 d=x",
        "REQUEST_FNF 5 d=y",
        "REQUEST_FNF 1 d=z",
    ] {
        peer.say(text);
    }
    assert_eq!(peer.events().len(), 3);
    peer.session.release(peer.key(5));
    peer.say("REQUEST_FNF 5 d=again");
    assert_eq!(peer.events(), ["REQUEST_FNF 5 d=again"]);
}

// [C041] [C050] [C122] [C331] [A19]
#[test]
fn a_request_on_an_id_in_use_is_ignored() {
    for first in [
        "REQUEST_RESPONSE 1 d=x",
        "REQUEST_STREAM 1 n=1 d=x",
        "REQUEST_CHANNEL 1 n=1 d=x",
        "REQUEST_FNF 1 d=x",
        // Also while it is not whole yet.
        "REQUEST_RESPONSE 1 F d=x",
        "REQUEST_CHANNEL 1 F n=1 d=x",
    ] {
        let mut peer = server();
        peer.say(first);
        let told = peer.events().len();
        for second in [
            "REQUEST_RESPONSE 1 d=y",
            "REQUEST_STREAM 1 n=9 d=y",
            "REQUEST_CHANNEL 1 n=9 d=y",
            "REQUEST_FNF 1 d=y",
            "REQUEST_STREAM 1 n=0 d=y",
        ] {
            assert_eq!(peer.ask(second), NONE, "{first}, {second}");
        }
        assert_eq!(peer.session.stats().frames_ignored, 5, "{first}");
        assert_eq!(peer.events(), NONE);
        assert_eq!(peer.session.streams_open(), told.max(1));
    }
}

// ----- requests ------------------------------------------------------------------

// [C001] [C007] [C020] [C120] [C121]: no prefix, which is a transport's business.
#[test]
fn requests_have_the_bytes_of_the_spec() {
    let mut peer = client();
    for interaction in [
        RequestResponse,
        FireAndForget,
        RequestStream,
        RequestChannel,
    ] {
        peer.open(interaction, "x");
    }
    assert_eq!(
        peer.heard_bytes(),
        [
            &b"\0\0\0\x01\x10\0x"[..],
            b"\0\0\0\x03\x14\0x",
            b"\0\0\0\x05\x18\0\0\0\0\x01x",
            b"\0\0\0\x07\x1C\0\0\0\0\x01x",
        ]
    );
}

// [C121]
#[test]
fn an_initial_demand_of_nothing_is_invalid_on_that_stream_alone() {
    let mut peer = server();
    for (id, text) in [
        (1, "REQUEST_STREAM 1 n=0 d=x"),
        (3, "REQUEST_STREAM 3 n=0x80000001 d=x"),
        (5, "REQUEST_CHANNEL 5 n=0 d=x"),
        (7, "REQUEST_CHANNEL 7 F n=0xffffffff d=x"),
    ] {
        assert_eq!(peer.ask(text), [format!("ERROR {id} INVALID")]);
    }
    assert_eq!(peer.ask("PAYLOAD 7 N d=the rest"), NONE);
    assert_eq!(peer.events(), NONE);
    assert!(!peer.session.is_closed());
    // On an id that is not the peer's there is nobody to tell.
    assert_eq!(peer.ask("REQUEST_STREAM 2 n=0"), NONE);
}

// [C127] [A6]
#[test]
fn the_next_flag_of_requests_is_ignored() {
    let mut peer = server();
    peer.say_all([
        "REQUEST_RESPONSE 1 N d=x",
        "REQUEST_FNF 3 N d=x",
        "REQUEST_STREAM 5 N n=1 d=x",
        "REQUEST_CHANNEL 7 N n=1 d=x",
    ]);
    assert_eq!(peer.events().len(), 4);
}

// [C035] [C032] [A39]
#[test]
fn empty_metadata_is_not_no_metadata_and_empty_data_is_data() {
    let mut peer = server();
    peer.say_all([
        "REQUEST_RESPONSE 1 m=",
        "REQUEST_RESPONSE 3",
        "REQUEST_CHANNEL 5 m=",
    ]);
    assert_eq!(
        peer.events(),
        [
            "REQUEST_RESPONSE 1 m=",
            "REQUEST_RESPONSE 3 empty",
            "REQUEST_CHANNEL 5"
        ]
    );
    assert_eq!(peer.take(5), "m=");
    let answer = Payload::new("").with_metadata("");
    peer.session.send(peer.key(1), answer).unwrap();
    peer.session.send(peer.key(3), Payload::default()).unwrap();
    assert_eq!(
        peer.heard(),
        ["REQUEST_N 5 n=63", "PAYLOAD 1 NC m=", "PAYLOAD 3 NC"]
    );
}

// ----- request-response -------------------------------------------------------------

// [C230] [C232] [C150]
#[test]
fn a_response_completes_its_stream() {
    let mut peer = asked("REQUEST_RESPONSE 1 d=ping");
    peer.send(1, "pong");
    peer.send(1, "pong again");
    peer.session.complete(peer.key(1));
    assert_eq!(peer.heard(), ["PAYLOAD 1 NC d=pong"]);
    let_go(&mut peer, 1);
}

// [C230] [C231] [C233] [C150] [C152] [C154]
#[test]
fn a_requester_takes_all_forms_of_an_answer() {
    for (answer, taken) in [
        ("PAYLOAD 1 NC d=pong", &["d=pong", "Complete"][..]),
        ("PAYLOAD 1 N d=pong", &["d=pong", "Complete"]),
        ("PAYLOAD 1 NC", &["empty", "Complete"]),
        ("PAYLOAD 1 C", &["Complete"]),
        ("PAYLOAD 1 NC m=", &["m=", "Complete"]),
    ] {
        let mut peer = asking(RequestResponse);
        assert_eq!(peer.take(1), "Pending");
        assert_eq!(peer.ask(answer), NONE);
        assert_eq!(peer.wakes().len(), 1);
        assert_eq!(peer.take_all(1), taken, "{answer}");
        // It is over: what comes now is late.
        for late in [
            "PAYLOAD 1 NC d=2",
            "ERROR 1 REJECTED",
            "CANCEL 1",
            "REQUEST_N 1 n=1",
        ] {
            assert_eq!(peer.ask(late), NONE);
        }
        assert_eq!(peer.session.stats().frames_ignored, 4);
        let_go(&mut peer, 1);
    }
}

// [C153] [A48]
#[test]
fn content_without_next_is_no_item() {
    let mut peer = asking(RequestResponse);
    peer.say("PAYLOAD 1 C m=not d=an item");
    assert_eq!(peer.take(1), "Complete");
    let mut peer = asking(RequestStream);
    peer.say("PAYLOAD 1 C d=not an item");
    assert_eq!(peer.take(1), "Complete");
}

// [C151]
#[test]
fn a_payload_that_is_neither_item_nor_end_is_ignored() {
    let mut peer = asking(RequestStream);
    peer.say("PAYLOAD 1 d=x");
    peer.say("PAYLOAD 1 F d=x");
    assert_eq!(peer.take(1), "Pending");
    assert_eq!(peer.session.stats().frames_ignored, 2);
}

// [C230] [C233] [C087] [C081]
#[test]
fn an_error_fails_its_stream_with_code_and_message() {
    for (code, shown) in [
        ("APPLICATION_ERROR", "APPLICATION_ERROR"),
        ("REJECTED", "REJECTED"),
        ("CANCELED", "CANCELED"),
        ("INVALID", "INVALID"),
        ("code=0x301", "0x00000301"),
        ("code=0xfffffffe", "0xfffffffe"),
        ("code=0", "0x00000000"),
        ("CONNECTION_ERROR", "CONNECTION_ERROR"),
    ] {
        for interaction in [RequestResponse, RequestStream, RequestChannel] {
            let mut peer = asking(interaction);
            assert_eq!(peer.ask(&format!("ERROR 1 {code} d=oops")), NONE);
            assert_eq!(peer.take(1), format!("Failed: {shown}: oops"));
            let_go(&mut peer, 1);
        }
    }
    let mut peer = asking(RequestResponse);
    peer.say("ERROR 1 INVALID d=#6fff6b");
    assert_eq!(peer.take(1), "Failed: INVALID: o\u{FFFD}k");
}

// [C080] [C087] [C230] [C235]
#[test]
fn a_failure_is_sent_with_its_code_and_message() {
    for text in [
        "REQUEST_RESPONSE 1",
        "REQUEST_STREAM 1",
        "REQUEST_CHANNEL 1",
    ] {
        let mut peer = asked(text);
        let failure = Failure::custom(0x301, "teapot").unwrap();
        peer.session.fail(peer.key(1), &failure);
        assert_eq!(peer.heard_bytes(), [frame("ERROR 1 code=0x301 d=teapot")]);
        let_go(&mut peer, 1);
    }
}

// [C140] [C142] [C230] [C233] [C236] [C239]
#[test]
fn a_requester_that_cancels_says_so_once_and_hears_no_more() {
    for interaction in [RequestResponse, RequestStream, RequestChannel] {
        let mut peer = asking(interaction);
        peer.session.cancel(peer.key(1));
        peer.session.cancel(peer.key(1));
        assert_eq!(peer.heard_bytes(), [b"\0\0\0\x01\x24\0"]);
        for late in [
            "PAYLOAD 1 N d=x",
            "PAYLOAD 1 C",
            "ERROR 1 REJECTED",
            "REQUEST_N 1 n=1",
        ] {
            assert_eq!(peer.ask(late), NONE);
        }
        assert!(peer.take(1).starts_with("Failed"));
        let_go(&mut peer, 1);
    }
}

// [C232] [C236] [C239] [C332]
#[test]
fn a_responder_that_is_cancelled_says_no_more() {
    for text in [
        "REQUEST_RESPONSE 1",
        "REQUEST_STREAM 1 n=9",
        "REQUEST_CHANNEL 1 n=9",
    ] {
        let mut peer = asked(text);
        let key = peer.key(1);
        assert!(!peer.session.poll_send_closed(key));
        peer.say("CANCEL 1");
        assert_eq!(peer.wakes().len(), 1, "the handler is told");
        assert!(peer.session.poll_send_closed(key));
        assert_eq!(peer.session.poll_capacity(key), Capacity::Closed);
        peer.send(1, "late");
        peer.session.complete(key);
        peer.session.fail(key, &Failure::application("late"));
        peer.session.cancel(key);
        peer.session.request_n(key, Demand::ONE);
        assert_eq!(peer.heard(), NONE);
        assert_eq!(peer.ask("CANCEL 1"), NONE);
        let_go(&mut peer, 1);
    }
}

// [C232] [C236]
#[test]
fn answers_that_wait_for_the_link_are_dropped_when_they_are_cancelled() {
    for (text, n) in [("REQUEST_RESPONSE 1", 1), ("REQUEST_STREAM 1 n=9", 9)] {
        for end in [false, true] {
            let mut peer = asked(text);
            peer.stall(true);
            for _ in 0..n {
                peer.send(1, "nobody wants this");
            }
            if end {
                peer.session.complete(peer.key(1));
            }
            assert!(peer.session.books().queued > 0);
            peer.say("CANCEL 1");
            assert_eq!(peer.session.books().queued, 0, "{text}");
            peer.stall(false);
            assert_eq!(peer.heard(), NONE);
            let_go(&mut peer, 1);
        }
    }
}

// ----- fire-and-forget ---------------------------------------------------------------

// [C234]
#[test]
fn fire_and_forget_is_over_once_it_is_sent() {
    let mut peer = client();
    peer.stall(true);
    peer.open(FireAndForget, "x");
    peer.heard();
    assert_eq!(peer.take(1), "Pending");
    peer.stall(false);
    assert_eq!(peer.heard(), ["REQUEST_FNF 1 d=x"]);
    assert_eq!(peer.wakes().len(), 1);
    assert_eq!(peer.take(1), "Complete");
    assert_eq!(peer.ask("ERROR 1 REJECTED"), NONE);
    assert_eq!(peer.ask("PAYLOAD 1 NC d=x"), NONE);
    let_go(&mut peer, 1);
}

// [C234]
#[test]
fn fire_and_forget_goes_on_when_nobody_waits_for_it() {
    let mut peer = client();
    peer.stall(true);
    peer.open(FireAndForget, "x");
    peer.session.release(peer.key(1));
    peer.stall(false);
    assert_eq!(peer.heard(), ["REQUEST_FNF 1 d=x"]);
    assert_eq!(peer.session.streams_open(), 0);
}

// [C234] [A25]
#[test]
fn fire_and_forget_is_never_answered() {
    let mut peer = asked("REQUEST_FNF 1 d=x");
    let key = peer.key(1);
    assert_eq!(peer.session.one_way_in_work(), 1);
    peer.send(1, "x");
    peer.session.complete(key);
    peer.session.fail(key, &Failure::application("x"));
    peer.session.cancel(key);
    for late in [
        "CANCEL 1",
        "REQUEST_N 1 n=1",
        "PAYLOAD 1 NC d=x",
        "ERROR 1 REJECTED",
    ] {
        assert_eq!(peer.ask(late), NONE);
    }
    let_go(&mut peer, 1);
    assert_eq!(peer.session.one_way_in_work(), 0);
    // Not even when it is refused, or is not whole.
    let mut config = Config::default();
    config.limits.max_one_way = 0;
    let mut peer = Peer::of_server(config);
    assert_eq!(peer.ask("REQUEST_FNF 1 d=x"), NONE);
    assert_eq!(peer.session.stats().one_way_dropped, 1);
    let mut config = Config::default();
    config.limits.max_payload_len = 5;
    let mut peer = Peer::of_server(config);
    assert_eq!(peer.ask("REQUEST_FNF 1 d=longer"), NONE);
    peer.say("REQUEST_FNF 3 F d=long");
    assert_eq!(peer.ask("PAYLOAD 3 N d=er"), NONE);
    assert_eq!(peer.session.streams_open(), 0);
}

// ----- request-stream ------------------------------------------------------------------

// [C150] [C152] [C235] [C236]
#[test]
fn a_stream_of_answers_arrives_in_order_and_ends_once() {
    let mut peer = client();
    let mut open = request(RequestStream, "x");
    open.demand = DemandPolicy::Manual {
        initial: Demand::new(4).unwrap(),
    };
    peer.open_with(open);
    peer.heard();
    peer.say_all([
        "PAYLOAD 1 N d=1",
        "PAYLOAD 1 N",
        "PAYLOAD 1 N m=x",
        "PAYLOAD 1 NC d=4",
    ]);
    assert_eq!(peer.take_all(1), ["d=1", "empty", "m=x", "d=4", "Complete"]);
    let_go(&mut peer, 1);
}

// [C235] [C236]
#[test]
fn a_responder_of_a_stream_sends_payloads_and_one_end() {
    let mut peer = asked("REQUEST_STREAM 1 n=9 d=x");
    peer.send(1, "1");
    peer.send(1, "2");
    peer.session.complete(peer.key(1));
    peer.session.complete(peer.key(1));
    peer.session
        .fail(peer.key(1), &Failure::application("late"));
    peer.send(1, "late");
    assert_eq!(
        peer.heard(),
        ["PAYLOAD 1 N d=1", "PAYLOAD 1 N d=2", "PAYLOAD 1 C"]
    );
    let_go(&mut peer, 1);
}

// [C235]: all that was sent before a failure arrives before it.
#[test]
fn a_failure_comes_behind_what_was_sent() {
    let mut peer = asked("REQUEST_STREAM 1 n=9 d=x");
    peer.stall(true);
    peer.send(1, "1");
    peer.session.fail(peer.key(1), &Failure::application("no"));
    peer.stall(false);
    assert_eq!(
        peer.heard(),
        ["PAYLOAD 1 N d=1", "ERROR 1 APPLICATION_ERROR"]
    );
    let mut peer = asking(RequestStream);
    peer.say_all(["PAYLOAD 1 N d=1", "ERROR 1 APPLICATION_ERROR d=no"]);
    assert_eq!(peer.take_all(1), ["d=1", "Failed: APPLICATION_ERROR: no"]);
}

// [C156] [C243]
#[test]
fn a_requester_of_a_stream_has_nothing_more_to_send() {
    let mut peer = asked("REQUEST_STREAM 1 n=9 d=x");
    for text in ["PAYLOAD 1 N d=x", "PAYLOAD 1 FN d=x", "PAYLOAD 1 C"] {
        assert_eq!(peer.ask(text), NONE);
    }
    assert_eq!(peer.session.stats().frames_ignored, 3);
    peer.send(1, "still open");
    assert_eq!(peer.heard().len(), 1);
}

// ----- request-channel -------------------------------------------------------------------

// [C122] [C123] [C126] [C237] [A4]
#[test]
fn a_requester_sends_its_first_payload_with_the_request_and_others_on_credit() {
    let mut peer = asking(RequestChannel);
    let key = peer.key(1);
    assert_eq!(peer.session.poll_capacity(key), Capacity::Pending);
    peer.send(1, "no credit, dropped");
    assert_eq!(peer.heard(), NONE);
    peer.say("REQUEST_N 1 n=2");
    assert_eq!(peer.wakes().len(), 1);
    assert_eq!(peer.session.poll_capacity(key), Capacity::Payloads(2));
    for data in ["2", "3", "no credit, dropped"] {
        peer.send(1, data);
    }
    assert_eq!(peer.heard(), ["PAYLOAD 1 N d=2", "PAYLOAD 1 N d=3"]);
}

// [C126] [C242] [A4] [A5]
#[test]
fn a_responder_asks_for_payloads_when_it_reads_and_counts_the_first() {
    let mut peer = asked("REQUEST_CHANNEL 1 n=1 d=first");
    assert_eq!(peer.heard(), NONE);
    peer.session.set_demand(
        peer.key(1),
        DemandPolicy::Prefetch {
            high: Demand::new(4).unwrap(),
            low: 0,
        },
    );
    // The first one, in hand, is one of the four.
    assert_eq!(peer.take(1), "d=first");
    assert_eq!(peer.heard(), ["REQUEST_N 1 n=3"]);
    // With a demand of one there is nothing to ask for until it is taken.
    let mut peer = asked("REQUEST_CHANNEL 1 n=1 d=first");
    peer.session.set_demand(
        peer.key(1),
        DemandPolicy::Prefetch {
            high: Demand::ONE,
            low: 0,
        },
    );
    assert_eq!(peer.take(1), "d=first");
    assert_eq!(peer.heard(), ["REQUEST_N 1 n=1"]);
}

// [C124] [C242] [A5]
#[test]
fn a_request_that_completes_delivers_its_payload_first_and_is_asked_for_nothing() {
    let mut peer = asked("REQUEST_CHANNEL 1 C n=9 d=only");
    assert_eq!(peer.take_all(1), ["d=only", "Complete"]);
    assert_eq!(peer.heard(), NONE);
    peer.send(1, "answer");
    peer.session.complete(peer.key(1));
    assert_eq!(peer.heard(), ["PAYLOAD 1 N d=answer", "PAYLOAD 1 C"]);
    let_go(&mut peer, 1);
}

// [C124] [C125] [C241]
#[test]
fn a_requester_that_completed_sends_no_more_and_still_receives() {
    let mut peer = client();
    let mut open = request(RequestChannel, "only");
    open.complete = true;
    let id = peer.open_with(open);
    assert_eq!(peer.heard(), ["REQUEST_CHANNEL 1 C n=1 d=only"]);
    peer.say("REQUEST_N 1 n=5");
    assert_eq!(peer.session.poll_capacity(peer.key(id)), Capacity::Closed);
    peer.send(id, "late");
    assert_eq!(peer.heard(), NONE);
    peer.say("PAYLOAD 1 NC d=answer");
    assert_eq!(peer.take_all(id), ["d=answer", "Complete"]);
    let_go(&mut peer, 1);
}

// [C125] [C156]
#[test]
fn payloads_behind_a_completion_are_ignored() {
    let mut peer = asked("REQUEST_CHANNEL 1 n=9 d=1");
    peer.take(1);
    peer.heard();
    peer.say_all([
        "PAYLOAD 1 N d=2",
        "PAYLOAD 1 C",
        "PAYLOAD 1 N d=3",
        "PAYLOAD 1 C",
    ]);
    assert_eq!(peer.take_all(1), ["d=2", "Complete"]);
    assert_eq!(peer.session.stats().frames_ignored, 2);
}

// [C237] [C242]: the other side never asks, which is its right.
#[test]
fn a_channel_without_request_n_goes_on_the_other_way() {
    let mut peer = asking(RequestChannel);
    peer.say("PAYLOAD 1 N d=1");
    assert_eq!(peer.take(1), "d=1");
    let key = peer.key(1);
    peer.session.request_n(key, Demand::ONE);
    assert_eq!(peer.heard(), ["REQUEST_N 1 n=1"]);
    peer.say("PAYLOAD 1 NC d=2");
    assert_eq!(peer.take_all(1), ["d=2", "Complete"]);
    peer.session.complete(key);
    assert_eq!(peer.heard(), ["PAYLOAD 1 C"]);
    let_go(&mut peer, 1);
}

// [C238]
#[test]
fn an_error_from_either_side_ends_both_directions() {
    let mut peer = asked("REQUEST_CHANNEL 1 n=9 d=1");
    peer.say("ERROR 1 APPLICATION_ERROR d=no");
    assert_eq!(peer.take_all(1), ["d=1", "Failed: APPLICATION_ERROR: no"]);
    assert_eq!(peer.session.poll_capacity(peer.key(1)), Capacity::Closed);
    let_go(&mut peer, 1);
    let mut peer = asking(RequestChannel);
    peer.session.fail(peer.key(1), &Failure::application("no"));
    assert_eq!(peer.heard(), ["ERROR 1 APPLICATION_ERROR"]);
    assert!(peer.take(1).starts_with("Failed"));
    let_go(&mut peer, 1);
}

// ----- the end of a channel, in all ways ----------------------------------------------------

/// What can end a half, or both.
const ACTS: [&str; 6] = [
    "we complete",
    "we cancel",
    "we fail",
    "they complete",
    "they cancel",
    "they fail",
];

fn act(peer: &mut Peer, act: &str) {
    let key = peer.key(1);
    match act {
        "we complete" => peer.session.complete(key),
        "we cancel" => peer.session.cancel(key),
        "we fail" => peer.session.fail(key, &Failure::application("no")),
        "they complete" => peer.say("PAYLOAD 1 C"),
        "they cancel" => peer.say("CANCEL 1"),
        _ => peer.say("ERROR 1 APPLICATION_ERROR d=no"),
    }
}

/// What a channel does when two things happen, one after the other: what it
/// says, how its reader and its writer find it, and whether it is over.
fn outcome(mut peer: Peer, first: &str, second: &str, race: bool) -> String {
    let mut said = Vec::new();
    peer.stall(race);
    act(&mut peer, first);
    said.extend(peer.heard());
    act(&mut peer, second);
    peer.stall(false);
    said.extend(peer.heard());
    let said: Vec<_> = said.iter().map(|text| text.replace(" 1", "")).collect();
    let read = match peer.take(1).split(':').next().unwrap() {
        "Failed" => "failed".to_owned(),
        other => other.to_lowercase(),
    };
    let write = match peer.session.poll_capacity(peer.key(1)) {
        Capacity::Closed => "closed",
        Capacity::Payloads(_) | Capacity::Pending => "open",
    };
    peer.send(1, "more");
    assert_eq!(peer.heard().len(), usize::from(write == "open"));
    // Both sides let go: whatever is left open ends now.
    let key = peer.key(1);
    peer.session.release(key);
    peer.session.release(key);
    let words = peer.heard();
    let over = if words.is_empty() { "over" } else { "not over" };
    assert_eq!(peer.session.streams_open(), 0, "{first}, {second}");
    format!("{} | read {read} | write {write} | {over}", said.join(", "))
}

// What a table says of both, so that a change of the protocol is a change of
// a table. Change it only with the spec open.
// [C236] [C237] [C238] [C239] [C240] [C241] [C243] [A14] [A15]
const AS_REQUESTER: &str = include_str!("half_close_requester.txt");
const AS_RESPONDER: &str = include_str!("half_close_responder.txt");

fn matrix(start: impl Fn() -> Peer) -> String {
    let mut table = String::new();
    for first in ACTS {
        for second in ACTS {
            let calm = outcome(start(), first, second, false);
            writeln!(table, "{first}, {second}: {calm}").unwrap();
            // If the link takes nothing in between, only what is said differs.
            let raced = outcome(start(), first, second, true);
            let state = |outcome: &str| outcome.split_once('|').unwrap().1.to_owned();
            assert_eq!(state(&raced), state(&calm), "{first}, {second}");
        }
    }
    table
}

// [C236] [C237] [C238] [C239] [C240] [C241] [C243] [A14] [A15]: the complaints
// 18 to 22 that others got.
#[test]
fn a_requesters_channel_ends_as_the_table_says() {
    let start = || {
        let mut peer = asking(RequestChannel);
        peer.say("REQUEST_N 1 n=9");
        peer
    };
    assert_eq!(matrix(start), AS_REQUESTER);
}

// [C236] [C237] [C238] [C239] [C240] [C241] [C243] [A14] [A15]
#[test]
fn a_responders_channel_ends_as_the_table_says() {
    let start = || {
        let mut peer = asked("REQUEST_CHANNEL 1 n=9 d=first");
        assert_eq!(peer.take(1), "d=first");
        peer.heard();
        peer
    };
    assert_eq!(matrix(start), AS_RESPONDER);
}

// [C240] [A15]
#[test]
fn a_responder_that_stops_the_requester_goes_on_itself() {
    let mut peer = asked("REQUEST_CHANNEL 1 n=9 d=1");
    assert_eq!(peer.take(1), "d=1");
    peer.heard();
    peer.session.cancel(peer.key(1));
    assert_eq!(peer.heard(), ["CANCEL 1"]);
    // On its way when CANCEL was sent.
    assert_eq!(peer.ask("PAYLOAD 1 N d=2"), NONE);
    peer.send(1, "answer");
    peer.session.complete(peer.key(1));
    assert_eq!(peer.heard(), ["PAYLOAD 1 N d=answer", "PAYLOAD 1 C"]);
    let_go(&mut peer, 1);
}

// [C240] [A15]
#[test]
fn a_requester_that_is_stopped_goes_on_receiving() {
    let mut peer = asking(RequestChannel);
    let key = peer.key(1);
    peer.say("REQUEST_N 1 n=9");
    peer.stall(true);
    peer.send(1, "unsent");
    peer.say("CANCEL 1");
    peer.stall(false);
    assert_eq!(peer.heard(), NONE);
    assert_eq!(peer.session.poll_capacity(key), Capacity::Closed);
    peer.say("PAYLOAD 1 N d=answer");
    assert_eq!(peer.take(1), "d=answer");
    peer.session.request_n(key, Demand::ONE);
    assert_eq!(peer.heard(), ["REQUEST_N 1 n=1"]);
    peer.say("PAYLOAD 1 C");
    assert_eq!(peer.take(1), "Complete");
    let_go(&mut peer, 1);
}

// ----- letting go -----------------------------------------------------------------------------

// [C233] [C239]: the complaint 20 that others got.
#[test]
fn whoever_lets_go_of_an_open_stream_ends_it() {
    for interaction in [RequestResponse, RequestStream] {
        let mut peer = asking(interaction);
        peer.session.release(peer.key(1));
        assert_eq!(peer.heard(), ["CANCEL 1"]);
        assert_eq!(peer.session.streams_open(), 0);
    }
    let mut peer = asking(RequestChannel);
    peer.session.release(peer.key(1));
    assert_eq!(peer.heard(), NONE, "the other half is still held");
    peer.session.release(peer.key(1));
    assert_eq!(peer.heard(), ["CANCEL 1"]);
    for text in [
        "REQUEST_RESPONSE 1",
        "REQUEST_STREAM 1",
        "REQUEST_CHANNEL 1 C",
    ] {
        let mut peer = asked(text);
        let_go_of_all(&mut peer);
        assert_eq!(peer.heard(), ["ERROR 1 CANCELED"], "{text}");
        assert_eq!(peer.session.streams_open(), 0);
    }
}

fn let_go_of_all(peer: &mut Peer) {
    let key = peer.key(1);
    peer.session.release(key);
    peer.session.release(key);
    peer.session.release(key); // Once too often does no harm.
}

// [C243]
#[test]
fn a_key_says_nothing_about_a_later_stream_in_its_place() {
    let mut peer = asking(RequestResponse);
    let old = peer.key(1);
    peer.say("PAYLOAD 1 NC d=x");
    peer.session.release(old);
    let id = peer.open(RequestResponse, "new");
    assert_eq!(peer.key(id).slot, old.slot, "places are used again");
    peer.heard();
    peer.session.cancel(old);
    peer.session.release(old);
    peer.session.fail(old, &Failure::application("old"));
    assert_eq!(peer.heard(), NONE);
    assert_eq!(peer.take(id), "Pending");
}

// [C011]
#[test]
fn a_request_that_fits_no_frame_takes_no_id_and_says_nothing() {
    let mut peer = client();
    for interaction in [
        RequestResponse,
        FireAndForget,
        RequestStream,
        RequestChannel,
    ] {
        let mut open = request(interaction, "");
        open.payload = Payload::new(vec![0; 0xFF_FFFF]);
        let refused = peer.session.open(open);
        assert!(
            matches!(refused, Err(Error::TooLong { .. })),
            "{interaction}"
        );
    }
    assert_eq!(peer.heard(), NONE);
    assert_eq!(peer.session.streams_open(), 0);
    assert_eq!(peer.open(RequestResponse, "fits"), 1);
}

// [C010] [C011]: 16 MB - 1 and its neighbours, on a stream's own bytes; the
// complaint 32 that others got.
#[test]
fn the_longest_payload_that_fits_a_frame_is_sent_and_the_next_is_refused() {
    let longest = 0xFF_FFFF - 6;
    let mut peer = asked("REQUEST_RESPONSE 1");
    let key = peer.key(1);
    let refused = peer.session.send(key, Payload::new(vec![7; longest + 1]));
    assert!(matches!(refused, Err(Error::TooLong { .. })));
    let with_metadata = Payload::new(vec![7; longest - 2]).with_metadata("");
    assert!(peer.session.send(key, with_metadata).is_err());
    // It is as it was, and can still be answered.
    peer.session
        .send(key, Payload::new(vec![7; longest]))
        .unwrap();
    let heard = peer.heard_bytes();
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].len(), 0xFF_FFFF);
}

// [C163] [C192]: who serves may ask, and who asks may serve.
#[test]
fn both_sides_ask_and_answer_at_once() {
    let mut peer = client();
    let id = peer.open(RequestResponse, "ours");
    peer.say("REQUEST_RESPONSE 2 d=theirs");
    assert_eq!(peer.events(), ["REQUEST_RESPONSE 2 d=theirs"]);
    peer.send(2, "to theirs");
    assert_eq!(
        peer.heard(),
        ["REQUEST_RESPONSE 1 d=ours", "PAYLOAD 2 NC d=to theirs"]
    );
    peer.say("PAYLOAD 1 NC d=to ours");
    assert_eq!(peer.take(id), "d=to ours");
}

#[test]
fn a_stream_can_be_opened_with_any_demand() {
    for (demand, n) in [
        (DemandPolicy::default(), 64),
        (DemandPolicy::prefetch(Demand::MAX), 0x7FFF_FFFF),
        (
            DemandPolicy::Manual {
                initial: Demand::ONE,
            },
            1,
        ),
    ] {
        let mut peer = client();
        let key = peer.open_with(Open {
            interaction: RequestStream,
            payload: Payload::default(),
            demand,
            complete: false,
        });
        assert_eq!(peer.heard(), [format!("REQUEST_STREAM {key} n={n}")]);
    }
}
