//! What counts, and what is sent again.

use super::*;

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
