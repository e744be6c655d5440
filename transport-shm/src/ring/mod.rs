//! One direction of frames: a ring of records, and the words by which its two
//! ends say that they sleep.
//!
//! # Records
//!
//! A record begins at a multiple of [`LINE`] with its commit word, and its bytes
//! follow, over the end of the ring if need be. A frame of up to 56 bytes is one
//! line, so that it takes one transfer of a line from core to core.
//!
//! The commit word says which line it is in, counted from the beginning, so that
//! one of an earlier lap is none: the producer stores nothing ahead of itself,
//! which would cost another transfer for each record. Only where the next record
//! will begin in a line that a long one filled with bytes of a frame, which may
//! say anything, does it first set that word to 0.
//!
//! # Batches
//!
//! A consumer that is awake looks at the line where the next record will begin
//! and so keeps a copy of it, which the producer has to take away before it can
//! write there: a transfer of its own, for which its next locked instruction
//! waits. So the producer commits the first record of a batch last. The lines
//! behind it, which nobody looks at, cost it nothing, and the consumer finds the
//! whole batch at once.
//!
//! # Who writes what
//!
//! | memory | producer | consumer |
//! |---|---|---|
//! | records from head to tail | nothing | reads |
//! | the rest of the ring | writes | loads the one commit word at its head |
//! | `head`, `sleep` in the consumer's region | loads | stores |
//! | `wait` in the producer's region | stores | loads |
//!
//! # Sleeping
//!
//! Who is about to sleep makes its own word odd, passes a fence, and looks once
//! more for what it waits for. Who gives passes a fence, too, and then looks at
//! that word: one of the two sees the other (Dekker). An odd word is answered
//! with one ring of the bell; the next announcement is another odd number.

mod consumer;
mod producer;

pub use self::{
    consumer::{Bell, Consumer},
    producer::Producer,
};
use crate::layout::LINE;
use crate::mem::WORD;

/// Bytes of the ring after which a batch ends by itself: 4 KiB, 64 short frames,
/// so that the consumer of a long stream works while it is written.
const BATCH_LEN: u64 = 4096;

/// Bytes of the next record that either end asks for ahead.
const AHEAD_LEN: usize = 2048;

/// Bytes of a frame that fit into one line with its commit word.
pub(crate) const SHORT_LEN: usize = LINE - WORD;

/// [`LINE`] in the type of positions, which count bytes and never wrap.
const STEP: u64 = LINE as u64;

/// The peer broke the rules of the shared memory: the link is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Corrupt {
    /// The consumer says that it has read up to where it cannot have.
    #[error("the peer has read to {head}, which is not between {seen} and {tail}")]
    Head {
        /// What it says.
        head: u64,
        /// What it said before.
        seen: u64,
        /// What there is to read.
        tail: u64,
    },
    /// A record of no kind that there is, or one that must not come here.
    #[error("{word:#018x} at {at} begins no record that may come there")]
    Record {
        /// Where.
        at: u64,
        /// What is there.
        word: u64,
    },
    /// A record has more bytes than it may.
    #[error("a record of {len} bytes at {at}")]
    Len {
        /// Where.
        at: u64,
        /// What it says.
        len: usize,
    },
    /// A record points to where no loan can be.
    #[error("a loan of {len} bytes at {offset} of the arena")]
    Loan {
        /// Where it is said to begin.
        offset: u64,
        /// How long it is said to be.
        len: u64,
    },
}

/// What became of a frame that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a frame that found no room was not sent"]
pub enum Sent {
    /// It is in the ring.
    Done,
    /// There is no room; nothing was written.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The frame follows.
    Inline = 1,
    /// Offset, length and generation of a loan follow.
    Loan = 2,
    /// The producer sends no more.
    Close = 3,
    /// A part of a frame follows; the frame goes on in the next record, and ends
    /// with the first that is no piece.
    Piece = 4,
}

/// Bits of a commit word: the record's length in bytes without the word itself,
/// its kind, and the number of its line. That one comes again after 256 GiB, when
/// the line has long been written by another lap.
const LEN_BITS: u32 = 28;
const LEN_MASK: u64 = (1 << LEN_BITS) - 1;
const KIND_BITS: u32 = 4;
const KIND_MASK: u64 = (1 << KIND_BITS) - 1;
const LINE_SHIFT: u32 = LEN_BITS + KIND_BITS;

/// The commit word of a record at `at`. Never 0, since no kind is.
#[inline]
fn commit_word(at: u64, kind: Kind, len: usize) -> u64 {
    debug_assert!(len as u64 <= LEN_MASK, "a record of {len} bytes");
    (at / STEP) << LINE_SHIFT | (kind as u64) << LEN_BITS | len as u64
}

/// Whether there is a record at `at`, where `word` is.
#[inline]
fn is_record(at: u64, word: u64) -> bool {
    // Both are what is left of it in the upper half of the word.
    word >> LINE_SHIFT << LINE_SHIFT == (at / STEP) << LINE_SHIFT
        && word >> LEN_BITS & KIND_MASK != 0
}

/// The kind and length of the [record](is_record) at `at`.
#[inline]
fn read_commit_word(at: u64, word: u64) -> Result<(Kind, usize), Corrupt> {
    let kind = match word >> LEN_BITS & KIND_MASK {
        1 => Kind::Inline,
        2 => Kind::Loan,
        3 => Kind::Close,
        4 => Kind::Piece,
        _ => return Err(Corrupt::Record { at, word }),
    };
    let len = usize::try_from(word & LEN_MASK).expect("28 bits");
    Ok((kind, len))
}

/// Bytes of the ring that a record takes.
#[inline]
fn span(len: usize) -> u64 {
    ((WORD + len) as u64).next_multiple_of(STEP)
}

/// Where positions lie in a region.
#[derive(Clone, Copy, Debug)]
struct Place {
    ring_at: usize,
    ring_len: usize,
}

impl Place {
    #[inline]
    fn of(self, position: u64) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "less than the ring's length"
        )]
        let offset = (position & (self.ring_len as u64 - 1)) as usize;
        self.ring_at + offset
    }

    /// Where `len` bytes from `position` lie: the part up to the ring's end, and
    /// how many bytes are to be found at its beginning.
    #[inline]
    fn parts(self, position: u64, len: usize) -> (usize, usize, usize) {
        let at = self.of(position);
        let first = len.min(self.ring_at + self.ring_len - at);
        (at, first, len - first)
    }
}

#[cfg(test)]
mod incoherent;
#[cfg(test)]
mod lies;
#[cfg(test)]
mod loans;
#[cfg(test)]
mod models;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads;
