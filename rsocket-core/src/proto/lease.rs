//! How many requests may be started, and until when: both sides' ledgers.
//!
//! A LEASE grants its receiver a number of requests for a time. Each side of a
//! connection has two ledgers: what the peer granted to it ([`Budget`], ours
//! to spend) and what it granted to the peer ([`Grants`], ours to enforce).
//! Requests for which there is no budget wait in the order of their ids.
//!
//! Spec: "LEASE Frame (0x02)", "Lease Semantics" \[C090-C097, C200-C207].

mod work;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use self::work::Work;
pub use self::work::{Latency, Load};
use crate::{
    error::Error,
    frame::{self, Millis31},
};

/// How a side that uses leases goes about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseConfig {
    /// For how long a lease that is over is still honoured, as far as it was
    /// not used up. Default 200 ms; zero: not at all.
    ///
    /// The peer counts its time from the arrival of LEASE, and what it sends
    /// takes time too: what it rightly sent can arrive one round trip after
    /// the end. So this should be longer than round trips are. It lets nobody
    /// have more requests than were granted, only later ones.
    pub grace: Duration,
    /// How long the first LEASE of the peer may take before the connection is
    /// given up; `None`, the default: for ever, which is what the protocol
    /// says \[C204]. Some servers ignore the lease flag of SETUP, and then
    /// none ever comes \[A22].
    pub first_within: Option<Duration>,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_millis(200),
            first_within: None,
        }
    }
}

/// What one side allows the other: a number of requests, for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// How many requests may be started: 0 ..= 2^31-1, and held to it. With 0
    /// no LEASE is sent, since not all peers take it \[C094]: what was granted
    /// before holds until its time is over.
    pub requests: u32,
    /// How long: held to 1 ms ..= 2^31-1 ms, and rounded up to whole ones.
    /// After it the policy is asked again.
    pub ttl: Duration,
    /// Asks again as soon as so many requests were finished, if that comes
    /// before the time is over.
    pub renew_after: Option<u32>,
    /// For the application at the other end.
    pub metadata: Option<Bytes>,
}

impl LeaseGrant {
    const MAX: u32 = (1 << 31) - 1;

    /// So many requests within this time.
    pub fn new(requests: u32, ttl: Duration) -> Self {
        Self {
            requests,
            ttl,
            renew_after: None,
            metadata: None,
        }
    }

    /// As many as the protocol can say, for as long: what a side grants that
    /// has nothing to limit.
    pub fn unlimited() -> Self {
        Self::new(Self::MAX, Duration::from_millis(Self::MAX.into()))
    }

    /// Nothing; ask again after this time.
    pub fn nothing(ask_again: Duration) -> Self {
        Self::new(0, ask_again)
    }

    /// Asks again as soon as `finished` requests were finished since now, and
    /// at the latest when the time is over.
    #[must_use]
    pub fn renew_after(mut self, finished: u32) -> Self {
        self.renew_after = Some(finished);
        self
    }

    /// With something for the application at the other end.
    #[must_use]
    pub fn with_metadata(mut self, metadata: impl Into<Bytes>) -> Self {
        self.metadata = Some(metadata.into());
        self
    }

    /// The time in whole milliseconds, as it is sent.
    fn ttl_ms(&self) -> u32 {
        const LONGEST: u32 = LeaseGrant::MAX;
        match self.ttl {
            Duration::ZERO => 1,
            ttl => Millis31::from_duration(ttl).map_or(LONGEST, Millis31::get),
        }
    }

    /// The LEASE frame.
    pub(super) fn frame(&self) -> frame::Lease<'_> {
        frame::Lease {
            ttl_ms: self.ttl_ms(),
            requests: self.requests.min(Self::MAX),
            metadata: self.metadata.as_deref(),
        }
    }
}

/// What is left of the last lease that the peer granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseStatus {
    /// Requests that may still be started; 0 before the first LEASE and after
    /// the end of the last.
    pub remaining_requests: u32,
    /// For how long.
    pub remaining_ttl: Duration,
    /// What the peer's application attached to the last LEASE.
    pub metadata: Option<Bytes>,
}

/// What the peer granted: ours to spend.
#[derive(Debug, Default)]
struct Budget {
    left: u32,
    /// `None` before the first LEASE, and after the end of the last.
    until: Option<Instant>,
    metadata: Option<Bytes>,
}

impl Budget {
    /// The newest LEASE replaces all earlier ones \[C092]; its time starts now
    /// \[C093].
    fn grant(&mut self, now: Instant, lease: &frame::Lease<'_>) {
        let ttl = Duration::from_millis(lease.ttl_ms.into());
        self.left = if lease.ttl_ms == 0 { 0 } else { lease.requests };
        self.until = now.checked_add(ttl);
        self.metadata = lease.metadata.map(Bytes::copy_from_slice);
    }

    /// After its time nothing is left of a lease \[C095].
    fn expire(&mut self, now: Instant) {
        if self.until.is_some_and(|until| now >= until) {
            self.left = 0;
            self.until = None;
        }
    }
}

/// What was granted to the peer: ours to enforce.
#[derive(Debug, Default)]
struct Grants {
    /// The last is the newest. Earlier ones may still have requests under way
    /// that were sent before the newest arrived; each ends on its own.
    held: VecDeque<Held>,
    /// The one that the peer is about to get.
    next: Option<Next>,
    again: Again,
    grace: Duration,
}

#[derive(Debug)]
struct Held {
    left: u32,
    /// When it is not honoured any more, grace included.
    until: Instant,
}

#[derive(Debug)]
struct Next {
    requests: u32,
    ttl: Duration,
    /// The link took it; its time starts when the session next learns the time.
    sent: bool,
}

/// Requests that were sent under a lease that is void now, and may come again
/// because the link was lost that they were sent on.
#[derive(Clone, Copy, Debug, Default)]
struct Again {
    left: u32,
    /// Leases since. With the second one they are all here.
    leases: u8,
}

impl Grants {
    /// Leases remembered at once. More than this within one grace are so short
    /// that a requester far away could not use them anyhow.
    const MAX_HELD: usize = 64;

    fn tell_time(&mut self, now: Instant) {
        let Some(next) = self.next.take_if(|next| next.sent) else {
            return;
        };
        if let Some(before) = self.held.back_mut() {
            before.until = before.until.min(now + self.grace);
        }
        self.held.retain(|held| held.left > 0 && now < held.until);
        if self.held.len() >= Self::MAX_HELD {
            self.held.pop_front();
        }
        self.again = match self.again {
            Again { left, leases: 0 } => Again { left, leases: 1 },
            Again { .. } => Again::default(),
        };
        self.held.push_back(Held {
            left: next.requests,
            until: now + next.ttl + self.grace,
        });
    }

    /// Counts a request of the peer, or says why it may not be.
    fn admit(&mut self, now: Instant) -> Result<(), &'static str> {
        let holds = |held: &&mut Held| now < held.until;
        let mut valid = self.held.iter_mut().filter(holds).peekable();
        let any = valid.peek().is_some();
        if let Some(held) = valid.find(|held| held.left > 0) {
            // The oldest first: what arrives now may have been sent before the
            // newest lease was there.
            held.left -= 1;
            return Ok(());
        }
        if self.again.left > 0 {
            self.again.left -= 1;
            return Ok(());
        }
        Err(match (any, self.held.is_empty()) {
            (true, _) => "the lease is used up; wait for the next LEASE",
            (false, false) => "the lease is over; wait for the next LEASE",
            (false, true) => "no lease was granted yet; wait for LEASE",
        })
    }
}

/// All about leases on one connection that uses them.
#[derive(Debug)]
pub(super) struct Lease {
    /// The time, as last told.
    clock: Instant,
    budget: Budget,
    /// Slots of streams whose requests were not sent: for want of a lease, or
    /// of room on the link. In the order of their ids \[C045].
    waiting: VecDeque<usize>,
    max_waiting: usize,
    /// Streams that go on had to wait for the last request.
    others_turn: bool,
    /// When the peer's first LEASE is overdue.
    first_by: Option<Instant>,
    grants: Grants,
    /// When to ask how much to grant; `None` while that is being asked.
    ask_at: Option<Instant>,
    work: Work,
}

impl Lease {
    pub(super) fn new(now: Instant, config: &LeaseConfig, max_waiting: usize) -> Self {
        Self {
            clock: now,
            budget: Budget::default(),
            waiting: VecDeque::new(),
            max_waiting,
            others_turn: false,
            first_by: config.first_within.and_then(|limit| now.checked_add(limit)),
            grants: Grants {
                grace: config.grace,
                ..Grants::default()
            },
            ask_at: None,
            work: Work::new(now),
        }
    }

    /// Tells the time: what is over is over from now on.
    pub(super) fn tell_time(&mut self, now: Instant) {
        self.clock = self.clock.max(now);
        self.budget.expire(self.clock);
        self.grants.tell_time(self.clock);
    }

    // ----- as a requester ---------------------------------------------------

    /// The peer granted.
    pub(super) fn on_lease(&mut self, lease: &frame::Lease<'_>) {
        self.first_by = None;
        self.budget.grant(self.clock, lease);
    }

    /// Whether the peer's first LEASE is overdue; true once.
    pub(super) fn is_overdue(&mut self) -> bool {
        self.first_by.take_if(|at| self.clock >= *at).is_some()
    }

    /// What is left of the last lease.
    pub(super) fn status(&self) -> LeaseStatus {
        let left = |until: Instant| until.saturating_duration_since(self.clock);
        LeaseStatus {
            remaining_requests: self.budget.left,
            remaining_ttl: self.budget.until.map_or(Duration::ZERO, left),
            metadata: self.budget.metadata.clone(),
        }
    }

    /// Whether one more request may wait \[C207]. Those for which there is a
    /// lease wait for nothing but the link, and do not count.
    pub(super) fn takes_request(&self) -> Result<(), Error> {
        let granted = usize::try_from(self.budget.left).unwrap_or(usize::MAX);
        if self.waiting.len() >= self.max_waiting.saturating_add(granted) {
            let limit = self.max_waiting;
            return Err(Error::NoLease { limit });
        }
        Ok(())
    }

    /// A stream's request waits from now on, behind all that do.
    pub(super) fn wait(&mut self, slot: usize) {
        self.waiting.push_back(slot);
    }

    /// The stream whose request may be sent now. It takes turns with streams
    /// that go on, if there are `others`.
    #[inline]
    pub(super) fn next_start(&self, others: bool) -> Option<usize> {
        if self.budget.left == 0 || (others && self.others_turn) {
            return None;
        }
        self.waiting.front().copied()
    }

    /// The request of [`next_start`](Self::next_start) was sent, or its first
    /// fragment: it counts once \[C203].
    pub(super) fn started(&mut self) {
        self.others_turn = true;
        self.budget.left -= 1;
        self.waiting.pop_front();
    }

    /// A stream that goes on had its turn.
    #[inline]
    pub(super) fn went_on(&mut self) {
        self.others_turn = false;
    }

    /// A stream waits no more.
    pub(super) fn forget(&mut self, slot: usize) {
        // Requests are given up soon after they were made, if at all.
        if let Some(at) = self.waiting.iter().rposition(|waits| *waits == slot) {
            self.waiting.remove(at);
        }
    }

    /// All that waited, in order; nothing waits any more.
    pub(super) fn take_waiting(&mut self) -> VecDeque<usize> {
        std::mem::take(&mut self.waiting)
    }

    /// Those for which there is no lease, in order; they wait no more.
    pub(super) fn take_without_lease(&mut self) -> VecDeque<usize> {
        let granted = usize::try_from(self.budget.left).unwrap_or(usize::MAX);
        self.waiting.split_off(granted.min(self.waiting.len()))
    }

    /// How many requests wait.
    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(any(test, feature = "testkit"))]
    pub(super) fn waiting(&self) -> impl Iterator<Item = usize> {
        self.waiting.iter().copied()
    }

    // ----- as a responder ---------------------------------------------------

    /// Counts a request of the peer, or says why it is refused \[C202].
    pub(super) fn admit(&mut self) -> Result<(), &'static str> {
        let admitted = self.grants.admit(self.clock);
        self.work.on_request(admitted.is_ok());
        admitted
    }

    /// From now on the peer is to be granted requests.
    pub(super) fn start_granting(&mut self) {
        self.ask_at = Some(self.clock);
    }

    /// Whether it is time to ask how much to grant; true once for each time.
    pub(super) fn is_due(&mut self) -> bool {
        let enough = self.work.has_finished_enough();
        let is_due = |at: &mut Instant| enough || self.clock >= *at;
        self.ask_at.take_if(is_due).is_some()
    }

    /// What there is to know about the peer's requests since the last call.
    pub(super) fn load(&mut self, undelivered: usize, open: usize) -> Load {
        self.work.take_load(self.clock, undelivered, open)
    }

    /// A grant was decided on; true if a LEASE is to be sent for it, for which
    /// [`on_sent`](Self::on_sent) is called then.
    pub(super) fn grant(&mut self, grant: &LeaseGrant) -> bool {
        let frame = grant.frame();
        let ttl = Duration::from_millis(frame.ttl_ms.into());
        self.ask_at = self.clock.checked_add(ttl);
        self.work.enough = grant.renew_after.map_or(u64::MAX, u64::from);
        self.work.granted = frame.requests;
        if frame.requests == 0 {
            return false;
        }
        // One that the peer never saw is replaced without a trace. Its time
        // runs from when it leaves, not while it waits for the link.
        self.grants.next = Some(Next {
            requests: frame.requests,
            ttl,
            sent: false,
        });
        true
    }

    /// The LEASE left.
    pub(super) fn on_sent(&mut self) {
        if let Some(next) = &mut self.grants.next {
            next.sent = true;
        }
    }

    /// A request of the peer was taken on.
    pub(super) fn begin(&mut self, slot: usize) {
        self.work.begin(slot, self.clock);
    }

    /// The first frame of its answer was sent.
    #[inline]
    pub(super) fn answered(&mut self, slot: usize) {
        self.work.answered(slot, self.clock);
    }

    /// It is over, whether it was answered or not.
    pub(super) fn gone(&mut self, slot: usize) {
        self.work.gone(slot);
    }

    // ----- both ---------------------------------------------------------------

    /// Makes all leases void, of both sides \[C206]: requests wait for the next
    /// LEASE, those of the peer are rejected until it gets one, and it is time
    /// to ask what to grant.
    pub(super) fn void(&mut self) {
        self.budget = Budget::default();
        let held = self.grants.held.drain(..).map(|held| held.left);
        let sent = self.grants.next.take().filter(|next| next.sent);
        let sent = sent.map_or(0, |next| next.requests);
        // What was to come again after an earlier loss still may: this link may
        // have gone before it came.
        let earlier = std::mem::take(&mut self.grants.again).left;
        let left = held.fold(sent.saturating_add(earlier), u32::saturating_add);
        self.grants.again = Again { left, leases: 0 };
        self.ask_at = Some(self.clock);
    }

    /// When the time is to be told next. Nobody is asked for grants unless
    /// `granting`.
    pub(super) fn poll_timeout(&self, granting: bool) -> Option<Instant> {
        let sent = self.grants.next.as_ref().is_some_and(|next| next.sent);
        let ask_at = self.ask_at.filter(|_| granting);
        let expiry = self.budget.until;
        [ask_at, expiry, self.first_by, sent.then_some(self.clock)]
            .into_iter()
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests;
