//! The `cold` example as its users would have it: killed at any moment, as often
//! as one likes, and every item is where it belongs exactly once.
//!
//! `RSOCKET_TEST_SLOW=1` kills it 200 times instead of 10;
//! `RSOCKET_TEST_SEED=n` chooses the moments.
#![expect(clippy::unwrap_used, reason = "a test that panics fails, as it should")]

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rsocket_core::testkit::Random;

/// Ends the process with the test.
struct Process(Child);

impl Process {
    fn start(args: &[&str]) -> (Self, BufReader<ChildStdout>) {
        let mut child = Command::new(program())
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        (Self(child), BufReader::new(stdout))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill(); // SIGKILL
        let _ = self.0.wait();
    }
}

/// Cargo builds examples for tests, but tells nobody where.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples").join("cold");
    assert!(program.exists(), "first: cargo build --example cold");
    program
}

fn lines(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines();
    lines.map(|line| line.parse().unwrap_or(u64::MAX)).collect()
}

// [C281] [C283] [C286] [C292]
#[test]
fn a_client_that_is_killed_again_and_again_has_every_item_once_and_in_order() {
    let slow = std::env::var_os("RSOCKET_TEST_SLOW").is_some();
    let kills: u64 = if slow { 200 } else { 10 };
    let seed = std::env::var("RSOCKET_TEST_SEED").ok();
    let seed = seed.map_or_else(
        || u64::from(std::process::id()),
        |seed| seed.parse().unwrap(),
    );
    println!("RSOCKET_TEST_SEED={seed}");
    let mut random = Random::new(seed);

    let dir =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cold-{}", std::process::id()));
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (server_dir, client_dir) = (at("server"), at("client"));
    let (_server, mut said) = Process::start(&[
        "--serve",
        "--url",
        "tcp://127.0.0.1:0",
        "--dir",
        &server_dir,
    ]);
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap().to_owned();

    let items = (kills * 150).to_string();
    let args = ["--url", &url, "--dir", &client_dir, "--items", &items];
    let progress = || lines(&Path::new(&client_dir).join("streamed")).len();
    let started = Instant::now();
    let (mut moved, mut in_time) = (0, 0);
    for _ in 0..kills {
        let before = progress();
        let (process, said) = Process::start(&args);
        let mut said = said.lines();
        // Half of them when they are known to be at work, the others whenever.
        if random.once_in(2) {
            in_time += u64::from(said.any(|line| line.unwrap() == "going on"));
        }
        std::thread::sleep(Duration::from_micros(random.within(0..=40_000) as u64));
        drop(process);
        assert!(
            said.all(|line| line.unwrap() != "finished"),
            "too few items"
        );
        moved += u64::from(progress() > before);
    }
    let killed = started.elapsed();
    let left = progress();
    let (mut last, mut said) = Process::start(&args);
    let mut all = String::new();
    std::io::Read::read_to_string(&mut said, &mut all).unwrap();
    assert!(last.0.wait().unwrap().success(), "{all}");

    println!(
        "{kills} kills in {killed:?}, {in_time} when known to be at work, {moved} lives that got on; \
         {left} of {items} items by then, all after {:?}",
        started.elapsed()
    );
    let items: u64 = items.parse().unwrap();
    let whole = |path: &str, step: usize| {
        let got = lines(Path::new(path));
        let wanted = (0..items).step_by(step);
        if let Some((at, (got, wanted))) = got
            .iter()
            .copied()
            .zip(wanted.clone())
            .enumerate()
            .find(|(_, (got, wanted))| got != wanted)
        {
            panic!("{path}: line {at} is {got}, not {wanted}");
        }
        assert_eq!(got.len(), wanted.count(), "{path}");
    };
    whole(&format!("{client_dir}/streamed"), 1);
    whole(&format!("{client_dir}/echoed"), 10);
    whole(&format!("{server_dir}/received"), 1);
    assert!(moved > 0 && left > 0, "it was never killed at work");
    std::fs::remove_dir_all(&dir).unwrap();
}
