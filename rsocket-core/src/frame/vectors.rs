//! The bytes of each frame, computed by hand from the layouts of the spec.

use super::*;

/// What, bytes in hex, and the frame that they are.
type Vector = (&'static str, &'static str, Frame<'static>);

fn stream(id: u32) -> StreamId {
    StreamId::new(id).unwrap()
}

fn demand(n: u32) -> Option<Demand> {
    Some(Demand::new(n).unwrap())
}

fn position(bytes: u64) -> Position {
    Position::new(bytes).unwrap()
}

fn payload(metadata: Option<&'static str>, data: &'static str) -> PayloadRef<'static> {
    PayloadRef {
        metadata: metadata.map(str::as_bytes),
        data: data.as_bytes(),
    }
}

fn request(
    id: u32,
    interaction: Interaction,
    initial_n: Option<Demand>,
    payload: PayloadRef<'static>,
) -> Request<'static> {
    Request {
        stream_id: stream(id),
        interaction,
        initial_n,
        follows: false,
        complete: false,
        payload,
    }
}

fn next(id: u32, payload: PayloadRef<'static>) -> PayloadFrame<'static> {
    PayloadFrame {
        stream_id: stream(id),
        follows: false,
        complete: false,
        next: true,
        payload,
    }
}

fn connection_frames() -> Vec<Vector> {
    let setup = Setup {
        major: 1,
        minor: 0,
        keepalive: Millis31::new(500).unwrap(),
        max_lifetime: Millis31::new(60_000).unwrap(),
        resume_token: None,
        lease: false,
        metadata_mime: b"text/plain",
        data_mime: b"text/plain",
        payload: payload(None, ""),
    };
    let full_setup = Setup {
        resume_token: Some(b"tok"),
        lease: true,
        metadata_mime: b"a/b",
        data_mime: b"c/d",
        payload: payload(Some("m"), "d"),
        ..setup
    };
    let lease = Lease {
        ttl_ms: 1000,
        requests: 10,
        metadata: None,
    };
    let ping = Keepalive {
        respond: true,
        last_received: Position::ZERO,
        data: b"",
    };
    let pong = Keepalive {
        respond: false,
        last_received: position(4096),
        data: b"hi",
    };
    let resume = Resume {
        major: 1,
        minor: 0,
        token: b"tok",
        last_received_server: position(31),
        first_available_client: position(15),
    };
    let resume_ok = ResumeOk {
        last_received_client: position(46),
    };
    let rejected = ErrorFrame {
        stream_id: None,
        code: ErrorCode::REJECTED_RESUME,
        message: b"no",
    };
    #[rustfmt::skip]
    let vectors = vec![
        ("SETUP [C061]", "00000000040000010000000001f40000ea600a746578742f706c61696e0a746578742f706c61696e", Frame::Setup(setup)),
        ("SETUP with everything [C062]", "0000000005c000010000000001f40000ea600003746f6b03612f6203632f640000016d64", Frame::Setup(full_setup)),
        ("LEASE [C092]", "000000000800000003e80000000a", Frame::Lease(lease)),
        ("LEASE with metadata [C096]", "000000000900000003e80000000a78", Frame::Lease(Lease { metadata: Some(b"x"), ..lease })),
        ("KEEPALIVE [C101]", "000000000c800000000000000000", Frame::Keepalive(ping)),
        ("KEEPALIVE, the answer [C103]", "000000000c0000000000000010006869", Frame::Keepalive(pong)),
        ("ERROR of the connection [C082]", "000000002c00000000046e6f", Frame::Error(rejected)),
        ("METADATA_PUSH [C161]", "0000000031006d657461", Frame::MetadataPush(MetadataPush { metadata: b"meta" })),
        ("RESUME [C271]", "000000003400000100000003746f6b000000000000001f000000000000000f", Frame::Resume(resume)),
        ("RESUME_OK [C272]", "000000003800000000000000002e", Frame::ResumeOk(resume_ok)),
    ];
    vectors
}

fn stream_frames() -> Vec<Vector> {
    use Interaction::*;
    let ping = request(1, RequestResponse, None, payload(None, "ping"));
    let forget = request(3, FireAndForget, None, payload(Some("m"), ""));
    let ticks = request(5, RequestStream, demand(16), payload(Some("m"), "d"));
    let channel = Request {
        complete: true,
        ..request(7, RequestChannel, demand(0x7FFF_FFFF), payload(None, "d"))
    };
    let more = RequestN {
        stream_id: stream(5),
        n: Demand::new(8).unwrap(),
    };
    let item = next(5, payload(None, "x"));
    let pong = PayloadFrame {
        complete: true,
        ..next(1, payload(None, "pong"))
    };
    let end = PayloadFrame {
        complete: true,
        next: false,
        ..next(5, payload(None, ""))
    };
    let fragment = PayloadFrame {
        follows: true,
        ..next(5, payload(Some("ab"), ""))
    };
    let empty_metadata = next(5, payload(Some(""), "x"));
    let boom = ErrorFrame {
        stream_id: Some(stream(5)),
        code: ErrorCode::APPLICATION_ERROR,
        message: b"boom",
    };
    let ext = Ext {
        stream_id: 5,
        ignore: true,
        extended_type: 1,
        metadata_flag: false,
        body: b"z",
    };
    #[rustfmt::skip]
    let vectors = vec![
        ("REQUEST_RESPONSE [C120]", "00000001100070696e67", Frame::Request(ping)),
        ("REQUEST_FNF [C032]", "0000000315000000016d", Frame::Request(forget)),
        ("REQUEST_STREAM [C121]", "000000051900000000100000016d64", Frame::Request(ticks)),
        ("REQUEST_CHANNEL that completes [C124]", "000000071c407fffffff64", Frame::Request(channel)),
        ("REQUEST_N [C130]", "00000005200000000008", Frame::RequestN(more)),
        ("CANCEL [C140]", "000000052400", Frame::Cancel(Cancel { stream_id: stream(5) })),
        ("PAYLOAD, one item [C150]", "00000005282078", Frame::Payload(item)),
        ("PAYLOAD, the last item [C150]", "000000012860706f6e67", Frame::Payload(pong)),
        ("PAYLOAD, completion only [C150]", "000000052840", Frame::Payload(end)),
        ("PAYLOAD, a fragment [C213]", "0000000529a00000026162", Frame::Payload(fragment)),
        ("PAYLOAD with empty metadata [C035]", "00000005292000000078", Frame::Payload(empty_metadata)),
        ("ERROR of a stream [C080]", "000000052c0000000201626f6f6d", Frame::Error(boom)),
        ("EXT [C170]", "00000005fe00000000017a", Frame::Ext(ext)),
    ];
    vectors
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap())
        .collect()
}

// [C001] [C020] [C021] [C030] [C031]
#[test]
fn each_frame_has_the_bytes_of_the_spec() {
    for (what, hex, frame) in connection_frames().into_iter().chain(stream_frames()) {
        let bytes = from_hex(hex);
        assert_eq!(frame.to_vec(), bytes, "{what}");
        assert_eq!(frame.encoded_len(), bytes.len(), "{what}");
        assert_eq!(Frame::decode(&bytes), Ok(frame), "{what}");
    }
}

#[test]
fn a_frame_knows_its_type_and_stream() {
    for (what, hex, frame) in connection_frames().into_iter().chain(stream_frames()) {
        let header = Header::decode(&from_hex(hex)).unwrap();
        assert_eq!(frame.frame_type() as u8, header.frame_type, "{what}");
        assert_eq!(
            frame.stream_id().map_or(0, StreamId::get),
            header.stream_id,
            "{what}"
        );
        assert!(what.starts_with(&frame.frame_type().to_string()), "{what}");
    }
}

// [C261] [C263] [C264]
#[test]
fn positions_add_up_the_lengths_of_frames() {
    let mut position = Position::ZERO;
    let mut seen = Vec::new();
    for (what, hex, frame) in stream_frames() {
        if ["REQUEST_STREAM", "REQUEST_N", "CANCEL"].contains(&what.split(' ').next().unwrap()) {
            position = position.advance(frame.encoded_len());
            assert_eq!(frame.encoded_len(), hex.len() / 2);
            seen.push(position.get());
        }
    }
    assert_eq!(seen, [15, 25, 31]);
}
