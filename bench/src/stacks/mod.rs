//! What ours is compared with.

pub mod eventfd;
#[cfg(feature = "peers")]
pub mod iceoryx;
pub mod ring;
#[cfg(feature = "peers")]
pub mod rsocket_rust;
pub mod tcp;
#[cfg(feature = "peers")]
pub mod tonic;
