//! Round trips between two processes that pause at random, and whether each
//! wake-up arrives: `cargo bench -p rsocket-transport-shm --bench trips --
//! --trips 100000000 --seed 1`.
//!
//! Not for its figures. Pauses of all lengths bring both sides into every state
//! between looking at memory and sleep, at every distance from the other's. Most
//! trips have none, so that there can be many. [`Spin::Adaptive`], the default,
//! makes all the trips that are asked for, half of them in each of tokio's
//! runtimes; [`Spin::Sleep`] makes a hundredth of them besides.
//!
//! A wake-up that is lost for good is found by the watchdog, which says what each
//! side was about to do, and the program fails. One that is made up for later, by
//! the periodic look of a connection's driver (20 ms), shows as a trip that takes
//! longer than [`LATE`] though nobody paused. So does a process that waited for a
//! processor; but then the kernel says so. What it cannot explain fails, too.
//! Hence give it a machine that does little else.
//!
//! [`Spin::Adaptive`]: rsocket_transport_shm::Spin::Adaptive
//! [`Spin::Sleep`]: rsocket_transport_shm::Spin::Sleep

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a program that fails is what this is for"
)]

use std::{
    fmt,
    io::{BufRead as _, BufReader, Write},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rsocket_core::{Handlers, Payload, Requester, testkit::Random, transport::Transports};
use tokio::runtime::{Builder, Runtime};

/// The role of the other process: its runtime, its seed and its URL.
const SERVE: &str = "RSOCKET_TRIPS_SERVE";

/// No trip for that long, and something is lost: the longest pause is 4 ms.
const STALLED: Duration = Duration::from_secs(5);

/// Longer than a trip without pauses takes, and shorter than the driver's look.
const LATE: Duration = Duration::from_millis(15);

/// Trips between two looks at what the kernel counts.
const SAMPLE: u64 = 4096;

/// How many frames a request has in flight beside it, now and then.
const MOST_IN_FLIGHT: usize = 8;

const REPORT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(SERVE) {
        serve(&role);
        return ExitCode::SUCCESS;
    }
    let (mut trips, mut seed) = (1_000_000_u64, 1_u64);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|arg| arg.parse().ok());
        match (arg.as_str(), &mut trips, &mut seed) {
            ("--trips", place, _) | ("--seed", _, place) => match number() {
                Some(n) => *place = n,
                None => return usage(),
            },
            ("--bench", ..) => {} // Which cargo adds.
            _ => return usage(),
        }
    }
    let mut lost = 0;
    for (spin, trips) in [("adaptive", trips / 2), ("sleep", trips / 200)] {
        for flavour in ["current-thread", "multi-thread"] {
            lost += run(spin, flavour, trips.max(1), seed);
        }
    }
    println!("{lost} wake-ups were lost, seed {seed}");
    ExitCode::from(u8::from(lost > 0))
}

fn usage() -> ExitCode {
    eprintln!("trips [--trips NUMBER] [--seed NUMBER]");
    ExitCode::from(2)
}

fn runtime(flavour: &str) -> Runtime {
    let mut builder = match flavour {
        "multi-thread" => Builder::new_multi_thread(),
        _ => Builder::new_current_thread(),
    };
    builder.enable_all().build().unwrap()
}

fn transports() -> Transports {
    let mut transports = Transports::new();
    rsocket_transport_shm::register(&mut transports);
    transports
}

/// What a process is about to do, to be told if nothing happens any more.
#[derive(Default)]
struct State {
    stage: AtomicU8,
    trips: AtomicU64,
}

impl State {
    fn enter(&self, stage: u8) {
        self.stage.store(stage, Relaxed);
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage.load(Relaxed) {
            0 => "waits",
            1 => "spins in a pause",
            2 => "sleeps in a pause, with its thread",
            3 => "yields",
            _ => "sleeps in a pause, as a task",
        };
        write!(f, "{stage}, after {} trips", self.trips.load(Relaxed))
    }
}

/// Mostly nothing; else up to 50 µs, around which sides fall asleep, and up to
/// 4 ms once in a while. Each order of magnitude is as likely as the others.
async fn pause(random: &Mutex<Random>, state: &State) -> Duration {
    let (length, how) = {
        let mut random = random.lock().unwrap();
        // A task's sleep takes a millisecond at least.
        let (longest, ways) = match random.within(1..=4096) {
            1..=2 => (4_000_000, 4),
            3..=64 => (50_000, 3),
            _ => return Duration::ZERO,
        };
        let length = Duration::from_nanos(random.length(longest) as u64);
        (length, random.within(1..=ways) as u8)
    };
    state.enter(how);
    let begin = Instant::now();
    match how {
        1 => {
            while begin.elapsed() < length {
                std::hint::spin_loop();
            }
        }
        2 => std::thread::sleep(length),
        3 => tokio::task::yield_now().await,
        _ => tokio::time::sleep(length).await,
    }
    state.enter(0);
    begin.elapsed()
}

/// Sends back what it gets, and how long it paused before.
fn serve(role: &str) {
    let mut words = role.splitn(3, ' ');
    let (flavour, seed, url) = (
        words.next().unwrap(),
        words.next().unwrap(),
        words.next().unwrap(),
    );
    let random = Arc::new(Mutex::new(Random::new(!seed.parse::<u64>().unwrap())));
    let state = Arc::new(State::default());
    std::thread::spawn({
        let state = Arc::clone(&state);
        move || {
            for _ in std::io::stdin().lines().map_while(Result::ok) {
                eprintln!("the server {state}");
            }
            std::process::exit(0); // The client is gone.
        }
    });
    runtime(flavour).block_on(async {
        let listener = transports().listener(url).await.unwrap();
        println!("{}", listener.url());
        let served = rsocket_core::serve(listener, move |_, _| {
            let (random, state) = (Arc::clone(&random), Arc::clone(&state));
            async move {
                let handlers = Handlers::new().on_request_response(move |request: Payload| {
                    let (random, state) = (Arc::clone(&random), Arc::clone(&state));
                    async move {
                        let paused = pause(&random, &state).await;
                        state.trips.fetch_add(1, Relaxed);
                        let paused = (paused.as_nanos() as u64).to_le_bytes();
                        Ok(Payload::new(request.into_data()).with_metadata(paused.to_vec()))
                    }
                });
                Ok(handlers)
            }
        });
        served.await.unwrap();
    });
}

/// A server in a process of its own, which ends with this one.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(spin: &str, flavour: &str, seed: u64) -> Self {
        let url = format!("shm:@rsocket-trips-{}?spin={spin}", std::process::id());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(SERVE, format!("{flavour} {seed} {url}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut served = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut served).unwrap();
        // The settings of a listener's URL are its own.
        let url = format!("{}?spin={spin}", served.trim_end());
        Self { child, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the client has to tell.
struct Tally {
    /// Trips that took longer than [`LATE`].
    late: u64,
    /// Those of which the kernel does not say why.
    lost: u64,
    longest: Duration,
}

/// How many wake-ups were lost.
fn run(spin: &str, flavour: &str, trips: u64, seed: u64) -> u64 {
    let mut server = Server::start(spin, flavour, seed);
    let runtime = runtime(flavour);
    let connector = transports().connector(&server.url).unwrap();
    let client = runtime.block_on(rsocket_core::connect(connector)).unwrap();
    let state = Arc::new(State::default());
    let over = Arc::new(AtomicBool::new(false));
    let pid = server.child.id();
    let watchdog = std::thread::spawn({
        let (state, over) = (Arc::clone(&state), Arc::clone(&over));
        let (client, handle) = (client.clone(), runtime.handle().clone());
        let stdin = server.child.stdin.take().unwrap();
        let name = format!("{spin}, {flavour}");
        move || watch(&name, trips, &state, &over, &client, &handle, stdin, pid)
    });
    let begin = Instant::now();
    // A task, as requests of servers are.
    let tally = runtime.spawn({
        let state = Arc::clone(&state);
        async move { travel(&client, trips, seed, &state, pid).await }
    });
    let tally = runtime.block_on(tally).unwrap();
    over.store(true, Relaxed);
    watchdog.thread().unpark();
    watchdog.join().unwrap();
    println!(
        "{spin}, {flavour}: {trips} trips in {:.1} s, the longest {:.1} ms, {} over {LATE:?}, {} of \
         them for no reason",
        begin.elapsed().as_secs_f64(),
        tally.longest.as_secs_f64() * 1e3,
        tally.late,
        tally.lost,
    );
    tally.lost
}

async fn travel(client: &Requester, trips: u64, seed: u64, state: &State, server: u32) -> Tally {
    let random = Mutex::new(Random::new(seed));
    let mut tally = Tally {
        late: 0,
        lost: 0,
        longest: Duration::ZERO,
    };
    let mut delays = Delays::now(server);
    let mut done = 0;
    while done < trips {
        if done % SAMPLE < MOST_IN_FLIGHT as u64 {
            delays = Delays::now(server);
        }
        pause(&random, state).await;
        let (count, len) = {
            let mut random = random.lock().unwrap();
            let many = random.once_in(256);
            let long = random.once_in(4096);
            (
                if many {
                    random.within(2..=MOST_IN_FLIGHT)
                } else {
                    1
                },
                if long { random.length(300_000) } else { 24 },
            )
        };
        let begin = Instant::now();
        // All are sent before the first is awaited.
        let calls: Vec<_> = (0..count as u64)
            .map(|n| {
                let mut data = vec![7; 8 + len];
                data[..8].copy_from_slice(&(done + n).to_le_bytes());
                (done + n, client.request_response(Payload::new(data)))
            })
            .collect();
        let mut paused = Duration::ZERO;
        for (n, call) in calls {
            let answer = call.await.unwrap();
            let data = answer.data();
            assert!(
                data.len() == 8 + len && data[..8] == n.to_le_bytes(),
                "trip {n} got the answer of another"
            );
            let nanos = answer.metadata().unwrap().as_ref().try_into().unwrap();
            paused += Duration::from_nanos(u64::from_le_bytes(nanos));
        }
        let took = begin.elapsed().saturating_sub(paused);
        done += count as u64;
        state.trips.store(done, Relaxed);
        tally.longest = tally.longest.max(took);
        if took > LATE {
            let delayed = Delays::now(server).since(&delays);
            let is_lost = delayed < took / 2;
            tally.late += 1;
            tally.lost += u64::from(is_lost);
            if is_lost && tally.lost <= 10 {
                println!(
                    "trip {done}: {:.1} ms, {paused:?} of pauses left out, with {count} in flight; \
                     the machine explains {:.1} ms",
                    took.as_secs_f64() * 1e3,
                    delayed.as_secs_f64() * 1e3,
                );
            }
        }
    }
    tally
}

/// How long threads were runnable and did not run, as the kernel counts it.
struct Delays(Duration);

impl Delays {
    fn now(server: u32) -> Self {
        let own = std::process::id();
        Self(waited(own) + waited(server) + stolen())
    }

    fn since(&self, earlier: &Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

fn waited(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let nanos = tasks.into_iter().flatten().filter_map(|task| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        stat.split(' ').nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// By the machine that this one runs in.
fn stolen() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = stat.split_whitespace().nth(8).and_then(|n| n.parse().ok());
    // Counted in hundredths, of which one may be about to be full.
    Duration::from_millis(10 * ticks.unwrap_or(0))
}

/// Says how it goes, and when it does not go on.
#[expect(clippy::too_many_arguments, reason = "all that there is")]
fn watch(
    name: &str,
    trips: u64,
    state: &State,
    over: &AtomicBool,
    client: &Requester,
    handle: &tokio::runtime::Handle,
    mut server: impl Write,
    pid: u32,
) {
    let begin = Instant::now();
    let (mut last, mut moved, mut reported) = (0, begin, begin);
    while !over.load(Relaxed) {
        std::thread::park_timeout(Duration::from_millis(200));
        let done = state.trips.load(Relaxed);
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            let share = done as f64 / trips as f64;
            let left = begin.elapsed().as_secs_f64() * (1.0 - share) / share;
            println!(
                "{name}: {done} of {trips} trips, {:.0} %, {left:.0} s to go",
                100.0 * share
            );
        }
        if done != last || over.load(Relaxed) {
            (last, moved) = (done, Instant::now());
        } else if moved.elapsed() >= STALLED {
            eprintln!("{name}: a wake-up is lost: no trip for {STALLED:?}");
            eprintln!("the client {state}");
            let _ = writeln!(server, "?");
            for (side, pid) in [("client", std::process::id()), ("server", pid)] {
                print_threads(side, pid);
            }
            // Whether the link itself is sound, and what wakes what.
            let poke = async {
                let request = client.request_response(Payload::new(vec![0; 8]));
                tokio::time::timeout(Duration::from_secs(2), request).await
            };
            let answered = handle.block_on(poke).is_ok_and(|answer| answer.is_ok());
            let goes_on = state.trips.load(Relaxed) != done;
            eprintln!("another request is answered: {answered}; and the lost one then: {goes_on}");
            std::process::exit(1); // The server sees its input end.
        }
    }
}

/// Where in the kernel the threads of a process are.
fn print_threads(side: &str, pid: u32) {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    for task in tasks.into_iter().flatten().flatten() {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let status = read("status");
        let stands = status.lines().find(|line| line.starts_with("State"));
        eprintln!(
            "{side}, thread {}: {} in {}",
            read("comm").trim(),
            stands.unwrap_or("gone"),
            read("wchan"),
        );
    }
}
