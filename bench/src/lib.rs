//! Measures the library against the limits of the machine and against its peers.
//!
//! A number without its baseline is not a result: every figure that decides a
//! goal is a ratio between windows measured in turn, seconds apart, on the same
//! two cores. Read in this order:
//!
//! - [`plan`]: what is measured for which goal, and what each row must reach;
//! - [`run`]: the parent, which starts a server and a client for each window;
//! - [`child`]: what these two do, and [`load`]: how the client counts;
//! - [`stacks`]: what the machine can do at most, and the peers; `ours`: the library;
//! - [`memory`]: both sides in one thread, without a kernel between them;
//! - [`report`] and [`plot`]: tables, JSON and charts;
//! - [`machine`]: cores, clocks, memory, and the name of the machine.

#![deny(unsafe_code)]

pub mod child;
pub mod load;
pub mod machine;
pub mod memory;
#[cfg(feature = "ours")]
pub mod ours;
pub mod plan;
pub mod plot;
pub mod report;
pub mod run;
pub mod stacks;
