//! WebSocket does what every transport has to do.

use rsocket_core::testkit::conformance::Medium;

mod ws {
    use rsocket_transport_ws::{WsConnector, WsListener};

    use super::*;

    rsocket_core::transport_conformance! {
        medium = Medium::default().telling_loss();
        async fn pair() -> (WsConnector, WsListener) {
            let listener = WsListener::bind("127.0.0.1:0").await.expect("a free port");
            let url = format!("ws://{}/", listener.local_addr());
            (WsConnector::new(url), listener)
        }
    }
}

/// As a program gets it whose configuration chooses the transport.
mod ws_by_url {
    use rsocket_core::transport::{Connector, Listener, Transports};

    use super::*;

    rsocket_core::transport_conformance! {
        medium = Medium::default().telling_loss();
        async fn pair() -> (Box<dyn Connector>, Box<dyn Listener>) {
            let mut transports = Transports::new();
            rsocket_transport_ws::register(&mut transports);
            let listener = transports.listener("ws://localhost:0/rsocket").await.expect("a free port");
            let connector = transports.connector(&listener.url()).expect("a good URL");
            (connector, listener)
        }
    }
}

#[cfg(feature = "tls")]
mod wss {
    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rsocket_transport_ws::{
        WsConnector, WsListener,
        tls::{Roots, client_config, server_config},
    };

    use super::*;

    rsocket_core::transport_conformance! {
        medium = Medium::default().telling_loss();
        async fn pair() -> (WsConnector, WsListener) {
            let CertifiedKey { cert, signing_key } =
                generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
            let (cert, key) = (cert.pem(), signing_key.serialize_pem());
            let config = server_config(cert.as_bytes(), key.as_bytes())
                .and_then(|config| config.build())
                .expect("good settings");
            let listener = WsListener::bind("127.0.0.1:0").await.expect("a free port").tls(config);
            let config = Roots::pem(cert.as_bytes())
                .and_then(|roots| client_config(roots).build())
                .expect("good settings");
            let url = format!("wss://localhost:{}/", listener.local_addr().port());
            (WsConnector::new(url).tls(config), listener)
        }
    }
}

/// Sockets that were made by tokio-tungstenite, message by message.
mod messages {
    use rsocket_core::transport::{
        Connector, Handshake, Link, LinkInfo, Listener, TransportError, TransportErrorKind,
    };
    use rsocket_transport_ws::{LinkOptions, link};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_tungstenite::{accept_async, client_async};

    use super::*;

    struct Client(String);

    #[async_trait::async_trait]
    impl Connector for Client {
        async fn connect(&self) -> Result<Link, TransportError> {
            let unreachable = |e| TransportError::new(TransportErrorKind::Unreachable, e);
            let stream = TcpStream::connect(&self.0).await.map_err(unreachable)?;
            let url = format!("ws://{}/", self.0);
            let made = client_async(url, stream)
                .await
                .map_err(TransportError::lost)?;
            Ok(link(made.0, LinkInfo::new("ws"), LinkOptions::new()))
        }
    }

    struct Server(TcpListener);

    #[async_trait::async_trait]
    impl Listener for Server {
        async fn accept(&mut self) -> Result<Handshake, TransportError> {
            let (stream, _) = self.0.accept().await.map_err(TransportError::lost)?;
            Ok(Box::pin(async move {
                let made = accept_async(stream).await.map_err(TransportError::lost)?;
                Ok(link(made, LinkInfo::new("ws"), LinkOptions::new()))
            }))
        }

        fn url(&self) -> String {
            format!("ws://{}/", self.0.local_addr().expect("it is bound"))
        }
    }

    rsocket_core::transport_conformance! {
        medium = Medium::default().telling_loss();
        async fn pair() -> (Client, Server) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("it is bound");
            (Client(address.to_string()), Server(listener))
        }
    }
}
