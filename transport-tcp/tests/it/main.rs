//! What this crate's links, connectors and listeners do, as the core sees it.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests, which clippy takes for something else"
)]

#[cfg(feature = "tls")]
mod authority;
mod framing;
mod reconnect;
mod sweep;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
#[cfg(unix)]
mod unix;
mod urls;
