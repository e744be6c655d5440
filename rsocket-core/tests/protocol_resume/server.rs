//! What a server answers to RESUME.

use super::*;

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
