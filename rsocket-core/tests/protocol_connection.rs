//! The connection: how it starts, stays alive, and ends.
//!
//! A session is spoken to frame by frame; numbers in brackets are statements
//! of `docs/checklist.md`.

use std::time::Duration;

use rsocket_core::{
    CloseReason, Failure, Payload,
    frame::{Frame, Interaction, Millis31},
    proto::{Config, Event, SetupOptions},
    testkit::{Peer, frame, request},
    transport::Limits as LinkLimits,
};

use Interaction::{FireAndForget, RequestChannel, RequestResponse, RequestStream};

fn server() -> Peer {
    Peer::of_server(Config::default())
}

fn new_server() -> Peer {
    Peer::of_new_server(Config::default())
}

fn client() -> Peer {
    Peer::of_client(Config::default())
}

/// Asserts that the session ended with this frame and this reason, and that it
/// says nothing more.
fn assert_ended(peer: &mut Peer, last_words: &str, reason: &str) {
    assert_eq!(peer.heard(), [last_words]);
    assert!(peer.session.is_closed());
    let closed = peer.events().pop().unwrap_or_default();
    assert!(
        closed.starts_with("Closed: ") && closed.contains(reason),
        "{closed}"
    );
    assert_eq!(peer.heard(), [""; 0]);
}

/// Every type of frame, as a client would send it.
const FROM_CLIENT: [&str; 14] = [
    "LEASE ttl=1 n=1",
    "KEEPALIVE R",
    "REQUEST_RESPONSE 1 d=x",
    "REQUEST_FNF 1 d=x",
    "REQUEST_STREAM 1 n=1 d=x",
    "REQUEST_CHANNEL 1 n=1 d=x",
    "REQUEST_N 1 n=1",
    "CANCEL 1",
    "PAYLOAD 1 N d=x",
    "ERROR 1 APPLICATION_ERROR d=x",
    "ERROR CONNECTION_CLOSE d=x",
    "METADATA_PUSH m=x",
    "RESUME_OK",
    "EXT I type=1",
];

// ----- establishment ---------------------------------------------------------

// [C042] [C060] [C061] [C062] [C063] [C064] [C065] [C068] [C071] [C180] [C184]
#[test]
fn a_client_sends_setup_first_and_need_not_wait_for_an_answer() {
    let setup = SetupOptions {
        keepalive_interval: Millis31::new(500).unwrap(),
        max_lifetime: Millis31::new(60_000).unwrap(),
        metadata_mime: "text/plain".to_owned(),
        data_mime: "text/css".to_owned(),
        payload: Payload::new("who").with_metadata("where"),
        resume_token: None,
    };
    let mut peer = Peer::of_new_client(Config::default(), &setup);
    peer.open(RequestResponse, "ping");
    assert_eq!(
        peer.heard(),
        [
            "SETUP v=1.0 ka=500 life=60000 mime=text/plain,text/css m=where d=who",
            "REQUEST_RESPONSE 1 d=ping",
        ]
    );
}

// [C070] [A44] [A50]
#[test]
fn the_default_setup_is_what_all_peers_understand() {
    let setup = SetupOptions::default();
    assert!(setup.metadata_mime.len() <= 127 && setup.data_mime.len() <= 127);
    let mut peer = Peer::of_new_client(Config::default(), &setup);
    assert_eq!(
        peer.heard(),
        ["SETUP v=1.0 ka=20000 life=90000 mime=application/octet-stream,application/octet-stream"]
    );
}

// [C069] [C071]
#[test]
fn a_server_passes_on_what_the_client_announced() {
    let mut peer = new_server();
    peer.say("SETUP ka=500 life=60000 mime=No/Such,Thing m=where d=who");
    let Some(Event::Setup(setup)) = peer.event() else {
        panic!("SETUP is for the application to decide about");
    };
    assert_eq!(setup.keepalive_interval, Duration::from_millis(500));
    assert_eq!(setup.max_lifetime, Duration::from_secs(60));
    assert_eq!(setup.metadata_mime, "No/Such");
    assert_eq!(setup.data_mime, "Thing");
    assert_eq!(setup.payload, Payload::new("who").with_metadata("where"));
}

// [C181] [A20]
#[test]
fn a_server_refuses_anything_but_setup_as_the_first_frame() {
    for first in FROM_CLIENT.into_iter().chain([
        "SETUP 1",
        "RESUME 1",
        "TYPE=0x1E",
        "SETUP ka=0",
        "SETUP life=0x80000000",
    ]) {
        let mut peer = new_server();
        peer.say(first);
        assert_eq!(peer.heard(), ["ERROR INVALID_SETUP"], "{first}");
        assert!(peer.session.is_closed(), "{first}");
        assert!(matches!(peer.event(), Some(Event::Closed(_))), "{first}");
    }
    for garbage in [&b""[..], b"\0\0\0", b"GET / HTTP/1.1\r\n"] {
        let mut peer = new_server();
        peer.say_bytes(garbage);
        assert_eq!(peer.heard(), ["ERROR INVALID_SETUP"]);
    }
}

// [C182]
#[test]
fn a_server_does_not_wait_for_setup_for_ever() {
    let mut peer = new_server();
    peer.pass(Duration::from_millis(9_999));
    assert_eq!(peer.heard(), [""; 0]);
    peer.pass(Duration::from_millis(1));
    assert_ended(&mut peer, "ERROR INVALID_SETUP", "no SETUP in time");
    assert_eq!(peer.session.poll_timeout(), None);
}

// [C182]
#[test]
fn an_acceptor_does_not_decide_for_ever() {
    let mut peer = new_server();
    peer.say("SETUP");
    peer.pass(Duration::from_secs(10));
    assert_eq!(peer.heard(), ["ERROR INVALID_SETUP"]);
    peer.session.accept(peer.now());
    assert!(peer.session.is_closed());
}

// [C183]
#[test]
fn a_refused_client_is_told_before_the_end() {
    let mut peer = new_server();
    peer.say("SETUP");
    assert_eq!(peer.events(), ["Setup"]);
    peer.session.refuse(&Failure::rejected("not you"));
    assert!(peer.session.is_closed());
    let words = peer.heard_bytes();
    assert_eq!(words, [frame("ERROR REJECTED_SETUP d=not you")]);
    assert!(peer.events()[0].contains("not you"));
}

// [C183]
#[test]
fn a_server_that_closes_while_it_decides_refuses() {
    let mut peer = new_server();
    peer.say("SETUP");
    peer.session.close(peer.now());
    assert_eq!(peer.heard(), ["ERROR REJECTED_SETUP"]);
}

// [C187] [C191]
#[test]
fn a_server_sends_nothing_before_it_accepted() {
    let mut peer = new_server();
    peer.open(RequestResponse, "early");
    assert_eq!(peer.heard(), [""; 0]);
    peer.say("SETUP");
    assert_eq!(peer.heard(), [""; 0]);
    peer.session.accept(peer.now());
    assert_eq!(peer.heard(), ["REQUEST_RESPONSE 2 d=early"]);
}

// [C163] [C191]
#[test]
fn a_server_pushes_no_metadata_before_it_accepted() {
    let mut peer = new_server();
    let _ = peer.session.metadata_push(b"early");
    assert_eq!(peer.heard(), [""; 0]);
    peer.say("SETUP");
    assert_eq!(peer.heard(), [""; 0]);
    peer.session.refuse(&Failure::rejected("no"));
    assert_eq!(peer.heard(), ["ERROR REJECTED_SETUP"]);
}

// [C190] [C083]
#[test]
fn a_client_takes_any_error_on_stream_0_before_an_answer_as_a_refusal() {
    for code in [
        "INVALID_SETUP",
        "UNSUPPORTED_SETUP",
        "REJECTED_SETUP",
        "REJECTED_RESUME",
        "CONNECTION_ERROR",
        "APPLICATION_ERROR",
        "code=0x301",
    ] {
        let mut peer = client();
        let id = peer.open(RequestResponse, "ping");
        peer.heard();
        peer.say(&format!("ERROR {code} d=go away"));
        assert!(
            matches!(peer.session.close_reason(), Some(CloseReason::Refused(_))),
            "{code}"
        );
        assert!(peer.take(id).contains("go away"), "{code}");
        assert_eq!(peer.heard(), [""; 0], "{code}");
    }
}

// [C190] [C196]
#[test]
fn a_client_that_was_answered_is_not_refused_any_more() {
    for answer in [
        "PAYLOAD 1 NC d=pong",
        "ERROR 1 REJECTED",
        "REQUEST_FNF 2 d=x",
        "REQUEST_RESPONSE 2 d=x",
        "REQUEST_N 3 n=1",
        "CANCEL 3",
        "KEEPALIVE",
        "METADATA_PUSH m=x",
        "LEASE ttl=1 n=1",
    ] {
        let mut peer = client();
        peer.open(RequestResponse, "ping");
        peer.open(RequestChannel, "first");
        peer.heard();
        peer.say(answer);
        for code in [
            "INVALID_SETUP",
            "UNSUPPORTED_SETUP",
            "REJECTED_SETUP",
            "REJECTED_RESUME",
        ] {
            peer.say(&format!("ERROR {code}"));
            assert!(!peer.session.is_closed(), "{code} after {answer}");
        }
        peer.say("ERROR CONNECTION_ERROR d=oops");
        assert!(
            matches!(peer.session.close_reason(), Some(CloseReason::PeerError(_))),
            "after {answer}"
        );
    }
}

// [C192]
#[test]
fn the_four_ways_to_start_without_lease() {
    // SETUP, REQUEST: handled.
    let mut peer = new_server();
    peer.say("SETUP");
    assert_eq!(peer.events(), ["Setup"]);
    peer.session.accept(peer.now());
    peer.say("REQUEST_RESPONSE 1 d=ping");
    assert_eq!(peer.events(), ["REQUEST_RESPONSE 1 d=ping"]);
    // SETUP, REQUEST: refused.
    let mut peer = new_server();
    peer.say("SETUP");
    peer.session.refuse(&Failure::invalid("no"));
    peer.say("REQUEST_RESPONSE 1 d=ping");
    assert_ended(&mut peer, "ERROR REJECTED_SETUP", "refused");
    // SETUP, and the server asks.
    let mut peer = client();
    peer.say("REQUEST_RESPONSE 2 d=ping");
    assert_eq!(peer.events(), ["REQUEST_RESPONSE 2 d=ping"]);
    // SETUP, ERROR.
    let mut peer = client();
    peer.say("ERROR REJECTED_SETUP d=no");
    assert!(peer.session.is_closed());
}

// [C073] [A21]
#[test]
fn a_client_that_wants_to_resume_is_refused() {
    let mut peer = new_server();
    peer.say("SETUP token=tok");
    assert_ended(&mut peer, "ERROR REJECTED_SETUP", "resumption");
}

// [C290]
#[test]
fn a_resumption_is_refused() {
    let mut peer = new_server();
    peer.say("RESUME token=tok");
    assert_ended(&mut peer, "ERROR REJECTED_RESUME", "resumption");
}

// [C073] [A22]
#[test]
fn a_client_that_wants_lease_is_refused() {
    let mut peer = new_server();
    peer.say("SETUP L");
    assert_ended(&mut peer, "ERROR UNSUPPORTED_SETUP", "lease");
}

// [C074] [C075] [A42]
#[test]
fn other_versions_are_refused() {
    for version in ["0.0", "0.1", "0.2", "1.1", "2.0", "65535.65535"] {
        let mut peer = new_server();
        // Of another version nothing else is trusted, whatever it asks for.
        peer.say(&format!("SETUP L v={version} token=t"));
        assert_ended(&mut peer, "ERROR UNSUPPORTED_SETUP", "version");
    }
}

// [C194] [C336] [A26]
#[test]
fn a_second_setup_and_one_at_a_client_are_ignored() {
    let mut peer = server();
    assert_eq!(peer.ask("SETUP v=9.9 L token=t"), [""; 0]);
    assert_eq!(peer.session.stats().frames_ignored, 1);
    let mut peer = client();
    assert_eq!(peer.ask("SETUP"), [""; 0]);
    assert!(!peer.session.is_closed());
    assert_eq!(peer.events(), [""; 0]);
}

// [C195] [C336]
#[test]
fn a_server_ignores_the_codes_that_only_it_may_send() {
    let mut peer = server();
    for code in [
        "INVALID_SETUP",
        "UNSUPPORTED_SETUP",
        "REJECTED_SETUP",
        "REJECTED_RESUME",
    ] {
        peer.say(&format!("ERROR {code}"));
    }
    assert!(!peer.session.is_closed());
    assert_eq!(peer.session.stats().frames_ignored, 4);
}

// [C197]
#[test]
fn resume_in_the_middle_of_a_connection_ends_it() {
    let mut peer = server();
    peer.say("RESUME token=t");
    assert_ended(&mut peer, "ERROR CONNECTION_ERROR", "RESUME");
    let mut peer = client();
    peer.say("RESUME token=t");
    assert!(!peer.session.is_closed());
}

// [C340]
#[test]
fn resume_ok_that_nobody_asked_for_is_ignored() {
    for mut peer in [server(), client()] {
        assert_eq!(peer.ask("RESUME_OK p=5"), [""; 0]);
        assert!(!peer.session.is_closed());
    }
}

// [C067] [C096] [C270] [C271] [C272]: also of what is not offered we know how
// it looks, to refuse or ignore it.
#[test]
fn the_frames_of_lease_and_resumption_have_the_layout_of_the_spec() {
    let decode = |bytes| Frame::decode(bytes).unwrap();
    let lease = b"\0\0\0\0\x09\0\0\0\x03\xE8\0\0\0\x0Ax";
    assert!(matches!(decode(lease), Frame::Lease(lease)
        if (lease.ttl_ms, lease.requests, lease.metadata) == (1_000, 10, Some(&b"x"[..]))));
    let setup = frame("SETUP token=tok mime=a/b,c/d d=x");
    assert_eq!(setup[18..23], *b"\0\x03tok");
    assert!(matches!(decode(&setup), Frame::Setup(setup)
        if setup.resume_token == Some(b"tok") && setup.metadata_mime == b"a/b"));
    let resume = b"\0\0\0\0\x34\0\0\x01\0\0\0\x03tok\0\0\0\0\0\0\0\x1F\0\0\0\0\0\0\0\x0F";
    assert!(matches!(decode(resume), Frame::Resume(resume)
        if resume.token == b"tok"
            && resume.last_received_server.get() == 31
            && resume.first_available_client.get() == 15));
    let resume_ok = b"\0\0\0\0\x38\0\0\0\0\0\0\0\0\x2E";
    assert!(matches!(decode(resume_ok), Frame::ResumeOk(ok)
        if ok.last_received_client.get() == 46));
}

// [C097] [A23] [A24]
#[test]
fn lease_that_was_not_agreed_on_is_ignored() {
    for mut peer in [server(), client()] {
        assert_eq!(peer.ask("LEASE ttl=0 n=0"), [""; 0]);
        assert_eq!(peer.ask("LEASE ttl=5 n=5 m=x"), [""; 0]);
        peer.open(RequestResponse, "still");
        assert_eq!(peer.heard().len(), 1);
    }
}

// ----- errors and unknown frames -----------------------------------------------

// [C012]
#[test]
fn a_frame_over_the_limit_ends_the_connection() {
    let mut config = Config::default();
    config.limits.max_frame_len = 100;
    let mut peer = Peer::of_server(config.clone());
    peer.say("REQUEST_FNF 1 d=*94");
    assert!(!peer.session.is_closed());
    peer.say("REQUEST_FNF 3 d=*95");
    assert_eq!(peer.heard(), ["ERROR CONNECTION_ERROR"]);
    // Also before anybody knows who it is.
    let mut peer = Peer::of_new_server(config);
    peer.say("SETUP d=*100");
    assert_eq!(peer.heard(), ["ERROR INVALID_SETUP"]);
    assert!(peer.session.is_closed());
}

// [C222]
#[test]
fn a_setup_payload_over_the_limit_is_refused() {
    let mut config = Config::default();
    config.limits.max_payload_len = 100;
    let mut peer = Peer::of_new_server(config);
    peer.say("SETUP m=*50 d=*51");
    assert_eq!(peer.heard(), ["ERROR REJECTED_SETUP"]);
}

// [C013] [C034]
#[test]
fn a_malformed_frame_ends_the_connection() {
    for bytes in [
        &b"\0\0\0\x01\x20"[..],
        b"\0\0\0\x01\x20\0\0\0",
        b"\0\0\0\x01\x11\0\0\0\x05ab",
        b"\0\0\0\0\x0C\x80\0\0",
        b"",
    ] {
        for mut peer in [server(), client()] {
            peer.say_bytes(bytes);
            assert_ended(&mut peer, "ERROR CONNECTION_ERROR", "malformed");
        }
    }
}

// [C034]
#[test]
fn a_malformed_frame_that_may_be_ignored_is() {
    for mut peer in [server(), client()] {
        peer.say_bytes(b"\0\0\0\x01\x13\0\0\0\x05ab");
        peer.say_bytes(b"\0\0\0\0\x0E\x80\0\0");
        assert_eq!(peer.heard(), [""; 0]);
        assert_eq!(peer.session.stats().frames_ignored, 2);
    }
}

// [C026] [C027] [C171] [A43]
#[test]
fn what_is_unknown_ends_the_connection_unless_it_may_be_ignored() {
    for unknown in ["TYPE=0x1E 1", "TYPE=0x00", "EXT 1 type=7", "EXT type=7 d=x"] {
        for mut peer in [server(), client()] {
            let (name, rest) = unknown.split_once(' ').unwrap_or((unknown, ""));
            let id = rest.split(' ').next().unwrap_or_default();
            let id = if id.parse::<u32>().is_ok() { id } else { "" };
            assert_eq!(peer.ask(&format!("{name} {id} I type=7")), [""; 0]);
            assert!(!peer.session.is_closed(), "{unknown}");
            peer.say(unknown);
            assert_ended(&mut peer, "ERROR CONNECTION_ERROR", "");
        }
    }
}

// [C005]
#[test]
fn after_the_end_nothing_is_heard_and_nothing_said() {
    let mut peer = server();
    peer.say("REQUEST_RESPONSE 1 d=x");
    peer.events();
    peer.session.abort();
    assert_eq!(peer.heard(), ["ERROR CONNECTION_ERROR"]);
    for text in FROM_CLIENT {
        assert_eq!(peer.ask(text), [""; 0]);
    }
    peer.say_bytes(b"garbage");
    peer.send(1, "late");
    peer.pass(Duration::from_secs(1_000));
    assert_eq!(peer.heard(), [""; 0]);
    assert_eq!(peer.events().len(), 1);
    peer.session.release(peer.key(1));
    assert_eq!(peer.session.streams_open(), 0);
}

// [C082] [C084]
#[test]
fn connection_error_ends_the_connection_and_all_its_streams_at_once() {
    let mut peer = server();
    peer.say("REQUEST_STREAM 1 n=5 d=x");
    peer.events();
    let id = peer.open(RequestStream, "y");
    peer.heard();
    peer.say("ERROR CONNECTION_ERROR d=oops");
    assert!(peer.take(id).contains("oops"));
    assert!(peer.session.poll_send_closed(peer.key(1)));
    peer.session.release(peer.key(1));
    peer.session.release(peer.key(id));
    assert_eq!(peer.session.streams_open(), 0);
    assert_eq!(peer.heard(), [""; 0]);
}

// [C088] [A26] [A40]
#[test]
fn any_other_code_on_stream_0_ends_the_connection_too() {
    for code in [
        "code=0",
        "REJECTED",
        "APPLICATION_ERROR",
        "code=0x103",
        "code=0x301",
        "code=0xffffffff",
    ] {
        let mut peer = server();
        peer.say(&format!("ERROR {code} d=#ff00"));
        assert!(peer.session.is_closed(), "{code}");
        assert_eq!(peer.heard(), [""; 0]);
    }
}

// [C083]
#[test]
fn codes_of_streams_are_sent_on_streams_and_others_on_stream_0() {
    let mut peer = server();
    peer.say("REQUEST_RESPONSE 1 d=x");
    peer.events();
    peer.session.fail(peer.key(1), &Failure::application("no"));
    peer.session.close(peer.now());
    let heard = peer.heard();
    assert!(
        heard.contains(&"ERROR 1 APPLICATION_ERROR".to_owned()),
        "{heard:?}"
    );
    assert!(
        heard.contains(&"ERROR CONNECTION_CLOSE".to_owned()),
        "{heard:?}"
    );
}

// [C082]
#[test]
fn a_link_that_is_gone_ends_all_streams() {
    for interaction in [RequestResponse, RequestStream, RequestChannel] {
        let mut peer = client();
        let id = peer.open(interaction, "x");
        peer.heard();
        assert_eq!(peer.take(id), "Pending");
        peer.hang_up();
        assert!(peer.take(id).starts_with("Failed"));
        assert!(!peer.wakes().is_empty(), "who waited is told");
        assert_eq!(peer.heard(), [""; 0], "there is nobody to tell");
    }
}

// ----- the end in good order -----------------------------------------------------

// [C085] [A41]
#[test]
fn who_closes_waits_for_open_streams_and_refuses_new_ones() {
    let mut peer = server();
    peer.say("REQUEST_STREAM 1 n=5 d=x");
    peer.events();
    peer.session.close(peer.now());
    assert_eq!(peer.heard(), ["ERROR CONNECTION_CLOSE"]);
    assert!(!peer.session.is_closed());
    assert!(peer.session.open(request(RequestResponse, "no")).is_err());
    // Refused, and nobody was bothered with it [C086].
    assert_eq!(peer.ask("REQUEST_RESPONSE 3 d=late"), ["ERROR 3 REJECTED"]);
    assert_eq!(peer.ask("REQUEST_FNF 5 d=late"), [""; 0]);
    assert_eq!(peer.events(), [""; 0]);
    peer.send(1, "last");
    peer.session.complete(peer.key(1));
    assert_eq!(peer.heard(), ["PAYLOAD 1 N d=last", "PAYLOAD 1 C"]);
    assert!(!peer.session.is_closed(), "somebody still holds it");
    peer.session.release(peer.key(1));
    assert_eq!(peer.events(), ["Closed: closed by this side"]);
}

// [C085]
#[test]
fn who_is_asked_to_close_waits_for_open_streams() {
    let mut peer = client();
    let id = peer.open(RequestResponse, "x");
    peer.heard();
    peer.say("KEEPALIVE");
    peer.say("ERROR CONNECTION_CLOSE");
    assert!(!peer.session.is_closed());
    assert!(peer.session.open(request(RequestResponse, "no")).is_err());
    peer.say("PAYLOAD 1 NC d=answer");
    assert_eq!(peer.take_all(id), ["d=answer", "Complete"]);
    assert!(!peer.session.is_closed());
    peer.session.release(peer.key(id));
    assert_eq!(peer.events(), ["Closed: closed by the peer"]);
}

// [C085]
#[test]
fn without_streams_a_close_is_done_at_once() {
    for mut peer in [server(), client()] {
        peer.session.close(peer.now());
        assert_eq!(peer.heard(), ["ERROR CONNECTION_CLOSE"]);
        assert_eq!(peer.events(), ["Closed: closed by this side"]);
    }
    for mut peer in [server(), client()] {
        assert_eq!(peer.ask("ERROR CONNECTION_CLOSE"), [""; 0]);
        assert_eq!(peer.events(), ["Closed: closed by the peer"]);
    }
}

// [C085] [C086]
#[test]
fn who_closes_tells_of_its_refusals_before_it_is_gone() {
    let mut peer = server();
    peer.say("REQUEST_RESPONSE 1 d=x");
    peer.events();
    peer.session.close(peer.now());
    peer.stall(true);
    peer.say("REQUEST_RESPONSE 3 d=late");
    peer.say("CANCEL 1");
    peer.session.release(peer.key(1));
    peer.stall(false);
    let heard = peer.heard();
    assert_eq!(heard, ["ERROR CONNECTION_CLOSE", "ERROR 3 REJECTED"]);
    assert!(peer.session.is_closed());
}

// [C085] [A41]
#[test]
fn a_peer_that_closes_the_link_instead_of_waiting_does_no_harm() {
    let mut peer = server();
    peer.say("REQUEST_STREAM 1 n=5 d=x");
    peer.events();
    peer.session.close(peer.now());
    peer.heard();
    peer.hang_up();
    assert_eq!(peer.events(), ["Closed: closed by this side"]);
    assert!(peer.session.poll_send_closed(peer.key(1)));
}

// [C085]
#[test]
fn streams_that_do_not_end_are_ended_after_the_drain_timeout() {
    for theirs in [false, true] {
        let mut peer = server();
        peer.say("REQUEST_STREAM 1 n=5 d=x");
        peer.events();
        if theirs {
            peer.say("ERROR CONNECTION_CLOSE");
        } else {
            peer.session.close(peer.now());
            peer.heard();
        }
        peer.pass(Duration::from_millis(29_999));
        assert!(!peer.session.is_closed());
        peer.pass(Duration::from_millis(1));
        assert_ended(&mut peer, "ERROR CONNECTION_ERROR", "drain timeout");
    }
}

#[test]
fn a_drain_timeout_without_end_is_one() {
    let mut config = Config {
        drain_timeout: Duration::MAX,
        ..Config::default()
    };
    config.limits.setup_timeout = Duration::MAX;
    let mut peer = Peer::of_server(config);
    peer.say("REQUEST_STREAM 1 n=5 d=x");
    peer.session.close(peer.now());
    assert!(!peer.session.is_closed());
}

// [C086]
#[test]
fn rejected_means_that_nobody_saw_it() {
    let mut config = Config::default();
    config.limits.max_streams = 1;
    let mut peer = Peer::of_server(config);
    peer.say("REQUEST_RESPONSE 1 d=x");
    for late in [
        "REQUEST_RESPONSE 3 d=x",
        "REQUEST_STREAM 3 d=x",
        "REQUEST_CHANNEL 3 d=x",
    ] {
        assert_eq!(peer.ask(late), ["ERROR 3 REJECTED"]);
    }
    assert_eq!(peer.events(), ["REQUEST_RESPONSE 1 d=x"]);
    assert_eq!(peer.session.stats().requests_rejected, 3);
}

// ----- keepalive -------------------------------------------------------------------

// [C100] [C101] [C106] [A29]
#[test]
fn a_client_sends_keepalive_at_its_interval_and_asks_for_an_answer() {
    let mut peer = client();
    for _ in 0..3 {
        peer.pass(Duration::from_millis(19_999));
        assert_eq!(peer.heard(), [""; 0]);
        peer.pass(Duration::from_millis(1));
        assert_eq!(peer.heard(), ["KEEPALIVE R"]);
        peer.say("KEEPALIVE");
    }
}

// [C101] [A28]
#[test]
fn a_busy_client_sends_keepalive_too() {
    let mut peer = client();
    for _ in 0..20 {
        peer.pass(Duration::from_secs(1));
        peer.open(FireAndForget, "x");
        peer.say("PAYLOAD 99 N");
    }
    let keepalives = peer
        .heard()
        .into_iter()
        .filter(|text| text == "KEEPALIVE R");
    assert_eq!(keepalives.count(), 1);
}

// [C102] [A27]
#[test]
fn a_server_sends_no_keepalive_of_its_own_and_a_client_answers_those_of_others() {
    let mut peer = server();
    peer.pass(Duration::from_secs(80));
    assert_eq!(peer.heard(), [""; 0]);
    let mut peer = client();
    assert_eq!(peer.ask("KEEPALIVE R d=beat"), ["KEEPALIVE d=beat"]);
}

// [C103] [C104] [C106] [C107] [A29]
#[test]
fn keepalive_is_answered_with_its_data_and_our_own_position() {
    let mut peer = server();
    assert_eq!(peer.ask("KEEPALIVE R p=77 d=*300"), ["KEEPALIVE d=*300"]);
    assert_eq!(peer.ask("KEEPALIVE R"), ["KEEPALIVE"]);
    assert_eq!(
        peer.ask("KEEPALIVE p=77 d=x"),
        [""; 0],
        "no answer to an answer"
    );
}

// [C065] [C105] [C108]
#[test]
fn a_silent_peer_is_given_up_after_max_lifetime() {
    for mut peer in [server(), client()] {
        peer.pass(Duration::from_millis(89_999));
        peer.heard();
        assert!(!peer.session.is_closed());
        peer.pass(Duration::from_millis(1));
        assert_ended(&mut peer, "ERROR CONNECTION_ERROR", "90000 ms");
    }
}

// [C105] [C109] [A28]
#[test]
fn any_frame_shows_that_the_peer_is_alive() {
    for sign in ["KEEPALIVE", "PAYLOAD 99 N", "EXT I type=1"] {
        let mut peer = client();
        peer.pass(Duration::from_secs(89));
        peer.say(sign);
        peer.pass(Duration::from_secs(89));
        assert!(!peer.session.is_closed(), "{sign}");
    }
}

// [C109] [C254]
#[test]
fn keepalive_and_its_answers_go_before_all_that_waits() {
    let mut peer = client();
    peer.stall(true);
    for n in 0..10 {
        peer.open(FireAndForget, &n.to_string());
    }
    peer.pass(Duration::from_secs(20));
    peer.say("KEEPALIVE R d=beat");
    peer.stall(false);
    let heard = peer.heard();
    assert_eq!(heard[..2], ["KEEPALIVE R", "KEEPALIVE d=beat"]);
    assert_eq!(heard.len(), 12);
}

// [C110]: item 4 of the complaints that others got.
#[test]
fn answers_to_keepalive_that_nobody_reads_are_bounded() {
    let mut peer = server();
    peer.stall(true);
    let keepalive = frame("KEEPALIVE R d=*10000");
    let mut said = 0;
    while peer.offer(&keepalive) {
        said += 1;
        assert!(said < 1_000, "it takes them without end");
    }
    let owed = peer.session.books().owed;
    assert!(owed < (256 << 10) + 11_000, "{owed}");
    // Once it reads, all goes on, and nothing was lost.
    peer.stall(false);
    assert_eq!(peer.heard().len(), said);
    assert!(peer.session.wants_input());
    assert_eq!(peer.session.books().owed, 0);
}

// [C103] [C010]
#[test]
fn a_keepalive_longer_than_the_link_takes_is_not_answered() {
    let limits = LinkLimits { max_frame_len: 64 };
    let mut peer = Peer::of_client_on(Config::default(), &SetupOptions::default(), limits);
    peer.heard();
    assert_eq!(peer.ask("KEEPALIVE R d=*50").len(), 1);
    assert_eq!(peer.ask("KEEPALIVE R d=*51"), [""; 0]);
}

// [C010]
#[test]
fn error_messages_fit_the_link() {
    let limits = LinkLimits { max_frame_len: 64 };
    let mut peer = Peer::of_client_on(Config::default(), &SetupOptions::default(), limits);
    peer.heard();
    peer.say_all(["REQUEST_RESPONSE 2 d=x", "REQUEST_STREAM 4 n=0"]);
    peer.events();
    let long = "long ".repeat(4_000);
    peer.session.fail(peer.key(2), &Failure::application(&long));
    let longest = peer.heard_bytes().iter().map(Vec::len).max();
    assert_eq!(longest, Some(64));
    peer.say("EXT type=5");
    assert!(peer.heard_bytes().iter().all(|bytes| bytes.len() <= 64));
}

// ----- metadata push ----------------------------------------------------------------

// [C033] [C160] [C161] [C163] [A38]
#[test]
fn metadata_push_goes_both_ways_without_an_answer() {
    for mut peer in [server(), client()] {
        peer.session.metadata_push(b"news").unwrap();
        assert_eq!(peer.heard_bytes(), [b"\0\0\0\0\x31\0news"]);
        assert_eq!(peer.ask("METADATA_PUSH m=theirs"), [""; 0]);
        // Some peers forget the flag.
        peer.say_bytes(b"\0\0\0\0\x30\0old");
        assert_eq!(
            peer.events(),
            ["METADATA_PUSH m=theirs", "METADATA_PUSH m=old"]
        );
    }
}

// [C162] [C335] [A38]
#[test]
fn metadata_push_on_a_stream_is_ignored() {
    for mut peer in [server(), client()] {
        assert_eq!(peer.ask("METADATA_PUSH 1 m=x"), [""; 0]);
        assert_eq!(peer.events(), [""; 0]);
        assert_eq!(peer.session.stats().frames_ignored, 1);
    }
}

// [C165] [C210]
#[test]
fn metadata_push_that_does_not_fit_a_frame_is_refused() {
    let limits = LinkLimits { max_frame_len: 64 };
    let config = Config {
        fragment_len: Some(64),
        ..Config::default()
    };
    let mut peer = Peer::of_client_on(config, &SetupOptions::default(), limits);
    peer.heard();
    peer.session.metadata_push(&[b'x'; 58]).unwrap();
    assert!(peer.session.metadata_push(&[b'x'; 59]).is_err());
    assert_eq!(peer.heard().len(), 1);
}

// ----- what has no place ------------------------------------------------------------

// [C022] [C320] [C330] [C332] [C333] [C334] [C335] [C337] [C338] [C136] [C141] [C156] [A17]
#[test]
fn frames_that_make_no_sense_are_ignored_and_counted() {
    let both = [
        "CANCEL",
        "CANCEL 77",
        "CANCEL 78",
        "ERROR 77 APPLICATION_ERROR",
        "ERROR 78 code=0x301",
        "PAYLOAD N d=x",
        "PAYLOAD 77 NC d=x",
        "PAYLOAD 78 NC d=x",
        "REQUEST_N n=1",
        "REQUEST_N 77 n=1",
        "REQUEST_N 78 n=1",
        "METADATA_PUSH 77 m=x",
        "LEASE 77 ttl=1 n=1",
        "KEEPALIVE 77 R",
        "RESUME 77",
        "RESUME_OK 77",
        "SETUP 77",
        "REQUEST_RESPONSE d=x",
        "REQUEST_FNF d=x",
        "REQUEST_STREAM d=x",
        "REQUEST_CHANNEL d=x",
    ];
    let to_client = [
        "REQUEST_RESPONSE 77 d=x",
        "REQUEST_FNF 77 d=x",
        "REQUEST_STREAM 77 d=x",
        "REQUEST_CHANNEL 77 d=x",
    ];
    let to_server = [
        "REQUEST_RESPONSE 78 d=x",
        "REQUEST_FNF 78 d=x",
        "REQUEST_STREAM 78 d=x",
        "REQUEST_CHANNEL 78 d=x",
    ];
    for (mut peer, more) in [(server(), to_server), (client(), to_client)] {
        let mut ignored = 0;
        for text in both.into_iter().chain(more) {
            assert_eq!(peer.ask(text), [""; 0], "{text}");
            ignored += 1;
            assert_eq!(peer.session.stats().frames_ignored, ignored, "{text}");
        }
        assert_eq!(peer.events(), [""; 0]);
        assert!(!peer.session.is_closed());
        assert_eq!(peer.session.streams_open(), 0);
    }
}

// [C024] [C321]
#[test]
fn flags_that_mean_nothing_are_ignored() {
    let mut peer = server();
    let mut bytes = frame("REQUEST_RESPONSE 1 N d=x");
    bytes[5] |= 0x1F;
    peer.say_bytes(&bytes);
    assert_eq!(peer.events(), ["REQUEST_RESPONSE 1 d=x"]);
}

// [C339]
#[test]
fn nothing_is_said_about_a_request_that_was_never_sent() {
    for interaction in [
        FireAndForget,
        RequestResponse,
        RequestStream,
        RequestChannel,
    ] {
        let mut peer = client();
        peer.stall(true);
        let id = peer.open(interaction, "x");
        peer.heard();
        peer.session.cancel(peer.key(id));
        peer.session.release(peer.key(id));
        peer.session.release(peer.key(id)); // A channel has two handles.
        peer.stall(false);
        assert_eq!(peer.heard(), [""; 0], "{interaction}");
        assert_eq!(peer.session.streams_open(), 0);
    }
}

// [C339]
#[test]
fn a_peer_that_guesses_ids_does_not_reach_requests_that_were_not_sent() {
    for guess in [
        "PAYLOAD 1 N d=x",
        "PAYLOAD 1 C",
        "PAYLOAD 1 FN d=x",
        "CANCEL 1",
        "ERROR 1 REJECTED",
        "REQUEST_N 1 n=5",
    ] {
        let mut peer = client();
        peer.stall(true);
        let id = peer.open(RequestChannel, "first");
        // Twice: the demand is one payload.
        peer.say_all([guess, guess]);
        peer.stall(false);
        assert_eq!(peer.heard(), ["REQUEST_CHANNEL 1 n=1 d=first"], "{guess}");
        assert_eq!(peer.take(id), "Pending", "{guess}");
    }
}
