//! Where sessions lie, so that they outlive the process that had them.
//!
//! - [`ResumeStore`] is what a store is: rows of bytes under the token of a
//!   session, changed a [`Batch`] at a time.
//! - [`MemoryStore`] lasts as long as its process.
//!
//! A store knows nothing of the protocol: what rows mean is up to who writes
//! them.

mod memory;
mod store;

pub use self::{
    memory::MemoryStore,
    store::{Batch, Key, Op, ResumeStore, StoreError},
};
