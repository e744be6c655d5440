//! How long the codec takes, next to a codec written by hand for one frame.
//!
//! Ours and the baseline run in turn (A B A B ...), so that a change of the
//! machine's speed meets both. The table shows the median time of each and the
//! median of the ratios of neighbouring runs: the ratio is the result, the
//! times are only true of this machine.
//!
//! Run: `cargo bench -p rsocket-core --bench codec`.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::time::Instant;

use rsocket_core::frame::{
    Demand, Frame, Head, Interaction, PayloadFrame, PayloadRef, Request, RequestN, StreamId,
};

/// Short, so that most runs end before the scheduler takes the core away.
const FRAMES_A_RUN: u32 = 10_000;
const RUNS: usize = 1001;
/// They warm caches and the clock of the core, and do not count.
const WARM_UP_RUNS: usize = 100;
const DATA: [u8; 32] = [7; 32];
const METADATA: [u8; 16] = [9; 16];

fn main() {
    println!("codec: {RUNS} runs of {FRAMES_A_RUN} frames, medians, ns a frame");
    println!(
        "{:<44}{:>8}{:>10}{:>8}{:>8}",
        "32 bytes of data", "ours", "by hand", "ratio", "goal"
    );
    encode();
    decode();
}

fn encode() {
    let request = request(None);
    let frame = Frame::Request(request);
    let with_metadata = Frame::Request(self::request(Some(&METADATA)));
    let answer = Frame::Payload(answer(None));
    let more = Frame::RequestN(RequestN {
        stream_id: id(),
        n: Demand::ONE,
    });
    let mut ours = [0; 64];
    let mut theirs = [0; 64];

    compare(
        "encode REQUEST_RESPONSE",
        Some(2.0),
        || {
            black_box(&frame).encode(black_box(&mut ours[..38]));
        },
        || by_hand::encode(black_box(0x1000), black_box(&request), &mut theirs),
    );
    compare(
        "encode REQUEST_RESPONSE, length asked first",
        None,
        || encode_frame(&frame, &mut ours),
        || by_hand::encode(black_box(0x1000), black_box(&request), &mut theirs),
    );
    compare(
        "encode REQUEST_RESPONSE, head and parts",
        Some(2.0),
        || encode_parts(black_box(&request), &mut ours),
        || by_hand::encode(black_box(0x1000), black_box(&request), &mut theirs),
    );
    compare(
        "encode REQUEST_RESPONSE with metadata",
        None,
        || encode_frame(&with_metadata, &mut ours),
        || {
            let Frame::Request(request) = black_box(&with_metadata) else {
                return;
            };
            by_hand::encode(black_box(0x1100), request, &mut theirs);
        },
    );
    compare(
        "encode PAYLOAD with next and complete",
        None,
        || encode_frame(&answer, &mut ours),
        || by_hand::encode(black_box(0x2860), black_box(&request), &mut theirs),
    );
    compare(
        "encode REQUEST_N",
        None,
        || {
            black_box(&more).encode(black_box(&mut ours[..10]));
        },
        || by_hand::encode_request_n(black_box(1), black_box(1), &mut theirs),
    );
}

fn decode() {
    let request_bytes = Frame::Request(request(None)).to_vec();
    let with_metadata = Frame::Request(request(Some(&METADATA))).to_vec();
    let answer_bytes = Frame::Payload(answer(None)).to_vec();
    for (what, goal, bytes) in [
        ("decode REQUEST_RESPONSE", Some(1.5), &request_bytes),
        (
            "decode REQUEST_RESPONSE with metadata",
            None,
            &with_metadata,
        ),
        (
            "decode PAYLOAD with next and complete",
            Some(1.5),
            &answer_bytes,
        ),
    ] {
        compare(
            what,
            goal,
            || decode_frame(black_box(bytes)),
            || by_hand::decode(black_box(bytes)),
        );
    }
}

/// Writes a frame of any type, unknown to the compiler.
fn encode_frame(frame: &Frame<'_>, out: &mut [u8; 64]) {
    let frame = black_box(frame);
    let len = frame.encoded_len();
    if let Some(out) = out.get_mut(..len) {
        frame.encode(out);
    }
    black_box(out);
}

/// Writes a frame as a transport does that has a head and borrowed parts.
fn encode_parts(request: &Request<'_>, out: &mut [u8; 64]) {
    let payload = request.payload;
    let head = Head::request(
        request.stream_id,
        Interaction::RequestResponse,
        None,
        request.follows,
        false,
        payload.metadata.map(<[u8]>::len),
    );
    let (front, rest) = out.split_at_mut(head.as_slice().len());
    front.copy_from_slice(head.as_slice());
    let mut rest = rest;
    if let Some(metadata) = payload.metadata {
        let front;
        (front, rest) = rest.split_at_mut(metadata.len());
        front.copy_from_slice(metadata);
    }
    let (data, _) = rest.split_at_mut(payload.data.len());
    data.copy_from_slice(payload.data);
    black_box(out);
}

/// Reads a frame of any type and hands on what the session needs of it.
fn decode_frame(bytes: &[u8]) {
    match Frame::decode(bytes) {
        Ok(Frame::Request(request)) => {
            black_box(request.stream_id.get());
            black_box(request.follows);
            black_box(request.payload);
        }
        Ok(Frame::Payload(payload)) => {
            black_box(payload.stream_id.get());
            black_box(payload.follows);
            black_box(payload.payload);
        }
        other => {
            black_box(other.is_ok());
        }
    }
}

/// The least that does the same for one kind of frame: what is in place is
/// taken as it comes, and a short frame is all that is noticed.
mod by_hand {
    use super::*;

    #[inline]
    pub(super) fn encode(word: u16, request: &Request<'_>, out: &mut [u8; 64]) {
        let (header, mut rest) = out.split_at_mut(6);
        let (id, flags) = header.split_at_mut(4);
        id.copy_from_slice(&request.stream_id.get().to_be_bytes());
        flags.copy_from_slice(&word.to_be_bytes());
        if let Some(metadata) = request.payload.metadata {
            let (length, place) = rest.split_at_mut(3);
            let [_, _, _, _, _, bytes @ ..] = (metadata.len() as u64).to_be_bytes();
            length.copy_from_slice(&bytes);
            let front;
            (front, rest) = place.split_at_mut(metadata.len());
            front.copy_from_slice(metadata);
        }
        let (data, _) = rest.split_at_mut(request.payload.data.len());
        data.copy_from_slice(request.payload.data);
        black_box(out);
    }

    #[inline]
    pub(super) fn encode_request_n(stream_id: u32, n: u32, out: &mut [u8; 64]) {
        let (id, rest) = out.split_at_mut(4);
        let (flags, rest) = rest.split_at_mut(2);
        id.copy_from_slice(&stream_id.to_be_bytes());
        flags.copy_from_slice(&0x2000_u16.to_be_bytes());
        rest.split_at_mut(4).0.copy_from_slice(&n.to_be_bytes());
        black_box(out);
    }

    #[inline]
    pub(super) fn decode(bytes: &[u8]) {
        let Some((&[a, b, c, d, e, f], body)) = bytes.split_first_chunk::<6>() else {
            return;
        };
        let stream_id = u32::from_be_bytes([a, b, c, d]);
        let (frame_type, flags) = (e >> 2, u16::from_be_bytes([e, f]));
        if frame_type != 0x04 && frame_type != 0x0A {
            return;
        }
        let mut payload = PayloadRef {
            metadata: None,
            data: body,
        };
        if flags & 0x100 != 0 {
            let Some((&[a, b, c], rest)) = body.split_first_chunk::<3>() else {
                return;
            };
            let len = u32::from_be_bytes([0, a, b, c]) as usize;
            let Some((metadata, data)) = rest.split_at_checked(len) else {
                return;
            };
            payload = PayloadRef {
                metadata: Some(metadata),
                data,
            };
        }
        black_box(stream_id);
        black_box(flags & 0x80 != 0);
        black_box(payload);
    }
}

fn compare(what: &str, goal: Option<f64>, mut ours: impl FnMut(), mut theirs: impl FnMut()) {
    let mut times: [Vec<f64>; 3] = Default::default();
    for run in 0..WARM_UP_RUNS + RUNS {
        let (a, b) = (nanos_a_frame(&mut ours), nanos_a_frame(&mut theirs));
        if run >= WARM_UP_RUNS {
            for (times, value) in times.iter_mut().zip([a, b, a / b]) {
                times.push(value);
            }
        }
    }
    let [ours, theirs, ratio] = times.map(median);
    let goal = goal.map_or_else(String::new, |goal| format!("<= {goal}"));
    println!("{what:<44}{ours:>8.2}{theirs:>10.2}{ratio:>8.2}{goal:>8}");
}

#[inline(never)]
fn nanos_a_frame(act: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..FRAMES_A_RUN {
        act();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(FRAMES_A_RUN)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn id() -> StreamId {
    StreamId::new(1).expect("1 is a stream id")
}

fn request(metadata: Option<&[u8]>) -> Request<'_> {
    Request {
        stream_id: id(),
        interaction: Interaction::RequestResponse,
        initial_n: None,
        follows: false,
        complete: false,
        payload: PayloadRef {
            metadata,
            data: &DATA,
        },
    }
}

fn answer(metadata: Option<&[u8]>) -> PayloadFrame<'_> {
    PayloadFrame {
        stream_id: id(),
        follows: false,
        complete: true,
        next: true,
        payload: PayloadRef {
            metadata,
            data: &DATA,
        },
    }
}
