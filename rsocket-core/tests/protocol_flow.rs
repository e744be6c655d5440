//! Credit and fragments: how many payloads may be sent, and in what pieces.
//!
//! A session is spoken to frame by frame; numbers in brackets are statements
//! of `docs/checklist.md`.
#![expect(clippy::unwrap_used, reason = "what is wrong with a test fails it")]

use rsocket_core::{
    Failure, Payload,
    frame::{Demand, Interaction},
    proto::{Capacity, Config, DemandPolicy, Wake},
    testkit::{Peer, Random, request, seeds},
};

use Interaction::{FireAndForget, RequestChannel, RequestResponse, RequestStream};

const NONE: [&str; 0] = [];

fn asked(text: &str) -> Peer {
    asked_with(text, Config::default())
}

fn asked_with(text: &str, config: Config) -> Peer {
    let mut peer = Peer::of_server(config);
    peer.say(text);
    assert_eq!(peer.events().len(), 1);
    peer
}

/// A client that asked for `n` payloads and no more.
fn asking(interaction: Interaction, n: u32) -> Peer {
    asking_with(interaction, n, Config::default())
}

fn asking_with(interaction: Interaction, n: u32, config: Config) -> Peer {
    let mut peer = Peer::of_client(config);
    let mut open = request(interaction, "first");
    open.demand = DemandPolicy::Manual {
        initial: Demand::new(n).unwrap(),
    };
    assert_eq!(peer.open_with(open), 1);
    peer.heard();
    peer
}

fn cut(fragment_len: usize) -> Config {
    Config {
        fragment_len: Some(fragment_len),
        ..Config::default()
    }
}

/// Sends as long as there is capacity; says how much that was.
fn send_all(peer: &mut Peer, id: u32, limit: usize) -> usize {
    for sent in 0..limit {
        match peer.session.poll_capacity(peer.key(id)) {
            Capacity::Payloads(_) => peer.send(id, "x"),
            Capacity::Closed | Capacity::Pending => return sent,
        }
    }
    limit
}

/// As [`send_all`], in rounds between which the link takes everything.
fn send_on(peer: &mut Peer, id: u32, rounds: usize) -> usize {
    let mut sent = 0;
    for _ in 0..rounds {
        sent += send_all(peer, id, 1_000);
        peer.heard();
    }
    sent
}

// ----- credit that the peer grants -----------------------------------------------

// [C130] [C131] [C250]: 3 and then 2 are 5, and no payload goes without.
#[test]
fn no_payload_goes_out_without_credit_and_grants_add_up() {
    for text in ["REQUEST_STREAM 1 n=3", "REQUEST_CHANNEL 1 n=3"] {
        let mut peer = asked(text);
        assert_eq!(send_all(&mut peer, 1, 100), 3);
        assert_eq!(peer.session.poll_capacity(peer.key(1)), Capacity::Pending);
        peer.send(1, "one too many");
        assert_eq!(peer.heard().len(), 3);
        peer.say_all(["REQUEST_N 1 n=3", "REQUEST_N 1 n=2"]);
        assert_eq!(peer.wakes(), [Wake::Writer(peer.key(1).slot)]);
        assert_eq!(send_all(&mut peer, 1, 100), 5);
        assert_eq!(peer.heard().len(), 5);
    }
}

// [C132] [C133] [A2] [A3]: the complaints 12 and 13 that others got.
#[test]
fn endless_credit_neither_overflows_nor_runs_out() {
    let mut peer = asked("REQUEST_STREAM 1 n=0x7fffffff");
    for _ in 0..5 {
        peer.say("REQUEST_N 1 n=0x7fffffff");
    }
    assert!(send_on(&mut peer, 1, 100) >= 3_000);
    // Also if it is reached by and by: Java then grants no more.
    let mut peer = asked("REQUEST_STREAM 1 n=1");
    peer.say("REQUEST_N 1 n=0x7ffffffe");
    assert!(send_on(&mut peer, 1, 100) >= 3_000);
}

// [C135]
#[test]
fn a_grant_of_nothing_or_of_too_much_is_ignored() {
    let mut peer = asked("REQUEST_STREAM 1 n=1");
    peer.say_all(["REQUEST_N 1 n=0", "REQUEST_N 1 n=0x80000005"]);
    assert_eq!(peer.session.stats().frames_ignored, 2);
    assert_eq!(send_all(&mut peer, 1, 100), 1);
    assert!(!peer.session.is_closed());
}

// [C136]
#[test]
fn a_grant_for_a_half_that_is_over_is_ignored() {
    let mut peer = asked("REQUEST_CHANNEL 1 n=1");
    peer.session.complete(peer.key(1));
    peer.say("REQUEST_N 1 n=5");
    assert_eq!(peer.session.stats().frames_ignored, 1);
    let mut peer = asking(RequestStream, 1);
    peer.say("REQUEST_N 1 n=5");
    assert_eq!(peer.session.stats().frames_ignored, 1);
}

// [C253] [C204]: waiting for credit is not a matter of the protocol.
#[test]
fn a_stream_without_credit_waits_as_long_as_it_takes() {
    let mut peer = asked("REQUEST_STREAM 1 n=1");
    assert_eq!(send_all(&mut peer, 1, 100), 1);
    for _ in 0..1_000 {
        peer.say("KEEPALIVE");
        peer.pass(std::time::Duration::from_secs(60));
    }
    assert_eq!(peer.session.poll_capacity(peer.key(1)), Capacity::Pending);
    peer.say("REQUEST_N 1 n=1");
    assert_eq!(send_all(&mut peer, 1, 100), 1);
}

#[test]
fn an_application_can_see_what_was_granted() {
    let mut peer = asked("REQUEST_STREAM 1 n=3");
    let key = peer.key(1);
    assert_eq!(
        peer.session.poll_granted(key),
        std::task::Poll::Ready(Some(3))
    );
    assert!(peer.session.poll_granted(key).is_pending());
    peer.say("REQUEST_N 1 n=4");
    assert_eq!(peer.wakes().len(), 1);
    assert_eq!(
        peer.session.poll_granted(key),
        std::task::Poll::Ready(Some(4))
    );
    peer.say("CANCEL 1");
    assert_eq!(peer.session.poll_granted(key), std::task::Poll::Ready(None));
}

// [C256]: the complaints 1 and 10 that others got.
#[test]
fn endless_credit_of_a_peer_that_does_not_read_holds_up_the_producer() {
    let mut config = Config::default();
    config.limits.max_queued_len = 10_000;
    let mut peer = asked_with("REQUEST_STREAM 1 n=0x7fffffff", config);
    peer.say("REQUEST_STREAM 3 n=0x7fffffff");
    peer.events();
    peer.stall(true);
    let (one, three) = (peer.key(1), peer.key(3));
    let mut sent = 0;
    for key in [one, three, one, three] {
        while let Capacity::Payloads(_) = peer.session.poll_capacity(key) {
            let payload = Payload::new(vec![7; 1_000]);
            peer.session.send(key, payload).unwrap();
            sent += 1;
            assert!(sent < 100);
        }
    }
    assert!(peer.session.books().queued < 12_000);
    assert!(!peer.session.wants_work(), "no further request is taken on");
    // It reads again: both go on, though neither granted anything new.
    peer.stall(false);
    assert_eq!(peer.heard().len(), sent);
    let wakes = peer.wakes();
    assert!(wakes.contains(&Wake::Writer(one.slot)), "{wakes:?}");
    assert!(wakes.contains(&Wake::Writer(three.slot)), "{wakes:?}");
    assert!(peer.session.wants_work());
}

// [C256]: those who wait for room get it too when it comes from a stream that
// ends, and not from the link.
#[test]
fn the_end_of_a_stream_makes_room_for_others() {
    for end in [
        "CANCEL 1",
        "ERROR 1 APPLICATION_ERROR",
        "PAYLOAD 1 N d=too much",
        "we cancel",
    ] {
        let mut config = Config::default();
        config.limits.max_queued_len = 10_000;
        let mut peer = Peer::of_server(config);
        peer.say_all(["REQUEST_CHANNEL 1 n=100 d=x", "REQUEST_STREAM 3 n=100"]);
        peer.events();
        peer.stall(true);
        let mut filler = 1;
        if end == "we cancel" {
            filler = peer.open(RequestChannel, "x");
            peer.stall(false);
            peer.heard();
            peer.say(&format!("REQUEST_N {filler} n=100"));
            peer.stall(true);
        }
        let big = Payload::new(vec![7; 20_000]);
        peer.session.send(peer.key(filler), big).unwrap();
        assert_eq!(peer.session.poll_capacity(peer.key(3)), Capacity::Pending);
        match end {
            "we cancel" => peer.session.cancel(peer.key(filler)),
            _ => peer.say(end),
        }
        peer.stall(false);
        peer.heard();
        let waiting = peer.wakes();
        assert!(
            waiting.contains(&Wake::Writer(peer.key(3).slot)),
            "{end}: {waiting:?}"
        );
        assert!(matches!(
            peer.session.poll_capacity(peer.key(3)),
            Capacity::Payloads(_)
        ));
    }
}

// [C256]: requests of our own wait for the peer, who may wait for our answers.
#[test]
fn requests_that_wait_do_not_keep_us_from_serving() {
    let mut config = Config::default();
    config.limits.max_queued_len = 10_000;
    let mut peer = Peer::of_client(config);
    peer.stall(true);
    for _ in 0..20 {
        let mut open = request(RequestResponse, "");
        open.payload = Payload::new(vec![7; 1_000]);
        peer.open_with(open);
    }
    peer.heard();
    assert!(peer.session.wants_work() && peer.session.wants_input());
}

// ----- credit that we grant --------------------------------------------------------

// [C252] [A16]: the complaint 2 that others got.
#[test]
fn payloads_beyond_the_credit_end_the_stream_and_are_not_kept() {
    for interaction in [RequestStream, RequestChannel] {
        let mut peer = asking(interaction, 5);
        for n in 0..50 {
            peer.say(&format!("PAYLOAD 1 N d={n}"));
        }
        assert_eq!(peer.heard(), ["CANCEL 1"]);
        let taken = peer.take_all(1);
        assert_eq!(taken.len(), 6, "what was asked for is delivered");
        assert!(taken[5].contains("more payloads than it was granted"));
        assert_eq!(peer.session.stats().streams_misbehaved, 1);
        assert_eq!(peer.session.poll_capacity(peer.key(1)), Capacity::Closed);
        assert!(!peer.session.is_closed());
    }
}

// [C252] [A16]
#[test]
fn a_requester_that_sends_beyond_its_credit_is_told() {
    let mut peer = asked("REQUEST_CHANNEL 1 n=1 d=1");
    let key = peer.key(1);
    let policy = DemandPolicy::Manual {
        initial: Demand::ONE,
    };
    peer.session.set_demand(key, policy);
    assert_eq!(peer.take(1), "d=1");
    assert_eq!(peer.heard(), ["REQUEST_N 1 n=1"]);
    peer.say_all(["PAYLOAD 1 N d=2", "PAYLOAD 1 N d=3"]);
    assert_eq!(peer.heard(), ["ERROR 1 CANCELED"]);
    assert_eq!(peer.take(1), "d=2");
    assert!(peer.take(1).starts_with("Failed"));
    assert!(peer.session.poll_send_closed(key));
}

// [C123] [C252]: before anybody asked for it.
#[test]
fn a_requester_that_does_not_wait_for_credit_is_told() {
    let mut peer = asked("REQUEST_CHANNEL 1 n=1 d=1");
    assert_eq!(peer.ask("PAYLOAD 1 N d=2"), ["ERROR 1 CANCELED"]);
    assert_eq!(peer.take(1), "d=1");
    assert!(peer.take(1).starts_with("Failed"));
}

// [C252] [C222]: the first fragment of what may not be sent is refused, so
// nothing is held for it.
#[test]
fn a_fragment_beyond_the_credit_is_refused_at_once() {
    let mut peer = asking(RequestStream, 1);
    peer.say_all(["PAYLOAD 1 N d=1", "PAYLOAD 1 FN d=2"]);
    assert_eq!(peer.heard(), ["CANCEL 1"]);
    assert_eq!(peer.take(1), "d=1");
    assert!(peer.take(1).starts_with("Failed"));
}

// The complaint 11 that others got: demand is given back as payloads are taken.
// [C250]
#[test]
fn prefetch_asks_for_more_as_payloads_are_taken() {
    let mut peer = Peer::of_client(Config::default());
    let mut open = request(RequestStream, "x");
    open.demand = DemandPolicy::Prefetch {
        high: Demand::new(8).unwrap(),
        low: 2,
    };
    peer.open_with(open);
    assert_eq!(peer.heard(), ["REQUEST_STREAM 1 n=8 d=x"]);
    for n in 0..8 {
        assert_eq!(peer.ask(&format!("PAYLOAD 1 N d={n}")), NONE);
    }
    for n in 0..5 {
        assert_eq!(peer.take(1), format!("d={n}"));
        assert_eq!(peer.heard(), NONE);
    }
    assert_eq!(peer.take(1), "d=5");
    assert_eq!(peer.heard(), ["REQUEST_N 1 n=6"]);
}

// [C134] [A2]
#[test]
fn manual_demand_asks_for_exactly_what_it_is_told() {
    let mut peer = asking(RequestStream, 1);
    peer.say("PAYLOAD 1 N d=1");
    assert_eq!(peer.take_all(1), ["d=1", "Pending"]);
    assert_eq!(peer.heard(), NONE);
    let key = peer.key(1);
    peer.session.request_n(key, Demand::new(2).unwrap());
    peer.session.request_n(key, Demand::new(3).unwrap());
    assert_eq!(
        peer.heard(),
        ["REQUEST_N 1 n=5"],
        "grants that wait are one"
    );
    peer.session.request_n(key, Demand::MAX);
    peer.session.request_n(key, Demand::MAX);
    assert_eq!(
        peer.heard(),
        ["REQUEST_N 1 n=2147483647", "REQUEST_N 1 n=2147483647"],
        "more than one frame holds takes two"
    );
}

// [C242]
#[test]
fn asking_by_hand_comes_on_top_of_the_first_grant() {
    let mut peer = asked("REQUEST_CHANNEL 1 n=1 d=first");
    let key = peer.key(1);
    let initial = Demand::new(4).unwrap();
    peer.session
        .set_demand(key, DemandPolicy::Manual { initial });
    peer.session.request_n(key, Demand::ONE);
    assert_eq!(peer.heard(), ["REQUEST_N 1 n=5"]);
    assert_eq!(peer.take(1), "d=first");
    assert_eq!(peer.heard(), NONE);
}

// [C120]
#[test]
fn nothing_is_asked_for_on_a_stream_of_one_answer() {
    let mut peer = Peer::of_client(Config::default());
    for interaction in [RequestResponse, FireAndForget] {
        let id = peer.open(interaction, "x");
        peer.session.request_n(peer.key(id), Demand::ONE);
    }
    assert_eq!(
        peer.heard(),
        ["REQUEST_RESPONSE 1 d=x", "REQUEST_FNF 3 d=x"]
    );
    let mut peer = asked("REQUEST_STREAM 1 n=1");
    peer.session.request_n(peer.key(1), Demand::ONE);
    assert_eq!(peer.heard(), NONE);
}

// [C254] [C255]
#[test]
fn streams_take_turns_frame_by_frame_and_stream_0_goes_first() {
    let mut peer = asked_with("REQUEST_STREAM 1 n=9", cut(64));
    peer.say("REQUEST_STREAM 3 n=9");
    peer.events();
    peer.stall(true);
    peer.send(1, &"a".repeat(150));
    peer.send(3, "b");
    peer.send(3, "c");
    peer.say("KEEPALIVE R d=beat");
    peer.stall(false);
    let heard = peer.heard();
    let order: Vec<_> = heard
        .iter()
        .map(|text| text.split(" d=").next().unwrap())
        .collect();
    assert_eq!(
        order,
        [
            "KEEPALIVE",
            "PAYLOAD 1 FN",
            "PAYLOAD 3 N",
            "PAYLOAD 1 FN",
            "PAYLOAD 3 N",
            "PAYLOAD 1 N",
        ]
    );
    // The complaint 16: each leaves as soon as it is there.
    peer.send(1, "d");
    assert_eq!(peer.heard(), ["PAYLOAD 1 N d=d"]);
}

// ----- fragments that we send ---------------------------------------------------------

// [C211] [C212] [C213] [C214] [C215] [C216] [C217] [C218] [C219] [A7] [A8] [A10] [A11]
#[test]
fn long_payloads_are_cut_as_all_peers_take_them() {
    let mut peer = Peer::of_client(cut(64));
    for interaction in [
        RequestResponse,
        FireAndForget,
        RequestStream,
        RequestChannel,
    ] {
        let mut open = request(interaction, "");
        open.payload = Payload::new(vec![b'd'; 100]).with_metadata(vec![b'm'; 70]);
        open.complete = interaction == RequestChannel;
        let id = peer.open_with(open);
        let heard = peer.heard_bytes();
        // With its prefix a fragment has 64 bytes, all but the last.
        let (last, full) = heard.split_last().unwrap();
        let (last, full) = match interaction {
            RequestChannel => {
                // The completion comes by itself.
                assert_eq!(
                    *last,
                    rsocket_core::testkit::frame(&format!("PAYLOAD {id} C"))
                );
                full.split_last().unwrap()
            }
            _ => (last, full),
        };
        assert!(full.iter().all(|frame| frame.len() == 61), "{interaction}");
        assert!(last.len() <= 61);
        let texts: Vec<_> = heard
            .iter()
            .map(|bytes| rsocket_core::testkit::text(bytes))
            .map(|text| text.split(['=', '*']).next().unwrap().to_owned())
            .collect();
        let name = rsocket_core::frame::FrameType::from(interaction);
        let n = if interaction.has_initial_n() {
            " n"
        } else {
            " m"
        };
        assert_eq!(texts[0], format!("{name} {id} F{n}"));
        // Metadata before data, and data right behind it.
        assert_eq!(texts[1], format!("PAYLOAD {id} FN m"));
        assert_eq!(texts[2], format!("PAYLOAD {id} FN d"));
        assert_eq!(texts[3], format!("PAYLOAD {id} N d"));
    }
}

// [C210] [C215] [C216] [C220] [A9]
#[test]
fn answers_are_cut_too_and_cost_one_credit_each() {
    let mut peer = asked_with("REQUEST_STREAM 1 n=2", cut(64));
    let long = "x".repeat(140);
    assert_eq!(
        peer.session.poll_capacity(peer.key(1)),
        Capacity::Payloads(2)
    );
    peer.send(1, &long);
    assert_eq!(
        peer.session.poll_capacity(peer.key(1)),
        Capacity::Payloads(1)
    );
    peer.send(1, "y");
    peer.session.complete(peer.key(1));
    let heard = peer.heard();
    let heads: Vec<_> = heard
        .iter()
        .map(|text| text.split(" d=").next().unwrap())
        .collect();
    assert_eq!(
        heads,
        [
            "PAYLOAD 1 FN",
            "PAYLOAD 1 FN",
            "PAYLOAD 1 N",
            "PAYLOAD 1 N",
            "PAYLOAD 1 C"
        ]
    );
    // The one answer of a request-response completes with its last fragment.
    let mut peer = asked_with("REQUEST_RESPONSE 1", cut(64));
    peer.send(1, &long);
    let heard = peer.heard();
    let heads: Vec<_> = heard
        .iter()
        .map(|text| text.split(" d=").next().unwrap())
        .collect();
    assert_eq!(heads, ["PAYLOAD 1 FN", "PAYLOAD 1 FN", "PAYLOAD 1 NC"]);
}

// [C142] [C221] [C224]
#[test]
fn a_payload_that_is_half_sent_is_given_up_with_its_stream() {
    let mut peer = Peer::of_client(cut(64));
    peer.open(RequestResponse, &"x".repeat(500));
    // The link takes two frames and then no more.
    for _ in 0..2 {
        let sent = peer
            .session
            .transmit(|_| std::task::Poll::Ready(Ok::<_, ()>(())));
        assert!(sent.is_ok());
    }
    peer.session.cancel(peer.key(1));
    assert_eq!(peer.heard(), ["CANCEL 1"]);
    assert_eq!(peer.session.books().queued, 0);
    // A failure comes behind what was begun, so that the peer need not guess.
    let mut peer = asked_with("REQUEST_STREAM 1 n=5", cut(64));
    peer.send(1, &"x".repeat(100));
    let sent = peer
        .session
        .transmit(|_| std::task::Poll::Ready(Ok::<_, ()>(())));
    assert!(sent.is_ok());
    peer.session.fail(peer.key(1), &Failure::application("no"));
    let heard = peer.heard();
    assert!(heard[0].starts_with("PAYLOAD 1 N"), "{heard:?}");
    assert_eq!(heard[1], "ERROR 1 APPLICATION_ERROR");
}

// [C221]
#[test]
fn nothing_of_a_stream_comes_between_its_fragments() {
    let mut peer = asked_with("REQUEST_CHANNEL 1 n=5 d=1", cut(64));
    peer.send(1, &"x".repeat(150));
    let sent = peer
        .session
        .transmit(|_| std::task::Poll::Ready(Ok::<_, ()>(())));
    assert!(sent.is_ok());
    assert_eq!(peer.take(1), "d=1"); // Asks for more.
    peer.session.cancel(peer.key(1));
    let heard = peer.heard();
    assert!(heard[0].starts_with("PAYLOAD 1 FN") && heard[1].starts_with("PAYLOAD 1 N"));
    assert_eq!(heard[2..], ["CANCEL 1"]);
}

// [C211] [C214] [C217]: all lengths around those at which a fragment is full.
#[test]
fn what_is_cut_here_is_whole_there() {
    for data in 40..70 {
        for metadata in [
            None,
            Some(0),
            Some(45),
            Some(48),
            Some(49),
            Some(52),
            Some(120),
        ] {
            for interaction in [
                RequestResponse,
                FireAndForget,
                RequestStream,
                RequestChannel,
            ] {
                let mut open = request(interaction, "");
                open.payload = Payload::new(vec![b'd'; data]);
                if let Some(len) = metadata {
                    open.payload = open.payload.with_metadata(vec![b'm'; len]);
                }
                let sent = open.payload.clone();
                let mut client = Peer::of_client(cut(64));
                client.open_with(open);
                let mut server = Peer::of_server(Config::default());
                for frame in client.heard_bytes() {
                    server.say_bytes(&frame);
                }
                let event = server.event().expect("a request");
                let arrived = match event {
                    rsocket_core::proto::Event::Request { payload, .. } => payload,
                    _ => match server.session.poll_take(server.key(1)) {
                        rsocket_core::proto::Take::Payload(payload) => payload,
                        other => panic!("{other:?}"),
                    },
                };
                assert_eq!(arrived, sent);
                assert_eq!(arrived.metadata().is_some(), metadata.is_some());
            }
        }
    }
}

// ----- fragments that we receive ---------------------------------------------------------

// [C211] [C212] [C213] [C220] [C221]
#[test]
fn fragments_of_several_streams_may_mix() {
    let mut peer = Peer::of_server(Config::default());
    peer.say_all([
        "REQUEST_RESPONSE 1 F m=me d=",
        "REQUEST_STREAM 3 F n=7 m=ab",
        "REQUEST_N 3 n=2",
        "PAYLOAD 1 FN m=ta d=da",
        "KEEPALIVE",
        "PAYLOAD 3 FN d=12",
        "PAYLOAD 1 N d=ta",
        "PAYLOAD 3 N d=34",
    ]);
    assert_eq!(
        peer.events(),
        [
            "REQUEST_RESPONSE 1 m=meta d=data",
            "REQUEST_STREAM 3 m=ab d=1234"
        ]
    );
    assert_eq!(
        peer.session.poll_capacity(peer.key(3)),
        Capacity::Payloads(9)
    );
    assert_eq!(peer.session.books().buffered, 0);
}

// [C151] [C215] [A7]: what rsocket-cpp and rsocket-rust 0.7 send.
#[test]
fn fragments_without_the_next_flag_are_taken() {
    let mut peer = asking(RequestStream, 2);
    peer.say_all([
        "PAYLOAD 1 FN d=a",
        "PAYLOAD 1 F d=b",
        "PAYLOAD 1 d=c",
        "PAYLOAD 1 FN d=d",
        "PAYLOAD 1 C d=e",
    ]);
    assert_eq!(peer.take_all(1), ["d=abc", "d=de", "Complete"]);
}

// [C216] [A9] [A13]: completion with the last fragment, or behind it.
#[test]
fn completion_may_come_with_the_last_fragment_or_by_itself() {
    for end in [
        &["PAYLOAD 1 NC d=b"][..],
        &["PAYLOAD 1 N d=b", "PAYLOAD 1 C"],
    ] {
        let mut peer = asking(RequestStream, 1);
        peer.say("PAYLOAD 1 FN d=a");
        peer.say_all(end.iter().copied());
        assert_eq!(peer.take_all(1), ["d=ab", "Complete"]);
        let mut peer = Peer::of_server(Config::default());
        peer.say("REQUEST_CHANNEL 1 F n=1 d=a");
        peer.say_all(end.iter().copied());
        assert_eq!(peer.events(), ["REQUEST_CHANNEL 1"]);
        assert_eq!(peer.take_all(1), ["d=ab", "Complete"]);
    }
    // On the first fragment of a channel it speaks of the whole.
    let mut peer = Peer::of_server(Config::default());
    peer.say_all(["REQUEST_CHANNEL 1 FC n=1 d=a", "PAYLOAD 1 N d=b"]);
    assert_eq!(peer.events(), ["REQUEST_CHANNEL 1"]);
    assert_eq!(peer.take_all(1), ["d=ab", "Complete"]);
}

// [C155] [A8]
#[test]
fn follows_is_ignored_where_the_payload_completes() {
    let mut peer = asking(RequestStream, 1);
    peer.say("PAYLOAD 1 FNC d=whole");
    assert_eq!(peer.take_all(1), ["d=whole", "Complete"]);
    let mut peer = asking(RequestResponse, 1);
    peer.say_all(["PAYLOAD 1 FN d=a", "PAYLOAD 1 FNC d=b"]);
    assert_eq!(peer.take_all(1), ["d=ab", "Complete"]);
}

// [C035] [A39]
#[test]
fn empty_metadata_survives_being_cut() {
    let mut peer = asking(RequestStream, 2);
    peer.say_all(["PAYLOAD 1 FN m= d=a", "PAYLOAD 1 N d=b"]);
    peer.say_all(["PAYLOAD 1 FN d=a", "PAYLOAD 1 N d=b"]);
    assert_eq!(peer.take_all(1), ["m= d=ab", "d=ab", "Pending"]);
}

// [C222] [A16]: the complaint 5 that others got.
#[test]
fn a_payload_without_end_ends_its_stream_at_the_limit() {
    let mut config = Config::default();
    config.limits.max_payload_len = 1_000;
    // As a requester.
    let mut peer = asking_with(RequestStream, 5, config.clone());
    let mut said = 0;
    while peer.ask("PAYLOAD 1 FN d=*100") == NONE {
        said += 1;
        assert!(peer.session.books().buffered <= 1_000);
    }
    assert_eq!(said, 10);
    assert!(peer.take(1).contains("max_payload_len"));
    assert_eq!(peer.session.books().buffered, 0);
    // As a responder: nobody heard of the request.
    for text in [
        "REQUEST_RESPONSE 1 F",
        "REQUEST_STREAM 1 F",
        "REQUEST_CHANNEL 1 F",
    ] {
        let mut peer = Peer::of_server(config.clone());
        peer.say(text);
        for _ in 0..10 {
            assert_eq!(peer.ask("PAYLOAD 1 FN d=*100"), NONE);
        }
        assert_eq!(peer.ask("PAYLOAD 1 FN d=x"), ["ERROR 1 CANCELED"]);
        assert_eq!(peer.ask("PAYLOAD 1 FN d=x"), NONE);
        assert_eq!(peer.events(), NONE);
        assert_eq!(peer.session.streams_open(), 0);
        assert_eq!(peer.session.books().buffered, 0);
        assert!(!peer.session.is_closed());
    }
}

// [C222]
#[test]
fn a_payload_over_the_limit_in_one_frame_ends_its_stream() {
    let mut config = Config::default();
    config.limits.max_payload_len = 1_000;
    let mut peer = asking_with(RequestResponse, 1, config.clone());
    assert_eq!(peer.ask("PAYLOAD 1 NC d=*1001"), ["CANCEL 1"]);
    assert!(peer.take(1).contains("max_payload_len"));
    let mut peer = asking_with(RequestStream, 1, config.clone());
    peer.say("PAYLOAD 1 N m=*500 d=*500");
    assert_eq!(peer.heard(), NONE);
    let mut peer = Peer::of_server(config);
    for text in [
        "REQUEST_RESPONSE 1 d=*1001",
        "REQUEST_STREAM 1 d=*1001",
        "REQUEST_CHANNEL 1 m=*1 d=*1000",
    ] {
        assert_eq!(peer.ask(text), ["ERROR 1 CANCELED"], "{text}");
        assert_eq!(peer.events(), NONE);
    }
}

// [C223] [A10]: the complaint 6 that others got.
#[test]
fn fragments_that_add_nothing_end_the_stream() {
    let mut peer = asking(RequestStream, 5);
    assert_eq!(peer.ask("PAYLOAD 1 FN"), NONE, "the first may be empty");
    assert_eq!(peer.ask("PAYLOAD 1 FN d=x"), NONE, "and all may be small");
    assert_eq!(peer.ask("PAYLOAD 1 FN"), ["CANCEL 1"]);
    let mut peer = Peer::of_server(Config::default());
    peer.say("REQUEST_CHANNEL 1 F n=1");
    assert_eq!(peer.ask("PAYLOAD 1 FN m="), ["ERROR 1 CANCELED"]);
    assert_eq!(peer.session.streams_open(), 0);
    // The last one may be empty.
    let mut peer = asking(RequestStream, 5);
    peer.say_all(["PAYLOAD 1 FN d=x", "PAYLOAD 1 N"]);
    assert_eq!(peer.take(1), "d=x");
}

// [C142] [C224]
#[test]
fn what_was_gathered_is_dropped_with_its_stream() {
    for end in ["CANCEL 1", "ERROR 1 APPLICATION_ERROR"] {
        for start in [
            "REQUEST_RESPONSE 1 F d=*500",
            "REQUEST_FNF 1 F d=*500",
            "REQUEST_STREAM 1 F d=*500",
            "REQUEST_CHANNEL 1 F d=*500",
        ] {
            let mut peer = Peer::of_server(Config::default());
            peer.say(start);
            assert_eq!(peer.session.books().buffered, 500);
            assert_eq!(peer.ask(end), NONE);
            assert_eq!(peer.session.books().buffered, 0, "{start}, {end}");
            assert_eq!(peer.session.streams_open(), 0);
            assert_eq!(peer.session.one_way_in_work(), 0);
            assert_eq!(peer.ask("PAYLOAD 1 N d=rest"), NONE);
            assert_eq!(peer.events(), NONE);
        }
    }
    for end in ["cancel", "hang up", "ERROR 1 REJECTED", "PAYLOAD 1 C"] {
        let mut peer = asking(RequestStream, 5);
        peer.say("PAYLOAD 1 FN d=*500");
        assert_eq!(peer.session.books().buffered, 500);
        match end {
            "cancel" => peer.session.cancel(peer.key(1)),
            "hang up" => peer.hang_up(),
            text => peer.say(text),
        }
        assert_eq!(peer.session.books().buffered, 0, "{end}");
    }
}

// [C226]
#[test]
fn a_completion_in_the_middle_of_a_payload_gives_the_payload_up() {
    let mut peer = asking(RequestStream, 5);
    peer.say_all(["PAYLOAD 1 N d=1", "PAYLOAD 1 FN d=2", "PAYLOAD 1 C"]);
    assert_eq!(peer.take_all(1), ["d=1", "Complete"]);
    assert!(!peer.session.is_closed());
}

// [C226]: of a request given up nobody hears, and it is not left open.
#[test]
fn a_completion_in_the_middle_of_a_request_ends_it() {
    for (text, said) in [
        ("REQUEST_RESPONSE 1 F d=x", &["ERROR 1 INVALID"][..]),
        ("REQUEST_STREAM 1 F d=x", &["ERROR 1 INVALID"]),
        ("REQUEST_CHANNEL 1 F d=x", &["ERROR 1 INVALID"]),
        ("REQUEST_FNF 1 F d=x", &[]),
    ] {
        let mut peer = Peer::of_server(Config::default());
        peer.say(text);
        assert_eq!(peer.ask("PAYLOAD 1 C"), said, "{text}");
        assert_eq!(peer.events(), NONE);
        assert_eq!(peer.session.streams_open(), 0, "{text}");
        assert_eq!(peer.session.books().buffered, 0);
    }
}

// [C331]
#[test]
fn a_request_counts_as_in_use_while_its_fragments_come() {
    let mut peer = Peer::of_server(Config::default());
    peer.say_all([
        "REQUEST_RESPONSE 1 F d=a",
        "REQUEST_FNF 1 d=other",
        "PAYLOAD 1 N d=b",
    ]);
    assert_eq!(peer.events(), ["REQUEST_RESPONSE 1 d=ab"]);
}

// [C252] [C131]: a sender under random grants and a random link never sends
// more than it was granted, and all of that in the end.
#[test]
fn what_is_granted_is_sent_and_no_more() {
    for seed in seeds(200) {
        let mut random = Random::new(seed);
        let mut peer = asked("REQUEST_STREAM 1 n=1");
        let (mut granted, mut sent) = (1, 0);
        for _ in 0..200 {
            match random.within(0..=3) {
                0 => {
                    let n = random.within(1..=5);
                    peer.say(&format!("REQUEST_N 1 n={n}"));
                    granted += n;
                }
                1 => peer.stall(random.once_in(2)),
                2 => peer.send(1, "x"),
                _ => sent += peer.heard().len(),
            }
            assert!(sent <= granted, "seed {seed}");
        }
        peer.stall(false);
        loop {
            sent += peer.heard().len();
            assert!(sent <= granted, "seed {seed}");
            if send_all(&mut peer, 1, 1_000) == 0 {
                break;
            }
        }
        assert_eq!(sent, granted, "seed {seed}");
    }
}
