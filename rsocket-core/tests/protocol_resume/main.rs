//! Sessions that outlive their links, seen at the wire.
//!
//! A session is spoken to frame by frame; numbers in brackets are statements
//! of `docs/checklist.md`. How links are handed over is in `resume.rs`.

use std::time::Duration;

use rsocket_core::{
    CloseReason,
    frame::{ErrorCode, Frame, Interaction},
    proto::{Config, Event, Limits, ResumeOptions, SetupOptions},
    testkit::{Peer, frame, request},
    transport::Limits as LinkLimits,
};

use Interaction::{FireAndForget, RequestChannel, RequestResponse, RequestStream};

const NOTHING: [&str; 0] = [];

fn config() -> Config {
    Config {
        resume: Some(ResumeOptions::default()),
        ..Config::default()
    }
}

/// A config whose log is full after `max_resume_len` bytes.
fn tight(max_resume_len: usize) -> Config {
    let mut config = config();
    config.limits = Limits::default();
    config.limits.max_resume_len = max_resume_len;
    config
}

/// The server of a client that said SETUP and was not answered.
fn new_client(config: Config) -> Peer {
    let setup = SetupOptions {
        resume_token: Some("tok".into()),
        ..SetupOptions::default()
    };
    let mut peer = Peer::of_new_client(config, &setup);
    let heard = peer.heard();
    let [setup, rest @ ..] = heard.as_slice() else {
        panic!("nothing was said");
    };
    assert!(setup.starts_with("SETUP v=1.0") && setup.contains(" token=tok "));
    assert_eq!(rest, ["KEEPALIVE R"]);
    peer
}

/// The server of a client that it has answered.
fn client_with(config: Config) -> Peer {
    let mut peer = new_client(config);
    assert_eq!(peer.ask("KEEPALIVE"), NOTHING);
    peer
}

fn client() -> Peer {
    client_with(config())
}

/// The client of a server that accepted it.
fn server_with(config: Config) -> Peer {
    let mut peer = Peer::of_new_server(config);
    peer.say("SETUP token=tok");
    assert!(matches!(peer.event(), Some(Event::Setup(_))));
    peer.session.accept(peer.now());
    peer
}

fn server() -> Peer {
    server_with(config())
}

/// What the session says that it has received.
fn position(peer: &mut Peer) -> u64 {
    let heard = peer.ask("KEEPALIVE R");
    let last = heard.iter().rfind(|text| text.starts_with("KEEPALIVE"));
    let position = last.and_then(|text| text.strip_prefix("KEEPALIVE p="));
    position.map_or(0, |n| n.parse().expect("a number"))
}

fn bytes(texts: &[String]) -> u64 {
    texts.iter().map(|text| frame(text).len() as u64).sum()
}

/// How the session ended, if it did.
fn ending(peer: &mut Peer) -> String {
    assert!(peer.session.is_closed());
    assert!(!peer.session.needs_link());
    peer.events().pop().unwrap_or_default()
}

// ----- positions -----------------------------------------------------------------

// [C260] [C261] [C262] [C263] [C264] [C265] [C266] [C268]
#[test]
fn frames_of_streams_count_with_all_their_bytes_and_no_others_do() {
    let mut peer = server();
    let mut expected = 0;
    assert_eq!(position(&mut peer), 0, "SETUP does not count");
    for (counts, text) in [
        (true, "REQUEST_RESPONSE 1 d=abc"),
        (true, "REQUEST_FNF 3 m=meta d=x"),
        (true, "REQUEST_STREAM 5 n=9 d=x"),
        (true, "REQUEST_CHANNEL 7 n=9 d=x"),
        (true, "REQUEST_CHANNEL 9 n=9 d=x"),
        (true, "REQUEST_N 5 n=1"),
        (true, "PAYLOAD 7 NC d=x"),
        (true, "ERROR 9 APPLICATION_ERROR d=why"),
        (true, "CANCEL 5"),
        // Fragment by fragment.
        (true, "REQUEST_RESPONSE 11 F d=ab"),
        (true, "PAYLOAD 11 FN d=c"),
        (true, "PAYLOAD 11 N d=d"),
        // Ignored, and sent all the same.
        (true, "PAYLOAD 99 N d=late"),
        (true, "CANCEL 99"),
        (true, "REQUEST_N 11 n=0"),
        (true, "REQUEST_STREAM 13 n=0 d=x"),
        (false, "SETUP"),
        (false, "LEASE ttl=1 n=1"),
        (false, "KEEPALIVE d=beat"),
        (false, "KEEPALIVE R d=beat"),
        (false, "METADATA_PUSH m=push"),
        (false, "RESUME_OK p=0"),
        (false, "EXT I type=1 d=x"),
        (false, "EXT 1 I type=1 d=x"),
        (false, "TYPE=0x1E 1 I d=x"),
        (false, "PAYLOAD 0 N d=x"),
        (false, "ERROR CONNECTION_CLOSE d=x"),
    ] {
        peer.say(text);
        expected += u64::from(counts) * frame(text).len() as u64;
        assert_eq!(position(&mut peer), expected, "{text}");
    }
}

// [C260] [C263] [C264] [C267] [C283] [C286]
#[test]
fn a_client_sends_again_from_the_position_of_the_server() {
    // The spec's example: REQUEST_STREAM of 15 bytes, REQUEST_N of 10, CANCEL of 6.
    let frames = [
        "REQUEST_STREAM 1 n=1 d=12345",
        "REQUEST_N 1 n=2",
        "CANCEL 1",
    ];
    for (position, missing) in [(0, 0), (15, 1), (25, 2), (31, 3)] {
        let mut peer = client();
        let id = peer.open(RequestStream, "12345");
        assert_eq!(peer.heard(), frames[..1]);
        let key = peer.key(id);
        peer.session
            .request_n(key, rsocket_core::Demand::new(2).unwrap());
        assert_eq!(peer.heard(), frames[1..2]);
        peer.session.cancel(key);
        assert_eq!(peer.heard(), frames[2..]);

        peer.hang_up();
        peer.new_link();
        assert_eq!(peer.heard(), ["RESUME v=1.0 token=tok p=0 q=0"]);
        let heard = peer.ask(&format!("RESUME_OK p={position}"));
        assert_eq!(heard, frames[missing..]);
        // Sent again, they count once: all was received now.
        peer.say("KEEPALIVE p=31");
        assert_eq!(peer.session.stats().resume_len, 0);
        peer.hang_up();
        peer.new_link();
        assert_eq!(peer.heard(), ["RESUME v=1.0 token=tok p=0 q=31"]);
    }
}

// [C283] [C302]
#[test]
fn resume_carries_the_token_of_setup_and_what_was_received() {
    let mut peer = client();
    peer.open(RequestStream, "x");
    let sent = bytes(&peer.heard());
    peer.say("PAYLOAD 1 N d=12345");
    peer.say(&format!("KEEPALIVE p={sent}"));
    peer.say("METADATA_PUSH m=x");
    for _ in 0..3 {
        peer.hang_up();
        peer.new_link();
        assert_eq!(
            peer.heard(),
            [format!("RESUME v=1.0 token=tok p=11 q={sent}")]
        );
    }
}

// [C267] [C286] [C308]
#[test]
fn whatever_the_peer_missed_comes_again_in_order_and_nothing_else() {
    let mut peer = client();
    let mut sent = Vec::new();
    for data in ["a", "bcd", "efghij"] {
        peer.open(RequestChannel, data);
        sent.extend(peer.heard());
    }
    peer.say("REQUEST_N 3 n=5");
    for data in ["one", "two", "three"] {
        peer.send(3, data);
        sent.extend(peer.heard());
    }
    for has in 0..=sent.len() {
        // Cut again after so many of them; the position is the same as before.
        for through in 0..=sent.len() - has {
            peer.hang_up();
            peer.new_link();
            peer.heard();
            let position = bytes(&sent[..has]);
            peer.say(&format!("RESUME_OK p={position}"));
            let mut again = Vec::new();
            for _ in 0..through {
                let _ = peer.session.transmit(|frame| {
                    again.push(rsocket_core::testkit::text(&frame.to_vec()));
                    std::task::Poll::Ready(Ok::<(), std::convert::Infallible>(()))
                });
            }
            assert_eq!(again, sent[has..has + through]);
            if through == sent.len() - has {
                assert_eq!(peer.heard(), NOTHING);
            }
        }
    }
    assert_eq!(peer.session.stats().streams_open, 3);
}

// ----- a client resumes ------------------------------------------------------------

// [C280]
#[test]
fn without_a_token_nothing_is_resumed() {
    let mut peer = Peer::of_client(config());
    peer.open(RequestResponse, "x");
    peer.hang_up();
    assert_eq!(ending(&mut peer), "Closed: closed by the peer");
    let mut peer = Peer::of_server(config());
    peer.hang_up();
    assert_eq!(ending(&mut peer), "Closed: closed by the peer");
}

// [C282] [C304] [C305]
#[test]
fn after_resume_a_client_says_nothing_before_the_answer() {
    let mut peer = client();
    peer.open(RequestResponse, "before");
    let before = peer.heard();
    peer.hang_up();
    peer.open(RequestResponse, "apart");
    peer.session.metadata_push(b"apart").unwrap();
    peer.pass(Duration::from_secs(30));
    assert_eq!(peer.heard(), NOTHING);

    peer.new_link();
    assert_eq!(peer.heard(), ["RESUME v=1.0 token=tok p=0 q=0"]);
    peer.open(RequestResponse, "asked");
    peer.session.metadata_push(b"asked").unwrap();
    peer.pass(Duration::from_secs(9));
    assert_eq!(peer.heard(), NOTHING);

    assert_eq!(
        peer.ask("RESUME_OK p=0"),
        [
            "METADATA_PUSH m=apart",
            "METADATA_PUSH m=asked",
            &before[0],
            "REQUEST_RESPONSE 3 d=apart",
            "REQUEST_RESPONSE 5 d=asked",
        ]
    );
    // Positions go on where they were.
    peer.hang_up();
    peer.new_link();
    peer.heard();
    let position = bytes(&before) + 11;
    let heard = peer.ask(&format!("RESUME_OK p={position}"));
    assert_eq!(heard, ["REQUEST_RESPONSE 5 d=asked"]);
}

// [C284] [C288]
#[test]
fn anything_but_an_answer_to_resume_ends_the_session() {
    for first in [
        "KEEPALIVE R",
        "PAYLOAD 1 NC d=x",
        "ERROR 1 REJECTED d=x",
        "METADATA_PUSH m=x",
        "LEASE ttl=1 n=1",
        "SETUP",
        "RESUME token=tok",
        "EXT I type=1",
        "REQUEST_N 1 n=0",
        "TYPE=0x1E",
        "RESUME_OK 1 p=0",
    ] {
        let mut peer = client();
        peer.open(RequestResponse, "x");
        peer.heard();
        peer.hang_up();
        peer.new_link();
        peer.heard();
        assert_eq!(peer.ask(first), ["ERROR CONNECTION_ERROR"], "{first}");
        assert!(peer.take(1).contains("the answer to RESUME"), "{first}");
        assert!(
            ending(&mut peer).contains("the answer to RESUME"),
            "{first}"
        );
    }
}

// [C288] [A32]
#[test]
fn a_position_in_resume_ok_that_cannot_be_ends_the_session() {
    for (position, why) in [
        (6, "no longer held"),
        (14, "within"),
        (999, "more than was sent"),
    ] {
        let mut peer = client();
        peer.open(RequestResponse, "x");
        peer.open(RequestResponse, "12345");
        peer.heard();
        peer.say("KEEPALIVE p=7");
        peer.hang_up();
        peer.new_link();
        assert_eq!(peer.heard(), ["RESUME v=1.0 token=tok p=0 q=7"]);
        let heard = peer.ask(&format!("RESUME_OK p={position}"));
        assert_eq!(heard, ["ERROR CONNECTION_ERROR"], "{position}");
        let ending = ending(&mut peer);
        assert!(ending.contains(why), "{position}: {ending}");
    }
}

// [C285] [C307]
#[test]
fn a_client_that_is_rejected_never_asks_again() {
    let mut peer = client();
    peer.open(RequestResponse, "x");
    peer.heard();
    peer.hang_up();
    peer.new_link();
    peer.heard();
    assert_eq!(peer.ask("ERROR REJECTED_RESUME d=gone"), NOTHING);
    assert!(peer.take(1).contains("refused to resume"));
    assert!(ending(&mut peer).contains("REJECTED_RESUME: gone"));
}

// [C284] [C285] [A34]
#[test]
fn another_refusal_is_worth_another_try_but_not_for_ever() {
    let mut peer = client();
    peer.open(RequestResponse, "x");
    peer.heard();
    peer.hang_up();
    let mut tries = 0;
    while peer.session.needs_link() {
        peer.new_link();
        assert_eq!(peer.heard(), ["RESUME v=1.0 token=tok p=0 q=0"]);
        peer.say("ERROR CONNECTION_ERROR d=cannot");
        tries += 1;
        assert!(tries <= 8);
    }
    assert_eq!(tries, 8);
    assert!(ending(&mut peer).contains("CONNECTION_ERROR: cannot"));

    // What it was for is counted in a row.
    let mut peer = client();
    for _ in 0..20 {
        peer.hang_up();
        peer.new_link();
        peer.say("ERROR CONNECTION_ERROR d=not now");
        peer.new_link();
        peer.say("RESUME_OK p=0");
    }
    assert!(!peer.session.is_closed());
}

// [C282] [C284]
#[test]
fn a_link_without_an_answer_to_resume_is_lost_too() {
    let mut peer = client();
    peer.hang_up();
    peer.new_link();
    peer.heard();
    peer.pass(Duration::from_millis(9_999));
    assert!(!peer.session.needs_link());
    peer.pass(Duration::from_millis(1));
    assert!(peer.session.needs_link());
    // What comes after all came from a link that is gone.
    assert_eq!(peer.ask("RESUME_OK p=77"), NOTHING);
    peer.say("TYPE=0x1E");
    assert!(peer.session.needs_link());
}

// [C285] [C296]
#[test]
fn a_client_tries_until_the_session_times_out_however_often_links_are_lost() {
    let mut peer = client();
    peer.open(RequestResponse, "x");
    peer.heard();
    peer.hang_up();
    for _ in 0..5 {
        peer.pass(Duration::from_secs(2));
        peer.new_link();
        peer.pass(Duration::from_secs(9));
        peer.hang_up();
    }
    peer.pass(Duration::from_millis(4_999));
    assert!(peer.session.needs_link());
    peer.pass(Duration::from_millis(1));
    assert!(peer.take(1).contains("not resumed in time"));
    assert!(ending(&mut peer).contains("not resumed in time"));
    assert_eq!(peer.session.poll_timeout(), None);
}

// [C287]
#[test]
fn a_client_that_has_asked_may_end_the_session_instead() {
    let mut peer = client();
    peer.open(RequestResponse, "x");
    peer.heard();
    peer.hang_up();
    peer.new_link();
    assert_eq!(peer.heard(), ["RESUME v=1.0 token=tok p=0 q=0"]);
    peer.session.metadata_push(b"too late").unwrap();
    peer.session.abort();
    assert_eq!(peer.heard(), ["ERROR CONNECTION_ERROR"]);
    assert_eq!(peer.ask("RESUME_OK p=0"), NOTHING);
    assert_eq!(ending(&mut peer), "Closed: closed by this side");
}

// [C281]
#[test]
fn what_was_agreed_in_setup_holds_on_every_link() {
    let mut peer = Peer::of_new_server(config());
    peer.say("SETUP token=tok life=1000");
    assert!(matches!(peer.event(), Some(Event::Setup(_))));
    peer.session.accept(peer.now());
    for _ in 0..3 {
        peer.pass(Duration::from_millis(999));
        assert!(!peer.session.needs_link());
        peer.pass(Duration::from_millis(1));
        assert!(
            peer.session.needs_link(),
            "nothing was heard for Max Lifetime"
        );
        peer.come_back("RESUME token=tok").unwrap();
        assert_eq!(peer.heard(), ["RESUME_OK"].map(|ok| format!("{ok} p=0")));
    }
    let mut peer = client();
    peer.hang_up();
    let short = LinkLimits {
        max_frame_len: 1000,
    };
    peer.session.resume(peer.now(), short);
    assert!(ending(&mut peer).contains("shorter frames"));
}

// ----- a server is asked -----------------------------------------------------------

// [C272] [C292] [C299]
#[test]
fn a_server_answers_with_what_it_has_and_sends_what_the_client_has_not() {
    for cut in [true, false] {
        let mut peer = server();
        peer.say("REQUEST_STREAM 1 n=9 d=x");
        peer.event();
        let mut sent = Vec::new();
        for data in ["a", "bb", "ccc"] {
            peer.send(1, data);
            sent.extend(peer.heard());
        }
        // It may still believe in the old link.
        if cut {
            peer.hang_up();
            peer.send(1, "apart");
            assert_eq!(peer.heard(), NOTHING);
        }
        let has = bytes(&sent[..1]);
        peer.come_back(&format!("RESUME token=tok p={has} q=0"))
            .unwrap();
        let mut expected = vec!["RESUME_OK p=11".to_owned()];
        expected.extend_from_slice(&sent[1..]);
        if cut {
            expected.push("PAYLOAD 1 N d=apart".to_owned());
        }
        assert_eq!(peer.heard(), expected);
        assert_eq!(peer.session.stats().resumptions, 1);
        // The rest of the stream goes on.
        peer.send(1, "on");
        assert_eq!(peer.heard(), ["PAYLOAD 1 N d=on"]);
    }
}

// [C292] A link that takes all of it at once must not keep a thread for so long.
#[test]
fn what_is_sent_again_goes_out_in_turns_and_nothing_new_overtakes_it() {
    const ITEMS: usize = 300;
    let mut peer = server();
    peer.say("REQUEST_STREAM 1 n=9999 d=x");
    peer.event();
    let item = "x".repeat(1000);
    let mut expected = vec![frame("RESUME_OK p=11")];
    for _ in 0..ITEMS {
        peer.send(1, &item);
        expected.extend(peer.heard_bytes());
    }
    peer.hang_up();
    peer.come_back("RESUME token=tok").unwrap();
    peer.send(1, "new");
    expected.push(frame("PAYLOAD 1 N d=new"));

    let mut heard = Vec::new();
    let mut turns = 0;
    loop {
        let turn = peer.heard_bytes();
        let len: usize = turn.iter().map(Vec::len).sum();
        assert!(len < 40_000, "{len} bytes at once");
        heard.extend(turn);
        turns += 1;
        // Nothing more before others had their turn, and then at once.
        assert_eq!(peer.heard(), NOTHING);
        let due = peer.session.poll_timeout().filter(|at| *at <= peer.now());
        if due.is_none() {
            break;
        }
        peer.pass(Duration::ZERO);
    }
    assert!(heard == expected, "other frames, or in another order");
    assert!(turns >= ITEMS * 1000 / 40_000, "{turns} turns");
}

// [C293] [C294] [C295] [C307] [A32]
#[test]
fn a_server_refuses_positions_from_which_it_cannot_go_on_and_ends_the_session() {
    for (p, q, why) in [
        (7, 11, "no longer held"),
        (9, 11, "within"),
        (99, 11, "more than was sent"),
        (8, 12, "no longer held by the client"),
    ] {
        let mut peer = server();
        peer.say("REQUEST_STREAM 1 n=9 d=x");
        peer.event();
        for data in ["12", "34"] {
            peer.send(1, data);
        }
        peer.heard();
        peer.say("KEEPALIVE p=8");
        // With a link the session goes on: this RESUME may be an old one that
        // was overtaken.
        let resume = format!("RESUME token=tok p={p} q={q}");
        assert!(peer.come_back(&resume).is_err());
        assert_eq!(peer.ask("KEEPALIVE R p=8"), ["KEEPALIVE p=11"]);
        peer.hang_up();
        let refused = peer.come_back(&resume).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::REJECTED_RESUME);
        assert!(refused.message().contains(why), "{refused}");
        assert!(ending(&mut peer).contains(why));

        // The new link's own session says so, and is over.
        let mut link = Peer::of_new_server(config());
        link.say("RESUME token=tok");
        assert!(matches!(link.event(), Some(Event::Resume(_))));
        link.session.refuse(&refused);
        assert_eq!(link.heard(), ["ERROR REJECTED_RESUME"]);
        assert!(link.session.is_closed());
        // And it stays refused.
        let again = peer.come_back("RESUME token=tok p=8 q=11").unwrap_err();
        assert_eq!(again.code(), ErrorCode::REJECTED_RESUME);
    }
}

// [C294]
#[test]
fn a_server_goes_on_from_every_position_that_is_held() {
    for p in [8, 16] {
        for q in [0, 11] {
            let mut peer = server();
            peer.say("REQUEST_STREAM 1 n=9 d=x");
            peer.event();
            peer.send(1, "12");
            peer.send(1, "34");
            peer.heard();
            peer.say("KEEPALIVE p=8");
            let resumed = peer.come_back(&format!("RESUME token=tok p={p} q={q}"));
            assert_eq!(resumed, Ok(()));
            assert_eq!(peer.heard().len(), if p == 8 { 2 } else { 1 });
        }
    }
}

// [C197] [C290] [A33]
#[test]
fn a_server_does_not_care_for_the_version_in_resume() {
    for version in ["1.0", "0.1", "7.7"] {
        let mut link = Peer::of_new_server(config());
        link.say(&format!("RESUME v={version} token=tok p=5 q=3"));
        let Some(Event::Resume(request)) = link.event() else {
            panic!("it is for the driver to decide");
        };
        assert_eq!(request.token, "tok");
        assert_eq!(request.last_received_server.get(), 5);
        assert_eq!(request.first_available_client.get(), 3);
        assert!(
            !link.session.wants_input(),
            "nothing is due before the answer"
        );
        link.session.hand_over();
        assert_eq!(link.heard(), NOTHING);
    }
    let mut link = Peer::of_new_server(Config::default());
    assert_eq!(link.ask("RESUME token=tok"), ["ERROR REJECTED_RESUME"]);
}

// [C296]
#[test]
fn a_server_keeps_a_session_for_the_session_timeout_from_each_loss() {
    let mut peer = server();
    for _ in 0..3 {
        peer.hang_up();
        peer.pass(Duration::from_millis(59_999));
        assert!(peer.session.needs_link());
        peer.come_back("RESUME token=tok").unwrap();
        peer.heard();
    }
    peer.hang_up();
    peer.pass(Duration::from_secs(60));
    assert_eq!(
        ending(&mut peer),
        "Closed: the session was not resumed in time after its link was lost: closed by the peer"
    );
    assert!(peer.come_back("RESUME token=tok").is_err());
}

// ----- what is confirmed -------------------------------------------------------------

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

// ----- before the server knows the session ---------------------------------------------

// [C302] [C305]
#[test]
fn a_session_whose_setup_was_lost_starts_again_and_nothing_happens_twice() {
    let mut peer = new_client(config());
    peer.open(FireAndForget, "once");
    assert_eq!(peer.heard(), NOTHING, "the server may not know the session");
    let mut tokens = vec!["tok".to_owned()];
    for _ in 0..3 {
        peer.hang_up();
        peer.new_link();
        let token = tokens.last().unwrap();
        assert_eq!(
            peer.heard(),
            [format!("RESUME v=1.0 token={token} p=0 q=0")]
        );
        assert_eq!(peer.ask("ERROR REJECTED_RESUME d=unknown"), NOTHING);
        peer.new_link();
        let heard = peer.heard();
        let token = heard[0].split_once(" token=").unwrap().1;
        let token = token.split_once(' ').unwrap().0.to_owned();
        assert!(!tokens.contains(&token), "{token} was used before");
        tokens.push(token);
        assert_eq!(heard[1..], ["KEEPALIVE R"]);
    }
    assert_eq!(peer.ask("KEEPALIVE"), ["REQUEST_FNF 1 d=once"]);
    // From now on it is known.
    peer.hang_up();
    peer.new_link();
    peer.heard();
    peer.say("ERROR REJECTED_RESUME d=unknown");
    assert!(ending(&mut peer).contains("REJECTED_RESUME"));
}

// [C286]
#[test]
fn a_session_whose_setup_arrived_goes_on_though_nobody_answered() {
    let mut peer = new_client(config());
    peer.open(FireAndForget, "once");
    peer.hang_up();
    peer.new_link();
    assert_eq!(peer.heard(), ["RESUME v=1.0 token=tok p=0 q=0"]);
    assert_eq!(peer.ask("RESUME_OK p=0"), ["REQUEST_FNF 1 d=once"]);
}

// [C285]
#[test]
fn a_server_that_loses_every_setup_is_not_tried_for_ever() {
    let mut peer = new_client(config());
    let mut rounds = 0;
    peer.hang_up();
    while !peer.session.is_closed() {
        peer.new_link();
        peer.heard();
        peer.say("ERROR REJECTED_RESUME d=unknown");
        peer.new_link();
        peer.heard();
        peer.pass(Duration::from_secs(1));
        peer.hang_up();
        peer.pass(Duration::from_secs(1));
        rounds += 1;
        assert!(rounds <= 31);
    }
    assert!(ending(&mut peer).contains("not resumed in time"));
}

// [C193]
#[test]
fn a_setup_that_is_refused_is_refused() {
    let mut peer = new_client(config());
    peer.open(FireAndForget, "never");
    assert_eq!(peer.ask("ERROR REJECTED_SETUP d=no"), NOTHING);
    assert!(ending(&mut peer).contains("refused the connection"));
}

// ----- the end ---------------------------------------------------------------------

// [C085]
#[test]
fn requests_that_wait_are_not_overtaken_by_the_end() {
    // For the server to know the session.
    let mut peer = new_client(config());
    peer.open(RequestResponse, "x");
    peer.session.close(peer.now());
    assert_eq!(peer.heard(), NOTHING);
    let heard = peer.ask("KEEPALIVE");
    assert_eq!(heard, ["REQUEST_RESPONSE 1 d=x", "ERROR CONNECTION_CLOSE"]);
    // For another link.
    let mut peer = client();
    peer.open(RequestResponse, "1");
    peer.heard();
    peer.hang_up();
    peer.open(RequestResponse, "2");
    peer.session.close(peer.now());
    peer.new_link();
    peer.heard();
    assert_eq!(
        peer.ask("RESUME_OK p=0"),
        [
            "REQUEST_RESPONSE 1 d=1",
            "REQUEST_RESPONSE 3 d=2",
            "ERROR CONNECTION_CLOSE"
        ]
    );
    // For the link that is there.
    let mut peer = Peer::of_client(Config::default());
    peer.stall(true);
    peer.open(RequestResponse, "1");
    peer.heard();
    peer.session.close(peer.now());
    peer.stall(false);
    assert_eq!(
        peer.heard(),
        ["REQUEST_RESPONSE 1 d=1", "ERROR CONNECTION_CLOSE"]
    );
}

// [C085] [C296]
#[test]
fn a_session_that_drains_goes_on_over_another_link_until_both_have_all() {
    let mut peer = client();
    peer.open(RequestResponse, "x");
    peer.session.close(peer.now());
    assert_eq!(
        peer.heard(),
        ["REQUEST_RESPONSE 1 d=x", "ERROR CONNECTION_CLOSE"]
    );
    peer.hang_up();
    assert!(peer.session.needs_link(), "its answer is to come");
    peer.new_link();
    peer.heard();
    // The server may not have seen the word that was lost.
    assert_eq!(peer.ask("RESUME_OK p=7"), ["ERROR CONNECTION_CLOSE"]);
    assert_eq!(peer.ask("PAYLOAD 1 NC d=y"), NOTHING);
    assert_eq!(peer.take(1), "d=y");
    assert_eq!(peer.take(1), "Complete");
    let key = peer.key(1);
    peer.session.release(key);
    assert_eq!(
        peer.heard(),
        ["KEEPALIVE p=7"],
        "so that the server may go too"
    );
    assert_eq!(ending(&mut peer), "Closed: closed by this side");
}

// [C085]
#[test]
fn a_server_that_closes_without_a_link_says_so_on_the_next() {
    let mut peer = server();
    peer.say("REQUEST_RESPONSE 1 d=x");
    peer.event();
    peer.hang_up();
    peer.session.close(peer.now());
    assert!(peer.session.needs_link());
    peer.come_back("RESUME token=tok").unwrap();
    assert_eq!(peer.heard(), ["RESUME_OK p=7", "ERROR CONNECTION_CLOSE"]);
    peer.send(1, "y");
    let key = peer.key(1);
    peer.session.release(key);
    let heard = peer.heard();
    assert_eq!(heard[0], "PAYLOAD 1 NC d=y");
    assert_eq!(heard[1..], ["KEEPALIVE R p=7"], "has it arrived?");
    assert!(!peer.session.is_closed());
    peer.say("KEEPALIVE p=7");
    assert_eq!(ending(&mut peer), "Closed: closed by this side");
}

// [C085]
#[test]
fn a_peer_that_said_goodbye_and_left_is_not_waited_for() {
    // Frames of streams that are over may be under way when it goes.
    let leave = |peer: &mut Peer| {
        peer.say("REQUEST_CHANNEL 1 n=1 C d=x");
        peer.event();
        peer.send(1, "y");
        let key = peer.key(1);
        peer.session.complete(key);
        peer.session.release(key);
        peer.session.release(key);
        peer.say("ERROR CONNECTION_CLOSE d=bye");
        peer.heard();
        assert!(peer.session.stats().resume_len > 0);
    };
    let mut peer = server();
    leave(&mut peer);
    peer.hang_up();
    assert_eq!(ending(&mut peer), "Closed: closed by the peer");
    // A link that is lost is something else.
    let mut peer = server();
    leave(&mut peer);
    let lost = CloseReason::KeepaliveTimeout { millis: 1 };
    peer.session.handle_disconnect(peer.now(), lost);
    assert!(peer.session.needs_link());
}

// [C085] [C285]
#[test]
fn a_client_with_nothing_left_to_do_does_not_mind_that_the_server_forgot_it() {
    for by_us in [true, false] {
        let mut peer = client();
        peer.open(FireAndForget, "x");
        peer.heard();
        let key = peer.key(1);
        peer.session.release(key);
        if by_us {
            peer.session.close(peer.now());
        } else {
            peer.say("ERROR CONNECTION_CLOSE d=bye");
        }
        let lost = CloseReason::KeepaliveTimeout { millis: 1 };
        peer.session.handle_disconnect(peer.now(), lost);
        peer.new_link();
        peer.heard();
        peer.say("ERROR REJECTED_RESUME d=who?");
        let expected = if by_us { "this side" } else { "the peer" };
        assert_eq!(ending(&mut peer), format!("Closed: closed by {expected}"));
    }
}

// [C085]
#[test]
fn a_client_that_closes_while_it_asks_does_not_ask_again() {
    let asked = || {
        let mut peer = client();
        peer.hang_up();
        peer.new_link();
        assert_eq!(peer.heard(), ["RESUME v=1.0 token=tok p=0 q=0"]);
        peer.session.close(peer.now());
        assert!(!peer.session.is_closed(), "the server is to be told");
        peer
    };
    let mut peer = asked();
    peer.say("ERROR CONNECTION_ERROR");
    assert_eq!(ending(&mut peer), "Closed: closed by this side");
    let mut peer = asked();
    peer.pass(Limits::default().setup_timeout);
    assert_eq!(ending(&mut peer), "Closed: closed by this side");
}

// [C085]
#[test]
fn the_drain_timeout_holds_without_a_link_too() {
    let mut peer = client();
    peer.open(RequestResponse, "x");
    peer.heard();
    peer.session.close(peer.now());
    peer.hang_up();
    peer.pass(Duration::from_secs(30));
    assert!(ending(&mut peer).contains("drain timeout"));
    assert_eq!(peer.heard(), NOTHING);
}

// [C085]
#[test]
fn a_drained_session_that_loses_a_link_on_which_it_asked_has_ended_well() {
    let mut peer = client();
    peer.hang_up();
    peer.new_link();
    peer.heard();
    peer.session.close(peer.now());
    assert!(!peer.session.is_closed(), "the server may have something");
    let lost = CloseReason::KeepaliveTimeout { millis: 1 };
    peer.session.handle_disconnect(peer.now(), lost);
    assert_eq!(ending(&mut peer), "Closed: closed by this side");
}
