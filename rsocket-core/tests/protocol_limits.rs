//! What a peer can make a session hold: everything has a bound.
//!
//! The numbers of complaints are those that other implementations got from
//! their users; numbers in brackets are statements of `docs/checklist.md`.

use std::time::Duration;

use rsocket_core::{
    Payload,
    frame::Interaction,
    proto::{Capacity, Config, Take},
    testkit::{Peer, frame, request},
};

use Interaction::{FireAndForget, RequestChannel, RequestResponse};

const NONE: [&str; 0] = [];

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

// Complaint 1. [C256]: see also the tests of flow.
#[test]
fn answers_that_the_peer_does_not_read_are_bounded_whatever_it_granted() {
    let mut peer = Peer::of_server(config(|c| c.limits.max_queued_len = 100_000));
    peer.stall(true);
    for id in (1..400).step_by(2) {
        peer.say(&format!("REQUEST_STREAM {id} n=0x7fffffff"));
    }
    peer.events();
    for id in (1..400).step_by(2) {
        while let Capacity::Payloads(_) = peer.session.poll_capacity(peer.key(id)) {
            peer.send(id, &"x".repeat(1_000));
        }
    }
    let queued = peer.session.books().queued;
    assert!(queued < 102_000, "{queued}");
    assert!(!peer.session.wants_work());
    // No more than a stream's share each, once it reads.
    peer.stall(false);
    assert!(peer.heard().len() < 120);
    assert_eq!(peer.wakes().len(), 200, "all go on");
}

// Complaint 2. [C252]
#[test]
fn payloads_beyond_the_credit_do_not_pile_up_on_any_number_of_streams() {
    let mut peer = Peer::of_client(Config::default());
    for _ in 0..100 {
        peer.open(RequestChannel, "x");
    }
    peer.heard();
    for id in (1..200).step_by(2) {
        for _ in 0..50 {
            peer.say(&format!("PAYLOAD {id} N d=*100"));
        }
    }
    assert!(peer.session.books().buffered < 100 * 250);
    assert_eq!(peer.session.stats().streams_misbehaved, 100);
}

// Complaint 3. [C256]
#[test]
fn many_small_grants_make_nothing_pile_up() {
    let mut peer = Peer::of_server(Config::default());
    peer.say("REQUEST_STREAM 1 n=1");
    peer.events();
    peer.stall(true);
    let grant = frame("REQUEST_N 1 n=1");
    let before = peer.session.books();
    for _ in 0..100_000 {
        peer.session.handle_frame(
            peer.now(),
            &rsocket_core::transport::InFrame::Borrowed(&grant),
        );
    }
    assert_eq!(peer.session.books(), before);
    while let Capacity::Payloads(_) = peer.session.poll_capacity(peer.key(1)) {
        peer.send(1, "x");
    }
    assert!(peer.session.books().queued < 10_000);
}

// Complaint 4. [C110]: with the default limits, and data of any length.
#[test]
fn keepalives_of_any_length_that_are_not_read_are_bounded() {
    for len in [0, 1_000, 1 << 20] {
        let mut peer = Peer::of_server(Config::default());
        peer.stall(true);
        let keepalive = frame(&format!("KEEPALIVE R d=*{len}"));
        let mut said = 0;
        while peer.offer(&keepalive) {
            said += 1;
            assert!(said < 10_000, "it takes them without end");
        }
        assert!(peer.session.books().owed <= (256 << 10) + len + 100);
        peer.stall(false);
        assert_eq!(peer.heard_bytes().len(), said);
        assert!(peer.session.wants_input());
    }
}

// [C110]: neither do rejections pile up.
#[test]
fn rejections_that_are_not_read_are_bounded() {
    let mut peer = Peer::of_server(config(|c| c.limits.max_streams = 0));
    peer.stall(true);
    let mut id = 1_u32;
    while peer.offer(&frame(&format!("REQUEST_RESPONSE {id}"))) {
        id += 2;
        assert!(id < 100_000, "it takes them without end");
    }
    assert!(peer.session.books().owed < (256 << 10) + 200);
    peer.stall(false);
    assert_eq!(peer.heard_bytes().len(), (id / 2) as usize);
    assert_eq!(peer.session.books().owed, 0);
}

// [C110] [C254]: what we push ourselves is no reason not to read: two sides
// that push much at once would wait for each other.
#[test]
fn pushes_of_our_own_do_not_keep_us_from_reading() {
    let mut peer = Peer::of_client(Config::default());
    peer.stall(true);
    assert!(peer.session.has_push_room());
    peer.session.metadata_push(&vec![7; 1 << 20]).unwrap();
    assert!(peer.session.wants_input());
    assert!(!peer.session.has_push_room(), "more would pile up");
    peer.stall(false);
    assert_eq!(peer.heard_bytes().len(), 1);
    assert!(peer.session.has_push_room());
}

// [C101] [C110]
#[test]
fn keepalives_of_our_own_do_not_pile_up_on_a_link_that_takes_nothing() {
    let mut peer = Peer::of_client(Config::default());
    peer.stall(true);
    for _ in 0..100 {
        peer.pass(Duration::from_secs(20));
        peer.say("KEEPALIVE");
    }
    peer.stall(false);
    assert_eq!(peer.heard(), ["KEEPALIVE R"]);
}

// Complaint 5. [C222]
#[test]
fn payloads_that_never_end_are_bounded_over_all_streams() {
    let mut peer = Peer::of_server(config(|c| c.limits.max_buffered_len = 100_000));
    for id in (1..100).step_by(2) {
        peer.say(&format!("REQUEST_RESPONSE {id} F d=*5000"));
        assert!(peer.session.books().buffered <= 100_000);
    }
    assert_eq!(peer.session.streams_open(), 50);
    assert_eq!(peer.session.stats().streams_misbehaved, 30);
    assert_eq!(peer.heard().len(), 30);
    assert_eq!(peer.session.streams_open(), 20);
    assert!(!peer.session.is_closed());
}

// [C222] [C252]: requests and first payloads count until they are taken.
#[test]
fn requests_that_nobody_takes_are_bounded() {
    for kind in [
        "REQUEST_RESPONSE",
        "REQUEST_STREAM",
        "REQUEST_CHANNEL",
        "REQUEST_FNF",
    ] {
        let mut peer = Peer::of_server(config(|c| c.limits.max_buffered_len = 100_000));
        for id in (1..200).step_by(2) {
            peer.say(&format!("{kind} {id} d=*5000"));
            assert!(peer.session.books().buffered <= 100_000, "{kind}");
        }
        let heard = peer.heard();
        let refused = match kind {
            "REQUEST_FNF" => {
                assert_eq!(heard, NONE);
                peer.session.stats().one_way_dropped
            }
            _ => {
                assert!(
                    heard.iter().all(|text| text.ends_with(" REJECTED")),
                    "{heard:?}"
                );
                peer.session.stats().requests_rejected
            }
        };
        let told = peer.events().len();
        assert_eq!(told as u64 + refused, 100, "{kind}");
        assert!((15..=19).contains(&told), "{kind}: {told}");
        if kind != "REQUEST_CHANNEL" {
            assert_eq!(peer.session.books().buffered, 0);
            // There is room again.
            peer.say(&format!("{kind} 201 d=*5000"));
            assert_eq!(peer.events().len(), 1);
        }
    }
}

// [C222]
#[test]
fn payloads_that_nobody_takes_are_bounded_over_all_streams() {
    let mut peer = Peer::of_client(config(|c| c.limits.max_buffered_len = 100_000));
    for _ in 0..50 {
        peer.open(RequestResponse, "x");
    }
    peer.heard();
    for id in (1..100).step_by(2) {
        peer.say(&format!("PAYLOAD {id} N d=*5000"));
        assert!(peer.session.books().buffered <= 100_000);
    }
    let kept = (1..100)
        .step_by(2)
        .filter(|id| peer.take(*id).starts_with("d="))
        .count();
    assert_eq!(kept, 19);
    assert_eq!(peer.session.books().buffered, 0);
}

// Complaint 6. [C223]
#[test]
fn empty_fragments_are_refused_on_any_number_of_streams() {
    let mut peer = Peer::of_server(Config::default());
    for id in (1..2_000).step_by(2) {
        peer.say(&format!("REQUEST_RESPONSE {id} F"));
        peer.say(&format!("PAYLOAD {id} FN"));
    }
    assert_eq!(peer.heard().len(), 1_000);
    assert_eq!(peer.session.streams_open(), 0);
    assert!(!peer.session.is_closed());
}

// The same with fragments of a byte each. [C222]
#[test]
fn a_payload_in_too_many_fragments_ends_its_stream() {
    let mut peer = Peer::of_server(config(|c| c.limits.max_fragments = 3));
    peer.say("REQUEST_RESPONSE 1 F d=a");
    assert!(peer.ask("PAYLOAD 1 FN d=b").is_empty());
    assert!(peer.ask("PAYLOAD 1 FN d=c").is_empty());
    assert_eq!(peer.ask("PAYLOAD 1 N d=d"), ["ERROR 1 CANCELED"]);
    assert!(peer.events().is_empty());
    peer.say("REQUEST_RESPONSE 3 F d=a");
    peer.say("PAYLOAD 3 FN d=b");
    peer.say("PAYLOAD 3 N d=c");
    assert_eq!(peer.events(), ["REQUEST_RESPONSE 3 d=abc"]);
}

// Complaint 10. [C132]
#[test]
fn credit_beyond_a_limit_is_refused_if_there_is_one() {
    let mut peer = Peer::of_server(config(|c| c.limits.max_credit = 100));
    assert_eq!(peer.ask("REQUEST_STREAM 1 n=101"), ["ERROR 1 REJECTED"]);
    assert!(peer.events().is_empty());
    // What was sent makes room for as much.
    peer.say("REQUEST_STREAM 3 n=100");
    peer.events();
    peer.send(3, "x");
    peer.heard();
    assert!(peer.ask("REQUEST_N 3 n=1").is_empty());
    assert_eq!(peer.ask("REQUEST_N 3 n=1"), ["ERROR 3 CANCELED"]);
    assert_eq!(peer.session.stats().streams_misbehaved, 1);
    assert!(!peer.session.is_closed());
}

// Complaint 7. [C156] [C332] [C333]
#[test]
fn frames_for_dead_streams_cost_nothing() {
    let mut peer = Peer::of_server(Config::default());
    peer.stall(true);
    let before = peer.session.books();
    for n in 0..30_000_u32 {
        let id = n % 1_000 + 1;
        let text = match n % 4 {
            0 => format!("PAYLOAD {id} N d=x"),
            1 => format!("CANCEL {id}"),
            2 => format!("ERROR {id} REJECTED"),
            _ => format!("REQUEST_N {id} n=1"),
        };
        let bytes = frame(&text);
        peer.session.handle_frame(
            peer.now(),
            &rsocket_core::transport::InFrame::Borrowed(&bytes),
        );
    }
    assert_eq!(peer.session.books(), before);
    assert_eq!(peer.session.stats().frames_ignored, 30_000);
    assert!(peer.session.wants_input());
}

// Complaint 8. [C165]
#[test]
fn a_storm_of_metadata_pushes_is_dropped_and_counted() {
    let mut peer = Peer::of_server(config(|c| c.limits.max_one_way = 10));
    for _ in 0..1_000 {
        peer.say("METADATA_PUSH m=x");
    }
    assert_eq!(peer.events().len(), 10);
    assert_eq!(peer.session.stats().one_way_dropped, 990);
    assert_eq!(peer.session.one_way_in_work(), 10);
    // Those in work count until they are done.
    peer.say("METADATA_PUSH m=x");
    assert_eq!(peer.events(), NONE);
    peer.session.metadata_push_done();
    peer.say("METADATA_PUSH m=y");
    assert_eq!(peer.events(), ["METADATA_PUSH m=y"]);
    for _ in 0..20 {
        peer.session.metadata_push_done();
    }
    assert_eq!(peer.session.one_way_in_work(), 0);
}

// [C165] [C222]: by their bytes, too.
#[test]
fn long_metadata_pushes_are_bounded_by_their_bytes() {
    let mut peer = Peer::of_server(config(|c| {
        c.limits.max_buffered_len = 100_000;
        c.limits.max_payload_len = 10_000;
    }));
    peer.say("METADATA_PUSH m=*10001");
    assert_eq!(peer.session.stats().one_way_dropped, 1);
    for _ in 0..100 {
        peer.say("METADATA_PUSH m=*9000");
        assert!(peer.session.books().buffered <= 100_000);
    }
    assert_eq!(peer.events().len(), 10);
    assert_eq!(peer.session.books().buffered, 0);
}

// [C234] [C165]
#[test]
fn a_storm_of_fire_and_forgets_is_dropped_and_counted() {
    let mut peer = Peer::of_server(config(|c| c.limits.max_one_way = 10));
    for id in (1..2_000).step_by(2) {
        assert_eq!(peer.ask(&format!("REQUEST_FNF {id} d=x")), NONE);
    }
    assert_eq!(peer.events().len(), 10);
    assert_eq!(peer.session.stats().one_way_dropped, 990);
    assert_eq!(peer.session.streams_open(), 10);
}

// Complaint 9. [C182]: see also the tests of connections.
#[test]
fn a_connection_without_setup_ends() {
    let mut peer = Peer::of_new_server(config(|c| {
        c.limits.setup_timeout = Duration::from_millis(100);
    }));
    let deadline = peer.session.poll_timeout().unwrap();
    assert_eq!(deadline - peer.now(), Duration::from_millis(100));
    peer.pass(Duration::from_millis(100));
    assert!(peer.session.is_closed());
}

// Complaint 10. [C256]: what may wait on one stream is bounded, credit or not.
#[test]
fn one_stream_queues_no_more_than_its_share() {
    let mut peer = Peer::of_server(Config::default());
    peer.say("REQUEST_STREAM 1 n=0x7fffffff");
    peer.events();
    peer.stall(true);
    let mut sent = 0;
    while let Capacity::Payloads(n) = peer.session.poll_capacity(peer.key(1)) {
        assert!(n <= 32);
        peer.send(1, "x");
        sent += 1;
    }
    assert_eq!(sent, 32);
}

// [C050] [C086]
#[test]
fn requests_in_work_are_bounded() {
    let mut peer = Peer::of_server(config(|c| c.limits.max_streams = 100));
    for id in (1..1_000).step_by(2) {
        peer.say(&format!("REQUEST_RESPONSE {id}"));
    }
    assert_eq!(peer.session.streams_open(), 100);
    assert_eq!(peer.heard().len(), 400);
    assert_eq!(peer.events().len(), 100);
    // Requests of our own are not the peer's.
    peer.open(RequestResponse, "x");
    // Cancelled ones count until their handler has let go.
    peer.say_all(["CANCEL 1", "REQUEST_RESPONSE 1001"]);
    assert_eq!(peer.session.stats().requests_rejected, 401);
    peer.session.release(peer.key(1));
    peer.say("REQUEST_RESPONSE 1003");
    assert_eq!(peer.events(), ["REQUEST_RESPONSE 1003 empty"]);
}

// [C233]: places are used again, and long queues are given back.
#[test]
fn a_long_life_leaves_nothing_behind() {
    let mut peer = Peer::of_server(Config::default());
    let mut id = 1;
    for _ in 0..2_000 {
        peer.say(&format!("REQUEST_CHANNEL {id} n=100 d=x"));
        peer.events();
        peer.take(id);
        for _ in 0..32 {
            peer.send(id, "x");
        }
        peer.heard();
        peer.say(&format!("CANCEL {id}"));
        let key = peer.key(id);
        peer.session.release(key);
        peer.session.release(key);
        let own = peer.open(FireAndForget, "x");
        peer.session.release(peer.key(own));
        peer.heard();
        id += 2;
    }
    let books = peer.session.books();
    assert!(books.slots <= 2, "{books:?}");
    assert_eq!((books.buffered, books.queued, books.owed), (0, 0, 0));
    assert_eq!(peer.session.streams_open(), 0);
}

// [C256]: a limit of nothing still lets one payload pass at a time.
#[test]
fn the_least_limit_of_what_is_queued_is_one_payload() {
    let mut peer = Peer::of_server(config(|c| c.limits.max_queued_len = 0));
    peer.say("REQUEST_STREAM 1 n=2");
    peer.events();
    for _ in 0..5 {
        assert!(peer.session.wants_work());
        assert!(matches!(
            peer.session.poll_capacity(peer.key(1)),
            Capacity::Payloads(_)
        ));
        peer.send(1, "x");
        assert_eq!(peer.session.poll_capacity(peer.key(1)), Capacity::Pending);
        assert_eq!(peer.heard().len(), 1);
        assert_eq!(peer.wakes().len(), 1, "whoever waits goes on");
        peer.say("REQUEST_N 1 n=1");
    }
}

// [C005]: whatever was open, the end leaves nothing.
#[test]
fn the_end_of_a_connection_leaves_nothing_behind() {
    for hang_up in [false, true] {
        let mut peer = Peer::of_server(Config::default());
        peer.stall(true);
        for id in (1..100).step_by(2) {
            let text = match id % 5 {
                0 => format!("REQUEST_RESPONSE {id} d=*100"),
                1 => format!("REQUEST_STREAM {id} n=9 d=*100"),
                2 => format!("REQUEST_CHANNEL {id} n=9 d=*100"),
                3 => format!("REQUEST_FNF {id} d=*100"),
                _ => format!("REQUEST_RESPONSE {id} F d=*100"),
            };
            peer.say(&text);
        }
        peer.say("KEEPALIVE R d=*100");
        peer.say("METADATA_PUSH m=*100");
        for _ in 0..20 {
            let mut open = request(RequestResponse, "");
            open.payload = Payload::new(vec![7; 100]);
            peer.open_with(open);
        }
        peer.session.metadata_push(b"x").unwrap();
        if hang_up {
            peer.hang_up();
        } else {
            peer.session.abort();
        }
        peer.stall(false);
        peer.heard();
        peer.events();
        for id in 1..100 {
            let told = id % 2 == 0 && id <= 40 || id % 2 == 1 && id % 5 != 4;
            if told {
                let key = peer.key(id);
                while let Take::Payload(_) = peer.session.poll_take(key) {}
                peer.session.release(key);
                peer.session.release(key);
            }
        }
        let books = peer.session.books();
        assert_eq!((books.buffered, books.queued, books.owed), (0, 0, 0));
        assert_eq!(peer.session.streams_open(), 0);
        peer.session.assert_consistent();
    }
}
