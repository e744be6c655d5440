//! Memory of payloads of middle length, used again.
//!
//! Payloads come in batches of dozens. General allocators keep fewer blocks of a
//! size at hand for a thread than that (glibc: seven), and are slow beyond it: they
//! had a third of a receiver's instructions for a payload of 1 KiB. So each thread
//! keeps a batch's worth of blocks here that payloads were dropped from.

use std::cell::RefCell;

/// The shortest block.
const MIN_BLOCK_LEN: usize = 128;

/// Lengths of blocks, each twice the one before: a part takes no more than twice
/// its length.
const CLASSES: usize = 5;

/// Blocks of one length that a thread keeps: a batch of frames. All lengths
/// together that is 248 KiB.
const KEPT: usize = 64;

thread_local! {
    static SPARE: RefCell<[Vec<Vec<u8>>; CLASSES]> = const {
        RefCell::new([const { Vec::new() }; CLASSES])
    };
}

/// Bytes in a block of the pool, which it comes back to when they are dropped: that
/// of the thread on which they are.
pub(crate) struct Pooled(Vec<u8>);

impl Pooled {
    /// The longest part that is kept in memory of the pool: what transports lend
    /// rather than give away.
    pub(crate) const MAX_LEN: usize = 2048;

    /// A copy of `bytes`; `None` if it is longer than blocks are.
    #[inline]
    pub(crate) fn copy_from_slice(bytes: &[u8]) -> Option<Self> {
        let class = class(bytes.len())?;
        let spare = SPARE.try_with(|spare| spare.borrow_mut().get_mut(class)?.pop());
        let mut block = match spare {
            Ok(Some(block)) => block,
            Ok(None) | Err(_) => Vec::with_capacity(MIN_BLOCK_LEN << class),
        };
        block.clear();
        block.extend_from_slice(bytes);
        Some(Self(block))
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl Clone for Pooled {
    fn clone(&self) -> Self {
        Self::copy_from_slice(&self.0).unwrap_or_else(|| Self(self.0.clone()))
    }
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Pooled {
    #[inline]
    fn drop(&mut self) {
        let block = std::mem::take(&mut self.0);
        let Some(class) = class(block.capacity()) else {
            return;
        };
        // The thread may be at its end, and its blocks gone.
        let _ = SPARE.try_with(|spare| {
            if let Some(spare) = spare.borrow_mut().get_mut(class)
                && spare.len() < KEPT
            {
                spare.push(block);
            }
        });
    }
}

/// Which of the lengths a block for `len` bytes has.
#[inline]
fn class(len: usize) -> Option<usize> {
    if len > Pooled::MAX_LEN {
        return None;
    }
    let len = len.max(MIN_BLOCK_LEN).next_power_of_two();
    Some((len.trailing_zeros() - MIN_BLOCK_LEN.trailing_zeros()) as usize)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn kept(class: usize) -> usize {
        SPARE.with_borrow(|spare| spare[class].len())
    }

    #[test]
    fn parts_of_every_length_come_back_in_blocks_of_at_most_twice_their_length() {
        for len in 0..=Pooled::MAX_LEN {
            let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
            let pooled = Pooled::copy_from_slice(&bytes).expect("not too long");
            assert_eq!(pooled.as_slice(), bytes);
            assert!(pooled.0.capacity() <= (2 * len).max(MIN_BLOCK_LEN), "{len}");
        }
        assert!(Pooled::copy_from_slice(&[0; Pooled::MAX_LEN + 1]).is_none());
    }

    #[test]
    fn a_block_is_used_again_for_what_comes_next_and_shows_nothing_of_what_was() {
        let first = Pooled::copy_from_slice(&[1; 1000]).expect("not too long");
        let at = first.as_slice().as_ptr();
        drop(first);
        let next = Pooled::copy_from_slice(&[2; 600]).expect("not too long");
        assert_eq!(next.as_slice().as_ptr(), at);
        assert_eq!(next.as_slice(), [2; 600]);
    }

    #[test]
    fn a_clone_has_a_block_of_its_own() {
        let pooled = Pooled::copy_from_slice(&[1; 100]).expect("not too long");
        let clone = pooled.clone();
        assert_ne!(pooled.as_slice().as_ptr(), clone.as_slice().as_ptr());
        drop(pooled);
        let other = Pooled::copy_from_slice(&[2; 100]).expect("not too long");
        assert_eq!(
            (clone.as_slice(), other.as_slice()),
            (&[1; 100][..], &[2; 100][..])
        );
    }

    #[test]
    fn a_thread_keeps_a_batch_of_blocks_of_each_length_and_no_more() {
        for class in 0..CLASSES {
            let part = vec![0; MIN_BLOCK_LEN << class];
            let pooled = |_| Pooled::copy_from_slice(&part).expect("not too long");
            let many: Vec<_> = (0..2 * KEPT).map(pooled).collect();
            drop(many);
            assert_eq!(kept(class), KEPT);
        }
    }

    #[test]
    fn a_block_goes_to_the_thread_on_which_it_was_dropped_and_ends_with_it() {
        let class = class(500).expect("not too long");
        let before = kept(class);
        let pooled = Pooled::copy_from_slice(&[7; 500]).expect("not too long");
        let there = thread::spawn(move || {
            drop(pooled);
            // Dropped with the thread, perhaps after what it would go to.
            thread_local!(static LAST: RefCell<Option<Pooled>> = const { RefCell::new(None) });
            LAST.set(Pooled::copy_from_slice(&[8; 2000]));
            kept(class)
        });
        assert_eq!(there.join().expect("no panic"), 1);
        assert_eq!(kept(class), before.saturating_sub(1));
    }
}
