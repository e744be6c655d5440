//! Cores, clocks, memory, and the name of the machine.

use std::fs;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// What a reader must know to place the figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many of them the system sees.
    pub cpus: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The compiler that built this program.
    pub rustc: String,
    /// The commit of the tree; "+" when it has changes on top.
    pub commit: String,
}

impl Machine {
    /// Reads it from the running system.
    #[must_use]
    pub fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .and_then(|rest| rest.split_once(':'))
            .map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu,
            cpus: thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            rustc: env!("BENCH_RUSTC").to_owned(),
            commit: commit(),
        }
    }
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-C", env!("CARGO_MANIFEST_DIR")])
            .args(arguments)
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "none".to_owned();
    };
    let dirty = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    if dirty { hash + "+" } else { hash }
}

/// Keeps the calling thread, and all threads that it starts later, on one core.
///
/// # Errors
///
/// When the system has no such core or does not let us have it.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core).with_context(|| format!("core {core}"))?;
    // Pid 0 is the calling thread.
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pinning to core {core}"))
}

/// CPU time that process `pid` has used so far, user and system, all threads.
///
/// # Errors
///
/// When there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.cast_signed()))
        .with_context(|| format!("CPU clock of process {pid}"))?;
    Ok(clock.now()?.into())
}

/// CPU time that the calling thread has used so far.
///
/// # Errors
///
/// When the system has no such clock.
pub fn thread_cpu_time() -> Result<Duration> {
    Ok(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?.into())
}

/// Resident memory of process `pid`, in bytes.
///
/// # Errors
///
/// When there is no such process.
pub fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .context("no VmRSS")?
        .parse()?;
    Ok(kib * 1024)
}

/// What some cores have done since the system started, in clock ticks.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    /// Work of any process, without interrupts.
    busy: u64,
    /// Time that the host gave to somebody else.
    stolen: u64,
    /// All time.
    all: u64,
    /// Work of this process and of its children that have ended.
    ours: u64,
}

/// What share of the cores' time was not ours.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Disturbance {
    /// Share that other processes worked, 0..=1.
    pub others: f64,
    /// Share that the host gave to other machines, 0..=1.
    pub stolen: f64,
}

impl Ticks {
    /// The counters of `cores` at this moment.
    ///
    /// # Errors
    ///
    /// When the system does not tell.
    pub fn now(cores: [usize; 2]) -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let mut ticks = Self {
            busy: 0,
            stolen: 0,
            all: 0,
            ours: 0,
        };
        for core in cores {
            let name = format!("cpu{core} ");
            let line = stat.lines().find_map(|line| line.strip_prefix(&name));
            let line = line.with_context(|| format!("no core {core}"))?;
            // user nice system idle iowait irq softirq steal; guests are in user.
            let fields = numbers(line.split_whitespace().take(8))?;
            let [user, nice, system, _, _, _, _, steal] = fields[..] else {
                anyhow::bail!("{} times of core {core}", fields.len());
            };
            ticks.busy += user + nice + system;
            ticks.stolen += steal;
            ticks.all += fields.iter().sum::<u64>();
        }
        let own = fs::read_to_string("/proc/self/stat")?;
        // The name, which may hold anything, ends with the last parenthesis.
        let (_, fields) = own.rsplit_once(')').context("no name")?;
        // utime stime cutime cstime are fields 14 to 17; the first here is 3.
        ticks.ours = numbers(fields.split_whitespace().skip(11).take(4))?
            .iter()
            .sum();
        Ok(ticks)
    }

    /// What happened from `before` to now.
    #[must_use]
    pub fn since(self, before: Self) -> Disturbance {
        let all = (self.all - before.all).max(1) as f64;
        let ours = self.ours - before.ours;
        Disturbance {
            others: (self.busy - before.busy).saturating_sub(ours) as f64 / all,
            stolen: (self.stolen - before.stolen) as f64 / all,
        }
    }
}

fn numbers<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<u64>> {
    words.map(|word| Ok(word.parse()?)).collect()
}

/// On a cache line, and a pair of lines that is fetched together, of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

/// Time for a cache line to go from one core to another and back, in
/// nanoseconds: the median of several rounds. It tells how near the two cores
/// are, which a virtual machine may change at any time.
///
/// # Errors
///
/// When a core cannot be had. One core is no place to spin for each other, so
/// that is an error too.
pub fn cache_line_round_trip(cores: [usize; 2]) -> Result<f64> {
    // Short rounds, so that most of them pass without an interruption.
    const ROUNDS: usize = 201;
    const TRIPS: u64 = 250;

    anyhow::ensure!(cores[0] != cores[1], "both sides are on core {}", cores[0]);
    let (ping, pong) = (Line::default(), Line::default());
    let pinned = AtomicU64::new(0);
    let start = Barrier::new(2);
    let arrive = |core| {
        let result = pin(core);
        if result.is_ok() {
            pinned.fetch_add(1, Ordering::Relaxed);
        }
        // The barrier orders the counter; nobody spins for a side that stays away.
        start.wait();
        result.map(|()| pinned.load(Ordering::Relaxed) == 2)
    };
    let echo = || -> Result<()> {
        if arrive(cores[0])? {
            for trip in 1..=TRIPS * ROUNDS as u64 {
                while ping.0.load(Ordering::Acquire) != trip {}
                pong.0.store(trip, Ordering::Release);
            }
        }
        Ok(())
    };
    let ask = || -> Result<Vec<f64>> {
        let mut rounds = Vec::with_capacity(ROUNDS);
        if arrive(cores[1])? {
            let mut trip = 0;
            for _ in 0..ROUNDS {
                let from = Instant::now();
                for _ in 0..TRIPS {
                    trip += 1;
                    ping.0.store(trip, Ordering::Release);
                    while pong.0.load(Ordering::Acquire) != trip {}
                }
                rounds.push(from.elapsed().as_nanos() as f64 / TRIPS as f64);
            }
        }
        Ok(rounds)
    };
    let (echoed, asked) = thread::scope(|scope| {
        let echo = scope.spawn(echo);
        let ask = scope.spawn(ask);
        (
            echo.join().expect("it cannot panic"),
            ask.join().expect("it cannot panic"),
        )
    });
    echoed?;
    let mut rounds = asked?;
    anyhow::ensure!(!rounds.is_empty(), "core {} cannot be had", cores[0]);
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[rounds.len() / 2])
}
