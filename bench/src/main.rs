//! `bench run` measures, `bench plot` draws what was measured.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use rsocket_bench::plan::Goal;
use rsocket_bench::report::{Report, Settings};
use rsocket_bench::{child, plot, run};

#[derive(Parser)]
#[command(about, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, print tables, and write JSON.
    Run(RunArgs),
    /// Draw the JSON of a run as SVG.
    Plot {
        /// What `bench run --json` wrote.
        report: PathBuf,
        /// Where to draw; by default beside the report.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    #[command(name = run::SERVER, hide = true)]
    Server { order: String },
    #[command(name = run::CLIENT, hide = true)]
    Client { order: String },
    #[command(name = run::MEMORY, hide = true)]
    Memory { order: String },
}

#[derive(Args)]
struct RunArgs {
    /// Goals to judge; all of them by default.
    #[arg(
        long,
        value_name = "P8,P9,..",
        value_delimiter = ',',
        ignore_case = true
    )]
    goal: Vec<Goal>,
    /// How often the variants take turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pairs: u64,
    /// Length of each window, in seconds.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    seconds: f64,
    /// A look: few turns and short windows, so not a result.
    #[arg(long, conflicts_with_all = ["pairs", "seconds"])]
    quick: bool,
    /// Leave out the other libraries.
    #[arg(long)]
    no_peers: bool,
    /// Where to write the report.
    #[arg(long, value_name = "FILE", default_value = "results/bench.json")]
    json: PathBuf,
    /// Core of the server.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// Core of the client.
    #[arg(long, default_value_t = 1)]
    client_core: usize,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(args) => measure(args),
        Command::Plot { report, out } => draw(&report, out),
        Command::Server { order } => child::serve(serde_json::from_str(&order)?),
        Command::Client { order } => child::ask(serde_json::from_str(&order)?),
        Command::Memory { order } => {
            let (work, core) = serde_json::from_str(&order)?;
            println!("{}", serde_json::to_string(&run::memory(work, core)?)?);
            Ok(())
        }
    }
}

fn measure(args: RunArgs) -> Result<()> {
    let mut goals = if args.goal.is_empty() {
        Goal::ALL.to_vec()
    } else {
        args.goal
    };
    goals.sort_unstable();
    goals.dedup();
    let settings = Settings {
        goals,
        pairs: if args.quick {
            3
        } else {
            usize::try_from(args.pairs)?
        },
        seconds: if args.quick { 0.1 } else { args.seconds },
        peers: !args.no_peers,
        server_core: args.server_core,
        client_core: args.client_core,
    };
    let report = run::run(&settings)?;
    print!("{}", report.to_markdown());

    let place = || format!("writing {}", args.json.display());
    if let Some(folder) = args.json.parent() {
        fs::create_dir_all(folder).with_context(place)?;
    }
    fs::write(&args.json, serde_json::to_string_pretty(&report)?).with_context(place)?;
    eprintln!("wrote {}", args.json.display());
    Ok(())
}

fn draw(from: &Path, to: Option<PathBuf>) -> Result<()> {
    let text = fs::read_to_string(from).with_context(|| format!("reading {}", from.display()))?;
    let report: Report = serde_json::from_str(&text)?;
    let to = to.unwrap_or_else(|| from.with_extension("svg"));
    plot::draw(&report, &to)?;
    eprintln!("wrote {}", to.display());
    Ok(())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.05..=60.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("a window takes 0.05 to 60 seconds".to_owned())
    }
}
