//! What a request allocates once tables and queues have grown: nothing.
//!
//! A process of its own, since the allocator counts for all threads.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "tests may fail, and need no docs"
)]

mod common;

use std::alloc::System;

use rsocket_core::{Failure, Payload, Requester, Responder};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Clone)]
struct Echo;

impl Responder for Echo {
    async fn request_response(&self, request: Payload) -> Result<Payload, Failure> {
        Ok(request)
    }
}

const REQUESTS: usize = 2_000;

async fn one_by_one(peer: &Requester) {
    for _ in 0..REQUESTS {
        let request = Payload::copy_from_slice(&[7; 32]).with_metadata("route");
        let answer = peer.request_response(request).await.unwrap();
        assert_eq!(answer.data(), [7; 32]);
    }
}

// A handler that is ready at once, and a payload that fits inline.
#[test]
fn a_small_request_and_its_answer_allocate_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let peer = common::client_of(Echo).await;
        one_by_one(&peer).await;
        let region = Region::new(ALLOCATOR);
        one_by_one(&peer).await;
        let change = region.change();
        // The runtime itself may allocate now and then, not once a request.
        assert!(change.allocations < REQUESTS / 100, "{change:?}");
        assert!(change.reallocations < REQUESTS / 100, "{change:?}");
    });
}
