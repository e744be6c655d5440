//! What users get over the reference transport.

use std::sync::atomic::{AtomicUsize, Ordering};

use rsocket_core::transport::memory::{MemoryConnector, MemoryListener};

rsocket_core::transport_contract! {
    async fn pair() -> (MemoryConnector, MemoryListener) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("contract-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let listener = MemoryListener::bind(&name).expect("a fresh name");
        (MemoryConnector::new(name), listener)
    }
}
