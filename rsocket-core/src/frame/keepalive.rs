//! KEEPALIVE: shows that the sender is alive.

use super::HEADER_LEN;
use super::error::DecodeError;
use super::header::{Flags, FrameType, Header};
use super::read::Reader;
use super::value::Position;
use super::write::Writer;

/// KEEPALIVE: shows that the sender is alive, and how far it has received.
///
/// Wire: `header | last_received:u63 | data`, at least 14 bytes.
///
/// Spec: "KEEPALIVE Frame (0x03)".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive<'a> {
    /// Whether the receiver is to answer, with the same data.
    pub respond: bool,
    /// What the sender has received; zero in a session that cannot be resumed.
    pub last_received: Position,
    /// Comes back in the answer.
    pub data: &'a [u8],
}

impl<'a> Keepalive<'a> {
    pub(super) fn decode(header: Header, mut body: Reader<'a>) -> Result<Self, DecodeError> {
        header.connection(FrameType::Keepalive)?;
        Ok(Self {
            respond: header.flags.contains(Flags::RESPOND),
            last_received: body.position("Last Received Position")?,
            data: body.rest(),
        })
    }

    pub(super) fn encoded_len(&self) -> usize {
        HEADER_LEN + 8 + self.data.len()
    }

    #[inline(never)]
    pub(super) fn encode(&self, out: &mut [u8]) {
        let flags = Flags::default().with(Flags::RESPOND, self.respond);
        let mut writer = Writer::new(out, 0, FrameType::Keepalive, flags);
        writer.position(self.last_received);
        writer.rest(self.data);
    }
}
