//! Frames on a byte stream: a 24-bit big-endian length, then the frame, which
//! the length does not count.
//!
//! Owns every byte between the core and the stream, and knows nothing about
//! sockets: [`tx`] and [`rx`] work on any [`AsyncWrite`] and [`AsyncRead`].
//!
//! Spec: "Framing Protocol Usage", "Framing Format" \[C006-C010\].

mod farewell;
mod rx;
mod tx;

use std::{io, sync::Arc};

use rsocket_core::transport::{Limits, Link, LinkInfo, TransportError};
use tokio::io::{AsyncRead, AsyncWrite};

use self::{farewell::Farewell, rx::StreamRx, tx::StreamTx};
use crate::options::LinkOptions;

/// Bytes of the length in front of each frame.
const PREFIX_LEN: usize = 3;

/// Why a half is dead: what each call after the first failure returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The stream failed; the call that met it returned the stream's own error.
    #[error("the stream failed before: {0}")]
    Io(io::ErrorKind),
    /// The peer announced a longer frame than this side accepts.
    #[error("a frame of {len} bytes, {max} are allowed")]
    TooLong { len: usize, max: usize },
    /// The stream ended in good order for a stream, but within a frame.
    #[error("the stream ended within a frame, after {arrived} bytes of it")]
    Truncated { arrived: usize },
    /// This side closed its sending half.
    #[error("the sending half is closed")]
    Closed,
}

impl From<Fault> for TransportError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLong { .. } | Fault::Io(io::ErrorKind::InvalidData) => {
                Self::misbehaved(fault)
            }
            Fault::Io(_) | Fault::Truncated { .. } | Fault::Closed => Self::lost(fault),
        }
    }
}

/// How a stream ends.
#[derive(Clone, Copy)]
pub(crate) enum Medium {
    /// Dropping the sending half tells the peer; closing with unread bytes resets
    /// the connection.
    Socket,
    /// Nothing of the kind is known.
    Stream,
}

/// The link over a stream of which these are the halves.
pub(crate) fn framed<R, W>(
    read: R,
    write: W,
    info: LinkInfo,
    options: LinkOptions,
    medium: Medium,
) -> Link
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let max_frame_len = options.longest_frame();
    let farewell = match medium {
        Medium::Socket => Some(Arc::new(Farewell::default())),
        Medium::Stream => None,
    };
    let tx = StreamTx::new(write, max_frame_len, farewell.clone());
    let rx = StreamRx::new(read, max_frame_len, farewell);
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
