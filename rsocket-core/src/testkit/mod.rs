//! What the tests of this crate and of transports share. Not for production.
//!
//! - [`transport_conformance!`](crate::transport_conformance): what every
//!   transport has to do, frame by frame. A transport is done when it passes.

#[cfg(feature = "tokio")]
pub mod conformance;
mod random;

pub use self::random::{Random, seeds};
