//! Counts the allocations of a request within one process; started by `bench`.

#![forbid(unsafe_code)]

use std::alloc::System;

use anyhow::{Context as _, Result};
use rsocket_bench::memory;
use rsocket_bench::plan::{Figures, Metric};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() -> Result<()> {
    let order = std::env::args()
        .nth(1)
        .context("started by `bench`, not by hand")?;
    let work = serde_json::from_str(&order)?;
    let (before, after, requests) = memory::between(work, || Ok(ALLOCATOR.stats()))?;
    let grown = after - before;
    let allocations = grown.allocations + grown.reallocations;
    let figures = Figures::from([(Metric::Allocs, allocations as f64 / requests as f64)]);
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}
