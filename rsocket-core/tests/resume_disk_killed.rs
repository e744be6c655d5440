//! Processes killed at any instant: what a commit said is there, and whole.
//!
//! `RSOCKET_TEST_SLOW=1` kills 200 times instead of 20.
#![cfg(feature = "disk-store")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "what is wrong with a test fails it"
)]

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use bytes::Bytes;
use rsocket_core::{
    resume::{Batch, DiskStore, Durability, Key, ResumeStore, StoreError},
    testkit::{Random, seeds},
};

/// Where the child's store is, and its durability.
const PATH: &str = "RSOCKET_TEST_STORE";
const SYNC: &str = "RSOCKET_TEST_STORE_SYNC";

/// Two sessions, of which the second comes and goes.
const STAYS: &[u8] = b"stays";
const GOES: &[u8] = b"comes and goes";

/// How many of the counters before the last have a row of their own.
const LOG: u64 = 8;

/// What a row holds when the counter is `count`: of a length, and of bytes,
/// that another counter does not have.
fn value(count: u64, row: u64) -> Bytes {
    let mut random = Random::new(count * 8 + row);
    let len = random.length(3000);
    let mut value = count.to_le_bytes().to_vec();
    value.extend(random.bytes(len));
    value.into()
}

/// The rows of a session whose last commit was the `count`th.
fn rows(count: u64) -> Vec<(Key, Bytes)> {
    let fixed = (0..3).map(|row| (Key::new(0, row, 0), value(count, row)));
    let log = count.saturating_sub(LOG - 1).max(1)..=count;
    let log = log.map(|count| (Key::new(1, 0, count), value(count, 7)));
    fixed.chain(log).collect()
}

/// What brings a session to `rows(count)`, from the rows before or from nothing.
fn step(count: u64) -> Batch {
    let mut batch = Batch::new();
    let old = Key::new(1, 0, 0)..Key::new(1, 0, count.saturating_sub(LOG - 1));
    batch.delete_range(old);
    for (key, value) in rows(count) {
        batch.put(key, value);
    }
    batch
}

/// Whether the second session is there after the `count`th commit.
fn is_there(count: u64) -> bool {
    !count.is_multiple_of(7)
}

/// The counter that a session's rows belong to; 0 if there is no session.
///
/// Fails if the rows are not exactly those of one counter.
fn counter(store: &DiskStore, token: &[u8], context: &str) -> u64 {
    let Some(found) = store.load(token).unwrap() else {
        return 0;
    };
    let (_, first) = found.first().expect("a session has rows");
    let count = u64::from_le_bytes(first.get(..8).unwrap().try_into().unwrap());
    assert!(found == rows(count), "torn at {count}, {context}");
    count
}

#[test]
#[ignore = "the child that is killed; does nothing alone"]
fn commits_until_killed() {
    let Some(path) = env::var_os(PATH) else {
        return;
    };
    let durability = match env::var_os(SYNC) {
        Some(_) => Durability::Disk,
        None => Durability::Process,
    };
    let store = DiskStore::open(path, durability).unwrap();
    let mut count = counter(&store, STAYS, "in the child");
    // The child before may have been killed between the two sessions.
    let goes = counter(&store, GOES, "in the child");
    if !is_there(count) {
        store.remove(GOES).unwrap();
    } else if goes != count {
        store.commit(GOES, &step(count)).unwrap();
    }
    let mut out = std::io::stdout().lock();
    // The test harness has begun a line.
    writeln!(out).unwrap();
    loop {
        count += 1;
        store.commit(STAYS, &step(count)).unwrap();
        if is_there(count) {
            store.commit(GOES, &step(count)).unwrap();
        } else {
            store.remove(GOES).unwrap();
        }
        // One write, so that what is read is whole or not there.
        out.write_all(format!("committed {count}\n").as_bytes())
            .unwrap();
        out.flush().unwrap();
    }
}

/// Starts a child, kills it after `reports` and `delay`, and returns the last
/// commit that it reported, if any.
fn kill(path: &Path, sync: bool, reports: usize, delay: Duration) -> Option<u64> {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "commits_until_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(PATH, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if sync {
        command.env(SYNC, "1");
    }
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut reported = lines.map_while(Result::ok).filter_map(|line| {
        let count = line.strip_prefix("committed ")?;
        Some(count.parse::<u64>().expect("one write is read whole"))
    });
    // Otherwise `last` would wait for the child to end.
    let before = if reports == 0 {
        None
    } else {
        reported.by_ref().take(reports).last()
    };
    assert!(
        before.is_some() || reports == 0,
        "the child ended by itself"
    );
    if before.is_some() {
        let refused = DiskStore::open(path, Durability::Process);
        assert!(
            matches!(refused, Err(StoreError::InUse { .. })),
            "{refused:?}"
        );
    }
    // Not to wait for something: to hit any instant of what the child does.
    thread::sleep(delay);
    child.kill().unwrap();
    let after = reported.last();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), None, "the child ended by itself");
    after.or(before)
}

#[test]
fn what_a_killed_process_committed_is_there_and_whole() {
    let rounds = if env::var_os("RSOCKET_TEST_SLOW").is_some() {
        200
    } else {
        20
    };
    for seed in seeds(1) {
        let mut random = Random::new(seed);
        let path = env::temp_dir().join(format!("rsocket-killed-{}-{seed}", std::process::id()));
        let (mut commits, mut opening, mut unreported, mut longest) = (0, 0, 0, 0);
        // Where the two sessions were before the round.
        let (mut start, mut goes_before) = (0, 0);
        for round in 0..rounds {
            // From nothing now and then, so that making a store is hit as well.
            if round % 10 == 0 {
                let _ = fs::remove_dir_all(&path);
                (start, goes_before) = (0, 0);
            }
            let sync = random.once_in(3);
            let early = random.once_in(4);
            let reports = if early { 0 } else { random.length(60) };
            let delay = random.length(if early { 30_000 } else { 3000 });
            let delay = Duration::from_micros(delay as u64);
            let reported = kill(&path, sync, reports, delay);
            let last = reported.unwrap_or(start);

            let context = format!("round {round}, seed {seed}, reported {last}");
            let store = DiskStore::open(&path, Durability::Process)
                .unwrap_or_else(|error| panic!("{error}, {context}"));
            let stays = counter(&store, STAYS, &context);
            let goes = counter(&store, GOES, &context);
            let wanted = |count| if is_there(count) { count } else { 0 };
            let possible = [
                // Before it reports, a child brings the second session up to
                // the first.
                (
                    last,
                    if reported.is_none() {
                        goes_before
                    } else {
                        wanted(last)
                    },
                ),
                (last, wanted(last)),
                (last + 1, wanted(last)),
                (last + 1, wanted(last + 1)),
            ];
            assert!(
                possible.contains(&(stays, goes)),
                "{stays} and {goes}, {context}"
            );

            commits += 2 * (stays - start);
            opening += u32::from(reported.is_none());
            unreported += u32::from(stays > last);
            longest = longest.max(files_len(&path));
            (start, goes_before) = (stays, goes);
        }
        println!(
            "{rounds} kills, {opening} of them before the first report, {commits} commits, \
             {unreported} times one more than reported, at most {longest} bytes of files"
        );
        assert!(commits > 0 && opening < rounds, "nothing was tried");
        fs::remove_dir_all(&path).unwrap();
    }
}

fn files_len(path: &Path) -> u64 {
    let entries = fs::read_dir(path).unwrap();
    entries
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum()
}
