//! Limits and intervals, with their defaults and why.

use std::time::Duration;

use super::{LeaseConfig, ResumeOptions};
use crate::frame::MAX_FRAME_LEN;

/// What a session allows and how it behaves. Both sides have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Longest frame sent, in bytes, counting the 3-byte length prefix whether
    /// or not the transport has one; payloads that need more are fragmented.
    /// `None`: no fragmentation, and a payload that does not fit a frame is
    /// refused. At least [`MIN_FRAGMENT_LEN`](Self::MIN_FRAGMENT_LEN).
    pub fragment_len: Option<usize>,
    /// What a peer may make us hold.
    pub limits: Limits,
    /// How long a graceful close waits for streams to end. 30 s: longer than
    /// nearly all requests, shorter than what shuts processes down by force.
    pub drain_timeout: Duration,
    /// Whether and how the session outlives a lost link. A server without it
    /// refuses resumption; a client needs a token in
    /// [`SetupOptions`](super::SetupOptions) as well.
    pub resume: Option<ResumeOptions>,
    /// Leases: a client asks for them in SETUP, a server accepts clients that
    /// do \[C072]. `None`, the default: no leases, and a client that asks for
    /// them is refused with UNSUPPORTED_SETUP.
    pub lease: Option<LeaseConfig>,
}

impl Config {
    /// The least fragment length: rsocket-java refuses shorter ones \[C218, C219].
    pub const MIN_FRAGMENT_LEN: usize = 64;
}

impl Default for Config {
    fn default() -> Self {
        Self {
            fragment_len: None,
            limits: Limits::default(),
            drain_timeout: Duration::from_secs(30),
            resume: None,
            lease: None,
        }
    }
}

/// What a peer may make this side hold or do. Every default is meant to be
/// safe on a server that faces strangers, and generous enough for services.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Longest frame taken, in bytes \[C012]. Default: what the protocol
    /// allows, 16,777,215, since `max_payload_len` binds anyway. Beyond it:
    /// ERROR\[CONNECTION_ERROR\].
    pub max_frame_len: usize,
    /// Longest payload taken, in bytes of data and metadata, reassembled or
    /// not \[C222]. Default 16 MiB + 64 KiB: one frame of the longest kind
    /// passes. Beyond it the stream ends with ERROR\[CANCELED\] or CANCEL.
    pub max_payload_len: usize,
    /// Fragments of one payload. Default 1,048,576: the longest payload in
    /// fragments of some 16 bytes, shorter than any peer sends. Beyond it the
    /// stream ends as for a payload that is too long.
    pub max_fragments: usize,
    /// Credit of one stream of the peer, in payloads that it asked for and did
    /// not get. Default `u64::MAX`, no limit, since most clients ask for
    /// 2^31-1 at once and credit costs nothing: whoever produces waits for
    /// `max_queued_len` as well. With a limit, a request that asks for more gets
    /// ERROR\[REJECTED\], and a REQUEST_N that exceeds it ends its stream.
    pub max_credit: u64,
    /// Bytes of payloads of a connection that are being reassembled, or wait
    /// to be taken from a stream. Default 64 MiB: four of the longest, or
    /// half a million small ones. Beyond it the stream that asks for more ends.
    ///
    /// Of each stream up to 32 payloads, or 64 KiB, may count for a little longer
    /// than until they are taken: see [`Batch`](super::Batch).
    pub max_buffered_len: usize,
    /// Requests of the peer in work at once on a connection. Default 16,384:
    /// above what one connection can keep busy, at some hundred bytes each.
    /// Beyond it: ERROR\[REJECTED\]; a fire-and-forget is dropped.
    pub max_streams: usize,
    /// Bytes of answers that the protocol itself owes and the peer does not
    /// read: KEEPALIVE answers and rejections \[C110]. Default 256 KiB.
    /// Beyond it nothing more is read from the peer until it reads.
    pub max_owed_len: usize,
    /// Bytes of payloads that wait for the link, over all streams \[C256].
    /// Default 8 MiB: more than links hold in flight. Beyond it, whoever
    /// produces payloads waits, whatever credit the peer has granted, and no
    /// further request is taken on.
    pub max_queued_len: usize,
    /// METADATA_PUSH and fire-and-forget handlers in work at once on a
    /// connection. Default 1,024. Beyond it they are dropped, which the
    /// protocol allows, and counted \[C165].
    pub max_one_way: usize,
    /// Own requests that wait for a lease of the peer \[C207]. Default 256, as
    /// in other implementations: some milliseconds of a busy caller. Beyond it
    /// requests fail at once with [`Error::NoLease`](crate::Error::NoLease);
    /// with 0 none waits.
    pub max_waiting_requests: usize,
    /// How long a server waits for SETUP, its acceptor included \[C182], and a
    /// client for the answer to RESUME. Default 10 s.
    pub setup_timeout: Duration,
    /// Bytes of frames that a resumable session keeps until the peer has
    /// confirmed them. Default 8 MiB: what a fast link carries in some
    /// milliseconds, which is how often peers confirm. When it is full, nothing
    /// new is sent until they do, and a peer that never confirms loses the
    /// session: [`CloseReason::ResumeLogFull`](crate::CloseReason::ResumeLogFull).
    pub max_resume_len: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame_len: MAX_FRAME_LEN,
            max_payload_len: (16 << 20) + (64 << 10),
            max_fragments: 1 << 20,
            max_credit: u64::MAX,
            max_buffered_len: 64 << 20,
            max_streams: 16_384,
            max_owed_len: 256 << 10,
            max_queued_len: 8 << 20,
            max_one_way: 1_024,
            max_waiting_requests: 256,
            setup_timeout: Duration::from_secs(10),
            max_resume_len: 8 << 20,
        }
    }
}
