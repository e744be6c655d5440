//! Sessions that the server may not know yet.

use super::*;

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
