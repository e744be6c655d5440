//! Where to connect or to listen: `host:port`, and the URLs of this crate.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
};

use rsocket_core::transport::{TransportError, TransportErrorKind, UrlError};

/// A host, by name or number, and a port.
///
/// Made from `"host:port"`, `"[::1]:port"`, `(host, port)` or a [`SocketAddr`].
/// Text that is no address is reported when it is used. Names are looked up anew
/// for each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Repr);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Repr {
    Number(SocketAddr),
    Name(String, u16),
    Malformed(String),
}

const EXPECTED: &str = "host:port";

impl Address {
    /// What is left of `url` behind `prefix`, with or without a last `/`.
    pub(crate) fn from_url(
        url: &str,
        prefix: &str,
        expected: &'static str,
    ) -> Result<Self, TransportError> {
        let address = url
            .strip_prefix(prefix)
            .map(|rest| Self::from(rest.strip_suffix('/').unwrap_or(rest)));
        match address {
            Some(address) if !matches!(address.0, Repr::Malformed(_)) => Ok(address),
            _ => Err(bad_address(url, expected)),
        }
    }

    /// The host alone; empty if the address is malformed.
    #[cfg(feature = "tls")]
    pub(crate) fn host(&self) -> String {
        match &self.0 {
            Repr::Number(address) => address.ip().to_string(),
            Repr::Name(host, _) => host.clone(),
            Repr::Malformed(_) => String::new(),
        }
    }

    /// The numbers behind the name; at least one.
    pub(crate) async fn resolve(&self) -> Result<Vec<SocketAddr>, TransportError> {
        let (host, port) = match &self.0 {
            Repr::Number(address) => return Ok(vec![*address]),
            Repr::Name(host, port) => (host.as_str(), *port),
            Repr::Malformed(text) => return Err(bad_address(text, EXPECTED)),
        };
        let failed = |error| unreachable_error(&format_args!("looking up {host}"), error);
        let found: Vec<_> = tokio::net::lookup_host((host, port))
            .await
            .map_err(failed)?
            .collect();
        if found.is_empty() {
            let none = io::Error::new(io::ErrorKind::NotFound, "the name has no addresses");
            return Err(failed(none));
        }
        Ok(found)
    }
}

/// As it is written in URLs.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Number(address) => address.fmt(f),
            Repr::Name(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Repr::Name(host, port) => write!(f, "{host}:{port}"),
            Repr::Malformed(text) => f.write_str(text),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(Repr::Number(address))
    }
}

impl From<&str> for Address {
    fn from(text: &str) -> Self {
        if let Ok(number) = text.parse() {
            return Self(Repr::Number(number));
        }
        let parts = text.rsplit_once(':').filter(|(host, port)| {
            // `u16::from_str` would let a sign pass; and without brackets, it is
            // anyone's guess where a number of IPv6 ends and the port begins.
            port.bytes().all(|c| c.is_ascii_digit())
                && (host.starts_with('[') || !host.contains(':'))
        });
        match parts.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
            Some((host, port)) => Self::from((host, port)),
            None => Self(Repr::Malformed(text.to_owned())),
        }
    }
}

impl From<String> for Address {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&String> for Address {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<(&str, u16)> for Address {
    fn from((host, port): (&str, u16)) -> Self {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if let Ok(number) = bare.unwrap_or(host).parse::<IpAddr>() {
            return (number, port).into();
        }
        let is_name = |c: char| c.is_alphanumeric() || "-._".contains(c);
        // Numbers with a zone, as in fe80::1%eth0, are for the resolver to read.
        let is_scoped = |c: char| c.is_alphanumeric() || "-._:%".contains(c);
        match bare {
            Some(bare) if bare.contains(':') && bare.chars().all(is_scoped) => {
                Self(Repr::Name(bare.to_owned(), port))
            }
            None if !host.is_empty() && host.chars().all(is_name) => {
                Self(Repr::Name(host.to_owned(), port))
            }
            _ => Self(Repr::Malformed(format!("{host}:{port}"))),
        }
    }
}

impl From<(String, u16)> for Address {
    fn from((host, port): (String, u16)) -> Self {
        (host.as_str(), port).into()
    }
}

impl From<(IpAddr, u16)> for Address {
    fn from(address: (IpAddr, u16)) -> Self {
        Self(Repr::Number(address.into()))
    }
}

/// `text` does not say where.
pub(crate) fn bad_address(text: &str, expected: &'static str) -> TransportError {
    let url = text.to_owned();
    TransportError::new(
        TransportErrorKind::Invalid,
        UrlError::BadAddress { url, expected },
    )
}

/// Nobody was reached while `doing` something.
pub(crate) fn unreachable_error(doing: &dyn fmt::Display, error: io::Error) -> TransportError {
    TransportError::new(TransportErrorKind::Unreachable, explain(doing, error))
}

/// The settings do not work on this machine.
pub(crate) fn invalid(doing: &dyn fmt::Display, error: io::Error) -> TransportError {
    TransportError::new(TransportErrorKind::Invalid, explain(doing, error))
}

/// The same error, of the same kind, saying what was being done.
fn explain(doing: &dyn fmt::Display, error: io::Error) -> io::Error {
    let message = format!("{doing}: {error}");
    io::Error::new(error.kind(), message)
}
