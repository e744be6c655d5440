//! Load of all kinds, for minutes or days, every payload checked: does anything
//! get lost, come twice, break, or pile up?
//!
//! ```text
//! cargo run --release -p examples --features soak --bin soak -- --minutes 1 --cuts --lease
//! ```
//!
//! Clients and servers run in this process, so that one look at it sees the
//! leaks of both. Connections come and go, in good order and not; requests of
//! all four interactions go in both directions, some are cancelled at random
//! moments; payloads have 0 bytes to 1 MiB, some connections send them in
//! fragments. With `--cuts` half of the connections are resumable sessions whose
//! links are cut every 10 to 1000 ms, and none of their requests may notice.
//!
//! Exit status: 0 if all is well, 1 if not, 2 if the command line is wrong.
#![forbid(unsafe_code)]

mod content;
mod life;
mod side;
mod tally;
mod watch;

use std::{
    alloc::System,
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use rsocket_core::{testkit::Random, transport::Transports};
use serde::Serialize;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{sync::watch::Sender, task::JoinSet};

use crate::{
    life::Features,
    tally::{Counts, Tally},
    watch::{Quarters, Rule, Sample, mib, quarters},
};

// What is alive, to the byte: the allocator keeps pages for itself, so resident
// memory shows a leak late.
#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Puts the library under mixed load and checks everything.
#[derive(Parser)]
struct Args {
    /// How long; 0.2 is enough for a check.
    #[arg(long, default_value_t = 1.0, value_parser = minutes)]
    minutes: f64,

    /// Over what: names of transports, or URLs to listen at.
    #[arg(long, value_delimiter = ',', default_value = "memory,tcp,unix")]
    transports: Vec<String>,

    /// Cuts the links of resumable sessions all the time.
    #[arg(long)]
    cuts: bool,

    /// Some connections use leases.
    #[arg(long)]
    lease: bool,

    /// Connections at once.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,

    /// What is drawn by lot follows from this; when it happens does not.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Where to write the result with all samples.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.05..=100_000.0).contains(&minutes) => Ok(minutes),
        _ => Err("from 0.05 on".to_owned()),
    }
}

/// What is written as JSON.
#[derive(Serialize)]
struct Report {
    ok: bool,
    wrong: Vec<String>,
    seed: u64,
    seconds: f64,
    transports: Vec<String>,
    cuts: bool,
    lease: bool,
    rule: Rule,
    resident: Quarters,
    heap: Quarters,
    /// Before the load, and after all of it has gone.
    before: Sample,
    after: Sample,
    counts: Counts,
    samples: Vec<Sample>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    match runtime.map(|runtime| runtime.block_on(run(&args))) {
        Ok(Ok(report)) => finish(&args, &report),
        Ok(Err(message)) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("no runtime: {error}");
            ExitCode::from(2)
        }
    }
}

/// Bytes that are alive.
fn heap() -> u64 {
    let stats = HEAP.stats();
    let alive = stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated);
    u64::try_from(alive).unwrap_or(u64::MAX)
}

async fn run(args: &Args) -> Result<Report, String> {
    println!("seed {}", args.seed);
    let features = Features {
        cuts: args.cuts,
        lease: args.lease,
    };
    let tally = Arc::new(Tally::default());
    let transports = examples::transports();
    let scratch = Scratch::new()?;
    let mut servers = JoinSet::new();
    let urls = serve(args, features, &tally, &transports, &scratch, &mut servers).await?;
    // What is made once, on the first use, is no leak.
    content::Order::of(0).request();

    let seconds = args.minutes * 60.0;
    let before = Sample::take(0.0, heap(), 0);
    let stop = Sender::new(false);
    let mut random = Random::new(args.seed);
    let mut clients = JoinSet::new();
    for _ in 0..args.clients {
        clients.spawn(life::lives(
            transports.clone(),
            urls.clone(),
            features,
            Arc::clone(&tally),
            random.number(),
            stop.subscribe(),
        ));
    }
    let samples = watch_for(seconds, &tally).await;
    stop.send_replace(true);
    let mut wrong = Vec::new();
    let all = async {
        while let Some(ended) = clients.join_next().await {
            if let Err(error) = ended {
                tally.fault(format!("a client's task: {error}"));
            }
        }
    };
    if tokio::time::timeout(Duration::from_secs(180), all)
        .await
        .is_err()
    {
        wrong.push("not all clients came to an end within 3 minutes".to_owned());
    }
    let ran = samples.last().map_or(0.0, |sample| sample.at);
    let after = at_rest(before, ran, &mut wrong).await;
    // Alive until here: the listeners are part of `before`.
    servers.shutdown().await;

    let rule = Rule::of(ran);
    let resident = quarters(&samples, rule, |sample| sample.resident);
    let heap = quarters(&samples, rule, |sample| sample.heap);
    if !resident.flat {
        wrong.push(grew("resident memory", resident));
    }
    let counts = tally.counts();
    if counts.faults > 0 {
        wrong.push(format!("{} faults", counts.faults));
        wrong.extend(tally.faults());
    }
    if counts.requests() == 0 {
        wrong.push("nothing was done".to_owned());
    }
    if args.cuts && counts.resumptions == 0 {
        wrong.push("no session was resumed".to_owned());
    }
    Ok(Report {
        ok: wrong.is_empty(),
        wrong,
        seed: args.seed,
        seconds: ran,
        transports: args.transports.clone(),
        cuts: args.cuts,
        lease: args.lease,
        rule,
        resident,
        heap,
        before,
        after,
        counts,
        samples,
    })
}

fn grew(what: &str, quarters: Quarters) -> String {
    format!(
        "{what} grew from {:.1} MiB in the second quarter to {:.1} in the last",
        quarters.second / f64::from(1 << 20),
        quarters.last / f64::from(1 << 20),
    )
}

/// Two servers for each transport: one sends in fragments.
async fn serve(
    args: &Args,
    features: Features,
    tally: &Arc<Tally>,
    transports: &Transports,
    scratch: &Scratch,
    servers: &mut JoinSet<()>,
) -> Result<Vec<String>, String> {
    let mut urls = Vec::new();
    for transport in &args.transports {
        for (number, fragment) in [None, Some(1500)].into_iter().enumerate() {
            let url = scratch.url(transport, number);
            let listener = transports.listener(&url).await;
            let listener = listener.map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                format!("{url}: {error}: {}", cause.unwrap_or_default())
            })?;
            urls.push(listener.url());
            let tally = Arc::clone(tally);
            let faults = Arc::clone(&tally);
            let accept = move |setup: rsocket_core::Setup, client| {
                let accepted = life::accept(&tally, &setup, client);
                async move { accepted }
            };
            let server = life::server(features, fragment);
            servers.spawn(async move {
                let Err(error) = server.serve(listener, accept).await;
                faults.fault(format!("{url}: {error}"));
            });
        }
    }
    Ok(urls)
}

/// Looks at the process each second, more often in a short run, until the time
/// is over or somebody interrupts.
async fn watch_for(seconds: f64, tally: &Tally) -> Vec<Sample> {
    let every = Duration::from_secs_f64((seconds / 60.0).min(1.0));
    let mut ticks = tokio::time::interval(every);
    let mut samples: Vec<Sample> = Vec::new();
    let started = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut interrupt => break,
        }
        let at = started.elapsed().as_secs_f64();
        if at >= seconds {
            break;
        }
        let counts = tally.counts();
        let sample = Sample::take(at, heap(), counts.requests());
        if terminal {
            show(&sample, samples.last(), seconds, &counts);
        }
        samples.push(sample);
    }
    if terminal {
        eprintln!();
    }
    samples
}

/// One line, over the last one.
fn show(sample: &Sample, last: Option<&Sample>, seconds: f64, counts: &Counts) {
    const CELLS: usize = 20;
    let rate = last.map_or(0.0, |last| {
        (sample.requests - last.requests) as f64 / (sample.at - last.at).max(1e-3)
    });
    let done = (1..=CELLS)
        .filter(|cell| sample.at * CELLS as f64 >= *cell as f64 * seconds)
        .count();
    let (done, left) = ("#".repeat(done), ".".repeat(CELLS - done));
    eprint!(
        "\r[{done}{left}] {:.0}/{seconds:.0} s  {rate:.0} requests/s  {} connections  {} resumed  {:.1} MiB  {} fds  {} tasks  {} faults\x1b[K",
        sample.at,
        counts.connections,
        counts.resumptions,
        mib(sample.resident),
        sample.descriptors,
        sample.tasks,
        counts.faults,
    );
    // A line that is not shown is no reason to stop.
    let _ = std::io::stderr().flush();
}

/// What is left once all clients have gone, which has to be nothing.
async fn at_rest(before: Sample, ran: f64, wrong: &mut Vec<String>) -> Sample {
    /// What tables that grew keep, and the allocator's and the runtime's own.
    const KEPT: u64 = 1 << 20;
    let until = Instant::now() + 2 * life::SESSION_TIMEOUT;
    let mut sample = Sample::take(ran, heap(), 0);
    while Instant::now() < until {
        // Servers hear of an end a moment after it, or have to wait for it.
        let none = sample.tasks <= before.tasks && sample.descriptors <= before.descriptors;
        if none && sample.heap <= before.heap + KEPT {
            return sample;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        sample = Sample::take(ran, heap(), 0);
    }
    wrong.push(format!(
        "left behind: {} tasks, {} descriptors, {:.2} MiB",
        sample.tasks.saturating_sub(before.tasks),
        sample.descriptors.saturating_sub(before.descriptors),
        mib(sample.heap.saturating_sub(before.heap)),
    ));
    sample
}

fn finish(args: &Args, report: &Report) -> ExitCode {
    let resident = watch::chart(&report.samples, "resident memory", |s| s.resident);
    let heap = watch::chart(&report.samples, "allocated memory", |s| s.heap);
    print!("{resident}\n{heap}");
    let counts = &report.counts;
    println!(
        "{} connections ({} resumable, {} with leases, {} in fragments); {} ended in order, {} not; \
         {} links cut, {} times resumed",
        counts.connections,
        counts.sessions,
        counts.leased,
        counts.fragmented,
        counts.orderly,
        counts.abrupt,
        counts.cuts,
        counts.resumptions,
    );
    println!(
        "{} fire-and-forgets, {} request-responses, {} streams, {} channels; {} cancelled, {} lost with \
         their connection; {} payloads, {:.0} MiB checked",
        counts.fire_and_forget,
        counts.request_response,
        counts.request_stream,
        counts.request_channel,
        counts.cancelled,
        counts.lost,
        counts.payloads,
        mib(counts.bytes),
    );
    println!(
        "memory: {:.1} MiB in the second quarter, {:.1} in the last (at most {} % and {:.0} MiB more); \
         allocated and still there after the end: {:.2} MiB",
        report.resident.second / f64::from(1 << 20),
        report.resident.last / f64::from(1 << 20),
        report.rule.percent,
        mib(report.rule.plus),
        mib(report.after.heap.saturating_sub(report.before.heap)),
    );
    for what in &report.wrong {
        println!("WRONG: {what}");
    }
    if let Some(path) = &args.json {
        let written = serde_json::to_string(report)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(path, text + "\n"));
        if let Err(error) = written {
            eprintln!("{}: {error}", path.display());
            return ExitCode::from(2);
        }
    }
    if report.ok {
        println!("ok: {:.0} s, seed {}", report.seconds, report.seed);
        ExitCode::SUCCESS
    } else {
        println!("FAILED: {:.0} s, seed {}", report.seconds, report.seed);
        ExitCode::FAILURE
    }
}

/// A directory for sockets, gone with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("soak-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }

    /// Where to listen for the server `number` of `transport`: what is a URL
    /// stays one; network transports are named by their scheme, and all others
    /// have paths.
    fn url(&self, transport: &str, number: usize) -> String {
        let path = self.0.join(format!("{transport}-{number}"));
        match transport {
            url if url.contains(':') => url.to_owned(),
            "memory" => format!("memory:soak-{number}"),
            "tcp" | "udp" => format!("{transport}://127.0.0.1:0"),
            "ws" => "ws://127.0.0.1:0/".to_owned(),
            _ => format!("{transport}:{}", path.display()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The system clears its temporary files some day if this fails.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
