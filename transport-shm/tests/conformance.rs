//! Links in shared memory do what every transport has to do.
#![cfg(target_os = "linux")]

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use rsocket_core::testkit::conformance::Medium;
use rsocket_transport_shm::{ShmAddress, ShmConnector, ShmListener, ShmOptions, Spin};

fn path() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("rsocket-shm-conformance-{}-{n}", std::process::id());
    std::env::temp_dir().join(name)
}

async fn pair_with(options: ShmOptions) -> (ShmConnector, ShmListener) {
    pair_at(path().into(), options).await
}

async fn pair_at(address: ShmAddress, options: ShmOptions) -> (ShmConnector, ShmListener) {
    let listener = ShmListener::bind_with(address.clone(), options.clone()).await;
    let listener = listener.expect("a fresh path");
    (ShmConnector::new(address).options(options), listener)
}

/// The ring and the arena.
fn medium() -> Medium {
    Medium::default().holding(5 << 20).telling_loss()
}

mod defaults {
    use super::*;

    rsocket_core::transport_conformance! {
        medium = medium();
        async fn pair() -> (ShmConnector, ShmListener) {
            pair_with(ShmOptions::new()).await
        }
    }
}

/// Each wait goes through the kernel.
mod sleeping {
    use super::*;

    rsocket_core::transport_conformance! {
        medium = medium();
        async fn pair() -> (ShmConnector, ShmListener) {
            pair_with(ShmOptions::new().spin(Spin::Sleep)).await
        }
    }
}

/// No wait does.
mod polling {
    use super::*;

    rsocket_core::transport_conformance! {
        medium = medium();
        async fn pair() -> (ShmConnector, ShmListener) {
            pair_with(ShmOptions::new().spin(Spin::Poll)).await
        }
    }
}

/// All frames go through the ring.
mod ring_only {
    use super::*;

    rsocket_core::transport_conformance! {
        medium = medium();
        async fn pair() -> (ShmConnector, ShmListener) {
            pair_with(ShmOptions::new().ring_len(4 << 20).arena_len(0)).await
        }
    }
}

/// By name in a directory, and pipes for a bell.
mod directory {
    use super::*;

    rsocket_core::transport_conformance! {
        medium = medium();
        async fn pair() -> (ShmConnector, ShmListener) {
            pair_at(ShmAddress::directory(path()), ShmOptions::new()).await
        }
    }
}

/// The same, each wait through the kernel.
mod directory_sleeping {
    use super::*;

    rsocket_core::transport_conformance! {
        medium = medium();
        async fn pair() -> (ShmConnector, ShmListener) {
            let options = ShmOptions::new().spin(Spin::Sleep);
            pair_at(ShmAddress::directory(path()), options).await
        }
    }
}

/// As a program gets it whose configuration chooses the transport.
mod by_url {
    use rsocket_core::transport::{Connector, Listener, Transports};

    use super::*;

    rsocket_core::transport_conformance! {
        medium = medium();
        async fn pair() -> (Box<dyn Connector>, Box<dyn Listener>) {
            let mut transports = Transports::new();
            rsocket_transport_shm::register(&mut transports);
            let name = path().file_name().expect("it ends in one").display().to_string();
            let listener = transports.listener(&format!("shm:@{name}")).await;
            let listener = listener.expect("a name that nobody has");
            let connector = transports.connector(&listener.url()).expect("a good URL");
            (connector, listener)
        }
    }
}
