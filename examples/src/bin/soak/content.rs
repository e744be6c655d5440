//! What every payload must hold, computed from numbers that both sides know.

use std::sync::LazyLock;

use bytes::Bytes;
use rsocket_core::{Payload, testkit::Random};

/// Longest data of any payload.
pub(crate) const LONGEST: usize = 1 << 20;

/// Payloads are pieces of this: making one and checking one cost no more than
/// touching its bytes. Two pieces of some length are never the same by accident.
static POOL: LazyLock<Bytes> =
    LazyLock::new(|| Random::new(0x5EED).bytes(LONGEST + OFFSETS).into());

const OFFSETS: usize = 1 << 18;

/// What is asked for: travels as the metadata of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// Unique on its connection and in its direction, so that one that is
    /// served twice shows.
    pub(crate) number: u64,
    /// What the contents follow from.
    pub(crate) seed: u64,
    /// Payloads of the answer; of a channel: after how many the responder ends
    /// it, whatever else comes.
    pub(crate) count: u32,
    /// Longest data of a payload.
    pub(crate) longest: u32,
}

impl Order {
    const LEN: usize = 24;
    /// Asks for the [`Audit`] instead of for work.
    pub(crate) const AUDIT: u64 = u64::MAX;
    /// Likewise, once the responder's own requests have ended.
    pub(crate) const HALT: u64 = u64::MAX - 1;

    pub(crate) fn of(number: u64) -> Self {
        Self {
            number,
            seed: 0,
            count: 0,
            longest: 0,
        }
    }

    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.extend(self.number.to_be_bytes());
        bytes.extend(self.seed.to_be_bytes());
        bytes.extend(self.count.to_be_bytes());
        bytes.extend(self.longest.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk()?;
        let (seed, rest) = rest.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        Some(Self {
            number: u64::from_be_bytes(*number),
            seed: u64::from_be_bytes(*seed),
            count: u32::from_be_bytes(*count),
            longest: u32::from_be_bytes(rest.try_into().ok()?),
        })
    }

    /// The request that carries this order, and is payload 0 itself.
    pub(crate) fn request(self) -> Payload {
        Payload::new(data(self.seed, 0, self.longest)).with_metadata(self.encode())
    }

    /// Finds the order in a request, and checks its data.
    pub(crate) fn of_request(request: &Payload) -> Result<Self, String> {
        let order = request.metadata().and_then(Self::decode);
        let order = order.ok_or_else(|| format!("a request without its order: {request:?}"))?;
        let expected = data(order.seed, 0, order.longest);
        same(&expected, request.data(), || format!("request {order:?}"))?;
        Ok(order)
    }

    /// Payload `index` that the requester of a channel sends, from 1 on.
    pub(crate) fn sent(self, index: u64) -> Payload {
        payload(self.seed, index, self.longest)
    }

    pub(crate) fn check_sent(self, index: u64, payload: &Payload) -> Result<(), String> {
        self.check(self.seed, index, payload)
    }

    /// Payload `index` of the answer.
    pub(crate) fn answer(self, index: u64) -> Payload {
        payload(!self.seed, index, self.longest)
    }

    pub(crate) fn check_answer(self, index: u64, payload: &Payload) -> Result<(), String> {
        self.check(!self.seed, index, payload)
    }

    fn check(self, seed: u64, index: u64, got: &Payload) -> Result<(), String> {
        let expected = payload(seed, index, self.longest);
        let what = || format!("payload {index} of {self:?}");
        same(expected.data(), got.data(), what)?;
        if expected.metadata() != got.metadata() {
            return Err(format!("{}: its metadata differs", what()));
        }
        Ok(())
    }
}

fn payload(seed: u64, index: u64, longest: u32) -> Payload {
    let payload = Payload::new(data(seed, index, longest));
    match seed.wrapping_add(index) % 4 {
        0 => payload.with_metadata(index.to_be_bytes().to_vec()),
        _ => payload,
    }
}

fn data(seed: u64, index: u64, longest: u32) -> Bytes {
    let mut random = Random::new(seed ^ index.wrapping_mul(0x2545_F491_4F6C_DD1D));
    let longest = usize::try_from(longest).unwrap_or(LONGEST).min(LONGEST);
    let len = match longest {
        0 => 0,
        _ if random.once_in(8) => 0,
        longest => random.length(longest),
    };
    let from = random.within(0..=OFFSETS - 1);
    POOL.slice(from..from + len)
}

fn same(expected: &[u8], got: &[u8], what: impl Fn() -> String) -> Result<(), String> {
    if expected == got {
        return Ok(());
    }
    let (want, is) = (expected.len(), got.len());
    let at = expected.iter().zip(got).position(|(a, b)| a != b);
    Err(format!(
        "{}: {is} bytes for {want}, other from {at:?} on",
        what()
    ))
}

/// What one side of a connection has to say about fire-and-forgets, which
/// nothing else would tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Audit {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl Audit {
    pub(crate) fn encode(self) -> Payload {
        let mut bytes = self.received.to_be_bytes().to_vec();
        bytes.extend(self.sent.to_be_bytes());
        Payload::new(bytes)
    }

    pub(crate) fn decode(payload: &Payload) -> Option<Self> {
        let (received, rest) = payload.data().split_first_chunk()?;
        Some(Self {
            received: u64::from_be_bytes(*received),
            sent: u64::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_a_byte_or_in_its_place_is_found() {
        let order = Order {
            number: 1,
            seed: 7,
            count: 3,
            longest: 4096,
        };
        assert_eq!(Order::of_request(&order.request()), Ok(order));
        assert_eq!(order.check_answer(5, &order.answer(5)), Ok(()));
        assert!(order.check_answer(5, &order.answer(6)).is_err());
        assert!(order.check_answer(5, &order.sent(5)).is_err());
        let index = (1..).find(|n| order.sent(*n).len() > 100).unwrap();
        let mut data = order.sent(index).data().to_vec();
        data[50] ^= 1;
        assert!(order.check_sent(index, &Payload::new(data)).is_err());
    }

    #[test]
    fn an_audit_survives_its_way() {
        let audit = Audit {
            received: 3,
            sent: 1 << 40,
        };
        assert_eq!(Audit::decode(&audit.encode()), Some(audit));
        assert_eq!(Audit::decode(&Payload::new("short")), None);
    }
}
