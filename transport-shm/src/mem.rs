//! Raw memory, and nothing else: words and copies at checked offsets.
//!
//! | handle | memory | may |
//! |---|---|---|
//! | [`Words`] | the control pages of one's own region | load and store words; can be cloned |
//! | [`Data`] | the rest of one's own region | store words and copy in; there is one |
//! | [`Loaned`] | a part of one's own region | read and write bytes, as the application does |
//! | [`Peer`] | the peer's whole region | load words and copy out; can be cloned |
//!
//! The traits are there so that the same ring runs over mapped memory, over the
//! words of a model checker, and over memory that is not kept coherent between
//! its users. For the last, [`Peer::refresh`] and `writeback` stand beside each
//! access; on coherent memory they are nothing.
//!
//! Every access is in bounds and aligned, or panics: offsets are computed by
//! this crate from checked lengths, so a panic is a bug here and never something
//! that a peer can bring about.
#![expect(
    unsafe_code,
    reason = "this module is the one that touches mapped memory"
)]

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod x86;

use std::{
    fmt,
    fs::File,
    io,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
            fence,
        },
    },
};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};
use rsocket_core::transport::LentMemory;

/// Bytes of a word, the only unit that is loaded and stored atomically.
pub(crate) const WORD: usize = size_of::<u64>();

/// Bytes that are copied in one go below that: eight words.
const LINE: usize = 64;

/// The handles of one kind of memory.
pub trait Memory: 'static {
    /// One's own control pages.
    type Words: Words;
    /// The rest of one's own region.
    type Data: Data;
    /// The peer's region.
    type Peer: Peer;
}

/// The control pages of one's own region.
pub trait Words: Clone + Send + Sync + 'static {
    /// A relaxed store.
    fn store(&self, at: usize, value: u64);
    /// A store that publishes all that was stored or read before.
    fn store_release(&self, at: usize, value: u64);
    /// Orders all accesses before it, the peer's memory included, before all
    /// after it: a sequentially consistent fence.
    fn fence(&self);
    /// Makes stores visible where memory is not coherent.
    fn writeback(&self, _at: usize, _len: usize) {}
}

/// One's own region behind the control pages. Offsets are those of the region.
pub trait Data: Send + 'static {
    /// A relaxed store.
    fn store(&mut self, at: usize, value: u64);
    /// A store that publishes all that was stored before.
    fn store_release(&mut self, at: usize, value: u64);
    /// Stores bytes, in no particular order.
    fn copy_in(&mut self, at: usize, bytes: &[u8]);
    /// Makes stores visible where memory is not coherent.
    fn writeback(&mut self, _at: usize, _len: usize) {}
    /// Asks for memory that will be stored to soon, without waiting for it.
    fn prefetch(&mut self, _at: usize, _len: usize) {}
    /// `len` bytes for somebody else to write, who gives them back by dropping
    /// them: `release` is dropped after the last use. `None`, and `release` is
    /// dropped at once, where this memory cannot be lent.
    ///
    /// # Safety
    ///
    /// Until `release` is dropped, nothing is stored or copied into these bytes
    /// through `self`, and none of them is lent again.
    unsafe fn lend<R>(
        &mut self,
        _at: usize,
        _len: usize,
        _release: R,
    ) -> Option<Box<dyn LentMemory>>
    where
        R: Send + Sync + 'static,
    {
        None
    }
    /// Where these bytes lie, if it is within this memory.
    fn find(&self, _bytes: &[u8]) -> Option<usize> {
        None
    }
}

/// The peer's region, which may change at any time.
pub trait Peer: Clone + Send + Sync + 'static {
    /// A relaxed load.
    fn load(&self, at: usize) -> u64;
    /// A load that sees all that was published with the value.
    fn load_acquire(&self, at: usize) -> u64;
    /// Appends `len` bytes from `at`, which is a multiple of 8, to `out`.
    ///
    /// They are the bytes that were published if the peer keeps the rules, and
    /// any bytes at all if it does not.
    fn append(&self, at: usize, len: usize, out: &mut Vec<u8>);
    /// Forgets what was cached of these bytes where memory is not coherent.
    fn refresh(&self, _at: usize, _len: usize) {}
    /// A relaxed load to decide what to [`prefetch`](Self::prefetch); 0 where that
    /// does nothing.
    fn peek(&self, _at: usize) -> u64 {
        0
    }
    /// Asks for these bytes, which will be read soon, without waiting for them.
    fn prefetch(&self, _at: usize, _len: usize) {}
    /// The bytes in place, if the peer is trusted not to change them until they
    /// are given back.
    fn slice(&self, _at: usize, _len: usize) -> Option<&[u8]> {
        None
    }
    /// The same, for as long as they are used anywhere; `release` is dropped
    /// after the last use. Returns it if the peer is not trusted.
    ///
    /// # Errors
    ///
    /// `release` itself, when bytes of this memory cannot be lent.
    fn bytes<R: Send + 'static>(&self, _at: usize, _len: usize, release: R) -> Result<Bytes, R> {
        Err(release)
    }
}

/// Memory mapped from files: the real one.
#[derive(Debug)]
pub enum Mapped {}

impl Memory for Mapped {
    type Words = MappedWords;
    type Data = MappedData;
    type Peer = MappedPeer;
}

/// Maps one's own region for reading and writing, `len` bytes of it, the first
/// `control_len` of them as words.
///
/// The file has to be that long and must not be cut while it is mapped, or an
/// access raises SIGBUS: seal it against shrinking.
///
/// # Errors
///
/// When the system cannot map it.
///
/// # Panics
///
/// When `control_len` is no multiple of 8 or longer than `len`.
pub fn map_own(
    file: &File,
    len: usize,
    control_len: usize,
) -> io::Result<(MappedWords, MappedData)> {
    let map = MmapOptions::new().len(len).map_raw(file)?;
    Ok(own(Raw::new(Keep::Map(map)), control_len))
}

/// Maps a peer's region read-only, `len` bytes of it.
///
/// The file has to be that long and sealed against shrinking: see [`map_own`].
///
/// # Errors
///
/// When the system cannot map it.
pub fn map_peer(file: &File, len: usize) -> io::Result<MappedPeer> {
    let map = MmapOptions::new().len(len).map_raw_read_only(file)?;
    Ok(MappedPeer {
        raw: Raw::new(Keep::Map(map)),
        is_trusted: false,
    })
}

fn own(raw: Raw, control_len: usize) -> (MappedWords, MappedData) {
    assert!(
        control_len.is_multiple_of(WORD) && control_len <= raw.len,
        "control pages of {control_len} bytes in a region of {}",
        raw.len
    );
    let words = MappedWords {
        raw: raw.clone(),
        end: control_len,
    };
    let data = MappedData {
        raw,
        begin: control_len,
    };
    (words, data)
}

/// A pair of sides in one process, on the heap: what miri can run.
#[cfg(test)]
pub(crate) fn heap(len: usize, control_len: usize) -> ((MappedWords, MappedData), MappedPeer) {
    let words = (0..len / WORD).map(|_| AtomicU64::new(0)).collect();
    let raw = Raw::new(Keep::Heap(words));
    let peer = MappedPeer {
        raw: raw.clone(),
        is_trusted: false,
    };
    (own(raw, control_len), peer)
}

/// The other side of [`heap`] keeps the rules, as long as the test does.
#[cfg(test)]
pub(crate) fn trust_for_test(peer: MappedPeer) -> MappedPeer {
    // SAFETY: what writes is a `Producer` of this crate.
    unsafe { peer.trusted() }
}

/// What keeps the memory where it is.
enum Keep {
    Map(MmapRaw),
    #[cfg(test)]
    Heap(Box<[AtomicU64]>),
}

/// A region by its address, and what keeps it there.
#[derive(Clone)]
struct Raw {
    base: NonNull<u8>,
    len: usize,
    /// Unmaps the region after the last handle is gone.
    _keep: Arc<Keep>,
}

// SAFETY: the memory is not tied to a thread, and all that `Raw` offers is
// atomic but for the copies, whose callers see to it that there is one writer.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Raw {
    fn new(keep: Keep) -> Self {
        // Before the address is taken: a box that is moved gets a new one, as far
        // as the language is concerned.
        let keep = Arc::new(keep);
        let (base, len) = match &*keep {
            Keep::Map(map) => (map.as_mut_ptr(), map.len()),
            #[cfg(test)]
            Keep::Heap(words) => (words.as_ptr().cast_mut().cast(), size_of_val(&**words)),
        };
        Self {
            base: NonNull::new(base).expect("memory is not mapped at address 0"),
            len,
            _keep: keep,
        }
    }

    /// The address of `len` bytes at `at`, all of them inside.
    #[inline]
    fn at(&self, at: usize, len: usize) -> NonNull<u8> {
        assert!(
            at <= self.len && len <= self.len - at,
            "{len} bytes at {at} in a region of {}",
            self.len
        );
        // SAFETY: `at` is at most the length of the region, checked above, and
        // the region is one allocation.
        unsafe { self.base.add(at) }
    }

    /// Bytes as they lie there.
    ///
    /// # Safety
    ///
    /// Nobody writes to them while the slice is used.
    unsafe fn slice(&self, at: usize, len: usize) -> &[u8] {
        let bytes = NonNull::slice_from_raw_parts(self.at(at, len), len);
        // SAFETY: inside, checked by `at`, and mapped for as long as `self`
        // lives; bytes have no invalid values; nobody writes, says the caller.
        unsafe { bytes.as_ref() }
    }

    /// Appends a line at least, which somebody may be writing. There is room in `out`.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline]
    fn append(&self, at: usize, len: usize, out: &mut Vec<u8>) {
        let from = self.at(at, len).as_ptr();
        let to = out.spare_capacity_mut();
        assert!(len <= to.len(), "{len} bytes into room for {}", to.len());
        // SAFETY: both ends are valid for `len` bytes, checked above, and do not
        // overlap: `to` is private memory.
        unsafe { x86::copy(from, to.as_mut_ptr().cast(), len) };
        let filled = out.len() + len;
        // SAFETY: so many bytes are initialized, the last of them just above.
        unsafe { out.set_len(filled) };
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(WORD), "a word at {at}");
        let word = self.at(at, WORD).cast::<AtomicU64>();
        // SAFETY:
        // - The word is inside, checked by `at`, and aligned: the region begins
        //   at a page (or at a word, on the heap), and `at` is a multiple of 8.
        // - It stays mapped for as long as `self` lives.
        // - Whoever else writes it at the same time does so atomically: words of
        //   the control pages and commit words by the ring's rules in this
        //   process; in the peer's process it is out of this program's reach and
        //   like a device's memory, whose loads may yield anything.
        // - Nobody in this process writes to memory that is mapped read-only:
        //   `MappedPeer` has no store.
        unsafe { word.as_ref() }
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Raw")
            .field("base", &self.base)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The control pages of one's own region.
#[derive(Clone, Debug)]
pub struct MappedWords {
    raw: Raw,
    end: usize,
}

impl MappedWords {
    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.end, "a control word at {at} of {}", self.end);
        self.raw.word(at)
    }
}

impl Words for MappedWords {
    #[inline]
    fn store(&self, at: usize, value: u64) {
        self.word(at).store(value, Relaxed);
    }

    #[inline]
    fn store_release(&self, at: usize, value: u64) {
        self.word(at).store(value, Release);
    }

    #[inline]
    fn fence(&self) {
        fence(SeqCst);
    }
}

/// One's own region behind the control pages.
#[derive(Debug)]
pub struct MappedData {
    raw: Raw,
    begin: usize,
}

impl MappedData {
    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at >= self.begin, "data at {at}, before {}", self.begin);
        self.raw.word(at)
    }
}

impl Data for MappedData {
    #[inline]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn prefetch(&mut self, at: usize, len: usize) {
        x86::prefetch_to_store(self.raw.at(at, len).as_ptr(), len);
    }

    #[inline]
    fn store(&mut self, at: usize, value: u64) {
        self.word(at).store(value, Relaxed);
    }

    #[inline]
    fn store_release(&mut self, at: usize, value: u64) {
        self.word(at).store(value, Release);
    }

    #[inline]
    fn copy_in(&mut self, at: usize, bytes: &[u8]) {
        assert!(at >= self.begin, "data at {at}, before {}", self.begin);
        let to = self.raw.at(at, bytes.len());
        // SAFETY:
        // - `bytes` is a slice, and as many bytes at `to` are inside, checked by
        //   `at`. One is not part of the other: slices of this region are made of
        //   loans only, on the side that writes it, and whoever called `lend`
        //   promised that nothing is copied into those.
        // - `&mut self` on the only handle to these bytes: nobody else in this
        //   process writes them, and those who read them (the peer, if it is in
        //   the same process) do so between a commit and the publication of the
        //   head or the release, while the ring does not write them.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    unsafe fn lend<R>(&mut self, at: usize, len: usize, release: R) -> Option<Box<dyn LentMemory>>
    where
        R: Send + Sync + 'static,
    {
        assert!(at >= self.begin, "data at {at}, before {}", self.begin);
        // Out of bounds is to panic here and not at the first use.
        self.raw.at(at, len);
        Some(Box::new(Loaned {
            raw: self.raw.clone(),
            at,
            len,
            _release: release,
        }))
    }

    fn find(&self, bytes: &[u8]) -> Option<usize> {
        let at = bytes
            .as_ptr()
            .addr()
            .checked_sub(self.raw.base.addr().get())?;
        (at < self.raw.len && bytes.len() <= self.raw.len - at).then_some(at)
    }
}

/// A part of one's own region, to be written by somebody else than the ring.
struct Loaned<R> {
    raw: Raw,
    at: usize,
    len: usize,
    /// Dropped after the last use of the bytes.
    _release: R,
}

impl<R> AsRef<[u8]> for Loaned<R> {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: only `as_mut` of this very value writes there, which cannot run
        // while the slice is used: the caller of `lend` promised that nobody else
        // of this side does before `_release` is dropped, which is with `self`,
        // and the peer's mapping is read-only.
        unsafe { self.raw.slice(self.at, self.len) }
    }
}

impl<R> AsMut<[u8]> for Loaned<R> {
    fn as_mut(&mut self) -> &mut [u8] {
        let mut bytes = NonNull::slice_from_raw_parts(self.raw.at(self.at, self.len), self.len);
        // SAFETY:
        // - Inside, checked by `at`, and mapped for writing for as long as `self`
        //   lives; bytes have no invalid values, and all were initialized when
        //   the region was made.
        // - As for `as_ref`, nobody else of this side writes there. Nobody reads
        //   there either: this side reads its own region through loans only, and
        //   this one is borrowed. A peer reads what a record told it of, and for
        //   that `self` was given up to be shared. One who breaks that rule is in
        //   another process, and its loads are none of this program's accesses.
        unsafe { bytes.as_mut() }
    }
}

/// The peer's region.
#[derive(Clone, Debug)]
pub struct MappedPeer {
    raw: Raw,
    is_trusted: bool,
}

impl Peer for MappedPeer {
    #[inline]
    fn load(&self, at: usize) -> u64 {
        self.raw.word(at).load(Relaxed)
    }

    #[inline]
    fn load_acquire(&self, at: usize) -> u64 {
        self.raw.word(at).load(Acquire)
    }

    #[inline]
    fn append(&self, at: usize, len: usize, out: &mut Vec<u8>) {
        out.reserve(len);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if len >= LINE {
            return self.raw.append(at, len, out);
        }
        let mut copied = 0;
        while copied < len {
            let mut line = [0; LINE];
            let n = (len - copied).min(LINE);
            for (i, word) in line.chunks_exact_mut(WORD).enumerate() {
                if i * WORD >= n {
                    break;
                }
                word.copy_from_slice(&self.load(at + copied + i * WORD).to_ne_bytes());
            }
            out.extend_from_slice(line.get(..n).expect("at most a line"));
            copied += n;
        }
    }

    #[inline]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn peek(&self, at: usize) -> u64 {
        self.load(at)
    }

    #[inline]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn prefetch(&self, at: usize, len: usize) {
        x86::prefetch(self.raw.at(at, len).as_ptr(), len);
    }

    fn slice(&self, at: usize, len: usize) -> Option<&[u8]> {
        if !self.is_trusted {
            return None;
        }
        // SAFETY: by the contract of `trusted`; see `Raw::slice`.
        Some(unsafe { self.raw.slice(at, len) })
    }

    fn bytes<R: Send + 'static>(&self, at: usize, len: usize, release: R) -> Result<Bytes, R> {
        if !self.is_trusted {
            return Err(release);
        }
        // Out of bounds is to panic here and not at the first use.
        self.raw.at(at, len);
        Ok(Bytes::from_owner(Lent {
            raw: self.raw.clone(),
            at,
            len,
            _release: release,
        }))
    }
}

impl MappedPeer {
    /// The same memory, of a peer who is trusted: what it wrote may be looked at
    /// in place.
    ///
    /// # Safety
    ///
    /// The peer keeps the rules of this crate: it does not write to a record
    /// before the head has passed it, nor to a loan before it was given back.
    /// This side keeps them, too: it uses no slice of the memory after that.
    #[must_use]
    pub unsafe fn trusted(self) -> Self {
        Self {
            is_trusted: true,
            ..self
        }
    }
}

/// Bytes of a trusted peer, in place.
struct Lent<R> {
    raw: Raw,
    at: usize,
    len: usize,
    /// Dropped after the last use of the bytes.
    _release: R,
}

impl<R> AsRef<[u8]> for Lent<R> {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: made only by `MappedPeer::bytes` of a trusted peer, who leaves
        // the bytes alone until `_release` is dropped, and that is with `self`.
        unsafe { self.raw.slice(self.at, self.len) }
    }
}
