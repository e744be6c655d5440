//! RESUME and RESUME_OK: a session goes on over a new connection.

use super::HEADER_LEN;
use super::error::DecodeError;
use super::header::{Flags, FrameType, Header};
use super::read::Reader;
use super::value::Position;
use super::write::Writer;

/// RESUME: the client asks to go on with a session.
///
/// Wire: `header | major:u16 | minor:u16 | token_len:u16 | token |
/// last_received_server:u63 | first_available_client:u63`, at least 28 bytes.
/// Bytes behind the last field are ignored.
///
/// Spec: "RESUME Frame (0x0D)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume<'a> {
    /// Major version of the protocol, 1 for RSocket 1.0. Not checked here.
    pub major: u16,
    /// Minor version of the protocol.
    pub minor: u16,
    /// The token of the session's SETUP, at most 65535 bytes.
    pub token: &'a [u8],
    /// What the client has received from the server.
    pub last_received_server: Position,
    /// From where on the client can send again.
    pub first_available_client: Position,
}

impl<'a> Resume<'a> {
    pub(super) fn decode(header: Header, mut body: Reader<'a>) -> Result<Self, DecodeError> {
        header.connection(FrameType::Resume)?;
        let major = body.u16("Major Version")?;
        let minor = body.u16("Minor Version")?;
        let len = body.u16("Resume Identification Token Length")?;
        Ok(Self {
            major,
            minor,
            token: body.bytes("Resume Identification Token", usize::from(len))?,
            last_received_server: body.position("Last Received Server Position")?,
            first_available_client: body.position("First Available Client Position")?,
        })
    }

    pub(super) fn encoded_len(&self) -> usize {
        HEADER_LEN + 22 + self.token.len()
    }

    #[inline(never)]
    pub(super) fn encode(&self, out: &mut [u8]) {
        let mut writer = Writer::new(out, 0, FrameType::Resume, Flags::default());
        writer.u16(self.major);
        writer.u16(self.minor);
        writer.long_bytes("resume token", self.token);
        writer.position(self.last_received_server);
        writer.position(self.first_available_client);
        writer.rest(&[]);
    }
}

/// RESUME_OK: the server goes on with the session.
///
/// Wire: `header | last_received_client:u63`, 14 bytes. Bytes behind the
/// field are ignored.
///
/// Spec: "RESUME_OK Frame (0x0E)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeOk {
    /// What the server has received from the client.
    pub last_received_client: Position,
}

impl ResumeOk {
    pub(super) const ENCODED_LEN: usize = HEADER_LEN + 8;

    pub(super) fn decode(header: Header, mut body: Reader<'_>) -> Result<Self, DecodeError> {
        header.connection(FrameType::ResumeOk)?;
        Ok(Self {
            last_received_client: body.position("Last Received Client Position")?,
        })
    }

    #[inline(never)]
    pub(super) fn encode(&self, out: &mut [u8]) {
        let mut writer = Writer::new(out, 0, FrameType::ResumeOk, Flags::default());
        writer.position(self.last_received_client);
        writer.rest(&[]);
    }
}
