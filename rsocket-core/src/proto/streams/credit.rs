//! Request-n accounting, one ledger for each direction of a stream.
//!
//! [`Credit`] is what we may still send; [`Prefetch`] is what we have asked the
//! peer to send. Both count *payloads*: a payload cut into any number of
//! fragments costs one \[C220].
//!
//! No other module adds or subtracts credit. A leak or a double spend is
//! therefore a bug in this file.
//!
//! Spec: "Flow Control", "REQUEST_N Frame (0x08)".

use crate::{
    frame::Demand,
    proto::resume::rows::{Damaged, Reader, Writer},
};

/// Payloads that this side may still send on one stream.
///
/// Grants add up and are never taken back \[C131], so the balance falls only by
/// sending.
#[derive(Debug, Default)]
pub struct Credit {
    // u64, saturating: 2^33 maximal grants would be needed to overflow [C132].
    balance: u64,
    /// Granted since the application last asked; see `take_news`.
    news: u64,
}

impl Credit {
    /// A total from which a grant counts as endless: the spec has no infinity,
    /// and rsocket-java stops granting once its sum gets here \[C133].
    const ENDLESS_FROM: u64 = Demand::MAX.get() as u64;
    const ENDLESS: u64 = u64::MAX;

    /// Adds a grant: "Initial Request N", or a REQUEST_N frame.
    pub fn grant(&mut self, demand: Demand) {
        self.news = self.news.saturating_add(demand.get().into());
        self.balance = self.balance.saturating_add(demand.get().into());
        if self.balance >= Self::ENDLESS_FROM {
            self.balance = Self::ENDLESS;
        }
    }

    /// Pays for one payload.
    ///
    /// # Errors
    ///
    /// [`NoCredit`] when the peer has granted no more; nothing changes.
    pub fn spend(&mut self) -> Result<(), NoCredit> {
        if self.balance != Self::ENDLESS {
            self.balance = self.balance.checked_sub(1).ok_or(NoCredit)?;
        }
        Ok(())
    }

    /// Payloads that may be sent now; `u64::MAX` is endless.
    pub fn balance(&self) -> u64 {
        self.balance
    }

    pub(super) fn save(&self, row: &mut Writer) {
        row.u64(self.balance);
    }

    /// What was granted and not used counts as news to whoever asks first.
    pub(super) fn restored(row: &mut Reader) -> Result<Self, Damaged> {
        let balance = row.u64()?;
        Ok(Self {
            balance,
            news: balance,
        })
    }

    /// Payloads granted since the last call.
    pub fn take_news(&mut self) -> u64 {
        std::mem::take(&mut self.news)
    }
}

/// The peer has not granted credit for another payload.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("no credit left on this stream")]
pub struct NoCredit;

/// How much a receiver asks the peer to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemandPolicy {
    /// Keeps up to `high` payloads asked for and not yet consumed, and tops up
    /// when `low` are left. `low < high`.
    Prefetch {
        /// The most that is buffered, and the initial request-n.
        high: Demand,
        /// Payloads left at which more are asked for.
        low: u32,
    },
    /// Asks for exactly what the application asks for.
    Manual {
        /// The initial request-n.
        initial: Demand,
    },
}

impl DemandPolicy {
    /// Asks for `high`, and again when half of it is left: the top-up is under
    /// way while the rest is consumed, and frames that grant stay few.
    pub const fn prefetch(high: Demand) -> Self {
        Self::Prefetch {
            high,
            low: high.get() / 2,
        }
    }

    /// The first grant.
    pub const fn initial(self) -> Demand {
        match self {
            Self::Prefetch { high, .. } => high,
            Self::Manual { initial } => initial,
        }
    }
}

impl Default for DemandPolicy {
    /// 64 payloads: enough to keep a link busy, little enough to hold.
    fn default() -> Self {
        const HIGH: Demand = match Demand::new(64) {
            Some(n) => n,
            None => Demand::ONE,
        };
        Self::prefetch(HIGH)
    }
}

/// What we asked the peer for, and what became of it.
///
/// Under [`DemandPolicy::Prefetch`] credit is given back when the application
/// *takes* a payload, not when it arrives, so a stream never buffers more than
/// `high` payloads.
#[derive(Debug)]
pub struct Prefetch {
    policy: DemandPolicy,
    /// Granted and not yet arrived.
    in_flight: u64,
    /// Arrived and not yet taken by the application.
    buffered: u32,
    /// The application asked for more than it can ever count \[C134].
    endless: bool,
}

impl Prefetch {
    /// Below this, an endless demand is topped up: far more than can be under
    /// way, far less than the peer may have counted down.
    const ENDLESS_LOW: u64 = 1 << 30;

    /// A ledger with nothing granted yet; see [`start`](Self::start).
    pub fn new(policy: DemandPolicy) -> Self {
        Self {
            policy,
            in_flight: 0,
            buffered: 0,
            endless: false,
        }
    }

    /// The first grant, counting what is buffered already (the payload that
    /// came inside REQUEST_CHANNEL \[C126, A4]) against it.
    pub fn start(&mut self) -> Option<Demand> {
        let initial = self.policy.initial();
        let n = match self.policy {
            DemandPolicy::Prefetch { .. } => initial.get().saturating_sub(self.buffered),
            DemandPolicy::Manual { .. } => initial.get(),
        };
        self.grant(Demand::new(n)?)
    }

    /// The first grant of a requester, which travels in the request itself.
    pub fn start_request(&mut self) -> Demand {
        let initial = self.policy.initial();
        let _ = self.grant(initial);
        initial
    }

    /// The application asks for `n` more.
    pub fn request(&mut self, n: Demand) -> Option<Demand> {
        self.grant(n)
    }

    pub(super) fn save(&self, row: &mut Writer) {
        match self.policy {
            DemandPolicy::Prefetch { high, low } => {
                row.u8(0);
                row.u64(high.get().into());
                row.u64(low.into());
            }
            DemandPolicy::Manual { initial } => {
                row.u8(1);
                row.u64(initial.get().into());
            }
        }
        row.u64(self.in_flight);
        row.bool(self.endless);
    }

    /// With `buffered` payloads that were not taken.
    pub(super) fn restored(row: &mut Reader, buffered: u32) -> Result<Self, Damaged> {
        let tag = row.u8()?;
        let n = Demand::new(row.u32()?).ok_or(Damaged("a demand is out of range"))?;
        let policy = match tag {
            0 => DemandPolicy::Prefetch {
                high: n,
                low: row.u32()?,
            },
            1 => DemandPolicy::Manual { initial: n },
            _ => return Err(Damaged("a demand policy is unknown")),
        };
        Ok(Self {
            policy,
            in_flight: row.count()?,
            buffered,
            endless: row.bool()?,
        })
    }

    fn grant(&mut self, n: Demand) -> Option<Demand> {
        self.in_flight = self.in_flight.saturating_add(n.get().into());
        self.endless |= self.in_flight >= Demand::MAX.get().into();
        Some(n)
    }

    /// Counts a payload that arrived, once, when its last fragment is in.
    /// Returns the REQUEST_N to send, if an endless demand runs low.
    ///
    /// # Errors
    ///
    /// [`Overrun`] when the peer sent more than it was granted. The caller ends
    /// the stream \[C252]: accepting it would unbound the buffer.
    pub fn on_received(&mut self) -> Result<Option<Demand>, Overrun> {
        self.in_flight = self.in_flight.checked_sub(1).ok_or(Overrun)?;
        self.buffered = self.buffered.saturating_add(1);
        if self.endless && self.in_flight < Self::ENDLESS_LOW {
            return Ok(self.grant(Demand::MAX));
        }
        Ok(None)
    }

    /// Whether the peer may send another payload.
    pub fn expects(&self) -> bool {
        self.in_flight > 0
    }

    /// Counts the payload inside REQUEST_CHANNEL, which costs no credit \[C126].
    pub fn on_received_free(&mut self) {
        self.buffered = self.buffered.saturating_add(1);
    }

    /// Counts `n` payloads that the application took; returns the REQUEST_N to
    /// send, if one is due.
    #[must_use = "credit that is not sent to the peer is lost, and the stream stalls"]
    pub fn on_consumed(&mut self, n: u32) -> Option<Demand> {
        self.buffered = self.buffered.saturating_sub(n);
        let DemandPolicy::Prefetch { high, low } = self.policy else {
            return None;
        };
        let outstanding = self.outstanding();
        if outstanding > low.into() {
            return None;
        }
        let refill = u64::from(high.get()).checked_sub(outstanding)?;
        self.grant(Demand::new(u32::try_from(refill).ok()?)?)
    }

    /// How many payloads the application may take before
    /// [`on_consumed`](Self::on_consumed) is to know of them; at least 1. So many
    /// may be told of together.
    pub fn until_refill(&self) -> u32 {
        let DemandPolicy::Prefetch { low, .. } = self.policy else {
            return u32::MAX;
        };
        let until = self.outstanding().saturating_sub(low.into());
        u32::try_from(until).unwrap_or(u32::MAX).max(1)
    }

    /// Asked for, and not taken.
    fn outstanding(&self) -> u64 {
        self.in_flight + u64::from(self.buffered)
    }
}

/// The peer sent a payload that it had no credit for.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("peer sent more payloads than it was granted")]
pub struct Overrun;

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(n: u32) -> Demand {
        Demand::new(n).unwrap()
    }

    // The example sequence of the spec's "Reactive Streams Semantics" [C131].
    #[test]
    fn credit_follows_the_spec_example() {
        let mut credit = Credit::default();
        credit.grant(demand(3));
        for _ in 0..3 {
            credit.spend().unwrap();
        }
        assert_eq!(credit.spend(), Err(NoCredit));
        credit.grant(demand(3));
        credit.grant(demand(2));
        assert_eq!(credit.balance(), 5);
        assert_eq!(credit.take_news(), 8);
    }

    // [C132, C133]
    #[test]
    fn two_maximal_grants_neither_overflow_nor_run_out() {
        let mut credit = Credit::default();
        credit.grant(Demand::MAX);
        credit.grant(Demand::MAX);
        for _ in 0..10 {
            credit.spend().unwrap();
        }
        assert_eq!(credit.balance(), u64::MAX);
    }

    // [C134]: a demand that means "endless" never runs dry. The counter is fast
    // forwarded instead of receiving 2^31 payloads.
    #[test]
    fn an_endless_demand_is_topped_up_before_it_is_used_up() {
        let mut prefetch = Prefetch::new(DemandPolicy::Manual {
            initial: Demand::MAX,
        });
        assert_eq!(prefetch.start_request(), Demand::MAX);
        assert_eq!(prefetch.on_received(), Ok(None));
        prefetch.in_flight = Prefetch::ENDLESS_LOW;
        assert_eq!(prefetch.on_received(), Ok(Some(Demand::MAX)));
        assert_eq!(prefetch.on_received(), Ok(None));
    }

    #[test]
    fn the_payload_inside_request_channel_counts_against_the_first_grant() {
        let mut prefetch = Prefetch::new(DemandPolicy::prefetch(demand(4)));
        prefetch.on_received_free();
        assert_eq!(prefetch.start(), Some(demand(3)));
        let mut single = Prefetch::new(DemandPolicy::prefetch(demand(1)));
        single.on_received_free();
        assert_eq!(single.start(), None);
        assert_eq!(single.on_consumed(1), Some(demand(1)));
    }

    // A sender and a receiver, joined by nothing but the grants: whatever the
    // order of arrivals and reads, no payload is stuck and none is over.
    #[test]
    fn ledgers_agree_under_any_interleaving() {
        for seed in 0..500_u64 {
            let mut rng = Lcg(seed);
            let high = demand(1 + rng.below(8));
            let low = rng.below(high.get());
            let mut prefetch = Prefetch::new(DemandPolicy::Prefetch { high, low });
            let mut credit = Credit::default();
            credit.grant(prefetch.start_request());
            let (mut on_wire, mut buffered, mut taken) = (0_u32, 0_u32, 0_u32);

            while taken < 100 {
                match rng.below(3) {
                    0 if credit.spend().is_ok() => on_wire += 1,
                    1 if on_wire > 0 => {
                        on_wire -= 1;
                        assert_eq!(prefetch.on_received(), Ok(None));
                        buffered += 1;
                    }
                    2 if buffered > 0 => {
                        buffered -= 1;
                        taken += 1;
                        if let Some(n) = prefetch.on_consumed(1) {
                            credit.grant(n);
                        }
                    }
                    _ => {}
                }
                assert!(
                    on_wire + buffered <= high.get(),
                    "seed {seed}: buffer over its bound"
                );
                let stuck = credit.balance() == 0 && on_wire == 0 && buffered == 0;
                assert!(!stuck, "seed {seed}: nobody can move");
            }
        }
    }

    /// Knuth's MMIX generator: tests need repeatable, not good, randomness.
    struct Lcg(u64);

    impl Lcg {
        fn below(&mut self, end: u32) -> u32 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(self.0 >> 33).unwrap() % end
        }
    }
}
