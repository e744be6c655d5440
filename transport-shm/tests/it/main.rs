//! What this crate's links, connectors and listeners do, as the core sees it.
#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy takes for something else"
)]

mod common;
mod directory;
mod links;
mod loans;
mod meeting;
mod sockets;
mod urls;
