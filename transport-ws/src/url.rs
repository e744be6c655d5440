//! `ws:` and `wss:` URLs.

use rsocket_core::transport::{TransportError, TransportErrorKind, UrlError};
use rsocket_transport_tcp::Address;
use tokio_tungstenite::tungstenite::http::{Uri, uri::PathAndQuery};

#[cfg(not(feature = "tls"))]
const EXPECTED: &str = "ws://host[:port][/path][?query]";
#[cfg(feature = "tls")]
const EXPECTED: &str =
    "ws://host[:port][/path][?query], or wss: with #ca=file, #cert=file&key=file";

/// Where a URL points.
#[derive(Clone, Debug)]
pub(crate) struct WsUrl {
    /// As it was given.
    pub(crate) text: String,
    /// Without the fragment.
    pub(crate) uri: Uri,
    #[cfg(feature = "tls")]
    pub(crate) is_secure: bool,
    pub(crate) host: String,
    port: u16,
    /// What follows `#`, which is never sent.
    #[cfg(feature = "tls")]
    pub(crate) fragment: String,
}

impl WsUrl {
    /// Reads `ws://host[:port][/path][?query]`, and with the feature `tls` `wss:`
    /// and a fragment that names files.
    pub(crate) fn parse(url: &str) -> Result<Self, TransportError> {
        Self::try_parse(url).ok_or_else(|| bad_url(url))
    }

    fn try_parse(url: &str) -> Option<Self> {
        let (before, fragment) = url.split_once('#').unwrap_or((url, ""));
        let mut parts = before.parse::<Uri>().ok()?.into_parts();
        if parts.path_and_query.is_none() {
            parts.path_and_query = Some(PathAndQuery::from_static("/"));
        }
        let uri = Uri::from_parts(parts).ok()?;
        let is_secure = match uri.scheme_str()? {
            "ws" => false,
            "wss" if cfg!(feature = "tls") => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        // A user and a password would be lost silently; and a port that is no
        // number must not turn into the usual one.
        let host = authority.host();
        let after = authority.as_str().strip_prefix(host)?;
        let port = match after.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if after.is_empty() => {
                if is_secure {
                    443
                } else {
                    80
                }
            }
            None => return None,
        };
        if host.is_empty() || (!is_secure && !fragment.is_empty()) {
            return None;
        }
        let host = host.to_owned();
        Some(Self {
            text: url.to_owned(),
            uri,
            #[cfg(feature = "tls")]
            is_secure,
            host,
            port,
            #[cfg(feature = "tls")]
            fragment: fragment.to_owned(),
        })
    }

    pub(crate) fn address(&self) -> Address {
        Address::from((self.host.as_str(), self.port))
    }

    /// The path that a server with this URL serves; none is any.
    pub(crate) fn served_path(&self) -> Option<&str> {
        Some(self.uri.path()).filter(|path| *path != "/")
    }
}

/// The text is no URL of this crate.
pub(crate) fn bad_url(url: &str) -> TransportError {
    let (url, expected) = (url.to_owned(), EXPECTED);
    TransportError::new(
        TransportErrorKind::Invalid,
        UrlError::BadAddress { url, expected },
    )
}
