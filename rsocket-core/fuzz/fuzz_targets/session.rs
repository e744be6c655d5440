//! Whatever the frames, the calls and the links, in whatever order: no rule and
//! no limit is broken, and nothing is left in the end.
//!
//! The bytes decide what happens; `testkit::Torment` says what has to hold.

#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use rsocket_core::testkit::{Random, Torment};

fuzz_target!(|bytes: &[u8]| {
    let mut torment = Torment::new(Random::of_bytes(bytes), Instant::now());
    if std::env::var_os("RSOCKET_FUZZ_LOG").is_some() {
        torment = torment.aloud();
    }
    torment.run(bytes.len());
    torment.end();
});
