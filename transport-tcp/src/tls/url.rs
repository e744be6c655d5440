//! `tls:` URLs, which name files for what an address cannot say.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rsocket_core::transport::{Connector, Listener, TransportError};
use tokio_rustls::rustls::{ClientConfig, ServerConfig, pki_types::ServerName};

use super::{Roots, TlsConnector, TlsListener, client_config, invalid_settings, server_config};
use crate::{
    TcpConnector,
    address::{Address, bad_address, invalid},
};

const CLIENT: &str = "tls://host:port[?ca=file][&cert=file&key=file]";
const SERVER: &str = "tls://host:port?cert=file&key=file[&ca=file]";

/// `tls://host:port`, with `?ca=file` for other roots than the system's, and
/// `cert=file&key=file` for what to show to a server that asks.
pub(crate) fn connector_from_url(url: &str) -> Result<Box<dyn Connector>, TransportError> {
    let (address, files) = parse(url, CLIENT)?;
    let name = ServerName::try_from(address.host())
        .map_err(|_| bad_address(url, CLIENT))?
        .to_owned();
    let config = files
        .client_config()
        .ok_or_else(|| bad_address(url, CLIENT))??;
    let tcp = TcpConnector::new(address);
    Ok(Box::new(TlsConnector::new(tcp, config, name)))
}

/// `tls://host:port?cert=file&key=file`, with `ca=file` to let in only clients
/// with a certificate by these authorities.
pub(crate) async fn listener_from_url(url: String) -> Result<Box<dyn Listener>, TransportError> {
    let (address, files) = parse(&url, SERVER)?;
    let config = files
        .server_config()
        .ok_or_else(|| bad_address(&url, SERVER))??;
    Ok(Box::new(TlsListener::bind(address, config).await?))
}

fn parse(url: &str, expected: &'static str) -> Result<(Address, TlsFiles), TransportError> {
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let address = Address::from_url(address, "tls://", expected)?;
    let files = TlsFiles::parse(query).ok_or_else(|| bad_address(url, expected))?;
    Ok((address, files))
}

/// The files, all in PEM, that a URL names for TLS: `ca=file&cert=file&key=file`,
/// each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl TlsFiles {
    /// Reads that part of a URL; `None` if it is something else.
    ///
    /// File names are taken as they are: no escapes, no `&`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut files = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let field = match pair.split_once('=')? {
                ("ca", file) => files.ca.replace(file.into()),
                ("cert", file) => files.cert.replace(file.into()),
                ("key", file) => files.key.replace(file.into()),
                _ => return None,
            };
            if field.is_some() {
                return None;
            }
        }
        Some(files)
    }

    /// A client's settings: servers are trusted by `ca`, else by the system's
    /// roots, and are shown `cert` if they ask. `None` if only one of `cert` and
    /// `key` is named.
    ///
    /// # Errors
    ///
    /// [`Invalid`](rsocket_core::transport::TransportErrorKind::Invalid) when a
    /// file cannot be read, or is not what it should be.
    pub fn client_config(&self) -> Option<Result<Arc<ClientConfig>, TransportError>> {
        (self.cert.is_some() == self.key.is_some()).then(|| {
            let roots = match &self.ca {
                Some(file) => Roots::pem(&read(file)?),
                None => Roots::system(),
            };
            let mut config = client_config(roots.map_err(invalid_settings)?);
            if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
                config = config
                    .with_identity(&read(cert)?, &read(key)?)
                    .map_err(invalid_settings)?;
            }
            config.build().map_err(invalid_settings)
        })
    }

    /// A server's settings: clients are shown `cert`, and let in only with a
    /// certificate by `ca` if that is named. `None` without `cert` and `key`.
    ///
    /// # Errors
    ///
    /// [`Invalid`](rsocket_core::transport::TransportErrorKind::Invalid) when a
    /// file cannot be read, or is not what it should be.
    pub fn server_config(&self) -> Option<Result<Arc<ServerConfig>, TransportError>> {
        let (cert, key) = (self.cert.as_ref()?, self.key.as_ref()?);
        Some(self.server_config_with(cert, key))
    }

    fn server_config_with(
        &self,
        cert: &Path,
        key: &Path,
    ) -> Result<Arc<ServerConfig>, TransportError> {
        let mut config = server_config(&read(cert)?, &read(key)?).map_err(invalid_settings)?;
        if let Some(ca) = &self.ca {
            config = config.with_client_auth(Roots::pem(&read(ca)?).map_err(invalid_settings)?);
        }
        config.build().map_err(invalid_settings)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TransportError> {
    fs::read(file).map_err(|error| invalid(&format_args!("reading {}", file.display()), error))
}
