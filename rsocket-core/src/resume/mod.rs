//! How sessions outlive their links, and the process that had them.
//!
//! - [`Resume`] says how long, and in what memory: a client and a server each
//!   have one.
//! - [`ResumeStore`] is what a store is: rows of bytes under the token of a
//!   session, changed a [`Batch`] at a time.
//! - [`MemoryStore`] lasts as long as its process.
#![cfg_attr(
    feature = "disk-store",
    doc = "- [`DiskStore`] lasts as long as the directory that it lies in."
)]
//!
//! A store knows nothing of the protocol: what rows mean is up to who writes
//! them.

#[cfg(feature = "disk-store")]
mod disk;
mod memory;
mod options;
mod store;

#[cfg(feature = "disk-store")]
pub use self::disk::{DiskStore, Durability};
#[cfg(feature = "tokio")]
pub(crate) use self::options::random_token;
pub use self::{
    memory::MemoryStore,
    options::Resume,
    store::{Batch, Key, Op, ResumeStore, StoreError},
};
