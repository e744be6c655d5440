//! One side's memory: a file that its maker writes and its peer reads.
//!
//! Over a socket it is a sealed memfd. What can go wrong with memory that is
//! shared by two processes that do not trust each other is excluded here, before
//! a byte of it is looked at:
//!
//! | danger | why it cannot happen |
//! |---|---|
//! | the peer writes what we wrote | [`OwnRegion::sealed`] maps, then seals FUTURE_WRITE: nobody maps it writable again |
//! | the file is cut short under a mapping: SIGBUS | SHRINK is sealed, and [`map_sealed`] wants it |
//! | a page is missing when it is touched, and there is no memory: SIGBUS | `fallocate` takes all pages at once, and the receiver counts them; FUTURE_WRITE forbids holes, too |
//! | seals are added or the length changes between check and use | SEAL is sealed, and so is GROW |
//!
//! In a directory it is a file with a name for a moment, and there are no seals.
//! Processes of the same user can write to it and cut it short, whereupon this
//! one gets SIGBUS; they might as well send it any other signal. That others
//! cannot is checked by `rendezvous::directory`; the pages, by [`map_file`].

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals,
    fcntl_get_seals, fstat, memfd_create, openat,
};

use crate::{
    layout::{CONTROL_LEN, Geometry, format},
    mem::{MappedData, MappedPeer, MappedWords, map_own, map_peer},
};

/// What no region may lack.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::FUTURE_WRITE)
    .union(SealFlags::SEAL);

/// Memory that this side writes. The peer can only read it.
#[derive(Debug)]
pub(crate) struct OwnRegion {
    pub(crate) words: MappedWords,
    pub(crate) data: MappedData,
    /// What the peer has to be given. The mapping outlives it.
    pub(crate) file: File,
}

impl OwnRegion {
    /// A fresh region without a name, with its header written and all of it in
    /// memory.
    ///
    /// # Errors
    ///
    /// When the machine, or this process, has no more memory or descriptors.
    pub(crate) fn sealed(geometry: &Geometry) -> io::Result<Self> {
        let region = Self::fill(File::from(memfd()?), geometry)?;
        fcntl_add_seals(&region.file, SEALS)?;
        Ok(region)
    }

    /// The same in a new file in `dir`, for this user only.
    ///
    /// # Errors
    ///
    /// As above, and when the file system is full or the file exists. There may be
    /// a file then all the same.
    pub(crate) fn file(dir: impl AsFd, name: &str, geometry: &Geometry) -> io::Result<Self> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        Self::fill(File::from(file), geometry)
    }

    fn fill(file: File, geometry: &Geometry) -> io::Result<Self> {
        let len = geometry.region_len();
        // Unlike `set_len`, it fails here and now if there is not enough.
        fallocate(&file, FallocateFlags::empty(), 0, len as u64)?;
        let (words, data) = map_own(&file, len, CONTROL_LEN)?;
        format(&words, geometry, 0);
        Ok(Self { words, data, file })
    }
}

/// Names are for people only, who find them in `/proc/<pid>/maps`.
fn memfd() -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Since Linux 6.3 one should say that it is not to be executed.
    match memfd_create("rsocket-shm", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => memfd_create("rsocket-shm", flags),
        made => made,
    }
}

/// Maps what the peer sent as a region of `len` bytes, read-only.
pub(crate) fn map_sealed(fd: OwnedFd, len: usize) -> Result<MappedPeer, RegionError> {
    let file = File::from(fd);
    // Only memory has seals at all.
    let seals = fcntl_get_seals(&file).map_err(|_| RegionError::NoMemory)?;
    if !seals.contains(SEALS) {
        return Err(RegionError::Unsealed {
            missing: SEALS.difference(seals).bits(),
        });
    }
    map_whole(&file, len)
}

/// Maps a file of the peer's as a region of `len` bytes, read-only.
///
/// It may be cut short later: see the module's documentation.
pub(crate) fn map_file(fd: OwnedFd, len: usize) -> Result<MappedPeer, RegionError> {
    map_whole(&File::from(fd), len)
}

/// Maps a file if it is as long as it should be, and all there.
fn map_whole(file: &File, len: usize) -> Result<MappedPeer, RegionError> {
    let found = fstat(file).map_err(io::Error::from)?;
    if u64::try_from(found.st_size) != Ok(len as u64) {
        return Err(RegionError::Length {
            said: len,
            found: found.st_size,
        });
    }
    // In units of 512 bytes, whatever the size of a block is.
    let allocated = u64::try_from(found.st_blocks).map_or(0, |blocks| blocks * 512);
    if allocated < len as u64 {
        return Err(RegionError::Sparse { len, allocated });
    }
    Ok(map_peer(file, len)?)
}

/// Why what the peer sent will not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegionError {
    #[error("the peer sent a descriptor of something that is not memory")]
    NoMemory,
    #[error("the peer's memory lacks seals: {missing:#x}")]
    Unsealed { missing: u32 },
    #[error("the peer's memory is {found} bytes long, not {said} as announced")]
    Length { said: usize, found: i64 },
    #[error("of the peer's memory of {len} bytes, {allocated} are there")]
    Sparse { len: usize, allocated: u64 },
    /// Not the peer's fault.
    #[error("mapping the peer's memory")]
    Map(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::layout::check;

    const LEN: usize = 64 * 1024;

    /// A memfd of a peer who does as it likes.
    fn made(len: usize, full: bool, seals: SealFlags) -> OwnedFd {
        let file = File::from(memfd().unwrap());
        if full {
            fallocate(&file, FallocateFlags::empty(), 0, len as u64).unwrap();
        } else {
            file.set_len(len as u64).unwrap();
        }
        fcntl_add_seals(&file, seals).unwrap();
        file.into()
    }

    #[test]
    fn the_peer_maps_what_the_owner_made() {
        let geometry = Geometry::default();
        let own = OwnRegion::sealed(&geometry).unwrap();
        let fd = own.file.try_clone().unwrap().into();
        let peer = map_sealed(fd, geometry.region_len()).unwrap();
        let header = check(&peer, geometry.region_len()).unwrap();
        assert_eq!(header.geometry, geometry);
    }

    #[test]
    fn nobody_can_write_shorten_lengthen_or_punch_what_is_sealed() {
        let own = OwnRegion::sealed(&Geometry::default()).unwrap();
        let file = &own.file;
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(1 << 40).is_err());
        assert!(file.write_at(b"x", 0).is_err());
        assert!(map_own(file, LEN, 0).is_err());
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert!(fallocate(file, punch, 0, LEN as u64).is_err());
        assert!(fcntl_add_seals(file, SealFlags::WRITE).is_err());
    }

    #[test]
    fn a_region_without_any_one_seal_is_refused() {
        for missing in SEALS.iter() {
            let fd = made(LEN, true, SEALS.difference(missing));
            let error = map_sealed(fd, LEN).unwrap_err();
            assert!(
                matches!(error, RegionError::Unsealed { missing: bits } if bits == missing.bits()),
                "{missing:?}: {error}"
            );
        }
    }

    #[test]
    fn a_region_of_another_length_is_refused() {
        for said in [0, LEN - 1, LEN + 1, 2 * LEN] {
            let error = map_sealed(made(LEN, true, SEALS), said).unwrap_err();
            assert!(matches!(error, RegionError::Length { .. }), "{error}");
        }
    }

    #[test]
    fn a_region_whose_pages_are_not_there_is_refused() {
        let error = map_sealed(made(LEN, false, SEALS), LEN).unwrap_err();
        assert!(matches!(error, RegionError::Sparse { .. }), "{error}");
    }

    #[test]
    fn what_is_not_memory_is_refused() {
        let null = File::open("/dev/null").unwrap();
        let error = map_sealed(null.into(), LEN).unwrap_err();
        assert!(matches!(error, RegionError::NoMemory), "{error}");
    }
}
