//! Where what lies in a region, and the check of a peer's.
//!
//! | offset | what |
//! |---|---|
//! | 0 | header, written once |
//! | 4096 | words of the producer: `wait` |
//! | 4608 | words of the consumer: `head`, 128 bytes on `sleep`, and 128 more `deaf` |
//! | 8192 | release words, one for each block of the *peer's* arena |
//! | 16384 | the ring |
//! | 16384 + `ring_len` | the arena |
//!
//! All numbers are words of 64 bits in the byte order of the machine, which the
//! header tells. Words that change stand 128 bytes apart, two lines of 64: the
//! processor fetches lines in pairs.

use crate::mem::{Peer, Words};

/// A cache line, and the step in which records begin.
pub(crate) const LINE: usize = 64;

/// Bytes before the ring.
pub const CONTROL_LEN: usize = 16 * 1024;

/// The producer's announcement that it waits for room: odd while it does.
pub(crate) const WAIT: usize = 4096;
/// How far the consumer has read the peer's ring, in bytes since the beginning.
pub(crate) const HEAD: usize = 4608;
/// The consumer's announcement that it sleeps: odd while it does.
pub(crate) const SLEEP: usize = 4608 + 128;
/// Not 0 once the consumer reads no more.
pub(crate) const DEAF: usize = 4608 + 256;
/// The release word of the peer's first block.
pub(crate) const RELEASED: usize = 8192;

/// Blocks of an arena at most, for which there is room between `RELEASED` and
/// the ring.
pub(crate) const MAX_BLOCKS: usize = 1024;

/// The longest frame of the protocol, whose length has 24 bits.
pub(crate) const MAX_FRAME_LEN: usize = 0x00FF_FFFF;

/// The shortest block, a page.
const MIN_BLOCK: usize = 4096;

const _: () = assert!(RELEASED + 8 * MAX_BLOCKS == CONTROL_LEN);

/// `RSKSHM` and two bytes that no text has.
const MAGIC: u64 = u64::from_be_bytes(*b"RSKSHM\0\x01");
/// The layout that this module describes.
const VERSION: u64 = 1;
/// Reads the same only where bytes are in the same order.
const ORDER: u64 = 0x0102_0304_0506_0708;

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 8;
const AT_ORDER: usize = 16;
const AT_REGION_LEN: usize = 24;
const AT_RING_LEN: usize = 32;
const AT_ARENA_LEN: usize = 40;
const AT_ID: [usize; 2] = [48, 56];

/// How large the parts of a region are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub(crate) ring_len: usize,
    pub(crate) arena_len: usize,
    pub(crate) block_len: usize,
}

impl Geometry {
    /// Bytes of a ring by default: 256 KiB. It is small enough to stay in a
    /// processor's cache with its twin, and holds thousands of small frames.
    pub const DEFAULT_RING_LEN: usize = 256 * 1024;
    /// The shortest ring: 4 KiB, a page.
    pub const MIN_RING_LEN: usize = 4 * 1024;
    /// The longest ring: 64 MiB. More does not make it faster, and a peer that
    /// asks for it makes us map it.
    pub const MAX_RING_LEN: usize = 64 * 1024 * 1024;
    /// Bytes of an arena by default: 4 MiB, so that frames of up to 2 MiB go in
    /// one piece.
    pub const DEFAULT_ARENA_LEN: usize = 4 * 1024 * 1024;
    /// The shortest arena that is one: 64 KiB, 16 pages.
    pub const MIN_ARENA_LEN: usize = 64 * 1024;
    /// The longest arena: 1 GiB.
    pub const MAX_ARENA_LEN: usize = 1024 * 1024 * 1024;

    /// A ring of `ring_len` bytes and an arena of `arena_len`, both powers of
    /// two between their limits; an arena of 0 is none.
    ///
    /// # Errors
    ///
    /// When one of them is not such a number.
    pub fn new(ring_len: usize, arena_len: usize) -> Result<Self, LayoutError> {
        let is_ring = (Self::MIN_RING_LEN..=Self::MAX_RING_LEN).contains(&ring_len);
        if !is_ring || !ring_len.is_power_of_two() {
            return Err(LayoutError::RingLen(ring_len as u64));
        }
        let is_arena = (Self::MIN_ARENA_LEN..=Self::MAX_ARENA_LEN).contains(&arena_len);
        if arena_len != 0 && (!is_arena || !arena_len.is_power_of_two()) {
            return Err(LayoutError::ArenaLen(arena_len as u64));
        }
        Ok(Self {
            ring_len,
            arena_len,
            block_len: (arena_len / MAX_BLOCKS).max(MIN_BLOCK),
        })
    }

    /// Bytes of the ring.
    pub fn ring_len(&self) -> usize {
        self.ring_len
    }

    /// Bytes of the arena; 0 when there is none.
    pub fn arena_len(&self) -> usize {
        self.arena_len
    }

    /// Bytes of the whole region, a multiple of the page.
    pub fn region_len(&self) -> usize {
        CONTROL_LEN + self.ring_len + self.arena_len
    }

    /// The longest frame that a producer with this region sends in one piece: half
    /// the arena or a quarter of the ring, whichever is longer, and never more
    /// than the 2^24-1 of the protocol. Longer ones go through the ring in pieces.
    ///
    /// Half the arena is what is free again sooner or later even if the peer's
    /// application keeps every payload it was lent.
    pub fn max_whole_len(&self) -> usize {
        (self.arena_len / 2)
            .max(self.ring_len / 4)
            .min(MAX_FRAME_LEN)
    }

    /// Bytes of each piece but the last of a frame that is longer than
    /// [`max_whole_len`](Self::max_whole_len): an eighth of the ring, so that one
    /// is read while the next is written.
    pub(crate) fn piece_len(&self) -> usize {
        self.ring_len / 8
    }

    /// The longest frame that may go into the ring itself.
    pub(crate) fn max_inline_len(&self) -> usize {
        self.ring_len / 4
    }

    /// Frames over this length go into the arena while it has room.
    pub(crate) fn max_preferred_inline_len(&self) -> usize {
        if self.arena_len == 0 {
            self.max_inline_len()
        } else {
            self.ring_len / 8
        }
    }

    pub(crate) fn ring_at(&self) -> usize {
        CONTROL_LEN
    }

    pub(crate) fn arena_at(&self) -> usize {
        CONTROL_LEN + self.ring_len
    }
}

impl Default for Geometry {
    fn default() -> Self {
        Self::new(Self::DEFAULT_RING_LEN, Self::DEFAULT_ARENA_LEN)
            .expect("the defaults are within the limits")
    }
}

/// What a region says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How large its parts are.
    pub geometry: Geometry,
    /// The id that its owner gave it.
    pub id: u128,
}

/// Why a region cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// It does not begin as a region does.
    #[error("begins with {0:#018x}, which no region does")]
    Magic(u64),
    /// Another version wrote it.
    #[error("has layout {0}, not {VERSION}")]
    Version(u64),
    /// Its bytes are in another order.
    #[error("is of a machine with another byte order")]
    ByteOrder,
    /// The length it states is not that of its parts, or of the file.
    #[error("says to be {stated} bytes long, and has {actual}")]
    RegionLen {
        /// What the header says.
        stated: u64,
        /// What it should say.
        actual: u64,
    },
    /// The ring's length is not a power of two within its limits.
    #[error("a ring of {0} bytes")]
    RingLen(u64),
    /// The arena's length is neither 0 nor a power of two within its limits.
    #[error("an arena of {0} bytes")]
    ArenaLen(u64),
}

/// Writes the header of one's own region, whose memory is all zero. To be done
/// before the peer sees it.
pub fn format(words: &impl Words, geometry: &Geometry, id: u128) {
    let [low, high] = halves(id);
    let fields = [
        (AT_VERSION, VERSION),
        (AT_ORDER, ORDER),
        (AT_REGION_LEN, geometry.region_len() as u64),
        (AT_RING_LEN, geometry.ring_len as u64),
        (AT_ARENA_LEN, geometry.arena_len as u64),
        (AT_ID[0], low),
        (AT_ID[1], high),
    ];
    for (at, value) in fields {
        words.store(at, value);
    }
    // Last, so that a header that was read after it is whole.
    words.store_release(AT_MAGIC, MAGIC);
    words.writeback(0, 2 * LINE);
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are meant")]
fn halves(id: u128) -> [u64; 2] {
    [id as u64, (id >> 64) as u64]
}

/// Reads the header of a peer's region that is mapped with `region_len` bytes.
///
/// Each field is read once; what is returned fits into `region_len`.
///
/// # Errors
///
/// When it is no header of this version, or one with lengths beyond the limits
/// of [`Geometry`], or with others than `region_len`.
pub fn check(peer: &impl Peer, region_len: usize) -> Result<Header, LayoutError> {
    let actual = region_len as u64;
    if region_len < CONTROL_LEN {
        return Err(LayoutError::RegionLen { stated: 0, actual });
    }
    peer.refresh(0, 2 * LINE);
    let magic = peer.load_acquire(AT_MAGIC);
    if magic != MAGIC {
        return Err(LayoutError::Magic(magic));
    }
    let version = peer.load(AT_VERSION);
    if version != VERSION {
        return Err(LayoutError::Version(version));
    }
    if peer.load(AT_ORDER) != ORDER {
        return Err(LayoutError::ByteOrder);
    }
    let (ring_len, arena_len) = (peer.load(AT_RING_LEN), peer.load(AT_ARENA_LEN));
    let geometry = Geometry::new(
        usize::try_from(ring_len).map_err(|_| LayoutError::RingLen(ring_len))?,
        usize::try_from(arena_len).map_err(|_| LayoutError::ArenaLen(arena_len))?,
    )?;
    let stated = peer.load(AT_REGION_LEN);
    if stated != actual || geometry.region_len() as u64 != actual {
        return Err(LayoutError::RegionLen { stated, actual });
    }
    let [low, high] = AT_ID.map(|at| u128::from(peer.load(at)));
    Ok(Header {
        geometry,
        id: high << 64 | low,
    })
}
