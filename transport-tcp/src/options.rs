//! What can be set, with defaults and their reasons.

use std::time::Duration;

/// How long a connector tries unless told otherwise.
///
/// Linux sends SYNs after 0, 1, 3 and 7 s, so three may be lost; by itself it
/// would try for more than two minutes, which nobody waits for.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that the kernel completes before they are accepted.
///
/// The usual 128 is filled by a few hundred clients that come back together
/// after a restart; each of them would then wait a second for its next SYN.
pub const BACKLOG: u32 = 1024;

/// The longest frame that three bytes of length can announce.
const LONGEST_FRAME: usize = 0x00FF_FFFF;

/// The shortest limit that leaves room for the fixed parts of any frame.
const SHORTEST_LIMIT: usize = 64;

/// What can be set for any byte stream, see [`link`](crate::link()).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkOptions {
    max_frame_len: usize,
}

impl LinkOptions {
    /// Everything at its default.
    pub fn new() -> Self {
        Self {
            max_frame_len: LONGEST_FRAME,
        }
    }

    /// Sets the longest frame, in bytes without its prefix, both ways: a longer
    /// one from the peer ends the link, and the core sends none.
    ///
    /// 64 ..= 16,777,215, which is the default.
    ///
    /// # Panics
    ///
    /// When `len` is out of that range.
    #[must_use]
    pub fn max_frame_len(mut self, len: usize) -> Self {
        assert!(
            (SHORTEST_LIMIT..=LONGEST_FRAME).contains(&len),
            "max_frame_len is {len}, not in {SHORTEST_LIMIT}..={LONGEST_FRAME}"
        );
        self.max_frame_len = len;
        self
    }

    /// The longest frame, as set.
    pub fn longest_frame(&self) -> usize {
        self.max_frame_len
    }
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// What can be set for a TCP connection, from either end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpOptions {
    pub(crate) link: LinkOptions,
    /// Whether small writes go out at once. The link gathers frames itself, so
    /// the kernel's gathering would only add its delay.
    pub(crate) nodelay: bool,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            link: LinkOptions::new(),
            nodelay: true,
        }
    }
}
