//! RSocket over memory that two processes of one host share.
//!
//! # Who writes what
//!
//! Each side of a connection owns one *region* of shared memory and is the only
//! one that writes to it; the peer maps it read-only. A region holds all that its
//! owner has to say: a header, the words that announce that it sleeps, how far
//! it has read the peer's ring, which of the peer's loans it is done with, its
//! own ring of frames, and its arena for long frames. So a hostile peer can
//! change nothing but its own half, and no word has two writers.
//!
//! # Where to read on
//!
//! `mem` is the only module that touches raw memory; `layout` says where what
//! lies in a region, and checks a peer's; `ring` carries frames and says when
//! the other side has to be rung; `arena` keeps the long ones.
//!
//! This crate is empty on systems other than Linux.

#![cfg(target_os = "linux")]
#![deny(unsafe_code)]

mod address;
mod arena;
mod bell;
mod connector;
mod layout;
mod link;
mod listener;
mod mem;
mod options;
mod region;
mod rendezvous;
mod ring;
mod rx;
mod spin;
mod tx;

use rsocket_core::transport::{Connector, Listener, TransportError, Transports};

pub use self::{
    address::ShmAddress,
    connector::ShmConnector,
    listener::ShmListener,
    options::{ShmOptions, Spin, Users},
};

/// Adds the scheme of this crate: `shm`.
///
/// # Examples
///
/// ```
/// use rsocket_core::transport::Transports;
///
/// let mut transports = Transports::new();
/// rsocket_transport_shm::register(&mut transports);
///
/// assert!(transports.connector("shm:/run/app.sock").is_ok());
/// assert!(transports.connector("shm:@app?ring=1M&spin=sleep").is_ok());
/// assert!(transports.connector("shm:").is_err(), "nowhere");
/// ```
pub fn register(transports: &mut Transports) {
    transports.register("shm", shm_connector, shm_listener);
}

fn shm_connector(url: &str) -> Result<Box<dyn Connector>, TransportError> {
    let (address, options) = address::from_url(url)?;
    Ok(Box::new(ShmConnector::new(address).options(options)))
}

async fn shm_listener(url: String) -> Result<Box<dyn Listener>, TransportError> {
    let (address, options) = address::from_url(&url)?;
    Ok(Box::new(ShmListener::bind_with(address, options).await?))
}

/// The parts below the transport, for benches. Not covered by any promise.
#[doc(hidden)]
pub mod raw {
    pub use crate::{
        layout::{CONTROL_LEN, Geometry, Header, LayoutError, check, format},
        mem::{
            Data, Mapped, MappedData, MappedPeer, MappedWords, Memory, Peer, Words, map_own,
            map_peer,
        },
        ring::{Bell, Consumer, Corrupt, Producer, Sent},
    };
}
