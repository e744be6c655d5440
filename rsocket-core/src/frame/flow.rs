//! REQUEST_N and CANCEL: what the receiving side of a stream says to the
//! sending one.

use super::HEADER_LEN;
use super::error::DecodeError;
use super::head::Head;
use super::header::{FrameType, Header};
use super::read::Reader;
use super::value::{Demand, StreamId};

/// REQUEST_N: grants the sender of a stream `n` more payloads.
///
/// Wire: `header | n:u31`, 10 bytes. Bytes behind the field are ignored.
///
/// Spec: "REQUEST_N Frame (0x08)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestN {
    /// The stream whose sender gets the credit.
    pub stream_id: StreamId,
    /// How many payloads are granted on top of earlier grants.
    pub n: Demand,
}

impl RequestN {
    pub(super) const ENCODED_LEN: usize = HEADER_LEN + 4;

    #[inline]
    pub(super) fn decode(header: Header, mut body: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            stream_id: header.stream(FrameType::RequestN)?,
            n: body.ranged("Request N", Demand::new)?,
        })
    }

    #[inline]
    pub(super) fn head(&self) -> Head {
        Head::request_n(self.stream_id, self.n)
    }
}

/// CANCEL: the receiver wants no more of a stream.
///
/// Wire: the header alone, 6 bytes. Bytes behind it are ignored.
///
/// Spec: "CANCEL Frame (0x09)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// The stream that is not wanted any more.
    pub stream_id: StreamId,
}

impl Cancel {
    pub(super) const ENCODED_LEN: usize = HEADER_LEN;

    #[inline]
    pub(super) fn decode(header: Header) -> Result<Self, DecodeError> {
        Ok(Self {
            stream_id: header.stream(FrameType::Cancel)?,
        })
    }

    #[inline]
    pub(super) fn head(&self) -> Head {
        Head::cancel(self.stream_id)
    }
}
