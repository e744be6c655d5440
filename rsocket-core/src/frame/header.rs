//! The six bytes that start every frame.

use std::fmt;
use std::ops::BitOr;

use super::HEADER_LEN;
use super::error::DecodeError;
use super::request::Interaction;
use super::value::StreamId;

/// The frame types of RSocket 1.0.
///
/// Spec: "Frame Types".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// Opens a session.
    Setup = 0x01,
    /// Grants new requests for a time.
    Lease = 0x02,
    /// Shows that the sender is alive.
    Keepalive = 0x03,
    /// Asks for one payload.
    RequestResponse = 0x04,
    /// Fire-and-forget.
    RequestFnf = 0x05,
    /// Asks for many payloads.
    RequestStream = 0x06,
    /// Opens a stream of payloads in both directions.
    RequestChannel = 0x07,
    /// Asks for more payloads.
    RequestN = 0x08,
    /// Ends a stream from the receiving side.
    Cancel = 0x09,
    /// Carries a payload, the end of a stream, or both.
    Payload = 0x0A,
    /// Ends a stream or the connection, and says why.
    Error = 0x0B,
    /// Metadata for the peer as a whole.
    MetadataPush = 0x0C,
    /// Continues a session on a new connection.
    Resume = 0x0D,
    /// Accepts a RESUME.
    ResumeOk = 0x0E,
    /// An extension.
    Ext = 0x3F,
}

impl FrameType {
    /// Returns `None` for the types that the spec does not assign.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x01 => Self::Setup,
            0x02 => Self::Lease,
            0x03 => Self::Keepalive,
            0x04 => Self::RequestResponse,
            0x05 => Self::RequestFnf,
            0x06 => Self::RequestStream,
            0x07 => Self::RequestChannel,
            0x08 => Self::RequestN,
            0x09 => Self::Cancel,
            0x0A => Self::Payload,
            0x0B => Self::Error,
            0x0C => Self::MetadataPush,
            0x0D => Self::Resume,
            0x0E => Self::ResumeOk,
            0x3F => Self::Ext,
            _ => return None,
        })
    }
}

impl From<Interaction> for FrameType {
    #[inline]
    fn from(interaction: Interaction) -> Self {
        match interaction {
            Interaction::FireAndForget => Self::RequestFnf,
            Interaction::RequestResponse => Self::RequestResponse,
            Interaction::RequestStream => Self::RequestStream,
            Interaction::RequestChannel => Self::RequestChannel,
        }
    }
}

/// The name in the spec's capitals, such as `REQUEST_N`.
impl fmt::Display for FrameType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setup => "SETUP",
            Self::Lease => "LEASE",
            Self::Keepalive => "KEEPALIVE",
            Self::RequestResponse => "REQUEST_RESPONSE",
            Self::RequestFnf => "REQUEST_FNF",
            Self::RequestStream => "REQUEST_STREAM",
            Self::RequestChannel => "REQUEST_CHANNEL",
            Self::RequestN => "REQUEST_N",
            Self::Cancel => "CANCEL",
            Self::Payload => "PAYLOAD",
            Self::Error => "ERROR",
            Self::MetadataPush => "METADATA_PUSH",
            Self::Resume => "RESUME",
            Self::ResumeOk => "RESUME_OK",
            Self::Ext => "EXT",
        })
    }
}

/// The ten flag bits of a frame. What bits 7 and 6 mean depends on the type.
///
/// Spec: "Flags", and the section of each frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u16);

impl Flags {
    /// I: the receiver may ignore the frame if it does not understand it.
    pub const IGNORE: Self = Self(0x200);
    /// M: metadata is present.
    pub const METADATA: Self = Self(0x100);
    /// F, on requests and PAYLOAD: more fragments follow.
    pub const FOLLOWS: Self = Self(0x080);
    /// R, on SETUP: a resume token is present.
    pub const RESUME: Self = Self(0x080);
    /// R, on KEEPALIVE: the receiver is to answer.
    pub const RESPOND: Self = Self(0x080);
    /// C, on PAYLOAD and REQUEST_CHANNEL: the sender has nothing more to send.
    pub const COMPLETE: Self = Self(0x040);
    /// L, on SETUP: the client honours LEASE.
    pub const LEASE: Self = Self(0x040);
    /// N, on PAYLOAD: the frame carries a payload.
    pub const NEXT: Self = Self(0x020);

    /// Takes the low ten bits and drops the others.
    #[inline]
    pub const fn from_bits_truncate(bits: u16) -> Self {
        Self(bits & 0x3FF)
    }

    /// The bits as on the wire, undefined ones included: 0..=0x3FF.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all bits of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds `flag` if `on`.
    #[inline]
    pub(super) const fn with(self, flag: Self, on: bool) -> Self {
        Self(self.0 | (flag.0 * on as u16))
    }
}

impl BitOr for Flags {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The header of a frame, of a known type or not.
///
/// Wire: `0:1 stream_id:31 | type:6 flags:10`, big endian, 6 bytes.
///
/// Spec: "Frame Header Format".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The stream id, 0 for the connection. The top bit, which the spec
    /// leaves at 0, is masked and not looked at.
    pub stream_id: u32,
    /// The type as it came: 0..=0x3F.
    pub frame_type: u8,
    /// All ten flag bits as they came.
    pub flags: Flags,
}

impl Header {
    /// Reads the header of any frame, also of one that
    /// [`Frame::decode`](super::Frame::decode) refuses: for logs, and to ask
    /// whether it may be ignored.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] below 6 bytes.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self::split(bytes)?.0)
    }

    /// Whether the sender set IGNORE: a frame that is not understood is then
    /// dropped, and does not end the connection.
    ///
    /// Spec: "Handling Ignore Flag".
    #[inline]
    pub const fn is_ignorable(self) -> bool {
        self.flags.contains(Flags::IGNORE)
    }

    /// The header, and what comes after it.
    #[inline]
    pub(super) fn split(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        // The fields are taken from it as chunks, so that each is one load.
        if let Some((header, body)) = bytes.split_first_chunk::<HEADER_LEN>()
            && let (Some(stream_id), Some(word)) = (header.first_chunk(), header.last_chunk())
        {
            let word = u16::from_be_bytes(*word);
            let header = Self {
                stream_id: u32::from_be_bytes(*stream_id) & StreamId::MAX.get(),
                frame_type: (word >> 10) as u8,
                flags: Flags::from_bits_truncate(word),
            };
            return Ok((header, body));
        }
        Err(DecodeError::Truncated {
            field: "Frame Header",
            need: HEADER_LEN,
            left: bytes.len(),
        })
    }

    /// The stream of a frame that only makes sense on one.
    #[inline]
    pub(super) fn stream(self, frame_type: FrameType) -> Result<StreamId, DecodeError> {
        StreamId::new(self.stream_id).ok_or(DecodeError::WrongStream {
            frame_type,
            stream_id: self.stream_id,
        })
    }

    /// Refuses a stream id on a frame of the connection.
    #[inline]
    pub(super) fn connection(self, frame_type: FrameType) -> Result<(), DecodeError> {
        if self.stream_id == 0 {
            return Ok(());
        }
        Err(DecodeError::WrongStream {
            frame_type,
            stream_id: self.stream_id,
        })
    }
}
