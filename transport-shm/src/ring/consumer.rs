//! The end that reads records.

use std::{
    mem::take,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use rsocket_core::transport::InFrame;

use super::{
    AHEAD_LEN, Corrupt, Kind, LEN_MASK, Place, SHORT_LEN, is_record, read_commit_word, span,
};
use crate::{
    arena::Loan,
    layout::{self, Geometry, LINE, MAX_FRAME_LEN},
    mem::{Mapped, Memory, Peer, WORD, Words},
};

/// Frames that one call of [`Consumer::recv`] delivers at most, so that a peer
/// who sends without pause does not keep the caller from all else.
const MAX_BATCH: usize = 64;

/// Frames over this length are given away in memory of their own; shorter ones are
/// lent, and what the receiver keeps of them it copies, into memory that it uses
/// again. That costs less than to share the memory, which takes two allocations.
const LENT_LEN: usize = 2048;

/// Rings the peer's bell, from any thread.
pub type Bell = Arc<dyn Fn() + Send + Sync>;

/// Reads the frames of the peer's region.
///
/// It never waits. Dropping it tells the peer nothing.
pub struct Consumer<M: Memory = Mapped> {
    words: M::Words,
    peer: M::Peer,
    place: Place,
    geometry: Geometry,
    /// Rings the producer when a loan that was kept is given back; without it
    /// none is kept.
    bell: Option<Bell>,
    /// Where the next record begins.
    head: u64,
    /// What the producer knows of `head`.
    published: u64,
    is_closed: bool,
    /// Room was given back since the producer's wait word was looked at.
    is_room_due: bool,
    rung: Rung,
    /// Our sleep word.
    sleep: u64,
    /// A frame that is longer than a line, while it is lent.
    scratch: Vec<u8>,
    /// Of a frame that has not ended.
    pieces: Vec<u8>,
}

impl<M: Memory> Consumer<M> {
    /// Reads from `peer`, whose region has `geometry`, which was checked.
    /// `words` are those of one's own region, all zero but for the header.
    pub fn new(words: M::Words, peer: M::Peer, geometry: &Geometry) -> Self {
        Self {
            words,
            peer,
            place: Place {
                ring_at: geometry.ring_at(),
                ring_len: geometry.ring_len,
            },
            geometry: *geometry,
            bell: None,
            head: 0,
            published: 0,
            is_closed: false,
            is_room_due: false,
            rung: Rung::default(),
            sleep: 0,
            scratch: Vec::new(),
            pieces: Vec::new(),
        }
    }

    /// Lends frames in place, if the memory is that of a trusted peer: short ones
    /// during the call of the sink, long ones for as long as they are kept.
    ///
    /// `bell` is called by whoever gives back a long one while the producer waits
    /// for room, and must not block.
    #[must_use]
    pub fn lending(mut self, bell: Bell) -> Self {
        self.bell = Some(bell);
        self
    }

    /// Delivers the frames that are there, up to a number that keeps the call
    /// short, and returns how many; stops early when `sink` breaks. 0 means that
    /// there was none that is whole.
    ///
    /// To be followed by [`room_bell`](Self::room_bell).
    ///
    /// # Errors
    ///
    /// When what the peer wrote is no record. Frames before it were delivered.
    #[inline]
    pub fn recv(
        &mut self,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> Result<usize, Corrupt> {
        let mut delivered = 0;
        for _ in 0..MAX_BATCH {
            let begin = self.head;
            let word = self.commit_word();
            if !is_record(begin, word) || self.is_closed {
                break;
            }
            let (kind, len) = read_commit_word(begin, word)?;
            // Not behind a first one: if it is alone, to look would only delay it.
            if delivered > 0 {
                self.look_ahead(begin + span(len));
            }
            let flow = match kind {
                Kind::Piece => {
                    self.gather(begin, len, self.geometry.piece_len())?;
                    continue;
                }
                Kind::Inline if !self.pieces.is_empty() => {
                    self.gather(begin, len, len.min(self.geometry.piece_len()))?;
                    sink(InFrame::Shared(Bytes::from(take(&mut self.pieces))))
                }
                Kind::Loan | Kind::Close if !self.pieces.is_empty() => {
                    return Err(Corrupt::Record { at: begin, word });
                }
                Kind::Inline if len <= self.geometry.max_inline_len() => {
                    self.deliver(begin, len, sink)
                }
                Kind::Loan if len == Loan::WORDS * WORD => {
                    let loan = self.loan(begin)?;
                    self.deliver_loan(&loan, sink)
                }
                Kind::Inline | Kind::Loan => return Err(Corrupt::Len { at: begin, len }),
                Kind::Close => {
                    self.is_closed = true;
                    break;
                }
            };
            delivered += 1;
            if flow.is_break() {
                break;
            }
        }
        Ok(delivered)
    }

    /// Whether the producer said that no more frames will come, and all that came
    /// before were delivered.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether a record is at hand: one load.
    #[inline]
    pub fn has_record(&self) -> bool {
        !self.is_closed && is_record(self.head, self.commit_word())
    }

    /// Announces that this side sleeps, so that the producer rings after its next
    /// batch. False if there is a record, and then nothing was announced.
    #[must_use = "who sleeps over a record sleeps for ever"]
    pub fn announce_sleep(&mut self) -> bool {
        self.sleep += if self.sleep.is_multiple_of(2) { 1 } else { 2 };
        self.words.store(layout::SLEEP, self.sleep);
        self.words.writeback(layout::SLEEP, WORD);
        // Between the announcement and the look at the commit word: see the
        // module's "Sleeping". Pairs with the fence in `Producer::wants_bell`.
        self.words.fence();
        if !is_record(self.head, self.commit_word()) && !self.is_closed {
            return true;
        }
        self.awake();
        false
    }

    /// Takes the announcement back. Without one it does nothing.
    #[inline]
    pub fn awake(&mut self) {
        if !self.sleep.is_multiple_of(2) {
            self.sleep += 1;
            self.words.store(layout::SLEEP, self.sleep);
            self.words.writeback(layout::SLEEP, WORD);
        }
    }

    /// Tells the producer that nobody will read any more. To be followed by a ring
    /// of the bell, since the producer may wait for room.
    pub fn hang_up(&mut self) {
        self.words.store(layout::DEAF, 1);
        self.words.writeback(layout::DEAF, WORD);
    }

    /// Whether the producer waits for room and has to be rung. True once for each
    /// time that it began to wait, so the caller has to ring.
    #[must_use = "the producer waits until the bell is rung"]
    #[inline]
    pub fn room_bell(&mut self) -> bool {
        // Else a producer for whom the room was not enough would be rung for it
        // again and again.
        if !self.is_room_due {
            return false;
        }
        self.is_room_due = false;
        // Between giving back and the look at the wait word. Pairs with the fence
        // in `Producer::announce_wait`.
        self.words.fence();
        self.peer.refresh(layout::WAIT, WORD);
        self.rung.is_due(self.peer.load(layout::WAIT))
    }

    #[inline]
    fn commit_word(&self) -> u64 {
        let at = self.place.of(self.head);
        self.peer.refresh(at, LINE);
        // Pairs with the Release in `Producer::push`.
        self.peer.load_acquire(at)
    }

    /// Asks for the record at `next`, if it is there, and for the line behind it: they
    /// come while the record before is dealt with. If it is not there, what the
    /// producer is writing is left to it.
    #[inline]
    fn look_ahead(&self, next: u64) {
        let at = self.place.of(next);
        let word = self.peer.peek(at);
        if !is_record(next, word) {
            return;
        }
        let len = usize::try_from(word & LEN_MASK).expect("28 bits");
        let (at, first, _) = self.place.parts(next, (WORD + len).min(AHEAD_LEN));
        self.peer.prefetch(at, first);
        self.peer.prefetch(self.place.of(next + span(len)), WORD);
    }

    /// Copies the frame out, gives its room back, and hands it on.
    #[inline]
    fn deliver(
        &mut self,
        begin: u64,
        len: usize,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if len <= SHORT_LEN {
            let mut frame = [0; SHORT_LEN];
            let at = self.place.of(begin) + WORD;
            for (i, word) in frame.chunks_exact_mut(WORD).enumerate() {
                if i * WORD >= len {
                    break;
                }
                word.copy_from_slice(&self.peer.load(at + i * WORD).to_ne_bytes());
            }
            self.give_back(span(len));
            let frame = frame.get(..len).expect("not longer than a line holds");
            return sink(InFrame::Borrowed(frame));
        }
        let (at, first, wrapped) = self.place.parts(begin + WORD as u64, len);
        if self.bell.is_some()
            && wrapped == 0
            && let Some(frame) = self.peer.slice(at, first)
        {
            // Not published before the sink is done with it.
            self.head += span(len);
            let flow = sink(InFrame::Borrowed(frame));
            self.give_back(0);
            return flow;
        }
        if len <= LENT_LEN {
            let mut frame = take(&mut self.scratch);
            frame.clear();
            self.append(begin, len, &mut frame);
            self.give_back(span(len));
            let flow = sink(InFrame::Borrowed(&frame));
            self.scratch = frame;
            return flow;
        }
        let mut frame = Vec::with_capacity(len);
        self.append(begin, len, &mut frame);
        self.give_back(span(len));
        sink(InFrame::Shared(Bytes::from(frame)))
    }

    /// Takes one more piece of a frame, which has to be `right_len` bytes long, so
    /// that a frame is a bounded number of them.
    fn gather(&mut self, begin: u64, len: usize, right_len: usize) -> Result<(), Corrupt> {
        if len != right_len || self.pieces.len() + len > MAX_FRAME_LEN {
            return Err(Corrupt::Len { at: begin, len });
        }
        let mut pieces = take(&mut self.pieces);
        self.append(begin, len, &mut pieces);
        self.pieces = pieces;
        self.give_back(span(len));
        Ok(())
    }

    /// What the record of a loan says, read once and checked.
    fn loan(&mut self, begin: u64) -> Result<Loan, Corrupt> {
        let at = self.place.of(begin) + WORD;
        let words = [0, 1, 2].map(|i| self.peer.load(at + i * WORD));
        let loan = Loan::from_words(words, &self.geometry).ok_or(Corrupt::Loan {
            offset: words[0],
            len: words[1],
        })?;
        self.give_back(span(Loan::WORDS * WORD));
        Ok(loan)
    }

    /// Hands on a frame of the arena: in place, or copied and given back.
    fn deliver_loan(
        &mut self,
        loan: &Loan,
        sink: &mut dyn FnMut(InFrame<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let at = self.geometry.arena_at() + loan.offset;
        self.peer.refresh(at, loan.len);
        let mut release = Release {
            words: self.words.clone(),
            peer: self.peer.clone(),
            at: loan.release_word(&self.geometry),
            generation: loan.generation,
            bell: None,
        };
        if let Some(bell) = &self.bell
            && loan.may_be_kept(&self.geometry)
        {
            release.bell = Some((Arc::clone(bell), self.rung.clone()));
            match self.peer.bytes(at, loan.len, release) {
                Ok(frame) => return sink(InFrame::Shared(frame)),
                Err(kept) => release = kept,
            }
            release.bell = None;
        }
        // From the word that it begins in, so that what stood at a multiple of a
        // word, as the data of a loan does, is at one again.
        let skipped = at % WORD;
        let mut frame = Vec::with_capacity(skipped + loan.len);
        self.peer
            .append(at - skipped, skipped + loan.len, &mut frame);
        drop(release);
        self.is_room_due = true;
        sink(InFrame::Shared(Bytes::from(frame).slice(skipped..)))
    }

    #[inline]
    fn append(&self, begin: u64, len: usize, out: &mut Vec<u8>) {
        let (at, first, wrapped) = self.place.parts(begin + WORD as u64, len);
        self.peer.refresh(at, first);
        self.peer.append(at, first, out);
        if wrapped > 0 {
            self.peer.refresh(self.place.ring_at, wrapped);
            self.peer.append(self.place.ring_at, wrapped, out);
        }
    }

    /// Moves the head, and tells the producer of each eighth of the ring.
    ///
    /// What it is not told of is never what it waits for: a record takes at most
    /// a quarter, so that there is room for it in seven eighths.
    #[inline]
    fn give_back(&mut self, span: u64) {
        self.head += span;
        if self.head - self.published >= self.place.ring_len as u64 / 8 {
            self.published = self.head;
            // Pairs with the Acquire in `Producer::refresh_head`: the copies are
            // done, the records are free.
            self.words.store_release(layout::HEAD, self.head);
            self.words.writeback(layout::HEAD, WORD);
            self.is_room_due = true;
        }
    }
}

/// The producer's wait word when the bell was last rung for it, by the consumer or
/// by whoever gave a loan back.
///
/// One ring for each announcement is enough for both: who finds that the other rang
/// has given back by then, and the producer announces anew and looks before it
/// sleeps again.
#[derive(Clone, Default)]
struct Rung(Arc<AtomicU64>);

impl Rung {
    /// Whether the bell has to be rung for what the producer says. True once.
    #[inline]
    fn is_due(&self, wait: u64) -> bool {
        !wait.is_multiple_of(2) && self.0.fetch_max(wait, Relaxed) < wait
    }
}

/// Gives a loan back when it is dropped.
struct Release<W: Words, P: Peer> {
    words: W,
    peer: P,
    at: usize,
    generation: u64,
    /// Rings the producer if it waits. Without one the consumer does.
    bell: Option<(Bell, Rung)>,
}

impl<W: Words, P: Peer> Drop for Release<W, P> {
    fn drop(&mut self) {
        // Pairs with the Acquire in `Arena::is_given_back`: nobody reads the
        // bytes any more.
        self.words.store_release(self.at, self.generation);
        self.words.writeback(self.at, WORD);
        if let Some((bell, rung)) = &self.bell {
            // Between giving back and the look at the wait word. Pairs with the
            // fence in `Producer::announce_wait`.
            self.words.fence();
            self.peer.refresh(layout::WAIT, WORD);
            if rung.is_due(self.peer.load(layout::WAIT)) {
                bell();
            }
        }
    }
}

impl<M: Memory> std::fmt::Debug for Consumer<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}
