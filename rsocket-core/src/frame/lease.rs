//! LEASE: grants new requests for a time.

use super::HEADER_LEN;
use super::error::DecodeError;
use super::header::{Flags, FrameType, Header};
use super::read::Reader;
use super::write::Writer;

/// LEASE: lets the peer start requests, and replaces what was granted before.
///
/// Wire: `header | ttl:u31 | requests:u31 | metadata`, at least 14 bytes. The
/// metadata has no length field: nothing comes behind it.
///
/// Spec: "LEASE Frame (0x02)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease<'a> {
    /// How long the grant holds from its arrival, in ms: 0..=2^31-1. The spec
    /// asks for more than 0, and lets 0 stop all requests.
    pub ttl_ms: u32,
    /// How many requests may be started: 0..=2^31-1, 0 as in `ttl_ms`.
    pub requests: u32,
    /// The application's own.
    pub metadata: Option<&'a [u8]>,
}

impl<'a> Lease<'a> {
    pub(super) fn decode(header: Header, mut body: Reader<'a>) -> Result<Self, DecodeError> {
        header.connection(FrameType::Lease)?;
        let u31 = |raw: u32| (raw >> 31 == 0).then_some(raw);
        Ok(Self {
            ttl_ms: body.ranged("Time-To-Live", u31)?,
            requests: body.ranged("Number of Requests", u31)?,
            metadata: header
                .flags
                .contains(Flags::METADATA)
                .then_some(body.rest()),
        })
    }

    pub(super) fn encoded_len(&self) -> usize {
        HEADER_LEN + 8 + self.metadata.map_or(0, <[u8]>::len)
    }

    #[inline(never)]
    pub(super) fn encode(&self, out: &mut [u8]) {
        let flags = Flags::default().with(Flags::METADATA, self.metadata.is_some());
        let mut writer = Writer::new(out, 0, FrameType::Lease, flags);
        writer.u31("time to live", self.ttl_ms);
        writer.u31("number of requests", self.requests);
        writer.rest(self.metadata.unwrap_or_default());
    }
}
