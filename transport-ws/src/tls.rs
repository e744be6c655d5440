//! What `wss:` needs: settings, as the TCP transport makes them.
//!
//! # Examples
//!
//! ```no_run
//! use rsocket_transport_ws::{WsConnector, WsListener, tls::{self, Roots}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let read = |name: &str| std::fs::read(name);
//!
//! let config = tls::server_config(&read("server.pem")?, &read("server.key")?)?.build()?;
//! let listener = WsListener::bind("0.0.0.0:443").await?.tls(config);
//!
//! let config = tls::client_config(Roots::pem(&read("ca.pem")?)?).build()?;
//! let connector = WsConnector::new("wss://server.example/").tls(config);
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use rsocket_core::transport::{LinkInfo, TransportError};
pub use rsocket_transport_tcp::tls::{
    ClientConfigBuilder, Roots, ServerConfigBuilder, TlsConfigError, client_config, rustls,
    server_config,
};
use rsocket_transport_tcp::tls::{TlsFiles, tls_info};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor, TlsConnector, TlsStream,
    rustls::{ClientConfig, ServerConfig, pki_types::ServerName},
};

use crate::{
    framing::stream_error,
    url::{WsUrl, bad_url},
};

/// The settings that a client's URL asks for.
pub(crate) fn client_config_from(url: &WsUrl) -> Result<Arc<ClientConfig>, TransportError> {
    TlsFiles::parse(&url.fragment)
        .and_then(|files| files.client_config())
        .ok_or_else(|| bad_url(&url.text))?
}

/// The settings that a server's URL asks for.
pub(crate) fn server_config_from(url: &WsUrl) -> Result<Arc<ServerConfig>, TransportError> {
    TlsFiles::parse(&url.fragment)
        .and_then(|files| files.server_config())
        .ok_or_else(|| bad_url(&url.text))?
}

pub(crate) async fn connect(
    host: &str,
    stream: TcpStream,
    config: Arc<ClientConfig>,
    info: &mut LinkInfo,
) -> Result<TlsStream<TcpStream>, TransportError> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let name = ServerName::try_from(bare.unwrap_or(host))
        .map_err(|_| bad_url(host))?
        .to_owned();
    let shown = name.to_str().into_owned();
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(stream_error)?;
    info.tls = Some(tls_info(stream.get_ref().1, Some(shown)));
    Ok(stream.into())
}

pub(crate) async fn accept(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    info: &mut LinkInfo,
) -> Result<TlsStream<TcpStream>, TransportError> {
    let stream = TlsAcceptor::from(config)
        .accept(stream)
        .await
        .map_err(stream_error)?;
    let connection = stream.get_ref().1;
    let name = connection.server_name().map(str::to_owned);
    info.tls = Some(tls_info(connection, name));
    Ok(stream.into())
}
