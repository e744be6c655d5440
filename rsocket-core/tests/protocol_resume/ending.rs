//! How sessions end that could be resumed.

use super::*;

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

/// A stream of which "y" was sent, then a goodbye; nothing was confirmed.
fn say_goodbye(peer: &mut Peer, is_given_up: bool) {
    peer.say("REQUEST_STREAM 1 n=9 d=x");
    peer.event();
    peer.send(1, "y");
    peer.heard();
    let key = peer.key(1);
    if is_given_up {
        peer.say("CANCEL 1");
    } else {
        peer.session.complete(key);
    }
    peer.session.release(key);
    peer.say("ERROR CONNECTION_CLOSE d=bye");
    peer.heard();
    assert!(peer.session.stats().resume_len > 0);
    assert!(!peer.session.is_closed());
}

// [C085]
#[test]
fn a_peer_that_said_goodbye_and_left_is_not_waited_for() {
    // Frames of streams that it gave up may be under way when it goes.
    let mut peer = server();
    say_goodbye(&mut peer, true);
    peer.hang_up();
    assert_eq!(ending(&mut peer), "Closed: closed by the peer");
    // A link that is lost is something else.
    let mut peer = server();
    say_goodbye(&mut peer, true);
    let lost = CloseReason::KeepaliveTimeout { millis: 1 };
    peer.session.handle_disconnect(peer.now(), lost);
    assert!(peer.session.needs_link());
}

// [C085] [C296]
#[test]
fn a_peer_that_cannot_have_the_end_of_a_stream_has_not_left() {
    // Something on the way may close a link in good order, too.
    let mut peer = server();
    say_goodbye(&mut peer, false);
    peer.hang_up();
    assert!(peer.session.needs_link(), "the peer waits for the end");
    peer.come_back("RESUME token=tok").unwrap();
    let heard = peer.heard();
    assert!(heard.contains(&"PAYLOAD 1 C".to_owned()), "{heard:?}");
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
fn what_has_all_arrived_can_be_read_after_the_peer_has_left_and_needs_no_other_link() {
    let closing = || {
        let mut peer = client();
        peer.open(RequestStream, "x");
        peer.heard();
        peer.say("PAYLOAD 1 NC d=y");
        peer.session.close(peer.now());
        peer.heard();
        peer.say("KEEPALIVE p=11");
        assert!(!peer.session.is_closed(), "it is to be read");
        peer
    };
    let read = |mut peer: Peer| {
        assert_eq!(ending(&mut peer), "Closed: closed by this side");
        assert_eq!(peer.take(1), "d=y");
        assert_eq!(peer.take(1), "Complete");
    };
    // The server has nothing to do any more, and says so by closing the link.
    let mut peer = closing();
    peer.hang_up();
    read(peer);
    // Or the link is lost.
    let mut peer = closing();
    let lost = CloseReason::KeepaliveTimeout { millis: 1 };
    peer.session.handle_disconnect(peer.now(), lost);
    read(peer);
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
