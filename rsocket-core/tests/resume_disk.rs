//! Sessions on disk: what is stored is what was committed, whatever happens.
#![cfg(feature = "disk-store")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "it is a test"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use rsocket_core::{
    resume::{Batch, DiskStore, Durability, Key, MemoryStore, ResumeStore},
    testkit::{Random, seeds},
};

/// A directory that is gone with the test, if the test passes.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rsocket-resume-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn open(path: &Path) -> DiskStore {
    DiskStore::open(path, Durability::default()).unwrap()
}

fn contents(store: &impl ResumeStore) -> Vec<(Bytes, Vec<(Key, Bytes)>)> {
    let tokens: BTreeSet<_> = store.tokens().unwrap().into_iter().collect();
    let load = |token: Bytes| {
        let rows = store.load(&token).unwrap().expect("has a token");
        (token, rows)
    };
    tokens.into_iter().map(load).collect()
}

/// A key among few, so that keys meet; some at the ends of what a key can be.
fn key(random: &mut Random) -> Key {
    let mut number = || match random.within(0..=9) {
        0 => u64::MAX,
        few => few as u64,
    };
    let (a, b) = (number(), number());
    Key::new([0, 1, 255][random.within(0..=2)], a, b)
}

fn batch(random: &mut Random) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..random.within(0..=8) {
        match random.within(0..=9) {
            0..=5 => {
                let len = if random.once_in(20) { 20_000 } else { 200 };
                let len = random.length(len) - 1;
                batch.put(key(random), random.bytes(len).into());
            }
            6..=7 => batch.delete(key(random)),
            // Half of these have their end before their start.
            _ => batch.delete_range(key(random)..key(random)),
        }
    }
    batch
}

fn token(random: &mut Random) -> Vec<u8> {
    match random.within(0..=7) {
        0 => vec![0],
        1 => vec![0, 0],
        2 => b"../../../token".to_vec(),
        3 => vec![255; 65535],
        4 => b"a/\0\\b".to_vec(),
        n => vec![b't', n as u8],
    }
}

#[test]
fn a_store_on_disk_does_what_a_store_in_memory_does() {
    for seed in seeds(8) {
        let mut random = Random::new(seed);
        let place = Place::new();
        let durability = [Durability::Process, Durability::Disk][random.within(0..=1)];
        let path = place.join("made/on the way");
        let memory = MemoryStore::new();
        let mut disk = DiskStore::open(&path, durability).unwrap();
        for step in 0..150 {
            let token = token(&mut random);
            match random.within(0..=19) {
                0 => {
                    disk.remove(&token).unwrap();
                    memory.remove(&token).unwrap();
                }
                1 => {
                    drop(disk);
                    disk = DiskStore::open(&path, durability).unwrap();
                }
                _ => {
                    let batch = batch(&mut random);
                    disk.commit(&token, &batch).unwrap();
                    memory.commit(&token, &batch).unwrap();
                }
            }
            let (found, wanted) = (disk.load(&token).unwrap(), memory.load(&token).unwrap());
            assert!(found == wanted, "seed {seed}, step {step}");
        }
        drop(disk);
        assert!(contents(&open(&path)) == contents(&memory), "seed {seed}");
    }
}
