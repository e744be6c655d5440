//! The parent: starts a server and a client for each window, and takes the rows
//! of a scenario in turn.
//!
//! Every window has processes of its own. So nothing that one window leaves
//! behind (memory, connections, a task that spins) weighs on the next one, and
//! an unlucky layout of memory does not stay for the whole run.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::child::{ClientOrder, LISTENING, ServerOrder};
use crate::machine::{self, Machine, Ticks};
use crate::plan::{self, Figures, Goal, Load, Metric, Scenario, Work};
use crate::report::{Report, RowReport, ScenarioReport, Settings};

/// Hidden subcommand of the server's process.
pub const SERVER: &str = "__server";
/// Hidden subcommand of the client's process.
pub const CLIENT: &str = "__client";
/// Hidden subcommand of the process of a scenario without sockets.
pub const MEMORY: &str = "__memory";

/// Measures all that `settings` asks for.
///
/// A window that fails does not end the run: its row says why.
///
/// # Errors
///
/// When the cores cannot be had, or nothing can be measured.
pub fn run(settings: &Settings) -> Result<Report> {
    let scenarios = plan::scenarios(&settings.goals, settings.peers);
    ensure!(
        !scenarios.is_empty() || settings.goals.contains(&Goal::P1),
        "nothing to measure"
    );
    let cores = [settings.server_core, settings.client_core];
    let cache_line_before = machine::cache_line_round_trip(cores)?;

    let ticks_before = Ticks::now(cores)?;

    let windows: usize = scenarios
        .iter()
        .map(|s| s.rows.len() * settings.pairs)
        .sum();
    let progress = ProgressBar::new(windows as u64);
    let style = "{elapsed_precise} [{bar:30}] {pos}/{len} windows, {eta} left  {msg}";
    progress.set_style(ProgressStyle::with_template(style)?);

    let scenarios = scenarios
        .into_iter()
        .map(|scenario| take_turns(scenario, settings, &progress))
        .collect();
    progress.finish_and_clear();
    let disturbance = Ticks::now(cores)?.since(ticks_before);
    Ok(Report {
        machine: Machine::here(),
        settings: settings.clone(),
        cache_line_ns: [cache_line_before, machine::cache_line_round_trip(cores)?],
        disturbance,
        scenarios,
    })
}

fn take_turns(scenario: Scenario, settings: &Settings, progress: &ProgressBar) -> ScenarioReport {
    let mut rows: Vec<_> = scenario.rows.into_iter().map(RowReport::new).collect();
    for _ in 0..settings.pairs {
        for row in &mut rows {
            progress.set_message(format!(
                "{} {}: {}",
                scenario.goal, scenario.title, row.label
            ));
            match window(row.work, settings) {
                Ok(figures) => row.windows.push(Some(figures)),
                Err(error) => {
                    row.windows.push(None);
                    row.failure.get_or_insert_with(|| format!("{error:#}"));
                }
            }
            progress.inc(1);
        }
    }
    ScenarioReport::new(scenario.goal, scenario.title, &scenario.ratios, rows)
}

fn window(work: Work, settings: &Settings) -> Result<Figures> {
    if matches!(work.load, Load::InProcess { .. }) {
        return in_process(work, settings);
    }
    let mut server = Process::start(
        this_program()?,
        &[SERVER],
        &ServerOrder {
            work,
            core: settings.server_core,
        },
    )?;
    let mut line = String::new();
    server.output.read_line(&mut line)?;
    let address = line
        .trim()
        .strip_prefix(LISTENING)
        .context("the server did not start")?;
    let mut client = Process::start(
        this_program()?,
        &[CLIENT],
        &ClientOrder {
            work,
            core: if work.on_one_core {
                settings.server_core
            } else {
                settings.client_core
            },
            server: address.to_owned(),
            server_pid: server.child.id(),
            warm_up: settings.warm_up(),
            window: Duration::from_secs_f64(settings.seconds),
        },
    )?;
    client.figures().context("client")
}

fn in_process(work: Work, settings: &Settings) -> Result<Figures> {
    let order = (work, settings.client_core);
    let mut figures = Process::start(this_program()?, &[MEMORY], &order)?.figures()?;
    // Built by `cargo build`, but not by `cargo run`.
    let counter = this_program()?.with_file_name("bench-allocs");
    if counter.exists() {
        let counted = Process::start(counter, &[], &work)?.figures();
        figures.extend(counted.context("bench-allocs")?);
    }
    Ok(figures)
}

/// What the process behind [`MEMORY`] does: measures, and yields the figures.
///
/// # Errors
///
/// When a request fails.
pub fn memory(work: Work, core: usize) -> Result<Figures> {
    machine::pin(core)?;
    let (before, after, requests) = crate::memory::between(work, machine::thread_cpu_time)?;
    let nanos = (after - before).as_nanos() as f64 / requests as f64;
    Ok(Figures::from([(Metric::CpuNanos, nanos)]))
}

fn this_program() -> Result<PathBuf> {
    env::current_exe().context("where this program is")
}

/// A child that ends when this value does.
struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(program: PathBuf, arguments: &[&str], order: &impl Serialize) -> Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .arg(serde_json::to_string(order)?)
            // What it complains of goes into a table.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("a pipe was asked for")?;
        Ok(Self {
            child,
            output: BufReader::new(output),
        })
    }

    /// Waits for its end and reads what it measured.
    fn figures(&mut self) -> Result<Figures> {
        let mut output = String::new();
        self.output.read_to_string(&mut output)?;
        if !self.child.wait()?.success() {
            let mut complaint = String::new();
            if let Some(mut stderr) = self.child.stderr.take() {
                stderr.read_to_string(&mut complaint)?;
            }
            bail!("{}", complaint.trim());
        }
        serde_json::from_str(&output).context("what it printed")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}
