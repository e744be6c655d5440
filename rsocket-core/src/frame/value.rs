//! The values of fields, as types that cannot hold what the spec rules out.
//!
//! Past this module nobody checks a range again.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// The largest value of the spec's 31-bit fields.
const MAX_31: u32 = u32::MAX >> 1;

/// Returns `None` for 0 and for values above 2^31-1.
#[inline]
const fn non_zero_31(value: u32) -> Option<NonZeroU32> {
    if value > MAX_31 {
        return None;
    }
    NonZeroU32::new(value)
}

/// Identifies one stream of a connection: 1..=2^31-1.
///
/// Stream 0, the connection itself, is not a `StreamId`; connection frames
/// carry no id.
///
/// Spec: "Stream Identifiers".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(NonZeroU32);

impl StreamId {
    /// The largest id, after which a requester wraps around.
    pub const MAX: Self = match Self::new(MAX_31) {
        Some(id) => id,
        None => unreachable!(),
    };

    /// Returns `None` for 0 and for values above 2^31-1.
    #[inline]
    pub const fn new(id: u32) -> Option<Self> {
        match non_zero_31(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// The id as it goes on the wire.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Whether the client opened this stream: it uses odd ids, the server
    /// even ones.
    ///
    /// Spec: "Stream Identifiers", "Generation".
    #[inline]
    pub const fn is_client(self) -> bool {
        self.get() & 1 == 1
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A number of payloads asked for: 1..=2^31-1, the value of a request-n.
///
/// Spec: "REQUEST_N Frame (0x08)", "Reactive Streams Semantics".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Demand(NonZeroU32);

impl Demand {
    /// The most that one frame can ask for.
    pub const MAX: Self = match Self::new(MAX_31) {
        Some(n) => n,
        None => unreachable!(),
    };

    /// One payload.
    pub const ONE: Self = Self(NonZeroU32::MIN);

    /// Returns `None` for 0 and for values above 2^31-1.
    #[inline]
    pub const fn new(n: u32) -> Option<Self> {
        match non_zero_31(n) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// The count, in payloads.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in one direction of a session, in bytes of tracked frames:
/// 0..=2^63-1.
///
/// It counts the bytes before it, so it names the next byte expected.
///
/// Spec: "Implied Position".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// Where both directions start.
    pub const ZERO: Self = Self(0);

    const MAX: u64 = u64::MAX >> 1;

    /// Returns `None` for values above 2^63-1.
    #[inline]
    pub const fn new(position: u64) -> Option<Self> {
        if position > Self::MAX {
            return None;
        }
        Some(Self(position))
    }

    /// The number of bytes before this place.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The position `len` bytes further on, at most 2^63-1.
    #[inline]
    #[must_use = "a position is a value; the old one stays as it is"]
    pub const fn advance(self, len: usize) -> Self {
        // 2^63 bytes are 272 years at 1 GiB/s, so saturating is as good as
        // failing and needs no error.
        let sum = self.0.saturating_add(len as u64);
        Self(if sum > Self::MAX { Self::MAX } else { sum })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A time in whole milliseconds: 1..=2^31-1, nearly 25 days.
///
/// Spec: "SETUP Frame (0x01)", the keepalive interval and the max lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis31(NonZeroU32);

impl Millis31 {
    /// 2^31-1 ms, nearly 25 days.
    pub const MAX: Self = match Self::new(MAX_31) {
        Some(max) => max,
        None => unreachable!(),
    };

    /// Returns `None` for 0 and for values above 2^31-1.
    #[inline]
    pub const fn new(millis: u32) -> Option<Self> {
        match non_zero_31(millis) {
            Some(millis) => Some(Self(millis)),
            None => None,
        }
    }

    /// Rounds up to whole milliseconds, so that a short time does not become
    /// none; returns `None` for zero and for what takes more than 31 bits.
    pub fn from_duration(duration: Duration) -> Option<Self> {
        let millis = duration.as_nanos().div_ceil(1_000_000);
        Self::new(u32::try_from(millis).ok()?)
    }

    /// The time in milliseconds.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The time as the standard library has it.
    pub const fn to_duration(self) -> Duration {
        Duration::from_millis(self.get() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [C044]
    #[test]
    fn ids_demands_and_times_are_1_to_31_bits() {
        for value in [1, 2, 0x7FFF_FFFF] {
            assert_eq!(StreamId::new(value).unwrap().get(), value);
            assert_eq!(Demand::new(value).unwrap().get(), value);
            assert_eq!(Millis31::new(value).unwrap().get(), value);
        }
        for value in [0, 1 << 31, u32::MAX] {
            assert_eq!(StreamId::new(value), None);
            assert_eq!(Demand::new(value), None);
            assert_eq!(Millis31::new(value), None);
        }
        assert_eq!(Demand::ONE.get(), 1);
        assert_eq!(Demand::MAX.get(), 0x7FFF_FFFF);
        assert_eq!(StreamId::MAX.get(), 0x7FFF_FFFF);
    }

    // [C042] [C043]
    #[test]
    fn odd_ids_are_the_clients() {
        let is_client = |id| StreamId::new(id).unwrap().is_client();
        assert!(is_client(1) && is_client(0x7FFF_FFFF));
        assert!(!is_client(2) && !is_client(0x7FFF_FFFE));
    }

    // [C268]
    #[test]
    fn a_position_has_63_bits_and_stays_there() {
        let end = Position::new(u64::MAX >> 1).unwrap();
        assert_eq!(Position::new(1 << 63), None);
        assert_eq!(Position::ZERO.advance(15).advance(10).get(), 25);
        assert_eq!(end.advance(1), end);
        assert_eq!(end.advance(usize::MAX), end);
    }

    #[test]
    fn a_duration_becomes_whole_milliseconds_and_never_shorter() {
        let millis = |duration| Millis31::from_duration(duration).map(Millis31::get);
        assert_eq!(millis(Duration::ZERO), None);
        assert_eq!(millis(Duration::from_nanos(1)), Some(1));
        assert_eq!(millis(Duration::from_millis(1)), Some(1));
        assert_eq!(millis(Duration::from_micros(1001)), Some(2));
        let longest = Duration::from_millis(0x7FFF_FFFF);
        assert_eq!(millis(longest), Some(0x7FFF_FFFF));
        assert_eq!(millis(longest + Duration::from_nanos(1)), None);
        assert_eq!(millis(Duration::MAX), None);
        assert_eq!(Millis31::new(0x7FFF_FFFF).unwrap().to_duration(), longest);
    }
}
