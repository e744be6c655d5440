//! Frames of RSocket as WebSocket messages: each is one binary message, without
//! a length in front.
//!
//! Owns every byte between the core and an upgraded stream, and knows nothing
//! about handshakes: [`tx`] and [`rx`] work on any [`AsyncWrite`] and
//! [`AsyncRead`]. What one half has to tell the peer for the other, an answer to
//! a ping or why the link ends, goes through [`outlet`].
//!
//! Spec: RFC 6455, sections 5 to 7; \[C004, C006\].

mod header;
mod message;
mod outlet;
mod rx;
mod tx;

use std::{io, sync::Arc};

use bytes::Bytes;
use rsocket_core::transport::{Limits, Link, LinkInfo, TransportError};
use tokio::io::{AsyncRead, AsyncWrite};

use self::{outlet::Outlet, rx::SocketRx, tx::SocketTx};

/// Which end of a WebSocket this is. Clients mask what they send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that asked for the upgrade.
    Client,
    /// The end that granted it.
    Server,
}

/// Why a half is dead: what each call after the first failure returns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The stream failed; the call that met it returned the stream's own error.
    #[error("the stream failed before: {0}")]
    Io(io::ErrorKind),
    /// The peer broke the rules of WebSocket.
    #[error("{0}")]
    Protocol(&'static str),
    /// The peer sent text.
    #[error("a text message: RSocket frames are binary messages")]
    Text,
    /// A reason for closing that is no UTF-8.
    #[error("the reason for closing is not UTF-8")]
    BadReason,
    /// The peer announced, or sent in parts, a longer message than is accepted.
    #[error("a message of {len} bytes or more, {max} are allowed")]
    TooLong { len: u64, max: usize },
    /// The stream ended without a closing handshake.
    #[error("the connection ended without being closed, after {arrived} bytes of a message")]
    Truncated { arrived: usize },
    /// The peer closed, and not because it was done.
    #[error("the peer closed with code {0}")]
    Closed(CloseReason),
    /// This side closed its sending half, or the peer has closed the link.
    #[error("the sending half is closed")]
    SendingClosed,
}

impl Fault {
    /// What the peer is told, if it is the peer's fault.
    pub(crate) fn close_code(&self) -> Option<u16> {
        Some(match self {
            Self::Protocol(_) => code::PROTOCOL,
            Self::Text => code::UNSUPPORTED,
            Self::BadReason => code::INVALID_PAYLOAD,
            Self::TooLong { .. } => code::TOO_BIG,
            Self::Io(_) | Self::Truncated { .. } | Self::Closed(_) | Self::SendingClosed => {
                return None;
            }
        })
    }
}

impl From<Fault> for TransportError {
    fn from(fault: Fault) -> Self {
        let is_hopeless = match &fault {
            Fault::Closed(reason) => reason.is_hopeless(),
            Fault::Io(kind) => *kind == io::ErrorKind::InvalidData,
            fault => fault.close_code().is_some(),
        };
        if is_hopeless {
            Self::misbehaved(fault)
        } else {
            Self::lost(fault)
        }
    }
}

/// Codes of closing frames that mean something here.
///
/// Spec: RFC 6455, section 7.4.1, and the registry of WebSocket close codes.
mod code {
    /// Done.
    pub(super) const NORMAL: u16 = 1000;
    /// A page that was left, a server that shuts down.
    pub(super) const GOING_AWAY: u16 = 1001;
    pub(super) const PROTOCOL: u16 = 1002;
    pub(super) const UNSUPPORTED: u16 = 1003;
    pub(super) const INVALID_PAYLOAD: u16 = 1007;
    pub(super) const POLICY: u16 = 1008;
    pub(super) const TOO_BIG: u16 = 1009;
    pub(super) const EXTENSION: u16 = 1010;
}

/// What a peer said when it closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloseReason {
    code: u16,
    text: Box<str>,
}

impl CloseReason {
    pub(crate) fn new(code: u16, text: &str) -> Self {
        let text = text.into();
        Self { code, text }
    }

    /// Reads the payload of a closing frame; `None` where it says nothing.
    fn parse(payload: &[u8]) -> Result<Option<Self>, Fault> {
        let Some((code, text)) = payload.split_first_chunk::<2>() else {
            if payload.is_empty() {
                return Ok(None);
            }
            return Err(Fault::Protocol("half a code for closing"));
        };
        let code = u16::from_be_bytes(*code);
        // 1004 to 1006 and 1015 are for use within programs, never on the wire.
        if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
            return Err(Fault::Protocol("a code for closing that means nothing"));
        }
        let text = std::str::from_utf8(text).map_err(|_| Fault::BadReason)?;
        Ok(Some(Self {
            code,
            text: text.into(),
        }))
    }

    /// Whether the peer is done, and content.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self.code, code::NORMAL | code::GOING_AWAY)
    }

    /// Whether the peer would say the same if everything was sent once more.
    fn is_hopeless(&self) -> bool {
        matches!(
            self.code,
            code::PROTOCOL
                | code::UNSUPPORTED
                | code::INVALID_PAYLOAD
                | code::POLICY
                | code::TOO_BIG
                | code::EXTENSION
        )
    }
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        Ok(())
    }
}

/// The link over an upgraded stream, of which these are the halves.
///
/// `early` is what was read of the stream behind the handshake.
pub(crate) fn framed<R, W>(
    read: R,
    write: W,
    role: Role,
    early: Bytes,
    info: LinkInfo,
    max_frame_len: usize,
) -> Link
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let outlet = Arc::new(Outlet::new(write, role));
    let tx = SocketTx::new(Arc::clone(&outlet), role, max_frame_len);
    let rx = SocketRx::new(read, early, outlet, role, max_frame_len);
    Link::new(tx, rx, info).with_limits(Limits { max_frame_len })
}

/// What a failed read or write means for the link.
pub(crate) fn stream_error(error: io::Error) -> TransportError {
    // The kind under which TLS reports certificates and records that it refuses.
    // A socket has no opinion on data.
    if error.kind() == io::ErrorKind::InvalidData {
        TransportError::misbehaved(error)
    } else {
        TransportError::lost(error)
    }
}
