//! Messages of peers that keep to the rules, and of those that do not.

use crate::common::*;
use rsocket_core::transport::{Received, TransportErrorKind};
use rsocket_transport_ws::{LinkOptions, Role};
use tokio::io::AsyncWriteExt as _;

// [C007]
#[tokio::test]
async fn a_frame_is_one_binary_message_without_a_length_in_front() {
    let (link, mut peer) = server();
    let (mut tx, mut rx) = link.split();
    send(&mut *tx, b"pong").await.unwrap();
    flush(&mut *tx).await.unwrap();
    assert_eq!(
        next_frame(&mut peer).await.unwrap(),
        (FIN | BINARY, b"pong".to_vec())
    );
    put(&mut peer, &masked(FIN | BINARY, b"ping")).await;
    assert_eq!(recv(&mut *rx, 1).await.unwrap(), [b"ping"]);

    let (link, mut peer) = raw(Role::Client, ROOMY, LinkOptions::new());
    let (mut tx, mut rx) = link.split();
    send(&mut *tx, b"ping").await.unwrap();
    flush(&mut *tx).await.unwrap();
    assert_eq!(
        next_frame(&mut peer).await.unwrap(),
        (FIN | BINARY, b"ping".to_vec())
    );
    put(&mut peer, &bare(FIN | BINARY, b"pong")).await;
    assert_eq!(recv(&mut *rx, 1).await.unwrap(), [b"pong"]);
}

#[tokio::test]
async fn clients_mask_each_message_anew() {
    use tokio::io::AsyncReadExt as _;

    let (link, mut peer) = raw(Role::Client, ROOMY, LinkOptions::new());
    let (mut tx, _rx) = link.split();
    let mut masks = std::collections::HashSet::new();
    for _ in 0..20 {
        send(&mut *tx, b"").await.unwrap();
        flush(&mut *tx).await.unwrap();
        let mut bytes = [0; 6];
        peer.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes[..2], [FIN | BINARY, 0x80]);
        masks.insert(bytes[2..].to_vec());
    }
    // That two of twenty are the same happens once in twenty million times.
    assert!(masks.len() >= 19, "{masks:?}");
}

#[tokio::test]
async fn an_empty_message_is_a_frame_of_no_bytes_for_the_core_to_judge() {
    let (link, mut peer) = server();
    let (_tx, mut rx) = link.split();
    put(&mut peer, &masked(FIN | BINARY, b"")).await;
    put(&mut peer, &masked(FIN | BINARY, b"next")).await;
    assert_eq!(recv(&mut *rx, 2).await.unwrap(), [&b""[..], b"next"]);
}

#[tokio::test]
async fn a_message_in_parts_is_put_together_with_pings_in_between() {
    let (link, mut peer) = server();
    let (_tx, mut rx) = link.split();
    let long: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
    let writing = tokio::spawn({
        let long = long.clone();
        async move {
            put(&mut peer, &masked(BINARY, &long[..5])).await;
            put(&mut peer, &masked(FIN | PING, b"alive?")).await;
            put(&mut peer, &masked(CONTINUATION, b"")).await;
            put(&mut peer, &masked(CONTINUATION, &long[5..70_001])).await;
            put(&mut peer, &masked(FIN | CONTINUATION, &long[70_001..])).await;
            put(&mut peer, &masked(BINARY, b"sh")).await;
            put(&mut peer, &masked(FIN | CONTINUATION, b"ort")).await;
            peer
        }
    });
    let frames = watched(recv(&mut *rx, 2)).await.unwrap();
    assert!(frames[0] == long, "100,000 bytes in four parts");
    assert_eq!(frames[1], b"short");
    let mut peer = writing.await.unwrap();
    assert_eq!(
        next_frame(&mut peer).await.unwrap(),
        (FIN | PONG, b"alive?".to_vec())
    );
}

/// What a server does about `bytes`: its error, and the code that it closes with.
async fn refused(bytes: &[u8], options: LinkOptions) -> (TransportErrorKind, String, u16) {
    let (link, mut peer) = raw(Role::Server, ROOMY, options);
    let (mut tx, mut rx) = link.split();
    put(&mut peer, bytes).await;
    let error = watched(ending(&mut *rx)).await.unwrap_err();
    let (code, reason) = closing_frame(&mut peer).await;
    let text = chain(&error);
    assert!(text.ends_with(&reason), "`{text}`, told as `{reason}`");
    // Nothing follows a closing frame, and both halves stay dead.
    let again = ending(&mut *rx).await.unwrap_err();
    assert_eq!(again.kind(), error.kind());
    let sent = send(&mut *tx, b"more").await;
    assert!(sent.is_err() || flush(&mut *tx).await.is_err());
    (error.kind(), text, code)
}

#[tokio::test]
async fn what_breaks_the_rules_is_refused_with_a_code_that_says_so() {
    let cases: [(&str, Vec<u8>, u16, &str); 15] = [
        ("text", masked(FIN | TEXT, b"{}"), 1003, "text"),
        ("text in parts", masked(TEXT, b"{"), 1003, "text"),
        (
            "no mask",
            bare(FIN | BINARY, b"ping"),
            1002,
            "without a mask",
        ),
        ("reserved bits", masked(0xC2, b"x"), 1002, "reserved"),
        ("unknown opcode", masked(FIN | 0x3, b"x"), 1002, "opcode"),
        ("unknown control", masked(FIN | 0xB, b"x"), 1002, "opcode"),
        (
            "rest of nothing",
            masked(FIN | CONTINUATION, b"x"),
            1002,
            "no message",
        ),
        (
            "message in a message",
            [masked(BINARY, b"x"), masked(FIN | BINARY, b"y")].concat(),
            1002,
            "within another",
        ),
        ("ping in parts", masked(PING, b"x"), 1002, "control"),
        ("long ping", masked(FIN | PING, &[0; 126]), 1002, "control"),
        (
            "half a code",
            masked(FIN | CLOSE, &[3]),
            1002,
            "half a code",
        ),
        (
            "code 1005",
            masked(FIN | CLOSE, &1005_u16.to_be_bytes()),
            1002,
            "means nothing",
        ),
        (
            "code 999",
            masked(FIN | CLOSE, &999_u16.to_be_bytes()),
            1002,
            "means nothing",
        ),
        (
            "reason",
            masked(FIN | CLOSE, &[0x03, 0xE8, 0xFF]),
            1007,
            "UTF-8",
        ),
        (
            "long length",
            vec![FIN | BINARY, 0xFE, 0, 3, 0, 0, 0, 0],
            1002,
            "more bytes",
        ),
    ];
    for (name, bytes, code, says) in cases {
        let (kind, text, told) = refused(&bytes, LinkOptions::new()).await;
        assert_eq!(kind, TransportErrorKind::PeerMisbehaved, "{name}");
        assert_eq!(told, code, "{name}: {text}");
        assert!(text.contains(says), "{name}: {text}");
    }
}

// [C010]
#[tokio::test]
async fn a_message_over_the_limit_is_refused_by_what_it_announces() {
    for len in [0x0100_0000, 1 << 40, u64::MAX >> 1] {
        let mut bytes = header(FIN | BINARY, 0x80, len);
        bytes.extend_from_slice(&[0; 4]);
        let (kind, text, code) = refused(&bytes, LinkOptions::new()).await;
        assert_eq!((kind, code), (TransportErrorKind::PeerMisbehaved, 1009));
        assert!(text.contains("16777215 are allowed"), "{text}");
    }
}

#[tokio::test]
async fn parts_are_refused_as_soon_as_they_come_to_more_than_the_limit() {
    let options = LinkOptions::new().max_frame_len(1000);
    let mut bytes = masked(BINARY, &[1; 600]);
    let mut announced = header(CONTINUATION, 0x80, 401);
    announced.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&announced);
    let (_, text, code) = refused(&bytes, options).await;
    assert_eq!(code, 1009);
    assert!(
        text.contains("1001 bytes or more, 1000 are allowed"),
        "{text}"
    );

    // And exactly at the limit they pass.
    let (link, mut peer) = raw(Role::Server, ROOMY, options);
    let (_tx, mut rx) = link.split();
    put(&mut peer, &masked(BINARY, &[1; 600])).await;
    put(&mut peer, &masked(FIN | CONTINUATION, &[1; 400])).await;
    assert_eq!(recv(&mut *rx, 1).await.unwrap(), [vec![1; 1000]]);
}

#[tokio::test]
async fn a_server_that_masks_is_refused_by_clients() {
    let (link, mut peer) = raw(Role::Client, ROOMY, LinkOptions::new());
    let (_tx, mut rx) = link.split();
    put(&mut peer, &masked(FIN | BINARY, b"pong")).await;
    let error = ending(&mut *rx).await.unwrap_err();
    assert!(chain(&error).contains("with a mask"), "{}", chain(&error));
    assert_eq!(closing_frame(&mut peer).await.0, 1002);
}

#[tokio::test]
async fn frames_that_came_whole_are_delivered_before_what_is_wrong_behind_them() {
    let (link, mut peer) = server();
    let (_tx, mut rx) = link.split();
    let bytes = [
        masked(FIN | BINARY, b"one"),
        masked(FIN | BINARY, b"two"),
        masked(FIN | TEXT, b"three"),
    ];
    put(&mut peer, &bytes.concat()).await;
    assert_eq!(recv(&mut *rx, 2).await.unwrap(), [b"one", b"two"]);
    assert!(ending(&mut *rx).await.is_err());
}

#[tokio::test]
async fn messages_that_come_byte_by_byte_arrive() {
    let (link, mut peer) = server();
    let (_tx, mut rx) = link.split();
    let long = vec![7; 20_000];
    let bytes = [
        masked(FIN | BINARY, b"drip"),
        masked(BINARY, &long[..300]),
        masked(FIN | CONTINUATION, &long[300..]),
    ];
    let writing = tokio::spawn(async move {
        for byte in bytes.concat() {
            peer.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        peer
    });
    let frames = watched(recv(&mut *rx, 2)).await.unwrap();
    assert_eq!(frames[0], b"drip");
    assert!(frames[1] == long);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn what_came_behind_the_handshake_comes_first() {
    use bytes::Bytes;
    use rsocket_core::transport::LinkInfo;

    let (ours, mut peer) = tokio::io::duplex(ROOMY);
    let message = masked(FIN | BINARY, &vec![9; 100_000]);
    let (early, late) = message.split_at(80_000);
    let link = rsocket_transport_ws::upgraded(
        ours,
        Role::Server,
        Bytes::copy_from_slice(early),
        LinkInfo::new("pipe"),
        LinkOptions::new(),
    );
    put(&mut peer, late).await;
    put(&mut peer, &masked(FIN | CLOSE, b"")).await;
    let (_tx, mut rx) = link.split();
    assert!(recv(&mut *rx, 1).await.unwrap() == [vec![9; 100_000]]);
    assert_eq!(ending(&mut *rx).await.unwrap(), Received::End);
}
