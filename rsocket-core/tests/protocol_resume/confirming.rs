//! What either side tells the other of what it has, and what is kept until then.

use super::*;

// [C300] [C301] [A29]
#[test]
fn keepalive_trims_what_is_kept_by_positions_that_make_sense() {
    let mut peer = client();
    peer.open(RequestResponse, "1");
    peer.open(RequestResponse, "2");
    peer.open(RequestResponse, "3");
    peer.heard();
    let all = peer.session.stats().resume_len;
    peer.say("KEEPALIVE p=7");
    let rest = peer.session.stats().resume_len;
    assert_eq!(rest, all * 2 / 3);
    for position in [0, 6, 8, 22, 21_000] {
        peer.say(&format!("KEEPALIVE p={position}"));
        peer.say(&format!("KEEPALIVE R p={position}"));
        assert_eq!(peer.session.stats().resume_len, rest, "{position}");
    }
    assert!(!peer.session.is_closed());
    peer.say("KEEPALIVE R p=21");
    assert_eq!(peer.session.stats().resume_len, 0);
}

// [C300]
#[test]
fn a_side_that_received_much_says_so_unasked() {
    let mut peer = client();
    peer.open(RequestStream, "x");
    peer.heard();
    let key = peer.key(1);
    peer.session.request_n(key, rsocket_core::Demand::MAX);
    peer.heard();
    let mut received = 0;
    let mut told = 0;
    for _ in 0..100 {
        received += 6 + 4_000;
        for text in peer.ask("PAYLOAD 1 N d=*4000") {
            told = text.strip_prefix("KEEPALIVE p=").unwrap().parse().unwrap();
            assert_eq!(told, received, "the truth");
        }
        assert!(received - told < 64 << 10);
    }
    assert!(told > 0);
}

// [C301]
#[test]
fn positions_that_a_peer_is_told_never_go_back() {
    for side in ["client", "server"] {
        let mut peer = if side == "client" { client() } else { server() };
        let id = peer.first_id();
        peer.say(&format!("REQUEST_CHANNEL {id} n=9 d=x"));
        peer.event();
        peer.heard();
        // What is queued for a link that takes nothing is replaced by what is
        // newer.
        peer.stall(true);
        let mut overrun = 0;
        for round in 0..40 {
            peer.say(&format!("REQUEST_FNF {} d=*9000", id + 2 + 2 * round));
            if round % 3 == 0 {
                overrun += u32::from(peer.offer(&frame("KEEPALIVE R")));
            }
            peer.pass(Duration::from_secs(7));
        }
        assert!(overrun > 0);
        peer.stall(false);
        let told: Vec<u64> = peer
            .heard_bytes()
            .iter()
            .filter_map(|bytes| match Frame::decode(bytes) {
                Ok(Frame::Keepalive(keepalive)) => Some(keepalive.last_received.get()),
                _ => None,
            })
            .collect();
        assert!(told.len() > 2, "{side}: {told:?}");
        assert!(told.is_sorted(), "{side}: {told:?}");
    }
}

// [C306]
#[test]
fn with_a_full_log_nothing_new_is_sent_until_the_peer_confirms() {
    // Ten frames of 100 bytes, which take 16 more each.
    let mut peer = client_with(tight(1_070));
    for _ in 0..8 {
        peer.open(RequestResponse, "*");
    }
    peer.heard();
    peer.say("KEEPALIVE p=56");
    let before = 56;
    for _ in 0..20 {
        peer.open_with(request(FireAndForget, &"x".repeat(94)));
    }
    // At half it asks, at all of it it stops.
    let heard = peer.heard();
    let asked = heard.iter().position(|text| text == "KEEPALIVE R");
    assert_eq!(asked, Some(5), "{heard:?}");
    assert_eq!(heard.len(), 11, "{heard:?}");
    assert!(peer.session.stats().resume_len >= 1_070);
    assert_eq!(peer.heard(), NOTHING);
    peer.pass(Duration::from_secs(1));
    assert_eq!(peer.heard(), NOTHING);
    // A push is not kept, and is not held up.
    peer.session.metadata_push(b"x").unwrap();
    assert_eq!(peer.heard(), ["METADATA_PUSH m=x"]);

    let heard = peer.ask(&format!("KEEPALIVE p={}", before + 200));
    assert_eq!(heard.len(), 3, "asks again, and sends two: {heard:?}");
    let heard = peer.ask(&format!("KEEPALIVE p={}", before + 1_200));
    assert_eq!(
        heard.iter().filter(|text| *text != "KEEPALIVE R").count(),
        8
    );
}

// [C306]
#[test]
fn a_peer_that_never_confirms_loses_the_session() {
    let mut peer = client_with(tight(1_000));
    peer.open(RequestResponse, &"x".repeat(2_000));
    let heard = peer.heard();
    assert_eq!(heard.len(), 2, "{heard:?}");
    // It is busy receiving: what it says by itself is no answer.
    for _ in 0..50 {
        assert_eq!(peer.ask("KEEPALIVE R"), ["KEEPALIVE"]);
    }
    for _ in 0..7 {
        assert_eq!(peer.ask("KEEPALIVE"), ["KEEPALIVE R"]);
    }
    assert_eq!(peer.ask("KEEPALIVE"), ["ERROR CONNECTION_ERROR"]);
    assert_eq!(
        ending(&mut peer),
        "Closed: the peer confirms nothing, and max_resume_len, 1000 bytes, is reached"
    );
}

// [C300] [C306]
#[test]
fn an_answer_that_crossed_what_was_sent_does_not_keep_us_from_asking() {
    for (len, asks) in [(40, 0), (600, 1), (3_000, 1)] {
        let mut peer = new_client(tight(1_000));
        // The server's own request shows that it knows the session; what it has
        // to say to the KEEPALIVE behind SETUP is older than our request.
        peer.say("REQUEST_FNF 2 d=x");
        peer.open(RequestResponse, &"x".repeat(len));
        assert_eq!(peer.heard().len(), 1);
        let heard = peer.ask("KEEPALIVE");
        assert_eq!(heard, vec!["KEEPALIVE R p=7"; asks], "{len}");
        // Nothing more to ask while the answer is under way.
        peer.say("KEEPALIVE R");
        assert_eq!(peer.heard(), ["KEEPALIVE p=7"]);
    }
}

// [C300] [C306]
#[test]
fn answers_that_are_late_do_not_count_against_a_peer_that_confirms() {
    let mut peer = client_with(tight(100));
    let mut sent = 0;
    for _ in 0..20 {
        // Questions pile up on their way, and each answer is of its time.
        peer.open(FireAndForget, &"x".repeat(150));
        let mut asked = peer
            .heard()
            .iter()
            .filter(|text| *text == "KEEPALIVE R")
            .count();
        for _ in 0..20 {
            peer.pass(Duration::from_secs(20));
            asked += peer.ask("EXT I type=1").len();
        }
        assert_eq!(asked, 21);
        for _ in 0..20 {
            peer.say(&format!("KEEPALIVE p={sent}"));
            assert!(!peer.session.is_closed());
        }
        sent += 156;
        peer.say(&format!("KEEPALIVE p={sent}"));
        assert_eq!(peer.session.stats().resume_len, 0);
    }
}

// [C304] [C164]
#[test]
fn pushes_under_way_are_lost_with_the_link_and_those_that_wait_are_not() {
    let mut peer = client();
    peer.session.metadata_push(b"gone").unwrap();
    assert_eq!(peer.heard(), ["METADATA_PUSH m=gone"]);
    peer.stall(true);
    peer.session.metadata_push(b"kept").unwrap();
    peer.say("KEEPALIVE R d=whatever");
    assert_eq!(peer.heard(), NOTHING);
    peer.stall(false);
    peer.hang_up();
    peer.new_link();
    peer.heard();
    assert_eq!(peer.ask("RESUME_OK p=0"), ["METADATA_PUSH m=kept"]);

    let mut peer = server();
    peer.session.metadata_push(b"gone").unwrap();
    assert_eq!(peer.heard(), ["METADATA_PUSH m=gone"]);
    peer.hang_up();
    peer.session.metadata_push(b"kept").unwrap();
    peer.come_back("RESUME token=tok").unwrap();
    assert_eq!(peer.heard(), ["RESUME_OK p=0", "METADATA_PUSH m=kept"]);
}

// [C305] [C306]
#[test]
fn what_is_produced_without_a_link_is_bounded() {
    let mut config = config();
    config.limits.max_queued_len = 1_000;
    let mut peer = server_with(config);
    peer.say("REQUEST_STREAM 1 n=0x7fffffff d=x");
    peer.event();
    peer.hang_up();
    let key = peer.key(1);
    let mut sent = 0;
    while let rsocket_core::proto::Capacity::Payloads(_) = peer.session.poll_capacity(key) {
        peer.send(1, "0123456789");
        sent += 1;
        assert!(sent < 100, "without bounds");
    }
    assert!(sent > 5);
    peer.come_back("RESUME token=tok").unwrap();
    assert_eq!(peer.heard().len(), 1 + sent);
    assert!(!peer.wakes().is_empty());
}
