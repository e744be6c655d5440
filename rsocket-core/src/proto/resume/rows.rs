//! What the rows of a stored session are, and how their bytes are read.
//!
//! | key | row |
//! |---|---|
//! | [`META`] | [`STATE`]: what changes all the time, [`SETUP`]: the SETUP frame, [`ANSWERS`]: refusals not sent yet |
//! | [`LOG`], 0, position | a frame that the peer has not confirmed |
//! | [`STREAM`], id, part and number | one stream, see [`Part`] |
//!
//! Numbers are little endian in groups of seven bits (LEB128), bytes have their
//! length before them. What is read comes from a disk, so all of it is checked.

use bytes::Bytes;

use crate::{
    Payload,
    resume::{Batch, Key},
};

/// Changes when what is written can no longer be read as before.
pub(in crate::proto) const FORMAT: u64 = 1;

pub(in crate::proto) const META: u8 = 0;
pub(in crate::proto) const LOG: u8 = 1;
pub(in crate::proto) const STREAM: u8 = 2;

pub(in crate::proto) const STATE: Key = Key::new(META, 0, 0);
pub(in crate::proto) const SETUP: Key = Key::new(META, 0, 1);
pub(in crate::proto) const ANSWERS: Key = Key::new(META, 0, 2);

/// What a row of a stream holds; the upper bits of the second number of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::proto) enum Part {
    /// Its state and its counters.
    State = 0,
    /// The request that opened it, for people to know it again.
    Request = 1,
    /// A payload that the application has not dealt with, by its index.
    Inbox = 2,
    /// Something to be sent, in order.
    Outbox = 3,
    /// A piece of a payload that is being reassembled, in order.
    Join = 4,
}

impl Part {
    const SHIFT: u32 = 56;

    /// The key of this part's row number `n`.
    pub(in crate::proto) const fn key(self, id: u32, n: u64) -> Key {
        Key::new(STREAM, id as u64, (self as u64) << Self::SHIFT | n)
    }

    /// The part, and the number within it.
    pub(in crate::proto) fn of(key: Key) -> Option<(Self, u64)> {
        let part = match key.b >> Self::SHIFT {
            0 => Self::State,
            1 => Self::Request,
            2 => Self::Inbox,
            3 => Self::Outbox,
            4 => Self::Join,
            _ => return None,
        };
        Some((part, key.b & ((1 << Self::SHIFT) - 1)))
    }

    /// Deletes the part's rows `from..to`.
    pub(in crate::proto) fn delete(self, id: u32, rows: std::ops::Range<u64>, batch: &mut Batch) {
        if !rows.is_empty() {
            batch.delete_range(self.key(id, rows.start)..self.key(id, rows.end));
        }
    }
}

/// Deletes all rows of a stream.
pub(in crate::proto) fn delete_stream(id: u32, batch: &mut Batch) {
    let id = u64::from(id);
    batch.delete_range(Key::new(STREAM, id, 0)..Key::new(STREAM, id + 1, 0));
}

/// A row while it is written.
#[derive(Debug, Default)]
pub(in crate::proto) struct Writer(Vec<u8>);

impl Writer {
    pub(in crate::proto) fn new() -> Self {
        Self::default()
    }

    pub(in crate::proto) fn u8(&mut self, n: u8) {
        self.0.push(n);
    }

    pub(in crate::proto) fn bool(&mut self, b: bool) {
        self.0.push(b.into());
    }

    #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
    pub(in crate::proto) fn u64(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    pub(in crate::proto) fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(in crate::proto) fn payload(&mut self, payload: &Payload) {
        self.bool(payload.metadata().is_some());
        if let Some(metadata) = payload.metadata() {
            self.bytes(metadata);
        }
        self.bytes(payload.data());
    }

    pub(in crate::proto) fn into_vec(self) -> Vec<u8> {
        self.0
    }

    pub(in crate::proto) fn into_bytes(self) -> Bytes {
        self.0.into()
    }
}

/// A row does not say what rows say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored session is damaged: {0}")]
pub struct Damaged(pub(in crate::proto) &'static str);

/// A row while it is read.
#[derive(Debug)]
pub(in crate::proto) struct Reader {
    row: Bytes,
}

impl Reader {
    pub(in crate::proto) fn new(row: Bytes) -> Self {
        Self { row }
    }

    fn split(&mut self, len: usize) -> Result<Bytes, Damaged> {
        if len > self.row.len() {
            return Err(Damaged("a row is too short"));
        }
        Ok(self.row.split_to(len))
    }

    pub(in crate::proto) fn u8(&mut self) -> Result<u8, Damaged> {
        self.split(1)?
            .first()
            .copied()
            .ok_or(Damaged("a row is too short"))
    }

    pub(in crate::proto) fn bool(&mut self) -> Result<bool, Damaged> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged("a flag is neither set nor clear")),
        }
    }

    pub(in crate::proto) fn u64(&mut self) -> Result<u64, Damaged> {
        let mut n = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                break;
            }
            n |= bits << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(Damaged("a number is too long"))
    }

    /// A number that counts, and can go on counting: keys have room for it.
    pub(in crate::proto) fn count(&mut self) -> Result<u64, Damaged> {
        let n = self.u64()?;
        match n >> (Part::SHIFT - 1) {
            0 => Ok(n),
            _ => Err(Damaged("a number is too large")),
        }
    }

    pub(in crate::proto) fn u32(&mut self) -> Result<u32, Damaged> {
        u32::try_from(self.u64()?).map_err(|_| Damaged("a number is too large"))
    }

    pub(in crate::proto) fn usize(&mut self) -> Result<usize, Damaged> {
        usize::try_from(self.u64()?).map_err(|_| Damaged("a number is too large"))
    }

    pub(in crate::proto) fn bytes(&mut self) -> Result<Bytes, Damaged> {
        let len = self.usize()?;
        self.split(len)
    }

    pub(in crate::proto) fn payload(&mut self) -> Result<Payload, Damaged> {
        let metadata = match self.bool()? {
            true => Some(self.bytes()?),
            false => None,
        };
        let payload = Payload::new(self.bytes()?);
        Ok(match metadata {
            Some(metadata) => payload.with_metadata(metadata),
            None => payload,
        })
    }

    pub(in crate::proto) fn is_empty(&self) -> bool {
        self.row.is_empty()
    }

    /// Nothing may be left over.
    pub(in crate::proto) fn end(self) -> Result<(), Damaged> {
        match self.row.is_empty() {
            true => Ok(()),
            false => Err(Damaged("a row is too long")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            n in any::<u64>(),
            flag in any::<bool>(),
            data in prop::collection::vec(any::<u8>(), 0..300),
            metadata in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        ) {
            let mut payload = Payload::new(data);
            if let Some(metadata) = metadata {
                payload = payload.with_metadata(metadata);
            }
            let mut row = Writer::new();
            row.u64(n);
            row.bool(flag);
            row.payload(&payload);
            let row = row.into_bytes();
            let read = |row: Bytes| {
                let mut row = Reader::new(row);
                let read = (row.u64()?, row.bool()?, row.payload()?);
                row.end().map(|()| read)
            };
            for len in 0..row.len() {
                prop_assert!(read(row.slice(..len)).is_err());
            }
            prop_assert_eq!(read(row), Ok((n, flag, payload)));
        }

        #[test]
        fn whatever_is_read_gives_values_or_an_error(row in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut row = Reader::new(row.into());
            while row.u64().is_ok() && row.payload().is_ok() {}
        }
    }

    #[test]
    fn parts_of_streams_have_keys_of_their_own() {
        for part in [
            Part::State,
            Part::Request,
            Part::Inbox,
            Part::Outbox,
            Part::Join,
        ] {
            assert_eq!(Part::of(part.key(7, 12)), Some((part, 12)));
        }
        assert_eq!(Part::of(Key::new(STREAM, 7, u64::MAX)), None);
    }
}
