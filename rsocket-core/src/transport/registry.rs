//! Transports chosen by URL at run time.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{Connector, Listener, TransportError, TransportErrorKind};

type MakeConnector = dyn Fn(&str) -> Result<Box<dyn Connector>, TransportError> + Send + Sync;
type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;
type MakeListener =
    dyn Fn(String) -> BoxFuture<Result<Box<dyn Listener>, TransportError>> + Send + Sync;

/// Which URL scheme means which transport.
///
/// A program fills it once with the transports that it depends on; afterwards
/// its configuration, not its code, chooses between them. Each transport crate
/// has a `register` function for its schemes.
///
/// # Examples
///
/// ```
/// use rsocket_core::transport::{Transports, memory};
///
/// let mut transports = Transports::new();
/// memory::register(&mut transports);
/// assert!(transports.connector("memory:hello").is_ok());
///
/// let error = transports.connector("carrier-pigeon://coop").err().expect("unknown");
/// let cause = std::error::Error::source(&error).expect("there is a cause");
/// assert!(cause.to_string().contains("memory"), "it names what there is");
/// ```
#[derive(Clone, Default)]
pub struct Transports {
    schemes: BTreeMap<&'static str, Scheme>,
}

#[derive(Clone)]
struct Scheme {
    connector: Arc<MakeConnector>,
    listener: Arc<MakeListener>,
}

impl Transports {
    /// Knows no scheme yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the transport of one scheme (`tcp`, without `:`), or replaces it.
    ///
    /// Both functions get the whole URL.
    pub fn register<C, L, F>(&mut self, scheme: &'static str, connector: C, listener: L)
    where
        C: Fn(&str) -> Result<Box<dyn Connector>, TransportError> + Send + Sync + 'static,
        L: Fn(String) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Box<dyn Listener>, TransportError>> + Send + 'static,
    {
        let listener: Arc<MakeListener> = Arc::new(move |url| Box::pin(listener(url)));
        let connector = Arc::new(connector);
        self.schemes.insert(
            scheme,
            Scheme {
                connector,
                listener,
            },
        );
    }

    /// The connector that `url` asks for. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`TransportErrorKind::Invalid`] when the URL has no scheme, an unknown
    /// one, or does not suit its transport.
    pub fn connector(&self, url: &str) -> Result<Box<dyn Connector>, TransportError> {
        (self.scheme(url)?.connector)(url)
    }

    /// The listener that `url` asks for, bound and ready to accept.
    ///
    /// # Errors
    ///
    /// As [`connector`](Self::connector), and when the address cannot be bound.
    pub async fn listener(&self, url: &str) -> Result<Box<dyn Listener>, TransportError> {
        (self.scheme(url)?.listener)(url.to_owned()).await
    }

    /// The schemes registered, in alphabetical order.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> {
        self.schemes.keys().copied()
    }

    fn scheme(&self, url: &str) -> Result<&Scheme, TransportError> {
        let known = || self.schemes().collect::<Vec<_>>().join(", ");
        let invalid = |error: UrlError| TransportError::new(TransportErrorKind::Invalid, error);
        let Some((name, _)) = url.split_once(':') else {
            return Err(invalid(UrlError::NoScheme {
                url: url.to_owned(),
                known: known(),
            }));
        };
        self.schemes.get(name).ok_or_else(|| {
            invalid(UrlError::UnknownScheme {
                scheme: name.to_owned(),
                known: known(),
            })
        })
    }
}

impl fmt::Debug for Transports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.schemes()).finish()
    }
}

/// Why a URL names no transport.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// There is no `scheme:` in front.
    #[error("`{url}` has no scheme; known schemes: {known}")]
    NoScheme {
        /// What was given.
        url: String,
        /// What would have been understood.
        known: String,
    },
    /// No transport was registered for the scheme.
    #[error("no transport is registered for `{scheme}:`; known schemes: {known}")]
    UnknownScheme {
        /// What was asked for.
        scheme: String,
        /// What would have been understood.
        known: String,
    },
    /// What follows the scheme is not an address of this transport.
    #[error("`{url}` is not an address: expected {expected}")]
    BadAddress {
        /// What was given.
        url: String,
        /// The form that the transport takes.
        expected: &'static str,
    },
}
