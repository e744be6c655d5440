//! What callers of the encoder get: the frame, or a panic if what they ask
//! for is none.

use super::*;

fn stream() -> StreamId {
    StreamId::new(1).unwrap()
}

fn setup() -> Setup<'static> {
    Setup {
        major: 1,
        minor: 0,
        keepalive: Millis31::new(1).unwrap(),
        max_lifetime: Millis31::new(1).unwrap(),
        resume_token: None,
        lease: false,
        metadata_mime: b"",
        data_mime: b"",
        payload: PayloadRef::default(),
    }
}

fn panics(act: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    std::panic::catch_unwind(act).is_err()
}

#[test]
fn a_head_ends_where_the_metadata_begins() {
    let id = StreamId::new(5).unwrap();
    let n = Demand::new(16).unwrap();
    let request = |metadata_len| {
        Head::request(
            id,
            Interaction::RequestStream,
            Some(n),
            true,
            false,
            metadata_len,
        )
    };
    let payload = |metadata_len| Head::payload(id, false, true, true, metadata_len);
    for (head, bytes) in [
        (request(None), &b"\0\0\0\x05\x18\x80\0\0\0\x10"[..]),
        (
            request(Some(258)),
            b"\0\0\0\x05\x19\x80\0\0\0\x10\0\x01\x02",
        ),
        (payload(None), b"\0\0\0\x05\x28\x60"),
        (payload(Some(0)), b"\0\0\0\x05\x29\x60\0\0\0"),
        (Head::request_n(id, n), b"\0\0\0\x05\x20\0\0\0\0\x10"),
        (Head::cancel(id), b"\0\0\0\x05\x24\0"),
        (
            Head::error(None, ErrorCode::INVALID),
            b"\0\0\0\0\x2c\0\0\0\x02\x04",
        ),
    ] {
        assert_eq!(head.as_slice(), bytes);
    }
}

#[test]
fn a_buffer_of_the_wrong_length_is_a_panic() {
    let payload = PayloadRef {
        metadata: Some(b"meta"),
        data: b"data",
    };
    let message = PayloadFrame {
        stream_id: stream(),
        follows: false,
        complete: false,
        next: true,
        payload,
    };
    let cancel = Cancel {
        stream_id: stream(),
    };
    for frame in [
        Frame::Payload(message),
        Frame::Cancel(cancel),
        Frame::Setup(setup()),
    ] {
        let len = frame.encoded_len();
        for wrong in (0..len).chain(len + 1..len + 20) {
            assert!(
                panics(|| frame.encode(&mut vec![0; wrong])),
                "{frame:?} in {wrong}"
            );
        }
    }
}

// [C121]
#[test]
fn an_initial_n_belongs_to_streams_and_channels_alone() {
    use Interaction::*;
    for (interaction, n, valid) in [
        (FireAndForget, None, true),
        (RequestResponse, None, true),
        (RequestStream, Some(Demand::ONE), true),
        (RequestChannel, Some(Demand::ONE), true),
        (FireAndForget, Some(Demand::ONE), false),
        (RequestResponse, Some(Demand::ONE), false),
        (RequestStream, None, false),
        (RequestChannel, None, false),
    ] {
        let act = || {
            Head::request(stream(), interaction, n, false, false, None);
        };
        assert_eq!(panics(act), !valid, "{interaction} {n:?}");
    }
}

// [C217]
#[test]
fn completion_needs_a_channel_and_no_further_fragment() {
    assert!(panics(|| {
        Head::request(
            stream(),
            Interaction::RequestResponse,
            None,
            false,
            true,
            None,
        );
    }));
    assert!(panics(|| {
        Head::payload(stream(), true, true, true, None);
    }));
}

// [C031]
#[test]
fn metadata_longer_than_a_frame_is_a_panic() {
    let head = |len| Head::payload(stream(), false, false, true, Some(len));
    assert_eq!(head(MAX_FRAME_LEN).as_slice()[6..], [0xFF, 0xFF, 0xFF]);
    assert!(panics(|| {
        head(MAX_FRAME_LEN + 1);
    }));
}

// [C062] [C068] [C094] [C170]
#[test]
fn what_a_field_cannot_hold_is_a_panic() {
    let long = vec![0; 0x1_0000];
    let long_mime = Setup {
        metadata_mime: &long[..256],
        ..setup()
    };
    let long_token = Setup {
        resume_token: Some(&long),
        ..setup()
    };
    let lease = |ttl_ms, requests| {
        Frame::Lease(Lease {
            ttl_ms,
            requests,
            metadata: None,
        })
    };
    let ext = |stream_id, extended_type| {
        Frame::Ext(Ext {
            stream_id,
            ignore: false,
            extended_type,
            metadata_flag: false,
            body: b"",
        })
    };
    for frame in [
        Frame::Setup(long_mime),
        Frame::Setup(long_token),
        lease(1 << 31, 1),
        lease(1, 1 << 31),
        ext(1 << 31, 1),
        ext(0, 0),
        ext(0, 1 << 31),
    ] {
        assert!(panics(|| drop(frame.to_vec())), "{:?}", frame.frame_type());
    }
}
