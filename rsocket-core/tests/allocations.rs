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

async fn one_by_one(peer: &Requester, data: &[u8]) {
    for _ in 0..REQUESTS {
        let request = Payload::copy_from_slice(data).with_metadata("route");
        let answer = peer.request_response(request).await.unwrap();
        assert_eq!(answer.data(), data);
    }
}

// A handler that is ready at once.
#[test]
fn requests_and_answers_of_up_to_a_kilobyte_allocate_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let peer = common::client_of(Echo).await;
        // Inline, and in memory that is used again.
        for len in [32, 500, 1024] {
            let data = vec![7; len];
            one_by_one(&peer, &data).await;
            let region = Region::new(ALLOCATOR);
            one_by_one(&peer, &data).await;
            let change = region.change();
            // The runtime itself may allocate now and then, not once a request.
            assert!(change.allocations < REQUESTS / 100, "{len}: {change:?}");
            assert!(change.reallocations < REQUESTS / 100, "{len}: {change:?}");
        }
    });
}
