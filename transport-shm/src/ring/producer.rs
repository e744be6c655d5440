//! The end that writes records.

use rsocket_core::transport::{LentMemory, OutFrame};

use super::{AHEAD_LEN, BATCH_LEN, Corrupt, Kind, Place, SHORT_LEN, STEP, Sent, commit_word, span};
use crate::{
    arena::{Arena, Loan},
    layout::{self, Geometry, LINE},
    lent::MIN_LENT_LEN,
    mem::{Data, Mapped, Memory, Peer, WORD, Words},
};

/// Writes frames into one's own region.
///
/// It never waits: what has no room is not sent, and [`announce_wait`] says how
/// to learn of room. Dropping it tells the peer nothing.
///
/// [`announce_wait`]: Self::announce_wait
pub struct Producer<M: Memory = Mapped> {
    words: M::Words,
    data: M::Data,
    peer: M::Peer,
    place: Place,
    arena_at: usize,
    arena: Option<Arena>,
    max_preferred_inline_len: usize,
    max_inline_len: usize,
    max_whole_len: usize,
    piece_len: usize,
    /// Where the next record begins.
    tail: u64,
    /// The first record of a batch: the one whose line the consumer looks at.
    held: Option<Held>,
    /// Records since the last batch ended.
    batch: u32,
    /// The last batch had more than one, and so the next one is expected to.
    holds: bool,
    /// A bit for each line whose first word may be a frame's: it is cleared before
    /// the consumer looks there.
    foreign: Box<[u64]>,
    /// What the consumer has read, as it last said.
    head: u64,
    /// Records were committed since the consumer's sleep word was looked at.
    is_bell_due: bool,
    /// The consumer's sleep word when the bell was last rung for it.
    rung_for: u64,
    /// Our wait word.
    wait: u64,
}

/// A record that waits for its commit, and with it all that come behind it.
struct Held {
    begin: u64,
    word: u64,
    /// What is not even in the ring yet, of a frame of at most [`SHORT_LEN`].
    bytes: Option<[u8; SHORT_LEN]>,
}

impl<M: Memory> Producer<M> {
    /// Writes to `data`, whose region has `geometry` and is all zero but for the
    /// header, for the consumer in `peer`.
    pub fn new(words: M::Words, data: M::Data, peer: M::Peer, geometry: &Geometry) -> Self {
        Self {
            words,
            data,
            peer,
            place: Place {
                ring_at: geometry.ring_at(),
                ring_len: geometry.ring_len,
            },
            arena_at: geometry.arena_at(),
            arena: (geometry.arena_len > 0).then(|| Arena::new(geometry)),
            max_preferred_inline_len: geometry.max_preferred_inline_len(),
            max_inline_len: geometry.max_inline_len(),
            max_whole_len: geometry.max_whole_len(),
            piece_len: geometry.piece_len(),
            tail: 0,
            held: None,
            batch: 0,
            holds: false,
            foreign: vec![0; geometry.ring_len.div_ceil(LINE * 64)].into(),
            head: 0,
            is_bell_due: false,
            rung_for: 0,
            wait: 0,
        }
    }

    /// As after a batch of more than one record.
    #[cfg(test)]
    pub(super) fn holding(mut self) -> Self {
        self.holds = true;
        self
    }

    /// Sends a frame if there is room for it. The consumer sees it with the batch
    /// that it is part of, at the latest after [`wants_bell`](Self::wants_bell).
    ///
    /// When it was sent, a wait that was announced is over.
    ///
    /// # Errors
    ///
    /// When the peer says of itself what cannot be.
    ///
    /// # Panics
    ///
    /// When the frame is longer than [`max_whole_len`](Self::max_whole_len).
    #[inline]
    pub fn try_send(&mut self, frame: &OutFrame<'_>) -> Result<Sent, Corrupt> {
        let len = frame.len();
        assert!(
            len <= self.max_whole_len,
            "a frame of {len} bytes is to be sent in pieces, being over {}",
            self.max_whole_len
        );
        if len > self.max_preferred_inline_len || len >= MIN_LENT_LEN && self.has_lent() {
            return self.try_send_long(frame, len);
        }
        self.try_send_inline(frame, len)
    }

    #[inline]
    fn try_send_inline(&mut self, frame: &OutFrame<'_>, len: usize) -> Result<Sent, Corrupt> {
        if len <= SHORT_LEN && self.holds && self.held.is_none() {
            let sent = self.push(Kind::Inline, len, |_, _| {})?;
            if let Some(held) = &mut self.held {
                let bytes = held.bytes.insert([0; SHORT_LEN]);
                frame.encode(bytes.get_mut(..len).expect("checked above"));
            }
            return Ok(sent);
        }
        self.push(Kind::Inline, len, |producer, at| {
            producer.put_all(at, frame, len);
        })
    }

    #[inline]
    fn has_lent(&self) -> bool {
        self.arena.as_ref().is_some_and(Arena::is_lent)
    }

    /// `len` bytes of the arena for the application to write, if there are so
    /// many to spare. What is sent of them, from the first byte on, is sent in
    /// place.
    pub fn lend(&mut self, len: usize) -> Option<Box<dyn LentMemory>> {
        let arena = self.arena.as_mut()?;
        let (at, give_back) = arena.lend_out(&self.peer, len)?;
        // SAFETY: the arena holds these bytes for lent until `give_back` is
        // dropped and it learns of that, so they are part of no frame that is
        // copied into it and of no other loan. What is written before them when
        // they are sent ends where they begin.
        #[expect(unsafe_code, reason = "the arena keeps the books on what is lent")]
        unsafe {
            self.data.lend(self.arena_at + at, len, give_back)
        }
    }

    /// Where the frame's data lies in the arena, if it was lent from there.
    fn lent_at(&self, frame: &OutFrame<'_>) -> Option<usize> {
        let [.., data] = frame.parts();
        if data.as_slice().is_empty() {
            return None;
        }
        let at = self.data.find(data.as_slice())?;
        at.checked_sub(self.arena_at)
    }

    /// The frame where its data lies, with the rest of it written before that;
    /// `None` if it has to be copied.
    fn place_before_data(&mut self, frame: &OutFrame<'_>, len: usize) -> Option<Loan> {
        if !self.has_lent() {
            return None;
        }
        let data_at = self.lent_at(frame)?;
        let [head, metadata, _] = frame.parts();
        let (head, metadata) = (head.as_slice(), metadata.as_slice());
        let front = head.len() + metadata.len();
        let arena = self.arena.as_mut()?;
        let loan = arena.lend_in_place(&self.peer, data_at, front, len)?;
        let begin = self.arena_at + loan.offset;
        self.data.copy_in(begin, head);
        self.data.copy_in(begin + head.len(), metadata);
        Some(loan)
    }

    /// The frame copied into the arena, if there is room.
    fn place_copy(&mut self, frame: &OutFrame<'_>, len: usize) -> Option<Loan> {
        let loan = self.arena.as_mut()?.lend(&self.peer, len)?;
        let mut at = self.arena_at + loan.offset;
        frame.for_each(|bytes| {
            self.data.copy_in(at, bytes);
            at += bytes.len();
        });
        Some(loan)
    }

    /// Through the arena if its data lies there or there is room in it, else
    /// through the ring if the frame may go there.
    #[cold]
    fn try_send_long(&mut self, frame: &OutFrame<'_>, len: usize) -> Result<Sent, Corrupt> {
        const RECORD_LEN: usize = Loan::WORDS * WORD;

        // Before the loan, which nobody would give back if no record told of it.
        if !self.has_room(RECORD_LEN)? {
            return Ok(Sent::Full);
        }
        let mut loan = self.place_before_data(frame, len);
        if loan.is_none() && len > self.max_preferred_inline_len {
            loan = self.place_copy(frame, len);
        }
        let Some(loan) = loan else {
            return if len <= self.max_inline_len {
                self.try_send_inline(frame, len)
            } else {
                Ok(Sent::Full)
            };
        };
        self.data.writeback(self.arena_at + loan.offset, len);
        self.push(Kind::Loan, RECORD_LEN, |producer, mut at| {
            for word in loan.to_words() {
                producer.put(at, &word.to_ne_bytes());
                at += WORD as u64;
            }
        })
    }

    /// The longest frame that [`try_send`](Self::try_send) takes.
    #[inline]
    pub fn max_whole_len(&self) -> usize {
        self.max_whole_len
    }

    /// Sends the next piece of a frame that is too long for
    /// [`try_send`](Self::try_send), and moves `sent` by its length; `sent`
    /// begins with 0 and ends with the frame's length. No other frame may be sent
    /// in between.
    ///
    /// # Errors
    ///
    /// When the peer says of itself what cannot be.
    pub fn try_send_piece(
        &mut self,
        frame: &OutFrame<'_>,
        sent: &mut usize,
    ) -> Result<Sent, Corrupt> {
        let left = frame.len() - *sent;
        let (kind, len) = if left > self.piece_len {
            (Kind::Piece, self.piece_len)
        } else {
            (Kind::Inline, left)
        };
        let begin = *sent;
        let pushed = self.push(kind, len, |producer, mut at| {
            let (mut skip, mut left) = (begin, len);
            for part in frame.parts() {
                let bytes = part.as_slice();
                let (skipped, rest) = bytes.split_at(skip.min(bytes.len()));
                skip -= skipped.len();
                let bytes = rest.get(..left).unwrap_or(rest);
                left -= bytes.len();
                producer.put(at, bytes);
                at += bytes.len() as u64;
            }
        })?;
        if pushed == Sent::Done {
            *sent += len;
        }
        Ok(pushed)
    }

    /// Tells the consumer that no more frames will come, if there is room to.
    ///
    /// # Errors
    ///
    /// When the peer says of itself what cannot be.
    pub fn try_close(&mut self) -> Result<Sent, Corrupt> {
        self.push(Kind::Close, 0, |_, _| {})
    }

    /// Whether the consumer sleeps and has to be rung, for what was sent since
    /// the last call. True once for each time that it fell asleep, so the caller
    /// has to ring.
    ///
    /// To be called after each batch, which it ends, and before waiting for room.
    #[must_use = "the consumer sleeps until the bell is rung"]
    #[inline]
    pub fn wants_bell(&mut self) -> bool {
        self.publish();
        if !self.is_bell_due {
            return false;
        }
        self.holds = self.batch > 1;
        self.batch = 0;
        self.is_bell_due = false;
        // Between the commits and the load: see the module's "Sleeping". Pairs
        // with the fence in `Consumer::announce_sleep`.
        self.words.fence();
        self.peer.refresh(layout::SLEEP, WORD);
        let sleep = self.peer.load(layout::SLEEP);
        if sleep.is_multiple_of(2) || sleep == self.rung_for {
            return false;
        }
        self.rung_for = sleep;
        true
    }

    /// Whether the consumer said that it reads no more: there will be no room.
    pub fn is_deaf(&self) -> bool {
        self.peer.refresh(layout::DEAF, WORD);
        self.peer.load(layout::DEAF) != 0
    }

    /// Announces that this side waits for room, so that the consumer rings when
    /// it has made some. Each call is a new announcement.
    ///
    /// After it, try to send again: room that was made meanwhile is not rung
    /// for. If there is none, a ring of the bell will come once there is more.
    pub fn announce_wait(&mut self) {
        self.wait += if self.wait.is_multiple_of(2) { 1 } else { 2 };
        self.words.store(layout::WAIT, self.wait);
        self.words.writeback(layout::WAIT, WORD);
        // Between the announcement and the next look at the head. Pairs with the
        // fences of the consumer.
        self.words.fence();
    }

    /// Takes the announcement back. Without one it does nothing.
    pub fn cancel_wait(&mut self) {
        if !self.wait.is_multiple_of(2) {
            self.wait += 1;
            self.words.store(layout::WAIT, self.wait);
            self.words.writeback(layout::WAIT, WORD);
        }
    }

    /// Writes a record of `len` bytes, which `fill` puts to the position that it
    /// is given, and commits it.
    #[inline]
    fn push(
        &mut self,
        kind: Kind,
        len: usize,
        fill: impl FnOnce(&mut Self, u64),
    ) -> Result<Sent, Corrupt> {
        if !self.has_room(len)? {
            return Ok(Sent::Full);
        }
        let begin = self.tail;
        let end = begin + span(len);
        if self.held.is_none() && !self.holds {
            self.clear(end);
        }
        self.mark(begin + STEP, end);
        fill(self, begin + WORD as u64);
        let at = self.place.of(begin);
        let (_, first, wrapped) = self.place.parts(begin, WORD + len);
        if first + wrapped > LINE {
            self.data.writeback(at + LINE, first - LINE);
            self.data.writeback(self.place.ring_at, wrapped);
        }
        let word = commit_word(begin, kind, len);
        let batch = match &self.held {
            None if self.holds => {
                let bytes = None;
                self.held = Some(Held { begin, word, bytes });
                begin
            }
            held => {
                // Pairs with the Acquire in `Consumer::recv`.
                self.data.store_release(at, word);
                self.data.writeback(at, LINE);
                held.as_ref().map_or(begin, |held| held.begin)
            }
        };
        self.batch += 1;
        self.tail = end;
        self.is_bell_due = true;
        self.cancel_wait();
        if end - begin > STEP {
            self.look_ahead(len);
        }
        if self.held.is_some() && end - batch >= BATCH_LEN {
            self.publish();
        }
        Ok(Sent::Done)
    }

    /// Asks for the lines of a next record that is as long, as it often is: the
    /// consumer has them, who read them a lap ago. They come while the frame is made.
    #[inline(never)]
    fn look_ahead(&mut self, len: usize) {
        let end = self.tail + span(len);
        if len <= AHEAD_LEN && end <= self.limit() {
            let (at, first, _) = self.place.parts(self.tail, len);
            self.data.prefetch(at, first);
        }
    }

    /// Ends the batch: the consumer sees all of it.
    #[inline]
    fn publish(&mut self) {
        if let Some(Held { begin, word, bytes }) = self.held.take() {
            // Behind a record of the batch is the next one, but for the last.
            self.clear(self.tail);
            let at = self.place.of(begin);
            if let Some(bytes) = bytes {
                self.data.copy_in(at + WORD, &bytes);
            }
            // Pairs with the Acquire in `Consumer::recv`.
            self.data.store_release(at, word);
            self.data.writeback(at, LINE);
        }
    }

    /// Whether a record of `len` bytes can be written. If not, the batch has
    /// ended: the consumer would never make room of what it does not see.
    #[inline]
    fn has_room(&mut self, len: usize) -> Result<bool, Corrupt> {
        // The line behind it has to be free, too: until it is cleared, what the
        // consumer would find there is a record of the lap before.
        let end = self.tail + span(len) + STEP;
        if end > self.limit() {
            self.publish();
            self.refresh_head()?;
        }
        Ok(end <= self.limit())
    }

    /// Where the free part of the ring ends.
    #[inline]
    fn limit(&self) -> u64 {
        self.head + self.place.ring_len as u64
    }

    #[cold]
    fn refresh_head(&mut self) -> Result<(), Corrupt> {
        self.peer.refresh(layout::HEAD, WORD);
        // Pairs with the Release in `Consumer::publish`: the consumer is done
        // with all that it gives back.
        let head = self.peer.load_acquire(layout::HEAD);
        if head < self.head || head > self.tail || !head.is_multiple_of(STEP) {
            return Err(Corrupt::Head {
                head,
                seen: self.head,
                tail: self.tail,
            });
        }
        self.head = head;
        Ok(())
    }

    /// The consumer must not take a frame's bytes at `position` for a record. To be
    /// called before it sees the record that ends there.
    #[inline]
    fn clear(&mut self, position: u64) {
        let (word, bit) = self.line(position);
        if let Some(word) = self.foreign.get_mut(word)
            && *word & bit != 0
        {
            *word &= !bit;
            let at = self.place.of(position);
            self.data.store(at, 0);
            self.data.writeback(at, WORD);
        }
    }

    /// The lines from `begin` to `end` will begin with bytes of a frame.
    #[inline]
    fn mark(&mut self, begin: u64, end: u64) {
        let mut position = begin;
        while position < end {
            let (word, bit) = self.line(position);
            // As many as this word has a bit for, all at once.
            let behind = u64::from(64 - bit.trailing_zeros());
            let lines = (end - position).div_ceil(STEP).min(behind);
            if let Some(word) = self.foreign.get_mut(word) {
                *word |= u64::MAX >> (64 - lines) << bit.trailing_zeros();
            }
            position += lines * STEP;
        }
    }

    /// Where the bit of a line is.
    #[inline]
    fn line(&self, position: u64) -> (usize, u64) {
        let line = (self.place.of(position) - self.place.ring_at) / LINE;
        (line / 64, 1 << (line % 64))
    }

    /// Writes a frame of `len` bytes, part by part: what would be put together
    /// elsewhere first had to be read back, and a load that takes from several
    /// stores waits until they are in the cache, behind all that was written to the
    /// ring before.
    #[inline]
    fn put_all(&mut self, position: u64, frame: &OutFrame<'_>, len: usize) {
        let (mut at, _, wrapped) = self.place.parts(position, len);
        if wrapped == 0 {
            frame.for_each(|bytes| {
                self.data.copy_in(at, bytes);
                at += bytes.len();
            });
        } else {
            let mut at = position;
            frame.for_each(|bytes| {
                self.put(at, bytes);
                at += bytes.len() as u64;
            });
        }
    }

    #[inline]
    fn put(&mut self, position: u64, bytes: &[u8]) {
        let (at, first, _) = self.place.parts(position, bytes.len());
        let (before, after) = bytes.split_at(first);
        self.data.copy_in(at, before);
        if !after.is_empty() {
            self.data.copy_in(self.place.ring_at, after);
        }
    }
}

impl<M: Memory> std::fmt::Debug for Producer<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer")
            .field("tail", &self.tail)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}
