//! What users get over TCP and Unix sockets: all interactions, plain and
//! fragmented.

mod tcp {
    use rsocket_transport_tcp::{TcpConnector, TcpListener};

    rsocket_core::transport_contract! {
        async fn pair() -> (TcpConnector, TcpListener) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            (TcpConnector::new(listener.local_addr()), listener)
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rsocket_transport_tcp::{UnixConnector, UnixListener};

    rsocket_core::transport_contract! {
        async fn pair() -> (UnixConnector, UnixListener) {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("rsocket-contract-{}-{n}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let listener = UnixListener::bind(&path).await.expect("a fresh path");
            (UnixConnector::new(path), listener)
        }
    }
}
