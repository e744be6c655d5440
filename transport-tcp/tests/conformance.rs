//! Each byte stream does what every transport has to do.

use rsocket_core::testkit::conformance::Medium;

mod tcp {
    use rsocket_transport_tcp::{TcpConnector, TcpListener};

    rsocket_core::transport_conformance! {
        async fn pair() -> (TcpConnector, TcpListener) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            (TcpConnector::new(listener.local_addr()), listener)
        }
    }
}

/// As a program gets it whose configuration chooses the transport.
mod tcp_by_url {
    use rsocket_core::transport::{Connector, Listener, Transports};

    rsocket_core::transport_conformance! {
        async fn pair() -> (Box<dyn Connector>, Box<dyn Listener>) {
            let mut transports = Transports::new();
            rsocket_transport_tcp::register(&mut transports);
            let listener = transports.listener("tcp://localhost:0").await.expect("a free port");
            let connector = transports.connector(&listener.url()).expect("a good URL");
            (connector, listener)
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rsocket_transport_tcp::{UnixConnector, UnixListener};

    use super::*;

    rsocket_core::transport_conformance! {
        medium = Medium::default().holding(4 << 20);
        async fn pair() -> (UnixConnector, UnixListener) {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("rsocket-conformance-{}-{n}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let listener = UnixListener::bind(&path).await.expect("a fresh path");
            (UnixConnector::new(path), listener)
        }
    }
}

#[cfg(feature = "tls")]
mod tls {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rsocket_transport_tcp::{
        TcpConnector,
        tls::{Roots, TlsConnector, TlsListener, client_config, server_config},
    };

    use super::*;

    rsocket_core::transport_conformance! {
        medium = Medium::default().telling_loss();
        async fn pair() -> (TlsConnector, TlsListener) {
            let CertifiedKey { cert, signing_key } =
                generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
            let (cert, key) = (cert.pem(), signing_key.serialize_pem());
            let config = server_config(cert.as_bytes(), key.as_bytes())
                .and_then(|config| config.build())
                .expect("good settings");
            let listener = TlsListener::bind("127.0.0.1:0", config).await.expect("a free port");
            let config = Roots::pem(cert.as_bytes())
                .and_then(|roots| client_config(roots).build())
                .expect("good settings");
            let tcp = TcpConnector::new(listener.local_addr());
            let name = "localhost".try_into().expect("a name");
            (TlsConnector::new(tcp, config, name), listener)
        }
    }
}
