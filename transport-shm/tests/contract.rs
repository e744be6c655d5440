//! What users get over shared memory: all interactions, plain and fragmented.
#![cfg(target_os = "linux")]

use std::sync::atomic::{AtomicUsize, Ordering};

use rsocket_transport_shm::{ShmConnector, ShmListener, ShmOptions};

async fn pair_with(options: ShmOptions) -> (ShmConnector, ShmListener) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("@rsocket-shm-contract-{}-{n}", std::process::id());
    let listener = ShmListener::bind_with(&name, options.clone()).await;
    let listener = listener.expect("a name that nobody has");
    (ShmConnector::new(name).options(options), listener)
}

mod defaults {
    use super::*;

    rsocket_core::transport_contract! {
        async fn pair() -> (ShmConnector, ShmListener) {
            pair_with(ShmOptions::new()).await
        }
    }
}

/// The least memory that a link can have, so that it is full all the time.
mod tiny {
    use super::*;

    rsocket_core::transport_contract! {
        async fn pair() -> (ShmConnector, ShmListener) {
            pair_with(ShmOptions::new().ring_len(4096).arena_len(0)).await
        }
    }
}
