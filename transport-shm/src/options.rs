//! What can be set, with defaults and their reasons.

use crate::layout::Geometry;

/// The longest region of a peer that is mapped unless told otherwise: 256 MiB.
///
/// The memory is the peer's, so the limit only bounds address space and page
/// tables (512 KiB for this length), and what a peer that is trusted can pin.
const LONGEST_PEER_REGION: usize = 256 << 20;

/// What can be set for a link in shared memory, from either end.
///
/// Each side says how much memory it sends from ([`ring_len`](Self::ring_len),
/// [`arena_len`](Self::arena_len)) and how much it takes from the peer
/// ([`longest_peer_region`](Self::longest_peer_region)); nothing else has to
/// agree.
///
/// # Examples
///
/// ```
/// use rsocket_transport_shm::{ShmConnector, ShmOptions, Spin};
///
/// let options = ShmOptions::new().ring_len(1 << 20).spin(Spin::Sleep);
/// let connector = ShmConnector::new("/run/app.sock").options(options);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmOptions {
    pub(crate) ring_len: usize,
    pub(crate) arena_len: usize,
    pub(crate) longest_peer_region: usize,
    pub(crate) spin: Spin,
    pub(crate) trusts_peer: bool,
    pub(crate) users: Option<Users>,
}

impl ShmOptions {
    /// Everything at its default.
    pub fn new() -> Self {
        Self {
            ring_len: Geometry::DEFAULT_RING_LEN,
            arena_len: Geometry::DEFAULT_ARENA_LEN,
            longest_peer_region: LONGEST_PEER_REGION,
            spin: Spin::Adaptive,
            trusts_peer: false,
            users: None,
        }
    }

    /// Sets the length, in bytes, of the ring that frames are sent through: what
    /// the peer may fall behind before this side has to wait.
    ///
    /// A power of two in 4 KiB ..= 64 MiB; 256 KiB by default, which stays in a
    /// processor's cache and holds thousands of small frames.
    ///
    /// # Panics
    ///
    /// When `bytes` is no such number.
    #[must_use]
    pub fn ring_len(mut self, bytes: usize) -> Self {
        self.ring_len = bytes;
        self.checked()
    }

    /// Sets the memory, in bytes, that long frames, those over an eighth of the
    /// ring, are sent from: one copy of a frame lies there until the peer has
    /// taken it.
    ///
    /// A power of two in 64 KiB ..= 1 GiB, or 0: then long frames go through the
    /// ring in pieces, as do those over half the arena. 4 MiB by default, enough
    /// for two frames of 1 MiB in one piece while a third is being read.
    ///
    /// # Panics
    ///
    /// When `bytes` is no such number.
    #[must_use]
    pub fn arena_len(mut self, bytes: usize) -> Self {
        self.arena_len = bytes;
        self.checked()
    }

    fn checked(self) -> Self {
        if let Err(error) = Geometry::new(self.ring_len, self.arena_len) {
            panic!("{error}");
        }
        self
    }

    pub(crate) fn geometry(&self) -> Geometry {
        Geometry::new(self.ring_len, self.arena_len).expect("checked as they were set")
    }

    /// Sets the longest region, in bytes, that is mapped for a peer: about the
    /// sum of *its* [`ring_len`](Self::ring_len) and
    /// [`arena_len`](Self::arena_len). A peer with a longer one gets no link.
    ///
    /// 256 MiB by default.
    #[must_use]
    pub fn longest_peer_region(mut self, bytes: usize) -> Self {
        self.longest_peer_region = bytes;
        self
    }

    /// Sets how a receiver waits; [`Spin::Adaptive`] by default.
    #[must_use]
    pub fn spin(mut self, spin: Spin) -> Self {
        self.spin = spin;
        self
    }

    /// Sets whose processes may be at the other end.
    ///
    /// By default a listener, and a connector to an abstract name, which anybody
    /// may take, want the user that this process runs as ([`Users::Same`]); a
    /// connector to a path takes any, since who may put a socket there is up to
    /// the directory. To meet in a directory there is no choice but
    /// [`Users::Same`].
    #[must_use]
    pub fn users(mut self, users: Users) -> Self {
        self.users = Some(users);
        self
    }

    /// Lends received long frames out of the peer's memory instead of copying
    /// them.
    ///
    /// What such a frame's payload points to can be changed by the peer at any
    /// time, though no correct peer does. It also keeps the peer's memory in use
    /// until it is dropped.
    ///
    /// # Safety
    ///
    /// Each process that is at the other end of a link with these options writes
    /// to memory that it has sent only after it was given back. All versions of
    /// this crate do that, unless other code in their process overwrites memory
    /// that is not its own. Where the promise is broken, the behaviour of this
    /// process is undefined: bytes that Rust takes to be constant change.
    #[must_use]
    #[expect(unsafe_code, reason = "the caller vouches for another process")]
    pub unsafe fn trust_peer(mut self) -> Self {
        self.trusts_peer = true;
        self
    }
}

impl Default for ShmOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// How a receiver waits for the next frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spin {
    /// Looks at memory for up to 20 µs, giving other tasks their turns, and then
    /// sleeps until the peer rings.
    ///
    /// Where that seldom pays it sleeps at once, and tries now and then whether it
    /// would pay again: where waits are long, where a peer that is waited for has
    /// no processor to answer on.
    #[default]
    Adaptive,
    /// Never sleeps: the fastest, and a processor of each side is always busy.
    Poll,
    /// Sleeps at once: each wait costs both sides a system call, and no time is
    /// spent on looking.
    Sleep,
}

/// Whose processes may be at the other end, as the kernel reports them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Users {
    /// The user that this process runs as.
    Same,
    /// Those with one of these ids.
    Only(Vec<u32>),
    /// All of them.
    Any,
}

impl Users {
    pub(crate) fn include(&self, uid: u32) -> bool {
        match self {
            Self::Same => uid == rustix::process::geteuid().as_raw(),
            Self::Only(ids) => ids.contains(&uid),
            Self::Any => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_apart() {
        let us = rustix::process::geteuid().as_raw();
        assert!(Users::Same.include(us));
        assert!(!Users::Same.include(us + 1));
        assert!(Users::Any.include(us + 1));
        assert!(Users::Only(vec![7, us + 1]).include(us + 1));
        assert!(!Users::Only(vec![7]).include(us + 1));
    }
}
