//! What this crate's links, connectors and listeners do, as the core and as other
//! implementations see it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "helpers of tests, which clippy takes for something else"
)]

#[cfg(feature = "tls")]
#[path = "../../../transport-tcp/tests/it/authority.rs"]
mod authority;
mod closing;
mod common;
mod half_open;
mod handshake;
mod messages;
#[cfg(feature = "axum")]
mod mount;
mod pings;
mod stall;
#[cfg(feature = "tls")]
mod tls;
mod urls;
