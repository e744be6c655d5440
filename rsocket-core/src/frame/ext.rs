//! EXT: room for extensions.

use super::HEADER_LEN;
use super::error::DecodeError;
use super::header::{Flags, FrameType, Header};
use super::read::Reader;
use super::value::StreamId;
use super::write::Writer;

/// EXT: a frame whose meaning an extension defines.
///
/// Wire: `header | extended_type:u31 | body`, at least 10 bytes.
///
/// Spec: "EXT (Extension) Frame (0x3F)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ext<'a> {
    /// A stream, or 0 for the connection: 0..=2^31-1.
    pub stream_id: u32,
    /// Whether a receiver that does not know the extension ignores the frame.
    pub ignore: bool,
    /// Names the extension: 1..=2^31-1.
    pub extended_type: u32,
    /// The METADATA flag; where in the body the metadata is, the extension
    /// knows.
    pub metadata_flag: bool,
    /// Everything behind the extended type.
    pub body: &'a [u8],
}

impl<'a> Ext<'a> {
    pub(super) fn decode(header: Header, mut body: Reader<'a>) -> Result<Self, DecodeError> {
        let extended_type = body.ranged("Extended Type", |raw| {
            matches!(raw, 1..=0x7FFF_FFFF).then_some(raw)
        })?;
        Ok(Self {
            stream_id: header.stream_id,
            ignore: header.is_ignorable(),
            extended_type,
            metadata_flag: header.flags.contains(Flags::METADATA),
            body: body.rest(),
        })
    }

    pub(super) fn encoded_len(&self) -> usize {
        HEADER_LEN + 4 + self.body.len()
    }

    #[inline(never)]
    pub(super) fn encode(&self, out: &mut [u8]) {
        assert!(
            self.stream_id <= StreamId::MAX.get(),
            "stream id takes 31 bits"
        );
        assert!(
            self.extended_type != 0,
            "extended type 0 names no extension"
        );
        let flags = Flags::default()
            .with(Flags::IGNORE, self.ignore)
            .with(Flags::METADATA, self.metadata_flag);
        let mut writer = Writer::new(out, self.stream_id, FrameType::Ext, flags);
        writer.u31("extended type", self.extended_type);
        writer.rest(self.body);
    }
}
