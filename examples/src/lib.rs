//! What the examples share: the one place that knows all transports.

use rsocket_core::transport::{Transports, memory};

/// All transports that this workspace has, by URL scheme: what follows this
/// line chooses between them by configuration alone.
pub fn transports() -> Transports {
    let mut transports = Transports::new();
    memory::register(&mut transports);
    rsocket_transport_tcp::register(&mut transports);
    rsocket_transport_ws::register(&mut transports);
    #[cfg(target_os = "linux")]
    rsocket_transport_shm::register(&mut transports);
    transports
}

/// Compiles what the README shows.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
