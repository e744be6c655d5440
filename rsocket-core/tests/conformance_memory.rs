//! The reference transport does what every transport has to do.

use std::sync::atomic::{AtomicUsize, Ordering};

use rsocket_core::{
    testkit::conformance::Medium,
    transport::memory::{DEFAULT_CAPACITY, MemoryConnector, MemoryListener},
};

fn name() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("conformance-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

mod default_capacity {
    use super::*;

    rsocket_core::transport_conformance! {
        // One frame passes whatever its length: at most 1 MiB in this suite
        // while nobody receives.
        medium = Medium::default().holding(DEFAULT_CAPACITY.max(1 << 20)).telling_loss();
        async fn pair() -> (MemoryConnector, MemoryListener) {
            let name = name();
            let listener = MemoryListener::bind(&name).expect("a fresh name");
            (MemoryConnector::new(name), listener)
        }
    }
}

/// Every frame fills the pipe: each send waits for the receiver.
mod hardly_any_capacity {
    use super::*;

    rsocket_core::transport_conformance! {
        medium = Medium::default().holding(1 << 20).telling_loss();
        async fn pair() -> (MemoryConnector, MemoryListener) {
            let name = name();
            let listener = MemoryListener::bind(&name).expect("a fresh name");
            (MemoryConnector::new(name).with_capacity(1), listener)
        }
    }
}

/// Chaos that cuts nothing keeps the contract of what it wraps.
mod hesitant {
    use rsocket_core::testkit::{Chaos, ChaosConnector, ChaosListener};

    use super::*;

    rsocket_core::transport_conformance! {
        medium = Medium::default().holding(1 << 20).telling_loss();
        async fn pair() -> (ChaosConnector<MemoryConnector>, ChaosListener<MemoryListener>) {
            let name = name();
            let listener = MemoryListener::bind(&name).expect("a fresh name");
            let chaos = Chaos::new(1).hesitating_once_in(3);
            let connector = chaos.connector(MemoryConnector::new(name));
            (connector, chaos.listener(listener))
        }
    }
}

/// As a program gets it whose configuration chooses the transport.
mod by_url {
    use rsocket_core::transport::{Connector, Listener, Transports, memory};

    use super::*;

    rsocket_core::transport_conformance! {
        async fn pair() -> (Box<dyn Connector>, Box<dyn Listener>) {
            let mut transports = Transports::new();
            memory::register(&mut transports);
            let url = format!("memory:{}", name());
            let listener = transports.listener(&url).await.expect("a fresh name");
            let connector = transports.connector(&url).expect("a good URL");
            (connector, listener)
        }
    }
}
