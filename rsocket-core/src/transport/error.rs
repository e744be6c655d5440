//! Why a link failed.

use std::error::Error;

/// The link failed, or could not be made.
///
/// The core tells only a few kinds apart; the cause is for people: see
/// [`source`](Error::source).
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct TransportError {
    kind: TransportErrorKind,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl TransportError {
    /// An error of `kind`, caused by `source`.
    pub fn new(kind: TransportErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind,
            source: Some(source.into()),
        }
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
        self.kind
    }
}

impl From<TransportErrorKind> for TransportError {
    fn from(kind: TransportErrorKind) -> Self {
        Self { kind, source: None }
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
