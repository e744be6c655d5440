//! The file that the database lies in: when it is synced, and a seal over the
//! one place that the database itself does not check.

use std::{fs::File, io};

use redb::{StorageBackend, backends::FileBackend};

/// The part of the file that the seal covers, the seal included: one sector,
/// which disks write whole or not at all. redb keeps its header there.
const SECTOR: usize = 512;
/// Where the seal is. What lies between the header and it stays zero.
const SEAL: usize = SECTOR - 8;

/// When what was written is asked to reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// When the database says so.
    Yes,
    /// When the system likes.
    No,
}

/// A database's file with a sealed first sector.
///
/// redb checks all its pages, but of its header only the two slots that name
/// the roots. A flipped bit elsewhere in it can make the older slot the valid
/// one, which would take the last commit back in silence. So each time that
/// redb writes the header, a checksum of it is written behind it, in the same
/// write and within one page of the kernel's cache: a killed process leaves
/// either both or neither.
#[derive(Debug)]
pub(super) struct SealedFile {
    file: FileBackend,
    sync: Sync,
}

impl SealedFile {
    /// An empty file, to be filled.
    pub(super) fn create(file: File, sync: Sync) -> io::Result<Self> {
        let file = FileBackend::new(file).map_err(io::Error::other)?;
        Ok(Self { file, sync })
    }

    /// A file that was filled before. `InvalidData` if the seal does not fit.
    pub(super) fn open(file: File, sync: Sync) -> io::Result<Self> {
        let file = Self::create(file, sync)?;
        let mut sector = [0; SECTOR];
        // Said here since redb makes a new database of an empty file.
        if file.len()? < SECTOR as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it was cut off"));
        }
        file.file.read(0, &mut sector)?;
        let (header, seal) = sector.split_at(SEAL);
        if seal != checksum(header) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its header was changed",
            ));
        }
        Ok(file)
    }
}

impl StorageBackend for SealedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.sync {
            Sync::Yes => self.file.sync_data(),
            Sync::No => Ok(()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset >= SECTOR as u64 {
            return self.file.write(offset, data);
        }
        let mut sector = [0; SECTOR];
        // A header written in parts, or a longer one, would be a redb that this
        // was not made for.
        let header = match sector.get_mut(..data.len()) {
            Some(header) if offset == 0 && data.len() <= SEAL => header,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        header.copy_from_slice(data);
        let (header, seal) = sector.split_at_mut(SEAL);
        seal.copy_from_slice(&checksum(header));
        self.file.write(0, &sector)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// FNV-1a, 64 bits. Each step can be undone, so that no change of a single byte
/// goes unseen.
fn checksum(bytes: &[u8]) -> [u8; 8] {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    let hash = bytes.iter().fold(0xCBF2_9CE4_8422_2325, mix);
    hash.to_le_bytes()
}
