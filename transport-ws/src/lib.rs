//! RSocket over WebSocket.
#![forbid(unsafe_code)]

mod connector;
mod framing;
mod handshake;
mod listener;
#[cfg(feature = "tls")]
pub mod tls;
mod url;

use bytes::Bytes;
use rsocket_core::transport::{Connector, Link, LinkInfo, Listener, TransportError, Transports};
pub use rsocket_transport_tcp::{Address, LinkOptions};
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::{connector::WsConnector, framing::Role, listener::WsListener};
use self::{framing::framed, url::WsUrl};

/// A link over a stream that was upgraded to WebSocket elsewhere.
pub fn upgraded<S>(
    stream: S,
    role: Role,
    early: Bytes,
    info: LinkInfo,
    options: LinkOptions,
) -> Link
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (read, write) = tokio::io::split(stream);
    framed(read, write, role, early, info, options.longest_frame())
}

/// Adds the schemes of this crate: `ws`, and with the feature `tls` `wss`.
pub fn register(transports: &mut Transports) {
    transports.register("ws", connector_from_url, listener_from_url);
    #[cfg(feature = "tls")]
    transports.register("wss", connector_from_url, listener_from_url);
}

fn connector_from_url(url: &str) -> Result<Box<dyn Connector>, TransportError> {
    let parsed = WsUrl::parse(url)?;
    let connector = WsConnector::new(url);
    #[cfg(feature = "tls")]
    if parsed.is_secure {
        return Ok(Box::new(connector.tls(tls::client_config_from(&parsed)?)));
    }
    let _ = parsed;
    Ok(Box::new(connector))
}

async fn listener_from_url(url: String) -> Result<Box<dyn Listener>, TransportError> {
    let parsed = WsUrl::parse(&url)?;
    #[cfg(feature = "tls")]
    let config = if parsed.is_secure {
        Some(tls::server_config_from(&parsed)?)
    } else {
        None
    };
    let mut listener = WsListener::bind(parsed.address()).await?;
    if let Some(path) = parsed.served_path() {
        listener = listener.path(path);
    }
    #[cfg(feature = "tls")]
    if let Some(config) = config {
        listener = listener.tls(config);
    }
    Ok(Box::new(listener))
}
