//! What the tests of this crate and of transports share. Not for production.
//!
//! - [`transport_conformance!`](crate::transport_conformance): what every
//!   transport has to do, frame by frame. A transport is done when it passes.
//! - [`transport_contract!`](crate::transport_contract): what users get over a
//!   transport, conversation by conversation.
//! - [`halves`]: links, frame by frame, for what else a transport does.
//! - [`Chaos`]: links that hesitate and break, from a seed.
//! - [`Peer`]: one session of the protocol, spoken to frame by frame.
//! - [`Torment`]: one session, given any frames and any calls.
//! - [`live_through`], [`live_through_cuts`]: a whole connection's life in virtual
//!   time, from a seed; the latter over links that break.

mod chaos;
#[cfg(feature = "tokio")]
pub mod conformance;
#[cfg(feature = "tokio")]
pub mod contract;
#[cfg(feature = "tokio")]
pub mod halves;
mod link;
mod notation;
mod peer;
mod random;
mod referee;
mod torment;
mod world;

pub use self::{
    chaos::{Chaos, ChaosConnector, ChaosListener},
    link::{Arrival, LinkFaults, Wire},
    notation::{frame, text},
    peer::{Peer, id, request},
    random::{Random, seeds},
    referee::Referee,
    torment::Torment,
    world::{Outcome, live_through, live_through_cuts},
};
