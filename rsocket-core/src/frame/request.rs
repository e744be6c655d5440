//! The four requests: REQUEST_RESPONSE, REQUEST_FNF, REQUEST_STREAM and
//! REQUEST_CHANNEL.

use std::fmt;

use super::HEADER_LEN;
use super::error::DecodeError;
use super::head::Head;
use super::header::{Flags, FrameType, Header};
use super::payload::PayloadRef;
use super::read::Reader;
use super::value::{Demand, StreamId};

/// The four ways to ask.
///
/// Spec: "Stream Sequences and Lifetimes".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Interaction {
    // The numbers are those of the frame types, which makes the conversion free.
    /// One payload, no answer.
    FireAndForget = FrameType::RequestFnf as u8,
    /// One payload, one answer.
    RequestResponse = FrameType::RequestResponse as u8,
    /// One payload, many answers.
    RequestStream = FrameType::RequestStream as u8,
    /// Many payloads in both directions.
    RequestChannel = FrameType::RequestChannel as u8,
}

impl Interaction {
    /// Whether the request carries an initial request-n.
    #[inline]
    pub const fn has_initial_n(self) -> bool {
        matches!(self, Self::RequestStream | Self::RequestChannel)
    }
}

impl fmt::Display for Interaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FireAndForget => "fire-and-forget",
            Self::RequestResponse => "request-response",
            Self::RequestStream => "request-stream",
            Self::RequestChannel => "request-channel",
        })
    }
}

/// A request: opens a stream.
///
/// Wire: `header | [initial_n:u31] | [metadata_len:u24 | metadata] | data`,
/// at least 6 bytes, with an initial request-n at least 10.
///
/// Spec: "REQUEST_RESPONSE Frame (0x04)" to "REQUEST_CHANNEL Frame (0x07)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The new stream.
    pub stream_id: StreamId,
    /// Which of the four frames this is.
    pub interaction: Interaction,
    /// How many payloads the responder may send; `Some` for streams and
    /// channels and for nothing else.
    pub initial_n: Option<Demand>,
    /// Whether more fragments of this payload follow.
    pub follows: bool,
    /// Whether the requester of a channel has nothing more to send; `false`
    /// for all others.
    ///
    /// A peer may set it together with `follows`. Both are kept: it then
    /// speaks of the whole payload, not of this fragment.
    pub complete: bool,
    /// The first, and often the only payload.
    pub payload: PayloadRef<'a>,
}

impl<'a> Request<'a> {
    #[inline]
    pub(super) fn decode(
        interaction: Interaction,
        header: Header,
        mut body: Reader<'a>,
    ) -> Result<Self, DecodeError> {
        let stream_id = header.stream(interaction.into())?;
        let mut initial_n = None;
        if interaction.has_initial_n() {
            initial_n = Some(body.ranged("Initial Request N", Demand::new)?);
        }
        Ok(Self {
            stream_id,
            interaction,
            initial_n,
            follows: header.flags.contains(Flags::FOLLOWS),
            complete: matches!(interaction, Interaction::RequestChannel)
                && header.flags.contains(Flags::COMPLETE),
            payload: body.payload(header.flags.contains(Flags::METADATA))?,
        })
    }

    #[inline]
    pub(super) fn encoded_len(&self) -> usize {
        let initial_n = if self.initial_n.is_some() { 4 } else { 0 };
        HEADER_LEN + initial_n + self.payload.encoded_len()
    }

    #[inline]
    pub(super) fn head(&self) -> Head {
        Head::request(
            self.stream_id,
            self.interaction,
            self.initial_n,
            self.follows,
            self.complete,
            self.payload.metadata.map(<[u8]>::len),
        )
    }
}
