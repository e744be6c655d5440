//! How long to look at memory before sleeping.
//!
//! Looking costs this side time, sleeping costs both sides a system call and the
//! frame a wake-up of some microseconds. Which is better depends on how long the
//! waits are, and the past tells: of each 32 waits, those that ended while it
//! looked are counted. Fewer than a quarter, and it looks half as long; more, and
//! up to twice as long. Where it has given up it tries again after 1,024 waits.

use std::time::{Duration, Instant};

use crate::options::Spin;

/// The longest time that [`Spin::Adaptive`] looks: a few times what a sleep and
/// a wake-up cost.
const MOST: Duration = Duration::from_micros(20);

/// Where it begins on machines of two processors: longer than an answer takes of
/// a peer that is awake (2 µs), and not much, since whoever looks may hold
/// up the very process that it waits for.
const FEW_CORES: Duration = Duration::from_micros(5);

/// Below this, looking is given up: a turn of a task takes as long.
const LEAST: Duration = Duration::from_nanos(500);

/// Waits that are judged together.
const WINDOW: u32 = 32;

/// Waits that it must have paid in, of a window.
const WORTH_IT: u32 = WINDOW / 4;

/// Windows until it tries again.
const GIVEN_UP: u32 = 32;

#[derive(Debug)]
pub(crate) struct Spinner {
    /// `None`: for ever.
    budget: Option<Duration>,
    adapts: bool,
    begins_with: Duration,
    wait: Wait,
    waits: u32,
    paid: u32,
    /// Windows for which nothing was looked at.
    idle_windows: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Something is at hand, as far as is known.
    No,
    Looking {
        since: Instant,
    },
    Asleep,
}

impl Spinner {
    /// For a process that may use `cores` processors at a time.
    pub(crate) fn new(spin: Spin, cores: usize) -> Self {
        let begins_with = match cores {
            0 | 1 => Duration::ZERO,
            2 => FEW_CORES,
            _ => MOST,
        };
        Self {
            budget: match spin {
                Spin::Adaptive => Some(begins_with),
                Spin::Poll => None,
                Spin::Sleep => Some(Duration::ZERO),
            },
            // On one processor, whoever is waited for runs while we sleep.
            adapts: spin == Spin::Adaptive && !begins_with.is_zero(),
            begins_with,
            wait: Wait::No,
            waits: 0,
            paid: 0,
            idle_windows: 0,
        }
    }

    /// Nothing is at hand: whether to look again soon, and not sleep yet.
    pub(crate) fn looks_on(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let Some(budget) = self.budget else {
            return true;
        };
        match self.wait {
            Wait::Asleep => false,
            Wait::No if budget.is_zero() => {
                self.wait = Wait::Asleep;
                self.count(false);
                false
            }
            Wait::No => {
                self.wait = Wait::Looking { since: now() };
                true
            }
            Wait::Looking { since } if now().saturating_duration_since(since) < budget => true,
            Wait::Looking { .. } => {
                self.wait = Wait::Asleep;
                self.count(false);
                false
            }
        }
    }

    /// How long it is worth to look without a turn for anybody else; nobody is
    /// told to look for ever.
    pub(crate) fn linger(&self) -> Duration {
        self.budget.unwrap_or(MOST)
    }

    /// Something came.
    pub(crate) fn came(&mut self) {
        if matches!(self.wait, Wait::Looking { .. }) {
            self.count(true);
        }
        self.wait = Wait::No;
    }

    fn count(&mut self, paid: bool) {
        self.waits += 1;
        self.paid += u32::from(paid);
        if self.waits < WINDOW || !self.adapts {
            return;
        }
        let worth_it = self.paid >= WORTH_IT;
        (self.waits, self.paid) = (0, 0);
        let budget = self.budget.unwrap_or_default();
        self.budget = Some(if budget.is_zero() {
            self.idle_windows += 1;
            if self.idle_windows < GIVEN_UP {
                return;
            }
            self.idle_windows = 0;
            self.begins_with
        } else if worth_it {
            (2 * budget).min(MOST)
        } else if budget / 2 < LEAST {
            Duration::ZERO
        } else {
            budget / 2
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits, each as long as `wait` says, and how long it looked in all.
    fn looked(spinner: &mut Spinner, waits: u32, wait: Duration) -> Duration {
        let begin = Instant::now();
        let mut total = Duration::ZERO;
        for _ in 0..waits {
            let mut passed = Duration::ZERO;
            while passed < wait && spinner.looks_on(|| begin + passed) {
                passed += Duration::from_nanos(100);
            }
            total += passed;
            spinner.came();
        }
        total
    }

    const SHORT: Duration = Duration::from_nanos(800);
    const LONG: Duration = Duration::from_millis(5);

    #[test]
    fn looking_goes_on_where_waits_are_short() {
        for cores in [2, 16] {
            let mut spinner = Spinner::new(Spin::Adaptive, cores);
            assert_eq!(looked(&mut spinner, 1_000, SHORT), 1_000 * SHORT);
        }
    }

    #[test]
    fn looking_is_given_up_where_waits_are_long_and_tried_again() {
        let mut spinner = Spinner::new(Spin::Adaptive, 16);
        let learning = looked(&mut spinner, 6 * WINDOW, LONG);
        assert!(learning < WINDOW * 2 * MOST + WINDOW * MOST, "{learning:?}");
        let given_up = looked(&mut spinner, WINDOW * (GIVEN_UP - 1), LONG);
        assert_eq!(given_up, Duration::ZERO);

        looked(&mut spinner, WINDOW, LONG);
        assert_eq!(looked(&mut spinner, 100, SHORT), 100 * SHORT, "again");
    }

    #[test]
    fn waits_between_two_budgets_are_found() {
        let mut spinner = Spinner::new(Spin::Adaptive, 2);
        // Half of them are short enough to pay, so it looks longer and longer
        // until the others pay, too.
        let wait = Duration::from_micros(10);
        for _ in 0..8 * WINDOW {
            looked(&mut spinner, 1, SHORT);
            looked(&mut spinner, 1, wait);
        }
        assert_eq!(looked(&mut spinner, 10, wait), 10 * wait);
    }

    #[test]
    fn one_processor_sleeps_at_once() {
        for cores in [0, 1] {
            let mut spinner = Spinner::new(Spin::Adaptive, cores);
            assert_eq!(looked(&mut spinner, 5_000, SHORT), Duration::ZERO);
        }
    }

    #[test]
    fn sleep_never_looks_and_poll_never_sleeps() {
        let mut spinner = Spinner::new(Spin::Sleep, 16);
        assert_eq!(looked(&mut spinner, 5_000, SHORT), Duration::ZERO);
        let mut spinner = Spinner::new(Spin::Poll, 1);
        assert_eq!(looked(&mut spinner, 200, LONG), 200 * LONG);
    }
}
