//! A store that lasts as long as the directory that it lies in.
//!
//! # Why redb
//!
//! redb 4.5 and fjall 3.1 were compared: both are kept up, MIT or Apache-2.0,
//! pure Rust, and apply batches whole. Per commit of three rows of 100 bytes
//! and three deletes, as ratios to one append of 400 bytes to a file with and
//! without a sync (measured on ext4, one thread; the append took 1 and 110 us):
//!
//! | | no sync | with sync |
//! |---|---|---|
//! | append | 1 | 1 |
//! | fjall | 10 | 0.8 |
//! | redb, one phase | 80 | 2.1 |
//! | redb, two phases, as here | 80 | 3 |
//!
//! fjall is the quicker one, and was left for what it does with damage: of 250
//! bytes flipped one by one in its journal, 31 took commits back without a
//! word, and one flipped in a table ended the process, by way of an allocation
//! of 43 GB. A session that goes on from an older state than its peer knows is
//! worse than none. redb refuses such files; where it does not, `SealedFile`
//! does. redb is also a single crate, against about forty, has no threads of
//! its own, and its file stays at some hundred kB where fjall's journal grows
//! to 64 MB, which are read again at each start (12 MB took 0.3 to 0.5 s).
//! Commits that wait for one another are written together, so that sessions
//! share a sync.

mod dir;
mod file;

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use bytes::{Buf as _, BufMut as _, Bytes};
use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction,
};

use self::{
    dir::{Dir, damaged, io_error},
    file::{SealedFile, Sync},
};
use super::store::{Batch, Key, Op, ResumeStore, StoreError, check_token};

/// Tokens, and the number under which a session's rows lie.
const SESSIONS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("sessions");
/// All rows of all sessions.
const ROWS: TableDefinition<'_, &RowKey, &[u8]> = TableDefinition::new("rows");

/// The session's number and the fields of the [`Key`], big end first, so that
/// the order of bytes is the order of keys.
type RowKey = [u8; 25];

/// Memory for pages, read and written, in bytes. The state of a session is
/// small and is read once.
const CACHE: usize = 4 << 20;

/// What is said of a store after a call did not come to its end.
const INTERRUPTED: &str = "an earlier call failed in the midst";

/// What a commit outlives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The process: killed at any instant, it finds all commits that returned.
    ///
    /// When the machine itself goes down, by loss of power or a crash of its
    /// kernel, commits of the last half minute or so may be lost, and the store
    /// may be left in a state that [`DiskStore::open`] refuses as damaged; what
    /// is opened is never wrong.
    ///
    /// The default, since resumption is about processes that come back while
    /// their peer still waits, which a machine that boots seldom does, and
    /// since it costs a third or less.
    #[default]
    Process,
    /// The machine: what was committed is with the disk before the commit
    /// returns (two syncs). Believes a disk that says that it has written.
    Disk,
}

/// Keeps sessions in a directory, so that they outlive the process.
///
/// One value has a directory at a time, in all processes. The directory is
/// made (for its owner alone, as are the files in it) if it is not there; one
/// that was there keeps its mode. Tokens never become names of files.
///
/// Space that rows and sessions leave is used again. The file shrinks, if at
/// all, when the store is dropped.
///
/// Calls wait for each other, and commits that wait at the same time are then
/// written as one, so that many sessions share the cost. Dropping the store closes it, which writes to
/// the disk, so it is for a blocking thread too; a store that was not dropped,
/// as when its process was killed, is as good.
pub struct DiskStore {
    /// Commits that nobody has begun to write. Locked for moments only, by
    /// those who hold `inner` too.
    waiting: Mutex<Vec<Arc<Commit>>>,
    inner: Mutex<Inner>,
}

/// A commit that a thread waits for.
struct Commit {
    token: Bytes,
    batch: Batch,
    /// Written by who writes the batch, before it gives up `Inner`.
    result: OnceLock<Result<(), StoreError>>,
}

struct Inner {
    /// Declared before the lock, and so closed before it is given up. `None`
    /// once the database panicked: what it holds is not known any more.
    database: Option<Database>,
    dir: Dir,
    durability: Durability,
    /// The numbers of all sessions.
    sessions: HashMap<Bytes, u64>,
    /// A number that no session has or had since the store was opened.
    next: u64,
}

impl DiskStore {
    /// Opens the store in the directory `path`, or makes one if there is none.
    ///
    /// Reads and checks the whole store, so that damage is found here.
    ///
    /// # Errors
    ///
    /// When the directory is in use, holds something else, another format or a
    /// damaged store, or the machine refuses. Never opens less than what was
    /// committed. Each error says what to do.
    pub fn open(path: impl AsRef<Path>, durability: Durability) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let dir = Dir::lock(path)?;
        let sync = match durability {
            Durability::Process => Sync::No,
            Durability::Disk => Sync::Yes,
        };
        let file = dir.database(|file| {
            guard(path, "create", || {
                drop(create(file)?);
                Ok(())
            })
        })?;
        let (database, sessions) = guard(path, "open", || {
            let database = open(file, sync)?;
            let sessions = sessions(&database)?;
            Ok((database, sessions))
        })?;
        let last = sessions.values().max();
        let next = last.map_or(0, |last| last.saturating_add(1));
        let inner = Inner {
            database: Some(database),
            dir,
            durability,
            sessions,
            next,
        };
        Ok(Self {
            waiting: Mutex::default(),
            inner: Mutex::new(inner),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Arc<Commit>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Calls the database, and never again after it panicked.
    fn call<T>(
        &mut self,
        action: &'static str,
        f: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let path = self.dir.path();
        let Some(database) = &self.database else {
            return Err(damaged(path, INTERRUPTED));
        };
        let result = guard(path, action, || f(database));
        if matches!(result, Err(StoreError::Damaged { .. })) {
            self.close();
        }
        result
    }

    fn close(&mut self) {
        let database = self.database.take();
        // Closing writes, and redb asserts what a damaged file may not keep.
        let closed = catch_unwind(AssertUnwindSafe(|| drop(database)));
        if closed.is_err() {
            tracing::error!(store = %self.dir.path().display(), "could not be closed cleanly");
        }
    }

    /// Writes all of `commits` or none of them.
    fn commit(&mut self, commits: &[Arc<Commit>]) -> Result<(), StoreError> {
        let known = |commit: &Commit| self.sessions.contains_key(&commit.token);
        if commits
            .iter()
            .all(|commit| commit.batch.is_empty() && known(commit))
        {
            return Ok(());
        }
        let mut begun: HashMap<&Bytes, u64> = HashMap::new();
        let mut next = self.next;
        let sessions = &self.sessions;
        let mut numbered = Vec::with_capacity(commits.len());
        for commit in commits {
            let token = &commit.token;
            let number = sessions.get(token).copied().unwrap_or_else(|| {
                *begun.entry(token).or_insert_with(|| {
                    next += 1;
                    next - 1
                })
            });
            numbered.push((number, &commit.batch));
        }
        self.call("write", |database| {
            let write = begin_write(database)?;
            if !begun.is_empty() {
                let mut sessions = write.open_table(SESSIONS)?;
                for (token, number) in &begun {
                    sessions.insert(&token[..], number)?;
                }
            }
            apply(&write, numbered)?;
            Ok(write.commit()?)
        })?;
        let begun = begun
            .into_iter()
            .map(|(token, number)| (token.clone(), number));
        self.sessions.extend(begun);
        self.next = next;
        Ok(())
    }

    fn remove(&mut self, token: &[u8]) -> Result<(), StoreError> {
        let Some(&session) = self.sessions.get(token) else {
            return Ok(());
        };
        self.call("write", |database| {
            let write = begin_write(database)?;
            write.open_table(SESSIONS)?.remove(token)?;
            let (first, last) = ends(session);
            write
                .open_table(ROWS)?
                .retain_in::<&RowKey, _>(&first..=&last, |_, _| false)?;
            Ok(write.commit()?)
        })?;
        self.sessions.remove(token);
        Ok(())
    }

    fn load(&mut self, token: &[u8]) -> Result<Option<Vec<(Key, Bytes)>>, StoreError> {
        let Some(&session) = self.sessions.get(token) else {
            return Ok(None);
        };
        let rows = self.call("read", |database| {
            let table = database.begin_read()?.open_table(ROWS)?;
            let mut rows = Vec::new();
            let (first, last) = ends(session);
            for row in table.range::<&RowKey>(&first..=&last)? {
                let (key, value) = row?;
                let value = Bytes::copy_from_slice(value.value());
                rows.push((decode(key.value()), value));
            }
            Ok(rows)
        })?;
        Ok(Some(rows))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl ResumeStore for DiskStore {
    fn load(&self, token: &[u8]) -> Result<Option<Vec<(Key, Bytes)>>, StoreError> {
        self.inner().load(check_token(token)?)
    }

    fn commit(&self, token: &[u8], batch: &Batch) -> Result<(), StoreError> {
        let commit = Arc::new(Commit {
            token: Bytes::copy_from_slice(check_token(token)?),
            batch: batch.clone(),
            result: OnceLock::new(),
        });
        self.waiting().push(commit.clone());
        // Whoever gets here first writes what waits, its own among it; the
        // others find it done.
        let mut inner = self.inner();
        if let Some(result) = commit.result.get() {
            return result.clone();
        }
        let commits = mem::take(&mut *self.waiting());
        if !commits.iter().any(|other| Arc::ptr_eq(other, &commit)) {
            // Somebody took it and panicked: it may be written or not.
            return Err(damaged(inner.dir.path(), INTERRUPTED));
        }
        let result = inner.commit(&commits);
        for commit in &commits {
            commit.result.get_or_init(|| result.clone());
        }
        result
    }

    fn remove(&self, token: &[u8]) -> Result<(), StoreError> {
        self.inner().remove(check_token(token)?)
    }

    fn tokens(&self) -> Result<Vec<Bytes>, StoreError> {
        Ok(self.inner().sessions.keys().cloned().collect())
    }
}

// By hand, since tokens are secret.
impl fmt::Debug for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner();
        f.debug_struct("DiskStore")
            .field("path", &inner.dir.path())
            .field("durability", &inner.durability)
            .field("sessions", &inner.sessions.len())
            .finish_non_exhaustive()
    }
}

/// Fills an empty file with a database without sessions.
fn create(file: File) -> Result<Database, redb::Error> {
    let database = builder().create_with_backend(SealedFile::create(file, Sync::No)?)?;
    let write = begin_write(&database)?;
    write.open_table(SESSIONS)?;
    write.open_table(ROWS)?;
    write.commit()?;
    Ok(database)
}

fn open(file: File, sync: Sync) -> Result<Database, redb::Error> {
    let file = SealedFile::open(file, sync)?;
    Ok(builder()
        .set_check_integrity_on_open(true)
        .create_with_backend(file)?)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder
}

/// Begins changes that reach the file, to the last byte, when they are
/// committed.
fn begin_write(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut write = database.begin_write()?;
    // Else a damaged last commit is taken back when the file is opened, in
    // silence, as if its process had been killed before it.
    write.set_two_phase_commit(true);
    Ok(write)
}

fn sessions(database: &Database) -> Result<HashMap<Bytes, u64>, redb::Error> {
    let table = database.begin_read()?.open_table(SESSIONS)?;
    let mut sessions = HashMap::new();
    for session in table.iter()? {
        let (token, number) = session?;
        sessions.insert(Bytes::copy_from_slice(token.value()), number.value());
    }
    Ok(sessions)
}

/// Makes the changes of batches to the sessions of these numbers, in order.
fn apply<'a>(
    write: &WriteTransaction,
    batches: impl IntoIterator<Item = (u64, &'a Batch)>,
) -> Result<(), redb::Error> {
    let mut rows = write.open_table(ROWS)?;
    for (session, batch) in batches {
        for op in batch {
            match op {
                Op::Put(key, value) => drop(rows.insert(&encode(session, *key), &value[..])?),
                Op::Delete(key) => drop(rows.remove(&encode(session, *key))?),
                // A range that ends before it starts is empty too, and not for
                // redb to see.
                Op::DeleteRange(keys) if keys.is_empty() => {}
                Op::DeleteRange(keys) => {
                    let (start, end) = (encode(session, keys.start), encode(session, keys.end));
                    rows.retain_in::<&RowKey, _>(&start..&end, |_, _| false)?;
                }
            }
        }
    }
    Ok(())
}

/// The least and the greatest key that a row of the session can have.
fn ends(session: u64) -> (RowKey, RowKey) {
    let greatest = Key::new(u8::MAX, u64::MAX, u64::MAX);
    (
        encode(session, Key::new(0, 0, 0)),
        encode(session, greatest),
    )
}

fn encode(session: u64, key: Key) -> RowKey {
    let mut bytes = [0; 25];
    let mut rest = &mut bytes[..];
    rest.put_u64(session);
    rest.put_u8(key.table);
    rest.put_u64(key.a);
    rest.put_u64(key.b);
    bytes
}

fn decode(bytes: &RowKey) -> Key {
    let mut bytes = &bytes[..];
    let _session = bytes.get_u64();
    let table = bytes.get_u8();
    let (a, b) = (bytes.get_u64(), bytes.get_u64());
    Key { table, a, b }
}

/// Calls the database and says what went wrong in the terms of a store.
///
/// redb checks a file when it is opened, and asserts what holds from then on.
/// Where the file is changed under it, an assertion is what comes, which is no
/// reason for the process to end.
fn guard<T>(
    path: &Path,
    action: &'static str,
    f: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    use redb::Error;
    let error = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error,
        Err(_) => return Err(damaged(path, "the database found what cannot be")),
    };
    Err(match error {
        // What redb and `SealedFile` say of a file that is not theirs.
        Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            damaged(path, error.to_string())
        }
        Error::Io(error) => io_error(action, path, error),
        Error::PreviousIo => io_error(
            action,
            path,
            io::Error::other("an earlier write failed: open the store again"),
        ),
        Error::ValueTooLarge(_) => io_error(action, path, io::ErrorKind::FileTooLarge.into()),
        Error::DatabaseAlreadyOpen => StoreError::InUse {
            path: path.to_owned(),
        },
        // Tables that are missing or of other types, pages that do not add up.
        error => damaged(path, error.to_string()),
    })
}
