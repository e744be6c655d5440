//! The producer's memory for long frames.
//!
//! The producer owns its arena and keeps all books on it in private memory. A
//! *loan* is a run of blocks with one frame in them; a record in the ring tells
//! the consumer where it is. The consumer gives it back by storing the loan's
//! generation into the release word of its first block, which lies in the
//! consumer's own region, and the producer finds that out when it needs room.
//! So there is no lock, no list, and no word with two writers between the two.
//!
//! A trusted peer's loans may be kept for as long as somebody holds the payload,
//! but only those that lie within the first half of the arena: the rest is
//! copied and given back at once. This side's application is lent buffers of the
//! first half only, too (see [`lent`](crate::lent)). So half the arena comes free
//! again whatever the applications do, and a frame of that length always finds
//! room in time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::{
    layout::{Geometry, MAX_BLOCKS, RELEASED},
    lent::{GiveBack, HEADROOM, Lent, MIN_LENT_LEN, Returns},
    mem::{Peer, WORD},
};

/// Loans at the front of the queue that are looked at for each new one, so that
/// memory which is still in the processor's cache is used again soon.
const RECLAIMED_AHEAD: usize = 4;

/// Where a frame lies. It is what a record of a loan says, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loan {
    /// Bytes from the beginning of the arena: where a block begins, or within the
    /// headroom of one.
    pub(crate) offset: usize,
    /// Bytes of the frame.
    pub(crate) len: usize,
    /// Different for each loan of an arena, and never 0.
    pub(crate) generation: u64,
}

impl Loan {
    /// Words of a record.
    pub(crate) const WORDS: usize = 3;

    pub(crate) fn to_words(self) -> [u64; Self::WORDS] {
        [self.offset as u64, self.len as u64, self.generation]
    }

    /// A loan as a peer states it, if it can be one.
    pub(crate) fn from_words(words: [u64; Self::WORDS], geometry: &Geometry) -> Option<Self> {
        let [offset, len, generation] = words;
        let (offset, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
        let is_loan = offset < geometry.arena_len
            && offset % geometry.block_len <= HEADROOM
            && len <= geometry.max_whole_len()
            && len <= geometry.arena_len - offset;
        is_loan.then_some(Self {
            offset,
            len,
            generation,
        })
    }

    /// Where its release word lies in the consumer's region.
    pub(crate) fn release_word(&self, geometry: &Geometry) -> usize {
        RELEASED + self.offset / geometry.block_len * WORD
    }

    /// Whether the consumer may keep it from the producer for as long as it likes.
    pub(crate) fn may_be_kept(&self, geometry: &Geometry) -> bool {
        self.offset + self.len <= geometry.arena_len / 2
    }
}

/// The books of one arena.
#[derive(Debug)]
pub(crate) struct Arena {
    geometry: Geometry,
    /// A bit for each block, set while it is free.
    free: [u64; MAX_BLOCKS / 64],
    /// Loans that are not known to be given back, the oldest first.
    loans: VecDeque<Loan>,
    /// Of the last loan.
    generation: u64,
    /// Loans to the application, by their first block.
    lent: BTreeMap<usize, Lent>,
    returns: Arc<Returns>,
}

impl Arena {
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let mut arena = Self {
            geometry: *geometry,
            free: [0; _],
            loans: VecDeque::new(),
            generation: 0,
            lent: BTreeMap::new(),
            returns: Arc::default(),
        };
        arena.mark(0, geometry.arena_len / geometry.block_len, Block::Free);
        arena
    }

    /// Room for a frame, if there is some: the first that is long enough.
    pub(crate) fn lend(&mut self, peer: &impl Peer, len: usize) -> Option<Loan> {
        let blocks = self.blocks(len);
        let first = self.take(peer, blocks, MAX_BLOCKS)?;
        Some(self.hand_out(first * self.geometry.block_len, len))
    }

    /// Room for `len` bytes that the application writes, with a headroom before
    /// them: where they begin, if there is some, and what gives them back.
    pub(crate) fn lend_out(&mut self, peer: &impl Peer, len: usize) -> Option<(usize, GiveBack)> {
        let block_len = self.geometry.block_len;
        let lendable = self.geometry.arena_len / 2;
        if !(MIN_LENT_LEN..=lendable - HEADROOM).contains(&len) {
            return None;
        }
        let blocks = self.blocks(HEADROOM + len);
        let first = self.take(peer, blocks, lendable / block_len)?;
        let lent = Lent {
            blocks,
            is_held: true,
            is_sent: false,
        };
        self.lent.insert(first, lent);
        let give_back = GiveBack::new(&self.returns, first);
        Some((first * block_len + HEADROOM, give_back))
    }

    /// The loan for a frame of `len` bytes whose data lies in the arena, from
    /// `data_at` on, with `front` bytes to be written before them. `None` if the
    /// data is not where a loan to the application begins, if there is no room
    /// for so much before it, or if the peer still reads what was there.
    ///
    /// The application holds the data, or there would be none.
    pub(crate) fn lend_in_place(
        &mut self,
        peer: &impl Peer,
        data_at: usize,
        front: usize,
        len: usize,
    ) -> Option<Loan> {
        let block_len = self.geometry.block_len;
        if data_at % block_len != HEADROOM || front > HEADROOM {
            return None;
        }
        let first = data_at / block_len;
        if self.lent.get(&first)?.is_sent {
            self.reclaim_all(peer);
        }
        let lent = self.lent.get_mut(&first)?;
        let end = (first + lent.blocks) * block_len;
        if lent.is_sent || data_at - front + len > end {
            return None;
        }
        lent.is_sent = true;
        Some(self.hand_out(data_at - front, len))
    }

    /// Whether there are loans to the application.
    pub(crate) fn is_lent(&self) -> bool {
        !self.lent.is_empty()
    }

    /// The first of `blocks` free ones in a row, all of them before `end`.
    fn take(&mut self, peer: &impl Peer, blocks: usize, end: usize) -> Option<usize> {
        self.collect_returns();
        for _ in 0..RECLAIMED_AHEAD {
            match self.loans.front() {
                Some(loan) if self.is_given_back(loan, peer) => {
                    let loan = *loan;
                    self.loans.pop_front();
                    self.reclaim(&loan);
                }
                _ => break,
            }
        }
        let first = self.find(blocks, end).or_else(|| {
            self.reclaim_all(peer);
            self.find(blocks, end)
        })?;
        self.mark(first, blocks, Block::Lent);
        Some(first)
    }

    /// A frame is the consumer's from here on.
    fn hand_out(&mut self, offset: usize, len: usize) -> Loan {
        self.generation += 1;
        let loan = Loan {
            offset,
            len,
            generation: self.generation,
        };
        self.loans.push_back(loan);
        loan
    }

    fn blocks(&self, len: usize) -> usize {
        len.div_ceil(self.geometry.block_len).max(1)
    }

    /// Pairs with the Release of the consumer: it is done with the bytes.
    fn is_given_back(&self, loan: &Loan, peer: &impl Peer) -> bool {
        let at = loan.release_word(&self.geometry);
        peer.refresh(at, WORD);
        peer.load_acquire(at) == loan.generation
    }

    fn reclaim_all(&mut self, peer: &impl Peer) {
        for _ in 0..self.loans.len() {
            if let Some(loan) = self.loans.pop_front() {
                if self.is_given_back(&loan, peer) {
                    self.reclaim(&loan);
                } else {
                    self.loans.push_back(loan);
                }
            }
        }
    }

    /// The consumer is done with it.
    fn reclaim(&mut self, loan: &Loan) {
        let first = loan.offset / self.geometry.block_len;
        if let Some(lent) = self.lent.get_mut(&first) {
            lent.is_sent = false;
            self.settle(first);
        } else {
            self.mark(first, self.blocks(loan.len), Block::Free);
        }
    }

    /// Takes back what the application let go of.
    fn collect_returns(&mut self) {
        if self.lent.is_empty() {
            return;
        }
        let returns = Arc::clone(&self.returns);
        returns.take(|first| {
            if let Some(lent) = self.lent.get_mut(&first) {
                lent.is_held = false;
                self.settle(first);
            }
        });
    }

    /// Frees the blocks of a loan to the application that nobody uses any more.
    fn settle(&mut self, first: usize) {
        if let Some(lent) = self.lent.get(&first)
            && lent.is_free()
        {
            let blocks = lent.blocks;
            self.lent.remove(&first);
            self.mark(first, blocks, Block::Free);
        }
    }

    /// The first of `blocks` free ones in a row, all of them before `end`.
    fn find(&self, blocks: usize, end: usize) -> Option<usize> {
        // If the first ones that will do are not, no others are.
        self.find_anywhere(blocks)
            .filter(|first| first + blocks <= end)
    }

    fn find_anywhere(&self, blocks: usize) -> Option<usize> {
        let mut run = 0;
        for (index, word) in self.free.iter().enumerate() {
            if *word == 0 {
                run = 0;
            } else if *word == u64::MAX && run + 64 < blocks {
                run += 64;
            } else {
                for bit in 0..64 {
                    run = if word >> bit & 1 == 1 { run + 1 } else { 0 };
                    if run == blocks {
                        return Some(index * 64 + bit + 1 - blocks);
                    }
                }
            }
        }
        None
    }

    fn mark(&mut self, first: usize, blocks: usize, as_: Block) {
        for block in first..first + blocks {
            let word = self.free.get_mut(block / 64).expect("a block of the arena");
            match as_ {
                Block::Free => *word |= 1 << (block % 64),
                Block::Lent => *word &= !(1 << (block % 64)),
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Block {
    Free,
    Lent,
}
