//! Frames on their way between the core and a transport.

use bytes::{BufMut, Bytes};

/// A frame to be sent, in up to three parts: a short head, metadata, data.
///
/// The parts are borrowed; a transport copies them into its memory
/// ([`encode`](Self::encode), [`put`](Self::put)) or, for long ones, keeps a
/// reference ([`Part::to_bytes`]) to be written without a copy.
#[derive(Clone, Copy, Debug)]
pub struct OutFrame<'a> {
    head: &'a [u8],
    metadata: Part<'a>,
    data: Part<'a>,
}

impl<'a> OutFrame<'a> {
    /// A frame of up to three parts, in wire order.
    #[inline]
    pub fn new(head: &'a [u8], metadata: Part<'a>, data: Part<'a>) -> Self {
        Self {
            head,
            metadata,
            data,
        }
    }

    /// A frame that is already encoded.
    pub fn encoded(frame: &'a Bytes) -> Self {
        Self::new(&[], Part::EMPTY, Part::shared(frame, frame))
    }

    /// Bytes of the whole frame, without any prefix.
    #[inline]
    pub fn len(&self) -> usize {
        self.head.len() + self.metadata.as_slice().len() + self.data.as_slice().len()
    }

    /// Whether the frame has no bytes at all, which no frame of the core is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands the parts to `put` in wire order, those without bytes left out.
    ///
    /// One by one, since whoever sends has just written where they are: to copy
    /// that in one go takes a processor until it is in the cache, behind all that
    /// was sent before.
    #[inline]
    pub fn for_each(&self, mut put: impl FnMut(&'a [u8])) {
        let mut put = |bytes: &'a [u8]| {
            if !bytes.is_empty() {
                put(bytes);
            }
        };
        put(self.head);
        put(self.metadata.bytes);
        put(self.data.bytes);
    }

    /// The parts in wire order.
    #[inline]
    pub fn parts(&self) -> [Part<'a>; 3] {
        [Part::slice(self.head), self.metadata, self.data]
    }

    /// Fills `out`, which is [`len`](Self::len) long.
    ///
    /// # Panics
    ///
    /// When `out` has another length.
    #[inline]
    pub fn encode(&self, out: &mut [u8]) {
        let (head, rest) = out.split_at_mut(self.head.len());
        let (metadata, data) = rest.split_at_mut(self.metadata.as_slice().len());
        head.copy_from_slice(self.head);
        metadata.copy_from_slice(self.metadata.as_slice());
        data.copy_from_slice(self.data.as_slice());
    }

    /// Appends the frame to `out`.
    #[inline]
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_slice(self.head);
        out.put_slice(self.metadata.as_slice());
        out.put_slice(self.data.as_slice());
    }

    /// The whole frame, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        self.put(&mut out);
        out
    }
}

/// Bytes to be sent, and the shared memory they lie in if there is any.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    bytes: &'a [u8],
    owner: Option<&'a Bytes>,
}

impl<'a> Part<'a> {
    /// No bytes.
    pub const EMPTY: Self = Self {
        bytes: &[],
        owner: None,
    };

    /// Bytes that live only as long as the borrow.
    #[inline]
    pub fn slice(bytes: &'a [u8]) -> Self {
        Self { bytes, owner: None }
    }

    /// Bytes that lie within `owner`.
    ///
    /// [`to_bytes`](Self::to_bytes) panics if they do not.
    #[inline]
    pub fn shared(owner: &'a Bytes, bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            owner: Some(owner),
        }
    }

    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether [`to_bytes`](Self::to_bytes) shares instead of copying.
    pub fn is_shared(&self) -> bool {
        self.owner.is_some()
    }

    /// The bytes as an owned value: shared where that is possible, else copied.
    ///
    /// # Panics
    ///
    /// When [`shared`](Self::shared) was given bytes that are not its owner's.
    pub fn to_bytes(&self) -> Bytes {
        match self.owner {
            Some(owner) if !self.bytes.is_empty() => owner.slice_ref(self.bytes),
            _ => Bytes::copy_from_slice(self.bytes),
        }
    }
}

/// A received frame, without any length prefix.
#[derive(Debug)]
pub enum InFrame<'a> {
    /// Lent for the duration of the call: the core copies what it keeps. Right
    /// for frames that are short, or that lie in memory that is soon reused.
    Borrowed(&'a [u8]),
    /// Given away: the core keeps slices of it. Right for long frames. What is
    /// kept pins the whole allocation, so do not cut short frames from a long
    /// buffer this way.
    Shared(Bytes),
}

impl InFrame<'_> {
    /// The frame's bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}
