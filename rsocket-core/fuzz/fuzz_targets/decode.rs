//! Any bytes either are a frame or are refused, and a frame survives being
//! encoded and decoded again.
//!
//! Run in `rsocket-core`: `cargo +nightly fuzz run decode`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rsocket_core::frame::{Frame, Header};

fuzz_target!(|bytes: &[u8]| {
    let header = Header::decode(bytes);
    let Ok(frame) = Frame::decode(bytes) else {
        return;
    };
    let header = header.expect("a frame has a header");
    assert_eq!(frame.frame_type() as u8, header.frame_type);
    assert_eq!(frame.stream_id().map_or(0, |id| id.get()), header.stream_id);

    let again = frame.to_vec();
    assert_eq!(again.len(), frame.encoded_len());
    assert!(again.len() <= bytes.len(), "encoding adds nothing");
    assert_eq!(Frame::decode(&again), Ok(frame));
});
