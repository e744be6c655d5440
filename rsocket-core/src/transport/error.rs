//! Why a link failed.

use std::{error::Error, fmt};

/// The link failed, or could not be made.
///
/// The core tells only a few kinds apart; the cause is for people: see
/// [`source`](Error::source).
#[derive(Debug)]
pub struct TransportError(
    /// Boxed, so that results of a link's calls travel in registers: with 24 bytes
    /// they were copied on the stack, which took a tenth of a server's time.
    Box<Parts>,
);

#[derive(Debug)]
struct Parts {
    kind: TransportErrorKind,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl TransportError {
    /// An error of `kind`, caused by `source`.
    pub fn new(kind: TransportErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Box::new(Parts {
            kind,
            source: Some(source.into()),
        }))
    }

    /// The peer went away.
    pub fn lost(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(TransportErrorKind::Lost, source)
    }

    /// The peer broke the transport's own rules.
    pub fn misbehaved(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(TransportErrorKind::PeerMisbehaved, source)
    }

    /// What the core acts on.
    pub fn kind(&self) -> TransportErrorKind {
        self.0.kind
    }
}

impl From<TransportErrorKind> for TransportError {
    fn from(kind: TransportErrorKind) -> Self {
        Self(Box::new(Parts { kind, source: None }))
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.kind.fmt(f)
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        let source = self.0.source.as_deref()?;
        Some(source)
    }
}

/// What happened to a link.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportErrorKind {
    /// The peer went away, or the path to it: worth connecting again.
    #[error("lost the peer")]
    Lost,
    /// Nobody answers at the address: worth trying later.
    #[error("could not connect")]
    Unreachable,
    /// The peer broke the transport's own rules, or failed its checks (a frame
    /// over the limit, a bad certificate): not worth repeating as it is.
    #[error("the peer broke the transport's rules")]
    PeerMisbehaved,
    /// The address or the transport's own settings make no sense: fix the call.
    #[error("invalid address or settings")]
    Invalid,
}
