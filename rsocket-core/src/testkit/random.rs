//! Numbers that look random and can be had again.

use std::ops::RangeInclusive;

/// The environment variable that replaces the seeds of a test by one.
const SEED: &str = "RSOCKET_TEST_SEED";

/// A stream of numbers that depends on its seed alone (SplitMix64), or on bytes
/// of a fuzzer's choice as long as there are any.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    /// Chosen by somebody, the next one last.
    chosen: Vec<u8>,
    choosing: bool,
}

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed,
            chosen: Vec::new(),
            choosing: false,
        }
    }

    /// Takes decisions from `bytes`, two of them for each, so that a change of a
    /// byte is a change of a decision.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self {
            state: 0,
            chosen: bytes.iter().rev().copied().collect(),
            choosing: true,
        }
    }

    /// All bytes were used: what comes now depends on nobody's choice.
    pub fn is_exhausted(&self) -> bool {
        self.choosing && self.chosen.is_empty()
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number that decides something.
    fn decision(&mut self) -> u64 {
        match (self.chosen.pop(), self.choosing) {
            (Some(high), _) => {
                let low = self.chosen.pop().unwrap_or_default();
                u64::from(u16::from_be_bytes([high, low])) << 48 | self.number() >> 16
            }
            (None, true) => 0,
            (None, false) => self.number(),
        }
    }

    /// A number in `range`, each about as likely as any other.
    ///
    /// # Panics
    ///
    /// When the range is empty.
    pub fn within(&mut self, range: RangeInclusive<usize>) -> usize {
        let (low, high) = (*range.start(), *range.end());
        assert!(low <= high, "{low}..={high} holds no number");
        // A u128 holds the count even of the full range.
        let count = (high - low) as u128 + 1;
        let below = (u128::from(self.decision()) * count) >> 64;
        low + usize::try_from(below).expect("less than a usize holds")
    }

    /// A length in 1..=`longest`; short ones are as likely as long ones are,
    /// order of magnitude by order of magnitude.
    pub fn length(&mut self, longest: usize) -> usize {
        let bits = self.within(0..=longest.ilog2() as usize);
        self.within(1 << bits..=longest.min((2 << bits) - 1))
    }

    /// True once in `n` calls on average.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.within(1..=n) == 1
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
        while bytes.len() < len {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// The seeds of a test: 0..`count`, or the one in the environment variable
/// `RSOCKET_TEST_SEED`, to see a failure again.
///
/// # Panics
///
/// When the variable holds no number.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var(SEED) {
        Ok(seed) => vec![seed.parse().expect("RSOCKET_TEST_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            [random.number(), random.number(), random.number()]
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_its_ends() {
        let mut random = Random::new(1);
        let drawn: Vec<_> = (0..1000).map(|_| random.within(3..=6)).collect();
        assert_eq!(drawn.iter().min(), Some(&3));
        assert_eq!(drawn.iter().max(), Some(&6));
        assert_eq!(random.within(5..=5), 5);
        let _ = random.within(0..=usize::MAX);
    }

    #[test]
    fn chosen_bytes_decide_until_they_are_used_up() {
        let mut random = Random::of_bytes(&[0xFF, 0xFF, 0, 0, 0x80]);
        let drawn = [0; 3].map(|_| random.within(0..=9));
        assert_eq!(drawn, [9, 0, 5]);
        assert!(random.is_exhausted());
        assert_eq!(random.within(3..=9), 3);
        assert!(!Random::new(1).is_exhausted());
    }

    #[test]
    fn lengths_are_of_all_magnitudes() {
        let mut random = Random::new(1);
        let drawn: Vec<_> = (0..10_000).map(|_| random.length(1_000_000)).collect();
        assert!(drawn.iter().all(|len| (1..=1_000_000).contains(len)));
        for power in 0..6 {
            let magnitude = 10_usize.pow(power)..10_usize.pow(power + 1);
            assert!(
                drawn.iter().any(|len| magnitude.contains(len)),
                "none in {magnitude:?}"
            );
        }
        assert_eq!(random.length(1), 1);
    }
}
