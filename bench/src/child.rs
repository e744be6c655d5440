//! What the two processes of a window do.
//!
//! Each is pinned before it starts a thread. The server says where it listens,
//! and ends when its parent does. The client measures one window and ends.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::process;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::load::{self, Meter};
use crate::machine;
use crate::plan::{Figures, Metric, Runtime, Stack, Work};
use crate::stacks;

/// What a server is told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ServerOrder {
    /// What to serve.
    pub work: Work,
    /// Where to run.
    pub core: usize,
}

/// What a client is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientOrder {
    /// What to ask for.
    pub work: Work,
    /// Where to run.
    pub core: usize,
    /// Where the server listens, in the words of its stack.
    pub server: String,
    /// The server's process, whose CPU time and memory are measured too.
    pub server_pid: u32,
    /// How long to ask before measuring.
    pub warm_up: Duration,
    /// How long to measure.
    pub window: Duration,
}

/// How a server says where it listens.
pub type Announce = fn(&dyn Display);

/// Word before the address in the server's only line of output.
pub const LISTENING: &str = "listening ";

/// How long a client waits, beyond its own times, before it calls itself hung.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until standard input ends, which it does when the parent ends.
///
/// # Errors
///
/// When the core or the address cannot be had.
pub fn serve(order: ServerOrder) -> Result<()> {
    machine::pin(order.core)?;
    thread::spawn(|| {
        // Whatever comes, even an error, the end of it means that nobody needs us.
        let _ended = io::stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    });
    let Work {
        stack,
        runtime,
        load,
        ..
    } = order.work;
    match stack {
        Stack::Ring => return stacks::ring::serve(load, announce),
        Stack::Eventfd => return stacks::eventfd::serve(announce),
        #[cfg(feature = "peers")]
        Stack::Iceoryx => return stacks::iceoryx::serve(load, announce),
        #[cfg(feature = "peers")]
        Stack::IceoryxPublished => return stacks::iceoryx::serve_published(load, announce),
        _ => {}
    }
    block_on(runtime, async move {
        match stack {
            Stack::Tcp => stacks::tcp::serve(load, announce).await,
            Stack::EventfdAwaited => stacks::eventfd::serve_awaited(announce).await,
            #[cfg(feature = "ours")]
            Stack::Ours => crate::ours::serve(announce).await,
            #[cfg(feature = "ours")]
            Stack::OursWs => crate::ours::serve_ws(announce).await,
            #[cfg(feature = "ours")]
            Stack::OursShm
            | Stack::OursShmTrusted
            | Stack::OursShmPolling
            | Stack::OursShmAsleep => crate::ours::serve_shm(stack, announce).await,
            #[cfg(feature = "peers")]
            Stack::RsocketRust => stacks::rsocket_rust::serve(announce).await,
            #[cfg(feature = "peers")]
            Stack::Tonic => stacks::tonic::serve(announce).await,
            other => bail!("{other} has no server in this build"),
        }
    })
}

fn announce(address: &dyn Display) {
    println!("{LISTENING}{address}");
}

/// Measures one window, prints it as one line of JSON, and ends the process.
///
/// # Errors
///
/// When the server cannot be reached, a request fails, or nothing is answered.
pub fn ask(order: ClientOrder) -> Result<()> {
    machine::pin(order.core)?;
    let meter = Meter::new(load::tasks(order.work.load));
    let (failed, failures) = mpsc::channel();
    let (client_order, client_meter) = (order.clone(), Arc::clone(&meter));
    thread::spawn(move || {
        let Work {
            stack,
            runtime,
            load,
            ..
        } = client_order.work;
        let server = client_order.server.as_str();
        let outcome = match stack {
            Stack::Ring => stacks::ring::drive(server, load, client_meter),
            Stack::Eventfd => stacks::eventfd::drive(server, load, client_meter),
            #[cfg(feature = "peers")]
            Stack::Iceoryx => stacks::iceoryx::drive(server, load, client_meter),
            #[cfg(feature = "peers")]
            Stack::IceoryxPublished => stacks::iceoryx::drive_published(server, load, client_meter),
            _ => block_on(runtime, drive(client_order, client_meter)),
        };
        // The other end lives as long as the process.
        let _sent = failed.send(outcome);
    });
    let figures = measure(&order, &meter, &failures)?;
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &figures)?;
    writeln!(out)?;
    drop(out);
    // No goodbye to the server: how connections end is not measured.
    process::exit(0)
}

async fn drive(order: ClientOrder, meter: Arc<Meter>) -> Result<()> {
    let Work { stack, load, .. } = order.work;
    let server = order.server.as_str();
    match stack {
        Stack::Tcp => stacks::tcp::drive(server.parse()?, load, meter).await,
        Stack::EventfdAwaited => stacks::eventfd::drive_awaited(server, load, meter).await,
        #[cfg(feature = "ours")]
        Stack::Ours => {
            load::drive(
                crate::ours::connect(server.parse()?, load).await?,
                load,
                meter,
            )
            .await
        }
        #[cfg(feature = "ours")]
        Stack::OursShm | Stack::OursShmTrusted | Stack::OursShmPolling | Stack::OursShmAsleep => {
            let ours = crate::ours::connect_shm(server, stack, load).await?;
            load::drive(ours, load, meter).await
        }
        #[cfg(feature = "ours")]
        Stack::OursWs => {
            load::drive(
                crate::ours::connect_ws(server.parse()?, load).await?,
                load,
                meter,
            )
            .await
        }
        #[cfg(feature = "peers")]
        Stack::RsocketRust => {
            load::drive(
                stacks::rsocket_rust::connect(server.parse()?).await?,
                load,
                meter,
            )
            .await
        }
        #[cfg(feature = "peers")]
        Stack::Tonic => {
            load::drive(stacks::tonic::connect(server.parse()?).await?, load, meter).await
        }
        other => bail!("{other} has no client in this build"),
    }
}

/// Watches the meter from a thread outside the runtime: a load that never lets
/// the runtime look at its timers is measured like any other.
fn measure(
    order: &ClientOrder,
    meter: &Meter,
    failures: &mpsc::Receiver<Result<()>>,
) -> Result<Figures> {
    let wait = |time| match failures.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Err(RecvTimeoutError::Disconnected) => bail!("the client's runtime panicked"),
        Ok(Ok(())) => bail!("the client stopped asking"),
        Ok(Err(error)) => Err(error),
    };
    let patience = Instant::now() + PATIENCE;
    while meter.total().1 == 0 {
        ensure!(Instant::now() < patience, "no answer within {PATIENCE:?}");
        wait(Duration::from_millis(1))?;
    }
    wait(order.warm_up)?;

    let cpu = || -> Result<Duration> {
        Ok(machine::cpu_time(order.server_pid)? + machine::cpu_time(process::id())?)
    };
    meter.forget();
    let cpu_before = cpu()?;
    let before = meter.total();
    let from = Instant::now();
    wait(order.window)?;
    let after = meter.total();
    let seconds = from.elapsed().as_secs_f64();
    let cpu_seconds = (cpu()? - cpu_before).as_secs_f64();

    let (requests, bytes) = (after.0 - before.0, after.1 - before.1);
    if bytes == 0 {
        // Either it hangs for good, which is a bug, or others had the cores.
        let patience = Instant::now() + PATIENCE;
        while meter.total().1 == after.1 {
            ensure!(
                Instant::now() < patience,
                "hung: no answer for {PATIENCE:?} after {} requests",
                after.0
            );
            wait(Duration::from_millis(10))?;
        }
        bail!("no answer within the window, but one later: too short, or the cores were not ours");
    }
    let mut figures = Figures::from([
        (Metric::Bytes, bytes as f64 / seconds),
        (Metric::Rss, machine::resident(order.server_pid)? as f64),
    ]);
    if requests > 0 {
        figures.insert(Metric::Rate, requests as f64 / seconds);
        figures.insert(Metric::Cpu, cpu_seconds * 1e6 / requests as f64);
    }
    if let Some((p50, p99)) = meter.percentiles() {
        figures.extend([(Metric::P50, p50), (Metric::P99, p99)]);
    }
    Ok(figures)
}

/// Runs `work` as a task of a new runtime, so that it is on a worker and not on
/// the thread that waits for it.
fn block_on(kind: Runtime, work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    let mut builder = match kind {
        Runtime::MultiThread => tokio::runtime::Builder::new_multi_thread(),
        Runtime::CurrentThread | Runtime::BusyPolled => {
            tokio::runtime::Builder::new_current_thread()
        }
    };
    let runtime = builder.worker_threads(1).enable_all().build()?;
    runtime.block_on(async move {
        if kind == Runtime::BusyPolled {
            tokio::spawn(async {
                loop {
                    tokio::task::yield_now().await;
                }
            });
        }
        tokio::spawn(work).await?
    })
}
