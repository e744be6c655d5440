//! What holds for all frames and for all bytes.
//!
//! Runs are the same each time; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` ask
//! for others and for more.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if let RngSeed::Random = config.rng_seed {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

/// What any frame can be made from.
#[derive(Clone, Debug)]
struct Ingredients {
    frame_type: FrameType,
    id: u32,
    fields: [u32; 2],
    positions: [u64; 2],
    flags: [bool; 3],
    blobs: [Vec<u8>; 3],
    metadata: Option<Vec<u8>>,
}

impl Ingredients {
    fn frame(&self) -> Frame<'_> {
        let stream_id = StreamId::new(self.id).unwrap();
        let [first, second] = self.fields;
        let positions = self.positions.map(|p| Position::new(p).unwrap());
        let [one, two, three] = self.flags;
        let [data, left, right] = self.blobs.each_ref().map(Vec::as_slice);
        let metadata = self.metadata.as_deref();
        let payload = PayloadRef { metadata, data };
        let request = |interaction: Interaction| {
            Frame::Request(Request {
                stream_id,
                interaction,
                initial_n: interaction
                    .has_initial_n()
                    .then(|| Demand::new(first).unwrap()),
                follows: one,
                complete: two && interaction == Interaction::RequestChannel,
                payload,
            })
        };
        match self.frame_type {
            FrameType::Setup => Frame::Setup(Setup {
                major: 1,
                minor: u16::try_from(second & 0xFFFF).unwrap(),
                keepalive: Millis31::new(first).unwrap(),
                max_lifetime: Millis31::new(second).unwrap(),
                resume_token: one.then_some(left),
                lease: two,
                metadata_mime: right,
                data_mime: left,
                payload,
            }),
            FrameType::Lease => Frame::Lease(Lease {
                ttl_ms: first,
                requests: second,
                metadata,
            }),
            FrameType::Keepalive => Frame::Keepalive(Keepalive {
                respond: one,
                last_received: positions[0],
                data,
            }),
            FrameType::RequestResponse => request(Interaction::RequestResponse),
            FrameType::RequestFnf => request(Interaction::FireAndForget),
            FrameType::RequestStream => request(Interaction::RequestStream),
            FrameType::RequestChannel => request(Interaction::RequestChannel),
            FrameType::RequestN => Frame::RequestN(RequestN {
                stream_id,
                n: Demand::new(first).unwrap(),
            }),
            FrameType::Cancel => Frame::Cancel(Cancel { stream_id }),
            FrameType::Payload => Frame::Payload(PayloadFrame {
                stream_id,
                follows: one && !two,
                complete: two,
                next: three,
                payload,
            }),
            FrameType::Error => Frame::Error(ErrorFrame {
                stream_id: one.then_some(stream_id),
                code: ErrorCode::new(first),
                message: data,
            }),
            FrameType::MetadataPush => Frame::MetadataPush(MetadataPush { metadata: data }),
            FrameType::Resume => Frame::Resume(Resume {
                major: 1,
                minor: 0,
                token: left,
                last_received_server: positions[0],
                first_available_client: positions[1],
            }),
            FrameType::ResumeOk => Frame::ResumeOk(ResumeOk {
                last_received_client: positions[1],
            }),
            FrameType::Ext => Frame::Ext(Ext {
                stream_id: if one { self.id } else { 0 },
                ignore: two,
                extended_type: first,
                metadata_flag: three,
                body: data,
            }),
        }
    }
}

fn ingredients() -> impl Strategy<Value = Ingredients> {
    let frame_type = any::<prop::sample::Index>().prop_map(|index| {
        let assigned: Vec<FrameType> = (0..=0x3F).filter_map(FrameType::from_bits).collect();
        *index.get(&assigned)
    });
    let u31 = || prop_oneof![Just(1), Just(0x7FFF_FFFF), 1..0x8000_0000_u32];
    let u63 = || prop_oneof![Just(0), Just(u64::MAX >> 1), 0..=u64::MAX >> 1];
    let blob = || prop::collection::vec(any::<u8>(), 0..40);
    (
        (frame_type, u31()),
        ([u31(), u31()], [u63(), u63()]),
        any::<[bool; 3]>(),
        ([blob(), blob(), blob()], prop::option::of(blob())),
    )
        .prop_map(
            |((frame_type, id), (fields, positions), flags, (blobs, metadata))| Ingredients {
                frame_type,
                id,
                fields,
                positions,
                flags,
                blobs,
                metadata,
            },
        )
}

/// Whether a frame that decodes has nothing in it that decoding passes over.
fn is_canonical(bytes: &[u8]) -> bool {
    let header = Header::decode(bytes).unwrap();
    let flags = header.flags.bits();
    let frame_type = FrameType::from_bits(header.frame_type).unwrap();
    let defined = match frame_type {
        FrameType::Setup | FrameType::RequestChannel => 0x1C0,
        FrameType::Lease | FrameType::MetadataPush => 0x100,
        FrameType::Keepalive => 0x080,
        FrameType::RequestResponse | FrameType::RequestFnf | FrameType::RequestStream => 0x180,
        FrameType::Payload => 0x1E0,
        FrameType::Ext => 0x300,
        FrameType::RequestN
        | FrameType::Cancel
        | FrameType::Error
        | FrameType::Resume
        | FrameType::ResumeOk => 0,
    };
    let whole = match frame_type {
        FrameType::RequestN => bytes.len() == 10,
        FrameType::Cancel => bytes.len() == 6,
        FrameType::ResumeOk => bytes.len() == 14,
        FrameType::Resume => {
            bytes.len() == 28 + usize::from(u16::from_be_bytes([bytes[10], bytes[11]]))
        }
        FrameType::Lease => flags & 0x100 != 0 || bytes.len() == 14,
        FrameType::MetadataPush => flags & 0x100 != 0,
        FrameType::Payload => flags & 0xC0 != 0xC0,
        _ => true,
    };
    bytes[0] >> 7 == 0 && flags & !defined == 0 && whole
}

/// Decodes anything, and checks what must hold if that succeeds.
fn decode_checked(bytes: &[u8]) {
    let Ok(frame) = Frame::decode(bytes) else {
        return;
    };
    let again = frame.to_vec();
    assert_eq!(Frame::decode(&again), Ok(frame), "from {bytes:02x?}");
    assert!(is_canonical(&again), "{again:02x?}");
    if is_canonical(bytes) {
        assert_eq!(again, bytes);
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_frame_comes_back_as_it_was_sent(ingredients in ingredients()) {
        let frame = ingredients.frame();
        let bytes = frame.to_vec();
        prop_assert_eq!(bytes.len(), frame.encoded_len());
        prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
        prop_assert_eq!(frame.frame_type(), ingredients.frame_type);
        prop_assert!(is_canonical(&bytes));
    }

    // [C013] [C034]
    #[test]
    fn no_cut_of_a_frame_is_a_panic(ingredients in ingredients()) {
        let bytes = ingredients.frame().to_vec();
        for cut in 0..bytes.len() {
            decode_checked(&bytes[..cut]);
        }
    }

    #[test]
    fn no_flipped_bit_of_a_frame_is_a_panic(ingredients in ingredients()) {
        let mut bytes = ingredients.frame().to_vec();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            decode_checked(&bytes);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        decode_checked(&bytes);
    }

    // As above, but past the checks of stream and type.
    #[test]
    fn no_body_is_a_panic(
        frame_type in 0..=0x3F_u16,
        flags in 0..0x400_u16,
        id in 0..2_u8,
        body in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..64),
    ) {
        let word = frame_type << 10 | flags;
        decode_checked(&[&[0, 0, 0, id], &word.to_be_bytes()[..], &body].concat());
    }
}
