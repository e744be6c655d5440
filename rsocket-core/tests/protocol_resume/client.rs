//! What a client says on a new link, and what it makes of the answer.

use super::*;

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
