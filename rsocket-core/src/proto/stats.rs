//! What a session counts.

/// Counters of one session, since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Frames sent.
    pub frames_sent: u64,
    /// Frames received, malformed ones included.
    pub frames_received: u64,
    /// Frames that made no sense where they came and were ignored, as the
    /// spec demands ("Handling the Unexpected").
    pub frames_ignored: u64,
    /// Requests of the peer refused with REJECTED, for whatever reason.
    pub requests_rejected: u64,
    /// Fire-and-forgets and metadata pushes dropped, for
    /// [`Limits::max_one_way`](super::Limits::max_one_way) or want of a lease.
    pub one_way_dropped: u64,
    /// Streams ended because the peer broke a rule on them.
    pub streams_misbehaved: u64,
    /// How often the session went on over a new link.
    pub resumptions: u64,
    /// Frames sent again after that, also counted in `frames_sent`.
    pub frames_resent: u64,
    /// Bytes of frames kept until the peer confirms them.
    pub resume_len: usize,
    /// Streams of either side that are open now.
    pub streams_open: usize,
    /// LEASE frames sent.
    pub leases_sent: u64,
    /// LEASE frames received, where leases were agreed on.
    pub leases_received: u64,
    /// Own requests that wait now: for a lease, or with one for the link.
    pub requests_waiting: usize,
    /// Requests of the peer refused, or dropped if they are one-way, because
    /// no lease allowed them.
    pub lease_rejected: u64,
}

/// What a session holds for its peer, in bytes; for tests.
#[cfg(any(test, feature = "testkit"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Payloads that are being reassembled, or wait to be taken: bounded by
    /// [`Limits::max_buffered_len`](super::Limits::max_buffered_len).
    pub buffered: usize,
    /// Payloads that wait for the link: bounded by
    /// [`Limits::max_queued_len`](super::Limits::max_queued_len) and what was
    /// handed over at once.
    pub queued: usize,
    /// What the protocol owes: bounded by
    /// [`Limits::max_owed_len`](super::Limits::max_owed_len) and one frame.
    pub owed: usize,
    /// Places for streams, used or free. They are kept.
    pub slots: usize,
}
