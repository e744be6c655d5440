//! SETUP: opens a session.

use super::HEADER_LEN;
use super::error::DecodeError;
use super::header::{Flags, FrameType, Header};
use super::payload::PayloadRef;
use super::read::Reader;
use super::value::Millis31;
use super::write::Writer;

/// SETUP: the first frame of a session, sent by the client.
///
/// Wire: `header | major:u16 | minor:u16 | keepalive:u31 | max_lifetime:u31 |
/// [token_len:u16 | token] | len:u8 | metadata_mime | len:u8 | data_mime |
/// [metadata_len:u24 | metadata] | data`, at least 20 bytes.
///
/// Spec: "SETUP Frame (0x01)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup<'a> {
    /// Major version of the protocol, 1 for RSocket 1.0. Not checked here.
    pub major: u16,
    /// Minor version of the protocol.
    pub minor: u16,
    /// How often the client sends KEEPALIVE.
    pub keepalive: Millis31,
    /// How long the client lets the server be silent.
    pub max_lifetime: Millis31,
    /// Names the session in a later RESUME; `None` if it cannot be resumed.
    /// At most 65535 bytes.
    pub resume_token: Option<&'a [u8]>,
    /// Whether the client honours LEASE.
    pub lease: bool,
    /// Type of the metadata of all payloads; ASCII by the spec, at most 255
    /// bytes. Peers exist that read its length as signed: send at most 127.
    pub metadata_mime: &'a [u8],
    /// Type of the data of all payloads; as `metadata_mime`.
    pub data_mime: &'a [u8],
    /// The application's own.
    pub payload: PayloadRef<'a>,
}

impl<'a> Setup<'a> {
    pub(super) fn decode(header: Header, mut body: Reader<'a>) -> Result<Self, DecodeError> {
        header.connection(FrameType::Setup)?;
        let major = body.u16("Major Version")?;
        let minor = body.u16("Minor Version")?;
        let keepalive = body.ranged("Time Between KEEPALIVE Frames", Millis31::new)?;
        let max_lifetime = body.ranged("Max Lifetime", Millis31::new)?;
        let mut resume_token = None;
        if header.flags.contains(Flags::RESUME) {
            let len = body.u16("Resume Identification Token Length")?;
            resume_token = Some(body.bytes("Resume Identification Token", usize::from(len))?);
        }
        let len = body.u8("Metadata MIME Length")?;
        let metadata_mime = body.bytes("Metadata Encoding MIME Type", usize::from(len))?;
        let len = body.u8("Data MIME Length")?;
        let data_mime = body.bytes("Data Encoding MIME Type", usize::from(len))?;
        Ok(Self {
            major,
            minor,
            keepalive,
            max_lifetime,
            resume_token,
            lease: header.flags.contains(Flags::LEASE),
            metadata_mime,
            data_mime,
            payload: body.payload(header.flags.contains(Flags::METADATA))?,
        })
    }

    pub(super) fn encoded_len(&self) -> usize {
        HEADER_LEN
            + 12
            + self.resume_token.map_or(0, |token| 2 + token.len())
            + 1
            + self.metadata_mime.len()
            + 1
            + self.data_mime.len()
            + self.payload.encoded_len()
    }

    #[inline(never)]
    pub(super) fn encode(&self, out: &mut [u8]) {
        let flags = Flags::default()
            .with(Flags::METADATA, self.payload.metadata.is_some())
            .with(Flags::RESUME, self.resume_token.is_some())
            .with(Flags::LEASE, self.lease);
        let mut writer = Writer::new(out, 0, FrameType::Setup, flags);
        writer.u16(self.major);
        writer.u16(self.minor);
        writer.u32(self.keepalive.get());
        writer.u32(self.max_lifetime.get());
        if let Some(token) = self.resume_token {
            writer.long_bytes("resume token", token);
        }
        writer.short_bytes("metadata MIME type", self.metadata_mime);
        writer.short_bytes("data MIME type", self.data_mime);
        if let Some(metadata) = self.payload.metadata {
            writer.metadata(metadata);
        }
        writer.rest(self.payload.data);
    }
}
