//! What peers get wrong, case by case.

use super::*;

/// A frame of these bytes: header with `word`, then `body`.
pub(super) fn frame(stream_id: u32, word: u16, body: &[u8]) -> Vec<u8> {
    [&stream_id.to_be_bytes(), &word.to_be_bytes()[..], body].concat()
}

fn decode_error(bytes: &[u8]) -> DecodeError {
    Frame::decode(bytes).expect_err("this is not a frame")
}

fn out_of_range(field: &'static str, value: u64) -> DecodeError {
    DecodeError::OutOfRange { field, value }
}

fn truncated(field: &'static str, need: usize, left: usize) -> DecodeError {
    DecodeError::Truncated { field, need, left }
}

fn metadata_length(claimed: usize, left: usize) -> DecodeError {
    DecodeError::MetadataLength { claimed, left }
}

/// Where the fields of a frame start, and the spec's names for them.
type Fields = &'static [(usize, &'static str)];

/// The shortest frame of each type.
#[rustfmt::skip]
fn shortest() -> Vec<(Vec<u8>, Fields)> {
    let setup = [0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0];
    let resume: Vec<u8> = [&[0, 1, 0, 0, 0, 0][..], &[0; 16]].concat();
    let two_fields: [u8; 8] = [0; 8];
    let n = [0, 0, 0, 1];
    vec![
        (frame(0, 0x0400, &setup), &[
            (6, "Major Version"), (8, "Minor Version"), (10, "Time Between KEEPALIVE Frames"),
            (14, "Max Lifetime"), (18, "Metadata MIME Length"), (19, "Data MIME Length"),
        ]),
        (frame(0, 0x0800, &two_fields), &[(6, "Time-To-Live"), (10, "Number of Requests")]),
        (frame(0, 0x0C00, &two_fields), &[(6, "Last Received Position")]),
        (frame(1, 0x1000, &[]), &[]),
        (frame(1, 0x1400, &[]), &[]),
        (frame(1, 0x1800, &n), &[(6, "Initial Request N")]),
        (frame(1, 0x1C00, &n), &[(6, "Initial Request N")]),
        (frame(1, 0x2000, &n), &[(6, "Request N")]),
        (frame(1, 0x2400, &[]), &[]),
        (frame(1, 0x2820, &[]), &[]),
        (frame(1, 0x2C00, &n), &[(6, "Error Code")]),
        (frame(0, 0x3100, &[]), &[]),
        (frame(0, 0x3400, &resume), &[
            (6, "Major Version"), (8, "Minor Version"), (10, "Resume Identification Token Length"),
            (12, "Last Received Server Position"), (20, "First Available Client Position"),
        ]),
        (frame(0, 0x3800, &two_fields), &[(6, "Last Received Client Position")]),
        (frame(1, 0xFC00, &n), &[(6, "Extended Type")]),
    ]
}

// [C013]
#[test]
fn a_frame_cut_short_names_the_field_that_is_missing() {
    for (bytes, fields) in shortest() {
        assert_eq!(Frame::decode(&bytes).unwrap().to_vec(), bytes);
        for cut in 0..bytes.len() {
            let (start, expected) = match fields.iter().rev().find(|(start, _)| *start <= cut) {
                Some(&(start, name)) => (start, name),
                None => (0, "Frame Header"),
            };
            let error = decode_error(&bytes[..cut]);
            let DecodeError::Truncated { field, need, left } = error else {
                panic!("{bytes:02x?} cut to {cut}: {error}");
            };
            assert_eq!(
                (field, left),
                (expected, cut - start),
                "{bytes:02x?} cut to {cut}"
            );
            assert!(left < need, "{error}");
        }
    }
}

// [C013]
#[test]
fn a_length_of_setup_that_lies_is_truncated() {
    let head = [0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    let cases: [(u16, &[u8], &str, usize, usize); 3] = [
        (
            0x0480,
            &[255, 255, 1, 2],
            "Resume Identification Token",
            65535,
            2,
        ),
        (0x0400, &[0x80, 1], "Metadata Encoding MIME Type", 128, 1),
        (0x0400, &[0, 0xFF], "Data Encoding MIME Type", 255, 0),
    ];
    for (word, tail, field, need, left) in cases {
        let bytes = frame(0, word, &[&head, tail].concat());
        assert_eq!(decode_error(&bytes), truncated(field, need, left));
    }
}

// [C034]
#[test]
fn metadata_longer_than_its_frame_is_refused() {
    for word in [0x1100, 0x1500, 0x2920] {
        let bytes = frame(1, word, &[0, 0, 3, b'a', b'b']);
        assert_eq!(decode_error(&bytes), metadata_length(3, 2));
    }
    let longest = frame(1, 0x1900, &[0, 0, 0, 1, 0xFF, 0xFF, 0xFF]);
    assert_eq!(decode_error(&longest), metadata_length(MAX_FRAME_LEN, 0));
    assert_eq!(
        decode_error(&frame(1, 0x2920, &[0, 0])),
        truncated("Metadata Length", 3, 2)
    );
}

// [C027] [C034]
#[test]
fn a_header_tells_whether_a_refused_frame_may_be_ignored() {
    for (word, ignorable) in [
        (0x1100_u16, false),
        (0x1300, true),
        (0xF400, false),
        (0xF600, true),
    ] {
        let bytes = frame(1, word, &[0xFF; 3]);
        decode_error(&bytes);
        assert_eq!(
            Header::decode(&bytes).unwrap().is_ignorable(),
            ignorable,
            "{word:#06x}"
        );
    }
}

// [C121] [C130] [C135]
#[test]
fn a_demand_of_nothing_or_of_more_than_31_bits_is_refused() {
    for (word, field) in [
        (0x1800, "Initial Request N"),
        (0x1C00, "Initial Request N"),
        (0x2000, "Request N"),
    ] {
        for raw in [0, 1 << 31, u32::MAX] {
            let bytes = frame(1, word, &raw.to_be_bytes());
            assert_eq!(decode_error(&bytes), out_of_range(field, raw.into()));
        }
        let most = frame(1, word, &0x7FFF_FFFF_u32.to_be_bytes());
        assert_eq!(Frame::decode(&most).unwrap().to_vec(), most);
    }
}

// [C064] [C065]
#[test]
fn a_setup_without_a_keepalive_or_a_lifetime_is_refused() {
    for raw in [0, 1 << 31, u32::MAX] {
        let setup = |keepalive: u32, lifetime: u32| {
            let times = [keepalive.to_be_bytes(), lifetime.to_be_bytes()].concat();
            frame(0, 0x0400, &[&[0, 1, 0, 0][..], &times, &[0, 0]].concat())
        };
        let keepalive = out_of_range("Time Between KEEPALIVE Frames", raw.into());
        assert_eq!(decode_error(&setup(raw, 1)), keepalive);
        let lifetime = out_of_range("Max Lifetime", raw.into());
        assert_eq!(decode_error(&setup(1, raw)), lifetime);
    }
}

// [C094]
#[test]
fn a_lease_of_nothing_is_a_lease_and_one_of_32_bits_is_not() {
    assert!(Frame::decode(&frame(0, 0x0800, &[0; 8])).is_ok());
    let ttl = frame(0, 0x0800, &[0x80, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(decode_error(&ttl), out_of_range("Time-To-Live", 1 << 31));
    let requests = frame(0, 0x0800, &[0, 0, 0, 1, 0x80, 0, 0, 0]);
    assert_eq!(
        decode_error(&requests),
        out_of_range("Number of Requests", 1 << 31)
    );
}

// [C106] [C268]
#[test]
fn a_position_of_64_bits_is_refused() {
    let (good, bad) = ([0; 8], [0x80, 0, 0, 0, 0, 0, 0, 0]);
    let version_and_no_token = [0, 1, 0, 0, 0, 0];
    for (bytes, field) in [
        (frame(0, 0x0C00, &bad), "Last Received Position"),
        (frame(0, 0x3800, &bad), "Last Received Client Position"),
        (
            frame(
                0,
                0x3400,
                &[&version_and_no_token[..], &bad, &good].concat(),
            ),
            "Last Received Server Position",
        ),
        (
            frame(
                0,
                0x3400,
                &[&version_and_no_token[..], &good, &bad].concat(),
            ),
            "First Available Client Position",
        ),
    ] {
        assert_eq!(decode_error(&bytes), out_of_range(field, 1 << 63));
    }
}

// [C060] [C090] [C100] [C136] [C141] [C156] [C160] [C162] [C270] [C337] [C338]
#[test]
fn a_frame_on_the_wrong_stream_is_told_apart_from_a_malformed_one() {
    for (mut bytes, _) in shortest() {
        let frame_type = Frame::decode(&bytes).unwrap().frame_type();
        let stream_id = u32::from(bytes[3] == 0);
        bytes[3] ^= 1;
        let decoded = Frame::decode(&bytes);
        if matches!(frame_type, FrameType::Error | FrameType::Ext) {
            assert_eq!(decoded.unwrap().to_vec(), bytes); // [C082] [C170]
        } else {
            assert_eq!(
                decoded,
                Err(DecodeError::WrongStream {
                    frame_type,
                    stream_id
                })
            );
        }
    }
}

// [C026]
#[test]
fn an_unassigned_type_is_unknown_whatever_follows() {
    for frame_type in (0..=0x3F_u8).filter(|&bits| FrameType::from_bits(bits).is_none()) {
        for body in [&[][..], &[0xFF; 40]] {
            let bytes = frame(1, u16::from(frame_type) << 10, body);
            assert_eq!(
                decode_error(&bytes),
                DecodeError::UnknownType { frame_type }
            );
        }
    }
}

// [C170]
#[test]
fn an_extension_of_type_0_or_of_32_bits_is_refused() {
    for raw in [0, 1 << 31, u32::MAX] {
        let bytes = frame(0, 0xFC00, &raw.to_be_bytes());
        assert_eq!(
            decode_error(&bytes),
            out_of_range("Extended Type", raw.into())
        );
    }
}
