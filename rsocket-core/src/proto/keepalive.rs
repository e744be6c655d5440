//! When to send KEEPALIVE, and when to give the peer up for dead.
//!
//! Spec: "KEEPALIVE Frame (0x03)", "SETUP Frame (0x01)" \[C100-C110].

use std::time::{Duration, Instant};

use crate::frame::Millis31;

/// One side's keepalive timers.
#[derive(Debug)]
pub struct Keepalive {
    /// `None` on a server, which only answers \[C102].
    interval: Option<Duration>,
    max_lifetime: Millis31,
    next_send: Instant,
    last_heard: Instant,
}

/// What [`Keepalive::handle_timeout`] asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// The deadline was not reached.
    Nothing,
    /// Send KEEPALIVE with the RESPOND flag.
    Send,
    /// Nothing was heard for Max Lifetime: close the connection.
    PeerDead,
}

impl Keepalive {
    /// A client's timers, as it announces them in SETUP.
    pub fn client(now: Instant, interval: Millis31, max_lifetime: Millis31) -> Self {
        let interval = interval.to_duration();
        Self {
            interval: Some(interval),
            max_lifetime,
            next_send: now + interval,
            last_heard: now,
        }
    }

    /// A server's timer, from the client's SETUP.
    pub fn server(now: Instant, max_lifetime: Millis31) -> Self {
        Self {
            interval: None,
            max_lifetime,
            next_send: now,
            last_heard: now,
        }
    }

    /// Notes that something came in. Any frame proves the peer alive \[C109].
    #[inline]
    pub fn on_received(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// Starts anew on another link.
    pub fn restart(&mut self, now: Instant) {
        self.last_heard = now;
        if let Some(interval) = self.interval {
            self.next_send = now + interval;
        }
    }

    /// The max lifetime agreed.
    pub fn max_lifetime(&self) -> Millis31 {
        self.max_lifetime
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called next.
    pub fn poll_timeout(&self) -> Instant {
        let dead = self.last_heard + self.max_lifetime.to_duration();
        match self.interval {
            Some(_) => self.next_send.min(dead),
            None => dead,
        }
    }

    /// Acts on the passing of time. Early, late and repeated calls are fine.
    pub fn handle_timeout(&mut self, now: Instant) -> Action {
        if now >= self.last_heard + self.max_lifetime.to_duration() {
            return Action::PeerDead;
        }
        match self.interval {
            Some(interval) if now >= self.next_send => {
                // From `now`, not from the deadline: a process that was
                // suspended sends one KEEPALIVE on waking, not one for each
                // interval that it slept.
                self.next_send = now + interval;
                Action::Send
            }
            _ => Action::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Millis31 = Millis31::new(20_000).unwrap();
    const MAX_LIFETIME: Millis31 = Millis31::new(90_000).unwrap();

    #[expect(clippy::disallowed_methods, reason = "any instant does")]
    fn start() -> Instant {
        Instant::now()
    }

    // [C065, C101]
    #[test]
    fn a_silent_peer_is_dead_after_max_lifetime_and_no_earlier() {
        let start = start();
        let mut keepalive = Keepalive::client(start, INTERVAL, MAX_LIFETIME);
        let mut sent = 0;
        let died = loop {
            let now = keepalive.poll_timeout();
            match keepalive.handle_timeout(now) {
                Action::Send => sent += 1,
                Action::PeerDead => break now,
                Action::Nothing => panic!("poll_timeout gave a deadline with nothing to do"),
            }
        };
        assert_eq!(died - start, MAX_LIFETIME.to_duration());
        assert_eq!(sent, 4); // at 20, 40, 60 and 80 s
    }

    #[test]
    fn a_suspended_process_sends_one_keepalive_not_a_burst() {
        let start = start();
        let mut keepalive = Keepalive::client(start, INTERVAL, MAX_LIFETIME);
        let woken = start + 4 * INTERVAL.to_duration();
        assert_eq!(keepalive.handle_timeout(woken), Action::Send);
        assert_eq!(keepalive.handle_timeout(woken), Action::Nothing);
    }

    // [C102]
    #[test]
    fn a_server_sends_none_but_notices_a_dead_client() {
        let start = start();
        let mut keepalive = Keepalive::server(start, MAX_LIFETIME);
        let deadline = keepalive.poll_timeout();
        assert_eq!(deadline - start, MAX_LIFETIME.to_duration());
        keepalive.on_received(start + INTERVAL.to_duration());
        assert_eq!(keepalive.handle_timeout(deadline), Action::Nothing);
        assert_eq!(
            keepalive.handle_timeout(keepalive.poll_timeout()),
            Action::PeerDead
        );
    }
}
