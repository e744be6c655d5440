//! What peers may write in more than one way, and we take.

use super::malformed::frame;
use super::*;

fn decode(bytes: &[u8]) -> Frame<'_> {
    Frame::decode(bytes).unwrap_or_else(|error| panic!("{bytes:02x?}: {error}"))
}

// [C021]
#[test]
fn the_top_bit_of_the_stream_id_is_masked() {
    assert_eq!(decode(b"\x80\0\0\x05\x24\0"), decode(b"\0\0\0\x05\x24\0"));
    assert_eq!(Header::decode(b"\x80\0\0\0\x31\0").unwrap().stream_id, 0);
    assert!(matches!(
        decode(b"\x80\0\0\0\x31\0"),
        Frame::MetadataPush(_)
    ));
}

// [C024] [C127] [C321]
#[test]
fn flags_that_a_type_does_not_define_are_ignored() {
    // The flags that mean something, by type; IGNORE does for EXT alone.
    for (word, body, defined) in [
        (0x0800_u16, &[0; 8][..], 0x100),
        (0x0C00, &[0; 8], 0x080),
        (0x1000, b"data", 0x180),
        (0x1400, b"data", 0x180),
        (0x1800, &[0, 0, 0, 1], 0x180),
        (0x1C00, &[0, 0, 0, 1], 0x1C0),
        (0x2000, &[0, 0, 0, 1], 0),
        (0x2400, &[], 0),
        (0x2800, b"data", 0x1E0),
        (0x2C00, &[0, 0, 2, 1], 0),
        (0x3100, b"data", 0x100),
        (0x3800, &[0; 8], 0),
        (0xFC00, &[0, 0, 0, 1], 0x300),
    ] {
        let on_connection = matches!(word >> 10, 2 | 3 | 0xC | 0xE);
        let stream_id = [0, 0, 0, u8::from(!on_connection)];
        let frame = |word: u16| [&stream_id, &word.to_be_bytes()[..], body].concat();
        for flags in 0..0x400_u16 {
            if flags & defined == 0 {
                let (plain, flagged) = (frame(word), frame(word | flags));
                assert_eq!(decode(&flagged), decode(&plain), "{word:#06x} {flags:#05x}");
            }
        }
    }
}

// [C130] [C140] [C272]
#[test]
fn bytes_behind_the_last_field_are_ignored() {
    for frame in [
        &b"\0\0\0\x05\x20\0\0\0\0\x08"[..],
        b"\0\0\0\x05\x24\0",
        b"\0\0\0\0\x38\0\0\0\0\0\0\0\0\x2e",
        b"\0\0\0\0\x34\0\0\x01\0\0\0\x01t\0\0\0\0\0\0\0\x1f\0\0\0\0\0\0\0\x0f",
        b"\0\0\0\0\x08\0\0\0\0\x01\0\0\0\x01",
    ] {
        let longer = [frame, b"and more"].concat();
        assert_eq!(decode(&longer), decode(frame));
        assert_eq!(decode(&longer).to_vec(), frame);
    }
}

// [C155]
#[test]
fn a_payload_that_completes_has_no_more_fragments() {
    let Frame::Payload(payload) = decode(b"\0\0\0\x01\x28\xE0x") else {
        panic!("a PAYLOAD");
    };
    assert!(payload.complete && payload.next && !payload.follows);
}

// [C217]
#[test]
fn a_channels_first_fragment_keeps_both_follows_and_complete() {
    let bytes = b"\0\0\0\x01\x1C\xC0\0\0\0\x01x";
    let Frame::Request(request) = decode(bytes) else {
        panic!("a REQUEST_CHANNEL");
    };
    assert!(request.follows && request.complete);
    assert_eq!(Frame::Request(request).to_vec(), bytes);
}

// [C151] [C153]
#[test]
fn a_payload_without_next_is_left_to_the_caller_to_judge() {
    for flags in [0x00, 0x40, 0x80] {
        let bytes = [0, 0, 0, 1, 0x28, flags, b'x'];
        let Frame::Payload(payload) = decode(&bytes) else {
            panic!("a PAYLOAD");
        };
        assert!(!payload.next);
        assert_eq!(payload.payload.data, b"x");
    }
}

// [C035]
#[test]
fn empty_metadata_is_not_no_metadata() {
    let empty = frame(1, 0x1100, &[0, 0, 0]);
    let none = frame(1, 0x1000, &[]);
    let metadata = |bytes: &[u8]| match Frame::decode(bytes) {
        Ok(Frame::Request(request)) => request.payload.metadata.map(<[u8]>::len),
        other => panic!("{other:?}"),
    };
    assert_eq!((metadata(&empty), metadata(&none)), (Some(0), None));

    let lease = |word| frame(0, word, &[0; 8]);
    let metadata = |bytes: &[u8]| match Frame::decode(bytes) {
        Ok(Frame::Lease(lease)) => lease.metadata.map(<[u8]>::len),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        (metadata(&lease(0x0900)), metadata(&lease(0x0800))),
        (Some(0), None)
    );
}

// [C161]
#[test]
fn a_metadata_push_may_lack_its_flag() {
    let Frame::MetadataPush(push) = decode(b"\0\0\0\0\x30\0meta") else {
        panic!("a METADATA_PUSH");
    };
    assert_eq!(push.metadata, b"meta");
    assert_eq!(Frame::MetadataPush(push).to_vec(), b"\0\0\0\0\x31\0meta");
}

// [C081]
#[test]
fn an_error_message_that_is_not_text_is_still_readable() {
    let Frame::Error(error) = decode(b"\0\0\0\x01\x2C\0\0\0\x02\x01b\xFFm") else {
        panic!("an ERROR");
    };
    assert_eq!(error.message, b"b\xFFm");
    assert_eq!(error.message_lossy(), "b\u{FFFD}m");
}

// [C087] [C088]
#[test]
fn any_error_code_passes_on_any_stream() {
    for stream_id in [0, 1] {
        for code in [0, 5, 0x301, 0x8000_0000_u32, u32::MAX] {
            let bytes = [&[0, 0, 0, stream_id, 0x2C, 0][..], &code.to_be_bytes()].concat();
            let Frame::Error(error) = decode(&bytes) else {
                panic!("an ERROR");
            };
            assert_eq!(error.code, ErrorCode::new(code));
        }
    }
}

// [C063] [C069] [C070]
#[test]
fn versions_and_mime_types_are_not_interpreted() {
    let mime = [0xFF; 255];
    let setup = Setup {
        major: u16::MAX,
        minor: 7,
        keepalive: Millis31::new(1).unwrap(),
        max_lifetime: Millis31::new(1).unwrap(),
        resume_token: Some(b""),
        lease: false,
        metadata_mime: &mime,
        data_mime: b"",
        payload: PayloadRef::default(),
    };
    assert_eq!(decode(&Frame::Setup(setup).to_vec()), Frame::Setup(setup));
}
