//! Sessions on disk: what is stored is what was committed, whatever happens.
#![cfg(feature = "disk-store")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "what is wrong with a test fails it"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use rsocket_core::{
    resume::{Batch, DiskStore, Durability, Key, MemoryStore, ResumeStore, StoreError},
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
    for seed in seeds(5) {
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

/// All files under a directory, with what is in them.
fn files(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect();
    files.sort();
    files
}

/// A store as a killed process leaves it, or as a closed one is, and what was
/// committed to it.
fn stored(
    random: &mut Random,
    path: &Path,
    closed: bool,
) -> (MemoryStore, Vec<(PathBuf, Vec<u8>)>) {
    let memory = MemoryStore::new();
    let disk = open(path);
    for _ in 0..60 {
        let (token, batch) = (token(random), batch(random));
        // A key of 64 KiB leaves little room for damage to meet the rest.
        if token.len() < 100 {
            memory.commit(&token, &batch).unwrap();
            disk.commit(&token, &batch).unwrap();
        }
    }
    // So that it shows when the last commit is taken back.
    let mut last = Batch::new();
    last.put(Key::default(), Bytes::from_static(b"last"));
    memory.commit(b"last", &last).unwrap();
    disk.commit(b"last", &last).unwrap();
    if closed {
        drop(disk);
        return (memory, files(path));
    }
    (memory, files(path))
}

/// Opens what is at `path`, and says whether it was refused. If not, it is what
/// was committed.
fn refused(path: &Path, wanted: &[(Bytes, Vec<(Key, Bytes)>)], damage: &str) -> bool {
    match DiskStore::open(path, Durability::Process) {
        Ok(store) => {
            assert!(contents(&store) == wanted, "other data after {damage}");
            // And it can be gone on with.
            let mut batch = Batch::new();
            batch.put(Key::default(), Bytes::from_static(b"more"));
            store.commit(b"another", &batch).unwrap();
            false
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()), "{text}");
            assert!(
                matches!(
                    error,
                    StoreError::Damaged { .. } | StoreError::Format { .. }
                ),
                "{error:?} after {damage}"
            );
            true
        }
    }
}

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// This bit of a byte.
    Flip(usize),
    /// Some bytes are overwritten with others.
    Noise,
    /// The file ends here.
    Cut,
}

#[test]
fn a_damaged_file_is_refused_or_does_not_matter() {
    use Change::{Cut, Flip, Noise};
    for seed in seeds(1) {
        for closed in [false, true] {
            let mut random = Random::new(seed);
            let place = Place::new();
            let (memory, files) = stored(&mut random, &place.join("store"), closed);
            let wanted = contents(&memory);
            let path = place.join("damaged");
            fs::create_dir(&path).unwrap();
            for (damaged, bytes) in &files {
                // Each bit of what says which root is valid, the first sector
                // byte by byte, and samples of the rest.
                let end = bytes.len();
                let mut changes: Vec<_> =
                    (0..end.min(64) * 8).map(|n| (n / 8, Flip(n % 8))).collect();
                let rest = (64..end.min(512)).chain((0..80).map(|_| random.within(0..=end - 1)));
                changes.extend(rest.collect::<Vec<_>>().into_iter().map(|spot| {
                    let change = match random.within(0..=3) {
                        0..=1 => Flip(random.within(0..=7)),
                        2 => Noise,
                        _ => Cut,
                    };
                    (spot, change)
                }));
                let mut refusals = 0;
                let count = changes.len();
                for (spot, change) in changes {
                    let mut changed = bytes.clone();
                    match change {
                        Flip(bit) => changed[spot] ^= 1 << bit,
                        Noise => {
                            let end = end.min(spot + random.length(5000));
                            let noise = random.bytes(end - spot);
                            changed[spot..end].copy_from_slice(&noise);
                        }
                        Cut => changed.truncate(spot),
                    }
                    for (file, bytes) in &files {
                        let bytes = if file == damaged { &changed } else { bytes };
                        fs::write(path.join(file.file_name().unwrap()), bytes).unwrap();
                    }
                    let name = damaged.file_name().unwrap();
                    let damage =
                        format!("{change:?} at {spot} of {name:?}, seed {seed}, closed {closed}");
                    refusals += u32::from(refused(&path, &wanted, &damage));
                }
                println!("{damaged:?}, closed {closed}: {refusals} of {count} refused");
                assert!(refusals > 0);
            }
        }
    }
}

fn put(len: usize) -> Batch {
    let mut batch = Batch::new();
    batch.put(Key::default(), vec![7; len].into());
    batch
}

fn refusal(path: &Path) -> StoreError {
    let error = DiskStore::open(path, Durability::Process).expect_err("is refused");
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    error
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let place = Place::new();
    let file = place.join("file");
    fs::write(&file, "text").unwrap();
    assert!(matches!(refusal(&file), StoreError::Foreign { .. }));
    assert_eq!(fs::read(&file).unwrap(), b"text");
    // A directory with files of somebody else, some of names like ours.
    for name in ["notes.txt", "store"] {
        let dir = place.join(&format!("dir of {name}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(name), "text").unwrap();
        assert!(matches!(refusal(&dir), StoreError::Foreign { .. }));
        assert_eq!(files(&dir), [(dir.join(name), b"text".to_vec())]);
    }
    // Our mark, and a database of somebody else.
    let dir = place.join("dir");
    drop(open(&dir));
    fs::write(
        dir.join("sessions.redb"),
        [b"SQLite format 3\0".as_slice(), &[0; 8000]].concat(),
    )
    .unwrap();
    assert!(matches!(refusal(&dir), StoreError::Damaged { .. }));
}

#[test]
fn a_store_without_one_of_its_files_is_refused() {
    for name in ["store", "sessions.redb"] {
        let place = Place::new();
        let path = place.join("store");
        open(&path).commit(b"t", &put(10)).unwrap();
        fs::remove_file(path.join(name)).unwrap();
        let error = refusal(&path);
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("missing"), "{error}");
    }
}

#[test]
fn a_store_of_another_format_is_refused_and_left_alone() {
    let place = Place::new();
    let path = place.join("store");
    drop(open(&path));
    fs::write(path.join("store"), "rsocket-core resume store\nformat 2\n").unwrap();
    let before = files(&path);
    let error = refusal(&path);
    assert!(
        matches!(
            error,
            StoreError::Format {
                found: 2,
                ours: 1,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(files(&path) == before);
}

#[test]
fn what_a_process_left_of_a_store_that_it_was_making_is_made_anew() {
    let place = Place::new();
    let path = place.join("store");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("store"), "").unwrap();
    fs::write(path.join("sessions.new"), "the first half").unwrap();
    open(&path).commit(b"t", &put(10)).unwrap();
    assert_eq!(open(&path).tokens().unwrap(), ["t"]);
    // Killed between the last two steps: the database is there, unmarked.
    fs::write(path.join("store"), "").unwrap();
    assert_eq!(open(&path).tokens().unwrap(), ["t"]);
}

#[test]
fn a_store_in_use_is_refused_until_it_is_dropped() {
    let place = Place::new();
    let path = place.join("store");
    let store = open(&path);
    let error = refusal(&path);
    assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
    store.commit(b"t", &put(10)).unwrap();
    drop(store);
    assert_eq!(open(&path).tokens().unwrap(), ["t"]);
}

#[cfg(unix)]
#[test]
fn nobody_but_the_owner_may_read_a_store() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let place = Place::new();
    let path = place.join("a/b");
    let _store = open(&path);
    assert_eq!(mode(&place.join("a")), 0o700);
    assert_eq!(mode(&path), 0o700);
    for (file, _) in files(&path) {
        assert_eq!(mode(&file), 0o600, "{file:?}");
    }
}

#[test]
fn tokens_stay_out_of_names_and_logs() {
    let place = Place::new();
    let path = place.join("store");
    let store = open(&path);
    let before: Vec<_> = fs::read_dir(&place.0)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    store.commit(b"../../escaped", &put(10)).unwrap();
    let after: Vec<_> = fs::read_dir(&place.0)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(before, after);
    assert_eq!(files(&path).len(), 2);
    assert!(!format!("{store:?}").contains("escaped"));
}

fn size(path: &Path) -> usize {
    files(path).iter().map(|(_, bytes)| bytes.len()).sum()
}

#[test]
fn rows_written_and_deleted_again_and_again_do_not_make_the_files_grow() {
    let place = Place::new();
    let path = place.join("store");
    let store = open(&path);
    let count = if std::env::var_os("RSOCKET_TEST_SLOW").is_some() {
        30_000
    } else {
        1500
    };
    let mut batch = Batch::new();
    for n in 0..count {
        batch.clear();
        batch.put(Key::new(0, 0, 0), Bytes::from(vec![1; 100]));
        batch.put(Key::new(1, 0, n), Bytes::from(vec![2; 100]));
        batch.delete_range(Key::new(1, 0, 0)..Key::new(1, 0, u64::saturating_sub(n, 31)));
        store.commit(b"t", &batch).unwrap();
    }
    assert_eq!(store.load(b"t").unwrap().unwrap().len(), 33);
    let open_size = size(&path);
    drop(store);
    println!(
        "{open_size} bytes after {count} commits, {} when closed",
        size(&path)
    );
    assert!(open_size < 2 << 20);
}

#[test]
fn what_a_removed_session_took_is_used_again() {
    let place = Place::new();
    let path = place.join("store");
    let store = open(&path);
    let mut sizes = Vec::new();
    for n in 0..30_u8 {
        for row in 0..10 {
            let mut batch = Batch::new();
            batch.put(Key::new(0, 0, row), vec![n; 100_000].into());
            store.commit(&[n], &batch).unwrap();
        }
        store.remove(&[n]).unwrap();
        sizes.push(size(&path));
    }
    // Each session had 1 MB; one more is for what was not yet freed.
    assert!(sizes.iter().all(|size| *size < 5 << 20), "{sizes:?}");
    drop(store);
    assert!(size(&path) < 1 << 20, "{}", size(&path));
}

#[test]
fn threads_may_commit_at_once() {
    let place = Place::new();
    let path = place.join("store");
    let store = open(&path);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..50 {
                    let mut batch = Batch::new();
                    batch.put(Key::new(thread, 0, n), Bytes::from_static(b"row"));
                    store.commit(&[b'o', thread], &batch).unwrap();
                    store.commit(b"shared", &batch).unwrap();
                }
            });
        }
    });
    drop(store);
    let store = open(&path);
    assert_eq!(store.tokens().unwrap().len(), 5);
    assert_eq!(store.load(b"shared").unwrap().unwrap().len(), 200);
    assert_eq!(store.load(&[b'o', 3]).unwrap().unwrap().len(), 50);
}
