//! Reads fields from the front of a frame, by the spec's names for them.

use super::error::DecodeError;
use super::payload::PayloadRef;
use super::value::Position;

/// What is left of a frame. No method panics, whatever the bytes.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    pub(super) const fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    #[inline]
    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array(field)?))
    }

    #[inline]
    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    #[inline]
    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    /// A 32-bit field of which `accept` says what it may hold.
    #[inline]
    pub(super) fn ranged<T>(
        &mut self,
        field: &'static str,
        accept: impl FnOnce(u32) -> Option<T>,
    ) -> Result<T, DecodeError> {
        let raw = self.u32(field)?;
        accept(raw).ok_or_else(|| DecodeError::OutOfRange {
            field,
            value: u64::from(raw),
        })
    }

    #[inline]
    pub(super) fn position(&mut self, field: &'static str) -> Result<Position, DecodeError> {
        let value = u64::from_be_bytes(self.array(field)?);
        Position::new(value).ok_or(DecodeError::OutOfRange { field, value })
    }

    #[inline]
    pub(super) fn bytes(
        &mut self,
        field: &'static str,
        need: usize,
    ) -> Result<&'a [u8], DecodeError> {
        let Some((bytes, rest)) = self.0.split_at_checked(need) else {
            return Err(self.truncated(field, need));
        };
        self.0 = rest;
        Ok(bytes)
    }

    #[inline]
    pub(super) const fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Metadata behind its 24-bit length if there is any, and then data.
    ///
    /// Spec: "Metadata Optional Header".
    #[inline]
    pub(super) fn payload(mut self, has_metadata: bool) -> Result<PayloadRef<'a>, DecodeError> {
        let mut metadata = None;
        if has_metadata {
            let [a, b, c] = self.array("Metadata Length")?;
            let claimed = u32::from_be_bytes([0, a, b, c]) as usize;
            let left = self.0.len();
            let Some((bytes, rest)) = self.0.split_at_checked(claimed) else {
                return Err(DecodeError::MetadataLength { claimed, left });
            };
            metadata = Some(bytes);
            self.0 = rest;
        }
        Ok(PayloadRef {
            metadata,
            data: self.0,
        })
    }

    #[inline]
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((&array, rest)) = self.0.split_first_chunk::<N>() else {
            return Err(self.truncated(field, N));
        };
        self.0 = rest;
        Ok(array)
    }

    #[cold]
    fn truncated(&self, field: &'static str, need: usize) -> DecodeError {
        DecodeError::Truncated {
            field,
            need,
            left: self.0.len(),
        }
    }
}
