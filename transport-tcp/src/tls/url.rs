//! `tls:` URLs, which name files for what an address cannot say.

use std::{fs, path::Path};

use rsocket_core::transport::{Connector, Listener, TransportError};
use tokio_rustls::rustls::pki_types::ServerName;

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
    let parsed = TlsUrl::parse(url, CLIENT)?;
    if parsed.cert.is_some() != parsed.key.is_some() {
        return Err(bad_address(url, CLIENT));
    }
    let name = ServerName::try_from(parsed.address.host())
        .map_err(|_| bad_address(url, CLIENT))?
        .to_owned();
    let roots = match parsed.ca {
        Some(file) => Roots::pem(&read(file)?),
        None => Roots::system(),
    };
    let mut config = client_config(roots.map_err(invalid_settings)?);
    if let (Some(cert), Some(key)) = (parsed.cert, parsed.key) {
        config = config
            .with_identity(&read(cert)?, &read(key)?)
            .map_err(invalid_settings)?;
    }
    let config = config.build().map_err(invalid_settings)?;
    let tcp = TcpConnector::new(parsed.address);
    Ok(Box::new(TlsConnector::new(tcp, config, name)))
}

/// `tls://host:port?cert=file&key=file`, with `ca=file` to let in only clients
/// with a certificate by these authorities.
pub(crate) async fn listener_from_url(url: String) -> Result<Box<dyn Listener>, TransportError> {
    let parsed = TlsUrl::parse(&url, SERVER)?;
    let (Some(cert), Some(key)) = (parsed.cert, parsed.key) else {
        return Err(bad_address(&url, SERVER));
    };
    let mut config = server_config(&read(cert)?, &read(key)?).map_err(invalid_settings)?;
    if let Some(ca) = parsed.ca {
        config = config.with_client_auth(Roots::pem(&read(ca)?).map_err(invalid_settings)?);
    }
    let config = config.build().map_err(invalid_settings)?;
    Ok(Box::new(TlsListener::bind(parsed.address, config).await?))
}

struct TlsUrl<'a> {
    address: Address,
    ca: Option<&'a Path>,
    cert: Option<&'a Path>,
    key: Option<&'a Path>,
}

impl<'a> TlsUrl<'a> {
    /// File names are taken as they are: no escapes, no `&`.
    fn parse(url: &'a str, expected: &'static str) -> Result<Self, TransportError> {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let mut parsed = Self {
            address: Address::from_url(address, "tls://", expected)?,
            ca: None,
            cert: None,
            key: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let field = match pair.split_once('=') {
                Some(("ca", file)) => parsed.ca.replace(Path::new(file)),
                Some(("cert", file)) => parsed.cert.replace(Path::new(file)),
                Some(("key", file)) => parsed.key.replace(Path::new(file)),
                _ => return Err(bad_address(url, expected)),
            };
            if field.is_some() {
                return Err(bad_address(url, expected));
            }
        }
        Ok(parsed)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TransportError> {
    fs::read(file).map_err(|error| invalid(&format_args!("reading {}", file.display()), error))
}
