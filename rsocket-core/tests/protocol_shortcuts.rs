//! Shortcuts that spare work and change nothing for the peer: payloads taken
//! several at a time, and frames that the link takes past the queues.
//!
//! A session is spoken to frame by frame; numbers in brackets are statements
//! of `docs/checklist.md`.
#![expect(clippy::unwrap_used, reason = "what is wrong with a test fails it")]

use std::task::Poll;

use rsocket_core::{
    Payload,
    frame::{Demand, Frame, Interaction},
    proto::{Batch, Config, DemandPolicy, Open, Progress, StreamKey, Take},
    testkit::{Peer, request},
    transport::OutFrame,
};

use Interaction::{FireAndForget, RequestChannel, RequestResponse, RequestStream};

fn prefetch(high: u32, low: u32) -> DemandPolicy {
    let high = Demand::new(high).unwrap();
    DemandPolicy::Prefetch { high, low }
}

/// A client with a stream that asks by `demand`.
fn asking(demand: DemandPolicy) -> Peer {
    let mut peer = Peer::of_client(Config::default());
    let mut open = request(RequestStream, "first");
    open.demand = demand;
    peer.open_with(open);
    peer.heard();
    peer
}

/// Uses one payload, by way of `batch`; whether there was one.
fn use_one(peer: &mut Peer, batch: &mut Batch) -> bool {
    let key = peer.key(1);
    if batch.pop().is_some() {
        if batch.is_due() {
            peer.session.settle_batch(key, batch);
        }
        return true;
    }
    matches!(peer.session.poll_take_batch(key, batch), Take::Payload(_))
}

// ----- payloads taken several at a time ------------------------------------------

// A peer is granted more when payloads are used, however they are taken.
#[test]
fn a_batch_asks_for_more_at_the_same_payload_as_taking_one_by_one() {
    for (high, low) in [(1, 0), (2, 1), (8, 4), (8, 0), (8, 7), (64, 32), (100, 99)] {
        let (mut single, mut batched) = (asking(prefetch(high, low)), asking(prefetch(high, low)));
        let mut batch = Batch::default();
        // As many as are granted come at once, or all but one.
        let (mut granted, mut n) = (high, 0);
        for round in 0..20 {
            let spared = if granted > 1 { round % 2 } else { 0 };
            for _ in 0..granted - spared {
                single.say("PAYLOAD 1 N d=x");
                batched.say("PAYLOAD 1 N d=x");
            }
            granted = spared;
            loop {
                let taken = single.take(1);
                assert_eq!(use_one(&mut batched, &mut batch), taken != "Pending");
                if taken == "Pending" {
                    break;
                }
                n += 1;
                let heard = single.heard();
                assert_eq!(batched.heard(), heard, "{high}, {low}: after payload {n}");
                for frame in heard {
                    let (_, asked) = frame.split_once("n=").unwrap();
                    granted += asked.parse::<u32>().unwrap();
                }
            }
            assert!(granted > 0, "{high}, {low}: the stream stands still");
        }
    }
}

#[test]
fn what_is_used_of_a_batch_is_no_longer_held() {
    let mut peer = asking(prefetch(1_000, 10));
    let before = peer.session.books().buffered;
    for _ in 0..100 {
        peer.say("PAYLOAD 1 N d=x");
    }
    let all = peer.session.books().buffered - before;
    let mut batch = Batch::default();
    for used in 1..=100 {
        assert!(use_one(&mut peer, &mut batch));
        let held = peer.session.books().buffered - before;
        // It is told of each 32nd payload at the latest.
        let (exact, late) = (all / 100 * (100 - used), all / 100 * 32);
        assert!((exact..=exact + late).contains(&held), "{used}: {held}");
        peer.session.assert_consistent();
    }
    assert_eq!(peer.session.books().buffered, before);
    assert!(!use_one(&mut peer, &mut batch));
}

#[test]
fn large_payloads_of_a_batch_are_told_of_one_by_one() {
    let mut peer = asking(prefetch(64, 1));
    let payload = format!("PAYLOAD 1 N d={}", "x".repeat(100_000));
    for _ in 0..4 {
        peer.say(&payload);
    }
    let mut batch = Batch::default();
    for left in (0..4).rev() {
        assert!(use_one(&mut peer, &mut batch));
        let held = peer.session.books().buffered;
        assert!(
            (left * 100_000..left * 100_000 + 1_000).contains(&held),
            "{held}"
        );
    }
}

#[test]
fn the_rest_of_a_batch_that_is_dropped_is_not_held() {
    // Of a channel of the peer's, whose other half goes on.
    let mut peer = Peer::of_server(Config::default());
    peer.say("REQUEST_CHANNEL 1 n=5 d=first");
    peer.events();
    let key = peer.key(1);
    let mut batch = Batch::default();
    assert!(matches!(
        peer.session.poll_take_batch(key, &mut batch),
        Take::Payload(_)
    ));
    for _ in 0..10 {
        peer.say("PAYLOAD 1 N d=x");
    }
    assert!(use_one(&mut peer, &mut batch));
    assert!(peer.session.books().buffered > 0);
    peer.session.cancel(key);
    peer.session.give_up_batch(key);
    peer.session.release(key);
    drop(batch);
    assert_eq!(peer.session.books().buffered, 0);
    peer.session.assert_consistent();
    peer.send(1, "the other half");
    assert!(
        peer.heard()
            .iter()
            .any(|frame| frame.contains("the other half"))
    );
}

#[test]
fn a_batch_outlives_the_end_of_its_stream() {
    let mut peer = asking(prefetch(64, 32));
    for n in 0..5 {
        peer.say(&format!("PAYLOAD 1 N d={n}"));
    }
    let mut batch = Batch::default();
    assert!(use_one(&mut peer, &mut batch));
    peer.say("ERROR 1 APPLICATION_ERROR d=that was all");
    for _ in 1..5 {
        assert!(use_one(&mut peer, &mut batch));
    }
    let key = peer.key(1);
    let end = peer.session.poll_take_batch(key, &mut batch);
    assert!(matches!(end, Take::Failed(_)), "{end:?}");
    peer.session.release(key);
    assert_eq!(peer.session.books().buffered, 0);
    peer.session.assert_consistent();
}

// ----- frames past the queues --------------------------------------------------------

/// Opens a stream through a link that says `answer`; what was given to it.
fn open_through(
    peer: &mut Peer,
    open: Open,
    answer: Poll<Result<(), ()>>,
) -> (StreamKey, Result<Progress, ()>, Vec<Vec<u8>>) {
    let mut given = Vec::new();
    let send = |frame: &OutFrame<'_>| {
        given.push(frame.to_vec());
        answer
    };
    let (key, progress) = peer.session.open_through(open, send).unwrap();
    peer.session.assert_consistent();
    (key, progress, given)
}

fn send_through(
    peer: &mut Peer,
    key: StreamKey,
    answer: Poll<Result<(), ()>>,
) -> (Result<Progress, ()>, usize) {
    let mut given = 0;
    let send = |_: &OutFrame<'_>| {
        given += 1;
        answer
    };
    let mut payload = Payload::new("x");
    let progress = peer.session.send_through(key, &mut payload, send);
    peer.session.assert_consistent();
    // What was sent stays with the caller, and is kept nowhere else.
    assert!(given == 0 || payload.data() == b"x");
    (progress.unwrap(), given)
}

const TAKEN: Poll<Result<(), ()>> = Poll::Ready(Ok(()));

#[test]
fn a_request_goes_to_the_link_at_once_and_only_once() {
    for interaction in [
        FireAndForget,
        RequestResponse,
        RequestStream,
        RequestChannel,
    ] {
        let mut peer = Peer::of_client(Config::default());
        peer.heard();
        let sent = peer.session.stats().frames_sent;
        let open = request(interaction, "hello");
        let (key, progress, given) = open_through(&mut peer, open, TAKEN);
        assert_eq!(progress, Ok(Progress::Sent));
        let [frame] = &given[..] else {
            panic!("{} frames", given.len());
        };
        let Frame::Request(frame) = Frame::decode(frame).unwrap() else {
            panic!("no request: {frame:?}");
        };
        assert_eq!(
            (frame.stream_id, frame.payload.data),
            (key.id, &b"hello"[..])
        );
        assert_eq!(peer.heard(), [""; 0]);
        assert_eq!(peer.session.stats().frames_sent, sent + 1);
        assert!(peer.session.was_sent(key));
        if interaction == FireAndForget {
            assert!(matches!(peer.session.poll_take(key), Take::Complete));
        } else {
            // The peer may speak of it from now on.
            peer.say(&format!("PAYLOAD {} NC d=world", key.id.get()));
            let Take::Payload(payload) = peer.session.poll_take(key) else {
                panic!("nothing came");
            };
            assert_eq!(payload.data(), b"world");
        }
    }
}

#[test]
fn what_the_link_does_not_take_waits_for_it() {
    for answer in [Poll::Pending, Poll::Ready(Err(()))] {
        let mut peer = Peer::of_client(Config::default());
        peer.heard();
        let open = request(RequestResponse, "hello");
        let (key, progress, given) = open_through(&mut peer, open, answer);
        assert_eq!(given.len(), 1);
        match answer {
            Poll::Pending => assert_eq!(progress, Ok(Progress::Blocked)),
            Poll::Ready(_) => assert_eq!(progress, Err(())),
        }
        assert!(!peer.session.was_sent(key));
        assert_eq!(peer.heard(), ["REQUEST_RESPONSE 1 d=hello"]);
        assert!(peer.session.was_sent(key));
    }
}

// [C045, C254]: nothing overtakes.
#[test]
fn nothing_goes_past_what_waits() {
    // SETUP.
    let mut peer = Peer::of_new_client(Config::default(), &Default::default());
    let (_, progress, given) = open_through(&mut peer, request(RequestResponse, "1"), TAKEN);
    assert_eq!((progress, given.len()), (Ok(Progress::Idle), 0));
    let heard = peer.heard();
    assert!(heard[0].starts_with("SETUP"), "{heard:?}");
    assert_eq!(heard[1..], ["REQUEST_RESPONSE 1 d=1"]);

    // An earlier request.
    peer.open(RequestResponse, "3");
    let (_, progress, given) = open_through(&mut peer, request(RequestResponse, "5"), TAKEN);
    assert_eq!((progress, given.len()), (Ok(Progress::Idle), 0));
    assert_eq!(
        peer.heard(),
        ["REQUEST_RESPONSE 3 d=3", "REQUEST_RESPONSE 5 d=5"]
    );

    // An answer on stream 0, and one to a request that was refused.
    for owed in ["KEEPALIVE R d=x", "REQUEST_STREAM 2 n=0"] {
        peer.say(owed);
        let (_, progress, given) = open_through(&mut peer, request(RequestResponse, "x"), TAKEN);
        assert_eq!((progress, given.len()), (Ok(Progress::Idle), 0), "{owed}");
        assert_eq!(peer.heard().len(), 2, "{owed}");
    }

    // Payloads of the same stream.
    let mut peer = Peer::of_server(Config::default());
    peer.say("REQUEST_STREAM 1 n=9");
    peer.events();
    peer.send(1, "first");
    let key = peer.key(1);
    assert_eq!(send_through(&mut peer, key, TAKEN), (Ok(Progress::Idle), 0));
    assert_eq!(peer.heard(), ["PAYLOAD 1 N d=first", "PAYLOAD 1 N d=x"]);
    assert_eq!(send_through(&mut peer, key, TAKEN), (Ok(Progress::Sent), 1));
}

// [C250, C256]: the shortcut spends credit as the long way does.
#[test]
fn a_payload_without_credit_does_not_go_through() {
    let mut peer = Peer::of_server(Config::default());
    peer.say("REQUEST_STREAM 1 n=2");
    peer.events();
    let key = peer.key(1);
    for _ in 0..2 {
        assert_eq!(send_through(&mut peer, key, TAKEN), (Ok(Progress::Sent), 1));
    }
    assert_eq!(send_through(&mut peer, key, TAKEN), (Ok(Progress::Idle), 0));
    assert_eq!(peer.heard(), [""; 0]);
}

// [C212, C221]: the link takes the first fragment at once, the others in their turns.
#[test]
fn a_payload_in_fragments_goes_on_from_the_queue() {
    let config = Config {
        fragment_len: Some(Config::MIN_FRAGMENT_LEN),
        ..Config::default()
    };
    let mut peer = Peer::of_client(config);
    peer.heard();
    let mut open = request(RequestResponse, "");
    open.payload = Payload::new(vec![b'x'; 150]);
    let (_, progress, given) = open_through(&mut peer, open, TAKEN);
    assert_eq!(progress, Ok(Progress::Sent));
    let first = given[0].len();
    let rest = peer.heard_bytes();
    assert!(rest.len() >= 2, "{} more fragments", rest.len());
    let sum: usize = first - 6 + rest.iter().map(|frame| frame.len() - 6).sum::<usize>();
    assert_eq!(sum, 150);
    peer.session.assert_consistent();
}

// Whoever keeps what it sent for a peer that comes back has to see it first.
#[test]
fn nothing_goes_past_a_log_or_a_lease() {
    use rsocket_core::proto::{LeaseConfig, ResumeOptions, SetupOptions};

    let resumable = Config {
        resume: Some(ResumeOptions::default()),
        ..Config::default()
    };
    let setup = SetupOptions {
        resume_token: Some("token".into()),
        ..SetupOptions::default()
    };
    let mut peer = Peer::of_new_client(resumable, &setup);
    peer.heard();
    let (_, progress, given) = open_through(&mut peer, request(RequestResponse, "x"), TAKEN);
    assert_eq!((progress, given.len()), (Ok(Progress::Idle), 0));

    let leased = Config {
        lease: Some(LeaseConfig::default()),
        ..Config::default()
    };
    let mut peer = Peer::of_new_client(leased, &SetupOptions::default());
    peer.heard();
    let (_, progress, given) = open_through(&mut peer, request(RequestResponse, "x"), TAKEN);
    assert_eq!((progress, given.len()), (Ok(Progress::Idle), 0));
}
