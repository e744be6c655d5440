//! A limit that finds itself.

use std::time::Duration;

use super::LeasePolicy;
use crate::proto::{LeaseGrant, Load};

/// Grants as many requests as this side can work on at once without letting
/// them queue, which it finds out by itself.
///
/// The rule: as long as answers take hardly longer than they take when little
/// is going on, there is room, and the limit grows; when they take longer they
/// queue somewhere, and the limit shrinks. In detail, after every ten answers
/// or more, with `latency` their mean:
///
/// - `base` is the lowest latency seen. To notice that the service itself
///   became slower, every 64 rounds, or 8 in which the limit shrank as fast as
///   it can, a quarter of it is granted for a while, and `base` measured anew.
/// - `gradient` is `tolerance * base / latency`, held to 0.5 ..= 1: 1 while
///   answers are at most `tolerance` times slower than at their best.
/// - the limit moves a third of the way to `limit * gradient + sqrt(limit)`.
///   The root lets a queue be that long: without one nobody could tell that
///   there is room for more. It grows only if what was granted was used.
///
/// It grants what the limit leaves beside the requests in work, and is asked
/// again when half of that was finished: a window, as with TCP, rather than a
/// rate. A peer gets at least one request in each time to live, so that work
/// that never ends does not shut it out.
///
/// A stream counts until its first payload. Each connection finds its own
/// limit; together they queue more than one alone, and each yields.
#[derive(Clone, Debug)]
pub struct Adaptive {
    min: u32,
    max: u32,
    tolerance: f64,
    ttl: Duration,
    /// How many requests may be in work at once.
    limit: f64,
    /// Seconds; the latency with little going on.
    base: Option<f64>,
    /// Rounds since `base` was measured anew.
    rounds: u32,
    probe: Probe,
    samples: f64,
    /// Seconds, of all samples.
    sum: f64,
    used: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    No,
    /// Less is granted, but what was begun before is still answered.
    Draining,
    Measuring,
}

impl Adaptive {
    /// Answers that make a round.
    const SAMPLES: f64 = 10.0;
    const ROUNDS_TO_PROBE: u32 = 64;
    const LEAST_GRADIENT: f64 = 0.5;

    /// Starts at 16 requests at once, within 1 and 10,000.
    pub fn new() -> Self {
        Self {
            min: 1,
            max: 10_000,
            tolerance: 1.5,
            ttl: Duration::from_secs(1),
            limit: 16.0,
            base: None,
            rounds: 0,
            probe: Probe::No,
            samples: 0.0,
            sum: 0.0,
            used: false,
        }
    }

    /// Where to start: requests at once.
    #[must_use]
    pub fn initial(mut self, limit: u32) -> Self {
        self.limit = f64::from(limit.clamp(self.min, self.max));
        self
    }

    /// The least and the most requests at once; at least 1. Default 1 and
    /// 10,000.
    #[must_use]
    pub fn bounds(mut self, min: u32, max: u32) -> Self {
        self.min = min.max(1);
        self.max = max.max(self.min);
        self.limit = self.limit.clamp(self.min.into(), self.max.into());
        self
    }

    /// How many times slower than at their best answers may get: 1.0 and more;
    /// default 1.5. Less keeps answers quick, more keeps workers busy.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        if tolerance.is_finite() {
            self.tolerance = tolerance.max(1.0);
        }
        self
    }

    /// How long a grant holds, and how long a peer that sends nothing waits
    /// for the next. Default 1 s.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How many requests may be in work at once, as found so far.
    pub fn limit(&self) -> u32 {
        let limit = match self.probe {
            Probe::No => self.limit,
            Probe::Draining | Probe::Measuring => self.limit / 4.0,
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within its bounds"
        )]
        let limit = limit.round() as u32;
        limit.clamp(self.min, self.max)
    }

    fn learn(&mut self, load: &Load) {
        let started = load.started.saturating_mul(2);
        self.used |= started >= load.granted.into() && load.granted > 0;
        let Some(latency) = load.latency else {
            return;
        };
        #[expect(clippy::cast_precision_loss, reason = "few")]
        let samples = latency.samples as f64;
        self.samples += samples;
        self.sum += latency.mean.as_secs_f64() * samples;
        if self.samples < Self::SAMPLES.max(self.limit / 2.0) && self.probe == Probe::No
            || self.samples < Self::SAMPLES
        {
            return;
        }
        // Too quick to be measured is as good as anything that quick.
        let mean = (self.sum / self.samples).max(1e-6);
        let used = std::mem::take(&mut self.used);
        self.samples = 0.0;
        self.sum = 0.0;
        match self.probe {
            Probe::No => self.adjust(mean, used),
            Probe::Draining => self.probe = Probe::Measuring,
            Probe::Measuring => {
                self.probe = Probe::No;
                self.base = Some(mean);
            }
        }
    }

    fn adjust(&mut self, mean: f64, used: bool) {
        let base = self.base.map_or(mean, |base| base.min(mean));
        self.base = Some(base);
        let gradient = (self.tolerance * base / mean).clamp(Self::LEAST_GRADIENT, 1.0);
        let target = self.limit * gradient + self.limit.sqrt();
        if used || target < self.limit {
            self.limit += (target - self.limit) / 3.0;
            self.limit = self.limit.clamp(self.min.into(), self.max.into());
        }
        // A limit that shrank and shrank without effect has the wrong base.
        self.rounds += if gradient > Self::LEAST_GRADIENT {
            1
        } else {
            Self::ROUNDS_TO_PROBE / 8
        };
        if self.rounds >= Self::ROUNDS_TO_PROBE {
            self.rounds = 0;
            self.probe = Probe::Draining;
        }
    }
}

impl Default for Adaptive {
    fn default() -> Self {
        Self::new()
    }
}

impl LeasePolicy for Adaptive {
    fn decide(&mut self, load: &Load) -> LeaseGrant {
        self.learn(load);
        let in_work = u32::try_from(load.in_work).unwrap_or(u32::MAX);
        let free = self.limit().saturating_sub(in_work);
        if free == 0 && load.elapsed >= self.ttl {
            return LeaseGrant::new(1, self.ttl).renew_after(1);
        }
        LeaseGrant::new(free, self.ttl).renew_after((free / 2).max(1))
    }
}
