//! Medians, ratios and verdicts; tables and JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::{Disturbance, Machine};
use crate::plan::{Bound, Figures, Goal, Metric, Reference, Row, Rule, Stack, Work};

/// Pairs below which a run is a check of the harness and not a result.
pub const PAIRS_OF_A_RESULT: usize = 5;

/// Seconds a window below which a run is a check of the harness and not a result.
pub const SECONDS_OF_A_RESULT: f64 = 0.25;

/// Share of the two cores that others may use while a result is measured.
pub const QUIET: f64 = 0.05;

/// How a run is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// What is measured.
    pub goals: Vec<Goal>,
    /// How often the rows of a scenario take turns.
    pub pairs: usize,
    /// Length of a window.
    pub seconds: f64,
    /// Whether the peers are measured too.
    pub peers: bool,
    /// Core of the server.
    pub server_core: usize,
    /// Core of the client.
    pub client_core: usize,
}

impl Settings {
    /// How long a client asks before its window: a fifth of it.
    #[must_use]
    pub fn warm_up(&self) -> Duration {
        Duration::from_secs_f64((self.seconds / 5.0).clamp(0.03, 0.5))
    }

    /// Whether what comes out may be quoted.
    #[must_use]
    pub fn yields_a_result(&self) -> bool {
        self.pairs >= PAIRS_OF_A_RESULT && self.seconds >= SECONDS_OF_A_RESULT
    }
}

/// All that a run showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// How it ran.
    pub settings: Settings,
    /// Round trip of a cache line between the two cores, before and after, in
    /// nanoseconds. When they differ the cores were moved, and figures of
    /// different scenarios must not be compared.
    pub cache_line_ns: [f64; 2],
    /// How much of the two cores others used meanwhile.
    pub disturbance: Disturbance,
    /// What was measured, in order.
    pub scenarios: Vec<ScenarioReport>,
}

/// Rows that were measured in turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScenarioReport {
    /// The goal it belongs to.
    pub goal: Goal,
    /// What sets it apart from the others of that goal.
    pub title: String,
    /// One for each variant.
    pub rows: Vec<RowReport>,
}

/// What one variant showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RowReport {
    /// Its name.
    pub label: String,
    /// What was run.
    pub work: Work,
    /// What it had to reach.
    pub rules: Vec<Rule>,
    /// One for each turn; `None` where it failed.
    pub windows: Vec<Option<Figures>>,
    /// Why the first window that failed did.
    pub failure: Option<String>,
    /// Median of each figure over the windows.
    pub medians: Figures,
    /// Against the references of its scenario.
    pub ratios: Vec<Ratio>,
    /// One for each rule.
    pub verdicts: Vec<Verdict>,
}

/// A row's figure divided by that of another row of the same turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ratio {
    /// The figure.
    pub metric: Metric,
    /// The kind of row it is divided by.
    pub reference: Reference,
    /// The name of that row.
    pub label: String,
    /// Median over the turns.
    pub median: f64,
    /// The least of them.
    pub min: f64,
    /// The greatest of them.
    pub max: f64,
}

/// Whether a rule was kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// The rule in words.
    pub rule: String,
    /// The figure or ratio that was judged; `None` when it was not measured.
    pub value: Option<f64>,
    /// `None` when it was not measured.
    pub met: Option<bool>,
}

impl RowReport {
    /// A row of which nothing is known yet.
    #[must_use]
    pub fn new(row: Row) -> Self {
        Self {
            label: row.label,
            work: row.work,
            rules: row.rules,
            windows: Vec::new(),
            failure: None,
            medians: Figures::new(),
            ratios: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    fn take_medians(&mut self) {
        let mut columns = std::collections::BTreeMap::<Metric, Vec<f64>>::new();
        for figures in self.windows.iter().flatten() {
            for (&metric, &value) in figures {
                columns.entry(metric).or_default().push(value);
            }
        }
        self.medians = columns
            .into_iter()
            .filter_map(|(m, values)| Some((m, median(values)?)))
            .collect();
    }

    fn ratio_to(&self, other: &Self, metric: Metric, reference: Reference) -> Option<Ratio> {
        let pairs = self.windows.iter().zip(&other.windows);
        let ratios: Vec<f64> = pairs
            .filter_map(|(ours, theirs)| {
                let (ours, theirs) = (ours.as_ref()?, theirs.as_ref()?);
                Some(ours.get(&metric)? / theirs.get(&metric)?)
            })
            .collect();
        Some(Ratio {
            metric,
            reference,
            label: other.label.clone(),
            min: ratios.iter().copied().reduce(f64::min)?,
            max: ratios.iter().copied().reduce(f64::max)?,
            median: median(ratios)?,
        })
    }
}

impl ScenarioReport {
    /// Judges what the windows of `rows` showed.
    #[must_use]
    pub fn new(
        goal: Goal,
        title: String,
        shown: &[(Metric, Reference)],
        mut rows: Vec<RowReport>,
    ) -> Self {
        rows.iter_mut().for_each(RowReport::take_medians);
        let judged: Vec<_> = rows
            .iter()
            .map(|row| {
                let ratio = |metric, reference| {
                    let other = best(&rows, metric, reference)?;
                    row.ratio_to(other, metric, reference)
                };
                let ratios = shown.iter().filter_map(|&(m, r)| ratio(m, r)).collect();
                let verdicts = row
                    .rules
                    .iter()
                    .map(|rule| judge(row, rule, &ratio))
                    .collect();
                (ratios, verdicts)
            })
            .collect();
        for (row, (ratios, verdicts)) in rows.iter_mut().zip(judged) {
            row.ratios = ratios;
            row.verdicts = verdicts;
        }
        Self { goal, title, rows }
    }
}

/// The row that `reference` means: the best of its kind by its median.
fn best(rows: &[RowReport], metric: Metric, reference: Reference) -> Option<&RowReport> {
    let fits = |stack: Stack| match reference {
        Reference::Limit => stack.is_limit(),
        Reference::Peer(peer) => stack == peer,
        Reference::BestPeer => stack.is_peer(),
    };
    rows.iter()
        .filter(|row| fits(row.work.stack) && row.medians.contains_key(&metric))
        .max_by(|a, b| {
            let order = a.medians[&metric].total_cmp(&b.medians[&metric]);
            if metric.rises() {
                order
            } else {
                order.reverse()
            }
        })
}

fn judge(
    row: &RowReport,
    rule: &Rule,
    ratio: &dyn Fn(Metric, Reference) -> Option<Ratio>,
) -> Verdict {
    let value = match rule.reference {
        Some(reference) => ratio(rule.metric, reference).map(|ratio| ratio.median),
        None => row.medians.get(&rule.metric).copied(),
    };
    Verdict {
        rule: in_words(rule),
        value,
        met: value.map(|value| rule.bound.holds(value)),
    }
}

fn in_words(rule: &Rule) -> String {
    let (sign, bound) = match rule.bound {
        Bound::AtLeast(bound) => (">=", bound),
        Bound::AtMost(bound) => ("<=", bound),
    };
    let name = rule.metric.name();
    match rule.reference {
        Some(Reference::Limit) => format!("{name} {sign} {bound}x"),
        Some(reference) => format!("{name} {sign} {bound}x {reference}"),
        None => format!("{name} {sign} {}", figure(rule.metric, bound)),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values.get(middle).copied()
    } else {
        Some((values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0)
    }
}

/// `value` with a unit that a person reads easily.
#[must_use]
pub fn figure(metric: Metric, value: f64) -> String {
    match metric {
        Metric::P50 | Metric::P99 => format!("{} us", three_digits(value / 1e3)),
        Metric::Rate if value >= 1e6 => format!("{} M/s", three_digits(value / 1e6)),
        Metric::Rate if value < 1e3 => format!("{} /s", three_digits(value)),
        Metric::Rate => format!("{} k/s", three_digits(value / 1e3)),
        Metric::Bytes => format!("{} GB/s", three_digits(value / 1e9)),
        Metric::Cpu => format!("{} s", three_digits(value)),
        Metric::Rss => format!("{} MB", three_digits(value / 1e6)),
        Metric::CpuNanos => format!("{} ns", three_digits(value)),
        Metric::Allocs => format!("{value:.4}"),
    }
}

fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

const fn columns(goal: Goal) -> &'static [Metric] {
    match goal {
        Goal::P1 => &[],
        Goal::P2 => &[Metric::CpuNanos, Metric::Allocs],
        Goal::P3 | Goal::P4 | Goal::P5 | Goal::P8 | Goal::P9 | Goal::P12 => &[
            Metric::P50,
            Metric::P99,
            Metric::Rate,
            Metric::Cpu,
            Metric::Rss,
        ],
        Goal::P6 | Goal::P10 => &[Metric::Rate, Metric::Bytes, Metric::Cpu, Metric::Rss],
        Goal::P7 | Goal::P11 => &[
            Metric::P50,
            Metric::P99,
            Metric::Rate,
            Metric::Bytes,
            Metric::Cpu,
            Metric::Rss,
        ],
    }
}

impl Report {
    /// The whole report as Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        self.write_markdown(&mut out)
            .expect("a string takes everything");
        out
    }

    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        let Machine {
            cpu,
            cpus,
            kernel,
            rustc,
            commit,
        } = &self.machine;
        let Settings {
            pairs,
            seconds,
            server_core,
            client_core,
            ..
        } = &self.settings;
        writeln!(
            out,
            "{cpu}, {cpus} CPUs; Linux {kernel}; {rustc}; commit {commit}"
        )?;
        writeln!(
            out,
            "server on core {server_core}, client on core {client_core}; \
             {pairs} turns of {seconds} s"
        )?;
        let [before, after] = self.cache_line_ns;
        writeln!(
            out,
            "cache line round trip: {before:.0} ns before, {after:.0} ns after"
        )?;
        let Disturbance { others, stolen } = self.disturbance;
        writeln!(
            out,
            "meanwhile others used {:.0} % of the two cores, the host took {:.0} %",
            others * 100.0,
            stolen * 100.0,
        )?;
        if others + stolen > QUIET {
            writeln!(out, "\n**Not a result**: the cores were not quiet.")?;
        }
        if !self.settings.yields_a_result() {
            writeln!(
                out,
                "\n**A check, not a result**: a result takes {PAIRS_OF_A_RESULT} turns of \
                 {SECONDS_OF_A_RESULT} s or more."
            )?;
        }
        for &goal in &self.settings.goals {
            writeln!(out, "\n## {goal}: {}", goal.title())?;
            if goal == Goal::P1 {
                writeln!(
                    out,
                    "\nMeasured in process, against a codec written by hand: in `rsocket-core`, \
                     `cargo bench --bench codec`."
                )?;
            }
            for scenario in self
                .scenarios
                .iter()
                .filter(|scenario| scenario.goal == goal)
            {
                scenario.write_table(out)?;
            }
        }
        self.write_summary(out)
    }

    fn write_summary(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n## Goals\n")?;
        for &goal in &self.settings.goals {
            let of_goal = self
                .scenarios
                .iter()
                .filter(|scenario| scenario.goal == goal);
            let verdicts: Vec<_> = of_goal
                .flat_map(|s| &s.rows)
                .flat_map(|row| &row.verdicts)
                .collect();
            let met = verdicts
                .iter()
                .filter(|verdict| verdict.met == Some(true))
                .count();
            let open = verdicts
                .iter()
                .filter(|verdict| verdict.met.is_none())
                .count();
            write!(out, "- {goal}: ")?;
            match verdicts.len() {
                0 => writeln!(out, "not judged here")?,
                all if all == met => writeln!(out, "met ({all} conditions)")?,
                all if open > 0 => {
                    writeln!(out, "{met} of {all} conditions met, {open} not measured")?
                }
                all => writeln!(out, "**missed**: {met} of {all} conditions met")?,
            }
        }
        Ok(())
    }
}

impl ScenarioReport {
    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let metrics = columns(self.goal);
        let ratio_heads = self.rows.iter().find(|row| !row.ratios.is_empty());
        let mut head = vec!["variant".to_owned()];
        head.extend(metrics.iter().map(|metric| metric.name().to_owned()));
        let shown: Vec<_> = ratio_heads.map_or_else(Vec::new, |row| {
            row.ratios
                .iter()
                .map(|ratio| (ratio.metric, ratio.reference))
                .collect()
        });
        head.extend(
            shown
                .iter()
                .map(|(metric, reference)| format!("{} : {reference}", metric.name())),
        );
        head.push("goal".to_owned());

        let mut table = vec![head];
        for row in &self.rows {
            let mut cells = vec![row.label.clone()];
            cells.extend(metrics.iter().map(|&metric| {
                row.medians
                    .get(&metric)
                    .map_or_else(|| "-".to_owned(), |&v| figure(metric, v))
            }));
            cells.extend(shown.iter().map(|&(metric, reference)| {
                let ratio = row
                    .ratios
                    .iter()
                    .find(|ratio| ratio.metric == metric && ratio.reference == reference);
                ratio.map_or_else(
                    || "-".to_owned(),
                    |r| format!("{:.2} ({:.2}..{:.2})", r.median, r.min, r.max),
                )
            }));
            cells.push(
                row.verdicts
                    .iter()
                    .map(verdict_cell)
                    .collect::<Vec<_>>()
                    .join("; "),
            );
            table.push(cells);
        }

        writeln!(out, "\n### {}\n", self.title)?;
        write_aligned(out, &table)?;
        for row in &self.rows {
            if let Some(failure) = &row.failure {
                let failed = row.windows.iter().filter(|window| window.is_none()).count();
                writeln!(out, "\n{}: {failed} windows failed: {failure}", row.label)?;
            }
        }
        Ok(())
    }
}

fn verdict_cell(verdict: &Verdict) -> String {
    match verdict.met {
        Some(true) => format!("{}: met", verdict.rule),
        Some(false) => format!("{}: MISSED", verdict.rule),
        None => format!("{}: not measured", verdict.rule),
    }
}

/// A Markdown table whose source reads like one.
fn write_aligned(out: &mut String, table: &[Vec<String>]) -> std::fmt::Result {
    let width = |column: usize| {
        table
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..).map_while(width).collect();
    for (line, row) in table.iter().enumerate() {
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let last = column + 1 == widths.len();
            match column {
                0 => write!(out, "| {cell:width$} ")?,
                _ if last => write!(out, "| {cell} ")?,
                _ => write!(out, "| {cell:>width$} ")?,
            }
        }
        writeln!(out, "|")?;
        if line == 0 {
            for (column, &width) in widths.iter().enumerate() {
                let dashes = "-".repeat(width + 1);
                match column {
                    0 => write!(out, "|{dashes}-")?,
                    _ if column + 1 == widths.len() => write!(out, "|---")?,
                    _ => write!(out, "|{dashes}:")?,
                }
            }
            writeln!(out, "|")?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed test panics")]
mod tests {
    use super::*;
    use crate::plan::{Load, Runtime};

    fn row(stack: Stack, rules: Vec<Rule>, rates: &[Option<f64>]) -> RowReport {
        let load = Load::Tasks {
            in_flight: 1,
            bytes: 32,
        };
        let work = Work {
            stack,
            runtime: Runtime::CurrentThread,
            load,
            on_one_core: false,
        };
        let mut row = RowReport::new(Row {
            label: stack.to_string(),
            work,
            rules,
        });
        let figures = |rate| Figures::from([(Metric::Rate, rate)]);
        row.windows = rates.iter().map(|rate| rate.map(figures)).collect();
        row
    }

    fn rule(reference: Option<Reference>, bound: f64) -> Rule {
        Rule {
            metric: Metric::Rate,
            reference,
            bound: Bound::AtLeast(bound),
        }
    }

    fn report(rows: Vec<RowReport>) -> ScenarioReport {
        let shown = [(Metric::Rate, Reference::Limit)];
        ScenarioReport::new(Goal::P9, "test".to_owned(), &shown, rows)
    }

    #[test]
    fn a_ratio_is_the_median_over_the_turns_and_not_the_ratio_of_medians() {
        // The machine slows down by half from turn to turn, for both alike.
        let report = report(vec![
            row(Stack::Tcp, vec![], &[Some(400.0), Some(200.0), Some(100.0)]),
            row(Stack::Ours, vec![], &[Some(360.0), Some(190.0), Some(80.0)]),
        ]);

        let ratio = &report.rows[1].ratios[0];
        assert_eq!((ratio.min, ratio.median, ratio.max), (0.8, 0.9, 0.95));
        assert_eq!(report.rows[1].medians[&Metric::Rate], 190.0);
    }

    #[test]
    fn a_turn_in_which_one_side_failed_is_left_out_of_the_ratio() {
        let report = report(vec![
            row(Stack::Tcp, vec![], &[Some(100.0), None, Some(100.0)]),
            row(Stack::Ours, vec![], &[None, Some(1.0), Some(90.0)]),
        ]);

        let ratio = &report.rows[1].ratios[0];
        assert_eq!((ratio.min, ratio.max), (0.9, 0.9));
    }

    #[test]
    fn a_rule_about_a_peer_is_open_when_the_peer_was_not_measured() {
        let rules = vec![
            rule(Some(Reference::Limit), 0.9),
            rule(Some(Reference::Peer(Stack::Tonic)), 1.5),
            rule(None, 95.0),
        ];
        let report = report(vec![
            row(Stack::Tcp, vec![], &[Some(100.0)]),
            row(Stack::Ours, rules, &[Some(94.0)]),
        ]);

        let met: Vec<_> = report.rows[1]
            .verdicts
            .iter()
            .map(|verdict| verdict.met)
            .collect();
        assert_eq!(met, [Some(true), None, Some(false)]);
    }

    #[test]
    fn the_best_of_several_references_is_the_one_that_counts() {
        let report = report(vec![
            row(Stack::Tcp, vec![], &[Some(100.0)]),
            row(Stack::Tcp, vec![], &[Some(300.0)]),
            row(Stack::Ours, vec![], &[Some(150.0)]),
        ]);

        assert_eq!(report.rows[2].ratios[0].median, 0.5);
    }

    #[test]
    fn a_report_survives_its_own_json() {
        let report = report(vec![row(Stack::Tcp, vec![], &[Some(100.0), None])]);

        let json = serde_json::to_string(&report).unwrap();
        let back: ScenarioReport = serde_json::from_str(&json).unwrap();

        assert_eq!(json, serde_json::to_string(&back).unwrap());
    }
}
