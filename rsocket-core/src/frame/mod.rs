//! Frames: bytes to types and back.
//!
//! This module owns every layout of the wire. It knows no state, no time and
//! no stream: a [`Frame`] that decodes is well-formed, and whether it makes
//! sense *now* is for the protocol's state machine to say. Frames borrow from
//! the bytes that they were decoded from; nothing is copied or allocated.
//!
//! Bytes come from the peer and can yield a [`DecodeError`], never a panic.
//! Frames to send come from our own code: what the wire cannot hold is a
//! panic.
//!
//! | file | what is in it |
//! |---|---|
//! | `value` | ranges: stream ids, demand, positions, times |
//! | `header` | the six bytes before everything: types and flags |
//! | `head` | the layouts of the frames that streams send, for sending without a copy |
//! | `setup`, `lease`, `keepalive`, `metadata_push`, `resume` | connection frames |
//! | `request`, `payload`, `flow`, `error` | stream frames, and what bytes can have wrong |
//! | `ext` | extensions |
//! | `decode` | which type the bytes are |
//! | `read`, `write` | fields from and to bytes |
//!
//! Spec: "Framing Format", "Frame Types".

mod decode;
mod error;
mod ext;
mod flow;
mod head;
mod header;
mod keepalive;
mod lease;
mod metadata_push;
mod payload;
mod read;
mod request;
mod resume;
mod setup;
mod value;
mod write;

#[cfg(test)]
mod callers;
#[cfg(test)]
mod lenient;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod vectors;

pub use error::{DecodeError, ErrorCode, ErrorFrame};
pub use ext::Ext;
pub use flow::{Cancel, RequestN};
pub use head::Head;
pub use header::{Flags, FrameType, Header};
pub use keepalive::Keepalive;
pub use lease::Lease;
pub use metadata_push::MetadataPush;
pub use payload::{PayloadFrame, PayloadRef};
pub use request::{Interaction, Request};
pub use resume::{Resume, ResumeOk};
pub use setup::Setup;
pub use value::{Demand, Millis31, Position, StreamId};

/// The protocol version on the wire, major and minor.
pub const VERSION: (u16, u16) = (1, 0);

/// Bytes of the header that starts every frame.
pub const HEADER_LEN: usize = 6;

/// The longest frame in bytes, on every transport; the length prefix of some
/// is not counted.
///
/// Spec: "Max Frame Size".
pub const MAX_FRAME_LEN: usize = 0x00FF_FFFF;

/// One frame, borrowed from the bytes that it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each type says what it is")]
pub enum Frame<'a> {
    Setup(Setup<'a>),
    Lease(Lease<'a>),
    Keepalive(Keepalive<'a>),
    Request(Request<'a>),
    RequestN(RequestN),
    Cancel(Cancel),
    Payload(PayloadFrame<'a>),
    Error(ErrorFrame<'a>),
    MetadataPush(MetadataPush<'a>),
    Resume(Resume<'a>),
    ResumeOk(ResumeOk),
    Ext(Ext<'a>),
}

impl<'a> Frame<'a> {
    /// Bytes that [`encode`](Self::encode) writes. Whether they fit
    /// [`MAX_FRAME_LEN`] is not checked.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Request(frame) => frame.encoded_len(),
            Self::Payload(frame) => frame.encoded_len(),
            Self::RequestN(_) => RequestN::ENCODED_LEN,
            Self::Cancel(_) => Cancel::ENCODED_LEN,
            Self::Error(frame) => frame.encoded_len(),
            Self::Setup(frame) => frame.encoded_len(),
            Self::Lease(frame) => frame.encoded_len(),
            Self::Keepalive(frame) => frame.encoded_len(),
            Self::MetadataPush(frame) => frame.encoded_len(),
            Self::Resume(frame) => frame.encoded_len(),
            Self::ResumeOk(_) => ResumeOk::ENCODED_LEN,
            Self::Ext(frame) => frame.encoded_len(),
        }
    }

    /// Writes the frame over all of `out`.
    ///
    /// # Panics
    ///
    /// When `out` is not [`encoded_len`](Self::encoded_len) bytes long, or
    /// when a field holds what its documentation rules out.
    #[inline]
    pub fn encode(&self, out: &mut [u8]) {
        match self {
            Self::Request(frame) => frame.head().write(&frame.payload, out),
            Self::Payload(frame) => frame.head().write(&frame.payload, out),
            Self::RequestN(frame) => frame.head().write_all::<{ RequestN::ENCODED_LEN }>(out),
            Self::Cancel(frame) => frame.head().write_all::<{ Cancel::ENCODED_LEN }>(out),
            Self::Error(frame) => frame.head().write(&frame.payload(), out),
            Self::Setup(frame) => frame.encode(out),
            Self::Lease(frame) => frame.encode(out),
            Self::Keepalive(frame) => frame.encode(out),
            Self::MetadataPush(frame) => frame.encode(out),
            Self::Resume(frame) => frame.encode(out),
            Self::ResumeOk(frame) => frame.encode(out),
            Self::Ext(frame) => frame.encode(out),
        }
    }

    /// The frame as bytes of its own.
    ///
    /// # Panics
    ///
    /// When a field holds what its documentation rules out.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; self.encoded_len()];
        self.encode(&mut out);
        out
    }

    /// The stream that the frame belongs to; `None` for the connection.
    #[inline]
    pub fn stream_id(&self) -> Option<StreamId> {
        match self {
            Self::Request(frame) => Some(frame.stream_id),
            Self::Payload(frame) => Some(frame.stream_id),
            Self::RequestN(frame) => Some(frame.stream_id),
            Self::Cancel(frame) => Some(frame.stream_id),
            Self::Error(frame) => frame.stream_id,
            Self::Ext(frame) => StreamId::new(frame.stream_id),
            Self::Setup(_)
            | Self::Lease(_)
            | Self::Keepalive(_)
            | Self::MetadataPush(_)
            | Self::Resume(_)
            | Self::ResumeOk(_) => None,
        }
    }

    /// The type as on the wire.
    #[inline]
    pub fn frame_type(&self) -> FrameType {
        match self {
            Self::Setup(_) => FrameType::Setup,
            Self::Lease(_) => FrameType::Lease,
            Self::Keepalive(_) => FrameType::Keepalive,
            Self::Request(frame) => frame.interaction.into(),
            Self::RequestN(_) => FrameType::RequestN,
            Self::Cancel(_) => FrameType::Cancel,
            Self::Payload(_) => FrameType::Payload,
            Self::Error(_) => FrameType::Error,
            Self::MetadataPush(_) => FrameType::MetadataPush,
            Self::Resume(_) => FrameType::Resume,
            Self::ResumeOk(_) => FrameType::ResumeOk,
            Self::Ext(_) => FrameType::Ext,
        }
    }
}
