//! Links in shared memory do what every transport has to do.
#![cfg(target_os = "linux")]

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use rsocket_core::testkit::conformance::Medium;
use rsocket_transport_shm::{ShmConnector, ShmListener, ShmOptions};

fn path() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("rsocket-shm-conformance-{}-{n}", std::process::id());
    std::env::temp_dir().join(name)
}

async fn pair_with(options: ShmOptions) -> (ShmConnector, ShmListener) {
    let path = path();
    let listener = ShmListener::bind_with(&path, options.clone())
        .await
        .expect("a fresh path");
    (ShmConnector::new(path).options(options), listener)
}

/// With what is in flight beside the ring and the arena.
fn medium() -> Medium {
    Medium::default().holding(6 << 20).telling_loss()
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
