//! What the state of a session is kept in, and how changes to it are told.

use std::{fmt, io, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;

/// Where the state of sessions lies so that they outlive their process.
///
/// A session is a set of rows under a token. It is there from its first commit
/// on, be that of an empty batch, until it is removed; a session whose rows
/// were all deleted is still there, with none.
///
/// Tokens are 1..=65535 bytes, opaque, and secret: who has one may take the
/// session over.
///
/// Calls from several threads are taken one after another or at once, as if one
/// after another.
pub trait ResumeStore: Send + Sync + 'static {
    /// All rows written for the session, in key order; `None` if there is no
    /// such session.
    ///
    /// # Errors
    ///
    /// When the token has no length that tokens have, or what lies in the store
    /// cannot be read. Nothing is left out in silence.
    fn load(&self, token: &[u8]) -> Result<Option<Vec<(Key, Bytes)>>, StoreError>;

    /// Applies all of `batch`, in order, or nothing of it. When it returns
    /// `Ok`, the batch outlives the process. May block for as long as a disk
    /// takes: called from blocking threads only.
    ///
    /// # Errors
    ///
    /// When the token has no length that tokens have, or the batch cannot be
    /// written. After a failed write it is not known whether the batch will be
    /// there when the store is opened again, all of it or nothing; the session
    /// should not go on on its strength.
    fn commit(&self, token: &[u8], batch: &Batch) -> Result<(), StoreError>;

    /// Forgets a session. No error when there is none.
    ///
    /// # Errors
    ///
    /// As for [`commit`](Self::commit).
    fn remove(&self, token: &[u8]) -> Result<(), StoreError>;

    /// Tokens of all sessions that are stored, in no particular order.
    ///
    /// # Errors
    ///
    /// When what lies in the store cannot be read.
    fn tokens(&self) -> Result<Vec<Bytes>, StoreError>;
}

/// The key of a row of a session; ordered by its fields.
///
/// What tables there are and what the numbers mean is up to who writes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Which kind of row.
    pub table: u8,
    /// The first number, such as a stream id.
    pub a: u64,
    /// The second number, such as a position.
    pub b: u64,
}

impl Key {
    /// The key of these fields.
    pub const fn new(table: u8, a: u64, b: u64) -> Self {
        Self { table, a, b }
    }
}

/// Changes that are made together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    ops: Vec<Op>,
}

impl Batch {
    /// A batch of no changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes a row, in place of what was under the key.
    pub fn put(&mut self, key: Key, value: Bytes) {
        self.ops.push(Op::Put(key, value));
    }

    /// Deletes a row, if it is there.
    pub fn delete(&mut self, key: Key) {
        self.ops.push(Op::Delete(key));
    }

    /// Deletes all rows from `keys.start` on that come before `keys.end`; none
    /// when the end does not come after the start.
    pub fn delete_range(&mut self, keys: Range<Key>) {
        self.ops.push(Op::DeleteRange(keys));
    }

    /// Whether there is no change in it.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// How many changes are in it.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Takes all changes out and keeps the memory for the next.
    pub fn clear(&mut self) {
        self.ops.clear();
    }

    /// The changes, in the order in which they are applied.
    pub fn iter(&self) -> std::slice::Iter<'_, Op> {
        self.ops.iter()
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = &'a Op;
    type IntoIter = std::slice::Iter<'a, Op>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// One change of a [`Batch`].
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Write a row, in place of what was under the key.
    Put(Key, Bytes),
    /// Delete a row, if it is there.
    Delete(Key),
    /// Delete all rows with keys in the range.
    DeleteRange(Range<Key>),
}

// By hand, since values hold what users sent, which may be secret.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(key, value) => write!(f, "Put({key:?}, {} bytes)", value.len()),
            Self::Delete(key) => write!(f, "Delete({key:?})"),
            Self::DeleteRange(keys) => write!(f, "DeleteRange({keys:?})"),
        }
    }
}

/// Why a store could not be opened, read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The token is too short or too long. Nothing was done.
    #[error("a resume token has 1..=65535 bytes, not {len}")]
    Token {
        /// Bytes that the token has.
        len: usize,
    },

    /// Another process, or another value in this one, has the store open. Use
    /// another path, or end the other.
    #[error("{path} is in use: end the process that has it open, or name another path")]
    InUse {
        /// What was to be opened.
        path: PathBuf,
    },

    /// What lies at the path is not a store of this library. It was left as it
    /// is. Name another path.
    #[error("{path} is not a store of sessions: name another path, or move it away")]
    Foreign {
        /// What was to be opened.
        path: PathBuf,
    },

    /// The store was written in another format. It was left as it is.
    #[error(
        "{path} has format {found}, and this version of the library reads {ours}: open it with \
         the version that wrote it, or move it away and lose its sessions"
    )]
    Format {
        /// What was to be opened.
        path: PathBuf,
        /// The format that it says it has.
        found: u64,
        /// The format that this version reads and writes.
        ours: u64,
    },

    /// What lies at the path was a store, and is no longer whole.
    #[error("{path} is damaged ({what}): restore it, or move it away and lose its sessions")]
    Damaged {
        /// The damaged store.
        path: PathBuf,
        /// What was found that cannot be.
        what: Arc<str>,
    },

    /// The machine refused: no space, no permission, no such directory, a
    /// broken disk.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: Arc<io::Error>,
    },
}

/// The token, if its length is one that tokens have.
pub(super) fn check_token(token: &[u8]) -> Result<&[u8], StoreError> {
    let len = token.len();
    match len {
        1..=65535 => Ok(token),
        _ => Err(StoreError::Token { len }),
    }
}
