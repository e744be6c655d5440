//! How long to look at memory before sleeping.
//!
//! Looking costs this side time, sleeping costs both sides a system call and the
//! frame a wake-up of some microseconds. Which is better depends on how long the
//! waits are, and the past tells: of each 32 waits, those are counted that looking
//! ended, or would have. Fewer than a quarter, and it sleeps at once.
//!
//! A wait that was slept through is longer than it would have been awake, on both
//! sides: the peer's wake-up is in it, and one's own. So where both sleep each of
//! them sees waits of 10 to 40 µs though an answer takes 1, and it must not be
//! judged by these what looking would have brought: one of the two has to begin.
//! Whoever sleeps begins when waits are [`SHORT`], and if that does not pay it
//! tries again later and later. So it is where the two share one processor: who
//! looks keeps the other from answering. How many processors there are says little
//! about that. A process may be bound to one, and its peer to another.

use std::time::{Duration, Instant};

use crate::options::Spin;

/// The longest time that [`Spin::Adaptive`] looks: a few times what a sleep and
/// a wake-up cost.
const MOST: Duration = Duration::from_micros(20);

/// The longest wait in which a side slept that may be short when it looks: two
/// wake-ups, and an answer.
const SHORT: Duration = Duration::from_micros(60);

/// Waits that are judged together.
const WINDOW: u32 = 32;

/// Waits that it must have paid in, of a window.
const WORTH_IT: u32 = WINDOW / 4;

/// The most windows that pass before looking is tried again: of 8,192 waits, 32
/// are looked through in vain, which makes the average one 0.08 µs longer.
const MOST_PATIENCE: u32 = 256;

#[derive(Debug)]
pub(crate) struct Spinner {
    spin: Spin,
    /// What is done in this window.
    looks: bool,
    /// Since when there is nothing at hand, and whether it slept meanwhile.
    wait: Wait,
    waits: u32,
    /// Of those, the ones that looking ended, or may have.
    paid: u32,
    /// Windows to sleep in before looking is tried again.
    rest: u32,
    /// How many it will be the next time that looking does not pay.
    patience: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Something is at hand, as far as is known.
    No,
    Looking {
        since: Instant,
    },
    Asleep {
        since: Instant,
    },
}

impl Spinner {
    pub(crate) fn new(spin: Spin) -> Self {
        Self {
            spin,
            looks: spin != Spin::Sleep,
            wait: Wait::No,
            waits: 0,
            paid: 0,
            rest: 0,
            patience: 1,
        }
    }

    /// Nothing is at hand: whether to look again soon, and not sleep yet.
    pub(crate) fn looks_on(&mut self, now: impl FnOnce() -> Instant) -> bool {
        match (self.spin, self.wait) {
            (Spin::Poll, _) => true,
            (Spin::Sleep, _) | (_, Wait::Asleep { .. }) => false,
            (Spin::Adaptive, Wait::No) => {
                let since = now();
                self.wait = match self.looks {
                    true => Wait::Looking { since },
                    false => Wait::Asleep { since },
                };
                self.looks
            }
            (Spin::Adaptive, Wait::Looking { since }) => {
                let now = now();
                let looks_on = now.saturating_duration_since(since) < MOST;
                if !looks_on {
                    self.wait = Wait::Asleep { since };
                }
                looks_on
            }
        }
    }

    /// Something came.
    pub(crate) fn came(&mut self, now: impl FnOnce() -> Instant) {
        let paid = match std::mem::replace(&mut self.wait, Wait::No) {
            Wait::No => return,
            Wait::Looking { .. } => true,
            Wait::Asleep { .. } if self.looks => false,
            Wait::Asleep { since } => now().saturating_duration_since(since) < SHORT,
        };
        self.waits += 1;
        self.paid += u32::from(paid);
        if self.waits == WINDOW {
            self.judge();
        }
    }

    fn judge(&mut self) {
        let worth_it = self.paid >= WORTH_IT;
        (self.waits, self.paid) = (0, 0);
        match (self.looks, worth_it) {
            (true, true) => self.patience = 1,
            (true, false) => {
                self.looks = false;
                self.rest = self.patience;
                self.patience = (2 * self.patience).min(MOST_PATIENCE);
            }
            (false, _) => {
                self.rest = self.rest.saturating_sub(1);
                self.looks = worth_it && self.rest == 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWAKE: Duration = Duration::from_nanos(800);
    /// What the same takes with two sleepers.
    const ASLEEP: Duration = Duration::from_micros(30);
    const LONG: Duration = Duration::from_millis(5);
    const STEP: Duration = Duration::from_nanos(100);

    /// Waits, each as long as `wait` says, and how long it looked in all.
    fn looked(spinner: &mut Spinner, waits: u32, wait: Duration) -> Duration {
        let begin = Instant::now();
        let mut total = Duration::ZERO;
        for _ in 0..waits {
            let mut passed = Duration::ZERO;
            while passed < wait && spinner.looks_on(|| begin + passed) {
                passed += STEP;
            }
            total += passed;
            spinner.came(|| begin + wait);
        }
        total
    }

    /// Two sides that wait for each other: whether they both look at the end.
    fn converse(sides: &mut [Spinner; 2], waits: u32) -> bool {
        let mut are_awake = false;
        for _ in 0..waits {
            let look = |side: &mut Spinner, wait| looked(side, 1, wait) > Duration::ZERO;
            let wait = match sides.iter().filter(|side| side.looks).count() {
                2 => AWAKE,
                1 => ASLEEP / 2,
                _ => ASLEEP,
            };
            let [one, other] = sides;
            are_awake = look(one, wait) & look(other, wait);
        }
        are_awake
    }

    #[test]
    fn looking_goes_on_where_waits_are_short() {
        let mut spinner = Spinner::new(Spin::Adaptive);
        assert_eq!(looked(&mut spinner, 1_000, AWAKE), 1_000 * AWAKE);
    }

    #[test]
    fn looking_is_given_up_where_waits_are_long() {
        let mut spinner = Spinner::new(Spin::Adaptive);
        assert_eq!(looked(&mut spinner, WINDOW, LONG), WINDOW * MOST);
        assert_eq!(looked(&mut spinner, 10_000, LONG), Duration::ZERO);
    }

    #[test]
    fn two_sleepers_wake_each_other_up_when_there_is_much_to_say() {
        let mut sides = [(); 2].map(|()| Spinner::new(Spin::Adaptive));
        assert!(converse(&mut sides, 100));
        for side in &mut sides {
            looked(side, 1_000, LONG);
            assert_eq!(looked(side, 1, LONG), Duration::ZERO, "asleep");
        }
        assert!(converse(&mut sides, 4 * WINDOW));
    }

    #[test]
    fn what_never_pays_is_tried_less_and_less() {
        // Each wait is short, but not short enough: nobody answers while it looks.
        let mut spinner = Spinner::new(Spin::Adaptive);
        looked(&mut spinner, 600 * WINDOW, ASLEEP);
        let windows = 10 * (MOST_PATIENCE + 1);
        let spent = looked(&mut spinner, windows * WINDOW, ASLEEP);
        assert_eq!(spent, 10 * WINDOW * MOST);
    }

    #[test]
    fn sleep_never_looks_and_poll_never_sleeps() {
        let mut spinner = Spinner::new(Spin::Sleep);
        assert_eq!(looked(&mut spinner, 5_000, AWAKE), Duration::ZERO);
        let mut spinner = Spinner::new(Spin::Poll);
        assert_eq!(looked(&mut spinner, 200, LONG), 200 * LONG);
    }
}
