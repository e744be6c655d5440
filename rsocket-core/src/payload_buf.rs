//! [`PayloadBuf`]: where a payload's data is written.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use bytes::Bytes;

use crate::{Payload, transport::LentMemory};

/// A buffer for the data of a payload, in the memory of the transport if it
/// lends some: see [`Requester::buffer`](crate::Requester::buffer).
///
/// Data that was written there need not be copied to be sent. Where the memory
/// lies makes no other difference. `&mut buf[..]` is an
/// [`io::Write`](std::io::Write) and a [`BufMut`](bytes::BufMut);
/// [`truncate`](Self::truncate) cuts off what was not needed.
///
/// Dropping it, or the last `Bytes` of it, gives the memory back. Until then
/// memory that was lent stays where it is, even when the connection has ended.
///
/// # Examples
///
/// ```
/// # use rsocket_core::{Handlers, connect, serve, transport::memory::*};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let listener = MemoryListener::bind("payload-buf")?;
/// # tokio::spawn(serve(listener, |_, _| async {
/// #     Ok(Handlers::new().on_request_response(|request| async { Ok(request) }))
/// # }));
/// # let peer = connect(MemoryConnector::new("payload-buf")).await?;
/// let mut image = peer.buffer(64 * 1024);
/// for (n, pixel) in (0..).zip(image.chunks_exact_mut(2)) {
///     pixel.copy_from_slice(&u16::to_le_bytes(n));
/// }
/// let answer = peer.request_response(image).await?;
/// # assert_eq!(answer.data().len(), 64 * 1024);
/// # Ok(()) }
/// ```
pub struct PayloadBuf {
    memory: Memory,
    len: usize,
}

enum Memory {
    Heap(Vec<u8>),
    Lent(Box<dyn LentMemory>),
}

impl PayloadBuf {
    /// All zero.
    pub(crate) fn on_heap(len: usize) -> Self {
        Self {
            memory: Memory::Heap(vec![0; len]),
            len,
        }
    }

    /// The whole of `memory`, with what is in there.
    pub(crate) fn lent(memory: Box<dyn LentMemory>) -> Self {
        Self {
            len: (*memory).as_ref().len(),
            memory: Memory::Lent(memory),
        }
    }

    /// Whether it lies in memory of the transport.
    pub fn is_lent(&self) -> bool {
        matches!(self.memory, Memory::Lent(_))
    }

    /// Leaves the first `len` bytes; does nothing where there are no more.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The bytes to be used as a payload's data, or anywhere else. Not copied.
    ///
    /// What is lent is sent in place once at a time, and from its beginning:
    /// slices from further on, and what is sent again while the peer still
    /// reads it, are copied like other bytes.
    pub fn freeze(self) -> Bytes {
        let bytes = match self.memory {
            Memory::Heap(memory) => Bytes::from(memory),
            Memory::Lent(memory) => Bytes::from_owner(Frozen(memory)),
        };
        bytes.slice(..self.len)
    }
}

impl Deref for PayloadBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes = match &self.memory {
            Memory::Heap(memory) => memory,
            Memory::Lent(memory) => (**memory).as_ref(),
        };
        bytes.get(..self.len).unwrap_or(bytes)
    }
}

impl DerefMut for PayloadBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let bytes = match &mut self.memory {
            Memory::Heap(memory) => memory,
            Memory::Lent(memory) => (**memory).as_mut(),
        };
        let len = self.len.min(bytes.len());
        bytes.split_at_mut(len).0
    }
}

impl From<PayloadBuf> for Bytes {
    fn from(buf: PayloadBuf) -> Self {
        buf.freeze()
    }
}

/// Shows the length, not the contents: payloads may be secret.
impl fmt::Debug for PayloadBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadBuf")
            .field("len", &self.len)
            .field("is_lent", &self.is_lent())
            .finish()
    }
}

/// What `Bytes` of lent memory own.
struct Frozen(Box<dyn LentMemory>);

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// A buffer is a payload without metadata.
const _: fn(PayloadBuf) -> Payload = Payload::from;

#[cfg(test)]
mod tests {
    use super::*;

    fn both(len: usize) -> [PayloadBuf; 2] {
        let lent = vec![0; len];
        [PayloadBuf::on_heap(len), PayloadBuf::lent(Box::new(lent))]
    }

    #[test]
    fn what_is_written_is_what_is_frozen_wherever_it_lies() {
        for (mut buf, is_lent) in both(5).into_iter().zip([false, true]) {
            assert_eq!(buf.is_lent(), is_lent);
            buf.copy_from_slice(b"hello");
            let at = buf.as_ptr();
            let payload = Payload::from(buf);
            assert_eq!(payload.data(), b"hello");
            assert_eq!(payload.data().as_ptr(), at, "copied");
        }
    }

    #[test]
    fn what_is_cut_off_is_not_seen_again() {
        for mut buf in both(5) {
            buf.copy_from_slice(b"hello");
            buf.truncate(9);
            assert_eq!(&*buf, b"hello");
            buf.truncate(4);
            buf.reverse();
            assert_eq!(&*buf, b"lleh");
            assert_eq!(buf.freeze(), "lleh");
        }
    }

    #[test]
    fn debug_output_shows_no_contents() {
        for mut buf in both(8) {
            buf.copy_from_slice(b"password");
            let shown = format!("{buf:?}");
            assert!(shown.contains('8') && !shown.contains("112"), "{shown}");
        }
    }
}
