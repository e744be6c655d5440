//! What this machine is doing, from `/proc`; elsewhere, how late timers fire.

use std::{
    collections::VecDeque,
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

/// Quick enough to look live, at next to no cost.
const INTERVAL: Duration = Duration::from_millis(50);
/// Rates are over half a second: the kernel counts CPU time in steps of 10 ms.
const WINDOW: usize = 10;

/// One look at the machine. What could not be read is missing.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sample {
    /// Milliseconds since 1970.
    at: u64,
    /// How much later than asked for the timer fired that took this sample, in
    /// microseconds: what everything here waits, at the least.
    late: u64,
    /// How busy all cores were together, in percent.
    cpu: Option<f64>,
    /// Context switches per second.
    switches: Option<f64>,
    /// Memory in use, and all there is, in bytes.
    memory: Option<(u64, u64)>,
    /// Tasks that ran or wanted to, on average over the last minute.
    load: Option<f64>,
    /// Memory of this very process, in bytes.
    server: Option<u64>,
}

/// Takes samples for as long as anybody watches.
pub(super) fn watch() -> watch::Receiver<Sample> {
    let (newest, watched) = watch::channel(Sample::default());
    tokio::spawn(async move {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut past = VecDeque::new();
        while !newest.is_closed() {
            let due = ticks.tick().await;
            let late = due.elapsed();
            past.push_back((Instant::now(), Counters::read()));
            newest.send_replace(sample(late, &past));
            if past.len() > WINDOW {
                past.pop_front();
            }
        }
    });
    watched
}

fn sample(late: Duration, past: &VecDeque<(Instant, Option<Counters>)>) -> Sample {
    let mut sample = Sample {
        at: millis(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        ),
        late: u64::try_from(late.as_micros()).unwrap_or(u64::MAX),
        memory: memory(),
        load: load(),
        server: server(),
        ..Sample::default()
    };
    if let (Some((then, Some(old))), Some((now, Some(new)))) = (past.front(), past.back())
        && now > then
    {
        let all = new.all.saturating_sub(old.all);
        let busy = all.saturating_sub(new.idle.saturating_sub(old.idle));
        sample.cpu = Some(100.0 * ratio(busy, all.max(1)));
        let switches = new.switches.saturating_sub(old.switches);
        sample.switches = Some(ratio(switches, 1) / (*now - *then).as_secs_f64());
    }
    sample
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "for people to look at")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// What `/proc/stat` counted since the machine started.
struct Counters {
    /// CPU time of all kinds, and of none, in the kernel's ticks.
    all: u64,
    idle: u64,
    switches: u64,
}

impl Counters {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let times = numbers(&stat, "cpu ");
        // user nice system idle iowait irq softirq steal; guests are within user.
        let all = times.iter().take(8).sum();
        let idle = times.iter().skip(3).take(2).sum();
        let switches = *numbers(&stat, "ctxt ").first()?;
        Some(Self {
            all,
            idle,
            switches,
        })
    }
}

fn memory() -> Option<(u64, u64)> {
    let memory = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |name| numbers(&memory, name).first().copied();
    let (total, free) = (kib("MemTotal:")?, kib("MemAvailable:")?);
    Some((total.saturating_sub(free) * 1024, total * 1024))
}

fn load() -> Option<f64> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    load.split_whitespace().next()?.parse().ok()
}

fn server() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(numbers(&status, "VmRSS:").first()? * 1024)
}

/// The numbers of the line that starts with `name`.
fn numbers(text: &str, name: &str) -> Vec<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let words = line.unwrap_or_default().split_whitespace();
    words.map_while(|word| word.parse().ok()).collect()
}
