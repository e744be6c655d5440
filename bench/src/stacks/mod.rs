//! What ours is compared with.

#[cfg(feature = "peers")]
pub mod rsocket_rust;
pub mod tcp;
#[cfg(feature = "peers")]
pub mod tonic;
