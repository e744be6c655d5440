//! What the process holds over time, whether it grows, and a picture of it.

use std::{fmt::Write as _, fs};

use serde::Serialize;

/// What the process holds at one moment.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// Since the start of the load, in seconds.
    pub(crate) at: f64,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
    /// Bytes that were allocated and not freed.
    pub(crate) heap: u64,
    /// Open descriptors.
    pub(crate) descriptors: usize,
    /// Tasks of the runtime.
    pub(crate) tasks: usize,
    /// Requests that came to their end so far.
    pub(crate) requests: u64,
}

impl Sample {
    pub(crate) fn take(at: f64, heap: u64, requests: u64) -> Self {
        let handle = tokio::runtime::Handle::current();
        Self {
            at,
            resident: resident(),
            heap,
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            tasks: handle.metrics().num_alive_tasks(),
            requests,
        }
    }
}

/// 0 where there is no `/proc`.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(0, |kib| kib * 1024)
}

/// How much more the last quarter of a run may hold than its second quarter
/// does; the first warms up.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Rule {
    pub(crate) percent: f64,
    pub(crate) plus: u64,
}

impl Rule {
    /// 5 % and 2 MiB. In less than two minutes the allocator has not yet seen
    /// the worst of what is alive at once, and a quarter is too short for an
    /// average: there 50 % and 32 MiB, which finds only what pours out.
    pub(crate) fn of(seconds: f64) -> Self {
        if seconds >= 120.0 {
            Self {
                percent: 5.0,
                plus: 2 << 20,
            }
        } else {
            Self {
                percent: 50.0,
                plus: 32 << 20,
            }
        }
    }

    fn allows(&self, before: f64) -> f64 {
        before * (1.0 + self.percent / 100.0) + self.plus as f64
    }
}

/// Averages of two quarters of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quarters {
    pub(crate) second: f64,
    pub(crate) last: f64,
    pub(crate) flat: bool,
}

/// Whether what `of` tells is flat by `rule`.
pub(crate) fn quarters(samples: &[Sample], rule: Rule, of: impl Fn(&Sample) -> u64) -> Quarters {
    let quarter = samples.len() / 4;
    let average = |samples: &[Sample]| {
        let sum: f64 = samples.iter().map(|sample| of(sample) as f64).sum();
        sum / samples.len().max(1) as f64
    };
    let second = average(samples.get(quarter..2 * quarter).unwrap_or_default());
    let last = average(samples.get(samples.len() - quarter..).unwrap_or_default());
    Quarters {
        second,
        last,
        flat: last <= rule.allows(second),
    }
}

/// A column chart: time to the right, `of` upwards from 0.
pub(crate) fn chart(samples: &[Sample], title: &str, of: impl Fn(&Sample) -> u64) -> String {
    const WIDTH: usize = 72;
    const HEIGHT: usize = 8;
    const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

    let columns = WIDTH.min(samples.len());
    let values: Vec<u64> = (0..columns)
        .filter_map(|column| {
            let from = column * samples.len() / columns;
            let to = (column + 1) * samples.len() / columns;
            samples.get(from..to)?.iter().map(&of).max()
        })
        .collect();
    let top = values.iter().copied().max().unwrap_or(0).max(1);
    let mut out = format!("{title}, up to {:.1} MiB\n", mib(top));
    for row in (0..HEIGHT).rev() {
        let _ = write!(
            out,
            "{:>8.1} |",
            mib(top) * (row + 1) as f64 / HEIGHT as f64
        );
        for value in &values {
            // In eighths of a row.
            let height = value * (HEIGHT as u64 * 8) / top;
            let within = height.saturating_sub(row as u64 * 8).min(8);
            let glyph = usize::try_from(within).ok().and_then(|at| EIGHTHS.get(at));
            out.push(*glyph.unwrap_or(&' '));
        }
        out.push('\n');
    }
    let seconds = samples.last().map_or(0.0, |sample| sample.at);
    let _ = writeln!(out, "{:>8} +{}", "MiB", "-".repeat(values.len()));
    let _ = writeln!(
        out,
        "{:>10}0 s {:>width$}",
        "",
        format!("{seconds:.0} s"),
        width = values.len().saturating_sub(4)
    );
    out
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(resident: impl Fn(u32) -> u64) -> Vec<Sample> {
        (0..200)
            .map(|n| Sample {
                at: n.into(),
                resident: resident(n),
                heap: 0,
                descriptors: 0,
                tasks: 0,
                requests: 0,
            })
            .collect()
    }

    fn is_flat(samples: &[Sample]) -> bool {
        quarters(samples, Rule::of(200.0), |sample| sample.resident).flat
    }

    #[test]
    fn what_grows_slowly_is_not_flat_and_what_warms_up_is() {
        assert!(is_flat(&samples(|n| (50 << 20) + u64::from(n % 7) * 4096)));
        assert!(is_flat(&samples(|n| u64::from(n.min(40)) << 20)));
        // 8 MiB in the time between the quarters, on 50.
        assert!(!is_flat(&samples(|n| (50 << 20) + u64::from(n) * 84_000)));
    }

    #[test]
    fn a_chart_reaches_from_nothing_to_the_top() {
        let chart = chart(&samples(|n| u64::from(n) << 20), "resident", |s| s.resident);
        let rows: Vec<&str> = chart.lines().collect();
        assert!(rows[0].contains("199.0 MiB"), "{chart}");
        assert!(rows[1].ends_with('█'), "{chart}");
        assert!(rows[1].contains("| "), "{chart}");
    }
}
