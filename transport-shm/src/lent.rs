//! What the application was lent of an arena, and how it comes back.
//!
//! A buffer that was lent has a *headroom* before it. When it is sent as the data
//! of a frame, the rest of the frame is written there, right before the data, and
//! a record tells the consumer of the whole: nothing is copied. The blocks are
//! free again when the consumer has given the frame back and the application
//! holds the bytes no more, in whichever order.

use std::sync::{
    Arc,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use crate::layout::MAX_BLOCKS;

/// Bytes before the data of a loan to the application. Two lines: the longest
/// head of a frame takes 13, which leaves room for metadata with a route and the
/// context of a trace, and data begins at a line.
pub(crate) const HEADROOM: usize = 128;

/// The shortest data that is lent: 4 KiB. It takes a block of its own, which is
/// no shorter, and to copy less costs less than the record of a loan.
pub(crate) const MIN_LENT_LEN: usize = 4096;

/// Blocks that may be lent to the application: the first half.
const LENDABLE_BLOCKS: usize = MAX_BLOCKS / 2;

/// One loan to the application.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) blocks: usize,
    /// Somebody of this side may read or write the data.
    pub(crate) is_held: bool,
    /// It was sent, and is not known to be given back: data and headroom are the
    /// peer's to read.
    pub(crate) is_sent: bool,
}

impl Lent {
    pub(crate) fn is_free(&self) -> bool {
        !self.is_held && !self.is_sent
    }
}

/// Loans that the application let go of, on whatever thread, until the producer
/// looks: a bit for the first block of each.
///
/// It is the application's release word: bounded, without a lock, and of no
/// use to anybody but harmless once the producer is gone.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    bits: [AtomicU64; LENDABLE_BLOCKS / 64],
}

impl Returns {
    /// Forgets and tells the first blocks of all loans that came back.
    pub(crate) fn take(&self, mut tell: impl FnMut(usize)) {
        for (index, word) in self.bits.iter().enumerate() {
            if word.load(Relaxed) == 0 {
                continue;
            }
            // Pairs with the Release in `GiveBack`: nobody reads or writes the
            // bytes any more.
            let mut bits = word.swap(0, Acquire);
            while bits != 0 {
                tell(index * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

/// Gives a loan back when it is dropped.
#[derive(Debug)]
pub(crate) struct GiveBack {
    returns: Arc<Returns>,
    block: usize,
}

impl GiveBack {
    /// Of the loan whose first block is `block`.
    pub(crate) fn new(returns: &Arc<Returns>, block: usize) -> Self {
        Self {
            returns: Arc::clone(returns),
            block,
        }
    }
}

impl Drop for GiveBack {
    fn drop(&mut self) {
        if let Some(word) = self.returns.bits.get(self.block / 64) {
            word.fetch_or(1 << (self.block % 64), Release);
        }
    }
}
