//! METADATA_PUSH: metadata for the peer as a whole.

use super::HEADER_LEN;
use super::error::DecodeError;
use super::header::{Flags, FrameType, Header};
use super::read::Reader;
use super::write::Writer;

/// METADATA_PUSH: metadata that belongs to no stream. There is no answer.
///
/// Wire: `header | metadata`, at least 6 bytes. The metadata has no length
/// field: nothing comes behind it.
///
/// Spec: "METADATA_PUSH Frame (0x0C)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataPush<'a> {
    /// Everything behind the header, whether or not the peer set METADATA as
    /// it should: there is nothing else that it could be.
    pub metadata: &'a [u8],
}

impl<'a> MetadataPush<'a> {
    pub(super) fn decode(header: Header, body: Reader<'a>) -> Result<Self, DecodeError> {
        header.connection(FrameType::MetadataPush)?;
        Ok(Self {
            metadata: body.rest(),
        })
    }

    pub(super) fn encoded_len(&self) -> usize {
        HEADER_LEN + self.metadata.len()
    }

    #[inline(never)]
    pub(super) fn encode(&self, out: &mut [u8]) {
        Writer::new(out, 0, FrameType::MetadataPush, Flags::METADATA).rest(self.metadata);
    }
}
