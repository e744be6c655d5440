//! A link in virtual time: reliable, ordered, and as slow, small and mortal as
//! a seed wants it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Random;

/// How a link of one direction behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFaults {
    /// Bytes that may be under way; one frame always may.
    pub capacity: usize,
    /// The link takes nothing now and then, once in so many tries; 0: never.
    pub refuse_once_in: usize,
    /// The longest that a frame is under way.
    pub delay: Duration,
}

/// One direction of a link.
#[derive(Debug)]
pub struct Wire {
    faults: LinkFaults,
    frames: VecDeque<(Instant, Vec<u8>)>,
    len: usize,
    state: WireState,
}

/// Whether more will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WireState {
    Up,
    /// The sender closed its half; what is under way arrives.
    Ended,
    /// Broken: what was under way is gone.
    Lost,
    /// Broken, and the receiver does not know.
    Mute,
}

/// What a receiver finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A frame.
    Frame(Vec<u8>),
    /// Nothing until then; `None`: nothing is under way.
    Nothing(Option<Instant>),
    /// The sender closed its half in good order.
    End,
    /// The link broke.
    Lost,
}

impl Wire {
    /// An empty link.
    pub fn new(faults: LinkFaults) -> Self {
        Self {
            faults,
            frames: VecDeque::new(),
            len: 0,
            state: WireState::Up,
        }
    }

    /// Takes a frame, or does not.
    pub fn send(&mut self, now: Instant, random: &mut Random, frame: Vec<u8>) -> bool {
        let full = !self.frames.is_empty() && self.len + frame.len() > self.faults.capacity;
        let refuses = self.faults.refuse_once_in > 0 && random.once_in(self.faults.refuse_once_in);
        if full || refuses {
            return false;
        }
        self.put(now, random, frame);
        true
    }

    /// Takes a frame in any case.
    pub fn put(&mut self, now: Instant, random: &mut Random, frame: Vec<u8>) {
        if self.state == WireState::Up {
            let most = usize::try_from(self.faults.delay.as_micros()).unwrap_or(usize::MAX);
            let micros = u64::try_from(random.within(0..=most)).unwrap_or(u64::MAX);
            let arrives = now + Duration::from_micros(micros);
            // Ordered: nobody overtakes.
            let last = self.frames.back().map_or(arrives, |(at, _)| *at);
            self.len += frame.len();
            self.frames.push_back((arrives.max(last), frame));
        }
    }

    /// What has arrived.
    pub fn receive(&mut self, now: Instant) -> Arrival {
        match self.frames.front() {
            Some((at, _)) if *at <= now => match self.frames.pop_front() {
                Some((_, frame)) => {
                    self.len -= frame.len();
                    Arrival::Frame(frame)
                }
                None => Arrival::Nothing(None),
            },
            Some((at, _)) => Arrival::Nothing(Some(*at)),
            None => match self.state {
                WireState::Up | WireState::Mute => Arrival::Nothing(None),
                WireState::Ended => Arrival::End,
                WireState::Lost => Arrival::Lost,
            },
        }
    }

    /// When the next frame arrives; `None` when none is under way.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.frames.front().map(|(at, _)| *at)
    }

    /// The sender closes its half.
    pub fn end(&mut self) {
        if self.state == WireState::Up {
            self.state = WireState::Ended;
        }
    }

    /// The link breaks.
    pub fn lose(&mut self) {
        self.state = WireState::Lost;
        self.frames.clear();
        self.len = 0;
    }

    /// The link breaks, and the receiver is not told.
    pub fn mute(&mut self) {
        self.lose();
        self.state = WireState::Mute;
    }

    /// Whether it is broken and the receiver does not know.
    pub fn is_mute(&self) -> bool {
        self.state == WireState::Mute
    }

    /// Whether the receiver will find no end of it.
    pub fn is_open(&self) -> bool {
        matches!(self.state, WireState::Up | WireState::Mute)
    }

    /// From here on the link never refuses, so that what waits can leave.
    pub fn calm(&mut self) {
        self.faults.refuse_once_in = 0;
    }

    /// Whether the receiver has something to see.
    pub fn has_news(&self, now: Instant) -> bool {
        match self.next_arrival() {
            Some(at) => at <= now,
            None => !matches!(self.state, WireState::Up | WireState::Mute),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(capacity: usize) -> (Wire, Instant, Random) {
        let faults = LinkFaults {
            capacity,
            refuse_once_in: 0,
            delay: Duration::from_millis(5),
        };
        (Wire::new(faults), Instant::now(), Random::new(1))
    }

    #[test]
    fn frames_arrive_in_order_and_before_the_end() {
        let (mut wire, now, mut random) = wire(1_000);
        for n in 0..100 {
            assert!(wire.send(now, &mut random, vec![n]));
        }
        wire.end();
        let later = now + Duration::from_millis(5);
        for n in 0..100 {
            assert_eq!(wire.receive(later), Arrival::Frame(vec![n]));
        }
        assert_eq!(wire.receive(later), Arrival::End);
    }

    #[test]
    fn a_full_link_takes_nothing_and_a_long_frame_passes_alone() {
        let (mut wire, now, mut random) = wire(10);
        assert!(wire.send(now, &mut random, vec![0; 50]));
        assert!(!wire.send(now, &mut random, vec![0; 1]));
        let later = now + Duration::from_millis(5);
        assert!(matches!(wire.receive(later), Arrival::Frame(_)));
        assert!(wire.send(now, &mut random, vec![0; 1]));
    }

    #[test]
    fn what_is_under_way_when_a_link_breaks_is_gone() {
        let (mut wire, now, mut random) = wire(10);
        assert!(wire.send(now, &mut random, vec![0; 1]));
        wire.lose();
        assert_eq!(wire.receive(now), Arrival::Lost);
        assert!(wire.send(now, &mut random, vec![0; 1]), "nobody is held up");
        assert_eq!(wire.receive(now), Arrival::Lost);
    }
}
