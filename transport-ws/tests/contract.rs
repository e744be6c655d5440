//! What users get over WebSocket: all interactions, in all variants.

mod ws {
    use rsocket_transport_ws::{WsConnector, WsListener};

    rsocket_core::transport_contract! {
        async fn pair() -> (WsConnector, WsListener) {
            let listener = WsListener::bind("127.0.0.1:0").await.expect("a free port");
            let url = format!("ws://{}/", listener.local_addr());
            (WsConnector::new(url), listener)
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

    rsocket_core::transport_contract! {
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
