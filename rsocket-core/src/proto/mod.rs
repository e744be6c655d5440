//! The protocol as a value: no I/O, no clock, no task, no lock.
//!
//! A [`Session`] is one side of a connection. Frames, the application's wishes
//! and the time go in; frames, events and a deadline come out:
//!
//! | form | meaning |
//! |---|---|
//! | `handle_*(now, ..)` | something happened outside |
//! | a verb (`open`, `send`, `cancel`, ...) | the application wants something |
//! | [`transmit`](Session::transmit), [`poll_event`](Session::poll_event), [`poll_wake`](Session::poll_wake), [`poll_timeout`](Session::poll_timeout) | take what is to be done |
//!
//! **Drain rule.** After any `handle_*` or verb call `transmit` until it is
//! idle or the link is full, `poll_event` and `poll_wake` until `None`, and arm
//! one timer for `poll_timeout`.
//!
//! Everything that one side can make the other hold has a bound: payloads by
//! the credit granted and by [`Limits::max_buffered_len`], streams by
//! [`Limits::max_streams`], what the protocol itself owes by
//! [`Limits::max_owed_len`] (see [`wants_input`](Session::wants_input)).
//!
//! The async shell of this crate is one user of this module; a shell for
//! another runtime would be another.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod config;
mod fragment;
mod keepalive;
mod lease;
mod resume;
mod session;
mod setup;
mod stats;
mod streams;

#[cfg(any(test, feature = "testkit"))]
pub use self::stats::Books;
pub use self::{
    config::{Config, Limits},
    keepalive::{Action, Keepalive},
    lease::{Latency, LeaseConfig, LeaseGrant, LeaseStatus, Load},
    resume::{Damaged, ResumeOptions, ResumeRequest},
    session::{Event, Progress, RestoredSession, Session},
    setup::{Setup, SetupOptions, Side},
    stats::Stats,
    streams::{
        Batch, Capacity, Credit, DemandPolicy, NoCredit, Open, Overrun, Prefetch, RestoredStream,
        Role, State, StreamEvent, StreamIds, StreamKey, Take, Wake,
    },
};
