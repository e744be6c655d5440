//! A limit that finds itself.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

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
///   became slower, or that the limit was too high from the start, `base` is
///   measured anew with a quarter of the limit: after the first 8 rounds, every
///   64, and after 8 in which the limit shrank as fast as it can.
/// - `gradient` is `tolerance * base / latency`, held to 0.5 ..= 1: 1 while
///   answers are at most `tolerance` times slower than at their best.
/// - the limit moves a third of the way to `limit * gradient + sqrt(limit)`.
///   The root lets a queue be that long: without one nobody could tell that
///   there is room for more. It grows only if what was granted was used.
///
/// It grants what the limit leaves beside the requests in work, and is asked
/// again when half of that was finished: a window, as with TCP, rather than a
/// rate. A peer gets at least one request in each time to live, so that work
/// that never ends does not shut it out. A stream counts until its first
/// payload.
///
/// **Clones share one limit**, in equal parts among the connections that use
/// it. That is what a server wants: limits of their own would each take the
/// queue that the others make for the latency of the service, and grow.
///
/// # Examples
///
/// ```
/// use rsocket_core::{Adaptive, LeaseOptions, Server};
///
/// let limit = Adaptive::new().bounds(4, 500);
/// let server = Server::new().lease(LeaseOptions::new().policy(move || limit.clone()));
/// # drop(server);
/// ```
#[derive(Debug)]
pub struct Adaptive {
    shared: Arc<Mutex<Finder>>,
    /// Whether this connection is one of those that use the limit.
    busy: bool,
}

/// What clones share.
#[derive(Debug)]
struct Finder {
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
    /// Connections that use the limit.
    busy: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    No,
    /// Less is granted, but what was begun before is still answered.
    Draining,
    Measuring,
}

impl Adaptive {
    /// Starts at 16 requests at once, within 1 and 10,000.
    pub fn new() -> Self {
        let finder = Finder {
            min: 1,
            max: 10_000,
            tolerance: 1.5,
            ttl: Duration::from_secs(1),
            limit: 16.0,
            base: None,
            // The start may have been too much from the start.
            rounds: Finder::ROUNDS_TO_PROBE - 8,
            probe: Probe::No,
            samples: 0.0,
            sum: 0.0,
            used: false,
            busy: 0,
        };
        Self {
            shared: Arc::new(Mutex::new(finder)),
            busy: false,
        }
    }

    /// Where to start: requests at once. Default 16.
    #[must_use]
    pub fn initial(self, limit: u32) -> Self {
        self.with(|finder| finder.limit = f64::from(limit.clamp(finder.min, finder.max)));
        self
    }

    /// The least and the most requests at once; at least 1. Default 1 and
    /// 10,000.
    #[must_use]
    pub fn bounds(self, min: u32, max: u32) -> Self {
        self.with(|finder| {
            finder.min = min.max(1);
            finder.max = max.max(finder.min);
            finder.move_to(finder.limit);
        });
        self
    }

    /// How many times slower than at their best answers may get: 1.0 and more;
    /// default 1.5. Less keeps answers quick, more keeps workers busy.
    #[must_use]
    pub fn tolerance(self, tolerance: f64) -> Self {
        if tolerance.is_finite() {
            self.with(|finder| finder.tolerance = tolerance.max(1.0));
        }
        self
    }

    /// How long a grant holds, and how long a peer that sends nothing waits
    /// for the next. Default 1 s.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|finder| finder.ttl = ttl);
        self
    }

    /// How many requests may be in work at once, on all connections that share
    /// it, as found so far.
    pub fn limit(&self) -> u32 {
        self.lock().now()
    }

    fn lock(&self) -> MutexGuard<'_, Finder> {
        // Nothing panics under it; and numbers are numbers.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, change: impl FnOnce(&mut Finder)) {
        change(&mut self.lock());
    }
}

impl Default for Adaptive {
    fn default() -> Self {
        Self::new()
    }
}

/// For one more connection, under the same limit.
impl Clone for Adaptive {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            busy: false,
        }
    }
}

impl Drop for Adaptive {
    fn drop(&mut self) {
        if self.busy {
            self.lock().busy -= 1;
        }
    }
}

impl LeasePolicy for Adaptive {
    fn decide(&mut self, load: &Load) -> LeaseGrant {
        let busy = load.started > 0 || load.in_work > 0;
        let mut finder = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.busy, busy) {
            (false, true) => finder.busy += 1,
            (true, false) => finder.busy -= 1,
            _ => {}
        }
        self.busy = busy;
        finder.learn(load);
        // One that was idle gets its part of what it would share.
        let sharers = finder.busy + u32::from(!busy);
        let part = (finder.now() / sharers).max(1);
        let in_work = u32::try_from(load.in_work).unwrap_or(u32::MAX);
        let free = part.saturating_sub(in_work);
        if free == 0 && load.elapsed >= finder.ttl {
            return LeaseGrant::new(1, finder.ttl).renew_after(1);
        }
        LeaseGrant::new(free, finder.ttl).renew_after((free / 2).max(1))
    }
}

impl Finder {
    /// Answers that make a round.
    const SAMPLES: f64 = 10.0;
    const ROUNDS_TO_PROBE: u32 = 64;
    const LEAST_GRADIENT: f64 = 0.5;

    /// Requests at once, now.
    fn now(&self) -> u32 {
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

    fn move_to(&mut self, limit: f64) {
        self.limit = limit.clamp(self.min.into(), self.max.into());
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
        let enough = match self.probe {
            Probe::No => self.limit / 2.0,
            // All that was begun, or granted, before.
            Probe::Draining => self.limit * 1.5,
            Probe::Measuring => 0.0,
        };
        if self.samples < enough.max(Self::SAMPLES) {
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
            self.move_to(self.limit + (target - self.limit) / 3.0);
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
