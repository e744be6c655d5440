//! Links between processes: that die, stop, lie, or share one processor.
//!
//! Each test starts this very program once more, in a role; see `role`.
//! `RSOCKET_TEST_SLOW` in the environment makes them take minutes, and
//! `RSOCKET_TEST_SECONDS` says how long a peer lies.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may fail"
)]

#[path = "../it/common.rs"]
mod common;

mod crash;
mod liar;
mod machine;
mod role;

/// What is counted for the whole process is counted by one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Whether there is time.
fn is_slow() -> bool {
    std::env::var_os("RSOCKET_TEST_SLOW").is_some()
}
