//! What can be wrong with bytes, and the ERROR frame with its codes.

use std::borrow::Cow;
use std::fmt;

use super::HEADER_LEN;
use super::head::Head;
use super::header::{FrameType, Header};
use super::payload::PayloadRef;
use super::read::Reader;
use super::value::StreamId;

/// Why bytes are not a frame.
///
/// All of these are the peer's doing. Whether one ends the connection depends
/// on the variant and on the frame's IGNORE flag, see
/// [`Header::is_ignorable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The frame ends inside a field.
    #[error("{field} needs {need} bytes, {left} left")]
    Truncated {
        /// The field's name in the spec.
        field: &'static str,
        /// Bytes that the field takes.
        need: usize,
        /// Bytes that were left for it.
        left: usize,
    },
    /// A field holds a value that the spec rules out.
    #[error("{field} cannot be {value:#x}")]
    OutOfRange {
        /// The field's name in the spec.
        field: &'static str,
        /// What the peer sent.
        value: u64,
    },
    /// The metadata would end behind the frame.
    ///
    /// Spec: "Metadata Optional Header".
    #[error("metadata of {claimed} bytes, {left} left")]
    MetadataLength {
        /// The metadata length that the peer wrote.
        claimed: usize,
        /// Bytes that were left for metadata and data.
        left: usize,
    },
    /// RSocket 1.0 has no such frame.
    #[error("unknown frame type {frame_type:#04x}")]
    UnknownType {
        /// The six type bits: 0..=0x3F.
        frame_type: u8,
    },
    /// A connection frame names a stream, or a stream frame names none. The
    /// spec has these ignored.
    #[error("{frame_type} on stream {stream_id}")]
    WrongStream {
        /// The type of the frame.
        frame_type: FrameType,
        /// The stream id that the peer wrote, 0 for the connection.
        stream_id: u32,
    },
}

/// The code of an ERROR frame, any 32 bits.
///
/// Spec: "Error Codes".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(u32);

impl ErrorCode {
    /// The server cannot use this SETUP. Stream 0 only.
    pub const INVALID_SETUP: Self = Self(0x0000_0001);
    /// The server does not support something that SETUP asks for. Stream 0 only.
    pub const UNSUPPORTED_SETUP: Self = Self(0x0000_0002);
    /// The server refuses this SETUP. Stream 0 only.
    pub const REJECTED_SETUP: Self = Self(0x0000_0003);
    /// The server does not continue this session. Stream 0 only.
    pub const REJECTED_RESUME: Self = Self(0x0000_0004);
    /// The connection ends at once. Stream 0 only.
    pub const CONNECTION_ERROR: Self = Self(0x0000_0101);
    /// The connection ends when its streams have. Stream 0 only.
    pub const CONNECTION_CLOSE: Self = Self(0x0000_0102);
    /// The application failed. Streams only.
    pub const APPLICATION_ERROR: Self = Self(0x0000_0201);
    /// The request was refused and not processed at all. Streams only.
    pub const REJECTED: Self = Self(0x0000_0202);
    /// The responder gave up, perhaps half way. Streams only.
    pub const CANCELED: Self = Self(0x0000_0203);
    /// The request makes no sense to the responder. Streams only.
    pub const INVALID: Self = Self(0x0000_0204);

    /// Takes a code as it is on the wire; none is refused.
    #[inline]
    pub const fn new(code: u32) -> Self {
        Self(code)
    }

    /// The code as it is on the wire.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether the spec leaves the code to applications:
    /// 0x301..=0xFFFF_FFFE.
    pub const fn is_application(self) -> bool {
        matches!(self.0, 0x301..=0xFFFF_FFFE)
    }
}

/// The spec's name, or the number: `REJECTED_SETUP`, `0x00000301`.
impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::INVALID_SETUP => "INVALID_SETUP",
            Self::UNSUPPORTED_SETUP => "UNSUPPORTED_SETUP",
            Self::REJECTED_SETUP => "REJECTED_SETUP",
            Self::REJECTED_RESUME => "REJECTED_RESUME",
            Self::CONNECTION_ERROR => "CONNECTION_ERROR",
            Self::CONNECTION_CLOSE => "CONNECTION_CLOSE",
            Self::APPLICATION_ERROR => "APPLICATION_ERROR",
            Self::REJECTED => "REJECTED",
            Self::CANCELED => "CANCELED",
            Self::INVALID => "INVALID",
            Self(code) => return write!(f, "{code:#010x}"),
        })
    }
}

/// ERROR: ends a stream or the connection, and says why.
///
/// Wire: `header | code:u32 | message`, at least 10 bytes.
///
/// Spec: "ERROR Frame (0x0B)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFrame<'a> {
    /// The stream that ends; `None` for the connection.
    pub stream_id: Option<StreamId>,
    /// What happened. Whether the code suits the stream is not checked here.
    pub code: ErrorCode,
    /// For people to read. Should be UTF-8; what came is not checked.
    pub message: &'a [u8],
}

impl<'a> ErrorFrame<'a> {
    /// The message as text; bytes that are not UTF-8 become U+FFFD.
    pub fn message_lossy(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.message)
    }

    #[inline]
    pub(super) fn decode(header: Header, mut body: Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            stream_id: StreamId::new(header.stream_id),
            code: ErrorCode(body.u32("Error Code")?),
            message: body.rest(),
        })
    }

    #[inline]
    pub(super) fn encoded_len(&self) -> usize {
        HEADER_LEN + 4 + self.message.len()
    }

    #[inline]
    pub(super) fn head(&self) -> Head {
        Head::error(self.stream_id, self.code)
    }

    /// The message, in the place that data has in other frames.
    #[inline]
    pub(super) fn payload(&self) -> PayloadRef<'a> {
        PayloadRef {
            metadata: None,
            data: self.message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [C087]
    #[test]
    fn codes_have_the_numbers_and_names_of_the_spec() {
        for (code, name) in [
            (0x001, "INVALID_SETUP"),
            (0x002, "UNSUPPORTED_SETUP"),
            (0x003, "REJECTED_SETUP"),
            (0x004, "REJECTED_RESUME"),
            (0x101, "CONNECTION_ERROR"),
            (0x102, "CONNECTION_CLOSE"),
            (0x201, "APPLICATION_ERROR"),
            (0x202, "REJECTED"),
            (0x203, "CANCELED"),
            (0x204, "INVALID"),
            (0x000, "0x00000000"),
            (0x301, "0x00000301"),
            (u32::MAX, "0xffffffff"),
        ] {
            assert_eq!(ErrorCode::new(code).to_string(), name);
        }
        let is_application = |code| ErrorCode::new(code).is_application();
        assert!(is_application(0x301) && is_application(0xFFFF_FFFE));
        assert!(!is_application(0x300) && !is_application(u32::MAX) && !is_application(0x201));
    }

    #[test]
    fn decode_errors_say_the_numbers() {
        let error = DecodeError::Truncated {
            field: "Request N",
            need: 4,
            left: 2,
        };
        assert_eq!(error.to_string(), "Request N needs 4 bytes, 2 left");
        let error = DecodeError::WrongStream {
            frame_type: FrameType::RequestN,
            stream_id: 0,
        };
        assert_eq!(error.to_string(), "REQUEST_N on stream 0");
    }
}
