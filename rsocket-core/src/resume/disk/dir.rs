//! The directory that a store lies in: who may have it, whose it is, and which
//! format it has.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::super::store::StoreError;

/// Says what the directory is, and is locked while the store is open.
const MARK: &str = "store";
/// The database.
const DATABASE: &str = "sessions.redb";
/// The database while it is made.
const UNFINISHED: &str = "sessions.new";

/// What `MARK` holds around the number of the format.
const MARK_START: &str = "rsocket-core resume store\nformat ";
const MARK_END: &str = "\n";
/// The format that is written and read here. It covers the rows' keys and the
/// database's own format.
const FORMAT: u64 = 1;

/// A store's directory, locked. The lock ends with the value, and with the
/// process, however that ends.
#[derive(Debug)]
pub(super) struct Dir {
    path: PathBuf,
    mark: File,
}

impl Dir {
    /// Locks the directory, which is made if it is not there.
    pub(super) fn lock(path: &Path) -> Result<Self, StoreError> {
        let io = |action| move |error| io_error(action, path, error);
        let foreign = || StoreError::Foreign {
            path: path.to_owned(),
        };
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => return Err(foreign()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                private_dirs().create(path).map_err(io("create"))?;
            }
            Err(error) => return Err(io("open")(error)),
        }
        let marked = path.join(MARK);
        if !marked.try_exists().map_err(io("read"))? {
            for entry in fs::read_dir(path).map_err(io("read"))? {
                let name = entry.map_err(io("read"))?.file_name();
                // Another process may make the store at this moment.
                if name == DATABASE && !marked.try_exists().map_err(io("read"))? {
                    return Err(damaged(path, "its file `store` is missing"));
                }
                if ![MARK, DATABASE, UNFINISHED]
                    .map(OsStr::new)
                    .contains(&&*name)
                {
                    return Err(foreign());
                }
            }
        }
        let mark = private_files()
            .create(true)
            .truncate(false)
            .open(&marked)
            .map_err(|error| io_error("open", &marked, error))?;
        match mark.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &marked, error)),
        }
        Ok(Self {
            path: path.to_owned(),
            mark,
        })
    }

    /// The database's file. If the store is new, `make` fills the file first;
    /// a process killed meanwhile leaves a store that is still new.
    pub(super) fn database(
        &self,
        make: impl FnOnce(File) -> Result<(), StoreError>,
    ) -> Result<File, StoreError> {
        let database = self.path.join(DATABASE);
        let path = self.path();
        let io = |action| move |error| io_error(action, path, error);
        let is_there = database.try_exists().map_err(io("read"))?;
        let mut mark = Vec::new();
        // The mark is short; what is long is none, whatever it is.
        (&self.mark)
            .take(100)
            .read_to_end(&mut mark)
            .map_err(io("read"))?;
        if mark.is_empty() {
            if !is_there {
                let unfinished = self.path.join(UNFINISHED);
                let file = private_files()
                    .create(true)
                    .truncate(true)
                    .open(&unfinished)
                    .map_err(|error| io_error("create", &unfinished, error))?;
                make(file.try_clone().map_err(io("create"))?)?;
                file.sync_all().map_err(io("write"))?;
                fs::rename(&unfinished, &database).map_err(io("write"))?;
                sync_dir(&self.path).map_err(io("write"))?;
            }
            // Last: from here on, a missing database is a loss.
            let mark = format!("{MARK_START}{FORMAT}{MARK_END}");
            (&self.mark)
                .write_all(mark.as_bytes())
                .map_err(io("write"))?;
            self.mark.sync_all().map_err(io("write"))?;
        } else {
            match format_of(&mark) {
                Some(FORMAT) if is_there => {}
                Some(FORMAT) => return Err(damaged(&self.path, "its sessions are missing")),
                Some(found) => {
                    return Err(StoreError::Format {
                        path: self.path.clone(),
                        found,
                        ours: FORMAT,
                    });
                }
                None if is_there => {
                    return Err(damaged(&self.path, "its file `store` was changed"));
                }
                None => {
                    return Err(StoreError::Foreign {
                        path: self.path.clone(),
                    });
                }
            }
        }
        private_files()
            .open(&database)
            .map_err(|error| io_error("open", &database, error))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The format that a mark names.
fn format_of(mark: &[u8]) -> Option<u64> {
    str::from_utf8(mark)
        .ok()?
        .strip_prefix(MARK_START)?
        .strip_suffix(MARK_END)?
        .parse()
        .ok()
}

pub(super) fn io_error(action: &'static str, path: &Path, error: io::Error) -> StoreError {
    StoreError::Io {
        action,
        path: path.to_owned(),
        source: Arc::new(error),
    }
}

pub(super) fn damaged(path: &Path, what: impl Into<Arc<str>>) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        what: what.into(),
    }
}

/// Who reads a token can take its session over: nobody but the owner may.
fn private_files() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn private_dirs() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// Makes a new name in the directory last.
fn sync_dir(path: &Path) -> io::Result<()> {
    // Elsewhere directories cannot be opened, and names need no sync.
    if cfg!(unix) {
        File::open(path)?.sync_all()
    } else {
        Ok(())
    }
}
