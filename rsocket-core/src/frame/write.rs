//! Writes fields behind one another into a buffer of the right length.

use super::MAX_FRAME_LEN;
use super::header::{Flags, FrameType};
use super::value::Position;

/// What is still to be filled. Each method panics when its field does not fit,
/// which is the caller's bug: the buffer has the frame's length.
pub(super) struct Writer<'b>(&'b mut [u8]);

impl<'b> Writer<'b> {
    /// Starts with the header.
    pub(super) fn new(
        out: &'b mut [u8],
        stream_id: u32,
        frame_type: FrameType,
        flags: Flags,
    ) -> Self {
        let mut writer = Self(out);
        writer.u32(stream_id);
        writer.u16((frame_type as u16) << 10 | flags.bits());
        writer
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// A field whose top bit is 0.
    pub(super) fn u31(&mut self, field: &'static str, value: u32) {
        assert!(value >> 31 == 0, "{field} takes 31 bits, not {value:#x}");
        self.u32(value);
    }

    pub(super) fn position(&mut self, position: Position) {
        self.bytes(&position.get().to_be_bytes());
    }

    /// Bytes behind their 8-bit length.
    pub(super) fn short_bytes(&mut self, field: &'static str, bytes: &[u8]) {
        let Ok(len) = u8::try_from(bytes.len()) else {
            panic!("{field} of {} bytes, at most 255 fit", bytes.len());
        };
        self.u8(len);
        self.bytes(bytes);
    }

    /// Bytes behind their 16-bit length.
    pub(super) fn long_bytes(&mut self, field: &'static str, bytes: &[u8]) {
        let Ok(len) = u16::try_from(bytes.len()) else {
            panic!("{field} of {} bytes, at most 65535 fit", bytes.len());
        };
        self.u16(len);
        self.bytes(bytes);
    }

    /// Metadata behind its 24-bit length.
    pub(super) fn metadata(&mut self, metadata: &[u8]) {
        let [_, length @ ..] = metadata_length(metadata.len()).to_be_bytes();
        self.bytes(&length);
        self.bytes(metadata);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let (front, rest) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        front.copy_from_slice(bytes);
        self.0 = rest;
    }

    /// Fills the rest with `bytes`, which must be as long.
    pub(super) fn rest(self, bytes: &[u8]) {
        self.0.copy_from_slice(bytes);
    }
}

/// A length that fits the 24 bits of the field.
///
/// # Panics
///
/// When it does not.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "asserted to fit 24 bits")]
pub(super) fn metadata_length(len: usize) -> u32 {
    assert!(len <= MAX_FRAME_LEN, "metadata does not fit a frame");
    len as u32
}
