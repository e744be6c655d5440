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

mod arena;
mod layout;
mod mem;
mod ring;

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
