//! What users get over shared memory: all interactions, plain and fragmented.
#![cfg(target_os = "linux")]

use std::sync::atomic::{AtomicUsize, Ordering};

use rsocket_core::testkit::contract;
use rsocket_transport_shm::{ShmAddress, ShmConnector, ShmListener, ShmOptions};

fn address(in_directory: bool) -> ShmAddress {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("rsocket-shm-contract-{}-{n}", std::process::id());
    if in_directory {
        ShmAddress::directory(std::env::temp_dir().join(name))
    } else {
        format!("@{name}").into()
    }
}

async fn pair_at(address: ShmAddress, options: ShmOptions) -> (ShmConnector, ShmListener) {
    let listener = ShmListener::bind_with(address.clone(), options.clone()).await;
    let listener = listener.expect("an address that nobody has");
    (ShmConnector::new(address).options(options), listener)
}

/// The least memory that a link can have, so that it is full all the time.
fn least() -> ShmOptions {
    ShmOptions::new().ring_len(4096).arena_len(0)
}

mod defaults {
    use super::*;

    rsocket_core::transport_contract! {
        async fn pair() -> (ShmConnector, ShmListener) {
            pair_at(address(false), ShmOptions::new()).await
        }
    }
}

mod directory {
    use super::*;

    rsocket_core::transport_contract! {
        async fn pair() -> (ShmConnector, ShmListener) {
            pair_at(address(true), ShmOptions::new()).await
        }
    }
}

mod tiny {
    use super::*;

    rsocket_core::transport_contract! {
        only_if_asked_for;
        async fn pair() -> (ShmConnector, ShmListener) {
            pair_at(address(false), least()).await
        }
    }

    /// What takes less than all scenarios, and passes pieces all the same.
    #[test]
    fn ten_large_metadata_pushes_in_pieces() {
        let plain = contract::Variant::Plain;
        contract::run(pair, plain, contract::ten_large_metadata_pushes);
    }

    #[test]
    fn a_channel_of_256_payloads_through_a_full_ring() {
        let threads = contract::Variant::Threads;
        contract::run(pair, threads, contract::a_channel_of_256_payloads);
    }

    #[test]
    fn ten_large_fire_and_forgets_in_fragments() {
        let fragmented = contract::Variant::Fragmented;
        contract::run(pair, fragmented, contract::ten_large_fire_and_forgets);
    }
}

mod tiny_directory {
    use super::*;

    rsocket_core::transport_contract! {
        only_if_asked_for;
        async fn pair() -> (ShmConnector, ShmListener) {
            pair_at(address(true), least()).await
        }
    }
}
