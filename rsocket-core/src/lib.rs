//! RSocket 1.0 for async Rust: requests and streams in both directions, with
//! backpressure, over any transport.
//!
//! # Tour
//!
//! - [`connect`] and [`Client`] make a [`Requester`]; [`serve`] and [`Server`]
//!   accept connections. Both sides may request and both may respond.
//! - [`Client::reconnecting`] makes a [`Reconnecting`], which connects again by
//!   itself: see [`reconnect`].
//! - [`Requester`] sends requests: [`fire_and_forget`](Requester::fire_and_forget),
//!   [`request_response`](Requester::request_response),
//!   [`request_stream`](Requester::request_stream),
//!   [`request_channel`](Requester::request_channel).
//! - [`Responder`] answers them; [`Handlers`] is one made of closures.
//! - [`Payload`] is what travels: data and optional metadata. [`PayloadStream`]
//!   and [`PayloadSink`] carry many; [`PayloadBuf`] is where its data can be
//!   written so that it is not copied.
//! - [`Error`], [`Failure`] and [`CloseReason`] say what went wrong, by what can
//!   be done about it.
//! - [`Backoff`] says how long to wait before trying again.
//! - [`transport`] is what a transport is. The transports themselves are crates
//!   of their own (`rsocket-transport-tcp`, ...), except the in-process
//!   [`memory`](transport::memory).
//! - [`resume`] is where sessions lie that outlive their process.
//! - [`proto`] is the protocol without I/O, for other runtimes and for tests;
//!   [`frame`] is the wire.
//!
//! # Rules that hold everywhere
//!
//! Dropping cancels: a response future, a stream, a handler whose requester
//! cancelled. Nothing is unbounded: payloads wait within the credit that their
//! receiver granted, and what else a peer can make this side hold has a limit
//! with a name, in [`proto::Limits`].
//!
//! # Features
//!
//! - `tokio` (default): the async API. Without it, `frame`, `proto` and
//!   `transport` remain.
//! - `disk-store`: `resume::DiskStore`, sessions that outlive their process.
//! - `testkit`: the conformance suite for transports, and what tests share.
#![cfg_attr(
    feature = "tokio",
    doc = "
# Example

```
use futures_util::{StreamExt as _, stream};
use rsocket_core::{Handlers, Payload, connect, serve};
use rsocket_core::transport::memory::{MemoryConnector, MemoryListener};

# #[tokio::main(flavor = \"current_thread\")]
# async fn main() -> Result<(), Box<dyn std::error::Error>> {
let listener = MemoryListener::bind(\"ticker\")?;
tokio::spawn(serve(listener, |_setup, _client| async {
    Ok(Handlers::new().on_request_stream(|_request| {
        stream::iter(0..3).map(|n| Ok(Payload::new(format!(\"tick {n}\"))))
    }))
}));

let peer = connect(MemoryConnector::new(\"ticker\")).await?;
let mut ticks = peer.request_stream(\"all\");
while let Some(tick) = ticks.next().await {
    println!(\"{:?}\", tick?.data_utf8());
}
# Ok(()) }
```
"
)]
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the list is for proto alone, which denies them"
)]

pub mod backoff;
pub mod error;
pub mod frame;
mod lease;
mod payload;
mod pool;
pub mod proto;
pub mod resume;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod transport;

#[cfg(feature = "tokio")]
mod client;
#[cfg(feature = "tokio")]
mod driver;
#[cfg(feature = "tokio")]
mod payload_buf;
#[cfg(feature = "tokio")]
mod payload_stream;
#[cfg(feature = "tokio")]
pub mod reconnect;
#[cfg(feature = "tokio")]
mod requester;
#[cfg(feature = "tokio")]
mod responder;
#[cfg(feature = "tokio")]
mod restored;
#[cfg(feature = "tokio")]
mod server;

pub use self::{
    backoff::Backoff,
    error::{CloseReason, Error, Failure, Misbehavior},
    frame::Demand,
    lease::{Adaptive, FixedRate, LeaseOptions, LeasePolicy},
    payload::Payload,
    proto::{DemandPolicy, Latency, LeaseGrant, LeaseStatus, Load},
};
#[cfg(feature = "tokio")]
pub use self::{
    client::{Client, connect},
    payload_buf::PayloadBuf,
    payload_stream::{PayloadSink, PayloadStream},
    reconnect::{ConnectionState, Reconnect, Reconnecting, WhenDown},
    requester::{FireAndForget, OptionalResponse, Requester, Response},
    responder::{Handlers, Responder},
    restored::{RestoreError, Restored, RestoredStream},
    server::{Server, Setup, serve},
};
