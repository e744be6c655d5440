//! What the other process does.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rsocket_core::{
    testkit::Random,
    transport::{Connector as _, FrameRx, FrameTx, Link, Listener as _, Received},
};
use rsocket_transport_shm::{ShmAddress, ShmConnector, ShmListener, ShmOptions};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::common::*;

const ROLE: &str = "RSOCKET_SHM_TEST_ROLE";

/// The entry of processes in a role; as a test, it does nothing.
#[test]
fn a_role_is_played() {
    let Ok(line) = std::env::var(ROLE) else {
        return;
    };
    let words: Vec<_> = line.split(' ').collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match words[..] {
            ["pump", address] => pump(connect(address).await, 1).await,
            ["pump-server", address] => pump(accept(address).await, 2).await,
            ["echo", address] => echo(accept(address).await).await,
            ["serve", address] => serve(address).await,
            ["lie", address, seed] => crate::liar::lie(address, seed.parse().unwrap()).await,
            ["one-core", spin] => crate::machine::one_core(spin).await,
            ["no-room", address] => no_room(address).await,
            ["no-room-server", address] => no_room_server(address).await,
            ["full-disk", address] => full_disk(address).await,
            ["full-disk-server", address] => full_disk_server(address).await,
            _ => panic!("no role: {line}"),
        }
    });
}

/// The address in a line: a directory's begins with `dir:`.
fn address(text: &str) -> ShmAddress {
    match text.strip_prefix("dir:") {
        Some(path) => ShmAddress::directory(path),
        None => text.into(),
    }
}

/// A process in a role, which does not outlive its test.
pub(crate) struct Actor {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Actor {
    pub(crate) fn start(role: &str) -> Self {
        Self::start_by(Command::new(std::env::current_exe().unwrap()), role)
    }

    /// One whom the system does not kill for writing too long a file.
    pub(crate) fn start_unlimited(role: &str) -> Self {
        let mut shell = Command::new("sh");
        // What a shell ignores, the program that takes its place ignores, too.
        shell.args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#]);
        shell.arg(std::env::current_exe().unwrap());
        Self::start_by(shell, role)
    }

    fn start_by(mut command: Command, role: &str) -> Self {
        let mut child = command
            .args(["--exact", "role::a_role_is_played", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The next line that begins with `>`, without it.
    pub(crate) fn says(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                self.lines.read_line(&mut line).unwrap() > 0,
                "it said nothing"
            );
            // The test's name may stand before it.
            if let Some((_, said)) = line.split_once("> ") {
                return said.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn say(line: &str) {
    println!("> {line}");
}

/// Waits for a server that has just been started.
pub(crate) async fn connect(address: &str) -> Link {
    connect_with(address, ShmOptions::new()).await
}

pub(crate) async fn connect_with(text: &str, options: ShmOptions) -> Link {
    let connector = ShmConnector::new(address(text)).options(options);
    let begin = Instant::now();
    loop {
        match connector.connect().await {
            Ok(link) => return link,
            Err(error) => assert!(
                begin.elapsed() < Duration::from_secs(30),
                "{}",
                chain(&error)
            ),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn accept(text: &str) -> Link {
    let mut listener = ShmListener::bind(address(text)).await.unwrap();
    let link = listener.accept().await.unwrap().await.unwrap();
    // The socket's file is to be found by whoever comes after us, if we are
    // killed.
    std::mem::forget(listener);
    link
}

/// Meets whoever comes, and keeps all links.
async fn serve(text: &str) {
    let mut listener = ShmListener::bind(address(text)).await.unwrap();
    let mut links = Vec::new();
    loop {
        if let Ok(link) = listener.accept().await.unwrap().await {
            links.push(link);
        }
    }
}

/// Sends and receives for as long as it goes.
async fn pump(link: Link, seed: u64) {
    let (tx, rx) = link.split();
    let _ = tokio::join!(send_all(tx, seed), receive_all(rx));
}

/// Sends frames of random lengths until the link is lost.
pub(crate) async fn send_all(
    mut tx: Box<dyn FrameTx>,
    seed: u64,
) -> rsocket_core::transport::TransportError {
    let mut random = Random::new(seed);
    let frame = pattern(1 << 20, 1);
    loop {
        let frame = frame.get(..random.length(frame.len())).unwrap();
        if let Err(error) = send(&mut *tx, frame).await {
            return error;
        }
        if random.once_in(4)
            && let Err(error) = flush(&mut *tx).await
        {
            return error;
        }
        // A link that is never full would keep the others from their turns.
        tokio::task::yield_now().await;
    }
}

/// Receives frames until the link is lost: how many, and why.
pub(crate) async fn receive_all(
    mut rx: Box<dyn FrameRx>,
) -> (
    usize,
    Result<Received, rsocket_core::transport::TransportError>,
) {
    let mut count = 0;
    loop {
        let polled = std::future::poll_fn(|cx| {
            rx.poll_recv(cx, &mut |_| {
                count += 1;
                std::ops::ControlFlow::Continue(())
            })
        });
        match polled.await {
            Ok(Received::Frames) => tokio::task::yield_now().await,
            end => return (count, end),
        }
    }
}

/// Sends back each frame.
async fn echo(link: Link) {
    let (mut tx, mut rx) = link.split();
    while let Ok(frames) = recv(&mut *rx, 1).await {
        let Some(frame) = frames.first() else { break };
        if send(&mut *tx, frame).await.is_err() || flush(&mut *tx).await.is_err() {
            break;
        }
    }
}

/// Memory for one more link of this kind is what a process in this role lacks.
fn large() -> ShmOptions {
    ShmOptions::new().arena_len(128 << 20)
}

fn limit_memory() {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split(' ').next().unwrap().parse().unwrap();
    let room = 64 << 20;
    let maximum = getrlimit(Resource::As).maximum;
    let current = Some(pages * 4096 + room);
    setrlimit(Resource::As, Rlimit { current, maximum }).unwrap();
}

async fn no_room(address: &str) {
    limit_memory();
    let connector = ShmConnector::new(address).options(large());
    let error = connector.connect().await.unwrap_err();
    say(&format!("{:?} {}", error.kind(), chain(&error)));
}

async fn no_room_server(address: &str) {
    let mut listener = ShmListener::bind_with(address, large()).await.unwrap();
    limit_memory();
    for _ in 0..2 {
        let accepted = listener.accept().await.unwrap().await;
        say(&chain(&accepted.unwrap_err()));
    }
}

/// As with a file system that has room for a few files and for no region.
fn limit_files() {
    let maximum = getrlimit(Resource::Fsize).maximum;
    let current = Some(64 << 10);
    setrlimit(Resource::Fsize, Rlimit { current, maximum }).unwrap();
}

async fn full_disk(text: &str) {
    limit_files();
    let error = ShmConnector::new(address(text)).connect().await;
    let error = error.unwrap_err();
    say(&format!("{:?} {}", error.kind(), chain(&error)));
}

async fn full_disk_server(text: &str) {
    let mut listener = ShmListener::bind(address(text)).await.unwrap();
    limit_files();
    for _ in 0..2 {
        let accepted = listener.accept().await.unwrap().await;
        say(&chain(&accepted.unwrap_err()));
    }
    // What there is then is looked at.
    std::future::pending().await
}
