//! How long to wait before trying again: [`Backoff`], without clock or timer.
//!
//! This owns the delays between attempts and the decision that there were
//! enough of them. Who waits, and for what, is the caller's business.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

/// Delays between attempts that grow and are spread at random.
///
/// The n-th attempt in a row is preceded by a delay drawn evenly from zero to
/// `initial * factor^(n-1)`, at most `max` ("full jitter"): of all ways to
/// spread, this one brings the clients of a server that was restarted back with
/// the least load on it. Delays stay short while attempts are few, and the sum
/// of them is bounded by [`max_attempts`](Self::max_attempts) and
/// [`max_elapsed`](Self::max_elapsed), by default not at all.
///
/// # Examples
///
/// ```
/// use std::time::{Duration, Instant};
/// use rsocket_core::Backoff;
///
/// let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5)).max_attempts(3);
/// let mut attempts = backoff.start(7);
/// let now = Instant::now();
/// assert!(attempts.next_delay(now).unwrap() <= Duration::from_millis(50));
/// assert!(attempts.next_delay(now).unwrap() <= Duration::from_millis(100));
/// assert!(attempts.next_delay(now).unwrap() <= Duration::from_millis(200));
/// assert_eq!(attempts.next_delay(now), None);
///
/// attempts.reset(); // It worked in between.
/// assert!(attempts.next_delay(now).is_some());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    factor: f64,
    jitter: bool,
    max_attempts: Option<u32>,
    max_elapsed: Option<Duration>,
}

impl Backoff {
    /// Delays of up to `initial` before the first attempt, then of twice as
    /// much each time until it is `max`; jitter, and no end. `initial` above
    /// `max` counts as `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial: initial.min(max),
            max,
            factor: 2.0,
            jitter: true,
            max_attempts: None,
            max_elapsed: None,
        }
    }

    /// By how much the longest delay grows from attempt to attempt. Default 2;
    /// less than 1, or not a number, counts as 1.
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        // `max` gives the other operand when one is NaN.
        self.factor = factor.max(1.0);
        self
    }

    /// Waits for the longest delay each time, instead of drawing from zero to
    /// it. For a client that is alone: many that lost the same server at the
    /// same time would all come back at the same time.
    #[must_use]
    pub fn without_jitter(mut self) -> Self {
        self.jitter = false;
        self
    }

    /// Gives up after `n` attempts in a row; 0 never tries. Default: no limit.
    #[must_use]
    pub fn max_attempts(mut self, n: u32) -> Self {
        self.max_attempts = Some(n);
        self
    }

    /// Gives up when `total` has passed since the first delay in a row was asked
    /// for. The last delay is cut short so that one attempt is made just then.
    /// Default: no limit.
    #[must_use]
    pub fn max_elapsed(mut self, total: Duration) -> Self {
        self.max_elapsed = Some(total);
        self
    }

    /// A row of attempts, none of them made. The same `seed` gives the same
    /// delays.
    pub fn start(&self, seed: u64) -> Attempts {
        Attempts {
            ceiling: self.initial,
            backoff: self.clone(),
            random: seed,
            made: 0,
            since: None,
        }
    }

    /// Likewise, with a seed that differs from process to process and from call
    /// to call.
    pub fn start_anywhere(&self) -> Attempts {
        // Its keys come from the system's entropy.
        self.start(RandomState::new().hash_one(0))
    }
}

impl Default for Backoff {
    /// Up to 100 ms, then twice as much up to 10 s, for ever: a server that
    /// restarts is found again within a fraction of a second, and one that is
    /// gone for long costs each client an attempt in 5 s on average.
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

/// A row of attempts: see [`Backoff::start`].
#[derive(Clone, Debug)]
pub struct Attempts {
    backoff: Backoff,
    /// The longest that the next delay may be.
    ceiling: Duration,
    random: u64,
    made: u32,
    /// When the first delay of the row was asked for.
    since: Option<Instant>,
}

impl Attempts {
    /// How long to wait from `now` before the next attempt, or `None` if no more
    /// should be made. Each call counts as an attempt.
    pub fn next_delay(&mut self, now: Instant) -> Option<Duration> {
        if self
            .backoff
            .max_attempts
            .is_some_and(|max| self.made >= max)
        {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let left = self
            .backoff
            .max_elapsed
            .map(|total| total.saturating_sub(now.saturating_duration_since(since)));
        if self.made > 0 && left == Some(Duration::ZERO) {
            return None;
        }
        self.made = self.made.saturating_add(1);
        let ceiling = self.ceiling;
        self.ceiling = self.after(ceiling);
        let delay = match self.backoff.jitter {
            true => ceiling.mul_f64(self.fraction()),
            false => ceiling,
        };
        Some(left.map_or(delay, |left| delay.min(left)))
    }

    /// Attempts since the start or the last [`reset`](Self::reset).
    pub fn made(&self) -> u32 {
        self.made
    }

    /// An attempt succeeded: the next failure starts a row of its own. Goes on
    /// in the random numbers.
    pub fn reset(&mut self) {
        self.ceiling = self.backoff.initial;
        self.made = 0;
        self.since = None;
    }

    fn after(&self, ceiling: Duration) -> Duration {
        let Backoff { max, factor, .. } = self.backoff;
        // Compared before it is computed, since a Duration can overflow.
        if ceiling.as_secs_f64() >= max.as_secs_f64() / factor {
            max
        } else {
            ceiling.mul_f64(factor).min(max)
        }
    }

    /// A number from 0 to less than 1 (SplitMix64).
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let bits = (mixed ^ (mixed >> 31)) >> 32;
        // 32 bits are exact in an f64, and finer than any timer.
        u32::try_from(bits).map_or(0.0, f64::from) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn delays(attempts: &mut Attempts, n: usize) -> Vec<Duration> {
        let now = Instant::now();
        (0..n).map_while(|_| attempts.next_delay(now)).collect()
    }

    #[test]
    fn without_jitter_delays_grow_by_the_factor_up_to_the_longest() {
        let backoff = Backoff::new(100 * MS, 1000 * MS).without_jitter();
        let grown = [100, 200, 400, 800, 1000, 1000].map(|ms| ms * MS);
        assert_eq!(delays(&mut backoff.start(0), 6), grown);
        let steady = backoff.clone().factor(1.0);
        assert_eq!(delays(&mut steady.start(0), 3), [100 * MS; 3]);
        let odd = backoff.factor(f64::NAN);
        assert_eq!(delays(&mut odd.start(0), 3), [100 * MS; 3]);
    }

    #[test]
    fn with_jitter_delays_are_spread_over_all_that_is_allowed() {
        let backoff = Backoff::new(100 * MS, 800 * MS);
        let (mut least, mut most) = ([Duration::MAX; 5], [Duration::ZERO; 5]);
        for seed in 0..500 {
            let delays = delays(&mut backoff.start(seed), 5);
            for ((least, most), delay) in least.iter_mut().zip(&mut most).zip(delays) {
                *least = delay.min(*least);
                *most = delay.max(*most);
            }
        }
        for ((least, most), ceiling) in least.iter().zip(most).zip([100, 200, 400, 800, 800]) {
            let ceiling = ceiling * MS;
            assert!(most <= ceiling, "{most:?} is over {ceiling:?}");
            assert!(most > ceiling.mul_f64(0.98), "{most:?} of {ceiling:?}");
            assert!(*least < ceiling.mul_f64(0.02), "{least:?} of {ceiling:?}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_delays_again_and_another_others() {
        let backoff = Backoff::default();
        let of = |seed| delays(&mut backoff.start(seed), 5);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        let anywhere = || delays(&mut backoff.start_anywhere(), 5);
        assert_ne!(anywhere(), anywhere());
    }

    #[test]
    fn it_gives_up_after_the_last_attempt_and_starts_over_after_a_reset() {
        let backoff = Backoff::new(100 * MS, 1000 * MS).without_jitter();
        let mut attempts = backoff.max_attempts(2).start(0);
        assert_eq!(delays(&mut attempts, 9), [100 * MS, 200 * MS]);
        assert_eq!(attempts.made(), 2);
        attempts.reset();
        assert_eq!(attempts.made(), 0);
        assert_eq!(delays(&mut attempts, 9), [100 * MS, 200 * MS]);
        let never = Backoff::default().max_attempts(0);
        assert!(delays(&mut never.start(0), 1).is_empty());
    }

    #[test]
    fn it_gives_up_when_time_is_up_with_one_attempt_just_then() {
        let backoff = Backoff::new(400 * MS, 400 * MS).without_jitter();
        let mut attempts = backoff.max_elapsed(1000 * MS).start(0);
        let start = Instant::now();
        assert_eq!(attempts.next_delay(start), Some(400 * MS));
        assert_eq!(attempts.next_delay(start + 400 * MS), Some(400 * MS));
        assert_eq!(attempts.next_delay(start + 800 * MS), Some(200 * MS));
        assert_eq!(attempts.next_delay(start + 1000 * MS), None);
        attempts.reset();
        let later = start + 5000 * MS;
        assert_eq!(attempts.next_delay(later), Some(400 * MS));
    }

    #[test]
    fn extreme_settings_do_not_overflow() {
        let backoff = Backoff::new(Duration::MAX, Duration::MAX).factor(f64::INFINITY);
        assert!(delays(&mut backoff.start(1), 100).len() == 100);
        let tiny = Backoff::new(Duration::ZERO, Duration::MAX).factor(1e300);
        assert_eq!(delays(&mut tiny.start(1), 100), [Duration::ZERO; 100]);
        let steep = Backoff::new(MS, Duration::MAX).factor(f64::MAX);
        assert_eq!(delays(&mut steep.start(1), 100).len(), 100);
        assert_eq!(Backoff::new(5 * MS, MS), Backoff::new(MS, MS));
    }
}
